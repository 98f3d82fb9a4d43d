//! Where mail meets connections: who may be sent what, when another connection is opened, and to which address.

use super::connection::Transaction;
use super::{Deliverer, Fetch, Left, Pool, age, params};
use crate::limits;
use crate::message::MessageId;
use crate::queue::{DestinationId, JobKey, LastReply, RecipientSet};
use crate::rt::ConnId;
use crate::shard::Turn;
use crate::shard::mailbox::Mail;
use crate::spool::RecordView;
use crate::time::Moment;

impl Deliverer {
    /// Brings the mail of a destination and its connections together, as far as both are there.
    pub(super) fn pump(&mut self, destination: DestinationId, turn: &mut Turn<'_>) {
        if self.draining || self.is_content(destination) {
            return;
        }
        if self.is_maildir(destination) {
            self.pump_maildir(destination, turn);
        } else if self.is_located(destination, turn) {
            self.pump_connections(destination, turn);
        }
        self.forget_predecessors(destination);
        if self.pools.get(&destination).is_some_and(Pool::is_unused) {
            let removed = self.pools.remove(&destination);
            if let Some((scope, from)) = removed.and_then(|pool| Some((pool.scope?, pool.from))) {
                self.lanes.left(&scope);
                self.sources_left(&scope, from);
            }
        }
    }

    /// Whether a pump would find nothing to do: no mail waits, there is a connection, and nobody is asked for more. Most replies
    /// come to such a destination.
    fn is_content(&self, destination: DestinationId) -> bool {
        self.pools.get(&destination).is_some_and(Pool::is_content) && self.queue.peek_len(destination) == 0
    }

    fn pump_connections(&mut self, destination: DestinationId, turn: &mut Turn<'_>) {
        if self.rests(destination, turn.now.mono) {
            return;
        }
        let paced = self.is_paced(destination);
        loop {
            while let Some(conn) = self.free_connection(destination, paced, turn.now.mono)
                && !self.rests(destination, turn.now.mono)
            {
                if paced && !self.may_begin_next(destination, turn) {
                    break;
                }
                let Some(key) = self.next_loaded(destination, turn) else { break };
                if self.awaits_silence(conn, key, turn.now.mono) || paced && !self.source_bears(conn, key) {
                    self.load(key, destination);
                    break;
                }
                self.begin(conn, key, turn);
            }
            // A message that the next hop's announcements forbid is over as soon as it is begun.
            let refused = |conn: &&ConnId| {
                self.connections.get(**conn).and_then(|c| c.client.as_ref()).is_some_and(|client| client.has_events())
            };
            let Some(conn) = self.touched.iter().find(refused).copied() else { break };
            let _ = self.client_events(conn, turn);
        }
        if paced
            && (self.waiting(destination) == 0 || self.free_connection(destination, paced, turn.now.mono).is_none())
        {
            self.begins_none(destination);
        }
        let blocked = match paced && !self.config.sources.list.is_empty() {
            true => self.ask_sources(destination, self.waiting(destination), turn),
            false => 0,
        };
        self.open_more(destination, blocked, turn);
        self.end_unused(destination, turn);
        let mut touched = std::mem::take(&mut self.touched);
        for conn in touched.drain(..) {
            self.flush(conn, turn);
        }
        self.touched = touched;
    }

    /// Whether the rate of a destination allows the next message, if there is one to begin.
    fn may_begin_next(&mut self, destination: DestinationId, turn: &mut Turn<'_>) -> bool {
        let pool = self.pools.make(destination);
        if pool.loaded.is_empty() || self.scopes.is_active() || self.overtakes(destination) {
            // What is not in memory comes first: a permit does not wait for the spool.
            let Some(key) = self.next_loaded(destination, turn) else { return false };
            self.load(key, destination);
        }
        let could = self.pools.get(&destination).map_or(0, |pool| {
            pool.connections.len().min(pool.loaded.len() + pool.fetching + self.queue.peek_len(destination))
        });
        self.may_begin(destination, u32::try_from(could).unwrap_or(u32::MAX), turn.now.mono)
    }

    /// Puts a job in front of those that wait with their record in memory.
    fn load(&mut self, key: JobKey, destination: DestinationId) {
        let Some(record) = self.queue.job(key).and_then(|job| job.body.as_ref()) else { return };
        let bytes = record.buffer_bytes();
        self.push_loaded(destination, (key, bytes), true);
        self.pools.make(destination).reloaded = true;
    }

