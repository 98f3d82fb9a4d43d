//! PURE. The data phase of a transaction (RFC 5321 §4.1.1.4, §4.5.2): where message data ends, and what in it would let
//! two implementations disagree about that.
//!
//! In: the bytes behind 354, in pieces of any size. Out: how many of them belong to the message, whether it ended, what
//! is wrong with it. Runs on the shard that owns the session; allocates nothing. It refuses to take anything but
//! CRLF `.` CRLF for the end, and it never changes a byte: data stays dot-stuffed.

use crate::limits::RECEIVED_HEADERS;
use crate::rt::simd;
use memchr::{memchr, memchr_iter, memchr3};

/// Why message data cannot be relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// LF without CR before it (RFC 5321 §2.3.8).
    BareLf,
    /// CR without LF behind it.
    BareCr,
    /// An octet of value zero (RFC 5322 §4 calls it obsolete, RFC 5321 §2.4 allows to refuse it).
    Nul,
    /// More octets than the policy allows.
    TooBig,
    /// More Received headers than `limits::RECEIVED_HEADERS` (RFC 5321 §6.3).
    Loop,
}

/// What [`DataScanner::scan`] found in one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scanned {
    /// Bytes of the piece that belong to the data phase, the final dot's CRLF included.
    pub consumed: usize,
    /// The data phase is over; what follows is a command.
    pub ended: bool,
}

/// Where in a line the next byte falls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Behind CRLF, or at the very start of the data.
    LineStart,
    /// Inside a line.
    Inside,
    /// Behind a CR.
    Cr,
    /// Behind a CR that came first in its line: a LF makes it the empty line that ends the headers.
    CrOfEmptyLine,
    /// Behind a dot that came first in its line.
    Dot,
    /// Behind such a dot and a CR: a LF ends the data.
    DotCr,
    /// Behind so many characters of `received:`.
    Name(u8),
}

/// Follows message data through any split of its bytes.
#[derive(Clone, Debug)]
pub struct DataScanner {
    place: Place,
    in_headers: bool,
    fault: Option<Fault>,
    received: u32,
    bytes: u64,
    max_bytes: u64,
    /// A header line may begin with `TL`.
    tl_field: bool,
    /// Any octet may stand anywhere (BODY=BINARYMIME): only size and loops are looked at.
    raw: bool,
    /// The next octet of a chunk is a dot that begins a line, and its double is handed out already.
    doubled: bool,
}

/// A piece of the wire form of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Its octets.
    pub bytes: &'a [u8],
    /// It is the dot that is put before a dot; it stands for no octet of the chunk.
    pub is_dot: bool,
}

const RECEIVED: &[u8; 9] = b"received:";
/// The terminator `.` CRLF, which does not count into the size of a message.
const TERMINATOR_BYTES: u64 = 3;
/// Bounds what input made of nothing but exceptions costs.
const RETRY_BYTES: usize = 32;

impl DataScanner {
    /// A scanner at the start of message data of at most `max_bytes` octets (dot-stuffed, without the terminator).
    pub fn new(max_bytes: u64) -> Self {
        DataScanner {
            place: Place::LineStart,
            in_headers: true,
            fault: None,
            received: 0,
            bytes: 0,
            max_bytes,
            tl_field: false,
            raw: false,
            doubled: false,
        }
    }

    /// Octets that belong to the data and are not looked at: it is refused already.
    pub fn skip(&mut self, octets: usize) {
        self.bytes = self.bytes.saturating_add(octets as u64);
    }

    /// A scanner of a message that comes as `BODY=BINARYMIME` (RFC 3030 §3): nothing in it ends it.
    pub fn raw(max_bytes: u64) -> Self {
        DataScanner { raw: true, ..DataScanner::new(max_bytes) }
    }

