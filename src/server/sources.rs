//! What is known of source addresses: pools, warm-ups with what was sent, rests. For `ringpost sources` and the admin page.
//!
//! In: a configuration with its files of rules, and the files that a relay keeps in its spool's folder: what was sent is in them
//! before it is sent, and what rests a second later at the most. So it may be asked beside a running relay, and says the same after its end. Out: a
//! [`Status`]. Any thread that may block, never a shard's. It changes nothing.

use crate::config::Config;
use crate::config::sources::{Source, Sources, Warmup};
use crate::lease::{self, Resting, Taken};
use crate::rt::disk::StdDisk;
use crate::shaping::Limits;
use crate::shard::{QuotaFiles, RestFiles};
use crate::time::{Moment, Now, Wall};
use serde::Serialize;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

const DAY_MS: u64 = 86_400_000;
/// Each snapshot is written over in turn: a file that is being written is whole a moment later.
const TRIES: u32 = 5;
/// What is for eyes is short.
const SITES_SHOWN: usize = 40;

/// Everything, as of a moment.
#[derive(Debug, Serialize)]
pub struct Status {
    /// When it was asked (UTC, RFC 3339).
    pub at: String,
    /// In the order of the configuration.
    pub sources: Vec<OfSource>,
    /// What each of them keeps to at each site, by the rules.
    pub limits: Vec<AtSite>,
    /// Rests of whole sites and of tenants, and limits that are lower.
    pub sites: Vec<OfSite>,
    /// Files that cannot be used: what they say is missing above.
    pub problems: Vec<String>,
}

/// A source address.
#[derive(Debug, Serialize)]
pub struct OfSource {
    /// It.
    pub address: IpAddr,
    /// Its name in EHLO.
    pub ehlo_name: String,
    /// Its pools.
    pub pools: Vec<InPool>,
    /// What it may send while it is new.
    pub warmup: Option<OfWarmup>,
    /// Where it rests.
    pub rests: Vec<Rest>,
}

/// What a source keeps to at a site (`per_source` of the rules).
#[derive(Debug, Serialize)]
pub struct AtSite {
    /// The provider; nothing: each site that is no provider's, or whose provider has no word of its own.
    pub site: Option<String>,
    /// In words, as the rules have them.
    pub limits: String,
}

/// A source in a pool.
#[derive(Debug, Serialize)]
pub struct InPool {
    /// The pool's name.
    pub pool: String,
    /// The source's weight.
    pub weight: u32,
    /// Its part of the pool's connections to hosts of its family, in percent, if no source rests.
    pub percent: f64,
}

/// A warm-up.
#[derive(Debug, Serialize)]
pub struct OfWarmup {
    /// Its first day (UTC).
    pub started: String,
    /// Today, counted from 1; nothing before the first day, and behind the last one of the schedule.
    pub day: Option<usize>,
    /// Messages to each site today; nothing: as many as there are.
    pub allowed: Option<u32>,
    /// Messages to each site on the first day, the second, and so on.
    pub schedule: Vec<u32>,
    /// Where it has sent anything in the last 24 hours.
    pub sites: Vec<Warmed>,
}

/// What a source that is new has sent to a site.
#[derive(Debug, Serialize)]
pub struct Warmed {
    /// The site.
    pub site: String,
    /// Messages that were begun in the last 24 hours, or may be begun any moment.
    pub sent: u64,
    /// Of so many.
    pub allowed: Option<u32>,
    /// It has sent them all: when it may send again (UTC, RFC 3339).
    pub full_until: Option<String>,
}

/// A rest of a source at a site.
#[derive(Debug, Serialize)]
pub struct Rest {
    /// The site.
    pub site: String,
    /// Until then (UTC, RFC 3339).
    pub until: String,
    /// Why.
    pub why: String,
}

/// What replies have brought about for a site.
#[derive(Debug, Serialize)]
pub struct OfSite {
    /// The site.
    pub site: String,
    /// What, in words.
    pub what: String,
    /// Until then (UTC, RFC 3339).
    pub until: String,
    /// Why.
    pub why: String,
}

