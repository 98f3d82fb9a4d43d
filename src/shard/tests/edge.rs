//! TLS, AUTH and BDAT of clients: nothing passes in the clear that must not, nobody sends who may not, and whatever is cut
//! off, taken away or drained in the middle leaves nothing behind.

use super::*;
use crate::accounts::Accounts;
use crate::config::{Config, Demand, Listener, ListenerKind};
use crate::limits;
use crate::rt::sim::LinkId;
use crate::rt::tls::Acceptor;
use crate::shard::Tables;
use crate::smtp::sasl::{Password, ScramKeys};
use base64::prelude::{BASE64_STANDARD, Engine};
use std::sync::Arc;
use world::{CLIENTS, STRANGERS};

/// An address that may not relay.
pub const STRANGE: &str = "192.0.2.77";
pub const RELAY: usize = 0;
pub const SUBMISSION: usize = 1;
pub const SUBMISSIONS: usize = 2;

/// A listener of this kind as the configuration has it where there are certificates and accounts, but that it verifies
/// nothing.
pub fn listener(kind: ListenerKind) -> Listener {
    let demand = if kind == ListenerKind::Relay { Demand::Offered } else { Demand::Required };
    Listener {
        address: "127.0.0.1:25".parse().unwrap(),
        kind,
        tls: demand,
        auth: demand,
        auth_without_tls: false,
        verify_sender_domain: false,
        verify_recipient_domain: false,
        proxy_networks: Default::default(),
        xclient_networks: Default::default(),
        xforward_networks: Default::default(),
        greeting_delay: Duration::ZERO,
        strict_pipelining: false,
    }
}

/// One listener of each kind.
pub fn edge_config() -> Config {
    let mut config = config();
    config.listeners =
        [ListenerKind::Relay, ListenerKind::Submission, ListenerKind::Submissions].map(listener).to_vec();
    config
}

/// joe may send as joe@sender.test; his password is pencil.
pub fn accounts() -> Accounts {
    let keys = ScramKeys::derive(&Password::new(b"pencil").unwrap(), &[1; 16], 4096);
    let secret = crate::accounts::Secret::Scram(keys).encode();
    let text = format!("[[account]]\nname = \"joe\"\nsecret = \"{secret}\"\nfrom = [\"joe@sender.test\"]\n");
    Accounts::parse("accounts.toml", &text, [7; 32]).unwrap()
}

pub fn tables() -> Tables {
    Tables { accounts: accounts(), tls: Some(Acceptor::simulated()), ..Tables::default() }
}

pub fn edge(seed: u64, config: Config) -> World {
    let mut world = World::guarded(seed, 1, config, 1000, tables());
    world.domain("a.test", "10.0.0.1");
    world
}

pub fn plain(name: &str, password: &str) -> Vec<u8> {
    format!("AUTH PLAIN {}\r\n", BASE64_STANDARD.encode(format!("\0{name}\0{password}"))).into_bytes()
}

/// The greeting has come.
pub fn greeted(world: &mut World, client: LinkId) -> bool {
    world.run_until(secs(60), |w| !w.client(client).replies.is_empty())
}

/// A client in TLS that has said EHLO.
pub fn secure(world: &mut World, listener: usize, host: IpAddr, piece: usize) -> LinkId {
    let client = world.connect_to(listener, 0, host, piece);
    if listener == SUBMISSIONS {
        world.start_tls(client);
        assert!(greeted(world, client));
    } else {
        assert!(greeted(world, client));
        world.ask(client, b"EHLO client.test\r\n", 1);
        let ready = world.ask(client, b"STARTTLS\r\n", 1);
        assert_eq!(ready.as_deref(), Some("220 2.0.0 Ready to start TLS"));
        world.start_tls(client);
    }
    let hello = world.ask(client, b"EHLO client.test\r\n", 1);
    assert!(hello.is_some_and(|reply| reply.starts_with("250 ")) && world.client(client).is_secure());
    client
}

/// The data of a letter that a submission listener takes.
pub fn mail(letter: &Letter) -> Vec<u8> {
    [b"From: joe@sender.test\r\n", &letter.wire()[..]].concat()
}

