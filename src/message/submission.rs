//! PURE. What a submission server mends in a header, and what it sends back (RFC 6409 §8, RFC 5322).
//!
//! **Inputs**: the header section in wire form (dot-stuffed, CRLF), up to and with the empty line, or all of the data if
//! there is none; of a header above [`limits::SUBMISSION_HEADER_BYTES`] that many octets, or more. Facts about the session. **Outputs**: the section to store in its place, or a [`Refusal`], which is one
//! reply. **Core**: the accepting shard, once a submitted message; mail that is relayed is never changed.
//!
//! **Mended**: a missing or blank Date and Message-ID is added (RFC 6409 §8.2, §8.3); Bcc and Resent-Bcc are taken out
//! (RFC 5322 §3.6.3), as is Return-Path (RFC 5321 §4.4); a Sender is set where From does not name the account, or Sender names
//! another, and policy says so (RFC 6409 §8.1); without such a policy that is refused. Fields are added behind all others, so that trace fields stay on top. All else stays octet
//! for octet.
//!
//! **Refused**: see [`Refusal`]. **Tolerated**, as RFC 5322 §4 has readers take it: white space before a colon (§4.5),
//! folded lines of white space only (§4.2), controls but NUL in values (§4.1), fields in any order, a Date or Message-ID
//! of odd form (RFC 6409 §8.2 and §8.3 allow to mend them; the sender's own copy would then have another name),
//! several mailboxes in From without a Sender, once all of them are the account's. With SMTPUTF8, UTF-8 in values (RFC
//! 6532 §3.2). It **refuses** to judge anything but the header: no MIME, no signatures.

#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

use super::MessageId;
use super::address_list::{self, AddressList};
use super::fields::{self, Field, NotAField};
use super::trace::DATE_BYTES;
use crate::limits;
use std::fmt;

/// What the session knows of a submission.
#[derive(Clone, Copy)]
pub struct Submission<'a> {
    /// Now, from `DateCache::text`.
    pub date: &'a [u8; DATE_BYTES],
    /// The name of this host.
    pub host: &'a str,
    /// The message's id; its Message-ID is `<id@host>` where it has none.
    pub id: MessageId,
    /// The transaction has SMTPUTF8 (RFC 6531): the header may hold UTF-8.
    pub utf8: bool,
    /// The reverse-path without brackets; empty for the null one.
    pub reverse_path: &'a [u8],
    /// Who sends; `None` where that is not known, and then From may say anything.
    pub account: Option<Account<'a>>,
}

/// An authenticated client.
#[derive(Clone, Copy)]
pub struct Account<'a> {
    /// Its name. Where this is an address, it is what an added Sender names.
    pub name: &'a str,
    /// Whether it may send as `local-part@domain`. The local part is quoted only where it must be; case is as written.
    pub may_send_as: &'a dyn Fn(&[u8]) -> bool,
    /// What to do with a From that is not its own.
    pub policy: SenderPolicy,
}

/// What is done where From names others than the account and no Sender names it, and where Sender names others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SenderPolicy {
    /// `from = "add_sender"`: a Sender with the account's address is put in, in the place of any other (RFC 6409 §8.1).
    AddSender,
    /// `from = "require"`: refused.
    Require,
}

/// Why a submission is refused. [`Refusal::reply`] is the one reply to it; line numbers count from 1 within the header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// No header at all (RFC 5322 §3.6 asks for Date and From).
    NoHeader,
    /// More than [`limits::SUBMISSION_HEADER_BYTES`].
    TooLarge,
    /// The line is no field and continues none (RFC 5322 §2.2). An mbox `From ` line is one such.
    NotAField(usize),
    /// The header begins with white space, where there is nothing to continue (RFC 5322 §2.2.3).
    Continuation,
    /// The field has no name (RFC 5322 §2.2).
    EmptyName(usize),
    /// The field's name has a control character (RFC 5322 §2.2).
    ControlInName(usize),
    /// NUL (RFC 5322 §4 calls it obsolete).
    Nul(usize),
    /// CR or LF by itself, or an end within the line (RFC 5322 §2.2).
    LineEnd(usize),
    /// More than 998 octets (RFC 5322 §2.1.1; RFC 6532 §3.4 counts octets too).
    LineTooLong(usize),
    /// An 8-bit octet, and the transaction has no SMTPUTF8 (RFC 5322 §2.2, RFC 6532 §1).
    EightBit(usize),
    /// With SMTPUTF8, but not UTF-8 (RFC 6532 §3).
    NotUtf8(usize),
    /// A field that may be there once only is there again (RFC 5322 §3.6).
    Again(&'static str),
    /// No From (RFC 5322 §3.6).
    NoFrom,
    /// A From without an address, and without the group that RFC 6854 allows in place of one.
    NoAddress,
    /// A From whose addresses readers would not agree about (RFC 5322 §3.4).
    Unreadable,
    /// The account may not send as this address (RFC 6409 §6.1, §8.1): printable US-ASCII, shortened.
    #[allow(missing_docs, reason = "the variant's text tells of its fields")]
    NotYours { account: String, address: String },
}

