//! The actors of these tests.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex},
    time::Duration,
};

use bytes::Bytes;
use dc_actor::{
    Activation, ActorRef, ActorSystemBuilder, AskError, ContextExt, GrainBuilder, GrainRef, Ref, RestartPolicy,
};
use kameo::{
    Actor,
    actor::WeakActorRef,
    error::{ActorStopReason, Infallible},
    message::{Context, Message},
    reply::DelegatedReply,
};
use multidc::{RemoteActor, RemoteMessage};
use serde::{Deserialize, Serialize};

/// Remembers what it is told, in order.
#[derive(RemoteActor)]
#[remote(name = "worker")]
pub(crate) struct Worker {
    noted: Vec<u32>,
    answers: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct WorkerArgs {
    pub(crate) noted: Vec<u32>,
    /// What `on_start` does besides.
    pub(crate) start: Start,
}

#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) enum Start {
    #[default]
    Well,
    Fails,
    /// Waits this many milliseconds.
    Slow(u64),
}

impl Actor for Worker {
    type Args = WorkerArgs;
    type Error = String;
    async fn on_start(args: WorkerArgs, _: ActorRef<Self>) -> Result<Self, String> {
        match args.start {
            Start::Well => {}
            Start::Fails => return Err("told to fail".into()),
            Start::Slow(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        }
        Ok(Self { noted: args.noted, answers: Vec::new() })
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
#[remote(name = "note")]
pub(crate) struct Note(pub(crate) u32);

#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct Noted;

#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct PanicNow;

#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct FailNow;

/// Sleeps in its handler.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct Busy {
    pub(crate) ms: u64,
}

/// A large message.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct Blob(pub(crate) u32, pub(crate) Bytes);

#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct StopNow;

/// Answers from a task, later.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct Later(pub(crate) u32);

/// Who are you?
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct WhoAreYou;

/// Asks another one, by `request`, and remembers its answer.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct AskThat {
    pub(crate) whom: Ref<Worker>,
    pub(crate) busy: u64,
}

/// What [`AskThat`] has brought so far.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct Answers;

/// Tells the numbers below `n` through all these references in turn, some of them in large messages.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct Relay {
    pub(crate) through: Vec<Ref<Worker>>,
    pub(crate) n: u32,
}

/// Adds to a grain, by the reference in the message.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct AddTo(pub(crate) GrainRef<Cart>, pub(crate) u64);

/// A message that no kind lists.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct Unlisted;

/// By protobuf, both ways.
#[derive(Clone, PartialEq, prost::Message, RemoteMessage)]
#[remote(name = "sum", codec = prost)]
pub(crate) struct Sum {
    #[prost(uint64, repeated, tag = "1")]
    pub(crate) of: Vec<u64>,
}

impl Message<Note> for Worker {
    type Reply = ();
    async fn handle(&mut self, Note(n): Note, _: &mut Context<Self, ()>) {
        self.noted.push(n);
    }
}

impl Message<Blob> for Worker {
    type Reply = u32;
    async fn handle(&mut self, Blob(n, bytes): Blob, _: &mut Context<Self, u32>) -> u32 {
        self.noted.push(n);
        u32::try_from(bytes.len()).expect("small enough")
    }
}

impl Message<Noted> for Worker {
    type Reply = Vec<u32>;
    async fn handle(&mut self, _: Noted, _: &mut Context<Self, Vec<u32>>) -> Vec<u32> {
        self.noted.clone()
    }
}

impl Message<PanicNow> for Worker {
    type Reply = ();
    async fn handle(&mut self, _: PanicNow, _: &mut Context<Self, ()>) {
        panic!("told to panic");
    }
}

impl Message<FailNow> for Worker {
    type Reply = Result<u32, String>;
    async fn handle(&mut self, _: FailNow, _: &mut Context<Self, Self::Reply>) -> Self::Reply {
        Err("told to fail".into())
    }
}

impl Message<Busy> for Worker {
    type Reply = ();
    async fn handle(&mut self, Busy { ms }: Busy, _: &mut Context<Self, ()>) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
}

impl Message<StopNow> for Worker {
    type Reply = ();
    async fn handle(&mut self, _: StopNow, ctx: &mut Context<Self, ()>) {
        ctx.stop();
    }
}

