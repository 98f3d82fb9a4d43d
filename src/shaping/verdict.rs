//! PURE. What a rule makes of a reply: what becomes of the recipient, and what of more than it.
//!
//! In: the [`ReplyRule`] that matched, if any, and whether the reply's code is one for good. Out: the recipient's [`Fate`]; what
//! rests, what is lowered. Core: any. It refuses to know who hears of it: that is `deliver`'s.

use super::{Action, ReplyRule, Rests};
use std::time::Duration;

/// What becomes of a recipient that was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It is tried again: not before this time is over, or else as its schedule says.
    Again(Option<Duration>),
    /// It has failed.
    Failed,
}

impl Fate {
    /// What a reply means that a rule matches, or none; `permanent`: its code is 5yz.
    pub fn of(rule: Option<&ReplyRule>, permanent: bool) -> Fate {
        let by_code = if permanent { Fate::Failed } else { Fate::Again(None) };
        match rule.map(|rule| rule.action) {
            None | Some(Action::Lower { .. }) => by_code,
            Some(Action::Retry { after }) => Fate::Again(after.filter(|_| !planted!(RetryAfterIgnored))),
            Some(Action::Suspend { .. } | Action::OtherSource { .. }) => Fate::Again(None),
            Some(Action::Bounce) => Fate::Failed,
        }
    }
}

impl ReplyRule {
    /// What rests by it, and for how long.
    pub fn rest(&self) -> Option<(Rests, Duration)> {
        match self.action {
            Action::Suspend { what, for_ } => Some((what, for_)),
            Action::OtherSource { rest } => Some((Rests::Source, rest)),
            Action::Retry { .. } | Action::Lower { .. } | Action::Bounce => None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::{Shaping, Site};
    use super::*;

    /// The rule of a file that has one.
    fn rule(action: &str) -> ReplyRule {
        let text = format!("[[reply]]\nname = \"r\"\ncode = \"4xx\"\n{action}\n");
        let rules = Shaping::parse(&[("test.toml", text.as_str())]).unwrap();
        let site = Site { name: "mx.example".into(), provider: None };
        let rule = rules.judge(&site, 450, None, "").unwrap();
        ReplyRule::clone(rule)
    }

    #[test]
    fn without_a_rule_the_code_decides() {
        assert_eq!([Fate::of(None, false), Fate::of(None, true)], [Fate::Again(None), Fate::Failed]);
    }

    #[test]
    fn a_rule_decides_whatever_the_code_says() {
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let fates = |action: &str| [false, true].map(|permanent| Fate::of(Some(&rule(action)), permanent));
        assert_eq!(fates("action = \"retry\"\nafter = \"10m\""), [Fate::Again(Some(minutes(10))); 2]);
        assert_eq!(fates("action = \"retry\""), [Fate::Again(None); 2]);
        assert_eq!(fates("action = \"bounce\""), [Fate::Failed; 2]);
        assert_eq!(fates("action = \"suspend\"\nwhat = \"site\"\nfor = \"1h\""), [Fate::Again(None); 2]);
        assert_eq!(fates("action = \"other_source\"\nrest = \"1h\""), [Fate::Again(None); 2]);
        // A lower limit says nothing of the recipient.
        let lower = "action = \"lower\"\nlimit = \"connections\"\nfactor = 0.5\nfor = \"1h\"";
        assert_eq!(fates(lower), [Fate::Again(None), Fate::Failed]);
    }

    #[test]
    fn what_rests_is_said_by_the_rule() {
        let hour = Duration::from_secs(3600);
        assert_eq!(rule("action = \"suspend\"\nwhat = \"tenant\"\nfor = \"1h\"").rest(), Some((Rests::Tenant, hour)));
        assert_eq!(rule("action = \"other_source\"\nrest = \"1h\"").rest(), Some((Rests::Source, hour)));
        assert_eq!(rule("action = \"bounce\"").rest(), None);
    }
}
