//! The node's links: started, asked for, shut down.

use std::{
    collections::HashMap,
    io, mem,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use dc_core::{Endpoint, SharedClock, StoreId};
use futures::future::join_all;
use parking_lot::Mutex;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    net::{TcpListener, UdpSocket},
    runtime,
    sync::broadcast,
};
use tokio_util::sync::CancellationToken;

use crate::{
    LinkEvent, Network, PROTOCOL, Peer, PeerIdentity, PeerTarget, RemotingConfig, Services, StartError,
    identity::PeerKey,
    inbound::{InLink, Lingering, Places, serve_connections},
    network::Entrance,
    slot::{SHUT_DOWN, Slot, State},
};

/// The shortest and longest time for peers to read what this node has sent before it took its leave.
const PARTING: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// What all parts of one node's remoting share.
pub(crate) struct Shared {
    pub(crate) config: RemotingConfig,
    pub(crate) clock: SharedClock,
    pub(crate) services: Services,
    pub(crate) local: PeerIdentity,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Arc<crate::tls::Tls>>,
    /// What links are made over; TCP without it.
    pub(crate) network: Option<Arc<dyn Network>>,
    pub(crate) runtime: runtime::Handle,
    pub(crate) slots: Mutex<HashMap<Endpoint, Arc<Slot>>>,
    pub(crate) inbound: Mutex<HashMap<(PeerKey, u128), Arc<InLink>>>,
    /// Links that ended while this node still holds some of what came over them.
    pub(crate) lingering: Lingering,
    pub(crate) places: Arc<Places>,
    /// Cancelled when no further connections are taken.
    pub(crate) accepting: CancellationToken,
    /// Cancelled when no new work is taken.
    pub(crate) draining: CancellationToken,
    /// Cancelled when everything ends.
    pub(crate) stop: CancellationToken,
    store: Mutex<Option<StoreId>>,
    events: broadcast::Sender<LinkEvent>,
    random: Mutex<StdRng>,
    started: Instant,
}

impl Shared {
    pub(crate) fn event(&self, event: LinkEvent) {
        // Nobody listening is fine.
        let _ = self.events.send(event);
    }

    /// This node as it presents itself now.
    pub(crate) fn identity(&self) -> PeerIdentity {
        PeerIdentity { store: *self.store.lock(), ..self.local.clone() }
    }

    /// Says so if the peer uses another store (P1). No reason to refuse it.
    pub(crate) fn check_store(&self, identity: &Arc<PeerIdentity>) {
        let ours = *self.store.lock();
        if let (Some(ours), Some(theirs)) = (ours, identity.store)
            && ours != theirs
        {
            tracing::warn!(peer = ?identity, %ours, %theirs, "the peer uses another control-plane store");
            self.event(LinkEvent::StoreMismatch { identity: Arc::clone(identity), ours, theirs });
        }
    }

    /// The node at `endpoint` has shown life.
    pub(crate) fn kick(&self, endpoint: &Endpoint) {
        let slot = self.slots.lock().get(endpoint).cloned();
        if let Some(slot) = slot {
            slot.kick();
        }
    }

    pub(crate) fn random_u128(&self) -> u128 {
        let mut random = self.random.lock();
        u128::from(random.next_u64()) << 64 | u128::from(random.next_u64())
    }

    pub(crate) fn random_unit(&self) -> f64 {
        self.random.lock().random()
    }

    /// Time since remoting started, on the node's clock.
    pub(crate) fn since_start(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.started)
    }
}

/// One node's links: those it takes and those it makes. Cheap to clone; when the last clone is dropped,
/// everything is closed at once ([`shutdown`](Self::shutdown) does it gracefully).
#[derive(Clone)]
pub struct Remoting(Arc<Owner>);

/// What others hold of a node's places, all of which are bounded ([`RemotingConfigBuilder`](crate::RemotingConfigBuilder)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Taken {
    /// Connections that were taken and stand (`max_connections`).
    pub connections: usize,
    /// Those of them whose handshake is not over (`max_handshaking`).
    pub handshaking: usize,
    /// Links that others dialled.
    pub links: usize,
    /// Links that ended while this node still holds messages or asks that came over them.
    pub lingering: usize,
}

