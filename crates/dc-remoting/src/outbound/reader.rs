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

/// Replies and credits of one frame that are kept before they are handed out.
const AT_ONCE: usize = 4096;

/// The longest text of a refusal that is kept, in characters.
const WHY: usize = 500;

/// An answer whose body is still arriving.
struct Assembly {
    correlation: u64,
    outcome: i32,
    status: u32,
    /// What has come; `None` where nobody waits for it: it is passed over.
    data: Option<BytesMut>,
    got: usize,
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
        let mut found = Found::default();
        let read = self.fields(frame, &mut found);
        self.hand_out(frame, &mut found);
        read
    }

    fn hand_out(&self, frame: &Bytes, found: &mut Found<'_>) {
        for (ask, reply) in askers(&self.link, &found.replies) {
            let body = owned(frame, reply.body);
            ask.finish(result(&self.link, reply.outcome, reply.status, body));
        }
        credit(&self.link, &found.credits);
        found.replies.clear();
        found.credits.clear();
    }

    fn fields<'a>(&mut self, frame: &'a Bytes, found: &mut Found<'a>) -> Result<(), String> {
        let mut fields = Fields::of(frame);
        let wire = |err: Malformed| err.to_string();
        while let Some((number, value)) = fields.next().map_err(wire)? {
            if found.replies.len() >= AT_ONCE || found.credits.len() >= AT_ONCE {
                self.hand_out(frame, found);
            }
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

    /// What this node takes as an answer, whatever the peer may send.
    fn limit(&self) -> usize {
        let config = &self.link.shared.config;
        config.max_payload.max(config.max_call_body)
    }

    /// The first piece of a large answer. One that is too large, or that nobody waits for, is passed over to its end: its
    /// peer may take larger messages than this node, and cannot know who has given up.
    fn begin(&mut self, reply: ReplyRef<'_>) -> Result<(), String> {
        let ReplyRef { correlation, outcome, status, transfer, .. } = reply;
        let total = usize::try_from(reply.total).unwrap_or(usize::MAX).max(reply.body.len());
        if total > self.limit() {
            if let Some(ask) = self.asker(correlation) {
                let max = self.limit();
                ask.finish(Err(LinkError::TooLarge { what: "answer", size: total, max, may_have_run: true }));
            }
            if reply.body.len() >= total {
                // All of it came at once.
                return Ok(());
            }
        }
        self.let_go();
        if self.assemblies.len() >= self.link.shared.config.max_asks {
            return Err("it begins more answers than it may be asked for".into());
        }
        // No more is reserved than has come.
        let data = self.waits(correlation).then(|| BytesMut::from(reply.body));
        let got = reply.body.len();
        let assembly = Assembly { correlation, outcome, status, data, got, total };
        if got >= total || self.assemblies.insert(transfer, assembly).is_some() {
            return Err(format!("it begins transfer {transfer} wrongly"));
        }
        Ok(())
    }

    fn chunk(&mut self, chunk: ChunkRef<'_>) -> Result<(), String> {
        let Some(assembly) = self.assemblies.get_mut(&chunk.transfer) else {
            return Err(format!("it continues transfer {}, which it did not begin", chunk.transfer));
        };
        if chunk.data.len() > assembly.total - assembly.got || chunk.data.is_empty() {
            return Err(format!("transfer {} does not keep to its size", chunk.transfer));
        }
        assembly.got += chunk.data.len();
        if let Some(data) = &mut assembly.data {
            data.extend_from_slice(chunk.data);
        }
        if assembly.got < assembly.total {
            return Ok(());
        }
        let Some(done) = self.assemblies.remove(&chunk.transfer) else { return Ok(()) };
        if let Some(data) = done.data
            && let Some(ask) = self.asker(done.correlation)
        {
            ask.finish(result(&self.link, done.outcome, done.status, data.freeze()));
        }
        Ok(())
    }

    fn waits(&self, correlation: u64) -> bool {
        self.link.pending.get(lane_of(correlation)).is_some_and(|pending| pending.lock().waits(correlation))
    }

    fn asker(&self, correlation: u64) -> Option<Ask> {
        self.link.pending.get(lane_of(correlation))?.lock().remove(correlation)
    }

    /// Lets go of what has come for those who wait no more.
    fn let_go(&mut self) {
        let link = &self.link;
        for assembly in self.assemblies.values_mut().filter(|assembly| assembly.data.is_some()) {
            let pending = link.pending.get(lane_of(assembly.correlation));
            if !pending.is_some_and(|pending| pending.lock().waits(assembly.correlation)) {
                assembly.data = None;
            }
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
            let why = String::from_utf8_lossy(&body).chars().take(WHY).collect::<String>();
            Err(LinkError::NotRun { endpoint: endpoint(), why: why.into() })
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
