//! PURE. The destinations of one shard: found by name, listed when they have work, forgotten when they are idle.

use super::job::{DestinationId, LastReply};
use super::slots::{List, NONE, State};
use super::terms::{HIGH_RANKS, RANKS};
use crate::limits;
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
    pub cursor: u32,
}

#[derive(Debug)]
pub(super) struct Destination {
    pub name: Rc<str>,
    /// Ready jobs never attempted.
    pub fresh: List,
    /// Ready jobs whose retry fell due.
    pub retry: List,
    /// Ready jobs with a priority, if there are any.
    pub ranks: Option<Box<Ranks>>,
    pub waiting: u32,
    pub in_flight: u32,
    pub expired: u32,
    /// Fresh jobs taken in a row while retries were ready.
    pub fresh_run: u8,
    pub access: Access,
    /// Consecutive times it was unreachable.
    pub strikes: u16,
    pub trouble: Option<Box<LastReply>>,
    /// No ready job was accepted earlier.
    pub oldest: Wall,
    pub sweep: Option<Sweep>,
    /// It has an entry in the queue's list of sweeps.
    pub sweep_queued: bool,
    touched: bool,
    /// When it became empty last.
    empty_since: Moment,
    /// It has an entry in the list of idle destinations.
    idle_listed: bool,
}

impl Destination {
    /// The number of ready jobs.
    pub fn ready(&self) -> u32 {
        self.fresh.len + self.retry.len + self.ranks.as_ref().map_or(0, |r| r.len)
    }

    /// The list of ready jobs in `state`.
    pub fn list(&self, state: State) -> List {
        match state {
            State::Fresh => self.fresh,
            State::Retry => self.retry,
            State::Ranked(rank) => self.ranks.as_ref().map_or(List::EMPTY, |r| r.lists[usize::from(rank)]),
            State::Waiting | State::InFlight | State::Expired => unreachable!("these are not ready"),
        }
    }

    /// Changes the list of ready jobs in `state`.
    pub fn edit_list(&mut self, state: State, edit: impl FnOnce(&mut List)) {
        match state {
            State::Fresh => edit(&mut self.fresh),
            State::Retry => edit(&mut self.retry),
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

    /// The first jobs of the lists of plain mail.
    pub fn plain_heads(&self) -> impl Iterator<Item = u32> {
        [self.fresh.head, self.retry.head].into_iter().filter(|head| *head != NONE)
    }

    /// Which list of ready jobs is looked through behind that of `state`.
    pub fn list_behind(&self, state: State) -> Option<State> {
        match state {
            State::Fresh => Some(State::Retry),
            State::Retry if self.ranks.is_some() => Some(State::Ranked(0)),
            State::Ranked(rank) if usize::from(rank) + 1 < RANKS => Some(State::Ranked(rank + 1)),
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

#[derive(Debug)]
pub(super) struct Destinations {
    by_name: HashMap<Rc<str>, u32, foldhash::fast::FixedState>,
    /// With the generation of each place.
    places: Vec<(u32, Option<Destination>)>,
    free: Vec<u32>,
    /// With work: those of this round, and those touched during it.
    touched: VecDeque<u32>,
    this_round: usize,
    /// The round's last destination was returned; the next call says that it is over.
    round_over: bool,
    /// Those that were empty, each at most once, with the time to look again.
    idle: VecDeque<(Moment, u32)>,
    /// How many are not open.
    pub suspended: usize,
}

impl Destinations {
    pub fn new(seed: u64) -> Self {
        Destinations {
            by_name: HashMap::with_hasher(foldhash::fast::FixedState::with_seed(seed)),
            places: Vec::new(),
            free: Vec::new(),
            touched: VecDeque::new(),
            this_round: 0,
            round_over: false,
            idle: VecDeque::new(),
            suspended: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Entries of the lists of destinations with work, and of empty ones.
    #[cfg(any(test, feature = "sim"))]
    pub fn lists(&self) -> [usize; 2] {
        [self.touched.len(), self.idle.len()]
    }

    pub fn find(&self, name: &str) -> Option<DestinationId> {
        self.by_name.get(name).map(|index| self.id(*index))
    }

    pub fn find_or_create(&mut self, name: &str) -> DestinationId {
        if let Some(found) = self.find(name) {
            return found;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            u32::try_from(self.places.len() - 1).expect("memory ends before 4 billion destinations")
        });
        let name: Rc<str> = name.into();
        self.by_name.insert(name.clone(), index);
        self.places[index as usize].1 = Some(Destination {
            name,
            fresh: List::EMPTY,
            retry: List::EMPTY,
            ranks: None,
            waiting: 0,
            in_flight: 0,
            expired: 0,
            fresh_run: 0,
            access: Access::Open,
            strikes: 0,
            trouble: None,
            oldest: Wall(u64::MAX),
            sweep: None,
            sweep_queued: false,
            touched: false,
            empty_since: Moment(0),
            idle_listed: false,
        });
        self.id(index)
    }

    pub fn id(&self, index: u32) -> DestinationId {
        DestinationId { index, generation: self.places[index as usize].0 }
    }

    pub fn get(&self, id: DestinationId) -> Option<&Destination> {
        let (generation, place) = self.places.get(id.index as usize)?;
        place.as_ref().filter(|_| *generation == id.generation)
    }

    pub fn get_mut(&mut self, id: DestinationId) -> Option<&mut Destination> {
        let (generation, place) = self.places.get_mut(id.index as usize)?;
        place.as_mut().filter(|_| *generation == id.generation)
    }

    /// The destination of a job.
    pub fn at(&self, index: u32) -> &Destination {
        self.places[index as usize].1.as_ref().expect("a destination with jobs is not forgotten")
    }

    /// The destination of a job.
    pub fn at_mut(&mut self, index: u32) -> &mut Destination {
        self.places[index as usize].1.as_mut().expect("a destination with jobs is not forgotten")
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
            if d.ready() > 0 && !matches!(d.access, Access::Suspended(_)) {
                self.round_over = self.this_round == 0;
                return Some(self.id(index));
            }
        }
        None
    }

    /// Remembers an empty destination for removal.
    pub fn note_if_empty(&mut self, index: u32, now: Moment) {
        let d = self.at_mut(index);
        if !d.is_empty() {
            return;
        }
        d.empty_since = now;
        if !std::mem::replace(&mut d.idle_listed, true) {
            self.idle.push_back((now + limits::QUEUE_DESTINATION_IDLE, index));
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

    /// Takes the first idle destination off the list and forgets it, if it has been empty for long enough by `now`.
    fn look_at_idle(&mut self, now: Moment) {
        let Some((due, index)) = self.idle.pop_front() else { return };
        let d = self.at_mut(index);
        if d.is_forgettable() && d.empty_since + limits::QUEUE_DESTINATION_IDLE <= now {
            if d.access != Access::Open {
                self.suspended -= 1;
            }
            let (generation, place) = &mut self.places[index as usize];
            *generation = generation.wrapping_add(1);
            let gone = place.take().expect("it was just looked at");
            self.by_name.remove(&gone.name);
            self.free.push(index);
        } else if d.is_empty() {
            // Used since, suspended or about to be polled: later.
            let again = due.max(d.empty_since) + limits::QUEUE_DESTINATION_IDLE;
            self.idle.push_back((again, index));
        } else {
            d.idle_listed = false;
        }
    }
}
