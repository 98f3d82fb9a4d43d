//! PURE. One rate of a scope: the batches of permits that were made of it, and when the next one may be.

use super::{Batch, Used};
use crate::limits;
use crate::shaping::Rate;
use crate::time::Moment;
use std::collections::VecDeque;
use std::time::Duration;

/// The batches of one rate that still count, in the order they were made.
#[derive(Debug, Default)]
pub(super) struct Pacing {
    /// When the next one would be due if all came evenly, by all that is not in `batches`.
    pub due: Moment,
    batches: VecDeque<Made>,
}

#[derive(Debug)]
struct Made {
    lane: u16,
    /// What it was used for, or else what it may be.
    used: Used,
    told: bool,
}

impl Pacing {
    /// The theoretical arrival time of the next one, each permit that may be used taken for used at its end.
    pub fn due(&self, rate: Rate) -> Moment {
        self.batches.iter().fold(self.due, |due, made| made.after(due, rate))
    }

    /// What is ahead of one rate is as much ahead of another, in units.
    pub fn rescale(&mut self, before: Rate, after: Rate, now: Moment) {
        let ahead = self.due.since(now).as_nanos() * after.interval().as_nanos();
        let nanos = ahead.div_ceil(before.interval().as_nanos());
        self.due = self.due.min(now) + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
    }

    /// From when on another one conforms.
    pub fn next(&self, rate: Rate) -> Moment {
        self.due(rate) - rate.interval() * (rate.burst() - 1)
    }

    /// Whether a lane has a batch that it has told nothing of.
    pub fn is_under_way(&self, lane: u16) -> bool {
        self.batches.iter().any(|made| made.lane == lane && !made.told)
    }

    /// Whether all is as if none had ever been made.
    pub fn is_past(&self, now: Moment) -> bool {
        self.batches.is_empty() && self.due <= now
    }

    /// A lane has told what it used of its batch.
    pub fn settle(&mut self, lane: u16, used: Used, rate: Option<Rate>) {
        if let Some(made) = self.batches.iter_mut().find(|made| made.lane == lane && !made.told) {
            let last = if planted!(PermitUsedAtItsEnd) { made.used.last } else { used.last };
            (made.used, made.told) = (Used { last, ..used }, true);
        }
        while self.batches.front().is_some_and(|made| made.told) {
            if let (Some(made), Some(rate)) = (self.batches.pop_front(), rate) {
                self.due = made.after(self.due, rate);
            }
        }
    }

    /// Makes a batch of up to `wanted` permits; `None`: not one conforms now.
    pub fn make(&mut self, lane: u16, wanted: u32, rate: Rate, now: Moment) -> Option<Batch> {
        let first = self.next(rate);
        let room = (first <= now).then(|| now.since(first).as_nanos() / rate.interval().as_nanos() + 1)?;
        let count = wanted.min(rate.burst()).min(u32::try_from(room).unwrap_or(u32::MAX));
        let until = now + limits::LEASE_TERM;
        self.batches.push_back(Made { lane, used: Used { count, last: until }, told: false });
        Some(Batch { count, until })
    }
}

impl Made {
    fn after(&self, due: Moment, rate: Rate) -> Moment {
        if self.used.count == 0 { due } else { due.max(self.used.last) + rate.interval() * self.used.count }
    }
}
