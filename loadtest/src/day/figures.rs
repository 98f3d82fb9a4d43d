//! PURE. The figures of a day, out of the account of its letters: by hour, by site, by tenant, by what went wrong.
//!
//! Inputs: the [`Day`]s of all gateways. Output: [`Figures`], which the pages only have to write down.

use hdrhistogram::Histogram;
use ringpost::sim::day::Day;
use ringpost::sim::day::book::{Letter, SLOT, Slot, State, Why};
use ringpost::sim::day::town::{Outage, Plan, SITES, TENANTS, Trouble};
use std::collections::BTreeMap;
use std::time::Duration;

const SLOT_MS: u32 = SLOT.as_millis() as u32;
/// The longest delay told apart.
const DELAY_MAX_MS: u64 = 10 * 86_400_000;
/// Letters told of one by one.
const WORST: usize = 8;

/// Delays, milliseconds, to three digits.
#[derive(Clone)]
pub(super) struct Delays(Histogram<u32>);

impl Delays {
    fn new() -> Delays {
        Delays(Histogram::new_with_bounds(1, DELAY_MAX_MS, 3).expect("the bounds are taken"))
    }

    fn add(&mut self, ms: u32) {
        self.0.saturating_record(u64::from(ms.max(1)));
    }

    pub(super) fn at(&self, quantile: f64) -> Duration {
        Duration::from_millis(if self.0.is_empty() { 0 } else { self.0.value_at_quantile(quantile) })
    }
}

/// An hour of the day.
pub(super) struct Hour {
    pub(super) slot: Slot,
    /// Of letters that were accepted in it.
    pub(super) delays: Delays,
}

/// Who receives.
pub(super) struct Site {
    pub(super) name: String,
    pub(super) letters: u64,
    pub(super) delivered: u64,
    pub(super) deferrals: u64,
    pub(super) kept: u64,
    pub(super) delays: Delays,
    /// What it allows each gateway, in words.
    pub(super) limit: String,
    /// The most of what it allows that was used: for rates in five minutes, for connections at a moment.
    pub(super) used_most: Option<f64>,
    /// What was used on average while more waited than fits.
    pub(super) used_full: Option<f64>,
    pub(super) refused: u64,
}

/// Who sends.
pub(super) struct Sender {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    pub(super) letters: u64,
    pub(super) returned: u64,
    pub(super) kept: u64,
    pub(super) delays: Delays,
    /// Of letters accepted while the campaign ran.
    pub(super) rush: Delays,
}

/// A time at which something was wrong.
pub(super) struct Band {
    pub(super) label: String,
    pub(super) from: Duration,
    pub(super) until: Duration,
    /// When the last of what had waited was delivered.
    pub(super) drained: Option<Duration>,
    pub(super) story: String,
}

/// A letter that had to wait.
pub(super) struct Worst {
    pub(super) letter: Letter,
    pub(super) site: String,
}

/// See the module.
pub(super) struct Figures {
    pub(super) plan: Plan,
    pub(super) wall: f64,
    pub(super) cpu: f64,
    pub(super) slots: Vec<Slot>,
    pub(super) hours: Vec<Hour>,
    pub(super) sites: Vec<Site>,
    pub(super) senders: Vec<Sender>,
    pub(super) bands: Vec<Band>,
    pub(super) worst: Vec<Worst>,
    pub(super) delays: Delays,
    pub(super) accepted: u64,
    pub(super) delivered: u64,
    pub(super) returned: u64,
    pub(super) kept: u64,
    /// Why those wait that were kept.
    pub(super) kept_why: Vec<(Why, u64)>,
    pub(super) deferred: Vec<(Why, u64)>,
    pub(super) put_off: u64,
    pub(super) repeated: u64,
    pub(super) violations: Vec<String>,
    pub(super) violated: u64,
    pub(super) relay: BTreeMap<String, u64>,
    pub(super) turns: u64,
    pub(super) hash: u64,
}

