//! Properties of notifications: whatever strangers said, the report is a message of three parts that says it harmlessly.

use super::tests::{parse, unwire};
use super::*;
use crate::properties::{cases, hostile};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Recipient {
    address: Vec<u8>,
    remote: Vec<u8>,
    last_attempt: Option<u64>,
    cause: u8,
    code: u16,
    status: Option<Status>,
    text: Vec<u8>,
}

fn status() -> impl Strategy<Value = Status> {
    (prop::sample::select(vec![2u8, 4, 5]), 0..1000u16, 0..1000u16).prop_map(|(c, s, d)| Status::new(c, s, d))
}

fn text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        hostile(1500),
        // The boundary itself.
        hostile(20).prop_map(|text| [&text[..], b"\r\n--=_0000000000700.ringpost--\r\n"].concat()),
        "[245]\\.[0-9]{1,3}\\.[0-9]{1,3} [ -~]{0,80}".prop_map(String::into_bytes),
    ]
}

fn recipient() -> impl Strategy<Value = Recipient> {
    let code = prop_oneof![Just(0), 400..600u16];
    let last_attempt = prop::option::of(any::<u64>());
    (text(), text(), last_attempt, 0..10u8, code, prop::option::of(status()), text()).prop_map(
        |(address, remote, last_attempt, cause, code, status, text)| Recipient {
            address,
            remote,
            last_attempt,
            cause,
            code,
            status,
            text,
        },
    )
}

impl Recipient {
    fn report(&self) -> RecipientReport<'_> {
        let reply = Reply { code: self.code, status: self.status, text: &self.text };
        let cause = match self.cause {
            0 | 1 => Cause::Refused(reply),
            2 => Cause::Expired(None),
            3 => Cause::Expired(Some(reply)),
            4 => Cause::Delayed(None),
            5 => Cause::Delayed(Some(reply)),
            6 => Cause::Local(Reason::NoSuchDomain),
            7 => Cause::Local(Reason::NullMx),
            8 => Cause::Local(Reason::Loop),
            _ => Cause::Local(Reason::NotEightBit),
        };
        RecipientReport {
            address: &self.address,
            original: b"",
            remote: &self.remote,
            last_attempt: self.last_attempt.map(Wall),
            cause,
        }
    }
}

/// Header lines, mostly well-formed.
fn headers() -> impl Strategy<Value = Vec<u8>> {
    let line = prop_oneof![
        4 => ("[A-Za-z-]{1,12}", hostile(60)).prop_map(|(name, value)| [name.as_bytes(), b": ", &value[..]].concat()),
        2 => "[ \t][ -~]{0,90}".prop_map(String::into_bytes),
        2 => "[A-Za-z.-]{1,12}: ?[ -~]{0,90}".prop_map(String::into_bytes),
        1 => "[A-Z]{1,5}: .{0,60}".prop_map(String::into_bytes),
        1 => (990..1010usize).prop_map(|n| [b"X: ".to_vec(), vec![b'y'; n - 3]].concat()),
        1 => Just(b"--=_0000000000700.ringpost: x".to_vec()),
        1 => hostile(40),
    ];
    (prop::collection::vec(line, 0..12), any::<bool>()).prop_map(|(lines, ends)| {
        let mut wire = Vec::new();
        for line in lines {
            wire.extend(line.starts_with(b".").then_some(b'.'));
            wire.extend_from_slice(&line);
            wire.extend_from_slice(b"\r\n");
        }
        if ends {
            wire.extend_from_slice(b"\r\nThe body\r\n.\r\n");
        }
        wire
    })
}

/// Header lines as the contract of `headers` has them: fields and continuations, up to the first line that is neither.
fn returned(wire: &[u8]) -> Vec<u8> {
    let mut rest = &wire[..wire.len().min(limits::DSN_HEADERS_BYTES)];
    let mut out = Vec::new();
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let line = rest[..end].strip_prefix(b".").unwrap_or(&rest[..end]);
        let name = line.split(|b| *b == b':').next().unwrap_or_default();
        let field = line.contains(&b':') && !name.is_empty() && name.iter().all(|b| matches!(b, b' '..=b'~'));
        if !(field || line.starts_with(b" ") || line.starts_with(b"\t")) {
            break;
        }
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
        rest = &rest[end + 2..];
    }
    out
}

