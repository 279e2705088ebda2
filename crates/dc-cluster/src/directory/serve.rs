//! What a primary, a backup and a host answer.

use std::time::{Duration, Instant};

use dc_core::NodeId;

use super::{
    Entry, Eviction,
    core::{Action, Core, OpId, Purpose, Token},
    wire::{Digest, Framed, Request, Response},
};

/// Questions that may wait at one primary; further ones are told to come again.
const MAX_PARKED: usize = 16_384;
/// Longest wait for the backup's word. Past it the claim stands with two copies: its host's and the primary's.
const BACKUP_WAIT: Duration = Duration::from_millis(300);
/// About how many bytes of entries go into one answer.
const PAGE: usize = 128 << 10;
/// Done requests told to one member, at most.
const SPENT_TOLD: usize = 512;

/// Where an answer goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Origin {
    Remote(Token),
    Local(OpId),
}

/// A question under way at this node.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) from: NodeId,
    pub(super) origin: Origin,
    /// Past it nobody waits for the answer (R4).
    pub(super) deadline: Instant,
    /// The asker's clock when it asked.
    pub(super) reading: u64,
    pub(super) request: Request,
}

/// A name that this node answers for.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) entry: Entry,
    /// When it came here, or was granted last.
    pub(super) since: Instant,
    /// A claim that the backup has not confirmed yet: not granted.
    pub(super) writing: Option<Writing>,
}

#[derive(Debug)]
pub(super) struct Writing {
    pub(super) origin: Origin,
    /// Other claims, which wait for how this one ends.
    pub(super) waiters: Vec<Ask>,
    /// The claimant has given up meanwhile.
    cancelled: bool,
}

impl Slot {
    pub(super) fn new(entry: Entry, since: Instant) -> Self {
        Self { entry, since, writing: None }
    }

    /// The entry, once it is granted.
    fn granted(&self) -> Option<&Entry> {
        self.writing.is_none().then_some(&self.entry)
    }
}

impl Core {
    /// Member `from` asks; it waits for `left` more. Answered by [`Action::Reply`] with `token`.
    pub(crate) fn on_request(
        &mut self,
        now: Instant,
        from: NodeId,
        request: Framed<Request>,
        token: Token,
        left: Duration,
    ) {
        self.clock.observe(now, request.clock);
        let Framed { clock: reading, body: request } = request;
        self.serve(now, Ask { from, origin: Origin::Remote(token), deadline: now + left, reading, request });
    }

    pub(super) fn serve(&mut self, now: Instant, ask: Ask) {
        if now >= ask.deadline {
            return self.reply(now, ask.origin, Response::Busy);
        }
        let from = ask.from;
        let response = match &ask.request {
            Request::Claim(entry) => {
                let entry = entry.clone();
                return self.serve_claim(now, ask, entry);
            }
            Request::Lookup { key, backup } => match self.find(key, *backup) {
                Some(response) => response,
                None => return self.park(now, ask),
            },
            Request::Release { entry, ran } => {
                let (entry, ran) = (entry.clone(), *ran);
                self.serve_release(now, ask.reading, from, entry, ran)
            }
            Request::Replicate(entry) if self.released.after(from, entry, ask.reading) => Response::Done,
            Request::Replicate(entry) => {
                let entry = entry.clone();
                self.keep_copy(now, from, entry)
            }
            Request::Forget { entry, ran } => {
                let (entry, ran) = (entry.clone(), *ran);
                self.released.add(now, from, &entry, ask.reading);
                self.forget(now, entry, ran);
                Response::Done
            }
            Request::Pull { view, digest, after, spent } => {
                self.tell_hosted(from, *view, *digest, after.as_deref(), *spent)
            }
            Request::Evict { lost, kept } => {
                let (lost, kept) = (lost.clone(), kept.clone());
                self.give_up(now, from, lost, kept);
                Response::Done
            }
        };
        self.reply(now, ask.origin, response);
    }

    pub(super) fn reply(&mut self, now: Instant, origin: Origin, response: Response) {
        match origin {
            Origin::Remote(token) => {
                let response = Framed { clock: self.clock.read(now), body: response };
                self.out.push(Action::Reply { token, response });
            }
            Origin::Local(op) => self.answer_op(now, op, Ok(response)),
        }
    }

