//! The SMTP server machine, from each of its states, with any bytes in any pieces.
//!
//! Input: state to begin in, driver's choices, an event and where it falls, cuts, then what the client sends. Checked:
//! every split gives the same transcript (replies, messages with envelope and body, refusals, end); what is kept between
//! pieces is bounded; replies are SMTP; an accepted body has one reading only.

use crate::Target;
use crate::input::{Cuts, Input};
use ringpost::limits;
use ringpost::message::MessageId;
use ringpost::message::params::BodyType;
use ringpost::smtp::data::Fault;
use ringpost::smtp::server::{PeerFacts, Server, ServerPolicy, Step, Verdict};
use ringpost::time::Moment;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

/// The target.
pub const TARGET: Target = Target {
    name: "server",
    run,
    max_bytes: 8192,
    words: &[
        b"\r\n",
        b"\r\n.\r\n",
        b"EHLO a\r\n",
        b"HELO [127.0.0.1]\r\n",
        b"MAIL FROM:<a@b.example>\r\n",
        b"MAIL FROM:<>",
        b" SIZE=100",
        b" BODY=8BITMIME",
        b"RCPT TO:<c@d.example>\r\n",
        b"RCPT TO:<@e,@f:\"g h\"@[IPv6:::1]>\r\n",
        b"RCPT TO:<postmaster>\r\n",
        b"DATA\r\n",
        b"BDAT 3 LAST\r\n",
        b"BDAT 5\r\n",
        b" BODY=BINARYMIME",
        b"GET / HTTP/1.1\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"QUIT\r\n",
        b"VRFY x\r\n",
        b"HELP\r\n",
        b"Received: x\r\n",
        b"..\r\n",
    ],
    test_runs: 1500,
};

const NOW: Moment = Moment(1_000_000_000);
/// The most a machine writes behind a full `out`: the reply to one command or message, and the farewell.
const REPLY_BYTES: usize = 1024;

/// What happens beside the client's bytes, once, at a place among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Nothing,
    Shutdown,
    Busy,
    Timeout,
    /// A timeout is asked for before its time.
    Early,
}

/// What the driver does and knows.
#[derive(Clone, Debug)]
struct Plan {
    state: usize,
    may_relay: bool,
    verdict: Verdict,
    max_message_bytes: u64,
    event: Event,
    at: usize,
}

/// Names of the states to begin in, in their numbers' order.
pub const STATES: &[&str] = &[
    "greeted",
    "ehlo",
    "helo",
    "mail",
    "rcpt",
    "data",
    "in-body",
    "refusing",
    "verdict-due",
    "swallowing",
    "last-errors",
    "received-headers",
    "nearly-too-big",
    "shutting-down",
];

/// What a client said to bring a session into a state.
fn prologue(state: usize, max_message_bytes: u64) -> Vec<u8> {
    const RCPT: &str = "EHLO c.example\r\nMAIL FROM:<a@b.example> BODY=8BITMIME\r\nRCPT TO:<c@d.example>\r\n";
    match STATES[state] {
        "ehlo" => "EHLO c.example\r\n".into(),
        "helo" => "HELO c.example\r\n".into(),
        "mail" => "EHLO c.example\r\nMAIL FROM:<a@b.example>\r\n".into(),
        "rcpt" => RCPT.into(),
        "data" | "shutting-down" => format!("{RCPT}DATA\r\n").into(),
        "in-body" => format!("{RCPT}DATA\r\nSubject: x\r\n\r\ntext").into(),
        "refusing" => format!("{RCPT}DATA\r\nSubject: x\n").into(),
        "verdict-due" => format!("{RCPT}DATA\r\nSubject: x\r\n\r\n.\r\n").into(),
        "swallowing" => vec![b'x'; limits::COMMAND_LINE_BYTES],
        "last-errors" => "X\r\n".repeat(usize::from(limits::SESSION_ERRORS) - 2).into(),
        "received-headers" => {
            format!("{RCPT}DATA\r\n{}", "Received: x\r\n".repeat(limits::RECEIVED_HEADERS as usize - 1)).into()
        }
        "nearly-too-big" => {
            let body = "y".repeat(usize::try_from(max_message_bytes).map_or(0, |m| m - 4));
            format!("{RCPT}DATA\r\n{body}").into()
        }
        _ => Vec::new(),
    }
}

/// An envelope, as the driver would store it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    helo: Vec<u8>,
    esmtp: bool,
    sender: Vec<u8>,
    recipients: Vec<(Vec<u8>, Vec<u8>)>,
    eight_bit: bool,
    declared_size: u64,
    body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Message(Stored),
    Discarded(Fault),
    Refused(Vec<u8>, Vec<u8>),
    Closed,
}

