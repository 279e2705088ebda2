//! Carries out what the core decides: requests, orders, answers. One task for each node, and one for its watch.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use dc_controlplane::{
    Error,
    ownership::{Keep, MAX_TOGETHER, OwnershipStore, Swap, Write},
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

use crate::{
    core::{Answer, Ask, Core, Effect, Input, Op, OpDone, OrderOut, Outcome, Request, Setup, Update, Written},
    drain::Progress,
    error::OwnershipError,
    event::OwnershipEvent,
    handle::{Command, Parts, Shared, Transfer},
    order::{Order, Quiesced, Thing},
    session::Holder,
    title::Title,
    watching,
};

/// The most that is taken in before what came of it is carried out.
const BATCH: usize = 256;
/// Waits are no longer than this: timers stand still while the machine sleeps, leases do not.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

enum Reply {
    Claim(oneshot::Sender<Result<Title, OwnershipError>>),
    Plain(oneshot::Sender<Result<(), OwnershipError>>),
    Stop(oneshot::Sender<()>),
}

struct Driver {
    /// How many writes the store takes together.
    at_once: usize,
    core: Core,
    store: Arc<dyn OwnershipStore>,
    transfer: Arc<dyn Transfer>,
    shared: Arc<Shared>,
    orders: mpsc::UnboundedSender<Order>,
    work: FuturesUnordered<BoxFuture<'static, Input>>,
    /// Writes that are asked for together.
    batches: FuturesUnordered<BoxFuture<'static, Vec<Input>>>,
    /// Writes that may go together with others of the same turn.
    waiting: Vec<(u64, Write)>,
    watches: JoinSet<()>,
    seen: mpsc::Sender<Input>,
    replies: HashMap<u64, Reply>,
    progress: HashMap<u64, watch::Sender<Progress>>,
    ops: u64,
    stop_at: Option<Instant>,
    stopped: bool,
}

pub(crate) async fn run(
    parts: Parts,
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    orders: mpsc::UnboundedSender<Order>,
) {
    for warning in parts.options.warnings() {
        tracing::warn!("{warning}");
    }
    let (seen, showing) = mpsc::channel(1_024);
    let (documents, plant) = (parts.options.documents(), parts.options.plant());
    let setup = Setup {
        me: parts.me,
        kinds: parts.kinds,
        placeable: parts.placeable,
        options: parts.options,
        clock: Arc::clone(&parts.clock),
        seed: parts.seed,
        documents,
        plant,
    };
    let now = parts.clock.now();
    let at_once = parts.store.at_once();
    let driver = Driver {
        at_once,
        core: Core::new(setup, now),
        store: parts.store,
        transfer: parts.transfer,
        shared,
        orders,
        work: FuturesUnordered::new(),
        batches: FuturesUnordered::new(),
        waiting: Vec::new(),
        watches: JoinSet::new(),
        seen,
        replies: HashMap::new(),
        progress: HashMap::new(),
        ops: 0,
        stop_at: None,
        stopped: false,
    };
    driver.run(commands, showing).await;
}

