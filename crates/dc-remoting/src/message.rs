//! What is sent, and what the receiving side is handed.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    fmt,
    hash::{Hash, Hasher},
    ops::Deref,
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use parking_lot::RwLock;

use crate::{
    PeerIdentity,
    inbound::{InLane, PairIn},
    wire::Outcome,
};

/// A name that is sent often: a kind, a message type. Cheap to clone; interned per link.
///
/// One made of a `&'static str` ([`from_static`](Self::from_static)) costs nothing to clone; others share a count.
#[derive(Clone)]
pub struct Symbol(Text);

#[derive(Clone)]
enum Text {
    Static(&'static str),
    Shared(Arc<str>),
}

impl Symbol {
    /// A name that the program holds anyway.
    pub const fn from_static(text: &'static str) -> Self {
        Self(Text::Static(text))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            Text::Static(text) => text,
            Text::Shared(text) => text,
        }
    }

    /// Address of the text, which together with its length is an identity while this symbol is held.
    pub(crate) fn address(&self) -> usize {
        self.as_str().as_ptr().addr()
    }
}

impl Deref for Symbol {
    type Target = str;
    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl PartialEq for Symbol {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Symbol {}

impl Hash for Symbol {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl Borrow<str> for Symbol {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl From<&str> for Symbol {
    fn from(text: &str) -> Self {
        Self(Text::Shared(text.into()))
    }
}

impl From<String> for Symbol {
    fn from(text: String) -> Self {
        Self(Text::Shared(text.into()))
    }
}

impl From<Arc<str>> for Symbol {
    fn from(text: Arc<str>) -> Self {
        Self(Text::Shared(text))
    }
}

impl fmt::Debug for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for Symbol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One message as the layer above sees it. Remoting reads only its sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The target's number on its node.
    pub to: u64,
    /// The target's kind.
    pub kind: Symbol,
    /// The target's name or identity, as it is; may be empty.
    pub key: Bytes,
    /// The message type.
    pub message: Symbol,
    /// The epoch of the target that the sender knows; 0 for none.
    pub epoch: u64,
    /// Who sends it, for answers as messages; may be empty.
    pub from: Bytes,
    /// The encoded message.
    pub payload: Bytes,
}

impl Message {
    /// What this message counts for against byte credits, alike at both ends.
    pub(crate) fn cost(&self) -> u32 {
        let names = self.kind.len() + self.message.len();
        let address = self.key.len() + self.from.len();
        let bytes = self.payload.len() + address + names + crate::RemotingConfig::MESSAGE_OVERHEAD;
        u32::try_from(bytes).unwrap_or(u32::MAX)
    }
}

/// The answer to an ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// 0 means well; other values belong to the layer above.
    pub status: u32,
    /// The encoded answer.
    pub body: Bytes,
}

/// A message that has arrived.
#[derive(Debug)]
pub struct Incoming {
    /// The message.
    pub message: Message,
    /// An ask: how long its sender will still wait, as of its arrival (R4). Never zero.
    pub left: Option<Duration>,
    /// To be dropped once the message is accepted into a mailbox: gives the sender its credits back.
    pub accept: Accept,
    /// Where the answer goes; `None` for a tell.
    pub reply: Option<ReplyTo>,
}

/// Holds the sender's credits until it is dropped.
pub struct Accept {
    pair: Arc<PairIn>,
    cost: u32,
}

impl Accept {
    pub(crate) fn new(pair: Arc<PairIn>, cost: u32) -> Self {
        Self { pair, cost }
    }
}

impl Drop for Accept {
    fn drop(&mut self) {
        PairIn::accepted(&self.pair, self.cost);
    }
}

impl fmt::Debug for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Accept({} bytes)", self.cost)
    }
}

/// Takes the one answer to an ask or a call.
///
/// Dropped without an answer, the asker gets [`LinkError::Unanswered`](crate::LinkError::Unanswered): it may have run.
pub struct ReplyTo {
    lane: Arc<InLane>,
    correlation: u64,
    limit: usize,
    /// Bytes of a call that count against its link until it is answered.
    held: usize,
    done: bool,
}

impl ReplyTo {
    pub(crate) fn new(lane: Arc<InLane>, correlation: u64, limit: usize) -> Self {
        Self { lane, correlation, limit, held: 0, done: false }
    }

    /// Frees so many bytes of unanswered calls when it is answered or dropped.
    pub(crate) fn holding(mut self, bytes: usize) -> Self {
        self.held = bytes;
        self
    }

    /// Sends the answer. Does not block; an answer to a link that is gone is dropped.
    ///
    /// A body above the link's limit becomes [`LinkError::TooLarge`](crate::LinkError::TooLarge) at the asker.
    pub fn send(mut self, status: u32, body: Bytes) {
        self.done = true;
        if body.len() > self.limit {
            let why = format!("answer of {} bytes is larger than {}", body.len(), self.limit);
            self.lane.reply(self.correlation, Outcome::TooLarge, 0, why.into());
        } else {
            self.lane.reply(self.correlation, Outcome::Answered, status, body);
        }
    }

