//! The link to the servers: one connection that is kept up for ever (P12).
//!
//! Owns the client, what it reports of itself, and the server's version. Knows
//! nothing of buckets.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_nats::{
    Client, ClientError, ConnectError, ConnectErrorKind, ConnectOptions, Event, ServerError, connection::State, rustls,
};
use dc_controlplane::{BoxError, Error, Outcome};
use dc_core::Invalid;
use tokio::sync::watch;

use crate::{
    config::{Credentials, NatsConfig},
    error::{BACKEND, cannot_work, denied},
};

/// The oldest server that knows per-key TTLs and limit markers.
const OLDEST_SERVER: (u64, u64) = (2, 11);

/// How often the server is asked for a sign of life. The client gives up a connection after three silent periods.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// The longest pause between attempts to connect.
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// A connection, and what it last reported.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    client: Client,
    news: watch::Receiver<News>,
    /// What we show to the servers, for errors.
    shown: Arc<str>,
    /// What a refusal of the subject for answers reads like.
    inbox_refused: Arc<str>,
}

#[derive(Clone, Debug, Default)]
struct News {
    /// Why the last attempt to connect failed; cleared by success.
    failure: Option<String>,
    /// The last thing that the account was not allowed to do.
    violation: String,
    /// How many such refusals there were.
    violations: u64,
}

impl Link {
    /// Connects, or leaves an attempt running for ever where no server answers.
    ///
    /// # Errors
    ///
    /// Bad TLS files and refused credentials; an unreachable store only with `require_at_start`.
    pub(crate) async fn open(config: &NatsConfig) -> Result<Self, Error> {
        let (news, receiver) = watch::channel(News::default());
        let news = Arc::new(news);
        let link = |client| Self {
            client,
            news: receiver,
            shown: config.shown().into(),
            inbox_refused: format!("Subscription to \"{}", config.inbox_prefix).into(),
        };
        let mut why: BoxError = "no server answers".into();
        let first = Self::first(config, &news, &mut why);
        if let Ok(first) = tokio::time::timeout(config.request_timeout, first).await
            && let Some(client) = first?
        {
            return Ok(link(client));
        }
        if config.require_at_start {
            let outcome = Outcome::Unchanged;
            return Err(Error::Unreachable { backend: BACKEND, operation: "connect", outcome, source: why });
        }
        tracing::warn!(error = %why, servers = ?servers(config), "no NATS server answers; trying on");
        news.send_modify(|news| news.failure = Some(why.to_string()));
        let lazy = options(config, &news).await?.retry_on_initial_connect();
        let client = lazy.connect(&config.servers[..]).await.map_err(|err| match classify(err, config) {
            Ok(source) => {
                Error::Unreachable { backend: BACKEND, operation: "connect", outcome: Outcome::Unchanged, source }
            }
            Err(err) => err,
        })?;
        Ok(link(client))
    }

