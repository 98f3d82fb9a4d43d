//! PURE. The world of a day's mail: providers with their hosts, limits and habits, domains by Zipf's law, who sends when, and
//! what goes wrong at which hour.
//!
//! Input: a [`Plan`]. Output: a [`Town`], the same for the same plan.

use crate::rt::sim::Rng;
use crate::rt::sim::rng::mix;
use crate::shaping::Rate;
use std::net::Ipv4Addr;
use std::time::Duration;

/// What is to be simulated.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Of every choice.
    pub seed: u64,
    /// Letters, of all gateways together.
    pub messages: u64,
    /// Virtual hours; what happens at an hour of the day happens at that part of them.
    pub hours: u32,
    /// Recipients' domains.
    pub domains: u32,
    /// Zipf's exponent over them.
    pub zipf: f64,
    /// Shards of a gateway.
    pub shards: u16,
    /// Gateways, each a relay of its own in a world of its own, with its part of the letters.
    pub gateways: u16,
    /// Which of them.
    pub gateway: u16,
}

/// Domains that are providers, the first ones by Zipf's law.
pub const PROVIDERS: usize = 30;
/// The sites behind them: domains with a host of their own, by habit.
pub const OWN: u16 = PROVIDERS as u16;
/// Of those, the ones that greylist.
pub const GREYLISTING: u16 = OWN + 1;
/// And those whose host never answers.
pub const DEAD: u16 = OWN + 2;
/// Domains that do not exist.
pub const NOWHERE: u16 = OWN + 3;
/// How many sites there are in all.
pub const SITES: usize = PROVIDERS + 4;

/// Who sends.
#[derive(Clone, Copy, Debug)]
pub struct Tenant {
    /// The name of its account, and of its domain below `.test`.
    pub name: &'static str,
    /// What it sends.
    pub what: &'static str,
    /// Its part of all letters, in a hundred.
    pub percent: f64,
    /// Sessions that it sends over.
    pub sessions: usize,
    /// How much at an hour of the day, beside other hours.
    pub curve: fn(f64) -> f64,
    /// It uses DATA; else BDAT.
    pub by_data: bool,
}

fn bump(hour: f64, at: f64, width: f64) -> f64 {
    (-((hour - at) / width).powi(2)).exp()
}

/// A day at work: a morning peak, a smaller one behind lunch.
fn office(hour: f64) -> f64 {
    0.08 + bump(hour, 9.7, 1.7) + 0.75 * bump(hour, 14.6, 2.2)
}

/// Evenings.
fn leisure(hour: f64) -> f64 {
    0.15 + 0.5 * bump(hour, 12.5, 2.0) + bump(hour, 20.5, 2.5)
}

/// All day, less at night.
fn shop(hour: f64) -> f64 {
    0.25 + bump(hour, 11.0, 3.5) + 0.9 * bump(hour, 19.5, 3.0)
}

/// A campaign: from nine o'clock for two hours and a half.
fn campaign(hour: f64) -> f64 {
    if (9.0..11.5).contains(&hour) { 1.0 } else { 0.0 }
}

/// Statements, written at night.
fn night(hour: f64) -> f64 {
    if (1.5..4.0).contains(&hour) { 1.0 } else { 0.02 }
}

/// Always the same.
fn steady(_: f64) -> f64 {
    1.0
}

/// Everybody who sends.
pub const TENANTS: [Tenant; 7] = [
    Tenant { name: "shop", what: "orders", percent: 19.0, sessions: 8, curve: shop, by_data: true },
    Tenant { name: "news", what: "one campaign", percent: 35.0, sessions: 24, curve: campaign, by_data: false },
    Tenant { name: "social", what: "notifications", percent: 22.0, sessions: 8, curve: leisure, by_data: false },
    Tenant { name: "bank", what: "statements", percent: 10.0, sessions: 8, curve: night, by_data: true },
    Tenant { name: "office", what: "people's mail", percent: 12.0, sessions: 8, curve: office, by_data: true },
    Tenant { name: "alarm", what: "monitoring", percent: 1.5, sessions: 2, curve: steady, by_data: false },
    Tenant { name: "club", what: "a small list", percent: 0.5, sessions: 1, curve: office, by_data: true },
];

