//! PURE. How old mail is while the relay runs, whatever is done to the wall clock meanwhile.
//!
//! The queue compares wall times. It is given a wall clock of its own that runs with the monotonic one and is never set:
//! [`steady`]. What is handed over is put on it by its age at that moment ([`accepted_on_steady`]): for mail of an
//! earlier life that is where the wall clock counts, since nothing else outlasts a restart.

use crate::queue::RetryPolicy;
use crate::time::{Moment, Now, Wall};
use std::time::Duration;

/// The steady clock's reading at the monotonic clock's origin: further from zero than any message is old.
const ORIGIN_MILLIS: u64 = 1 << 42;

/// `now` with a wall clock that no step of the real one moves.
pub(super) fn steady(now: Now) -> Now {
    if planted!(AgeByWallClock) {
        return now;
    }
    Now { wall: Wall(ORIGIN_MILLIS + now.mono.0 / 1_000_000), ..now }
}

/// When a message was accepted, on the steady clock, that was of `age` when it was handed over at `handed`. One that seems to have been overdue before it came here (the relay
/// was down for days, or the clock was wrong when it was accepted) is left the longest interval between two attempts, so
/// that it is tried more than once before it is given up.
pub(super) fn accepted_on_steady(age: Duration, handed: Moment, now: Now, policy: &RetryPolicy) -> Wall {
    let age = age.min(policy.give_up.saturating_sub(policy.max)) + now.mono.since(handed);
    let age = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    Wall(steady(now).wall.0.saturating_sub(age))
}

/// The later of a reading of the steady clock and the one it will have at `moment`.
pub(super) fn later(wall: Wall, moment: Moment, now: Now) -> Wall {
    let ahead = u64::try_from(moment.since(now.mono).as_millis()).unwrap_or(u64::MAX);
    wall.max(Wall(steady(now).wall.0.saturating_add(ahead)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const DAY: u64 = 24 * HOUR;

    fn at(mono_hours: u64, wall: u64) -> Now {
        Now { mono: Moment(mono_hours * HOUR * 1_000_000), wall: Wall(wall) }
    }

    #[test]
    fn a_step_of_the_wall_clock_ages_nothing() {
        let policy = RetryPolicy::default();
        let came = at(1, 1000 * DAY);
        let accepted = accepted_on_steady(Duration::from_millis(2 * DAY), came.mono, came, &policy);
        // An hour later by the monotonic clock, whatever the wall clock says then: two days and an hour old.
        for wall in [0, 10 * DAY, 1000 * DAY + HOUR, 1006 * DAY, 9999 * DAY] {
            let age = steady(at(2, wall)).wall.since(accepted);
            assert_eq!(age, Duration::from_millis(2 * DAY + HOUR));
        }
        assert!(policy.is_expired(accepted, steady(at(1 + 3 * 24, 0)).wall));
        assert!(!policy.is_expired(accepted, steady(at(3 * 24, 9999 * DAY)).wall));
    }

    #[test]
    fn what_seems_overdue_is_tried_for_another_interval() {
        let policy = RetryPolicy::default();
        let now = at(0, 9000 * DAY);
        for days in [9000, 5] {
            let accepted = accepted_on_steady(Duration::from_millis(days * DAY), now.mono, now, &policy);
            assert!(!policy.is_expired(accepted, steady(at(3, 9000 * DAY)).wall));
            assert!(policy.is_expired(accepted, steady(at(4, 9000 * DAY)).wall));
        }
    }

    #[test]
    fn what_is_on_its_way_to_its_owner_ages_by_the_monotonic_clock() {
        let policy = RetryPolicy::default();
        let handed = at(1, 1000 * DAY).mono;
        // It comes an hour later, and the wall clock was set by nine days meanwhile.
        let came = at(2, 1009 * DAY);
        let accepted = accepted_on_steady(Duration::ZERO, handed, came, &policy);
        assert_eq!(steady(came).wall.since(accepted), Duration::from_millis(HOUR));
    }
}
