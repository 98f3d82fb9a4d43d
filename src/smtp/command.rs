//! PURE. One command line of a client, read as slices of the receive buffer: no allocation, nothing copied.
//!
//! In: a line without its CRLF. Out: a [`Command`] or a [`CommandError`] that says which reply it deserves. Runs on the
//! shard that owns the session. It refuses control and 8-bit characters anywhere in a command.

use super::address::{self, Path, PathError};
use super::parameters::{self, MailParams, RcptParams};
use memchr::memchr;

/// A command as RFC 5321 §4.1.1 writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `EHLO` with its domain or address literal.
    Ehlo(&'a [u8]),
    /// `HELO` with its domain.
    Helo(&'a [u8]),
    /// `MAIL FROM:<reverse-path> [parameters]`.
    Mail {
        /// The reverse-path; empty for the null sender.
        from: Path<'a>,
        /// Its parameters.
        params: MailParams<'a>,
        /// The verb was SEND, SOML or SAML (RFC 821 §3.4).
        legacy: bool,
    },
    /// `RCPT TO:<forward-path> [parameters]`.
    Rcpt {
        /// The forward-path.
        to: Path<'a>,
        /// Its parameters.
        params: RcptParams<'a>,
    },
    /// `DATA`.
    Data,
    /// `BDAT octets [LAST]` (RFC 3030 §2).
    Bdat {
        /// Octets of the chunk that follows the line.
        size: u64,
        /// It is the last one.
        last: bool,
    },
    /// `STARTTLS` (RFC 3207 §4).
    StartTls,
    /// `AUTH mechanism [initial-response]` (RFC 4954 §4).
    Auth {
        /// The name of the mechanism.
        mechanism: &'a [u8],
        /// In base64, or `=` for an empty one.
        initial: Option<&'a [u8]>,
    },
    /// `XCLIENT attributes`, Postfix's way for a proxy to say who its client is.
    Xclient(&'a [u8]),
    /// `XFORWARD attributes`, Postfix's way for a content filter to say whose message it hands on.
    Xforward(&'a [u8]),
    /// The first line of another protocol: an HTTP request, or one of its header fields.
    OtherProtocol,
    /// `RSET`.
    Rset,
    /// `NOOP [text]`.
    Noop,
    /// `QUIT`.
    Quit,
    /// `VRFY text`.
    Vrfy(&'a [u8]),
    /// `EXPN text`.
    Expn(&'a [u8]),
    /// `HELP [text]`.
    Help(&'a [u8]),
}

/// What is wrong with a command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// A control or 8-bit character somewhere in the line.
    NotPrintable,
    /// No such verb.
    Unknown,
    /// A verb that takes no argument has one, or one that needs an argument has none, or not of its form.
    Arguments(Verb),
    /// MAIL or RCPT: the path is refused.
    Path(Verb, PathError),
    /// MAIL or RCPT: a parameter that was not announced, or a value of it that is not known.
    UnknownParameter(Verb),
}

/// The verbs, for errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// EHLO or HELO.
    Hello,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// BDAT: what follows such a line cannot be told from commands.
    Bdat,
    /// AUTH.
    Auth,
    /// Any other known verb.
    Other,
}

const UPPER: u32 = 0xDFDF_DFDF;

const fn verb(name: &[u8; 4]) -> u32 {
    u32::from_be_bytes(*name)
}

const EHLO: u32 = verb(b"EHLO");
const HELO: u32 = verb(b"HELO");
const MAIL: u32 = verb(b"MAIL");
const RCPT: u32 = verb(b"RCPT");
const DATA: u32 = verb(b"DATA");
const RSET: u32 = verb(b"RSET");
const NOOP: u32 = verb(b"NOOP");
const QUIT: u32 = verb(b"QUIT");
const VRFY: u32 = verb(b"VRFY");
const EXPN: u32 = verb(b"EXPN");
const HELP: u32 = verb(b"HELP");
const BDAT: u32 = verb(b"BDAT");
const STAR: u32 = verb(b"STAR");
const AUTH: u32 = verb(b"AUTH");
const SEND: u32 = verb(b"SEND");
const SOML: u32 = verb(b"SOML");
const SAML: u32 = verb(b"SAML");
const XCLI: u32 = verb(b"XCLI");
const XFOR: u32 = verb(b"XFOR");

/// Reads one line, given without its CRLF. White space at its end is tolerated (RFC 5321 §4.1.1).
pub fn parse(line: &[u8]) -> Result<Command<'_>, CommandError> {
    let line = trim_end(line);
    let result = read(line);
    // The grammar of the other commands has printable characters only.
    let free_text = matches!(
        result,
        Err(_)
            | Ok(Command::Noop
                | Command::Help(_)
                | Command::Vrfy(_)
                | Command::Expn(_)
                | Command::OtherProtocol
                | Command::Auth { .. }
                | Command::Xclient(_)
                | Command::Xforward(_))
    );
    let blank = matches!(result, Err(CommandError::Path(..) | CommandError::Arguments(_))) && is_international(line);
    // RFC 6531 §3.7.4.2.
    let utf8 = match result {
        Ok(Command::Vrfy(name) | Command::Expn(name)) => strip_utf8(name).is_some() && is_international(line),
        _ => false,
    };
    if free_text && !blank && !utf8 && !is_printable(line) { Err(CommandError::NotPrintable) } else { result }
}

#[inline]
fn read(line: &[u8]) -> Result<Command<'_>, CommandError> {
    let Some((name, rest)) = line.split_first_chunk::<4>() else { return Err(CommandError::Unknown) };
    // Clearing bit 5 folds the case of letters; what else it folds (such as `{` to `[`) is in no verb.
    let name = u32::from_be_bytes(*name) & UPPER;
    let argument = match rest {
        [] => rest,
        [b' ', rest @ ..] => rest,
        _ => return longer(name, line),
    };
    match name {
        MAIL => mail(argument, false),
        RCPT => rcpt(argument),
        DATA => alone(argument, Command::Data),
        BDAT => bdat(argument),
        EHLO if address::is_host_name(argument) => Ok(Command::Ehlo(argument)),
        HELO if address::is_host_name(argument) => Ok(Command::Helo(argument)),
        EHLO | HELO => Err(CommandError::Arguments(Verb::Hello)),
        RSET => alone(argument, Command::Rset),
        QUIT => alone(argument, Command::Quit),
        NOOP => Ok(Command::Noop),
        HELP => Ok(Command::Help(argument)),
        VRFY | EXPN if argument.is_empty() => Err(CommandError::Arguments(Verb::Other)),
        VRFY => Ok(Command::Vrfy(argument)),
        EXPN => Ok(Command::Expn(argument)),
        AUTH => auth(argument),
        SEND | SOML | SAML => mail(argument, true),
        _ => longer(name, line),
    }
}

/// Verbs of more than four letters, and lines of other protocols.
#[cold]
fn longer(name: u32, line: &[u8]) -> Result<Command<'_>, CommandError> {
    let (word, argument) = match line.iter().position(|b| *b == b' ') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &[][..]),
    };
    let is = |verb: &[u8]| word.eq_ignore_ascii_case(verb);
    match name {
        STAR if is(b"STARTTLS") => alone(argument, Command::StartTls),
        XCLI if is(b"XCLIENT") => Ok(Command::Xclient(argument)),
        XFOR if is(b"XFORWARD") => Ok(Command::Xforward(argument)),
        _ if is_http(word, argument) => Ok(Command::OtherProtocol),
        _ => Err(CommandError::Unknown),
    }
}

