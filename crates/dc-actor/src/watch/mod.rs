//! Watching actors: told once when one has ended, wherever it is, and as often as something global moves.
//!
//! Owns who watches what on this node, what others watch here, and how it is found out that a watched actor, its node or
//! its datacenter is gone. Must not know how membership, records or ownership are decided.
//!
//! An actor means one activation: a node's run and the actor's number there, which are never used again. Its own node
//! tells of its end ([`here`]); another node is told which of its actors are watched, once for each, and holds one open
//! question that it answers when some have ended ([`far`]). Names and grains in the world are followed by what every
//! node sees of their owners ([`owned`]): nobody is asked.
//!
//! Reading order: [`ActorWatch`], [`ActorChange`], [`EndReason`]; inside: [`signal`], [`here`], [`far`], [`owned`].

mod far;
mod here;
mod owned;
mod signal;

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use dc_core::{DataCenterId, NodeId};
use dc_ownership::order::Thing;
use futures::Stream;

pub(crate) use self::here::{forget_peers, serve};
use self::signal::Signal;
use crate::{
    error::Error,
    global::Located,
    grain::GrainRef,
    host::Key,
    measure,
    message::RemoteActor,
    peers::PeerId,
    reference::Ref,
    system::{ActorSystem, Node, WeakSystem},
};

/// Something that happened to what is watched.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum ActorChange {
    /// It is gone, or taken for gone. Told at most once, never taken back; nothing follows.
    Terminated {
        /// Why, as far as it is known.
        reason: EndReason,
    },
    /// A global name, or a global grain's slot, has another owner, or the same node has it again under a new session.
    /// Who reads slowly is told the newest place only.
    Moved {
        /// Where it is now.
        data_center: DataCenterId,
        /// The node that owns it now.
        node: NodeId,
        /// Under which epoch: higher than any told before.
        epoch: u64,
    },
}

/// Why something that was watched is gone.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum EndReason {
    /// It stopped: by itself, with its node's shutdown, as a grain that went to rest, or for a name that it lost (A2).
    Stopped,
    /// It panicked, or failed otherwise, and was not restarted (again).
    Failed {
        /// What it said, at most 1,000 characters of it.
        why: String,
    },
    /// It is not there: it ended before it was watched, or nobody can tell any more how it ended.
    Gone,
    /// Its node is lost, as far as can be known from here: the node cannot be reached, and its datacenter does not list it.
    NodeLost,
    /// Its whole datacenter is lost, as far as can be known from here: its node cannot be reached, and the record has
    /// expired or was taken away.
    DataCenterLost,
    /// The global name is free: its actor stopped for good, or failed to.
    LetGo,
    /// Its node is of an older version, which tells nobody of an end.
    Unsupported,
    /// It may not be watched, or there is no room: [`Error::Unauthorized`], [`Error::Overloaded`],
    /// [`Error::NoOwnership`], [`Error::Invalid`].
    Refused(Error),
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped => f.write_str("it stopped"),
            Self::Failed { why } => write!(f, "it failed: {why}"),
            Self::Gone => f.write_str("it is not there"),
            Self::NodeLost => f.write_str("its node is lost"),
            Self::DataCenterLost => f.write_str("its datacenter is lost"),
            Self::LetGo => f.write_str("its name is free"),
            Self::Unsupported => f.write_str("its node is of a version that cannot be watched"),
            Self::Refused(error) => write!(f, "it cannot be watched: {error}"),
        }
    }
}

/// What can be watched: a [`Ref`] and a [`GrainRef`].
pub trait Watchable: sealed::Sealed {}

impl<A: RemoteActor> Watchable for Ref<A> {}
impl<A: RemoteActor> Watchable for GrainRef<A> {}

mod sealed {
    use super::Subject;

    pub trait Sealed {
        fn subject(&self) -> Subject;
    }
}

/// Whom a reference means.
#[doc(hidden)]
pub struct Subject(What);

