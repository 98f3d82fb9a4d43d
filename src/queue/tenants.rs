//! PURE. The tenants and campaigns with jobs in a queue: numbers for their names, and tenants' weights.

use super::Queue;
use super::job::{CampaignId, DestinationId, FlowId, Job, JobKey, TenantId};
use super::retry::RetryPolicy;
use crate::limits::TENANT_WEIGHT_DEFAULT;
use crate::shaping::Schedule;
use std::collections::HashMap;
use std::rc::Rc;

/// Names with numbers from 1. One that has no jobs is forgotten.
#[derive(Debug, Default)]
pub(super) struct Names {
    by_name: HashMap<Rc<str>, u32, foldhash::quality::FixedState>,
    /// By number, less one.
    all: Vec<Option<Named>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Named {
    name: Rc<str>,
    weight: u32,
    /// When its mail is tried again, as far as rules say.
    schedule: Option<Box<Schedule>>,
    jobs: usize,
}

impl Names {
    fn get(&self, number: u32) -> Option<&Named> {
        self.all.get((number as usize).checked_sub(1)?)?.as_ref()
    }

    fn get_mut(&mut self, number: u32) -> Option<&mut Named> {
        self.all.get_mut((number as usize).checked_sub(1)?)?.as_mut()
    }

    fn number(&mut self, name: &str, weight: u32) -> u32 {
        if let Some(&known) = self.by_name.get(name) {
            if let Some(named) = self.get_mut(known) {
                named.weight = weight;
            }
            return known;
        }
        let name: Rc<str> = name.into();
        let number = self.free.pop().unwrap_or_else(|| {
            self.all.push(None);
            u32::try_from(self.all.len()).expect("memory ends before 4 billion names")
        });
        self.all[number as usize - 1] = Some(Named { name: Rc::clone(&name), weight, schedule: None, jobs: 0 });
        self.by_name.insert(name, number);
        number
    }

    /// A job of it came.
    fn add(&mut self, number: u32) {
        if let Some(named) = self.get_mut(number) {
            named.jobs += 1;
        }
    }

    /// A job of it is over.
    fn remove(&mut self, number: u32) {
        let Some(named) = self.get_mut(number) else { return };
        named.jobs -= 1;
        if named.jobs == 0 {
            let name = Rc::clone(&named.name);
            self.by_name.remove(&name);
            self.all[number as usize - 1] = None;
            self.free.push(number);
        }
    }
}

/// Who has jobs in a queue.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    tenants: Names,
    campaigns: Names,
}

impl Tenants {
    pub fn weight(&self, tenant: TenantId) -> u32 {
        // Mail that nobody authenticated for shares like a tenant that no rule gives a weight.
        self.tenants.get(tenant.0).map_or(TENANT_WEIGHT_DEFAULT, |tenant| tenant.weight)
    }

    /// When its mail is tried again, as far as rules say.
    pub fn schedule(&self, tenant: TenantId) -> Schedule {
        self.tenants.get(tenant.0).and_then(|tenant| tenant.schedule.as_deref()).copied().unwrap_or_default()
    }

    /// A job of it came.
    pub fn add(&mut self, flow: FlowId) {
        self.tenants.add(flow.tenant.0);
        self.campaigns.add(flow.campaign.0);
    }

    /// A job of it is over.
    pub fn remove(&mut self, flow: FlowId) {
        self.tenants.remove(flow.tenant.0);
        self.campaigns.remove(flow.campaign.0);
    }

    /// How many are known.
    #[cfg(any(test, feature = "sim"))]
    pub fn len(&self) -> usize {
        self.tenants.by_name.len().max(self.campaigns.by_name.len())
    }
}

impl<B> Queue<B> {
    /// The tenant of that name, for [`Job::tenant`](super::Job::tenant) of a job that is enqueued next. Tenants share a destination by their
    /// weights, 1 to 1000; a new weight counts for flows that begin.
    pub fn tenant(&mut self, name: &str, weight: u32) -> TenantId {
        TenantId(self.tenants.tenants.number(name, weight))
    }

    /// The campaign of that name, for [`Job::campaign`](super::Job::campaign) of a job that is enqueued next. Only those that may have to
    /// wait for a limit of their own need one: each is a flow beside the others of its tenant.
    pub fn campaign(&mut self, name: &str) -> CampaignId {
        CampaignId(self.tenants.campaigns.number(name, 1))
    }

    /// When a tenant's mail is tried again and given up, as far as rules say. To be called before [`enqueue`](Self::enqueue).
    pub fn set_tenant_schedule(&mut self, tenant: TenantId, schedule: Schedule) {
        self.note_schedule(schedule);
        if let Some(named) = self.tenants.tenants.get_mut(tenant.0) {
            named.schedule = (schedule != Schedule::default()).then(|| Box::new(schedule));
        }
    }

    /// When mail to a destination is, as far as rules say. Of the intervals this comes first, of the age the tenant's.
    pub fn set_schedule(&mut self, dest: DestinationId, schedule: Schedule) {
        self.note_schedule(schedule);
        if let Some(d) = self.destinations.get_mut(dest) {
            d.schedule = (schedule != Schedule::default()).then(|| Box::new(schedule));
        }
    }

