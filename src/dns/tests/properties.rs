//! Properties: names, the cache against a map, lives of answers, the order of attempts, and that every question ends.

use super::super::cache::Cache;
use super::super::name::{canonical, from_wire, to_wire};
use super::*;
use crate::limits;
use crate::properties::{cases, hostile};
use proptest::prelude::*;
use std::net::IpAddr;

// --- names ----------------------------------------------------------------------------------------------------------

/// RFC 1035 §2.3.1 with what mail finds in practice, written down again.
fn is_name(text: &str) -> bool {
    let label =
        |l: &str| (1..=63).contains(&l.len()) && l.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    text.len() <= 253 && text.split('.').all(label)
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn property_a_name_has_one_spelling_and_survives_the_wire(
        text in prop_oneof![
            3 => r"[a-zA-Z0-9_-]{1,12}(\.[a-zA-Z0-9_-]{1,12}){0,5}\.?",
            1 => r"[a-c]{60,66}(\.[a-c]{55,64}){0,4}\.?",
            1 => hostile(40).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        ],
    ) {
        let plain = text.strip_suffix('.').unwrap_or(&text);
        match canonical(&text) {
            Ok(name) if text.starts_with('[') => prop_assert!(name.as_str().ends_with(']')),
            Ok(name) => {
                prop_assert!(is_name(plain), "{}", text);
                assert_eq!(name.as_str(), plain.to_ascii_lowercase());
                let again = canonical(name.as_str()).unwrap();
                prop_assert_eq!(again.as_str(), name.as_str());
                let wire = from_wire(&to_wire(name.as_str())).unwrap();
                prop_assert_eq!(wire.as_str(), name.as_str());
            }
            Err(_) => prop_assert!(!is_name(plain), "{}", text),
        }
    }

    #[test]
    fn property_a_name_out_of_an_answer_is_refused_or_one_that_could_have_been_asked(
        labels in prop::collection::vec(
            prop_oneof![3 => "[a-zA-Z0-9_-]{1,20}".prop_map(String::into_bytes), 1 => prop::collection::vec(any::<u8>(), 1..63)],
            0..12,
        ),
    ) {
        let Ok(name) = Name::from_labels(labels.iter().map(Vec::as_slice)) else { return Ok(()) };
        if let Ok(text) = from_wire(&name) {
            prop_assert!(is_name(text.as_str()));
            prop_assert_eq!(text.as_str().split('.').count(), labels.len());
            prop_assert_eq!(&to_wire(text.as_str()), &{ let mut name = name; name.set_fqdn(true); name });
        } else {
            let good = |l: &Vec<u8>| l.iter().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(b));
            prop_assert!(labels.is_empty() || !labels.iter().all(good));
        }
    }
}

// --- the cache ------------------------------------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Use {
    Get(u8),
    Insert(u8, u8),
    Pass(u8),
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn property_the_cache_never_gives_what_is_expired_replaced_or_was_never_there(
        uses in prop::collection::vec(
            prop_oneof![
                4 => (0..24u8).prop_map(Use::Get),
                4 => (0..24u8, any::<u8>()).prop_map(|(key, life)| Use::Insert(key, life)),
                1 => any::<u8>().prop_map(Use::Pass),
            ],
            1..200,
        ),
        bound in 0..20usize,
    ) {
        let mut cache: Cache<u8, usize> = Cache::new(bound, 3);
        let mut model: BTreeMap<u8, (usize, Moment)> = BTreeMap::new();
        let mut now = Moment(1000);
        for (value, step) in uses.into_iter().enumerate() {
            match step {
                Use::Get(key) => {
                    let live = model.get(&key).filter(|(_, expires)| *expires > now).map(|(value, _)| value);
                    let got = cache.get(&key, now).copied();
                    // It may have made room for another; never anything else.
                    prop_assert!(got.is_none() || got.as_ref() == live, "{:?} for {:?}", got, live);
                    prop_assert!(got.is_some() || live.is_none() || model.len() > bound.max(1), "evicted without need");
                }
                Use::Insert(key, life) => {
                    let expires = Moment(now.0 + u64::from(life));
                    cache.insert(key, value, expires, now);
                    model.insert(key, (value, expires));
                    let live = (expires > now).then_some(&value);
                    prop_assert_eq!(cache.get(&key, now), live);
                }
                Use::Pass(time) => now = Moment(now.0 + u64::from(time)),
            }
            prop_assert!(cache.len() <= bound.max(1));
        }
    }
}

