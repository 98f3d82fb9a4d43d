//! PURE. One shard's log: what to write next and what that makes durable.
//!
//! Input: commands of the shard (`accept`, `stream_chunk`, `settle`, `read`), completions of its file effects, the time.
//! Output: [`Effect`]s for the files and [`Event`]s for the shard. Core: the home shard; only [`Slice`]s of records leave
//! it. Refuses: to hold more than a bounded number of commits in memory (`Busy`), to acknowledge what is not synced, to
//! write again to a segment whose write or sync failed once.
//!
//! Four kinds of method: getters; `handle_*` (completions and time); commands; `poll_*` (effects, events, next timeout).
//! A driver calls, once a turn and after all commands of that turn:
//!
//! ```text
//! while let Some(effect) = log.poll_effect(now) { start it; its completion calls handle_* in some later turn }
//! while let Some(event) = log.poll_event() { hand it to the session, the queue or the event log }
//! wake up at log.poll_timeout(), call handle_timeout(now)
//! ```
//!
//! The order of the log's segments is the order of time. A record that says that a message is settled always stands
//! behind every record of that message's acceptance, and segments are freed from the oldest only, so it outlives them.

#[cfg(any(test, feature = "sim"))]
mod audit;
mod commit;
mod compact;
mod exchange;
mod store;
mod view;

use self::commit::{Commit, InFlight};
use self::compact::Compaction;
use super::format::{NewMessage, Outcome, Progress};
use crate::limits;
use crate::message::MessageId;
use crate::message::id::IdSource;
use crate::rt::buffer::{BLOCK, Buffer, Pool, Slice};
use crate::time::{Moment, Now, Wall};
use foldhash::fast::FixedState;
use slab::Slab;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use self::exchange::{Effect, Event, FileError, FileNo, Geometry, ReadError, Refusal, Settled};
pub(crate) use self::store::mix;
pub use self::store::{Adopted, Recovered, segment_name, segment_number};
pub use self::view::QueuedMessage;
pub(crate) use self::view::RecoveredMessage;

/// A record's place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Spot {
    pub segment: u32,
    pub offset: u32,
    pub length: u32,
}

/// A message that is durable and has recipients without outcome. 32 bytes with its key.
#[derive(Clone, Copy, Debug)]
struct Live {
    spot: Spot,
    recipients: u16,
    remaining: u16,
    /// Bits of the recipients that have their outcome, or, if `wide`, the key of an [`Extra`].
    extra: u32,
    wide: bool,
}

const _: () = assert!(size_of::<(MessageId, Live)>() == 32, "200,000 queued messages cost some 10 MiB here");

/// What the few messages with many recipients or a streamed body need beyond [`Live`].
#[derive(Debug, Default)]
struct Extra {
    done: Vec<u64>,
    chunks: Vec<Spot>,
}

/// A body that streams in and is not accepted yet.
#[derive(Debug, Default)]
struct Stream {
    appended: u32,
    bytes: u64,
    durable: Vec<Spot>,
    broken: bool,
}

/// One shard's log. Lives on its home shard.
#[derive(Debug)]
pub struct Log {
    shard: u16,
    geometry: Geometry,
    ids: IdSource,
    now: Now,

    live: HashMap<MessageId, Live, FixedState>,
    extras: Slab<Extra>,
    streams: HashMap<MessageId, Stream, FixedState>,

    store: store::Store,
    buffers: Pool,
    /// Octets of those that were trimmed.
    trimmed: Arc<AtomicUsize>,
    read_buffers: [Pool; 3],

    /// Commits in order; the last one fills.
    queue: VecDeque<Commit>,
    in_flight: Option<InFlight>,
    spare_commits: Vec<commit::Lists>,
    next_commit: u64,
    last_durable: u64,
    /// A commit with messages failed, and none behind it is durable that says so. On the disk it may stand whole: without
    /// that word a restart would deliver what was refused.
    unsaid: bool,
    next_token: u64,
    /// Bytes of queued commits and of the one in flight.
    pressure: usize,

    /// Outcomes not yet in a commit.
    settled: Vec<MessageId>,
    progress: Vec<Progress>,
    settle_deadline: Option<Moment>,
    flush: bool,
    /// Until when the next commit waits for company.
    hold: Option<Moment>,

    reads: Slab<PendingRead>,
    compaction: Option<Compaction>,
    compact_after: Moment,
    compact_again: bool,

    effects: VecDeque<Effect>,
    events: VecDeque<Event>,
}

#[derive(Clone, Copy, Debug)]
struct PendingRead {
    /// The caller's token; `None` for compaction.
    caller: Option<u64>,
    id: MessageId,
    part: u32,
    spot: Spot,
}

