//! The server side's keys: listeners, TLS, accounts, local domains.

use super::raw::{RawAccounts, RawClients, RawListener, RawLocal, RawTls};
use super::resolve::{Resolver, network};
use crate::limits;
use crate::local::Target;
use crate::starttls::TlsLevel;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// `[[listener]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// Address and port, not 0. Every shard binds it.
    pub address: SocketAddr,
    /// What it is for.
    pub kind: ListenerKind,
    /// STARTTLS; with [`ListenerKind::Submissions`] TLS comes before the first byte.
    pub tls: Demand,
    /// AUTH.
    pub auth: Demand,
    /// AUTH also without TLS.
    pub auth_without_tls: bool,
    /// The sender's domain must exist.
    pub verify_sender_domain: bool,
    /// The recipient's domain must exist, and take mail.
    pub verify_recipient_domain: bool,
    /// Connections from these begin with a PROXY header.
    pub proxy_networks: Networks,
    /// These may say XCLIENT.
    pub xclient_networks: Networks,
    /// These may say XFORWARD.
    pub xforward_networks: Networks,
    /// Who is not of `relay.from_networks` waits so long for the greeting, and must not talk before.
    pub greeting_delay: Duration,
    /// The same must not send commands before their time (RFC 2920 §3.1).
    pub strict_pipelining: bool,
}

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// Port 25: mail from `from_networks` to anywhere, from others to local domains.
    Relay,
    /// Port 587 (RFC 6409): mail of accounts, over STARTTLS.
    Submission,
    /// Port 465 (RFC 8314 §3.3): the same, with TLS from the first byte.
    Submissions,
}

/// Whether a listener wants something of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// There is no such thing.
    Off,
    /// Who wants may.
    Offered,
    /// No mail without it.
    Required,
}

/// Networks that are searched for a client's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks(pub Vec<IpNet>);

impl Networks {
    /// Whether `peer` is of one of them. An IPv4 client of an IPv6 socket (`::ffff:192.0.2.1`) counts as IPv4.
    pub fn contain(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.0.iter().any(|network| network.contains(&peer))
    }
}

/// `[tls]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Absolute paths of certificate chain and key. None: no TLS.
    pub certificates: Vec<(PathBuf, PathBuf)>,
    /// Absolute path of the authorities of client certificates.
    pub client_ca: Option<PathBuf>,
    /// Absolute path of the authorities of mail exchangers; none: the system's.
    pub trust: Option<PathBuf>,
}

/// `[clients]`: limits for clients that are not of `relay.from_networks`; 0: none.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Clients {
    /// An IPv4 network, by its prefix: 0 to 32.
    pub ipv4_prefix: u8,
    /// An IPv6 network, by its prefix: 0 to 128.
    pub ipv6_prefix: u8,
    /// Connections of a network at a time.
    pub connections: u32,
    /// New connections of a network in a minute.
    pub connections_per_minute: u32,
    /// Messages of a network in a minute.
    pub messages_per_minute: u32,
    /// New connections of all of them in a minute.
    pub all_connections_per_minute: u32,
    /// Messages of all of them in a minute.
    pub all_messages_per_minute: u32,
}

/// `[[local]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// One at least. That they are domain names, and none is there twice, is looked at when the files are read.
    pub domains: Vec<String>,
    /// Where their mail is delivered to.
    pub deliver: Target,
    /// Absolute path of the mailboxes; none: every local part is taken.
    pub mailboxes: Option<PathBuf>,
    /// Absolute path of the aliases.
    pub aliases: Option<PathBuf>,
    /// The character before a subaddress; empty for none.
    pub subaddress: String,
}

