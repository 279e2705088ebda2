//! Global actors: what the proof of ownership lets in and out, and how state is taken along.

use dc_core::Epoch;
use dc_ownership::{
    ids::SessionId,
    order::Thing,
    policy::Strictness,
    title::{Lease, Title},
};

use super::*;
use crate::{Snapshot, host::Owned};

impl Snapshot for Probe {
    type State = u32;

    async fn snapshot(&mut self) -> Result<u32, String> {
        if self.count == 13 { Err("unlucky".into()) } else { Ok(self.count) }
    }

    async fn restore(&mut self, count: u32) -> Result<(), String> {
        if count == 7 {
            return Err("not this one".into());
        }
        self.count = count;
        Ok(())
    }
}

const TTL: Duration = Duration::from_secs(8);

/// A bench whose actor is global, under epoch 5, with a lease of [`TTL`].
struct Global {
    bench: Bench,
    lease: Lease,
    title: Title,
}

impl Global {
    async fn new(strictness: Strictness) -> Self {
        let mut parts = None;
        let bench =
            Bench::made(ProbeArgs { start: 0, fail_to_start: false }, KindBuilder::snapshots, None, |core, clock| {
                let lease = Lease::new(SessionId(9), Arc::new(clock.clone()), clock.now() + TTL);
                let title = Title::new(Epoch(5), lease.clone(), strictness);
                parts = Some((lease, title.clone()));
                core.owned_by(Owned::new(Thing::Name("probe".into()), title))
            });
        bench.cell.core().wait_started().await.expect("starts");
        let (lease, title) = parts.expect("made above");
        Self { bench, lease, title }
    }

    async fn ask_as(&self, epoch: u64) -> Result<u32, Error> {
        open::<Add>(self.bench.post_until(Add(1), None, Meant::Owned(epoch)).await).await
    }
}

#[tokio::test]
async fn g2_an_owner_whose_lease_has_ended_starts_no_work() {
    let global = Global::new(Strictness::Strict).await;
    assert_eq!(global.ask_as(5).await, Ok(1));
    global.bench.clock.advance(TTL);
    let error = global.ask_as(5).await.unwrap_err();
    assert!(matches!(error, Error::NotOwner { epoch: 5, not_run: true, .. }), "{error}");
    global.lease.renew(global.bench.clock.now() + TTL);
    assert_eq!(global.ask_as(5).await, Ok(2), "a renewal that was under way has arrived");
    global.title.end();
    assert!(global.ask_as(5).await.unwrap_err().certainly_not_run(), "it moved");

    let available = Global::new(Strictness::Available).await;
    available.bench.clock.advance(TTL * 100);
    assert_eq!(available.ask_as(5).await, Ok(1), "declared to go on while the store is away");
}

#[tokio::test]
async fn g2_an_owner_whose_title_ended_before_its_start_runs_nothing_of_it() {
    // Its `on_start` would fail, were it run.
    let args = ProbeArgs { start: 0, fail_to_start: true };
    let bench = Bench::made(args, KindBuilder::snapshots, None, |core, clock| {
        let lease = Lease::new(SessionId(9), Arc::new(clock.clone()), clock.now() + TTL);
        // As after a pause of the machine between the decision and the start.
        clock.advance(TTL);
        core.owned_by(Owned::new(Thing::Name("probe".into()), Title::new(Epoch(5), lease, Strictness::Strict)))
    });
    let error = bench.cell.core().wait_started().await.expect_err("its title is over");
    assert!(matches!(error, Error::NotOwner { epoch: 5, not_run: true, .. }), "{error}");
    bench.cell.core().wait_stopped().await;
}

