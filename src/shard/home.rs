//! The accepting half of a shard: inbound sessions, and the log that makes their mail durable and remembers what became
//! of it.
//!
//! Inputs: bytes and ends of inbound connections, completions of files, `Settled` and `Fetch` from owners. Outputs:
//! replies, file operations, `Handoff` and `Fetched` to owners, facts to the notifier of senders. It refuses to deliver
//! anything.

mod answers;
#[cfg(any(test, feature = "sim"))]
mod audit;
mod hand_off;
#[cfg(test)]
mod inject;
mod own;

use super::event::{self, Event, NoticeKind, Rejected};
use super::gate::{Gate, Tables};
use super::handshakes::Handshakes;
use super::mailbox::{FinalOutcome, Late, Mail, Settled};
use super::notify::{self, Here, Notice, Notifier, What};
use super::quota::{self, QuotaFiles};
use super::session::{self, Context, Fate, Session};
use super::stats::LatencyStage;
use super::table::ConnTable;
use super::{Turn, micros};
use crate::config::{Config, ListenerKind};
use crate::limits;
use crate::message::MessageId;
use crate::message::trace::DateCache;
use crate::route::{Lanes, Routes, Splitter};
use crate::rt::buffer::Slice;
use crate::rt::{ConnId, Event as RtEvent};
use crate::smtp::server::Verdict;
use crate::spool::{self, Effect, FileError, FileNo, Log, Outcome, ReadError, RecordView};
use crate::time::{Moment, Now};
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(super) use hand_off::Message;

/// See the module. Lives on its shard.
pub(super) struct Home {
    me: u16,
    shards: u16,
    config: Arc<Config>,
    gate: Gate,
    routes: Arc<Routes>,
    /// Domains whose mail stays here.
    lanes: Lanes,
    sessions: ConnTable<Box<Session>>,
    log: Log,
    folder: PathBuf,
    dates: DateCache,
    plain: Vec<u8>,
    /// TLS handshakes under way.
    handshakes: Handshakes,
    params: Vec<u8>,
    trace: Vec<u8>,
    out: Vec<u8>,
    splitter: Splitter,
    /// Reads of the log under way, with the memory that each takes, and those that wait for it, in order.
    reads: Slab<(ReadFor, usize)>,
    reads_wanted: VecDeque<ReadFor>,
    /// That memory, octets.
    reading: usize,
    notifier: Notifier,
    /// Sessions that wait for the log to take more of a large body.
    paused: Vec<ConnId>,
    due: Vec<ConnId>,
    storage_full: bool,
    draining: bool,
    /// Sessions whose next message may be complete before long.
    about_to_finish: usize,
    /// When the first message came that the next commit will hold.
    first_waiting: Option<Moment>,
}

/// Whom a read of the log is for.
enum ReadFor {
    Owner { id: MessageId, part: u32, owner: u16 },
    Notice(Notice),
}

impl ReadFor {
    /// Which message and part.
    fn of(&self) -> (MessageId, u32) {
        match self {
            ReadFor::Owner { id, part, .. } => (*id, *part),
            ReadFor::Notice(notice) => (notice.id, 0),
        }
    }
}

/// What a session needs that is not in the table. No method: the session is borrowed from the table beside it.
macro_rules! context {
    ($home:ident, $turn:ident) => {{
        let busy = $home.is_busy($turn);
        Context {
            gate: &mut $home.gate,
            plain: &mut $home.plain,
            handshakes: &$home.handshakes,
            log: &mut $home.log,
            dates: &mut $home.dates,
            params: &mut $home.params,
            trace: &mut $home.trace,
            hostname: &$home.config.hostname,
            busy,
        }
    }};
}

impl Home {
    pub(super) fn new(
        me: u16,
        shards: u16,
        config: Arc<Config>,
        tables: Arc<Tables>,
        (quotas, now): (&QuotaFiles, Now),
        routes: Arc<Routes>,
        log: Log,
    ) -> Self {
        Home {
            me,
            shards,
            folder: config.spool.path.clone(),
            gate: Gate::new(me, shards, Arc::clone(&config), tables, quotas, now),
            notifier: Notifier::new(me, config.delivery.bounces_per_hour, config.delivery.bounces_percent),
            config,
            routes,
            lanes: Lanes::default(),
            sessions: ConnTable::default(),
            log,
            dates: DateCache::default(),
            plain: Vec::new(),
            handshakes: Handshakes::default(),
            params: Vec::new(),
            trace: Vec::new(),
            out: Vec::new(),
            splitter: Splitter::default(),
            reads: Slab::new(),
            reads_wanted: VecDeque::new(),
            reading: 0,
            paused: Vec::new(),
            due: Vec::new(),
            storage_full: false,
            draining: false,
            about_to_finish: 0,
            first_waiting: None,
        }
    }

