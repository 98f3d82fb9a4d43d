//! The simulated disk: files in memory with two layers, what reads see (the page cache) and what a loss of power leaves
//! (the medium), and the faults that a program meets.
//!
//! Inputs: the compound operations of [`Disk`] and of rt's [`super::super::Io`] (each ends with its sync), faults to come,
//! ends of the process or of the power. Outputs: results, and a list of [`Scar`]s: where the medium no longer holds what
//! it said it held. Every choice comes from its own seed. Refuses to lose what it reported as synced, except by a scar.

use super::marks::{Marks, name};
use super::rng::Rng;
use crate::rt::buffer::BLOCK;
use crate::rt::disk::{Disk, Lock};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// What a device writes whole or not at all.
const SECTOR: usize = 512;

type Block = Box<[u8; BLOCK]>;

/// The kinds of operation, for faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DiskOp {
    /// Makes a file.
    Create,
    /// Writes and syncs.
    Write,
    /// Reads.
    Read,
    /// Unlinks a file.
    Remove,
}

/// What goes wrong with one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// It fails with this error number. A write that failed may be in the cache and is on the medium in any part, and no
    /// later sync brings it there (the kernel marks the pages clean).
    Error(i32),
    /// It says that it is done, and nothing was written.
    Lost,
    /// It says that it is done, and another place of the file was written: so many blocks further, round the end.
    Misdirected(u32),
}

/// Where the medium no longer holds what was reported as written, or the reverse: nothing there can be relied upon.
#[derive(Clone, Debug)]
pub struct Scar {
    /// The file.
    pub path: PathBuf,
    /// Bytes of it.
    pub range: Range<u64>,
    /// The whole file as it was or should be: what stands in the range is what nobody can rely upon.
    pub contents: Vec<u8>,
}

/// How the process ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `kill -9`: the kernel lives, what was written is in its cache.
    Killed,
    /// The machine stops: what was not synced is on the medium in any part.
    PowerLost,
}

#[derive(Default, Clone)]
struct SimFile {
    length: u64,
    blocks: BTreeMap<u64, Block>,
    /// Blocks whose medium differs from the cache, and what it holds; `None` is zeros.
    medium: BTreeMap<u64, Option<Block>>,
    /// Those of them whose sync failed: the kernel takes them for clean, no later sync writes them.
    lost: BTreeSet<u64>,
    /// Blocks that cannot be read.
    bad: Vec<u64>,
}

fn zeros() -> Block {
    Box::new([0; BLOCK])
}

impl SimFile {
    fn read(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        if offset + into.len() as u64 > self.length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (first, skip) = (offset / BLOCK as u64, usize::try_from(offset % BLOCK as u64).expect("below a block"));
        let blocks = first..(offset + into.len() as u64).div_ceil(BLOCK as u64);
        if self.bad.iter().any(|bad| blocks.contains(bad)) {
            return Err(errno(libc::EIO));
        }
        into.fill(0);
        for (number, block) in self.blocks.range(blocks) {
            let at = usize::try_from((number - first) * BLOCK as u64).expect("a file fits memory");
            let (from, to) = (skip.saturating_sub(at), at.saturating_sub(skip));
            let bytes = (BLOCK - from).min(into.len().saturating_sub(to));
            into[to..to + bytes].copy_from_slice(&block[from..from + bytes]);
        }
        Ok(())
    }

