//! What a user sets, checked before anything is sent.

use std::{fmt, path::PathBuf, time::Duration};

use async_nats::ServerAddr;
use dc_controlplane::config::{Secret, TlsFiles, check_duration, check_namespace, unescape};
use dc_core::Invalid;

/// How to reach NATS, and what bucket to use there.
///
/// Holding one proves that it is valid: [`NatsConfigBuilder::build`] is the only way in. `Debug` shows no secret.
///
/// ```
/// use dc_nats::NatsConfig;
/// let config = NatsConfig::builder("nats://10.0.0.1:4222,nats://10.0.0.2:4222").replicas(3).build()?;
/// assert_eq!(config.bucket(), "multidc");
///
/// let err = NatsConfig::builder("nats://10.0.0.1").token("a").nkey("SUAB").build().unwrap_err();
/// assert_eq!(err.field, "credentials");
/// # Ok::<(), dc_core::Invalid>(())
/// ```
#[derive(Clone, Debug)]
pub struct NatsConfig {
    pub(crate) servers: Vec<ServerAddr>,
    pub(crate) bucket: String,
    pub(crate) request_timeout: Duration,
    pub(crate) replicas: u32,
    pub(crate) marker_ttl: Duration,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) strict: bool,
    pub(crate) fsync_always: bool,
    pub(crate) require_at_start: bool,
    pub(crate) inbox_prefix: String,
}

/// How to prove who we are; one kind only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credentials {
    File(PathBuf),
    Nkey(Secret),
    Token(Secret),
    UserPassword(String, Secret),
}

impl Credentials {
    fn kind(&self) -> &'static str {
        match self {
            Self::File(_) => "credentials file",
            Self::Nkey(_) => "nkey",
            Self::Token(_) => "token",
            Self::UserPassword(..) => "user and password",
        }
    }

    /// What was shown to the servers, for errors: no secret.
    fn shown(&self) -> String {
        match self {
            Self::File(path) => format!("the credentials file {}", path.display()),
            Self::Nkey(_) => "the nkey".to_owned(),
            Self::Token(_) => "the token".to_owned(),
            Self::UserPassword(user, _) => format!("user `{user}` with the password given"),
        }
    }
}

impl NatsConfig {
    /// Starts from the defaults. `urls` is one or more of `nats://host:port` or `tls://host:port`, separated
    /// by commas; the scheme and the port (4222) may be left out. `user:password@` or `token@` before the first host
    /// are credentials, for all of them; in these `@`, `/`, `?`, `#` and `,` are written as `%`-escapes (`%2C` for a comma).
    pub fn builder(urls: impl Into<String>) -> NatsConfigBuilder {
        NatsConfigBuilder {
            urls: vec![urls.into()],
            config: Self {
                servers: Vec::new(),
                bucket: "multidc".to_owned(),
                request_timeout: Duration::from_secs(5),
                replicas: 1,
                marker_ttl: Duration::from_secs(600),
                tls: None,
                credentials: None,
                strict: false,
                fsync_always: false,
                require_at_start: false,
                inbox_prefix: "_INBOX".to_owned(),
            },
            credentials: Vec::new(),
        }
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        &self.bucket
    }

    /// How long a call may take.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// What we show to the servers, for errors: no secret.
    pub(crate) fn shown(&self) -> String {
        let certificate = self.tls.as_ref().and_then(|tls| tls.certificate.as_ref());
        match (&self.credentials, certificate) {
            (Some(credentials), _) => credentials.shown(),
            (None, Some(path)) => format!("the client certificate {}, without further credentials", path.display()),
            (None, None) => "a client without credentials".to_owned(),
        }
    }

    /// Whether the connection is to be encrypted, as far as we say.
    pub(crate) fn wants_tls(&self) -> bool {
        self.tls.is_some() || self.servers.iter().any(ServerAddr::tls_required)
    }
}

/// Builds a [`NatsConfig`]; set only what differs from the defaults.
#[derive(Clone)]
pub struct NatsConfigBuilder {
    urls: Vec<String>,
    config: NatsConfig,
    credentials: Vec<Credentials>,
}