// --- lives of answers, and the order of attempts ---------------------------------------------------------------------

fn ttl() -> impl Strategy<Value = u32> {
    prop_oneof![0..10u32, 0..7200u32, 0..1_000_000u32, Just(u32::MAX)]
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn property_a_route_is_served_to_the_end_of_its_shortest_life_and_not_beyond(
        (mx, a, aaaa) in (ttl(), ttl(), ttl()),
        share in 0..=100u64,
        beyond in 0..100_000u64,
    ) {
        let zone = Zone::default()
            .with("example.com", mx, RData::MX(MX::new(10, name("mx.example"))))
            .with("mx.example", a, RData::A(A("192.0.2.1".parse().unwrap())))
            .with("mx.example", aaaa, RData::AAAA(AAAA("2001:db8::1".parse().unwrap())));
        let mut world = World::new(|ask| zone.answer(ask));
        let begun = world.now;
        let first = world.resolve("example.com");
        // RFC 2181 §8: a TTL with its highest bit is none.
        let effective = |ttl: u32| Duration::from_secs(if ttl > i32::MAX as u32 { 0 } else { u64::from(ttl) });
        let shortest = [mx, a, aaaa].map(effective).into_iter().min().unwrap();
        let life = shortest.clamp(limits::DNS_TTL_MIN, limits::DNS_TTL_MAX);
        let exchange = ms(10);
        assert!(first.expires >= begun + life && first.expires <= begun + life + exchange, "{:?}", first.expires);
        let asked = world.asked.len();
        // At any time before, what is known; from then on, what the servers say.
        let left = first.expires.since(world.now);
        world.now = Moment(world.now.0 + (left.as_nanos() as u64 - 1) / 100 * share);
        assert!(Rc::ptr_eq(&world.resolve("example.com"), &first) && world.asked.len() == asked);
        world.now = first.expires + secs(beyond);
        let later = world.now;
        let second = world.resolve("example.com");
        assert!(world.asked.len() > asked && second.is_fresh(later) && second.is_fresh(world.now));
        assert!(second.expires <= world.now + limits::DNS_TTL_MAX);
    }

    #[test]
    fn property_every_address_is_tried_once_better_hosts_first_and_families_take_turns(
        hosts in prop::collection::vec((0..4u16, 0..5u8, 0..5u8, any::<bool>()), 1..=limits::DNS_MX_HOSTS),
        random in any::<u64>(),
    ) {
        let mut hosts: Vec<MailHost> = (0..).zip(hosts).map(|(n, (preference, v4, v6, v6_first))| {
            let v4 = (0..v4).map(|i| IpAddr::from([192, 0, n, i]));
            let v6 = (0..v6).map(|i| IpAddr::from([0x2001, 0xdb8, u16::from(n), 0, 0, 0, 0, u16::from(i)]));
            let addresses = if v6_first { v6.chain(v4).collect() } else { v4.chain(v6).collect() };
            MailHost { preference, name: format!("mx{n}.example").into(), addresses, port: None, secure: false, alias: None }
        }).filter(|host| !host.addresses.is_empty()).collect();
        hosts.sort_by_key(|host| host.preference);
        let all: Vec<(u16, IpAddr)> =
            (0..).zip(&hosts).flat_map(|(at, host)| host.addresses.iter().map(move |a| (at, *a))).collect();
        let resolution = Resolution { expires: Moment(1), verdict: Verdict::Hosts(hosts), exchangers: Vec::new(), secure: false };
        let mut order = Vec::new();
        resolution.attempt_order(random, &mut order);
        let mut tried: Vec<(u16, IpAddr)> = order.iter().map(|attempt| (attempt.host, attempt.address)).collect();
        prop_assert!(order.is_sorted_by_key(|attempt| resolution.hosts()[usize::from(attempt.host)].preference));
        for of_host in order.chunk_by(|a, b| a.host == b.host) {
            let v4 = of_host.iter().filter(|attempt| attempt.address.is_ipv4()).count();
            let mixed = of_host.windows(2).take((2 * v4.min(of_host.len() - v4)).saturating_sub(1));
            for pair in mixed {
                prop_assert_ne!(pair[0].address.is_ipv4(), pair[1].address.is_ipv4());
            }
            let first = &resolution.hosts()[usize::from(of_host[0].host)].addresses[0];
            prop_assert_eq!(of_host[0].address.is_ipv4(), first.is_ipv4());
        }
        tried.sort_unstable();
        let mut expected = all;
        expected.sort_unstable();
        prop_assert_eq!(tried, expected);
    }
}

