//! What is kept, for how long, and what is asked once for several.

use super::*;
use crate::limits;

fn short(zone: Zone, ttl: u32) -> Zone {
    zone.with("example.com", 1000, RData::MX(MX::new(10, name("mx.example")))).with(
        "mx.example",
        ttl,
        RData::A(A("192.0.2.1".parse().unwrap())),
    )
}

#[test]
fn ttl_is_honoured_and_only_what_ran_out_is_asked_again() {
    let zone = short(Zone::default(), 100);
    let settings = DnsSettings {
        servers: vec![S1.parse().unwrap()],
        families: AddressFamilies::Ipv4Only,
        ..DnsSettings::default()
    };
    let mut world = World::with_settings(&settings, |ask| zone.answer(ask));
    let first = world.resolve("example.com");
    let at = world.now;
    assert_eq!(first.expires, at + secs(100), "the address runs out first");
    world.now = at + ms(99_999);
    assert!(Rc::ptr_eq(&first, &world.resolve("EXAMPLE.com")), "kept as it is");
    assert_eq!(world.resolver.counters().cache_hits, 1);
    world.now = at + secs(100);
    let second = world.resolve("example.com");
    assert!(!Rc::ptr_eq(&first, &second));
    assert_eq!(world.asked_names()[2..], [("mx.example".to_owned(), RecordType::A)], "MX holds for 1000 s");
}

#[test]
fn ttl_is_kept_within_bounds() {
    for (ttl, kept) in
        [(0, limits::DNS_TTL_MIN), (u32::MAX, limits::DNS_TTL_MIN), (i32::MAX as u32, limits::DNS_TTL_MAX)]
    {
        let zone = Zone::default().with("example.com", ttl, RData::MX(MX::new(0, Name::root())));
        let mut world = World::new(|ask| zone.answer(ask));
        let resolution = world.resolve("example.com");
        assert_eq!(resolution.expires, world.now + kept, "{ttl}");
    }
}

#[test]
fn the_ttl_of_an_alias_counts() {
    let zone = Zone::default().with("example.com", 20, RData::CNAME(CNAME(name("real.example")))).with(
        "real.example",
        500,
        RData::MX(MX::new(0, Name::root())),
    );
    let mut world = World::new(|ask| zone.answer(ask));
    let resolution = world.resolve("example.com");
    assert_eq!(resolution.expires, world.now + secs(20));

    let mut step_by_step = World::new(|ask| {
        let mut message = zone.message(ask);
        message.answers.truncate(1);
        ask.send(&message)
    });
    let resolution = step_by_step.resolve("example.com");
    assert_eq!((resolution.expires, step_by_step.asked.len()), (step_by_step.now + secs(20), 2));
}

#[test]
fn negatives_are_kept_as_the_soa_says() {
    // (TTL of the SOA, its MINIMUM, kept)
    for (ttl, minimum, kept) in [
        (60, 30, secs(30)),
        (30, 60, secs(30)),
        (999_999, 999_999, limits::DNS_NEGATIVE_TTL_MAX),
        (0, 60, limits::DNS_TTL_MIN),
    ] {
        let mut world = World::new(|ask| {
            let mut message = ask.reply();
            message.metadata.response_code = ResponseCode::NXDomain;
            message.add_authority(soa(ttl, minimum));
            ask.send(&message)
        });
        let resolution = world.resolve("gone.example");
        assert_eq!(resolution.verdict, Verdict::NoSuchDomain);
        assert_eq!(resolution.expires, world.now + kept);
        world.now = resolution.expires - ms(1);
        world.resolve("gone.example");
        assert_eq!(world.asked.len(), 1);
        world.now = resolution.expires;
        world.resolve("gone.example");
        assert_eq!(world.asked.len(), 2);
    }
}