    /// Says that the message certainly did not run, and why: [`LinkError::NotRun`](crate::LinkError::NotRun) at the asker.
    pub fn not_run(mut self, why: &str) {
        self.done = true;
        let why: String = why.chars().take(500).collect();
        self.lane.reply(self.correlation, Outcome::NotRun, 0, why.into());
    }

    /// Says that its time was over before work on it began: a [`LinkError::Timeout`](crate::LinkError::Timeout)
    /// that certainly did not run (R4).
    pub fn expired(mut self) {
        self.done = true;
        self.lane.reply(self.correlation, Outcome::Expired, 0, Bytes::new());
    }
}

impl Drop for ReplyTo {
    fn drop(&mut self) {
        if !self.done {
            self.lane.reply(self.correlation, Outcome::Unanswered, 0, Bytes::new());
        }
        if self.held > 0 {
            self.lane.release_call(self.held);
        }
    }
}

impl fmt::Debug for ReplyTo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplyTo({:x})", self.correlation)
    }
}

/// A tell that was taken into a link's queue and never left it: it certainly did not run.
#[derive(Debug)]
pub struct Undelivered {
    /// The message.
    pub message: Message,
    /// Why it did not leave.
    pub why: Arc<str>,
}

/// Takes the messages that arrive over user and bulk lanes.
pub trait Receiver: Send + Sync + 'static {
    /// Called for each message, in order within a pair (R1), on the link's reader task: it must hand over
    /// and return, never block. Dropping [`Incoming::accept`] lets the sender send more.
    fn message(&self, from: &Arc<PeerIdentity>, msg: Incoming);

    /// A tell of this node's own was lost in its link's queue; certainly not run (A6). Must not block.
    fn undelivered(&self, lost: Undelivered) {
        tracing::debug!(to = lost.message.to, message = %lost.message.message, why = %lost.why, "tell not delivered");
    }
}

/// Answers calls over the control lane.
pub trait Service: Send + Sync + 'static {
    /// Called on the link's reader task: it must hand over and return, never block.
    /// `left` is how long the caller will still wait.
    fn call(&self, from: &Arc<PeerIdentity>, body: Bytes, left: Duration, reply: ReplyTo);
}

/// Number of a service, the same on all nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceId(pub u16);

/// Who takes what arrives. Cheap to clone; clones share. May be filled after remoting has started:
/// until then messages and calls are refused as certainly not run.
#[derive(Clone, Default)]
pub struct Services(Arc<ServicesInner>);

#[derive(Default)]
struct ServicesInner {
    receiver: OnceLock<Arc<dyn Receiver>>,
    services: RwLock<HashMap<ServiceId, Arc<dyn Service>>>,
    names: RwLock<HashSet<&'static str>>,
}

impl Services {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the receiver of messages; the first one set stays.
    #[must_use]
    pub fn receiver(self, receiver: Arc<dyn Receiver>) -> Self {
        self.set_receiver(receiver);
        self
    }

    /// Adds the service `id`, in place of an earlier one of that number.
    #[must_use]
    pub fn service(self, id: ServiceId, service: Arc<dyn Service>) -> Self {
        self.set_service(id, service);
        self
    }

    /// Like [`receiver`](Self::receiver), by reference. False if one is set already.
    pub fn set_receiver(&self, receiver: Arc<dyn Receiver>) -> bool {
        self.0.receiver.set(receiver).is_ok()
    }

    /// Like [`service`](Self::service), by reference.
    pub fn set_service(&self, id: ServiceId, service: Arc<dyn Service>) {
        self.0.services.write().insert(id, service);
    }

    /// Tells names of kinds and messages beforehand: those that arrive later as one of them cost nothing to clone.
    pub fn know(&self, names: impl IntoIterator<Item = &'static str>) {
        self.0.names.write().extend(names);
    }

    /// The symbol for a name that has arrived.
    pub(crate) fn symbol(&self, text: &str) -> Symbol {
        match self.0.names.read().get(text) {
            Some(known) => Symbol::from_static(known),
            None => text.into(),
        }
    }

    pub(crate) fn get_receiver(&self) -> Option<&Arc<dyn Receiver>> {
        self.0.receiver.get()
    }

    pub(crate) fn get_service(&self, id: ServiceId) -> Option<Arc<dyn Service>> {
        self.0.services.read().get(&id).cloned()
    }
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let services: Vec<_> = self.0.services.read().keys().copied().collect();
        f.debug_struct("Services")
            .field("receiver", &self.0.receiver.get().is_some())
            .field("services", &services)
            .finish()
    }
}
