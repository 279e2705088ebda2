//! Where things lie in the bucket.
//!
//! A record's key is `<shard>.<shard>.records.<id>`, an intent's
//! `<shard>.<shard>.intents.<id>`, the store's id lies under `meta.store`. The
//! two shard tokens are the hexadecimal digits of a hash of the id: one batched
//! read answers for at most 1,024 keys, so larger buckets are read by shards.
//!
//! The kind and the id are tokens of their own, for NATS grants rights by tokens:
//! `$KV.<bucket>.*.*.intents.>` is what an operator writes, `$KV.<bucket>.*.*.records.<id>`
//! what the nodes of one datacenter write (`docs/stores.md`).
//!
//! The document of ownership under `n/x` lies under `own.<shard>.<shard>.<shard>.n.x`:
//! three shard tokens, since there are many names, and a `.` for each `/`.

use dc_controlplane::{Corrupt, codec, ownership::DocumentKey};
use dc_core::DataCenterId;

/// How many shards a bucket is read in: all at once, or ever smaller shares, up to one for each pair of tokens.
pub(crate) const PAGE_STEPS: [usize; 5] = [1, 4, 16, 64, 256];

/// The same for ownership documents: one for each triple of tokens at last.
pub(crate) const DOCUMENT_STEPS: [usize; 7] = [1, 4, 16, 64, 256, 1_024, 4_096];

/// What keys of documents begin with, before the shards.
const DOCUMENTS: &str = "own.";
/// What begins the keys of documents that are written all the time: sessions. A watch that is shown them too knows
/// at once, not only after an idle while, how far it is, however much else is written.
const SESSIONS: &str = "own.*.*.*.s.>";
/// What keys of records begin with behind the shards; `codec`'s prefixes, but as tokens.
const RECORDS: &str = "records.";
const INTENTS: &str = "intents.";
/// The key that holds the store's id.
pub(crate) const STORE_ID: &str = "meta.store";

const HEX: [&str; 16] = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c", "d", "e", "f"];

/// The subjects of one bucket.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
    stream: String,
}

/// What a subject of the bucket stands for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Store,
    Record(DataCenterId),
    Intent(DataCenterId),
    Document(DocumentKey),
    /// Not ours, or damaged.
    Foreign(Corrupt),
}

impl Keys {
    pub(crate) fn new(bucket: &str) -> Self {
        Self { prefix: format!("$KV.{bucket}."), stream: format!("KV_{bucket}") }
    }

    /// The stream behind the bucket.
    pub(crate) fn stream(&self) -> &str {
        &self.stream
    }

    /// Every key of the bucket.
    pub(crate) fn all(&self) -> String {
        format!("{}>", self.prefix)
    }

    /// What a watch of the records is shown: all records and intents, the store's id, and sessions.
    pub(crate) fn watched(&self) -> Vec<String> {
        let subject = |filter: String| format!("{}{filter}", self.prefix);
        let (records, intents) = (format!("*.*.{RECORDS}>"), format!("*.*.{INTENTS}>"));
        vec![subject(records), subject(intents), subject(SESSIONS.to_owned()), self.store()]
    }

    pub(crate) fn document(&self, key: &DocumentKey) -> String {
        let [high, middle, low] = document_shard(key.as_str());
        format!("{}{DOCUMENTS}{high}.{middle}.{low}.{}", self.prefix, key.as_str().replace('/', "."))
    }

    /// What a watch of the documents under `prefix` is shown: they, perhaps more, and the store's id.
    pub(crate) fn watched_documents(&self, prefix: &str) -> Vec<String> {
        let parts = whole_parts(prefix);
        let documents = match parts.split('.').next() {
            Some("") | None => vec![format!("{}{DOCUMENTS}>", self.prefix)],
            Some("s") => vec![format!("{}{SESSIONS}", self.prefix)],
            Some(_) => {
                vec![format!("{}{DOCUMENTS}*.*.*.{parts}>", self.prefix), format!("{}{SESSIONS}", self.prefix)]
            }
        };
        documents.into_iter().chain([self.store()]).collect()
    }