impl Resolver<'_> {
    pub(super) fn clients(&mut self, raw: &RawClients) -> Clients {
        let mut rate = |key: &str, given| self.count(&format!("clients.{key}"), given, 0, 0, limits::CLIENT_RATE_MAX);
        let connections = rate("connections", raw.connections);
        let connections_per_minute = rate("connections_per_minute", raw.connections_per_minute);
        let messages_per_minute = rate("messages_per_minute", raw.messages_per_minute);
        let all_connections_per_minute = rate("all_connections_per_minute", raw.all_connections_per_minute);
        let all_messages_per_minute = rate("all_messages_per_minute", raw.all_messages_per_minute);
        let ipv4_prefix = self.count("clients.ipv4_prefix", raw.ipv4_prefix, 32, 8, 32);
        let ipv6_prefix = self.count("clients.ipv6_prefix", raw.ipv6_prefix, 64, 16, 128);
        Clients {
            ipv4_prefix: u8::try_from(ipv4_prefix).expect("the range was checked"),
            ipv6_prefix: u8::try_from(ipv6_prefix).expect("the range was checked"),
            connections,
            connections_per_minute,
            messages_per_minute,
            all_connections_per_minute,
            all_messages_per_minute,
        }
    }

    pub(super) fn local(&mut self, raw: Vec<RawLocal>) -> Vec<Local> {
        let mut all = Vec::new();
        let domains: usize = raw.iter().map(|one| one.domains.as_ref().map_or(0, Vec::len)).sum();
        if domains > limits::LOCAL_DOMAINS {
            self.error("local", format!("{domains} domains; at most {} are allowed", limits::LOCAL_DOMAINS));
        }
        for (i, one) in raw.into_iter().enumerate() {
            let key = |name: &str| format!("local[{i}].{name}");
            let domains = one.domains.unwrap_or_default();
            if domains.is_empty() {
                self.error(&key("domains"), "a [[local]] block needs domains, like [\"example.com\"]");
            }
            let mailboxes = one.mailboxes.map(|path| self.path(&key("mailboxes"), &path));
            let aliases = one.aliases.map(|path| self.path(&key("aliases"), &path));
            let Some(deliver) = one.deliver else {
                self.error(&key("deliver"), "where to? deliver = \"lmtp:127.0.0.1:24\", or a socket, or Maildirs");
                continue;
            };
            match Target::parse(&deliver) {
                Err(why) => self.error(&key("deliver"), why),
                Ok(deliver) => {
                    let subaddress = one.subaddress.unwrap_or_default();
                    all.push(Local { domains, deliver, mailboxes, aliases, subaddress });
                }
            }
        }
        all
    }

    pub(super) fn tls(&mut self, raw: RawTls) -> Tls {
        let mut certificates = Vec::new();
        let given = raw.certificates.unwrap_or_default();
        if given.len() > limits::CERTIFICATES {
            self.error(
                "tls.certificates",
                format!("{} pairs; at most {} are allowed", given.len(), limits::CERTIFICATES),
            );
        }
        for (i, pair) in given.into_iter().enumerate() {
            let key = format!("tls.certificates[{i}]");
            match (pair.certificate, pair.key) {
                (Some(certificate), Some(private)) => {
                    certificates.push((self.path(&key, &certificate), self.path(&key, &private)));
                }
                _ => self.error(&key, "write { certificate = \"…\", key = \"…\" }, two PEM files"),
            }
        }
        let client_ca = raw.client_ca.map(|path| self.path("tls.client_ca", &path));
        if client_ca.is_some() && certificates.is_empty() {
            self.error("tls.client_ca", "without tls.certificates there is no TLS in which a client could show one");
        }
        let trust = raw.trust.map(|path| self.path("tls.trust", &path));
        Tls { certificates, client_ca, trust }
    }

    /// The TLS that delivery asks for.
    pub(super) fn tls_level(&mut self, key: &str, given: Option<&str>) -> TlsLevel {
        let Some(given) = given else { return TlsLevel::default() };
        let known = TlsLevel::ALL.iter().find(|(name, _)| *name == given);
        if known.is_none() {
            let names = TlsLevel::ALL.map(|(name, _)| format!("\"{name}\"")).join(", ");
            self.error(key, format!("\"{given}\" is not known; allowed are {names}"));
        }
        known.map(|(_, level)| *level).unwrap_or_default()
    }

    pub(super) fn accounts(&mut self, raw: RawAccounts) -> Option<PathBuf> {
        raw.file.map(|path| self.path("accounts.file", &path))
    }

    pub(super) fn listeners(&mut self, raw: Vec<RawListener>, tls: &Tls, accounts: bool) -> Vec<Listener> {
        if raw.is_empty() {
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 2525));
            let one = RawListener { address: Some(address.to_string()), ..RawListener::default() };
            return self.listener(0, one, tls, accounts).into_iter().collect();
        }
        if raw.len() > limits::LISTENERS {
            self.error("listener", format!("{} listeners; at most {} are allowed", raw.len(), limits::LISTENERS));
        }
        let mut listeners: Vec<Listener> = Vec::new();
        for (i, one) in raw.into_iter().enumerate() {
            let Some(listener) = self.listener(i, one, tls, accounts) else { continue };
            let address = listener.address;
            if listeners.iter().any(|listener| listener.address == address) {
                self.error(&format!("listener[{i}].address"), format!("{address} is listed twice"));
            }
            listeners.push(listener);
        }
        listeners
    }

    fn listener(&mut self, i: usize, raw: RawListener, tls: &Tls, accounts: bool) -> Option<Listener> {
        let key = |name: &str| format!("listener[{i}].{name}");
        let kind = match raw.kind.as_deref().unwrap_or("relay") {
            "relay" => ListenerKind::Relay,
            "submission" => ListenerKind::Submission,
            "submissions" => ListenerKind::Submissions,
            other => {
                let allowed = "allowed are \"relay\", \"submission\" and \"submissions\"";
                self.error(&key("kind"), format!("unknown kind \"{other}\"; {allowed}"));
                ListenerKind::Relay
            }
        };
        let submission = kind != ListenerKind::Relay;
        let (has_tls, default) =
            (!tls.certificates.is_empty(), if submission { Demand::Required } else { Demand::Offered });
        let tls =
            self.demand(&key("tls"), raw.tls.as_deref(), if has_tls || submission { default } else { Demand::Off });
        if tls != Demand::Off && !has_tls {
            self.error(&key("tls"), "TLS needs a certificate: set tls.certificates (or tls = \"off\" here)");
        }
        if kind == ListenerKind::Submissions && tls != Demand::Required {
            self.error(&key("tls"), "a listener of kind \"submissions\" begins with TLS always: leave tls out");
        }
        let auth =
            self.demand(&key("auth"), raw.auth.as_deref(), if accounts || submission { default } else { Demand::Off });
        if auth != Demand::Off && !accounts {
            self.error(&key("auth"), "AUTH needs accounts: set accounts.file (or auth = \"off\" here)");
        }
        let auth_without_tls = raw.auth_without_tls.unwrap_or(false);
        if auth_without_tls && auth != Demand::Off {
            self.warn(&key("auth_without_tls"), "passwords may cross the network in the clear");
        }
        let listener = Listener {
            kind,
            tls,
            auth,
            auth_without_tls,
            verify_sender_domain: raw.verify_sender_domain.unwrap_or(submission),
            verify_recipient_domain: raw.verify_recipient_domain.unwrap_or(submission),
            proxy_networks: self.networks(&key("proxy_networks"), raw.proxy_networks),
            xclient_networks: self.networks(&key("xclient_networks"), raw.xclient_networks),
            xforward_networks: self.networks(&key("xforward_networks"), raw.xforward_networks),
            greeting_delay: self.span(
                &key("greeting_delay"),
                raw.greeting_delay,
                Duration::ZERO,
                Duration::ZERO..=limits::GREETING_DELAY_MAX,
            ),
            strict_pipelining: raw.strict_pipelining.unwrap_or(false),
            address: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        };
        let Some(text) = raw.address else {
            self.error(&key("address"), "a listener needs an address, like \"0.0.0.0:25\" or \"[::]:25\"");
            return None;
        };
        Some(Listener { address: self.address(&key("address"), &text)?, ..listener })
    }

    fn demand(&mut self, key: &str, given: Option<&str>, default: Demand) -> Demand {
        match given {
            None => default,
            Some("off") => Demand::Off,
            Some("offered") => Demand::Offered,
            Some("required") => Demand::Required,
            Some(other) => {
                self.error(key, format!("\"{other}\" is not known; allowed are \"off\", \"offered\" and \"required\""));
                default
            }
        }
    }

    fn networks(&mut self, key: &str, given: Option<Vec<String>>) -> Networks {
        let given = given.unwrap_or_default();
        if given.len() > limits::RELAY_NETWORKS {
            self.error(key, format!("{} networks; at most {} are allowed", given.len(), limits::RELAY_NETWORKS));
        }
        let mut networks = Vec::new();
        for (i, text) in given.iter().enumerate() {
            match network(text) {
                Ok(network) => networks.push(network),
                Err(why) => self.error(&format!("{key}[{i}]"), why),
            }
        }
        if IpNet::aggregate(&networks).iter().any(|network| network.prefix_len() == 0) {
            self.error(key, "open to the whole Internet: anybody could say to be anybody; name your own proxies");
        }
        Networks(networks)
    }
}
