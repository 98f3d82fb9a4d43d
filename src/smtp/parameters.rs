//! PURE. The parameters of MAIL and RCPT (RFC 5321 §4.1.2, ESMTP-param), read as slices of the command line.
//!
//! In: what follows a path. Out: the values, and which extensions they belong to, so that the server machine can refuse
//! those it has not announced. Runs on the shard that owns the session; allocates nothing. It refuses unknown keywords,
//! values out of their range, and a parameter given twice.

use super::command::{CommandError, Verb};
use super::policy::Extensions;
use crate::limits::{ENVID_BYTES, ORCPT_BYTES};
use crate::message::params::{BodyType, Notify, Ret};
use crate::time::Wall;

/// The parameters of MAIL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MailParams<'a> {
    /// `SIZE=` (RFC 1870), octets; 0 if not given.
    pub size: u64,
    /// `BODY=` (RFC 6152, RFC 3030).
    pub body: BodyType,
    /// `SMTPUTF8` (RFC 6531).
    pub smtputf8: bool,
    /// `REQUIRETLS` (RFC 8689).
    pub require_tls: bool,
    /// `RET=` (RFC 3461).
    pub ret: Option<Ret>,
    /// `ENVID=` (RFC 3461), in xtext; empty if not given.
    pub envid: &'a [u8],
    /// `HOLDFOR=` or `HOLDUNTIL=` (RFC 4865).
    pub hold: Option<Hold>,
    /// `BY=` (RFC 2852).
    pub by: Option<By>,
    /// `MT-PRIORITY=` (RFC 6710), −9 to 9.
    pub priority: Option<i8>,
    /// `AUTH=` (RFC 4954 §5), in xtext or `<>`; empty if not given.
    pub auth: &'a [u8],
    /// The extensions that the parameters belong to.
    pub used: Extensions,
}

/// How long a message is to be held (RFC 4865 §3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Seconds from now, 1 to 999,999,999.
    For(u32),
    /// Until this time.
    Until(Wall),
}

/// `BY=seconds;mode[trace]` (RFC 2852 §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct By {
    /// Seconds from now: −999,999,999 to 999,999,999; not below 1 with `R`.
    pub seconds: i32,
    /// `R`; otherwise `N`.
    pub return_late: bool,
    /// `T`
    pub trace: bool,
}

/// The parameters of RCPT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct RcptParams<'a> {
    /// `NOTIFY=` (RFC 3461).
    pub notify: Notify,
    /// `ORCPT=` (RFC 3461), `address-type;xtext`; empty if not given.
    pub orcpt: &'a [u8],
    /// The extensions that the parameters belong to.
    pub used: Extensions,
}

