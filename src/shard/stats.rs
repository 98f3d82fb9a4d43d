//! What a shard counts and measures: counters and gauges it alone writes, and latency histograms it hands over.
//!
//! Inputs: increments and durations from the shard. Outputs: values the control thread reads when a scrape asks for
//! them. Counting is a load and a store without a lock prefix; recording a duration is an array increment. Nothing here
//! waits or allocates after start; without a control thread the histograms just go on summing.
//!
//! Cores: [`ShardStats`] is written by one shard and read by the control thread; [`StageHistograms`] lives on one
//! shard, [`HistogramSource`] on the control thread.

use crossbeam::queue::ArrayQueue;
use hdrhistogram::Histogram;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows. One writer.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the shard that owns it may call this: two writers would lose counts.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Takes over what is counted elsewhere, in the same shard. `total` never goes down.
    pub fn follow(&self, total: u64) {
        self.0.store(total, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A level that goes up and down. One writer.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

impl Gauge {
    /// Sets the level.
    pub fn set(&self, level: u64) {
        self.0.store(level, Ordering::Relaxed);
    }

    /// Raises the level by `n`. Only the shard that owns it may call this.
    pub fn add(&self, n: u64) {
        self.set(self.get().wrapping_add(n));
    }

    /// Lowers the level by `n`, not below zero. Only the shard that owns it may call this.
    pub fn sub(&self, n: u64) {
        self.set(self.get().saturating_sub(n));
    }

    /// The level.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whether a value only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows; exported with the suffix `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One exported value of a shard.
#[derive(Clone, Copy, Debug)]
pub struct Value {
    /// Name without the prefix `ringpost_` and without `_total`; the unit is its last word where there is one.
    pub name: &'static str,
    /// What it says, one sentence.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// As of now.
    pub value: u64,
}

macro_rules! shard_stats {
    ($($kind:ident $name:ident: $help:literal,)*) => {
        /// Counters and gauges of one shard. Written by that shard alone, read by the control thread.
        // Two cache lines: the adjacent-line prefetcher pulls pairs.
        #[repr(align(128))]
        #[derive(Debug, Default)]
        pub struct ShardStats {
            $(#[doc = $help] pub $name: $kind,)*
        }

        impl ShardStats {
            /// All values with name and help, in the order they are declared.
            pub fn values(&self) -> Vec<Value> {
                vec![$(Value {
                    name: stringify!($name),
                    help: $help,
                    kind: Kind::$kind,
                    value: self.$name.get(),
                },)*]
            }
        }
    };
}

shard_stats! {
    Counter accepted_messages: "Messages made durable and answered 250",
    Counter accepted_bytes: "Octets of accepted messages, as received",
    Counter accepted_recipients: "Recipients of accepted messages",
    Counter rejected: "Commands and messages refused with 4yz or 5yz",
    Counter auth_failures: "AUTH with a wrong name, password or proof",
    Counter tls_handshakes: "TLS handshakes with clients",
    Counter tls_failures: "TLS connections of clients that failed, in the handshake or later",
    Counter delivered: "Recipients whose next hop took the message",
    Counter deferred: "Attempts that failed for now, per recipient",
    Counter reply_lost: "Messages sent to their end without a reply, per recipient: they may arrive twice",
    Counter source_rests: "Times that a source address began to rest for a site",
    Counter bounced: "Recipients refused for good",
    Counter bounces_withheld: "Notifications of failure that were not sent, since their sender had too many, per recipient",
    Counter expired: "Recipients given up because of the message's age",
    Counter inbound_connections: "Connections taken from clients",
    Counter outbound_connections: "Connections opened to next hops",
    Counter outbound_connections_beside: "Of these, attempts begun beside one that had no answer",
    Counter outbound_connection_failures: "Connections to next hops that could not be opened",
    Counter outbound_tls: "Connections to next hops that mail went over in TLS",
    Counter outbound_tls_resumed: "Of these, those that resumed an earlier session",
    Counter sts_fetches: "MTA-STS policies that the control plane was asked to fetch",
    Counter sts_failures: "Of these, those that it could not",
    Counter tls_broken: "Connections to next hops whose TLS came to nothing, so that mail goes to the host in the clear for a time",
    Counter flown: "Messages sent before the replies to their envelope, by BDAT",
    Counter flights_failed: "Messages of such flights that were wasted, or refused because of the flight",
    Counter commits: "Group commits, one sync of the log each",
    Counter commit_bytes: "Octets written to the log by commits",
    Counter sync_errors: "Writes or syncs of the log that failed",
    Counter dns_queries: "Questions sent to DNS servers",
    Counter dns_cache_hits: "Lookups answered from the shard's cache",
    Counter dns_failures: "Lookups that got no usable answer",
    Counter dns_stale: "Routes used beyond their time because DNS failed",
    Counter dns_prefetched: "Routes asked for again before their time was over",
    Counter turns: "Turns of the shard's loop",
    Gauge sessions: "Inbound sessions open",
    Gauge queue_ready: "Recipients ready for delivery",
    Gauge queue_waiting: "Recipients waiting for their next attempt",
    Gauge queue_in_flight: "Recipients in a delivery transaction",
    Gauge queue_destinations: "Destinations with mail in the queue",
    Gauge spool_messages: "Messages in the spool that are not settled",
    Gauge spool_bytes: "Octets of the spool's segments on disk",
    Gauge outbound_open: "Connections to next hops open, idle ones included",
    Gauge mailbox_depth: "Batches of other shards not yet taken, and items other shards have not taken",
    Gauge resident_bodies_bytes: "Octets of message bodies held in memory",
    Gauge storage_ok: "1 if new mail can be made durable, 0 if it is refused with 451 or 452",
}

/// A stage in the life of a message whose latency is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum LatencyStage {
    /// From the DATA command to the end of data.
    Receive,
    /// From the end of data to stable storage.
    Commit,
    /// From acceptance, or from the due time of a retry, to the attempt.
    Queue,
    /// Resolution, connect, greeting, EHLO of a new connection.
    Connect,
    /// From MAIL to the reply to the final dot.
    Delivery,
    /// From acceptance to the final outcome.
    Total,
}

impl LatencyStage {
    /// All of them, in the order a message passes them.
    pub const ALL: [LatencyStage; 6] = [
        LatencyStage::Receive,
        LatencyStage::Commit,
        LatencyStage::Queue,
        LatencyStage::Connect,
        LatencyStage::Delivery,
        LatencyStage::Total,
    ];

    /// The value of the label `stage`.
    pub fn name(self) -> &'static str {
        match self {
            LatencyStage::Receive => "receive",
            LatencyStage::Commit => "commit",
            LatencyStage::Queue => "queue",
            LatencyStage::Connect => "connect",
            LatencyStage::Delivery => "delivery",
            LatencyStage::Total => "total",
        }
    }

    /// Longest latency told apart, µs; longer ones count as this one. An hour for what one connection does, else ten
    /// days, twice the default of `give_up`.
    fn highest_us(self) -> u64 {
        match self {
            LatencyStage::Queue | LatencyStage::Total => 10 * 86_400 * 1_000_000,
            _ => 3600 * 1_000_000,
        }
    }
}

/// Latencies of every stage over some time, in µs with two significant digits. About 170 KiB.
#[derive(Clone, Debug)]
pub struct HistogramSet {
    stages: [Histogram<u64>; 6],
    sums_us: [u64; 6],
}

impl Default for HistogramSet {
    fn default() -> Self {
        let stages = LatencyStage::ALL.map(|stage| {
            Histogram::new_with_bounds(1, stage.highest_us(), 2).expect("1 to some days with two digits is in range")
        });
        HistogramSet { stages, sums_us: [0; 6] }
    }
}

impl HistogramSet {
    /// Counts one latency.
    pub fn record(&mut self, stage: LatencyStage, micros: u64) {
        self.stages[stage as usize].saturating_record(micros);
        self.sums_us[stage as usize] = self.sums_us[stage as usize].saturating_add(micros);
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &HistogramSet) {
        for (mine, theirs) in self.stages.iter_mut().zip(&other.stages) {
            if !theirs.is_empty() {
                mine.add(theirs).expect("both have the bounds of the stage");
            }
        }
        for (mine, theirs) in self.sums_us.iter_mut().zip(other.sums_us) {
            *mine = mine.saturating_add(theirs);
        }
    }

    /// Forgets everything, keeps the memory.
    pub fn reset(&mut self) {
        self.stages.iter_mut().filter(|stage| !stage.is_empty()).for_each(Histogram::reset);
        self.sums_us = [0; 6];
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.stages.iter().all(Histogram::is_empty)
    }

    /// Latencies counted.
    pub fn count(&self, stage: LatencyStage) -> u64 {
        self.stages[stage as usize].len()
    }

    /// Their sum, µs.
    pub fn sum_us(&self, stage: LatencyStage) -> u64 {
        self.sums_us[stage as usize]
    }

    /// The latency that the part `quantile` (0.0 to 1.0) of all did not pass, µs; 0 if none was counted.
    pub fn quantile_us(&self, stage: LatencyStage, quantile: f64) -> u64 {
        self.stages[stage as usize].value_at_quantile(quantile)
    }

    /// How many were above `low_us` and not above `high_us`, within the histogram's resolution.
    pub fn count_between(&self, stage: LatencyStage, low_us: u64, high_us: u64) -> u64 {
        // hdrhistogram's range is inclusive and widens to the bucket of its ends: begin behind the bucket of `low_us`.
        let stage = &self.stages[stage as usize];
        let low = if low_us == 0 { 0 } else { stage.next_non_equivalent(low_us) };
        if low > high_us { 0 } else { stage.count_between(low, high_us) }
    }
}

/// How many sets are on the way at a time: one with the control thread, one waiting for it.
const SPARE_SETS: usize = 2;

struct Exchange {
    full: ArrayQueue<Box<HistogramSet>>,
    empty: ArrayQueue<Box<HistogramSet>>,
}

/// The shard's end: records, and hands its set over now and then. Lives on one shard.
pub struct StageHistograms {
    current: Box<HistogramSet>,
    exchange: Arc<Exchange>,
}

/// The control thread's end.
pub struct HistogramSource {
    exchange: Arc<Exchange>,
}

/// Histograms of one shard and the control thread's access to them. All memory is allocated here.
pub fn stage_histograms() -> (StageHistograms, HistogramSource) {
    let exchange = Arc::new(Exchange { full: ArrayQueue::new(SPARE_SETS), empty: ArrayQueue::new(SPARE_SETS) });
    for _ in 0..SPARE_SETS {
        drop(exchange.empty.push(Box::default()));
    }
    (StageHistograms { current: Box::default(), exchange: Arc::clone(&exchange) }, HistogramSource { exchange })
}

impl StageHistograms {
    /// Counts one latency.
    pub fn record(&mut self, stage: LatencyStage, micros: u64) {
        self.current.record(stage, micros);
    }

    /// About once a second: hands over what was recorded, in exchange for an empty set. If the control thread has
    /// returned none, recording just goes on in the present one and nothing is lost.
    pub fn publish(&mut self) {
        if self.current.is_empty() {
            return;
        }
        if let Some(empty) = self.exchange.empty.pop() {
            let full = std::mem::replace(&mut self.current, empty);
            // There are as many places as sets: it always fits.
            drop(self.exchange.full.push(full));
        }
    }
}

impl Drop for StageHistograms {
    fn drop(&mut self) {
        self.publish();
    }
}

impl HistogramSource {
    /// Adds everything handed over to each of `into`.
    pub fn collect(&mut self, into: &mut [&mut HistogramSet]) {
        while let Some(mut set) = self.exchange.full.pop() {
            into.iter_mut().for_each(|target| target.merge(&set));
            set.reset();
            drop(self.exchange.empty.push(set));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_gauges_tell_their_values() {
        let stats = ShardStats::default();
        stats.delivered.add(2);
        stats.delivered.add(3);
        stats.sessions.add(4);
        stats.sessions.sub(9);
        let find = |name| stats.values().into_iter().find(|v| v.name == name).map(|v| (v.kind, v.value));
        assert_eq!(find("delivered"), Some((Kind::Counter, 5)));
        assert_eq!(find("sessions"), Some((Kind::Gauge, 0)));
        assert_eq!(align_of::<ShardStats>(), 128);
    }

    #[test]
    fn every_value_has_a_name_and_a_help_of_its_own() {
        let values = ShardStats::default().values();
        for (i, value) in values.iter().enumerate() {
            assert!(!value.help.is_empty() && !value.help.ends_with('.'), "{}", value.name);
            assert!(values[..i].iter().all(|v| v.name != value.name && v.help != value.help), "{}", value.name);
        }
    }

    #[test]
    fn histograms_cross_without_loss_even_if_the_control_thread_is_away() {
        let (mut shard, mut control) = stage_histograms();
        for second in 0..100 {
            for _ in 0..10 {
                shard.record(LatencyStage::Commit, 100 + second);
            }
            shard.publish();
        }
        let (mut window, mut total) = (HistogramSet::default(), HistogramSet::default());
        control.collect(&mut [&mut window, &mut total]);
        shard.publish();
        control.collect(&mut [&mut window, &mut total]);
        assert_eq!(total.count(LatencyStage::Commit), 1000);
        assert_eq!(window.count(LatencyStage::Commit), 1000);
        assert_eq!(total.sum_us(LatencyStage::Commit), (100..200).sum::<u64>() * 10);
        assert!(control.exchange.empty.len() == SPARE_SETS, "all sets are back");
        let median = total.quantile_us(LatencyStage::Commit, 0.5);
        assert!((147..=152).contains(&median), "{median}");
    }

    #[test]
    fn ranges_add_up_to_the_count() {
        let mut set = HistogramSet::default();
        for micros in 0..5000 {
            set.record(LatencyStage::Delivery, micros);
        }
        set.record(LatencyStage::Delivery, u64::MAX);
        let edges = [0, 100, 250, 1000, 2500, u64::MAX];
        let sum: u64 = edges.windows(2).map(|w| set.count_between(LatencyStage::Delivery, w[0], w[1])).sum();
        assert_eq!(sum, 5001);
    }
}
