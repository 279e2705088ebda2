//! Who owns what, as this node knows it: read without locks by every message.

use std::{
    array,
    collections::{BTreeMap, HashMap},
    hash::BuildHasher,
    sync::Arc,
};

use arc_swap::{ArcSwap, ArcSwapOption};
use dc_core::{DataCenterId, Epoch};
use parking_lot::{Mutex, RwLock};

use crate::{
    ids::{GroupId, SLOTS, SLOTS_PER_DOCUMENT, SessionId, Slot},
    names::{NameEntry, NameSpec},
    order::Thing,
    session::Holder,
    title::Title,
};

const DOCUMENTS: usize = (SLOTS / SLOTS_PER_DOCUMENT) as usize;
const SHARDS: usize = 32;

/// Who is named by an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The session.
    pub session: SessionId,
    /// Its datacenter.
    pub data_center: DataCenterId,
    /// The epoch of the entry.
    pub epoch: Epoch,
    /// Whether the owner before handed it over: only then may state that came along be used.
    pub handed: bool,
    /// Which state goes along, by its digest; 0 for none. Any other that was sent is of an attempt that was given up.
    pub offer: u64,
    /// The session's TTL in milliseconds, for who never saw its document; 0 where it is not told.
    pub ttl_ms: u64,
}

/// One slot, as known.
#[derive(Clone, Debug, Default)]
pub struct SlotRow {
    /// Who is named; `None` where nobody ever was, or what is stored is refused.
    pub owner: Option<Owner>,
    /// The title, where it is owned here and confirmed.
    pub title: Option<Title>,
}

/// One global name, as known.
#[derive(Clone, Debug)]
pub struct NameRow {
    /// What was claimed.
    pub spec: Arc<NameSpec>,
    /// Who is named.
    pub owner: Owner,
    /// The actor's number on its node; 0 until told.
    pub actor: u64,
    /// The title, where it is owned here and confirmed.
    pub title: Option<Title>,
}

/// What is known of one document of slots.
#[derive(Clone, Debug, Default)]
pub struct SlotRows {
    /// By place.
    pub slots: Vec<SlotRow>,
    /// Identities that live elsewhere than their slot. At their slot's owner also one that it is about to hand over,
    /// without a title: nothing of it starts there.
    pub overrides: HashMap<String, SlotRow>,
}

struct GroupSlots([ArcSwapOption<SlotRows>; DOCUMENTS]);

/// The table. One writer, the core's driver; any number of readers.
pub struct Table {
    /// Few: looking into a small tree costs less than hashing.
    groups: ArcSwap<BTreeMap<GroupId, Arc<GroupSlots>>>,
    sessions: ArcSwap<HashMap<SessionId, Holder>>,
    names: [RwLock<HashMap<String, NameRow>>; SHARDS],
    /// How many names the sessions of each datacenter have.
    names_of: Mutex<HashMap<DataCenterId, usize>>,
    hasher: std::hash::RandomState,
}