/// What happened at a site of one gateway in each slot.
#[derive(Clone, Copy, Default)]
struct Flow {
    came: u32,
    went: u32,
    left: u32,
}

impl Figures {
    /// Of all gateways, which took so many seconds by the clock on the wall and so many of processors.
    pub(super) fn new(days: &[Day], wall: f64, cpu: f64) -> Figures {
        let plan = days[0].plan;
        let count = days.iter().map(|day| day.pages.slots.len()).max().unwrap_or(0);
        let mut slots = vec![Slot::default(); count];
        for (into, of) in days.iter().flat_map(|day| slots_of(day, count)) {
            let slot = &mut slots[into];
            slot.accepted += of.accepted;
            slot.delivered += of.delivered;
            slot.deferred += of.deferred;
            slot.returned += of.returned;
            slot.queued += of.queued;
        }
        let sum = |of: fn(&Day) -> u64| days.iter().map(of).sum::<u64>();
        let mut relay = BTreeMap::new();
        for (name, n) in days.iter().flat_map(|day| &day.relay) {
            *relay.entry(name.clone()).or_default() += n;
        }
        let mut figures = Figures {
            plan,
            wall,
            cpu,
            hours: hours(&slots),
            slots,
            sites: days[0].sites.iter().map(site).collect(),
            senders: senders(),
            bands: Vec::new(),
            worst: Vec::new(),
            delays: Delays::new(),
            accepted: sum(|day| day.pages.accepted),
            delivered: sum(|day| day.pages.delivered),
            returned: sum(|day| day.pages.returned),
            kept: sum(|day| day.kept),
            kept_why: Vec::new(),
            deferred: Why::ALL
                .iter()
                .map(|why| (*why, days.iter().map(|day| day.pages.deferred[*why as usize]).sum()))
                .filter(|(_, n)| *n > 0)
                .collect(),
            put_off: sum(|day| day.pages.put_off),
            repeated: sum(|day| day.pages.repeated),
            violations: days.iter().flat_map(|day| day.pages.violations.clone()).collect(),
            violated: sum(|day| day.pages.violated),
            relay,
            turns: sum(|day| day.turns),
            hash: days.iter().fold(0, |hash: u64, day| hash.rotate_left(1) ^ day.hash),
        };
        let mut kept_why: BTreeMap<Why, u64> = BTreeMap::new();
        let mut worst: Vec<Letter> = Vec::new();
        for day in days {
            let mut flows = vec![Flow::default(); SITES * count];
            for letter in &day.pages.letters {
                figures.count(letter, &mut flows);
                match letter.state {
                    State::Queued => *kept_why.entry(letter.why).or_default() += 1,
                    State::Delivered => keep_worst(&mut worst, letter),
                    State::New | State::Returned => {}
                }
            }
            figures.utilise(day, &flows);
        }
        figures.kept_why = kept_why.into_iter().collect();
        figures.kept_why.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        figures.deferred.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let name = |letter: &Letter| figures.sites[usize::from(letter.site)].name.clone();
        figures.worst = worst.iter().map(|letter| Worst { letter: *letter, site: name(letter) }).collect();
        figures.bands = days[0].outages.iter().map(|outage| band(outage, days, &figures.sites)).collect();
        figures
    }

    fn count(&mut self, letter: &Letter, flows: &mut [Flow]) {
        if letter.state == State::New {
            return;
        }
        let count = self.slots.len();
        let site = &mut self.sites[usize::from(letter.site)];
        let sender = &mut self.senders[usize::from(letter.tenant)];
        let flow = |ms: u32| usize::from(letter.site) * count + ((ms / SLOT_MS) as usize).min(count - 1);
        site.letters += 1;
        site.deferrals += u64::from(letter.deferrals);
        sender.letters += 1;
        flows[flow(letter.accepted)].came += 1;
        let delay = letter.ended.saturating_sub(letter.accepted);
        match letter.state {
            State::Delivered => {
                site.delivered += 1;
                site.delays.add(delay);
                sender.delays.add(delay);
                self.delays.add(delay);
                let hour = letter.accepted / (SLOT_MS * 12);
                if let Some(hour) = self.hours.get_mut(hour as usize) {
                    hour.delays.add(delay);
                }
                let at = Duration::from_millis(u64::from(letter.accepted));
                if (self.plan.hour(9.0)..self.plan.hour(11.5)).contains(&at) {
                    sender.rush.add(delay);
                }
                let flow = &mut flows[flow(letter.ended)];
                flow.went += 1;
                flow.left += 1;
            }
            State::Returned => {
                sender.returned += 1;
                flows[flow(letter.ended)].left += 1;
            }
            _ => {
                site.kept += 1;
                sender.kept += 1;
            }
        }
    }

