//! PURE. The tenants with jobs in a queue: numbers for their names, and their weights.

use super::Queue;
use super::job::TenantId;
use std::collections::HashMap;
use std::rc::Rc;

/// See the module. One that has no jobs is forgotten.
#[derive(Debug, Default)]
pub(super) struct Tenants {
    by_name: HashMap<Rc<str>, TenantId, foldhash::quality::FixedState>,
    /// By number, less one.
    all: Vec<Option<Tenant>>,
    free: Vec<TenantId>,
}

#[derive(Debug)]
struct Tenant {
    name: Rc<str>,
    weight: u32,
    jobs: usize,
}

impl Tenants {
    fn get_mut(&mut self, tenant: TenantId) -> Option<&mut Tenant> {
        self.all.get_mut((tenant.0 as usize).checked_sub(1)?)?.as_mut()
    }

    pub fn weight(&self, tenant: TenantId) -> u32 {
        let known = (tenant.0 as usize).checked_sub(1).and_then(|at| self.all.get(at)?.as_ref());
        known.map_or(1, |tenant| tenant.weight)
    }

    /// A job of it came.
    pub fn add(&mut self, tenant: TenantId) {
        if let Some(tenant) = self.get_mut(tenant) {
            tenant.jobs += 1;
        }
    }

    /// A job of it is over.
    pub fn remove(&mut self, id: TenantId) {
        let Some(tenant) = self.get_mut(id) else { return };
        tenant.jobs -= 1;
        if tenant.jobs == 0 {
            let name = Rc::clone(&tenant.name);
            self.by_name.remove(&name);
            self.all[id.0 as usize - 1] = None;
            self.free.push(id);
        }
    }

    /// How many are known.
    #[cfg(any(test, feature = "sim"))]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }
}

impl<B> Queue<B> {
    /// The tenant of that name, for [`Job::tenant`](super::Job::tenant) of a job that is enqueued next. Tenants share a destination by their
    /// weights, 1 to 1000; a new weight counts for flows that begin.
    pub fn tenant(&mut self, name: &str, weight: u32) -> TenantId {
        let tenants = &mut self.tenants;
        if let Some(&known) = tenants.by_name.get(name) {
            if let Some(tenant) = tenants.get_mut(known) {
                tenant.weight = weight;
            }
            return known;
        }
        let name: Rc<str> = name.into();
        let id = tenants.free.pop().unwrap_or_else(|| {
            tenants.all.push(None);
            TenantId(u32::try_from(tenants.all.len()).expect("memory ends before 4 billion tenants"))
        });
        tenants.all[id.0 as usize - 1] = Some(Tenant { name: Rc::clone(&name), weight, jobs: 0 });
        tenants.by_name.insert(name, id);
        id
    }

    /// The name of a tenant with jobs; empty for none.
    pub fn tenant_name(&self, tenant: TenantId) -> &str {
        let known = (tenant.0 as usize).checked_sub(1).and_then(|at| self.tenants.all.get(at)?.as_ref());
        known.map_or("", |tenant| &tenant.name)
    }
}
