//! PURE. The plain mail of a destination that is ready, flow by flow, and whose turn it is.
//!
//! A *flow* is a tenant's ready mail of one campaign: what was never tried, and what is tried again. Tenants share the
//! destination by their weights: each taken job moves its tenant's *pass* on by what it costs over the tenant's weight, and
//! the tenant with the least pass is next; its flows take turns. That is weighted deficit round robin without its rounds
//! (Waldspurger and Weihl's stride scheduling): in any stretch in which two tenants have mail, what they got by their weights
//! differs by one job at the most. A tenant that had nothing begins where the others are, not where it was: nobody saves up. It
//! begins in front of them, so one letter waits for no round of theirs; or right behind the first of them, where those that came
//! before it took as much as the first waits for: ever new tenants cannot keep the others from their turns.
//!
//! Who takes jobs ahead of their turn moves their tenants on before they have had anything. A tenant that had nothing since it has mail
//! may be taken before its turn for that, as far as those jobs reach ([`Flows::promote_new`]): what it had before it pays for.
//!
//! A flow that is *set aside*, because a limit of its own has no room, is as if it were empty until it is let go again.
//!
//! With mail of one flow, as most destinations have, it costs nothing more.

use super::job::{CampaignId, FlowId, TenantId};
use super::slots::{List, NONE, State};
use crate::limits;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// The ready plain mail of a destination.
#[derive(Debug)]
pub(super) struct Flows {
    /// The only one, unless there are several.
    one: Flow,
    whose: FlowId,
    one_weight: u32,
    /// Nothing of it was taken since it has mail.
    one_is_new: bool,
    /// Tenants that share it from several lanes, ascending, and from how many; whether they have mail just now or not.
    spread: Box<[(TenantId, u16)]>,
    many: Option<Box<Many>>,
}

#[derive(Debug)]
struct Many {
    /// Those with mail.
    flows: BTreeMap<FlowId, Flow>,
    /// Those of them that may go.
    ready: BTreeSet<FlowId>,
    tenants: BTreeMap<TenantId, Pass>,
    /// Tenants with mail that may go, by their passes.
    order: BTreeSet<(u64, TenantId)>,
    /// Those of them that have had nothing since they came.
    new: BTreeSet<(u64, TenantId)>,
    /// One of those that is next, before its turn.
    promoted: Option<(u64, TenantId)>,
    /// Where tenants begin: the pass of one that has had its part at all times. Moves on with each job, by what that costs over
    /// the weights of all in `order`.
    clock: u64,
    /// The weights of those.
    weights: u64,
    /// Octets of the job that was served last.
    last: u32,
    len: u32,
    /// Of those, in flows that are set aside.
    aside: u32,
}

/// How much a tenant has had.
#[derive(Clone, Copy, Debug)]
struct Pass {
    /// Its weight, in parts of [`ONE`], over the lanes that it has mail in.
    weight: u64,
    lanes: u16,
    at: u64,
    /// Which of its campaigns was served last.
    served: CampaignId,
}

/// A weight of 1.
const ONE: u64 = 1024;

/// So many jobs of the first may have been taken by those that came before it.
const AHEAD: u64 = 2;

/// Where the first tenants begin: others may be put in front of them.
const FIRST_PASS: u64 = 1 << 40;

#[derive(Clone, Copy, Debug)]
struct Flow {
    /// Jobs never attempted, and jobs whose retry fell due.
    fresh: List,
    retry: List,
    /// Fresh jobs taken in a row while retries were ready.
    fresh_run: u8,
    /// It may not go.
    aside: bool,
}

impl Flow {
    const EMPTY: Flow = Flow { fresh: List::EMPTY, retry: List::EMPTY, fresh_run: 0, aside: false };

    fn len(&self) -> u32 {
        self.fresh.len + self.retry.len
    }

    fn list(&mut self, state: State) -> &mut List {
        match state {
            State::Fresh => &mut self.fresh,
            _ => &mut self.retry,
        }
    }

    /// The next of it, which has some.
    fn next(&mut self) -> u32 {
        let retry_turn = self.retry.len > 0 && self.fresh_run + 1 >= limits::QUEUE_RETRY_SHARE;
        if self.fresh.len == 0 || retry_turn {
            self.fresh_run = 0;
            self.retry.head
        } else {
            self.fresh_run = if self.retry.len > 0 { self.fresh_run + 1 } else { 0 };
            self.fresh.head
        }
    }

    fn heads(&self) -> impl Iterator<Item = u32> + use<> {
        [self.fresh.head, self.retry.head].into_iter().filter(|head| *head != NONE)
    }
}

/// What a job of so many octets costs its tenant, and that over the tenant's weight: large mail holds a connection longer.
fn cost(size: u32, weight: u64) -> u64 {
    let units = 1 + u64::from(size / limits::QUEUE_COST_BYTES).min(limits::QUEUE_COST_MAX);
    (units << 36) / weight.max(1)
}