impl fmt::Debug for NatsConfigBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URLs may still hold a password.
        f.debug_struct("NatsConfigBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl NatsConfigBuilder {
    /// One more server of the same cluster; all are tried.
    pub fn url(mut self, url: impl Into<String>) -> Self {
        self.urls.push(url.into());
        self
    }

    /// The key-value bucket. Default `multidc`; created if it does not exist.
    pub fn bucket(mut self, bucket: impl Into<String>) -> Self {
        self.config.bucket = bucket.into();
        self
    }

    /// How long a call may take (P11). Default 5 s; 100 ms to 5 min.
    pub fn request_timeout(mut self, timeout: Duration) -> Self {
        self.config.request_timeout = timeout;
        self
    }

    /// Copies of the bucket, where it is created: 1 to 5. Default 1; 3 survive the loss of a server.
    pub fn replicas(mut self, replicas: u32) -> Self {
        self.config.replicas = replicas;
        self
    }

    /// How long the trace of a removal is kept, where the bucket is created. A watch that was away longer must
    /// start over. Default 10 min; 1 s to 24 h, rounded up to whole seconds.
    pub fn marker_ttl(mut self, ttl: Duration) -> Self {
        self.config.marker_ttl = ttl;
        self
    }

    /// Talk TLS, with these files. A `tls://` URL alone uses the platform's roots; one of several means all.
    pub fn tls(mut self, files: TlsFiles) -> Self {
        self.config.tls = Some(files);
        self
    }

    /// Credentials as a `.creds` file (user JWT and nkey seed).
    pub fn credentials_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.credentials.push(Credentials::File(path.into()));
        self
    }

    /// Credentials as an nkey seed (`SU..`).
    pub fn nkey(mut self, seed: impl Into<String>) -> Self {
        self.credentials.push(Credentials::Nkey(Secret::new(seed)));
        self
    }

    /// Credentials as a token.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.credentials.push(Credentials::Token(Secret::new(token)));
        self
    }

    /// Credentials as user and password.
    pub fn user_password(mut self, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials.push(Credentials::UserPassword(user.into(), Secret::new(password)));
        self
    }

    /// Whether unsafe server settings are refused instead of warned about (P13). Default false.
    pub fn strict(mut self, strict: bool) -> Self {
        self.config.strict = strict;
        self
    }

    /// The operator's word that the servers run with `sync_interval: always`, which an ordinary account cannot
    /// read (P13). Default false.
    pub fn fsync_always(mut self, always: bool) -> Self {
        self.config.fsync_always = always;
        self
    }

    /// Whether connecting fails when no server answers within the request timeout (P12). Default false.
    pub fn require_at_start(mut self, require: bool) -> Self {
        self.config.require_at_start = require;
        self
    }

    /// What the subjects begin with to which answers are sent. Default `_INBOX`. With one of its own, an account needs
    /// no right to hear the answers to others.
    pub fn inbox_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.config.inbox_prefix = prefix.into();
        self
    }

    /// Checks every rule.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, the value and the rule. No secret is shown.
    pub fn build(self) -> Result<NatsConfig, Invalid> {
        let Self { urls, mut config, mut credentials } = self;
        for urls in &urls {
            check_commas(urls)?;
            for url in urls.split(',') {
                let (server, in_url) = parse_url(url.trim())?;
                config.servers.push(server);
                credentials.extend(in_url);
            }
        }
        credentials.dedup();
        check_namespace("bucket", &config.bucket)?;
        check_namespace("inbox prefix", &config.inbox_prefix)?;
        let timeout = config.request_timeout;
        check_duration("request timeout", timeout, Duration::from_millis(100), Duration::from_secs(300))?;
        if !(1..=5).contains(&config.replicas) {
            return Err(Invalid::new("replicas", config.replicas.to_string(), "must be 1 to 5"));
        }
        check_duration("marker ttl", config.marker_ttl, Duration::from_secs(1), Duration::from_secs(86_400))?;
        config.marker_ttl = whole_seconds(config.marker_ttl);
        if let Some(tls) = &config.tls {
            tls.check()?;
        }
        if credentials.len() > 1 {
            let kinds: Vec<_> = credentials.iter().map(Credentials::kind).collect();
            return Err(Invalid::new("credentials", kinds.join(", "), "must be of one kind, given once"));
        }
        config.credentials = credentials.pop();
        if let Some(credentials) = &config.credentials {
            check_credentials(credentials)?;
        }
        Ok(config)
    }
}

