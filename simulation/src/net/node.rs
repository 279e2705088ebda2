//! The network as one node sees it: connections in the place of TCP, datagrams in the place of UDP.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use multidc::{Connection, DatagramTransport, Endpoint, Listener, Network};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, mpsc, oneshot},
};

use super::{Due, FlowId, Job, Load, Mailbox, Net, Place, Run, Socket, address};

/// Bytes under way in one direction of a connection before its writer has to wait.
const WINDOW: usize = 1 << 20;
/// Datagrams that wait for their reader at most.
const DATAGRAMS: usize = 4_096;

fn place_of(address: SocketAddr) -> io::Result<Place> {
    match address.ip() {
        IpAddr::V4(ip) if ip.octets()[..3] == [10, 0, 0] && ip.octets()[3] > 0 => Ok(usize::from(ip.octets()[3]) - 1),
        _ => Err(io::Error::new(io::ErrorKind::AddrNotAvailable, format!("{address} is not of this network"))),
    }
}

/// The network as one run of a node sees it.
#[derive(Clone, Debug)]
pub struct NodeNet {
    net: Net,
    run: Run,
}

#[async_trait]
impl Network for NodeNet {
    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let mut state = self.net.state.lock();
        if !state.alive(self.run) || place_of(address)? != self.run.place {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let (waiting, taken) = mpsc::unbounded_channel();
        state.sockets.insert(address, Socket { run: self.run, waiting });
        Ok(Box::new(Door { net: self.net.clone(), run: self.run, address, taken }))
    }

    async fn connect(&self, to: &Endpoint) -> io::Result<Box<dyn Connection>> {
        let address = to.socket_addr().ok_or(io::ErrorKind::AddrNotAvailable)?;
        let (answer, answered) = oneshot::channel();
        let (net, from) = (self.net.clone(), self.run);
        let there = self.net.run_at(place_of(address)?);
        self.net.knock(from, there, address, answer);
        match answered.await {
            Ok(true) => {}
            Ok(false) => return Err(io::ErrorKind::ConnectionRefused.into()),
            // Lost on its way: nobody ever answers. The caller bounds the time.
            Err(_) => return std::future::pending().await,
        }
        let stream = {
            let mut state = net.state.lock();
            let there = state.runs.get(&there.place).copied().filter(|run| *run == there);
            let there = there.ok_or(io::ErrorKind::ConnectionReset)?;
            let (out, back) = (state.new_flow(from, there), state.new_flow(there, from));
            let theirs = Stream { net: net.clone(), read: out, write: back };
            let Some(socket) = state.sockets.get(&address) else {
                drop(state);
                return Err(io::ErrorKind::ConnectionReset.into());
            };
            let mine = Stream { net: net.clone(), read: back, write: out };
            let given = socket.waiting.send((theirs, super::address(from.place)));
            drop(state);
            given.map_err(|_| io::ErrorKind::ConnectionReset)?;
            mine
        };
        Ok(Box::new(stream))
    }
}

impl Net {
    /// This network as one node sees it.
    pub fn of(&self, run: Run) -> NodeNet {
        NodeNet { net: self.clone(), run }
    }

    /// Asks for a connection. The answer is dropped where nobody answers.
    fn knock(&self, from: Run, there: Run, address: SocketAddr, answer: oneshot::Sender<bool>) {
        let net = self.clone();
        // A place without anybody refuses, unless its machine is gone: the kernel answers there.
        let mut state = self.state.lock();
        let delay = state.delay(from.place, there.place);
        let at = state.now + delay;
        let job = move || {
            let (takes, back) = {
                let mut state = net.state.lock();
                if state.cut.contains(&(from.place, there.place)) || state.silent.contains(&there.place) {
                    return;
                }
                let takes = state.alive(there) && state.sockets.contains_key(&address);
                (takes, state.delay(there.place, from.place))
            };
            let answer_net = net.clone();
            let mut state = net.state.lock();
            let at = state.now + back;
            let job: Job = Box::new(move || {
                let cut = answer_net.state.lock().cut.contains(&(there.place, from.place));
                if !cut {
                    // Who asked may have given up.
                    let _ = answer.send(takes);
                }
            });
            // The kernel answers, whoever runs there: as if it came from the asker itself.
            state.plan(at, Due::Job { from, to: from, job });
        };
        state.plan(at, Due::Job { from, to: from, job: Box::new(job) });
    }
}

