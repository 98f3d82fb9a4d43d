//! The server machine against transcripts, an oracle for message data, and every split of its input.
#![allow(clippy::unwrap_used)]

use super::data::{DataScanner, Fault};
use super::server::{PeerFacts, Question, Server, ServerPolicy, Step, Verdict};
use crate::limits;
use crate::message::MessageId;
use crate::time::Moment;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

const NOW: Moment = Moment(1_000_000_000);

fn policy() -> Arc<ServerPolicy> {
    Arc::new(ServerPolicy::new("mx.example", 1000, 3))
}

fn peer(may_relay: bool) -> PeerFacts {
    PeerFacts::new(IpAddr::V4(Ipv4Addr::LOCALHOST), may_relay)
}

/// A driver of the server machine in a test: the loop around the steps, which is the same for all of them.
pub(super) trait Steps {
    /// The machine, what it says, and the time.
    fn machine(&mut self) -> (&mut Server, &mut Vec<u8>, Moment);

    /// What the machine has not consumed yet.
    fn tail(&mut self) -> &mut Vec<u8>;

    /// Does what a step asks for. Behind StartTls and Close there is none.
    fn take(&mut self, step: Step<'_>);

    fn feed(&mut self, bytes: &[u8]) {
        let mut input = std::mem::take(self.tail());
        input.extend_from_slice(bytes);
        let mut at = 0;
        loop {
            let (server, out, now) = self.machine();
            let (n, step) = server.step(&input[at..], now, out);
            at += n;
            match step {
                Step::NeedInput | Step::Blocked => break,
                Step::StartTls => at = input.len(),
                _ => {}
            }
            let ends = matches!(step, Step::StartTls | Step::Close);
            self.take(step);
            if ends {
                break;
            }
        }
        *self.tail() = input[at..].to_vec();
    }

    fn say(&mut self, bytes: &[u8]) -> String {
        self.machine().1.clear();
        self.feed(bytes);
        String::from_utf8(self.machine().1.clone()).unwrap()
    }

    /// Each line of `script` alone; the codes of the replies (with the enhanced code, if any).
    fn codes(&mut self, script: &[&str]) -> Vec<String> {
        script.iter().map(|line| code(&self.say(format!("{line}\r\n").as_bytes()))).collect()
    }
}

/// A driver that accepts every message.
struct Driver {
    server: Server,
    tail: Vec<u8>,
    out: Vec<u8>,
    collected: Vec<u8>,
    messages: Vec<Vec<u8>>,
    discarded: Vec<Fault>,
    refused: Vec<(String, String)>,
    verdict: Option<Verdict>,
    questions: Vec<Question>,
    tls_begun: bool,
    closed: bool,
}

impl Driver {
    fn new() -> Self {
        Self::with(policy(), true)
    }

    fn with(policy: Arc<ServerPolicy>, may_relay: bool) -> Self {
        let mut out = Vec::new();
        let server = Server::new(policy, peer(may_relay), NOW, &mut out);
        Driver {
            server,
            tail: Vec::new(),
            out,
            collected: Vec::new(),
            messages: Vec::new(),
            discarded: Vec::new(),
            refused: Vec::new(),
            verdict: Some(Verdict::Accepted(MessageId(7))),
            questions: Vec::new(),
            tls_begun: false,
            closed: false,
        }
    }
}

impl Steps for Driver {
    fn machine(&mut self) -> (&mut Server, &mut Vec<u8>, Moment) {
        (&mut self.server, &mut self.out, NOW)
    }

    fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    fn take(&mut self, step: Step<'_>) {
        match step {
            Step::Body(piece) => {
                assert!(!piece.is_empty());
                self.collected.extend_from_slice(piece);
            }
            Step::Message => {
                self.messages.push(std::mem::take(&mut self.collected));
                if let Some(verdict) = self.verdict {
                    self.server.handle_verdict(verdict, NOW, &mut self.out);
                }
            }
            Step::Discarded(fault) => {
                assert!(self.server.in_transaction() && self.server.envelope().recipient_count() > 0);
                self.collected.clear();
                self.discarded.push(fault);
            }
            Step::Refused(r) => self.refused.push((
                String::from_utf8_lossy(r.line).into_owned(),
                String::from_utf8_lossy(&r.reply[..3]).into_owned(),
            )),
            Step::Dropped => self.collected.clear(),
            Step::Ask => self.questions.push(self.server.take_question()),
            Step::StartTls => self.tls_begun = true,
            Step::Close => self.closed = true,
            Step::NeedInput | Step::Blocked => {}
        }
    }
}

fn code(reply: &str) -> String {
    let last = reply.lines().last().unwrap_or_default();
    let enhanced = last.get(4..).and_then(|t| t.split(' ').next()).unwrap_or_default();
    let is_code = enhanced.split('.').count() == 3 && enhanced.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if is_code { format!("{} {enhanced}", &last[..3]) } else { last.get(..3).unwrap_or_default().to_string() }
}

#[track_caller]
fn check(script: &[(&str, &str)]) -> Driver {
    let mut d = Driver::new();
    for (line, expected) in script {
        assert_eq!(code(&d.say(format!("{line}\r\n").as_bytes())), *expected, "{line}");
    }
    d
}

#[test]
fn an_ordinary_session() {
    let mut d = Driver::new();
    assert_eq!(d.out, b"220 mx.example ESMTP Ringpost\r\n");
    let ehlo = d.say(b"EHLO client.example\r\n");
    assert_eq!(
        ehlo,
        "250-mx.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-CHUNKING\r\n250-BINARYMIME\r\n250-SMTPUTF8\r\n250-DSN\r\n\
         250-DELIVERBY\r\n250-MT-PRIORITY\r\n250-LIMITS RCPTMAX=3\r\n250 ENHANCEDSTATUSCODES\r\n"
    );
    assert_eq!(d.server.helo(), b"client.example");
    assert!(d.server.is_esmtp() && !d.server.in_transaction());
    assert_eq!(
        d.codes(&["MAIL FROM:<a@b.example> SIZE=20 BODY=8BITMIME", "RCPT TO:<c@d.example>"]),
        ["250 2.1.0", "250 2.1.5"]
    );
    let e = d.server.envelope();
    assert_eq!(
        (e.sender(), e.is_eight_bit(), e.declared_size, e.recipient_count()),
        (&b"a@b.example"[..], true, 20, 1)
    );
    assert_eq!((e.recipient(0).address, e.recipient(0).domain), (&b"c@d.example"[..], &b"d.example"[..]));
    assert!(d.server.in_transaction());
    assert_eq!(d.say(b"DATA\r\n"), "354 End data with <CR><LF>.<CR><LF>\r\n");
    assert_eq!(d.say(b"Subject: x\r\n\r\n..dot\r\n.\r\n"), "250 2.0.0 0000000000007 queued\r\n");
    assert_eq!(d.messages, [b"Subject: x\r\n\r\n..dot\r\n.\r\n"]);
    assert_eq!(d.server.envelope().recipient_count(), 0);
    assert_eq!(d.say(b"QUIT\r\nMAIL"), "221 2.0.0 mx.example closing connection\r\n");
    assert!(d.closed);
}

#[test]
fn order_and_syntax() {
    check(&[
        ("MAIL FROM:<a@b>", "503 5.5.1"),
        ("RCPT TO:<a@b>", "503 5.5.1"),
        ("DATA", "503 5.5.1"),
        ("EHLO", "501 5.5.4"),
        ("EHLO a b", "501 5.5.4"),
        ("RSET", "250 2.0.0"),
        ("NOOP x", "250 2.0.0"),
        ("HELP", "214 2.0.0"),
        ("VRFY x", "252 2.0.0"),
        ("EXPN x", "502 5.5.1"),
        ("WHAT", "500 5.5.1"),
        ("", "500 5.5.1"),
        ("NO\u{e4}P", "500 5.5.2"),
        ("NOOP \n", "500 5.5.2"),
        ("NOOP \r", "500 5.5.2"),
        ("HELO c.example", "250"),
        ("MAIL FROM:<a@b> SIZE=1", "555 5.5.4"),
        ("EHLO c.example", "250"),
        ("MAIL FROM:<a@b> SIZE=1001", "552 5.3.4"),
        ("MAIL FROM:<a@b> SIZE=1000", "250 2.1.0"),
        ("MAIL FROM:<a@b>", "503 5.5.1"),
        ("DATA", "554 5.5.1"),
        ("RCPT TO:<root>", "501 5.1.3"),
        ("RCPT TO:<Postmaster>", "550 5.1.1"),
        ("RCPT TO:<a@b> FOO=1", "555 5.5.4"),
        ("RCPT TO:a@b", "501 5.1.3"),
        ("RCPT", "501 5.5.4"),
        ("RCPT TO:<1@b>", "250 2.1.5"),
        ("RCPT TO:<2@b>", "250 2.1.5"),
        ("RCPT TO:<3@b>", "250 2.1.5"),
        ("RCPT TO:<4@b>", "452 4.5.3"),
        ("DATA x", "501 5.5.4"),
        ("RSET x", "501 5.5.4"),
        ("RSET", "250 2.0.0"),
        ("RCPT TO:<1@b>", "503 5.5.1"),
        ("MAIL FROM:<>", "250 2.1.0"),
        ("EHLO c.example", "250"),
        ("RCPT TO:<1@b>", "503 5.5.1"),
    ]);
}

#[test]
fn relaying_only_for_own_networks_and_refusals_are_reported() {
    let mut d = Driver::with(policy(), false);
    assert_eq!(
        d.codes(&["EHLO c", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA"]),
        ["250", "250 2.1.0", "550 5.7.1", "554 5.5.1"]
    );
    assert_eq!(d.refused, [("RCPT TO:<c@d>".to_string(), "550".to_string())]);
}

#[test]
fn a_busy_shard_refuses_mail_but_finishes_what_is_open() {
    let mut d = Driver::new();
    d.codes(&["EHLO c", "MAIL FROM:<a@b>"]);
    d.server.set_busy(true);
    assert_eq!(d.codes(&["RCPT TO:<c@d>", "RSET", "MAIL FROM:<a@b>"]), ["250 2.1.5", "250 2.0.0", "452 4.3.1"]);
    d.server.set_busy(false);
    assert_eq!(d.codes(&["MAIL FROM:<a@b>"]), ["250 2.1.0"]);
}

#[test]
fn commands_behind_a_message_wait_for_its_verdict() {
    for (verdict, expected) in [
        (Verdict::Accepted(MessageId(7)), "250 2.0.0 0000000000007 queued\r\n250 2.0.0 OK\r\n"),
        (Verdict::Busy, "452 4.3.1 Too much mail is waiting here, try again later\r\n250 2.0.0 OK\r\n"),
        (Verdict::Full, "452 4.3.1 Insufficient system storage, try again later\r\n250 2.0.0 OK\r\n"),
        (Verdict::LocalError, "451 4.3.0 The message could not be stored here, try again later\r\n250 2.0.0 OK\r\n"),
    ] {
        let mut d = Driver::new();
        d.verdict = None;
        d.say(b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx\r\n.\r\nNOOP\r\n");
        assert_eq!((d.messages.len(), d.tail.as_slice()), (1, &b"NOOP\r\n"[..]));
        assert_eq!(d.server.poll_timeout(), None, "the client owes nothing now");
        assert_eq!(d.say(b""), "");
        d.server.handle_verdict(verdict, NOW, &mut d.out);
        d.feed(b"");
        assert_eq!(String::from_utf8_lossy(&d.out), expected);
        assert!(!d.server.in_transaction());
    }
}

const SESSION: &[u8] = b"EHLO c.example\r\nMAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nRCPT TO:<root>\r\n\
    bogus\nline\r\nDATA\r\nReceived: 1\r\n\r\n..x\r\n\r\ny\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n.\r\n\
    MAIL FROM:<>\r\nRCPT TO:<c@d.example>\r\nDATA\r\na\n.\r\nNOOP\r\n\r\n.\r\nNOOP\r\nQUIT\r\n";

#[test]
fn any_split_gives_the_same_session() {
    let mut whole = Driver::new();
    whole.feed(SESSION);
    assert_eq!(whole.messages, [&b"Received: 1\r\n\r\n..x\r\n\r\ny\r\n.\r\n"[..], b".\r\n"]);
    assert_eq!(whole.discarded, [Fault::BareLf]);
    assert!(whole.closed);
    for size in 1..SESSION.len() {
        let mut d = Driver::new();
        for piece in SESSION.chunks(size) {
            d.feed(piece);
        }
        assert_eq!(String::from_utf8_lossy(&d.out), String::from_utf8_lossy(&whole.out), "pieces of {size}");
        assert_eq!((&d.messages, &d.refused, d.closed), (&whole.messages, &whole.refused, true));
    }
}

#[test]
fn a_line_is_too_long_from_the_first_octet_above_the_limit() {
    for (length, expected) in [
        (limits::COMMAND_LINE_BYTES, "250 2.0.0"),
        (limits::COMMAND_LINE_BYTES + 1, "500 5.5.2"),
        (limits::COMMAND_LINE_BYTES + 2, "500 5.5.2"),
        (limits::COMMAND_LINE_BYTES * 3, "500 5.5.2"),
    ] {
        let line = format!("NOOP {}\r\n", "x".repeat(length - 7));
        for chunk in [1, 2, 3, limits::COMMAND_LINE_BYTES - 1, limits::COMMAND_LINE_BYTES, line.len()] {
            let mut d = Driver::new();
            d.out.clear();
            for piece in line.as_bytes().chunks(chunk) {
                d.feed(piece);
                assert!(d.tail.len() < limits::COMMAND_LINE_BYTES);
            }
            assert_eq!(code(std::str::from_utf8(&d.out).unwrap()), expected, "{length} in {chunk}");
            assert_eq!(d.out.iter().filter(|b| **b == b'\n').count(), 1);
            assert_eq!(d.codes(&["NOOP"]), ["250 2.0.0"]);
        }
    }
}

#[test]
fn output_is_bounded() {
    let mut d = Driver::new();
    d.say(&b"NOOP\r\n".repeat(20_000));
    assert!(d.out.len() < limits::SESSION_OUT_BYTES + 600 && !d.tail.is_empty());
    let before = d.tail.len();
    d.say(b"");
    assert!(d.tail.len() < before);
}

#[test]
fn junk_ends_the_session() {
    let mut d = Driver::new();
    let replies = d.say(&b"JUNK / FOO\r\n".repeat(usize::from(limits::SESSION_ERRORS) + 5));
    assert!(d.closed && replies.ends_with("421 4.7.0 Too many errors, closing the connection\r\n"));
    assert_eq!(replies.lines().count(), usize::from(limits::SESSION_ERRORS) + 1);
}

fn data(d: &mut Driver) {
    assert_eq!(d.codes(&["EHLO c", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA"]).last().unwrap(), "354");
}

#[test]
fn the_size_limit_holds_at_the_octet() {
    for (octets, expected) in [(1000, "250 2.0.0"), (1001, "552 5.3.4"), (5000, "552 5.3.4")] {
        let mut d = Driver::new();
        data(&mut d);
        let body = format!("{}\r\n.\r\n", "x".repeat(octets - 2));
        let cut = body.len() - 5;
        assert_eq!(d.say(&body.as_bytes()[..cut]), "");
        assert_eq!(code(&d.say(&body.as_bytes()[cut..])), expected, "{octets}");
        assert_eq!(d.server.body_bytes(), octets as u64 + 3);
        assert_eq!((d.messages.len(), d.discarded.len()), if octets == 1000 { (1, 0) } else { (0, 1) });
        assert_eq!(d.codes(&["NOOP"]), ["250 2.0.0"]);
    }
}

/// The limit was looked at once a piece: what stood behind it in the same piece was found first, and the reply depended on
/// how the network had cut the data.
#[test]
fn what_is_wrong_first_is_the_reply_in_any_split() {
    for (octets, expected) in [(1000, "554 5.6.0"), (1004, "554 5.6.0"), (1005, "552 5.3.4"), (1500, "552 5.3.4")] {
        // A bare LF, that many octets into data that is larger than 1000.
        let text = format!("{}\n{}\r\n.\r\n", "x".repeat(octets - 1), "y".repeat(600));
        for chunk in [1, 7, 999, 1000, 1004, text.len()] {
            let mut d = Driver::new();
            data(&mut d);
            d.out.clear();
            text.as_bytes().chunks(chunk).for_each(|piece| d.feed(piece));
            assert_eq!(code(std::str::from_utf8(&d.out).unwrap()), expected, "{octets} in pieces of {chunk}");
        }
    }
}

#[test]
fn loops_are_refused() {
    let policy = Arc::new(ServerPolicy::new("mx.example", 100_000, 3));
    let n = limits::RECEIVED_HEADERS as usize;
    for (head, body, expected) in [(n, 0, "250 2.0.0"), (n, n, "250 2.0.0"), (n + 1, 0, "554 5.4.6")] {
        for chunk in (1..70).step_by(3).chain([250, 100_000]) {
            let mut d = Driver::with(Arc::clone(&policy), true);
            data(&mut d);
            let text = format!(
                "{}X-Received: no\r\nreceived : no\r\n.received: no\r\n\r\n{}.\r\n",
                "rEceived: by x\r\n".repeat(head),
                "Received: x\r\n".repeat(body)
            );
            d.out.clear();
            for piece in text.as_bytes().chunks(chunk) {
                d.feed(piece);
            }
            assert_eq!(code(std::str::from_utf8(&d.out).unwrap()), expected, "{head} {body}");
        }
    }
}

#[test]
fn timeouts() {
    let mut d = Driver::new();
    let deadline = d.server.poll_timeout().unwrap();
    assert_eq!(deadline.since(NOW), limits::SERVER_COMMAND_TIMEOUT);
    let mut out = Vec::new();
    assert!(!d.server.handle_timeout(Moment(deadline.0 - 1), &mut out));
    // A partial line buys no time.
    let later = NOW + Duration::from_secs(100);
    assert_eq!(d.server.step(b"NOO", later, &mut out), (0, Step::NeedInput));
    assert_eq!(d.server.poll_timeout(), Some(deadline));
    // A command does.
    assert_eq!(d.server.step(b"NOOP\r\n", later, &mut out), (6, Step::NeedInput));
    assert_eq!(d.server.poll_timeout(), Some(later + limits::SERVER_COMMAND_TIMEOUT));
    out.clear();
    assert!(d.server.handle_timeout(later + limits::SERVER_COMMAND_TIMEOUT, &mut out));
    assert!(out.starts_with(b"421 4.4.2 mx.example"));
    assert_eq!(d.server.step(b"NOOP\r\n", later, &mut out), (6, Step::Close));
    assert!(!d.server.handle_timeout(Moment::NEVER, &mut out), "once");
}

#[test]
fn data_that_trickles_is_cut_off() {
    let mut d = Driver::new();
    data(&mut d);
    let mut now = NOW;
    let mut out = Vec::new();
    while now < d.server.poll_timeout().unwrap() {
        assert!(now.since(NOW) <= limits::SERVER_DATA_GRACE + Duration::from_secs(1));
        d.server.step(b"x", now, &mut out);
        now = now + Duration::from_secs(100);
    }
    assert!(d.server.handle_timeout(now, &mut out));
}

#[test]
fn shutdown_lets_transactions_finish() {
    let mut d = Driver::new();
    d.out.clear();
    d.server.shutdown(&mut d.out);
    assert!(d.out.starts_with(b"421 4.3.2 mx.example"));
    d.feed(b"");
    assert!(d.closed);

    let mut d = Driver::new();
    data(&mut d);
    d.server.shutdown(&mut d.out);
    let end = d.say(b"x\r\n.\r\nMAIL FROM:<a@b>\r\n");
    assert_eq!(end, "250 2.0.0 0000000000007 queued\r\n421 4.3.2 mx.example is shutting down, try again soon\r\n");
    assert!(d.closed);

    let mut d = Driver::new();
    d.codes(&["EHLO c", "MAIL FROM:<a@b>"]);
    d.server.shutdown(&mut d.out);
    assert_eq!(d.codes(&["RSET"]), ["421 4.3.2"]);
}

// --- message data against an oracle -------------------------------------------------------------------------------

/// What the RFC says, the slow and obvious way: where data ends, and whether it may be relayed.
fn oracle(bytes: &[u8]) -> (Option<usize>, bool) {
    let framed = [b"\r\n", bytes].concat();
    let end = framed.windows(5).position(|w| w == b"\r\n.\r\n").map(|at| at + 3);
    let seen = &framed[..end.map_or(framed.len(), |e| e + 2)];
    let valid = (0..seen.len()).all(|i| match seen[i] {
        0 => false,
        b'\n' => i > 0 && seen[i - 1] == b'\r',
        b'\r' => i + 1 == seen.len() || seen[i + 1] == b'\n',
        _ => true,
    });
    (end, valid)
}

fn scan(pieces: &[&[u8]]) -> (Option<usize>, bool) {
    let mut scanner = DataScanner::new(u64::MAX);
    let mut before = 0;
    for piece in pieces {
        let scanned = scanner.scan(piece);
        if scanned.ended {
            return (Some(before + scanned.consumed), scanner.fault().is_none());
        }
        assert_eq!(scanned.consumed, piece.len());
        before += piece.len();
    }
    (None, scanner.fault().is_none())
}

/// Every string of up to `length` letters of the alphabet that matters.
fn each_string(length: u32, mut f: impl FnMut(&[u8])) {
    const LETTERS: &[u8; 6] = b"\r\n\0. a";
    let mut string = Vec::new();
    for n in 0..=length {
        for number in 0..6usize.pow(n) {
            string.clear();
            let mut rest = number;
            for _ in 0..n {
                string.push(LETTERS[rest % 6]);
                rest /= 6;
            }
            f(&string);
        }
    }
}

#[test]
fn every_end_of_data_in_every_split_agrees_with_the_oracle() {
    let mut ends = 0;
    each_string(6, |s| {
        for (before, behind) in [(&b"a\r\n"[..], &b"\r\n.\r\n"[..]), (b"", b"."), (b"a\r\n.", b"\r\n")] {
            let bytes = [before, s, behind].concat();
            let expected = oracle(&bytes);
            ends += usize::from(expected.0.is_some_and(|e| e < bytes.len()));
            assert_eq!(scan(&[&bytes]), expected, "{:?}", bytes.escape_ascii().to_string());
            for at in 1..bytes.len() {
                assert_eq!(
                    scan(&[&bytes[..at], &bytes[at..]]),
                    expected,
                    "{:?} at {at}",
                    bytes.escape_ascii().to_string()
                );
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(scan(&single), expected, "{:?} by bytes", bytes.escape_ascii().to_string());
        }
    });
    assert!(ends > 1000, "the strings hold ends of data of their own: {ends}");
}

/// Found by fuzzing: in one piece the bare LF came first, byte by byte the size did.
#[test]
fn the_first_fault_is_the_same_in_every_split() {
    for (data, expected) in
        [(&b"123456789\n"[..], Fault::TooBig), (b"1234567\n9", Fault::BareLf), (b"12345678\n", Fault::BareLf)]
    {
        for cut in 0..=data.len() {
            let mut scanner = DataScanner::new(5);
            scanner.scan(&data[..cut]);
            scanner.scan(&data[cut..]);
            assert_eq!((scanner.fault(), scanner.bytes()), (Some(expected), data.len() as u64), "cut at {cut}");
        }
    }
}

#[test]
fn the_fast_path_agrees_with_the_oracle_at_every_alignment() {
    // Clean lines of 78 behind an empty header, then the string somewhere around the edges of blocks of 32 and 256.
    let filler: Vec<u8> =
        b"\r\n".iter().copied().chain((0..20).flat_map(|_| [&[b'x'; 76][..], b"\r\n"].concat())).collect();
    each_string(3, |s| {
        for at in (3..30).chain(240..275).chain(500..525).chain([78, 79, 80, 81, 82]) {
            let mut bytes = filler.clone();
            bytes.splice(at..at + s.len(), s.iter().copied());
            bytes.extend_from_slice(b"\r\n.\r\n");
            let expected = oracle(&bytes);
            assert_eq!(scan(&[&bytes]), expected, "{:?} at {at}", s.escape_ascii().to_string());
            let cut = at + s.len() / 2;
            assert_eq!(scan(&[&bytes[..cut], &bytes[cut..]]), expected);
        }
    });
}

#[test]
fn the_session_relays_nothing_of_what_the_oracle_refuses() {
    each_string(4, |s| {
        let bytes = [b"a\r\n", s, b"\r\n.\r\n"].concat();
        let (end, valid) = oracle(&bytes);
        let end = end.unwrap();
        for chunk in [1, 2, bytes.len()] {
            let mut d = Driver::new();
            data(&mut d);
            d.out.clear();
            for piece in bytes[..end].chunks(chunk) {
                d.feed(piece);
            }
            let reply = code(std::str::from_utf8(&d.out).unwrap());
            if valid {
                assert_eq!((reply.as_str(), d.messages.as_slice()), ("250 2.0.0", &[bytes[..end].to_vec()][..]));
            } else {
                assert_eq!((reply.as_str(), d.messages.len(), d.discarded.len()), ("554 5.6.0", 0, 1));
            }
            assert!(!d.server.in_transaction());
        }
    });
}
