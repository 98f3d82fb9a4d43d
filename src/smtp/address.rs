//! PURE. Paths, mailboxes, domains and address literals exactly as RFC 5321 §4.1.2 and §4.1.3 write them, read from a
//! slice without copying.
//!
//! In: bytes that begin with `<`. Out: the address as a sub-slice, where its domain begins, and what follows the path.
//! Runs on whichever core calls it. It refuses what the grammar does not allow and what is longer than §4.5.3.1 allows.
//! Internationalised addresses (RFC 6531 §3.3) are told apart: whether one may stand where it stands is the caller's
//! affair.

use crate::limits::{DOMAIN_BYTES, LABEL_BYTES, LOCAL_PART_BYTES, PATH_BYTES};
use std::net::Ipv6Addr;

/// A path without its angle brackets and source route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<'a> {
    /// `local-part@domain`; empty for `<>`; a bare local part for `<Postmaster>`.
    pub address: &'a [u8],
    /// Where the domain begins in `address`; `address.len()` if there is none.
    pub domain_at: usize,
    /// It has characters beyond US-ASCII, in UTF-8: only SMTPUTF8 allows it.
    pub international: bool,
}

impl<'a> Path<'a> {
    /// The domain or address literal; empty for `<>` and for the bare `<Postmaster>`.
    pub fn domain(&self) -> &'a [u8] {
        &self.address[self.domain_at..]
    }
}

/// Why a path was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathError {
    /// Not the grammar of §4.1.2.
    Syntax,
    /// A local part of more than 64 octets (§4.5.3.1.1), a domain of more than 255 (§4.5.3.1.2) or a path of more than
    /// 256 (§4.5.3.1.3).
    TooLong,
    /// A mailbox without `@domain` that is not `Postmaster` (§4.1.1.3).
    NoDomain,
}

const ATEXT: u8 = 1;
/// A letter, a digit or a hyphen: the inside of a label.
const LDH: u8 = 2;
const QTEXT: u8 = 4;
const DCONTENT: u8 = 8;
/// As `LDH`, and the underscore of host names that are none.
const HOST: u8 = 16;

/// The character classes of §4.1.2 and §4.1.3, one look-up a byte.
static CLASS: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut byte = 0usize;
    while byte < 256 {
        let b = byte as u8;
        let mut class = 0;
        if b.is_ascii_alphanumeric() {
            class |= ATEXT | LDH | HOST;
        }
        if b == b'-' {
            class |= LDH | HOST;
        }
        if b == b'_' {
            class |= HOST;
        }
        if matches!(
            b,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'/'
                | b'='
                | b'?'
                | b'^'
                | b'_'
                | b'`'
                | b'{'
                | b'|'
                | b'}'
                | b'~'
        ) {
            class |= ATEXT;
        }
        if matches!(b, 32..=33 | 35..=91 | 93..=126) {
            class |= QTEXT;
        }
        if matches!(b, 33..=90 | 94..=126) {
            class |= DCONTENT;
        }
        table[byte] = class;
        byte += 1;
    }
    table
};

/// With `UTF8`, every octet beyond US-ASCII counts into every class (RFC 6531 §3.3); that they are UTF-8 is seen to first.
#[inline]
fn is<const UTF8: bool>(byte: u8, class: u8) -> bool {
    CLASS[byte as usize] & class != 0 || UTF8 && byte >= 128
}

/// Length of the run of `class` at the start of `text`.
#[inline]
fn run<const UTF8: bool>(text: &[u8], class: u8) -> usize {
    text.iter().position(|b| !is::<UTF8>(*b, class)).unwrap_or(text.len())
}

/// Reads a reverse-path (`<>` allowed) or forward-path at the start of `text`; the rest behind its `>` comes back too.
///
/// A source route (`<@a,@b:user@c>`) is checked and dropped, as §4.1.1.3 and appendix C ask.
pub fn path(text: &[u8]) -> Result<(Path<'_>, &[u8]), PathError> {
    match grammar::<false>(text) {
        // Only now: plain addresses pay nothing for it.
        Err(PathError::Syntax) if !text.is_ascii() && is_printable_utf8(text) => grammar::<true>(text),
        result => result,
    }
}

