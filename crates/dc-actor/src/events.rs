//! What a node tells about itself while it runs: events and dead letters.
//!
//! Observing is free of back pressure: whoever reads too slowly misses events and is told how many.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use dc_core::{DataCenterId, DataCenterState, NodeId};
use dc_ownership::OwnershipEvent;
use futures::Stream;
use tokio::sync::broadcast;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};

use crate::{
    error::Error,
    text::{LABEL, TEXT, cut},
};

/// Something that an operator or a program may want to know.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A datacenter appeared in the routing table.
    DataCenterJoined {
        /// Which.
        id: DataCenterId,
        /// Its state.
        state: DataCenterState,
    },
    /// A datacenter left the routing table: it said goodbye, or its lease ended.
    DataCenterLeft {
        /// Which.
        id: DataCenterId,
        /// Why, as far as it is known.
        reason: String,
    },
    /// A datacenter's state, or what its operator intends, changed.
    DataCenterState {
        /// Which.
        id: DataCenterId,
        /// Its state now.
        state: DataCenterState,
        /// Whether it takes new actors.
        takes_placements: bool,
        /// Whether it takes lookups and messages.
        takes_traffic: bool,
    },
    /// The routing table became stale (true) or caught up again (false).
    Stale {
        /// Which of the two.
        stale: bool,
        /// Age of the table.
        age: Option<Duration>,
    },
    /// This node became ready (D7).
    Ready,
    /// The leader of this node's datacenter changed.
    Leader {
        /// The leader; none while this node is alone and has not founded a cluster.
        leader: Option<NodeId>,
        /// Whether that is this node.
        me: bool,
    },
    /// The members of this node's datacenter changed.
    Members {
        /// Who came.
        joined: Vec<NodeId>,
        /// Who went.
        left: Vec<NodeId>,
        /// How many there are now.
        members: usize,
    },
    /// A message could not be delivered (A6).
    DeadLetter(Arc<DeadLetter>),
    /// After a partition healed, this node's actor lost its name to an older one, and was stopped (A2).
    NameEvicted {
        /// The name.
        name: String,
        /// The node whose actor keeps it.
        kept_by: NodeId,
    },
    /// An actor stopped for good after a failure: it panicked, and was not restarted (again).
    ActorFailed {
        /// The actor.
        actor: String,
        /// Why.
        reason: String,
    },
    /// A grain became active here.
    GrainActivated {
        /// Its kind.
        kind: &'static str,
        /// Its identity.
        id: String,
    },
    /// A grain went to rest here.
    GrainPassivated {
        /// Its kind.
        kind: &'static str,
        /// Its identity.
        id: String,
    },
    /// What this node's part in global ownership has done or seen: sessions, take-overs, conflicts, moves given up.
    Ownership(Arc<OwnershipEvent>),
    /// Something global that was owned here was handed over (G5).
    GlobalMoved {
        /// The name, the slot of grains, or the grain that was placed elsewhere.
        what: String,
        /// Where it is now.
        data_center: DataCenterId,
        /// The node that owns it now.
        node: NodeId,
        /// Under which epoch.
        epoch: u64,
    },
    /// A peer's control plane is another store than ours (P1).
    StoreMismatch {
        /// The peer.
        peer: String,
    },
    /// A node of another datacenter was refused what its datacenter may not do here.
    Unauthorized {
        /// Whose node.
        data_center: DataCenterId,
        /// What was refused.
        what: String,
    },
    /// A link was refused, by this node or by the peer, for its certificate or for want of TLS (R9). Told once for a
    /// row of like refusals of a peer that this node dials, and for each connection of others.
    LinkRefused {
        /// The peer: where it was dialled, or where it dialled from.
        peer: String,
        /// Which end refused the other, and why.
        why: String,
    },
    /// This node's certificate, or the CAs that it trusts, were replaced: new connections use the new ones.
    CertificatesReplaced {
        /// The end of the new certificate's time, in seconds since 1970.
        not_after: u64,
    },
    /// Changed certificate files cannot be used: the old ones stay in use. Told once for as long as they stay so.
    CertificatesRejected {
        /// What is wrong with them.
        why: String,
    },
    /// The reader was too slow: this many events were passed over.
    Missed(u64),
}

/// A message that was not handled.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// Whom it was for; cut to 512 bytes, like the texts below. Those of the error are cut to 1,024.
    pub target: String,
    /// The target's kind.
    pub kind: String,
    /// The message type's wire name.
    pub message: String,
    /// Why it was not handled.
    pub error: Error,
}

impl fmt::Display for DeadLetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {}: {}", self.message, self.target, self.error)
    }
}

/// The events of one node, as a stream. Ends when the system has shut down.
pub struct EventStream(BroadcastStream<Event>);

impl EventStream {
    /// The next event; `None` when the system has shut down. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        tokio_stream::StreamExt::next(&mut self.0).await.map(flatten)
    }
}

fn flatten(item: Result<Event, BroadcastStreamRecvError>) -> Event {
    item.unwrap_or_else(|BroadcastStreamRecvError::Lagged(missed)| Event::Missed(missed))
}

