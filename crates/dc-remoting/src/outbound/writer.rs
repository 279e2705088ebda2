//! What goes out over a lane: takes what is queued and packs it into frames. Never waits for more; at most it
//! lets those run first who are ready to add something.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use dc_core::Endpoint;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, error::TryRecvError};

use super::{
    ask::Ask,
    interner::{Interner, Number},
    link::{Lane, Link},
    pending::{Locked, Pending},
};
use crate::{
    LinkError, Message, RemotingConfig, Symbol, Undelivered,
    remoting::Shared,
    wire::{Call, ChunkRef, CreditRef, EnvelopeRef, Frame, Goodbye, OutFrame, Ping, SymbolDef},
};

/// Entries taken from the queue at once.
const BATCH: usize = 64;

/// A frame is closed once it holds this many bytes.
const FRAME_BYTES: usize = 8 << 10;

/// Payloads that are packed in one round, give or take one.
const ROUND_BYTES: usize = 256 << 10;

/// Payloads up to this size are copied into their frame; larger ones follow it as they are.
const COPIED: usize = 4 << 10;

/// What a lane's queue holds.
pub(crate) enum Out {
    Message(Sending),
    Call {
        service: u16,
        body: Bytes,
        ask: Option<Ask>,
    },
    Ping(u64),
    /// A sender waits for credits.
    WantCredits,
    Goodbye(&'static str),
}

/// A message in a queue, already counted against credits.
pub(crate) struct Sending {
    pub(crate) pair: u32,
    pub(crate) message: Message,
    pub(crate) ask: Option<Ask>,
}

/// A large payload on its way, piece by piece.
struct Transfer {
    number: u32,
    pair: u32,
    correlation: u64,
    left_us: u64,
    /// Kept whole: the head is written with the first piece, and a tell is reported if the rest never leaves.
    message: Message,
    sent: usize,
}

/// What a lane's writer is made of.
pub(crate) struct LaneStart {
    pub(crate) shared: Arc<Shared>,
    pub(crate) endpoint: Endpoint,
    pub(crate) lane: Lane,
    pub(crate) hello: Frame,
    pub(crate) queue: mpsc::UnboundedReceiver<Out>,
    pub(crate) pending: Arc<[Pending; 3]>,
    /// Set once the handshake is over.
    pub(crate) link: Arc<OnceLock<Weak<Link>>>,
    /// Set whenever something leaves.
    pub(crate) used: Arc<AtomicBool>,
}

/// A lane's queue and what was taken from it. The stream that tonic polls and the link's end share it.
pub(crate) struct OutLane(Mutex<OutState>);

/// The stream that tonic writes to the dialled.
pub(crate) struct OutStream(pub(crate) Arc<OutLane>);

struct OutState {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    lane: Lane,
    queue: mpsc::UnboundedReceiver<Out>,
    /// Taken from the queue and not packed yet: kept for its capacity, and when the lane has ended.
    taken: Vec<Out>,
    /// The frame being filled.
    filling: BytesMut,
    ready: VecDeque<OutFrame>,
    pending: Arc<[Pending; 3]>,
    interner: Interner,
    link: Arc<OnceLock<Weak<Link>>>,
    used: Arc<AtomicBool>,
    transfers: VecDeque<Transfer>,
    /// Messages of pairs whose transfer is not over yet (R1).
    held: VecDeque<(Sending, Registered)>,
    /// What has become of the asks in `taken`, in its order; kept for its capacity.
    registered: Vec<Registered>,
    next_transfer: u32,
    /// Wakes the stream when the link ends.
    waker: Option<Waker>,
    /// The last poll left the turn to others although something was there.
    stepped_aside: bool,
    ended: bool,
}

/// What has become of a message's ask before the message is packed.
enum Registered {
    /// It is a tell.
    Tell,
    /// Its asker waits in the table.
    Ask { correlation: u64, deadline: Instant },
    /// Its asker has gone, or was told that it will not leave.
    Gone,
}

impl OutLane {
    pub(crate) fn new(start: LaneStart) -> Self {
        Self(Mutex::new(OutState {
            shared: start.shared,
            endpoint: start.endpoint,
            lane: start.lane,
            queue: start.queue,
            taken: Vec::with_capacity(BATCH),
            filling: BytesMut::with_capacity(8 << 10),
            ready: VecDeque::from([start.hello.into()]),
            pending: start.pending,
            interner: Interner::new(),
            link: start.link,
            used: start.used,
            transfers: VecDeque::new(),
            held: VecDeque::new(),
            registered: Vec::new(),
            next_transfer: 0,
            waker: None,
            stepped_aside: false,
            ended: false,
        }))
    }

