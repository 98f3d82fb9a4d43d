//! PURE. One command line of a client, read as slices of the receive buffer: no allocation, nothing copied.
//!
//! In: a line without its CRLF. Out: a [`Command`] or a [`CommandError`] that says which reply it deserves. Runs on the
//! shard that owns the session. It refuses control and 8-bit characters anywhere in a command.

use super::address::{self, Path, PathError};
use crate::limits::COMMAND_LINE_BYTES;
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
        params: MailParams,
    },
    /// `RCPT TO:<forward-path>`; no parameter is announced, so none is allowed.
    Rcpt {
        /// The forward-path.
        to: Path<'a>,
    },
    /// `DATA`.
    Data,
    /// `RSET`.
    Rset,
    /// `NOOP [text]`.
    Noop,
    /// `QUIT`.
    Quit,
    /// `VRFY text`.
    Vrfy,
    /// `EXPN text`.
    Expn,
    /// `HELP [text]`.
    Help,
}

/// The parameters of MAIL that the server announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MailParams {
    /// `SIZE=` (RFC 1870), octets; 0 if not given.
    pub size: u64,
    /// `BODY=8BITMIME` (RFC 6152).
    pub eight_bit: bool,
    /// Whether there was any parameter at all: a HELO session may not give one.
    pub any: bool,
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

/// Reads one line, given without its CRLF. White space at its end is tolerated (RFC 5321 §4.1.1).
pub fn parse(line: &[u8]) -> Result<Command<'_>, CommandError> {
    let line = trim_end(line);
    let result = read(line);
    // The grammar of the other commands has printable characters only.
    let free_text = matches!(result, Err(_) | Ok(Command::Noop | Command::Help | Command::Vrfy | Command::Expn));
    if free_text && !is_printable(line) { Err(CommandError::NotPrintable) } else { result }
}

#[inline]
fn read(line: &[u8]) -> Result<Command<'_>, CommandError> {
    let Some((name, rest)) = line.split_first_chunk::<4>() else { return Err(CommandError::Unknown) };
    // Clearing bit 5 folds the case of letters; what else it folds (such as `{` to `[`) is in no verb.
    let name = u32::from_be_bytes(*name) & UPPER;
    let argument = match rest {
        [] => rest,
        [b' ', rest @ ..] => rest,
        _ => return Err(CommandError::Unknown),
    };
    match name {
        MAIL => mail(argument),
        RCPT => rcpt(argument),
        DATA => alone(argument, Command::Data),
        EHLO if address::is_host_name(argument) => Ok(Command::Ehlo(argument)),
        HELO if address::is_host_name(argument) => Ok(Command::Helo(argument)),
        EHLO | HELO => Err(CommandError::Arguments(Verb::Hello)),
        RSET => alone(argument, Command::Rset),
        QUIT => alone(argument, Command::Quit),
        NOOP => Ok(Command::Noop),
        HELP => Ok(Command::Help),
        VRFY | EXPN if argument.is_empty() => Err(CommandError::Arguments(Verb::Other)),
        VRFY => Ok(Command::Vrfy),
        EXPN => Ok(Command::Expn),
        _ => Err(CommandError::Unknown),
    }
}

/// What stands at the front of a session's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// A line, without its CRLF.
    Whole(&'a [u8]),
    /// Not all of it has come.
    Partial,
    /// More than `limits::COMMAND_LINE_BYTES` without its end.
    TooLong,
}

/// The command line at the front of `input`.
#[inline]
pub fn find_line(input: &[u8]) -> Line<'_> {
    let within = &input[..input.len().min(COMMAND_LINE_BYTES)];
    match find_crlf(within) {
        Some(at) => Line::Whole(&within[..at]),
        None if within.len() == COMMAND_LINE_BYTES => Line::TooLong,
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

/// Whether every byte is in 32..=126.
fn is_printable(line: &[u8]) -> bool {
    line.iter().fold(true, |ok, b| ok & (b.wrapping_sub(32) < 95))
}

fn alone<'a>(argument: &[u8], command: Command<'a>) -> Result<Command<'a>, CommandError> {
    if argument.is_empty() { Ok(command) } else { Err(CommandError::Arguments(Verb::Other)) }
}

