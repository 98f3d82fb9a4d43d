//! PURE. The sink's side of one SMTP connection: octets in, replies and arrivals out.
//!
//! Four kinds of method: none but `handle_*` here; its result says what the driver does next. A session lives on the
//! sink's one thread.

use std::collections::HashSet;

use rand::Rng;
use rand::rngs::SmallRng;

use super::behaviour::{Behaviour, Phase};
use super::data::Data;
use crate::traffic::number;

/// Octets of one command line, at most.
const LINE_OCTETS: usize = 4096;
/// Recipients of one transaction, at most; the next gets 452.
const RECIPIENTS: usize = 1000;
/// Recipients that greylisting remembers; above it none is deferred any more.
const GREYLISTED: usize = 4_000_000;

/// What the driver does after a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// All input is taken; send what is in `out`.
    More,
    /// A reply was appended to `out` and this much input taken; call again with the rest (after the delay, if any).
    Replied(usize),
    /// A whole message was taken, and this much input: ask [`Session::arrived`], then as `Replied`.
    Message(usize),
    /// Send what is in `out`, then close.
    Quit,
    /// Close at once, without a word.
    HangUp,
}

/// What all sessions of a sink share: its orders and its dice.
pub struct Shared {
    /// The orders.
    pub behaviour: Behaviour,
    /// The dice.
    pub rng: SmallRng,
    /// Recipients that were deferred once.
    pub greylisted: HashSet<Vec<u8>>,
    /// Octets kept of each message that is kept.
    pub keep_octets: usize,
}

impl Shared {
    fn hang_up(&mut self, phase: Phase) -> bool {
        let rng = &mut self.rng;
        self.behaviour.disconnect.iter().any(|d| d.phase == phase && rng.random::<f64>() < d.odds)
    }

    fn fail(&mut self, phase: Phase, rcpt: &[u8]) -> Option<u16> {
        if self.behaviour.fail.is_empty() {
            return None;
        }
        let rng = &mut self.rng;
        let domain = rcpt.rsplit(|b| *b == b'@').next().unwrap_or_default();
        let applies = |only: &Option<String>| only.as_ref().is_none_or(|d| d.as_bytes().eq_ignore_ascii_case(domain));
        let rule = self
            .behaviour
            .fail
            .iter()
            .find(|f| f.phase == phase && applies(&f.domain) && rng.random::<f64>() < f.odds)?;
        Some(rule.code)
    }
}

/// One connection.
#[derive(Default)]
pub struct Session {
    line: Vec<u8>,
    in_data: bool,
    /// Octets of a chunk that have not come, whether it is the last, and whether it is wanted.
    chunk: Option<(u64, bool, bool)>,
    /// A chunk of this message has come.
    in_chunks: bool,
    helo: Vec<u8>,
    mail_from: Option<Vec<u8>>,
    recipients: Vec<Vec<u8>>,
    /// Buffers of recipients of earlier transactions.
    spare: Vec<Vec<u8>>,
    data: Data,
    /// Hang up once this many octets of the body came.
    cut_at: Option<u64>,
    /// The reply to the message just taken, and whether it says yes.
    accepted: bool,
}

/// A message that came, as the session saw it.
pub struct Arrived<'a> {
    /// The name in EHLO or HELO.
    pub helo: &'a [u8],
    /// Without angle brackets.
    pub mail_from: &'a [u8],
    /// Without angle brackets.
    pub recipients: &'a [Vec<u8>],
    /// Its data.
    pub data: &'a mut Data,
    /// Whether the sink says 250 to it.
    pub accepted: bool,
}

impl Session {
    /// The greeting goes to `out`.
    pub fn handle_connect(&mut self, connections: usize, shared: &mut Shared, out: &mut Vec<u8>) -> Step {
        if shared.behaviour.max_connections > 0 && connections > shared.behaviour.max_connections {
            out.extend_from_slice(b"421 4.3.2 too many connections\r\n");
            return Step::Quit;
        }
        if shared.hang_up(Phase::Connect) {
            return Step::HangUp;
        }
        match shared.fail(Phase::Connect, b"") {
            Some(code) => {
                reply(code, out);
                Step::Quit
            }
            None => {
                out.extend_from_slice(b"220 sink.test ESMTP\r\n");
                Step::Replied(0)
            }
        }
    }

