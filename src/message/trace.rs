//! PURE. The trace header that Ringpost puts before every message it accepts (RFC 5321 §4.4).
//!
//! **Inputs**: what the session knows. **Outputs**: octets in wire form, appended to a buffer that is reused. **Core**:
//! the accepting shard. **Refuses** to trust the text it is given: nothing that a peer sent can end a header or begin a
//! comment.

use super::MessageId;
use crate::limits::{RECEIVED_HEADER_BYTES, TRACE_NAME_BYTES};
use crate::time::Wall;
use core::net::IpAddr;
use std::io::Write as _;

/// What a Received header says.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The argument of EHLO or HELO as the client gave it; empty if it gave none.
    pub helo: &'a [u8],
    /// The client's address.
    pub peer: IpAddr,
    /// The name of this host, from the configuration.
    pub host: &'a str,
    /// The word behind "with": SMTP, ESMTP, ESMTPS, ESMTPSA, … (RFC 3848, RFC 6531 §4.3), 10 characters at most.
    pub protocol: &'a str,
    /// The message.
    pub id: MessageId,
    /// Its priority (RFC 6710), −9 to 9; 0 is that of all mail, and not told.
    pub priority: i8,
    /// When it was accepted, from [`DateCache::text`].
    pub date: &'a [u8; DATE_BYTES],
}

/// Lines longer than this are folded where they can be (RFC 5322 §2.1.1).
const LINE_SHOULD_BYTES: usize = 78;

impl Received<'_> {
    /// Appends the header, at most [`RECEIVED_HEADER_BYTES`]. Does not allocate if `out` has that much room.
    ///
    /// ```text
    /// Received: from client.example ([192.0.2.1])
    ///         by mx.example (Ringpost) with ESMTP id 0123456789abc;
    ///         Sat, 21 Nov 2026 23:39:49 +0000
    /// ```
    pub fn write(&self, out: &mut Vec<u8>) {
        out.reserve(RECEIVED_HEADER_BYTES);
        let mut line = out.len();
        out.extend_from_slice(b"Received: from ");
        if self.helo.is_empty() {
            // RFC 5321 §4.1.1.1 has a client without a name give its address; so does this.
            address_literal(self.peer, out);
        } else {
            name(self.helo, out);
        }
        let gap = out.len();
        out.extend_from_slice(b" (");
        address_literal(self.peer, out);
        if out.len() + 1 - line > LINE_SHOULD_BYTES {
            let end = out.len();
            out.extend_from_slice(b"\r\n");
            out.copy_within(gap + 1..end, gap + 3);
            out[gap..gap + 3].copy_from_slice(b"\r\n\t");
        }
        out.extend_from_slice(b")\r\n");
        line = out.len();
        out.extend_from_slice(b"\tby ");
        name(self.host.as_bytes(), out);
        out.extend_from_slice(b" (Ringpost)");
        // " with ESMTP id " and the id and " PRIORITY -4" and ";".
        let rest = 24 + self.protocol.len() + if self.priority == 0 { 0 } else { 12 };
        out.extend_from_slice(if out.len() - line + rest > LINE_SHOULD_BYTES { b"\r\n\t" } else { b" " });
        out.extend_from_slice(b"with ");
        out.extend_from_slice(self.protocol.as_bytes());
        out.extend_from_slice(b" id ");
        out.extend_from_slice(&self.id.text());
        if self.priority != 0 {
            write!(out, " PRIORITY {}", self.priority).expect("a Vec takes what is written");
        }
        out.extend_from_slice(b";\r\n\t");
        out.extend_from_slice(self.date);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends a domain or address literal with everything else made harmless.
fn name(text: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&text[..text.len().min(TRACE_NAME_BYTES)]);
    for byte in &mut out[start..] {
        if !matches!(byte, b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'.' | b'-' | b'_' | b':' | b'[' | b']') {
            *byte = b'?';
        }
    }
}

