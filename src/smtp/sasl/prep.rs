//! PURE. Names and passwords as SASL compares them: prepared by SASLprep (RFC 4013), bounded, and passwords forgotten.
//!
//! In: octets a client or an operator gave. Out: a prepared name or [`Password`], or why it can be none. It refuses what
//! RFC 4013 prohibits, also code points without a character in Unicode 3.2 (RFC 3454 §7: "stored strings"), what is empty
//! after preparation (RFC 4616 §2) and what is longer than limits.rs allows; it never shows a password.

use crate::limits::{ACCOUNT_NAME_BYTES, PASSWORD_BYTES};
use std::borrow::Cow;
use std::fmt;
use zeroize::Zeroizing;

/// Why a text can be no name or password. None of it depends on which accounts there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PrepError {
    /// Empty, or nothing is left of it (soft hyphens, for example).
    #[error("is empty")]
    Empty,
    /// Above [`ACCOUNT_NAME_BYTES`] or [`PASSWORD_BYTES`].
    #[error("is longer than {0} octets")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("is not UTF-8")]
    Encoding,
    /// It has characters that RFC 4013 §2.3 to §2.5 do not allow.
    #[error("has a character that SASLprep (RFC 4013) prohibits: a control character, or one newer than Unicode 3.2")]
    Prohibited,
}

/// An account's name, prepared. Case is kept and matters.
///
/// ```
/// # use ringpost::smtp::sasl::prepare_name;
/// assert_eq!(prepare_name("\u{2168}".as_bytes()).as_deref(), Ok("IX"));
/// assert!(prepare_name(b"a\x07b").is_err());
/// ```
pub fn prepare_name(text: &[u8]) -> Result<String, PrepError> {
    Ok(prepare(text, ACCOUNT_NAME_BYTES)?.into_owned())
}

fn prepare(text: &[u8], most: usize) -> Result<Cow<'_, str>, PrepError> {
    if text.len() > most {
        return Err(PrepError::TooLong(most));
    }
    let text = std::str::from_utf8(text).map_err(|_| PrepError::Encoding)?;
    let prepared = stringprep::saslprep(text).map_err(|_| PrepError::Prohibited)?;
    // Normalisation (NFKC) makes some characters longer.
    match prepared.len() {
        0 => Err(PrepError::Empty),
        length if length > most => Err(PrepError::TooLong(most)),
        _ => Ok(prepared),
    }
}

/// A password, prepared. Its memory is overwritten when it goes, and it is never shown.
pub struct Password(Zeroizing<String>);

impl Password {
    /// Prepares a password.
    pub fn new(text: &[u8]) -> Result<Password, PrepError> {
        Ok(Password(Zeroizing::new(prepare(text, PASSWORD_BYTES)?.into_owned())))
    }

    /// What to hash: UTF-8, 1 to [`PASSWORD_BYTES`] octets.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// RFC 4013 §3, all of its table.
    #[test]
    fn the_examples_of_rfc_4013() {
        for (given, prepared) in
            [("I\u{ad}X", "IX"), ("user", "user"), ("USER", "USER"), ("\u{aa}", "a"), ("\u{2168}", "IX")]
        {
            assert_eq!(prepare_name(given.as_bytes()).unwrap(), prepared);
            assert_eq!(Password::new(given.as_bytes()).unwrap().as_bytes(), prepared.as_bytes());
        }
        for given in ["\u{7}", "\u{627}1"] {
            assert_eq!(prepare_name(given.as_bytes()), Err(PrepError::Prohibited));
        }
    }

    #[test]
    fn bounds_hold_before_and_after_normalisation() {
        assert_eq!(prepare_name(b""), Err(PrepError::Empty));
        assert_eq!(prepare_name("\u{ad}".as_bytes()), Err(PrepError::Empty));
        assert_eq!(prepare_name(b"\xff"), Err(PrepError::Encoding));
        assert_eq!(prepare_name(&[b'a'; ACCOUNT_NAME_BYTES]).unwrap().len(), ACCOUNT_NAME_BYTES);
        assert_eq!(prepare_name(&[b'a'; ACCOUNT_NAME_BYTES + 1]), Err(PrepError::TooLong(ACCOUNT_NAME_BYTES)));
        // Three octets become 33.
        let long = "\u{fdfa}".repeat(ACCOUNT_NAME_BYTES / 3);
        assert_eq!(prepare_name(long.as_bytes()), Err(PrepError::TooLong(ACCOUNT_NAME_BYTES)));
        assert_eq!(Password::new(&[b'a'; PASSWORD_BYTES + 1]).unwrap_err(), PrepError::TooLong(PASSWORD_BYTES));
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(format!("{:?}", Password::new(b"hunter2").unwrap()), "Password(..)");
    }
}
