//! MTA-STS of the domains that a shard owns (RFC 8461): which policy holds, and when one is to be fetched.
//!
//! In: TXT records, policies that the control plane has fetched or had kept. Out: the policy that holds for a domain, or that an
//! answer is missing; questions to the control plane. Lives on the shard that owns the domain. It refuses to speak HTTP: the
//! control thread does, and one that does not answer holds nothing up for longer than [`limits::STS_WAIT`].

use super::{Deliverer, Map};
use crate::limits;
use crate::shard::Turn;
use crate::shard::event::{Event, StsAsk};
use crate::shard::mailbox::StsNews;
use crate::starttls::sts::{Stored, record_id};
use crate::time::{Moment, Now};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

/// What is known of all domains. At most [`limits::STS_DOMAINS`].
#[derive(Default)]
pub(super) struct Sts {
    domains: Map<Rc<str>, Known>,
    /// Questions to the control plane that may time out, in their order.
    asked: VecDeque<(Moment, Rc<str>)>,
    /// Domains whose policy is refreshed though no mail waits, by the name that DNS was asked about.
    refreshing: Map<Rc<str>, Rc<str>>,
    next_refresh: Moment,
}

#[derive(Default)]
struct Known {
    stored: Option<Arc<Stored>>,
    /// The control plane was asked, and has until then to answer.
    asked_until: Option<Moment>,
    /// Its record or policy could not be had, and is not asked for again before then.
    failed_until: Option<Moment>,
}

impl Sts {
    /// With what was kept of earlier fetches, as far as `owns` says that a domain belongs here.
    pub(super) fn new(kept: &[Arc<Stored>], owns: impl Fn(&str) -> bool) -> Self {
        let mut sts = Sts::default();
        for stored in kept.iter().filter(|stored| owns(&stored.domain)).take(limits::STS_DOMAINS) {
            sts.domains
                .insert((&*stored.domain).into(), Known { stored: Some(Arc::clone(stored)), ..Known::default() });
        }
        sts
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.asked.front().map(|(at, _)| *at)
    }

    /// Domains known, and questions open.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sizes(&self) -> [usize; 3] {
        [self.domains.len(), self.asked.len(), self.refreshing.len()]
    }

    fn entry(&mut self, domain: &str, now: Now) -> Option<&mut Known> {
        if !self.domains.contains_key(domain) {
            if self.domains.len() >= limits::STS_DOMAINS {
                // Nothing is forgotten that holds: it would be a downgrade.
                self.domains.retain(|_, known| {
                    known.asked_until.is_some() || known.stored.as_ref().is_some_and(|s| s.holds(now.wall))
                });
            }
            if self.domains.len() >= limits::STS_DOMAINS {
                return None;
            }
            self.domains.insert(domain.into(), Known::default());
        }
        self.domains.get_mut(domain)
    }
}

/// The policy host (RFC 8461 §3.3); here also the name by which a domain's policy is waited for.
fn policy_host(domain: &str) -> String {
    format!("mta-sts.{domain}")
}

