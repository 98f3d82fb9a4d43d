//! PURE. Mail for this host's own domains: who has a mailbox here, what aliases and lists lead to, and where such mail is
//! delivered to.
//!
//! **Inputs**: the texts of the `[[local]]` blocks' files, read by somebody else; then a domain and a local part.
//! **Outputs**: a [`LocalTable`], which never changes and may be shared by all cores; a [`Resolution`] for each recipient;
//! what VRFY and EXPN may say. **Refuses** aliases that start programs, write files or include others; lists above the
//! bounds of `limits.rs`, at load, so that no recipient meets them.
//!
//! Local parts are compared without regard to case (US-ASCII only), and `"a"` is `a`. RFC 5321 §2.4 leaves that to the
//! host of the mailbox alone, and here that is us. Order is that of the files, everywhere.

mod ask;
mod files;
pub mod maildir;
#[cfg(test)]
mod property_tests;
mod table;
mod target;
#[cfg(test)]
mod tests;

pub use ask::{Expanded, Verified};
pub use table::{Block, Destination, Expansion, Loaded, LocalTable, Mailbox, Member, Resolution, TextFile};
pub use target::{LmtpServer, Target};

use std::fmt;

/// One thing that is wrong with the files, or suspicious in them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file's name, as it was given; empty if it is about the block itself.
    pub file: String,
    /// The line, from 1; 0 if it is about no single line.
    pub line: usize,
    /// What is wrong, and what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            f.write_str(&self.file)?;
            if self.line > 0 {
                write!(f, ":{}", self.line)?;
            }
            f.write_str(": ")?;
        }
        f.write_str(&self.message)
    }
}

/// A local part as it is: without quotes and escapes, case kept. `None` if it is neither a Dot-string nor a
/// Quoted-string.
fn unquoted(local_part: &[u8]) -> Option<Vec<u8>> {
    let Some(inside) = local_part.strip_prefix(b"\"") else {
        let plain =
            !local_part.is_empty() && !local_part.iter().any(|b| matches!(b, b'"' | b'\\' | b'@' | ..=b' ' | 0x7f));
        return plain.then(|| local_part.to_vec());
    };
    let inside = inside.strip_suffix(b"\"")?;
    let mut text = Vec::with_capacity(inside.len());
    let mut bytes = inside.iter();
    while let Some(byte) = bytes.next() {
        text.push(match byte {
            b'\\' => *bytes.next()?,
            b'"' => return None,
            byte => *byte,
        });
    }
    (!text.iter().any(|b| matches!(b, ..b' ' | 0x7f))).then_some(text)
}

/// What local parts are compared by.
fn key(unquoted: &[u8]) -> Box<[u8]> {
    unquoted.to_ascii_lowercase().into()
}

/// Text of a file for a message.
fn shown(text: &[u8]) -> String {
    let most = crate::limits::REPLY_QUOTE_BYTES;
    let mut shown: String = String::from_utf8_lossy(text).chars().take(most).collect();
    if text.len() > most {
        shown.push_str("...");
    }
    shown.replace(char::is_control, "?")
}
