//! What comes before a client may send: PROXY headers, a greeting held back, patience with errors, questions to DNS about the
//! domains it names.

use super::edge::{RELAY, STRANGE, SUBMISSION, edge, edge_config, greeted, listener, plain, secure, tables};
use super::*;
use crate::config::{Config, Listener, ListenerKind, Networks};
use crate::limits;
use crate::rt::sim::LinkId;
use crate::shard::event::{self, Event};
use world::{CLIENTS, STRANGERS};

/// One listener.
fn only(listener: Listener) -> Config {
    let mut config = edge_config();
    config.listeners = vec![listener];
    config
}

fn behind_a_proxy(kind: ListenerKind) -> Config {
    let networks = Networks(vec!["127.0.0.0/8".parse().unwrap()]);
    only(Listener { proxy_networks: networks, ..listener(kind) })
}

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 127.0.0.1 4000 25\r\n").into_bytes()
}

fn v2(client: [u8; 4]) -> Vec<u8> {
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &client[..], &[127, 0, 0, 1, 1, 2, 0, 25]].concat()
}

const HELLO: &[u8] = b"EHLO c.test\r\n";
const ENVELOPE: &[u8] = b"MAIL FROM:<joe@sender.test>\r\nRCPT TO:<x@a.test>\r\n";

// --- PROXY ----------------------------------------------------------------------------------------------------------

#[test]
fn the_client_is_whom_the_proxy_names_in_any_split() {
    let headers = [
        (v1("127.3.2.1"), "127.3.2.1"),
        (v2([127, 3, 2, 1]), "127.3.2.1"),
        (v1(STRANGE), STRANGE),
        (v2([192, 0, 2, 77]), STRANGE),
    ];
    for (n, (header, client)) in headers.into_iter().enumerate() {
        for kind in [ListenerKind::Relay, ListenerKind::Submissions] {
            for cut in [1, header.len() / 2, header.len()] {
                let mut world = edge(400 + n as u64, behind_a_proxy(kind));
                let link = world.connect_to(0, 0, CLIENTS, 8192);
                world.send_plain(link, &header[..cut]);
                world.run(secs(1));
                assert!(cut == header.len() || world.client(link).heard.is_empty(), "not a word before it is whole");
                world.send_plain(link, &header[cut..]);
                if kind == ListenerKind::Submissions {
                    world.start_tls(link);
                }
                assert!(greeted(&mut world, link), "{header:?} {cut}");
                world.ask(link, HELLO, 1);
                let said = world.ask(link, ENVELOPE, 2).unwrap();
                let expected = match (kind, client) {
                    (ListenerKind::Relay, STRANGE) => "550 5.7.1",
                    (ListenerKind::Relay, _) => "250 2.1.5",
                    // Here nobody may without AUTH, wherever they come from.
                    _ => "503 5.5.1",
                };
                assert!(said.starts_with(expected), "{said}");
                if expected.starts_with('2') {
                    world.ask(link, b"DATA\r\n", 1);
                    world.ask(link, b"X-Test: 1\r\n\r\n.\r\n", 1);
                    assert!(world.run_until(secs(5), |w| marks(w, "x@a.test") == [1]));
                    let text = world.received().next().unwrap().text();
                    assert!(text.starts_with(&format!("Received: from c.test ([{client}])\r\n")), "{text}");
                }
                world.finish(link);
                assert_at_rest(&mut world);
            }
        }
    }
}

#[test]
fn commands_in_one_piece_with_the_header_are_heard() {
    let mut world = edge(410, behind_a_proxy(ListenerKind::Relay));
    let link = world.connect_to(0, 0, CLIENTS, 8192);
    world.send_plain(link, &[&v1("127.3.2.1"), HELLO, ENVELOPE].concat());
    assert!(world.run_until(secs(1), |w| w.client(link).replies.len() == 4), "{:?}", world.client(link).replies);
}