    /// Ends the lane: what has not left is told so, and certainly never leaves.
    pub(crate) fn end(&self, why: &Arc<str>) {
        let mut state = self.0.lock();
        state.ended = true;
        state.ready.clear();
        let left = state.drain();
        let (shared, endpoint) = (Arc::clone(&state.shared), state.endpoint.clone());
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        drop(state);
        for (message, ask) in left {
            match (message, ask) {
                (_, Some(ask)) => {
                    ask.finish(Err(LinkError::Unreachable { endpoint: endpoint.clone(), why: Arc::clone(why) }));
                }
                (Some(message), None) => {
                    if let Some(receiver) = shared.services.get_receiver() {
                        receiver.undelivered(Undelivered { message, why: Arc::clone(why) });
                    }
                }
                (None, None) => {}
            }
        }
    }
}

impl OutLane {
    /// Takes out the asks whose time is over while they still wait to leave: they certainly do not run.
    /// Finds any only where the line does not take what is queued.
    pub(crate) fn expire(&self, now: Instant) {
        let mut state = self.0.lock();
        let this = &mut *state;
        while let Ok(out) = this.queue.try_recv() {
            this.taken.push(out);
        }
        let due = |out: &mut Out| match out {
            Out::Message(Sending { ask: Some(ask), .. }) | Out::Call { ask: Some(ask), .. } => ask.deadline <= now,
            _ => false,
        };
        let late: Vec<Out> = this.taken.extract_if(.., due).collect();
        let endpoint = this.endpoint.clone();
        if !this.taken.is_empty()
            && let Some(waker) = &this.waker
        {
            // The stream was promised a wake for what is in the queue, not for what is here.
            waker.wake_by_ref();
        }
        let link = this.link.get().and_then(Weak::upgrade);
        drop(state);
        for out in late {
            let ask = match out {
                Out::Message(Sending { pair, message, ask: Some(ask) }) => {
                    if let Some(link) = &link {
                        let bytes = message.cost().into();
                        super::reader::credit(link, &[CreditRef { pair, messages: 1, bytes }]);
                    }
                    ask
                }
                Out::Call { ask: Some(ask), .. } => ask,
                _ => continue,
            };
            let after = Duration::ZERO;
            ask.finish(Err(LinkError::Timeout { endpoint: endpoint.clone(), after, may_have_run: false }));
        }
    }

    /// Whether nothing waits to leave.
    pub(crate) fn is_empty(&self) -> bool {
        let state = self.0.lock();
        state.queue.is_empty() && state.taken.is_empty() && state.held.is_empty()
    }
}

impl OutState {
    /// Takes out everything that has not left, or not wholly.
    fn drain(&mut self) -> Vec<(Option<Message>, Option<Ask>)> {
        self.queue.close();
        let mut left = Vec::new();
        for transfer in std::mem::take(&mut self.transfers) {
            // A large ask waits in the table and is told so from there.
            left.push(((transfer.correlation == 0).then_some(transfer.message), None));
        }
        for (sending, registered) in std::mem::take(&mut self.held) {
            // An ask that is registered is told so from its table.
            if !matches!(registered, Registered::Ask { .. }) {
                left.push((Some(sending.message), sending.ask));
            }
        }
        let mut taken = std::mem::take(&mut self.taken);
        loop {
            for out in taken.drain(..) {
                match out {
                    Out::Message(sending) => left.push((Some(sending.message), sending.ask)),
                    Out::Call { ask, .. } => left.push((None, ask)),
                    Out::Ping(_) | Out::WantCredits | Out::Goodbye(_) => {}
                }
            }
            match self.queue.try_recv() {
                Ok(out) => taken.push(out),
                Err(TryRecvError::Disconnected) => return left,
                // A sender is between taking its place and filling it: a matter of nanoseconds.
                Err(TryRecvError::Empty) => std::thread::yield_now(),
            }
        }
    }

