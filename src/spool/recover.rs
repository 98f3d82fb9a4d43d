//! Start-up: from the files of the spool folder to what each shard's log continues with.
//!
//! Input: a [`Disk`], the folder, the number of shards; output: [`Recovery`]. Runs before any shard, on the calling
//! thread and, if `Options` says so, a few helpers; blocking. What it does is a function of the files and its arguments. Refuses: to share a folder with another process, to delete what it cannot read
//! (it is copied to `quarantine/`), to read another version's files.
//!
//! Old log L goes to shard L modulo the number of shards. Nothing is freed here but files that a durable commit of their
//! own log has declared dead: each shard's log frees its dead segments from the oldest on, as it always does. Before any
//! of them may, every shard has durably written what it would miss should another shard free first.

use super::format::{self, Outcome, Place, Progress, RECORD_HEADER, RecordView, SegmentHeader, Superseded};
use super::log::{Adopted, Geometry, Recovered, RecoveredMessage, Spot, mix, segment_name, segment_number};
use super::merge::{Copy, Damage, Found, Merged, Source, merge};
use super::scan::{Identity, Scan, identify, scan};
use crate::limits;
use crate::message::MessageId;
use crate::rt::buffer::{BLOCK, Buffer};
use crate::rt::disk::{Disk, Lock};
use crate::time::Wall;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Name of the lock file in the spool folder.
pub const LOCK_NAME: &str = "lock";
/// Folder for copies of what could not be read.
pub const QUARANTINE: &str = "quarantine";

/// Why the spool cannot be used. Each says what the operator can do.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Another process has it.
    #[error("{0} is used by another process: stop it, or give this one another [spool] path")]
    Locked(PathBuf),
    /// Written by another version.
    #[error("{file} has format version {version}, this program reads version {}", format::VERSION)]
    Version {
        /// The file.
        file: PathBuf,
        /// Its version.
        version: u16,
    },
    /// A file operation failed.
    #[error("{what} {path}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The system's word.
        error: io::Error,
    },
    /// More shards than a message id can name.
    #[error("{0} shards: 1 to {max} are possible", max = limits::SHARDS)]
    Shards(u16),
}

/// Arguments of [`recover`] beside the folder.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Shards of this run.
    pub shards: u16,
    /// The time, for new segment headers.
    pub wall: Wall,
    /// Random, not known outside.
    pub seed: u64,
    /// Sizes.
    pub geometry: Geometry,
    /// Threads that read the files, the calling one among them; `limits::SPOOL_SCAN_THREADS` suits. With 1 everything
    /// happens on the calling thread, in one order.
    pub scan_threads: usize,
}

/// What recovery found.
#[derive(Debug)]
pub struct Recovery {
    /// For each shard, what `Log::new` takes.
    pub shards: Vec<Recovered>,
    /// What is damaged: to be logged loudly.
    pub damage: Vec<Damage>,
    /// Files read.
    pub files: usize,
    /// Keep it as long as the process runs: the folder is locked.
    pub lock: Lock,
}

