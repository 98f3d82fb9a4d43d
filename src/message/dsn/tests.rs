#![allow(clippy::unwrap_used)]
use super::*;
use std::process::{Command, Stdio};

const HEADERS: &[u8] =
    b"Received: from a\r\n\tby b; date\r\nFrom: <joe@sender.example>\r\nSubject: Hello\r\n\r\nThe body\r\n.\r\n";

fn refused(text: &[u8]) -> Cause<'_> {
    Cause::Refused(Reply { code: 550, status: None, text })
}

fn one<'a>(address: &'a [u8], cause: Cause<'a>) -> RecipientReport<'a> {
    RecipientReport {
        address,
        original: b"",
        remote: b"mx.there.example",
        last_attempt: Some(Wall(1_795_304_389_000)),
        cause,
    }
}

fn wire(recipients: &[RecipientReport<'_>], headers: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let plain = DsnFacts {
        whole: false,
        utf8: false,
        envid: b"",
        deliver_by: None,
        hold_until: None,
        ..full(recipients, headers)
    };
    build(&plain, &mut out);
    out
}

/// What the recipient's mailbox holds: the terminator and the stuffed dots taken off. Checks the form on the way.
pub(super) fn unwire(wire: &[u8]) -> String {
    let text = std::str::from_utf8(wire).unwrap();
    assert!(text.is_ascii() && !text.contains('\0'));
    let body = text.strip_suffix("\r\n.\r\n").expect("ends with the final dot");
    let mut out = String::new();
    for line in body.split("\r\n") {
        assert!(line.len() <= 998, "{line}");
        assert!(!line.contains(['\r', '\n']), "only CRLF ends a line: {line:?}");
        assert_ne!(line, ".", "only the end is the end");
        assert!(!line.starts_with('.') || line.starts_with(".."), "{line}");
        out.push_str(line.strip_prefix('.').unwrap_or(line));
        out.push_str("\r\n");
    }
    out
}

/// The headers of the report, and its three parts as (content headers, body).
pub(super) fn parse(text: &str) -> (String, Vec<(String, String)>) {
    let (header, body) = text.split_once("\r\n\r\n").unwrap();
    let boundary = header.split("boundary=\"").nth(1).unwrap().split('"').next().unwrap();
    let body = format!("\r\n{body}");
    let delimiter = format!("\r\n--{boundary}");
    let mut pieces = body.split(&delimiter);
    assert_eq!(pieces.next(), Some(""), "nothing before the first part");
    let mut parts: Vec<_> = pieces.collect();
    assert_eq!(parts.pop(), Some("--\r\n"), "closed, and nothing behind");
    let parts = parts.into_iter().map(|p| p.strip_prefix("\r\n").unwrap().split_once("\r\n\r\n").unwrap());
    (header.to_owned(), parts.map(|(h, b)| (h.to_owned(), b.to_owned())).collect())
}

