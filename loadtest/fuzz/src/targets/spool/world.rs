//! Logs over a disk in memory, and what was promised about each message.

use crate::memory_disk::{Files, MemoryDisk};
use ringpost::message::{Envelope, MessageId};
use ringpost::rt::buffer::BLOCK;
use ringpost::rt::disk::Disk;
use ringpost::spool::recover::QUARANTINE;
use ringpost::spool::{
    Body, Effect, Event, FileError, FileNo, Geometry, Log, NewMessage, Options, Outcome, RecordView, Recovery,
    RecoveryError, Settled, chunk_data, recover,
};
use ringpost::time::{Moment, Now, Wall};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where all files stand.
pub const FOLDER: &str = "/spool";
/// Small, so that a few messages fill segments.
pub const GEOMETRY: Geometry = Geometry {
    segment_bytes: 40 << 10,
    commit_bytes: 8 << 10,
    chunk_bytes: 8 << 10,
    reserve_bytes: 8 << 10,
    last_reserve_bytes: 4096,
};

const TRACE: &[u8] = b"Received: from test\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Neither acknowledged nor refused.
    Submitted,
    Acknowledged,
    Refused,
    /// Submitted, and gone in a crash: nothing was promised, and its id may come again.
    Gone,
    /// Every outcome was told; perhaps not durably.
    Settling,
    /// Durably settled.
    Settled,
}

#[derive(Clone, Debug)]
struct Known {
    state: State,
    accepted: Wall,
    /// Outcomes told to the log, and those that are durable.
    done: Vec<bool>,
    durable: Vec<bool>,
    /// Body bytes: in the record, or in each chunk.
    body: usize,
    chunks: Vec<usize>,
    home: usize,
}

/// What one recovery found: recipients without outcome, by message.
type Pending = BTreeMap<MessageId, Vec<u16>>;

/// Everything.
pub struct World {
    pub disk: MemoryDisk,
    pub shards: usize,
    /// No log runs: the disk may be damaged.
    pub stopped: bool,
    /// Something was damaged: mail may be lost, but not changed.
    pub damaged: bool,
    /// Checksums were made to fit: what is found may be anything.
    pub forged: bool,
    logs: Vec<Log>,
    names: Vec<BTreeMap<u32, String>>,
    writes: Vec<(usize, Effect)>,
    known: BTreeMap<MessageId, Known>,
    reads: BTreeMap<u64, Vec<u8>>,
    now: Now,
    starts: u64,
}

fn envelope(recipients: usize) -> Envelope {
    let mut envelope = Envelope::default();
    envelope.set_sender(b"sender@example.org");
    for i in 0..recipients {
        let address = format!("r{i}@d{i}.example");
        envelope.add_recipient(address.as_bytes(), address.len() - 10);
    }
    envelope
}

fn body(id: MessageId, at: usize, bytes: usize) -> Vec<u8> {
    (at..at + bytes).map(|at| (id.0 >> 10).wrapping_mul(31).wrapping_add(at as u64 * 7) as u8).collect()
}

impl World {
    /// An empty spool with running logs.
    pub fn new(shards: usize) -> World {
        let mut world = World {
            disk: MemoryDisk::default(),
            shards,
            stopped: true,
            damaged: false,
            forged: false,
            logs: Vec::new(),
            names: Vec::new(),
            writes: Vec::new(),
            known: BTreeMap::new(),
            reads: BTreeMap::new(),
            now: Now { mono: Moment(1), wall: Wall(1_700_000_000_000) },
            starts: 0,
        };
        assert!(world.start_if_stopped(), "an empty folder can be used");
        world
    }

    // --- Stop and start -------------------------------------------------------------------------------------------

    /// The process ends; bits of `how` say which blocks of the writes in flight are on the disk.
    pub fn crash(&mut self, how: u8) {
        for (shard, effect) in std::mem::take(&mut self.writes) {
            let Effect::Write { file, offset, buffer, start, .. } = effect else { continue };
            for (i, block) in buffer[start..].chunks(BLOCK).enumerate() {
                if how >> (i % 8) & 1 == 1 {
                    self.write(shard, file, offset + (i * BLOCK) as u64, block);
                }
            }
        }
        self.logs.clear();
        self.stopped = true;
    }