    /// Keeps a job whose record is in memory, in front of the others or behind them. The last of them goes back into the queue where
    /// there are too many: some came in front of what was asked for before.
    pub(super) fn push_loaded(&mut self, destination: DestinationId, (key, bytes): (JobKey, usize), first: bool) {
        let pool = self.pools.make(destination);
        let over = if pool.loaded.len() >= limits::FETCH_AHEAD { pool.loaded.pop_back() } else { None };
        if first {
            pool.loaded.push_front((key, bytes));
        } else {
            pool.loaded.push_back((key, bytes));
        }
        self.ahead.loaded += bytes;
        if let Some((over, bytes)) = over {
            self.ahead.loaded -= bytes;
            self.queue.put_back(over);
        }
    }

    /// An idle connection, or else the one with the least under way that takes an envelope behind its final dot or in its
    /// flight; not that if messages have a rate: it counts when they are begun, not when they are written down. A flight
    /// takes no more than its connection's even share of the mail that there is: others may be about to open.
    fn free_connection(&mut self, destination: DestinationId, paced: bool, now: Moment) -> Option<ConnId> {
        let pool = self.pools.get(&destination)?;
        let (mut free, mut under_way) = (None, 0);
        let mut is_new = None;
        for &conn in &pool.connections {
            let Some(connection) = self.connections.get(conn) else { continue };
            let count = connection.transactions.len();
            under_way += count;
            let starts = connection.can_start()
                || (connection.takes_last() || connection.is_full())
                    && *is_new
                        .get_or_insert_with(|| self.queue.brings_new(destination, pool.loaded.len() + pool.fetching))
                    && connection.can_start_new();
            if !starts || (paced && !self.source_may_begin(conn, now)) {
                continue;
            }
            if connection.is_idle() {
                return Some(conn);
            }
            if !paced && free.is_none_or(|(_, least)| count < least) {
                free = Some((conn, count));
            }
        }
        let (conn, count) = free?;
        let all = under_way + pool.loaded.len() + pool.fetching + self.queue.peek_len(destination);
        // One behind the other it always takes.
        (count < 2 || count < all.div_ceil(pool.connections.len())).then_some(conn)
    }

    /// The next job whose record is in memory, for a connection that is free. Records that are not are asked for, some
    /// ahead of their turn; the first of them is not ahead of it, and so no destination waits for the memory of others.
    pub(super) fn next_loaded(&mut self, destination: DestinationId, turn: &mut Turn<'_>) -> Option<JobKey> {
        let overtakes = self.overtakes(destination);
        while !overtakes && let Some(key) = self.pop_loaded(destination) {
            if !self.stays(key, destination, turn) {
                self.queue.put_back(key);
            } else if self.fits(key, destination, turn.now.mono) {
                return Some(key);
            }
        }
        let mut set_aside = 0;
        loop {
            if set_aside >= limits::SCOPE_TRIES {
                self.wake(destination);
                return None;
            }
            let fetching = self.pools.get(&destination).map_or(0, |p| p.fetching);
            let most = (self.read_ahead(destination) + usize::from(overtakes)).min(limits::FETCH_AHEAD);
            let is_here = overtakes && self.queue.next_of_new(destination).is_some_and(|job| job.body.is_some());
            if fetching > 0 && !is_here && (fetching >= most || !self.ahead.has_room()) {
                return None;
            }
            if fetching > 0 && !is_here && !self.may_fetch_ahead(destination, turn.now.mono) {
                return None;
            }
            let key = self.queue.take(destination)?;
            if overtakes && let Some(pool) = self.pools.get_mut(&destination) {
                pool.overtaken += 1;
            }
            if !self.stays(key, destination, turn) {
                self.queue.put_back(key);
                continue;
            }
            if !self.fits(key, destination, turn.now.mono) {
                set_aside += 1;
                continue;
            }
            let job = self.queue.job(key)?;
            if job.body.is_some() {
                return Some(key);
            }
            let (id, home) = (job.id, job.home);
            let domain = self.queue.domain_of(key);
            let pool = self.pools.make(destination);
            pool.fetching += 1;
            pool.fetched_for = domain;
            if overtakes {
                pool.overtaking = Some(key);
            }
            self.ahead.asked += 1;
            self.fetch(id, 0, home, Fetch::Job(destination, key), turn);
        }
    }