struct Door {
    net: Net,
    run: Run,
    address: SocketAddr,
    taken: mpsc::UnboundedReceiver<(Stream, SocketAddr)>,
}

#[async_trait]
impl Listener for Door {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    async fn accept(&mut self) -> io::Result<(Box<dyn Connection>, SocketAddr)> {
        match self.taken.recv().await {
            Some((stream, from)) => Ok((Box::new(stream), from)),
            // The place has ended, and so will whoever waits here.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        let mut state = self.net.state.lock();
        if state.sockets.get(&self.address).is_some_and(|socket| socket.run == self.run) {
            let gone = state.sockets.remove(&self.address);
            drop(state);
            drop(gone);
        }
    }
}

/// One end of a connection.
pub struct Stream {
    net: Net,
    read: FlowId,
    write: FlowId,
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut state = self.net.state.lock();
        let Some(flow) = state.flows.get_mut(&self.read) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        if let Some(mut bytes) = flow.arrived.pop_front() {
            let part = bytes.len().min(buf.remaining());
            buf.put_slice(&bytes.split_to(part));
            if !bytes.is_empty() {
                flow.arrived.push_front(bytes);
            }
            flow.bytes -= part;
            if let Some(waker) = flow.writer.take() {
                waker.wake();
            }
            return Poll::Ready(Ok(()));
        }
        if flow.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if flow.ended {
            return Poll::Ready(Ok(()));
        }
        flow.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.net.state.lock();
        let Some(flow) = state.flows.get_mut(&self.write).filter(|flow| !flow.broken) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if flow.bytes >= WINDOW {
            flow.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        state.send(self.write, Load::Bytes(Bytes::copy_from_slice(buf)));
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.net.state.lock().send(self.write, Load::End);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut state = self.net.state.lock();
        state.send(self.write, Load::End);
        let gone = match state.flows.get_mut(&self.read) {
            // Both ends are gone.
            Some(flow) if flow.broken || flow.ended => state.flows.remove(&self.read),
            Some(flow) => {
                flow.reader_gone = true;
                flow.arrived.clear();
                flow.bytes = 0;
                None
            }
            None => None,
        };
        drop(state);
        drop(gone);
    }
}

impl NodeNet {
    /// The next datagram, or what tells of one.
    fn take_datagram(&self) -> Result<(Bytes, SocketAddr), Arc<Notify>> {
        let mut state = self.net.state.lock();
        if !state.alive(self.run) {
            return Err(Arc::default());
        }
        let run = self.run;
        let fresh = || Mailbox { run, datagrams: VecDeque::new(), notify: Arc::default() };
        let mailbox = state.boxes.entry(address(run.place)).or_insert_with(fresh);
        mailbox.datagrams.pop_front().ok_or_else(|| mailbox.notify.clone())
    }
}

#[async_trait]
impl DatagramTransport for NodeNet {
    async fn send_to(&self, datagram: &[u8], to: SocketAddr) -> io::Result<()> {
        let (net, from, there) = (self.net.clone(), address(self.run.place), self.net.run_at(place_of(to)?));
        let bytes = Bytes::copy_from_slice(datagram);
        self.net.send(self.run, there, move || {
            let mut state = net.state.lock();
            let Some(boxed) = state.boxes.get_mut(&to) else { return };
            if boxed.datagrams.len() < DATAGRAMS {
                boxed.datagrams.push_back((bytes, from));
                boxed.notify.notify_one();
            }
        });
        Ok(())
    }

    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let notify = match self.take_datagram() {
                Ok((bytes, from)) => {
                    let part = bytes.len().min(buffer.len());
                    buffer[..part].copy_from_slice(&bytes[..part]);
                    return Ok((part, from));
                }
                Err(notify) => notify,
            };
            notify.notified().await;
        }
    }
}
