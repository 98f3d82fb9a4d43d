//! One run of a [`Scenario`]: the deeds are done, the world is made well again, everything must come to rest, and the
//! oracle judges.
//!
//! Input: a scenario. Output: an [`Outcome`], with what was violated; nothing here panics over a relay's fault. Refuses:
//! to go on for ever (every wait has an end in virtual time).

mod probe;

use super::client::Client;
use super::guise;
use super::hop::{Hop, Mood, StartTls};
use super::oracle::{Oracle, Rest, Violation};
use super::proxy::ProxyFault;
use super::scenario::{Crash, Deed, SENDERS, SERVERS, SMART, Scenario, client_address, v6};
use super::sources::{PROXY, Plan};
use super::world::{Found, Machine, World, config};
use super::zone::{EVIL_V4, Records, Zone};
use crate::config::{Host, SmartHost};
use crate::rt::sim::marks::{Marks, name};
use crate::rt::sim::trace::Lines;
use crate::rt::sim::{End, Step};
use crate::shard::Tables;
use crate::shard::mailbox::Control;
use crate::time::Moment;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Steps between two looks at everything that has a bound.
const AUDIT_STEPS: u64 = 32;
/// A shard that does so much in one second of virtual time without an end of it spins.
const STEPS_A_SECOND: u64 = 400_000;

/// What a run came to.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What must not be; empty is good.
    pub violations: Vec<Violation>,
    /// Of the trace: the same for the same scenario.
    pub hash: u64,
    /// Virtual time covered.
    pub time: Duration,
    /// Lives of the process that ended without being asked.
    pub crashes: u64,
    /// Those of them that ended in front of an effect that was chosen, not by the clock.
    pub killed: u64,
    /// Lives that ended by a drain.
    pub drains: u64,
    /// Faults of the disk that happened.
    pub disk_faults: u64,
    /// Messages that were acknowledged.
    pub accepted: u64,
    /// Deliveries: a message to a recipient.
    pub delivered: u64,
    /// Recipients of notifications of failure.
    pub bounced: u64,
    /// Deliveries that were repeated, each with its reason.
    pub duplicates: u64,
    /// Recipients excused because the disk spoiled their record.
    pub excused: u64,
    /// Events handed to shards.
    pub events: u64,
    /// What happened, how often.
    pub marks: Marks,
}

/// Runs `scenario`; with `lines` its trace is printed.
pub fn run(scenario: &Scenario, lines: Option<Lines>) -> Outcome {
    let mut run = Run::new(scenario, lines);
    run.begin();
    for (pause, deed) in &scenario.deeds {
        run.pass(*pause);
        run.perform(deed);
        if !run.oracle.violations.is_empty() {
            break;
        }
    }
    run.end();
    run.outcome()
}

struct Run<'a> {
    scenario: &'a Scenario,
    world: World,
    records: Records,
    hops: Vec<IpAddr>,
    oracle: Oracle<'a>,
    /// A crash to come, and when it comes at the latest.
    crash: Option<(Crash, Moment)>,
    crashes: u64,
    killed: u64,
    drains: u64,
    steps: u64,
    second: (Moment, u64),
}

