//! PURE. Reads one segment file: what it is, and every record in it that passes its checksums.
//!
//! Input: the bytes of the file; output: a [`Scan`]. Core: a thread of recovery or of an offline command. Refuses to
//! judge what a gap means: that takes all segments of a log (`recover`).

use super::format::{self, Commit, Kind, Place, Progress, RECORD_HEADER, RecordHeader, RecordView, SegmentHeader};
use super::format::{Superseded, record_room};
use crate::message::MessageId;
use crate::rt::buffer::BLOCK;
use crate::time::Wall;
use std::ops::Range;

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Identity {
    /// Never committed to: its header block is zero and no commit is in it.
    Blank,
    /// A segment; `intact` is false if the header block is damaged and the rest had to tell.
    Segment { header: SegmentHeader, intact: bool },
    /// Another version of the format wrote it.
    Version(u16),
    /// Neither.
    Unreadable,
}

/// A Commit record that passed its checksums.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CommitSeen {
    pub number: u64,
    pub offset: u32,
    pub fixed: Commit,
    /// All its records passed theirs.
    pub whole: bool,
}

/// An Accepted record (part 0) or a chunk (part 1 and up).
#[derive(Clone, Debug)]
pub(crate) struct MessageSeen {
    pub commit: u64,
    pub id: MessageId,
    pub part: u32,
    pub offset: u32,
    pub length: u32,
    /// The envelope, in `Scan::fronts`.
    pub front: Range<usize>,
}

/// What stands in one segment.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    pub commits: Vec<CommitSeen>,
    pub messages: Vec<MessageSeen>,
    pub settled: Vec<(u64, MessageId)>,
    pub progress: Vec<(u64, Progress)>,
    pub superseded: Vec<(u64, Superseded)>,
    pub fronts: Vec<u8>,
    /// Unreadable places in front of a readable commit.
    pub gaps: Vec<Range<u32>>,
    /// Records whose header is right and whose payload is not, by message id and commit.
    pub spoiled: Vec<(u64, MessageId)>,
    /// The highest commit number of any record.
    pub newest_commit: u64,
    /// End of the last readable commit.
    pub end: u32,
}

fn small(at: usize) -> u32 {
    u32::try_from(at).expect("segments are far below 4 GiB")
}

/// Identifies a file by its first block, or if that is damaged by the commits in it.
pub(crate) fn identify(bytes: &[u8], number: u32) -> Identity {
    if let Some(header) = SegmentHeader::parse(bytes) {
        return Identity::Segment { header, intact: true };
    }
    let front = &bytes[..bytes.len().min(BLOCK)];
    if let (true, Some(version)) = (front.starts_with(&format::SEGMENT_MAGIC), front.get(8..10)) {
        let version = u16::from_le_bytes([version[0], version[1]]);
        // The checksum tells a version from a damaged block.
        let sum = front.get(60..64).map(|s| u32::from_le_bytes([s[0], s[1], s[2], s[3]]));
        if version > format::VERSION && sum == Some(crc32fast::hash(&front[..60])) {
            return Identity::Version(version);
        }
    }
    // The first commit stands in block 1 always; only if that is damaged too, others are asked.
    let mut best: Option<(RecordHeader, Commit)> = None;
    for at in (BLOCK..bytes.len()).step_by(BLOCK) {
        let Some(found) = anonymous_commit(bytes, at) else { continue };
        if at == BLOCK {
            best = Some(found);
            break;
        }
        if best.is_none_or(|(header, _)| header.id < found.0.id) {
            best = Some(found);
        }
    }
    match best {
        Some((record, commit)) => {
            let header = SegmentHeader {
                log: commit.log,
                number,
                sequence: record.id,
                stamp: record.stamp,
                created: Wall(0),
                bytes: small(bytes.len()),
            };
            Identity::Segment { header, intact: false }
        }
        None if front.iter().all(|b| *b == 0) => Identity::Blank,
        None => Identity::Unreadable,
    }
}

/// The commit at `at`, of whatever segment: its payload names the log that the header's checksum needs.
fn anonymous_commit(bytes: &[u8], at: usize) -> Option<(RecordHeader, Commit)> {
    let commit = Commit::parse(bytes.get(at + RECORD_HEADER..at + format::COMMIT_RECORD)?)?;
    let place = Place { log: commit.log, offset: small(at) };
    let header = format::parse_header(&bytes[at..], place, None)?;
    (header.kind == Kind::Commit && format::payload(&bytes[at..], &header).is_some()).then_some((header, commit))
}

/// Reads all records of the segment `header`.
pub(crate) fn scan(bytes: &[u8], header: &SegmentHeader) -> Scan {
    let mut scan = Scan::default();
    let mut at = BLOCK;
    let mut gap = None;
    scan.end = small(BLOCK);
    while at + RECORD_HEADER <= bytes.len() {
        let found = at.is_multiple_of(BLOCK).then(|| commit_at(bytes, at, header)).flatten();
        if let Some((record, fixed)) = found {
            if let Some(start) = gap.take() {
                scan.gaps.push(small(start)..small(at));
            }
            let end = at + fixed.length as usize;
            let whole = scan.commit(&bytes[..end], at, header, &record, &fixed);
            scan.commits.push(CommitSeen { number: record.commit, offset: small(at), fixed, whole });
            scan.newest_commit = scan.newest_commit.max(record.commit);
            scan.end = small(end);
            at = end;
            continue;
        }
        gap.get_or_insert(at);
        // Records whose Commit record is lost.
        at += scan.record(bytes, at, header, None).map_or_else(|| step(bytes, at), record_step);
    }
    scan
}

