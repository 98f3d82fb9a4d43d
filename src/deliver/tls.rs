//! TLS of one connection to a next hop: what it must do and may be believed for, the records that go over it, and which hosts'
//! TLS does not work.
//!
//! In: the facts about a host as `plans` has gathered them, bytes of the socket. Out: a wish for the client machine, bytes sealed
//! and opened, what the events tell. Lives on the shard that owns the connection. It decides nothing: `starttls` does.

use super::{Deliverer, Plans, Turn};
use crate::limits;
use crate::rt::tls::{Progress, Tls};
use crate::rt::{ConnId, Io};
use crate::shard::event::{TlsNote, Unencrypted};
use crate::smtp::client::{Client, CloseReason, TlsFacts, TlsWish};
use crate::starttls::{Decision, Proof, Verified, Wish, numbers};
use crate::time::Moment;
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::io::IoSlice;
use std::rc::Rc;

/// TLS of a connection, from the decision on.
pub(super) struct Secure {
    pub(super) decision: Decision,
    /// What was known of all hosts when it was made.
    pub(super) plans: Rc<Plans>,
    /// From STARTTLS on.
    pub(super) sealed: Option<Box<Sealed>>,
    pub(super) note: TlsNote,
    /// Why TLS came to nothing, for the operator and the sender.
    pub(super) why: Option<String>,
}

impl Secure {
    pub(super) fn new(decision: Decision, plans: Rc<Plans>) -> Self {
        Secure { decision, plans, sealed: None, note: TlsNote::new(decision), why: None }
    }

    /// What the client machine is to do about STARTTLS.
    pub(super) fn wish(&self) -> TlsWish {
        match self.decision.wish {
            Wish::Never => TlsWish::Never,
            Wish::IfOffered => TlsWish::IfOffered,
            Wish::Require => TlsWish::Require,
        }
    }

    /// Whether octets wait for the socket: nothing goes past them.
    pub(super) fn is_waiting(&self) -> bool {
        self.sealed.as_ref().is_some_and(|sealed| sealed.waiting() > 0)
    }

    /// For the events; none where TLS is no question.
    pub(super) fn note(&self) -> Option<TlsNote> {
        (!self.plans.is_unasked()).then_some(self.note)
    }

    /// The machine is ready for mail: in TLS, or else in the clear, and why.
    pub(super) fn ready(&mut self) {
        if self.note.session.is_none() && self.decision.wish != Wish::Never {
            self.note.unencrypted = Some(Unencrypted::NotOffered);
        }
    }
}

/// The records of a connection.
pub(super) struct Sealed {
    tls: Tls,
    /// What the socket has not taken, and how much of it it has.
    out: Vec<u8>,
    at: usize,
}

impl Sealed {
    /// Octets that wait for the socket.
    pub(super) fn waiting(&self) -> usize {
        self.out.len() - self.at
    }

    /// Whether the socket took all.
    pub(super) fn push(&mut self, conn: ConnId, io: &mut dyn Io) -> bool {
        if self.at < self.out.len() {
            self.at += io.write(conn, &[IoSlice::new(&self.out[self.at..])]);
            if self.at < self.out.len() {
                return false;
            }
        }
        self.out.clear();
        self.out.shrink_to(limits::TLS_SEAL_BYTES + limits::TLS_SEAL_OVERHEAD_BYTES);
        self.at = 0;
        true
    }

