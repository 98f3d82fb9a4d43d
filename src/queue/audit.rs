//! PURE. Simulation and tests only: the sizes of what a queue holds, and their bounds.

use super::Queue;
use crate::limits;

impl<B> Queue<B> {
    /// Domains remembered: several may be one destination.
    pub fn domains(&self) -> usize {
        self.destinations.lists()[0]
    }

    /// See `ShardCore::audit`.
    pub fn audit(&self, report: &mut dyn FnMut(&'static str, usize, usize)) {
        let counts = self.counts();
        let jobs = counts.ready + counts.waiting + counts.in_flight + counts.expired;
        // A job is a recipient domain of a live message: what the home shards take bounds them.
        report("queue.jobs", jobs, limits::LIVE_MESSAGES_PER_SHARD.saturating_mul(limits::SHARDS));
        report("queue.destinations", counts.destinations, jobs + limits::QUEUE_IDLE_DESTINATIONS);
        report("queue.tenants", self.tenants.len(), jobs);
        report("queue.suspended", counts.suspended, counts.destinations);
        report("queue.retry timers", self.retries.len(), counts.waiting);
        report("queue.deadlines", self.deadlines.len(), self.deadlines.bound());
        report("queue.late", self.late.len(), jobs);
        report("queue.sweeping", self.sweeping.len(), counts.destinations);
        let [domains, touched, idle] = self.destinations.lists();
        report("queue.domains", domains, jobs + limits::QUEUE_IDLE_DESTINATIONS);
        report("queue.touched", touched, counts.destinations);
        report("queue.idle destinations", idle, limits::QUEUE_IDLE_DESTINATIONS + counts.destinations);
    }
}