impl Recovery {
    /// Messages to deliver, over all shards.
    pub fn live_messages(&self) -> usize {
        self.shards.iter().map(|s| s.live.len()).sum()
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RecoveryError {
    move |error| RecoveryError::Io { what, path: path.to_owned(), error }
}

/// A file of the folder that holds no segment to read.
pub(crate) struct Odd {
    pub number: u32,
    pub identity: Identity,
    pub bytes: u64,
    /// Tells it from another file that had the same number earlier: the checksum of what is unreadable.
    pub mark: u64,
}

/// The folder as read.
pub(crate) struct Folder {
    pub sources: Vec<Source>,
    pub odd: Vec<Odd>,
}

/// Who else may change a folder while it is read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Company {
    /// Nobody: it is locked. A file that is listed and cannot be found is an error, for it may hold mail.
    Alone,
    /// A server, which removes segments that hold nothing any more: such a file is passed over.
    Server,
}

/// Reads and scans every segment file, with at most `threads` threads and no more than there are cores.
pub(crate) fn read_folder(
    disk: &dyn Disk,
    folder: &Path,
    company: Company,
    threads: usize,
) -> Result<Folder, RecoveryError> {
    let names = disk.list(folder).map_err(failed("cannot list", folder))?;
    let mut numbers: Vec<u32> = names.iter().filter_map(|n| segment_number(n)).collect();
    numbers.sort_unstable();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let work = || {
        let mut bytes = Vec::new();
        while let Some(number) = numbers.get(next.fetch_add(1, Ordering::Relaxed)) {
            let path = folder.join(segment_name(*number));
            let read = disk.read(&path, &mut bytes);
            if company == Company::Server && read.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
                continue;
            }
            let result = read.map_err(failed("cannot read", &path)).map(|()| {
                let length = bytes.len() as u64;
                // A file that was cut off inside a block is read as `complete_blocks` will leave it.
                bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
                let identity = identify(&bytes, *number);
                let scan = match &identity {
                    Identity::Segment { header, .. } => scan(&bytes, header),
                    _ => Scan::default(),
                };
                let sum = if identity == Identity::Unreadable { crc32fast::hash(&bytes) } else { 0 };
                (*number, identity, scan, (length, u64::from(sum)))
            });
            if let Ok(mut results) = results.lock() {
                results.push(result);
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(threads);
    std::thread::scope(|scope| {
        for _ in 1..threads.min(numbers.len()) {
            scope.spawn(work);
        }
        work();
    });
    let mut files = results.into_inner().unwrap_or_default().into_iter().collect::<Result<Vec<_>, _>>()?;
    files.sort_by_key(|(number, ..)| *number);
    let mut out = Folder { sources: Vec::new(), odd: Vec::new() };
    // A file under another name than its own comes last: it counts only if the original is not there.
    files.sort_by_key(
        |(number, identity, ..)| matches!(identity, Identity::Segment { header, .. } if header.number != *number),
    );
    for (number, identity, scan, (bytes, sum)) in files {
        match identity {
            Identity::Version(version) => {
                return Err(RecoveryError::Version { file: folder.join(segment_name(number)), version });
            }
            Identity::Segment { header, intact }
                if !out.sources.iter().any(|s| s.header.log == header.log && s.header.sequence == header.sequence) =>
            {
                let intact = intact && header.number == number;
                out.sources.push(Source { number, header: SegmentHeader { number, ..header }, bytes, intact, scan });
            }
            Identity::Segment { header, .. } => {
                out.odd.push(Odd { number, identity: Identity::Unreadable, bytes, mark: header.stamp });
            }
            Identity::Blank | Identity::Unreadable => out.odd.push(Odd { number, identity, bytes, mark: sum }),
        }
    }
    Ok(out)
}

/// Opens the spool folder: locks it (creating it if need be), reads all logs, hands each shard its part.
pub fn recover(disk: &dyn Disk, folder: &Path, options: Options) -> Result<Recovery, RecoveryError> {
    let shards = options.shards;
    if shards == 0 || usize::from(shards) > limits::SHARDS {
        return Err(RecoveryError::Shards(shards));
    }
    disk.create_folder(folder).map_err(failed("cannot create", folder))?;
    let lock_path = folder.join(LOCK_NAME);
    let lock = disk.lock(&lock_path, true).map_err(failed("cannot lock", &lock_path))?;
    let Some(lock) = lock else { return Err(RecoveryError::Locked(folder.to_owned())) };

    let Folder { sources, odd } = read_folder(disk, folder, Company::Alone, options.scan_threads)?;
    let files = sources.len() + odd.len();
    let mut merged = merge(&sources);
    for chain in merged.chains.values() {
        // What was read may stand in a cache only, if the last process was killed in the middle of a commit.
        let unproven = |index: &&usize| !chain.is_proven(sources[**index].scan.newest_commit);
        for index in chain.segments.iter().filter(unproven) {
            let path = folder.join(segment_name(sources[*index].number));
            disk.sync(&path).map_err(failed("cannot sync", &path))?;
        }
    }
    let mut homing = Homing { disk, folder, options, sources: &sources, shards: Vec::new(), homes: BTreeMap::new() };
    homing.quarantine(&mut merged, &odd)?;
    homing.complete_blocks()?;
    homing.assign(&merged, &odd)?;
    let damage = std::mem::take(&mut merged.damage);
    homing.rewrite(merged)?;
    let shards = homing.shards.into_iter().map(|part| part.recovered).collect();
    Ok(Recovery { shards, damage, files, lock })
}

/// One shard's part while it takes shape.
struct Part {
    recovered: Recovered,
    writer: Writer,
}

struct Homing<'a> {
    disk: &'a dyn Disk,
    folder: &'a Path,
    options: Options,
    sources: &'a [Source],
    shards: Vec<Part>,
    /// For each source that counts: its shard and its place in that shard's list.
    homes: BTreeMap<usize, (u16, u32)>,
}

impl Homing<'_> {
    fn path(&self, number: u32) -> PathBuf {
        self.folder.join(segment_name(number))
    }

    fn quarantine(&self, merged: &mut Merged, odd: &[Odd]) -> Result<(), RecoveryError> {
        merged.damage.dedup_by(|a, b| a == b);
        let mut copies: Vec<(u32, u64)> = merged.damage.iter().map(|d| (d.number, d.sequence)).collect();
        for file in odd.iter().filter(|o| o.identity == Identity::Unreadable) {
            let what = "is no segment, or a second copy of one; moved to quarantine/".to_owned();
            merged.damage.push(Damage { number: file.number, sequence: 0, what });
            copies.push((file.number, file.mark));
        }
        if copies.is_empty() {
            return Ok(());
        }
        let quarantine = self.folder.join(QUARANTINE);
        self.disk.create_folder(&quarantine).map_err(failed("cannot create", &quarantine))?;
        for (number, mark) in copies {
            let from = self.path(number);
            let to = quarantine.join(format!("seg-{number:08x}-{mark:016x}.log"));
            self.disk.copy(&from, &to).map_err(failed("cannot copy to quarantine", &from))?;
        }
        Ok(())
    }

    /// Fills up the last block of a file that was cut off inside one: files are read by blocks, and records in it may be
    /// whole.
    fn complete_blocks(&self) -> Result<(), RecoveryError> {
        for source in self.sources {
            let rest = usize::try_from(source.bytes % BLOCK as u64).expect("below a block");
            if rest > 0 {
                let path = self.path(source.number);
                let zeros = &[0; BLOCK][rest..];
                self.disk.write_sync(&path, source.bytes, zeros).map_err(failed("cannot write", &path))?;
            }
        }
        Ok(())
    }

    /// Gives every segment to its shard, and the reusable files.
    fn assign(&mut self, merged: &Merged, odd: &[Odd]) -> Result<(), RecoveryError> {
        let shards = self.options.shards;
        let newest_number = self.sources.iter().map(|s| s.number).chain(odd.iter().map(|o| o.number)).max();
        let first_number = newest_number.map_or(0, |n| n.saturating_add(1));
        for shard in 0..shards {
            let mut recovered = Recovered::fresh(shard, shards);
            recovered.newest = merged.newest;
            recovered.next_sequence = merged.newest_sequence + 1;
            recovered.next_number = (first_number.saturating_add(u32::from(shard)), u32::from(shards));
            if let Some(chain) = merged.chains.get(&shard) {
                recovered.next_commit = chain.next_commit;
                recovered.last_commit = chain.last_commit;
            }
            let writer = Writer::new(self.options);
            self.shards.push(Part { recovered, writer });
        }
        let whole = u64::from(self.options.geometry.segment_bytes);
        let mut useless = Vec::new();
        for (log, chain) in &merged.chains {
            let shard = log % shards;
            let part = &mut self.shards[usize::from(shard)].recovered;
            for index in &chain.segments {
                let source = &self.sources[*index];
                self.homes.insert(*index, (shard, u32::try_from(part.segments.len()).expect("fewer files")));
                let used = source.scan.newest_commit > 0;
                part.segments.push(Adopted { header: source.header, end: source.scan.end, used });
            }
            for index in &chain.free {
                let source = &self.sources[*index];
                // That a file of another log is dead is known from that log's commits, which will go away.
                let reusable = *log == shard && source.intact && u64::from(source.header.bytes) == whole;
                if reusable && part.free.len() < limits::SPOOL_FREE_SEGMENTS {
                    part.free.push(source.number);
                } else {
                    useless.push(source.number);
                }
            }
        }
        let mut takers = (0..usize::from(shards)).cycle();
        for file in odd {
            match file.identity {
                Identity::Blank if file.bytes == whole => {
                    let part = &mut self.shards[takers.next().unwrap_or(0)].recovered;
                    if part.free.len() < limits::SPOOL_FREE_SEGMENTS {
                        part.free.push(file.number);
                    } else {
                        useless.push(file.number);
                    }
                }
                // Not created to the end, or quarantined.
                Identity::Blank | Identity::Unreadable => useless.push(file.number),
                Identity::Segment { .. } | Identity::Version(_) => {}
            }
        }
        for number in useless {
            let path = self.path(number);
            self.disk.remove(&path).map_err(failed("cannot remove", &path))?;
        }
        Ok(())
    }

    /// Writes what a shard must not learn from another shard's segments, and lists the live messages.
    fn rewrite(&mut self, merged: Merged) -> Result<(), RecoveryError> {
        let mut settle: BTreeMap<u16, Vec<MessageId>> = BTreeMap::new();
        for (log, ids) in merged.to_settle {
            settle.entry(log % self.options.shards).or_default().extend(ids);
        }
        let mut supersede: BTreeMap<u16, Vec<Superseded>> = BTreeMap::new();
        for (log, copies) in merged.to_supersede {
            supersede.entry(log % self.options.shards).or_default().extend(copies);
        }
        for found in merged.live {
            if let Some((shard, id)) = self.rehome(found, &mut supersede)? {
                settle.entry(shard).or_default().push(id);
            }
        }
        for (shard, mut ids) in settle {
            ids.sort_unstable();
            ids.dedup();
            for ids in ids.chunks(256) {
                self.append(shard, format::record_room(ids.len() * format::SETTLED_ENTRY), |buffer, _| {
                    format::write_settled(buffer, ids);
                })?;
            }
        }
        self.flush_all()?;
        // Only now: a copy that counts no more must not be gone before the one that replaces it is there.
        let told: Vec<u16> = supersede.keys().copied().collect();
        for (shard, mut copies) in supersede {
            copies.sort_unstable();
            for copies in copies.chunks(256) {
                let room = format::record_room(copies.len() * format::SUPERSEDED_ENTRY);
                self.append(shard, room, |buffer, _| format::write_superseded(buffer, copies))?;
            }
        }
        self.flush_all()?;
        for shard in told {
            // What is superseded counts only once that is proven.
            self.prove(shard)?;
        }
        for shard in 0..self.options.shards {
            let part = &mut self.shards[usize::from(shard)].recovered;
            // In the order of the log: compaction then reads forward.
            part.live.sort_by_key(|m| (m.spot.segment, m.spot.offset));
        }
        Ok(())
    }

    /// Lists one live message with its shard. Returns its shard and id if it turns out to be settled.
    fn rehome(
        &mut self,
        found: Found,
        supersede: &mut BTreeMap<u16, Vec<Superseded>>,
    ) -> Result<Option<(u16, MessageId)>, RecoveryError> {
        let sources = self.sources;
        let proven_first = |copies: &[Copy]| copies.iter().rev().find(|c| c.proven).or(copies.last()).copied();
        let Some(accepted) = found.parts.get(&0).and_then(|copies| proven_first(copies)) else { return Ok(None) };
        let (shard, _) = self.homes[&accepted.source];
        let front = sources[accepted.source].front(accepted.index);
        let Some(view) = RecordView::from_payload(found.id, front) else { return Ok(None) };
        let chunk_count = view.chunk_count();
        if !(1..=chunk_count).all(|part| found.parts.contains_key(&part)) {
            // Never acknowledged: the acknowledgement waits for all chunks. (Or chunks are damaged, which is reported.)
            return Ok(None);
        }
        let mut done: Vec<bool> = Vec::new();
        for copy in &found.parts[&0] {
            let view = RecordView::from_payload(found.id, sources[copy.source].front(copy.index));
            let states = view.into_iter().flat_map(|v| v.recipients()).map(|r| r.done.is_some());
            for (index, state) in states.enumerate() {
                if index >= done.len() {
                    done.push(false);
                }
                done[index] |= state;
            }
        }
        for progress in &found.progress {
            if let Some(done) = done.get_mut(usize::from(progress.recipient)) {
                *done = true;
            }
        }
        if done.iter().all(|d| *d) {
            return Ok(Some((shard, found.id)));
        }
        let mut spots = Vec::new();
        for part in 0..=chunk_count {
            let copies = &found.parts[&part];
            let local = |c: &&Copy| self.homes[&c.source].0 == shard;
            let here = copies.iter().rev().filter(local);
            let best = here.clone().find(|c| c.proven).or(here.clone().next()).copied();
            let spot = match best {
                Some(copy) if copy.proven || copies.iter().all(|c| local(&c)) => {
                    let message = sources[copy.source].message(copy.index);
                    let segment = self.homes[&copy.source].1;
                    Spot { segment, offset: message.offset, length: message.length }
                }
                // One that another shard's segments hold, and may give up.
                _ => self.bring(shard, proven_first(copies).expect("a part that counts has a copy"))?,
            };
            spots.push(spot);
            self.supersede_elsewhere(shard, copies, supersede);
        }
        // Outcomes that only copies or records elsewhere tell.
        let elsewhere = found.parts[&0].len() > 1;
        if found.progress_elsewhere || elsewhere {
            let known = found.progress.iter().map(|p| (p.recipient, p.outcome)).collect::<BTreeMap<_, _>>();
            let all = (0u16..).zip(&done).filter(|(_, d)| **d);
            let entries: Vec<_> = all
                .map(|(recipient, _)| {
                    let outcome = known.get(&recipient).copied().unwrap_or(Outcome::Delivered);
                    Progress { id: found.id, recipient, outcome }
                })
                .collect();
            if !entries.is_empty() {
                let room = format::record_room(entries.len() * format::PROGRESS_ENTRY);
                self.append(shard, room, |buffer, _| format::write_progress(buffer, &entries))?;
            }
        }
        let part = &mut self.shards[usize::from(shard)].recovered;
        let start = part.fronts.len();
        part.fronts.extend_from_slice(front);
        mark_done(&mut part.fronts[start..], found.id, &done);
        let mut spots = spots.into_iter();
        if let Some(spot) = spots.next() {
            let front = start..part.fronts.len();
            part.live.push(RecoveredMessage { id: found.id, spot, chunks: spots.collect(), front });
        }
        Ok(None)
    }

    /// Copies of a record that stand with other shards: should one of them outlive the outcome here, it must not count.
    fn supersede_elsewhere(&self, shard: u16, copies: &[Copy], supersede: &mut BTreeMap<u16, Vec<Superseded>>) {
        for copy in copies {
            let (other, _) = self.homes[&copy.source];
            if other != shard {
                let source = &self.sources[copy.source];
                let offset = source.message(copy.index).offset;
                let entry = Superseded { sequence: source.header.sequence, log: source.header.log, offset };
                supersede.entry(other).or_default().push(entry);
            }
        }
    }

    /// Copies a record from another shard's segment: a body whose chunks were being compacted when the process ended.
    fn bring(&mut self, shard: u16, copy: Copy) -> Result<Spot, RecoveryError> {
        let source = &self.sources[copy.source];
        let message = source.message(copy.index);
        let path = self.path(source.number);
        let mut bytes = Vec::new();
        self.disk.read(&path, &mut bytes).map_err(failed("cannot read", &path))?;
        let range = message.offset as usize..(message.offset + message.length) as usize;
        let record = bytes.get(range).unwrap_or_default();
        let mut spot = Spot { segment: 0, offset: 0, length: 0 };
        let room = format::record_room(record.len().saturating_sub(RECORD_HEADER));
        self.append(shard, room, |buffer, place| {
            spot = place;
            spot.length = u32::try_from(format::write_copy(buffer, record, |_| false).unwrap_or(0)).unwrap_or(0);
        })?;
        Ok(spot)
    }

    // --- The fresh segments ---------------------------------------------------------------------------------------

    fn append(&mut self, shard: u16, room: usize, write: impl FnOnce(&mut Buffer, Spot)) -> Result<(), RecoveryError> {
        let commit = self.options.geometry.commit_bytes as usize;
        let used = self.shards[usize::from(shard)].writer.buffer.len();
        if used > BLOCK + format::COMMIT_RECORD && used - BLOCK + room > commit {
            self.flush(shard)?;
        }
        let left = {
            let part = &self.shards[usize::from(shard)];
            part.writer.active.map_or(0, |_| part.writer.left(self.options.geometry))
        };
        let needed = self.shards[usize::from(shard)].writer.buffer.len() - BLOCK + room;
        if left < needed.next_multiple_of(BLOCK) {
            self.flush(shard)?;
            self.open(shard)?;
        }
        let part = &mut self.shards[usize::from(shard)];
        let writer = &mut part.writer;
        let offset = writer.end + u32::try_from(writer.buffer.len() - BLOCK).expect("below 4 GiB");
        let segment = u32::try_from(part.recovered.segments.len() - 1).expect("fewer files than 4 billion");
        write(&mut writer.buffer, Spot { segment, offset, length: 0 });
        writer.records += 1;
        Ok(())
    }

    /// Begins a fresh segment for `shard`.
    fn open(&mut self, shard: u16) -> Result<(), RecoveryError> {
        let geometry = self.options.geometry;
        let part = &mut self.shards[usize::from(shard)].recovered;
        let number = if part.free.is_empty() {
            let (number, step) = part.next_number;
            part.next_number.0 = number.saturating_add(step);
            let path = self.folder.join(segment_name(number));
            self.disk
                .create(&path, u64::from(geometry.segment_bytes))
                .map_err(failed("cannot create a segment (is there room on the disk?)", &path))?;
            number
        } else {
            part.free.remove(0)
        };
        let sequence = part.next_sequence;
        part.next_sequence += 1;
        let stamp = mix(self.options.seed ^ mix(sequence << 16 | u64::from(shard)));
        let created = self.options.wall;
        let header = SegmentHeader { log: shard, number, sequence, stamp, created, bytes: geometry.segment_bytes };
        let block = u32::try_from(BLOCK).expect("4096");
        part.segments.push(Adopted { header, end: block, used: false });
        part.continues = true;
        let writer = &mut self.shards[usize::from(shard)].writer;
        writer.active = Some(header);
        writer.end = block;
        writer.first = true;
        Ok(())
    }

    fn flush_all(&mut self) -> Result<(), RecoveryError> {
        (0..self.options.shards).try_for_each(|shard| self.flush(shard))
    }

    fn flush(&mut self, shard: u16) -> Result<(), RecoveryError> {
        if self.shards[usize::from(shard)].writer.records == 0 {
            return Ok(());
        }
        self.write_commit(shard)
    }

    /// Writes a commit without records, which proves the one before it.
    fn prove(&mut self, shard: u16) -> Result<(), RecoveryError> {
        if self.shards[usize::from(shard)].writer.left(self.options.geometry) < BLOCK {
            self.open(shard)?;
        }
        self.write_commit(shard)
    }

    fn write_commit(&mut self, shard: u16) -> Result<(), RecoveryError> {
        let Part { recovered, writer } = &mut self.shards[usize::from(shard)];
        let Some(header) = writer.active else { return Ok(()) };
        writer.buffer.pad_to_block();
        let bytes = u32::try_from(writer.buffer.len() - BLOCK).expect("below 4 GiB");
        let own = recovered.segments.iter().find(|s| s.header.log == shard && s.used);
        let fixed = format::Commit {
            tail: own.map_or(header.sequence, |s| s.header.sequence),
            previous: recovered.last_commit,
            length: bytes,
            records: writer.records,
            log: shard,
        };
        let number = recovered.next_commit;
        let place = Place { log: shard, offset: writer.end };
        format::seal(writer.buffer.as_mut(), BLOCK, place, &header, number, &fixed);
        let (start, offset) = if writer.first {
            header.write(&mut writer.buffer.as_mut()[..BLOCK]);
            (0, 0)
        } else {
            (BLOCK, u64::from(writer.end))
        };
        let path = self.folder.join(segment_name(header.number));
        self.disk.write_sync(&path, offset, &writer.buffer[start..]).map_err(failed("cannot write", &path))?;
        writer.first = false;
        writer.end += bytes;
        writer.begin();
        recovered.last_commit = number;
        recovered.next_commit = number + 1;
        if let Some(last) = recovered.segments.last_mut() {
            last.end = writer.end;
            last.used = true;
        }
        Ok(())
    }
}

fn mark_done(front: &mut [u8], id: MessageId, done: &[bool]) {
    let Some(view) = RecordView::from_payload(id, front) else { return };
    let places: Vec<usize> = view.state_places().zip(done).filter(|(_, d)| **d).map(|(at, _)| at).collect();
    for at in places {
        if front[at] == 0 {
            front[at] = Outcome::Delivered as u8;
        }
    }
}

/// The commit being filled for one shard.
struct Writer {
    buffer: Buffer,
    records: u32,
    active: Option<SegmentHeader>,
    end: u32,
    first: bool,
}

impl Writer {
    fn new(options: Options) -> Writer {
        let buffer = Buffer::new(options.geometry.commit_bytes as usize + 2 * BLOCK);
        let mut writer = Writer { buffer, records: 0, active: None, end: 0, first: false };
        writer.begin();
        writer
    }

    fn begin(&mut self) {
        self.buffer.set_len(BLOCK);
        format::begin_commit(&mut self.buffer);
        self.records = 0;
    }

    fn left(&self, geometry: Geometry) -> usize {
        (geometry.segment_bytes - self.end) as usize
    }
}
