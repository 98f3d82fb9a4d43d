//! From what the file says to what holds: defaults, ranges, and the relations between keys. All problems are collected,
//! so that one run of `ringpost check` shows them all.

use super::raw::{Raw, RawDelivery, RawDns, RawLog, RawRetry, RawSmtp, RawSpool};
use super::source::{Index, Problem, place};
use super::{
    Config, Delivery, Dns, Events, Host, Level, Log, Machine, Relay, Retry, Size, SmartHost, Smtp, Span, Spool,
};
use crate::dns::ResolvConf;
use crate::limits;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const LONGEST: Duration = limits::CONFIG_DURATION_MAX;

pub(super) struct Resolver<'a> {
    origin: &'a str,
    text: &'a str,
    index: &'a Index,
    machine: &'a Machine,
    pub(super) errors: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

impl<'a> Resolver<'a> {
    pub(super) fn new(origin: &'a str, text: &'a str, index: &'a Index, machine: &'a Machine) -> Self {
        Resolver { origin, text, index, machine, errors: Vec::new(), warnings: Vec::new() }
    }

    /// Meaningful only if `errors` is empty afterwards: a value that is wrong is replaced by its default.
    pub(super) fn resolve(&mut self, raw: Raw) -> Config {
        let hostname = self.hostname(raw.hostname);
        let (tls, accounts) = (self.tls(raw.tls), self.accounts(raw.accounts));
        let config = Config {
            shards: self.shards(raw.shards),
            drain_timeout: self.span(
                "drain_timeout",
                raw.drain_timeout,
                limits::DRAIN_TIMEOUT_DEFAULT,
                SECOND..=Duration::from_secs(3600),
            ),
            spool: self.spool(raw.spool),
            listeners: self.listeners(raw.listener, &tls, accounts.is_some()),
            clients: self.clients(&raw.clients),
            tls,
            accounts,
            local: self.local(raw.local),
            shaping: self.shaping(raw.shaping.files),
            campaign_header: self.campaign_header(raw.shaping.campaign_header),
            relay: self.relay(raw.relay.from_networks),
            smtp: self.smtp(&raw.smtp),
            dns: self.dns(raw.dns),
            sources: self.sources(raw.source, raw.pool, raw.pools, raw.delivery.ipv6.unwrap_or(true)),
            delivery: self.delivery(raw.delivery, &hostname),
            tls_reports: self.tls_reports(raw.tls_reports),
            admin: self.admin(raw.admin.address),
            log: self.log(raw.log),
            hostname,
        };
        if !config.sources.list.is_empty() && !config.delivery.source_addresses.is_empty() {
            self.error("delivery.source_addresses", "with [[source]] there are no addresses beside: take it out");
        }
        if let Some(admin) = config.admin
            && config.listeners.iter().any(|listener| listener.address == admin)
        {
            self.error("admin.address", format!("{admin} is a listener's address too; give it one of its own"));
        }
        config
    }

    fn problem(&self, key: &str, message: String) -> Problem {
        Problem {
            file: self.origin.to_owned(),
            place: self.index.locate(key).map(|offset| place(self.text, offset)),
            key: key.to_owned(),
            message,
        }
    }

    pub(super) fn error(&mut self, key: &str, message: impl Into<String>) {
        let problem = self.problem(key, message.into());
        self.errors.push(problem);
    }

    pub(super) fn warn(&mut self, key: &str, message: impl Into<String>) {
        let problem = self.problem(key, message.into());
        self.warnings.push(problem);
    }

