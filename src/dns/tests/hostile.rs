//! Answers that are forged, broken, or no answers.

use super::*;
use crate::limits;

fn simple() -> Zone {
    Zone::default().mx("example.com", 10, "mx.example").a("mx.example", "192.0.2.1").aaaa("mx.example", "2001:db8::1")
}

const SIMPLE: &str = "10 mx.example 2001:db8::1 192.0.2.1";

fn evil(ask: &Ask) -> Message {
    let mut message = ask.reply();
    message.add_answer(Record::from_rdata(name(&ask.name), 60, RData::MX(MX::new(1, name("evil.example")))));
    message.add_answer(Record::from_rdata(name(&ask.name), 60, RData::A(A("203.0.113.66".parse().unwrap()))));
    message
}

#[test]
fn what_does_not_answer_the_query_is_passed_over_and_counted() {
    type Forgery = fn(&Ask, &mut Message);
    let forgeries: [(&str, Forgery); 8] = [
        ("id", |_, m| m.metadata.id = m.metadata.id.wrapping_add(1)),
        ("no response", |_, m| m.metadata.message_type = MessageType::Query),
        ("opcode", |_, m| m.metadata.op_code = OpCode::Status),
        ("name", |_, m| m.queries[0].name = name("other.example")),
        ("type", |_, m| m.queries[0].query_type = RecordType::TXT),
        ("class", |_, m| m.queries[0].query_class = hickory_proto::rr::DNSClass::CH),
        ("no question", |_, m| m.queries.clear()),
        ("two questions", |_, m| {
            let question = m.queries[0].clone();
            m.add_query(question);
        }),
    ];
    let zone = simple();
    for (what, forge) in forgeries {
        let mut world = World::new(|ask| {
            let mut message = evil(ask);
            forge(ask, &mut message);
            let mut acts = ask.send(&message);
            acts.extend(zone.answer(ask).into_iter().map(|(_, input)| (ms(2), input)));
            acts
        });
        assert_eq!(hosts(&world.resolve("example.com")), [SIMPLE], "{what}");
        assert_eq!(world.resolver.counters().mismatched, 3, "{what}");
        assert_eq!(world.asked.len(), 3, "{what}: waited on");
    }
}

#[test]
fn names_compare_without_case() {
    let zone = simple();
    let mut world = World::new(|ask| {
        let mut message = zone.message(ask);
        let upper = name(&ask.name.to_ascii_uppercase());
        message.queries[0].name = upper.clone();
        for record in &mut message.answers {
            record.name = upper.clone();
        }
        ask.send(&message)
    });
    assert_eq!(hosts(&world.resolve("example.com")), [SIMPLE]);
}

#[test]
fn records_of_other_names_and_classes_are_not_taken() {
    let mut world = World::new(|ask| {
        let mut message = ask.reply();
        message.add_answer(Record::from_rdata(name("other.example"), 60, RData::MX(MX::new(1, name("evil.example")))));
        let mut chaos = Record::from_rdata(name(&ask.name), 60, RData::MX(MX::new(1, name("evil.example"))));
        chaos.dns_class = hickory_proto::rr::DNSClass::CH;
        message.add_answer(chaos);
        message.additionals.push(Record::from_rdata(name(&ask.name), 60, RData::A(A("203.0.113.66".parse().unwrap()))));
        message.add_authority(soa(60, 60));
        ask.send(&message)
    });
    assert_eq!(world.resolve("example.com").verdict, Verdict::NoMailHost);
}

#[test]
fn guessing_moves_the_question_to_tcp() {
    let zone = simple();
    let mut world = World::new(|ask| {
        if ask.tcp {
            return zone.answer(ask);
        }
        let mut message = evil(ask);
        (0..limits::DNS_MISMATCHES)
            .flat_map(|i| {
                message.metadata.id = ask.message.metadata.id ^ (1 + i as u16);
                ask.send(&message)
            })
            .chain([(ms(2), Input::Datagram(evil(ask).to_vec().unwrap()))])
            .collect()
    });
    assert_eq!(hosts(&world.resolve("example.com")), [SIMPLE], "a right guess after that is too late");
    assert_eq!(world.asked.iter().filter(|ask| ask.tcp).count(), 3);
}

