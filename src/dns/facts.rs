//! PURE. Answers about a name that are no mail route: its TLSA and TXT records, whether it is an alias. One of a shard's
//! resolver, whose questions, servers and cache they share.
//!
//! In: a name. Out: what is known of it, at once or after an event that names it. Nothing is kept here but how many questions
//! are open: the cache of answers has what was found, and whoever waits asks again. It refuses to follow what it does not
//! ask for: a TLSA name that is an alias leads to the alias's records (RFC 7671 §7), as for every type.

use super::Resolver;
use super::lookup::{Finished, Waiter};
use super::name;
use super::outcome::{Found, Outcome, Question};
use super::wire::{Kind, Records};
use crate::limits;
use crate::time::Moment;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::rc::Rc;

/// The waiter of a question that no domain's route waits for.
const NOBODY: u64 = 0;

/// A TLSA record (RFC 6698 §2.1), its numbers as they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tlsa {
    /// Certificate usage.
    pub usage: u8,
    /// Selector.
    pub selector: u8,
    /// Matching type.
    pub matching: u8,
    /// Certificate association data.
    pub data: Box<[u8]>,
}

/// The TLSA records of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TlsaAnswer {
    /// The question failed: SERVFAIL, which a validating server says of a bogus answer too, or no answer.
    Failed(String),
    /// None, or none that are secure.
    None,
    /// Secure ones.
    Secure(Vec<Tlsa>),
}

/// What of the resolver is about facts.
#[derive(Debug, Default)]
pub struct Facts {
    open: usize,
    known: VecDeque<Rc<str>>,
}

impl Facts {
    pub(super) fn note(&mut self, finished: &Finished) {
        let waiting = finished.waiters.iter().filter(|waiter| waiter.job == NOBODY).count();
        if waiting > 0 {
            self.open -= waiting;
            self.known.push_back(Rc::clone(&finished.name));
        }
    }

    /// Questions open, and events not taken.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sizes(&self) -> [usize; 2] {
        [self.open, self.known.len()]
    }
}

impl Resolver {
    /// The next name that a question about has been answered for.
    pub fn poll_fact(&mut self) -> Option<Rc<str>> {
        self.facts.known.pop_front()
    }

    /// The TLSA records of a service at a host (RFC 7672 §2.2.3); `None`: [`poll_fact`](Self::poll_fact) names
    /// `_<port>._tcp.<host>` later.
    pub fn tlsa(&mut self, host: &str, port: u16, now: Moment) -> Option<TlsaAnswer> {
        let outcome = match self.fact(&tlsa_name(host, port), Kind::Tlsa, now)? {
            Ok(outcome) => outcome,
            Err(reason) => return Some(TlsaAnswer::Failed(reason)),
        };
        Some(match &outcome.found {
            Found::Failed(reason) => TlsaAnswer::Failed(reason.clone()),
            Found::Records(Records::Tlsa(records)) if outcome.secure => TlsaAnswer::Secure(records.clone()),
            _ => TlsaAnswer::None,
        })
    }

    /// Whether a name is an alias by a secure record, wherever that leads (RFC 7672 §2.2.2); `None`: [`poll_fact`](Self::poll_fact)
    /// names it later.
    ///
    /// # Errors
    /// The question failed.
    pub fn has_secure_alias(&mut self, name: &str, now: Moment) -> Option<Result<bool, String>> {
        Some(self.fact(name, Kind::Cname, now)?.and_then(|outcome| match &outcome.found {
            Found::Failed(reason) => Err(reason.clone()),
            found => Ok(outcome.secure && matches!(found, Found::Records(_))),
        }))
    }

    /// The TXT records of a name; `None`: [`poll_fact`](Self::poll_fact) names it later.
    ///
    /// # Errors
    /// The question failed.
    pub fn txt(&mut self, name: &str, now: Moment) -> Option<Result<Vec<Box<[u8]>>, String>> {
        Some(self.fact(name, Kind::Txt, now)?.and_then(|outcome| match &outcome.found {
            Found::Failed(reason) => Err(reason.clone()),
            Found::Records(Records::Txt(records)) => Ok(records.clone()),
            _ => Ok(Vec::new()),
        }))
    }

    /// The addresses of a host; `None`: [`poll_fact`](Self::poll_fact) names it later, perhaps twice.
    ///
    /// # Errors
    /// None was found, and a question failed.
    pub fn addresses(&mut self, host: &str, now: Moment) -> Option<Result<Vec<IpAddr>, String>> {
        let answers = [self.fact(host, Kind::A, now), self.fact(host, Kind::Aaaa, now)];
        let (mut found, mut failed) = (Vec::new(), None);
        for answer in answers {
            match answer? {
                Err(reason) => failed = Some(reason),
                Ok(outcome) => match &outcome.found {
                    Found::Failed(reason) => failed = Some(reason.clone()),
                    Found::Records(Records::Addresses(list)) => found.extend_from_slice(list),
                    _ => {}
                },
            }
        }
        Some(failed.filter(|_| found.is_empty()).map_or(Ok(found), Err))
    }

    fn fact(&mut self, text: &str, kind: Kind, now: Moment) -> Option<Result<Rc<Outcome>, String>> {
        let Ok(name) = name::canonical(text) else { return Some(Err(format!("\"{text}\" is no name"))) };
        if name.as_str().starts_with('[') {
            return Some(Err(format!("\"{text}\" is an address")));
        }
        if self.facts.open >= limits::DNS_PENDING_FACTS {
            return Some(Err("too many questions are open".to_owned()));
        }
        let question = Question { name: name.as_str().into(), kind };
        if let Some(outcome) = self.lookups.ask(question, Waiter { job: NOBODY, host: None }, false, now) {
            return Some(Ok(outcome));
        }
        self.facts.open += 1;
        // Without servers it ends at once.
        self.settle(now);
        None
    }
}

/// `_25._tcp.mx.example.com`
pub(crate) fn tlsa_name(host: &str, port: u16) -> String {
    format!("_{port}._tcp.{host}")
}