// --- every question ends ----------------------------------------------------------------------------------------------

/// What a server does with a query.
#[derive(Clone, Debug)]
enum Behaviour {
    Answers,
    Silent,
    Unreachable,
    Code(u8),
    Truncates,
    /// Another id, so many times.
    Forges(u8),
    /// Octets changed at these places.
    Garbles(Vec<(u16, u8)>),
    Cuts(u16),
    Refers,
    /// An alias of a name of its own making: for ever, if asked for ever.
    Aliases(u8),
    AliasesItself,
}

fn behaviour() -> impl Strategy<Value = (Behaviour, u32, bool)> {
    let what = prop_oneof![
        4 => Just(Behaviour::Answers),
        2 => Just(Behaviour::Silent),
        1 => Just(Behaviour::Unreachable),
        2 => prop::sample::select(vec![1u8, 2, 3, 4, 5, 9, 15]).prop_map(Behaviour::Code),
        1 => Just(Behaviour::Truncates),
        1 => (1..12u8).prop_map(Behaviour::Forges),
        2 => prop::collection::vec(any::<(u16, u8)>(), 1..6).prop_map(Behaviour::Garbles),
        1 => any::<u16>().prop_map(Behaviour::Cuts),
        1 => Just(Behaviour::Refers),
        2 => any::<u8>().prop_map(Behaviour::Aliases),
        1 => Just(Behaviour::AliasesItself),
    ];
    (what, prop_oneof![3 => 0..100u32, 1 => 0..8000u32], any::<bool>())
}

