//! PURE. One lane's share of a scope's limits.

use super::{
    Batch, COUNTED, Counted, Crowd, InForce, KINDS, Measure, Paced, Rest, Scope, Taken, ToLane, ToLedger, Used,
};
use crate::limits;
use crate::shaping::{Limits, Rate};
use crate::time::Moment;
use std::sync::Arc;

/// What a shard has of a scope, and what it has asked for. The methods are: getters; `wants`, `could_use`, `open`, `closed`, `take`
/// (commands); `handle`; `poll_send`. Lives on its shard.
#[derive(Debug)]
pub struct Share {
    scope: Scope,
    /// By the rules.
    usual: Limits,
    /// In force, as far as this shard knows.
    limits: Limits,
    /// What replies have brought about.
    force: Arc<InForce>,
    /// The ledger has not heard of this lane.
    is_new: bool,
    /// What it is to be told of replies.
    measures: Vec<Measure>,
    counted: [Units; 2],
    /// Connections are awaited, here or elsewhere.
    awaited: bool,
    permits: [Permits; 2],
    /// The ledger does not know the usual limits yet.
    new_limits: bool,
    /// Whether it is to be asked, or was, when a message could begin; and what it said, and when.
    inquiry: Inquiry,
    /// A letter of somebody who has had nothing has no connection to go on; and the ledger knows.
    stranded: bool,
    told_stranded: bool,
    /// Who has mail here, and whether the ledger does not know yet.
    crowd: Crowd,
    new_crowd: bool,
}

/// Units of what is counted: those that it may have, has, and would have.
#[derive(Clone, Copy, Debug, Default)]
struct Units {
    granted: u32,
    open: u32,
    wanted: u32,
    /// What is to be begun next takes so many of them.
    least: u32,
    recalled_to: Option<u32>,
    /// All lanes have more than there is.
    overdrawn: bool,
    /// What the ledger was told last of `wanted` and `least`.
    told: (u32, u32),
}

impl Units {
    /// What may be begun.
    fn room(&self) -> u32 {
        if self.overdrawn {
            return 0;
        }
        self.granted.min(self.recalled_to.unwrap_or(u32::MAX)).saturating_sub(self.open)
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Inquiry {
    wanted: bool,
    sent: bool,
    not_before: Moment,
    /// The answer is good until then.
    good_until: Moment,
}

#[derive(Clone, Copy, Debug, Default)]
struct Permits {
    batch: Option<Batch>,
    used: Option<Used>,
    /// How many it could use.
    wanted: u32,
    /// How many the ledger knows of; it has not answered.
    asked: u32,
}

/// What is to be closed so that others get their part.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Closing {
    /// So many connections, idle ones first.
    pub connections: u32,
}

impl Share {
    /// Of a scope with these limits: nothing, as yet.
    pub fn new(scope: Scope, limits: Limits) -> Self {
        Share {
            scope,
            usual: limits,
            limits,
            force: Arc::default(),
            is_new: true,
            measures: Vec::new(),
            counted: [Units::default(); 2],
            awaited: false,
            permits: [Permits::default(); 2],
            new_limits: false,
            inquiry: Inquiry::default(),
            stranded: false,
            told_stranded: false,
            crowd: Crowd::default(),
            new_crowd: false,
        }
    }

    /// These are in force, as was heard elsewhere, and not the usual ones: of what they count nothing is had before the ledger
    /// gives it.
    pub fn assume(&mut self, limits: Limits) {
        self.limits = limits;
    }

    // --- getters --------------------------------------------------------------------------------------------------

    /// The limits, as far as this shard knows.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether any of them is lower than usual, by what a host said.
    pub fn is_lowered(&self) -> bool {
        self.force.lowered
    }

    /// Connections that count.
    pub fn connections(&self) -> u32 {
        self.units(Counted::Connection).open
    }

    fn units(&self, what: Counted) -> &Units {
        &self.counted[what as usize]
    }

    fn units_mut(&mut self, what: Counted) -> &mut Units {
        &mut self.counted[what as usize]
    }

    /// Whether another connection may be opened, by its number. Its rate is another matter.
    pub fn has_room(&self) -> bool {
        self.units(Counted::Connection).room() > 0
    }

    /// Whether the connections that it wants beside those that it has are not to be had, until others end theirs.
    pub fn is_refused(&self) -> bool {
        let units = self.units(Counted::Connection);
        let is_short = self.awaited && units.granted < units.wanted;
        is_short || units.overdrawn || units.recalled_to.is_some() || planted!(AsksTooEarly)
    }

