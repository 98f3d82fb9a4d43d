//! PURE. What one shard has been leased, and who of it waits for more. Lives on that shard.
//!
//! In: what sessions want and put back, mail of owners, the moment. Out: an answer to each, mail to owners. Of a key it
//! holds one lease at most, and has one request at most under way: first what it holds is settled, then it asks. Those
//! who wait are served in order. It refuses to use a lease beyond its end.

use super::{Key, Limits, Receipt, ToOwner, ToPurse};
use crate::limits::{QUOTA_AHEAD, QUOTA_IDLE, QUOTA_WAITING};
use crate::time::Moment;
use std::collections::{BTreeMap, VecDeque};

/// What becomes of a wish, at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Take {
    /// Go on.
    Taken(Receipt),
    /// The answer comes from [`Purse::poll_answer`], with the token.
    Waiting,
    /// Too many wait: 451 4.3.0.
    Unavailable,
}

/// What becomes of a wish that had to wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Go on.
    Taken(Receipt),
    /// So many units are not free: 452 4.7.1.
    Over {
        /// When they are, if nobody else takes them; `None`: never, the limit is smaller.
        retry_at: Option<Moment>,
    },
    /// Nothing can be handed out now: 451 4.3.0.
    Unavailable,
}

/// See the module's text.
#[derive(Debug)]
pub struct Purse {
    me: u16,
    shards: u16,
    /// One for each key that was used within the last second or so.
    pockets: BTreeMap<Key, Pocket>,
    /// Those who wait, of all keys.
    waiting: usize,
    out: VecDeque<(u16, ToOwner)>,
    answers: VecDeque<(u64, Answer)>,
}

#[derive(Debug)]
struct Pocket {
    held: Option<Held>,
    /// A request is under way.
    asked: bool,
    waiters: VecDeque<Waiter>,
    /// As of the last request.
    limits: Limits,
    asked_at: Moment,
    /// How much was asked for then.
    wanted: u32,
}

/// A lease.
#[derive(Debug)]
struct Held {
    lease: u64,
    left: u32,
    from: Moment,
    until: Moment,
    last_use: Moment,
    /// When it came, or was last used: it is given back when that is long ago.
    touched: Moment,
}

#[derive(Debug)]
struct Waiter {
    token: u64,
    units: u32,
}

impl Purse {
    /// The purse of shard `me` of `shards`.
    pub fn new(me: u16, shards: u16) -> Purse {
        Purse { me, shards, pockets: BTreeMap::new(), waiting: 0, out: VecDeque::new(), answers: VecDeque::new() }
    }

    /// Takes `units` (1 or more). `token` names whoever wants them, if they must wait: unique among those who wait.
    pub fn take(&mut self, key: &Key, limits: &Limits, units: u32, token: u64, now: Moment) -> Take {
        let pocket = self.pockets.entry(key.clone()).or_insert_with(|| Pocket::new(limits));
        if pocket.waiters.is_empty()
            && let Some(receipt) = pocket.draw(units, now)
        {
            pocket.settle_if_spent(key, self.shards, &mut self.out);
            return Take::Taken(receipt);
        }
        if self.waiting >= QUOTA_WAITING {
            return Take::Unavailable;
        }
        self.waiting += 1;
        pocket.waiters.push_back(Waiter { token, units });
        pocket.limits = limits.clone();
        if !pocket.asked {
            pocket.ask(key, self.me, self.shards, 0, now, &mut self.out);
        }
        Take::Waiting
    }

    /// Asks for `units` that will soon be taken, if none are held.
    pub fn prefetch(&mut self, key: &Key, limits: &Limits, units: u32, now: Moment) {
        let pocket = self.pockets.entry(key.clone()).or_insert_with(|| Pocket::new(limits));
        if !pocket.asked && pocket.held.as_ref().is_none_or(|held| held.left < units || held.until <= now) {
            pocket.limits = limits.clone();
            pocket.ask(key, self.me, self.shards, units, now, &mut self.out);
        }
    }

    /// Puts back what was taken but not used.
    pub fn untake(&mut self, key: &Key, receipt: Receipt) {
        let held = self.pockets.get_mut(key).and_then(|pocket| pocket.held.as_mut());
        match held.filter(|held| held.lease == receipt.lease) {
            Some(held) => held.left += receipt.units,
            None => {
                let back = ToOwner::Return { key: key.clone(), units: receipt.units, taken_at: receipt.at };
                self.out.push_back((key.owner(self.shards), back));
            }
        }
    }

    /// Whoever has this token is gone: it gets no answer, and what it was given already is put back.
    pub fn cancel(&mut self, key: &Key, token: u64) {
        if let Some(at) = self.answers.iter().position(|(other, _)| *other == token) {
            if let Some((_, Answer::Taken(receipt))) = self.answers.remove(at) {
                self.untake(key, receipt);
            }
        } else if let Some(pocket) = self.pockets.get_mut(key) {
            let before = pocket.waiters.len();
            pocket.waiters.retain(|waiter| waiter.token != token);
            self.waiting -= before - pocket.waiters.len();
        }
    }

