//! PURE. What a reply has brought about for a site, for a time: nothing is sent to it, or nothing of a tenant, or its limits are
//! lower.
//!
//! In: [`Measure`]s, as lanes tell them, and the moment. Out: what is in force, and when that changes. Lives with the ledger of
//! the site, which tells all lanes. A measure that is in force already lasts until its later end; several of different kinds are
//! all in force. It refuses to judge replies.

use crate::limits::{LOWERINGS_PER_SITE, MEASURE_STEP, RESTING_TENANTS};
use crate::shaping::{Limits, Lowering};
use crate::time::Moment;
use std::sync::Arc;

/// Something that is to hold for a time.
#[derive(Clone, Debug, PartialEq)]
pub struct Measure {
    /// What.
    pub what: Taken,
    /// Until then.
    pub until: Moment,
    /// The rule and the reply, in words.
    pub why: Arc<str>,
}

/// What holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Taken {
    /// Nothing is sent to the site.
    Rest,
    /// Nothing of this tenant is.
    RestOf(Arc<str>),
    /// The site's limits are lower.
    Lower(Lowering),
}

/// What lanes are to know of it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct InForce {
    /// The limits.
    pub limits: Limits,
    /// Some are lower than usual.
    pub lowered: bool,
    /// Nothing is sent until then.
    pub rests: Option<Rest>,
    /// Tenants of which nothing is sent until then.
    pub tenants: Vec<(Arc<str>, Rest)>,
}

/// Until when something rests, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Until then.
    pub until: Moment,
    /// See [`Measure`].
    pub why: Arc<str>,
}

/// A change, for the operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// It begins; else it is over.
    pub begins: bool,
    /// What.
    pub measure: Measure,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Measures {
    all: Vec<Measure>,
}

impl Measures {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Those in force.
    pub fn all(&self) -> impl Iterator<Item = &Measure> {
        self.all.iter()
    }

    /// Takes a measure; whether anything is other than before. What begins by it goes to `changes`.
    pub fn take(&mut self, measure: Measure, changes: &mut Vec<Change>) -> bool {
        if let Some(same) = self.all.iter_mut().find(|other| other.what == measure.what) {
            let longer = measure.until > same.until + MEASURE_STEP;
            if longer {
                *same = measure;
            }
            return longer;
        }
        let count = |kind: fn(&Taken) -> bool| self.all.iter().filter(|other| kind(&other.what)).count();
        let full = match measure.what {
            Taken::Rest => false,
            Taken::RestOf(_) => count(|what| matches!(what, Taken::RestOf(_))) >= RESTING_TENANTS,
            Taken::Lower(_) => count(|what| matches!(what, Taken::Lower(_))) >= LOWERINGS_PER_SITE,
        };
        if full {
            // More than can be told apart: the site as a whole has had enough.
            return self.take(Measure { what: Taken::Rest, ..measure }, changes);
        }
        changes.push(Change { begins: true, measure: measure.clone() });
        self.all.push(measure);
        true
    }

    /// Ends what is over; whether anything is.
    pub fn expire(&mut self, now: Moment, changes: &mut Vec<Change>) -> bool {
        let before = self.all.len();
        let over = self.all.extract_if(.., |measure| measure.until <= now);
        changes.extend(over.map(|measure| Change { begins: false, measure }));
        self.all.len() < before
    }

    /// When something is over next.
    pub fn next(&self) -> Option<Moment> {
        self.all.iter().map(|measure| measure.until).min()
    }

    /// Until when nothing is sent.
    pub fn rests(&self) -> Option<Moment> {
        self.all.iter().find(|measure| measure.what == Taken::Rest).map(|measure| measure.until)
    }

    /// The limits in force, of those that are usual.
    pub fn limits(&self, usual: Limits) -> Limits {
        self.all.iter().fold(usual, |limits, measure| match measure.what {
            Taken::Lower(by) => by.of(limits),
            Taken::Rest | Taken::RestOf(_) => limits,
        })
    }