/// A letter from joe by DATA, command by command; the reply that decides.
pub fn send(world: &mut World, client: LinkId, letter: &Letter) -> Option<String> {
    for command in [format!("MAIL FROM:<{}>\r\n", letter.sender), format!("RCPT TO:<{}>\r\n", letter.recipients[0])] {
        let reply = world.ask(client, command.as_bytes(), 1)?;
        if !reply.starts_with('2') {
            return Some(reply);
        }
    }
    let reply = world.ask(client, b"DATA\r\n", 1)?;
    if reply.starts_with("354") { world.ask(client, &mail(letter), 1) } else { Some(reply) }
}

fn starts(reply: &Option<String>, with: &str) -> bool {
    reply.as_ref().is_some_and(|reply| reply.starts_with(with))
}

#[test]
fn mail_over_tls_and_auth_in_single_octets() {
    for (seed, listener) in [RELAY, SUBMISSION, SUBMISSIONS].into_iter().enumerate() {
        for piece in [1, 7, 8192] {
            let mut world = edge(100 + seed as u64, edge_config());
            let client = secure(&mut world, listener, STRANGERS, piece);
            let letter = Letter::new(1, &["x@a.test"]);
            let refused = send(&mut world, client, &letter);
            assert!(starts(&refused, if listener == RELAY { "550 5.7.1" } else { "530 5.7.0" }), "{refused:?}");
            world.ask(client, b"RSET\r\n", 1);
            assert!(starts(&world.ask(client, &plain("joe", "pencil"), 1), "235 2.7.0"));
            let evil = Letter { sender: "ann@sender.test".to_owned(), ..letter.clone() };
            assert!(starts(&send(&mut world, client, &evil), "550 5.7.1 Your account"));
            assert!(starts(&send(&mut world, client, &letter), "250 2.0.0 "));
            assert!(starts(&world.ask(client, b"QUIT\r\n", 1), "221"));
            assert!(world.run_until(secs(5), |w| marks(w, "x@a.test") == [1]));
            assert!(world.received().all(|r| r.text().contains(" with ESMTPSA id ")));
            assert!(!String::from_utf8_lossy(&world.client(client).heard).contains("235 "), "nothing in the clear");
            assert_at_rest(&mut world);
        }
    }
}

#[test]
fn an_account_does_not_write_as_another_on_any_listener() {
    for (seed, listener) in [RELAY, SUBMISSION, SUBMISSIONS].into_iter().enumerate() {
        let mut world = edge(118 + seed as u64, edge_config());
        let client = secure(&mut world, listener, STRANGERS, 8192);
        assert!(starts(&world.ask(client, &plain("joe", "pencil"), 1), "235 2.7.0"));
        let mut data = |header: &str, body: &str| {
            let begin = b"MAIL FROM:<joe@sender.test>\r\nRCPT TO:<x@a.test>\r\nDATA\r\n";
            assert!(starts(&world.ask(client, begin, 3), "354"));
            world.ask(client, format!("{header}\r\n{body}\r\n.\r\n").as_bytes(), 1)
        };
        for header in [
            "X-Test: 1\r\nFrom: ann@sender.test\r\n",
            "X-Test: 1\r\nFrom: joe@sender.test\r\nSender: ann@sender.test\r\n",
        ] {
            for body in ["short", &"long\r\n".repeat(20_000)] {
                let refused = data(header, body);
                let text = "550 5.7.1 Message refused: joe may not send as ann@sender.test";
                assert_eq!(refused.as_deref(), Some(text), "{listener} {header}");
            }
        }
        let header = "X-Test: 2\r\nBcc: y@a.test\r\nFrom: ann@sender.test\r\nSender: joe@sender.test\r\n";
        for body in ["short", &"long\r\n".repeat(20_000)] {
            assert!(starts(&data(header, body), "250 2.0.0 "), "{listener}");
        }
        assert!(world.run_until(secs(5), |w| marks(w, "x@a.test") == [2, 2]));
        // Mail of a relay listener is never changed.
        let as_it_came = world.received().all(|r| r.text().contains(&format!("{header}\r\n")));
        assert_eq!(as_it_came, listener == RELAY);
        assert!(starts(&world.ask(client, b"QUIT\r\n", 1), "221"));
        assert_at_rest(&mut world);
    }
}

#[test]
fn a_client_that_needs_neither_tls_nor_auth_is_said_to_have_had_neither() {
    let mut world = edge(103, edge_config());
    world.accept(0, &Letter::new(1, &["x@a.test"]));
    let client = secure(&mut world, RELAY, CLIENTS, 8192);
    assert!(starts(&send(&mut world, client, &Letter::new(2, &["x@a.test"])), "250"));
    assert!(world.run_until(secs(5), |w| marks(w, "x@a.test") == [1, 2]));
    let with = |mark, protocol: &str| {
        let of = |r: &&Received| r.mark == Some(mark);
        world.received().find(of).unwrap().text().contains(&format!(" with {protocol} id "))
    };
    assert!(with(1, "ESMTP") && with(2, "ESMTPS"));
}