    /// Whether mail of a tenant that had nothing yet goes before what is loaded, or is read. Its turn in the queue may be the next
    /// but one there: what is loaded has had its own. What is loaded cannot be kept waiting by ever new tenants.
    fn overtakes(&mut self, destination: DestinationId) -> bool {
        let Some(pool) = self.pools.get_mut(&destination) else { return false };
        if pool.loaded.is_empty() && pool.fetching == 0 {
            pool.overtaken = 0;
            return false;
        }
        // The one before it is in front still: it goes first.
        if pool.overtaken >= limits::FETCH_AHEAD || pool.overtaken > 0 && pool.reloaded {
            return false;
        }
        if self.queue.is_next_new(destination)
            || pool.overtaken == 0 && self.queue.promote_new(destination, pool.loaded.len() + pool.fetching)
        {
            return true;
        }
        let is_others =
            |tenant, (key, _): &(JobKey, usize)| self.queue.job(*key).is_none_or(|job| job.tenant != tenant);
        !pool.loaded.is_empty()
            && self
                .queue
                .only_new(destination)
                .is_some_and(|tenant| pool.loaded.iter().all(|loaded| is_others(tenant, loaded)))
    }

    /// Records of a destination that may be asked for at a time. Who comes later goes behind them, whosever turn it is: where
    /// messages have a rate they are no more than can be begun while one is read.
    fn read_ahead(&mut self, destination: DestinationId) -> usize {
        match self.message_rate(destination) {
            Some(rate) => {
                let begun = limits::FETCH_AHEAD_TIME.as_nanos() / rate.interval().as_nanos().max(1);
                usize::try_from(begun).unwrap_or(usize::MAX).clamp(1, limits::FETCH_AHEAD)
            }
            None => limits::FETCH_AHEAD,
        }
    }

    /// The first of the jobs that wait with their record in memory.
    pub(super) fn pop_loaded(&mut self, destination: DestinationId) -> Option<JobKey> {
        let pool = self.pools.get_mut(&destination)?;
        let (key, bytes) = pool.loaded.pop_front()?;
        if !std::mem::take(&mut pool.reloaded) {
            pool.overtaken = 0;
        }
        self.ahead.loaded -= bytes;
        Some(key)
    }

    /// Asks a home shard for a part of a message; equal questions are asked once.
    pub(super) fn fetch(&mut self, id: MessageId, part: u32, home: u16, fetch: Fetch, turn: &mut Turn<'_>) {
        let waiting = self.fetches.entry((id, part)).or_default();
        waiting.push(fetch);
        if waiting.len() == 1 {
            turn.post.send(usize::from(home), Mail::Fetch { id, part, owner: self.me });
        }
    }

    /// Starts a transaction.
    fn begin(&mut self, conn: ConnId, key: JobKey, turn: &mut Turn<'_>) {
        let Some(job) = self.queue.job(key) else { return };
        if job.terms.as_ref().is_some_and(|t| t.is_overdue(turn.now.mono)) {
            return self.expire(key, turn);
        }
        let Some(place) = self.queue.destination_of(key).zip(Some(job.flow())) else { return };
        let size = job.size;
        self.feel_heat(key, turn);
        let recipients = self.flow_recipients(place, turn.now.mono);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let rested = connection.has_rested(turn.now.mono);
        let Some(job) = self.queue.job(key) else { return };
        let recipients = recipients.min(connection.bounds.recipients);
        let several = job.recipients.as_slice().len() > 1;
        let share = job.body.as_deref().filter(|_| several).and_then(RecordView::parse);
        if let Some((kept, others)) =
            share.and_then(|view| params::share(&view, job.recipients.as_slice(), &connection.peer, recipients))
        {
            self.queue.split(key, RecipientSet::from_slice(&kept), RecipientSet::from_slice(&others));
        }
        let Some(job) = self.queue.job_mut(key) else { return };
        let Some(record) = job.body.take() else { return };
        let (Some(client), Some(view)) = (&mut connection.client, RecordView::parse(&record)) else { return };
        let token = self.next_token;
        self.next_token += 1;
        let mut params = params::mail(&view, job.recipients.as_slice(), job.terms.as_deref(), turn.now.mono);
        let now = turn.now.mono;
        let most = self.flights.most(self.config.delivery.messages_in_flight, &connection.host, now);
        client.fly(if rested { 1 } else { most });
        let doubled = if most > 1 && connection.peer.chunking { params::exact(&mut params, &view) } else { None };
        if connection.lmtp {
            params::to_local(&mut params, &connection.peer, connection.remote);
        }
        let recipients = params::recipients(&view, job.recipients.as_slice());
        let sender = params::sender(&view, job.recipients.as_slice());
        let (id, chunks) = (view.id(), view.chunk_count());
        let flown = client.start(token, sender, recipients, &params, now);
        let counts = self.count_message(place, size, now);
        let source_octets = self.source_begins(conn, size, now);
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let transaction = Transaction {
            token,
            job: key,
            record,
            began: turn.now.mono,
            refused: Vec::new(),
            taken: Vec::new(),
            answered: false,
            flown,
            doubled,
            counts,
            source_octets,
        };
        connection.began(transaction, id, chunks);
        self.touched.push(conn);
    }

