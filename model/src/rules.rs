//! Who may do what, when: the rules of the page, each step as an action that may be taken at any time it is allowed.
//!
//! No node is ever made to act: standing still for any time and acting late are among the orders that are tried.
//! Reads are not requests here. A read that is old is one that was made earlier and used late; where a rule uses what a
//! read shows, any state that there ever was may be the one shown.

use crate::{
    config::{Config, NODES, Plant},
    state::{
        Ask, Entry, Epoch, Life, Node, Offer, Request, Seen, Session, SessionDoc, State, Title, Watch, Why, node_of,
    },
};

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// A tick passes for all.
    Tick,
    /// The store drops a session's document.
    Drop(Session),
    /// A neighbour's entry in the document is written.
    Bump,
    /// The store is as it will come back.
    BackUp,
    /// It comes back so.
    RollBack,
    /// The store carries a request out.
    Apply(usize),
    /// Its answer arrives.
    Answer(usize),
    /// Its sender waits no more; a request may yet be applied (`true`), or was lost, as an answer is.
    GiveUp(usize, bool),
    /// A node's process dies, and a new one is there.
    Crash(usize),
    /// Opens a session.
    Open(usize),
    /// Renews it.
    Renew(usize),
    /// Buries its own lost session.
    BuryOwn(usize),
    /// Looks at a session.
    Watch(usize, Session),
    /// Buries the session that it watched.
    Bury(usize),
    /// Claims.
    Claim(usize),
    /// Sees the entry as it was at some time.
    See(usize, usize),
    /// Presents its epoch to storage and loads its state.
    Activate(usize),
    /// Checks the title and starts a piece of work.
    Start(usize),
    /// It has its effect.
    Finish(usize),
    /// Checks the title, changes state in memory, checks again and answers.
    Serve(usize),
    /// Stops work in order to hand over to that node.
    Quiesce(usize, usize),
    /// Sends state along.
    Offer(usize),
    /// It arrives.
    Offered(usize),
    /// Writes the new owner.
    HandOver(usize),
    /// Gives the move up before anything was sent.
    Resume(usize),
    /// Gives the move up by a write.
    Settle(usize),
    /// Lets a name go.
    Release(usize),
}

impl State {
    /// Whether this node would start work now.
    pub fn serves(&self, config: &Config, number: usize) -> bool {
        let node = &self.nodes[number];
        match (node.title, node.session) {
            (Title::Held { .. }, Life::Open { sent, .. }) => config.available || sent < config.lease_ticks(number),
            _ => false,
        }
    }

    /// Whether this node may claim what that session owns.
    fn may_claim(&self, config: &Config, number: usize, from: Session) -> bool {
        let node = &self.nodes[number];
        let silent = |seen: fn(Seen) -> bool| {
            node.watch.is_some_and(|watch| {
                watch.session == from && seen(watch.seen) && watch.age >= config.silence_ticks(number)
            })
        };
        node.proof == Some(from)
            || silent(|seen| seen == Seen::Unproved)
            || config.lacks(Plant::NoTombstone) && silent(|seen| matches!(seen, Seen::Alive(_)))
    }

    fn waits(&self, number: usize) -> bool {
        self.requests.iter().any(|request| request.node == number && request.waited)
    }

    /// Every step that may be taken now.
    pub fn actions(&self, config: &Config, actions: &mut Vec<Action>) {
        actions.push(Action::Tick);
        self.faults(config, actions);
        let ghosts = self.requests.iter().filter(|request| !request.waited).count();
        for (place, request) in self.requests.iter().enumerate() {
            // Equal ones are one: the first stands for both.
            if place > 0 && self.requests[place - 1] == *request {
                continue;
            }
            match request.answer {
                None => actions.push(Action::Apply(place)),
                Some(_) => actions.push(Action::Answer(place)),
            }
            if request.waited {
                // Lost on its way, it is as if it had not been sent.
                if request.answer.is_some() {
                    actions.push(Action::GiveUp(place, false));
                }
                if request.answer.is_none() && ghosts < config.ghosts {
                    actions.push(Action::GiveUp(place, true));
                }
            }
        }
        actions.extend((0..self.offers.len()).map(Action::Offered));
        for number in (0..NODES).filter(|number| config.active[*number]) {
            self.actions_of(config, number, actions);
        }
    }

    fn faults(&self, config: &Config, actions: &mut Vec<Action>) {
        if self.left.drops > 0 {
            let there = self.store.sessions.iter().enumerate().filter(|(_, doc)| **doc != SessionDoc::Absent);
            // As many as NODES x sessions.
            actions.extend(there.map(|(id, _)| Action::Drop(id as Session)));
        }
        if self.left.bumps > 0 {
            actions.push(Action::Bump);
        }
        if config.rollback && self.rolled_back.is_none() {
            actions.push(if self.backup.is_none() { Action::BackUp } else { Action::RollBack });
        }
        if self.left.crashes > 0 {
            actions.extend((0..NODES).filter(|number| config.active[*number]).map(Action::Crash));
        }
    }

