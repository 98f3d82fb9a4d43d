//! Tests only: inbound clients that send what they are given, whatever they are told, or follow a script. Inputs: bytes
//! and scripts from a test. Outputs: SMTP, and what was answered. Refuses to know what SMTP is: that is for the test.

use crate::rt::sim::tls::SimTls;
use crate::rt::sim::{Host, HostEvent, HostSide, LinkId};
use crate::sim::client::Letter;
use crate::time::Moment;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;

struct Line {
    /// So many replies in all must have come.
    after: usize,
    /// And the last of them is 354; else the rest of the script is dropped.
    needs_354: bool,
    bytes: Vec<u8>,
}

/// An inbound client.
pub struct Client {
    /// The machine it is on.
    pub host: IpAddr,
    /// The last lines of its replies.
    pub replies: Vec<String>,
    /// When each of them came.
    pub times: Vec<Moment>,
    /// When the relay ended the connection.
    pub closed: Option<Moment>,
    tls: Option<SimTls>,
    /// All that the relay ever sent, as it was on the wire.
    pub heard: Vec<u8>,
    /// Octets sent.
    sent: u64,
    line: Vec<u8>,
    stands: bool,
    /// To be sent when the connection stands.
    early: Vec<u8>,
    script: VecDeque<Line>,
    /// Octets at a time.
    piece: usize,
    /// Which reply is that to the message.
    verdict: Option<usize>,
}

impl Client {
    /// On the machine at `host`; what it sends goes out so many octets at a time.
    pub fn new(host: IpAddr, piece: usize) -> Client {
        Client {
            host,
            replies: Vec::new(),
            times: Vec::new(),
            closed: None,
            tls: None,
            heard: Vec::new(),
            sent: 0,
            line: Vec::new(),
            stands: false,
            early: Vec::new(),
            script: VecDeque::new(),
            piece,
            verdict: None,
        }
    }

    /// From now on it speaks TLS; the handshake begins.
    pub fn start_tls(&mut self, link: LinkId, side: &mut HostSide<'_>) {
        let mut hello = Vec::new();
        self.tls = Some(SimTls::client(&mut hello));
        self.write(link, &hello, side);
    }

    /// Whether its handshake has ended.
    pub fn is_secure(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.is_handshaking())
    }

    /// From its greeting on it submits `letter`, with the data in pieces, and leaves.
    pub fn will_submit(&mut self, letter: &Letter, piece: usize) {
        let eight_bit = if letter.body.is_ascii() { "" } else { " BODY=8BITMIME" };
        let mut envelope = format!("MAIL FROM:<{}>{eight_bit}\r\n", letter.sender);
        for to in &letter.recipients {
            envelope += &format!("RCPT TO:<{to}>\r\n");
        }
        envelope += "DATA\r\n";
        let data = 2 + letter.recipients.len() + 2;
        let line = |after, needs_354, bytes| Line { after, needs_354, bytes };
        let script = [
            line(1, false, b"EHLO client.test\r\n".to_vec()),
            line(2, false, envelope.into_bytes()),
            line(data, true, letter.wire()),
            line(data + 1, false, b"QUIT\r\n".to_vec()),
        ];
        (self.script, self.piece, self.verdict) = (script.into(), piece, Some(data));
    }

    /// Octets sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Whether its message was acknowledged.
    pub fn is_accepted(&self) -> bool {
        let reply = self.verdict.and_then(|index| self.replies.get(index));
        reply.is_some_and(|reply| reply.starts_with("250 2.0.0 ") && reply.ends_with(" queued"))
    }

    /// Sends, through TLS if it has begun.
    pub fn send(&mut self, link: LinkId, bytes: &[u8], side: &mut HostSide<'_>) {
        let Some(tls) = &mut self.tls else { return self.write(link, bytes, side) };
        let mut records = Vec::new();
        tls.send(bytes, &mut records);
        self.write(link, &records, side);
    }

    /// Sends as it is.
    pub fn write(&mut self, link: LinkId, bytes: &[u8], side: &mut HostSide<'_>) {
        if !self.stands {
            self.early.extend_from_slice(bytes);
            return;
        }
        self.sent += bytes.len() as u64;
        bytes.chunks(self.piece).for_each(|piece| side.write(link, piece));
    }

    fn received(&mut self, link: LinkId, bytes: &[u8], side: &mut HostSide<'_>) {
        self.heard.extend_from_slice(bytes);
        let (mut plain, mut answer) = (Vec::new(), Vec::new());
        match &mut self.tls {
            None => plain.extend_from_slice(bytes),
            Some(tls) => drop(tls.receive(bytes, &mut plain, &mut answer).expect("the relay speaks TLS")),
        }
        self.write(link, &answer, side);
        for &byte in &plain {
            self.line.push(byte);
            if self.line.ends_with(b"\r\n") {
                let line = String::from_utf8(std::mem::take(&mut self.line)).unwrap();
                if line.as_bytes().get(3) == Some(&b' ') {
                    self.replies.push(line.trim_end().to_owned());
                    self.times.push(side.now().mono);
                }
            }
        }
        while self.script.front().is_some_and(|next| self.replies.len() >= next.after) {
            let next = self.script.pop_front().unwrap();
            if next.needs_354 && !self.replies.last().unwrap().starts_with("354") {
                self.script.clear();
                return;
            }
            self.send(link, &next.bytes, side);
        }
    }
}

/// All of a world.
pub type Clients = Rc<RefCell<BTreeMap<LinkId, Client>>>;

/// The machine on which all clients are.
pub struct ClientHost(pub Clients);

impl Host for ClientHost {
    fn listens(&self, _: u16) -> bool {
        false
    }

    fn handle(&mut self, event: HostEvent<'_>, side: &mut HostSide<'_>) {
        let mut clients = self.0.borrow_mut();
        let (HostEvent::Connected { link }
        | HostEvent::Received { link, .. }
        | HostEvent::Ended { link }
        | HostEvent::Failed { link }) = event
        else {
            return;
        };
        let client = clients.get_mut(&link).unwrap();
        match event {
            HostEvent::Connected { .. } => {
                client.stands = true;
                let early = std::mem::take(&mut client.early);
                client.write(link, &early, side);
            }
            HostEvent::Received { bytes, .. } => client.received(link, bytes, side),
            _ => {
                client.closed.get_or_insert(side.now().mono);
                side.close(link);
            }
        }
    }
}
