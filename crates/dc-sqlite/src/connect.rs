//! Opening the file, noticing that it is another one, and running transactions on blocking threads with bounded time.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dc_controlplane::{Error, Outcome};
use dc_core::{Clock, SystemClock};
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior, config::DbConfig};
use tokio::sync::Semaphore;

use crate::{BACKEND, SqliteConfig, error::Failure, schema};

/// What a transaction is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reads one moment of the store.
    Read,
    /// Changes it; on disk before it is acknowledged.
    Write,
    /// As `Write`, of what may come by the thousand and has time: one after the other, so that no lease of this client
    /// waits for more than one of them.
    Bulk,
    /// Renews a lease. A power loss may take it back: it ends the lease anyway, with the boot.
    Renew,
}

/// The file, and two connections to it, so that reads do not wait for a write that waits for its lock.
#[derive(Debug)]
pub(crate) struct File {
    config: SqliteConfig,
    reader: Mutex<Option<Session>>,
    writer: Mutex<Option<Session>>,
    /// Whose turn it is among [`Access::Bulk`]: first come, first served.
    bulk: Arc<Semaphore>,
    transactions: AtomicU64,
}

#[derive(Debug)]
struct Session {
    connection: Connection,
    file: FileId,
    /// What `PRAGMA synchronous` stands at.
    synced: bool,
}

impl File {
    pub(crate) fn new(config: SqliteConfig) -> Self {
        let (reader, writer) = (Mutex::default(), Mutex::default());
        Self { config, reader, writer, bulk: Arc::new(Semaphore::new(1)), transactions: AtomicU64::new(0) }
    }

    pub(crate) fn config(&self) -> &SqliteConfig {
        &self.config
    }

    /// Transactions begun so far.
    pub(crate) fn transactions(&self) -> u64 {
        self.transactions.load(Ordering::SeqCst)
    }

    /// Runs one transaction on a blocking thread; ends within the request timeout (P11).
    ///
    /// The thread gives up a little earlier than the caller, so that "it changed nothing" is known where it is so.
    /// Dropping the call does not stop the thread: the transaction commits whole, or not at all.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        operation: &'static str,
        access: Access,
        act: impl FnOnce(&Transaction<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        let after = self.config.request_timeout();
        let lost = if access == Access::Read { Outcome::Unchanged } else { Outcome::Unknown };
        let deadline = SystemClock.now() + after.mul_f64(0.9);
        let turn = match access {
            Access::Bulk => {
                let busy = || Failure::Busy.into_error(operation, after, self.config.path(), Outcome::Unchanged);
                let turn = tokio::time::timeout(left(deadline), self.bulk.clone().acquire_owned()).await;
                // Never closed: what is refused here has waited too long.
                Some(turn.ok().and_then(Result::ok).ok_or_else(busy)?)
            }
            Access::Read | Access::Write | Access::Renew => None,
        };
        let file = self.clone();
        let working = tokio::task::spawn_blocking(move || {
            // Until the transaction has ended, also where the caller does not wait for it any more.
            let _turn = turn;
            file.transact(access, deadline, act)
                .map_err(|(failure, outcome)| failure.into_error(operation, after, file.config.path(), outcome))
        });
        // What is left of it, after the turn.
        match tokio::time::timeout(left(deadline) + after.mul_f64(0.1), working).await {
            Ok(Ok(answer)) => answer,
            // The thread panicked, or the runtime is shutting down.
            Ok(Err(source)) => {
                Err(Error::Backend { backend: BACKEND, operation, outcome: lost, source: source.into() })
            }
            Err(_) => Err(Error::Timeout { backend: BACKEND, operation, after, outcome: lost }),
        }
    }

    fn transact<T>(
        &self,
        access: Access,
        deadline: Instant,
        act: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, (Failure, Outcome)> {
        let unchanged = |failure: Failure| (failure, Outcome::Unchanged);
        let slot = if access == Access::Read { &self.reader } else { &self.writer };
        let mut slot = slot.try_lock_for(left(deadline)).ok_or((Failure::Busy, Outcome::Unchanged))?;
        let same = slot.as_ref().is_some_and(|open| FileId::of(self.config.path()).is_ok_and(|id| id == open.file));
        if !same {
            // Closed first: what is open may be a file that is gone.
            *slot = None;
            *slot = Some(Session::open(&self.config, deadline).map_err(unchanged)?);
        }
        // Filled above.
        let Some(open) = slot.as_mut() else { return Err((Failure::Busy, Outcome::Unchanged)) };
        let answer = open.transact(access, deadline, &self.transactions, act);
        if answer.as_ref().is_err_and(|(failure, _)| failure.spoils_the_connection()) {
            *slot = None;
        }
        answer
    }
}

impl Session {
    /// Opens the file, makes it where there is none and it may be made, and brings it up to date.
    fn open(config: &SqliteConfig, deadline: Instant) -> Result<Self, Failure> {
        let path = config.path();
        let mut flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        flags.set(OpenFlags::SQLITE_OPEN_CREATE, config.makes_the_file());
        // Only SQLite may open the file: closing any descriptor of it would drop the locks of all connections of this
        // process (fcntl(2)). Everything else asks by name.
        let mut connection =
            Connection::open_with_flags(path, flags).map_err(|err| cannot_open(path, config.makes_the_file(), err))?;
        // A connection that closes last would remove the write-ahead log by its name, and with it that of another
        // file, should ours have been replaced meanwhile. Kept, it is emptied by writers as it grows.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        write_ahead(&connection, deadline)?;
        connection.busy_timeout(left(deadline))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        schema::prepare(&mut connection)?;
        Ok(Self { connection, file: FileId::of(path)?, synced: true })
    }

