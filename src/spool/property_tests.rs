//! Properties of the format and of the log: what is written is read, a changed bit is noticed, and any sequence of
//! commands, faults and crashes keeps what was promised.
#![allow(clippy::unwrap_used)]

use super::format::*;
use super::merge::{Merged, Source, merge};
use super::scan::{Identity, identify, scan};
use super::sim::{State, World, small};
use super::*;
use crate::message::params::{BodyType, Notify};
use crate::message::{Envelope, MessageId};
use crate::properties::{cases, hostile};
use crate::rt::buffer::{BLOCK, Buffer};
use crate::time::Wall;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv6Addr};

const SEGMENT: SegmentHeader = SegmentHeader {
    log: 3,
    number: 9,
    sequence: 77,
    stamp: 0x0123_4567_89ab_cdef,
    created: Wall(1_700_000_000_000),
    bytes: 1 << 20,
};

/// A segment of commits, each made of the records that `write` appends and tells the number of.
fn segment(commits: &[&dyn Fn(&mut Buffer) -> u32]) -> Vec<u8> {
    let mut bytes = vec![0; BLOCK];
    SEGMENT.write(&mut bytes);
    for (number, write) in (1u64..).zip(commits) {
        let mut buffer = Buffer::new(1 << 20);
        begin_commit(&mut buffer);
        let records = write(&mut buffer);
        buffer.pad_to_block();
        let length = u32::try_from(buffer.len()).unwrap();
        let fixed = Commit { tail: SEGMENT.sequence, previous: number - 1, length, records, log: SEGMENT.log };
        let place = Place { log: SEGMENT.log, offset: u32::try_from(bytes.len()).unwrap() };
        seal(buffer.as_mut(), 0, place, &SEGMENT, number, &fixed);
        bytes.extend_from_slice(&buffer);
    }
    bytes
}

/// What recovery makes of a file's bytes.
fn read(bytes: &[u8]) -> (Merged, Vec<Source>) {
    let sources = match identify(bytes, SEGMENT.number) {
        Identity::Segment { header, intact } => {
            vec![Source {
                number: SEGMENT.number,
                bytes: bytes.len() as u64,
                header,
                intact,
                scan: scan(bytes, &header),
            }]
        }
        _ => Vec::new(),
    };
    (merge(&sources), sources)
}

/// Every live message with its envelope, and the outcomes told apart from it.
type Story = Vec<(MessageId, Vec<u8>, Vec<Progress>)>;

fn story(bytes: &[u8]) -> Story {
    let (merged, sources) = read(bytes);
    told(&merged, &sources)
}

fn told(merged: &Merged, sources: &[Source]) -> Story {
    let front = |found: &super::merge::Found| {
        let copy = found.parts[&0][0];
        sources[copy.source].front(copy.index).to_vec()
    };
    merged.live.iter().map(|found| (found.id, front(found), found.progress.clone())).collect()
}

#[derive(Clone, Debug)]
struct Letter {
    id: u64,
    sender: Vec<u8>,
    recipients: Vec<(Vec<u8>, usize)>,
    eight_bit: bool,
    /// `ORCPT=` of the last recipient, and `ENVID=`.
    orcpt: Option<Vec<u8>>,
    accepted: u64,
    peer: IpAddr,
    trace: Vec<u8>,
    body: Option<Vec<u8>>,
    chunks: u32,
}

fn letter() -> impl Strategy<Value = Letter> {
    let recipient = (hostile(256), any::<u16>()).prop_map(|(address, at)| {
        let at = usize::from(at) % (address.len() + 1);
        (address, at)
    });
    let peer = prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<Ipv6Addr>().prop_map(IpAddr::V6)];
    let eight_bit = (any::<bool>(), prop::option::of(hostile(500)));
    let mail = (any::<u64>(), hostile(256), prop::collection::vec(recipient, 1..8), eight_bit, any::<u64>());
    let data = (peer, hostile(300), prop::option::of(hostile(3000)), any::<u32>());
    (mail, data).prop_map(|((id, sender, recipients, (eight_bit, orcpt), accepted), (peer, trace, body, chunks))| {
        Letter {
            id,
            sender,
            recipients,
            eight_bit,
            orcpt,
            accepted,
            peer: peer.to_canonical(),
            trace,
            chunks: if body.is_some() { 0 } else { chunks.max(1) },
            body,
        }
    })
}

