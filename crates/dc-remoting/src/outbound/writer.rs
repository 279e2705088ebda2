//! What goes out over a lane: takes what is queued, never waits for more, packs it into frames.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, OnceLock, Weak},
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use dc_core::Endpoint;
use futures::Stream;
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, error::TryRecvError};

use super::{
    ask::Ask,
    link::{Lane, Link},
    pending::{Locked, Pending},
};
use crate::{
    LinkError, Message, RemotingConfig, Symbol, Undelivered,
    remoting::Shared,
    wire::{Call, Chunk, Envelope, Frame, Goodbye, Ping, SymbolDef},
};

/// Entries taken from the queue at once.
const BATCH: usize = 256;

/// A frame takes nothing further once it holds this many bytes.
const FRAME_BYTES: usize = 64 << 10;

/// What a lane's queue holds.
pub(crate) enum Out {
    Message(Sending),
    Call { service: u16, body: Bytes, ask: Ask },
    Ping(u64),
    Goodbye(&'static str),
}

/// A message in a queue, already counted against credits.
pub(crate) struct Sending {
    pub(crate) pair: u32,
    pub(crate) message: Message,
    pub(crate) ask: Option<Ask>,
}

/// Names that were defined on this lane.
struct Interner {
    /// By address of the shared text: a hit costs no string comparison. Holds the symbol, so that the address stays its own.
    by_address: HashMap<usize, (Symbol, u32)>,
    by_text: HashMap<Symbol, u32>,
    max: usize,
}

impl Interner {
    /// The number of `symbol`, defining it in `frame` where it is new; 0 where no more are taken.
    fn number(&mut self, symbol: &Symbol, frame: &mut Frame) -> u32 {
        if let Some((_, number)) = self.by_address.get(&symbol.address()) {
            return *number;
        }
        let number = match self.by_text.get(symbol) {
            Some(number) => *number,
            None if self.by_text.len() >= self.max => return 0,
            None => {
                // Bounded by `max`.
                let number = self.by_text.len() as u32 + 1;
                self.by_text.insert(symbol.clone(), number);
                frame.symbols.push(SymbolDef { number, text: symbol.as_str().to_owned() });
                number
            }
        };
        if self.by_address.len() >= self.max {
            self.by_address.clear();
        }
        self.by_address.insert(symbol.address(), (symbol.clone(), number));
        number
    }
}

/// A large payload on its way, piece by piece.
struct Transfer {
    number: u32,
    pair: u32,
    head: Option<Box<Envelope>>,
    rest: Bytes,
    /// A tell: what is reported if the rest never leaves.
    tell: Option<Message>,
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
}

/// A lane's queue and what was taken from it. The stream that tonic polls and the link's end share it.
pub(crate) struct OutLane(Mutex<OutState>);

/// The stream that tonic writes to the dialled.
pub(crate) struct OutStream(pub(crate) Arc<OutLane>);

struct OutState {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    lane: Lane,
    hello: Option<Frame>,
    queue: mpsc::UnboundedReceiver<Out>,
    /// Taken from the queue and not sent yet, last first.
    taken: Vec<Out>,
    pending: Arc<[Pending; 3]>,
    interner: Interner,
    link: Arc<OnceLock<Weak<Link>>>,
    transfers: VecDeque<Transfer>,
    /// Messages of pairs whose transfer is not over yet (R1).
    held: VecDeque<Sending>,
    next_transfer: u32,
    /// Wakes the stream when the link ends.
    waker: Option<Waker>,
    ended: bool,
}

impl OutLane {
    pub(crate) fn new(start: LaneStart) -> Self {
        Self(Mutex::new(OutState {
            shared: start.shared,
            endpoint: start.endpoint,
            lane: start.lane,
            hello: Some(start.hello),
            queue: start.queue,
            taken: Vec::with_capacity(BATCH),
            pending: start.pending,
            interner: Interner { by_address: HashMap::new(), by_text: HashMap::new(), max: 0 },
            link: start.link,
            transfers: VecDeque::new(),
            held: VecDeque::new(),
            next_transfer: 0,
            waker: None,
            ended: false,
        }))
    }

