//! PURE. The destinations of mail for this host's own domains, beside those of all other mail.
//!
//! In: domains and where each is delivered to. Out: names of destinations, as [`Routes`] gives them. All domains of one LMTP
//! server are one destination, each domain with Maildirs is one by itself. As with a smart host nothing is better off on a certain
//! shard, so each delivers what it accepted, over its share of the connections to an LMTP server. Refuses to look at
//! mailboxes: that is `local`'s.

use super::{Domain, NextHop, Routes};
use crate::local::{LmtpServer, Target};
use std::collections::BTreeMap;

/// Words before a destination's name. A colon is in no domain; a smart host's name has one, before its port.
const LMTP: &str = "lmtp:";
const MAILDIR: &str = "maildir:";

/// See the module. Immutable.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LocalRoutes {
    /// The destination of each local domain, by its name in lower case.
    domains: BTreeMap<Box<str>, Box<str>>,
    /// By the name of their destination.
    servers: BTreeMap<Box<str>, LmtpServer>,
    /// For all other domains.
    others: Routes,
}

impl Routes {
    /// These routes, but for local domains.
    pub fn with_local<'a>(self, domains: impl IntoIterator<Item = (&'a str, &'a Target)>) -> Routes {
        let mut local = LocalRoutes { others: self, ..LocalRoutes::default() };
        for (domain, target) in domains {
            let domain = Domain::new(domain.as_bytes());
            let name: Box<str> = match target {
                Target::Lmtp(server) => {
                    let name: Box<str> = match server {
                        LmtpServer::Tcp(address) => format!("{LMTP}{address}").into(),
                        LmtpServer::Unix(path) => format!("{LMTP}{path}").into(),
                    };
                    local.servers.insert(name.clone(), server.clone());
                    name
                }
                Target::Maildir(_) => format!("{MAILDIR}{}", domain.as_str()).into(),
            };
            local.domains.insert(domain.as_str().into(), name);
        }
        if local.domains.is_empty() { local.others } else { Routes::Local(Box::new(local)) }
    }

    /// Whether this is a destination of a local domain.
    pub fn is_local(&self, destination: &str) -> bool {
        matches!(self.next_hop(destination), NextHop::Lmtp(_) | NextHop::Maildir)
    }

    /// As [`Routes::connections`], for this destination.
    pub fn connections_to(&self, destination: &str, shard: u16, shards: u16, connections: u32) -> u32 {
        if self.is_local(destination) {
            return share(shard, shards, connections);
        }
        self.connections(shard, shards, connections)
    }

    /// Destinations that are Maildirs.
    pub fn maildirs(&self) -> usize {
        match self {
            Routes::Local(local) => local.domains.values().filter(|name| name.starts_with(MAILDIR)).count(),
            _ => 0,
        }
    }
}

impl LocalRoutes {
    pub(super) fn others(&self) -> &Routes {
        &self.others
    }

    pub(super) fn destination<'a>(&'a self, domain: &'a Domain) -> &'a str {
        match self.domains.get(domain.as_str()) {
            Some(name) => name,
            None => self.others.destination(domain),
        }
    }

    pub(super) fn next_hop<'a>(&'a self, destination: &'a str) -> NextHop<'a> {
        match self.servers.get(destination) {
            Some(server) => NextHop::Lmtp(server),
            None if destination.starts_with(MAILDIR) => NextHop::Maildir,
            None => self.others.next_hop(destination),
        }
    }

    pub(super) fn owner(&self, destination: &str, home: u16, shards: u16, connections: u32) -> u16 {
        match self.next_hop(destination) {
            NextHop::Maildir => home,
            NextHop::Lmtp(_) => owner(home, shards, connections),
            NextHop::Mx(_) | NextHop::Host(..) => self.others.owner(destination, home, shards, connections),
        }
    }
}

/// Who delivers what `home` accepted, where each shard delivers its own mail as far as `connections` go round.
pub(super) fn owner(home: u16, shards: u16, connections: u32) -> u16 {
    match u16::try_from(connections) {
        Ok(few) if few < shards => home % few.max(1),
        _ => home,
    }
}

/// A shard's part of the connections then; all parts together are `connections`.
pub(super) fn share(shard: u16, shards: u16, connections: u32) -> u32 {
    let shards = u32::from(shards.max(1));
    connections / shards + u32::from(u32::from(shard) < connections % shards)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::groups;
    use super::*;

    fn local(others: Routes) -> Routes {
        let targets = [
            ("one.example", "lmtp:127.0.0.1:24"),
            ("Two.Example", "lmtp:127.0.0.1:24"),
            ("three.example", "lmtp:/run/lmtp"),
            ("four.example", "maildir:/var/mail/{domain}/{mailbox}"),
        ];
        let targets = targets.map(|(domain, target)| (domain, Target::parse(target).unwrap()));
        others.with_local(targets.iter().map(|(domain, target)| (*domain, target)))
    }

    #[test]
    fn local_domains_have_destinations_of_their_own_beside_both_kinds_of_others() {
        let smart: Routes = Routes::SmartHost("lmtp:24".parse().unwrap());
        for (others, away) in [(Routes::Mx, "away.example"), (smart, "lmtp:24")] {
            let routes = local(others.clone());
            let domains =
                ["one.example", "away.example", "TWO.example.", "three.example", "Four.example", "away.example"];
            let expected = [
                ("lmtp:127.0.0.1:24".to_owned(), vec![0, 2]),
                (away.to_owned(), vec![1, 5]),
                ("lmtp:/run/lmtp".to_owned(), vec![3]),
                ("maildir:four.example".to_owned(), vec![4]),
            ];
            assert_eq!(groups(&routes, &domains), expected);
            assert_eq!(groups(&routes, &["one.example"]), [("lmtp:127.0.0.1:24".to_owned(), vec![0])]);
            assert_eq!(groups(&routes, &["away.example"]), [(away.to_owned(), vec![0])]);
            let unix = LmtpServer::Unix("/run/lmtp".to_owned());
            assert_eq!(routes.next_hop("lmtp:/run/lmtp"), NextHop::Lmtp(&unix));
            assert_eq!(routes.next_hop("maildir:four.example"), NextHop::Maildir);
            assert_eq!(routes.next_hop(away), others.next_hop(away));
            assert_eq!(routes.owner(away, 3, 8, 20), others.owner(away, 3, 8, 20));
            assert_eq!(routes.connections(3, 8, 20), others.connections(3, 8, 20));
            assert_eq!(routes.maildirs(), 1);
            // Each shard delivers what it accepted, as far as the connections go round.
            assert_eq!(routes.owner("lmtp:/run/lmtp", 3, 8, 20), 3);
            assert_eq!(routes.owner("lmtp:/run/lmtp", 3, 8, 2), 1);
            assert_eq!(routes.owner("maildir:four.example", 3, 8, 2), 3);
            let all: u32 = (0..8).map(|shard| routes.connections_to("lmtp:/run/lmtp", shard, 8, 20)).sum();
            assert_eq!(all, 20);
        }
        assert_eq!(Routes::Mx.with_local([]), Routes::Mx);
    }
}