    /// The subjects of page `page` of `pages` (one of [`DOCUMENT_STEPS`]) of the documents under `prefix`, perhaps with
    /// more; each has the store's id as well.
    pub(crate) fn document_page(&self, prefix: &str, pages: usize, page: usize) -> Vec<String> {
        let parts = whole_parts(prefix);
        let subject = |shards: &str| format!("{}{DOCUMENTS}{shards}.{parts}>", self.prefix);
        let share = |of: usize| page * of / pages..(page + 1) * of / pages;
        let mut subjects: Vec<String> = match pages {
            1 => vec![subject("*.*.*")],
            4 | 16 => share(16).map(|n| subject(&format!("{}.*.*", HEX[n]))).collect(),
            64 | 256 => share(256).map(|n| subject(&format!("{}.{}.*", HEX[n >> 4], HEX[n & 15]))).collect(),
            _ => share(4_096)
                .map(|n| subject(&format!("{}.{}.{}", HEX[n >> 8], HEX[(n >> 4) & 15], HEX[n & 15])))
                .collect(),
        };
        subjects.push(self.store());
        subjects
    }

    /// The document key that `rest`, which follows [`DOCUMENTS`], stands for.
    fn read_document(rest: &str) -> Result<DocumentKey, String> {
        let (Some(shards), Some(key)) = (rest.get(..6), rest.get(6..)) else {
            return Err("no document of ours".to_owned());
        };
        let key: DocumentKey = match key.contains('/') {
            true => return Err("holds a slash".to_owned()),
            false => key.replace('.', "/").parse().map_err(|err: dc_core::Invalid| err.to_string())?,
        };
        let [high, middle, low] = document_shard(key.as_str());
        match shards == format!("{high}.{middle}.{low}.") {
            true => Ok(key),
            false => Err("lies in the wrong shard".to_owned()),
        }
    }

    pub(crate) fn store(&self) -> String {
        format!("{}{STORE_ID}", self.prefix)
    }

    pub(crate) fn record(&self, id: &DataCenterId) -> String {
        self.sharded(RECORDS, id)
    }

    pub(crate) fn intent(&self, id: &DataCenterId) -> String {
        self.sharded(INTENTS, id)
    }

    fn sharded(&self, kind: &str, id: &DataCenterId) -> String {
        let [high, low] = shard(id.as_str());
        format!("{}{high}.{low}.{kind}{id}", self.prefix)
    }

    /// The key as people know it: the subject without the bucket's prefix.
    pub(crate) fn key<'s>(&self, subject: &'s str) -> &'s str {
        subject.strip_prefix(&self.prefix).unwrap_or(subject)
    }

    /// What `subject` stands for.
    pub(crate) fn read(&self, subject: &str) -> Key {
        let key = self.key(subject);
        if key == STORE_ID {
            return Key::Store;
        }
        let foreign = |why: &str| Key::Foreign(Corrupt { key: key.to_owned(), why: why.to_owned() });
        if let Some(rest) = key.strip_prefix(DOCUMENTS) {
            return Self::read_document(rest).map_or_else(|why| foreign(&why), Key::Document);
        }
        let Some((shards, rest)) = key.get(..4).zip(key.get(4..)) else {
            return foreign("no key of ours");
        };
        let (prefix, wrap): (_, fn(DataCenterId) -> Key) = if rest.starts_with(RECORDS) {
            (RECORDS, Key::Record)
        } else if rest.starts_with(INTENTS) {
            (INTENTS, Key::Intent)
        } else {
            return foreign("no key of ours");
        };
        match codec::id_of_key(prefix, rest) {
            Ok(id) => {
                let [high, low] = shard(id.as_str());
                if shards == format!("{high}.{low}.") { wrap(id) } else { foreign("lies in the wrong shard") }
            }
            Err(corrupt) => foreign(&corrupt.why),
        }
    }

    /// The subjects of page `page` of `pages` (one of [`PAGE_STEPS`]). Each has the store's id as well: a page on which
    /// nothing is found would not tell as of when that is.
    pub(crate) fn page(&self, pages: usize, page: usize) -> Vec<String> {
        let mut subjects = match pages {
            // Shares of the 16 first tokens, or of the 256 pairs.
            1 | 4 | 16 => self.share(16 / pages, page, |n| HEX[n].to_owned()),
            _ => self.share(256 / pages, page, |n| format!("{}.{}", HEX[n / 16], HEX[n % 16])),
        };
        subjects.push(self.store());
        subjects
    }

    fn share(&self, size: usize, page: usize, tokens: impl Fn(usize) -> String) -> Vec<String> {
        (page * size..(page + 1) * size).map(|n| format!("{}{}.>", self.prefix, tokens(n))).collect()
    }
}

