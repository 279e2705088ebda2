//! etcd processes: started, killed, frozen, asked for their counters. Blocking, of no runtime.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Mutex, OnceLock},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How often is looked, and how often at most: 30 s.
const LOOK: Duration = Duration::from_millis(20);
const LOOKS: u32 = 1_500;

/// Starts the server, tells its pid, and kills it when our end of the pipe closes: also when the tests are killed.
const WATCHED: &str = r#"log=$1; shift; "$@" >>"$log" 2>&1 </dev/null & echo $!; read _; kill -KILL $! 2>/dev/null"#;

/// The binary, or instructions.
fn binary() -> PathBuf {
    if let Some(set) = std::env::var_os("ETCD_BIN") {
        let path = PathBuf::from(set);
        assert!(path.is_file(), "ETCD_BIN names {}, which is no file", path.display());
        return path;
    }
    let on_path = std::env::var_os("PATH")
        .and_then(|path| std::env::split_paths(&path).map(|dir| dir.join("etcd")).find(|file| file.is_file()));
    on_path.unwrap_or_else(|| {
        panic!(
            "no etcd: set ETCD_BIN or put etcd 3.5 on PATH; `eval \"$(cargo xtask servers)\"` gets one and sets ETCD_BIN"
        )
    })
}

/// Waits until `check` holds.
pub(crate) fn wait_for(what: &str, mut check: impl FnMut() -> bool) {
    for _ in 0..LOOKS {
        if check() {
            return;
        }
        thread::sleep(LOOK);
    }
    panic!("waited 30 s in vain for: {what}");
}

/// One etcd. Stops and leaves nothing when dropped.
pub(crate) struct Etcd {
    dir: TempDir,
    args: Vec<String>,
    port: u16,
    scheme: &'static str,
    metrics_port: Option<u16>,
    running: Mutex<Option<Running>>,
}

struct Running {
    pid: Pid,
    shell: Child,
    /// Closing it kills the server.
    _leash: ChildStdin,
}

impl Etcd {
    /// One member with fast timing: leases of a second are granted as asked.
    pub(crate) fn single() -> Self {
        Self::single_with(&["--heartbeat-interval=20", "--election-timeout=100", "--bcrypt-cost=4"])
    }

    /// One member with these arguments besides the usual ones.
    pub(crate) fn single_with(extra: &[&str]) -> Self {
        for _ in 0..5 {
            let [port, peer] = free_ports();
            let etcd = Self::member("n1", port, peer, &format!("n1=http://127.0.0.1:{peer}"), extra);
            etcd.spawn();
            if etcd.came_up() {
                return etcd;
            }
        }
        panic!("etcd does not start; its log:\n{}", "see the temporary directory of the last attempt");
    }

    /// One member that speaks TLS to its clients; its counters are at a plain port.
    pub(crate) fn single_tls(args: &[String]) -> Self {
        let [metrics] = free_ports();
        let metrics_url = format!("--listen-metrics-urls=http://127.0.0.1:{metrics}");
        for _ in 0..5 {
            let [port, peer] = free_ports();
            let mut etcd = Self::member("n1", port, peer, &format!("n1=http://127.0.0.1:{peer}"), &[&metrics_url]);
            for arg in &mut etcd.args {
                if arg.contains("client-urls") {
                    *arg = arg.replace("http://", "https://");
                }
            }
            etcd.args.extend_from_slice(args);
            etcd.scheme = "https";
            etcd.metrics_port = Some(metrics);
            etcd.spawn();
            if etcd.came_up() {
                return etcd;
            }
        }
        panic!("etcd does not start with TLS");
    }

    fn member(name: &str, port: u16, peer: u16, cluster: &str, extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut args: Vec<String> = vec![
            format!("--name={name}"),
            format!("--data-dir={}", dir.path().join("data").display()),
            format!("--listen-client-urls=http://127.0.0.1:{port}"),
            format!("--advertise-client-urls=http://127.0.0.1:{port}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-cluster={cluster}"),
            "--log-level=warn".to_owned(),
        ];
        args.extend(extra.iter().map(ToString::to_string));
        Self { dir, args, port, scheme: "http", metrics_port: None, running: Mutex::new(None) }
    }