/// Reads the parameters behind the path of MAIL.
pub fn mail(rest: &[u8]) -> Result<MailParams<'_>, CommandError> {
    let wrong = CommandError::Arguments(Verb::Mail);
    let unknown = CommandError::UnknownParameter(Verb::Mail);
    let mut params = MailParams::default();
    let mut seen = 0u16;
    for param in Params(rest) {
        let Ok((keyword, value)) = param else { return Err(wrong) };
        let is = |name: &[u8]| keyword.eq_ignore_ascii_case(name);
        let (bit, extension) = if is(b"SIZE") {
            // RFC 1870 §4: 1*20DIGIT. A figure beyond 64 bits is larger than any limit.
            params.size = digits(value, 20).ok_or(wrong)?;
            (0, Extensions::SIZE)
        } else if is(b"BODY") {
            params.body = if value.eq_ignore_ascii_case(b"8BITMIME") {
                BodyType::EightBit
            } else if value.eq_ignore_ascii_case(b"7BIT") {
                BodyType::SevenBit
            } else if value.eq_ignore_ascii_case(b"BINARYMIME") {
                BodyType::Binary
            } else {
                return Err(unknown);
            };
            let binary = params.body == BodyType::Binary;
            (1, if binary { Extensions::CHUNKING } else { Extensions::EIGHT_BIT_MIME })
        } else if is(b"SMTPUTF8") && value.is_empty() {
            params.smtputf8 = true;
            (2, Extensions::SMTPUTF8)
        } else if is(b"REQUIRETLS") && value.is_empty() {
            params.require_tls = true;
            (3, Extensions::REQUIRETLS)
        } else if is(b"RET") {
            params.ret = Some(if value.eq_ignore_ascii_case(b"FULL") {
                Ret::Full
            } else if value.eq_ignore_ascii_case(b"HDRS") {
                Ret::Headers
            } else {
                return Err(wrong);
            });
            (4, Extensions::DSN)
        } else if is(b"ENVID") {
            if value.len() > ENVID_BYTES || !is_xtext(value) {
                return Err(wrong);
            }
            params.envid = value;
            (5, Extensions::DSN)
        } else if is(b"HOLDFOR") {
            let seconds = digits(value, 9).filter(|n| *n > 0).ok_or(wrong)?;
            params.hold = Some(Hold::For(u32::try_from(seconds).expect("nine digits")));
            (6, Extensions::FUTURERELEASE)
        } else if is(b"HOLDUNTIL") {
            params.hold = Some(Hold::Until(date_time(value).ok_or(wrong)?));
            (6, Extensions::FUTURERELEASE)
        } else if is(b"BY") {
            params.by = Some(by(value).ok_or(wrong)?);
            (7, Extensions::DELIVERBY)
        } else if is(b"MT-PRIORITY") {
            params.priority = Some(priority(value).ok_or(wrong)?);
            (8, Extensions::MT_PRIORITY)
        } else if is(b"AUTH") {
            if value.is_empty() || value != b"<>" && !is_xtext(value) {
                return Err(wrong);
            }
            params.auth = value;
            (9, Extensions::AUTH)
        } else {
            return Err(unknown);
        };
        if seen & 1 << bit != 0 {
            return Err(wrong);
        }
        seen |= 1 << bit;
        params.used = params.used.with(extension);
    }
    Ok(params)
}

/// Reads the parameters behind the path of RCPT. With `smtputf8`, ORCPT may be of the type utf-8 (RFC 6533 §3) unencoded.
pub fn rcpt(rest: &[u8]) -> Result<RcptParams<'_>, CommandError> {
    let wrong = CommandError::Arguments(Verb::Rcpt);
    let mut params = RcptParams::default();
    let (mut notify_given, mut orcpt_given) = (false, false);
    for param in Params(rest) {
        let Ok((keyword, value)) = param else { return Err(wrong) };
        if keyword.eq_ignore_ascii_case(b"NOTIFY") && !notify_given {
            notify_given = true;
            params.notify = notify(value).ok_or(wrong)?;
        } else if keyword.eq_ignore_ascii_case(b"ORCPT") && !orcpt_given {
            orcpt_given = true;
            let at = value.iter().position(|b| *b == b';').ok_or(wrong)?;
            let (kind, address) = (&value[..at], &value[at + 1..]);
            let kind_ok = !kind.is_empty() && kind.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-');
            let utf8 = kind.eq_ignore_ascii_case(b"utf-8") && std::str::from_utf8(address).is_ok();
            if !kind_ok || address.is_empty() || value.len() > ORCPT_BYTES || !(utf8 || is_xtext(address)) {
                return Err(wrong);
            }
            params.orcpt = value;
        } else if keyword.eq_ignore_ascii_case(b"NOTIFY") || keyword.eq_ignore_ascii_case(b"ORCPT") {
            return Err(wrong);
        } else {
            return Err(CommandError::UnknownParameter(Verb::Rcpt));
        }
        params.used = params.used.with(Extensions::DSN);
    }
    Ok(params)
}

/// Whether `text` is xtext (RFC 3461 §4): printable US-ASCII but `+` and `=`, and `+` with two upper-case hex digits.
pub fn is_xtext(text: &[u8]) -> bool {
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        rest = match (first, behind) {
            (b'+', [a, b, behind @ ..]) if is_upper_hex(*a) && is_upper_hex(*b) => behind,
            (b'!'..=b'*' | b','..=b'<' | b'>'..=b'~', _) => behind,
            _ => return false,
        };
    }
    true
}

/// Appends what the xtext `text` stands for; what is no xtext stands for itself.
pub fn decode_xtext(text: &[u8], out: &mut Vec<u8>) {
    let hex = |b: u8| if b.is_ascii_digit() { b - b'0' } else { b - b'A' + 10 };
    let mut rest = text;
    while let Some((first, behind)) = rest.split_first() {
        if let (b'+', [a, b, behind @ ..]) = (first, behind)
            && is_upper_hex(*a)
            && is_upper_hex(*b)
        {
            out.push(hex(*a) << 4 | hex(*b));
            rest = behind;
        } else {
            out.push(*first);
            rest = behind;
        }
    }
}

