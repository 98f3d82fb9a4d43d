//! TLS of the simulated world: a handshake of one round and records that are not readable, without keys and without chance,
//! so that a run is the same each time. What matters of TLS here it has: nothing passes before the handshake, plain text
//! where records are due breaks the connection, records come in any split.

use crate::rt::tls::Progress;
use crate::rt::tls::client::Fault;

const HELLO: &[u8] = b"\x16client hello\n";
const ANSWER: &[u8] = b"\x16server hello\n";
/// What a record is folded with, so that nobody reads it by accident.
const FOLD: u8 = 0xa5;
const RECORD_BYTES: usize = 16 << 10;

/// One end of a connection.
#[derive(Debug)]
pub struct SimTls {
    client: bool,
    established: bool,
    input: Vec<u8>,
    /// Said before the handshake has ended.
    early: Vec<u8>,
}

impl SimTls {
    /// The end that is connected to.
    pub fn server() -> Self {
        SimTls { client: false, established: false, input: Vec::new(), early: Vec::new() }
    }

    /// The end that connects: its first words go to `out`.
    pub fn client(out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(HELLO);
        SimTls { client: true, established: false, input: Vec::new(), early: Vec::new() }
    }

    /// As `Tls::receive`.
    pub fn receive(&mut self, bytes: &[u8], plain: &mut Vec<u8>, out: &mut Vec<u8>) -> Result<Progress, String> {
        self.input.extend_from_slice(bytes);
        let mut progress = Progress::Going;
        if !self.established {
            let expected = if self.client { ANSWER } else { HELLO };
            let known = self.input.len().min(expected.len());
            if self.input[..known] != expected[..known] {
                return Err("no handshake".to_owned());
            }
            if known < expected.len() {
                return Ok(progress);
            }
            self.input.drain(..expected.len());
            if !self.client {
                out.extend_from_slice(ANSWER);
            }
            self.established = true;
            progress = Progress::Established;
            let early = std::mem::take(&mut self.early);
            self.send(&early, out);
        }
        let mut at = 0;
        while let Some([0x17, high, low]) = self.input.get(at..at + 3) {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let Some(record) = self.input.get(at + 3..at + 3 + length) else { break };
            plain.extend(record.iter().map(|b| b ^ FOLD));
            at += 3 + length;
        }
        if self.input.get(at).is_some_and(|tag| *tag != 0x17) {
            return Err("no record".to_owned());
        }
        self.input.drain(..at);
        Ok(progress)
    }

    /// As `Tls::send`.
    pub fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        if !self.established {
            return self.early.extend_from_slice(plain);
        }
        for record in plain.chunks(RECORD_BYTES) {
            let length = u16::try_from(record.len()).expect("a record is short");
            out.push(0x17);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend(record.iter().map(|b| b ^ FOLD));
        }
    }

    /// As `Tls::vouched`: in this world certificates are good.
    pub fn vouched(&self, _: &[&str]) -> Result<(), Fault> {
        if self.client && self.established { Ok(()) } else { Err(Fault::Invalid) }
    }

    /// Whether the handshake goes on.
    pub fn is_handshaking(&self) -> bool {
        !self.established
    }
}
