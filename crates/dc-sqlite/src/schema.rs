//! What is in the file, and how older files are brought up to date.

use rusqlite::{Connection, TransactionBehavior};

use crate::error::Failure;

/// Marks our files (`PRAGMA application_id`): "mdc1".
const APPLICATION_ID: i32 = 0x6d64_6331;

/// Each step brings a file from the schema version of its index to the next. Steps are never changed, only added.
///
/// Leases stand in a table of their own, so that a renewal writes one short row, whatever the size of the record.
///
/// Of each document that is gone a trace is left for those who watch, for a while; `forgotten_removals` holds the
/// newest revision of a trace that is gone too.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE stores (
        namespace TEXT PRIMARY KEY,
        id TEXT NOT NULL,
        revision INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE records (
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        revision INTEGER NOT NULL,
        document BLOB NOT NULL,
        PRIMARY KEY (namespace, id)
    ) STRICT;
    CREATE TABLE leases (
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        boot TEXT NOT NULL,
        renewed_ns INTEGER NOT NULL,
        ttl_ns INTEGER NOT NULL,
        PRIMARY KEY (namespace, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE intents (
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        revision INTEGER NOT NULL,
        document BLOB NOT NULL,
        PRIMARY KEY (namespace, id)
    ) STRICT;
",
    "
    CREATE TABLE documents (
        namespace TEXT NOT NULL,
        key TEXT NOT NULL,
        revision INTEGER NOT NULL,
        body BLOB NOT NULL,
        boot TEXT,
        written_ns INTEGER,
        keep_ns INTEGER,
        PRIMARY KEY (namespace, key)
    ) STRICT;
    CREATE INDEX documents_by_revision ON documents (namespace, revision);
    CREATE INDEX documents_to_clean_up ON documents (namespace) WHERE keep_ns IS NOT NULL;
    CREATE TABLE removed_documents (
        namespace TEXT NOT NULL,
        key TEXT NOT NULL,
        revision INTEGER NOT NULL,
        boot TEXT NOT NULL,
        removed_ns INTEGER NOT NULL,
        PRIMARY KEY (namespace, key)
    ) STRICT;
    CREATE INDEX removed_documents_by_revision ON removed_documents (namespace, revision);
    CREATE TABLE forgotten_removals (
        namespace TEXT PRIMARY KEY,
        revision INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
",
];

/// Makes the file ours and brings it up to date. Concurrent callers wait for each other.
pub(crate) fn prepare(connection: &mut Connection) -> Result<(), Failure> {
    if version(connection)? == MIGRATIONS.len() && is_ours(connection)? {
        return Ok(());
    }
    let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // Looked at again now that nobody else writes.
    let from = version(&tx)?;
    if !is_ours(&tx)? {
        let tables: i64 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if tables > 0 || from > 0 {
            return Err(Failure::Foreign("the file is a SQLite database of something else".to_owned()));
        }
    }
    if from > MIGRATIONS.len() {
        let known = MIGRATIONS.len();
        return Err(Failure::Foreign(format!("the file has schema version {from}, this version knows {known}")));
    }
    for migration in &MIGRATIONS[from..] {
        tx.execute_batch(migration)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX))?;
    tx.commit()?;
    Ok(())
}

fn version(connection: &Connection) -> Result<usize, Failure> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    usize::try_from(version).map_err(|_| Failure::Foreign(format!("the file has schema version {version}")))
}

fn is_ours(connection: &Connection) -> Result<bool, Failure> {
    let id: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    Ok(id == APPLICATION_ID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_is_prepared_once() {
        let mut connection = Connection::open_in_memory().unwrap();
        prepare(&mut connection).unwrap();
        connection.execute("INSERT INTO stores VALUES ('n', 'id', 7)", []).unwrap();
        prepare(&mut connection).unwrap();
        let revision: i64 = connection.query_row("SELECT revision FROM stores", [], |row| row.get(0)).unwrap();
        assert_eq!(revision, 7, "preparing again leaves the content alone");
    }

    #[test]
    fn a_database_of_something_else_is_refused_and_left_alone() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("CREATE TABLE customers (name TEXT)").unwrap();
        assert!(matches!(prepare(&mut connection), Err(Failure::Foreign(_))));
        let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
        assert_eq!(tables, 1);
    }

    #[test]
    fn a_file_of_before_documents_is_brought_up_to_date_and_keeps_its_content() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(MIGRATIONS[0]).unwrap();
        connection.pragma_update(None, "application_id", APPLICATION_ID).unwrap();
        connection.pragma_update(None, "user_version", 1).unwrap();
        connection.execute("INSERT INTO stores VALUES ('n', 'id', 7)", []).unwrap();
        prepare(&mut connection).unwrap();
        let revision: i64 = connection.query_row("SELECT revision FROM stores", [], |row| row.get(0)).unwrap();
        let documents: i64 = connection.query_row("SELECT count(*) FROM documents", [], |row| row.get(0)).unwrap();
        assert_eq!((revision, documents), (7, 0));
    }

    #[test]
    fn a_file_of_a_later_version_is_refused() {
        let mut connection = Connection::open_in_memory().unwrap();
        prepare(&mut connection).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
        let Err(Failure::Foreign(why)) = prepare(&mut connection) else { panic!("a later version was taken") };
        assert!(why.contains("99"), "{why}");
    }
}
