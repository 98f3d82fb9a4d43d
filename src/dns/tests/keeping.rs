//! What is used beyond its time, what is asked for before it is over, and the case of questions (0x20).

use super::*;
use crate::limits;
use std::cell::{Cell, RefCell};

fn one_server(settings: DnsSettings) -> DnsSettings {
    DnsSettings { servers: vec![S1.parse().unwrap()], families: AddressFamilies::Ipv4Only, ..settings }
}

fn zone() -> Zone {
    Zone::default().mx("example.com", 10, "mx.example").a("mx.example", "192.0.2.1")
}

#[test]
fn a_known_route_is_used_where_dns_fails_for_a_day() {
    // RFC 8767.
    let (zone, works) = (zone(), Cell::new(true));
    let mut world = World::with_settings(&one_server(DnsSettings::default()), |ask| {
        if works.get() { zone.answer(ask) } else { ask.code(ResponseCode::ServFail) }
    });
    let first = world.resolve("example.com");
    works.set(false);
    world.now = first.expires;
    let stale = world.resolve("example.com");
    assert_eq!(stale.verdict, first.verdict);
    assert_eq!(stale.expires, world.now + limits::DNS_STALE_TTL);
    assert_eq!(world.resolver.counters().stale, 1);
    // Within that time nobody is asked.
    let asked = world.asked.len();
    assert!(Rc::ptr_eq(&stale, &world.resolve("example.com")));
    assert_eq!(world.asked.len(), asked);
    // Then again and again, but only so long.
    let end = first.expires + limits::DNS_STALE_MAX;
    while world.now + secs(60) < end {
        world.now = world.now + limits::DNS_STALE_MAX / 10;
        let expected = world.now < end;
        assert_eq!(world.resolve("example.com").hosts().len(), usize::from(expected), "{:?}", world.now);
    }
    // What DNS says counts at once when it is back, also that there is nothing.
    let mut gone = World::with_settings(&one_server(DnsSettings::default()), |ask| {
        if works.get() { zone.answer(ask) } else { ask.code(ResponseCode::NXDomain) }
    });
    works.set(true);
    let first = gone.resolve("example.com");
    works.set(false);
    gone.now = first.expires;
    assert_eq!(gone.resolve("example.com").verdict, Verdict::NoSuchDomain, "that is an answer, no failure");
}

#[test]
fn nothing_stale_is_used_where_it_is_not_wanted_or_was_no_route() {
    let (zone, works) = (zone(), Cell::new(true));
    let answer = |ask: &Ask| if works.get() { zone.answer(ask) } else { ask.code(ResponseCode::ServFail) };
    for (serve_stale, domain) in [(Duration::ZERO, "example.com"), (limits::DNS_STALE_MAX, "gone.example")] {
        works.set(true);
        let mut world =
            World::with_settings(&one_server(DnsSettings { serve_stale, ..DnsSettings::default() }), answer);
        let first = world.resolve(domain);
        works.set(false);
        world.now = first.expires;
        assert!(matches!(world.resolve(domain).verdict, Verdict::Temporary { .. }), "{domain}");
    }
}

#[test]
fn a_busy_name_is_asked_for_before_its_time_is_over_and_nobody_waits() {
    let zone = zone();
    let mut world = World::with_settings(&one_server(DnsSettings::default()), |ask| zone.answer(ask));
    let first = world.resolve("example.com");
    let learned = world.now;
    let busy = |world: &mut World<'_>| (0..limits::DNS_PREFETCH_USES).for_each(|_| drop(world.resolve("example.com")));
    world.now = learned + secs(100);
    busy(&mut world);
    assert_eq!(world.asked.len(), 2, "it is young");
    world.now = learned + secs(271);
    assert!(Rc::ptr_eq(&first, &world.resolve("example.com")));
    assert_eq!(world.asked.len(), 3, "asked for, and used on");
    world.run();
    assert_eq!((world.asked.len(), world.events.len()), (4, 1), "MX and A again; no event");
    let second = world.resolve("example.com");
    assert!(second.expires >= learned + secs(571) && world.resolver.counters().prefetched == 1);
    // A name that is seldom asked for just ends.
    world.now = second.expires - secs(1);
    world.resolve("example.com");
    assert_eq!(world.asked.len(), 4);
}

#[test]
fn who_asks_while_a_name_is_fetched_ahead_has_an_event() {
    let (zone, delay) = (zone(), Cell::new(ms(1)));
    let mut world =
        World::with_settings(&one_server(DnsSettings { timeout: secs(20), ..DnsSettings::default() }), |ask| {
            let mut acts = zone.answer(ask);
            acts[0].0 = delay.get();
            acts
        });
    let first = world.resolve("example.com");
    delay.set(secs(5));
    world.now = first.expires - secs(2);
    (0..=limits::DNS_PREFETCH_USES).for_each(|_| drop(world.resolve("example.com")));
    assert_eq!(world.resolver.counters().prefetched, 1);
    world.run_until(first.expires + secs(1));
    assert_eq!(world.resolver.resolve("example.com", world.now), Answer::Pending);
    world.run();
    assert_eq!(world.events.len(), 2);
}

