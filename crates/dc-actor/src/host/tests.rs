//! What is relied on of kameo, and what is made of it.

use std::{sync::Arc, time::Duration};

use dc_core::{Clock, ManualClock};
use kameo::{
    Actor,
    actor::{ActorRef, WeakActorRef},
    error::{ActorStopReason, Infallible},
    message::{Context, Message},
    reply::{DelegatedReply, ReplySender},
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use super::*;
use crate::{
    Activation, Event, EventStream, KindBuilder, RemoteActor, RemoteMessage, error::Error, events::EventBus,
    host::cell::Refused, message::Handles, system::WeakSystem,
};

mod owned;

const SOON: Duration = Duration::from_secs(5);

/// Counts what it is told; can be held, panicked, stopped and restarted.
#[derive(RemoteActor)]
struct Probe {
    count: u32,
    start: u32,
}

#[derive(Clone, Serialize, Deserialize)]
struct ProbeArgs {
    start: u32,
    fail_to_start: bool,
}

impl Actor for Probe {
    type Args = ProbeArgs;
    type Error = String;

    async fn on_start(args: ProbeArgs, _: ActorRef<Self>) -> Result<Self, String> {
        assert!(Activation::current().is_some(), "on_start has its activation");
        if args.fail_to_start { Err("asked to".into()) } else { Ok(Self { count: args.start, start: args.start }) }
    }

    async fn on_stop(&mut self, _: WeakActorRef<Self>, _: ActorStopReason) -> Result<(), String> {
        assert!(Activation::current().is_some(), "on_stop has its activation");
        Ok(())
    }
}

#[derive(Clone, Serialize, Deserialize, RemoteMessage)]
struct Add(u32);

#[derive(Serialize, Deserialize, RemoteMessage)]
struct Panic;

#[derive(Serialize, Deserialize, RemoteMessage)]
struct Fail;

#[derive(Serialize, Deserialize, RemoteMessage)]
struct Stop;

/// Not for the wire: holds the handler until it is let go.
struct Hold {
    began: oneshot::Sender<()>,
    go: Arc<Notify>,
}

/// Not for the wire: gives the promise of its answer away.
struct Promise(oneshot::Sender<Option<ReplySender<u32>>>);

/// Not for the wire: tells itself, as often as said.
struct TellSelf {
    times: u32,
    cell: Arc<Cell<Probe>>,
}

impl Message<Add> for Probe {
    type Reply = u32;
    async fn handle(&mut self, Add(n): Add, _: &mut Context<Self, u32>) -> u32 {
        self.count += n;
        self.count
    }
}

impl Message<Panic> for Probe {
    type Reply = ();
    async fn handle(&mut self, _: Panic, _: &mut Context<Self, ()>) {
        panic!("as told, at {} from {}", self.count, self.start);
    }
}

impl Message<Fail> for Probe {
    type Reply = Result<u32, String>;
    async fn handle(&mut self, _: Fail, _: &mut Context<Self, Self::Reply>) -> Self::Reply {
        Err("no".into())
    }
}

impl Message<Stop> for Probe {
    type Reply = ();
    async fn handle(&mut self, _: Stop, ctx: &mut Context<Self, ()>) {
        ctx.stop();
    }
}

impl Message<Hold> for Probe {
    type Reply = ();
    async fn handle(&mut self, hold: Hold, _: &mut Context<Self, ()>) {
        let _ = hold.began.send(());
        hold.go.notified().await;
    }
}

impl Message<Promise> for Probe {
    type Reply = DelegatedReply<u32>;
    async fn handle(&mut self, Promise(tx): Promise, ctx: &mut Context<Self, Self::Reply>) -> Self::Reply {
        let (promised, sender) = ctx.reply_sender();
        let _ = tx.send(sender);
        promised
    }
}

impl Message<TellSelf> for Probe {
    type Reply = ();
    async fn handle(&mut self, TellSelf { times, cell }: TellSelf, _: &mut Context<Self, ()>) {
        for _ in 0..times {
            assert!(cell.send("Add", Add(1), Port::Tell, None, Meant::Any).await.is_ok());
        }
    }
}

/// Not for the wire: tells itself numbers, and does not mind that others make room meanwhile.
struct CountDown(u32, Arc<Cell<Probe>>);

impl Message<CountDown> for Probe {
    type Reply = ();
    async fn handle(&mut self, CountDown(n, cell): CountDown, _: &mut Context<Self, ()>) {
        // Each must find the ones before it: `count` is how many have come.
        assert_eq!(self.count, n, "in order");
        self.count += 1;
        if n == 0 {
            for next in 1..20 {
                assert!(
                    cell.send("CountDown", CountDown(next, cell.clone()), Port::Tell, None, Meant::Any).await.is_ok()
                );
                tokio::task::yield_now().await;
            }
        }
    }
}

/// One actor and all that a test looks at.
struct Bench {
    cell: Arc<Cell<Probe>>,
    clock: ManualClock,
    events: EventStream,
    ended: mpsc::UnboundedReceiver<Option<String>>,
}

impl Bench {
    async fn new(tune: impl FnOnce(KindBuilder<Probe>) -> KindBuilder<Probe>) -> Self {
        let bench = Self::unstarted(ProbeArgs { start: 0, fail_to_start: false }, tune);
        bench.cell.core().wait_started().await.expect("starts");
        bench
    }

    fn unstarted(args: ProbeArgs, tune: impl FnOnce(KindBuilder<Probe>) -> KindBuilder<Probe>) -> Self {
        Self::made(args, tune, None, |core, _| core)
    }

    fn made(
        args: ProbeArgs,
        tune: impl FnOnce(KindBuilder<Probe>) -> KindBuilder<Probe>,
        restore: Option<bytes::Bytes>,
        own: impl FnOnce(Core, &ManualClock) -> Core,
    ) -> Self {
        let (clock, bus) = (ManualClock::new(), EventBus::new());
        let host = Host { clock: Arc::new(clock.clone()), bus: bus.clone(), system: WeakSystem::default() };
        let events = bus.subscribe();
        let kind = tune(KindBuilder::new().handles::<Add>().handles::<Panic>()).finish(&mut Vec::new());
        let core = Arc::new(own(Core::new(1, Probe::KIND, Key::Name("probe".into()), host), &clock));
        let (tx, ended) = mpsc::unbounded_channel();
        let told: Ended = Box::new(move |failure| Box::pin(async move { drop(tx.send(failure)) }));
        let args = crate::kind::encode_args::<Probe>(&args).expect("its arguments can be written");
        let cell =
            crate::kind::AnyActorKind::start(&kind, core, args, restore, told).expect("its arguments can be read");
        // The kind is that of the actor, so its cell is.
        let cell = cell.into_any().downcast().expect("a cell of its kind");
        Self { cell, clock, events, ended }
    }

    /// Puts an ask into the mailbox.
    async fn post<M: Send + 'static>(&self, message: M) -> oneshot::Receiver<Outcome>
    where
        Probe: Message<M>,
    {
        self.post_until(message, None, Meant::Any).await
    }

    async fn post_until<M: Send + 'static>(
        &self,
        message: M,
        deadline: Option<std::time::Instant>,
        meant: Meant,
    ) -> oneshot::Receiver<Outcome>
    where
        Probe: Message<M>,
    {
        let (tx, rx) = oneshot::channel();
        let sent = self.cell.send("message", message, Port::Local(tx), deadline, meant).await;
        assert!(sent.is_ok(), "the gate is open");
        rx
    }

    async fn tell<M: Send + 'static>(&self, message: M) -> Result<(), Refused<M>>
    where
        Probe: Message<M>,
    {
        self.cell.send("message", message, Port::Tell, None, Meant::Any).await
    }

    async fn ask<M: RemoteMessage>(&self, message: M) -> Result<<Probe as Handles<M>>::Ok, Error>
    where
        Probe: Handles<M>,
    {
        open::<M>(self.post(message).await).await
    }

    /// Holds the actor in a handler, so that what follows queues up.
    async fn hold(&self) -> (Arc<Notify>, oneshot::Receiver<Outcome>) {
        let (began, has_begun) = oneshot::channel();
        let go = Arc::new(Notify::new());
        let outcome = self.post(Hold { began, go: go.clone() }).await;
        has_begun.await.expect("the handler begins");
        (go, outcome)
    }

    async fn event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let next = async {
            loop {
                let event = self.events.next().await.expect("the bus stands");
                if wanted(&event) {
                    return event;
                }
            }
        };
        tokio::time::timeout(SOON, next).await.expect("the event comes")
    }
}