    // --- inbound connections --------------------------------------------------------------------------------------

    /// A client connected.
    pub(super) fn accepted(&mut self, conn: ConnId, listener: usize, peer: std::net::SocketAddr, turn: &mut Turn<'_>) {
        turn.report.stats.inbound_connections.add(1);
        let mut out = std::mem::take(&mut self.out);
        if self.draining || self.sessions.len() >= self.config.smtp.max_sessions_per_shard {
            // Where TLS comes first, a word in the clear would be none.
            if self.gate.listener(listener).kind != ListenerKind::Submissions {
                out.extend_from_slice(b"421 4.3.2 ");
                out.extend_from_slice(self.config.hostname.as_bytes());
                out.extend_from_slice(b" too many connections or shutting down, try again later\r\n");
                // A new socket takes one line, or the peer is none.
                turn.io.write(conn, &[io::IoSlice::new(&out)]);
            }
            turn.io.close(conn);
        } else {
            let admitted = match self.admit(listener, peer.ip(), turn.now.mono) {
                Ok(counted) => counted.then_some(peer.ip()),
                Err(reply) => {
                    turn.report.stats.rejected.add(1);
                    if turn.report.events.wants_mail_events() {
                        let event = Rejected::connection(turn.now.wall, peer.ip(), &reply);
                        turn.report.events.push(Event::Rejected(event));
                    }
                    turn.io.write(conn, &[io::IoSlice::new(&reply)]);
                    turn.io.close(conn);
                    self.out = out;
                    return;
                }
            };
            let facts = self.gate.facts(listener, peer.ip());
            let mut context = context!(self, turn);
            let mut session = Box::new(Session::begin(conn, listener, facts, turn, &mut context, &mut out));
            session.admitted = admitted;
            let fate = session.flush(turn, &mut out);
            if let Some(party) = session.handshaking() {
                self.handshakes.began(party);
            }
            self.sessions.insert(conn, session);
            self.end_event(conn, fate, turn);
        }
        out.clear();
        self.out = out;
    }

    /// Whether a client may come in. Who comes by a proxy is counted once it is known.
    fn admit(&mut self, listener: usize, peer: std::net::IpAddr, now: Moment) -> Result<bool, Vec<u8>> {
        let proxied = self.gate.listener(listener).proxy_networks.contain(peer);
        if proxied { Ok(false) } else { self.gate.admit(peer, now) }
    }

    /// Whether `conn` is a session of this shard.
    pub(super) fn owns(&self, conn: ConnId) -> bool {
        self.sessions.get(conn).is_some()
    }

    /// An event of a connection that `owns` names.
    pub(super) fn handle(&mut self, event: RtEvent<'_>, turn: &mut Turn<'_>) {
        let conn = match &event {
            RtEvent::Received { conn, .. }
            | RtEvent::Writable { conn }
            | RtEvent::Ended { conn }
            | RtEvent::Failed { conn, .. } => *conn,
            _ => return,
        };
        let fate = self.with_session(conn, turn, |session, turn, context, out| match event {
            RtEvent::Received { bytes, .. } => session.received(bytes, turn, context, out),
            RtEvent::Writable { .. } => session.writable(turn, context, out),
            RtEvent::Ended { .. } => session.ended(turn),
            _ => Fate::Over,
        });
        self.end_event(conn, fate, turn);
    }