/// RFC 2045 §6.7, strictly.
fn decode_quoted_printable(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for line in text.split_inclusive("\r\n") {
        let line = line.strip_suffix("\r\n").expect("every line has its end");
        assert!(line.len() <= 76 && !line.ends_with([' ', '\t']), "{line:?}");
        let (line, soft) = line.strip_suffix('=').map_or((line, false), |line| (line, true));
        let mut bytes = line.bytes();
        while let Some(byte) = bytes.next() {
            if byte == b'=' {
                let digits = [bytes.next(), bytes.next()].map(|d| char::from(d.expect("two digits")));
                assert!(digits.iter().all(|d| matches!(d, '0'..='9' | 'A'..='F')), "{line:?}");
                let value = digits.iter().fold(0, |sum, d| sum * 16 + d.to_digit(16).expect("hexadecimal"));
                out.push(u8::try_from(value).expect("two digits"));
            } else {
                out.push(byte);
            }
        }
        if !soft {
            out.extend_from_slice(b"\r\n");
        }
    }
    out
}

proptest! {
    #![proptest_config(cases(120))]

    #[test]
    fn property_a_report_is_well_formed_whatever_strangers_said(
        recipients in prop::collection::vec(recipient(), 1..5),
        headers in headers(),
        host in "[a-z.]{1,255}",
        sender in hostile(300).prop_filter("not the null sender", |sender| may_notify(sender)),
        times in any::<[u64; 3]>(),
    ) {
        let reports: Vec<_> = recipients.iter().map(Recipient::report).collect();
        let mut wire = Vec::new();
        let facts = DsnFacts {
            host: &host,
            id: MessageId(7 << 10),
            original: MessageId(5 << 10),
            arrived: Wall(times[0]),
            now: Wall(times[1]),
            retry_until: Wall(times[2]),
            sender: &sender,
            recipients: &reports,
            message: &headers,
            whole: false,
            utf8: false,
            envid: b"",
            deliver_by: None,
            hold_until: None,
        };
        build(&facts, &mut wire);
        // Lines, dots, ASCII; boundaries.
        let text = unwire(&wire);
        let (header, parts) = parse(&text);
        prop_assert_eq!(parts.len(), 3, "{}", text);
        let names: Vec<&str> =
            header.split("\r\n").filter(|l| !l.starts_with('\t')).filter_map(|l| l.split(':').next()).collect();
        let expected =
            ["Date", "From", "To", "Subject", "Message-ID", "Auto-Submitted", "MIME-Version", "Content-Type"];
        prop_assert_eq!(&names[..], &expected[..]);
        prop_assert!(parts.iter().all(|(_, body)| body.is_ascii()));

        // RFC 3464 §2.1: a group for the message and one for each recipient, each of the fields it may have, once.
        let status = parts[1].1.strip_suffix("\r\n").expect("a line end");
        let groups: Vec<&str> = status.split("\r\n\r\n").collect();
        prop_assert_eq!(groups.len(), 1 + recipients.len(), "{}", status);
        for (group, report) in groups[1..].iter().zip(&reports) {
            let lines = group.split("\r\n").filter(|l| !l.starts_with('\t'));
            let fields: Vec<(&str, &str)> = lines.filter_map(|l| l.split_once(':')).collect();
            let value = |name: &str| fields.iter().find(|(n, _)| *n == name).map(|(_, v)| v.trim());
            let allowed = ["Final-Recipient", "Action", "Status", "Remote-MTA", "Diagnostic-Code", "Last-Attempt-Date",
                "Will-Retry-Until"];
            let places: Vec<_> = fields.iter().map(|(n, _)| allowed.iter().position(|a| a == n)).collect();
            prop_assert!(places.iter().all(Option::is_some) && places.is_sorted_by(|a, b| a < b), "{}", group);
            let delayed = matches!(report.cause, Cause::Delayed(_));
            prop_assert_eq!(value("Action"), Some(if delayed { "delayed" } else { "failed" }));
            let code = report.cause.status();
            assert_eq!(value("Status"), Some(code.to_string().as_str()));
            prop_assert_eq!(code.class(), if delayed { 4 } else { 5 });
            prop_assert_eq!(value("Last-Attempt-Date").is_some(), report.last_attempt.is_some());
            prop_assert_eq!(value("Will-Retry-Until").is_some(), delayed);
        }

        let expected = returned(&headers);
        let quoted = parts[2].0.ends_with("quoted-printable");
        let got = if quoted { decode_quoted_printable(&parts[2].1) } else { parts[2].1.clone().into_bytes() };
        // The empty line in front of the boundary belongs to the boundary; without headers it is all there is.
        let got = if expected.is_empty() { Vec::new() } else { got };
        prop_assert_eq!(got.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }
}
