//! Opening a control plane by URL, for programs that are told at run time which one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use dc_controlplane::ControlPlane;
use dc_core::Invalid;

/// Why a control plane could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL breaks a rule. Passwords in it are not shown.
    #[error(transparent)]
    Invalid(#[from] Invalid),
    /// The backend is known, and not compiled in.
    #[error("this program was built without the feature `{feature}`")]
    NotBuilt {
        /// The feature of `multidc`.
        feature: &'static str,
    },
    /// The backend refused: bad credentials, unsafe settings in strict mode, or not there with `require_at_start`.
    #[error(transparent)]
    Backend(#[from] dc_controlplane::Error),
}

/// Opens the control plane that `url` names. A store that is away is no error: it is tried for ever (P12).
///
/// - `sqlite:///path/to/file.db?namespace=..`
/// - `nats://user:password@host:4222,host2:4222?bucket=..&replicas=3`, `token@host`, or with `credentials=/path` (a
///   `.creds` file) or `nkey=/path` (a file with a seed); `inbox_prefix=..`; `tls://` for TLS
/// - `etcd://user:password@host:2379,host2:2379?namespace=..`; `etcds://` for TLS
/// - `memory://name`: one store of this process for each name
///
/// Everywhere: `request_timeout=2s` (or `500ms`) and `require_at_start=true`; for NATS and etcd `strict=true`, and
/// `ca`, `certificate`, `key` (paths of PEM files), which mean TLS as well; without `ca`, the platform's roots are trusted.
/// User and password may hold `%`-escapes. `docs/stores.md` says what rights the stores must give.
///
/// # Errors
///
/// [`ConnectError`].
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// # #[cfg(feature = "memory")] {
/// let plane = multidc::connect("memory://demo").await?;
/// assert_eq!(plane.capabilities().backend, "memory");
/// # }
/// let err = multidc::connect("redis://host").await.unwrap_err();
/// assert!(err.to_string().contains("sqlite, nats, tls, etcd or memory"));
/// # Ok::<(), multidc::ConnectError>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub async fn connect(url: &str) -> Result<Arc<dyn ControlPlane>, ConnectError> {
    let scheme = url.split_once(':').map_or("", |(scheme, _)| scheme);
    match scheme {
        "sqlite" => sqlite(url).await,
        "nats" | "tls" => nats(url).await,
        "etcd" | "etcds" => etcd(url).await,
        "memory" => memory(url),
        _ => Err(refuse(url, "must begin with sqlite, nats, tls, etcd or memory, and `:`").into()),
    }
}

/// Reads a URL as [`connect`] does and connects to nothing: the configuration as it may be shown. For fuzzers.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub fn check_url(url: &str) -> Result<String, Invalid> {
    match url.split_once(':').map_or("", |(scheme, _)| scheme) {
        #[cfg(feature = "sqlite")]
        "sqlite" => dc_sqlite::SqliteConfig::from_url(url).map(|config| format!("{config:?}")),
        #[cfg(feature = "nats")]
        "nats" | "tls" => nats_config(url).map(|config| format!("{config:?}")),
        #[cfg(feature = "etcd")]
        "etcd" | "etcds" => etcd_config(url).map(|config| format!("{config:?}")),
        _ => Err(refuse(url, "must begin with sqlite, nats, tls or etcd, and `:`")),
    }
}

/// A URL as it may be shown: what stands before `@` is left out, whatever else is wrong with it, and so are the options,
/// which may be misspelt secrets.
fn shown(url: &str) -> String {
    let shown = match url.rsplit_once('@') {
        None => url.to_owned(),
        Some((hidden, rest)) => match hidden.split_once("://") {
            Some((scheme, _)) if scheme.bytes().all(|b| b.is_ascii_alphanumeric()) => format!("{scheme}://..@{rest}"),
            _ => format!("..@{rest}"),
        },
    };
    match shown.split_once('?') {
        Some((base, _)) => format!("{base}?.."),
        None => shown,
    }
}

fn refuse(url: &str, rule: &str) -> Invalid {
    Invalid::new("control plane url", shown(url), rule)
}