    /// Whether a lane, this one or another, waits for connections that are not to be had.
    pub fn is_awaited(&self) -> bool {
        self.awaited
    }

    /// Units of what is counted that may be begun now; `None`: any number.
    pub fn room(&self, what: Counted) -> Option<u32> {
        self.limits.counted(what).map(|_| self.units(what).room())
    }

    /// Whether so many units of what is counted may be begun now.
    pub fn bears(&self, what: Counted, units: u32) -> bool {
        let uncounted = match what {
            Counted::Connection => planted!(TransactionsUncounted),
            Counted::Octets => planted!(OctetsUncounted),
        };
        uncounted || self.limits.counted(what).is_none() || self.units(what).room() >= units
    }

    /// What has to go, since others wait for it.
    pub fn closing(&self) -> Option<Closing> {
        let units = self.units(Counted::Connection);
        let over = units.open.saturating_sub(units.recalled_to?);
        (over > 0).then_some(Closing { connections: over })
    }

    /// Whether there is a rate for these.
    pub fn is_paced(&self, kind: Paced) -> bool {
        self.rate(kind).is_some()
    }

    /// Whether there is nothing to be remembered, and nothing on its way.
    pub fn is_idle(&self) -> bool {
        let rests = |p: &Permits| p.batch.is_none() && p.asked == 0;
        let nothing = |u: &Units| u.granted == 0 && u.open == 0 && u.told == (0, 0) && u.wanted == 0;
        self.counted.iter().all(nothing)
            && !self.inquiry.wanted
            && !self.new_crowd
            && self.measures.is_empty()
            && self.permits.iter().all(rests)
    }

    /// Until when nothing is sent, and why.
    pub fn rests(&self) -> Option<&Rest> {
        self.force.rests.as_ref()
    }

    /// Whether any tenant rests.
    pub fn tenants_rest(&self) -> bool {
        !self.force.tenants.is_empty()
    }

    /// Until when nothing of a tenant is sent, and why.
    pub fn resting_tenant(&self, tenant: &str) -> Option<&Rest> {
        self.force.tenants.iter().find(|(name, _)| **name == *tenant).map(|(_, rest)| rest)
    }

    /// When something of what rests is over next.
    pub fn over(&self, now: Moment) -> Option<Moment> {
        let tenants = self.force.tenants.iter().map(|(_, rest)| rest.until);
        self.force.rests.iter().map(|rest| rest.until).chain(tenants).filter(|until| *until > now).min()
    }

    /// What the ledger says, and what rests that it has not heard of: nothing rests for less long than was said.
    fn with_own(&self, mut told: Arc<InForce>, now: Moment) -> Arc<InForce> {
        let own = self
            .force
            .rests
            .as_ref()
            .filter(|own| own.until > now && told.rests.as_ref().is_none_or(|rest| rest.until < own.until));
        if let Some(own) = own {
            Arc::make_mut(&mut told).rests = Some(own.clone());
        }
        for (name, own) in self.force.tenants.iter().filter(|(_, own)| own.until > now) {
            if told.tenants.iter().any(|(other, rest)| other == name && rest.until >= own.until) {
                continue;
            }
            let force = Arc::make_mut(&mut told);
            force.tenants.retain(|(other, _)| other != name);
            force.tenants.push((Arc::clone(name), own.clone()));
        }
        told
    }

    fn rate(&self, kind: Paced) -> Option<Rate> {
        match kind {
            Paced::Message => self.limits.message_rate,
            Paced::Start => self.limits.connection_rate,
        }
    }

    // --- commands -------------------------------------------------------------------------------------------------

    /// New rules.
    pub fn set_limits(&mut self, limits: Limits) {
        if self.usual != limits {
            (self.usual, self.new_limits) = (limits, true);
            if !self.force.lowered {
                self.limits = limits;
            }
            // When a message could begin was said by the old ones.
            self.inquiry = Inquiry::default();
        }
    }

    /// A reply has brought this about. A rest holds here at once; what else it is the ledger says.
    pub fn impose(&mut self, measure: Measure) {
        let rest = || Rest { until: measure.until, why: Arc::clone(&measure.why) };
        let longer = |known: Option<&Rest>| known.is_none_or(|known| known.until < measure.until);
        match &measure.what {
            Taken::Rest if longer(self.force.rests.as_ref()) => Arc::make_mut(&mut self.force).rests = Some(rest()),
            Taken::RestOf(tenant) if longer(self.resting_tenant(tenant)) => {
                let force = Arc::make_mut(&mut self.force);
                force.tenants.retain(|(name, _)| name != tenant);
                force.tenants.push((Arc::clone(tenant), rest()));
            }
            _ => {}
        }
        self.measures.push(measure);
    }