    /// Takes input up to the next reply that is due.
    pub fn handle_input(&mut self, input: &[u8], shared: &mut Shared, out: &mut Vec<u8>) -> Step {
        if input.is_empty() {
            return Step::More;
        }
        if self.in_data {
            return self.handle_data(input, shared, out);
        }
        if let Some((left, ..)) = self.chunk {
            let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
            return self.handle_chunk(&input[..taken], taken, shared, out);
        }
        let Some(end) = memchr::memchr(b'\n', input) else {
            if self.line.len() + input.len() > LINE_OCTETS {
                out.extend_from_slice(b"500 5.5.2 line too long\r\n");
                return Step::Quit;
            }
            self.line.extend_from_slice(input);
            return Step::More;
        };
        if self.line.is_empty() {
            return self.handle_line(&input[..=end], end + 1, shared, out);
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(&input[..=end]);
        let step = self.handle_line(&line, end + 1, shared, out);
        line.clear();
        self.line = line;
        step
    }

    /// The message that [`Step::Message`] announced.
    pub fn arrived(&mut self) -> Arrived<'_> {
        Arrived {
            helo: &self.helo,
            mail_from: self.mail_from.as_deref().unwrap_or_default(),
            recipients: &self.recipients,
            data: &mut self.data,
            accepted: self.accepted,
        }
    }

    fn handle_line(&mut self, line: &[u8], used: usize, shared: &mut Shared, out: &mut Vec<u8>) -> Step {
        let line = line.trim_ascii_end();
        let mut verb: [u8; 4] = line.get(..4).and_then(|v| v.try_into().ok()).unwrap_or_default();
        verb.make_ascii_uppercase();
        let phase = match &verb {
            b"MAIL" => Phase::Mail,
            b"RCPT" => Phase::Rcpt,
            b"DATA" => Phase::Data,
            b"EHLO" | b"HELO" => Phase::Ehlo,
            b"BDAT" if shared.behaviour.chunking => return self.handle_bdat(line, used, shared, out),
            b"RSET" => {
                self.next_transaction();
                return say(b"250 2.0.0 ok\r\n", used, out);
            }
            b"NOOP" => return say(b"250 2.0.0 ok\r\n", used, out),
            b"QUIT" => {
                out.extend_from_slice(b"221 2.0.0 bye\r\n");
                return Step::Quit;
            }
            _ => return say(b"500 5.5.1 what?\r\n", used, out),
        };
        if phase == Phase::Mail {
            self.next_transaction();
        }
        let path = match phase {
            Phase::Mail | Phase::Rcpt => path_of(line).unwrap_or_default(),
            _ => &[],
        };
        if shared.hang_up(phase) {
            return Step::HangUp;
        }
        let recipient = if phase == Phase::Data { self.recipients.first().map_or(path, Vec::as_slice) } else { path };
        if let Some(code) = shared.fail(phase, recipient) {
            return refuse(code, used, out);
        }
        match phase {
            Phase::Mail => {
                self.mail_from = Some(path.to_vec());
                say(b"250 2.1.0 ok\r\n", used, out)
            }
            Phase::Rcpt => self.handle_rcpt(path, used, shared, out),
            Phase::Data if self.recipients.is_empty() => say(b"554 5.5.1 no valid recipients\r\n", used, out),
            Phase::Data => {
                self.in_data = true;
                self.data.reset(shared.keep_octets);
                self.cut_at = shared.hang_up(Phase::Body).then(|| shared.rng.random_range(0..4096));
                say(b"354 go ahead\r\n", used, out)
            }
            _ => {
                self.next_transaction();
                self.helo = line[4..].trim_ascii().to_vec();
                if &verb == b"HELO" {
                    return say(b"250 sink.test\r\n", used, out);
                }
                out.extend_from_slice(b"250-sink.test\r\n");
                if shared.behaviour.pipelining {
                    out.extend_from_slice(b"250-PIPELINING\r\n");
                }
                if shared.behaviour.chunking {
                    out.extend_from_slice(b"250-CHUNKING\r\n");
                }
                say(b"250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 2147483648\r\n", used, out)
            }
        }
    }

    fn handle_rcpt(&mut self, path: &[u8], used: usize, shared: &mut Shared, out: &mut Vec<u8>) -> Step {
        if self.mail_from.is_none() || path.is_empty() {
            return say(b"503 5.5.1 MAIL first, and a path\r\n", used, out);
        }
        if self.recipients.len() == RECIPIENTS {
            return say(b"452 4.5.3 too many recipients\r\n", used, out);
        }
        if shared.behaviour.greylist && shared.greylisted.len() < GREYLISTED && shared.greylisted.insert(path.to_vec())
        {
            return say(b"450 4.2.0 greylisted, come back later\r\n", used, out);
        }
        let mut kept = self.spare.pop().unwrap_or_default();
        kept.extend_from_slice(path);
        self.recipients.push(kept);
        say(b"250 2.1.5 ok\r\n", used, out)
    }