/// The options after `?`, each to be taken once; what is left over is refused.
#[cfg_attr(
    not(any(feature = "nats", feature = "etcd", feature = "memory")),
    allow(dead_code, reason = "one backend or none")
)]
struct Query<'a> {
    url: &'a str,
    options: BTreeMap<&'a str, &'a str>,
}

#[cfg_attr(
    not(all(feature = "nats", feature = "etcd")),
    allow(dead_code, reason = "each backend takes its own options")
)]
impl<'a> Query<'a> {
    fn split(url: &'a str) -> Result<(&'a str, Self), Invalid> {
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let mut options = BTreeMap::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (key, value) =
                option.split_once('=').ok_or_else(|| refuse(url, "options are `key=value`, joined by `&`"))?;
            if options.insert(key, value).is_some() {
                return Err(refuse(url, &format!("option `{key}` is given twice")));
            }
        }
        Ok((base, Self { url, options }))
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        self.options.remove(key)
    }

    fn flag(&mut self, key: &str) -> Result<Option<bool>, Invalid> {
        self.take(key)
            .map(|value| value.parse().map_err(|_| refuse(self.url, &format!("option `{key}` must be true or false"))))
            .transpose()
    }

    fn number(&mut self, key: &str) -> Result<Option<u32>, Invalid> {
        self.take(key)
            .map(|value| value.parse().map_err(|_| refuse(self.url, &format!("option `{key}` must be a number"))))
            .transpose()
    }

    fn duration(&mut self, key: &str) -> Result<Option<Duration>, Invalid> {
        let Some(text) = self.take(key) else { return Ok(None) };
        let wrong = || refuse(self.url, &format!("option `{key}` must be like `500ms` or `5s`"));
        let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let number: u64 = digits.parse().map_err(|_| wrong())?;
        match unit {
            "ms" => Ok(Some(Duration::from_millis(number))),
            "s" => Ok(Some(Duration::from_secs(number))),
            _ => Err(wrong()),
        }
    }

    #[cfg(any(feature = "nats", feature = "etcd"))]
    fn tls(&mut self) -> Option<dc_controlplane::config::TlsFiles> {
        let (ca, certificate, key) = (self.take("ca"), self.take("certificate"), self.take("key"));
        if ca.is_none() && certificate.is_none() && key.is_none() {
            return None;
        }
        let path = |text: Option<&str>| text.map(Into::into);
        Some(dc_controlplane::config::TlsFiles { ca: path(ca), certificate: path(certificate), key: path(key) })
    }

    fn end(self) -> Result<(), Invalid> {
        let hidden = self.url.rsplit_once('@').is_some_and(|(before, _)| before.contains('?'));
        match self.options.keys().next() {
            None => Ok(()),
            // It may be the end of a password.
            Some(_) if hidden => {
                Err(refuse(self.url, "must write a `?` in a user or password as %3F; or an option is not known"))
            }
            Some(key) => Err(refuse(self.url, &format!("option `{key}` is not known for this control plane"))),
        }
    }
}

#[cfg(feature = "sqlite")]
async fn sqlite(url: &str) -> Result<Arc<dyn ControlPlane>, ConnectError> {
    let plane = dc_sqlite::SqliteControlPlane::connect(dc_sqlite::SqliteConfig::from_url(url)?).await?;
    Ok(Arc::new(plane))
}

#[cfg(not(feature = "sqlite"))]
async fn sqlite(_: &str) -> Result<Arc<dyn ControlPlane>, ConnectError> {
    Err(ConnectError::NotBuilt { feature: "sqlite" })
}

#[cfg(feature = "nats")]
async fn nats(url: &str) -> Result<Arc<dyn ControlPlane>, ConnectError> {
    Ok(Arc::new(dc_nats::NatsControlPlane::connect(nats_config(url)?).await?))
}

