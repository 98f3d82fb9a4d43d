//! PURE. The destination queues of one shard: which message goes next to which destination, what is tried again when,
//! and what has become too old.
//!
//! **Inputs**: jobs handed over by their home shards, the outcome of each attempt, the time, random numbers.
//! **Outputs**: destinations that have work ([`Queue::poll_touched`]), the next job of one ([`Queue::take`]), jobs too
//! old to keep ([`Queue::poll_expired`]), the next deadline. **Core**: one queue per shard, on the shard that owns its
//! destinations. **Refuses** to connect, to resolve, to read bodies, to write reports, and to bound the mail: a job
//! stands for a message that was acknowledged, so it is never refused; intake is what has a limit.
//!
//! A job is for the recipients of a *domain*. Each domain has a *destination*, where its jobs wait: one of its own at first;
//! once the driver knows its mail exchangers ([`Queue::bind`]), that of its *site*, which it shares with all domains whose mail
//! the same hosts take. What is said of a destination (suspended, connections, limits) is said of the site.
//!
//! A job is *ready*, *waiting* for its retry, *held* by the driver, or *expired* and about to be held. A destination is
//! *open*; or *suspended*, when none of its hosts could be reached: then its jobs cost nothing, no timers and no
//! attempts of their own; or *probing*, after a suspension, until somebody answered.
//!
//! A job may have [`Terms`]: it is held before it is ready for the first time, given up before it is old, goes before or
//! behind plain mail.
//!
//! The kinds of method: getters; `handle_timeout`; commands (`enqueue`, `take`, and the outcomes `finished`, `deferred`,
//! `put_back`, `unreachable`, `reachable`); `poll_touched`, `poll_expired`, `poll_late`, `poll_timeout`. Every one costs O(1), a
//! retry timer O(log n); long work is cut in slices, one a turn.

mod aside;
#[cfg(any(test, feature = "sim"))]
mod audit;
mod destination;
mod flows;
#[cfg(test)]
mod flows_tests;
mod job;
#[cfg(test)]
mod property_tests;
mod ready;
mod retry;
mod sites;
#[cfg(test)]
mod sites_tests;
mod slots;
mod tenants;
mod terms;
#[cfg(test)]
mod terms_tests;
#[cfg(test)]
mod tests;
mod window;

pub use job::{CampaignId, DestinationId, DomainId, FlowId, Job, JobKey, LastReply, RecipientSet, TenantId};
pub use retry::RetryPolicy;
pub use terms::Terms;
pub use window::Resized;

use crate::limits;
use crate::time::{Moment, Now, Wall};
use destination::{Access, Destinations};
use ready::End;
use slots::{List, NONE, Slots, State};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;
use tenants::Tenants;
use terms::Deadlines;

/// What became of a deferred job.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Deferral {
    /// It is ready again at this moment.
    Until(Moment),
    /// It is too old to be tried again. The driver still holds it: it reports to the sender, then calls
    /// [`Queue::finished`].
    Expired,
}

/// Numbers for the operator.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Jobs that could go at once, or could if their destination were not suspended.
    pub ready: usize,
    /// Jobs whose retry timer runs.
    pub waiting: usize,
    /// Jobs with the driver.
    pub in_flight: usize,
    /// Jobs that [`Queue::poll_expired`] is about to return.
    pub expired: usize,
    /// Destinations remembered, empty ones included.
    pub destinations: usize,
    /// Destinations of those that are suspended or probed.
    pub suspended: usize,
}

