//! What comes in over a lane: messages, pieces, calls, pings. Every field is checked; a breach closes the link.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use tonic::Streaming;

use super::{BACKLOG_HIGH, CREDIT_DELAY, InLane, ONE, PairIn, accept::Conn, bytes_of};
use crate::{
    Accept, Incoming, Message, RemotingConfig, ReplyTo, ServiceId, Symbol,
    error::NO_SERVICE,
    wire::{Call, ChunkRef, EnvelopeRef, Fields, Goodbye, LaneKind, Malformed, Ping, SymbolDef, owned},
};

/// Nothing of the answers that wait leaves for this many times `keepalive_timeout`: the link is cut off.
const PATIENCE: u32 = 5;

/// Unanswered asks that a peer may have here, as a multiple of `max_asks`: its two lanes have that many each, and it may
/// have given up as many that still run here.
const ASKS: usize = 4;

/// However many may be configured: half of what the count of a link holds.
const MOST_ASKS: usize = 1 << 23;

/// Asks and calls of one link that may be unanswered here.
pub(super) fn most_asks(config: &RemotingConfig) -> usize {
    config.max_asks.saturating_mul(ASKS).min(MOST_ASKS)
}

/// A message whose payload is still arriving.
struct Assembly {
    message: Message,
    accept: Accept,
    correlation: u64,
    data: BytesMut,
    total: usize,
    deadline: Option<Instant>,
}

struct Reader {
    lane: Arc<InLane>,
    pairs: Vec<Option<Arc<PairIn>>>,
    symbols: Vec<Symbol>,
    assemblies: HashMap<u32, Assembly>,
}

/// Why reading ended.
enum End {
    /// The peer closed the lane, or it broke.
    Gone(String),
    /// The peer said why.
    Goodbye(String),
    /// What it sent breaks a rule.
    Breach(String),
}

/// Reads the lane until it ends, then closes its link.
pub(super) async fn run(lane: Arc<InLane>, stream: Streaming<Bytes>, conn: Arc<Conn>) {
    let link = Arc::clone(&lane.link);
    let reader = Reader { lane, pairs: Vec::new(), symbols: Vec::new(), assemblies: HashMap::new() };
    let end = tokio::select! {
        () = link.closed.cancelled() => End::Gone(link.why().to_string()),
        end = reader.read(stream) => end,
    };
    match end {
        End::Gone(why) => link.close(&why),
        End::Goodbye(why) => link.close(&format!("the peer said goodbye: {why}")),
        End::Breach(why) => {
            conn.refuse(&why);
            link.close(&why);
        }
    }
    conn.close_soon();
}

impl Reader {
    async fn read(mut self, mut stream: Streaming<Bytes>) -> End {
        let config = &self.lane.link.shared.config;
        let silence = config.keepalive_timeout + config.keepalive_interval;
        let control = self.lane.kind == LaneKind::Control;
        let mut tick = pin!(tokio::time::sleep(silence));
        // Control lane: when a silent peer is given up. Other lanes: when credits travel on their own.
        let mut armed = control;
        loop {
            let next = tokio::select! {
                biased;
                () = &mut tick, if armed => {
                    if control {
                        return End::Gone(format!("nothing came from the peer for {silence:?}"));
                    }
                    armed = false;
                    self.credits_due();
                    continue;
                }
                next = stream.message() => next,
            };
            let frame = match next {
                Ok(Some(frame)) => frame,
                Ok(None) => return End::Gone("the peer closed it".into()),
                Err(status) => return ended_by(&status),
            };
            if control {
                tick.as_mut().reset(after(silence));
            } else if !armed {
                self.lane.eager.store(false, Ordering::Release);
                tick.as_mut().reset(after(CREDIT_DELAY));
                armed = true;
            }
            if self.lane.link.parting.load(Ordering::Acquire) {
                // It could not be answered any more: it is not taken, and the peer is about to close.
                continue;
            }
            match self.frame(&frame) {
                Ok(None) => {}
                Ok(Some(goodbye)) => return End::Goodbye(goodbye),
                Err(why) => return End::Breach(why),
            }
            if let Err(end) = self.wait_for_backlog().await {
                return end;
            }
        }
    }

