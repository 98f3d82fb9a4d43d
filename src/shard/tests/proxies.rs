//! Sources whose proxies connect for them: what a proxy is told, and what becomes of mail where one does not work.

use super::*;
use crate::config::{self, Machine};
use crate::planted::{Bug, plant};
use crate::shard::Tables;
use crate::smtp::socks::SocksLogin;
use std::net::SocketAddr;
use std::sync::Arc;
use world::ProxyFault;

const PROXY: &str = "10.2.0.1";

/// d0.test at 10.0.0.1 and d1.test at 10.0.0.2; the sources 10.1.0.1, 10.1.0.2 and so on, with these keys each.
fn proxied(seed: u64, sources: &[&str]) -> World {
    let mut text = String::new();
    for (n, keys) in sources.iter().enumerate() {
        text += &format!("[[source]]\naddress = \"10.1.0.{}\"\n{keys}\n", n + 1);
    }
    let sources = config::parse("sources", &text, &Machine::default()).unwrap().config.sources;
    let login = |has: bool| has.then(|| Arc::new(SocksLogin::parse("ann:secret").unwrap()));
    let proxy_logins = sources.list.iter().map(|source| login(format!("{source:?}").contains("login"))).collect();
    let tables = Tables { proxy_logins, ..Tables::default() };
    let mut world = World::guarded(seed, 1, config::Config { sources, ..super::config() }, 1000, tables);
    for n in 0..2 {
        world.domain(&format!("d{n}.test"), &format!("10.0.0.{}", n + 1));
    }
    world.proxy(PROXY);
    world
}

const SOCKS: &str = "proxy = \"socks5://10.2.0.1:1080\"";
const LOGIN: &str = "proxy = \"socks5://10.2.0.1:1080\"\nproxy_auth = \"login\"";
const BIND: &str = "proxy = \"socks5://10.2.0.1:1080\"\nproxy_bind = true";
const HEADER: &str = "proxy = \"haproxy://10.2.0.1:2525\"";