async fn open<M: RemoteMessage>(rx: oneshot::Receiver<Outcome>) -> Result<<Probe as Handles<M>>::Ok, Error>
where
    Probe: Handles<M>,
{
    let outcome = tokio::time::timeout(SOON, rx).await.expect("an outcome comes").expect("every envelope answers");
    let answer = match outcome {
        Outcome::Answer(answer) => answer,
        Outcome::Promised(promise) => promise.answer().await?,
        Outcome::Failed(error) | Outcome::NotRun { error, .. } => return Err(error),
    };
    Ok(<Probe as Handles<M>>::open(answer).expect("no handler error here"))
}

fn failed(outcome: Result<Outcome, oneshot::error::RecvError>) -> Error {
    match outcome.expect("every envelope answers") {
        Outcome::Failed(error) | Outcome::NotRun { error, .. } => error,
        Outcome::Answer(_) | Outcome::Promised(_) => panic!("it must fail"),
    }
}

#[tokio::test]
async fn a5_a_panic_reaches_its_asker_and_what_is_behind_it_did_not_run() {
    let mut bench = Bench::new(|kind| kind).await;
    let (go, held) = bench.hold().await;
    let panics = bench.post(Panic).await;
    let behind = bench.post(Add(1)).await;
    bench.tell(Add(1)).await.map_err(|refused| refused.error).expect("accepted");
    go.notify_one();
    assert!(matches!(held.await, Ok(Outcome::Answer(_))), "what ran before the panic is answered");

    let error = failed(panics.await);
    assert!(matches!(&error, Error::HandlerPanicked { panic, .. } if panic.contains("as told")), "{error}");
    assert!(!error.certainly_not_run());
    let error = failed(behind.await);
    assert!(matches!(error, Error::ActorStopped { .. }), "{error}");
    assert!(error.certainly_not_run(), "R3");
    bench.event(|event| matches!(event, Event::DeadLetter(letter) if letter.error.certainly_not_run())).await;
    assert!(bench.ended.recv().await.expect("told").expect("a failure").contains("as told"));
    bench.cell.core().wait_stopped().await;
    assert_eq!(bench.cell.core().gate.inside(), 0, "every message was counted out");
    let refused = bench.tell(Add(7)).await.expect_err("it has stopped");
    assert_eq!(refused.message.0, 7, "what did not enter is handed back");
}