#[test]
fn a_header_that_is_missing_wrong_or_late_ends_the_connection_without_a_word() {
    let late = limits::PROXY_HEADER_TIMEOUT;
    let wrong: [&[u8]; 5] = [HELLO, b"PROXY TCP4 x y 1 2\r\n", b"\x16client hello\n", b"", b"PROXY TCP4 127.0.0.1"];
    for bytes in wrong {
        let mut world = edge(411, behind_a_proxy(ListenerKind::Relay));
        let link = world.connect_to(0, 0, CLIENTS, 8192);
        world.send_plain(link, bytes);
        let waits = bytes.is_empty() || b"PROXY TCP4 127.0.0.1 1".starts_with(bytes);
        let closed = |w: &World| w.client(link).closed.is_some();
        assert_eq!(world.run_until(late - secs(1), closed), !waits, "{bytes:?}");
        assert!(world.run_until(secs(2), closed), "{bytes:?}");
        assert_eq!(world.client(link).heard, b"");
        assert_at_rest(&mut world);
    }
    // From elsewhere a header is what it is: no command.
    let mut world = edge(412, behind_a_proxy(ListenerKind::Relay));
    let link = world.connect_to(0, 0, STRANGERS, 8192);
    assert!(greeted(&mut world, link));
    assert!(world.ask(link, &v1("127.3.2.1"), 1).unwrap().starts_with("500"));
    world.ask(link, HELLO, 1);
    assert!(world.ask(link, ENVELOPE, 2).unwrap().starts_with("550 5.7.1"));
}

// --- the greeting ---------------------------------------------------------------------------------------------------

#[test]
fn strangers_wait_for_the_greeting_and_must_not_talk_before() {
    let slow = only(Listener { greeting_delay: secs(10), ..listener(ListenerKind::Relay) });
    let mut world = edge(420, slow.clone());
    let friend = world.connect_to(0, 0, CLIENTS, 8192);
    let patient = world.connect_to(0, 0, STRANGERS, 8192);
    let talker = world.connect_to(0, 0, STRANGERS, 8192);
    world.run(secs(1));
    assert_eq!([friend, patient, talker].map(|link| world.client(link).replies.len()), [1, 0, 0]);
    let leaver = world.connect_to(0, 0, STRANGERS, 8192);
    world.run(secs(1));
    world.finish(leaver);
    world.send_plain(talker, HELLO);
    world.run(secs(1));
    assert!(world.client(talker).replies[0].starts_with("554 5.5.0") && world.client(talker).closed.is_some());
    assert_eq!(world.stats[0].rejected.get(), 1);
    assert!(!world.run_until(secs(6), |w| !w.client(patient).replies.is_empty()));
    assert!(world.run_until(secs(2), |w| !w.client(patient).replies.is_empty()));
    assert!(world.ask(patient, HELLO, 1).unwrap().starts_with("250"));
    world.finish(patient);
    world.finish(friend);
    assert_at_rest(&mut world);
}

/// There the client speaks first: it had no time to be early, and was hung up on.
#[test]
fn who_begins_with_tls_is_no_early_talker() {
    let mut world = edge(421, only(Listener { greeting_delay: secs(10), ..listener(ListenerKind::Submissions) }));
    let link = world.connect_to(0, 0, STRANGERS, 8192);
    world.start_tls(link);
    assert!(greeted(&mut world, link), "{:?}", world.client(link).closed);
    assert!(world.ask(link, HELLO, 1).unwrap().starts_with("250"));
}

/// The greeting was held back from strangers, but not from those that came through a proxy.
#[test]
fn strangers_behind_a_proxy_wait_for_the_greeting_too() {
    let mut config = behind_a_proxy(ListenerKind::Relay);
    config.listeners[0].greeting_delay = secs(10);
    let mut world = edge(422, config);
    let [friend, patient, talker] = [v1("127.3.2.1"), v1(STRANGE), [&v1(STRANGE), HELLO].concat()].map(|header| {
        let link = world.connect_to(0, 0, CLIENTS, 8192);
        world.send_plain(link, &header);
        link
    });
    world.run(secs(1));
    assert_eq!([friend, patient, talker].map(|link| world.client(link).replies.len()), [1, 0, 1]);
    assert!(world.client(talker).replies[0].starts_with("554 5.5.0") && world.client(talker).closed.is_some());
    assert!(world.run_until(secs(10), |w| !w.client(patient).replies.is_empty()));
    assert!(world.ask(patient, HELLO, 1).unwrap().starts_with("250"));
}

#[test]
fn commands_before_their_time_end_a_strict_session_and_no_other() {
    let mut world = edge(423, only(Listener { strict_pipelining: true, ..listener(ListenerKind::Relay) }));
    for (host, ends) in [(STRANGERS, true), (CLIENTS, false)] {
        let link = world.connect_to(0, 0, host, 8192);
        assert!(greeted(&mut world, link));
        world.send(link, &[HELLO, ENVELOPE].concat());
        world.run(secs(1));
        assert_eq!(world.client(link).closed.is_some(), ends, "{:?}", world.client(link).replies);
        assert_eq!(world.client(link).replies.last().unwrap().starts_with("554 5.5.0"), ends);
    }
}

// --- errors ---------------------------------------------------------------------------------------------------------

