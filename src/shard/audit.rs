//! Simulation and tests only: what a shard holds, by name, with its bound. What nothing bounds, grows.
//!
//! Input: a shard between two events; output: a list of (name, size, bound). It costs a look at each connection and
//! destination, nothing for each message. Refuses: to judge; the caller compares.

use super::ShardCore;
use crate::limits;

impl ShardCore {
    /// Names every queue, cache, table and buffer of the shard, with its present size and the bound from limits.rs or
    /// the configuration. Call it between two events, not inside of one. Of the buffers that each connection has, the
    /// largest is reported. A bound that follows from another one says so where it is computed.
    pub fn audit(&self, report: &mut dyn FnMut(&'static str, usize, usize)) {
        self.post.audit(report);
        self.home.audit(report);
        self.deliverer.audit(report);
        // Who asks bounds it (see `most_fetches`); this home can only say that each owner asks for its messages. What they
        // take is bounded by octets.
        let asked = (self.deliverer.most_fetches() + 3 * self.home.live_messages()) * self.post.shards();
        report("home.reads", self.home.reads(), limits::BOUNCES_READING + asked);
        report("events.batch", self.report.events.waiting(), limits::EVENT_BATCH);
    }
}