    /// All bytes, whether they can be read or not.
    fn contents(&self) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(self.length).expect("a file fits memory")];
        for (number, block) in &self.blocks {
            let at = usize::try_from(*number).expect("a file fits memory") * BLOCK;
            let end = (at + BLOCK).min(bytes.len());
            bytes[at..end].copy_from_slice(&block[..end - at]);
        }
        bytes
    }

    /// What is scarred when `bytes` do not get to `offset`, though that was said.
    fn missing(&self, path: &Path, offset: u64, bytes: &[u8]) -> Scar {
        let mut contents = self.contents();
        let at = usize::try_from(offset).expect("a file fits memory");
        contents[at..at + bytes.len()].copy_from_slice(bytes);
        Scar { path: path.to_owned(), range: offset..offset + bytes.len() as u64, contents }
    }

    /// Changes the cache. With `stable` the medium has it too.
    fn write(&mut self, offset: u64, bytes: &[u8], stable: bool) {
        let mut at = offset;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, skip) = (at / BLOCK as u64, usize::try_from(at % BLOCK as u64).expect("below a block"));
            let now = rest.len().min(BLOCK - skip);
            if stable {
                self.medium.remove(&number);
                self.lost.remove(&number);
            } else {
                let before = self.blocks.get(&number).cloned();
                self.medium.entry(number).or_insert(before);
            }
            self.blocks.entry(number).or_insert_with(zeros)[skip..skip + now].copy_from_slice(&rest[..now]);
            at += now as u64;
            rest = &rest[now..];
        }
        self.length = self.length.max(at);
    }

    /// What a device leaves of a write that nobody waited for to the end: sectors in any choice, now and then one of
    /// rubbish.
    fn tear(&mut self, offset: u64, bytes: &[u8], rng: &mut Rng) {
        let how = rng.below(6);
        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
            let at = offset + (index * SECTOR) as u64;
            match how {
                0 => return,
                1 => self.write(at, sector, true),
                2 if index as u64 * 2 < bytes.len() as u64 / SECTOR as u64 => self.write(at, sector, true),
                3.. if rng.one_in(2) => self.write(at, sector, true),
                5 if rng.one_in(8) => {
                    let rubbish: Vec<u8> = sector.iter().map(|_| rng.next().to_le_bytes()[0]).collect();
                    self.write(at, &rubbish, true);
                }
                _ => {}
            }
        }
    }

    /// The medium gets what the cache knows to be dirty.
    fn sync(&mut self) {
        self.medium.retain(|number, _| self.lost.contains(number));
    }

    /// The cache is gone.
    fn lose_cache(&mut self) {
        self.lost.clear();
        for (number, block) in std::mem::take(&mut self.medium) {
            match block {
                Some(block) => drop(self.blocks.insert(number, block)),
                None => drop(self.blocks.remove(&number)),
            }
        }
    }
}

fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// Everything on the disk, and what will go wrong with it.
struct State {
    files: BTreeMap<PathBuf, SimFile>,
    rng: Rng,
    /// Faults to come, each for the next operation of its kind.
    /// The kind of operation, how many of it go well before, what happens then.
    faults: VecDeque<(DiskOp, u32, DiskFault)>,
    /// Bytes that fit; what would need more fails with ENOSPC.
    room: Option<u64>,
    scars: Vec<Scar>,
    /// Files with a write that failed in this life of the process, and those of them that were written again.
    failed: BTreeSet<PathBuf>,
    written_again: Vec<PathBuf>,
    /// Operations through [`Disk`] until the power goes; then all fail.
    power: Option<u32>,
    /// Operations so far through [`Disk`].
    operations: u32,
    injected: u64,
    marks: Marks,
}

/// The disk of one simulated machine; clones are the same disk.
#[derive(Clone)]
pub struct SimDisk(Arc<Mutex<State>>);

