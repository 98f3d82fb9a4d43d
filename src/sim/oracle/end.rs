//! What must hold at the end: every account is even, nothing was changed, lost or made up, and a relay with nothing to do has nothing
//! open.

use super::{Account, IN_VAIN, Oracle, domain_of, id_of, is_known};
use crate::message::MessageId;
use crate::sim::client::Sent;
use crate::sim::hop::Received;
use crate::sim::scenario::Way;
use crate::sim::world::{Machine, World};
use crate::time::{Moment, Now};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

impl Oracle<'_> {
    /// Every account is even.
    pub fn check_end(&mut self, world: &World) {
        self.check_rates(world);
        self.check_flows(world);
        self.check_sources(world);
        self.check_guards(world);
        self.check_rules(world);
        let account = Account::of(world);
        let mut letters: BTreeMap<u32, &Sent> = BTreeMap::new();
        for client in world.clients() {
            for complaint in &client.complaints {
                self.violate("protocol", complaint.clone());
            }
            self.check_answers(client);
            for sent in &client.sent {
                self.check_limits(sent, client.may_relay && !sent.door.guised);
                self.check_door(sent, client.may_relay);
                letters.insert(sent.letter.mark, sent);
            }
        }
        // What the disk spoiled cannot be returned either: it stays until an operator looks.
        if !self.headless && world.queued() > self.excused.len() as u64 {
            let left = world.durable();
            self.violate("rest", format!("{} messages are never delivered or returned: {left:?}", world.queued()));
        }
        self.check_copies(world, &account, &letters);
        self.check_attempts(world, &account, &letters);
        self.check_quotas(world);
        for sent in letters.values() {
            self.check_promise(world, &account, sent);
        }
        let limit = self.scenario.messages_per_connection;
        for machine in world.sim.hosts.values() {
            let Machine::Proxy(proxy) = machine else { continue };
            for complaint in &proxy.complaints {
                self.violate("protocol", format!("proxy: {complaint}"));
            }
        }
        for (ip, hop) in world.hops() {
            for complaint in &hop.complaints {
                self.violate("protocol", format!("{ip}: {complaint}"));
            }
            if hop.most_mails > limit {
                self.violate("messages a connection", format!("{ip}: {} of {limit}", hop.most_mails));
            }
            if hop.most_in_vain > IN_VAIN {
                let times = hop.most_in_vain;
                self.violate("storm", format!("{times} connections to {ip} in a minute that carried nothing"));
            }
        }
    }

    /// What was delivered: nothing that was not accepted, nothing changed, nothing to the wrong place.
    fn check_copies(&mut self, world: &World, account: &Account<'_>, letters: &BTreeMap<u32, &Sent>) {
        for ((mark, to), copies) in &account.copies {
            self.delivered += copies.len() as u64;
            let Some(sent) = letters.get(mark) else {
                self.violate("invention", format!("#{mark} was delivered to {to} and never submitted"));
                continue;
            };
            if sent.ended.is_none() {
                self.violate("invention", format!("#{mark} was delivered to {to}, its end was never sent"));
            }
            if sent.refused() && !self.ended_before_disowned(world, sent) {
                self.violate("invention", format!("#{mark} was refused and delivered to {to}: {:?}", sent.verdict));
            }
            if !sent.taken.iter().any(|taken| taken.eq_ignore_ascii_case(to)) {
                // The reply to RCPT may be lost, not the whole command.
                let named = sent.letter.recipients.iter().any(|r| r.eq_ignore_ascii_case(to));
                if !named || sent.verdict.is_some() {
                    self.violate("invention", format!("#{mark} was delivered to {to}, who was not accepted"));
                }
            }
            let hosts = self.scenario.exchangers(&domain_of(to));
            for (ip, received) in copies {
                if !hosts.contains(ip) {
                    self.violate("address", format!("#{mark} to {to} went to {ip}, not to {hosts:?}"));
                }
                if received.sender != sent.letter.sender {
                    self.violate("envelope", format!("#{mark} came from <{}>", received.sender));
                }
                self.check_body(sent, received);
                self.check_asked(sent, *ip, received);
                self.check_preference(&domain_of(to), *ip);
            }
            self.check_repeats(world, sent, to, copies);
        }
        for (_, hop) in world.hops() {
            for received in hop.received.iter().filter(|r| r.mark.is_none() && !r.is_dsn()) {
                let shown = String::from_utf8_lossy(&received.data[..received.data.len().min(200)]).into_owned();
                self.violate("invention", format!("nobody sent this: {shown}"));
            }
        }
    }

    /// What was refused because its commit failed may stand on the disk all the same, until the next commit says that it
    /// does not count. A process that ends before that delivers it in its next life (docs/durability.md).
    fn ended_before_disowned(&self, world: &World, sent: &Sent) -> bool {
        let Some((_, at, _)) = &sent.verdict else { return true };
        if self.disk_troubles.is_empty() {
            return false;
        }
        let by = self.durable_by(world, *at);
        self.ends.iter().any(|end| *end + Duration::from_secs(1) >= *at && *end <= by)
    }

    fn check_body(&mut self, sent: &Sent, received: &Received) {
        let wire = if received.chunked { sent.letter.bare() } else { sent.letter.wire() };
        let mark = sent.letter.mark;
        let Some(front) = received.data.len().checked_sub(wire.len()) else {
            self.violate("body", format!("#{mark} is shorter than it was: {} of {}", received.data.len(), wire.len()));
            return;
        };
        if received.data[front..] != wire {
            let at = received.data[front..].iter().zip(&wire).position(|(a, b)| a != b).unwrap_or(0);
            self.violate("body", format!("#{mark} was changed at octet {at} of {}", wire.len()));
        }
        let ours = &received.data[..front];
        let fields = String::from_utf8_lossy(ours);
        self.check_protocol(sent, &fields);
        let well = ours.ends_with(b"\r\n")
            && ours.starts_with(b"Received: from ")
            && fields.split("\r\n").skip(1).all(|line| line.is_empty() || line.starts_with([' ', '\t']));
        if !well {
            self.violate("body", format!("#{mark} has something else than one Received in front: {fields:?}"));
        }
    }

    /// A repeated delivery has its reason between the first and the second.
    fn check_repeats(&mut self, world: &World, sent: &Sent, to: &str, copies: &[(IpAddr, &Received)]) {
        for pair in copies.windows(2) {
            self.duplicates += 1;
            // The network may turn their order round.
            let overtaken = !is_known(world, pair[1].1) && pair[1].1.opened <= pair[0].1.at;
            if !overtaken && self.why_again(world, pair[0].1, pair[1].1.at).is_none() {
                let (first, second) = (pair[0].1.at.0 as f64 / 1e9, pair[1].1.at.0 as f64 / 1e9);
                let what = format!("#{} to {to} at {first:.3} s and again at {second:.3} s", sent.letter.mark);
                self.violate("duplicate", what);
            }
        }
    }

    /// Why something may follow after `copy` was delivered.
    fn why_again(&self, world: &World, copy: &Received, next: Moment) -> Option<&'static str> {
        if !is_known(world, copy) {
            return Some("the reply was lost");
        }
        // From the copy: who left before the answer does not know it.
        if id_of(copy).is_some_and(|id| self.is_excused(id)) {
            return Some("the disk spoiled its record");
        }
        let crash = self.crashes.iter().find(|crash| **crash >= copy.at && **crash <= next)?;
        (*crash <= self.durable_by(world, copy.told_at)).then_some("a crash before the outcome was durable")
    }

    /// An acknowledged message: each recipient delivered or returned.
    fn check_promise(&mut self, world: &World, account: &Account<'_>, sent: &Sent) {
        // 421 is what a relay says that has lost patience: it did not see the end.
        let answered = sent.verdict.as_ref().is_some_and(|(reply, _, _)| !reply.starts_with("421"));
        if let (Some(ended), false) = (sent.ended, answered) {
            // A machine without power does not say so: its clients learn it late.
            let crashed = self.ends.iter().any(|end| *end + Duration::from_secs(300) >= ended);
            if !sent.left && !crashed {
                self.violate("silence", format!("#{} was sent to its end and never answered", sent.letter.mark));
            }
        }
        let Some(id) = sent.accepted() else { return };
        self.accepted += 1;
        let number = id.parse::<MessageId>().ok();
        for to in &sent.taken {
            let key = (sent.letter.mark, to.to_ascii_lowercase());
            let copies = account.copies.get(&key).map_or(&[][..], Vec::as_slice);
            let notes = account.notes(id, &key.1);
            let told = notes.first().map_or(world.sim.now(), |note| Now { mono: note.at, wall: note.wall });
            let reason = self.failed_for_good(told, account, sent, &key.1);
            let mark = key.0;
            self.bounced += notes.len().min(1) as u64;
            self.check_told(world, account, sent, &key);
            let way = self.scenario.way(&domain_of(to));
            let overdue = self.asked_too_much(sent, &key.1, told).is_some();
            if way == Some(Way::Discard) && !notes.is_empty() && !overdue {
                self.violate("route", format!("#{mark} to {to} was to be discarded, and was returned"));
            }
            if way == Some(Way::Hold)
                && let Some((_, since, wall)) = &sent.verdict
                && !notes.is_empty()
                && !overdue
                && !self.may_expire(*since, *wall, told)
            {
                self.violate("route", format!("#{mark} to {to} was to be held, and was returned before its time"));
            }
            if way == Some(Way::Discard) {
                continue;
            }
            if copies.is_empty() && notes.is_empty() {
                // Nobody is told if there is nobody to tell, or nobody who can be told.
                let sender = sent.letter.sender.to_ascii_lowercase();
                let nobody = sender.is_empty()
                    || !sent.door.asks.is_told_of("FAILURE")
                    || self.out_of_reach(world.sim.now(), account, sent, &sender).is_some();
                // Or the disk spoiled the record of the notification, whose number only the relay knew.
                let known = reason.is_some() && (nobody || self.headless || !self.excused.is_empty());
                if !known && !number.is_some_and(|id| self.excuse(id)) {
                    self.violate(
                        "lost",
                        format!("#{mark} {id} to {to} was acknowledged, neither delivered nor returned"),
                    );
                }
                continue;
            }
            if notes.is_empty() {
                continue;
            }
            let excused = number.is_some_and(|id| self.is_excused(id));
            if reason.is_none() && !excused {
                self.violate("bounce", format!("#{mark} {id} to {to} was returned without a reason"));
            }
            let times = notes.iter().filter(|note| is_known(world, note)).count();
            if times > 1 + 2 * self.crashes.len() && !excused {
                self.violate("bounce", format!("#{mark} {id} to {to} was returned {times} times"));
            }
            if sent.letter.sender.is_empty() {
                self.violate("bounce", format!("#{mark} {id}: a notification about a notification"));
            }
            // A notification is on its way before the outcome that it tells of is durable: a crash between them, and both
            // happen, in either order.
            if let (Some((_, copy)), Some(note)) = (copies.first(), notes.first()) {
                let crashed = self.crashes.iter().any(|crash| *crash <= copy.at.max(note.at));
                if !crashed && !excused && is_known(world, copy) {
                    self.violate("bounce", format!("#{mark} {id} to {to} was delivered and returned"));
                }
            }
        }
    }

    /// A relay that has nothing to do has nothing open.
    pub fn check_rest(&mut self, world: &World) {
        if world.queued() > 0 {
            return;
        }
        for (shard, stats) in world.stats.iter().enumerate() {
            let (open, sessions) = (world.sim.core.open_sockets(shard), stats.sessions.get());
            if open > 0 || sessions > 0 {
                self.violate("rest", format!("shard {shard}: {open} sockets, {sessions} sessions with nothing to do"));
            }
            let jobs = stats.queue_ready.get() + stats.queue_waiting.get() + stats.queue_in_flight.get();
            if jobs > 0 {
                self.violate("rest", format!("shard {shard}: {jobs} jobs with nothing to do"));
            }
        }
        for shard in world.sim.shards.iter().flatten() {
            let (mut busy, mut all) = (false, String::new());
            shard.audit(&mut |what, size, _| {
                busy |= AT_REST.contains(&what) && size > 0;
                if size > 0 {
                    all += &format!("{what}: {size}, ");
                }
            });
            if busy {
                self.violate("rest", format!("with nothing to do: {all}"));
            }
        }
    }
}

/// What is empty in a relay that has had nothing to do for a while.
const AT_REST: &[&str] = &[
    "deliver.pools",
    "deliver.resolving",
    "deliver.connections",
    "deliver.questions",
    "deliver.exchanges",
    "deliver.fetches",
    "deliver.wake",
    "deliver.starved",
    "queue.destinations",
    "queue.retry timers",
    "home.sessions",
    "home.handshakes",
    "home.passwords waiting",
    "home.passwords being checked",
    "home.domains asked for",
    "home.paused",
    "home.bounces",
    "home.notices",
    "home.reads",
    "log.streams",
    "log.commits queued",
    "log.settled to write",
    "log.progress to write",
    "post.outbox",
    "post.own",
];
