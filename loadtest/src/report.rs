//! What a run found, as JSON and as a page for people.

use std::fmt::Write;

use serde::Serialize;

use crate::latency::{Latency, Summary};
use crate::send::{Failure, SendReport};

/// The source's part of a report.
#[derive(Serialize, Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Sent {
    /// Messages accepted.
    pub messages: u64,
    /// Deliveries (recipients) accepted.
    pub accepted: u64,
    pub refused: u64,
    pub given_up: u64,
    pub unsent: u64,
    pub retried: u64,
    pub uncertain: u64,
    pub connections: u64,
    pub broken_connections: u64,
    pub failures: Vec<Failure>,
    pub last_error: Option<String>,
    pub seconds: f64,
    pub messages_per_second: f64,
    /// MAIL (open loop: when it was due) to the reply to the final dot.
    pub transaction: Summary,
    /// Final dot to its reply.
    pub commit: Summary,
    pub source_cpu_us_per_message: f64,
}

impl Sent {
    /// From the source's own report.
    pub fn new(r: &SendReport) -> Sent {
        Sent {
            messages: r.messages,
            accepted: r.accepted,
            refused: r.refused,
            given_up: r.given_up,
            unsent: r.unsent,
            retried: r.retried,
            uncertain: r.uncertain,
            connections: r.connections,
            broken_connections: r.broken,
            failures: r.failures.iter().map(|(&(phase, code), &count)| Failure { phase, code, count }).collect(),
            last_error: r.last_error.clone(),
            seconds: r.elapsed.as_secs_f64(),
            messages_per_second: r.messages_per_second(),
            transaction: r.transaction.summary(),
            commit: r.commit.summary(),
            source_cpu_us_per_message: per_message(r.cpu.as_secs_f64(), r.messages),
        }
    }

    /// Lines about what did not go well; none if all did.
    pub fn troubles(&self) -> String {
        let mut t = String::new();
        for (name, n) in [
            ("refused for good", self.refused),
            ("given up after the last try", self.given_up),
            ("never sent", self.unsent),
            ("tried again", self.retried),
            ("without a reply to the final dot", self.uncertain),
            ("connections failed or broken", self.broken_connections),
        ] {
            if n > 0 {
                let _ = writeln!(t, "  {:>12}  {name}", thousands(n));
            }
        }
        for f in &self.failures {
            let _ = writeln!(t, "  {:>12}  {} to {}", thousands(f.count), f.code, f.phase);
        }
        if let (Some(e), false) = (&self.last_error, t.is_empty()) {
            let _ = writeln!(t, "  the last error: {e}");
        }
        t
    }

    /// The page of `send` and, with what the sink cost, of `floor`.
    pub fn page(&self, title: &str, transaction: &Latency, sink_cpu_us: Option<f64>) -> String {
        let mut t = format!("{title}\n\n");
        let _ = writeln!(
            t,
            "  accepted   {:>10} messages  {:>8}/s\n",
            thousands(self.messages),
            thousands(self.messages_per_second.round() as u64)
        );
        t.push_str(&table(&[("accept (MAIL to 250)", &self.transaction), ("commit (dot to 250)", &self.commit)]));
        let _ = write!(t, "\n  accept\n{}", transaction.drawing(40));
        let _ = write!(t, "\n  CPU per message: source {:.1} µs", self.source_cpu_us_per_message);
        if let Some(sink) = sink_cpu_us {
            let _ = write!(t, ", sink {sink:.1} µs, together {:.1} µs", sink + self.source_cpu_us_per_message);
        }
        t.push('\n');
        let troubles = self.troubles();
        if !troubles.is_empty() {
            let _ = write!(t, "\n{troubles}");
        }
        t
    }
}

/// A table of latencies in milliseconds.
pub fn table(rows: &[(&str, &Summary)]) -> String {
    let mut t = format!("  {:<28}{}\n", "latency, ms", Summary::HEAD);
    for (name, summary) in rows {
        let _ = writeln!(t, "  {name:<28}{}", summary.row());
    }
    t
}

/// Microseconds per message.
pub fn per_message(seconds: f64, messages: u64) -> f64 {
    seconds * 1e6 / messages.max(1) as f64
}

/// `1,234,567`.
pub fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

/// `4 KiB`, `300 B`, `1.5 MiB`.
pub fn octets(n: u64) -> String {
    let (scale, unit) = match n {
        0..1024 => return format!("{n} B"),
        1024..1_048_576 => (1024.0, "KiB"),
        _ => (1_048_576.0, "MiB"),
    };
    let v = n as f64 / scale;
    if (v - v.round()).abs() < 0.05 { format!("{v:.0} {unit}") } else { format!("{v:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_for_people() {
        assert_eq!(
            (thousands(0), thousands(999), thousands(1_234_567)),
            ("0".into(), "999".into(), "1,234,567".into())
        );
        assert_eq!((octets(300), octets(4096), octets(1_572_864)), ("300 B".into(), "4 KiB".into(), "1.5 MiB".into()));
    }
}
