//! What comes in over a lane: messages, pieces, calls, pings. Every field is checked; a breach closes the link.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use tonic::Streaming;

use super::{BACKLOG_HIGH, Back, CREDIT_DELAY, InLane, PairIn, accept::Conn};
use crate::{
    Accept, Incoming, Message, RemotingConfig, ReplyTo, ServiceId, Symbol,
    wire::{Call, Chunk, Envelope, Frame, LaneKind},
};

/// An envelope whose payload is still arriving.
struct Assembly {
    envelope: Envelope,
    data: BytesMut,
    total: usize,
    cost: u32,
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
pub(super) async fn run(lane: Arc<InLane>, stream: Streaming<Frame>, conn: Arc<Conn>) {
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
    async fn read(mut self, mut stream: Streaming<Frame>) -> End {
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
            if let Some(goodbye) = &frame.goodbye {
                return End::Goodbye(goodbye.why.chars().take(200).collect());
            }
            if control {
                tick.as_mut().reset(after(silence));
            } else if !armed {
                self.lane.eager.store(false, Ordering::Release);
                tick.as_mut().reset(after(CREDIT_DELAY));
                armed = true;
            }
            if let Err(why) = self.frame(frame) {
                return End::Breach(why);
            }
            self.wait_for_backlog().await;
        }
    }

    /// Nothing took the credits along so far: they leave now, and from now on at once.
    fn credits_due(&self) {
        self.lane.eager.store(true, Ordering::Release);
        if self.lane.owed.load(Ordering::Acquire) > 0 {
            self.lane.nudge();
        }
    }

    /// A peer that does not read its answers is not read from either (R5).
    async fn wait_for_backlog(&self) {
        let link = &self.lane.link;
        while link.backlog.load(Ordering::Acquire) > BACKLOG_HIGH {
            let drained = link.drained.notified();
            let mut drained = pin!(drained);
            drained.as_mut().enable();
            if link.backlog.load(Ordering::Acquire) > BACKLOG_HIGH / 2 {
                drained.await;
            }
        }
    }

    fn frame(&mut self, frame: Frame) -> Result<(), String> {
        for symbol in frame.symbols {
            self.define(symbol.number, symbol.text)?;
        }
        for chunk in frame.chunks {
            self.chunk(chunk)?;
        }
        for envelope in frame.envelopes {
            self.envelope(envelope)?;
        }
        for call in frame.calls {
            self.call(call)?;
        }
        if let Some(ping) = frame.ping {
            let _ = self.lane.back.send(Back::Pong(ping));
        }
        Ok(())
    }

    fn define(&mut self, number: u32, text: String) -> Result<(), String> {
        if number as usize != self.symbols.len() + 1 || number as usize > self.lane.link.shared.config.max_symbols {
            return Err(format!("it defines symbol {number} after {}", self.symbols.len()));
        }
        if text.len() > RemotingConfig::MAX_SYMBOL {
            return Err(format!("it defines a symbol of {} bytes", text.len()));
        }
        self.symbols.push(text.into());
        Ok(())
    }

    fn symbol(&self, number: u32, text: String) -> Result<Symbol, String> {
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

    fn envelope(&mut self, mut envelope: Envelope) -> Result<(), String> {
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
        let cost = size + address + RemotingConfig::MESSAGE_OVERHEAD;
        let unaccepted = link.unaccepted.fetch_add(cost, Ordering::AcqRel) + cost;
        if unaccepted > config.link_window {
            return Err(format!("it sends {unaccepted} bytes into a window of {}", config.link_window));
        }
        // Bounded by the window just checked.
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let left = (envelope.correlation != 0).then(|| Duration::from_micros(envelope.left_us));
        if envelope.total == 0 {
            return self.deliver(envelope, cost, left);
        }
        let deadline = left.map(|left| link.shared.clock.now() + left);
        let mut data = BytesMut::with_capacity(size);
        data.extend_from_slice(&std::mem::take(&mut envelope.payload));
        let transfer = envelope.transfer;
        let assembly = Assembly { envelope, data, total: size, cost, deadline };
        if assembly.data.len() >= size || self.assemblies.insert(transfer, assembly).is_some() {
            return Err(format!("it begins transfer {transfer} wrongly"));
        }
        Ok(())
    }

    fn chunk(&mut self, chunk: Chunk) -> Result<(), String> {
        let Some(assembly) = self.assemblies.get_mut(&chunk.transfer) else {
            return Err(format!("it continues transfer {}, which it did not begin", chunk.transfer));
        };
        if assembly.data.len() + chunk.data.len() > assembly.total || chunk.data.is_empty() {
            return Err(format!("transfer {} does not keep to its size", chunk.transfer));
        }
        assembly.data.extend_from_slice(&chunk.data);
        if assembly.data.len() < assembly.total {
            return Ok(());
        }
        let Some(Assembly { mut envelope, data, cost, deadline, .. }) = self.assemblies.remove(&chunk.transfer) else {
            return Ok(());
        };
        envelope.payload = data.freeze();
        let now = self.lane.link.shared.clock.now();
        self.deliver(envelope, cost, deadline.map(|at| at.saturating_duration_since(now)))
    }

    fn deliver(&mut self, envelope: Envelope, cost: u32, left: Option<Duration>) -> Result<(), String> {
        let accept = Accept::new(self.pair(envelope.pair)?, cost);
        let limit = self.lane.link.shared.config.max_payload;
        let reply = (envelope.correlation != 0).then(|| self.reply_to(envelope.correlation, limit));
        let message = Message {
            to: envelope.to,
            kind: self.symbol(envelope.kind, envelope.kind_text)?,
            key: envelope.key,
            message: self.symbol(envelope.message, envelope.message_text)?,
            epoch: envelope.epoch,
            from: envelope.from,
            payload: envelope.payload,
        };
        let link = &self.lane.link;
        match (reply, link.shared.services.get_receiver()) {
            (Some(reply), _) if left.is_none_or(|left| left.is_zero()) => reply.expired(),
            (reply, Some(receiver)) => {
                receiver.message(&link.identity, Incoming { message, left, accept, reply });
            }
            (Some(reply), None) => reply.not_run("this node takes no messages yet"),
            (None, None) => tracing::debug!(peer = ?link.identity, "tell dropped: this node takes no messages yet"),
        }
        Ok(())
    }

    fn pair(&mut self, id: u32) -> Result<Arc<PairIn>, String> {
        let index = id as usize;
        if let Some(Some(pair)) = self.pairs.get(index) {
            return Ok(Arc::clone(pair));
        }
        if index >= self.lane.link.shared.config.max_pairs {
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
        if self.lane.unanswered.load(Ordering::Acquire) > link.shared.config.max_asks {
            reply.not_run("too many calls are unanswered");
            return Ok(());
        }
        let left = Duration::from_micros(call.left_us);
        let service = u16::try_from(call.service).ok().and_then(|id| link.shared.services.get_service(ServiceId(id)));
        match service {
            _ if left.is_zero() => reply.expired(),
            Some(service) => service.call(&link.identity, call.body, left, reply),
            None => reply.not_run(&format!("no service {} here", call.service)),
        }
        Ok(())
    }

    fn reply_to(&self, correlation: u64, limit: usize) -> ReplyTo {
        self.lane.unanswered.fetch_add(1, Ordering::AcqRel);
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