impl<'a> Run<'a> {
    fn new(scenario: &'a Scenario, lines: Option<Lines>) -> Self {
        let mut config = config();
        config.hostname = "relay.test".to_owned();
        config.shards = usize::from(scenario.shards);
        config.smtp.max_recipients = scenario.max_recipients;
        config.smtp.max_message_bytes = scenario.max_message;
        config.smtp.max_sessions_per_shard = scenario.max_sessions;
        config.relay.from_networks = vec!["127.0.0.0/8".parse().expect("a network")];
        config.dns.servers = SERVERS.map(|ip| SocketAddr::new(ip.into(), 53)).to_vec();
        config.delivery.connections_per_destination = scenario.connections;
        config.delivery.messages_per_connection = scenario.messages_per_connection;
        config.delivery.lane_rate = scenario.lane_rate;
        config.delivery.idle_timeout = scenario.idle;
        config.delivery.ipv6 = scenario.ipv6;
        let (first, max, give_up) = scenario.retry;
        (config.delivery.retry.first, config.delivery.retry.max) = (first, max);
        config.delivery.retry.give_up = give_up;
        if scenario.smart_host {
            config.delivery.smart_host = Some(SmartHost { host: Host::Name("smart.test".to_owned()), port: 25 });
        }
        config.sources = scenario.sources.as_ref().map(Plan::sources).unwrap_or_default();
        if scenario.edge {
            config.listeners = guise::listeners(scenario);
            config.local = guise::local(scenario);
        }
        let mut world = World::new(scenario.seed, config, scenario.max_connections, scenario.geometry);
        world.tables = Arc::new(match scenario.edge {
            true => guise::tables(scenario, true),
            false => Tables { shaping: guise::shaping(scenario), routes: guise::routes(scenario), ..Tables::default() },
        });
        if let Some(lines) = lines {
            world.sim.core.trace.print(lines);
        }
        world.sim.core.turn_us = (1, scenario.turn_us);
        world.sim.core.window = scenario.window;
        world.sim.core.pace.latency_us = scenario.disk_us;
        let records = Records::new();
        Run {
            scenario,
            world,
            hops: scenario.hops(),
            oracle: Oracle::new(scenario, records.clone()),
            records,
            crash: None,
            crashes: 0,
            killed: 0,
            drains: 0,
            steps: 0,
            second: (Moment(0), 0),
        }
    }

    fn begin(&mut self) {
        let records = &self.records;
        for destination in &self.scenario.destinations {
            let name = &destination.name;
            if destination.implicit {
                let ip = destination.exchangers[0].1;
                records.host(name, &[ip], &[v6(ip)]);
                continue;
            }
            let mut exchangers = Vec::new();
            let first = destination.twin_of.map_or(name, |n| &self.scenario.destinations[n].name);
            for (index, (preference, ip)) in destination.exchangers.iter().enumerate() {
                let exchanger = format!("mx{index}.{first}");
                records.host(&exchanger, &[*ip], &[v6(*ip)]);
                exchangers.push((*preference, exchanger));
            }
            let exchangers: Vec<(u16, &str)> = exchangers.iter().map(|(p, name)| (*p, name.as_str())).collect();
            if !exchangers.is_empty() {
                records.domain(name, &exchangers);
            }
        }
        records.host("mx.sender.test", &[SENDERS], &[]);
        records.domain("sender.test", &[(10, "mx.sender.test")]);
        records.host("smart.test", &[SMART], &[]);
        let hosts = &mut self.world.sim.hosts;
        for server in SERVERS {
            hosts.insert(server.into(), Machine::Zone(Box::new(Zone::new(records.clone()))));
        }
        for hop in &self.hops {
            let mut machine = Hop::default();
            machine.extensions = self.scenario.announced_by(*hop);
            machine.tls = self.scenario.tls_of(*hop);
            machine.grounded = self.scenario.is_grounded(*hop);
            machine.lmtp = self.scenario.mailboxes() == Some(*hop);
            hosts.insert(*hop, Machine::Hop(Box::new(machine)));
        }
        for (group, guard) in self.scenario.guards() {
            for ip in group {
                if let Some(Machine::Hop(hop)) = hosts.get_mut(&ip) {
                    hop.guard = Some(Rc::clone(&guard));
                }
            }
        }
        hosts.insert(EVIL_V4.into(), Machine::Hop(Box::default()));
        hosts.insert(PROXY.into(), Machine::Proxy(Box::default()));
        for n in 0..self.scenario.clients {
            let mut client = Client::new(n + 1 < self.scenario.clients);
            let address = client_address(n, self.scenario.clients);
            if self.scenario.proxied && client.may_relay {
                client.proxy = Some(format!("PROXY TCP4 {address} 127.0.0.1 50000 25\r\n"));
            }
            hosts.insert(address, Machine::Client(Box::new(client)));
        }
        let limit = self.scenario.connections as usize;
        let core = &mut self.world.sim.core;
        if self.scenario.smart_host {
            core.cap([SMART.into()], limit);
        } else {
            for destination in &self.scenario.destinations {
                core.cap(self.scenario.addresses(destination), limit);
            }
            // A domain with a route has one owner: its smart host sees no more than another's exchangers.
            core.cap([SMART.into()], limit);
            core.cap([SENDERS.into()], limit);
            if self.scenario.provider {
                let both = self.scenario.destinations[..2].iter().flat_map(|d| self.scenario.addresses(d));
                core.cap(both, limit);
            }
        }
        if let Some(most) = self.scenario.sources.as_ref().and_then(|plan| plan.limits.connections) {
            core.cap_sources(most as usize);
        }
        self.start(self.scenario.shards, &[]);
    }

