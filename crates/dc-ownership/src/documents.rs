//! What is stored: keys and JSON documents, `docs/ownership.md` has the table.
//!
//! A document of another format version is left alone and reported, and so is one with a value that is not known: a word
//! of a policy, a number of an entry. Fields that a later version added are kept where somebody else than their author
//! writes the document again: in a session's, a name's, and in one of slots, its owners and its overrides.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use dc_controlplane::ownership::{Document, DocumentKey};
use dc_core::{DataCenter, DataCenterId, DataCenterSelector, Endpoint, Epoch, Invalid, NodeId, Version};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    ids::{GroupId, SLOTS_PER_DOCUMENT, SessionId, Slot},
    names::{MAX_ARGS, NameSpec},
    options::MAX_TTL,
    policy::Policy,
    table::{NameRow, Owner},
};

/// The format that this version writes and reads.
const FORMAT: u32 = 1;

/// What a key is the key of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Unit {
    Session(SessionId),
    Slots(GroupId, u16),
    Name(String),
    Kind(String),
}

/// The prefixes under which documents lie.
pub(crate) const PREFIXES: [&str; 4] = ["s/", "g/", "n/", "k/"];

impl Unit {
    pub(crate) fn of(key: &DocumentKey) -> Option<Self> {
        let (kind, rest) = key.as_str().split_once('/')?;
        match kind {
            "s" => rest.parse().ok().map(Self::Session),
            "g" => {
                let (group, number) = rest.split_once('/')?;
                let number = number.parse().ok().filter(|number| *number < crate::ids::SLOTS / SLOTS_PER_DOCUMENT)?;
                Some(Self::Slots(group.parse().ok()?, number))
            }
            "n" => key.unescape("n").map(Self::Name),
            "k" => key.unescape("k").map(Self::Kind),
            _ => None,
        }
    }

    pub(crate) fn key(&self) -> Result<DocumentKey, Invalid> {
        match self {
            Self::Session(id) => format!("s/{id}").parse(),
            Self::Slots(group, number) => format!("g/{group}/{number}").parse(),
            Self::Name(name) => name_key(name),
            Self::Kind(kind) => kind_key(kind),
        }
    }
}

pub(crate) fn name_key(name: &str) -> Result<DocumentKey, Invalid> {
    if name.is_empty() || name.len() > 255 || name.chars().any(char::is_control) {
        return Err(Invalid::new("global name", name, "must be 1 to 255 bytes without control characters"));
    }
    DocumentKey::escaped("n", name)
}

pub(crate) fn kind_key(kind: &str) -> Result<DocumentKey, Invalid> {
    if kind.is_empty() || kind.len() > 255 {
        return Err(Invalid::new("kind", kind, "must be 1 to 255 bytes"));
    }
    DocumentKey::escaped("k", kind)
}

impl NameSpec {
    /// Checks what can be checked before anything is sent.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, the value and the rule.
    pub fn check(&self) -> Result<(), Invalid> {
        name_key(&self.name)?;
        kind_key(&self.kind)?;
        if self.args.len() > MAX_ARGS {
            let rule = format!("must be at most {MAX_ARGS} bytes: keep them elsewhere, and pass a reference");
            return Err(Invalid::new("args", format!("{} bytes", self.args.len()), rule));
        }
        self.policy.check()
    }
}

trait Format: DeserializeOwned {
    /// In which it was written.
    fn format(&self) -> u32;
}

macro_rules! formats {
    ($($document:ty),+) => {$(
        impl Format for $document {
            fn format(&self) -> u32 {
                self.v
            }
        }
    )+};
}

formats!(SessionDocument, Tombstone, SlotsDocument, NameDocument, KindDocument);

/// Fields that this version does not know.
type Later = serde_json::Map<String, serde_json::Value>;

/// The most bytes of them in one document: beside them, one that is full still fits into every store (O7).
const MAX_LATER: usize = 8 * 1024;