/// The destination queues of one shard; lives on it. `B` is what a job keeps of its message's body.
#[derive(Debug)]
pub struct Queue<B> {
    policy: RetryPolicy,
    /// Rules say something else of some mail.
    scheduled: bool,
    /// The least of all ages at which mail is given up.
    least_give_up: Duration,
    slots: Slots<B>,
    destinations: Destinations,
    tenants: Tenants,
    /// Retry timers, earliest first. An entry whose job was finished meanwhile is skipped.
    retries: BinaryHeap<Reverse<(Moment, u32, u32)>>,
    deadlines: Deadlines,
    /// Jobs whose senders are to be told that they are late. Those finished meanwhile are skipped.
    late: VecDeque<JobKey>,
    /// Ends of suspensions, earliest first. An entry counts only while its destination is suspended until that moment.
    suspensions: BinaryHeap<Reverse<(Moment, DestinationId)>>,
    /// Destinations whose ready jobs are being looked through for expired ones, and for those that belong elsewhere.
    sweeping: VecDeque<DestinationId>,
    expired: List,
    /// Ready jobs with a body, oldest first. Entries of jobs taken or finished meanwhile are skipped.
    bodies: VecDeque<JobKey>,
    ready: usize,
    waiting: usize,
    in_flight: usize,
    /// The latest time heard: when a sweep goes on.
    now: Now,
}

impl<B> Queue<B> {
    /// An empty queue. `seed` seeds the hash of domain names; it influences speed only, never behaviour.
    pub fn new(policy: RetryPolicy, seed: u64) -> Self {
        Queue {
            policy,
            scheduled: false,
            least_give_up: policy.give_up,
            slots: Slots::new(),
            destinations: Destinations::new(seed),
            tenants: Tenants::default(),
            retries: BinaryHeap::new(),
            deadlines: Deadlines::default(),
            late: VecDeque::new(),
            suspensions: BinaryHeap::new(),
            sweeping: VecDeque::new(),
            expired: List::EMPTY,
            bodies: VecDeque::new(),
            ready: 0,
            waiting: 0,
            in_flight: 0,
            now: Now::default(),
        }
    }

    // --- getters --------------------------------------------------------------------------------------------------

    /// When it tries again and gives up.
    pub fn policy(&self) -> &RetryPolicy {
        &self.policy
    }

    /// The name of a destination: the site, or while it is bound to none the domain. `None`: forgotten.
    pub fn name(&self, dest: DestinationId) -> Option<&str> {
        self.destinations.get(dest).map(|d| &*d.name)
    }

    /// The number of ready jobs of a destination that are not set aside, were it suspended or not.
    pub fn peek_len(&self, dest: DestinationId) -> usize {
        self.destinations.get(dest).map_or(0, |d| d.available() as usize)
    }

    /// The jobs of a destination that the driver holds.
    pub fn in_flight(&self, dest: DestinationId) -> usize {
        self.destinations.get(dest).map_or(0, |d| d.in_flight as usize)
    }

    /// How long the oldest ready job of a destination has been ready. `None`: none is.
    pub fn oldest_ready_wait(&self, dest: DestinationId, now: Moment) -> Option<Duration> {
        let d = self.destinations.get(dest)?;
        let heads = d.ranked_heads(true).chain(d.plain.heads()).chain(d.ranked_heads(false));
        heads.map(|index| now.since(self.slots.get(index).job.enqueued)).max()
    }

    /// Whether the destination is suspended: nothing can be taken.
    pub fn is_suspended(&self, dest: DestinationId) -> bool {
        self.destinations.get(dest).is_some_and(|d| matches!(d.access, Access::Suspended(_)))
    }

    /// Whether a suspension has ended and nobody has answered since: one connection at most, please, until
    /// [`reachable`](Self::reachable) or [`unreachable`](Self::unreachable).
    pub fn is_probing(&self, dest: DestinationId) -> bool {
        self.destinations.get(dest).is_some_and(|d| d.access == Access::Probing)
    }

    /// Why the destination was suspended last; `None` once it has been reached.
    pub fn trouble(&self, dest: DestinationId) -> Option<&LastReply> {
        self.destinations.get(dest)?.trouble.as_deref()
    }

    /// Since when no host of the destination could be reached; `None`: one could.
    pub fn unreachable_since(&self, dest: DestinationId) -> Option<Moment> {
        self.destinations.get(dest)?.unreachable_since
    }

    /// The job of that name. `None`: finished.
    pub fn job(&self, key: JobKey) -> Option<&Job<B>> {
        Some(&self.slots.get(self.slots.resolve(key)?).job)
    }

