//! PURE. Group commit: what is appended while one commit is in flight goes out with the next.

use super::{Effect, Event, FileError, FileNo, Log, Refusal, Spot};
use crate::limits;
use crate::message::MessageId;
use crate::rt::buffer::{BLOCK, Buffer, Slice};
use crate::spool::format::{self, Body, COMMIT_RECORD, NewMessage, Place, Progress, record_room};
use std::sync::Arc;

/// A commit that fills. Its buffer has a free block in front, for the header of a segment it may be the first to use.
#[derive(Debug)]
pub(super) struct Commit {
    buffer: Buffer,
    records: u32,
    lists: Lists,
}

/// What a commit's records mean to the log, reused from commit to commit.
#[derive(Debug, Default)]
pub(super) struct Lists {
    entries: Vec<Entry>,
    settled: Vec<MessageId>,
    progress: Vec<Progress>,
}

/// The commit being written.
#[derive(Debug)]
pub(super) struct InFlight {
    pub token: u64,
    segment: u32,
    offset: u32,
    bytes: usize,
    number: u64,
    tail: u64,
    buffer: Arc<Buffer>,
    lists: Lists,
}

#[derive(Debug)]
struct Entry {
    id: MessageId,
    /// Place in the buffer.
    at: u32,
    length: u32,
    what: What,
}

#[derive(Debug)]
enum What {
    Accept { waiter: u64, recipients: u16, streamed: bool },
    Chunk { index: u32 },
    Move { part: u32, from: Spot },
}

impl Commit {
    fn bytes(&self) -> usize {
        self.buffer.len() - BLOCK
    }
}

fn small(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a commit is far below 4 GiB")
}

impl Log {
    pub(super) fn append_message(&mut self, message: &NewMessage<'_>, waiter: u64) -> Result<(), Refusal> {
        let recipients = message.envelope.recipient_count();
        if recipients == 0 || recipients > limits::RECIPIENTS {
            return Err(Refusal::TooLarge);
        }
        let streamed = matches!(message.body, Body::Streamed);
        let (chunks, chunk_bytes) = match self.streams.get(&message.id) {
            Some(stream) if streamed && !stream.broken => (stream.appended, stream.bytes),
            None if !streamed => (0, 0),
            _ => return Err(Refusal::Fault),
        };
        let payload = format::accepted_bytes(message);
        self.append(payload, |buffer| {
            let at = buffer.len();
            let length = format::write_accepted(buffer, message, chunks, chunk_bytes);
            let recipients = u16::try_from(recipients).expect("limits.rs bounds recipients");
            let what = What::Accept { waiter, recipients, streamed };
            Entry { id: message.id, at: small(at), length: small(length), what }
        })
    }

    pub(super) fn append_chunk(&mut self, id: MessageId, bytes: &[u8]) -> Result<(), Refusal> {
        if bytes.len() > self.chunk_bytes() {
            return Err(Refusal::TooLarge);
        }
        let index = match self.streams.get(&id) {
            Some(stream) if stream.broken => return Err(Refusal::Fault),
            Some(stream) => stream.appended,
            None => 0,
        };
        self.append(format::chunk_bytes(bytes.len()), |buffer| {
            let at = buffer.len();
            let length = format::write_chunk(buffer, id, index, bytes);
            Entry { id, at: small(at), length: small(length), what: What::Chunk { index } }
        })?;
        let stream = self.streams.entry(id).or_default();
        stream.appended += 1;
        stream.bytes += bytes.len() as u64;
        Ok(())
    }

    /// Appends the copy of a live record for compaction. Not bounded by the queue: compaction reads few at a time.
    pub(super) fn append_copy(&mut self, id: MessageId, part: u32, from: Spot, record: &[u8]) -> bool {
        let room = record_room(record.len());
        if !self.back_has(room) {
            self.push_commit();
        }
        let live = self.live.get(&id).copied();
        let mut commit = self.queue.pop_back().expect("pushed above");
        let before = commit.buffer.len();
        let done = |i: usize| {
            !planted!(CompactionForgetsOutcome)
                && live.is_some_and(|l| u16::try_from(i).is_ok_and(|i| self.done(&l, i)))
        };
        let length = format::write_copy(&mut commit.buffer, record, done);
        if let Some(length) = length {
            let what = What::Move { part, from };
            commit.lists.entries.push(Entry { id, at: small(before), length: small(length), what });
            commit.records += 1;
            self.pressure += commit.buffer.len() - before;
        }
        self.queue.push_back(commit);
        length.is_some()
    }

