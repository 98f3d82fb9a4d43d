//! PURE. The destinations of one shard and the domains whose mail goes there: found by name, listed when they have work,
//! forgotten when they are idle.
//!
//! A domain has a destination of its own until it is bound to a site: then it shares that one's with all domains bound to
//! it. Jobs that were ready before are brought over as they are met: see `Queue::take` and `Queue::sweep`.

use super::flows::Flows;
use super::job::{DestinationId, DomainId, FlowId, LastReply};
use super::slots::{List, NONE, State};
use super::terms::{HIGH_RANKS, RANKS};
use super::window::Window;
use crate::limits;
use crate::shaping::Schedule;
use crate::time::{Moment, Wall};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

/// Whether mail may go to a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Access {
    Open,
    Suspended(Moment),
    /// A suspension has ended; nobody has answered yet.
    Probing,
}

/// Ready mail with a priority, by rank (`Terms::rank`).
#[derive(Debug)]
pub(super) struct Ranks {
    lists: [List; RANKS],
    /// Jobs in all of them.
    len: u32,
    /// Jobs taken since the oldest was.
    pub run: u8,
}

/// Where the search for expired jobs stands: at `cursor`, on the way to the head of `list`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sweep {
    pub list: State,
    /// Of Fresh and Retry.
    pub flow: FlowId,
    pub cursor: u32,
}

/// A recipient domain, or the name of a fixed next hop.
#[derive(Debug)]
pub(super) struct Domain {
    pub name: Rc<str>,
    /// Index of its destination. Some of its jobs may still be elsewhere.
    pub destination: u32,
    /// Its jobs, wherever they are.
    pub jobs: u32,
    /// Until when what DNS said of it holds; zero if it is bound to no site.
    pub bound_until: Moment,
    /// When it became empty last.
    empty_since: Moment,
    /// It has an entry in the list of what is idle.
    idle_listed: bool,
}

#[derive(Debug)]
pub(super) struct Destination {
    /// The site's, or that of the one domain it is for.
    pub name: Rc<str>,
    /// It is a site's, and found by the site's name.
    pub is_site: bool,
    /// The domains bound to it.
    domains: u32,
    /// Ready jobs without a priority.
    pub plain: Flows,
    /// Ready jobs with a priority, if there are any.
    pub ranks: Option<Box<Ranks>>,
    pub waiting: u32,
    pub in_flight: u32,
    pub expired: u32,
    pub access: Access,
    pub window: Window,
    /// Consecutive times it was unreachable.
    pub strikes: u16,
    pub trouble: Option<Box<LastReply>>,
    /// When its mail is tried again, as far as rules say.
    pub schedule: Option<Box<Schedule>>,
    /// Since when no host of it could be reached.
    pub unreachable_since: Option<Moment>,
    /// No ready job was accepted earlier.
    pub oldest: Wall,
    pub sweep: Option<Sweep>,
    /// It has an entry in the queue's list of sweeps.
    pub sweep_queued: bool,
    touched: bool,
    /// No domain is bound to it any more: it is forgotten once it is empty, and has an entry in the list of what is idle.
    pub orphaned: bool,
}

impl Destination {
    /// The number of ready jobs.
    pub fn ready(&self) -> u32 {
        self.plain.len() + self.ranks.as_ref().map_or(0, |r| r.len)
    }

    /// The number of ready jobs that are not set aside.
    pub fn available(&self) -> u32 {
        self.plain.available() + self.ranks.as_ref().map_or(0, |r| r.len)
    }

    /// The list of a flow's ready jobs in `state`; those with a rank are in one for all.
    pub fn list(&self, state: State, flow: FlowId) -> List {
        match state {
            State::Fresh | State::Retry => self.plain.list(state, flow),
            State::Ranked(rank) => self.ranks.as_ref().map_or(List::EMPTY, |r| r.lists[usize::from(rank)]),
            State::Waiting | State::InFlight | State::Expired => unreachable!("these are not ready"),
        }
    }

    /// Changes the list of ready jobs in `state` of a flow whose tenant has this weight.
    pub fn edit_list(&mut self, state: State, (flow, weight): (FlowId, u32), edit: impl FnOnce(&mut List)) {
        match state {
            State::Fresh | State::Retry => self.plain.edit(state, flow, weight, edit),
            State::Ranked(rank) => {
                let ranks =
                    self.ranks.get_or_insert_with(|| Box::new(Ranks { lists: [List::EMPTY; RANKS], len: 0, run: 0 }));
                let list = &mut ranks.lists[usize::from(rank)];
                let before = list.len;
                edit(list);
                ranks.len = ranks.len + list.len - before;
                if ranks.len == 0 {
                    self.ranks = None;
                }
            }
            State::Waiting | State::InFlight | State::Expired => unreachable!("these are not ready"),
        }
    }

