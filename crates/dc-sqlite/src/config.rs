//! Configuration: which file, which namespace, how long a call may take.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dc_controlplane::config::{check_duration, check_namespace};
use dc_core::Invalid;

use crate::{BootClock, MachineClock};

/// Where the store is and how it is used. Holding one proves it is valid.
#[derive(Clone, Debug)]
pub struct SqliteConfig {
    path: PathBuf,
    namespace: String,
    request_timeout: Duration,
    require_at_start: bool,
    create: bool,
    document_poll: Duration,
    clock: Arc<dyn MachineClock>,
}

impl SqliteConfig {
    /// Starts from the defaults, for the store in the file at `path`.
    pub fn builder(path: impl Into<PathBuf>) -> SqliteConfigBuilder {
        SqliteConfigBuilder(Self {
            path: path.into(),
            namespace: "multidc".to_owned(),
            request_timeout: Duration::from_secs(5),
            require_at_start: false,
            create: true,
            document_poll: Duration::from_millis(200),
            clock: Arc::new(BootClock::new()),
        })
    }

    /// Reads a URL: `sqlite:///absolute/path.db` or `sqlite:relative/path.db`, with `%XX` for odd bytes and, after `?`,
    /// `namespace=..`, `request_timeout=..` (`500ms`, `5s`), `require_at_start=true|false`, `create=true|false` and `document_poll=..`,
    /// joined by `&`.
    ///
    /// ```
    /// use dc_sqlite::SqliteConfig;
    /// let config = SqliteConfig::from_url("sqlite:///var/lib/app/dcs.db?namespace=blue&request_timeout=2s")?;
    /// assert_eq!(config.path(), std::path::Path::new("/var/lib/app/dcs.db"));
    /// assert_eq!(config.namespace(), "blue");
    /// # Ok::<(), dc_core::Invalid>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, the value and the rule.
    pub fn from_url(url: &str) -> Result<Self, Invalid> {
        let refuse = |rule: &str| Invalid::new("control plane url", url, rule);
        let rest = url.strip_prefix("sqlite:").ok_or_else(|| refuse("must begin with `sqlite:`"))?;
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (rest, None),
        };
        let path = match path.strip_prefix("//") {
            Some(path) if path.starts_with('/') => path,
            Some(_) => {
                return Err(refuse("a SQLite file is on this machine: write `sqlite:///path`, with three slashes"));
            }
            None => path,
        };
        let mut builder = Self::builder(decode(path).ok_or_else(|| refuse("`%` must be followed by two hex digits"))?);
        for pair in query.into_iter().flat_map(|query| query.split('&')) {
            let (key, value) = pair.split_once('=').ok_or_else(|| refuse("parameters must be `name=value`"))?;
            builder = match key {
                "namespace" => builder.namespace(value),
                "request_timeout" => {
                    let timeout = humantime::parse_duration(value);
                    let rule = "must be a duration such as `500ms` or `5s`";
                    builder.request_timeout(timeout.map_err(|_| Invalid::new(key, value, rule))?)
                }
                "require_at_start" => builder.require_at_start(truth(key, value)?),
                "create" => builder.create(truth(key, value)?),
                "document_poll" => {
                    let interval = humantime::parse_duration(value);
                    let rule = "must be a duration such as `50ms` or `1s`";
                    builder.document_poll(interval.map_err(|_| Invalid::new(key, value, rule))?)
                }
                other => {
                    let rule = "must be namespace, request_timeout, require_at_start, create or document_poll";
                    return Err(Invalid::new("control plane url parameter", other, rule));
                }
            };
        }
        builder.build()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The namespace: a store of its own within the file.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How long a call may take (P11).
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// How often those who watch ownership documents look for changes (O6).
    pub fn document_poll(&self) -> Duration {
        self.document_poll
    }

    pub(crate) fn makes_the_file(&self) -> bool {
        self.create
    }

    pub(crate) fn requires_file_at_start(&self) -> bool {
        self.require_at_start
    }

    pub(crate) fn clock(&self) -> &Arc<dyn MachineClock> {
        &self.clock
    }
}

/// Starts from the defaults; set only what differs.
#[derive(Clone, Debug)]
pub struct SqliteConfigBuilder(SqliteConfig);