    /// Recovers and checks; false if the spool is refused, as it may be when forged.
    pub fn start_if_stopped(&mut self) -> bool {
        if !self.stopped {
            return true;
        }
        self.stopped = false;
        self.starts += 1;
        if self.damaged {
            // An id of which damage left nothing may come again in the same millisecond. That is no promise broken, but
            // two messages by one name are more than is known here.
            self.now.wall.0 += 1000;
        }
        let before = self.disk.files().clone();
        let recovery = match self.recover(&self.disk) {
            Ok(recovery) => recovery,
            Err(error) => {
                // The numbers of files have run out, or another version wrote it. Neither may cost a byte.
                let allowed = matches!(&error, RecoveryError::Version { .. } | RecoveryError::Io { .. });
                assert!(allowed && self.damaged, "{error}");
                let after = self.disk.files();
                assert!(self.forged || before.iter().all(|(p, b)| after.get(p) == Some(b)), "{error}");
                return false;
            }
        };
        self.check_quarantine(&before, &recovery);
        let pending = pending(&recovery);
        let after = self.disk.files().clone();
        let again = MemoryDisk::with(after);
        let second = self.recover(&again).expect("what recovery left can be recovered");
        if !self.forged {
            assert_eq!(pending, self::pending(&second), "recovering again finds the same");
        }
        if !self.forged {
            self.check_found(&pending, &recovery);
        }
        self.logs.clear();
        self.names.clear();
        self.writes.clear();
        for recovered in &recovery.shards {
            self.logs.push(Log::new(recovered, self.starts, GEOMETRY));
            self.names.push(BTreeMap::new());
        }
        self.turn();
        if !self.forged {
            for id in pending.keys() {
                self.check_content(*id);
            }
        }
        true
    }

    fn recover(&self, disk: &dyn Disk) -> Result<Recovery, RecoveryError> {
        let shards = u16::try_from(self.shards).expect("a few");
        let options = Options { shards, wall: self.now.wall, seed: self.starts, geometry: GEOMETRY, scan_threads: 1 };
        recover(disk, Path::new(FOLDER), options)
    }

    /// Nothing unreadable is deleted, and what is in quarantine stays as it is.
    fn check_quarantine(&self, before: &Files, recovery: &Recovery) {
        let after = self.disk.files();
        let quarantine = Path::new(FOLDER).join(QUARANTINE);
        let kept: Vec<&Vec<u8>> = after.iter().filter(|(p, _)| p.starts_with(&quarantine)).map(|(_, b)| b).collect();
        for (path, bytes) in before {
            if path.starts_with(&quarantine) {
                assert_eq!(after.get(path), Some(bytes), "{} changed", path.display());
            }
        }
        for damage in &recovery.damage {
            let name = ringpost::spool::log::segment_name(damage.number);
            let bytes = &before[&Path::new(FOLDER).join(name)];
            // One life of a segment has one copy, the first.
            let of_life = format!("seg-{:08x}-{:016x}.log", damage.number, damage.sequence);
            let was_kept = damage.sequence > 0 && before.contains_key(&quarantine.join(of_life));
            assert!(was_kept || kept.contains(&bytes), "{damage}: its bytes are gone");
        }
        assert!(self.damaged || recovery.damage.is_empty(), "{:?}", recovery.damage);
    }

    fn check_found(&mut self, found: &Pending, recovery: &Recovery) {
        for message in recovery.shards.iter().flat_map(|s| s.messages()) {
            let id = message.id();
            let known = self.known.get(&id).unwrap_or_else(|| panic!("{id} was invented"));
            assert_eq!(message.sender(), b"sender@example.org");
            assert_eq!(message.recipient_count(), known.done.len());
            assert_eq!((message.accepted(), message.chunk_count() as usize), (known.accepted, known.chunks.len()));
            for recipient in message.pending() {
                assert_eq!(recipient.address, format!("r{0}@d{0}.example", recipient.index).as_bytes());
            }
        }
        let homes: BTreeMap<MessageId, usize> = recovery
            .shards
            .iter()
            .flat_map(|s| s.messages().map(|m| (m.id(), usize::from(s.shard))).collect::<Vec<_>>())
            .collect();
        for (id, known) in &mut self.known {
            match found.get(id) {
                Some(pending) => {
                    assert!(self.damaged || known.state != State::Settled, "{id} was settled and came back");
                    assert!(self.damaged || known.state != State::Refused, "{id} was refused and came back");
                    for index in 0..known.done.len() {
                        let done = !pending.contains(&(index as u16));
                        assert!(!done || known.done[index], "{id}: an outcome was invented");
                        assert!(self.damaged || done || !known.durable[index], "{id}: an outcome was forgotten");
                        known.done[index] = done;
                        known.durable[index] = done;
                    }
                    known.state = State::Acknowledged;
                    known.home = homes[id];
                }
                None => {
                    assert!(self.damaged || known.state != State::Acknowledged, "{id} was acknowledged and is lost");
                    known.state = match known.state {
                        State::Refused => State::Refused,
                        State::Submitted | State::Gone => State::Gone,
                        _ => State::Settled,
                    };
                }
            }
        }
    }