#[test]
fn nothing_is_taken_in_the_clear_where_tls_is_required() {
    let mut world = edge(104, edge_config());
    let client = world.connect_to(SUBMISSION, 0, CLIENTS, 8192);
    assert!(greeted(&mut world, client));
    world.ask(client, b"EHLO client.test\r\n", 1);
    for command in [&plain("joe", "pencil")[..], b"MAIL FROM:<joe@sender.test>\r\n", b"VRFY joe\r\n"] {
        assert!(starts(&world.ask(client, command, 1), "530 5.7.0 Must issue"));
    }
    // Its octets are no commands either.
    assert!(starts(&world.ask(client, b"BDAT 6 LAST\r\nNOOP\r\nNOOP\r\n", 2), "250 2.0.0"));
    world.run(secs(1));
    assert_eq!(world.client(client).replies.len(), 7, "{:?}", world.client(client).replies);
    // AUTH in the clear is no secret any more, but it is not believed.
    let client = world.connect_to(RELAY, 0, STRANGERS, 8192);
    assert!(greeted(&mut world, client));
    world.ask(client, b"EHLO client.test\r\n", 1);
    assert!(starts(&world.ask(client, &plain("joe", "pencil"), 1), "538 5.7.11"));
    assert!(starts(&send(&mut world, client, &Letter::new(1, &["x@a.test"])), "550 5.7.1"));
}

/// CVE-2011-0411: what an attacker puts behind STARTTLS must not be taken for the client's own words.
#[test]
fn plain_text_behind_starttls_is_never_acted_upon() {
    let injected = b"STARTTLS\r\nEHLO evil.test\r\nMAIL FROM:<joe@sender.test>\r\nRCPT TO:<x@a.test>\r\nDATA\r\nX-Test: 1\r\n\r\n.\r\n";
    let mut went_on = 0;
    for cut in 0..injected.len() {
        let mut world = edge(200 + cut as u64, edge_config());
        world.latency(millis(5));
        let client = world.connect_to(RELAY, 0, CLIENTS, 8192);
        assert!(greeted(&mut world, client));
        world.ask(client, b"EHLO client.test\r\n", 1);
        world.send_plain(client, &injected[..cut]);
        world.run(millis(cut as u64 % 3 * 20));
        world.send_plain(client, &injected[cut..]);
        world.run(secs(1));
        let replies = world.client(client).replies.clone();
        assert_eq!(replies.len(), 3, "{cut}: {replies:?}");
        if world.client(client).closed.is_none() {
            went_on += 1;
            world.start_tls(client);
            world.run(secs(1));
            // Nor is it when the handshake is over, and what was said before is forgotten.
            assert_eq!(world.client(client).replies.len(), 3, "{cut}: {:?}", world.client(client).replies);
            assert!(starts(&world.ask(client, b"MAIL FROM:<joe@sender.test>\r\n", 1), "503 5.5.1"), "{cut}");
        }
        assert_eq!(world.durable().len() + world.received().count(), 0);
    }
    assert!((10..injected.len()).contains(&went_on), "both were seen: {went_on}");
}

#[test]
fn plain_text_where_a_handshake_is_due_ends_the_connection() {
    for (listener, early) in [(SUBMISSIONS, &b"EHLO client.test\r\n"[..]), (RELAY, b"EHLO client.test\r\nSTARTTLS\r\n")]
    {
        let mut world = edge(110, edge_config());
        let client = world.connect_to(listener, 0, CLIENTS, 8192);
        world.send_plain(client, early);
        world.run(millis(100));
        world.send_plain(client, b"EHLO client.test\r\nNOOP\r\n");
        assert!(world.run_until(secs(1), |w| w.client(client).closed.is_some()), "{listener}");
        let replies = world.client(client).replies.len();
        assert_eq!(replies, if listener == RELAY { 3 } else { 0 }, "{:?}", world.client(client).replies);
        assert_eq!((world.held("home.handshakes"), world.stats[0].tls_failures.get()), (0, 1));
        assert_at_rest(&mut world);
    }
}

