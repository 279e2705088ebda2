//! A persistent map from 64-bit hashes: 256 shards, copied one shard at a time.

use std::sync::Arc;

const SHARDS: usize = 256;

type Shard<V> = Arc<[(u64, V)]>;

/// Values by hash; the caller tells apart what shares a hash. Shards are sorted by hash.
#[derive(Clone, Debug)]
pub(super) struct ShardMap<V> {
    shards: Arc<[Option<Shard<V>>; SHARDS]>,
}

impl<V> Default for ShardMap<V> {
    fn default() -> Self {
        Self { shards: Arc::new(std::array::from_fn(|_| None)) }
    }
}

fn shard_of(hash: u64) -> usize {
    (hash >> 56) as usize
}

impl<V> ShardMap<V> {
    /// The value under `hash` that `is_it` recognises.
    pub(super) fn find(&self, hash: u64, is_it: impl Fn(&V) -> bool) -> Option<&V> {
        let shard = self.shards[shard_of(hash)].as_deref()?;
        let at = shard.partition_point(|(other, _)| *other < hash);
        shard[at..].iter().take_while(|(other, _)| *other == hash).map(|(_, value)| value).find(|value| is_it(value))
    }
}

#[cfg(test)]
impl<V> ShardMap<V> {
    /// How many of the shards are shared with `other`.
    pub(super) fn shared_shards(&self, other: &Self) -> usize {
        let same = |one: &Option<Shard<V>>, other: &Option<Shard<V>>| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        self.shards.iter().zip(other.shards.iter()).filter(|(one, other)| same(one, other)).count()
    }

    pub(super) fn shares_all_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shards, &other.shards)
    }
}

impl<V: Clone> ShardMap<V> {
    fn shard_mut(&mut self, hash: u64) -> &mut Option<Shard<V>> {
        &mut Arc::make_mut(&mut self.shards)[shard_of(hash)]
    }

    /// The value under `hash` that `is_it` recognises, for changing it.
    pub(super) fn find_mut(&mut self, hash: u64, is_it: impl Fn(&V) -> bool) -> Option<&mut V> {
        let shard = Arc::make_mut(self.shard_mut(hash).as_mut()?);
        let at = shard.partition_point(|(other, _)| *other < hash);
        shard[at..]
            .iter_mut()
            .take_while(|(other, _)| *other == hash)
            .map(|(_, value)| value)
            .find(|value| is_it(value))
    }

    /// Adds a value. The caller has made sure that it is not there yet.
    pub(super) fn insert(&mut self, hash: u64, value: V) {
        let place = self.shard_mut(hash);
        let mut shard = place.as_deref().unwrap_or_default().to_vec();
        let at = shard.partition_point(|(other, _)| *other <= hash);
        shard.insert(at, (hash, value));
        *place = Some(shard.into());
    }

    /// Removes the value under `hash` that `is_it` recognises.
    pub(super) fn remove(&mut self, hash: u64, is_it: impl Fn(&V) -> bool) {
        let place = self.shard_mut(hash);
        if let Some(shard) = place {
            let rest: Vec<_> = shard.iter().filter(|(other, value)| *other != hash || !is_it(value)).cloned().collect();
            *place = (!rest.is_empty()).then(|| rest.into());
        }
    }
}
