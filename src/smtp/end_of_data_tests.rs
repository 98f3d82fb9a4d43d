//! SMTP smuggling, exhaustively: every string of up to seven octets of { CR, LF, NUL, dot, space } with a dot in it, cut in every
//! way, behind text and behind a line's end. Nothing ends a message but CR LF dot CR LF (RFC 5321 §4.1.1.4), and what could be
//! read as an end by somebody else makes the message refused.
#![allow(clippy::unwrap_used)]

use super::data::{DataScanner, Fault};
use super::server::{PeerFacts, Server, ServerPolicy, Step, Verdict};
use crate::message::MessageId;
use crate::time::Moment;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

const LETTERS: &[u8; 5] = b"\r\n\0. ";
const LONGEST: u32 = 7;
const NOW: Moment = Moment(1_000_000_000);
/// What an attacker would like to be read as commands.
const SMUGGLED: &[u8] = b"MAIL FROM:<smuggled@x>\r\n";

fn each_variant(mut f: impl FnMut(&[u8])) -> usize {
    let mut count = 0;
    for length in 1..=LONGEST {
        for number in 0..LETTERS.len().pow(length) {
            let mut rest = number;
            let string: Vec<u8> = (0..length)
                .map(|_| {
                    let letter = LETTERS[rest % LETTERS.len()];
                    rest /= LETTERS.len();
                    letter
                })
                .collect();
            if string.contains(&b'.') {
                count += 1;
                f(&string);
            }
        }
    }
    count
}

/// Where RFC 5321 ends the data that begins behind `before` (which holds no end), and whether all up to there is proper.
fn rfc_5321(before: &[u8], variant: &[u8]) -> (Option<usize>, bool) {
    let framed = [b"\r\n", before, variant].concat();
    let end = framed.windows(5).position(|w| w == b"\r\n.\r\n").map(|at| at + 5);
    let seen = &framed[..end.unwrap_or(framed.len())];
    let proper = (0..seen.len()).all(|i| match seen[i] {
        0 => false,
        b'\n' => i > 0 && seen[i - 1] == b'\r',
        b'\r' => i + 1 == seen.len() || seen[i + 1] == b'\n',
        _ => true,
    });
    (end.map(|end| end - 2 - before.len()), proper)
}

/// Every way to cut `rest`, from this state of the scanner on.
fn every_chunking(scanner: &DataScanner, at: usize, rest: &[u8], check: &mut impl FnMut(Option<usize>, Option<Fault>)) {
    if rest.is_empty() {
        return check(None, scanner.fault());
    }
    for length in 1..=rest.len() {
        let mut next = scanner.clone();
        let scanned = next.scan(&rest[..length]);
        if scanned.ended {
            check(Some(at + scanned.consumed), next.fault());
        } else {
            assert_eq!(scanned.consumed, length);
            every_chunking(&next, at + length, &rest[length..], check);
        }
    }
}

#[test]
fn no_variant_in_no_chunking_ends_data_but_the_one_of_rfc_5321() {
    let (mut chunkings, mut ended) = (0u64, 0u64);
    let variants = each_variant(|variant| {
        for before in [&b"x"[..], b"x\r\n"] {
            let (end, proper) = rfc_5321(before, variant);
            let mut scanner = DataScanner::new(1000);
            assert!(!scanner.scan(before).ended);
            every_chunking(&scanner, 0, variant, &mut |found, fault| {
                chunkings += 1;
                ended += u64::from(found.is_some());
                assert_eq!(found, end, "{:?} behind {:?}", variant.escape_ascii().to_string(), before);
                assert_eq!(fault.is_none(), proper, "{:?}", variant.escape_ascii().to_string());
            });
        }
    });
    assert_eq!(variants, (1..=LONGEST).map(|n| 5usize.pow(n) - 4usize.pow(n)).sum::<usize>());
    assert!(chunkings > 7_000_000 && ended > 10_000, "{chunkings} chunkings, {ended} ends");
}

