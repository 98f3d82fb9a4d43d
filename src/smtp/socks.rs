//! PURE. The client's side of SOCKS5 (RFC 1928), with a name and password (RFC 1929) where there is one: a proxy connects for us,
//! from an address of its own.
//!
//! In: what the proxy sends, in any pieces. Out: what to send it, and whether the way is open; octets behind its last reply are
//! the host's, and are given back. It refuses proxies that want another login, and to have names looked up by one.

use crate::limits;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use thiserror::Error;

/// Name and password, 1 to 255 octets each (RFC 1929 §2).
#[derive(Clone, PartialEq, Eq)]
pub struct SocksLogin {
    name: Box<str>,
    password: Box<str>,
}

/// What is wrong with a login; nothing of it is shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SocksLoginError {
    /// It is not `name:password`.
    #[error("one line is expected, name:password")]
    Form,
    /// One of them is empty or too long.
    #[error("name and password have 1 to {} octets each", limits::SOCKS_TEXT_BYTES)]
    Length,
}

impl SocksLogin {
    /// Reads `name:password`, one line; the password may hold colons.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<SocksLogin, SocksLoginError> {
        let line = text.strip_suffix('\n').unwrap_or(text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        let parts = line.split_once(':').filter(|_| !line.contains(['\n', '\r']));
        let (name, password) = parts.ok_or(SocksLoginError::Form)?;
        if [name, password].iter().any(|text| !(1..=limits::SOCKS_TEXT_BYTES).contains(&text.len())) {
            return Err(SocksLoginError::Length);
        }
        Ok(SocksLogin { name: name.into(), password: password.into() })
    }
}

impl std::fmt::Debug for SocksLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SocksLogin({}, …)", self.name)
    }
}

/// Why there is no way through a proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum SocksError {
    /// What it said is not SOCKS5.
    #[error("the proxy does not speak SOCKS5")]
    Foreign,
    /// It answers what it cannot have read.
    #[error("the proxy answers what it cannot have read")]
    Hasty,
    /// It takes none of the ways to log in that were offered.
    #[error("the proxy wants another login")]
    NoLogin,
    /// It does not take name and password.
    #[error("the proxy refused the login")]
    Refused,
    /// It does not connect from the address that was asked for (RFC 1928 §6 has the number).
    #[error("the proxy does not connect from this address: {}", reason(*.0))]
    Unbound(u8),
    /// It could not connect, or would not (RFC 1928 §6 has the number).
    #[error("the proxy could not connect: {}", reason(*.0))]
    Failed(u8),
}

impl SocksError {
    /// Whether it is the host that cannot be reached, by this proxy or another; else something of the proxy's.
    pub fn is_the_hosts(self) -> bool {
        matches!(self, SocksError::Failed(3..=6))
    }
}

fn reason(code: u8) -> &'static str {
    match code {
        1 => "general failure",
        2 => "its rules do not allow it",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "it does not know the command",
        8 => "it knows no such addresses",
        _ => "a reason that it has no word for",
    }
}

/// What is awaited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Method,
    Login,
    Bound,
    Connected,
}

/// See the module. Lives with its connection, until the way is open.
#[derive(Debug)]
pub struct Socks {
    to: SocketAddr,
    from: Option<IpAddr>,
    login: Option<Arc<SocksLogin>>,
    state: State,
    input: Vec<u8>,
}

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const NAME_AND_PASSWORD: u8 = 2;
const CONNECT: u8 = 1;
const BIND: u8 = 2;

impl Socks {
    /// A way to `to`; `out` gets what is sent first. `from`: the address that the proxy is to connect from, which it is told by a
    /// BIND in front of CONNECT. That is no part of RFC 1928, whose proxies choose themselves; KumoMTA's proxy understands it.
    pub fn new(to: SocketAddr, from: Option<IpAddr>, login: Option<Arc<SocksLogin>>, out: &mut Vec<u8>) -> Socks {
        match login {
            None => out.extend_from_slice(&[VERSION, 1, NO_LOGIN]),
            Some(_) => out.extend_from_slice(&[VERSION, 2, NO_LOGIN, NAME_AND_PASSWORD]),
        }
        Socks { to, from, login, state: State::Method, input: Vec::new() }
    }

    /// Whether the proxy has been told to connect: what is awaited is the host.
    pub fn awaits_host(&self) -> bool {
        self.state == State::Connected
    }