/// The source that a message came from, once it did.
fn from(world: &World, mark: u32) -> Option<IpAddr> {
    world.received().find(|received| received.mark == Some(mark)).map(|received| received.from)
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn what_a_proxy_is_told_in_each_way() {
    let hop: SocketAddr = "10.0.0.1:25".parse().unwrap();
    for (n, (keys, login, source)) in [
        (SOCKS, None, None),
        (LOGIN, Some(("ann", "secret")), None),
        (BIND, None, Some("10.1.0.1")),
        (HEADER, None, Some("10.1.0.1")),
    ]
    .into_iter()
    .enumerate()
    {
        for window in [1, 3, 60_000] {
            let mut world = proxied(6300 + n as u64, &[keys]);
            world.sim.core.window = (window, 0);
            world.proxy(PROXY).login = login;
            world.accept(0, &Letter::new(7, &["joe@d0.test"]));
            assert!(world.run_until(secs(20), |w| from(w, 7).is_some()), "{keys}");
            assert_eq!(from(&world, 7), Some(ip(source.unwrap_or(PROXY))));
            let proxy = world.proxy(PROXY);
            assert_eq!(proxy.asked, [(hop, source.map(ip))]);
            assert_eq!(proxy.complaints, [""; 0]);
            world.run(secs(60));
            assert_at_rest(&mut world);
        }
    }
}

#[test]
fn ipv6_goes_through_a_proxy_of_ipv4() {
    for keys in [BIND, HEADER] {
        let text = format!("[[source]]\naddress = \"2001:db8::7\"\n{keys}\n");
        let sources = config::parse("sources", &text, &Machine::default()).unwrap().config.sources;
        let mut config = config::Config { sources, ..super::config() };
        config.delivery.ipv6 = true;
        let mut world = World::guarded(6310, 1, config, 1000, Tables::default());
        world.domain("d6.test", "2001:db8::25");
        world.proxy(PROXY);
        world.accept(0, &Letter::new(7, &["joe@d6.test"]));
        assert!(world.run_until(secs(20), |w| from(w, 7).is_some()), "{keys}");
        assert_eq!(world.proxy(PROXY).asked, [("[2001:db8::25]:25".parse().unwrap(), Some(ip("2001:db8::7")))]);
    }
}

const FAULTS: [ProxyFault; 8] = [
    ProxyFault::Closed,
    ProxyFault::Mute,
    ProxyFault::Hangs,
    ProxyFault::Foreign,
    ProxyFault::Unbound,
    ProxyFault::LoggedOut,
    ProxyFault::Says(1),
    ProxyFault::Says(2),
];

/// Keys with which a fault shows.
fn keys_for(fault: ProxyFault) -> (&'static str, Option<(&'static str, &'static str)>) {
    match fault {
        ProxyFault::Unbound => (BIND, None),
        ProxyFault::LoggedOut => (LOGIN, Some(("ann", "secret"))),
        _ => (SOCKS, None),
    }
}

#[test]
fn where_a_proxy_fails_the_mail_goes_from_another_source() {
    for fault in FAULTS {
        let (keys, login) = keys_for(fault);
        let mut world = proxied(6320, &[&format!("{keys}\nweight = 1000"), "weight = 1"]);
        (world.proxy(PROXY).fault, world.proxy(PROXY).login) = (fault, login);
        for mark in 0..5 {
            world.accept(0, &Letter::new(mark, &["joe@d0.test"]));
            assert!(world.run_until(secs(40), |w| from(w, mark).is_some()), "{fault:?}");
            assert_eq!(from(&world, mark), Some(ip("10.1.0.2")), "{fault:?}");
            // Its connection idles to its end.
            world.run(secs(7));
        }
        // Nothing was put off, and nothing concluded about the host.
        assert_eq!(world.said.deferred, 0, "{fault:?}");
        world.proxy(PROXY).fault = ProxyFault::None;
        world.run(secs(15));
        world.accept(0, &Letter::new(9, &["joe@d0.test"]));
        assert!(world.run_until(secs(40), |w| from(w, 9) == Some(ip(PROXY)) || from(w, 9) == Some(ip("10.1.0.1"))));
        world.run(secs(60));
        assert_at_rest(&mut world);
    }
}

#[test]
fn where_all_proxies_fail_mail_waits_until_one_works() {
    for fault in FAULTS {
        let (keys, login) = keys_for(fault);
        let mut world = proxied(6330, &[keys]);
        (world.proxy(PROXY).fault, world.proxy(PROXY).login) = (fault, login);
        for n in 0..4 {
            world.accept(0, &Letter::new(n, &[&format!("joe@d{}.test", n % 2)]));
        }
        // Far beyond the first retry of a host that cannot be reached.
        world.run(secs(700));
        let proxy = world.proxy(PROXY);
        proxy.fault = ProxyFault::None;
        assert!(world.run_until(secs(45), |w| (0..4).all(|n| from(w, n).is_some())), "{fault:?}");
        assert_eq!((world.said.deferred, world.said.bounced), (0, 0), "{fault:?}");
        world.run(secs(60));
        assert_at_rest(&mut world);
    }
}

#[test]
fn a_proxy_that_cannot_reach_one_host_reaches_others() {
    // The host is not there, does not listen, does not answer; or the proxy says so, or gives no good reason.
    for case in 0..6 {
        let mut world = proxied(6340 + case, &[SOCKS]);
        match case {
            0 => world.door("10.0.0.1", Door::Refused),
            1 => world.door("10.0.0.1", Door::Silent),
            2 => {
                world.sim.hosts.remove(&ip("10.0.0.1"));
            }
            _ => world.proxy(PROXY).fault = ProxyFault::Says([1, 3, 6][case as usize - 3]),
        }
        world.accept(0, &Letter::new(1, &["joe@d0.test"]));
        world.run(secs(if case == 1 { 31 } else { 2 }));
        assert_eq!(from(&world, 1), None);
        world.proxy(PROXY).fault = ProxyFault::None;
        world.accept(0, &Letter::new(2, &["joe@d1.test"]));
        assert!(world.run_until(secs(3), |w| from(w, 2).is_some()), "case {case}: the source does not rest for all");
        if case == 0 {
            let asked = world.proxy(PROXY).asked.len();
            world.run(secs(60));
            assert_eq!(world.proxy(PROXY).asked.len(), asked, "the host waits for its retry");
        }
    }
}

/// Whether mail for a host that is there is put off, or a source rests for all since one host is not there.
fn is_confused(seed: u64, fault: ProxyFault) -> bool {
    let mut world = proxied(seed, &[SOCKS]);
    world.proxy(PROXY).fault = fault;
    if fault == ProxyFault::None {
        world.door("10.0.0.1", Door::Refused);
    }
    world.accept(0, &Letter::new(1, &["joe@d0.test"]));
    world.run(secs(3));
    world.proxy(PROXY).fault = ProxyFault::None;
    if fault == ProxyFault::None {
        world.accept(0, &Letter::new(2, &["joe@d1.test"]));
        return !world.run_until(secs(3), |w| from(w, 2).is_some());
    }
    !world.run_until(secs(15), |w| from(w, 1).is_some())
}

#[test]
fn whom_to_blame_is_seen() {
    for (bug, fault) in [(Bug::ProxyBlamesHost, ProxyFault::Closed), (Bug::HostBlamesProxy, ProxyFault::None)] {
        assert!(!is_confused(6350, fault), "{bug:?}");
        let _planted = plant(bug);
        assert!(is_confused(6350, fault), "{bug:?}");
    }
}

#[test]
fn a_drain_does_not_wait_for_a_proxy() {
    let mut world = proxied(6360, &[SOCKS]);
    world.proxy(PROXY).fault = ProxyFault::Mute;
    world.accept(0, &Letter::new(1, &["joe@d0.test"]));
    world.run(secs(1));
    world.control(Control::Drain);
    assert!(world.run_until(secs(5), |w| w.sim.stopped()));
}