impl Stream for EventStream {
    type Item = Event;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        Pin::new(&mut self.0).poll_next(cx).map(|item| item.map(flatten))
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventStream")
    }
}

/// Events that are kept for those who read slowly.
const KEPT: usize = 4_096;

/// Where events are put. Bounded in number, and each in size: peers have a say in what some of them tell.
#[derive(Clone)]
pub(crate) struct EventBus {
    sender: broadcast::Sender<Event>,
    dead_letters: Arc<AtomicU64>,
}

impl EventBus {
    pub(crate) fn new() -> Self {
        Self { sender: broadcast::Sender::new(KEPT), dead_letters: Arc::default() }
    }

    /// Tells all readers; nobody listening is fine.
    pub(crate) fn tell(&self, mut event: Event) {
        match &mut event {
            Event::ActorFailed { actor, reason } => {
                cut(actor, LABEL);
                cut(reason, TEXT);
            }
            Event::Unauthorized { what, .. } => cut(what, LABEL),
            Event::LinkRefused { why, .. } | Event::CertificatesRejected { why } => cut(why, TEXT),
            // Dead letters are cut already; the others are told of what this node, or the store, knows.
            _ => {}
        }
        let _ = self.sender.send(event);
    }

    pub(crate) fn dead_letter(&self, mut letter: DeadLetter) {
        self.dead_letters.fetch_add(1, Ordering::Relaxed);
        crate::measure::dead_letter(letter.error.name());
        for label in [&mut letter.target, &mut letter.kind, &mut letter.message] {
            cut(label, LABEL);
        }
        letter.error = letter.error.shortened();
        tracing::debug!(target = %letter.target, message = %letter.message, reason = %letter.error, "dead letter");
        if self.sender.receiver_count() > 0 {
            self.tell(Event::DeadLetter(Arc::new(letter)));
        }
    }

    /// Dead letters since the start.
    pub(crate) fn dead_letters(&self) -> u64 {
        self.dead_letters.load(Ordering::Relaxed)
    }

    pub(crate) fn subscribe(&self) -> EventStream {
        EventStream(BroadcastStream::new(self.sender.subscribe()))
    }
}

impl fmt::Debug for EventBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventBus")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(number: usize) -> DeadLetter {
        let error = Error::not_found("worker #7");
        DeadLetter { target: number.to_string(), kind: "worker".into(), message: "note".into(), error }
    }

    #[tokio::test]
    async fn r5_a_slow_reader_loses_the_oldest_events_and_is_told_how_many() {
        let bus = EventBus::new();
        let mut slow = bus.subscribe();
        for number in 0..KEPT + 5 {
            bus.dead_letter(letter(number));
        }
        assert!(matches!(slow.next().await, Some(Event::Missed(5))), "five were passed over");
        for number in 5..KEPT + 5 {
            let event = slow.next().await;
            let Some(Event::DeadLetter(kept)) = event else { panic!("{event:?}") };
            assert_eq!(kept.target, number.to_string(), "the newest ones, in order");
        }
        drop(bus);
        assert!(slow.next().await.is_none(), "nothing else was kept");
    }

    #[tokio::test]
    async fn a6_dead_letters_are_counted_whether_they_are_read_or_not() {
        let bus = EventBus::new();
        bus.dead_letter(letter(1));
        let mut events = bus.subscribe();
        bus.dead_letter(letter(2));
        let event = events.next().await;
        assert!(matches!(&event, Some(Event::DeadLetter(letter)) if letter.target == "2"), "{event:?}");
        assert_eq!(bus.dead_letters(), 2);
    }

    #[tokio::test]
    async fn r8_what_is_kept_of_peers_texts_is_bounded() {
        let bus = EventBus::new();
        let mut events = bus.subscribe();
        let long = || "ä".repeat(100_000);
        let error = Error::DataCenterNotRoutable { asked: long(), reasons: vec![long(); 1_000] };
        bus.dead_letter(DeadLetter { target: long(), kind: long(), message: long(), error });
        bus.tell(Event::Unauthorized { data_center: "dc-2".parse().unwrap(), what: long() });
        bus.tell(Event::ActorFailed { actor: long(), reason: long() });
        let Some(Event::DeadLetter(letter)) = events.next().await else { panic!("no dead letter") };
        assert!([&letter.target, &letter.kind, &letter.message].iter().all(|label| label.len() <= LABEL));
        let shown = letter.error.to_string();
        assert!(shown.len() < 40 * TEXT && matches!(letter.error, Error::DataCenterNotRoutable { .. }), "{shown}");
        let Some(Event::Unauthorized { what, .. }) = events.next().await else { panic!("no refusal") };
        assert!(what.len() <= LABEL && what.ends_with('…'), "{what}");
        let Some(Event::ActorFailed { actor, reason }) = events.next().await else { panic!("no failure") };
        assert!(actor.len() <= LABEL && reason.len() <= TEXT);
    }
}