/// As the files say now.
///
/// # Errors
/// The spool's folder is there and cannot be read.
pub fn status(config: &Config) -> io::Result<Status> {
    let now = Now { mono: Moment(0), wall: super::wall() };
    let mut tries = 0;
    let mut status = loop {
        tries += 1;
        let status = read(config, now)?;
        if status.problems.is_empty() || tries == TRIES {
            break status;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if !config.sources.list.is_empty() {
        match super::shaping(config) {
            Ok(rules) => {
                let all = rules.source_limits_of_all();
                let limited = all.map(|(site, limits)| (site, Limits { bytes_in_flight: None, ..limits }));
                let limited = limited.filter(|(site, limits)| site.is_some() || *limits != Limits::default());
                let at_site = |(site, limits): (Option<&str>, Limits)| AtSite {
                    site: site.map(str::to_owned),
                    limits: limits.to_string(),
                };
                status.limits = limited.map(at_site).collect();
            }
            Err(error) => status.problems.push(format!("the limits of sources cannot be told: {error}")),
        }
    }
    Ok(status)
}

/// As JSON.
pub fn json(config: &Config) -> Result<String, String> {
    let status = status(config).map_err(|error| format!("{}: {error}", config.spool.path.display()))?;
    serde_json::to_string_pretty(&status).map(|text| text + "\n").map_err(|error| error.to_string())
}

fn read(config: &Config, now: Now) -> io::Result<Status> {
    let folder = &config.spool.path;
    let (quotas, rests) = match folder.try_exists()? {
        true => (QuotaFiles::read(&StdDisk, folder)?, RestFiles::read(&StdDisk, folder, now)),
        // No relay has run yet.
        false => (QuotaFiles::default(), RestFiles::default()),
    };
    let (warmed, damaged) = quotas.warmed(now);
    let mut problems = rests.problems.clone();
    if damaged {
        problems.push("a file of sending limits (quota-*) is damaged: the other one of its shard is used".to_owned());
    }
    let mut status =
        Status { at: stamp(now.wall), sources: Vec::new(), limits: Vec::new(), sites: Vec::new(), problems };
    for (number, source) in (0..).zip(&config.sources.list) {
        let warmup = source.warmup.as_ref().map(|warmup| {
            let at = format!("Source {} at ", source.address);
            let of_it = warmed.iter().filter_map(|counted| Some((counted.name.strip_prefix(&at)?, counted)));
            let allowed = warmup.limit(now.wall);
            let mut sites: Vec<Warmed> = of_it
                .map(|(site, counted)| {
                    let full = allowed.filter(|allowed| counted.units >= u64::from(*allowed));
                    let room = full.map(|allowed| {
                        let room = counted.room_from(allowed, now.mono).since(now.mono);
                        (now.wall.0 + millis(room)).min((now.wall.0 / DAY_MS + 1) * DAY_MS)
                    });
                    let full_until = room.map(|at| stamp(Wall(at)));
                    Warmed { site: site.to_owned(), sent: counted.units, allowed, full_until }
                })
                .collect();
            sites.sort_by(|a, b| b.sent.cmp(&a.sent).then_with(|| a.site.cmp(&b.site)));
            of_warmup(warmup, sites, now.wall)
        });
        let ehlo_name = source.ehlo_name.clone().unwrap_or_else(|| config.delivery.ehlo_name.clone());
        let pools = pools_of(&config.sources, number, source);
        status.sources.push(OfSource { address: source.address, ehlo_name, pools, warmup, rests: Vec::new() });
    }
    // What is lower of a site's octets its own name says as well.
    for kept in rests.all().iter().filter(|kept| !kept.site.starts_with(lease::OCTETS_AT)) {
        let (site, why) = (kept.site.to_string(), kept.why.to_string());
        let until = stamp(Wall(now.wall.0 + millis(kept.until.since(now.mono))));
        let what = match &kept.what {
            Resting::Source(address) => {
                let found = status.sources.iter_mut().find(|source| source.address == *address);
                if let Some(source) = found {
                    source.rests.push(Rest { site, until, why });
                }
                continue;
            }
            Resting::Site(Taken::Rest) => "nothing is sent".to_owned(),
            Resting::Site(Taken::RestOf(tenant)) => format!("nothing of tenant {tenant} is sent"),
            Resting::Site(Taken::Lower(by)) => by.to_string(),
        };
        status.sites.push(OfSite { site, what, until, why });
    }
    Ok(status)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 2)
}

fn stamp(at: Wall) -> String {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).map_or_else(|_| "?".to_owned(), |time| format!("{time:.0}"))
}

