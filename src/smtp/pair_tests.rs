//! Both machines joined by a virtual network that cuts their bytes anywhere, on a virtual clock; every run is a
//! function of its seed.
#![allow(clippy::unwrap_used)]

use super::client::{Client, ClientEvent, ClientTimeouts, MailParams, Outcome, RefusedAt, Transmit};
use super::dots;
use super::server::{PeerFacts, Server, ServerPolicy, Step, Verdict};
use crate::message::MessageId;
use crate::message::params::BodyType;
use crate::properties::cases;
use crate::time::Moment;
use proptest::prelude::*;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}

/// A valid message in wire form.
fn message(random: &mut Random) -> Vec<u8> {
    let mut body = Vec::new();
    for _ in 0..random.below(12) {
        for _ in 0..random.below(3) * random.below(200) {
            body.push(b"abc. ~\xe4\t"[random.below(8)]);
        }
        // Dot-stuffed lines too.
        let line_start = body.len() - body.iter().rev().take_while(|b| **b != b'\n').count();
        if body.get(line_start) == Some(&b'.') {
            body.insert(line_start, b'.');
        }
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b".\r\n");
    body
}

#[derive(Debug, PartialEq, Eq, Clone)]
struct Received {
    sender: Vec<u8>,
    recipients: Vec<Vec<u8>>,
    body: Vec<u8>,
}

/// Of a message that can go by BDAT.
fn exact(body: &[u8], eight_bit: bool) -> MailParams<'static> {
    let octets = dots::undoubled(body).len() - dots::doubled(body).unwrap();
    MailParams { exact_size: true, ..MailParams::new(octets as u64, eight_bit) }
}

struct Pair {
    /// Lines of the reply to EHLO that the client does not get to see.
    hidden: &'static [&'static str],
    random: Random,
    now: Moment,
    client: Client,
    server: Server,
    to_server: VecDeque<u8>,
    to_client: VecDeque<u8>,
    server_tail: Vec<u8>,
    collected: Vec<u8>,
    verdict_due: Option<Moment>,
    verdict: fn(&mut Random) -> Verdict,
    received: Vec<Received>,
    pending: VecDeque<(u64, Received, MailParams<'static>)>,
    started: BTreeMap<u64, Received>,
    refused: BTreeMap<u64, Vec<u32>>,
    finished: BTreeMap<u64, String>,
    closed: Option<String>,
    server_closed: bool,
    turns: usize,
}

const MAX_RECIPIENTS: usize = 3;

fn seeded(seed: u64) -> Random {
    Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
}

impl Pair {
    fn new(seed: u64, messages: u64, may_relay: bool, verdict: fn(&mut Random) -> Verdict) -> Self {
        let mut random = seeded(seed);
        let pending = (0..messages)
            .map(|token| {
                let recipients =
                    (0..1 + random.below(5)).map(|i| format!("r{i}@d{token}.example").into_bytes()).collect();
                let sender = if random.below(4) == 0 { Vec::new() } else { format!("s{token}@x").into_bytes() };
                let body = message(&mut random);
                let params = exact(&body, random.below(2) == 0);
                (token, Received { sender, recipients, body }, params)
            })
            .collect();
        Pair::with(random, pending, may_relay, verdict)
    }