/// RFC 6532 §3.1; the control characters U+0080 to U+009F are in no name.
fn is_printable_utf8(text: &[u8]) -> bool {
    std::str::from_utf8(text).is_ok_and(|text| !text.contains(char::is_control))
}

#[inline]
fn grammar<const UTF8: bool>(text: &[u8]) -> Result<(Path<'_>, &[u8]), PathError> {
    let mut at = match text {
        [b'<', b'>', rest @ ..] => {
            return Ok((Path { address: &[], domain_at: 0, international: false }, rest));
        }
        [b'<', b'@', ..] => source_route::<UTF8>(text)?,
        [b'<', ..] => 1,
        _ => return Err(PathError::Syntax),
    };
    let start = at;
    at += local_part::<UTF8>(&text[at..])?;
    let local_len = at - start;
    let (address, domain_at) = match text.get(at) {
        Some(b'@') => {
            let domain_at = local_len + 1;
            at += 1;
            at += domain_or_literal::<UTF8>(&text[at..])?;
            (&text[start..at], domain_at)
        }
        // The one mailbox that needs no domain, in any case (§4.1.1.3); not behind a source route.
        Some(b'>') if start == 1 && text[start..at].eq_ignore_ascii_case(b"postmaster") => {
            (&text[start..at], local_len)
        }
        Some(b'>') => return Err(PathError::NoDomain),
        _ => return Err(PathError::Syntax),
    };
    if text.get(at) != Some(&b'>') {
        return Err(PathError::Syntax);
    }
    if local_len > LOCAL_PART_BYTES || address.len() - domain_at > DOMAIN_BYTES || address.len() + 2 > PATH_BYTES {
        return Err(PathError::TooLong);
    }
    let international = UTF8 && !address.is_ascii();
    Ok((Path { address, domain_at, international }, &text[at + 1..]))
}

/// Reads `<@domain,@domain:`; returns its length.
fn source_route<const UTF8: bool>(text: &[u8]) -> Result<usize, PathError> {
    let mut at = 1;
    loop {
        if text.get(at) != Some(&b'@') {
            return Err(PathError::Syntax);
        }
        at += 1;
        at += domain::<UTF8>(&text[at..], LDH)?;
        match text.get(at) {
            Some(b',') => at += 1,
            Some(b':') => return Ok(at + 1),
            _ => return Err(PathError::Syntax),
        }
    }
}

/// Dot-string or Quoted-string; returns its length.
#[inline]
fn local_part<const UTF8: bool>(text: &[u8]) -> Result<usize, PathError> {
    if text.first() == Some(&b'"') {
        return quoted_string::<UTF8>(text);
    }
    let mut at = 0;
    loop {
        let atom = run::<UTF8>(&text[at..], ATEXT);
        if atom == 0 {
            return Err(PathError::Syntax);
        }
        at += atom;
        if text.get(at) != Some(&b'.') {
            return Ok(at);
        }
        at += 1;
    }
}

fn quoted_string<const UTF8: bool>(text: &[u8]) -> Result<usize, PathError> {
    let mut at = 1;
    loop {
        match text.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') if matches!(text.get(at + 1), Some(32..=126)) => at += 2,
            Some(b) if is::<UTF8>(*b, QTEXT) => at += 1,
            _ => return Err(PathError::Syntax),
        }
    }
}

#[inline]
fn domain_or_literal<const UTF8: bool>(text: &[u8]) -> Result<usize, PathError> {
    if text.first() == Some(&b'[') { address_literal(text) } else { domain::<UTF8>(text, LDH) }
}

/// Labels of the class `inside` that neither begin nor end with a hyphen, joined by dots; returns the length.
#[inline]
fn domain<const UTF8: bool>(text: &[u8], inside: u8) -> Result<usize, PathError> {
    let mut at = 0;
    loop {
        let label = run::<UTF8>(&text[at..], inside);
        if label == 0 || text[at] == b'-' || text[at + label - 1] == b'-' {
            return Err(PathError::Syntax);
        }
        if label > LABEL_BYTES {
            return Err(PathError::TooLong);
        }
        at += label;
        if text.get(at) != Some(&b'.') {
            return Ok(at);
        }
        at += 1;
    }
}

