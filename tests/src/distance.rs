//! A long way between the two ends of a TCP connection, as proxies give it: what is sent arrives late, and later still
//! where something of it was lost and had to be sent again.
//!
//! Owns the model, not the bytes: nothing is ever missing in a stream, as with TCP. A segment of 1,460 bytes is lost
//! with the given probability, each try anew; the first repetition comes after a round trip and 200 ms (the least that
//! Linux waits), each further one after twice as long. What follows waits for what was lost (head of line). A new
//! connection costs a round trip, and a second, two, four .. for each SYN or answer to it that is lost. Left out: that
//! TCP repeats sooner where enough follows behind the gap, and that it sends less at once after a loss.

use std::time::Duration;

use tokio::time::Instant;

use crate::rng::Rng;

/// What a segment carries.
const SEGMENT: usize = 1_460;

/// The least wait beyond a round trip before something is sent again.
const LEAST_WAIT: Duration = Duration::from_millis(200);

/// The first wait for the answer to a SYN.
const SYN_WAIT: Duration = Duration::from_secs(1);

/// After so many losses of one segment it counts as arrived: real connections end then.
const MOST_LOSSES: u32 = 6;

/// How long the way is, and how much is lost on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Distance {
    /// How long a byte is under way, in one direction.
    pub one_way: Duration,
    /// Segments that are lost, of a thousand, in each direction.
    pub lost_per_mille: u16,
}

impl Distance {
    /// No way at all.
    pub const NEAR: Self = Self { one_way: Duration::ZERO, lost_per_mille: 0 };

    /// This long, with nothing lost.
    pub fn of(one_way: Duration) -> Self {
        Self { one_way, ..Self::NEAR }
    }

    /// There and back.
    pub fn round_trip(self) -> Duration {
        self.one_way * 2
    }

    /// The wait before something lost is sent again for the first time.
    fn wait(self) -> Duration {
        self.round_trip() + LEAST_WAIT
    }
}

/// One direction of one connection.
#[derive(Debug)]
pub struct Transit {
    rng: Rng,
    last: Option<Instant>,
}

impl Transit {
    /// A direction whose losses follow from `seed`.
    pub fn new(seed: u64) -> Self {
        Self { rng: Rng::new(seed), last: None }
    }

    /// How long it takes until the connection stands.
    pub fn handshake(&mut self, way: Distance) -> Duration {
        // Of SYN and answer either may be lost.
        let losses = self.losses(way) + self.losses(way);
        way.round_trip() + SYN_WAIT * (2_u32.pow(losses.min(MOST_LOSSES)) - 1)
    }

    /// When `bytes` that are sent at `now` have all arrived.
    pub fn arrival(&mut self, now: Instant, bytes: usize, way: Distance) -> Instant {
        let losses = (0..bytes.div_ceil(SEGMENT)).map(|_| self.losses(way)).max().unwrap_or(0);
        let at = now + way.one_way + way.wait() * (2_u32.pow(losses) - 1);
        let at = self.last.map_or(at, |last| last.max(at));
        self.last = Some(at);
        at
    }

    /// How often one segment is lost in a row.
    fn losses(&mut self, way: Distance) -> u32 {
        let mut losses = 0;
        while losses < MOST_LOSSES && way.lost_per_mille > 0 && self.rng.range(0..1_000) < u64::from(way.lost_per_mille)
        {
            losses += 1;
        }
        losses
    }
}

#[cfg(test)]
mod tests {
    use dc_core::{Clock, SystemClock};

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const FAR: Distance = Distance { one_way: Duration::from_millis(150), lost_per_mille: 50 };

    fn start() -> Instant {
        Instant::from_std(SystemClock.now())
    }

    /// How late each of many small pieces is that are sent a minute apart.
    fn late(transit: &mut Transit, way: Distance, pieces: u32, start: Instant) -> Vec<Duration> {
        let sent = (0..pieces).map(|n| start + n * Duration::from_secs(60));
        sent.map(|sent| transit.arrival(sent, 100, way) - sent).collect()
    }

    #[test]
    fn nothing_is_lost_on_a_way_without_loss() {
        let start = start();
        let mut transit = Transit::new(1);
        let way = Distance::of(150 * MS);
        assert!(late(&mut transit, way, 1_000, start).iter().all(|late| *late == 150 * MS));
        assert_eq!(transit.handshake(way), 300 * MS);
        assert_eq!(transit.handshake(Distance::NEAR), Duration::ZERO);
    }

    #[test]
    fn what_is_lost_comes_after_a_round_trip_or_more_and_the_share_is_as_given() {
        let start = start();
        let all = late(&mut Transit::new(7), FAR, 20_000, start);
        let share = |is: &dyn Fn(&Duration) -> bool| all.iter().filter(|late| is(late)).count();
        assert!((900..1_100).contains(&share(&|late| *late > 150 * MS)), "5 % are late");
        assert_eq!(share(&|late| *late > 150 * MS && *late < 650 * MS), 0, "by a round trip and 200 ms at least");
        assert!((20..90).contains(&share(&|late| *late >= 1_650 * MS)), "a quarter of a percent is lost twice");
        assert_eq!(late(&mut Transit::new(7), FAR, 20_000, start), all, "the same seed, the same losses");
    }

    #[test]
    fn nothing_overtakes_what_was_lost_before_it() {
        let start = start();
        let mut transit = Transit::new(3);
        let arrivals: Vec<Instant> = (0..2_000).map(|n| transit.arrival(start + n * MS, 3_000, FAR)).collect();
        assert!(arrivals.is_sorted());
    }
}
