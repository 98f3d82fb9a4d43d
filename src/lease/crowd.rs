//! PURE. Whose mail waits at the lanes of a scope, so that tenants share it by their weights over all lanes, and not lanes.
//!
//! Each lane that lacks something tells who has mail there. The ledger counts in how many lanes each tenant has: so much less
//! it weighs in each of them, there by the lane's own turns ([`Spread`]), and here, where each lane counts as much as its tenants
//! do. A tenant that had no mail in any lane brings its lane to the front, as it comes to the front there.

use super::{KINDS, Paced};
use crate::limits;
use std::collections::HashMap;

/// The tenants with mail at a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crowd {
    /// Hashes of their names, ascending, and their weights; [`limits::LEASE_TENANTS`] at the most.
    tenants: Vec<(u64, u32)>,
    /// The weights of the others.
    others: u64,
}

/// Tenants of a lane, ascending, that have mail in several lanes, and in how many.
pub type Spread = Box<[(u64, u16)]>;

impl Crowd {
    /// One more has mail there, whether that is known or not.
    pub fn add(&mut self, tenant: u64, weight: u32) {
        match self.tenants.binary_search_by_key(&tenant, |(key, _)| *key) {
            Ok(_) => {}
            Err(at) if self.tenants.len() < limits::LEASE_TENANTS => self.tenants.insert(at, (tenant, weight)),
            Err(_) => self.others += u64::from(weight),
        }
    }

    /// Others that are not told one by one have so much weight.
    pub fn add_others(&mut self, weight: u64) {
        self.others += weight;
    }
}

/// What the ledger of a scope knows of its lanes' crowds, and whose turn it is.
#[derive(Debug)]
pub(super) struct Crowds {
    lanes: Vec<Part>,
    /// The pass of a lane that has had its part at all times, of each kind.
    clock: [u64; 2],
    /// The last one of each kind went to a lane in front: ever new tenants get every other one at the most.
    fronted: [bool; 2],
}

#[derive(Clone, Debug)]
struct Part {
    crowd: Crowd,
    /// Its tenants', each over the lanes that it is in; in parts of [`ONE`].
    weight: u64,
    told: Spread,
    /// What it had over its weight.
    pass: [u64; 2],
    /// A tenant that had no mail in any lane has some there: it is next.
    in_front: [bool; 2],
}

/// A lane that has told of nobody weighs as much as a tenant without a weight of its own.
const UNTOLD: u64 = 100 * ONE;
/// Permits that a lane may have had beyond its part and still be in front.
const FRONT_DEBT: u64 = 64;
/// Weights are divided by lanes.
const ONE: u64 = 1024;
/// Passes are divided by weights.
const STEP: u64 = 1 << 36;

impl Crowds {
    pub fn new(lanes: usize) -> Crowds {
        let part = Part {
            crowd: Crowd::default(),
            weight: UNTOLD,
            told: Spread::default(),
            pass: [STEP; 2],
            in_front: [false; 2],
        };
        Crowds { lanes: vec![part; lanes], clock: [STEP; 2], fronted: [false; 2] }
    }

    /// What a lane weighs.
    pub fn weight(&self, lane: usize) -> u64 {
        self.lanes[lane].weight
    }

    /// A lane has told. Returns whether it has a tenant that none had, and what others are to know, lane by lane.
    pub fn tell(&mut self, lane: usize, crowd: Crowd) -> (bool, Vec<(usize, Spread)>) {
        let known =
            |key: &u64| self.lanes.iter().any(|part| part.crowd.tenants.binary_search_by_key(key, |t| t.0).is_ok());
        let brings_new = crowd.tenants.iter().any(|(key, _)| !known(key));
        self.lanes[lane].crowd = crowd;
        let mut lanes_of: HashMap<u64, u16, foldhash::quality::FixedState> = HashMap::default();
        for (key, _) in self.lanes.iter().flat_map(|part| &part.crowd.tenants) {
            *lanes_of.entry(*key).or_default() += 1;
        }
        let mut news = Vec::new();
        for (at, part) in self.lanes.iter_mut().enumerate() {
            let tenants = part.crowd.tenants.iter().map(|(key, weight)| (*key, *weight, lanes_of[key]));
            let all: u64 = tenants.clone().map(|(_, weight, lanes)| u64::from(weight) * ONE / u64::from(lanes)).sum();
            let all = all + part.crowd.others * ONE;
            part.weight = if all == 0 || planted!(LanesWeighTheSame) { UNTOLD } else { all };
            let spread: Spread = tenants.filter(|(.., lanes)| *lanes > 1).map(|(key, _, lanes)| (key, lanes)).collect();
            if spread != part.told {
                part.told.clone_from(&spread);
                news.push((at, spread));
            }
        }
        if brings_new {
            // Unless ever new ones have had much more than their part already.
            let job = (0..self.lanes.len()).map(|lane| self.step(lane)).max().unwrap_or(0);
            for kind in KINDS.map(|kind| kind as usize) {
                let part = &mut self.lanes[lane];
                part.in_front[kind] = part.pass[kind] <= self.clock[kind].saturating_add(FRONT_DEBT * job);
            }
        }
        (brings_new, news)
    }

