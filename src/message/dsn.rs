//! PURE. Delivery status notifications: what Ringpost tells a sender about mail that failed, is late, or was passed
//! on to where nobody reports (RFC 3464, in the multipart/report of RFC 6522, marked by RFC 3834; RFC 6533 for UTF-8).
//!
//! **Inputs**: facts about one message and those of its recipients that are reported. **Outputs**: a message in wire form
//! (CRLF, dot-stuffed, with the final dot), which is accepted into the spool like any other; its reverse-path must be
//! null (RFC 3464 §2). **Core**: the home shard of the message. **Refuses** to notify the null sender
//! ([`may_notify`]), and to pass on anything hostile: replies and headers come from strangers, so what is not printable
//! ASCII is replaced or encoded, and everything has a bound.

mod headers;
mod original;
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
    /// [`limits::DSN_HEADERS_BYTES`] of them; all of it if it is to be returned whole. May be empty.
    pub message: &'a [u8],
    /// It is returned whole (`RET=FULL`, RFC 3461 §6.2), if its lines can stand in a report.
    pub whole: bool,
    /// It was declared SMTPUTF8: the report may hold UTF-8 (RFC 6533).
    pub utf8: bool,
    /// `ENVID=` of that message, in xtext; empty if there was none.
    pub envid: &'a [u8],
    /// By when it was to be delivered (RFC 2852).
    pub deliver_by: Option<Wall>,
    /// `HOLDFOR=` or `HOLDUNTIL=`, as a time (RFC 4865).
    pub hold_until: Option<Wall>,
}

/// What a notification needs on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// Nothing.
    SevenBit,
    /// 8BITMIME.
    EightBit,
    /// SMTPUTF8, and 8BITMIME.
    Utf8,
}

/// What happened to one recipient.
#[derive(Clone, Copy, Debug)]
pub struct RecipientReport<'a> {
    /// The forward-path, without angle brackets.
    pub address: &'a [u8],
    /// `ORCPT=` as it came; empty if it did not.
    pub original: &'a [u8],
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
    /// The remote host took it, and will not report what becomes of it. Not a failure.
    Relayed(Reply<'a>),
    /// It is in the recipient's mailbox. Not a failure.
    Delivered,
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
            // RFC 3886 §3.3.4: "Message relayed to non-compliant mailer".
            Cause::Relayed(_) => Status::new(2, 1, 9),
            Cause::Delivered => Status::new(2, 1, 5),
        }
    }

    fn reply(&self) -> Option<Reply<'a>> {
        match *self {
            Cause::Refused(reply) | Cause::Relayed(reply) => Some(reply),
            Cause::Expired(reply) | Cause::Delayed(reply) => reply,
            Cause::Local(_) | Cause::Delivered => None,
        }
    }

    fn is_delay(&self) -> bool {
        matches!(self, Cause::Delayed(_))
    }

    fn is_success(&self) -> bool {
        matches!(self, Cause::Relayed(_) | Cause::Delivered)
    }

    /// RFC 3464 §2.3.3.
    fn action(&self) -> &'static str {
        match self {
            Cause::Refused(_) | Cause::Expired(_) | Cause::Local(_) => "failed",
            Cause::Delayed(_) => "delayed",
            Cause::Relayed(_) => "relayed",
            Cause::Delivered => "delivered",
        }
    }

    /// What the sender can do.
    fn advice(&self, status: Status) -> &'static str {
        match (self, status.subject(), status.detail()) {
            (Cause::Expired(_), ..) => {
                "This was tried again and again until now. You may send the message again; if it fails again, reach the \
                 recipient in another way."
            }
            // Said once, above all of them.
            (Cause::Delayed(_) | Cause::Relayed(_) | Cause::Delivered, ..) => "",
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

/// Appends the notification to `out`, in wire form, and says what it needs on its way.
///
/// # Panics
/// If there is no recipient to report, or nobody to report to.
pub fn build(facts: &DsnFacts<'_>, out: &mut Vec<u8>) -> Form {
    assert!(may_notify(facts.sender), "the null sender is never notified");
    assert!(!facts.recipients.is_empty(), "a report has a subject");
    let boundary = format!("=_{}.ringpost", facts.id);
    // RFC 6533 §4: where the sender's own address is UTF-8, its mail server takes it. Where it is ASCII nothing is known of
    // that, and a report in ASCII is never lost.
    let utf8 = facts.utf8 && !facts.sender.is_ascii();
    let original = original::Original::of(facts, &boundary, utf8);
    let mut report = Report { out, dates: DateCache::default(), boundary, utf8 };
    report.header(facts);
    if utf8 {
        report.begin_part("text/plain; charset=utf-8", "8bit");
    } else {
        report.begin_part("text/plain; charset=us-ascii", "7bit");
    }
    report.text_part(facts, original.is_whole());
    // RFC 6533 §4.
    report.begin_part(
        if utf8 { "message/global-delivery-status" } else { "message/delivery-status" },
        if utf8 { "8bit" } else { "7bit" },
    );
    report.status_part(facts);
    let eight_bit = original.write(&mut report);
    report.line(&format!("--{}--", report.boundary));
    report.line(".");
    match (utf8, eight_bit) {
        (true, _) => Form::Utf8,
        (false, true) => Form::EightBit,
        (false, false) => Form::SevenBit,
    }
}

/// A report being written. Every line written here begins with a letter, a space or `--`, so none needs a dot stuffed,
/// but for the original headers.
struct Report<'o> {
    out: &'o mut Vec<u8>,
    dates: DateCache,
    boundary: String,
    /// Addresses may be written in UTF-8.
    utf8: bool,
}

