//! PURE. When to try again: exponential back-off with jitter, and when to give up.

use crate::limits;
use crate::shaping::Schedule;
use crate::time::{Now, Wall};
use std::time::Duration;

/// How a transient failure is retried (RFC 5321 §4.5.4.1).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    /// Delay after the first failure.
    pub first: Duration,
    /// Each later delay is this many times the one before; 1.0 for a steady pace.
    pub factor: f64,
    /// No delay is longer, jitter included.
    pub max: Duration,
    /// Age at which a message that failed once more is given up.
    pub give_up: Duration,
    /// Delays are spread evenly over this part of themselves.
    pub jitter: f64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        RetryPolicy {
            first: limits::RETRY_FIRST_DEFAULT,
            factor: limits::RETRY_FACTOR_DEFAULT,
            max: limits::RETRY_MAX_DEFAULT,
            give_up: limits::RETRY_GIVE_UP_DEFAULT,
            jitter: limits::RETRY_JITTER_DEFAULT,
        }
    }
}

impl RetryPolicy {
    /// The delay after the failure number `failures` (from 1). Let `d = first * factor^(failures - 1)`: the delay lies
    /// in `[d, d * (1 + jitter)]`, the whole range moved down where its end would pass `max`. So the first retry never
    /// comes early, none comes later than `max`, and at `max` retries are as spread as before.
    ///
    /// `random` is any evenly distributed number.
    pub fn delay(&self, failures: u16, random: u64) -> Duration {
        // Seconds as floating point: IEEE 754 gives every machine the same, and no policy overflows.
        let max = self.max.as_secs_f64();
        let growth = self.factor.max(1.0).powi(i32::from(failures.max(1)) - 1);
        let planned = (self.first.as_secs_f64() * growth).min(max);
        let jitter = self.jitter.max(0.0);
        let high = (planned * (1.0 + jitter)).min(max);
        let low = if planted!(JitterFromZero) { 0.0 } else { planned.min(high / (1.0 + jitter)) };
        // 53 bits of it, a number in [0, 1).
        let share = (random >> 11) as f64 / (1u64 << 53) as f64;
        Duration::try_from_secs_f64(low + (high - low) * share).unwrap_or(self.max)
    }

    /// What holds where rules say something else of some of it. Keys of different places may contradict each other: then no
    /// interval is longer than `give_up`, and a `max` of another place than `first` leaves that its spread.
    #[must_use]
    pub fn by(&self, rules: Schedule) -> RetryPolicy {
        let give_up = rules.give_up.unwrap_or(self.give_up);
        let first = rules.first.unwrap_or(self.first).min(give_up);
        RetryPolicy {
            first,
            factor: rules.factor.unwrap_or(self.factor),
            max: rules.max.unwrap_or(self.max.max(first.mul_f64(1.0 + self.jitter.max(0.0)))).max(first).min(give_up),
            give_up,
            jitter: self.jitter,
        }
    }

    /// A delay that somebody else has asked for, spread as all are, and never shorter.
    pub(super) fn spread(&self, delay: Duration, random: u64) -> Duration {
        RetryPolicy { first: delay, max: Duration::MAX, factor: 1.0, ..*self }.delay(1, random)
    }

    /// Whether a message accepted then is old enough to be given up, should it fail now.
    pub fn is_expired(&self, accepted: Wall, now: Wall) -> bool {
        now.since(accepted) >= self.give_up
    }