    fn with_session(
        &mut self,
        conn: ConnId,
        turn: &mut Turn<'_>,
        act: impl FnOnce(&mut Session, &mut Turn<'_>, &mut Context<'_>, &mut Vec<u8>) -> Fate,
    ) -> Fate {
        let mut context = context!(self, turn);
        let Some(session) = self.sessions.get_mut(conn) else { return Fate::Open };
        let before = session.handshaking();
        let fate = act(session, turn, &mut context, &mut self.out);
        self.out.clear();
        match (before, session.handshaking()) {
            (None, Some(party)) => self.handshakes.began(party),
            (Some(party), None) => self.handshakes.ended(party),
            // A session has one at the most.
            (None, None) | (Some(_), Some(_)) => {}
        }
        if session.commit.is_some_and(|c| c.ended == turn.now.mono) {
            self.first_waiting.get_or_insert(turn.now.mono);
        }
        let about = session.is_about_to_finish();
        if about != std::mem::replace(&mut session.counted, about) {
            self.about_to_finish = if about { self.about_to_finish + 1 } else { self.about_to_finish - 1 };
        }
        if session.waits_for_log && !std::mem::replace(&mut session.listed, true) {
            // Those that ended meanwhile stay in the list until it is looked through.
            if self.paused.len() >= 2 * self.sessions.len() + 64 {
                let sessions = &self.sessions;
                self.paused.retain(|conn| sessions.get(*conn).is_some());
            }
            self.paused.push(conn);
        }
        fate
    }

    /// Whether new mail must wait: another shard cannot keep up, or there is more queued than this shard may hold.
    fn is_busy(&self, turn: &Turn<'_>) -> bool {
        turn.post.is_congested() || self.log.live_messages() >= limits::LIVE_MESSAGES_PER_SHARD
    }

    fn end_event(&mut self, conn: ConnId, fate: Fate, turn: &mut Turn<'_>) {
        match fate {
            Fate::Open => {
                let deadline = self.sessions.get(conn).and_then(|s| s.deadline());
                self.sessions.set_deadline(conn, deadline);
            }
            Fate::Over => {
                if let Some(mut session) = self.sessions.remove(conn) {
                    if let Some(party) = session.handshaking()
                        && !planted!(HandshakeNotCountedBack)
                    {
                        self.handshakes.ended(party);
                    }
                    self.gate.quotas.gone(conn);
                    if let Some(peer) = session.admitted {
                        self.gate.left(peer);
                    }
                    self.about_to_finish -= usize::from(session.counted);
                    session.abandon(&mut self.log);
                    self.gate.forget(conn);
                }
                turn.io.close(conn);
            }
        }
    }

    /// Sessions whose time is up.
    pub(super) fn handle_deadlines(&mut self, turn: &mut Turn<'_>) {
        let mut due = std::mem::take(&mut self.due);
        self.sessions.due(turn.now.mono, &mut due);
        for &conn in &due {
            let fate = self.with_session(conn, turn, |session, turn, context, out| session.timeout(turn, context, out));
            let lingered = self.sessions.get(conn).is_some_and(|s| s.has_lingered(turn.now.mono));
            self.end_event(conn, if lingered { Fate::Over } else { fate }, turn);
        }
        self.due = due;
    }

    /// A domain's mail is too much for its owner alone.
    pub(super) fn keep_mail_for(&mut self, domain: &str, now: Moment) {
        self.lanes.add(domain, now);
    }

    /// New accounts, certificates, local names.
    pub(super) fn set_tables(&mut self, tables: Arc<Tables>) {
        self.gate.set_tables(tables);
    }

    /// No new mail: 421 to idle clients, the others finish their transaction first.
    pub(super) fn drain(&mut self, turn: &mut Turn<'_>) {
        self.draining = true;
        for conn in self.sessions.ids().collect::<Vec<_>>() {
            let fate = self.with_session(conn, turn, |session, turn, _, out| {
                let idle = !session.server.in_transaction();
                session.server.shutdown(out);
                if idle { session.hang_up(turn, out) } else { session.flush(turn, out) }
            });
            self.end_event(conn, fate, turn);
        }
    }

    /// The shard ends: clients that have not left by now are cut off.
    pub(super) fn close_all(&mut self, turn: &mut Turn<'_>) {
        for conn in self.sessions.ids() {
            turn.io.close(conn);
        }
    }

    pub(super) fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Whether nothing of this half is under way: no session, no commit, no outcome unwritten.
    pub(super) fn is_quiet(&self) -> bool {
        self.sessions.is_empty() && self.log_is_quiet() && self.gate.quotas.is_quiet()
    }

