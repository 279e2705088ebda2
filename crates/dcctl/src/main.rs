//! The operator's command line: which datacenters there are, and what is wanted of them.
//!
//! Owns arguments and printing. It acts with the store's credentials only: it
//! speaks to the control plane, never to nodes, and writes nothing but intents;
//! and throw-away certificates, into files.

mod certs;
mod show;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use futures::StreamExt;
use multidc::{
    ControlPlane, Corrupt, DataCenterId, DataCenterRecord, HeldIntent, Intent, IntentKind, Listing, WatchEvent, wall_ms,
};

/// Datacenters and intents of a multidc system, on any control plane.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Control planes:\n  sqlite:///path/to/file.db\n  nats://host:4222,host2:4222\n  etcd://host:2379,host2:2379\n\nWith TLS and credentials (see docs/stores.md):\n  tls://operator:password@host:4222?ca=/etc/ca.pem&inbox_prefix=_INBOX_operator\n  tls://host:4222?ca=/etc/ca.pem&credentials=/etc/operator.creds\n  tls://host:4222?ca=/etc/ca.pem&certificate=/etc/me.pem&key=/etc/me.key&nkey=/etc/operator.seed\n  etcds://operator:password@host:2379?ca=/etc/ca.pem\n\nA password on the command line is seen by others: set MULTIDC_CONTROL_PLANE instead.\n\nExamples:\n  dcctl --control-plane nats://127.0.0.1:4222 dc list\n  dcctl dc intent set eu-west-1/dc-2 drain --why 'kernel upgrade'"
)]
struct Args {
    /// The control plane's URL.
    #[arg(long, env = "MULTIDC_CONTROL_PLANE", hide_env_values = true, global = true, value_name = "URL")]
    control_plane: Option<String>,
    /// Print JSON instead of a table: one document, or one a line for `watch`.
    #[arg(long, global = true)]
    json: bool,
    /// Bound of the whole command in seconds (`watch` goes on).
    #[arg(long, global = true, default_value_t = 15)]
    timeout: u64,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Datacenters: their records and intents.
    #[command(subcommand)]
    Dc(Dc),
    /// Certificates for TLS between nodes. Needs no control plane.
    #[command(subcommand)]
    Certs(certs::Certs),
}

#[derive(Debug, Subcommand)]
enum Dc {
    /// Every live record, with the operator's intent.
    List,
    /// One record, with its endpoints.
    Get {
        /// The datacenter's id (`region/zone/name`), or its name where that is unambiguous.
        id: String,
    },
    /// What is there, then what changes, until Ctrl-C.
    Watch,
    /// What is wanted of a datacenter.
    #[command(subcommand)]
    Intent(IntentCommand),
}

