//! PURE. A scope that limits mail beside its site's connections and rates: this shard's share of it, and the flows that wait
//! for it, in their order. In: what they need, what there is. Out: who may go. It refuses to know the queue and connections.

use super::super::Map;
use crate::lease::{self, Counted, Paced, Scope, Share};
use crate::limits;
use crate::queue::{DestinationId, FlowId};
use crate::shaping::{Limits, Shaping, Site};
use crate::time::Moment;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;

/// Scopes of one message.
pub(super) const SCOPES: usize = 4;

/// This shard's shares of scopes that are no site's connections and rates.
#[derive(Default)]
pub(in crate::deliver) struct Scopes {
    /// The rules have limits for any.
    pub(super) active: bool,
    /// Of the rules.
    pub(super) epoch: u32,
    pub(super) places: Vec<(u32, Option<Box<Held>>)>,
    pub(super) free: Vec<u32>,
    pub(super) by_name: Map<Scope, ScopeId>,
    /// Those that may have something to tell, or somebody to let go.
    pub(super) news: Vec<ScopeId>,
    /// When one is to be looked at, earliest first.
    pub(super) timers: BinaryHeap<Reverse<(Moment, ScopeId)>>,
}

/// Names a scope until it is forgotten; kept longer it names nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::deliver) struct ScopeId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// A flow at a destination.
pub(super) type Place = (DestinationId, FlowId);

/// What is known of a scope here.
pub(super) struct Held {
    pub(super) share: Share,
    pub(super) whose: Whose,
    /// Who had been let go and had a connection, but found no room: they come first.
    pub(super) entitled: Line,
    /// Who waits for a turn.
    pub(super) waiting: Line,
    /// Who is in either line: a flow whose mail went elsewhere meanwhile has its place there still, and gets no second one.
    pub(super) in_line: Map<Place, ()>,
    /// Who was let go and has not begun a message since.
    pub(super) admitted: Map<Place, ()>,
    /// Room that they were let go for, and until when it is kept for them: messages, and units of octets.
    pub(super) given: (Moment, u32, u32),
    /// Flows let go without a connection until that moment.
    pub(super) ahead: (Moment, u32),
    /// It stands in `Scopes::news`.
    pub(super) listed: bool,
    /// When it was needed last.
    pub(super) needed: Moment,
    /// Since when somebody waits, and when that was told last.
    pub(super) waited_for: Option<Moment>,
    pub(super) told: Option<Moment>,
}

/// Whose limits a scope has.
pub(super) enum Whose {
    /// Only of octets in flight.
    Site(Site),
    Tenant(Rc<str>),
    TenantAt(Rc<str>, Site),
    Campaign(Rc<str>),
}

/// A flow that waits.
pub(super) struct Waiter {
    pub(super) place: Place,
    /// Messages that it could begin at once; none while it has no connection.
    pub(super) could: u32,
    /// Units of octets that its next one takes.
    pub(super) octets: u32,
}

#[derive(Default)]
pub(super) struct Line {
    pub(super) line: VecDeque<Waiter>,
    /// Of all in it.
    pub(super) could: u64,
    pub(super) octets: u64,
}

/// What a flow at a destination keeps to. Found once, and kept with the destination's pool.
pub(in crate::deliver) struct Bound {
    pub(super) names: [Option<Rc<str>>; 2],
    pub(super) epoch: u32,
    pub(super) limited: Limited,
}

/// As far as it is asked for each message.
#[derive(Clone, Copy)]
pub(in crate::deliver) struct Limited {
    pub(super) scopes: [Option<ScopeId>; SCOPES],
    /// Of a transaction.
    pub(in crate::deliver) recipients: u32,
    /// Messages have a rate.
    pub(super) paced: bool,
}

/// What a transaction has of its scopes.
pub(in crate::deliver) struct Counts {
    pub(super) scopes: [Option<(ScopeId, u32)>; SCOPES],
}

