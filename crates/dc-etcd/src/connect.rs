//! Connections to the members, and how a request finds one that answers.
//!
//! Each member has a client of its own, so that a request is known to have gone
//! to one member: the preferred one until it fails, then the next. What was
//! certainly not sent is tried elsewhere; what may have been is repeated only
//! where that is safe. A member that did not answer in time gets a new connection.

use std::{
    future::Future,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use dc_controlplane::{Error, Outcome};
use dc_core::Invalid;
use etcd_client::{Certificate, Client, ConnectOptions, Error as ClientError, Identity, TlsOptions};
use tokio::sync::Mutex;
use tracing::debug;

use crate::{
    BACKEND, EtcdConfig,
    error::{self, Fate},
};

/// What a lost answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It leaves records and intents alone: may be repeated, and the outcome stays known.
    Harmless,
    /// A write whose repetition changes nothing once it has landed.
    Fenced,
    /// A write that must not land twice.
    Once,
}

/// One call of the contract: its name, and whether a write of it may have landed.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) operation: &'static str,
    doubt: AtomicBool,
    /// The member that was asked last.
    asked: AtomicUsize,
}

impl Call {
    pub(crate) fn new(operation: &'static str) -> Self {
        Self { operation, doubt: AtomicBool::new(false), asked: AtomicUsize::new(0) }
    }

    pub(crate) fn outcome(&self) -> Outcome {
        if self.doubt.load(Ordering::SeqCst) { Outcome::Unknown } else { Outcome::Unchanged }
    }
}

/// The members.
pub(crate) struct Servers {
    members: Vec<Member>,
    preferred: AtomicUsize,
    options: ConnectOptions,
    /// For servers whose authentication is switched off.
    anonymous: ConnectOptions,
    user: Option<(String, dc_controlplane::config::Secret)>,
    authentication_off: AtomicBool,
    timeout: Duration,
    attempt_time: Duration,
}

struct Member {
    url: String,
    client: Mutex<Option<Client>>,
}

/// Why one attempt failed.
enum Failure {
    Client(ClientError),
    Slow,
}

impl Servers {
    /// Reads the TLS files; sends nothing.
    pub(crate) async fn new(config: &EtcdConfig) -> Result<Self, Error> {
        let (interval, timeout) = config.keepalive();
        let mut options = ConnectOptions::new()
            .with_keep_alive(interval, timeout)
            // etcd closes connections that are pinged while nothing goes on; open watches and pending
            // requests are tested all the same.
            .with_keep_alive_while_idle(false)
            .with_connect_timeout(attempt_time(config))
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some(tls) = tls_options(config).await? {
            options = options.with_tls(tls);
        }
        let members = config.endpoints().iter().map(|url| Member { url: url.clone(), client: Mutex::new(None) });
        Ok(Self {
            members: members.collect(),
            preferred: AtomicUsize::new(0),
            anonymous: options.clone(),
            options,
            user: config.user().map(|(name, password)| (name.to_owned(), password.clone())),
            authentication_off: AtomicBool::new(false),
            timeout: config.request_timeout(),
            attempt_time: attempt_time(config),
        })
    }

    /// Whether a user is configured and the servers do not ask for one.
    pub(crate) fn authentication_off(&self) -> bool {
        self.authentication_off.load(Ordering::Relaxed)
    }

    /// Which member answers at present.
    pub(crate) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// The member after `index`.
    pub(crate) fn next(&self, index: usize) -> usize {
        (index + 1) % self.members.len()
    }

    pub(crate) fn url(&self, index: usize) -> &str {
        &self.members[index].url
    }

    /// Ends `future` after the request timeout; what was sent by then decides the outcome (P11).
    pub(crate) async fn bounded<T>(
        &self,
        call: &Call,
        future: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(self.timeout, future).await {
            Ok(result) => result,
            Err(_) => {
                // The connection may be dead without a sign; a busy one is being replaced already.
                let index = call.asked.load(Ordering::Relaxed);
                if let Ok(mut client) = self.members[index].client.try_lock() {
                    client.take();
                }
                self.avoid(index);
                Err(self.too_slow(call))
            }
        }
    }

    fn too_slow(&self, call: &Call) -> Error {
        Error::Timeout { backend: BACKEND, operation: call.operation, after: self.timeout, outcome: call.outcome() }
    }

    /// Sends one request: to the preferred member, then to the others, twice round.
    pub(crate) async fn send<T, F, R>(&self, call: &Call, repeat: Repeat, request: F) -> Result<T, Error>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<T, ClientError>> + Send,
    {
        self.try_send(call, repeat, request).await.map_err(|failure| match failure {
            Failure::Client(err) => error::translate(call.operation, err, call.outcome()),
            Failure::Slow => self.too_slow(call),
        })
    }

    /// As [`send`](Self::send), with the client's own error where a server refused.
    pub(crate) async fn send_raw<T, F, R>(
        &self,
        call: &Call,
        repeat: Repeat,
        request: F,
    ) -> Result<Result<T, ClientError>, Error>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<T, ClientError>> + Send,
    {
        match self.try_send(call, repeat, request).await {
            Ok(answer) => Ok(Ok(answer)),
            Err(Failure::Client(err)) => Ok(Err(err)),
            Err(Failure::Slow) => Err(self.too_slow(call)),
        }
    }

