//! What a user sets, checked before anything is sent.

use std::time::Duration;

use dc_controlplane::config::{Secret, TlsFiles, check_duration, check_namespace};
use dc_core::{Endpoint, Invalid};

/// How to reach etcd. Holding one proves that it is valid: [`EtcdConfigBuilder::build`] is the only way in.
///
/// ```
/// use std::time::Duration;
/// use dc_etcd::EtcdConfig;
/// let config = EtcdConfig::builder(["http://127.0.0.1:2379"])
///     .namespace("shop")
///     .request_timeout(Duration::from_secs(2))
///     .build()?;
/// assert_eq!(config.endpoints(), ["http://127.0.0.1:2379"]);
/// # Ok::<(), dc_core::Invalid>(())
/// ```
#[derive(Clone, Debug)]
pub struct EtcdConfig {
    endpoints: Vec<String>,
    namespace: String,
    request_timeout: Duration,
    tls: Option<TlsFiles>,
    user: Option<(String, Secret)>,
    strict: bool,
    require_at_start: bool,
    keepalive_interval: Duration,
    keepalive_timeout: Duration,
}

impl EtcdConfig {
    /// Starts from the defaults; `endpoints` are `http://host:port`, `https://host:port` or `host:port`.
    /// Without a port, 2379.
    pub fn builder<S: Into<String>>(endpoints: impl IntoIterator<Item = S>) -> EtcdConfigBuilder {
        EtcdConfigBuilder(Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            namespace: "multidc".to_owned(),
            request_timeout: Duration::from_secs(5),
            tls: None,
            user: None,
            strict: false,
            require_at_start: false,
            keepalive_interval: Duration::from_secs(2),
            keepalive_timeout: Duration::from_secs(1),
        })
    }

    /// Each member's address, with its scheme; no duplicates.
    pub fn endpoints(&self) -> &[String] {
        &self.endpoints
    }

    /// The namespace: all keys begin with it and a slash.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// How long a call may take, all its attempts included.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    pub(crate) fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }

    pub(crate) fn user(&self) -> Option<(&str, &Secret)> {
        self.user.as_ref().map(|(name, password)| (name.as_str(), password))
    }

    pub(crate) fn strict(&self) -> bool {
        self.strict
    }

    pub(crate) fn require_at_start(&self) -> bool {
        self.require_at_start
    }

    pub(crate) fn keepalive(&self) -> (Duration, Duration) {
        (self.keepalive_interval, self.keepalive_timeout)
    }

    /// How often an open watch asks how far it is. Below the keepalive interval, so that HTTP/2 pings
    /// stay rare: etcd closes connections that ping more than every 5 s without traffic between.
    pub(crate) fn progress_interval(&self) -> Duration {
        self.keepalive_interval * 3 / 4
    }

    /// Whether the user's name and password would travel unencrypted to another machine.
    pub(crate) fn bares_password(&self) -> bool {
        let local = |url: &String| {
            let host = url.strip_prefix("http://").and_then(|rest| rest.parse::<Endpoint>().ok());
            host.is_none_or(|host| {
                host.host() == "localhost" || host.socket_addr().is_some_and(|addr| addr.ip().is_loopback())
            })
        };
        self.user.is_some() && !self.endpoints.iter().all(local)
    }
}

/// An [`EtcdConfig`] that is being described; set only what differs from the defaults.
#[derive(Clone, Debug)]
pub struct EtcdConfigBuilder(EtcdConfig);

impl EtcdConfigBuilder {
    /// Where our keys live, `multidc` by default: systems that share an etcd take one each.
    #[must_use]
    pub fn namespace(mut self, namespace: impl Into<String>) -> Self {
        self.0.namespace = namespace.into();
        self
    }

    /// How long a call may take, all attempts included. Default 5 s; 100 ms to 5 min.
    #[must_use]
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.0.request_timeout = timeout;
        self
    }

    /// What to trust and who we are; needs `https` endpoints. Without it, `https` endpoints are
    /// checked against the platform's roots.
    #[must_use]
    pub fn tls(mut self, files: TlsFiles) -> Self {
        self.0.tls = Some(files);
        self
    }

    /// User and password of etcd's own authentication.
    #[must_use]
    pub fn user(mut self, name: impl Into<String>, password: impl Into<String>) -> Self {
        self.0.user = Some((name.into(), Secret::new(password)));
        self
    }

    /// Refuses to work on a store with findings (P13). Default off: they are warned about.
    #[must_use]
    pub fn strict(mut self, strict: bool) -> Self {
        self.0.strict = strict;
        self
    }

    /// Makes [`connect`](crate::EtcdControlPlane::connect) fail where no server answers in time. Default off.
    #[must_use]
    pub fn require_at_start(mut self, require: bool) -> Self {
        self.0.require_at_start = require;
        self
    }

    /// How long a connection in use may be silent before it is tested, and how long the test may take.
    /// Default 2 s and 1 s: a frozen server is noticed in about 3 s.
    #[must_use]
    pub fn keepalive(mut self, interval: Duration, timeout: Duration) -> Self {
        self.0.keepalive_interval = interval;
        self.0.keepalive_timeout = timeout;
        self
    }

    /// Checks every rule.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, the value and the rule. Secrets are not shown.
    pub fn build(self) -> Result<EtcdConfig, Invalid> {
        let mut config = self.0;
        check_namespace("namespace", &config.namespace)?;
        let five_minutes = Duration::from_secs(300);
        check_duration("request timeout", config.request_timeout, Duration::from_millis(100), five_minutes)?;
        check_duration("keepalive interval", config.keepalive_interval, Duration::from_millis(100), five_minutes)?;
        check_duration("keepalive timeout", config.keepalive_timeout, Duration::from_millis(100), five_minutes)?;
        if let Some((name, password)) = &config.user {
            if name.is_empty() {
                return Err(Invalid::new("user", name, "must not be empty where a password is set"));
            }
            if password.reveal().is_empty() {
                return Err(Invalid::new("password", "", "must not be empty where a user is set"));
            }
        }
        if let Some(tls) = &config.tls {
            tls.check()?;
        }
        let mut endpoints: Vec<String> = Vec::new();
        for text in &config.endpoints {
            let endpoint = endpoint(text, config.tls.is_some())?;
            if !endpoints.contains(&endpoint) {
                endpoints.push(endpoint);
            }
        }
        let Some(first) = endpoints.first() else {
            return Err(Invalid::new("endpoints", "", "must be at least one"));
        };
        let scheme = |url: &str| url.starts_with("https://");
        if let Some(other) = endpoints.iter().find(|url| scheme(url) != scheme(first)) {
            return Err(Invalid::new("endpoints", other, "must be all http or all https"));
        }
        config.endpoints = endpoints;
        Ok(config)
    }
}