fn status_part(recipients: &[RecipientReport<'_>]) -> String {
    parse(&unwire(&wire(recipients, HEADERS))).1[1].1.clone()
}

#[test]
fn the_null_sender_is_never_notified() {
    assert!(!may_notify(b""));
    assert!(may_notify(b"a@b.example"));
}

#[test]
fn a_failure_is_reported_as_rfc_3464_asks() {
    let text = unwire(&wire(&[one(b"Bob@there.example", refused(b"5.1.1 No such user here"))], HEADERS));
    let (header, parts) = parse(&text);
    for line in [
        "Date: Sat, 21 Nov 2026 23:40:00 +0000",
        "From: Mail Delivery System <MAILER-DAEMON@mail.here.example>",
        "To: <joe@sender.example>",
        "Subject: Undelivered mail returned to sender",
        "Message-ID: <0000000000700@mail.here.example>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status;",
    ] {
        assert!(header.split("\r\n").any(|l| l == line), "{line} in\n{header}");
    }
    assert_eq!(parts.len(), 3);
    assert!(parts[0].0.starts_with("Content-Type: text/plain"));
    for words in ["<Bob@there.example>", "mx.there.example said: 550 5.1.1 No such user here", "Check the address"] {
        assert!(parts[0].1.contains(words), "{words} in\n{}", parts[0].1);
    }
    assert!(parts[1].0.starts_with("Content-Type: message/delivery-status"));
    assert_eq!(
        parts[1].1,
        "Reporting-MTA: dns; mail.here.example\r\n\
               X-Ringpost-Id: 0000000000500\r\n\
               Arrival-Date: Sat, 21 Nov 2026 23:33:20 +0000\r\n\
               \r\n\
               Final-Recipient: rfc822; Bob@there.example\r\n\
               Action: failed\r\n\
               Status: 5.1.1\r\n\
               Remote-MTA: dns; mx.there.example\r\n\
               Diagnostic-Code: smtp; 550 5.1.1 No such user here\r\n\
               Last-Attempt-Date: Sat, 21 Nov 2026 23:39:49 +0000\r\n"
    );
    assert!(parts[2].0.starts_with("Content-Type: text/rfc822-headers\r\nContent-Transfer-Encoding: 7bit"));
    assert_eq!(parts[2].1, "Received: from a\r\n\tby b; date\r\nFrom: <joe@sender.example>\r\nSubject: Hello\r\n");
}

#[test]
fn the_status_says_what_is_known() {
    let reply = |code, status, text| Reply { code, status, text };
    let s = Status::new;
    for (cause, status) in [
        (Cause::Refused(reply(550, Some(s(5, 7, 1)), b"no")), s(5, 7, 1)),
        (Cause::Refused(reply(552, None, b"5.2.2 full")), s(5, 2, 2)),
        (Cause::Refused(reply(550, None, b"go away")), s(5, 0, 0)),
        // A status that contradicts its code is not believed.
        (Cause::Refused(reply(550, Some(s(2, 0, 0)), b"4.2.2 x")), s(5, 0, 0)),
        (Cause::Expired(Some(reply(451, Some(s(4, 3, 0)), b"x"))), s(5, 4, 7)),
        (Cause::Expired(None), s(5, 4, 7)),
        (Cause::Delayed(Some(reply(451, None, b"4.7.1 greylisted"))), s(4, 7, 1)),
        (Cause::Delayed(Some(reply(451, Some(s(5, 0, 0)), b"x"))), s(4, 0, 0)),
        (Cause::Delayed(Some(reply(0, Some(s(4, 4, 1)), b"connection refused"))), s(4, 4, 1)),
        (Cause::Delayed(None), s(4, 4, 0)),
        (Cause::Local(Reason::NoSuchDomain), s(5, 1, 2)),
        (Cause::Local(Reason::NoRoute), s(5, 4, 4)),
        (Cause::Local(Reason::NullMx), s(5, 1, 10)),
        (Cause::Local(Reason::Loop), s(5, 4, 6)),
        (Cause::Local(Reason::TooLarge), s(5, 3, 4)),
        (Cause::Local(Reason::NotEightBit), s(5, 6, 3)),
    ] {
        assert_eq!(cause.status(), status, "{cause:?}");
        let text = status_part(&[one(b"a@b.example", cause)]);
        assert!(text.contains(&format!("\r\nStatus: {status}\r\n")), "{text}");
        let action = if status.class() == 4 { "delayed" } else { "failed" };
        assert!(text.contains(&format!("\r\nAction: {action}\r\n")), "{text}");
        assert_eq!(text.contains("Will-Retry-Until: "), action == "delayed");
        // RFC 3464 §2.3.6: the type says who speaks.
        let from_smtp = cause.reply().is_some_and(|r| r.code != 0);
        assert_eq!(text.contains("Diagnostic-Code: smtp;"), from_smtp, "{text}");
    }
}

#[test]
fn several_recipients_share_a_report() {
    let recipients = [
        one(b"a@x.example", refused(b"5.1.1 unknown")),
        RecipientReport { remote: b"", last_attempt: None, ..one(b"b@y.example", Cause::Expired(None)) },
        one(b"c@z.example", Cause::Delayed(None)),
    ];
    let (header, parts) = parse(&unwire(&wire(&recipients, HEADERS)));
    assert!(header.contains("Subject: Undelivered"));
    assert_eq!(parts[1].1.split("\r\n\r\n").count(), 1 + recipients.len());
    assert!(parts[0].1.contains("could NOT") && parts[0].1.contains("will be tried until"));
    let (header, parts) = parse(&unwire(&wire(&recipients[2..], HEADERS)));
    assert!(header.contains("Subject: Delayed") && !parts[0].1.contains("could NOT"));
}

/// Texts that try to end a line, a header, a part, or the message.
fn hostile() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        &b"\r\n.\r\nMAIL FROM:<x>\r\n"[..],
        b"a\nb\rc\0d\x7f\x1b[31m",
        b"\xff\xfe\x80 gr\xc3\xbc\xc3\x9fe",
        b"\r\n\r\n--=_0000000000700.ringpost--\r\n",
        b"..",
        b"",
        b"     ",
        b"Action: delivered\r\nStatus: 2.0.0",
    ]
    .map(<[u8]>::to_vec)
    .into();
    all.push(vec![b'x'; 100_000]);
    all.push(b"word ".repeat(20_000));
    all
}

