//! PURE. Where jobs rest: slots in chunks that never move, linked into lists by index.

use super::job::{Job, JobKey};

/// "No slot", in links.
pub(super) const NONE: u32 = u32::MAX;

/// Where a job is. Every used slot is in exactly one of these states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// In its destination's list of fresh mail.
    Fresh,
    /// In its destination's list of retries.
    Retry,
    /// In its destination's list of mail of this rank, attempted or not.
    Ranked(u8),
    /// Its retry timer runs.
    Waiting,
    /// Taken, or reported as expired: with the driver.
    InFlight,
    /// In the queue's list of expired jobs.
    Expired,
}

/// A job and its place.
#[derive(Debug)]
pub(super) struct Used<B> {
    pub job: Job<B>,
    /// Index of its recipients' domain.
    pub domain: u32,
    /// Index of the destination where it is: its domain's, unless that has changed.
    pub destination: u32,
    /// Neighbours in the list of its state.
    prev: u32,
    next: u32,
    pub state: State,
    /// Its body is on the list of bodies to be let go in time.
    pub aging: bool,
}

#[derive(Debug)]
enum Content<B> {
    /// The next free slot.
    Free(u32),
    Used(Used<B>),
}

#[derive(Debug)]
struct Slot<B> {
    generation: u32,
    content: Content<B>,
}

const _: () = assert!(size_of::<Slot<(std::rc::Rc<()>, u32, u32)>>() <= 112, "a job costs at most 32 bytes of place");

/// Slots of a chunk: growth costs one chunk, never a copy of all jobs.
const CHUNK: usize = 512;

/// All jobs of one shard.
#[derive(Debug)]
pub(super) struct Slots<B> {
    chunks: Vec<Box<[Slot<B>]>>,
    free: u32,
}

impl<B> Slots<B> {
    pub fn new() -> Self {
        Slots { chunks: Vec::new(), free: NONE }
    }

    pub fn insert(&mut self, job: Job<B>, domain: u32, destination: u32, state: State) -> JobKey {
        if self.free == NONE {
            self.grow();
        }
        let index = self.free;
        let slot = self.slot_mut(index);
        let Content::Free(next) = slot.content else { unreachable!("the free list has only free slots") };
        slot.content = Content::Used(Used { job, domain, destination, prev: NONE, next: NONE, state, aging: false });
        let generation = slot.generation;
        self.free = next;
        JobKey { index, generation }
    }

    /// Takes the job out; it must be in no list.
    pub fn remove(&mut self, index: u32) -> Used<B> {
        let free = self.free;
        let slot = self.slot_mut(index);
        let Content::Used(used) = std::mem::replace(&mut slot.content, Content::Free(free)) else {
            unreachable!("only used slots are removed")
        };
        slot.generation = slot.generation.wrapping_add(1);
        self.free = index;
        used
    }

    /// The slot's index, if `key` still names a job.
    pub fn resolve(&self, key: JobKey) -> Option<u32> {
        let slot = self.chunks.get(key.index as usize / CHUNK)?.get(key.index as usize % CHUNK)?;
        (slot.generation == key.generation && matches!(slot.content, Content::Used(_))).then_some(key.index)
    }

    pub fn key(&self, index: u32) -> JobKey {
        JobKey { index, generation: self.slot(index).generation }
    }

    pub fn get(&self, index: u32) -> &Used<B> {
        match &self.slot(index).content {
            Content::Used(used) => used,
            Content::Free(_) => unreachable!("lists and checked keys name used slots only"),
        }
    }

    pub fn get_mut(&mut self, index: u32) -> &mut Used<B> {
        match &mut self.slot_mut(index).content {
            Content::Used(used) => used,
            Content::Free(_) => unreachable!("lists and checked keys name used slots only"),
        }
    }

    /// Towards the head of the list it is in.
    pub fn prev(&self, index: u32) -> u32 {
        self.get(index).prev
    }

    pub fn push_back(&mut self, list: &mut List, index: u32) {
        let tail = list.tail;
        let used = self.get_mut(index);
        (used.prev, used.next) = (tail, NONE);
        match tail {
            NONE => list.head = index,
            tail => self.get_mut(tail).next = index,
        }
        list.tail = index;
        list.len += 1;
    }

    pub fn push_front(&mut self, list: &mut List, index: u32) {
        let head = list.head;
        let used = self.get_mut(index);
        (used.prev, used.next) = (NONE, head);
        match head {
            NONE => list.tail = index,
            head => self.get_mut(head).prev = index,
        }
        list.head = index;
        list.len += 1;
    }

    pub fn unlink(&mut self, list: &mut List, index: u32) {
        let used = self.get_mut(index);
        let (prev, next) = (used.prev, used.next);
        (used.prev, used.next) = (NONE, NONE);
        match prev {
            NONE => list.head = next,
            prev => self.get_mut(prev).next = next,
        }
        match next {
            NONE => list.tail = prev,
            next => self.get_mut(next).prev = prev,
        }
        list.len -= 1;
    }

    fn slot(&self, index: u32) -> &Slot<B> {
        &self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    fn slot_mut(&mut self, index: u32) -> &mut Slot<B> {
        &mut self.chunks[index as usize / CHUNK][index as usize % CHUNK]
    }

    #[cold]
    fn grow(&mut self) {
        let first = u32::try_from(self.chunks.len() * CHUNK).expect("memory ends before 4 billion jobs");
        let last = first + CHUNK as u32 - 1;
        let chunk = (first..=last)
            .map(|index| Slot { generation: 0, content: Content::Free(if index == last { NONE } else { index + 1 }) });
        self.chunks.push(chunk.collect());
        self.free = first;
    }
}

/// A list of slots, linked both ways.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    pub head: u32,
    pub tail: u32,
    pub len: u32,
}

impl List {
    pub const EMPTY: List = List { head: NONE, tail: NONE, len: 0 };
}