impl Table {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            groups: ArcSwap::default(),
            sessions: ArcSwap::default(),
            names: array::from_fn(|_| RwLock::default()),
            names_of: Mutex::default(),
            hasher: std::hash::RandomState::new(),
        }
    }

    /// What is known of a slot, to `read`.
    fn with_slot<T>(&self, group: GroupId, slot: Slot, read: impl FnOnce(&SlotRow) -> Option<T>) -> Option<T> {
        let groups = self.groups.load();
        let rows = groups.get(&group)?.0.get(usize::from(slot.document()))?.load();
        read(rows.as_ref()?.slots.get(usize::from(slot.place()))?)
    }

    /// What is known of one identity: of itself where it lives elsewhere than its slot, else of its slot.
    fn with_grain<T>(
        &self,
        group: GroupId,
        slot: Slot,
        identity: &str,
        read: impl FnOnce(&SlotRow, bool) -> Option<T>,
    ) -> Option<T> {
        let groups = self.groups.load();
        let rows = groups.get(&group)?.0.get(usize::from(slot.document()))?.load();
        let rows = rows.as_ref()?;
        // Most documents have none.
        if !rows.overrides.is_empty()
            && let Some(row) = rows.overrides.get(identity)
        {
            return read(row, true);
        }
        read(rows.slots.get(usize::from(slot.place()))?, false)
    }

    /// The owner of one identity of a slot, wherever it lives, if its session lives as far as known. Lock-free.
    pub fn grain_owner(&self, group: GroupId, slot: Slot, identity: &str) -> Option<(Holder, Epoch)> {
        let sessions = self.sessions.load();
        self.with_grain(group, slot, identity, |row, _| {
            let owner = row.owner.as_ref()?;
            Some((sessions.get(&owner.session)?.clone(), owner.epoch))
        })
    }

    /// The epoch under which such an identity is owned, whether its owner's session lives or not. Lock-free.
    pub fn grain_epoch(&self, group: GroupId, slot: Slot, identity: &str) -> Option<Epoch> {
        self.with_grain(group, slot, identity, |row, _| row.owner.as_ref().map(|owner| owner.epoch))
    }

    /// The epoch of a slot's entry, whether its session lives or not. Lock-free.
    pub fn slot_epoch(&self, group: GroupId, slot: Slot) -> Option<Epoch> {
        self.with_slot(group, slot, |row| row.owner.as_ref().map(|owner| owner.epoch))
    }

    /// The entry by which such an identity is owned, and whether that is its own. Lock-free.
    pub fn grain_entry(&self, group: GroupId, slot: Slot, identity: &str) -> Option<(Owner, bool)> {
        self.with_grain(group, slot, identity, |row, own| Some((row.owner.clone()?, own)))
    }

    /// The title by which such an identity may be active here, if it holds, and whether that is to it alone. Lock-free.
    pub fn grain_title(&self, group: GroupId, slot: Slot, identity: &str) -> Option<(Title, bool)> {
        let found = self.with_grain(group, slot, identity, |row, own| Some((row.title.clone()?, own)));
        found.filter(|(title, _)| title.check().is_ok())
    }

    /// Whether such an identity lives elsewhere than its slot, or is about to. Lock-free.
    pub fn is_overridden(&self, group: GroupId, slot: Slot, identity: &str) -> bool {
        self.with_grain(group, slot, identity, |_, own| Some(own)).unwrap_or(false)
    }

    /// The owner of a slot, if its session lives as far as known. Lock-free.
    pub fn slot_owner(&self, group: GroupId, slot: Slot) -> Option<(Holder, Epoch)> {
        let sessions = self.sessions.load();
        self.with_slot(group, slot, |row| {
            let owner = row.owner.as_ref()?;
            Some((sessions.get(&owner.session)?.clone(), owner.epoch))
        })
    }

    /// The title of a slot, if it holds. Lock-free.
    pub fn slot_title(&self, group: GroupId, slot: Slot) -> Option<Title> {
        self.with_slot(group, slot, |row| row.title.clone()).filter(|title| title.check().is_ok())
    }

    /// The holder of a session that lives as far as known. Lock-free.
    pub fn holder(&self, session: SessionId) -> Option<Holder> {
        self.sessions.load().get(&session).cloned()
    }

    /// What is known of a name.
    pub fn name(&self, name: &str) -> Option<NameEntry> {
        let row = self.shard(name).read().get(name).cloned()?;
        Some(self.entry(&row))
    }

    /// The epoch of a name's entry, whether its session lives or not. Copies nothing else: asked for every message.
    pub fn name_epoch(&self, name: &str) -> Option<Epoch> {
        self.shard(name).read().get(name).map(|row| row.owner.epoch)
    }

    /// As others are told of it.
    pub fn entry(&self, row: &NameRow) -> NameEntry {
        NameEntry {
            spec: (*row.spec).clone(),
            holder: self.holder(row.owner.session),
            session: row.owner.session,
            data_center: row.owner.data_center.clone(),
            epoch: row.owner.epoch,
            actor: row.actor,
        }
    }

    /// Whether the owner of `thing` under `epoch` handed it over in good order to the one that is named now. Lock-free
    /// for slots.
    ///
    /// It had ended all its work, and sent its last answer, before that was written down. False where that is not
    /// known for certain.
    pub fn handed_over(&self, thing: &Thing, epoch: Epoch) -> bool {
        let next = |owner: &Owner| owner.handed && owner.epoch == epoch.next();
        match thing {
            Thing::Slot(group, slot) => self.with_slot(*group, *slot, |row| row.owner.as_ref().map(next)),
            Thing::Grain(group, slot, identity) => {
                self.with_grain(*group, *slot, identity, |row, _| row.owner.as_ref().map(next))
            }
            Thing::Name(name) => self.shard(name).read().get(name).map(|row| next(&row.owner)),
        }
        .unwrap_or(false)
    }

    /// The title of a name, if it holds.
    pub fn name_title(&self, name: &str) -> Option<Title> {
        let title = self.shard(name).read().get(name)?.title.clone()?;
        title.check().is_ok().then_some(title)
    }

    /// How many slots, single identities and names the sessions of `dc` have, as far as known.
    pub fn owned_by(&self, dc: &DataCenterId) -> usize {
        let slots: usize = self
            .groups
            .load()
            .values()
            .flat_map(|group| group.0.iter())
            .filter_map(ArcSwapOption::load_full)
            .map(|rows| {
                let all = rows.slots.iter().chain(rows.overrides.values());
                all.filter(|row| is_in(row.owner.as_ref(), dc)).count()
            })
            .sum();
        slots + self.names_of.lock().get(dc).copied().unwrap_or(0)
    }

    fn shard(&self, name: &str) -> &RwLock<HashMap<String, NameRow>> {
        // The remainder is below SHARDS.
        &self.names[(self.hasher.hash_one(name) % SHARDS as u64) as usize]
    }

    /// Replaces the sessions that live.
    pub fn set_sessions(&self, sessions: HashMap<SessionId, Holder>) {
        self.sessions.store(Arc::new(sessions));
    }

    /// Replaces what is known of a document of slots.
    pub fn set_slots(&self, group: GroupId, document: u16, rows: Option<Arc<SlotRows>>) {
        let groups = self.groups.load();
        let slots = match groups.get(&group) {
            Some(slots) => Arc::clone(slots),
            None => {
                let slots = Arc::new(GroupSlots(array::from_fn(|_| ArcSwapOption::empty())));
                let mut more = (**groups).clone();
                more.insert(group, Arc::clone(&slots));
                self.groups.store(Arc::new(more));
                slots
            }
        };
        if let Some(at) = slots.0.get(usize::from(document)) {
            at.store(rows);
        }
    }

    /// Replaces what is known of a name.
    pub fn set_name(&self, name: &str, row: Option<NameRow>) {
        let of = row.as_ref().map(|row| row.owner.data_center.clone());
        let before = {
            let mut shard = self.shard(name).write();
            match (row, shard.get_mut(name)) {
                (Some(row), Some(known)) => Some(std::mem::replace(known, row)),
                (Some(row), None) => shard.insert(name.to_owned(), row),
                (None, _) => shard.remove(name),
            }
        };
        let before = before.map(|row| row.owner.data_center);
        if before != of {
            let mut names_of = self.names_of.lock();
            if let Some(before) = before
                && let Some(count) = names_of.get_mut(&before)
            {
                *count -= 1;
            }
            if let Some(of) = of {
                *names_of.entry(of).or_default() += 1;
            }
        }
    }
}

