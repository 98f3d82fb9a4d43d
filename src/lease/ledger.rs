//! PURE. The ledgers of one shard: who has how much of each limit.

mod division;

use self::division::Turn;
use super::crowd::Crowds;
use super::measures::{Change, Measure, Measures};
use super::pacing::Pacing;
use super::{COUNTED, Counted, KINDS, Paced, Scope, ToLane, ToLedger};
use crate::limits;
use crate::shaping::{Limits, Rate};
use crate::time::Moment;
use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

/// See the module. Lives on its shard.
#[derive(Debug)]
pub struct Ledgers {
    shards: u16,
    /// When this process began, if there was one before.
    again: Option<Moment>,
    ledgers: HashMap<Scope, Ledger, foldhash::quality::FixedState>,
    /// When a ledger is to be looked at, earliest first. It counts only while the ledger says the same.
    timers: BinaryHeap<Reverse<(Moment, Scope)>>,
    out: VecDeque<(u16, ToLane)>,
    /// What began or ended by replies.
    changes: VecDeque<(Scope, Change)>,
    /// Something is in force that was not, or for longer.
    taken: bool,
}

#[derive(Debug)]
struct Ledger {
    /// By the rules.
    usual: Limits,
    /// In force.
    limits: Limits,
    measures: Measures,
    lanes: Vec<Lane>,
    /// Of all that is counted together: of two lanes that each had a part of what a message needs, neither would go on.
    turn: Turn,
    paces: [Pacing; 2],
    /// See [`Ledgers::again`].
    again: Option<Moment>,
    /// Who gets the next permit.
    crowds: Crowds,
    /// The next letter that is stranded gets a host from then on.
    hosts_from: Moment,
    /// A lane waits for connections that are not to be had, or did shortly before.
    awaited_until: Moment,
    timer: Option<Moment>,
}

#[derive(Clone, Debug, Default)]
struct Lane {
    has: [Holding; 2],
    permits_wanted: [u32; 2],
    /// It was told that connections are awaited.
    told_awaited: bool,
    /// A letter is stranded there.
    stranded: bool,
    /// It said so, and has got no connection since: it is nobody's host until then.
    no_host_until: Moment,
}

/// What a lane has of what is counted.
#[derive(Clone, Copy, Debug, Default)]
struct Holding {
    wanted: u32,
    /// What it would begin next takes so many.
    least: u32,
    granted: u32,
    /// What it was told to come down to and has not yet.
    recalled_to: Option<u32>,
    /// It was told that all have more than there is.
    overdrawn: bool,
}

impl Ledger {
    fn new(limits: Limits, shards: u16, again: Option<Moment>, now: Moment) -> Self {
        let mut ledger = Ledger {
            usual: limits,
            limits: Limits::default(),
            measures: Measures::default(),
            lanes: vec![Lane::default(); usize::from(shards)],
            turn: Turn::new(usize::from(shards)),
            paces: [Pacing::default(), Pacing::default()],
            again,
            crowds: Crowds::new(usize::from(shards)),
            hosts_from: Moment(0),
            awaited_until: Moment(0),
            timer: None,
        };
        ledger.set_limits(limits, now);
        ledger
    }

    /// New rules: what was ahead of an old rate is as much ahead of the new one, in units and not in time. What the process
    /// before has begun nobody counted: as much as it may have, up to its end.
    fn set_limits(&mut self, limits: Limits, now: Moment) {
        let before = KINDS.map(|kind| self.rate(kind));
        self.limits = limits;
        for (kind, before) in KINDS.into_iter().zip(before) {
            let after = self.rate(kind);
            let pacing = &mut self.paces[kind as usize];
            match (before, after) {
                (Some(before), Some(after)) if before != after => pacing.rescale(before, after, now),
                (None, Some(rate)) if !planted!(RatesForgottenAtStart) => {
                    let spent = self.again.map(|began| began + rate.interval() * rate.burst());
                    pacing.due = pacing.due.max(spent.unwrap_or(pacing.due));
                }
                _ => {}
            }
        }
    }