impl Driver {
    async fn run(mut self, mut commands: mpsc::UnboundedReceiver<Command>, mut showing: mpsc::Receiver<Input>) {
        loop {
            let now = self.now();
            // Before anything else: leases end here, also when this task, or the machine, stood still.
            self.core.tick(now);
            self.carry_out();
            if self.stopped || self.stop_at.is_some_and(|at| at <= now) {
                break;
            }
            let next = self.core.deadline().into_iter().chain(self.stop_at).min();
            let wait = next.map_or(LONGEST_WAIT, |next| next.saturating_duration_since(now).min(LONGEST_WAIT));
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(command) => self.command(command),
                    None => break,
                },
                Some(input) = self.work.next(), if !self.work.is_empty() => {
                    self.put(input);
                }
                Some(inputs) = self.batches.next(), if !self.batches.is_empty() => {
                    inputs.into_iter().for_each(|input| self.put(input));
                }
                Some(input) = showing.recv() => self.put(input),
                // At least a millisecond, the timer's grain: a clock that stands a little behind it must not make us spin.
                () = tokio::time::sleep(wait.max(Duration::from_millis(1))) => {}
            }
            // Whatever else is there comes in before anything is carried out: what goes to the store then goes together.
            for _ in 0..BATCH {
                match self.work.next().now_or_never() {
                    Some(Some(input)) => self.put(input),
                    Some(None) | None => break,
                }
            }
            while let Some(Some(inputs)) = self.batches.next().now_or_never() {
                inputs.into_iter().for_each(|input| self.put(input));
            }
            for _ in 0..BATCH {
                match showing.try_recv() {
                    Ok(input) => self.put(input),
                    Err(_) => break,
                }
            }
            for _ in 0..BATCH {
                match commands.try_recv() {
                    Ok(command) => self.command(command),
                    Err(_) => break,
                }
            }
        }
        // Whoever still holds a title must not believe in it.
        if let Some(present) = self.shared.present.swap(None) {
            present.0.end();
        }
    }

    fn now(&self) -> Instant {
        self.shared.clock.now()
    }

    fn put(&mut self, input: Input) {
        let input = match input {
            Input::Answered { token, answer: Answer::Quiesced(Some(state)) } => self.with_unclaimed(token, state),
            other => other,
        };
        let now = self.now();
        self.core.put(input, now);
    }

    /// State that came along with a slot and was not asked for yet goes along again.
    fn with_unclaimed(&self, token: u64, mut state: Vec<(String, Bytes)>) -> Input {
        if let Some((thing, epoch)) = self.core.quiescing(token) {
            for (identity, kept) in self.shared.parcels.lock().rest(&thing, epoch) {
                if !state.iter().any(|(known, _)| *known == identity) {
                    state.push((identity, kept));
                }
            }
        }
        Input::Answered { token, answer: Answer::Quiesced(Some(state)) }
    }

    fn op(&mut self, reply: Reply) -> u64 {
        self.ops += 1;
        self.replies.insert(self.ops, reply);
        self.ops
    }

    fn command(&mut self, command: Command) {
        let input = match command {
            Command::Claim { spec, reply } => {
                let op = self.op(Reply::Claim(reply));
                Input::Asked { op, ask: Op::Claim(spec) }
            }
            Command::Release { name, epoch, reply } => {
                let op = self.op(Reply::Plain(reply));
                Input::Asked { op, ask: Op::Release(name, epoch) }
            }
            Command::Relocate { thing, to, reply } => {
                let op = self.op(Reply::Plain(reply));
                Input::Asked { op, ask: Op::Relocate(thing, to) }
            }
            Command::Place { thing, to, reply } => {
                let op = self.op(Reply::Plain(reply));
                Input::Asked { op, ask: Op::Place(thing, to) }
            }
            Command::Stop { reply } => {
                let op = self.op(Reply::Stop(reply));
                self.stop_at = Some(self.now() + self.shared.options.request_timeout());
                Input::Asked { op, ask: Op::Stop }
            }
            Command::NoteActor { name, epoch, actor } => Input::NoteActor { name, epoch, actor },
            Command::Hint { thing, heard } => Input::Hint { thing, heard },
            Command::SetFloor(floor) => Input::SetFloor(floor),
            Command::SetTaking(taking) => Input::SetTaking(taking),
            Command::WaitToBeTold => Input::WaitToBeTold,
            Command::Told(as_of) => Input::Told(as_of),
            Command::Drain { number, options, progress } => {
                self.progress.insert(number, progress);
                Input::Drain { number, options }
            }
            Command::AbortDrain { number } => Input::AbortDrain { number },
        };
        self.put(input);
    }

    fn carry_out(&mut self) {
        loop {
            let effects = self.core.take_effects();
            if effects.is_empty() {
                break;
            }
            let updated = effects.iter().any(|effect| matches!(effect, Effect::Update(_) | Effect::Present(_)));
            // What others see of the table comes first, so that an order finds its title there.
            for effect in effects {
                self.effect(effect);
            }
            if updated {
                self.shared.turns.fetch_add(1, Ordering::AcqRel);
                self.shared.generation.send_modify(|generation| *generation = generation.wrapping_add(1));
            }
        }
        self.send_waiting();
        *self.shared.stats.lock() = self.core.stats();
        self.shared.floor.store(self.core.remembered_floor().0, Ordering::Release);
        let waits = self.core.waits_since();
        self.shared.waits.send_if_modified(|since| std::mem::replace(since, waits) != waits);
    }

    fn effect(&mut self, effect: Effect) {
        match effect {
            // Renewals, which are not kept for ever, wait for nothing else.
            Effect::Send(Request { id, key, ask: Ask::Write { expected, body, keep: Keep::Forever } })
                if self.at_once > 1 =>
            {
                self.waiting.push((id, Write { key, expected, body }));
            }
            Effect::Send(request) => self.send(request),
            Effect::Watch { generation } => {
                self.watches.abort_all();
                let (store, seen) = (Arc::clone(&self.store), self.seen.clone());
                let timeout = self.shared.options.request_timeout();
                self.watches.spawn(watching::follow(store, generation, timeout, seen));
            }
            Effect::Order(order) => self.order(order),
            Effect::Offer { token, to, thing, epoch, state } if self.core.session() == Some(to.session) => {
                let answer = Answer::Offered(self.shared.offered(thing, epoch, state));
                self.work.push(Box::pin(std::future::ready(Input::Answered { token, answer })));
            }
            Effect::Offer { token, to, thing, epoch, state } => {
                let (transfer, timeout) = (Arc::clone(&self.transfer), self.shared.options.move_timeout());
                self.work.push(Box::pin(async move {
                    let offer = transfer.offer(&to, &thing, epoch, state);
                    let answer = tokio::time::timeout(timeout, offer).await;
                    let answer = answer.unwrap_or_else(|_| Err(format!("its state was not sent within {timeout:?}")));
                    Input::Answered { token, answer: Answer::Offered(answer) }
                }));
            }
            Effect::Done(op, done) => self.done(op, done),
            Effect::Present(present) => self.shared.present.store(present.map(Arc::new)),
            Effect::Ready => _ = self.shared.ready.send_replace(true),
            Effect::Update(Update::Sessions(sessions)) => self.shared.table.set_sessions(sessions),
            Effect::Update(Update::Slots(group, number, rows)) => self.shared.table.set_slots(group, number, rows),
            Effect::Update(Update::Name(name, row)) => self.shared.table.set_name(&name, row),
            // Nobody need listen.
            Effect::Changed(change) => _ = self.shared.changes.send(change),
            Effect::Event(event) => {
                log(&event);
                let _ = self.shared.events.send(event);
            }
            Effect::Progress(number, progress) => {
                if let Some(sender) = self.progress.get(&number) {
                    sender.send_replace(progress);
                }
                if progress.end.is_some() {
                    self.progress.remove(&number);
                }
            }
            Effect::RefusedKinds(kinds) => *self.shared.refused_kinds.lock() = kinds,
            Effect::Arrived(thing, epoch, offer) => self.shared.parcels.lock().arrived(&thing, epoch, offer),
        }
    }

    fn send(&mut self, request: Request) {
        let (store, timeout) = (Arc::clone(&self.store), self.shared.options.request_timeout());
        let (shared, sent) = (Arc::clone(&self.shared), self.now());
        self.work.push(Box::pin(async move {
            let id = request.id;
            let renews = matches!(request.ask, Ask::Write { keep: Keep::For(_), .. });
            let answer = tokio::time::timeout(timeout, perform(&*store, request)).await;
            let result = answer.unwrap_or(Written::Failed(Outcome::Unknown));
            if renews {
                let took_ms = shared.clock.now().saturating_duration_since(sent).as_millis();
                let accepted = matches!(result, Written::Done(_));
                tracing::debug!(took_ms, accepted, "a session was written");
            }
            Input::Written { request: id, result }
        }));
    }

    /// Sends the writes of this turn, as many together as the store takes.
    fn send_waiting(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting).into_iter().peekable();
        while let Some((id, write)) = waiting.next() {
            let mut bytes = write.body.len();
            let (mut ids, mut writes) = (vec![id], vec![write]);
            while writes.len() < self.at_once
                && let Some((id, write)) = waiting.next_if(|(_, next)| bytes + next.body.len() <= MAX_TOGETHER)
            {
                bytes += write.body.len();
                ids.push(id);
                writes.push(write);
            }
            if let (&[id], [_]) = (&ids[..], &writes[..]) {
                let write = writes.remove(0);
                let ask = Ask::Write { expected: write.expected, body: write.body, keep: Keep::Forever };
                self.send(Request { id, key: write.key, ask });
                continue;
            }
            let (store, timeout) = (Arc::clone(&self.store), self.shared.options.request_timeout());
            self.batches.push(Box::pin(async move {
                let answer = tokio::time::timeout(timeout, store.compare_and_set_all(writes)).await;
                let written = |(request, result)| Input::Written { request, result };
                match answer {
                    Ok(Ok(swaps)) if swaps.len() == ids.len() => {
                        ids.into_iter().zip(swaps.into_iter().map(|swap| swapped(Ok(swap)))).map(written).collect()
                    }
                    Ok(Err(error)) => {
                        let failed = swapped(Err(error));
                        ids.into_iter().map(|id| written((id, failed.clone()))).collect()
                    }
                    Ok(Ok(_)) | Err(_) => {
                        ids.into_iter().map(|id| written((id, Written::Failed(Outcome::Unknown)))).collect()
                    }
                }
            }));
        }
    }

    fn order(&mut self, order: OrderOut) {
        let order = match order {
            OrderOut::SessionLost { session } => {
                self.shared.parcels.lock().clear();
                Order::SessionLost { session }
            }
            OrderOut::Lost { thing, held } => {
                self.shared.parcels.lock().drop_up_to(&thing, held);
                Order::Lost { thing, held }
            }
            OrderOut::Moved { thing, to } => {
                // What this node handed to itself has just come.
                let away = to.as_ref().filter(|(holder, _)| self.core.session() != Some(holder.session));
                if let Some((_, epoch)) = away {
                    self.shared.parcels.lock().drop_up_to(&thing, *epoch);
                }
                Order::Moved { thing, to }
            }
            OrderOut::Quiesce { thing, epoch, to, token } => {
                let (done, answer) = oneshot::channel::<Quiesced>();
                self.work.push(Box::pin(async move {
                    let state = answer.await.ok().map(|quiesced| quiesced.state);
                    Input::Answered { token, answer: Answer::Quiesced(state) }
                }));
                Order::Quiesce { thing, epoch, to, done }
            }
            OrderOut::Adopt { entry, title, handed, token } => {
                let (done, answer) = oneshot::channel();
                self.work.push(Box::pin(async move {
                    let dropped = |_| Err("the order was dropped without an answer".to_owned());
                    Input::Answered { token, answer: Answer::Adopted(answer.await.unwrap_or_else(dropped)) }
                }));
                let name = entry.spec.name.clone();
                let state = handed
                    .then(|| self.shared.parcels.lock().take(&Thing::Name(name.clone()), &name, title.epoch()))
                    .flatten();
                Order::Adopt { entry: *entry, title, state, done }
            }
        };
        // Dropped with its receiver, an order's own channel answers that nothing was done.
        let _ = self.orders.send(order);
    }

    fn done(&mut self, op: u64, done: OpDone) {
        match (self.replies.remove(&op), done) {
            (Some(Reply::Claim(reply)), OpDone::Claimed(result)) => {
                if let Err(Ok(title)) = reply.send(result) {
                    self.take_back(&title);
                }
            }
            // Whoever does not wait any more needs no answer.
            (Some(Reply::Plain(reply)), OpDone::Plain(result)) => _ = reply.send(result),
            (Some(Reply::Stop(reply)), _) => {
                self.stopped = true;
                let _ = reply.send(());
            }
            _ => {}
        }
    }

    /// The caller of a claim is gone: nobody would ever let the name go.
    fn take_back(&mut self, title: &Title) {
        if let Some(name) = self.core.name_of(title) {
            let (reply, _) = oneshot::channel();
            let op = self.op(Reply::Plain(reply));
            let now = self.now();
            self.core.put(Input::Asked { op, ask: Op::Release(name, title.epoch()) }, now);
        }
    }
}

