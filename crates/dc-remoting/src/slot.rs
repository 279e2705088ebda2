//! Keeps one link up: dials on demand, notices its end, dials again with backoff.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use dc_core::Endpoint;
use tokio::{
    sync::{Notify, watch},
    time::MissedTickBehavior,
};

#[cfg(feature = "tls")]
use crate::renew::{retire, successor};
use crate::{
    LinkError, LinkEvent,
    backoff::Backoff,
    outbound::{Lane, Link, Out, dial},
    remoting::Shared,
};

/// A peer that nobody has wanted for this long is dialled no more until somebody does.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Why a link ends with its node.
pub(crate) const SHUT_DOWN: &str = "this node's remoting is shut down";

/// Where the link to one endpoint stands.
#[derive(Clone)]
pub(crate) enum State {
    /// Nobody wants it.
    Idle,
    /// Being made, after it stood or for the first time: senders wait.
    Connecting,
    Up(Arc<Link>),
    /// The last attempt failed; attempts go on, senders fail at once (R6).
    Down(LinkError),
    /// Remoting is shut down.
    Closed,
}

/// The one link to one endpoint.
pub(crate) struct Slot {
    pub(crate) shared: Arc<Shared>,
    pub(crate) endpoint: Endpoint,
    pub(crate) state: watch::Sender<State>,
    wanted: AtomicBool,
    wake: Notify,
    kicked: Notify,
    waiting: AtomicUsize,
}

struct Counted<'a>(&'a AtomicUsize);

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Slot {
    fn new(shared: &Arc<Shared>, endpoint: Endpoint, state: State) -> Arc<Self> {
        Arc::new(Self {
            shared: Arc::clone(shared),
            endpoint,
            state: watch::Sender::new(state),
            wanted: AtomicBool::new(false),
            wake: Notify::new(),
            kicked: Notify::new(),
            waiting: AtomicUsize::new(0),
        })
    }

    /// A slot that is never dialled, as there are too many.
    pub(crate) fn refused(shared: &Arc<Shared>, endpoint: Endpoint) -> Arc<Self> {
        let error = LinkError::Overloaded { endpoint: endpoint.clone(), what: "too many peers" };
        Self::new(shared, endpoint, State::Down(error))
    }

    /// Makes the slot and starts its task.
    pub(crate) fn start(shared: &Arc<Shared>, endpoint: Endpoint) -> Arc<Self> {
        let slot = Self::new(shared, endpoint, State::Idle);
        shared.runtime.spawn(drive(Arc::clone(&slot)));
        slot
    }

    /// Asks for the link to be made.
    pub(crate) fn want(&self) {
        if !self.wanted.swap(true, Ordering::AcqRel) {
            self.wake.notify_one();
        }
    }

    /// Ends the link for good.
    pub(crate) fn close(&self) {
        if let State::Up(link) = self.state.send_replace(State::Closed) {
            link.close(SHUT_DOWN);
        }
    }

    /// The peer has shown life: what waits to dial again does so now.
    pub(crate) fn kick(&self) {
        self.kicked.notify_waiters();
    }

    /// The link, if it stands.
    pub(crate) fn current(&self) -> Option<Arc<Link>> {
        match &*self.state.borrow() {
            State::Up(link) if !link.is_closed() => Some(Arc::clone(link)),
            _ => None,
        }
    }

    /// The link, as soon as it stands; an error as soon as it is known to be down.
    pub(crate) async fn link(&self) -> Result<Arc<Link>, LinkError> {
        let mut state = self.state.subscribe();
        let mut counted = None;
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                State::Up(link) if !link.refuses() => return Ok(link),
                State::Down(err) => {
                    self.want();
                    return Err(err);
                }
                State::Closed => return Err(LinkError::Closed),
                State::Idle | State::Connecting | State::Up(_) => {}
            }
            if counted.is_none() {
                if self.waiting.fetch_add(1, Ordering::AcqRel) >= self.shared.config.max_waiting {
                    self.waiting.fetch_sub(1, Ordering::AcqRel);
                    crate::measure::limit("max_waiting");
                    let endpoint = self.endpoint.clone();
                    return Err(LinkError::Overloaded { endpoint, what: "too many senders wait for the link" });
                }
                counted = Some(Counted(&self.waiting));
            }
            self.want();
            if state.changed().await.is_err() {
                return Err(LinkError::Closed);
            }
        }
    }
}

/// The slot's task: lives until remoting stops or nobody knows the slot any more.
async fn drive(slot: Arc<Slot>) {
    let shared = Arc::clone(&slot.shared);
    tokio::select! {
        () = shared.stop.cancelled() => {}
        () = keep_up(&slot) => {}
    }
    slot.close();
    // The table and the slot hold each other by way of what they share.
    shared.slots.lock().remove(&slot.endpoint);
}