    /// The job of that name. A body put into it stays until the job is deferred or put back.
    pub fn job_mut(&mut self, key: JobKey) -> Option<&mut Job<B>> {
        let index = self.slots.resolve(key)?;
        Some(&mut self.slots.get_mut(index).job)
    }

    /// The destination where a job is.
    pub fn destination_of(&self, key: JobKey) -> Option<DestinationId> {
        Some(self.destinations.id(self.slots.get(self.slots.resolve(key)?).destination))
    }

    /// Whether [`poll_touched`](Self::poll_touched) or [`poll_expired`](Self::poll_expired) may have something: the
    /// driver does not sleep then.
    pub fn has_work(&self) -> bool {
        self.destinations.any_touched() || self.expired.len > 0 || !self.late.is_empty()
    }

    /// Numbers for the operator.
    pub fn counts(&self) -> Counts {
        Counts {
            ready: self.ready,
            waiting: self.waiting,
            in_flight: self.in_flight,
            expired: self.expired.len as usize,
            destinations: self.destinations.len(),
            suspended: self.destinations.suspended,
        }
    }

    // --- commands -------------------------------------------------------------------------------------------------

    /// Adds a job behind the fresh mail of `domain` (lower case, or the name of a fixed next hop), which is created on
    /// first use. `job.attempts` and `job.last` may come from before a restart.
    pub fn enqueue(&mut self, domain: &str, mut job: Job<B>, now: Moment) -> DestinationId {
        job.enqueued = now;
        self.now.mono = self.now.mono.max(now);
        self.tenants.add(job.flow());
        let domain = self.destinations.find_or_create(domain);
        let home = self.destinations.domain_at_mut(domain);
        home.jobs += 1;
        let dest = home.destination;
        if matches!(self.destinations.at(dest).access, Access::Suspended(_)) {
            job.body = None;
        }
        let terms = job.terms.as_deref().copied();
        if let Some(held) = terms.and_then(|t| Some(t.hold_until?.min(t.end().unwrap_or(Moment::NEVER))))
            && held > now
        {
            job.body = None;
            let key = self.slots.insert(job, domain, dest, State::Waiting);
            self.begin_terms(key);
            self.destinations.at_mut(dest).waiting += 1;
            self.waiting += 1;
            self.set_timer(held, key);
            return self.destinations.id(dest);
        }
        let has_body = job.body.is_some();
        let key = self.slots.insert(job, domain, dest, State::Fresh);
        if terms.is_some() {
            self.begin_terms(key);
        }
        self.make_ready(key.index, End::Back);
        if has_body {
            self.watch_body(key);
        }
        self.destinations.id(dest)
    }

    /// Takes the next ready job: the oldest fresh mail, else the oldest retry; with both ready every eighth is a retry
    /// ([`limits::QUEUE_RETRY_SHARE`]); of several tenants the one whose turn it is, by their weights; none of a flow that is set aside. Mail with a higher priority goes before (RFC 6710 §5.1), that with a lower one behind,
    /// and while there is any, every eighth is the oldest of all ([`limits::QUEUE_RANK_SHARE`]). The driver holds it from now on and gives it back by [`finished`](Self::finished),
    /// [`deferred`](Self::deferred) or [`put_back`](Self::put_back). `None`: nothing is ready, or the destination is
    /// suspended or forgotten.
    pub fn take(&mut self, dest: DestinationId) -> Option<JobKey> {
        loop {
            let d = self.destinations.get_mut(dest)?;
            if matches!(d.access, Access::Suspended(_)) || d.available() == 0 {
                return None;
            }
            let index = if d.ranks.is_some() { self.next_ranked(dest.index) } else { self.next_plain(dest.index) };
            if self.place_of(index) == dest.index {
                self.hold(index);
                return Some(self.slots.key(index));
            }
            self.bring_home(index, End::Back);
        }
    }

    /// Puts a destination on the list of [`poll_touched`](Self::poll_touched) again, for a driver that could not serve
    /// it then (no connection to spare) and can now.
    pub fn touch(&mut self, dest: DestinationId) {
        if self.destinations.get(dest).is_some() {
            self.destinations.touch(dest.index);
        }
    }

