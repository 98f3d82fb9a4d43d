//! PURE. The bytes on disk: segment headers, record headers, the payload of each kind. docs/durability.md has the same
//! as tables.
//!
//! Input: slices; output: slices, views and values. Refuses to judge: whether a missing record is a torn tail or damage
//! is `recover`'s decision. All integers are little endian. Everything read is checked against its bounds, so that
//! arbitrary bytes give `None` and never a panic.

mod accepted;

use crate::message::MessageId;
use crate::rt::buffer::{BLOCK, Buffer};
use crate::time::Wall;
pub use accepted::{Body, NewMessage, RecipientView, RecordView, accepted_bytes, write_accepted};

/// First bytes of every segment file that was ever used.
pub const SEGMENT_MAGIC: [u8; 8] = *b"RINGPOST";
/// Version of the format. A reader takes this one and those before it: version 1 had no parameters behind the envelope.
/// It refuses later ones.
pub const VERSION: u16 = 2;
/// Bytes of a record header.
pub const RECORD_HEADER: usize = 40;
/// Bytes of a Commit record: its header and its payload.
pub const COMMIT_RECORD: usize = RECORD_HEADER + COMMIT_PAYLOAD;
/// No sequence, commit number or message id gets so far. What has one, and right checksums, was forged: it is not read,
/// so that there is room to count on from what is.
const NUMBER_MAX: u64 = u64::MAX - (1 << 40);
/// Marks a record header beside its kind.
const RECORD_MAGIC: u8 = 0xb5;
/// Where in the header.
pub const MAGIC_AT: usize = 9;
const COMMIT_PAYLOAD: usize = 40;
const CHUNK_FIXED: usize = 8;
const SEGMENT_HEADER: usize = 64;

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// The header of a segment: one life of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// The log (its shard's number) that wrote it.
    pub log: u16,
    /// The number in the file's name: a copied or renamed file is noticed.
    pub number: u32,
    /// Place in the log's order. Grows with every life of every file of a spool.
    pub sequence: u64,
    /// Random value of this life, repeated in each of its records: what an older life, or the body of a message, left in
    /// the file cannot pass for a record of this one.
    pub stamp: u64,
    /// When this life began.
    pub created: Wall,
    /// Size of the file in bytes.
    pub bytes: u32,
}

impl SegmentHeader {
    /// Writes the header into the first block of `block`; the rest of that block becomes zero.
    pub fn write(&self, block: &mut [u8]) {
        block[..BLOCK].fill(0);
        block[..8].copy_from_slice(&SEGMENT_MAGIC);
        block[8..10].copy_from_slice(&VERSION.to_le_bytes());
        block[10..12].copy_from_slice(&self.log.to_le_bytes());
        block[12..16].copy_from_slice(&self.number.to_le_bytes());
        block[16..24].copy_from_slice(&self.sequence.to_le_bytes());
        block[24..32].copy_from_slice(&self.stamp.to_le_bytes());
        block[32..40].copy_from_slice(&self.created.0.to_le_bytes());
        block[40..44].copy_from_slice(&self.bytes.to_le_bytes());
        let crc = crc32fast::hash(&block[..SEGMENT_HEADER - 4]);
        block[SEGMENT_HEADER - 4..SEGMENT_HEADER].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads a header; `None` if it is not one, not of this version, or damaged.
    pub fn parse(block: &[u8]) -> Option<SegmentHeader> {
        if block.get(..8)? != SEGMENT_MAGIC || !(1..=VERSION).contains(&u16_at(block, 8)?) {
            return None;
        }
        if crc32fast::hash(block.get(..SEGMENT_HEADER - 4)?) != u32_at(block, SEGMENT_HEADER - 4)? {
            return None;
        }
        if u64_at(block, 16)? > NUMBER_MAX {
            return None;
        }
        Some(SegmentHeader {
            log: u16_at(block, 10)?,
            number: u32_at(block, 12)?,
            sequence: u64_at(block, 16)?,
            stamp: u64_at(block, 24)?,
            created: Wall(u64_at(block, 32)?),
            bytes: u32_at(block, 40)?,
        })
    }
}

/// What a record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Opens a commit.
    Commit = 1,
    /// A message was accepted.
    Accepted = 2,
    /// A piece of a streamed body.
    Chunk = 3,
    /// Some recipients have their outcome.
    Progress = 4,
    /// Messages all of whose recipients have their outcome.
    Settled = 5,
    /// Copies of records that another copy has replaced. Written by recovery alone.
    Superseded = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Commit,
            2 => Kind::Accepted,
            3 => Kind::Chunk,
            4 => Kind::Progress,
            5 => Kind::Settled,
            6 => Kind::Superseded,
            _ => return None,
        })
    }
}