    /// Starts the process; does not wait until it answers.
    pub(crate) fn spawn(&self) {
        let mut shell = Command::new("sh")
            .args(["-c", WATCHED, "watched"])
            .arg(self.dir.path().join("log"))
            .arg(binary())
            .args(&self.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh starts");
        let leash = shell.stdin.take().expect("piped");
        let mut line = String::new();
        BufReader::new(shell.stdout.take().expect("piped")).read_line(&mut line).expect("the shell tells the pid");
        let pid = Pid::from_raw(line.trim().parse().expect("a pid")).expect("not 0");
        *self.lock() = Some(Running { pid, shell, _leash: leash });
    }

    /// Starts it and waits until it answers.
    pub(crate) fn start(&self) {
        for _ in 0..5 {
            self.spawn();
            if self.came_up() {
                return;
            }
            // Someone may hold its port for a moment.
            self.kill();
            thread::sleep(LOOK);
        }
        panic!("etcd does not come up again:\n{}", self.log());
    }

    fn came_up(&self) -> bool {
        for _ in 0..LOOKS {
            if self.healthy() {
                return true;
            }
            if self.state().is_none_or(|state| state == 'Z') {
                return false;
            }
            thread::sleep(LOOK);
        }
        panic!("etcd runs, but is not healthy:\n{}", self.log());
    }

    pub(crate) fn healthy(&self) -> bool {
        self.http("/health").is_some_and(|body| body.contains("\"health\":\"true\""))
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill(&self) {
        let Some(mut running) = self.lock().take() else { return };
        // It may be gone already.
        let _ = kill_process(running.pid, Signal::KILL);
        drop(running._leash);
        running.shell.wait().expect("the shell ends with its server");
    }

    /// SIGSTOP, and waits until every thread has stopped: the signal returns before.
    pub(crate) fn freeze(&self) {
        kill_process(self.pid(), Signal::STOP).expect("it runs");
        wait_for("every thread to stop", || {
            let tasks = fs::read_dir(format!("/proc/{}/task", self.pid().as_raw_nonzero())).expect("it runs");
            tasks.flatten().all(|task| state(&task.path().join("stat")) == Some('T'))
        });
    }

    pub(crate) fn thaw(&self) {
        kill_process(self.pid(), Signal::CONT).expect("it runs");
    }

    /// Removes all data; the process must not run.
    pub(crate) fn wipe(&self) {
        assert!(self.lock().is_none(), "killed first");
        fs::remove_dir_all(self.data()).expect("its data");
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.port)
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// Whether it leads its cluster.
    pub(crate) fn leads(&self) -> bool {
        self.counter("etcd_server_is_leader") == Some(1)
    }

    fn counter(&self, name: &str) -> Option<u64> {
        let text = self.http("/metrics")?;
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    /// Requests that the server has begun to handle so far, by method.
    pub(crate) fn requests(&self) -> BTreeMap<String, u64> {
        self.by_method("grpc_server_started_total{")
    }

    /// What the server was told so far on streams and in requests, by method.
    pub(crate) fn messages(&self) -> BTreeMap<String, u64> {
        self.by_method("grpc_server_msg_received_total{")
    }

    fn by_method(&self, metric: &str) -> BTreeMap<String, u64> {
        let text = self.http("/metrics").expect("metrics");
        let mut requests = BTreeMap::new();
        for line in text.lines().filter(|line| line.starts_with(metric)) {
            let method = line.split("grpc_method=\"").nth(1).and_then(|rest| rest.split('"').next());
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok());
            if let (Some(method), Some(count)) = (method, count) {
                *requests.entry(method.to_owned()).or_default() += count as u64;
            }
        }
        assert!(!requests.is_empty(), "etcd counts no requests");
        requests
    }

    fn http(&self, path: &str) -> Option<String> {
        let port = self.metrics_port.unwrap_or(self.port);
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    fn pid(&self) -> Pid {
        self.lock().as_ref().expect("it runs").pid
    }

    fn state(&self) -> Option<char> {
        state(Path::new(&format!("/proc/{}/stat", self.pid().as_raw_nonzero())))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The state letter of a process or thread; it follows the name, which stands in parentheses.
fn state(stat: &Path) -> Option<char> {
    fs::read_to_string(stat).ok()?.rsplit(')').next()?.trim().chars().next()
}

/// Ports that are free now, below those that the kernel gives to outgoing connections: a server that was killed
/// must find its port free again.
fn free_ports<const N: usize>() -> [u16; N] {
    let held = [(); N].map(|()| {
        (0..1_000)
            .find_map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, rand::random_range(10_000..32_000))).ok())
            .expect("one of a thousand ports is free")
    });
    held.map(|listener| listener.local_addr().expect("bound").port())
}

/// Three members.
pub(crate) struct Cluster {
    pub(crate) members: Vec<Etcd>,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        for _ in 0..5 {
            let ports: [u16; 6] = free_ports();
            let names: Vec<String> = (0..3).map(|n| format!("n{n}=http://127.0.0.1:{}", ports[3 + n])).collect();
            let extra = ["--heartbeat-interval=50", "--election-timeout=500", "--initial-cluster-token=fresh"];
            let members: Vec<Etcd> = (0..3)
                .map(|n| Etcd::member(&format!("n{n}"), ports[n], ports[3 + n], &names.join(","), &extra))
                .collect();
            members.iter().for_each(Etcd::spawn);
            if members.iter().all(Etcd::came_up) {
                return Self { members };
            }
        }
        panic!("three members of etcd do not start");
    }

    pub(crate) fn urls(&self) -> Vec<String> {
        self.members.iter().map(Etcd::url).collect()
    }

    /// Which member leads.
    pub(crate) fn leader(&self) -> usize {
        let mut leader = None;
        wait_for("a leader", || {
            leader = self.members.iter().position(Etcd::leads);
            leader.is_some()
        });
        leader.expect("found")
    }
}

/// A server for tests that share: it ends with this process.
pub(crate) fn shared_single() -> &'static Etcd {
    static SHARED: OnceLock<Etcd> = OnceLock::new();
    SHARED.get_or_init(Etcd::single)
}

/// Three members for tests that share: they end with this process.
pub(crate) fn shared_cluster() -> &'static Cluster {
    static SHARED: OnceLock<Cluster> = OnceLock::new();
    SHARED.get_or_init(Cluster::start)
}
