//! What may be wrong with a file, and what becomes of it.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use dc_controlplane::{
    ControlPlane, Error, Expected,
    ownership::{DocumentKey, Keep, Swap},
};
use dc_core::{
    DataCenter, DataCenterRecord, DataCenterState, Endpoint, Epoch, Intent, IntentKind, NodeEndpoint, NodeId, Owner,
    StoreId, Version,
};
use dc_sqlite::{MachineClock, MachineTime, SqliteConfig, SqliteConfigBuilder, SqliteControlPlane};
use tokio::task::JoinSet;

fn record(name: &str) -> DataCenterRecord {
    let endpoint: Endpoint = "127.0.0.1:7946".parse().unwrap();
    DataCenterRecord {
        data_center: DataCenter::new(name).build().unwrap(),
        endpoints: vec![NodeEndpoint::new(NodeId(1), endpoint.clone())],
        state: DataCenterState::Active,
        ttl: Duration::from_secs(30),
        owner: Owner { node: NodeId(1), endpoint },
        epoch: Epoch::FIRST,
        handed_over: false,
        written_at_ms: 0,
        version: Version::new(StoreId(0), 0),
        unknown: serde_json::Map::new(),
    }
}

fn config(file: &Path) -> SqliteConfigBuilder {
    SqliteConfig::builder(file).request_timeout(Duration::from_secs(5))
}

async fn connect(builder: SqliteConfigBuilder) -> Result<SqliteControlPlane, Error> {
    SqliteControlPlane::connect(builder.build().expect("a legal configuration")).await
}

#[tokio::test]
async fn p12_a_missing_directory_is_tried_again_unless_required_at_start() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("not yet/multidc.db");
    let refused = connect(config(&file).require_at_start(true)).await;
    assert!(matches!(refused, Err(Error::Unreachable { .. })), "P12: got {refused:?}");
    let plane = connect(config(&file)).await.expect("P12: connect goes on");
    let away = plane.list_all().await;
    let Err(Error::Unreachable { source, .. }) = away else { panic!("P12: got {away:?}") };
    assert!(source.to_string().contains("not yet"), "the error names the directory: {source}");
    fs::create_dir(file.parent().unwrap()).unwrap();
    plane.list_all().await.expect("P12: the directory is there now");
}

#[tokio::test]
async fn a_file_that_may_not_be_made_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("multidc.db");
    let refused = connect(config(&file).create(false).require_at_start(true)).await;
    let Err(Error::Unreachable { source, .. }) = refused else { panic!("got {refused:?}") };
    assert!(source.to_string().contains("no file"), "the error names what is missing: {source}");
    let waits = connect(config(&file).create(false)).await.expect("P12: connect goes on");
    assert!(!file.exists(), "looking made the file");
    connect(config(&file)).await.expect("somebody makes it");
    waits.list_all().await.expect("P12: it is there now");
}

#[tokio::test]
async fn p13_a_file_that_is_no_database_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("notes.txt");
    let notes = "my notes\n".repeat(200);
    fs::write(&file, &notes).unwrap();
    let refused = connect(config(&file)).await;
    assert!(matches!(refused, Err(Error::Unsafe { .. })), "P13: got {refused:?}");
    assert_eq!(fs::read_to_string(&file).unwrap(), notes);
}

#[tokio::test]
async fn p13_a_database_of_something_else_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("shop.db");
    rusqlite::Connection::open(&file).unwrap().execute_batch("CREATE TABLE customers (name TEXT)").unwrap();
    let refused = connect(config(&file)).await;
    let Err(Error::Unsafe { findings, .. }) = refused else { panic!("P13: got {refused:?}") };
    assert!(findings[0].contains("something else"), "{findings:?}");
}

#[tokio::test]
async fn p13_a_file_of_a_later_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("multidc.db");
    connect(config(&file)).await.expect("connect");
    rusqlite::Connection::open(&file).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let refused = connect(config(&file)).await;
    let Err(Error::Unsafe { findings, .. }) = refused else { panic!("P13: got {refused:?}") };
    assert!(findings[0].contains("99"), "{findings:?}");
}

#[tokio::test]
async fn namespaces_of_one_file_are_stores_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("multidc.db");
    let blue = connect(config(&file).namespace("blue")).await.expect("connect");
    let green = connect(config(&file).namespace("green")).await.expect("connect");
    assert_ne!(blue.store().await.unwrap(), green.store().await.unwrap());
    blue.register(&record("dc-1"), Expected::Absent).await.expect("register");
    assert!(green.list_all().await.expect("list").records.is_empty());
    green.register(&record("dc-1"), Expected::Absent).await.expect("the same id in another namespace");
}

/// A machine clock that a test sets.
#[derive(Debug)]
struct Machine {
    boot: &'static str,
    since_boot: Duration,
}

impl MachineClock for Machine {
    fn now(&self) -> MachineTime {
        MachineTime { boot: self.boot.into(), since_boot: self.since_boot }
    }
}