    // --- time -----------------------------------------------------------------------------------------------------

    /// Time passes.
    fn pass(&mut self, time: Duration) {
        let end = self.world.sim.now().mono + time;
        self.until(end, |_| false);
    }

    /// Steps until `end`, or until `condition` holds. Whether it held.
    fn until(&mut self, end: Moment, condition: impl Fn(&World) -> bool) -> bool {
        loop {
            let latest = self.crash.as_ref().map_or(end, |(_, deadline)| (*deadline).min(end));
            match self.world.step(latest) {
                Step::Went => {}
                Step::Killed => {
                    self.killed += 1;
                    self.crash_now();
                }
                Step::Waited => {
                    if self.crash.as_ref().is_some_and(|(_, deadline)| *deadline <= self.world.sim.now().mono) {
                        self.crash_now();
                    } else if self.world.sim.now().mono >= end {
                        return condition(&self.world);
                    }
                }
            }
            if condition(&self.world) {
                return true;
            }
            self.steps += 1;
            if self.steps.is_multiple_of(AUDIT_STEPS) {
                self.watch();
            }
            if !self.oracle.violations.is_empty() {
                return false;
            }
        }
    }

    fn watch(&mut self) {
        let now = self.world.sim.now().mono;
        let oracle = &mut self.oracle;
        for shard in self.world.sim.shards.iter().flatten() {
            shard.audit(&mut |what, size, bound| {
                if size > bound {
                    oracle.violate("bounds", format!("{what}: {size} of {bound}"));
                }
            });
        }
        if let Some((at, host, open, most)) = self.world.sim.core.over_cap().first() {
            oracle.violate("connection limit", format!("{host}: {open} of {most} at {:.3} s", at.0 as f64 / 1e9));
        }
        if let Some((at, from, host, open)) = self.world.sim.core.over_of_sources().first()
            && !self.scenario.invents_exchangers()
        {
            let at = at.0 as f64 / 1e9;
            oracle.violate("source", format!("{open} connections from {from} to {host} at {at:.3} s"));
        }
        // Snapshots of sending limits and of rests are written over and over, each with its own checksum.
        let is_snapshot = |path: &str| path.contains("quota-") || path.contains("rests-");
        let is_segment = |path: &&std::path::PathBuf| !is_snapshot(&path.to_string_lossy());
        if let Some(path) = self.world.sim.core.disk.written_again().iter().find(is_segment) {
            oracle.violate("failed segment", format!("{} was written again after a write had failed", path.display()));
        }
        if let Some(shard) = self.world.sim.spins() {
            oracle.violate("live-lock", format!("shard {shard} takes turn after turn and nothing comes of it"));
        }
        if now.since(self.second.0) > Duration::from_secs(1) {
            self.second = (now, self.steps);
        } else if self.steps - self.second.1 > STEPS_A_SECOND {
            oracle.violate("live-lock", format!("{STEPS_A_SECOND} steps in a second of virtual time"));
        }
    }

    // --- the process ----------------------------------------------------------------------------------------------

    /// Starts the process; recovery is cut off first as often as `cuts` says.
    fn start(&mut self, shards: u16, cuts: &[u32]) {
        for &cut in cuts {
            self.world.sim.core.disk.set_power(Some(cut));
            let started = self.world.start(shards);
            self.world.sim.core.disk.set_power(None);
            self.crashes += 1;
            match started {
                Ok(found) => {
                    self.check_found(&found);
                    self.world.end(End::PowerLost);
                }
                Err(_) => self.world.sim.core.disk.cut(),
            }
        }
        for attempt in 0.. {
            match self.world.start(shards) {
                Ok(found) => return self.check_found(&found),
                // What keeps it from reading is over some time.
                Err(_) if attempt < 3 => {}
                Err(_) if attempt == 3 => self.world.sim.core.disk.mend(),
                Err(error) => {
                    self.oracle.violate("recovery", error);
                    return;
                }
            }
        }
    }