#[derive(Debug, Subcommand)]
enum IntentCommand {
    /// Say what is wanted; stands until it is said otherwise, whatever restarts meanwhile.
    Set {
        /// The datacenter's id (`region/zone/name`), or its name where that is unambiguous.
        id: String,
        /// serve: take work. drain: no new placements, go on answering. out: drain, then take nothing.
        want: IntentKind,
        /// Why, for the next person on call.
        #[arg(long, default_value = "")]
        why: String,
        /// Who says so.
        #[arg(long, env = "USER", default_value = "dcctl")]
        by: String,
        /// Also for a datacenter that has no record (yet).
        #[arg(long)]
        absent: bool,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    match run(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dcctl: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> anyhow::Result<()> {
    let command = match args.command {
        Command::Certs(command) => return certs::run(command, args.json),
        Command::Dc(command) => command,
    };
    let Some(url) = &args.control_plane else {
        bail!("which control plane? pass --control-plane URL, or set MULTIDC_CONTROL_PLANE (see --help)");
    };
    let plane: Arc<dyn ControlPlane> = multidc::connect(&look_only(url)).await.context("control plane")?;
    if matches!(command, Dc::Watch) {
        tokio::select! {
            watched = watch(plane, args.json) => return watched,
            interrupted = tokio::signal::ctrl_c() => return Ok(interrupted?),
        }
    }
    let bound = Duration::from_secs(args.timeout);
    match tokio::time::timeout(bound, once(plane, command, args.json)).await {
        Ok(done) => done,
        Err(_) => bail!("no answer from the control plane within {bound:?} (--timeout)"),
    }
}

/// A mistyped path of a SQLite file is an error here, not a new empty file.
fn look_only(url: &str) -> String {
    if !url.starts_with("sqlite:") || url.contains("create=") {
        return url.to_owned();
    }
    let separator = if url.contains('?') { '&' } else { '?' };
    format!("{url}{separator}create=false")
}

async fn once(plane: Arc<dyn ControlPlane>, command: Dc, json: bool) -> anyhow::Result<()> {
    match command {
        Dc::List => {
            let listing = plane.list_all().await?;
            report(&listing.skipped);
            show::list(&listing, json)
        }
        Dc::Get { id } => {
            let listing = plane.list_all().await?;
            report(&listing.skipped);
            let id = resolve(&listing, &id, false)?;
            let record = listing.records.iter().find(|record| *record.id() == id);
            let intent = listing.intents.iter().find(|held| held.id == id);
            match record {
                Some(record) => show::record(record, intent, json),
                None => bail!(
                    "{id} has no live record{}",
                    intent.map(|i| format!(", intent {}", i.intent.want)).unwrap_or_default()
                ),
            }
        }
        Dc::Watch => Ok(()),
        Dc::Intent(IntentCommand::Set { id, want, why, by, absent }) => {
            let listing = plane.list_all().await?;
            let id = resolve(&listing, &id, absent)?;
            let mut intent = Intent::new(want, by, why);
            intent.at_ms = wall_ms();
            let version = plane.set_intent(&id, &intent).await?;
            show::intent(&HeldIntent { id, intent, version }, json)
        }
    }
}

/// An id, or a name that one record bears.
fn resolve(listing: &Listing, text: &str, absent: bool) -> anyhow::Result<DataCenterId> {
    let known: Vec<&DataCenterRecord> =
        listing.records.iter().filter(|r| r.id().as_str() == text || r.data_center.name() == text).collect();
    match known[..] {
        [record] => return Ok(record.id().clone()),
        [] => {}
        _ => {
            let ids: Vec<_> = known.iter().map(|record| record.id().to_string()).collect();
            bail!("{text} is the name of {}: say which id", ids.join(" and "));
        }
    }
    let id: DataCenterId = text.parse()?;
    if absent || listing.intents.iter().any(|held| held.id == id) {
        return Ok(id);
    }
    let mut ids: Vec<_> = listing.records.iter().map(|record| record.id().to_string()).collect();
    ids.sort_unstable();
    bail!("no datacenter {id}; known: {} (--absent sets an intent all the same)", show::or_none(&ids.join(", ")))
}

fn report(skipped: &[Corrupt]) {
    for corrupt in skipped {
        eprintln!("dcctl: skipped {corrupt}");
    }
}

async fn watch(plane: Arc<dyn ControlPlane>, json: bool) -> anyhow::Result<()> {
    loop {
        let mut events = match plane.watch().await {
            Ok(events) => events,
            Err(multidc::ControlPlaneError::WatchUnsupported { .. }) => return poll(plane, json).await,
            Err(error) => return Err(error.into()),
        };
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => show::event(&event, json)?,
                Err(error) => {
                    eprintln!("dcctl: {error}; watching anew");
                    break;
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// For backends without a watch: lists each second and tells what differs.
async fn poll(plane: Arc<dyn ControlPlane>, json: bool) -> anyhow::Result<()> {
    let mut before: Option<Listing> = None;
    loop {
        match plane.list_all().await {
            Ok(now) => {
                for event in show::differences(before.as_ref(), &now) {
                    show::event(&event, json)?;
                }
                if before.is_none() {
                    show::event(&WatchEvent::ReplayDone { as_of: now.as_of }, json)?;
                }
                before = Some(now);
            }
            Err(error) => eprintln!("dcctl: {error}; trying again"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use multidc::{DataCenter, DataCenterState, Endpoint, Epoch, NodeEndpoint, NodeId, Owner, StoreId, Version};

    use super::*;

    fn record(name: &str, region: &str) -> DataCenterRecord {
        let endpoint: Endpoint = "127.0.0.1:7946".parse().expect("an endpoint");
        DataCenterRecord {
            data_center: DataCenter::new(name).region(region).build().expect("a datacenter"),
            endpoints: vec![NodeEndpoint::new(NodeId(1), endpoint.clone())],
            state: DataCenterState::Active,
            ttl: Duration::from_secs(30),
            owner: Owner { node: NodeId(1), endpoint },
            epoch: Epoch::FIRST,
            handed_over: false,
            written_at_ms: 0,
            version: Version::new(StoreId(1), 1),
            unknown: Default::default(),
        }
    }

    fn listing(records: Vec<DataCenterRecord>) -> Listing {
        Listing { as_of: Version::new(StoreId(1), 9), records, intents: Vec::new(), skipped: Vec::new() }
    }

    #[test]
    fn an_id_or_an_unambiguous_name_finds_a_datacenter() {
        let known = listing(vec![record("dc-1", "eu"), record("dc-2", "eu"), record("dc-2", "us")]);
        assert_eq!(resolve(&known, "dc-1", false).expect("unambiguous").as_str(), "eu/dc-1");
        assert_eq!(resolve(&known, "us/dc-2", false).expect("an id").as_str(), "us/dc-2");
        let ambiguous = resolve(&known, "dc-2", false).expect_err("two bear it").to_string();
        assert!(ambiguous.contains("eu/dc-2 and us/dc-2"), "{ambiguous}");
        let unknown = resolve(&known, "dc-9", false).expect_err("nobody bears it").to_string();
        assert!(unknown.contains("known: eu/dc-1, eu/dc-2, us/dc-2"), "{unknown}");
        assert_eq!(resolve(&known, "dc-9", true).expect("absent is fine").as_str(), "dc-9");
        assert!(resolve(&known, "d c", true).is_err(), "no id at all");
    }

    #[test]
    fn polling_tells_what_differs_and_nothing_else() {
        let before = listing(vec![record("dc-1", "eu"), record("dc-2", "eu")]);
        let mut renewed = record("dc-1", "eu");
        renewed.version = Version::new(StoreId(1), 7);
        let mut draining = record("dc-3", "eu");
        draining.state = DataCenterState::Draining;
        let events = show::differences(Some(&before), &listing(vec![renewed, draining]));
        let told: Vec<String> = events
            .iter()
            .map(|event| match event {
                WatchEvent::Put(record) => format!("put {}", record.id()),
                WatchEvent::Removed { id, .. } => format!("removed {id}"),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(told, ["put eu/dc-3", "removed eu/dc-2"], "a renewal is no news");
    }

    #[test]
    fn a_sqlite_file_is_only_looked_at() {
        assert_eq!(look_only("sqlite:///a.db"), "sqlite:///a.db?create=false");
        assert_eq!(look_only("sqlite:///a.db?namespace=x"), "sqlite:///a.db?namespace=x&create=false");
        assert_eq!(look_only("nats://h"), "nats://h");
    }
}
