//! PURE. The limits of the keys that one shard owns: what counts, what is leased, who waits. Lives on that shard.
//!
//! In: requests, settlements, returns; the moment; whether a snapshot was written. Out: mail to purses, snapshots. Every
//! request gets one answer: at the latest when a write has ended and the leases in the way were settled or have ended.
//! It refuses to hand out a lease that is not in a written snapshot.

use super::snapshot::{self, Encoder, Refused, Saved};
use super::track::Track;
use super::{Key, Limits, ToOwner, ToPurse};
use crate::limits::{
    QUOTA_CLOCK_STEP, QUOTA_KEYS, QUOTA_LEASE_SHARE, QUOTA_LEASE_TIME, QUOTA_LIMITS, QUOTA_SWEEP_KEYS,
    QUOTA_WRITE_TIMEOUT, SHARDS,
};
use crate::time::{Moment, Now};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;
use std::time::Duration;

/// A snapshot to be written to a slot of this shard, at its file's start, durably.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// 0 or 1: the one that does not hold the last good snapshot.
    pub slot: u8,
    /// All of it; padding may follow.
    pub bytes: Vec<u8>,
}

/// See the module's text.
#[derive(Debug)]
pub struct Owner {
    me: u16,
    /// This run of the process, the same on all its shards.
    run: u32,
    /// Of the last snapshot that was written.
    sequence: u64,
    books: BTreeMap<Key, Book>,
    /// Keys that this shard's last snapshot had and others own now, as they were: until each new owner has written them,
    /// only this shard's files may have them, and those are about to be written over.
    kept: BTreeMap<Key, Saved>,
    /// Keys with requests that wait for leases to be settled.
    waiting: BTreeSet<Key>,
    next_lease: u64,
    /// Leases for the next snapshot.
    gathering: Vec<(Key, u64)>,
    /// Leases in the snapshot that is being written, and when it was made.
    writing: Option<(Vec<(Key, u64)>, Now)>,
    /// A snapshot is wanted for its own sake.
    save: bool,
    /// The clocks at the last snapshot that was written, or at the start.
    clocks: Now,
    out: VecDeque<(u16, ToPurse)>,
    /// Where the next sweep begins.
    swept: Option<Key>,
}

/// What counts of a key.
#[derive(Debug)]
pub struct Counted {
    /// Its name, without its kind.
    pub name: String,
    /// Units that were used, or were leased when that was written.
    pub units: u64,
    track: Track,
}

impl Counted {
    /// From when on another one is within a limit of so many, if none is taken before.
    pub fn room_from(&self, amount: u32, now: Moment) -> Moment {
        self.track.down_to(u64::from(amount).saturating_sub(1), now)
    }
}

/// One key.
#[derive(Debug)]
struct Book {
    /// The run in which units were last leased.
    run: u32,
    /// One for each window that was ever asked for and still has units.
    tracks: Vec<Track>,
    /// At most one per shard, but for those that a shard has settled.
    leases: Vec<Lease>,
    waiting: VecDeque<Request>,
}

#[derive(Debug)]
struct Lease {
    id: u64,
    holder: u16,
    units: u32,
    made: Moment,
    /// Nothing until it is handed out.
    until: Option<Moment>,
    recalled: bool,
}

#[derive(Debug)]
struct Request {
    limits: Limits,
    holder: u16,
    need: u32,
    want: u32,
}

