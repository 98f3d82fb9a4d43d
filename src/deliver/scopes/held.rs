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
    /// Who was let go and has not begun a message since, and what is kept for it until then.
    pub(super) admitted: Map<Place, Option<Kept>>,
    /// When what is kept for somebody is not any more, earliest first.
    pub(super) lapses: BinaryHeap<Reverse<(Moment, Place)>>,
    /// Permits that they were let go for, and until when.
    pub(super) given: (Moment, u32),
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

/// Room for one message of a flow, which the share counts as if it had begun.
#[derive(Clone, Copy)]
pub(super) struct Kept {
    pub(super) octets: u32,
    pub(super) until: Moment,
}

/// What a flow waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Lack {
    pub(super) id: ScopeId,
    pub(super) of: Lacking,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lacking {
    /// To have a connection in time for its permit.
    Turn,
    /// Room in what is counted.
    Room,
    Permit,
}

/// A flow that waits.
#[derive(Clone, Copy)]
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
    /// Of all in it: messages that they could begin; and with those that would have a connection first, and their octets.
    pub(super) could: u64,
    pub(super) messages: u64,
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

impl Waiter {
    /// Messages that it would begin if there were room.
    fn messages(&self) -> u64 {
        u64::from(self.could.max(1))
    }
}

impl Line {
    pub(super) fn push(&mut self, waiter: Waiter) {
        self.could += u64::from(waiter.could);
        self.messages += waiter.messages();
        self.octets += u64::from(waiter.octets) * waiter.messages();
        self.line.push_back(waiter);
    }

    pub(super) fn take(&mut self, at: usize) -> Option<Waiter> {
        let waiter = self.line.remove(at)?;
        self.could -= u64::from(waiter.could);
        self.messages -= waiter.messages();
        self.octets -= u64::from(waiter.octets) * waiter.messages();
        Some(waiter)
    }
}

impl Whose {
    pub(super) fn name(&self) -> Scope {
        // A site's own name has no capital letter, a provider's no colon.
        match self {
            Whose::Site(site) => format!("{}{}", lease::OCTETS_AT, site.name),
            Whose::Tenant(name) => format!("Tenant: {name}"),
            Whose::TenantAt(name, site) => format!("Tenant at {}: {name}", site.name),
            Whose::Campaign(name) => format!("Campaign: {name}"),
        }
        .into()
    }

    pub(super) fn limits(&self, shaping: &Shaping) -> Limits {
        match self {
            Whose::Site(site) => Limits { bytes_in_flight: shaping.limits(site).bytes_in_flight, ..Limits::default() },
            Whose::Tenant(name) => shaping.tenant_limits(name),
            Whose::TenantAt(name, site) => shaping.tenant_site_limits(name, site),
            Whose::Campaign(name) => shaping.campaign_limits(name),
        }
    }
}

impl Held {
    /// Whether a message of so many octets of a flow could begin now, by what is counted.
    pub(super) fn bears(&self, place: &Place, octets: u32) -> bool {
        match self.kept(place) {
            Some(kept) => self.share.bears(Counted::Octets, octets.saturating_sub(kept.octets)),
            None => self.share.bears(Counted::Connection, 1) && self.share.bears(Counted::Octets, octets),
        }
    }

    /// Whether it could begin now, by its rate.
    pub(super) fn has_permit(&self, now: Moment) -> bool {
        self.share.has_permit(Paced::Message, now) || planted!(TenantPermitNotAsked)
    }

    /// Whether others come before a flow.
    fn is_for_others(&self, place: &Place) -> bool {
        self.is_waited_for() && !self.admitted.contains_key(place)
    }

    pub(super) fn is_waited_for(&self) -> bool {
        !self.entitled.line.is_empty() || !self.waiting.line.is_empty()
    }

    pub(super) fn is_paced(&self) -> bool {
        self.share.is_paced(Paced::Message)
    }

    /// Whether what is under way is counted.
    pub(super) fn counts(&self) -> bool {
        let limits = self.share.limits();
        limits.connections.is_some() || limits.bytes_in_flight.is_some()
    }

    /// Whether somebody waits, or has something kept.
    pub(super) fn has_to_serve(&self) -> bool {
        self.is_waited_for() || !self.lapses.is_empty()
    }

