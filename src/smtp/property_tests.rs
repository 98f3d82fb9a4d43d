//! Properties of what peers send: addresses, command lines, message data, sessions in any split. The exhaustive tests of
//! short data stand in `server_tests.rs`, both machines joined in `pair_tests.rs`.
#![allow(clippy::unwrap_used)]

use super::address::{self, PathError};
use super::command::{self, Command, CommandError, Line};
use super::data::{DataScanner, Fault};
use super::parameters::MailParams;
use super::policy::Extensions;
use super::reply::{ReplyError, ReplyParser};
use super::server::{PeerFacts, Server, ServerPolicy, Step, Verdict};
use crate::limits::{self, COMMAND_LINE_BYTES, DOMAIN_BYTES, LABEL_BYTES, LOCAL_PART_BYTES, PATH_BYTES};
use crate::message::MessageId;
use crate::message::params::BodyType;
use crate::properties::{cases, cuts, hostile, pieces};
use crate::time::Moment;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

// --- addresses ------------------------------------------------------------------------------------------------------

/// RFC 5321 §4.1.2: Dot-string or Quoted-string.
fn local_part() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,12}(\.[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,8}){0,4}",
        1 => r#""([ !#-\[\]-~]|\\[ -~]){0,20}""#,
    ]
}

fn domain() -> impl Strategy<Value = String> {
    r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,10}[a-zA-Z0-9])?(\.[a-zA-Z0-9]([a-zA-Z0-9-]{0,10}[a-zA-Z0-9])?){0,5}"
}

/// RFC 5321 §4.1.3.
fn literal() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<Ipv4Addr>().prop_map(|v4| format!("[{v4}]")),
        any::<Ipv6Addr>().prop_map(|v6| format!("[IPv6:{v6}]")),
        any::<[u16; 8]>().prop_map(|groups| format!("[ipv6:{}]", groups.map(|g| format!("{g:04X}")).join(":"))),
        r"\[[a-hj-z][a-z0-9-]{0,6}[a-z0-9]:[!-Z^-~]{1,20}\]",
    ]
}

/// A path as it stands on the wire: source route, local part, domain.
fn path() -> impl Strategy<Value = (String, String, String)> {
    let route = prop::collection::vec(domain(), 1..3)
        .prop_map(|hops| hops.iter().map(|d| format!("@{d}")).collect::<Vec<_>>().join(",") + ":");
    (prop_oneof![3 => Just(String::new()), 1 => route], local_part(), prop_oneof![3 => domain(), 1 => literal()])
        .prop_filter("short enough", |(_, local, domain)| {
            local.len() <= LOCAL_PART_BYTES && local.len() + domain.len() + 3 <= PATH_BYTES
        })
}

