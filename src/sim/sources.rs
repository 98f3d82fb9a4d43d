//! The relay's source addresses in the simulated world: some, in two pools; a letter's header says from which it goes.

use super::proxy::ProxyFault;
use super::scenario::{Deed, Scenario};
use crate::config::{Machine, Sources, parse};
use crate::rt::sim::rng::Rng;
use crate::shaping::{Limits, Rate};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// What the scenario's sources are.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How many, each with an address of either family: of the default pool the first ones, of the other the last ones.
    pub count: u8,
    /// Of these, those of the default pool, from the first on; and those of the other, up to the last.
    pub of: [u8; 2],
    /// What each keeps to at each site.
    pub limits: Limits,
    /// What their proxies speak, of those that have one: SOCKS5, or else the PROXY protocol.
    pub proxies: Vec<Option<bool>>,
}

/// The one proxy of all of them.
pub const PROXY: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 1);

/// The number of the pool that mail is to go from, by its header.
pub fn pool_in(data: &[u8]) -> usize {
    let end = memchr::memmem::find(data, b"\r\n\r\n").unwrap_or(data.len());
    usize::from(memchr::memmem::find(&data[..end], b"X-Pool: bulk").is_some())
}

impl Plan {
    fn numbers(&self, pool: usize) -> std::ops::Range<u8> {
        if pool == 0 { 0..self.of[0] } else { self.count - self.of[1]..self.count }
    }

    /// The addresses of a source.
    pub fn address(number: u8) -> [IpAddr; 2] {
        [IpAddr::from([10, 77, 0, 1 + number]), Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1 + u16::from(number)).into()]
    }

    /// The addresses of a pool.
    pub fn addresses(&self, pool: usize) -> Vec<IpAddr> {
        self.numbers(pool).flat_map(Plan::address).collect()
    }

    /// The limits as `[default]` of a rule file has them.
    pub fn rules(&self) -> String {
        let Limits { connections, message_rate, connection_rate, bytes_in_flight, .. } = self.limits;
        let rate = |key: &str, rate: Option<Rate>| rate.map(|rate| format!("{key} = \"{rate}\""));
        let connections = connections.map(|most| format!("connections = {most}"));
        let octets = bytes_in_flight.map(|octets| format!("bytes_in_flight = \"{}KiB\"", octets >> 10));
        let all = [connections, rate("message_rate", message_rate), rate("connection_rate", connection_rate), octets];
        let all: Vec<String> = all.into_iter().flatten().collect();
        if all.is_empty() { String::new() } else { format!("per_source = {{ {} }}\n", all.join(", ")) }
    }

    /// As the configuration has it. A source's number is twice that of here, and one more for IPv6.
    pub fn sources(&self) -> Sources {
        let mut text = "[pools]\nheader = \"X-Pool\"\n[[pool]]\nname = \"bulk\"\n".to_owned();
        for number in 0..self.count {
            let is_of = |pool: usize| self.numbers(pool).contains(&number);
            let pools: Vec<&str> =
                [(0, "default"), (1, "bulk")].iter().filter(|(n, _)| is_of(*n)).map(|(_, p)| *p).collect();
            for address in Plan::address(number) {
                text +=
                    &format!("[[source]]\naddress = \"{address}\"\npools = {pools:?}\nweight = {}\n", 50 + 50 * number);
                text += &match self.proxies.get(usize::from(number)).copied().flatten() {
                    None => String::new(),
                    Some(true) => format!("proxy = \"socks5://{PROXY}:1080\"\nproxy_bind = true\n"),
                    Some(false) => format!("proxy = \"haproxy://{PROXY}:2525\"\n"),
                };
            }
        }
        parse("sources", &text, &Machine::default()).expect("good sources").config.sources
    }
}

impl Scenario {
    /// Source addresses, and letters of two pools.
    pub(super) fn add_sources(&mut self, rng: &mut Rng) {
        // Where campaigns have limits and connections are few, destinations take them from each other: twice as many do it more.
        if self.smart_host || !rng.one_in(5) || self.flows[0] != Limits::default() {
            return;
        }
        let count = rng.within(2..5) as u8;
        let first = rng.within(1..u64::from(count)) as u8;
        let shared = u8::from(rng.one_in(2));
        let mut limits = Limits::default();
        if rng.one_in(2) {
            let rate = |rng: &mut Rng, rates: &[&str]| rng.pick(rates).parse().ok();
            limits.connections = Some(rng.within(1..4) as u32).filter(|_| !rng.one_in(4));
            let messages = ["1/s", "10/s burst 5", "5/s", "50/s burst 10"];
            limits.message_rate = if rng.one_in(2) { rate(rng, &messages) } else { None };
            limits.connection_rate = if rng.one_in(3) { rate(rng, &["1/s", "10/s", "10/s burst 4"]) } else { None };
            // Of what is drawn already.
            limits.bytes_in_flight = [Some(1 << 10), Some(16 << 10), None][usize::from(count + first) % 3];
        }
        self.sources =
            Some(Plan { count, of: [first, (count - first + shared).min(count)], limits, proxies: Vec::new() });
        let chosen = |rng: &mut Rng, deeds: &mut [(Duration, Deed)]| {
            for (_, deed) in deeds {
                let Deed::Submit { letters, .. } = deed else { continue };
                for letter in letters.iter_mut().filter(|_| rng.one_in(2)) {
                    letter.header.insert_str(0, "X-Pool: bulk\r\n");
                }
            }
        };
        chosen(rng, &mut self.deeds);
        for _ in 0..rng.below(6) {
            let at = 1 + rng.below(self.deeds.len() as u64) as usize;
            let destination = rng.below(self.destinations.len() as u64) as usize;
            let source = rng.below(2 * u64::from(count)) as u16;
            let time = Duration::from_secs(rng.within(5..300));
            self.deeds.insert(at, (Duration::from_millis(rng.below(40)), Deed::Rest { source, destination, time }));
        }
        self.add_proxies(rng);
    }

    /// Some of the sources have a proxy, which fails at times. A receiver counts a connection when the proxy makes it, which is
    /// later than the relay's part: it cannot judge how many the relay begins in a time.
    fn add_proxies(&mut self, rng: &mut Rng) {
        let Some(plan) = self.sources.as_mut().filter(|_| self.rates[1].is_none()) else { return };
        if plan.limits.connection_rate.is_some() || !rng.one_in(2) {
            return;
        }
        plan.proxies = (0..plan.count).map(|_| rng.one_in(2).then(|| rng.one_in(2))).collect();
        let faults = [
            ProxyFault::None,
            ProxyFault::None,
            ProxyFault::None,
            ProxyFault::Closed,
            ProxyFault::Mute,
            ProxyFault::Hangs,
            ProxyFault::Foreign,
            ProxyFault::Unbound,
            ProxyFault::Says(1),
            ProxyFault::Says(4),
        ];
        for _ in 0..rng.below(6) {
            let at = 1 + rng.below(self.deeds.len() as u64) as usize;
            let fault = *rng.pick(&faults);
            self.deeds.insert(at, (Duration::from_millis(rng.below(40)), Deed::Proxy { fault }));
        }
    }
}