    /// Reads all parts of a live message and compares them.
    fn check_content(&mut self, id: MessageId) {
        let known = self.known[&id].clone();
        let mut at = 0;
        for part in 0..=u32::try_from(known.chunks.len()).expect("a few") {
            self.logs[known.home].read(id, part, u64::from(part));
            self.turn();
            let record = self.reads.remove(&u64::from(part)).expect("what recovery found can be read");
            if part > 0 {
                let bytes = known.chunks[part as usize - 1];
                assert_eq!(chunk_data(&record), Some(&body(id, at, bytes)[..]), "{id} part {part}");
                at += bytes;
                continue;
            }
            let view = RecordView::parse(&record).expect("a record");
            assert_eq!((view.id(), view.recipient_count()), (id, known.done.len()));
            for r in view.recipients() {
                assert_eq!(r.address, format!("r{0}@d{0}.example", r.index).as_bytes());
            }
            let mut data = TRACE.to_vec();
            data.extend(body(id, 0, known.body));
            assert_eq!(view.data(), data, "{id}");
        }
    }

    // --- What a shard does ----------------------------------------------------------------------------------------

    fn path(&self, name: &str) -> PathBuf {
        Path::new(FOLDER).join(name)
    }

    fn write(&self, shard: usize, file: FileNo, offset: u64, bytes: &[u8]) {
        let path = self.path(&self.names[shard][&file.0]);
        self.disk.write_sync(&path, offset, bytes).expect("the log writes to files it created");
    }

    /// Carries out everything but writes, which wait for `complete`.
    pub fn turn(&mut self) {
        for shard in 0..self.logs.len() {
            let mut rounds = 0;
            loop {
                let mut any = false;
                while let Some(effect) = self.logs[shard].poll_effect(self.now) {
                    any = true;
                    self.effect(shard, effect);
                }
                while let Some(event) = self.logs[shard].poll_event() {
                    any = true;
                    self.event(event);
                }
                if !any {
                    break;
                }
                rounds += 1;
                assert!(rounds < 1000, "a log that does not come to rest");
            }
        }
    }