/// What a path that was accepted says it is: written down again it is the same text, and accepted again.
fn check_accepted(text: &[u8]) -> Result<(), TestCaseError> {
    let Ok((path, rest)) = address::path(text) else { return Ok(()) };
    let whole = &text[..text.len() - rest.len()];
    let plain = [b"<", path.address, b">"].concat();
    if whole.starts_with(b"<@") {
        prop_assert!(whole.ends_with(&plain[1..]) && whole[whole.len() - plain.len()] == b':');
    } else {
        prop_assert_eq!(whole, &plain);
    }
    prop_assert_eq!(address::path(&plain), Ok((path, &[][..])));
    prop_assert!(path.address.iter().all(|b| matches!(b, b' '..=b'~')));
    if path.domain_at < path.address.len() {
        prop_assert_eq!(path.address[path.domain_at - 1], b'@');
        prop_assert!(address::is_host_name(path.domain()));
    } else {
        prop_assert!(path.address.is_empty() || path.address.eq_ignore_ascii_case(b"postmaster"));
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn property_what_the_grammar_makes_is_read_as_it_was_made((route, local, domain) in path(), rest in "( [ -~]{0,20})?") {
        let text = format!("<{route}{local}@{domain}>{rest}");
        let (path, behind) = address::path(text.as_bytes()).unwrap();
        assert_eq!(path.address, format!("{local}@{domain}").as_bytes());
        prop_assert_eq!(path.domain(), domain.as_bytes());
        prop_assert_eq!(behind, rest.as_bytes());
        check_accepted(text.as_bytes())?;
    }

    #[test]
    fn property_one_wrong_octet_is_refused_or_makes_another_address(
        (route, local, domain) in path(),
        other in prop_oneof![any::<u8>(), prop::sample::select(&b"@<>.,:[]\"\\ -\0\r\n"[..])],
    ) {
        let text = format!("<{route}{local}@{domain}>").into_bytes();
        for at in 0..text.len() {
            let mut changed = text.clone();
            changed[at] = other;
            check_accepted(&changed)?;
            changed.remove(at);
            check_accepted(&changed)?;
            changed = text.clone();
            changed.insert(at, other);
            check_accepted(&changed)?;
        }
    }

    #[test]
    fn property_any_octets_are_refused_or_an_address(text in hostile(300)) {
        check_accepted(&text)?;
        check_accepted(&[b"<", &text[..]].concat())?;
        let _ = address::is_host_name(&text);
    }

    #[test]
    fn property_lengths_hold_at_the_octet(
        local in LOCAL_PART_BYTES - 3..LOCAL_PART_BYTES + 3,
        labels in prop::collection::vec(prop_oneof![1..12usize, LABEL_BYTES - 2..LABEL_BYTES + 2], 1..6),
        goal in prop_oneof![PATH_BYTES - 4..PATH_BYTES + 4, DOMAIN_BYTES..DOMAIN_BYTES + 12],
        short in any::<bool>(),
    ) {
        let local = "l".repeat(if short { 1 + local % 8 } else { local });
        let mut domain = labels.iter().map(|n| "d".repeat(*n)).collect::<Vec<_>>().join(".");
        // Fills up to around the bound of a path by short labels.
        while local.len() + domain.len() + 5 < goal && labels.len() > 2 {
            let room = goal - local.len() - domain.len() - 4;
            domain.push('.');
            domain.push_str(&"e".repeat(room.min(LABEL_BYTES)));
        }
        let fits = local.len() <= LOCAL_PART_BYTES
            && domain.len() <= DOMAIN_BYTES
            && domain.split('.').all(|label| label.len() <= LABEL_BYTES)
            && "<@>".len() + local.len() + domain.len() <= PATH_BYTES;
        let text = format!("<{local}@{domain}>");
        prop_assert_eq!(address::path(text.as_bytes()).map(|_| ()), if fits { Ok(()) } else { Err(PathError::TooLong) });
        let fits = domain.len() <= DOMAIN_BYTES && domain.split('.').all(|label| label.len() <= LABEL_BYTES);
        prop_assert_eq!(address::is_host_name(domain.as_bytes()), fits);
    }
}

// --- command lines --------------------------------------------------------------------------------------------------

/// The letters of `text` in a case each that `upper` chooses.
fn in_some_case(text: &str, upper: u32) -> String {
    let case = |(i, c): (usize, char)| {
        if upper >> (i % 32) & 1 == 1 { c.to_ascii_uppercase() } else { c.to_ascii_lowercase() }
    };
    text.chars().enumerate().map(case).collect()
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn property_mail_and_rcpt_are_read_as_they_were_written(
        (route, local, domain) in path(),
        size in prop::option::of(any::<u64>()),
        body in prop::option::of(any::<bool>()),
        size_first in any::<bool>(),
        upper in any::<u32>(),
        space in "[ \t]{0,3}",
    ) {
        let mut params: Vec<String> = Vec::new();
        params.extend(size.map(|size| format!(" {}={size}", in_some_case("size", upper))));
        params.extend(body.map(|eight| in_some_case(if eight { " body=8bitmime" } else { " body=7bit" }, upper >> 7)));
        if !size_first {
            params.reverse();
        }
        let path = format!("<{route}{local}@{domain}>");
        let line = format!("{}{path}{}{space}", in_some_case("mail from:", upper), params.concat());
        let used = |given: bool, extension| if given { extension } else { Extensions::default() };
        let expected = MailParams {
            size: size.unwrap_or(0),
            body: if body == Some(true) { BodyType::EightBit } else { BodyType::SevenBit },
            used: used(size.is_some(), Extensions::SIZE).with(used(body.is_some(), Extensions::EIGHT_BIT_MIME)),
            ..MailParams::default()
        };
        match command::parse(line.as_bytes()) {
            Ok(Command::Mail { from, params, .. }) => {
                assert_eq!(from.address, format!("{local}@{domain}").as_bytes());
                prop_assert_eq!(params, expected);
            }
            other => prop_assert!(false, "{line}: {other:?}"),
        }
        let line = format!("{}{path}{space}", in_some_case("rcpt to:", upper));
        match command::parse(line.as_bytes()) {
            Ok(Command::Rcpt { to, .. }) => prop_assert_eq!(to.domain(), domain.as_bytes()),
            other => prop_assert!(false, "{line}: {other:?}"),
        }
    }

    #[test]
    fn property_one_wrong_octet_in_a_command_never_passes_what_is_not_printable(
        (route, local, domain) in path(),
        other in any::<u8>(),
    ) {
        let line = format!("MAIL FROM:<{route}{local}@{domain}> SIZE=1 BODY=8BITMIME").into_bytes();
        for at in 0..line.len() {
            let mut changed = line.clone();
            changed[at] = other;
            let result = command::parse(&changed);
            let tolerated = at + 1 == line.len() && other == b'\t';
            if !matches!(other, b' '..=b'~') && !tolerated {
                prop_assert_eq!(result, Err(CommandError::NotPrintable), "{} at {}", other, at);
            } else if let Ok(Command::Mail { from, .. }) = result {
                check_accepted(&[b"<", from.address, b">"].concat())?;
            }
        }
    }

    #[test]
    fn property_a_line_ends_at_its_first_crlf_and_nowhere_else(text in hostile(80), behind in hostile(20)) {
        let input = [&text[..], b"\r\n", &behind].concat();
        let end = input.windows(2).position(|w| w == b"\r\n").unwrap();
        prop_assert_eq!(command::find_line(&input, COMMAND_LINE_BYTES), Line::Whole(&input[..end]));
        for cut in 0..=end + 1 {
            prop_assert_eq!(command::find_line(&input[..cut], COMMAND_LINE_BYTES), Line::Partial);
        }
        let _ = command::parse(&input[..end]);
    }
}

// --- message data ---------------------------------------------------------------------------------------------------

/// Made of what matters to the scanner.
fn data() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        6 => prop::sample::select(vec![&b"\r\n"[..], b"\r\n", b"\r\n.", b"\r\n..", b".", b"a", b"\r\n.\r\n"]).prop_map(<[u8]>::to_vec),
        1 => prop::sample::select(vec![&b"\n"[..], b"\r", b"\0", b"\r\r\n", b"\r\n.\n", b"\r\n.\r"]).prop_map(<[u8]>::to_vec),
        2 => prop::sample::select(vec![&b"\r\nReceived: x"[..], b"\r\nreceived:", b"\r\nReceived", b"\r\nX-Received: y"])
            .prop_map(<[u8]>::to_vec),
        2 => (32..127u8, 1..300usize).prop_map(|(byte, count)| vec![byte; count]),
    ];
    prop::collection::vec(piece, 0..30).prop_map(|pieces| pieces.concat())
}

