//! What is in force by replies, as it is kept over a restart: put together for the file of this shard, and taken up at the start.
//!
//! Each shard keeps what the ledgers here have in force, and the source addresses that rest for the sites of these ledgers:
//! of those all shards know. Warm-ups are kept with the sending limits of accounts. Lives on its shard.

use super::Deliverer;
use crate::lease::{self, Kept, Measure, Resting};
use crate::time::Moment;

impl Deliverer {
    /// Whether anything has come into force since the last call, or lasts longer.
    pub(crate) fn rests_have_changed(&mut self) -> bool {
        // Both are asked.
        self.lanes.have_taken() | self.sources.have_taken()
    }

    /// What is in force at the sites whose ledgers are here.
    pub(crate) fn in_force(&self, now: Moment) -> Vec<Kept> {
        let of_ledgers = self.lanes.measures().map(|(site, Measure { what, until, why })| Kept {
            site: site.clone(),
            what: Resting::Site(what.clone()),
            until: *until,
            why: why.clone(),
        });
        let of_sources = self.sources.resting().filter_map(|(site, source, until, why)| {
            let what = Resting::Source(self.source_address(Some(source))?);
            let is_here = lease::owner(site, self.shards) == self.me;
            is_here.then(|| Kept { site: site.clone(), what, until, why: why.clone() })
        });
        of_ledgers.chain(of_sources).filter(|kept| kept.until > now).collect()
    }

    /// There was a process before this one: its rates are not to be passed together.
    pub(crate) fn go_on(&mut self, now: Moment) {
        self.lanes.go_on(now);
    }

    /// What was in force before the start is so still.
    pub(crate) fn restore(&mut self, all: &[Kept], now: Moment) {
        for Kept { site, what, until, why } in all {
            match what {
                Resting::Site(what) if lease::owner(site, self.shards) == self.me => {
                    let measure = Measure { what: what.clone(), until: *until, why: why.clone() };
                    self.lanes.restore(site, measure, now);
                }
                Resting::Site(_) => {}
                Resting::Source(address) => {
                    let source = self.config.sources.list.iter().position(|source| source.address == *address);
                    // One that is no source any more sends nothing anyway.
                    if let Some(number) = source.and_then(|at| u16::try_from(at).ok()) {
                        self.sources.restore(site, number, *until, why);
                    }
                }
            }
        }
    }
}
