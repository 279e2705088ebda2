//! The program with the accounts of `docs/stores.md`, made by the very snippets that stand there, on real servers: an
//! operator's day, and what these accounts are refused.

#[path = "../../dc-etcd/tests/it/server.rs"]
#[expect(dead_code, reason = "one server is enough here")]
mod etcd;
#[path = "../../dc-nats/tests/it/support/server.rs"]
#[expect(dead_code, reason = "one server is enough here")]
mod nats;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    process::{Child, ChildStdout, Command, Output, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

use data_encoding::BASE64;
use multidc::{
    ControlPlane, DataCenter, DataCenterRecord, DataCenterState, Epoch, Expected, IntentKind, NodeEndpoint, NodeId,
    Owner, StoreId, Version,
};
use serde_json::{Value, json};

const DOCS: &str = include_str!("../../../docs/stores.md");

/// How long is waited for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

fn snippet(mark: &str) -> &'static str {
    let start = DOCS.find(mark).expect("the snippet is in docs/stores.md");
    DOCS[start..].split("```").next().expect("not empty")
}

/// Where the store is, for each of the documented accounts.
struct Accounts {
    /// NATS only: whoever makes the bucket.
    setup: Option<String>,
    node: String,
    operator: String,
    nobody: String,
}

fn on_nats() -> (nats::Server, Accounts) {
    let server = nats::Server::start(snippet("# nats-rights\n"));
    let url = |user: &str, password: &str| {
        format!("nats://{user}:{password}@{}?inbox_prefix=_INBOX_{user}&request_timeout=3s", server.address())
    };
    let accounts = Accounts {
        setup: Some(url("setup", "change-me-0")),
        node: url("dc-1", "change-me-1"),
        operator: url("operator", "change-me-2"),
        nobody: url("operator", "s3cret"),
    };
    (server, accounts)
}

fn on_etcd() -> (etcd::Etcd, Accounts) {
    let server = etcd::Etcd::single();
    for line in snippet("# etcd-rights\n").lines().filter(|line| !line.starts_with('#')) {
        etcdctl(server.addr(), &line.split_whitespace().collect::<Vec<_>>());
    }
    let url = |user: &str, password: &str| format!("etcd://{user}:{password}@{}?request_timeout=3s", server.addr());
    let accounts = Accounts {
        setup: None,
        node: url("dc-1", "change-me-1"),
        operator: url("operator", "change-me-2"),
        nobody: url("operator", "s3cret"),
    };
    (server, accounts)
}