/// From how many lanes a tenant shares.
fn lanes_in(spread: &[(TenantId, u16)], tenant: TenantId) -> u16 {
    spread.binary_search_by_key(&tenant, |(tenant, _)| *tenant).map_or(1, |at| spread[at].1)
}

impl Many {
    fn new(len: u32) -> Many {
        Many {
            flows: BTreeMap::new(),
            ready: BTreeSet::new(),
            tenants: BTreeMap::new(),
            order: BTreeSet::new(),
            new: BTreeSet::new(),
            promoted: None,
            clock: FIRST_PASS,
            weights: 0,
            last: 0,
            len,
            aside: 0,
        }
    }

    /// The flow of a tenant whose turn it is; one of them may go.
    fn turn_of(&self, tenant: TenantId) -> FlowId {
        let served = self.tenants.get(&tenant).map_or(CampaignId::NONE, |pass| pass.served);
        let of = |campaign| FlowId { tenant, campaign };
        let behind = self.ready.range((Bound::Excluded(of(served)), Bound::Included(of(CampaignId::LAST)))).next();
        *behind.or_else(|| self.ready.range(of(CampaignId::NONE)..).next()).expect("a tenant in order has some")
    }

    fn has_ready(&self, tenant: TenantId) -> bool {
        let of = |campaign| FlowId { tenant, campaign };
        self.ready.range(of(CampaignId::NONE)..=of(CampaignId::LAST)).next().is_some()
    }

    /// The pass of the tenant that is next, and what a job like the last costs it.
    fn first(&self) -> Option<(u64, u64)> {
        let (at, tenant) = self.order.first()?;
        Some((*at, cost(self.last, self.tenants.get(tenant)?.weight)))
    }

    fn set_lanes(&mut self, tenant: TenantId, lanes: u16) {
        let Some(pass) = self.tenants.get_mut(&tenant).filter(|pass| pass.lanes != lanes) else { return };
        let weight = pass.weight * u64::from(pass.lanes) / u64::from(lanes.max(1));
        if self.order.contains(&(pass.at, tenant)) {
            self.weights = self.weights + weight - pass.weight;
        }
        (pass.weight, pass.lanes) = (weight, lanes);
    }

    /// Whose turn it is.
    fn next(&self) -> Option<(u64, TenantId)> {
        self.promoted.or_else(|| self.order.first().copied())
    }

    /// A flow may go, and has mail.
    fn enter(&mut self, flow: FlowId, weight: u32, lanes: u16) {
        let tenant = flow.tenant;
        if !self.has_ready(tenant) {
            let pass = Pass { weight: 0, lanes, at: 0, served: CampaignId::NONE };
            let pass = self.tenants.entry(tenant).or_insert(pass);
            pass.weight = u64::from(weight) * ONE / u64::from(pass.lanes);
            let weight = pass.weight;
            let begin = self.first().map_or(self.clock, |(first, job)| {
                // In front of the first, or right behind it.
                first.saturating_sub(1).min(self.clock).max(self.clock.saturating_sub(AHEAD * job))
            });
            let Some(pass) = self.tenants.get_mut(&tenant) else { return };
            pass.at = pass.at.max(begin);
            self.order.insert((pass.at, tenant));
            self.new.insert((pass.at, tenant));
            self.weights += weight;
        }
        self.ready.insert(flow);
    }

    /// It has none any more, or may not.
    fn leave(&mut self, flow: FlowId) {
        let tenant = flow.tenant;
        if !self.ready.remove(&flow) || self.has_ready(tenant) {
            return;
        }
        if let Some(pass) = self.tenants.get(&tenant) {
            let (at, weight) = (pass.at, pass.weight);
            self.order.remove(&(at, tenant));
            self.new.remove(&(at, tenant));
            self.promoted.take_if(|(_, promoted)| *promoted == tenant);
            self.weights -= weight;
            if at.saturating_add(cost(self.last, weight)) <= self.clock {
                self.tenants.remove(&tenant);
            }
        }
    }
}

impl Flows {
    pub fn new() -> Flows {
        Flows {
            one: Flow::EMPTY,
            whose: FlowId::default(),
            one_weight: 1,
            one_is_new: true,
            spread: Box::default(),
            many: None,
        }
    }

    pub fn len(&self) -> u32 {
        self.many.as_ref().map_or(self.one.len(), |many| many.len)
    }

    /// Those of them that may go.
    pub fn available(&self) -> u32 {
        match &self.many {
            Some(many) => many.len - many.aside,
            None if self.one.aside => 0,
            None => self.one.len(),
        }
    }