enum What {
    /// The actor of this number on this node, and no other.
    Actor { located: Located, kind: &'static str },
    /// Whoever owns the name; known under this epoch.
    Name { name: Arc<str>, epoch: u64 },
    /// The identity, wherever it is active.
    Grain { kind: &'static str, id: Arc<str> },
}

impl<A: RemoteActor> sealed::Sealed for Ref<A> {
    fn subject(&self) -> Subject {
        let located = self.located().clone();
        Subject(match self.key() {
            Key::Global(name) => What::Name { name: name.clone(), epoch: located.epoch },
            Key::Anonymous | Key::Name(_) | Key::Grain(_) => What::Actor { located, kind: A::KIND },
        })
    }
}

impl<A: RemoteActor> sealed::Sealed for GrainRef<A> {
    fn subject(&self) -> Subject {
        Subject(What::Grain { kind: A::KIND, id: self.id().into() })
    }
}

/// A watch: a stream of what happens to one actor, name or grain. Dropped, nothing is watched any more, here or at the
/// far node.
///
/// Ends after [`Terminated`](ActorChange::Terminated), and without it when the own system has shut down.
pub struct ActorWatch {
    number: u64,
    signal: Arc<Signal>,
    at: At,
    system: WeakSystem,
}

/// Where a watch is noted.
#[derive(Clone, Debug)]
enum At {
    /// Nowhere: it ended where it began.
    Nowhere,
    /// An actor of this node.
    Here(u64),
    /// An actor of another node.
    Far(PeerId, u64),
    /// Something owned.
    Owned(Thing),
}

impl ActorWatch {
    /// What happens next; `None` when nothing will any more. Cancel-safe.
    pub async fn next(&mut self) -> Option<ActorChange> {
        futures::StreamExt::next(self).await
    }
}

impl Stream for ActorWatch {
    type Item = ActorChange;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ActorChange>> {
        self.signal.poll(cx)
    }
}

impl Drop for ActorWatch {
    fn drop(&mut self) {
        let Some(node) = self.system.node() else { return };
        let watches = node.watches();
        match &self.at {
            At::Nowhere => return,
            At::Here(actor) => watches.here.leave(*actor, self.number),
            At::Far(far, actor) => watches.far.leave(far, *actor, self.number),
            At::Owned(thing) => watches.owned.leave(thing, self.number),
        }
        watches.open.fetch_sub(1, Ordering::AcqRel);
    }
}

impl fmt::Debug for ActorWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActorWatch({:?})", self.at)
    }
}

/// What this node watches, and what others watch here.
pub(crate) struct Watches {
    here: here::Here,
    far: far::Fars,
    owned: owned::Things,
    /// Numbers of watches, and of rounds of telling others.
    next: AtomicU64,
    /// Watches that are held on this node.
    open: AtomicUsize,
}

impl Watches {
    pub(crate) fn new() -> Self {
        Self {
            here: here::Here::default(),
            far: far::Fars::default(),
            owned: owned::Things::default(),
            next: AtomicU64::new(1),
            open: AtomicUsize::new(0),
        }
    }

    fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// An actor of this node has ended for good; `failure` says why, if it failed.
    pub(crate) fn actor_ended(&self, actor: u64, failure: Option<&str>) {
        self.here.actor_ended(actor, failure);
    }

    /// Ends all watches of this node, and tells others what they have not been told yet: at most 500 ms.
    pub(crate) async fn shut_down(&self) {
        const AT_MOST: Duration = Duration::from_millis(500);
        self.owned.close();
        let told = async { tokio::join!(self.far.part(), self.here.part()) };
        if tokio::time::timeout(AT_MOST, told).await.is_err() {
            tracing::debug!("not everybody was told of the end of what they watch here");
        }
        self.close();
    }

    /// Ends all watches of this node at once.
    pub(crate) fn close(&self) {
        self.owned.close();
        self.far.close();
        self.here.close();
    }
}