    fn check_found(&mut self, found: &Found) {
        self.oracle.scars(&self.world.sim.core.disk);
        self.oracle.check_recovery(&self.world, found);
    }

    fn crash_now(&mut self) {
        let Some((crash, _)) = self.crash.take() else { return };
        self.oracle.crashed(&self.world);
        self.world.end(crash.end);
        self.crashes += 1;
        self.pass(crash.down);
        self.start(crash.shards, &crash.recovery_cuts);
    }

    fn drain(&mut self, now: bool, shards: u16) {
        if self.crash.is_some() {
            return;
        }
        if self.world.is_stuffed() {
            // The control plane asks again until it is heard.
            self.pass(self.oracle.stalled_until().since(self.world.sim.now().mono) + Duration::from_secs(1));
        }
        self.world.take_events();
        self.world.control(if now { Control::Stop } else { Control::Drain });
        let limit = if now { Duration::ZERO } else { self.world.config.drain_timeout };
        // A stalled disk or core keeps it for as long as it stalls.
        let asked = self.world.sim.now().mono;
        let begin = asked.max(self.oracle.stalled_until());
        let end = begin + limit + Duration::from_secs(20);
        if !self.until(end, |world| world.sim.stopped()) && self.oracle.violations.is_empty() {
            self.oracle
                .violate("drain", format!("not over {:?} after it was asked for", limit + Duration::from_secs(20)));
            return;
        }
        let in_time = !now && self.world.sim.now().mono < asked + limit;
        self.oracle.drained(&self.world, in_time);
        self.world.end(End::Killed);
        self.drains += 1;
        self.start(shards, &[]);
    }

    // --- deeds ----------------------------------------------------------------------------------------------------

