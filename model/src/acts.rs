//! What a node does, and what it makes of answers.

use crate::{
    config::{Config, Plant},
    rules::{Action, after_seeing},
    start::session,
    state::{
        Answer, Ask, Entry, Epoch, Life, Note, Offer, Request, Seen, Session, SessionDoc, State, Title, Version, Watch,
        Why,
    },
};

impl State {
    /// A step of one node.
    pub(crate) fn act(&mut self, config: &Config, number: usize, action: Action) {
        let node = &mut self.nodes[number];
        let (me, title) = (node.open().unwrap_or_default(), node.title);
        match (action, title) {
            (Action::Claim(_), _) => {
                let entry = self.store.entry();
                let epoch = match entry.owner {
                    Some(_) => entry.epoch + 1,
                    None if config.lacks(Plant::EpochRestarts) => 1,
                    None => 0,
                };
                self.write(number, Some(me), epoch, Why::Claim);
            }
            (Action::See(_, place), _) => {
                let seen = self.store.entries[place];
                if let Some(title) = after_seeing(config, node, me, seen) {
                    if title != Title::None {
                        self.note = Some(Note::Recognised);
                    }
                    self.take(config, number, title);
                }
            }
            (Action::Quiesce(_, to), Title::Held { epoch }) => {
                let to = self.nodes[to].open().unwrap_or_default();
                let node = &mut self.nodes[number];
                node.given_up = epoch;
                node.title = Title::Moving { epoch, to, committed: false, ready: false };
            }
            (Action::Offer(_), Title::Moving { epoch, to, ready, .. }) => {
                node.title = Title::Moving { epoch, to, committed: true, ready };
                let memory = node.memory.unwrap_or_default();
                self.send(Offer { from: number, to, epoch: epoch + 1, memory });
            }
            (Action::HandOver(_), Title::Moving { epoch, to, ready, .. }) => {
                node.title = Title::Moving { epoch, to, committed: true, ready };
                let next = if config.lacks(Plant::EpochKept) { epoch } else { epoch + 1 };
                self.write(number, Some(to), next, Why::HandOver);
            }
            (Action::Resume(_), Title::Moving { epoch, .. }) => {
                node.title = Title::Held { epoch };
                node.given_up = epoch - 1;
            }
            (Action::Settle(_), Title::Moving { epoch, .. }) => {
                let next = if config.lacks(Plant::ResumeSameEpoch) { epoch } else { epoch + 1 };
                self.write(number, Some(me), next, Why::Settle);
            }
            (Action::Release(_), Title::Held { epoch } | Title::Releasing { epoch }) => {
                node.given_up = epoch;
                node.title = Title::Releasing { epoch };
                self.write(number, None, 0, Why::Release);
            }
            _ => self.tend(config, number, me, action),
        }
    }

    /// What a node does about sessions, its own and others.
    fn tend(&mut self, config: &Config, number: usize, me: Session, action: Action) {
        let node = &mut self.nodes[number];
        match action {
            Action::Open(_) => {
                let id = match node.session {
                    Life::Opening(id) => id,
                    _ => {
                        node.opened += 1;
                        session(number, node.opened - 1)
                    }
                };
                node.session = Life::Opening(id);
                node.given_up = 0;
                self.ask(number, Ask::Open { id, sent: 0 });
            }
            Action::Renew(_) => {
                if let Life::Open { id, version, .. } = node.session {
                    self.ask(number, Ask::Renew { id, base: version, sent: 0 });
                }
            }
            Action::BuryOwn(_) => {
                if let Life::Lost(id) = node.session {
                    let base = self.store.sessions[usize::from(id)].version();
                    self.ask(number, Ask::Bury { id, base, proved: true });
                }
            }
            Action::Watch(_, id) => {
                if let Some((watch, proof)) = self.after_watching(config, number, id) {
                    let node = &mut self.nodes[number];
                    (node.watch, node.proof) = (watch, proof);
                }
            }
            Action::Bury(_) => {
                if let Some(id) = self.store.entry().owner {
                    let (base, proved) = match node.watch {
                        Some(Watch { session, seen: Seen::Alive(version), .. }) if session == id => {
                            (Some(version), true)
                        }
                        _ => (None, config.lacks(Plant::AbsenceProves)),
                    };
                    self.ask(number, Ask::Bury { id, base, proved });
                }
            }
            _ => self.work(config, number, me, action),
        }
    }

