//! Options of a node's membership and directory, checked when they are built.

use std::{net::SocketAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use dc_core::{Endpoint, Invalid};

use crate::{
    discovery::{Discovery, StaticSeeds},
    seal::GossipKey,
};

/// How fast silence is noticed, and how often others are talked to.
///
/// A killed node is noticed after about one and a half probe periods and the
/// suspicion: 1 to 1.5 s with [`lan`](Self::lan).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GossipTiming {
    /// Between two probes of one member each.
    pub probe_period: Duration,
    /// Before other members are asked to probe as well. A high quantile of the round-trip time.
    pub probe_timeout: Duration,
    /// How long a member that did not answer may defend itself before it is declared down.
    pub suspicion: Duration,
    /// Between two rounds of spreading news, while there are any.
    pub gossip_period: Duration,
    /// Longest time between two attempts to reach seeds and lost members. Jittered.
    pub contact_period: Duration,
    /// How long a member that went down is remembered.
    pub forget_after: Duration,
}

impl GossipTiming {
    /// For nodes within a millisecond or so of each other: probes every 300 ms, suspicion 0.9 s. The default.
    pub const fn lan() -> Self {
        Self {
            probe_period: Duration::from_millis(300),
            probe_timeout: Duration::from_millis(100),
            suspicion: Duration::from_millis(900),
            gossip_period: Duration::from_millis(200),
            contact_period: Duration::from_secs(2),
            forget_after: Duration::from_secs(3600),
        }
    }

    /// For a datacenter that is spread over zones tens of milliseconds apart, or on
    /// crowded machines: probes every second, suspicion 4 s.
    pub const fn wan() -> Self {
        Self {
            probe_period: Duration::from_secs(1),
            probe_timeout: Duration::from_millis(400),
            suspicion: Duration::from_secs(4),
            gossip_period: Duration::from_millis(500),
            contact_period: Duration::from_secs(4),
            forget_after: Duration::from_secs(3600),
        }
    }

    fn check(&self) -> Result<(), Invalid> {
        let fields = [
            ("probe_period", self.probe_period),
            ("probe_timeout", self.probe_timeout),
            ("suspicion", self.suspicion),
            ("gossip_period", self.gossip_period),
            ("contact_period", self.contact_period),
            ("forget_after", self.forget_after),
        ];
        for (field, value) in fields {
            if value < Duration::from_millis(1) {
                return Err(Invalid::new(field, format!("{value:?}"), "must be at least 1 ms"));
            }
        }
        let refuse = |field: &str, value: Duration, rule: String| Err(Invalid::new(field, format!("{value:?}"), rule));
        if self.probe_timeout * 2 > self.probe_period {
            let rule = format!("must be at most half of probe_period ({:?})", self.probe_period);
            return refuse("probe_timeout", self.probe_timeout, rule);
        }
        if self.forget_after < self.suspicion * 10 {
            let rule = format!("must be at least ten times suspicion ({:?})", self.suspicion);
            return refuse("forget_after", self.forget_after, rule);
        }
        Ok(())
    }

    /// foca's settings, with packets of at most `max_packet` bytes.
    pub(crate) fn foca(&self, max_packet: NonZeroUsize) -> foca::Config {
        let every = |frequency, members| {
            NonZeroUsize::new(members).map(|num_members| foca::PeriodicParams { frequency, num_members })
        };
        foca::Config {
            probe_period: self.probe_period,
            probe_rtt: self.probe_timeout,
            suspect_to_down_after: self.suspicion,
            remove_down_after: Some(self.forget_after),
            max_packet_size: max_packet,
            // Meeting a member that is down is `membership::split`'s matter: both
            // sides of a healed partition would turn each other down.
            notify_down_members: false,
            periodic_announce_to_down_members: None,
            periodic_announce: every(self.contact_period * 3, 1),
            periodic_gossip: every(self.gossip_period, 3),
            ..foca::Config::simple()
        }
    }
}

impl Default for GossipTiming {
    fn default() -> Self {
        Self::lan()
    }
}

/// How a node finds its datacenter and keeps in touch with it. Holding one proves it
/// valid: [`ClusterConfigBuilder::build`] is the only way in.
///
/// ```
/// use dc_cluster::ClusterConfig;
/// let config = ClusterConfig::builder().seeds(["10.0.0.6:7946".parse()?, "seed.dc-1.example:7946".parse()?]).build()?;
/// # Ok::<(), dc_core::Invalid>(())
/// ```
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    pub(crate) discovery: Arc<dyn Discovery>,
    pub(crate) timing: GossipTiming,
    pub(crate) keys: Vec<GossipKey>,
    pub(crate) founding_wait: Duration,
    pub(crate) gossip_advertise: Option<SocketAddr>,
    pub(crate) max_names: usize,
}

impl ClusterConfig {
    /// Starts from the defaults, which are stated at each setter.
    pub fn builder() -> ClusterConfigBuilder {
        ClusterConfigBuilder(Self {
            discovery: Arc::new(StaticSeeds::default()),
            timing: GossipTiming::lan(),
            keys: Vec::new(),
            founding_wait: Duration::from_secs(1),
            gossip_advertise: None,
            max_names: 1 << 20,
        })
    }
}

