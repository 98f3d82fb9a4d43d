//! How a simulated next hop behaves. Inputs: none, the world sets it. Outputs: answers to what it announces. It refuses to
//! act: that is the hop's.

use crate::rt::sim::Reading;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Where a reply belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names of the commands")]
pub enum At {
    Greeting,
    Ehlo,
    Mail,
    /// MAIL on a connection that has carried one before; what is set for `Mail` goes first.
    MailAgain,
    Rcpt,
    Data,
    Quit,
    /// The reply to the final dot.
    Final,
}

/// What the hop does there instead of the usual.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// These lines, with their CRLF.
    Say(String),
    /// These lines, and the end of the connection.
    SayAndClose(String),
    /// The end of the connection.
    Close,
    /// A reset.
    Reset,
    /// The host forgets the connection: half-open.
    Vanish,
    /// Not a word any more on this connection.
    Silence,
    /// Octets that are no reply.
    Garbage,
}

/// How a hop behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mood {
    /// Connections are refused.
    pub refuses: bool,
    /// What it does, where, and how often in a thousand.
    pub acts: Vec<(At, u32, Act)>,
    /// A recipient is told 451 until so long after it was first named.
    pub greylist: Option<Duration>,
    /// Above it, 421 is the greeting.
    pub max_open: Option<usize>,
    /// Each reply comes so late.
    pub delay: Duration,
    /// Replies come in pieces of an octet.
    pub dribbles: bool,
    /// How it reads.
    pub reading: Reading,
    /// Closes within a body after so many octets, once for each entry.
    pub cuts: VecDeque<usize>,
    /// What it announces.
    pub size: Option<u64>,
    /// 8BITMIME is announced.
    pub eight_bit: bool,
    /// PIPELINING is announced.
    pub pipelining: bool,
    /// What else it announces, each with what stands behind it.
    pub extensions: Vec<String>,
    /// EHLO is unknown: 502, only HELO works.
    pub old: bool,
    /// Replies to RCPT by address, with CRLF, the next first; when none is left, as to others.
    pub rcpt: BTreeMap<String, VecDeque<String>>,
    /// Recipients refused for good, in a thousand: by their name, always the same ones.
    pub unknown_permille: u32,
}

impl Default for Mood {
    fn default() -> Self {
        Mood {
            refuses: false,
            acts: Vec::new(),
            greylist: None,
            max_open: None,
            delay: Duration::ZERO,
            dribbles: false,
            reading: Reading::All,
            cuts: VecDeque::new(),
            size: None,
            eight_bit: true,
            pipelining: true,
            extensions: Vec::new(),
            old: false,
            rcpt: BTreeMap::new(),
            unknown_permille: 0,
        }
    }
}

/// What a hop has announced on one connection, a line for each keyword.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced(pub Vec<String>);

impl Announced {
    /// Whether this keyword is among them.
    pub fn announces(&self, keyword: &str) -> bool {
        self.extension(keyword).is_some()
    }

    /// What stands behind a keyword.
    pub fn extension(&self, keyword: &str) -> Option<&str> {
        self.0.iter().find_map(|line| match line.split_once(' ') {
            Some((word, rest)) if word == keyword => Some(rest),
            None if line == keyword => Some(""),
            _ => None,
        })
    }

    /// A figure of LIMITS (RFC 9422).
    pub fn limit(&self, name: &str) -> Option<usize> {
        let words = self.extension("LIMITS")?.split(' ');
        words.filter_map(|word| word.split_once('=')).find(|(word, _)| *word == name)?.1.parse().ok()
    }

    /// What a command says that was not announced to be taken.
    pub fn unannounced<'l>(&self, line: &'l str) -> Option<&'l str> {
        line.rsplit_once('>')?.1.split(' ').filter(|p| !p.is_empty()).find(|parameter| {
            let keyword = match parameter.split('=').next().unwrap_or(parameter) {
                "BODY" if *parameter == "BODY=BINARYMIME" => "BINARYMIME",
                "BODY" => "8BITMIME",
                "RET" | "ENVID" | "NOTIFY" | "ORCPT" => "DSN",
                "BY" => "DELIVERBY",
                other => other,
            };
            !self.announces(keyword)
        })
    }
}
