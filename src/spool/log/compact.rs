//! PURE. Compaction: what is live in the oldest segment is read and appended again, so that the segment dies.
//!
//! It begins when more than half of all sealed bytes are dead (and several segments' worth), so at most one byte is moved
//! for each byte that mail brought in the long run, and space stays below about twice what is live.

use super::{Event, Log, PendingRead, ReadError};
use crate::limits;
use crate::rt::buffer::Slice;

/// The segment being compacted.
#[derive(Debug)]
pub(super) struct Compaction {
    segment: u32,
    next: usize,
    reading: usize,
    moving: usize,
}

/// Dead entries passed over in one turn: bounds its time to some tens of microseconds.
const STEP: usize = 1024;

impl Log {
    /// One step, each turn.
    pub(super) fn compact(&mut self) {
        self.compact_again = false;
        if self.compaction.is_none() {
            if self.now.mono < self.compact_after {
                return;
            }
            let Some(segment) = self.store.compactable(self.now.mono) else { return };
            self.compaction = Some(Compaction { segment, next: 0, reading: 0, moving: 0 });
        }
        let Some(mut compaction) = self.compaction.take() else { return };
        let segment = compaction.segment;
        for step in 0.. {
            // Mail goes first: nothing is read while commits queue up.
            if compaction.reading >= limits::SPOOL_COMPACT_READS || self.queue.len() > 1 {
                break;
            }
            if step == STEP {
                self.compact_again = true;
                break;
            }
            let Some((id, part)) = self.store.candidate(segment, compaction.next) else {
                if compaction.reading + compaction.moving > 0 {
                    break;
                }
                return;
            };
            compaction.next += 1;
            match self.spot(id, part) {
                Some(spot) if spot.segment == segment => {
                    compaction.reading += 1;
                    self.start_read(PendingRead { caller: None, id, part, spot });
                }
                None if self.streams.contains_key(&id) => {
                    // A body that still streams in has no place to be moved from; it ends or times out soon.
                    self.compact_after = self.now.mono + limits::SPOOL_RETRY;
                    compaction.next = usize::MAX / 2;
                }
                _ => {}
            }
        }
        self.compaction = Some(compaction);
    }

    /// A record was read for compaction.
    pub(super) fn move_record(&mut self, read: &PendingRead, result: Result<Slice, ReadError>) {
        let Some(compaction) = &mut self.compaction else { return };
        compaction.reading -= 1;
        if self.spot(read.id, read.part) != Some(read.spot) {
            return;
        }
        let moved = result.ok().is_some_and(|record| self.append_copy(read.id, read.part, read.spot, &record));
        if moved {
            if let Some(compaction) = &mut self.compaction {
                compaction.moving += 1;
            }
        } else {
            let number = self.store.set_stuck(read.spot.segment);
            self.events.push_back(Event::Damaged { id: read.id, number });
        }
    }

    /// Ends a compaction whose segment died meanwhile.
    pub(super) fn end_compaction(&mut self) {
        let store = &self.store;
        self.compaction.take_if(|c| c.reading + c.moving == 0 && store.is_dead(c.segment));
    }

    /// A copy is durable, or was refused with its commit and is tried again later.
    pub(super) fn copied(&mut self) {
        if let Some(compaction) = &mut self.compaction {
            compaction.moving -= 1;
        }
    }
}
