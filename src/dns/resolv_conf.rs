//! PURE. The part of resolv.conf(5) that a mail relay needs: the servers.
//!
//! `options` are passed over, as how patiently to ask is the configuration's; `search`, `domain` and `sortlist` too: mail
//! domains are complete names.

use crate::limits;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Port of DNS.
const PORT: u16 = 53;

/// What a resolv.conf says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// `nameserver` lines, port 53, at most [`limits::DNS_SERVERS`], none twice. If there is none, resolv.conf(5) means
    /// `127.0.0.1`.
    pub servers: Vec<SocketAddr>,
    /// Numbers (from 1) of the lines whose server address could not be read, for a warning.
    pub unreadable_lines: Vec<usize>,
}

impl ResolvConf {
    /// Reads the text of a resolv.conf. Never fails: what cannot be read is passed over, as the C library does.
    /// `interface_index` turns the zone of a link-local server (`fe80::1%eth0`) into its index; `None` drops the server.
    pub fn parse(text: &str, interface_index: impl Fn(&str) -> Option<u32>) -> Self {
        let mut conf = ResolvConf { servers: Vec::new(), unreadable_lines: Vec::new() };
        for (number, line) in text.lines().enumerate() {
            let line = line.split(['#', ';']).next().unwrap_or("");
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some("nameserver") {
                continue;
            }
            match words.next().and_then(|word| server(word, &interface_index)) {
                Some(server) if conf.servers.len() < limits::DNS_SERVERS && !conf.servers.contains(&server) => {
                    conf.servers.push(server);
                }
                Some(_) => {}
                None => conf.unreadable_lines.push(number + 1),
            }
        }
        conf
    }
}

fn server(word: &str, interface_index: impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    if let Some((address, zone)) = word.split_once('%') {
        let address: Ipv6Addr = address.parse().ok()?;
        let zone = zone.parse().ok().or_else(|| interface_index(zone))?;
        return Some(SocketAddrV6::new(address, PORT, 0, zone).into());
    }
    Some(SocketAddr::new(word.parse::<IpAddr>().ok()?, PORT))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> ResolvConf {
        ResolvConf::parse(text, |zone| (zone == "eth0").then_some(2))
    }

    #[test]
    fn reads_what_matters() {
        let conf = parse(
            "# comment\n; another\nsearch corp.example\nnameserver 192.0.2.53 # ours\n\tnameserver\t2001:db8::53\r\n\
             nameserver fe80::1%eth0\nnameserver fe80::1%wlan9\nnameserver nonsense\nnameserver 192.0.2.53\n\
             options ndots:2 timeout:3 attempts:4 rotate edns0\n",
        );
        assert_eq!(
            conf.servers.iter().map(SocketAddr::to_string).collect::<Vec<_>>(),
            ["192.0.2.53:53", "[2001:db8::53]:53", "[fe80::1%2]:53"]
        );
        assert_eq!(conf.unreadable_lines, [7, 8]);
    }

    #[test]
    fn none_and_too_many() {
        assert_eq!(parse("options rotate\n").servers, []);
        let many: String = (0..100).map(|i| format!("nameserver 192.0.2.{i}\n")).collect();
        assert_eq!(parse(&many).servers.len(), limits::DNS_SERVERS);
    }
}
