//! `[[source]]`, `[[pool]]` and `[pools]`: the addresses that mail is sent from, and which mail goes from which of them.

use super::proxy::Proxy;
use super::raw::{RawPool, RawPools, RawSource, RawWarmup};
use super::resolve::{Resolver, domain};
use crate::limits;
use crate::time::Wall;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The source addresses, and the pools that they are in. Without a source the kernel chooses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// By their numbers.
    pub list: Vec<Source>,
    /// By their numbers; the first is the default one. One at least where there are sources.
    pub pools: Vec<Pool>,
    /// The header field that names a message's pool.
    pub header: Option<String>,
    campaigns: BTreeMap<Box<str>, u16>,
    tenants: BTreeMap<Box<str>, u16>,
    sender_domains: BTreeMap<Box<str>, u16>,
}

/// `[[source]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The local address that connections are made from.
    pub address: IpAddr,
    /// Our name in EHLO from there; `None`: `delivery.ehlo_name`.
    pub ehlo_name: Option<String>,
    /// Its share beside the others of a pool.
    pub weight: u32,
    /// What connects for it.
    pub proxy: Option<Proxy>,
    /// How much it may send while it is new.
    pub warmup: Option<Warmup>,
}

/// `[[source]] warmup`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warmup {
    /// The first day (UTC), in days since 1970.
    pub started: u64,
    /// Messages to each site on the first day, the second, and so on; after the last there is no limit.
    pub schedule: Vec<u32>,
}

impl Warmup {
    /// Messages that may go to each site at that time. `None`: as many as there are.
    pub fn limit(&self, now: Wall) -> Option<u32> {
        match self.day(now) {
            None => Some(0),
            Some(day) => self.schedule.get(day).copied(),
        }
    }

    /// The day of the schedule, from 0 on. `None`: it has not begun.
    pub fn day(&self, now: Wall) -> Option<usize> {
        usize::try_from((now.0 / DAY_MS).checked_sub(self.started)?).ok()
    }
}

/// Milliseconds of a day.
const DAY_MS: u64 = 86_400_000;

/// A pool of sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// The numbers of its sources, ascending.
    pub sources: Vec<u16>,
}

/// What a message's pool is chosen by. Empty: there is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Whose<'a> {
    /// The pool that its header names.
    pub named: &'a [u8],
    /// Its campaign.
    pub campaign: &'a [u8],
    /// The account that submitted it.
    pub tenant: &'a [u8],
    /// Its reverse-path.
    pub sender: &'a [u8],
}

impl Sources {
    /// Whether messages differ in their pools at all.
    pub fn are_chosen(&self) -> bool {
        self.pools.len() > 1
    }

    /// Whether campaigns choose pools.
    pub fn has_campaigns(&self) -> bool {
        !self.campaigns.is_empty()
    }

    /// The number of the pool that a message is sent from: the first of header, campaign, tenant and sender's domain that
    /// says one, else the default.
    pub fn pool_of(&self, whose: Whose<'_>) -> u16 {
        if !self.are_chosen() {
            return 0;
        }
        let text = |octets: &[u8]| (!octets.is_empty()).then(|| String::from_utf8_lossy(octets).into_owned());
        let of = |map: &BTreeMap<Box<str>, u16>, name: Option<String>| map.get(name?.as_str()).copied();
        let domain =
            whose.sender.iter().rposition(|octet| *octet == b'@').map_or(&[][..], |at| &whose.sender[at + 1..]);
        self.number_of(whose.named)
            .or_else(|| of(&self.campaigns, text(whose.campaign)))
            .or_else(|| of(&self.tenants, text(whose.tenant)))
            .or_else(|| of(&self.sender_domains, text(&domain.to_ascii_lowercase())))
            .unwrap_or(0)
    }

    /// The number of the pool of that name.
    pub fn number_of(&self, name: &[u8]) -> Option<u16> {
        let at = self.pools.iter().position(|pool| pool.name.as_bytes() == name)?;
        u16::try_from(at).ok()
    }
}

