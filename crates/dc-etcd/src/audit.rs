//! What the store says of itself at start (P13).

use std::time::Duration;

use dc_controlplane::{Capabilities, Durability, Error};

use etcd_client::GetOptions;

use crate::{
    BACKEND, EtcdConfig,
    connect::{Call, Repeat, Servers},
    keys::Keys,
};

/// etcd looks for expired leases twice a second and deletes through its log; a second covers both.
const EXPIRY_LAG: Duration = Duration::from_secs(1);
/// What a server with the default election timeout (1 s) grants at least.
pub(crate) const DEFAULT_LEAST_TTL: Duration = Duration::from_secs(2);

/// A history this long is compacted by nobody: many hours of a system with ownership.
const LONG_HISTORY: i64 = 500_000;

/// What holds before any server was heard.
pub(crate) fn unheard() -> Capabilities {
    Capabilities {
        backend: BACKEND,
        watch: true,
        expiry_events: true,
        expiry_granularity: lateness(DEFAULT_LEAST_TTL),
        linearizable_reads: true,
        renewal_keeps_version: true,
        replicas: None,
        durability: Durability::BeforeAck,
        findings: Vec::new(),
    }
}

/// How late a record may leave the list, whatever its TTL, where the server grants no less than `least`: the
/// shortest TTL becomes `least`, any other is rounded up by less than a second.
pub(crate) fn lateness(least: Duration) -> Duration {
    least.max(Duration::from_secs(1)) + EXPIRY_LAG
}

/// The least that the server grants, as far as it shows by an answer; `known` so far.
pub(crate) fn least_ttl(known: Duration, asked: Duration, granted: Duration) -> Duration {
    if granted > asked { granted } else { known.min(granted) }
}

/// What was found.
pub(crate) struct Found {
    pub(crate) capabilities: Capabilities,
    /// Whether a watch's progress can be relied on.
    pub(crate) honest_progress: bool,
}

/// Asks a member for its state and for its fellows: two requests.
pub(crate) async fn audit(servers: &Servers, config: &EtcdConfig, call: &Call) -> Result<Found, Error> {
    let status =
        servers.send(call, Repeat::Harmless, |client| async move { client.maintenance_client().status().await }).await;
    let status = match status {
        Ok(status) => Some(status),
        // Late versions of 3.5 tell it to administrators only.
        Err(err) if lacks_right(&err) => None,
        Err(err) => return Err(err),
    };
    let members =
        servers.send(call, Repeat::Harmless, |client| async move { client.cluster_client().member_list().await }).await;
    let replicas = match members {
        Ok(list) => {
            let voters = list.members().iter().filter(|member| !member.is_learner()).count();
            Some(u32::try_from(voters).unwrap_or(u32::MAX))
        }
        // An ordinary user may not be allowed to ask (etcd 3.6).
        Err(err) if lacks_right(&err) => None,
        Err(err) => return Err(err),
    };
    let old = status.as_ref().and_then(|status| version_findings(status.version()));
    let honest_progress = old.is_none();
    let mut findings: Vec<String> = old.into_iter().collect();
    findings.extend(member_findings(replicas));
    if let Some(status) = &status {
        findings.extend(space_findings(status.errors(), status.db_size(), status.db_size_quota()));
    }
    if let Some(status) = &status {
        findings.extend(history_finding(servers, config, call, status.header().map_or(0, |h| h.revision())).await?);
    }
    if servers.authentication_off() {
        findings.push("a user is configured, but the servers' authentication is switched off".to_owned());
    }
    if config.bares_password() {
        findings.push("the user's password travels unencrypted: use https endpoints".to_owned());
    }
    Ok(Found { capabilities: Capabilities { replicas, findings, ..unheard() }, honest_progress })
}

/// Each renewal of a session is a revision: a store that never forgets any is full some day.
async fn history_finding(
    servers: &Servers,
    config: &EtcdConfig,
    call: &Call,
    newest: i64,
) -> Result<Option<String>, Error> {
    if newest <= LONG_HISTORY {
        return Ok(None);
    }
    let (key, old) = (Keys::new(config.namespace()).store(), newest - LONG_HISTORY);
    let read = servers
        .send_raw(call, Repeat::Harmless, |client| {
            let (key, options) = (key.clone(), GetOptions::new().with_revision(old).with_keys_only());
            async move { client.kv_client().get(key, Some(options)).await }
        })
        .await?;
    // Compacted, or not to be asked by this user.
    Ok(read.is_ok().then(|| {
        format!(
            "the last {LONG_HISTORY} revisions are still kept: compact them, by `--auto-compaction-retention=1h` say, \
             or the database fills up"
        )
    }))
}

/// Whether the user is known, but may not ask this; a wrong password is another matter.
fn lacks_right(err: &Error) -> bool {
    matches!(err, Error::Denied { why, .. } if why.contains("permission denied"))
}

fn version_findings(version: &str) -> Option<String> {
    let mut parts = version.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let mut next = || parts.next().unwrap_or(0);
    let known = (next(), next(), next());
    (known < (3, 5, 8))
        .then(|| format!("etcd {version} is older than 3.5.8: a watch may claim progress that it has not made"))
}

fn member_findings(replicas: Option<u32>) -> Option<String> {
    match replicas {
        Some(1) => Some("a single member keeps the only copy: three or more survive the loss of one".to_owned()),
        Some(2) => Some("two members survive the loss of neither: three or more survive the loss of one".to_owned()),
        Some(_) => None,
        None => Some("the number of members cannot be read with these credentials".to_owned()),
    }
}

fn space_findings(errors: &[String], size: i64, quota: i64) -> Vec<String> {
    let mut findings: Vec<String> = errors.iter().map(|alarm| format!("a member raises an alarm: {alarm}")).collect();
    // Told by etcd 3.6 and later; 0 before.
    if quota > 0 && size > quota / 5 * 4 {
        findings.push(format!("the database has used {size} of its {quota} bytes: compact and defragment it"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p13_each_unsafe_setting_is_a_finding() {
        assert!(version_findings("3.4.36").unwrap().contains("3.4.36"));
        assert!(version_findings("3.5.7").is_some());
        for good in ["3.5.8", "3.5.30", "3.6.0", "3.6.0-rc.1", "4.0.0"] {
            assert_eq!(version_findings(good), None, "{good}");
        }
        assert!(member_findings(Some(1)).is_some() && member_findings(Some(2)).is_some());
        assert!(member_findings(None).is_some());
        assert_eq!(member_findings(Some(3)), None);
        assert_eq!(space_findings(&["memberID:1 alarm:NOSPACE".to_owned()], 0, 0).len(), 1);
        assert_eq!(space_findings(&[], 81, 100).len(), 1);
        assert_eq!(space_findings(&[], 80, 100), Vec::<String>::new());
        assert_eq!(space_findings(&[], 1 << 40, 0), Vec::<String>::new());
    }

    #[test]
    fn p3_the_least_that_is_granted_counts_as_lateness() {
        let secs = Duration::from_secs;
        assert_eq!(least_ttl(secs(2), secs(2), secs(5)), secs(5));
        assert_eq!(least_ttl(secs(2), secs(1), secs(1)), secs(1));
        assert_eq!(least_ttl(secs(5), secs(30), secs(30)), secs(5));
        assert_eq!(lateness(secs(5)), secs(6));
        assert_eq!(lateness(secs(1)), secs(2));
    }
}