impl Message<Later> for Worker {
    type Reply = DelegatedReply<u32>;
    async fn handle(&mut self, Later(n): Later, ctx: &mut Context<Self, Self::Reply>) -> Self::Reply {
        ctx.spawn(async move {
            tokio::task::yield_now().await;
            n
        })
    }
}

impl Message<WhoAreYou> for Worker {
    type Reply = Option<Ref<Worker>>;
    async fn handle(&mut self, _: WhoAreYou, ctx: &mut Context<Self, Self::Reply>) -> Self::Reply {
        Some(ctx.this())
    }
}

/// Not for the wire: the answer of a request, come back.
struct Came(Result<(), AskError<Infallible>>);

impl Message<AskThat> for Worker {
    type Reply = ();
    async fn handle(&mut self, AskThat { whom, busy }: AskThat, ctx: &mut Context<Self, ()>) {
        ctx.request(whom.ask(Busy { ms: busy }), Came);
    }
}

impl Message<Came> for Worker {
    type Reply = ();
    async fn handle(&mut self, Came(answer): Came, _: &mut Context<Self, ()>) {
        self.answers.push(answer.map_or_else(|err| err.to_string(), |()| "done".into()));
    }
}

impl Message<Relay> for Worker {
    type Reply = ();
    async fn handle(&mut self, Relay { through, n }: Relay, _: &mut Context<Self, ()>) {
        let large = Bytes::from(vec![1; 150_000]);
        for (number, target) in (0..n).zip(through.iter().cycle()) {
            if number % 7 == 3 {
                target.tell(Blob(number, large.clone())).await.expect("accepted");
            } else {
                target.tell(Note(number)).await.expect("accepted");
            }
        }
    }
}

impl Message<AddTo> for Worker {
    type Reply = Result<Placed, String>;
    async fn handle(&mut self, AddTo(grain, n): AddTo, _: &mut Context<Self, Self::Reply>) -> Self::Reply {
        grain.ask(AddItem(n)).await.map_err(|err| err.to_string())
    }
}

impl Message<Answers> for Worker {
    type Reply = Vec<String>;
    async fn handle(&mut self, _: Answers, _: &mut Context<Self, Vec<String>>) -> Vec<String> {
        self.answers.clone()
    }
}

impl Message<Unlisted> for Worker {
    type Reply = ();
    async fn handle(&mut self, _: Unlisted, _: &mut Context<Self, ()>) {}
}

impl Message<Sum> for Worker {
    type Reply = u64;
    async fn handle(&mut self, Sum { of }: Sum, _: &mut Context<Self, u64>) -> u64 {
        of.iter().sum()
    }
}

/// As a worker, but started again when it fails.
#[derive(RemoteActor)]
#[remote(name = "phoenix")]
pub(crate) struct Phoenix(u32);

impl Actor for Phoenix {
    type Args = u32;
    type Error = Infallible;
    async fn on_start(args: u32, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(Self(args))
    }
}

impl Message<Note> for Phoenix {
    type Reply = u32;
    async fn handle(&mut self, Note(n): Note, _: &mut Context<Self, u32>) -> u32 {
        self.0 += n;
        self.0
    }
}

impl Message<PanicNow> for Phoenix {
    type Reply = ();
    async fn handle(&mut self, _: PanicNow, _: &mut Context<Self, ()>) {
        panic!("told to panic");
    }
}

/// What became active and what ended, by identity: over all nodes of all tests.
static LIVES: LazyLock<Mutex<HashMap<String, Lives>>> = LazyLock::new(Mutex::default);

/// How often a grain became active, and how many of them are active now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lives {
    pub(crate) begun: u32,
    pub(crate) now: u32,
    /// The most that were active at one time.
    pub(crate) most: u32,
}

pub(crate) fn lives(id: &str) -> Lives {
    LIVES.lock().expect("no test panics with it").get(id).copied().unwrap_or_default()
}

