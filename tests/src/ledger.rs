//! The log that fences ([`multidc_ledger`]), within reach of other processes.
//!
//! Reading order: [`Ledger`] (the log, behind a port), [`Client`] (a node's way to it), [`Ledger::check`].

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use dc_core::{Clock, SystemClock};
pub use multidc_ledger::{Acknowledged, By, Entry, Found, Log, Reason, Verdict, Want, check};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

/// The log. Dropped, nobody can write to it any more.
#[derive(Debug)]
pub struct Ledger {
    addr: SocketAddr,
    started: Instant,
    state: Arc<Mutex<Log>>,
    task: JoinHandle<()>,
}

impl Drop for Ledger {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Ledger {
    /// Listens on loopback.
    ///
    /// # Errors
    ///
    /// No port can be bound.
    pub async fn start() -> std::io::Result<Self> {
        Self::start_at(Ipv4Addr::LOCALHOST).await
    }

    /// Listens at this address.
    ///
    /// # Errors
    ///
    /// No port can be bound.
    pub async fn start_at(address: Ipv4Addr) -> std::io::Result<Self> {
        let listener = TcpListener::bind((address, 0)).await?;
        let (addr, started, state) = (listener.local_addr()?, SystemClock.now(), Arc::<Mutex<Log>>::default());
        let task = tokio::spawn({
            let state = state.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, started, state.clone()));
                }
            }
        });
        Ok(Self { addr, started, state, task })
    }

    /// Where nodes find it.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Time since its start, as in its entries.
    pub fn now(&self) -> Duration {
        SystemClock.now() - self.started
    }

    /// All that was asked of it, in order.
    pub fn entries(&self) -> Vec<Entry> {
        self.state.lock().entries().to_vec()
    }

    /// What was asked of it later than that, in order.
    pub fn entries_since(&self, since: Duration) -> Vec<Entry> {
        self.state.lock().entries_since(since).to_vec()
    }

    /// The highest epoch of an identity, who has it, and the count.
    pub fn head(&self, identity: &str) -> Option<(By, u64)> {
        self.state.lock().head(identity)
    }

    /// Checks the whole log against what clients were told: see [`check`].
    ///
    /// # Errors
    ///
    /// As [`check`].
    pub fn check(&self, acknowledged: &[Acknowledged]) -> anyhow::Result<Found> {
        check(self.state.lock().entries(), acknowledged)
    }
}

async fn serve(stream: TcpStream, started: Instant, state: Arc<Mutex<Log>>) {
    // Without it each answer may wait for an acknowledgement.
    let _ = stream.set_nodelay(true);
    let (from, mut to) = stream.into_split();
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok((by, want)) = serde_json::from_str::<(By, Want)>(&line) else { return };
        let verdict = {
            let mut state = state.lock();
            let at = SystemClock.now() - started;
            state.ask(at, by, want)
        };
        // Plain data: JSON takes it.
        let mut answer = serde_json::to_vec(&verdict).unwrap_or_default();
        answer.push(b'\n');
        if to.write_all(&answer).await.is_err() {
            return;
        }
    }
}

type Asked = (By, Want, oneshot::Sender<Verdict>);

/// A node's way to the log: one connection for all its actors, which no actor's end cuts in the middle of a line.
#[derive(Clone, Debug)]
pub struct Client(mpsc::Sender<Asked>);

impl Client {
    /// Connects when there is something to say. Must be called within a runtime.
    pub fn new(addr: SocketAddr) -> Self {
        let (asks, asked) = mpsc::channel(1024);
        tokio::spawn(talk(addr, asked));
        Self(asks)
    }

    /// Asks the log. Cancel-safe: what was asked is asked all the same.
    ///
    /// # Errors
    ///
    /// It cannot be reached; it may have been written.
    pub async fn ask(&self, by: By, want: Want) -> Result<Verdict, String> {
        let (answer, answered) = oneshot::channel();
        self.0.send((by, want, answer)).await.map_err(|_| "the way to the log has ended".to_owned())?;
        answered.await.map_err(|_| "the log does not answer".to_owned())
    }
}

async fn talk(addr: SocketAddr, mut asked: mpsc::Receiver<Asked>) {
    let mut first = asked.recv().await;
    while let Some(ask) = first.take() {
        // Those that are not answered when the connection ends are told so by the end of their answers.
        first = match TcpStream::connect(addr).await {
            Ok(stream) => converse(stream, ask, &mut asked).await,
            Err(_) => asked.recv().await,
        };
    }
}

/// Many under way at once, answered in order. Ends with the connection, and gives what is to be asked on the next one.
async fn converse(stream: TcpStream, first: Asked, asked: &mut mpsc::Receiver<Asked>) -> Option<Asked> {
    let _ = stream.set_nodelay(true);
    let (from, mut to) = stream.into_split();
    let (waiting, mut answers) = mpsc::unbounded_channel::<oneshot::Sender<Verdict>>();
    let mut reading = tokio::spawn(async move {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let (Ok(verdict), Ok(answer)) = (serde_json::from_str(&line), answers.try_recv()) else { return };
            let _ = answer.send(verdict);
        }
    });
    let mut next = Some(first);
    while let Some((by, want, answer)) = next.take() {
        // Plain data: JSON takes it.
        let mut text = serde_json::to_vec(&(by, want)).unwrap_or_default();
        text.push(b'\n');
        let _ = waiting.send(answer);
        if to.write_all(&text).await.is_err() {
            reading.abort();
            return asked.recv().await;
        }
        next = tokio::select! {
            ask = asked.recv() => ask,
            _ = &mut reading => return asked.recv().await,
        };
    }
    // Nobody asks any more, and nobody waits.
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(epoch: u64, pid: u32) -> By {
        By { identity: "counter/x".into(), epoch, activation: u64::from(pid), pid, dc: "dc-1".into() }
    }

    fn add(op: &str) -> Want {
        Want::Add(op.into())
    }

    #[tokio::test]
    async fn g2_the_log_refuses_lower_epochs_and_who_has_not_presented_its_own() {
        let ledger = Ledger::start().await.expect("a port");
        let client = Client::new(ledger.addr());
        let ask = async |epoch, pid, want| client.ask(by(epoch, pid), want).await.expect("answers");
        let refused = |reason| Verdict::Refused(reason);
        assert_eq!(ask(5, 1, add("early")).await, refused(Reason::NotOpened));
        assert_eq!(ask(5, 1, Want::Open).await, Verdict::Accepted(0));
        assert_eq!(ask(5, 1, add("a")).await, Verdict::Accepted(1));
        assert_eq!(ask(5, 2, Want::Open).await, refused(Reason::SameEpoch));
        assert_eq!(ask(6, 2, add("b")).await, refused(Reason::NotOpened));
        assert_eq!(ask(6, 2, Want::Open).await, Verdict::Accepted(1));
        assert_eq!(ask(5, 1, add("late")).await, refused(Reason::LowerEpoch));
        let other = By { activation: 9, ..by(6, 2) };
        assert_eq!(client.ask(other, add("c")).await, Ok(refused(Reason::OldActivation)));
        assert_eq!(ledger.head("counter/x"), Some((by(6, 2), 1)));
        assert!(ledger.check(&[]).is_err_and(|error| error.to_string().contains("two processes")));
    }
}
