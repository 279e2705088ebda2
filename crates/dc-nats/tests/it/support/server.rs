//! Real nats-servers of our own: started, killed, frozen, started again.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use dc_core::{Clock, SystemClock};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// One server process, with its data. Killed when dropped, or when the test process ends in whatever way.
#[derive(Debug)]
pub(crate) struct Server {
    dir: TempDir,
    port: u16,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    /// A shell that kills the server when its standard input ends, which happens when we do.
    shell: Child,
    server: Pid,
}

impl Server {
    /// A single server with JetStream and these further lines of configuration.
    pub(crate) fn start(further: &str) -> Self {
        let mut server = Self { dir: data_dir(), port: 0, running: None };
        server.configure(further);
        server.start_again();
        server
    }

    /// Sets what holds from the next start on.
    pub(crate) fn configure(&self, further: &str) {
        let data = self.dir.path().join("data");
        let config = format!("jetstream {{ store_dir: {:?} }}\n{further}\n", data.to_string_lossy());
        fs::write(self.dir.path().join("nats.conf"), config).expect("a writable temporary directory");
    }

    /// Starts the server, at the port that it had, if any, with the data that is there.
    pub(crate) fn start_again(&mut self) {
        assert!(self.running.is_none(), "the server runs");
        if self.port == 0 {
            self.port = free_port();
        }
        // Another process may hold the port for a moment: as the near end of a connection of its own.
        wait("the server to start", || {
            self.spawn();
            let up = self.is_up();
            if !up {
                self.kill();
            }
            up.then_some(())
        });
    }

    fn spawn(&mut self) {
        let dir = self.dir.path();
        let mut shell = Command::new("sh")
            .args(["-c", r#""$@" </dev/null >/dev/null 2>&1 & echo $!; read _; kill -9 $! 2>/dev/null"#, "sh"])
            .arg(binary())
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-c"])
            .arg(dir.join("nats.conf"))
            .arg("-l")
            .arg(dir.join("log"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut pid = String::new();
        let output = shell.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut pid).expect("the shell tells the server's pid");
        let server = Pid::from_raw(pid.trim().parse().expect("a pid")).expect("a pid");
        self.running = Some(Running { shell, server });
    }

    /// Waits for the server to greet; false where it ended instead. Panics where its configuration is at fault.
    fn is_up(&self) -> bool {
        let server = self.running.as_ref().expect("just started").server.as_raw_nonzero().get();
        wait("the server to answer", || {
            if state(server).is_none_or(|state| state == 'Z') {
                let log = self.log();
                assert!(log.trim_end().ends_with("address already in use"), "nats-server ended: {log}");
                return Some(false);
            }
            let mut greeting = [0; 4];
            let mut stream = TcpStream::connect(self.address()).ok()?;
            stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
            stream.read_exact(&mut greeting).ok()?;
            (&greeting == b"INFO").then_some(true)
        })
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    pub(crate) fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Kills the server, as a power cut of the machine would, but for the page cache.
    pub(crate) fn kill(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        // It may have ended by itself.
        let _ = kill_process(running.server, Signal::KILL);
        drop(running.shell.stdin.take());
        running.shell.wait().expect("our own child");
    }

    /// Removes what the server has stored. It must not be running.
    pub(crate) fn wipe(&self) {
        assert!(!self.is_running());
        fs::remove_dir_all(self.dir.path().join("data")).expect("our own directory");
    }

    /// Keeps a copy of what is stored, to go back to. The server must not be running.
    pub(crate) fn copy_data(&self, from: &str, to: &str) {
        assert!(!self.is_running());
        let (from, to) = (self.dir.path().join(from), self.dir.path().join(to));
        if to.exists() {
            fs::remove_dir_all(&to).expect("our own directory");
        }
        let done = Command::new("cp").arg("-a").args([from, to]).status().expect("cp");
        assert!(done.success());
    }

    /// Freezes the process; returns once each of its threads has stopped.
    pub(crate) fn freeze(&self) {
        let server = self.running.as_ref().expect("running").server;
        kill_process(server, Signal::STOP).expect("our own process");
        wait("the server to stop", || all_stopped(server.as_raw_nonzero().get()).then_some(()));
    }

    pub(crate) fn unfreeze(&self) {
        let server = self.running.as_ref().expect("running").server;
        kill_process(server, Signal::CONT).expect("our own process");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Three servers that form a cluster.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let routes: Vec<u16> = (0..3).map(|_| free_port()).collect();
        let urls: Vec<_> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let mut servers: Vec<_> = (0..3).map(|_| Server { dir: data_dir(), port: 0, running: None }).collect();
        for (n, server) in servers.iter_mut().enumerate() {
            let mut config = format!("server_name: n{n}\n");
            // Clients are told of no other addresses: they are to go through the tests' proxies.
            let _ = write!(
                config,
                "cluster {{ name: test, listen: 127.0.0.1:{}, no_advertise: true, routes: [{}] }}",
                routes[n],
                urls.join(", ")
            );
            server.configure(&config);
            server.start_again();
        }
        Self { servers }
    }

    pub(crate) fn urls(&self) -> String {
        self.servers.iter().map(Server::url).collect::<Vec<_>>().join(",")
    }

    /// The server of this name (`n0` ..).
    pub(crate) fn named(&mut self, name: &str) -> &mut Server {
        let n: usize = name.strip_prefix('n').and_then(|n| n.parse().ok()).expect("a name of ours");
        &mut self.servers[n]
    }
}

fn data_dir() -> TempDir {
    tempfile::Builder::new().prefix("dc-nats-").tempdir().expect("a writable temporary directory")
}

/// A free port below those that the system gives out by itself, so that it is still free after a restart.
fn free_port() -> u16 {
    wait("a free port", || {
        let port = rand::random_range(16_000..32_000);
        TcpListener::bind(("127.0.0.1", port)).ok().map(|_| port)
    })
}

/// The server's binary; new enough.
fn binary() -> PathBuf {
    const HOW: &str = "set NATS_SERVER_BIN to a nats-server of version 2.11 or newer, or put one on PATH \
                       (`cargo xtask servers` fetches one and prints where)";
    let binary = std::env::var_os("NATS_SERVER_BIN").map_or_else(|| PathBuf::from("nats-server"), PathBuf::from);
    let output = Command::new(&binary).arg("--version").output();
    let output = output.unwrap_or_else(|err| panic!("cannot run {}: {err}; {HOW}", binary.display()));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let version = text.rsplit('v').next().unwrap_or_default().trim().to_owned();
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or_default());
    let version = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    assert!(version >= (2, 11), "{} is {text}; {HOW}", binary.display());
    binary
}

fn wait<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let start = SystemClock.now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(SystemClock.now() - start < Duration::from_secs(20), "waited in vain for {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// The state letter of a process or thread, as `/proc` tells it.
fn state_of(stat: &Path) -> Option<char> {
    fs::read_to_string(stat).ok()?.rsplit_once(") ")?.1.chars().next()
}

fn state(pid: i32) -> Option<char> {
    state_of(Path::new(&format!("/proc/{pid}/stat")))
}

fn all_stopped(pid: i32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    threads.flatten().all(|thread| state_of(&thread.path().join("stat")).is_none_or(|state| state == 'T'))
}
