//! What other datacenters may do here: by default anything; once configured, only what is allowed.
//!
//! Looked at before the payload of a message or the arguments of a spawn are read, by the datacenter that the link's
//! handshake named: proven by its certificate where links run over TLS, else only said. Nodes of the own datacenter
//! are not looked at: they share its directory and its gossip.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use dc_core::{DataCenterId, Invalid};
use parking_lot::Mutex;

use crate::{
    error::Error,
    events::Event,
    measure,
    message::{Handles, RemoteActor, RemoteMessage},
    system::Node,
    text::{LABEL, cut},
};

/// What other datacenters may do here. Who is not named may do nothing.
///
/// ```
/// use dc_actor::{Authority, Rights};
/// let authority = Authority::deny_by_default()
///     .allow("eu-west-1/dc-2", Rights::none().look_up().call_kind("cart").spawn_kind("worker"))?
///     .allow("eu-west-1/dc-3", Rights::none().call_message_of("ledger", "balance"))?;
/// # let _ = authority;
/// # Ok::<(), dc_core::Invalid>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct Authority {
    by_data_center: HashMap<DataCenterId, Rights>,
    others: Rights,
}

impl Authority {
    /// Other datacenters may do nothing, until they are allowed to.
    pub fn deny_by_default() -> Self {
        Self::default()
    }

    /// What the datacenter of this id (`region/name`, see [`DataCenterId`]) may do. Replaces what it might before.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if that is no id, or if the rights break a rule.
    pub fn allow(mut self, data_center: impl AsRef<str>, rights: Rights) -> Result<Self, Invalid> {
        let id: DataCenterId = data_center.as_ref().parse()?;
        rights.check()?;
        self.by_data_center.insert(id, rights);
        Ok(self)
    }

    /// What datacenters may do that are not named.
    ///
    /// # Errors
    ///
    /// [`Invalid`] if the rights break a rule.
    pub fn allow_others(mut self, rights: Rights) -> Result<Self, Invalid> {
        rights.check()?;
        self.others = rights;
        Ok(self)
    }

    fn rights(&self, of: &DataCenterId) -> &Rights {
        self.by_data_center.get(of).unwrap_or(&self.others)
    }

    fn allows(&self, who: &DataCenterId, wish: Wish<'_>) -> bool {
        let rights = self.rights(who);
        match wish {
            Wish::LookUp => rights.look_up,
            Wish::Find(kind) | Wish::Watch(kind) => rights.calls.get(kind).is_some(),
            Wish::WatchAny => rights.calls.any || !rights.calls.by_kind.is_empty(),
            Wish::Call { kind, message } => rights.calls.get(kind).is_some_and(|messages| messages.allows(message)),
            Wish::Spawn(kind) => rights.spawns.allows(kind),
            Wish::TakeOver(kind) => rights.takes_over.allows(kind),
        }
    }
}

/// What one datacenter may do at another: nothing but what is added. Names are wire names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    look_up: bool,
    calls: Calls,
    spawns: Names,
    takes_over: Names,
}

/// Kinds, each with the messages that may be sent to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Calls {
    by_kind: HashMap<String, Names>,
    any: bool,
}

impl Calls {
    fn get(&self, kind: &str) -> Option<&Names> {
        if self.any { Some(&ALL) } else { self.by_kind.get(kind) }
    }
}

/// Some names, or all.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Names {
    These(HashSet<String>),
    All,
}

const ALL: Names = Names::All;

impl Default for Names {
    fn default() -> Self {
        Self::These(HashSet::new())
    }
}

impl Names {
    fn allows(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.contains(name),
        }
    }

    fn add(&mut self, name: String) {
        if let Self::These(names) = self {
            names.insert(name);
        }
    }

    fn names(&self) -> impl Iterator<Item = &String> {
        match self {
            Self::All => None,
            Self::These(names) => Some(names),
        }
        .into_iter()
        .flatten()
    }
}

impl Rights {
    /// Nothing.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Everything.
    #[must_use]
    pub fn all() -> Self {
        Self { look_up: true, calls: Calls { by_kind: HashMap::new(), any: true }, spawns: ALL, takes_over: ALL }
    }