#[test]
fn who_errs_waits_and_is_then_served() {
    let mut config = edge_config();
    config.smtp.error_delay = secs(1);
    let mut world = edge(430, config);
    let link = world.connect(0);
    assert!(greeted(&mut world, link));
    let free = usize::from(limits::SESSION_FREE_ERRORS);
    let other = world.connect(0);
    assert!(greeted(&mut world, other));
    // All at once; each is answered, the next is read later.
    let errors = free + 12;
    let began = world.now();
    world.send(link, &[&b"WHAT\r\n".repeat(errors)[..], b"NOOP\r\nNOOP\r\n"].concat());
    assert!(world.ask(other, b"NOOP\r\n", 1).is_some() && world.now().since(began) < secs(1), "others are served");
    assert!(world.run_until(minutes(5), |w| w.client(link).replies.len() == 1 + errors + 2));
    let times: Vec<u64> =
        world.client(link).times[1..].iter().map(|t| t.since(began).as_millis() as u64 / 1000).collect();
    let mut expected = vec![0; free + 1];
    for n in 1..=11_u64 {
        expected.push(expected.last().unwrap() + n.min(limits::ERROR_DELAY_MAX.as_secs()));
    }
    let last = expected.last().unwrap() + limits::ERROR_DELAY_MAX.as_secs();
    // What worked costs nothing.
    expected.extend([last, last]);
    let near = times.iter().zip(&expected).all(|(is, should)| *is >= *should && *is <= should + 4);
    assert!(near && times.len() == expected.len(), "{times:?} {expected:?}");
    assert!(world.client(link).replies.last().unwrap().starts_with("250"));
    // Who leaves while it waits leaves nothing.
    world.send(link, &b"WHAT\r\n".repeat(9));
    world.run(secs(1));
    world.finish(link);
    world.finish(other);
    assert_at_rest(&mut world);
}

// --- questions to DNS -----------------------------------------------------------------------------------------------

fn verifying(seed: u64, shards: u16) -> World {
    let mut config =
        only(Listener { verify_sender_domain: true, verify_recipient_domain: true, ..listener(ListenerKind::Relay) });
    config.dns.timeout = secs(3);
    let mut world = World::guarded(seed, shards, config, 1000, edge::tables());
    world.domain("a.test", "10.0.0.1");
    world.records.host("host.test", &["10.0.0.1".parse().unwrap()], &[]);
    world.records.null_mx("null.test");
    world.records.domain("dangling.test", &[(10, "mx.nowhere.test")]);
    world.records.alias("alias.test", "a.test");
    world
}

/// What a session is told of a sender and a recipient, and how long it took.
fn judge(world: &mut World, domain: &str) -> ([String; 2], Duration) {
    let link = world.connect(0);
    assert!(greeted(world, link));
    world.ask(link, HELLO, 1);
    let began = world.now();
    let sender = world.ask(link, format!("MAIL FROM:<s@{domain}>\r\n").as_bytes(), 1).expect("an answer");
    world.ask(link, b"RSET\r\n", 1);
    world.ask(link, b"MAIL FROM:<>\r\n", 1);
    let recipient = world.ask(link, format!("RCPT TO:<r@{domain}>\r\n").as_bytes(), 1).expect("an answer");
    let took = world.now().since(began);
    world.finish(link);
    ([sender, recipient].map(|reply| reply[..10].trim().to_owned()), took)
}

#[test]
fn domains_that_cannot_be_answered_or_reached_are_refused() {
    for shards in [1, 3] {
        for (domain, said) in [
            ("a.test", ["250 2.1.0", "250 2.1.5"]),
            ("host.test", ["250 2.1.0", "250 2.1.5"]),
            ("alias.test", ["250 2.1.0", "250 2.1.5"]),
            ("[127.0.0.1]", ["250 2.1.0", "250 2.1.5"]),
            ("null.test", ["550 5.7.27", "556 5.1.10"]),
            ("nowhere.test", ["550 5.1.8", "550 5.1.2"]),
            ("dangling.test", ["550 5.1.8", "550 5.4.4"]),
        ] {
            let mut world = verifying(440, shards);
            for _ in 0..2 {
                let (told, took) = judge(&mut world, domain);
                assert_eq!(told, said, "{domain}");
                assert!(took < secs(1), "{took:?}");
            }
            let asked = world.zone().asked(domain, crate::sim::zone::Kind::Mx);
            assert!(asked <= 1, "the second time it is known: {asked}");
            assert_at_rest(&mut world);
        }
    }
}

