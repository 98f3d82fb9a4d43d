//! PURE. What an owner leaves on disk: how long each unit still counts. Version 1, integers little-endian:
//!
//! | octets | |
//! |---|---|
//! | 8 | `RPQUOTA\n` |
//! | 2 | version, 1 |
//! | 2 | shard that wrote it |
//! | 4 | run: one more than any that was read at its start |
//! | 8 | sequence number of the shard's snapshots; slot = its lowest bit |
//! | 8 | wall clock, milliseconds since the epoch |
//! | 4 | number of keys |
//! | 4 | octets in all, checksum included |
//! | | the keys, ascending in hash and name: |
//! | 2 + n | name |
//! | 4 | run in which units were last leased |
//! | 1 | windows: |
//! | 8 | its milliseconds |
//! | 1 | marks, the first to be free first: |
//! | 1 to 10 each | milliseconds more than the mark before (LEB128), units (LEB128, not 0) |
//! | 4 | CRC-32 of all before |
//!
//! What follows is not looked at: the file may be longer. In: such octets; out: keys, or why they are refused. It refuses all
//! of a file that has anything wrong, and never panics.

use super::track::{Track, longest};
use super::{Key, Limit, Limits};
use crate::limits::{QUOTA_CLOCK_STEP, QUOTA_LIMITS, QUOTA_MARKS, QUOTA_SNAPSHOT_BYTES};
use crate::time::{Moment, Now, Wall};
use std::time::Duration;
use thiserror::Error;

const MAGIC: &[u8; 8] = b"RPQUOTA\n";
const VERSION: u16 = 1;
const HEADER: usize = 40;
/// The number of keys, in the header.
const KEYS_AT: usize = 32;
const LENGTH_AT: usize = 36;

/// Why a file is not used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum Refused {
    /// It is empty, or begins with zeros: made, but never written. Nothing to worry about.
    #[error("was never written")]
    Blank,
    /// Something else.
    #[error("is no snapshot of limits")]
    Foreign,
    /// Of another version of this program.
    #[error("has version {0}, not 1")]
    Version(u16),
    /// Cut off or changed: a write that a crash tore, which nobody was told of, or damage.
    #[error("is cut off or damaged")]
    Damaged,
    /// The checksum is right, the content makes no sense.
    #[error("has content that makes no sense")]
    Content,
}

/// One file.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub shard: u16,
    pub run: u32,
    pub sequence: u64,
    pub keys: Vec<(Key, Saved)>,
}

/// What counts of a key.
#[derive(Clone, Debug)]
pub(super) struct Saved {
    /// The run in which units were last leased.
    pub run: u32,
    pub tracks: Vec<Track>,
}

impl Saved {
    /// Forgets what is free by now; whether anything is left.
    pub fn counts(&mut self, now: Moment) -> bool {
        self.tracks.iter_mut().for_each(|track| track.expire(now));
        self.tracks.iter().any(|track| !track.is_empty())
    }

    /// All units of all windows, to compare with a copy of the same.
    pub fn weight(&mut self, now: Moment) -> u64 {
        self.tracks.iter_mut().map(|track| track.used(now)).fold(0, u64::saturating_add)
    }
}

/// Writes a snapshot, key by key. They come in ascending order.
pub(super) struct Encoder {
    bytes: Vec<u8>,
    now: Moment,
    keys: u32,
}

impl Encoder {
    pub fn new(shard: u16, run: u32, sequence: u64, now: Now) -> Encoder {
        let mut bytes = Vec::with_capacity(4096);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&shard.to_le_bytes());
        bytes.extend_from_slice(&run.to_le_bytes());
        bytes.extend_from_slice(&sequence.to_le_bytes());
        bytes.extend_from_slice(&now.wall.0.to_le_bytes());
        bytes.extend_from_slice(&[0; HEADER - KEYS_AT]);
        debug_assert_eq!(bytes.len(), HEADER, "the table above");
        Encoder { bytes, now: now.mono, keys: 0 }
    }

    pub fn key(&mut self, key: &Key, run: u32, tracks: &[Track]) {
        let name = key.name().as_bytes();
        let length = u16::try_from(name.len()).expect("a key's name is shorter than QUOTA_KEY_BYTES");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(name);
        self.bytes.extend_from_slice(&run.to_le_bytes());
        self.bytes.push(u8::try_from(tracks.len()).expect("at most QUOTA_LIMITS"));
        for track in tracks {
            self.bytes.extend_from_slice(&millis(track.window).to_le_bytes());
            self.bytes.push(u8::try_from(track.marks().len()).expect("at most QUOTA_MARKS"));
            let mut before = 0;
            for mark in track.marks() {
                // Up to the next, and one more for what the wall clock's milliseconds leave out at either end.
                let left = mark.free_at.since(self.now).as_nanos().div_ceil(1_000_000) + 1;
                let left = u64::try_from(left).unwrap_or(u64::MAX);
                self.number(left - before);
                self.number(mark.units);
                before = left;
            }
        }
        self.keys += 1;
    }

    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// `None`: it would be too long to be read again.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        let length = u32::try_from(self.bytes.len() + 4).ok().filter(|length| *length <= QUOTA_SNAPSHOT_BYTES)?;
        self.bytes[KEYS_AT..KEYS_AT + 4].copy_from_slice(&self.keys.to_le_bytes());
        self.bytes[LENGTH_AT..LENGTH_AT + 4].copy_from_slice(&length.to_le_bytes());
        let crc = crc32fast::hash(&self.bytes);
        self.bytes.extend_from_slice(&crc.to_le_bytes());
        Some(self.bytes)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads a snapshot: what counts, as of `now`.
