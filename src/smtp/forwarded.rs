//! PURE. The attributes of XCLIENT and XFORWARD (Postfix XCLIENT_README, XFORWARD_README): what a proxy or a filter says
//! of the client that it stands for.
//!
//! In: the argument of the command. Out: [`Attributes`]. It refuses names that were not announced and values that are not
//! of their form. Whether the client may be believed at all, the server machine asks the listener's networks.

use super::parameters::{decode_xtext, is_xtext};
use std::net::IpAddr;

/// What was said. `None`: nothing; `Some(None)`: that it is not known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// ADDR: the client's address.
    pub address: Option<Option<IpAddr>>,
    /// HELO: what it said.
    pub helo: Option<Option<Vec<u8>>>,
    /// PROTO: whether it said EHLO.
    pub extended: Option<bool>,
    /// LOGIN: as which account it authenticated.
    pub login: Option<Option<Vec<u8>>>,
}

/// The attributes of XCLIENT.
pub const XCLIENT: &[&str] = &["NAME", "ADDR", "PORT", "PROTO", "HELO", "LOGIN", "DESTADDR", "DESTPORT"];
/// The attributes of XFORWARD.
pub const XFORWARD: &[&str] = &["NAME", "ADDR", "PORT", "PROTO", "HELO", "IDENT", "SOURCE"];

/// Reads `name=value` separated by spaces; `None` if anything is wrong.
pub fn parse(argument: &[u8], names: &[&str]) -> Option<Attributes> {
    let mut attributes = Attributes::default();
    let mut any = false;
    for word in argument.split(|b| *b == b' ').filter(|word| !word.is_empty()) {
        let at = word.iter().position(|b| *b == b'=')?;
        let (name, value) = (&word[..at], &word[at + 1..]);
        if !names.iter().any(|n| name.eq_ignore_ascii_case(n.as_bytes())) || !is_xtext(value) {
            return None;
        }
        any = true;
        let mut text = Vec::new();
        decode_xtext(value, &mut text);
        let unknown = text.eq_ignore_ascii_case(b"[UNAVAILABLE]")
            || text.eq_ignore_ascii_case(b"[TEMPUNAVAIL]")
            || text.is_empty();
        let is = |n: &str| name.eq_ignore_ascii_case(n.as_bytes());
        if is("ADDR") || is("DESTADDR") {
            let given = if unknown { None } else { Some(address(&text)?) };
            if is("ADDR") {
                attributes.address = Some(given);
            }
        } else if is("HELO") {
            let ok = unknown || super::address::is_host_name(&text);
            attributes.helo = Some((!unknown && ok).then_some(text));
        } else if is("PROTO") {
            attributes.extended = match () {
                () if unknown => None,
                () if text.eq_ignore_ascii_case(b"ESMTP") => Some(true),
                () if text.eq_ignore_ascii_case(b"SMTP") => Some(false),
                () => return None,
            };
        } else if is("LOGIN") {
            attributes.login = Some((!unknown).then_some(text));
        } else if (is("PORT") || is("DESTPORT")) && !unknown && std::str::from_utf8(&text).ok()?.parse::<u16>().is_err()
        {
            return None;
        }
    }
    any.then_some(attributes)
}

/// `192.0.2.1`, or `IPv6:2001:db8::1`.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    match text.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => text[5..].parse().ok().map(IpAddr::V6),
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn attributes_are_read() {
        let all = parse(b"NAME=spike.example ADDR=192.0.2.1 PORT=1 PROTO=esmtp HELO=a.example LOGIN=me+40x", XCLIENT)
            .unwrap();
        let expected = Attributes {
            address: Some(Some([192, 0, 2, 1].into())),
            helo: Some(Some(b"a.example".to_vec())),
            extended: Some(true),
            login: Some(Some(b"me@x".to_vec())),
        };
        assert_eq!(all, expected);
        let v6 = parse(b"addr=IPV6:2001:db8::1 helo=[UNAVAILABLE]", XFORWARD).unwrap();
        assert_eq!(v6.address, Some(Some("2001:db8::1".parse().unwrap())));
        assert_eq!(v6.helo, Some(None));
        for bad in ["", "ADDR", "ADDR=x", "FOO=1", "ADDR=1.2.3", "PORT=x", "PROTO=http", "ADDR=a b=c", "NAME=a+b"] {
            assert_eq!(parse(bad.as_bytes(), XCLIENT), None, "{bad}");
        }
        assert_eq!(parse(b"LOGIN=x", XFORWARD), None);
    }
}
