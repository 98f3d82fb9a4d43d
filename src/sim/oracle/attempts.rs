//! Rules about single attempts and replies: when mail is tried again, where it goes first, what is refused at the door.

use super::{Account, Oracle, domain_of};
use crate::sim::client::Sent;
use crate::sim::hop::Refusal;
use crate::sim::scenario::rules::Does;
use crate::sim::world::World;
use crate::time::Moment;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

impl Oracle<'_> {
    /// What was put off is tried again when its time has come and not before; what was refused for good is not.
    pub(super) fn check_attempts(&mut self, world: &World, account: &Account<'_>, letters: &BTreeMap<u32, &Sent>) {
        for ((mark, to), copies) in &account.copies {
            let known = account.known(world, to);
            let Some((_, refusal)) = known.into_iter().find(|(ip, refusal)| self.is_final(*ip, refusal)) else {
                continue;
            };
            let Some((_, copy)) = copies.iter().find(|(_, copy)| copy.at > refusal.at) else { continue };
            if !self.ended_between(refusal.at, copy.at) {
                self.violate("refusal", format!("#{mark} was refused for good by {to}, and delivered later"));
            }
        }
        for ((mark, to), copies) in &account.copies {
            for (ip, refusal) in account.known(world, to) {
                let Some(Does::After(time)) = self.rule(ip, refusal) else { continue };
                let from = refusal.at;
                let early = |at: Moment| at > from && at + Duration::from_millis(10) < from + time;
                let copy = copies.iter().map(|(_, copy)| copy.mail_at).find(|at| early(*at));
                if let Some(at) = copy.filter(|at| !self.ended_between(from, *at)) {
                    let gap = at.since(from);
                    self.violate("retry", format!("#{mark} to {to} was sent {gap:?} after a refusal for {time:?}"));
                }
            }
        }
        let give_up = self.scenario.retry.2;
        for sent in letters.values() {
            let Some((_, since, _)) = &sent.verdict else { continue };
            for to in &sent.taken {
                let refusals = account.known(world, &to.to_ascii_lowercase());
                let (first, _) = self.scenario.intervals(&domain_of(to));
                for pair in refusals.windows(2) {
                    let ((ip, refusal), later) = (pair[0], pair[1].1.at);
                    let earlier = refusal.at;
                    // The last attempt comes at the age of giving up.
                    let held = sent.door.asks.hold.unwrap_or_default();
                    let last = later + Duration::from_secs(60) >= *since + held + give_up;
                    let restarted = self.ended_between(*since, later);
                    let after = match self.rule(ip, refusal) {
                        Some(Does::After(time)) => Some(time),
                        // From another source at once.
                        Some(Does::RestOfSource(_)) if self.scenario.sources.is_some() => None,
                        _ => refusal.transient.then_some(first),
                    };
                    let early = after.is_some_and(|after| later + Duration::from_millis(10) < earlier + after);
                    if early && !last && !restarted {
                        let mark = sent.letter.mark;
                        let gap = later.since(earlier);
                        self.violate("retry", format!("#{mark} to {to} was tried again after {gap:?}"));
                    }
                }
            }
        }
    }

    fn ended_between(&self, from: Moment, until: Moment) -> bool {
        self.ends.iter().any(|end| *end >= from && *end <= until)
    }

    /// The exchanger of a lower preference goes first (RFC 5321 §5.1), unless something was the matter with it.
    pub(super) fn check_preference(&mut self, domain: &str, ip: IpAddr) {
        let Some(destination) = self.scenario.destinations.iter().find(|d| d.name == domain) else { return };
        let elsewhere = self.scenario.is_local(domain) || self.scenario.way(domain).is_some();
        if self.any_troubled || self.scenario.smart_host || elsewhere {
            return;
        }
        let addresses = self.scenario.addresses(destination);
        let count = destination.exchangers.len();
        let Some(at) = addresses.iter().position(|address| *address == ip) else { return };
        let preference = destination.exchangers[at % count].0;
        let better = addresses.iter().enumerate().find(|(other, address)| {
            destination.exchangers[other % count].0 < preference && !self.troubled.contains(address)
        });
        if let Some((_, better)) = better {
            self.violate("preference", format!("mail to {domain} went to {ip}, nothing was the matter with {better}"));
        }
    }

    /// Who may relay is refused what is above a limit, and nothing else while the disk is well.
    pub(super) fn check_limits(&mut self, sent: &Sent, may_relay: bool) {
        let mark = sent.letter.mark;
        let (most, octets) = (self.scenario.max_recipients, sent.letter.wire().len() as u64 - 3);
        if sent.taken.len() > most {
            self.violate("limits", format!("#{mark}: {} recipients were taken, of {most}", sent.taken.len()));
        }
        let large = octets > self.scenario.max_message;
        if sent.accepted().is_some() && large {
            self.violate("limits", format!("#{mark}: {octets} octets were taken"));
        }
        let answers = sent.declined.iter().chain(sent.verdict.iter().map(|(reply, _, _)| reply));
        for reply in answers.filter(|reply| may_relay && reply.starts_with(['4', '5'])) {
            let reason = match reply.get(..9).unwrap_or_default() {
                // It says for itself that too much waits, or who waited too long.
                "421 4.3.2" | "421 4.4.2" | "452 4.3.1" => true,
                "452 4.5.3" => sent.taken.len() == most,
                "503 5.5.1" | "554 5.5.1" => sent.taken.is_empty() && sent.declined.len() > 1,
                "552 5.3.4" => large,
                reply => !self.disk_troubles.is_empty() && reply.starts_with("451"),
            };
            if !reason {
                self.violate("limits", format!("#{mark} was refused without a reason: {reply}"));
            }
        }
    }
}

impl<'a> Account<'a> {
    /// The refusals of a recipient that the relay has read, in the order of time.
    fn known(&self, world: &World, to: &str) -> Vec<(IpAddr, &'a Refusal)> {
        let refusals = self.refusals.get(to).into_iter().flatten().copied();
        let mut known: Vec<_> = refusals.filter(|(_, r)| world.sim.core.handed(r.link) >= r.told).collect();
        known.sort_by_key(|(_, refusal)| refusal.at);
        debug_assert!(
            known.iter().all(|(_, refusal)| refusal.recipient.as_ref().is_some_and(|r| !domain_of(r).is_empty()))
        );
        known
    }
}
