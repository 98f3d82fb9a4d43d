//! What Ringpost writes of a stranger's words: Received headers and lines of the event log.
//!
//! Input: which, then the words. Checked: a Received header is well-formed, bounded, and holds nothing that ends it early
//! or begins a comment; an event is one line of JSON in UTF-8, without control characters.

use crate::Target;
use crate::input::Input;
use ringpost::control::json::Encoder;
use ringpost::limits;
use ringpost::message::MessageId;
use ringpost::message::trace::{DateCache, Received};
use ringpost::shard::event::{Accepted, Code, Event, Notice, NoticeKind, Outcome, Rejected, Stage};
use ringpost::smtp::reply::EnhancedCode;
use ringpost::time::Wall;
use std::net::{IpAddr, SocketAddr};

/// The target.
pub const TARGET: Target = Target {
    name: "written",
    run,
    max_bytes: 2048,
    words: &[b"\r\n", b"\"", b"\\", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\xf0\x9f\x98\x80", b"\x1b[31m", b"[IPv6:::1]"],
    test_runs: 5000,
};

fn peer(input: &mut Input<'_>) -> IpAddr {
    if input.u8() & 1 == 0 {
        return IpAddr::V4(input.u32().into());
    }
    let high = u128::from(input.u32()) << 96;
    IpAddr::V6((high | u128::from(input.u32())).into())
}

fn received(input: &mut Input<'_>) {
    let extended = input.u8() & 1 == 1;
    let (peer, host) = (peer(input), input.below(3));
    let long = "a-long-name.".repeat(20) + "example";
    let host = ["mx.example", "a-rather-long-name-for-a-server.of-a-provider.example", &long][host];
    let wall = Wall(u64::from(input.u32()) << 11);
    let mut dates = DateCache::default();
    let date = *dates.text(wall);
    let mut out = b"before".to_vec();
    Received {
        helo: input.rest(),
        peer,
        host,
        protocol: if extended { "UTF8SMTPSA" } else { "SMTP" },
        id: MessageId(7),
        priority: if extended { -9 } else { 0 },
        date: &date,
    }
    .write(&mut out);
    let header = &out[6..];
    assert!(header.starts_with(b"Received: from ") && header.len() <= limits::RECEIVED_HEADER_BYTES);
    let mut lines = header.strip_suffix(b"\r\n").expect("whole").split(|b| *b == b'\n');
    for (number, line) in lines.by_ref().enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(line.len() <= limits::MESSAGE_LINE_BYTES && line.iter().all(|b| matches!(b, b'\t' | b' '..=b'~')));
        assert!(number == 0 || line.starts_with(b"\t") && line.len() > 1, "a line that is no continuation");
    }
    let count = |b: u8| header.iter().filter(|x| **x == b).count();
    assert_eq!((count(b'('), count(b')'), count(b';')), (2, 2, 1));
}

fn event(input: &mut Input<'_>) -> Event {
    let at = Wall(u64::from(input.u32()) << 11);
    let id = MessageId(u64::from(input.u32()));
    let code = Code { basic: input.u16(), enhanced: (input.u8() & 1 == 1).then(|| (5, input.u16(), 1)) };
    let which = input.below(7);
    let peer = peer(input);
    let (a, b, c, d) = (input.text(), input.text(), input.text(), input.text());
    let e = input.rest();
    let outcome = Outcome {
        at,
        id,
        size_bytes: u64::MAX,
        remote: (!a.is_empty()).then(|| SocketAddr::new(peer, 25)),
        tls: None,
        code,
        attempts: 3,
        next_attempt: (!b.is_empty()).then_some(Wall(at.0 + 5)),
        reply_lost: b.len() > 1,
        queue_us: 1,
        connect_us: 0,
        deliver_us: u64::MAX,
        total_us: 2,
        text: Outcome::texts(a, b, [c, d, e, b], e),
    };
    match which {
        0 => {
            let text = Accepted::texts(a, e);
            Event::Accepted(Accepted { at, id, peer, size_bytes: 1, recipients: 2, receive_us: 3, commit_us: 4, text })
        }
        1 => Event::Rejected(Rejected { at, peer, stage: Stage::Rcpt, code, text: Rejected::texts(a, b, c, e) }),
        2 => Event::Delivered(outcome),
        3 => Event::Deferred(outcome),
        4 => Event::Bounced(outcome),
        5 => Event::Expired(outcome),
        _ => {
            let kind = NoticeKind::ALL[a.len() % NoticeKind::ALL.len()];
            let event = Notice::event(at, 3, kind, e);
            assert!(matches!(event, Event::Notice(_)));
            event
        }
    }
}

fn json(input: &mut Input<'_>) {
    let event = event(input);
    let mut encoder = Encoder::default();
    let mut out = Vec::new();
    encoder.encode(&event, &mut out);
    let first = out.len();
    encoder.encode(&event, &mut out);
    assert_eq!(out[..first], out[first..], "what is remembered changes nothing");
    let line = std::str::from_utf8(&out[..first]).expect("UTF-8");
    let line = line.strip_suffix('\n').expect("a line");
    assert!(line.chars().all(|c| !c.is_control()), "{line:?}");
    let value: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    assert!(value.is_object());
    // Escapes make at most six octets of one.
    assert!(line.len() <= 1024 + 5 * 6 * limits::EVENT_TEXT_BYTES);
}

fn replies(text: &[u8]) {
    let code = Code::of_reply(text);
    assert!(code.basic <= 999);
    if let Ok(text) = std::str::from_utf8(text)
        && let Some(EnhancedCode(class, subject, detail)) = EnhancedCode::parse(text)
    {
        assert!(matches!(class, 2 | 4 | 5) && subject <= 999 && detail <= 999);
    }
}

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    replies(data);
    if input.u8() & 1 == 0 { received(&mut input) } else { json(&mut input) }
}
