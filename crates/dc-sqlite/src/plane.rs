//! The contract, call by call.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use dc_controlplane::ownership::OwnershipStore;
use dc_controlplane::{Capabilities, ControlPlane, Durability, Error, Expected, Listing, StateChange, Watch, Writer};
use dc_core::{DataCenterId, DataCenterRecord, DataCenterState, Intent, StoreId, Version};
use parking_lot::Mutex;
use tracing::{info, warn};

use crate::{
    BACKEND, SqliteConfig,
    connect::{Access, File, findings},
    error::Failure,
    ownership::SqliteOwnership,
    store::Store,
};

/// The control plane in one SQLite file. Clones share its connections.
#[derive(Clone)]
pub struct SqliteControlPlane {
    file: Arc<File>,
    /// The latest version that this client knows of, by which it notices that a store was replaced or rolled back.
    seen: Arc<Mutex<Option<Version>>>,
    findings: Arc<[String]>,
}

impl SqliteControlPlane {
    /// Opens the file, or makes it; its directory must be there.
    ///
    /// What is only missing or busy is tried again at each call, with a warning in the log (P12).
    ///
    /// # Errors
    ///
    /// [`Error::Denied`] where the file may not be read or written, [`Error::Unsafe`] where it is no SQLite file, one
    /// of something else, or of a later version. With `require_at_start` also what is missing or busy.
    pub async fn connect(config: SqliteConfig) -> Result<Self, Error> {
        let mut found = findings(config.path());
        found.extend(config.clock().finding());
        for finding in &found {
            warn!(path = %config.path().display(), finding, "unsafe setting of the control plane");
        }
        let require = config.requires_file_at_start();
        let plane = Self { file: Arc::new(File::new(config)), seen: Arc::default(), findings: found.into() };
        let path = plane.file.config().path().display();
        match plane.store().await {
            Ok(id) => info!(%path, store = %id, "control plane opened"),
            Err(err) if err.is_outage() && !require => {
                warn!(%path, error = %err, source = std::error::Error::source(&err), "control plane not there; trying on");
            }
            Err(err) => return Err(err),
        }
        Ok(plane)
    }

    /// Transactions that this client began so far: what takes the place of requests where there is no server.
    pub fn transactions(&self) -> u64 {
        self.file.transactions()
    }

    /// Runs `act` in one write transaction.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        access: Access,
        act: impl FnOnce(&mut Store<'_>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Error> {
        let (file, seen) = (self.file.clone(), *self.seen.lock());
        let (answer, as_of) = self
            .file
            .run(operation, access, move |tx| {
                let config = file.config();
                let mut store = Store::create(tx, config.namespace(), config.clock().as_ref(), seen)?;
                // An answer such as a conflict is no reason to roll back the store's own id.
                let answer = match act(&mut store) {
                    Err(Failure::Answer(answer)) => Err(answer),
                    Err(failure) => return Err(failure),
                    Ok(value) => Ok(value),
                };
                Ok((answer, store.as_of()))
            })
            .await?;
        self.saw(as_of);
        answer
    }

    /// Runs `act` in one read transaction, after a write transaction where the store has no id yet, or lost changes.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        act: impl Fn(&Store<'_>) -> Result<T, Failure> + Clone + Send + 'static,
    ) -> Result<T, Error> {
        let (file, seen) = (self.file.clone(), *self.seen.lock());
        let reading = act.clone();
        let read = self
            .file
            .run(operation, Access::Read, move |tx| {
                let config = file.config();
                match Store::open(tx, config.namespace(), config.clock().as_ref())? {
                    Some(store)
                        if seen
                            .is_none_or(|seen| store.as_of().partial_cmp(&seen) != Some(std::cmp::Ordering::Less)) =>
                    {
                        Ok(Some((reading(&store)?, store.as_of())))
                    }
                    _ => Ok(None),
                }
            })
            .await?;
        match read {
            Some((answer, as_of)) => {
                self.saw(as_of);
                Ok(answer)
            }
            None => self.write(operation, Access::Write, move |store| act(store)).await,
        }
    }

    fn saw(&self, as_of: Version) {
        let mut seen = self.seen.lock();
        if let Some(old) = *seen
            && old.store != as_of.store
        {
            warn!(old = %old.store, new = %as_of.store, "the control plane is another store than before");
        }
        // Calls end in any order; versions of another store have no order and replace what was.
        if !seen.is_some_and(|seen| seen >= as_of) {
            *seen = Some(as_of);
        }
    }
}

impl fmt::Debug for SqliteControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let config = self.file.config();
        f.debug_struct("SqliteControlPlane")
            .field("path", &config.path())
            .field("namespace", &config.namespace())
            .field("seen", &*self.seen.lock())
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl ControlPlane for SqliteControlPlane {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: BACKEND,
            watch: false,
            expiry_events: false,
            expiry_granularity: Duration::ZERO,
            linearizable_reads: true,
            renewal_keeps_version: true,
            replicas: Some(1),
            durability: Durability::BeforeAck,
            findings: self.findings.to_vec(),
        }
    }

    async fn store(&self) -> Result<StoreId, Error> {
        if let Some(seen) = *self.seen.lock() {
            return Ok(seen.store);
        }
        self.read("store", |store| Ok(store.as_of().store)).await
    }

    async fn register(&self, record: &DataCenterRecord, expected: Expected) -> Result<Version, Error> {
        record.check()?;
        let record = record.clone();
        self.write("register", Access::Write, move |store| store.register(&record, expected)).await
    }

    async fn heartbeat(&self, record: &DataCenterRecord) -> Result<Version, Error> {
        let (id, seen) = (record.id().clone(), record.version);
        self.write("heartbeat", Access::Renew, move |store| store.heartbeat(&id, seen)).await
    }

    async fn set_state(&self, id: &DataCenterId, to: DataCenterState, by: Writer) -> Result<StateChange, Error> {
        let id = id.clone();
        self.write("set_state", Access::Write, move |store| store.set_state(&id, to, by)).await
    }

    async fn set_intent(&self, id: &DataCenterId, intent: &Intent) -> Result<Version, Error> {
        intent.check()?;
        let (id, intent) = (id.clone(), intent.clone());
        self.write("set_intent", Access::Write, move |store| store.set_intent(&id, &intent)).await
    }

    async fn get(&self, id: &DataCenterId) -> Result<Option<DataCenterRecord>, Error> {
        let id = id.clone();
        self.read("get", move |store| store.record(&id)).await
    }

    async fn list_all(&self) -> Result<Listing, Error> {
        self.read("list", |store| store.list()).await
    }

    async fn watch(&self) -> Result<Watch, Error> {
        Err(Error::WatchUnsupported { backend: BACKEND })
    }

    async fn deregister(&self, id: &DataCenterId, version: Version) -> Result<(), Error> {
        let id = id.clone();
        self.write("deregister", Access::Write, move |store| store.deregister(&id, version)).await
    }

    fn ownership(&self) -> Option<Arc<dyn OwnershipStore>> {
        Some(Arc::new(SqliteOwnership::new(self.clone(), self.file.config().document_poll())))
    }
}
