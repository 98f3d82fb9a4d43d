//! PURE. What a letter of the day looks like: its envelope and text by its number, and how a receiver knows it again.
//!
//! Inputs: numbers. Outputs: octets, and numbers read from octets. The text ends with the letter's number, so a receiver can
//! tell a whole letter from a part of one, and each from any other, by looking at what it must be.

use super::town::{TENANTS, Town};
use crate::rt::sim::rng::mix;
use std::sync::OnceLock;

/// Lines of a text, 64 octets each.
const LINE: usize = 64;
/// The most lines that one has.
const LINES: u64 = 96;

fn filler() -> &'static [u8] {
    static FILLER: OnceLock<Vec<u8>> = OnceLock::new();
    FILLER.get_or_init(|| {
        let words = b"ringpost carries mail to whom it is for, in its own time, once. ";
        (0..LINES)
            .flat_map(|n| {
                let mut line = words[..LINE - 2].to_vec();
                line.rotate_left(n as usize % (LINE - 2));
                // No line begins with a dot.
                line[0] = b'a' + (n % 26) as u8;
                line.extend_from_slice(b"\r\n");
                line
            })
            .collect()
    })
}

/// The user that a letter is to, among those of its domain: a popular domain has more of them.
pub fn user(mark: u32, domain: u32) -> u64 {
    let users = if domain < 30 { 200_000 } else { 400 };
    mix(u64::from(mark) ^ 0x75_73_65_72) % users
}

/// What stands at a letter's end.
pub fn ending(mark: u32) -> (&'static [u8], [u8; 17]) {
    // Most are small.
    let lines = 6 + mix(u64::from(mark)) % 24 + if mark.is_multiple_of(16) { 60 } else { 0 };
    let mut last = *b"mark 0000000000\r\n";
    let mut rest = mark;
    for digit in last[5..15].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    (&filler()[..lines as usize * LINE], last)
}

/// Whether `text` ends as letter `mark` does; `dot`: with the line that ends DATA.
pub fn is_whole(mark: u32, text: &[u8], dot: bool) -> bool {
    let text = if dot { text.strip_suffix(b".\r\n") } else { Some(text) };
    let (body, last) = ending(mark);
    text.and_then(|text| text.strip_suffix(&last)).is_some_and(|text| text.ends_with(body))
}

/// Its envelope and text, as a client sends them: MAIL and RCPT, then DATA, or BDAT with the text at once.
pub fn write(mark: u32, tenant: u8, domain: u32, town: &Town, out: &mut Vec<u8>) {
    let from = TENANTS[usize::from(tenant)].name;
    let to = &town.domains[domain as usize].name;
    let user = user(mark, domain);
    out.extend_from_slice(format!("MAIL FROM:<b-{mark}@{from}.test>\r\nRCPT TO:<u{user}@{to}>\r\n").as_bytes());
    let tenant = &TENANTS[usize::from(tenant)];
    if tenant.by_data {
        out.extend_from_slice(b"DATA\r\n");
    } else {
        let text = text(mark, tenant.name, user, to);
        out.extend_from_slice(format!("BDAT {} LAST\r\n", text.len()).as_bytes());
        out.extend_from_slice(&text);
    }
}

/// Its text, without a final dot.
pub fn text(mark: u32, from: &str, user: u64, to: &str) -> Vec<u8> {
    let (body, last) = ending(mark);
    let mut text = format!(
        "From: {from} <hello@{from}.test>\r\nTo: <u{user}@{to}>\r\nSubject: a letter\r\n\
         Date: Wed, 18 Nov 2026 00:00:00 +0000\r\nMessage-ID: <{mark}@{from}.test>\r\n\r\n"
    )
    .into_bytes();
    text.extend_from_slice(body);
    text.extend_from_slice(&last);
    text
}

/// The number in `b-NUMBER@`, wherever that stands in `line`.
pub fn mark_in(line: &[u8]) -> Option<u32> {
    let at = memchr::memmem::find(line, b"b-")? + 2;
    let digits = line[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&line[at..at + digits]).ok()?.parse().ok()
}