impl Owner {
    /// The owner of shard `me` of `shards`, from all files that shards of the runs before have left. Also the files that are
    /// not used, by their place in `files`, and why; blank ones are to be expected.
    pub fn restore<'a>(
        me: u16,
        shards: u16,
        files: impl IntoIterator<Item = &'a [u8]>,
        now: Now,
    ) -> (Owner, Vec<(usize, Refused)>) {
        let mut refused = Vec::new();
        let mut newest: BTreeMap<u16, snapshot::Snapshot> = BTreeMap::new();
        for (at, bytes) in files.into_iter().enumerate() {
            match snapshot::decode(bytes, now) {
                Err(reason) => refused.push((at, reason)),
                Ok(found) if newest.get(&found.shard).is_none_or(|other| other.sequence < found.sequence) => {
                    newest.insert(found.shard, found);
                }
                Ok(_) => {}
            }
        }
        let mut owner = Owner {
            me,
            run: newest.values().map(|found| found.run).max().unwrap_or(0).saturating_add(1),
            sequence: newest.get(&me).map_or(0, |found| found.sequence),
            books: BTreeMap::new(),
            kept: BTreeMap::new(),
            waiting: BTreeSet::new(),
            next_lease: 1,
            gathering: Vec::new(),
            writing: None,
            save: false,
            clocks: now,
            out: VecDeque::new(),
            swept: None,
        };
        // In each run a key has one owner, so of its copies the one of the latest run has all that the others have.
        let mut latest: BTreeMap<Key, Saved> = BTreeMap::new();
        for found in newest.into_values() {
            for (key, mut saved) in found.keys {
                if !saved.counts(now.mono) || planted!(QuotaForgotten) {
                    continue;
                }
                if key.owner(shards) == me {
                    let age = |saved: &mut Saved| (saved.run, saved.weight(now.mono));
                    if latest.get_mut(&key).is_none_or(|other| age(other) < age(&mut saved)) {
                        latest.insert(key, saved);
                    }
                } else if found.shard == me {
                    owner.kept.insert(key, saved);
                }
            }
        }
        let book =
            |saved: Saved| Book { run: saved.run, tracks: saved.tracks, leases: Vec::new(), waiting: VecDeque::new() };
        // A start is a new reckoning of the clocks.
        owner.save = !latest.is_empty();
        owner.books = latest.into_iter().map(|(key, saved)| (key, book(saved))).collect();
        (owner, refused)
    }

    /// What counts of the keys of a kind in windows of that length, for people.
    pub fn counted(self, kind: &str, window: Duration, now: Moment) -> impl Iterator<Item = Counted> {
        let kind = format!("{kind} ");
        self.books.into_iter().filter_map(move |(key, book)| {
            let name = key.name().strip_prefix(&kind)?.to_owned();
            let mut track = book.tracks.into_iter().find(|track| track.window == window)?;
            let units = track.used(now);
            (units > 0).then_some(Counted { name, units, track })
        })
    }

    /// Takes mail of a purse.
    pub fn handle(&mut self, message: ToOwner, now: Moment) {
        let key = message.key().clone();
        match message {
            ToOwner::Request { limits, holder, need, want, .. } => {
                let request = Request { limits, holder, need: need.max(1), want: want.max(need) };
                if !self.books.contains_key(&key) && self.books.len() >= QUOTA_KEYS {
                    self.out.push_back((holder, ToPurse::Unavailable { key }));
                    return;
                }
                let book = self.books.entry(key.clone()).or_insert_with(|| Book::new(self.run));
                if book.waiting.len() >= SHARDS {
                    self.out.push_back((holder, ToPurse::Unavailable { key }));
                    return;
                }
                book.waiting.push_back(request);
            }
            ToOwner::Settle { lease, unused, last_use, .. } => {
                let Some(book) = self.books.get_mut(&key) else { return };
                book.settle(lease, unused, last_use, now);
            }
            ToOwner::Return { units, taken_at, .. } => {
                let Some(book) = self.books.get_mut(&key) else { return };
                book.lapse(now);
                book.tracks.iter_mut().for_each(|track| track.put_back(taken_at, units, now));
            }
        }
        self.serve(&key, now);
    }

    /// Answers what can be answered, in order.
    fn serve(&mut self, key: &Key, now: Moment) {
        let Some(book) = self.books.get_mut(key) else { return };
        book.lapse(now);
        while let Some(request) = book.waiting.pop_front() {
            let Request { limits, holder, need, want } = &request;
            book.open_tracks(limits, now);
            let free = book.free(limits, now);
            if free >= u64::from(*need) {
                let share = u32::try_from(free / QUOTA_LEASE_SHARE).unwrap_or(u32::MAX).max(*need);
                let (id, units) = (self.next_lease, share.min(*want));
                self.next_lease += 1;
                book.run = self.run;
                book.leases.push(Lease { id, holder: *holder, units, made: now, until: None, recalled: false });
                self.gathering.push((key.clone(), id));
            } else if book.leases.is_empty() || limits.smallest() < *need {
                let retry_at = book.free_again(limits, *need, now);
                self.out.push_back((*holder, ToPurse::Denied { key: key.clone(), need: *need, retry_at }));
            } else {
                // Some of what is leased may lie unused. What is not handed out yet is recalled when it is.
                for lease in book.leases.iter_mut().filter(|lease| lease.until.is_some() && !lease.recalled) {
                    lease.recalled = true;
                    self.out.push_back((lease.holder, ToPurse::Recall { key: key.clone(), lease: lease.id }));
                }
                book.waiting.push_front(request);
                self.waiting.insert(key.clone());
                return;
            }
        }
        self.waiting.remove(key);
    }

    /// The next piece of mail, and the shard it is for.
    pub fn poll_send(&mut self) -> Option<(u16, ToPurse)> {
        self.out.pop_front()
    }

    /// A snapshot to write, if one is needed and none is under way.
    pub fn poll_write(&mut self, now: Now) -> Option<Write> {
        if self.writing.is_some() || (self.gathering.is_empty() && !self.save) {
            return None;
        }
        self.save = false;
        let leases = std::mem::take(&mut self.gathering);
        let bytes = self.encode(now);
        self.writing = Some((leases, now));
        let Some(bytes) = bytes else {
            self.handle_written(false, now.mono);
            return None;
        };
        // Only a snapshot that was written moves the sequence on, so a failed one is written over, and not the last good one.
        Some(Write { slot: ((self.sequence + 1) & 1) as u8, bytes })
    }

    /// Keys in ascending order, those of others among ours.
    fn encode(&mut self, now: Now) -> Option<Vec<u8>> {
        let mut encoder = Encoder::new(self.me, self.run, self.sequence + 1, now);
        self.kept.retain(|_, saved| saved.counts(now.mono));
        let mut kept = self.kept.iter().peekable();
        for (key, book) in &mut self.books {
            while let Some((key, saved)) = kept.next_if(|(other, _)| *other < key) {
                encoder.key(key, saved.run, &saved.tracks);
            }
            book.lapse(now.mono);
            let tracks = book.with_leases(now.mono);
            if tracks.iter().any(|track| !track.is_empty()) {
                encoder.key(key, book.run, &tracks);
            }
        }
        kept.for_each(|(key, saved)| encoder.key(key, saved.run, &saved.tracks));
        encoder.finish()
    }

    /// The snapshot of the last [`Owner::poll_write`] is on stable storage, or was not written. A failure refuses what
    /// waited for it: the next request tries again.
    pub fn handle_written(&mut self, written: bool, now: Moment) {
        let Some((leases, clocks)) = self.writing.take() else { return };
        if written {
            self.sequence += 1;
            self.clocks = clocks;
        }
        for (key, id) in leases {
            let Some(book) = self.books.get_mut(&key) else { continue };
            let Some(at) = book.leases.iter().position(|lease| lease.id == id) else { continue };
            let lease = &mut book.leases[at];
            let holder = lease.holder;
            if written && now.since(lease.made) < QUOTA_WRITE_TIMEOUT {
                let until = now + QUOTA_LEASE_TIME;
                lease.until = Some(until);
                let granted =
                    ToPurse::Granted { key: key.clone(), lease: id, units: lease.units, from: lease.made, until };
                self.out.push_back((holder, granted));
            } else {
                book.leases.remove(at);
                self.out.push_back((holder, ToPurse::Unavailable { key: key.clone() }));
            }
            self.serve(&key, now);
        }
    }

    /// Wants a snapshot of how things are now: at the end of a run, so that what was given back does not count in the next.
    ///
    /// With nothing to say it wants none: what earlier ones say has lapsed by itself.
    pub fn save(&mut self) {
        self.save = !(self.books.is_empty() && self.kept.is_empty());
    }

    /// Whether nothing is to be written and nothing is being written.
    pub fn is_saved(&self) -> bool {
        self.writing.is_none() && self.gathering.is_empty() && !self.save
    }

    /// Ends leases that have lapsed where somebody waits, forgets some keys with nothing that counts, and looks at the
    /// clocks. Some times a second.
    pub fn sweep(&mut self, now: Now) {
        for key in self.waiting.clone() {
            self.serve(&key, now.mono);
        }
        let from = self.swept.take().map_or(Bound::Unbounded, Bound::Excluded);
        let mut empty = Vec::new();
        for (count, (key, book)) in self.books.range_mut((from, Bound::Unbounded)).enumerate() {
            if book.is_empty(now.mono) {
                empty.push(key.clone());
            }
            if count + 1 == QUOTA_SWEEP_KEYS {
                self.swept = Some(key.clone());
                break;
            }
        }
        for key in empty {
            self.books.remove(&key);
        }
        // The wall clock was set: from here on, what a restart takes off is reckoned by the new one.
        let wall = i128::from(now.wall.0) - i128::from(self.clocks.wall.0);
        let mono = now.mono.since(self.clocks.mono).as_millis();
        if self.writing.is_none()
            && wall.abs_diff(i128::try_from(mono).unwrap_or(i128::MAX)) > QUOTA_CLOCK_STEP.as_millis()
        {
            self.save();
        }
    }
}

