//! PURE. Message data as it comes in: finds the final dot, splits header from body, and checksums the body, in one
//! pass over each piece received and without keeping the body.

use crc32fast::Hasher;

/// The end of message data (RFC 5321 §4.1.1.4), with the CRLF that ends its last line.
const END: &[u8; 5] = b"\r\n.\r\n";
/// A header block larger than this is not looked into.
const HEADER_OCTETS: usize = 64 << 10;

/// One message's data, from behind the 354 to the final dot.
pub struct Data {
    /// Octets of [`END`] that the input so far ends with; they are held back until it is clear what they are.
    matched: usize,
    /// Of those, how many were never received: data starts as if behind a CRLF.
    implied: usize,
    header: Vec<u8>,
    in_body: bool,
    checksum: Hasher,
    body_octets: u64,
    octets: u64,
    keep: Option<Vec<u8>>,
    keep_max: usize,
    /// Of chunks: the next octet is within a line.
    in_line: bool,
}

impl Default for Data {
    fn default() -> Data {
        Data {
            matched: 2,
            implied: 2,
            header: Vec::new(),
            in_body: false,
            checksum: Hasher::new(),
            body_octets: 0,
            octets: 0,
            keep: None,
            keep_max: 0,
            in_line: false,
        }
    }
}

impl Data {
    /// Ready for the next message; `keep_max` octets of it are kept whole if it is above zero.
    pub fn reset(&mut self, keep_max: usize) {
        self.header.clear();
        self.checksum.reset();
        let header = std::mem::take(&mut self.header);
        *self = Data { header, keep: (keep_max > 0).then(Vec::new), keep_max, ..Data::default() };
    }

    /// The header block, with the blank line that ends it once that was seen.
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Octets of the body and their CRC-32, without the final dot.
    pub fn body(&self) -> (u64, u32) {
        (self.body_octets, self.checksum.clone().finalize())
    }

    /// Octets of header and body.
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// The kept octets: header and body in wire form without the final dot.
    pub fn take_kept(&mut self) -> Option<Vec<u8>> {
        self.keep.take()
    }

    /// Takes what was received. Returns how many octets of it belong to this message when its end is among them.
    pub fn feed(&mut self, input: &[u8]) -> Option<usize> {
        let before = self.matched;
        let mut at = 0;
        // Out of a partial match, octet by octet; the rest by vector search.
        while self.matched > 0 && self.matched < END.len() && at < input.len() {
            self.matched = match input[at] {
                b if b == END[self.matched] => self.matched + 1,
                b'\r' => 1,
                _ => 0,
            };
            at += 1;
        }
        if self.matched == 0 {
            match memchr::memmem::find(&input[at..], END) {
                Some(i) => {
                    at += i + END.len();
                    self.matched = END.len();
                }
                None => {
                    let tail = &input[at.max(input.len().saturating_sub(END.len() - 1))..];
                    self.matched = (1..=tail.len()).rev().find(|n| tail.ends_with(&END[..*n])).unwrap_or(0);
                    at = input.len();
                }
            }
        }
        let done = self.matched == END.len();
        // What was held back and what came now, less what is held back now (or the final dot's line).
        let hold = if done { 3 } else { self.matched };
        let (held, kept_back) = match hold.checked_sub(at) {
            None | Some(0) => (before, hold),
            Some(still) => (before - still, at),
        };
        let implied = self.implied.min(held);
        if held > implied {
            self.take(&END[implied..held]);
        }
        if held > 0 {
            self.implied = 0;
        }
        self.take(&input[..at - kept_back]);
        done.then_some(at)
    }

    /// Takes octets of a chunk (RFC 3030), and keeps them as if they had come by DATA: a dot before each that begins a line.
    pub fn feed_chunk(&mut self, mut input: &[u8]) {
        while let Some(first) = input.first() {
            if *first == b'.' && !self.in_line {
                self.take(b".");
            }
            let line = memchr::memchr(b'\n', input).map_or(input.len(), |at| at + 1);
            self.take(&input[..line]);
            self.in_line = input[line - 1] != b'\n';
            input = &input[line..];
        }
    }