/// Refuses more than may be kept: what cannot be kept must not be written again without it.
fn check_later<'a>(later: impl IntoIterator<Item = &'a Later>) -> Result<(), String> {
    let size = |later: &Later| if later.is_empty() { 0 } else { write(later).len() };
    match later.into_iter().map(size).sum::<usize>() {
        size if size > MAX_LATER => Err(format!("{size} bytes of fields that are not known (at most {MAX_LATER})")),
        _ => Ok(()),
    }
}

/// What documents of all formats have.
#[derive(Deserialize)]
struct Head {
    v: u32,
}

fn read<T: Format>(body: &[u8]) -> Result<T, String> {
    let other = |format| format!("format {format} (this version reads {FORMAT})");
    match serde_json::from_slice::<T>(body) {
        Ok(document) if document.format() == FORMAT => Ok(document),
        Ok(document) => Err(other(document.format())),
        // What cannot be read may be of another format, which says more.
        Err(err) => match serde_json::from_slice::<Head>(body) {
            Ok(head) if head.v != FORMAT => Err(other(head.v)),
            Ok(_) | Err(_) => Err(err.to_string()),
        },
    }
}

/// No node gives an epoch above the greatest: what is stored with one is no document of ours, and would leave none for
/// the next owner (G3).
fn check_epoch(epoch: Epoch) -> Result<Epoch, String> {
    if epoch > Epoch::GREATEST {
        return Err(format!("epoch {epoch}, above {}, the greatest there is", Epoch::GREATEST));
    }
    Ok(epoch)
}

fn write(document: &impl Serialize) -> Bytes {
    // Plain data with text keys: JSON takes it.
    Bytes::from(serde_json::to_vec(document).unwrap_or_default())
}

/// `s/<session>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionDocument {
    v: u32,
    pub(crate) node: NodeId,
    pub(crate) dc: DataCenter,
    pub(crate) endpoint: Endpoint,
    pub(crate) ttl_ms: u64,
    /// Counts renewals.
    pub(crate) n: u64,
    pub(crate) nonce: u64,
    #[serde(default)]
    pub(crate) tombstone: bool,
    /// Of a tombstone: it replaced the last version of a session that had been silent, or was written by its own node.
    #[serde(default)]
    pub(crate) proved: bool,
    /// Whether its node takes what has no owner.
    #[serde(default)]
    pub(crate) taking: bool,
    /// The placement groups that its node serves.
    #[serde(default)]
    pub(crate) groups: Vec<GroupId>,
    /// The floor of epochs that its node knows.
    #[serde(default)]
    pub(crate) floor: Epoch,
    /// Kept by whoever buries it.
    #[serde(flatten)]
    later: Later,
}

impl SessionDocument {
    pub(crate) fn new(node: NodeId, dc: DataCenter, endpoint: Endpoint, ttl_ms: u64) -> Self {
        let (taking, groups, floor) = (false, Vec::new(), Epoch(0));
        Self {
            v: FORMAT,
            node,
            dc,
            endpoint,
            ttl_ms,
            n: 0,
            nonce: 0,
            tombstone: false,
            proved: false,
            taking,
            groups,
            floor,
            later: Later::new(),
        }
    }

    pub(crate) fn read(body: &[u8]) -> Result<Self, String> {
        let document: Self = read(body)?;
        check_later([&document.later])?;
        if document.ttl_ms == 0 || Duration::from_millis(document.ttl_ms) > MAX_TTL {
            return Err(format!("a TTL of {} ms, which must be at most {MAX_TTL:?}, and some", document.ttl_ms));
        }
        check_epoch(document.floor)?;
        Ok(document)
    }

    pub(crate) fn write(&self) -> Bytes {
        write(self)
    }
}

/// The tombstone of a session of which nothing more is known; of any, what tells that it is one.
#[derive(Serialize, Deserialize)]
struct Tombstone {
    v: u32,
    #[serde(default)]
    tombstone: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    proved: bool,
    #[serde(default)]
    nonce: u64,
}

pub(crate) fn bare_tombstone(nonce: u64) -> Bytes {
    write(&Tombstone { v: FORMAT, tombstone: true, proved: false, nonce })
}

