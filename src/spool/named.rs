//! PURE. Simulation and tests only: which messages a stretch of a segment speaks of.
//!
//! Input: all bytes of a segment file, and a range of them; output: ids. Refuses to guess: a file that is no segment has
//! none.

use super::scan::{self, Identity};
use crate::message::MessageId;
use std::ops::Range;

/// The messages that a commit names which `range` touches: accepted, continued, or settled there.
pub fn named_in(bytes: &[u8], range: Range<u64>) -> Vec<MessageId> {
    let Identity::Segment { header, .. } = scan::identify(bytes, 0) else { return Vec::new() };
    let scan = scan::scan(bytes, &header);
    let touched =
        |offset: u32, length: u32| u64::from(offset) < range.end && u64::from(offset) + u64::from(length) > range.start;
    let commits = scan.commits.iter().filter(|c| touched(c.offset, c.fixed.length)).map(|c| c.number);
    let commits: Vec<u64> = commits.collect();
    let within = |commit: u64| commits.contains(&commit);
    let messages = scan.messages.iter().filter(|m| within(m.commit)).map(|m| m.id);
    let settled = scan.settled.iter().filter(|(commit, _)| within(*commit)).map(|(_, id)| *id);
    let progress = scan.progress.iter().filter(|(commit, _)| within(*commit)).map(|(_, p)| p.id);
    messages.chain(settled).chain(progress).collect()
}