fn mail(argument: &[u8]) -> Result<Command<'_>, CommandError> {
    // RFC 5321 §3.3: no space on either side of the colon.
    let Some((_, text)) = argument.split_at_checked(5).filter(|(word, _)| word.eq_ignore_ascii_case(b"FROM:")) else {
        return Err(CommandError::Arguments(Verb::Mail));
    };
    let (from, rest) = address::path(text).map_err(|e| CommandError::Path(Verb::Mail, e))?;
    // The domain-less Postmaster is a forward-path only (§4.1.1.3).
    if from.domain_at == from.address.len() && !from.address.is_empty() {
        return Err(CommandError::Path(Verb::Mail, PathError::NoDomain));
    }
    let params = if rest.is_empty() { MailParams::default() } else { mail_params(rest)? };
    Ok(Command::Mail { from, params })
}

fn rcpt(argument: &[u8]) -> Result<Command<'_>, CommandError> {
    let Some((_, text)) = argument.split_at_checked(3).filter(|(word, _)| word.eq_ignore_ascii_case(b"TO:")) else {
        return Err(CommandError::Arguments(Verb::Rcpt));
    };
    let (to, rest) = address::path(text).map_err(|e| CommandError::Path(Verb::Rcpt, e))?;
    if to.address.is_empty() {
        return Err(CommandError::Path(Verb::Rcpt, PathError::Syntax));
    }
    match Params(rest).next() {
        None => Ok(Command::Rcpt { to }),
        Some(Ok(_)) => Err(CommandError::UnknownParameter(Verb::Rcpt)),
        Some(Err(BadParameter)) => Err(CommandError::Arguments(Verb::Rcpt)),
    }
}

fn mail_params(rest: &[u8]) -> Result<MailParams, CommandError> {
    let wrong = CommandError::Arguments(Verb::Mail);
    let unknown = CommandError::UnknownParameter(Verb::Mail);
    let mut params = MailParams::default();
    let (mut size_given, mut body_given) = (false, false);
    for param in Params(rest) {
        let Ok((keyword, value)) = param else { return Err(wrong) };
        params.any = true;
        if keyword.eq_ignore_ascii_case(b"SIZE") {
            // RFC 1870 §4: 1*20DIGIT. A figure beyond 64 bits is larger than any limit.
            if size_given || !matches!(value.len(), 1..=20) || !value.iter().all(u8::is_ascii_digit) {
                return Err(wrong);
            }
            size_given = true;
            params.size = value.iter().fold(0u64, |sum, b| sum.saturating_mul(10).saturating_add(u64::from(b - b'0')));
        } else if keyword.eq_ignore_ascii_case(b"BODY") {
            if body_given {
                return Err(wrong);
            }
            body_given = true;
            if value.eq_ignore_ascii_case(b"8BITMIME") {
                params.eight_bit = true;
            } else if !value.eq_ignore_ascii_case(b"7BIT") {
                return Err(unknown);
            }
        } else {
            return Err(unknown);
        }
    }
    Ok(params)
}

/// The `SP keyword[=value]` that follow a path (RFC 5321 §4.1.2).
struct Params<'a>(&'a [u8]);

struct BadParameter;

impl<'a> Iterator for Params<'a> {
    type Item = Result<(&'a [u8], &'a [u8]), BadParameter>;