/// What a session did: messages it handed on, and the codes of its replies behind 354.
fn session(pieces: &[&[u8]]) -> (usize, Vec<String>) {
    let policy = Arc::new(ServerPolicy::new("mx.example", 1000, 3));
    let mut out = Vec::new();
    let mut server = Server::new(policy, PeerFacts::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true), NOW, &mut out);
    let mut messages = 0;
    let mut tail = Vec::new();
    let open = &b"EHLO a\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"[..];
    for (i, piece) in [open].iter().chain(pieces).enumerate() {
        if i == 1 {
            out.clear();
        }
        tail.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let (taken, step) = server.step(&tail[at..], NOW, &mut out);
            at += taken;
            match step {
                Step::NeedInput | Step::Blocked | Step::Close => break,
                Step::Message => {
                    messages += 1;
                    server.handle_verdict(Verdict::Accepted(MessageId(1)), NOW, &mut out);
                }
                _ => {}
            }
        }
        tail.drain(..at);
    }
    let replies = String::from_utf8(out).unwrap();
    (messages, replies.lines().map(|line| line[..3].to_owned()).collect())
}

#[test]
fn nothing_is_smuggled_through_a_whole_session() {
    each_variant(|variant| {
        // "x", the variant, a command to be smuggled, the true end, and a command behind it.
        let data = [b"x", variant, SMUGGLED, b"\r\n.\r\nNOOP\r\n"].concat();
        let (end, proper) = rfc_5321(b"x", variant);
        let message = if proper { "250" } else { "554" };
        // Behind the end of RFC 5321 there may be octets of the variant in front of the command: then it is none.
        let expected = match end {
            Some(end) if end == variant.len() => vec!["354", message, "250", "500", "500", "250"],
            Some(_) => vec![],
            None => {
                let whole = [variant, SMUGGLED].concat();
                let proper = rfc_5321(b"x", &whole).1;
                vec!["354", if proper { "250" } else { "554" }, "250"]
            }
        };
        let whole = session(&[b"DATA\r\n", &data]);
        let single: Vec<&[u8]> = data.chunks(1).collect();
        assert_eq!(session(&[&[&b"DATA\r\n"[..]], &single[..]].concat()), whole, "the same octet by octet");
        let cut = session(&[b"DATA\r\n", &data[..1 + variant.len()], &data[1 + variant.len()..]]);
        assert_eq!(cut, whole, "the same with a cut behind the variant");
        if !expected.is_empty() {
            assert_eq!(whole.1, expected, "{:?}", variant.escape_ascii().to_string());
        }
        if end.is_none() {
            assert!(whole.0 <= 1 && !whole.1.iter().skip(2).any(|code| code == "221"));
        }
    });
}

#[test]
fn in_counted_octets_nothing_ends_anything() {
    each_variant(|variant| {
        let body = [b"x", variant].concat();
        let proper = is_proper(&body);
        for cut in 0..=body.len() {
            let (first, last) = body.split_at(cut);
            let mut wire = format!("BDAT {}\r\n", first.len()).into_bytes();
            wire.extend_from_slice(first);
            wire.extend_from_slice(format!("BDAT {} LAST\r\n", last.len()).as_bytes());
            wire.extend_from_slice(last);
            wire.extend_from_slice(b"NOOP\r\n");
            let (messages, codes) = session(&[&wire]);
            assert_eq!(messages, usize::from(proper), "{:?} cut at {cut}: {codes:?}", body.escape_ascii().to_string());
            assert_eq!(codes.last().unwrap(), "250", "NOOP is read as a command");
        }
    });
}

/// Whether all lines of the body are proper; in BDAT a dot alone on a line is a line.
fn is_proper(body: &[u8]) -> bool {
    (0..body.len()).all(|i| match body[i] {
        0 => false,
        b'\n' => i > 0 && body[i - 1] == b'\r',
        b'\r' => body.get(i + 1) == Some(&b'\n'),
        _ => true,
    })
}
