//! What comes back over a lane: answers, credits, pongs.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use prost::Message;
use tonic::Streaming;

use super::{Link, ask::Ask, pending::lane_of};
use crate::{
    Answer, LinkError,
    wire::{ChunkRef, CreditRef, Fields, Goodbye, Malformed, Outcome, Ping, ReplyRef, owned},
};

/// An answer whose body is still arriving.
struct Assembly {
    correlation: u64,
    outcome: i32,
    status: u32,
    data: BytesMut,
    total: usize,
}

struct Reader {
    link: Arc<Link>,
    assemblies: HashMap<u32, Assembly>,
    /// Why the peer said goodbye in the frame just read.
    goodbye: Option<String>,
}

/// Why reading ended.
enum End {
    /// The peer said why. All that it answered over this lane came before.
    Goodbye(String),
    /// The peer closed the lane, or it broke.
    Gone(String),
    /// What it sent breaks a rule.
    Breach(String),
}

/// Reads the lane until it or its link ends, then closes the link: after a goodbye once its other lanes
/// have ended too.
pub(super) async fn run(link: Arc<Link>, stream: Streaming<Bytes>) {
    let reader = Reader { link: Arc::clone(&link), assemblies: HashMap::new(), goodbye: None };
    let end = tokio::select! {
        biased;
        end = reader.read(stream) => end,
        () = link.closed() => return,
    };
    match end {
        End::Goodbye(why) => link.parted(&format!("the peer said goodbye: {why}")).await,
        End::Gone(why) if link.is_parting() => link.parted(&why).await,
        End::Gone(why) => link.close(&why),
        End::Breach(why) => {
            tracing::warn!(peer = ?link.identity, why, "link closed");
            link.close(&why);
        }
    }
}

/// What one frame gives, to be handed out once it is read.
#[derive(Default)]
struct Found<'a> {
    replies: Vec<ReplyRef<'a>>,
    credits: Vec<CreditRef>,
}

impl Reader {
    async fn read(mut self, mut stream: Streaming<Bytes>) -> End {
        loop {
            let frame = match stream.message().await {
                Ok(Some(frame)) => frame,
                Ok(None) => return End::Gone("the peer closed it".into()),
                Err(status) => return End::Gone(format!("connection lost: {}", status.message())),
            };
            if let Err(why) = self.frame(&frame) {
                return End::Breach(why);
            }
            if let Some(why) = self.goodbye.take() {
                return End::Goodbye(why);
            }
            if self.link.is_closed() {
                return End::Gone("closed".into());
            }
        }
    }

    fn frame(&mut self, frame: &Bytes) -> Result<(), String> {
        let link = Arc::clone(&self.link);
        let mut found = Found::default();
        let read = self.fields(frame, &mut found);
        for (ask, reply) in askers(&link, &found.replies) {
            let body = owned(frame, reply.body);
            ask.finish(result(&link, reply.outcome, reply.status, body));
        }
        credit(&link, &found.credits);
        read
    }

