//! PURE. The client's side of SOCKS5 (RFC 1928), with a name and password (RFC 1929) where there is one: a proxy connects for us,
//! from an address of its own.
//!
//! In: what the proxy sends, in any pieces. Out: what to send it, and whether the way is open; octets behind its last reply are
//! the host's, and are given back. It refuses proxies that want another login, and to have names looked up by one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use thiserror::Error;

/// Name and password, 1 to 255 octets each (RFC 1929 §2).
#[derive(Clone, PartialEq, Eq)]
pub struct SocksLogin {
    /// UNAME
    pub name: Box<str>,
    /// PASSWD
    pub password: Box<str>,
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
    /// It takes none of the ways to log in that were offered.
    #[error("the proxy wants another login")]
    NoLogin,
    /// It does not take name and password.
    #[error("the proxy refused the login")]
    Refused,
    /// It could not connect, or would not (RFC 1928 §6).
    #[error("the proxy could not connect: {}", reason(*.0))]
    Failed(u8),
}

fn reason(code: u8) -> &'static str {
    match code {
        1 => "general failure",
        2 => "its rules do not allow it",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "TTL expired",
        7 => "it knows no CONNECT",
        8 => "it knows no such addresses",
        _ => "a reason that it has no word for",
    }
}

/// What is awaited.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Method,
    Login,
    Reply,
}

/// See the module. Lives with its connection, until the way is open.
#[derive(Debug)]
pub struct Socks {
    to: SocketAddr,
    login: Option<Arc<SocksLogin>>,
    state: State,
    input: Vec<u8>,
}

const VERSION: u8 = 5;
const NO_LOGIN: u8 = 0;
const NAME_AND_PASSWORD: u8 = 2;

impl Socks {
    /// A way to `to`; `out` gets what is sent first.
    pub fn new(to: SocketAddr, login: Option<Arc<SocksLogin>>, out: &mut Vec<u8>) -> Socks {
        match login {
            None => out.extend_from_slice(&[VERSION, 1, NO_LOGIN]),
            Some(_) => out.extend_from_slice(&[VERSION, 2, NO_LOGIN, NAME_AND_PASSWORD]),
        }
        Socks { to, login, state: State::Method, input: Vec::new() }
    }