    /// Tries all servers once; again and again where one is required. `why` tells why none is connected yet.
    async fn first(
        config: &NatsConfig,
        news: &Arc<watch::Sender<News>>,
        why: &mut BoxError,
    ) -> Result<Option<Client>, Error> {
        let mut hung_up = 0;
        loop {
            match options(config, news).await?.connect(&config.servers[..]).await {
                Ok(client) => return Ok(Some(client)),
                Err(err) => {
                    // A server that refuses our certificate says so and hangs up: its word may be lost on the way.
                    hung_up += u32::from(config.wants_tls() && was_hung_up(&err));
                    *why = classify(err, config)?;
                }
            }
            if !config.require_at_start && !(1..=3).contains(&hung_up) {
                return Ok(None);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Returns once there is a connection.
    pub(crate) async fn connected(&self) {
        let mut news = self.news.clone();
        while !self.is_connected() {
            // News may be dropped under load: look again soon in any case.
            let pause = tokio::time::sleep(Duration::from_millis(50));
            tokio::select! {
                () = pause => {}
                Ok(()) = news.changed() => {}
            }
        }
    }

    /// How many connections there have been: tells a reader that one was lost in between.
    pub(crate) fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Returns once another connection than the `seen`th stands.
    pub(crate) async fn reconnected(&self, seen: u64) {
        let mut news = self.news.clone();
        while !self.is_connected() || self.connects() == seen {
            let pause = tokio::time::sleep(Duration::from_millis(250));
            tokio::select! {
                () = pause => {}
                Ok(()) = news.changed() => {}
            }
        }
    }

    /// Why there is no connection, where it can be told.
    pub(crate) fn failure(&self) -> Option<String> {
        if self.is_connected() { None } else { self.news.borrow().failure.clone() }
    }

    /// Whether the servers refuse our credentials.
    pub(crate) fn refused(&self) -> Option<Error> {
        let failure = self.failure()?;
        is_refusal(&failure).then(|| refused(&self.shown, &failure))
    }

    /// A watch for refusals of what is sent to `subject` from now on; see [`Violations::next`].
    pub(crate) fn violations<'s>(&'s self, subject: &'s str) -> Violations<'s> {
        let mut news = self.news.clone();
        let seen = news.borrow_and_update().violations;
        Violations { news, seen, subject, inbox_refused: &self.inbox_refused }
    }

    /// Refuses servers that are too old.
    ///
    /// # Errors
    ///
    /// [`Error::Unsafe`] names the version.
    pub(crate) fn check_version(&self) -> Result<(), Error> {
        match self.client.try_server_info() {
            Some(info) => check_version(&info.version),
            None => Ok(()),
        }
    }
}

/// Waits for the server to say that the account may not do something.
///
/// It does so by a message of its own, beside the request, which is then never answered.
pub(crate) struct Violations<'s> {
    news: watch::Receiver<News>,
    seen: u64,
    subject: &'s str,
    inbox_refused: &'s str,
}

impl Violations<'_> {
    /// Returns once the server refused the subject, or the inbox that answers would come to.
    pub(crate) async fn next(&mut self) -> Error {
        loop {
            if self.news.changed().await.is_err() {
                // The client is gone: its own error is the better one.
                std::future::pending::<()>().await;
            }
            let news = self.news.borrow_and_update().clone();
            let ours = news.violation.contains(&format!("\"{}\"", self.subject));
            if news.violations > self.seen && (ours || news.violation.contains(self.inbox_refused)) {
                return denied(news.violation);
            }
            self.seen = news.violations;
        }
    }
}

async fn options(config: &NatsConfig, news: &Arc<watch::Sender<News>>) -> Result<ConnectOptions, Error> {
    let mut options = ConnectOptions::new();
    options = match &config.credentials {
        None => options,
        Some(Credentials::Token(token)) => options.token(token.reveal().to_owned()),
        Some(Credentials::UserPassword(user, password)) => {
            options.user_and_password(user.clone(), password.reveal().to_owned())
        }
        Some(Credentials::Nkey(seed)) => options.nkey(seed.reveal().to_owned()),
        Some(Credentials::File(path)) => options.credentials_file(path).await.map_err(|err| {
            Invalid::new("credentials file", path.to_string_lossy(), format!("must be a .creds file: {}", err.kind()))
        })?,
    };
    // One of the URLs may be the only one that says so: no secret goes to the others in the clear.
    options = options.require_tls(config.wants_tls());
    if let Some(tls) = &config.tls {
        if let Some(ca) = &tls.ca {
            options = options.add_root_certificates(ca.clone());
        }
        if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
    }
    let news = Arc::clone(news);
    Ok(options
        .name("multidc")
        .custom_inbox_prefix(&config.inbox_prefix)
        .ping_interval(PING_INTERVAL)
        .connection_timeout(config.request_timeout.min(Duration::from_secs(5)))
        // Calls are bounded as a whole.
        .request_timeout(None)
        .max_reconnects(None)
        .reconnect_delay_callback(|attempts| backoff(attempts, rand::random()))
        .event_callback(move |event| {
            report(&news, &event);
            std::future::ready(())
        }))
}

/// The pause before the `attempts`th try: doubles from 50 ms to the cap, then a random half of it is taken off.
fn backoff(attempts: usize, random: u8) -> Duration {
    let doublings = u32::try_from(attempts.saturating_sub(1)).unwrap_or(u32::MAX).min(16);
    let full = (Duration::from_millis(50) * 2_u32.pow(doublings)).min(MAX_BACKOFF);
    full - full.mul_f64(f64::from(random) / 512.0)
}

fn report(news: &watch::Sender<News>, event: &Event) {
    match event {
        Event::Connected => {
            tracing::info!("connected to NATS");
            news.send_modify(|news| news.failure = None);
        }
        Event::Disconnected => {
            tracing::warn!("the connection to NATS was lost; reconnecting");
            news.send_modify(|_| {});
        }
        Event::ClientError(ClientError::Other(why)) => {
            tracing::debug!(why, "connecting to NATS failed");
            news.send_modify(|news| news.failure = Some(why.clone()));
        }
        Event::ServerError(ServerError::AuthorizationViolation) => {
            tracing::error!("NATS refused our credentials");
            news.send_modify(|news| news.failure = Some("authorization violation".to_owned()));
        }
        Event::ServerError(ServerError::Other(why)) => {
            tracing::warn!(why, "NATS reports an error");
            if why.to_ascii_lowercase().contains("permissions violation") {
                news.send_modify(|news| {
                    news.violation.clone_from(why);
                    news.violations += 1;
                });
            }
        }
        other => tracing::debug!(event = %other, "NATS"),
    }
}

fn servers(config: &NatsConfig) -> Vec<String> {
    config.servers.iter().map(|server| format!("{}:{}", server.host(), server.port())).collect()
}

fn is_refusal(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("authorization") || text.contains("authentication")
}

/// Tells what no waiting mends (an error) from what it may (why, as the value).
fn classify(err: ConnectError, config: &NatsConfig) -> Result<BoxError, Error> {
    // The client tells a server's refusal by other words as an I/O error.
    let text = chain(&err);
    match err.kind() {
        ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
            Err(refused(&config.shown(), &text))
        }
        ConnectErrorKind::Tls => Err(Invalid::new("tls", text, "must be files that TLS can use").into()),
        ConnectErrorKind::ServerParse => Err(Invalid::new("url", text, "must be a server's address").into()),
        _ => match tls_refusal(&err) {
            Some(why) => Err(denied(why)),
            None if is_refusal(&text) => Err(refused(&config.shown(), &text)),
            None => Ok(err.into()),
        },
    }
}

