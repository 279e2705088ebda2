//! Places for connections: bounds in all, for each address, and for those that have not shaken hands.
//!
//! A connection that is still shaking hands costs its maker nothing, so those are few, and the oldest of them makes
//! room for a new one once it has had a fair time. One that has shaken hands is never put out for another.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;

use super::accept::Conn;
use crate::RemotingConfig;

/// The share of `handshake_timeout` that a handshake gets before another may take its place.
const FAIR: u32 = 10;

/// All places of one node.
pub(crate) struct Places {
    limits: Limits,
    table: Mutex<Table>,
}

/// The bounds, under the names that they have in the configuration.
#[derive(Clone, Copy, Debug)]
struct Limits {
    connections: usize,
    per_address: usize,
    handshaking: usize,
    handshaking_per_address: usize,
    fair: Duration,
}

#[derive(Default)]
struct Table {
    open: HashMap<u64, Open>,
    /// By age, the oldest first.
    shaking: BTreeSet<u64>,
    addresses: HashMap<IpAddr, Held>,
    next: u64,
}

struct Open {
    address: IpAddr,
    since: Duration,
    conn: Weak<Conn>,
}

/// What one address holds.
#[derive(Default)]
struct Held {
    all: usize,
    shaking: BTreeSet<u64>,
}

/// A place that is held until this is dropped, or until another takes it before the handshake is over.
pub(crate) struct Place {
    places: Arc<Places>,
    number: u64,
}

/// What a new connection gets.
pub(crate) struct Taken {
    pub(crate) place: Place,
    /// Who has to go for it.
    pub(crate) evicted: Option<Arc<Conn>>,
}

impl Places {
    pub(crate) fn new(config: &RemotingConfig) -> Self {
        let limits = Limits {
            connections: config.max_connections,
            per_address: config.max_connections_per_address.unwrap_or((config.max_connections / 2).max(3)),
            handshaking: config.max_handshaking,
            handshaking_per_address: config.max_handshaking_per_address,
            fair: config.handshake_timeout / FAIR,
        };
        Self { limits, table: Mutex::default() }
    }

    /// A place for a connection from `address`, at `now` since the start. The error is the name of the bound that is
    /// reached, where nobody has to make room.
    pub(crate) fn take(self: &Arc<Self>, address: IpAddr, now: Duration) -> Result<Taken, &'static str> {
        let address = whose(address);
        let limits = self.limits;
        let mut table = self.table.lock();
        let held = table.addresses.get(&address);
        let (all, shaking) = held.map_or((0, 0), |held| (held.all, held.shaking.len()));
        let of_address = held.and_then(|held| held.shaking.first().copied());
        let of_all = table.shaking.first().copied();
        // Whoever goes leaves one place less taken under every bound below as well: one is enough.
        let full = if all >= limits.per_address {
            Some(("max_connections_per_address", of_address))
        } else if shaking >= limits.handshaking_per_address {
            Some(("max_handshaking_per_address", of_address))
        } else if table.shaking.len() >= limits.handshaking {
            Some(("max_handshaking", of_all))
        } else if table.open.len() >= limits.connections {
            Some(("max_connections", of_all))
        } else {
            None
        };
        let mut evicted = None;
        if let Some((limit, oldest)) = full {
            crate::measure::limit(limit);
            let fair =
                |number: &u64| table.open.get(number).is_some_and(|open| now.saturating_sub(open.since) >= limits.fair);
            let open = oldest.filter(fair).and_then(|oldest| table.remove(oldest)).ok_or(limit)?;
            evicted = open.conn.upgrade();
        }
        let number = table.next;
        table.next += 1;
        table.open.insert(number, Open { address, since: now, conn: Weak::new() });
        table.shaking.insert(number);
        let held = table.addresses.entry(address).or_default();
        held.all += 1;
        held.shaking.insert(number);
        Ok(Taken { place: Place { places: Arc::clone(self), number }, evicted })
    }

    /// Places that are taken, and those of them whose handshake is not over.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let table = self.table.lock();
        (table.open.len(), table.shaking.len())
    }

    /// Addresses that hold places.
    #[cfg(test)]
    fn addresses(&self) -> usize {
        self.table.lock().addresses.len()
    }
}

impl Table {
    fn remove(&mut self, number: u64) -> Option<Open> {
        let open = self.open.remove(&number)?;
        self.shaking.remove(&number);
        if let Some(held) = self.addresses.get_mut(&open.address) {
            held.all -= 1;
            held.shaking.remove(&number);
            if held.all == 0 {
                self.addresses.remove(&open.address);
            }
        }
        Some(open)
    }
}

