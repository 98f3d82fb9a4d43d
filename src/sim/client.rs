//! A client of the relay in the simulated world: sessions that submit letters, well or badly, and remember what they were
//! promised.
//!
//! Inputs: plans from the world, replies from the relay. Outputs: SMTP, and a [`Sent`] for each letter, which is what the
//! oracle holds the relay to. It refuses to send a letter again: each has its mark once.

use crate::rt::sim::{Host, HostEvent, HostSide, LinkId, Reading};
use crate::time::{Moment, Wall};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// A message to submit.
#[derive(Clone, Debug)]
pub struct Letter {
    /// Its number: in its header, and unlike that of every other.
    pub mark: u32,
    /// Reverse-path; may be empty.
    pub sender: String,
    /// Forward-paths.
    pub recipients: Vec<String>,
    /// What stands behind the empty line, in wire form: dots doubled, CRLF at its end, without the final dot.
    pub body: Vec<u8>,
}

impl Letter {
    /// The data as the client sends it, with the final dot.
    pub fn wire(&self) -> Vec<u8> {
        let mut wire = format!("X-Test: {}\r\n\r\n", self.mark).into_bytes();
        wire.extend_from_slice(&self.body);
        wire.extend_from_slice(b".\r\n");
        wire
    }
}

/// How a session is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// QUIT, and what belongs to it.
    Quit,
    /// The end of the stream.
    Close,
    /// A reset.
    Reset,
    /// The host forgets the connection.
    Vanish,
    /// Nothing is said any more: the relay must end it.
    Stall,
}

/// How a session goes.
#[derive(Clone, Debug)]
pub struct Style {
    /// Commands are sent together.
    pub pipelines: bool,
    /// Octets of data at a time.
    pub piece: usize,
    /// Pause between the pieces.
    pub pause: Duration,
    /// The end when all is sent.
    pub leave: Leave,
    /// The end before: in front of the so many-th thing it sends.
    pub accident: Option<(u32, Leave)>,
    /// How it reads replies.
    pub reading: Reading,
    /// Commands that are none, in front of each letter.
    pub noise: u32,
    /// The end right behind the last octet of each message, before it is answered.
    pub hasty: Option<Leave>,
    /// Commands follow each message without waiting for its answer.
    pub trailing: bool,
}

/// One who pipelines, sends all at once, reads what comes and says QUIT.
impl Default for Style {
    fn default() -> Self {
        Style {
            pipelines: true,
            piece: 5000,
            pause: Duration::ZERO,
            leave: Leave::Quit,
            accident: None,
            reading: Reading::All,
            noise: 0,
            hasty: None,
            trailing: false,
        }
    }
}

/// What became of one submission.
#[derive(Clone, Debug)]
pub struct Sent {
    /// What was submitted.
    pub letter: Letter,
    /// The recipients that were taken with 250.
    pub taken: Vec<String>,
    /// When the final dot was sent, if it was.
    pub ended: Option<Moment>,
    /// The client went away, or never reads: it could not learn what became of it.
    pub left: bool,
    /// The reply to it, and when.
    pub verdict: Option<(String, Moment, Wall)>,
    /// The replies to its commands that were no.
    pub declined: Vec<String>,
}

impl Sent {
    /// The id under which it was acknowledged.
    pub fn accepted(&self) -> Option<&str> {
        self.verdict.as_ref()?.0.strip_prefix("250 2.0.0 ")?.strip_suffix(" queued")
    }

    /// Whether the relay said that it does not take it.
    pub fn refused(&self) -> bool {
        self.verdict.as_ref().is_some_and(|(reply, _, _)| reply.starts_with(['4', '5']))
    }
}

#[derive(Clone, Copy, Debug)]
enum Expect {
    Greeting,
    Ehlo,
    Noise,
    Mail,
    Rcpt(usize),
    Data,
    Dot,
    Quit,
}

struct Session {
    style: Style,
    letters: VecDeque<Letter>,
    /// The letter under way: its place in `sent`.
    current: Option<usize>,
    expect: VecDeque<Expect>,
    line: Vec<u8>,
    /// What is still to be sent of a body.
    rest: VecDeque<Vec<u8>>,
    writes: u32,
    /// Left, but the relay has not closed its end.
    left: bool,
}

/// See the module. One for each address.
#[derive(Default)]
pub struct Client {
    /// Everything that was submitted.
    pub sent: Vec<Sent>,
    /// Sessions that went wrong in a way that only the relay can be blamed for.
    pub complaints: Vec<String>,
    /// Its network may relay.
    pub may_relay: bool,
    sessions: BTreeMap<LinkId, Session>,
}

impl Client {
    /// Of a network that may relay, or not.
    pub fn new(may_relay: bool) -> Self {
        Client { may_relay, ..Client::default() }
    }

    /// Begins a session.
    pub fn begin(&mut self, letters: Vec<Letter>, style: Style, side: &mut HostSide<'_>) {
        let link = side.connect(0);
        if style.reading != Reading::All {
            side.read(link, style.reading);
        }
        self.sessions.insert(
            link,
            Session {
                style,
                letters: letters.into(),
                current: None,
                expect: VecDeque::from([Expect::Greeting]),
                line: Vec::new(),
                rest: VecDeque::new(),
                writes: 0,
                left: false,
            },
        );
    }

