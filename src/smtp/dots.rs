//! PURE. Messages without the dots that DATA needs (RFC 5321 §4.5.2): what BDAT sends (RFC 3030 §2).
//!
//! In: a whole message in wire form, dot-stuffed with its final dot. Out: how many dots of it are doubled, and its octets
//! without them. Seldom has a message one, and then nothing is copied. It refuses what has no final dot.

use memchr::memmem;
use std::borrow::Cow;

/// `.` CRLF at the beginning of a line.
const FINAL_DOT: usize = 3;

/// The dots in `wire` that were put before a dot that begins a line; `None` if it does not end with the final dot.
pub fn doubled(wire: &[u8]) -> Option<usize> {
    if wire != b".\r\n" && !wire.ends_with(b"\r\n.\r\n") {
        return None;
    }
    // In wire form each line that begins with a dot is the last, or begins with a doubled one.
    if planted!(FlightDotsKept) {
        return Some(0);
    }
    let first = usize::from(wire.first() == Some(&b'.'));
    Some(first + memmem::find_iter(wire, b"\n.").count() - 1)
}

/// Where [`bare`] lies in `wire`, which has no doubled dot.
pub fn undoubled(wire: &[u8]) -> std::ops::Range<usize> {
    0..wire.len() - FINAL_DOT
}

/// The message without its final dot and without doubled dots, of which it has `doubled`.
pub fn bare(wire: &[u8], doubled: usize) -> Cow<'_, [u8]> {
    let text = &wire[undoubled(wire)];
    if doubled == 0 {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len() - doubled);
    let mut rest = text.strip_prefix(b".").unwrap_or(text);
    while let Some(at) = memmem::find(rest, b"\n.") {
        out.extend_from_slice(&rest[..=at]);
        rest = &rest[at + 2..];
    }
    out.extend_from_slice(rest);
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::properties::cases;
    use proptest::prelude::*;

    #[test]
    fn dots_that_begin_lines_lose_their_doubles_and_the_final_dot_goes() {
        for (wire, text) in [
            (&b".\r\n"[..], &b""[..]),
            (b"\r\n.\r\n", b"\r\n"),
            (b"a.b\r\n..\r\n.\r\n", b"a.b\r\n.\r\n"),
            (b"..\r\n....\r\nx.\r\n.\r\n", b".\r\n...\r\nx.\r\n"),
            (b"..x\r\n.\r\n", b".x\r\n"),
        ] {
            let dots = doubled(wire).expect("it ends with the final dot");
            assert_eq!(dots, wire.len() - text.len() - FINAL_DOT, "{wire:?}");
            assert_eq!(&*bare(wire, dots), text);
        }
        for wire in [&b""[..], b"x", b"x\r\n", b"x.\r\n", b"..\r\n", b"x\n.\r\n"] {
            assert_eq!(doubled(wire), None, "{wire:?}");
        }
        assert!(matches!(bare(b"a\r\n.\r\n", 0), Cow::Borrowed(b"a\r\n")));
    }

    proptest! {
        #![proptest_config(cases(200))]

        #[test]
        fn property_what_was_doubled_is_as_it_was(lines in prop::collection::vec(r"[.a]{0,4}", 0..20)) {
            let text: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
            let dot = |line: &String| if line.starts_with('.') { "." } else { "" };
            let wire: String = lines.iter().map(|line| format!("{}{line}\r\n", dot(line))).collect();
            let wire = format!("{wire}.\r\n").into_bytes();
            let dots = doubled(&wire).expect("it ends with the final dot");
            prop_assert_eq!(dots, lines.iter().filter(|line| line.starts_with('.')).count());
            prop_assert_eq!(&*bare(&wire, dots), text.as_bytes());
        }
    }
}