    /// The job is over, delivered or given up: removes it, wherever it was.
    ///
    /// # Panics
    /// If it was removed before.
    pub fn finished(&mut self, key: JobKey) -> Job<B> {
        let index = self.slots.resolve(key).expect("a job is finished once");
        match self.slots.get(index).state {
            State::InFlight => {}
            State::Waiting => {
                self.waiting -= 1;
                let d = self.destinations.at_mut(self.slots.get(index).destination);
                d.waiting -= 1;
                d.in_flight += 1;
                self.in_flight += 1;
            }
            State::Fresh | State::Retry | State::Ranked(_) => self.hold(index),
            State::Expired => {
                self.slots.unlink(&mut self.expired, index);
                self.hold_expired(index);
            }
        }
        let used = self.slots.remove(index);
        if used.job.terms.is_some() {
            self.deadlines.end(|key| self.slots.resolve(key).is_some());
        }
        self.in_flight -= 1;
        self.tenants.remove(used.job.flow());
        self.destinations.at_mut(used.destination).in_flight -= 1;
        self.destinations.domain_at_mut(used.domain).jobs -= 1;
        self.destinations.note_if_empty(used.domain, self.now.mono);
        used.job
    }

    /// The attempt failed for the time being, for `remaining` (what was delivered or refused for good is left out).
    /// Counts the attempt, drops the body and sets the retry timer, unless the job has reached its give-up age.
    /// `random`: any evenly distributed number, for the jitter.
    ///
    /// # Panics
    /// If the driver does not hold the job.
    pub fn deferred(
        &mut self,
        key: JobKey,
        remaining: RecipientSet,
        reply: LastReply,
        now: Now,
        random: u64,
    ) -> Deferral {
        self.deferred_for(key, remaining, reply, None, now, random)
    }

    /// The same, with the next attempt so long `after` this one, and perhaps a little later, if whoever refused it has said so;
    /// be the job older than its give-up age by then.
    ///
    /// # Panics
    /// If the driver does not hold the job.
    pub fn deferred_for(
        &mut self,
        key: JobKey,
        remaining: RecipientSet,
        reply: LastReply,
        after: Option<Duration>,
        now: Now,
        random: u64,
    ) -> Deferral {
        self.now = now;
        let index = self.held(key);
        let policy = self.policy_of(key);
        let used = self.slots.get_mut(index);
        let job = &mut used.job;
        job.attempts = job.attempts.saturating_add(1);
        if !planted!(GroupRetriedWhole) {
            job.recipients = remaining;
        }
        job.last = Some(Box::new(reply));
        job.body = None;
        let Some(delay) = policy.next_attempt(job.attempts, job.accepted, now, random) else {
            return Deferral::Expired;
        };
        let mut due = now.mono + after.map_or(delay, |after| policy.spread(after, random));
        if let Some(terms) = &job.terms {
            if terms.is_overdue(now.mono) {
                return Deferral::Expired;
            }
            due = due.min(terms.end().unwrap_or(Moment::NEVER));
        }
        used.state = State::Waiting;
        let destination = used.destination;
        if !planted!(RetryForgotten) {
            self.set_timer(due, key);
        }
        self.waiting += 1;
        self.in_flight -= 1;
        let d = self.destinations.at_mut(destination);
        d.waiting += 1;
        d.in_flight -= 1;
        Deferral::Until(due)
    }

    /// The attempt never began (the connection was lost before it was used): the job is the first ready one again, and
    /// no attempt is counted. Where the whole destination turned out unreachable, put its jobs back first and then
    /// call [`unreachable`](Self::unreachable), which finds those too old to stay.
    ///
    /// # Panics
    /// If the driver does not hold the job.
    pub fn put_back(&mut self, key: JobKey) {
        let index = self.held(key);
        let used = self.slots.get_mut(index);
        let destination = used.destination;
        // A body that nobody watches (read from the spool, or watched too long) does not go back into the queue.
        let place = self.destinations.domain_at(used.domain).destination;
        if !used.aging || matches!(self.destinations.at(place).access, Access::Suspended(_)) {
            used.job.body = None;
        }
        used.destination = place;
        let (tenant, size) = (used.job.tenant, used.job.size);
        if let Some(terms) = used.job.terms.as_deref().copied() {
            // Its moment may have come while the driver held it.
            self.deadlines.watch(key, &terms, |key| self.slots.resolve(key).is_some());
        }
        self.in_flight -= 1;
        self.destinations.at_mut(destination).in_flight -= 1;
        self.make_ready(index, End::Front);
        self.destinations.at_mut(place).plain.refund(tenant, size);
    }

