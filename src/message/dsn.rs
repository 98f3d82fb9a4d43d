//! PURE. Delivery status notifications: what Ringpost tells a sender about mail that failed or is late (RFC 3464, in
//! the multipart/report of RFC 6522, marked by RFC 3834).
//!
//! **Inputs**: facts about one message and those of its recipients that failed. **Outputs**: a message in wire form
//! (CRLF, dot-stuffed, with the final dot), which is accepted into the spool like any other; its reverse-path must be
//! null (RFC 3464 §2). **Core**: the home shard of the message. **Refuses** to notify the null sender
//! ([`may_notify`]), and to pass on anything hostile: replies and headers come from strangers, so what is not printable
//! ASCII is replaced or encoded, and everything has a bound.

mod headers;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod tests;

use super::trace::DateCache;
use super::{MessageId, Status};
use crate::limits;
use crate::time::Wall;
use std::io::Write as _;

/// Whether a notification may be sent for a message from `sender` (without angle brackets): never for the null
/// reverse-path, or two hosts would notify each other for ever (RFC 5321 §4.5.5).
pub fn may_notify(sender: &[u8]) -> bool {
    !sender.is_empty()
}

/// What a notification is about.
#[derive(Clone, Copy, Debug)]
pub struct DsnFacts<'a> {
    /// The name of this host.
    pub host: &'a str,
    /// The id of the notification itself, new.
    pub id: MessageId,
    /// The id of the message it is about.
    pub original: MessageId,
    /// When that message was accepted.
    pub arrived: Wall,
    /// Now.
    pub now: Wall,
    /// Until when a delayed message will be tried.
    pub retry_until: Wall,
    /// The reverse-path of that message; see [`may_notify`].
    pub sender: &'a [u8],
    /// The recipients to report, one at least.
    pub recipients: &'a [RecipientReport<'a>],
    /// The beginning of that message in wire form, with all of its headers or the first
    /// [`limits::DSN_HEADERS_BYTES`] of them. May be empty.
    pub headers: &'a [u8],
}

/// What happened to one recipient.
#[derive(Clone, Copy, Debug)]
pub struct RecipientReport<'a> {
    /// The forward-path, without angle brackets.
    pub address: &'a [u8],
    /// The name of the host that gave the reply; empty if none did.
    pub remote: &'a [u8],
    /// When it was last tried, if it was.
    pub last_attempt: Option<Wall>,
    /// Why it is reported.
    pub cause: Cause<'a>,
}

/// Why a recipient is reported.
#[derive(Clone, Copy, Debug)]
pub enum Cause<'a> {
    /// The remote host refused it for good.
    Refused(Reply<'a>),
    /// It failed for the time being until the message was too old; with what was heard last.
    Expired(Option<Reply<'a>>),
    /// It has failed for the time being and will be tried again; with what was heard last. Not a failure.
    Delayed(Option<Reply<'a>>),
    /// Ringpost found out by itself that it cannot be delivered.
    Local(Reason),
}

/// A reply, or a failure that took the place of one.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// The reply code; 0 for a failure without a reply (no connection, no DNS answer).
    pub code: u16,
    /// The enhanced status code, if it is known apart from the text.
    pub status: Option<Status>,
    /// The text as received, with any line ends; or the failure in words.
    pub text: &'a [u8],
}

/// A permanent failure that no other host has a part in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// The domain does not exist (NXDOMAIN), or the address literal is none.
    NoSuchDomain,
    /// The domain exists but has neither mail exchangers nor addresses.
    NoRoute,
    /// The domain says that it accepts no mail (RFC 7505).
    NullMx,
    /// Too many Received headers (RFC 5321 §6.3), or the best mail exchanger is this host.
    Loop,
    /// Larger than the remote host takes (RFC 1870).
    TooLarge,
    /// The message has 8-bit data, the remote host does not take it (RFC 6152).
    NotEightBit,
}

impl Reason {
    /// Its enhanced status code (RFC 3463, RFC 7505).
    pub fn status(self) -> Status {
        match self {
            Reason::NoSuchDomain => Status::new(5, 1, 2),
            Reason::NoRoute => Status::new(5, 4, 4),
            Reason::NullMx => Status::new(5, 1, 10),
            Reason::Loop => Status::new(5, 4, 6),
            Reason::TooLarge => Status::new(5, 3, 4),
            Reason::NotEightBit => Status::new(5, 6, 3),
        }
    }

