//! Whether the relay does what the rules say about replies: who rests is sent nothing, lower limits are kept to, whoever is to be
//! tried again later is not tried before, whoever is to fail fails.
//!
//! A shard knows a reply when it has been handed its last octet. It keeps to it from then on. All others do when word of it has
//! gone to the ledger's shard and from there to them: each of the two looks when it is through with the turn that it is in. So the
//! bound is two turns, if nobody stands still. What begins in that turn itself may come before the word is read.
//!
//! All of it outlasts the process, if that went on for [`KEPT`] behind it with cores that did not stand still, with a disk that nothing
//! had been the matter with up to the end of it, and a wall clock that nobody set meanwhile.

use super::{Oracle, flows};
use crate::limits;
use crate::rt::sim::Begun;
use crate::shaping::{Limits, Pace};
use crate::sim::guise::Login;
use crate::sim::hop::{At, Refusal};
use crate::sim::scenario::rules::{Does, FEW_OCTETS};
use crate::sim::world::World;
use crate::time::Moment;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

/// What is in force is on stable storage so long after it was told: a write that is under way, the pause between two, and the write.
const KEPT: Duration = Duration::from_secs(4);

/// A reply with a rule that the relay has read: of whose site, when, and what it does.
struct Word<'a> {
    group: usize,
    at: Moment,
    does: Does,
    refusal: &'a Refusal,
}