    /// Keeps a question until hosts have told what they hold.
    fn park(&mut self, now: Instant, ask: Ask) {
        if self.parked.len() >= MAX_PARKED {
            self.reply(now, ask.origin, Response::Busy);
        } else {
            self.parked.push(ask);
        }
    }

    /// Puts what was parked again.
    pub(super) fn unpark(&mut self, now: Instant) {
        for ask in std::mem::take(&mut self.parked) {
            self.serve(now, ask);
        }
    }

    // -- claims ---------------------------------------------------------------------------

    fn serve_claim(&mut self, now: Instant, ask: Ask, mut entry: Entry) {
        if entry.check().is_err() || entry.holder != ask.from {
            return self.reply(now, ask.origin, Response::Refused);
        }
        if self.released.after(ask.from, &entry, ask.reading) {
            // Nobody waits for it any more.
            return self.reply(now, ask.origin, Response::Busy);
        }
        let (primary, backup) = self.homes(&entry.key);
        // A claimant that is no member here may be dead already: its entry would never be asked after.
        if !self.view.joined || primary != Some(self.me) || !self.view.has(entry.holder) {
            return self.reply(now, ask.origin, Response::NotPrimary);
        }
        if !self.settled(&entry.key) {
            return self.park(now, ask);
        }
        if let Some(slot) = self.table.get_mut(&entry.key)
            && let Some(writing) = &mut slot.writing
        {
            if writing.waiters.len() < MAX_PARKED {
                return writing.waiters.push(ask);
            }
            return self.reply(now, ask.origin, Response::Busy);
        }
        if let Some(answer) = self.held_already(&entry) {
            if let Response::Granted(_) = answer
                && let Some(slot) = self.table.get_mut(&entry.key)
            {
                // Again on its way.
                slot.since = now;
            }
            return self.reply(now, ask.origin, answer);
        }
        let given = self.clock.next(now);
        entry.age = if entry.age == 0 { given } else { entry.age };
        // The holder keeps the entry anyway. Where it is the primary or the backup, no third copy is
        // written: with the holder the name goes too, and any other single loss leaves a copy.
        let mut slot = Slot::new(entry.clone(), now);
        let third = backup.filter(|&backup| backup != entry.holder && entry.holder != self.me);
        if third.is_some() {
            slot.writing = Some(Writing { origin: ask.origin, waiters: Vec::new(), cancelled: false });
        }
        self.table.insert(entry.key.clone(), slot);
        match third {
            Some(backup) => {
                let wait = ask.deadline.saturating_duration_since(now).min(BACKUP_WAIT);
                self.call(now, backup, Request::Replicate(entry.clone()), wait, Purpose::Replicate(entry));
            }
            None => self.reply(now, ask.origin, Response::Granted(entry)),
        }
    }

    /// The answer to a claim that must not be granted anew.
    fn held_already(&self, claimed: &Entry) -> Option<Response> {
        let held = self.table.get(&claimed.key).map(|slot| &slot.entry);
        if let Some(held) = held {
            if held.is(claimed) {
                return Some(Response::Granted(held.clone()));
            }
            if claimed.request != 0 && held.request == claimed.request {
                return Some(Response::Same(held.clone()));
            }
        }
        if let Some(done) = self.spent.get(&claimed.key, claimed.request) {
            return Some(Response::Same(done.clone()));
        }
        match held {
            // A host that claims a name does not hold it: what is known of its own is past.
            Some(held) if held.holder != claimed.holder => Some(Response::Taken(held.clone())),
            None if self.table.len() >= self.max_names => Some(Response::Full),
            _ => None,
        }
    }

    /// The backup has answered, or will not: the claim is granted.
    pub(super) fn written(&mut self, now: Instant, entry: &Entry) {
        let Some(slot) = self.table.get_mut(&entry.key).filter(|slot| slot.entry.is(entry)) else { return };
        let Some(writing) = slot.writing.take() else { return };
        if writing.cancelled {
            self.table.remove(&entry.key);
            self.reply(now, writing.origin, Response::Busy);
        } else {
            slot.since = now;
            let granted = Response::Granted(slot.entry.clone());
            self.reply(now, writing.origin, granted);
        }
        for waiter in writing.waiters {
            self.serve(now, waiter);
        }
    }

