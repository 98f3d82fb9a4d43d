//! PURE. The ready jobs of the destinations: how they join and leave their lists, which is next, and the search for those
//! that have become too old. Refuses to decide when: that is the queue's.

use super::Queue;
use super::destination::{Access, Sweep};
use super::slots::{NONE, State};
use crate::limits;
use crate::time::Wall;

impl<B> Queue<B> {
    /// Puts a job in state Expired that is in no list among the expired ones.
    pub(super) fn set_aside(&mut self, index: u32) {
        let destination = self.slots.get(index).destination;
        self.destinations.at_mut(destination).expired += 1;
        self.slots.push_back(&mut self.expired, index);
    }

    /// The next of a destination that has prioritised mail.
    pub(super) fn next_ranked(&mut self, destination: u32) -> u32 {
        let d = self.destinations.at_mut(destination);
        let ranks = d.ranks.as_mut().expect("it was asked for");
        ranks.run += 1;
        if ranks.run >= limits::QUEUE_RANK_SHARE {
            ranks.run = 0;
            let heads = d.ranked_heads(true).chain(d.plain.heads()).chain(d.ranked_heads(false));
            return heads.min_by_key(|index| self.slots.get(*index).job.enqueued).expect("something is ready");
        }
        if let Some(high) = d.ranked_heads(true).next() {
            return high;
        }
        if d.plain.available() > 0 {
            return self.next_plain(destination);
        }
        d.ranked_heads(false).next().expect("something is ready")
    }

    /// The next plain job of a destination that has any.
    pub(super) fn next_plain(&mut self, destination: u32) -> u32 {
        let slots = &self.slots;
        self.destinations.at_mut(destination).plain.next(|index| slots.get(index).job.size)
    }

    /// Puts a job that is in no list into a list of its destination.
    pub(super) fn make_ready(&mut self, index: u32, end: End) {
        let used = self.slots.get(index);
        let state = match used.job.terms.as_ref().and_then(|t| t.rank()) {
            Some(rank) => State::Ranked(rank),
            None if used.job.attempts == 0 => State::Fresh,
            None => State::Retry,
        };
        self.list(index, state, end);
    }

    /// Puts a job that is in no list among its destination's plain ones.
    pub(super) fn list_plain(&mut self, index: u32, end: End) {
        let state = if self.slots.get(index).job.attempts == 0 { State::Fresh } else { State::Retry };
        self.list(index, state, end);
    }

    fn list(&mut self, index: u32, state: State, end: End) {
        let used = self.slots.get_mut(index);
        used.state = state;
        let (destination, accepted) = (used.destination, used.job.accepted);
        let flow = used.job.flow();
        let weight = self.tenants.weight(flow.tenant);
        let d = self.destinations.at_mut(destination);
        d.oldest = d.oldest.min(accepted);
        d.edit_list(state, (flow, weight), |list| match end {
            End::Front => self.slots.push_front(list, index),
            End::Back => self.slots.push_back(list, index),
        });
        self.ready += 1;
        if !matches!(d.access, Access::Suspended(_)) {
            self.destinations.touch(destination);
        }
    }

    /// Moves a ready job into the driver's hands.
    pub(super) fn hold(&mut self, index: u32) {
        let destination = self.unlink_ready(index, State::InFlight);
        self.destinations.at_mut(destination).in_flight += 1;
        self.in_flight += 1;
    }

    /// Moves a job that was just unlinked from the expired ones into the driver's hands.
    pub(super) fn hold_expired(&mut self, index: u32) {
        let used = self.slots.get_mut(index);
        used.state = State::InFlight;
        let d = self.destinations.at_mut(used.destination);
        d.expired -= 1;
        d.in_flight += 1;
        self.in_flight += 1;
    }

    pub(super) fn unlink_ready(&mut self, index: u32, to: State) -> u32 {
        let prev = self.slots.prev(index);
        let used = self.slots.get_mut(index);
        let destination = used.destination;
        let from = std::mem::replace(&mut used.state, to);
        let flow = used.job.flow();
        let weight = self.tenants.weight(flow.tenant);
        let d = self.destinations.at_mut(destination);
        if let Some(sweep) = &mut d.sweep
            && sweep.cursor == index
        {
            sweep.cursor = prev;
        }
        d.edit_list(from, (flow, weight), |list| self.slots.unlink(list, index));
        self.ready -= 1;
        if d.ready() == 0 {
            d.oldest = Wall(u64::MAX);
        }
        destination
    }

    /// Where a job belongs.
    pub(super) fn place_of(&self, index: u32) -> u32 {
        self.destinations.domain_at(self.slots.get(index).domain).destination
    }

    /// Moves a ready job to where it belongs.
    pub(super) fn bring_home(&mut self, index: u32, end: End) {
        let place = self.place_of(index);
        self.unlink_ready(index, State::Waiting);
        let used = self.slots.get_mut(index);
        used.destination = place;
        if matches!(self.destinations.at(place).access, Access::Suspended(_)) {
            used.job.body = None;
        }
        self.make_ready(index, end);
    }

    /// A domain has left a destination: its ready jobs follow.
    pub(super) fn empty_out(&mut self, destination: u32) {
        if self.destinations.at(destination).ready() > 0 {
            self.begin_sweep(destination);
            self.sweep(limits::QUEUE_SWEEP_PER_TURN);
        }
    }

    /// Looks through the ready jobs of a destination, from the start.
    pub(super) fn begin_sweep(&mut self, destination: u32) {
        let d = self.destinations.at_mut(destination);
        let (list, flow) = d.plain.first();
        d.sweep = Some(Sweep { list, flow, cursor: d.list(list, flow).tail });
        if !std::mem::replace(&mut d.sweep_queued, true) {
            self.sweeping.push_back(self.destinations.id(destination));
        }
    }

    /// Looks at up to `budget` ready jobs: moves those that belong elsewhere, and sets aside those too old at suspended
    /// destinations. From the last to the first: what comes while it goes on is younger, or has been looked at.
    pub(super) fn sweep(&mut self, mut budget: usize) {
        while let Some(dest) = self.sweeping.front().copied() {
            let Some(d) = self.destinations.get_mut(dest) else {
                self.sweeping.pop_front();
                continue;
            };
            let Some(Sweep { list, flow, cursor }) = d.sweep else {
                d.sweep_queued = false;
                self.sweeping.pop_front();
                continue;
            };
            if cursor == NONE {
                let next = d.list_behind(list, flow);
                d.sweep = next.map(|(list, flow)| Sweep { list, flow, cursor: d.list(list, flow).tail });
                continue;
            }
            if budget == 0 {
                return;
            }
            budget -= 1;
            let suspended = matches!(d.access, Access::Suspended(_));
            let (accepted, tenant) = (self.slots.get(cursor).job.accepted, self.slots.get(cursor).job.tenant);
            if self.place_of(cursor) != dest.index {
                self.bring_home(cursor, End::Front);
            } else if suspended && self.policy_at(dest.index, tenant).is_expired(accepted, self.now.wall) {
                // Moves the cursor on.
                self.unlink_ready(cursor, State::Expired);
                self.set_aside(cursor);
            } else {
                let d = self.destinations.at_mut(dest.index);
                d.oldest = d.oldest.min(accepted);
                d.sweep = Some(Sweep { list, flow, cursor: self.slots.prev(cursor) });
            }
        }
    }
}

/// Where a job joins a list.
#[derive(Clone, Copy)]
pub(super) enum End {
    Front,
    Back,
}
