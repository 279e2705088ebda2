//! Floor 1: length, number and payload over TCP. Askers wait on a oneshot; the server answers from its read loop.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
};

use crate::{COUNT, Client};

type Out = (Bytes, Option<oneshot::Sender<Bytes>>);

#[derive(Clone)]
pub(crate) struct Raw(mpsc::Sender<Out>);

#[derive(Default)]
pub(crate) struct Askers {
    pub(crate) slots: Vec<Option<oneshot::Sender<Bytes>>>,
    pub(crate) free: Vec<usize>,
}

impl Askers {
    pub(crate) fn insert(&mut self, asker: oneshot::Sender<Bytes>) -> u64 {
        match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(asker);
                slot as u64 + 1
            }
            None => {
                self.slots.push(Some(asker));
                self.slots.len() as u64
            }
        }
    }

    pub(crate) fn remove(&mut self, number: u64) -> Option<oneshot::Sender<Bytes>> {
        let slot = number as usize - 1;
        self.free.push(slot);
        self.slots[slot].take()
    }
}

impl Client for Raw {
    async fn ask(&self, payload: Bytes) -> Bytes {
        let (tx, rx) = oneshot::channel();
        self.0.send((payload, Some(tx))).await.expect("open");
        rx.await.expect("answered")
    }

    async fn tell(&self, payload: Bytes) {
        self.0.send((payload, None)).await.expect("open");
    }
}

fn frame(buf: &mut BytesMut, number: u64, payload: &[u8]) {
    buf.put_u32(payload.len() as u32);
    buf.put_u64(number);
    buf.put_slice(payload);
}

fn parse(buf: &mut BytesMut) -> Option<(u64, Bytes)> {
    if buf.len() < 12 {
        return None;
    }
    let len = u32::from_be_bytes(buf[..4].try_into().expect("4")) as usize;
    if buf.len() < 12 + len {
        buf.reserve(12 + len - buf.len());
        return None;
    }
    buf.advance(4);
    let number = buf.get_u64();
    Some((number, buf.split_to(len).freeze()))
}

pub(crate) async fn connect(address: &str) -> Raw {
    let stream = TcpStream::connect(address).await.expect("connects");
    stream.set_nodelay(true).expect("nodelay");
    let (mut read, mut write) = stream.into_split();
    let (tx, mut rx) = mpsc::channel::<Out>(8192);
    let askers = Arc::new(Mutex::new(Askers::default()));
    tokio::spawn({
        let askers = Arc::clone(&askers);
        async move {
            let mut taken = Vec::new();
            let mut buf = BytesMut::with_capacity(64 << 10);
            while rx.recv_many(&mut taken, 256).await > 0 {
                {
                    let mut askers = askers.lock();
                    for (payload, asker) in taken.drain(..) {
                        let number = asker.map_or(0, |asker| askers.insert(asker));
                        frame(&mut buf, number, &payload);
                    }
                }
                write.write_all(&buf).await.expect("writes");
                buf.clear();
            }
        }
    });
    tokio::spawn(async move {
        let mut buf = BytesMut::with_capacity(256 << 10);
        loop {
            buf.reserve(64 << 10);
            if read.read_buf(&mut buf).await.unwrap_or(0) == 0 {
                return;
            }
            while let Some((number, payload)) = parse(&mut buf) {
                if let Some(asker) = askers.lock().remove(number) {
                    let _ = asker.send(payload);
                }
            }
        }
    });
    Raw(tx)
}

pub(crate) async fn serve() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    println!("{}", listener.local_addr().expect("bound"));
    loop {
        let (mut stream, _) = listener.accept().await.expect("accepts");
        stream.set_nodelay(true).expect("nodelay");
        tokio::spawn(async move {
            let (mut buf, mut out) = (BytesMut::with_capacity(256 << 10), BytesMut::with_capacity(64 << 10));
            let mut tells = 0u64;
            loop {
                buf.reserve(64 << 10);
                if stream.read_buf(&mut buf).await.unwrap_or(0) == 0 {
                    return;
                }
                while let Some((number, payload)) = parse(&mut buf) {
                    match (number, &payload[..]) {
                        (0, _) => tells += 1,
                        (number, [COUNT]) => frame(&mut out, number, &tells.to_be_bytes()),
                        (number, payload) => frame(&mut out, number, payload),
                    }
                }
                if !out.is_empty() {
                    stream.write_all(&out).await.expect("writes");
                    out.clear();
                }
            }
        });
    }
}
