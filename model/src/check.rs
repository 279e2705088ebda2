//! What must hold in every state, what must occur in some, and the checker.

use std::time::{Duration, Instant};

use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::{
    config::{Config, NODES},
    rules::Action,
    state::{Note, State, Title},
};

/// Never two titles at once; after a rollback, for no longer than the leases of before it run.
pub const ONE_TITLE: &str = "one title at a time";
/// The document shows who serves: nothing that anyone could do by its leave is done by two.
pub const STORED: &str = "who serves is the one that the store names";
/// Each change of owner raises the epoch, also after a release.
pub const EPOCHS_RISE: &str = "each owner's epoch is above that of the one before";
/// Storage never takes a lower epoch after a higher, and meets no epoch under two sessions.
pub const FENCED: &str = "storage sees epochs rise, each under one session";
/// What storage acknowledged is in what it has.
pub const NOTHING_LOST: &str = "no acknowledged effect is lost in storage";
/// State that came along has all that was acknowledged.
pub const NEWEST_STATE: &str = "who serves has every acknowledged effect in memory";

/// Somebody took over.
pub const TAKEN_OVER: &str = "a silent owner's thing is served elsewhere";
/// Somebody was given it.
pub const HANDED_OVER: &str = "what was handed over is served elsewhere";
/// Somebody's effect came too late.
pub const REFUSED: &str = "storage refuses an owner that was overtaken";
/// An answer was lost, and its write known again.
pub const RECOGNISED: &str = "a write whose answer was lost is known again";
/// It was free in between.
pub const CLAIMED_AGAIN: &str = "a name that was released is served again";
/// A node owns under its second session.
pub const SECOND_SESSION: &str = "a node serves under its second session";
/// A node serves when the leases of before the rollback are over.
pub const AFTER_ROLLBACK: &str = "something is served after a rollback";

impl Model for Config {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::start(self)]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        state.actions(self, actions);
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        next.step(self, action);
        (next != *state).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![
            Property::always(ONE_TITLE, one_title),
            Property::always(EPOCHS_RISE, |_: &Self, state: &State| !state.store.fell),
            Property::sometimes(TAKEN_OVER, |config: &Self, state: &State| {
                !state.store.entry().handed && (1..NODES).any(|number| state.serves(config, number))
            }),
        ];
        if !self.rollback && !self.available {
            all.push(Property::always(STORED, |config: &Self, state: &State| {
                let entry = state.store.entry();
                (0..NODES).filter(|number| state.serves(config, *number)).all(|number| {
                    let node = &state.nodes[number];
                    node.open() == entry.owner && node.title == Title::Held { epoch: entry.epoch }
                })
            }));
        }
        if self.ghosts > 0 {
            all.push(Property::sometimes(RECOGNISED, |_: &Self, state: &State| state.note == Some(Note::Recognised)));
        }
        if self.storage {
            all.push(Property::always(FENCED, |_: &Self, state: &State| !state.storage.wrong));
            all.push(Property::always(NOTHING_LOST, |_: &Self, state: &State| {
                state.storage.value == state.storage.accepted
            }));
            all.push(Property::sometimes(REFUSED, |_: &Self, state: &State| state.note == Some(Note::Fenced)));
        }
        if self.moves {
            all.push(Property::sometimes(HANDED_OVER, |config: &Self, state: &State| {
                state.store.entry().handed && (1..NODES).any(|number| state.serves(config, number))
            }));
        }
        if self.memory {
            all.push(Property::always(NEWEST_STATE, |config: &Self, state: &State| {
                let newest = |number: usize| state.nodes[number].memory == Some(state.acknowledged);
                (0..NODES).all(|number| !state.serves(config, number) || newest(number))
            }));
        }
        if self.names {
            all.push(Property::sometimes(CLAIMED_AGAIN, |config: &Self, state: &State| {
                // A take-over goes up by one, a new claim to its version.
                state.store.entry().epoch > 2 && (0..NODES).any(|number| state.serves(config, number))
            }));
        }
        if self.sessions > 1 {
            all.push(Property::sometimes(SECOND_SESSION, |config: &Self, state: &State| {
                (0..NODES).any(|number| state.nodes[number].opened > 1 && state.serves(config, number))
            }));
        }
        if self.rollback {
            all.push(Property::sometimes(AFTER_ROLLBACK, |config: &Self, state: &State| {
                state.rolled_back.is_some_and(|age| age >= longest_lease(config))
                    && (1..NODES).any(|number| state.serves(config, number))
            }));
        }
        all
    }

    fn within_boundary(&self, state: &State) -> bool {
        self.versions.is_none_or(|most| state.store.head <= most)
    }
}

fn longest_lease(config: &Config) -> u8 {
    (0..NODES).map(|number| config.lease_ticks(number)).max().unwrap_or_default()
}

fn one_title(config: &Config, state: &State) -> bool {
    let serving = (0..NODES).filter(|number| state.serves(config, *number)).count();
    serving <= 1 || state.rolled_back.is_some_and(|age| age < longest_lease(config))
}

/// What came of a check.
#[derive(Debug)]
pub struct Report {
    /// Distinct states.
    pub states: usize,
    /// Steps of the longest of the shortest ways to a state.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// Whether every state within the bounds was seen.
    pub whole: bool,
    /// What must always hold and does not, with the steps to it.
    pub broken: Vec<(&'static str, Vec<Action>)>,
    /// What must occur and was not seen.
    pub unseen: Vec<&'static str>,
}

impl Report {
    /// Everything was seen, and is as it should be.
    pub fn good(&self) -> bool {
        self.whole && self.broken.is_empty() && self.unseen.is_empty()
    }
}

/// Checks a configuration, all of it, or until that much time is gone.
pub fn check(config: &Config, limit: Option<Duration>) -> Report {
    run(config, limit, HasDiscoveries::All)
}

/// Looks for a way to break this, and stops when it has one.
pub fn find(config: &Config, property: &'static str) -> Report {
    run(config, None, HasDiscoveries::AnyOf([property].into()))
}

fn run(config: &Config, limit: Option<Duration>, enough: HasDiscoveries) -> Report {
    // The model has no clock to be given: this one is for people.
    #[expect(clippy::disallowed_methods, reason = "how long a check took, for people to read")]
    let start = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut builder = config.clone().checker().threads(threads).finish_when(enough);
    if let Some(limit) = limit {
        builder = builder.timeout(limit);
    }
    let checker = builder.spawn_bfs().join();
    #[expect(clippy::disallowed_methods, reason = "how long a check took, for people to read")]
    let took = start.elapsed();
    let found = checker.discoveries();
    let mut report = Report {
        states: checker.unique_state_count(),
        depth: checker.max_depth(),
        took,
        whole: checker.is_done() && limit.is_none_or(|limit| took < limit),
        broken: Vec::new(),
        unseen: Vec::new(),
    };
    for property in config.properties() {
        match (property.expectation.discovery_is_failure(), found.get(property.name)) {
            (true, Some(path)) => {
                let steps = path.clone().into_actions();
                report.broken.push((property.name, steps));
            }
            (false, None) => report.unseen.push(property.name),
            _ => {}
        }
    }
    report
}
