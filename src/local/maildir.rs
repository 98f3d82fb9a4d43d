//! PURE. Maildir delivery, all but the files: where a mailbox's folder is, what its next file is called, and what stands in
//! it. `rt::maildir` writes it.
//!
//! **Inputs**: the template of `deliver`, a mailbox, numbers that make a name unique, a message in wire form in pieces.
//! **Outputs**: a path, a name, octets. **Core**: any. **Refuses** names that could lead out of the template's place, and
//! messages that have been delivered to the same address before ([`was_delivered`]).
//!
//! Lines end with LF in the file: mbox and Maildir tools of Unix (mutt, procmail, notmuch, grep) take a CR for part of the
//! line, while Dovecot reads both and sends CRLF either way. A message with `BODY=BINARYMIME` would be changed by that
//! and must not be delivered so; an LMTP server can take it.

use crate::limits::{MAILDIR_NAME_BYTES, MAILDIR_PATH_BYTES};
use crate::message::fields;
use std::fmt::Write as _;

/// The template of a Maildir's path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Domain,
    Mailbox,
}

/// Why a mailbox has no folder: its name could lead elsewhere, or no file system takes it. Permanent (550 5.1.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoFolder {
    /// `/`, a control character, or a dot in front (`..`, hidden files, sub-folders of Maildir++).
    Name,
    /// Not UTF-8.
    Encoding,
    /// More than a name or a path may have.
    TooLong,
}

impl Layout {
    /// Reads `/var/mail/{domain}/{mailbox}`; the error says what is allowed.
    pub fn parse(template: &str) -> Result<Layout, String> {
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some((text, behind)) = rest.split_once('{') {
            let (name, behind) = behind.split_once('}').ok_or("a { in the path of Maildirs has no }")?;
            parts.push(Part::Text(text.to_owned()));
            parts.push(match name {
                "domain" => Part::Domain,
                "mailbox" => Part::Mailbox,
                _ => {
                    return Err(format!(
                        "{{{name}}} is not known: the path of Maildirs has {{domain}} and {{mailbox}}"
                    ));
                }
            });
            rest = behind;
        }
        parts.push(Part::Text(rest.to_owned()));
        parts.retain(|part| *part != Part::Text(String::new()));
        if parts.iter().any(|part| matches!(part, Part::Text(text) if text.contains('}'))) {
            return Err("a } in the path of Maildirs has no {".to_owned());
        }
        if !template.starts_with('/') || template.contains(char::is_control) {
            return Err("the path of Maildirs is absolute (\"maildir:/var/mail/{domain}/{mailbox}\")".to_owned());
        }
        if template.split('/').any(|name| matches!(name, "." | "..")) {
            return Err("the path of Maildirs has no . and .. in it".to_owned());
        }
        if !parts.contains(&Part::Mailbox) {
            return Err("the path of Maildirs needs {mailbox}, or all mailboxes would be one".to_owned());
        }
        Ok(Layout { parts })
    }

    /// The folder of a mailbox, without a slash at its end. `domain` and `mailbox` as in [`super::Mailbox`].
    pub fn folder(&self, domain: &[u8], mailbox: &[u8]) -> Result<String, NoFolder> {
        let (domain, mailbox) = (safe(domain)?, safe(mailbox)?);
        let mut path = String::new();
        for part in &self.parts {
            path.push_str(match part {
                Part::Text(text) => text,
                Part::Domain => domain,
                Part::Mailbox => mailbox,
            });
        }
        path.truncate(path.trim_end_matches('/').len());
        if path.len() > MAILDIR_PATH_BYTES || path.split('/').any(|name| name.len() > MAILDIR_NAME_BYTES) {
            return Err(NoFolder::TooLong);
        }
        Ok(path)
    }
}

/// A value that is one name in a folder, whatever stands around it.
fn safe(value: &[u8]) -> Result<&str, NoFolder> {
    let value = std::str::from_utf8(value).map_err(|_| NoFolder::Encoding)?;
    if value.is_empty() || value.starts_with('.') || value.contains(|c: char| c == '/' || c.is_control()) {
        return Err(NoFolder::Name);
    }
    if value.len() > MAILDIR_NAME_BYTES {
        return Err(NoFolder::TooLong);
    }
    Ok(value)
}

/// What makes a file's name unique, on this host and over all that share the mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unique<'a> {
    /// Seconds since the Unix epoch.
    pub seconds: u64,
    /// Microseconds of that second, below 1,000,000.
    pub micros: u32,
    /// The process.
    pub process: u32,
    /// Counts up with each delivery of the process, over all of its threads.
    pub sequence: u64,
    /// The name of this host.
    pub host: &'a str,
}