    /// The list of a flow's jobs in `state`, Fresh or Retry.
    pub fn list(&self, state: State, id: FlowId) -> List {
        let mut flow = self.flow(id).copied();
        flow.as_mut().map_or(List::EMPTY, |flow| *flow.list(state))
    }

    fn flow(&self, id: FlowId) -> Option<&Flow> {
        match &self.many {
            Some(many) => many.flows.get(&id),
            None => Some(&self.one).filter(|_| self.whose == id),
        }
    }

    /// The jobs of a flow.
    pub fn len_of(&self, id: FlowId) -> u32 {
        self.flow(id).map_or(0, Flow::len)
    }

    /// Whether a flow is set aside.
    pub fn is_aside(&self, id: FlowId) -> bool {
        self.flow(id).is_some_and(|flow| flow.aside)
    }

    /// Changes the list of a flow's jobs in `state`.
    pub fn edit(&mut self, state: State, id: FlowId, weight: u32, edit: impl FnOnce(&mut List)) {
        if self.many.is_none() && self.whose != id {
            if self.one.len() == 0 {
                (self.one, self.whose) = (Flow::EMPTY, id);
            } else {
                let mut many = Many::new(self.one.len());
                many.flows.insert(self.whose, self.one);
                if self.one.aside {
                    many.aside = many.len;
                } else {
                    many.enter(self.whose, self.one_weight, lanes_in(&self.spread, self.whose.tenant));
                    if !self.one_is_new {
                        many.new.clear();
                    }
                }
                self.many = Some(Box::new(many));
            }
        }
        let Some(many) = &mut self.many else {
            self.one_weight = weight;
            self.one_is_new |= self.one.len() == 0;
            edit(self.one.list(state));
            self.one.aside &= self.one.len() > 0;
            return;
        };
        let flow = many.flows.entry(id).or_insert(Flow::EMPTY);
        let before = flow.len();
        edit(flow.list(state));
        let (after, aside) = (flow.len(), flow.aside);
        many.len = many.len + after - before;
        if aside {
            many.aside = many.aside + after - before;
        }
        if after == 0 {
            many.flows.remove(&id);
            many.leave(id);
        } else if before == 0 {
            many.enter(id, weight, lanes_in(&self.spread, id.tenant));
        }
        if many.len == 0 {
            (self.one, self.whose, self.many) = (Flow::EMPTY, id, None);
        } else if many.tenants.len() > 2 * many.flows.len() + limits::QUEUE_IDLE_FLOWS {
            let (clock, last, order) = (many.clock, many.last, &many.order);
            let counts = |pass: &Pass| pass.at.saturating_add(cost(last, pass.weight)) > clock;
            many.tenants.retain(|tenant, pass| counts(pass) || order.contains(&(pass.at, *tenant)));
        }
    }

    /// Sets a flow aside, or lets it go again. False: it has no mail here, and nothing is remembered of it.
    pub fn set_aside(&mut self, id: FlowId, weight: u32, aside: bool) -> bool {
        let Some(many) = &mut self.many else {
            let there = self.whose == id && self.one.len() > 0;
            if there {
                self.one.aside = aside;
            }
            return there;
        };
        let Some(flow) = many.flows.get_mut(&id) else { return false };
        if std::mem::replace(&mut flow.aside, aside) == aside {
            return true;
        }
        let len = flow.len();
        if aside {
            many.aside += len;
            many.leave(id);
        } else {
            many.aside -= len;
            many.enter(id, weight, lanes_in(&self.spread, id.tenant));
        }
        true
    }

    /// Whose turn it is: the next job, one there is that may go. Its tenant pays for it; `size` says how large it is.
    pub fn next(&mut self, size: impl Fn(u32) -> u32) -> u32 {
        let Some(many) = &mut self.many else {
            self.one_is_new = false;
            return self.one.next();
        };
        let (at, tenant) = many.next().expect("something may go");
        let promoted = many.promoted.take().is_some();
        many.new.remove(&(at, tenant));
        let id = many.turn_of(tenant);
        let index = many.flows.get_mut(&id).expect("what is ready is there").next();
        let size = size(index);
        many.last = size;
        let pass = many.tenants.get_mut(&tenant).expect("what is in order is there");
        pass.served = id.campaign;
        let cost = cost(size, pass.weight);
        pass.at = at.saturating_add(if planted!(TurnsAreFree) { 0 } else { cost });
        many.order.remove(&(at, tenant));
        many.order.insert((pass.at, tenant));
        // Never behind the first, nor more than two jobs of its before it: who comes goes before the first, or right behind it.
        // It goes on half as fast as they do, and so is back with the first soon behind many that came at once.
        many.clock =
            if promoted { many.clock } else { many.clock.max(at) } + self::cost(size, 1) / many.weights.max(1) / 2;
        if let Some((first, job)) = many.first() {
            many.clock = many.clock.min(first + AHEAD * job + 1);
        }
        index
    }