fn is_in(owner: Option<&Owner>, dc: &DataCenterId) -> bool {
    owner.is_some_and(|owner| owner.data_center == *dc)
}

impl Default for Table {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: usize = self.names.iter().map(|shard| shard.read().len()).sum();
        let (groups, sessions) = (self.groups.load().len(), self.sessions.load().len());
        f.debug_struct("Table").field("groups", &groups).field("sessions", &sessions).field("names", &names).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::str::FromStr;

    use super::*;

    fn owner(epoch: u64, handed: bool) -> Owner {
        let data_center = dc_core::DataCenterId::from_str("dc-1").expect("legal");
        Owner { session: SessionId(5), data_center, epoch: Epoch(epoch), handed, offer: 0, ttl_ms: 0 }
    }

    #[test]
    fn g2_only_who_handed_over_to_the_present_owner_counts_as_that() {
        let (table, group) = (Table::new(), GroupId(1));
        let slot = Slot::new(70).expect("there are more");
        let thing = Thing::Slot(group, slot);
        assert!(!table.handed_over(&thing, Epoch(5)), "nothing is known");
        for (handed, wanted) in [(true, [false, true, false]), (false, [false; 3])] {
            let mut rows = SlotRows::default();
            rows.slots.resize_with(usize::from(SLOTS_PER_DOCUMENT), SlotRow::default);
            rows.slots[usize::from(slot.place())].owner = Some(owner(6, handed));
            rows.overrides.insert("k/1".into(), SlotRow { owner: Some(owner(6, handed)), title: None });
            table.set_slots(group, slot.document(), Some(Arc::new(rows)));
            let spec =
                NameSpec { name: "a".into(), kind: "k".into(), args: Default::default(), policy: Default::default() };
            let row = NameRow { spec: Arc::new(spec), owner: owner(6, handed), actor: 0, title: None };
            table.set_name("a", Some(row));
            assert_eq!(table.name_epoch("a"), table.name("a").map(|entry| entry.epoch));
            assert_eq!((table.name_epoch("a"), table.name_epoch("b")), (Some(Epoch(6)), None));
            for thing in [&thing, &Thing::Name("a".into()), &Thing::Grain(group, slot, "k/1".into())] {
                assert_eq!([4, 5, 6].map(|epoch| table.handed_over(thing, Epoch(epoch))), wanted, "{thing:?}");
            }
        }
    }

    #[test]
    fn names_are_counted_where_their_owners_are() {
        let table = Table::new();
        let spec =
            NameSpec { name: "a".into(), kind: "k".into(), args: Default::default(), policy: Default::default() };
        let row = |dc: &str| {
            let owner = Owner { data_center: DataCenterId::from_str(dc).expect("legal"), ..owner(1, false) };
            Some(NameRow { spec: Arc::new(spec.clone()), owner, actor: 0, title: None })
        };
        let counts =
            |table: &Table| ["dc-1", "dc-2"].map(|dc| table.owned_by(&DataCenterId::from_str(dc).expect("legal")));
        for (name, row, wanted) in [
            ("a", row("dc-1"), [1, 0]),
            ("b", row("dc-1"), [2, 0]),
            ("a", row("dc-2"), [1, 1]),
            ("a", row("dc-2"), [1, 1]),
            ("c", None, [1, 1]),
            ("b", None, [0, 1]),
            ("a", None, [0, 0]),
        ] {
            table.set_name(name, row);
            assert_eq!(counts(&table), wanted, "after {name}");
        }
    }
}