    /// As [`Io::write`]: what was taken is sealed, and sent as far as the socket took it. Commands and a small body make one
    /// write; of a large one no more is sealed than the socket takes, and one piece.
    fn write(&mut self, conn: ConnId, io: &mut dyn Io, parts: &[IoSlice<'_>]) -> usize {
        let mut taken = 0;
        if !self.push(conn, io) {
            return taken;
        }
        for piece in parts.iter().flat_map(|part| part.chunks(limits::TLS_SEAL_BYTES)) {
            if self.waiting() + piece.len() > limits::TLS_SEAL_BYTES && !self.push(conn, io) {
                return taken;
            }
            if let Err(error) = self.tls.send(piece, &mut self.out) {
                // It has ended, and the socket is about to say so.
                tracing::debug!(%error, "TLS takes nothing more");
            }
            taken += piece.len();
        }
        self.push(conn, io);
        taken
    }

    /// Says that nothing more comes, as far as that can be said at once.
    pub(super) fn close(&mut self, conn: ConnId, io: &mut dyn Io) {
        self.tls.close(&mut self.out);
        self.push(conn, io);
    }
}

/// Writes to a connection, through its TLS if it has one.
pub(super) fn write(secure: &mut Secure, conn: ConnId, io: &mut dyn Io, parts: &[IoSlice<'_>]) -> usize {
    match &mut secure.sealed {
        None => io.write(conn, parts),
        Some(sealed) => sealed.write(conn, io, parts),
    }
}

/// Hosts whose TLS came to nothing, where nobody requires it: for a time their mail goes in the clear. At most
/// [`limits::TLS_BROKEN_HOSTS`].
#[derive(Default)]
pub(super) struct Broken {
    until: HashMap<Rc<str>, Moment, foldhash::quality::FixedState>,
}

impl Broken {
    pub(super) fn contains(&self, host: &str, now: Moment) -> bool {
        !self.until.is_empty() && self.until.get(host).is_some_and(|until| *until > now)
    }

    pub(super) fn insert(&mut self, host: &Rc<str>, now: Moment) {
        if self.until.len() >= limits::TLS_BROKEN_HOSTS && !self.until.contains_key(host) {
            self.until.retain(|_, until| *until > now);
            // Rare, and no more work than a handshake.
            let oldest =
                self.until.iter().map(|(host, until)| (*until, self.until.hasher().hash_one(host), host)).min();
            if let Some(oldest) = oldest.map(|(.., host)| Rc::clone(host))
                && self.until.len() >= limits::TLS_BROKEN_HOSTS
            {
                self.until.remove(&oldest);
            }
        }
        self.until.insert(Rc::clone(host), now + limits::TLS_BROKEN_TIME);
    }

    #[cfg(any(test, feature = "sim"))]
    pub(super) fn len(&self) -> usize {
        self.until.len()
    }
}

impl Deliverer {
    /// The peer has answered STARTTLS with 220.
    pub(super) fn begin_tls(&mut self, conn: ConnId, client: &mut Client, turn: &mut Turn<'_>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let mut out = Vec::new();
        let name = connection.secure.plans.host(connection.attempt.host).server_name(&connection.host);
        let begun = match &self.connector {
            Some(connector) => connector.connect(name, &mut out).map_err(|error| error.to_string()),
            None => Err("there is no TLS here".to_owned()),
        };
        match begun {
            Ok(tls) => {
                let mut sealed = Box::new(Sealed { tls, out, at: 0 });
                sealed.push(conn, turn.io);
                connection.secure.sealed = Some(sealed);
            }
            Err(why) => {
                connection.secure.why = Some(why);
                client.tls_failed();
            }
        }
    }

    /// Bytes of a connection that is in TLS, or about to be.
    pub(super) fn received_sealed(&mut self, conn: ConnId, bytes: &[u8], turn: &mut Turn<'_>) {
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let (Some(sealed), Some(client)) = (&mut connection.secure.sealed, &mut connection.client) else { return };
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        let was_handshaking = sealed.tls.is_handshaking();
        let progress = sealed.tls.receive(bytes, &mut plain, &mut sealed.out);
        sealed.push(conn, turn.io);
        match progress {
            Err(why) if was_handshaking => {
                connection.secure.why = Some(format!("the TLS handshake failed: {why}"));
                client.tls_failed();
            }
            Err(_) => client.handle_closed(),
            Ok(progress) => {
                if progress == Progress::Established {
                    match judge(&mut connection.secure, connection.attempt.host, &connection.host) {
                        Ok(facts) => {
                            turn.report.stats.outbound_tls.add(1);
                            let resumed = connection.secure.note.session.is_some_and(|session| session.resumed);
                            turn.report.stats.outbound_tls_resumed.add(u64::from(resumed));
                            client.tls_established(facts, turn.now.mono);
                        }
                        Err(why) => {
                            connection.secure.why = Some(why);
                            client.tls_failed();
                        }
                    }
                }
                client.handle_input(&plain, turn.now.mono);
                if progress == Progress::Ended {
                    client.handle_closed();
                }
            }
        }
        plain.shrink_to(limits::TLS_SEAL_BYTES);
        self.plain = plain;
        self.progress(conn, turn);
    }

    /// A connection whose TLS came to nothing goes in the clear the next time, at once, if nothing requires TLS; otherwise it
    /// has failed. In the first case the address is to be tried again.
    pub(super) fn tls_came_to_nothing(&mut self, conn: ConnId, turn: &mut Turn<'_>) -> bool {
        let Some(connection) = self.connections.get_mut(conn) else { return false };
        if connection.ready || connection.secure.decision.wish != Wish::IfOffered {
            return false;
        }
        connection.others.push(connection.attempt);
        self.broken.insert(&connection.host, turn.now.mono);
        turn.report.stats.tls_broken.add(1);
        true
    }
}

/// Whether a handshake that never ended, or ended badly, is why the connection did.
pub(super) fn is_about_tls(reason: &CloseReason<'_>) -> bool {
    use crate::smtp::client::Awaited;
    matches!(reason, CloseReason::TlsFailed | CloseReason::Injected | CloseReason::Timeout(Awaited::Handshake))
}

/// What the handshake is worth, or why no mail may go over it.
fn judge(secure: &mut Secure, host: u16, name: &str) -> Result<TlsFacts, String> {
    let Some(sealed) = &secure.sealed else { return Err("there is no TLS".to_owned()) };
    let facts = secure.plans.host(host);
    let verified = if secure.decision.proof == Proof::Dane {
        // RFC 7672 §3.2.3, of DANE-TA(2) certificates: the name by which the records were found, and the host's. Not the
        // recipient's domain: the connection serves all domains of the site.
        let names = [facts.server_name(name), name];
        match sealed.tls.associated(facts.records(), &names) {
            Ok(record) => {
                let (usage, selector, matching) = numbers(record);
                Verified::Dane(usage, selector, matching)
            }
            Err(fault) => Verified::No(fault),
        }
    } else {
        // Also where nobody asks: for the event, and for who sends with REQUIRETLS.
        sealed.tls.vouched(&[name]).map_or_else(Verified::No, |()| Verified::Pkix)
    };
    secure.note.session = Some(sealed.tls.session());
    secure.note.verified = Some(verified);
    match secure.decision.accepts(verified) {
        Ok(()) => Ok(TlsFacts { verified: secure.decision.suits_requiretls(verified) }),
        Err(fault) => Err(format!("TLS is not good enough (decided by {}): {fault}", secure.decision.by.name())),
    }
}
