//! What /metrics says: the shards' counters and gauges, latencies per stage, and the process's own figures, in the
//! OpenMetrics text that Prometheus reads.
//!
//! Inputs: [`ShardStats`] of every shard (read as they are), histograms as the shards hand them over. Outputs: text, made
//! when it is asked for. Lives on the control thread.
//!
//! Latencies are exported twice: as a histogram (cumulative since the start; sums over machines are meaningful), and as
//! quantiles over the last minute (exact to two digits, for a look by eye; they cannot be averaged).

use crate::limits::{STAGE_WINDOW_SLOT, STAGE_WINDOW_SLOTS};
use crate::shard::stats::{HistogramSet, HistogramSource, Kind, LatencyStage, ShardStats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Quantiles of the last minute.
const QUANTILES: [(f64, &str); 4] = [(0.5, "0.5"), (0.9, "0.9"), (0.99, "0.99"), (0.999, "0.999")];

/// Upper edges of the cumulative buckets, µs: from a fast commit to the age at which mail is given up.
const EDGES_US: [u64; 20] = [
    50,
    100,
    250,
    500,
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    5_000_000,
    30_000_000,
    300_000_000,
    3_600_000_000,
    14_400_000_000,
    86_400_000_000,
];

/// Exemplars of a histogram's buckets, which we have none of.
type Exemplars<'a> = HashMap<usize, Exemplar<[(&'a str, &'a str); 0], f64>>;
const NO_EXEMPLARS: Option<&Exemplars<'static>> = None;

/// All of it. Lives on the control thread.
pub struct Metrics {
    registry: Registry,
    shared: Arc<Shared>,
    sources: Vec<HistogramSource>,
}

/// What the collector reads. Both users are on the control thread, so the lock is never waited for; the registry asks
/// for `Sync`.
struct Shared {
    shards: Vec<Arc<ShardStats>>,
    latencies: Mutex<Latencies>,
    own: Own,
}

/// The control plane's own figures.
#[derive(Debug, Default)]
pub struct Own {
    /// Event lines handed to the log.
    pub event_lines: AtomicU64,
    /// Octets written to the event log.
    pub event_bytes: AtomicU64,
    /// Lines lost by failed writes.
    pub event_lines_lost: AtomicU64,
    /// Failed writes of the event log.
    pub event_write_errors: AtomicU64,
    /// Events dropped by the shards because their queue was full.
    pub events_dropped: AtomicU64,
    /// 1 while draining.
    pub draining: AtomicU64,
}

struct Latencies {
    total: Box<HistogramSet>,
    /// Newest last.
    window: VecDeque<Box<HistogramSet>>,
    slot_began: Instant,
}

impl Metrics {
    /// For these shards, in their order.
    pub fn new(shards: Vec<(Arc<ShardStats>, HistogramSource)>) -> Metrics {
        let (stats, sources): (Vec<_>, Vec<_>) = shards.into_iter().unzip();
        let shared = Arc::new(Shared {
            shards: stats,
            latencies: Mutex::new(Latencies {
                total: Box::default(),
                window: VecDeque::from([Box::default()]),
                slot_began: Instant::now(),
            }),
            own: Own::default(),
        });
        let mut registry = Registry::with_prefix("ringpost");
        registry.register_collector(Box::new(Exported(Arc::clone(&shared))));
        Metrics { registry, shared, sources }
    }

    /// The control plane's own figures.
    pub fn own(&self) -> &Own {
        &self.shared.own
    }

    /// Takes what the shards have measured since the last time; about once a second.
    pub fn collect(&mut self) {
        let mut guard = self.shared.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let latencies = &mut *guard;
        let slots = latencies.slot_began.elapsed().as_nanos() / STAGE_WINDOW_SLOT.as_nanos();
        if slots > 0 {
            latencies.slot_began = Instant::now();
            for _ in 0..slots.min(STAGE_WINDOW_SLOTS as u128) {
                let mut slot = if latencies.window.len() >= STAGE_WINDOW_SLOTS {
                    latencies.window.pop_front().unwrap_or_default()
                } else {
                    Box::default()
                };
                slot.reset();
                latencies.window.push_back(slot);
            }
        }
        let newest = latencies.window.back_mut().expect("a window has a slot from the start");
        for source in &mut self.sources {
            source.collect(&mut [newest, &mut latencies.total]);
        }
    }

    /// The text for a scrape.
    pub fn text(&mut self) -> String {
        self.collect();
        let mut text = String::with_capacity(32 << 10);
        encode(&mut text, &self.registry).expect("a String takes everything");
        text
    }
}

struct Exported(Arc<Shared>);

impl fmt::Debug for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Exported")
    }
}