    pub(super) fn span(
        &mut self,
        key: &str,
        given: Option<Span>,
        default: Duration,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Duration {
        let value = given.map_or(default, |span| span.0);
        if !range.contains(&value) {
            let (low, high) = (Span(*range.start()), Span(*range.end()));
            self.error(key, format!("\"{}\" is out of range; allowed are \"{low}\" to \"{high}\"", Span(value)));
        }
        value
    }

    fn integer(&mut self, key: &str, given: Option<i64>, default: i64, range: std::ops::RangeInclusive<i64>) -> i64 {
        let value = given.unwrap_or(default);
        if range.contains(&value) {
            return value;
        }
        self.error(key, format!("{value} is out of range; allowed are {} to {}", range.start(), range.end()));
        default
    }

    pub(super) fn count(&mut self, key: &str, given: Option<i64>, default: u32, low: u32, high: u32) -> u32 {
        let value = self.integer(key, given, i64::from(default), i64::from(low)..=i64::from(high));
        u32::try_from(value).expect("the range was checked")
    }

    fn float(&mut self, key: &str, given: Option<f64>, default: f64, range: std::ops::RangeInclusive<f64>) -> f64 {
        let value = given.unwrap_or(default);
        if range.contains(&value) {
            return value;
        }
        self.error(key, format!("{value} is out of range; allowed are {:?} to {:?}", range.start(), range.end()));
        default
    }

    pub(super) fn path(&mut self, key: &str, given: &str) -> PathBuf {
        if given.is_empty() {
            self.error(key, "an empty path; give a directory or file name");
        }
        let path = Path::new(given);
        self.machine.directory.join(path.strip_prefix(".").unwrap_or(path))
    }

    fn hostname(&mut self, given: Option<String>) -> String {
        if let Some(name) = given {
            match domain(&name) {
                Err(why) => self.error("hostname", format!("\"{name}\" is not a host name: {why}")),
                Ok(()) if !name.contains('.') => {
                    let why = "is not fully qualified; many receivers refuse such a name in EHLO";
                    self.warn("hostname", format!("\"{name}\" {why}"));
                }
                Ok(()) => {}
            }
            return name;
        }
        let (name, why) = match &self.machine.hostname {
            Some(name) if domain(name).is_err() => {
                ("localhost".to_owned(), "the machine's host name cannot be used in SMTP")
            }
            Some(name) if name.contains('.') => return name.clone(),
            Some(name) => (name.clone(), "the machine's host name is not fully qualified"),
            None => ("localhost".to_owned(), "the machine has no host name"),
        };
        self.warn("hostname", format!("{why}: using \"{name}\"; set hostname to the name your address resolves to"));
        name
    }

    fn shards(&mut self, given: Option<i64>) -> usize {
        let most = i64::try_from(limits::SHARDS).expect("limits.rs bounds it to 10 bits");
        let value = usize::try_from(self.integer("shards", given, 0, 0..=most)).expect("the range was checked");
        let cores = self.machine.cores.clamp(1, limits::SHARDS);
        if value > cores {
            self.warn("shards", format!("{value} shards on {cores} usable cores: they will take turns"));
        }
        if value == 0 { cores } else { value }
    }

    fn spool(&mut self, raw: RawSpool) -> Spool {
        let path = self.path("spool.path", raw.path.as_deref().unwrap_or("ringpost-spool"));
        if raw.path.is_some_and(|given| Path::new(&given).is_relative()) {
            let here = path.display().to_string();
            self.warn("spool.path", format!("relative: it means {here} because Ringpost was started there; started elsewhere, the mail would not be found"));
        }
        Spool { path }
    }

    pub(super) fn address(&mut self, key: &str, text: &str) -> Option<SocketAddr> {
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => self.error(key, format!("\"{text}\": port 0 means none; allowed are 1 to 65535")),
            Ok(address) => return Some(address),
            Err(_) => self.error(
                key,
                format!("\"{text}\" is not an address and port; write \"192.0.2.1:25\", \"0.0.0.0:25\" or \"[::]:25\" (no names)"),
            ),
        }
        None
    }

    fn shaping(&mut self, given: Option<Vec<String>>) -> Vec<PathBuf> {
        let given = given.unwrap_or_default();
        if given.len() > limits::SHAPING_FILES {
            let most = limits::SHAPING_FILES;
            self.error("shaping.files", format!("{} files; at most {most} are allowed", given.len()));
        }
        let mut files = Vec::new();
        for (i, text) in given.iter().enumerate() {
            let key = format!("shaping.files[{i}]");
            let path = self.path(&key, text);
            if files.contains(&path) {
                self.error(&key, format!("\"{text}\" is listed twice"));
            }
            files.push(path);
        }
        files
    }

    fn campaign_header(&mut self, given: Option<String>) -> String {
        let name = given.unwrap_or_else(|| "X-Campaign".to_owned());
        // RFC 5322 §2.2
        if name.is_empty()
            || name.len() > limits::HEADER_NAME_BYTES
            || !name.bytes().all(|b| (33..127).contains(&b) && b != b':')
        {
            self.error(
                "shaping.campaign_header",
                format!("\"{name}\" is no name of a header field; \"X-Campaign\" is one"),
            );
        }
        name
    }

