//! What a message needs room in beside its site's connections and rates: octets in flight at the site, and the limits of its
//! tenant, of its tenant at the site, of its campaign. Each is a scope with a ledger, as a site is; here are this shard's
//! shares, and who waits for them. Lives on its shard.
//!
//! A message begins only when each of its scopes has room, and takes from all or from none. So nothing is held while something
//! else is awaited: a flow waits in one scope, the one that lacked when it was tried last, and what it could have had of the
//! others is for whoever can use it. What was leased and not used is given back (`lease`), and had again at once where
//! nobody else wants it: what is waited for is always the scope that binds.
//!
//! A flow without room is set aside in the queue, keeps nothing else of its destination waiting, and costs nothing until it is
//! let go, by its turn: each scope has one line for all destinations. Those that have a connection are let go as there is
//! room. Those that have none are let go ahead of that, as many as the limit lets begin in [`limits::LEASE_LEAD`]: then they have one
//! in time, and stand in front.

use super::Deliverer;
use super::Map;
use crate::lease::{self, Counted, Paced, Scope, Share, ToLane};
use crate::limits;
use crate::queue::{DestinationId, FlowId, JobKey};
use crate::rt::ConnId;
use crate::shaping::{Limits, Shaping, Site};
use crate::shard::Turn;
use crate::shard::event::{Notice, NoticeKind};
use crate::shard::mailbox::Mail;
use crate::time::Moment;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;

/// Scopes of one message.
const SCOPES: usize = 4;

/// This shard's shares of scopes that are no site's connections and rates.
#[derive(Default)]
pub(super) struct Scopes {
    /// The rules have limits for any.
    active: bool,
    /// Of the rules.
    epoch: u32,
    places: Vec<(u32, Option<Box<Held>>)>,
    free: Vec<u32>,
    by_name: Map<Scope, ScopeId>,
    /// Those that may have something to tell, or somebody to let go.
    news: Vec<ScopeId>,
    /// When one is to be looked at, earliest first.
    timers: BinaryHeap<Reverse<(Moment, ScopeId)>>,
}

/// Names a scope until it is forgotten; kept longer it names nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct ScopeId {
    index: u32,
    generation: u32,
}

/// A flow at a destination.
type Place = (DestinationId, FlowId);

/// What is known of a scope here.
struct Held {
    share: Share,
    whose: Whose,
    /// Who had been let go and had a connection, but found no room: they come first.
    entitled: Line,
    /// Who waits for a turn.
    waiting: Line,
    /// Who was let go and has not begun a message since.
    admitted: Map<Place, ()>,
    /// Room that they were let go for, and until when it is kept for them: messages, and units of octets.
    given: (Moment, u32, u32),
    /// Flows let go without a connection until that moment.
    ahead: (Moment, u32),
    /// It stands in `Scopes::news`.
    listed: bool,
    /// When it was needed last.
    needed: Moment,
    /// Since when somebody waits, and when that was told last.
    waited_for: Option<Moment>,
    told: Option<Moment>,
}

/// Whose limits a scope has.
enum Whose {
    /// Only of octets in flight.
    Site(Site),
    Tenant(Rc<str>),
    TenantAt(Rc<str>, Site),
    Campaign(Rc<str>),
}

/// A flow that waits.
struct Waiter {
    place: Place,
    /// Messages that it could begin at once; none while it has no connection.
    could: u32,
    /// Units of octets that its next one takes.
    octets: u32,
}

#[derive(Default)]
struct Line {
    line: VecDeque<Waiter>,
    /// Of all in it.
    could: u64,
    octets: u64,
}

/// What a flow at a destination keeps to. Found once, and kept with the destination's pool.
pub(super) struct Bound {
    names: [Option<Rc<str>>; 2],
    epoch: u32,
    limited: Limited,
}

/// As far as it is asked for each message.
#[derive(Clone, Copy)]
pub(super) struct Limited {
    scopes: [Option<ScopeId>; SCOPES],
    /// Of a transaction.
    pub(super) recipients: u32,
    /// Messages have a rate.
    paced: bool,
}