    /// The mail for which a lane is in front has left it.
    pub fn leaves(&mut self, lane: usize) {
        self.lanes[lane].in_front = [false; 2];
    }

    /// What a permit moves a lane on by.
    fn step(&self, lane: usize) -> u64 {
        STEP * ONE / self.lanes[lane].weight
    }

    /// Whose turn it is of those that wait.
    pub fn first(&self, kind: Paced, waiting: impl Iterator<Item = usize>) -> Option<usize> {
        let k = kind as usize;
        waiting.min_by_key(|at| (!self.lanes[*at].in_front[k] || self.fronted[k], self.lanes[*at].pass[k]))
    }

    /// A lane waits that did not: what it did not ask for in time it does not get later.
    pub fn joins(&mut self, lane: usize, kind: Paced) {
        let earliest = self.clock[kind as usize].saturating_sub(2 * self.step(lane));
        let pass = &mut self.lanes[lane].pass[kind as usize];
        *pass = (*pass).max(earliest);
    }

    /// A lane has had so many permits while these waited.
    pub fn had(&mut self, lane: usize, kind: Paced, count: u32, waiting: impl Iterator<Item = usize>) {
        let all: u64 = waiting.map(|at| self.lanes[at].weight).sum();
        let (k, count) = (kind as usize, u64::from(count));
        let pass = self.lanes[lane].pass[k];
        self.clock[k] = self.clock[k].max(pass) + count.saturating_mul(STEP * ONE / all.max(1));
        self.fronted[k] = !self.fronted[k] && std::mem::take(&mut self.lanes[lane].in_front[k]);
        self.lanes[lane].pass[k] = pass.saturating_add(count.saturating_mul(self.step(lane)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd(tenants: &[(u64, u32)]) -> Crowd {
        let mut crowd = Crowd::default();
        tenants.iter().for_each(|(key, weight)| crowd.add(*key, *weight));
        crowd
    }

    /// What each of two lanes gets of `permits`.
    fn shares(crowds: &mut Crowds, permits: u32) -> [u32; 2] {
        let mut had = [0; 2];
        for _ in 0..permits {
            let at = crowds.first(Paced::Message, 0..2).unwrap_or(0);
            crowds.had(at, Paced::Message, 1, 0..2);
            crowds.joins(at, Paced::Message);
            had[at] += 1;
        }
        had
    }

    #[test]
    fn lanes_share_as_their_tenants_do() {
        let mut crowds = Crowds::new(2);
        assert_eq!(shares(&mut crowds, 100), [50, 50], "nobody has told");
        assert_eq!(crowds.tell(0, crowd(&[(1, 100)])), (true, Vec::new()));
        assert_eq!(crowds.tell(1, crowd(&[(2, 300)])), (true, Vec::new()));
        let had = shares(&mut crowds, 400);
        assert!(had[0].abs_diff(100) <= 3, "{had:?}");
        // A tenant that has mail in both weighs half in each.
        let both: Spread = Box::new([(1, 2)]);
        assert_eq!(crowds.tell(1, crowd(&[(1, 100), (2, 300)])), (false, vec![(0, both.clone()), (1, both)]));
        let had = shares(&mut crowds, 800);
        assert!(had[0].abs_diff(100) <= 3, "{had:?}");
        let (_, news) = crowds.tell(0, crowd(&[]));
        assert_eq!(news, [(0, Spread::default()), (1, Spread::default())]);
    }

    #[test]
    fn one_with_a_new_tenant_is_next() {
        let mut crowds = Crowds::new(2);
        crowds.tell(0, crowd(&[(1, 1000)]));
        crowds.tell(1, crowd(&[(2, 1)]));
        shares(&mut crowds, 5000);
        crowds.tell(1, crowd(&[(2, 1), (3, 1)]));
        assert_eq!(crowds.first(Paced::Message, 0..2), Some(1));
        // Nor does one that was away for long get all at once.
        shares(&mut crowds, 5000);
        for _ in 0..10_000 {
            crowds.had(0, Paced::Message, 1, 0..1);
        }
        crowds.joins(1, Paced::Message);
        let had = shares(&mut crowds, 1002);
        assert!(had[1] <= 5, "{had:?}");
    }

    #[test]
    fn more_tenants_than_are_told_count_together() {
        let mut many = Crowd::default();
        for key in 0..2 * limits::LEASE_TENANTS as u64 {
            many.add(key, 10);
        }
        let half = limits::LEASE_TENANTS as u64;
        assert_eq!((many.tenants.len() as u64, many.others), (half, 10 * half));
        let mut crowds = Crowds::new(2);
        crowds.tell(0, many);
        assert_eq!(crowds.weight(0), 20 * half * ONE);
    }
}
