//! A proxy of the simulated world, of its own making (nothing of `smtp` is in it): SOCKS5 as RFC 1928 and RFC 1929 have it, with a
//! BIND in front of CONNECT where it knows that, or the PROXY protocol's version 2.
//!
//! Inputs: what the relay sends, faults set by the world. Outputs: ways to other hosts, and a record of who asked for which. It
//! refuses to look into what goes through it: a way that is open is no longer its own.

use crate::rt::sim::{Host, HostEvent, HostSide, LinkId};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What is wrong with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ProxyFault {
    /// Nothing.
    #[default]
    None,
    /// Nobody listens.
    Closed,
    /// It takes connections and says nothing.
    Mute,
    /// It ends each connection once something was said to it.
    Hangs,
    /// It says what is no SOCKS5.
    Foreign,
    /// It says that of each CONNECT.
    Says(u8),
    /// It cannot connect from the address that it is asked for.
    Unbound,
    /// It refuses the login.
    LoggedOut,
}

/// See the module. One for each address; port 1080 is of SOCKS5, port 2525 of the PROXY protocol.
#[derive(Default)]
pub struct Proxy {
    /// What is wrong with it now.
    pub fault: ProxyFault,
    /// Name and password that SOCKS5 wants.
    pub login: Option<(&'static str, &'static str)>,
    /// Where it was asked to connect to, and from.
    pub asked: Vec<(SocketAddr, Option<IpAddr>)>,
    /// What the relay said that it should not have.
    pub complaints: Vec<String>,
    calls: BTreeMap<LinkId, Call>,
}

#[derive(Default)]
struct Call {
    port: u16,
    input: Vec<u8>,
    greeted: bool,
    logged_in: bool,
    from: Option<IpAddr>,
    dialled: bool,
}

/// The signature of a header, and what is PROXY by TCP over IPv4.
const PROXY_V4: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
const PROXY_V6: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x24";

impl Host for Proxy {
    fn listens(&self, port: u16) -> bool {
        [1080, 2525].contains(&port) && self.fault != ProxyFault::Closed
    }

    fn handle(&mut self, event: HostEvent<'_>, side: &mut HostSide<'_>) {
        match event {
            HostEvent::Accepted { link, port, .. } => {
                self.calls.insert(link, Call { port, ..Call::default() });
            }
            HostEvent::Received { link, bytes } => {
                let Some(mut call) = self.calls.remove(&link) else { return };
                call.input.extend_from_slice(bytes);
                if self.fault != ProxyFault::None {
                    side.mark(format!("proxy: {:?}", self.fault));
                }
                let goes_on = match self.fault {
                    ProxyFault::Mute => true,
                    ProxyFault::Hangs => false,
                    _ if call.dialled => {
                        self.complaints.push("it said something before the host had".to_owned());
                        false
                    }
                    _ if call.port == 1080 => self.socks(link, &mut call, side),
                    _ => self.header(link, &mut call, side),
                };
                if goes_on {
                    self.calls.insert(link, call);
                } else {
                    side.close(link);
                }
            }
            HostEvent::Reached { link } => {
                self.calls.remove(&link);
            }
            HostEvent::Unreached { link, refused } => {
                if let Some(call) = self.calls.remove(&link) {
                    if call.port == 1080 {
                        reply(link, if refused { 5 } else { 4 }, side);
                    }
                    side.close(link);
                }
            }
            HostEvent::Ended { link } | HostEvent::Failed { link } => {
                self.calls.remove(&link);
                side.close(link);
            }
            HostEvent::Connected { .. } | HostEvent::Datagram { .. } | HostEvent::Timer { .. } => {}
        }
    }
}

