//! PURE. How a ledger divides what is counted where there is too little of it, and whose turn it is.

use super::{Holding, Ledger};
use crate::lease::{COUNTED, Counted, Paced};
use crate::limits;
use crate::time::Moment;
use std::time::Duration;

/// Who comes first where there is too little of something; moves on each [`limits::LEASE_TURN`], or where there is something
/// for each after [`limits::LEASE_LONG_TURN`] of them.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) first: usize,
    /// What each had over its weight, beside who had least of those that want something.
    pass: Vec<u64>,
    /// Their weights, as they were in the last turns: one that had a letter for a moment gets no connections for that.
    weights: Vec<u64>,
    since: Moment,
    pub(super) ends: Option<Moment>,
    /// A message was begun in it, or could be.
    pub(super) used: bool,
    /// It ends in any case then.
    ends_at_last: Moment,
}

/// All of a limit for a turn, before it is divided by a weight.
const TURN_STEP: u64 = 1 << 48;

/// A turn moves weights by one part in so many.
const LEARNED: u64 = 2;

/// What is counted, while it is shared.
struct Sharing {
    left: [u32; 2],
    targets: [Vec<u32>; 2],
    pass: Vec<u64>,
}

impl Turn {
    /// Of so many lanes; nobody is first.
    pub(super) fn new(lanes: usize) -> Turn {
        Turn {
            first: 0,
            pass: vec![0; lanes],
            weights: vec![1; lanes],
            since: Moment(0),
            ends: None,
            used: false,
            ends_at_last: Moment(0),
        }
    }
}

impl Ledger {
    /// What each lane is to have, of what is counted: what it wants; where that is too much, shares by the weights of their
    /// tenants, in parts that something can be begun with, of everything or of nothing. The first has its part before all,
    /// and what does not divide goes to those that had least.
    pub(super) fn targets(&self) -> [Vec<u32>; 2] {
        let wanted = |what: Counted| self.lanes.iter().map(move |lane| lane.has[what as usize].wanted);
        if !self.contended() {
            return COUNTED.map(|what| wanted(what).map(|wanted| wanted.min(self.limit(what))).collect());
        }
        let mut sharing = Sharing {
            left: COUNTED.map(|what| self.limit(what)),
            targets: COUNTED.map(|_| vec![0; self.lanes.len()]),
            pass: self.turn.pass.clone(),
        };
        self.deal(&mut sharing, self.turn.first, 1);
        let mut open: Vec<usize> = (0..self.lanes.len()).collect();
        loop {
            open.retain(|&at| self.part(&sharing, at).is_some());
            // Many at once, as long as that leaves enough to put right who had least.
            let heaviest = open.iter().map(|at| self.turn.weights[*at]).max().unwrap_or(1);
            let rounds = COUNTED.map(|what| {
                let all: u64 = open
                    .iter()
                    .filter_map(|at| Some(u64::from(self.part(&sharing, *at)?[what as usize]) * self.turn.weights[*at]))
                    .sum();
                (u64::from(sharing.left[what as usize]) * heaviest).checked_div(2 * all).unwrap_or(u64::MAX)
            });
            let rounds = rounds.into_iter().min().unwrap_or(0);
            if rounds > 0 && !open.is_empty() {
                for &at in &open {
                    let parts = u128::from(rounds) * u128::from(self.turn.weights[at]) / u128::from(heaviest);
                    self.deal(&mut sharing, at, u32::try_from(parts).unwrap_or(u32::MAX));
                }
                continue;
            }
            let Some(&least) = open.iter().min_by_key(|at| sharing.pass[**at]) else { return sharing.targets };
            self.deal(&mut sharing, least, 1);
        }
    }

    /// What a lane takes next of what is left; `None`: nothing, or not all that it needs is there.
    fn part(&self, sharing: &Sharing, at: usize) -> Option<[u32; 2]> {
        let part = COUNTED.map(|what| {
            let (k, has) = (what as usize, &self.lanes[at].has[what as usize]);
            has.least.max(1).min(has.wanted.min(self.limit(what)).saturating_sub(sharing.targets[k][at]))
        });
        let fits = part.iter().zip(&sharing.left).all(|(part, left)| part <= left);
        (fits && part != [0; 2]).then_some(part)
    }

    /// Gives a lane up to so many parts, as far as it wants them.
    fn deal(&self, sharing: &mut Sharing, at: usize, parts: u32) {
        let Some(part) = self.part(sharing, at).filter(|_| parts > 0) else { return };
        // More than one only of whole parts.
        let whole = COUNTED.map(|what| {
            let more = self.lanes[at].has[what as usize].wanted.saturating_sub(sharing.targets[what as usize][at]);
            more.checked_div(part[what as usize]).unwrap_or(u32::MAX)
        });
        let parts = whole.into_iter().min().unwrap_or(1).clamp(1, parts);
        for k in COUNTED.map(|what| what as usize) {
            sharing.targets[k][at] += part[k] * parts;
            sharing.left[k] -= part[k] * parts;
        }
        sharing.pass[at] += self.cost(at, part) * u64::from(parts);
    }

    /// What it moves a lane on by to have so much for a turn.
    fn cost(&self, at: usize, had: [u32; 2]) -> u64 {
        let parts = COUNTED.map(|what| {
            let part = u128::from(had[what as usize]) * u128::from(TURN_STEP) / u128::from(self.limit(what).max(1));
            u64::try_from(part).unwrap_or(u64::MAX).min(TURN_STEP)
        });
        parts.into_iter().max().unwrap_or(0) / self.turn.weights[at]
    }