    async fn try_send<T, F, R>(&self, call: &Call, repeat: Repeat, request: F) -> Result<T, Failure>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<T, ClientError>> + Send,
    {
        let writes = repeat != Repeat::Harmless;
        let mut last = Failure::Slow;
        for attempt in 0..2 * self.members.len() {
            if attempt == self.members.len() {
                tokio::time::sleep(Duration::from_millis(rand::random_range(50..150))).await;
            }
            let index = self.preferred();
            call.asked.store(index, Ordering::Relaxed);
            let doubted = call.doubt.load(Ordering::SeqCst);
            let failure = match self.attempt(call, writes, index, &request).await {
                Ok(answer) => {
                    if writes {
                        call.doubt.store(false, Ordering::SeqCst);
                    }
                    return Ok(answer);
                }
                Err(failure) => failure,
            };
            let fate = match &failure {
                // Authentication was off when we came, and has been switched on since.
                Failure::Client(err) if self.authentication_off() && error::nobody(err) => Fate::StaleToken,
                Failure::Client(err) => error::fate(err),
                Failure::Slow => Fate::Lost,
            };
            debug!(operation = call.operation, member = self.url(index), ?fate, %failure, "an attempt failed");
            if writes && fate != Fate::Lost {
                call.doubt.store(doubted, Ordering::SeqCst);
            }
            match fate {
                Fate::Refused | Fate::Denied => return Err(failure),
                Fate::Lost if repeat == Repeat::Once => return Err(failure),
                Fate::StaleToken => self.reconnect(index).await,
                Fate::NotSent | Fate::Lost => {
                    if matches!(failure, Failure::Slow) {
                        self.reconnect(index).await;
                    }
                    self.avoid(index);
                }
            }
            last = failure;
        }
        Err(last)
    }

    async fn attempt<T, F, R>(&self, call: &Call, writes: bool, index: usize, request: &F) -> Result<T, Failure>
    where
        F: Fn(Client) -> R + Send + Sync,
        R: Future<Output = Result<T, ClientError>> + Send,
    {
        let attempt = async {
            let client = self.client(index).await?;
            if writes {
                call.doubt.store(true, Ordering::SeqCst);
            }
            request(client).await
        };
        match tokio::time::timeout(self.attempt_time, attempt).await {
            Ok(result) => result.map_err(Failure::Client),
            Err(_) => Err(Failure::Slow),
        }
    }

    /// The client of member `index`; connects lazily, but authenticates at once where a user is set.
    pub(crate) async fn client(&self, index: usize) -> Result<Client, ClientError> {
        let member = &self.members[index];
        let mut slot = member.client.lock().await;
        if let Some(client) = slot.as_ref() {
            return Ok(client.clone());
        }
        let endpoints = [member.url.as_str()];
        let client = match &self.user {
            None => Client::connect(endpoints, Some(self.options.clone())).await?,
            Some((name, password)) => {
                let options = self.options.clone().with_user(name, password.reveal());
                match Client::connect(endpoints, Some(options)).await {
                    Err(err) if error::authentication_is_off(&err) => {
                        self.authentication_off.store(true, Ordering::Relaxed);
                        Client::connect(endpoints, Some(self.anonymous.clone())).await?
                    }
                    other => {
                        let client = other?;
                        self.authentication_off.store(false, Ordering::Relaxed);
                        client
                    }
                }
            }
        };
        *slot = Some(client.clone());
        Ok(client)
    }

    /// Forgets the connection to member `index`: the next request makes a new one.
    pub(crate) async fn reconnect(&self, index: usize) {
        self.members[index].client.lock().await.take();
    }

    /// Prefers another member than `index`, unless someone already did.
    fn avoid(&self, index: usize) {
        let next = self.next(index);
        let changed = self.preferred.compare_exchange(index, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if changed && next != index {
            debug!(from = self.url(index), to = self.url(next), "a member of etcd does not answer; asking the next");
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Client(err) => err.fmt(f),
            Self::Slow => f.write_str("no answer in the time of one attempt"),
        }
    }
}

/// What one attempt may take: with several members, none of them may use up the whole time.
fn attempt_time(config: &EtcdConfig) -> Duration {
    config.request_timeout() / u32::try_from(config.endpoints().len().min(3)).unwrap_or(1)
}

async fn tls_options(config: &EtcdConfig) -> Result<Option<TlsOptions>, Error> {
    if !config.endpoints().iter().any(|url| url.starts_with("https://")) {
        return Ok(None);
    }
    let files = config.tls().cloned().unwrap_or_default();
    let read = async |field: &str, path: &std::path::Path| {
        let unreadable =
            |err: std::io::Error| Invalid::new(field, path.to_string_lossy(), format!("cannot be read: {err}"));
        tokio::fs::read(path).await.map_err(unreadable)
    };
    let mut options = TlsOptions::new();
    options = match &files.ca {
        Some(path) => options.ca_certificate(Certificate::from_pem(read("tls ca", path).await?)),
        None => options.with_enabled_roots(),
    };
    if let (Some(certificate), Some(key)) = (&files.certificate, &files.key) {
        let certificate = read("tls certificate", certificate).await?;
        options = options.identity(Identity::from_pem(certificate, read("tls key", key).await?));
    }
    Ok(Some(options))
}
