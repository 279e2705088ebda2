//! How a node takes part: lease, margin, and how fast it goes about things.

use std::time::Duration;

use dc_controlplane::config::check_duration;
use dc_core::Invalid;

/// The largest TTL that is allowed: how long a session's lease may run of which nothing is known.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(3_600);

/// How a node takes part. Holding one proves that it is valid: [`OwnershipOptionsBuilder::build`] is the only way in,
/// besides the defaults.
///
/// ```
/// use std::time::Duration;
/// use dc_ownership::OwnershipOptions;
/// let options = OwnershipOptions::builder().ttl(Duration::from_secs(20)).build()?;
/// assert_eq!(options.renew_every(), Duration::from_secs(5));
/// let err = OwnershipOptions::builder().margin(Duration::from_secs(1)).build().unwrap_err();
/// assert_eq!((err.field.as_str(), err.value.as_str()), ("margin", "1s"));
/// # Ok::<(), dc_core::Invalid>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnershipOptions {
    ttl: Duration,
    margin: Duration,
    renew_every: Duration,
    step: Duration,
    settle: Duration,
    claims_per_second: u32,
    request_timeout: Duration,
    requests_in_flight: usize,
    move_timeout: Duration,
    moves_in_flight: usize,
    parcel_bytes: usize,
    rebalance_per_second: u32,
    #[cfg(feature = "simulation")]
    simulated: Simulated,
}

/// What only a simulation sets.
#[cfg(feature = "simulation")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Simulated {
    plant: Option<crate::core::Plant>,
    documents: Option<u16>,
}

impl Default for OwnershipOptions {
    fn default() -> Self {
        Self::derived(Duration::from_secs(10))
    }
}

impl OwnershipOptions {
    /// Starts from the defaults; set only what differs.
    pub fn builder() -> OwnershipOptionsBuilder {
        OwnershipOptionsBuilder::default()
    }

    fn derived(ttl: Duration) -> Self {
        Self {
            ttl,
            margin: ttl / 5 + ttl / 50,
            renew_every: ttl / 4,
            step: (ttl / 20).max(Duration::from_millis(10)),
            settle: (ttl / 10).min(Duration::from_secs(60)),
            claims_per_second: 1_000,
            request_timeout: (ttl / 4).max(Duration::from_millis(10)),
            requests_in_flight: 64,
            move_timeout: ttl,
            moves_in_flight: 256,
            parcel_bytes: 256 * 1024 * 1024,
            rebalance_per_second: 100,
            #[cfg(feature = "simulation")]
            simulated: Simulated::default(),
        }
    }

    /// A bug on purpose: none, but in a simulation.
    pub(crate) fn plant(&self) -> Option<crate::core::Plant> {
        #[cfg(feature = "simulation")]
        return self.simulated.plant;
        #[cfg(not(feature = "simulation"))]
        None
    }

    /// How many documents of slots each group has: all, but in a simulation.
    pub(crate) fn documents(&self) -> u16 {
        #[cfg(feature = "simulation")]
        if let Some(documents) = self.simulated.documents {
            return documents;
        }
        crate::core::Setup::DOCUMENTS
    }

    /// How long others leave a silent session alone. Default 10 s.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// By how much earlier the owner itself stops: what clocks may differ by in one TTL. Default 22 % of the TTL.
    pub fn margin(&self) -> Duration {
        self.margin
    }

    /// Time from one renewal to the next. Default a quarter of the TTL.
    pub fn renew_every(&self) -> Duration {
        self.renew_every
    }

    /// How long each further candidate waits for the ones before it. Default a twentieth of the TTL.
    pub fn step(&self) -> Duration {
        self.step
    }

    /// How long a node that has just become ready waits before it claims what nobody ever owned, so that nodes which
    /// start together share it. Default a tenth of the TTL.
    pub fn settle(&self) -> Duration {
        self.settle
    }

    /// How many names of lost owners this node claims in a second. Default 1,000.
    pub fn claims_per_second(&self) -> u32 {
        self.claims_per_second
    }