#[tokio::test]
async fn p3_a_reboot_ends_all_leases_and_no_intent() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("multidc.db");
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    let at = |boot, since_boot| connect(config(&file).clock(Arc::new(Machine { boot, since_boot })));
    let first = at("first", hours(5)).await.expect("connect");
    let mut held = record("dc-1");
    held.version = first.register(&held, Expected::Absent).await.expect("register");
    first.set_intent(held.id(), &Intent::new(IntentKind::Drain, "ann", "")).await.expect("set_intent");
    let store = first.store().await.expect("store");

    // Whether the new boot's clock stands before the old one's, at the same time, or after it.
    for since_boot in [hours(1), hours(5), hours(9)] {
        let second = at("second", since_boot).await.expect("connect");
        let listing = second.list_all().await.expect("list");
        assert!(listing.records.is_empty(), "P3: a lease outlived its boot: {:?}", listing.records);
        assert_eq!(listing.intents.len(), 1, "P8: the operator's word outlives a reboot");
        assert_eq!(listing.as_of.store, store, "P1: a reboot is no new store");
        let late = second.heartbeat(&held).await;
        assert!(matches!(late, Err(Error::NotFound { .. })), "P7: got {late:?}");
    }
    let second = at("second", hours(1)).await.expect("connect");
    let again = second.register(&held, Expected::Absent).await.expect("register");
    assert!(again > held.version, "P1: created at {again} after {}", held.version);
}

/// A machine clock that stands; while it is being read, when it is told to, somebody renews every lease a moment later.
#[derive(Debug)]
struct Racing {
    file: PathBuf,
    renews: AtomicBool,
}

impl MachineClock for Racing {
    fn now(&self) -> MachineTime {
        let since_boot = Duration::from_secs(3_600);
        if self.renews.swap(false, Ordering::SeqCst) {
            let later = i64::try_from(since_boot.as_nanos()).unwrap() + 60_000_000_000;
            let connection = rusqlite::Connection::open(&self.file).unwrap();
            assert_eq!(connection.execute("UPDATE leases SET renewed_ns = ?1", [later]).unwrap(), 1);
        }
        MachineTime { boot: "only".into(), since_boot }
    }
}

#[tokio::test]
async fn p6_a_reader_never_misses_a_record_for_being_renewed_while_it_looks_at_its_clock() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("multidc.db");
    let mine = record("dc-1");
    for lists in [true, false] {
        let clock = Arc::new(Racing { file: file.clone(), renews: AtomicBool::new(false) });
        let plane = connect(config(&file).clock(clock.clone()).namespace(if lists { "a" } else { "b" })).await.unwrap();
        rusqlite::Connection::open(&file).unwrap().execute_batch("DELETE FROM leases; DELETE FROM records").unwrap();
        plane.register(&mine, Expected::Absent).await.expect("register");
        clock.renews.store(true, Ordering::SeqCst);
        let found = match lists {
            true => plane.list_all().await.expect("list").records.pop(),
            false => plane.get(mine.id()).await.expect("get"),
        };
        assert_eq!(found.map(|found| found.id().clone()).as_ref(), Some(mine.id()), "P6: lists: {lists}");
        assert!(!clock.renews.load(Ordering::SeqCst), "the clock was read");
    }
}

/// A small step back of the wall clock, where that is what leases are timed on, is no reason to lose a record.
#[tokio::test]
async fn p3_a_clock_set_back_prolongs_a_lease_by_no_more_than_itself() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("multidc.db");
    let at = |seconds: u64| {
        let clock = Machine { boot: "wall clock", since_boot: Duration::from_secs(seconds) };
        connect(config(&file).clock(Arc::new(clock)))
    };
    at(1_000).await.unwrap().register(&record("dc-1"), Expected::Absent).await.expect("register");
    for (seconds, live) in [(1_029, 1), (1_030, 0), (999, 1), (971, 1), (969, 0)] {
        let listing = at(seconds).await.unwrap().list_all().await.expect("list");
        assert_eq!(listing.records.len(), live, "P3: at {seconds} s");
    }
}

#[tokio::test]
async fn p1_a_file_that_was_rolled_back_gets_a_new_id() {
    let dir = tempfile::tempdir().unwrap();
    let (file, backup) = (dir.path().join("multidc.db"), dir.path().join("backup.db"));
    let plane = connect(config(&file)).await.expect("connect");
    let mut held = record("dc-1");
    held.version = plane.register(&held, Expected::Absent).await.expect("register");
    let copy = format!("VACUUM INTO '{}'", backup.display());
    rusqlite::Connection::open(&file).unwrap().execute_batch(&copy).unwrap();
    let late = plane.register(&record("dc-2"), Expected::Absent).await.expect("register");

    for name in ["multidc.db", "multidc.db-wal", "multidc.db-shm"] {
        let _ = fs::remove_file(dir.path().join(name));
    }
    fs::rename(&backup, &file).unwrap();

    let listing = plane.list_all().await.expect("list");
    assert_ne!(listing.as_of.store, late.store, "P1: versions would be given again under the same id");
    assert_eq!(plane.store().await.unwrap(), listing.as_of.store);
    assert_eq!(listing.records.len(), 1, "what the backup holds is there");
    let stale = plane.heartbeat(&held).await;
    assert!(matches!(stale, Err(Error::Conflict { .. })), "P2: got {stale:?}");
}