#[cfg(feature = "nats")]
fn nats_config(url: &str) -> Result<dc_nats::NatsConfig, Invalid> {
    let (base, mut query) = Query::split(url)?;
    let mut config = dc_nats::NatsConfig::builder(base);
    if let Some(bucket) = query.take("bucket").or_else(|| query.take("namespace")) {
        config = config.bucket(bucket);
    }
    if let Some(replicas) = query.number("replicas")? {
        config = config.replicas(replicas);
    }
    if let Some(path) = query.take("credentials") {
        config = config.credentials_file(path);
    }
    if let Some(path) = query.take("nkey") {
        let unreadable = |_| Invalid::new("nkey", path, "must be the path of a readable file with a seed");
        config = config.nkey(std::fs::read_to_string(path).map_err(unreadable)?.trim());
    }
    if let Some(prefix) = query.take("inbox_prefix") {
        config = config.inbox_prefix(prefix);
    }
    if let Some(tls) = query.tls() {
        config = config.tls(tls);
    }
    if let Some(timeout) = query.duration("request_timeout")? {
        config = config.request_timeout(timeout);
    }
    if let Some(strict) = query.flag("strict")? {
        config = config.strict(strict);
    }
    if let Some(require) = query.flag("require_at_start")? {
        config = config.require_at_start(require);
    }
    query.end()?;
    config.build()
}

#[cfg(not(feature = "nats"))]
async fn nats(_: &str) -> Result<Arc<dyn ControlPlane>, ConnectError> {
    Err(ConnectError::NotBuilt { feature: "nats" })
}

#[cfg(feature = "etcd")]
async fn etcd(url: &str) -> Result<Arc<dyn ControlPlane>, ConnectError> {
    Ok(Arc::new(dc_etcd::EtcdControlPlane::connect(etcd_config(url)?).await?))
}

#[cfg(feature = "etcd")]
fn etcd_config(url: &str) -> Result<dc_etcd::EtcdConfig, Invalid> {
    use dc_controlplane::config::unescape;

    let (base, mut query) = Query::split(url)?;
    let wrong = || refuse(url, "must be `etcd://host:port` or `etcds://host:port`");
    let (scheme, hosts) = base.split_once("://").ok_or_else(wrong)?;
    let (user, hosts) = match hosts.rsplit_once('@') {
        None => (None, hosts),
        Some((user, hosts)) => {
            let (name, password) =
                user.split_once(':').ok_or_else(|| refuse(url, "what stands before `@` must be `user:password`"))?;
            let pair = unescape(name).zip(unescape(password));
            (Some(pair.ok_or_else(|| refuse(url, "must hold legal %-escapes"))?), hosts)
        }
    };
    let tls = query.tls();
    let scheme = if tls.is_some() || scheme == "etcds" { "https" } else { "http" };
    let endpoints = hosts.split(',').map(|host| format!("{scheme}://{host}"));
    let mut config = dc_etcd::EtcdConfig::builder(endpoints);
    if let Some((name, password)) = user {
        config = config.user(name, password);
    }
    if let Some(tls) = tls {
        config = config.tls(tls);
    }
    if let Some(namespace) = query.take("namespace") {
        config = config.namespace(namespace);
    }
    if let Some(timeout) = query.duration("request_timeout")? {
        config = config.request_timeout(timeout);
    }
    if let Some(strict) = query.flag("strict")? {
        config = config.strict(strict);
    }
    if let Some(require) = query.flag("require_at_start")? {
        config = config.require_at_start(require);
    }
    query.end()?;
    config.build()
}

#[cfg(not(feature = "etcd"))]
async fn etcd(_: &str) -> Result<Arc<dyn ControlPlane>, ConnectError> {
    Err(ConnectError::NotBuilt { feature: "etcd" })
}

#[cfg(feature = "memory")]
fn memory(url: &str) -> Result<Arc<dyn ControlPlane>, ConnectError> {
    use std::sync::{LazyLock, Mutex, PoisonError};

    use dc_controlplane::{
        TokioClock,
        memory::{MemoryControlPlane, MemoryOptions, MemoryStore},
    };

    static STORES: LazyLock<Mutex<BTreeMap<String, MemoryStore>>> = LazyLock::new(Mutex::default);

    let (base, mut query) = Query::split(url)?;
    let name = base.strip_prefix("memory://").filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| refuse(url, "must be `memory://name`"))?;
    let mut options = MemoryOptions::default();
    if let Some(timeout) = query.duration("request_timeout")? {
        options.request_timeout = timeout;
    }
    query.flag("require_at_start")?;
    query.end()?;
    // The map is never left half-changed, so a poisoned lock holds a good one.
    let mut stores = STORES.lock().unwrap_or_else(PoisonError::into_inner);
    let store = stores.entry(name.to_owned()).or_insert_with(|| MemoryStore::new(Arc::new(TokioClock)));
    Ok(Arc::new(MemoryControlPlane::with(store, options)))
}