/// The final outcome of one recipient, as recorded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Outcome {
    /// The next hop took it.
    Delivered = 1,
    /// Refused for good; a notification went out, or the null sender forbade one.
    Bounced = 2,
    /// Its time was over.
    Expired = 3,
    /// Removed by the operator.
    Removed = 4,
}

impl Outcome {
    /// The outcome with the code `byte`.
    pub fn from_byte(byte: u8) -> Option<Outcome> {
        Some(match byte {
            1 => Outcome::Delivered,
            2 => Outcome::Bounced,
            3 => Outcome::Expired,
            4 => Outcome::Removed,
            _ => return None,
        })
    }
}

/// A record header as read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordHeader {
    /// What the record says.
    pub kind: Kind,
    /// Payload bytes.
    pub length: u32,
    /// The `stamp` of the segment's life.
    pub stamp: u64,
    /// The number of the commit it is part of.
    pub commit: u64,
    /// The message; for a Commit record the sequence of its segment.
    pub id: u64,
    payload_crc: u32,
}

impl RecordHeader {
    /// Header and payload, in bytes, without the padding to 8 that follows.
    pub fn record_bytes(&self) -> usize {
        RECORD_HEADER + self.length as usize
    }
}

/// A place in a log: the seed of a record's checksum, so that data written to a wrong place does not pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The log.
    pub log: u16,
    /// Bytes from the start of the segment; a multiple of 8.
    pub offset: u32,
}

impl Place {
    fn seed(self) -> u32 {
        // 10 bits of log, 22 bits of offset in units of 8: no two places share a seed. A CRC with another initial value
        // differs for every data.
        u32::from(self.log) << 22 | self.offset >> 3
    }
}

fn header_crc(header: &[u8], place: Place) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(place.seed());
    hasher.update(&header[4..RECORD_HEADER]);
    hasher.finalize()
}

/// Reads the record header at the start of `bytes`, which must carry `stamp` (if given) and the checksum of `place`. The
/// payload is not looked at.
pub fn parse_header(bytes: &[u8], place: Place, stamp: Option<u64>) -> Option<RecordHeader> {
    let header = bytes.get(..RECORD_HEADER)?;
    let found = u64_at(header, 16)?;
    if stamp.is_some_and(|s| s != found && !planted!(StampIgnored)) || header[MAGIC_AT] != RECORD_MAGIC {
        return None;
    }
    if header_crc(header, place) != u32_at(header, 0)? && !planted!(SkippedChecksum) {
        return None;
    }
    if u64_at(header, 24)? > NUMBER_MAX || u64_at(header, 32)? > NUMBER_MAX {
        return None;
    }
    Some(RecordHeader {
        kind: Kind::from_byte(header[8])?,
        length: u32_at(header, 12)?,
        stamp: found,
        commit: u64_at(header, 24)?,
        id: u64_at(header, 32)?,
        payload_crc: u32_at(header, 4)?,
    })
}

/// The payload of the record at the start of `bytes`, if all of it is there and its checksum is right.
pub fn payload<'a>(bytes: &'a [u8], header: &RecordHeader) -> Option<&'a [u8]> {
    let payload = bytes.get(RECORD_HEADER..header.record_bytes())?;
    if planted!(TornTailTrusted) {
        return Some(payload);
    }
    (crc32fast::hash(payload) == header.payload_crc || planted!(SkippedChecksum)).then_some(payload)
}

/// Header and payload of a record that passed its checksums before: a record in memory.
fn split(record: &[u8]) -> Option<(Kind, u64, &[u8])> {
    let length = u32_at(record, 12)? as usize;
    Some((Kind::from_byte(*record.get(8)?)?, u64_at(record, 32)?, record.get(RECORD_HEADER..RECORD_HEADER + length)?))
}

/// The payload of a Commit record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Commit {
    /// The sequence of the oldest segment of the log that still counts: those before it hold nothing live, and their
    /// files may be overwritten at any time once this commit is durable.
    pub tail: u64,
    /// The number of the durable commit before this one. Numbers between the two were never acknowledged.
    pub previous: u64,
    /// The whole commit in bytes: a multiple of the block.
    pub length: u32,
    /// Records in it, without the Commit record.
    pub records: u32,
    /// The log.
    pub log: u16,
}