impl Refusal {
    /// The reply, with its CRLF; one line of at most 512 octets.
    pub fn reply(&self) -> String {
        format!("{self}\r\n")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let invalid = "550 5.6.0 Message refused:";
        match self {
            Refusal::NoHeader => write!(f, "{invalid} it has no header (RFC 5322 section 3.6)"),
            Refusal::TooLarge => {
                let most = limits::SUBMISSION_HEADER_BYTES >> 10;
                write!(f, "552 5.3.4 Message refused: its header has more than {most} KiB, or no end")
            }
            Refusal::NotAField(line) => write!(
                f,
                "{invalid} line {line} of its header is no header field (RFC 5322 section 2.2); is the empty line behind \
                 the header missing?"
            ),
            Refusal::Continuation => {
                write!(f, "{invalid} its header begins with white space (RFC 5322 section 2.2)")
            }
            Refusal::EmptyName(line) => {
                write!(f, "{invalid} line {line} of its header is a field without a name (RFC 5322 section 2.2)")
            }
            Refusal::ControlInName(line) => write!(
                f,
                "{invalid} line {line} of its header has a control character in the field's name (RFC 5322 section 2.2)"
            ),
            Refusal::Nul(line) => {
                write!(f, "{invalid} line {line} of its header has a NUL character (RFC 5322 section 4)")
            }
            Refusal::LineEnd(line) => write!(
                f,
                "{invalid} line {line} of its header does not end with CRLF, or has a bare CR or LF (RFC 5322 section 2.2)"
            ),
            Refusal::LineTooLong(line) => {
                write!(f, "{invalid} line {line} of its header has more than 998 octets (RFC 5322 section 2.1.1)")
            }
            Refusal::EightBit(line) => write!(
                f,
                "{invalid} line {line} of its header has an 8-bit character; encode it (RFC 2047) or send with SMTPUTF8"
            ),
            Refusal::NotUtf8(line) => {
                write!(f, "{invalid} line {line} of its header is not UTF-8 (RFC 6532 section 3)")
            }
            Refusal::Again(name) => write!(f, "{invalid} it has more than one {name} field (RFC 5322 section 3.6)"),
            Refusal::NoFrom => write!(f, "{invalid} it has no From field (RFC 5322 section 3.6)"),
            Refusal::NoAddress => write!(f, "{invalid} its From field has no address (RFC 5322 section 3.6.2)"),
            Refusal::Unreadable => {
                write!(f, "{invalid} the addresses of its From field cannot be read (RFC 5322 section 3.4)")
            }
            Refusal::NotYours { account, address } => {
                write!(f, "550 5.7.1 Message refused: {account} may not send as {address}")
            }
        }
    }
}

/// The fields that may be there once (RFC 5322 §3.6), in the order of `Seen`. Bcc is one too, but goes.
const ONCE: [&str; 10] =
    ["Date", "From", "Sender", "Reply-To", "To", "Cc", "Message-ID", "In-Reply-To", "References", "Subject"];

/// The fields that go.
const REMOVED: [&str; 3] = ["Bcc", "Resent-Bcc", "Return-Path"];

/// Cleans `wire` and appends the result to `out`, which stays as it is after a refusal. What stands behind the header
/// section (the empty line) is passed on.
///
/// Applied to its own output it changes nothing.
pub fn clean_up(wire: &[u8], facts: &Submission<'_>, out: &mut Vec<u8>) -> Result<(), Refusal> {
    let (section, rest) = split(wire)?;
    if section.is_empty() {
        return Err(Refusal::NoHeader);
    }
    check_octets(section, facts.utf8)?;
    let header = Header::read(section)?;
    let sender = header.names.sender_to_set(facts)?;

    for field in fields::fields(section) {
        let goes = REMOVED.iter().any(|name| field.is(name))
            || is_blank_id(&field)
            || (sender.is_some() && field.is("Sender"));
        if !goes {
            out.extend_from_slice(field.raw);
        }
    }
    if !header.has_date {
        line(out, &[b"Date: ", facts.date]);
    }
    if !header.has_message_id {
        line(out, &[b"Message-ID: <", &facts.id.text(), b"@", facts.host.as_bytes(), b">"]);
    }
    if let Some(address) = sender {
        line(out, &[b"Sender: ", &address]);
    }
    out.extend_from_slice(rest);
    Ok(())
}

