//! PURE. The header section of a message in wire form, seen as fields (RFC 5322 §2.2).
//!
//! **Inputs**: dot-stuffed lines that end with CRLF, as they came from a socket. **Outputs**: where the section ends; its
//! fields, each a slice with all of its folded lines. **Core**: any. It copies nothing but values that are asked for, and
//! **refuses** nothing: what is no field comes out too, and says so when its name is asked for. Stuffed dots count as
//! what they are: a line `.Bcc: x` is the field `Bcc` to everybody behind the next hop (RFC 5321 §4.5.2), so it is here.

use memchr::{memchr, memchr_iter, memmem};

/// The octets of `wire` that stand before the line that ends the header section: the empty one, or the final dot of a
/// message without a body. All of them if there is no such line.
pub fn section_len(wire: &[u8]) -> usize {
    let mut at = 0;
    while at < wire.len() {
        let line = &wire[at..];
        if line.starts_with(b"\r\n") || line.starts_with(b".\r\n") {
            return at;
        }
        at += line_len(line);
    }
    wire.len()
}

/// The length of the first line with its CRLF; of all if it has none.
fn line_len(wire: &[u8]) -> usize {
    memmem::find(wire, b"\r\n").map_or(wire.len(), |at| at + 2)
}

/// The lines of a section, without CRLF and stuffed dots.
pub fn lines(section: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = section;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (line, behind) = rest.split_at(line_len(rest));
        rest = behind;
        let line = line.strip_suffix(b"\r\n").unwrap_or(line);
        Some(line.strip_prefix(b".").unwrap_or(line))
    })
}

/// One field with its folded lines, or lines that are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// All of its lines, in wire form.
    pub raw: &'a [u8],
    /// The number of its first line in the section, from 1.
    pub line: usize,
}

/// Why a line begins no field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotAField {
    /// There is no colon, or the text before it is no name: it has spaces or 8-bit octets in it.
    NoName,
    /// It begins with a colon.
    EmptyName,
    /// Its name has a control character.
    Control,
    /// It begins with white space, and there is no field before it to continue.
    Continuation,
}

impl<'a> Field<'a> {
    /// The name, printable US-ASCII (RFC 5322 §2.2). White space before the colon is not part of it (§4.5).
    pub fn name(&self) -> Result<&'a [u8], NotAField> {
        self.name_and_colon().map(|(name, _)| name)
    }

    /// Whether this is the field `name`, in any case.
    pub fn is(&self, name: &str) -> bool {
        self.name().is_ok_and(|own| own.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// What stands behind the colon, unfolded (RFC 5322 §2.2.3) and without stuffed dots. Empty if this is no field.
    pub fn value(&self) -> Vec<u8> {
        let Ok((_, colon)) = self.name_and_colon() else { return Vec::new() };
        let mut value = Vec::with_capacity(self.raw.len());
        lines(self.raw).for_each(|line| value.extend_from_slice(line));
        value.drain(..=colon);
        value
    }

    /// The name, and where the colon stands in the first line without its stuffed dot.
    fn name_and_colon(&self) -> Result<(&'a [u8], usize), NotAField> {
        let line = lines(self.raw).next().unwrap_or_default();
        if line.first().is_some_and(is_wsp) {
            return Err(NotAField::Continuation);
        }
        let colon = memchr(b':', line).ok_or(NotAField::NoName)?;
        let name = &line[..colon];
        let name = &name[..name.iter().rposition(|b| !is_wsp(b)).map_or(0, |last| last + 1)];
        match name.iter().find(|b| !matches!(b, b'!'..=b'~')) {
            _ if name.is_empty() => Err(NotAField::EmptyName),
            None => Ok((name, colon)),
            Some(b' ' | 0x80..) => Err(NotAField::NoName),
            Some(_) => Err(NotAField::Control),
        }
    }
}

fn is_wsp(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

/// The fields of a section, in order; nothing of it is left out.
pub fn fields(section: &[u8]) -> impl Iterator<Item = Field<'_>> {
    let mut rest = section;
    let mut number = 1;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = line_len(rest);
        let mut lines = 1;
        while rest[end..].strip_prefix(b".").unwrap_or(&rest[end..]).first().is_some_and(is_wsp) {
            end += line_len(&rest[end..]);
            lines += 1;
        }
        let (raw, behind) = rest.split_at(end);
        let field = Field { raw, line: number };
        rest = behind;
        number += lines;
        Some(field)
    })
}

/// The fields named `name` (any case) at the beginning of `wire`, of any mail: lines that are no fields are passed over,
/// and nothing but the starts of lines is looked at. Ends with the header section.
pub fn named<'a>(wire: &'a [u8], name: &'a str) -> impl Iterator<Item = Field<'a>> {
    let starts = std::iter::once(0).chain(memchr_iter(b'\n', wire).map(|lf| lf + 1));
    let inside = starts.map_while(move |at| {
        let line = &wire[at..];
        (!line.is_empty() && !line.starts_with(b"\r\n") && !line.starts_with(b".\r\n")).then_some(line)
    });
    inside.filter_map(move |line| {
        let bare = line.strip_prefix(b".").unwrap_or(line);
        // One octet tells most of them apart.
        let alike = bare.first().is_some_and(|b| b.eq_ignore_ascii_case(&name.as_bytes()[0]))
            && bare.get(..name.len()).is_some_and(|start| start.eq_ignore_ascii_case(name.as_bytes()));
        alike.then(|| fields(line).next()).flatten().filter(|field| field.is(name))
    })
}