    /// Whether it waits for something of the limits.
    pub fn lacks(&self) -> bool {
        self.permits.iter().any(|permits| permits.wanted > 0 && permits.batch.is_none())
            || self.counted.iter().any(|units| units.wanted > units.granted)
    }

    /// Whether it has said, or is to say, who has mail here.
    pub fn has_crowd(&self) -> bool {
        self.crowd != Crowd::default()
    }

    /// These have mail here. Told with the next that is told, and at once while it [lacks](Self::lacks) something.
    /// True: it is news.
    pub fn set_crowd(&mut self, crowd: Crowd) -> bool {
        let is_new = self.crowd != crowd;
        if is_new {
            (self.crowd, self.new_crowd) = (crowd, true);
        }
        is_new
    }

    /// Whether a letter of somebody who has had nothing waits for a connection: the ledger may know a lane that has one.
    pub fn strands(&mut self, stranded: bool) {
        self.stranded = stranded;
    }

    /// It would have so many connections in all.
    pub fn wants(&mut self, connections: u32) {
        let units = self.units_mut(Counted::Connection);
        (units.wanted, units.least) = (connections, connections.min(1));
    }

    /// Beside what it has it could use so many units of what is counted; the next thing to be begun takes `least` of them.
    pub fn could_have(&mut self, what: Counted, more: u32, least: u32) {
        let limited = self.limits.counted(what).is_some();
        let units = self.units_mut(what);
        let (more, least) = if limited { (units.open.saturating_add(more), least.min(more)) } else { (0, 0) };
        (units.wanted, units.least) = (more, least);
    }

    /// A connection is begun: there was [room](Self::has_room).
    pub fn open(&mut self) {
        self.units_mut(Counted::Connection).open += 1;
    }

    /// Counts units: [`bears`](Self::bears) said that it may.
    pub fn begin(&mut self, what: Counted, units: u32) {
        self.units_mut(what).open += units;
    }

    /// Counts them back.
    pub fn end(&mut self, what: Counted, units: u32) {
        let all = self.units_mut(what);
        all.open = all.open.checked_sub(units).expect("what is over was begun");
    }

    /// Whether a permit could be taken now.
    pub fn has_permit(&self, kind: Paced, now: Moment) -> bool {
        self.rate(kind).is_none() || self.permits_left(kind, now) > 0
    }

    /// Permits that could be taken now.
    pub fn permits_left(&self, kind: Paced, now: Moment) -> u32 {
        let Permits { batch, used, .. } = self.permits[kind as usize];
        let used = used.map_or(0, |used| used.count);
        batch.filter(|batch| now < batch.until).map_or(0, |batch| batch.count - used)
    }

    /// A connection is closed, for the receiver too.
    pub fn closed(&mut self) {
        self.end(Counted::Connection, 1);
    }

    /// Takes a permit; false: there is none now, and [`could_use`](Self::could_use) says how many are wanted.
    pub fn take(&mut self, kind: Paced, now: Moment) -> bool {
        if self.rate(kind).is_none() {
            return true;
        }
        let permits = &mut self.permits[kind as usize];
        let used = permits.used.get_or_insert(Used { count: 0, last: Moment(0) });
        match &permits.batch {
            Some(batch) if now < batch.until && used.count < batch.count => {
                *used = Used { count: used.count + u32::from(!planted!(PermitNotCounted)), last: now };
                true
            }
            _ => false,
        }
    }

    /// From when on it is worth while to have a connection for a message to come, by its rate; `None`: that is being asked.
    pub fn begins_from(&mut self, now: Moment) -> Option<Moment> {
        if self.limits.message_rate.is_none() {
            return Some(now);
        }
        if now < self.inquiry.good_until {
            return Some(self.inquiry.not_before - limits::LEASE_LEAD);
        }
        self.inquiry.wanted = true;
        None
    }

    /// So many permits could be used at once. With none, those that are left are for others.
    pub fn could_use(&mut self, kind: Paced, permits: u32) {
        self.permits[kind as usize].wanted = if self.rate(kind).is_some() { permits } else { 0 };
    }

    // --- handle ---------------------------------------------------------------------------------------------------