    fn append(&mut self, payload: usize, write: impl FnOnce(&mut Buffer) -> Entry) -> Result<(), Refusal> {
        let room = record_room(payload);
        if room > self.entry_bytes() - COMMIT_RECORD {
            return Err(Refusal::TooLarge);
        }
        if let Some(why) = self.store.failing(self.now.mono) {
            // What still fits in front of the reserve is taken, so that a passing shortage is not noticed outside.
            let waiting: usize = self.queue.iter().map(|c| c.bytes().next_multiple_of(BLOCK)).sum();
            if !self.store.has_room(waiting + room + BLOCK, self.geometry.reserve_bytes) {
                return Err(why);
            }
        }
        if !self.back_has(room) {
            if self.queue.len() >= limits::SPOOL_COMMITS_QUEUED {
                return Err(Refusal::Busy);
            }
            self.push_commit();
        }
        let commit = self.queue.back_mut().expect("there is one with room");
        let before = commit.buffer.len();
        let entry = write(&mut commit.buffer);
        commit.lists.entries.push(entry);
        commit.records += 1;
        self.pressure += commit.buffer.len() - before;
        Ok(())
    }

    /// Bytes of a commit that messages may take; the rest is for outcomes, which must find room under any load.
    fn entry_bytes(&self) -> usize {
        let commit = self.geometry.commit_bytes as usize;
        commit - commit / 32
    }

    fn back_has(&self, room: usize) -> bool {
        self.queue.back().is_some_and(|c| c.bytes() + room <= self.entry_bytes())
    }

    fn push_commit(&mut self) {
        let mut buffer = self.buffers.take();
        buffer.set_len(BLOCK);
        format::begin_commit(&mut buffer);
        let lists = self.spare_commits.pop().unwrap_or_default();
        self.pressure += COMMIT_RECORD;
        self.queue.push_back(Commit { buffer, records: 0, lists });
    }

    // --- Submission -----------------------------------------------------------------------------------------------

    /// Starts the next commit if none is in flight and one is due.
    pub(super) fn submit(&mut self) {
        if self.in_flight.is_some() {
            return;
        }
        let outcomes = !self.settled.is_empty() || !self.progress.is_empty();
        if !outcomes {
            self.settle_deadline = None;
            self.flush = false;
        } else if self.settle_deadline.is_none() {
            let failing = self.store.failing(self.now.mono).is_some();
            let delay = if failing { limits::SPOOL_SETTLE_DELAY_FULL } else { limits::SPOOL_SETTLE_DELAY };
            self.settle_deadline = Some(self.now.mono + delay);
        }
        let only_outcomes = self.queue.front().is_none_or(|c| c.lists.entries.is_empty());
        if only_outcomes {
            let due = outcomes && (self.flush || self.settle_deadline.is_some_and(|d| d <= self.now.mono));
            let unsaid = self.unsaid && self.store.failing(self.now.mono).is_none();
            if !due && !unsaid && !self.store.tail_wanted(self.now.mono) {
                return;
            }
        }
        let last = self.queue.len() <= 1;
        if last && !only_outcomes && !self.flush && self.hold.is_some_and(|until| self.now.mono < until) {
            return;
        }
        let bytes = self.bytes_wanted(last);
        if !self.make_room(bytes, only_outcomes) {
            return;
        }
        if self.queue.is_empty() {
            self.push_commit();
        }
        if last {
            self.fold_outcomes();
        }
        let commit = self.queue.pop_front().expect("pushed above");
        self.send(commit);
    }