#[tokio::test]
async fn r4_past_its_deadline_a_message_does_not_run() {
    let bench = Bench::new(|kind| kind).await;
    let (go, _held) = bench.hold().await;
    let deadline = bench.clock.now() + Duration::from_secs(1);
    let late = bench.post_until(Add(1), Some(deadline), Meant::Any).await;
    bench.clock.advance(Duration::from_secs(1));
    go.notify_one();
    let error = failed(late.await);
    assert!(matches!(error, Error::Timeout { not_run: true, .. }), "{error}");
    assert_eq!(bench.ask(Add(0)).await, Ok(0), "nothing was added");
}

#[tokio::test]
async fn a_message_for_another_epoch_does_not_run() {
    let bench = Bench::new(|kind| kind).await;
    let error = failed(bench.post_until(Add(1), None, Meant::Incarnation(2)).await.await);
    assert!(matches!(error, Error::StaleEpoch { sent: 2, current: 1, .. }), "{error}");
    let rx = bench.post_until(Add(1), None, Meant::Incarnation(1)).await;
    assert_eq!(open::<Add>(rx).await, Ok(1));
}

#[tokio::test]
async fn a4_a_handlers_error_is_a_value_to_an_asker_and_stops_the_actor_for_a_tell() {
    let mut bench = Bench::new(|kind| kind).await;
    let outcome = bench.post(Fail).await.await.expect("answers");
    let Outcome::Answer(answer) = outcome else { panic!("a handler's error is an answer") };
    let refusal = <Probe as Handles<Fail>>::open(answer).expect_err("it is an error");
    assert!(matches!(refusal, Refusal::Handler(text) if text == "no"));
    assert_eq!(bench.ask(Add(1)).await, Ok(1), "it lives on");

    assert!(bench.tell(Fail).await.is_ok());
    let failure = bench.ended.recv().await.expect("told").expect("a failure");
    assert!(failure.contains("\"no\""), "{failure}");
}

