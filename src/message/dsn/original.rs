//! PURE. What a notification returns of the original message: its headers (RFC 6522 §4), or all of it (RFC 3461 §6.2).
//!
//! The message is in wire form, as the report is: what stands in a part of it stands there unchanged. It refuses to
//! return whole what could end the part early.

use super::{DsnFacts, Report, headers};
use crate::limits;

/// See the module.
pub(super) enum Original<'a> {
    /// The header section at the beginning of these bytes.
    Headers(&'a [u8]),
    /// A whole message, without its final dot.
    Whole(&'a [u8]),
}

impl<'a> Original<'a> {
    pub(super) fn of(facts: &DsnFacts<'a>, boundary: &str, utf8: bool) -> Self {
        let whole = facts.message.strip_suffix(b".\r\n").filter(|body| {
            let fits = body.ends_with(b"\r\n") && body.len() <= limits::DSN_FULL_BYTES;
            let plain = utf8 || has_ascii_headers(body);
            facts.whole && fits && plain && memchr::memmem::find(body, boundary.as_bytes()).is_none()
        });
        whole.map_or(Original::Headers(facts.message), Original::Whole)
    }

    pub(super) fn is_whole(&self) -> bool {
        matches!(self, Original::Whole(_))
    }

    /// Writes the part; whether it has 8-bit data.
    pub(super) fn write(&self, report: &mut Report<'_>) -> bool {
        match self {
            Original::Headers(wire) => headers::part(report, wire),
            Original::Whole(body) => {
                let eight_bit = !body.is_ascii();
                // RFC 6533 §5: a message with UTF-8 in its headers is message/global.
                let kind = if !has_ascii_headers(body) { "message/global" } else { "message/rfc822" };
                report.begin_part(kind, if eight_bit { "8bit" } else { "7bit" });
                report.out.extend_from_slice(body);
                // The line end in front of the boundary is the boundary's (RFC 2046 §5.1.1).
                report.line("");
                eight_bit
            }
        }
    }
}

fn has_ascii_headers(message: &[u8]) -> bool {
    message[..memchr::memmem::find(message, b"\r\n\r\n").unwrap_or(message.len())].is_ascii()
}