impl Resolver<'_> {
    pub(super) fn sources(
        &mut self,
        list: Vec<RawSource>,
        pools: Vec<RawPool>,
        general: RawPools,
        ipv6: bool,
    ) -> Sources {
        let mut sources = Sources { header: general.header, ..Sources::default() };
        if list.is_empty() {
            if !pools.is_empty() || general.default.is_some() || sources.header.is_some() {
                let key = if pools.is_empty() { "pools" } else { "pool[0]" };
                self.error(key, "there is no [[source]]: pools are of sources");
            }
            return Sources::default();
        }
        if list.len() > limits::SOURCES || pools.len() > limits::SOURCES {
            self.error("source", format!("too many; {} sources and as many pools are the most", limits::SOURCES));
        }
        if let Some(header) = &sources.header
            && (!(1..=limits::HEADER_NAME_BYTES).contains(&header.len())
                || !header.bytes().all(|b| (33..127).contains(&b) && b != b':'))
        {
            self.error("pools.header", format!("\"{header}\" is no name of a header field"));
        }
        let mut names: Vec<String> = vec![general.default.clone().unwrap_or_else(|| "default".to_owned())];
        let mut chosen: Vec<(usize, RawPool)> = Vec::new();
        for (n, pool) in pools.into_iter().enumerate() {
            let name = pool.name.clone().unwrap_or_default();
            let key = format!("pool[{n}].name");
            let is_plain = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || b"-_".contains(&octet);
            if name.is_empty() || name.len() > limits::SHAPING_NAME_BYTES || !name.bytes().all(is_plain) {
                self.error(&key, format!("\"{name}\" is no name of a pool: small letters, digits, - and _"));
            }
            if chosen.iter().any(|(_, other)| other.name == pool.name) {
                self.error(&key, format!("another pool is called \"{name}\""));
            }
            if !names.contains(&name) {
                names.push(name);
            }
            chosen.push((n, pool));
        }
        sources.pools = names.iter().map(|name| Pool { name: name.clone(), sources: Vec::new() }).collect();
        for (n, raw) in list.into_iter().enumerate() {
            self.source(n, raw, &mut sources);
        }
        for (n, pool) in chosen {
            let Some(at) = pool.name.as_deref().and_then(|name| sources.number_of(name.as_bytes())) else { continue };
            let campaigns = (&mut sources.campaigns, pool.campaigns, "campaigns");
            let domains = pool.sender_domains.map(|d| d.iter().map(|d| d.to_ascii_lowercase()).collect());
            let domains = (&mut sources.sender_domains, domains, "sender_domains");
            for (map, given, key) in [campaigns, (&mut sources.tenants, pool.tenants, "tenants"), domains] {
                for (i, value) in given.unwrap_or_default().into_iter().enumerate() {
                    if map.insert(value.clone().into(), at).is_some() {
                        self.error(&format!("pool[{n}].{key}[{i}]"), format!("\"{value}\" is another pool's too"));
                    }
                }
            }
        }
        for (at, pool) in sources.pools.iter().enumerate() {
            let has = |v4: bool| pool.sources.iter().any(|n| sources.list[usize::from(*n)].address.is_ipv4() == v4);
            let name = &pool.name;
            if pool.sources.is_empty() && at == 0 {
                let what =
                    "mail that nothing chooses a pool for has no source: give one `pools` with it, or name another";
                self.error("pools.default", format!("the default pool \"{name}\" has no source; {what}"));
            } else if pool.sources.is_empty() {
                self.error("pool", format!("pool \"{name}\" has no source: no [[source]] names it in `pools`"));
            } else if !has(true) {
                self.warn(
                    "pool",
                    format!("pool \"{name}\" has no IPv4 source: hosts without IPv6 are out of its reach"),
                );
            } else if ipv6 && !has(false) {
                self.warn("pool", format!("pool \"{name}\" has no IPv6 source: it sends over IPv4 alone"));
            }
        }
        sources
    }

    fn source(&mut self, n: usize, raw: RawSource, sources: &mut Sources) {
        let key = |name: &str| format!("source[{n}].{name}");
        let given = raw.address.unwrap_or_default();
        let address = match given.parse::<IpAddr>() {
            Err(_) if given.is_empty() => return self.error(&key("address"), "is missing; a source has an address"),
            Err(_) => return self.error(&key("address"), format!("\"{given}\" is not an IP address")),
            Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
                return self.error(&key("address"), format!("{ip} cannot be connected from"));
            }
            Ok(ip) => ip,
        };
        if sources.list.iter().any(|other| other.address == address) {
            self.error(&key("address"), format!("{address} is another source's too"));
        }
        if let Some(name) = &raw.ehlo_name
            && let Err(why) = domain(name)
        {
            self.error(&key("ehlo_name"), format!("\"{name}\" is not a host name: {why}"));
        }
        let weight = self.count(&key("weight"), raw.weight, 100, 1, 1000);
        let number = u16::try_from(sources.list.len()).unwrap_or(u16::MAX);
        let pools = raw.pools.unwrap_or_else(|| vec![sources.pools[0].name.clone()]);
        if pools.is_empty() {
            self.error(&key("pools"), "a source of no pool sends nothing");
        }
        for (i, name) in pools.iter().enumerate() {
            match sources.number_of(name.as_bytes()) {
                Some(at) if !sources.pools[usize::from(at)].sources.contains(&number) => {
                    sources.pools[usize::from(at)].sources.push(number);
                }
                Some(_) => self.error(&key(&format!("pools[{i}]")), format!("\"{name}\" twice")),
                None => self.error(&key(&format!("pools[{i}]")), format!("no [[pool]] is called \"{name}\"")),
            }
        }
        let proxy = self.proxy(&key("proxy"), raw.proxy.as_deref(), raw.proxy_auth.as_deref(), raw.proxy_bind);
        let warmup = self.warmup(&key("warmup"), raw.warmup);
        sources.list.push(Source { address, ehlo_name: raw.ehlo_name, weight, proxy, warmup });
    }

    fn warmup(&mut self, key: &str, raw: RawWarmup) -> Option<Warmup> {
        let (started, schedule) = match (raw.started, raw.schedule) {
            (None, None) => return None,
            (Some(started), Some(schedule)) => (started, schedule),
            _ => {
                self.error(key, "has a day on which it started, and a schedule: the messages of each day");
                return None;
            }
        };
        let epoch = jiff::civil::date(1970, 1, 1);
        let day = started.parse::<jiff::civil::Date>().ok().and_then(|day| (day - epoch).get_days().try_into().ok());
        if day.is_none() {
            self.error(&format!("{key}.started"), format!("\"{started}\" is not a day; write \"2026-11-01\""));
        }
        let most = limits::WARMUP_DAYS;
        if schedule.is_empty() || schedule.len() > most || schedule.iter().any(|n| !(1..=100_000_000).contains(n)) {
            let what = "messages of each day, as [50, 100, 200]";
            self.error(&format!("{key}.schedule"), format!("{what}: 1 to {most} numbers from 1 to 100000000"));
        }
        let schedule = schedule.into_iter().map(|n| u32::try_from(n).unwrap_or(1)).collect();
        Some(Warmup { started: day.unwrap_or(0), schedule })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::config::proxy::ProxySpeaks;
    use crate::config::{Machine, parse, sources::Whose};

    const GOOD: &str = "hostname = \"a.example\"\n[pools]\nheader = \"X-Pool\"\n[[pool]]\nname = \"bulk\"\ncampaigns = [\"spring\"]\n\
        tenants = [\"acme\"]\nsender_domains = [\"News.Example\"]\n[[source]]\naddress = \"192.0.2.1\"\n\
        [[source]]\naddress = \"192.0.2.2\"\nehlo_name = \"b.example\"\npools = [\"bulk\", \"default\"]\nweight = 5\n";

    #[test]
    fn a_pool_is_chosen_by_what_is_said_first() {
        let sources = parse("t", GOOD, &Machine::default()).unwrap().config.sources;
        assert_eq!(sources.list.len(), 2);
        assert_eq!((&sources.pools[0].sources[..], &sources.pools[1].sources[..]), (&[0, 1][..], &[1][..]));
        let of = |whose| sources.pool_of(whose);
        let none = Whose::default();
        assert_eq!(of(none), 0);
        assert_eq!(of(Whose { named: b"bulk", ..none }), 1);
        assert_eq!(of(Whose { named: b"default", campaign: b"spring", ..none }), 0);
        assert_eq!(of(Whose { named: b"nowhere", campaign: b"spring", ..none }), 1);
        assert_eq!(of(Whose { tenant: b"acme", ..none }), 1);
        assert_eq!(of(Whose { sender: b"x@NEWS.example", ..none }), 1);
        assert_eq!(of(Whose { sender: b"x@example", tenant: b"other", ..none }), 0);
    }

    #[test]
    fn a_warm_up_begins_on_its_first_day_and_ends_behind_its_last() {
        let text = "[[source]]\naddress = \"::1\"\nwarmup = { started = \"1970-01-03\", schedule = [50, 100] }\n";
        let sources = parse("t", text, &Machine::default()).unwrap().config.sources;
        let warmup = sources.list[0].warmup.clone().unwrap();
        let at = |ms: u64| warmup.limit(crate::time::Wall(ms));
        let day = 86_400_000;
        assert_eq!((at(2 * day - 1), at(2 * day), at(3 * day - 1)), (Some(0), Some(50), Some(50)));
        assert_eq!((at(3 * day), at(4 * day)), (Some(100), None));
    }

    #[test]
    fn a_proxy_is_an_address_and_what_it_speaks() {
        let of = |keys: &str| {
            let text = format!("[[source]]\naddress = \"192.0.2.1\"\n{keys}");
            let machine = Machine { directory: "/etc".into(), ..Machine::default() };
            parse("t", &text, &machine).map(|loaded| loaded.config.sources.list[0].proxy.clone())
        };
        let socks = |auth: Option<&str>, bind| ProxySpeaks::Socks5 { auth: auth.map(Into::into), bind };
        let speaks = |keys: &str| of(keys).unwrap().map(|proxy| (proxy.address.to_string(), proxy.speaks));
        assert_eq!(speaks(""), None);
        assert_eq!(speaks("proxy = \"socks5://[::1]:1080\""), Some(("[::1]:1080".to_owned(), socks(None, false))));
        let text = "proxy = \"socks5://10.0.0.1:1\"\nproxy_auth = \"p\"\nproxy_bind = true";
        assert_eq!(speaks(text), Some(("10.0.0.1:1".to_owned(), socks(Some("/etc/p"), true))));
        let text = "proxy = \"haproxy://10.0.0.1:2525\"";
        assert_eq!(speaks(text), Some(("10.0.0.1:2525".to_owned(), ProxySpeaks::Haproxy)));
        for (keys, expected) in [
            ("proxy = \"http://10.0.0.1:1\"", "source[0].proxy: \"http://10.0.0.1:1\" is no proxy"),
            ("proxy = \"socks5://proxy:1\"", "source[0].proxy: \"proxy:1\" is not an address and port"),
            ("proxy = \"socks5://a:b@10.0.0.1:1\"", "source[0].proxy: a login stands in a file"),
            ("proxy = \"haproxy://10.0.0.1:1\"\nproxy_bind = true", "source[0].proxy_bind: is of SOCKS5 proxies"),
            ("proxy_auth = \"p\"", "source[0].proxy_auth: there is no `proxy`"),
        ] {
            let problems = of(keys).unwrap_err().to_string();
            assert!(problems.contains(expected), "{keys}: {problems}");
        }
    }

    #[test]
    fn what_is_wrong_with_sources_is_told_with_its_place() {
        for (text, expected) in [
            ("[[pool]]\nname = \"a\"\n", "there is no [[source]]"),
            ("[[source]]\naddress = \"x\"\n", "source[0].address: \"x\" is not an IP address"),
            ("[[source]]\nweight = 1\n", "source[0].address: is missing"),
            ("[[source]]\naddress = \"0.0.0.0\"\n", "cannot be connected from"),
            ("[[source]]\naddress = \"::1\"\n[[source]]\naddress = \"0::1\"\n", "::1 is another source's too"),
            ("[[source]]\naddress = \"::1\"\npools = [\"a\"]\n", "no [[pool]] is called \"a\""),
            ("[[source]]\naddress = \"::1\"\n[[pool]]\nname = \"a\"\n", "pool \"a\" has no source"),
            (
                "[[source]]\naddress = \"::1\"\npools = [\"a\"]\n[[pool]]\nname = \"a\"\n",
                "the default pool \"default\" has no source",
            ),
            ("[[source]]\naddress = \"::1\"\nweight = 0\n", "source[0].weight: 0 is out of range"),
            ("[[source]]\naddress = \"::1\"\n[pools]\nheader = \"X:\"\n", "no name of a header field"),
            (
                "[pools]\ndefault = \"a\"\n[[source]]\naddress = \"::1\"\n[[pool]]\nname = \"a\"\ntenants = [\"t\", \"t\"]\n",
                "pool[0].tenants[1]: \"t\" is another pool's too",
            ),
            ("[[source]]\naddress = \"::1\"\nwarmup = { started = \"2026-11-01\" }\n", "source[0].warmup: has a day"),
            (
                "[[source]]\naddress = \"::1\"\nwarmup = { started = \"1.11.\", schedule = [0] }\n",
                "source[0].warmup.started: \"1.11.\" is not a day",
            ),
            ("[delivery]\nsource_addresses = [\"::1\"]\n[[source]]\naddress = \"::1\"\n", "delivery.source_addresses"),
        ] {
            let text = format!("{text}\n");
            let problems = parse("t", &text, &Machine::default()).unwrap_err().to_string();
            assert!(problems.contains(expected), "{text}: {problems}");
        }
        let warnings = parse("t", "[[source]]\naddress = \"192.0.2.1\"\n", &Machine::default()).unwrap().warnings;
        assert!(warnings.iter().any(|w| w.message.contains("sends over IPv4 alone")), "{warnings:?}");
    }
}