impl Behaviour {
    fn act(&self, ask: &Ask, zone: &Zone, asked: usize) -> Vec<Act> {
        let bytes = zone.message(ask).to_vec().unwrap();
        match self {
            Behaviour::Answers => zone.answer(ask),
            Behaviour::Silent => Vec::new(),
            Behaviour::Unreachable => vec![(ms(1), Input::Failed)],
            Behaviour::Code(code) => ask.code(ResponseCode::from(0, *code)),
            Behaviour::Truncates => {
                let mut message = ask.reply();
                message.metadata.truncation = true;
                ask.send(&message)
            }
            Behaviour::Forges(count) => {
                let mut message = zone.message(ask);
                let forged = |n: u8| {
                    message.metadata.id = ask.message.metadata.id ^ (1 + u16::from(n));
                    ask.send(&message)
                };
                (0..*count).flat_map(forged).collect()
            }
            Behaviour::Garbles(places) => {
                let mut bytes = bytes;
                for (at, octet) in places {
                    let at = usize::from(*at) % bytes.len();
                    bytes[at] = *octet;
                }
                ask.send_raw(bytes)
            }
            Behaviour::Cuts(at) => ask.send_raw(bytes[..usize::from(*at) % (bytes.len() + 1)].to_vec()),
            Behaviour::Refers => {
                let mut message = ask.reply();
                message.metadata.recursion_available = false;
                message.add_authority(ns());
                ask.send(&message)
            }
            Behaviour::Aliases(salt) => {
                let mut message = ask.reply();
                let target = name(&format!("x{salt}-{asked}.example"));
                message.add_answer(Record::from_rdata(name(&ask.name), 60, RData::CNAME(CNAME(target))));
                ask.send(&message)
            }
            Behaviour::AliasesItself => {
                let mut message = ask.reply();
                let target = name(&ask.name);
                message.add_answer(Record::from_rdata(target.clone(), 60, RData::CNAME(CNAME(target))));
                ask.send(&message)
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn property_every_question_ends_in_time_with_one_answer_whatever_servers_do(
        script in prop::collection::vec(behaviour(), 1..12),
        domains in prop::collection::vec((0..8u8, 0..4000u32), 1..8),
        servers in 0..4usize,
        attempts in 1..6u32,
        timeout in 1..40_000u64,
        addresses_only in any::<bool>(),
    ) {
        let mut zone = Zone::default().cname("d3.example", "d0.example").a("d4.example", "192.0.2.4");
        for n in 0..3 {
            zone = zone.mx(&format!("d{n}.example"), 10, "mx.example").mx(&format!("d{n}.example"), 20, &format!("mx{n}.example"));
            zone = zone.a(&format!("mx{n}.example"), "192.0.2.9");
        }
        let zone = zone.a("mx.example", "192.0.2.1").aaaa("mx.example", "2001:db8::1");
        let all = ["192.0.2.53:53", "192.0.2.54:53", "[2001:db8::53]:53"];
        let settings = DnsSettings {
            servers: all[..servers].iter().map(|s| s.parse().unwrap()).collect(),
            attempts,
            timeout: ms(timeout),
            addresses_only,
            ..DnsSettings::default()
        };
        let mut asked = 0;
        let mut world = World::with_settings(&settings, |ask| {
            asked += 1;
            let (behaviour, delay, twice) = &script[asked % script.len()];
            let mut acts = behaviour.act(ask, &zone, asked);
            for (at, _) in &mut acts {
                *at = ms(u64::from(*delay));
            }
            if *twice {
                acts.extend(acts.clone());
            }
            acts
        });
        // Two questions, one after the other; nobody waits for a free exchange here.
        let longest = 2 * limits::DNS_QUESTION_TIMEOUT;
        let mut pending: BTreeMap<String, Moment> = BTreeMap::new();
        let mut seen = 0;
        let mut check = |world: &World<'_>, pending: &mut BTreeMap<String, Moment>| {
            for event in &world.events[seen..] {
                let begun = pending.remove(&*event.domain).expect("pending, and named once");
                // To the step of this test.
                assert!(world.now.since(begun) <= longest + secs(1), "{:?}", world.now.since(begun));
                let expires = event.resolution.expires;
                assert!(expires <= world.now + limits::DNS_TTL_MAX && expires >= begun + limits::DNS_TTL_MIN);
            }
            seen = world.events.len();
        };
        for (which, pause) in domains {
            let domain = format!("d{which}.example");
            match world.resolver.resolve(&domain, world.now) {
                Answer::Pending => _ = pending.entry(domain).or_insert(world.now),
                Answer::Ready(resolution) => {
                    assert!(resolution.is_fresh(world.now) && !pending.contains_key(&domain));
                }
            }
            // By steps, so that the time of each event is known.
            for _ in 0..8 {
                let end = world.now + ms(u64::from(pause) / 8);
                world.run_until(end);
                check(&world, &mut pending);
            }
        }
        let end = world.now + longest + secs(1);
        while world.now < end && !pending.is_empty() {
            let next = world.now + secs(1);
            world.run_until(next);
            check(&world, &mut pending);
        }
        assert!(pending.is_empty(), "{pending:?}");
        world.run();
    }
}
