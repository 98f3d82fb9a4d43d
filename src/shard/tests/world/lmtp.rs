//! Tests only: an LMTP server of its own making (RFC 2033), with a reply to the message for each recipient, as a test sets
//! them. Inputs: what the relay sends. Outputs: replies, and what it has stored. Refuses to know anything of `smtp`.

use crate::rt::sim::{Host, HostEvent, HostSide, LinkId};
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

/// A message in a mailbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    pub sender: String,
    pub recipient: String,
    /// In wire form.
    pub data: String,
}

#[derive(Default)]
struct State {
    /// What is said of a recipient at RCPT, and at the message: the next replies; then 250.
    rcpt: BTreeMap<String, VecDeque<String>>,
    message: BTreeMap<String, VecDeque<String>>,
    /// The next connection is lost behind so many replies to a message.
    loses: Option<usize>,
    extensions: Vec<String>,
    stored: Vec<Stored>,
    /// All commands.
    said: Vec<String>,
    connects: usize,
    calls: BTreeMap<LinkId, Call>,
}

#[derive(Default)]
struct Call {
    input: String,
    in_data: bool,
    sender: String,
    recipients: Vec<String>,
}

/// See the module.
#[derive(Clone, Default)]
pub struct Lmtp(Rc<RefCell<State>>);

impl Lmtp {
    /// The next replies to RCPT of this address.
    pub fn at_rcpt(&self, address: &str, replies: &[&str]) {
        let replies = replies.iter().map(|r| (*r).to_owned()).collect();
        self.0.borrow_mut().rcpt.insert(address.to_owned(), replies);
    }

    /// The next replies to messages for this address.
    pub fn at_message(&self, address: &str, replies: &[&str]) {
        let replies = replies.iter().map(|r| (*r).to_owned()).collect();
        self.0.borrow_mut().message.insert(address.to_owned(), replies);
    }

    /// Once, it ends the connection behind so many replies to a message.
    pub fn lose_after(&self, replies: usize) {
        self.0.borrow_mut().loses = Some(replies);
    }

    /// It announces this.
    pub fn announce(&self, extension: &str) {
        self.0.borrow_mut().extensions.push(extension.to_owned());
    }

    /// What a mailbox has.
    pub fn mailbox(&self, address: &str) -> Vec<Stored> {
        self.0.borrow().stored.iter().filter(|s| s.recipient == address).cloned().collect()
    }

    /// All commands that came.
    pub fn said(&self) -> Vec<String> {
        self.0.borrow().said.clone()
    }

    /// Connections that came.
    pub fn connects(&self) -> usize {
        self.0.borrow().connects
    }
}

impl State {
    fn command(&mut self, line: &str, link: LinkId, side: &mut HostSide<'_>) {
        let path = |line: &str| line[line.find('<').unwrap() + 1..line.find('>').unwrap()].to_owned();
        let mut call = self.calls.remove(&link).unwrap();
        self.said.push(line.to_owned());
        let reply = match line.split([' ', ':']).next().unwrap() {
            "LHLO" => {
                let mut lines = vec!["lmtp.test".to_owned(), "PIPELINING".to_owned(), "8BITMIME".to_owned()];
                lines.extend(self.extensions.iter().cloned());
                let last = lines.pop().unwrap();
                lines.iter().map(|line| format!("250-{line}\r\n")).collect::<String>() + "250 " + &last
            }
            "MAIL" => {
                (call.sender, call.recipients) = (path(line), Vec::new());
                "250 2.1.0 ok".to_owned()
            }
            "RCPT" => {
                let address = path(line);
                let reply = self.rcpt.get_mut(&address).and_then(VecDeque::pop_front);
                let reply = reply.unwrap_or_else(|| "250 2.1.5 ok".to_owned());
                if reply.starts_with('2') {
                    call.recipients.push(address);
                }
                reply
            }
            "DATA" if call.recipients.is_empty() => "503 5.5.1 no recipients".to_owned(),
            "DATA" => {
                call.in_data = true;
                "354 go on".to_owned()
            }
            "RSET" => "250 2.0.0 ok".to_owned(),
            "QUIT" => "221 2.0.0 bye".to_owned(),
            _ => "500 5.5.1 what?".to_owned(),
        };
        self.calls.insert(link, call);
        side.write(link, format!("{reply}\r\n").as_bytes());
    }

    /// A message has ended; false if the connection has too.
    fn message(&mut self, data: &str, link: LinkId, side: &mut HostSide<'_>) -> bool {
        let call = self.calls.get_mut(&link).unwrap();
        call.in_data = false;
        let (sender, recipients) = (call.sender.clone(), std::mem::take(&mut call.recipients));
        for (at, recipient) in recipients.into_iter().enumerate() {
            if self.loses == Some(at) {
                self.loses = None;
                self.calls.remove(&link);
                side.close(link);
                return false;
            }
            let reply = self.message.get_mut(&recipient).and_then(VecDeque::pop_front);
            let reply = reply.unwrap_or_else(|| format!("250 2.0.0 <{recipient}> saved"));
            side.write(link, format!("{reply}\r\n").as_bytes());
            if reply.starts_with('2') {
                self.stored.push(Stored { sender: sender.clone(), recipient, data: data.to_owned() });
            }
        }
        true
    }

    fn received(&mut self, link: LinkId, bytes: &[u8], side: &mut HostSide<'_>) {
        let Some(call) = self.calls.get_mut(&link) else { return };
        call.input.push_str(&String::from_utf8_lossy(bytes));
        while let Some(call) = self.calls.get_mut(&link) {
            let end = if call.in_data { "\r\n.\r\n" } else { "\r\n" };
            let Some(at) = call.input.find(end) else { return };
            let rest = call.input.split_off(at + end.len());
            let piece = std::mem::replace(&mut call.input, rest);
            if !call.in_data {
                self.command(piece.trim_end(), link, side);
            } else if !self.message(&piece, link, side) {
                return;
            }
        }
    }
}

impl Host for Lmtp {
    fn listens(&self, port: u16) -> bool {
        port == 24
    }

    fn handle(&mut self, event: HostEvent<'_>, side: &mut HostSide<'_>) {
        let mut state = self.0.borrow_mut();
        match event {
            HostEvent::Accepted { link, .. } => {
                state.connects += 1;
                state.calls.insert(link, Call::default());
                side.write(link, b"220 lmtp.test LMTP\r\n");
            }
            HostEvent::Received { link, bytes } => state.received(link, bytes, side),
            HostEvent::Ended { link } | HostEvent::Failed { link } => {
                state.calls.remove(&link);
                side.close(link);
            }
            _ => {}
        }
    }
}