async fn keep_up(slot: &Arc<Slot>) {
    let config = &slot.shared.config;
    let mut backoff = Backoff::new(config.backoff_first, config.backoff_max);
    loop {
        if !wait_until_wanted(slot).await {
            return;
        }
        slot.state.send_replace(State::Connecting);
        let mut last_wanted = slot.shared.clock.now();
        loop {
            match dial(&slot.shared, &slot.endpoint).await {
                Ok(link) => {
                    backoff.reset();
                    stand(slot, link).await;
                    last_wanted = slot.shared.clock.now();
                    if !slot.wanted.swap(false, Ordering::AcqRel) && slot.waiting.load(Ordering::Acquire) == 0 {
                        // Ended, and nobody asks: once somebody does, it is dialled at once.
                        break;
                    }
                }
                Err(err) => {
                    failed(slot, err);
                    let wait = backoff.next(slot.shared.random_unit());
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = slot.kicked.notified() => {}
                    }
                    let now = slot.shared.clock.now();
                    if slot.wanted.swap(false, Ordering::AcqRel) {
                        last_wanted = now;
                    } else if now.saturating_duration_since(last_wanted) > FORGET_AFTER {
                        break;
                    }
                }
            }
        }
        slot.state.send_replace(State::Idle);
    }
}

/// False if nobody knows the slot any more.
async fn wait_until_wanted(slot: &Arc<Slot>) -> bool {
    while !slot.wanted.swap(false, Ordering::AcqRel) && slot.waiting.load(Ordering::Acquire) == 0 {
        tokio::select! {
            () = slot.wake.notified() => {}
            () = tokio::time::sleep(FORGET_AFTER) => {
                let mut slots = slot.shared.slots.lock();
                // The table's and this task's.
                if Arc::strong_count(slot) <= 2 {
                    slots.remove(&slot.endpoint);
                    return false;
                }
            }
        }
    }
    true
}

/// Announces the link and watches over it until it ends.
async fn stand(slot: &Slot, link: Arc<Link>) {
    let shared = &slot.shared;
    tracing::info!(peer = ?link.identity, endpoint = %slot.endpoint, "link up");
    shared.event(LinkEvent::PeerUp { identity: Arc::clone(&link.identity) });
    shared.check_store(&link.identity);
    slot.wanted.store(false, Ordering::Release);
    slot.state.send_replace(State::Up(Arc::clone(&link)));
    let mut link = link;
    loop {
        let fresh = tokio::select! {
            () = supervise(&link) => break,
            () = link.keep_time() => break,
            fresh = successor(slot, &link) => fresh,
        };
        if let Some(rtt) = link.rtt() {
            fresh.measured(rtt);
        }
        slot.state.send_replace(State::Up(Arc::clone(&fresh)));
        let old = std::mem::replace(&mut link, fresh);
        #[cfg(feature = "tls")]
        retire(old);
        #[cfg(not(feature = "tls"))]
        drop(old);
    }
    let why = link.why();
    slot.state.send_replace(State::Connecting);
    let unaccepted = link.unaccepted.load(Ordering::Acquire);
    tracing::info!(peer = ?link.identity, endpoint = %slot.endpoint, %why, unaccepted, "link down");
    shared.event(LinkEvent::PeerDown { node: link.identity.node, endpoint: slot.endpoint.clone(), why, unaccepted });
}

/// Without TLS, a link may stand for ever.
#[cfg(not(feature = "tls"))]
async fn successor(_slot: &Slot, _link: &Link) -> Arc<Link> {
    std::future::pending().await
}

/// Pings, measures, sweeps; closes a link that is silent or idle.
pub(crate) async fn supervise(link: &Link) {
    let config = &link.shared.config;
    let mut ticks = tokio::time::interval(config.keepalive_interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut unanswered, mut idle) = (Duration::ZERO, Duration::ZERO);
    link.pong.store(true, Ordering::Release);
    loop {
        tokio::select! {
            () = link.closed() => return,
            _ = ticks.tick() => {}
        }
        if link.pong.swap(false, Ordering::AcqRel) {
            unanswered = Duration::ZERO;
        } else {
            unanswered += config.keepalive_interval;
        }
        if unanswered >= config.keepalive_timeout {
            link.close(&format!("no answer to pings for {unanswered:?}"));
            return;
        }
        let used = link.used.swap(false, Ordering::Relaxed);
        idle = if !used && link.is_quiet() { idle + config.keepalive_interval } else { Duration::ZERO };
        if idle >= config.idle_timeout {
            link.say_goodbye("idle").await;
            return;
        }
        let sent = u64::try_from(link.shared.since_start().as_nanos()).unwrap_or(u64::MAX);
        let _ = link.lanes[Lane::Control as usize].send(Out::Ping(sent));
    }
}

fn failed(slot: &Slot, error: LinkError) {
    let repeated = matches!(&*slot.state.borrow(), State::Down(earlier) if *earlier == error);
    if repeated {
        tracing::debug!(endpoint = %slot.endpoint, %error, "still no link");
    } else {
        tracing::warn!(endpoint = %slot.endpoint, %error, "no link");
        slot.shared.event(LinkEvent::DialFailed { endpoint: slot.endpoint.clone(), error: error.clone() });
    }
    slot.state.send_replace(State::Down(error));
}