/// Whether a session's document is a tombstone, the bare one included, and whether that is proved.
pub(crate) fn tombstone(body: &[u8]) -> Option<bool> {
    read::<Tombstone>(body).ok().filter(|read| read.tombstone).map(|read| read.proved)
}

/// `g/<group>/<number>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlotsDocument {
    v: u32,
    owners: Vec<StoredOwner>,
    /// By place: null, or owner and epoch, and where it was handed over 1 and the digest of the state that goes along.
    slots: Vec<Option<Vec<u64>>>,
    /// Identities that live elsewhere than their slot.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    overrides: BTreeMap<String, StoredOverride>,
    pub(crate) nonce: u64,
    #[serde(flatten)]
    later: Later,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredOverride {
    /// As of a slot.
    at: Vec<u64>,
    /// Where it was asked to live.
    to: DataCenterSelector,
    #[serde(flatten)]
    later: Later,
}

/// Fields of a document of slots that this version does not know, by what they belong to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SlotsLater {
    document: Later,
    owners: BTreeMap<SessionId, Later>,
    overrides: BTreeMap<String, Later>,
}

/// An identity that lives elsewhere than its slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Override {
    pub(crate) owner: Owner,
    /// Where it was asked to live.
    pub(crate) to: DataCenterSelector,
}

/// The most identities of one document that live elsewhere than their slots.
pub(crate) const MAX_OVERRIDES: usize = 64;
/// The most bytes that these identities and where they were asked to live take in a document. With it, and with an
/// owner of its own for each slot and each of these, a document stays below what every store takes (O7).
const MAX_OVERRIDE_TEXT: usize = 32 * 1024;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct StoredOwner {
    session: SessionId,
    dc: DataCenterId,
    #[serde(default)]
    ttl_ms: u64,
    #[serde(flatten)]
    later: Later,
}

impl SlotsDocument {
    pub(crate) fn read(body: &[u8], number: u16) -> Result<Self, String> {
        let document: Self = read(body)?;
        let (owners, overrides) = (&document.owners, document.overrides.values());
        let parts = owners.iter().map(|owner| &owner.later).chain(overrides.map(|of| &of.later));
        check_later(parts.chain([&document.later]))?;
        if document.slots.len() != usize::from(SLOTS_PER_DOCUMENT) {
            return Err(format!("{} slots instead of {SLOTS_PER_DOCUMENT}", document.slots.len()));
        }
        document.rows_checked()?;
        document.overrides_checked()?;
        match document.overrides.keys().find(|identity| Slot::of(identity).document() != number) {
            Some(stray) => Err(format!("{stray:?} is of another document")),
            None => Ok(document),
        }
    }

    fn owner_of(&self, entry: &[u64]) -> Result<Owner, String> {
        // By position: one more number, or another, is a later version's, and would be lost where it is written again.
        let (owner, epoch, handed, offer) = match entry {
            [owner, epoch] => (owner, epoch, false, 0),
            [owner, epoch, 1] => (owner, epoch, true, 0),
            [owner, epoch, 1, offer] => (owner, epoch, true, *offer),
            _ => return Err(format!("an entry that is not known: {entry:?}")),
        };
        let at = usize::try_from(*owner).map_err(|_| format!("no owner {owner}"))?;
        let owner = self.owners.get(at).ok_or_else(|| format!("no owner {owner}"))?;
        Ok(Owner {
            session: owner.session,
            data_center: owner.dc.clone(),
            epoch: check_epoch(Epoch(*epoch))?,
            handed,
            offer,
            ttl_ms: owner.ttl_ms,
        })
    }

    fn rows_checked(&self) -> Result<Vec<Option<Owner>>, String> {
        self.slots.iter().map(|slot| slot.as_deref().map(|entry| self.owner_of(entry)).transpose()).collect()
    }

    fn overrides_checked(&self) -> Result<BTreeMap<String, Override>, String> {
        let of = |(identity, stored): (&String, &StoredOverride)| {
            let (owner, to) = (self.owner_of(&stored.at)?, stored.to.clone());
            Ok((identity.clone(), Override { owner, to }))
        };
        self.overrides.iter().map(of).collect()
    }

