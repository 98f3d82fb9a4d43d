//! PURE. Reply rules: what a receiver's reply means for more than the recipient it is about.
//!
//! In: a code, an enhanced code and a text of a peer. Out: whether a rule's patterns match them. Core: any; immutable. It
//! refuses to act: the scheduler does.

use super::{Limits, Place, Rate};
use crate::config::{Size, Span};
use crate::limits::{REPLY_REGEX_BYTES, REPLY_REGEX_CACHE_BYTES};
use regex::{Regex, RegexBuilder};
use std::fmt;
use std::time::Duration;

/// A rule for replies: what they look like, and what is done.
#[derive(Clone, Debug)]
pub struct ReplyRule {
    /// What is done.
    pub action: Action,
    /// Its name, for logs and for files that replace it.
    pub name: Box<str>,
    /// Where what it says is public: an address of the provider's own page or of a document, or words.
    pub source: Option<Box<str>>,
    /// Where it stands; [`super::Shaping::place`] says it in words.
    pub at: Place,
    pub(super) pattern: Pattern,
}

/// What is done when a rule's patterns match a reply.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Action {
    /// The recipient is tried again later, also where the code is 5yz: after this time, or as its schedule says.
    Retry {
        /// From now to the next attempt.
        after: Option<Duration>,
    },
    /// Nothing is sent for a time; what waits goes on waiting. The recipient is tried again.
    Suspend {
        /// What rests.
        what: Rests,
        /// So long.
        for_: Duration,
    },
    /// The site's limits are lower for a time. The recipient is tried again if the code is 4yz.
    Lower {
        /// By what.
        by: Lowering,
        /// So long.
        for_: Duration,
    },
    /// The recipient has failed for good, also where the code is 4yz.
    Bounce,
    /// The recipient is tried again from another source address; this one sends nothing to the site for a time.
    OtherSource {
        /// So long.
        rest: Duration,
    },
}

/// What a [`Action::Suspend`] makes rest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rests {
    /// All mail to the site.
    Site,
    /// Mail to the site from this source address.
    Source,
    /// This tenant's mail to the site.
    Tenant,
}

/// A limit of [`Limits`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the fields of Limits say it")]
pub enum Limit {
    Connections,
    ConnectionRate,
    MessageRate,
    Recipients,
    MessagesPerConnection,
    BytesInFlight,
}

impl Limit {
    /// All of them.
    pub const ALL: [Limit; 6] = [
        Limit::Connections,
        Limit::ConnectionRate,
        Limit::MessageRate,
        Limit::Recipients,
        Limit::MessagesPerConnection,
        Limit::BytesInFlight,
    ];

    /// Its key in a rule file.
    pub fn key(self) -> &'static str {
        match self {
            Limit::Connections => "connections",
            Limit::ConnectionRate => "connection_rate",
            Limit::MessageRate => "message_rate",
            Limit::Recipients => "recipients",
            Limit::MessagesPerConnection => "messages_per_connection",
            Limit::BytesInFlight => "bytes_in_flight",
        }
    }
}

/// How [`Action::Lower`] changes limits.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Lowering {
    /// This limit times a factor, above 0 and below 1.
    Times(Limit, f64),
    /// These limits hold too.
    To(Limits),
}

impl Lowering {
    /// What it does with octets in flight, if anything: they are counted apart from a site's connections and rates.
    pub fn of_octets(self) -> Option<Lowering> {
        match self {
            Lowering::Times(limit, _) => (limit == Limit::BytesInFlight).then_some(self),
            Lowering::To(Limits { bytes_in_flight, .. }) => {
                bytes_in_flight.is_some().then_some(Lowering::To(Limits { bytes_in_flight, ..Limits::default() }))
            }
        }
    }

    /// `limits`, lowered: never to nothing. [`Times`](Self::Times) leaves a limit as it is that there is none of.
    #[must_use]
    pub fn of(self, limits: Limits) -> Limits {
        let (limit, factor) = match self {
            Lowering::To(others) => return limits.and(others),
            Lowering::Times(limit, factor) => (limit, factor),
        };
        // What was at least 1 stays so, and a product below it is no more than it.
        let times = |n: u32| ((f64::from(n) * factor) as u32).max(1);
        let slower = |rate: Rate| {
            let (count, period) = (f64::from(rate.count()) * factor, rate.period());
            // As a longer period where a count would lose much to rounding.
            let slower = match count {
                100.0.. => Rate::new(count as u32, period, times(rate.burst())),
                _ => Rate::new(rate.count(), period.div_f64(factor).min(Rate::PERIOD_MAX), times(rate.burst())),
            };
            slower.unwrap_or(rate)
        };
        let mut lower = limits;
        match limit {
            Limit::Connections => lower.connections = limits.connections.map(times),
            Limit::ConnectionRate => lower.connection_rate = limits.connection_rate.map(slower),
            Limit::MessageRate => lower.message_rate = limits.message_rate.map(slower),
            Limit::Recipients => lower.recipients = limits.recipients.map(times),
            Limit::MessagesPerConnection => lower.messages_per_connection = limits.messages_per_connection.map(times),
            Limit::BytesInFlight => {
                lower.bytes_in_flight = limits.bytes_in_flight.map(|bytes| ((bytes as f64 * factor) as u64).max(1));
            }
        }
        lower
    }
}

