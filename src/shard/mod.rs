//! One shard: what one core owns, and the only messages that cross cores.
//!
//! A [`ShardCore`] has two halves that know each other only by [`mailbox::Mail`], even where both are on one core:
//! `home` accepts mail and keeps the log, [`Deliverer`] delivers the mail of the destinations this shard owns.

#[cfg(any(test, feature = "sim"))]
mod audit;
mod budget;
pub mod event;
mod gate;
mod guard;
mod handshakes;
mod home;
mod kept;
pub mod mailbox;
mod names;
mod notify;
mod pair;
pub mod quota;
mod rates;
mod session;
pub mod stats;
pub mod table;
#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::deliver::{self, Deliverer};
use crate::dns::DnsSettings;
use crate::limits;
use crate::message::MessageId;
use crate::route::Routes;
use crate::rt::{Event, Io, Shard, Wait};
use crate::spool::{self, Log};
use crate::starttls::sts::Stored;
use crate::time::{Moment, Now};
use event::{EventSink, Notice, NoticeKind};
pub use gate::Tables;
use home::{Home, Message};
use kept::KeptRests;
pub use kept::RestFiles;
use mailbox::{Control, Mail, Mailboxes, Post, SourceRest};
pub use quota::QuotaFiles;
use stats::{ShardStats, StageHistograms};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// What every part of a shard may use while it handles an event.
pub struct Turn<'a> {
    /// Both clocks, as they were when the turn began.
    pub now: Now,
    /// Effects.
    pub io: &'a mut dyn Io,
    /// Mail to other shards, and to this one.
    pub post: &'a mut Post,
    /// Events, counters and histograms for the control plane.
    pub report: &'a mut Report,
}

/// Microseconds from `earlier` to `later`.
pub(crate) fn micros(later: Moment, earlier: Moment) -> u64 {
    later.0.saturating_sub(earlier.0) / 1000
}

/// What a shard tells the control plane. Lives on its shard; the other ends are the control thread's.
pub struct Report {
    /// Counters and gauges.
    pub stats: Arc<ShardStats>,
    /// Facts about mail.
    pub events: EventSink,
    /// Latencies.
    pub histograms: StageHistograms,
}

/// What all shards of a process share: nothing but how to end.
#[derive(Debug)]
pub struct Ending {
    /// Shards that may still send mail to others.
    busy: AtomicUsize,
}

impl Ending {
    /// For `shards` shards.
    pub fn new(shards: usize) -> Arc<Self> {
        Arc::new(Ending { busy: AtomicUsize::new(shards) })
    }
}

/// One core's work. Lives on its shard.
pub struct ShardCore {
    me: u16,
    home: Home,
    deliverer: Deliverer,
    kept: KeptRests,
    post: Post,
    report: Report,
    /// What recovery found, until all of it has an owner; and how much of it has.
    recovered: Option<spool::Recovered>,
    handed_off: usize,
    /// Deadlines of connections are looked at this often.
    next_sweep: Moment,
    next_report: Moment,
    drain: Option<Drain>,
    ending: Arc<Ending>,
    drain_timeout: Duration,
}

/// A shard on its way out.
struct Drain {
    deadline: Moment,
    /// It needs nothing more of the other shards, and has told them.
    quiet: bool,
}

/// Everything a shard is made of, sent to its thread.
pub struct Parts {
    /// Its number, and how many there are.
    pub me: u16,
    /// How many there are.
    pub shards: u16,
    /// The configuration.
    pub config: Arc<Config>,
    /// From the files that the configuration names.
    pub tables: Arc<Tables>,
    /// What the run before has written of sending limits.
    pub quotas: Arc<QuotaFiles>,
    /// What it has written of rests.
    pub rests: Arc<RestFiles>,
    /// MTA-STS policies that were kept.
    pub policies: Arc<Vec<Arc<Stored>>>,
    /// Both clocks, at the start.
    pub now: Now,
    /// From the configuration.
    pub routes: Arc<Routes>,
    /// From the configuration or /etc/resolv.conf.
    pub dns: DnsSettings,
    /// What recovery found for it.
    pub recovered: spool::Recovered,
    /// Its way to the others.
    pub mailboxes: Mailboxes,
    /// Its way to the control plane.
    pub report: Report,
    /// How to end together.
    pub ending: Arc<Ending>,
    /// Its share of the descriptors for outbound connections.
    pub max_connections: usize,
    /// Sizes of the spool's files, as recovery was given them.
    pub geometry: spool::Geometry,
    /// Unpredictable bits.
    pub seed: u64,
}