/// Valid data: lines without bare CR, bare LF or NUL.
fn lines() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let octet = any::<u8>().prop_map(|b| if matches!(b, b'\r' | b'\n' | 0) { b'.' } else { b });
    let line = prop_oneof![
        prop::collection::vec(octet, 0..120),
        r"\.{1,3}[a-z]{0,3}".prop_map(String::into_bytes),
        Just(Vec::new()),
    ];
    prop::collection::vec(line, 0..20)
}

fn stuffed(lines: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for line in lines {
        out.extend(line.starts_with(b".").then_some(b'.'));
        out.extend_from_slice(line);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b".\r\n");
    out
}

/// The end of the data, the fault, the octets counted.
fn scan<'a>(max: u64, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Option<usize>, Option<Fault>, u64) {
    let mut scanner = DataScanner::new(max);
    let mut before = 0;
    for piece in pieces {
        let scanned = scanner.scan(piece);
        before += scanned.consumed;
        if scanned.ended {
            return (Some(before), scanner.fault(), scanner.bytes());
        }
        assert_eq!(scanned.consumed, piece.len());
    }
    (None, scanner.fault(), scanner.bytes())
}

proptest! {
    #![proptest_config(cases(400))]

    #[test]
    fn property_data_means_the_same_in_any_split(bytes in data(), cuts in cuts(), max in prop_oneof![0..700u64, Just(u64::MAX)]) {
        prop_assert_eq!(scan(max, [&bytes[..]]), scan(max, pieces(&bytes, &cuts)));
    }

    #[test]
    fn property_stuffed_lines_come_out_as_they_went_in(lines in lines(), behind in hostile(30), cuts in cuts()) {
        let wire = stuffed(&lines);
        let input = [&wire[..], &behind].concat();
        let (end, fault, bytes) = scan(u64::MAX, pieces(&input, &cuts));
        prop_assert_eq!((end, bytes), (Some(wire.len()), wire.len() as u64));
        // Received headers apart, which these lines do not have, nothing is wrong with it.
        prop_assert_eq!(fault, None);
        let body = wire.strip_suffix(b".\r\n").unwrap();
        let mut rest = body;
        for line in &lines {
            let end = rest.windows(2).position(|w| w == b"\r\n").unwrap();
            let found = &rest[..end];
            prop_assert_eq!(found.strip_prefix(b".").unwrap_or(found), line.as_slice());
            rest = &rest[end + 2..];
        }
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn property_one_bad_octet_is_refused_wherever_it_stands_and_however_it_is_cut(
        lines in lines(),
        at in any::<u16>(),
        bad in prop::sample::select(vec![(&b"\n"[..], Fault::BareLf), (b"\0", Fault::Nul), (b"\rx", Fault::BareCr)]),
        cuts in cuts(),
    ) {
        let mut wire = stuffed(&lines);
        let body = wire.len() - 3;
        // Directly in front of the final dot it would make that no final dot.
        prop_assume!(body > 0);
        let mut at = usize::from(at) % body;
        // A LF behind a CR would be none that is bare; between CR and LF the CR is bare too.
        at -= usize::from(at > 0 && wire[at - 1] == b'\r');
        wire.splice(at..at, bad.0.iter().copied());
        let (end, fault, _) = scan(u64::MAX, pieces(&wire, &cuts));
        prop_assert_eq!((end, fault), (Some(wire.len()), Some(bad.1)));
    }

    #[test]
    fn property_received_headers_are_counted_in_any_split(
        headers in prop::collection::vec(prop::sample::select(vec![
            "Received: a", "received:b", "RECEIVED:\tc", "X-Received: d", "Received : e", "Subject: Received:", " Received: f",
        ]), 90..180),
        cuts in cuts(),
    ) {
        let count = headers.iter().filter(|h| h.to_ascii_lowercase().starts_with("received:")).count();
        let wire = headers.join("\r\n") + "\r\n\r\nReceived: in the body\r\n.\r\n";
        let (end, fault, _) = scan(u64::MAX, pieces(wire.as_bytes(), &cuts));
        let expected = (count > limits::RECEIVED_HEADERS as usize).then_some(Fault::Loop);
        prop_assert_eq!((end, fault), (Some(wire.len()), expected));
    }
}

// --- whole sessions -------------------------------------------------------------------------------------------------

/// Commands and data in sensible and senseless order.
fn session() -> impl Strategy<Value = Vec<u8>> {
    let transaction = (data(), prop::bool::weighted(0.8)).prop_map(|(data, ends)| {
        let end: &[u8] = if ends { b"\r\n.\r\n" } else { b"" };
        [b"MAIL FROM:<a@b.example>\r\nRCPT TO:<c@d.example>\r\nDATA\r\n", &data[..], end].concat()
    });
    let command = prop::sample::select(vec![
        "EHLO c.example\r\n",
        "HELO c\r\n",
        "MAIL FROM:<> SIZE=100\r\n",
        "MAIL FROM:<x@y> SIZE=9999999\r\n",
        "RCPT TO:<e@f>\r\n",
        "RCPT TO:<nowhere>\r\n",
        "DATA\r\n",
        "RSET\r\n",
        "NOOP\r\n",
        "VRFY x\r\n",
        "bogus\r\n",
        "\r\n",
        "NOOP \n\r\n",
    ]);
    let piece = prop_oneof![
        4 => transaction,
        6 => command.prop_map(|line| line.as_bytes().to_vec()),
        1 => hostile(60),
        1 => (limits::COMMAND_LINE_BYTES - 8..limits::COMMAND_LINE_BYTES + 8).prop_map(|n| format!("NOOP {}\r\n", "x".repeat(n - 7)).into_bytes()),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| [b"EHLO c.example\r\n".to_vec(), pieces.concat()].concat())
}

/// What a session left behind: replies, messages, refusals, and whether it is over.
type Transcript = (String, Vec<Vec<u8>>, Vec<String>, bool);

fn transcript<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Transcript {
    let now = Moment(1);
    let policy = Arc::new(ServerPolicy::new("mx.example", 600, 3));
    let peer = PeerFacts::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true);
    let mut out = Vec::new();
    let mut server = Server::new(policy, peer, now, &mut out);
    let (mut tail, mut collected) = (Vec::new(), Vec::new());
    let (mut messages, mut refused, mut closed) = (Vec::new(), Vec::new(), false);
    for piece in pieces {
        tail.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let (n, step) = server.step(&tail[at..], now, &mut out);
            at += n;
            match step {
                Step::Body(piece) => collected.extend_from_slice(piece),
                Step::Message => {
                    messages.push(std::mem::take(&mut collected));
                    let verdict = match messages.len() % 3 {
                        0 => Verdict::Full,
                        n => Verdict::Accepted(MessageId(n as u64)),
                    };
                    server.handle_verdict(verdict, now, &mut out);
                }
                Step::Discarded(_) | Step::Dropped => collected.clear(),
                Step::Ask | Step::StartTls => unreachable!("neither is offered"),
                Step::Refused(refusal) => refused.push(refusal.line.escape_ascii().to_string()),
                Step::NeedInput | Step::Blocked => break,
                Step::Close => {
                    closed = true;
                    break;
                }
            }
        }
        tail.drain(..at);
        assert!(tail.len() <= limits::COMMAND_LINE_BYTES, "what waits is the start of a line");
    }
    (String::from_utf8(out).unwrap(), messages, refused, closed)
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn property_a_session_is_the_same_in_any_split(input in session(), cuts in cuts()) {
        prop_assert_eq!(transcript([&input[..]]), transcript(pieces(&input, &cuts)));
    }

    #[test]
    fn property_a_message_that_was_taken_is_valid_data_to_its_last_octet(input in session(), cuts in cuts()) {
        for message in transcript(pieces(&input, &cuts)).1 {
            let end = [b"\r\n", &message[..]].concat().windows(5).position(|w| w == b"\r\n.\r\n");
            prop_assert_eq!(end, Some(message.len() - 3));
            prop_assert!(message.len() <= 600 + 3 && !message.contains(&0));
            let bare = |(at, byte): (usize, &u8)| match byte {
                b'\n' => at == 0 || message[at - 1] != b'\r',
                b'\r' => message.get(at + 1) != Some(&b'\n'),
                _ => false,
            };
            prop_assert!(!message.iter().enumerate().any(bare));
        }
    }
}

