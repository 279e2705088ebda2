//! In which order a node comes up.

use std::sync::Arc;

use dc_cache::{CacheOptions, RoutingTable};
use dc_cluster::{Cluster, ClusterError, DatagramTransport};
use dc_controller::{Controller, Parts as ControllerParts};
use dc_core::{Invalid, NodeId, Owner};
use dc_ownership::{Me, Ownership, Parts as OwnershipParts};
use dc_remoting::{Remoting, RemotingConfig, Services, bind_one_port};

use super::{
    ActorSystem, ConfigError,
    builder::{OtherNetwork, OwnedParts, Parts},
    follow,
    node::{Made, Node},
};
use crate::{
    global::{self, Global},
    grain, receive,
};

/// Why a system did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The description breaks rules: all of them, each naming field, value and rule.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Config(Vec<ConfigError>),
    /// The node cannot listen, or has nothing to advertise.
    #[error(transparent)]
    Links(#[from] dc_remoting::StartError),
    /// Membership could not start.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
}

impl From<Invalid> for StartError {
    fn from(invalid: Invalid) -> Self {
        Self::Config(vec![invalid.into()])
    }
}

/// Links first, then the datacenter's members, then the record and the routing table; then work is taken.
pub(super) async fn run(mut parts: Parts) -> Result<ActorSystem, StartError> {
    let id = NodeId(rand::random());
    let seed: u64 = rand::random();
    let services = Services::new();
    let config = parts.remoting_config(id)?;
    let (remoting, gossip) = listen(&mut parts, config, &services).await?;
    let endpoint = remoting.local().advertised.clone();
    let cluster = Cluster::start_on(parts.cluster, remoting.clone(), gossip, parts.clock.clone(), seed);
    let cluster = match cluster.await {
        Ok(cluster) => cluster,
        Err(error) => {
            remoting.shutdown(std::time::Duration::ZERO).await;
            return Err(error.into());
        }
    };
    let table = RoutingTable::new(parts.clock.clone(), cache_options(&parts.controller)?);
    let request_timeout = parts.controller.request_timeout();
    let controller = Controller::start(ControllerParts {
        plane: parts.plane.clone(),
        data_center: parts.data_center.clone(),
        me: Owner { node: id, endpoint: endpoint.clone() },
        options: parts.controller,
        view: cluster.view(),
        table: table.clone(),
        clock: parts.clock.clone(),
        seed,
    })?;
    let of_cluster = cluster.events();
    let owned = parts.owned.take();
    let node = Node::new(Made {
        plane: parts.plane,
        data_center: parts.data_center,
        id,
        endpoint,
        options: parts.options,
        clock: parts.clock,
        kinds: parts.kinds,
        remoting,
        cluster,
        table,
        controller,
        seed,
    });
    receive::serve(&node, &services);
    if let Some(owned) = owned {
        take_part(&node, owned);
    }
    follow::all(&node, of_cluster);
    node.keep(grain::put_to_rest(node.clone()));
    node.keep(grain::settle_doubts(node.clone()));
    let system = ActorSystem::with_handle(node.clone());
    tracing::info!(node = %node.label(), endpoint = %node.endpoint(), "node started");
    until_ready(&node, request_timeout).await;
    Ok(system)
}

/// Takes links, and what carries gossip beside them.
async fn listen(
    parts: &mut Parts,
    config: RemotingConfig,
    services: &Services,
) -> Result<(Remoting, Arc<dyn DatagramTransport>), dc_remoting::StartError> {
    let (clock, services) = (parts.clock.clone(), services.clone());
    if let Some(OtherNetwork { links, gossip }) = parts.network.take() {
        return Ok((Remoting::start_over(links, config, clock, services).await?, gossip));
    }
    let address = parts.listen;
    let bound = bind_one_port(address).await;
    let (tcp, udp) = bound.map_err(|source| dc_remoting::StartError::Bind { address, source })?;
    Ok((Remoting::start_on(tcp, config, clock, services)?, Arc::new(udp)))
}

/// Begins this node's part in global ownership. Never waits for the store.
fn take_part(node: &Arc<Node>, owned: OwnedParts) {
    let table = node.table().clone();
    let own = node.data_center().id().clone();
    let ttl = owned.options.ttl();
    let policies: Vec<_> = node.kinds().global_grains().map(|(kind, policy)| (kind, policy.clone())).collect();
    let (ownership, orders) = Ownership::start(OwnershipParts {
        store: owned.store,
        me: Me { node: node.id(), data_center: node.data_center().clone(), endpoint: node.endpoint().clone() },
        kinds: policies.iter().map(|(kind, policy)| ((*kind).to_owned(), policy.clone())).collect(),
        // A datacenter that is not listed yet takes what its own nodes are told; others wait until it is.
        placeable: Arc::new(move |id| {
            let snapshot = table.snapshot();
            snapshot.get(id).map_or(*id == own, |entry| entry.takes_placements())
        }),
        transfer: Arc::new(global::Carrier { system: node.weak() }),
        options: owned.options,
        clock: owned.clock.clone(),
        seed: rand::random(),
    });
    // Until it is known what the operator wants of this datacenter (P8): `follow_intent` says so.
    ownership.wait_to_be_told();
    let groups = policies.into_iter().map(|(kind, policy)| (kind, policy.group())).collect();
    node.set_global(Arc::new(Global::new(ownership.clone(), owned.clock, groups, ttl)));
    node.keep(global::follow(node.weak(), orders));
    node.keep(global::tell_events(node.weak(), ownership.events()));
    node.keep(global::follow_intent(node.weak()));
}

/// The table takes its times from the controller's options; the controller's own task keeps it in step.
fn cache_options(options: &dc_controller::ControllerOptions) -> Result<CacheOptions, Invalid> {
    CacheOptions::builder()
        .cache_refresh_interval(options.cache_refresh_interval())
        .max_cache_staleness(options.max_cache_staleness())
        .request_timeout(options.request_timeout())
        .jitter_ratio(options.jitter_ratio())
        .max_backoff(options.max_backoff())
        .watch_enabled(options.watch_enabled())
        .build()
}

/// Waits until the node is ready (D7), or until it is time to go on without the control plane (D4).
async fn until_ready(node: &Arc<Node>, at_most: std::time::Duration) {
    if tokio::time::timeout(at_most, node.wait_ready()).await.is_err() {
        tracing::warn!(
            node = %node.label(),
            joined = node.view().joined,
            table_in_step = node.table().ever_in_step(),
            "not ready yet; going on: the datacenter works inside, the rest is retried"
        );
    }
}
