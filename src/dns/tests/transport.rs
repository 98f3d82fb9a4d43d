//! How one question gets answered: servers, tries, transports.

use super::*;
use crate::limits;

fn simple() -> Zone {
    Zone::default().mx("example.com", 10, "mx.example").a("mx.example", "192.0.2.1").aaaa("mx.example", "2001:db8::1")
}

const SIMPLE: &str = "10 mx.example 2001:db8::1 192.0.2.1";

#[test]
fn the_query_is_well_formed_and_ids_differ() {
    let zone = simple();
    let mut world = World::new(|ask| zone.answer(ask));
    for i in 0..200 {
        world.resolve(&format!("d{i}.example"));
    }
    let ids: BTreeSet<u16> = world.asked.iter().map(|ask| ask.message.metadata.id).collect();
    assert!(ids.len() > 190, "200 ids of 65,536: {} different", ids.len());
    let edns = world.asked[0].message.edns.as_ref().unwrap();
    assert_eq!((edns.max_payload(), edns.version()), (1232, 0));
    assert!(world.asked.iter().all(|ask| ask.server.to_string() == S1), "the first listed, while it works");
}

#[test]
fn the_seed_decides_everything() {
    let run = |seed| {
        let zone = simple();
        let mut world = World::new(|ask| zone.answer(ask));
        world.resolver = Resolver::new(&DnsSettings { servers: vec![S1.parse().unwrap()], ..Default::default() }, seed);
        world.resolve("example.com");
        world.payloads
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn truncated_answers_go_over_tcp_in_any_pieces() {
    let zone = simple();
    for piece in [1, 2, 3, 7, 1000] {
        let mut world = World::new(|ask| {
            let mut message = zone.message(ask);
            if !ask.tcp {
                message.metadata.truncation = true;
                message.answers.clear();
                return ask.send(&message);
            }
            let [(_, Input::Stream(stream))] = &ask.send(&message)[..] else { unreachable!() };
            stream.chunks(piece).map(|chunk| (ms(1), Input::Stream(chunk.to_vec()))).collect()
        });
        assert_eq!(hosts(&world.resolve("example.com")), [SIMPLE]);
        assert_eq!(world.asked.len(), 6);
        assert_eq!(world.resolver.counters().truncated, 3);
        assert_eq!(world.resolver.counters().queries, 6);
    }
}

#[test]
fn tcp_that_fails_moves_to_the_next_server() {
    let zone = simple();
    let mut world = World::new(|ask| match (ask.server.to_string().as_str(), ask.tcp) {
        (S1, false) => {
            let mut message = ask.reply();
            message.metadata.truncation = true;
            ask.send(&message)
        }
        (S1, true) => vec![(ms(1), Input::Stream(vec![0])), (ms(2), Input::Failed)],
        _ => zone.answer(ask),
    });
    assert_eq!(hosts(&world.resolve("example.com")), [SIMPLE]);
}

#[test]
fn failover_and_avoidance() {
    let zone = simple();
    let mut world = World::new(|ask| if ask.server.to_string() == S1 { vec![] } else { zone.answer(ask) });
    let start = world.now;
    assert_eq!(hosts(&world.resolve("example.com")), [SIMPLE]);
    assert!(world.now.since(start) < secs(4), "one timeout, then the other server");
    assert_eq!(world.asked.iter().filter(|ask| ask.server.to_string() == S1).count(), 1, "then passed over");
    assert_eq!(world.resolver.counters().timeouts, 1);
    world.now = world.now + limits::DNS_AVOID_MAX;
    world.resolve("other.example");
    assert_eq!(world.asked.iter().filter(|ask| ask.server.to_string() == S1).count(), 2, "tried again later");
}

#[test]
fn network_errors_move_on_at_once() {
    let zone = simple();
    let mut world =
        World::new(|ask| if ask.server.to_string() == S1 { vec![(ms(1), Input::Failed)] } else { zone.answer(ask) });
    let start = world.now;
    assert_eq!(hosts(&world.resolve("example.com")), [SIMPLE]);
    assert!(world.now.since(start) < secs(1));
}

#[test]
fn silence_everywhere_is_temporary_and_bounded() {
    let mut world = World::new(|_| vec![]);
    let start = world.now;
    let resolution = world.resolve("example.com");
    assert_eq!(reason(&resolution), format!("MX example.com: {S1} no answer in time; {S2} no answer in time"));
    assert_eq!(world.now.since(start), secs(18), "2 servers, 3 rounds, 3 seconds");
    assert_eq!(world.asked.len(), 6);
    assert_eq!((world.resolver.counters().timeouts, world.resolver.counters().unanswered), (6, 1));

    let settings = DnsSettings {
        servers: (1..=8).map(|i| format!("192.0.2.{i}:53").parse().unwrap()).collect(),
        attempts: 1000,
        ..DnsSettings::default()
    };
    let mut world = World::with_settings(&settings, |_| vec![]);
    let start = world.now;
    assert!(reason(&world.resolve("example.com")).contains("no answer in time"));
    assert_eq!(world.now.since(start), limits::DNS_QUESTION_TIMEOUT);
}

#[test]
fn error_codes_are_not_asked_twice_and_are_named() {
    for (code, text) in [
        (ResponseCode::ServFail, "SERVFAIL"),
        (ResponseCode::Refused, "REFUSED"),
        (ResponseCode::NotAuth, "response code 9"),
    ] {
        let mut world = World::new(|ask| ask.code(code));
        assert_eq!(reason(&world.resolve("example.com")), format!("MX example.com: {S1} {text}; {S2} {text}"));
        assert_eq!(world.asked.len(), 2);
    }
    let mut lame = World::new(|ask| {
        let mut message = ask.reply();
        message.add_authority(ns());
        ask.send(&message)
    });
    assert!(reason(&lame.resolve("example.com")).contains("lame"));
    let mut empty = World::new(|ask| {
        let mut message = ask.reply();
        message.metadata.recursion_available = false;
        ask.send(&message)
    });
    assert!(reason(&empty.resolve("example.com")).contains("lame"));
}

#[test]
fn one_server_failing_is_not_a_failure() {
    let zone = simple();
    for code in [ResponseCode::ServFail, ResponseCode::Refused] {
        let mut world = World::new(|ask| if ask.server.to_string() == S1 { ask.code(code) } else { zone.answer(ask) });
        assert_eq!(hosts(&world.resolve("example.com")), [SIMPLE]);
    }
}

#[test]
fn a_server_without_edns_is_asked_without() {
    let zone = simple();
    for bare in [false, true] {
        let mut world = World::new(|ask| {
            if !ask.edns() {
                return zone.answer(ask);
            }
            let mut message = ask.reply();
            message.metadata.response_code = ResponseCode::FormErr;
            if bare {
                message.queries.clear();
            }
            ask.send(&message)
        });
        assert_eq!(hosts(&world.resolve("example.com")), [SIMPLE]);
        let edns: Vec<bool> = world.asked.iter().map(Ask::edns).collect();
        assert_eq!(edns, [true, false, false, false], "once, then remembered");
        assert!(world.asked.iter().all(|ask| ask.server.to_string() == S1));
    }
    let mut world = World::new(|ask| ask.code(ResponseCode::FormErr));
    assert!(reason(&world.resolve("example.com")).contains("FORMERR"));
    assert_eq!(world.asked.len(), 4, "each with and without");
}

#[test]
fn random_order_spreads_over_servers() {
    let zone = simple();
    let settings = DnsSettings {
        servers: vec![S1.parse().unwrap(), S2.parse().unwrap()],
        server_order: ServerOrder::Random,
        ..DnsSettings::default()
    };
    let mut world = World::with_settings(&settings, |ask| zone.answer(ask));
    for i in 0..100 {
        world.resolve(&format!("d{i}.example"));
    }
    let first = world.asked.iter().filter(|ask| ask.server.to_string() == S1).count();
    assert!((25..=75).contains(&first), "{first} of 100");
}

#[test]
fn without_servers_everything_is_temporary() {
    let mut world = World::with_settings(&DnsSettings::default(), |_| vec![]);
    assert!(reason(&world.resolve("example.com")).contains("no DNS servers"));
}

#[test]
fn exchanges_are_bounded_and_the_rest_waits() {
    let zone = simple();
    let mut world = World::new(|ask| zone.answer(ask));
    let many = limits::DNS_EXCHANGES * 3;
    for i in 0..many {
        assert_eq!(world.resolver.resolve(&format!("d{i}.example"), world.now), Answer::Pending);
    }
    assert_eq!(world.resolver.exchanges(), limits::DNS_EXCHANGES);
    world.run();
    assert_eq!(world.events.len(), many);
    let domains: BTreeSet<_> = world.events.iter().map(|event| event.domain.to_string()).collect();
    assert_eq!(domains.len(), many, "each once");
    assert!(world.events.iter().all(|event| event.resolution.verdict == Verdict::NoSuchDomain));
}

#[test]
fn waiting_for_an_exchange_ends_too() {
    let mut world = World::new(|_| vec![]);
    let start = world.now;
    for i in 0..limits::DNS_PENDING_DOMAINS {
        assert_eq!(world.resolver.resolve(&format!("d{i}.example"), world.now), Answer::Pending);
    }
    let Answer::Ready(refused) = world.resolver.resolve("late.example", world.now) else { panic!("bounded") };
    assert!(reason(&refused).contains("too many"));
    world.run();
    assert_eq!(world.events.len(), limits::DNS_PENDING_DOMAINS);
    assert!(world.now.since(start) <= 2 * limits::DNS_QUESTION_TIMEOUT);
    assert!(world.events.iter().any(|event| reason(&event.resolution).contains("were waiting")));
}

#[test]
fn a_place_in_the_queue_is_not_inherited() {
    let mut world = World::new(|_| vec![]);
    let start = world.now;
    for i in 0..limits::DNS_EXCHANGES * 3 {
        assert_eq!(world.resolver.resolve(&format!("d{i}.example"), world.now), Answer::Pending);
    }
    world.run_until(start + limits::DNS_QUESTION_TIMEOUT + secs(1));
    assert!(world.events.iter().any(|event| reason(&event.resolution).contains("were waiting")));
    for i in 0..limits::DNS_EXCHANGES {
        assert_eq!(world.resolver.resolve(&format!("n{i}.example"), world.now), Answer::Pending);
    }
    world.run();
    assert_eq!(world.events.len(), limits::DNS_EXCHANGES * 4);
}