    fn kept(&self, place: &Place) -> Option<Kept> {
        self.admitted.get(place).copied().flatten()
    }

    /// A flow may go: room for a message of so many octets, which there is, is kept for it for a while. `None`: till when it was.
    pub(super) fn admit(&mut self, place: Place, octets: u32, now: Moment) -> Option<Moment> {
        if !self.counts() {
            self.admitted.entry(place).or_insert(None);
            return None;
        }
        let until = match self.kept(&place) {
            Some(kept) if kept.octets >= octets => return None,
            Some(kept) => {
                self.share.begin(Counted::Octets, octets - kept.octets);
                kept.until
            }
            None => {
                self.share.begin(Counted::Connection, 1);
                self.share.begin(Counted::Octets, octets);
                now + limits::SCOPE_KEPT
            }
        };
        self.admitted.insert(place, Some(Kept { octets, until }));
        self.lapses.push(Reverse((until, place)));
        Some(until)
    }

    /// What was kept for a flow is not any more; true if something was.
    pub(super) fn release(&mut self, place: &Place) -> bool {
        let Some(kept) = self.admitted.get_mut(place).and_then(Option::take) else { return false };
        self.share.end(Counted::Connection, 1);
        self.share.end(Counted::Octets, kept.octets);
        true
    }

    /// Those for whom room was kept for too long have no place in front either.
    pub(super) fn lapse(&mut self, now: Moment) {
        while let Some(Reverse((at, place))) = self.lapses.peek().copied()
            && at <= now
        {
            self.lapses.pop();
            if self.kept(&place).is_some_and(|kept| kept.until <= now) {
                self.release(&place);
                self.admitted.remove(&place);
            }
        }
        if self.lapses.len() > 2 * self.admitted.len() + 64 {
            let admitted = &self.admitted;
            self.lapses.retain(|Reverse((_, place))| admitted.get(place).is_some_and(Option::is_some));
        }
    }

    /// A message of so many octets begins, with what was kept for it or else with what there is.
    pub(super) fn begin(&mut self, place: &Place, octets: u32, now: Moment) {
        self.share.take(Paced::Message, now);
        self.release(place);
        self.admitted.remove(place);
        self.share.begin(Counted::Connection, 1);
        self.share.begin(Counted::Octets, octets);
        self.given.1 = self.given.1.saturating_sub(1);
        self.needed = now;
    }

    /// Flows that may be on their way to a connection, or wait with one, where messages have a rate: with fewer, room might be
    /// left unused.
    pub(super) fn lead(&self) -> u32 {
        let by_rate = self.share.limits().message_rate.map(|rate| {
            let lead = limits::LEASE_LEAD.as_nanos() / rate.interval().as_nanos().max(1);
            u32::try_from(lead).unwrap_or(u32::MAX).saturating_add(rate.burst())
        });
        by_rate.unwrap_or(u32::MAX).min(limits::SCOPE_LEAD)
    }