    /// How far the limits of sites were used at one gateway.
    fn utilise(&mut self, day: &Day, flows: &[Flow]) {
        let count = self.slots.len();
        for (n, of) in day.sites.iter().enumerate() {
            let site = &mut self.sites[n];
            site.refused += of.refused_connections + of.refused_messages;
            let mut most: Option<f64> = of.connections.map(|allowed| f64::from(of.peak) / f64::from(allowed));
            if let Some((_, in_a_slot)) = &of.rate {
                let (mut queued, mut full, mut used, mut peak) = (0_u64, 0_u32, 0.0, 0_f64);
                for flow in &flows[n * count..(n + 1) * count] {
                    let before = queued;
                    queued = (queued + u64::from(flow.came)).saturating_sub(u64::from(flow.left));
                    let part = f64::from(flow.went) / in_a_slot;
                    peak = peak.max(part);
                    if before.min(queued) as f64 > *in_a_slot / 2.0 {
                        (full, used) = (full + 1, used + part);
                    }
                }
                most = Some(peak);
                if full >= 2 {
                    let used = used / f64::from(full);
                    site.used_full = Some(site.used_full.map_or(used, |other| other.min(used)));
                }
            }
            site.used_most = most.map(|most| site.used_most.map_or(most, |other| other.max(most)));
        }
    }
}

fn slots_of(day: &Day, count: usize) -> Vec<(usize, Slot)> {
    day.pages.slots.iter().copied().enumerate().filter(|(n, _)| *n < count).collect()
}

fn hours(slots: &[Slot]) -> Vec<Hour> {
    let sum = |hour: &[Slot]| {
        let mut all = Slot::default();
        for slot in hour {
            all.accepted += slot.accepted;
            all.delivered += slot.delivered;
            all.deferred += slot.deferred;
            all.returned += slot.returned;
            all.queued = slot.queued;
        }
        Hour { slot: all, delays: Delays::new() }
    };
    slots.chunks(12).filter(|hour| hour.len() == 12).map(sum).collect()
}

fn site(of: &ringpost::sim::day::SiteDay) -> Site {
    let mut limit = Vec::new();
    limit.extend(of.connections.map(|most| format!("{most} connections")));
    limit.extend(of.rate.as_ref().map(|(rate, _)| rate.clone()));
    let known = if of.is_known || limit.is_empty() { "" } else { ", no rule" };
    Site {
        name: of.name.clone(),
        letters: 0,
        delivered: 0,
        deferrals: 0,
        kept: 0,
        delays: Delays::new(),
        limit: limit.join(", ") + known,
        used_most: None,
        used_full: None,
        refused: 0,
    }
}

fn senders() -> Vec<Sender> {
    let sender = |tenant: &ringpost::sim::day::town::Tenant| Sender {
        name: tenant.name,
        what: tenant.what,
        letters: 0,
        returned: 0,
        kept: 0,
        delays: Delays::new(),
        rush: Delays::new(),
    };
    TENANTS.iter().map(sender).collect()
}

fn keep_worst(worst: &mut Vec<Letter>, letter: &Letter) {
    let delay = |letter: &Letter| letter.ended.saturating_sub(letter.accepted);
    let least = worst.last().map_or(0, delay);
    if worst.len() < WORST || delay(letter) > least {
        let at = worst.partition_point(|other| delay(other) >= delay(letter));
        worst.insert(at, *letter);
        worst.truncate(WORST);
    }
}