impl Deliverer {
    /// The policy that holds for a domain, if one does; or the name that is being asked about.
    pub(super) fn sts(&mut self, domain: &str, turn: &mut Turn<'_>) -> Result<Option<Arc<Stored>>, Rc<str>> {
        let now = turn.now;
        // Of what has run out nothing is left.
        let known = self.sts.domains.get(domain);
        let held = known.and_then(|known| known.stored.clone()).filter(|s| s.holds(now.wall));
        // Name servers that never answer must not hold up each connection anew.
        if known.and_then(|known| known.failed_until).is_some_and(|until| until > now.mono) {
            return Ok(held);
        }
        let record = format!("_mta-sts.{domain}");
        let records = match self.resolver.txt(&record, now.mono) {
            None => return Err(record.into()),
            // RFC 8461 §3.1, §5.1: a record that is gone, or cannot be had, takes nothing away from a policy that holds.
            Some(Err(_)) => {
                self.sts_failed(domain, now);
                return Ok(held);
            }
            Some(Ok(records)) => records,
        };
        let Some(id) = record_id(records.iter().map(|text| &**text)) else { return Ok(held) };
        let is_current = held.as_ref().is_some_and(|held| *held.id == *id);
        if is_current && !held.as_ref().is_some_and(|held| held.is_to_be_refreshed(now.wall)) {
            return Ok(held);
        }
        let host = policy_host(domain);
        let Some(known) = self.sts.entry(domain, now) else { return Ok(held) };
        if known.asked_until.is_some() {
            return if is_current { Ok(held) } else { Err(host.into()) };
        }
        match self.resolver.addresses(&host, now.mono) {
            None if is_current => {
                self.sts.refreshing.insert(host.into(), domain.into());
                Ok(held)
            }
            None => Err(host.into()),
            Some(Err(_)) => {
                self.sts_failed(domain, now);
                Ok(held)
            }
            Some(Ok(addresses)) => {
                let ask = StsAsk { shard: self.me, domain: domain.into(), id: id.into(), addresses };
                turn.report.events.push(Event::Sts(Box::new(ask)));
                turn.report.stats.sts_fetches.add(1);
                let until = now.mono + limits::STS_WAIT;
                self.sts.asked.push_back((until, domain.into()));
                if let Some(known) = self.sts.entry(domain, now) {
                    known.asked_until = Some(until);
                }
                if is_current { Ok(held) } else { Err(host.into()) }
            }
        }
    }

    fn sts_failed(&mut self, domain: &str, now: Now) {
        if let Some(known) = self.sts.entry(domain, now) {
            known.asked_until = None;
            known.failed_until = Some(now.mono + limits::STS_RETRY);
        }
    }

    /// The control plane has fetched a policy, or could not.
    pub fn sts_news(&mut self, news: &StsNews, turn: &mut Turn<'_>) {
        match &news.fetched {
            Ok(stored) => {
                if let Some(known) = self.sts.entry(&news.domain, turn.now) {
                    *known = Known { stored: Some(Arc::clone(stored)), ..Known::default() };
                }
            }
            Err(_) => {
                turn.report.stats.sts_failures.add(1);
                self.sts_failed(&news.domain, turn.now);
            }
        }
        self.sts.asked.retain(|(_, domain)| **domain != *news.domain);
        self.fact_answered(&policy_host(&news.domain), turn);
    }

    /// Questions to the control plane that were not answered in time, and policies that are to be refreshed.
    pub(super) fn sts_turn(&mut self, turn: &mut Turn<'_>) {
        while let Some((until, _)) = self.sts.asked.front()
            && *until <= turn.now.mono
        {
            let Some((_, domain)) = self.sts.asked.pop_front() else { return };
            // As if it could not be fetched; what comes later still counts.
            self.sts_failed(&domain, turn.now);
            self.fact_answered(&policy_host(&domain), turn);
        }
        if turn.now.mono >= self.sts.next_refresh {
            self.sts.next_refresh = turn.now.mono + limits::STS_REFRESH_INTERVAL;
            let due = |known: &Known| {
                known.stored.as_ref().is_some_and(|s| s.holds(turn.now.wall) && s.is_to_be_refreshed(turn.now.wall))
            };
            let due: Vec<Rc<str>> =
                self.sts.domains.iter().filter(|(_, known)| due(known)).map(|(domain, _)| Rc::clone(domain)).collect();
            for domain in due.into_iter().take(limits::STS_REFRESHED_AT_ONCE) {
                self.refresh(&domain, turn);
            }
        }
    }

    /// Goes on with a refresh as far as DNS has answered.
    pub(super) fn refresh(&mut self, domain: &Rc<str>, turn: &mut Turn<'_>) {
        if let Err(name) = self.sts(domain, turn)
            && self.sts.refreshing.len() < limits::STS_REFRESHED_AT_ONCE
        {
            self.sts.refreshing.insert(name, Rc::clone(domain));
        }
    }

    /// Which domain is refreshed once this name was answered for.
    pub(super) fn refreshed_by(&mut self, name: &str) -> Option<Rc<str>> {
        if self.sts.refreshing.is_empty() { None } else { self.sts.refreshing.remove(name) }
    }
}
