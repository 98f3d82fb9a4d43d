//! PURE. Enhanced mail system status codes (RFC 3463).

use std::fmt;

/// `class.subject.detail`: class 2, 4 or 5, the others 0 to 999.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Status {
    class: u8,
    subject: u16,
    detail: u16,
}

impl Status {
    /// A status known to be well-formed.
    ///
    /// # Panics
    /// If it is not; in a constant that is an error of compilation.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Status {
        assert!(matches!(class, 2 | 4 | 5) && subject <= 999 && detail <= 999, "not a status code of RFC 3463");
        Status { class, subject, detail }
    }

    /// Reads the status at the beginning of a reply's text, where it must be followed by a space or the end
    /// (RFC 2034 §4). No leading zeroes (RFC 3463 §2).
    pub fn parse(text: &[u8]) -> Option<Status> {
        let word = text.split(|b| *b == b' ').next()?;
        let mut parts = word.split(|b| *b == b'.');
        let class = number(parts.next()?)?;
        let subject = number(parts.next()?)?;
        let detail = number(parts.next()?)?;
        let well_formed = parts.next().is_none() && matches!(class, 2 | 4 | 5);
        well_formed.then_some(Status { class: class as u8, subject, detail })
    }

    /// 2 success, 4 persistent transient failure, 5 permanent failure.
    pub fn class(self) -> u8 {
        self.class
    }

    /// What the failure is about: 1 addressing, 2 mailbox, 3 mail system, 4 network and routing, 5 protocol, 6 content,
    /// 7 security or policy, 0 other.
    pub fn subject(self) -> u16 {
        self.subject
    }

    /// The failure itself, within its subject.
    pub fn detail(self) -> u16 {
        self.detail
    }
}

fn number(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > 3 || (digits.len() > 1 && digits[0] == b'0') {
        return None;
    }
    digits.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + u16::from(b - b'0')))
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_only_what_rfc_3463_allows() {
        assert_eq!(Status::parse(b"5.1.1 no such user"), Some(Status::new(5, 1, 1)));
        assert_eq!(Status::parse(b"4.999.0"), Some(Status::new(4, 999, 0)));
        for bad in ["", "5", "5.1", "5.1.1.1 x", "3.1.1", "5.01.1", "5.1.1000", "5.1.x", "5.1.1: x", " 5.1.1", "5..1"] {
            assert_eq!(Status::parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(Status::new(5, 4, 7).to_string(), "5.4.7");
    }
}
