//! What must hold of every run, and the judge of it.
//!
//! Inputs: the world between two events, at each start after a crash, and at the end. Output: [`Violation`]s. What it
//! knows, it knows from the clients and the next hops, not from the relay. It excuses only what it can name: a lost reply
//! or a crash for a delivery that was repeated, a scar of the disk for a record that is gone.

mod asked;
mod attempts;
mod edge;
mod flows;
mod judged;
mod shaped;
mod sources;

pub use sources::Rest;

use super::client::Sent;
use super::hop::{At, Mood, Received, Refusal};
use super::scenario::{Scenario, Way};
use super::world::{Found, Machine, World};
use super::zone::Records;
use crate::limits;
use crate::message::MessageId;
use crate::rt::sim::{Scar, SimDisk};
use crate::spool::named::named_in;
use crate::time::{Moment, Now, Wall};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: &'static str,
    /// What happened.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.text)
    }
}

/// An outcome is on stable storage so long after it was known, if disk and cores are well.
const SETTLE_TIME: Duration = Duration::from_secs(3);

/// Connections to one host in a minute that were ready for mail and carried none: more is a storm.
const IN_VAIN: usize = 30;

/// Faults of the disk that are not farther apart may be one row of failures to a log.
const ROW_TIME: Duration = Duration::from_secs(70);

/// See the module.
pub struct Oracle<'a> {
    scenario: &'a Scenario,
    records: Records,
    /// What was violated so far.
    pub violations: Vec<Violation>,
    /// When the wall clock was set: ages mean nothing over these.
    pub wall_jumps: Vec<Moment>,
    /// From when until when something stood still.
    stalls: Vec<(Moment, Moment)>,
    /// Ends of lives that were not asked for, and what a shard had not been told of yet.
    crashes: Vec<Moment>,
    /// All ends of lives.
    ends: Vec<Moment>,
    disk_troubles: Vec<Moment>,
    /// Messages that a scar of the disk may have cost.
    excused: BTreeSet<MessageId>,
    /// A segment's first commit is scarred: what else that may have cost only the relay knew. Everything is excused.
    headless: bool,
    /// Hosts that were not well, or not reached well, at some time.
    troubled: BTreeSet<IpAddr>,
    /// Hosts to which the way was longer at some time.
    delayed: BTreeSet<IpAddr>,
    /// Any host may have seemed to be out of reach at some time.
    any_troubled: bool,
    /// Hosts that announced a SIZE or no 8BITMIME at some time.
    small: BTreeSet<IpAddr>,
    /// Acknowledged messages.
    pub accepted: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Sources that were told to rest.
    pub rests: Vec<Rest>,
    /// Recipients reported as failed.
    pub bounced: u64,
    /// Repeated deliveries.
    pub duplicates: u64,
    /// See `excused`.
    pub excused_recipients: u64,
}

