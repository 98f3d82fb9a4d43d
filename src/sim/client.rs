//! A client of the relay in the simulated world: sessions that submit letters, well or badly, and remember what they were
//! promised.
//!
//! Inputs: plans from the world, replies from the relay. Outputs: SMTP, and a [`Sent`] for each letter, which is what the
//! oracle holds the relay to. It refuses to send a letter again: each has its mark once.

mod letter;

pub use letter::{Leave, Letter, Sent, Style};

use super::guise::{Door, Guise, Login, SUBMISSIONS, chunked};
use crate::rt::sim::tls::SimTls;
use crate::rt::sim::{Host, HostEvent, HostSide, LinkId, Reading};
use crate::rt::tls::Progress;
use crate::time::Moment;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

#[derive(Clone, Copy, Debug)]
enum Expect {
    Greeting,
    Ehlo,
    StartTls,
    Auth,
    Chunk,
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
    tls: Option<SimTls>,
    door: Door,
    /// STARTTLS and AUTH were said, or need not be.
    proven: (bool, bool),
    /// A message in chunks was refused: the transaction may be open.
    failed: bool,
    /// When a command was sent that is answered by itself.
    asked: Option<Moment>,
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
    /// A proxy stands before it, which says this first on every connection.
    pub proxy: Option<String>,
    /// When a command was sent and when it was answered, if that took more than a minute.
    pub slow: Vec<(Moment, Moment)>,
    /// AUTH with the right password that was refused for good.
    pub locked_out: u32,
    sessions: BTreeMap<LinkId, Session>,
}

impl Client {
    /// Of a network that may relay, or not.
    pub fn new(may_relay: bool) -> Self {
        Client { may_relay, ..Client::default() }
    }

    /// Begins a session.
    pub fn begin(&mut self, letters: Vec<Letter>, style: Style, side: &mut HostSide<'_>) {
        let guise = &style.guise;
        let link = side.connect(guise.listener);
        if let Some(line) = &self.proxy {
            side.write(link, line.as_bytes());
        }
        let mut tls = None;
        if guise.is_implicit() {
            let mut hello = Vec::new();
            tls = Some(SimTls::client(&mut hello));
            hello.chunks(style.piece.max(1)).for_each(|piece| side.write(link, piece));
        }
        let door = Door {
            listener: guise.listener,
            near: self.may_relay,
            asks: guise.asks,
            guised: guise.drawn,
            ..Door::default()
        };
        let proven = (!guise.starttls || guise.listener == SUBMISSIONS, guise.login.is_none());
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
                tls,
                door,
                proven,
                failed: false,
                asked: None,
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
        match &mut session.tls {
            None => side.write(link, bytes),
            Some(tls) => {
                let mut records = Vec::new();
                tls.send(bytes, &mut records);
                side.write(link, &records);
            }
        }
        true
    }

    /// What the relay said, out of its TLS; none if it is not in TLS where it should be. Whether the handshake ended with it.
    fn hear(link: LinkId, session: &mut Session, bytes: &[u8], side: &mut HostSide<'_>) -> Option<(Vec<u8>, bool)> {
        let Some(tls) = &mut session.tls else { return Some((bytes.to_vec(), false)) };
        let (mut plain, mut answer) = (Vec::new(), Vec::new());
        let progress = tls.receive(bytes, &mut plain, &mut answer).ok()?;
        side.write(link, &answer);
        let established = progress == Progress::Established;
        session.door.secure |= established;
        Some((plain, established))
    }

    /// STARTTLS and AUTH, if they are due: whether the session goes on then.
    fn prove(&mut self, link: LinkId, session: &mut Session, side: &mut HostSide<'_>) -> Option<bool> {
        if !std::mem::replace(&mut session.proven.0, true) {
            session.expect.push_back(Expect::StartTls);
            let injected: &[u8] = if session.style.guise.injects { b"INJECTED\r\n" } else { b"" };
            return Some(self.write(link, session, &[b"STARTTLS\r\n", injected].concat(), side));
        }
        let login = session.style.guise.login?;
        if std::mem::replace(&mut session.proven.1, true) {
            return None;
        }
        session.expect.push_back(Expect::Auth);
        Some(self.write(link, session, login.command().as_bytes(), side))
    }

    /// A transaction that got nowhere is given up, so that the next letter is not taken for a part of it.
    fn give_up(&mut self, link: LinkId, session: &mut Session, side: &mut HostSide<'_>) -> bool {
        session.expect.push_back(Expect::Noise);
        self.write(link, session, b"RSET\r\n", side)
    }