    fn fields<'a>(&mut self, frame: &'a Bytes, found: &mut Found<'a>) -> Result<(), String> {
        let mut fields = Fields::of(frame);
        let wire = |err: Malformed| err.to_string();
        while let Some((number, value)) = fields.next().map_err(wire)? {
            match number {
                4 => self.chunk(ChunkRef::read(value.bytes().map_err(wire)?).map_err(wire)?)?,
                7 => {
                    let reply = ReplyRef::read(value.bytes().map_err(wire)?).map_err(wire)?;
                    if reply.total != 0 || reply.body.len() > self.limit() {
                        self.begin(reply)?;
                    } else {
                        found.replies.push(reply);
                    }
                }
                8 => {
                    found.credits.push(CreditRef::read(value.bytes().map_err(wire)?).map_err(wire)?);
                }
                10 => {
                    let pong = Ping::decode(value.bytes().map_err(wire)?).map_err(|err| err.to_string())?;
                    self.pong(pong.nonce);
                }
                11 => {
                    let goodbye = Goodbye::decode(value.bytes().map_err(wire)?).map_err(|err| err.to_string())?;
                    self.goodbye = Some(goodbye.why.chars().take(200).collect());
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn limit(&self) -> usize {
        let config = &self.link.shared.config;
        config.max_payload.max(config.max_call_body).max(self.link.grant.max_payload)
    }

    /// The first piece of a large answer.
    fn begin(&mut self, reply: ReplyRef<'_>) -> Result<(), String> {
        let limit = self.limit();
        let total = usize::try_from(reply.total).unwrap_or(usize::MAX).max(reply.body.len());
        if total > limit {
            return Err(format!("it answers with {total} bytes, {limit} are allowed"));
        }
        // Each transfer belongs to one unanswered ask, so their number is bounded by what was asked.
        if self.assemblies.len() > self.link.unanswered() {
            return Err("it begins more answers than it was asked for".into());
        }
        let mut data = BytesMut::with_capacity(total);
        data.extend_from_slice(reply.body);
        let ReplyRef { correlation, outcome, status, transfer, .. } = reply;
        let whole = data.len() >= total;
        let assembly = Assembly { correlation, outcome, status, data, total };
        if whole || self.assemblies.insert(transfer, assembly).is_some() {
            return Err(format!("it begins transfer {transfer} wrongly"));
        }
        Ok(())
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
        let Some(pending) = self.link.pending.get(lane_of(done.correlation)) else { return Ok(()) };
        let ask = pending.lock().remove(done.correlation);
        if let Some(ask) = ask {
            ask.finish(result(&self.link, done.outcome, done.status, done.data.freeze()));
        }
        Ok(())
    }

    fn pong(&self, sent_ns: u64) {
        let now = self.link.shared.since_start();
        if let Some(rtt) = now.checked_sub(Duration::from_nanos(sent_ns)) {
            self.link.measured(rtt);
            self.link.pong.store(true, Ordering::Release);
        }
    }
}

/// Who asked, for each reply whose asker still waits. Writers wait for the table: it is held for this only.
fn askers<'a>(link: &Link, replies: &[ReplyRef<'a>]) -> Vec<(Ask, ReplyRef<'a>)> {
    let mut found = Vec::with_capacity(replies.len());
    for run in replies.chunk_by(|a, b| lane_of(a.correlation) == lane_of(b.correlation)) {
        let Some(pending) = run.first().and_then(|reply| link.pending.get(lane_of(reply.correlation))) else {
            continue;
        };
        let mut table = pending.lock();
        found.extend(run.iter().filter_map(|reply| Some((table.remove(reply.correlation)?, *reply))));
    }
    found
}

fn result(link: &Link, outcome: i32, status: u32, body: Bytes) -> Result<Answer, LinkError> {
    let endpoint = || link.endpoint.clone();
    match Outcome::try_from(outcome) {
        Ok(Outcome::Answered) => Ok(Answer { status, body }),
        Ok(Outcome::NotRun) => {
            Err(LinkError::NotRun { endpoint: endpoint(), why: String::from_utf8_lossy(&body).into() })
        }
        Ok(Outcome::Expired) => {
            Err(LinkError::Timeout { endpoint: endpoint(), after: Duration::ZERO, may_have_run: false })
        }
        Ok(Outcome::TooLarge) => Err(LinkError::TooLarge { what: "answer", size: 0, max: 0, may_have_run: true }),
        // An outcome of a later version promises nothing.
        Ok(Outcome::Unanswered) | Err(_) => Err(LinkError::Unanswered { endpoint: endpoint() }),
    }
}

/// Gives credits back to their pairs and to the link.
pub(super) fn credit(link: &Link, credits: &[CreditRef]) {
    if credits.is_empty() {
        return;
    }
    let mut free = Vec::new();
    {
        let pairs = link.pairs.lock();
        for &CreditRef { pair, messages, bytes } in credits {
            if pairs.get(pair).is_some_and(|inner| inner.credited(link, messages, bytes)) {
                free.push(pair);
            }
        }
    }
    for pair in free {
        link.unbind(pair);
    }
    // A peer that gives back more than it was sent gains nothing: the window never grows beyond its grant.
    let bytes = credits.iter().fold(0u64, |sum, credit| sum.saturating_add(credit.bytes));
    let missing = link.grant.link_window.saturating_sub(link.window.available_permits());
    link.window.add_permits(usize::try_from(bytes).unwrap_or(usize::MAX).min(missing));
}