    fn relay(&mut self, given: Option<Vec<String>>) -> Relay {
        let given = given.unwrap_or_else(|| vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()]);
        if given.len() > limits::RELAY_NETWORKS {
            self.error(
                "relay.from_networks",
                format!("{} networks; at most {} are allowed", given.len(), limits::RELAY_NETWORKS),
            );
        }
        if given.is_empty() {
            self.warn("relay.from_networks", "empty: nobody may relay, every recipient gets 550 5.7.1");
        }
        let mut from_networks = Vec::new();
        for (i, text) in given.iter().enumerate() {
            let key = format!("relay.from_networks[{i}]");
            match network(text) {
                Err(why) => self.error(&key, why),
                Ok(network) => {
                    let wide = match network {
                        IpNet::V4(v4) => v4.prefix_len() < 8,
                        IpNet::V6(v6) => v6.prefix_len() < 16,
                    };
                    if wide && network.prefix_len() != 0 {
                        self.warn(&key, format!("{network} is a very large part of the Internet; all of it may relay through this server"));
                    }
                    from_networks.push(network);
                }
            }
        }
        // Aggregated first: 0.0.0.0/1 and 128.0.0.0/1 together are as open as 0.0.0.0/0.
        if IpNet::aggregate(&from_networks).iter().any(|network| network.prefix_len() == 0) {
            self.error(
                "relay.from_networks",
                "open to the whole Internet: that is an open relay, abused within hours and then refused everywhere; \
                 name the networks of your own systems",
            );
        }
        Relay { from_networks }
    }

    fn smtp(&mut self, raw: &RawSmtp) -> Smtp {
        let (least, most) = limits::MESSAGE_BYTES_RANGE;
        let max_message_bytes = raw.max_message_bytes.map_or(limits::MESSAGE_BYTES_DEFAULT, |size| size.0);
        if !(least..=most).contains(&max_message_bytes) {
            self.error(
                "smtp.max_message_bytes",
                format!("{} is out of range; allowed are {} to {}", Size(max_message_bytes), Size(least), Size(most)),
            );
        }
        let recipients = u32::try_from(limits::RECIPIENTS).expect("a small constant");
        let sessions = limits::SESSIONS_PER_SHARD_DEFAULT;
        Smtp {
            max_message_bytes,
            max_recipients: self.count("smtp.max_recipients", raw.max_recipients, recipients, 1, recipients) as usize,
            max_sessions_per_shard: self.count(
                "smtp.max_sessions_per_shard",
                raw.max_sessions_per_shard,
                sessions,
                1,
                1_000_000,
            ) as usize,
            command_timeout: self.span(
                "smtp.command_timeout",
                raw.command_timeout,
                limits::SERVER_COMMAND_TIMEOUT,
                SECOND..=Duration::from_secs(3600),
            ),
            data_timeout: self.span(
                "smtp.data_timeout",
                raw.data_timeout,
                limits::SERVER_DATA_TIMEOUT,
                SECOND..=Duration::from_secs(3600),
            ),
            error_delay: self.span(
                "smtp.error_delay",
                raw.error_delay,
                SECOND,
                Duration::ZERO..=limits::ERROR_DELAY_MAX,
            ),
            add_sender: self.one_of("smtp.submission_from", raw.submission_from.as_deref(), ["require", "add_sender"]),
            vrfy: self.one_of("smtp.vrfy", raw.vrfy.as_deref(), ["off", "local"]),
            expn: self.one_of("smtp.expn", raw.expn.as_deref(), ["off", "trusted"]),
            legacy_send: self.one_of("smtp.legacy_send", raw.legacy_send.as_deref(), ["off", "mail"]),
        }
    }

    /// Whether the second of two words is given; the first is the default.
    fn one_of(&mut self, key: &str, given: Option<&str>, words: [&str; 2]) -> bool {
        let given = given.unwrap_or(words[0]);
        if !words.contains(&given) {
            self.error(key, format!("\"{given}\" is not known; allowed are \"{}\" and \"{}\"", words[0], words[1]));
        }
        given == words[1]
    }

    fn dns(&mut self, raw: RawDns) -> Dns {
        let servers = match raw.servers {
            Some(given) if !given.is_empty() => self.servers(&given),
            _ => self.resolv_conf(),
        };
        let (least, most) = limits::DNS_TTL_RANGE;
        let ttl = (
            self.span("dns.min_ttl", raw.min_ttl, limits::DNS_TTL_MIN, least..=limits::DNS_NEGATIVE_TTL_MAX),
            self.span("dns.max_ttl", raw.max_ttl, limits::DNS_TTL_MAX, least..=most),
        );
        if ttl.0 > ttl.1 {
            self.error("dns.min_ttl", "is longer than dns.max_ttl");
        }
        Dns {
            ttl: (ttl.0.min(ttl.1), ttl.1),
            serve_stale: self.span("dns.serve_stale", raw.serve_stale, limits::DNS_STALE_MAX, Duration::ZERO..=most),
            random_case: raw.random_case.unwrap_or(true),
            servers,
            validating: raw.validating.unwrap_or(false),
            timeout: self.span(
                "dns.timeout",
                raw.timeout,
                limits::DNS_TIMEOUT_DEFAULT,
                Duration::from_millis(100)..=Duration::from_secs(60),
            ),
            attempts: self.count("dns.attempts", raw.attempts, limits::DNS_ATTEMPTS_DEFAULT, 1, limits::DNS_ATTEMPTS),
        }
    }

    fn servers(&mut self, given: &[String]) -> Vec<SocketAddr> {
        if given.len() > limits::DNS_SERVERS {
            self.error("dns.servers", format!("{} servers; at most {} are allowed", given.len(), limits::DNS_SERVERS));
        }
        let mut servers = Vec::new();
        for (i, text) in given.iter().enumerate() {
            let key = format!("dns.servers[{i}]");
            match text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)).or_else(|_| text.parse()) {
                Ok(server) if server.port() != 0 && !servers.contains(&server) => servers.push(server),
                Ok(server) if server.port() != 0 => self.error(&key, format!("{server} is listed twice")),
                _ => self.error(&key, format!("\"{text}\" is not a server; write an address, \"192.0.2.53\", or with its port \"192.0.2.53:53\"")),
            }
        }
        servers
    }

    /// The `nameserver` lines of resolv.conf(5); 127.0.0.1 if there is none, as the C library does.
    fn resolv_conf(&mut self) -> Vec<SocketAddr> {
        let machine = self.machine;
        let interface = |name: &str| machine.interfaces.iter().find(|(n, _)| n == name).map(|(_, index)| *index);
        let ResolvConf { mut servers, unreadable_lines } = ResolvConf::parse(&machine.resolv_conf, interface);
        for line in unreadable_lines {
            let why = "names a server that is not used: no address, or a zone that is no interface";
            self.warn("dns.servers", format!("line {line} of /etc/resolv.conf {why}"));
        }
        if servers.is_empty() {
            servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)));
            self.warn("dns.servers", "/etc/resolv.conf names no server: using 127.0.0.1:53");
        }
        servers
    }

    fn delivery(&mut self, raw: RawDelivery, hostname: &str) -> Delivery {
        let smart_terms = self.smart_terms(&raw);
        let ehlo_name = raw.ehlo_name.unwrap_or_else(|| hostname.to_owned());
        if ehlo_name != hostname
            && let Err(why) = domain(&ehlo_name)
        {
            self.error("delivery.ehlo_name", format!("\"{ehlo_name}\" is not a host name: {why}"));
        }
        let mut source_addresses: Vec<IpAddr> = Vec::new();
        for (i, text) in raw.source_addresses.unwrap_or_default().iter().enumerate() {
            let key = format!("delivery.source_addresses[{i}]");
            match text.parse::<IpAddr>() {
                Err(_) => self.error(&key, format!("\"{text}\" is not an IP address")),
                Ok(ip) if ip.is_unspecified() || ip.is_multicast() => {
                    self.error(&key, format!("{ip} cannot be connected from"))
                }
                Ok(ip) if source_addresses.iter().any(|other| other.is_ipv4() == ip.is_ipv4()) => {
                    self.error(
                        &key,
                        "more than one address of this family; give one IPv4 and one IPv6 address at most",
                    );
                }
                Ok(ip) => source_addresses.push(ip),
            }
        }
        let mut host = |key: &str, given: Option<String>| {
            let text = given?;
            smart_host(&text).map_err(|why| self.error(key, format!("\"{text}\": {why}"))).ok()
        };
        let smart_host = host("delivery.smart_host", raw.smart_host);
        let fallback_relay = host("delivery.fallback_relay", raw.fallback_relay);
        let routes = raw.routes.map(|path| self.path("delivery.routes", &path));
        if fallback_relay.is_some() && smart_host.is_some() && routes.is_none() {
            let why = "would never be used: all mail goes to smart_host, which waits for that. Take one of them out";
            self.error("delivery.fallback_relay", why);
        }
        Delivery {
            port: u16::try_from(self.integer("delivery.port", raw.port, 25, 1..=65535)).expect("the range was checked"),
            smart_host,
            smart_terms,
            routes,
            fallback_relay,
            fallback_after: self.span(
                "delivery.fallback_after",
                raw.fallback_after,
                limits::FALLBACK_AFTER_DEFAULT,
                SECOND..=LONGEST,
            ),
            ehlo_name,
            source_addresses,
            ipv6: raw.ipv6.unwrap_or(true),
            tls: self.tls_level("delivery.tls", raw.tls.as_deref()),
            mta_sts: raw.mta_sts.unwrap_or(true),
            connections_per_destination: self.count(
                "delivery.connections_per_destination",
                raw.connections_per_destination,
                limits::CONNECTIONS_PER_DESTINATION_DEFAULT,
                1,
                10_000,
            ),
            bounces_per_hour: self.count(
                "delivery.bounces_per_hour",
                raw.bounces_per_hour,
                limits::BOUNCES_PER_HOUR_DEFAULT,
                0,
                10_000_000,
            ),
            bounces_percent: self.count(
                "delivery.bounces_percent",
                raw.bounces_percent,
                limits::BOUNCES_PERCENT_DEFAULT,
                0,
                100,
            ),
            lane_rate: self.count("delivery.lane_rate", raw.lane_rate, limits::LANE_RATE_DEFAULT, 10, 1_000_000),
            messages_in_flight: self.count(
                "delivery.messages_in_flight",
                raw.messages_in_flight,
                limits::FLIGHT_TRANSACTIONS as u32,
                1,
                limits::FLIGHT_TRANSACTIONS as u32,
            ),
            messages_per_connection: self.count(
                "delivery.messages_per_connection",
                raw.messages_per_connection,
                limits::MESSAGES_PER_CONNECTION_DEFAULT,
                1,
                1_000_000,
            ),
            idle_timeout: self.span(
                "delivery.idle_timeout",
                raw.idle_timeout,
                limits::IDLE_TIMEOUT_DEFAULT,
                Duration::ZERO..=Duration::from_secs(300),
            ),
            connect_timeout: self.span(
                "delivery.connect_timeout",
                raw.connect_timeout,
                limits::CONNECT_TIMEOUT_DEFAULT,
                SECOND..=Duration::from_secs(300),
            ),
            retry: self.retry(&raw.retry),
        }
    }

    fn retry(&mut self, raw: &RawRetry) -> Retry {
        let retry = Retry {
            first: self.span("delivery.retry.first", raw.first, limits::RETRY_FIRST_DEFAULT, SECOND..=LONGEST),
            factor: self.float("delivery.retry.factor", raw.factor, limits::RETRY_FACTOR_DEFAULT, 1.0..=10.0),
            max: self.span("delivery.retry.max", raw.max, limits::RETRY_MAX_DEFAULT, SECOND..=LONGEST),
            give_up: self.span("delivery.retry.give_up", raw.give_up, limits::RETRY_GIVE_UP_DEFAULT, SECOND..=LONGEST),
            jitter: self.float("delivery.retry.jitter", raw.jitter, limits::RETRY_JITTER_DEFAULT, 0.0..=0.5),
        };
        let show = |d| Span(d).to_string();
        if retry.first > retry.max {
            let (first, max) = (show(retry.first), show(retry.max));
            self.error(
                "delivery.retry.first",
                format!("first = \"{first}\" is longer than max = \"{max}\"; it must be first <= max <= give_up"),
            );
        }
        if retry.max > retry.give_up {
            let (max, give_up) = (show(retry.max), show(retry.give_up));
            self.error(
                "delivery.retry.max",
                format!("max = \"{max}\" is longer than give_up = \"{give_up}\"; it must be first <= max <= give_up"),
            );
        }
        retry
    }

    fn admin(&mut self, given: Option<String>) -> Option<SocketAddr> {
        let address = given.and_then(|text| self.address("admin.address", &text))?;
        if !address.ip().is_loopback() {
            self.warn(
                "admin.address",
                format!("{address} is not loopback, and the admin pages ask for no password: let a firewall guard it"),
            );
        }
        Some(address)
    }

    fn log(&mut self, raw: RawLog) -> Log {
        let level = match raw.level.as_deref().unwrap_or("info") {
            "error" => Level::Error,
            "warn" => Level::Warn,
            "info" => Level::Info,
            "debug" => Level::Debug,
            other => {
                self.error(
                    "log.level",
                    format!("unknown level \"{other}\"; allowed are \"error\", \"warn\", \"info\", \"debug\""),
                );
                Level::Info
            }
        };
        let events = match raw.events.as_deref().unwrap_or("ringpost-events.jsonl") {
            "off" => Events::Off,
            "-" => Events::Stdout,
            path => Events::File(self.path("log.events", path)),
        };
        let least = limits::EVENT_LOG_ROTATE_BYTES_LEAST;
        let rotate_bytes = raw.rotate_bytes.map_or(limits::EVENT_LOG_ROTATE_BYTES_DEFAULT, |size| size.0);
        if rotate_bytes < least || rotate_bytes > 1 << 40 {
            self.error(
                "log.rotate_bytes",
                format!("{} is out of range; allowed are {} to {}", Size(rotate_bytes), Size(least), Size(1 << 40)),
            );
        }
        Log {
            level,
            events,
            rotate_bytes,
            keep: self.count("log.keep", raw.keep, limits::EVENT_LOG_KEEP_DEFAULT, 1, 1000),
        }
    }
}