    /// The first jobs of the lists of prioritised mail above plain mail, or of those below it; the highest first.
    pub fn ranked_heads(&self, high: bool) -> impl Iterator<Item = u32> {
        let lists = self.ranks.as_ref().map_or(&[][..], |r| &r.lists[..]);
        let (above, below) = lists.split_at(HIGH_RANKS.min(lists.len()));
        (if high { above } else { below }).iter().map(|list| list.head).filter(|head| *head != NONE)
    }

    /// Which list of ready jobs is looked through behind that of `state`.
    pub fn list_behind(&self, state: State, flow: FlowId) -> Option<(State, FlowId)> {
        match state {
            State::Fresh | State::Retry => {
                let ranked = || self.ranks.is_some().then_some((State::Ranked(0), flow));
                self.plain.behind(state, flow).or_else(ranked)
            }
            State::Ranked(rank) if usize::from(rank) + 1 < RANKS => Some((State::Ranked(rank + 1), flow)),
            _ => None,
        }
    }

    /// Stops looking for expired jobs; the next search begins from the start.
    pub fn abandon_sweep(&mut self) {
        if self.sweep.take().is_some() {
            self.oldest = Wall(0);
        }
    }

    fn is_empty(&self) -> bool {
        self.ready() + self.waiting + self.in_flight + self.expired == 0
    }

    fn is_forgettable(&self) -> bool {
        self.is_empty() && !self.touched && !self.sweep_queued && !matches!(self.access, Access::Suspended(_))
    }
}

/// What may be forgotten soon.
#[derive(Clone, Copy, Debug)]
enum Idle {
    Domain(u32),
    Orphan(u32),
}

#[derive(Debug)]
pub(super) struct Destinations {
    by_domain: Map,
    domains: Places<Domain>,
    by_site: Map,
    places: Places<Destination>,
    /// With work: those of this round, and those touched during it.
    touched: VecDeque<u32>,
    this_round: usize,
    /// The round's last destination was returned; the next call says that it is over.
    round_over: bool,
    /// What was empty, each at most once, with the time to look again.
    idle: VecDeque<(Moment, Idle)>,
    /// How many are not open.
    pub suspended: usize,
}

type Map = HashMap<Rc<str>, u32, foldhash::fast::FixedState>;