    /// Other measures, or other usual limits: all lanes are told what is in force.
    fn renew(&mut self, now: Moment, scope: &Scope, out: &mut VecDeque<(u16, ToLane)>) {
        let limits = self.measures.limits(self.usual);
        self.set_limits(if planted!(LoweringForgotten) { self.usual } else { limits }, now);
        let force = Arc::new(self.measures.in_force(self.usual));
        for lane in (0..).take(self.lanes.len()) {
            out.push_back((lane, ToLane { in_force: Some(Arc::clone(&force)), ..ToLane::empty(scope) }));
        }
    }

    fn limit(&self, what: Counted) -> u32 {
        if self.measures.rests().is_some() {
            return 0;
        }
        let limit = self.limits.counted(what).unwrap_or(u32::MAX);
        if planted!(LimitCheckedLate) { limit.saturating_add(1) } else { limit }
    }

    fn rate(&self, kind: Paced) -> Option<Rate> {
        match kind {
            Paced::Message => self.limits.message_rate,
            Paced::Start => self.limits.connection_rate,
        }
    }

    /// A letter of somebody who has had nothing waits in a lane without a connection, and none is free: it goes to where
    /// one is. To take one from there would be to wait for all that it carries, and to end it for one letter.
    fn find_hosts(&mut self, now: Moment, scope: &Scope, out: &mut VecDeque<(u16, ToLane)>) {
        let k = Counted::Connection as usize;
        while let Some(at) = self.first_stranded().filter(|_| self.hosts_from <= now) {
            let connections = |lane: &Lane| {
                let has = &lane.has[k];
                (has.recalled_to.unwrap_or(u32::MAX).min(has.granted), has.granted)
            };
            let may =
                |&(_, lane): &(usize, &Lane)| lane.has[k].granted > 0 && !lane.stranded && lane.no_host_until <= now;
            let host = self.lanes.iter().enumerate().filter(may).max_by_key(|(_, lane)| connections(lane));
            let Some(host) = host.and_then(|(host, _)| u16::try_from(host).ok()) else { return };
            let lane = &mut self.lanes[at];
            lane.stranded = false;
            // Nothing is recalled for it. What it wants for others it says again.
            let has = &mut lane.has[k];
            has.wanted = has.wanted.min(has.granted);
            has.least = has.least.min(has.wanted);
            lane.permits_wanted[Paced::Start as usize] = 0;
            self.crowds.leaves(at);
            self.hosts_from = now + limits::LEASE_HOST_PAUSE;
            let lane = u16::try_from(at).expect("limits.rs bounds the shards");
            out.push_back((lane, ToLane { host: Some(host), ..ToLane::empty(scope) }));
        }
    }

    /// A lane whose letter no connection takes that it has or could be given.
    fn first_stranded(&self) -> Option<usize> {
        let what = Counted::Connection;
        let free = u64::from(self.limit(what)).saturating_sub(self.sum(what, |has| has.granted));
        self.lanes.iter().position(|lane| lane.stranded).filter(|_| free == 0 && self.measures.rests().is_none())
    }

    /// Gives what is counted to those that should have more, and recalls it from those that others wait for.
    fn share_counted(&mut self, now: Moment, scope: &Scope, out: &mut VecDeque<(u16, ToLane)>) {
        self.take_turns(now);
        for (what, targets) in COUNTED.into_iter().zip(self.targets()) {
            self.hand_out(what, targets, scope, out);
        }
        self.tell_awaited(now, scope, out);
    }