    fn words(self) -> &'static str {
        match self {
            Reason::NoSuchDomain => "the domain of this address does not exist",
            Reason::NoRoute => "the domain of this address has no mail server",
            Reason::NullMx => "the domain of this address accepts no mail",
            Reason::Loop => "the message goes in a circle between mail servers",
            Reason::TooLarge => "the message is larger than the recipient's mail server accepts",
            Reason::NotEightBit => "the recipient's mail server does not accept 8-bit data",
        }
    }
}

impl<'a> Cause<'a> {
    /// The enhanced status code of the report: of the reply where it is of the right class, else what the reply code or
    /// the circumstances say.
    pub fn status(&self) -> Status {
        match self {
            Cause::Local(reason) => reason.status(),
            Cause::Expired(_) => Status::new(5, 4, 7),
            Cause::Refused(reply) => reply.status_of_class(5).unwrap_or(Status::new(5, 0, 0)),
            Cause::Delayed(Some(reply)) => reply.status_of_class(4).unwrap_or(Status::new(4, 0, 0)),
            Cause::Delayed(None) => Status::new(4, 4, 0),
        }
    }

    fn reply(&self) -> Option<Reply<'a>> {
        match *self {
            Cause::Refused(reply) => Some(reply),
            Cause::Expired(reply) | Cause::Delayed(reply) => reply,
            Cause::Local(_) => None,
        }
    }

    fn is_delay(&self) -> bool {
        matches!(self, Cause::Delayed(_))
    }

    /// What the sender can do.
    fn advice(&self, status: Status) -> &'static str {
        match (self, status.subject(), status.detail()) {
            (Cause::Expired(_), ..) => {
                "This was tried again and again until now. You may send the message again; if it fails again, reach the \
                 recipient in another way."
            }
            // Said once, above all of them.
            (Cause::Delayed(_), ..) => "",
            (_, 1, 10) => "Look for another address of the recipient.",
            (_, 1, 2) | (_, 4, 4) => "Check the part of the address behind the @ for a misspelling.",
            (_, 1, 7 | 8) => "Your own address was not accepted. Ask your administrator.",
            (_, 1, _) => "Check the address for a misspelling, or ask the recipient for the right one.",
            (_, 2, 2) => "The mailbox is full. Try again later, or reach the recipient in another way.",
            (_, 2, 3) | (_, 3, 4) => "Send a smaller message, or share large attachments in another way.",
            (_, 2, _) => "The mailbox takes no mail at present. Reach the recipient in another way.",
            (_, 6, 3) => "Send the message in an encoding for 7-bit transport, or ask your administrator.",
            (_, 4, 6) => "Your administrator or the recipient's has to correct the routing of this mail.",
            (_, 7, _) => {
                "The recipient's mail server refused the message by its rules; its words above may say which. Reach the \
                 recipient in another way, or ask your administrator."
            }
            _ => "The words above may say why. If they do not help, show this report to your administrator.",
        }
    }
}

impl Reply<'_> {
    /// The status given apart, or the one at the beginning of the text, if its class is this.
    fn status_of_class(&self, class: u8) -> Option<Status> {
        let right = |s: &Status| s.class() == class;
        self.status.filter(right).or_else(|| Status::parse(self.text).filter(right))
    }

    /// `550 5.1.1 No such user`, in one line of printable ASCII, bounded.
    fn words(&self) -> String {
        let mut words = String::new();
        if self.code != 0 {
            words.push_str(&self.code.to_string());
        }
        if let Some(status) = self.status
            && Status::parse(self.text) != Some(status)
        {
            words.push_str(&format!(" {status}"));
        }
        words.push(' ');
        words.push_str(&clean(self.text, limits::DSN_REPLY_BYTES));
        words.trim().to_owned()
    }
}