impl ShardCore {
    /// Makes the shard; on its own thread.
    pub fn new(parts: Parts) -> Self {
        let Parts { me, shards, config, tables, routes, dns, recovered, mailboxes, report, .. } = parts;
        let Parts { quotas, rests, policies, now, .. } = parts;
        let Parts { ending, max_connections, geometry, seed, .. } = parts;
        let log = Log::new(&recovered, seed, geometry);
        report.stats.storage_ok.set(1);
        let kept = KeptRests::new(me, shards, config.spool.path.clone(), &rests);
        let mut deliverer = Deliverer::new(
            me,
            Arc::clone(&config),
            Arc::clone(&tables),
            Arc::clone(&routes),
            (&dns, &policies),
            max_connections,
            seed,
        );
        // A spool that never had mail has no past.
        if recovered.newest > MessageId(0) {
            deliverer.go_on(now.mono);
        }
        deliverer.restore(rests.all(), now.mono);
        ShardCore {
            me,
            kept,
            drain_timeout: config.drain_timeout,
            home: Home::new(me, shards, config, tables, (&quotas, now), routes, log),
            deliverer,
            post: Post::new(usize::from(me), mailboxes),
            report,
            recovered: Some(recovered),
            handed_off: 0,
            next_sweep: Moment(0),
            next_report: Moment(0),
            drain: None,
            ending,
        }
    }

    fn mail(&mut self, now: Now, io: &mut dyn Io) {
        // Mail to oneself may beget mail to oneself; a bounded number of rounds a turn keeps sockets served.
        for _ in 0..limits::MAIL_ROUNDS_PER_TURN {
            let Some(mut batch) = self.post.receive() else { break };
            for mail in batch.drain(..) {
                let turn = &mut Turn { now, io, post: &mut self.post, report: &mut self.report };
                match mail {
                    Mail::Handoff(handoff) => self.deliverer.handoff(handoff, turn),
                    Mail::Fetched { id, part, record } => self.deliverer.fetched(id, part, record, turn),
                    Mail::Verify { domain, asker, token } => self.deliverer.verify(&domain, asker, token, turn),
                    Mail::Lane { domain } => self.home.keep_mail_for(&domain, now.mono),
                    Mail::ToLedger(mail) => self.deliverer.to_ledger(*mail, turn),
                    Mail::WarmUp(mail) => self.home.warm_up(*mail, turn),
                    Mail::Warmed(mail) => self.deliverer.warmed(*mail, turn),
                    Mail::SourceRest(rest) => {
                        let SourceRest { site, source, until, why } = &*rest;
                        self.deliverer.source_rests(site, (*source, *until), Some(why), turn);
                    }
                    Mail::ToLane(mail) => self.deliverer.to_lane(*mail, turn),
                    Mail::ToOwner(mail) => self.home.quota_owner(mail, now),
                    Mail::ToPurse(mail) => self.home.quota_purse(mail, turn),
                    Mail::Guard(mail) => self.home.guard(mail, turn),
                    Mail::Verified { token, verdict } => self.home.verified(token, verdict, turn),
                    Mail::Settled(_) if planted!(SettledDropped) => {}
                    Mail::Settled(_) | Mail::Late(_) | Mail::Fetch { .. } => self.home.mail(mail),
                    Mail::Control(Control::Tables(tables)) => {
                        self.deliverer.set_tables(Arc::clone(&tables));
                        self.home.set_tables(tables);
                    }
                    Mail::Control(Control::Sts(news)) => self.deliverer.sts_news(&news, turn),
                    Mail::Control(Control::RuaRecord(domain)) => self.deliverer.rua_record(&domain, turn),
                    Mail::Control(Control::Submit(mail)) => self.home.submit(&mail, now),
                    Mail::Control(Control::Drain) => self.begin_drain(now, io, self.drain_timeout),
                    Mail::Control(Control::Stop) => self.begin_drain(now, io, Duration::ZERO),
                }
            }
            self.post.recycle(batch);
        }
    }

    fn begin_drain(&mut self, now: Now, io: &mut dyn Io, timeout: Duration) {
        let deadline = now.mono + timeout;
        if let Some(drain) = &mut self.drain {
            drain.deadline = drain.deadline.min(deadline);
            return;
        }
        self.drain = Some(Drain { deadline, quiet: false });
        io.stop_listening();
        let turn = &mut Turn { now, io, post: &mut self.post, report: &mut self.report };
        turn.report.events.push(Notice::event(now.wall, self.me, NoticeKind::Draining, b""));
        self.home.drain(turn);
        self.deliverer.drain(turn);
        self.kept.finish();
    }

    /// Whether the shard can end: nothing is under way here, and no other shard will send anything.
    fn may_end(&mut self, now: Now) -> bool {
        let Some(drain) = &mut self.drain else { return false };
        let late = now.mono >= drain.deadline;
        let quiet = self.deliverer.is_quiet() && self.home.session_count() == 0 && self.post.is_empty();
        if !drain.quiet && (quiet || late) {
            drain.quiet = true;
            self.ending.busy.fetch_sub(1, Ordering::AcqRel);
        }
        // The last outcomes of others' deliveries may still come; they are worth the sync that prevents duplicates.
        let others_done = self.ending.busy.load(Ordering::Acquire) == 0;
        if others_done || late {
            self.home.flush_log();
        }
        if late {
            // What is known is written, but nothing holds the process for long.
            let overdue = now.mono >= drain.deadline + limits::DRAIN_GRACE;
            let quiet = self.home.log_is_quiet() && self.kept.is_quiet();
            return overdue || (others_done && self.post.is_empty() && quiet);
        }
        others_done
            && self.post.is_empty()
            && self.kept.is_quiet()
            && (self.home.is_quiet() || planted!(DrainWithoutCommit))
    }