    fn transact<T>(
        &mut self,
        access: Access,
        deadline: Instant,
        count: &AtomicU64,
        act: impl FnOnce(&Transaction<'_>) -> Result<T, Failure>,
    ) -> Result<T, (Failure, Outcome)> {
        let tx = self.begin(access, deadline, count).map_err(|failure| (failure, Outcome::Unchanged))?;
        // Where `act` fails, dropping the transaction rolls it back.
        let answer = act(&tx).map_err(|failure| (failure, Outcome::Unchanged))?;
        match tx.commit().map_err(Failure::from) {
            Ok(()) => Ok(answer),
            Err(Failure::Busy) => Err((Failure::Busy, Outcome::Unchanged)),
            // It may be on disk, or be found there after a crash.
            Err(failure) if access != Access::Read => Err((failure, Outcome::Unknown)),
            Err(failure) => Err((failure, Outcome::Unchanged)),
        }
    }

    fn begin(&mut self, access: Access, deadline: Instant, count: &AtomicU64) -> Result<Transaction<'_>, Failure> {
        let synced = access != Access::Renew;
        if self.synced != synced {
            self.connection.pragma_update(None, "synchronous", if synced { "FULL" } else { "NORMAL" })?;
            self.synced = synced;
        }
        self.connection.busy_timeout(left(deadline))?;
        count.fetch_add(1, Ordering::SeqCst);
        let behavior = match access {
            Access::Read => TransactionBehavior::Deferred,
            Access::Write | Access::Bulk | Access::Renew => TransactionBehavior::Immediate,
        };
        Ok(self.connection.transaction_with_behavior(behavior)?)
    }
}

/// SQLite does not say why it cannot open a file; the file system does.
fn cannot_open(path: &Path, may_create: bool, err: rusqlite::Error) -> Failure {
    let directory = directory(path);
    match (fs::metadata(directory), fs::metadata(path)) {
        (Err(why), _) if why.kind() == io::ErrorKind::NotFound => {
            Failure::Io(io::Error::new(why.kind(), format!("there is no directory {}", directory.display())))
        }
        (Err(why), _) => Failure::Io(why),
        (_, Err(why)) if why.kind() == io::ErrorKind::NotFound && !may_create => {
            Failure::Io(io::Error::new(why.kind(), format!("there is no file {}", path.display())))
        }
        // The file is there, or there is a place for it: what is missing is the permission.
        _ if err.sqlite_error_code() == Some(ErrorCode::CannotOpen) => {
            Failure::Io(io::Error::new(io::ErrorKind::PermissionDenied, err))
        }
        _ => err.into(),
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Sets write-ahead logging. Whoever is first needs the file for himself for a moment, and SQLite does not wait for it.
fn write_ahead(connection: &Connection, deadline: Instant) -> Result<(), Failure> {
    loop {
        let mode = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0));
        match mode.map_err(Failure::from) {
            Ok(mode) if mode.eq_ignore_ascii_case("wal") => return Ok(()),
            Ok(mode) => {
                let why = format!("the file system allows no write-ahead log (journal mode {mode}): use a local disk");
                return Err(Failure::Foreign(why));
            }
            Err(Failure::Busy) if left(deadline) > Duration::from_millis(5) => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(failure) => return Err(failure),
        }
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(SystemClock.now())
}

/// Which file stands under a path, so that one that was moved or replaced is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    #[cfg(unix)]
    fn of(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let metadata = fs::metadata(path)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino() })
    }

    /// An open file can be neither moved nor replaced on Windows.
    #[cfg(not(unix))]
    fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path)?;
        Ok(Self { device: 0, inode: 0 })
    }
}

/// What is wrong with the file system under the file, as sentences for people (P13).
pub(crate) fn findings(path: &Path) -> Vec<String> {
    network_file_system(directory(path))
        .map(|name| {
            format!("{} is on a network file system ({name}), where SQLite's locks cannot be relied on", path.display())
        })
        .into_iter()
        .collect()
}

/// The name of the network file system that holds `directory`; `None` where it is none that we know.
#[cfg(target_os = "linux")]
fn network_file_system(directory: &Path) -> Option<&'static str> {
    // statfs(2), f_type.
    const NETWORKED: [(u64, &str); 7] = [
        (0x6969, "NFS"),
        (0x517B, "SMB"),
        (0xFE53_4D42, "SMB2"),
        (0xFF53_4D42, "CIFS"),
        (0x0102_1997, "9p"),
        (0x0BD0_0BD0, "Lustre"),
        (0x00C3_6400, "Ceph"),
    ];
    // The type's width and sign differ by architecture; the magic numbers have 32 bits.
    let kind = rustix::fs::statfs(directory).ok()?.f_type as u64 & 0xFFFF_FFFF;
    NETWORKED.iter().find(|(magic, _)| *magic == kind).map(|(_, name)| *name)
}

#[cfg(not(target_os = "linux"))]
fn network_file_system(_: &Path) -> Option<&'static str> {
    None
}
