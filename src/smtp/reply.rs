//! PURE. Replies: the constant texts of the server machine, each with its enhanced status code (RFC 3463, RFC 2034), and
//! the parser with which the client machine reads those of others (RFC 5321 §4.2).
//!
//! In: bytes of a peer. Out: a code, an enhanced code, the text. Lives on the shard of its connection. It refuses what
//! is no reply, lines above `limits::REPLY_LINE_BYTES` and more than `limits::REPLY_LINES` of them; text above
//! `limits::REPLY_TEXT_BYTES` is dropped.

use crate::limits::{REPLY_LINE_BYTES, REPLY_LINES, REPLY_TEXT_BYTES};
use memchr::memchr;
use std::fmt;

/// What the server machine answers. Those that name the host or a figure are made once, in `ServerPolicy`.
pub mod text {
    macro_rules! replies {
        ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
            $($(#[$doc])* pub const $name: &[u8] = concat!($text, "\r\n").as_bytes();)*
            /// All of them, for the test of their form.
            #[cfg(test)]
            pub const ALL: &[&[u8]] = &[$($name),*];
        };
    }
    replies! {
        /// MAIL accepted.
        SENDER_OK = "250 2.1.0 Sender OK";
        /// RCPT accepted.
        RECIPIENT_OK = "250 2.1.5 Recipient OK";
        /// RSET and NOOP.
        OK = "250 2.0.0 OK";
        /// VRFY: neither confirmed nor denied (RFC 5321 §3.5.3).
        CANNOT_VERIFY = "252 2.0.0 Cannot verify the user, but will take mail for it and try to deliver";
        /// DATA accepted. RFC 2034 §4 has no enhanced code for 3yz.
        START_DATA = "354 End data with <CR><LF>.<CR><LF>";
        /// Verdict Busy, and MAIL at a busy shard.
        BUSY = "452 4.3.1 Too much mail is waiting here, try again later";
        /// Verdict Full.
        FULL = "452 4.3.1 Insufficient system storage, try again later";
        /// Verdict LocalError.
        LOCAL_ERROR = "451 4.3.0 The message could not be stored here, try again later";
        /// A recipient above the limit.
        TOO_MANY_RECIPIENTS = "452 4.5.3 Too many recipients, send this message again to the others";
        /// A line with a bare CR or LF, a control or an 8-bit character.
        BAD_LINE = "500 5.5.2 A command has printable US-ASCII characters only and ends with CRLF";
        /// A line above the limit.
        LINE_TOO_LONG = "500 5.5.2 Command line too long";
        /// No such verb.
        UNKNOWN = "500 5.5.1 Command not recognized";
        /// An argument where there is none, or none where there is one.
        BAD_ARGUMENTS = "501 5.5.4 Wrong arguments for this command";
        /// EHLO and HELO.
        BAD_HOST = "501 5.5.4 EHLO and HELO take one argument: a domain name or an address literal";
        /// MAIL.
        BAD_MAIL = "501 5.5.4 Syntax: MAIL FROM:<address> [parameters], see HELP MAIL";
        /// RCPT.
        BAD_RCPT = "501 5.5.4 Syntax: RCPT TO:<address> [parameters], see HELP RCPT";
        /// AUTH.
        BAD_AUTH = "501 5.5.4 Syntax: AUTH mechanism [initial-response], see EHLO for the mechanisms";
        /// BDAT. Where the next command begins cannot be known, so the session ends.
        BAD_BDAT = "501 5.5.4 Syntax: BDAT octets [LAST], closing the connection";
        /// XCLIENT, XFORWARD.
        BAD_ATTRIBUTES = "501 5.5.4 Bad attribute name or value syntax";
        /// MAIL: the path.
        BAD_SENDER = "501 5.1.7 Bad sender address syntax";
        /// RCPT: the path.
        BAD_RECIPIENT = "501 5.1.3 Bad recipient address syntax";
        /// MAIL: no domain.
        SENDER_WITHOUT_DOMAIN = "501 5.1.7 The sender address needs a domain";
        /// RCPT: no domain.
        RECIPIENT_WITHOUT_DOMAIN = "501 5.1.3 The recipient address needs a domain";
        /// The bare Postmaster: there is no mailbox on a relay.
        NO_POSTMASTER = "550 5.1.1 No mailboxes here: write to Postmaster at a domain";
        /// MAIL: too long.
        SENDER_TOO_LONG = "501 5.1.7 The sender address is longer than RFC 5321 section 4.5.3.1 allows";
        /// RCPT: too long.
        RECIPIENT_TOO_LONG = "501 5.1.3 The recipient address is longer than RFC 5321 section 4.5.3.1 allows";
        /// MAIL or RCPT parameters.
        UNKNOWN_PARAMETER = "555 5.5.4 Parameter not recognized or not announced here";
        /// EXPN.
        NOT_IMPLEMENTED = "502 5.5.1 Command not implemented";
        /// MAIL before EHLO or HELO.
        HELLO_FIRST = "503 5.5.1 Send EHLO or HELO first";
        /// AUTH before EHLO (RFC 4954 §4).
        EHLO_FIRST = "503 5.5.1 Send EHLO first";
        /// MAIL in a transaction.
        NESTED_MAIL = "503 5.5.1 A transaction is open already, send RSET first";
        /// RCPT or DATA outside a transaction.
        MAIL_FIRST = "503 5.5.1 Send MAIL first";
        /// DATA without a recipient (RFC 5321 §3.3, RFC 2920 §3.1).
        NO_RECIPIENTS = "554 5.5.1 No valid recipients";
        /// RCPT of a client that may not relay.
        NO_RELAY = "550 5.7.1 Relaying denied: this server takes mail from its own networks only";
        /// MAIL with SIZE above the limit, and data above it.
        TOO_BIG = "552 5.3.4 The message is larger than this server allows";
        /// An address beyond US-ASCII without SMTPUTF8 (RFC 6531 section 3.5).
        SENDER_NEEDS_UTF8 = "550 5.6.7 This sender address needs SMTPUTF8 in MAIL (RFC 6531)";
        /// The same for RCPT.
        RECIPIENT_NEEDS_UTF8 = "553 5.6.7 This recipient address needs SMTPUTF8 in MAIL (RFC 6531)";
        /// A command that needs TLS here (RFC 3207 section 4).
        TLS_FIRST = "530 5.7.0 Must issue a STARTTLS command first";
        /// MAIL that needs AUTH here (RFC 4954 section 6).
        AUTH_FIRST = "530 5.7.0 Authentication required";
        /// STARTTLS.
        START_TLS = "220 2.0.0 Ready to start TLS";
        /// STARTTLS where there is none, or is already.
        NO_TLS = "502 5.5.1 STARTTLS is not offered here";
        /// STARTTLS while too many handshakes are under way.
        TLS_BUSY = "454 4.7.0 TLS not available due to temporary reason: too many handshakes at a time, try again";
        /// STARTTLS in TLS.
        TLS_ALREADY = "503 5.5.1 TLS is in use already";
        /// AUTH succeeded.
        AUTH_OK = "235 2.7.0 Authentication successful";
        /// AUTH where there is none.
        NO_AUTH = "502 5.5.1 AUTH is not offered here";
        /// AUTH in the clear.
        AUTH_NEEDS_TLS = "538 5.7.11 Encryption required for authentication: send STARTTLS first";
        /// AUTH with a mechanism that was not announced.
        NO_MECHANISM = "504 5.5.4 This authentication mechanism is not offered, see EHLO";
        /// AUTH after AUTH, or in a transaction.
        AUTH_ALREADY = "503 5.5.1 AUTH is allowed once, and not in a mail transaction";
        /// Too many wrong guesses.
        AUTH_TOO_OFTEN = "421 4.7.0 Too many failed authentications, closing the connection";
        /// BDAT before MAIL and RCPT, after DATA, after a chunk that was refused.
        CHUNK_OUT_OF_ORDER = "503 5.5.1 BDAT out of order: its octets were dropped";
        /// DATA for a message that has no lines (RFC 3030 section 3), or behind BDAT.
        BDAT_NEEDED = "503 5.5.1 Send this message by BDAT";
        /// RCPT, MAIL behind the first BDAT.
        IN_CHUNKS = "503 5.5.1 The message has begun: send BDAT or RSET";
        /// A chunk that was taken.
        CHUNK_OK = "250 2.0.0 Octets received";
        /// FUTURERELEASE beyond the limit (RFC 4865 section 4.2).
        HOLD_TOO_LONG = "501 5.5.4 The message cannot be held so long, see FUTURERELEASE in the reply to EHLO";
        /// FUTURERELEASE behind the time of DELIVERBY (RFC 4865 section 5.2.2).
        HOLD_TOO_LATE = "501 5.5.4 The message is to be held until it is too late for BY";
        /// MAIL beyond MAILMAX (RFC 9422 section 4.1).
        TOO_MANY_MAILS = "421 4.7.0 As many messages as LIMITS MAILMAX says, connect again for more";
        /// MT-PRIORITY that this client may not ask for (RFC 6710 section 4.1: the text begins with the new one).
        PRIORITY_LOWERED = "250 2.3.6 0 is the priority of this message, yours may not be higher";
        /// VRFY, EXPN for those who may not.
        NOT_FOR_YOU = "550 5.7.1 Not allowed for you";
        /// VRFY and EXPN: nobody.
        NO_SUCH_USER = "550 5.1.1 No such mailbox or list here";
        /// RCPT: a local domain has no such mailbox or alias.
        NO_MAILBOX = "550 5.1.1 No such mailbox here";
        /// RCPT: an alias that leads to an address too long for a path.
        BAD_MEMBER = "550 5.1.3 This alias leads to an address that cannot be written to";
        /// VRFY, EXPN: several (RFC 5321 section 3.5.1).
        AMBIGUOUS = "553 5.1.4 Several domains here have that name: write name@domain";
        /// EXPN of a mailbox (RFC 5321 section 3.5.1).
        NO_LIST = "550 5.1.0 That is a user name, not a mailing list";
        /// EXPN of what is elsewhere.
        LIST_ELSEWHERE = "550 5.1.0 That list is not here";
        /// XCLIENT and XFORWARD of those who may not.
        NOT_TRUSTED = "550 5.7.0 Your address is not among those that may send this command";
        /// XCLIENT or XFORWARD in a transaction.
        NOT_IN_TRANSACTION = "503 5.5.1 Not in a mail transaction";
        /// Another protocol.
        OTHER_PROTOCOL = "554 5.5.1 This is an SMTP server, not a web server, closing the connection";
        /// Bytes before their time.
        TOO_EARLY = "554 5.5.0 Commands before their time: wait for the reply to this one (RFC 2920 section 3.1)";
        /// Bytes before the greeting.
        EARLY_TALKER = "554 5.5.0 Data before the greeting (RFC 5321 section 3.1), closing the connection";
        /// MAIL: a domain that nobody can answer (RFC 5321 section 2.3.5).
        SENDER_DOMAIN = "550 5.1.8 The sender's domain does not exist, or has neither MX nor address";
        /// MAIL: a domain that takes no mail (RFC 7505 section 4.2).
        SENDER_NULL_MX = "550 5.7.27 The sender's domain takes no mail (null MX): nobody could be told of a failure";
        /// MAIL: DNS did not answer.
        SENDER_DOMAIN_UNKNOWN = "451 4.1.8 DNS does not tell about the sender's domain just now, try again later";
        /// RCPT: no such domain.
        RECIPIENT_DOMAIN = "550 5.1.2 The recipient's domain does not exist";
        /// RCPT: null MX (RFC 7505 section 4.1).
        RECIPIENT_NULL_MX = "556 5.1.10 The recipient's domain takes no mail (null MX)";
        /// RCPT: neither MX nor address.
        RECIPIENT_NO_HOST = "550 5.4.4 The recipient's domain has neither MX nor address";
        /// RCPT: DNS did not answer.
        RECIPIENT_DOMAIN_UNKNOWN = "451 4.4.3 DNS does not tell about the recipient's domain just now, try again later";
        /// Data with a bare LF.
        BARE_LF = "554 5.6.0 Message refused: it has a bare LF, a line must end with CRLF (RFC 5321 section 2.3.8)";
        /// Data with a bare CR.
        BARE_CR = "554 5.6.0 Message refused: it has a bare CR, a line must end with CRLF (RFC 5321 section 2.3.8)";
        /// Data with NUL.
        NUL = "554 5.6.0 Message refused: it has a NUL character (RFC 5322 section 4)";
        /// Data with too many Received headers.
        LOOP = "554 5.4.6 Message refused: it has more than 100 Received headers, it must be in a mail loop";
        /// A client that speaks no SMTP.
        TOO_MANY_ERRORS = "421 4.7.0 Too many errors, closing the connection";
    }
}

/// An enhanced status code (RFC 3463): class 2, 4 or 5, subject, detail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EnhancedCode(pub u8, pub u16, pub u16);

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl EnhancedCode {
    /// Reads `class.subject.detail` at the start of a reply's text, behind which comes a space or nothing.
    pub fn parse(text: &str) -> Option<Self> {
        let word = text.split([' ', '\n']).next()?;
        let mut numbers = word.split('.');
        let mut number = |digits| {
            let part: &str = numbers.next()?;
            (matches!(part.len(), 1..=3) && part.len() <= digits && part.bytes().all(|b| b.is_ascii_digit()))
                .then(|| part.bytes().fold(0, |sum, b| sum * 10 + u16::from(b - b'0')))
        };
        let (class, subject, detail) = (number(1)?, number(3)?, number(3)?);
        let class = u8::try_from(class).ok()?;
        (matches!(class, 2 | 4 | 5) && numbers.next().is_none()).then_some(EnhancedCode(class, subject, detail))
    }
}

/// A reply of a peer, as it is reported: the memory is the machine's and is used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// Three digits, 200..=599.
    pub code: u16,
    /// If the text begins with one of the same class as the code.
    pub enhanced: Option<EnhancedCode>,
    /// The text behind the code, the enhanced code still in it, lines joined by `\n`. Printable US-ASCII: anything else
    /// a peer sent stands as `?`.
    pub text: &'a str,
}

