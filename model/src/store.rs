//! The store: compare-and-set on one key, and what goes wrong with it.

use crate::{
    config::{Config, NODES, Plant},
    state::{Answer, Ask, Entry, Life, Seen, Session, SessionDoc, State, Store, Title, Version, Why},
};

impl Store {
    /// Carries the request out, or refuses it and tells what is stored.
    pub fn apply(&mut self, config: &Config, ask: Ask) -> Answer {
        match ask {
            Ask::Open { id, sent } => self.session(id, None, |version| SessionDoc::Alive { version, sent }),
            Ask::Renew { id, base, sent } => {
                self.session(id, Some(base), |version| SessionDoc::Alive { version, sent })
            }
            Ask::Bury { id, base, proved } => {
                self.session(id, base, |version| SessionDoc::Tombstone { version, proved })
            }
            Ask::Write { base, owner, epoch, why } => self.write(config, base, owner, epoch, why),
        }
    }

    fn session(&mut self, id: Session, base: Option<Version>, body: impl FnOnce(Version) -> SessionDoc) -> Answer {
        let place = usize::from(id);
        let stored = self.sessions[place];
        if stored.version() != base {
            return Answer::HasSession(stored);
        }
        self.head += 1;
        self.sessions[place] = body(self.head);
        Answer::Accepted(self.head)
    }

    fn write(&mut self, config: &Config, base: Option<Version>, owner: Option<Session>, epoch: u8, why: Why) -> Answer {
        let stored = self.entry();
        let present = stored.owner.map(|_| stored.version);
        let careless = match why {
            Why::Claim => config.lacks(Plant::UnversionedClaim),
            Why::Release => config.lacks(Plant::UnversionedRelease) && present.is_some(),
            Why::HandOver | Why::Settle => false,
        };
        if present != base && !careless {
            return Answer::HasEntry(stored);
        }
        self.head += 1;
        let epoch = if epoch == 0 && owner.is_some() { self.head } else { epoch };
        self.entries.push(Entry { version: self.head, owner, epoch, handed: why == Why::HandOver });
        if let Some(owner) = owner {
            let (before, by) = self.highest;
            self.fell |= epoch < before || epoch == before && owner != by;
            self.highest = (epoch, owner);
        }
        Answer::Accepted(self.head)
    }

    /// Another entry of the same document was written.
    pub fn bump(&mut self) {
        let entry = self.entry();
        self.head += 1;
        self.entries.push(Entry { version: self.head, ..entry });
    }

    /// All versions that are stored.
    pub fn versions(&mut self, visit: &mut impl FnMut(&mut Version)) {
        visit(&mut self.head);
        for doc in &mut self.sessions {
            if let SessionDoc::Alive { version, .. } | SessionDoc::Tombstone { version, .. } = doc {
                visit(version);
            }
        }
        self.entries.iter_mut().for_each(|entry| visit(&mut entry.version));
    }
}

impl State {
    /// The store comes back as it was. Versions go on from where they were: one number given twice is not modelled.
    ///
    /// What is assumed, as the page says: requests and answers under way are lost with it; who has not yet got its title
    /// notices by the version of its renewal; claimants notice, and watch anew.
    pub fn roll_back(&mut self) {
        let Some(backup) = self.backup.take() else { return };
        let head = self.store.head;
        self.store = *backup;
        self.store.head = head;
        self.rolled_back = Some(0);
        self.requests.clear();
        for node in &mut self.nodes {
            node.watch = None;
            node.proof = None;
            if let Title::Claimed { epoch, .. } = node.title {
                node.title = Title::None;
                node.given_up = node.given_up.max(epoch);
            }
        }
    }

    /// All versions that anyone has in hand, by order and equality of which everything is decided.
    pub fn versions(&mut self, mut visit: impl FnMut(&mut Version)) {
        self.store.versions(&mut visit);
        if let Some(backup) = &mut self.backup {
            backup.versions(&mut visit);
        }
        for node in &mut self.nodes {
            if let Life::Open { version, .. } = &mut node.session {
                visit(version);
            }
            if let Title::Claimed { version, .. } = &mut node.title {
                visit(version);
            }
            if let Some(watch) = &mut node.watch
                && let Seen::Alive(version) = &mut watch.seen
            {
                visit(version);
            }
        }
        for request in &mut self.requests {
            match &mut request.ask {
                Ask::Open { .. } => {}
                Ask::Renew { base, .. } => visit(base),
                Ask::Bury { base, .. } | Ask::Write { base, .. } => {
                    if let Some(base) = base {
                        visit(base);
                    }
                }
            }
            match &mut request.answer {
                Some(Answer::Accepted(version)) => visit(version),
                Some(Answer::HasEntry(entry)) => visit(&mut entry.version),
                Some(Answer::HasSession(SessionDoc::Alive { version, .. } | SessionDoc::Tombstone { version, .. })) => {
                    visit(version);
                }
                Some(Answer::HasSession(SessionDoc::Absent)) | None => {}
            }
        }
    }

