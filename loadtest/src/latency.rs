//! Latency: recorded in microseconds to three digits, reported as percentiles and as a small drawing.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// One latency. 1 µs to 1 hour, three significant digits; longer counts as an hour.
#[derive(Clone)]
pub struct Latency(Histogram<u64>);

const MAX_US: u64 = 3_600_000_000;

impl Default for Latency {
    fn default() -> Latency {
        Latency(Histogram::new_with_bounds(1, MAX_US, 3).expect("the bounds are constants that hdrhistogram takes"))
    }
}

impl Latency {
    /// Records a time in nanoseconds.
    pub fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record((ns / 1000).clamp(1, MAX_US));
    }

    /// How many were recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The value at a percentile (0 to 100); zero when nothing was recorded.
    pub fn at(&self, percentile: f64) -> Duration {
        Duration::from_micros(if self.0.is_empty() { 0 } else { self.0.value_at_percentile(percentile) })
    }

    /// The figures of a report.
    pub fn summary(&self) -> Summary {
        let ms = |p: f64| self.at(p).as_secs_f64() * 1e3;
        Summary {
            count: self.count(),
            mean_ms: self.0.mean() / 1e3,
            p50_ms: ms(50.0),
            p90_ms: ms(90.0),
            p99_ms: ms(99.0),
            p999_ms: ms(99.9),
            max_ms: self.0.max() as f64 / 1e3,
        }
    }

    /// Bars over steps of 1, 2, 5, 10 ...; `width` columns for the longest. Empty when nothing was recorded.
    pub fn drawing(&self, width: usize) -> String {
        // (from, to, how many)
        let mut rows: Vec<(u64, u64, u64)> = vec![(0, 1, 0)];
        for v in self.0.iter_recorded() {
            while rows[rows.len() - 1].1 < v.value_iterated_to() {
                let step = rows.len();
                let high = [1, 2, 5][step % 3] * 10u64.pow((step / 3) as u32);
                rows.push((rows[step - 1].1, high, 0));
            }
            let last = rows.len() - 1;
            rows[last].2 += v.count_at_value();
        }
        let Some(first) = rows.iter().position(|r| r.2 > 0) else { return String::new() };
        let most = rows.iter().map(|r| r.2).max().unwrap_or(1).max(1);
        let mut text = String::new();
        for &(low, high, n) in &rows[first..] {
            let eighths = ((n as f64 / most as f64) * (width * 8) as f64).ceil() as usize;
            let mut bar = "█".repeat(eighths / 8);
            if !eighths.is_multiple_of(8) {
                bar.push(['▏', '▎', '▍', '▌', '▋', '▊', '▉'][eighths % 8 - 1]);
            }
            let share = 100.0 * n as f64 / self.count() as f64;
            text.push_str(&format!("  {:>7} … {:>7} {share:>5.1} % {bar}\n", scaled(low), scaled(high)));
        }
        text
    }
}

/// Microseconds in a unit that reads well.
fn scaled(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..1_000_000 => format!("{} ms", us / 1_000),
        _ => format!("{} s", us / 1_000_000),
    }
}

/// Percentiles in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
#[allow(missing_docs)]
pub struct Summary {
    pub count: u64,
    pub mean_ms: f64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
}

impl Summary {
    /// One row of a table whose head is [`Summary::HEAD`].
    pub fn row(&self) -> String {
        let cell = |v: f64| match v {
            v if v < 10.0 => format!("{v:>9.2}"),
            v => format!("{v:>9.1}"),
        };
        [self.p50_ms, self.p90_ms, self.p99_ms, self.p999_ms, self.max_ms].map(cell).concat()
    }

    /// Column titles of [`Summary::row`].
    pub const HEAD: &str = "      p50      p90      p99    p99.9      max";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_drawing() {
        let mut l = Latency::default();
        assert_eq!((l.summary().p99_ms, l.drawing(10).as_str()), (0.0, ""));
        for i in 1..=1000 {
            l.record_ns(i * 1_000_000);
        }
        let s = l.summary();
        assert!((s.p50_ms - 500.0).abs() < 1.0 && (s.p99_ms - 990.0).abs() < 1.0 && s.max_ms >= 1000.0);
        let drawn = l.drawing(20);
        assert!(drawn.contains(" 200 ms …  500 ms  30.0 % ████████████"), "{drawn}");
    }
}