impl Oracle<'_> {
    /// Whether a refusal is one for good.
    pub(super) fn is_final(&self, ip: IpAddr, refusal: &Refusal) -> bool {
        match self.rule(ip, refusal) {
            Some(Does::Bounce) => true,
            None
            | Some(Does::OneConnection(_) | Does::HalfConnections(_) | Does::OneMessage(_) | Does::FewOctets(_)) => {
                refusal.permanent
            }
            Some(_) => false,
        }
    }

    /// What the rule for a refusal does. Mailboxes are no site.
    pub(super) fn rule(&self, ip: IpAddr, refusal: &Refusal) -> Option<Does> {
        if self.scenario.mailboxes() == Some(ip) {
            return None;
        }
        self.scenario.rule_for(&refusal.text).map(|rule| rule.does)
    }

    /// To be called at the end.
    pub(super) fn check_rules(&mut self, world: &World) {
        if self.scenario.rules.is_empty() || self.scenario.window.0 < 1000 || self.scenario.invents_exchangers() {
            return;
        }
        let mut words = Vec::new();
        for (ip, hop) in world.hops() {
            let Some(group) = world.sim.core.group_of(ip).filter(|group| self.scenario.local != Some(*group)) else {
                continue;
            };
            // What answers EHLO is followed by HELO.
            for refusal in hop.refusals.iter().filter(|refusal| refusal.stage != At::Ehlo && !refusal.secure) {
                let read = world.sim.core.read_at(refusal.link, refusal.told);
                if let (Some(does), Some(at)) = (self.rule(ip, refusal), read) {
                    words.push(Word { group, at, does, refusal });
                }
            }
        }
        for word in &words {
            let found = match word.does {
                Does::RestOfSource(time) if self.scenario.sources.is_some() => {
                    self.sent_from_resting(world, word, time)
                }
                Does::Rest(time) | Does::RestOfSource(time) => self.sent_to_resting(world, word, time),
                Does::RestOfTenant(time) => self.sent_of_resting(world, word, time),
                Does::OneConnection(time) => self.too_many_open(world, word, time, 1),
                Does::HalfConnections(time) => {
                    let half = (self.scenario.connections / 2).max(1);
                    self.too_many_open(world, word, time, half as usize)
                }
                Does::OneMessage(time) => self.too_fast(world, word, time),
                Does::FewOctets(time) => self.too_much_in_flight(world, word, time),
                Does::After(_) | Does::Bounce => None,
            };
            if let Some(text) = found {
                let (at, says) = (word.at.0 as f64 / 1e9, word.refusal.text.trim_end());
                return self.violate("reply rule", format!("site {} said {says:?} at {at:.6} s: {text}", word.group));
            }
        }
    }

    /// At the end of which life what was told then, to be so until then, may be forgotten; `None`: of none.
    pub(super) fn forgotten(&self, world: &World, told: Moment, until: Moment) -> Option<Moment> {
        let end = *self.ends.iter().filter(|end| **end >= told).min()?;
        let scarred = self.scenario.has_scars || self.disk_troubles.iter().any(|at| *at <= until);
        let faulty = |at: &Moment| *at + limits::RESTS_RETRY >= told && *at <= told + KEPT;
        let failed = world.sim.core.disk_faults().iter().any(faulty);
        let set = self.wall_jumps.iter().any(|at| (told..=until).contains(at));
        let stood = self.stalls.iter().any(|(begins, ends)| *begins <= told + KEPT && *ends >= told);
        (scarred || failed || set || stood || end < told + KEPT).then_some(end)
    }

    /// From when until when all shards have to keep to what was read then.
    fn holds(&self, world: &World, read: Moment, time: Duration) -> (Moment, Moment) {
        let mut from = read + Duration::from_micros(2 * (self.scenario.turn_us + 1));
        for (begin, end) in &self.stalls {
            if *begin <= from && *end >= read {
                // Whoever stood still has all that came meanwhile to read.
                from = from.max(*end + Duration::from_secs(1));
            }
        }
        // What is in force already is not made longer by less.
        let until = read + time - limits::MEASURE_STEP;
        (from, self.forgotten(world, read, read + time).map_or(until, |end| until.min(end)))
    }

    fn begun<'w>(&self, world: &'w World, word: &Word<'_>, time: Duration) -> impl Iterator<Item = &'w Begun> {
        let (from, until) = self.holds(world, word.at, time);
        let group = word.group;
        world.sim.core.begun().iter().filter(move |b| b.group == group && b.at > from && b.at < until)
    }

    fn sent_to_resting(&self, world: &World, word: &Word<'_>, time: Duration) -> Option<String> {
        let begun = self.begun(world, word, time).next()?;
        let what = if begun.message { "message" } else { "connection" };
        Some(format!("a {what} was begun at {:.6} s", begun.at.0 as f64 / 1e9))
    }

    /// From the source that the connection was from, if a message was begun on it.
    fn sent_from_resting(&self, world: &World, word: &Word<'_>, time: Duration) -> Option<String> {
        let same = |begun: &&Begun| begun.link == Some(word.refusal.link);
        let source = world.sim.core.begun().iter().find(same)?.from?;
        let begun = self.begun(world, word, time).find(|begun| begun.from == Some(source))?;
        let what = if begun.message { "message" } else { "connection" };
        Some(format!("a {what} was begun from {source} at {:.6} s", begun.at.0 as f64 / 1e9))
    }

    fn too_many_open(&self, world: &World, word: &Word<'_>, time: Duration, most: usize) -> Option<String> {
        let begun = self.begun(world, word, time).find(|begun| !begun.message && begun.open > most)?;
        Some(format!("{} connections of {most} at {:.6} s", begun.open, begun.at.0 as f64 / 1e9))
    }

    fn too_fast(&self, world: &World, word: &Word<'_>, time: Duration) -> Option<String> {
        let rate = "1/s".parse().expect("a rate");
        let mut pace = Pace::default();
        // Permits of the usual rate that were given out count, and are void soon.
        let from = self.holds(world, word.at, time).0 + limits::LEASE_TERM;
        let mut begun = self.begun(world, word, time).filter(|begun| begun.message && begun.at > from);
        let begun = begun.find(|begun| !pace.take(rate, begun.at))?;
        Some(format!("more than {rate} at {:.6} s", begun.at.0 as f64 / 1e9))
    }

    fn too_much_in_flight(&self, world: &World, word: &Word<'_>, time: Duration) -> Option<String> {
        let (from, until) = self.holds(world, word.at, time);
        // The ledger that counts them hears of it from the shard that read the reply, and calls back what it had given out.
        let from = from + limits::LEASE_TERM;
        let of_site = flows::spans(world).filter(|(_, group, _)| *group == Some(word.group));
        let spans: Vec<_> = of_site.map(|(.., span)| span).filter(|span| span.0 > from && span.0 < until).collect();
        flows::too_much(&Limits { bytes_in_flight: Some(FEW_OCTETS), ..Limits::default() }, &spans)
    }

    /// Only of mail whose account is known, and whose beginning was seen.
    fn sent_of_resting(&self, world: &World, word: &Word<'_>, time: Duration) -> Option<String> {
        let to = word.refusal.recipient.as_ref()?;
        let mut of: BTreeMap<u32, Option<Login>> = BTreeMap::new();
        let mut whose: Vec<Option<Login>> = Vec::new();
        for sent in world.clients().flat_map(|client| &client.sent) {
            of.insert(sent.letter.mark, sent.door.account);
            if sent.taken.iter().any(|taken| taken.eq_ignore_ascii_case(to)) {
                whose.push(sent.door.account);
            }
        }
        let tenant = whose.first().copied().flatten().filter(|first| whose.iter().all(|w| *w == Some(*first)))?;
        let (from, until) = self.holds(world, word.at, time);
        for (ip, hop) in world.hops().filter(|(ip, _)| world.sim.core.group_of(*ip) == Some(word.group)) {
            for received in hop.received.iter().filter(|r| !r.is_dsn() && !r.secure) {
                let is_its = received.mark.is_some_and(|mark| of.get(&mark).copied().flatten() == Some(tenant));
                if !is_its {
                    continue;
                }
                let mut begun = world.sim.core.begun().iter().filter(|b| b.message && b.link == Some(received.link));
                let Some(begun) = begun.nth(received.number as usize - 1) else { continue };
                if begun.at > from && begun.at < until {
                    let at = begun.at.0 as f64 / 1e9;
                    return Some(format!("#{:?} of {tenant:?} was begun at {at:.6} s to {ip}", received.mark));
                }
            }
        }
        None
    }
}
