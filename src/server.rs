//! The process: from a configuration to running shards and a control plane, and to their end.
//!
//! Start: lock and recover the spool; start the control plane; bind the listeners; start the shards. Each step that fails
//! says why and what to do, and nothing has been accepted yet. End: the control plane asks every shard to drain; when the
//! last one has stopped, the remaining events are written.

pub mod sources;
mod tables;

pub use tables::{TablesError, shaping};

use crate::config::Config;
use crate::control::{self, Command, sts};
use crate::dns::{AddressFamilies, DnsSettings};
use crate::limits;
use crate::route::Routes;
use crate::rt::disk::StdDisk;
use crate::rt::uring::{self, Build, Options, StartError, Wakers};
use crate::rt::{descriptor_limit, random_u64};
use crate::shard::mailbox::{Control, Mail, Mailboxes};
use crate::shard::{Ending, Parts, QuotaFiles, RestFiles, ShardCore, Tables};
use crate::spool::{self, RecoveryError};
use crate::time::{Moment, Now, Wall};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Why the relay does not run, or ran and failed.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] RecoveryError),
    /// The shards cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The control plane cannot be started.
    #[error("control plane: {0}")]
    Control(io::Error),
    /// Accounts, certificates, local domains, rules or routes cannot be used.
    #[error(transparent)]
    Tables(#[from] TablesError),
    /// The smart host cannot be used.
    #[error("delivery.smart_host: {0}")]
    SmartHost(&'static str),
    /// A shard failed while running. Acknowledged mail is in the spool; a restart delivers it.
    #[error("a shard failed: {0}; acknowledged mail is safe in the spool, restart to go on")]
    Shard(io::Error),
    /// The operating system refused something at start.
    #[error("{0}")]
    System(#[from] io::Error),
}

/// Loads what the start would load, and says what an operator may have overlooked. Nothing is locked, written or bound, so
/// it may be asked beside a running relay.
pub fn check(config: &Config) -> Result<Vec<String>, ServerError> {
    let loaded = tables::load(config)?;
    routes(config)?;
    Ok(loaded.warnings)
}

/// Reads what [`Config`] names: accounts, certificates, mailboxes, aliases, rules and routes.
fn tables(config: &Config) -> Result<Tables, TablesError> {
    let loaded = tables::load(config)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.tables)
}

/// Runs the relay until it is told to end.
pub fn run(mut config: Config) -> Result<(), ServerError> {
    let limit = descriptor_limit();
    if limit < 5 * limits::DESCRIPTORS_RESERVED {
        tracing::warn!(limit, "few descriptors: raise LimitNOFILE (config/ringpost.service) or ulimit -n");
    }
    let descriptors = Descriptors::share(limit, &config);
    config.smtp.max_sessions_per_shard = descriptors.inbound;
    let config = Arc::new(config);
    let shards = u16::try_from(config.shards).expect("limits.rs bounds the shards below 1024");
    let routes = Arc::new(routes(&config)?);

    let tables = Arc::new(tables(&config)?);

    let began = Instant::now();
    let geometry = spool::Geometry::default();
    let scan_threads = limits::SPOOL_SCAN_THREADS;
    let options = spool::Options { shards, wall: wall(), seed: random_u64(), geometry, scan_threads };
    let recovery = spool::recover(&StdDisk, &config.spool.path, options)?;
    for damage in &recovery.damage {
        tracing::error!("spool: {damage}");
    }
    tracing::info!(
        "spool {}: {} messages to deliver, {} files read in {:.1} s",
        config.spool.path.display(),
        recovery.live_messages(),
        recovery.files,
        began.elapsed().as_secs_f64()
    );

    let quotas = Arc::new(QuotaFiles::read(&StdDisk, &config.spool.path)?);
    let rests = RestFiles::read(&StdDisk, &config.spool.path, Now { mono: Moment(0), wall: wall() });
    for problem in &rests.problems {
        tracing::error!("spool: {problem}: what it says of rests and lower limits is forgotten");
    }
    if !rests.all().is_empty() {
        tracing::info!("{} rests and lower limits of before are in force still", rests.all().len());
    }
    let rests = Arc::new(rests);
    let policies =
        Arc::new(if config.delivery.mta_sts { sts::load(&sts::folder(&config.spool.path)) } else { Vec::new() });
    let wakers = Wakers::new(config.shards)?;
    let mailboxes = Mailboxes::new(config.shards);
    let ending = Ending::new(config.shards);
    let (reports, links): (Vec<_>, Vec<_>) = (0..shards).map(|_| control::link(&config)).unzip();
    let orders = (mailboxes.clone(), wakers.clone(), Arc::clone(&config));
    let command = Box::new(move |command| {
        let control = match command {
            Command::Drain => Control::Drain,
            Command::DrainNow => Control::Stop,
            Command::Sts(shard, news) => {
                // A shard that has no room for it stops waiting by itself.
                drop(orders.0.push(usize::from(shard), vec![Mail::Control(Control::Sts(news))]));
                return orders.1.wake(usize::from(shard));
            }
            Command::RuaRecord(shard, domain) => {
                drop(orders.0.push(usize::from(shard), vec![Mail::Control(Control::RuaRecord(domain))]));
                return orders.1.wake(usize::from(shard));
            }
            Command::Submit(shard, mail) => {
                if orders.0.push(usize::from(shard), vec![Mail::Control(Control::Submit(mail))]).is_err() {
                    tracing::error!(shard, "the shard's mailbox is full: a report of TLS is lost");
                }
                return orders.1.wake(usize::from(shard));
            }
            Command::Reload => match self::tables(&orders.2) {
                Ok(tables) => {
                    tracing::info!(
                        accounts = tables.accounts.iter().len(),
                        rules = tables.shaping.summary(),
                        "accounts, certificates, local domains, rules and routes read again"
                    );
                    Control::Tables(Arc::new(tables))
                }
                Err(error) => {
                    tracing::error!(
                        "accounts, certificates, local domains, rules and routes stay as they were: {error}"
                    );
                    return;
                }
            },
        };
        for shard in 0..usize::from(shards) {
            // A full mailbox belongs to a shard that is at its limit; the next signal tries again.
            if orders.0.push(shard, vec![Mail::Control(control.clone())]).is_err() {
                tracing::warn!(shard, "the shard's mailbox is full: send the signal again");
            }
            orders.1.wake(shard);
        }
    });
    let https = tables.authorities.as_ref().filter(|_| config.delivery.mta_sts).and_then(|a| a.https().ok());
    let pages = Arc::clone(&config);
    let pages = Box::new(move || sources::json(&pages));
    let control = control::start(Arc::clone(&config), links, https, (command, pages)).map_err(ServerError::Control)?;

    let dns = dns_settings(&config);
    let spool::Recovery { shards: recovered, lock, .. } = recovery;
    let build = recovered.into_iter().zip(reports).zip(0..shards).map(|((recovered, report), me)| {
        let parts = Parts {
            me,
            shards,
            config: Arc::clone(&config),
            tables: Arc::clone(&tables),
            quotas: Arc::clone(&quotas),
            rests: Arc::clone(&rests),
            policies: Arc::clone(&policies),
            now: Now { mono: Moment(0), wall: wall() },
            routes: Arc::clone(&routes),
            dns: dns.clone(),
            recovered,
            mailboxes: mailboxes.clone(),
            report,
            ending: Arc::clone(&ending),
            max_connections: descriptors.outbound,
            geometry,
            seed: random_u64(),
        };
        Box::new(move || Box::new(ShardCore::new(parts)) as Box<dyn crate::rt::Shard>) as Build
    });
    let addresses: Vec<SocketAddr> = config.listeners.iter().map(|l| l.address).collect();
    let threads = uring::start(&addresses, &wakers, Options::from_env(), build.collect())?;
    tracing::info!("ready");
    let ended = threads.join();
    if !control.finish() {
        tracing::warn!("the control plane did not end in time: the last events may be missing from the log");
    }
    drop(lock);
    ended.map_err(ServerError::Shard)?;
    tracing::info!("stopped");
    Ok(())
}

/// Of all mail. With a table of routes the smart host is its last one, and the owner of a domain looks there.
fn routes(config: &Config) -> Result<Routes, ServerError> {
    let local =
        config.local.iter().flat_map(|block| block.domains.iter().map(|domain| (domain.as_str(), &block.deliver)));
    let smart_host = config.delivery.smart_host.as_ref().filter(|_| config.delivery.routes.is_none());
    let Some(host) = smart_host else { return Ok(Routes::Mx.with_local(local)) };
    let host = tables::smart_host(host).map_err(ServerError::SmartHost)?;
    Ok(Routes::SmartHost(host).with_local(local))
}

/// As the shards have them.
pub fn dns_settings(config: &Config) -> DnsSettings {
    DnsSettings {
        servers: config.dns.servers.clone(),
        validating: config.dns.validating,
        timeout: config.dns.timeout,
        attempts: config.dns.attempts,
        ttl: config.dns.ttl,
        serve_stale: config.dns.serve_stale,
        random_case: config.dns.random_case,
        families: if config.delivery.ipv6 { AddressFamilies::default() } else { AddressFamilies::Ipv4Only },
        addresses_only: config.delivery.smart_host.is_some() && config.delivery.routes.is_none(),
        ..DnsSettings::default()
    }
}

/// How many descriptors each shard has for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Descriptors {
    inbound: usize,
    outbound: usize,
}