/// Starts from the defaults; set only what differs.
#[derive(Clone, Debug)]
pub struct ClusterConfigBuilder(ClusterConfig);

impl ClusterConfigBuilder {
    /// Seeds by address or DNS name. Default: none, which founds a datacenter of one node that others may join.
    #[must_use]
    pub fn seeds(self, seeds: impl IntoIterator<Item = Endpoint>) -> Self {
        self.discovery(Arc::new(StaticSeeds::new(seeds)))
    }

    /// Another way to find members. Replaces the seeds.
    #[must_use]
    pub fn discovery(mut self, discovery: Arc<dyn Discovery>) -> Self {
        self.0.discovery = discovery;
        self
    }

    /// Times of gossip. Default [`GossipTiming::lan`].
    #[must_use]
    pub fn timing(mut self, timing: GossipTiming) -> Self {
        self.0.timing = timing;
        self
    }

    /// The key that seals this node's gossip. Default: none, gossip travels in the clear.
    #[must_use]
    pub fn gossip_key(mut self, key: GossipKey) -> Self {
        self.0.keys.insert(0, key);
        self
    }

    /// A second key that is accepted, while keys are rotated: first add the new key here on all
    /// nodes, then seal with it and accept the old one, then drop the old one.
    #[must_use]
    pub fn accept_key(mut self, key: GossipKey) -> Self {
        self.0.keys.push(key);
        self
    }

    /// How long a node waits for a seed to answer before it founds the datacenter. Default 1 s.
    ///
    /// While another founder with a lower node id answers, it waits up to four times as long.
    #[must_use]
    pub fn founding_wait(mut self, wait: Duration) -> Self {
        self.0.founding_wait = wait;
        self
    }

    /// Where others send gossip to this node. Default: the advertised endpoint, resolved
    /// once at start where it is a DNS name.
    #[must_use]
    pub fn gossip_advertise(mut self, address: SocketAddr) -> Self {
        self.0.gossip_advertise = Some(address);
        self
    }

    /// Names that this node answers for at most; claims beyond are refused. Default 1,048,576.
    #[must_use]
    pub fn max_names(mut self, names: usize) -> Self {
        self.0.max_names = names;
        self
    }

    /// Checks every rule.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, its value and the rule.
    pub fn build(self) -> Result<ClusterConfig, Invalid> {
        let config = self.0;
        config.timing.check()?;
        if config.keys.len() > 2 {
            let rule = "at most two keys: one that seals and one that is accepted beside it";
            return Err(Invalid::new("gossip_key", config.keys.len().to_string(), rule));
        }
        if config.founding_wait < Duration::from_millis(10) || config.founding_wait > Duration::from_secs(300) {
            let value = format!("{:?}", config.founding_wait);
            return Err(Invalid::new("founding_wait", value, "must be 10 ms to 5 min"));
        }
        if let Some(address) = config.gossip_advertise
            && (address.ip().is_unspecified() || address.port() == 0)
        {
            let rule = "must be an address that others can send to, not a wildcard";
            return Err(Invalid::new("gossip_advertise", address.to_string(), rule));
        }
        if config.max_names == 0 {
            return Err(Invalid::new("max_names", "0", "must be at least 1"));
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bad_field_is_refused_by_name() {
        let field = |builder: ClusterConfigBuilder| builder.build().expect_err("must be refused").field;
        let new = ClusterConfig::builder;
        let key = |byte| GossipKey::new([byte; 32]);
        let timing = GossipTiming::lan();
        let slow = GossipTiming { probe_timeout: Duration::from_millis(200), ..timing };
        let forgetful = GossipTiming { forget_after: Duration::from_secs(1), ..timing };
        let zero = GossipTiming { gossip_period: Duration::ZERO, ..timing };
        assert_eq!(field(new().timing(slow)), "probe_timeout");
        assert_eq!(field(new().timing(forgetful)), "forget_after");
        assert_eq!(field(new().timing(zero)), "gossip_period");
        assert_eq!(field(new().gossip_key(key(1)).accept_key(key(2)).accept_key(key(3))), "gossip_key");
        assert_eq!(field(new().founding_wait(Duration::ZERO)), "founding_wait");
        assert_eq!(field(new().gossip_advertise("0.0.0.0:1".parse().unwrap())), "gossip_advertise");
        assert_eq!(field(new().max_names(0)), "max_names");
        for timing in [GossipTiming::lan(), GossipTiming::wan()] {
            new().timing(timing).gossip_key(key(1)).accept_key(key(2)).build().expect("presets are valid");
        }
    }

    #[test]
    fn keys_are_hidden_in_debug() {
        let config = ClusterConfig::builder().gossip_key(GossipKey::new([7; 32])).build().unwrap();
        assert!(format!("{config:?}").contains("hidden"));
        assert!(!format!("{config:?}").contains("7, 7"));
    }
}