macro_rules! cart {
    ($name:ident, $kind:literal) => {
        #[derive(RemoteActor)]
        #[remote(name = $kind)]
        pub(crate) struct $name {
            id: String,
            items: u64,
        }

        impl Actor for $name {
            type Args = String;
            type Error = Infallible;

            async fn on_start(id: String, _: ActorRef<Self>) -> Result<Self, Infallible> {
                let id = format!("{}/{id}", $kind);
                let mut all = LIVES.lock().expect("no test panics with it");
                let lives = all.entry(id.clone()).or_default();
                lives.begun += 1;
                lives.now += 1;
                lives.most = lives.most.max(lives.now);
                Ok(Self { id, items: 0 })
            }

            async fn on_stop(&mut self, _: WeakActorRef<Self>, _: ActorStopReason) -> Result<(), Infallible> {
                let mut all = LIVES.lock().expect("no test panics with it");
                all.entry(self.id.clone()).or_default().now -= 1;
                Ok(())
            }
        }

        impl Message<AddItem> for $name {
            type Reply = Placed;
            async fn handle(&mut self, AddItem(n): AddItem, _: &mut Context<Self, Placed>) -> Placed {
                self.items += n;
                let system = Activation::current().and_then(|here| here.system()).expect("an actor of a system");
                Placed {
                    items: self.items,
                    dc: system.data_center().name().to_owned(),
                    node: system.node_id().to_string(),
                }
            }
        }

        impl Message<FailNow> for $name {
            type Reply = Result<u32, String>;
            async fn handle(&mut self, _: FailNow, _: &mut Context<Self, Self::Reply>) -> Self::Reply {
                self.items += 1;
                Err(format!("told to fail, at {}", self.items))
            }
        }

        impl Message<Busy> for $name {
            type Reply = ();
            async fn handle(&mut self, Busy { ms }: Busy, _: &mut Context<Self, ()>) {
                self.items += 1;
                tokio::time::sleep(Duration::from_millis(ms)).await;
            }
        }

        impl Message<PanicNow> for $name {
            type Reply = ();
            async fn handle(&mut self, _: PanicNow, _: &mut Context<Self, ()>) {
                panic!("told to panic");
            }
        }
    };
}

#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct AddItem(pub(crate) u64);

/// Where a grain is, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, kameo::Reply)]
pub(crate) struct Placed {
    pub(crate) items: u64,
    pub(crate) dc: String,
    pub(crate) node: String,
}

cart!(Cart, "cart");
cart!(LocalCart, "local-cart");
cart!(RestlessCart, "restless-cart");
cart!(PinnedCart, "pinned-cart");

/// A kind that only some nodes know.
#[derive(RemoteActor, Actor, Serialize, Deserialize)]
#[remote(name = "odd")]
pub(crate) struct Odd;

pub(crate) fn worker(kind: dc_actor::KindBuilder<Worker>) -> dc_actor::KindBuilder<Worker> {
    kind.handles::<Note>()
        .handles::<Noted>()
        .handles::<PanicNow>()
        .handles::<FailNow>()
        .handles::<Busy>()
        .handles::<Blob>()
        .handles::<StopNow>()
        .handles::<Later>()
        .handles::<WhoAreYou>()
        .handles::<AskThat>()
        .handles::<AddTo>()
        .handles::<Relay>()
        .handles::<Answers>()
        .handles::<Sum>()
}

macro_rules! grain {
    ($kind:ident) => {
        $kind.args(str::to_owned).handles::<AddItem>().handles::<FailNow>().handles::<Busy>().handles::<PanicNow>()
    };
}

/// Registers the kinds above.
pub(crate) fn register(builder: ActorSystemBuilder) -> ActorSystemBuilder {
    let again = RestartPolicy::OnFailure { max: 3, within: Duration::from_secs(60), backoff: Duration::from_millis(1) };
    builder
        .actor::<Worker>(worker)
        .actor::<Phoenix>(move |kind| kind.handles::<Note>().handles::<PanicNow>().restart(again))
        .grain::<Cart>(|kind| grain!(kind))
        .grain::<LocalCart>(|kind: GrainBuilder<LocalCart>| grain!(kind).per_data_center())
        .grain::<RestlessCart>(|kind| grain!(kind).idle(Duration::from_millis(50)))
        .grain::<PinnedCart>(|kind| {
            let kind = kind.args(|id| if id == "panics-in-args" { panic!("told to panic") } else { id.to_owned() });
            kind.handles::<AddItem>().handles::<FailNow>().handles::<Busy>().handles::<PanicNow>().home("dc-2")
        })
}