#[cfg(test)]
impl Owner {
    /// Keys with something that counts.
    pub(super) fn books_with_units(&mut self, now: Moment) -> usize {
        self.books.values_mut().filter_map(|book| (!book.is_empty(now)).then_some(())).count()
    }
}

impl Book {
    fn new(run: u32) -> Book {
        Book { run, tracks: Vec::new(), leases: Vec::new(), waiting: VecDeque::new() }
    }

    /// Whether nothing of it needs to be known.
    fn is_empty(&mut self, now: Moment) -> bool {
        self.lapse(now);
        self.tracks.iter_mut().for_each(|track| track.expire(now));
        self.leases.is_empty() && self.waiting.is_empty() && self.tracks.iter().all(Track::is_empty)
    }

    /// Leases that have ended without a word were used to their end.
    fn lapse(&mut self, now: Moment) {
        let ended = |lease: &Lease| lease.until.is_some_and(|until| until <= now);
        for lease in self.leases.iter().filter(|lease| ended(lease)) {
            for track in &mut self.tracks {
                track.add(lease.until.unwrap_or(now) + track.window, u64::from(lease.units), now);
            }
        }
        self.leases.retain(|lease| !ended(lease));
    }

    fn settle(&mut self, id: u64, unused: u32, last_use: Moment, now: Moment) {
        // One that has lapsed stays so.
        self.lapse(now);
        let Some(at) = self.leases.iter().position(|lease| lease.id == id && lease.until.is_some()) else { return };
        let used = self.leases.remove(at).units.saturating_sub(unused);
        for track in &mut self.tracks {
            track.add(last_use + track.window, u64::from(used), now);
        }
    }

