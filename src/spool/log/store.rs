//! PURE. The segments of one log: which is written, which comes next, which may be reused.
//!
//! A segment's way: free → next (prepared ahead of need) → active → sealed → dead (nothing live in it and oldest of the
//! log) → retiring (until a durable commit has said that it is dead) → free. Segments taken over from another log are
//! removed instead of reused.

use super::view::RecoveredMessage;
use super::{Effect, Event, FileError, FileNo, Log, ReadError, Refusal, Spot};
use crate::limits;
use crate::message::MessageId;
use crate::rt::buffer::BLOCK;
use crate::spool::format::{self, Kind, Place, SegmentHeader};
use crate::time::{Moment, Now, Wall};
use slab::Slab;
use std::collections::VecDeque;
use std::time::Duration;

/// The file name of the segment `number`.
pub fn segment_name(number: u32) -> String {
    format!("seg-{number:08x}.log")
}

/// The number in a segment's file name; `None` if it is no such name.
pub fn segment_number(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("seg-")?.strip_suffix(".log")?;
    let plain = digits.len() == 8 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    plain.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// A segment that recovery hands to a log.
#[derive(Clone, Debug)]
pub struct Adopted {
    /// Its header (recovery's best knowledge, should the block be damaged).
    pub header: SegmentHeader,
    /// Bytes in use.
    pub end: u32,
    /// Some record of it is readable.
    pub used: bool,
}

/// What recovery hands to the log of one shard.
#[derive(Debug)]
pub struct Recovered {
    /// The shard.
    pub shard: u16,
    /// Segments in the log's order, oldest first.
    pub segments: Vec<Adopted>,
    /// The last of `segments` was begun by recovery and is to be continued.
    pub continues: bool,
    /// Numbers of files that may be overwritten.
    pub free: Vec<u32>,
    /// The newest message id of all logs.
    pub newest: MessageId,
    /// The number of the next commit.
    pub next_commit: u64,
    /// The number of the last durable commit.
    pub last_commit: u64,
    /// The next sequence: above all that any file of the spool ever had.
    pub next_sequence: u64,
    /// The number of the next file this shard creates, and the step to the one after.
    pub next_number: (u32, u32),
    pub(crate) live: Vec<RecoveredMessage>,
    pub(crate) fronts: Vec<u8>,
}

impl Recovered {
    /// A new log without past.
    pub fn fresh(shard: u16, shards: u16) -> Recovered {
        Recovered {
            shard,
            segments: Vec::new(),
            continues: false,
            free: Vec::new(),
            newest: MessageId(0),
            next_commit: 1,
            last_commit: 0,
            next_sequence: 1,
            next_number: (u32::from(shard), u32::from(shards)),
            live: Vec::new(),
            fronts: Vec::new(),
        }
    }
}

#[derive(Debug)]
struct Segment {
    header: SegmentHeader,
    state: State,
    /// No further write: one failed.
    failed: bool,
    /// The first commit, which carries the header, is still to come.
    first: bool,
    /// A commit in it is durable, or may be.
    used: bool,
    /// Compaction met a record it could not read.
    stuck: bool,
    end: u32,
    live_records: u32,
    live_bytes: u32,
    reads: u32,
    waiting: Vec<usize>,
    messages: Vec<MessageId>,
    chunks: Vec<(MessageId, u32)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Closed,
    Opening,
    Open,
}

/// Where the next commit goes.
pub(super) struct Target {
    pub segment: u32,
    pub offset: u32,
    pub header: SegmentHeader,
    pub first: bool,
}

/// The segments of one log. Lives on its shard.
#[derive(Debug)]
pub(super) struct Store {
    shard: u16,
    segment_bytes: u32,
    stamps: u64,
    segments: Slab<Segment>,
    order: VecDeque<u32>,
    active: Option<u32>,
    next: Option<u32>,
    preparing: Option<u32>,
    retiring: VecDeque<u32>,
    free: VecDeque<u32>,
    removing: Option<u32>,
    remove_after: Moment,
    next_sequence: u64,
    next_number: (u32, u32),
    pub live_bytes: u64,
    /// No new segment could be had, and when to try again.
    create_failed: Option<(FileError, Moment)>,
    /// Writes failed several times in a row: no further segment is used up before this time.
    paused: Option<(FileError, Moment)>,
    failures: u32,
}

fn key(index: usize) -> u32 {
    u32::try_from(index).expect("fewer segments than 4 billion")
}

impl Store {
    pub fn new(seed: u64, segment_bytes: u32, recovered: &Recovered) -> Store {
        let mut store = Store {
            shard: recovered.shard,
            segment_bytes,
            stamps: seed,
            segments: Slab::new(),
            order: VecDeque::new(),
            active: None,
            next: None,
            preparing: None,
            retiring: VecDeque::new(),
            free: VecDeque::new(),
            removing: None,
            remove_after: Moment::default(),
            next_sequence: recovered.next_sequence,
            next_number: recovered.next_number,
            live_bytes: 0,
            create_failed: None,
            paused: None,
            failures: 0,
        };
        for adopted in &recovered.segments {
            let segment = store.insert(adopted.header, false, adopted.end);
            store.get_mut(segment).used = adopted.used;
            store.order.push_back(segment);
        }
        for number in &recovered.free {
            let header = store.blank(*number);
            let segment = store.insert(header, true, 0);
            store.free.push_back(segment);
        }
        store
    }

    fn blank(&self, number: u32) -> SegmentHeader {
        let bytes = self.segment_bytes;
        SegmentHeader { log: self.shard, number, sequence: 0, stamp: 0, created: Wall(0), bytes }
    }

    fn insert(&mut self, header: SegmentHeader, first: bool, end: u32) -> u32 {
        key(self.segments.insert(Segment {
            header,
            state: State::Closed,
            failed: false,
            first,
            used: false,
            stuck: false,
            end,
            live_records: 0,
            live_bytes: 0,
            reads: 0,
            waiting: Vec::new(),
            messages: Vec::new(),
            chunks: Vec::new(),
        }))
    }

    fn get(&self, segment: u32) -> &Segment {
        &self.segments[segment as usize]
    }

    fn get_mut(&mut self, segment: u32) -> &mut Segment {
        &mut self.segments[segment as usize]
    }

    // --- Getters --------------------------------------------------------------------------------------------------

    pub fn files(&self) -> u64 {
        self.segments.len() as u64
    }

    pub fn free_segments(&self) -> usize {
        self.free.len() + usize::from(self.next.is_some())
    }

    /// Why mail should be refused, if no new segment is to be had now.
    pub fn failing(&self, now: Moment) -> Option<Refusal> {
        let paused = self.paused.filter(|(_, until)| now < *until);
        let create = self.create_failed.filter(|_| self.next.is_none());
        paused.or(create).map(|(error, _)| error.refusal())
    }

    /// When something that failed is tried again; `None` if that does not wait for the clock.
    pub fn retry_at(&self, now: Moment) -> Option<Moment> {
        let idle = self.next.is_none() && self.preparing.is_none();
        let create = self.create_failed.filter(|_| idle).map(|(_, at)| at);
        let paused = self.paused.map(|(_, at)| at);
        let remove = Some(self.remove_after);
        [create, paused, remove].into_iter().flatten().filter(|at| *at > now).min()
    }

    /// The oldest sequence of this log that still counts. A segment whose first commit failed never does: recovery takes
    /// one that is named here and not there for a loss.
    pub fn tail(&self, shard: u16) -> u64 {
        let counts = |s: &&u32| self.get(**s).header.log == shard && (self.get(**s).used || self.active == Some(**s));
        let own = self.order.iter().find(counts);
        own.map_or(self.next_sequence, |s| self.get(*s).header.sequence)
    }

    /// Whether a commit is worth making only to say which segments are dead, because they are needed.
    pub fn tail_wanted(&self, now: Moment) -> bool {
        self.failing(now).is_some() && self.next.is_none() && self.preparing.is_none() && !self.retiring.is_empty()
    }

    pub fn has_retiring(&self) -> bool {
        !self.retiring.is_empty()
    }

    pub fn has_room(&self, bytes: usize, reserve: u32) -> bool {
        self.active.is_some_and(|a| {
            let room = self.segment_bytes - self.get(a).end;
            self.is_open(a) && room as usize >= bytes + reserve as usize
        })
    }

    /// Whether `record` is what was written at `spot`, and that part of that message: 0 is its Accepted record.
    pub fn holds(&self, spot: &Spot, record: &[u8], id: MessageId, part: u32) -> bool {
        let header = &self.get(spot.segment).header;
        let place = Place { log: header.log, offset: spot.offset };
        let Some(found) = format::parse_header(record, place, Some(header.stamp)) else { return false };
        let Some(payload) = format::payload(record, &found) else { return false };
        let is_part = match part.checked_sub(1) {
            None => found.kind == Kind::Accepted,
            Some(index) => {
                let is_index = |(found, _)| found == index || planted!(StreamedChunkSwapped);
                found.kind == Kind::Chunk && format::parse_chunk(payload).is_some_and(is_index)
            }
        };
        is_part && found.id == id.0 && found.record_bytes() == record.len()
    }

    // --- Live records ---------------------------------------------------------------------------------------------

    pub fn add_live(&mut self, spot: &Spot, id: MessageId, part: u32) {
        self.live_bytes += u64::from(spot.length);
        let segment = self.get_mut(spot.segment);
        segment.live_records += 1;
        segment.live_bytes += spot.length;
        match part {
            0 => segment.messages.push(id),
            _ => segment.chunks.push((id, part)),
        }
    }

    pub fn drop_live(&mut self, spot: &Spot) {
        self.live_bytes -= u64::from(spot.length);
        let segment = self.get_mut(spot.segment);
        segment.live_records -= 1;
        segment.live_bytes -= spot.length;
    }

    /// The oldest segment, if moving what is live in it is worth the writes.
    pub fn compactable(&self, now: Moment) -> Option<u32> {
        let oldest = *self.order.front()?;
        if self.failing(now).is_some_and(|why| why != Refusal::Full)
            || self.active == Some(oldest)
            || self.get(oldest).stuck
            || self.get(oldest).live_records == 0
        {
            return None;
        }
        let active = self.active.map_or(0, |a| self.get(a).live_bytes);
        let sealed = self.order.len() - usize::from(self.active.is_some());
        let segment_bytes = u64::from(self.segment_bytes);
        let live = self.live_bytes - u64::from(active);
        let dead = (sealed as u64 * segment_bytes).saturating_sub(live);
        let roomy = self.next.is_some()
            || self.has_room(
                self.get(oldest).live_bytes as usize,
                limits::SPOOL_RESERVE_BYTES.min(self.segment_bytes / 8),
            );
        (roomy && dead > live && dead >= limits::SPOOL_COMPACT_SEGMENTS * segment_bytes).then_some(oldest)
    }

    /// The message number `index` that was ever appended to `segment`, and behind those its chunks.
    pub fn candidate(&self, segment: u32, index: usize) -> Option<(MessageId, u32)> {
        let segment = self.get(segment);
        let messages = segment.messages.len();
        match segment.messages.get(index) {
            Some(id) => Some((*id, 0)),
            None => segment.chunks.get(index - messages).copied(),
        }
    }

    pub fn is_dead(&self, segment: u32) -> bool {
        self.get(segment).live_records == 0
    }

    pub fn set_stuck(&mut self, segment: u32) -> u32 {
        let segment = self.get_mut(segment);
        segment.stuck = true;
        segment.header.number
    }

    // --- Reads ----------------------------------------------------------------------------------------------------

    pub fn is_open(&self, segment: u32) -> bool {
        self.get(segment).state == State::Open
    }

    /// Counts a read; opens the file if need be.
    pub fn read_begins(&mut self, segment: u32, read: usize) -> Option<Effect> {
        let file = FileNo(segment);
        let segment = self.get_mut(segment);
        segment.reads += 1;
        if segment.state == State::Open {
            return None;
        }
        segment.waiting.push(read);
        if segment.state == State::Opening {
            return None;
        }
        segment.state = State::Opening;
        Some(Effect::Open { file, name: segment_name(segment.header.number) })
    }

    pub fn read_ended(&mut self, segment: u32) {
        self.get_mut(segment).reads -= 1;
    }

    // --- Writing --------------------------------------------------------------------------------------------------

    pub fn can_roll(&self, now: Moment) -> bool {
        self.next.is_some() && self.paused.is_none_or(|(_, until)| until <= now)
    }

    /// Makes the prepared segment the active one.
    pub fn roll(&mut self, now: Now) -> bool {
        if !self.can_roll(now.mono) {
            return false;
        }
        let Some(segment) = self.next.take() else { return false };
        let stamp = self.stamp();
        let (log, sequence) = (self.shard, self.next_sequence);
        self.next_sequence += 1;
        let fresh = self.get_mut(segment);
        fresh.header = SegmentHeader { log, sequence, stamp, created: now.wall, ..fresh.header };
        fresh.first = true;
        fresh.used = false;
        fresh.end = u32::try_from(BLOCK).expect("4096");
        self.order.push_back(segment);
        self.active = Some(segment);
        true
    }

    /// The next stamp: a sequence that cannot be told without the seed.
    fn stamp(&mut self) -> u64 {
        self.stamps = self.stamps.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.stamps)
    }

    /// Takes `bytes` of the active segment; `make_room` saw to it that they are there.
    pub fn place(&mut self, bytes: usize) -> Target {
        let active = self.active.expect("make_room succeeded");
        let segment = self.get_mut(active);
        let target = Target { segment: active, offset: segment.end, header: segment.header, first: segment.first };
        segment.first = false;
        segment.end += u32::try_from(bytes).expect("a commit is far below 4 GiB");
        target
    }

    /// A write to `segment` succeeded. `true`: after a pause for failures.
    pub fn write_succeeded(&mut self, segment: u32) -> bool {
        self.get_mut(segment).used = true;
        self.failures = 0;
        self.paused.take().is_some()
    }

    /// A write or sync failed; returns the number of the segment's file.
    pub fn fail_segment(&mut self, segment: u32, error: FileError, now: Moment) -> u32 {
        if self.active == Some(segment) && !planted!(RetryAfterFailedSync) {
            self.active = None;
        }
        self.failures += 1;
        if self.failures > 1 {
            // The first failure may be one bad place; from the second on, do not burn a segment a turn.
            let pause = limits::SPOOL_RETRY.saturating_mul(1 << (self.failures - 2).min(16));
            self.paused = Some((error, now + pause.min(limits::SPOOL_RETRY_MAX)));
        }
        let segment = self.get_mut(segment);
        segment.failed = true;
        segment.header.number
    }

    // --- Segments come and go -------------------------------------------------------------------------------------

    /// Prepares the next segment when the active one is half full.
    pub fn prepare(&mut self, now: Moment) -> Option<Effect> {
        let half = self.active.is_none_or(|a| self.get(a).end > self.segment_bytes / 2);
        if self.next.is_some() || self.preparing.is_some() || !half {
            return None;
        }
        if let Some(segment) = self.free.pop_front() {
            if self.is_open(segment) {
                self.next = Some(segment);
                return None;
            }
            self.preparing = Some(segment);
            let free = self.get_mut(segment);
            free.state = State::Opening;
            return Some(Effect::Open { file: FileNo(segment), name: segment_name(free.header.number) });
        }
        if self.create_failed.is_some_and(|(_, at)| now < at) || self.paused.is_some_and(|(_, at)| now < at) {
            return None;
        }
        let number = self.next_number.0;
        self.next_number.0 = number.checked_add(self.next_number.1)?;
        let header = self.blank(number);
        let segment = self.insert(header, true, 0);
        self.get_mut(segment).state = State::Opening;
        self.preparing = Some(segment);
        Some(Effect::Create { file: FileNo(segment), name: segment_name(number), bytes: self.segment_bytes })
    }

    /// Frees the oldest segments while nothing in them is live. What this log wrote retires; what it took over is removed,
    /// one at a time, because a file that comes back after a crash must not be older than one that did not.
    pub fn free_dead(&mut self, now: Moment) -> Option<Effect> {
        while let Some(front) = self.order.front().copied() {
            let segment = self.get(front);
            if segment.live_records > 0 || segment.reads > 0 || self.active == Some(front) {
                return None;
            }
            if segment.header.log != self.shard {
                if self.removing.is_some() || now < self.remove_after {
                    return None;
                }
                let name = segment_name(segment.header.number);
                self.removing = Some(front);
                return Some(Effect::Remove { file: FileNo(front), name });
            }
            self.order.pop_front();
            if planted!(SegmentReusedEarly) {
                self.free.push_back(front)
            } else {
                self.retiring.push_back(front)
            }
            let segment = self.get_mut(front);
            segment.messages.clear();
            segment.chunks.clear();
        }
        None
    }

    /// A commit that says `tail` is durable: retired segments before it may be overwritten.
    pub fn release(&mut self, tail: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        while let Some(segment) = self.retiring.front().copied().filter(|s| self.get(*s).header.sequence < tail) {
            self.retiring.pop_front();
            if self.get(segment).failed || self.free.len() >= limits::SPOOL_FREE_SEGMENTS {
                let name = segment_name(self.get(segment).header.number);
                effects.push(Effect::Remove { file: FileNo(segment), name });
            } else {
                self.free.push_back(segment);
            }
        }
        effects
    }
}