/// All that can be told apart from outside.
#[derive(Debug, Default, PartialEq, Eq)]
struct Transcript {
    replies: Vec<u8>,
    /// Each with the replies written before it, in bytes.
    seen: Vec<(usize, Seen)>,
    unread: Vec<u8>,
    timeout: Option<Moment>,
    in_transaction: bool,
    body_bytes: u64,
}

struct Session {
    server: Server,
    plan: Plan,
    /// The verdict is held back.
    hold: bool,
    verdict_due: bool,
    closed: bool,
    tail: Vec<u8>,
    out: Vec<u8>,
    collected: Vec<u8>,
    transcript: Transcript,
}

impl Session {
    fn new(plan: &Plan) -> Self {
        let policy = Arc::new(ServerPolicy::new("mx.example", plan.max_message_bytes, 3));
        let peer = PeerFacts::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true);
        let mut out = Vec::new();
        let mut session = Session {
            server: Server::new(Arc::clone(&policy), peer, NOW, &mut out),
            plan: plan.clone(),
            hold: STATES[plan.state] == "verdict-due",
            verdict_due: false,
            closed: false,
            tail: Vec::new(),
            out,
            collected: Vec::new(),
            transcript: Transcript::default(),
        };
        if !plan.may_relay {
            let peer = PeerFacts { may_relay: false, ..peer };
            session.out.clear();
            session.server = Server::new(policy, peer, NOW, &mut session.out);
        }
        session.feed(&prologue(plan.state, plan.max_message_bytes));
        if STATES[plan.state] == "shutting-down" {
            session.server.shutdown(&mut session.out);
        }
        session
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.pump();
    }

    fn pump(&mut self) {
        let input = std::mem::take(&mut self.tail);
        let mut at = 0;
        let mut idle_steps = 0;
        while !self.closed {
            let (n, step) = self.server.step(&input[at..], NOW, &mut self.out);
            assert!(n <= input.len() - at, "more was consumed than given");
            at += n;
            idle_steps = if n == 0 { idle_steps + 1 } else { 0 };
            assert!(idle_steps < 8, "no progress at {step:?}");
            assert!(self.out.len() < limits::SESSION_OUT_BYTES + REPLY_BYTES, "replies without bound");
            match step {
                Step::Body(piece) => {
                    assert!(!piece.is_empty());
                    self.collected.extend_from_slice(piece);
                    let most = self.plan.max_message_bytes + 3;
                    assert!(self.collected.len() as u64 <= most, "more than the policy allows was handed on");
                }
                Step::Message => {
                    self.message();
                    self.verdict_due = true;
                    if !self.hold {
                        self.verdict();
                    }
                }
                Step::Discarded(fault) => {
                    assert!(self.server.in_transaction());
                    self.collected.clear();
                    self.see(Seen::Discarded(fault));
                }
                Step::Dropped => self.collected.clear(),
                Step::Ask | Step::StartTls => unreachable!("nothing of that is offered"),
                Step::Refused(refusal) => {
                    assert!(self.out.ends_with(refusal.reply) || self.out.ends_with(b"closing the connection\r\n"));
                    self.see(Seen::Refused(refusal.line.to_vec(), refusal.reply.to_vec()));
                }
                Step::Blocked if self.verdict_due => break,
                Step::Blocked => {
                    assert!(self.out.len() >= limits::SESSION_OUT_BYTES, "blocked by nothing");
                    self.flush();
                }
                Step::NeedInput => {
                    let line = limits::COMMAND_LINE_BYTES;
                    assert!(input.len() - at < line, "a driver would keep more than the start of a line");
                    break;
                }
                Step::Close => {
                    self.closed = true;
                    self.see(Seen::Closed);
                }
            }
        }
        if !self.closed {
            self.tail = input[at..].to_vec();
        }
        if !self.server.in_transaction() {
            let most = 2 * limits::SESSION_ENVELOPE_BYTES;
            assert!(self.server.envelope().capacity() <= most, "an envelope's memory outlives its transaction");
        }
        self.flush();
    }

    fn flush(&mut self) {
        self.transcript.replies.append(&mut self.out);
    }

    fn see(&mut self, seen: Seen) {
        let replies = self.transcript.replies.len() + self.out.len();
        self.transcript.seen.push((replies, seen));
    }

    fn message(&mut self) {
        let body = std::mem::take(&mut self.collected);
        let envelope = self.server.envelope();
        let binary = envelope.options.body == BodyType::Binary;
        if !binary {
            check_body(&body);
        }
        assert!((1..=3).contains(&envelope.recipient_count()) && self.plan.may_relay);
        let stored = Stored {
            helo: self.server.helo().to_vec(),
            esmtp: self.server.is_esmtp(),
            sender: envelope.sender().to_vec(),
            recipients: envelope.recipients().map(|r| (r.address.to_vec(), r.domain.to_vec())).collect(),
            eight_bit: envelope.is_eight_bit(),
            declared_size: envelope.declared_size,
            body,
        };
        assert!(stored.recipients.iter().all(|(address, domain)| !domain.is_empty() && address.ends_with(domain)));
        assert!(!stored.helo.is_empty() && (stored.esmtp || !binary && !stored.eight_bit && stored.declared_size == 0));
        self.see(Seen::Message(stored));
    }

    fn verdict(&mut self) {
        self.verdict_due = false;
        self.server.handle_verdict(self.plan.verdict, NOW, &mut self.out);
    }

    fn event(&mut self) {
        match self.plan.event {
            Event::Nothing => {}
            Event::Shutdown => self.server.shutdown(&mut self.out),
            Event::Busy => self.server.set_busy(true),
            Event::Early => {
                if let Some(Moment(due)) = self.server.poll_timeout() {
                    assert!(!self.server.handle_timeout(Moment(due - 1), &mut self.out), "before its time");
                }
            }
            Event::Timeout => {
                if let Some(due) = self.server.poll_timeout() {
                    assert!(self.server.handle_timeout(due, &mut self.out), "a timeout that is due");
                    assert_eq!(self.server.poll_timeout(), None, "a timeout handled is gone");
                }
            }
        }
        self.pump();
    }

    fn end(mut self) -> Transcript {
        if self.verdict_due {
            self.hold = false;
            self.verdict();
            self.pump();
        }
        check_replies(&self.transcript.replies);
        Transcript {
            unread: self.tail,
            timeout: self.server.poll_timeout(),
            in_transaction: self.server.in_transaction(),
            body_bytes: self.server.body_bytes(),
            ..self.transcript
        }
    }
}