#[cfg(not(feature = "memory"))]
fn memory(_: &str) -> Result<Arc<dyn ControlPlane>, ConnectError> {
    Err(ConnectError::NotBuilt { feature: "memory" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shown_url_hides_its_password() {
        assert_eq!(shown("nats://me:secret@host:4222"), "nats://..@host:4222");
        assert_eq!(shown("sqlite:///a/b"), "sqlite:///a/b");
        assert_eq!(shown("nats://me:sec?ret@host:4222?token=secret"), "nats://..@host:4222?..");
        assert_eq!(shown("nats://host?token=secret"), "nats://host?..");
        // Malformed ones too.
        assert_eq!(shown("etcd:me:secret@host"), "..@host");
        assert_eq!(shown("etcd:me:secret://x@host"), "..@host");
    }

    #[test]
    fn options_are_taken_once_and_none_is_left_over() {
        let (base, mut query) = Query::split("etcd://h:1?request_timeout=500ms&strict=true&odd=1").unwrap();
        assert_eq!(base, "etcd://h:1");
        assert_eq!(query.duration("request_timeout"), Ok(Some(Duration::from_millis(500))));
        assert_eq!(query.flag("strict"), Ok(Some(true)));
        assert!(query.end().unwrap_err().rule.contains("`odd`"));

        assert!(Query::split("x:?a").is_err());
        assert!(Query::split("x:?a=1&a=2").is_err());
        let (_, mut query) = Query::split("x:?t=5h&f=maybe").unwrap();
        assert!(query.duration("t").is_err());
        assert!(query.flag("f").is_err());
    }

    #[cfg(feature = "etcd")]
    #[test]
    fn etcds_and_files_mean_tls_and_escapes_are_undone() {
        let config = etcd_config("etcds://me:s%40crt@a:1,b:2").unwrap();
        assert_eq!(config.endpoints(), ["https://a:1", "https://b:2"]);
        assert_eq!(etcd_config("etcd://a:1").unwrap().endpoints(), ["http://a:1"]);
        let shown = format!("{config:?}");
        assert!(shown.contains("me") && !shown.contains("s@crt") && !shown.contains("s%40crt"), "{shown}");
        for url in ["etcds://me:s3cret%zz@a", "etcds://s3cret@a", "etcds://a?password=s3cret", "etcds://a?ca=/nowhere"]
        {
            let err = etcd_config(url).unwrap_err();
            assert!(!err.to_string().contains("s3cret"), "{err}");
        }
    }

    #[cfg(feature = "nats")]
    #[test]
    fn nats_takes_a_seed_from_a_file_and_an_inbox_of_ones_own() {
        let err = nats_config("nats://a?nkey=/nowhere/seed").unwrap_err();
        assert_eq!(err.field, "nkey");
        assert!(nats_config("tls://me:s3cret@a,b?inbox_prefix=_INBOX_me").is_ok());
        assert_eq!(nats_config("nats://a?inbox_prefix=a.*").unwrap_err().field, "inbox prefix");
        assert!(!nats_config("nats://a?token=s3cret").unwrap_err().to_string().contains("s3cret"));
        let err = nats_config("nats://me:s3?cret=1@a").unwrap_err();
        assert!(err.rule.contains("%3F") && !err.to_string().contains("cret=") && !err.rule.contains("cret"), "{err}");
    }

    #[cfg(feature = "memory")]
    #[tokio::test]
    async fn one_memory_store_for_each_name() {
        let (a, b) = (connect("memory://one").await.unwrap(), connect("memory://one").await.unwrap());
        let other = connect("memory://two").await.unwrap();
        assert_eq!(a.store().await.unwrap(), b.store().await.unwrap());
        assert_ne!(a.store().await.unwrap(), other.store().await.unwrap());
        assert!(connect("memory://").await.is_err());
    }
}