    /// May look up actors by name.
    #[must_use]
    pub fn look_up(mut self) -> Self {
        self.look_up = true;
        self
    }

    /// May send every message of `A` to actors of that kind, watch them, and have its grains made active.
    #[must_use]
    pub fn call<A: RemoteActor>(self) -> Self {
        self.call_kind(A::KIND)
    }

    /// May send messages of type `M` to actors of kind `A`, watch these, and have its grains made active.
    #[must_use]
    pub fn call_message<A: Handles<M>, M: RemoteMessage>(self) -> Self {
        self.call_message_of(A::KIND, M::NAME)
    }

    /// As [`call`](Self::call), by the kind's wire name.
    #[must_use]
    pub fn call_kind(mut self, kind: impl Into<String>) -> Self {
        self.calls.by_kind.insert(kind.into(), Names::All);
        self
    }

    /// As [`call_message`](Self::call_message), by wire names.
    #[must_use]
    pub fn call_message_of(mut self, kind: impl Into<String>, message: impl Into<String>) -> Self {
        self.calls.by_kind.entry(kind.into()).or_default().add(message.into());
        self
    }

    /// May start actors of kind `A`.
    #[must_use]
    pub fn spawn<A: RemoteActor>(self) -> Self {
        self.spawn_kind(A::KIND)
    }

    /// As [`spawn`](Self::spawn), by the kind's wire name.
    #[must_use]
    pub fn spawn_kind(mut self, kind: impl Into<String>) -> Self {
        self.spawns.add(kind.into());
        self
    }

    /// May be handed the state of what this datacenter owns of kind `A`, and hand over its own with state (global names
    /// and grains); may say where grains of it are to live ([`GrainRef::place_in`](crate::GrainRef::place_in)). What has no state moves by the store alone: who may write there may claim.
    #[must_use]
    pub fn take_over<A: RemoteActor>(self) -> Self {
        self.take_over_kind(A::KIND)
    }

    /// As [`take_over`](Self::take_over), by the kind's wire name.
    #[must_use]
    pub fn take_over_kind(mut self, kind: impl Into<String>) -> Self {
        self.takes_over.add(kind.into());
        self
    }

    fn check(&self) -> Result<(), Invalid> {
        let called =
            self.calls.by_kind.iter().flat_map(|(kind, messages)| std::iter::once(kind).chain(messages.names()));
        for name in called.chain(self.spawns.names()).chain(self.takes_over.names()) {
            if name.is_empty() || name.chars().any(char::is_control) {
                let rule = "must be a wire name: not empty, without control characters";
                return Err(Invalid::new("rights", name.as_str(), rule));
            }
        }
        Ok(())
    }
}

/// What another datacenter wants to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wish<'a> {
    /// Look up a name.
    LookUp,
    /// Find a grain of this kind, and make it active.
    Find(&'a str),
    /// Be told when actors of this kind end.
    Watch(&'a str),
    /// Say, and ask, something about what was watched before: of actors of any kind.
    WatchAny,
    /// Send this message to an actor of this kind.
    Call { kind: &'a str, message: &'a str },
    /// Start an actor of this kind.
    Spawn(&'a str),
    /// Take over, or hand over, what is owned of this kind.
    TakeOver(&'a str),
}

impl Wish<'_> {
    /// What is wished for, without what the peer has named.
    fn right(&self) -> &'static str {
        match self {
            Self::LookUp => "look_up",
            Self::Find(_) => "find",
            Self::Watch(_) | Self::WatchAny => "watch",
            Self::Call { .. } => "call",
            Self::Spawn(_) => "spawn",
            Self::TakeOver(_) => "take_over",
        }
    }
}

impl fmt::Display for Wish<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::LookUp => f.write_str("look up names"),
            Self::Find(kind) => write!(f, "find grains of kind {kind:?}"),
            Self::Watch(kind) => write!(f, "watch actors of kind {kind:?}"),
            Self::WatchAny => f.write_str("watch actors"),
            Self::Call { kind, message } => write!(f, "send {message:?} to kind {kind:?}"),
            Self::Spawn(kind) => write!(f, "start actors of kind {kind:?}"),
            Self::TakeOver("") => f.write_str("take over what is owned of a kind that is not known here"),
            Self::TakeOver(kind) => write!(f, "take over what is owned of kind {kind:?}"),
        }
    }
}

