//! The global actors and grains of these tests, and what they leave behind for the tests to check.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex},
    time::Duration,
};

use dc_actor::{
    Activation, ActorRef, ActorSystemBuilder, ContextExt, GrainBuilder, Home, KindBuilder, Loss, Ref, Scope, Snapshot,
    Strictness,
};
use kameo::{
    Actor,
    error::Infallible,
    message::{Context, Message},
};
use multidc::{RemoteActor, RemoteMessage};
use serde::{Deserialize, Serialize};

/// What a shared storage would hold of each identity, which refuses a lower epoch than it has seen.
static LOG: LazyLock<Mutex<HashMap<String, Vec<Entry>>>> = LazyLock::new(Mutex::default);

/// One piece of work, as the storage has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) epoch: u64,
    pub(crate) number: u64,
}

/// What was written under an identity, in order.
pub(crate) fn log(id: &str) -> Vec<Entry> {
    LOG.lock().expect("no test panics with it").get(id).cloned().unwrap_or_default()
}

/// True where the storage accepts it.
fn write(id: &str, entry: Entry) -> bool {
    let mut log = LOG.lock().expect("no test panics with it");
    let entries = log.entry(id.to_owned()).or_default();
    let accepted = entries.last().is_none_or(|last| last.epoch <= entry.epoch);
    if accepted {
        entries.push(entry);
    }
    accepted
}

/// Adds one, writes it down, and says how many there are.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct Count(pub(crate) u64);

/// Waits in the handler, then counts.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct Slowly {
    pub(crate) ms: u64,
    pub(crate) number: u64,
}

/// Stops for good.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct Close;

/// Sends `number` to another one, after a wait; says what came of it.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
pub(crate) struct PassTo {
    pub(crate) whom: Ref<Keeper>,
    pub(crate) after_ms: u64,
    pub(crate) number: u64,
}

/// Where something is, under which epoch, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, kameo::Reply)]
pub(crate) struct Seen {
    pub(crate) count: u64,
    pub(crate) epoch: u64,
    pub(crate) dc: String,
    pub(crate) node: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Opening {
    pub(crate) id: String,
    pub(crate) count: u64,
    pub(crate) fails: bool,
}

macro_rules! counter {
    ($name:ident, $kind:literal) => {
        #[derive(RemoteActor)]
        #[remote(name = $kind)]
        pub(crate) struct $name {
            id: String,
            count: u64,
        }

        impl Actor for $name {
            type Args = Opening;
            type Error = String;

            async fn on_start(args: Opening, _: ActorRef<Self>) -> Result<Self, String> {
                let ownership = Activation::current().and_then(|here| here.ownership());
                let ownership = ownership.ok_or("its proof is there before its state is loaded")?;
                if args.fails {
                    return Err("told to fail".into());
                }
                let epoch = ownership.epoch().0;
                let id = format!("{}/{}", $kind, args.id);
                let lower = log(&id).last().is_some_and(|last| last.epoch > epoch);
                if lower { Err(format!("epoch {epoch} is a lower one")) } else { Ok(Self { id, count: args.count }) }
            }
        }

        impl $name {
            fn count(&mut self, number: u64) -> Result<Seen, String> {
                let here = Activation::current().ok_or("no activation")?;
                let epoch = here.ownership().ok_or("no ownership")?.epoch().0;
                if !write(&self.id, Entry { epoch, number }) {
                    return Err(format!("fenced: epoch {epoch} is a lower one"));
                }
                self.count += 1;
                let system = here.system().ok_or("no system")?;
                let (dc, node) = (system.data_center().name().to_owned(), system.node_id().to_string());
                Ok(Seen { count: self.count, epoch, dc, node })
            }
        }

        impl Message<Count> for $name {
            type Reply = Result<Seen, String>;
            async fn handle(&mut self, Count(number): Count, ctx: &mut Context<Self, Self::Reply>) -> Self::Reply {
                assert!(ctx.ownership().is_some());
                self.count(number)
            }
        }

        impl Message<Slowly> for $name {
            type Reply = Result<Seen, String>;
            async fn handle(&mut self, slow: Slowly, _: &mut Context<Self, Self::Reply>) -> Self::Reply {
                tokio::time::sleep(Duration::from_millis(slow.ms)).await;
                self.count(slow.number)
            }
        }

        impl Message<Close> for $name {
            type Reply = ();
            async fn handle(&mut self, _: Close, ctx: &mut Context<Self, ()>) {
                ctx.stop();
            }
        }

        impl Message<PassTo> for $name {
            type Reply = Result<(), String>;
            async fn handle(&mut self, pass: PassTo, _: &mut Context<Self, Self::Reply>) -> Self::Reply {
                tokio::time::sleep(Duration::from_millis(pass.after_ms)).await;
                let sent = pass.whom.tell(Count(pass.number)).await;
                sent.map_err(|err| err.name().to_owned())
            }
        }
    };
}

macro_rules! takes_its_count_along {
    ($($name:ident),+) => {$(
        impl Snapshot for $name {
            type State = u64;

            async fn snapshot(&mut self) -> Result<u64, String> {
                Ok(self.count)
            }

            async fn restore(&mut self, count: u64) -> Result<(), String> {
                self.count = count;
                Ok(())
            }
        }
    )+};
}

counter!(Keeper, "keeper");
counter!(Ledger, "ledger");
counter!(Basket, "basket");
counter!(Till, "till");
counter!(Always, "always");
takes_its_count_along!(Keeper, Basket);

/// Knows nothing of ownership.
#[derive(RemoteActor)]
#[remote(name = "plain")]
pub(crate) struct Plain;

impl Actor for Plain {
    type Args = ();
    type Error = Infallible;
    async fn on_start((): (), _: ActorRef<Self>) -> Result<Self, Infallible> {
        assert!(Activation::current().is_some_and(|here| here.ownership().is_none()));
        Ok(Self)
    }
}

macro_rules! messages {
    ($kind:ident) => {
        $kind.handles::<Count>().handles::<Slowly>().handles::<Close>().handles::<PassTo>()
    };
}

fn opening(id: &str) -> Opening {
    Opening { id: id.to_owned(), ..Opening::default() }
}

/// Registers but one kind: nothing outlives a session.
pub(crate) fn register_baskets(builder: ActorSystemBuilder) -> ActorSystemBuilder {
    builder.grain::<Basket>(|kind: GrainBuilder<Basket>| {
        messages!(kind).args(opening).scope(Scope::Global).survives(Loss::DataCenter).snapshots()
    })
}

/// Registers the kinds above. `till` may not leave dc-1 when that is lost.
pub(crate) fn register(builder: ActorSystemBuilder) -> ActorSystemBuilder {
    register_baskets(builder)
        .actor::<Keeper>(|kind: KindBuilder<Keeper>| messages!(kind).snapshots())
        .actor::<Ledger>(|kind: KindBuilder<Ledger>| messages!(kind))
        .actor::<Plain>(|kind| kind)
        .grain::<Till>(|kind: GrainBuilder<Till>| {
            messages!(kind).args(opening).scope(Scope::Global).home(Home::within("dc-1"))
        })
        .grain::<Always>(|kind: GrainBuilder<Always>| {
            let kind = messages!(kind).args(opening).scope(Scope::Global).survives(Loss::DataCenter);
            kind.strictness(Strictness::Available)
        })
}