    /// Takes what came; `out` gets what is to be sent. `Some`: the way is open, and these octets came through it already.
    ///
    /// # Errors
    /// There is no way, for that reason.
    pub fn handle(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<Vec<u8>>, SocksError> {
        self.input.extend_from_slice(bytes);
        loop {
            match (self.state, &self.input[..]) {
                (State::Method | State::Reply, [version, ..]) if *version != VERSION => return Err(SocksError::Foreign),
                (State::Method, [_, method, ..]) => {
                    match (*method, &self.login) {
                        (NO_LOGIN, _) => self.request(out),
                        (NAME_AND_PASSWORD, Some(login)) => {
                            out.push(1);
                            for text in [&login.name, &login.password] {
                                let text = &text.as_bytes()[..text.len().min(255)];
                                out.push(u8::try_from(text.len()).expect("cut at 255"));
                                out.extend_from_slice(text);
                            }
                            self.state = State::Login;
                        }
                        _ => return Err(SocksError::NoLogin),
                    }
                    self.input.drain(..2);
                }
                (State::Login, [_, status, ..]) => {
                    if *status != 0 {
                        return Err(SocksError::Refused);
                    }
                    self.input.drain(..2);
                    self.request(out);
                }
                (State::Reply, [_, code, ..]) if *code != 0 => return Err(SocksError::Failed(*code)),
                (State::Reply, [_, _, _, kind, first, ..]) => {
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
                    return Ok(Some(self.input.split_off(length)));
                }
                _ => return Ok(None),
            }
        }
    }

    /// CONNECT (RFC 1928 §4).
    fn request(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[VERSION, 1, 0]);
        match self.to.ip() {
            IpAddr::V4(ip) => {
                out.push(1);
                out.extend_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                out.push(4);
                out.extend_from_slice(&ip.octets());
            }
        }
        out.extend_from_slice(&self.to.port().to_be_bytes());
        self.state = State::Reply;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::properties::cases;
    use proptest::prelude::*;

    fn login() -> Option<Arc<SocksLogin>> {
        Some(Arc::new(SocksLogin { name: "ann".into(), password: "secret".into() }))
    }

    /// Runs a machine over what a proxy says, cut as `cuts` says: what was sent, and how it ended.
    fn run(
        login: Option<Arc<SocksLogin>>,
        said: &[u8],
        cuts: &[usize],
    ) -> (Vec<u8>, Result<Option<Vec<u8>>, SocksError>) {
        let mut out = Vec::new();
        let mut socks = Socks::new("192.0.2.1:25".parse().unwrap(), login, &mut out);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (said.len() + 1)).chain([0, said.len()]).collect();
        cuts.sort_unstable();
        for (n, pair) in cuts.windows(2).enumerate() {
            match socks.handle(&said[pair[0]..pair[1]], &mut out) {
                Ok(None) => {}
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
        let reply = [5, 0, 0, 1, 127, 0, 0, 1, 0, 9];
        let said = [&[5, 0][..], &reply, b"220 hop\r\n"].concat();
        let (out, end) = run(None, &said, &[]);
        assert_eq!(out, [5, 1, 0, 5, 1, 0, 1, 192, 0, 2, 1, 0, 25]);
        assert_eq!(end, Ok(Some(b"220 hop\r\n".to_vec())));
        let said = [&[5, 2, 1, 0][..], &reply].concat();
        let (out, end) = run(login(), &said, &[]);
        assert_eq!(out, [&b"\x05\x02\x00\x02\x01\x03ann\x06secret"[..], &[5, 1, 0, 1, 192, 0, 2, 1, 0, 25]].concat());
        assert_eq!(end, Ok(Some(Vec::new())));
    }

    #[test]
    fn what_a_proxy_refuses_has_its_reason() {
        assert_eq!(run(None, &[5, 255], &[]).1, Err(SocksError::NoLogin));
        assert_eq!(run(None, &[5, 2], &[]).1, Err(SocksError::NoLogin));
        assert_eq!(run(login(), &[5, 2, 1, 1], &[]).1, Err(SocksError::Refused));
        assert_eq!(run(None, &[5, 0, 5, 5], &[]).1, Err(SocksError::Failed(5)));
        assert_eq!(run(None, b"220 hop\r\n", &[]).1, Err(SocksError::Foreign));
        assert_eq!(SocksError::Failed(5).to_string(), "the proxy could not connect: connection refused");
    }

    proptest! {
        #![proptest_config(cases(500))]

        #[test]
        fn property_pieces_change_nothing(
            with_login in any::<bool>(),
            kind in 0u8..5,
            name in proptest::collection::vec(any::<u8>(), 0..40),
            noise in proptest::option::of((any::<usize>(), any::<u8>())),
            tail in proptest::collection::vec(any::<u8>(), 0..30),
            cuts in proptest::collection::vec(any::<usize>(), 0..12),
        ) {
            let login = if with_login { login() } else { None };
            let mut said = if with_login { vec![5, 2, 1, 0] } else { vec![5, 0] };
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
            said.extend_from_slice(&tail);
            if let Some((at, octet)) = noise {
                let at = at % said.len();
                said[at] = octet;
            }
            let whole = run(login.clone(), &said, &[]);
            prop_assert_eq!(&whole, &run(login.clone(), &said, &cuts));
            let each: Vec<usize> = (0..said.len()).collect();
            prop_assert_eq!(&whole, &run(login, &said, &each));
            if noise.is_none() && matches!(kind, 1 | 3 | 4) {
                prop_assert_eq!(whole.1, Ok(Some(tail)));
            }
        }
    }
}