    /// Ends the lane: what has not left is told so, and certainly never leaves.
    pub(crate) fn end(&self, why: &Arc<str>) {
        let mut state = self.0.lock();
        state.ended = true;
        let left = state.drain();
        let (shared, endpoint) = (Arc::clone(&state.shared), state.endpoint.clone());
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        drop(state);
        let not_run = || LinkError::Unreachable { endpoint: endpoint.clone(), why: Arc::clone(why) };
        for (message, ask) in left {
            match (message, ask) {
                (_, Some(ask)) => ask.finish(Err(not_run())),
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

impl OutState {
    /// Takes out everything that has not left, or not wholly.
    fn drain(&mut self) -> Vec<(Option<Message>, Option<Ask>)> {
        self.queue.close();
        let mut left = Vec::new();
        for transfer in std::mem::take(&mut self.transfers) {
            left.push((transfer.tell, None));
        }
        for sending in std::mem::take(&mut self.held) {
            left.push((Some(sending.message), sending.ask));
        }
        let mut taken = std::mem::take(&mut self.taken);
        loop {
            match taken.pop() {
                Some(Out::Message(sending)) => left.push((Some(sending.message), sending.ask)),
                Some(Out::Call { ask, .. }) => left.push((None, Some(ask))),
                Some(Out::Ping(_) | Out::Goodbye(_)) => {}
                None => match self.queue.try_recv() {
                    Ok(out) => taken.push(out),
                    Err(TryRecvError::Disconnected) => return left,
                    // A sender is between taking its place and filling it: a matter of nanoseconds.
                    Err(TryRecvError::Empty) => std::thread::yield_now(),
                },
            }
        }
    }

    fn pack(&mut self) -> Frame {
        let mut frame = Frame::default();
        if self.interner.max == 0
            && let Some(link) = self.link.get().and_then(Weak::upgrade)
        {
            self.interner.max = link.grant.max_symbols;
        }
        let now = self.shared.clock.now();
        let pending = Arc::clone(&self.pending);
        let mut table = pending[self.lane as usize].lock();
        let mut bytes = 0;
        while bytes < FRAME_BYTES {
            match self.taken.pop() {
                None => break,
                Some(Out::Message(sending)) if self.transfers.iter().any(|t| t.pair == sending.pair) => {
                    self.held.push_back(sending);
                }
                Some(Out::Message(sending)) => bytes += self.message(sending, &mut frame, &mut table, now),
                Some(Out::Call { service, body, ask }) => {
                    bytes += self.call(service, body, ask, &mut frame, &mut table, now);
                }
                Some(Out::Ping(nonce)) => frame.ping = Some(Ping { nonce }),
                Some(Out::Goodbye(why)) => {
                    frame.goodbye = Some(Goodbye { why: why.to_owned() });
                    self.ended = true;
                    break;
                }
            }
        }
        drop(table);
        if bytes < FRAME_BYTES && self.next_piece(&mut frame) {
            self.release_held();
        }
        frame
    }

    /// Hands an ask over to the table of those that wait; `None` where it must not leave.
    fn register(&self, ask: Ask, table: &mut Locked<'_>, now: Instant) -> Option<(u64, u64)> {
        let left = ask.deadline.saturating_duration_since(now);
        if left.is_zero() {
            // The asker's own timer tells it; it certainly did not run.
            if !ask.leave() {
                return None;
            }
            ask.finish(Err(LinkError::Timeout {
                endpoint: self.endpoint.clone(),
                after: std::time::Duration::ZERO,
                may_have_run: false,
            }));
            return None;
        }
        if !ask.leave() {
            return None;
        }
        let left_us = u64::try_from(left.as_micros()).unwrap_or(u64::MAX).max(1);
        match table.insert(ask, self.lane as u8) {
            Ok(correlation) => Some((correlation, left_us)),
            Err(ask) => {
                let endpoint = self.endpoint.clone();
                ask.finish(Err(LinkError::Overloaded { endpoint, what: "too many unanswered asks" }));
                None
            }
        }
    }

    fn message(&mut self, sending: Sending, frame: &mut Frame, table: &mut Locked<'_>, now: Instant) -> usize {
        let Sending { pair, message, ask } = sending;
        let cost = message.cost();
        let (correlation, left_us) = match ask.map(|ask| self.register(ask, table, now)) {
            None => (0, 0),
            Some(Some(registered)) => registered,
            Some(None) => {
                self.not_sent(pair, cost);
                return 0;
            }
        };
        let kind = self.interner.number(&message.kind, frame);
        let name = self.interner.number(&message.message, frame);
        let text = |number, symbol: &Symbol| if number == 0 { symbol.as_str().to_owned() } else { String::new() };
        let mut envelope = Envelope {
            correlation,
            pair,
            to: message.to,
            kind,
            message: name,
            epoch: message.epoch,
            kind_text: text(kind, &message.kind),
            message_text: text(name, &message.message),
            key: message.key,
            from: message.from,
            left_us,
            payload: message.payload,
            total: 0,
            transfer: 0,
        };
        let (kind_symbol, name_symbol) = (message.kind, message.message);
        if envelope.payload.len() <= self.shared.config.chunk {
            let size = envelope.payload.len() + envelope.key.len() + envelope.from.len() + 32;
            frame.envelopes.push(envelope);
            return size;
        }
        self.next_transfer = self.next_transfer.wrapping_add(1);
        let tell = (correlation == 0).then(|| Message {
            to: envelope.to,
            kind: kind_symbol,
            key: envelope.key.clone(),
            message: name_symbol,
            epoch: envelope.epoch,
            from: envelope.from.clone(),
            payload: envelope.payload.clone(),
        });
        let rest = std::mem::take(&mut envelope.payload);
        (envelope.total, envelope.transfer) = (rest.len() as u64, self.next_transfer);
        self.transfers.push_back(Transfer {
            number: self.next_transfer,
            pair,
            head: Some(Box::new(envelope)),
            rest,
            tell,
        });
        0
    }

    /// A message that was counted against credits and then did not leave: the credits come back here.
    fn not_sent(&self, pair: u32, cost: u32) {
        if let Some(link) = self.link.get().and_then(Weak::upgrade) {
            super::reader::credit(&link, pair, 1, u64::from(cost));
        }
    }

    fn call(
        &mut self,
        service: u16,
        body: Bytes,
        ask: Ask,
        frame: &mut Frame,
        table: &mut Locked<'_>,
        now: Instant,
    ) -> usize {
        let Some((correlation, left_us)) = self.register(ask, table, now) else { return 0 };
        let size = body.len() + 32;
        frame.calls.push(Call { correlation, service: service.into(), left_us, body });
        size
    }

    /// Adds one piece of the transfer whose turn it is. True if that transfer is over.
    fn next_piece(&mut self, frame: &mut Frame) -> bool {
        let Some(mut transfer) = self.transfers.pop_front() else { return false };
        let piece = transfer.rest.split_to(self.shared.config.chunk.min(transfer.rest.len()));
        match transfer.head.take() {
            Some(head) => frame.envelopes.push(Envelope { payload: piece, ..*head }),
            None => frame.chunks.push(Chunk { transfer: transfer.number, data: piece }),
        }
        let over = transfer.rest.is_empty();
        if !over {
            self.transfers.push_back(transfer);
        }
        over
    }

    /// Puts what was held back in front of what was taken, in order.
    fn release_held(&mut self) {
        while let Some(sending) = self.held.pop_back() {
            self.taken.push(Out::Message(sending));
        }
    }
}

impl Stream for OutStream {
    type Item = Frame;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Frame>> {
        let mut state = self.0.0.lock();
        let this = &mut *state;
        if let Some(hello) = this.hello.take() {
            return Poll::Ready(Some(hello));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        loop {
            if this.taken.is_empty() {
                match this.queue.poll_recv_many(cx, &mut this.taken, BATCH) {
                    Poll::Ready(0) if this.transfers.is_empty() => return Poll::Ready(None),
                    Poll::Ready(_) => this.taken.reverse(),
                    Poll::Pending if this.transfers.is_empty() => {
                        if !this.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                            this.waker = Some(cx.waker().clone());
                        }
                        return Poll::Pending;
                    }
                    Poll::Pending => {}
                }
            }
            let frame = this.pack();
            if !frame.is_empty() {
                return Poll::Ready(Some(frame));
            }
            if this.ended {
                return Poll::Ready(None);
            }
        }
    }
}

/// Bytes of key and sender above the bound, or a name that is too long: refused before anything is sent.
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