impl Commit {
    /// Reads the payload of a Commit record.
    pub fn parse(payload: &[u8]) -> Option<Commit> {
        let commit = Commit {
            tail: u64_at(payload, 0)?,
            previous: u64_at(payload, 8)?,
            length: u32_at(payload, 16)?,
            records: u32_at(payload, 20)?,
            log: u16_at(payload, 24)?,
        };
        let length = commit.length as usize;
        (payload.len() == COMMIT_PAYLOAD && length >= BLOCK && length.is_multiple_of(BLOCK)).then_some(commit)
    }
}

/// Begins a record in `buffer`: reserves its header. The caller appends the payload and calls [`finish`].
pub fn begin(buffer: &mut Buffer, kind: Kind, id: u64) -> usize {
    let at = buffer.len();
    let mut header = [0; RECORD_HEADER];
    header[8] = kind as u8;
    header[MAGIC_AT] = RECORD_MAGIC;
    header[32..40].copy_from_slice(&id.to_le_bytes());
    buffer.extend(&header);
    at
}

/// Ends the record that begins at `at`: its length and the checksum of its payload, then padding to 8 bytes. Returns the
/// record's bytes without the padding. What depends on the place comes later, by [`seal`].
pub fn finish(buffer: &mut Buffer, at: usize) -> usize {
    let end = buffer.len();
    let length = u32::try_from(end - at - RECORD_HEADER).expect("a record fits in a commit buffer");
    let bytes = buffer.as_mut();
    let crc = crc32fast::hash(&bytes[at + RECORD_HEADER..]);
    bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
    bytes[at + 12..at + 16].copy_from_slice(&length.to_le_bytes());
    buffer.extend(&[0; 8][..end.next_multiple_of(8) - end]);
    end - at
}

/// Bytes that a record with `payload` bytes of payload takes in a buffer.
pub fn record_room(payload: usize) -> usize {
    (RECORD_HEADER + payload).next_multiple_of(8)
}

/// Reserves the Commit record.
pub fn begin_commit(buffer: &mut Buffer) {
    let at = begin(buffer, Kind::Commit, 0);
    buffer.extend(&[0; COMMIT_PAYLOAD]);
    finish(buffer, at);
}

/// Gives a commit its place: fills in the Commit record that begins at `start` of `buffer` and the stamp, commit number
/// and header checksum of every record behind it. `buffer` is already padded to the block.
pub fn seal(buffer: &mut [u8], start: usize, place: Place, segment: &SegmentHeader, number: u64, commit: &Commit) {
    let bytes = &mut buffer[start..];
    let fixed = &mut bytes[RECORD_HEADER..COMMIT_RECORD];
    fixed[..8].copy_from_slice(&commit.tail.to_le_bytes());
    fixed[8..16].copy_from_slice(&commit.previous.to_le_bytes());
    fixed[16..20].copy_from_slice(&commit.length.to_le_bytes());
    fixed[20..24].copy_from_slice(&commit.records.to_le_bytes());
    fixed[24..26].copy_from_slice(&commit.log.to_le_bytes());
    let crc = crc32fast::hash(fixed);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    bytes[32..40].copy_from_slice(&segment.sequence.to_le_bytes());
    let mut at = 0;
    for _ in 0..=commit.records {
        let offset = place.offset + u32::try_from(at).expect("a commit is below 4 GiB");
        let header = &mut bytes[at..at + RECORD_HEADER];
        header[16..24].copy_from_slice(&segment.stamp.to_le_bytes());
        header[24..32].copy_from_slice(&number.to_le_bytes());
        let crc = header_crc(header, Place { offset, ..place });
        header[..4].copy_from_slice(&crc.to_le_bytes());
        let length = u32_at(header, 12).expect("a header has 40 bytes") as usize;
        at += record_room(length);
    }
}

/// Appends one chunk of a streamed body; returns the record's bytes.
pub fn write_chunk(buffer: &mut Buffer, id: MessageId, index: u32, bytes: &[u8]) -> usize {
    let at = begin(buffer, Kind::Chunk, id.0);
    let mut fixed = [0; CHUNK_FIXED];
    fixed[..4].copy_from_slice(&index.to_le_bytes());
    buffer.extend(&fixed);
    buffer.extend(bytes);
    finish(buffer, at)
}

/// Payload bytes of a chunk record with `bytes` of body.
pub fn chunk_bytes(bytes: usize) -> usize {
    CHUNK_FIXED + bytes
}

