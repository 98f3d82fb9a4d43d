//! PURE. The table of routes: domains whose mail does not go where DNS says.
//!
//! In: the text of a routes file (`docs/routes.md`), then names of domains. Out: a [`RouteTable`], which never changes and is
//! shared by all cores; or all that is wrong with the text. It is asked by the owner of a domain whenever that looks for the
//! domain's mail exchangers, so a reload changes where waiting mail goes. A table without routes costs nothing. It refuses to
//! know of local domains: their mail does not come here.

use super::{Hop, SmartHost};
use crate::config::Problem;
use crate::config::read::{Reader, Table, count, flag, text, word};
use crate::limits::{DNS_MX_HOSTS, DOMAIN_BYTES, LABEL_BYTES, ROUTE_DOMAINS, ROUTE_REPLY_BYTES, ROUTES_FILE_BYTES};
use crate::local::{LmtpServer, Target};
use crate::smtp::sasl::Login;
use crate::starttls::TlsLevel;
use foldhash::quality::FixedState;
use std::collections::HashMap;
use std::sync::Arc;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    routes: Vec<Route>,
    /// Their places in `routes`. The keys are the operator's: a stranger cannot choose what collides.
    exact: HashMap<Box<str>, u32, FixedState>,
    /// What stands behind `*.`.
    below: HashMap<Box<str>, u32, FixedState>,
    /// `*`.
    any: Option<u32>,
    /// What holds at `[delivery] smart_host`, with routes or without.
    smart_hop: Arc<Hop>,
}

/// Where the mail of a domain goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the mail exchangers that DNS names for it.
    Mx,
    /// To these hosts, without a look for its exchangers.
    Hosts(Hosts),
    /// To this server.
    Lmtp(LmtpServer),
    /// Nowhere: it is taken, and counts as delivered.
    Discard,
    /// It is refused, with this text behind 550 5.7.1.
    Reject(Box<str>),
    /// Nowhere for now: it waits until the table changes.
    Hold,
}

/// Hosts with weights: of 4 connections, 3 go to a host that has 3 of a sum of 4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hosts {
    hosts: Vec<(SmartHost, u32)>,
    /// The name of their site: the same for the same hosts. A colon is in no domain's and no exchanger's name.
    site: Box<str>,
    hop: Arc<Hop>,
}

impl Hosts {
    /// Each with its weight, which together are at most [`DNS_MX_HOSTS`].
    pub fn hosts(&self) -> &[(SmartHost, u32)] {
        &self.hosts
    }

    /// The name of the site that they are.
    pub fn site(&self) -> &str {
        &self.site
    }

    /// What holds at each of them.
    pub fn hop(&self) -> &Arc<Hop> {
        &self.hop
    }

    fn new(hosts: Vec<(SmartHost, u32)>, hop: Arc<Hop>) -> Hosts {
        let names: Vec<String> = hosts.iter().map(|(host, _)| host.to_string()).collect();
        let site = (names.join(" ") + &hop.mark()).into();
        Hosts { hosts, site, hop }
    }
}

impl From<SmartHost> for Hosts {
    fn from(host: SmartHost) -> Hosts {
        Hosts::new(vec![(host, 1)], Arc::default())
    }
}

/// Before the name of an LMTP server, as the name of a site.
const LMTP: &str = "lmtp:";

impl RouteTable {
    /// The route of a domain (lower case): its name's own, else the longest `*.` above it, else `*`'s. `None`: DNS is asked,
    /// or whatever is done with mail at large.
    pub fn find(&self, domain: &str) -> Option<&Route> {
        if self.routes.is_empty() {
            return None;
        }
        let mut parents =
            domain.bytes().enumerate().filter(|(_, byte)| *byte == b'.').map(|(dot, _)| &domain[dot + 1..]);
        let found = self.exact.get(domain).or_else(|| parents.find_map(|parent| self.below.get(parent)));
        let found = found.copied().or(self.any)?;
        self.routes.get(found as usize)
    }