#[tokio::test]
async fn a_restarted_actor_is_fresh_and_keeps_its_identity() {
    let policy = RestartPolicy::OnFailure { max: 2, within: SOON, backoff: Duration::from_millis(1) };
    let mut bench = Bench::new(|kind| kind.restart(policy)).await;
    assert_eq!(bench.ask(Add(5)).await, Ok(5));
    assert!(bench.ask(Panic).await.is_err());
    // Between the failure and the next incarnation messages are refused as not run: try again.
    let again = async {
        loop {
            match bench.ask(Add(1)).await {
                Ok(count) => return count,
                Err(error) => assert!(error.certainly_not_run(), "{error}"),
            }
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(tokio::time::timeout(SOON, again).await.expect("it comes back"), 1, "made of its arguments");
    assert_eq!(bench.cell.core().epoch(), 2);

    for _ in 0..2 {
        let _ = bench.ask(Panic).await;
        tokio::task::yield_now().await;
        while !bench.cell.core().gate.is_closed() && bench.ask(Add(0)).await.is_err() {
            tokio::task::yield_now().await;
        }
    }
    bench.event(|event| matches!(event, Event::ActorFailed { .. })).await;
    assert!(bench.ended.recv().await.expect("told").is_some(), "beyond the limit it stays stopped");
}

#[tokio::test]
async fn a_promised_answer_comes_later_or_is_reported_as_dropped() {
    let bench = Bench::new(|kind| kind).await;
    let (tx, sender) = oneshot::channel();
    let asked = bench.post(Promise(tx)).await;
    let sender = sender.await.expect("handed over").expect("it is an ask");
    assert_eq!(bench.ask(Add(1)).await, Ok(1), "the actor goes on meanwhile");
    let Ok(Outcome::Promised(promise)) = asked.await else { panic!("a promise") };
    sender.send(9);
    assert!(promise.answer().await.is_ok());

    let (tx, sender) = oneshot::channel();
    let asked = bench.post(Promise(tx)).await;
    drop(sender.await.expect("handed over"));
    let error = match asked.await.expect("answers") {
        Outcome::Promised(promise) => promise.answer().await.map(drop).expect_err("dropped"),
        Outcome::Failed(error) | Outcome::NotRun { error, .. } => error,
        Outcome::Answer(_) => panic!("nobody answered"),
    };
    assert!(matches!(error, Error::NoAnswer { .. }), "{error}");
    assert!(!error.certainly_not_run());
}

#[tokio::test]
async fn a_failed_start_is_told_and_nothing_runs() {
    let bench = Bench::unstarted(ProbeArgs { start: 0, fail_to_start: true }, |kind| kind);
    let queued = bench.post(Add(1)).await;
    let error = bench.cell.core().wait_started().await.expect_err("it fails");
    assert!(matches!(&error, Error::StartFailed { reason, .. } if reason.contains("asked to")), "{error}");
    assert!(failed(queued.await).certainly_not_run());
    bench.cell.core().wait_stopped().await;
}

#[tokio::test]
async fn r5_a_full_mailbox_holds_its_senders_back() {
    let bench = Bench::new(|kind| kind.mailbox(1)).await;
    let (go, _held) = bench.hold().await;
    let first = bench.post(Add(1)).await;
    let second = bench.post(Add(1));
    tokio::pin!(second);
    assert!(futures::poll!(&mut second).is_pending(), "there is room for one");
    go.notify_one();
    assert_eq!(open::<Add>(first).await, Ok(1));
    assert_eq!(open::<Add>(second.await).await, Ok(2));
}

#[tokio::test]
async fn an_actor_that_tells_itself_on_a_full_mailbox_does_not_wait_for_itself() {
    let bench = Bench::new(|kind| kind.mailbox(1)).await;
    let told = bench.post(TellSelf { times: 5, cell: bench.cell.clone() }).await;
    let done = tokio::time::timeout(SOON, told).await.expect("no deadlock");
    assert!(matches!(done, Ok(Outcome::Answer(_))));
    let all = async {
        while bench.ask(Add(0)).await != Ok(5) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, all).await.expect("all five arrive");
}

#[tokio::test]
async fn r1_what_an_actor_tells_itself_stays_in_order_beyond_its_mailbox() {
    let bench = Bench::new(|kind| kind.mailbox(2)).await;
    assert!(bench.tell(CountDown(0, bench.cell.clone())).await.is_ok());
    let all = async {
        while bench.ask(Add(0)).await != Ok(20) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, all).await.expect("all twenty, in order");
}

/// Found by the soak: room came for two, and the second of a sender's messages saw it first.
#[tokio::test]
async fn r1_what_waits_for_room_in_a_mailbox_is_not_overtaken_by_the_same_senders_next() {
    let bench = Bench::new(|kind| kind.mailbox(2)).await;
    let (go, _held) = bench.hold().await;
    let (first, second) = (bench.post(Add(1)).await, bench.post(Add(1)).await);
    let sent: Vec<_> = (0..3).map(|_| Box::pin(bench.post(Add(1)))).collect();
    let [mut third, mut fourth, mut fifth] = <[_; 3]>::try_from(sent).ok().expect("three");
    assert!(futures::poll!(&mut third).is_pending(), "there is room for two");
    go.notify_one();
    assert_eq!((open::<Add>(first).await, open::<Add>(second).await), (Ok(1), Ok(2)));
    // Now there is room for both, and only the mailbox knows.
    assert!(futures::poll!(&mut fourth).is_pending(), "behind the third");
    let third = third.await;
    assert!(futures::poll!(&mut fifth).is_pending(), "behind the fourth");
    let (fourth, fifth) = (fourth.await, fifth.await);
    assert_eq!((open::<Add>(third).await, open::<Add>(fourth).await, open::<Add>(fifth).await), (Ok(3), Ok(4), Ok(5)));
    let next = bench.post(Add(1));
    tokio::pin!(next);
    assert!(futures::poll!(&mut next).is_ready(), "nobody waits any more");
}

/// Whoever waits for room and gives up makes way for the others.
#[tokio::test]
async fn a_sender_that_gives_up_its_wait_for_room_sends_nothing_and_holds_nobody_up() {
    let bench = Bench::new(|kind| kind.mailbox(1)).await;
    let (go, _held) = bench.hold().await;
    let first = bench.post(Add(1)).await;
    let mut waits: Vec<_> = (0..3).map(|_| Box::pin(bench.post(Add(10)))).collect();
    for wait in &mut waits {
        assert!(futures::poll!(wait).is_pending(), "there is room for one");
    }
    let last = waits.pop().expect("three");
    drop(waits);
    go.notify_one();
    assert_eq!(open::<Add>(first).await, Ok(1));
    let last = tokio::time::timeout(SOON, last).await.expect("it has its turn");
    assert_eq!(open::<Add>(last).await, Ok(11), "only the one that went on waiting");
}

#[tokio::test]
async fn a_killed_actor_says_of_its_present_message_that_it_may_have_run() {
    let bench = Bench::new(|kind| kind).await;
    let (_go, held) = bench.hold().await;
    let queued = bench.post(Add(1)).await;
    AnyCell::kill(&*bench.cell);
    let error = failed(held.await);
    assert!(matches!(error, Error::NoAnswer { .. }), "{error}");
    assert!(!error.certainly_not_run());
    assert!(failed(queued.await).certainly_not_run());
}

#[tokio::test]
async fn a_stop_comes_after_what_is_in_the_mailbox() {
    let mut bench = Bench::new(|kind| kind).await;
    let (go, _held) = bench.hold().await;
    let queued = bench.post(Add(1)).await;
    let stop = AnyCell::stop(bench.cell.clone());
    tokio::pin!(stop);
    assert!(futures::poll!(&mut stop).is_pending());
    assert!(bench.tell(Add(1)).await.is_err(), "nothing enters any more");
    go.notify_one();
    assert_eq!(open::<Add>(queued).await, Ok(1));
    tokio::time::timeout(SOON, stop).await.expect("it ends");
    assert_eq!(bench.ended.recv().await, Some(None), "not a failure");
}

#[tokio::test]
async fn an_actor_may_stop_itself() {
    let mut bench = Bench::new(|kind| kind.handles::<Stop>()).await;
    assert_eq!(bench.ask(Stop).await, Ok(()), "its last message is answered");
    assert_eq!(bench.ended.recv().await, Some(None));
}

#[tokio::test]
async fn messages_sent_while_an_actor_starts_wait_for_it() {
    /// Starts when it is allowed to.
    #[derive(RemoteActor)]
    struct Slow;
    static ALLOWED: Semaphore = Semaphore::const_new(0);

    impl Actor for Slow {
        type Args = ();
        type Error = Infallible;
        async fn on_start((): (), _: ActorRef<Self>) -> Result<Self, Infallible> {
            let _allowed = ALLOWED.acquire().await;
            Ok(Self)
        }
    }

    impl Message<Add> for Slow {
        type Reply = u32;
        async fn handle(&mut self, Add(n): Add, _: &mut Context<Self, u32>) -> u32 {
            n
        }
    }

    let host = Host { clock: Arc::new(ManualClock::new()), bus: EventBus::new(), system: WeakSystem::default() };
    let kind = KindBuilder::<Slow>::new().handles::<Add>().finish(&mut Vec::new());
    let core = Arc::new(Core::new(1, Slow::KIND, Key::Anonymous, host));
    let cell = kind.start_with(core.clone(), (), Box::new(|_| Box::pin(async {}))).unwrap();
    let cell: Arc<Cell<Slow>> = cell.into_any().downcast().unwrap();
    let (tx, rx) = oneshot::channel();
    assert!(cell.send("Add", Add(3), Port::Local(tx), None, Meant::Any).await.is_ok());
    ALLOWED.add_permits(1);
    let outcome = tokio::time::timeout(SOON, rx).await.expect("it runs").unwrap();
    assert!(matches!(outcome, Outcome::Answer(_)));
    assert_eq!(core.wait_started().await, Ok(()));
}

/// Tells itself something before its `on_start` ends.
#[derive(RemoteActor)]
struct Eager;

#[derive(Clone, Copy, Serialize, Deserialize, RemoteMessage)]
enum Tells {
    Nothing,
    Panic,
    Stop,
}

impl Actor for Eager {
    type Args = Tells;
    type Error = Infallible;

    async fn on_start(tells: Tells, _: ActorRef<Self>) -> Result<Self, Infallible> {
        let here = Activation::current().expect("on_start has its activation");
        let cell = here.cell::<Cell<Self>>().expect("a cell of its kind");
        assert!(cell.send("Tells", tells, Port::Tell, None, Meant::Any).await.is_ok());
        Ok(Self)
    }
}

impl Message<Tells> for Eager {
    type Reply = ();
    async fn handle(&mut self, tells: Tells, ctx: &mut Context<Self, ()>) {
        match tells {
            Tells::Nothing => {}
            Tells::Panic => panic!("as told"),
            Tells::Stop => ctx.stop(),
        }
    }
}

/// An actor of any kind, and where its end is told.
fn begin<A>(kind: KindBuilder<A>, args: A::Args) -> (Arc<Cell<A>>, mpsc::UnboundedReceiver<Option<String>>)
where
    A: RemoteActor,
    A::Args: Serialize + serde::de::DeserializeOwned,
{
    let host = Host { clock: Arc::new(ManualClock::new()), bus: EventBus::new(), system: WeakSystem::default() };
    let core = Arc::new(Core::new(1, A::KIND, Key::Anonymous, host));
    let (tx, ended) = mpsc::unbounded_channel();
    let told: Ended = Box::new(move |failure| Box::pin(async move { drop(tx.send(failure)) }));
    let cell = kind.finish(&mut Vec::new()).start_with(core, args, told).expect("its arguments can be written");
    // The kind is that of the actor, so its cell is.
    (cell.into_any().downcast().expect("a cell of its kind"), ended)
}

#[tokio::test]
async fn an_actor_whose_mailbox_is_full_when_on_start_ends_has_started() {
    let kind = KindBuilder::<Eager>::new().handles::<Tells>().mailbox(1);
    let (cell, _ended) = begin(kind, Tells::Nothing);
    let started = tokio::time::timeout(SOON, cell.core().wait_started()).await;
    assert_eq!(started.expect("the start ends"), Ok(()));
    tokio::time::timeout(SOON, AnyCell::stop(cell)).await.expect("it ends");
}

#[tokio::test]
async fn what_an_actor_tells_itself_in_on_start_does_not_make_its_start_fail() {
    for mailbox in [1, 8] {
        let kind = KindBuilder::<Eager>::new().handles::<Tells>().mailbox(mailbox);
        let (cell, mut ended) = begin(kind, Tells::Stop);
        let started = tokio::time::timeout(SOON, cell.core().wait_started()).await;
        assert_eq!(started.expect("the start ends"), Ok(()), "it stopped after its start");
        assert_eq!(ended.recv().await, Some(None), "not a failure");

        let policy = RestartPolicy::OnFailure { max: 1, within: SOON, backoff: Duration::from_millis(1) };
        let kind = KindBuilder::<Eager>::new().handles::<Tells>().mailbox(mailbox).restart(policy);
        let (cell, mut ended) = begin(kind, Tells::Panic);
        let started = tokio::time::timeout(SOON, cell.core().wait_started()).await;
        assert_eq!(started.expect("the start ends"), Ok(()), "it failed after its start");
        let failure = tokio::time::timeout(SOON, ended.recv()).await.expect("it ends").expect("told");
        assert!(failure.is_some_and(|failure| failure.contains("as told")));
        assert_eq!(cell.core().epoch(), 2, "it was restarted as its policy says");
    }
}

#[tokio::test]
async fn an_actor_that_waits_for_its_restart_is_stopped_and_killed_at_once() {
    let policy = RestartPolicy::OnFailure { max: 3, within: SOON, backoff: Duration::from_secs(3600) };
    for kill in [false, true] {
        let mut bench = Bench::new(|kind| kind.restart(policy).mailbox(1)).await;
        assert!(bench.ask(Panic).await.is_err());
        let failed = async {
            while bench.cell.core().epoch() == 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SOON, failed).await.expect("its failure is seen");
        let gathered = bench.post(Add(1)).await;
        if kill {
            AnyCell::kill(&*bench.cell);
        } else {
            tokio::time::timeout(SOON, AnyCell::stop(bench.cell.clone())).await.expect("it ends");
        }
        let ended = tokio::time::timeout(SOON, bench.ended.recv()).await.expect("it ends");
        assert_eq!(ended, Some(None), "asked for, so not a failure");
        assert!(self::failed(gathered.await).certainly_not_run(), "R3");
        bench.cell.core().wait_stopped().await;
    }
}

/// Panics when it is dropped.
#[derive(RemoteActor)]
struct Thorny;

impl Actor for Thorny {
    type Args = ();
    type Error = Infallible;
    async fn on_start((): (), _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(Self)
    }
}

impl Drop for Thorny {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "a thorn");
    }
}

#[tokio::test]
async fn an_actor_whose_drop_panics_has_ended_all_the_same() {
    let (cell, mut ended) = begin(KindBuilder::<Thorny>::new(), ());
    assert_eq!(cell.core().wait_started().await, Ok(()));
    tokio::time::timeout(SOON, AnyCell::stop(cell.clone())).await.expect("whoever waits for its end is woken");
    let failure = ended.recv().await.expect("told").expect("a failure");
    assert!(failure.contains("a thorn"), "{failure}");
    assert!(cell.core().gate.is_closed());
}
