//! PURE. One lane's share of a scope's limits.

use super::{Batch, KINDS, Paced, Scope, ToLane, ToLedger, Used};
use crate::limits;
use crate::shaping::{Limits, Rate};
use crate::time::Moment;

/// What a shard has of a scope, and what it has asked for. The methods are: getters; `wants`, `could_use`, `open`, `closed`, `take`
/// (commands); `handle`; `poll_send`. Lives on its shard.
#[derive(Debug)]
pub struct Share {
    scope: Scope,
    limits: Limits,
    /// Connections that it may have, has, and would have.
    granted: u32,
    open: u32,
    wanted: u32,
    recalled_to: Option<u32>,
    permits: [Permits; 2],
    /// What the ledger was told last.
    told: u32,
    /// It does not know the limits yet.
    new_limits: bool,
    /// Whether it is to be asked, or was, when a message could begin; and what it said, and when.
    inquiry: Inquiry,
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
            limits,
            granted: 0,
            open: 0,
            wanted: 0,
            recalled_to: None,
            permits: [Permits::default(); 2],
            told: 0,
            new_limits: false,
            inquiry: Inquiry::default(),
        }
    }

    // --- getters --------------------------------------------------------------------------------------------------

    /// The limits, as far as this shard knows.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Connections that count.
    pub fn connections(&self) -> u32 {
        self.open
    }

    /// Whether another connection may be opened, by its number. Its rate is another matter.
    pub fn has_room(&self) -> bool {
        self.open < self.granted.min(self.recalled_to.unwrap_or(u32::MAX))
    }

    /// What has to go, since others wait for it.
    pub fn closing(&self) -> Option<Closing> {
        let over = self.open.saturating_sub(self.recalled_to?);
        (over > 0).then_some(Closing { connections: over })
    }

    /// Whether there is a rate for these.
    pub fn is_paced(&self, kind: Paced) -> bool {
        self.rate(kind).is_some()
    }

    /// Whether there is nothing to be remembered, and nothing on its way.
    pub fn is_idle(&self) -> bool {
        let rests = |p: &Permits| p.batch.is_none() && p.asked == 0;
        self.granted == 0
            && self.open == 0
            && self.told == 0
            && self.wanted == 0
            && !self.inquiry.wanted
            && self.permits.iter().all(rests)
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
        self.new_limits = self.limits != limits;
        self.limits = limits;
    }

    /// It would have so many connections in all.
    pub fn wants(&mut self, connections: u32) {
        self.wanted = connections;
    }

    /// A connection is begun: there was [room](Self::has_room).
    pub fn open(&mut self) {
        self.open += 1;
    }

    /// A connection is closed, for the receiver too.
    pub fn closed(&mut self) {
        self.open = self.open.checked_sub(1).expect("what is closed was opened");
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
        self.granted += mail.connections;
        if mail.connections > 0 {
            self.recalled_to = None;
        }
        if mail.recalled_to.is_some() && !planted!(RecallIgnored) {
            self.recalled_to = mail.recalled_to;
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
        let kept = self.open.max(self.wanted).min(self.recalled_to.unwrap_or(u32::MAX).max(self.open));
        let returned = self.granted.saturating_sub(kept);
        let nothing_new = used == [None; 2] && returned == 0 && self.told == self.wanted && !self.new_limits;
        let inquires = self.inquiry.wanted && !self.inquiry.sent;
        let nothing_new = nothing_new && !inquires;
        if nothing_new && !asks {
            return None;
        }
        self.granted -= returned;
        if self.recalled_to.is_some_and(|to| self.granted <= to) {
            self.recalled_to = None;
        }
        self.inquiry.sent |= inquires;
        (self.told, self.new_limits) = (self.wanted, false);
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
            limits: Some(self.limits),
            wanted: self.wanted,
            returned,
            permits_wanted,
            used,
            inquires,
        })
    }
}
