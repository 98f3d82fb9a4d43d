//! Tests only: how much the deliverer remembers, by the name of what remembers it.

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
}
