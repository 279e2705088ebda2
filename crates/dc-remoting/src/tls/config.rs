//! Where a node's certificates come from.

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use dc_core::{Invalid, SystemName};

use super::{TlsError, material::Material};

/// One of the three parts.
#[derive(Clone)]
enum Source {
    File(PathBuf),
    Pem(Arc<[u8]>),
}

impl Source {
    fn read(&self, field: &'static str) -> Result<Arc<[u8]>, TlsError> {
        match self {
            Self::Pem(pem) => Ok(Arc::clone(pem)),
            Self::File(path) => std::fs::read(path).map(Into::into).map_err(|source| TlsError::Unreadable {
                field,
                path: path.clone(),
                source,
            }),
        }
    }
}

/// A path, or that there is PEM: never what is in it.
impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.fmt(f),
            Self::Pem(_) => f.write_str("PEM"),
        }
    }
}

/// Mutual TLS on every link of a node: the CAs that it trusts, its own certificate and key (R9).
///
/// The certificate must hold a [`CertificateName`](crate::CertificateName) for this node among its subject alternative
/// names, and be good for both ends of a connection (extended key usage serverAuth and clientAuth, or none).
/// Files are read again while the node runs, so that certificates and CAs can be replaced without a restart.
///
/// ```no_run
/// use dc_remoting::TlsConfig;
/// let tls = TlsConfig::builder()
///     .ca_file("/etc/app/ca.pem")
///     .certificate_file("/etc/app/node.pem")
///     .key_file("/etc/app/node.key")
///     .build()?;
/// # Ok::<(), dc_remoting::TlsError>(())
/// ```
#[derive(Clone, Debug)]
pub struct TlsConfig {
    ca: Source,
    certificate: Source,
    key: Source,
    reload_every: Duration,
}

/// Starts with nothing set; `ca`, `certificate` and `key` must be given, each as a file or as PEM.
#[derive(Clone, Debug)]
pub struct TlsConfigBuilder {
    ca: Option<Source>,
    certificate: Option<Source>,
    key: Option<Source>,
    reload_every: Duration,
}

impl TlsConfig {
    /// Starts with nothing set.
    pub fn builder() -> TlsConfigBuilder {
        TlsConfigBuilder { ca: None, certificate: None, key: None, reload_every: Duration::from_secs(10) }
    }

    pub(super) fn reload_every(&self) -> Duration {
        self.reload_every
    }

    /// Whether there is anything to read again.
    pub(super) fn has_files(&self) -> bool {
        [&self.ca, &self.certificate, &self.key].iter().any(|source| matches!(source, Source::File(_)))
    }

    /// Reads all three. Blocks for as long as the files take.
    pub(super) fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            ca: self.ca.read("ca")?,
            certificate: self.certificate.read("certificate")?,
            key: self.key.read("key")?,
        })
    }
}

/// What the three sources held at one time.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) ca: Arc<[u8]>,
    pub(super) certificate: Arc<[u8]>,
    pub(super) key: Arc<[u8]>,
}

impl TlsConfigBuilder {
    /// PEM file with the certificates of the CAs whose nodes are trusted: all of them, in any order.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca = Some(Source::File(path.into()));
        self
    }

    /// PEM file with this node's certificate, followed by those between it and its CA.
    #[must_use]
    pub fn certificate_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.certificate = Some(Source::File(path.into()));
        self
    }

    /// PEM file with the certificate's private key (PKCS #8, SEC 1 or PKCS #1).
    #[must_use]
    pub fn key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.key = Some(Source::File(path.into()));
        self
    }

    /// As [`ca_file`](Self::ca_file), from memory.
    #[must_use]
    pub fn ca_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.ca = Some(Source::Pem(pem.into().into()));
        self
    }

    /// As [`certificate_file`](Self::certificate_file), from memory.
    #[must_use]
    pub fn certificate_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.certificate = Some(Source::Pem(pem.into().into()));
        self
    }

    /// As [`key_file`](Self::key_file), from memory.
    #[must_use]
    pub fn key_pem(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.key = Some(Source::Pem(pem.into().into()));
        self
    }

    /// How often the files are read again, to see whether they changed. Default 10 s; 10 ms to a day.
    #[must_use]
    pub fn reload_every(mut self, every: Duration) -> Self {
        self.reload_every = every;
        self
    }

    /// Checks that all parts are set, reads them, and checks that they belong together. Whether the certificate is for
    /// this node is checked when links start.
    ///
    /// # Errors
    ///
    /// [`TlsError`] names the part and what is wrong with it.
    pub fn build(self) -> Result<TlsConfig, TlsError> {
        let set = |part: Option<Source>, field| part.ok_or(TlsError::Missing { field });
        let every = self.reload_every;
        if every < Duration::from_millis(10) || every > Duration::from_secs(86_400) {
            let value = format!("{every:?}");
            return Err(Invalid::new("reload_every", value, "must be 10 ms to a day").into());
        }
        let config = TlsConfig {
            ca: set(self.ca, "ca")?,
            certificate: set(self.certificate, "certificate")?,
            key: set(self.key, "key")?,
            reload_every: every,
        };
        // The system is not known yet, and no matter: this is thrown away.
        let anyone = SystemName::new("any")?;
        Material::new(config.read()?, &anyone)?;
        Ok(config)
    }
}
