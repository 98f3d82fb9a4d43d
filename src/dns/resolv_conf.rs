//! PURE. The part of resolv.conf(5) that a mail relay needs: servers and how patiently to ask them.
//!
//! `search`, `domain`, `sortlist` and other options are passed over: mail domains are complete names.

use super::settings::{DnsSettings, ServerOrder};
use crate::limits;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// Port of DNS.
const PORT: u16 = 53;

/// What a resolv.conf says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// `nameserver` lines, port 53; `127.0.0.1` if there is none, as resolv.conf(5) says.
    pub servers: Vec<SocketAddr>,
    /// `options timeout:`, in seconds, 1 to 30; 5 if not given.
    pub timeout: Duration,
    /// `options attempts:`, 1 to 5; 2 if not given.
    pub attempts: u32,
    /// [`ServerOrder::Random`] with `options rotate`.
    pub server_order: ServerOrder,
    /// Numbers (from 1) of the lines whose server address could not be read, for a warning.
    pub unreadable_lines: Vec<usize>,
}

impl ResolvConf {
    /// Reads the text of a resolv.conf. Never fails: what cannot be read is passed over, as the C library does.
    /// `interface_index` turns the zone of a link-local server (`fe80::1%eth0`) into its index; `None` drops the server.
    pub fn parse(text: &str, interface_index: impl Fn(&str) -> Option<u32>) -> Self {
        let mut conf = ResolvConf {
            servers: Vec::new(),
            timeout: limits::DNS_TRY_TIMEOUT_DEFAULT,
            attempts: 2,
            server_order: ServerOrder::Listed,
            unreadable_lines: Vec::new(),
        };
        for (number, line) in text.lines().enumerate() {
            let line = line.split(['#', ';']).next().unwrap_or("");
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => match words.next().and_then(|word| server(word, &interface_index)) {
                    Some(server) if conf.servers.len() < limits::DNS_SERVERS && !conf.servers.contains(&server) => {
                        conf.servers.push(server);
                    }
                    Some(_) => {}
                    None => conf.unreadable_lines.push(number + 1),
                },
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
        }
        conf
    }

    fn option(&mut self, word: &str) {
        let number = |prefix: &str| word.strip_prefix(prefix).and_then(|n| n.parse::<u32>().ok());
        if let Some(seconds) = number("timeout:") {
            self.timeout = Duration::from_secs(u64::from(seconds.clamp(1, 30)));
        } else if let Some(attempts) = number("attempts:") {
            self.attempts = attempts.clamp(1, limits::DNS_ATTEMPTS);
        } else if word == "rotate" {
            self.server_order = ServerOrder::Random;
        }
    }

    /// These settings, with the defaults for what a resolv.conf does not say.
    pub fn into_settings(self) -> DnsSettings {
        DnsSettings {
            servers: self.servers,
            timeout: self.timeout,
            attempts: self.attempts,
            server_order: self.server_order,
            ..DnsSettings::default()
        }
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
        assert_eq!((conf.timeout, conf.attempts), (Duration::from_secs(3), 4));
        assert_eq!(conf.server_order, ServerOrder::Random);
        assert_eq!(conf.unreadable_lines, [7, 8]);
        assert_eq!(conf.into_settings().attempts, 4);
    }

    #[test]
    fn defaults_and_bounds() {
        let conf = parse("");
        assert_eq!(conf.servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!((conf.timeout, conf.attempts), (Duration::from_secs(5), 2));
        let conf = parse("options timeout:0 attempts:4000000000 timeout:x attempts:-1");
        assert_eq!((conf.timeout, conf.attempts), (Duration::from_secs(1), 5));
        let many: String = (0..100).map(|i| format!("nameserver 192.0.2.{i}\n")).collect();
        assert_eq!(parse(&many).servers.len(), limits::DNS_SERVERS);
    }
}