/// Appends the notification to `out`, in wire form.
///
/// # Panics
/// If there is no recipient to report, or nobody to report to.
pub fn build(facts: &DsnFacts<'_>, out: &mut Vec<u8>) {
    assert!(may_notify(facts.sender), "the null sender is never notified");
    assert!(!facts.recipients.is_empty(), "a report has a subject");
    let mut report = Report { out, dates: DateCache::default(), boundary: format!("=_{}.ringpost", facts.id) };
    report.header(facts);
    report.begin_part("text/plain; charset=us-ascii", "7bit");
    report.text_part(facts);
    report.begin_part("message/delivery-status", "7bit");
    report.status_part(facts);
    headers::part(&mut report, facts.headers);
    report.line(&format!("--{}--", report.boundary));
    report.line(".");
}

/// A report being written. Every line written here begins with a letter, a space or `--`, so none needs a dot stuffed,
/// but for the original headers.
struct Report<'o> {
    out: &'o mut Vec<u8>,
    dates: DateCache,
    boundary: String,
}

impl Report<'_> {
    fn header(&mut self, facts: &DsnFacts<'_>) {
        let host = clean(facts.host.as_bytes(), limits::DOMAIN_BYTES);
        let delayed = facts.recipients.iter().all(|r| r.cause.is_delay());
        let subject =
            if delayed { "Delayed mail (it will be tried again)" } else { "Undelivered mail returned to sender" };
        let date = self.date(facts.now);
        self.line(&format!("Date: {date}"));
        self.line(&format!("From: Mail Delivery System <MAILER-DAEMON@{host}>"));
        self.line(&format!("To: <{}>", clean_address(facts.sender)));
        self.line(&format!("Subject: {subject}"));
        self.line(&format!("Message-ID: <{}@{host}>", facts.id));
        self.line("Auto-Submitted: auto-replied");
        self.line("MIME-Version: 1.0");
        self.line("Content-Type: multipart/report; report-type=delivery-status;");
        self.line(&format!("\tboundary=\"{}\"", self.boundary));
        self.line("");
    }

    fn begin_part(&mut self, content_type: &str, encoding: &str) {
        self.line(&format!("--{}", self.boundary));
        self.line(&format!("Content-Type: {content_type}"));
        self.line(&format!("Content-Transfer-Encoding: {encoding}"));
        self.line("");
    }

    /// For the sender to read.
    fn text_part(&mut self, facts: &DsnFacts<'_>) {
        let host = clean(facts.host.as_bytes(), limits::DOMAIN_BYTES);
        let date = self.date(facts.arrived);
        self.line(&format!("This is a report by the mail server {host}"));
        self.line(&format!("about your message of {date}."));
        self.line("The headers of that message are attached.");
        let (delayed, failed): (Vec<_>, Vec<_>) = facts.recipients.iter().partition(|r| r.cause.is_delay());
        if !failed.is_empty() {
            self.line("");
            self.line("It could NOT be delivered to the following, and will not be tried again:");
            failed.into_iter().for_each(|r| self.text_of(r));
        }
        if !delayed.is_empty() {
            let until = self.date(facts.retry_until);
            self.line("");
            self.line("It has not been delivered yet to the following. It will be tried until");
            self.line(&format!("{until}; you need not send it again:"));
            delayed.into_iter().for_each(|r| self.text_of(r));
        }
        self.line("");
        self.line(&format!("For help write to <postmaster@{host}>"));
        self.line(&format!("and give this number: {}", facts.original));
        self.line("");
    }

    fn text_of(&mut self, recipient: &RecipientReport<'_>) {
        let cause = &recipient.cause;
        self.line("");
        self.line(&format!("  <{}>", clean_address(recipient.address)));
        let remote = clean(recipient.remote, limits::DOMAIN_BYTES);
        let words = match (cause, cause.reply()) {
            (Cause::Local(reason), _) => format!("Reason: {}.", reason.words()),
            (_, Some(reply)) if reply.code != 0 && !remote.is_empty() => format!("{remote} said: {}", reply.words()),
            (_, Some(reply)) if reply.code != 0 => format!("The recipient's mail server said: {}", reply.words()),
            (_, Some(reply)) if !remote.is_empty() => format!("Trouble with {remote}: {}", reply.words()),
            (_, Some(reply)) => format!("Reason: {}", reply.words()),
            (_, None) => "Reason: no mail server of the recipient could be reached.".to_owned(),
        };
        self.folded("      ", "      ", &words);
        let advice = cause.advice(cause.status());
        if !advice.is_empty() {
            self.folded("      ", "      ", advice);
        }
    }

    /// For programs (RFC 3464 §2).
    fn status_part(&mut self, facts: &DsnFacts<'_>) {
        let host = clean(facts.host.as_bytes(), limits::DOMAIN_BYTES);
        let arrived = self.date(facts.arrived);
        self.line(&format!("Reporting-MTA: dns; {host}"));
        self.line(&format!("X-Ringpost-Id: {}", facts.original));
        self.line(&format!("Arrival-Date: {arrived}"));
        for recipient in facts.recipients {
            let cause = &recipient.cause;
            self.line("");
            self.line(&format!("Final-Recipient: rfc822; {}", clean_address(recipient.address)));
            self.line(if cause.is_delay() { "Action: delayed" } else { "Action: failed" });
            self.line(&format!("Status: {}", cause.status()));
            if !recipient.remote.is_empty() {
                self.line(&format!("Remote-MTA: dns; {}", clean(recipient.remote, limits::DOMAIN_BYTES)));
            }
            if let Some(reply) = cause.reply() {
                // RFC 3464 §2.3.6: "smtp" is for what an SMTP server said.
                let kind = if reply.code != 0 { "smtp" } else { "X-Ringpost" };
                self.folded(&format!("Diagnostic-Code: {kind}; "), "\t", &reply.words());
            } else if let Cause::Local(reason) = cause {
                self.folded("Diagnostic-Code: X-Ringpost; ", "\t", reason.words());
            }
            if let Some(at) = recipient.last_attempt {
                let date = self.date(at);
                self.line(&format!("Last-Attempt-Date: {date}"));
            }
            if cause.is_delay() {
                let date = self.date(facts.retry_until);
                self.line(&format!("Will-Retry-Until: {date}"));
            }
        }
        self.line("");
    }

    /// Writes `words` behind `first`, in lines of 76 octets where words allow it; each further line begins with
    /// `next`. Longer words are broken.
    fn folded(&mut self, first: &str, next: &str, words: &str) {
        const WIDTH: usize = 76;
        let mut line = first.to_owned();
        let mut empty = true;
        for word in words.split(' ').filter(|w| !w.is_empty()) {
            // Cleaned text is ASCII: every octet is a character.
            for piece in word.as_bytes().chunks(WIDTH - 8) {
                let piece = std::str::from_utf8(piece).expect("words are cleaned to ASCII");
                if !empty && line.len() + 1 + piece.len() > WIDTH {
                    self.line(&line);
                    next.clone_into(&mut line);
                    empty = true;
                }
                if !empty {
                    line.push(' ');
                }
                line.push_str(piece);
                empty = false;
            }
        }
        self.line(line.trim_end());
    }

    fn line(&mut self, text: &str) {
        self.out.write_all(text.as_bytes()).expect("a Vec takes what is written");
        self.out.extend_from_slice(b"\r\n");
    }

    fn date(&mut self, wall: Wall) -> String {
        String::from_utf8_lossy(self.dates.text(wall)).into_owned()
    }
}

/// Text of a stranger in one line of printable ASCII: white space and control characters become one space, other
/// characters a question mark, what is longer than `max` octets is cut and marked.
fn clean(text: &[u8], max: usize) -> String {
    let mut out = String::new();
    let cut = &text[..text.len().min(max)];
    for c in String::from_utf8_lossy(cut).chars() {
        match c {
            '!'..='~' => out.push(c),
            c if c.is_ascii() => {
                if !out.is_empty() && !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            _ => out.push('?'),
        }
    }
    out.truncate(out.trim_end().len());
    if cut.len() < text.len() {
        out.push_str(" [...]");
    }
    out
}

/// An address, which may have spaces in a quoted local part but nothing that ends a line or an angle-addr early.
fn clean_address(address: &[u8]) -> String {
    let quoted = address.contains(&b'"');
    let safe = |b: &u8| match *b {
        b'<' | b'>' | b' ' | b'(' | b')' | b',' | b';' if !quoted => '?',
        b @ b' '..=b'~' => b as char,
        _ => '?',
    };
    address.iter().take(limits::PATH_BYTES).map(safe).collect()
}