impl Unique<'_> {
    /// `time.M<usec>P<pid>Q<seq>.<host>`, as the Maildir specification has it. The writer adds `,S=<octets>`, which it
    /// knows when all is written and which spares quota and IMAP servers a stat.
    ///
    /// Of the host anything but letters, digits, `.`, `-` and `_` becomes `\` and three octal digits (the specification
    /// has `/` and `:` so; `,` begins a size), cut so that the whole and its size fit a name.
    pub fn file_name(&self) -> String {
        let mut name = format!("{}.M{}P{}Q{}.", self.seconds, self.micros, self.process, self.sequence);
        // ",S=" and 20 digits, and ":2," and flags that a reader adds.
        let most = MAILDIR_NAME_BYTES - 64;
        for byte in self.host.bytes() {
            let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
            if name.len() + 4 > most {
                break;
            }
            if plain {
                name.push(char::from(byte));
            } else {
                write!(name, "\\{byte:03o}").expect("a String takes what is written");
            }
        }
        name
    }
}

/// Whether a message whose header section `wire` begins with has been delivered to `address` before, by its Delivered-To
/// fields: an alias or a forwarder leads back here (554 5.4.6). Case does not matter.
pub fn was_delivered(wire: &[u8], address: &[u8]) -> bool {
    fields::named(wire, "Delivered-To").any(|field| field.value().trim_ascii().eq_ignore_ascii_case(address))
}

/// What stands before the message in its file, and in front of what is sent to it: the trace of final delivery (RFC 5321
/// §4.4), and the mark for [`was_delivered`]. Both addresses without brackets, as valid paths have them.
pub fn preface(reverse_path: &[u8], address: &[u8]) -> Vec<u8> {
    let harmless = |address: &[u8]| -> Vec<u8> {
        address.iter().map(|b| if matches!(b, b'\r' | b'\n' | 0) { b'?' } else { *b }).collect()
    };
    [b"Return-Path: <", &harmless(reverse_path)[..], b">\nDelivered-To: ", &harmless(address), b"\n"].concat()
}

/// Turns wire form into stored form, piece by piece: stuffed dots and the final dot go, CRLF becomes LF. All else stays,
/// a CR or LF by itself too.
#[derive(Clone, Debug)]
pub struct ToStored {
    place: Place,
}

/// Where in a line the next octet falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    LineStart,
    Inside,
    /// Behind a CR that is not written yet.
    Cr,
    /// Behind a dot that came first in its line, which is not written.
    Dot,
    /// Behind such a dot and a CR.
    DotCr,
    /// Behind the final dot and its CRLF.
    End,
}

impl Default for ToStored {
    fn default() -> Self {
        ToStored { place: Place::LineStart }
    }
}

impl ToStored {
    /// Appends the stored form of the next piece to `out`. What comes behind the final dot is left out.
    pub fn feed(&mut self, mut piece: &[u8], out: &mut Vec<u8>) {
        out.reserve(piece.len() + 1);
        while let Some((first, rest)) = piece.split_first() {
            if matches!(self.place, Place::Inside | Place::LineStart) {
                if self.place == Place::LineStart && *first == b'.' {
                    self.place = Place::Dot;
                    piece = rest;
                    continue;
                }
                let clean = memchr::memchr(b'\r', piece).unwrap_or(piece.len());
                out.extend_from_slice(&piece[..clean]);
                self.place = if clean < piece.len() { Place::Cr } else { Place::Inside };
                piece = piece.get(clean + 1..).unwrap_or_default();
                continue;
            }
            self.place = match (self.place, *first) {
                (Place::Cr, b'\n') => {
                    out.push(b'\n');
                    Place::LineStart
                }
                (Place::DotCr, b'\n') => Place::End,
                (Place::Dot, b'\r') => Place::DotCr,
                (Place::End, _) => return,
                // Not what was waited for: the CR was one by itself, and this octet is looked at again.
                (Place::Cr | Place::DotCr, _) => {
                    out.push(b'\r');
                    self.place = Place::Inside;
                    continue;
                }
                (Place::Dot | Place::Inside | Place::LineStart, _) => {
                    self.place = Place::Inside;
                    continue;
                }
            };
            piece = rest;
        }
    }

    /// To be called behind the last piece: a CR that nothing followed is written. Whether the final dot was seen.
    pub fn finish(self, out: &mut Vec<u8>) -> bool {
        if matches!(self.place, Place::Cr | Place::DotCr) {
            out.push(b'\r');
        }
        self.place == Place::End
    }
}
