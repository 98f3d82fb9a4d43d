//! A scenario in words, for those who look for what went wrong in it.

use super::{Deed, Scenario, rules};
use crate::sim::client::Letter;
use std::fmt;
use std::time::Duration;

impl fmt::Display for Scenario {
    /// The settings, then a line for each deed, its number first.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Scenario { seed, shards, connections, max_connections, messages_per_connection, .. } = self;
        writeln!(
            f,
            "seed {seed}: {shards} shards, {connections} connections a destination, {max_connections} a shard, \
             {messages_per_connection} messages a connection, at most {} recipients and {} octets, {} sessions, retry {:?}, idle {:?}, {}, turn {} us, window {:?}, \
             disk {:?} us, segments of {} KiB",
            self.max_recipients,
            self.max_message,
            self.max_sessions,
            self.retry,
            self.idle,
            match (self.smart_host, self.ipv6) {
                (true, _) => "smart host",
                (false, true) => "MX, IPv6 too",
                (false, false) => "MX",
            },
            self.turn_us,
            self.window,
            self.disk_us,
            self.geometry.segment_bytes >> 10
        )?;
        if self.edge {
            let said =
                [(self.verifies, "DNS is asked"), (self.limited, "accounts have limits"), (self.proxied, "a proxy")];
            let said =
                said.iter().filter(|(is_so, _)| *is_so).map(|(_, words)| format!(", {words}")).collect::<String>();
            writeln!(f, "  all listeners{said}, LMTP to {:?}", self.mailboxes())?;
        }
        if self.provider {
            let first = self.first_of_provider.map_or(String::new(), |first| format!(", tried again after {first:?}"));
            writeln!(f, "  d0.test and d1.test are one provider's{first}")?;
        }
        for (what, rate) in ["messages", "connections"].iter().zip(self.rates) {
            if let Some(rate) = rate {
                writeln!(f, "  {what} to a site: {rate}")?;
            }
        }
        for (what, limits) in ["campaign", "tenant", "site", "tenant at the provider"].iter().zip(self.flows) {
            if limits != crate::shaping::Limits::default() {
                writeln!(f, "  each {what}: {limits}")?;
            }
        }
        if let Some(secret) = self.enforced {
            let how = if secret { "half as many messages as the relay was told" } else { "these" };
            writeln!(f, "  receivers enforce it: {how}, and the connections")?;
        }
        if let Some(plan) = &self.sources {
            writeln!(f, "  {} sources, {:?} of the pools, proxies {:?}", plan.count, plan.of, plan.proxies)?;
            writeln!(f, "  each source at each site: {}", plan.limits)?;
        }
        if let Some((n, way)) = self.route {
            writeln!(f, "  a route for {}: {way:?}", self.destinations[n].name)?;
        }
        for rules::Rule { says, does } in &self.rules {
            writeln!(f, "  whoever says {says:?}: {does:?}")?;
        }
        for d in &self.destinations {
            let implicit = if d.implicit { " (no MX)" } else { "" };
            writeln!(f, "  {}{implicit} {:?}", d.name, d.exchangers)?;
        }
        let hops = self.hops();
        let mut at = Duration::ZERO;
        for (number, (pause, deed)) in self.deeds.iter().enumerate() {
            at += *pause;
            write!(f, "{number:>4} {:>9.3} s  ", at.as_secs_f64())?;
            match deed {
                Deed::Submit { client, letters, style } => {
                    write!(f, "client {client} submits")?;
                    for letter in letters {
                        let Letter { mark, sender, recipients, body, .. } = letter;
                        write!(f, " #{mark} <{sender}> to {} [{}]", recipients.join(","), body.len())?;
                    }
                    writeln!(f, " {style:?}")?;
                }
                Deed::Mood { hops: some, mood } => {
                    let some: Vec<String> = some.iter().map(|hop| hops[*hop].to_string()).collect();
                    writeln!(f, "hops {} {mood:?}", some.join(" "))?;
                }
                Deed::Cut { hop, time } => writeln!(f, "way to {} cut for {time:?}", hops[*hop])?,
                Deed::Silence { hop, silent } => writeln!(f, "hop {} silent: {silent}", hops[*hop])?,
                Deed::ResetAll { hop } => writeln!(f, "hop {} resets all connections", hops[*hop])?,
                Deed::Latency { hop, least_us, more_us } => {
                    writeln!(f, "way to {}: {least_us} us and up to {more_us} more", hops[*hop])?;
                }
                other => writeln!(f, "{other:?}")?,
            }
        }
        Ok(())
    }
}
