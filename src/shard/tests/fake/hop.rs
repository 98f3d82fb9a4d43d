//! A scripted next hop: an SMTP server on one address, which answers as it is told and remembers what it was told.

use super::Machine;
use crate::time::Moment;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

/// What becomes of a connection attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Door {
    /// TCP stands.
    #[default]
    Open,
    /// ECONNREFUSED.
    Refused,
    /// No answer at all.
    Silent,
}

/// Where a reply belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum At {
    Greeting,
    Ehlo,
    Mail,
    /// MAIL on a connection that has carried a message.
    MailAgain,
    Rcpt,
    Data,
    Final,
}

/// What the hop does there instead of the usual.
#[derive(Clone, Debug)]
pub enum Act {
    /// These lines, with their CRLF.
    Say(String),
    /// These lines, and the end of the connection.
    SayAndClose(String),
    Close,
    /// And never a word again on this connection.
    Silence,
}

/// One message as the hop took it.
#[derive(Clone, Debug)]
pub struct Received {
    pub sender: String,
    pub recipients: Vec<String>,
    /// In wire form, with the final dot.
    pub data: Vec<u8>,
    /// False: the relay was not told, the connection ended before the reply.
    pub told: bool,
}

impl Received {
    /// What stands behind `X-Test:`.
    pub fn mark(&self) -> Option<u32> {
        // The headers of these tests are short, the bodies are not.
        let text = String::from_utf8_lossy(&self.data[..self.data.len().min(4096)]);
        let (head, _) = text.split_once("\r\n\r\n")?;
        head.lines().find_map(|line| line.strip_prefix("X-Test: "))?.trim().parse().ok()
    }

    pub fn is_dsn(&self) -> bool {
        memchr::memmem::find(&self.data, b"multipart/report").is_some()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
}

/// See the module. One for each address.
#[derive(Default)]
pub struct Hop {
    pub door: Door,
    pub acts: BTreeMap<At, Act>,
    /// Replies to RCPT by address, the next first; when none is left, 250.
    pub rcpt: BTreeMap<String, VecDeque<String>>,
    pub size: Option<u64>,
    pub no_eight_bit: bool,
    pub no_pipelining: bool,
    /// Above it, 421 is the greeting.
    pub max_open: Option<usize>,
    /// The socket takes so many bytes a write.
    pub per_write: Option<usize>,
    /// Closes after so many bytes of a body, once for each entry.
    pub cuts: VecDeque<usize>,
    // What happened.
    pub connects: Vec<Moment>,
    pub open: usize,
    pub peak: usize,
    pub mails: u64,
    pub received: Vec<Received>,
}

impl Hop {
    pub fn set(&mut self, at: At, act: Act) {
        self.acts.insert(at, act);
    }

    pub fn say(&mut self, at: At, line: &str) {
        self.set(at, Act::Say(format!("{line}\r\n")));
    }

    /// Works again.
    pub fn mend(&mut self) {
        self.acts.clear();
        self.rcpt.clear();
        self.cuts.clear();
        self.door = Door::Open;
        self.max_open = None;
    }
}

/// One connection to a hop.
pub(super) struct Call {
    pub hop: IpAddr,
    pub shard: usize,
    pub conn: crate::rt::ConnId,
    pub live: bool,
    counted: bool,
    /// It fell silent: nothing more is answered, or the relay would take one reply for another.
    mute: bool,
    input: Vec<u8>,
    /// Octets of a body in which its end was looked for already.
    scanned: usize,
    in_data: bool,
    transactions: u32,
    sender: String,
    recipients: Vec<String>,
    in_mail: bool,
}

impl Call {
    pub fn new(hop: IpAddr, shard: usize, conn: crate::rt::ConnId) -> Self {
        Call {
            hop,
            shard,
            conn,
            live: true,
            counted: false,
            mute: false,
            input: Vec::new(),
            scanned: 0,
            in_data: false,
            transactions: 0,
            sender: String::new(),
            recipients: Vec::new(),
            in_mail: false,
        }
    }

    /// TCP stands: the greeting.
    pub fn opened(&mut self, m: &mut Machine) {
        let hop = m.hops.get_mut(&self.hop).unwrap();
        if hop.max_open.is_some_and(|max| hop.open >= max) {
            self.say(m, "421 4.7.0 too many connections\r\n");
            self.end(m);
            return;
        }
        hop.open += 1;
        hop.peak = hop.peak.max(hop.open);
        self.counted = true;
        self.act(m, At::Greeting, "220 hop ESMTP\r\n");
    }

    /// The relay sent bytes.
    pub fn input(&mut self, m: &mut Machine, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        while self.live && !self.mute {
            if self.in_data {
                let hop = m.hops.get_mut(&self.hop).unwrap();
                if hop.cuts.front().is_some_and(|cut| self.input.len() >= *cut) {
                    hop.cuts.pop_front();
                    self.end(m);
                    return;
                }
                let end = if self.input.starts_with(b".\r\n") {
                    Some(3)
                } else {
                    let from = self.scanned.saturating_sub(4);
                    memchr::memmem::find(&self.input[from..], b"\r\n.\r\n").map(|at| from + at + 5)
                };
                let Some(end) = end else {
                    self.scanned = self.input.len();
                    return;
                };
                self.scanned = 0;
                let data: Vec<u8> = self.input.drain(..end).collect();
                self.in_data = false;
                self.complete(m, data);
            } else {
                let Some(end) = memchr::memmem::find(&self.input, b"\r\n") else { return };
                let line = String::from_utf8_lossy(&self.input[..end]).into_owned();
                self.input.drain(..end + 2);
                self.command(m, &line);
            }
        }
    }