    /// How long one request to the store may take. Default a quarter of the TTL.
    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }

    /// How many writes other than renewals are under way at once. Default 64.
    pub fn requests_in_flight(&self) -> usize {
        self.requests_in_flight
    }

    /// How long the owner's side may take to stop a thing that is handed over, and again to send its state. Default
    /// one TTL.
    pub fn move_timeout(&self) -> Duration {
        self.move_timeout
    }

    /// How many things are handed over at once. Default 256.
    pub fn moves_in_flight(&self) -> usize {
        self.moves_in_flight
    }

    /// How much state of things that are being handed to this node it keeps, in bytes. Default 256 MiB.
    pub fn parcel_bytes(&self) -> usize {
        self.parcel_bytes
    }

    /// How many slots a node hands in a second to the nodes of its datacenter that are to have them, once that has
    /// not changed for about a TTL; and how many go back to a better datacenter where the policy says so. Default 100.
    /// 0: slots stay where they are.
    pub fn rebalance_per_second(&self) -> u32 {
        self.rebalance_per_second
    }

    /// What an operator should know of these settings, in sentences.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        for (store, failover) in [("etcd", 3), ("NATS", 10)] {
            if self.ttl < Duration::from_secs(failover) {
                warnings.push(format!(
                    "ttl {:?} is below {failover} s, the time that {store} takes to elect a leader: on {store}, each \
                     election of its leader stops every owner",
                    self.ttl
                ));
            }
        }
        warnings
    }
}

/// Options that are being described; [`build`](Self::build) checks them. What is left out follows from the TTL.
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct OwnershipOptionsBuilder {
    ttl: Option<Duration>,
    margin: Option<Duration>,
    renew_every: Option<Duration>,
    step: Option<Duration>,
    settle: Option<Duration>,
    claims_per_second: Option<u32>,
    request_timeout: Option<Duration>,
    requests_in_flight: Option<usize>,
    move_timeout: Option<Duration>,
    moves_in_flight: Option<usize>,
    parcel_bytes: Option<usize>,
    rebalance_per_second: Option<u32>,
    #[cfg(feature = "simulation")]
    simulated: Simulated,
}