    fn next(&mut self) -> Option<Self::Item> {
        let text = std::mem::take(&mut self.0);
        if text.is_empty() {
            return None;
        }
        let [b' ', text @ ..] = text else { return Some(Err(BadParameter)) };
        let (param, rest) = text.split_at(text.iter().position(|b| *b == b' ').unwrap_or(text.len()));
        self.0 = rest;
        let (keyword, value) = match param.iter().position(|b| *b == b'=') {
            Some(at) => (&param[..at], &param[at + 1..]),
            None => (param, &[][..]),
        };
        let keyword_ok = keyword.first().is_some_and(u8::is_ascii_alphanumeric)
            && keyword.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
        // A value has one character at least, and no `=`.
        let value_ok = param.len() == keyword.len() || !value.is_empty() && !value.contains(&b'=');
        Some(if keyword_ok && value_ok { Ok((keyword, value)) } else { Err(BadParameter) })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mail_of(line: &str) -> Result<(Vec<u8>, MailParams), CommandError> {
        parse(line.as_bytes()).map(|c| match c {
            Command::Mail { from, params } => (from.address.to_vec(), params),
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn verbs_in_any_case_and_with_trailing_space() {
        assert_eq!(parse(b"dAtA"), Ok(Command::Data));
        assert_eq!(parse(b"QUIT \t "), Ok(Command::Quit));
        assert_eq!(parse(b"noop whatever"), Ok(Command::Noop));
        assert_eq!(parse(b"HELP"), Ok(Command::Help));
        assert_eq!(parse(b"vrfy a"), Ok(Command::Vrfy));
        assert_eq!(parse(b"expn a"), Ok(Command::Expn));
        assert_eq!(parse(b"ehlo a.example"), Ok(Command::Ehlo(b"a.example")));
        assert_eq!(parse(b"HELO a.example "), Ok(Command::Helo(b"a.example")));
        for line in [&b""[..], b" ", b"DAT", b"DATAX", b"DATA\tx", b"XYZZ", b" DATA", b"STARTTLS", b"\x44ATB"] {
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
    fn mail_and_its_parameters() {
        let none = MailParams::default();
        assert_eq!(mail_of("MAIL FROM:<>"), Ok((vec![], none)));
        assert_eq!(mail_of("mail from:<a@b>"), Ok((b"a@b".to_vec(), none)));
        let both = MailParams { size: 12345, eight_bit: true, any: true };
        assert_eq!(mail_of("MAIL FROM:<a@b> SIZE=12345 BODY=8bitmime"), Ok((b"a@b".to_vec(), both)));
        assert_eq!(mail_of("MAIL FROM:<a@b> size=99999999999999999999").unwrap().1.size, u64::MAX);
        assert!(!mail_of("MAIL FROM:<a@b> BODY=7BIT").unwrap().1.eight_bit);
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
            ("MAIL FROM:<a@b> SIZE", CommandError::Arguments(Verb::Mail)),
            ("MAIL FROM:<a@b> SIZE=", CommandError::Arguments(Verb::Mail)),
            ("MAIL FROM:<a@b> SIZE=-1", CommandError::Arguments(Verb::Mail)),
            ("MAIL FROM:<a@b> SIZE=1=1", CommandError::Arguments(Verb::Mail)),
            ("MAIL FROM:<a@b> SIZE=999999999999999999999", CommandError::Arguments(Verb::Mail)),
            ("MAIL FROM:<a@b> SIZE=1 SIZE=1", CommandError::Arguments(Verb::Mail)),
            ("MAIL FROM:<a@b> BODY=7BIT BODY=7BIT", CommandError::Arguments(Verb::Mail)),
            ("MAIL FROM:<a@b> BODY=BINARYMIME", CommandError::UnknownParameter(Verb::Mail)),
            ("MAIL FROM:<a@b> FOO=bar", CommandError::UnknownParameter(Verb::Mail)),
            ("MAIL FROM:<a@b> SMTPUTF8", CommandError::UnknownParameter(Verb::Mail)),
            ("MAIL FROM:<a@b> -X=1", CommandError::Arguments(Verb::Mail)),
        ] {
            assert_eq!(mail_of(line), Err(error), "{line}");
        }
    }

    #[test]
    fn rcpt_takes_no_parameters() {
        let Ok(Command::Rcpt { to }) = parse(b"rcpt to:<@r.example:u@d.example>") else { panic!("accepted") };
        assert_eq!((to.address, to.domain()), (&b"u@d.example"[..], &b"d.example"[..]));
        assert_eq!(parse(b"RCPT TO:<>"), Err(CommandError::Path(Verb::Rcpt, PathError::Syntax)));
        assert_eq!(parse(b"RCPT TO:<root>"), Err(CommandError::Path(Verb::Rcpt, PathError::NoDomain)));
        assert_eq!(parse(b"RCPT TO:<a@b> NOTIFY=NEVER"), Err(CommandError::UnknownParameter(Verb::Rcpt)));
        assert_eq!(parse(b"RCPT TO:<a@b>x"), Err(CommandError::Arguments(Verb::Rcpt)));
    }
}
