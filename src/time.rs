//! PURE. Moments and wall-clock times as plain values, so that protocol code never reads a clock and a simulator can
//! invent one.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the shard's monotonic clock, in nanoseconds since an arbitrary origin. Deadlines are `Moment`s.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Moment(pub u64);

impl Moment {
    /// Later than every deadline.
    pub const NEVER: Moment = Moment(u64::MAX);

    /// Time from `earlier` to `self`; zero if `earlier` is later.
    pub fn since(self, earlier: Moment) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;
    fn add(self, d: Duration) -> Moment {
        Moment(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Moment {
    type Output = Moment;
    fn sub(self, d: Duration) -> Moment {
        Moment(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

/// Civil time, in milliseconds since the Unix epoch (UTC). What is written to disk and into headers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Wall(pub u64);

impl Wall {
    /// Time from `earlier` to `self`; zero if `earlier` is later (the clock was set back).
    pub fn since(self, earlier: Wall) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// Both clocks, read once per turn of a shard and handed to everything that runs in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Now {
    /// Monotonic time: deadlines and durations.
    pub mono: Moment,
    /// Civil time: headers, records, expiry of mail.
    pub wall: Wall,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::cases;
    use proptest::prelude::*;

    fn duration() -> impl Strategy<Value = Duration> {
        prop_oneof![
            (any::<u64>(), 0..1_000_000_000u32).prop_map(|(seconds, nanos)| Duration::new(seconds, nanos)),
            any::<u64>().prop_map(Duration::from_nanos),
            Just(Duration::MAX),
        ]
    }

    proptest! {
        #![proptest_config(cases(2000))]

        #[test]
        fn property_moments_saturate_and_agree_with_their_differences(a in any::<u64>(), b in any::<u64>(), d in duration()) {
            let (a, b) = (Moment(a), Moment(b));
            let nanos = |m: Moment| u128::from(m.0);
            prop_assert_eq!(nanos(a + d), (nanos(a) + d.as_nanos()).min(nanos(Moment::NEVER)));
            prop_assert_eq!(nanos(a - d), nanos(a).saturating_sub(d.as_nanos()));
            prop_assert_eq!(a.since(b).as_nanos(), nanos(a).saturating_sub(nanos(b)));
            prop_assert_eq!(a.min(b) + a.max(b).since(a.min(b)), a.max(b));
            prop_assert_eq!(Moment::NEVER + d, Moment::NEVER);
            prop_assert_eq!(Wall(a.0).since(Wall(b.0)).as_millis(), u128::from(a.0.saturating_sub(b.0)));
        }
    }
}