    /// Makes sure of a track for each limit. One whose window is new gets what the longest other one knows.
    fn open_tracks(&mut self, limits: &Limits, now: Moment) {
        for limit in limits.0.iter() {
            if self.tracks.iter().any(|track| track.window == limit.window) {
                continue;
            }
            let longest = self.tracks.iter().max_by_key(|track| track.window);
            let track = longest.map_or_else(|| Track::new(limit.window), |known| known.in_window(limit.window, now));
            if self.tracks.len() >= QUOTA_LIMITS {
                // The configuration has changed several times: the shortest that is asked for no more is forgotten.
                let asked = |track: &&Track| limits.0.iter().any(|limit| limit.window == track.window);
                let shortest = self.tracks.iter().filter(|track| !asked(track)).map(|track| track.window).min();
                self.tracks.retain(|track| Some(track.window) != shortest);
            }
            self.tracks.push(track);
        }
    }

    fn leased(&self) -> u64 {
        self.leases.iter().map(|lease| u64::from(lease.units)).sum()
    }

    /// Units that can be leased.
    fn free(&mut self, limits: &Limits, now: Moment) -> u64 {
        let leased = if planted!(LeaseUncounted) { 0 } else { self.leased() };
        let free = |limit: &super::Limit| {
            let track = self.tracks.iter_mut().find(|track| track.window == limit.window);
            u64::from(limit.amount).saturating_sub(leased + track.map_or(0, |track| track.used(now)))
        };
        limits.0.iter().map(free).min().unwrap_or(0)
    }

    /// When `need` units will be free; no lease is out.
    fn free_again(&self, limits: &Limits, need: u32, now: Moment) -> Option<Moment> {
        let mut latest = now;
        for limit in limits.0.iter() {
            let most = u64::from(limit.amount.checked_sub(need)?);
            let track = self.tracks.iter().find(|track| track.window == limit.window);
            latest = latest.max(track.map_or(now, |track| track.down_to(most, now)));
        }
        Some(latest)
    }

    /// The tracks as a crash would leave them: each lease used to the end that it can have.
    fn with_leases(&self, now: Moment) -> Vec<Track> {
        let mut tracks = self.tracks.clone();
        for lease in &self.leases {
            let end = lease.until.unwrap_or(lease.made + QUOTA_WRITE_TIMEOUT + QUOTA_LEASE_TIME);
            for track in &mut tracks {
                track.add(end + track.window, u64::from(lease.units), now);
            }
        }
        tracks
    }
}
