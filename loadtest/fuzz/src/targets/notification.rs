//! Delivery status notifications, made of what strangers said.
//!
//! Input: recipients with the words of their servers, then the headers of the original. Checked: what is built is a
//! message that any server takes: lines of 998 octets at most, CRLF, printable ASCII, dots stuffed, one end; the parts are
//! those that were meant, and no text of a stranger begins another.

use crate::Target;
use crate::input::Input;
use ringpost::limits;
use ringpost::message::dsn::{Cause, DsnFacts, Reason, RecipientReport, Reply, build};
use ringpost::message::{MessageId, Status};
use ringpost::smtp::data::DataScanner;
use ringpost::time::Wall;

/// The target.
pub const TARGET: Target = Target {
    name: "notification",
    run,
    max_bytes: 20_000,
    words: &[
        b"Subject: ",
        b"Received: from a\r\n\tby b\r\n",
        b"\r\n",
        b"\r\n ",
        b"\r\n.",
        b"\r\n..",
        b"\r\n--",
        b"--=_0000000000007.ringpost",
        b"=?utf-8?q?x?=",
        b"5.1.1 ",
        b"a@b.example",
    ],
    test_runs: 3000,
};

fn report<'a>(input: &mut Input<'a>) -> RecipientReport<'a> {
    let shape = input.u8();
    let code = [0, 250, 421, 450, 550, 554, 999, u16::MAX][input.below(8)];
    let status = [None, Some(Status::new(5, 1, 1)), Some(Status::new(4, 999, 999))][usize::from(shape >> 5) % 3];
    let reply = Reply { code, status, text: input.text() };
    let some = (shape & 16 == 0).then_some(reply);
    let reasons =
        [Reason::NoSuchDomain, Reason::NoRoute, Reason::NullMx, Reason::Loop, Reason::TooLarge, Reason::NotEightBit];
    let cause = match shape & 3 {
        0 => Cause::Refused(reply),
        1 => Cause::Expired(some),
        2 => Cause::Delayed(some),
        _ => Cause::Local(reasons[input.below(reasons.len())]),
    };
    let last_attempt = (shape & 4 == 0).then(|| Wall(u64::from(input.u32()) << 12));
    RecipientReport { address: input.text(), original: input.text(), remote: input.text(), last_attempt, cause }
}

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let recipients: Vec<_> = (0..1 + input.below(4)).map(|_| report(&mut input)).collect();
    let arrived = Wall([0, 1_700_000_000_000, 253_402_300_799_000, u64::MAX][input.below(4)]);
    let sender = match input.text() {
        [] => b"sender@example.org",
        some => some,
    };
    let headers = input.rest();
    let facts = DsnFacts {
        host: "mx.example",
        id: MessageId(7),
        original: MessageId(6),
        arrived,
        now: Wall(arrived.0.saturating_add(5)),
        retry_until: Wall(arrived.0.saturating_add(1 << 40)),
        sender,
        recipients: &recipients,
        message: headers,
        whole: false,
        utf8: false,
        envid: b"",
        deliver_by: None,
        hold_until: None,
    };
    let mut out = Vec::new();
    build(&facts, &mut out);

    let mut scanner = DataScanner::new(u64::MAX);
    let scanned = scanner.scan(&out);
    assert!(scanned.ended && scanned.consumed == out.len(), "one end, at the end");
    assert_eq!(scanner.fault(), None);
    // Quoted-printable makes three octets of one.
    let most = 3 * limits::DSN_HEADERS_BYTES * 77 / 75 + 8192 * recipients.len() + 4096;
    assert!(out.len() <= most, "{} octets", out.len());
    let boundary = format!("--=_{}.ringpost", facts.id);
    let (mut parts, mut encoded, mut header_fields) = (0, false, None);
    let text = out.strip_suffix(b"\r\n").expect("it ends with CRLF");
    for (number, line) in text.split(|b| *b == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(line.len() <= limits::MESSAGE_LINE_BYTES, "a line of {} octets", line.len());
        assert!(line.iter().all(|b| matches!(b, b'\t' | b' '..=b'~')), "{}", line.escape_ascii());
        if line.starts_with(b"--") {
            parts += 1;
            let end = if parts == 4 { "--" } else { "" };
            assert_eq!(line, format!("{boundary}{end}").as_bytes(), "a line that passes for a boundary");
        }
        if parts == 3 {
            encoded |= line == b"Content-Transfer-Encoding: quoted-printable";
            assert!(!encoded || line.len() <= 76, "a line of quoted-printable above 76");
        }
        if line.is_empty() {
            header_fields.get_or_insert(number);
        }
    }
    assert_eq!(parts, 4, "three parts and the end");
    assert_eq!(header_fields, Some(9), "the header block is the one that was written");
}