    fn handle_data(&mut self, input: &[u8], shared: &mut Shared, out: &mut Vec<u8>) -> Step {
        let end = self.data.feed(input);
        if self.cut_at.is_some_and(|at| end.is_some() || self.data.octets() >= at) {
            return Step::HangUp;
        }
        let Some(used) = end else { return Step::More };
        self.in_data = false;
        self.handle_end(used, shared, out)
    }

    /// RFC 3030: the octets come whatever the reply is.
    fn handle_bdat(&mut self, line: &[u8], used: usize, shared: &mut Shared, out: &mut Vec<u8>) -> Step {
        let mut words = line.split(|b| *b == b' ').skip(1);
        let Some(octets) = words.next().and_then(number) else { return say(b"501 5.5.4 octets?\r\n", used, out) };
        let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case(b"LAST"));
        let wanted = !self.recipients.is_empty();
        if wanted && !std::mem::replace(&mut self.in_chunks, true) {
            self.data.reset(shared.keep_octets);
            self.cut_at = shared.hang_up(Phase::Body).then(|| shared.rng.random_range(0..4096));
        }
        self.chunk = Some((octets, last, wanted));
        if octets > 0 { Step::Replied(used) } else { self.handle_chunk(b"", used, shared, out) }
    }

    fn handle_chunk(&mut self, octets: &[u8], used: usize, shared: &mut Shared, out: &mut Vec<u8>) -> Step {
        let Some((left, last, wanted)) = self.chunk.take() else { return Step::Replied(used) };
        let left = left - octets.len() as u64;
        if wanted {
            self.data.feed_chunk(octets);
            if self.cut_at.is_some_and(|at| (left == 0 && last) || self.data.octets() >= at) {
                return Step::HangUp;
            }
        }
        match (left, wanted) {
            (0, false) => say(b"503 5.5.1 no valid recipients\r\n", used, out),
            (0, true) if last => self.handle_end(used, shared, out),
            (0, true) => say(b"250 2.0.0 ok\r\n", used, out),
            _ => {
                self.chunk = Some((left, last, wanted));
                Step::Replied(used)
            }
        }
    }

    /// The message is here.
    fn handle_end(&mut self, used: usize, shared: &mut Shared, out: &mut Vec<u8>) -> Step {
        let first = self.recipients.first().map_or(&[][..], Vec::as_slice);
        let refused = shared.fail(Phase::Dot, first);
        self.accepted = refused.is_none();
        match refused {
            Some(code) => reply(code, out),
            None => out.extend_from_slice(b"250 2.0.0 ok\r\n"),
        }
        Step::Message(used)
    }

    /// After the arrival was taken note of: whether to hang up instead of saying so.
    pub fn handle_arrival_noted(&mut self, shared: &mut Shared) -> bool {
        self.next_transaction();
        shared.hang_up(Phase::Dot)
    }

    fn next_transaction(&mut self) {
        self.in_chunks = false;
        self.mail_from = None;
        for mut r in self.recipients.drain(..) {
            r.clear();
            self.spare.push(r);
        }
    }
}

fn say(text: &[u8], used: usize, out: &mut Vec<u8>) -> Step {
    out.extend_from_slice(text);
    Step::Replied(used)
}

fn refuse(code: u16, used: usize, out: &mut Vec<u8>) -> Step {
    reply(code, out);
    // RFC 5321 §3.8: 421 says that the connection closes.
    if code == 421 { Step::Quit } else { Step::Replied(used) }
}

fn reply(code: u16, out: &mut Vec<u8>) {
    let class = code / 100;
    out.extend_from_slice(format!("{code} {class}.3.0 as ordered\r\n").as_bytes());
}

/// What stands between the angle brackets of a MAIL or RCPT command.
fn path_of(line: &[u8]) -> Option<&[u8]> {
    let open = memchr::memchr(b'<', line)?;
    let close = open + memchr::memchr(b'>', &line[open..])?;
    Some(&line[open + 1..close])
}

