//! Notices that an actor is not there any more ([`wire::GONE`]): told to who sent it a message, heard of who has it no
//! more. A favour: each that is lost costs a later dead letter, so both ends are bounded and drop what is too much.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use dc_core::Endpoint;
use parking_lot::Mutex;

use crate::{
    measure,
    peers::{self, PeerId},
    reference::Location,
    system::{Node, WeakSystem},
    wire,
};

/// One actor's end is told to one node at most this often.
const AGAIN: Duration = Duration::from_secs(1);

/// Notices that are told at most in that time, and those of them to one node.
const TOLD: (usize, usize) = (256, 64);

/// What was heard is looked for among all remembered places at most this often, all of it at once.
const LOOK: Duration = Duration::from_millis(100);

/// Notices that wait for that at most, and those of them of one node.
const HEARD: (usize, usize) = (4_096, 256);

#[derive(Default)]
pub(crate) struct Notices {
    told: Mutex<VecDeque<(Instant, PeerId, u64)>>,
    heard: Mutex<Heard>,
}

#[derive(Default)]
struct Heard {
    actors: HashMap<PeerId, HashSet<u64>>,
    number: usize,
    /// A task looks after them.
    followed: bool,
}

impl Notices {
    /// Tells a node that its message was for an actor that is not here. Only one that its datacenter lists is told, and
    /// there: where a stranger says that it takes links is nowhere to dial.
    pub(crate) fn tell(&self, node: &Arc<Node>, to: PeerId, actor: u64) {
        let Some(endpoint) = self.first(node.clock().now(), &to, actor, || peers::listed(node, &to)) else { return };
        let peer = node.peer_of(&to.dc, &endpoint, to.node);
        tokio::spawn(async move {
            let body = wire::write(&wire::GoneBody { actor });
            // Lost notices cost a later dead letter, no more.
            let _ = peer.call(wire::GONE, body, Duration::from_secs(2)).await;
        });
    }

    /// Where to tell a node of this actor; `None` if it was told lately, or there is no place or no room for that.
    fn first(
        &self,
        now: Instant,
        to: &PeerId,
        actor: u64,
        listed: impl FnOnce() -> Option<Endpoint>,
    ) -> Option<Endpoint> {
        let mut told = self.told.lock();
        while told.front().is_some_and(|(at, ..)| now.saturating_duration_since(*at) >= AGAIN) {
            told.pop_front();
        }
        let (mut of_one, mut again) = (0, false);
        for (_, _, number) in told.iter().filter(|(_, peer, _)| peer == to) {
            of_one += 1;
            again |= *number == actor;
        }
        if again || of_one >= TOLD.1 || told.len() >= TOLD.0 {
            return None;
        }
        let endpoint = listed()?;
        told.push_back((now, to.clone(), actor));
        Some(endpoint)
    }

    /// A node says that it does not have this actor.
    pub(crate) fn hear(self: &Arc<Self>, node: &Arc<Node>, of: PeerId, actor: u64) {
        if self.heard.lock().note(of, actor) {
            tokio::spawn(follow(self.clone(), node.weak()));
        }
    }
}

impl Heard {
    /// True if a task is to be started for it.
    fn note(&mut self, of: PeerId, actor: u64) -> bool {
        let of_one = self.actors.get(&of).map_or(0, HashSet::len);
        if self.number >= HEARD.0 || of_one >= HEARD.1 {
            measure::limit("notices");
            return false;
        }
        self.number += usize::from(self.actors.entry(of).or_default().insert(actor));
        !mem::replace(&mut self.followed, true)
    }

    fn take(&mut self) -> HashMap<PeerId, HashSet<u64>> {
        self.number = 0;
        self.followed = !self.actors.is_empty();
        mem::take(&mut self.actors)
    }
}

/// Forgets where those actors were, until nothing more is heard.
async fn follow(notices: Arc<Notices>, system: WeakSystem) {
    loop {
        let gone = notices.heard.lock().take();
        let Some(node) = system.node().filter(|_| !gone.is_empty()) else { return };
        let stays = |at: &Location| !gone.get(&PeerId::from(at)).is_some_and(|actors| actors.contains(&at.actor));
        node.names().retain(stays);
        node.grains().retain(stays);
        drop(node);
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use dc_core::{Clock, ManualClock, NodeId};

    use super::*;

    fn peer(dc: &str, node: u128) -> PeerId {
        PeerId { dc: dc.parse().unwrap(), node: NodeId(node) }
    }

    #[test]
    fn r5_one_node_is_told_of_one_actor_once_in_a_while_and_a_flood_of_notices_is_cut() {
        let (notices, clock) = (Notices::default(), ManualClock::new());
        let place: Endpoint = "10.0.0.1:7946".parse().unwrap();
        let tell = |to: &PeerId, actor| notices.first(clock.now(), to, actor, || Some(place.clone())).is_some();
        let one = peer("dc-2", 1);
        assert!(tell(&one, 7) && !tell(&one, 7));
        assert!(tell(&peer("dc-3", 1), 7), "another node that gives itself that id");
        assert_eq!((1..1_000).filter(|actor| tell(&one, *actor)).count(), TOLD.1 - 1, "no more of one node");
        assert!(tell(&peer("dc-2", 2), 7), "which is no harm to another one");
        let all: usize = (3..1_000).map(|node| usize::from(tell(&peer("dc-2", node), 7))).sum();
        assert_eq!(all, TOLD.0 - TOLD.1 - 2, "nor of all");
        clock.advance(AGAIN);
        assert!(tell(&one, 7));
    }

    #[test]
    fn r5_nodes_that_nobody_lists_are_not_told_and_take_no_room() {
        let (notices, clock) = (Notices::default(), ManualClock::new());
        for node in 0..10_000 {
            assert_eq!(notices.first(clock.now(), &peer("dc-2", node), 7, || None), None);
        }
        assert!(notices.told.lock().is_empty());
    }

    #[test]
    fn r5_what_was_heard_is_bounded_and_looked_for_all_at_once() {
        let mut heard = Heard::default();
        assert!(heard.note(peer("dc-2", 1), 1), "a task is started");
        for actor in 0..10_000 {
            assert!(!heard.note(peer("dc-2", 1), actor), "and one only");
        }
        assert_eq!(heard.actors[&peer("dc-2", 1)].len(), HEARD.1);
        for node in 0..10_000 {
            heard.note(peer("dc-2", node), 1);
        }
        assert_eq!(heard.actors.values().map(HashSet::len).sum::<usize>(), HEARD.0);
        assert_eq!(heard.take().len(), HEARD.0 - HEARD.1 + 1);
        assert!(!heard.note(peer("dc-2", 1), 1), "the task looks again");
        heard.take();
        assert!(heard.take().is_empty() && heard.note(peer("dc-2", 1), 1), "it had nothing to do, and has ended");
    }
}
