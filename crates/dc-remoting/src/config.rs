//! Limits and times of links, checked when they are built.

use std::{net::SocketAddr, time::Duration};

use dc_core::{DataCenterId, Endpoint, Invalid, NodeId, SystemName};

/// What a sender meets when its credits are used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// It waits until the receiver has accepted enough.
    #[default]
    Wait,
    /// It gets [`LinkError::Overloaded`](crate::LinkError::Overloaded) at once.
    Refuse,
}

/// How this node links to others. Holding one proves it valid: [`RemotingConfigBuilder::build`] is the only way in.
///
/// ```
/// use dc_core::{DataCenter, NodeId, SystemName};
/// use dc_remoting::RemotingConfig;
/// let dc = DataCenter::new("dc-1").build()?;
/// let config = RemotingConfig::builder(SystemName::new("app")?, dc.id().clone(), NodeId(1))
///     .listen("127.0.0.1:0".parse().unwrap())
///     .build()?;
/// # Ok::<(), dc_core::Invalid>(())
/// ```
#[derive(Clone, Debug)]
pub struct RemotingConfig {
    pub(crate) system: SystemName,
    pub(crate) dc: DataCenterId,
    pub(crate) node: NodeId,
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: Option<Endpoint>,
    pub(crate) when_full: WhenFull,
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) keepalive_interval: Duration,
    pub(crate) keepalive_timeout: Duration,
    pub(crate) backoff_first: Duration,
    pub(crate) backoff_max: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) max_payload: usize,
    pub(crate) max_call_body: usize,
    pub(crate) bulk_threshold: usize,
    pub(crate) chunk: usize,
    pub(crate) link_window: usize,
    pub(crate) pair_bytes: usize,
    pub(crate) pair_messages: u32,
    pub(crate) max_pairs: usize,
    pub(crate) max_asks: usize,
    pub(crate) max_waiting: usize,
    pub(crate) max_symbols: usize,
    pub(crate) max_peers: usize,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_address: Option<usize>,
    pub(crate) max_handshaking: usize,
    pub(crate) max_handshaking_per_address: usize,
    pub(crate) max_links_per_peer: usize,
    pub(crate) seed: Option<u64>,
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<crate::TlsConfig>,
}

/// Starts from the defaults; set only what differs.
#[derive(Clone, Debug)]
pub struct RemotingConfigBuilder(RemotingConfig);

impl RemotingConfig {
    /// Bytes that each message counts for beside its key, sender, payload, and the names of its kind and type.
    pub const MESSAGE_OVERHEAD: usize = 256;

    /// Largest gRPC message that is read, in bytes; what is larger closes the link.
    pub const MAX_FRAME: usize = 4 << 20;

    /// Largest key and sender reference together, in bytes.
    pub const MAX_ADDRESS: usize = 64 << 10;

    /// Largest kind or message name, in bytes.
    pub const MAX_SYMBOL: usize = 1 << 10;

    /// The most that a message counts for beside its payload, in bytes.
    pub const MESSAGE_ROOM: usize = Self::MESSAGE_OVERHEAD + Self::MAX_ADDRESS + 2 * Self::MAX_SYMBOL;

