//! What the sink was told to do to its clients: delays, refusals, hang-ups.

use std::time::Duration;

use crate::units::{Delay, odds};

/// Where in a session something happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Phase {
    Connect,
    Ehlo,
    Mail,
    Rcpt,
    Data,
    /// In the middle of the message's data: the final dot was not seen.
    Body,
    /// After the final dot.
    Dot,
}

impl Phase {
    fn parse(text: &str) -> Result<Phase, String> {
        Ok(match text {
            "connect" => Phase::Connect,
            "ehlo" => Phase::Ehlo,
            "mail" => Phase::Mail,
            "rcpt" => Phase::Rcpt,
            "data" => Phase::Data,
            "body" | "before-dot" => Phase::Body,
            "dot" | "after-dot" => Phase::Dot,
            _ => return Err(format!("`{text}` is not one of connect ehlo mail rcpt data before-dot dot")),
        })
    }
}

/// A refusal: `rcpt:4xx:0.1`, `dot:552:1@d0007.test`.
#[derive(Clone, Debug, PartialEq)]
pub struct Fail {
    /// Which command is refused.
    pub phase: Phase,
    /// The reply's code, 400 to 599.
    pub code: u16,
    /// How often, 0 to 1.
    pub odds: f64,
    /// Only for recipients of this domain (lower case).
    pub domain: Option<String>,
}

impl Fail {
    /// `PHASE:CODE:ODDS[@DOMAIN]`; CODE is a number, 4xx or 5xx.
    pub fn parse(text: &str) -> Result<Fail, String> {
        let (rule, domain) = text.split_once('@').map_or((text, None), |(r, d)| (r, Some(d.to_ascii_lowercase())));
        let [phase, code, chance] = rule.split(':').collect::<Vec<_>>()[..] else {
            return Err(format!("`{text}`: write PHASE:CODE:ODDS, like rcpt:4xx:0.1"));
        };
        let phase = Phase::parse(phase)?;
        if phase == Phase::Body {
            return Err(format!("`{text}`: no reply is due before the dot; use --disconnect"));
        }
        if domain.is_some() && !matches!(phase, Phase::Rcpt | Phase::Data | Phase::Dot) {
            return Err(format!("`{text}`: no recipient is known in that phase yet"));
        }
        let code = match (code, phase) {
            ("4xx", Phase::Connect) => 421,
            ("4xx", _) => 451,
            ("5xx", Phase::Rcpt) => 550,
            ("5xx", _) => 554,
            _ => match code.parse() {
                Ok(c) if (400..600).contains(&c) => c,
                _ => return Err(format!("`{text}`: the code is 4xx, 5xx or a number from 400 to 599")),
            },
        };
        Ok(Fail { phase, code, odds: odds(chance)?, domain })
    }
}

/// A hang-up without a word: `before-dot:0.01`.
#[derive(Clone, Debug, PartialEq)]
pub struct Disconnect {
    /// Instead of the reply to which command.
    pub phase: Phase,
    /// How often, 0 to 1.
    pub odds: f64,
}

impl Disconnect {
    /// `PHASE:ODDS`.
    pub fn parse(text: &str) -> Result<Disconnect, String> {
        let (phase, chance) = text.split_once(':').ok_or(format!("`{text}`: write PHASE:ODDS, like after-dot:0.01"))?;
        Ok(Disconnect { phase: Phase::parse(phase)?, odds: odds(chance)? })
    }
}

/// All of it. The default is the good receiver: takes everything at once.
#[derive(Clone, Debug)]
pub struct Behaviour {
    /// Before each reply; what stands behind waits as well.
    pub delay: Option<Delay>,
    /// All replies come so much later, as over a long way: what stands behind does not wait.
    pub latency: Option<Duration>,
    /// The first that applies is given.
    pub fail: Vec<Fail>,
    /// The first that applies is done.
    pub disconnect: Vec<Disconnect>,
    /// Connections above this get 421. Zero: no bound.
    pub max_connections: usize,
    /// 450 for each recipient's first attempt.
    pub greylist: bool,
    /// Whether PIPELINING is announced.
    pub pipelining: bool,
    /// Whether CHUNKING is announced.
    pub chunking: bool,
    /// Seed of all chances.
    pub seed: u64,
}

impl Default for Behaviour {
    fn default() -> Behaviour {
        Behaviour {
            delay: None,
            latency: None,
            fail: Vec::new(),
            disconnect: Vec::new(),
            max_connections: 0,
            greylist: false,
            pipelining: true,
            chunking: false,
            seed: 1,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rules() {
        let f = Fail::parse("rcpt:4xx:0.1@D1.test").unwrap();
        assert_eq!((f.phase, f.code, f.odds, f.domain.as_deref()), (Phase::Rcpt, 451, 0.1, Some("d1.test")));
        assert_eq!(Fail::parse("dot:552:1").unwrap().code, 552);
        assert!(Fail::parse("rcpt:250:1").is_err() && Fail::parse("rcpt:4xx").is_err());
        assert!(Fail::parse("mail:4xx:1@d1.test").is_err() && Fail::parse("body:4xx:1").is_err());
        assert_eq!(Disconnect::parse("after-dot:0.5").unwrap(), Disconnect { phase: Phase::Dot, odds: 0.5 });
    }
}
