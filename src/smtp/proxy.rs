//! PURE. The PROXY protocol, versions 1 and 2 (haproxy.org, proxy-protocol.txt): a load balancer says who its client is
//! before the first byte of that client. The reading is the crate `ppp`'s.
//!
//! In: the first bytes of a connection from a network that the listener trusts. Out: [`Proxied`]. It refuses what is no
//! header: from such a network each connection has one. And the other way round: [`header`] is what a proxy is told that is to
//! connect for us.

use crate::limits::PROXY_HEADER_BYTES;
use ppp::{HeaderResult, PartialResult, v1, v2};
use std::net::{IpAddr, SocketAddr};

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

/// What begins each header of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The header of version 2 of a TCP connection from `from` to `to`: a proxy that is to connect to `to` is told so, and from which
/// of its addresses. Which port it shall be there is left to it. `None`: the two are of different families.
pub fn header(from: IpAddr, to: SocketAddr) -> Option<Vec<u8>> {
    let mut header = SIGNATURE.to_vec();
    // Version 2, PROXY; then family and TCP, and the octets that follow.
    match (from, to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend_from_slice(&[0x21, 0x11, 0, 12]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            header.extend_from_slice(&[0x21, 0x21, 0, 36]);
            header.extend_from_slice(&from.octets());
            header.extend_from_slice(&to.octets());
        }
        _ => return None,
    }
    header.extend_from_slice(&[0, 0]);
    header.extend_from_slice(&to.port().to_be_bytes());
    Some(header)
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

    #[test]
    fn what_is_written_is_read() {
        for (from, to) in [("192.0.2.1", "198.51.100.7:25"), ("2001:db8::1", "[2001:db8::2]:2525")] {
            let (from, to): (IpAddr, SocketAddr) = (from.parse().expect("one"), to.parse().expect("one"));
            let written = header(from, to).expect("of one family");
            assert_eq!(parse(&written), Proxied::Header { length: written.len(), client: Some(from) });
            let Ok(read) = v2::Header::try_from(&written[..]) else { panic!("a header") };
            let (host, port) = match read.addresses {
                v2::Addresses::IPv4(a) => (IpAddr::V4(a.destination_address), a.destination_port),
                v2::Addresses::IPv6(a) => (IpAddr::V6(a.destination_address), a.destination_port),
                other => panic!("{other:?}"),
            };
            assert_eq!((SocketAddr::new(host, port), read.command), (to, v2::Command::Proxy));
        }
        let from = IpAddr::from([192, 0, 2, 1]);
        assert_eq!(header(from, SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 1], 25))), None);
    }
}