    /// The delay of a job's next attempt: as [`delay`](Self::delay), but cut so that the last attempt comes at the
    /// give-up time and not up to `max` before it. `None`: it is that old already, or will be within a second (a
    /// timer and the wall clock may differ by their rounding).
    pub(super) fn next_attempt(&self, failures: u16, accepted: Wall, now: Now, random: u64) -> Option<Duration> {
        let left = self.give_up.saturating_sub(now.wall.since(accepted) * if planted!(ExpiresAtHalf) { 2 } else { 1 });
        (left >= Duration::from_secs(1)).then(|| self.delay(failures, random).min(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_from_first_to_max_within_their_bounds() {
        let policy = RetryPolicy::default();
        let minutes = |d: Duration| d.as_secs_f64() / 60.0;
        for (failures, planned) in [(1, 5.0), (2, 10.0), (3, 20.0), (4, 40.0), (5, 80.0), (6, 160.0)] {
            assert!((minutes(policy.delay(failures, 0)) - planned).abs() < 1e-6, "{failures}");
            let latest = minutes(policy.delay(failures, u64::MAX));
            assert!((latest - planned * 1.2).abs() < 1e-6, "{failures}: {latest}");
        }
        for failures in [7, 8, 100, u16::MAX] {
            assert!((minutes(policy.delay(failures, 0)) - 200.0).abs() < 1e-6);
            let latest = policy.delay(failures, u64::MAX);
            assert!(latest <= policy.max && latest > policy.max - Duration::from_secs(1));
        }
    }

    #[test]
    fn what_a_rule_does_not_say_is_as_usual_and_never_in_contradiction() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let usual = RetryPolicy::default();
        assert_eq!(usual.by(Schedule::default()), usual);
        let short = Schedule { give_up: Some(minutes(60)), ..Schedule::default() };
        assert_eq!(usual.by(short), RetryPolicy { max: minutes(60), give_up: minutes(60), ..usual });
        let slow = Schedule { first: Some(minutes(300)), ..Schedule::default() };
        assert_eq!(usual.by(slow), RetryPolicy { first: minutes(300), max: minutes(360), ..usual });
        let both = usual.by(slow.with_tenant(short));
        assert_eq!((both.first, both.max, both.give_up), (minutes(60), minutes(60), minutes(60)));
    }

    #[test]
    fn a_delay_that_was_asked_for_is_never_shorter() {
        let policy = RetryPolicy::default();
        let day = Duration::from_secs(86_400);
        assert_eq!(policy.spread(day, 0), day);
        assert!(policy.spread(day, u64::MAX) <= day.mul_f64(1.2) && policy.spread(day, u64::MAX / 2) > day);
    }

    #[test]
    fn jitter_is_spread_evenly() {
        let policy = RetryPolicy::default();
        let quarter = policy.delay(1, u64::MAX / 4);
        assert!((quarter.as_secs_f64() - 315.0).abs() < 0.001, "{quarter:?}");
    }

    #[test]
    fn odd_policies_do_not_overflow() {
        let odd = RetryPolicy {
            first: Duration::MAX,
            factor: f64::MAX,
            max: Duration::MAX,
            give_up: Duration::MAX,
            jitter: f64::MAX,
        };
        for policy in [odd, RetryPolicy { first: Duration::ZERO, max: Duration::ZERO, factor: 0.0, ..odd }] {
            for failures in [0, 1, 2, u16::MAX] {
                for random in [0, 1, u64::MAX] {
                    policy.delay(failures, random);
                }
            }
        }
        let steady = RetryPolicy { factor: 1.0, ..RetryPolicy::default() };
        assert_eq!(steady.delay(1, 7), steady.delay(50, 7));
    }

    #[test]
    fn the_last_attempt_is_at_the_give_up_time() {
        let policy = RetryPolicy::default();
        let day = 24 * 3_600_000;
        let at = |ms| Now { wall: Wall(ms), ..Now::default() };
        assert_eq!(policy.next_attempt(30, Wall(0), at(5 * day - 60_000), 0), Some(Duration::from_secs(60)));
        assert_eq!(policy.next_attempt(30, Wall(0), at(5 * day), 0), None);
        assert!(policy.is_expired(Wall(0), Wall(5 * day)) && !policy.is_expired(Wall(0), Wall(5 * day - 1)));
        // The clock was set back behind the acceptance: not expired.
        assert!(policy.next_attempt(1, Wall(day), at(0), 0).is_some());
    }
}