/// What an outage did: whose letters waited, and until when.
fn band(outage: &Outage, days: &[Day], sites: &[Site]) -> Band {
    let ms = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let (from, until) = (ms(outage.from), ms(outage.until));
    let mut ends: Vec<u32> = Vec::new();
    let mut left = 0_u64;
    for letter in days.iter().flat_map(|day| &day.pages.letters) {
        let here = outage.site.is_none_or(|site| site == letter.site) && letter.state != State::New;
        let other = matches!(letter.why, Why::Greylisted | Why::Full | Why::Rate | Why::Connections);
        // In the outage nothing goes, or little; what it kept is what came before its end and went behind its beginning, late.
        let late = letter.ended.saturating_sub(letter.accepted) > 20_000;
        let waited = letter.accepted < until && (letter.ended > from && late || letter.state == State::Queued);
        let by_it = match outage.trouble {
            // What waits for DNS is not tried: nothing puts it off.
            Trouble::Dns => {
                let limited = days[0].sites[usize::from(letter.site)].rate.is_some();
                letter.accepted >= from && matches!(letter.why, Why::Turn | Why::Dns) && !limited
            }
            Trouble::Crash => letter.accepted < from,
            _ => !other,
        };
        if !here || !waited || !by_it || letter.state == State::Returned {
            continue;
        }
        match letter.state {
            State::Delivered => ends.push(letter.ended),
            _ => left += 1,
        }
    }
    ends.sort_unstable();
    let at = |part: f64| ends.get((((ends.len() as f64) * part) as usize).min(ends.len().saturating_sub(1)));
    let clock = |ms: Option<&u32>| ms.map_or("-".to_owned(), |ms| super::hour(Duration::from_millis(u64::from(*ms))));
    let who = outage.site.map_or("", |site| sites[usize::from(site)].name.as_str());
    let (begin, end) = (super::hour(outage.from), super::hour(outage.until));
    let waited = super::thousands(ends.len() as u64 + left);
    let drained = at(1.0).copied();
    let tail = match (ends.is_empty(), left) {
        (true, 0) => "no message waited for it".to_owned(),
        (_, left) => {
            let left =
                if left > 0 { format!("; {} still wait at midnight", super::thousands(left)) } else { String::new() };
            format!(
                "{waited} messages waited; half of them were delivered by {}, 99 % by {}, the last at {}{left}",
                clock(at(0.5)),
                clock(at(0.99)),
                clock(drained.as_ref())
            )
        }
    };
    let (label, story) = match outage.trouble {
        Trouble::Unreachable => (format!("{who} unreachable"), format!("{who} was unreachable {begin}-{end}: {tail}.")),
        Trouble::Closed => (format!("{who} says 421"), format!("{who} said 421 to everybody {begin}-{end}: {tail}.")),
        Trouble::Slow => {
            (format!("{who} slow"), format!("{who} took four seconds for each reply {begin}-{end}: {tail}."))
        }
        Trouble::Dns => (
            "DNS fails".to_owned(),
            format!(
                "DNS answered SERVFAIL {begin}-{end}; known routes went on from the cache. Of what had no route, {tail}."
            ),
        ),
        Trouble::Crash => {
            let found = super::thousands(days.iter().map(|day| day.found).sum());
            let repeated = super::thousands(days.iter().map(|day| day.pages.repeated).sum());
            (
                "killed".to_owned(),
                format!(
                    "The relay was killed at {begin} and started again at {end}: recovery found {found} messages, all that were \
                     acknowledged and not delivered; {repeated} deliveries of the day were repeated because of it."
                ),
            )
        }
    };
    let drained = drained.map(|ms| Duration::from_millis(u64::from(ms))).filter(|_| outage.trouble != Trouble::Crash);
    Band { label, from: outage.from, until: outage.until, drained, story }
}
