//! PURE. Simulation and tests only: the sizes of what a log holds, and their bounds.

use super::Log;
use crate::limits;

impl Log {
    /// See `ShardCore::audit`. `sessions`: how many there may be, each with a message beyond the limit of live ones.
    pub fn audit(&self, sessions: usize, report: &mut dyn FnMut(&'static str, usize, usize)) {
        let commit = self.geometry.commit_bytes as usize;
        // Compaction appends what it has read, whatever waits.
        let commits = limits::SPOOL_COMMITS_QUEUED + limits::SPOOL_COMPACT_READS;
        // No record is smaller than this.
        let records = (commits + 1) * commit / 64;
        let live = limits::LIVE_MESSAGES_PER_SHARD + sessions + records;
        report("log.live messages", self.live.len(), live);
        report("log.wide messages", self.extras.len(), self.live.len());
        report("log.streams", self.streams.len(), sessions + records);
        report("log.commits queued", self.queue.len(), commits);
        report("log.pressure bytes", self.pressure, (commits + 1) * commit);
        report("log.spare commits", self.spare_commits.len(), limits::SPOOL_COMMITS_QUEUED);
        // Outcomes wait in memory while nothing can be written: each was a recipient of a live message.
        report("log.settled to write", self.settled.len(), live);
        report("log.progress to write", self.progress.len(), live.saturating_mul(limits::RECIPIENTS));
        // What is kept is counted behind it; commits that wait and the one in flight have buffers too.
        let waiting = (commits + 2) * self.buffers.buffer_bytes();
        report("log.octets in memory", self.shared_bytes(), limits::SPOOL_SHARED_BYTES + waiting);
        // Done before the turn ends.
        report("log.effects", self.effects.len(), self.reads.len() + limits::SPOOL_FREE_SEGMENTS + 4);
        report("log.events", self.events.len(), 0);
        report("log.free segments", self.store.free_segments(), limits::SPOOL_FREE_SEGMENTS + 1);
    }
}