/// The whole blocks that a record stands in: where they begin, and their bytes.
fn blocks(spot: &Spot) -> (u32, usize) {
    let block = u32::try_from(BLOCK).expect("4096");
    let start = spot.offset / block * block;
    (start, ((spot.offset + spot.length).next_multiple_of(block) - start) as usize)
}

impl Log {
    /// A log over what recovery found for this shard. `seed` is random, not known outside: segments are stamped with it.
    pub fn new(recovered: &Recovered, seed: u64, geometry: Geometry) -> Log {
        let shard = recovered.shard;
        let kept = limits::SPOOL_BUFFERS_KEPT;
        let commit_bytes = geometry.commit_bytes as usize;
        let mut log = Log {
            shard,
            geometry,
            ids: IdSource::new(shard, recovered.newest),
            now: Now::default(),
            live: HashMap::default(),
            extras: Slab::new(),
            streams: HashMap::default(),
            buffers: Pool::new(commit_bytes + BLOCK, kept),
            trimmed: Arc::default(),
            read_buffers: [
                Pool::new(16 << 10, 4 * kept),
                Pool::new(128 << 10, kept),
                Pool::new(commit_bytes + 2 * BLOCK, 2),
            ],
            queue: VecDeque::new(),
            in_flight: None,
            spare_commits: Vec::new(),
            next_commit: recovered.next_commit,
            last_durable: recovered.last_commit,
            unsaid: false,
            next_token: 0,
            pressure: 0,
            settled: Vec::new(),
            progress: Vec::new(),
            settle_deadline: None,
            flush: false,
            hold: None,
            reads: Slab::new(),
            compaction: None,
            compact_after: Moment::default(),
            compact_again: false,
            effects: VecDeque::new(),
            events: VecDeque::new(),
            store: store::Store::new(seed, geometry.segment_bytes, recovered),
        };
        log.adopt(recovered);
        log
    }

    // --- Getters --------------------------------------------------------------------------------------------------

    /// The largest body that may be one record, and the largest chunk, bytes.
    pub fn chunk_bytes(&self) -> usize {
        self.geometry.chunk_bytes as usize
    }

    /// Messages with recipients that have no outcome yet.
    pub fn live_messages(&self) -> usize {
        self.live.len()
    }

    /// Bytes of the records of live messages.
    pub fn live_bytes(&self) -> u64 {
        self.store.live_bytes
    }

    /// Bytes of all segment files of this shard.
    pub fn file_bytes(&self) -> u64 {
        self.store.files() * u64::from(self.geometry.segment_bytes)
    }

    /// Segments ready for reuse.
    pub fn free_segments(&self) -> usize {
        self.store.free_segments()
    }

    /// Bytes appended and not yet durable. Sessions that stream pause above `pressure_limit` and go on when it has
    /// fallen to half of that.
    pub fn pressure(&self) -> usize {
        self.pressure
    }

    /// Whether a record that has just become durable may stay in memory for its delivery; else it is read when it is its turn.
    pub fn has_memory(&self) -> bool {
        self.shared_bytes() <= limits::SPOOL_SHARED_BYTES
    }

    fn shared_bytes(&self) -> usize {
        self.buffers.out() * self.buffers.buffer_bytes() + self.trimmed.load(Ordering::Relaxed)
    }

    /// See `pressure`: with commits smaller than usual, half of those that may wait, so that a stream pauses before it is
    /// refused.
    pub fn pressure_limit(&self) -> usize {
        limits::STREAM_PRESSURE_BYTES.min(limits::SPOOL_COMMITS_QUEUED / 2 * self.geometry.commit_bytes as usize)
    }