struct Owner {
    shared: Arc<Shared>,
    local_addr: SocketAddr,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.accepting.cancel();
        self.shared.draining.cancel();
        self.shared.stop.cancel();
        // They and this hold each other. Their tasks end them, unless the runtime ends before those have run.
        let (slots, inbound) = (mem::take(&mut *self.shared.slots.lock()), mem::take(&mut *self.shared.inbound.lock()));
        for slot in slots.into_values() {
            slot.close();
        }
        for link in inbound.into_values() {
            link.close(SHUT_DOWN);
        }
    }
}

impl Remoting {
    /// Listens at the configured address and takes links from now on.
    ///
    /// # Errors
    ///
    /// [`StartError`]: the address is taken, or nothing is there to advertise.
    pub async fn start(config: RemotingConfig, clock: SharedClock, services: Services) -> Result<Self, StartError> {
        let address = config.listen;
        let listener = TcpListener::bind(address).await.map_err(|source| StartError::Bind { address, source })?;
        Self::start_on(listener, config, clock, services)
    }

    /// Like [`start`](Self::start), on a socket that is bound already (see [`bind_one_port`]).
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start). Must be called within a tokio runtime.
    pub fn start_on(
        listener: TcpListener,
        config: RemotingConfig,
        clock: SharedClock,
        services: Services,
    ) -> Result<Self, StartError> {
        Self::begin(Entrance::Tcp(listener), None, config, clock, services)
    }

    /// Like [`start`](Self::start), over something else than TCP: a simulated network.
    ///
    /// # Errors
    ///
    /// As for [`start`](Self::start); [`StartError::Invalid`] with TLS, which is for TCP only.
    pub async fn start_over(
        network: Arc<dyn Network>,
        config: RemotingConfig,
        clock: SharedClock,
        services: Services,
    ) -> Result<Self, StartError> {
        #[cfg(feature = "tls")]
        if config.tls.is_some() {
            return Err(dc_core::Invalid::new("tls", "set", "must not be set over another network than TCP").into());
        }
        let address = config.listen;
        let listener = network.listen(address).await.map_err(|source| StartError::Bind { address, source })?;
        Self::begin(Entrance::Other(listener), Some(network), config, clock, services)
    }

    fn begin(
        entrance: Entrance,
        network: Option<Arc<dyn Network>>,
        config: RemotingConfig,
        clock: SharedClock,
        services: Services,
    ) -> Result<Self, StartError> {
        let local_addr = entrance.local_addr().map_err(|source| StartError::Bind { address: config.listen, source })?;
        let advertised = match &config.advertise {
            Some(endpoint) => endpoint.clone(),
            None if local_addr.ip().is_unspecified() => return Err(StartError::NoAdvertise(local_addr)),
            None => local_addr.into(),
        };
        let local = PeerIdentity {
            system: config.system.clone(),
            dc: config.dc.clone(),
            node: config.node,
            advertised,
            store: None,
            protocol: PROTOCOL,
        };
        #[cfg(feature = "tls")]
        let tls = config.tls.clone().map(|tls| crate::tls::Tls::start(tls, &local)).transpose()?.map(Arc::new);
        #[cfg(feature = "tls")]
        let encrypted = tls.is_some();
        #[cfg(not(feature = "tls"))]
        let encrypted = false;
        if !encrypted && network.is_none() && !local_addr.ip().is_loopback() {
            tracing::warn!(
                listen = %local_addr,
                "links are not encrypted, and whoever reaches this port is let in: set TLS (feature `tls`, `.tls(TlsConfig)`), \
                 or keep the port within a network that you trust"
            );
        }
        let seed = config.seed.unwrap_or_else(rand::random);
        tracing::info!(node = ?local, listen = %local_addr, "taking links");
        let shared = Arc::new(Shared {
            places: Arc::new(Places::new(&config)),
            started: clock.now(),
            config,
            clock,
            services,
            local,
            #[cfg(feature = "tls")]
            tls,
            network,
            runtime: runtime::Handle::current(),
            slots: Mutex::default(),
            inbound: Mutex::default(),
            lingering: Lingering::default(),
            accepting: CancellationToken::new(),
            draining: CancellationToken::new(),
            stop: CancellationToken::new(),
            store: Mutex::default(),
            events: broadcast::Sender::new(256),
            random: Mutex::new(StdRng::seed_from_u64(seed)),
        });
        tokio::spawn(serve_connections(Arc::clone(&shared), entrance));
        #[cfg(feature = "tls")]
        if let Some(tls) = shared.tls.clone() {
            tokio::spawn(crate::tls::keep_fresh(Arc::clone(&shared), tls));
        }
        Ok(Self(Arc::new(Owner { shared, local_addr })))
    }

    /// This node as it presents itself to others; the store is told apart from it ([`set_store`](Self::set_store)).
    pub fn local(&self) -> &PeerIdentity {
        &self.0.shared.local
    }

    /// The address that links are taken on.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    /// What others hold of this node's bounded places now.
    pub fn taken(&self) -> Taken {
        let shared = &self.0.shared;
        let (connections, handshaking) = shared.places.counts();
        Taken { connections, handshaking, links: shared.inbound.lock().len(), lingering: shared.lingering.count() }
    }

    /// The services that links serve.
    pub fn services(&self) -> &Services {
        &self.0.shared.services
    }

    /// The clock that links live by.
    pub fn clock(&self) -> &SharedClock {
        &self.0.shared.clock
    }

    /// Tells peers, in handshakes from now on, which control-plane store this node uses.
    pub fn set_store(&self, id: StoreId) {
        *self.0.shared.store.lock() = Some(id);
    }

    /// Reads the certificate files again now, as is done by itself every
    /// [`reload_every`](crate::TlsConfigBuilder::reload_every). True if they changed: connections from now on use the
    /// new set. Standing links are left alone. False without TLS.
    ///
    /// # Errors
    ///
    /// [`TlsError`](crate::TlsError): the new set cannot be used, and the old one stays.
    #[cfg(feature = "tls")]
    pub async fn reload_tls(&self) -> Result<bool, crate::TlsError> {
        let shared = &self.0.shared;
        match &shared.tls {
            Some(tls) => tls.reload(shared).await,
            None => Ok(false),
        }
    }

    /// A peer. Nothing is dialled before it is used; targets at one endpoint share one link.
    ///
    /// A peer beyond `max_peers` endpoints is never dialled: all it answers is `Overloaded`.
    pub fn peer(&self, target: impl Into<PeerTarget>) -> Peer {
        let target = target.into();
        let shared = &self.0.shared;
        let mut slots = shared.slots.lock();
        if slots.len() >= shared.config.max_peers && !slots.contains_key(&target.endpoint) {
            tracing::warn!(endpoint = %target.endpoint, max = shared.config.max_peers, "too many peers");
            crate::measure::limit("max_peers");
            return Peer::new(Slot::refused(shared, target.endpoint.clone()), target);
        }
        let slot = slots.entry(target.endpoint.clone()).or_insert_with(|| Slot::start(shared, target.endpoint.clone()));
        Peer::new(Arc::clone(slot), target)
    }

    /// What happens to links from now on. A listener that is slow loses the oldest events.
    pub fn events(&self) -> broadcast::Receiver<LinkEvent> {
        self.0.shared.events.subscribe()
    }

    /// Closes everything: takes no new work at once, gives what is under way `grace` to end, says goodbye.
    ///
    /// Answers that were given before reach askers that can be reached: each lane says goodbye after its
    /// answers, and is cut off when the peer has read them and closed its end. The peers get what is left of
    /// `grace` for that, at least 50 ms and at most a second.
    ///
    /// Dropped before it is done, it goes on when the last clone of this handle is dropped.
    pub async fn shutdown(&self, grace: Duration) {
        let shared = &self.0.shared;
        let begun = shared.since_start();
        shared.draining.cancel();
        let slots: Vec<_> = shared.slots.lock().values().cloned().collect();
        for link in slots.iter().filter_map(|slot| slot.current()) {
            link.stop_taking();
        }
        let quiet = async {
            while !is_quiet(shared) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(grace, quiet).await.is_err() {
            tracing::info!(?grace, "shutting down with work under way");
        }
        for slot in slots {
            if let Some(link) = slot.current() {
                link.say_goodbye("shutting down").await;
            }
            slot.state.send_replace(State::Closed);
        }
        let inbound: Vec<_> = shared.inbound.lock().values().cloned().collect();
        for link in &inbound {
            link.part("shutting down");
        }
        let left = grace.saturating_sub(shared.since_start().saturating_sub(begun));
        let all_closed = join_all(inbound.iter().map(|link| link.closed()));
        if tokio::time::timeout(left.clamp(PARTING.0, PARTING.1), all_closed).await.is_err() {
            tracing::info!("a peer did not close its link in time");
        }
        for link in inbound {
            link.close("shutting down");
        }
        shared.accepting.cancel();
        shared.stop.cancel();
    }
}