    /// The letter under way goes in chunks, behind what else is to be sent first.
    fn send_chunks(&mut self, link: LinkId, session: &mut Session, first: &str, side: &mut HostSide<'_>) -> bool {
        let Some(current) = session.current else { return true };
        let Guise { chunk, gives_up, .. } = session.style.guise;
        // Not every one: the next must not have a part of it.
        let gives_up = gives_up && !session.style.pipelines && self.sent[current].letter.mark.is_multiple_of(2);
        let (chunks, count) = chunked(&self.sent[current].letter, chunk.unwrap_or(1), !gives_up);
        let all = [first.as_bytes(), &chunks].concat();
        session.expect.extend((1..count).map(|_| Expect::Chunk));
        if gives_up {
            // The last chunk never comes.
            session.expect.push_back(Expect::Chunk);
            (session.current, session.failed) = (None, true);
        } else {
            session.expect.push_back(Expect::Dot);
        }
        session.rest = all.chunks(session.style.piece.max(1)).map(<[u8]>::to_vec).collect();
        self.send_piece(link, session, side)
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
        if let Some(open) = self.prove(link, session, side) {
            return open;
        }
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
        let asks = session.style.guise.asks;
        let eight_bit = if letter.body.is_ascii() || asks.binary { "" } else { " BODY=8BITMIME" };
        let (mail, rcpt) = (asks.mail(), asks.rcpt());
        let mut commands = vec![(Expect::Mail, format!("MAIL FROM:<{}>{eight_bit}{mail}\r\n", letter.sender))];
        for (index, to) in letter.recipients.iter().enumerate() {
            commands.push((Expect::Rcpt(index), format!("RCPT TO:<{to}>{rcpt}\r\n")));
        }
        session.current = Some(self.sent.len());
        self.sent.push(Sent {
            letter,
            taken: Vec::new(),
            ended: None,
            left: false,
            verdict: None,
            declined: Vec::new(),
            denied: Vec::new(),
            begun: side.now().mono,
            granted: (None, Vec::new()),
            door: session.door,
        });
        if session.style.pipelines && session.style.guise.chunk.is_some() {
            // It trusts that somebody will be taken: what is not wanted must be dropped.
            let text: String = commands.iter().map(|(_, text)| text.as_str()).collect();
            session.expect.extend(commands.iter().map(|(expect, _)| *expect));
            return self.send_chunks(link, session, &text, side);
        }
        if session.style.pipelines {
            commands.push((Expect::Data, "DATA\r\n".to_owned()));
            let text: String = commands.iter().map(|(_, text)| text.as_str()).collect();
            session.expect.extend(commands.iter().map(|(expect, _)| *expect));
            return self.write(link, session, text.as_bytes(), side);
        }
        session.expect.push_back(Expect::Mail);
        session.asked = Some(side.now().mono);
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
                if session.style.guise.chunk.is_none() {
                    session.expect.push_back(Expect::Dot);
                }
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
                return true;
            }
        }
        // Chunks may all be answered before the last is out: they were not wanted.
        self.after_answer(link, session, side)
    }

    /// Goes on if nothing is under way, either way.
    fn after_answer(&mut self, link: LinkId, session: &mut Session, side: &mut HostSide<'_>) -> bool {
        if !session.expect.is_empty() || !session.rest.is_empty() {
            return true;
        }
        if std::mem::take(&mut session.failed) {
            return self.give_up(link, session, side);
        }
        self.go_on(link, session, side)
    }

    fn reply(&mut self, link: LinkId, session: &mut Session, reply: String, side: &mut HostSide<'_>) -> bool {
        let mut words = reply.split(' ');
        let (code, enhanced) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let enhanced = if enhanced.contains('.') && code.starts_with(['2', '4', '5']) { enhanced } else { "" };
        side.mark(format!("relay says {code} {enhanced}"));
        if let (true, Some(current)) = (reply.starts_with("421 4.7.0"), session.current) {
            // Too many errors: whatever else was sent, the relay did not read it.
            self.sent[current].ended = None;
        }
        if code == "421" {
            // The relay closes: it reads nothing more (RFC 5321 §3.8).
            session.letters.clear();
        }
        let Some(expect) = session.expect.pop_front() else {
            // RFC 5321 §3.8: a server may say 421 at any time.
            if !reply.starts_with("421") {
                self.complaints.push(format!("a reply to nothing: {reply}"));
            }
            return true;
        };
        self.remember(session, expect, &reply, side.now().mono);
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
        if let Some(asked) = session.asked.take() {
            let now = side.now().mono;
            if now.since(asked) > Duration::from_secs(60) {
                self.slow.push((asked, now));
            }
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
            Expect::Ehlo => {
                if !positive && !reply.starts_with("421") {
                    self.complaints.push(format!("EHLO was answered {reply}"));
                }
            }
            Expect::Noise | Expect::Chunk => {}
            Expect::StartTls => {
                if positive {
                    let mut hello = Vec::new();
                    let tls = SimTls::client(&mut hello);
                    let open = self.write(link, session, &hello, side);
                    session.tls = Some(tls);
                    return open;
                }
            }
            Expect::Auth => {
                let login = session.style.guise.login;
                if positive {
                    session.door.account = login;
                    if !session.door.secure || !login.is_some_and(Login::is_right) {
                        self.complaints.push(format!("{login:?} was let in, {:?}", session.door));
                    }
                } else if session.door.secure && login.is_some_and(Login::is_right) {
                    self.locked_out += u32::from(reply.starts_with('5'));
                }
            }
            Expect::Mail => {
                let current = session.current.unwrap_or_default();
                let (door, sender) = (session.door, &self.sent[current].letter.sender);
                let may = door.account.is_none_or(|login| login.may_send_as(sender));
                if positive && (door.is_shut() || !may) {
                    self.complaints.push(format!("MAIL FROM:<{sender}> was taken, {door:?}"));
                }
                if lockstep && positive {
                    let command = self.rcpt_command(session, 0);
                    session.expect.push_back(Expect::Rcpt(0));
                    session.asked = Some(side.now().mono);
                    return self.write(link, session, command.as_bytes(), side);
                }
            }
            Expect::Rcpt(index) => {
                let current = session.current.unwrap_or_default();
                if lockstep {
                    let more = index + 1 < self.sent[current].letter.recipients.len();
                    if !more && session.style.guise.chunk.is_some() {
                        if self.sent[current].taken.is_empty() {
                            return self.give_up(link, session, side);
                        }
                        return self.send_chunks(link, session, "", side);
                    }
                    let command = if more {
                        session.asked = Some(side.now().mono);
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
                if session.door.guised && !reply.starts_with("421") {
                    return self.give_up(link, session, side);
                }
            }
            Expect::Dot => {
                let now = side.now();
                let failed = !positive && !reply.starts_with("421");
                if let Some(current) = session.current.take() {
                    self.sent[current].verdict = Some((reply, now.mono, now.wall));
                }
                session.failed = failed && session.style.guise.chunk.is_some();
            }
            Expect::Quit => {
                side.close(link);
                return false;
            }
        }
        self.after_answer(link, session, side)
    }

    /// Who was taken and who was not. Also of one who left and still hears: behind a message in chunks that was sent in one go,
    /// the replies to its RCPT may come last.
    fn remember(&mut self, session: &Session, expect: Expect, reply: &str, now: Moment) {
        let (Expect::Mail | Expect::Rcpt(_) | Expect::Data, Some(current)) = (expect, session.current) else { return };
        let sent = &mut self.sent[current];
        let path = match expect {
            Expect::Rcpt(index) => sent.letter.recipients[index].clone(),
            _ => String::new(),
        };
        match (expect, reply.starts_with(['2', '3'])) {
            (Expect::Rcpt(_), true) => {
                sent.taken.push(path);
                sent.granted.1.push(now);
            }
            (Expect::Mail, true) => sent.granted.0 = Some(now),
            (_, true) => {}
            (_, false) => {
                if !matches!(expect, Expect::Data) {
                    sent.denied.push((path, reply.to_owned(), now));
                }
                sent.declined.push(reply.to_owned());
            }
        }
    }

    fn rcpt_command(&self, session: &Session, index: usize) -> String {
        let letter = &self.sent[session.current.unwrap_or_default()].letter;
        format!("RCPT TO:<{}>{}\r\n", letter.recipients[index], session.style.guise.asks.rcpt())
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
                let Some((plain, established)) = Self::hear(link, &mut session, bytes, side) else {
                    self.complaints.push("the relay does not speak TLS where it must".to_owned());
                    return side.reset(link);
                };
                let mut open = true;
                if established && !session.style.guise.is_implicit() && !session.left {
                    // RFC 3207 §4.2: nothing is known of each other any more.
                    session.expect.push_back(Expect::Ehlo);
                    open = self.write(link, &mut session, b"EHLO client.test\r\n", side);
                }
                for byte in plain {
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
            _ => {}
        }
    }
}
