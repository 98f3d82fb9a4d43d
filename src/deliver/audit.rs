//! Simulation and tests only: the sizes of what the delivering half holds, and their bounds.

use super::Deliverer;
use crate::limits;

impl Deliverer {
    /// See [`crate::shard::ShardCore::audit`].
    pub(crate) fn audit(&self, report: &mut dyn FnMut(&'static str, usize, usize)) {
        let connections = self.max_connections;
        // A pool stands for a destination with mail, or with connections only, or one that was just used.
        let pools = self.queue.counts().destinations + self.connections.len();
        report("deliver.connections", self.connections.len(), connections);
        for (destination, pool) in self.pools.iter() {
            let open = pool.connections.len() + pool.leaving;
            report("deliver.connections to one destination", open, self.most_connections(*destination));
        }
        let [shares, ledgers] = self.lanes.sizes();
        report("deliver.shares", shares, pools + limits::QUEUE_IDLE_DESTINATIONS);
        report("deliver.ledgers", ledgers, limits::SHARDS.saturating_mul(pools + limits::QUEUE_IDLE_DESTINATIONS));
        let [scopes, waiting] = self.scopes.sizes();
        // Two for each tenant and site, one for each campaign and site; some are remembered for a while.
        let jobs = self.queue.counts().ready + self.queue.counts().in_flight;
        report("deliver.scopes waited in", waiting, jobs + limits::SCOPE_FLOWS);
        report("deliver.scopes", scopes, limits::SCOPE_FLOWS + 4 * jobs);
        let [rests, ends, shares] = self.sources.sizes();
        let sources = self.config.sources.list.len();
        report("deliver.sources at sites", shares, sources * (pools + limits::QUEUE_IDLE_DESTINATIONS));
        report("deliver.sources that rest", rests, limits::SOURCE_RESTS);
        report("deliver.ends of rests", ends, 4 * limits::SOURCE_RESTS);
        let [down, waiting] = self.sources.down.sizes();
        report("deliver.sources whose proxies fail", down, limits::SOURCE_RESTS);
        report("deliver.waiting for proxies", waiting, pools + limits::QUEUE_IDLE_DESTINATIONS);
        report("deliver.writers", self.writers.len(), limits::MAILDIR_WRITERS);
        report("deliver.pools", self.pools.len(), pools);
        // Loaded or asked for ahead of their turn: `next_loaded` stops at the bound.
        let fetching = self.pools.values().map(|p| p.fetching).max();
        report("deliver.fetching for one destination", fetching.unwrap_or(0), limits::FETCH_AHEAD);
        let loaded = self.pools.values().map(|p| p.loaded.len()).max();
        report("deliver.loaded for one destination", loaded.unwrap_or(0), limits::FETCH_AHEAD);
        // Beyond the bound a destination has one record asked for; one that has come is kept where there is a connection.
        let (record, most) = (limits::SPOOL_READ_BYTES, limits::FETCH_AHEAD_BYTES);
        report("deliver.octets ahead", self.ahead.octets(), most + self.pools.len() * record);
        let homes = connections + self.routes.maildirs();
        report("deliver.octets loaded", self.ahead.loaded, most + homes * record);
        let asked: usize = self.pools.values().map(|p| p.fetching).sum();
        let held: usize = self.pools.values().flat_map(|p| &p.loaded).map(|(_, bytes)| bytes).sum();
        report(
            "deliver.octets ahead, miscounted",
            asked.abs_diff(self.ahead.asked) + held.abs_diff(self.ahead.loaded),
            0,
        );
        let fetches = self.most_fetches();
        report("deliver.fetches", self.fetches.len(), fetches);
        // One entry for each domain, of which a site has several.
        let domains = self.queue.domains();
        report("deliver.resolving", self.resolving.len(), limits::DNS_PENDING_DOMAINS.min(domains));
        let waiting = self.resolving.values().map(Vec::len).sum();
        report("deliver.waiting for DNS", waiting, domains);
        report("deliver.asking", self.asking.len(), limits::DNS_PENDING_FACTS);
        let [domains, asked, refreshing] = self.sts.sizes();
        report("deliver.domains with MTA-STS", domains, limits::STS_DOMAINS);
        report("deliver.policies asked for", asked, limits::STS_DOMAINS);
        report("deliver.policies being refreshed", refreshing, limits::STS_DOMAINS);
        report("deliver.hosts with broken TLS", self.broken.len(), limits::TLS_BROKEN_HOSTS);
        report("deliver.questions", self.questions.len(), limits::DNS_EXCHANGES);
        report("deliver.exchanges", self.exchanges.len(), limits::DNS_EXCHANGES);
        // Looked through at each turn; as many may close between two turns as there can be.
        report("deliver.idle", self.idle.len(), 3 * connections + 64);
        report("deliver.touched", self.touched.len(), 0);
        report("deliver.wake", self.wake.len(), pools);
        report("deliver.starved", self.starved.len(), pools);
        report("deliver.due", self.due.capacity(), 2 * connections.max(4));
        let attempts = 2 * limits::DNS_MX_HOSTS * limits::DNS_ADDRESSES_PER_FAMILY;
        report("deliver.order", self.order.len(), attempts);

        let (mut transactions, mut pieces, mut unsent, mut sealed, mut way, mut client) = (0, 0, 0, 0, 0, [0; 4]);
        for connection in self.connections.ids().filter_map(|conn| self.connections.get(conn)) {
            transactions = transactions.max(connection.transactions.len());
            let (count, bytes) = connection.unsent_size();
            way = way.max(connection.way.as_ref().map_or(0, |way| way.size()));
            sealed = sealed.max(connection.secure.sealed.as_ref().map_or(0, |s| s.waiting()));
            (pieces, unsent) = (pieces.max(count), unsent.max(bytes));
            let sizes = connection.client.as_ref().map_or([0; 4], |c| c.sizes());
            client.iter_mut().zip(sizes).for_each(|(most, size)| *most = (*most).max(size));
        }
        // The one that waits for the reply to its final dot, and the one pipelined behind it; or those of a flight, and one by
        // DATA behind them.
        report("deliver.connection.transactions", transactions, limits::FLIGHT_TRANSACTIONS.max(2));
        // What one write had, or two chunks of a streamed body and what went in front.
        report("deliver.connection.pieces", pieces, 2 * limits::FLIGHT_TRANSACTIONS + 4);
        let envelope = (limits::TRANSACTION_RECIPIENTS + 4) * limits::COMMAND_LINE_BYTES.min(limits::PATH_BYTES + 64);
        report("deliver.connection.way", way, limits::SOCKS_REPLY_BYTES + limits::PROXY_OPENING_BYTES);
        report("deliver.connection.sealed", sealed, limits::TLS_SEAL_BYTES + limits::TLS_SEAL_OVERHEAD_BYTES);
        let flight = (limits::FLIGHT_OCTETS + limits::FLIGHT_BODY_BYTES) as usize + envelope;
        // Texts that lost doubled dots are copies.
        report("deliver.connection.unsent commands", unsent, flight + 2 * envelope);
        report("deliver.flights", self.flights.len(), limits::FLIGHT_HOSTS);
        let [commands, parser, events, texts] = client;
        report("deliver.connection.commands", commands, limits::FLIGHT_OCTETS as usize + 2 * envelope);
        report("deliver.connection.parser", parser, limits::REPLY_TEXT_BYTES + 2 * limits::REPLY_LINE_BYTES);
        // Taken before the event that brought them ends.
        report("deliver.connection.events", events, 0);
        let transactions = limits::FLIGHT_TRANSACTIONS.max(2);
        let most_texts = transactions * (limits::TRANSACTION_RECIPIENTS + 2) * limits::REPLY_TEXT_BYTES;
        report("deliver.connection.texts", texts, most_texts);
        self.queue.audit(report);
        self.resolver.audit(report);
    }

    /// The most parts of messages that may be asked for: each destination's ahead of their turn, and a chunk for each
    /// connection. A connection that ends leaves its question open; the job's next connection cannot get farther than
    /// to ask for its first chunk before that is answered, so there are two more for each job at the most.
    pub(crate) fn most_fetches(&self) -> usize {
        let counts = self.queue.counts();
        let jobs = counts.ready + counts.waiting + counts.in_flight;
        self.pools.len() * limits::FETCH_AHEAD + self.max_connections + 2 * jobs
    }
}