impl Descriptors {
    /// Of what the limit leaves, sessions have five eighths, or as many as are configured if those are fewer; deliveries have the
    /// rest. Sessions have no more because strangers choose how many they hold: clients that took all could keep mail from being
    /// delivered, and segments from being opened, by doing nothing. What sessions never take keeps idle connections open.
    fn share(limit: usize, config: &Config) -> Descriptors {
        let each = limit.saturating_sub(limits::DESCRIPTORS_RESERVED) / config.shards;
        let inbound = config.smtp.max_sessions_per_shard.min((each * 5 / 8).max(limits::CONNECTIONS_LEAST));
        Descriptors { inbound, outbound: each.saturating_sub(inbound).max(limits::CONNECTIONS_LEAST) }
    }
}

fn wall() -> Wall {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn deliveries_have_the_descriptors_that_sessions_never_take() {
        let machine = crate::config::Machine::default();
        let mut config = crate::config::parse("test", "shards = 2", &machine).unwrap().config;
        let each = |limit, config: &Config| {
            let share = Descriptors::share(limit, config);
            (share.inbound, share.outbound)
        };
        assert_eq!(each(20_128, &config), (6_250, 3_750), "five eighths at the most");
        config.smtp.max_sessions_per_shard = 104;
        assert_eq!(each(20_128, &config), (104, 9_896));
        assert_eq!(each(64, &config), (16, 16), "some, in spite of all");
    }
}