    /// Several asks are under way, so that more are likely to come.
    fn others_ask(&self) -> bool {
        self.pending[self.lane as usize].len() >= 4
    }

    /// Packs all that was taken, and one piece of a large payload, into frames.
    fn pack(&mut self) {
        if self.interner.max == 0
            && let Some(link) = self.link.get().and_then(Weak::upgrade)
        {
            self.interner.max = link.grant.max_symbols;
        }
        let works = |out: &Out| matches!(out, Out::Message(_) | Out::Call { .. });
        if !self.used.load(Ordering::Relaxed) && self.taken.iter().any(works) {
            self.used.store(true, Ordering::Relaxed);
        }
        let mut taken = std::mem::take(&mut self.taken);
        let later = self.split_batch(&mut taken);
        let now = self.register_all(&mut taken);
        let mut registered = std::mem::take(&mut self.registered);
        {
            let mut outs = taken.drain(..);
            let mut fates = registered.drain(..);
            for out in outs.by_ref() {
                let fate = fates.next().unwrap_or(Registered::Tell);
                match out {
                    Out::Message(sending) => self.message(sending, fate, now),
                    Out::Call { service, body, .. } => self.call(service, body, fate, now),
                    Out::Ping(nonce) => prost::encoding::message::encode(9, &Ping { nonce }, &mut self.filling),
                    Out::WantCredits => prost::encoding::bool::encode(12, &true, &mut self.filling),
                    Out::Goodbye(why) => {
                        let goodbye = Goodbye { why: why.to_owned() };
                        prost::encoding::message::encode(11, &goodbye, &mut self.filling);
                        self.ended = true;
                        break;
                    }
                }
            }
            // After a goodbye nothing leaves: what is left here is told so when the lane ends.
            self.held.extend(outs.filter_map(|out| match out {
                Out::Message(sending) => Some((sending, fates.next().unwrap_or(Registered::Tell))),
                Out::Call { .. } | Out::Ping(_) | Out::WantCredits | Out::Goodbye(_) => {
                    fates.next();
                    None
                }
            }));
        }
        self.taken = if later.is_empty() { taken } else { later };
        self.registered = registered;
        if !self.ended && self.next_piece() {
            for (sending, fate) in std::mem::take(&mut self.held) {
                self.message(sending, fate, now);
            }
        }
        if !self.filling.is_empty() {
            self.cut(Bytes::new());
        }
    }

    /// Splits off what is too much for one round: what is packed counts as having left.
    fn split_batch(&self, taken: &mut Vec<Out>) -> Vec<Out> {
        let mut bytes = 0;
        let mut fits = |out: &Out| {
            let before = bytes;
            bytes += match out {
                Out::Message(sending) => sending.message.payload.len(),
                Out::Call { body, .. } => body.len(),
                Out::Ping(_) | Out::WantCredits | Out::Goodbye(_) => 0,
            };
            before < ROUND_BYTES
        };
        let n = taken.iter().take(BATCH).take_while(|out| fits(out)).count();
        if n < taken.len() { taken.split_off(n) } else { Vec::new() }
    }

