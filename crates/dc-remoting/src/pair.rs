//! One ordered (sender, target) pair: order, lane, credits.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{
    Answer, LinkError, Message, Peer, WhenFull,
    outbound::{Ask, Lane, Link, Out, Sending, TICK, ask_pair, check_size},
};

/// One sender's way to one target. Messages sent through it, or its clones, arrive in the order sent,
/// whatever their size, as long as the link lasts (R1). Cheap to make and to clone.
#[derive(Clone)]
pub struct Pair(Arc<Handle>);

/// Counts the clones: the last one lets the pair's number go.
struct Handle(Arc<PairInner>);

pub(crate) struct PairInner {
    peer: Peer,
    state: Mutex<State>,
    /// Held by the one sender that waits for credits or a link; others wait for it, in order.
    turn: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
    /// Credits came, or the link ended.
    pub(crate) changed: Notify,
}

struct State {
    link: Option<Arc<Link>>,
    id: u32,
    lane: Lane,
    /// Sent and not accepted yet.
    messages: u32,
    bytes: u64,
    /// Counts the times when nothing was in flight for certain. Of what was sent since the last:
    era: u32,
    /// asks that were not answered (an answer proves that its ask was accepted),
    asks: u32,
    /// whether there was a tell.
    tells: bool,
    orphan: bool,
}

impl State {
    /// Whether everything sent has been accepted, as far as is known.
    fn nothing_in_flight(&self) -> bool {
        self.messages == 0 || (self.asks == 0 && !self.tells)
    }

    fn begin_era(&mut self) {
        self.era = self.era.wrapping_add(1);
        (self.asks, self.tells) = (0, false);
    }
}

/// What has become of a message.
enum Sent<'a> {
    /// It is in the queue, as one of this era of its pair.
    Now(u32),
    /// It waits for its link, its turn or its credits.
    Waits(Waits<'a>),
}

type Item = (Message, Option<Ask>);

/// A message that waits for its link, its turn or its credits. Gives its era once it is in the queue.
type Waits<'a> = Pin<Box<dyn Future<Output = Result<u32, LinkError>> + Send + 'a>>;

/// Why a message cannot be sent at once.
enum Blocked {
    NoLink,
    /// The pair's own credits are used up, or its lane cannot change yet.
    Pair(Arc<Link>),
    /// Another link has taken over, and what was sent over this one has not all been accepted.
    Retired(Arc<Link>),
    /// The link's window has less than this many bytes left.
    Window(Arc<Link>, u32),
    Never(LinkError),
}

impl Pair {
    pub(crate) fn new(peer: Peer) -> Self {
        let state = State {
            link: None,
            id: 0,
            lane: Lane::User,
            messages: 0,
            bytes: 0,
            era: 0,
            asks: 0,
            tells: false,
            orphan: false,
        };
        Self(Arc::new(Handle(Arc::new(PairInner {
            peer,
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            waiting: AtomicUsize::new(0),
            changed: Notify::new(),
        }))))
    }

    /// The peer that the pair leads to.
    pub fn peer(&self) -> &Peer {
        &self.0.0.peer
    }

    /// Sends `msg`. Ok once it is in the link's queue within its credits: no promise that it arrives.
    /// What is lost afterwards without having left is given to [`Receiver::undelivered`](crate::Receiver::undelivered).
    ///
    /// Waits for the link and for credits (or fails with `Overloaded`, see [`WhenFull`]). Cancel safe:
    /// dropped before it is done, nothing was sent.
    ///
    /// # Errors
    ///
    /// Any [`LinkError`] but `Timeout`; all say that it certainly did not run.
    pub async fn tell(&self, msg: Message) -> Result<(), LinkError> {
        match self.0.0.submit(&mut Some((msg, None)))? {
            Sent::Now(_) => Ok(()),
            Sent::Waits(waits) => waits.await.map(drop),
        }
    }