impl Proxy {
    /// Works off what came; whether the connection stands.
    fn socks(&mut self, link: LinkId, call: &mut Call, side: &mut HostSide<'_>) -> bool {
        if self.fault == ProxyFault::Foreign {
            side.write(link, b"220 hop ESMTP\r\n");
            return true;
        }
        let wanted = if self.login.is_some() { 2 } else { 0 };
        if !call.greeted {
            let [version, count, ..] = call.input[..] else { return true };
            let end = 2 + usize::from(count);
            if call.input.len() < end {
                return true;
            }
            let offered = call.input[2..end].contains(&wanted);
            call.input.drain(..end);
            if version != 5 || !offered {
                side.write(link, &[5, 255]);
                return false;
            }
            side.write(link, &[5, wanted]);
            call.greeted = true;
        }
        if let (Some((name, password)), false) = (self.login, call.logged_in) {
            let mut right = vec![1, name.len() as u8];
            right.extend_from_slice(name.as_bytes());
            right.push(password.len() as u8);
            right.extend_from_slice(password.as_bytes());
            if call.input.len() < right.len() {
                return true;
            }
            let given: Vec<u8> = call.input.drain(..right.len()).collect();
            let fits = given == right && self.fault != ProxyFault::LoggedOut;
            side.write(link, &[1, u8::from(!fits)]);
            call.logged_in = true;
            if !fits {
                return false;
            }
        }
        loop {
            let [5, command, 0, kind, ..] = call.input[..] else { return true };
            let Some((address, used)) = address(kind, &call.input[4..]) else { return true };
            call.input.drain(..4 + used);
            match (command, self.fault) {
                (2, ProxyFault::Unbound) => {
                    reply(link, 1, side);
                    return false;
                }
                (2, _) if call.from.is_none() => {
                    call.from = Some(address.ip());
                    reply(link, 0, side);
                }
                (1, ProxyFault::Says(code)) => {
                    reply(link, code, side);
                    return false;
                }
                (1, _) => {
                    self.asked.push((address, call.from));
                    call.dialled = true;
                    side.mark("proxy: asked by SOCKS5");
                    side.dial(link, address, call.from.unwrap_or(side.address()), &DONE);
                    return true;
                }
                _ => {
                    self.complaints.push(format!("command {command}"));
                    return false;
                }
            }
        }
    }

    fn header(&mut self, link: LinkId, call: &mut Call, side: &mut HostSide<'_>) -> bool {
        let (signature, length) = call.input.split_at(call.input.len().min(PROXY_V4.len()));
        if !PROXY_V4.starts_with(signature) && !PROXY_V6.starts_with(signature) {
            self.complaints.push(format!("{signature:?} is no header"));
            return false;
        }
        let parts = match (signature == PROXY_V4, signature == PROXY_V6, length) {
            (true, _, [a, b, c, d, e, f, g, h, _, _, port, more, ..]) => {
                let (from, to) = (Ipv4Addr::new(*a, *b, *c, *d), Ipv4Addr::new(*e, *f, *g, *h));
                Some((IpAddr::V4(from), IpAddr::V4(to), [*port, *more], 12))
            }
            (_, true, rest) if rest.len() >= 36 => {
                let ip = |at: usize| {
                    let mut octets = [0; 16];
                    octets.copy_from_slice(&rest[at..at + 16]);
                    IpAddr::V6(Ipv6Addr::from(octets))
                };
                Some((ip(0), ip(16), [rest[34], rest[35]], 36))
            }
            _ => None,
        };
        let Some((from, to, port, octets)) = parts else { return true };
        if length.len() > octets {
            self.complaints.push("it said something before the host had".to_owned());
        }
        let to = SocketAddr::new(to, u16::from_be_bytes(port));
        self.asked.push((to, Some(from)));
        call.dialled = true;
        side.mark("proxy: asked by a PROXY header");
        side.dial(link, to, from, &[]);
        true
    }
}

/// The reply of who has connected.
const DONE: [u8; 10] = [5, 0, 0, 1, 0, 0, 0, 0, 0, 0];

fn reply(link: LinkId, code: u8, side: &mut HostSide<'_>) {
    let mut reply = DONE;
    reply[1] = code;
    side.write(link, &reply);
}

/// An address of a kind, and its octets.
fn address(kind: u8, bytes: &[u8]) -> Option<(SocketAddr, usize)> {
    let octets = if kind == 1 { 4 } else { 16 };
    let port = bytes.get(octets..octets + 2)?;
    let ip = match kind {
        1 => IpAddr::from(<[u8; 4]>::try_from(&bytes[..4]).ok()?),
        _ => IpAddr::from(<[u8; 16]>::try_from(&bytes[..16]).ok()?),
    };
    Some((SocketAddr::new(ip, u16::from_be_bytes([port[0], port[1]])), octets + 2))
}
