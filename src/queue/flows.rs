//! PURE. The plain mail of a destination that is ready, tenant by tenant, and whose turn it is.
//!
//! A tenant's ready mail is a flow: what was never tried, and what is tried again. Flows share the destination by their
//! weights: each taken job moves its flow's *pass* on by what it costs over the flow's weight, and the flow with the least
//! pass is next. That is weighted deficit round robin without its rounds (Waldspurger and Weihl's stride scheduling): in any
//! stretch in which two flows have mail, what they got by their weights differs by one job at the most. A flow that was
//! empty begins where the others are, not where it was: nobody saves up.
//!
//! With mail of one tenant, as most destinations have, it is one flow and costs nothing more.

use super::job::TenantId;
use super::slots::{List, NONE, State};
use crate::limits;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// The ready plain mail of a destination.
#[derive(Debug)]
pub(super) struct Flows {
    /// The only one, unless there are several.
    one: Flow,
    whose: TenantId,
    many: Option<Box<Many>>,
}

#[derive(Debug, Default)]
struct Many {
    flows: BTreeMap<TenantId, Flow>,
    /// Those with mail, by their passes.
    order: BTreeSet<(u64, TenantId)>,
    /// The pass of the flow that was served last.
    clock: u64,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Flow {
    /// Jobs never attempted, and jobs whose retry fell due.
    fresh: List,
    retry: List,
    /// Fresh jobs taken in a row while retries were ready.
    fresh_run: u8,
    weight: u32,
    pass: u64,
}

impl Flow {
    fn new(weight: u32) -> Flow {
        Flow { fresh: List::EMPTY, retry: List::EMPTY, fresh_run: 0, weight: weight.max(1), pass: 0 }
    }

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

/// What a job of so many octets costs its flow, and that over the flow's weight: large mail holds a connection longer.
fn cost(size: u32, weight: u32) -> u64 {
    let units = 1 + u64::from(size / limits::QUEUE_COST_BYTES).min(limits::QUEUE_COST_MAX);
    (units << 20) / u64::from(weight)
}

impl Flows {
    pub fn new() -> Flows {
        Flows { one: Flow::new(1), whose: TenantId::NONE, many: None }
    }

    pub fn len(&self) -> u32 {
        self.many.as_ref().map_or(self.one.len(), |many| many.len)
    }

    /// The list of a tenant's jobs in `state`, Fresh or Retry.
    pub fn list(&self, state: State, tenant: TenantId) -> List {
        let mut flow = match &self.many {
            Some(many) => many.flows.get(&tenant).copied(),
            None => Some(self.one).filter(|_| self.whose == tenant),
        };
        flow.as_mut().map_or(List::EMPTY, |flow| *flow.list(state))
    }

    /// Changes the list of a tenant's jobs in `state`.
    pub fn edit(&mut self, state: State, tenant: TenantId, weight: u32, edit: impl FnOnce(&mut List)) {
        if self.many.is_none() && self.whose != tenant {
            if self.one.len() == 0 {
                (self.one, self.whose) = (Flow::new(weight), tenant);
            } else {
                let mut many = Many { len: self.one.len(), ..Many::default() };
                many.order.insert((self.one.pass, self.whose));
                many.clock = self.one.pass;
                many.flows.insert(self.whose, self.one);
                self.many = Some(Box::new(many));
            }
        }
        let Some(many) = &mut self.many else { return edit(self.one.list(state)) };
        let flow = many.flows.entry(tenant).or_insert_with(|| Flow::new(weight));
        let before = flow.len();
        edit(flow.list(state));
        let after = flow.len();
        many.len = many.len + after - before;
        if before == 0 && after > 0 {
            flow.pass = flow.pass.max(many.clock);
            many.order.insert((flow.pass, tenant));
        } else if before > 0 && after == 0 {
            many.order.remove(&(flow.pass, tenant));
            if flow.pass <= many.clock {
                many.flows.remove(&tenant);
            }
        }
        if many.len == 0 {
            (self.one, self.whose, self.many) = (Flow::new(weight), tenant, None);
        } else if many.flows.len() > 2 * many.order.len() + limits::QUEUE_IDLE_FLOWS {
            let clock = many.clock;
            many.flows.retain(|_, flow| flow.len() > 0 || flow.pass > clock);
        }
    }

    /// Whose turn it is: the next job, one there is. Its flow pays for it; `size` says how large it is.
    pub fn next(&mut self, size: impl Fn(u32) -> u32) -> u32 {
        let Some(many) = &mut self.many else { return self.one.next() };
        let (pass, tenant) = *many.order.first().expect("something is ready");
        many.clock = pass;
        let flow = many.flows.get_mut(&tenant).expect("what is in order is there");
        let index = flow.next();
        let cost = cost(size(index), flow.weight);
        flow.pass = pass.saturating_add(if planted!(TurnsAreFree) { 0 } else { cost });
        many.order.remove(&(pass, tenant));
        many.order.insert((flow.pass, tenant));
        index
    }

    /// A job that was taken came back unused: its flow has not had it.
    pub fn refund(&mut self, tenant: TenantId, size: u32) {
        let Some(many) = &mut self.many else { return };
        let Some(flow) = many.flows.get_mut(&tenant) else { return };
        let (before, after) = (flow.pass, flow.pass.saturating_sub(cost(size, flow.weight)));
        if many.order.remove(&(before, tenant)) {
            flow.pass = after;
            many.order.insert((after, tenant));
        }
    }

    /// The first jobs of the lists of the flow that is next.
    pub fn heads(&self) -> impl Iterator<Item = u32> + use<> {
        let flow = match &self.many {
            Some(many) => many.order.first().and_then(|(_, tenant)| many.flows.get(tenant)).copied(),
            None => Some(self.one),
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
    pub fn first(&self) -> (State, TenantId) {
        let first = self.many.as_ref().and_then(|many| many.flows.keys().next().copied());
        (State::Fresh, first.unwrap_or(self.whose))
    }

    /// The list behind that one; none behind the last.
    pub fn behind(&self, state: State, tenant: TenantId) -> Option<(State, TenantId)> {
        if state == State::Fresh {
            return Some((State::Retry, tenant));
        }
        let (next, _) = self.many.as_ref()?.flows.range((Bound::Excluded(tenant), Bound::Unbounded)).next()?;
        Some((State::Fresh, *next))
    }
}