    // --- connections ----------------------------------------------------------------------------------------------

    /// Opens another connection if mail waits that those there will not take soon.
    /// `blocked`: connections that may not begin one for now, as their sources may not.
    fn open_more(&mut self, destination: DestinationId, blocked: usize, turn: &mut Turn<'_>) {
        loop {
            if self.queue.is_suspended(destination) {
                self.has_enough(destination);
                return;
            }
            let most = self.most_connections(destination).min(self.queue.window(destination) as usize);
            let waiting = self.waiting(destination);
            let pool = self.pools.make(destination);
            let open = pool.connections.len();
            let able = open.saturating_sub(blocked);
            let few = waiting <= able * limits::BACKLOG_PER_CONNECTION || turn.now.mono < pool.no_more_until;
            let enough = able > 0
                && (self.queue.is_probing(destination) || few && !self.lacks_place_for_new(destination, waiting));
            let pool = self.pools.make(destination);
            if waiting == 0 || enough || pool.awaits_record {
                pool.left = None;
                if pool.beside.is_none() || !self.awaits_beside(destination, turn) {
                    self.has_enough(destination);
                }
                return;
            }
            if open + pool.leaving >= most {
                self.has_enough(destination);
                return;
            }
            let Some((route, plans)) = self.route(destination, turn) else { return };
            if self.is_preceded(destination, &route) || self.rests(destination, turn.now.mono) {
                return;
            }
            if !self.may_prepare(destination, turn.now.mono) {
                if self.waiting(destination) == 0 {
                    self.has_enough(destination);
                }
                return;
            }
            if !self.config.sources.list.is_empty() {
                if !self.is_due(destination, turn.now.mono) {
                    // A source is not kept for what the site's rate forbids: the site's share says when.
                    self.source_is_enough(destination);
                } else if !self.awaits_no_source(destination, &route, turn) {
                    return;
                }
            }
            // As many as would bring the backlog of each below the bound, and one more at least.
            let wanted = (open + 1).max(waiting / limits::BACKLOG_PER_CONNECTION).min(most);
            if !self.may_open(destination, u32::try_from(wanted).unwrap_or(u32::MAX), turn.now.mono) {
                return;
            }
            if !self.make_room(destination, turn) {
                return;
            }
            let left = self.pools.get_mut(&destination).and_then(|pool| pool.left.take());
            let opened = match left.map(|left| *left) {
                Some(Left { route, plans, addresses, why, began }) => {
                    self.try_addresses(destination, (&route, &plans), addresses, &why, began, turn)
                }
                None => self.open(destination, &route, &plans, turn),
            };
            if !opened {
                return;
            }
        }
    }

    /// Messages that wait for a connection.
    pub(super) fn waiting(&self, destination: DestinationId) -> usize {
        let held = self.pools.get(&destination).map_or(0, |pool| pool.loaded.len() + pool.fetching);
        held + self.queue.peek_len(destination)
    }