    /// Other rules: the schedule of each tenant with jobs, by its name.
    pub fn set_tenant_schedules(&mut self, schedule: impl Fn(&str) -> Schedule) {
        let numbers = 1..=u32::try_from(self.tenants.tenants.all.len()).unwrap_or(u32::MAX);
        for tenant in numbers.map(TenantId) {
            let known = self.tenants.tenants.get(tenant.0).map(|named| schedule(&named.name));
            known.into_iter().for_each(|schedule| self.set_tenant_schedule(tenant, schedule));
        }
    }

    fn note_schedule(&mut self, schedule: Schedule) {
        self.scheduled |= schedule != Schedule::default();
        self.least_give_up = self.least_give_up.min(schedule.give_up.unwrap_or(self.policy.give_up));
    }

    /// When mail of a tenant to a destination is tried again and given up.
    pub(super) fn policy_at(&self, destination: u32, tenant: TenantId) -> RetryPolicy {
        if !self.scheduled {
            return self.policy;
        }
        let provider = self.destinations.at(destination).schedule.as_deref().copied().unwrap_or_default();
        self.policy.by(provider.with_tenant(self.tenants.schedule(tenant)))
    }

    /// When a tenant's mail is tried again and given up, wherever it goes.
    pub fn tenant_policy(&self, tenant: TenantId) -> RetryPolicy {
        if self.scheduled { self.policy.by(self.tenants.schedule(tenant)) } else { self.policy }
    }

    /// When a job is tried again and given up.
    pub fn policy_of(&self, key: JobKey) -> RetryPolicy {
        let Some(index) = self.slots.resolve(key) else { return self.policy };
        let used = self.slots.get(index);
        self.policy_at(used.destination, used.job.tenant)
    }

    /// The name of a tenant with jobs; empty for none.
    pub fn tenant_name(&self, tenant: TenantId) -> &str {
        self.tenants.tenants.get(tenant.0).map_or("", |tenant| &tenant.name)
    }

    /// Whether [`take`](Self::take) would return mail of a tenant that had nothing since it has mail, while others had.
    pub fn is_next_new(&self, dest: DestinationId) -> bool {
        self.destinations.get(dest).is_some_and(|d| d.ranks.is_none() && d.plain.is_next_new())
    }

    /// A tenant that had nothing is next before its turn, if others are no farther in front of it than so many jobs `ahead` of theirs
    /// have moved them on. Whether there is one.
    pub fn promote_new(&mut self, dest: DestinationId, ahead: usize) -> bool {
        self.destinations.get_mut(dest).is_some_and(|d| d.ranks.is_none() && d.plain.promote_new(ahead))
    }

    /// The tenant whose mail is all that a destination has, if it had nothing since it has some.
    pub fn only_new(&self, dest: DestinationId) -> Option<TenantId> {
        self.destinations.get(dest).filter(|d| d.ranks.is_none())?.plain.only_new()
    }

    /// Whether a letter of a tenant that had nothing is next, or [comes before its turn](Self::promote_new); and was never tried.
    pub fn brings_new(&mut self, dest: DestinationId, ahead: usize) -> bool {
        self.next_of_new(dest).is_some() || self.promote_new(dest, ahead) && self.next_of_new(dest).is_some()
    }

    /// The job that [`take`](Self::take) would return, if it is of a tenant that had nothing since it has mail, and was never tried.
    pub fn next_of_new(&self, dest: DestinationId) -> Option<&Job<B>> {
        let d = self.destinations.get(dest).filter(|d| d.ranks.is_none())?;
        if !d.plain.is_next_new() && d.plain.only_new().is_none() {
            return None;
        }
        d.plain.heads().next().map(|index| &self.slots.get(index).job).filter(|job| job.attempts == 0)
    }

    /// The tenants with mail of a destination that may go and their weights, up to so many of them; the weight of the others.
    pub fn tenants_with_mail(&self, dest: DestinationId, most: usize) -> (Vec<(TenantId, u32)>, u64) {
        self.destinations.get(dest).map_or((Vec::new(), 0), |d| d.plain.tenants(most))
    }

    /// The weight of a tenant with jobs.
    pub fn tenant_weight(&self, tenant: TenantId) -> u32 {
        self.tenants.weight(tenant)
    }

    /// These tenants, ascending, share a destination with others elsewhere too, each in so many places in all, as if those were
    /// one. The others do not.
    pub fn set_tenant_lanes(&mut self, dest: DestinationId, spread: Box<[(TenantId, u16)]>) {
        if let Some(d) = self.destinations.get_mut(dest) {
            d.plain.set_spread(spread);
        }
    }

    /// The names of a flow's tenant and campaign, as long as there are jobs of it; `None` for none. The same pointers as long
    /// as the numbers stand for the same names.
    pub fn flow_names(&self, flow: FlowId) -> [Option<&Rc<str>>; 2] {
        let Tenants { tenants, campaigns } = &self.tenants;
        [tenants.get(flow.tenant.0), campaigns.get(flow.campaign.0)].map(|named| named.map(|named| &named.name))
    }
}