    /// Leaves `kept` of a held job's recipients to it; for the `others` there is another job like it, which is the first
    /// ready one. For a next hop that takes no more at a time.
    ///
    /// # Panics
    /// If the driver does not hold the job.
    pub fn split(&mut self, key: JobKey, kept: RecipientSet, others: RecipientSet)
    where
        B: Clone,
    {
        let index = self.held(key);
        let used = self.slots.get_mut(index);
        let (domain, aging, old) = (used.domain, used.aging, &mut used.job);
        old.recipients = kept;
        let body = old.body.clone().filter(|_| aging);
        let mut job = Job::new(old.id, old.home, others, old.accepted, old.size, body);
        (job.enqueued, job.attempts, job.last, job.terms) =
            (old.enqueued, old.attempts, old.last.clone(), old.terms.clone());
        (job.tenant, job.campaign) = (old.tenant, old.campaign);
        self.tenants.add(job.flow());
        let home = self.destinations.domain_at_mut(domain);
        home.jobs += 1;
        let destination = home.destination;
        if matches!(self.destinations.at(destination).access, Access::Suspended(_)) {
            job.body = None;
        }
        let (has_body, has_terms) = (job.body.is_some(), job.terms.is_some());
        let key = self.slots.insert(job, domain, destination, State::Fresh);
        if has_terms {
            self.begin_terms(key);
        }
        self.make_ready(key.index, End::Front);
        if has_body {
            self.watch_body(key);
        }
    }

    /// Another job like a held one, held too, for those of its recipients that have an outcome of their own.
    ///
    /// # Panics
    /// If the driver does not hold the job.
    pub fn split_off(&mut self, key: JobKey) -> JobKey {
        let index = self.held(key);
        let used = self.slots.get(index);
        let (domain, destination, old) = (used.domain, used.destination, &used.job);
        let mut job = Job::new(old.id, old.home, old.recipients.clone(), old.accepted, old.size, None);
        (job.enqueued, job.attempts, job.terms) = (old.enqueued, old.attempts, old.terms.clone());
        (job.tenant, job.campaign) = (old.tenant, old.campaign);
        self.tenants.add(job.flow());
        let has_terms = job.terms.is_some();
        self.destinations.domain_at_mut(domain).jobs += 1;
        let key = self.slots.insert(job, domain, destination, State::InFlight);
        if has_terms {
            self.begin_terms(key);
        }
        self.destinations.at_mut(destination).in_flight += 1;
        self.in_flight += 1;
        key
    }

    /// No host of the destination could be reached, or its DNS failed for the time being: suspends the destination as
    /// a whole, with the back-off of [`RetryPolicy`] over its consecutive failures. Its jobs stay ready, drop their
    /// bodies (the latest at once; one that stands before a job without a body goes with its age, by
    /// [`drop_stale_bodies`](Self::drop_stale_bodies)), and count no attempt; those that have reached their give-up age
    /// expire ([`poll_expired`](Self::poll_expired)).
    /// Returns when it is probed next. Of several failures at the same time the first counts.
    pub fn unreachable(&mut self, dest: DestinationId, reason: LastReply, now: Now, random: u64) -> Moment {
        self.now = now;
        let Some(d) = self.destinations.get_mut(dest) else { return now.mono };
        if let Access::Suspended(until) = d.access {
            return until;
        }
        d.strikes = d.strikes.saturating_add(1);
        d.unreachable_since.get_or_insert(now.mono);
        let strikes = d.strikes;
        let until = now.mono + self.policy_at(dest.index, TenantId::NONE).delay(strikes, random);
        self.pause(dest, reason, until, now);
        until
    }