    /// The same state without what nobody will use, with the least numbers for versions, and lists in order: two
    /// states that differ in nothing that matters become one.
    pub fn settle(&mut self, config: &Config) {
        self.forget(config);
        if config.versions.is_none() {
            let mut used = [0_u8; 256];
            self.versions(|version| used[usize::from(*version)] = 1);
            let mut next = 0_u8;
            for place in &mut used {
                next += *place;
                *place = next;
            }
            self.versions(|version| *version = used[usize::from(*version)]);
        }
        self.requests.sort_unstable();
        self.offers.sort_unstable();
    }

    fn forget(&mut self, config: &Config) {
        let (oldest, owner) = (config.oldest(), self.store.entry().owner);
        // A write that names a version which is no longer stored is refused whenever it comes.
        let Store { sessions, entries, .. } = &self.store;
        let present = entries.last().and_then(|entry| entry.owner.map(|_| entry.version));
        let careless = config.lacks(Plant::UnversionedClaim) || config.lacks(Plant::UnversionedRelease);
        self.requests.retain(|request| {
            request.waited
                || match request.ask {
                    Ask::Open { .. } | Ask::Bury { base: None, .. } | Ask::Write { base: None, .. } => true,
                    Ask::Renew { id, base, .. } => sessions[usize::from(id)].version() == Some(base),
                    Ask::Bury { id, base, .. } => sessions[usize::from(id)].version() == base,
                    Ask::Write { base, .. } => present == base || careless,
                }
        });
        for node in &mut self.nodes {
            let me = node.open();
            // What it knows of a session that owns nothing it can get to know again.
            if !config.lacks(Plant::AbsenceProves) {
                node.watch = node.watch.filter(|watch| Some(watch.session) == owner && me != owner);
            }
            node.proof = node.proof.filter(|proof| Some(*proof) == owner);
            // Without a title the lease is of no use: one comes with a renewal.
            if let (Title::None, Life::Open { sent, .. }) = (node.title, &mut node.session)
                && !config.lacks(Plant::NoRenewalAfterClaim)
            {
                *sent = oldest;
            }
        }
        // Of old entries, those that a node could take for its own.
        if !config.lacks(Plant::OldEntryBelieved) && !config.lacks(Plant::ResumeOnRead) {
            let last = self.store.entries.len() - 1;
            let nodes = &self.nodes;
            let mut place = 0;
            self.store.entries.retain(|entry| {
                place += 1;
                let useful = |node: &crate::state::Node| {
                    node.open() == entry.owner && node.title == Title::None && entry.epoch > node.given_up
                };
                place > last || entry.owner.is_some() && nodes.iter().any(useful)
            });
        }
        for (id, doc) in self.store.sessions.iter_mut().enumerate() {
            let node = &self.nodes[id % NODES];
            if let SessionDoc::Alive { version, sent } = doc {
                let opening = matches!(node.session, Life::Opening(opening) if usize::from(opening) == id);
                let unacknowledged = matches!(node.session, Life::Open { id: open, version: acknowledged, .. }
                    if usize::from(open) == id && acknowledged != *version);
                if !opening && !unacknowledged {
                    *sent = oldest;
                }
            }
        }
    }

    /// Time passes: one tick.
    pub fn tick(&mut self, config: &Config) {
        let oldest = config.oldest();
        let older = |age: &mut u8| *age = (*age + 1).min(oldest);
        let older_docs = |store: &mut Store| {
            for doc in &mut store.sessions {
                if let SessionDoc::Alive { sent, .. } = doc {
                    older(sent);
                }
            }
        };
        older_docs(&mut self.store);
        if let Some(backup) = &mut self.backup {
            older_docs(backup);
        }
        for number in 0..NODES {
            let node = &mut self.nodes[number];
            if let Life::Open { sent, .. } = &mut node.session {
                older(sent);
            }
            if let Some(watch) = &mut node.watch {
                watch.age = (watch.age + 1).min(config.silence_ticks(number));
            }
        }
        for request in &mut self.requests {
            if let Ask::Open { sent, .. } | Ask::Renew { sent, .. } = &mut request.ask {
                older(sent);
            }
            if let Some(Answer::HasSession(SessionDoc::Alive { sent, .. })) = &mut request.answer {
                older(sent);
            }
        }
        if let Some(age) = &mut self.rolled_back {
            older(age);
        }
    }
}
