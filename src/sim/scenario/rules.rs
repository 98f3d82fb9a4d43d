//! Reply rules of a world: what the relay is to make of what its receivers say.

use super::{Scenario, secs};
use crate::rt::sim::Rng;
use std::time::Duration;

/// See [`Does::FewOctets`].
pub const FEW_OCTETS: u64 = 2 << 10;

/// A rule for replies with some words in them.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    /// The words.
    pub says: &'static str,
    /// What is done.
    pub does: Does,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Does {
    /// The recipient is tried again after this, and not before.
    After(Duration),
    /// The site rests.
    Rest(Duration),
    /// Its source address does, which is the site where there is one.
    RestOfSource(Duration),
    /// The tenant rests at the site.
    RestOfTenant(Duration),
    /// One connection at most.
    OneConnection(Duration),
    /// Half of the connections.
    HalfConnections(Duration),
    /// A message a second.
    OneMessage(Duration),
    /// [`FEW_OCTETS`] in flight, or one message.
    FewOctets(Duration),
    /// The recipient has failed.
    Bounce,
}

impl Rule {
    fn draw(says: &'static str, rng: &mut Rng) -> Rule {
        let time = secs(rng.within(5..120));
        let does = match rng.below(12) {
            0..3 => Does::After(secs(rng.within(20..300))),
            3..5 => Does::Rest(time),
            5 => Does::RestOfSource(time),
            6..8 => Does::RestOfTenant(time),
            8 => Does::OneConnection(time),
            9 if time.as_secs() % 2 == 1 => Does::FewOctets(time),
            9 => Does::HalfConnections(time),
            10 => Does::OneMessage(time),
            _ => Does::Bounce,
        };
        Rule { says, does }
    }

    /// As it stands in a rule file.
    pub fn toml(&self) -> String {
        let name = self.says.replace(' ', "-");
        let (action, time) = match self.does {
            Does::After(time) => ("retry\"\nafter = ", Some(time)),
            Does::Rest(time) => ("suspend\"\nwhat = \"site\"\nfor = ", Some(time)),
            Does::RestOfSource(time) => ("other_source\"\nrest = ", Some(time)),
            Does::RestOfTenant(time) => ("suspend\"\nwhat = \"tenant\"\nfor = ", Some(time)),
            Does::OneConnection(time) => ("lower\"\nto = { connections = 1 }\nfor = ", Some(time)),
            Does::HalfConnections(time) => ("lower\"\nlimit = \"connections\"\nfactor = 0.5\nfor = ", Some(time)),
            Does::OneMessage(time) => ("lower\"\nto = { message_rate = \"1/s\" }\nfor = ", Some(time)),
            Does::FewOctets(time) => ("lower\"\nto = { bytes_in_flight = \"2KiB\" }\nfor = ", Some(time)),
            Does::Bounce => ("bounce\"", None),
        };
        let time = time.map_or(String::new(), |time| format!("\"{}s\"", time.as_secs()));
        format!("[[reply]]\nname = \"{name}\"\ntext = \"{}\"\naction = \"{action}{time}\n", self.says)
    }
}

impl Scenario {
    /// Rules for what next hops say.
    pub(super) fn add_rules(&mut self, rng: &mut Rng) {
        if self.smart_host || !rng.one_in(3) {
            return;
        }
        if self.provider && rng.one_in(2) {
            self.first_of_provider = Some(secs(rng.within(60..200)));
        }
        for says in ["not now", "full", "never", "going down", "go away", "no such user", "greylisted"] {
            if rng.one_in(2) {
                self.rules.push(Rule::draw(says, rng));
            }
        }
    }

    /// The least and, at first, the longest interval between two attempts for a domain.
    pub fn intervals(&self, domain: &str) -> (Duration, Duration) {
        let (first, max, _) = self.retry;
        let is_first_two = |n: usize| n < 2 || self.destinations[n].twin_of.is_some_and(|of| of < 2);
        let at = self.destinations.iter().position(|d| d.name == domain).filter(|n| is_first_two(*n));
        match self.first_of_provider.filter(|_| at.is_some() && self.way(domain).is_none()) {
            Some(first) => (first, max.max(first.mul_f64(1.2))),
            None => (first, max),
        }
    }

    /// The rule for a reply.
    pub fn rule_for(&self, text: &str) -> Option<&Rule> {
        self.rules.iter().find(|rule| text.contains(rule.says))
    }
}
