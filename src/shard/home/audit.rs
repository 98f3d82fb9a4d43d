//! Simulation and tests only: the sizes of what the accepting half holds, and their bounds.

use super::Home;
use crate::limits;

/// The most that one `Received` brings.
const RECEIVE_BYTES: usize = 64 << 10;

impl Home {
    /// See [`crate::shard::ShardCore::audit`].
    pub(in crate::shard) fn audit(&self, report: &mut dyn FnMut(&'static str, usize, usize)) {
        let sessions = self.config.smtp.max_sessions_per_shard;
        report("home.sessions", self.sessions.len(), sessions);
        report("home.sessions about to finish", self.about_to_finish, self.sessions.len());
        let mut most = [0; 4];
        for session in self.sessions.ids().filter_map(|conn| self.sessions.get(conn)) {
            most.iter_mut().zip(session.sizes()).for_each(|(most, size)| *most = (*most).max(size));
        }
        let [tail, unsent, body, recipients] = most;
        // Above it the socket is paused; one receive may be on its way.
        report("home.session.tail", tail, limits::SESSION_TAIL_BYTES + RECEIVE_BYTES);
        // With that much unsent the machine is fed no more; it was fed until it had said as much, and a reply ends whole.
        report("home.session.unsent", unsent, 2 * limits::SESSION_OUT_BYTES + limits::COMMAND_LINE_BYTES);
        report("home.session.body", body, self.log.chunk_bytes());
        let [handshakes, networks, of_network] = self.handshakes.sizes();
        report("home.handshakes", handshakes, limits::TLS_HANDSHAKES);
        report("home.handshakes of a network", of_network, limits::TLS_HANDSHAKES_OF_NETWORK);
        report("home.networks with handshakes", networks, handshakes);
        let handshaking = self.sessions.ids().filter_map(|conn| self.sessions.get(conn)?.handshaking());
        report("home.handshakes, miscounted", handshaking.count().abs_diff(handshakes), 0);
        report("home.session.recipients", recipients, self.config.smtp.max_recipients);
        // Twice: the list is looked through when it is longer than that.
        report("home.paused", self.paused.len(), 2 * sessions + 65);
        report("home.due", self.due.capacity(), 2 * sessions.max(4));
        let [waiting, checking, guarded, asked, guesses, networks, leases] = self.gate.sizes();
        report("home.passwords waiting", waiting, limits::AUTH_CHECKS_WAITING);
        report("home.passwords being checked", checking, limits::AUTH_CHECKS);
        report("home.domains asked for", asked, sessions);
        report("home.gate.leases", leases, sessions);
        report("home.gate.networks", networks, limits::CLIENT_NETWORKS);
        report("home.gate.guarded", guarded, limits::AUTHS_WAITING);
        report("home.gate.guesses", guesses, limits::GUARD_KEYS);
        report("home.out", self.out.len(), 0);
        let [waiting, read, written, senders] = self.notifier.sizes();
        report("home.senders of bounces", senders, limits::BOUNCE_SENDERS + 1);
        report("home.bounces being read", read, limits::BOUNCES_READING);
        report("home.octets being read", self.reading, limits::SPOOL_READING_BYTES);
        // One each for recipients of a live message.
        let failed = limits::LIVE_MESSAGES_PER_SHARD.saturating_mul(limits::RECIPIENTS);
        report("home.bounces", waiting, failed);
        // Each is a notification, of some 1 KiB, in a commit that waits or is being written.
        let commits = (limits::SPOOL_COMMITS_QUEUED + 2) * limits::SPOOL_COMMIT_BYTES as usize;
        report("home.notices", written, commits / 512);
        self.log.audit(sessions, report);
    }

    /// Messages that are not settled.
    pub(in crate::shard) fn live_messages(&self) -> usize {
        self.log.live_messages()
    }

    /// Reads of the log under way and wanted, for owners and for notifications.
    pub(in crate::shard) fn reads(&self) -> usize {
        self.reads.len() + self.reads_wanted.len()
    }
}