    /// A session that sends `commands` commands at once, and reads as it likes.
    pub fn flood(&mut self, commands: u32, reading: Reading, side: &mut HostSide<'_>) {
        let style = Style { reading, ..Style::default() };
        self.begin(Vec::new(), style, side);
        let Some((link, session)) = self.sessions.iter_mut().next_back() else { return };
        session.expect.extend((0..commands).map(|_| Expect::Noise));
        // It arrives right behind the connection.
        side.write(*link, &b"HELP\r\n".repeat(commands as usize));
    }

    /// Sends, or has its accident; whether the session goes on.
    fn write(&mut self, link: LinkId, session: &mut Session, bytes: &[u8], side: &mut HostSide<'_>) -> bool {
        session.writes += 1;
        if let Some((at, leave)) = session.style.accident
            && session.writes == at
        {
            return Self::leave(link, session, leave, side);
        }
        side.write(link, bytes);
        true
    }

    fn leave(link: LinkId, session: &mut Session, leave: Leave, side: &mut HostSide<'_>) -> bool {
        side.mark(format!("client leaves by {leave:?}"));
        match leave {
            Leave::Quit | Leave::Stall => {
                session.left = true;
                session.rest.clear();
                return true;
            }
            Leave::Close => side.close(link),
            Leave::Reset => side.reset(link),
            Leave::Vanish => side.vanish(link),
        }
        false
    }

    /// All that was sent is answered: the next.
    fn go_on(&mut self, link: LinkId, session: &mut Session, side: &mut HostSide<'_>) -> bool {
        let Some(letter) = session.letters.pop_front() else {
            let leave = session.style.leave;
            if leave == Leave::Quit {
                session.expect.push_back(Expect::Quit);
                return self.write(link, session, b"QUIT\r\n", side);
            }
            return Self::leave(link, session, leave, side);
        };
        for n in 0..session.style.noise {
            let noise: &[u8] = match n % 4 {
                0 => b"NOOP\r\n",
                1 => b"WHAT is this\r\n",
                2 => b"RCPT TO:<a@b.test>\r\n",
                _ => b"MAIL FROM:<broken\r\n",
            };
            session.expect.push_back(Expect::Noise);
            if !self.write(link, session, noise, side) {
                return false;
            }
        }
        let eight_bit = if letter.body.is_ascii() { "" } else { " BODY=8BITMIME" };
        let mut commands = vec![(Expect::Mail, format!("MAIL FROM:<{}>{eight_bit}\r\n", letter.sender))];
        for (index, to) in letter.recipients.iter().enumerate() {
            commands.push((Expect::Rcpt(index), format!("RCPT TO:<{to}>\r\n")));
        }
        session.current = Some(self.sent.len());
        self.sent.push(Sent {
            letter,
            taken: Vec::new(),
            ended: None,
            left: false,
            verdict: None,
            declined: Vec::new(),
        });
        if session.style.pipelines {
            commands.push((Expect::Data, "DATA\r\n".to_owned()));
            let text: String = commands.iter().map(|(_, text)| text.as_str()).collect();
            session.expect.extend(commands.iter().map(|(expect, _)| *expect));
            return self.write(link, session, text.as_bytes(), side);
        }
        session.expect.push_back(Expect::Mail);
        let text = commands.swap_remove(0).1;
        self.write(link, session, text.as_bytes(), side)
    }

    /// The next piece of the body under way.
    fn send_piece(&mut self, link: LinkId, session: &mut Session, side: &mut HostSide<'_>) -> bool {
        while let Some(mut piece) = session.rest.pop_front() {
            if session.rest.is_empty()
                && let Some(current) = session.current
            {
                self.sent[current].ended = Some(side.now().mono);
                session.expect.push_back(Expect::Dot);
                if session.style.trailing {
                    piece.extend_from_slice(b"RSET\r\nNOOP\r\n");
                    session.expect.extend([Expect::Noise, Expect::Noise]);
                }
            }
            let (last, ended) = (session.rest.is_empty(), session.current);
            if last && let Some(current) = ended {
                self.sent[current].left = session.style.reading != Reading::All;
            }
            if !self.write(link, session, &piece, side) {
                if session.rest.is_empty()
                    && let Some(current) = session.current
                {
                    self.sent[current].ended = None;
                }
                return false;
            }
            if session.left {
                if let Some(current) = session.current {
                    self.sent[current].ended = None;
                }
                return true;
            }
            if let (true, Some(leave), Some(current)) = (last, session.style.hasty, ended) {
                self.sent[current].left = true;
                return Self::leave(link, session, leave, side);
            }
            if !session.style.pause.is_zero() && !session.rest.is_empty() {
                side.timer(session.style.pause, link.0);
                break;
            }
        }
        true
    }