/// Appends an address literal (RFC 5321 §4.1.3). An IPv4 address seen through an IPv6 socket is an IPv4 address.
fn address_literal(address: IpAddr, out: &mut Vec<u8>) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            out.push(b'[');
            for (i, octet) in v4.octets().into_iter().enumerate() {
                if i > 0 {
                    out.push(b'.');
                }
                if octet >= 100 {
                    out.push(b'0' + octet / 100);
                }
                if octet >= 10 {
                    out.push(b'0' + octet / 10 % 10);
                }
                out.push(b'0' + octet % 10);
            }
        }
        IpAddr::V6(v6) => write!(out, "[IPv6:{v6}").expect("a Vec takes what is written"),
    }
    out.push(b']');
}

/// The length of a date: `Sat, 21 Nov 2026 23:39:49 +0000`.
pub const DATE_BYTES: usize = 31;

/// Dates of RFC 5322 §3.3, in UTC; the text is made once a second. One per shard.
#[derive(Clone, Debug)]
pub struct DateCache {
    second: u64,
    text: [u8; DATE_BYTES],
}

impl Default for DateCache {
    fn default() -> Self {
        DateCache { second: 0, text: date_text(0) }
    }
}

impl DateCache {
    /// The date and time of `wall`, to the second. Times after the year 9999 count as its last second.
    pub fn text(&mut self, wall: Wall) -> &[u8; DATE_BYTES] {
        let second = wall.0 / 1000;
        if second != self.second {
            self.second = second;
            self.text = date_text(second);
        }
        &self.text
    }
}

/// 9999-12-31T23:59:59Z: the last year of four digits.
const LAST_SECOND: u64 = 253_402_300_799;

