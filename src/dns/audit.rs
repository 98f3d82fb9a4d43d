//! PURE. Simulation and tests only: the sizes of what a resolver holds, and their bounds.

use super::Resolver;
use crate::limits;

impl Resolver {
    /// See `ShardCore::audit`.
    pub fn audit(&self, report: &mut dyn FnMut(&'static str, usize, usize)) {
        let (domains, answers, [lookups, waiting, received, timers, transmits]) = self.sizes();
        report("dns.pending domains", self.pending(), limits::DNS_PENDING_DOMAINS);
        report("dns.cached domains", self.cached_domains(), domains);
        report("dns.cached answers", self.cached_answers(), answers);
        report("dns.exchanges", self.exchanges(), limits::DNS_EXCHANGES);
        let [facts, known] = self.facts.sizes();
        report("dns.open facts", facts, limits::DNS_PENDING_FACTS);
        report("dns.known facts", known, limits::DNS_PENDING_FACTS);
        // The MX, and two addresses of each host.
        let questions = limits::DNS_PENDING_DOMAINS * (1 + 2 * limits::DNS_MX_HOSTS) + limits::DNS_PENDING_FACTS;
        report("dns.lookups", lookups, questions);
        report("dns.lookups waiting for an exchange", waiting, questions);
        report("dns.bytes of one stream", received, 2 + usize::from(u16::MAX));
        report("dns.timers", timers, lookups + self.exchanges());
        // Taken before the event that brought them ends.
        report("dns.transmits", transmits, 0);
    }
}