impl Collector for Exported {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let shared = &*self.0;
        shards(&shared.shards, &mut encoder)?;
        latencies(&shared.latencies.lock().unwrap_or_else(PoisonError::into_inner), &mut encoder)?;
        own(&shared.own, &mut encoder)?;
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let mut info = encoder.encode_descriptor("build", "The version that runs", None, MetricType::Info)?;
        info.encode_info(&version)?;
        process(&mut encoder)
    }
}

fn shards(shards: &[Arc<ShardStats>], encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let values: Vec<_> = shards.iter().map(|shard| shard.values()).collect();
    let names: Vec<String> = (0..shards.len()).map(|shard| shard.to_string()).collect();
    let Some(first) = values.first() else { return Ok(()) };
    for (index, value) in first.iter().enumerate() {
        let kind = match value.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        let mut family = encoder.encode_descriptor(value.name, value.help, None, kind)?;
        for (shard, name) in values.iter().zip(&names) {
            number(shard[index].kind, shard[index].value, family.encode_family(&[("shard", name.as_str())])?)?;
        }
    }
    Ok(())
}

fn number(kind: Kind, value: u64, encoder: MetricEncoder<'_>) -> fmt::Result {
    match kind {
        Kind::Counter => ConstCounter::new(value).encode(encoder),
        Kind::Gauge => ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(encoder),
    }
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

fn latencies(latencies: &Latencies, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Latency per stage since the start, in seconds";
    let mut family = encoder.encode_descriptor("stage_latency_seconds", help, None, MetricType::Histogram)?;
    for stage in LatencyStage::ALL {
        let total = &latencies.total;
        let mut low = 0;
        let mut counted = 0;
        let mut buckets = Vec::with_capacity(EDGES_US.len() + 1);
        for high in EDGES_US {
            let count = total.count_between(stage, low, high);
            buckets.push((seconds(high), count));
            counted += count;
            low = high;
        }
        // `encode_histogram` calls its last bucket +Inf.
        buckets.push((f64::MAX, total.count(stage).saturating_sub(counted)));
        let labels = [("stage", stage.name())];
        let mut metric = family.encode_family(&labels)?;
        metric.encode_histogram(seconds(total.sum_us(stage)), total.count(stage), &buckets, NO_EXEMPLARS)?;
    }

    let mut recent = HistogramSet::default();
    latencies.window.iter().for_each(|slot| recent.merge(slot));
    let help = "Quantiles of the latency per stage over the last minute, in seconds, all shards together";
    let mut family = encoder.encode_descriptor("stage_latency_recent_seconds", help, None, MetricType::Gauge)?;
    for stage in LatencyStage::ALL.into_iter().filter(|stage| recent.count(*stage) > 0) {
        for (quantile, name) in QUANTILES {
            let value = seconds(recent.quantile_us(stage, quantile));
            let labels = [("stage", stage.name()), ("quantile", name)];
            ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn own(own: &Own, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    for (name, help, kind, value) in [
        ("event_lines", "Events handed to the event log", Kind::Counter, &own.event_lines),
        ("event_log_bytes", "Octets written to the event log", Kind::Counter, &own.event_bytes),
        ("event_lines_lost", "Events lost because the log could not be written", Kind::Counter, &own.event_lines_lost),
        ("event_log_write_errors", "Writes of the event log that failed", Kind::Counter, &own.event_write_errors),
        (
            "event_queue_dropped",
            "Events dropped because a queue to the control thread was full",
            Kind::Counter,
            &own.events_dropped,
        ),
        ("draining", "1 while the process drains before it ends", Kind::Gauge, &own.draining),
    ] {
        let value = value.load(Ordering::Relaxed);
        match kind {
            Kind::Counter => {
                ConstCounter::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
            }
            Kind::Gauge => {
                let value = i64::try_from(value).unwrap_or(i64::MAX);
                ConstGauge::new(value).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
            }
        }
    }
    Ok(())
}

/// Figures of the process from /proc; one that cannot be read is left out.
fn process(encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim_start_matches(':').trim().split(' ').next()?.parse::<i64>().ok()
    };
    for (name, help, key) in [
        ("process_resident_memory_bytes", "Resident memory of the process", "VmRSS"),
        ("process_resident_memory_peak_bytes", "Highest resident memory of the process", "VmHWM"),
    ] {
        if let Some(kib) = kib(key) {
            ConstGauge::new(kib * 1024).encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
    }
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        let help = "File descriptors open";
        let open = i64::try_from(entries.count()).unwrap_or(i64::MAX);
        ConstGauge::new(open).encode(encoder.encode_descriptor(
            "process_open_fds",
            help,
            None,
            MetricType::Gauge,
        )?)?;
    }
    if let Some(cpu) = cpu_seconds() {
        let help = "Processor time of the process, user and system, in seconds";
        let name = "process_cpu_seconds";
        ConstCounter::new(cpu).encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
    }
    Ok(())
}

/// Fields 14 and 15 of /proc/self/stat, counted behind the command's name; USER_HZ is 100 on every Linux of today.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u32 = fields.next()?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / 100.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::shard::stats::stage_histograms;
    use std::collections::BTreeMap;

    /// Reads the exposition format strictly: every sample has a number, belongs to the family declared last with HELP and
    /// TYPE, and appears once.
    pub(in crate::control) fn parse(text: &str) -> BTreeMap<String, f64> {
        let mut samples = BTreeMap::new();
        let (mut family, mut helped) = (String::new(), String::new());
        assert!(text.ends_with("# EOF\n"));
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                helped = rest.split_once(' ').unwrap().0.to_owned();
                assert!(rest.len() > helped.len() + 5, "{line}");
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                family = rest.split_once(' ').unwrap().0.to_owned();
                assert_eq!(family, helped);
                assert!(family.starts_with("ringpost_"), "{line}");
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                assert!(name.starts_with(&family), "{line} under {family}");
                assert!(samples.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{line} twice");
            }
        }
        samples
    }

    #[test]
    fn the_text_parses_and_tells_what_the_shards_counted() {
        let stats: Vec<_> = (0..2).map(|_| Arc::new(ShardStats::default())).collect();
        let (mut histograms, source) = stage_histograms();
        let (_other, idle) = stage_histograms();
        stats[1].delivered.add(7);
        stats[0].sessions.set(3);
        let mut metrics = Metrics::new(vec![(Arc::clone(&stats[0]), source), (Arc::clone(&stats[1]), idle)]);
        for micros in [75, 300, 300, 2_000_000] {
            histograms.record(LatencyStage::Commit, micros);
        }
        histograms.record(LatencyStage::Total, u64::MAX);
        histograms.publish();
        let text = metrics.text();
        let samples = parse(&text);
        assert_eq!(samples["ringpost_delivered_total{shard=\"1\"}"], 7.0, "{text}");
        assert_eq!(samples["ringpost_sessions{shard=\"0\"}"], 3.0);
        let bucket =
            |le: &str| samples[&format!("ringpost_stage_latency_seconds_bucket{{le=\"{le}\",stage=\"commit\"}}")];
        assert_eq!(
            [bucket("0.00005"), bucket("0.0001"), bucket("0.0005"), bucket("5.0"), bucket("+Inf")],
            [0.0, 1.0, 3.0, 4.0, 4.0]
        );
        assert_eq!(samples["ringpost_stage_latency_seconds_count{stage=\"commit\"}"], 4.0);
        assert!((samples["ringpost_stage_latency_seconds_sum{stage=\"commit\"}"] - 2.000_675).abs() < 1e-9);
        let median = samples["ringpost_stage_latency_recent_seconds{stage=\"commit\",quantile=\"0.5\"}"];
        assert!((median - 0.0003).abs() < 0.000_005, "{median}");
        assert_eq!(samples["ringpost_stage_latency_seconds_bucket{le=\"+Inf\",stage=\"total\"}"], 1.0);
        assert!(samples["ringpost_process_resident_memory_bytes"] > 1e6);
        assert!(samples.contains_key("ringpost_process_cpu_seconds_total"));
    }

    #[test]
    fn operations_md_explains_every_metric_and_names_no_other() {
        const MANUAL: &str = include_str!("../../docs/operations.md");
        let (mut histograms, source) = stage_histograms();
        histograms.record(LatencyStage::Commit, 1);
        histograms.publish();
        let text = Metrics::new(vec![(Arc::default(), source)]).text();
        let mut exported: Vec<String> = Vec::new();
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            exported.push(format!("{name}{suffix}"));
        }
        assert!(exported.len() > 40);
        for name in &exported {
            assert!(MANUAL.contains(&format!("`{name}`")), "docs/operations.md does not explain {name}");
        }
        for word in MANUAL.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            assert!(
                !word.starts_with("ringpost_") || exported.iter().any(|name| name == word),
                "{word} is not exported"
            );
        }
    }
}
