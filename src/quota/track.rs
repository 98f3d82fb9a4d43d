//! PURE. The units of one key that count in one window.
//!
//! In: units and the moment at which they are free again; out: how many count, and when so many will be free. Bounded:
//! many moments are rounded up to a grid, so that a unit may come back late but never early.

use crate::limits::{QUOTA_CLOCK_STEP, QUOTA_LEASE_TIME, QUOTA_MARKS, QUOTA_SLOTS, QUOTA_WRITE_TIMEOUT};
use crate::time::Moment;
use std::collections::VecDeque;
use std::time::Duration;

/// Units that count until a moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Mark {
    pub free_at: Moment,
    pub units: u64,
}

/// The marks of one window, the first to be free in front, no moment twice.
#[derive(Clone, Debug)]
pub(super) struct Track {
    pub window: Duration,
    marks: VecDeque<Mark>,
    total: u64,
}

/// The longest that a unit can count from now on: it was in a lease that was not yet handed out when a process died.
pub(super) fn longest(window: Duration) -> Duration {
    window + QUOTA_WRITE_TIMEOUT + QUOTA_LEASE_TIME + QUOTA_CLOCK_STEP
}

impl Track {
    pub fn new(window: Duration) -> Track {
        Track { window, marks: VecDeque::new(), total: 0 }
    }

    /// The same uses, seen in another window. Those that this one has forgotten are not in it.
    pub fn in_window(&self, window: Duration, now: Moment) -> Track {
        let mut track = Track::new(window);
        for mark in &self.marks {
            // The longer way first: a moment does not go below zero.
            track.add(mark.free_at + window - self.window, mark.units, now);
        }
        track
    }

    pub fn marks(&self) -> impl ExactSizeIterator<Item = &Mark> {
        self.marks.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Forgets what is free by now.
    pub fn expire(&mut self, now: Moment) {
        while let Some(mark) = self.marks.front().filter(|mark| mark.free_at <= now) {
            self.total -= mark.units;
            self.marks.pop_front();
        }
    }

    /// Units that count.
    pub fn used(&mut self, now: Moment) -> u64 {
        self.expire(now);
        self.total
    }

    /// These units count until `free_at`.
    pub fn add(&mut self, free_at: Moment, units: u64, now: Moment) {
        self.expire(now);
        if units == 0 || free_at <= now {
            return;
        }
        self.total += units;
        let at = self.marks.partition_point(|mark| mark.free_at < free_at);
        match self.marks.get_mut(at) {
            Some(mark) if mark.free_at == free_at => mark.units += units,
            _ => self.marks.insert(at, Mark { free_at, units }),
        }
        if self.marks.len() > QUOTA_MARKS {
            self.round_up();
        }
    }

    /// Moves every mark up to the grid. A mark that stands on it stays, however often this is done.
    fn round_up(&mut self) {
        let slot = slot(self.window);
        let mut rounded: VecDeque<Mark> = VecDeque::with_capacity(QUOTA_MARKS + 1);
        for mark in &self.marks {
            let free_at = Moment(mark.free_at.0.div_ceil(slot).saturating_mul(slot));
            match rounded.back_mut() {
                Some(last) if last.free_at == free_at => last.units += mark.units,
                _ => rounded.push_back(Mark { free_at, units: mark.units }),
            }
        }
        self.marks = rounded;
    }

    /// Units taken at `taken_at` were not used after all: they are taken off the first marks that can be theirs.
    ///
    /// The marks then still cover the other uses. For each moment `x` there were at least as many units marked free at `x`
    /// or later as are due then; those between their due moment and their mark are fewer by one on both sides, and
    /// between the due moment and the first mark after it there is no mark that another use could miss.
    ///
    /// What is due by now may have been forgotten with its mark, and no other is taken for it.
    pub fn put_back(&mut self, taken_at: Moment, units: u32, now: Moment) {
        let due = taken_at + self.window;
        if due <= now {
            return;
        }
        let mut at = self.marks.partition_point(|mark| mark.free_at < due);
        let mut left = u64::from(units);
        while left > 0
            && let Some(mark) = self.marks.get_mut(at)
        {
            let off = left.min(mark.units);
            mark.units -= off;
            self.total -= off;
            left -= off;
            at += 1;
        }
        self.marks.retain(|mark| mark.units > 0);
    }

    /// The first moment at which no more than `most` units count.
    pub fn down_to(&self, most: u64, now: Moment) -> Moment {
        let mut left = self.total;
        let mut at = now;
        for mark in &self.marks {
            if left <= most {
                break;
            }
            left -= mark.units;
            at = mark.free_at;
        }
        at.max(now)
    }
}

/// The grid, in nanoseconds.
fn slot(window: Duration) -> u64 {
    let slots = u128::try_from(QUOTA_SLOTS).unwrap_or(1);
    u64::try_from(longest(window).as_nanos().div_ceil(slots)).unwrap_or(u64::MAX).max(1)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::properties::cases;
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(60);

    proptest! {
        #![proptest_config(cases(300))]

        /// Against a list of uses: each use is covered by a mark of its own that is not earlier, nor later than a slot.
        #[test]
        fn property_marks_cover_uses_and_are_few(
            steps in prop::collection::vec((0..600u64, 0..8000u64, 1..4u32, prop::bool::weighted(0.1)), 1..600),
        ) {
            let mut track = Track::new(WINDOW);
            let mut now = Moment(1);
            let mut uses: Vec<(Moment, u32)> = Vec::new();
            for (millis, late, units, returned) in steps {
                now = now + Duration::from_millis(millis);
                let taken = now - Duration::from_millis(late).min(WINDOW);
                track.add(taken + WINDOW, u64::from(units), now);
                if taken + WINDOW > now {
                    uses.push((taken, units));
                }
                if returned && let Some((taken, units)) = uses.pop() {
                    track.put_back(taken, units, now);
                }
                track.expire(now);
                prop_assert!(track.marks.len() <= QUOTA_MARKS);
                prop_assert_eq!(track.total, track.marks.iter().map(|m| m.units).sum::<u64>());
                prop_assert!(track.marks.iter().zip(track.marks.iter().skip(1)).all(|(a, b)| a.free_at < b.free_at));
                for x in uses.iter().map(|(at, _)| *at + WINDOW).filter(|x| *x > now) {
                    let due: u64 = uses.iter().filter(|(at, _)| *at + WINDOW >= x).map(|(_, n)| u64::from(*n)).sum();
                    let marked: u64 = track.marks.iter().filter(|m| m.free_at >= x).map(|m| m.units).sum();
                    prop_assert!(marked >= due, "{} of {}", marked, due);
                }
                let slot = Duration::from_nanos(slot(WINDOW));
                let known: u64 = uses.iter().filter(|(at, _)| *at + WINDOW + slot > now).map(|(_, n)| u64::from(*n)).sum();
                prop_assert!(track.total <= known, "late by more than a slot");
            }
        }
    }
}