    fn effect(&mut self, shard: usize, effect: Effect) {
        match effect {
            Effect::Write { .. } => self.writes.push((shard, effect)),
            Effect::Read { token, file, offset, mut buffer } => {
                let path = self.path(&self.names[shard][&file.0]);
                let (at, len) = (offset as usize, buffer.len());
                let found = self.disk.files().get(&path).and_then(|f| f.get(at..at + len)).map(<[u8]>::to_vec);
                let result = match found {
                    Some(bytes) => {
                        buffer.as_mut().copy_from_slice(&bytes);
                        Ok(buffer)
                    }
                    None => Err(FileError::Io(5)),
                };
                self.logs[shard].handle_read(token, result);
            }
            Effect::Create { file, name, bytes } => {
                let result = self.disk.create(&self.path(&name), u64::from(bytes));
                self.names[shard].insert(file.0, name);
                self.logs[shard].handle_created(file, result.map_err(|e| FileError::from_io(&e)));
            }
            Effect::Open { file, name } => {
                self.names[shard].insert(file.0, name);
                self.logs[shard].handle_opened(file, Ok(()));
            }
            Effect::Remove { file, name } => {
                let result = self.disk.remove(&self.path(&name));
                self.names[shard].remove(&file.0);
                self.logs[shard].handle_removed(file, result.map_err(|e| FileError::from_io(&e)));
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Durable { id, .. } => {
                if let Some(known) = self.known.get_mut(&id) {
                    known.state = State::Acknowledged;
                }
            }
            Event::Refused { id, .. } => {
                if let Some(known) = self.known.get_mut(&id) {
                    known.state = State::Refused;
                }
            }
            Event::Read { token, result: Ok(record) } => _ = self.reads.insert(token, record.to_vec()),
            _ => {}
        }
    }

    /// Ends one of the writes in flight.
    pub fn complete(&mut self, which: u8) {
        if self.writes.is_empty() {
            return;
        }
        let (shard, effect) = self.writes.remove(usize::from(which) % self.writes.len());
        let Effect::Write { token, file, offset, buffer, start } = effect else { return };
        self.write(shard, file, offset, &buffer[start..]);
        self.logs[shard].handle_written(token, Ok(()));
        self.turn();
    }

    /// Time passes.
    pub fn advance(&mut self, millis: u64) {
        self.now = Now { mono: self.now.mono + Duration::from_millis(millis), wall: Wall(self.now.wall.0 + millis) };
        for log in &mut self.logs {
            log.handle_timeout(self.now);
        }
        self.turn();
    }

    /// Until nothing is left to write: then every outcome is durable.
    pub fn quiesce(&mut self) {
        for _ in 0..100 {
            for log in &mut self.logs {
                log.flush();
            }
            self.turn();
            if self.writes.is_empty() && self.logs.iter().all(Log::is_idle) {
                for known in self.known.values_mut() {
                    known.durable.clone_from(&known.done);
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
        assert!(self.damaged, "the logs do not come to rest");
    }

    fn submitted(&mut self, id: MessageId, shard: usize, recipients: usize, body: usize, chunks: &[usize]) {
        let done = vec![false; recipients];
        let known = Known {
            state: State::Submitted,
            accepted: self.now.wall,
            done: done.clone(),
            durable: done,
            body,
            chunks: chunks.to_vec(),
            home: shard,
        };
        let before = self.known.insert(id, known);
        assert!(self.forged || before.is_none_or(|b| b.state == State::Gone), "{id} was given twice");
    }

    fn hand_over(&mut self, shard: usize, id: MessageId, recipients: usize, body: Body<'_>) -> bool {
        let envelope = envelope(recipients);
        let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let message =
            NewMessage { id, envelope: &envelope, accepted: self.now.wall, peer, params: b"", trace: TRACE, body };
        self.logs[shard].accept(&message, id.0).is_ok()
    }

    /// Hands a message to a log.
    pub fn accept(&mut self, shard: u8, recipients: usize, bytes: usize) {
        let shard = usize::from(shard) % self.logs.len();
        let id = self.logs[shard].next_id(self.now.wall);
        if self.hand_over(shard, id, recipients, Body::Whole(&body(id, 0, bytes))) {
            self.submitted(id, shard, recipients, bytes, &[]);
        }
    }

    /// The same, its body ahead in chunks.
    pub fn stream(&mut self, shard: u8, chunks: &[usize]) {
        let shard = usize::from(shard) % self.logs.len();
        let id = self.logs[shard].next_id(self.now.wall);
        let mut at = 0;
        for bytes in chunks {
            if self.logs[shard].stream_chunk(id, &body(id, at, *bytes)).is_err() {
                self.logs[shard].stream_abort(id);
                return;
            }
            at += bytes;
            self.turn();
        }
        if self.hand_over(shard, id, 2, Body::Streamed) {
            self.submitted(id, shard, 2, 0, chunks);
        } else {
            self.logs[shard].stream_abort(id);
        }
    }

    /// Tells the outcome of one recipient.
    pub fn settle(&mut self, message: usize, recipient: u8) {
        let mut live: Vec<_> = self.known.iter_mut().filter(|(_, k)| k.state == State::Acknowledged).collect();
        let count = live.len();
        let Some((id, known)) = live.get_mut(message % count.max(1)) else { return };
        let index = usize::from(recipient) % known.done.len();
        let home = known.home % self.logs.len();
        match self.logs[home].settle(**id, index as u16, Outcome::Delivered) {
            Settled::Unknown => assert!(known.done[index] || self.forged, "{id} is not known to its log"),
            settled => {
                assert!(!known.done[index] || self.forged);
                known.done[index] = true;
                if settled == Settled::Wholly {
                    known.state = State::Settling;
                }
            }
        }
    }
}

fn pending(recovery: &Recovery) -> Pending {
    let mut all = Pending::new();
    for message in recovery.shards.iter().flat_map(|s| s.messages()) {
        let before = all.insert(message.id(), message.pending().map(|r| r.index).collect());
        assert!(before.is_none(), "one home a message");
    }
    all
}