fn is_quiet(shared: &Shared) -> bool {
    let out = shared.slots.lock().values().all(|slot| slot.current().is_none_or(|link| link.is_quiet()));
    out && shared.inbound.lock().values().all(|link| link.is_quiet())
}

/// Binds TCP (links) and UDP (gossip) to one address and the same port. With port 0, TCP gets a free
/// one and UDP the same number; a clash is tried again with another.
///
/// # Errors
///
/// What the system said last.
pub async fn bind_one_port(address: SocketAddr) -> io::Result<(TcpListener, UdpSocket)> {
    let mut tries = 0;
    loop {
        let tcp = TcpListener::bind(address).await?;
        match UdpSocket::bind(tcp.local_addr()?).await {
            Ok(udp) => return Ok((tcp, udp)),
            Err(err) if address.port() != 0 || tries >= 20 => return Err(err),
            Err(_) => tries += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dc_core::{DataCenter, NodeId, SystemClock, SystemName};

    use super::*;
    use crate::{Incoming, Message, Receiver, Undelivered};

    /// Takes no message in before it is told to.
    #[derive(Default)]
    struct Slow(Mutex<Vec<crate::Accept>>);

    impl Receiver for Slow {
        fn message(&self, _: &Arc<PeerIdentity>, incoming: Incoming) {
            self.0.lock().push(incoming.accept);
            if let Some(reply) = incoming.reply {
                reply.send(0, Bytes::new());
            }
        }

        fn undelivered(&self, _: Undelivered) {}
    }

    async fn node(id: u128, receiver: Arc<Slow>) -> Remoting {
        let dc = DataCenter::new("dc-1").build().expect("legal");
        let config = RemotingConfig::builder(SystemName::new("app").expect("legal"), dc.id().clone(), NodeId(id));
        let config = config.build().expect("legal");
        let services = Services::new().receiver(receiver);
        Remoting::start(config, Arc::new(SystemClock), services).await.expect("a free port")
    }

    /// Found by a fuzzer whose memory grew: a node and its links held each other, and so did a lane and those whom it
    /// owed credits when it ended, or later.
    #[test]
    fn r5_nothing_is_left_of_nodes_whose_runtime_ends_with_them() {
        for graceful in [true, false] {
            nothing_is_left(graceful);
        }
    }

    fn nothing_is_left(graceful: bool) {
        let runtime = runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let kept = runtime.block_on(async {
            let receiver = Arc::new(Slow::default());
            let (dials, takes) = (node(1, Arc::default()).await, node(2, receiver.clone()).await);
            let pair = dials.peer(PeerTarget::at(takes.local_addr().into())).pair();
            for early in [true, false] {
                let message = Message {
                    to: 1,
                    kind: "worker".into(),
                    key: Bytes::new(),
                    message: "work".into(),
                    epoch: 0,
                    from: Bytes::new(),
                    payload: Bytes::new(),
                };
                pair.ask(message, Duration::from_secs(20)).await.expect("answered");
                if early {
                    receiver.0.lock().clear();
                }
            }
            // The credits of the second are out: nobody waits for them.
            if graceful {
                dials.shutdown(Duration::from_millis(100)).await;
                takes.shutdown(Duration::from_millis(100)).await;
            }
            receiver.0.lock().clear();
            [Arc::downgrade(&dials.0.shared), Arc::downgrade(&takes.0.shared)]
        });
        drop(runtime);
        assert_eq!(kept.map(|shared| shared.strong_count()), [0, 0], "graceful: {graceful}");
    }
}