impl Place {
    /// Who holds it: told to go when another needs it.
    pub(crate) fn is_of(&self, conn: &Arc<Conn>) {
        if let Some(open) = self.places.table.lock().open.get_mut(&self.number) {
            open.conn = Arc::downgrade(conn);
        }
    }

    /// The handshake is over: nobody takes this place any more. False if somebody has.
    pub(crate) fn settle(&self) -> bool {
        let mut table = self.places.table.lock();
        let Some(address) = table.open.get(&self.number).map(|open| open.address) else { return false };
        table.shaking.remove(&self.number);
        if let Some(held) = table.addresses.get_mut(&address) {
            held.shaking.remove(&self.number);
        }
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table.lock().remove(self.number);
    }
}

/// Whom an address counts for: IPv6 hosts have 2^64 of them.
fn whose(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(
        connections: usize,
        per_address: usize,
        handshaking: usize,
        handshaking_per_address: usize,
    ) -> Arc<Places> {
        let fair = Duration::from_millis(500);
        let limits = Limits { connections, per_address, handshaking, handshaking_per_address, fair };
        Arc::new(Places { limits, table: Mutex::default() })
    }

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    const NOW: Duration = Duration::from_secs(1);
    const LATER: Duration = Duration::from_secs(2);

    #[test]
    fn r8_one_address_cannot_take_every_place() {
        let places = places(8, 4, 8, 8);
        let held: Vec<_> = (0..4).map(|_| places.take(address(1), NOW).expect("free").place).collect();
        held.iter().for_each(|place| assert!(place.settle()));
        assert_eq!(places.take(address(1), LATER).err(), Some("max_connections_per_address"));
        let others: Vec<_> = (2..6).map(|last| places.take(address(last), NOW).expect("R8: free").place).collect();
        others.iter().for_each(|place| assert!(place.settle()));
        assert_eq!(places.take(address(9), LATER).err(), Some("max_connections"));
        drop((held, others));
        assert_eq!((places.counts(), places.addresses()), ((0, 0), 0), "R8: freed");
    }

    #[test]
    fn r8_the_oldest_handshake_makes_room_once_it_had_a_fair_time() {
        let places = places(8, 8, 4, 2);
        let first = places.take(address(1), NOW).expect("free").place;
        let second = places.take(address(1), NOW).expect("free").place;
        assert_eq!(places.take(address(1), NOW).err(), Some("max_handshaking_per_address"));
        let third = places.take(address(1), LATER).expect("the oldest goes").place;
        assert!(!first.settle() && second.settle() && third.settle());
        assert_eq!(places.counts(), (2, 0));
        // Dropped late, it takes nothing away from those who hold a place.
        drop(first);
        assert_eq!(places.counts(), (2, 0));
    }

    #[test]
    fn addresses_of_one_host_are_one() {
        assert_eq!(whose("2001:db8::1".parse().unwrap()), whose("2001:db8::ffff:2".parse().unwrap()));
        assert_ne!(whose("2001:db8::1".parse().unwrap()), whose("2001:db8:0:1::1".parse().unwrap()));
        assert_eq!(whose("::ffff:10.0.0.1".parse().unwrap()), address(1));
    }

    proptest! {
        /// Whatever comes and goes, no bound is passed, who has settled stays, and nothing is left over.
        #[test]
        fn r8_no_bound_is_passed_and_everything_is_freed(
            steps in proptest::collection::vec((0u8..4, 0u8..4, any::<u16>()), 1..200),
        ) {
            let places = places(6, 4, 4, 3);
            let (mut held, mut settled) = (Vec::new(), Vec::new());
            for (n, (what, last, pick)) in steps.into_iter().enumerate() {
                let pick = usize::from(pick);
                match what {
                    0 | 1 => {
                        let now = Duration::from_millis(200 * n as u64);
                        held.extend(places.take(address(last), now).ok().map(|taken| taken.place));
                    }
                    2 if !held.is_empty() => {
                        let place: Place = held.swap_remove(pick % held.len());
                        if place.settle() {
                            settled.push(place);
                        }
                    }
                    3 if !settled.is_empty() => drop(settled.swap_remove(pick % settled.len())),
                    _ => {}
                }
                prop_assert!(settled.iter().all(Place::settle), "a settled one was put out");
                let table = places.table.lock();
                prop_assert!(table.open.len() <= 6 && table.shaking.len() <= 4);
                prop_assert!(table.addresses.values().all(|held| held.all <= 4 && held.shaking.len() <= 3));
            }
            drop((held, settled));
            prop_assert_eq!((places.counts(), places.addresses()), ((0, 0), 0));
        }
    }
}