macro_rules! setters {
    ($($(#[$doc:meta])* $name:ident: $type:ty),+ $(,)?) => {$(
        $(#[$doc])*
        pub fn $name(mut self, value: $type) -> Self {
            self.$name = Some(value);
            self
        }
    )+};
}

impl OwnershipOptionsBuilder {
    setters! {
        /// How long others leave a silent session alone: 100 ms to 1 h. Default 10 s.
        ttl: Duration,
        /// By how much earlier the owner stops: a fifth to a half of the TTL. Default 22 % of it.
        margin: Duration,
        /// Time from one renewal to the next: at most half of the TTL less the margin. Default a quarter of the TTL.
        renew_every: Duration,
        /// How long each further candidate waits: 1 ms to one TTL. Default a twentieth of the TTL.
        step: Duration,
        /// How long a new node waits before it claims what nobody owned: up to a minute. Default a tenth of the TTL.
        settle: Duration,
        /// How many names of lost owners are claimed in a second: at least 1. Default 1,000.
        claims_per_second: u32,
        /// How long one request may take: 10 ms to one TTL. Default a quarter of the TTL.
        request_timeout: Duration,
        /// How many writes other than renewals are under way at once: 1 to 10,000. Default 64.
        requests_in_flight: usize,
        /// The bound of each step of a hand-over: 10 ms to 1 h. Default one TTL.
        move_timeout: Duration,
        /// How many things are handed over at once: 1 to 100,000. Default 256.
        moves_in_flight: usize,
        /// How much state of incoming things is kept, in bytes: at least 64 KiB. Default 256 MiB.
        parcel_bytes: usize,
        /// How many slots a node hands to better places in a second: up to 100,000; 0: none. Default 100.
        rebalance_per_second: u32,
    }

    /// Plants a bug on purpose, to show that a simulation finds it. Not an interface.
    #[cfg(feature = "simulation")]
    #[doc(hidden)]
    pub fn plant(mut self, plant: crate::core::Plant) -> Self {
        self.simulated.plant = Some(plant);
        self
    }

    /// Has only so many documents of slots in each group: grains in others have no owner. Not an interface.
    #[cfg(feature = "simulation")]
    #[doc(hidden)]
    pub fn documents(mut self, documents: u16) -> Self {
        self.simulated.documents = Some(documents);
        self
    }

    /// Checks each rule.
    ///
    /// # Errors
    ///
    /// [`Invalid`] names the field, the value and the rule.
    pub fn build(self) -> Result<OwnershipOptions, Invalid> {
        const LEAST: Duration = Duration::from_millis(10);
        const HOUR: Duration = Duration::from_secs(3_600);
        let ttl = self.ttl.unwrap_or(OwnershipOptions::default().ttl);
        check_duration("ttl", ttl, 10 * LEAST, MAX_TTL)?;
        let derived = OwnershipOptions::derived(ttl);
        let margin = self.margin.unwrap_or(derived.margin);
        if margin < ttl / 5 || margin > ttl / 2 {
            let rule = format!(
                "must be a fifth to a half of the ttl ({:?} to {:?}): clocks may differ by 10 % each, and an owner \
                 must have stopped before others may take over",
                ttl / 5,
                ttl / 2
            );
            return Err(Invalid::new("margin", format!("{margin:?}"), rule));
        }
        let renew_every = self.renew_every.unwrap_or(derived.renew_every);
        let longest = (ttl - margin) / 2;
        if renew_every < Duration::from_millis(5) || renew_every > longest {
            let rule = format!("must be 5 ms to {longest:?}, half of the ttl less the margin: one renewal may be lost");
            return Err(Invalid::new("renew_every", format!("{renew_every:?}"), rule));
        }
        let options = OwnershipOptions {
            ttl,
            margin,
            renew_every,
            step: self.step.unwrap_or(derived.step),
            settle: self.settle.unwrap_or(derived.settle),
            claims_per_second: self.claims_per_second.unwrap_or(derived.claims_per_second),
            request_timeout: self.request_timeout.unwrap_or(derived.request_timeout),
            requests_in_flight: self.requests_in_flight.unwrap_or(derived.requests_in_flight),
            move_timeout: self.move_timeout.unwrap_or(derived.move_timeout),
            moves_in_flight: self.moves_in_flight.unwrap_or(derived.moves_in_flight),
            parcel_bytes: self.parcel_bytes.unwrap_or(derived.parcel_bytes),
            rebalance_per_second: self.rebalance_per_second.unwrap_or(derived.rebalance_per_second),
            #[cfg(feature = "simulation")]
            simulated: self.simulated,
        };
        check_duration("step", options.step, Duration::from_millis(1), ttl)?;
        check_duration("settle", options.settle, Duration::ZERO, Duration::from_secs(60))?;
        check_duration("request_timeout", options.request_timeout, LEAST, ttl)?;
        check_duration("move_timeout", options.move_timeout, LEAST, HOUR)?;
        for (field, value, least, most) in [
            ("claims_per_second", options.claims_per_second as usize, 1, usize::MAX),
            ("requests_in_flight", options.requests_in_flight, 1, 10_000),
            ("moves_in_flight", options.moves_in_flight, 1, 100_000),
            ("parcel_bytes", options.parcel_bytes, 64 * 1024, usize::MAX),
            ("rebalance_per_second", options.rebalance_per_second as usize, 0, 100_000),
        ] {
            if value < least || value > most {
                return Err(Invalid::new(field, value.to_string(), format!("must be {least} to {most}")));
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_at_every_ttl() {
        assert_eq!(OwnershipOptions::builder().build(), Ok(OwnershipOptions::default()));
        for ttl in [100, 1_000, 3_600_000].map(Duration::from_millis) {
            assert!(OwnershipOptions::builder().ttl(ttl).build().is_ok(), "{ttl:?}");
        }
    }

    #[test]
    fn g3_a_margin_below_a_fifth_of_the_ttl_is_refused() {
        let margin = |ms| OwnershipOptions::builder().margin(Duration::from_millis(ms)).build();
        assert_eq!(margin(1_999).expect_err("too small").field, "margin");
        assert!(margin(2_000).is_ok());
    }

    #[test]
    fn each_bad_field_is_refused_by_name() {
        let builder = OwnershipOptions::builder;
        let (none, day) = (Duration::ZERO, Duration::from_secs(86_400));
        for (options, field) in [
            (builder().ttl(none), "ttl"),
            (builder().ttl(day), "ttl"),
            (builder().margin(day), "margin"),
            (builder().renew_every(Duration::from_secs(5)), "renew_every"),
            (builder().step(none), "step"),
            (builder().settle(day), "settle"),
            (builder().request_timeout(day), "request_timeout"),
            (builder().move_timeout(none), "move_timeout"),
            (builder().claims_per_second(0), "claims_per_second"),
            (builder().requests_in_flight(0), "requests_in_flight"),
            (builder().moves_in_flight(0), "moves_in_flight"),
            (builder().parcel_bytes(0), "parcel_bytes"),
            (builder().rebalance_per_second(100_001), "rebalance_per_second"),
        ] {
            let err = options.build().expect_err(field);
            assert_eq!(err.field, field, "{err}");
        }
    }

    #[test]
    fn a_ttl_below_a_stores_election_time_is_warned_about() {
        assert!(OwnershipOptions::default().warnings().is_empty());
        let options = OwnershipOptions::builder().ttl(Duration::from_secs(2)).build().expect("legal");
        assert_eq!(options.warnings().len(), 2, "etcd and NATS");
    }
}