impl Destinations {
    pub fn new(seed: u64) -> Self {
        let hasher = || foldhash::fast::FixedState::with_seed(seed);
        Destinations {
            by_domain: HashMap::with_hasher(hasher()),
            domains: Places::new(),
            by_site: HashMap::with_hasher(hasher()),
            places: Places::new(),
            touched: VecDeque::new(),
            this_round: 0,
            round_over: false,
            idle: VecDeque::new(),
            suspended: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.places.used
    }

    /// Domains remembered; entries of the lists of destinations with work, and of what is idle.
    #[cfg(any(test, feature = "sim"))]
    pub fn lists(&self) -> [usize; 3] {
        [self.by_domain.len(), self.touched.len(), self.idle.len()]
    }

    pub fn find(&self, domain: &str) -> Option<DomainId> {
        self.by_domain.get(domain).map(|index| self.domain_id(*index))
    }

    /// The index of a domain.
    pub fn find_or_create(&mut self, name: &str) -> u32 {
        if let Some(&found) = self.by_domain.get(name) {
            return found;
        }
        let name: Rc<str> = name.into();
        let destination = self.create(Rc::clone(&name), false);
        let domain = Domain {
            name: Rc::clone(&name),
            destination,
            jobs: 0,
            bound_until: Moment(0),
            empty_since: Moment(0),
            idle_listed: false,
        };
        let index = self.domains.insert(domain);
        self.by_domain.insert(name, index);
        index
    }

    fn create(&mut self, name: Rc<str>, is_site: bool) -> u32 {
        self.places.insert(Destination {
            name,
            is_site,
            domains: 1,
            plain: Flows::new(),
            ranks: None,
            waiting: 0,
            in_flight: 0,
            expired: 0,
            access: Access::Open,
            window: Window::new(),
            strikes: 0,
            trouble: None,
            schedule: None,
            unreachable_since: None,
            oldest: Wall(u64::MAX),
            sweep: None,
            sweep_queued: false,
            touched: false,
            orphaned: false,
        })
    }

    pub fn id(&self, index: u32) -> DestinationId {
        DestinationId { index, generation: self.places.generation(index) }
    }

    pub fn domain_id(&self, index: u32) -> DomainId {
        DomainId { index, generation: self.domains.generation(index) }
    }

    pub fn get(&self, id: DestinationId) -> Option<&Destination> {
        self.places.get(id.index, id.generation)
    }

    pub fn get_mut(&mut self, id: DestinationId) -> Option<&mut Destination> {
        self.places.get_mut(id.index, id.generation)
    }

    pub fn domain(&self, id: DomainId) -> Option<&Domain> {
        self.domains.get(id.index, id.generation)
    }

    /// The destination of a job.
    pub fn at(&self, index: u32) -> &Destination {
        self.places.at(index).expect("a destination with jobs is not forgotten")
    }

    /// The destination of a job.
    pub fn at_mut(&mut self, index: u32) -> &mut Destination {
        self.places.at_mut(index).expect("a destination with jobs is not forgotten")
    }

    /// The domain of a job.
    pub fn domain_at(&self, index: u32) -> &Domain {
        self.domains.at(index).expect("a domain with jobs is not forgotten")
    }

    /// The domain of a job.
    pub fn domain_at_mut(&mut self, index: u32) -> &mut Domain {
        self.domains.at_mut(index).expect("a domain with jobs is not forgotten")
    }

    /// Binds a domain to a site. True: it has another destination than before.
    pub fn bind(&mut self, index: u32, site: &str, until: Moment) -> bool {
        let domain = self.domain_at_mut(index);
        domain.bound_until = until;
        let from = domain.destination;
        let old = self.at(from);
        if old.is_site && *old.name == *site {
            return false;
        }
        let to = match self.by_site.get(site) {
            Some(&there) => there,
            // It is the first of its site, which takes over the destination as it is: nothing stands there yet.
            None if !old.is_site => {
                let name: Rc<str> = site.into();
                self.by_site.insert(Rc::clone(&name), from);
                let old = self.at_mut(from);
                (old.name, old.is_site) = (name, true);
                return false;
            }
            None => {
                let name: Rc<str> = site.into();
                let to = self.create(Rc::clone(&name), true);
                self.at_mut(to).domains = 0;
                self.by_site.insert(name, to);
                to
            }
        };
        self.at_mut(to).domains += 1;
        self.move_domain(index, from, to);
        true
    }

    /// What DNS said of any domain holds no more.
    pub fn unbind_all(&mut self) {
        self.domains.all_mut().for_each(|domain| domain.bound_until = Moment(0));
    }

    /// Gives a domain a destination of its own again. True: it is another than before.
    pub fn isolate(&mut self, index: u32) -> bool {
        let domain = self.domain_at_mut(index);
        domain.bound_until = Moment(0);
        let (from, name) = (domain.destination, Rc::clone(&domain.name));
        if !self.at(from).is_site {
            return false;
        }
        let to = self.create(name, false);
        self.move_domain(index, from, to);
        true
    }

    fn move_domain(&mut self, index: u32, from: u32, to: u32) {
        self.domain_at_mut(index).destination = to;
        let old = self.at_mut(from);
        old.domains -= 1;
        if old.domains == 0 {
            old.orphaned = true;
            self.unname(from);
            // In front, as it may be looked at at once.
            self.idle.push_front((Moment(0), Idle::Orphan(from)));
        }
    }

    fn unname(&mut self, index: u32) {
        let d = self.at(index);
        if d.is_site {
            let name = Rc::clone(&d.name);
            self.by_site.remove(&name);
            self.at_mut(index).is_site = false;
        }
    }

    pub fn set_access(&mut self, index: u32, access: Access) {
        let old = std::mem::replace(&mut self.at_mut(index).access, access);
        self.suspended -= usize::from(old != Access::Open);
        self.suspended += usize::from(access != Access::Open);
    }

    pub fn touch(&mut self, index: u32) {
        if !std::mem::replace(&mut self.at_mut(index).touched, true) {
            self.touched.push_back(index);
        }
    }

    pub fn any_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    pub fn poll_touched(&mut self) -> Option<DestinationId> {
        if std::mem::take(&mut self.round_over) {
            return None;
        }
        if self.this_round == 0 {
            self.this_round = self.touched.len();
        }
        while self.this_round > 0 {
            self.this_round -= 1;
            let index = self.touched.pop_front().expect("a round is no longer than the list");
            let d = self.at_mut(index);
            d.touched = false;
            if d.available() > 0 && !matches!(d.access, Access::Suspended(_)) {
                self.round_over = self.this_round == 0;
                return Some(self.id(index));
            }
        }
        None
    }

    /// Remembers a domain without jobs for removal.
    pub fn note_if_empty(&mut self, index: u32, now: Moment) {
        let domain = self.domain_at_mut(index);
        if domain.jobs > 0 {
            return;
        }
        domain.empty_since = now;
        if !std::mem::replace(&mut domain.idle_listed, true) {
            self.idle.push_back((now + limits::QUEUE_DESTINATION_IDLE, Idle::Domain(index)));
            if self.idle.len() > limits::QUEUE_IDLE_DESTINATIONS {
                self.look_at_idle(Moment::NEVER);
            }
        }
    }

    pub fn next_idle(&self) -> Option<Moment> {
        self.idle.front().map(|(due, _)| *due)
    }

    pub fn forget_idle(&mut self, now: Moment) {
        for _ in 0..limits::QUEUE_TIMERS_PER_TURN {
            match self.idle.front() {
                Some((due, _)) if *due <= now => self.look_at_idle(now),
                _ => break,
            }
        }
    }

    /// Takes the first of what is idle off the list and forgets it, if it has been empty for long enough by `now`.
    fn look_at_idle(&mut self, now: Moment) {
        match self.idle.pop_front() {
            None => {}
            Some((due, Idle::Domain(index))) => self.look_at_domain(index, due, now),
            Some((_, Idle::Orphan(index))) if self.at(index).is_forgettable() => self.forget(index),
            Some((due, orphan)) => {
                let again = if now == Moment::NEVER { due } else { now };
                self.idle.push_back((again + limits::QUEUE_DESTINATION_IDLE, orphan));
            }
        }
    }

    fn look_at_domain(&mut self, index: u32, due: Moment, now: Moment) {
        let domain = self.domain_at(index);
        let (empty, since, destination) = (domain.jobs == 0, domain.empty_since, domain.destination);
        let d = self.at(destination);
        let alone = d.domains == 1;
        if empty && (!alone || d.is_forgettable()) && since + limits::QUEUE_DESTINATION_IDLE <= now {
            let gone = self.domains.remove(index);
            self.by_domain.remove(&gone.name);
            self.at_mut(destination).domains -= 1;
            if alone {
                self.forget(destination);
            }
        } else if empty {
            // Used since, suspended or about to be polled: later.
            let again = due.max(since) + limits::QUEUE_DESTINATION_IDLE;
            self.idle.push_back((again, Idle::Domain(index)));
        } else {
            self.domain_at_mut(index).idle_listed = false;
        }
    }

    fn forget(&mut self, index: u32) {
        self.unname(index);
        self.suspended -= usize::from(self.at(index).access != Access::Open);
        self.places.remove(index);
    }
}

/// Things in places that keep their numbers, with the generation of each.
#[derive(Debug)]
struct Places<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
    used: usize,
}