    /// Whether one more may be let go ahead of the permit it needs; else perhaps when that can be asked again.
    pub(super) fn may_go_ahead(&mut self, now: Moment) -> Result<(), Option<Moment>> {
        if !self.is_paced() {
            return Ok(());
        }
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

    /// Whether a flow may have a connection opened for its next message, by the rate: it has its place in front then.
    fn may_prepare(&mut self, place: Place, now: Moment) -> bool {
        if !self.admitted.contains_key(&place) {
            if self.is_waited_for() || self.may_go_ahead(now).is_err() {
                return false;
            }
            self.admitted.insert(place, None);
        }
        true
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

    /// Takes the next that may go out of its line, with so many permits; else perhaps when that can be asked again.
    pub(super) fn next(&mut self, permits: u32, now: Moment) -> Result<Waiter, Option<Moment>> {
        let bears = |held: &Held, waiter: &Waiter| held.bears(&waiter.place, waiter.octets);
        let (is_entitled, at, again) = match (self.entitled.line.front(), self.waiting.line.front().copied()) {
            (Some(first), _) if first.could == 0 || permits > 0 => (true, bears(self, first).then_some(0), None),
            (Some(_), _) => (true, None, None),
            (None, None) => return Err(None),
            (None, Some(first)) if !self.is_paced() => (false, bears(self, &first).then_some(0), None),
            (None, Some(first)) => {
                // One without a connection is to get it ahead of its permit.
                let goes = first.could == 0 && bears(self, &first);
                match if goes { self.may_go_ahead(now) } else { Err(None) } {
                    Ok(()) => (false, Some(0), None),
                    Err(again) => {
                        // Permits that those in front cannot use yet are not left unused.
                        let mut near = self.waiting.line.iter().take(limits::SCOPE_LOOKED_AT);
                        let at = near.position(|waiter| waiter.could > 0 && permits > 0);
                        (false, at.filter(|at| bears(self, &self.waiting.line[*at])), again)
                    }
                }
            }
        };
        let line = if is_entitled { &mut self.entitled } else { &mut self.waiting };
        let waiter = at.and_then(|at| line.take(at)).ok_or(again)?;
        self.in_line.remove(&waiter.place);
        Ok(waiter)
    }

    /// Tells the share what is wanted of it.
    pub(super) fn sum_up(&mut self, now: Moment) {
        let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let given = if now < self.given.0 { self.given.1 } else { 0 };
        let could = number(self.entitled.could + self.waiting.could).saturating_add(given);
        self.share.could_use(Paced::Message, could);
        let messages = number(self.entitled.messages + self.waiting.messages);
        self.share.could_have(Counted::Connection, messages, 1);
        let next = self.entitled.line.front().or(self.waiting.line.front());
        let octets = number(self.entitled.octets + self.waiting.octets);
        self.share.could_have(Counted::Octets, octets, next.map_or(0, |waiter| waiter.octets));
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

    /// The scope of that name, made if there is none. `in_force`: its limit of octets in flight, if a reply rule has lowered it.
    /// `None`: it limits nothing that is counted for each message.
    pub(super) fn find(
        &mut self,
        whose: Whose,
        in_force: Option<u64>,
        shaping: &Shaping,
        now: Moment,
    ) -> Option<ScopeId> {
        let usual = whose.limits(shaping);
        let limits = Limits { bytes_in_flight: in_force.or(usual.bytes_in_flight), ..usual };
        let Limits { connections, message_rate, bytes_in_flight, .. } = limits;
        if (connections, message_rate, bytes_in_flight) == (None, None, None) {
            return None;
        }
        let name = whose.name();
        if let Some(id) = self.by_name.get(&name) {
            return Some(*id);
        }
        let mut share = Share::new(name.clone(), usual);
        share.assume(limits);
        let held = Box::new(Held {
            share,
            whose,
            entitled: Line::default(),
            waiting: Line::default(),
            in_line: Map::default(),
            admitted: Map::default(),
            lapses: BinaryHeap::new(),
            given: (Moment(0), 0),
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

    /// Whether any of them counts what is under way.
    pub(super) fn counts(&self, limited: &Limited) -> bool {
        limited.scopes.iter().flatten().any(|id| self.get(*id).is_some_and(Held::counts))
    }

    /// Lets those of a scope go that there is room for, or soon will be: `let_go` does it, and says how many connections they
    /// have; `None`: there is no mail of theirs any more.
    pub(super) fn serve(&mut self, id: ScopeId, now: Moment, mut let_go: impl FnMut(Place) -> Option<u32>) {
        let Some(held) = self.get_mut(id) else { return };
        held.lapse(now);
        // What is left of its permits, and not given to others yet.
        let before = if now < held.given.0 { held.given.1 } else { 0 };
        let (paced, mut given) = (held.is_paced(), before);
        let mut permits = if paced { held.share.permits_left(Paced::Message, now) } else { u32::MAX };
        permits = permits.saturating_sub(given);
        while let Some(held) = self.get_mut(id) {
            let Waiter { place, could, octets } = match held.next(permits, now) {
                Ok(waiter) => waiter,
                Err(again) => {
                    self.timers.extend(again.map(|again| Reverse((again, id))));
                    break;
                }
            };
            let Some(connections) = let_go(place) else { continue };
            if paced && could > 0 {
                let begins = connections.min(permits);
                (permits, given) = (permits - begins, given.saturating_add(begins));
            }
            self.admit(id, place, octets, now);
        }
        let Some(held) = self.get_mut(id) else { return };
        if given != before {
            let until = now + limits::LEASE_TERM;
            held.given = (until, given);
            self.timers.push(Reverse((until, id)));
        }
        let Some(held) = self.get_mut(id) else { return };
        if held.admitted.len() > limits::SCOPE_FLOWS {
            // Whoever was let go long ago and has not come gets no place in front.
            held.admitted.retain(|_, kept| kept.is_some());
        }
        self.list(id);
    }

    /// The first scope without room for a message, by its octets: of those that count, or else of those with a rate.
    pub(super) fn lacks(&self, limited: &Limited, place: Place, size: u32, now: Moment) -> Option<Lack> {
        let all = || limited.scopes.iter().flatten().filter_map(|id| Some((*id, self.get(*id)?)));
        let has_room = |held: &Held| held.bears(&place, lease::octets(size.into(), held.share.limits()));
        let full = all().find(|(_, held)| held.counts() && (held.is_for_others(&place) || !has_room(held)));
        let early = || all().find(|(_, held)| held.is_paced() && (held.is_for_others(&place) || !held.has_permit(now)));
        match full {
            Some((id, _)) => Some(Lack { id, of: Lacking::Room }),
            None => early().map(|(id, _)| Lack { id, of: Lacking::Permit }),
        }
    }

    /// Whether a flow may have a connection opened for its next message: if all rates will soon have room, and all else has it,
    /// which is kept for it; else the one that lacks.
    pub(super) fn prepare(&mut self, limited: &Limited, place: Place, size: u32, now: Moment) -> Option<Lack> {
        for id in limited.scopes.into_iter().flatten() {
            let Some(held) = self.get_mut(id).filter(|held| held.is_paced()) else { continue };
            if !held.may_prepare(place, now) {
                return Some(Lack { id, of: Lacking::Turn });
            }
        }
        let octets = |held: &Held| lease::octets(size.into(), held.share.limits());
        for id in limited.scopes.into_iter().flatten() {
            let Some(held) = self.get(id).filter(|held| held.counts()) else { continue };
            if held.is_for_others(&place) || !held.bears(&place, octets(held)) {
                return Some(Lack { id, of: Lacking::Room });
            }
        }
        for id in limited.scopes.into_iter().flatten() {
            let Some(held) = self.get(id) else { continue };
            self.admit(id, place, octets(held), now);
        }
        None
    }

    /// A flow was let go by a scope: room for a message of so many units of octets is kept for it there.
    pub(super) fn admit(&mut self, id: ScopeId, place: Place, octets: u32, now: Moment) {
        let Some(held) = self.get_mut(id) else { return };
        if let Some(until) = held.admit(place, octets, now) {
            self.timers.push(Reverse((until, id)));
            self.list(id);
        }
    }

    /// A flow waits from now on, in front of others if it was let go before. What it waits for behind other things is for
    /// others meanwhile: room in the scopes behind one without room, all room while its turn has not come. For a permit it
    /// waits last.
    pub(super) fn wait(&mut self, limited: &Limited, lack: Lack, place: Place, (could, size): (u32, u32), now: Moment) {
        let Lack { id, of } = lack;
        let mut is_behind = of == Lacking::Turn;
        for at in limited.scopes.into_iter().flatten() {
            is_behind |= at == id && of == Lacking::Room;
            if is_behind && self.get_mut(at).is_some_and(|held| held.release(&place)) {
                self.list(at);
            }
        }
        let Some(held) = self.get_mut(id) else { return };
        let octets = lease::octets(size.into(), held.share.limits());
        let was_let_go = held.admitted.contains_key(&place);
        if held.kept(&place).is_none() {
            held.admitted.remove(&place);
        }
        if held.in_line.insert(place, ()).is_some() {
            return;
        }
        let in_front = was_let_go && (could > 0 || !held.is_paced());
        let line = if in_front { &mut held.entitled } else { &mut held.waiting };
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
            held.begin(&place, octets, now);
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
                if !planted!(OctetsNotGivenBack) {
                    held.share.end(Counted::Octets, *octets);
                }
                self.list(*id);
            }
        }
    }
}
