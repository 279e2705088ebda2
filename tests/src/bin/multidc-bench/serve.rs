//! The far end of a benchmark, as a process of its own.

use std::{
    net::SocketAddr,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use clap::ValueEnum;
use kameo::actor::ActorRef;
use multidc::{Scope, prelude::*};
use multidc_tests::counters::{CounterArgs, Increment, Nearby, Tally};
use serde::{Deserialize, Serialize};
use std::{convert::Infallible, io::BufRead};

use crate::{bare_tonic, raw_tcp};

/// What to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// A framed TCP echo.
    RawTcp,
    /// A tonic stream that hands each ask to a task and back.
    BareTonic,
    /// A multidc node.
    Node,
}

/// A served process; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Far {
    pub(crate) addr: SocketAddr,
    child: Child,
    // Its end is the far end's sign to leave.
    _stdin: Option<ChildStdin>,
}

impl Far {
    pub(crate) fn start(role: Role, args: &[&str]) -> anyhow::Result<Self> {
        let role = role.to_possible_value().context("every role has a name")?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--serve", role.get_name()])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("stdout is piped")?;
        let mut line = String::new();
        std::io::BufReader::new(stdout).read_line(&mut line)?;
        let addr = line.trim().parse().with_context(|| format!("the far end said {line:?}"))?;
        Ok(Self { addr, child, _stdin: stdin })
    }
}

impl Far {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        // It is gone, or goes now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn run(role: Role, plane: &str, dc: &str, seed: Option<&str>) -> anyhow::Result<()> {
    match role {
        Role::RawTcp => drop(tokio::spawn(raw_tcp::serve())),
        Role::BareTonic => drop(tokio::spawn(bare_tonic::serve())),
        Role::Node => {
            let system = node(plane, dc, seed).await?;
            println!("{}", system.endpoint());
            until_stdin_ends().await;
            drop(system);
            return Ok(());
        }
    }
    until_stdin_ends().await;
    Ok(())
}

async fn until_stdin_ends() {
    // Any end will do.
    let _ = tokio::task::spawn_blocking(|| std::io::copy(&mut std::io::stdin(), &mut std::io::sink())).await;
}

/// A node of the benchmark's system.
pub(crate) async fn node(plane: &str, dc: &str, seed: Option<&str>) -> anyhow::Result<ActorSystem> {
    let times = |options: ControllerOptionsBuilder| {
        options
            .lease_ttl(Duration::from_secs(6))
            .heartbeat_interval(Duration::from_secs(1))
            .cache_refresh_interval(Duration::from_millis(500))
            .leader_check_interval(Duration::from_millis(500))
    };
    let system = ActorSystem::builder("bench")
        .data_center(DataCenter::new(dc))
        .control_plane(multidc::connect(plane).await?)
        .controller(times)
        .listen("127.0.0.1:0")
        .seeds(seed)
        .actor::<Echo>(|kind| kind.handles::<Ping>().handles::<Count>().handles::<Counted>())
        .grain::<Nearby>(|kind| kind.args(counter).per_data_center().handles::<Increment>())
        .grain::<Tally>(|kind| kind.args(counter).scope(Scope::Global).handles::<Increment>())
        .start()
        .await?;
    Ok(system)
}

fn counter(id: &str) -> CounterArgs {
    CounterArgs { id: id.to_owned() }
}

/// Answers what it is sent, and counts.
#[derive(Default, RemoteActor)]
#[remote(name = "echo")]
pub(crate) struct Echo {
    counted: u64,
}

/// Nothing to start with.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct EchoArgs {}

/// Comes back as it is.
#[derive(Clone, Debug, Serialize, Deserialize, kameo::Reply, RemoteMessage)]
#[remote(name = "ping")]
pub(crate) struct Ping(pub(crate) Bytes);

/// Counts.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
#[remote(name = "count")]
pub(crate) struct Count(pub(crate) Bytes);

/// How many were counted.
#[derive(Clone, Debug, Serialize, Deserialize, RemoteMessage)]
#[remote(name = "counted")]
pub(crate) struct Counted;

impl Actor for Echo {
    type Args = EchoArgs;
    type Error = Infallible;
    async fn on_start(_: EchoArgs, _: ActorRef<Self>) -> Result<Self, Infallible> {
        Ok(Self::default())
    }
}

impl Message<Ping> for Echo {
    type Reply = Ping;
    async fn handle(&mut self, ping: Ping, _: &mut Context<Self, Ping>) -> Ping {
        ping
    }
}

impl Message<Count> for Echo {
    type Reply = ();
    async fn handle(&mut self, _: Count, _: &mut Context<Self, ()>) {
        self.counted += 1;
    }
}

impl Message<Counted> for Echo {
    type Reply = u64;
    async fn handle(&mut self, _: Counted, _: &mut Context<Self, u64>) -> u64 {
        self.counted
    }
}