    fn hand_out(&mut self, what: Counted, targets: Vec<u32>, scope: &Scope, out: &mut VecDeque<(u16, ToLane)>) {
        let (k, limit) = (what as usize, self.limit(what));
        let granted: u64 = self.lanes.iter().map(|lane| u64::from(lane.has[k].granted)).sum();
        let mut free = u64::from(limit).saturating_sub(granted);
        let overdrawn = granted > u64::from(limit);
        let mut waits = overdrawn;
        for (lane, (state, target)) in (0..).zip(self.lanes.iter_mut().zip(&targets)) {
            let (state, no_host_until) = (&mut state.has[k], &mut state.no_host_until);
            let more = u64::from(target.saturating_sub(state.granted)).min(free);
            free -= more;
            waits |= u64::from(state.granted) + more < u64::from(*target);
            if more > 0 {
                let more = u32::try_from(more).expect("no more than was wanted");
                state.granted += more;
                (state.recalled_to, state.overdrawn) = (None, false);
                *no_host_until = Moment(0);
                let mut mail = ToLane::empty(scope);
                mail.granted[k] = more;
                out.push_back((lane, mail));
            }
        }
        for (lane, (state, target)) in (0..).zip(self.lanes.iter_mut().zip(targets)) {
            let state = &mut state.has[k];
            let mut mail = ToLane::empty(scope);
            if waits && state.granted > target && state.recalled_to != Some(target) {
                state.recalled_to = Some(target);
                mail.recalled_to[k] = Some(target);
            }
            if state.granted > 0 && state.overdrawn != overdrawn {
                // What one lane ends must not be begun again while another has too much.
                state.overdrawn = overdrawn;
                mail.overdrawn[k] = Some(overdrawn);
            }
            if mail.recalled_to[k].is_some() || mail.overdrawn[k].is_some() {
                out.push_back((lane, mail));
            }
        }
    }

    /// Tells lanes that connections are awaited, so that those with some to spare end them; that they are not any more only
    /// after a turn, or one that comes and goes would be told of as often.
    fn tell_awaited(&mut self, now: Moment, scope: &Scope, out: &mut VecDeque<(u16, ToLane)>) {
        if self.is_short() {
            self.awaited_until = now + limits::LEASE_TURN;
        }
        let awaited = now < self.awaited_until;
        for (lane, state) in (0..).zip(&mut self.lanes) {
            let awaited = awaited && !state.holds_nothing();
            if std::mem::replace(&mut state.told_awaited, awaited) != awaited {
                out.push_back((lane, ToLane { awaited: Some(awaited), ..ToLane::empty(scope) }));
            }
        }
    }

    /// Whether a lane has fewer connections than it wants.
    fn is_short(&self) -> bool {
        let has = |lane: &Lane| lane.has[Counted::Connection as usize];
        self.measures.rests().is_none() && self.lanes.iter().map(has).any(|has| has.granted < has.wanted)
    }

    /// Makes permits for those that wait for them, in turn.
    fn share_permits(&mut self, now: Moment, scope: &Scope, out: &mut VecDeque<(u16, ToLane)>) {
        for kind in KINDS.into_iter().filter(|_| self.measures.rests().is_none()) {
            let (k, lanes) = (kind as usize, self.lanes.len());
            let Some(rate) = self.rate(kind) else { continue };
            loop {
                let waiting: Vec<usize> = (0..lanes).filter(|&at| self.awaits(at, kind)).collect();
                let Some(at) = self.crowds.first(kind, waiting.iter().copied()) else { break };
                // Of what there is now each gets its part.
                let all: u64 = waiting.iter().map(|at| self.crowds.weight(*at)).sum();
                let part = (u64::from(rate.burst()) * self.crowds.weight(at)).div_ceil(all);
                let wanted = self.lanes[at].permits_wanted[k].min(u32::try_from(part).unwrap_or(u32::MAX));
                let lane = u16::try_from(at).expect("limits.rs bounds the shards");
                let Some(batch) = self.paces[k].make(lane, wanted, rate, now) else { break };
                self.lanes[at].permits_wanted[k] = 0;
                self.crowds.had(at, kind, batch.count, waiting.into_iter());
                let mut mail = ToLane::empty(scope);
                mail.permits[k] = Some(batch);
                out.push_back((lane, mail));
            }
        }
    }

    /// Whether a lane is to have a permit: it wants one, and has what else it needs to use it.
    fn awaits(&self, at: usize, kind: Paced) -> bool {
        self.lanes[at].permits_wanted[kind as usize] > 0 && (kind == Paced::Start || self.has_its_own(at))
    }

    /// When it is to be looked at next.
    fn due(&self, now: Moment) -> Option<Moment> {
        let permits = KINDS.into_iter().filter_map(|kind| {
            let waits = (0..self.lanes.len()).any(|at| self.awaits(at, kind)) && self.measures.rests().is_none();
            self.rate(kind).filter(|_| waits).map(|rate| self.paces[kind as usize].next(rate))
        });
        let hosts = self.first_stranded().map(|_| self.hosts_from).filter(|from| *from > now);
        let told = self.lanes.iter().any(|lane| lane.told_awaited) && !self.is_short();
        let awaited = Some(self.awaited_until).filter(|_| told);
        permits.chain(self.turn.ends).chain(self.measures.next()).chain(hosts).chain(awaited).min()
    }