#[tokio::test]
async fn p12_a_file_replaced_by_another_is_noticed_and_stays_whole() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("multidc.db");
    let old = connect(config(&file)).await.expect("connect");
    let before = old.register(&record("dc-1"), Expected::Absent).await.expect("register");
    for name in ["multidc.db", "multidc.db-wal", "multidc.db-shm"] {
        let _ = fs::remove_file(dir.path().join(name));
    }
    let new = connect(config(&file)).await.expect("connect");
    let there = new.register(&record("dc-2"), Expected::Absent).await.expect("register");
    assert_ne!(there.store, before.store);
    // The old client closes what it had open: the new file's write-ahead log must stay.
    let listing = old.list_all().await.expect("list");
    assert_eq!(listing.as_of, there, "P1: the old client sees the new store");
    drop(old);
    assert_eq!(new.list_all().await.expect("list").records.len(), 1);
    let wal = fs::metadata(dir.path().join("multidc.db-wal")).expect("the write-ahead log");
    assert!(wal.len() > 0, "the new file's write-ahead log was emptied by a stranger");
}

/// Commits in a write-ahead log: frames whose second word, the size of the database after a commit, is not zero
/// (<https://www.sqlite.org/fileformat2.html#walformat>). Frames of an earlier round bear other salts.
fn commits(wal: &Path) -> usize {
    let bytes = fs::read(wal).unwrap();
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let (page, salt) = (word(8) as usize, (word(16), word(20)));
    (32..bytes.len().saturating_sub(23))
        .step_by(24 + page)
        .take_while(|at| (word(at + 8), word(at + 12)) == salt)
        .filter(|at| word(at + 4) != 0)
        .count()
}

#[tokio::test]
async fn p7_a_heartbeat_is_one_commit_in_the_file_and_a_refused_one_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (file, wal) = (dir.path().join("multidc.db"), dir.path().join("multidc.db-wal"));
    let plane = connect(config(&file)).await.expect("connect");
    let mut held = record("dc-1");
    held.version = plane.register(&held, Expected::Absent).await.expect("register");
    let before = commits(&wal);
    for _ in 0..10 {
        plane.heartbeat(&held).await.expect("heartbeat");
    }
    assert_eq!(commits(&wal) - before, 10, "P7: ten heartbeats");
    let before = commits(&wal);
    held.version.revision += 1;
    for _ in 0..10 {
        let refused = plane.heartbeat(&held).await;
        assert!(matches!(refused, Err(Error::Conflict { .. })), "P2: got {refused:?}");
        plane.list_all().await.expect("list");
    }
    assert_eq!(commits(&wal), before, "P2: what is refused writes nothing, nor does a list");
}

#[tokio::test]
async fn p11_a_lease_does_not_wait_behind_the_many_writes_that_have_time() {
    const MANY: usize = 300;
    let dir = tempfile::tempdir().unwrap();
    let plane = connect(config(&dir.path().join("multidc.db")).request_timeout(Duration::from_secs(60))).await.unwrap();
    let documents = plane.ownership().expect("it has them");
    let done = Arc::new(AtomicUsize::new(0));
    let mut claims: JoinSet<()> = (0..MANY)
        .map(|n| {
            let (documents, done) = (documents.clone(), done.clone());
            async move {
                let key = DocumentKey::escaped("g", &n.to_string()).unwrap();
                let claim = documents.compare_and_set(&key, Expected::Absent, vec![0; 300].into(), Keep::Forever);
                assert!(matches!(claim.await, Ok(Swap::Done(_))));
                done.fetch_add(1, Ordering::SeqCst);
            }
        })
        .collect();
    // All of them are under way then: tasks are begun in order.
    claims.join_next().await.expect("there are some").expect("it is accepted");
    let key = DocumentKey::escaped("s", "session").unwrap();
    let keep = Keep::For(Duration::from_secs(30));
    let session = documents.compare_and_set(&key, Expected::Absent, vec![0; 300].into(), keep).await;
    assert!(matches!(session, Ok(Swap::Done(_))), "{session:?}");
    plane.register(&record("us-1"), Expected::Absent).await.expect("it is the first");
    let before = done.load(Ordering::SeqCst);
    assert!(before < MANY / 2, "a session and a record waited for {before} claims of {MANY}");
    while let Some(claim) = claims.join_next().await {
        claim.expect("it is accepted");
    }
    assert_eq!(done.load(Ordering::SeqCst), MANY);
}
