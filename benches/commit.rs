//! What one message costs the log in CPU: append, commit, acknowledgement and settlement, on a disk that does nothing.
//! Element = message; the device's time is not in it.
#![allow(missing_docs)]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::message::Envelope;
use ringpost::spool::{Body, Effect, Event, Geometry, Log, NewMessage, Outcome, Recovered};
use ringpost::time::{Moment, Now, Wall};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

struct Bench {
    log: Log,
    now: Now,
    envelope: Envelope,
    live: Vec<ringpost::message::MessageId>,
}

impl Bench {
    fn new() -> Bench {
        let mut envelope = Envelope::default();
        envelope.set_sender(b"sender@example.org");
        envelope.add_recipient(b"recipient@destination.example", 10);
        let log = Log::new(&Recovered::fresh(0, 1), 1, Geometry::default());
        Bench { log, now: Now { mono: Moment(1), wall: Wall(1_700_000_000_000) }, envelope, live: Vec::new() }
    }

    /// One turn of a shard: `n` messages share a commit, and those of the turn before are settled.
    fn turn(&mut self, n: usize, body: &[u8]) {
        self.now.mono = self.now.mono + Duration::from_micros(500);
        for id in self.live.drain(..) {
            self.log.settle(id, 0, Outcome::Delivered);
        }
        for waiter in 0..n as u64 {
            let message = NewMessage {
                id: self.log.next_id(self.now.wall),
                envelope: &self.envelope,
                accepted: self.now.wall,
                peer: IpAddr::V4(Ipv4Addr::LOCALHOST),
                params: b"",
                trace: b"Received: from client.example by relay.example; Mon, 1 Jan 2026 00:00:00 +0000\r\n",
                body: Body::Whole(body),
            };
            self.log.accept(&message, waiter).expect("the disk keeps up");
        }
        while let Some(effect) = self.log.poll_effect(self.now) {
            match effect {
                Effect::Write { token, .. } => self.log.handle_written(token, Ok(())),
                Effect::Create { file, .. } => self.log.handle_created(file, Ok(())),
                Effect::Open { file, .. } => self.log.handle_opened(file, Ok(())),
                Effect::Remove { file, .. } => self.log.handle_removed(file, Ok(())),
                Effect::Read { token, buffer, .. } => self.log.handle_read(token, Ok(buffer)),
            }
        }
        while let Some(event) = self.log.poll_event() {
            if let Event::Durable { id, record, .. } = event {
                black_box(&record);
                self.live.push(id);
            }
        }
    }
}

fn commit(c: &mut Criterion) {
    let mut group = c.benchmark_group("commit");
    for (name, n, bytes) in [
        ("4KiB_1_a_commit", 1, 4096),
        ("4KiB_20_a_commit", 20, 4096),
        ("4KiB_200_a_commit", 200, 4096),
        ("64KiB_10_a_commit", 10, 65536),
    ] {
        let body = vec![b'x'; bytes];
        let mut bench = Bench::new();
        group.throughput(Throughput::Elements(n as u64));
        group.bench_function(name, |b| b.iter(|| bench.turn(n, &body)));
    }
    group.finish();
}

criterion_group!(benches, commit);
criterion_main!(benches);