    /// Hands recovered mail to its owners, as fast as they take it.
    fn hand_off_recovered(&mut self, now: Now, io: &mut dyn Io) {
        let Some(recovered) = &self.recovered else { return };
        let turn = &mut Turn { now, io, post: &mut self.post, report: &mut self.report };
        for _ in 0..limits::RECOVERED_PER_TURN {
            if turn.post.is_congested() || self.drain.is_some() {
                return;
            }
            let Some(message) = recovered.message(self.handed_off) else {
                // The envelopes in memory were for this.
                self.recovered = None;
                return;
            };
            self.handed_off += 1;
            let size = u32::try_from(message.total_size()).unwrap_or(u32::MAX);
            // What happened between two lives only the wall clock knows. Held mail ages from its release.
            let held = message.params().options().hold_until.unwrap_or_default();
            let age = turn.now.wall.since(message.accepted().max(held));
            let (accepted, params) = (message.accepted(), message.params());
            let sender = message.sender();
            let facts = Message { id: message.id(), accepted, age, size, record: None, params, sender };
            self.home.hand_off(&facts, || message.pending(), turn);
        }
    }
}

impl Shard for ShardCore {
    fn handle(&mut self, event: Event<'_>, now: Now, io: &mut dyn Io) {
        let turn = &mut Turn { now, io, post: &mut self.post, report: &mut self.report };
        match &event {
            Event::Accepted { conn, listener, peer } => self.home.accepted(*conn, *listener, *peer, turn),
            Event::Worked { .. } => {
                if let Event::Worked { token, result } = event {
                    match token & deliver::WORK {
                        0 => self.home.worked(token, result, turn),
                        _ => self.deliverer.worked(token, result, turn),
                    }
                }
            }
            Event::Connected { conn }
            | Event::Received { conn, .. }
            | Event::Writable { conn }
            | Event::Ended { conn }
            | Event::Failed { conn, .. } => {
                let conn = *conn;
                if self.home.owns(conn) {
                    self.home.handle(event, turn);
                } else if self.deliverer.owns(conn) {
                    self.deliverer.handle(conn, event, turn);
                } else {
                    turn.io.close(conn);
                }
            }
            Event::FileReady { file, .. } if KeptRests::owns_file(*file) => {
                if let Event::FileReady { file, result } = event {
                    self.kept.made(file, result, turn);
                }
            }
            Event::Written { token, .. } if KeptRests::owns_write(*token) => {
                if let Event::Written { result, .. } = event {
                    self.kept.written(result, turn);
                }
            }
            Event::FileReady { .. } | Event::FileRemoved { .. } | Event::Written { .. } | Event::Read { .. } => {
                self.home.handle_file(event, turn);
            }
        }
    }

    fn turn(&mut self, now: Now, io: &mut dyn Io) -> Wait {
        self.report.stats.turns.add(1);
        self.mail(now, io);
        self.hand_off_recovered(now, io);
        self.home.handle_timeout(now);
        if now.mono >= self.next_sweep {
            self.next_sweep = now.mono + limits::SWEEP_INTERVAL;
            let turn = &mut Turn { now, io, post: &mut self.post, report: &mut self.report };
            self.home.handle_deadlines(turn);
            self.deliverer.handle_deadlines(turn);
            self.deliverer.drop_stale_bodies(now);
        }
        let turn = &mut Turn { now, io, post: &mut self.post, report: &mut self.report };
        self.deliverer.turn(turn);
        self.home.turn(turn);
        self.kept.turn(&mut self.deliverer, turn);
        self.post.flush(|to| io.wake(to));
        self.report.events.flush();
        if now.mono >= self.next_report {
            self.next_report = now.mono + limits::REPORT_INTERVAL;
            self.home.report(&self.report.stats);
            self.deliverer.report(&self.report.stats);
            self.report.stats.mailbox_depth.set(self.post.depth() as u64);
            self.report.histograms.publish();
        }
        if self.may_end(now) {
            let turn = &mut Turn { now, io, post: &mut self.post, report: &mut self.report };
            self.home.close_all(turn);
            self.deliverer.close_all(turn);
            self.report.events.push(Notice::event(now.wall, self.me, NoticeKind::Stopped, b""));
            self.report.events.flush_now();
            return Wait::Stop;
        }
        if self.post.has_own()
            || self.deliverer.has_work()
            || self.home.has_work()
            || (self.recovered.is_some() && self.drain.is_none() && !self.post.is_congested())
        {
            return Wait::Poll;
        }
        let due = [Some(self.next_sweep), self.home.poll_timeout(), self.deliverer.poll_timeout()];
        let mut until = due.into_iter().flatten().min().unwrap_or(Moment::NEVER);
        if self.drain.is_some() || self.post.backlog() > 0 {
            // Others' progress is not told by an event.
            until = until.min(now.mono + limits::RETRY_POST);
        }
        Wait::Until(until)
    }

    fn has_mail(&self) -> bool {
        self.post.has_mail()
    }
}
