//! PURE. What a few messages ask for beside being delivered, and the timers of that. Plain mail carries nothing of it.

use super::job::JobKey;
use crate::time::Moment;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Conditions of a job, from the parameters of its message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// It is not ready before (RFC 4865). Its age is to count from then on: see [`Job::accepted`](super::Job::accepted).
    pub hold_until: Option<Moment>,
    /// It is to be delivered by then (RFC 2852).
    pub by: Option<Moment>,
    /// What is not delivered by then is given up; otherwise `by` binds nobody here.
    pub return_late: bool,
    /// If it is still here then, the sender is to be told, once ([`Queue::poll_late`](super::Queue::poll_late)).
    pub tell_late: Option<Moment>,
    /// MT-PRIORITY (RFC 6710), −9 to 9.
    pub priority: i8,
    /// `TLS-Required: No` (RFC 8689 §3): for whoever chooses its destination, not for the queue.
    pub tls_optional: bool,
}

impl Terms {
    /// When the job is given up at the latest.
    pub(super) fn end(&self) -> Option<Moment> {
        self.by.filter(|_| self.return_late && !planted!(DeadlineUnchecked))
    }

    /// Whether its time is up.
    pub fn is_overdue(&self, now: Moment) -> bool {
        self.end().is_some_and(|end| end <= now)
    }

    /// Its place among the lists of prioritised mail: 0 is the highest. `None`: it goes with plain mail.
    pub(super) fn rank(&self) -> Option<u8> {
        match self.priority.clamp(-9, 9) {
            0 => None,
            high @ 1.. => Some(9 - high.unsigned_abs()),
            low => Some(8 + low.unsigned_abs()),
        }
    }
}

/// Lists of prioritised mail: 9 above plain mail, 9 below.
pub(super) const RANKS: usize = 18;
/// Of those, above plain mail.
pub(super) const HIGH_RANKS: usize = 9;

/// Moments at which a job is to be looked at, earliest first. An entry whose job was finished meanwhile is skipped;
/// there are never many more of those than jobs with terms.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    heap: BinaryHeap<Reverse<(Moment, JobKey)>>,
    /// Jobs with terms.
    jobs: usize,
}

/// Entries kept whatever the number of jobs: clearing away fewer is not worth the walk.
const SLACK: usize = 1024;

impl Deadlines {
    #[cfg(any(test, feature = "sim"))]
    pub fn len(&self) -> usize {
        self.heap.len()
    }

    /// The most entries there may be.
    #[cfg(any(test, feature = "sim"))]
    pub fn bound(&self) -> usize {
        4 * self.jobs + SLACK + 2
    }

    pub fn begin(&mut self) {
        self.jobs += 1;
    }

    /// One is gone. `lives` says whether a job is still there.
    pub fn end(&mut self, lives: impl Fn(JobKey) -> bool) {
        self.jobs -= 1;
        self.prune(lives);
    }

    /// Has `key` looked at when its terms say so.
    pub fn watch(&mut self, key: JobKey, terms: &Terms, lives: impl Fn(JobKey) -> bool) {
        self.prune(lives);
        let moments = [terms.end(), terms.tell_late].into_iter().flatten();
        self.heap.extend(moments.map(|moment| Reverse((moment, key))));
    }

    /// Clears away the entries of jobs that are gone, and those of a job beyond one for each of its moments: what is left
    /// is half of what may be at the most, so that each entry pays for its own removal.
    fn prune(&mut self, lives: impl Fn(JobKey) -> bool) {
        if self.heap.len() > 4 * self.jobs + SLACK {
            let mut entries = std::mem::take(&mut self.heap).into_vec();
            entries.retain(|Reverse((_, key))| lives(*key));
            entries.sort_unstable();
            entries.dedup();
            entries.shrink_to(2 * SLACK);
            self.heap = entries.into();
        }
    }

    pub fn next(&self) -> Option<Moment> {
        self.heap.peek().map(|Reverse((due, _))| *due)
    }

    pub fn poll(&mut self, now: Moment) -> Option<JobKey> {
        self.next().filter(|due| *due <= now)?;
        self.heap.pop().map(|Reverse((_, key))| key)
    }
}
