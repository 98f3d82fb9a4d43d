//! The SMTP client machine against a peer that says anything, in any pieces.
//!
//! Input: the messages to send, the driver's choices, cuts, then what the peer sends. Each command and body is written
//! down with the reply that will answer it, so that every outcome can be held against the one reply it may come from.
//! Checked: every split gives the same transcript; a recipient counts as delivered only by 2yz to its RCPT and 2yz to
//! the final dot of its message; each transaction ends exactly once; without bytes the connection ends by its timers.
//!
//! A peer may not answer what it has not been sent, or its words mean something else to a machine that is further: so
//! pieces end where a reply ends that the machine has to act on.

use crate::Target;
use crate::input::{Cuts, Input};
use ringpost::smtp::client::{
    Awaited, Client, ClientEvent, ClientTimeouts, CloseReason, MailParams, Outcome, RefusedAt, Transmit,
};
use ringpost::smtp::reply::{Reply, ReplyParser};
use ringpost::time::Moment;
use std::collections::BTreeMap;
use std::time::Duration;

/// The target.
pub const TARGET: Target = Target {
    name: "client",
    run,
    max_bytes: 8192,
    words: &[
        b"220 x\r\n",
        b"250-x\r\n",
        b"250-PIPELINING\r\n",
        b"250-SIZE 100\r\n",
        b"250 8BITMIME\r\n",
        b"250 ok\r\n",
        b"250\r\n",
        b"354 go\r\n",
        b"421 bye\r\n",
        b"450 4.2.1 later\r\n",
        b"550 5.1.1 no\r\n",
        b"503 order\r\n",
        b"554 no\r\n",
        b"221 bye\r\n",
        b"\r\n",
    ],
    test_runs: 2000,
};

/// What the next reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Greeting,
    Hello,
    Reset,
    Mail(u64),
    Rcpt(u64, u32),
    Data(u64),
    Body(u64),
    /// The empty message that ends a DATA nobody is to get.
    Dot,
    Quit,
}