    /// As [`unreachable`](Self::unreachable), until a given moment: the reason is ours (no descriptors left), and nothing
    /// is held against the destination.
    pub fn pause(&mut self, dest: DestinationId, reason: LastReply, until: Moment, now: Now) {
        self.now = now;
        let Some(d) = self.destinations.get_mut(dest) else { return };
        if let Access::Suspended(_) = d.access {
            return;
        }
        d.trouble = Some(Box::new(reason));
        // Fresh mail came last and has bodies; what has none came before it.
        let tails = d.plain.fresh_tails();
        self.destinations.set_access(dest.index, Access::Suspended(until));
        self.suspensions.push(Reverse((until, dest)));
        for mut index in tails {
            while index != NONE && self.slots.get_mut(index).job.body.take().is_some() {
                index = self.slots.prev(index);
            }
        }
        let d = self.destinations.at_mut(dest.index);
        if now.wall.since(d.oldest) >= self.least_give_up {
            d.oldest = Wall(u64::MAX);
            self.begin_sweep(dest.index);
            self.sweep(limits::QUEUE_SWEEP_PER_TURN);
        }
    }

    /// A host of the destination answered: it is open, its failures are forgotten.
    pub fn reachable(&mut self, dest: DestinationId) {
        let Some(d) = self.destinations.get_mut(dest) else { return };
        d.unreachable_since = None;
        if d.access == Access::Open {
            return;
        }
        d.strikes = 0;
        d.trouble = None;
        d.abandon_sweep();
        let ready = d.ready() > 0;
        self.destinations.set_access(dest.index, Access::Open);
        if ready {
            self.destinations.touch(dest.index);
        }
    }

    /// Drops the bodies of ready jobs that were enqueued more than `max_age` ago, and returns how many. To be called
    /// once in a while: bodies are parts of large shared buffers, which a few slow jobs would keep. What the driver
    /// holds, it keeps.
    pub fn drop_stale_bodies(&mut self, now: Moment, max_age: Duration) -> usize {
        let mut dropped = 0;
        while let Some(key) = self.bodies.front() {
            if let Some(index) = self.slots.resolve(*key) {
                let used = self.slots.get_mut(index);
                if now.since(used.job.enqueued) < max_age && used.job.body.is_some() {
                    break;
                }
                used.aging = false;
                if used.state != State::InFlight {
                    dropped += usize::from(used.job.body.take().is_some());
                }
            }
            self.bodies.pop_front();
        }
        dropped
    }

    // --- handle ---------------------------------------------------------------------------------------------------

