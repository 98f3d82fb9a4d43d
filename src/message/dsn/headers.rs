//! PURE. The last part of a notification: the headers of the original message (text/rfc822-headers, RFC 6522 §4).

use super::Report;
use crate::limits;

/// Writes the part, with the header fields at the beginning of `wire`; whether it has 8-bit data. Plain if they are
/// well-formed 7-bit text, or UTF-8 in a report that may have it (RFC 6533 §4); in quoted-printable if not, as RFC 6522 §4
/// provides.
pub(super) fn part(report: &mut Report<'_>, wire: &[u8]) -> bool {
    let ascii = lines(wire).all(is_plain);
    let utf8 = !ascii && report.utf8 && lines(wire).all(is_plain_utf8);
    let plain = ascii || utf8;
    if utf8 {
        report.begin_part("message/global-headers", "8bit");
    } else {
        report.begin_part("text/rfc822-headers", if plain { "7bit" } else { "quoted-printable" });
    }
    for line in lines(wire) {
        if plain {
            if line.first() == Some(&b'.') {
                report.out.push(b'.');
            }
            report.out.extend_from_slice(line);
        } else {
            quoted_printable(line, report.out);
        }
        report.out.extend_from_slice(b"\r\n");
    }
    report.line("");
    utf8
}

/// The lines of the header block without their line ends and stuffed dots. Ends with the block, with the first line
/// that cannot belong to one, with a line that is not whole, and at the bound.
pub(super) fn lines(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = &wire[..wire.len().min(limits::DSN_HEADERS_BYTES)];
    std::iter::from_fn(move || {
        let end = memchr::memmem::find(rest, b"\r\n")?;
        let line = &rest[..end];
        rest = &rest[end + 2..];
        let line = line.strip_prefix(b".").unwrap_or(line);
        is_header_line(line).then_some(line)
    })
    .fuse()
}

/// A field (RFC 5322 §2.2: a name of printable octets and a colon) or the continuation of one.
fn is_header_line(line: &[u8]) -> bool {
    match line.first() {
        None => false,
        Some(b' ' | b'\t') => true,
        Some(_) => {
            let name = line.split(|b| *b == b':').next().unwrap_or_default();
            !name.is_empty() && name.len() < line.len() && name.iter().all(|b| matches!(b, b' '..=b'~'))
        }
    }
}

fn is_plain(line: &[u8]) -> bool {
    let printable = |b: &u8| matches!(b, b'\t' | b' '..=b'~');
    // "--" could be taken for the boundary.
    line.len() <= limits::MESSAGE_LINE_BYTES && line.iter().all(printable) && !line.starts_with(b"--")
}

fn is_plain_utf8(line: &[u8]) -> bool {
    let text = std::str::from_utf8(line);
    let is_text = text.is_ok_and(|text| text.chars().all(|c| c == '\t' || !c.is_control()));
    is_text && line.len() <= limits::MESSAGE_LINE_BYTES && !line.starts_with(b"--")
}

/// RFC 2045 §6.7: no line longer than 76, and none that begins with a dot or a dash, so that none is stuffed or taken for
/// a boundary.
fn quoted_printable(line: &[u8], out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut column = 0;
    for (i, byte) in line.iter().copied().enumerate() {
        let last = i + 1 == line.len();
        let literal = match byte {
            b'=' => false,
            b'.' | b'-' => column != 0,
            b' ' | b'\t' => !last,
            b'!'..=b'~' => true,
            _ => false,
        };
        let width = if literal { 1 } else { 3 };
        // 75 and the "=" of a soft line break.
        if column + width > 75 {
            out.extend_from_slice(b"=\r\n");
            column = 0;
        }
        if literal && !(column == 0 && matches!(byte, b'.' | b'-')) {
            out.push(byte);
            column += 1;
        } else {
            out.extend_from_slice(&[b'=', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            column += 3;
        }
    }
}
