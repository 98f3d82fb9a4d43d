//! The scanner of message data against a plain one that looks at everything that came, byte by byte.
//!
//! Input: the largest size, cuts, then the data. Checked: where it ends, the first fault, and the bytes seen, are the
//! same for any split and as the plain one says.

use crate::Target;
use crate::input::{Cuts, Input};
use ringpost::limits::RECEIVED_HEADERS;
use ringpost::smtp::data::{DataScanner, Fault};

/// The target.
pub const TARGET: Target = Target {
    name: "data",
    run,
    max_bytes: 4096,
    words: &[
        b"\r\n",
        b"\r\n.\r\n",
        b"\r\n..",
        b".\r\n",
        b"\n.\n",
        b"\r.\r",
        b"\r\n.\r",
        b"\r\n\r\n",
        b"Received: ",
        b"\r\nreceived:",
        b"\0",
    ],
    test_runs: 8000,
};

#[derive(Clone, Debug, PartialEq, Eq)]
struct Result {
    /// Bytes that belong to the data, if it ended.
    end: Option<usize>,
    fault: Option<Fault>,
    bytes: u64,
}

/// RFC 5321 §4.1.1.4 and §4.5.2, and what `Fault` says, with nothing remembered that can be looked up.
fn plain(data: &[u8], max_bytes: u64) -> Result {
    let mut fault = None;
    let mut found = |f| _ = fault.get_or_insert(f);
    let mut received = 0;
    let mut in_headers = true;
    // Lines begin behind CRLF.
    let mut line = 0;
    for (at, byte) in data.iter().enumerate() {
        let before = at.checked_sub(1).map(|b| data[b]);
        if before == Some(b'\r') && *byte != b'\n' {
            found(Fault::BareCr);
        }
        match byte {
            b'\n' if before != Some(b'\r') => found(Fault::BareLf),
            0 => found(Fault::Nul),
            _ => {}
        }
        let so_far = &data[line..=at];
        let ended = so_far == b".\r\n";
        if in_headers && so_far.eq_ignore_ascii_case(b"received:") {
            received += 1;
            if received > RECEIVED_HEADERS {
                found(Fault::Loop);
            }
        }
        if so_far == b"\r\n" {
            in_headers = false;
        }
        if so_far.ends_with(b"\r\n") {
            line = at + 1;
        }
        let bytes = at as u64 + 1;
        if bytes > max_bytes + 3 {
            found(Fault::TooBig);
        }
        if ended {
            return Result { end: Some(at + 1), fault, bytes };
        }
    }
    Result { end: None, fault, bytes: data.len() as u64 }
}

fn scanned(data: &[u8], max_bytes: u64, cuts: &Cuts) -> Result {
    let mut scanner = DataScanner::new(max_bytes);
    let mut taken = 0;
    for piece in cuts.pieces(data) {
        let scanned = scanner.scan(piece);
        taken += scanned.consumed;
        if scanned.ended {
            assert!(scanned.consumed > 0);
            return Result { end: Some(taken), fault: scanner.fault(), bytes: scanner.bytes() };
        }
        assert_eq!(scanned.consumed, piece.len(), "all of a piece is data until the end");
    }
    Result { end: None, fault: scanner.fault(), bytes: scanner.bytes() }
}

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let max_bytes = u64::from(input.u16());
    let headers = input.u8();
    let cuts = input.cuts();
    let mut data = Vec::new();
    if headers >= 240 {
        // Nearly a loop: no fuzzer writes a hundred headers.
        data.extend(b"Received: x\r\n".repeat(RECEIVED_HEADERS as usize - 2));
    }
    data.extend_from_slice(input.rest());
    let expected = plain(&data, max_bytes);
    assert_eq!(expected, scanned(&data, max_bytes, &Cuts::none()), "in one piece");
    assert_eq!(expected, scanned(&data, max_bytes, &cuts), "as cut");
    assert_eq!(expected, scanned(&data, max_bytes, &Cuts::every()), "byte by byte");
}