    pub fn in_force(&self, usual: Limits) -> InForce {
        let mut force = InForce { limits: self.limits(usual), ..InForce::default() };
        for measure in &self.all {
            let rest = || Rest { until: measure.until, why: Arc::clone(&measure.why) };
            match &measure.what {
                Taken::Rest => force.rests = Some(rest()),
                Taken::RestOf(tenant) => force.tenants.push((Arc::clone(tenant), rest())),
                Taken::Lower(_) => force.lowered = true,
            }
        }
        force
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::shaping::Limit;
    use std::time::Duration;

    const SECOND: u64 = 1_000_000_000;

    fn measure(what: Taken, until: u64) -> Measure {
        Measure { what, until: Moment(until * SECOND), why: "a reply".into() }
    }

    fn halved() -> Taken {
        Taken::Lower(Lowering::Times(Limit::Connections, 0.5))
    }

    #[test]
    fn several_are_in_force_until_each_is_over() {
        let (mut measures, mut changes) = (Measures::default(), Vec::new());
        let usual = Limits { connections: Some(20), ..Limits::default() };
        let capped = Taken::Lower(Lowering::To(Limits { connections: Some(8), ..Limits::default() }));
        for (what, until) in [(halved(), 10), (capped, 20), (Taken::Rest, 5), (Taken::RestOf("acme".into()), 30)] {
            assert!(measures.take(measure(what, until), &mut changes));
        }
        assert_eq!((changes.len(), measures.next()), (4, Some(Moment(5 * SECOND))));
        let force = measures.in_force(usual);
        assert_eq!((force.limits.connections, force.lowered), (Some(8), true));
        assert_eq!(force.rests.map(|rest| rest.until), Some(Moment(5 * SECOND)));
        assert_eq!(force.tenants.len(), 1);
        assert!(!measures.expire(Moment(5 * SECOND - 1), &mut changes));
        for (now, connections) in [(5, Some(8)), (10, Some(8)), (20, Some(20))] {
            assert!(measures.expire(Moment(now * SECOND), &mut changes));
            assert_eq!(measures.limits(usual).connections, connections, "{now}");
        }
        assert!(measures.rests().is_none() && !measures.is_empty());
        assert!(measures.expire(Moment(30 * SECOND), &mut changes) && measures.is_empty());
        assert_eq!(changes.iter().filter(|change| !change.begins).count(), 4);
        assert_eq!(measures.in_force(usual), InForce { limits: usual, ..InForce::default() });
    }

    #[test]
    fn the_same_again_lasts_longer_and_lowers_no_more() {
        let (mut measures, mut changes) = (Measures::default(), Vec::new());
        let usual = Limits { connections: Some(20), ..Limits::default() };
        assert!(measures.take(measure(halved(), 10), &mut changes));
        // What was under way says the same a moment later: nobody need be told.
        let soon = Measure { until: Moment(10 * SECOND) + Duration::from_millis(900), ..measure(halved(), 10) };
        assert!(!measures.take(soon, &mut changes));
        assert!(!measures.take(measure(halved(), 5), &mut changes));
        assert!(measures.take(measure(halved(), 12), &mut changes));
        assert_eq!((measures.limits(usual).connections, measures.next()), (Some(10), Some(Moment(12 * SECOND))));
        assert_eq!(changes.len(), 1, "it began once");
    }

    #[test]
    fn more_tenants_than_are_told_apart_are_the_site() {
        let (mut measures, mut changes) = (Measures::default(), Vec::new());
        for n in 0..RESTING_TENANTS {
            measures.take(measure(Taken::RestOf(format!("t{n}").into()), 10), &mut changes);
        }
        assert!(measures.rests().is_none());
        measures.take(measure(Taken::RestOf("one more".into()), 10), &mut changes);
        assert!(measures.rests().is_some());
    }
}