#[test]
fn a_failed_prefetch_takes_nothing_away() {
    let (zone, works) = (zone(), Cell::new(true));
    let mut world = World::with_settings(&one_server(DnsSettings::default()), |ask| {
        if works.get() { zone.answer(ask) } else { ask.code(ResponseCode::ServFail) }
    });
    let first = world.resolve("example.com");
    works.set(false);
    world.now = first.expires - secs(5);
    (0..=limits::DNS_PREFETCH_USES).for_each(|_| drop(world.resolve("example.com")));
    world.run();
    assert_eq!((world.resolver.counters().prefetched, world.resolver.counters().unanswered), (1, 1));
    assert!(Rc::ptr_eq(&first, &world.resolve("example.com")));
    assert_eq!(world.resolver.counters().stale, 0);
}

#[test]
fn an_operator_sets_how_long_answers_are_kept() {
    let zone = zone();
    let ttl = (secs(600), secs(1200));
    let mut world =
        World::with_settings(&one_server(DnsSettings { ttl, ..DnsSettings::default() }), |ask| zone.answer(ask));
    let asked_at = world.now;
    assert!(world.resolve("example.com").expires >= asked_at + secs(600), "its TTL is 300 s");
}

/// The case of a question, as it came.
fn case_of(ask: &Ask) -> String {
    ask.message.queries[0].name.to_ascii()
}

#[test]
fn questions_go_in_random_case_and_must_come_back_in_it() {
    let (zone, asked) = (zone(), RefCell::new(BTreeSet::new()));
    let mut world = World::with_settings(&one_server(DnsSettings::default()), |ask| {
        asked.borrow_mut().insert(case_of(ask));
        zone.answer(ask)
    });
    assert_eq!(hosts(&world.resolve("example.com")), ["10 mx.example 192.0.2.1"]);
    for i in 0..20 {
        world.resolve(&format!("d{i}.example.com"));
    }
    let mixed = asked.borrow().iter().filter(|name| **name != name.to_ascii_lowercase()).count();
    assert!(mixed >= 20, "{:?}", asked.borrow());
    assert_eq!(world.resolver.counters().case_lost, 0);
    let settings = DnsSettings { random_case: false, ..DnsSettings::default() };
    let mut plain = World::with_settings(&one_server(settings), |ask| {
        assert_eq!(case_of(ask), case_of(ask).to_ascii_lowercase());
        zone.answer(ask)
    });
    plain.resolve("example.com");
}

/// An answer whose question is in lower case.
fn lowered(zone: &Zone, ask: &Ask) -> Vec<Act> {
    let mut message = zone.message(ask);
    message.queries[0].name = message.queries[0].name.to_lowercase();
    ask.send(&message)
}

#[test]
fn an_answer_in_another_case_is_asked_for_by_tcp_and_the_server_in_lower_case_then() {
    let zone = zone();
    let mut world = World::with_settings(&one_server(DnsSettings::default()), |ask| lowered(&zone, ask));
    assert_eq!(hosts(&world.resolve("example.com")), ["10 mx.example 192.0.2.1"]);
    let how: Vec<bool> = world.asked.iter().map(|ask| ask.tcp).collect();
    assert_eq!(how, [false, true, false], "once by TCP, then it is known");
    assert_eq!(world.resolver.counters().case_lost, 1);
}

#[test]
fn a_server_that_loses_the_case_and_has_no_tcp_is_believed_in_lower_case() {
    let zone = zone();
    let mut world = World::with_settings(&one_server(DnsSettings::default()), |ask| {
        if ask.tcp { vec![(ms(1), Input::Failed)] } else { lowered(&zone, ask) }
    });
    assert_eq!(hosts(&world.resolve("example.com")), ["10 mx.example 192.0.2.1"]);
}

#[test]
fn a_forged_answer_in_the_wrong_case_is_not_believed() {
    let (zone, evil) = (zone(), Zone::default().mx("example.com", 10, "evil.example").a("evil.example", "192.0.2.66"));
    let mut world = World::with_settings(&one_server(DnsSettings::default()), |ask| {
        // It has guessed id and port, and comes first.
        let forged = if ask.tcp { Vec::new() } else { lowered(&evil, ask) };
        forged.into_iter().chain(zone.answer(ask).into_iter().map(|(_, input)| (ms(2), input))).collect()
    });
    assert_eq!(hosts(&world.resolve("example.com")), ["10 mx.example 192.0.2.1"]);
}