/// `[192.0.2.1]`, `[IPv6:2001:db8::1]` or `[tag:text]` (§4.1.3); returns the length with the brackets.
fn address_literal(text: &[u8]) -> Result<usize, PathError> {
    // The contents never hold `[`, `\` or `]`, so the first `]` ends the literal.
    let end = text.iter().take(PATH_BYTES).position(|b| *b == b']').ok_or(PathError::Syntax)?;
    let inside = &text[1..end];
    let ok = if inside.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case(b"IPv6:")) {
        is_ipv6(&inside[5..])
    } else if let Some(colon) = inside.iter().position(|b| *b == b':') {
        let (tag, content) = (&inside[..colon], &inside[colon + 1..]);
        run::<false>(tag, LDH) == tag.len()
            && tag.last().is_some_and(|b| *b != b'-')
            && !content.is_empty()
            && run::<false>(content, DCONTENT) == content.len()
    } else {
        is_ipv4(inside)
    };
    if ok { Ok(end + 1) } else { Err(PathError::Syntax) }
}

/// Four numbers of one to three digits, each at most 255 (§4.1.3, Snum: leading zeros are allowed).
fn is_ipv4(text: &[u8]) -> bool {
    let mut count = 0;
    for number in text.split(|b| *b == b'.') {
        count += 1;
        let fits = matches!(number.len(), 1..=3)
            && number.iter().all(u8::is_ascii_digit)
            && number.iter().fold(0u16, |sum, b| sum * 10 + u16::from(b - b'0')) <= 255;
        if !fits {
            return false;
        }
    }
    count == 4
}

fn is_ipv6(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    if text.parse::<Ipv6Addr>().is_err() {
        return false;
    }
    // §4.1.3: "::" stands for two groups at least, which the standard library does not ask for.
    let groups: usize = text.split(':').filter(|g| !g.is_empty()).map(|g| if g.contains('.') { 2 } else { 1 }).sum();
    !text.contains("::") || groups <= 6
}