#[test]
fn a_handshake_that_does_not_end_is_ended() {
    for listener in [SUBMISSION, SUBMISSIONS] {
        let mut world = edge(111, edge_config());
        let client = world.connect_to(listener, 0, CLIENTS, 8192);
        if listener == SUBMISSION {
            assert!(greeted(&mut world, client));
            world.ask(client, b"STARTTLS\r\n", 1);
        }
        // A part of it, and then an octet of nothing now and again.
        world.send_plain(client, b"\x16client ");
        let began = world.now();
        let ended = world.run_until(limits::TLS_HANDSHAKE_TIMEOUT * 2, |w| w.client(client).closed.is_some());
        let took = world.now().since(began);
        assert!(ended && took <= limits::TLS_HANDSHAKE_TIMEOUT + secs(1), "{took:?}");
        assert!(took >= limits::TLS_HANDSHAKE_TIMEOUT - secs(1), "{took:?}");
        assert_eq!(world.held("home.handshakes"), 0);
        assert_at_rest(&mut world);
    }
}

#[test]
fn handshakes_are_bounded_and_their_count_comes_back_to_nothing() {
    let mut world = edge(112, edge_config());
    let mut clients = Vec::new();
    for n in 0..limits::TLS_HANDSHAKES {
        let client = world.connect_to(if n % 2 == 0 { SUBMISSIONS } else { RELAY }, 0, CLIENTS, 8192);
        world.send_plain(client, if n % 2 == 0 { b"\x16" } else { b"STARTTLS\r\n" });
        clients.push(client);
    }
    world.run(secs(1));
    assert_eq!(world.held("home.handshakes"), limits::TLS_HANDSHAKES);
    let client = world.connect_to(RELAY, 0, CLIENTS, 8192);
    assert!(greeted(&mut world, client));
    assert!(starts(&world.ask(client, b"STARTTLS\r\n", 1), "454 4.7.0"));
    let implicit = world.connect_to(SUBMISSIONS, 0, CLIENTS, 8192);
    world.start_tls(implicit);
    assert!(world.run_until(secs(1), |w| w.client(implicit).closed.is_some()));
    // Each way out of a handshake counts back: an end, a reset, a failure, success, and time.
    for (n, client) in clients.iter().enumerate() {
        match n % 5 {
            0 => world.finish(*client),
            1 => world.reset(*client),
            2 => world.send_plain(*client, b"no handshake"),
            3 if n % 2 == 1 => world.start_tls(*client),
            _ => {}
        }
    }
    world.run(secs(1));
    let left = world.held("home.handshakes");
    assert!((40..110).contains(&left), "{left}");
    assert!(starts(&world.ask(client, b"STARTTLS\r\n", 1), "220"), "it may now");
    world.start_tls(client);
    assert!(starts(&world.ask(client, b"EHLO client.test\r\n", 1), "250"));
    world.run(limits::TLS_HANDSHAKE_TIMEOUT + secs(1));
    assert_eq!(world.held("home.handshakes"), 0);
    assert_eq!(world.stats[0].sessions.get(), 27, "those whose handshake went well");
}

#[test]
fn one_silent_stranger_does_not_take_tls_from_everybody() {
    let mut config = edge_config();
    config.listeners.push(Listener {
        proxy_networks: crate::config::Networks(vec!["127.0.0.0/8".parse().unwrap()]),
        ..listener(ListenerKind::Submissions)
    });
    let mut world = edge(117, config);
    let silent = |world: &mut World, n: usize| {
        let client =
            world.connect_to([SUBMISSIONS, RELAY, 3][n % 3], 0, if n % 3 == 2 { CLIENTS } else { STRANGERS }, 8192);
        match n % 3 {
            0 => {}
            1 => world.send_plain(client, b"STARTTLS\r\n"),
            // By a proxy it is the same client.
            _ => world.send_plain(client, format!("PROXY TCP4 {STRANGERS} 127.0.0.1 7 465\r\n").as_bytes()),
        }
        client
    };
    let clients: Vec<_> = (0..3 * limits::TLS_HANDSHAKES).map(|n| silent(&mut world, n)).collect();
    world.run(secs(1));
    let share = limits::TLS_HANDSHAKES_OF_NETWORK;
    assert_eq!((world.held("home.handshakes"), world.held("home.handshakes of a network")), (share, share));
    // It gets what everybody gets when all places are taken.
    let refused = clients.iter().filter(|c| world.client(**c).replies.iter().any(|r| r.starts_with("454 4.7.0")));
    assert!(refused.count() >= limits::TLS_HANDSHAKES - share);
    let closed = clients.iter().filter(|client| world.client(**client).closed.is_some());
    assert!(closed.count() >= 2 * limits::TLS_HANDSHAKES - share);
    secure(&mut world, RELAY, CLIENTS, 8192);
    let other = world.connect_to(3, 0, CLIENTS, 8192);
    world.send_plain(other, format!("PROXY TCP4 {STRANGE} 127.0.0.1 7 465\r\n").as_bytes());
    world.start_tls(other);
    assert!(greeted(&mut world, other), "another stranger");
    // Its share comes back to it.
    clients.iter().for_each(|client| world.reset(*client));
    world.run(secs(1));
    assert_eq!((world.held("home.handshakes"), world.held("home.networks with handshakes")), (0, 0));
    secure(&mut world, SUBMISSIONS, STRANGERS, 8192);
}

