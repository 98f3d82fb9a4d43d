//! TLS of a simulated next hop, and what it finds wrong with what it is told. Inputs: octets of a connection. Outputs: plain
//! octets, records, complaints. It refuses to be anything but the stand-in of `rt::sim::tls`.

use super::{Call, Hop, Out, mark_of};
use crate::rt::sim::HostSide;
use crate::rt::sim::LinkId;
use crate::rt::sim::marks::name;
use crate::rt::sim::tls::SimTls;
use crate::rt::tls::Progress;

/// What becomes of STARTTLS at a host that announces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StartTls {
    /// It works.
    Works,
    /// 454
    Refused,
    /// 220, and then no handshake.
    Broken,
    /// 220, and then nothing.
    Silent,
    /// 220, and a reply behind it that somebody else wrote.
    Injected,
}

impl StartTls {
    /// All.
    pub const ALL: [StartTls; 5] =
        [StartTls::Works, StartTls::Refused, StartTls::Broken, StartTls::Silent, StartTls::Injected];
}

/// Octets that a record adds.
const RECORD: usize = 3;

impl Call {
    pub(super) fn is_secure(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| !tls.is_handshaking())
    }

    /// Octets on the wire of something said.
    pub(super) fn wire(&self, length: usize) -> usize {
        if self.sealing { length + RECORD } else { length }
    }

    /// As it goes on the wire.
    pub(super) fn seal(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        match &mut self.tls {
            Some(tls) if self.sealing => {
                let mut out = Vec::new();
                tls.send(&bytes, &mut out);
                out
            }
            _ => bytes,
        }
    }

    /// Octets came: false if they are no TLS where TLS is due.
    pub(super) fn take(&mut self, bytes: &[u8]) -> bool {
        let Some(tls) = &mut self.tls else {
            self.input.extend_from_slice(bytes);
            return true;
        };
        let mut answer = Vec::new();
        let Ok(progress) = tls.receive(bytes, &mut self.input, &mut answer) else { return false };
        if !answer.is_empty() {
            self.out.push_back(Out::Raw(answer));
        }
        self.sealing |= progress == Progress::Established;
        true
    }
}

impl Hop {
    /// STARTTLS was said.
    pub(super) fn start_tls(&mut self, link: LinkId, call: &mut Call, side: &mut HostSide<'_>) -> bool {
        if call.tls.is_some() || !call.announced.announces("STARTTLS") {
            self.complaints.push("STARTTLS was not announced".to_owned());
            return self.say(link, call, b"503 5.5.1 no\r\n".to_vec(), side);
        }
        if let Some(what) = &self.tls {
            side.mark(format!("next hop's STARTTLS: {}", name(what)));
        }
        if let Some(StartTls::Refused) = self.tls {
            return self.say(link, call, b"454 4.7.0 not now\r\n".to_vec(), side);
        }
        call.announced = super::Announced::default();
        call.ready = false;
        match self.tls {
            Some(StartTls::Works) => call.tls = Some(SimTls::server()),
            Some(StartTls::Broken) => {
                self.say(link, call, b"220 2.0.0 go on\r\n".to_vec(), side);
                call.input.clear();
                call.broken = true;
                return true;
            }
            _ => call.mute = true,
        }
        let injected = if self.tls == Some(StartTls::Injected) { "250 hop\r\n" } else { "" };
        self.say(link, call, format!("220 2.0.0 go on\r\n{injected}").into_bytes(), side)
    }

    /// Whether a command says only what was announced (RFC 5321 §2.2.1).
    pub(super) fn check_parameters(&mut self, call: &Call, line: &str) {
        if let Some(parameter) = call.announced.unannounced(line) {
            self.complaints.push(format!("{parameter} was not announced: {line}"));
        }
        if line.contains(" REQUIRETLS") && !call.is_secure() {
            self.complaints.push(format!("in the clear: {line}"));
        }
    }

    /// Whether a message is what MAIL declared (RFC 1870 §6, RFC 6152 §3). Doubled dots and the final one may count or not; by
    /// BDAT there are none.
    pub(super) fn check_declared(&mut self, call: &Call, data: &[u8], chunked: bool) {
        let binary = call.said_binary();
        if !data.is_ascii() && !call.eight_bit && !binary {
            self.complaints.push(format!("#{:?} has eight bits, MAIL did not say so", mark_of(data)));
        }
        let octets = data.len() as u64;
        let dots = if chunked { 0 } else { 3 + memchr::memmem::find_iter(data, b"\n..").count() as u64 };
        if call.size.is_some_and(|size| size > octets || size + dots < octets) {
            let size = call.size.unwrap_or_default();
            self.complaints.push(format!("#{:?} has {octets} octets, MAIL said {size}", mark_of(data)));
        }
    }
}