fn commit_at(bytes: &[u8], at: usize, header: &SegmentHeader) -> Option<(RecordHeader, Commit)> {
    let place = Place { log: header.log, offset: small(at) };
    let record = format::parse_header(&bytes[at..], place, Some(header.stamp))?;
    if record.kind != Kind::Commit {
        return None;
    }
    let fixed = Commit::parse(format::payload(&bytes[at..], &record)?)?;
    (at + fixed.length as usize <= bytes.len()).then_some((record, fixed))
}

/// From a place where no record begins to the next where one may: 8 bytes on, or beyond zeros. A segment is mostly those.
fn step(bytes: &[u8], at: usize) -> usize {
    // No record's header is zero as far as its magic.
    (zeros(&bytes[at..]).saturating_sub(format::MAGIC_AT) & !7).max(8)
}

/// How many zeros `bytes` begins with: a multiple of 8.
fn zeros(bytes: &[u8]) -> usize {
    static ZEROS: [u8; 1024] = [0; 1024];
    let is_zero = |piece: &&[u8]| **piece == ZEROS[..piece.len()];
    let count = |bytes: &[u8], size: usize| bytes.chunks_exact(size).take_while(is_zero).count() * size;
    if count(&bytes[..bytes.len().min(8)], 8) == 0 {
        return 0;
    }
    let most = count(bytes, ZEROS.len());
    most + count(&bytes[most..], 8)
}

fn record_step(length: u32) -> usize {
    record_room(length as usize)
}

impl Scan {
    /// Takes the records of one commit. Whether all of them were right.
    fn commit(
        &mut self,
        bytes: &[u8],
        at: usize,
        segment: &SegmentHeader,
        record: &RecordHeader,
        fixed: &Commit,
    ) -> bool {
        let mut at = at + record_step(record.length);
        let mut right = 0;
        let spoiled = self.spoiled.len();
        while at + RECORD_HEADER <= bytes.len() && right < fixed.records {
            match self.record(bytes, at, segment, Some(record.commit)) {
                Some(length) => {
                    right += 1;
                    at += record_step(length);
                }
                None => at += step(bytes, at),
            }
        }
        right == fixed.records && self.spoiled.len() == spoiled
    }

    /// Takes the record at `at` if its header is right; returns its payload's length.
    fn record(&mut self, bytes: &[u8], at: usize, segment: &SegmentHeader, commit: Option<u64>) -> Option<u32> {
        let place = Place { log: segment.log, offset: small(at) };
        let header = format::parse_header(&bytes[at..], place, Some(segment.stamp))?;
        if header.kind == Kind::Commit || commit.is_some_and(|c| c != header.commit) {
            return None;
        }
        if at + header.record_bytes() > bytes.len() {
            return None;
        }
        let number = header.commit;
        self.newest_commit = self.newest_commit.max(number);
        let id = MessageId(header.id);
        let Some(payload) = format::payload(&bytes[at..], &header) else {
            self.spoiled.push((number, id));
            return Some(header.length);
        };
        let seen = |part, front| MessageSeen {
            commit: number,
            id,
            part,
            offset: small(at),
            length: small(header.record_bytes()),
            front,
        };
        match header.kind {
            Kind::Commit => {}
            Kind::Accepted => match RecordView::from_payload(id, payload) {
                Some(view) => {
                    let start = self.fronts.len();
                    self.fronts.extend_from_slice(view.front());
                    self.messages.push(seen(0, start..self.fronts.len()));
                }
                None => self.spoiled.push((number, id)),
            },
            Kind::Chunk => match format::parse_chunk(payload).and_then(|(index, _)| index.checked_add(1)) {
                Some(part) => self.messages.push(seen(part, 0..0)),
                None => self.spoiled.push((number, id)),
            },
            Kind::Settled => self.settled.extend(format::parse_settled(payload).map(|id| (number, id))),
            Kind::Progress => self.progress.extend(format::parse_progress(payload).map(|p| (number, p))),
            Kind::Superseded => self.superseded.extend(format::parse_superseded(payload).map(|s| (number, s))),
        }
        Some(header.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::sim::Rng;

    #[test]
    fn nothing_that_could_be_a_record_is_stepped_over() {
        for seed in 0..200 {
            let mut rng = Rng(seed);
            let mut bytes = vec![0; 3000 + 8 * rng.below(200) as usize];
            for _ in 0..rng.below(9) {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] = 0xb5;
            }
            let mut at = 0;
            while at + RECORD_HEADER <= bytes.len() {
                let next = at + step(&bytes, at);
                assert!(next >= at + 8 && next.is_multiple_of(8));
                for skipped in (at + 8..next).step_by(8) {
                    let magic = bytes.get(skipped + format::MAGIC_AT).copied();
                    assert!(magic.is_none_or(|m| m == 0), "seed {seed}: from {at} to {next}, a header at {skipped}");
                }
                at = next;
            }
        }
        let empty = vec![0; 1 << 20];
        assert!(step(&empty, BLOCK) > (1 << 20) - BLOCK - RECORD_HEADER, "in one step");
    }
}