    /// Whether everything known is on stable storage.
    pub(super) fn log_is_quiet(&self) -> bool {
        let read = self.reads.is_empty() && self.reads_wanted.is_empty();
        self.log.is_idle() && self.notifier.is_quiet() && read
    }

    /// Outcomes go to stable storage without waiting for company.
    pub(super) fn flush_log(&mut self) {
        self.log.flush();
    }

    // --- the log --------------------------------------------------------------------------------------------------

    /// A completion of a file.
    pub(super) fn handle_file(&mut self, event: RtEvent<'_>, turn: &mut Turn<'_>) {
        let failed = |error: io::Error| FileError::from_io(&error);
        match event {
            RtEvent::Written { token, result } if token & quota::WRITE != 0 => self.gate.quotas.written(result, turn),
            RtEvent::FileReady { file, result } if file >= quota::FILES => self.gate.quotas.made(file, result, turn),
            RtEvent::Written { token, result } => {
                if let Err(error) = &result {
                    turn.report.stats.sync_errors.add(1);
                    tracing::error!(shard = self.me, %error, "a commit failed: its segment takes no more mail");
                }
                self.log.handle_written(token, result.map_err(failed));
            }
            RtEvent::Read { token, result } => self.log.handle_read(token, result.map_err(failed)),
            RtEvent::FileReady { file, result } => self.log.handle_created(FileNo(file), result.map_err(failed)),
            RtEvent::FileRemoved { file, result } => self.log.handle_removed(FileNo(file), result.map_err(failed)),
            _ => {}
        }
        self.log_events(turn);
    }

    /// What the log has to say.
    fn log_events(&mut self, turn: &mut Turn<'_>) {
        while let Some(event) = self.log.poll_event() {
            match event {
                spool::Event::Durable { waiter, id, record } => self.durable(waiter, id, record, turn),
                spool::Event::Refused { waiter, why, .. } => self.refused(waiter, why, turn),
                spool::Event::Read { token, result } => self.read_done(token, result, turn),
                spool::Event::StorageFull { error } => {
                    self.storage_full = true;
                    turn.report.stats.storage_ok.set(0);
                    tracing::error!(shard = self.me, %error, "no new segment: mail is refused with 452 once the present one is full");
                    self.notice(NoticeKind::StorageFull, &error.to_string(), turn);
                }
                spool::Event::StorageRecovered => {
                    self.storage_full = false;
                    turn.report.stats.storage_ok.set(1);
                    tracing::info!(shard = self.me, "there is room again: mail is accepted");
                    self.notice(NoticeKind::StorageRestored, "", turn);
                }
                spool::Event::SegmentFailed { number, error } => {
                    tracing::error!(shard = self.me, segment = number, %error, "this segment takes no more mail; what it holds stays readable");
                    self.notice(NoticeKind::StorageError, &format!("segment {number:08x}: {error}"), turn);
                }
                spool::Event::Damaged { id, number } => {
                    tracing::error!(shard = self.me, segment = number, %id, "a record cannot be read: see `ringpost spool verify`");
                    self.notice(
                        NoticeKind::StorageError,
                        &format!("segment {number:08x}: message {id} is damaged"),
                        turn,
                    );
                }
            }
        }
    }

    fn notice(&self, kind: NoticeKind, details: &str, turn: &mut Turn<'_>) {
        turn.report.events.push(event::Notice::event(turn.now.wall, self.me, kind, details.as_bytes()));
    }