    /// Nothing took the credits along so far: they leave now, and from now on at once.
    fn credits_due(&self) {
        self.lane.eager.store(true, Ordering::Release);
        if self.lane.owing.lock().as_ref().is_some_and(|owing| !owing.is_empty()) {
            self.lane.nudge();
        }
    }

    /// A peer that does not read its answers is not read from either (R5), and let go when it reads nothing at all.
    async fn wait_for_backlog(&self) -> Result<(), End> {
        let link = &self.lane.link;
        let patience = link.shared.config.keepalive_timeout * PATIENCE;
        while bytes_of(link.work.load(Ordering::Acquire)) > BACKLOG_HIGH {
            let drained = link.drained.notified();
            let mut drained = pin!(drained);
            drained.as_mut().enable();
            let left = link.left.load(Ordering::Relaxed);
            if bytes_of(link.work.load(Ordering::Acquire)) <= BACKLOG_HIGH / 2 {
                continue;
            }
            tokio::select! {
                () = drained => {}
                // Nobody reads this lane meanwhile: its end is noticed here.
                () = self.lane.gone.cancelled() => return Err(End::Gone("connection lost: answers wait for it".into())),
                () = tokio::time::sleep(patience) => if link.left.load(Ordering::Relaxed) == left {
                    crate::measure::limit("answer_backlog");
                    return Err(End::Breach(format!("it reads none of its answers for {patience:?}")));
                },
            }
        }
        Ok(())
    }