/// `ttl` in whole seconds, rounded up, at least one: the only leases that NATS knows.
pub(crate) fn whole_seconds(ttl: Duration) -> Duration {
    let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
    Duration::from_secs(seconds.max(1))
}

fn check_credentials(credentials: &Credentials) -> Result<(), Invalid> {
    match credentials {
        Credentials::File(path) if !path.is_file() => {
            Err(Invalid::new("credentials file", path.to_string_lossy(), "must be a readable file"))
        }
        Credentials::Nkey(seed) => {
            let seed = seed.reveal();
            let base32 = |b: u8| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b);
            if seed.len() == 58 && seed.starts_with("SU") && seed.bytes().all(base32) {
                Ok(())
            } else {
                Err(Invalid::new("nkey", "<secret>", "must be a user's seed: `SU` and 56 characters of base32"))
            }
        }
        Credentials::Token(token) if token.reveal().is_empty() => Err(Invalid::new("token", "", "must not be empty")),
        Credentials::UserPassword(user, _) if user.is_empty() => Err(Invalid::new("user", "", "must not be empty")),
        _ => Ok(()),
    }
}

/// Refuses a comma that may be part of a secret: what stands before it would be taken for a server, and shown as one.
fn check_commas(urls: &str) -> Result<(), Invalid> {
    let Some((first, others)) = urls.split_once(',') else { return Ok(()) };
    // A second server's credentials can be told from the end of a secret only where they look like those of the first.
    let has_scheme = |url: &str| ["nats://", "tls://"].iter().any(|scheme| url.trim().starts_with(scheme));
    let legal = |url: &str| !url.contains('@') || (first.contains('@') && has_scheme(url));
    if others.split(',').all(legal) {
        return Ok(());
    }
    let rule = "must write a comma in a user, password or token as %2C; credentials stand before the first server, \
                and before others only after nats:// or tls://";
    Err(Invalid::new("url", shown(urls), rule))
}

/// A URL as errors may show it: without what stands before `@`, and without what stands where a port should, which is
/// a password where the host was forgotten.
fn shown(url: &str) -> String {
    if let Some((_, host)) = url.rsplit_once('@') {
        return format!("..@{host}");
    }
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let separator = if scheme.is_empty() { "" } else { "://" };
    match rest.split_once(':') {
        Some((host, port)) if !host.starts_with('[') && !port.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{scheme}{separator}{host}:..")
        }
        _ => url.to_owned(),
    }
}