/// A node's authority, and when refusals were logged.
#[derive(Debug)]
pub(crate) struct Guard {
    authority: Authority,
    logged: Mutex<Logged>,
}

/// One refusal of a kind is logged for a datacenter in this time; all are counted and told as events.
const LOG_AGAIN: Duration = Duration::from_secs(60);

/// Datacenters whose refusals are logged apart: without certificates a peer calls itself what it likes.
const LOGGED: usize = 64;

/// Which refusals were logged lately, by datacenter and right, never by what a peer has named. `None` stands for the
/// datacenters beyond [`LOGGED`].
#[derive(Debug, Default)]
struct Logged(HashMap<Option<DataCenterId>, HashMap<&'static str, Line>>);

#[derive(Debug)]
struct Line {
    at: Instant,
    /// Refused since, without a line.
    more: u64,
}

impl Logged {
    /// Whether this refusal is logged; then with how many there were that were not.
    fn is_due(&mut self, who: &DataCenterId, right: &'static str, now: Instant) -> Option<u64> {
        let is_recent = |line: &Line| now.saturating_duration_since(line.at) < LOG_AGAIN;
        let mut key = Some(who.clone());
        if !self.0.contains_key(&key) && self.0.len() >= LOGGED {
            self.0.retain(|_, lines| lines.values().any(is_recent));
            if self.0.len() >= LOGGED {
                key = None;
            }
        }
        let lines = self.0.entry(key).or_default();
        match lines.get_mut(right) {
            Some(line) if is_recent(line) => {
                line.more += 1;
                None
            }
            Some(line) => Some(std::mem::replace(line, Line { at: now, more: 0 }).more),
            None => {
                lines.insert(right, Line { at: now, more: 0 });
                Some(0)
            }
        }
    }
}

impl Guard {
    pub(crate) fn new(authority: Authority) -> Arc<Self> {
        Arc::new(Self { authority, logged: Mutex::default() })
    }
}

impl Node {
    /// Whether a node of that datacenter may do this here. For what is not to be counted as refused.
    pub(crate) fn allows(&self, who: &DataCenterId, wish: Wish<'_>) -> bool {
        let guard = self.options().guard.as_ref();
        who == self.data_center().id() || guard.is_none_or(|guard| guard.authority.allows(who, wish))
    }

    /// Refuses what a node of another datacenter may not do here.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthorized`]: it is counted and told, and certainly did not run.
    pub(crate) fn authorise(&self, who: &DataCenterId, wish: Wish<'_>) -> Result<(), Error> {
        let Some(guard) = self.options().guard.as_ref().filter(|_| !self.allows(who, wish)) else { return Ok(()) };
        let mut what = wish.to_string();
        cut(&mut what, LABEL);
        let due = guard.logged.lock().is_due(who, wish.right(), self.clock().now());
        if let Some(more) = due {
            tracing::warn!(data_center = %who, %what, more, "refused: it may not do this here; allow it by `authority(..)`");
        }
        Err(self.unauthorized(who, what))
    }

    /// The error of a refusal, which is counted and told.
    pub(crate) fn unauthorized(&self, who: &DataCenterId, mut what: String) -> Error {
        cut(&mut what, LABEL);
        let guard = self.options().guard.as_ref();
        let is_named = guard.is_some_and(|guard| guard.authority.by_data_center.contains_key(who));
        let is_known = is_named || self.table().snapshot().get(who).is_some();
        measure::unauthorized(is_known.then_some(who));
        self.bus().tell(Event::Unauthorized { data_center: who.clone(), what: what.clone() });
        Error::Unauthorized { data_center: who.to_string(), what, by: self.label() }
    }
}

#[cfg(test)]
mod tests {
    use dc_core::{Clock, ManualClock};

    use super::*;

    fn dc(id: &str) -> DataCenterId {
        id.parse().unwrap()
    }

    #[test]
    fn who_is_not_named_may_do_nothing() {
        let authority = Authority::deny_by_default();
        for wish in [
            Wish::LookUp,
            Wish::Find("cart"),
            Wish::Watch("cart"),
            Wish::WatchAny,
            Wish::Call { kind: "cart", message: "add" },
            Wish::Spawn("cart"),
            Wish::TakeOver("cart"),
        ] {
            assert!(!authority.allows(&dc("dc-2"), wish), "{wish}");
        }
    }

    #[test]
    fn each_right_allows_what_it_says_and_nothing_else() {
        let rights =
            Rights::none().look_up().call_kind("cart").call_message_of("ledger", "balance").spawn_kind("worker");
        let authority = Authority::deny_by_default().allow("dc-2", rights).unwrap();
        let may = |wish| authority.allows(&dc("dc-2"), wish);
        assert!(
            may(Wish::LookUp) && may(Wish::Find("cart")) && may(Wish::Find("ledger")) && may(Wish::Spawn("worker"))
        );
        assert!(may(Wish::WatchAny));
        assert!(may(Wish::Watch("cart")) && may(Wish::Watch("ledger")) && !may(Wish::Watch("worker")));
        assert!(may(Wish::Call { kind: "cart", message: "add" }));
        assert!(may(Wish::Call { kind: "ledger", message: "balance" }));
        assert!(!may(Wish::Call { kind: "ledger", message: "pay" }));
        assert!(!may(Wish::Call { kind: "worker", message: "work" }), "starting is not calling");
        assert!(!may(Wish::Spawn("cart")) && !may(Wish::Find("worker")) && !may(Wish::TakeOver("cart")));
        assert!(!authority.allows(&dc("dc-3"), Wish::LookUp));
    }

    #[test]
    fn others_may_do_what_others_may() {
        let authority = Authority::deny_by_default().allow_others(Rights::all()).unwrap();
        let authority = authority.allow("dc-2", Rights::none()).unwrap();
        assert!(authority.allows(&dc("dc-3"), Wish::Call { kind: "x", message: "y" }));
        assert!(authority.allows(&dc("dc-3"), Wish::TakeOver("x")) && authority.allows(&dc("dc-3"), Wish::Find("x")));
        assert!(!authority.allows(&dc("dc-2"), Wish::LookUp), "named, it has its own rights only");
    }

    #[test]
    fn r8_the_log_of_refusals_is_bounded_and_no_peer_silences_it_for_good() {
        let (clock, mut logged) = (ManualClock::new(), Logged::default());
        // A peer that gives itself another name each time.
        for number in 0..10 * LOGGED {
            logged.is_due(&dc(&format!("dc-{number}")), "spawn", clock.now());
        }
        assert!(logged.0.len() <= LOGGED + 1, "{}", logged.0.len());
        let honest = dc("honest");
        assert_eq!(logged.is_due(&honest, "spawn", clock.now()), None, "one of many, for a while");
        clock.advance(LOG_AGAIN);
        assert_eq!(logged.is_due(&honest, "spawn", clock.now()), Some(0), "then it has a line again");
        assert_eq!(logged.is_due(&honest, "call", clock.now()), Some(0), "another right");
        for _ in 0..3 {
            assert_eq!(logged.is_due(&honest, "spawn", clock.now()), None, "the same again");
        }
        clock.advance(LOG_AGAIN);
        assert_eq!(logged.is_due(&honest, "spawn", clock.now()), Some(3), "and how often it was meanwhile");
    }

    #[test]
    fn bad_ids_and_names_are_refused() {
        assert!(Authority::deny_by_default().allow("no such/id/a/b", Rights::none()).is_err());
        let err = Authority::deny_by_default().allow("dc-2", Rights::none().call_kind("")).unwrap_err();
        assert_eq!(err.field, "rights");
    }
}
