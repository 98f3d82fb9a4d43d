//! Who comes in: what each listener asks of its clients, and the answers to what a session asks about one.
//!
//! Inputs: the configuration, the tables that a reload replaces (accounts, certificates), the questions of the server
//! machines. Outputs: policies and facts for new sessions, answers, work for other threads. Lives on its shard, within
//! `home`. It refuses to hash a password on the shard's thread.

use super::Turn;
use super::mailbox::{DomainVerdict, Mail};
use crate::accounts::{Accounts, check};
use crate::config::{Config, Demand, Listener, ListenerKind};
use crate::limits;
use crate::route::{self, Domain};
use crate::rt::tls::{self, Acceptor};
use crate::rt::{ConnId, WorkResult};
use crate::smtp::policy::{self, Extensions, PeerFacts, ServerPolicy, TlsFacts};
use crate::smtp::reply::text;
use crate::smtp::sasl::{self, Mechanism};
use crate::smtp::server::{Answer, Question, Server};
use slab::Slab;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

/// What a reload replaces, whole. Immutable, shared by all shards.
#[derive(Debug, Default)]
pub struct Tables {
    /// Who may authenticate.
    pub accounts: Accounts,
    /// Certificates, if there are any.
    pub tls: Option<Acceptor>,
}

/// The answer to a session's question.
#[derive(Debug)]
pub(super) enum Reply {
    Yes,
    Text(Vec<u8>),
    Nonce([u8; 24]),
    Sasl(sasl::Answer),
    Peer(PeerFacts),
}

impl Reply {
    /// As the machine takes it.
    pub(super) fn answer(self, give: impl FnOnce(Answer<'_>)) {
        match self {
            Reply::Yes => give(Answer::Yes),
            Reply::Text(text) => give(Answer::Reply(&text)),
            Reply::Nonce(nonce) => give(Answer::Nonce(nonce)),
            Reply::Sasl(answer) => give(Answer::Sasl(answer)),
            Reply::Peer(peer) => give(Answer::Peer(peer)),
        }
    }
}

/// See the module. Lives on its shard.
pub(super) struct Gate {
    config: Arc<Config>,
    /// By listener.
    policies: Vec<Arc<ServerPolicy>>,
    tables: Arc<Tables>,
    /// Passwords to check, in order; those under way.
    waiting: VecDeque<(ConnId, sasl::Question)>,
    checking: Slab<ConnId>,
    /// Sessions that wait for DNS: about their sender's domain, or a recipient's.
    verifying: Slab<(ConnId, Whose)>,
    me: u16,
    shards: u16,
}

/// Whose domain is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Sender,
    Recipient,
}

impl Gate {
    pub(super) fn new(me: u16, shards: u16, config: Arc<Config>, tables: Arc<Tables>) -> Self {
        let mut gate = Gate {
            config,
            policies: Vec::new(),
            tables,
            waiting: VecDeque::new(),
            checking: Slab::new(),
            verifying: Slab::new(),
            me,
            shards,
        };
        gate.make_policies();
        gate
    }

    /// New accounts and certificates. Sessions that have begun go on under the old ones but for what they ask from now on.
    pub(super) fn set_tables(&mut self, tables: Arc<Tables>) {
        self.tables = tables;
        self.make_policies();
    }

    fn make_policies(&mut self) {
        let (config, tables) = (&self.config, &self.tables);
        self.policies = config.listeners.iter().map(|l| Arc::new(server_policy(config, l, tables))).collect();
    }

    pub(super) fn policy(&self, listener: usize) -> &Arc<ServerPolicy> {
        &self.policies[listener]
    }

    pub(super) fn listener(&self, listener: usize) -> &Listener {
        &self.config.listeners[listener]
    }

    /// What begins TLS here.
    pub(super) fn acceptor(&self) -> Option<&Acceptor> {
        self.tables.tls.as_ref()
    }

    /// What is known of a client from its address alone.
    pub(super) fn facts(&self, listener: usize, peer: IpAddr) -> PeerFacts {
        let rules = self.listener(listener);
        let address = peer.to_canonical();
        let trusted = self.config.relay.allows(address);
        PeerFacts {
            may_relay: trusted && rules.kind == ListenerKind::Relay,
            ask_sender: rules.auth != Demand::Off || self.verifies(rules.verify_sender_domain),
            ask_recipient: self.verifies(rules.verify_recipient_domain),
            trusted,
            xclient: rules.xclient_networks.contain(address),
            xforward: rules.xforward_networks.contain(address),
            strict: rules.strict_pipelining && !trusted,
            ..PeerFacts::new(address, false)
        }
    }

