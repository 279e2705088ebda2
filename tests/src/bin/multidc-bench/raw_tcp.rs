//! The first floor: length-prefixed frames on a bare TCP connection.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, BufReader, BufWriter},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

/// A frame of this length is an order: answer with the number of frames seen.
const COUNT: u32 = 0;
/// Set in the length of a frame that wants no answer.
const ONE_WAY: u32 = 1 << 31;

pub(crate) async fn serve() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    Ok(addr)
}

type Halves = (BufReader<OwnedReadHalf>, BufWriter<OwnedWriteHalf>);

fn halves(stream: TcpStream) -> std::io::Result<Halves> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    Ok((BufReader::with_capacity(128 * 1024, read), BufWriter::with_capacity(128 * 1024, write)))
}

async fn echo(stream: TcpStream) -> anyhow::Result<()> {
    let (mut read, mut write) = halves(stream)?;
    let mut frame = Vec::new();
    let mut seen = 0_u64;
    loop {
        let head = read.read_u32().await?;
        if head == COUNT {
            write.write_u64(seen).await?;
        } else {
            seen += 1;
            frame.resize((head & !ONE_WAY) as usize, 0);
            read.read_exact(&mut frame).await?;
            if head & ONE_WAY == 0 {
                write.write_u32(head).await?;
                write.write_all(&frame).await?;
            }
        }
        if read.buffer().is_empty() {
            write.flush().await?;
        }
    }
}

/// Asks a second with `in_flight` at once, and the times of single asks where one is in flight.
pub(crate) async fn asks(
    addr: SocketAddr,
    size: usize,
    in_flight: usize,
    time: Duration,
) -> anyhow::Result<(f64, Vec<Duration>)> {
    let (mut read, mut write) = halves(TcpStream::connect(addr).await?)?;
    let payload = vec![7; size];
    let mut frame = vec![0; size];
    let mut samples = Vec::new();
    let start = Instant::now();
    let mut sent = Instant::now();
    for _ in 0..in_flight {
        write.write_u32(size as u32).await?;
        write.write_all(&payload).await?;
    }
    write.flush().await?;
    let mut done = 0_u64;
    while start.elapsed() < time {
        read.read_u32().await?;
        read.read_exact(&mut frame).await?;
        done += 1;
        if in_flight == 1 {
            samples.push(sent.elapsed());
            sent = Instant::now();
        }
        write.write_u32(size as u32).await?;
        write.write_all(&payload).await?;
        if read.buffer().is_empty() {
            write.flush().await?;
        }
    }
    Ok((done as f64 / start.elapsed().as_secs_f64(), samples))
}

/// Messages a second, one way, counted when the far end has them.
pub(crate) async fn one_way(addr: SocketAddr, size: usize, time: Duration) -> anyhow::Result<f64> {
    let (mut read, mut write) = halves(TcpStream::connect(addr).await?)?;
    let payload = vec![7; size];
    let start = Instant::now();
    while start.elapsed() < time {
        for _ in 0..64 {
            write.write_u32(size as u32 | ONE_WAY).await?;
            write.write_all(&payload).await?;
        }
    }
    write.write_u32(COUNT).await?;
    write.flush().await?;
    let seen = read.read_u64().await?;
    Ok(seen as f64 / start.elapsed().as_secs_f64())
}