    fn work(&mut self, config: &Config, number: usize, me: Session, action: Action) {
        let node = &mut self.nodes[number];
        let storage = &mut self.storage;
        match (action, node.title) {
            (Action::Activate(_), Title::Held { epoch }) => {
                if !config.lacks(Plant::LoadBeforePresent) {
                    storage.wrong |= epoch == storage.fence.0 && me != storage.fence.1;
                    if epoch < storage.fence.0 {
                        self.note = Some(Note::Fenced);
                        return;
                    }
                    storage.fence = (epoch, me);
                }
                node.memory = Some(storage.value);
            }
            (Action::Start(_), Title::Held { epoch }) => {
                node.work = node.memory.map(|value| (me, epoch, value + 1));
            }
            (Action::Finish(_), _) => {
                let Some((by, epoch, value)) = node.work.take() else { return };
                storage.wrong |= epoch == storage.fence.0 && by != storage.fence.1;
                if epoch < storage.fence.0 {
                    if !config.lacks(Plant::StorageIgnoresEpoch) {
                        self.note = Some(Note::Fenced);
                        return;
                    }
                    storage.wrong = true;
                } else {
                    storage.fence = (epoch, by);
                }
                (storage.value, storage.accepted) = (value, storage.accepted + 1);
                node.memory = node.memory.map(|_| value);
            }
            (Action::Serve(_), _) => {
                node.memory = node.memory.map(|value| value + 1);
                self.acknowledged += 1;
            }
            _ => {}
        }
    }

    /// What a node makes of an answer.
    pub(crate) fn answered(&mut self, config: &Config, request: &Request) {
        let Some(answer) = request.answer else { return };
        match request.ask {
            Ask::Open { id, sent } => self.opened(request.node, id, sent, answer),
            Ask::Renew { id, sent, .. } => self.renewed(config, request.node, id, sent, answer),
            Ask::Bury { id, proved, .. } => self.buried(config, request.node, id, proved, answer),
            Ask::Write { owner, epoch, why, .. } => self.written(config, request.node, owner, epoch, why, answer),
        }
    }

    fn opened(&mut self, number: usize, id: Session, sent: u8, answer: Answer) {
        let life = &mut self.nodes[number].session;
        if *life != Life::Opening(id) {
            return;
        }
        *life = match answer {
            Answer::Accepted(version) => Life::Open { id, version, sent },
            Answer::HasSession(SessionDoc::Alive { version, sent }) => Life::Open { id, version, sent },
            _ => Life::Lost(id),
        };
    }

    fn renewed(&mut self, config: &Config, number: usize, id: Session, sent: u8, answer: Answer) {
        let node = &mut self.nodes[number];
        let Life::Open { id: mine, version: known, sent: before } = node.session else { return };
        if mine != id {
            return;
        }
        let (version, sent) = match answer {
            Answer::Accepted(version) => (version, sent),
            // Its own, whose answer was lost; an older one than it knows shows a store that lost data.
            Answer::HasSession(SessionDoc::Alive { version, sent })
                if version > known || config.lacks(Plant::OldRenewalRecognised) =>
            {
                self.note = Some(Note::Recognised);
                (version, sent)
            }
            _ => {
                node.session = Life::Lost(id);
                node.offered = None;
                self.take(config, number, Title::None);
                return;
            }
        };
        let sent = if config.lacks(Plant::CountFromReceipt) { 0 } else { sent };
        node.session = Life::Open { id, version, sent: sent.min(before) };
        let title = node.title;
        self.take(config, number, title);
    }

