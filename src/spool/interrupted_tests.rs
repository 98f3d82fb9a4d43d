//! Recovery that is itself cut short, at each operation on the disk: the next one finds what this one would have.
#![allow(clippy::unwrap_used)]

use super::sim::*;
use super::tests::weather;
use super::*;
use crate::message::MessageId;
use crate::rt::buffer::BLOCK;
use crate::rt::disk::{Disk, Lock};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// A disk that dies in the middle of its change number `left`, and does nothing from then on.
struct Dying<'a> {
    disk: &'a MemDisk,
    left: Mutex<usize>,
    rng: Mutex<Rng>,
}

/// How an operation goes.
#[derive(PartialEq)]
enum Goes {
    Well,
    /// The process ends in it: some of it happens.
    HalfWay,
}

impl Dying<'_> {
    fn begin(&self) -> io::Result<Goes> {
        let mut left = self.left.lock().unwrap();
        let goes = match *left {
            0 => return Err(io::Error::from_raw_os_error(libc::EIO)),
            1 => Goes::HalfWay,
            _ => Goes::Well,
        };
        *left -= 1;
        Ok(goes)
    }

    fn alive(&self) -> io::Result<()> {
        if *self.left.lock().unwrap() == 0 { Err(io::Error::from_raw_os_error(libc::EIO)) } else { Ok(()) }
    }

    fn perhaps(&self) -> bool {
        self.rng.lock().unwrap().one_in(2)
    }

    /// `whole` if the operation goes well; else `half`, and the end.
    fn act(&self, whole: impl FnOnce() -> io::Result<()>, half: impl FnOnce()) -> io::Result<()> {
        match self.begin()? {
            Goes::Well => whole(),
            Goes::HalfWay => {
                half();
                Err(io::Error::from_raw_os_error(libc::EIO))
            }
        }
    }
}

impl Disk for Dying<'_> {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.act(|| self.disk.create_folder(path), || {})
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        self.alive()?;
        self.disk.list(folder)
    }
    fn read(&self, path: &Path, into: &mut Vec<u8>) -> io::Result<()> {
        self.alive()?;
        self.disk.read(path, into)
    }
    fn write_sync(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let torn = || {
            for (at, block) in (offset..).step_by(BLOCK).zip(bytes.chunks(BLOCK)) {
                if self.perhaps() {
                    self.disk.write(path, at, block);
                }
            }
        };
        self.act(|| self.disk.write_sync(path, offset, bytes), torn)
    }
    fn sync(&self, path: &Path) -> io::Result<()> {
        self.act(|| self.disk.sync(path), || {})
    }
    fn create(&self, path: &Path, bytes: u64) -> io::Result<()> {
        // Nothing, the name only, a part, or all of it.
        let length = bytes / 4096 * self.rng.lock().unwrap().below(4) / 3 * 4096;
        let part = || {
            if self.perhaps() {
                self.disk.create(path, length).unwrap();
            }
        };
        self.act(|| self.disk.create(path, bytes), part)
    }
    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let renamed = || {
            if self.perhaps() {
                self.disk.copy(from, to).unwrap();
            }
        };
        self.act(|| self.disk.copy(from, to), renamed)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        let unlinked = || {
            if self.perhaps() {
                self.disk.remove(path).unwrap();
            }
        };
        self.act(|| self.disk.remove(path), unlinked)
    }
    fn lock(&self, path: &Path, create: bool) -> io::Result<Option<Lock>> {
        self.alive()?;
        self.disk.lock(path, create)
    }
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

fn disk(files: &Files) -> MemDisk {
    let disk = MemDisk::default();
    disk.files.lock().unwrap().clone_from(files);
    disk
}

/// The messages, with the recipients that wait.
fn waiting(recovery: &Recovery) -> BTreeMap<MessageId, Vec<u16>> {
    let messages = recovery.shards.iter().flat_map(Recovered::messages);
    messages.map(|m| (m.id(), m.pending().map(|r| r.index).collect())).collect()
}

