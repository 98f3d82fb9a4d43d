//! The destination queues: enqueue, take and finish a job, with 10,000 and 1,000,000 jobs at rest over 1,000
//! destinations, of which some is taken, or none. The cost of a job must not grow with the jobs at rest; what is taken behind a
//! million has left the caches long ago. And what else a message costs on its way there:
//! its Received header and the choice of its owner.

#![allow(missing_docs)] // what criterion_group! makes has none

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::message::MessageId;
use ringpost::message::trace::{DateCache, Received};
use ringpost::queue::{Job, Queue, RecipientSet, RetryPolicy};
use ringpost::route::{Routes, Splitter};
use ringpost::time::{Moment, Wall};
use std::hint::black_box;
use std::rc::Rc;

const DESTINATIONS: u64 = 1000;

fn job(id: u64) -> Job<Rc<[u8]>> {
    Job::new(MessageId(id), 0, RecipientSet::One(0), Wall(0), 4096, None)
}

fn queue(c: &mut Criterion) {
    let names: Vec<String> = (0..DESTINATIONS).map(|i| format!("d{i}.example")).collect();
    let name = |id: u64| &*names[(id % DESTINATIONS) as usize];
    let mut group = c.benchmark_group("queue");
    group.throughput(Throughput::Elements(1));
    for at_rest in [10_000u64, 1_000_000] {
        let mut queue = Queue::new(RetryPolicy::default(), 1);
        for id in 0..at_rest {
            queue.enqueue(name(id), job(id), Moment(id));
        }
        let mut id = at_rest;
        group.bench_function(format!("enqueue_take_finish/{at_rest}_at_rest"), |b| {
            b.iter(|| {
                let dest = queue.enqueue(name(id), job(id), Moment(id));
                let key = queue.take(dest).expect("one is ready");
                queue.poll_touched();
                id += 1;
                black_box(queue.finished(key).id)
            });
        });
    }
    // Those at rest are for destinations that take nothing now; the others' mail passes them by.
    for at_rest in [10_000u64, 1_000_000] {
        let mut queue = Queue::new(RetryPolicy::default(), 1);
        for id in 0..at_rest {
            queue.enqueue(name(id), job(id), Moment(id));
        }
        while queue.poll_touched().is_some() {}
        let others: Vec<String> = (0..100).map(|i| format!("o{i}.example")).collect();
        let mut id = at_rest;
        group.bench_function(format!("beside/{at_rest}_throttled"), |b| {
            b.iter(|| {
                let dest = queue.enqueue(&others[(id % 100) as usize], job(id), Moment(id));
                let key = queue.take(dest).expect("one is ready");
                queue.poll_touched();
                id += 1;
                black_box(queue.finished(key).id)
            });
        });
    }
    for jobs in [10_000u64, 1_000_000] {
        group.throughput(Throughput::Elements(jobs));
        group.sample_size(10);
        group.bench_function(format!("fill_and_drain/{jobs}"), |b| {
            b.iter_batched_ref(
                || Queue::new(RetryPolicy::default(), 1),
                |queue| {
                    for id in 0..jobs {
                        queue.enqueue(name(id), job(id), Moment(id));
                    }
                    while let Some(dest) = queue.poll_touched() {
                        while let Some(key) = queue.take(dest) {
                            queue.finished(key);
                        }
                    }
                    assert_eq!(queue.counts().ready, 0);
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn on_the_way(c: &mut Criterion) {
    let mut dates = DateCache::default();
    let mut out = Vec::with_capacity(4096);
    for (version, peer) in [("v4", "192.0.2.17"), ("v6", "2001:db8::17")] {
        let peer = peer.parse().expect("an address");
        c.bench_function(&format!("received_header/{version}"), |b| {
            b.iter(|| {
                out.clear();
                let date = dates.text(black_box(Wall(1_795_304_389_000)));
                let (helo, host) = (&b"client.example.com"[..], "mail.example.org");
                Received { helo, peer, host, protocol: "ESMTP", id: MessageId(1), priority: 0, date }.write(&mut out);
                black_box(out.len())
            });
        });
    }
    let mut splitter = Splitter::default();
    let domains: Vec<String> = (0..1000).map(|i| format!("D{i}.example.com")).collect();
    for recipients in [1, 10, 1000] {
        c.bench_function(&format!("split_and_own/{recipients}_domains"), |b| {
            b.iter(|| {
                let mut sum = 0;
                let domains = domains[..recipients].iter().map(|d| black_box(d.as_bytes()));
                Routes::Mx.split(&mut splitter, domains, |name, _| sum += u32::from(Routes::Mx.owner(name, 0, 8, 20)));
                black_box(sum)
            });
        });
    }
}

criterion_group!(benches, queue, on_the_way);
criterion_main!(benches);
