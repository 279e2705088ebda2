//! A peer as its users hold it.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    Answer, LinkError, LinkEvent, Pair, PeerIdentity, PeerTarget, ServiceId,
    outbound::{Lane, Link, Out, Waiting, ask_pair},
    remoting::Shared,
    slot::{Slot, State},
};

/// A node that this one talks to. Lazily connected; cheap to clone; clones share the link.
#[derive(Clone)]
pub struct Peer(Arc<Inner>);

struct Inner {
    slot: Arc<Slot>,
    target: PeerTarget,
}

impl Peer {
    pub(crate) fn new(slot: Arc<Slot>, target: PeerTarget) -> Self {
        Self(Arc::new(Inner { slot, target }))
    }

    /// Where the peer is and who it is expected to be.
    pub fn target(&self) -> &PeerTarget {
        &self.0.target
    }

    /// Asks `service` of the peer over the control lane, which user traffic never fills (R7).
    ///
    /// Dropped before it is done: if the call has left, it runs.
    ///
    /// # Errors
    ///
    /// Any [`LinkError`]; [`LinkError::NotRun`] if the peer has no such service, or said so itself.
    pub async fn call(&self, service: ServiceId, body: Bytes, timeout: Duration) -> Result<Bytes, LinkError> {
        self.call_for_answer(service, body, timeout).await.map(|answer| answer.body)
    }

    /// Like [`call`](Self::call), with the answer's status.
    ///
    /// # Errors
    ///
    /// As for [`call`](Self::call).
    pub async fn call_for_answer(
        &self,
        service: ServiceId,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Answer, LinkError> {
        let (ask, waiting) = ask_pair(self.shared().clock.now() + timeout);
        let answered = tokio::time::timeout(timeout, async {
            let link = self.link().await?;
            let (size, max) = (body.len(), link.grant.max_call_body);
            if size > max {
                return Err(LinkError::TooLarge { what: "call body", size, max, may_have_run: false });
            }
            let out = Out::Call { service: service.0, body, ask: Some(ask) };
            if link.lanes[Lane::Control as usize].send(out).is_err() {
                return Err(LinkError::Unreachable { endpoint: link.endpoint.clone(), why: link.why() });
            }
            (&waiting).await
        });
        match answered.await {
            Ok(result) => self.with_timeout(result, timeout),
            Err(_) => self.timed_out(&waiting, timeout),
        }
    }

    /// A new ordered pair to this peer.
    pub fn pair(&self) -> Pair {
        Pair::new(self.clone())
    }

    /// Waits until the link stands, through failed attempts, at most `timeout`. Cancel safe.
    ///
    /// # Errors
    ///
    /// `WrongPeer`, `Refused`, `Tls` and `Closed` at once; else what the last attempt said, or `Timeout`.
    pub async fn connected(&self, timeout: Duration) -> Result<PeerIdentity, LinkError> {
        let slot = &self.0.slot;
        let mut state = slot.state.subscribe();
        let up = async {
            loop {
                let now = state.borrow_and_update().clone();
                match now {
                    State::Up(link) if !link.refuses() => {
                        return self.checked(link).map(|link| (*link.identity).clone());
                    }
                    State::Down(err @ (LinkError::Refused { .. } | LinkError::Tls { .. })) => return Err(err),
                    State::Closed => return Err(LinkError::Closed),
                    State::Down(_) | State::Idle | State::Connecting | State::Up(_) => slot.want(),
                }
                if state.changed().await.is_err() {
                    return Err(LinkError::Closed);
                }
            }
        };
        match tokio::time::timeout(timeout, up).await {
            Ok(result) => result,
            Err(_) => match &*slot.state.borrow() {
                State::Down(err) => Err(err.clone()),
                _ => {
                    let endpoint = self.0.target.endpoint.clone();
                    Err(LinkError::Timeout { endpoint, after: timeout, may_have_run: false })
                }
            },
        }
    }

    /// Round-trip time of pings to the peer, a moving average; `None` while there is no link.
    pub fn rtt(&self) -> Option<Duration> {
        self.0.slot.current()?.rtt()
    }

    /// Who is at the other end, while there is a link.
    pub fn identity(&self) -> Option<PeerIdentity> {
        Some((*self.0.slot.current()?.identity).clone())
    }

    /// Asks and calls that wait for their answer, on this peer's link.
    pub fn in_flight(&self) -> usize {
        self.0.slot.current().map_or(0, |link| link.unanswered())
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.slot.shared
    }

    /// The link, once it stands and leads to who is expected.
    pub(crate) async fn link(&self) -> Result<Arc<Link>, LinkError> {
        if self.shared().draining.is_cancelled() {
            return Err(LinkError::Closed);
        }
        let link = self.0.slot.link().await?;
        self.checked(link)
    }

    pub(crate) fn expects(&self, identity: &PeerIdentity) -> bool {
        self.0.target.matches(identity)
    }

    fn checked(&self, link: Arc<Link>) -> Result<Arc<Link>, LinkError> {
        if self.expects(&link.identity) {
            return Ok(link);
        }
        let endpoint = self.0.target.endpoint.clone();
        let (found_node, found_dc) = (link.identity.node, link.identity.dc.clone());
        let elsewhere = self.0.target.dc.as_ref().is_some_and(|dc| *dc != found_dc);
        let error = LinkError::WrongPeer { endpoint: endpoint.clone(), found_node, found_dc };
        // Another run of the same node is nothing new; another datacenter where one is expected is, once for a link.
        if elsewhere && !link.told_wrong.swap(true, Ordering::AcqRel) {
            tracing::warn!(peer = ?link.identity, %error, "another datacenter answers than the one expected");
            crate::measure::refused("wrong_peer");
            self.shared().event(LinkEvent::DialFailed { endpoint, error: error.clone() });
        }
        Err(error)
    }

    pub(crate) fn overloaded(&self, what: &'static str) -> LinkError {
        LinkError::Overloaded { endpoint: self.0.target.endpoint.clone(), what }
    }

    /// What an asker whose time is over is told: the answer if it came at the last moment, else whether
    /// the message had left.
    pub(crate) fn timed_out(&self, waiting: &Waiting, after: Duration) -> Result<Answer, LinkError> {
        let endpoint = self.0.target.endpoint.clone();
        if waiting.cancel() {
            return Err(LinkError::Timeout { endpoint, after, may_have_run: false });
        }
        match waiting.take() {
            Some(result) => self.with_timeout(result, after),
            None => Err(LinkError::Timeout { endpoint, after, may_have_run: true }),
        }
    }

    /// Fills in the asker's own timeout where the other end reported that time was over.
    pub(crate) fn with_timeout(&self, result: Result<Answer, LinkError>, after: Duration) -> Result<Answer, LinkError> {
        match result {
            Err(LinkError::Timeout { endpoint, may_have_run, .. }) => {
                Err(LinkError::Timeout { endpoint, after, may_have_run })
            }
            result => result,
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({})", self.0.target.endpoint)
    }
}
