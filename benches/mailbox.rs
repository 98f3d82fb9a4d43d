//! What it costs to move mail between shards: a turn's handoffs to oneself, and to another core and back.
//!
//! Element = one handoff. `own`: the shard that accepted a message also owns its destination; no queue is touched. `across`:
//! a batch goes to a second thread, which sends as many outcomes back, as owners do; the time is that of the round trip, so
//! each element is a `Handoff` there and a `Settled` back. Both sides spin, so neither the eventfd that wakes a sleeping
//! shard nor the scheduler is in it; on one core the two threads take turns, and the figure says nothing.

#![allow(missing_docs)] // what criterion_group! makes has none

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringpost::message::MessageId;
use ringpost::queue::RecipientSet;
use ringpost::rt::buffer::{Buffer, Slice};
use ringpost::shard::mailbox::{FinalOutcome, Handoff, Mail, Mailboxes, Post, Settled};
use ringpost::time::Moment;
use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Handoffs of one turn: one session's message, a turn at 20 sessions, one at 200.
const BATCHES: [u64; 3] = [1, 16, 128];

/// As the home shard makes them: the record shared, the domain a string of its own.
fn handoff(id: u64, record: &Slice) -> Mail {
    Mail::Handoff(Handoff {
        id: MessageId(id),
        home: 0,
        age: Duration::ZERO,
        handed: Moment(0),
        size: 4096,
        domain: "example.org".into(),
        recipients: RecipientSet::One(0),
        record: Some(record.clone()),
        terms: None,
        flow: None,
    })
}

fn settled(id: MessageId) -> Mail {
    Mail::Settled(Settled { id, recipients: RecipientSet::One(0), outcome: FinalOutcome::Delivered })
}

/// A message of 4 KiB in the buffer of the commit that made it durable.
fn record() -> Slice {
    let mut buffer = Buffer::new(4096);
    buffer.extend(&[b'x'; 4096]);
    Slice::new(Arc::new(buffer), 0..4096)
}

fn own(c: &mut Criterion) {
    let record = record();
    let mut group = c.benchmark_group("mailbox/own");
    for batch in BATCHES {
        let mut post = Post::new(0, Mailboxes::new(1));
        group.throughput(Throughput::Elements(batch));
        group.bench_function(batch.to_string(), |b| {
            b.iter(|| {
                for id in 0..batch {
                    post.send(0, handoff(id, &record));
                }
                post.flush(|_| unreachable!("nobody else"));
                let mut mail = post.receive().expect("what was just sent");
                assert_eq!(mail.len() as u64, batch);
                mail.drain(..).for_each(|m| drop(black_box(m)));
                post.recycle(mail);
            });
        });
    }
    group.finish();
}

/// The other core: answers each handoff with an outcome until told to stop.
fn owner(mut post: Post, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Some(mut batch) = post.receive() else {
            spin_loop();
            continue;
        };
        for mail in batch.drain(..) {
            let Mail::Handoff(handoff) = mail else { unreachable!("only handoffs are sent here") };
            post.send(usize::from(handoff.home), settled(handoff.id));
        }
        post.recycle(batch);
        post.flush(|_| {});
    }
}

fn across(c: &mut Criterion) {
    let record = record();
    let mut group = c.benchmark_group("mailbox/across");
    for batch in BATCHES {
        let boxes = Mailboxes::new(2);
        let mut post = Post::new(0, boxes.clone());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| owner(Post::new(1, boxes), &stop));
            group.throughput(Throughput::Elements(batch));
            group.bench_function(batch.to_string(), |b| {
                b.iter(|| {
                    for id in 0..batch {
                        post.send(1, handoff(id, &record));
                    }
                    post.flush(|_| {});
                    let mut back = 0;
                    while back < batch {
                        let Some(mail) = post.receive() else {
                            spin_loop();
                            continue;
                        };
                        back += mail.len() as u64;
                        post.recycle(mail);
                    }
                    assert_eq!(back, batch, "nothing lost, nothing twice");
                });
            });
            stop.store(true, Ordering::Relaxed);
        });
    }
    group.finish();
}

criterion_group!(benches, own, across);
criterion_main!(benches);
