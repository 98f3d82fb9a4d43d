//! The driver of sending limits: their mail, their files, and the sessions that wait for a lease.
//!
//! Inputs: what accounts' sessions want, mail of other shards, completions of files. Outputs: answers to sessions, mail,
//! writes of snapshots. Lives on its shard. It refuses to decide anything about limits: that is [`crate::quota`]'s.

use super::Turn;
use super::mailbox::{Mail, WarmUp, Warmed};
use super::pair::{Found, Pair, file_name};
use crate::accounts::Account;
use crate::lease::Scope;
use crate::limits::{WARMUP_RETRY, WARMUP_WINDOW};
use crate::quota::{Answer, Counted, Key, Limit, Limits, Owner, Purse, Refused, Take, ToOwner, ToPurse, Write};
use crate::rt::disk::Disk;
use crate::rt::{ConnId, FileNo};
use crate::time::{Moment, Now};
use slab::Slab;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Set in the token of a write that is ours; the log has the others.
pub(super) const WRITE: u64 = 1 << 63;
/// Our files' numbers: the log counts from 0, and never so far.
pub(super) const FILES: FileNo = FileNo::MAX - 1;
/// Their names begin with it.
const KIND: &str = "quota";
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// The files of all shards as the start found them.
#[derive(Debug, Default)]
pub struct QuotaFiles(Found);

impl QuotaFiles {
    /// Reads those of a spool's folder.
    pub fn read(disk: &impl Disk, folder: &Path) -> io::Result<QuotaFiles> {
        Found::read(disk, folder, KIND, |_, error| Err(error)).map(QuotaFiles)
    }

    fn owner(&self, me: u16, shards: u16, now: Now) -> (Owner, Vec<(usize, Refused)>) {
        Owner::restore(me, shards, self.0.0.iter().map(|(_, _, bytes)| &bytes[..]), now)
    }

    /// What sources that are new have sent in a day, or taken ahead, by the names of their scopes; and whether a file is damaged.
    pub fn warmed(&self, now: Now) -> (Vec<Counted>, bool) {
        let (owner, refused) = self.owner(0, 1, now);
        let counted = owner.counted(WARMUP, WARMUP_WINDOW, now.mono).collect();
        (counted, refused.iter().any(|(_, why)| *why != Refused::Blank))
    }
}

/// What a session wants a unit of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Message,
    Recipient,
}

/// Who wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asker {
    Session(ConnId),
    /// The delivering half, for a source at a site.
    Source(Scope),
}

/// The kind of the keys of sources at sites.
pub const WARMUP: &str = "warmup";

/// What becomes of that wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Yes,
    /// Over the limit; in so long there is room, if nobody else takes it.
    Over(Option<Duration>),
    /// It cannot be told now.
    Unavailable,
}

/// See the module. Lives on its shard.
pub(super) struct Quotas {
    me: u16,
    purse: Purse,
    owner: Owner,
    files: Pair,
    waiting: Slab<(Asker, Key, Unit)>,
    /// Answers for the delivering half.
    warmed: Vec<Warmed>,
    next_sweep: Moment,
    gave_back: bool,
}

impl Quotas {
    pub(super) fn new(me: u16, shards: u16, folder: PathBuf, found: &QuotaFiles, now: Now) -> Self {
        let (owner, refused) = found.owner(me, shards, now);
        for (at, why) in refused.into_iter().filter(|_| me == 0) {
            let (shard, slot, bytes) = &found.0.0[at];
            // A file that was made and never written is all zeros.
            if bytes.iter().any(|b| *b != 0) {
                tracing::warn!(
                    file = file_name(KIND, *shard, *slot),
                    ?why,
                    "a snapshot of sending limits is not used: the other one is"
                );
            }
        }
        Quotas {
            me,
            purse: Purse::new(me, shards),
            owner,
            files: Pair::new((KIND, FILES, WRITE), me, folder, &found.0),
            waiting: Slab::new(),
            warmed: Vec::new(),
            next_sweep: Moment(0),
            gave_back: false,
        }
    }

    /// A session of `account` wants a unit; `None` if the answer comes later.
    pub(super) fn take(&mut self, conn: ConnId, account: &Account, unit: Unit, now: Moment) -> Option<Verdict> {
        let Some((key, limits)) = limits(account, unit) else { return Some(Verdict::Yes) };
        if unit == Unit::Message
            && let Some((key, limits)) = self::limits(account, Unit::Recipient)
        {
            // One write for both.
            self.purse.prefetch(&key, &limits, 1, now);
        }
        let entry = self.waiting.vacant_entry();
        match self.purse.take(&key, &limits, 1, entry.key() as u64, now) {
            Take::Taken(_) => Some(Verdict::Yes),
            Take::Unavailable => Some(Verdict::Unavailable),
            Take::Waiting => {
                entry.insert((Asker::Session(conn), key, unit));
                None
            }
        }
    }

    /// A session is gone.
    pub(super) fn gone(&mut self, conn: ConnId) {
        while let Some((token, _)) = self.waiting.iter().find(|(_, (other, ..))| *other == Asker::Session(conn)) {
            let (_, key, _) = self.waiting.remove(token);
            self.purse.cancel(&key, token as u64);
        }
    }

    pub(super) fn owner_mail(&mut self, mail: ToOwner, now: Moment) {
        self.owner.handle(mail, now);
    }