#[derive(Clone, Debug)]
struct Plan {
    /// Recipients, size, 8-bit for each message.
    messages: Vec<(u32, MailParams<'static>)>,
    /// Quit after so many messages.
    quit_after: usize,
    /// The body of this message is never taken by the transport.
    stuck: Option<u64>,
    /// The peer closes at the end, otherwise it falls silent.
    closes: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Transcript {
    sent: Vec<u8>,
    events: Vec<String>,
}

struct Session {
    client: Client,
    plan: Plan,
    now: Moment,
    started: u64,
    /// What is sent and not answered, in order, and how many answers came.
    asked: Vec<Asked>,
    answered: usize,
    /// Recipients of each transaction on its way.
    open: BTreeMap<u64, u32>,
    accepted_rcpts: BTreeMap<u64, u32>,
    refused_rcpts: BTreeMap<u64, u32>,
    /// Transactions on the wire whose MAIL has not been seen, and the one whose commands are being sent.
    to_send: Vec<u64>,
    sending: u64,
    rcpts_sent: u32,
    after_data: u64,
    command: Vec<u8>,
    closed: bool,
    transcript: Transcript,
}

impl Session {
    fn new(plan: &Plan) -> Self {
        let now = Moment(1);
        Session {
            client: Client::new("relay.example".into(), ClientTimeouts::default(), now),
            plan: plan.clone(),
            now,
            started: 0,
            asked: vec![Asked::Greeting],
            answered: 0,
            open: BTreeMap::new(),
            accepted_rcpts: BTreeMap::new(),
            refused_rcpts: BTreeMap::new(),
            to_send: Vec::new(),
            sending: 0,
            rcpts_sent: 0,
            after_data: 0,
            command: Vec::new(),
            closed: false,
            transcript: Transcript::default(),
        }
    }

    /// Takes a piece with these whole replies' codes in it.
    fn feed(&mut self, bytes: &[u8], replies: &[u16]) {
        let first = self.answered;
        for code in replies {
            if let Some(Asked::Rcpt(token, _)) = self.asked.get(self.answered)
                && code / 100 == 2
            {
                *self.accepted_rcpts.entry(*token).or_default() += 1;
            }
            self.answered += 1;
        }
        self.client.handle_input(bytes, self.now);
        self.turn(first, replies);
    }

    /// The driver's turn: events, new transactions, what is to be sent.
    fn turn(&mut self, first: usize, replies: &[u16]) {
        let mut turns = 0;
        loop {
            let mut events = Vec::new();
            let mut finished = Vec::new();
            while let Some(event) = self.client.poll_event() {
                assert!(!self.closed, "an event behind Closed: {event:?}");
                let asked = self.asked[first.min(self.asked.len())..].iter().copied().zip(replies.iter().copied());
                let asked: Vec<_> = asked.collect();
                match event {
                    ClientEvent::Ready | ClientEvent::StartTls => {}
                    ClientEvent::Settled { .. } => panic!("this is no LMTP"),
                    ClientEvent::Recipient { token, index, reply } => {
                        *self.refused_rcpts.entry(token).or_default() += 1;
                        assert!(asked.contains(&(Asked::Rcpt(token, index), reply.code)), "{event:?} by {asked:?}");
                        assert!(matches!(reply.code / 100, 4 | 5));
                    }
                    ClientEvent::Finished { token, outcome } => {
                        check_outcome(token, &outcome, &asked);
                        finished.push((token, matches!(outcome, Outcome::Accepted(_))));
                    }
                    ClientEvent::Closed(reason) => {
                        self.closed = true;
                        check_reason(&reason);
                    }
                }
                check_text(&event);
                events.push(format!("{event:?}"));
            }
            self.transcript.events.append(&mut events);
            for (token, delivered) in finished {
                let recipients = self.open.remove(&token).expect("each transaction ends once");
                if delivered {
                    let refused = self.refused_rcpts.get(&token).copied().unwrap_or(0);
                    let accepted = self.accepted_rcpts.get(&token).copied().unwrap_or(0);
                    assert_eq!(recipients, refused + accepted, "delivered to whom the peer did not accept");
                    assert!(accepted > 0);
                }
            }
            self.start();
            self.transmit();
            if !self.client.has_events() {
                break;
            }
            turns += 1;
            assert!(turns < 20, "events without end");
        }
        assert_eq!(self.closed, self.client.is_closed());
        if self.closed {
            assert!(self.open.is_empty(), "a transaction got lost without a word");
            assert_eq!(self.client.poll_timeout(), None);
        }
    }

    fn start(&mut self) {
        while self.client.can_start()
            && let Some((recipients, params)) = self.plan.messages.get(self.started as usize).copied()
            && (self.started as usize) < self.plan.quit_after
        {
            let token = self.started;
            self.started += 1;
            let addresses: Vec<String> = (0..recipients).map(|i| format!("r{i}@d{token}.example")).collect();
            self.open.insert(token, recipients);
            let had_events = self.client.has_events();
            let addresses = addresses.iter().map(String::as_bytes);
            self.client.start(token, b"s@x.example", addresses, &params, self.now);
            assert!(!had_events);
            if self.client.has_events() {
                // Refused by itself: nothing will be sent.
                return;
            }
            self.to_send.push(token);
        }
        let all = self.started as usize >= self.plan.quit_after.min(self.plan.messages.len());
        if all && !self.closed {
            self.client.quit(self.now);
        }
    }

    fn transmit(&mut self) {
        while let Some(transmit) = self.client.poll_transmit() {
            match transmit {
                Transmit::Commands(range) => {
                    let commands = self.client.commands(range).to_vec();
                    for byte in commands {
                        self.command.push(byte);
                        if byte == b'\n' {
                            let line = std::mem::take(&mut self.command);
                            self.sent(&line);
                            self.transcript.sent.extend(line);
                        }
                    }
                    assert!(self.command.is_empty(), "half a command");
                }
                Transmit::Chunk { token } => panic!("{token} was not to fly"),
                Transmit::Body { token } => {
                    assert_eq!(token, self.after_data, "the body of the transaction that DATA was for");
                    self.transcript.sent.extend_from_slice(format!("<body {token}>").as_bytes());
                    if self.plan.stuck != Some(token) {
                        self.asked.push(Asked::Body(token));
                        self.client.body_sent(token, self.now);
                    }
                }
            }
        }
        self.client.transmitted();
    }

    /// Files a command line by the reply it is owed.
    fn sent(&mut self, line: &[u8]) {
        let line = line.strip_suffix(b"\r\n").expect("a command ends with CRLF");
        assert!(line.len() <= 510 && line.iter().all(|b| matches!(b, b' '..=b'~')), "{line:?}");
        let asked = match line.split(|b| *b == b' ').next().unwrap_or_default() {
            b"EHLO" | b"HELO" => Asked::Hello,
            b"RSET" => Asked::Reset,
            b"MAIL" => {
                self.sending = self.to_send.remove(0);
                self.rcpts_sent = 0;
                Asked::Mail(self.sending)
            }
            b"RCPT" => {
                self.rcpts_sent += 1;
                let (token, index) = (self.sending, self.rcpts_sent - 1);
                assert_eq!(line, format!("RCPT TO:<r{index}@d{token}.example>").as_bytes());
                Asked::Rcpt(token, index)
            }
            b"DATA" => {
                assert_eq!(Some(&self.rcpts_sent), self.plan.messages.get(self.sending as usize).map(|m| &m.0));
                self.after_data = self.sending;
                Asked::Data(self.sending)
            }
            b"." => Asked::Dot,
            b"QUIT" => Asked::Quit,
            other => panic!("no command: {other:?}"),
        };
        self.asked.push(asked);
    }

    /// Nothing more comes from the peer: the timers end it.
    fn end(mut self) -> Transcript {
        if self.plan.closes {
            self.client.handle_closed();
            self.turn(self.answered, &[]);
        }
        let mut rounds = 0;
        while !self.closed {
            rounds += 1;
            assert!(rounds < 10, "it does not end: {:?}", self.client.awaited());
            match self.client.poll_timeout() {
                Some(due) => {
                    assert!(due.since(self.now) <= Duration::from_secs(3600));
                    self.client.handle_timeout(Moment(due.0 - 1));
                    assert!(!self.client.is_closed() && !self.client.has_events(), "before its time");
                    self.now = due;
                    self.client.handle_timeout(due);
                }
                None => {
                    assert!(self.client.is_idle() && self.client.awaited() == Awaited::Nothing);
                    self.client.quit(self.now);
                }
            }
            self.turn(self.answered, &[]);
        }
        self.client.handle_input(b"250 late\r\n", self.now);
        self.client.handle_timeout(Moment::NEVER);
        self.client.handle_closed();
        assert!(!self.client.has_events() && !self.client.can_start());
        assert_eq!(self.transcript.events.iter().filter(|e| e.starts_with("Closed")).count(), 1);
        self.transcript
    }
}

fn check_outcome(token: u64, outcome: &Outcome<'_>, asked: &[(Asked, u16)]) {
    let of = |what: Asked, reply: &Reply<'_>| {
        assert!(asked.contains(&(what, reply.code)), "{token}: {outcome:?} by {asked:?}");
    };
    match outcome {
        Outcome::Accepted(reply) => {
            assert_eq!(reply.code / 100, 2, "delivered without 2yz");
            of(Asked::Body(token), reply);
        }
        Outcome::Refused { stage, reply } => {
            assert!(matches!(reply.code / 100, 4 | 5));
            match stage {
                RefusedAt::Local => assert!(reply.code == 552 || reply.code == 554),
                RefusedAt::Mail => of(Asked::Mail(token), reply),
                RefusedAt::Data => of(Asked::Data(token), reply),
                RefusedAt::Recipients => {
                    let last =
                        asked.iter().any(|(a, c)| matches!(a, Asked::Rcpt(t, _) if *t == token) && *c == reply.code);
                    assert!(last, "{token}: {outcome:?} by {asked:?}");
                }
                // Also in the middle of the body, which was not all sent then.
                RefusedAt::Flight => panic!("nothing was to fly"),
                RefusedAt::Message => {}
            }
        }
        Outcome::Lost { .. } => {}
    }
}

fn check_reason(reason: &CloseReason<'_>) {
    match reason {
        CloseReason::Refused(reply) => assert!(matches!(reply.code / 100, 4 | 5)),
        CloseReason::Shutdown(reply) => assert_eq!(reply.code, 421),
        CloseReason::Timeout(awaited) => assert_ne!(*awaited, Awaited::Nothing),
        _ => {}
    }
}

fn check_text(event: &ClientEvent<'_>) {
    let text = match event {
        ClientEvent::Recipient { reply, .. } => reply.text,
        ClientEvent::Finished { outcome: Outcome::Accepted(r) | Outcome::Refused { reply: r, .. }, .. } => r.text,
        ClientEvent::Closed(CloseReason::Refused(r) | CloseReason::Shutdown(r) | CloseReason::Unexpected(r)) => r.text,
        _ => return,
    };
    assert!(text.len() <= ringpost::limits::REPLY_TEXT_BYTES + 1);
    assert!(text.bytes().all(|b| matches!(b, b'\n' | b' '..=b'~')));
}

/// Cuts `bytes` behind each reply; the last part may be none. With each the code of its reply.
fn replies(bytes: &[u8]) -> Vec<(&[u8], Option<u16>)> {
    let mut parser = ReplyParser::default();
    let mut parts = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let mut left = rest;
        let code = match parser.feed(&mut left) {
            Ok(true) => Some(parser.reply().code),
            Ok(false) => None,
            Err(_) => {
                parts.push((rest, None));
                break;
            }
        };
        let (part, behind) = rest.split_at(rest.len() - left.len());
        parts.push((part, code));
        rest = behind;
    }
    parts
}

