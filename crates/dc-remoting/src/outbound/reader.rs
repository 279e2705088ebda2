//! What comes back over a lane: answers, credits, pongs.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::BytesMut;
use tonic::Streaming;

use super::{Link, ask::Ask, pending::lane_of};
use crate::{
    Answer, LinkError,
    wire::{Frame, Outcome, Reply},
};

/// An answer whose body is still arriving.
struct Assembly {
    reply: Reply,
    data: BytesMut,
    total: usize,
}

struct Reader {
    link: Arc<Link>,
    assemblies: HashMap<u32, Assembly>,
    /// Askers found for the frame at hand; kept for its capacity.
    found: Vec<(Ask, Reply)>,
}

/// Reads the lane until it or its link ends, then closes the link.
pub(super) async fn run(link: Arc<Link>, stream: Streaming<Frame>) {
    let reader = Reader { link: Arc::clone(&link), assemblies: HashMap::new(), found: Vec::new() };
    let why = tokio::select! {
        () = link.closed() => return,
        why = reader.read(stream) => why,
    };
    link.close(&why);
}

impl Reader {
    async fn read(mut self, mut stream: Streaming<Frame>) -> String {
        loop {
            let frame = match stream.message().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return "the peer closed it".into(),
                Err(status) => return format!("connection lost: {}", status.message()),
            };
            if let Err(why) = self.frame(frame) {
                tracing::warn!(peer = ?self.link.identity, why, "link closed");
                return why;
            }
            if self.link.is_closed() {
                return "closed".into();
            }
        }
    }

    fn frame(&mut self, frame: Frame) -> Result<(), String> {
        for chunk in frame.chunks {
            let limit = self.limit();
            let Some(assembly) = self.assemblies.get_mut(&chunk.transfer) else {
                return Err(format!("it continues transfer {}, which it did not begin", chunk.transfer));
            };
            if assembly.data.len() + chunk.data.len() > assembly.total.min(limit) || chunk.data.is_empty() {
                return Err(format!("transfer {} does not keep to its size", chunk.transfer));
            }
            assembly.data.extend_from_slice(&chunk.data);
            if assembly.data.len() == assembly.total
                && let Some(Assembly { mut reply, data, .. }) = self.assemblies.remove(&chunk.transfer)
            {
                reply.body = data.freeze();
                self.find(reply);
            }
        }
        self.replies(frame.replies)?;
        let mut bytes = 0;
        for entry in &frame.credits {
            bytes += entry.bytes;
            credit_pair(&self.link, entry.pair, entry.messages, entry.bytes);
        }
        give_back(&self.link, bytes);
        if let Some(pong) = frame.pong {
            self.pong(pong.nonce);
        }
        if let Some(goodbye) = frame.goodbye {
            let why: String = goodbye.why.chars().take(200).collect();
            self.link.close(&format!("the peer said goodbye: {why}"));
        }
        Ok(())
    }

    fn limit(&self) -> usize {
        let config = &self.link.shared.config;
        config.max_payload.max(config.max_call_body).max(self.link.grant.max_payload)
    }

    fn replies(&mut self, replies: Vec<Reply>) -> Result<(), String> {
        let limit = self.limit();
        for mut reply in replies {
            let size = usize::try_from(reply.total).unwrap_or(usize::MAX).max(reply.body.len());
            if size > limit {
                return Err(format!("it answers with {size} bytes, {limit} are allowed"));
            }
            if reply.total == 0 {
                self.find(reply);
                continue;
            }
            // Each transfer belongs to one unanswered ask, so their number is bounded by what was asked.
            if self.assemblies.len() > self.link.unanswered() {
                return Err("it begins more answers than it was asked for".into());
            }
            let mut data = BytesMut::with_capacity(size);
            data.extend_from_slice(&std::mem::take(&mut reply.body));
            let transfer = reply.transfer;
            if data.len() >= size || self.assemblies.insert(transfer, Assembly { reply, data, total: size }).is_some() {
                return Err(format!("it begins transfer {transfer} wrongly"));
            }
        }
        self.finish();
        Ok(())
    }

    fn find(&mut self, reply: Reply) {
        let Some(pending) = self.link.pending.get(lane_of(reply.correlation)) else { return };
        let ask = pending.lock().remove(reply.correlation);
        if let Some(ask) = ask {
            self.found.push((ask, reply));
        }
    }

    /// Wakes the askers, after the table is free again.
    fn finish(&mut self) {
        let link = &self.link;
        for (ask, reply) in self.found.drain(..) {
            ask.finish(result(link, reply));
        }
    }

    fn pong(&self, sent_ns: u64) {
        let now = self.link.shared.since_start();
        if let Some(rtt) = now.checked_sub(Duration::from_nanos(sent_ns)) {
            self.link.measured(rtt);
            self.link.pong.store(true, Ordering::Release);
        }
    }
}

fn result(link: &Link, reply: Reply) -> Result<Answer, LinkError> {
    let endpoint = || link.endpoint.clone();
    match Outcome::try_from(reply.outcome) {
        Ok(Outcome::Answered) => Ok(Answer { status: reply.status, body: reply.body }),
        Ok(Outcome::NotRun) => {
            Err(LinkError::NotRun { endpoint: endpoint(), why: String::from_utf8_lossy(&reply.body).into() })
        }
        Ok(Outcome::Expired) => {
            Err(LinkError::Timeout { endpoint: endpoint(), after: Duration::ZERO, may_have_run: false })
        }
        Ok(Outcome::TooLarge) => Err(LinkError::TooLarge { what: "answer", size: 0, max: 0, may_have_run: true }),
        // An outcome of a later version promises nothing.
        Ok(Outcome::Unanswered) | Err(_) => Err(LinkError::Unanswered { endpoint: endpoint() }),
    }
}

/// Gives credits back to one pair and to the link.
pub(super) fn credit(link: &Link, pair: u32, messages: u32, bytes: u64) {
    credit_pair(link, pair, messages, bytes);
    give_back(link, bytes);
}

fn give_back(link: &Link, bytes: u64) {
    // A peer that gives back more than it was sent gains nothing: the window never grows beyond its grant.
    let missing = link.grant.link_window.saturating_sub(link.window.available_permits());
    let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(missing);
    if bytes > 0 {
        link.window.add_permits(bytes);
    }
}

fn credit_pair(link: &Link, pair: u32, messages: u32, bytes: u64) {
    let pair_inner = link.pairs.lock().get(pair).cloned();
    let Some(inner) = pair_inner else { return };
    let (counted, free) = inner.credited(link, messages, bytes);
    link.unaccepted.fetch_sub(counted as usize, Ordering::AcqRel);
    if free {
        link.unbind(pair);
    }
}
