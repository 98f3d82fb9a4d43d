//! One connection to a simulated next hop. Inputs: none, the hop sets it. Outputs: what is known of it. It refuses to act: that is
//! the hop's.

use super::Announced;
use crate::rt::sim::tls::SimTls;
use crate::time::Moment;
use std::collections::VecDeque;
use std::net::IpAddr;

/// What is to be written.
pub(super) enum Out {
    Bytes(Vec<u8>),
    /// No text: a part of the handshake.
    Raw(Vec<u8>),
    /// The 250 to message number so many.
    Taken(usize, Vec<u8>),
    Close,
}

/// See the module.
pub(super) struct Call {
    pub(super) opened: Moment,
    pub(super) from: IpAddr,
    pub(super) counted: bool,
    pub(super) mute: bool,
    pub(super) tls: Option<SimTls>,
    /// What is said is sealed.
    pub(super) sealing: bool,
    /// What comes next ends it: STARTTLS does not work here.
    pub(super) broken: bool,
    pub(super) input: Vec<u8>,
    pub(super) scanned: usize,
    pub(super) in_data: bool,
    pub(super) in_mail: bool,
    pub(super) mail_at: Moment,
    /// What MAIL declared: octets, 8BITMIME.
    pub(super) size: Option<u64>,
    pub(super) eight_bit: bool,
    /// Transactions over when the hop said 421.
    pub(super) ended_at: Option<u32>,
    pub(super) sender: String,
    pub(super) recipients: Vec<String>,
    pub(super) said: Vec<String>,
    pub(super) announced: Announced,
    /// Octets that a BDAT announced and that have not come, and whether somebody is to get them.
    pub(super) chunk: Option<(usize, bool)>,
    /// Pieces that came, and how many when MAIL did.
    pub(super) pieces: u32,
    pub(super) mail_piece: u32,
    /// What was said last was no reply: who reads it reads nothing behind it.
    pub(super) garbled: bool,
    pub(super) out: VecDeque<Out>,
    pub(super) armed: bool,
    pub(super) written: u64,
    pub(super) mails: u32,
    /// EHLO was answered well: mail may come.
    pub(super) ready: bool,
}

impl Call {
    pub(super) fn new(opened: Moment, from: IpAddr) -> Self {
        Call {
            opened,
            from,
            counted: false,
            mute: false,
            tls: None,
            sealing: false,
            broken: false,
            input: Vec::new(),
            scanned: 0,
            in_data: false,
            in_mail: false,
            mail_at: opened,
            size: None,
            eight_bit: false,
            ended_at: None,
            sender: String::new(),
            recipients: Vec::new(),
            said: Vec::new(),
            announced: Announced::default(),
            chunk: None,
            pieces: 0,
            mail_piece: 0,
            garbled: false,
            out: VecDeque::new(),
            armed: false,
            written: 0,
            mails: 0,
            ready: false,
        }
    }

    pub(super) fn said_binary(&self) -> bool {
        self.said.first().is_some_and(|mail| mail.contains("BODY=BINARYMIME"))
    }

    /// Octets written when a reply of `length` octets, said now, is out.
    pub(super) fn behind(&self, length: usize) -> u64 {
        let waiting = self.out.iter().map(|out| match out {
            Out::Bytes(bytes) | Out::Taken(_, bytes) => self.wire(bytes.len()),
            Out::Raw(bytes) => bytes.len(),
            Out::Close => 0,
        });
        self.written + (waiting.sum::<usize>() + self.wire(length)) as u64
    }
}