    /// Takes mail of an owner.
    pub fn handle(&mut self, message: ToPurse, now: Moment) {
        match message {
            ToPurse::Granted { key, lease, units, from, until } => {
                let Some(pocket) = self.pockets.get_mut(&key) else {
                    let back = ToOwner::Settle { key: key.clone(), lease, unused: units, last_use: now };
                    self.out.push_back((key.owner(self.shards), back));
                    return;
                };
                pocket.asked = false;
                pocket.held = Some(Held { lease, left: units, from, until, last_use: from, touched: now });
                while let Some(waiter) = pocket.waiters.front() {
                    let Some(receipt) = pocket.draw(waiter.units, now) else { break };
                    let Some(waiter) = pocket.waiters.pop_front() else { break };
                    self.waiting -= 1;
                    self.answers.push_back((waiter.token, Answer::Taken(receipt)));
                }
                pocket.settle_if_spent(&key, self.shards, &mut self.out);
                if !pocket.waiters.is_empty() {
                    pocket.ask(&key, self.me, self.shards, 0, now, &mut self.out);
                }
            }
            ToPurse::Denied { key, need, retry_at } => {
                self.refuse(&key, need, Answer::Over { retry_at }, now);
            }
            ToPurse::Unavailable { key } => self.refuse(&key, 0, Answer::Unavailable, now),
            ToPurse::Recall { key, lease } => {
                // If it is another one, they have crossed: that one is settled already.
                if let Some(pocket) = self.pockets.get_mut(&key)
                    && pocket.held.as_ref().is_some_and(|held| held.lease == lease)
                {
                    pocket.settle(&key, self.shards, &mut self.out);
                }
            }
        }
    }

    /// So many cannot be had: the same answer to all who want as many or more. For the others it asks again.
    fn refuse(&mut self, key: &Key, need: u32, answer: Answer, now: Moment) {
        let Some(pocket) = self.pockets.get_mut(key) else { return };
        pocket.asked = false;
        pocket.wanted = 0;
        let before = pocket.waiters.len();
        for waiter in pocket.waiters.iter().filter(|waiter| waiter.units >= need) {
            self.answers.push_back((waiter.token, answer));
        }
        pocket.waiters.retain(|waiter| waiter.units < need);
        self.waiting -= before - pocket.waiters.len();
        if !pocket.waiters.is_empty() {
            pocket.ask(key, self.me, self.shards, 0, now, &mut self.out);
        }
    }

    /// The next answer: whose, and what.
    pub fn poll_answer(&mut self) -> Option<(u64, Answer)> {
        self.answers.pop_front()
    }

    /// The next piece of mail, and the shard it is for.
    pub fn poll_send(&mut self) -> Option<(u16, ToOwner)> {
        self.out.pop_front()
    }

    /// Gives back what nobody has used for a while. Some times a second.
    pub fn sweep(&mut self, now: Moment) {
        self.pockets.retain(|key, pocket| {
            let idle = |held: &Held| held.until <= now || now.since(held.touched) >= QUOTA_IDLE;
            if pocket.held.as_ref().is_some_and(idle) {
                pocket.settle(key, self.shards, &mut self.out);
            }
            pocket.held.is_some() || pocket.asked || now.since(pocket.asked_at) < QUOTA_IDLE
        });
    }

    /// Gives back all that it holds: nobody will take any more.
    pub fn give_back(&mut self) {
        for (key, pocket) in &mut self.pockets {
            pocket.settle(key, self.shards, &mut self.out);
        }
    }
}

impl Pocket {
    fn new(limits: &Limits) -> Pocket {
        Pocket {
            held: None,
            asked: false,
            waiters: VecDeque::new(),
            limits: limits.clone(),
            asked_at: Moment(0),
            wanted: 0,
        }
    }

    /// Units of the lease, if it has so many and has not ended.
    fn draw(&mut self, units: u32, now: Moment) -> Option<Receipt> {
        let held = self.held.as_mut()?;
        // This shard's reading of the clock may be older than the lease.
        let at = now.max(held.from);
        if at >= held.until {
            return None;
        }
        held.left = held.left.checked_sub(units)?;
        held.last_use = held.last_use.max(at);
        held.touched = held.touched.max(now);
        Some(Receipt { lease: held.lease, units, at })
    }

    fn settle_if_spent(&mut self, key: &Key, shards: u16, out: &mut VecDeque<(u16, ToOwner)>) {
        if self.held.as_ref().is_some_and(|held| held.left == 0) {
            self.settle(key, shards, out);
        }
    }

    fn settle(&mut self, key: &Key, shards: u16, out: &mut VecDeque<(u16, ToOwner)>) {
        let Some(held) = self.held.take() else { return };
        let settled =
            ToOwner::Settle { key: key.clone(), lease: held.lease, unused: held.left, last_use: held.last_use };
        out.push_back((key.owner(shards), settled));
    }

    /// Settles what is held and asks for what those who wait want, `soon` units more, and for twice as much as the last
    /// time if that was a moment ago.
    fn ask(&mut self, key: &Key, me: u16, shards: u16, soon: u32, now: Moment, out: &mut VecDeque<(u16, ToOwner)>) {
        self.settle(key, shards, out);
        let need = self.waiters.front().map_or(soon, |waiter| waiter.units).max(1);
        let waiting = self.waiters.iter().fold(soon, |sum, waiter| sum.saturating_add(waiter.units));
        let busy = self.wanted > 0 && now.since(self.asked_at) < QUOTA_IDLE;
        let ahead = if busy { self.wanted.saturating_mul(2).min(QUOTA_AHEAD) } else { 0 };
        let want = waiting.saturating_add(ahead).max(need);
        (self.asked, self.asked_at, self.wanted) = (true, now, want);
        let request = ToOwner::Request { key: key.clone(), limits: self.limits.clone(), holder: me, need, want };
        out.push_back((key.owner(shards), request));
    }
}
