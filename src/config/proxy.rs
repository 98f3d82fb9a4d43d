//! `[[source]] proxy…`: a proxy that connects for a source.

use super::resolve::Resolver;
use std::net::SocketAddr;
use std::path::PathBuf;

/// `[[source]] proxy`, with the keys that begin with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// What it speaks.
    pub speaks: ProxySpeaks,
}

/// What is said to a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxySpeaks {
    /// SOCKS5 (RFC 1928).
    Socks5 {
        /// A file with name and password (absolute).
        auth: Option<PathBuf>,
        /// The proxy is asked, by a BIND in front of CONNECT, to connect from the source's address.
        bind: bool,
    },
    /// The PROXY protocol, version 2.
    Haproxy,
}

impl Resolver<'_> {
    pub(super) fn proxy(
        &mut self,
        key: &str,
        given: Option<&str>,
        auth: Option<&str>,
        bind: Option<bool>,
    ) -> Option<Proxy> {
        let beside = [("_auth", auth.is_some()), ("_bind", bind.is_some())];
        let Some(text) = given else {
            for (end, _) in beside.iter().filter(|(_, given)| *given) {
                self.error(&format!("{key}{end}"), "there is no `proxy`");
            }
            return None;
        };
        let Some((scheme, address)) = text.split_once("://").filter(|(s, _)| ["socks5", "haproxy"].contains(s)) else {
            let what = "write \"socks5://192.0.2.1:1080\" or \"haproxy://192.0.2.1:2525\"";
            self.error(key, format!("\"{text}\" is no proxy; {what}"));
            return None;
        };
        if address.contains('@') {
            self.error(key, "a login stands in a file of its own, which `proxy_auth` names");
            return None;
        }
        let address = self.address(key, address);
        if scheme == "haproxy" {
            for (end, _) in beside.iter().filter(|(_, given)| *given) {
                self.error(&format!("{key}{end}"), "is of SOCKS5 proxies; the PROXY protocol has nothing like it");
            }
            return Some(Proxy { address: address?, speaks: ProxySpeaks::Haproxy });
        }
        let auth = auth.map(|path| self.path(&format!("{key}_auth"), path));
        Some(Proxy { address: address?, speaks: ProxySpeaks::Socks5 { auth, bind: bind.unwrap_or(false) } })
    }
}