    /// Takes what came; `out` gets what is to be sent. `Some`: the way is open, and these octets came through it already.
    ///
    /// # Errors
    /// There is no way, for that reason.
    pub fn handle(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Vec<u8>>, SocksError> {
        self.input.extend_from_slice(bytes);
        loop {
            let used = match (self.state, &self.input[..]) {
                (State::Method | State::Bound | State::Connected, [version, ..]) if *version != VERSION => {
                    return Err(SocksError::Foreign);
                }
                (State::Method, [_, method, ..]) => {
                    match (*method, &self.login) {
                        (NO_LOGIN, _) => self.ask(out),
                        (NAME_AND_PASSWORD, Some(login)) => {
                            out.push(1);
                            for text in [&login.name, &login.password] {
                                out.push(u8::try_from(text.len()).expect("`parse` has bounded both"));
                                out.extend_from_slice(text.as_bytes());
                            }
                            self.state = State::Login;
                        }
                        _ => return Err(SocksError::NoLogin),
                    }
                    2
                }
                // Its version is 1 (RFC 1929 §2), and some proxies send another; the status says what counts.
                (State::Login, [_, status, ..]) => {
                    if *status != 0 {
                        return Err(SocksError::Refused);
                    }
                    self.ask(out);
                    2
                }
                (State::Bound, [_, code, ..]) if *code != 0 => return Err(SocksError::Unbound(*code)),
                (State::Connected, [_, code, ..]) if *code != 0 => return Err(SocksError::Failed(*code)),
                (State::Bound | State::Connected, [_, _, _, kind, first, ..]) => {
                    let address = match kind {
                        1 => 4,
                        3 => 1 + usize::from(*first),
                        4 => 16,
                        _ => return Err(SocksError::Foreign),
                    };
                    let length = 4 + address + 2;
                    if self.input.len() < length {
                        return Ok(None);
                    }
                    if self.state == State::Connected {
                        return Ok(Some(self.input.split_off(length)));
                    }
                    self.request(CONNECT, self.to, out);
                    self.state = State::Connected;
                    length
                }
                _ => return Ok(None),
            };
            self.input.drain(..used);
        }
    }

    /// Logged in: what is wanted.
    fn ask(&mut self, out: &mut Vec<u8>) {
        if let Some(from) = self.from {
            self.request(BIND, SocketAddr::new(from, 0), out);
            self.state = State::Bound;
        } else {
            self.request(CONNECT, self.to, out);
            self.state = State::Connected;
        }
    }

    /// RFC 1928 §4.
    fn request(&self, command: u8, address: SocketAddr, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, command, 0]);
        match address.ip() {
            IpAddr::V4(ip) => {
                out.push(1);
                out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(4);
                out.extend_from_slice(&ip.octets());
            }
        }
        out.extend_from_slice(&address.port().to_be_bytes());
    }

    /// Octets kept.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn size(&self) -> usize {
        self.input.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::properties::cases;
    use proptest::prelude::*;

    fn login() -> Option<Arc<SocksLogin>> {
        Some(Arc::new(SocksLogin::parse("ann:sec:ret\r\n").unwrap()))
    }

    const FROM: Option<IpAddr> = Some(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST));
    const CONNECT_REQUEST: [u8; 10] = [5, 1, 0, 1, 192, 0, 2, 1, 0, 25];
    const DONE: [u8; 10] = [5, 0, 0, 1, 127, 0, 0, 1, 0, 9];

    type End = Result<Option<Vec<u8>>, SocksError>;

    /// Runs a machine over what a proxy says, cut as `cuts` says: what was sent, and how it ended.
    fn run(login: Option<Arc<SocksLogin>>, from: Option<IpAddr>, said: &[u8], cuts: &[usize]) -> (Vec<u8>, End) {
        let mut out = Vec::new();
        let mut socks = Socks::new("192.0.2.1:25".parse().unwrap(), from, login, &mut out);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (said.len() + 1)).chain([0, said.len()]).collect();
        cuts.sort_unstable();
        for (n, pair) in cuts.windows(2).enumerate() {
            match socks.handle(&said[pair[0]..pair[1]], &mut out) {
                Ok(None) => assert!(socks.size() <= limits::SOCKS_REPLY_BYTES),
                Ok(Some(mut rest)) => {
                    // What comes behind is the host's, in whatever piece.
                    cuts[n + 1..].windows(2).for_each(|pair| rest.extend_from_slice(&said[pair[0]..pair[1]]));
                    return (out, Ok(Some(rest)));
                }
                Err(error) => return (out, Err(error)),
            }
        }
        (out, Ok(None))
    }

    #[test]
    fn a_way_with_and_without_a_login() {
        let said = [&[5, 0][..], &DONE, b"220 hop\r\n"].concat();
        let (out, end) = run(None, None, &said, &[]);
        assert_eq!(out, [&[5, 1, 0][..], &CONNECT_REQUEST].concat());
        assert_eq!(end, Ok(Some(b"220 hop\r\n".to_vec())));
        let said = [&[5, 2, 1, 0][..], &DONE].concat();
        let (out, end) = run(login(), None, &said, &[]);
        assert_eq!(out, [&b"\x05\x02\x00\x02\x01\x03ann\x07sec:ret"[..], &CONNECT_REQUEST].concat());
        assert_eq!(end, Ok(Some(Vec::new())));
        // It has a login and needs none.
        assert_eq!(run(login(), None, &[&[5, 0][..], &DONE].concat(), &[]).1, Ok(Some(Vec::new())));
    }

    #[test]
    fn an_address_of_the_proxys_is_asked_for_first() {
        let said = [&[5, 0][..], &DONE, &DONE, b"220"].concat();
        let (out, end) = run(None, FROM, &said, &[]);
        let bind = [&[5, 2, 0, 4][..], &[0; 15], &[1, 0, 0]].concat();
        assert_eq!(out, [&[5, 1, 0][..], &bind, &CONNECT_REQUEST].concat());
        assert_eq!(end, Ok(Some(b"220".to_vec())));
        assert_eq!(run(None, FROM, &[5, 0, 5, 1], &[]).1, Err(SocksError::Unbound(1)));
        let mut out = Vec::new();
        let mut socks = Socks::new("192.0.2.1:25".parse().unwrap(), FROM, None, &mut out);
        assert!(!socks.awaits_host());
        assert_eq!(socks.handle(&said[..12], &mut out), Ok(None));
        assert!(socks.awaits_host());
    }

    #[test]
    fn what_a_proxy_refuses_has_its_reason_and_whose_it_is() {
        assert_eq!(run(None, None, &[5, 255], &[]).1, Err(SocksError::NoLogin));
        assert_eq!(run(None, None, &[5, 2], &[]).1, Err(SocksError::NoLogin));
        assert_eq!(run(login(), None, &[5, 255], &[]).1, Err(SocksError::NoLogin));
        assert_eq!(run(login(), None, &[5, 2, 1, 1], &[]).1, Err(SocksError::Refused));
        for said in [&b"220 hop\r\n"[..], &[4, 90], &[5, 0, 4, 0], &[5, 0, 5, 0, 0, 2, 0]] {
            assert_eq!(run(None, None, said, &[]).1, Err(SocksError::Foreign), "{said:?}");
        }
        for code in 1..=255 {
            let (_, end) = run(None, None, &[5, 0, 5, code], &[]);
            assert_eq!(end, Err(SocksError::Failed(code)));
            assert_eq!(SocksError::Failed(code).is_the_hosts(), [3, 4, 5, 6].contains(&code), "{code}");
            assert!(!SocksError::Unbound(code).is_the_hosts());
        }
        assert_eq!(SocksError::Failed(5).to_string(), "the proxy could not connect: connection refused");
    }

    #[test]
    fn a_login_is_a_line_of_a_name_and_a_password() {
        assert_eq!(format!("{:?}", login().unwrap()), "SocksLogin(ann, …)");
        let long = format!("a:{}", "b".repeat(256));
        for (text, error) in [
            ("ann", SocksLoginError::Form),
            ("ann:a\nb", SocksLoginError::Form),
            (":a", SocksLoginError::Length),
            ("a:", SocksLoginError::Length),
            (&long, SocksLoginError::Length),
        ] {
            assert_eq!(SocksLogin::parse(text), Err(error), "{text}");
        }
        assert!(SocksLogin::parse(&long[..257]).is_ok());
    }

    proptest! {
        #![proptest_config(cases(500))]

        #[test]
        fn property_pieces_change_nothing(
            (with_login, with_from) in any::<(bool, bool)>(),
            kind in 0u8..5,
            name in proptest::collection::vec(any::<u8>(), 0..40),
            noise in proptest::option::of((any::<usize>(), any::<u8>())),
            tail in proptest::collection::vec(any::<u8>(), 0..30),
            cuts in proptest::collection::vec(any::<usize>(), 0..12),
        ) {
            let (login, from) = (if with_login { login() } else { None }, FROM.filter(|_| with_from));
            let mut said = if with_login { vec![5, 2, 1, 0] } else { vec![5, 0] };
            for _ in 0..1 + usize::from(with_from) {
                said.extend_from_slice(&[5, 0, 0, kind]);
                match kind {
                    1 => said.extend_from_slice(&[0; 4]),
                    4 => said.extend_from_slice(&[0; 16]),
                    _ => {
                        said.push(name.len() as u8);
                        said.extend_from_slice(&name);
                    }
                }
                said.extend_from_slice(&[0, 25]);
            }
            said.extend_from_slice(&tail);
            if let Some((at, octet)) = noise {
                let at = at % said.len();
                said[at] = octet;
            }
            let whole = run(login.clone(), from, &said, &[]);
            prop_assert_eq!(&whole, &run(login.clone(), from, &said, &cuts));
            let each: Vec<usize> = (0..said.len()).collect();
            prop_assert_eq!(&whole, &run(login, from, &said, &each));
            if noise.is_none() && matches!(kind, 1 | 3 | 4) {
                prop_assert_eq!(whole.1, Ok(Some(tail)));
            }
        }
    }
}
