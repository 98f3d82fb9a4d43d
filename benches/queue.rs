//! The destination queues: enqueue, take and finish a job, with 10,000 and 1,000,000 jobs at rest over 1,000
//! destinations. The cost of a job must not grow with the jobs at rest.

#![allow(missing_docs)] // what criterion_group! makes has none

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ringpost::message::MessageId;
use ringpost::queue::{Job, Queue, RecipientSet, RetryPolicy};
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

criterion_group!(benches, queue);
criterion_main!(benches);