    /// Whether nothing is appended, in flight, being read, or waiting to be written: safe to stop.
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.in_flight.is_none()
            && !self.unsaid
            && self.settled.is_empty()
            && self.progress.is_empty()
            && self.reads.is_empty()
            && self.effects.is_empty()
            && self.events.is_empty()
    }

    /// Whether `id` is live.
    pub fn contains(&self, id: MessageId) -> bool {
        self.live.contains_key(&id)
    }

    /// Chunks of a live message's body; 0 if it is whole in its record, `None` if the message is not live.
    pub fn chunk_count(&self, id: MessageId) -> Option<u32> {
        let live = self.live.get(&id)?;
        let chunks = if live.wide { self.extras[live.extra as usize].chunks.len() } else { 0 };
        Some(u32::try_from(chunks).expect("limits.rs bounds the size of a message"))
    }

    /// Memory that `read` of this part takes until its slice is dropped, bytes; 0 if the message is not live. At most a
    /// commit and two blocks.
    pub fn read_bytes(&self, id: MessageId, part: u32) -> usize {
        self.spot(id, part).map_or(0, |spot| self.read_pool(blocks(&spot).1).buffer_bytes())
    }

    /// Whether the recipient number `index` of the live message `id` has its outcome.
    pub fn is_done(&self, id: MessageId, index: u16) -> bool {
        self.live.get(&id).is_some_and(|live| self.done(live, index))
    }

    // --- Commands -------------------------------------------------------------------------------------------------

    /// A new message id.
    pub fn next_id(&mut self, wall: Wall) -> MessageId {
        self.ids.next(wall)
    }

    /// Appends a message. `Ok` means that `Event::Durable` or `Event::Refused` will follow for `waiter`; `Err` that
    /// nothing was appended. A streamed message must have had all its chunks.
    pub fn accept(&mut self, message: &NewMessage<'_>, waiter: u64) -> Result<(), Refusal> {
        self.append_message(message, waiter)
    }

    /// Appends the next piece of a body that is larger than one record, at most `chunk_bytes`. After an error the
    /// body cannot be completed: call `stream_abort` (after `Busy` the same chunk may be tried again).
    pub fn stream_chunk(&mut self, id: MessageId, bytes: &[u8]) -> Result<(), Refusal> {
        self.append_chunk(id, bytes)
    }

    /// Forgets a body that was being streamed.
    pub fn stream_abort(&mut self, id: MessageId) {
        if let Some(stream) = self.streams.remove(&id) {
            self.drop_spots(&stream.durable);
        }
    }

    /// Records the outcome of one recipient. It is written with the next commit, or by itself after
    /// `SPOOL_SETTLE_DELAY`.
    pub fn settle(&mut self, id: MessageId, recipient_index: u16, outcome: Outcome) -> Settled {
        let Some(live) = self.live.get(&id).copied() else { return Settled::Unknown };
        if recipient_index >= live.recipients || self.done(&live, recipient_index) {
            return Settled::Unknown;
        }
        if live.remaining > 1 {
            self.set_done(id, recipient_index);
            self.progress.push(Progress { id, recipient: recipient_index, outcome });
            return Settled::Partly;
        }
        self.live.remove(&id);
        self.drop_spots(&[live.spot]);
        if live.wide {
            let extra = self.extras.remove(live.extra as usize);
            self.drop_spots(&extra.chunks);
        }
        self.settled.push(id);
        Settled::Wholly
    }

    /// Asks for a record of a live message: part 0 is its Accepted record, 1 to `chunk_count` its chunks. `Event::Read`
    /// with `token` follows.
    pub fn read(&mut self, id: MessageId, part: u32, token: u64) {
        match self.spot(id, part) {
            Some(spot) => self.start_read(PendingRead { caller: Some(token), id, part, spot }),
            None => self.events.push_back(Event::Read { token, result: Err(ReadError::Gone) }),
        }
    }

    /// No commit with messages begins before `until`, so that others which are about to come share its sync; `None`: the
    /// next begins as soon as the one in flight has ended. A full buffer does not wait.
    pub fn hold(&mut self, until: Option<Moment>) {
        self.hold = until;
    }

    /// Writes pending outcomes with the next `poll_effect`, for a shard that stops.
    pub fn flush(&mut self) {
        self.flush = true;
    }

    // --- Completions and time -------------------------------------------------------------------------------------

    /// The time went on. Call `poll_effect` after it.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
    }

    /// `Effect::Write` ended.
    pub fn handle_written(&mut self, token: u64, result: Result<(), FileError>) {
        let Some(done) = self.in_flight.take_if(|f| f.token == token) else { return };
        match result {
            Ok(()) => self.committed(done),
            Err(error) => self.commit_failed(done, error),
        }
    }

    /// `Effect::Read` ended.
    pub fn handle_read(&mut self, token: u64, result: Result<Buffer, FileError>) {
        let Some(key) = usize::try_from(token).ok().filter(|k| self.reads.contains(*k)) else { return };
        let read = self.reads.remove(key);
        self.store.read_ended(read.spot.segment);
        let result = result.map_err(ReadError::File).and_then(|buffer| self.check_record(&read, buffer));
        match read.caller {
            Some(token) => self.events.push_back(Event::Read { token, result }),
            None => self.move_record(&read, result),
        }
    }

    /// `Effect::Create` ended.
    pub fn handle_created(&mut self, file: FileNo, result: Result<(), FileError>) {
        self.segment_ready(file, result, true);
    }

    /// `Effect::Open` ended.
    pub fn handle_opened(&mut self, file: FileNo, result: Result<(), FileError>) {
        self.segment_ready(file, result, false);
    }

    /// `Effect::Remove` ended.
    pub fn handle_removed(&mut self, file: FileNo, result: Result<(), FileError>) {
        self.segment_removed(file, result);
    }

    // --- Polls ----------------------------------------------------------------------------------------------------

    /// The next file operation. Call until `None`, once a turn, after the commands of that turn: they share a commit.
    pub fn poll_effect(&mut self, now: Now) -> Option<Effect> {
        self.now = now;
        if self.effects.is_empty() {
            self.compact();
            self.free_dead();
            self.prepare_segment();
            self.submit();
        }
        self.effects.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When to call `handle_timeout` and `poll_effect` if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Moment> {
        if self.compact_again {
            return Some(self.now.mono);
        }
        let retry = self.store.retry_at(self.now.mono);
        // A deadline that is over and yet not served waits for a segment or for the write in flight, not for the clock.
        let settle = self.settle_deadline.filter(|at| *at > self.now.mono && self.in_flight.is_none());
        [retry, settle].into_iter().flatten().min()
    }

    // --- Live messages --------------------------------------------------------------------------------------------

    fn done(&self, live: &Live, index: u16) -> bool {
        if live.wide {
            let word = self.extras[live.extra as usize].done.get(usize::from(index) / 64);
            word.is_some_and(|w| w >> (index % 64) & 1 != 0)
        } else {
            live.extra >> (index % 32) & 1 != 0
        }
    }

    fn set_done(&mut self, id: MessageId, index: u16) {
        let Some(live) = self.live.get_mut(&id) else { return };
        live.remaining -= 1;
        if live.wide {
            let done = &mut self.extras[live.extra as usize].done;
            let word = usize::from(index) / 64;
            if done.len() <= word {
                done.resize(usize::from(live.recipients).div_ceil(64), 0);
            }
            done[word] |= 1 << (index % 64);
        } else {
            live.extra |= 1 << index;
        }
    }

    fn insert_live(&mut self, id: MessageId, spot: Spot, recipients: u16, chunks: Vec<Spot>) {
        let wide = recipients > 32 || !chunks.is_empty();
        let extra = if wide {
            let key = self.extras.insert(Extra { done: Vec::new(), chunks });
            u32::try_from(key).expect("fewer messages than 4 billion")
        } else {
            0
        };
        self.live.insert(id, Live { spot, recipients, remaining: recipients, extra, wide });
    }

    fn spot(&self, id: MessageId, part: u32) -> Option<Spot> {
        let live = self.live.get(&id)?;
        match part {
            0 => Some(live.spot),
            _ if live.wide => {
                let chunks = &self.extras[live.extra as usize].chunks;
                let swapped = planted!(StreamedChunkSwapped) && chunks.len() > 1 && part <= 2;
                chunks.get(if swapped { 2 - part as usize } else { part as usize - 1 }).copied()
            }
            _ => None,
        }
    }

    fn spot_mut(&mut self, id: MessageId, part: u32) -> Option<&mut Spot> {
        let live = self.live.get_mut(&id)?;
        match part {
            0 => Some(&mut live.spot),
            _ if live.wide => self.extras[live.extra as usize].chunks.get_mut(part as usize - 1),
            _ => None,
        }
    }

    fn drop_spots(&mut self, spots: &[Spot]) {
        for spot in spots {
            self.store.drop_live(spot);
        }
    }

    // --- Reading --------------------------------------------------------------------------------------------------

    fn start_read(&mut self, read: PendingRead) {
        let key = self.reads.insert(read);
        if let Some(effect) = self.store.read_begins(read.spot.segment, key) {
            self.effects.push_back(effect);
        }
        if self.store.is_open(read.spot.segment) {
            self.emit_read(key);
        }
    }

    fn emit_read(&mut self, key: usize) {
        let spot = self.reads[key].spot;
        let (start, length) = blocks(&spot);
        let mut buffer = self.read_pool(length).take();
        buffer.set_len(length);
        let file = FileNo(spot.segment);
        self.effects.push_back(Effect::Read { token: key as u64, file, offset: u64::from(start), buffer });
    }

    fn read_pool(&self, length: usize) -> &Pool {
        let [small, middle, large] = &self.read_buffers;
        match length {
            0..=0x4000 => small,
            0x4001..=0x2_0000 => middle,
            _ => large,
        }
    }

    fn check_record(&self, read: &PendingRead, buffer: Buffer) -> Result<Slice, ReadError> {
        if self.spot(read.id, read.part).is_none() {
            // Settled meanwhile: its segment may already have another life.
            return Err(ReadError::Gone);
        }
        let at = read.spot.offset as usize % BLOCK;
        let end = at + read.spot.length as usize;
        let record = buffer.get(at..end).ok_or(ReadError::Damaged)?;
        if !self.store.holds(&read.spot, record, read.id, read.part) {
            return Err(ReadError::Damaged);
        }
        Ok(Slice::new(Arc::new(buffer), at..end))
    }
}