    /// Whether nothing of it must be remembered.
    fn is_idle(&self, now: Moment) -> bool {
        let at_rest = |lane: &Lane| lane.holds_nothing() && lane.permits_wanted == [0; 2];
        let past = |kind: Paced| self.paces[kind as usize].is_past(now);
        self.measures.is_empty() && self.lanes.iter().all(at_rest) && KINDS.into_iter().all(past)
    }
}

impl Lane {
    /// Nor would it.
    fn holds_nothing(&self) -> bool {
        self.has.iter().all(|has| has.wanted == 0 && has.granted == 0)
    }
}

impl ToLane {
    fn empty(scope: &Scope) -> ToLane {
        ToLane {
            scope: scope.clone(),
            granted: [0; 2],
            recalled_to: [None; 2],
            overdrawn: [None; 2],
            awaited: None,
            permits: [None; 2],
            not_before: None,
            in_force: None,
            spread: None,
            host: None,
        }
    }
}

impl Ledgers {
    /// Of so many shards.
    pub fn new(shards: u16) -> Self {
        let (ledgers, timers) = (HashMap::default(), BinaryHeap::new());
        let (out, changes) = (VecDeque::new(), VecDeque::new());
        Ledgers { shards, again: None, ledgers, timers, out, changes, taken: false }
    }

    /// This process began at `now`, and another one was before it: of each rate all that it allows at once may have been begun
    /// just then.
    pub fn go_on(&mut self, now: Moment) {
        self.again = Some(now);
    }

    /// A measure of before the start is in force still.
    pub fn restore(&mut self, scope: &Scope, measure: Measure, now: Moment) {
        let new = || Ledger::new(Limits::default(), self.shards, self.again, now);
        let ledger = self.ledgers.entry(scope.clone()).or_insert_with(new);
        ledger.measures.take(measure, &mut Vec::new());
        self.look(scope, now);
    }

    /// All measures in force.
    pub fn measures(&self) -> impl Iterator<Item = (&Scope, &Measure)> {
        self.ledgers.iter().flat_map(|(scope, ledger)| ledger.measures.all().map(move |measure| (scope, measure)))
    }

    /// Whether any is new since the last call, or lasts longer.
    pub fn has_taken(&mut self) -> bool {
        std::mem::take(&mut self.taken)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ledgers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ledgers.is_empty()
    }