#[test]
fn hostile_replies_are_harmless_and_bounded() {
    for text in hostile() {
        let mut recipient = one(&text, refused(&text));
        recipient.remote = &text;
        let wire = wire(&[recipient], HEADERS);
        assert!(wire.len() < 8000, "{}", wire.len());
        let (header, parts) = parse(&unwire(&wire));
        assert_eq!((parts.len(), header.split("\r\n").count()), (3, 9));
        let groups: Vec<_> = parts[1].1.trim_end().split("\r\n\r\n").collect();
        assert_eq!(groups.len(), 2, "{}", parts[1].1);
        let fields: Vec<_> =
            groups[1].split("\r\n").filter(|l| !l.starts_with('\t')).map(|l| l.split(':').next().unwrap()).collect();
        let expected = ["Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date"];
        assert!(fields.iter().all(|f| expected.contains(f)), "{fields:?}");
        assert!(parts[1].1.contains("Action: failed\r\nStatus: 5."));
    }
}

#[test]
fn hostile_headers_are_harmless_and_bounded() {
    let mut cases = hostile();
    for text in hostile() {
        cases.push([b"Subject: ", &text[..], b"\r\nTo: x\r\n\r\n"].concat());
    }
    cases.push(b"..dot: x\r\n..\r\n".to_vec());
    cases.push(b"--=_0000000000700.ringpost: x\r\n--=_0000000000700.ringpost--: \r\n".to_vec());
    cases.push([&b"A: "[..], &[b'y'; 5000], b"\r\n"].concat());
    cases.push(b"Some-Header: value\r\n".repeat(10_000));
    for headers in cases {
        let wire = wire(&[one(b"a@b.example", refused(b"no"))], &headers);
        assert!(wire.len() < 3 * limits::DSN_HEADERS_BYTES + 8000, "{}", wire.len());
        let (_, parts) = parse(&unwire(&wire));
        assert_eq!(parts.len(), 3);
        assert!(!parts[2].0.contains("quoted-printable") || parts[2].1.split("\r\n").all(|l| l.len() <= 76));
    }
}

#[test]
fn odd_headers_are_returned_in_quoted_printable() {
    let headers = "Subject: gr\u{fc}n = \t\r\n--b: 1\r\n..x: 2\r\n continued\r\n\r\nbody: not this\r\n";
    let (_, parts) = parse(&unwire(&wire(&[one(b"a@b.example", refused(b"no"))], headers.as_bytes())));
    assert!(parts[2].0.ends_with("Content-Transfer-Encoding: quoted-printable"));
    assert_eq!(parts[2].1, "Subject: gr=C3=BCn =3D =09\r\n=2D-b: 1\r\n=2Ex: 2\r\n continued\r\n");
}

#[test]
fn dots_at_the_beginning_of_headers_are_stuffed() {
    let wire = wire(&[one(b"a@b.example", refused(b"no"))], b"..x: 1\r\nY: 2\r\n\r\n");
    assert!(wire.windows(10).any(|w| w == b"\r\n..x: 1\r\n"));
    assert!(unwire(&wire).contains("\r\n.x: 1\r\nY: 2\r\n"));
}