    /// The answer to what the session on `conn` asks; `None` if it comes later, by [`worked`](Self::worked).
    pub(super) fn ask(
        &mut self,
        conn: ConnId,
        listener: usize,
        server: &Server,
        question: Question,
        turn: &mut Turn<'_>,
    ) -> Option<Reply> {
        Some(match question {
            Question::Nonce => {
                let mut nonce = [0; 24];
                for piece in nonce.chunks_exact_mut(8) {
                    piece.copy_from_slice(&turn.io.random().to_le_bytes());
                }
                Reply::Nonce(nonce)
            }
            Question::Sasl(question) if question.is_slow() => {
                if self.waiting.len() >= limits::AUTH_CHECKS_WAITING {
                    Reply::Sasl(sasl::Answer::Unavailable)
                } else {
                    self.waiting.push_back((conn, question));
                    self.start_checks(turn);
                    return None;
                }
            }
            Question::Sasl(question) => {
                let certificate = server.tls().and_then(|tls| tls.fingerprint.as_ref());
                Reply::Sasl(check::answer(&self.tables.accounts, &question, certificate))
            }
            Question::Sender => return self.sender(conn, listener, server, turn),
            Question::Recipient => return self.recipient(conn, listener, server, turn),
            Question::Verify(_) | Question::Expand(_) => Reply::Text(text::CANNOT_VERIFY.to_vec()),
            Question::Client(attributes) => {
                // What a proxy does not know is as untrusted as can be.
                let unknown = IpAddr::from([0, 0, 0, 0]);
                let before = server.peer();
                let address = attributes.address.map_or(before.address, |address| address.unwrap_or(unknown));
                Reply::Peer(PeerFacts { xclient: before.xclient, ..self.facts(listener, address) })
            }
        })
    }

    /// Domains are verified where the listener says so; not with a smart host, which knows a DNS of its own.
    fn verifies(&self, wanted: bool) -> bool {
        wanted && self.config.delivery.smart_host.is_none()
    }

    /// May the session's account use this reverse-path, and does its domain exist?
    fn sender(&mut self, conn: ConnId, listener: usize, server: &Server, turn: &mut Turn<'_>) -> Option<Reply> {
        let sender = server.envelope().sender();
        if let Some(account) = server.account()
            && !self.tables.accounts.may_send_as(account, sender)
        {
            return Some(Reply::Text(
                [b"550 5.7.1 Your account may not send as <".as_slice(), sender, b">\r\n"].concat(),
            ));
        }
        let Some(at) = memchr::memrchr(b'@', sender) else { return Some(Reply::Yes) };
        let domain = &sender[at + 1..];
        if !self.verifies(self.listener(listener).verify_sender_domain) || domain.first() == Some(&b'[') {
            return Some(Reply::Yes);
        }
        self.verify(conn, Whose::Sender, domain, turn)
    }

    /// May the session send to its last recipient, and does that domain take mail?
    fn recipient(&mut self, conn: ConnId, listener: usize, server: &Server, turn: &mut Turn<'_>) -> Option<Reply> {
        let Some(recipient) = server.envelope().recipients().last() else { return Some(Reply::Yes) };
        if !server.peer().may_relay && server.account().is_none() {
            return Some(Reply::Text(text::NO_RELAY.to_vec()));
        }
        if recipient.domain.is_empty() {
            return Some(Reply::Text(text::NO_POSTMASTER.to_vec()));
        }
        if !self.verifies(self.listener(listener).verify_recipient_domain) || recipient.domain.first() == Some(&b'[') {
            return Some(Reply::Yes);
        }
        self.verify(conn, Whose::Recipient, recipient.domain, turn)
    }

    fn verify(&mut self, conn: ConnId, whose: Whose, domain: &[u8], turn: &mut Turn<'_>) -> Option<Reply> {
        let domain = Domain::new(domain);
        let token = self.verifying.insert((conn, whose)) as u64;
        let owner = route::shard_of(route::hash(domain.as_str().as_bytes()), self.shards);
        turn.post.send(usize::from(owner), Mail::Verify { domain: domain.as_str().into(), asker: self.me, token });
        None
    }

