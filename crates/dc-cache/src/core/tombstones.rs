//! What was removed lately, so that late news does not bring it back (C3).

use std::collections::BTreeMap;

use dc_core::{DataCenterId, Version};

/// Versions below which news of a datacenter is late.
///
/// Bounded twice: what is not newer than a complete view of the store is
/// dropped, since anything that old and not in the table is late anyway; and
/// beyond [`LIMIT`](Self::LIMIT) a list is wanted, which gives such a view.
#[derive(Debug, Default)]
pub(super) struct Tombstones(BTreeMap<DataCenterId, Version>);

impl Tombstones {
    /// So many removals between two lists make a list due.
    pub(super) const LIMIT: usize = 1_024;
    /// Never more than this, whatever becomes of the list: the lowest version goes first.
    const MOST: usize = 16_384;

    /// Remembers that what is not newer than `version` is gone; whether a list is due.
    pub(super) fn set(&mut self, id: &DataCenterId, version: Version) -> bool {
        let held = self.0.entry(id.clone()).or_insert(version);
        if held.store != version.store || held.revision < version.revision {
            *held = version;
        }
        if self.0.len() > Self::MOST {
            let oldest = self.0.iter().min_by_key(|(_, version)| version.revision).map(|(id, _)| id.clone());
            if let Some(oldest) = oldest {
                self.0.remove(&oldest);
            }
        }
        self.0.len() >= Self::LIMIT
    }

    /// Whether news of `id` at `version` is late: its removal is newer, or the same.
    pub(super) fn covers(&self, id: &DataCenterId, version: Version) -> bool {
        self.0.get(id).is_some_and(|tomb| tomb.store == version.store && version.revision <= tomb.revision)
    }

    /// Whether a removal of `id` newer than `version` is known.
    pub(super) fn is_after(&self, id: &DataCenterId, version: Version) -> bool {
        self.0.get(id).is_some_and(|tomb| tomb.store == version.store && version.revision < tomb.revision)
    }

    pub(super) fn forget(&mut self, id: &DataCenterId) {
        self.0.remove(id);
    }

    /// The table is complete as of `version`: older tombstones have done their work.
    pub(super) fn complete(&mut self, version: Version) {
        self.0.retain(|_, tomb| tomb.store == version.store && tomb.revision > version.revision);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}