#[test]
fn addresses_cannot_leave_their_brackets() {
    assert_eq!(clean_address(b"a> <b@c.example"), "a???b@c.example");
    assert_eq!(clean_address(br#""a> <b"@c.example"#), r#""a> <b"@c.example"#);
    assert_eq!(clean_address(b"\"a\r\n\"@c"), "\"a??\"@c");
}

#[test]
fn python_reads_the_report() {
    const SCRIPT: &str = r#"
import sys, email, email.policy
m = email.message_from_bytes(sys.stdin.buffer.read(), policy=email.policy.default)
assert m.get_content_type() == "multipart/report" and m.get_param("report-type") == "delivery-status"
assert not m.defects, m.defects
text, status, headers = m.iter_parts()
assert text.get_content_type() == "text/plain" and "said: 550" in text.get_content()
assert status.get_content_type() == "message/delivery-status"
groups = status.get_payload()
assert [g.get("Action") for g in groups] == [None, "failed", "failed"], groups
assert groups[1]["Status"] == "5.1.1" and groups[1]["Final-Recipient"] == "rfc822; bob@there.example"
assert groups[1]["Diagnostic-Code"].replace("\r\n", "").startswith("smtp; 550 5.1.1 "), groups[1]["Diagnostic-Code"]
assert headers.get_content_type() == "text/rfc822-headers"
original = email.message_from_bytes(headers.get_payload(decode=True), policy=email.policy.SMTPUTF8)
assert original["Subject"] == "gr\u00fcn " * 30 + "end", repr(original["Subject"])
"#;
    let subject = format!("Subject: {}end\r\n\r\n", "gr\u{fc}n ".repeat(30));
    let long = b"5.1.1 No such user ".repeat(10);
    let recipients =
        [one(b"bob@there.example", refused(&long)), one(b"amy@there.example", Cause::Local(Reason::NullMx))];
    let text = unwire(&wire(&recipients, subject.as_bytes()));
    let python = Command::new("python3").args(["-c", SCRIPT]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut python = match python {
        Ok(python) => python,
        Err(error) => return println!("skipped: python3 cannot be started: {error}"),
    };
    python.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let done = python.wait_with_output().unwrap();
    assert!(done.status.success(), "{}\n{text}", String::from_utf8_lossy(&done.stderr));
}

/// A report with all that is not in every one.
fn full<'a>(recipients: &'a [RecipientReport<'a>], message: &'a [u8]) -> DsnFacts<'a> {
    DsnFacts {
        host: "mail.here.example",
        id: MessageId(7 << 10),
        original: MessageId(5 << 10),
        arrived: Wall(1_795_304_000_000),
        now: Wall(1_795_304_400_000),
        retry_until: Wall(1_795_736_000_000),
        sender: b"joe@sender.example",
        recipients,
        message,
        whole: true,
        utf8: true,
        envid: b"a+20b+2B+zz+",
        deliver_by: Some(Wall(1_795_304_000_000)),
        hold_until: Some(Wall(1_795_303_000_000)),
    }
}

#[test]
fn what_the_sender_said_is_given_back() {
    // RFC 3461 §6.3 (a) and (d); RFC 2852 §5; RFC 4865 §5.1.2.
    let report = |original| RecipientReport { original, ..one(b"a@b.example", refused(b"no")) };
    for (orcpt, line) in [
        (&b"rfc822;A+2Bb@x"[..], Some("Original-Recipient: rfc822; A+b@x")),
        (b"utf-8;gr\\x{FC}n@x", Some("Original-Recipient: utf-8; gr\\x{FC}n@x")),
        (b"rfc822;a+0D+0AStatus:+202.0.0", Some("Original-Recipient: rfc822; a Status: 2.0.0")),
        (b"rfc822", None),
        (b"r c;x", None),
        (b"", None),
    ] {
        let (recipients, mut out) = ([report(orcpt)], Vec::new());
        assert_eq!(build(&full(&recipients, HEADERS), &mut out), Form::SevenBit);
        let status = parse(&unwire(&out)).1[1].1.clone();
        assert!(status.contains("\r\nOriginal-Envelope-Id: a b++zz+\r\n"), "{status}");
        assert!(status.contains("\r\nDeliver-By-Date: Sat, 21 Nov 2026 23:33:20 +0000\r\n"), "{status}");
        assert!(status.contains("\r\nFuture-Release-Request: until; 2026-11-21T23:16:40Z\r\n"), "{status}");
        let original = status.lines().find(|l| l.starts_with("Original-Recipient"));
        assert_eq!(original, line, "{status}");
        assert_eq!(status.matches("\r\nStatus: ").count(), 1);
    }
}

#[test]
fn a_message_is_returned_whole_if_it_can_stand_in_a_part() {
    let recipients = [one(b"a@b.example", refused(b"no"))];
    let whole = |message: &[u8]| {
        let mut out = Vec::new();
        let form = build(&full(&recipients, message), &mut out);
        let text = String::from_utf8(out).unwrap();
        (form, text.contains("Content-Type: message/rfc822\r\n"), text)
    };
    let (form, is_whole, text) = whole(HEADERS);
    assert_eq!((form, is_whole), (Form::SevenBit, true));
    assert_eq!(
        parse(&unwire(text.as_bytes())).1[2].1,
        "Received: from a\r\n\tby b; date\r\nFrom: <joe@sender.example>\r\nSubject: Hello\r\n\r\nThe body\r\n"
    );
    assert!(parse(&text.replace("\r\n.\r\n", "\r\n")).1[0].1.contains("That message is attached."));
    let (form, is_whole, _) = whole("A: b\r\n\r\ngr\u{fc}n\r\n.\r\n".as_bytes());
    assert_eq!((form, is_whole), (Form::EightBit, true));
    // Cut off, with our boundary in it, too large, with headers that an ASCII report cannot hold.
    let large = [b"A: b\r\n\r\n", &b"x\r\n".repeat(limits::DSN_FULL_BYTES / 3 + 1)[..], b".\r\n"].concat();
    for message in [
        &b"A: b\r\n\r\nbody\r\n"[..],
        b"A: b\r\n\r\n--=_0000000000700.ringpost--\r\n.\r\n",
        &large,
        "A: gr\u{fc}n\r\n\r\nbody\r\n.\r\n".as_bytes(),
    ] {
        let (form, is_whole, text) = whole(message);
        assert_eq!((form, is_whole), (Form::SevenBit, false));
        assert_eq!(parse(&unwire(text.as_bytes())).1.len(), 3);
    }
}

#[test]
fn success_is_no_failure() {
    let recipients = [one(b"a@b.example", Cause::Relayed(Reply { code: 250, status: None, text: b"2.0.0 ok" }))];
    let delivered = [RecipientReport { remote: b"", ..one(b"c@b.example", Cause::Delivered) }];
    for (reports, action, status) in [(&recipients, "relayed", "2.1.9"), (&delivered, "delivered", "2.1.5")] {
        let (header, parts) = parse(&unwire(&wire(reports, HEADERS)));
        assert!(header.contains("Subject: Report of delivery\r\n"));
        assert!(!parts[0].1.contains("could NOT") && parts[0].1.contains("no further report"), "{}", parts[0].1);
        assert!(parts[1].1.contains(&format!("\r\nAction: {action}\r\nStatus: {status}\r\n")), "{}", parts[1].1);
    }
}

#[test]
fn a_sender_in_utf_8_gets_utf_8_and_nothing_that_hides_in_it() {
    // RFC 6533 §3 and §4.
    let sender = "j\u{f6}\u{202e}\u{2028}@sender.example";
    let green = "gr\u{fc}n\u{85}@b.example";
    let recipients = [
        RecipientReport { original: "utf-8;gr\u{fc}n@b.example".as_bytes(), ..one(green.as_bytes(), refused(b"no")) },
        one(b"a\xff@b.example", refused(b"no")),
    ];
    let headers = "Subject: gr\u{fc}n\r\n\r\nbody\r\n.\r\n";
    let facts = DsnFacts { sender: sender.as_bytes(), ..full(&recipients, headers.as_bytes()) };
    let mut out = Vec::new();
    assert_eq!(build(&facts, &mut out), Form::Utf8);
    let text = String::from_utf8(out).unwrap();
    for line in [
        "To: <j\u{f6}??@sender.example>",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Type: message/global-delivery-status",
        "Original-Recipient: utf-8; gr\u{fc}n@b.example",
        "Final-Recipient: utf-8; gr\u{fc}n?@b.example",
        "Content-Type: message/global",
    ] {
        assert!(text.contains(&format!("\r\n{line}\r\n")), "{line} in\n{text}");
    }
    assert!(text.chars().all(|c| !c.is_control() || matches!(c, '\r' | '\n' | '\t')));
    for bytes in [2, 3, 4] {
        let c = ["\u{fc}", "\u{20ac}", "\u{10ffff}"][bytes - 2];
        assert!(escaped_address(c.repeat(500).as_bytes()).len() < 900, "it fits a line");
    }
    // To an ASCII sender all of it in ASCII.
    let mut out = Vec::new();
    let facts = DsnFacts { sender: b"joe@sender.example", ..facts };
    assert_eq!(build(&facts, &mut out), Form::SevenBit);
    assert!(unwire(&out).contains("Final-Recipient: utf-8; gr\\x{FC}n\\x{85}@b.example\r\n"));
}