    fn perform(&mut self, deed: &Deed) {
        let now = self.world.sim.now().mono;
        self.world.sim.core.trace.remark(now, "deed");
        self.world.sim.core.marks.add(format!("deed: {}", name(deed)));
        let disk = self.world.sim.core.disk.clone();
        match deed {
            Deed::Submit { client, letters, style } => {
                let address = client_address(*client, self.scenario.clients);
                self.world.sim.with_host(address, |host, side| {
                    if let Machine::Client(client) = host {
                        client.begin(letters.clone(), style.clone(), side);
                    }
                });
            }
            Deed::Mood { hops, mood } => {
                for ip in hops.iter().map(|hop| self.hops[*hop]) {
                    self.oracle.mood(ip, mood);
                    if let Some(hop) = self.world.hop(ip) {
                        hop.mood = mood.clone();
                    }
                }
            }
            Deed::Dns { server, mood } => {
                self.oracle.trouble();
                if let Some(Machine::Zone(zone)) = self.world.sim.hosts.get_mut(&SERVERS[*server].into()) {
                    zone.set_mood(*mood);
                }
            }
            Deed::Cut { hop, time } => {
                self.oracle.trouble_at(self.hops[*hop]);
                self.world.sim.core.path(self.hops[*hop]).cut_until = now + *time;
            }
            Deed::Silence { hop, silent } => {
                self.oracle.trouble_at(self.hops[*hop]);
                self.world.sim.core.path(self.hops[*hop]).silent = *silent;
            }
            Deed::ResetAll { hop } => {
                self.oracle.trouble_at(self.hops[*hop]);
                self.world.sim.core.reset_all(self.hops[*hop]);
            }
            Deed::Latency { hop, least_us, more_us } => {
                self.oracle.delay_at(self.hops[*hop]);
                self.world.sim.core.path(self.hops[*hop]).latency_us = (*least_us, *more_us);
            }
            Deed::DnsLoss { permille } => {
                self.oracle.trouble();
                for server in SERVERS {
                    self.world.sim.core.path(server.into()).loss_permille = *permille;
                    self.world.sim.core.path(server.into()).twice_permille = permille / 2;
                }
            }
            Deed::Flood { client, commands, reading } => {
                let address = client_address(*client, self.scenario.clients);
                self.world.sim.with_host(address, |host, side| {
                    if let Machine::Client(client) = host {
                        client.flood(*commands, *reading, side);
                    }
                });
            }
            Deed::RefuseLocal { sockets } => {
                self.oracle.trouble();
                self.world.sim.core.refuse_local(*sockets);
            }
            Deed::Disk { op, fault, times, after } => {
                self.oracle.disk_trouble(now);
                disk.plan_after(*after, *op, *fault);
                (1..*times).for_each(|_| disk.plan(*op, *fault));
            }
            Deed::DiskFull { room } => {
                self.oracle.disk_trouble(now);
                disk.set_room(*room);
            }
            Deed::DiskStall { time } => {
                self.oracle.disk_trouble(now);
                let until = now + *time;
                self.oracle.stalled(now, until);
                self.world.sim.core.pace.stalled_until = until;
            }
            Deed::DiskMended => disk.mend(),
            Deed::Rot => drop(disk.rot()),
            Deed::Spoil => drop(disk.spoil()),
            Deed::Stall { shard, time, stuffed } => {
                let until = now + *time;
                self.oracle.stalled(now, until);
                self.world.sim.core.stall(*shard, until);
                self.oracle.trouble();
                if *stuffed {
                    self.world.stuff(*shard);
                }
            }
            Deed::WallJump { milliseconds } => {
                self.oracle.wall_jumps.push(now);
                self.world.sim.core.set_wall(*milliseconds);
            }
            Deed::Crash(crash) => {
                if self.crash.is_none() {
                    if crash.in_write {
                        self.world.sim.kill_in_write(crash.effects);
                    } else {
                        self.world.sim.kill_at_effect(crash.effects);
                    }
                    self.crash = Some((crash.clone(), now + Duration::from_secs(5)));
                }
            }
            Deed::Proxy { fault } => {
                self.oracle.trouble();
                if let Some(Machine::Proxy(proxy)) = self.world.sim.hosts.get_mut(&PROXY.into()) {
                    proxy.fault = *fault;
                }
            }
            Deed::Rest { source, destination, time } => self.rest(*source, *destination, now + *time),
            Deed::Drain { now, shards } => self.drain(*now, *shards),
            Deed::Reload { known } => {
                let tables = Arc::new(guise::tables(self.scenario, *known));
                self.world.tables = Arc::clone(&tables);
                self.world.control(Control::Tables(tables));
            }
        }
    }

    /// A source is to rest for the site of a destination that has exchangers of its own.
    fn rest(&mut self, source: u16, destination: usize, until: Moment) {
        let d = &self.scenario.destinations[destination];
        if d.implicit || d.exchangers.is_empty() {
            return;
        }
        let first = d.twin_of.map_or(&d.name, |n| &self.scenario.destinations[n].name);
        let names: Vec<String> = (0..d.exchangers.len()).map(|n| format!("mx{n}.{first}")).collect();
        let site = self.world.tables.shaping.site(&d.name, &mut names.iter().map(String::as_str));
        let source_ip = Plan::address((source / 2) as u8)[usize::from(source % 2)];
        let (host, from) = (d.exchangers[0].1.into(), self.world.sim.now().mono);
        self.oracle.trouble();
        if self.world.rest_source(&(&*site.name).into(), source, until) {
            self.oracle.rests.push(Rest { source: source_ip, host, from, until });
        }
    }

    // --- the end --------------------------------------------------------------------------------------------------