/// The account of one run, put together from what the other machines saw.
struct Account<'a> {
    copies: BTreeMap<(u32, String), Vec<(IpAddr, &'a Received)>>,
    /// Notifications of failure, by the id of the original and the recipient in lower case.
    notes: BTreeMap<(String, String), Vec<&'a Received>>,
    /// Those of anything else, each with its word for it.
    tidings: BTreeMap<(String, String), Vec<(String, &'a Received)>>,
    refusals: BTreeMap<String, Vec<(IpAddr, &'a Refusal)>>,
}

impl<'a> Account<'a> {
    fn of(world: &'a World) -> Self {
        let mut account = Account {
            copies: BTreeMap::new(),
            notes: BTreeMap::new(),
            tidings: BTreeMap::new(),
            refusals: BTreeMap::new(),
        };
        for (ip, hop) in world.hops() {
            for received in &hop.received {
                if received.is_dsn() {
                    let text = String::from_utf8_lossy(&received.data);
                    let original = text.lines().find_map(|line| line.strip_prefix("X-Ringpost-Id: "));
                    let original = original.unwrap_or_default().trim().to_owned();
                    let mut about = String::new();
                    for line in text.lines() {
                        if let Some(whom) = line.strip_prefix("Final-Recipient: rfc822;") {
                            about = whom.trim().to_ascii_lowercase();
                        }
                        let key = || (original.clone(), about.clone());
                        match line.strip_prefix("Action: ") {
                            Some("failed") => account.notes.entry(key()).or_default().push(received),
                            Some(word) => {
                                account.tidings.entry(key()).or_default().push((word.to_owned(), received));
                            }
                            None => {}
                        }
                    }
                } else if let Some(mark) = received.mark {
                    for to in &received.recipients {
                        account.copies.entry((mark, to.to_ascii_lowercase())).or_default().push((ip, received));
                    }
                }
            }
            for refusal in &hop.refusals {
                let whom = refusal.recipient.as_deref().unwrap_or_default().to_ascii_lowercase();
                account.refusals.entry(whom).or_default().push((ip, refusal));
            }
        }
        account.copies.values_mut().for_each(|copies| copies.sort_by_key(|(_, received)| received.at));
        account.notes.values_mut().for_each(|notes| notes.sort_by_key(|received| received.at));
        account
    }

    fn notes(&self, id: &str, to: &str) -> &[&'a Received] {
        self.notes.get(&(id.to_owned(), to.to_owned())).map_or(&[], Vec::as_slice)
    }
}

fn domain_of(address: &str) -> String {
    address.rsplit('@').next().unwrap_or_default().to_ascii_lowercase()
}

impl<'a> Oracle<'a> {
    /// For a run of `scenario` whose DNS has `records`.
    pub fn new(scenario: &'a Scenario, records: Records) -> Self {
        Oracle {
            scenario,
            records,
            violations: Vec::new(),
            wall_jumps: Vec::new(),
            stalls: Vec::new(),
            crashes: Vec::new(),
            ends: Vec::new(),
            disk_troubles: Vec::new(),
            excused: BTreeSet::new(),
            headless: false,
            troubled: BTreeSet::new(),
            delayed: BTreeSet::new(),
            any_troubled: false,
            small: BTreeSet::new(),
            accepted: 0,
            delivered: 0,
            bounced: 0,
            rests: Vec::new(),
            duplicates: 0,
            excused_recipients: 0,
        }
    }

    /// Notes a violation; the first few are enough.
    pub fn violate(&mut self, rule: &'static str, text: String) {
        if self.violations.len() < 8 {
            self.violations.push(Violation { rule, text });
        }
    }

    /// A hop's mood changes.
    pub fn mood(&mut self, hop: IpAddr, mood: &Mood) {
        if *mood != Mood::default() {
            self.troubled.insert(hop);
        }
        // Without EHLO there is no 8BITMIME.
        if mood.size.is_some() || !mood.eight_bit || mood.old || mood.acts.iter().any(|(at, _, _)| *at == At::Ehlo) {
            self.small.insert(hop);
        }
    }

    /// The way to a hop has trouble.
    pub fn trouble_at(&mut self, hop: IpAddr) {
        self.troubled.insert(hop);
    }

    /// The way to a hop is longer, now more, now less.
    pub fn delay_at(&mut self, hop: IpAddr) {
        self.delayed.insert(hop);
    }

    /// What is not a hop's, and keeps the relay from hops: DNS, its own sockets, its time.
    pub fn trouble(&mut self) {
        self.any_troubled = true;
    }

    /// The disk has trouble from now on.
    pub fn disk_trouble(&mut self, now: Moment) {
        self.disk_troubles.push(now);
    }

    /// The disk or a core stands still.
    pub fn stalled(&mut self, from: Moment, until: Moment) {
        self.stalls.push((from, until));
    }

    /// Nothing is known to stand still from then on.
    pub fn stalled_until(&self) -> Moment {
        self.stalls.iter().map(|(_, until)| *until).max().unwrap_or(Moment(0))
    }

    /// When an outcome is durable that was known at `known`, at the latest: what stands still or fails in between delays it.
    fn durable_by(&self, world: &World, known: Moment) -> Moment {
        let mut troubles = self.stalls.clone();
        let mut row = 0;
        let mut last = Moment(0);
        for &at in world.sim.core.disk_faults() {
            row = if at.since(last) > ROW_TIME { 0 } else { row + 1 };
            last = at;
            // The log's pause doubles from a second, the second failure in a row being the first that it pauses for.
            let pause = limits::SPOOL_RETRY.saturating_mul(1 << row.min(6)).min(limits::SPOOL_RETRY_MAX);
            // An outcome stands behind the notification of it, which has a pause of its own.
            troubles.push((at, at + if self.scenario.edge { pause.max(limits::BOUNCE_RETRY) } else { pause }));
        }
        troubles.sort_unstable();
        let mut by = known + SETTLE_TIME;
        for (from, until) in troubles {
            if from <= by {
                by = by.max(until + SETTLE_TIME);
            }
        }
        by
    }

    /// The process ends without being asked.
    pub fn crashed(&mut self, world: &World) {
        self.crashes.push(world.sim.now().mono);
        self.ends.push(world.sim.now().mono);
        self.scars(&world.sim.core.disk);
    }

    /// The process ended as asked; `in_time`: it had the time to end all that was under way.
    pub fn drained(&mut self, world: &World, in_time: bool) {
        self.scars(&world.sim.core.disk);
        for shard in 0..world.stats.len() {
            let open = world.sim.core.open_sockets(shard);
            if open > 0 {
                self.violate("descriptors", format!("shard {shard} ended with {open} sockets open"));
            }
        }
        let now = world.sim.now().mono;
        self.ends.push(now);
        // A log that fails is waited for as long as the drain may last; what it could not write may be repeated.
        let failing = world.sim.core.disk_faults().last().is_some_and(|at| self.durable_by(world, *at) >= now);
        if !in_time || failing {
            self.crashes.push(now);
        }
    }

    /// Notes which messages the disk's scars concern.
    pub fn scars(&mut self, disk: &SimDisk) {
        for Scar { range, contents, .. } in disk.take_scars() {
            // With a segment's header all is lost that is written behind it, and moved there by compaction.
            self.headless |= range.start == 0;
            self.excused.extend(named_in(&contents, range));
        }
    }

    // --- after a start --------------------------------------------------------------------------------------------

    /// Every acknowledged recipient is delivered, returned, or was found.
    pub fn check_recovery(&mut self, world: &World, found: &Found) {
        // A file whose first commit was torn is no segment, and a commit whose sync failed may be there at one start and gone
        // at the next: recovery cannot know better.
        let alarm = world.damage.iter().find(|damage| !damage.contains("is no segment"));
        if let (false, true, Some(damage)) = (self.scenario.has_scars, self.disk_troubles.is_empty(), alarm) {
            self.violate("false alarm", format!("the disk kept all that it confirmed, and recovery said: {damage}"));
        }
        let account = Account::of(world);
        let mut lost = Vec::new();
        for sent in world.clients().flat_map(|client| &client.sent) {
            let Some(id) = sent.accepted() else { continue };
            let Ok(number) = id.parse::<MessageId>() else { continue };
            let pending = found.get(&number);
            for to in &sent.taken {
                if pending.is_some_and(|pending| pending.contains(to)) {
                    continue;
                }
                let key = (sent.letter.mark, to.to_ascii_lowercase());
                let ended = self.scenario.way(&domain_of(to)) == Some(Way::Discard)
                    || account.copies.contains_key(&key)
                    || !account.notes(id, &key.1).is_empty()
                    || self.failed_for_good(world.sim.now(), &account, sent, &key.1).is_some();
                if !ended && !self.excuse(number) {
                    lost.push(format!("#{} {id} to {to}", key.0));
                }
            }
        }
        for what in lost {
            let said = world.damage.join("; ");
            let text = format!("{what} was acknowledged and is not in the spool after a restart; damage: [{said}]");
            self.violate("durability", text);
        }
    }

    /// Whether a scar of the disk concerns this message.
    pub fn is_excused(&self, id: MessageId) -> bool {
        self.headless || self.excused.contains(&id)
    }

    fn excuse(&mut self, id: MessageId) -> bool {
        let excused = self.is_excused(id);
        self.excused_recipients += u64::from(excused);
        excused
    }

    /// Whether there is a reason why this recipient cannot be reached, or not in the way that was asked for.
    fn failed_for_good(&self, at: Now, account: &Account<'_>, sent: &Sent, to: &str) -> Option<&'static str> {
        self.out_of_reach(at, account, sent, to).or_else(|| self.asked_too_much(sent, to, at))
    }

    /// Whether there is a reason why nothing reaches this address.
    fn out_of_reach(&self, at: Now, account: &Account<'_>, sent: &Sent, to: &str) -> Option<&'static str> {
        let domain = domain_of(to);
        let hosts = self.scenario.exchangers(&domain);
        let (_, since, wall) = sent.verdict.as_ref()?;
        let by_dns = !self.scenario.smart_host && self.scenario.way(&domain) != Some(Way::Smart);
        if by_dns && (hosts.is_empty() || !self.records.refusals(&domain).is_empty()) {
            return Some("DNS says so, or a route");
        }
        let refused = |whom: &str| {
            let refusals = account.refusals.get(whom).into_iter().flatten();
            refusals.into_iter().any(|(ip, refusal)| {
                // A second of patience: the message travels while its acknowledgement does.
                let late = refusal.at + Duration::from_secs(1) >= *since;
                hosts.contains(ip) && late && self.is_final(*ip, refusal)
            })
        };
        if refused(to) || refused("") {
            return Some("refused");
        }
        if hosts.iter().any(|host| self.small.contains(host)) {
            return Some("too large, or eight bits");
        }
        if self.may_expire(*since, *wall, at) {
            return Some("expired");
        }
        None
    }

    /// Whether mail accepted at `since` may be given up at `at`. Within one life the wall clock means nothing to its age.
    fn may_expire(&self, since: Moment, wall: Wall, at: Now) -> bool {
        let (_, max, give_up) = self.scenario.retry;
        let max = max.max(self.scenario.first_of_provider.unwrap_or_default());
        let restarted = self.ends.iter().any(|end| *end >= since && *end <= at.mono);
        let age = if restarted { at.wall.since(wall) } else { at.mono.since(since) };
        // An attempt is not begun for mail that would be too old at the next.
        !self.wall_jumps.is_empty() && restarted || age + max * 2 >= give_up
    }

    // --- at the end -----------------------------------------------------------------------------------------------

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

/// The number under which the relay took it, from our Received header.
fn id_of(copy: &Received) -> Option<MessageId> {
    let with = memchr::memmem::find(&copy.data, b" with ")?;
    let at = with + memchr::memmem::find(&copy.data[with..], b" id ")? + 4;
    std::str::from_utf8(copy.data.get(at..at + 13)?).ok()?.parse().ok()
}

/// Whether the relay was told that `copy` was taken.
fn is_known(world: &World, copy: &Received) -> bool {
    copy.told.is_some_and(|told| world.sim.core.handed(copy.link) >= told)
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
