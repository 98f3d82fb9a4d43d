//! PURE. Domains, and where their mail waits: which destination is a domain's, and the move to another.

use super::Queue;
use super::destination::Access;
use super::job::{DestinationId, DomainId, JobKey};
use crate::time::Moment;
use std::cmp::Reverse;
use std::rc::Rc;

impl<B> Queue<B> {
    /// The domain of that name, if it is remembered. Names are compared as they are: lower-case them first.
    pub fn domain(&self, name: &str) -> Option<DomainId> {
        self.destinations.find(name)
    }

    /// The name of a domain (lower case), or whatever it was enqueued for. `None`: forgotten.
    pub fn domain_name(&self, domain: DomainId) -> Option<&Rc<str>> {
        self.destinations.domain(domain).map(|d| &d.name)
    }

    /// Where the mail of a domain waits. `None`: forgotten.
    pub fn destination(&self, domain: DomainId) -> Option<DestinationId> {
        self.destinations.domain(domain).map(|d| self.destinations.id(d.destination))
    }

    /// Until when a domain is bound; in the past if it is not.
    pub fn bound_until(&self, domain: DomainId) -> Moment {
        self.destinations.domain(domain).map_or(Moment(0), |d| d.bound_until)
    }

    /// The destination of the domain of that name.
    pub fn find(&self, domain: &str) -> Option<DestinationId> {
        self.destination(self.domain(domain)?)
    }

    /// Whether all domains have left a destination.
    pub fn is_abandoned(&self, dest: DestinationId) -> bool {
        self.destinations.get(dest).is_some_and(|d| d.orphaned)
    }

    /// The domain whose own a destination is; `None`: it is a site's.
    pub fn own_domain(&self, dest: DestinationId) -> Option<DomainId> {
        let d = self.destinations.get(dest).filter(|d| !d.is_site)?;
        self.destinations.find(&d.name)
    }

    /// The domain of a job.
    pub fn domain_of(&self, key: JobKey) -> Option<DomainId> {
        Some(self.destinations.domain_id(self.slots.get(self.slots.resolve(key)?).domain))
    }

    /// Whether a job that the driver holds belongs elsewhere by now: put it back.
    pub fn is_misplaced(&self, key: JobKey) -> bool {
        self.slots.resolve(key).is_some_and(|index| self.place_of(index) != self.slots.get(index).destination)
    }

    /// The domain of the job that [`take`](Self::take) would return, or about that.
    pub fn next_domain(&self, dest: DestinationId) -> Option<DomainId> {
        let d = self.destinations.get(dest)?;
        let index = d.ranked_heads(true).chain(d.plain.heads()).chain(d.ranked_heads(false)).next()?;
        Some(self.destinations.domain_id(self.slots.get(index).domain))
    }

    /// DNS says where the mail of a domain goes, until then: to `site`. Its jobs that wait elsewhere come along as they are
    /// met. Returns where its mail waits from now on.
    pub fn bind(&mut self, domain: DomainId, site: &str, until: Moment) -> Option<DestinationId> {
        let from = self.destinations.domain(domain)?.destination;
        if self.destinations.bind(domain.index, site, until) {
            self.empty_out(from);
        }
        self.destination(domain)
    }

    /// Where any domain's mail goes is to be asked again.
    pub fn unbind_all(&mut self) {
        self.destinations.unbind_all();
    }

    /// Suspensions end now.
    pub fn probe_all(&mut self) {
        self.end_suspensions(Moment::NEVER);
    }

    /// The suspensions that are over by then end.
    pub(super) fn end_suspensions(&mut self, by: Moment) {
        while let Some(Reverse((until, dest))) = self.suspensions.peek().copied() {
            if until > by {
                break;
            }
            self.suspensions.pop();
            let Some(d) = self.destinations.get_mut(dest) else { continue };
            if d.access == Access::Suspended(until) {
                d.abandon_sweep();
                let ready = d.ready() > 0;
                self.destinations.set_access(dest.index, Access::Probing);
                if ready {
                    self.destinations.touch(dest.index);
                }
            }
        }
    }

    /// A domain gets a destination of its own: where its mail goes is not known any more, and that is its trouble alone.
    pub fn isolate(&mut self, domain: DomainId) -> Option<DestinationId> {
        let from = self.destinations.domain(domain)?.destination;
        if self.destinations.isolate(domain.index) {
            self.empty_out(from);
        }
        self.destination(domain)
    }
}