async fn perform(store: &dyn OwnershipStore, request: Request) -> Written {
    let Request { key, ask, .. } = request;
    let swap = match ask {
        Ask::Read => match store.read(&key).await {
            Ok(document) => return Written::Read(document),
            Err(error) => Err(error),
        },
        Ask::Write { expected, body, keep } => store.compare_and_set(&key, expected, body, keep).await,
        Ask::Remove(version) => store.remove(&key, version).await,
    };
    if let Err(error) = &swap {
        tracing::debug!(%key, %error, "a request of ownership failed");
    }
    swapped(swap)
}

fn swapped(swap: Result<Swap, Error>) -> Written {
    match swap {
        Ok(Swap::Done(version)) => Written::Done(version),
        Ok(Swap::Refused(document)) => Written::Refused(document),
        Err(error) => Written::Failed(if error.outcome_unknown() { Outcome::Unknown } else { Outcome::Unchanged }),
    }
}

/// The error of a request that was cut off here.
pub(crate) fn late(operation: &'static str, after: Duration) -> Error {
    let outcome = dc_controlplane::Outcome::Unchanged;
    Error::Timeout { backend: "the ownership store", operation, after, outcome }
}

fn log(event: &OwnershipEvent) {
    match event {
        OwnershipEvent::SessionOpened { session } => tracing::info!(session = %session.short(), "session opened"),
        OwnershipEvent::SessionLost { session, why } => {
            tracing::warn!(session = %session.short(), why, "session lost: everything owned under it has stopped");
        }
        OwnershipEvent::SessionBuried { session, data_center } => {
            let dc = data_center.as_ref().map(ToString::to_string);
            tracing::info!(session = %session.short(), dc, "session silent for its TTL: its things may be taken over");
        }
        OwnershipEvent::Takeover { thing, epoch, took } => tracing::debug!(?thing, %epoch, ?took, "taken over"),
        OwnershipEvent::Conflict { thing, epoch, session, known } => {
            let session = session.short();
            tracing::error!(?thing, %epoch, session, ?known, "falling or repeated epoch refused: the store lost data");
        }
        OwnershipEvent::StoreLost { why, floor } => {
            tracing::error!(why, %floor, "the store lost data: everything starts afresh, above the floor");
        }
        OwnershipEvent::PolicyConflict { kind } => {
            tracing::error!(kind, "declared otherwise by the node that used it first; it is not served globally here");
        }
        OwnershipEvent::Unreadable { key, why } => tracing::warn!(key, why, "a document is left alone"),
        OwnershipEvent::NotAdopted { name, why } => tracing::warn!(name, why, "the actor of a name did not start"),
        OwnershipEvent::NoEpochLeft { thing } => {
            tracing::error!(?thing, greatest = %dc_core::Epoch::GREATEST, "no epoch is left: it can have no other owner");
        }
        OwnershipEvent::FloorRefused { floor } => {
            tracing::error!(%floor, greatest = %dc_core::Epoch::GREATEST, "a floor above the greatest epoch is no floor");
        }
        OwnershipEvent::MoveFailed { thing, why } => tracing::info!(?thing, why, "a hand-over was given up"),
    }
}

/// Transfers nothing: whatever has state stays. For systems without snapshots, and for tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTransfer;

#[async_trait::async_trait]
impl Transfer for NoTransfer {
    async fn offer(&self, _: &Holder, _: &Thing, _: dc_core::Epoch, _: Vec<(String, Bytes)>) -> Result<(), String> {
        Err("this node has no way to send state".to_owned())
    }
}