    /// Serves what is due: retries become ready, suspensions end, empty destinations are forgotten, the search for
    /// expired jobs goes on. Bounded work; what is left is due at once ([`poll_timeout`](Self::poll_timeout)).
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        for _ in 0..limits::QUEUE_TIMERS_PER_TURN {
            let Some(Reverse((due, index, generation))) = self.retries.peek().copied() else { break };
            if due > now.mono {
                break;
            }
            self.retries.pop();
            if let Some(index) = self.slots.resolve(JobKey { index, generation }) {
                let used = self.slots.get_mut(index);
                used.job.enqueued = now.mono;
                let destination = used.destination;
                let overdue = used.job.terms.as_ref().is_some_and(|t| t.is_overdue(now.mono));
                used.destination = self.destinations.domain_at(used.domain).destination;
                self.waiting -= 1;
                self.destinations.at_mut(destination).waiting -= 1;
                if overdue {
                    self.slots.get_mut(index).state = State::Expired;
                    self.set_aside(index);
                } else {
                    self.make_ready(index, End::Back);
                }
            }
        }
        for _ in 0..limits::QUEUE_TIMERS_PER_TURN {
            let Some(key) = self.deadlines.poll(now.mono) else { break };
            self.deadline_passed(key, now.mono);
        }
        if self.retries.capacity() > 8192 && self.retries.len() < self.retries.capacity() / 8 {
            // An outage is over; its memory is for others. Copies an eighth at most, after seven eighths went.
            self.retries.shrink_to(self.retries.len() * 2 + 1024);
        }
        self.end_suspensions(now.mono);
        self.sweep(limits::QUEUE_SWEEP_PER_TURN);
        self.destinations.forget_idle(now.mono);
    }

    // --- poll -----------------------------------------------------------------------------------------------------

    /// The next destination that has ready jobs and is not suspended, in the order they got them. Each is returned
    /// once until something new happens to it: a job comes, falls due or is put back, a suspension ends, it is reached
    /// again, or [`touch`](Self::touch). What is touched during a round (up to the `None`) comes in the next round.
    pub fn poll_touched(&mut self) -> Option<DestinationId> {
        self.destinations.poll_touched()
    }

    /// The next job that has reached its give-up age at a destination that cannot be reached. The driver holds it: it
    /// reports to the sender, with [`trouble`](Self::trouble) or the job's own last reply, then calls
    /// [`finished`](Self::finished).
    ///
    /// Nothing expires without a failed attempt at its age: until then it may still be delivered.
    pub fn poll_expired(&mut self) -> Option<JobKey> {
        let index = self.expired.head;
        if index == NONE {
            return None;
        }
        self.slots.unlink(&mut self.expired, index);
        self.hold_expired(index);
        Some(self.slots.key(index))
    }

    /// The next job whose sender is to be told that it is late ([`Terms::tell_late`]). It stays where it is.
    pub fn poll_late(&mut self) -> Option<JobKey> {
        std::iter::from_fn(|| self.late.pop_front()).find(|key| self.slots.resolve(*key).is_some())
    }

    /// When [`handle_timeout`](Self::handle_timeout) has something to do next; in the past if there was too much for
    /// one turn. `None`: never.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let retry = self.retries.peek().map(|Reverse((due, ..))| *due);
        let suspension = self.suspensions.peek().map(|Reverse((until, _))| *until);
        let sweep = (!self.sweeping.is_empty()).then_some(self.now.mono);
        [retry, suspension, sweep, self.deadlines.next(), self.destinations.next_idle()].into_iter().flatten().min()
    }

    // --- inside ---------------------------------------------------------------------------------------------------

    fn held(&self, key: JobKey) -> u32 {
        let index = self.slots.resolve(key).expect("the driver names jobs it holds");
        assert!(self.slots.get(index).state == State::InFlight, "the driver gives back jobs it holds");
        index
    }

    fn set_timer(&mut self, due: Moment, key: JobKey) {
        if self.retries.len() == self.retries.capacity() {
            // A quarter and not the double: 20 bytes a waiting job at most.
            self.retries.reserve_exact(self.retries.len() / 4 + 1024);
        }
        self.retries.push(Reverse((due, key.index, key.generation)));
    }

    /// A job with terms was added.
    fn begin_terms(&mut self, key: JobKey) {
        self.deadlines.begin();
        if let Some(terms) = self.slots.get(key.index).job.terms.as_deref().copied() {
            self.deadlines.watch(key, &terms, |key| self.slots.resolve(key).is_some());
        }
    }

    /// A moment of a job's terms has come.
    fn deadline_passed(&mut self, key: JobKey, now: Moment) {
        let Some(index) = self.slots.resolve(key) else { return };
        let used = self.slots.get_mut(index);
        let Some(terms) = &mut used.job.terms else { return };
        if terms.is_overdue(now) {
            // With the driver it is asked for before it is sent; a retry timer ends no later.
            if matches!(used.state, State::Fresh | State::Retry | State::Ranked(_)) {
                self.unlink_ready(index, State::Expired);
                self.set_aside(index);
            }
        } else if terms.tell_late.is_some_and(|at| at <= now) {
            terms.tell_late = None;
            self.late.push_back(key);
        }
    }

    fn watch_body(&mut self, key: JobKey) {
        self.slots.get_mut(key.index).aging = true;
        // Two at most for one that comes: jobs that went quickly leave no tail of entries behind.
        for _ in 0..2 {
            match self.bodies.front() {
                Some(front) if self.slots.resolve(*front).is_none() => self.bodies.pop_front(),
                _ => break,
            };
        }
        self.bodies.push_back(key);
    }
}
