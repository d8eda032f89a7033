//! The time that waits go by, and chance: the machine's, or simulated ones that come from a seed.
//!
//! A simulated clock stands still until somebody waits: a sleep moves it on at once, so a run on it never waits for real, and what depends
//! on time (idle partitions, sessions, timeouts) is the same in every run of a seed. Clones share one clock.
//!
//! Invariant: event time never comes from here.

use std::ops::Add;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// Where a run takes its time from.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Simulated>>);

#[derive(Debug)]
struct Simulated {
    nanos: AtomicU64,
    chance: AtomicU64,
}

/// A point in the time of one clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

impl Clock {
    /// The machine's.
    pub fn machine() -> Clock {
        Clock(None)
    }

    /// Begins at zero; chance is drawn from the seed.
    pub fn simulated(seed: u64) -> Clock {
        Clock(Some(Arc::new(Simulated { nanos: AtomicU64::new(0), chance: AtomicU64::new(seed) })))
    }

    pub fn is_simulated(&self) -> bool {
        self.0.is_some()
    }

    pub fn now(&self) -> Moment {
        match &self.0 {
            Some(simulated) => Moment(Duration::from_nanos(simulated.nanos.load(Ordering::Relaxed))),
            None => {
                static BEGAN: OnceLock<Instant> = OnceLock::new();
                Moment(BEGAN.get_or_init(Instant::now).elapsed())
            }
        }
    }

    /// How long ago a moment of this clock was.
    pub fn since(&self, moment: Moment) -> Duration {
        self.now().saturating_since(moment)
    }

    pub fn sleep(&self, time: Duration) {
        match &self.0 {
            Some(simulated) => drop(simulated.nanos.fetch_add(time.as_nanos() as u64, Ordering::Relaxed)),
            None => std::thread::sleep(time),
        }
    }

    /// A number that nobody can foresee, except whoever knows the seed.
    pub fn chance(&self) -> u32 {
        match &self.0 {
            Some(simulated) => {
                let drawn = simulated.chance.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
                (drawn.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32) as u32
            }
            None => rand::random(),
        }
    }
}

impl Moment {
    pub fn saturating_since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// Since the clock began.
    pub fn as_duration(self) -> Duration {
        self.0
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    fn add(self, time: Duration) -> Moment {
        Moment(self.0.saturating_add(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simulated_clock_stands_until_somebody_waits() {
        let (began, clock) = (Instant::now(), Clock::simulated(7));
        let (other, start) = (clock.clone(), clock.now());
        assert_eq!(clock.since(start), Duration::ZERO);
        clock.sleep(Duration::from_secs(3_600));
        assert_eq!(other.since(start), Duration::from_secs(3_600));
        assert_eq!(other.now(), start + Duration::from_secs(3_600));
        assert!(began.elapsed() < Duration::from_secs(60), "it does not wait");
    }

    #[test]
    fn chance_follows_the_seed() {
        let drawn = |seed: u64| {
            let clock = Clock::simulated(seed);
            (0..4).map(|_| clock.chance()).collect::<Vec<_>>()
        };
        assert_eq!(drawn(7), drawn(7));
        assert_ne!(drawn(7), drawn(8));
    }

    #[test]
    fn the_machine_s_clock_goes_on_by_itself() {
        let clock = Clock::machine();
        let start = clock.now();
        clock.sleep(Duration::from_millis(2));
        assert!(clock.since(start) >= Duration::from_millis(2));
    }
}