fn day(days: u64) -> String {
    stamp(Wall(days.saturating_mul(DAY_MS))).chars().take(10).collect()
}

fn of_warmup(warmup: &Warmup, sites: Vec<Warmed>, now: Wall) -> OfWarmup {
    OfWarmup {
        started: day(warmup.started),
        day: warmup.day(now).filter(|day| *day < warmup.schedule.len()).map(|day| day + 1),
        allowed: warmup.limit(now),
        schedule: warmup.schedule.clone(),
        sites,
    }
}

fn pools_of(sources: &Sources, number: u16, source: &Source) -> Vec<InPool> {
    let in_it = sources.pools.iter().filter(|pool| pool.sources.contains(&number));
    let pools = in_it.map(|pool| {
        let others = pool.sources.iter().map(|number| &sources.list[usize::from(*number)]);
        let all: u32 =
            others.filter(|other| other.address.is_ipv4() == source.address.is_ipv4()).map(|other| other.weight).sum();
        let percent = (f64::from(source.weight) * 1000.0 / f64::from(all.max(1))).round() / 10.0;
        InPool { pool: pool.name.clone(), weight: source.weight, percent }
    });
    pools.collect()
}

/// For people.
impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, source) in self.sources.iter().enumerate() {
            if n > 0 {
                writeln!(f)?;
            }
            write!(f, "{source}")?;
        }
        if !self.limits.is_empty() {
            writeln!(f, "\nEach source keeps to, at a site:")?;
        }
        for AtSite { site, limits } in self.limits.iter().take(SITES_SHOWN) {
            writeln!(f, "  {:<20} {limits}", site.as_deref().unwrap_or("any other"))?;
        }
        if let Some(more) = self.limits.len().checked_sub(SITES_SHOWN).filter(|more| *more > 0) {
            writeln!(f, "  and {more} more (--json has all)")?;
        }
        if !self.sites.is_empty() {
            writeln!(f, "\nFor all sources:")?;
        }
        for OfSite { site, what, until, why } in &self.sites {
            writeln!(f, "  {site}\n    {what} until {until}: {why}")?;
        }
        self.problems.iter().try_for_each(|problem| writeln!(f, "\nwarning: {problem}"))
    }
}

impl fmt::Display for OfSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = if self.address.is_ipv4() { "IPv4" } else { "IPv6" };
        writeln!(f, "{}  {}", self.address, self.ehlo_name)?;
        for InPool { pool, weight, percent } in &self.pools {
            writeln!(f, "  pool      {pool}, weight {weight}: {percent} % of its {family} connections")?;
        }
        match &self.warmup {
            None => writeln!(f, "  warm-up   none: no limit a day")?,
            Some(warmup) => write!(f, "{warmup}")?,
        }
        if self.rests.is_empty() {
            writeln!(f, "  rests     for no site")?;
        }
        for Rest { site, until, why } in &self.rests {
            writeln!(f, "  rests     for {site} until {until}: {why}")?;
        }
        Ok(())
    }
}