pub(super) fn decode(bytes: &[u8], now: Now) -> Result<Snapshot, Refused> {
    if bytes.iter().take(HEADER).all(|b| *b == 0) {
        return Err(Refused::Blank);
    }
    let mut header = Reader(bytes);
    if header.bytes(MAGIC.len()) != Some(MAGIC) {
        return Err(Refused::Foreign);
    }
    match header.u16() {
        Some(VERSION) => {}
        Some(other) => return Err(Refused::Version(other)),
        None => return Err(Refused::Damaged),
    }
    let fixed = |header: &mut Reader<'_>| {
        Some((header.u16()?, header.u32()?, header.u64()?, header.u64()?, header.u32()?, header.u32()?))
    };
    let (shard, run, sequence, wall, keys, length) = fixed(&mut header).ok_or(Refused::Damaged)?;
    let whole = usize::try_from(length).ok().filter(|_| length <= QUOTA_SNAPSHOT_BYTES).and_then(|n| bytes.get(..n));
    let (content, crc) = whole.and_then(|whole| whole.split_last_chunk()).ok_or(Refused::Damaged)?;
    if content.len() < HEADER || crc32fast::hash(content) != u32::from_le_bytes(*crc) {
        return Err(Refused::Damaged);
    }
    // None if the clock was set back: then all counts as long as it did.
    let since = now.wall.since(Wall(wall));
    let mut body = Reader(&content[HEADER..]);
    let mut list: Vec<(Key, Saved)> = Vec::new();
    for _ in 0..keys {
        let (key, saved) = body.key(since, now.mono).ok_or(Refused::Content)?;
        if list.last().is_some_and(|(last, _)| *last >= key) {
            return Err(Refused::Content);
        }
        list.push((key, saved));
    }
    if !body.0.is_empty() {
        return Err(Refused::Content);
    }
    Ok(Snapshot { shard, run, sequence, keys: list })
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*bytes)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// LEB128.
    fn number(&mut self) -> Option<u64> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let part = u64::from(byte & 0x7f);
            number |= part.checked_shl(shift).filter(|shifted| shifted >> shift == part)?;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }

    fn key(&mut self, since: Duration, now: Moment) -> Option<(Key, Saved)> {
        let length = self.u16()?;
        let name = std::str::from_utf8(self.bytes(usize::from(length))?).ok()?;
        let key = Key::named(name.into())?;
        let run = self.u32()?;
        let count = usize::from(self.u8()?);
        if count > QUOTA_LIMITS {
            return None;
        }
        let mut tracks: Vec<Track> = Vec::with_capacity(count);
        for _ in 0..count {
            let track = self.track(since, now)?;
            if tracks.iter().any(|other| other.window == track.window) {
                return None;
            }
            tracks.push(track);
        }
        Some((key, Saved { run, tracks }))
    }

    fn track(&mut self, since: Duration, now: Moment) -> Option<Track> {
        let window = Duration::from_millis(self.u64()?);
        Limits::new(&[Limit { amount: 0, window }])?;
        let count = usize::from(self.u8()?);
        if count > QUOTA_MARKS {
            return None;
        }
        let mut track = Track::new(window);
        let mut left = 0u64;
        let mut total = 0u64;
        for _ in 0..count {
            left = left.checked_add(self.number()?)?;
            let units = self.number()?;
            total = total.checked_add(units)?;
            // No sum of this and of what a run can add overflows.
            if units == 0 || total > u64::MAX >> 8 {
                return None;
            }
            // The clock may have been set forward by a step that nobody noticed.
            let left = (Duration::from_millis(left).saturating_add(QUOTA_CLOCK_STEP)).saturating_sub(since);
            let left = left.min(longest(window));
            track.add(now + left, units, now);
        }
        Some(track)
    }
}