// --- replies --------------------------------------------------------------------------------------------------------

fn replies<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<(u16, String)>, Option<ReplyError>) {
    let mut parser = ReplyParser::default();
    let mut found = Vec::new();
    for mut piece in pieces {
        loop {
            match parser.feed(&mut piece) {
                Ok(true) => found.push((parser.reply().code, parser.reply().text.to_owned())),
                Ok(false) => break,
                Err(error) => return (found, Some(error)),
            }
        }
    }
    (found, None)
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn property_a_reply_is_too_long_from_the_first_octet_or_line_above_its_bound(
        octets in limits::REPLY_LINE_BYTES - 4..limits::REPLY_LINE_BYTES + 4,
        lines in limits::REPLY_LINES - 3..limits::REPLY_LINES + 3,
        cuts in cuts(),
    ) {
        // With its CR, without its LF.
        let line = format!("250 {}\r\n", "x".repeat(octets - 5));
        let expected = (octets > limits::REPLY_LINE_BYTES).then_some(ReplyError::LineTooLong);
        prop_assert_eq!(replies(pieces(line.as_bytes(), &cuts)).1, expected);
        let reply = "250-x\r\n".repeat(lines - 1) + "250 y\r\n";
        let expected = (lines > limits::REPLY_LINES).then_some(ReplyError::TooManyLines);
        prop_assert_eq!(replies(pieces(reply.as_bytes(), &cuts)).1, expected);
    }

    #[test]
    fn property_replies_are_the_same_in_any_split(
        lines in prop::collection::vec(
            prop_oneof![
                6 => "(250|250|354|421|550|199|999)(-| |)[ -~]{0,30}\r\n".prop_map(String::into_bytes),
                1 => (limits::REPLY_LINE_BYTES - 8..limits::REPLY_LINE_BYTES + 8)
                    .prop_map(|n| format!("250-{}\r\n", "x".repeat(n)).into_bytes()),
                1 => hostile(40),
            ],
            0..12,
        ),
        cuts in cuts(),
    ) {
        let bytes = lines.concat();
        let (whole, error) = replies([&bytes[..]]);
        prop_assert_eq!((&whole, error), (&replies(pieces(&bytes, &cuts)).0, replies(pieces(&bytes, &cuts)).1));
        for (code, text) in whole {
            prop_assert!((200..600).contains(&code) && text.len() <= limits::REPLY_TEXT_BYTES);
            prop_assert!(text.bytes().all(|b| matches!(b, b'\n' | b' '..=b'~')));
        }
    }
}