    fn take(&mut self, octets: &[u8]) {
        self.octets += octets.len() as u64;
        if let Some(keep) = &mut self.keep {
            keep.extend_from_slice(&octets[..octets.len().min(self.keep_max - keep.len())]);
        }
        let mut body = octets;
        if !self.in_body {
            let from = self.header.len().saturating_sub(3);
            let before = self.header.len();
            self.header.extend_from_slice(&octets[..octets.len().min(HEADER_OCTETS - before)]);
            match memchr::memmem::find(&self.header[from..], b"\r\n\r\n") {
                Some(i) => {
                    let end = from + i + 4;
                    self.in_body = true;
                    self.header.truncate(end);
                    body = &octets[end - before..];
                }
                None if self.header.len() < HEADER_OCTETS => return,
                None => self.in_body = true,
            }
        }
        self.checksum.update(body);
        self.body_octets += body.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Feeds `wire` in pieces of `step` and returns what was taken, header and body.
    fn run(wire: &[u8], step: usize) -> (usize, Vec<u8>, Vec<u8>, u32) {
        let mut d = Data::default();
        d.reset(1 << 20);
        let mut used = 0;
        for piece in wire.chunks(step) {
            if let Some(n) = d.feed(piece) {
                used += n;
                let (len, crc) = d.body();
                let kept = d.take_kept().unwrap();
                assert_eq!(d.octets(), kept.len() as u64);
                assert_eq!(kept.len() as u64, len + d.header().len() as u64);
                return (used, d.header().to_vec(), kept, crc);
            }
            used += piece.len();
        }
        panic!("no end found in {wire:?} by {step}");
    }

    #[test]
    fn finds_the_end_however_it_is_cut() {
        let cases: [(&[u8], &[u8]); 7] = [
            (b".\r\n", b""),
            (b"\r\n.\r\n", b"\r\n"),
            (b"A: b\r\n\r\nbody\r\n.\r\n", b"body\r\n"),
            (b"A: b\r\n\r\n..\r\n.x\r\n\r\r\n.\r\r\n.\r\n", b"..\r\n.x\r\n\r\r\n.\r\r\n"),
            (b"A: b\r\n\r\n\n.\n\r.\r\n.\r\n", b"\n.\n\r.\r\n"),
            (b"A: b\r\n\r\n\r\n.\r\n", b"\r\n"),
            (b"A: b\r\n\r\n.\r\n", b""),
        ];
        for (wire, body) in cases {
            for step in 1..=wire.len() + 4 {
                let more = [wire, b"QUIT\r\n"].concat();
                let (used, header, kept, crc) = run(&more, step);
                assert_eq!(used, wire.len(), "{wire:?} by {step}");
                assert_eq!(kept, wire[..wire.len() - 3], "{wire:?} by {step}");
                if !header.is_empty() && header != b"\r\n" {
                    assert_eq!(crc, crc32fast::hash(body), "{wire:?} by {step}");
                }
            }
        }
    }

    #[test]
    fn chunks_are_kept_as_if_they_had_come_by_data() {
        let (bare, wire) = (b"A: b\r\n\r\n.x\r\n..\r\ny.\r\n", b"A: b\r\n\r\n..x\r\n...\r\ny.\r\n");
        for step in 1..=bare.len() {
            let mut d = Data::default();
            d.reset(1 << 20);
            bare.chunks(step).for_each(|piece| d.feed_chunk(piece));
            assert_eq!(d.body(), (wire.len() as u64 - 8, crc32fast::hash(&wire[8..])), "by {step}");
            assert_eq!(d.take_kept().unwrap(), wire);
        }
    }

    #[test]
    fn a_reset_forgets() {
        let mut d = Data::default();
        d.reset(0);
        assert_eq!(d.feed(b"A: b\r\n\r\nx\r\n.\r\n"), Some(14));
        d.reset(0);
        assert_eq!((d.header().len(), d.body(), d.octets()), (0, (0, 0), 0));
        assert!(d.feed(b"\n.\r\n").is_none());
    }
}