/// A web browser can be made to send a request to any port: the lines of its body must not be read as commands. A request
/// line has the version at its end, a header field a colon behind its name; no SMTP command has either.
fn is_http(word: &[u8], argument: &[u8]) -> bool {
    const METHODS: [&[u8]; 9] =
        [b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"CONNECT", b"DELETE", b"PATCH", b"TRACE"];
    let request = METHODS.iter().any(|method| word.eq_ignore_ascii_case(method)) && !argument.is_empty();
    let field = word.split_last().is_some_and(|(last, name)| {
        *last == b':' && !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-')
    });
    request || field
}

/// What stands at the front of a session's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line, without its CRLF.
    Whole(&'a [u8]),
    /// Not all of it has come.
    Partial,
    /// More octets than allowed without its end.
    TooLong,
}

/// The command line at the front of `input`, of at most `most` octets with its CRLF.
#[inline]
pub fn find_line(input: &[u8], most: usize) -> Line<'_> {
    let within = &input[..input.len().min(most)];
    match find_crlf(within) {
        Some(at) => Line::Whole(&within[..at]),
        None if within.len() == most => Line::TooLong,
        None => Line::Partial,
    }
}

/// Where the first CR LF is. Only that ends a line: a bare LF is part of it, and makes it unprintable.
#[inline]
pub fn find_crlf(input: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr(b'\n', &input[at..])?;
        if at > 0 && input[at - 1] == b'\r' {
            return Some(at - 1);
        }
        at += 1;
    }
}