impl Report<'_> {
    fn header(&mut self, facts: &DsnFacts<'_>) {
        let host = clean(facts.host.as_bytes(), limits::DOMAIN_BYTES);
        let subject = if facts.recipients.iter().all(|r| r.cause.is_success()) {
            "Report of delivery"
        } else if facts.recipients.iter().all(|r| r.cause.is_delay()) {
            "Delayed mail (it will be tried again)"
        } else {
            "Undelivered mail returned to sender"
        };
        let date = self.date(facts.now);
        self.line(&format!("Date: {date}"));
        self.line(&format!("From: Mail Delivery System <MAILER-DAEMON@{host}>"));
        self.line(&format!("To: <{}>", self.address(facts.sender)));
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
    fn text_part(&mut self, facts: &DsnFacts<'_>, whole: bool) {
        let host = clean(facts.host.as_bytes(), limits::DOMAIN_BYTES);
        let date = self.date(facts.arrived);
        self.line(&format!("This is a report by the mail server {host}"));
        self.line(&format!("about your message of {date}."));
        self.line(if whole { "That message is attached." } else { "The headers of that message are attached." });
        let (good, rest): (Vec<_>, Vec<&RecipientReport<'_>>) =
            facts.recipients.iter().partition(|r| r.cause.is_success());
        let (delayed, failed): (Vec<_>, Vec<&RecipientReport<'_>>) = rest.into_iter().partition(|r| r.cause.is_delay());
        if !good.is_empty() {
            self.line("");
            self.line("It was delivered to the following, or passed on to a mail server from");
            self.line("which no further report is to be expected:");
            good.into_iter().for_each(|r| self.text_of(r));
        }
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
        self.line(&format!("  <{}>", self.address(recipient.address)));
        let remote = clean(recipient.remote, limits::DOMAIN_BYTES);
        let words = match (cause, cause.reply()) {
            (Cause::Local(reason), _) => format!("Reason: {}.", reason.words()),
            (Cause::Delivered, _) => "Delivered.".to_owned(),
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
        if !facts.envid.is_empty() {
            // RFC 3461 §6.3 (a): no longer in xtext.
            let envid = clean(&xtext(facts.envid), limits::ENVID_BYTES);
            self.line(&format!("Original-Envelope-Id: {envid}"));
        }
        self.line(&format!("Arrival-Date: {arrived}"));
        if let Some(by) = facts.deliver_by {
            // RFC 2852 §5.
            let by = self.date(by);
            self.line(&format!("Deliver-By-Date: {by}"));
        }
        // RFC 4865 §5.1.2.
        let seconds = |at: Wall| i64::try_from(at.0 / 1000).ok();
        if let Some(at) = facts.hold_until.and_then(seconds).and_then(|at| jiff::Timestamp::from_second(at).ok()) {
            self.line(&format!("Future-Release-Request: until; {at}"));
        }
        for recipient in facts.recipients {
            let cause = &recipient.cause;
            self.line("");
            if let Some(original) = self.original_recipient(recipient.original) {
                self.line(&format!("Original-Recipient: {original}"));
            }
            // RFC 6533 §3.
            let kind = if recipient.address.is_ascii() { "rfc822" } else { "utf-8" };
            self.line(&format!("Final-Recipient: {kind}; {}", self.address(recipient.address)));
            self.line(&format!("Action: {}", cause.action()));
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

    /// The value of ORCPT as RFC 3461 §6.3 (d) has it shown; nothing if it is not of that form.
    fn original_recipient(&self, orcpt: &[u8]) -> Option<String> {
        let at = orcpt.iter().position(|b| *b == b';')?;
        let (kind, value) = (&orcpt[..at], &orcpt[at + 1..]);
        let is_type = !kind.is_empty() && kind.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        let kind = std::str::from_utf8(kind).ok().filter(|_| is_type)?;
        Some(format!("{kind}; {}", self.text(&xtext(value), limits::ORCPT_BYTES)))
    }

    fn address(&self, address: &[u8]) -> String {
        match (address.is_ascii(), self.utf8) {
            (true, _) => clean_address(address),
            (false, true) => utf8_address(address),
            (false, false) => escaped_address(address),
        }
    }

    /// Text of a stranger in one line, in what the report may hold.
    fn text(&self, text: &[u8], max: usize) -> String {
        match std::str::from_utf8(text) {
            Ok(text) if self.utf8 && text.len() <= max && text.chars().all(is_shown) => text.trim().to_owned(),
            _ => clean(text, max),
        }
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
    address.iter().take(limits::PATH_BYTES).map(|b| address_char(*b, quoted)).collect()
}

fn address_char(byte: u8, quoted: bool) -> char {
    match byte {
        b'<' | b'>' | b' ' | b'(' | b')' | b',' | b';' if !quoted => '?',
        byte @ b' '..=b'~' => byte as char,
        _ => '?',
    }
}

/// The same of an address in UTF-8.
fn utf8_address(address: &[u8]) -> String {
    let shown = |c: char| if is_shown(c) { c.to_string() } else { "?".to_owned() };
    map_address(address, shown)
}

/// The same in ASCII, by the escapes of RFC 6533 §3.
fn escaped_address(address: &[u8]) -> String {
    map_address(address, |c| {
        if c == char::REPLACEMENT_CHARACTER { "?".into() } else { format!("\\x{{{:X}}}", u32::from(c)) }
    })
}

fn map_address(address: &[u8], other: impl Fn(char) -> String) -> String {
    let quoted = address.contains(&b'"');
    let cut = String::from_utf8_lossy(&address[..address.len().min(limits::PATH_BYTES)]);
    cut.chars().map(|c| if c.is_ascii() { address_char(c as u8, quoted).to_string() } else { other(c) }).collect()
}

/// Whether a character takes its place in a line and does nothing else: no control, no line end of Unicode's.
fn is_shown(c: char) -> bool {
    !c.is_control()
        && !matches!(c, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Decodes xtext (RFC 3461 §4); what is none stays as it is.
fn xtext(text: &[u8]) -> Vec<u8> {
    let hex = |b: &u8| char::from(*b).to_digit(16).filter(|_| !b.is_ascii_lowercase());
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, behind @ ..] = rest {
        match behind {
            [a, b, behind @ ..] if *first == b'+' && hex(a).is_some() && hex(b).is_some() => {
                out.extend([a, b].map(hex).into_iter().flatten().reduce(|a, b| a << 4 | b).map(|b| b as u8));
                rest = behind;
            }
            _ => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    out
}
