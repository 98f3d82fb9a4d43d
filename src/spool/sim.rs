//! Tests only: a disk in memory, and a world of logs over it that crashes when told, with torn writes, and knows what was
//! promised.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::message::{Envelope, MessageId};
use crate::rt::buffer::BLOCK;
use crate::rt::disk::{Disk, Lock};
use crate::time::{Moment, Now, Wall};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

/// splitmix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        log::mix(self.0)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Default)]
pub struct MemDisk {
    pub files: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
    /// Segments that fit.
    pub limit: Mutex<Option<usize>>,
    /// What was written, read back well, and never came to the disk, because its sync failed: places, and what the disk
    /// has there. Syncing the file again, with success, changes nothing about that.
    pub unsynced: Mutex<Vec<Unsynced>>,
    /// A server has the lock.
    pub served: Mutex<bool>,
    /// Files that are listed, and are removed before they can be opened.
    pub vanishing: Mutex<Vec<String>>,
}

/// A file, the place in it, and the bytes that a power failure brings back.
type Unsynced = (PathBuf, usize, Vec<u8>);

fn not_found() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOENT)
}

impl MemDisk {
    /// A write whose sync fails.
    pub fn write_unsynced(&self, path: &Path, offset: u64, bytes: &[u8]) {
        let at = offset as usize;
        let before = self.files.lock().unwrap()[path][at..at + bytes.len()].to_vec();
        self.write(path, offset, bytes);
        self.unsynced.lock().unwrap().push((path.to_owned(), at, before));
    }

    pub fn lose_power(&self) {
        for (path, at, before) in self.unsynced.lock().unwrap().drain(..).rev() {
            if let Some(file) = self.files.lock().unwrap().get_mut(&path) {
                file[at..at + before.len()].copy_from_slice(&before);
            }
        }
    }