#[tokio::test]
async fn g2_an_answer_that_comes_after_the_lease_does_not_leave() {
    let global = Global::new(Strictness::Strict).await;
    let (go, held) = global.bench.hold().await;
    let behind = global.bench.post(Add(1)).await;
    global.bench.clock.advance(TTL);
    go.notify_one();
    let error = failed(held.await);
    assert!(matches!(error, Error::NotOwner { not_run: false, .. }), "{error}: its handler had begun");
    let error = failed(behind.await);
    assert!(matches!(error, Error::NotOwner { not_run: true, .. }), "{error}: its handler had not");

    let global = Global::new(Strictness::Strict).await;
    let (tx, sender) = oneshot::channel();
    let asked = global.bench.post(Promise(tx)).await;
    let sender = sender.await.expect("handed over").expect("it is an ask");
    let Ok(Outcome::Promised(promise)) = asked.await else { panic!("a promise") };
    global.bench.clock.advance(TTL);
    sender.send(9);
    let error = promise.answer().await.err().expect("too late");
    assert!(matches!(error, Error::NotOwner { not_run: false, .. }), "{error}");
}

#[tokio::test]
async fn g2_a_message_under_another_epoch_is_not_served() {
    let global = Global::new(Strictness::Strict).await;
    let lower = global.ask_as(4).await.unwrap_err();
    assert!(matches!(lower, Error::StaleEpoch { sent: 4, current: 5, .. }), "{lower}: it names the newer one");
    let higher = global.ask_as(6).await.unwrap_err();
    assert!(matches!(higher, Error::NotOwner { epoch: 6, not_run: true, .. }), "{higher}: look again");
    assert!(global.ask_as(0).await.is_err(), "a sender must know which owner it means");
    assert_eq!(global.ask_as(5).await, Ok(1), "and one bad message stops nobody");
}

#[tokio::test]
async fn g5_a_held_actor_finishes_what_it_accepted_gives_its_state_and_can_go_on() {
    let global = Global::new(Strictness::Strict).await;
    let (bench, cell) = (&global.bench, &global.bench.cell);
    let (go, held) = bench.hold().await;
    let accepted = bench.post(Add(5)).await;
    assert!(cell.core().gate.hold());
    let refused = bench.tell(Add(1)).await.expect_err("it is being handed over");
    assert!(matches!(refused.error, Error::NotOwner { not_run: true, .. }), "{}", refused.error);
    let mut emptied = Box::pin(cell.core().gate.emptied());
    assert!(futures::poll!(&mut emptied).is_pending());
    go.notify_one();
    tokio::time::timeout(SOON, emptied).await.expect("it finishes");
    assert!(matches!(held.await, Ok(Outcome::Answer(_))));
    assert_eq!(open::<Add>(accepted).await, Ok(5));
    let state = AnyCell::snapshot(cell.clone()).await.expect("taken").expect("its kind has snapshots");
    cell.core().gate.release();
    assert_eq!(bench.ask(Add(1)).await, Ok(6), "the move was given up: it goes on");

    let kind = KindBuilder::snapshots;
    let args = || ProbeArgs { start: 0, fail_to_start: false };
    let restored = Bench::made(args(), kind, Some(state), |core, _| core);
    // What is sent before it has started waits for its state.
    assert_eq!(restored.ask(Add(1)).await, Ok(6));
    restored.cell.core().wait_started().await.expect("it started");
}

#[tokio::test]
async fn g5_state_that_cannot_be_taken_or_restored_fails_the_move_and_no_more() {
    let kind = KindBuilder::snapshots;
    let args = |start| ProbeArgs { start, fail_to_start: false };
    let unlucky = Bench::made(args(13), kind, None, |core, _| core);
    let refused = AnyCell::snapshot(unlucky.cell.clone()).await.expect_err("told to fail");
    assert!(refused.contains("unlucky"), "{refused}");
    assert_eq!(unlucky.ask(Add(1)).await, Ok(14), "it goes on");

    let seven = postcard::to_allocvec(&7_u32).expect("a number").into();
    let mut broken = Bench::made(args(0), kind, Some(seven), |core, _| core);
    let behind = broken.post(Add(1)).await;
    let error = broken.cell.core().wait_started().await.expect_err("told to fail");
    assert!(matches!(&error, Error::StartFailed { reason, .. } if reason.contains("not this one")), "{error}");
    assert!(failed(behind.await).certainly_not_run());
    tokio::time::timeout(SOON, broken.ended.recv()).await.expect("it ends");
    let without = Bench::made(args(0), |kind| kind, Some(bytes::Bytes::from_static(b"x")), |core, _| core);
    assert_eq!(without.ask(Add(1)).await, Ok(1), "a kind without snapshots starts from its arguments");
}