/// The delivery id of `u<id>@domain`.
pub fn delivery_id(path: &[u8]) -> Option<u64> {
    let local = &path[..memchr::memchr(b'@', path)?];
    number(local.strip_prefix(b"u")?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::behaviour::{Disconnect, Fail};
    use super::*;
    use rand::SeedableRng;

    fn shared(behaviour: Behaviour) -> Shared {
        Shared { behaviour, rng: SmallRng::seed_from_u64(1), greylisted: HashSet::new(), keep_octets: 0 }
    }

    /// Plays `input` in pieces of `step`; returns replies, recipients per message, and whether it hung up.
    fn play(b: Behaviour, input: &[u8], step: usize) -> (String, Vec<usize>, bool) {
        let (mut shared, mut s, mut out, mut got) = (shared(b), Session::default(), Vec::new(), Vec::new());
        s.handle_connect(1, &mut shared, &mut out);
        for mut piece in input.chunks(step) {
            loop {
                match s.handle_input(piece, &mut shared, &mut out) {
                    Step::More => break,
                    Step::Replied(n) => piece = &piece[n..],
                    Step::Message(n) => {
                        piece = &piece[n..];
                        got.push(s.arrived().recipients.len());
                        if s.handle_arrival_noted(&mut shared) {
                            return (String::from_utf8(out).unwrap(), got, true);
                        }
                    }
                    Step::Quit => return (String::from_utf8(out).unwrap(), got, false),
                    Step::HangUp => return (String::from_utf8(out).unwrap(), got, true),
                }
            }
        }
        (String::from_utf8(out).unwrap(), got, false)
    }

    const TWO: &[u8] =
        b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<u1@d>\r\nRCPT TO:<u2@e>\r\nDATA\r\nA: b\r\n\r\nx\r\n.\r\n\
        mail from:<>\r\nrcpt to:<u3@d>\r\ndata\r\ny\r\n.\r\nQUIT\r\n";

    fn codes(replies: &str) -> Vec<&str> {
        replies.lines().filter(|l| l.as_bytes()[3] == b' ').map(|l| &l[..3]).collect()
    }

    #[test]
    fn takes_mail_however_it_is_cut() {
        for step in 1..TWO.len() {
            let (replies, got, hung) = play(Behaviour::default(), TWO, step);
            let want = ["220", "250", "250", "250", "250", "354", "250", "250", "250", "354", "250", "221"];
            assert_eq!((codes(&replies), got, hung), (want.to_vec(), vec![2, 1], false));
        }
    }

    #[test]
    fn takes_chunks_however_they_are_cut() {
        let flight =
            b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<u1@d>\r\nBDAT 9 LAST\r\nA: b\r\n\r\n.RSET\r\nBDAT 3 LAST\r\nxyz\
            MAIL FROM:<>\r\nRCPT TO:<u3@d>\r\nBDAT 2\r\n\r\nBDAT 0 LAST\r\nQUIT\r\n";
        for step in 1..flight.len() {
            let (replies, got, hung) = play(Behaviour { chunking: true, ..Default::default() }, flight, step);
            let want = ["220", "250", "250", "250", "250", "250", "503", "250", "250", "250", "250", "221"];
            assert_eq!((codes(&replies), got, hung), (want.to_vec(), vec![1, 1], false), "by {step}");
        }
    }

    #[test]
    fn refuses_as_told() {
        let fail = vec![Fail::parse("rcpt:550:1@e").unwrap()];
        let (replies, got, _) = play(Behaviour { fail, ..Default::default() }, TWO, 999);
        assert_eq!((&codes(&replies)[3..5], got), (&["250", "550"][..], vec![1, 1]));
        let (replies, got, _) = play(Behaviour { greylist: true, ..Default::default() }, TWO, 999);
        assert_eq!((codes(&replies)[3], codes(&replies)[5], got), ("450", "554", vec![]));
        let (replies, ..) =
            play(Behaviour { fail: vec![Fail::parse("mail:421:1").unwrap()], ..Default::default() }, TWO, 9);
        assert_eq!(codes(&replies), ["220", "250", "421"]);
    }

    #[test]
    fn hangs_up_as_told() {
        for (rule, messages) in [("before-dot:1", 0), ("after-dot:1", 1), ("mail:1", 0)] {
            let disconnect = vec![Disconnect::parse(rule).unwrap()];
            let (_, got, hung) = play(Behaviour { disconnect, ..Default::default() }, TWO, 7);
            assert_eq!((got.len(), hung), (messages, true), "{rule}");
        }
    }

    #[test]
    fn ids() {
        assert_eq!(delivery_id(b"u12@d1.test"), Some(12));
        assert_eq!(delivery_id(b"user@d1.test"), None);
        assert_eq!(delivery_id(b"u@d1.test"), None);
    }
}