    /// What a lane needs to begin something.
    fn needs(&self, at: usize, what: Counted) -> u32 {
        let has = &self.lanes[at].has[what as usize];
        has.least.min(has.wanted).min(self.limit(what))
    }

    fn wants(&self, at: usize) -> bool {
        self.lanes[at].has.iter().any(|has| has.wanted > 0)
    }

    /// Whether lanes want more than there is, of what is counted.
    pub(super) fn contended(&self) -> bool {
        COUNTED.iter().any(|what| self.sum(*what, |has| has.wanted) > u64::from(self.limit(*what)))
    }

    pub(super) fn sum(&self, what: Counted, of: impl Fn(&Holding) -> u32) -> u64 {
        self.lanes.iter().map(|lane| u64::from(of(&lane.has[what as usize]))).sum()
    }

    /// Whether there is too little for each to begin something.
    fn is_scarce(&self, what: Counted) -> bool {
        // What messages need changes with each: of octets there may be enough now and too little in a moment.
        let needs = |has: &Holding| if what == Counted::Octets { has.wanted } else { has.least };
        self.sum(what, needs) > u64::from(self.limit(what))
    }

    /// Whether a lane has what it needs to begin something, but for permits.
    pub(super) fn has_its_own(&self, at: usize) -> bool {
        COUNTED.iter().all(|what| self.lanes[at].has[*what as usize].granted >= self.needs(at, *what))
    }

    /// Moves on who comes first, where what is counted is too little for all.
    pub(super) fn take_turns(&mut self, now: Moment) {
        let lanes = self.lanes.len();
        let wanting = (0..lanes).filter(|at| self.wants(*at)).count();
        let is_scarce = COUNTED.iter().any(|what| self.is_scarce(*what));
        // Where messages have a rate tenants share that: connections need not move for it.
        let by_weight = self.rate(Paced::Message).is_none();
        if wanting < 2 || !(is_scarce || by_weight && self.contended()) || self.measures.rests().is_some() {
            self.turn.ends = None;
            self.turn.pass.fill(0);
            self.turn.weights.fill(1);
            return;
        }
        let has_its_own = self.has_its_own(self.turn.first);
        let paced = self.rate(Paced::Message).is_some();
        let counts_octets = self.limits.bytes_in_flight.is_some();
        let length = limits::LEASE_TURN * if is_scarce { 1 } else { limits::LEASE_LONG_TURN };
        let turn = &mut self.turn;
        if turn.ends.is_none() {
            (turn.ends, turn.since) = (Some(now + length), now);
            if by_weight {
                turn.weights = (0..lanes).map(|at| self.crowds.weight(at)).collect();
            }
        }
        // Where messages are rarer than turns, one that opens a connection gets to use it; and one whose message needs
        // more than others give back in a turn gets it in the end.
        let is_over =
            if counts_octets && !has_its_own { false } else { turn.used || !paced || turn.ends_at_last <= now };
        let is_due = turn.ends.is_some_and(|ends| ends <= now);
        if is_due {
            turn.ends = Some(now + length);
        }
        let wants = self.wants(self.turn.first);
        if !wants || is_due && is_over {
            self.end_turn(now);
            let first = (0..lanes).filter(|at| self.wants(*at)).min_by_key(|at| self.turn.pass[*at]);
            self.begin_turn(first.unwrap_or(0), now, length);
        }
    }

    fn begin_turn(&mut self, first: usize, now: Moment, length: Duration) {
        let turn = &mut self.turn;
        (turn.first, turn.used, turn.since) = (first, false, now);
        (turn.ends, turn.ends_at_last) = (Some(now + length), now + limits::LEASE_TURN_MAX);
    }

    /// What lanes had in the turn counts: so much later they are first again.
    fn end_turn(&mut self, now: Moment) {
        let lanes = self.lanes.len();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let turn = millis(limits::LEASE_TURN);
        let time = millis(now.since(self.turn.since)).min(turn * u64::from(limits::LEASE_LONG_TURN));
        for at in 0..lanes {
            let had = COUNTED.map(|what| self.lanes[at].has[what as usize].granted);
            self.turn.pass[at] += self.cost(at, had) * time / turn;
        }
        if self.rate(Paced::Message).is_none() {
            for (at, weight) in self.turn.weights.iter_mut().enumerate() {
                *weight = (*weight * (LEARNED - 1) + self.crowds.weight(at)).div_ceil(LEARNED);
            }
        }
        let least = (0..lanes).filter(|at| self.wants(*at)).map(|at| self.turn.pass[at]).min().unwrap_or(0);
        for at in 0..lanes {
            // What one did not ask for in time it does not get later, and nobody pays for long.
            let most = 2 * u64::from(limits::LEASE_LONG_TURN) * TURN_STEP / self.turn.weights[at];
            self.turn.pass[at] = self.turn.pass[at].saturating_sub(least).min(most);
        }
    }

    /// A tenant that had no mail in any lane has some in one that has nothing to begin it with: it is next.
    pub(super) fn let_in(&mut self, at: usize, now: Moment) {
        let is_needed = self.turn.ends.is_some() && self.turn.first != at && self.wants(at) && !self.has_its_own(at);
        let may_end = self.limits.bytes_in_flight.is_none() || self.has_its_own(self.turn.first);
        if is_needed && may_end {
            self.end_turn(now);
            self.begin_turn(at, now, limits::LEASE_TURN);
        }
    }
}
