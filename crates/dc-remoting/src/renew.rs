//! Links end with the certificates that they were made with: each is replaced before, and nothing is lost over it.

use std::{sync::Arc, time::Duration};

use crate::{
    LinkError, LinkEvent,
    outbound::{Link, dial},
    slot::{Slot, supervise},
    tls::{Validity, now},
};

/// A link is replaced when this part of its certificates' time is left, within the bounds of [`EARLY`].
const PART: u32 = 10;

/// The shortest and longest time before its end at which a link is replaced. Certificates are dated in whole seconds.
const EARLY: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(300));

/// How long a wait goes on before the wall clock, which may jump, is looked at again.
const SLICE: Duration = Duration::from_secs(30);

/// How long a replaced link may still get what somebody is just about to send over it.
const LINGER: Duration = Duration::from_millis(100);

/// How long a link without a successor may take to finish what is under way.
const FINISH: Duration = Duration::from_secs(1);

/// When a link has to end: with the first of the certificates at its two ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Term {
    /// The first second in which it is no longer valid, since 1970.
    end: u64,
    /// How long that certificate is valid in all.
    lifetime: Duration,
    /// Whether it is this node's own.
    own: bool,
}

impl Term {
    pub(crate) fn new(own: Validity, peer: Validity) -> Self {
        let (first, own) = if own.not_after <= peer.not_after { (own, true) } else { (peer, false) };
        let lifetime = Duration::from_secs(first.not_after.saturating_sub(first.not_before));
        Self { end: first.not_after.saturating_add(1), lifetime, own }
    }

    /// The earlier of two.
    pub(crate) fn min(self, other: Self) -> Self {
        if other.end < self.end { other } else { self }
    }

    fn left(self) -> Duration {
        Duration::from_secs(self.end.saturating_sub(now()))
    }

    fn early(self) -> Duration {
        (self.lifetime / PART).clamp(EARLY.0, EARLY.1)
    }
}

/// Waits until `left` of a term is no more than `until`.
async fn wait(term: Term, until: Duration) {
    loop {
        let left = term.left();
        if left <= until {
            return;
        }
        tokio::time::sleep((left - until).min(SLICE)).await;
    }
}

/// The link that takes over from `link` before its term ends. Where there is none by then, `link` is closed, and the
/// next message dials.
pub(crate) async fn successor(slot: &Slot, link: &Link) -> Arc<Link> {
    let Some(term) = link.term else { return std::future::pending().await };
    let shared = &slot.shared;
    let early = term.early();
    // Not all links of a node at once.
    wait(term, early.mul_f64(0.5 + shared.random_unit() / 2.0)).await;
    let mut told = None;
    while !term.left().is_zero() {
        match try_again(slot, link, term).await {
            Ok(Some(fresh)) => return fresh,
            Ok(None) => {}
            Err(error) if told.as_ref() == Some(&error) => {
                tracing::debug!(endpoint = %slot.endpoint, %error, "a link still cannot be replaced");
            }
            Err(error) => {
                tracing::warn!(endpoint = %slot.endpoint, %error, "a link whose certificate is about to expire cannot be replaced yet");
                shared.event(LinkEvent::DialFailed { endpoint: slot.endpoint.clone(), error: error.clone() });
                told = Some(error);
            }
        }
        tokio::time::sleep((early / 8).clamp(Duration::from_millis(200), SLICE)).await;
    }
    tracing::warn!(peer = ?link.identity, "a certificate of this link has expired and was not replaced: the link ends");
    link.stop_taking();
    // What takes longer has had its time.
    let _ = tokio::time::timeout(FINISH, quiet(link)).await;
    link.say_goodbye("a certificate of this link has expired").await;
    std::future::pending().await
}

/// A link with a later end, if there is one to be had.
async fn try_again(slot: &Slot, link: &Link, term: Term) -> Result<Option<Arc<Link>>, LinkError> {
    let shared = &slot.shared;
    let Some(tls) = &shared.tls else { return Ok(None) };
    if term.own && tls.current().own.validity.not_after < term.end {
        // Dialling again would bring nothing else.
        return Ok(None);
    }
    let fresh = dial(shared, &slot.endpoint).await?;
    if fresh.identity.key() == link.identity.key() && fresh.term.is_some_and(|new| new.end > term.end) {
        return Ok(Some(fresh));
    }
    fresh.say_goodbye("the certificates are still the same").await;
    Ok(None)
}

async fn quiet(link: &Link) {
    while !link.is_quiet() || link.has_asks() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// `old` takes nothing more, now that another link took over; it ends when all that is under way is done, and at the
/// latest with its certificates.
pub(crate) fn retire(old: Arc<Link>) {
    tracing::info!(peer = ?old.identity, "link replaced, as its certificates are about to expire");
    old.shared.event(LinkEvent::Renewed { identity: Arc::clone(&old.identity) });
    old.retire();
    tokio::spawn(async move {
        let done = async {
            tokio::time::sleep(LINGER).await;
            quiet(&old).await;
            old.say_goodbye("replaced by a link with newer certificates").await;
        };
        let expired = async {
            match old.term {
                Some(term) => wait(term, Duration::ZERO).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = done => {}
            () = expired => old.close("a certificate of this link has expired"),
            () = supervise(&old) => {}
            () = old.keep_time() => {}
        }
    });
}

/// A link that a peer dialled ends with the peer's certificate, whatever the peer thinks of that.
pub(crate) async fn end_with(validity: Validity, link: Arc<crate::inbound::InLink>) {
    let term = Term::new(validity, validity);
    tokio::select! {
        () = link.closed() => {}
        () = wait(term, Duration::ZERO) => link.close("the peer's certificate has expired"),
    }
}