impl SimDisk {
    /// An empty disk whose choices come from `seed`.
    pub fn new(seed: u64) -> Self {
        SimDisk(Arc::new(Mutex::new(State {
            files: BTreeMap::new(),
            rng: Rng::new(seed),
            faults: VecDeque::new(),
            room: None,
            scars: Vec::new(),
            failed: BTreeSet::new(),
            written_again: Vec::new(),
            power: None,
            operations: 0,
            injected: 0,
            marks: Marks::default(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("nothing panics while it holds the disk")
    }

    /// A second disk with the same files, without the faults.
    pub fn copy(&self) -> SimDisk {
        let copy = SimDisk::new(0);
        copy.state().files = self.state().files.clone();
        copy
    }

    /// The next operation of kind `op` that nothing else is planned for goes wrong.
    pub fn plan(&self, op: DiskOp, fault: DiskFault) {
        self.plan_after(0, op, fault);
    }

    /// As [`SimDisk::plan`], but so many go well before.
    pub fn plan_after(&self, well: u32, op: DiskOp, fault: DiskFault) {
        self.state().faults.push_back((op, well, fault));
    }

    /// Forgets the faults to come, and the limit: the disk is well again. What it did stays.
    pub fn mend(&self) {
        let mut state = self.state();
        state.faults.clear();
        state.room = None;
        for file in state.files.values_mut() {
            file.bad.clear();
        }
    }

    /// So many bytes of files fit from now on, beside those that are there; `None`: any number.
    pub fn set_room(&self, more: Option<u64>) {
        let mut state = self.state();
        state.room = more.map(|more| more + state.used());
    }

    /// The power goes after so many operations of recovery; `None`: it does not.
    pub fn set_power(&self, operations: Option<u32>) {
        self.state().power = operations;
    }

    /// Operations of recovery so far.
    pub fn operations(&self) -> u32 {
        self.state().operations
    }

    /// Faults that happened, rot included.
    pub fn injected(&self) -> u64 {
        self.state().injected
    }

    /// The scars so far; taking them is up to the caller.
    pub fn take_scars(&self) -> Vec<Scar> {
        std::mem::take(&mut self.state().scars)
    }

    /// One bit, anywhere in what was ever written, turns over. Whether there was anything.
    pub fn rot(&self) -> bool {
        let state = &mut *self.state();
        let Some((path, number, bit)) = state.any_block() else { return false };
        let file = state.files.get_mut(&path).expect("just found");
        let (range, contents) = (number * BLOCK as u64..(number + 1) * BLOCK as u64, file.contents());
        state.scars.push(Scar { path, range, contents });
        let block = file.blocks.get_mut(&number).expect("just found");
        block[bit / 8] ^= 1 << (bit % 8);
        if let Some(Some(medium)) = file.medium.get_mut(&number) {
            medium[bit / 8] ^= 1 << (bit % 8);
        }
        state.injected += 1;
        true
    }

    /// One block, anywhere in what was ever written, cannot be read until the disk is mended. Whether there was anything.
    pub fn spoil(&self) -> bool {
        let state = &mut *self.state();
        let Some((path, number, _)) = state.any_block() else { return false };
        state.files.get_mut(&path).expect("just found").bad.push(number);
        state.injected += 1;
        true
    }

    /// What went wrong, how often.
    pub fn marks(&self) -> Marks {
        self.state().marks.clone()
    }

    /// The files and their sizes in bytes.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.state().files.iter().map(|(path, file)| (path.clone(), file.length)).collect()
    }

    /// Files that were written again after a write or sync of them had failed, in the same life of the process.
    pub fn written_again(&self) -> Vec<PathBuf> {
        self.state().written_again.clone()
    }

    /// All bytes of a file, whether they can be read or not.
    pub fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        self.state().files.get(path).map(SimFile::contents)
    }

    // --- what the shards do: each call is the end of an operation -------------------------------------------------

    pub(super) fn end_write(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let state = &mut *self.state();
        let fault = state.fault(DiskOp::Write);
        let State { files, rng, scars, failed, written_again, marks, .. } = state;
        if failed.contains(path) {
            written_again.push(path.to_owned());
        }
        let file = files.get_mut(path).ok_or_else(|| errno(libc::ENOENT))?;
        match fault {
            None => file.write(offset, bytes, true),
            Some(DiskFault::Error(number)) => {
                let cached = rng.one_in(2);
                marks.add(if cached {
                    "disk: failed write readable until the power goes"
                } else {
                    "disk: failed write gone at once"
                });
                let before = file.clone();
                file.tear(offset, bytes, rng);
                if cached {
                    // Reads see all of it, the medium has what the tear left.
                    let medium = std::mem::replace(file, before);
                    file.write(offset, bytes, false);
                    for number in offset / BLOCK as u64..(offset + bytes.len() as u64).div_ceil(BLOCK as u64) {
                        file.medium.insert(number, medium.blocks.get(&number).cloned());
                        file.lost.insert(number);
                    }
                }
                failed.insert(path.to_owned());
                return Err(errno(number));
            }
            Some(DiskFault::Lost) => scars.push(file.missing(path, offset, bytes)),
            Some(DiskFault::Misdirected(blocks)) => {
                scars.push(file.missing(path, offset, bytes));
                let room = file.length.saturating_sub(bytes.len() as u64) / BLOCK as u64 * BLOCK as u64;
                let to = (offset + u64::from(blocks) * BLOCK as u64) % room.max(BLOCK as u64);
                let range = to..to + bytes.len() as u64;
                if range.end <= file.length {
                    scars.push(Scar { path: path.to_owned(), range, contents: file.contents() });
                    file.write(to, bytes, true);
                }
            }
        }
        Ok(())
    }

    pub(super) fn end_read(&self, path: &Path, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let state = &mut *self.state();
        match state.fault(DiskOp::Read) {
            Some(DiskFault::Error(number)) => Err(errno(number)),
            _ => state.files.get(path).ok_or_else(|| errno(libc::ENOENT))?.read(offset, into),
        }
    }

    pub(super) fn end_create(&self, path: &Path, bytes: u64) -> io::Result<()> {
        self.state().create(path, bytes)
    }

    pub(super) fn end_remove(&self, path: &Path) -> io::Result<()> {
        self.state().remove(path)
    }

    // --- the end of the process -----------------------------------------------------------------------------------

    /// A write that was under way when the process ended.
    pub(super) fn cut_write(&self, path: &Path, offset: u64, bytes: &[u8], end: End) {
        let state = &mut *self.state();
        state.marks.add(format!("disk: write under way, {end:?}"));
        let Some(file) = state.files.get_mut(path) else { return };
        match (end, state.rng.below(4)) {
            // The kernel may finish what it was told to do, or have done a part of it.
            (End::Killed, 0) => {}
            (End::Killed, 1) => file.write(offset, bytes, true),
            (End::Killed, _) => {
                let pages = state.rng.below(bytes.len() as u64 / BLOCK as u64 + 1);
                let bytes = &bytes[..usize::try_from(pages).expect("below a length") * BLOCK];
                file.write(offset, bytes, false);
            }
            (End::PowerLost, _) => file.tear(offset, bytes, &mut state.rng),
        }
    }

    /// A file that was being made.
    pub(super) fn cut_create(&self, path: &Path, bytes: u64) {
        let state = &mut *self.state();
        if state.rng.one_in(3) || state.files.contains_key(path) {
            return;
        }
        let part = if state.rng.one_in(2) { bytes } else { state.rng.below(bytes + 1) };
        state.files.insert(path.to_owned(), SimFile { length: part, ..SimFile::default() });
    }

    /// A file that was being unlinked.
    pub(super) fn cut_remove(&self, path: &Path) {
        let state = &mut *self.state();
        if state.rng.one_in(2) {
            state.files.remove(path);
        }
    }

    /// The machine stopped in the middle of a recovery.
    pub fn cut(&self) {
        self.end(End::PowerLost);
    }

    /// The process is gone; with the power the cache is.
    pub(super) fn end(&self, end: End) {
        let state = &mut *self.state();
        state.power = None;
        state.failed.clear();
        if end == End::PowerLost {
            state.files.values_mut().for_each(SimFile::lose_cache);
        }
    }
}

impl State {
    fn fault(&mut self, op: DiskOp) -> Option<DiskFault> {
        let at = self.faults.iter().position(|(of, _, _)| *of == op)?;
        let (_, well, _) = &mut self.faults[at];
        if *well > 0 {
            *well -= 1;
            return None;
        }
        self.injected += 1;
        let (_, _, fault) = self.faults.remove(at)?;
        self.marks.add(format!("disk: {op:?} {}", name(&fault)));
        Some(fault)
    }

    fn used(&self) -> u64 {
        self.files.values().map(|file| file.length).sum()
    }

    fn create(&mut self, path: &Path, bytes: u64) -> io::Result<()> {
        if let Some(DiskFault::Error(number)) = self.fault(DiskOp::Create) {
            return Err(errno(number));
        }
        if self.room.is_some_and(|room| self.used() + bytes > room) {
            return Err(errno(libc::ENOSPC));
        }
        if self.files.contains_key(path) {
            return Err(errno(libc::EEXIST));
        }
        self.files.insert(path.to_owned(), SimFile { length: bytes, ..SimFile::default() });
        Ok(())
    }

    fn remove(&mut self, path: &Path) -> io::Result<()> {
        match self.fault(DiskOp::Remove) {
            Some(DiskFault::Error(number)) => Err(errno(number)),
            _ => {
                self.failed.remove(path);
                self.files.remove(path).map(drop).ok_or_else(|| errno(libc::ENOENT))
            }
        }
    }

    /// A block that was written, by chance, and a bit in it.
    fn any_block(&mut self) -> Option<(PathBuf, u64, usize)> {
        let written: Vec<(&PathBuf, u64)> =
            self.files.iter().flat_map(|(path, file)| file.blocks.keys().map(move |n| (path, *n))).collect();
        if written.is_empty() {
            return None;
        }
        let (path, number) = *self.rng.pick(&written);
        let path = path.clone();
        let bit = self.rng.below(BLOCK as u64 * 8);
        Some((path, number, usize::try_from(bit).expect("below a block")))
    }

    /// Counts an operation of recovery; whether the power holds, and whether it goes with this one.
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        match &mut self.power {
            None => Ok(()),
            Some(0) => Err(errno(libc::EIO)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    /// Whether the operation that was just counted is the last: it is done in part only.
    fn is_last(&self) -> bool {
        self.power == Some(0)
    }
}

impl Disk for SimDisk {
    fn create_folder(&self, _: &Path) -> io::Result<()> {
        self.state().step()
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        state.step()?;
        let here = state.files.keys().filter(|path| path.parent() == Some(folder));
        Ok(here.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect())
    }

    fn read(&self, path: &Path, into: &mut Vec<u8>) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        if let Some(DiskFault::Error(number)) = state.fault(DiskOp::Read) {
            return Err(errno(number));
        }
        let file = state.files.get(path).ok_or_else(|| errno(libc::ENOENT))?;
        into.clear();
        into.resize(usize::try_from(file.length).map_err(io::Error::other)?, 0);
        file.read(0, into)
    }

    fn write_sync(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let state = &mut *self.state();
        state.step()?;
        let last = state.is_last();
        let file = state.files.get_mut(path).ok_or_else(|| errno(libc::ENOENT))?;
        if last {
            file.tear(offset, bytes, &mut state.rng);
            return Err(errno(libc::EIO));
        }
        file.write(offset, bytes, true);
        Ok(())
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let last = state.is_last();
        let file = state.files.get_mut(path).ok_or_else(|| errno(libc::ENOENT))?;
        if last {
            return Err(errno(libc::EIO));
        }
        file.sync();
        Ok(())
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        if state.is_last() && !state.files.contains_key(path) {
            let part = state.rng.below(bytes + 1);
            state.files.insert(path.to_owned(), SimFile { length: part, ..SimFile::default() });
            return Err(errno(libc::EIO));
        }
        state.create(path, bytes)
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        let file = state.files.get(from).cloned().ok_or_else(|| errno(libc::ENOENT))?;
        if !state.is_last() || state.rng.one_in(2) {
            // The copy is made under another name and renamed: there or not.
            state.files.entry(to.to_owned()).or_insert(SimFile {
                medium: BTreeMap::new(),
                lost: BTreeSet::new(),
                ..file
            });
        }
        if state.is_last() { Err(errno(libc::EIO)) } else { Ok(()) }
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.step()?;
        if !state.is_last() || state.rng.one_in(2) {
            state.remove(path)?;
        }
        if state.is_last() { Err(errno(libc::EIO)) } else { Ok(()) }
    }

    fn lock(&self, _: &Path, _: bool) -> io::Result<Option<Lock>> {
        self.state().step()?;
        Ok(Some(Lock::none()))
    }
}