    /// DNS has answered: whom, and what.
    pub(super) fn verified(&mut self, token: u64, verdict: DomainVerdict) -> Option<(ConnId, Reply)> {
        let (conn, whose) = self.verifying.try_remove(usize::try_from(token).ok()?)?;
        let refusal = match (whose, verdict) {
            (_, DomainVerdict::TakesMail) => return Some((conn, Reply::Yes)),
            (Whose::Sender, DomainVerdict::NullMx) => text::SENDER_NULL_MX,
            (Whose::Sender, DomainVerdict::NoSuchDomain | DomainVerdict::NoMailHost) => text::SENDER_DOMAIN,
            (Whose::Sender, DomainVerdict::Unknown) => text::SENDER_DOMAIN_UNKNOWN,
            (Whose::Recipient, DomainVerdict::NullMx) => text::RECIPIENT_NULL_MX,
            (Whose::Recipient, DomainVerdict::NoSuchDomain) => text::RECIPIENT_DOMAIN,
            (Whose::Recipient, DomainVerdict::NoMailHost) => text::RECIPIENT_NO_HOST,
            (Whose::Recipient, DomainVerdict::Unknown) => text::RECIPIENT_DOMAIN_UNKNOWN,
        };
        Some((conn, Reply::Text(refusal.to_vec())))
    }

    /// Passwords that wait, those under way, and questions to DNS.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sizes(&self) -> [usize; 3] {
        [self.waiting.len(), self.checking.len(), self.verifying.len()]
    }

    fn start_checks(&mut self, turn: &mut Turn<'_>) {
        while self.checking.len() < limits::AUTH_CHECKS {
            let Some((conn, question)) = self.waiting.pop_front() else { return };
            let token = self.checking.insert(conn) as u64;
            let tables = Arc::clone(&self.tables);
            turn.io.work(token, Box::new(move || Box::new(check::answer(&tables.accounts, &question, None))));
        }
    }

    /// A check has ended: whose, and the answer.
    pub(super) fn worked(&mut self, token: u64, result: WorkResult, turn: &mut Turn<'_>) -> Option<(ConnId, Reply)> {
        let conn = self.checking.try_remove(usize::try_from(token).ok()?)?;
        self.start_checks(turn);
        let answer = result.downcast::<sasl::Answer>().ok()?;
        Some((conn, Reply::Sasl(*answer)))
    }
}

/// What the machine is told of a handshake.
pub(super) fn tls_facts(facts: tls::Facts) -> TlsFacts {
    TlsFacts {
        fingerprint: facts.fingerprint,
        binding: sasl::Facts { tls_exporter: facts.exporter, tls_server_end_point: facts.end_point },
        description: facts.description,
    }
}

fn server_policy(config: &Config, listener: &Listener, tables: &Tables) -> ServerPolicy {
    let demand = |demand| match demand {
        Demand::Off => policy::Demand::Off,
        Demand::Offered => policy::Demand::Offered,
        Demand::Required => policy::Demand::Required,
    };
    let mut policy = ServerPolicy::new(&config.hostname, config.smtp.max_message_bytes, config.smtp.max_recipients);
    policy.command_timeout = config.smtp.command_timeout;
    policy.data_timeout = config.smtp.data_timeout;
    policy.error_delay = config.smtp.error_delay;
    policy.vrfy = config.smtp.vrfy;
    policy.expn = config.smtp.expn;
    policy.legacy_send = config.smtp.legacy_send;
    if listener.kind != ListenerKind::Relay {
        policy.extensions = Extensions::SUBMISSION;
    }
    policy.tls = match (&tables.tls, demand(listener.tls)) {
        (None, policy::Demand::Offered) => policy::Demand::Off,
        // Certificates that are gone do not open a door that needs them.
        (_, demand) => demand,
    };
    policy.auth = demand(listener.auth);
    policy.auth_without_tls = listener.auth_without_tls;
    let scram = tables.accounts.offers_scram();
    policy.mechanisms = Mechanism::ALL
        .into_iter()
        .filter(|m| scram || !matches!(m, Mechanism::ScramSha256 | Mechanism::ScramSha256Plus))
        .collect();
    policy
}