/// Whether the sender asks for delivery without regard to the TLS policies of the recipient's domain: one field
/// `TLS-Required: No` (RFC 8689 §3, §4.2.2). `wire` is the beginning of a message with its header section.
///
/// Two such fields must not be (§3); then neither counts, which leaves the policies in force. So does any other value.
pub fn tls_required_no(wire: &[u8]) -> bool {
    let mut found = named(wire, "TLS-Required");
    found.next().is_some_and(|field| field.value().trim_ascii().eq_ignore_ascii_case(b"No")) && found.next().is_none()
}

/// The value of the first field named `name` (any case) that has one, without white space around it: its first `most`
/// octets.
pub fn first_value(wire: &[u8], name: &str, most: usize) -> Option<Vec<u8>> {
    named(wire, name).find_map(|field| {
        let mut value = field.value().trim_ascii().to_vec();
        value.truncate(most);
        (!value.is_empty()).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::properties::{cases, hostile};
    use proptest::prelude::*;

    const WIRE: &[u8] =
        b"From: a@b\r\nSubject :\r\n folded\r\n. and stuffed\r\n..dot: x\r\n.Bcc: y\r\n\r\nBody: no\r\n.\r\n";

    #[test]
    fn the_first_value_that_there_is() {
        let wire = b"X-Campaign: \r\nx-campaign : spring\r\n sale \r\nX-Campaign: other\r\n\r\nX-Other: y\r\n";
        assert_eq!(first_value(wire, "X-Campaign", 255).unwrap(), b"spring sale");
        assert_eq!(first_value(wire, "X-Campaign", 3).unwrap(), b"spr");
        assert_eq!(first_value(wire, "X-Other", 255), None);
    }

    #[test]
    fn fields_with_all_their_lines() {
        let section = &WIRE[..section_len(WIRE)];
        assert!(WIRE[section.len()..].starts_with(b"\r\nBody"));
        let found: Vec<_> = fields(section).map(|f| (f.line, f.name().unwrap(), f.value())).collect();
        let expected: [(usize, &[u8], &[u8]); 4] =
            [(1, b"From", b" a@b"), (2, b"Subject", b" folded and stuffed"), (5, b".dot", b" x"), (6, b"Bcc", b" y")];
        assert_eq!(found, expected.map(|(line, name, value)| (line, name, value.to_vec())));
        assert_eq!(section_len(b"A: b\r\n.\r\n"), 6);
        assert_eq!(section_len(b"\r\nx"), 0);
        assert_eq!(section_len(b"A: b\r\n"), 6);
    }

    #[test]
    fn what_is_no_field_says_why() {
        for (line, why) in [
            ("no colon", NotAField::NoName),
            ("two words: x", NotAField::NoName),
            ("From alice Sat Nov 21 23:39:49 2026", NotAField::NoName),
            ("na\u{ef}ve: x", NotAField::NoName),
            (": x", NotAField::EmptyName),
            ("a\u{7}: x", NotAField::Control),
            ("a\u{7f}: x", NotAField::Control),
            ("a\tb: x", NotAField::Control),
            (" x: y", NotAField::Continuation),
            (". x: y", NotAField::Continuation),
            ("..", NotAField::NoName),
        ] {
            let wire = format!("{line}\r\n");
            assert_eq!(fields(wire.as_bytes()).next().unwrap().name(), Err(why), "{line}");
        }
    }

    #[test]
    fn tls_required_no_is_found_and_nothing_else() {
        for yes in ["TLS-Required: No\r\n\r\n", "A: b\r\ntls-required:\r\n\tNO \r\nC: d\r\n", ".TLS-Required :no\r\n"] {
            assert!(tls_required_no(yes.as_bytes()), "{yes:?}");
        }
        for no in [
            "",
            "TLS-Required: Yes\r\n\r\n",
            "TLS-Required: No\r\nTLS-Required: No\r\n\r\n",
            "TLS-Required: No\r\nTLS-Required: Yes\r\n\r\n",
            "TLS-Required: No, thanks\r\n\r\n",
            "TLS-Required-X: No\r\n\r\n",
            "X-TLS-Required: No\r\n\r\n",
            "A: b\r\n TLS-Required: No\r\n\r\n",
            "A: b\r\n\r\nTLS-Required: No\r\n",
            "A: b\r\n.\r\nTLS-Required: No\r\n",
            "TLS-Required\r\n\r\n",
        ] {
            assert!(!tls_required_no(no.as_bytes()), "{no:?}");
        }
    }

    proptest! {
        #![proptest_config(cases(500))]

        #[test]
        fn property_fields_leave_nothing_out_and_never_panic(wire in hostile(400)) {
            let section = &wire[..section_len(&wire)];
            let all: Vec<u8> = fields(section).flat_map(|f| f.raw.to_vec()).collect();
            prop_assert_eq!(all, section);
            let mut line = 1;
            for field in fields(section) {
                prop_assert_eq!(field.line, line);
                line += lines(field.raw).count();
                prop_assert!(field.value().len() <= field.raw.len());
                // The cheap search sees the same ones, unless lines end otherwise than by CRLF.
                if let Ok(name) = field.name() && memchr_iter(b'\n', section).all(|at| at > 0 && section[at - 1] == b'\r') {
                    let name = String::from_utf8(name.to_vec()).unwrap();
                    let slow: Vec<_> = fields(section).filter(|f| f.is(&name)).map(|f| f.raw.as_ptr()).collect();
                    prop_assert_eq!(named(&wire, &name).map(|f| f.raw.as_ptr()).collect::<Vec<_>>(), slow);
                }
            }
            tls_required_no(&wire);
        }
    }
}