    fn actions_of(&self, config: &Config, number: usize, actions: &mut Vec<Action>) {
        let (node, entry) = (&self.nodes[number], self.store.entry());
        let free = !self.waits(number);
        self.session_actions(config, number, actions);
        if let Some((_, epoch, _)) = node.work {
            debug_assert!(epoch > 0);
            actions.push(Action::Finish(number));
        }
        let Some(me) = node.open() else { return };
        self.takeover(config, number, me, actions);
        for (place, seen) in self.store.entries.iter().enumerate() {
            if after_seeing(config, node, me, *seen).is_some() {
                actions.push(Action::See(number, place));
            }
        }
        match node.title {
            Title::Held { .. } if self.serves(config, number) => {
                if config.storage && self.storage.accepted < config.effects {
                    match (node.memory, node.work) {
                        (None, _) => actions.push(Action::Activate(number)),
                        (Some(_), None) => actions.push(Action::Start(number)),
                        _ => {}
                    }
                }
                if config.memory && self.acknowledged < config.effects {
                    actions.push(Action::Serve(number));
                }
                let others = (0..NODES).filter(|to| *to != number && config.active[*to]);
                if config.moves && free && node.work.is_none() && entry.epoch < config.epochs {
                    let alive = others.filter(|to| self.nodes[*to].open().is_some());
                    actions.extend(alive.map(|to| Action::Quiesce(number, to)));
                }
                if config.names && free && node.work.is_none() {
                    actions.push(Action::Release(number));
                }
            }
            Title::Moving { epoch, committed, ready, .. } if free => {
                let mine = entry.owner == Some(me) && entry.epoch == epoch;
                if !committed {
                    actions.push(Action::Resume(number));
                }
                if config.memory && !committed {
                    actions.push(Action::Offer(number));
                }
                if mine && (ready || !config.memory) {
                    actions.push(Action::HandOver(number));
                }
                if mine && committed {
                    actions.push(Action::Settle(number));
                }
            }
            Title::Releasing { epoch } if free && entry.owner == Some(me) && entry.epoch == epoch => {
                actions.push(Action::Release(number));
            }
            _ => {}
        }
    }

    fn session_actions(&self, config: &Config, number: usize, actions: &mut Vec<Action>) {
        let node = &self.nodes[number];
        let free = !self.waits(number);
        match node.session {
            Life::None | Life::Lost(_) if free && node.opened < config.sessions => actions.push(Action::Open(number)),
            Life::Opening(_) if free => actions.push(Action::Open(number)),
            // Nobody watches a session that owns nothing; twice in a tick is once, but after a claim.
            Life::Open { sent, .. }
                if free && node.title != Title::None && (sent > 0 || matches!(node.title, Title::Claimed { .. })) =>
            {
                actions.push(Action::Renew(number));
            }
            _ => {}
        }
        if let Life::Lost(_) = node.session
            && free
        {
            actions.push(Action::BuryOwn(number));
        }
    }

    fn takeover(&self, config: &Config, number: usize, me: Session, actions: &mut Vec<Action>) {
        let (node, entry) = (&self.nodes[number], self.store.entry());
        if node.title != Title::None {
            return;
        }
        let free = !self.waits(number);
        let Some(owner) = entry.owner else {
            if free && entry.version < config.versions.unwrap_or(u8::MAX) {
                actions.push(Action::Claim(number));
            }
            return;
        };
        if owner == me || entry.epoch >= config.epochs {
            return;
        }
        if free && self.may_claim(config, number, owner) {
            actions.push(Action::Claim(number));
            return;
        }
        if self.after_watching(config, number, owner).is_some() {
            actions.push(Action::Watch(number, owner));
        }
        if config.lacks(Plant::AbsenceProves) {
            // An old read: absent, as it was before it was opened.
            let early = (0..self.store.sessions.len() as Session).filter(|id| *id != owner && node_of(*id) != number);
            actions.extend(
                early
                    .filter(|id| self.after_watching(config, number, *id).is_some())
                    .map(|id| Action::Watch(number, id)),
            );
        }
        let stored = self.store.sessions[usize::from(owner)];
        let silent = node.watch.is_some_and(|watch| {
            watch.session == owner
                && watch.age >= config.silence_ticks(number)
                && (matches!(watch.seen, Seen::Alive(_))
                    || watch.seen == Seen::Absent && config.lacks(Plant::AbsenceProves))
        });
        let absent = stored == SessionDoc::Absent && !config.lacks(Plant::AbsenceProves);
        if free && (silent || absent) {
            actions.push(Action::Bury(number));
        }
    }

    /// What this node knows after it looked at that session now; `None`: what it knew before.
    pub(crate) fn after_watching(
        &self,
        config: &Config,
        number: usize,
        id: Session,
    ) -> Option<(Option<Watch>, Option<Session>)> {
        let node = &self.nodes[number];
        let seen = match self.store.sessions[usize::from(id)] {
            SessionDoc::Alive { version, .. } => Seen::Alive(version),
            SessionDoc::Tombstone { proved: true, .. } => return Some((None, Some(id))),
            SessionDoc::Tombstone { proved: false, .. } if config.lacks(Plant::UnprovedProves) => {
                return Some((None, Some(id)));
            }
            SessionDoc::Tombstone { proved: false, .. } => Seen::Unproved,
            SessionDoc::Absent if config.lacks(Plant::TrustAbsence) => return Some((None, Some(id))),
            SessionDoc::Absent if config.lacks(Plant::AbsenceProves) => Seen::Absent,
            SessionDoc::Absent => return None,
        };
        let same = node.watch.is_some_and(|watch| watch.session == id && watch.seen == seen);
        (!same).then_some((Some(Watch { session: id, seen, age: 0 }), node.proof))
    }