#[test]
fn who_begins_with_tls_is_not_told_in_the_clear_that_there_are_too_many() {
    let mut config = edge_config();
    config.smtp.max_sessions_per_shard = 1;
    let mut world = edge(116, config);
    world.connect(0);
    world.run(secs(1));
    for (listener, words) in [(SUBMISSION, "421 4.3.2 "), (SUBMISSIONS, "")] {
        let client = world.connect_to(listener, 0, CLIENTS, 8192);
        assert!(world.run_until(secs(1), |w| w.client(client).closed.is_some()));
        let heard = &world.client(client).heard;
        assert!(heard.starts_with(words.as_bytes()) && heard.is_empty() == words.is_empty(), "{listener}");
    }
}

#[test]
fn wrong_guesses_end_the_session() {
    let mut world = edge(113, edge_config());
    let client = secure(&mut world, SUBMISSIONS, STRANGERS, 8192);
    for _ in 1..limits::SESSION_FAILED_AUTHS {
        assert!(starts(&world.ask(client, &plain("joe", "pen"), 1), "535 5.7.8"));
    }
    world.ask(client, &plain("ann", "pencil"), 2);
    assert!(world.client(client).replies.last().unwrap().starts_with("421 4.7.0"));
    // The client need not do anything for it.
    assert!(world.run_until(secs(1), |w| w.client(client).closed.is_some()));
    assert_at_rest(&mut world);
}

#[test]
fn passwords_that_wait_are_bounded_and_those_above_are_told_to_come_again() {
    let mut world = edge(114, edge_config());
    world.latency(millis(5));
    let most = limits::AUTH_CHECKS + limits::AUTH_CHECKS_WAITING;
    let clients: Vec<_> = (0..most + 3).map(|_| secure(&mut world, SUBMISSIONS, STRANGERS, 8192)).collect();
    let (guess, quitters) = (plain("joe", "pen"), 40);
    clients.iter().for_each(|client| world.send(*client, &guess));
    world.run(millis(6));
    assert_eq!(world.held("home.passwords waiting"), limits::AUTH_CHECKS_WAITING);
    world.run(millis(6));
    let told = |world: &World, client: LinkId, code: &str| {
        world.client(client).replies.last().is_some_and(|reply| reply.starts_with(code))
    };
    let (later, wait): (Vec<_>, Vec<_>) = clients.into_iter().partition(|client| told(&world, *client, "454 4.7.0"));
    assert_eq!(later.len(), 3);
    // Who leaves meanwhile leaves nothing.
    let (stay, leave) = wait.split_at(wait.len() - quitters);
    leave.iter().for_each(|client| world.reset(*client));
    let before = world.held("home.passwords waiting");
    world.run(millis(6));
    assert!(world.held("home.passwords waiting") + quitters <= before, "nor is it worth a hash");
    assert!(world.run_until(minutes(2), |w| w.held("home.passwords being checked") == 0));
    world.run(secs(1));
    assert!(stay.iter().all(|client| told(&world, *client, "535 5.7.8")));
    assert!(starts(&world.ask(later[0], &plain("joe", "pencil"), 1), "235"), "now there is room");
}