    fn complete(&mut self, m: &mut Machine, data: Vec<u8>) {
        let (sender, recipients) = (std::mem::take(&mut self.sender), std::mem::take(&mut self.recipients));
        self.in_mail = false;
        let act = m.hops[&self.hop].acts.get(&At::Final).cloned();
        let told = !matches!(act, Some(Act::Close | Act::Silence));
        let takes = match &act {
            Some(Act::Say(text) | Act::SayAndClose(text)) => text.starts_with('2'),
            _ => true,
        };
        if takes && !recipients.is_empty() {
            m.hops.get_mut(&self.hop).unwrap().received.push(Received { sender, recipients, data, told });
        }
        self.transactions += 1;
        self.act(m, At::Final, "250 2.0.0 taken\r\n");
    }

    fn command(&mut self, m: &mut Machine, line: &str) {
        let upper = line.to_ascii_uppercase();
        if upper.starts_with("EHLO") {
            let hop = &m.hops[&self.hop];
            let mut text = "250-hop\r\n".to_owned();
            if let Some(size) = hop.size {
                text += &format!("250-SIZE {size}\r\n");
            }
            if !hop.no_eight_bit {
                text += "250-8BITMIME\r\n";
            }
            if !hop.no_pipelining {
                text += "250-PIPELINING\r\n";
            }
            text += "250 ENHANCEDSTATUSCODES\r\n";
            self.act(m, At::Ehlo, &text);
        } else if upper.starts_with("MAIL FROM:") {
            m.hops.get_mut(&self.hop).unwrap().mails += 1;
            self.sender = address(line);
            self.recipients.clear();
            let again = self.transactions > 0 && m.hops[&self.hop].acts.contains_key(&At::MailAgain);
            self.in_mail = self.act(m, if again { At::MailAgain } else { At::Mail }, "250 2.1.0 ok\r\n");
        } else if upper.starts_with("RCPT TO:") {
            let to = address(line);
            let next = m.hops.get_mut(&self.hop).unwrap().rcpt.get_mut(&to).and_then(VecDeque::pop_front);
            let taken = if !self.in_mail {
                self.say(m, "503 5.5.1 no MAIL\r\n");
                false
            } else if let Some(reply) = next {
                self.say(m, &format!("{reply}\r\n"));
                reply.starts_with('2')
            } else {
                self.act(m, At::Rcpt, "250 2.1.5 ok\r\n")
            };
            if taken {
                self.recipients.push(to);
            }
        } else if upper.starts_with("DATA") {
            if self.recipients.is_empty() {
                self.say(m, "503 5.5.1 no recipients\r\n");
            } else {
                self.in_data = self.act(m, At::Data, "354 go on\r\n");
            }
        } else if upper.starts_with("RSET") {
            self.in_mail = false;
            self.recipients.clear();
            self.say(m, "250 2.0.0 ok\r\n");
        } else if upper.starts_with("QUIT") {
            self.say(m, "221 2.0.0 bye\r\n");
            self.end(m);
        } else {
            self.say(m, "250 2.0.0 ok\r\n");
        }
    }

    /// Answers as told, or with `usual`; whether positively.
    fn act(&mut self, m: &mut Machine, at: At, usual: &str) -> bool {
        let act = m.hops[&self.hop].acts.get(&at).cloned();
        match act.unwrap_or_else(|| Act::Say(usual.to_owned())) {
            Act::Say(text) => {
                self.say(m, &text);
                text.starts_with(['2', '3'])
            }
            Act::SayAndClose(text) => {
                self.say(m, &text);
                self.end(m);
                false
            }
            Act::Close => {
                self.end(m);
                false
            }
            Act::Silence => {
                self.mute = true;
                false
            }
        }
    }

    fn say(&self, m: &mut Machine, text: &str) {
        m.tell_later(self.shard, self.conn, super::Happening::Bytes(text.as_bytes().to_vec()), m.latency);
    }

    /// Our end closes the connection.
    fn end(&mut self, m: &mut Machine) {
        m.tell_later(self.shard, self.conn, super::Happening::Ended, m.latency);
        self.gone(m);
    }

    /// The connection is over, whoever ended it.
    pub fn gone(&mut self, m: &mut Machine) {
        if std::mem::replace(&mut self.live, false) && self.counted {
            m.hops.get_mut(&self.hop).unwrap().open -= 1;
        }
    }
}

fn address(line: &str) -> String {
    let start = line.find('<').map_or(0, |at| at + 1);
    line[start..].split('>').next().unwrap_or_default().to_owned()
}
