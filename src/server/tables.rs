//! The tables of accounts, certificates, local domains and rules, from the files that the configuration names.
//!
//! In: a [`Config`]. Out: the [`Tables`] that all shards share, and what an operator may have overlooked; or everything that
//! is wrong, of every file. Read by the start, by a reload and by `ringpost check`, all by [`load`]. Any thread that may
//! block, never a shard's. It refuses to go on with a part of them.

use crate::accounts::file::LoadError;
use crate::accounts::{self, Accounts};
use crate::config::proxy::ProxySpeaks;
use crate::config::sources::Source;
use crate::config::{self, Config, Host};
use crate::limits;
use crate::local::{self, LocalTable};
use crate::route::{Hop, RouteTable, SmartHost};
use crate::rt::random_u64;
use crate::rt::tls::client::Authorities;
use crate::rt::tls::{self, Acceptor};
use crate::shaping::Shaping;
use crate::shard::Tables;
use crate::smtp::sasl::Login;
use crate::smtp::socks::SocksLogin;
use crate::starttls::TlsLevel;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

/// Everything that is wrong with accounts, certificates, local domains and rules, a line each, with its file and line; never
/// empty.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct TablesError(pub Vec<String>);

/// What was read.
#[derive(Debug)]
pub struct Loaded {
    /// The tables.
    pub tables: Tables,
    /// For the operator's eyes; none of them stops the start.
    pub warnings: Vec<String>,
}

/// Reads all that `config` names.
pub fn load(config: &Config) -> Result<Loaded, TablesError> {
    let mut found = Found::default();
    let accounts = found.accounts(config);
    let tls = found.certificates(config);
    let local = found.local(config);
    let shaping = Arc::new(found.shaping(config));
    let routes = found.routes(config);
    let proxy_logins = found.proxy_logins(config);
    let authorities = found.authorities(config, routes.wants_tls() || shaping.wants_tls());
    if found.errors.is_empty() {
        let tables = Tables { accounts, tls, authorities, local, shaping, routes, proxy_logins };
        Ok(Loaded { tables, warnings: found.warnings })
    } else {
        Err(TablesError(found.errors))
    }
}

#[derive(Default)]
struct Found {
    errors: Vec<String>,
    warnings: Vec<String>,
}

impl Found {
    fn accounts(&mut self, config: &Config) -> Accounts {
        let Some(path) = &config.accounts else { return Accounts::default() };
        let mut key = [0; 32];
        key.chunks_exact_mut(8).for_each(|piece| piece.copy_from_slice(&random_u64().to_le_bytes()));
        match accounts::file::load(path, key) {
            Ok(accounts) => {
                self.warnings.extend(accounts.warnings().iter().map(|warning| format!("accounts.file: {warning}")));
                return accounts;
            }
            // They begin with the file and its line.
            Err(LoadError::Wrong(problems)) => self.errors.extend(problems.iter().map(ToString::to_string)),
            Err(error) => self.errors.push(format!("accounts.file: {error}")),
        }
        Accounts::default()
    }

    fn certificates(&mut self, config: &Config) -> Option<Acceptor> {
        if config.tls.certificates.is_empty() {
            return None;
        }
        let files =
            tls::Files { certificates: config.tls.certificates.clone(), client_ca: config.tls.client_ca.clone() };
        let loaded = Acceptor::load(&files);
        loaded.map_err(|errors| self.errors.extend(errors.iter().map(|error| format!("tls: {error}")))).ok()
    }

    fn routes(&mut self, config: &Config) -> RouteTable {
        let mut table = self.route_file(config).with_smart_hop(self.smart_hop(config));
        table.read_logins(|file| self.login(file));
        match config.delivery.smart_host.as_ref().map(smart_host) {
            Some(Ok(host)) if config.delivery.routes.is_some() => table.or_smart_host(host),
            // The start tells of the other.
            _ => table,
        }
    }

    fn route_file(&mut self, config: &Config) -> RouteTable {
        let Some(path) = &config.delivery.routes else { return RouteTable::default() };
        let name = path.display().to_string();
        match read_bounded(path, limits::ROUTES_FILE_BYTES) {
            Ok(text) => {
                let parsed = RouteTable::parse(&name, &text);
                parsed
                    .map_err(|problems| self.errors.extend(problems.iter().map(ToString::to_string)))
                    .unwrap_or_default()
            }
            Err(error) => {
                self.errors.push(format!("{name}: {error}"));
                RouteTable::default()
            }
        }
    }

    fn smart_hop(&mut self, config: &Config) -> Hop {
        let (terms, Some(host)) = (&config.delivery.smart_terms, &config.delivery.smart_host) else {
            return Hop::default();
        };
        let auth: Option<Box<str>> = terms.auth.as_ref().map(|path| path.display().to_string().into());
        let hop = Hop {
            tls: terms.tls,
            implicit_tls: terms.implicit_tls.or(Hop::implied([host.port])).unwrap_or_default(),
            login: auth.as_ref().and_then(|file| self.login(file)),
            auth,
            auth_without_tls: terms.auth_without_tls,
        };
        self.errors.extend(hop.fault().map(|why| format!("delivery.smart_host_*: {why}")));
        hop
    }