impl<T> Places<T> {
    fn new() -> Self {
        Places { places: Vec::new(), free: Vec::new(), used: 0 }
    }

    fn insert(&mut self, thing: T) -> u32 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            u32::try_from(self.places.len() - 1).expect("memory ends before 4 billion domains")
        });
        self.places[index as usize].1 = Some(thing);
        self.used += 1;
        index
    }

    fn remove(&mut self, index: u32) -> T {
        let (generation, place) = &mut self.places[index as usize];
        *generation = generation.wrapping_add(1);
        self.free.push(index);
        self.used -= 1;
        place.take().expect("what is there is removed")
    }

    fn generation(&self, index: u32) -> u32 {
        self.places[index as usize].0
    }

    fn get(&self, index: u32, generation: u32) -> Option<&T> {
        let (now, place) = self.places.get(index as usize)?;
        place.as_ref().filter(|_| *now == generation)
    }

    fn get_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        let (now, place) = self.places.get_mut(index as usize)?;
        place.as_mut().filter(|_| *now == generation)
    }

    fn all_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.places.iter_mut().filter_map(|(_, place)| place.as_mut())
    }

    fn at(&self, index: u32) -> Option<&T> {
        self.places[index as usize].1.as_ref()
    }

    fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.places[index as usize].1.as_mut()
    }
}