/// What is wrong for a while.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// Nothing answers at the provider's hosts.
    Unreachable,
    /// They say 421 to everybody.
    Closed,
    /// Each of their replies takes seconds.
    Slow,
    /// DNS servers answer SERVFAIL.
    Dns,
    /// The relay is killed, and is down for so long.
    Crash,
}

/// From when until when something is wrong, hours of the day.
#[derive(Clone, Copy, Debug)]
pub struct Outage {
    /// What.
    pub trouble: Trouble,
    /// With which provider, if with one.
    pub site: Option<u16>,
    /// From, since midnight.
    pub from: Duration,
    /// Until.
    pub until: Duration,
}

/// A provider's limits, for each of the relay's addresses.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// Connections at a time.
    pub connections: Option<u32>,
    /// Messages in a time.
    pub rate: Option<Rate>,
    /// The relay has a rule for it; else it has to find out.
    pub is_known: bool,
}

/// Where a site's mail goes, and how it is taken.
#[derive(Clone, Debug)]
pub struct Place {
    /// In words.
    pub name: String,
    /// One way to it, microseconds.
    pub latency_us: u64,
    /// What it takes.
    pub allowed: Allowed,
    /// It takes BDAT.
    pub chunking: bool,
}

/// A recipients' domain.
#[derive(Clone, Debug)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub site: u16,
    /// The host it has of its own.
    pub host: Option<Ipv4Addr>,
}

/// See the module.
pub struct Town {
    /// The plan.
    pub plan: Plan,
    /// By the numbers of sites.
    pub places: Vec<Place>,
    /// Most popular first.
    pub domains: Vec<Domain>,
    /// Sums of their weights, the last one 1.
    cumulated: Vec<f64>,
    /// In the order of their beginning.
    pub outages: Vec<Outage>,
}

impl Plan {
    /// So much of the day, as virtual time.
    pub fn hour(&self, hour: f64) -> Duration {
        Duration::from_secs_f64(hour * 3600.0 * f64::from(self.hours) / 24.0)
    }

    /// The whole.
    pub fn length(&self) -> Duration {
        self.hour(24.0)
    }

    /// Letters of this gateway.
    pub fn own_messages(&self) -> u64 {
        self.messages / u64::from(self.gateways.max(1))
    }

    /// Letters a second, if all came evenly.
    fn mean_rate(&self) -> f64 {
        self.own_messages() as f64 / self.length().as_secs_f64()
    }
}

/// The hosts of provider number `n`.
pub fn hosts_of(n: usize) -> Vec<Ipv4Addr> {
    let count = if n < 5 { 3 } else { 1 + n % 2 };
    (0..count).map(|host| Ipv4Addr::new(10, 1, n as u8, 1 + host as u8)).collect()
}