/// What a transaction has of its scopes.
pub(super) struct Counts {
    scopes: [Option<(ScopeId, u32)>; SCOPES],
}

impl Line {
    fn push(&mut self, waiter: Waiter) {
        self.could += u64::from(waiter.could);
        self.octets += u64::from(waiter.octets) * u64::from(waiter.could);
        self.line.push_back(waiter);
    }

    fn take(&mut self, at: usize) -> Option<Waiter> {
        let waiter = self.line.remove(at)?;
        self.could -= u64::from(waiter.could);
        self.octets -= u64::from(waiter.octets) * u64::from(waiter.could);
        Some(waiter)
    }
}

impl Whose {
    fn name(&self) -> Scope {
        // A site's own name has no capital letter, a provider's no colon.
        match self {
            Whose::Site(site) => format!("Site {}", site.name),
            Whose::Tenant(name) => format!("Tenant: {name}"),
            Whose::TenantAt(name, site) => format!("Tenant at {}: {name}", site.name),
            Whose::Campaign(name) => format!("Campaign: {name}"),
        }
        .into()
    }

    fn limits(&self, shaping: &Shaping) -> Limits {
        match self {
            Whose::Site(site) => Limits { bytes_in_flight: shaping.limits(site).bytes_in_flight, ..Limits::default() },
            Whose::Tenant(name) => shaping.tenant_limits(name),
            Whose::TenantAt(name, site) => shaping.tenant_site_limits(name, site),
            Whose::Campaign(name) => shaping.campaign_limits(name),
        }
    }
}

impl Held {
    /// Whether a message of so many octets could begin now.
    fn has_room(&self, octets: u32, now: Moment) -> bool {
        let share = &self.share;
        (share.has_permit(Paced::Message, now) || planted!(TenantPermitNotAsked))
            && share.bears(Counted::Connection, 1)
            && share.bears(Counted::Octets, octets)
    }

    fn is_waited_for(&self) -> bool {
        !self.entitled.line.is_empty() || !self.waiting.line.is_empty()
    }

    /// Flows that may be on their way to a connection, or wait with one: with fewer, room might be left unused.
    fn lead(&self) -> u32 {
        let limits = self.share.limits();
        let by_rate = limits.message_rate.map(|rate| {
            let lead = limits::LEASE_LEAD.as_nanos() / rate.interval().as_nanos().max(1);
            u32::try_from(lead).unwrap_or(u32::MAX).saturating_add(rate.burst())
        });
        let by_number = limits.connections.map(|n| 2 * n + 8);
        by_rate.into_iter().chain(by_number).min().unwrap_or(u32::MAX).min(limits::SCOPE_LEAD)
    }