#[test]
fn an_unreadable_answer_is_a_failed_try() {
    let zone = simple();
    let mut world = World::new(|ask| {
        let mut bytes = zone.message(ask).to_vec().unwrap();
        if ask.server.to_string() == S1 {
            bytes.truncate(bytes.len() - 3);
        }
        ask.send_raw(bytes)
    });
    assert_eq!(hosts(&world.resolve("example.com")), [SIMPLE]);
    let mut world = World::new(|ask| {
        let mut bytes = zone.message(ask).to_vec().unwrap();
        bytes.truncate(bytes.len() - 3);
        ask.send_raw(bytes)
    });
    assert!(reason(&world.resolve("example.com")).contains("unreadable"));
}

/// Found by the simulator's garbled answers: a record that lost its data read as one of no interest, so the answer said
/// "no such record", and mail bounced for good where the question had to go to the next server.
#[test]
fn a_record_without_data_is_unreadable_and_not_missing() {
    let zone = simple();
    let mut world = World::new(|ask| {
        let mut message = zone.message(ask);
        for record in &mut message.answers {
            record.data = RData::Update0(record.record_type());
        }
        ask.send(&message)
    });
    assert!(reason(&world.resolve("example.com")).contains("unreadable"));
    let mut world = World::new(|ask| {
        let mut message = zone.message(ask);
        if ask.server.to_string() == S1 {
            message.answers.iter_mut().for_each(|record| record.data = RData::Update0(record.record_type()));
        }
        ask.send(&message)
    });
    assert_eq!(hosts(&world.resolve("example.com")), [SIMPLE]);
}

#[test]
fn late_answers_and_foreign_exchanges_are_harmless() {
    let zone = simple();
    let mut world = World::new(|ask| {
        let mut acts = if ask.server.to_string() == S1 { ask.send(&evil(ask)) } else { zone.answer(ask) };
        if ask.server.to_string() == S1 {
            acts[0].0 = ms(5001);
        }
        acts
    });
    assert_eq!(hosts(&world.resolve("example.com")), [SIMPLE]);
    for id in [0, 1, u64::MAX, 1 << 16] {
        world.resolver.handle_datagram(ExchangeId(id), b"x", world.now);
        world.resolver.handle_stream(ExchangeId(id), b"x", world.now);
        world.resolver.handle_failed(ExchangeId(id), world.now);
    }
    world.resolver.handle_timeout(Moment::NEVER);
    world.run();
}

#[test]
fn a_stream_of_nonsense_is_bounded() {
    let mut world = World::new(|ask| {
        if !ask.tcp {
            let mut message = ask.reply();
            message.metadata.truncation = true;
            return ask.send(&message);
        }
        (0..100).map(|_| (ms(1), Input::Stream(vec![0xff; 8192]))).collect()
    });
    assert!(reason(&world.resolve("example.com")).contains("answered another question"));
}

#[test]
fn compression_bombs_end() {
    // The answer's name points at a chain of pointers, the longest a message holds, and one at itself.
    let mut world = World::new(|ask| {
        let mut bytes = ask.reply().to_vec().unwrap();
        bytes[6..8].copy_from_slice(&4000u16.to_be_bytes());
        let start = bytes.len();
        bytes.extend((0xc000 | start as u16).to_be_bytes());
        while bytes.len() < 16_000 {
            let back = bytes.len() as u16 - 2;
            bytes.extend((0xc000 | back).to_be_bytes());
        }
        ask.send_raw(bytes)
    });
    assert!(reason(&world.resolve("example.com")).contains("unreadable"));
}