    /// A message is ours: 250 to its client, and on to the owners of its destinations.
    fn durable(&mut self, waiter: u64, id: MessageId, record: Slice, turn: &mut Turn<'_>) {
        let view = RecordView::parse(&record).expect("the log hands out records that it has checked");
        let stats = &turn.report.stats;
        stats.accepted_messages.add(1);
        stats.accepted_bytes.add(view.total_size());
        stats.accepted_recipients.add(view.recipient_count() as u64);
        let size = u32::try_from(view.total_size()).unwrap_or(u32::MAX);
        let (accepted, params) = (view.accepted(), view.params());
        let in_memory = Some(&record).filter(|_| self.log.has_memory());
        let sender = view.sender();
        let facts = Message { id, accepted, age: Duration::ZERO, size, record: in_memory, params, sender };
        self.hand_off(&facts, || view.recipients(), turn);
        if notify::is_notice(waiter) {
            return self.notifier.durable(waiter, &mut self.log);
        }
        self.notifier.accepted(&view);
        let conn = session::waiting(waiter);
        let fate = self.with_session(conn, turn, |session, turn, context, out| {
            let now = turn.now;
            session.server.handle_verdict(Verdict::Accepted(id), now.mono, out);
            if let Some(commit) = session.commit.take() {
                let (receive_us, commit_us) = (micros(commit.ended, commit.began), micros(now.mono, commit.ended));
                turn.report.histograms.record(LatencyStage::Receive, receive_us);
                turn.report.histograms.record(LatencyStage::Commit, commit_us);
                if turn.report.events.wants_mail_events() {
                    turn.report.events.push(Event::Accepted(event::Accepted {
                        at: now.wall,
                        id,
                        peer: view.peer(),
                        size_bytes: view.total_size(),
                        recipients: u32::try_from(view.recipient_count()).expect("limits.rs bounds recipients"),
                        receive_us,
                        commit_us,
                        text: event::Accepted::texts(view.sender(), session.server.helo()),
                    }));
                }
            }
            session.proceed(turn, context, out)
        });
        self.end_event(conn, fate, turn);
    }

    /// The log could not keep a message: its client keeps it.
    fn refused(&mut self, waiter: u64, why: spool::Refusal, turn: &mut Turn<'_>) {
        if notify::is_notice(waiter) {
            return self.notifier.refused(waiter, why, &mut self.log, turn.now);
        }
        turn.report.stats.rejected.add(1);
        let conn = session::waiting(waiter);
        let fate = self.with_session(conn, turn, |session, turn, context, out| {
            session.commit = None;
            session.server.handle_verdict(session::verdict(why), turn.now.mono, out);
            session.proceed(turn, context, out)
        });
        self.end_event(conn, fate, turn);
    }

    /// What an owner has to say.
    pub(super) fn mail(&mut self, mail: Mail) {
        match mail {
            Mail::Settled(Settled { id, recipients, outcome }) => match outcome {
                FinalOutcome::Delivered => {
                    for &index in recipients.as_slice() {
                        self.log.settle(id, index, Outcome::Delivered);
                    }
                }
                FinalOutcome::Relayed { reply } => {
                    self.notifier.push(Notice {
                        id,
                        recipients,
                        what: What::Relayed,
                        reply,
                        untold: None,
                        paid: false,
                    });
                }
                FinalOutcome::Stored { reply } => {
                    self.notifier.push(Notice { id, recipients, what: What::Stored, reply, untold: None, paid: false });
                }
                FinalOutcome::Failed { expired, reply, untold } => {
                    let what = if expired { What::Expired } else { What::Refused };
                    self.notifier.push(Notice { id, recipients, what, reply, untold, paid: false });
                }
            },
            Mail::Late(Late { id, recipients, reply, retry_until }) => {
                let what = What::Late { retry_until };
                self.notifier.push(Notice { id, recipients, what, reply, untold: None, paid: false });
            }
            Mail::Fetch { id, part, owner } => self.reads_wanted.push_back(ReadFor::Owner { id, part, owner }),
            Mail::Handoff(_)
            | Mail::Fetched { .. }
            | Mail::Verify { .. }
            | Mail::Verified { .. }
            | Mail::Guard(_)
            | Mail::Lane { .. }
            | Mail::ToLedger(_)
            | Mail::ToLane(_)
            | Mail::SourceRest(_)
            | Mail::WarmUp(_)
            | Mail::Warmed(_)
            | Mail::ToOwner(_)
            | Mail::ToPurse(_)
            | Mail::Control(_) => {}
        }
    }

    /// The memory that the next read takes, if one waits and there is room for it. It waits for those before it, which
    /// end.
    fn next_read(&self) -> Option<usize> {
        let (id, part) = self.reads_wanted.front()?.of();
        let bytes = self.log.read_bytes(id, part);
        (self.reading + bytes <= limits::SPOOL_READING_BYTES).then_some(bytes)
    }

    fn start_reads(&mut self) {
        while let Some(bytes) = self.next_read() {
            let Some(read) = self.reads_wanted.pop_front() else { return };
            let (id, part) = read.of();
            self.reading += bytes;
            let token = self.reads.insert((read, bytes));
            self.log.read(id, part, token as u64);
        }
    }