#[test]
fn no_data_is_kept_too() {
    let mut world = World::new(|ask| {
        let mut message = ask.reply();
        message.add_authority(soa(60, 40));
        ask.send(&message)
    });
    let resolution = world.resolve("empty.example");
    assert_eq!(resolution.verdict, Verdict::NoMailHost);
    assert!(resolution.expires > world.now + secs(39) && resolution.expires <= world.now + secs(40));
    assert_eq!(world.asked.len(), 3, "MX, A, AAAA");

    let mut without_soa = World::new(|ask| ask.send(&ask.reply()));
    let resolution = without_soa.resolve("empty.example");
    assert_eq!(resolution.verdict, Verdict::NoMailHost);
    assert_eq!(resolution.expires, without_soa.now + limits::DNS_TTL_MIN);
}

#[test]
fn failures_are_kept_briefly() {
    let mut world = World::new(|ask| ask.code(ResponseCode::ServFail));
    let resolution = world.resolve("example.com");
    assert_eq!(resolution.expires, world.now + limits::DNS_FAILURE_TTL);
    world.resolve("example.com");
    assert_eq!(world.asked.len(), 2, "each server once");
    world.now = resolution.expires;
    world.resolve("example.com");
    assert_eq!(world.asked.len(), 4);
}

#[test]
fn equal_domains_share_one_event() {
    let zone = short(Zone::default(), 100);
    let mut world = World::new(|ask| zone.answer(ask));
    for spelling in ["example.com", "EXAMPLE.COM", "example.com."] {
        assert_eq!(world.resolver.resolve(spelling, world.now), Answer::Pending);
    }
    world.run();
    assert_eq!(world.events.len(), 1);
    assert_eq!(&*world.events[0].domain, "example.com");
    assert_eq!(world.resolver.counters().coalesced, 2);
    assert_eq!(world.asked.len(), 3);
}

#[test]
fn domains_share_the_addresses_of_their_hosts() {
    let mut zone = Zone::default().a("mx.example", "192.0.2.1").aaaa("mx.example", "2001:db8::1");
    for i in 0..50 {
        zone = zone.mx(&format!("d{i}.example"), 10, "mx.example");
    }
    let mut world = World::new(|ask| zone.answer(ask));
    for i in 0..50 {
        assert_eq!(world.resolver.resolve(&format!("d{i}.example"), world.now), Answer::Pending);
    }
    world.run();
    assert_eq!(world.events.len(), 50);
    assert!(world.events.iter().all(|e| hosts(&e.resolution) == ["10 mx.example 2001:db8::1 192.0.2.1"]));
    assert_eq!(world.asked.len(), 52, "50 MX, one A, one AAAA");
}

#[test]
fn caches_are_bounded() {
    let settings = DnsSettings {
        servers: vec![S1.parse().unwrap()],
        cached_domains: 10,
        cached_answers: 20,
        ..DnsSettings::default()
    };
    let zone = short(Zone::default(), 100);
    let mut world = World::with_settings(&settings, |ask| zone.answer(ask));
    let kept = world.resolve("example.com");
    for i in 0..1000 {
        world.resolve(&format!("d{i}.example"));
        assert!(Rc::ptr_eq(&kept, &world.resolve("example.com")), "what is used stays");
        assert!(world.resolver.cached_domains() <= 10 && world.resolver.cached_answers() <= 20);
    }
}

#[test]
fn a_host_that_came_late_is_used_soon() {
    let zone = Zone::default()
        .mx("example.com", 10, "slow.example")
        .mx("example.com", 20, "fast.example")
        .a("slow.example", "192.0.2.1")
        .a("fast.example", "192.0.2.2");
    let mut world = World::new(|ask| {
        let mut acts = zone.answer(ask);
        if ask.name == "slow.example" {
            acts[0].0 = limits::DNS_REST_TIMEOUT + ms(500);
        }
        acts
    });
    let first = world.resolve("example.com");
    assert_eq!(hosts(&first), ["20 fast.example 192.0.2.2"]);
    world.now = world.now.max(first.expires);
    let asked = world.asked.len();
    assert_eq!(hosts(&world.resolve("example.com")), ["10 slow.example 192.0.2.1", "20 fast.example 192.0.2.2"]);
    let again: Vec<_> = world.asked_names()[asked..].iter().filter(|ask| ask.1 != RecordType::AAAA).cloned().collect();
    assert_eq!(again, [], "its late answer was kept");
}