/// Whether a header that stays as it is, as that of mail to relay, says that the account sends it: else a refusal, as from
/// [`clean_up`] where a Sender is not set. A header that names nobody may; what else is wrong with it is not asked, but
/// nothing that some reader may take for a From or a Sender is left out.
pub fn check_sender(wire: &[u8], facts: &Submission<'_>) -> Result<(), Refusal> {
    let Some(account) = facts.account else { return Ok(()) };
    let (section, _) = split(wire)?;
    // Of a binary body: a line that only some readers see may be a From.
    if let Some(at) = fields::lines(section).position(|line| memchr::memchr2(b'\r', b'\n', line).is_some()) {
        return Err(Refusal::LineEnd(at + 1));
    }
    let mut names = Names::default();
    fields::fields(section).try_for_each(|field| names.add(&field))?;
    let account = Some(Account { policy: SenderPolicy::Require, ..account });
    names.sender_to_set(&Submission { account, ..*facts }).map(|_| ())
}

/// The header section, and what is behind it.
fn split(wire: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    let (section, rest) = wire.split_at(fields::section_len(wire));
    // A section that fills the bound and has not ended may go on behind what was held, with a Bcc in it.
    let is_cut = rest.is_empty() && section.len() == limits::SUBMISSION_HEADER_BYTES;
    if section.len() > limits::SUBMISSION_HEADER_BYTES || is_cut {
        return Err(Refusal::TooLarge);
    }
    Ok((section, rest))
}

fn line(out: &mut Vec<u8>, parts: &[&[u8]]) {
    parts.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(b"\r\n");
}

/// What holds of every line, whatever its field.
fn check_octets(section: &[u8], utf8: bool) -> Result<(), Refusal> {
    let mut number = 0;
    for line in fields::lines(section) {
        number += 1;
        if memchr::memchr2(b'\r', b'\n', line).is_some() {
            return Err(Refusal::LineEnd(number));
        }
        if memchr::memchr(0, line).is_some() {
            return Err(Refusal::Nul(number));
        }
        if line.len() > limits::MESSAGE_LINE_BYTES {
            return Err(Refusal::LineTooLong(number));
        }
        if !utf8 && !line.is_ascii() {
            return Err(Refusal::EightBit(number));
        }
        if utf8 && std::str::from_utf8(line).is_err() {
            return Err(Refusal::NotUtf8(number));
        }
    }
    if section.ends_with(b"\r\n") { Ok(()) } else { Err(Refusal::LineEnd(number)) }
}

/// A Date or Message-ID with nothing in it is as good as none, and stands in the way of one.
fn is_blank_id(field: &Field<'_>) -> bool {
    (field.is("Date") || field.is("Message-ID")) && field.value().trim_ascii().is_empty()
}

/// What is needed of a header to judge and mend it.
#[derive(Default)]
struct Header {
    has_date: bool,
    has_message_id: bool,
    names: Names,
}

impl Header {
    fn read(section: &[u8]) -> Result<Header, Refusal> {
        let mut header = Header::default();
        let mut seen = [false; ONCE.len()];
        for field in fields::fields(section) {
            let name = field.name().map_err(|why| match why {
                NotAField::NoName => Refusal::NotAField(field.line),
                NotAField::EmptyName => Refusal::EmptyName(field.line),
                NotAField::Control => Refusal::ControlInName(field.line),
                NotAField::Continuation => Refusal::Continuation,
            })?;
            let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
            if let Some(which) = ONCE.iter().position(|once| is(once)) {
                if seen[which] {
                    return Err(Refusal::Again(ONCE[which]));
                }
                seen[which] = true;
            }
            header.names.add(&field)?;
            if is("Date") {
                header.has_date = !is_blank_id(&field);
            } else if is("Message-ID") {
                header.has_message_id = !is_blank_id(&field);
            }
        }
        if header.names.has_from { Ok(header) } else { Err(Refusal::NoFrom) }
    }
}