    fn with(
        mut random: Random,
        pending: VecDeque<(u64, Received, MailParams<'static>)>,
        may_relay: bool,
        verdict: fn(&mut Random) -> Verdict,
    ) -> Self {
        let now = Moment(1);
        let mut client = Client::new("relay.example".into(), ClientTimeouts::default(), now);
        client.fly([1, 3, 16][random.below(3)]);
        let policy = Arc::new(ServerPolicy::new("mx.example", 1 << 20, MAX_RECIPIENTS));
        let mut out = Vec::new();
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let server = Server::new(policy, PeerFacts::new(address, may_relay), now, &mut out);
        Pair {
            hidden: &[],
            client,
            random,
            now,
            server,
            to_server: VecDeque::new(),
            to_client: out.into(),
            server_tail: Vec::new(),
            collected: Vec::new(),
            verdict_due: None,
            verdict,
            received: Vec::new(),
            pending,
            started: BTreeMap::new(),
            refused: BTreeMap::new(),
            finished: BTreeMap::new(),
            closed: None,
            server_closed: false,
            turns: 0,
        }
    }

    fn some_of(random: &mut Random, pipe: &mut VecDeque<u8>) -> Vec<u8> {
        let most = if random.below(2) == 0 { 8 } else { 2000 };
        let n = pipe.len().min(1 + random.below(most));
        pipe.drain(..n).collect()
    }

    /// Something happens: bytes arrive somewhere, or a verdict falls.
    fn turn(&mut self) {
        self.turns += 1;
        self.now = self.now + Duration::from_millis(10);
        match self.random.below(3) {
            0 if !self.server_closed => {
                let bytes = Self::some_of(&mut self.random, &mut self.to_server);
                self.server_tail.extend_from_slice(&bytes);
                self.server_turn();
            }
            1 => {
                let bytes = Self::some_of(&mut self.random, &mut self.to_client);
                if bytes.is_empty() && self.server_closed && self.to_client.is_empty() {
                    self.client.handle_closed();
                } else {
                    self.client.handle_input(&bytes, self.now);
                }
            }
            _ if self.verdict_due.is_some_and(|due| due <= self.now) => {
                self.verdict_due = None;
                let verdict = (self.verdict)(&mut self.random);
                let envelope = self.server.envelope();
                if matches!(verdict, Verdict::Accepted(_)) {
                    self.received.push(Received {
                        sender: envelope.sender().to_vec(),
                        recipients: envelope.recipients().map(|r| r.address.to_vec()).collect(),
                        body: std::mem::take(&mut self.collected),
                    });
                }
                self.collected.clear();
                let mut out = Vec::new();
                self.server.handle_verdict(verdict, self.now, &mut out);
                self.to_client.extend(out);
                self.server_turn();
            }
            _ => {}
        }
        self.client_turn();
    }

    fn server_turn(&mut self) {
        let input = std::mem::take(&mut self.server_tail);
        let (mut at, mut out) = (0, Vec::new());
        loop {
            let (n, step) = self.server.step(&input[at..], self.now, &mut out);
            at += n;
            match step {
                Step::Body(piece) => self.collected.extend_from_slice(piece),
                Step::Message => {
                    self.verdict_due = Some(self.now + Duration::from_millis(self.random.below(50) as u64));
                }
                Step::Discarded(fault) => panic!("{fault:?} in a valid message"),
                Step::Refused(_) => {}
                Step::Ask | Step::StartTls | Step::Dropped => unreachable!("nothing of that is used here"),
                Step::NeedInput | Step::Blocked => break,
                Step::Close => {
                    self.server_closed = true;
                    break;
                }
            }
        }
        self.server_tail = input[at..].to_vec();
        let mut out = String::from_utf8(out).unwrap();
        self.hidden.iter().for_each(|line| out = out.replace(line, ""));
        self.to_client.extend(out.into_bytes());
    }

    fn client_turn(&mut self) {
        while let Some(event) = self.client.poll_event() {
            assert!(self.closed.is_none(), "Closed is the last event");
            match event {
                ClientEvent::Ready | ClientEvent::StartTls | ClientEvent::Settled { .. } => {}
                ClientEvent::Recipient { token, index, .. } => self.refused.entry(token).or_default().push(index),
                ClientEvent::Finished { token, outcome } => {
                    let text = match outcome {
                        Outcome::Accepted(_) => "accepted".to_string(),
                        Outcome::Refused { stage, reply } => format!("{stage:?} {}", reply.code),
                        Outcome::Lost { after_final_dot } => format!("lost {after_final_dot}"),
                    };
                    assert!(self.started.contains_key(&token));
                    assert_eq!(self.finished.insert(token, text), None, "one outcome each");
                }
                ClientEvent::Closed(reason) => self.closed = Some(format!("{reason:?}")),
            }
        }
        if self.random.below(2) == 0 && self.client.can_start() {
            match self.pending.pop_front() {
                Some((token, m, params)) => {
                    let recipients = m.recipients.iter().map(Vec::as_slice);
                    self.client.start(token, &m.sender, recipients, &params, self.now);
                    self.started.insert(token, m);
                }
                None => self.client.quit(self.now),
            }
        }
        while let Some(transmit) = self.client.poll_transmit() {
            match transmit {
                Transmit::Commands(range) => self.to_server.extend(self.client.commands(range)),
                Transmit::Body { token } => {
                    self.to_server.extend(&self.started[&token].body);
                    self.client.body_sent(token, self.now);
                }
                Transmit::Chunk { token } => {
                    let wire = &self.started[&token].body;
                    self.to_server.extend(&*dots::bare(wire, dots::doubled(wire).unwrap()));
                    self.client.body_sent(token, self.now);
                }
            }
        }
        self.client.transmitted();
    }

    fn run(&mut self) {
        while self.closed.is_none() {
            self.turn();
            assert!(self.turns < 1_000_000, "it comes to an end");
        }
    }

    /// What the server holds is exactly what the client was told is taken.
    fn check_accepted(&self) {
        let told: Vec<Received> = self
            .finished
            .iter()
            .filter(|(_, outcome)| *outcome == "accepted")
            .map(|(token, _)| {
                let mut m = self.started[token].clone();
                let refused = self.refused.get(token).cloned().unwrap_or_default();
                let mut index = 0;
                m.recipients.retain(|_| {
                    index += 1;
                    !refused.contains(&(index - 1))
                });
                m
            })
            .collect();
        assert_eq!(self.received, told);
    }
}

fn accept(random: &mut Random) -> Verdict {
    Verdict::Accepted(MessageId(random.below(1 << 40) as u64))
}

#[test]
fn every_message_arrives_whole_in_any_chunking() {
    for seed in 1..=60 {
        let mut pair = Pair::new(seed, 25, true, accept);
        pair.run();
        assert_eq!(pair.closed.as_deref(), Some("Quit"), "seed {seed}");
        assert_eq!((pair.finished.len(), pair.received.len()), (25, 25), "seed {seed}");
        pair.check_accepted();
        // The server takes three recipients, and says so about each one more.
        for (token, m) in &pair.started {
            let refused = pair.refused.get(token).map_or(0, Vec::len);
            assert_eq!(refused, m.recipients.len().saturating_sub(MAX_RECIPIENTS), "seed {seed}");
        }
    }
}

#[test]
fn verdicts_reach_the_right_message() {
    for seed in 1..=40 {
        let mut pair = Pair::new(seed, 25, true, |random| match random.below(4) {
            0 => Verdict::Full,
            1 => Verdict::LocalError,
            _ => accept(random),
        });
        pair.run();
        assert_eq!((pair.closed.as_deref(), pair.finished.len()), (Some("Quit"), 25), "seed {seed}");
        pair.check_accepted();
        for outcome in pair.finished.values() {
            assert!(["accepted", "Message 452", "Message 451"].contains(&outcome.as_str()), "{outcome}");
        }
    }
}

#[test]
fn refused_transactions_are_reset_and_the_connection_is_used_again() {
    for seed in 1..=20 {
        let mut pair = Pair::new(seed, 10, false, accept);
        pair.run();
        assert_eq!((pair.closed.as_deref(), pair.received.len()), (Some("Quit"), 0), "seed {seed}");
        assert_eq!(pair.finished.len(), 10);
        assert!(pair.finished.values().all(|o| o == &format!("{:?} 550", RefusedAt::Recipients)));
    }
}

#[test]
fn a_cut_connection_gives_every_transaction_one_outcome_and_invents_nothing() {
    let mut doubtful = 0;
    for seed in 1..=200 {
        let mut pair = Pair::new(seed, 25, true, accept);
        let cut = pair.random.below(600);
        while pair.turns < cut && pair.closed.is_none() {
            pair.turn();
        }
        pair.client.handle_closed();
        pair.client_turn();
        assert!(pair.closed.is_some());
        assert_eq!(pair.finished.len(), pair.started.len(), "seed {seed}");
        // Each message the client was told is taken was received; each received one it was not told of is in doubt.
        for received in &pair.received {
            let token = pair.started.iter().find(|(_, m)| m.body == received.body && m.sender == received.sender);
            let outcome = &pair.finished[token.unwrap().0];
            doubtful += usize::from(outcome == "lost true");
            assert!(outcome == "accepted" || outcome == "lost true", "seed {seed}: {outcome}");
        }
        let accepted = pair.finished.values().filter(|o| *o == "accepted").count();
        assert!(accepted <= pair.received.len());
    }
    assert!(doubtful > 0, "the test reaches the moment between the final dot and its reply");
}

#[test]
fn a_silent_side_times_out_the_other() {
    // The server hears nothing: it says 421, and the client learns it from that.
    let mut pair = Pair::new(7, 1, true, accept);
    let mut out = Vec::new();
    let deadline = pair.server.poll_timeout().unwrap();
    assert!(pair.server.handle_timeout(deadline, &mut out));
    pair.to_client.extend(out);
    pair.server_closed = true;
    while pair.closed.is_none() {
        pair.turn();
    }
    assert!(pair.closed.as_ref().unwrap().starts_with("Shutdown"), "{:?}", pair.closed);
    // The verdict never falls: the client gives up, and knows that it cannot know.
    let mut pair = Pair::new(8, 1, true, accept);
    while pair.verdict_due.is_none() {
        pair.turn();
    }
    pair.now = pair.client.poll_timeout().unwrap();
    pair.client.handle_timeout(pair.now);
    pair.client_turn();
    assert_eq!(pair.finished[&0], "lost true");
}

/// Any lines in wire form, with sender, number of recipients and BODY=8BITMIME or not.
fn any_message() -> impl Strategy<Value = (Vec<u8>, bool, usize, bool)> {
    let octet = any::<u8>().prop_map(|b| if matches!(b, b'\r' | b'\n' | 0) { b'.' } else { b });
    let line = prop_oneof![prop::collection::vec(octet, 0..90), r"\.{0,3}".prop_map(String::into_bytes)];
    let body = prop::collection::vec(line, 0..12).prop_map(|lines| {
        let stuffed = |line: &Vec<u8>| [if line.starts_with(b".") { b"." } else { &b""[..] }, line, b"\r\n"].concat();
        [lines.iter().map(stuffed).collect::<Vec<_>>().concat(), b".\r\n".to_vec()].concat()
    });
    (body, any::<bool>(), 1..2 * MAX_RECIPIENTS, any::<bool>())
}

proptest! {
    #![proptest_config(cases(150))]

    #[test]
    fn property_every_recipient_has_one_verdict_whatever_the_peer_announces(
        messages in prop::collection::vec(any_message(), 1..8),
        hidden in prop::sample::select(vec![
            &[][..], &["250-PIPELINING\r\n"], &["250-8BITMIME\r\n"], &["250-PIPELINING\r\n", "250-8BITMIME\r\n"],
            &["250-CHUNKING\r\n"],
        ]),
        refusing in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let eight_bit_is_lost = hidden.contains(&"250-8BITMIME\r\n");
        let letter = |(token, (body, null, recipients, eight_bit)): (u64, (Vec<u8>, bool, usize, bool))| {
            let recipients = (0..recipients).map(|i| format!("r{i}@d{token}.example").into_bytes()).collect();
            let sender = if null { Vec::new() } else { format!("s{token}@x").into_bytes() };
            let params = exact(&body, eight_bit);
            (token, Received { sender, recipients, body }, params)
        };
        let pending: VecDeque<_> = (0..).zip(messages).map(letter).collect();
        let all = pending.clone();
        let some: fn(&mut Random) -> Verdict =
            |random| if random.below(2) == 0 { Verdict::Busy } else { accept(random) };
        let mut pair = Pair::with(seeded(seed), pending, true, if refusing { some } else { accept });
        pair.hidden = hidden;
        pair.run();
        assert_eq!(pair.closed.as_deref(), Some("Quit"));
        pair.check_accepted();
        for (token, letter, params) in all {
            // Its own verdict, once, or its transaction's, of which there is one.
            let mut refused = pair.refused.remove(&token).unwrap_or_default();
            refused.sort_unstable();
            let local = params.body == BodyType::EightBit && eight_bit_is_lost;
            let above = if local { 0..0 } else { MAX_RECIPIENTS as u32..letter.recipients.len().max(MAX_RECIPIENTS) as u32 };
            assert_eq!(refused, above.collect::<Vec<_>>(), "{token}");
            let outcome = pair.finished.remove(&token).unwrap();
            match outcome.as_str() {
                "Local 554" => assert!(local),
                "Message 452" => assert!(refusing && !local),
                other => assert!(other == "accepted" && !local, "{other}"),
            }
        }
        assert!(pair.finished.is_empty() && pair.refused.is_empty());
    }
}