#[test]
fn what_is_pipelined_behind_auth_waits_for_it() {
    let mut world = edge(115, edge_config());
    let client = secure(&mut world, SUBMISSIONS, STRANGERS, 8192);
    let letter = Letter::new(1, &["x@a.test"]);
    let mut all = plain("joe", "pencil");
    all.extend_from_slice(b"MAIL FROM:<joe@sender.test>\r\nRCPT TO:<x@a.test>\r\nDATA\r\n");
    assert!(starts(&world.ask(client, &all, 4), "354"));
    assert!(starts(&world.ask(client, &mail(&letter), 1), "250 2.0.0 "));
    assert!(world.run_until(secs(5), |w| marks(w, "x@a.test") == [1]));
}

// --- BDAT -----------------------------------------------------------------------------------------------------------

/// A letter without what DATA needs: doubled dots and the final one.
fn bare(letter: &Letter) -> Vec<u8> {
    let wire = letter.wire();
    let mut bare = Vec::new();
    for line in wire[..wire.len() - 3].split_inclusive(|b| *b == b'\n') {
        bare.extend_from_slice(line.strip_prefix(b".").unwrap_or(line));
    }
    bare
}

/// The same in chunks of so many octets, the last of which may be empty.
fn chunks(bare: &[u8], size: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for chunk in bare.chunks(size) {
        all.extend_from_slice(format!("BDAT {}\r\n", chunk.len()).as_bytes());
        all.extend_from_slice(chunk);
    }
    all.extend_from_slice(b"BDAT 0 LAST\r\n");
    all
}

#[test]
fn chunks_arrive_octet_for_octet_as_data_does() {
    let dots = b"..\r\n...\r\n..a\r\n\r\n.. \r\n..\r\n..\r\n".to_vec();
    for (n, body) in [dots.clone(), dots.repeat(40), dots.repeat(4000), Vec::new()].into_iter().enumerate() {
        for (m, size) in [1, 2, 3, 5, 1000, 40_000, 1 << 20].into_iter().enumerate() {
            let letter = Letter { body: body.clone(), ..Letter::new(1, &["x@a.test"]) };
            let bare = bare(&letter);
            if bare.len() / size > 2000 {
                continue;
            }
            let mut world = edge(300 + (10 * n + m) as u64, edge_config());
            // In TLS or not, in pieces of any size.
            let client = if m % 2 == 0 {
                let client = world.connect_to(RELAY, 0, CLIENTS, [1, 7, 1460][m % 3]);
                assert!(greeted(&mut world, client));
                world.ask(client, b"EHLO client.test\r\n", 1);
                client
            } else {
                secure(&mut world, RELAY, CLIENTS, [7, 1460, 9000][m % 3])
            };
            let mut all = b"MAIL FROM:<joe@sender.test>\r\nRCPT TO:<x@a.test>\r\n".to_vec();
            all.extend_from_slice(&chunks(&bare, size));
            let said = world.ask(client, &all, 2 + bare.len().div_ceil(size) + 1);
            assert!(starts(&said, "250 2.0.0 ") && said.unwrap().ends_with(" queued"), "{n} {size}");
            assert!(world.run_until(secs(5), |w| marks(w, "x@a.test") == [1]));
            let got = world.received().next().unwrap();
            assert!(got.data.ends_with(&letter.wire()), "{n} {size}");
            let front = got.data.len() - letter.wire().len();
            assert!(got.data[..front].ends_with(b"+0000\r\n"), "one Received and no more in front");
            world.run(minutes(6));
            assert_at_rest(&mut world);
        }
    }
}

#[test]
fn a_last_line_without_its_end_gets_one() {
    let mut world = edge(340, edge_config());
    let client = world.connect(0);
    assert!(greeted(&mut world, client));
    let all = b"EHLO c.test\r\nMAIL FROM:<joe@sender.test>\r\nRCPT TO:<x@a.test>\r\nBDAT 16 LAST\r\nX-Test: 7\r\n\r\n.bcNOOP\r\n";
    world.ask(client, all, 5);
    assert!(world.run_until(secs(5), |w| marks(w, "x@a.test") == [7]));
    assert!(world.received().next().unwrap().data.ends_with(b"X-Test: 7\r\n\r\n..bc\r\n.\r\n"));
}

