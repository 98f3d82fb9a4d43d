//! What happened in a simulation, as one number and, if wanted, as text.
//!
//! Every event that a shard or a host is given and every effect that one has goes in, with its moment and its bytes, so
//! two runs with the same hash did the same. Refuses to influence the run: it draws no random numbers.

use super::rng::mix;
use crate::time::Moment;
use std::fmt;

/// Where the text of a trace goes, a line at a time.
pub type Lines = Box<dyn FnMut(fmt::Arguments<'_>)>;

/// See the module.
pub struct Trace {
    hash: u64,
    records: u64,
    lines: Option<Lines>,
}

impl Trace {
    pub(super) fn new() -> Self {
        Trace { hash: 0, records: 0, lines: None }
    }

    /// From now on every record goes to `lines` as text too.
    pub fn print(&mut self, lines: Lines) {
        self.lines = Some(lines);
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Records so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    fn word(&mut self, word: u64) {
        self.hash = mix(self.hash.rotate_left(5) ^ word);
    }

    /// One record: who, what, and the bytes that went with it.
    pub(super) fn record(&mut self, at: Moment, who: &dyn fmt::Display, what: &'static str, n: u64, bytes: &[u8]) {
        self.records += 1;
        self.word(at.0);
        self.word(what.len() as u64 ^ u64::from(what.as_bytes()[0]) << 8 ^ n.wrapping_mul(0x1_0001));
        self.word(bytes.len() as u64);
        for piece in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.word(u64::from_le_bytes(word));
        }
        if let Some(lines) = &mut self.lines {
            let micros = at.0 / 1000;
            let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
            let shown = &bytes[..bytes.len().min(160)];
            let more = if shown.len() < bytes.len() { "..." } else { "" };
            let text = shown.escape_ascii();
            let size = bytes.len();
            if bytes.is_empty() {
                lines(format_args!("{seconds:>6}.{micros:06} {who} {what} {n}"));
            } else {
                lines(format_args!("{seconds:>6}.{micros:06} {who} {what} {n} [{size}] {text}{more}"));
            }
        }
    }

    /// A remark of the world: part of the trace as everything else.
    pub fn remark(&mut self, at: Moment, text: &str) {
        self.record(at, &"world", "remark", 0, text.as_bytes());
    }
}