    /// Sends `msg` and waits for its answer, at most `timeout` in all.
    ///
    /// Dropped before it is done: if the message has left, it runs, and the answer is thrown away.
    ///
    /// # Errors
    ///
    /// Any [`LinkError`]; [`LinkError::certainly_not_run`] tells whether it may have run (R3).
    pub async fn ask(&self, msg: Message, timeout: Duration) -> Result<Answer, LinkError> {
        let inner = &self.0.0;
        let peer = &inner.peer;
        let (ask, waiting) = ask_pair(peer.shared().clock.now() + timeout);
        let sent = inner.submit(&mut Some((msg, Some(ask))))?;
        let queued = matches!(sent, Sent::Now(_));
        let answered = async {
            let era = match sent {
                Sent::Now(era) => era,
                Sent::Waits(waits) => waits.await?,
            };
            let result = (&waiting).await;
            if result.is_ok() {
                inner.answered(era);
            }
            result
        };
        // What is in the queue already is watched by its link, for many asks at once.
        if queued && timeout > TICK * 10 {
            return peer.with_timeout(answered.await, timeout);
        }
        match tokio::time::timeout(timeout, answered).await {
            Ok(result) => peer.with_timeout(result, timeout),
            Err(_) => peer.timed_out(&waiting, timeout),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let free = {
            let mut state = self.0.state.lock();
            state.orphan = true;
            if state.messages == 0 { state.link.take().map(|link| (link, state.id)) } else { None }
        };
        if let Some((link, id)) = free {
            link.unbind(id);
        }
    }
}

/// Counts a sender that waits, so that later ones queue behind it.
struct WaitingHere<'a>(&'a AtomicUsize);

