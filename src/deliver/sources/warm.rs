//! Warm-up: what a source that is new may send to a site in a day. Lives on its shard.
//!
//! Each message is asked for before it is begun: the accepting half keeps sending limits of accounts, exact over all shards and on
//! disk, and these are kept with them. One that was granted is used within [`limits::WARMUP_AHEAD`] or given back.

use crate::deliver::Deliverer;
use crate::lease::Scope;
use crate::limits;
use crate::quota::Receipt;
use crate::shard::Turn;
use crate::shard::event::{Notice, NoticeKind};
use crate::shard::mailbox::{Mail, WarmUp, Warmed};
use crate::time::{Moment, Now, Wall};
use std::time::Duration;

const DAY_MS: u64 = 86_400_000;

/// Of a source at a site.
#[derive(Default)]
pub(super) struct Warming {
    /// Messages a day; `None`: it is not new.
    amount: Option<u32>,
    /// Messages that may be begun, and when that was said; the first first.
    granted: Vec<(Moment, Receipt)>,
    /// Asked for.
    asked: u32,
}

impl Warming {
    /// Whether a message may begin.
    pub(super) fn allows(&self) -> bool {
        self.amount.is_none() || !self.granted.is_empty()
    }

    /// What holds today.
    pub(super) fn set(&mut self, amount: Option<u32>) {
        self.amount = amount;
    }

    pub(super) fn is_new(&self) -> bool {
        self.amount.is_some()
    }

    /// A message begins.
    pub(super) fn begin(&mut self) {
        if self.amount.is_some() && !planted!(WarmupUncounted) {
            self.granted.pop();
        }
    }

    /// So many messages could begin at once: what is to be asked for.
    fn could_begin(&mut self, count: u32) -> u32 {
        let more = count.saturating_sub(self.asked + u32::try_from(self.granted.len()).unwrap_or(u32::MAX));
        self.asked += more;
        more
    }

    pub(super) fn is_idle(&self) -> bool {
        self.granted.is_empty() && self.asked == 0
    }
}

/// When the next day begins.
fn tomorrow(now: Now) -> Moment {
    now.mono + Duration::from_millis(DAY_MS - now.wall.0 % DAY_MS)
}

impl Deliverer {
    /// Messages that a source may send to each site today; `None`: as many as there are.
    pub(in crate::deliver) fn warmup_of(&self, source: u16, now: Wall) -> Option<u32> {
        self.config.sources.list.get(usize::from(source))?.warmup.as_ref()?.limit(now)
    }

    /// Whether any source of a pool is new.
    pub(in crate::deliver) fn pool_warms_up(&self, pool: u16) -> bool {
        let sources = &self.config.sources;
        let Some(pool) = sources.pools.get(usize::from(pool)) else { return false };
        pool.sources.iter().any(|number| sources.list[usize::from(*number)].warmup.is_some())
    }

    /// So many messages could go from a source to a site: they are asked for, as far as they are not granted.
    pub(super) fn ask_warmup(&mut self, scope: &Scope, count: u32, turn: &mut Turn<'_>) {
        let Some(held) = self.sources.shares.get_mut(scope) else { return };
        let Some(amount) = held.warming.amount else { return };
        for _ in 0..held.warming.could_begin(count) {
            let wanted = WarmUp { scope: scope.clone(), amount, back: None };
            turn.post.send(usize::from(self.me), Mail::WarmUp(Box::new(wanted)));
        }
    }

    /// The answer.
    pub(crate) fn warmed(&mut self, mail: Warmed, turn: &mut Turn<'_>) {
        let Warmed { scope, verdict } = mail;
        let Some(held) = self.sources.shares.get_mut(&scope) else {
            if let Ok(receipt) = verdict {
                self.give_warmup_back(scope, receipt, turn);
            }
            return;
        };
        held.warming.asked = held.warming.asked.saturating_sub(1);
        let (source, amount) = (held.source, held.warming.amount.unwrap_or(0));
        let site: Scope = (&*held.site.name).into();
        match verdict {
            Ok(receipt) => {
                held.warming.granted.push((turn.now.mono, receipt));
                self.sources.shares.look_at(turn.now.mono + limits::WARMUP_AHEAD, &scope);
                self.wake_members(&site);
            }
            Err(until) => {
                // Tomorrow there may be more.
                let until = until.unwrap_or(Moment::NEVER).min(tomorrow(turn.now));
                if self.source_rest(&site, source, turn.now.mono).is_none() {
                    let seconds = until.since(turn.now.mono).as_secs();
                    let address = self.source_address(Some(source)).map(|ip| ip.to_string()).unwrap_or_default();
                    let text = format!(
                        "{address} rests for {site} for {seconds} s: it has sent what its warm-up allows ({amount} messages a day)"
                    );
                    let notice = Notice::event(turn.now.wall, self.me, NoticeKind::SourceRests, text.as_bytes());
                    turn.report.events.push(notice);
                    turn.report.stats.source_rests.add(1);
                }
                self.source_rests(&site, (source, until), None, turn);
                self.wake_members(&site);
            }
        }
    }

    fn give_warmup_back(&self, scope: Scope, receipt: Receipt, turn: &mut Turn<'_>) {
        let back = WarmUp { scope, amount: 1, back: Some(receipt) };
        turn.post.send(usize::from(self.me), Mail::WarmUp(Box::new(back)));
    }

    /// What was granted and not used in time is given back.
    pub(super) fn warmup_turn(&mut self, scope: &Scope, turn: &mut Turn<'_>) {
        let Some(held) = self.sources.shares.get_mut(scope) else { return };
        let is_old = |(at, _): &(Moment, Receipt)| *at + limits::WARMUP_AHEAD <= turn.now.mono;
        let old: Vec<_> = held.warming.granted.extract_if(.., |granted| is_old(granted)).collect();
        for (_, receipt) in old {
            self.give_warmup_back(scope.clone(), receipt, turn);
        }
    }
}