    /// Everything is well again; what is under way must come to its end.
    fn end(&mut self) {
        if !self.oracle.violations.is_empty() {
            return;
        }
        if self.crash.is_some() {
            // It comes within five seconds, one way or the other.
            self.pass(Duration::from_secs(6));
        }
        let core = &mut self.world.sim.core;
        core.disk.mend();
        core.heal_network();
        core.pace.latency_us = (100, 400);
        for machine in self.world.sim.hosts.values_mut() {
            match machine {
                Machine::Hop(hop) => {
                    hop.mood = Mood::default();
                    if hop.tls == Some(StartTls::Silent) {
                        hop.tls = Some(StartTls::Works);
                    }
                }
                Machine::Zone(zone) => zone.calm(),
                Machine::Proxy(proxy) => proxy.fault = ProxyFault::None,
                Machine::Client(_) | Machine::Other(_) | Machine::Feeder(_) | Machine::Day(_) => {}
            }
        }
        // What stands still must go on before its gauges mean anything.
        self.pass(self.oracle.stalled_until().since(self.world.sim.now().mono) + Duration::from_secs(1));
        let (first, _, give_up) = self.scenario.retry;
        // The longest silence of a peer that is waited for (10 minutes for the reply to a final dot), then the age at
        // which mail is given up.
        let limit = give_up + first + Duration::from_secs(20 * 60) + self.held_longest();
        let end = self.world.sim.now().mono + limit;
        self.until(end, |world| world.queued() == 0 && world.stats.iter().all(|stats| stats.sessions.get() == 0));
        // The gauge may be half a second old, and a notification may follow; a drain's last words are said in a minute.
        self.pass(Duration::from_secs(20));
        let end = self.world.sim.now().mono + Duration::from_secs(20 * 60);
        self.until(end, |world| world.queued() == 0);
        self.pass(Duration::from_secs(5));
        if self.oracle.violations.is_empty() {
            self.oracle.scars(&self.world.sim.core.disk);
            self.oracle.check_end(&self.world);
        }
        if self.oracle.violations.is_empty() {
            self.change_records();
            // What is asked now is asked of receivers that take what the relay was told.
            for machine in self.world.sim.hosts.values_mut() {
                if let Machine::Hop(hop) = machine {
                    hop.guard.take_if(|guard| guard.borrow().is_secret);
                }
            }
            // Peers that never say goodbye have five minutes for it, what is idle ten to twenty.
            self.pass(Duration::from_secs(31 * 60));
            self.watch();
            self.oracle.check_rest(&self.world);
        }
        if self.oracle.violations.is_empty() && self.world.queued() == 0 {
            self.probe();
        }
        if self.oracle.violations.is_empty() && self.world.queued() == 0 {
            self.last_drain();
        }
    }

    /// How long mail may be held: a clock that is set back makes it longer, by what it was set back.
    fn held_longest(&self) -> Duration {
        let hold = self.scenario.longest_hold();
        let back = |deed: &Deed| match deed {
            Deed::WallJump { milliseconds } => Duration::from_millis(milliseconds.min(&0).unsigned_abs()),
            _ => Duration::ZERO,
        };
        if hold.is_zero() { hold } else { hold + self.scenario.deeds.iter().map(|(_, deed)| back(deed)).sum() }
    }

    /// A relay at rest stops at once and leaves nothing open.
    fn last_drain(&mut self) {
        self.world.control(Control::Drain);
        let end = self.world.sim.now().mono + Duration::from_secs(5);
        if !self.until(end, |world| world.sim.stopped()) && !self.world.sim.stopped() {
            self.oracle.violate("drain", "a relay at rest does not stop in 5 s".to_owned());
        }
        self.oracle.drained(&self.world, true);
        let mut found = self.world.durable();
        found.retain(|id, _| !self.oracle.is_excused(*id));
        if !found.is_empty() {
            self.oracle.violate("rest", format!("the spool is not empty after a drain at rest: {found:?}"));
        }
    }

    fn outcome(mut self) -> Outcome {
        self.world.take_events();
        self.world.count();
        let core = &self.world.sim.core;
        let mut marks = core.marks.clone();
        marks.merge(&core.disk.marks());
        Outcome {
            marks,
            hash: core.trace.hash(),
            time: self.world.sim.now().mono.since(Moment(1_000_000_000)),
            crashes: self.crashes,
            killed: self.killed,
            drains: self.drains,
            disk_faults: core.disk.injected(),
            events: core.counts.events,
            accepted: self.oracle.accepted,
            delivered: self.oracle.delivered,
            bounced: self.oracle.bounced,
            duplicates: self.oracle.duplicates,
            excused: self.oracle.excused_recipients,
            violations: self.oracle.violations,
        }
    }
}