impl Line {
    pub(super) fn push(&mut self, waiter: Waiter) {
        self.could += u64::from(waiter.could);
        self.octets += u64::from(waiter.octets) * u64::from(waiter.could);
        self.line.push_back(waiter);
    }

    pub(super) fn take(&mut self, at: usize) -> Option<Waiter> {
        let waiter = self.line.remove(at)?;
        self.could -= u64::from(waiter.could);
        self.octets -= u64::from(waiter.octets) * u64::from(waiter.could);
        Some(waiter)
    }
}

impl Whose {
    pub(super) fn name(&self) -> Scope {
        // A site's own name has no capital letter, a provider's no colon.
        match self {
            Whose::Site(site) => format!("Site {}", site.name),
            Whose::Tenant(name) => format!("Tenant: {name}"),
            Whose::TenantAt(name, site) => format!("Tenant at {}: {name}", site.name),
            Whose::Campaign(name) => format!("Campaign: {name}"),
        }
        .into()
    }

    pub(super) fn limits(&self, shaping: &Shaping) -> Limits {
        let limits = match self {
            Whose::Site(site) => Limits { bytes_in_flight: shaping.limits(site).bytes_in_flight, ..Limits::default() },
            Whose::Tenant(name) => shaping.tenant_limits(name),
            Whose::TenantAt(name, site) => shaping.tenant_site_limits(name, site),
            Whose::Campaign(name) => shaping.campaign_limits(name),
        };
        if crate::limits::MAIL_IN_FLIGHT_COUNTS {
            return limits;
        }
        Limits { bytes_in_flight: None, connections: None, ..limits }
    }
}

impl Held {
    /// Whether a message of so many octets could begin now.
    pub(super) fn has_room(&self, octets: u32, now: Moment) -> bool {
        let share = &self.share;
        (share.has_permit(Paced::Message, now) || planted!(TenantPermitNotAsked))
            && share.bears(Counted::Connection, 1)
            && share.bears(Counted::Octets, octets)
    }

    pub(super) fn is_waited_for(&self) -> bool {
        !self.entitled.line.is_empty() || !self.waiting.line.is_empty()
    }

    /// Flows that may be on their way to a connection, or wait with one: with fewer, room might be left unused.
    pub(super) fn lead(&self) -> u32 {
        let limits = self.share.limits();
        let by_rate = limits.message_rate.map(|rate| {
            let lead = limits::LEASE_LEAD.as_nanos() / rate.interval().as_nanos().max(1);
            u32::try_from(lead).unwrap_or(u32::MAX).saturating_add(rate.burst())
        });
        let by_number = limits.connections.map(|n| 2 * n + 8);
        by_rate.into_iter().chain(by_number).min().unwrap_or(u32::MAX).min(limits::SCOPE_LEAD)
    }

    /// Whether one more may be let go ahead of the room it needs; else perhaps when that can be asked again.
    pub(super) fn may_go_ahead(&mut self, now: Moment) -> Result<(), Option<Moment>> {
        if self.entitled.line.len() as u64 >= u64::from(self.lead()) {
            return Err(None);
        }
        if now >= self.ahead.0 {
            self.ahead = (now + limits::LEASE_LEAD, 0);
        }
        if self.entitled.line.len() as u64 + u64::from(self.ahead.1) >= u64::from(self.lead()) {
            return Err(Some(self.ahead.0));
        }
        match self.share.begins_from(now) {
            // It is being asked.
            None => return Err(None),
            Some(from) if from > now => return Err(Some(from)),
            Some(_) => {}
        }
        self.ahead.1 += 1;
        Ok(())
    }

    /// What waits for what, in words.
    pub(super) fn told(&self) -> String {
        format!("{} has no room ({})", self.whose.name(), self.share.limits())
    }

