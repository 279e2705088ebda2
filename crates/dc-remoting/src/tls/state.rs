//! The set of certificates in use, and its replacement while the node runs.

use std::sync::Arc;

use dc_core::SystemName;
use parking_lot::Mutex;

use super::{CertificateName, TlsConfig, TlsError, certificate::now, material::Material};
use crate::{LinkEvent, PeerIdentity, TlsRefusal, refusal::utc, remoting::Shared};

/// One node's TLS.
pub(crate) struct Tls {
    config: TlsConfig,
    local: PeerIdentity,
    current: Mutex<Arc<Material>>,
    /// What was said of the set that was refused last, so that it is said once.
    complaint: Mutex<Option<String>>,
    /// Held while a set is read, so that an older one never replaces a newer.
    turn: tokio::sync::Mutex<()>,
}

/// What a peer says of itself must agree with what its certificate says (R9).
pub(crate) fn check_claims(name: &CertificateName, claims: &PeerIdentity) -> Result<(), TlsRefusal> {
    if name.system != claims.system {
        let (found, wanted) = (name.system.as_str().into(), claims.system.as_str().into());
        return Err(TlsRefusal::WrongSystem { found, wanted });
    }
    if name.dc != claims.dc {
        return Err(TlsRefusal::WrongDataCenter { certified: name.dc.clone(), claimed: claims.dc.clone() });
    }
    match &name.node {
        Some(node) if *node != claims.advertised => {
            Err(TlsRefusal::WrongNode { certified: node.clone(), claimed: claims.advertised.clone() })
        }
        _ => Ok(()),
    }
}

fn for_this_node(material: Material, local: &PeerIdentity) -> Result<Material, TlsError> {
    if check_claims(&material.own.name, local).is_err() {
        return Err(TlsError::NotThisNode {
            certified: Box::new(material.own.name),
            system: local.system.clone(),
            dc: local.dc.clone(),
            node: local.advertised.clone(),
        });
    }
    Ok(material)
}

impl Tls {
    /// Reads the first set. One that has expired, or is not valid yet, is taken with a warning: it may be replaced
    /// any time, and until then each refusal says so.
    pub(crate) fn start(config: TlsConfig, local: &PeerIdentity) -> Result<Self, TlsError> {
        let material = for_this_node(Material::new(config.read()?, &local.system)?, local)?;
        let own = &material.own;
        match own.validity.check(now()) {
            Ok(()) => tracing::info!(certificate = %own.name, until = utc(own.validity.not_after), "links use TLS"),
            Err(why) => tracing::warn!(certificate = %own.name, %why, "links use TLS, and peers will refuse this node"),
        }
        Ok(Self {
            config,
            local: local.clone(),
            current: Mutex::new(Arc::new(material)),
            complaint: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        })
    }

    pub(crate) fn current(&self) -> Arc<Material> {
        Arc::clone(&self.current.lock())
    }

    pub(crate) fn system(&self) -> &SystemName {
        &self.local.system
    }

    /// Reads the sources again. False if nothing has changed. A set that cannot be used leaves the old one in place.
    pub(crate) async fn reload(self: &Arc<Self>, shared: &Shared) -> Result<bool, TlsError> {
        let _turn = self.turn.lock().await;
        let (this, before) = (Arc::clone(self), self.current());
        let read = tokio::task::spawn_blocking(move || this.read_again(&before)).await;
        // A panic in there is a bug of ours; the old set stays.
        let read = read.unwrap_or_else(|err| {
            Err(TlsError::Malformed { field: "certificate", why: format!("reading it failed: {err}") })
        });
        match read {
            Ok(None) => {
                *self.complaint.lock() = None;
                Ok(false)
            }
            Ok(Some(material)) => {
                *self.complaint.lock() = None;
                let (name, not_after) = (material.own.name.clone(), material.own.validity.not_after);
                *self.current.lock() = Arc::new(material);
                tracing::info!(certificate = %name, until = utc(not_after), "new certificates are used from now on");
                shared.event(LinkEvent::CertificatesReplaced { not_after });
                Ok(true)
            }
            Err(err) => {
                self.complain(shared, &err);
                Err(err)
            }
        }
    }

    fn read_again(&self, before: &Material) -> Result<Option<Material>, TlsError> {
        let contents = self.config.read()?;
        if contents == before.contents {
            return Ok(None);
        }
        let material = for_this_node(Material::new(contents, &self.local.system)?, &self.local)?;
        material.own.validity.check(now())?;
        Ok(Some(material))
    }

    /// Tells of a set that cannot be used, once for as long as it stays so.
    fn complain(&self, shared: &Shared, err: &TlsError) {
        let why = std::error::Error::source(err).map_or_else(|| err.to_string(), |source| format!("{err}: {source}"));
        if self.complaint.lock().replace(why.clone()).is_some_and(|earlier| earlier == why) {
            return;
        }
        tracing::warn!(why, "new certificates cannot be used: the old ones stay");
        shared.event(LinkEvent::CertificatesRejected { why: why.into() });
    }
}

/// Looks after changed files until remoting stops.
pub(crate) async fn keep_fresh(shared: Arc<Shared>, tls: Arc<Tls>) {
    if !tls.config.has_files() {
        return;
    }
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            () = tokio::time::sleep(tls.config.reload_every()) => {}
        }
        // What went wrong was told already.
        let _ = tls.reload(&shared).await;
    }
}