/// A server, and the credentials that its URL held. No error shows what stands before `@`.
fn parse_url(url: &str) -> Result<(ServerAddr, Option<Credentials>), Invalid> {
    let refuse = |rule: &str| Invalid::new("url", shown(url), rule);
    let server: ServerAddr = url.parse().map_err(|_| refuse("must be nats://host:port or tls://host:port"))?;
    if !matches!(server.scheme(), "nats" | "tls") {
        return Err(refuse("must begin with nats:// or tls://"));
    }
    if server.host().is_empty() {
        return Err(refuse("must name a host"));
    }
    let mut plain = server.into_inner();
    if !matches!(plain.path(), "" | "/") || plain.query().is_some() || plain.fragment().is_some() {
        return Err(refuse("must end after the port"));
    }
    let user = unescape(plain.username()).ok_or_else(|| refuse("must hold legal %-escapes"))?;
    let credentials = match plain.password().map(unescape) {
        Some(None) => return Err(refuse("must hold legal %-escapes")),
        Some(Some(password)) => Some(Credentials::UserPassword(user, Secret::new(password))),
        None if user.is_empty() => None,
        None => Some(Credentials::Token(Secret::new(user))),
    };
    let cleared = plain.set_username("").is_ok() && plain.set_password(None).is_ok();
    match ServerAddr::from_url(plain) {
        Ok(server) if cleared => Ok((server, credentials)),
        _ => Err(refuse("must be nats://host:port or tls://host:port")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_secret_before_the_host_is_ever_shown(
            scheme in "(nats://|tls://|)",
            userinfo in "(s3cret|u|,|:|@|%|%2C|%41|/|\\?|#| |\\[|\\]|[0-9]){1,8}",
            rest in "(h(:[0-9]{0,6})?|)(,h2|, tls://h3:1|/|/x|\\?|#|:x){0,3}",
        ) {
            let url = format!("{scheme}{userinfo}@{rest}");
            match NatsConfig::builder(&url).build() {
                Ok(mut config) => {
                    if let Some(Credentials::UserPassword(user, _)) = &mut config.credentials {
                        // A name is no secret, and is shown.
                        user.clear();
                    }
                    prop_assert!(!format!("{config:?}").contains("s3cret"), "{}: {:?}", url, config);
                    let first = config.servers[0].host();
                    prop_assert!(first == "h", "{}: a part of it is taken for the server {}", url, first);
                }
                Err(err) => prop_assert!(!err.to_string().contains("s3cret"), "{}: {}", url, err),
            }
        }

        #[test]
        fn any_url_is_taken_or_refused_by_name_without_its_secret(
            url in "((nats|tls|http)://)?((u|:|@|%|%4|%41|h|\\[|\\]|/|\\?|#|s3cret@){0,8}|.{0,20})(:[0-9]{0,6})?",
        ) {
            match NatsConfig::builder(url.clone()).build() {
                Ok(config) => prop_assert!(config.servers.iter().all(|server| !server.has_user_pass())),
                Err(err) => {
                    prop_assert!(err.field == "url" || err.field == "credentials" || err.field == "token" || err.field == "user", "{}", err);
                    prop_assert!(!err.to_string().contains("s3cret"), "{url}: {err}");
                }
            }
        }
    }

    const SEED: &str = "SUANQDPB2RUOE4ETUA26CNX7FUKE5ZZKFCQIIW63OX225F2CO7UEXTM7ZY";

    fn refused(builder: NatsConfigBuilder) -> Invalid {
        builder.build().expect_err("must be refused")
    }

    #[test]
    fn defaults_are_filled() {
        let config = NatsConfig::builder("127.0.0.1").build().unwrap();
        assert_eq!(
            (config.bucket(), config.request_timeout(), config.replicas),
            ("multidc", Duration::from_secs(5), 1)
        );
        assert_eq!((config.servers[0].host(), config.servers[0].port()), ("127.0.0.1", 4222));
        assert!(!config.strict && !config.require_at_start && config.credentials.is_none() && config.tls.is_none());
    }

    #[test]
    fn every_url_is_kept() {
        let config = NatsConfig::builder("nats://a, tls://b:1").url("c:2").build().unwrap();
        let hosts: Vec<_> = config.servers.iter().map(|s| (s.host().to_owned(), s.port())).collect();
        assert_eq!(hosts, [("a".to_owned(), 4222), ("b".to_owned(), 1), ("c".to_owned(), 2)]);
        assert!(config.servers[1].tls_required());
    }

    #[test]
    fn each_bad_field_is_refused_by_name() {
        let base = || NatsConfig::builder("nats://h");
        let cases = [
            (NatsConfig::builder(""), "url"),
            (NatsConfig::builder("http://h"), "url"),
            (NatsConfig::builder("ws://h"), "url"),
            (NatsConfig::builder("nats://h/x"), "url"),
            (NatsConfig::builder("nats://h,,"), "url"),
            (base().bucket("a.b"), "bucket"),
            (base().bucket(""), "bucket"),
            (base().inbox_prefix("a.*"), "inbox prefix"),
            (base().request_timeout(Duration::ZERO), "request timeout"),
            (base().replicas(0), "replicas"),
            (base().replicas(6), "replicas"),
            (base().marker_ttl(Duration::from_millis(10)), "marker ttl"),
            (base().credentials_file("/nonexistent/x.creds"), "credentials file"),
            (base().nkey("SUnothing"), "nkey"),
            (base().token(""), "token"),
            (base().user_password("", "p"), "user"),
            (base().token("a").user_password("u", "p"), "credentials"),
            (base().nkey(SEED).token("t"), "credentials"),
            (NatsConfig::builder("nats://u:p@h").token("a"), "credentials"),
            (base().tls(TlsFiles { certificate: Some("/c".into()), ..TlsFiles::default() }), "tls certificate"),
            (base().tls(TlsFiles { ca: Some("/nonexistent".into()), ..TlsFiles::default() }), "tls ca"),
        ];
        for (builder, field) in cases {
            let err = refused(builder);
            assert_eq!(err.field, field, "{err}");
        }
    }

    #[test]
    fn credentials_in_a_url_are_taken_out_of_it() {
        let config = NatsConfig::builder("nats://me:s%40crt@a,nats://me:s%40crt@b").build().unwrap();
        assert_eq!(config.credentials, Some(Credentials::UserPassword("me".into(), Secret::new("s@crt"))));
        assert!(config.servers.iter().all(|server| !server.has_user_pass() && server.password().is_none()));
        let config = NatsConfig::builder("nats://t0ken@a").build().unwrap();
        assert_eq!(config.credentials, Some(Credentials::Token(Secret::new("t0ken"))));
    }

    #[test]
    fn a_comma_in_a_secret_is_refused_with_how_to_write_it() {
        // Each of these would have shown a part of the secret, or taken `1234` for a port and `cret` for a token.
        for url in [
            "nats://ann:s3,cret@h",
            "nats://ann:1234,cret@h",
            "s3,cret@h",
            "nats://ann:s3,tls://cret@h",
            "a:1,s3:cret@h",
        ] {
            let err = refused(NatsConfig::builder(url));
            assert_eq!((err.field.as_str(), err.value.as_str()), ("url", "..@h"), "{url}: {err}");
            assert!(err.rule.contains("%2C"), "{err}");
        }
        let config = NatsConfig::builder("nats://ann:s3%2Ccret@a,b:1").build().unwrap();
        assert_eq!(config.credentials, Some(Credentials::UserPassword("ann".into(), Secret::new("s3,cret"))));
        let hosts: Vec<_> = config.servers.iter().map(|server| server.host().to_owned()).collect();
        assert_eq!(hosts, ["a", "b"]);
    }

    #[test]
    fn secrets_are_never_printed() {
        let shown = [
            format!("{:?}", NatsConfig::builder("nats://h").user_password("u", "s3cret")),
            format!("{:?}", NatsConfig::builder("nats://u:s3cret@h")),
            format!("{:?}", NatsConfig::builder("nats://u:s3cret@h").build().unwrap()),
            format!("{:?}", NatsConfig::builder("nats://h").token("s3cret").build().unwrap()),
            refused(NatsConfig::builder("nats://u:s3cret@h/x")).to_string(),
            refused(NatsConfig::builder("nats://u:s3cret")).to_string(),
            refused(NatsConfig::builder("a,u:s3cret")).to_string(),
            refused(NatsConfig::builder("nats://u:s3cret@h").token("s3cret2")).to_string(),
            refused(NatsConfig::builder("nats://h").nkey("s3cret")).to_string(),
        ];
        for text in shown {
            assert!(!text.contains("s3cret"), "{text}");
        }
    }

    #[test]
    fn leases_are_whole_seconds_rounded_up() {
        for (ttl, whole) in [(1, 1), (1_000, 1), (1_001, 2), (2_999, 3), (30_000, 30)] {
            assert_eq!(whole_seconds(Duration::from_millis(ttl)), Duration::from_secs(whole), "{ttl} ms");
        }
    }
}