    /// Starts from the defaults, which are stated at each setter.
    pub fn builder(system: SystemName, dc: DataCenterId, node: NodeId) -> RemotingConfigBuilder {
        RemotingConfigBuilder(Self {
            system,
            dc,
            node,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            advertise: None,
            when_full: WhenFull::Wait,
            connect_timeout: Duration::from_secs(2),
            handshake_timeout: Duration::from_secs(5),
            keepalive_interval: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(3),
            backoff_first: Duration::from_millis(100),
            backoff_max: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(600),
            max_payload: 16 << 20,
            max_call_body: 1 << 20,
            bulk_threshold: 64 << 10,
            chunk: 256 << 10,
            link_window: 64 << 20,
            pair_bytes: 16 << 20,
            pair_messages: 16_384,
            max_pairs: 1 << 18,
            max_asks: 1 << 16,
            max_waiting: 1 << 14,
            max_symbols: 4096,
            max_peers: 4096,
            max_connections: 4096,
            max_connections_per_address: None,
            max_handshaking: 1024,
            max_handshaking_per_address: 256,
            max_links_per_peer: 8,
            seed: None,
            #[cfg(feature = "tls")]
            tls: None,
        })
    }
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty,)*) => {
        $($(#[$doc])* #[must_use] pub fn $name(mut self, $name: $type) -> Self { self.0.$name = $name; self })*
    };
}

impl RemotingConfigBuilder {
    setters! {
        /// Address to take links on. Default 127.0.0.1 and a free port.
        listen: SocketAddr,
        /// What senders meet when their credits are used up. Default: they wait.
        when_full: WhenFull,
        /// Longest time to open one connection. Default 2 s.
        connect_timeout: Duration,
        /// Longest time from an open connection to a finished handshake, at both sides. Default 5 s.
        handshake_timeout: Duration,
        /// Time between pings. Default 1 s.
        keepalive_interval: Duration,
        /// Longest silence after a ping before the link counts as dead; at least twice the interval. Default 3 s.
        keepalive_timeout: Duration,
        /// First wait before a failed peer is dialled again. Default 100 ms.
        backoff_first: Duration,
        /// Longest such wait. Default 5 s.
        backoff_max: Duration,
        /// A link that carried nothing for this long is closed. Default 10 min.
        idle_timeout: Duration,
        /// Largest payload or answer, in bytes. Default 16 MiB.
        max_payload: usize,
        /// Largest body of a call or of its answer, in bytes. Default 1 MiB.
        max_call_body: usize,
        /// Payloads and answers above this many bytes go over the bulk lane. Default 64 KiB.
        bulk_threshold: usize,
        /// Size of the pieces that the bulk lane cuts them into, in bytes. Default 256 KiB.
        chunk: usize,
        /// Bytes that one peer may have sent us and we have not accepted yet (R5). Default 64 MiB.
        link_window: usize,
        /// The share of it that one pair may use, in bytes; one message always fits. Default 16 MiB.
        pair_bytes: usize,
        /// Messages of one pair that may be unaccepted. Default 16,384.
        pair_messages: u32,
        /// Pairs that one link may have. Default 262,144.
        max_pairs: usize,
        /// Unanswered asks on one link. Default 65,536.
        max_asks: usize,
        /// Senders that may wait for a link that is being made, per peer. Default 16,384.
        max_waiting: usize,
        /// Kind and message names that one lane interns; later ones travel as text. Default 4096.
        max_symbols: usize,
        /// Peers that this node may link to. Default 4096.
        max_peers: usize,
        /// Connections that this node takes; a link is three. Default 4096.
        max_connections: usize,
        /// Connections of them that have not finished their handshake. Beyond, the oldest makes room once it has had a
        /// tenth of `handshake_timeout`; until then new ones are refused. Default 1024.
        max_handshaking: usize,
        /// The same for one address, or for one /64 of IPv6. Default 256.
        max_handshaking_per_address: usize,
        /// Links that one node may have to this one. It needs one, or two while one replaces another. Default 8.
        max_links_per_peer: usize,
    }

    /// Connections that one address, or one /64 of IPv6, may have here. Default: half of `max_connections`, at least 3.
    /// Raise it where many peers come from one address, as behind a gateway.
    #[must_use]
    pub fn max_connections_per_address(mut self, connections: usize) -> Self {
        self.0.max_connections_per_address = Some(connections);
        self
    }

    /// Where others reach this node. Default: the address it listens on, unless that is a wildcard.
    #[must_use]
    pub fn advertise(mut self, endpoint: Endpoint) -> Self {
        self.0.advertise = Some(endpoint);
        self
    }

    /// Seed of jitter and link numbers, for tests that replay. Default: drawn at random.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.0.seed = Some(seed);
        self
    }

    /// Mutual TLS on every link, both those that this node makes and those that it takes (R9). Default: none.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: crate::TlsConfig) -> Self {
        self.0.tls = Some(tls);
        self
    }

    /// Checks every rule.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, its value and the rule.
    pub fn build(self) -> Result<RemotingConfig, Invalid> {
        let c = &self.0;
        for (field, value) in [
            ("connect_timeout", c.connect_timeout),
            ("handshake_timeout", c.handshake_timeout),
            ("keepalive_interval", c.keepalive_interval),
            ("keepalive_timeout", c.keepalive_timeout),
            ("backoff_first", c.backoff_first),
            ("backoff_max", c.backoff_max),
            ("idle_timeout", c.idle_timeout),
        ] {
            if value.is_zero() || value > Duration::from_secs(86_400) {
                return Err(Invalid::new(field, format!("{value:?}"), "must be above zero and at most a day"));
            }
        }
        let per_address = c.max_connections_per_address.unwrap_or(3);
        let rules: [(&str, String, bool, &str); 19] = [
            (
                "keepalive_timeout",
                format!("{:?}", c.keepalive_timeout),
                c.keepalive_timeout >= c.keepalive_interval * 2,
                "must be at least twice keepalive_interval",
            ),
            (
                "backoff_max",
                format!("{:?}", c.backoff_max),
                c.backoff_max >= c.backoff_first,
                "must not be below backoff_first",
            ),
            (
                "max_payload",
                c.max_payload.to_string(),
                (1..=1 << 30).contains(&c.max_payload),
                "must be 1 byte to 1 GiB",
            ),
            ("chunk", c.chunk.to_string(), (4 << 10..=1 << 20).contains(&c.chunk), "must be 4 KiB to 1 MiB"),
            ("bulk_threshold", c.bulk_threshold.to_string(), c.bulk_threshold <= 1 << 20, "must be at most 1 MiB"),
            (
                "max_call_body",
                c.max_call_body.to_string(),
                (1..=2 << 20).contains(&c.max_call_body),
                "must be 1 byte to 2 MiB",
            ),
            (
                "link_window",
                c.link_window.to_string(),
                c.link_window >= c.max_payload + RemotingConfig::MESSAGE_ROOM && c.link_window <= 1 << 31,
                "must hold max_payload and 67 KiB more, and be at most 2 GiB",
            ),
            ("pair_bytes", c.pair_bytes.to_string(), c.pair_bytes > 0, "must be above zero"),
            ("pair_messages", c.pair_messages.to_string(), c.pair_messages > 0, "must be above zero"),
            ("max_pairs", c.max_pairs.to_string(), (1..=1 << 24).contains(&c.max_pairs), "must be 1 to 16,777,216"),
            ("max_asks", c.max_asks.to_string(), (1..=1 << 24).contains(&c.max_asks), "must be 1 to 16,777,216"),
            ("max_waiting", c.max_waiting.to_string(), c.max_waiting > 0, "must be above zero"),
            ("max_symbols", c.max_symbols.to_string(), c.max_symbols <= 1 << 20, "must be at most 1,048,576"),
            ("max_peers", c.max_peers.to_string(), c.max_peers > 0, "must be above zero"),
            ("max_connections", c.max_connections.to_string(), c.max_connections >= 3, "must be at least 3"),
            ("max_connections_per_address", per_address.to_string(), per_address >= 3, "must be at least 3"),
            ("max_handshaking", c.max_handshaking.to_string(), c.max_handshaking >= 3, "must be at least 3"),
            (
                "max_handshaking_per_address",
                c.max_handshaking_per_address.to_string(),
                c.max_handshaking_per_address >= 3,
                "must be at least 3",
            ),
            ("max_links_per_peer", c.max_links_per_peer.to_string(), c.max_links_per_peer > 0, "must be above zero"),
        ];
        for (field, value, holds, rule) in rules {
            if !holds {
                return Err(Invalid::new(field, value, rule));
            }
        }
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use dc_core::DataCenter;

    use super::*;

    fn builder() -> RemotingConfigBuilder {
        let dc = DataCenter::new("dc-1").build().unwrap();
        RemotingConfig::builder(SystemName::new("app").unwrap(), dc.id().clone(), NodeId(1))
    }

    #[test]
    fn defaults_are_valid() {
        builder().build().expect("defaults");
    }

    #[test]
    fn each_bad_field_is_refused_by_name() {
        let field = |b: RemotingConfigBuilder| b.build().expect_err("must be refused").field;
        assert_eq!(field(builder().connect_timeout(Duration::ZERO)), "connect_timeout");
        assert_eq!(field(builder().keepalive_timeout(Duration::from_secs(1))), "keepalive_timeout");
        assert_eq!(field(builder().backoff_max(Duration::from_millis(1))), "backoff_max");
        assert_eq!(field(builder().max_payload(0)), "max_payload");
        assert_eq!(field(builder().chunk(1)), "chunk");
        assert_eq!(field(builder().bulk_threshold(2 << 20)), "bulk_threshold");
        assert_eq!(field(builder().link_window(1)), "link_window");
        assert_eq!(field(builder().pair_bytes(0)), "pair_bytes");
        assert_eq!(field(builder().pair_messages(0)), "pair_messages");
        assert_eq!(field(builder().max_pairs(0)), "max_pairs");
        assert_eq!(field(builder().max_asks(0)), "max_asks");
        assert_eq!(field(builder().max_waiting(0)), "max_waiting");
        assert_eq!(field(builder().max_symbols(2 << 20)), "max_symbols");
        assert_eq!(field(builder().max_peers(0)), "max_peers");
        assert_eq!(field(builder().max_connections(2)), "max_connections");
        assert_eq!(field(builder().max_connections_per_address(2)), "max_connections_per_address");
        assert_eq!(field(builder().max_handshaking(2)), "max_handshaking");
        assert_eq!(field(builder().max_handshaking_per_address(2)), "max_handshaking_per_address");
        assert_eq!(field(builder().max_links_per_peer(0)), "max_links_per_peer");
        assert_eq!(field(builder().max_call_body(3 << 20)), "max_call_body");
    }
}
