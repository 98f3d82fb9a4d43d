//! What reports of TLS (TLSRPT, RFC 8460) are made of: one fact for each connection to a mail exchanger that was to have TLS, and the
//! records by which domains ask for reports.
//!
//! In: connections that are ready for mail, or ended before; hosts that must not be connected to; questions of the control
//! plane. Out: events, which may be dropped and are counted then. Lives on the shard that owns the connection. It refuses to
//! count anything: the control plane does; and without `[tls_reports]` it does nothing. A connection that serves several
//! domains counts for the one whose mail was next when it was there.

use super::connection::Connection;
use super::{Deliverer, Plans};
use crate::limits;
use crate::queue::DestinationId;
use crate::rt::ConnId;
use crate::rt::tls::client::Fault;
use crate::shard::Turn;
use crate::shard::event::{Event, RuaRecord};
use crate::smtp::client::{Awaited, CloseReason};
use crate::starttls::report::{ResultType, Session};
use crate::starttls::{Proof, Refused, Verified, Wish};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

/// As RFC 8460 §4.3 calls it.
fn result_of(fault: Fault) -> ResultType {
    match fault {
        Fault::Name => ResultType::CertificateHostMismatch,
        Fault::Expired => ResultType::CertificateExpired,
        Fault::Untrusted => ResultType::CertificateNotTrusted,
        Fault::NoAssociation => ResultType::TlsaInvalid,
        Fault::Invalid => ResultType::ValidationFailure,
    }
}

type Failure = (ResultType, Box<str>);

/// Of a connection that is ready for mail. `None`: it does not count, as TLS was not tried.
fn of_ready(connection: &Connection) -> Option<Option<Failure>> {
    let note = &connection.secure.note;
    let failure = |kind, why: &str| Some(Some((kind, why.into())));
    match (note.session, note.verified, note.decision.tested) {
        (None, ..) if note.decision.wish == Wish::Never => None,
        (None, ..) => failure(ResultType::StarttlsNotSupported, "mail went in the clear"),
        // RFC 8460 §1.1: a policy in mode testing is reported as if it were enforced.
        (Some(_), _, Some(false)) => {
            failure(ResultType::ValidationFailure, "the MTA-STS policy does not name this host")
        }
        (Some(_), Some(Verified::No(fault)), Some(true)) => failure(result_of(fault), &fault.to_string()),
        (Some(_), ..) => Some(None),
    }
}

/// Of a connection that ended before it was ready. `None`: not for its TLS.
fn of_closed(connection: &Connection, reason: &CloseReason<'_>) -> Option<Failure> {
    let why = connection.secure.why.as_deref();
    match reason {
        CloseReason::TlsNotOffered => Some((ResultType::StarttlsNotSupported, "STARTTLS is not offered".into())),
        CloseReason::TlsRefused(reply) => {
            Some((ResultType::StarttlsNotSupported, format!("{} {}", reply.code, reply.text).into()))
        }
        CloseReason::TlsFailed => match connection.secure.note.verified {
            Some(Verified::No(fault)) if connection.secure.decision.proof != Proof::None => {
                Some((result_of(fault), fault.to_string().into()))
            }
            _ => Some((ResultType::ValidationFailure, why.unwrap_or("the TLS handshake failed").into())),
        },
        CloseReason::Injected => {
            Some((ResultType::ValidationFailure, "bytes in the clear stood behind the reply to STARTTLS".into()))
        }
        CloseReason::Timeout(Awaited::Handshake) => {
            Some((ResultType::ValidationFailure, "the TLS handshake did not end in time".into()))
        }
        _ => None,
    }
}

impl Deliverer {
    /// A connection is ready for mail.
    pub(super) fn report_ready(&self, conn: ConnId, turn: &mut Turn<'_>) {
        let Some(connection) = self.reported(conn) else { return };
        let Some(failure) = of_ready(connection) else { return };
        self.report_connection(connection, failure, turn);
    }

    /// A connection has ended.
    pub(super) fn report_closed(&self, conn: ConnId, reason: &CloseReason<'_>, turn: &mut Turn<'_>) {
        let Some(connection) = self.reported(conn).filter(|connection| !connection.ready) else { return };
        let Some(failure) = of_closed(connection, reason) else { return };
        self.report_connection(connection, Some(failure), turn);
    }

    /// A host must not be connected to.
    pub(super) fn report_refused(
        &self,
        destination: DestinationId,
        (plans, at): (&Plans, u16),
        (host, remote): (&Rc<str>, Option<SocketAddr>),
        refused: Refused,
        turn: &mut Turn<'_>,
    ) {
        if self.config.tls_reports.is_none() || !plans.is_reported() {
            return;
        }
        let kind = match refused {
            Refused::TlsaUnknown => ResultType::DnssecInvalid,
            Refused::StsMismatch => ResultType::ValidationFailure,
        };
        let failure = Some((kind, refused.to_string().into()));
        self.report_session(destination, (plans, at), (host, remote), failure, turn);
    }

    fn reported(&self, conn: ConnId) -> Option<&Connection> {
        self.config.tls_reports.as_ref()?;
        self.connections.get(conn).map(|connection| &**connection).filter(|c| c.secure.plans.is_reported())
    }

    fn report_connection(&self, connection: &Connection, failure: Option<Failure>, turn: &mut Turn<'_>) {
        let plans = (&*connection.secure.plans, connection.attempt.host);
        self.report_session(connection.destination, plans, (&connection.host, connection.remote), failure, turn);
    }

    fn report_session(
        &self,
        destination: DestinationId,
        (plans, at): (&Plans, u16),
        (host, remote): (&Rc<str>, Option<SocketAddr>),
        failure: Option<Failure>,
        turn: &mut Turn<'_>,
    ) {
        let pool = self.pools.get(&destination);
        let loaded = pool.and_then(|pool| pool.loaded.front()).and_then(|(key, _)| self.queue.domain_of(*key));
        let next = || self.queue.next_domain(destination).or_else(|| pool?.fetched_for);
        let Some(domain) = loaded.or_else(next).and_then(|domain| self.queue.domain_name(domain)) else { return };
        let remote: Option<IpAddr> = remote.map(|remote| remote.ip().to_canonical());
        let mut sources = self.config.delivery.source_addresses.iter().copied();
        let session = Session {
            at: turn.now.wall,
            domain: (&**domain).into(),
            policy: plans.applied(at),
            host: (&**host).into(),
            remote,
            source: remote.and_then(|remote| sources.find(|source| source.is_ipv4() == remote.is_ipv4())),
            failure,
        };
        turn.report.events.push(Event::Tls(Box::new(session)));
    }

    /// The control plane wants the record by which a domain asks for reports (RFC 8460 §3).
    pub fn rua_record(&mut self, domain: &str, turn: &mut Turn<'_>) {
        let name = format!("_smtp._tls.{domain}");
        match self.resolver.txt(&name, turn.now.mono) {
            None if self.rua_asked.len() < limits::TLSRPT_QUESTIONS => {
                self.rua_asked.insert(name.into(), domain.into());
            }
            // It asks again.
            None => {}
            Some(answer) => {
                let texts = answer.ok();
                turn.report.events.push(Event::Rua(Box::new(RuaRecord { domain: domain.into(), texts })));
            }
        }
    }

    /// An answer of DNS about this name has come.
    pub(super) fn rua_answered(&mut self, name: &str, turn: &mut Turn<'_>) {
        if !self.rua_asked.is_empty()
            && let Some(domain) = self.rua_asked.remove(name)
        {
            self.rua_record(&domain, turn);
        }
    }
}