    /// Somebody has waited for a while, and it was not told lately.
    pub(super) fn is_to_be_told(&mut self, now: Moment) -> Option<String> {
        if !self.is_waited_for() {
            self.waited_for = None;
            return None;
        }
        let since = *self.waited_for.get_or_insert(now);
        let is_long = now.since(since) >= limits::SCOPE_PATIENCE;
        let is_news = self.told.is_none_or(|told| now.since(told) >= limits::SCOPE_TOLD);
        (is_long && is_news).then(|| {
            self.told = Some(now);
            self.told()
        })
    }

    /// The next in the line, if it has no connection and is to get one ahead of its room; else perhaps when that may be.
    pub(super) fn next_ahead(&mut self, now: Moment) -> Result<Waiter, Option<Moment>> {
        if self.waiting.line.front().is_none_or(|waiter| waiter.could > 0) {
            return Err(None);
        }
        self.may_go_ahead(now)?;
        let waiter = self.waiting.take(0).ok_or(None)?;
        self.in_line.remove(&waiter.place);
        Ok(waiter)
    }

    /// The next of those that have a connection, if there is this much room.
    pub(super) fn next_with(&mut self, room: u32, octets: u32) -> Option<Waiter> {
        let (line, at) = if self.entitled.line.is_empty() {
            // Room that those in front cannot use yet is not left unused.
            let mut near = self.waiting.line.iter().take(limits::SCOPE_LOOKED_AT);
            let at = near.position(|waiter| waiter.could > 0)?;
            (&mut self.waiting, at)
        } else {
            (&mut self.entitled, 0)
        };
        if room == 0 || octets < line.line[at].octets {
            return None;
        }
        let waiter = line.take(at)?;
        self.in_line.remove(&waiter.place);
        Some(waiter)
    }

    /// Tells the share what is wanted of it.
    pub(super) fn sum_up(&mut self, now: Moment) {
        let (until, messages, octets) = self.given;
        let (messages, octets) = if now < until { (messages, octets) } else { (0, 0) };
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let could = number(self.entitled.could + self.waiting.could).saturating_add(messages);
        self.share.could_use(Paced::Message, could);
        self.share.could_have(Counted::Connection, could, 1);
        let next = self.entitled.line.front().or(self.waiting.line.front().filter(|waiter| waiter.could > 0));
        let least = next.map_or(0, |waiter| waiter.octets);
        let all = number(self.entitled.octets + self.waiting.octets).saturating_add(octets);
        self.share.could_have(Counted::Octets, all, least.saturating_add(octets));
    }
}

impl Scopes {
    pub(in crate::deliver) fn new(shaping: &Shaping) -> Self {
        Scopes { active: shaping.limits_flows(), ..Scopes::default() }
    }

    /// Scopes; flows that wait in them.
    #[cfg(any(test, feature = "sim"))]
    pub(in crate::deliver) fn sizes(&self) -> [usize; 2] {
        let held = self.places.iter().filter_map(|(_, held)| held.as_ref());
        [self.by_name.len(), held.map(|held| held.entitled.line.len() + held.waiting.line.len()).sum()]
    }

    pub(in crate::deliver) fn poll_timeout(&self) -> Option<Moment> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    pub(in crate::deliver) fn is_active(&self) -> bool {
        self.active
    }

    pub(super) fn get(&self, id: ScopeId) -> Option<&Held> {
        let (generation, held) = self.places.get(id.index as usize)?;
        held.as_deref().filter(|_| *generation == id.generation)
    }

    pub(super) fn get_mut(&mut self, id: ScopeId) -> Option<&mut Held> {
        let (generation, held) = self.places.get_mut(id.index as usize)?;
        held.as_deref_mut().filter(|_| *generation == id.generation)
    }