/// Index and body of the chunk whose payload this is.
pub fn parse_chunk(payload: &[u8]) -> Option<(u32, &[u8])> {
    Some((u32_at(payload, 0)?, payload.get(CHUNK_FIXED..)?))
}

/// Appends the copy of a record (compaction), with the outcomes that `done` knows written into its envelope.
pub fn write_copy(buffer: &mut Buffer, record: &[u8], mut done: impl FnMut(usize) -> bool) -> Option<usize> {
    let (kind, id, payload) = split(record)?;
    let at = begin(buffer, kind, id);
    buffer.extend(payload);
    if kind == Kind::Accepted {
        let view = RecordView::parse(record)?;
        for (index, place) in view.state_places().enumerate() {
            let state = &mut buffer.as_mut()[at + RECORD_HEADER + place];
            if done(index) && *state == 0 {
                // Which outcome it was stands in the Progress record that this copy outlives; that there was one is
                // what matters from here.
                *state = Outcome::Delivered as u8;
            }
        }
    }
    Some(finish(buffer, at))
}

/// One outcome of a Progress record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// The message.
    pub id: MessageId,
    /// Which recipient, from 0.
    pub recipient: u16,
    /// What became of it.
    pub outcome: Outcome,
}

/// Payload bytes of one entry of a Settled record.
pub const SETTLED_ENTRY: usize = 8;
/// Payload bytes of one entry of a Progress record.
pub const PROGRESS_ENTRY: usize = 16;

/// Appends a Settled record.
pub fn write_settled(buffer: &mut Buffer, ids: &[MessageId]) {
    let at = begin(buffer, Kind::Settled, 0);
    for id in ids {
        buffer.extend(&id.0.to_le_bytes());
    }
    finish(buffer, at);
}

/// Appends a Progress record.
pub fn write_progress(buffer: &mut Buffer, entries: &[Progress]) {
    let at = begin(buffer, Kind::Progress, 0);
    for entry in entries {
        let mut bytes = [0; PROGRESS_ENTRY];
        bytes[..8].copy_from_slice(&entry.id.0.to_le_bytes());
        bytes[8..10].copy_from_slice(&entry.recipient.to_le_bytes());
        bytes[10] = entry.outcome as u8;
        buffer.extend(&bytes);
    }
    finish(buffer, at);
}

/// Where a record stands that does not count any more.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Superseded {
    /// The sequence of its segment.
    pub sequence: u64,
    /// The log of its segment.
    pub log: u16,
    /// Its place in the segment.
    pub offset: u32,
}

/// Payload bytes of one entry of a Superseded record.
pub const SUPERSEDED_ENTRY: usize = 16;

/// Appends a Superseded record.
pub fn write_superseded(buffer: &mut Buffer, entries: &[Superseded]) {
    let at = begin(buffer, Kind::Superseded, 0);
    for entry in entries {
        let mut bytes = [0; SUPERSEDED_ENTRY];
        bytes[..8].copy_from_slice(&entry.sequence.to_le_bytes());
        bytes[8..12].copy_from_slice(&entry.offset.to_le_bytes());
        bytes[12..14].copy_from_slice(&entry.log.to_le_bytes());
        buffer.extend(&bytes);
    }
    finish(buffer, at);
}

/// The entries of a Superseded payload.
pub fn parse_superseded(payload: &[u8]) -> impl Iterator<Item = Superseded> {
    payload
        .chunks_exact(SUPERSEDED_ENTRY)
        .filter_map(|c| Some(Superseded { sequence: u64_at(c, 0)?, offset: u32_at(c, 8)?, log: u16_at(c, 12)? }))
}

/// The ids of a Settled payload.
pub fn parse_settled(payload: &[u8]) -> impl Iterator<Item = MessageId> {
    payload.chunks_exact(SETTLED_ENTRY).filter_map(|c| Some(MessageId(u64_at(c, 0)?)))
}

/// The entries of a Progress payload.
pub fn parse_progress(payload: &[u8]) -> impl Iterator<Item = Progress> {
    payload.chunks_exact(PROGRESS_ENTRY).filter_map(|c| {
        Some(Progress {
            id: MessageId(u64_at(c, 0)?),
            recipient: u16_at(c, 8)?,
            outcome: Outcome::from_byte(*c.get(10)?)?,
        })
    })
}

/// The bytes of a chunk record's body, from the whole record as `Event::Read` hands it out.
pub fn chunk_data(record: &[u8]) -> Option<&[u8]> {
    let (kind, _, payload) = split(record)?;
    if kind != Kind::Chunk {
        return None;
    }
    Some(parse_chunk(payload)?.1)
}
