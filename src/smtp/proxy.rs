//! PURE. The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt): a load balancer says who its client is
//! before the first byte of that client. The reading is the crate `ppp`'s.
//!
//! In: the first bytes of a connection from a network that the listener trusts. Out: [`Proxied`]. It refuses what is no
//! header: from such a network each connection has one.

use crate::limits::PROXY_HEADER_BYTES;
use ppp::{HeaderResult, PartialResult, v1, v2};
use std::net::IpAddr;

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proxied {
    /// The start of a header.
    Partial,
    /// None.
    Wrong,
    /// A header.
    Header {
        /// Its octets; the client's begin behind them.
        length: usize,
        /// The client's address; `None` for the proxy's own connections (LOCAL, UNKNOWN).
        client: Option<IpAddr>,
    },
}

/// RFC-like text, section 2.1: the longest header of version 1 with its CRLF.
const V1_BYTES: usize = 107;

/// Reads the header at the front of `input`.
pub fn parse(input: &[u8]) -> Proxied {
    // What follows a line of version 1 may be anything, TLS for one; only the line is text.
    let header = if input.starts_with(b"PROXY") {
        match memchr::memmem::find(&input[..input.len().min(V1_BYTES)], b"\r\n") {
            Some(at) => &input[..at + 2],
            None if input.len() >= V1_BYTES => return Proxied::Wrong,
            None => return Proxied::Partial,
        }
    } else {
        input
    };
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(found)) => {
            let client = match found.addresses {
                v1::Addresses::Tcp4(a) => Some(IpAddr::V4(a.source_address)),
                v1::Addresses::Tcp6(a) => Some(IpAddr::V6(a.source_address)),
                v1::Addresses::Unknown => None,
            };
            Proxied::Header { length: header.len(), client }
        }
        HeaderResult::V2(Ok(found)) => {
            let client = match found.addresses {
                _ if found.command == v2::Command::Local => None,
                v2::Addresses::IPv4(a) => Some(IpAddr::V4(a.source_address)),
                v2::Addresses::IPv6(a) => Some(IpAddr::V6(a.source_address)),
                v2::Addresses::Unix(_) | v2::Addresses::Unspecified => None,
            };
            Proxied::Header { length: found.header.len(), client }
        }
        partial if partial.is_incomplete() && input.len() < PROXY_HEADER_BYTES => Proxied::Partial,
        _ => Proxied::Wrong,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_in_any_split_with_anything_behind() {
        let mut v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
        v2.extend([192, 0, 2, 1, 127, 0, 0, 1, 1, 2, 0, 25]);
        let client = Some(IpAddr::from([192, 0, 2, 1]));
        for header in [b"PROXY TCP4 192.0.2.1 127.0.0.1 1000 25\r\n".to_vec(), v2] {
            for cut in 0..header.len() {
                assert_eq!(parse(&header[..cut]), Proxied::Partial, "{cut}");
            }
            let with_more = [&header[..], b"\x16\x03\x01\xff\xfe"].concat();
            assert_eq!(parse(&with_more), Proxied::Header { length: header.len(), client });
        }
        let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
        assert_eq!(parse(local), Proxied::Header { length: 16, client: None });
        assert_eq!(parse(b"PROXY UNKNOWN\r\nEHLO"), Proxied::Header { length: 15, client: None });
    }

    #[test]
    fn what_is_no_header_is_wrong_at_once() {
        for wrong in
            [&b"EHLO a\r\n"[..], b"PROXY TCP4 x y 1 2\r\n", b"\x16\x03\x01", b"PROXY TCP5 1 2\r\n", &[b'P'; 200]]
        {
            assert_eq!(parse(wrong), Proxied::Wrong, "{wrong:?}");
        }
        assert_eq!(parse(&[&b"PROXY "[..], &[b'x'; 200]].concat()), Proxied::Wrong);
    }
}