    /// The scope of that name, made if there is none. `None`: it limits nothing that is counted for each message.
    pub(super) fn find(&mut self, whose: Whose, shaping: &Shaping, now: Moment) -> Option<ScopeId> {
        let limits = whose.limits(shaping);
        let Limits { connections, message_rate, bytes_in_flight, .. } = limits;
        if (connections, message_rate, bytes_in_flight) == (None, None, None) {
            return None;
        }
        let name = whose.name();
        if let Some(id) = self.by_name.get(&name) {
            return Some(*id);
        }
        let held = Box::new(Held {
            share: Share::new(name.clone(), limits),
            whose,
            entitled: Line::default(),
            waiting: Line::default(),
            in_line: Map::default(),
            admitted: Map::default(),
            given: (Moment(0), 0, 0),
            ahead: (Moment(0), 0),
            listed: false,
            needed: now,
            waited_for: None,
            told: None,
        });
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            u32::try_from(self.places.len() - 1).expect("memory ends before 4 billion scopes")
        });
        let place = &mut self.places[index as usize];
        place.1 = Some(held);
        let id = ScopeId { index, generation: place.0 };
        self.by_name.insert(name, id);
        self.timers.push(Reverse((now + limits::SCOPE_IDLE, id)));
        Some(id)
    }

    pub(super) fn forget(&mut self, id: ScopeId) {
        let (generation, held) = &mut self.places[id.index as usize];
        *generation = generation.wrapping_add(1);
        if let Some(held) = held.take() {
            self.by_name.remove(&held.whose.name());
        }
        self.free.push(id.index);
    }

    pub(super) fn list(&mut self, id: ScopeId) {
        if let Some(held) = self.get_mut(id)
            && !std::mem::replace(&mut held.listed, true)
        {
            self.news.push(id);
        }
    }

    /// The first scope without room for a message, by its octets.
    pub(super) fn lacks(&self, limited: &Limited, place: Place, size: u32, now: Moment) -> Option<ScopeId> {
        limited.scopes.iter().flatten().copied().find(|id| {
            self.get(*id).is_some_and(|held| {
                let others = held.is_waited_for() && !held.admitted.contains_key(&place);
                others || !held.has_room(lease::octets(size.into(), held.share.limits()), now)
            })
        })
    }

    /// A flow waits from now on, in front of others if it was let go before.
    pub(super) fn wait(&mut self, id: ScopeId, place: Place, could: u32, size: u32, now: Moment) {
        let Some(held) = self.get_mut(id) else { return };
        let octets = lease::octets(size.into(), held.share.limits());
        let was_let_go = held.admitted.remove(&place).is_some();
        if held.in_line.insert(place, ()).is_some() {
            return;
        }
        let line = if was_let_go && could > 0 { &mut held.entitled } else { &mut held.waiting };
        line.push(Waiter { place, could, octets });
        held.needed = now;
        self.list(id);
    }

    /// A message begins: there is room.
    pub(super) fn begin(&mut self, limited: &Limited, place: Place, size: u32, now: Moment) -> Option<Box<Counts>> {
        let mut counts = Counts { scopes: [None; SCOPES] };
        for (id, count) in limited.scopes.iter().zip(&mut counts.scopes) {
            let Some((id, held)) = id.and_then(|id| Some((id, self.get_mut(id)?))) else { continue };
            let octets = lease::octets(size.into(), held.share.limits());
            held.share.take(Paced::Message, now);
            held.share.begin(Counted::Connection, 1);
            held.share.begin(Counted::Octets, octets);
            held.admitted.remove(&place);
            let (_, messages, units) = &mut held.given;
            (*messages, *units) = (messages.saturating_sub(1), units.saturating_sub(octets));
            held.needed = now;
            *count = Some((id, octets));
            self.list(id);
        }
        counts.scopes.iter().any(Option::is_some).then(|| Box::new(counts))
    }

    /// It was answered, or will not be.
    pub(in crate::deliver) fn give_back(&mut self, counts: Option<Box<Counts>>) {
        for (id, octets) in counts.iter().flat_map(|counts| &counts.scopes).flatten() {
            if let Some(held) = self.get_mut(*id) {
                held.share.end(Counted::Connection, 1);
                held.share.end(Counted::Octets, *octets);
                self.list(*id);
            }
        }
    }
}