fn is_upper_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'A'..=b'F')
}

/// One to `most` digits.
fn digits(text: &[u8], most: usize) -> Option<u64> {
    (!text.is_empty() && text.len() <= most && text.iter().all(u8::is_ascii_digit))
        .then(|| text.iter().fold(0u64, |sum, b| sum.saturating_mul(10).saturating_add(u64::from(b - b'0'))))
}

/// RFC 2852 §4: `[-|+]1*9DIGIT ; R|N [T]`.
fn by(text: &[u8]) -> Option<By> {
    let at = text.iter().position(|b| *b == b';')?;
    let (negative, figure) = match &text[..at] {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let seconds = i32::try_from(digits(figure, 9)?).ok()?;
    let seconds = if negative { -seconds } else { seconds };
    let (mode, trace) = match &text[at + 1..] {
        [mode] => (*mode, false),
        [mode, b't' | b'T'] => (*mode, true),
        _ => return None,
    };
    let return_late = match mode.to_ascii_uppercase() {
        b'R' => true,
        b'N' => false,
        _ => return None,
    };
    // With R, a time that has passed cannot be met: zero and less are a syntax error (501 5.5.4).
    (!return_late || seconds > 0).then_some(By { seconds, return_late, trace })
}

/// RFC 6710 §7: −9 to 9, `-0` is none.
fn priority(text: &[u8]) -> Option<i8> {
    match text {
        [b'0'] => Some(0),
        [figure @ b'1'..=b'9'] => Some((figure - b'0').cast_signed()),
        [b'-', figure @ b'1'..=b'9'] => Some(-(figure - b'0').cast_signed()),
        _ => None,
    }
}

/// RFC 3461 §4.1: `NEVER`, or a list of `SUCCESS`, `FAILURE`, `DELAY`.
fn notify(text: &[u8]) -> Option<Notify> {
    let mut notify = Notify::default();
    if text.eq_ignore_ascii_case(b"NEVER") {
        notify.never = true;
        return Some(notify);
    }
    for word in text.split(|b| *b == b',') {
        let flag = if word.eq_ignore_ascii_case(b"SUCCESS") {
            &mut notify.success
        } else if word.eq_ignore_ascii_case(b"FAILURE") {
            &mut notify.failure
        } else if word.eq_ignore_ascii_case(b"DELAY") {
            &mut notify.delay
        } else {
            return None;
        };
        *flag = true;
    }
    Some(notify)
}

/// RFC 4865 §3: a date-time of RFC 3339, with seconds and a zone. It asks for UTC; any zone says as much.
fn date_time(text: &[u8]) -> Option<Wall> {
    let text = std::str::from_utf8(text).ok()?;
    // jiff takes more than RFC 3339 does.
    let shape_ok = text.is_ascii() && matches!(text.as_bytes(), [_, _, _, _, b'-', _, _, b'-', _, _, b'T' | b't', ..]);
    let time: jiff::Timestamp = shape_ok.then(|| text.parse().ok()).flatten()?;
    u64::try_from(time.as_millisecond()).ok().map(Wall)
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

    #[test]
    fn every_parameter_of_mail() {
        let line = b" SIZE=12345 BODY=8bitmime SMTPUTF8 REQUIRETLS RET=hdrs ENVID=QQ+2B314 HOLDFOR=86400 BY=120;rT MT-PRIORITY=-9 AUTH=<>";
        let expected = MailParams {
            size: 12_345,
            body: BodyType::EightBit,
            smtputf8: true,
            require_tls: true,
            ret: Some(Ret::Headers),
            envid: b"QQ+2B314",
            hold: Some(Hold::For(86_400)),
            by: Some(By { seconds: 120, return_late: true, trace: true }),
            priority: Some(-9),
            auth: b"<>",
            used: [
                Extensions::SIZE,
                Extensions::EIGHT_BIT_MIME,
                Extensions::SMTPUTF8,
                Extensions::REQUIRETLS,
                Extensions::DSN,
                Extensions::FUTURERELEASE,
                Extensions::DELIVERBY,
                Extensions::MT_PRIORITY,
                Extensions::AUTH,
            ]
            .into_iter()
            .fold(Extensions::default(), Extensions::with),
        };
        assert_eq!(mail(line), Ok(expected));
        assert_eq!(mail(b""), Ok(MailParams::default()));
        assert_eq!(mail(b" BODY=BINARYMIME").unwrap().used, Extensions::CHUNKING);
        assert_eq!(mail(b" SIZE=99999999999999999999").unwrap().size, u64::MAX);
        assert_eq!(mail(b" BY=-999999999;N").unwrap().by.unwrap().seconds, -999_999_999);
        let until = mail(b" HOLDUNTIL=2026-11-22T10:00:00+01:00").unwrap().hold;
        assert_eq!(until, Some(Hold::Until(Wall(1_795_338_000_000))));
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for wrong in [
            " SIZE=",
            " SIZE=x",
            " SIZE=123456789012345678901",
            " SIZE=1 SIZE=1",
            " BODY=7BIT BODY=7BIT",
            " RET=BOTH",
            " RET",
            " ENVID=a+b",
            " ENVID=+2b",
            " HOLDFOR=0",
            " HOLDFOR=1234567890",
            " HOLDFOR=1 HOLDUNTIL=2026-11-22T10:00:00Z",
            " HOLDUNTIL=2026-11-22",
            " HOLDUNTIL=2026-11-22T10:00:00",
            " BY=0;R",
            " BY=-1;R",
            " BY=1",
            " BY=1;X",
            " BY=1;RX",
            " BY=1234567890;N",
            " MT-PRIORITY=10",
            " MT-PRIORITY=-0",
            " MT-PRIORITY=+1",
            " AUTH=",
            "  SIZE=1",
            " =1",
            "SIZE=1",
        ] {
            assert_eq!(mail(wrong.as_bytes()), Err(CommandError::Arguments(Verb::Mail)), "{wrong}");
        }
        for unknown in [" X=1", " BODY=9BIT", " SMTPUTF8=1", " REQUIRETLS=yes", " NOTIFY=NEVER", " BODY"] {
            assert_eq!(mail(unknown.as_bytes()), Err(CommandError::UnknownParameter(Verb::Mail)), "{unknown}");
        }
    }

    #[test]
    fn every_parameter_of_rcpt() {
        let all = rcpt(b" NOTIFY=success,FAILURE,Delay ORCPT=rfc822;a+2Bb@c.example").unwrap();
        let notify = Notify { success: true, failure: true, delay: true, never: false };
        let expected = RcptParams { notify, orcpt: b"rfc822;a+2Bb@c.example", used: Extensions::DSN };
        assert_eq!(all, expected);
        assert!(rcpt(b" NOTIFY=NEVER").unwrap().notify.never);
        assert!(rcpt("\x20ORCPT=utf-8;\u{e4}@b".as_bytes()).is_ok());
        assert_eq!(rcpt(b"").unwrap(), RcptParams::default());
        let long = format!(" ORCPT=rfc822;{}", "a".repeat(ORCPT_BYTES));
        for wrong in [
            " NOTIFY=",
            " NOTIFY=NEVER,DELAY",
            " NOTIFY=a",
            " NOTIFY=DELAY NOTIFY=DELAY",
            " ORCPT=rfc822",
            " ORCPT=;x",
            " ORCPT=rfc822;",
            " ORCPT=rfc822;a+b",
            " ORCPT=rfc822;\u{e4}@b",
            " ORCPT=rfc822;a ORCPT=rfc822;a",
            &long,
        ] {
            assert_eq!(rcpt(wrong.as_bytes()), Err(CommandError::Arguments(Verb::Rcpt)), "{wrong}");
        }
        assert_eq!(rcpt(b" SIZE=1"), Err(CommandError::UnknownParameter(Verb::Rcpt)));
    }

    #[test]
    fn xtext_is_decoded() {
        let mut out = Vec::new();
        decode_xtext(b"a+2Bb+3D", &mut out);
        assert_eq!(out, b"a+b=");
        assert!(is_xtext(b"") && is_xtext(b"a+2Bb") && !is_xtext(b"a=b") && !is_xtext(b"a b") && !is_xtext(b"+2"));
    }
}