    /// Carries a step out that `actions` told of.
    pub fn step(&mut self, config: &Config, action: Action) {
        self.note = None;
        match action {
            Action::Tick => self.tick(config),
            Action::Drop(id) => {
                self.left.drops -= 1;
                self.store.sessions[usize::from(id)] = SessionDoc::Absent;
            }
            Action::Bump => {
                self.left.bumps -= 1;
                self.store.bump();
            }
            Action::BackUp => self.backup = Some(Box::new(self.store.clone())),
            Action::RollBack => self.roll_back(),
            Action::Apply(place) => {
                let answer = self.store.apply(config, self.requests[place].ask);
                if self.requests[place].waited {
                    self.requests[place].answer = Some(answer);
                } else {
                    self.requests.remove(place);
                }
            }
            Action::Answer(place) => {
                let request = self.requests.remove(place);
                self.answered(config, &request);
            }
            Action::GiveUp(place, stays) => {
                if stays {
                    self.requests[place].waited = false;
                } else {
                    self.requests.remove(place);
                }
            }
            Action::Crash(number) => self.crash(number),
            Action::Offered(place) => {
                let offer = self.offers.remove(place);
                let to = &mut self.nodes[node_of(offer.to)];
                let late = to.offered.is_some_and(|(epoch, _)| offer.epoch < epoch);
                if to.open() == Some(offer.to) && (!late || config.lacks(Plant::LateOfferDisplaces)) {
                    to.offered = Some((offer.epoch, offer.memory));
                    if let Title::Moving { epoch, to, ready, .. } = &mut self.nodes[offer.from].title
                        && *to == offer.to
                        && *epoch + 1 == offer.epoch
                    {
                        *ready = true;
                    }
                }
            }
            Action::Open(number)
            | Action::Renew(number)
            | Action::BuryOwn(number)
            | Action::Watch(number, _)
            | Action::Bury(number)
            | Action::Claim(number)
            | Action::See(number, _)
            | Action::Activate(number)
            | Action::Start(number)
            | Action::Finish(number)
            | Action::Serve(number)
            | Action::Quiesce(number, _)
            | Action::Offer(number)
            | Action::HandOver(number)
            | Action::Resume(number)
            | Action::Settle(number)
            | Action::Release(number) => self.act(config, number, action),
        }
        self.settle(config);
    }

    fn crash(&mut self, number: usize) {
        self.left.crashes -= 1;
        // What was sent is on its way; answers find nobody.
        self.requests.retain(|request| request.node != number || request.answer.is_none());
        for request in self.requests.iter_mut().filter(|request| request.node == number) {
            request.waited = false;
        }
        let opened = self.nodes[number].opened;
        self.nodes[number] = Node {
            session: Life::None,
            opened,
            title: Title::None,
            given_up: 0,
            watch: None,
            proof: None,
            work: None,
            memory: None,
            offered: None,
        };
    }

    /// Puts a request on its way.
    pub(crate) fn ask(&mut self, node: usize, ask: Ask) {
        self.requests.push(Request { node, waited: true, ask, answer: None });
    }

    /// Puts a write of the entry on its way.
    pub(crate) fn write(&mut self, node: usize, owner: Option<Session>, epoch: Epoch, why: Why) {
        let entry = self.store.entry();
        let base = entry.owner.map(|_| entry.version);
        self.ask(node, Ask::Write { base, owner, epoch, why });
    }

    /// Puts state on its way.
    pub(crate) fn send(&mut self, offer: Offer) {
        self.offers.push(offer);
    }
}

/// The title after the node saw this entry, at whatever time it was so; `None`: it learns nothing.
pub(crate) fn after_seeing(config: &Config, node: &Node, me: Session, seen: Entry) -> Option<Title> {
    let mine = seen.owner == Some(me);
    let claimed = Title::Claimed { epoch: seen.epoch, version: seen.version, handed: seen.handed };
    match node.title {
        Title::None => {
            (mine && (seen.epoch > node.given_up || config.lacks(Plant::OldEntryBelieved))).then_some(claimed)
        }
        Title::Moving { epoch, committed, .. } => match seen.epoch > epoch {
            true if mine => Some(claimed),
            true => Some(Title::None),
            false => (mine && committed && config.lacks(Plant::ResumeOnRead)).then_some(Title::Held { epoch }),
        },
        // A name's epoch is at most its version: what is free above that was let go after it.
        Title::Releasing { epoch } => {
            (!mine && (seen.epoch > epoch || seen.owner.is_none() && seen.version > epoch)).then_some(Title::None)
        }
        Title::Claimed { .. } | Title::Held { .. } => None,
    }
}