/// Whether `name` can stand in EHLO and in headers: labels of letters, digits and inner hyphens (RFC 5321 §2.3.5).
pub(super) fn domain(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > limits::DOMAIN_BYTES {
        return Err("it must have 1 to 255 characters");
    }
    if name.parse::<IpAddr>().is_ok() {
        return Err("an address is not a name");
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > limits::LABEL_BYTES {
            return Err("each part between dots must have 1 to 63 characters (and no dot at the end)");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Err("no part may begin or end with a hyphen");
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            return Err("only letters, digits, hyphens and dots are allowed (an international name in its xn-- form)");
        }
    }
    Ok(())
}

pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let network = match text.parse::<IpNet>() {
        Ok(network) => network,
        Err(_) => match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => {
                return Err(format!(
                    "\"{text}\" is not a network; write \"192.0.2.0/24\", \"2001:db8::/32\" or one address"
                ));
            }
        },
    };
    if network.trunc() != network {
        return Err(format!(
            "\"{text}\" is an address inside a network; write \"{}\" for the network or \"{}\" for the address",
            network.trunc(),
            network.addr()
        ));
    }
    if let IpNet::V6(v6) = network
        && v6.addr().to_ipv4_mapped().is_some()
    {
        return Err(format!("\"{text}\" is an IPv4 network in IPv6 clothes and would never match; write it as IPv4"));
    }
    Ok(network)
}

fn smart_host(text: &str) -> Result<SmartHost, String> {
    const FORM: &str = "write \"host:port\", like \"smtp.example.net:587\", \"192.0.2.25:25\" or \"[2001:db8::25]:25\"";
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err("port 0 means none; allowed are 1 to 65535".to_owned()),
            port => Ok(SmartHost { host: Host::Address(address.ip()), port }),
        };
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| format!("the port is missing; {FORM}"))?;
    if host.contains(':') {
        return Err(format!("an IPv6 address needs brackets; {FORM}"));
    }
    let port = port.parse::<u16>().ok().filter(|port| *port != 0).ok_or("the port must be 1 to 65535")?;
    domain(host).map_err(|why| format!("{why}; {FORM}"))?;
    Ok(SmartHost { host: Host::Name(host.to_ascii_lowercase()), port })
}