    /// Hands the asks of what was taken over to the table of those that wait, all at once: readers wait
    /// for the table. Gives the time if there was any ask.
    fn register_all(&mut self, taken: &mut [Out]) -> Option<Instant> {
        let is_ask =
            |out: &Out| matches!(out, Out::Message(Sending { ask: Some(_), .. }) | Out::Call { ask: Some(_), .. });
        if !taken.iter().any(is_ask) {
            return None;
        }
        let now = self.shared.clock.now();
        let mut table = self.pending[self.lane as usize].lock();
        for out in taken {
            let ask = match out {
                Out::Message(Sending { ask, .. }) | Out::Call { ask, .. } => ask.take(),
                Out::Ping(_) | Out::WantCredits | Out::Goodbye(_) => None,
            };
            let fate = ask.map_or(Registered::Tell, |ask| self.register(ask, &mut table, now));
            self.registered.push(fate);
        }
        Some(now)
    }

    /// Closes the frame being filled.
    fn cut(&mut self, tail: Bytes) {
        let head = self.filling.split();
        self.ready.push_back(OutFrame { head, tail });
    }

    fn register(&self, ask: Ask, table: &mut Locked<'_>, now: Instant) -> Registered {
        if !ask.leave() {
            return Registered::Gone;
        }
        let (endpoint, deadline) = (|| self.endpoint.clone(), ask.deadline);
        if deadline <= now {
            let after = Duration::ZERO;
            ask.finish(Err(LinkError::Timeout { endpoint: endpoint(), after, may_have_run: false }));
            return Registered::Gone;
        }
        match table.insert(ask, self.lane as u8) {
            Ok(correlation) => Registered::Ask { correlation, deadline },
            Err(ask) => {
                crate::measure::limit("max_asks");
                ask.finish(Err(LinkError::Overloaded { endpoint: endpoint(), what: "too many unanswered asks" }));
                Registered::Gone
            }
        }
    }

    fn message(&mut self, sending: Sending, fate: Registered, now: Option<Instant>) {
        if !self.transfers.is_empty() && self.transfers.iter().any(|transfer| transfer.pair == sending.pair) {
            self.held.push_back((sending, fate));
            return;
        }
        let Sending { pair, message, .. } = sending;
        let (correlation, left_us) = match fate {
            Registered::Tell => (0, 0),
            Registered::Ask { correlation, deadline } => (correlation, self.left_us(deadline, now)),
            Registered::Gone => return self.not_sent(pair, message.cost()),
        };
        let size = message.payload.len();
        if size > self.shared.config.chunk {
            self.next_transfer = self.next_transfer.wrapping_add(1);
            let number = self.next_transfer;
            self.transfers.push_back(Transfer { number, pair, correlation, left_us, message, sent: 0 });
            return;
        }
        let head = EnvelopeRef { correlation, pair, left_us, ..EnvelopeRef::default() };
        self.envelope(head, &message, &message.payload);
    }

    /// The time left until `deadline`, at least 1.
    fn left_us(&self, deadline: Instant, now: Option<Instant>) -> u64 {
        let now = now.unwrap_or_else(|| self.shared.clock.now());
        u64::try_from(deadline.saturating_duration_since(now).as_micros()).unwrap_or(u64::MAX).max(1)
    }

    /// Writes `message` into the frame being filled, with `piece` as its payload.
    fn envelope(&mut self, head: EnvelopeRef<'_>, message: &Message, piece: &Bytes) {
        let (kind, kind_text) = self.name(&message.kind);
        let (name, message_text) = self.name(&message.message);
        let envelope = EnvelopeRef {
            to: message.to,
            kind,
            message: name,
            epoch: message.epoch,
            key: &message.key,
            from: &message.from,
            payload: piece,
            kind_text,
            message_text,
            ..head
        };
        if piece.len() > COPIED {
            envelope.write(&mut self.filling, Some(piece.len()));
            self.cut(piece.clone());
            return;
        }
        envelope.write(&mut self.filling, None);
        if self.filling.len() >= FRAME_BYTES {
            self.cut(Bytes::new());
        }
    }