    /// A job that was taken came back unused: its tenant has not had it.
    pub fn refund(&mut self, tenant: TenantId, size: u32) {
        // It had its turn.
        let Some(many) = &mut self.many else {
            self.one_is_new &= self.whose.tenant != tenant;
            return;
        };
        let Some(pass) = many.tenants.get_mut(&tenant) else { return };
        let (before, after) = (pass.at, pass.at.saturating_sub(cost(size, pass.weight)));
        if many.order.remove(&(before, tenant)) {
            pass.at = after;
            many.order.insert((after, tenant));
            many.new.remove(&(before, tenant));
            many.promoted = None;
            // Nor has it moved on the moment at which others begin.
            many.clock = many.clock.saturating_sub(cost(size, 1) / many.weights.max(1) / 2).max(after);
        }
    }

    /// Whether the tenant that is next has had nothing yet since it has mail, and others had.
    pub fn is_next_new(&self) -> bool {
        let is_new = |many: &Many| many.next().is_some_and(|next| many.new.contains(&next));
        self.many.as_ref().is_some_and(|many| is_new(many))
    }

    /// A tenant that has had nothing is next, though others come before it, if so many jobs `ahead` of their turn have moved
    /// those on: they have not begun. What it has had before counts. Whether there is one.
    pub fn promote_new(&mut self, ahead: usize) -> bool {
        let Some(many) = &mut self.many else { return false };
        let Some(&(at, tenant)) = many.new.first() else { return false };
        let Some((first, job)) = many.first() else { return false };
        let round = cost(many.last, 1) / many.weights.max(1);
        let is_near = at <= first.saturating_add(job).saturating_add(round.saturating_mul(ahead as u64));
        many.promoted = is_near.then_some((at, tenant));
        is_near
    }

    /// The tenant that is alone here and has had nothing since it has mail.
    pub fn only_new(&self) -> Option<TenantId> {
        let is_new = self.many.is_none() && self.one_is_new && self.one.len() > 0 && !self.one.aside;
        is_new.then_some(self.whose.tenant)
    }

    /// The tenants with mail that may go and their weights, up to so many of them; the weight of the others.
    pub fn tenants(&self, most: usize) -> (Vec<(TenantId, u32)>, u64) {
        let Some(many) = &self.many else {
            let one = (self.one.len() > 0 && !self.one.aside).then_some((self.whose.tenant, self.one_weight));
            return (one.into_iter().collect(), 0);
        };
        let named = many.order.iter().take(most).filter_map(|(_, tenant)| Some((*tenant, many.tenants.get(tenant)?)));
        let weight =
            |pass: &Pass| u32::try_from((pass.weight * u64::from(pass.lanes)).div_ceil(ONE)).unwrap_or(u32::MAX);
        let told: u64 = named.clone().map(|(_, pass)| pass.weight).sum();
        (named.map(|(tenant, pass)| (tenant, weight(pass))).collect(), (many.weights - told) / ONE)
    }

    /// These tenants, ascending, have mail in several lanes, in so many, and their parts are to be the same: from their next
    /// turns on.
    pub fn set_spread(&mut self, spread: Box<[(TenantId, u16)]>) {
        let before = std::mem::replace(&mut self.spread, spread);
        for (tenant, _) in before.iter().chain(&self.spread) {
            let lanes = lanes_in(&self.spread, *tenant);
            if let Some(many) = &mut self.many {
                many.set_lanes(*tenant, lanes);
            }
        }
    }

    /// The first jobs of the lists of the flow that is next.
    pub fn heads(&self) -> impl Iterator<Item = u32> + use<> {
        let flow = match &self.many {
            Some(many) => many.next().and_then(|(_, tenant)| many.flows.get(&many.turn_of(tenant))).copied(),
            None => Some(self.one).filter(|one| !one.aside),
        };
        flow.into_iter().flat_map(|flow| flow.heads().collect::<Vec<_>>())
    }

    /// The last of each flow's fresh jobs.
    pub fn fresh_tails(&self) -> Vec<u32> {
        match &self.many {
            Some(many) => many.flows.values().map(|flow| flow.fresh.tail).collect(),
            None => vec![self.one.fresh.tail],
        }
    }

    /// The list that a search begins with.
    pub fn first(&self) -> (State, FlowId) {
        let first = self.many.as_ref().and_then(|many| many.flows.keys().next().copied());
        (State::Fresh, first.unwrap_or(self.whose))
    }

    /// The list behind that one; none behind the last.
    pub fn behind(&self, state: State, id: FlowId) -> Option<(State, FlowId)> {
        if state == State::Fresh {
            return Some((State::Retry, id));
        }
        let (next, _) = self.many.as_ref()?.flows.range((Bound::Excluded(id), Bound::Unbounded)).next()?;
        Some((State::Fresh, *next))
    }
}