impl Drop for WaitingHere<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl PairInner {
    /// Sends at once where nothing is in the way: then there is nothing to wait for.
    fn submit(self: &Arc<Self>, item: &mut Option<Item>) -> Result<Sent<'_>, LinkError> {
        let mut state = self.state.lock();
        if self.waiting.load(Ordering::SeqCst) == 0 {
            match self.try_send(&mut state, item, false) {
                Ok(()) => return Ok(Sent::Now(state.era)),
                Err(Blocked::Never(err)) => return Err(err),
                Err(blocked) => self.may_wait(&blocked)?,
            }
        }
        let item = item.take();
        // Counted before the lock is let go, so that whoever comes later queues behind.
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let guard = WaitingHere(&self.waiting);
        // Boxed: the quick way stays small, and waiting costs more than a box.
        Ok(Sent::Waits(Box::pin(async move {
            let _turn = self.turn.lock().await;
            let _guard = guard;
            self.send_in_turn(item).await
        })))
    }

    fn may_wait(&self, blocked: &Blocked) -> Result<(), LinkError> {
        match blocked {
            Blocked::Pair(_) | Blocked::Window(..) if self.peer.shared().config.when_full == WhenFull::Refuse => {
                crate::measure::limit("link_window");
                Err(self.peer.overloaded("credits are used up"))
            }
            _ => Ok(()),
        }
    }

    /// Waits for whatever is missing, one thing after the other, until the message is in the queue.
    async fn send_in_turn(self: &Arc<Self>, mut item: Option<Item>) -> Result<u32, LinkError> {
        loop {
            let tried = self.try_now(&mut item, false);
            let blocked = match tried {
                Ok(era) => return Ok(era),
                Err(blocked) => blocked,
            };
            self.may_wait(&blocked)?;
            match blocked {
                Blocked::Never(err) => return Err(err),
                Blocked::NoLink => {
                    let link = self.peer.link().await?;
                    self.bind(link)?;
                }
                Blocked::Pair(link) | Blocked::Retired(link) => {
                    let lane = self.state.lock().lane;
                    let _ = link.lanes[lane as usize].send(Out::WantCredits);
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = link.closed() => {}
                    }
                }
                Blocked::Window(link, cost) => {
                    for lane in [Lane::User, Lane::Bulk] {
                        let _ = link.lanes[lane as usize].send(Out::WantCredits);
                    }
                    // A closed window means that the link has ended: the next round finds out.
                    let Ok(permit) = link.window.acquire_many(cost).await else { continue };
                    let tried = self.try_now(&mut item, true);
                    if let Ok(era) = tried {
                        permit.forget();
                        return Ok(era);
                    }
                }
            }
        }
    }

    fn try_now(&self, item: &mut Option<Item>, has_permit: bool) -> Result<u32, Blocked> {
        let mut state = self.state.lock();
        self.try_send(&mut state, item, has_permit).map(|()| state.era)
    }

    /// An ask of this era was answered.
    fn answered(&self, era: u32) {
        let mut state = self.state.lock();
        if state.era == era {
            state.asks = state.asks.saturating_sub(1);
        }
    }

    fn bind(self: &Arc<Self>, link: Arc<Link>) -> Result<(), LinkError> {
        let id = link.bind(Arc::clone(self))?;
        let mut state = self.state.lock();
        (state.id, state.lane, state.messages, state.bytes) = (id, Lane::User, 0, 0);
        state.begin_era();
        state.link = Some(link);
        Ok(())
    }

    /// Puts the message into its lane's queue, out of `item`, if nothing stands in the way. Never waits.
    fn try_send(&self, state: &mut State, item: &mut Option<Item>, has_permit: bool) -> Result<(), Blocked> {
        let Some(link) = state.link.as_ref().filter(|link| !link.refuses()) else {
            return Err(match &state.link {
                Some(old) if old.is_retired() && !state.nothing_in_flight() => Blocked::Retired(Arc::clone(old)),
                _ => Blocked::NoLink,
            });
        };
        // Taken once, at the end.
        let Some((message, ask)) = item.as_ref() else { return Ok(()) };
        let is_ask = ask.is_some();
        let config = &link.shared.config;
        check_size(message, link.grant.max_payload).map_err(Blocked::Never)?;
        let cost = message.cost();
        let large = message.payload.len() > config.bulk_threshold;
        if state.nothing_in_flight() {
            state.lane = if large { Lane::Bulk } else { Lane::User };
        }
        if state.messages > 0 {
            let free = link.window.available_permits() as u64;
            let share = (config.pair_bytes as u64).min(free / 2);
            let lane_must_change = large && state.lane == Lane::User;
            let used_up = state.messages >= config.pair_messages || state.bytes + u64::from(cost) > share;
            if lane_must_change || used_up {
                return Err(Blocked::Pair(Arc::clone(link)));
            }
        }
        if !has_permit {
            match link.window.try_acquire_many(cost) {
                Ok(permit) => permit.forget(),
                Err(_) => return Err(Blocked::Window(Arc::clone(link), cost)),
            }
        }
        let Some((message, ask)) = item.take() else { return Ok(()) };
        match link.lanes[state.lane as usize].send(Out::Message(Sending { pair: state.id, message, ask })) {
            Ok(()) => {
                state.messages += 1;
                state.asks += u32::from(is_ask);
                state.tells |= !is_ask;
                state.bytes += u64::from(cost);
                if is_ask {
                    link.watch_time();
                }
                Ok(())
            }
            // The queue is closed: the link has ended, and its window with it.
            Err(back) => {
                if let Out::Message(Sending { message, ask, .. }) = back.0 {
                    *item = Some((message, ask));
                }
                Err(Blocked::NoLink)
            }
        }
    }

    /// Messages that were sent over `link`, which has ended, and not accepted as far as is known.
    pub(crate) fn abandoned(&self, link: &Link) -> usize {
        let state = self.state.lock();
        let ours = state.link.as_deref().is_some_and(|ours| std::ptr::eq(ours, link));
        if ours { state.messages as usize } else { 0 }
    }

    /// Takes credits that came over `link`. True if the pair's number is free now.
    pub(crate) fn credited(&self, link: &Link, messages: u32, bytes: u64) -> bool {
        let mut state = self.state.lock();
        if !state.link.as_deref().is_some_and(|ours| std::ptr::eq(ours, link)) {
            return false;
        }
        state.messages -= messages.min(state.messages);
        if state.messages == 0 {
            state.begin_era();
        }
        state.bytes = if state.messages == 0 { 0 } else { state.bytes.saturating_sub(bytes) };
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.changed.notify_one();
        }
        let free = state.orphan && state.messages == 0;
        if free {
            state.link = None;
        }
        free
    }
}