/// What every receiver must read alike (see `smtp::data`).
fn check_body(body: &[u8]) {
    assert!(body == b".\r\n" || body.ends_with(b"\r\n.\r\n"), "a body ends with the final dot");
    assert!(!body.contains(&0));
    for (at, byte) in body.iter().enumerate() {
        match byte {
            b'\r' => assert_eq!(body.get(at + 1), Some(&b'\n'), "a bare CR passed"),
            b'\n' => assert!(at > 0 && body[at - 1] == b'\r', "a bare LF passed"),
            _ => {}
        }
    }
    let ends = body.windows(5).filter(|w| w == b"\r\n.\r\n").count();
    assert!(ends <= 1 && (body.len() == 3 || !body.starts_with(b".\r\n")), "an end within a body");
}

fn check_replies(replies: &[u8]) {
    let text = replies.strip_suffix(b"\r\n").expect("the last reply is whole");
    for line in text.split(|b| *b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        assert!(line.len() <= 510, "a reply line above 512 octets");
        assert!(matches!(line, [b'2'..=b'5', b'0'..=b'9', b'0'..=b'9', b' ' | b'-', ..]), "no reply: {line:?}");
        assert!(line.iter().all(|b| matches!(b, b' '..=b'~')));
    }
}

fn transcript(plan: &Plan, payload: &[u8], cuts: &Cuts) -> Transcript {
    let (before, behind) = payload.split_at(plan.at.min(payload.len()));
    let mut session = Session::new(plan);
    for piece in cuts.pieces(before) {
        session.feed(piece);
    }
    session.event();
    for piece in cuts.pieces(behind) {
        session.feed(piece);
    }
    session.end()
}

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let state = input.below(STATES.len());
    let choices = input.u8();
    let plan = Plan {
        state,
        may_relay: choices & 1 == 0 || state > 3,
        verdict: match choices >> 1 & 3 {
            0 => Verdict::Accepted(MessageId(7)),
            1 => Verdict::Busy,
            2 => Verdict::Full,
            _ => Verdict::LocalError,
        },
        max_message_bytes: if choices & 8 == 0 { 4000 } else { 100 },
        event: match choices >> 4 & 7 {
            1 => Event::Shutdown,
            2 => Event::Busy,
            3 => Event::Timeout,
            4 => Event::Early,
            _ => Event::Nothing,
        },
        at: usize::from(input.u8()),
    };
    let cuts = input.cuts();
    let payload = input.rest();
    let whole = transcript(&plan, payload, &Cuts::none());
    assert_eq!(whole, transcript(&plan, payload, &cuts), "whole, and as cut");
    assert_eq!(whole, transcript(&plan, payload, &Cuts::every()), "whole, and byte by byte");
}
