//! Who is to have what: rendezvous over the sessions that live, the datacenter first, then the node in it.

use std::time::Instant;

use dc_core::{DataCenter, DataCenterId, snapshot::hash};

use super::Core;
use crate::{
    drain::DrainScope,
    ids::{GroupId, SessionId},
    order::Thing,
    policy::{Loss, OnLoss, Policy},
};

/// Slots next to each other have the same first choice, so that few nodes write one document at the same time.
const SLOTS_PER_BLOCK: u16 = 8;

/// A session that lives, as far as known.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) id: SessionId,
    pub(super) hash: u64,
    pub(super) data_center: DataCenter,
    pub(super) taking: bool,
    pub(super) groups: Vec<GroupId>,
    /// Since when it is known here.
    pub(super) since: Instant,
}

impl Live {
    /// How it ranks for a thing among the nodes of its datacenter.
    pub(super) fn score(&self, thing: &Thing) -> (u64, SessionId) {
        (hash::score(self.hash, Core::key_of(thing)), self.id)
    }
}

/// Whose it was.
#[derive(Clone, Copy, Debug)]
pub(super) enum From<'a> {
    /// Nobody's.
    Nobody,
    /// A session's of this datacenter that is over.
    Lost(&'a DataCenterId),
    /// This node's, which hands it over.
    Own(DrainScope),
    /// This node's, which looks for a better place.
    Better(Option<&'a DataCenterId>),
}

/// Candidates in order, and whether they are beyond the datacenter that lost it.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    pub(super) order: Vec<SessionId>,
    pub(super) beyond: bool,
}

impl Core {
    pub(super) fn refresh_live(&mut self, now: Instant) {
        if !std::mem::take(&mut self.live_stale) {
            return;
        }
        let (own, takes) = (self.own.open().filter(|open| !open.limbo).map(|open| open.id), self.takes());
        let before = std::mem::take(&mut self.live);
        let since = |id: SessionId| before.iter().find(|live| live.id == id).map_or(now, |live| live.since);
        let hash_of = |id: SessionId| hash::mix(id.0 as u64 ^ (id.0 >> 64) as u64);
        self.live = self
            .sessions
            .iter()
            .filter(|(id, _)| self.own.id() != Some(**id) && !self.over.contains(id))
            .filter(|(_, seen)| seen.version.is_some() && seen.grave.is_none() && now < seen.since + seen.ttl())
            .filter_map(|(id, seen)| {
                let document = seen.document.as_ref()?;
                Some(Live {
                    id: *id,
                    hash: hash_of(*id),
                    data_center: document.dc.clone(),
                    taking: document.taking,
                    groups: document.groups.clone(),
                    since: since(*id),
                })
            })
            .collect();
        if let Some(id) = own {
            let (data_center, groups) = (self.me.data_center.clone(), self.groups.keys().copied().collect());
            self.live.push(Live { id, hash: hash_of(id), data_center, taking: takes, groups, since: since(id) });
        }
    }

    /// The hash that ranks candidates for a thing. The same on every node.
    fn key_of(thing: &Thing) -> u64 {
        match thing {
            Thing::Slot(group, slot) => {
                let block = u128::from(slot.number() / SLOTS_PER_BLOCK);
                hash::key(&(group.0 ^ block << 64).to_be_bytes())
            }
            Thing::Grain(_, _, identity) => hash::key(identity.as_bytes()),
            Thing::Name(name) => hash::key(name.as_bytes()),
        }
    }

    /// Who may have a thing, the first choice first.
    pub(super) fn candidates(&mut self, thing: &Thing, policy: &Policy, from: From<'_>, now: Instant) -> Candidates {
        self.refresh_live(now);
        let serves = |live: &&Live| match thing {
            Thing::Slot(group, _) | Thing::Grain(group, ..) => live.groups.contains(group),
            Thing::Name(_) => true,
        };
        let fit = |live: &&Live| live.taking && serves(live) && policy.allows(&live.data_center);
        let placeable = |live: &&Live| (self.placeable)(live.data_center.id());
        let own = self.own.id();
        let mut beyond = false;
        let fits: Vec<&Live> = match from {
            From::Nobody => self.live.iter().filter(fit).filter(placeable).collect(),
            From::Lost(home) => {
                let at_home = |live: &&Live| live.data_center.id() == home;
                let near: Vec<&Live> = self.live.iter().filter(at_home).filter(fit).collect();
                if !near.is_empty() {
                    near
                } else {
                    beyond = true;
                    // Drained, not lost: the operator has said that its work goes elsewhere.
                    let leaving = self.live.iter().any(|live| at_home(&live));
                    let may = |live: &&Live| leaving || may_relocate(policy, &live.data_center);
                    self.live.iter().filter(fit).filter(placeable).filter(may).collect()
                }
            }
            From::Own(scope) => {
                let home = self.me.data_center.id();
                let at_home = |live: &&Live| live.data_center.id() == home;
                let others = |live: &&Live| Some(live.id) != own;
                let near: Vec<&Live> = self.live.iter().filter(at_home).filter(others).filter(fit).collect();
                if scope == DrainScope::Node && !near.is_empty() {
                    near
                } else {
                    self.live.iter().filter(|live| !at_home(live)).filter(fit).filter(placeable).collect()
                }
            }
            From::Better(_) => {
                // Only what has stood for a while: a datacenter that comes and goes gets nothing back.
                let settled = |live: &&Live| Some(live.id) == own || now >= live.since + self.options.ttl();
                self.live.iter().filter(fit).filter(placeable).filter(settled).collect()
            }
        };
        let key = Self::key_of(thing);
        let home = match from {
            From::Better(home) => home,
            From::Nobody | From::Lost(_) | From::Own(_) => None,
        };
        let failover = matches!(from, From::Lost(_) if beyond);
        let mut order: Vec<_> = fits
            .iter()
            .map(|live| {
                let dc = &live.data_center;
                let first = if failover && policy.failover_to.is_some() {
                    policy.failover_to.as_ref().is_some_and(|selector| selector.matches(dc))
                } else {
                    policy.prefers(dc)
                };
                let dc_score = hash::score(hash::data_center(dc.id().as_str()), key);
                let is_home = Some(dc.id()) == home;
                let node = hash::score(live.hash, key);
                // Descending by each.
                (first, is_home, dc_score, dc.id().clone(), node, live.id)
            })
            .collect();
        order.sort_by(|a, b| b.cmp(a));
        Candidates { order: order.into_iter().map(|place| place.5).collect(), beyond }
    }

    pub(super) fn data_center_of(&self, session: SessionId) -> Option<&DataCenter> {
        self.live.iter().find(|live| live.id == session).map(|live| &live.data_center)
    }
}

/// Whether a policy lets a thing go to `dc` by itself when its own datacenter is lost.
fn may_relocate(policy: &Policy, dc: &DataCenter) -> bool {
    policy.survives == Loss::DataCenter
        && matches!(policy.on_loss, OnLoss::Relocate { .. })
        && policy.may_fail_over_to(dc)
}