    pub(crate) fn rows(&self) -> Vec<Option<Owner>> {
        // Checked when it was read.
        self.rows_checked().unwrap_or_default()
    }

    pub(crate) fn overrides(&self) -> BTreeMap<String, Override> {
        // Checked when it was read.
        self.overrides_checked().unwrap_or_default()
    }

    pub(crate) fn new(rows: &[Option<Owner>], overrides: &BTreeMap<String, Override>, nonce: u64) -> Self {
        let mut owners = Vec::new();
        let slots = rows.iter().map(|row| Some(entry_of(row.as_ref()?, &mut owners))).collect();
        let stored = |of: &Override, owners: &mut _| {
            let (at, to, later) = (entry_of(&of.owner, owners), of.to.clone(), Later::new());
            StoredOverride { at, to, later }
        };
        let overrides = overrides.iter().map(|(identity, of)| (identity.clone(), stored(of, &mut owners))).collect();
        Self { v: FORMAT, owners, slots, overrides, nonce, later: Later::new() }
    }

    /// What was read and is not known.
    pub(crate) fn later(&self) -> SlotsLater {
        let some = |later: &Later| Some(later.clone()).filter(|later| !later.is_empty());
        let owners = self.owners.iter().filter_map(|owner| Some((owner.session, some(&owner.later)?)));
        let overrides = self.overrides.iter().filter_map(|(identity, of)| Some((identity.clone(), some(&of.later)?)));
        SlotsLater { document: self.later.clone(), owners: owners.collect(), overrides: overrides.collect() }
    }

    /// With what was read and is not known: of the document, and of owners and overrides that are still in it.
    pub(crate) fn with(mut self, later: &SlotsLater) -> Self {
        self.later = later.document.clone();
        for owner in &mut self.owners {
            owner.later = later.owners.get(&owner.session).cloned().unwrap_or_default();
        }
        for (identity, of) in &mut self.overrides {
            of.later = later.overrides.get(identity).cloned().unwrap_or_default();
        }
        self
    }

    pub(crate) fn write(&self) -> Bytes {
        write(self)
    }
}

fn entry_of(row: &Owner, owners: &mut Vec<StoredOwner>) -> Vec<u64> {
    let known = owners.iter().position(|owner| owner.session == row.session);
    let at = known.unwrap_or_else(|| {
        let (session, dc, ttl_ms) = (row.session, row.data_center.clone(), row.ttl_ms);
        owners.push(StoredOwner { session, dc, ttl_ms, later: Later::new() });
        owners.len() - 1
    });
    let mut entry = vec![at as u64, row.epoch.0];
    entry.extend(row.handed.then_some(1));
    entry.extend(Some(row.offer).filter(|offer| row.handed && *offer > 0));
    entry
}

/// Whether one more identity that is to live elsewhere finds no room beside these.
pub(crate) fn is_full<'a>(
    others: impl Iterator<Item = (&'a str, &'a DataCenterSelector)>,
    identity: &str,
    to: &DataCenterSelector,
) -> bool {
    // As JSON writes them.
    let size = |value: &str, to: &DataCenterSelector| write(&value).len() + write(to).len();
    let (mut count, mut text) = (1, size(identity, to));
    for (other, to) in others {
        count += 1;
        text += size(other, to);
    }
    count > MAX_OVERRIDES || text > MAX_OVERRIDE_TEXT
}

/// `n/<escaped name>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameDocument {
    v: u32,
    name: String,
    kind: String,
    #[serde(with = "base64")]
    args: Bytes,
    policy: Policy,
    pub(crate) session: SessionId,
    pub(crate) dc: DataCenterId,
    /// 0: the revision at which this document was written, above `base`.
    epoch: u64,
    /// The floor of epochs when it was created.
    #[serde(default)]
    base: u64,
    #[serde(default)]
    pub(crate) actor: u64,
    #[serde(default)]
    handed: bool,
    /// Which state goes along; 0 for none.
    #[serde(default)]
    offer: u64,
    /// Of the session.
    #[serde(default)]
    ttl_ms: u64,
    /// Where it was claimed first: where it goes back to.
    #[serde(default)]
    pub(crate) home: Option<DataCenterId>,
    pub(crate) nonce: u64,
    /// Kept by whoever owns it next.
    #[serde(flatten)]
    later: Later,
}