    /// The next piece of a chunk (RFC 3030 §2) in wire form: from `input`, or a dot. `input` is not empty.
    pub fn stuffed_piece<'a>(&mut self, input: &'a [u8]) -> Piece<'a> {
        if self.raw {
            self.scan(input);
            return Piece { bytes: input, is_dot: false };
        }
        if self.place == Place::LineStart && input[0] == b'.' && !self.doubled && !planted!(ChunkDotNotDoubled) {
            self.doubled = true;
            self.scan(b".");
            return Piece { bytes: b".", is_dot: true };
        }
        self.doubled = false;
        // Up to the next dot that begins a line; whether the one at the start does was seen to.
        let mut at = 1;
        let end = loop {
            match memchr(b'.', &input[at..]) {
                None => break input.len(),
                // Behind a bare LF it begins none, but then the message is refused.
                Some(dot) if input[..at + dot].ends_with(b"\n") => break at + dot,
                Some(dot) => at += dot + 1,
            }
        };
        let bytes = &input[..end];
        let scanned = self.scan(bytes);
        debug_assert!(!scanned.ended, "a doubled dot ends nothing");
        Piece { bytes, is_dot: false }
    }

    /// What the wire form has behind the last chunk: the end of the last line if it lacks one, and the final dot.
    pub fn ending(&mut self) -> &'static [u8] {
        match self.place {
            _ if self.raw => b"",
            Place::LineStart => b".\r\n",
            Place::Cr | Place::CrOfEmptyLine | Place::DotCr => {
                self.found(Fault::BareCr);
                b""
            }
            _ => b"\r\n.\r\n",
        }
    }

    /// The first fault seen, if any.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether a header field may begin with `TL`, such as TLS-Required: seldom, and then it is worth a look at the whole
    /// section. (`To` and `Thread-Topic` do not.)
    pub fn may_have_tls_required(&self) -> bool {
        self.tl_field
    }

    /// Bytes seen so far, in wire form.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next piece. After a fault it goes on looking for the end.
    pub fn scan(&mut self, input: &[u8]) -> Scanned {
        if planted!(DotOffByOne) && self.place == Place::LineStart && self.bytes > 0 {
            self.place = Place::Inside;
        } else if planted!(DotInsideLine) && self.place == Place::Inside {
            self.place = Place::LineStart;
        }
        let most = self.max_bytes.saturating_add(TERMINATOR_BYTES);
        // The first octet too many is met at its place. Which fault comes first, and so the client's reply, would otherwise
        // depend on how the network cut the data.
        let to_limit = usize::try_from(most.saturating_add(1).saturating_sub(self.bytes)).unwrap_or(usize::MAX);
        let (within, above) = input.split_at(to_limit.min(input.len()));
        let mut end = self.find_end(within);
        self.bytes += end.unwrap_or(within.len()) as u64;
        if self.bytes > most && !planted!(SizeUnchecked) {
            self.found(Fault::TooBig);
        }
        if end.is_none() && !above.is_empty() {
            let above_end = self.find_end(above);
            self.bytes += above_end.unwrap_or(above.len()) as u64;
            end = above_end.map(|at| within.len() + at);
        }
        Scanned { consumed: end.unwrap_or(input.len()), ended: end.is_some() }
    }

    /// The bytes up to and with the terminator, if `input` has it.
    fn find_end(&mut self, input: &[u8]) -> Option<usize> {
        let mut at = 0;
        // Where there is something to see, this many bytes are walked through before blocks are tried again.
        let mut next_try = 0;
        while let Some(first) = input.get(at) {
            let at_text = match self.place {
                Place::Inside => *first != b'\n',
                Place::LineStart => !matches!(first, b'\n' | b'.'),
                _ => false,
            };
            if at_text && at >= next_try {
                at += self.skip_clean(&input[at..]);
                next_try = at + RETRY_BYTES;
                continue;
            }
            if self.place == Place::Inside {
                at += memchr3(b'\r', b'\n', 0, &input[at..])?;
            }
            at += 1;
            if self.step(input[at - 1]) {
                return Some(at);
            }
        }
        None
    }

    /// Skips bytes that hold nothing but proper lines, none of which begins with a dot, and sets the place behind them.
    /// The first byte may follow the place. Returns the bytes skipped.
    fn skip_clean(&mut self, input: &[u8]) -> usize {
        let mut clean = simd::clean_data_prefix(input);
        // Cut inside CRLF, the place would not say whether the line is empty.
        if clean > 0 && input[clean - 1] == b'\r' {
            clean -= 1;
        }
        if self.in_headers {
            clean = self.headers(&input[..clean]);
        }
        match input[..clean].last() {
            Some(b'\n') => self.place = Place::LineStart,
            Some(_) => self.place = Place::Inside,
            None => {}
        }
        clean
    }

    /// Goes through the header lines of clean text that begins at the place; returns how much of it is done with.
    fn headers(&mut self, text: &[u8]) -> usize {
        let first = (self.place == Place::LineStart).then_some(0);
        for start in first.into_iter().chain(memchr_iter(b'\n', text).map(|lf| lf + 1)) {
            let line = &text[start..];
            match line.first() {
                None => break,
                Some(b'\r') => {
                    self.in_headers = false;
                    break;
                }
                // Not enough to tell: byte by byte, or with the next piece.
                Some(_) if line.len() < RECEIVED.len() => return start,
                Some(b't' | b'T') if matches!(line[1], b'l' | b'L') => self.tl_field = true,
                Some(b'r' | b'R') if line[..RECEIVED.len()].eq_ignore_ascii_case(RECEIVED) => self.count_received(),
                Some(_) => {}
            }
        }
        text.len()
    }

    /// One byte, exactly. Returns whether it ended the data.
    #[inline]
    fn step(&mut self, byte: u8) -> bool {
        let after_cr = matches!(self.place, Place::Cr | Place::CrOfEmptyLine | Place::DotCr);
        if after_cr {
            if byte == b'\n' {
                if self.place == Place::DotCr {
                    // A raw message has dots where it likes.
                    if !self.raw {
                        return true;
                    }
                    self.place = Place::LineStart;
                    return false;
                }
                if self.place == Place::CrOfEmptyLine {
                    self.in_headers = false;
                }
                self.place = Place::LineStart;
                return false;
            }
            self.found(Fault::BareCr);
        }
        self.place = match byte {
            b'\r' => match self.place {
                Place::LineStart => Place::CrOfEmptyLine,
                Place::Dot => Place::DotCr,
                _ => Place::Cr,
            },
            b'\n' => {
                self.found(Fault::BareLf);
                Place::Inside
            }
            0 => {
                self.found(Fault::Nul);
                Place::Inside
            }
            b'.' if self.place == Place::LineStart => Place::Dot,
            _ if self.in_headers => self.header_name(byte),
            _ => Place::Inside,
        };
        false
    }

    /// Counts lines that begin with `Received:`, in any case.
    fn header_name(&mut self, byte: u8) -> Place {
        let matched = match self.place {
            Place::LineStart => {
                // The second letter is not looked at here.
                self.tl_field |= matches!(byte, b't' | b'T');
                0
            }
            Place::Name(matched) => matched,
            _ => return Place::Inside,
        };
        if byte.to_ascii_lowercase() != RECEIVED[matched as usize] {
            return Place::Inside;
        }
        if usize::from(matched) + 1 < RECEIVED.len() {
            return Place::Name(matched + 1);
        }
        self.count_received();
        Place::Inside
    }

    fn count_received(&mut self) {
        self.received += 1;
        if self.received > RECEIVED_HEADERS {
            self.found(Fault::Loop);
        }
    }

    #[cold]
    fn found(&mut self, fault: Fault) {
        if self.raw && matches!(fault, Fault::BareLf | Fault::BareCr | Fault::Nul) {
            return;
        }
        self.fault.get_or_insert(fault);
    }
}