    fn read_done(&mut self, token: u64, result: Result<Slice, ReadError>, turn: &mut Turn<'_>) {
        let Some((read, bytes)) = self.reads.try_remove(token as usize) else { return };
        self.reading -= bytes;
        match read {
            ReadFor::Owner { id, part, owner } => {
                turn.post.send(usize::from(owner), Mail::Fetched { id, part, record: result.ok() });
            }
            ReadFor::Notice(mut notice) => {
                notice.tell(&result, turn);
                let here = Here { hostname: &self.config.hostname, local: self.gate.local() };
                self.notifier.write(notice, &result, &here, &mut self.log, turn.now, &turn.report.stats);
            }
        }
    }

    /// Whether another turn has something to do at once: reads that waited for others, which failed in this turn.
    pub(super) fn has_work(&self) -> bool {
        self.next_read().is_some()
    }

    // --- the turn -------------------------------------------------------------------------------------------------

    /// The end of a turn: commits, reads, files.
    pub(super) fn turn(&mut self, turn: &mut Turn<'_>) {
        self.auth_answers(turn);
        if self.draining && self.sessions.is_empty() {
            self.gate.quotas.finish();
        }
        self.gate.quotas.turn(turn);
        self.quota_answers(turn);
        while let Some(notice) = self.notifier.poll_read(turn.now) {
            self.reads_wanted.push_back(ReadFor::Notice(notice));
        }
        while let Some(text) = self.notifier.poll_news(turn.now) {
            let kind = NoticeKind::BouncesWithheld;
            turn.report.events.push(event::Notice::event(turn.now.wall, self.me, kind, text.as_bytes()));
        }
        self.start_reads();
        self.log_events(turn);
        // A lone client's message is committed at once; with several about to finish theirs it waits for some of them.
        let company = self.about_to_finish >= limits::COMMIT_SIBLINGS;
        self.log.hold(self.first_waiting.filter(|_| company).map(|first| first + limits::COMMIT_DELAY));
        while let Some(effect) = self.log.poll_effect(turn.now) {
            self.carry_out(effect, turn);
        }
        self.log_events(turn);
        if !self.paused.is_empty() && self.log.pressure() <= self.log.pressure_limit() / 2 {
            for conn in std::mem::take(&mut self.paused) {
                if let Some(session) = self.sessions.get_mut(conn) {
                    session.listed = false;
                }
                let fate =
                    self.with_session(conn, turn, |session, turn, context, out| session.proceed(turn, context, out));
                self.end_event(conn, fate, turn);
            }
        }
    }

    fn carry_out(&mut self, effect: Effect, turn: &mut Turn<'_>) {
        match effect {
            Effect::Write { token, file, offset, buffer, start } => {
                self.first_waiting = None;
                turn.report.stats.commits.add(1);
                turn.report.stats.commit_bytes.add((buffer.len() - start) as u64);
                turn.io.write_durable(token, file.0, offset, buffer, start);
            }
            Effect::Read { token, file, offset, buffer } => turn.io.read_file(token, file.0, offset, buffer),
            Effect::Create { file, name, bytes } => {
                turn.io.create_file(file.0, &self.folder.join(name), u64::from(bytes));
            }
            Effect::Open { file, name } => {
                let result = turn.io.open_file(file.0, &self.folder.join(&name));
                if let Err(error) = &result {
                    tracing::error!(shard = self.me, name, %error, "a segment cannot be opened");
                }
                self.log.handle_opened(file, result.map_err(|e| FileError::from_io(&e)));
            }
            Effect::Remove { file, name } => turn.io.remove_file(file.0, &self.folder.join(name)),
        }
    }

    /// The next moment at which something is due.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        [self.log.poll_timeout(), self.notifier.poll_timeout(), self.gate.poll_timeout()].into_iter().flatten().min()
    }

    /// Time went on.
    pub(super) fn handle_timeout(&mut self, now: Now) {
        self.log.handle_timeout(now);
    }

    /// The numbers of this half, for the metrics.
    pub(super) fn report(&self, stats: &super::stats::ShardStats) {
        stats.sessions.set(self.sessions.len() as u64);
        stats.spool_messages.set(self.log.live_messages() as u64);
        stats.spool_bytes.set(self.log.file_bytes());
    }
}