fn transcript(plan: &Plan, parts: &[(&[u8], Option<u16>)], cuts: &Cuts) -> Transcript {
    let mut session = Session::new(plan);
    session.turn(0, &[]);
    for (part, code) in parts {
        let mut pieces = cuts.pieces(part);
        let last = pieces.pop().unwrap_or_default();
        for piece in pieces {
            session.feed(piece, &[]);
        }
        session.feed(last, code.as_slice());
    }
    session.end()
}

/// As many replies in one piece as the peer could have sent by then.
fn transcript_of_a_fast_peer(plan: &Plan, parts: &[(&[u8], Option<u16>)]) -> Transcript {
    let mut session = Session::new(plan);
    session.turn(0, &[]);
    let mut parts = parts;
    while !parts.is_empty() {
        let due = session.asked.len().saturating_sub(session.answered).max(1);
        let (now, later) = parts.split_at(due.min(parts.len()));
        let bytes: Vec<u8> = now.iter().flat_map(|(part, _)| part.iter().copied()).collect();
        let codes: Vec<u16> = now.iter().filter_map(|(_, code)| *code).collect();
        session.feed(&bytes, &codes);
        parts = later;
    }
    session.end()
}

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let count = 1 + input.below(4);
    let choices = input.u8();
    let mut messages = Vec::new();
    for _ in 0..count {
        let shape = input.u8();
        let size = [0, 50, 5000, u64::MAX][usize::from(shape >> 4 & 3)];
        messages.push((1 + u32::from(shape & 3), MailParams::new(size, shape & 8 != 0)));
    }
    let plan = Plan {
        messages,
        quit_after: if choices & 1 == 0 { usize::MAX } else { usize::from(choices >> 4 & 3) },
        stuck: (choices & 2 != 0).then_some(u64::from(choices >> 6)),
        closes: choices & 4 != 0,
    };
    let cuts = input.cuts();
    let parts = replies(input.rest());
    let whole = transcript(&plan, &parts, &Cuts::none());
    assert_eq!(whole, transcript(&plan, &parts, &cuts), "whole replies, and as cut");
    assert_eq!(whole, transcript(&plan, &parts, &Cuts::every()), "whole replies, and byte by byte");
    assert_eq!(whole, transcript_of_a_fast_peer(&plan, &parts), "reply by reply, and many at once");
}