    fn serve_release(&mut self, now: Instant, reading: u64, from: NodeId, entry: Entry, ran: bool) -> Response {
        if entry.check().is_err() || entry.holder != from {
            return Response::Refused;
        }
        self.released.add(now, from, &entry, reading);
        let (primary, backup) = self.homes(&entry.key);
        if primary == Some(self.me)
            && let Some(backup) = backup.filter(|&backup| backup != from && from != self.me)
        {
            let forget = Request::Forget { entry: entry.clone(), ran };
            self.call(now, backup, forget, BACKUP_WAIT, Purpose::Forget);
        }
        self.forget(now, entry, ran);
        if primary == Some(self.me) { Response::Done } else { Response::NotPrimary }
    }

    fn forget(&mut self, now: Instant, entry: Entry, ran: bool) {
        match self.table.get_mut(&entry.key).filter(|slot| slot.entry.is(&entry)) {
            Some(Slot { writing: Some(writing), .. }) => writing.cancelled = true,
            Some(_) => _ = self.table.remove(&entry.key),
            None => {}
        }
        if ran {
            self.spent.add(now, entry);
        }
    }

    fn keep_copy(&mut self, now: Instant, from: NodeId, entry: Entry) -> Response {
        if entry.check().is_err() || self.table.len() >= self.max_names || !self.view.has(entry.holder) {
            return Response::Refused;
        }
        if self.homes(&entry.key).0 == Some(from) {
            // The primary's word, as this node sees it too.
            self.table.insert(entry.key.clone(), Slot::new(entry, now));
        } else {
            self.merge(now, entry);
        }
        Response::Done
    }

    // -- lookups --------------------------------------------------------------------------

    /// The answer to a lookup; `None` where it must wait.
    fn find(&self, key: &str, as_backup: bool) -> Option<Response> {
        let (primary, backup) = self.homes(key);
        let primary = self.view.joined && primary == Some(self.me);
        let backup = self.view.joined && as_backup && backup == Some(self.me);
        if !primary && !backup {
            return Some(Response::NotPrimary);
        }
        let hit = self.mine.get(key).or_else(|| self.table.get(key).and_then(Slot::granted));
        match hit {
            Some(entry) => Some(Response::Found(Some(entry.clone()))),
            None if !primary => Some(Response::NotPrimary),
            None if self.settled(key) => Some(Response::Found(None)),
            None => None,
        }
    }

    // -- as a host ------------------------------------------------------------------------

    fn tell_hosted(&self, asker: NodeId, view: u64, digest: Digest, after: Option<&str>, with_spent: bool) -> Response {
        if !self.view.joined || view != self.view.id {
            return Response::OtherView;
        }
        let for_asker = |key: &str| {
            let (primary, backup) = self.homes(key);
            primary == Some(asker) || backup == Some(asker)
        };
        let done = || self.spent.iter().filter(|entry| entry.holder == self.me && for_asker(&entry.key)).cloned();
        let spent = if with_spent { done().take(SPENT_TOLD).collect() } else { Vec::new() };
        if after.is_none() {
            let mut mine = Digest::default();
            self.mine.values().filter(|entry| for_asker(&entry.key)).for_each(|entry| mine.add(entry));
            if mine == digest {
                return Response::Unchanged { spent };
            }
        }
        let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let (mut entries, mut size, mut next) = (Vec::<Entry>::new(), 0, None);
        for (key, entry) in self.mine.range::<str, _>((from, std::ops::Bound::Unbounded)) {
            if !for_asker(key) {
                continue;
            }
            if size > PAGE {
                next = entries.last().map(|entry| entry.key.clone());
                break;
            }
            size += entry.size();
            entries.push(entry.clone());
        }
        let spent = if next.is_none() { spent } else { Vec::new() };
        Response::Page { entries, next, spent }
    }

    /// An entry of this node's lost against an older one (A2).
    pub(super) fn give_up(&mut self, now: Instant, from: NodeId, lost: Entry, kept: Entry) {
        if lost.holder != self.me || !kept.outlives(&lost) || kept.check().is_err() {
            return;
        }
        if self.mine.get(&lost.key).is_some_and(|held| held.is(&lost)) {
            self.mine.remove(&lost.key);
            if self.table.get(&lost.key).is_some_and(|slot| slot.entry.is(&lost)) {
                self.table.remove(&lost.key);
                self.merge(now, kept.clone());
            }
            if self.homes(&lost.key).0 != Some(from) {
                // Another answers for the name by now, and may have been told that it is held here.
                self.take_back(now, lost.clone(), false);
            }
            self.out.push(Action::Evicted(Eviction { lost, kept }));
        }
    }
}