/// Finalizer of splitmix64.
pub(crate) fn mix(mut z: u64) -> u64 {
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

impl Log {
    /// Takes over the live messages that recovery found.
    pub(super) fn adopt(&mut self, recovered: &Recovered) {
        if recovered.continues {
            self.store.active = self.store.order.back().copied();
            let open = self.store.active.map(|active| {
                let segment = self.store.get_mut(active);
                segment.state = State::Opening;
                Effect::Open { file: FileNo(active), name: segment_name(segment.header.number) }
            });
            self.effects.extend(open);
        }
        self.live.reserve(recovered.live.len());
        for (message, view) in recovered.live.iter().zip(recovered.views()) {
            let recipients = u16::try_from(view.recipient_count()).expect("16 bits on disk");
            self.store.add_live(&message.spot, message.id, 0);
            for (part, spot) in (1..).zip(&message.chunks) {
                self.store.add_live(spot, message.id, part);
            }
            self.insert_live(message.id, message.spot, recipients, message.chunks.clone());
            for recipient in view.recipients().filter(|r| r.done.is_some()) {
                self.set_done(message.id, recipient.index);
            }
        }
    }

    pub(super) fn prepare_segment(&mut self) {
        let effect = self.store.prepare(self.now.mono);
        self.effects.extend(effect);
        if self.store.next.is_some() && self.store.create_failed.take().is_some() {
            self.events.push_back(Event::StorageRecovered);
        }
    }

    pub(super) fn free_dead(&mut self) {
        // The segment being compacted is the oldest: nothing goes before it, and not while copies of it are on their way.
        self.end_compaction();
        if self.compaction.is_some() {
            return;
        }
        let effect = self.store.free_dead(self.now.mono);
        self.effects.extend(effect);
    }

    pub(super) fn segment_ready(&mut self, file: FileNo, result: Result<(), FileError>, created: bool) {
        let store = &mut self.store;
        if !store.segments.contains(file.0 as usize) {
            return;
        }
        if store.preparing != Some(file.0) {
            self.opened_for_reads(file, result);
            return;
        }
        store.preparing = None;
        match result {
            Ok(()) => {
                store.get_mut(file.0).state = State::Open;
                store.next = Some(file.0);
                if store.create_failed.take().is_some() {
                    self.events.push_back(Event::StorageRecovered);
                }
            }
            Err(error) => {
                store.segments.remove(file.0 as usize);
                if store.create_failed.is_none() {
                    self.events.push_back(Event::StorageFull { error });
                }
                let wait = if created { limits::SPOOL_RETRY } else { Duration::ZERO };
                store.create_failed = Some((error, self.now.mono + wait));
            }
        }
    }

    fn opened_for_reads(&mut self, file: FileNo, result: Result<(), FileError>) {
        let segment = self.store.get_mut(file.0);
        segment.state = if result.is_ok() { State::Open } else { State::Closed };
        let waiting = std::mem::take(&mut segment.waiting);
        if result.is_err() && self.store.active == Some(file.0) {
            self.store.active = None;
        }
        for key in waiting {
            match result {
                Ok(()) => self.emit_read(key),
                Err(error) => {
                    let read = self.reads.remove(key);
                    self.store.read_ended(file.0);
                    let result = Err(ReadError::File(error));
                    match read.caller {
                        Some(token) => self.events.push_back(Event::Read { token, result }),
                        None => self.move_record(&read, result),
                    }
                }
            }
        }
    }

    pub(super) fn segment_removed(&mut self, file: FileNo, result: Result<(), FileError>) {
        let store = &mut self.store;
        if store.removing == Some(file.0) {
            store.removing = None;
            if result.is_err() {
                store.get_mut(file.0).state = State::Closed;
                store.remove_after = self.now.mono + limits::SPOOL_RETRY;
                return;
            }
            store.order.pop_front();
        }
        // A reusable file that could not be unlinked stays behind as what it is: free, for the next start to find.
        if store.segments.contains(file.0 as usize) {
            store.segments.remove(file.0 as usize);
        }
    }
}