impl Letter {
    fn envelope(&self) -> Envelope {
        let mut envelope = Envelope::default();
        envelope.set_sender(&self.sender);
        envelope.options.body = if self.eight_bit { BodyType::EightBit } else { BodyType::SevenBit };
        self.recipients.iter().for_each(|(address, at)| envelope.add_recipient(address, *at));
        if let Some(orcpt) = &self.orcpt {
            envelope.set_envid(orcpt);
            envelope.set_recipient_options(Notify::default(), orcpt);
        }
        envelope
    }

    fn write(&self, buffer: &mut Buffer) -> usize {
        let envelope = self.envelope();
        let mut params = Vec::new();
        envelope.write_params(&mut params);
        let message = NewMessage {
            id: MessageId(self.id),
            envelope: &envelope,
            accepted: Wall(self.accepted),
            peer: self.peer,
            params: &params,
            trace: &self.trace,
            body: self.body.as_deref().map_or(Body::Streamed, Body::Whole),
        };
        let bytes = write_accepted(buffer, &message, self.chunks, 12_345);
        assert_eq!(bytes, RECORD_HEADER + accepted_bytes(&message));
        bytes
    }

    fn check(&self, view: &RecordView<'_>, done: impl Fn(usize) -> Option<Outcome>) {
        assert_eq!((view.id(), view.accepted(), view.peer()), (MessageId(self.id), Wall(self.accepted), self.peer));
        assert_eq!(
            (view.sender(), view.eight_bit(), view.chunk_count()),
            (&self.sender[..], self.eight_bit, self.chunks)
        );
        let last = self.recipients.len() as u16 - 1;
        let orcpt = self.orcpt.as_deref().unwrap_or_default();
        assert_eq!((view.params().envid(), view.params().recipient(last).1), (orcpt, orcpt));
        let data = [&self.trace[..], self.body.as_deref().unwrap_or_default()].concat();
        assert_eq!((view.data(), view.total_size()), (&data[..], data.len() as u64 + 12_345));
        assert_eq!(view.recipient_count(), self.recipients.len());
        for ((index, recipient), (address, at)) in view.recipients().enumerate().zip(&self.recipients) {
            assert_eq!((usize::from(recipient.index), recipient.done), (index, done(index)));
            assert_eq!((recipient.address, recipient.domain), (&address[..], &address[*at..]));
        }
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    (1..5u8).prop_map(|byte| Outcome::from_byte(byte).unwrap())
}

proptest! {
    #![proptest_config(cases(120))]

    #[test]
    fn property_every_record_is_read_as_it_was_written(
        letters in prop::collection::vec(letter(), 0..4),
        chunk in (any::<u64>(), 0..u32::MAX, prop::collection::vec(any::<u8>(), 0..300)),
        progress in prop::collection::vec((any::<u64>(), any::<u16>(), outcome()), 1..9),
        settled in prop::collection::vec(any::<u64>(), 1..9),
        superseded in prop::collection::vec(any::<(u64, u16, u32)>(), 1..9),
        mask in any::<u8>(),
    ) {
        let progress: Vec<_> = progress
            .into_iter()
            .map(|(id, recipient, outcome)| Progress { id: MessageId(id), recipient, outcome })
            .collect();
        let settled: Vec<_> = settled.into_iter().map(MessageId).collect();
        let superseded: Vec<_> =
            superseded.into_iter().map(|(sequence, log, offset)| Superseded { sequence, log, offset }).collect();
        let bytes = segment(&[&|buffer| {
            letters.iter().for_each(|letter| _ = letter.write(buffer));
            write_chunk(buffer, MessageId(chunk.0), chunk.1, &chunk.2);
            write_progress(buffer, &progress);
            write_settled(buffer, &settled);
            write_superseded(buffer, &superseded);
            u32::try_from(letters.len()).unwrap() + 4
        }]);
        let Identity::Segment { header, intact: true } = identify(&bytes, SEGMENT.number) else { panic!("a segment") };
        assert_eq!(header, SEGMENT);
        let found = scan(&bytes, &header);
        assert!(found.commits.len() == 1 && found.commits[0].whole && found.gaps.is_empty() && found.spoiled.is_empty());
        assert_eq!(found.progress.iter().map(|(_, p)| *p).collect::<Vec<_>>(), progress);
        assert_eq!(found.settled.iter().map(|(_, id)| *id).collect::<Vec<_>>(), settled);
        assert_eq!(found.superseded.iter().map(|(_, s)| *s).collect::<Vec<_>>(), superseded);
        assert_eq!(found.messages.len(), letters.len() + 1);
        for (letter, seen) in letters.iter().zip(&found.messages) {
            let record = &bytes[seen.offset as usize..][..seen.length as usize];
            letter.check(&RecordView::parse(record).unwrap(), |_| None);
            let front = RecordView::from_payload(seen.id, &found.fronts[seen.front.clone()]).unwrap();
            assert_eq!(front.recipients().count(), letter.recipients.len());
            // The copy that compaction makes, with some outcomes, and a copy of that.
            let mut copy = Buffer::new(1 << 16);
            let done = |index: usize| mask >> (index % 8) & 1 == 1;
            let length = write_copy(&mut copy, record, done).unwrap();
            let mut again = Buffer::new(1 << 16);
            write_copy(&mut again, &copy[..length], |_| false).unwrap();
            for copy in [&copy, &again] {
                letter.check(&RecordView::parse(copy).unwrap(), |index| done(index).then_some(Outcome::Delivered));
            }
        }
        let last = found.messages.last().unwrap();
        let record = &bytes[last.offset as usize..][..last.length as usize];
        assert_eq!((last.id, last.part, chunk_data(record).unwrap()), (MessageId(chunk.0), chunk.1 + 1, &chunk.2[..]));
        assert!(RecordView::parse(record).is_none());
    }

    #[test]
    fn property_any_payload_is_refused_or_read_within_its_bounds(
        letter in letter(),
        changes in prop::collection::vec((any::<u16>(), any::<u8>()), 0..6),
        random in prop::collection::vec(any::<u8>(), 0..200),
        cut in any::<u16>(),
    ) {
        let mut buffer = Buffer::new(1 << 16);
        let length = letter.write(&mut buffer);
        let mut payload = buffer[RECORD_HEADER..length].to_vec();
        for (at, byte) in changes {
            // The numbers at the front more often than the text.
            let within = if at % 2 == 0 { 64 } else { payload.len() };
            let at = usize::from(at) % within.min(payload.len());
            payload[at] = byte;
        }
        payload.truncate(usize::from(cut) % (payload.len() + 40));
        for payload in [&payload, &random] {
            if let Some(view) = RecordView::from_payload(MessageId(1), payload) {
                let _ = (view.accepted(), view.total_size(), view.peer(), view.chunk_count(), view.eight_bit());
                assert_eq!(view.recipients().count(), view.recipient_count());
                assert_eq!(view.state_places().filter(|at| *at < payload.len()).count(), view.recipient_count());
                assert_eq!(view.front().len() + view.data().len(), payload.len());
                assert!(view.sender().len() <= payload.len());
            }
            let _ = (parse_chunk(payload), parse_settled(payload).count(), parse_progress(payload).count());
            let _ = (parse_superseded(payload).count(), Commit::parse(payload), SegmentHeader::parse(payload));
        }
    }

    #[test]
    fn property_random_changes_of_a_file_lose_mail_at_worst_and_say_so(
        changes in prop::collection::vec((any::<u16>(), any::<u8>(), 1..64usize), 1..5),
        cut in prop::option::of(any::<u16>()),
    ) {
        let original = three_commits();
        let mut bytes = original.clone();
        for (at, byte, count) in changes {
            let at = usize::from(at) % (bytes.len() - count);
            bytes[at..at + count].fill(byte);
        }
        if let Some(cut) = cut {
            bytes.truncate(usize::from(cut) % bytes.len());
        }
        let (before, after) = (story(&original), story(&bytes));
        for (id, front, progress) in &after {
            let (_, was, told) = before.iter().find(|(known, ..)| known == id).unwrap_or_else(|| panic!("{id} was invented"));
            assert_eq!(front, was);
            assert!(progress.iter().all(|p| told.contains(p)));
        }
    }
}

fn plain(id: u64, sender: &str) -> Letter {
    Letter {
        id,
        sender: sender.as_bytes().to_vec(),
        recipients: vec![(b"a@b".to_vec(), 2), (b"c@d".to_vec(), 2)],
        eight_bit: false,
        orcpt: None,
        accepted: 1,
        peer: IpAddr::from([127, 0, 0, 1]),
        trace: b"t\r\n".to_vec(),
        body: Some(b"x\r\n.\r\n".to_vec()),
        chunks: 0,
    }
}

/// Two that a third one proves to have been durable: mail, a chunk, outcomes of every kind.
fn three_commits() -> Vec<u8> {
    segment(&[
        &|buffer| {
            plain(1, "s").write(buffer);
            write_chunk(buffer, MessageId(4), 0, b"chunk");
            write_settled(buffer, &[MessageId(100)]);
            3
        },
        &|buffer| {
            plain(2, "").write(buffer);
            write_progress(buffer, &[Progress { id: MessageId(1), recipient: 1, outcome: Outcome::Bounced }]);
            2
        },
        &|buffer| {
            plain(3, "last").write(buffer);
            1
        },
    ])
}

#[test]
fn every_single_bit_of_a_durable_commit_is_watched() {
    let original = three_commits();
    let before = story(&original);
    assert_eq!(before.iter().map(|(id, ..)| id.0).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(read(&original).0.damage.is_empty());
    // What checksums cover: the header of the segment, and each record without the zeros that fill its last 8 octets.
    let mut covered = vec![false; original.len()];
    covered[..64].fill(true);
    let Identity::Segment { header, .. } = identify(&original, SEGMENT.number) else { panic!("a segment") };
    for commit in scan(&original, &header).commits {
        let mut at = commit.offset as usize;
        for _ in 0..=commit.fixed.records {
            let place = Place { log: SEGMENT.log, offset: u32::try_from(at).unwrap() };
            let record = parse_header(&original[at..], place, Some(SEGMENT.stamp)).unwrap();
            covered[at..at + record.record_bytes()].fill(true);
            at += record_room(record.length as usize);
        }
    }
    let last = 3 * BLOCK;
    let mut watched = 0;
    for at in 0..original.len() {
        // Of the rest some: it says nothing.
        if !covered[at] && at % 61 != 0 && !covered[at - 1] {
            continue;
        }
        for bit in 0..8 {
            let mut bytes = original.clone();
            bytes[at] ^= 1 << bit;
            let (merged, sources) = read(&bytes);
            let after = told(&merged, &sources);
            assert!(
                after.iter().all(|(_, front, _)| before.iter().any(|(_, was, _)| was == front)),
                "byte {at} bit {bit}"
            );
            if !covered[at] {
                assert!(after == before && merged.damage.is_empty(), "byte {at} bit {bit}: padding");
            } else if at < last {
                assert!(!merged.damage.is_empty(), "byte {at} bit {bit} passed");
                watched += 1;
            } else {
                // The last commit looks as if it was being written: nobody was told that it is durable.
                assert_eq!(after[..], before[..2], "byte {at} bit {bit}");
            }
        }
    }
    assert!(watched > 4000, "{watched}");
}

/// What may happen to a spool. Places and sizes are fractions, so that they shrink.
#[derive(Clone, Debug)]
enum Op {
    Accept {
        shard: u8,
        recipients: u8,
        bytes: u16,
    },
    Stream {
        shard: u8,
        chunks: Vec<u16>,
    },
    AbortStream {
        shard: u8,
        bytes: u16,
    },
    /// Much mail that does not stay: segments fill and die, and what stays is moved.
    Churn {
        shard: u8,
        count: u8,
    },
    /// Twice: the second time is nothing new.
    Settle {
        which: u16,
        recipient: u8,
    },
    Finish {
        which: u16,
    },
    Read {
        which: u16,
    },
    Complete {
        which: u8,
    },
    Advance {
        millis: u16,
    },
    FailWrites(bool),
    FillDisk(bool),
    Rest,
    Crash {
        shards: u8,
    },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (any::<u8>(), 1..6u8, 0..9000u16).prop_map(|(shard, recipients, bytes)| Op::Accept { shard, recipients, bytes }),
        1 => (any::<u8>(), prop::collection::vec(1..8000u16, 1..5)).prop_map(|(shard, chunks)| Op::Stream { shard, chunks }),
        1 => (any::<u8>(), 1..8000u16).prop_map(|(shard, bytes)| Op::AbortStream { shard, bytes }),
        1 => (any::<u8>(), 1..90u8).prop_map(|(shard, count)| Op::Churn { shard, count }),
        6 => (any::<u16>(), any::<u8>()).prop_map(|(which, recipient)| Op::Settle { which, recipient }),
        2 => any::<u16>().prop_map(|which| Op::Finish { which }),
        1 => any::<u16>().prop_map(|which| Op::Read { which }),
        5 => any::<u8>().prop_map(|which| Op::Complete { which }),
        2 => (0..200u16).prop_map(|millis| Op::Advance { millis }),
        1 => any::<bool>().prop_map(Op::FailWrites),
        1 => any::<bool>().prop_map(Op::FillDisk),
        1 => Just(Op::Rest),
        2 => (1..5u8).prop_map(|shards| Op::Crash { shards }),
    ]
}

/// A message that is to be delivered.
fn one_of(world: &World, which: u16) -> Option<MessageId> {
    let live = world.live();
    live.get(usize::from(which) % live.len().max(1)).copied()
}

fn heal(world: &mut World) {
    world.fail_writes = None;
    *world.disk.limit.lock().unwrap() = None;
    // The longest pause after failures, and the next attempt.
    world.advance(70_000);
    world.turn();
    world.quiesce();
}

fn apply(world: &mut World, op: Op) {
    let shards = world.logs.len();
    match op {
        Op::Accept { shard, recipients, bytes } => {
            let _ = world.accept(usize::from(shard) % shards, u16::from(recipients), usize::from(bytes));
        }
        Op::Stream { shard, chunks } => {
            let chunks: Vec<usize> = chunks.into_iter().map(usize::from).collect();
            let _ = world.accept_streamed(usize::from(shard) % shards, &chunks);
        }
        Op::AbortStream { shard, bytes } => {
            let log = &mut world.logs[usize::from(shard) % shards];
            let id = log.next_id(world.now.wall);
            let _ = log.stream_chunk(id, &vec![7; usize::from(bytes)]);
            world.turn();
            world.logs[usize::from(shard) % shards].stream_abort(id);
        }
        Op::Churn { shard, count } => {
            for _ in 0..count {
                let id = world.accept(usize::from(shard) % shards, 1, 9000);
                world.turn();
                while !world.writes.is_empty() {
                    world.complete(0);
                    world.turn();
                }
                if let Ok(id) = id
                    && world.known[&id].state == State::Acked
                {
                    world.finish(id);
                }
            }
        }
        Op::Settle { which, recipient } => {
            let Some(id) = one_of(world, which) else { return };
            let index = u16::from(recipient) % world.known[&id].recipients;
            let was_done = world.known[&id].done[usize::from(index)];
            let left = world.known[&id].done.iter().filter(|done| !**done).count();
            let expected = match (was_done, left) {
                (true, _) => Settled::Unknown,
                (false, 1) => Settled::Wholly,
                (false, _) => Settled::Partly,
            };
            assert_eq!(world.settle(id, index), expected);
            assert_eq!(world.settle(id, index), Settled::Unknown, "once");
        }
        Op::Finish { which } => {
            if let Some(id) = one_of(world, which) {
                world.finish(id);
            }
        }
        Op::Read { which } => {
            if let Some(id) = one_of(world, which) {
                world.check_content(id);
            }
        }
        Op::Complete { which } => {
            world.turn();
            if !world.writes.is_empty() {
                world.complete(usize::from(which) % world.writes.len());
            }
        }
        Op::Advance { millis } => world.advance(u64::from(millis)),
        Op::FailWrites(fails) => world.fail_writes = fails.then_some(FileError::Io(libc::EIO)),
        Op::FillDisk(full) => {
            let files = world.disk.files.lock().unwrap().len();
            *world.disk.limit.lock().unwrap() = full.then_some(files);
        }
        Op::Rest => heal(world),
        Op::Crash { shards } => {
            // A start needs a segment for what it writes.
            *world.disk.limit.lock().unwrap() = None;
            world.crash(u16::from(shards));
            assert_eq!(world.damage, []);
        }
    }
    world.turn();
    let live: usize = world.logs.iter().map(Log::live_messages).sum();
    let known = world.known.values().filter(|k| matches!(k.state, State::Acked)).count();
    assert_eq!(live, known, "the logs know what is to be delivered, no more and no less");
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn property_any_sequence_of_commands_faults_and_crashes_keeps_what_was_promised(
        ops in prop::collection::vec(op(), 1..120),
        seed in any::<u64>(),
        shards in 1..4u16,
    ) {
        let mut world = World::new(seed, shards, small());
        ops.into_iter().for_each(|op| apply(&mut world, op));
        heal(&mut world);
        world.crash(2);
        for id in world.live() {
            world.check_content(id);
            world.finish(id);
        }
        world.quiesce();
        world.crash(1);
        assert_eq!(world.live(), []);
    }
}