    fn reply(&mut self, link: LinkId, session: &mut Session, reply: String, side: &mut HostSide<'_>) -> bool {
        let mut words = reply.split(' ');
        let (code, enhanced) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let enhanced = if enhanced.contains('.') && code.starts_with(['2', '4', '5']) { enhanced } else { "" };
        side.mark(format!("relay says {code} {enhanced}"));
        let Some(expect) = session.expect.pop_front() else {
            // RFC 5321 §3.8: a server may say 421 at any time.
            if !reply.starts_with("421") {
                self.complaints.push(format!("a reply to nothing: {reply}"));
            }
            return true;
        };
        if session.left {
            if let (Expect::Dot, Some(current)) = (expect, session.current) {
                let now = side.now();
                self.sent[current].verdict = Some((reply, now.mono, now.wall));
            }
            return true;
        }
        let positive = reply.starts_with('2');
        let reads = session.style.reading == Reading::All;
        if reply.starts_with("421 4.4.2") && reads && session.rest.is_empty() && !matches!(expect, Expect::Dot) {
            self.complaints.push(format!("{expect:?} was sent, and not answered in time: {reply}"));
        }
        if let (false, Expect::Mail | Expect::Rcpt(_) | Expect::Data, Some(current)) =
            (reply.starts_with(['2', '3']), expect, session.current)
        {
            self.sent[current].declined.push(reply.clone());
        }
        let lockstep = !session.style.pipelines;
        match expect {
            Expect::Greeting if !positive => {
                side.close(link);
                return false;
            }
            Expect::Greeting => {
                session.expect.push_back(Expect::Ehlo);
                return self.write(link, session, b"EHLO client.test\r\n", side);
            }
            Expect::Ehlo | Expect::Noise => {}
            Expect::Mail => {
                if lockstep && positive {
                    let command = self.rcpt_command(session, 0);
                    session.expect.push_back(Expect::Rcpt(0));
                    return self.write(link, session, command.as_bytes(), side);
                }
            }
            Expect::Rcpt(index) => {
                let current = session.current.unwrap_or_default();
                if positive {
                    let to = self.sent[current].letter.recipients[index].clone();
                    self.sent[current].taken.push(to);
                }
                if lockstep {
                    let more = index + 1 < self.sent[current].letter.recipients.len();
                    let command = if more {
                        session.expect.push_back(Expect::Rcpt(index + 1));
                        self.rcpt_command(session, index + 1)
                    } else {
                        session.expect.push_back(Expect::Data);
                        "DATA\r\n".to_owned()
                    };
                    return self.write(link, session, command.as_bytes(), side);
                }
            }
            Expect::Data => {
                if reply.starts_with("354") {
                    let current = session.current.unwrap_or_default();
                    if self.sent[current].taken.is_empty() {
                        self.complaints.push("354 without a recipient".to_owned());
                    }
                    let wire = self.sent[current].letter.wire();
                    session.rest = wire.chunks(session.style.piece.max(1)).map(<[u8]>::to_vec).collect();
                    return self.send_piece(link, session, side);
                }
                session.current = None;
            }
            Expect::Dot => {
                let now = side.now();
                if let Some(current) = session.current.take() {
                    self.sent[current].verdict = Some((reply, now.mono, now.wall));
                }
            }
            Expect::Quit => {
                side.close(link);
                return false;
            }
        }
        if session.expect.is_empty() { self.go_on(link, session, side) } else { true }
    }

    fn rcpt_command(&self, session: &Session, index: usize) -> String {
        let letter = &self.sent[session.current.unwrap_or_default()].letter;
        format!("RCPT TO:<{}>\r\n", letter.recipients[index])
    }
}

impl Host for Client {
    fn listens(&self, _: u16) -> bool {
        false
    }

    fn handle(&mut self, event: HostEvent<'_>, side: &mut HostSide<'_>) {
        match event {
            HostEvent::Received { link, bytes } => {
                let Some(mut session) = self.sessions.remove(&link) else { return };
                let mut open = true;
                for &byte in bytes {
                    session.line.push(byte);
                    if open && session.line.ends_with(b"\r\n") {
                        let line = std::mem::take(&mut session.line);
                        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                        let code = text.as_bytes().get(..3).is_some_and(|code| code.iter().all(u8::is_ascii_digit));
                        if !code {
                            self.complaints.push(format!("no reply: {text}"));
                        }
                        if text.as_bytes().get(3) != Some(&b'-') {
                            open = self.reply(link, &mut session, text, side);
                        }
                    }
                }
                if open {
                    self.sessions.insert(link, session);
                }
            }
            HostEvent::Timer { token } => {
                let link = LinkId(token);
                let Some(mut session) = self.sessions.remove(&link) else { return };
                if session.left || self.send_piece(link, &mut session, side) {
                    self.sessions.insert(link, session);
                }
            }
            HostEvent::Ended { link } => {
                side.close(link);
                self.sessions.remove(&link);
            }
            HostEvent::Failed { link } => drop(self.sessions.remove(&link)),
            HostEvent::Accepted { .. } | HostEvent::Connected { .. } | HostEvent::Datagram { .. } => {}
        }
    }
}