/// Does what `etcdctl` would, through etcd's own HTTP gateway: nothing but dc-etcd is to use its client.
fn etcdctl(server: SocketAddr, words: &[&str]) {
    let base64 = |bytes: &[u8]| BASE64.encode(bytes);
    let (path, body) = match words {
        [] => return,
        ["etcdctl", "role", "add", role] => ("role/add", json!({"name": role})),
        ["etcdctl", "role", "grant-permission", role, grant @ ..] => {
            let (prefix, [kind, key]) = match grant {
                ["--prefix=true", kind, key] => (true, [kind, key]),
                [kind, key] => (false, [kind, key]),
                other => panic!("a grant that this test cannot read: {other:?}"),
            };
            let mut permission = json!({"permType": kind.to_uppercase(), "key": base64(key.as_bytes())});
            if prefix {
                let mut end = key.as_bytes().to_vec();
                *end.last_mut().expect("a prefix") += 1;
                permission["range_end"] = base64(&end).into();
            }
            ("role/grant", json!({"name": role, "perm": permission}))
        }
        ["etcdctl", "user", "add", user] => {
            let (name, password) = user.split_once(':').expect("name:password");
            ("user/add", json!({"name": name, "password": password}))
        }
        ["etcdctl", "user", "grant-role", user, role] => ("user/grant", json!({"user": user, "role": role})),
        ["etcdctl", "auth", "enable"] => ("enable", json!({})),
        other => panic!("a line that this test cannot read: {other:?}"),
    };
    let (body, mut answer) = (body.to_string(), String::new());
    let mut stream = TcpStream::connect(server).expect("etcd listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a legal time");
    write!(stream, "POST /v3/auth/{path} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("sent");
    stream.read_to_string(&mut answer).expect("an answer");
    let done = answer.lines().next().is_some_and(|status| status.contains(" 200 "));
    assert!(done, "{words:?}: {answer}");
}

fn command(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dcctl"));
    command.args(args).env("MULTIDC_CONTROL_PLANE", url);
    command
}

fn dcctl(url: &str, args: &[&str]) -> Output {
    command(url, args).output().expect("it runs")
}

/// What it prints, where it must succeed.
#[track_caller]
fn shown(url: &str, args: &[&str]) -> String {
    let output = dcctl(url, args);
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(output.status.success() && stderr.is_empty(), "{args:?}: {stderr}{stdout}");
    stdout
}

#[track_caller]
fn json_of(url: &str, args: &[&str]) -> Value {
    serde_json::from_str(&shown(url, args)).expect("JSON")
}

/// It must be refused by the store, with `word`.
#[track_caller]
fn is_refused(url: &str, args: &[&str], word: &str) {
    let output = dcctl(url, args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.stdout.is_empty(), "{args:?} was not refused");
    assert!(stderr.contains("refused: ") && stderr.contains(word), "{args:?}: {stderr}");
    assert!(!stderr.contains("change-me") && !stderr.contains("s3cret"), "{stderr}");
}

/// The record of `eu/dc-1`, as its leader writes it.
fn record() -> DataCenterRecord {
    let node = NodeId(7);
    let endpoint: multidc::Endpoint = "n1.example:7946".parse().expect("legal");
    DataCenterRecord {
        data_center: DataCenter::new("dc-1").region("eu").build().expect("legal"),
        endpoints: vec![NodeEndpoint::new(node, endpoint.clone())],
        state: DataCenterState::Active,
        ttl: Duration::from_secs(60),
        owner: Owner { node, endpoint },
        epoch: Epoch::FIRST,
        handed_over: false,
        written_at_ms: 0,
        version: Version::new(StoreId(0), 0),
        unknown: serde_json::Map::new(),
    }
}

/// A `dc watch`, ended when dropped.
struct Watching {
    process: Child,
    lines: mpsc::Receiver<String>,
}

impl Watching {
    fn start(url: &str) -> Self {
        let mut process = command(url, &["dc", "watch", "--json"]).stdout(Stdio::piped()).spawn().expect("it runs");
        let stdout: ChildStdout = process.stdout.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // The test may be over.
                let _ = sender.send(line);
            }
        });
        Self { process, lines }
    }

    /// The next line of which `pick` says so.
    fn until(&self, what: &str, pick: impl Fn(&Value) -> bool) {
        loop {
            let line = self.lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("waited in vain for {what}"));
            if pick(&serde_json::from_str(&line).expect("JSON")) {
                return;
            }
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

async fn wanted(plane: &Arc<dyn ControlPlane>) -> Option<(IntentKind, String, String)> {
    let listing = plane.list_all().await.expect("list");
    let held = listing.intents.into_iter().find(|held| held.id.as_str() == "eu/dc-1")?;
    Some((held.intent.want, held.intent.by, held.intent.why))
}

/// List, get, watch, drain, out, serve: with the operator's account and no more.
async fn an_operators_day(accounts: &Accounts) {
    let Accounts { node, operator, .. } = accounts;
    if let Some(setup) = &accounts.setup {
        // Before there is a bucket nobody else gets anywhere; then as the page says.
        is_refused(operator, &["dc", "list"], "STREAM.CREATE");
        assert!(shown(setup, &["dc", "list"]).starts_with("ID"), "an empty table");
    } else {
        is_refused(operator, &["dc", "list"], "roles do not allow");
    }
    let plane = multidc::connect(node).await.expect("a node");
    plane.register(&record(), Expected::Absent).await.expect("its own record");

    let watch = Watching::start(operator);
    watch.until("the record", |line| line["event"] == "put" && line["record"]["id"] == "eu/dc-1");
    watch.until("the end of the replay", |line| line["event"] == "replay_done");
    let listed = json_of(operator, &["dc", "list", "--json"]);
    assert_eq!(listed["data_centers"][0]["id"], "eu/dc-1");
    assert!(shown(operator, &["dc", "get", "dc-1"]).contains("n1.example:7946"));

    for (want, why) in [("drain", "an upgrade"), ("out", "it is worse"), ("serve", "")] {
        let set = ["dc", "intent", "set", "dc-1", want, "--by", "ann", "--why", why];
        assert!(shown(operator, &set).contains(want));
        watch.until("the intent", |line| line["event"] == "intent" && line["intent"]["want"] == want);
        let listed = json_of(operator, &["dc", "get", "eu/dc-1", "--json"]);
        assert_eq!((&listed["intent"]["want"], &listed["intent"]["why"]), (&want.into(), &why.into()));
        assert_eq!(wanted(&plane).await, Some((want.parse().expect("a wish"), "ann".into(), why.into())));
    }
    shown(operator, &["dc", "intent", "set", "us/dc-9", "drain", "--absent"]);
    assert!(shown(operator, &["dc", "list"]).contains("us/dc-9: no record; intent drain"));
}

/// What the page says that each account cannot do, as far as the program tries it.
async fn what_is_refused(accounts: &Accounts) {
    let Accounts { node, operator, nobody, .. } = accounts;
    if let Some(setup) = &accounts.setup {
        shown(setup, &["dc", "list"]);
    }
    let plane = multidc::connect(node).await.expect("a node");
    let held = record();
    let version = plane.register(&held, Expected::Absent).await.expect("its own record");
    shown(operator, &["dc", "intent", "set", "dc-1", "drain", "--by", "ann"]);

    let set = ["dc", "intent", "set", "dc-1", "serve", "--by", "mallory"];
    let (intents, records) = if accounts.setup.is_some() { (".intents.", ".records.") } else { ("roles", "roles") };
    is_refused(node, &set, intents);
    if let Some(setup) = &accounts.setup {
        is_refused(setup, &set, intents);
    }
    is_refused(nobody, &set, "password");
    // The program writes no records; with its account, nobody does.
    let as_operator = multidc::connect(operator).await.expect("an operator");
    let denied = |what: &str, err: multidc::ControlPlaneError| {
        let named = matches!(&err, multidc::ControlPlaneError::Denied { why, .. } if why.contains(records));
        assert!(named, "{what}: {err:?}");
    };
    let mut moved = held.clone();
    moved.version = version;
    moved.endpoints[0].endpoint = "mallory.example:7946".parse().expect("legal");
    let led_away = as_operator.register(&moved, Expected::Version(version)).await;
    denied("leading traffic elsewhere", led_away.expect_err("refused"));
    denied("a goodbye", as_operator.deregister(held.id(), version).await.expect_err("refused"));

    assert_eq!(wanted(&plane).await.map(|(want, by, _)| (want, by)), Some((IntentKind::Drain, "ann".into())));
    let stored = plane.get(held.id()).await.expect("get").expect("it stands");
    assert!(stored.version == version && stored.same_content(&held), "{stored:?}");
}

#[tokio::test]
async fn p8_on_nats_an_operator_does_its_work_with_the_documented_rights() {
    let (_server, accounts) = on_nats();
    an_operators_day(&accounts).await;
}

#[tokio::test]
async fn p8_on_etcd_an_operator_does_its_work_with_the_documented_rights() {
    let (_server, accounts) = on_etcd();
    an_operators_day(&accounts).await;
}

#[tokio::test]
async fn p8_on_nats_only_an_operator_says_what_is_wanted_and_it_says_no_more() {
    let (_server, accounts) = on_nats();
    what_is_refused(&accounts).await;
}

#[tokio::test]
async fn p8_on_etcd_only_an_operator_says_what_is_wanted_and_it_says_no_more() {
    let (_server, accounts) = on_etcd();
    what_is_refused(&accounts).await;
}