/// The whole parts that `prefix` ends, as tokens: `n/a` is `n.`, for a token is matched as a whole or not at all.
fn whole_parts(prefix: &str) -> String {
    prefix.rsplit_once('/').map_or_else(String::new, |(parts, _)| format!("{}.", parts.replace('/', ".")))
}

/// FNV-1a, 32 bit: stable for ever, since it decides where a record lies.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// Three digits of the hash, folded to twelve bits.
fn document_shard(key: &str) -> [&'static str; 3] {
    let hash = hash(key);
    let bits = (hash ^ (hash >> 12) ^ (hash >> 24)) as usize & 0xfff;
    [HEX[bits >> 8], HEX[(bits >> 4) & 15], HEX[bits & 15]]
}

/// The hash, folded to one byte.
fn shard(id: &str) -> [&'static str; 2] {
    let hash = hash(id);
    let byte = (hash ^ (hash >> 8) ^ (hash >> 16) ^ (hash >> 24)) as usize & 0xff;
    [HEX[byte >> 4], HEX[byte & 0xf]]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use dc_core::DataCenter;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn garbage_is_foreign_or_writes_back_alike(key in "(own\\.)?([0-9a-f]\\.){0,3}(records\\.|intents\\.|records/|meta\\.store|)[a-z=/.0-9A-F\u{e4}-]{0,12}") {
            let keys = Keys::new("b");
            let subject = format!("$KV.b.{key}");
            match keys.read(&subject) {
                Key::Record(id) => prop_assert_eq!(keys.record(&id), subject),
                Key::Intent(id) => prop_assert_eq!(keys.intent(&id), subject),
                Key::Document(key) => prop_assert_eq!(keys.document(&key), subject),
                Key::Store => prop_assert_eq!(keys.store(), subject),
                Key::Foreign(corrupt) => prop_assert_eq!(corrupt.key, key),
            }
        }
    }

    fn id(name: &str) -> DataCenterId {
        DataCenter::new(name).region("eu").build().unwrap().id().clone()
    }

    /// The rule of NATS: tokens are not empty, `*` and `>` stand alone.
    fn matches(filter: &str, subject: &str) -> bool {
        let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
        loop {
            match (filter.next(), subject.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
        }
    }

    #[test]
    fn keys_read_back() {
        let keys = Keys::new("multidc");
        for name in ["dc-1", "ä b", "x.y/z=*>"] {
            assert_eq!(keys.read(&keys.record(&id(name))), Key::Record(id(name)));
            assert_eq!(keys.read(&keys.intent(&id(name))), Key::Intent(id(name)));
        }
        assert_eq!(keys.read(&keys.store()), Key::Store);
    }

    #[test]
    fn every_key_is_legal_in_nats() {
        let keys = Keys::new("multidc");
        for name in ["dc-1", "ä b", "x.y/z=*>", "."] {
            for subject in [keys.record(&id(name)), keys.intent(&id(name))] {
                let key = keys.key(&subject);
                assert!(key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-/_=.".contains(&b)), "{key}");
                assert!(key.split('.').all(|token| !token.is_empty()), "{key}");
            }
        }
    }

    #[test]
    fn p13_rights_can_be_granted_by_kind_and_by_datacenter() {
        let keys = Keys::new("multidc");
        let (one, other) = (id("dc-1"), id("dc-2"));
        for name in ["dc-1", "ä b", "x.y/z=*>", "."] {
            assert!(matches("$KV.multidc.*.*.intents.>", &keys.intent(&id(name))), "{name}");
            assert!(!matches("$KV.multidc.*.*.intents.>", &keys.record(&id(name))), "{name}");
        }
        let grant = format!("$KV.multidc.*.*.records.{one}");
        assert!(matches(&grant, &keys.record(&one)));
        assert!(!matches(&grant, &keys.record(&other)) && !matches(&grant, &keys.intent(&one)));
        assert!(
            !matches("$KV.multidc.own.>", &keys.record(&one)) && !matches("$KV.multidc.meta.>", &keys.record(&one))
        );
    }

    #[test]
    fn each_key_lies_on_exactly_one_page_of_every_step_and_the_stores_id_on_all() {
        let keys = Keys::new("multidc");
        for pages in PAGE_STEPS {
            for n in 0..200 {
                let subject = keys.record(&id(&format!("dc-{n}")));
                let hits = (0..pages)
                    .flat_map(|page| keys.page(pages, page))
                    .filter(|filter| matches(filter, &subject))
                    .count();
                assert_eq!(hits, 1, "{subject} with {pages} pages");
            }
            for page in 0..pages {
                let stores = keys.page(pages, page).iter().filter(|filter| matches(filter, &keys.store())).count();
                assert_eq!(stores, 1, "page {page} of {pages} always has an answer");
            }
        }
    }

    #[test]
    fn shards_are_spread_and_stay_where_they_are() {
        let used: BTreeSet<_> = (0..4_000).map(|n| shard(&format!("eu/dc-{n}"))).collect();
        assert!(used.len() > 240, "{}", used.len());
        assert_eq!((shard("eu/dc-1"), shard("dc")), (["5", "9"], ["b", "f"]), "stored keys depend on it");
    }

    fn document(text: &str) -> DocumentKey {
        text.parse().unwrap()
    }

    #[test]
    fn o5_documents_read_back_and_lie_on_one_page_of_every_step() {
        let keys = Keys::new("multidc");
        let samples = ["n/a", "n/Ledger=207", "s/00ff", "g/grp/17", "x", "n/a/b/c"].map(document);
        let many = (0..10).map(|n| document(&format!("n/name-{n}")));
        for key in samples.into_iter().chain(many) {
            let subject = keys.document(&key);
            assert_eq!(keys.read(&subject), Key::Document(key.clone()));
            assert!(!matches("$KV.multidc.*.*.records.>", &subject) && !matches("$KV.multidc.*.*.intents.>", &subject));
            let parts: Vec<_> = key.as_str().match_indices('/').map(|(at, _)| &key.as_str()[..=at]).collect();
            for prefix in [""].into_iter().chain(parts).chain([&key.as_str()[..key.as_str().len() - 1]]) {
                let watched = keys.watched_documents(prefix);
                let hits = watched.iter().filter(|filter| matches(filter, &subject)).count();
                assert_eq!(hits, 1, "{subject} under {prefix:?}: {watched:?}");
                for pages in DOCUMENT_STEPS {
                    let filters = (0..pages).flat_map(|page| keys.document_page(prefix, pages, page));
                    let hits = filters.filter(|filter| matches(filter, &subject)).count();
                    assert_eq!(hits, 1, "{subject} under {prefix:?} with {pages} pages");
                }
            }
        }
    }

    #[test]
    fn o5_document_shards_are_spread_and_stay_where_they_are() {
        let used: BTreeSet<_> = (0..40_000).map(|n| document_shard(&format!("n/name-{n}"))).collect();
        assert!(used.len() > 4_000, "{}", used.len());
        assert_eq!(document_shard("n/a"), ["1", "4", "9"], "stored keys depend on it");
    }

    #[test]
    fn strangers_keys_are_foreign_with_a_reason() {
        let keys = Keys::new("b");
        let moved = keys.record(&id("dc-1")).replacen("5.9.", "9.5.", 1);
        for (subject, why) in [
            ("$KV.b.hello", "no key of ours"),
            ("$KV.b.a.b.c.d", "no key of ours"),
            ("$KV.b.ä.b.records.x", "no key of ours"),
            ("$KV.b.0.0.records.", "name"),
            (moved.as_str(), "wrong shard"),
        ] {
            match keys.read(subject) {
                Key::Foreign(corrupt) => assert!(corrupt.why.contains(why), "{subject}: {corrupt}"),
                other => panic!("{subject}: {other:?}"),
            }
        }
    }
}