    /// A name's number, which is defined first where it is new; or 0 and the text.
    fn name<'a>(&mut self, symbol: &'a Symbol) -> (u32, &'a str) {
        match self.interner.number(symbol) {
            Number::Known(number) => (number, ""),
            Number::New(number) => {
                let def = SymbolDef { number, text: symbol.as_str().to_owned() };
                prost::encoding::message::encode(3, &def, &mut self.filling);
                (number, "")
            }
            Number::None => (0, symbol.as_str()),
        }
    }

    /// A message that was counted against credits and then did not leave: the credits come back here.
    fn not_sent(&self, pair: u32, cost: u32) {
        if let Some(link) = self.link.get().and_then(Weak::upgrade) {
            super::reader::credit(&link, &[CreditRef { pair, messages: 1, bytes: cost.into() }]);
        }
    }

    fn call(&mut self, service: u16, body: Bytes, fate: Registered, now: Option<Instant>) {
        let Registered::Ask { correlation, deadline } = fate else { return };
        let call = Call { correlation, service: service.into(), left_us: self.left_us(deadline, now), body };
        prost::encoding::message::encode(6, &call, &mut self.filling);
        if self.filling.len() >= FRAME_BYTES {
            self.cut(Bytes::new());
        }
    }

    /// Writes one piece of the transfer whose turn it is. True if that transfer is over.
    fn next_piece(&mut self) -> bool {
        let Some(mut transfer) = self.transfers.pop_front() else { return false };
        let total = transfer.message.payload.len();
        let end = total.min(transfer.sent + self.shared.config.chunk);
        let piece = transfer.message.payload.slice(transfer.sent..end);
        if transfer.sent == 0 {
            let head = EnvelopeRef {
                correlation: transfer.correlation,
                pair: transfer.pair,
                left_us: transfer.left_us,
                total: total as u64,
                transfer: transfer.number,
                ..EnvelopeRef::default()
            };
            self.envelope(head, &transfer.message, &piece);
        } else {
            ChunkRef::write_head(transfer.number, piece.len(), &mut self.filling);
            self.cut(piece);
        }
        transfer.sent = end;
        let over = end == total;
        if !over {
            self.transfers.push_back(transfer);
        }
        over
    }
}

impl Stream for OutStream {
    type Item = OutFrame;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<OutFrame>> {
        let mut state = self.0.0.lock();
        let this = &mut *state;
        loop {
            if let Some(frame) = this.ready.pop_front() {
                return Poll::Ready(Some(frame));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            if this.taken.len() >= BATCH {
                // Left over from the last round, or moved here by `expire`.
                this.pack();
                continue;
            }
            let idle = this.transfers.is_empty() && this.taken.is_empty();
            match this.queue.poll_recv_many(cx, &mut this.taken, BATCH) {
                Poll::Ready(0) if idle => return Poll::Ready(None),
                Poll::Pending if idle => {
                    if !this.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                        this.waker = Some(cx.waker().clone());
                    }
                    return Poll::Pending;
                }
                Poll::Ready(_) if !this.stepped_aside && this.taken.len() < BATCH && this.others_ask() => {
                    // Other askers have just been answered: those who are ready to run go first, once.
                    this.stepped_aside = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(_) | Poll::Pending => {
                    this.stepped_aside = false;
                    this.pack();
                }
            }
        }
    }
}

/// Refuses what no link carries, before anything is sent.
pub(crate) fn check_size(message: &Message, max_payload: usize) -> Result<(), LinkError> {
    let address = message.key.len() + message.from.len();
    let parts = [
        ("payload", message.payload.len(), max_payload),
        ("key and sender", address, RemotingConfig::MAX_ADDRESS),
        ("kind", message.kind.len(), RemotingConfig::MAX_SYMBOL),
        ("message name", message.message.len(), RemotingConfig::MAX_SYMBOL),
    ];
    match parts.into_iter().find(|(_, size, max)| size > max) {
        Some((what, size, max)) => Err(LinkError::TooLarge { what, size, max, may_have_run: false }),
        None => Ok(()),
    }
}