mod base64 {
    use bytes::Bytes;
    use data_encoding::BASE64;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        BASE64.decode(text.as_bytes()).map(Bytes::from).map_err(D::Error::custom)
    }
}

impl NameDocument {
    /// A name that is created: its epoch is the revision that the store gives it, above `base`.
    pub(crate) fn created(
        spec: &NameSpec,
        owner: (SessionId, DataCenterId),
        ttl_ms: u64,
        base: Epoch,
        nonce: u64,
    ) -> Self {
        let home = Some(owner.1.clone());
        Self {
            v: FORMAT,
            name: spec.name.clone(),
            kind: spec.kind.clone(),
            args: spec.args.clone(),
            policy: spec.policy.clone(),
            session: owner.0,
            dc: owner.1,
            epoch: 0,
            base: base.0,
            actor: 0,
            handed: false,
            offer: 0,
            ttl_ms,
            home,
            nonce,
            later: Later::new(),
        }
    }

    /// The same name under another owner or epoch.
    pub(crate) fn owned(&self, owner: &Owner, nonce: u64) -> Self {
        Self {
            session: owner.session,
            dc: owner.data_center.clone(),
            epoch: owner.epoch.0,
            handed: owner.handed,
            offer: owner.offer,
            ttl_ms: owner.ttl_ms,
            actor: 0,
            nonce,
            ..self.clone()
        }
    }

    /// The same claim, with the number of its actor.
    pub(crate) fn with_actor(&self, epoch: Epoch, actor: u64, nonce: u64) -> Self {
        Self { epoch: epoch.0, actor, nonce, ..self.clone() }
    }

    pub(crate) fn read(document: &Document) -> Result<Self, String> {
        let read: Self = read(&document.body)?;
        check_later([&read.later])?;
        check_epoch(read.epoch(document.version))?;
        match document.key.unescape("n") {
            Some(name) if name == read.name => read.spec().check().map_err(|err| err.to_string()).map(|()| read),
            _ => Err(format!("it is that of {:?}", read.name)),
        }
    }

    pub(crate) fn write(&self) -> Bytes {
        write(self)
    }

    pub(crate) fn epoch(&self, version: Version) -> Epoch {
        if self.epoch > 0 { Epoch(self.epoch) } else { Epoch(self.base.saturating_add(version.revision)) }
    }

    pub(crate) fn spec(&self) -> NameSpec {
        let (name, kind) = (self.name.clone(), self.kind.clone());
        NameSpec { name, kind, args: self.args.clone(), policy: self.policy.clone() }
    }

    pub(crate) fn owner(&self, version: Version) -> Owner {
        let data_center = self.dc.clone();
        let (handed, offer, ttl_ms) = (self.handed, self.offer, self.ttl_ms);
        Owner { session: self.session, data_center, epoch: self.epoch(version), handed, offer, ttl_ms }
    }

    pub(crate) fn row(&self, version: Version) -> NameRow {
        NameRow { spec: Arc::new(self.spec()), owner: self.owner(version), actor: self.actor, title: None }
    }
}

/// `k/<kind>`: the group to which a kind belongs, as the first node that served it wrote it. Never written again, so that
/// fields that are not known are passed over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KindDocument {
    v: u32,
    pub(crate) group: GroupId,
    pub(crate) policy: Policy,
}

impl KindDocument {
    pub(crate) fn new(policy: &Policy) -> Self {
        Self { v: FORMAT, group: policy.group(), policy: policy.clone() }
    }

    pub(crate) fn read(body: &[u8]) -> Result<Self, String> {
        let document: Self = read(body)?;
        document.policy.check().map_err(|err| err.to_string()).map(|()| document)
    }

    pub(crate) fn write(&self) -> Bytes {
        write(self)
    }
}

#[cfg(test)]
mod tests;