impl fmt::Display for OfWarmup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.schedule.len();
        match (self.day, self.allowed) {
            (Some(day), Some(allowed)) => {
                writeln!(
                    f,
                    "  warm-up   day {day} of {last}, since {}: {allowed} messages to each site",
                    self.started
                )?;
            }
            (_, None) => writeln!(f, "  warm-up   over: {last} days since {}; no limit a day", self.started)?,
            (None, Some(_)) => writeln!(f, "  warm-up   begins on {}; until then it sends nothing", self.started)?,
        }
        // As many as are read with a glance in a line.
        for (line, days) in self.schedule.chunks(7).enumerate() {
            let name = if line == 0 { "schedule" } else { "" };
            let first = line * 7 + 1;
            let days: Vec<String> = (first..)
                .zip(days)
                .map(|(day, count)| {
                    let mark = if Some(day) == self.day { "*" } else { "" };
                    format!("{mark}day {day}: {count}")
                })
                .collect();
            writeln!(f, "  {name:<9} {}", days.join("  "))?;
        }
        if self.allowed.is_none() {
            return Ok(());
        }
        if self.sites.is_empty() {
            return writeln!(f, "  sent      nothing in the last 24 h");
        }
        writeln!(f, "  sent      in the last 24 h, to each site:")?;
        let width = self.sites.iter().map(|warmed| warmed.site.chars().count()).max().unwrap_or(0).min(60);
        for Warmed { site, sent, allowed, full_until } in &self.sites {
            let of = allowed.map_or(String::new(), |allowed| format!(" of {allowed}"));
            let full = full_until.as_ref().map_or(String::new(), |at| format!("; no more until {at}"));
            writeln!(f, "            {site:<width$}  {sent}{of}{full}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{Machine, parse};

    fn config(spool: &std::path::Path, text: &str) -> Config {
        let mut config = parse("t", text, &Machine::default()).unwrap().config;
        config.spool.path = spool.to_owned();
        config
    }

    const SOURCES: &str = "hostname = \"relay.example\"\n[[pool]]\nname = \"bulk\"\n\
        [[source]]\naddress = \"192.0.2.1\"\npools = [\"default\", \"bulk\"]\nehlo_name = \"out1.example\"\n\
        [[source]]\naddress = \"192.0.2.2\"\npools = [\"bulk\"]\nweight = 300\n\
        warmup = { started = \"1970-01-01\", schedule = [10, 20] }\n";

    #[test]
    fn without_a_relay_the_schedule_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let today = super::super::wall().0 / DAY_MS;
        let later = SOURCES.replace("1970-01-01", &day(today + 2));
        let now = SOURCES.replace("1970-01-01", &day(today - 1));
        for (text, expected) in [
            (SOURCES, vec!["over: 2 days since 1970-01-01", "day 1: 10  day 2: 20", "300: 75 % of its IPv4"]),
            (&later, vec!["begins on", "until then it sends nothing", "out1.example"]),
            (&now, vec!["day 2 of 2", "20 messages to each site", "*day 2: 20", "nothing in the last 24 h"]),
        ] {
            let status = status(&config(&folder.path().join("none"), text)).unwrap();
            let told = status.to_string();
            for part in expected {
                assert!(told.contains(part), "{part} in\n{told}");
            }
            assert!(told.contains("rests     for no site") && !told.contains("warning"), "{told}");
            assert!(told.contains("pool      default, weight 100: 100 % of its IPv4 connections"), "{told}");
        }
        let value: serde_json::Value = serde_json::from_str(&json(&config(folder.path(), &now)).unwrap()).unwrap();
        assert_eq!(value["sources"][1]["warmup"]["allowed"], 20);
        assert_eq!(value["sources"][1]["warmup"]["schedule"], serde_json::json!([10, 20]));
    }

    #[test]
    fn limits_by_source_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let rules = folder.path().join("rules.toml");
        let text = "[default]\nper_source = { connections = 10 }\n[[provider]]\nname = \"big\"\n\
                    domains = [\"big.example\"]\nper_source = { message_rate = \"5/s\", bytes_in_flight = \"1MiB\" }\n\
                    [[provider]]\nname = \"small\"\ndomains = [\"small.example\"]\n";
        std::fs::write(&rules, text).unwrap();
        let with_rules = format!("{SOURCES}[shaping]\nfiles = [{:?}]\n", rules.display().to_string());
        let told = status(&config(folder.path(), &with_rules)).unwrap().to_string();
        let expected = "\nEach source keeps to, at a site:\n  big                  connections 10, message_rate 5/s\n  \
                        any other            connections 10\n";
        assert!(told.contains(expected) && !told.contains("small"), "{told}");
        std::fs::write(&rules, "[default]\nper_source = 1\n").unwrap();
        let told = status(&config(folder.path(), &with_rules)).unwrap().to_string();
        assert!(told.contains("warning: the limits of sources cannot be told"), "{told}");
        let told = status(&config(folder.path(), SOURCES)).unwrap().to_string();
        assert!(!told.contains("Each source"), "{told}");
    }

    #[test]
    fn damaged_files_are_told_and_stop_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["quota-0000-0", "rests-0000-1"] {
            std::fs::write(folder.path().join(name), "no snapshot at all, but long enough to be one, to be sure")
                .unwrap();
        }
        let status = status(&config(folder.path(), SOURCES)).unwrap();
        assert_eq!((status.sources.len(), status.problems.len()), (2, 2), "{status}");
        assert!(status.to_string().contains("warning: rests-0000-1: "), "{status}");
    }
}