impl ActorSystem {
    /// Watches an actor, here, on another node or in another datacenter; whoever owns a global name; or a global grain.
    /// What is told, when, and what is not: "Watching" in `docs/semantics.md` (A7).
    ///
    /// - A [`Ref`] to an actor or a per-DC name means that very actor: [`Terminated`](ActorChange::Terminated) when it has
    ///   ended for good, when its node or its datacenter is lost, and at once where it is gone already. Restarts in place
    ///   and broken links are no end. A `Ref` to a grain (`ctx.this()` of one) means that activation: its rest is its end.
    /// - A [`Ref`] to a global name means whoever owns it: [`Moved`](ActorChange::Moved) when another node does, also if
    ///   that has happened since the reference was made; `Terminated` when it is let go, or lost with an owner that it
    ///   was not to survive. One that waits for its datacenter stays watched.
    /// - A [`GrainRef`] of a global kind is an identity, which does not end: `Moved`, and nothing else. Other kinds of
    ///   grains have no place between two activations: [`EndReason::Refused`].
    ///
    /// ```no_run
    /// # use dc_actor::{ActorChange, ActorSystem, Ref, RemoteActor};
    /// # #[derive(kameo::Actor, RemoteActor, serde::Serialize, serde::Deserialize)]
    /// # #[remote(crate = "dc_actor")] struct Worker { jobs: u32 }
    /// # async fn f(system: ActorSystem, worker: Ref<Worker>) {
    /// let mut watch = system.watch(&worker);
    /// while let Some(change) = watch.next().await {
    ///     match change {
    ///         ActorChange::Moved { data_center, node, epoch } => println!("in {data_center} on {node}, epoch {epoch}"),
    ///         ActorChange::Terminated { reason } => println!("gone: {reason}"),
    ///         _ => {}
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// An actor that watches lets a task tell it. The task ends with what is watched; [abort](tokio::task::JoinHandle::abort)
    /// it in `on_stop` where that may take long.
    ///
    /// ```
    /// # use dc_actor::{ActorChange, Context, ContextExt, Message, Ref, RemoteActor, RemoteMessage};
    /// # use serde::{Deserialize, Serialize};
    /// # #[derive(kameo::Actor, RemoteActor, Serialize, Deserialize)]
    /// # #[remote(crate = "dc_actor")] struct Worker;
    /// # #[derive(kameo::Actor, RemoteActor, Default, Serialize, Deserialize)]
    /// # #[remote(crate = "dc_actor")] struct Boss { lost: Vec<String> }
    /// # #[derive(Serialize, Deserialize, RemoteMessage)]
    /// # #[remote(crate = "dc_actor")] struct Hire(Ref<Worker>);
    /// #[derive(Serialize, Deserialize, RemoteMessage)]
    /// # #[remote(crate = "dc_actor")]
    /// struct Lost(String);
    ///
    /// impl Message<Hire> for Boss {
    ///     type Reply = ();
    ///     async fn handle(&mut self, Hire(worker): Hire, ctx: &mut Context<Self, ()>) {
    ///         let (me, mut watch) = (ctx.this(), ctx.system().watch(&worker));
    ///         tokio::spawn(async move {
    ///             while let Some(change) = watch.next().await {
    ///                 if let ActorChange::Terminated { reason } = change {
    ///                     let _ = me.tell(Lost(reason.to_string())).await;
    ///                 }
    ///             }
    ///         });
    ///     }
    /// }
    /// # impl Message<Lost> for Boss {
    /// #     type Reply = ();
    /// #     async fn handle(&mut self, Lost(why): Lost, _: &mut Context<Self, ()>) { self.lost.push(why); }
    /// # }
    /// ```
    ///
    /// A node holds at most [`max_watches`](crate::ActorSystemBuilder::max_watches) at once; beyond, and where this
    /// datacenter may not call the kind there ([`Authority`](crate::Authority)), the watch ends with
    /// [`EndReason::Refused`]. Never waits, and must be called within the system's tokio runtime.
    #[must_use = "dropped, it watches nothing"]
    pub fn watch(&self, target: &impl Watchable) -> ActorWatch {
        let node = self.node();
        let watches = node.watches();
        let signal = Arc::new(Signal::default());
        let number = watches.number();
        let max = node.options().max_watches;
        let at = if watches.open.fetch_add(1, Ordering::AcqRel) >= max {
            measure::limit("max_watches");
            let what = format!("{} with {max} watches (`max_watches`)", node.label());
            signal.end(EndReason::Refused(Error::Overloaded { what }));
            At::Nowhere
        } else {
            begin(node, target.subject().0, number, &signal)
        };
        if matches!(at, At::Nowhere) {
            watches.open.fetch_sub(1, Ordering::AcqRel);
        }
        ActorWatch { number, signal, at, system: node.weak() }
    }
}

fn begin(node: &Arc<Node>, what: What, number: u64, signal: &Arc<Signal>) -> At {
    match what {
        What::Actor { located, kind } if located.at.node == node.id() && located.at.dc == *node.data_center().id() => {
            let actor = located.at.actor;
            node.watches().here.watch(node, actor, kind, number, signal);
            At::Here(actor)
        }
        What::Actor { located, kind } => {
            let at = At::Far(PeerId::from(&located.at), located.at.actor);
            far::watch(node, located.at, kind, number, signal);
            at
        }
        What::Name { name, epoch } => {
            signal.knows(epoch);
            owned::watch_name(node, &name, number, signal).map_or(At::Nowhere, At::Owned)
        }
        What::Grain { kind, id } => owned::watch_grain(node, kind, &id, number, signal).map_or(At::Nowhere, At::Owned),
    }
}