fn trim_end(mut line: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = line {
        line = rest;
    }
    line
}

/// The argument of VRFY or EXPN without the keyword that says that it is in UTF-8 (RFC 6531 §3.7.4.2).
pub fn strip_utf8(argument: &[u8]) -> Option<&[u8]> {
    let (name, keyword) = argument.split_at_checked(argument.len().checked_sub(9)?)?;
    keyword.eq_ignore_ascii_case(b" SMTPUTF8").then_some(name)
}

/// Whether every byte is in 32..=126.
fn is_printable(line: &[u8]) -> bool {
    line.iter().fold(true, |ok, b| ok & (b.wrapping_sub(32) < 95))
}

/// Whether the line has UTF-8 and, but for that, printable characters only: an internationalised address, not junk.
fn is_international(line: &[u8]) -> bool {
    !line.is_ascii() && std::str::from_utf8(line).is_ok_and(|text| !text.contains(char::is_control))
}

fn alone<'a>(argument: &[u8], command: Command<'a>) -> Result<Command<'a>, CommandError> {
    if argument.is_empty() { Ok(command) } else { Err(CommandError::Arguments(Verb::Other)) }
}

fn mail(argument: &[u8], legacy: bool) -> Result<Command<'_>, CommandError> {
    // RFC 5321 §3.3: no space on either side of the colon.
    let Some((_, text)) = argument.split_at_checked(5).filter(|(word, _)| word.eq_ignore_ascii_case(b"FROM:")) else {
        return Err(CommandError::Arguments(Verb::Mail));
    };
    let (from, rest) = address::path(text).map_err(|e| CommandError::Path(Verb::Mail, e))?;
    // The domain-less Postmaster is a forward-path only (§4.1.1.3).
    if from.domain_at == from.address.len() && !from.address.is_empty() {
        return Err(CommandError::Path(Verb::Mail, PathError::NoDomain));
    }
    let params = if rest.is_empty() { MailParams::default() } else { parameters::mail(rest)? };
    Ok(Command::Mail { from, params, legacy })
}

fn rcpt(argument: &[u8]) -> Result<Command<'_>, CommandError> {
    let Some((_, text)) = argument.split_at_checked(3).filter(|(word, _)| word.eq_ignore_ascii_case(b"TO:")) else {
        return Err(CommandError::Arguments(Verb::Rcpt));
    };
    let (to, rest) = address::path(text).map_err(|e| CommandError::Path(Verb::Rcpt, e))?;
    if to.address.is_empty() {
        return Err(CommandError::Path(Verb::Rcpt, PathError::Syntax));
    }
    let params = if rest.is_empty() { RcptParams::default() } else { parameters::rcpt(rest)? };
    Ok(Command::Rcpt { to, params })
}

fn bdat(argument: &[u8]) -> Result<Command<'_>, CommandError> {
    let (figure, end) = argument.split_at(argument.iter().position(|b| *b == b' ').unwrap_or(argument.len()));
    let last = end.eq_ignore_ascii_case(b" LAST");
    // 19 digits fit 64 bits, and are more than any connection carries.
    if !matches!(figure.len(), 1..=19) || !figure.iter().all(u8::is_ascii_digit) || !(last || end.is_empty()) {
        return Err(CommandError::Arguments(Verb::Bdat));
    }
    Ok(Command::Bdat { size: figure.iter().fold(0, |sum, b| sum * 10 + u64::from(b - b'0')), last })
}