    pub fn write(&self, path: &Path, offset: u64, bytes: &[u8]) {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        self.unsynced.lock().unwrap().retain(|(file, at, b)| file != path || at + b.len() <= start || *at >= end);
        let mut files = self.files.lock().unwrap();
        let file = files.get_mut(path).expect("the log writes to files it created");
        let at = offset as usize;
        file.resize(file.len().max(at + bytes.len()), 0);
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

impl Disk for MemDisk {
    fn create_folder(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let files = self.files.lock().unwrap();
        let here = files.keys().filter(|p| p.parent() == Some(folder));
        let names = here.map(|p| p.file_name().unwrap().to_str().unwrap().to_owned());
        Ok(names.chain(self.vanishing.lock().unwrap().iter().cloned()).collect())
    }
    fn read(&self, path: &Path, into: &mut Vec<u8>) -> io::Result<()> {
        into.clear();
        into.extend_from_slice(self.files.lock().unwrap().get(path).ok_or_else(not_found)?);
        Ok(())
    }
    fn write_sync(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write(path, offset, bytes);
        Ok(())
    }
    fn sync(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn create(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        if self.limit.lock().unwrap().is_some_and(|l| files.len() >= l) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        assert!(files.insert(path.to_owned(), vec![0; bytes as usize]).is_none(), "numbers are used once");
        Ok(())
    }
    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut files = self.files.lock().unwrap();
        let bytes = files.get(from).ok_or_else(not_found)?.clone();
        files.entry(to.to_owned()).or_insert(bytes);
        Ok(())
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.unsynced.lock().unwrap().retain(|(file, ..)| file != path);
        self.files.lock().unwrap().remove(path).map(|_| ()).ok_or_else(not_found)
    }
    fn lock(&self, _: &Path, _: bool) -> io::Result<Option<Lock>> {
        Ok((!*self.served.lock().unwrap()).then(Lock::none))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Submitted; neither acknowledged nor refused.
    Submitted,
    /// Promised.
    Acked,
    Refused,
    /// Wholly settled, but perhaps not durably.
    Settling,
    Settled,
}

#[derive(Clone, Debug)]
pub struct Known {
    pub state: State,
    pub recipients: u16,
    /// Outcomes told to the log; those told before the last quiet moment are durable.
    pub done: Vec<bool>,
    pub durably_done: Vec<bool>,
    /// Sizes of the chunks; empty for a whole body.
    pub chunks: Vec<usize>,
    pub body: usize,
    pub home: usize,
}

pub struct World {
    pub rng: Rng,
    pub disk: MemDisk,
    pub geometry: Geometry,
    pub logs: Vec<Log>,
    pub names: Vec<HashMap<FileNo, String>>,
    pub writes: Vec<(usize, Effect)>,
    /// Files being removed, should that take its time: a crash finds them there or not.
    pub removes: Vec<(usize, FileNo, String)>,
    pub slow_removes: bool,
    pub known: BTreeMap<MessageId, Known>,
    pub now: Now,
    pub damage: Vec<Damage>,
    pub fail_writes: Option<FileError>,
    pub failures: usize,
    /// Files of this run in which a write or its sync failed.
    pub failed: std::collections::BTreeSet<(usize, u32)>,
    pub events: Vec<Event>,
    pub reads: HashMap<u64, Option<Result<Vec<u8>, ReadError>>>,
    pub writes_done: usize,
}

pub const FOLDER: &str = "/spool";

pub fn small() -> Geometry {
    Geometry {
        segment_bytes: 128 << 10,
        commit_bytes: 32 << 10,
        chunk_bytes: 8 << 10,
        reserve_bytes: 16 << 10,
        last_reserve_bytes: 4096,
    }
}

/// Byte `at` of the body of `id`.
fn body_byte(id: MessageId, at: usize) -> u8 {
    (id.0 >> 10).wrapping_mul(31).wrapping_add(at as u64 * 7) as u8
}

pub fn body(id: MessageId, range: std::ops::Range<usize>) -> Vec<u8> {
    range.map(|at| body_byte(id, at)).collect()
}

pub const TRACE: &[u8] = b"Received: from test\r\n";

pub fn envelope(recipients: u16) -> Envelope {
    let mut e = Envelope::default();
    e.set_sender(b"sender@example.org");
    for i in 0..recipients {
        let address = format!("r{i}@d{i}.example");
        e.add_recipient(address.as_bytes(), address.find('@').unwrap() + 1);
    }
    e
}

impl World {
    pub fn new(seed: u64, shards: u16, geometry: Geometry) -> World {
        let mut world = World {
            rng: Rng(seed),
            disk: MemDisk::default(),
            geometry,
            logs: Vec::new(),
            names: Vec::new(),
            writes: Vec::new(),
            removes: Vec::new(),
            slow_removes: false,
            known: BTreeMap::new(),
            now: Now { mono: Moment(1), wall: Wall(1_700_000_000_000) },
            damage: Vec::new(),
            fail_writes: None,
            failures: 0,
            failed: Default::default(),
            events: Vec::new(),
            reads: HashMap::new(),
            writes_done: 0,
        };
        world.start(shards);
        world
    }

    /// Recovers and checks what was found against what is known.
    pub fn start(&mut self, shards: u16) {
        let options =
            Options { shards, wall: self.now.wall, seed: self.rng.next(), geometry: self.geometry, scan_threads: 1 };
        let recovery = recover(&self.disk, Path::new(FOLDER), options).expect("the disk is readable");
        self.damage = recovery.damage.clone();
        self.logs.clear();
        self.names.clear();
        self.failed.clear();
        self.writes.clear();
        let mut seen = BTreeMap::new();
        for recovered in &recovery.shards {
            for message in recovered.messages() {
                let pending: Vec<u16> = message.pending().map(|r| r.index).collect();
                assert!(seen.insert(message.id(), (recovered.shard, pending)).is_none(), "one home a message");
            }
            self.logs.push(Log::new(recovered, self.rng.next(), self.geometry));
            self.names.push(HashMap::new());
        }
        for (id, (_, pending)) in &seen {
            let known = self.known.get(id).unwrap_or_else(|| panic!("{id} was invented"));
            assert!(known.state != State::Settled, "{id} was settled durably and came back");
            for index in pending {
                assert!(!known.durably_done[usize::from(*index)], "{id}: recipient {index} lost its outcome");
            }
        }
        let ids: Vec<MessageId> = self.known.keys().copied().collect();
        for id in ids {
            let known = self.known.get_mut(&id).unwrap();
            match seen.get(&id) {
                Some((home, pending)) => {
                    known.state = State::Acked;
                    known.home = usize::from(*home);
                    for index in 0..known.recipients {
                        let done = !pending.contains(&index);
                        assert!(!done || known.done[usize::from(index)], "{id}: an outcome was invented");
                        known.done[usize::from(index)] = done;
                        // It will be told again only from what is durable now.
                        known.durably_done[usize::from(index)] = done;
                        assert_eq!(self.logs[usize::from(*home)].is_done(id, index), done);
                    }
                }
                None => {
                    assert!(known.state != State::Acked, "{id} was acknowledged and is lost");
                    known.state = State::Settled;
                }
            }
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(FOLDER).join(name)
    }

    /// Polls every log until nothing but writes is left to do.
    pub fn turn(&mut self) {
        for shard in 0..self.logs.len() {
            loop {
                while let Some(effect) = self.logs[shard].poll_effect(self.now) {
                    self.start_effect(shard, effect);
                }
                if !self.events(shard) {
                    break;
                }
            }
        }
    }

    fn start_effect(&mut self, shard: usize, effect: Effect) {
        match effect {
            Effect::Write { file, .. } => {
                assert!(!self.failed.contains(&(shard, file.0)), "a failed segment is never written to again");
                assert!(self.writes.iter().all(|(s, _)| *s != shard), "one write at a time");
                self.writes.push((shard, effect));
            }
            Effect::Read { token, file, offset, mut buffer } => {
                let path = self.path(&self.names[shard][&file]);
                {
                    let files = self.disk.files.lock().unwrap();
                    let at = offset as usize;
                    let len = buffer.len();
                    buffer.as_mut().copy_from_slice(&files[&path][at..at + len]);
                }
                self.logs[shard].handle_read(token, Ok(buffer));
            }
            Effect::Create { file, name, bytes } => {
                let result = self.disk.create(&self.path(&name), u64::from(bytes));
                self.names[shard].insert(file, name);
                self.logs[shard].handle_created(file, result.map_err(|e| FileError::from_io(&e)));
            }
            Effect::Open { file, name } => {
                self.names[shard].insert(file, name);
                self.logs[shard].handle_opened(file, Ok(()));
            }
            Effect::Remove { file, name } => {
                self.removes.push((shard, file, name));
                if !self.slow_removes {
                    self.complete_removes();
                }
            }
        }
    }

    pub fn complete_removes(&mut self) {
        for (shard, file, name) in std::mem::take(&mut self.removes) {
            let result = self.disk.remove(&self.path(&name));
            self.names[shard].remove(&file);
            self.failed.remove(&(shard, file.0));
            self.logs[shard].handle_removed(file, result.map_err(|e| FileError::from_io(&e)));
        }
    }

    fn events(&mut self, shard: usize) -> bool {
        let mut any = false;
        while let Some(event) = self.logs[shard].poll_event() {
            any = true;
            match event {
                Event::Durable { id, record, waiter } => {
                    assert_eq!(waiter, id.0);
                    let known = self.known.get_mut(&id).unwrap();
                    known.state = State::Acked;
                    check_record(id, known, &record);
                }
                Event::Refused { id, .. } => self.known.get_mut(&id).unwrap().state = State::Refused,
                Event::Read { token, result } => {
                    self.reads.insert(token, Some(result.map(|s| s.to_vec())));
                }
                other => self.events.push(other),
            }
        }
        any
    }

    /// Ends the write in flight number `index`.
    pub fn complete(&mut self, index: usize) {
        let (shard, effect) = self.writes.remove(index);
        let Effect::Write { token, file, offset, buffer, start } = effect else { panic!("only writes wait") };
        if let Some(error) = self.fail_writes {
            // What a failed write leaves on the disk is anything.
            self.failures += 1;
            self.failed.insert((shard, file.0));
            self.tear(shard, file, offset, &buffer[start..]);
            self.logs[shard].handle_written(token, Err(error));
            return;
        }
        self.writes_done += 1;
        self.disk.write(&self.path(&self.names[shard][&file]), offset, &buffer[start..]);
        self.logs[shard].handle_written(token, Ok(()));
    }

    /// Fails the sync of the write in flight number `index`: it reads back, until the power fails.
    pub fn fail_sync(&mut self, index: usize) {
        let (shard, effect) = self.writes.remove(index);
        let Effect::Write { token, file, offset, buffer, start } = effect else { panic!("only writes wait") };
        self.failed.insert((shard, file.0));
        self.disk.write_unsynced(&self.path(&self.names[shard][&file]), offset, &buffer[start..]);
        self.logs[shard].handle_written(token, Err(FileError::Io(libc::EIO)));
    }

    fn tear(&mut self, shard: usize, file: FileNo, offset: u64, bytes: &[u8]) {
        let path = self.path(&self.names[shard][&file]);
        let how = self.rng.below(5);
        for (i, block) in bytes.chunks(BLOCK).enumerate() {
            let at = offset + (i * BLOCK) as u64;
            match how {
                0 => {}
                1 => self.disk.write(&path, at, block),
                _ if self.rng.one_in(2) => self.disk.write(&path, at, block),
                _ if self.rng.one_in(3) && at != 0 => {
                    let random: Vec<u8> = (0..block.len()).map(|_| self.rng.next() as u8).collect();
                    self.disk.write(&path, at, &random);
                }
                _ if at != 0 => {
                    // Part of a block, as sectors go.
                    let part = self.rng.below(9) as usize * 512;
                    self.disk.write(&path, at, &block[..part]);
                }
                _ => {}
            }
        }
    }

    /// The process ends: writes in flight are torn in some way. Then it starts anew.
    pub fn crash(&mut self, shards: u16) {
        self.stop();
        self.start(shards);
    }

    /// The first half of that.
    pub fn stop(&mut self) {
        for (_, _, name) in std::mem::take(&mut self.removes) {
            if self.rng.one_in(2) {
                self.disk.remove(&self.path(&name)).unwrap();
            }
        }
        for (shard, effect) in std::mem::take(&mut self.writes) {
            if let Effect::Write { file, offset, buffer, start, .. } = effect {
                self.tear(shard, file, offset, &buffer[start..]);
            }
        }
    }

    /// Until nothing is left to write: then every outcome is durable.
    pub fn quiesce(&mut self) {
        for _ in 0..200 {
            for log in &mut self.logs {
                log.flush();
            }
            self.turn();
            if self.writes.is_empty() && self.logs.iter().all(Log::is_idle) {
                for known in self.known.values_mut() {
                    known.durably_done = known.done.clone();
                    if known.state == State::Settling {
                        known.state = State::Settled;
                    }
                }
                return;
            }
            while !self.writes.is_empty() {
                self.complete(0);
            }
            self.advance(10);
        }
        panic!("the logs do not come to rest");
    }

    pub fn advance(&mut self, millis: u64) {
        self.now = Now { mono: self.now.mono + Duration::from_millis(millis), wall: Wall(self.now.wall.0 + millis) };
        for log in &mut self.logs {
            log.handle_timeout(self.now);
        }
    }

    pub fn accept(&mut self, shard: usize, recipients: u16, bytes: usize) -> Result<MessageId, Refusal> {
        let id = self.logs[shard].next_id(self.now.wall);
        let envelope = envelope(recipients);
        let content = body(id, 0..bytes);
        let message = NewMessage {
            id,
            envelope: &envelope,
            accepted: self.now.wall,
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            params: b"",
            trace: TRACE,
            body: Body::Whole(&content),
        };
        self.logs[shard].accept(&message, id.0)?;
        self.submitted(id, shard, recipients, bytes, Vec::new());
        Ok(id)
    }

    pub fn submitted(&mut self, id: MessageId, home: usize, recipients: u16, body: usize, chunks: Vec<usize>) {
        let done = vec![false; usize::from(recipients)];
        let known =
            Known { state: State::Submitted, recipients, done: done.clone(), durably_done: done, chunks, body, home };
        self.known.insert(id, known);
    }

    pub fn accept_streamed(&mut self, shard: usize, chunks: &[usize]) -> Result<MessageId, Refusal> {
        let id = self.logs[shard].next_id(self.now.wall);
        let envelope = envelope(2);
        let mut at = 0;
        for bytes in chunks {
            let piece = body(id, at..at + bytes);
            at += bytes;
            loop {
                match self.logs[shard].stream_chunk(id, &piece) {
                    Ok(()) => break,
                    Err(Refusal::Busy) if !self.writes.is_empty() => {
                        self.complete(0);
                        self.turn();
                    }
                    Err(why) => {
                        self.logs[shard].stream_abort(id);
                        return Err(why);
                    }
                }
            }
            if self.rng.one_in(2) {
                self.turn();
            }
        }
        let message = NewMessage {
            id,
            envelope: &envelope,
            accepted: self.now.wall,
            peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
            params: b"",
            trace: TRACE,
            body: Body::Streamed,
        };
        if let Err(why) = self.logs[shard].accept(&message, id.0) {
            self.logs[shard].stream_abort(id);
            return Err(why);
        }
        self.submitted(id, shard, 2, at, chunks.to_vec());
        Ok(id)
    }

    pub fn settle(&mut self, id: MessageId, index: u16) -> Settled {
        let known = self.known.get_mut(&id).unwrap();
        let settled = self.logs[known.home].settle(id, index, Outcome::Delivered);
        if settled != Settled::Unknown {
            known.done[usize::from(index)] = true;
        }
        if settled == Settled::Wholly {
            known.state = State::Settling;
        }
        settled
    }

    pub fn live(&self) -> Vec<MessageId> {
        self.known.iter().filter(|(_, k)| k.state == State::Acked).map(|(id, _)| *id).collect()
    }

    /// Settles what is left of a message.
    pub fn finish(&mut self, id: MessageId) {
        for index in 0..self.known[&id].recipients {
            if !self.known[&id].done[usize::from(index)] {
                assert_ne!(self.settle(id, index), Settled::Unknown);
            }
        }
    }

    /// Reads all parts of a live message and compares them.
    pub fn check_content(&mut self, id: MessageId) {
        let known = self.known[&id].clone();
        let parts = u32::try_from(known.chunks.len()).unwrap();
        assert_eq!(self.logs[known.home].chunk_count(id), Some(parts), "{id}");
        let mut at = 0;
        for part in 0..=parts {
            let token = self.rng.next();
            self.reads.insert(token, None);
            self.logs[known.home].read(id, part, token);
            self.turn();
            let record = self.reads.remove(&token).unwrap().expect("reads end at once").expect("the record is there");
            if part == 0 {
                check_record(id, &known, &record);
            } else {
                let bytes = known.chunks[part as usize - 1];
                assert_eq!(chunk_data(&record).unwrap(), body(id, at..at + bytes), "{id} part {part}");
                at += bytes;
            }
        }
    }
}

pub fn check_record(id: MessageId, known: &Known, record: &[u8]) {
    let view = RecordView::parse(record).unwrap();
    assert_eq!(view.id(), id);
    assert_eq!(view.recipient_count(), usize::from(known.recipients));
    assert_eq!(view.sender(), b"sender@example.org");
    assert_eq!(view.total_size(), (TRACE.len() + known.body) as u64);
    for r in view.recipients() {
        assert_eq!(r.address, format!("r{0}@d{0}.example", r.index).as_bytes());
        assert_eq!(r.domain, format!("d{0}.example", r.index).as_bytes());
    }
    let mut data = TRACE.to_vec();
    if known.chunks.is_empty() {
        data.extend(body(id, 0..known.body));
    }
    assert_eq!(view.data(), data, "{id}");
    assert_eq!(view.chunk_count() as usize, known.chunks.len());
}