fn xorshift(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// A network that loses, delays, doubles, cuts and refuses; domains that share hosts; questions at any time.
fn storm(seed: u64) -> (Vec<Vec<u8>>, Vec<Resolved>) {
    let mut zone = Zone::default();
    for i in 0..200 {
        let domain = format!("d{i}.example");
        zone = match i % 5 {
            0 => zone.a(&domain, "192.0.2.9"),
            1 => zone.cname(&domain, &format!("d{}.example", i + 1)),
            _ => {
                zone.mx(&domain, 10, &format!("mx{}.example", i % 7)).mx(&domain, 10, &format!("mx{}.example", i % 11))
            }
        };
    }
    for i in 0..9 {
        zone = zone.a(&format!("mx{i}.example"), "192.0.2.1").aaaa(&format!("mx{i}.example"), "2001:db8::1");
    }
    let mut next = xorshift(seed);
    let mut world = World::new(|ask| {
        let mut acts = match next() % 10 {
            0 | 1 => vec![],
            2 => ask.code(ResponseCode::ServFail),
            3 => vec![(ms(1), Input::Failed)],
            4 if !ask.tcp => {
                let mut message = ask.reply();
                message.metadata.truncation = true;
                ask.send(&message)
            }
            _ => zone.answer(ask),
        };
        if next().is_multiple_of(4) {
            acts.extend(acts.clone());
        }
        for (delay, _) in &mut acts {
            *delay = ms(next() % if next().is_multiple_of(8) { 9000 } else { 50 });
        }
        acts
    });
    let mut next = xorshift(seed ^ 0xff);
    let (mut pending, mut events) = (BTreeSet::new(), 0);
    for _ in 0..1000 {
        let domain = format!("d{}.example", next() % 220);
        match world.resolver.resolve(&domain, world.now) {
            Answer::Pending => _ = pending.insert(domain),
            Answer::Ready(resolution) => assert!(resolution.is_fresh(world.now) && !pending.contains(&domain)),
        }
        let end = world.now + ms(next() % 300);
        world.run_until(end);
        for event in &world.events[events..] {
            assert!(pending.remove(&*event.domain), "{} was not pending", event.domain);
            assert!(event.resolution.expires >= world.now, "good for a while");
        }
        events = world.events.len();
    }
    world.run();
    for event in &world.events[events..] {
        assert!(pending.remove(&*event.domain));
    }
    assert!(pending.is_empty(), "{pending:?}");
    (world.payloads, world.events)
}

#[test]
fn in_a_storm_each_pending_domain_gets_one_event_and_equal_seeds_equal_runs() {
    for seed in 1..4 {
        let (payloads, events) = storm(seed);
        assert!(events.len() > 200);
        let good = events.iter().filter(|event| !event.resolution.hosts().is_empty()).count();
        assert!(good * 2 > events.len(), "{good} of {} have hosts", events.len());
        assert_eq!((payloads, events), storm(seed));
    }
}

#[test]
fn an_answer_for_a_domain_that_ended_does_not_reach_the_next_in_its_place() {
    let zone = simple().mx("next.example", 10, "other.example").a("other.example", "192.0.2.2");
    let mut world = World::new(|ask| {
        let mut acts = zone.answer(ask);
        if ask.kind == RecordType::AAAA && ask.name == "mx.example" {
            acts[0].0 = secs(3);
        }
        if ask.name == "next.example" {
            acts[0].0 = secs(2);
        }
        acts
    });
    assert_eq!(world.resolver.resolve("example.com", world.now), Answer::Pending);
    let end = world.now + limits::DNS_REST_TIMEOUT + ms(100);
    world.run_until(end);
    assert_eq!((world.events.len(), world.resolver.pending()), (1, 0));
    assert_eq!(world.resolver.resolve("next.example", world.now), Answer::Pending);
    world.run();
    assert_eq!(hosts(&world.events[1].resolution), ["10 other.example 192.0.2.2"]);
}

#[test]
fn bytes_of_any_kind_never_panic() {
    let zone = simple();
    let mut next = xorshift(0x9e37_79b9_7f4a_7c15);
    let mut world = World::new(|ask| {
        let mut acts = Vec::new();
        for _ in 0..4 {
            let mut bytes = zone.message(ask).to_vec().unwrap();
            match next() % 3 {
                0 => bytes = (0..next() % 600).map(|_| next() as u8).collect(),
                1 => {
                    // Id and question stay, so that the mutation gets past the first checks.
                    for _ in 0..1 + next() % 8 {
                        let at = 2 + (next() as usize) % (bytes.len() - 2);
                        if !(12..34).contains(&at) {
                            bytes[at] = next() as u8;
                        }
                    }
                }
                _ => bytes.truncate((next() as usize) % (bytes.len() + 1)),
            }
            acts.extend(ask.send_raw(bytes));
        }
        acts
    });
    for i in 0..1000 {
        let domain = if i % 2 == 0 { "example.com".to_owned() } else { format!("d{i}.example") };
        world.resolve(&domain);
        world.now = world.now + secs(30);
    }
    assert!(world.resolver.counters().mismatched > 300);
}