    /// Name and password; whoever can read them can send as us.
    fn login(&mut self, file: &str) -> Option<Arc<Login>> {
        self.secret(Path::new(file), |text| Login::parse(text).map_err(|error| error.to_string()))
    }

    /// By the numbers of the sources.
    fn proxy_logins(&mut self, config: &Config) -> Vec<Option<Arc<SocksLogin>>> {
        let mut login = |source: &Source| match &source.proxy.as_ref()?.speaks {
            ProxySpeaks::Socks5 { auth: Some(file), .. } => {
                self.secret(file, |text| SocksLogin::parse(text).map_err(|error| error.to_string()))
            }
            _ => None,
        };
        config.sources.list.iter().map(&mut login).collect()
    }

    /// What a file says that only its owner and group may read.
    fn secret<T>(&mut self, file: &Path, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<Arc<T>> {
        let read = || {
            let mode = std::fs::metadata(file).map_err(|error| error.to_string())?.mode();
            if mode & 0o007 != 0 {
                return Err(format!("everybody may read it (mode {:o}); chmod o= it", mode & 0o7777));
            }
            let text = read_bounded(file, limits::LOGIN_FILE_BYTES).map_err(|error| error.to_string())?;
            parse(&text)
        };
        let file = file.display();
        read().map(Arc::new).map_err(|why| self.errors.push(format!("{file}: {why}"))).ok()
    }

    fn authorities(&mut self, config: &Config, of_others: bool) -> Option<Authorities> {
        if config.delivery.tls == TlsLevel::None && !of_others {
            return None;
        }
        let loaded = Authorities::load(config.tls.trust.as_deref());
        let authorities = loaded.map_err(|error| self.errors.push(format!("tls.trust: {error}"))).ok()?;
        if authorities.is_empty() {
            let missed = "this system has no file of authorities: no certificate can be verified by one";
            self.warnings.push(format!("tls.trust: {missed}"));
        }
        Some(authorities)
    }

    fn shaping(&mut self, config: &Config) -> Shaping {
        let mut texts = Vec::new();
        for path in &config.shaping {
            let name = path.display().to_string();
            match read_bounded(path, limits::SHAPING_FILE_BYTES) {
                Ok(text) => texts.push((name, text)),
                Err(error) => self.errors.push(format!("{name}: {error}")),
            }
        }
        // Also without the files that cannot be read, for the errors of the others.
        let texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let parsed = Shaping::parse(&texts);
        parsed.map_err(|problems| self.errors.extend(problems.iter().map(ToString::to_string))).unwrap_or_default()
    }

    fn local(&mut self, config: &Config) -> LocalTable {
        let mut read = |path: Option<&Path>| {
            let name = path?.display().to_string();
            let text = read_bounded(path?, limits::LOCAL_FILE_BYTES)
                .map_err(|error| self.errors.push(format!("{name}: {error}")));
            Some((name, text.ok()?))
        };
        let texts: Vec<_> = config
            .local
            .iter()
            .map(|block| [read(block.mailboxes.as_deref()), read(block.aliases.as_deref())])
            .collect();
        fn file(read: &Option<(String, String)>) -> Option<local::TextFile<'_>> {
            read.as_ref().map(|(name, text)| local::TextFile { name, text })
        }
        let blocks: Vec<local::Block<'_>> = config
            .local
            .iter()
            .zip(&texts)
            .map(|(block, [mailboxes, aliases])| local::Block {
                domains: &block.domains,
                deliver: block.deliver.clone(),
                mailboxes: file(mailboxes),
                aliases: file(aliases),
                subaddress: &block.subaddress,
            })
            .collect();
        // Also without the files that cannot be read, for the errors of the others.
        let in_words = |problem: &local::Problem| match problem.file.as_str() {
            "" => format!("local: {problem}"),
            _ => problem.to_string(),
        };
        match LocalTable::build(&blocks) {
            Ok(loaded) => {
                self.warnings.extend(loaded.warnings.iter().map(in_words));
                return loaded.table;
            }
            Err(problems) => self.errors.extend(problems.iter().map(in_words)),
        }
        LocalTable::default()
    }
}

/// Reads the files of rules alone, as `load` does.
pub fn shaping(config: &Config) -> Result<Shaping, TablesError> {
    let mut found = Found::default();
    let shaping = found.shaping(config);
    if found.errors.is_empty() { Ok(shaping) } else { Err(TablesError(found.errors)) }
}

/// As the configuration has it, for routes.
pub fn smart_host(host: &config::SmartHost) -> Result<SmartHost, &'static str> {
    let name = match &host.host {
        Host::Name(name) => name.clone(),
        Host::Address(address) if address.is_ipv6() => format!("[{address}]"),
        Host::Address(address) => address.to_string(),
    };
    format!("{name}:{}", host.port).parse()
}

fn read_bounded(path: &Path, most: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(most + 1).read_to_string(&mut text)?;
    if text.len() as u64 > most {
        return Err(io::Error::other(format!("more than {most} octets")));
    }
    Ok(text)
}