    /// Frees a connection if the shard has as many as it may; false if none can be had now.
    fn make_room(&mut self, destination: DestinationId, turn: &mut Turn<'_>) -> bool {
        while self.connections.len() >= self.max_connections {
            let Some(conn) = self.spare_connection(turn.now.mono) else {
                let pool = self.pools.make(destination);
                if !std::mem::replace(&mut pool.starved, true) && !planted!(StarvedForgotten) {
                    self.starved.push_back(destination);
                }
                return false;
            };
            self.forget(conn, turn);
        }
        true
    }

    /// The connection that has idled longest, but none whose destination awaits a record from the spool, or has just got
    /// one: it is about to be used. Destinations that took such connections from each other went round as fast as receivers answered, for as long as
    /// the disk kept all of them waiting; and as fast as hosts greeted, where mail waits for a limit of its own.
    fn spare_connection(&mut self, now: Moment) -> Option<ConnId> {
        let mut awaited = 0;
        while awaited < limits::SPARE_LOOKED_AT {
            let conn = self.idle.pop_front()?;
            let Some(connection) = self.connections.get_mut(conn) else { continue };
            let is_new = |since| now.since(since) < limits::PACED_IDLE && connection.awaits_room();
            let awaits = |p: &Pool| p.fetching > 0 || !p.loaded.is_empty();
            if connection.idle_since.is_some_and(is_new)
                || connection.idle_since.is_some() && self.pools.get(&connection.destination).is_some_and(awaits)
            {
                awaited += 1;
                self.idle.push_back(conn);
                continue;
            }
            connection.listed = false;
            if connection.idle_since.is_some() {
                return Some(conn);
            }
        }
        None
    }

    /// Closes a connection without ceremony and takes it out of its pool.
    pub(super) fn forget(&mut self, conn: ConnId, turn: &mut Turn<'_>) {
        let Some(mut connection) = self.connections.remove(conn) else { return };
        if let Some(sealed) = &mut connection.secure.sealed {
            sealed.close(conn, turn.io);
        }
        turn.io.close(conn);
        self.count_back(connection.scope);
        for transaction in &mut connection.transactions {
            self.give_back(connection.source_scope.as_ref(), transaction);
        }
        self.count_source_back(connection.destination, connection.source_scope.take());
        if let Some(pool) = self.pools.get_mut(&connection.destination) {
            if connection.leaves {
                pool.leaving -= usize::from(!planted!(LeavingNotCountedBack));
            } else {
                pool.connections.retain(|c| *c != conn);
            }
            pool.heirs.retain(|heir| self.queue.name(*heir).is_some());
            let heirs = pool.heirs.clone();
            if pool.connections.is_empty() && !self.ahead.has_room() {
                self.put_back_loaded(connection.destination);
            }
            // The pump clears away a pool that is not used any more.
            self.wake(connection.destination);
            heirs.into_iter().for_each(|heir| self.wake(heir));
        }
    }

    pub(super) fn put_back_loaded(&mut self, destination: DestinationId) {
        let Some(pool) = self.pools.get_mut(&destination) else { return };
        let loaded: Vec<_> = pool.loaded.drain(..).collect();
        // The first in line goes back last, so that it is first again.
        for (key, bytes) in loaded.into_iter().rev() {
            self.ahead.loaded -= bytes;
            self.queue.put_back(key);
        }
    }

    /// Nobody of the destination can be reached now: it is left alone for a while, with all its mail.
    pub(super) fn unreachable(&mut self, destination: DestinationId, reply: LastReply, turn: &mut Turn<'_>) {
        self.put_back_loaded(destination);
        let text = String::from_utf8_lossy(&reply.text).into_owned();
        let random = turn.io.random();
        let until = self.queue.unreachable(destination, reply, age::steady(turn.now), random);
        self.tell_suspended(destination, &text, until, turn);
    }
}

impl Pool {
    /// But for the mail that waits in the queue.
    fn is_content(&self) -> bool {
        self.wants_none
            && !self.paced
            && self.loaded.is_empty()
            && self.fetching == 0
            && !self.connections.is_empty()
            && !self.awaits_first
            && self.left.is_none()
            && self.beside.is_none()
            && self.predecessors.is_empty()
    }

    pub(super) fn is_unused(&self) -> bool {
        let held = self.loaded.len() + self.fetching + self.connections.len() + self.leaving;
        held == 0
            && self.left.is_none()
            && self.predecessors.is_empty()
            && !self.woken
            && !self.starved
            && !self.awaits_writer
    }
}