/// What a rule wants of a reply; each part that is there must match.
#[derive(Clone, Debug, Default)]
pub(super) struct Pattern {
    pub code: CodePattern,
    pub enhanced: Option<EnhancedPattern>,
    pub text: Option<Regex>,
}

impl Pattern {
    pub fn matches(&self, code: u16, enhanced: Option<(u8, u16, u16)>, text: &str) -> bool {
        (400..600).contains(&code)
            && self.code.matches(code)
            && self.enhanced.is_none_or(|wanted| enhanced.is_some_and(|given| wanted.matches(given)))
            && self.text.as_ref().is_none_or(|text_pattern| text_pattern.is_match(text))
    }
}

/// Three digits, each of which may be any.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct CodePattern([Option<u8>; 3]);

impl CodePattern {
    pub fn parse(text: &str) -> Result<CodePattern, String> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(Some(byte - b'0')),
            b'x' => Some(None),
            _ => None,
        };
        let digits = match *text.as_bytes() {
            [a @ b'4'..=b'5', b, c] => digit(a).zip(digit(b)).zip(digit(c)).map(|((a, b), c)| [a, b, c]),
            _ => None,
        };
        let refuse =
            || format!("\"{text}\" is not a reply code; write \"421\", or \"45x\" and \"5xx\" for all that begin so");
        digits.map(CodePattern).ok_or_else(refuse)
    }

    fn matches(self, code: u16) -> bool {
        let digits = [code / 100, code / 10 % 10, code % 10];
        self.0.iter().zip(digits).all(|(wanted, digit)| wanted.is_none_or(|wanted| u16::from(wanted) == digit))
    }
}

/// `4.7.28`, `4.7.*`, `4.*.*` (RFC 3463).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct EnhancedPattern {
    class: u8,
    subject: Option<u16>,
    detail: Option<u16>,
}

impl EnhancedPattern {
    pub fn parse(text: &str) -> Result<EnhancedPattern, String> {
        let part = |part: &str| match part {
            "*" => Some(None),
            _ => {
                let plain = part.len() <= 3 && part.bytes().all(|b| b.is_ascii_digit());
                part.parse().ok().filter(|_| plain).map(Some)
            }
        };
        let parts: Vec<&str> = text.split('.').collect();
        let pattern = match parts[..] {
            [class @ ("4" | "5"), subject, detail] => part(subject)
                .zip(part(detail))
                .map(|(subject, detail)| EnhancedPattern { class: class.as_bytes()[0] - b'0', subject, detail }),
            _ => None,
        };
        pattern.ok_or_else(|| {
            format!("\"{text}\" is not an enhanced code; write \"4.7.28\", or \"4.7.*\" for all that begin so")
        })
    }

    fn matches(self, (class, subject, detail): (u8, u16, u16)) -> bool {
        self.class == class
            && self.subject.is_none_or(|wanted| wanted == subject)
            && self.detail.is_none_or(|wanted| wanted == detail)
    }
}

/// The pattern of a reply's text: anywhere in it, any case, over line ends too; small in memory, and linear in time.
pub(super) fn text_pattern(text: &str) -> Result<Regex, String> {
    let built = RegexBuilder::new(text)
        .case_insensitive(true)
        .dot_matches_new_line(true)
        .size_limit(REPLY_REGEX_BYTES)
        .dfa_size_limit(REPLY_REGEX_CACHE_BYTES)
        .build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => {
            format!(
                "takes more than {} as a regular expression: use fewer and smaller repetitions",
                Size(REPLY_REGEX_BYTES as u64)
            )
        }
        // Its last line says what is wrong, those above show where.
        error => {
            let words = error.to_string();
            let why = words.lines().last().unwrap_or_default().trim_start_matches("error: ");
            format!(
                "is no regular expression: {why}; put a backslash before what is meant as it stands, such as ( or ["
            )
        }
    })
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = &self.enhanced {
            write!(f, " {enhanced}")?;
        }
        match &self.text {
            Some(text) => write!(f, " \"{text}\""),
            None => Ok(()),
        }
    }
}

impl fmt::Display for CodePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == CodePattern::default() {
            return f.write_str("4xx or 5xx");
        }
        self.0.iter().try_for_each(|digit| match digit {
            Some(digit) => write!(f, "{digit}"),
            None => f.write_str("x"),
        })
    }
}

impl fmt::Display for EnhancedPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |part: Option<u16>| part.map_or("*".to_owned(), |number| number.to_string());
        write!(f, "{}.{}.{}", self.class, part(self.subject), part(self.detail))
    }
}

impl fmt::Display for ReplyRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.name, self.pattern, self.action)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Action::Retry { after: None } => f.write_str("try again as scheduled"),
            Action::Retry { after: Some(after) } => write!(f, "try again after {}", Span(*after)),
            Action::Suspend { what, for_ } => write!(f, "suspend {what} for {}", Span(*for_)),
            Action::Lower { by, for_ } => write!(f, "{by} for {}", Span(*for_)),
            Action::Bounce => f.write_str("bounce"),
            Action::OtherSource { rest } => write!(f, "use another source address, this one rests for {}", Span(*rest)),
        }
    }
}

