//! What a client submits, how, and what became of it.

use crate::rt::sim::Reading;
use crate::sim::guise::{Door, Guise};
use crate::time::{Moment, Wall};
use std::time::Duration;

/// A message to submit.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Its number: in its header, and unlike that of every other.
    pub mark: u32,
    /// Reverse-path; may be empty.
    pub sender: String,
    /// Forward-paths.
    pub recipients: Vec<String>,
    /// Fields of its header beside the one with its number, each with CRLF.
    pub header: String,
    /// What stands behind the empty line, in wire form: dots doubled, CRLF at its end, without the final dot.
    pub body: Vec<u8>,
}

impl Letter {
    /// The data as it goes by BDAT: no dots doubled, none at the end.
    pub fn bare(&self) -> Vec<u8> {
        let wire = self.wire();
        let lines = wire[..wire.len() - 3].split_inclusive(|b| *b == b'\n');
        lines.flat_map(|line| line.strip_prefix(b".").unwrap_or(line)).copied().collect()
    }

    /// The data as the client sends it, with the final dot.
    pub fn wire(&self) -> Vec<u8> {
        let mut wire = format!("{}X-Test: {}\r\n\r\n", self.header, self.mark).into_bytes();
        wire.extend_from_slice(&self.body);
        wire.extend_from_slice(b".\r\n");
        wire
    }
}

/// How a session is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// QUIT, and what belongs to it.
    Quit,
    /// The end of the stream.
    Close,
    /// A reset.
    Reset,
    /// The host forgets the connection.
    Vanish,
    /// Nothing is said any more: the relay must end it.
    Stall,
}

/// How a session goes.
#[derive(Clone, Debug)]
pub struct Style {
    /// Commands are sent together.
    pub pipelines: bool,
    /// Octets of data at a time.
    pub piece: usize,
    /// Pause between the pieces.
    pub pause: Duration,
    /// The end when all is sent.
    pub leave: Leave,
    /// The end before: in front of the so many-th thing it sends.
    pub accident: Option<(u32, Leave)>,
    /// How it reads replies.
    pub reading: Reading,
    /// Commands that are none, in front of each letter.
    pub noise: u32,
    /// The end right behind the last octet of each message, before it is answered.
    pub hasty: Option<Leave>,
    /// Commands follow each message without waiting for its answer.
    pub trailing: bool,
    /// Where it comes in, and as whom.
    pub guise: Guise,
}

/// One who pipelines, sends all at once, reads what comes and says QUIT.
impl Default for Style {
    fn default() -> Self {
        Style {
            pipelines: true,
            piece: 5000,
            pause: Duration::ZERO,
            leave: Leave::Quit,
            accident: None,
            reading: Reading::All,
            noise: 0,
            hasty: None,
            trailing: false,
            guise: Guise::default(),
        }
    }
}

/// What became of one submission.
#[derive(Clone, Debug)]
pub struct Sent {
    /// What was submitted.
    pub letter: Letter,
    /// The recipients that were taken with 250.
    pub taken: Vec<String>,
    /// When the final dot was sent, if it was.
    pub ended: Option<Moment>,
    /// The client went away, or never reads: it could not learn what became of it.
    pub left: bool,
    /// The reply to it, and when.
    pub verdict: Option<(String, Moment, Wall)>,
    /// The replies to its commands that were no.
    pub declined: Vec<String>,
    /// Those of them to MAIL (an empty path) and RCPT: the path, the reply and when it came.
    pub denied: Vec<(String, String, Moment)>,
    /// When MAIL was sent.
    pub begun: Moment,
    /// When MAIL was granted, and each of `taken`.
    pub granted: (Option<Moment>, Vec<Moment>),
    /// By which way it came.
    pub door: Door,
}

impl Sent {
    /// The id under which it was acknowledged.
    pub fn accepted(&self) -> Option<&str> {
        self.verdict.as_ref()?.0.strip_prefix("250 2.0.0 ")?.strip_suffix(" queued")
    }

    /// Whether the relay said that it does not take it.
    pub fn refused(&self) -> bool {
        self.verdict.as_ref().is_some_and(|(reply, _, _)| reply.starts_with(['4', '5']))
    }
}