    /// Whether any domain is refused.
    pub fn rejects(&self) -> bool {
        self.routes.iter().any(|route| matches!(route, Route::Reject(_)))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// How many domains and patterns have one.
    pub fn len(&self) -> usize {
        self.exact.len() + self.below.len() + usize::from(self.any.is_some())
    }

    /// This table, and that host for what it has no route for.
    #[must_use]
    pub fn or_smart_host(mut self, host: SmartHost) -> RouteTable {
        if self.any.is_none() {
            self.any = Some(self.next());
            self.routes.push(Route::Hosts(Hosts::new(vec![(host, 1)], Arc::clone(&self.smart_hop))));
        }
        self
    }

    /// This table, and that at the smart host: before [`RouteTable::or_smart_host`].
    #[must_use]
    pub fn with_smart_hop(mut self, hop: Hop) -> RouteTable {
        self.smart_hop = Arc::new(hop);
        self
    }

    /// What holds at `[delivery] smart_host`.
    pub fn smart_hop(&self) -> &Arc<Hop> {
        &self.smart_hop
    }

    /// Whether a host that the table names may be under TLS though `[delivery] tls` is `none`.
    pub fn wants_tls(&self) -> bool {
        let of_route = |route: &Route| matches!(route, Route::Hosts(hosts) if hosts.hop.wants_tls());
        self.smart_hop.wants_tls() || self.routes.iter().any(of_route)
    }

    /// Has the files of logins read, each as often as it is named; what is wrong is told by `read` itself.
    pub fn read_logins(&mut self, mut read: impl FnMut(&str) -> Option<Arc<Login>>) {
        for route in &mut self.routes {
            let Route::Hosts(hosts) = route else { continue };
            if let Some(file) = hosts.hop.auth.clone() {
                Arc::make_mut(&mut hosts.hop).login = read(&file);
            }
        }
    }

    fn next(&self) -> u32 {
        u32::try_from(self.routes.len()).expect("limits.rs bounds the file")
    }

    /// The name of the site of an LMTP server.
    pub fn lmtp_site(server: &LmtpServer) -> String {
        match server {
            LmtpServer::Tcp(address) => format!("{LMTP}{address}"),
            LmtpServer::Unix(path) => format!("{LMTP}{path}"),
        }
    }

    /// The LMTP server whose site has that name.
    pub fn lmtp_server(site: &str) -> Option<LmtpServer> {
        match Target::parse(Some(site).filter(|site| site.starts_with(LMTP))?).ok()? {
            Target::Lmtp(server) => Some(server),
            Target::Maildir(_) => None,
        }
    }

    /// Reads a routes file.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its line.
    pub fn parse(file: &str, text: &str) -> Result<RouteTable, Vec<Problem>> {
        let mut reader = Reader::new(file, 0, text);
        let mut table = RouteTable::default();
        if text.len() as u64 > ROUTES_FILE_BYTES {
            reader.wrong(0, "", format!("is longer than {ROUTES_FILE_BYTES} octets"));
        } else if let Some(keys) = reader.parse() {
            let root = Table::root(keys.get_ref());
            reader.only(&root, &[&["route"]]);
            for block in reader.tables(&root, "route") {
                table.block(&mut reader, &block);
            }
        }
        if reader.problems.is_empty() { Ok(table) } else { Err(reader.problems) }
    }

    fn block(&mut self, reader: &mut Reader<'_>, block: &Table<'_>) {
        reader.only(block, &[&["domains", "to", "hosts", "reply"], HOP]);
        if !block.keys.contains_key("domains") {
            reader.wrong(block.at, block.path(), "has no domains; add domains = [\"example.com\", \"*.example.org\"]");
        }
        let index = self.next();
        for (pattern, offset) in reader.texts(block, "domains") {
            if let Err(why) = self.pattern(pattern, index) {
                reader.wrong(offset, &block.key("domains"), why);
            }
        }
        if self.len() > ROUTE_DOMAINS {
            reader.wrong(block.at, block.path(), format!("there are more than {ROUTE_DOMAINS} domains in all"));
        }
        let has = |key: &str| block.keys.contains_key(key);
        if has("to") == has("hosts") {
            let why = "where to? Add to = \"mx\", \"smart_host:HOST:PORT\", \"lmtp:ADDRESS:PORT\", \"discard\", \"reject\" or \
                       \"hold\", or hosts = [...], and not both";
            reader.wrong(block.at, block.path(), why);
        }
        let reply = reader.value(block, "reply", |value| text(value).and_then(check_reply)).map(str::to_owned);
        let told = HOP.iter().find(|key| has(key));
        let route = match has("hosts") {
            true => hosts(reader, block).map(|hosts| Route::Hosts(Hosts::new(hosts, Arc::default()))),
            false => reader.value(block, "to", |value| target(text(value)?)),
        };
        let route = match (route, told) {
            (Some(Route::Hosts(named)), _) => {
                hop(reader, block, &named).map(|hop| Route::Hosts(Hosts::new(named.hosts, Arc::new(hop))))
            }
            (Some(_), Some(key)) => {
                let why = "is for to = \"smart_host:...\" and hosts only; take it out";
                return reader.wrong(block.place_of(key), &block.key(key), why);
            }
            (route, _) => route,
        };
        let route = match (route, reply) {
            (Some(Route::Reject(default)), reply) => Route::Reject(reply.map_or(default, Into::into)),
            (Some(_), Some(_)) => {
                let why = "belongs to to = \"reject\" only; take it out";
                return reader.wrong(block.place_of("reply"), &block.key("reply"), why);
            }
            (Some(route), None) => route,
            // It is told already. The domains keep their place.
            (None, _) => Route::Mx,
        };
        self.routes.push(route);
    }

    fn pattern(&mut self, pattern: &str, index: u32) -> Result<(), String> {
        let name = pattern.strip_suffix('.').unwrap_or(pattern).to_ascii_lowercase();
        if name == "*" {
            return match self.any.replace(index) {
                None => Ok(()),
                Some(_) => Err("\"*\" stands there twice".to_owned()),
            };
        }
        let (names, labels) = match name.strip_prefix("*.") {
            Some(below) => (&mut self.below, below),
            None => (&mut self.exact, name.as_str()),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        let is_label = |label: &str| (1..=LABEL_BYTES).contains(&label.len()) && label.bytes().all(plain);
        if labels.len() > DOMAIN_BYTES || !labels.split('.').all(is_label) {
            return Err(format!(
                "\"{pattern}\" is neither a domain (\"example.com\"), nor all below one (\"*.example.com\"), nor \"*\"; write an \
                 international name in its xn-- form"
            ));
        }
        match names.insert(labels.into(), index) {
            None => Ok(()),
            Some(_) => Err(format!("\"{name}\" stands there twice; take one of them out")),
        }
    }
}

/// The value of `to`.
fn target(to: &str) -> Result<Route, String> {
    Ok(match to {
        "mx" => Route::Mx,
        "discard" => Route::Discard,
        "hold" => Route::Hold,
        "reject" => Route::Reject("Mail for this domain is not taken here".into()),
        _ if to.starts_with(LMTP) => match Target::parse(to)? {
            Target::Lmtp(server) => Route::Lmtp(server),
            Target::Maildir(_) => unreachable!("it begins otherwise"),
        },
        _ => match to.strip_prefix("smart_host:") {
            Some(host) => Route::Hosts(host.parse::<SmartHost>()?.into()),
            None => {
                return Err(format!(
                    "\"{to}\" is not known; write \"mx\", \"smart_host:HOST:PORT\", \"lmtp:ADDRESS:PORT\", \"discard\", \"reject\" or \
                     \"hold\""
                ));
            }
        },
    })
}

fn check_reply(reply: &str) -> Result<&str, String> {
    let printable = reply.bytes().all(|b| matches!(b, b' '..=b'~'));
    if printable && (1..=ROUTE_REPLY_BYTES).contains(&reply.len()) {
        return Ok(reply);
    }
    Err(format!("is to be 1 to {ROUTE_REPLY_BYTES} printable ASCII characters; the code (550 5.7.1) is put before it"))
}

/// What is said of a route's hosts.
const HOP: &[&str] = &["tls", "implicit_tls", "auth", "auth_without_tls"];

fn hop(reader: &mut Reader<'_>, block: &Table<'_>, hosts: &Hosts) -> Option<Hop> {
    let before = reader.problems.len();
    let tls = reader.value(block, "tls", word(&TlsLevel::ALL));
    let implied = Hop::implied(hosts.hosts.iter().map(|(host, _)| host.port()));
    let implicit_tls = reader.value(block, "implicit_tls", flag).or(implied);
    if implicit_tls.is_none() {
        let why = "some of them are at port 465, where TLS begins with the first octet, and some are not: say implicit_tls = \
                   true or false for all, or make two routes of it";
        reader.wrong(block.place_of("hosts"), &block.key("hosts"), why);
    }
    let auth = reader.value(block, "auth", |value| match text(value)? {
        path if path.starts_with('/') => Ok(Box::<str>::from(path)),
        path => Err(format!("\"{path}\" is no absolute path; write auth = \"/etc/ringpost/relay.login\"")),
    });
    let auth_without_tls = reader.value(block, "auth_without_tls", flag).unwrap_or(false);
    let hop = Hop { tls, implicit_tls: implicit_tls.unwrap_or(false), auth, login: None, auth_without_tls };
    if let Some(why) = hop.fault().filter(|_| reader.problems.len() == before) {
        reader.wrong(block.at, block.path(), why);
    }
    (reader.problems.len() == before).then_some(hop)
}

/// `hosts`: each with its port, and perhaps a weight.
fn hosts(reader: &mut Reader<'_>, block: &Table<'_>) -> Option<Vec<(SmartHost, u32)>> {
    let before = reader.problems.len();
    let mut hosts: Vec<(SmartHost, u32)> = Vec::new();
    for entry in reader.tables(block, "hosts") {
        reader.only(&entry, &[&["host", "weight"]]);
        if !entry.keys.contains_key("host") {
            reader.wrong(entry.at, entry.path(), "names no host; write { host = \"mx.example.net:25\", weight = 3 }");
        }
        let host = reader.value(&entry, "host", |value| Ok(text(value)?.parse::<SmartHost>()?));
        let most = u32::try_from(DNS_MX_HOSTS).expect("a small constant");
        let weight = reader.value(&entry, "weight", count(1..=most)).unwrap_or(1);
        if let Some(host) = host {
            if hosts.iter().any(|(other, _)| *other == host) {
                reader.wrong(entry.place_of("host"), &entry.key("host"), format!("{host} stands there twice"));
            }
            hosts.push((host, weight));
        }
    }
    let sum: u32 = hosts.iter().map(|(_, weight)| weight).sum();
    if sum as usize > DNS_MX_HOSTS {
        let why = format!("the weights are {sum} together; at most {DNS_MX_HOSTS} are allowed");
        reader.wrong(block.place_of("hosts"), &block.key("hosts"), why);
    }
    if hosts.is_empty() && reader.problems.len() == before {
        reader.wrong(block.place_of("hosts"), &block.key("hosts"), "names no host");
    }
    (reader.problems.len() == before).then_some(hosts)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const SAMPLE: &str = r#"
[[route]]
domains = ["exact.example", "*.below.example"]
to = "smart_host:Relay.example.net:587"

[[route]]
domains = ["deep.below.example", "*.Deep.below.example"]
hosts = [{ host = "a.example.net:2525", weight = 3 }, { host = "[2001:db8::1]:25" }]

[[route]]
domains = ["lists.example"]
to = "lmtp:127.0.0.1:24"

[[route]]
domains = ["no.example"]
to = "reject"
reply = "Not to them"

[[route]]
domains = ["test.invalid"]
to = "discard"

[[route]]
domains = ["later.example"]
to = "hold"

[[route]]
domains = ["*.mx.below.example"]
to = "mx"
"#;

    fn told(text: &str) -> String {
        RouteTable::parse("r.toml", text).unwrap_err().iter().map(|problem| format!("{problem}\n")).collect()
    }

    #[test]
    fn the_most_specific_pattern_has_a_domain() {
        let table = RouteTable::parse("r.toml", SAMPLE).unwrap();
        let site = |domain: &str| match table.find(domain) {
            Some(Route::Hosts(hosts)) => hosts.site().to_owned(),
            other => format!("{other:?}"),
        };
        let relay = "relay.example.net:587";
        assert_eq!([site("exact.example"), site("a.below.example"), site("a.b.below.example")], [relay; 3]);
        let two = "a.example.net:2525 [2001:db8::1]:25";
        assert_eq!([site("deep.below.example"), site("x.deep.below.example")], [two; 2]);
        assert_eq!(table.find("a.mx.below.example"), Some(&Route::Mx));
        for none in ["below.example", "x.exact.example", "notbelow.example", "example", ""] {
            assert_eq!(table.find(none), None, "{none}");
        }
        let Some(Route::Lmtp(server)) = table.find("lists.example") else { panic!("LMTP") };
        let name = RouteTable::lmtp_site(server);
        assert_eq!((&*name, RouteTable::lmtp_server(&name).as_ref()), ("lmtp:127.0.0.1:24", Some(server)));
        assert_eq!(RouteTable::lmtp_server("mx.example.net"), None);
        assert_eq!(table.find("no.example"), Some(&Route::Reject("Not to them".into())));
        assert_eq!(
            (table.find("test.invalid"), table.find("later.example")),
            (Some(&Route::Discard), Some(&Route::Hold))
        );
        assert!(table.rejects() && table.len() == 9 && RouteTable::default().find("a.example").is_none());
        let all = table.or_smart_host("smart.example:25".parse().unwrap());
        assert!(
            matches!(all.find("elsewhere.example"), Some(Route::Hosts(hosts)) if hosts.site() == "smart.example:25")
        );
        assert_eq!(all.find("later.example"), Some(&Route::Hold));
    }

    #[test]
    fn everything_wrong_is_told_with_its_line_and_what_to_do() {
        for (text, expected) in [
            ("[[routes]]\n", "r.toml:1:3: routes: is not known; allowed are route"),
            ("[[route]]\nto = \"mx\"", "r.toml:1:1: route: has no domains; add domains ="),
            ("[[route]]\ndomains = [\"a.example\"]", "where to? Add to = \"mx\""),
            ("[[route]]\ndomains = [\"a.example\"]\nto = \"mx\"\nhosts = []", "and not both"),
            ("[[route]]\ndomains = [\"a.example\"]\nto = \"smarthost:x:25\"", "\"smarthost:x:25\" is not known; write"),
            (
                "[[route]]\ndomains = [\"a.example\"]\nto = \"smart_host:x\"",
                "r.toml:3:6: route.to: a smart host is given as",
            ),
            ("[[route]]\ndomains = [\"a.example\"]\nto = \"lmtp:localhost:24\"", "an LMTP server is ADDRESS:PORT"),
            ("[[route]]\ndomains = [\"a.*\"]\nto = \"mx\"", "r.toml:2:12: route.domains: \"a.*\" is neither a domain"),
            (
                "[[route]]\ndomains = [\"*\",\n\"*\"]\nto = \"mx\"",
                "r.toml:3:1: route.domains: \"*\" stands there twice",
            ),
            ("[[route]]\ndomains = [\"A.example\",\n\"a.example.\"]\nto = \"mx\"", "\"a.example\" stands there twice"),
            ("[[route]]\ndomains = [\"a.example\"]\nto = \"mx\"\nreply = \"x\"", "belongs to to = \"reject\" only"),
            ("[[route]]\ndomains = [\"a.example\"]\nto = \"reject\"\nreply = \"a\\r\\nb\"", "printable ASCII"),
            ("[[route]]\ndomains = [\"a.example\"]\nhosts = []", "names no host"),
            ("[[route]]\ndomains = [\"a.example\"]\nhosts = [{ weight = 2 }]", "names no host; write { host"),
            ("[[route]]\ndomains = [\"a.example\"]\nhosts = [{ host = \"a:25\", weight = 17 }]", "allowed are 1 to 16"),
            (
                "[[route]]\ndomains = [\"a.example\"]\nhosts = [{ host = \"a:25\", weight = 9 }, { host = \"b:25\", weight = 9 }]",
                "the weights are 18 together",
            ),
            (
                "[[route]]\ndomains = [\"a.example\"]\nhosts = [{ host = \"a:25\" }, { host = \"A:25\" }]",
                "a:25 stands there twice",
            ),
        ] {
            assert!(told(text).contains(expected), "{text}\n  gave     {}\n  expected {expected}", told(text));
        }
    }

    /// The sample of docs/routes.md; the first is of ringpost.toml, the last too.
    #[test]
    fn the_documents_sample_is_a_table() {
        let text = include_str!("../../docs/routes.md");
        let block = text.split("```toml\n").nth(2).and_then(|rest| rest.split("```").next()).unwrap();
        let table = RouteTable::parse("docs/routes.md", block).unwrap();
        assert_eq!((table.len(), table.routes.len()), (8, 7));
        assert!(matches!(table.find("x.example.org"), Some(Route::Hosts(_))));
        assert_eq!(table.find("direct.example.org"), Some(&Route::Mx));
    }
}