    fn buried(&mut self, config: &Config, number: usize, id: Session, proved: bool, answer: Answer) {
        let node = &mut self.nodes[number];
        let own = node.session == Life::Lost(id);
        let unproved = Watch { session: id, seen: Seen::Unproved, age: 0 };
        let proved = match answer {
            Answer::Accepted(_) => proved,
            Answer::HasSession(SessionDoc::Tombstone { proved, .. }) => proved,
            Answer::HasSession(SessionDoc::Alive { version, .. }) => {
                node.watch = Some(Watch { session: id, seen: Seen::Alive(version), age: 0 });
                return;
            }
            _ => return,
        };
        if proved || config.lacks(Plant::UnprovedProves) {
            (node.watch, node.proof) = (None, Some(id));
            if own {
                node.session = Life::None;
            }
        } else if node.watch.is_none_or(|watch| (watch.session, watch.seen) != (id, Seen::Unproved)) {
            node.watch = Some(unproved);
        }
    }

    fn written(
        &mut self,
        config: &Config,
        number: usize,
        owner: Option<Session>,
        epoch: Epoch,
        why: Why,
        answer: Answer,
    ) {
        let node = &self.nodes[number];
        let Some(me) = node.open() else { return };
        let claimed = |version: Version| Title::Claimed {
            epoch: if epoch == 0 { version } else { epoch },
            version,
            handed: false,
        };
        let title = match (answer, why) {
            (Answer::Accepted(version), Why::Claim | Why::Settle) if owner == Some(me) => claimed(version),
            (Answer::Accepted(_), Why::HandOver | Why::Release) => Title::None,
            (Answer::HasEntry(stored), _) => match after_refusal(config, node, me, stored) {
                Some(title) => {
                    if title != Title::None {
                        self.note = Some(Note::Recognised);
                    }
                    title
                }
                None => return,
            },
            _ => return,
        };
        self.take(config, number, title);
    }

    /// The title becomes this; or is held at once, where the renewal has come already.
    pub(crate) fn take(&mut self, config: &Config, number: usize, title: Title) {
        let node = &mut self.nodes[number];
        let kept = matches!(node.title, Title::Held { .. } | Title::Moving { .. } | Title::Claimed { .. });
        // What it suspended goes on only under its own next write. Named by others, it owns anew.
        if let (Title::Moving { epoch: before, .. }, Title::Claimed { epoch, handed, .. }) = (node.title, title)
            && (handed || epoch > before + 1)
        {
            node.memory = None;
        }
        node.title = title;
        if title == Title::None {
            node.memory = None;
            return;
        }
        if !kept {
            (node.watch, node.proof) = (None, None);
        }
        let (Title::Claimed { epoch, version, handed }, Life::Open { version: renewed, .. }) = (title, node.session)
        else {
            return;
        };
        if renewed <= version && !config.lacks(Plant::NoRenewalAfterClaim) {
            return;
        }
        node.title = Title::Held { epoch };
        if !config.memory || node.memory.is_some() {
            return;
        }
        match node.offered.take() {
            Some((offered, memory)) if offered == epoch => node.memory = Some(memory),
            _ => {
                node.memory = Some(0);
                // With its node, by contract; but not in a planned move.
                if !handed {
                    self.acknowledged = 0;
                }
            }
        }
    }
}

/// As after a look, and also: what it was about to do, somebody else has made impossible.
fn after_refusal(config: &Config, node: &crate::state::Node, me: Session, stored: Entry) -> Option<Title> {
    if let Some(title) = after_seeing(config, node, me, stored) {
        return Some(title);
    }
    match node.title {
        // A name that is free, or another's.
        Title::Releasing { .. } if stored.owner != Some(me) => Some(Title::None),
        _ => None,
    }
}