/// Whether `text` is what may follow EHLO or HELO (§4.1.1.1): a domain or an address literal, and nothing else.
///
/// Underscores pass too: hosts that are named so exist among the clients of a relay, the name is used for nothing but
/// the Received header, and §4.1.4 forbids refusing mail over it.
pub fn is_host_name(text: &[u8]) -> bool {
    let length = if text.first() == Some(&b'[') { address_literal(text) } else { domain::<false>(text, HOST) };
    text.len() <= DOMAIN_BYTES && length == Ok(text.len())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn address(text: &str) -> Result<(String, String), PathError> {
        path(text.as_bytes()).map(|(p, rest)| {
            assert!(rest.is_empty() || rest == b" X");
            (String::from_utf8(p.address.to_vec()).unwrap(), String::from_utf8(p.domain().to_vec()).unwrap())
        })
    }

    fn good(text: &str, domain: &str) {
        assert_eq!(address(&format!("<{text}>")), Ok((text.to_string(), domain.to_string())), "{text}");
        assert_eq!(address(&format!("<{text}> X")), Ok((text.to_string(), domain.to_string())), "{text}");
    }

    #[test]
    fn accepts_what_the_grammar_has() {
        good("", "");
        good("a@b", "b");
        good("a.b+c/d=e{|}~!#$%&'*?^_`-@x-1.Example.COM", "x-1.Example.COM");
        good("\"\"@x.example", "x.example");
        good("\"a b@c>\\\"\\\\\\ \"@x.example", "x.example");
        good("postMASTER", "");
        good("a@[192.0.2.1]", "[192.0.2.1]");
        good("a@[192.000.02.1]", "[192.000.02.1]");
        good("a@[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]");
        good("a@[ipv6:::ffff:192.0.2.1]", "[ipv6:::ffff:192.0.2.1]");
        good("a@[IPv6:1:2:3:4:5:6:7:8]", "[IPv6:1:2:3:4:5:6:7:8]");
        good("a@[x-net:anything!]", "[x-net:anything!]");
        good("a@1.2.3.4", "1.2.3.4");
    }

    #[test]
    fn drops_source_routes() {
        let (p, rest) = path(b"<@a.example,@b.example:u@c.example> SIZE=1").unwrap();
        assert_eq!((p.address, p.domain(), rest), (&b"u@c.example"[..], &b"c.example"[..], &b" SIZE=1"[..]));
        for bad in ["<@a:>", "<@a,b:u@c>", "<@a,:u@c>", "<@:u@c>", "<@a u@c>", "<@a:postmaster>", "<@[1.2.3.4]:u@c>"] {
            assert!(address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn international_addresses_are_read_and_told_apart() {
        for (text, domain) in [
            ("\u{e4}@b", "b"),
            ("a@b\u{fc}cher.example", "b\u{fc}cher.example"),
            ("\"\u{4e2d} x\"@\u{4e2d}", "\u{4e2d}"),
        ] {
            good(text, domain);
            assert!(path(format!("<{text}>").as_bytes()).unwrap().0.international, "{text}");
        }
        assert!(!path(b"<a@b>").unwrap().0.international);
        assert!(!path("<a@b> \u{e4}".as_bytes()).unwrap().0.international);
        assert_eq!(path(b"<\xe4@b>"), Err(PathError::Syntax), "no UTF-8");
        assert_eq!(path("<a@-\u{e4}>".as_bytes()), Err(PathError::Syntax));
        assert_eq!(address(&format!("<{}@b>", "\u{e4}".repeat(33))), Err(PathError::TooLong), "limits are in octets");
    }

    #[test]
    fn refuses_what_the_grammar_lacks() {
        for bad in [
            "",
            "a@b",
            "<",
            "<a",
            "<a@",
            "<a@b",
            "<@b>",
            "<a@>",
            "<.a@b>",
            "<a.@b>",
            "<a..b@c>",
            "<a b@c>",
            "<a@b.>",
            "<a@.b>",
            "<a@b..c>",
            "<a@-b>",
            "<a@b->",
            "<a@b_c>",
            "<a@b c>",
            "<\"a@b>",
            "<\"a\"b@c>",
            "<\"a\\\"@b>",
            "<a@b@c>",
            "<a,b@c>",
            "<a@[1.2.3]>",
            "<a@[1.2.3.4.5]>",
            "<a@[1.2.3.256]>",
            "<a@[1.2.3.4>",
            "<a@[]>",
            "<a@[IPv6:]>",
            "<a@[IPv6:1:2]>",
            "<a@[IPv6:1:2:3:4:5:6:7::]>",
            "<a@[IPv6:fe80::1%1]>",
            "<a@[:x]>",
            "<a@[x-:y]>",
            "<a@[x:]>",
            "<a@[x:a b]>",
            "<a@b\0>",
            "<\"a\0\"@b>",
            "<\"\\\r\"@b>",
            "<a@b>>x<",
        ] {
            if bad == "<a@b>>x<" {
                assert_eq!(path(bad.as_bytes()).unwrap().1, b">x<");
                continue;
            }
            assert_eq!(address(bad), Err(PathError::Syntax), "{bad}");
        }
        assert_eq!(address("<root>"), Err(PathError::NoDomain));
    }

    #[test]
    fn limits_hold_at_the_octet() {
        good(&format!("{}@x.example", "l".repeat(64)), "x.example");
        assert_eq!(address(&format!("<{}@x.example>", "l".repeat(65))), Err(PathError::TooLong));
        let label = "d".repeat(63);
        good(
            &format!("u@{label}.{label}.{label}.{}", "d".repeat(60)),
            &format!("{label}.{label}.{label}.{}", "d".repeat(60)),
        );
        assert_eq!(address(&format!("<u@{label}.{label}.{label}.{}>", "d".repeat(61))), Err(PathError::TooLong));
        assert_eq!(address(&format!("<u@{}>", "d".repeat(64))), Err(PathError::TooLong));
    }

    #[test]
    fn host_names() {
        for good in ["a", "mail.example.org", "my_host", "[192.0.2.1]", "[IPv6:::1]", "localhost"] {
            assert!(is_host_name(good.as_bytes()), "{good}");
        }
        let long = "d.".repeat(128) + "d";
        for bad in ["", "a b", "a.", ".a", "[1.2.3.4", "[1.2.3.4]x", "a,b", "a\u{e4}", "-a", long.as_str()] {
            assert!(!is_host_name(bad.as_bytes()), "{bad}");
        }
    }
}