fn auth(argument: &[u8]) -> Result<Command<'_>, CommandError> {
    let (mechanism, initial) = match argument.iter().position(|b| *b == b' ') {
        Some(at) => (&argument[..at], Some(&argument[at + 1..])),
        None => (argument, None),
    };
    // RFC 4954 §4: an empty initial response is written "=".
    if mechanism.is_empty() || initial.is_some_and(|text| text.is_empty() || text.contains(&b' ')) {
        return Err(CommandError::Arguments(Verb::Auth));
    }
    Ok(Command::Auth { mechanism, initial })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mail_of(line: &str) -> Result<(Vec<u8>, MailParams<'_>), CommandError> {
        parse(line.as_bytes()).map(|c| match c {
            Command::Mail { from, params, legacy: false } => (from.address.to_vec(), params),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn verbs_in_any_case_and_with_trailing_space() {
        assert_eq!(parse(b"dAtA"), Ok(Command::Data));
        assert_eq!(parse(b"QUIT \t "), Ok(Command::Quit));
        assert_eq!(parse(b"noop whatever"), Ok(Command::Noop));
        assert_eq!(parse(b"HELP"), Ok(Command::Help(b"")));
        assert_eq!(parse(b"vrfy a"), Ok(Command::Vrfy(b"a")));
        assert_eq!(parse(b"expn a"), Ok(Command::Expn(b"a")));
        assert_eq!(parse(b"ehlo a.example"), Ok(Command::Ehlo(b"a.example")));
        assert_eq!(parse(b"HELO a.example "), Ok(Command::Helo(b"a.example")));
        for line in [&b""[..], b" ", b"DAT", b"DATAX", b"DATA\tx", b"XYZZ", b" DATA", b"STARTTLSX", b"\x44ATB"] {
            assert!(matches!(parse(line), Err(CommandError::Unknown | CommandError::NotPrintable)), "{line:?}");
        }
        for line in [&b"DATA x"[..], b"RSET x", b"QUIT x", b"VRFY", b"EXPN "] {
            assert_eq!(parse(line), Err(CommandError::Arguments(Verb::Other)), "{line:?}");
        }
        for line in [&b"EHLO"[..], b"EHLO a b", b"HELO ", b"EHLO  a"] {
            assert_eq!(parse(line), Err(CommandError::Arguments(Verb::Hello)), "{line:?}");
        }
    }

    #[test]
    fn nothing_but_printable_ascii() {
        for byte in (0..32).chain(127..=255) {
            let mut line = b"MAIL FROM:<a@b.example>".to_vec();
            // White space at the end is tolerated, tabs included.
            for at in 0..line.len() - 1 {
                let was = std::mem::replace(&mut line[at], byte);
                assert_eq!(parse(&line), Err(CommandError::NotPrintable), "{byte} at {at}");
                line[at] = was;
            }
            line = b"NOOP ".to_vec();
            line.extend([byte, b'x']);
            assert_eq!(parse(&line), Err(CommandError::NotPrintable));
        }
    }

    #[test]
    fn mail_and_its_path() {
        let none = MailParams::default();
        assert_eq!(mail_of("MAIL FROM:<>"), Ok((vec![], none)));
        assert_eq!(mail_of("mail from:<a@b>"), Ok((b"a@b".to_vec(), none)));
        assert_eq!(mail_of("MAIL FROM:<a@b> size=12").unwrap().1.size, 12);
        assert_eq!(mail_of("MAIL FROM:<\u{e4}@b> SMTPUTF8").unwrap().0, "\u{e4}@b".as_bytes());
        for (line, error) in [
            ("MAIL", CommandError::Arguments(Verb::Mail)),
            ("MAIL FROM", CommandError::Arguments(Verb::Mail)),
            ("MAIL FROM :<a@b>", CommandError::Arguments(Verb::Mail)),
            ("MAIL TO:<a@b>", CommandError::Arguments(Verb::Mail)),
            ("MAIL FROM: <a@b>", CommandError::Path(Verb::Mail, PathError::Syntax)),
            ("MAIL FROM:a@b", CommandError::Path(Verb::Mail, PathError::Syntax)),
            ("MAIL FROM:<postmaster>", CommandError::Path(Verb::Mail, PathError::NoDomain)),
            ("MAIL FROM:<a@b>SIZE=1", CommandError::Arguments(Verb::Mail)),
            ("MAIL FROM:<a@b>  SIZE=1", CommandError::Arguments(Verb::Mail)),
            ("MAIL FROM:<a@b> FOO=bar", CommandError::UnknownParameter(Verb::Mail)),
            ("MAIL FROM:<a@b> -X=1", CommandError::Arguments(Verb::Mail)),
            ("MAIL FROM:<\u{e4}@b c>", CommandError::Path(Verb::Mail, PathError::Syntax)),
            ("MAIL FROM:<a@b> X=\u{85}", CommandError::NotPrintable),
        ] {
            assert_eq!(mail_of(line), Err(error), "{line}");
        }
        assert!(matches!(parse(b"SOML FROM:<a@b>"), Ok(Command::Mail { legacy: true, .. })));
    }

    #[test]
    fn verbs_of_extensions() {
        assert_eq!(parse(b"starttls"), Ok(Command::StartTls));
        assert_eq!(parse(b"STARTTLS x"), Err(CommandError::Arguments(Verb::Other)));
        assert_eq!(parse(b"BDAT 12 last"), Ok(Command::Bdat { size: 12, last: true }));
        assert_eq!(parse(b"BDAT 0"), Ok(Command::Bdat { size: 0, last: false }));
        for bad in ["BDAT", "BDAT x", "BDAT -1", "BDAT 1 LOST", "BDAT 1  LAST", "BDAT 12345678901234567890"] {
            assert_eq!(parse(bad.as_bytes()), Err(CommandError::Arguments(Verb::Bdat)), "{bad}");
        }
        assert_eq!(parse(b"AUTH PLAIN ="), Ok(Command::Auth { mechanism: b"PLAIN", initial: Some(b"=") }));
        assert_eq!(parse(b"auth login"), Ok(Command::Auth { mechanism: b"login", initial: None }));
        for bad in ["AUTH", "AUTH  ", "AUTH PLAIN a b"] {
            assert_eq!(parse(bad.as_bytes()), Err(CommandError::Arguments(Verb::Auth)), "{bad}");
        }
        assert_eq!(parse(b"XCLIENT ADDR=1.2.3.4"), Ok(Command::Xclient(b"ADDR=1.2.3.4")));
        assert_eq!(parse(b"XFORWARD NAME=x"), Ok(Command::Xforward(b"NAME=x")));
        assert_eq!(parse(b"XCLIENTS x"), Err(CommandError::Unknown));
    }

    #[test]
    fn lines_of_http_are_told_apart() {
        for line in [
            "GET / HTTP/1.1",
            "POST /x HTTP/1.0",
            "Host: a.example",
            "Content-Type: text/plain",
            "CONNECT a:25 HTTP/1.1",
        ] {
            assert_eq!(parse(line.as_bytes()), Ok(Command::OtherProtocol), "{line}");
        }
        for line in ["GET", "getting x", ":x", "a b: c"] {
            assert_eq!(parse(line.as_bytes()), Err(CommandError::Unknown), "{line}");
        }
    }

    #[test]
    fn rcpt_and_its_path() {
        let Ok(Command::Rcpt { to, .. }) = parse(b"rcpt to:<@r.example:u@d.example>") else { panic!("accepted") };
        assert_eq!((to.address, to.domain()), (&b"u@d.example"[..], &b"d.example"[..]));
        assert_eq!(parse(b"RCPT TO:<>"), Err(CommandError::Path(Verb::Rcpt, PathError::Syntax)));
        assert_eq!(parse(b"RCPT TO:<root>"), Err(CommandError::Path(Verb::Rcpt, PathError::NoDomain)));
        assert_eq!(parse(b"RCPT TO:<a@b> SIZE=1"), Err(CommandError::UnknownParameter(Verb::Rcpt)));
        assert_eq!(parse(b"RCPT TO:<a@b>x"), Err(CommandError::Arguments(Verb::Rcpt)));
    }
}