impl fmt::Display for Lowering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Lowering::Times(limit, factor) => write!(f, "lower {} to {factor} of it", limit.key()),
            Lowering::To(limits) => write!(f, "lower to {limits}"),
        }
    }
}

impl fmt::Display for Rests {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rests::Site => "the site",
            Rests::Source => "the source address at the site",
            Rests::Tenant => "the tenant at the site",
        })
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (Limit::Connections, self.connections.map(|n| n.to_string())),
            (Limit::ConnectionRate, self.connection_rate.map(|rate| rate.to_string())),
            (Limit::MessageRate, self.message_rate.map(|rate| rate.to_string())),
            (Limit::Recipients, self.recipients.map(|n| n.to_string())),
            (Limit::MessagesPerConnection, self.messages_per_connection.map(|n| n.to_string())),
            (Limit::BytesInFlight, self.bytes_in_flight.map(|bytes| Size(bytes).to_string())),
        ];
        let given = all.into_iter().filter_map(|(limit, value)| Some(format!("{} {}", limit.key(), value?)));
        let given: Vec<_> = given.collect();
        f.write_str(if given.is_empty() { "no limits" } else { "" })?;
        f.write_str(&given.join(", "))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn codes_match_by_their_digits() {
        let matches = |pattern: &str, code| CodePattern::parse(pattern).unwrap().matches(code);
        assert!(matches("421", 421) && !matches("421", 422) && matches("45x", 459) && !matches("45x", 441));
        assert!(matches("5xx", 554) && !matches("5xx", 454) && matches("4x1", 451));
        for bad in ["", "42", "4211", "x21", "250", "4XX", "4*1"] {
            assert!(CodePattern::parse(bad).unwrap_err().contains("is not a reply code"), "{bad}");
        }
        assert!(!Pattern::default().matches(250, None, "") && Pattern::default().matches(450, None, ""));
    }

    #[test]
    fn enhanced_codes_match_by_their_parts() {
        let matches = |pattern: &str, code| EnhancedPattern::parse(pattern).unwrap().matches(code);
        assert!(matches("4.7.28", (4, 7, 28)) && !matches("4.7.28", (4, 7, 2)) && !matches("4.7.28", (5, 7, 28)));
        assert!(matches("4.7.*", (4, 7, 650)) && !matches("4.7.*", (4, 2, 1)) && matches("5.*.*", (5, 0, 0)));
        for bad in ["", "4", "4.7", "4.7.1.1", "2.0.0", "*.7.1", "4.7.1000", "4.+7.1", "4..1"] {
            assert!(EnhancedPattern::parse(bad).unwrap_err().contains("is not an enhanced code"), "{bad}");
        }
        let wants = Pattern { enhanced: Some(EnhancedPattern::parse("4.7.*").unwrap()), ..Pattern::default() };
        assert!(!wants.matches(421, None, "4.7.1 try later"), "what the reply has not is not matched");
    }

    #[test]
    fn texts_match_anywhere_in_any_case_and_over_lines() {
        let pattern = text_pattern("try again.*later").unwrap();
        assert!(pattern.is_match("4.7.0 TRY AGAIN\n4.7.0 Later") && !pattern.is_match("try again"));
        assert!(text_pattern("a(b").unwrap_err().contains("no regular expression: unclosed group"));
        assert!(text_pattern("((a{100}){100}){100}").unwrap_err().contains("fewer and smaller"));
    }

    #[test]
    fn what_is_lowered_stays_above_nothing() {
        let limits = Limits {
            connections: Some(20),
            message_rate: Some("10/s burst 4".parse().unwrap()),
            connection_rate: Some("10000/s".parse().unwrap()),
            bytes_in_flight: Some(1000),
            ..Limits::default()
        };
        let times = |limit, factor| Lowering::Times(limit, factor).of(limits);
        assert_eq!(times(Limit::Connections, 0.5), Limits { connections: Some(10), ..limits });
        assert_eq!(times(Limit::Connections, 0.01).connections, Some(1));
        assert_eq!(times(Limit::MessageRate, 0.5).message_rate.unwrap().interval(), Duration::from_millis(200));
        assert_eq!(times(Limit::MessageRate, 0.5).message_rate.unwrap().burst(), 2);
        assert_eq!(times(Limit::ConnectionRate, 0.25).connection_rate.unwrap().to_string(), "2500/s");
        assert_eq!(times(Limit::BytesInFlight, 0.1).bytes_in_flight, Some(100));
        assert_eq!(times(Limit::Recipients, 0.1), limits);
        let slowest = Limits { message_rate: Some("1/30d".parse().unwrap()), ..Limits::default() };
        assert_eq!(Lowering::Times(Limit::MessageRate, 0.5).of(slowest), slowest);
        let to = Limits { connections: Some(30), recipients: Some(5), ..Limits::default() };
        assert_eq!(Lowering::To(to).of(limits), Limits { recipients: Some(5), ..limits });
    }
}