    /// An upper bound of the next commit's bytes.
    fn bytes_wanted(&self, last: bool) -> usize {
        let own = self.queue.front().map_or(COMMIT_RECORD, Commit::bytes);
        let outcomes = if last {
            record_room(self.settled.len() * format::SETTLED_ENTRY)
                + record_room(self.progress.len() * format::PROGRESS_ENTRY)
        } else {
            0
        };
        (own + outcomes).min(self.geometry.commit_bytes as usize).next_multiple_of(BLOCK)
    }

    /// Makes the active segment one that has room for `bytes`. `false`: there is none now; what waits for one is refused
    /// if none is to be expected.
    fn make_room(&mut self, bytes: usize, only_outcomes: bool) -> bool {
        let reserve = match (self.store.can_roll(self.now.mono), only_outcomes) {
            (true, _) => 0,
            (false, false) => self.geometry.reserve_bytes,
            (false, true) if self.store.has_retiring() => 0,
            (false, true) => self.geometry.last_reserve_bytes,
        };
        if self.store.has_room(bytes, reserve) {
            return true;
        }
        if self.store.roll(self.now) {
            return true;
        }
        if let Some(why) = self.store.failing(self.now.mono) {
            self.refuse_queued(why);
        }
        false
    }

    /// Moves pending outcomes into the last commit. They go to the last one only: an outcome must not stand in front of
    /// a copy of the message it settles.
    fn fold_outcomes(&mut self) {
        self.settle_deadline = None;
        self.flush = false;
        let limit = self.geometry.commit_bytes as usize;
        let commit = self.queue.back_mut().expect("the caller made sure");
        let before = commit.buffer.len();
        let room = |commit: &Commit| limit.saturating_sub(commit.bytes() + record_room(0));
        let n = self.settled.len().min(room(commit) / format::SETTLED_ENTRY);
        if n > 0 {
            format::write_settled(&mut commit.buffer, &self.settled[..n]);
            commit.records += 1;
            commit.lists.settled.extend(self.settled.drain(..n));
        }
        let n = self.progress.len().min(room(commit) / format::PROGRESS_ENTRY);
        if n > 0 {
            format::write_progress(&mut commit.buffer, &self.progress[..n]);
            commit.records += 1;
            commit.lists.progress.extend(self.progress.drain(..n));
        }
        self.pressure += commit.buffer.len() - before;
    }

    fn send(&mut self, commit: Commit) {
        let Commit { mut buffer, records, lists } = commit;
        let unpadded = buffer.len() - BLOCK;
        buffer.pad_to_block();
        let bytes = buffer.len() - BLOCK;
        let tail = self.store.tail(self.shard);
        let number = self.next_commit;
        self.next_commit += 1;
        let target = self.store.place(bytes);
        let fixed =
            format::Commit { tail, previous: self.last_durable, length: small(bytes), records, log: self.shard };
        let place = Place { log: self.shard, offset: target.offset };
        format::seal(buffer.as_mut(), BLOCK, place, &target.header, number, &fixed);
        let (start, offset) = if target.first {
            target.header.write(&mut buffer.as_mut()[..BLOCK]);
            (0, 0)
        } else {
            (BLOCK, u64::from(target.offset))
        };
        // Records are delivered from it, and keep all of it.
        let keeps_much = self.buffers.out() > limits::SPOOL_BUFFERS_SHARED && buffer.len() <= buffer.capacity() / 2;
        let buffer = Arc::new(if keeps_much { buffer.trimmed(&self.trimmed) } else { buffer });
        let token = self.next_token;
        self.next_token += 1;
        let (segment, offset_in_segment) = (target.segment, target.offset);
        let in_flight = InFlight {
            token,
            segment,
            offset: offset_in_segment,
            bytes: unpadded,
            number,
            tail,
            buffer: Arc::clone(&buffer),
            lists,
        };
        #[cfg(test)]
        let in_flight = if planted!(AckBeforeSync) { self.acknowledge_early(in_flight) } else { in_flight };
        self.in_flight = Some(in_flight);
        self.effects.push_back(Effect::Write { token, file: FileNo(segment), offset, buffer, start });
    }