    /// Mail of the ledger.
    pub fn handle(&mut self, mail: ToLane, now: Moment) {
        if let Some(not_before) = mail.not_before {
            let good_until = now + limits::LEASE_TERM;
            self.inquiry = Inquiry { wanted: false, sent: false, not_before, good_until };
        }
        if let Some(force) = mail.in_force {
            if self.limits != force.limits {
                self.inquiry = Inquiry::default();
            }
            self.limits = force.limits;
            self.force = self.with_own(force, now);
        }
        if mail.host.is_some() {
            // What it wanted for that letter the ledger has forgotten: it is told what is wanted behind it.
            self.told_stranded = false;
            self.units_mut(Counted::Connection).told = (u32::MAX, 0);
            self.permits[Paced::Start as usize].asked = 0;
        }
        self.awaited = mail.awaited.unwrap_or(self.awaited);
        for what in COUNTED {
            let (granted, recalled_to) = (mail.granted[what as usize], mail.recalled_to[what as usize]);
            let units = self.units_mut(what);
            units.granted += granted;
            if granted > 0 {
                (units.recalled_to, units.overdrawn) = (None, false);
            }
            if let Some(overdrawn) = mail.overdrawn[what as usize] {
                units.overdrawn = overdrawn && units.granted > 0;
            }
            if recalled_to.is_some() && !planted!(RecallIgnored) {
                units.recalled_to = recalled_to;
            }
        }
        for kind in KINDS {
            if let Some(batch) = mail.permits[kind as usize] {
                let permits = &mut self.permits[kind as usize];
                (permits.batch, permits.used, permits.asked) = (Some(batch), None, 0);
            }
        }
    }

    /// When a batch is over, so that [`poll_send`](Self::poll_send) has something to tell.
    pub fn poll_timeout(&self) -> Option<Moment> {
        self.permits.iter().filter_map(|p| p.batch.map(|batch| batch.until)).min()
    }

    // --- poll -----------------------------------------------------------------------------------------------------

    /// What the ledger is to know.
    pub fn poll_send(&mut self, lane: u16, now: Moment) -> Option<ToLedger> {
        let mut used = [None; 2];
        let mut asks = false;
        for kind in KINDS {
            let permits = &mut self.permits[kind as usize];
            let count = permits.used.map_or(0, |used| used.count);
            if let Some(batch) = permits.batch
                && (now >= batch.until || count == batch.count || permits.wanted == 0)
            {
                used[kind as usize] = Some(permits.used.unwrap_or(Used { count: 0, last: Moment(0) }));
                (permits.batch, permits.used) = (None, None);
            }
            // It is not asked for more while there are some left.
            asks |= permits.batch.is_none() && (permits.wanted > 0) != (permits.asked > 0);
        }
        let mut returned = [0; 2];
        let mut told = true;
        for (units, returned) in self.counted.iter().zip(&mut returned) {
            let most = if units.overdrawn { 0 } else { units.recalled_to.unwrap_or(u32::MAX) };
            *returned = units.granted.saturating_sub(units.open.max(units.wanted).min(most.max(units.open)));
            told &= units.told == (units.wanted, units.least);
        }
        let nothing_new =
            used == [None; 2] && returned == [0; 2] && told && !self.new_limits && self.measures.is_empty();
        let inquires = self.inquiry.wanted && !self.inquiry.sent;
        let nothing_new = nothing_new && !inquires && (!self.stranded || self.told_stranded);
        let nothing_new = nothing_new && !(self.new_crowd && (self.lacks() || self.crowd == Crowd::default()));
        if nothing_new && !asks {
            return None;
        }
        for (units, returned) in self.counted.iter_mut().zip(returned) {
            units.granted -= returned;
            if units.recalled_to.is_some_and(|to| units.granted <= to) {
                units.recalled_to = None;
            }
            units.overdrawn &= units.granted > 0;
            units.told = (units.wanted, units.least);
        }
        self.inquiry.sent |= inquires;
        self.told_stranded = self.stranded;
        self.new_limits = false;
        let mut permits_wanted = [0; 2];
        for kind in KINDS {
            let permits = &mut self.permits[kind as usize];
            if permits.batch.is_none() {
                permits.asked = permits.wanted;
                permits_wanted[kind as usize] = permits.wanted;
            }
        }
        Some(ToLedger {
            scope: self.scope.clone(),
            lane,
            is_new: std::mem::take(&mut self.is_new),
            measures: std::mem::take(&mut self.measures),
            limits: Some(self.usual),
            wanted: self.counted.map(|units| units.wanted),
            least: self.counted.map(|units| units.least),
            returned,
            permits_wanted,
            used,
            inquires,
            stranded: self.stranded,
            crowd: std::mem::take(&mut self.new_crowd).then(|| self.crowd.clone()),
        })
    }
}
