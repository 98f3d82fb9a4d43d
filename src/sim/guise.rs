//! PURE. How a client of the simulated world comes in: by which listener, with TLS or without, as whom, with which parameters,
//! and whether its letters go by DATA or in chunks.
//!
//! Input: a seed's choices. Outputs: a [`Guise`] for a session, the listeners and tables of a relay that has such clients,
//! what a client is told to say. It refuses to know what the relay makes of it: that the oracle judges.

use super::asks::Asks;
use super::client::Letter;
use super::scenario::{Scenario, Way};
use crate::accounts::{Accounts, Secret};
use crate::config::{Demand, Listener, ListenerKind, Local, Networks};
use crate::local::{Block, LocalTable, Target};
use crate::route::RouteTable;
use crate::rt::sim::Rng;
use crate::rt::sim::rng::mix;
use crate::rt::tls::Acceptor;
use crate::rt::tls::client::Authorities;
use crate::shaping::{Limits, Shaping};
use crate::shard::Tables;
use crate::sim::sources::Plan;
use crate::smtp::sasl::{Password, ScramKeys};
use base64::prelude::{BASE64_STANDARD, Engine};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The listener of port 25: TLS and AUTH are offered.
pub const RELAY: usize = 0;
/// Of port 587: both are required.
pub const SUBMISSION: usize = 1;
/// Of port 465: TLS comes first, AUTH is required.
pub const SUBMISSIONS: usize = 2;

/// Who a client says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Login {
    /// May send as anybody of sender.test, and as nobody.
    Joe,
    /// May send as s0@sender.test only.
    Ann,
    /// Does not know the password.
    Wrong,
    /// Has no account.
    Nobody,
}

impl Login {
    /// The whole of AUTH in one line.
    pub fn command(self) -> String {
        let (name, password) = match self {
            Login::Joe => ("joe", "pencil"),
            Login::Ann => ("ann", "pencil"),
            Login::Wrong => ("joe", "pencil "),
            Login::Nobody => ("tim", "pencil"),
        };
        format!("AUTH PLAIN {}\r\n", BASE64_STANDARD.encode(format!("\0{name}\0{password}")))
    }

    /// Whether there is such an account, and this is its password.
    pub fn is_right(self) -> bool {
        matches!(self, Login::Joe | Login::Ann)
    }