    /// Mail of a lane.
    pub fn handle(&mut self, mail: ToLedger, now: Moment) {
        let ToLedger { scope, lane, limits, wanted, least, returned, permits_wanted, used, inquires, .. } = mail;
        let (is_new, told, crowd) = (mail.is_new, mail.measures, mail.crowd);
        let ledger = match (self.ledgers.entry(scope.clone()), limits) {
            (Entry::Occupied(entry), _) => entry.into_mut(),
            (Entry::Vacant(entry), Some(limits)) => entry.insert(Ledger::new(limits, self.shards, self.again, now)),
            (Entry::Vacant(_), None) => return,
        };
        let others = limits.is_some_and(|limits| std::mem::replace(&mut ledger.usual, limits) != limits);
        let mut changes = Vec::new();
        let mut renewed = others;
        for measure in told {
            let taken = !planted!(SuspensionNotTold) && ledger.measures.take(measure, &mut changes);
            renewed |= taken;
            self.taken |= taken;
        }
        self.changes.extend(changes.into_iter().map(|change| (scope.clone(), change)));
        if renewed && !ledger.measures.is_empty() {
            ledger.renew(now, &scope, &mut self.out);
        } else if renewed {
            ledger.set_limits(ledger.measures.limits(ledger.usual), now);
        } else if is_new && !ledger.measures.is_empty() {
            let in_force = Some(Arc::new(ledger.measures.in_force(ledger.usual)));
            self.out.push_back((lane, ToLane { in_force, ..ToLane::empty(&scope) }));
        }
        for kind in KINDS {
            if let Some(used) = used[kind as usize] {
                let rate = ledger.rate(kind);
                ledger.turn.used |= kind == Paced::Message && used.count > 0;
                ledger.paces[kind as usize].settle(lane, used, rate);
            }
        }
        let state = &mut ledger.lanes[usize::from(lane)];
        state.told_awaited &= !is_new;
        for (k, has) in state.has.iter_mut().enumerate() {
            has.granted = has.granted.checked_sub(returned[k]).expect("a lane gives back what it was given");
            (has.wanted, has.least) = (wanted[k], least[k]);
            if has.recalled_to.is_some_and(|to| has.granted <= to) {
                has.recalled_to = None;
            }
            has.overdrawn &= has.granted > 0;
        }
        state.stranded = mail.stranded;
        if mail.stranded {
            state.no_host_until = now + limits::LEASE_TURN;
        }
        for kind in KINDS {
            // What it has not told of it had not got when it asked.
            let under_way = ledger.paces[kind as usize].is_under_way(lane);
            let wanted = if under_way { 0 } else { permits_wanted[kind as usize] };
            if std::mem::replace(&mut state.permits_wanted[kind as usize], wanted) == 0 && wanted > 0 {
                ledger.crowds.joins(usize::from(lane), kind);
            }
        }
        if let Some(crowd) = crowd {
            let at = usize::from(lane);
            let (brings_new, news) = ledger.crowds.tell(at, crowd);
            for (lane, spread) in news {
                let lane = u16::try_from(lane).expect("limits.rs bounds the shards");
                self.out.push_back((lane, ToLane { spread: Some(spread), ..ToLane::empty(&scope) }));
            }
            if brings_new && !mail.stranded {
                ledger.let_in(at, now);
            }
        }
        if inquires {
            let not_before = ledger.rate(Paced::Message).map(|rate| ledger.paces[Paced::Message as usize].next(rate));
            let not_before = not_before.max(ledger.measures.rests());
            self.out.push_back((lane, ToLane { not_before: not_before.or(Some(now)), ..ToLane::empty(&scope) }));
        }
        self.look(&scope, now);
    }

    /// The next moment at which a ledger has something to do.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Serves what is due.
    pub fn handle_timeout(&mut self, now: Moment) {
        while let Some(Reverse((at, _))) = self.timers.peek()
            && *at <= now
        {
            let Some(Reverse((at, scope))) = self.timers.pop() else { break };
            if self.ledgers.get(&scope).is_some_and(|ledger| ledger.timer == Some(at)) {
                if let Some(ledger) = self.ledgers.get_mut(&scope) {
                    ledger.timer = None;
                }
                self.look(&scope, now);
            }
        }
    }

    /// Mail to a lane.
    pub fn poll_send(&mut self) -> Option<(u16, ToLane)> {
        self.out.pop_front()
    }

    /// What replies have brought about, or what is over of it.
    pub fn poll_change(&mut self) -> Option<(Scope, Change)> {
        self.changes.pop_front()
    }

    fn look(&mut self, scope: &Scope, now: Moment) {
        let Some(ledger) = self.ledgers.get_mut(scope) else { return };
        let mut changes = Vec::new();
        if ledger.measures.expire(now, &mut changes) {
            self.changes.extend(changes.into_iter().map(|change| (scope.clone(), change)));
            ledger.renew(now, scope, &mut self.out);
        }
        ledger.find_hosts(now, scope, &mut self.out);
        ledger.share_counted(now, scope, &mut self.out);
        // A lane may just have got the connection that was closed elsewhere.
        ledger.find_hosts(now, scope, &mut self.out);
        ledger.share_permits(now, scope, &mut self.out);
        let mut due = ledger.due(now);
        if due.is_none() && ledger.is_idle(now) {
            self.ledgers.remove(scope);
            return;
        }
        if due.is_none() && ledger.lanes.iter().all(Lane::holds_nothing) {
            // Remembered for its rates, until those are over.
            due = Some(ledger.paces.iter().map(|pacing| pacing.due).max().unwrap_or(now).max(now + limits::LEASE_TERM));
        }
        if let Some(due) = due
            && ledger.timer.is_none_or(|timer| due < timer)
        {
            ledger.timer = Some(due);
            self.timers.push(Reverse((due, scope.clone())));
        }
    }
}