    /// Whether one more may be let go ahead of the room it needs; else perhaps when that can be asked again.
    fn may_go_ahead(&mut self, now: Moment) -> Result<(), Option<Moment>> {
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
    fn told(&self) -> String {
        format!("{} has no room ({})", self.whose.name(), self.share.limits())
    }

    /// Somebody has waited for a while, and it was not told lately.
    fn is_to_be_told(&mut self, now: Moment) -> Option<String> {
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
    fn next_ahead(&mut self, now: Moment) -> Result<Waiter, Option<Moment>> {
        if self.waiting.line.front().is_none_or(|waiter| waiter.could > 0) {
            return Err(None);
        }
        self.may_go_ahead(now)?;
        self.waiting.take(0).ok_or(None)
    }

    /// The next of those that have a connection, if there is this much room.
    fn next_with(&mut self, room: u32, octets: u32) -> Option<Waiter> {
        let fits = |waiter: &Waiter| room > 0 && octets >= waiter.octets;
        if let Some(first) = self.entitled.line.front() {
            return if fits(first) { self.entitled.take(0) } else { None };
        }
        // Room that those in front cannot use yet is not left unused.
        let mut near = self.waiting.line.iter().take(limits::SCOPE_LOOKED_AT);
        let at = near.position(|waiter| waiter.could > 0)?;
        if fits(&self.waiting.line[at]) { self.waiting.take(at) } else { None }
    }

    /// Tells the share what is wanted of it.
    fn sum_up(&mut self, now: Moment) {
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
    pub(super) fn new(shaping: &Shaping) -> Self {
        Scopes { active: shaping.limits_flows(), ..Scopes::default() }
    }

    /// Scopes; flows that wait in them.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sizes(&self) -> [usize; 2] {
        let held = self.places.iter().filter_map(|(_, held)| held.as_ref());
        [self.by_name.len(), held.map(|held| held.entitled.line.len() + held.waiting.line.len()).sum()]
    }

    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    fn get(&self, id: ScopeId) -> Option<&Held> {
        let (generation, held) = self.places.get(id.index as usize)?;
        held.as_deref().filter(|_| *generation == id.generation)
    }

    fn get_mut(&mut self, id: ScopeId) -> Option<&mut Held> {
        let (generation, held) = self.places.get_mut(id.index as usize)?;
        held.as_deref_mut().filter(|_| *generation == id.generation)
    }

    /// The scope of that name, made if there is none. `None`: it limits nothing that is counted for each message.
    fn find(&mut self, whose: Whose, shaping: &Shaping, now: Moment) -> Option<ScopeId> {
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

    fn forget(&mut self, id: ScopeId) {
        let (generation, held) = &mut self.places[id.index as usize];
        *generation = generation.wrapping_add(1);
        if let Some(held) = held.take() {
            self.by_name.remove(&held.whose.name());
        }
        self.free.push(id.index);
    }

    fn list(&mut self, id: ScopeId) {
        if let Some(held) = self.get_mut(id)
            && !std::mem::replace(&mut held.listed, true)
        {
            self.news.push(id);
        }
    }

    /// The first scope without room for a message, by its octets.
    fn lacks(&self, limited: &Limited, place: Place, size: u32, now: Moment) -> Option<ScopeId> {
        limited.scopes.iter().flatten().copied().find(|id| {
            self.get(*id).is_some_and(|held| {
                let others = held.is_waited_for() && !held.admitted.contains_key(&place);
                others || !held.has_room(lease::octets(size.into(), held.share.limits()), now)
            })
        })
    }

    /// A flow waits from now on, in front of others if it was let go before.
    fn wait(&mut self, id: ScopeId, place: Place, could: u32, size: u32, now: Moment) {
        let Some(held) = self.get_mut(id) else { return };
        let octets = lease::octets(size.into(), held.share.limits());
        let was_let_go = held.admitted.remove(&place).is_some();
        let line = if was_let_go && could > 0 { &mut held.entitled } else { &mut held.waiting };
        line.push(Waiter { place, could, octets });
        held.needed = now;
        self.list(id);
    }

    /// A message begins: there is room.
    fn begin(&mut self, limited: &Limited, place: Place, size: u32, now: Moment) -> Option<Box<Counts>> {
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
    pub(super) fn give_back(&mut self, counts: Option<Box<Counts>>) {
        for (id, octets) in counts.iter().flat_map(|counts| &counts.scopes).flatten() {
            if let Some(held) = self.get_mut(*id) {
                held.share.end(Counted::Connection, 1);
                if !planted!(OctetsNotReturned) {
                    held.share.end(Counted::Octets, *octets);
                }
                self.list(*id);
            }
        }
    }
}

impl Deliverer {
    /// What a flow keeps to at a destination, but for the site's connections and rates. `None`: nothing.
    fn limited(&mut self, (destination, flow): Place, now: Moment) -> Option<Limited> {
        if !self.scopes.active {
            return None;
        }
        let names = self.queue.flow_names(flow);
        let known = self.pools.get(&destination).and_then(|pool| pool.flows.get(&flow));
        let same = |a: &Option<Rc<str>>, b: Option<&Rc<str>>| match (a, b) {
            (Some(a), Some(b)) => Rc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        if let Some(bound) = known
            && bound.epoch == self.scopes.epoch
            && bound.names.iter().zip(names).all(|(a, b)| same(a, b))
            && bound.limited.scopes.iter().flatten().all(|id| self.scopes.get(*id).is_some())
        {
            return Some(bound.limited);
        }
        let names = names.map(|name| name.map(Rc::clone));
        let limited = self.find_scopes(destination, &names, now);
        let pool = self.pools.entry(destination).or_default();
        if pool.flows.len() >= limits::SCOPE_FLOWS {
            pool.flows.clear();
        }
        pool.flows.insert(flow, Bound { names, epoch: self.scopes.epoch, limited });
        Some(limited)
    }

    fn find_scopes(&mut self, destination: DestinationId, names: &[Option<Rc<str>>; 2], now: Moment) -> Limited {
        let mut limited = Limited { scopes: [None; SCOPES], recipients: u32::MAX, paced: false };
        // What stays here goes to no site.
        if self.is_maildir(destination) {
            return limited;
        }
        let site = self.site_of(destination).cloned();
        let [tenant, campaign] = names;
        let all = [
            site.clone().map(Whose::Site),
            tenant.clone().map(Whose::Tenant),
            tenant.clone().zip(site).map(|(name, site)| Whose::TenantAt(name, site)),
            campaign.clone().map(Whose::Campaign),
        ];
        for (whose, place) in all.into_iter().zip(&mut limited.scopes) {
            let Some(whose) = whose else { continue };
            let limits = whose.limits(&self.tables.shaping);
            limited.recipients = limited.recipients.min(limits.recipients.unwrap_or(u32::MAX));
            limited.paced |= limits.message_rate.is_some();
            *place = self.scopes.find(whose, &self.tables.shaping, now);
        }
        limited
    }

    /// Whether a job that was taken has room in all its scopes; else it is put back, and its flow set aside.
    pub(super) fn fits(&mut self, key: JobKey, destination: DestinationId, now: Moment) -> bool {
        if !self.scopes.active {
            return true;
        }
        let Some((flow, size)) = self.queue.job(key).map(|job| (job.flow(), job.size)) else { return true };
        let place = (destination, flow);
        let Some(limited) = self.limited(place, now) else { return true };
        let Some(lacks) = self.scopes.lacks(&limited, place, size, now) else { return true };
        // One with a priority may be met while the rest waits.
        let waits = self.queue.is_aside(destination, flow);
        if self.queue.put_aside(key) && !waits {
            let could = self.usable_connections(destination).min(self.queue.flow_len(destination, flow));
            self.scopes.wait(lacks, place, u32::try_from(could).unwrap_or(u32::MAX), size, now);
        }
        false
    }

    /// Whether the next mail of a destination may have a connection opened for it: a flow that would wait for room with it
    /// is set aside before.
    pub(super) fn may_prepare(&mut self, destination: DestinationId, now: Moment) -> bool {
        if !self.scopes.active || !self.pools.get(&destination).is_some_and(|pool| pool.loaded.is_empty()) {
            return true;
        }
        for _ in 0..limits::SCOPE_TRIES {
            let Some((flow, size)) = self.queue.next_flow(destination) else {
                return self.pools.get(&destination).is_some_and(|pool| pool.fetching > 0);
            };
            let place = (destination, flow);
            let Some(limited) = self.limited(place, now) else { return true };
            let mut lacks = None;
            for id in limited.scopes.into_iter().flatten() {
                let Some(held) = self.scopes.get_mut(id) else { continue };
                if held.admitted.contains_key(&place) {
                    continue;
                }
                if held.is_waited_for() || held.may_go_ahead(now).is_err() {
                    lacks = Some(id);
                    break;
                }
                held.admitted.insert(place, ());
            }
            let Some(lacks) = lacks else { return true };
            if !self.queue.set_flow_aside(destination, flow) {
                // All it has is mail with a priority, which is looked at when there is a connection.
                return true;
            }
            self.scopes.wait(lacks, place, 0, size, now);
        }
        self.wake(destination);
        false
    }

    /// Whether a message has to wait until a connection carries nothing else: it counts when it is begun, not when it is
    /// written down behind another.
    pub(super) fn awaits_silence(&mut self, conn: ConnId, key: JobKey, now: Moment) -> bool {
        if !self.scopes.active || self.connections.get(conn).is_none_or(|c| c.is_idle()) {
            return false;
        }
        let Some(place) = self.queue.destination_of(key).zip(self.queue.job(key).map(|job| job.flow())) else {
            return false;
        };
        self.limited(place, now).is_some_and(|limited| limited.paced)
    }

    /// Recipients that one transaction of a job may have, by its flow.
    pub(super) fn flow_recipients(&mut self, place: Place, now: Moment) -> u32 {
        self.limited(place, now).map_or(u32::MAX, |limited| limited.recipients)
    }

    /// Whether more records of a destination may be asked for while some are under way: those of a limited flow would come
    /// in vain.
    pub(super) fn may_fetch_ahead(&mut self, destination: DestinationId, now: Moment) -> bool {
        if !self.scopes.active {
            return true;
        }
        let Some((flow, _)) = self.queue.next_flow(destination) else { return true };
        self.limited((destination, flow), now).is_none_or(|limited| limited.scopes == [None; SCOPES])
    }

    /// Why a job that is ready waits, if its flow is set aside.
    pub(super) fn why_aside(&mut self, key: JobKey, now: Moment) -> Option<String> {
        let (flow, size) = self.queue.job(key).map(|job| (job.flow(), job.size))?;
        let place = (self.queue.destination_of(key)?, flow);
        self.queue.is_aside(place.0, flow).then_some(())?;
        let limited = self.limited(place, now)?;
        let lacks = self.scopes.lacks(&limited, place, size, now)?;
        self.scopes.get(lacks).map(Held::told)
    }

    /// A message begins; what to [give back](Scopes::give_back) when it is over.
    pub(super) fn count_message(&mut self, place: Place, size: u32, now: Moment) -> Option<Box<Counts>> {
        let limited = self.limited(place, now)?;
        self.scopes.begin(&limited, place, size, now)
    }

    /// Connections of a destination that could begin a message: those that idle, or one that will.
    fn usable_connections(&self, destination: DestinationId) -> usize {
        let Some(pool) = self.pools.get(&destination) else { return 0 };
        let is_usable = |conn: &&ConnId| self.connections.get(**conn).is_some_and(|c| c.can_start());
        let mut usable = pool.connections.iter().filter(is_usable).peekable();
        let any = usize::from(usable.peek().is_some());
        let idle = usable.filter(|conn| self.connections.get(**conn).is_some_and(|c| c.is_idle())).count();
        idle.max(any)
    }

    /// Mail of a ledger that is no site's. False: there is no such scope here.
    pub(super) fn to_scope(&mut self, mail: &ToLane, now: Moment) -> bool {
        let Some(id) = self.scopes.by_name.get(&mail.scope).copied() else { return false };
        if let Some(held) = self.scopes.get_mut(id) {
            held.share.handle(mail.clone(), now);
            if let Some(until) = held.share.poll_timeout() {
                self.scopes.timers.push(Reverse((until, id)));
            }
        }
        self.scopes.list(id);
        self.serve(id, now);
        true
    }

    /// Lets those go that there is room for, or soon will be.
    fn serve(&mut self, id: ScopeId, now: Moment) {
        let Some(held) = self.scopes.get_mut(id).filter(|held| held.is_waited_for()) else { return };
        // What is left of it, and not given to others yet.
        let share = &held.share;
        let (until, given, given_octets) = held.given;
        let (given, given_octets) = if now < until { (given, given_octets) } else { (0, 0) };
        let mut room = [
            share.limits().message_rate.map(|_| share.permits_left(Paced::Message, now)),
            share.room(Counted::Connection),
        ]
        .into_iter()
        .flatten()
        .min()
        .unwrap_or(u32::MAX)
        .saturating_sub(given);
        let mut octets = share.room(Counted::Octets).unwrap_or(u32::MAX).saturating_sub(given_octets);
        let mut let_go = [given, given_octets];
        while let Some(held) = self.scopes.get_mut(id) {
            let goes = match held.next_ahead(now) {
                Ok(waiter) => waiter,
                Err(again) => {
                    let Some(waiter) = held.next_with(room, octets) else {
                        self.scopes.timers.extend(again.map(|again| Reverse((again, id))));
                        break;
                    };
                    waiter
                }
            };
            let Waiter { place, octets: needs, .. } = goes;
            if !self.queue.let_go(place.0, place.1) {
                continue;
            }
            let connections = self.usable_connections(place.0);
            let begins = u32::try_from(connections).unwrap_or(u32::MAX).min(room);
            let takes = needs.saturating_mul(begins).min(octets);
            (room, octets) = (room - begins, octets - takes);
            let_go = [let_go[0].saturating_add(begins), let_go[1].saturating_add(takes)];
            if let Some(held) = self.scopes.get_mut(id) {
                held.admitted.insert(place, ());
            }
        }
        if let_go != [given, given_octets] {
            let until = now + limits::LEASE_TERM;
            if let Some(held) = self.scopes.get_mut(id) {
                held.given = (until, let_go[0], let_go[1]);
            }
            self.scopes.timers.push(Reverse((until, id)));
        }
        let Some(held) = self.scopes.get_mut(id) else { return };
        if held.admitted.len() > limits::SCOPE_FLOWS {
            // Whoever was let go long ago and has not come gets no place in front.
            held.admitted.clear();
        }
        self.scopes.list(id);
    }

    /// Scopes that are due, and what they have to say.
    pub(super) fn scopes_turn(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        while let Some(Reverse((at, _))) = self.scopes.timers.peek()
            && *at <= now
        {
            let Some(Reverse((_, id))) = self.scopes.timers.pop() else { break };
            self.scopes.list(id);
        }
        for id in std::mem::take(&mut self.scopes.news) {
            self.serve(id, now);
            let Some(held) = self.scopes.get_mut(id) else { continue };
            held.listed = false;
            held.sum_up(now);
            if let Some(why) = held.is_to_be_told(now) {
                turn.report.events.push(Notice::event(turn.now.wall, self.me, NoticeKind::Throttled, why.as_bytes()));
            } else if let Some(since) = held.waited_for.filter(|since| *since == now) {
                self.scopes.timers.push(Reverse((since + limits::SCOPE_PATIENCE, id)));
            }
            let Some(held) = self.scopes.get_mut(id) else { continue };
            if let Some(mail) = held.share.poll_send(self.me, now) {
                let owner = lease::owner(&mail.scope, self.shards);
                turn.post.send(usize::from(owner), Mail::ToLedger(mail));
            }
            if held.share.is_idle() && !held.is_waited_for() {
                let idles_from = held.needed + limits::SCOPE_IDLE;
                if idles_from <= now {
                    self.scopes.forget(id);
                } else {
                    self.scopes.timers.push(Reverse((idles_from, id)));
                }
            }
        }
    }

    /// New rules: who waited is tried by them.
    pub(super) fn new_scopes(&mut self) {
        self.scopes.active = self.tables.shaping.limits_flows();
        self.scopes.epoch = self.scopes.epoch.wrapping_add(1);
        let all: Vec<ScopeId> = self.scopes.by_name.values().copied().collect();
        for id in all {
            let Some(held) = self.scopes.get_mut(id) else { continue };
            held.share.set_limits(held.whose.limits(&self.tables.shaping));
            let lines = [std::mem::take(&mut held.entitled), std::mem::take(&mut held.waiting)];
            for (destination, flow) in lines.into_iter().flat_map(|line| line.line).map(|waiter| waiter.place) {
                self.queue.let_go(destination, flow);
            }
            self.scopes.list(id);
        }
    }
}