#[test]
fn a_message_cut_off_in_a_chunk_leaves_nothing() {
    #[derive(Clone, Copy, Debug)]
    enum End {
        Close,
        Reset,
        Rset,
        Quit,
        BareLf,
        Silence,
    }
    for end in [End::Close, End::Reset, End::Rset, End::Quit, End::BareLf, End::Silence] {
        for octets in [100, 32 << 10, 100_000] {
            let mut world = edge(350, edge_config());
            let client = world.connect(0);
            assert!(greeted(&mut world, client));
            world.ask(client, b"EHLO c.test\r\nMAIL FROM:<joe@sender.test>\r\nRCPT TO:<x@a.test>\r\n", 3);
            let line = b"X-Test: 1 and more\r\n";
            let body = line.repeat(octets / line.len());
            let between = matches!(end, End::Rset | End::Quit);
            let more = if between { 0 } else { 500 };
            let head = format!("BDAT {}\r\n", body.len() + more);
            world.send(client, &[head.as_bytes(), &body].concat());
            world.run(secs(2));
            match end {
                End::Close => world.finish(client),
                End::Reset => world.reset(client),
                End::Rset => world.send(client, b"RSET\r\n"),
                End::Quit => world.send(client, b"QUIT\r\n"),
                End::BareLf => world.send(client, b"a\nb"),
                End::Silence => world.run(minutes(16)),
            }
            world.run(secs(1));
            let held =
                ["log.streams", "home.session.body", "home.sessions about to finish"].map(|what| world.held(what));
            assert_eq!(held, [0, 0, usize::from(matches!(end, End::BareLf))], "{end:?} {octets}");
            assert_eq!((world.durable().len(), world.received().count()), (0, 0), "{end:?} {octets}");
            world.run(minutes(16));
            assert_at_rest(&mut world);
        }
    }
}

// --- reload and drain -----------------------------------------------------------------------------------------------

#[test]
fn a_reload_holds_for_what_sessions_ask_from_then_on() {
    let mut world = edge(120, edge_config());
    let letter = Letter::new(1, &["x@a.test"]);
    let known = secure(&mut world, SUBMISSION, STRANGERS, 8192);
    assert!(starts(&world.ask(known, &plain("joe", "pencil"), 1), "235"));
    let open = secure(&mut world, SUBMISSION, STRANGERS, 8192);
    assert!(starts(&world.ask(open, &plain("joe", "pencil"), 1), "235"));
    assert!(starts(&world.ask(open, b"MAIL FROM:<joe@sender.test>\r\n", 1), "250"));
    let half = secure(&mut world, SUBMISSION, STRANGERS, 8192);
    assert!(starts(&world.ask(half, b"AUTH PLAIN\r\n", 1), "334"));
    let handshaking = world.connect_to(SUBMISSION, 0, STRANGERS, 8192);
    assert!(greeted(&mut world, handshaking));
    world.ask(handshaking, b"STARTTLS\r\n", 1);
    let early = world.connect_to(SUBMISSION, 0, STRANGERS, 8192);
    assert!(greeted(&mut world, early));

    world.control(Control::Tables(Arc::default()));
    world.run(millis(10));
    assert!(starts(&send(&mut world, known, &letter), "550 5.7.1 Your account"));
    // Nor does it go on with what it had begun, without the limits that it had.
    let refused = world.ask(open, b"RCPT TO:<x@a.test>\r\n", 1);
    assert!(starts(&refused, "550 5.7.1 Your account is gone"), "{refused:?}");
    let response = BASE64_STANDARD.encode("\0joe\0pencil") + "\r\n";
    assert!(starts(&world.ask(half, response.as_bytes(), 1), "535 5.7.8"));
    world.start_tls(handshaking);
    assert!(starts(&world.ask(handshaking, b"EHLO c.test\r\n", 1), "250"));
    // Certificates that are gone do not make a door that needs them an open one.
    world.ask(early, b"STARTTLS\r\n", 1);
    assert!(world.run_until(secs(1), |w| w.client(early).closed.is_some()));
    let late = world.connect_to(SUBMISSION, 0, STRANGERS, 8192);
    assert!(greeted(&mut world, late));
    world.ask(late, b"EHLO c.test\r\n", 1);
    let refused = world.ask(late, b"MAIL FROM:<joe@sender.test>\r\n", 1);
    assert!(starts(&refused, "530 5.7.0 Must issue a STARTTLS"), "{refused:?}");
    let implicit = world.connect_to(SUBMISSIONS, 0, STRANGERS, 8192);
    assert!(world.run_until(secs(1), |w| w.client(implicit).closed.is_some()));

    world.control(Control::Tables(Arc::new(tables())));
    world.run(millis(10));
    world.ask(known, b"RSET\r\n", 1);
    assert!(starts(&send(&mut world, known, &letter), "250 2.0.0 "));
    let again = secure(&mut world, SUBMISSIONS, STRANGERS, 8192);
    assert!(starts(&world.ask(again, &plain("joe", "pencil"), 1), "235"));
}

