//! A TCP proxy in front of a server: forwards, loses answers, or refuses. Threads, of no runtime.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

/// What the proxy does with what comes by.
#[derive(Clone, Debug, PartialEq)]
enum Mode {
    /// Both ways.
    Forward,
    /// Requests reach the server, answers are lost: from the first request on that holds these bytes.
    LoseAnswersFrom(Vec<u8>),
    /// Answers are lost.
    LoseAnswers,
    /// Connections are cut.
    Cut,
}

/// The proxy; its threads end with the connections.
pub(crate) struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    mode: Mutex<Mode>,
    /// Sockets of open connections, to be cut.
    open: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
    /// Connections of an earlier generation are dead.
    generation: AtomicU64,
}

impl Shared {
    fn mode(&self) -> Mode {
        self.mode.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap_or_else(PoisonError::into_inner) = mode;
    }

    fn cut(&self) {
        for socket in self.open.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // It may be closed already.
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Proxy {
    /// A proxy on a port of its own.
    pub(crate) fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let addr = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Forward),
            open: Mutex::default(),
            ended: AtomicBool::new(false),
            generation: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.ended.load(Ordering::SeqCst) {
                    return;
                }
                if accepting.mode() == Mode::Cut {
                    continue;
                }
                let Ok(upstream) = TcpStream::connect(server) else { continue };
                join(&accepting, client, upstream);
            }
        });
        Self { addr, shared }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Forwards again. Connections that lost something are cut: they are of no use.
    pub(crate) fn forward(&self) {
        self.shared.cut();
        self.shared.set(Mode::Forward);
    }

    /// Loses every answer from now on.
    pub(crate) fn lose_answers(&self) {
        self.shared.set(Mode::LoseAnswers);
    }

    /// Loses every answer once a request has come by that holds `bytes`.
    pub(crate) fn lose_answers_from(&self, bytes: &str) {
        self.shared.set(Mode::LoseAnswersFrom(bytes.as_bytes().to_vec()));
    }

    /// Connections that are open now go dead: nothing passes, nothing closes. New ones are forwarded.
    pub(crate) fn kill_open_connections_silently(&self) {
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Cuts what is open, and whatever comes.
    pub(crate) fn cut(&self) {
        self.shared.set(Mode::Cut);
        self.shared.cut();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.cut();
        // Wakes the listener, which then sees that it is over.
        let _ = TcpStream::connect(self.addr);
    }
}

fn join(shared: &Arc<Shared>, client: TcpStream, upstream: TcpStream) {
    {
        let mut open = shared.open.lock().unwrap_or_else(PoisonError::into_inner);
        for socket in [&client, &upstream] {
            socket.set_nodelay(true).expect("an open socket");
            open.push(socket.try_clone().expect("a file descriptor"));
        }
    }
    let (client_in, upstream_in) = (client.try_clone().expect("an fd"), upstream.try_clone().expect("an fd"));
    let born = shared.generation.load(Ordering::SeqCst);
    let requests = Arc::clone(shared);
    thread::spawn(move || {
        pump(client_in, upstream, |bytes| {
            if let Mode::LoseAnswersFrom(sought) = requests.mode()
                && bytes.windows(sought.len()).any(|window| window == sought)
            {
                requests.set(Mode::LoseAnswers);
            }
            requests.generation.load(Ordering::SeqCst) == born
        });
    });
    let answers = Arc::clone(shared);
    thread::spawn(move || {
        pump(upstream_in, client, |_| {
            answers.mode() != Mode::LoseAnswers && answers.generation.load(Ordering::SeqCst) == born
        });
    });
}

/// Copies until one side closes; `pass` decides on each piece.
fn pump(mut from: TcpStream, mut to: TcpStream, mut pass: impl FnMut(&[u8]) -> bool) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read) = from.read(&mut buffer) {
        if read == 0 || (pass(&buffer[..read]) && to.write_all(&buffer[..read]).is_err()) {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
