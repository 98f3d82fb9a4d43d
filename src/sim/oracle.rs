//! What must hold of every run, and the judge of it.
//!
//! Inputs: the world between two events, at each start after a crash, and at the end. Output: [`Violation`]s. What it
//! knows, it knows from the clients and the next hops, not from the relay. It excuses only what it can name: a lost reply
//! or a crash for a delivery that was repeated, a scar of the disk for a record that is gone.

mod asked;
mod attempts;
mod edge;
mod end;
mod flows;
mod judged;
mod shaped;
mod sources;

pub use sources::Rest;

use super::client::Sent;
use super::hop::{At, Mood, Received, Refusal};
use super::scenario::{Scenario, Way};
use super::world::{Found, World};
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