/// Brings an endpoint into the form `scheme://host:port`.
fn endpoint(text: &str, tls: bool) -> Result<String, Invalid> {
    if text.contains('@') {
        let rule = "must not hold a user or password: set them by `user`";
        return Err(Invalid::new("endpoint", "<hidden>", rule));
    }
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return Err(Invalid::new("endpoint", text, "must begin with http:// or https://")),
        None if tls => ("https", text),
        None => ("http", text),
    };
    if tls && scheme == "http" {
        return Err(Invalid::new("endpoint", text, "must be https where TLS is set"));
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let has_port = rest.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    let with_port = if has_port { rest.to_owned() } else { format!("{rest}:2379") };
    let checked: Endpoint = with_port.parse().map_err(|err: Invalid| Invalid::new("endpoint", text, err.rule))?;
    Ok(format!("{scheme}://{checked}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_take_the_forms_that_users_write() {
        for (text, tls, want) in [
            ("http://127.0.0.1:2379", false, "http://127.0.0.1:2379"),
            ("etcd-1.example", false, "http://etcd-1.example:2379"),
            ("etcd-1.example:4001", true, "https://etcd-1.example:4001"),
            ("https://[::1]", false, "https://[::1]:2379"),
            ("https://[::1]:2380/", false, "https://[::1]:2380"),
        ] {
            assert_eq!(endpoint(text, tls).expect(text), want);
        }
    }

    #[test]
    fn each_bad_field_is_refused_by_name() {
        let good = || EtcdConfig::builder(["http://127.0.0.1:2379"]);
        let ms = Duration::from_millis;
        let gone = TlsFiles { ca: Some("/nonexistent/ca.pem".into()), ..TlsFiles::default() };
        let half = TlsFiles { certificate: Some("/nonexistent/c.pem".into()), ..TlsFiles::default() };
        for (builder, field, rule) in [
            (EtcdConfig::builder([""; 0]), "endpoints", "at least one"),
            (EtcdConfig::builder(["ftp://x"]), "endpoint", "http://"),
            (EtcdConfig::builder(["http://a b"]), "endpoint", "DNS name"),
            (EtcdConfig::builder(["http://a/v3"]), "endpoint", "DNS name"),
            (EtcdConfig::builder(["http://a:0"]), "endpoint", "1 to 65535"),
            (EtcdConfig::builder(["http://a", "https://b"]), "endpoints", "all http or all https"),
            (good().namespace("a/b"), "namespace", "letters"),
            (good().namespace(""), "namespace", "1 to 63"),
            (good().request_timeout(ms(1)), "request timeout", "100ms"),
            (good().keepalive(ms(1), ms(500)), "keepalive interval", "100ms"),
            (good().keepalive(ms(500), ms(1)), "keepalive timeout", "100ms"),
            (good().user("", "x"), "user", "not be empty"),
            (good().user("x", ""), "password", "not be empty"),
            (EtcdConfig::builder(["https://a"]).tls(gone), "tls ca", "readable"),
            (EtcdConfig::builder(["https://a"]).tls(half), "tls certificate", "tls key"),
            (good().tls(TlsFiles::default()), "endpoint", "https"),
        ] {
            let err = builder.build().expect_err(field);
            assert_eq!(err.field, field);
            assert!(err.rule.contains(rule), "{err}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let config = EtcdConfig::builder(["http://127.0.0.1:2379"]).user("ann", "hunter2").build().unwrap();
        assert!(!format!("{config:?}").contains("hunter2"));
        let err = EtcdConfig::builder(["http://ann:hunter2@127.0.0.1:2379"]).build().unwrap_err();
        assert!(!err.to_string().contains("hunter2"), "{err}");
    }

    #[test]
    fn a_password_in_the_clear_is_noticed_off_the_loopback_only() {
        let bares = |url: &str| EtcdConfig::builder([url]).user("ann", "x").build().unwrap().bares_password();
        assert!(bares("http://etcd.example"));
        assert!(bares("http://10.0.0.1:2379"));
        assert!(!bares("http://127.0.0.1:2379"));
        assert!(!bares("http://[::1]:2379"));
        assert!(!bares("https://etcd.example"));
    }
}