    /// Handles the frame's fields in the order in which they stand. Gives the reason of a goodbye.
    fn frame(&mut self, frame: &Bytes) -> Result<Option<String>, String> {
        let wire = |err: Malformed| err.to_string();
        let mut fields = Fields::of(frame);
        while let Some((number, value)) = fields.next().map_err(wire)? {
            match number {
                3 => {
                    let symbol = SymbolDef::decode(value.bytes().map_err(wire)?).map_err(|err| err.to_string())?;
                    self.define(symbol.number, symbol.text)?;
                }
                4 => self.chunk(ChunkRef::read(value.bytes().map_err(wire)?).map_err(wire)?)?,
                5 => self.envelope(frame, EnvelopeRef::read(value.bytes().map_err(wire)?).map_err(wire)?)?,
                6 => {
                    let call = frame.slice_ref(value.bytes().map_err(wire)?);
                    let mut call = Call::decode(call).map_err(|err| err.to_string())?;
                    call.body = owned(frame, &call.body);
                    self.call(call)?;
                }
                9 => {
                    let ping = Ping::decode(value.bytes().map_err(wire)?).map_err(|err| err.to_string())?;
                    self.lane.pong(ping)?;
                }
                12 => self.credits_due(),
                11 => {
                    let goodbye = Goodbye::decode(value.bytes().map_err(wire)?).map_err(|err| err.to_string())?;
                    return Ok(Some(goodbye.why.chars().take(200).collect()));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    fn define(&mut self, number: u32, text: String) -> Result<(), String> {
        if number as usize != self.symbols.len() + 1 || number as usize > self.lane.link.shared.config.max_symbols {
            return Err(format!("it defines symbol {number} after {}", self.symbols.len()));
        }
        if text.len() > RemotingConfig::MAX_SYMBOL {
            return Err(format!("it defines a symbol of {} bytes", text.len()));
        }
        let symbol = self.lane.link.shared.services.symbol(&text);
        self.symbols.push(symbol);
        Ok(())
    }

    fn symbol(&self, number: u32, text: &str) -> Result<Symbol, String> {
        if number == 0 {
            if text.len() > RemotingConfig::MAX_SYMBOL {
                return Err(format!("it names a kind or message with {} bytes", text.len()));
            }
            return Ok(text.into());
        }
        self.symbols
            .get(number as usize - 1)
            .cloned()
            .ok_or_else(|| format!("it uses symbol {number}, which it did not define"))
    }

    fn envelope(&mut self, frame: &Bytes, envelope: EnvelopeRef<'_>) -> Result<(), String> {
        let kind = self.symbol(envelope.kind, envelope.kind_text)?;
        let name = self.symbol(envelope.message, envelope.message_text)?;
        let (size, cost) = self.admit(&envelope, kind.len() + name.len())?;
        let message = Message {
            to: envelope.to,
            kind,
            key: owned(frame, envelope.key),
            message: name,
            epoch: envelope.epoch,
            from: owned(frame, envelope.from),
            payload: if envelope.total == 0 { owned(frame, envelope.payload) } else { Bytes::new() },
        };
        let correlation = envelope.correlation;
        let left = (correlation != 0).then(|| Duration::from_micros(envelope.left_us));
        let accept = Accept::new(self.pair(envelope.pair)?, cost);
        if envelope.total == 0 {
            self.deliver(message, accept, correlation, left);
            return Ok(());
        }
        let deadline = left.map(|left| self.lane.link.shared.clock.now() + left);
        let mut data = BytesMut::with_capacity(size);
        data.extend_from_slice(envelope.payload);
        let transfer = envelope.transfer;
        let whole = data.len() >= size;
        let assembly = Assembly { message, accept, correlation, data, total: size, deadline };
        if whole || self.assemblies.insert(transfer, assembly).is_some() {
            return Err(format!("it begins transfer {transfer} wrongly"));
        }
        Ok(())
    }

    /// Checks sizes and counts the message against the window. Gives its payload's size and its cost.
    fn admit(&self, envelope: &EnvelopeRef<'_>, names: usize) -> Result<(usize, u32), String> {
        if self.lane.kind == LaneKind::Control {
            return Err("it sends a message over the control lane".into());
        }
        let link = &self.lane.link;
        let config = &link.shared.config;
        let size = envelope.payload.len().max(usize::try_from(envelope.total).unwrap_or(usize::MAX));
        if size > config.max_payload {
            return Err(format!("it sends a payload of {size} bytes, {} are allowed", config.max_payload));
        }
        let address = envelope.key.len() + envelope.from.len();
        if address > RemotingConfig::MAX_ADDRESS {
            return Err(format!("it sends a key and sender of {address} bytes"));
        }
        // By their text: kept messages hold names, too.
        let cost = size + address + names + RemotingConfig::MESSAGE_OVERHEAD;
        let unaccepted = link.unaccepted.fetch_add(cost, Ordering::AcqRel) + cost;
        if unaccepted > config.link_window {
            crate::measure::limit("link_window");
            return Err(format!("it sends {unaccepted} bytes into a window of {}", config.link_window));
        }
        // Bounded by the window just checked.
        Ok((size, u32::try_from(cost).unwrap_or(u32::MAX)))
    }

    fn chunk(&mut self, chunk: ChunkRef<'_>) -> Result<(), String> {
        let Some(assembly) = self.assemblies.get_mut(&chunk.transfer) else {
            return Err(format!("it continues transfer {}, which it did not begin", chunk.transfer));
        };
        if assembly.data.len() + chunk.data.len() > assembly.total || chunk.data.is_empty() {
            return Err(format!("transfer {} does not keep to its size", chunk.transfer));
        }
        assembly.data.extend_from_slice(chunk.data);
        if assembly.data.len() < assembly.total {
            return Ok(());
        }
        let Some(done) = self.assemblies.remove(&chunk.transfer) else { return Ok(()) };
        let message = Message { payload: done.data.freeze(), ..done.message };
        let now = self.lane.link.shared.clock.now();
        let left = done.deadline.map(|at| at.saturating_duration_since(now));
        self.deliver(message, done.accept, done.correlation, left);
        Ok(())
    }

    fn deliver(&self, message: Message, accept: Accept, correlation: u64, left: Option<Duration>) {
        let limit = self.lane.link.shared.config.max_payload;
        let reply = (correlation != 0).then(|| self.reply_to(correlation, limit));
        let link = &self.lane.link;
        match (reply, link.shared.services.get_receiver()) {
            (Some(reply), _) if left.is_none_or(|left| left.is_zero()) => reply.expired(),
            (Some(reply), _) if link.unanswered() > most_asks(&link.shared.config) => {
                crate::measure::limit("max_asks");
                reply.not_run("too many asks are unanswered");
            }
            (reply, Some(receiver)) => {
                receiver.message(&link.identity, Incoming { message, left, accept, reply });
            }
            (Some(reply), None) => reply.not_run("this node takes no messages yet"),
            (None, None) => tracing::debug!(peer = ?link.identity, "tell dropped: this node takes no messages yet"),
        }
    }

    fn pair(&mut self, id: u32) -> Result<Arc<PairIn>, String> {
        let index = id as usize;
        if let Some(Some(pair)) = self.pairs.get(index) {
            return Ok(Arc::clone(pair));
        }
        if index >= self.lane.link.shared.config.max_pairs {
            crate::measure::limit("max_pairs");
            return Err(format!("it uses pair {id}, {} are allowed", self.lane.link.shared.config.max_pairs));
        }
        if self.pairs.len() <= index {
            self.pairs.resize(index + 1, None);
        }
        let pair = Arc::new(PairIn::new(Arc::clone(&self.lane), id));
        self.pairs[index] = Some(Arc::clone(&pair));
        Ok(pair)
    }

    fn call(&mut self, call: Call) -> Result<(), String> {
        let link = Arc::clone(&self.lane.link);
        let limit = link.shared.config.max_call_body;
        if self.lane.kind != LaneKind::Control {
            return Err("it makes a call outside the control lane".into());
        }
        if call.body.len() > limit {
            return Err(format!("it makes a call with {} bytes, {limit} are allowed", call.body.len()));
        }
        let reply = self.reply_to(call.correlation, limit);
        if self.lane.calls.fetch_add(1, Ordering::AcqRel) >= link.shared.config.max_asks {
            crate::measure::limit("max_asks");
            reply.not_run("too many calls are unanswered");
            return Ok(());
        }
        if !self.lane.hold_call(call.body.len()) {
            crate::measure::limit("link_window");
            reply.not_run("too many bytes of calls are unanswered");
            return Ok(());
        }
        let reply = reply.holding(call.body.len());
        let left = Duration::from_micros(call.left_us);
        let service = u16::try_from(call.service).ok().and_then(|id| link.shared.services.get_service(ServiceId(id)));
        match service {
            _ if left.is_zero() => reply.expired(),
            Some(service) => service.call(&link.identity, call.body, left, reply),
            None => reply.not_run(&format!("{NO_SERVICE}{} here", call.service)),
        }
        Ok(())
    }

    fn reply_to(&self, correlation: u64, limit: usize) -> ReplyTo {
        self.lane.link.work.fetch_add(ONE, Ordering::AcqRel);
        ReplyTo::new(Arc::clone(&self.lane), correlation, limit)
    }
}

/// The tokio instant `wait` from now, without reading a clock here.
fn after(wait: Duration) -> tokio::time::Instant {
    tokio::time::sleep(wait).deadline()
}

fn ended_by(status: &tonic::Status) -> End {
    match status.code() {
        // What tonic says of a frame above its size, and what our codec says of one it cannot read.
        tonic::Code::OutOfRange | tonic::Code::DataLoss | tonic::Code::Internal => {
            End::Breach(format!("it sends what cannot be read: {}", status.message()))
        }
        _ => End::Gone(format!("connection lost: {}", status.message())),
    }
}