#[test]
fn every_answer_of_dns_is_an_answer_and_none_that_fails_is_a_refusal_for_good() {
    let longest = (limits::DNS_QUESTION_TIMEOUT + secs(1)) * 4;
    for mood in DnsMood::ALL {
        let mut world = verifying(441, 2);
        world.zone().set_mood(mood);
        let (told, took) = judge(&mut world, "a.test");
        let works = !matches!(
            mood,
            DnsMood::ServFail
                | DnsMood::Refused
                | DnsMood::Silent
                | DnsMood::TruncatedNoTcp
                | DnsMood::TcpStalls
                | DnsMood::TcpCloses
                | DnsMood::HalfAnswer
                | DnsMood::Garbage
                | DnsMood::OtherQuestion
                | DnsMood::LoopingAlias
                | DnsMood::WrongId
        );
        let fine = ["250 2.1.0", "250 2.1.5"];
        let later = ["451 4.1.8", "451 4.4.3"];
        assert!(
            told.iter().zip(fine).zip(later).all(|((is, fine), later)| is == fine || !works && is == later),
            "{mood:?}: {told:?}"
        );
        assert!(took < longest, "{mood:?}: {took:?}");
        if matches!(mood, DnsMood::Silent | DnsMood::ServFail) {
            assert_eq!(told, later, "{mood:?}");
        }
        world.run(minutes(3));
        assert_eq!(world.held("home.domains asked for"), 0, "{mood:?}");
        assert_at_rest(&mut world);
    }
}

#[test]
fn commands_behind_a_question_wait_and_their_replies_come_in_order() {
    for piece in [1, 50, 8192] {
        let mut world = verifying(442, 2);
        world.zone().set_domain_mood("slow.test", DnsMood::Silent);
        world.domain("slow.test", "10.0.0.2");
        let link = world.connect_to(0, 0, CLIENTS, piece);
        assert!(greeted(&mut world, link));
        world.ask(link, HELLO, 1);
        let began = world.now();
        let all = b"MAIL FROM:<s@a.test>\r\nRCPT TO:<r@slow.test>\r\nRCPT TO:<x@a.test>\r\nRCPT TO:<y@nowhere.test>\r\nNOOP\r\nDATA\r\nX-Test: 1\r\n\r\n.\r\nQUIT\r\n";
        world.send(link, all);
        assert!(world.run_until(minutes(3), |w| w.client(link).closed.is_some()));
        let codes: Vec<String> =
            world.client(link).replies[2..].iter().map(|reply| reply[..9].trim().to_owned()).collect();
        let expected =
            ["250 2.1.0", "451 4.4.3", "250 2.1.5", "550 5.1.2", "250 2.0.0", "354 End d", "250 2.0.0", "221 2.0.0"];
        assert_eq!(codes, expected);
        // Nothing overtook the question.
        assert!(world.client(link).times[3].since(began) > secs(2));
        assert!(world.run_until(secs(5), |w| marks(w, "x@a.test") == [1]));
        assert_at_rest(&mut world);
    }
}

#[test]
fn who_leaves_while_a_question_is_open_leaves_nothing_and_answers_nobody_else() {
    let mut world = verifying(443, 2);
    world.domain("slow.test", "10.0.0.2");
    world.zone().set_domain_mood("slow.test", DnsMood::Slow(secs(2)));
    let leavers: Vec<LinkId> = (0..21).map(|_| world.connect(0)).collect();
    leavers.iter().for_each(|link| world.send(*link, HELLO));
    world.run(secs(1));
    leavers.iter().for_each(|link| world.send(*link, b"MAIL FROM:<s@slow.test>\r\nRCPT TO:<x@a.test>\r\nDATA\r\n"));
    let (stays, leavers) = (leavers[0], &leavers[1..]);
    world.run(millis(5));
    assert_eq!(world.held("home.domains asked for"), 21);
    for (n, link) in leavers.iter().enumerate() {
        if n % 2 == 0 { world.finish(*link) } else { world.reset(*link) }
    }
    world.run(millis(5));
    // Their places are taken by others, who have asked nothing.
    let others: Vec<LinkId> = (0..20).map(|_| world.connect(0)).collect();
    assert!(world.run_until(secs(30), |w| w.held("home.domains asked for") == 0));
    world.run(secs(1));
    assert!(world.client(stays).replies.last().unwrap().starts_with("354"), "{:?}", world.client(stays).replies);
    assert!(others.iter().all(|link| world.client(*link).replies.len() == 1));
    for link in others.iter().chain([&stays]) {
        world.finish(*link);
    }
    assert_at_rest(&mut world);
}

