//! What is asked of placement.

use std::{fmt, time::Duration};

use dc_core::{DataCenterSelector, Endpoint, Freshness, NodeEndpoint, Routability};

/// What is to be sent to the datacenter (C6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// A new actor: ACTIVE datacenters only.
    Placement,
    /// Lookups and messages: DRAINING ones too, and those in grace (C5).
    Traffic,
}

impl Purpose {
    /// What a datacenter must take at least.
    pub fn needs(self) -> Routability {
        match self {
            Self::Placement => Routability::Placements,
            Self::Traffic => Routability::Traffic,
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Placement => "placement",
            Self::Traffic => "traffic",
        })
    }
}

/// How one node is chosen among those that would do (L2).
///
/// Where several datacenters match, `Random` and `RoundRobin` choose the
/// datacenter in the same way. The other three compare up to
/// [`COMPARED`](crate::COMPARED) of them: all that match, or that many drawn at random.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Strategy {
    /// Each equally likely.
    #[default]
    Random,
    /// In turn: pass a counter as the seed.
    RoundRobin,
    /// The lowest round-trip time that [`Signals`] knows; those not yet measured come last, in random order.
    Nearest,
    /// The lowest load that [`Signals`] knows; what it does not know counts as idle. Ties are broken at random.
    LeastLoaded,
    /// At random, in proportion to the endpoints' weights; a weight of 0 takes none.
    Weighted,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::RoundRobin => "round-robin",
            Self::Nearest => "nearest",
            Self::LeastLoaded => "least-loaded",
            Self::Weighted => "weighted",
        })
    }
}

/// What is measured of nodes. Must answer at once: it is asked once for each node that is compared.
pub trait Signals {
    /// The measured round-trip time; `None` where none was measured.
    fn rtt(&self, node: &NodeEndpoint) -> Option<Duration> {
        let _ = node;
        None
    }

    /// The load in any unit that grows with it (requests in flight); `None` where it is not known.
    fn load(&self, node: &NodeEndpoint) -> Option<u64> {
        let _ = node;
        None
    }
}

/// Nothing is measured.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSignals;

impl Signals for NoSignals {}

/// What is asked of placement. Borrows everything, so that making one costs nothing.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// Which datacenters would do.
    pub selector: &'a DataCenterSelector,
    /// What is to be sent.
    pub purpose: Purpose,
    /// How one node is chosen.
    pub strategy: Strategy,
    /// How far the table can be trusted.
    pub freshness: Freshness,
    /// Whether a stale table refuses placements (C5). Default true.
    pub fail_on_stale_cache: bool,
    /// Endpoints that are known to be dead, or were tried already (L3). Default none.
    pub exclude: &'a [Endpoint],
    /// What is measured of nodes. Default nothing.
    pub signals: &'a dyn Signals,
}

impl<'a> Request<'a> {
    /// Where to place a new actor.
    pub fn placement(selector: &'a DataCenterSelector, freshness: Freshness) -> Self {
        Self {
            selector,
            purpose: Purpose::Placement,
            strategy: Strategy::Random,
            freshness,
            fail_on_stale_cache: true,
            exclude: &[],
            signals: &NoSignals,
        }
    }

    /// Where to send lookups or messages.
    pub fn traffic(selector: &'a DataCenterSelector, freshness: Freshness) -> Self {
        Self { purpose: Purpose::Traffic, ..Self::placement(selector, freshness) }
    }

    /// Sets the strategy; random by default.
    #[must_use]
    pub fn strategy(self, strategy: Strategy) -> Self {
        Self { strategy, ..self }
    }

    /// Sets whether a stale table refuses placements; true by default.
    #[must_use]
    pub fn fail_on_stale_cache(self, fail: bool) -> Self {
        Self { fail_on_stale_cache: fail, ..self }
    }

    /// Names endpoints that must not be chosen.
    #[must_use]
    pub fn exclude(self, exclude: &'a [Endpoint]) -> Self {
        Self { exclude, ..self }
    }

    /// Gives what is measured of nodes.
    #[must_use]
    pub fn signals(self, signals: &'a dyn Signals) -> Self {
        Self { signals, ..self }
    }

    /// Whether this node may be chosen at all.
    pub(crate) fn admits(&self, node: &NodeEndpoint) -> bool {
        (self.strategy != Strategy::Weighted || node.weight > 0)
            && (self.exclude.is_empty() || !self.exclude.contains(&node.endpoint))
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("selector", &format_args!("{}", self.selector))
            .field("purpose", &self.purpose)
            .field("strategy", &self.strategy)
            .field("freshness", &self.freshness)
            .field("fail_on_stale_cache", &self.fail_on_stale_cache)
            .field("exclude", &self.exclude)
            .finish_non_exhaustive()
    }
}