/// Each state a session can be in, but those of a transaction, ends at once.
#[test]
fn a_drain_ends_sessions_in_every_state() {
    let mut config = edge_config();
    config.listeners[RELAY].greeting_delay = secs(30);
    config.listeners.push(Listener {
        proxy_networks: crate::config::Networks(vec!["127.0.0.0/8".parse().unwrap()]),
        ..listener(ListenerKind::Relay)
    });
    config.smtp.error_delay = secs(10);
    type Begin = fn(&mut World) -> LinkId;
    let states: [(&str, Begin); 8] = [
        ("a header is due", |w| w.connect_to(3, 0, CLIENTS, 8192)),
        ("the greeting is held back", |w| w.connect_to(RELAY, 0, STRANGERS, 8192)),
        ("implicit TLS", |w| w.connect_to(SUBMISSIONS, 0, CLIENTS, 8192)),
        ("behind STARTTLS", |w| {
            let client = w.connect_to(SUBMISSION, 0, CLIENTS, 8192);
            assert!(greeted(w, client));
            w.ask(client, b"STARTTLS\r\n", 1);
            client
        }),
        ("in AUTH", |w| {
            let client = secure(w, SUBMISSIONS, CLIENTS, 8192);
            assert!(starts(&w.ask(client, b"AUTH PLAIN\r\n", 1), "334"));
            client
        }),
        ("a password is being checked", |w| {
            let client = secure(w, SUBMISSIONS, CLIENTS, 8192);
            w.send(client, &plain("joe", "pencil"));
            assert!(w.run_until(secs(1), |w| w.held("home.passwords being checked") == 1));
            client
        }),
        ("a password is being checked, and nothing is read", |w| {
            w.sim.core.window = (2000, 0);
            let client = secure(w, SUBMISSIONS, CLIENTS, 8192);
            w.deafen(client);
            w.send(client, &[b"HELP\r\n".repeat(20), plain("joe", "pencil")].concat());
            assert!(w.run_until(secs(1), |w| w.held("home.passwords being checked") == 1));
            assert!(w.held("home.session.unsent") > 0);
            client
        }),
        ("it waits for its errors", |w| {
            let client = secure(w, SUBMISSIONS, CLIENTS, 8192);
            w.ask(client, &b"WHAT\r\n".repeat(4), 4);
            w.send(client, b"NOOP\r\n");
            w.run(millis(50));
            client
        }),
    ];
    for (n, (what, begin)) in states.into_iter().enumerate() {
        // A check takes from a half to twenty milliseconds.
        for seed in 0..5 {
            let mut world = edge(130 + 10 * n as u64 + seed, config.clone());
            let client = begin(&mut world);
            world.control(Control::Drain);
            let limit = if what.ends_with("nothing is read") { limits::SESSION_LINGER + secs(2) } else { secs(2) };
            assert!(world.run_until(limit, |w| w.sim.stopped()), "{what}: {:?}", world.client(client).replies);
            assert_eq!((world.sim.core.open_sockets(0), world.durable().len()), (0, 0), "{what}");
        }
    }
}

#[test]
fn a_drain_lets_a_transaction_in_chunks_end() {
    let mut world = edge(140, edge_config());
    let client = secure(&mut world, RELAY, CLIENTS, 8192);
    let letter = Letter::new(1, &["x@a.test"]);
    let bare = bare(&letter);
    world.ask(client, b"MAIL FROM:<joe@sender.test>\r\nRCPT TO:<x@a.test>\r\nBDAT 5\r\nX-Tes", 3);
    world.send(client, format!("BDAT {} LAST\r\n{}", bare.len() - 5, "t").as_bytes());
    world.run(millis(10));
    world.control(Control::Drain);
    world.run(secs(1));
    let rest = bare[6..].to_vec();
    assert!(starts(&world.ask(client, &rest, 1), "250 2.0.0 "));
    // 421 is the last word: the relay does not wait for the client to go.
    assert!(world.run_until(secs(2), |w| w.client(client).closed.is_some()));
    assert!(world.client(client).replies.last().unwrap().starts_with("421 4.3.2"));
    assert!(world.run_until(secs(20), |w| w.sim.stopped()));
    // A drain begins no delivery that can wait.
    assert_eq!(marks(&world, "x@a.test").len() + world.durable().len(), 1);
}