    /// Whether the account may use this reverse-path.
    pub fn may_send_as(self, sender: &str) -> bool {
        match self {
            Login::Joe => sender.is_empty() || sender.ends_with("@sender.test"),
            Login::Ann => sender == "s0@sender.test",
            Login::Wrong | Login::Nobody => false,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guise {
    /// The listener it connects to; at [`SUBMISSIONS`] it begins with TLS.
    pub listener: usize,
    /// It says STARTTLS.
    pub starttls: bool,
    /// Somebody on the way adds a command in plain text behind that.
    pub injects: bool,
    /// It says AUTH.
    pub login: Option<Login>,
    /// Its letters go by BDAT, in chunks of that many octets at the most.
    pub chunk: Option<usize>,
    /// Of every other letter it does not say that a chunk is the last, but RSET, if it does not pipeline.
    pub gives_up: bool,
    /// What its letters ask for.
    pub asks: Asks,
    /// It was drawn for a relay that has these listeners.
    pub drawn: bool,
}

impl Guise {
    /// Draws one for a relay that has the listeners of [`listeners`].
    pub fn draw(rng: &mut Rng) -> Guise {
        let listener = *rng.pick(&[RELAY, RELAY, SUBMISSION, SUBMISSIONS]);
        // Most do what they must.
        let starttls = listener == SUBMISSION && !rng.one_in(8) || listener == RELAY && rng.one_in(2);
        let asks = listener != RELAY && !rng.one_in(8) || rng.one_in(3);
        let login =
            [Login::Joe, Login::Joe, Login::Joe, Login::Joe, Login::Ann, Login::Ann, Login::Wrong, Login::Nobody];
        let chunk = rng.one_in(2).then(|| *rng.pick(&[1, 10, 200, 3000, 100_000]));
        let secure = starttls || listener == SUBMISSIONS;
        Guise {
            listener,
            starttls,
            injects: starttls && rng.one_in(6),
            login: asks.then(|| *rng.pick(&login)),
            chunk,
            gives_up: rng.one_in(3),
            asks: Asks::draw(rng, listener != RELAY, secure, chunk.is_some()),
            drawn: true,
        }
    }

    /// The fields that a letter needs to be taken as it is, where submissions are mended (RFC 6409 §8): From, which each of the
    /// accounts may write, Date, Message-ID.
    pub fn header(&self, mark: u32) -> String {
        if self.listener == RELAY {
            return String::new();
        }
        let date = "Wed, 18 Nov 2026 00:00:00 +0000";
        format!("From: s0@sender.test\r\nDate: {date}\r\nMessage-ID: <{mark}@sender.test>\r\n")
    }

    /// It begins with TLS.
    pub fn is_implicit(&self) -> bool {
        self.listener == SUBMISSIONS
    }
}

/// How a letter was handed over, as its client knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Door {
    /// By which listener.
    pub listener: usize,
    /// From a network that may relay.
    pub near: bool,
    /// Over TLS.
    pub secure: bool,
    /// Behind AUTH that was granted.
    pub account: Option<Login>,
    /// Asking for so much.
    pub asks: Asks,
    /// Of a relay with more than one listener: it may ask more of a client.
    pub guised: bool,
}

impl Door {
    /// Whether the listener lacks something that it requires: mail must not be taken.
    pub fn is_shut(&self) -> bool {
        self.listener != RELAY && (!self.secure || self.account.is_none())
    }

    /// RFC 3848, RFC 6531 §4.3: the word behind "with" in Received.
    pub fn protocol(&self) -> String {
        let word = if self.asks.utf8 { "UTF8SMTP" } else { "ESMTP" };
        let (tls, auth) = (if self.secure { "S" } else { "" }, if self.account.is_some() { "A" } else { "" });
        format!("{word}{tls}{auth}")
    }
}

/// A letter as chunks (RFC 3030 §2), each with its command, and how many there are. Sizes are those of the letter's number,
/// but no more than some dozens: a session may make only so many errors in a row. Unless it `ends`, the last is not said to
/// be the last.
pub fn chunked(letter: &Letter, most: usize, ends: bool) -> (Vec<u8>, usize) {
    let bare = letter.bare();
    let most = most.max(bare.len() / 20);
    let (mut all, mut at, mut count) = (Vec::new(), 0, 0);
    loop {
        let drawn = mix(u64::from(letter.mark) << 32 | count as u64) as usize;
        // Half of them are large, so that there is an end.
        let size = (most / 2 + drawn % (most / 2 + 1)).max(1).min(bare.len() - at);
        let last = at + size == bare.len() && (size == 0 || drawn & 1 << 40 == 0);
        all.extend_from_slice(format!("BDAT {size}{}\r\n", if last && ends { " LAST" } else { "" }).as_bytes());
        all.extend_from_slice(&bare[at..at + size]);
        (at, count) = (at + size, count + 1);
        if last {
            return (all, count);
        }
    }
}

/// The three listeners; those of submission ask DNS, as they do by default, if the scenario has one that knows all.
pub fn listeners(scenario: &Scenario) -> Vec<Listener> {
    let verifies = scenario.verifies;
    let proxies = if scenario.proxied { vec!["127.9.0.0/16".parse().expect("a network")] } else { Vec::new() };
    let listener = |kind, port| {
        let submission = kind != ListenerKind::Relay;
        let demand = if submission { Demand::Required } else { Demand::Offered };
        Listener {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            kind,
            tls: demand,
            auth: demand,
            auth_without_tls: false,
            verify_sender_domain: verifies,
            verify_recipient_domain: verifies && submission,
            proxy_networks: Networks(proxies.clone()),
            xclient_networks: Networks::default(),
            xforward_networks: Networks::default(),
            greeting_delay: Duration::ZERO,
            strict_pipelining: false,
        }
    };
    vec![
        listener(ListenerKind::Relay, 25),
        listener(ListenerKind::Submission, 587),
        listener(ListenerKind::Submissions, 465),
    ]
}

/// What an account may send in a minute: messages, recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Of messages.
    pub messages: usize,
    /// Of recipients, all together.
    pub recipients: usize,
}

/// In worlds where accounts have limits: joe's and ann's.
pub const LIMITS: [(Login, Limit); 2] =
    [(Login::Joe, Limit { messages: 6, recipients: 15 }), (Login::Ann, Limit { messages: 2, recipients: 1000 })];

/// What the relay delivers itself.
pub fn local(scenario: &Scenario) -> Vec<Local> {
    let block = |mailboxes: IpAddr| Local {
        domains: scenario.local.iter().map(|n| scenario.destinations[*n].name.clone()).collect(),
        deliver: Target::parse(&format!("lmtp:{mailboxes}:24")).expect("a target"),
        mailboxes: None,
        aliases: None,
        subaddress: "+".to_owned(),
    };
    scenario.mailboxes().map(block).into_iter().collect()
}

/// Certificates, local domains and, if they are `known`, the accounts.
pub fn tables(scenario: &Scenario, known: bool) -> Tables {
    static SECRET: OnceLock<String> = OnceLock::new();
    let secret = SECRET.get_or_init(|| {
        let password = Password::new(b"pencil").expect("a short password");
        Secret::Scram(ScramKeys::derive(&password, &[1; 16], 4096)).encode()
    });
    let mut text = String::new();
    let accounts = [("joe", "\"@sender.test\", \"<>\""), ("ann", "\"s0@sender.test\"")];
    for ((name, from), (_, limit)) in accounts.iter().zip(LIMITS).filter(|_| known) {
        text += &format!("[[account]]\nname = \"{name}\"\nsecret = \"{secret}\"\nfrom = [{from}]\n");
        if scenario.limited {
            let Limit { messages, recipients } = limit;
            text += &format!("messages_per_minute = {messages}\nrecipients_per_minute = {recipients}\n");
        }
    }
    let accounts = Accounts::parse("accounts.toml", &text, [7; 32]).expect("a good file");
    let local = local(scenario);
    let mut blocks = Vec::new();
    for Local { domains, deliver, subaddress, .. } in &local {
        blocks.push(Block { domains, deliver: deliver.clone(), mailboxes: None, aliases: None, subaddress });
    }
    let local = LocalTable::build(&blocks).expect("one domain").table;
    Tables {
        accounts,
        tls: Some(Acceptor::simulated()),
        authorities: Some(Authorities::simulated()),
        local,
        shaping: shaping(scenario),
        routes: routes(scenario),
        ..Tables::default()
    }
}

/// The rates of the scenario, as a rule file.
pub fn shaping(scenario: &Scenario) -> Arc<Shaping> {
    let mut text = "[default]\n".to_owned();
    for (key, rate) in ["message_rate", "connection_rate"].iter().zip(scenario.rates) {
        if let Some(rate) = rate {
            text += &format!("{key} = \"{rate}\"\n");
        }
    }
    text += &scenario.sources.as_ref().map(Plan::rules).unwrap_or_default();
    let [campaigns, tenants, sites, at] = scenario.flows;
    if let Some(octets) = sites.bytes_in_flight {
        text += &format!("bytes_in_flight = {octets}\n");
    }
    let keys = |limits: &Limits| {
        let rate = limits.message_rate.map(|rate| format!("message_rate = \"{rate}\""));
        let octets = limits.bytes_in_flight.map(|octets| format!("bytes_in_flight = {octets}"));
        [limits.connections.map(|n| format!("connections = {n}")), rate, octets]
            .into_iter()
            .flatten()
            .collect::<Vec<_>>()
    };
    if campaigns != Limits::default() {
        text += &format!("[[campaign]]\nname = \"*\"\n{}\n", keys(&campaigns).join("\n"));
    }
    if tenants != Limits::default() || at != Limits::default() {
        text += &format!("[[tenant]]\nname = \"*\"\n{}\n", keys(&tenants).join("\n"));
    }
    if at != Limits::default() {
        text += &format!("at = {{ both = {{ {} }} }}\n", keys(&at).join(", "));
    }
    if scenario.provider {
        text += "[[provider]]\nname = \"both\"\nmx = [\"*.d0.test\", \"*.d1.test\"]\n";
        if let Some(first) = scenario.first_of_provider {
            text += &format!("retry = {{ first = \"{}s\" }}\n", first.as_secs());
        }
    }
    scenario.rules.iter().for_each(|rule| text += &rule.toml());
    Arc::new(Shaping::parse(&[("shaping.toml", &text)]).expect("a good file"))
}

/// The table of routes.
pub fn routes(scenario: &Scenario) -> RouteTable {
    let Some((n, way)) = scenario.route else { return RouteTable::default() };
    let to = match way {
        Way::Smart => "smart_host:smart.test:25",
        Way::Discard => "discard",
        Way::Hold => "hold",
    };
    let text = format!("[[route]]\ndomains = [{:?}]\nto = {to:?}\n", scenario.destinations[n].name);
    RouteTable::parse("routes.toml", &text).expect("a good file")
}
