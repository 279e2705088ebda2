//! The suite on real files: on a driven clock, and on this machine's own.

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use dc_controlplane::{codec, conformance::Harness};
use dc_core::{Clock, ManualClock, SharedClock, SystemClock};
use dc_sqlite::{BootClock, MachineClock, MachineTime, SqliteConfig, SqliteControlPlane};
use rusqlite::{Connection, params};

const TIMEOUT: Duration = Duration::from_millis(1_500);

/// A machine clock that a test drives.
#[derive(Clone, Debug)]
struct Driven {
    clock: ManualClock,
    start: Instant,
}

impl Driven {
    fn new() -> Self {
        let clock = ManualClock::new();
        Self { start: clock.now(), clock }
    }
}

impl MachineClock for Driven {
    fn now(&self) -> MachineTime {
        MachineTime { boot: "driven".into(), since_boot: self.clock.now() - self.start }
    }
}

/// Files in a directory of their own, which can be moved away.
struct Dir {
    root: tempfile::TempDir,
    opened: Mutex<Vec<SqliteControlPlane>>,
    lock: Mutex<Option<Connection>>,
}

impl Dir {
    fn here(&self) -> PathBuf {
        self.root.path().join("store")
    }

    fn away(&self) -> PathBuf {
        self.root.path().join("moved away")
    }

    fn file(&self) -> PathBuf {
        self.here().join("multidc.db")
    }

    fn connection(&self) -> Connection {
        let connection = Connection::open(self.file()).expect("the store's file");
        connection.busy_timeout(Duration::from_secs(10)).expect("a timeout");
        connection
    }

    /// The store's first client makes the file.
    fn wait_for_schema(&self) -> Connection {
        let connection = self.connection();
        let stores: i64 = connection.query_row("SELECT count(*) FROM stores", [], |row| row.get(0)).expect("a schema");
        assert_eq!(stores, 1, "a client opens the store before a stranger writes to it");
        connection
    }
}

struct Files<C> {
    clock: C,
}

trait TestClock: MachineClock + Clone {
    fn shared(&self) -> SharedClock;
    fn pass(&self, by: Duration) -> impl Future<Output = ()>;
    const TTL: Duration;
}

impl TestClock for Driven {
    const TTL: Duration = Duration::from_secs(30);

    fn shared(&self) -> SharedClock {
        Arc::new(self.clock.clone())
    }

    async fn pass(&self, by: Duration) {
        self.clock.advance(by);
    }
}

impl TestClock for BootClock {
    const TTL: Duration = Duration::from_millis(1_500);

    fn shared(&self) -> SharedClock {
        Arc::new(SystemClock)
    }

    async fn pass(&self, by: Duration) {
        tokio::time::sleep(by).await;
    }
}

impl<C: TestClock> Harness for Files<C> {
    type Plane = SqliteControlPlane;
    type Store = Dir;

    async fn fresh(&self) -> Dir {
        let root = tempfile::tempdir().expect("a temporary directory");
        let dir = Dir { root, opened: Mutex::default(), lock: Mutex::default() };
        fs::create_dir(dir.here()).expect("a directory");
        dir
    }

    async fn open(&self, dir: &Dir) -> SqliteControlPlane {
        let config = SqliteConfig::builder(dir.file()).request_timeout(TIMEOUT).clock(Arc::new(self.clock.clone()));
        let plane = SqliteControlPlane::connect(config.build().expect("a legal configuration")).await;
        let plane = plane.expect("a plane opens also while its file is away");
        dir.opened.lock().unwrap().push(plane.clone());
        plane
    }

    async fn advance(&self, by: Duration) {
        self.clock.pass(by).await;
    }

    fn ttl(&self) -> Duration {
        C::TTL
    }

    fn request_timeout(&self) -> Duration {
        TIMEOUT
    }

    fn clock(&self) -> SharedClock {
        self.clock.shared()
    }

    async fn requests(&self, dir: &Dir) -> u64 {
        dir.opened.lock().unwrap().iter().map(SqliteControlPlane::transactions).sum()
    }

    async fn write_raw(&self, dir: &Dir, key: &str, bytes: &[u8]) {
        let mut connection = dir.wait_for_schema();
        let tx = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).expect("a lock");
        let sql = "UPDATE stores SET revision = revision + 1 WHERE namespace = 'multidc' RETURNING revision";
        let revision: i64 = tx.query_row(sql, [], |row| row.get(0)).expect("a revision");
        if let Some(key) = key.strip_prefix(codec::DOCUMENTS) {
            let sql =
                "INSERT OR REPLACE INTO documents (namespace, key, revision, body) VALUES ('multidc', ?1, ?2, ?3)";
            tx.execute(sql, params![key, revision, bytes]).expect("a raw write");
            return tx.commit().expect("a raw write");
        }
        let (table, namespace, id) = if let Some(id) = key.strip_prefix(codec::RECORDS) {
            ("records", "multidc", id)
        } else if let Some(id) = key.strip_prefix(codec::INTENTS) {
            ("intents", "multidc", id)
        } else {
            // A key that is none of ours belongs to another namespace of the file.
            ("records", "strangers", key)
        };
        let sql = format!("INSERT OR REPLACE INTO {table} (namespace, id, revision, document) VALUES (?1, ?2, ?3, ?4)");
        tx.execute(&sql, params![namespace, id, revision, bytes]).expect("a raw write");
        tx.commit().expect("a raw write");
    }

    async fn stop_store(&self, dir: &Dir) {
        fs::rename(dir.here(), dir.away()).expect("move the directory away");
    }

    async fn start_store(&self, dir: &Dir) {
        fs::rename(dir.away(), dir.here()).expect("move the directory back");
    }

    async fn freeze_store(&self, dir: &Dir) {
        let connection = dir.connection();
        connection.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
        *dir.lock.lock().unwrap() = Some(connection);
    }

    async fn unfreeze_store(&self, dir: &Dir) {
        *dir.lock.lock().unwrap() = None;
    }

    async fn wipe_store(&self, dir: &Dir) {
        fs::remove_dir_all(dir.here()).expect("remove the files");
        fs::create_dir(dir.here()).expect("a directory");
    }
}

mod on_a_driven_clock {
    use super::*;

    // cut: there is no link. skew: no wall clock is read, leases are timed on `CLOCK_BOOTTIME`.
    dc_controlplane::conformance_tests!(Files { clock: Driven::new() }, without: [cut, skew]);
    dc_controlplane::ownership_conformance_tests!(Files { clock: Driven::new() }, without: [cut]);
}

mod on_the_machines_clock {
    use super::*;

    dc_controlplane::conformance_tests!(Files { clock: BootClock::new() }, without: [cut, skew]);
    dc_controlplane::ownership_conformance_tests!(Files { clock: BootClock::new() }, without: [cut]);
}

/// `cargo test -p dc-sqlite --release --test conformance what_documents_cost -- --ignored --nocapture`
#[test]
#[ignore = "measures for a minute and a half"]
fn what_documents_cost() {
    dc_controlplane::conformance::run(async {
        dc_controlplane::conformance::measure_documents(Files { clock: BootClock::new() }, true).await;
    });
}
