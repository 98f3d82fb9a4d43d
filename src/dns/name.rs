//! PURE. The one spelling of a domain under which it is asked for, cached and coalesced.

use hickory_proto::rr::Name;

/// Octets of a name in its text form without the final dot: 255 on the wire (RFC 1035 §2.3.4) less the first length
/// octet and the root label.
const NAME_BYTES: usize = 253;
/// RFC 1035 §2.3.4.
const LABEL_BYTES: usize = 63;

/// The text is no domain name (RFC 1035 §2.3.1, with digits and underscores anywhere) and no address literal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a domain name")]
pub struct BadName;

/// A domain in canonical form, kept on the stack.
#[derive(Clone, Copy)]
pub struct CanonicalName {
    bytes: [u8; NAME_BYTES],
    len: u8,
}

impl CanonicalName {
    /// The text: ASCII lower case, without final dot.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).expect("canonical() lets ASCII through only")
    }
}

/// Brings a domain into the form in which [`Resolved`](super::Resolved) names it: ASCII lower case, final dot dropped.
/// Address literals (`[192.0.2.1]`, `[IPv6:2001:db8::1]`) pass, their inside unchecked. Labels of letters, digits,
/// hyphens and underscores pass, of 1 to 63 octets, 253 in all.
///
/// # Errors
/// [`BadName`] for anything else, U-labels too.
pub fn canonical(domain: &str) -> Result<CanonicalName, BadName> {
    let text = domain.as_bytes();
    let text = text.strip_suffix(b".").unwrap_or(text);
    if text.is_empty() || text.len() > NAME_BYTES {
        return Err(BadName);
    }
    let mut out = CanonicalName { bytes: [0; NAME_BYTES], len: u8::try_from(text.len()).map_err(|_| BadName)? };
    for (to, from) in out.bytes.iter_mut().zip(text) {
        *to = from.to_ascii_lowercase();
    }
    let lower = &out.bytes[..text.len()];
    let valid = if lower[0] == b'[' {
        lower.len() == domain.len() && lower.ends_with(b"]") && lower.is_ascii()
    } else {
        is_host_name(lower)
    };
    if valid { Ok(out) } else { Err(BadName) }
}

fn is_host_name(lower: &[u8]) -> bool {
    let mut label = 0;
    for byte in lower {
        match byte {
            b'.' if label == 0 => return false,
            b'.' => label = 0,
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' if label < LABEL_BYTES => label += 1,
            _ => return false,
        }
    }
    label > 0
}

/// A canonical name as the codec wants it.
pub(super) fn to_wire(canonical: &str) -> Name {
    let mut name = Name::from_labels(canonical.split('.').map(str::as_bytes))
        .expect("canonical() checked the labels and the length");
    name.set_fqdn(true);
    name
}

/// The name with each letter in upper or lower case, by the bits of `random` (0x20).
pub(super) fn in_random_case(name: &Name, mut random: impl FnMut() -> u64) -> Name {
    let (mut bits, mut left) = (0, 0);
    let mut coin = || {
        if left == 0 {
            (bits, left) = (random(), 64);
        }
        left -= 1;
        bits >>= 1;
        bits & 1 == 1
    };
    let labels = name.iter().map(|label| {
        let cased = label.iter().map(|b| if coin() { b.to_ascii_uppercase() } else { b.to_ascii_lowercase() });
        cased.collect::<Vec<u8>>()
    });
    let labels: Vec<Vec<u8>> = labels.collect();
    let mut cased = Name::from_labels(labels.iter().map(Vec::as_slice)).expect("as long as the name");
    cased.set_fqdn(true);
    cased
}

/// A name out of an answer in canonical form.
///
/// # Errors
/// [`BadName`] if it is the root or holds octets that no host name has.
pub(super) fn from_wire(name: &Name) -> Result<CanonicalName, BadName> {
    let mut out = CanonicalName { bytes: [0; NAME_BYTES], len: 0 };
    let mut at = 0;
    for (i, label) in name.iter().enumerate() {
        // A dot inside a label would otherwise read as two labels.
        if label.contains(&b'.') {
            return Err(BadName);
        }
        for byte in (i > 0).then_some(&b'.').into_iter().chain(label) {
            *out.bytes.get_mut(at).ok_or(BadName)? = byte.to_ascii_lowercase();
            at += 1;
        }
    }
    if !is_host_name(&out.bytes[..at]) {
        return Err(BadName);
    }
    out.len = u8::try_from(at).map_err(|_| BadName)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn one_spelling() {
        for spelling in ["Example.COM", "example.com.", "example.com", "EXAMPLE.com."] {
            assert_eq!(canonical(spelling).unwrap().as_str(), "example.com");
        }
        assert_eq!(canonical("[IPv6:2001:DB8::1]").unwrap().as_str(), "[ipv6:2001:db8::1]");
        assert_eq!(canonical("localhost").unwrap().as_str(), "localhost");
    }

    #[test]
    fn what_is_no_name() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = format!("{}x", "a.".repeat(127));
        for bad in
            ["", ".", "..", ".a", "a..b", "a b", "a\0b", "münchen.example", "[", "[1.2.3.4", "[1.2.3.4].", "a.b\\"]
                .into_iter()
                .chain([long_label.as_str(), &long_name])
        {
            assert!(canonical(bad).is_err(), "{bad:?}");
        }
        assert!(canonical(&long_label[1..]).is_ok());
        assert!(canonical(&long_name[2..]).is_ok());
    }

    #[test]
    fn wire_round_trip() {
        let text = "_x.1-2.example";
        let name = to_wire(text);
        assert!(name.is_fqdn());
        assert_eq!(from_wire(&name).unwrap().as_str(), text);
        assert_eq!(from_wire(&Name::from_labels([&b"MX"[..], b"Example"]).unwrap()).unwrap().as_str(), "mx.example");
        assert!(from_wire(&Name::root()).is_err());
        assert!(from_wire(&Name::from_labels([&b"a.b"[..], b"example"]).unwrap()).is_err());
        assert!(from_wire(&Name::from_labels([&b"a b"[..]]).unwrap()).is_err());
    }
}