/// Whoever came, asked and left again left a question for as long as DNS takes to give up.
#[test]
fn questions_of_sessions_that_left_are_bounded() {
    let mut config = only(Listener { verify_sender_domain: true, ..listener(ListenerKind::Relay) });
    config.smtp.max_sessions_per_shard = 10;
    let mut world = World::guarded(445, 1, config, 1000, edge::tables());
    world.zone().set_mood(DnsMood::Silent);
    let mut told = 0;
    for n in 0..100 {
        let link = world.connect(0);
        world.send(link, format!("EHLO c.test\r\nMAIL FROM:<s@d{n}.test>\r\n").as_bytes());
        world.run(millis(10));
        told += usize::from(world.client(link).replies.last().is_some_and(|reply| reply.starts_with("451 4.1.8")));
        world.reset(link);
    }
    assert_eq!((told, world.held("home.domains asked for")), (100 - 10, 10));
    world.run(minutes(3));
    assert_eq!(world.held("home.domains asked for"), 0);
    world.zone().calm();
    assert_at_rest(&mut world);
}

/// 421 was said, and the connection kept until the end of the drain's time, if the client did not leave.
#[test]
fn a_drain_ends_a_session_whose_sender_is_refused_meanwhile() {
    for domain in ["slow.test", "gone.test"] {
        let mut world = verifying(444, 1);
        world.zone().set_mood(DnsMood::Slow(secs(2)));
        world.zone().set_domain_mood("slow.test", DnsMood::Silent);
        let link = world.connect(0);
        assert!(greeted(&mut world, link));
        world.ask(link, HELLO, 1);
        world.send(link, format!("MAIL FROM:<s@{domain}>\r\n").as_bytes());
        world.run(millis(10));
        world.control(Control::Drain);
        assert!(world.run_until(minutes(2), |w| w.client(link).replies.len() == 4), "{:?}", world.client(link).replies);
        assert!(world.client(link).replies[3].starts_with("421 4.3.2"));
        assert!(world.run_until(secs(2), |w| w.sim.stopped()), "{domain}");
        assert_eq!(world.sim.core.open_sockets(0), 0);
    }
}

#[test]
fn what_ends_a_session_is_an_event_with_its_reply() {
    let mut config = edge_config();
    config.clients.connections = 1;
    let mut world = World::guarded(170, 1, config, 1000, tables());
    let (sink, mut source) = event::channel(true);
    world.sim.shards[0].as_mut().unwrap().report.events = sink;
    let pipelined = format!("EHLO a.test\r\n{}", "JUNK\r\n".repeat(usize::from(limits::SESSION_ERRORS) + 1));
    let bare =
        "EHLO a.test\r\nMAIL FROM:<joe@sender.test>\r\nRCPT TO:<x@a.test>\r\nDATA\r\nbare\nline\r\n.\r\nQUIT\r\n";
    for (host, said) in [(STRANGERS, "GET / HTTP/1.1\r\n"), (STRANGERS, &pipelined), (CLIENTS, bare)] {
        let client = world.connect_to(RELAY, 0, host, 100_000);
        assert!(greeted(&mut world, client));
        world.send(client, said.as_bytes());
        assert!(world.run_until(minutes(20), |w| w.client(client).closed.is_some()), "{said}");
    }
    let guesser = secure(&mut world, SUBMISSION, STRANGERS, 8192);
    world.ask(guesser, &plain("joe", "wrong"), 1);
    let second = world.connect_to(RELAY, 0, STRANGERS, 8192);
    assert!(world.run_until(secs(5), |w| w.client(second).closed.is_some()), "one at a time");
    assert!(world.run_until(minutes(20), |w| w.client(guesser).closed.is_some()), "it says nothing more");
    world.sim.shards[0].as_mut().unwrap().report.events.flush_now();
    let mut told = Vec::new();
    while source.take_batch(|event| {
        if let Event::Rejected(rejected) = event {
            let reply = String::from_utf8_lossy(rejected.text.get(3)).into_owned();
            told.push(format!("{:?} {} {}", rejected.stage, rejected.peer, &reply[..9]));
        }
    }) {}
    let (clients, strangers) = (CLIENTS, STRANGERS);
    let expected = [
        format!("Session {strangers} 554 5.5.1"),
        format!("Session {strangers} 421 4.7.0"),
        format!("Data {clients} 554 5.6.0"),
        format!("Session {strangers} 535 5.7.8"),
        format!("Connect {strangers} 421 4.7.0"),
        format!("Session {strangers} 421 4.4.2"),
    ];
    assert_eq!(told, expected);
}