impl Town {
    /// The town of `plan`.
    pub fn new(plan: Plan) -> Town {
        let rng = &mut Rng::new(mix(plan.seed ^ 0x64_61_79));
        let weights: Vec<f64> = (1..=plan.domains).map(|rank| f64::from(rank).powf(-plan.zipf)).collect();
        let total: f64 = weights.iter().sum();
        let mut domains = Vec::new();
        let mut part = vec![0.0; SITES];
        for (n, weight) in weights.iter().enumerate() {
            let (site, host) = match (n, rng.below(1000)) {
                (0..PROVIDERS, _) => (n as u16, None),
                // Hosted by one of them, the larger ones more often.
                (_, 0..550) => {
                    ((rng.below(PROVIDERS as u64) * rng.below(PROVIDERS as u64) / PROVIDERS as u64) as u16, None)
                }
                (_, 550..553) => (NOWHERE, None),
                (_, draw) => {
                    let host = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 1)) + n as u32);
                    let site = match draw {
                        553..556 => DEAD,
                        556..700 => GREYLISTING,
                        _ => OWN,
                    };
                    (site, Some(host))
                }
            };
            part[usize::from(site)] += weight / total;
            let name = if n < PROVIDERS { format!("p{n}.test") } else { format!("d{n}.test") };
            domains.push(Domain { name, site, host });
        }
        let mut sum = 0.0;
        let cumulated = weights.iter().map(|weight| {
            sum += weight / total;
            sum
        });
        let cumulated = cumulated.collect();
        let mut places: Vec<Place> = (0..PROVIDERS).map(|n| place(&plan, n, part[n])).collect();
        let others = ["own hosts", "own hosts that greylist", "own hosts that are dead", "no such domain"];
        places.extend(others.iter().map(|name| Place {
            name: (*name).to_owned(),
            latency_us: 30_000,
            allowed: Allowed::default(),
            chunking: false,
        }));
        Town { plan, places, domains, cumulated, outages: outages(&plan) }
    }

    /// A domain by its popularity.
    pub fn any_domain(&self, rng: &mut Rng) -> u32 {
        let at = rng.below(1 << 53) as f64 / (1_u64 << 53) as f64;
        let found = self.cumulated.partition_point(|sum| *sum < at);
        u32::try_from(found.min(self.domains.len() - 1)).expect("few domains")
    }

    /// The rules of the relay: what providers are known to take.
    pub fn rules(&self) -> String {
        let mut text = String::new();
        for (n, place) in self.places.iter().enumerate().take(PROVIDERS) {
            let Allowed { connections, rate, is_known: true } = place.allowed else { continue };
            text += &format!("[[provider]]\nname = \"p{n}\"\nmx = [\"*.p{n}.test\"]\n");
            if let Some(connections) = connections {
                text += &format!("connections = {connections}\n");
            }
            if let Some(rate) = rate {
                text += &format!("message_rate = \"{rate}\"\n");
            }
        }
        text
    }
}

/// How a provider is that gets so much of all mail.
fn place(plan: &Plan, n: usize, part: f64) -> Place {
    let mean = plan.mean_rate() * part;
    // Most take what comes on a usual day; some a little more than the mean, so that a campaign waits.
    let rate = |times: f64| {
        let in_a_minute = (mean * times * 60.0).ceil().max(6.0) as u32;
        Rate::new(in_a_minute, Duration::from_secs(60), (in_a_minute / 60).clamp(1, 50))
    };
    let allowed = match n {
        1 => Allowed { connections: Some(20), rate: rate(2.6), is_known: true },
        3 => Allowed { connections: Some(10), rate: rate(3.2), is_known: true },
        6 => Allowed { connections: Some(3), rate: None, is_known: true },
        8 => Allowed { connections: None, rate: rate(3.0), is_known: false },
        11 => Allowed { connections: Some(2), rate: None, is_known: false },
        _ => Allowed { connections: Some(20), rate: None, is_known: false },
    };
    Place {
        name: format!("provider {n}"),
        latency_us: [2000, 8000, 15_000, 40_000][n % 4],
        allowed,
        chunking: n % 3 != 2,
    }
}

fn outages(plan: &Plan) -> Vec<Outage> {
    let outage = |trouble, site, from, until| {
        let (from, until) = (plan.hour(from), plan.hour(until));
        Outage { trouble, site, from, until }
    };
    vec![
        outage(Trouble::Dns, None, 6.5, 7.0),
        outage(Trouble::Unreachable, Some(2), 10.0, 11.0),
        outage(Trouble::Slow, Some(5), 12.0, 13.5),
        outage(Trouble::Closed, Some(4), 14.0, 15.0),
        outage(Trouble::Crash, None, 16.3, 16.3 + 1.0 / 60.0),
        outage(Trouble::Unreachable, Some(7), 19.0, 19.5),
    ]
}