/// The servers took `shown` for nobody they know: which of the credentials that is, and their own words.
fn refused(shown: &str, words: &str) -> Error {
    denied(format!("the servers do not let in {shown} ({words})"))
}

/// Why one of the two sides refused the other's certificate.
fn tls_refusal(err: &ConnectError) -> Option<String> {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(err);
    while let Some(err) = source {
        // What an I/O error wraps is not among its sources.
        let inner = err.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(tls) = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            return dc_controlplane::tls::refusal(tls);
        }
        source = err.source();
    }
    dc_controlplane::tls::refusal(err)
}

fn was_hung_up(err: &ConnectError) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(err);
    while let Some(err) = source {
        if let Some(err) = err.downcast_ref::<std::io::Error>() {
            return matches!(err.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof);
        }
        source = err.source();
    }
    false
}

fn chain(err: &dyn std::error::Error) -> String {
    let mut text = err.to_string();
    let mut source = err.source();
    while let Some(err) = source {
        let more = err.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = err.source();
    }
    text
}

fn check_version(version: &str) -> Result<(), Error> {
    let mut parts = version.split('.').map(|part| part.parse::<u64>().ok());
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) < OLDEST_SERVER => {
            let (oldest, minor) = OLDEST_SERVER;
            Err(cannot_work(vec![format!(
                "the server is NATS {version}; {oldest}.{minor} or newer is needed, for leases on single keys"
            )]))
        }
        (Some(_), Some(_)) => Ok(()),
        _ => {
            tracing::warn!(version, "a NATS server of unknown version");
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p12_reconnects_back_off_with_jitter_up_to_a_cap() {
        for random in [0, 128, 255] {
            let pauses: Vec<_> = (0..40).map(|attempts| backoff(attempts, random)).collect();
            assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]), "{pauses:?}");
            assert!(*pauses.last().unwrap() <= MAX_BACKOFF && *pauses.last().unwrap() >= MAX_BACKOFF / 2);
            assert!(pauses[0] <= Duration::from_millis(50) && pauses[0] >= Duration::from_millis(25));
        }
        assert_ne!(backoff(9, 1), backoff(9, 200));
    }

    #[test]
    fn servers_that_are_too_old_are_refused_by_version() {
        for old in ["2.9.15", "2.10.27", "1.4.1", "2.10.0-RC.1"] {
            let err = check_version(old).unwrap_err();
            assert!(matches!(err, Error::Unsafe { .. }) && err.to_string().contains(old), "{err}");
        }
        for good in ["2.11.0", "2.11.0-RC.1", "2.15.1", "3.0.0", "dev"] {
            assert!(check_version(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn refusals_are_told_from_outages() {
        let config = NatsConfig::builder("nats://h").build().unwrap();
        let classify = |err| classify(err, &config);
        let refusal = |text: &str| {
            classify(ConnectError::with_source(ConnectErrorKind::Io, ServerError::Other(text.to_owned()))).is_err()
        };
        assert!(refusal("User Authentication Expired"));
        assert!(refusal("Account Authentication Expired"));
        assert!(!refusal("maximum connections exceeded"));
        assert!(classify(ConnectError::new(ConnectErrorKind::AuthorizationViolation)).is_err());
        assert!(classify(ConnectError::new(ConnectErrorKind::TimedOut)).is_ok());
        assert!(classify(ConnectError::new(ConnectErrorKind::Dns)).is_ok());
    }
}