    pub(super) fn purse_mail(&mut self, mail: ToPurse, now: Moment) {
        self.purse.handle(mail, now);
    }

    /// A source that is new wants to send a message to a site, or did not send one that it had wanted.
    pub(super) fn warm_up(&mut self, mail: WarmUp, turn: &mut Turn<'_>) {
        let WarmUp { scope, amount, back } = mail;
        let now = turn.now.mono;
        let limits = Limits::new(&[Limit { amount, window: WARMUP_WINDOW }]);
        let Some((key, limits)) = Key::new(WARMUP, &scope).zip(limits) else { return };
        if let Some(receipt) = back {
            return self.purse.untake(&key, receipt);
        }
        let entry = self.waiting.vacant_entry();
        match self.purse.take(&key, &limits, 1, entry.key() as u64, now) {
            Take::Taken(receipt) => self.warmed.push(Warmed { scope, verdict: Ok(receipt) }),
            Take::Unavailable => self.warmed.push(Warmed { scope, verdict: Err(Some(now + WARMUP_RETRY)) }),
            Take::Waiting => {
                entry.insert((Asker::Source(scope), key, Unit::Message));
            }
        }
    }

    /// A session's answer that has come: whose, for what, and what it is.
    pub(super) fn poll_answer(&mut self, now: Moment) -> Option<(ConnId, Unit, Verdict)> {
        loop {
            let (token, answer) = self.purse.poll_answer()?;
            let Some((asker, _, unit)) = usize::try_from(token).ok().and_then(|at| self.waiting.try_remove(at)) else {
                continue;
            };
            let conn = match asker {
                Asker::Session(conn) => conn,
                Asker::Source(scope) => {
                    let verdict = match answer {
                        Answer::Taken(receipt) => Ok(receipt),
                        Answer::Over { retry_at } => Err(retry_at),
                        Answer::Unavailable => Err(Some(now + WARMUP_RETRY)),
                    };
                    self.warmed.push(Warmed { scope, verdict });
                    continue;
                }
            };
            let verdict = match answer {
                Answer::Taken(_) => Verdict::Yes,
                Answer::Over { retry_at } => Verdict::Over(retry_at.map(|at| at.since(now))),
                Answer::Unavailable => Verdict::Unavailable,
            };
            return Some((conn, unit, verdict));
        }
    }

    /// Mail and writes, at the end of a turn.
    pub(super) fn turn(&mut self, turn: &mut Turn<'_>) {
        if turn.now.mono >= self.next_sweep {
            self.next_sweep = turn.now.mono + SWEEP;
            self.purse.sweep(turn.now.mono);
            self.owner.sweep(turn.now);
        }
        while let Some((to, mail)) = self.purse.poll_send() {
            turn.post.send(usize::from(to), Mail::ToOwner(mail));
        }
        if !self.files.is_waiting()
            && let Some(Write { slot, bytes }) = self.owner.poll_write(turn.now)
        {
            self.files.put(slot, bytes);
        }
        let started = self.files.start(turn);
        self.is_kept(started, turn);
        while let Some((to, mail)) = self.owner.poll_send() {
            turn.post.send(usize::from(to), Mail::ToPurse(mail));
        }
        for warmed in self.warmed.drain(..) {
            turn.post.send(usize::from(self.me), Mail::Warmed(Box::new(warmed)));
        }
    }

    /// A write was begun, or given up.
    fn is_kept(&mut self, result: io::Result<()>, turn: &mut Turn<'_>) {
        if let Err(error) = result {
            tracing::error!(%error, "sending limits cannot be kept: mail of limited accounts gets 451");
            self.owner.handle_written(false, turn.now.mono);
        }
    }

    /// A file was made.
    pub(super) fn made(&mut self, file: FileNo, result: io::Result<()>, turn: &mut Turn<'_>) {
        let made = self.files.made(file, result);
        self.is_kept(made, turn);
    }

    /// A write has ended.
    pub(super) fn written(&mut self, result: io::Result<()>, turn: &mut Turn<'_>) {
        if let Err(error) = &result {
            tracing::error!(%error, "sending limits cannot be kept: mail of limited accounts gets 451");
        }
        self.owner.handle_written(result.is_ok(), turn.now.mono);
    }

    /// No session will want anything more.
    pub(super) fn finish(&mut self) {
        if !std::mem::replace(&mut self.gave_back, true) {
            self.purse.give_back();
            self.owner.save();
        }
    }

    /// Whether nothing is to be written.
    pub(super) fn is_quiet(&self) -> bool {
        !self.files.is_waiting() && self.owner.is_saved()
    }

    /// Sessions that wait.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }
}

const SWEEP: Duration = Duration::from_millis(200);

/// The key and the limits of an account for a unit; nothing if it has none.
fn limits(account: &Account, unit: Unit) -> Option<(Key, Limits)> {
    let rates = account.rates();
    let (kind, minute, day) = match unit {
        Unit::Message => ("messages", rates.messages_per_minute, rates.messages_per_day),
        Unit::Recipient => ("recipients", rates.recipients_per_minute, rates.recipients_per_day),
    };
    let limit = |amount: Option<u32>, window| amount.map(|amount| Limit { amount, window });
    let list: Vec<Limit> = [limit(minute, MINUTE), limit(day, DAY)].into_iter().flatten().collect();
    Some((Key::new(kind, account.name())?, Limits::new(&list)?))
}