    #[cfg(test)]
    fn acknowledge_early(&mut self, commit: InFlight) -> InFlight {
        let left = InFlight { bytes: 0, buffer: Arc::clone(&commit.buffer), lists: Lists::default(), ..commit };
        self.committed(commit);
        left
    }

    // --- Completion -----------------------------------------------------------------------------------------------

    pub(super) fn committed(&mut self, done: InFlight) {
        let InFlight { segment, offset, bytes, number, tail, buffer, mut lists, .. } = done;
        self.pressure -= bytes;
        self.last_durable = number;
        self.unsaid = false;
        if self.store.write_succeeded(segment) {
            self.events.push_back(Event::StorageRecovered);
        }
        for entry in lists.entries.drain(..) {
            let Entry { id, at, length, what } = entry;
            let spot = Spot { segment, offset: offset + at - small(BLOCK), length };
            match what {
                What::Accept { waiter, recipients, streamed } => {
                    let mut chunks = Vec::new();
                    if streamed {
                        match self.streams.remove(&id) {
                            Some(stream) if !stream.broken => chunks = stream.durable,
                            other => {
                                // A chunk was lost with its commit, or the session gave up: the record does not count.
                                self.drop_spots(&other.unwrap_or_default().durable);
                                self.settled.push(id);
                                self.events.push_back(Event::Refused { waiter, id, why: Refusal::Fault });
                                continue;
                            }
                        }
                    }
                    self.insert_live(id, spot, recipients, chunks);
                    self.store.add_live(&spot, id, 0);
                    let at = at as usize;
                    let record = Slice::new(Arc::clone(&buffer), at..at + length as usize);
                    self.events.push_back(Event::Durable { waiter, id, record });
                }
                What::Chunk { index } => {
                    if let Some(stream) = self.streams.get_mut(&id) {
                        stream.durable.push(spot);
                        self.store.add_live(&spot, id, index + 1);
                    }
                }
                What::Move { part, from } => {
                    self.copied();
                    if let Some(current) = self.spot_mut(id, part)
                        && *current == from
                    {
                        *current = spot;
                        self.store.drop_live(&from);
                        self.store.add_live(&spot, id, part);
                    }
                }
            }
        }
        self.recycle(lists);
        for effect in self.store.release(tail) {
            self.effects.push_back(effect);
        }
    }

    pub(super) fn commit_failed(&mut self, done: InFlight, error: FileError) {
        self.pressure -= done.bytes;
        let number = self.store.fail_segment(done.segment, error, self.now.mono);
        self.events.push_back(Event::SegmentFailed { number, error });
        self.unsaid |= !done.lists.entries.is_empty() && !planted!(RefusedNotDisowned);
        self.refuse(done.lists, error.refusal());
    }

    fn refuse_queued(&mut self, why: Refusal) {
        // Newest first, so that outcomes return in their order to the front of what waits.
        while let Some(commit) = self.queue.pop_back() {
            self.pressure -= commit.bytes();
            self.refuse(commit.lists, why);
        }
    }

    /// The records of a commit do not exist; its outcomes wait for another.
    fn refuse(&mut self, mut lists: Lists, why: Refusal) {
        for entry in lists.entries.drain(..) {
            match entry.what {
                What::Accept { waiter, streamed, .. } => {
                    if streamed {
                        self.stream_abort(entry.id);
                    }
                    self.events.push_back(Event::Refused { waiter, id: entry.id, why });
                }
                What::Chunk { .. } => {
                    if let Some(stream) = self.streams.get_mut(&entry.id) {
                        stream.broken = !planted!(HoleAccepted);
                    }
                }
                What::Move { .. } => self.copied(),
            }
        }
        if !planted!(OutcomesLostWithCommit) {
            self.settled.splice(0..0, lists.settled.drain(..));
            self.progress.splice(0..0, lists.progress.drain(..));
        }
        self.recycle(lists);
    }

    fn recycle(&mut self, mut lists: Lists) {
        lists.settled.clear();
        lists.progress.clear();
        if self.spare_commits.len() < limits::SPOOL_COMMITS_QUEUED {
            self.spare_commits.push(lists);
        }
    }
}
