//! Several processes on one file: this test binary, started again with a role.

use std::{
    collections::{BTreeMap, HashSet},
    io::{BufRead, BufReader, Lines},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use dc_controlplane::{ControlPlane, Error, Expected};
use dc_core::{
    DataCenter, DataCenterRecord, DataCenterState, Endpoint, Epoch, NodeEndpoint, NodeId, Owner, StoreId, Version,
};
use dc_sqlite::{SqliteConfig, SqliteControlPlane};

const ROLE: &str = "DC_SQLITE_TEST_ROLE";
const FILE: &str = "DC_SQLITE_TEST_FILE";
const NUMBER: &str = "DC_SQLITE_TEST_NUMBER";

/// A process that plays a role; killed when dropped.
struct Player {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Player {
    fn start(role: &str, number: usize, file: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this test binary"));
        command.args(["--exact", "plays_its_role", "--nocapture", "--test-threads=1", "--quiet"]);
        command.env(ROLE, role).env(FILE, file).env(NUMBER, number.to_string()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start a process");
        let stdout = child.stdout.take().expect("piped");
        Self { child, lines: BufReader::new(stdout).lines() }
    }

    /// The next line that says `word ..`; `None` where the process has ended.
    fn said(&mut self, word: &str) -> Option<Vec<String>> {
        loop {
            let line = self.lines.next()?.expect("the output of a process");
            let mut words = line.split_whitespace().map(str::to_owned);
            if words.next().as_deref() == Some(word) {
                return Some(words.collect());
            }
        }
    }

    /// Ends it as a power switch would, in the middle of whatever it does.
    fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }

    fn finish(mut self) {
        let status = self.child.wait().expect("wait");
        assert!(status.success(), "a process failed: {status}");
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn record(name: &str, number: u128, ttl: Duration) -> DataCenterRecord {
    let endpoint: Endpoint = "127.0.0.1:7946".parse().unwrap();
    DataCenterRecord {
        data_center: DataCenter::new(name).build().unwrap(),
        endpoints: vec![NodeEndpoint::new(NodeId(number), endpoint.clone())],
        state: DataCenterState::Active,
        ttl,
        owner: Owner { node: NodeId(number), endpoint },
        epoch: Epoch::FIRST,
        handed_over: false,
        written_at_ms: 0,
        version: Version::new(StoreId(0), 0),
        unknown: serde_json::Map::new(),
    }
}

async fn open(file: &Path) -> SqliteControlPlane {
    let config = SqliteConfig::builder(file).request_timeout(Duration::from_secs(30)).require_at_start(true);
    SqliteControlPlane::connect(config.build().unwrap()).await.expect("connect")
}

const MINUTE: Duration = Duration::from_secs(60);

/// The processes' side; for the test run itself there is no role to play, and nothing is claimed.
#[tokio::test]
async fn plays_its_role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let file = PathBuf::from(std::env::var_os(FILE).expect("a file"));
    let number: u128 = std::env::var(NUMBER).expect("a number").parse().expect("a number");
    // libtest has begun a line.
    println!();
    // Should the test run be gone, its processes do not stay for ever.
    tokio::time::timeout(MINUTE, play(&role, &file, number)).await.expect("a process was left behind");
}

async fn play(role: &str, file: &Path, number: u128) {
    let plane = open(file).await;
    match role {
        "opens" => println!("store {}", plane.store().await.expect("store")),
        "takes-over" => takes_over(&plane, file, number).await,
        "registers" => registers(&plane, number).await,
        "writes-on" => writes_on(&plane, number).await,
        "renews" => renews(&plane, number).await,
        other => panic!("unknown role {other}"),
    }
}

/// The file whose appearance starts a race.
fn start_of(file: &Path) -> PathBuf {
    file.with_extension("start")
}

/// Waits for the start, then takes the record over again and again until its epoch is 100; says each win.
async fn takes_over(plane: &SqliteControlPlane, file: &Path, number: u128) {
    println!("ready");
    while !start_of(file).exists() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let mut held = record("dc-1", number, MINUTE);
    let mut expected = Expected::Absent;
    while held.epoch <= Epoch(100) {
        match plane.register(&held, expected).await {
            Ok(version) => {
                println!("won {} {}", held.epoch, version.revision);
                held.version = version;
                // SQLite's lock is not fair: let the others have their turn.
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            Err(Error::Conflict { stored: Some(stored), .. }) => held = *stored,
            Err(err) => panic!("{err:?}"),
        }
        expected = Expected::Version(held.version);
        held.owner = record("dc-1", number, MINUTE).owner;
        held.epoch = held.epoch.next();
    }
}

/// Registers 275 datacenters of its own.
async fn registers(plane: &SqliteControlPlane, number: u128) {
    for n in 0..275 {
        plane.register(&record(&format!("dc-{number}-{n}"), number, MINUTE), Expected::Absent).await.expect("register");
    }
    println!("done");
}

/// Writes one record as fast as it can, for ever; says what was acknowledged.
async fn writes_on(plane: &SqliteControlPlane, number: u128) {
    let id = record("dc-1", number, MINUTE);
    let mut held = plane.get(id.id()).await.expect("get").unwrap_or(id);
    loop {
        let expected = if held.version.revision == 0 { Expected::Absent } else { Expected::Version(held.version) };
        held.epoch = held.epoch.next();
        held.version = plane.register(&held, expected).await.expect("register");
        println!("acknowledged {} {}", held.version.revision, held.epoch);
    }
}

/// Keeps one record alive, for ever.
async fn renews(plane: &SqliteControlPlane, number: u128) {
    let mut held = record("dc-1", number, Duration::from_secs(2));
    held.version = plane.register(&held, Expected::Absent).await.expect("register");
    loop {
        held.version = plane.heartbeat(&held).await.expect("heartbeat");
        println!("renewed");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[test]
fn p1_processes_that_make_a_file_at_once_agree_on_its_id() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("multidc.db");
    let mut players: Vec<_> = (0..6).map(|n| Player::start("opens", n, &file)).collect();
    let ids: Vec<_> = players.iter_mut().map(|player| player.said("store").expect("an id")).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "P1: {ids:?}");
    players.into_iter().for_each(Player::finish);
}

#[test]
fn p2_processes_that_race_for_a_record_win_each_epoch_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("multidc.db");
    let mut players: Vec<_> = (0..4).map(|n| Player::start("takes-over", n, &file)).collect();
    for player in &mut players {
        player.said("ready").expect("a process at the start");
    }
    std::fs::write(start_of(&file), "").unwrap();
    let mut wins = BTreeMap::new();
    for (n, player) in players.iter_mut().enumerate() {
        while let Some(won) = player.said("won") {
            let (epoch, revision): (u64, u64) = (won[0].parse().unwrap(), won[1].parse().unwrap());
            let other = wins.insert(epoch, (revision, n));
            assert_eq!(other, None, "P2: epoch {epoch} was won by process {n}, too");
        }
    }
    players.into_iter().for_each(Player::finish);
    assert_eq!(wins.keys().copied().collect::<Vec<_>>(), (1..=100).collect::<Vec<_>>(), "P2: no epoch is left out");
    let winners: HashSet<_> = wins.values().map(|(_, n)| *n).collect();
    assert!(winners.len() > 1, "there was no race: {wins:?}");
    let revisions: Vec<_> = wins.values().map(|(revision, _)| *revision).collect();
    assert!(revisions.is_sorted_by(|a, b| a < b), "P1: versions grow with epochs: {revisions:?}");
}

#[tokio::test]
async fn p6_eleven_hundred_records_of_four_processes_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("multidc.db");
    let mut players: Vec<_> = (0..4).map(|n| Player::start("registers", n, &file)).collect();
    for player in &mut players {
        player.said("done").expect("275 records");
    }
    players.into_iter().for_each(Player::finish);
    let plane = open(&file).await;
    let before = plane.transactions();
    let listing = plane.list_all().await.expect("list");
    assert_eq!(plane.transactions() - before, 1, "P6: one transaction");
    let ids: HashSet<_> = listing.records.iter().map(|record| record.id().clone()).collect();
    assert_eq!((ids.len(), listing.records.len(), listing.skipped.len()), (1_100, 1_100, 0));
    assert_eq!(listing.as_of.revision, 1_100, "P1: each write raised the version by one");
}

#[tokio::test]
async fn p2_a_process_killed_in_mid_write_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("multidc.db");
    let plane = open(&file).await;
    let mut last = 0;
    for round in 0..5 {
        let mut writer = Player::start("writes-on", round, &file);
        let mut told = Vec::new();
        for _ in 0..40 {
            told = writer.said("acknowledged").expect("a write");
        }
        writer.kill();
        let (revision, epoch): (u64, u64) = (told[0].parse().unwrap(), told[1].parse().unwrap());
        // The lock of the dead is free at once, and the file is whole.
        let mut stored = plane.get(record("dc-1", 0, MINUTE).id()).await.expect("get").expect("the record");
        assert!(stored.version.revision >= revision, "an acknowledged write is lost: {stored:?}, told {revision}");
        assert_eq!(stored.epoch.0 - epoch, stored.version.revision - revision, "a write landed in part: {stored:?}");
        assert!(stored.version.revision > last, "P1");
        stored.epoch = stored.epoch.next();
        stored.version = plane.register(&stored, Expected::Version(stored.version)).await.expect("register");
        last = stored.version.revision;
    }
}

#[tokio::test]
async fn p3_the_record_of_a_killed_process_leaves_in_time() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("multidc.db");
    let plane = open(&file).await;
    let mut owner = Player::start("renews", 0, &file);
    // Longer than the TTL of 2 s: it lives by its heartbeats.
    for _ in 0..15 {
        owner.said("renewed").expect("a heartbeat");
        assert_eq!(plane.list_all().await.expect("list").records.len(), 1, "P3: a renewed record left the list");
    }
    owner.kill();
    let gone = async {
        while !plane.list_all().await.expect("list").records.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let at_most = Duration::from_secs(2) + Duration::from_secs(1);
    tokio::time::timeout(at_most, gone).await.expect("P3: the record of a dead process stays");
}