/// Who sends, by a header.
#[derive(Default)]
struct Names {
    has_from: bool,
    from: AddressList,
    /// Values of Sender; a blank one names nobody and is as good as none.
    senders: Vec<Vec<u8>>,
    /// Of a message that was sent on, those of Resent-Sender and Resent-From (RFC 5322 §3.6.6).
    resenders: Vec<Vec<u8>>,
}

impl Names {
    fn add(&mut self, field: &Field<'_>) -> Result<(), Refusal> {
        if field.is("From") {
            self.has_from = true;
            let from = address_list::parse(&field.value()).map_err(|_| Refusal::Unreadable)?;
            if from.mailboxes.is_empty() && !from.has_group {
                return Err(Refusal::NoAddress);
            }
            self.from.mailboxes.extend(from.mailboxes);
            self.from.has_group |= from.has_group;
        } else if field.is("Sender") {
            self.senders.extend(Some(field.value()).filter(|value| !value.trim_ascii().is_empty()));
        } else if field.is("Resent-Sender") || field.is("Resent-From") {
            self.resenders.push(field.value());
        }
        Ok(())
    }

    /// The address that Sender must be set to, if it must (RFC 6409 §8.1: where the identity of the sender is known and
    /// From does not give it, or Sender gives another).
    fn sender_to_set(&self, facts: &Submission<'_>) -> Result<Option<Vec<u8>>, Refusal> {
        let Some(account) = facts.account else { return Ok(None) };
        let own = own_address(facts, account);
        let is_own = |address: &Vec<u8>| (account.may_send_as)(address) || own.as_ref() == Some(address);
        let names_account = |value: &Vec<u8>| {
            address_list::parse(value).is_ok_and(|list| !list.mailboxes.is_empty() && list.mailboxes.iter().all(is_own))
        };
        // Who sends a message on has no part in what it said before.
        if self.resenders.iter().any(names_account) {
            return Ok(None);
        }
        // A From that is a group without members (RFC 6854) names nobody.
        let other = self.from.mailboxes.iter().find(|address| !(account.may_send_as)(address));
        let from_is_own = other.is_none() && (!self.from.mailboxes.is_empty() || !self.has_from);
        let other = match self.senders.iter().find(|value| !names_account(value)) {
            None if from_is_own || !self.senders.is_empty() => return Ok(None),
            // RFC 5322 §3.6.2: Sender is who is responsible, whatever From says, and readers show it.
            Some(value) if from_is_own => foreign(value, is_own),
            _ => other.map_or_else(|| b"a group".to_vec(), Vec::clone),
        };
        let refuse = |address: &[u8]| {
            Err(Refusal::NotYours { account: quote(account.name.as_bytes()), address: quote(address) })
        };
        match (account.policy, &own) {
            _ if !facts.reverse_path.is_empty() && !(account.may_send_as)(facts.reverse_path) => {
                refuse(facts.reverse_path)
            }
            (SenderPolicy::AddSender, Some(own)) => Ok(Some(own.clone())),
            _ => refuse(&other),
        }
    }
}

/// Of a Sender that is not the account's, what to tell: an address, or all of it.
fn foreign(value: &[u8], is_own: impl Fn(&Vec<u8>) -> bool) -> Vec<u8> {
    let mailboxes = address_list::parse(value).unwrap_or_default().mailboxes;
    mailboxes.into_iter().find(|address| !is_own(address)).unwrap_or_else(|| value.trim_ascii().to_vec())
}

/// The address of the account for Sender: its name where that is one, else the reverse-path it may use. RFC 6409 §8.1
/// wants a valid one.
fn own_address(facts: &Submission<'_>, account: Account<'_>) -> Option<Vec<u8>> {
    let fits = |text: &[u8]| text.len() <= limits::PATH_BYTES && (facts.utf8 || text.is_ascii());
    let name = Some(account.name.as_bytes());
    let path = Some(facts.reverse_path).filter(|path| (account.may_send_as)(path));
    [name, path].into_iter().flatten().filter(|text| fits(text)).find_map(address_list::address)
}

/// Text of a peer for a reply: printable US-ASCII, bounded.
fn quote(text: &[u8]) -> String {
    let cut = text.len() > limits::REPLY_QUOTE_BYTES;
    let shown = text.iter().take(limits::REPLY_QUOTE_BYTES);
    let mut quoted: String = shown.map(|b| if matches!(b, b' '..=b'~') { char::from(*b) } else { '?' }).collect();
    if cut {
        quoted.push_str("...");
    }
    quoted
}