/// Recovery of `files` is ended in each change it makes in turn, and then done; the world goes on from there. Returns the
/// number of changes.
fn interrupt(w: &mut World, files: &Files, shards: u16) -> usize {
    let folder = Path::new(FOLDER);
    let options = Options { shards, wall: w.now.wall, seed: w.rng.next(), geometry: w.geometry, scan_threads: 1 };
    let undisturbed = recover(&disk(files), folder, options).unwrap();
    let known = w.known.clone();
    for stop in 1.. {
        let disk = disk(files);
        let rng = Mutex::new(Rng(w.rng.next()));
        let dying = Dying { disk: &disk, left: Mutex::new(stop), rng };
        if recover(&dying, folder, options).is_ok() {
            return stop - 1;
        }
        let copy = self::disk(&disk.files.lock().unwrap());
        let again = recover(&copy, folder, options).unwrap();
        assert_eq!(waiting(&again), waiting(&undisturbed), "ended in operation {stop}");
        // What that one wrote goes together with what the one that was cut off had written.
        let third = recover(&copy, folder, options).unwrap();
        assert_eq!(waiting(&third), waiting(&undisturbed), "ended in operation {stop}, then twice more");
        assert_eq!(again.damage.is_empty(), undisturbed.damage.is_empty(), "in operation {stop}: {:?}", again.damage);
        w.known.clone_from(&known);
        w.disk = disk;
        w.start(shards);
        for id in w.live() {
            w.check_content(id);
        }
    }
    unreachable!("recovery ends")
}

#[test]
fn recovery_may_end_in_any_of_its_operations() {
    let mut changes = 0;
    for seed in 0..12 {
        let mut w = World::new(seed, 1 + (seed % 4) as u16, small());
        weather(&mut w, 120);
        w.stop();
        let files = w.disk.files.lock().unwrap().clone();
        let known = w.known.clone();
        for shards in 1..=4 {
            changes += interrupt(&mut w, &files, shards);
            w.known.clone_from(&known);
        }
    }
    assert!(changes > 200, "{changes}");
}

/// A large body in two segments of log 3, which shard 1 of 2 moves to its own log; the files as they were before each
/// write.
fn while_moving() -> (World, Vec<Files>) {
    let mut w = World::new(1, 4, small());
    for _ in 0..8 {
        w.accept(3, 1, 7000).unwrap();
    }
    w.quiesce();
    let body = w.accept_streamed(3, &[8000; 12]).unwrap();
    w.quiesce();
    w.crash(2);
    let mut snapshots = Vec::new();
    for _ in 0..60 {
        for _ in 0..4 {
            w.accept(1, 1, 6000).unwrap();
        }
        w.advance(60);
        w.turn();
        while !w.writes.is_empty() {
            snapshots.push(w.disk.files.lock().unwrap().clone());
            w.complete(0);
            w.turn();
        }
        for id in w.live() {
            if id != body {
                w.finish(id);
            }
        }
    }
    w.quiesce();
    assert_eq!(w.live(), [body]);
    (w, snapshots)
}

#[test]
fn a_body_in_two_logs_survives_an_interrupted_recovery() {
    let (w, snapshots) = while_moving();
    let folder = Path::new(FOLDER);
    let body = w.live()[0];
    // Log 3 goes to shard 3, log 1 to shard 1.
    let options = Options { shards: 5, wall: w.now.wall, seed: 1, geometry: w.geometry, scan_threads: 1 };
    let mut brought = 0;
    for (n, files) in snapshots.iter().enumerate() {
        let alive = |disk: &dyn Disk| recover(disk, folder, options).map(|r| waiting(&r).contains_key(&body));
        for stop in 1.. {
            let disk = disk(files);
            let dying = Dying { disk: &disk, left: Mutex::new(stop), rng: Mutex::new(Rng(stop as u64)) };
            if alive(&dying).is_ok() {
                brought += usize::from(stop > 5);
                break;
            }
            assert!(alive(&disk).unwrap(), "before write {n}, ended in change {stop}");
        }
    }
    assert!(brought > 0, "{brought}");
}