impl Reply<'_> {
    /// 2yz.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 4yz: the same may work later.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5yz: it will not.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }
}

/// Why bytes are no reply. The connection cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyError {
    /// A line does not begin with three digits of 200 to 599 and a space, a hyphen or its end.
    NotAReply,
    /// Lines of one reply carry different codes.
    CodeChanged,
    /// A line above `limits::REPLY_LINE_BYTES`.
    LineTooLong,
    /// More lines than `limits::REPLY_LINES`.
    TooManyLines,
}

/// Reads replies from any split of their bytes.
#[derive(Debug, Default)]
pub struct ReplyParser {
    /// The start of a line whose end has not come.
    partial: Vec<u8>,
    code: u16,
    lines: usize,
    text: Vec<u8>,
    complete: bool,
}

impl ReplyParser {
    /// Bytes kept.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn size(&self) -> usize {
        self.partial.len() + self.text.len()
    }

    /// Takes bytes from the front of `input` until a reply is complete (then [`reply`](Self::reply) has it) or nothing
    /// is left.
    pub fn feed(&mut self, input: &mut &[u8]) -> Result<bool, ReplyError> {
        if self.complete {
            self.complete = false;
            self.lines = 0;
            self.text.clear();
        }
        while let Some(lf) = memchr(b'\n', input) {
            let (line, rest) = input.split_at(lf);
            *input = rest.get(1..).unwrap_or_default();
            self.complete = if self.partial.is_empty() {
                self.line(line)?
            } else {
                self.keep(line)?;
                let mut line = std::mem::take(&mut self.partial);
                let result = self.line(&line);
                line.clear();
                self.partial = line;
                result?
            };
            if self.complete {
                return Ok(true);
            }
        }
        let rest = std::mem::take(input);
        self.keep(rest)?;
        Ok(false)
    }

    /// The reply that [`feed`](Self::feed) completed.
    pub fn reply(&self) -> Reply<'_> {
        let text = std::str::from_utf8(&self.text).expect("only ASCII was put in");
        let enhanced = EnhancedCode::parse(text).filter(|e| u16::from(e.0) == self.code / 100);
        Reply { code: self.code, enhanced, text }
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<(), ReplyError> {
        if self.partial.len() + bytes.len() > REPLY_LINE_BYTES {
            return Err(ReplyError::LineTooLong);
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// One line without its LF; a CR before it is taken off, one elsewhere is text. Returns whether it was the last.
    fn line(&mut self, line: &[u8]) -> Result<bool, ReplyError> {
        if line.len() > REPLY_LINE_BYTES {
            return Err(ReplyError::LineTooLong);
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some((digits, rest)) = line.split_first_chunk::<3>() else { return Err(ReplyError::NotAReply) };
        if !matches!(digits, [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9']) {
            return Err(ReplyError::NotAReply);
        }
        let code = digits.iter().fold(0, |sum, b| sum * 10 + u16::from(b - b'0'));
        let (last, text) = match rest {
            [] => (true, rest),
            [b' ', text @ ..] => (true, text),
            [b'-', text @ ..] => (false, text),
            _ => return Err(ReplyError::NotAReply),
        };
        if self.lines > 0 && code != self.code {
            return Err(ReplyError::CodeChanged);
        }
        if self.lines == REPLY_LINES {
            return Err(ReplyError::TooManyLines);
        }
        self.code = code;
        if self.lines > 0 && self.text.len() < REPLY_TEXT_BYTES {
            self.text.push(b'\n');
        }
        self.lines += 1;
        let room = REPLY_TEXT_BYTES - self.text.len();
        let printable = |b: &u8| if matches!(b, 32..=126) { *b } else { b'?' };
        self.text.extend(text.iter().take(room).map(printable));
        Ok(last)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn constants_are_replies_with_fitting_enhanced_codes() {
        for text in text::ALL {
            let mut parser = ReplyParser::default();
            assert!(text.ends_with(b"\r\n") && text.len() <= 512);
            assert_eq!(parser.feed(&mut &text[..]), Ok(true));
            let reply = parser.reply();
            assert!(text[3] == b' ' && (reply.code == 354 || reply.enhanced.is_some()), "{}", reply.text);
            assert!(!reply.text.contains('?'));
        }
    }

    fn all(bytes: &[u8], chunk: usize) -> Result<Vec<(u16, Option<EnhancedCode>, String)>, ReplyError> {
        let mut parser = ReplyParser::default();
        let mut found = Vec::new();
        for mut piece in bytes.chunks(chunk) {
            while parser.feed(&mut piece)? {
                let r = parser.reply();
                found.push((r.code, r.enhanced, r.text.to_string()));
            }
        }
        Ok(found)
    }

    #[test]
    fn replies_in_any_split() {
        let bytes = b"220 hi\r\n250-one\r\n250-two\r\n250 \r\n250\r\n550 5.1.1 no\nbye\r\n";
        for chunk in 1..=bytes.len() {
            assert_eq!(all(bytes, chunk), Err(ReplyError::NotAReply), "the last line is none");
            let found = all(&bytes[..bytes.len() - 5], chunk).unwrap();
            let texts: Vec<_> = found.iter().map(|f| (f.0, f.2.as_str())).collect();
            assert_eq!(texts, [(220, "hi"), (250, "one\ntwo\n"), (250, ""), (550, "5.1.1 no")]);
            assert_eq!(found[3].1, Some(EnhancedCode(5, 1, 1)));
        }
    }

    #[test]
    fn enhanced_codes() {
        assert_eq!(EnhancedCode::parse("4.22.333 x"), Some(EnhancedCode(4, 22, 333)));
        for no in ["", "x", "5", "5.1", "5.1.1.1", "3.1.1", "5.1.x", "5..1", "5.1.1000", "55.1.1", "5.1.1-x"] {
            assert_eq!(EnhancedCode::parse(no), None, "{no}");
        }
        // A class that contradicts the code says nothing.
        assert_eq!(all(b"450 5.1.1 x\r\n", 99).unwrap()[0].1, None);
    }

    #[test]
    fn junk_is_bounded() {
        for bad in ["junk\r\n", "\r\n", "25\r\n", "250x\r\n", "150 x\r\n", "650 x\r\n", "2a0 x\r\n"] {
            assert_eq!(all(bad.as_bytes(), 3), Err(ReplyError::NotAReply), "{bad:?}");
        }
        assert_eq!(all(b"250-a\r\n251 b\r\n", 4), Err(ReplyError::CodeChanged));
        assert_eq!(all(&[b'2'; REPLY_LINE_BYTES + 1], 100), Err(ReplyError::LineTooLong));
        assert_eq!(all("250-x\r\n".repeat(REPLY_LINES + 1).as_bytes(), 100), Err(ReplyError::TooManyLines));
        let long = format!("250-{}\r\n", "y".repeat(1000)).repeat(9) + "250 \u{e4}\tz\r\n";
        let text = &all(long.as_bytes(), 77).unwrap()[0].2;
        assert_eq!(text.len(), REPLY_TEXT_BYTES);
        assert_eq!(all("250 \u{e4}\tz\r\n".as_bytes(), 5).unwrap()[0].2, "???z");
    }
}