impl SqliteConfigBuilder {
    /// A store of its own within the file: 1 to 63 letters, digits, `_` or `-`. Default `multidc`.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.0.namespace = namespace.into();
        self
    }

    /// How long a call may take (P11): 10 ms to 5 min. Default 5 s.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.0.request_timeout = timeout;
        self
    }

    /// Makes [`connect`](crate::SqliteControlPlane::connect) fail where the file cannot be opened or made in time (P12).
    /// Default false: it is tried again at each call.
    #[must_use]
    pub fn require_at_start(mut self, require: bool) -> Self {
        self.0.require_at_start = require;
        self
    }

    /// Whether the file is made where there is none. Default true; false for tools that look at what is there.
    #[must_use]
    pub fn create(mut self, create: bool) -> Self {
        self.0.create = create;
        self
    }

    /// How often each watch of ownership documents looks for changes (O6): 5 ms to 1 min. Default 200 ms. Each look
    /// is one read transaction; a take-over is noticed so much later.
    #[must_use]
    pub fn document_poll(mut self, interval: Duration) -> Self {
        self.0.document_poll = interval;
        self
    }

    /// The clock that leases are timed on: one that all users of the file share. Default [`BootClock`].
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn MachineClock>) -> Self {
        self.0.clock = clock;
        self
    }

    /// Checks every field.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, the value and the rule.
    pub fn build(self) -> Result<SqliteConfig, Invalid> {
        let shown = self.0.path.to_string_lossy();
        let refuse = |rule: &str| Invalid::new("sqlite path", shown.as_ref(), rule);
        if self.0.path.as_os_str().is_empty() {
            return Err(refuse("must name a file"));
        }
        if shown.starts_with(':') || shown.starts_with("file:") {
            return Err(refuse("must be the path of a file that processes can share, not a URI or `:memory:`"));
        }
        if shown.contains('\0') {
            return Err(refuse("must not contain a zero byte"));
        }
        if shown.ends_with('/') || self.0.path.is_dir() {
            return Err(refuse("must be a file, not a directory"));
        }
        check_namespace("namespace", &self.0.namespace)?;
        let (min, max) = (Duration::from_millis(10), Duration::from_secs(300));
        check_duration("request_timeout", self.0.request_timeout, min, max)?;
        let (min, max) = (Duration::from_millis(5), Duration::from_secs(60));
        check_duration("document_poll", self.0.document_poll, min, max)?;
        Ok(self.0)
    }
}

fn truth(key: &str, value: &str) -> Result<bool, Invalid> {
    value.parse().map_err(|_| Invalid::new(key, value, "must be `true` or `false`"))
}

/// Undoes `%XX`; `None` where an escape is cut short or the result is no UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first == b'%' {
            let hex = std::str::from_utf8(tail.get(..2)?).ok()?;
            if !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            bytes.push(u8::from_str_radix(hex, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(first);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_url_is_refused_or_names_a_file(rest in ".{0,40}") {
            for url in [rest.clone(), format!("sqlite:{rest}"), format!("sqlite:///{rest}"), format!("sqlite:///x?{rest}")] {
                if let Ok(config) = SqliteConfig::from_url(&url) {
                    prop_assert!(!config.path().as_os_str().is_empty(), "{}", url);
                }
            }
        }

        #[test]
        fn any_path_can_be_written_as_a_url(path in "/[^\\x00]{1,30}[^/\\x00]") {
            let escaped: String = path.bytes().map(|b| format!("%{b:02x}")).collect();
            let config = SqliteConfig::from_url(&format!("sqlite:{escaped}"));
            if let Ok(config) = config {
                prop_assert_eq!(config.path(), Path::new(&path));
            } else {
                prop_assert!(Path::new(&path).is_dir(), "{} was refused", path);
            }
        }
    }

    #[test]
    fn p13_defaults_are_filled() {
        let config = SqliteConfig::builder("/x/y.db").build().unwrap();
        assert_eq!((config.namespace(), config.request_timeout()), ("multidc", Duration::from_secs(5)));
    }

    #[test]
    fn p13_each_bad_field_is_refused_by_name() {
        let path = || SqliteConfig::builder("/x/y.db");
        for (builder, field) in [
            (SqliteConfig::builder(""), "sqlite path"),
            (SqliteConfig::builder(":memory:"), "sqlite path"),
            (SqliteConfig::builder("file:x.db?mode=memory"), "sqlite path"),
            (SqliteConfig::builder("/tmp"), "sqlite path"),
            (SqliteConfig::builder("/x/"), "sqlite path"),
            (path().namespace(""), "namespace"),
            (path().namespace("a b"), "namespace"),
            (path().request_timeout(Duration::ZERO), "request_timeout"),
            (path().request_timeout(Duration::from_secs(301)), "request_timeout"),
            (path().document_poll(Duration::from_millis(4)), "document_poll"),
            (path().document_poll(Duration::from_secs(61)), "document_poll"),
        ] {
            let err = builder.clone().build().expect_err(&format!("{builder:?}"));
            assert_eq!(err.field, field, "{builder:?}");
        }
    }

    #[test]
    fn urls_read_as_meant() {
        for (url, path) in [
            ("sqlite:///var/x.db", "/var/x.db"),
            ("sqlite:x.db", "x.db"),
            ("sqlite:./a/x.db", "./a/x.db"),
            ("sqlite:/var/x.db", "/var/x.db"),
            ("sqlite:///a%20b/%C3%BC%3F.db?namespace=n", "/a b/ü?.db"),
        ] {
            assert_eq!(SqliteConfig::from_url(url).expect(url).path(), Path::new(path), "{url}");
        }
    }

    #[test]
    fn malformed_urls_name_the_rule() {
        for (url, field) in [
            ("nats://x", "control plane url"),
            ("sqlite://host/x.db", "control plane url"),
            ("sqlite:", "sqlite path"),
            ("sqlite:///a%2", "control plane url"),
            ("sqlite:///a%+1b", "control plane url"),
            ("sqlite:///a?namespace", "control plane url"),
            ("sqlite:///a?ttl=3s", "control plane url parameter"),
            ("sqlite:///a?namespace=a.b", "namespace"),
            ("sqlite:///a?request_timeout=5", "request_timeout"),
            ("sqlite:///a?require_at_start=yes", "require_at_start"),
            ("sqlite:///a?create=0", "create"),
            ("sqlite:///a?document_poll=soon", "document_poll"),
        ] {
            assert_eq!(SqliteConfig::from_url(url).expect_err(url).field, field, "{url}");
        }
    }
}