fn date_text(second: u64) -> [u8; DATE_BYTES] {
    let second = second.min(LAST_SECOND);
    let (days, rest) = (second / 86_400, second % 86_400);
    // Day of the week: 1970-01-01 was a Thursday.
    let weekday = (days + 4) % 7;
    // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days, for dates from 1970 on: years
    // begin in March, so that the leap day comes last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = (shifted_month + 2) % 12;
    let year = era * 400 + year_of_era + u64::from(month < 2);

    let mut text = *b"Thu, 01 Jan 1970 00:00:00 +0000";
    let three = |table: &[u8; 36], i: u64| <[u8; 3]>::try_from(&table[i as usize * 3..][..3]).expect("three bytes");
    text[..3].copy_from_slice(&three(b"SunMonTueWedThuFriSat               ", weekday));
    text[8..11].copy_from_slice(&three(b"JanFebMarAprMayJunJulAugSepOctNovDec", month));
    let mut two = |at: usize, value: u64| {
        text[at] = b'0' + (value / 10) as u8;
        text[at + 1] = b'0' + (value % 10) as u8;
    };
    two(5, day);
    two(12, year / 100);
    two(14, year % 100);
    two(17, rest / 3600);
    two(20, rest / 60 % 60);
    two(23, rest % 60);
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn received(helo: &[u8], peer: &str, host: &str, extended: bool) -> String {
        let mut out = Vec::new();
        let date = *DateCache::default().text(Wall(1_795_304_389_000));
        let id = MessageId(12345 << 10);
        Received {
            helo,
            peer: peer.parse().unwrap(),
            host,
            protocol: if extended { "ESMTP" } else { "SMTP" },
            id,
            priority: 0,
            date: &date,
        }
        .write(&mut out);
        assert!(out.len() <= RECEIVED_HEADER_BYTES, "{}", out.len());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn writes_what_rfc_5321_section_4_4_asks_for() {
        assert_eq!(
            received(b"client.example", "192.0.2.1", "mx.example", true),
            "Received: from client.example ([192.0.2.1])\r\n\tby mx.example (Ringpost) with ESMTP id 00000000c1p00;\r\n\
             \tSat, 21 Nov 2026 23:39:49 +0000\r\n"
        );
        let text = received(b"[IPv6:2001:db8::1]", "2001:db8::1", "mx.example", false);
        assert!(text.starts_with("Received: from [IPv6:2001:db8::1] ([IPv6:2001:db8::1])\r\n"), "{text}");
        assert!(text.contains(" with SMTP id "), "{text}");
        assert!(received(b"", "255.10.0.99", "h", true).starts_with("Received: from [255.10.0.99] ([255.10.0.99])"));
        assert!(received(b"a", "::ffff:192.0.2.7", "h", true).contains("([192.0.2.7])"));
    }

    #[test]
    fn a_priority_stands_behind_the_id() {
        let date = date_text(1_795_304_389);
        for (priority, host, told) in [
            (3, "mx.example", "\tby mx.example (Ringpost) with ESMTP id 0000000000001 PRIORITY 3;\r\n"),
            (-9, "mx.example", "\tby mx.example (Ringpost) with ESMTP id 0000000000001 PRIORITY -9;\r\n"),
            (0, "mx.example", "\tby mx.example (Ringpost) with ESMTP id 0000000000001;\r\n"),
            (
                -4,
                "a-longer-name.mx.example",
                "\tby a-longer-name.mx.example (Ringpost)\r\n\twith ESMTP id 0000000000001 PRIORITY -4;",
            ),
        ] {
            let mut out = Vec::new();
            let (peer, protocol, id) = ("192.0.2.1".parse().unwrap(), "ESMTP", MessageId(1));
            Received { helo: b"c", peer, host, protocol, id, priority, date: &date }.write(&mut out);
            let text = String::from_utf8(out).unwrap();
            assert!(text.contains(told), "{text}");
            assert!(text.lines().all(|line| line.len() <= 78), "{text}");
        }
    }

    #[test]
    fn folds_long_lines_and_bounds_hostile_names() {
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        for helo in [&b"x"[..], &[b'a'; 30], &[b'b'; 255], &[b'c'; 5000], b"a\r\nX: (b) ; \xff\0"] {
            for (peer, host) in [("127.0.0.1", "h"), (longest, "host.example")] {
                let text = received(helo, peer, host, true);
                let lines: Vec<_> = text.strip_suffix("\r\n").unwrap().split("\r\n").collect();
                assert!(lines[0].starts_with("Received: from ") && lines.len() <= 5);
                assert!(lines[1..].iter().all(|l| l.starts_with('\t')), "{text}");
                assert!(lines.iter().all(|l| l.len() <= 78 || !l.contains(" (")), "{text}");
                assert!(lines.iter().all(|l| l.len() <= 998 && l.is_ascii() && !l[1..].contains(char::is_control)));
                assert_eq!(text.matches('(').count(), 2, "{text}");
            }
        }
        assert!(received(b"x", "127.0.0.1", &"h".repeat(255), true).contains("h (Ringpost)\r\n\twith ESMTP id "));
    }

    #[test]
    fn does_not_allocate_where_there_is_room() {
        let mut out = Vec::with_capacity(2 * RECEIVED_HEADER_BYTES);
        let before = out.as_ptr();
        let date = date_text(0);
        let peer = "::1".parse().unwrap();
        for _ in 0..2 {
            out.clear();
            let (protocol, id, priority) = ("UTF8SMTPSA", MessageId(1), -4);
            Received { helo: &[b'x'; 255], peer, host: "mx", protocol, id, priority, date: &date }.write(&mut out);
        }
        assert_eq!(out.as_ptr(), before);
    }

    #[test]
    fn dates_are_those_of_jiff() {
        let check = |second: u64| {
            let expected = jiff::Timestamp::from_second(i64::try_from(second).unwrap())
                .unwrap()
                .to_zoned(jiff::tz::TimeZone::UTC)
                .strftime("%a, %d %b %Y %H:%M:%S +0000")
                .to_string();
            assert_eq!(std::str::from_utf8(&date_text(second)).unwrap(), expected, "{second}");
        };
        // Every day for 400 years at changing times of the day, and some of all others.
        (0..146_097).for_each(|day| check(day * 86_400 + day * 7919 % 86_400));
        (0..LAST_SECOND).step_by(60_000_011).filter(|s| *s < 253_402_200_000).for_each(check);
        for second in [0, 86_399, 86_400, 951_782_399, 951_868_799, 951_868_800, 4_107_542_399, 4_107_542_400] {
            check(second);
        }
        assert_eq!(&date_text(u64::MAX), b"Fri, 31 Dec 9999 23:59:59 +0000");
    }

    #[test]
    fn the_cache_changes_with_the_second() {
        let mut cache = DateCache::default();
        assert_eq!(cache.text(Wall(999)), b"Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(cache.text(Wall(1000)), b"Thu, 01 Jan 1970 00:00:01 +0000");
        assert_eq!(cache.text(Wall(500)), b"Thu, 01 Jan 1970 00:00:00 +0000");
    }
}
