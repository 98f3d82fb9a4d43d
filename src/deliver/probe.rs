//! Tests only: how much the deliverer remembers, by the name of what remembers it, and whether it keeps to its limits.

use super::Deliverer;

impl Deliverer {
    /// The entries of every table and list. All zero when nothing has gone on for long enough.
    pub(crate) fn bookkeeping(&self) -> [(&'static str, usize); 10] {
        [
            ("pools", self.pools.len()),
            ("resolving", self.resolving.len()),
            ("connections", self.connections.len()),
            ("questions", self.questions.len()),
            ("exchanges", self.exchanges.len()),
            ("fetches", self.fetches.len()),
            ("idle", self.idle.len()),
            ("touched", self.touched.len()),
            ("starved", self.starved.len()),
            ("destinations", self.queue.counts().destinations),
        ]
    }

    /// That no limit of connections is exceeded: asked after every turn of every test's world.
    pub(crate) fn assert_within_limits(&self) {
        let open = self.connections.len();
        assert!(open <= self.max_connections, "{open} connections of this shard");
        let most = self.pools.values().map(|pool| pool.connections.len()).max().unwrap_or(0);
        assert!(most <= self.max_per_destination, "{most} connections to one destination");
    }
}
