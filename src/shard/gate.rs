//! Who comes in: what each listener asks of its clients, and the answers to what a session asks about one.
//!
//! Inputs: the configuration, the tables that a reload replaces (accounts, certificates), the questions of the server
//! machines. Outputs: policies and facts for new sessions, answers, work for other threads. Lives on its shard, within
//! `home`. It refuses to hash a password on the shard's thread.

use super::Turn;
use super::guard::{Guard, GuardMail};
use super::mailbox::{DomainVerdict, Mail};
use super::names::{self, Named};
use super::quota::{self, QuotaFiles, Quotas, Unit};
use super::rates::{Later, Rates};
use crate::accounts::{Accounts, check};
use crate::config::{Config, Demand, Listener, ListenerKind, Sources};
use crate::limits;
use crate::local::{self, LocalTable};
use crate::message::Member;
use crate::route::{self, Domain, Route, RouteTable};
use crate::rt::tls::client::Authorities;
use crate::rt::tls::{self, Acceptor};
use crate::rt::{ConnId, WorkResult};
use crate::shaping::Shaping;
use crate::smtp::policy::{self, Extensions, PeerFacts, ServerPolicy, TlsFacts};
use crate::smtp::reply::text;
use crate::smtp::sasl::{self, Mechanism};
use crate::smtp::server::{Answer, Question, Server};
use crate::smtp::socks::SocksLogin;
use crate::time::{Moment, Now};
use slab::Slab;
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What a reload replaces, whole. Immutable, shared by all shards.
#[derive(Debug, Default)]
pub struct Tables {
    /// Who may authenticate.
    pub accounts: Accounts,
    /// Certificates, if there are any.
    pub tls: Option<Acceptor>,
    /// Who vouches for the hosts that mail is delivered to; `None`: there is no TLS with them.
    pub authorities: Option<Authorities>,
    /// Who has a mailbox or an alias here.
    pub local: LocalTable,
    /// What receivers take.
    pub shaping: Arc<Shaping>,
    /// Domains whose mail does not go where DNS says.
    pub routes: RouteTable,
    /// The logins of the sources' proxies, by the numbers of the sources.
    pub proxy_logins: Vec<Option<Arc<SocksLogin>>>,
}

/// The answer to a session's question.
#[derive(Debug)]
pub(super) enum Reply {
    Yes,
    /// The recipient is an alias, or a list.
    Recipients(Vec<local::Member>),
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
            Reply::Recipients(members) => {
                let members: Vec<Member<'_>> = members.iter().map(names::member).collect();
                give(Answer::Recipients(&members));
            }
            Reply::Text(text) => give(Answer::Reply(&text)),
            Reply::Nonce(nonce) => give(Answer::Nonce(nonce)),
            Reply::Sasl(answer) => give(Answer::Sasl(answer)),
            Reply::Peer(peer) => give(Answer::Peer(peer)),
        }
    }
}

/// What is looked for in header sections: fields, by their names.
#[derive(Clone, Copy)]
pub(super) struct Sought<'a> {
    /// The one that names campaigns, while any is limited or has a pool.
    pub(super) campaign: Option<&'a str>,
    /// The one that names pools, and those there are.
    pub(super) pool: Option<(&'a str, &'a Sources)>,
}

impl Sought<'_> {
    /// Whether it is anything.
    pub(super) fn is_any(&self) -> bool {
        self.campaign.is_some() || self.pool.is_some()
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
    verifying: Slab<Verifying>,
    /// AUTHs that wait for the owners of their account and network, and then for their time.
    guarded: Slab<Guarded>,
    delayed: BTreeSet<(Moment, u64)>,
    /// Failures of the keys that this shard owns.
    guard: Guard,
    rates: Rates,
    /// Sending limits of accounts.
    pub(super) quotas: Quotas,
    me: u16,
    shards: u16,
}

/// The reply to an account that wants to send.
fn charged(unit: Unit, verdict: quota::Verdict, now: Now) -> Reply {
    let what = if unit == Unit::Message { "messages" } else { "recipients" };
    let text = match verdict {
        quota::Verdict::Yes => return Reply::Yes,
        quota::Verdict::Unavailable => {
            "451 4.3.0 Sending limits cannot be looked up just now, try again later\r\n".to_owned()
        }
        quota::Verdict::Over(None) => format!("550 5.7.1 Your account may send no {what}\r\n"),
        quota::Verdict::Over(Some(wait)) => {
            let at = i64::try_from(now.wall.0 / 1000 + seconds(wait)).unwrap_or(i64::MAX);
            let at = jiff::Timestamp::from_second(at).unwrap_or(jiff::Timestamp::MAX);
            format!(
                "452 4.7.1 Your account has sent as many {what} as it may for now, come back in {} s (at {at})\r\n",
                seconds(wait)
            )
        }
    };
    Reply::Text(text.into_bytes())
}

/// Whole seconds, rounded up, for a client to wait.
fn seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// An AUTH whose answer may have to wait.
struct Guarded {
    conn: ConnId,
    question: sasl::Question,
    network: u64,
    answers_due: u8,
    wait: Duration,
}

/// What guesses for an account count under.
fn account_key(account: &str) -> u64 {
    route::hash(&[b"account ", account.as_bytes()].concat())
}

/// What guesses and handshakes of a client count under: its address, or its /64 network, which one host has whole.
pub(super) fn network_key(peer: IpAddr) -> u64 {
    match peer.to_canonical() {
        IpAddr::V4(v4) => route::hash(&[b"network ".as_slice(), &v4.octets()].concat()),
        IpAddr::V6(v6) => route::hash(&[b"network ".as_slice(), &v6.octets()[..8]].concat()),
    }
}

/// A question to DNS.
struct Verifying {
    conn: ConnId,
    whose: Whose,
    /// Whose limits count then.
    account: Option<Box<str>>,
}

/// Whose domain is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Sender,
    Recipient,
}

impl Gate {
    pub(super) fn new(
        me: u16,
        shards: u16,
        config: Arc<Config>,
        tables: Arc<Tables>,
        quotas: &QuotaFiles,
        now: Now,
    ) -> Self {
        let mut gate = Gate {
            quotas: Quotas::new(me, shards, config.spool.path.clone(), quotas, now),
            rates: Rates::new(&config.clients, shards),
            config,
            policies: Vec::new(),
            tables,
            waiting: VecDeque::new(),
            checking: Slab::new(),
            verifying: Slab::new(),
            guarded: Slab::new(),
            delayed: BTreeSet::new(),
            guard: Guard::default(),
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

    /// What is looked for in header sections.
    pub(super) fn sought(&self) -> Sought<'_> {
        let sources = &self.config.sources;
        let wanted = self.tables.shaping.has_campaigns() || sources.has_campaigns();
        let campaign = wanted.then_some(&*self.config.campaign_header);
        Sought { campaign, pool: sources.header.as_deref().map(|name| (name, sources)) }
    }

    /// Who may authenticate.
    pub(super) fn accounts(&self) -> &Accounts {
        &self.tables.accounts
    }

    /// Whether a From that is not the account's gets a Sender; otherwise it is refused.
    pub(super) fn adds_sender(&self) -> bool {
        self.config.smtp.add_sender
    }

    /// A client connects; whether it may, and whether [`left`](Self::left) must tell of its end. The refusal is a reply.
    pub(super) fn admit(&mut self, peer: IpAddr, now: Moment) -> Result<bool, Vec<u8>> {
        if !self.rates.is_on() || self.config.relay.allows(peer) {
            return Ok(false);
        }
        let host = &self.config.hostname;
        match self.rates.connect(peer, now) {
            Ok(()) => Ok(true),
            Err(Later::TooManyOpen) => {
                Err(format!("421 4.7.0 {host} too many connections from your network\r\n").into_bytes())
            }
            Err(Later::In(wait)) => Err(format!(
                "421 4.7.0 {host} too many connections in a short time, come back in {} s\r\n",
                seconds(wait)
            )
            .into_bytes()),
        }
    }

    /// A client that was counted is gone.
    pub(super) fn left(&mut self, peer: IpAddr) {
        self.rates.left(peer);
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
        // XCLIENT may name one. Whether any of them has limits a reload may change while the session is there.
        let accounts = rules.auth != Demand::Off || !rules.xclient_networks.0.is_empty();
        PeerFacts {
            may_relay: trusted && rules.kind == ListenerKind::Relay,
            ask_sender: accounts
                || self.verifies(rules.verify_sender_domain)
                || !trusted && self.rates.counts_messages(),
            ask_recipient: accounts
                || self.verifies(rules.verify_recipient_domain)
                || !self.tables.local.is_empty()
                || self.tables.routes.rejects(),
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
            Question::Sasl(question) => return self.ask_guards(conn, server.peer().address, question, turn),
            Question::Sender => return self.sender(conn, listener, server, turn),
            Question::Recipient => return self.recipient(conn, listener, server, turn),
            Question::Verify(name) => Reply::Text(names::verify(&self.tables.local, &name)),
            Question::Expand(name) => Reply::Text(names::expand(&self.tables.local, &name)),
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
        let peer = server.peer();
        if !peer.trusted
            && server.account().is_none()
            && let Err(wait) = self.rates.message(peer.address, turn.now.mono)
        {
            let text = format!("451 4.7.1 Too many messages in a short time, come back in {} s\r\n", seconds(wait));
            return Some(Reply::Text(text.into_bytes()));
        }
        if let Some(account) = server.account()
            && !self.tables.accounts.may_send_as(account, sender)
            && !planted!(SenderNotChecked)
        {
            return Some(Reply::Text(
                [b"550 5.7.1 Your account may not send as <".as_slice(), sender, b">\r\n"].concat(),
            ));
        }
        let domain = memchr::memrchr(b'@', sender).map_or(&b""[..], |at| &sender[at + 1..]);
        let account = server.account();
        let exists = matches!(domain, [] | [b'[', ..]) || self.is_local(domain);
        if exists || !self.verifies(self.listener(listener).verify_sender_domain) {
            return self.charge(conn, account, Unit::Message, turn.now);
        }
        self.verify(conn, Whose::Sender, domain, account, turn)
    }

    /// May the session send to its last recipient, and does that domain take mail?
    fn recipient(&mut self, conn: ConnId, listener: usize, server: &Server, turn: &mut Turn<'_>) -> Option<Reply> {
        let Some(recipient) = server.envelope().recipients().last() else { return Some(Reply::Yes) };
        match names::named(&self.tables.local, recipient.address, recipient.domain) {
            Named::Elsewhere => {}
            // Everybody may write to who is here.
            Named::Mailbox => return self.charge(conn, server.account(), Unit::Recipient, turn.now),
            Named::Nobody => return Some(Reply::Text(text::NO_MAILBOX.to_vec())),
            Named::Members(members) => {
                // It counts as the one that the client has named.
                let reply = expansion(members, server);
                if matches!(reply, Reply::Text(_)) {
                    return Some(reply);
                }
                return match self.charge(conn, server.account(), Unit::Recipient, turn.now) {
                    Some(Reply::Yes) => Some(reply),
                    other => other,
                };
            }
        }
        if !server.peer().may_relay && server.account().is_none() {
            return Some(Reply::Text(text::NO_RELAY.to_vec()));
        }
        if recipient.domain.is_empty() {
            return Some(Reply::Text(text::NO_POSTMASTER.to_vec()));
        }
        let routed = !self.tables.routes.is_empty();
        let route = routed.then(|| Domain::new(recipient.domain)).and_then(|domain| self.route(&domain));
        if let Some(Route::Reject(why)) = route {
            return Some(Reply::Text(format!("550 5.7.1 {why}\r\n").into_bytes()));
        }
        // What DNS says is asked where it counts.
        let by_mx = matches!(route, None | Some(Route::Mx)) && recipient.domain.first() != Some(&b'[');
        if !by_mx || !self.verifies(self.listener(listener).verify_recipient_domain) {
            return self.charge(conn, server.account(), Unit::Recipient, turn.now);
        }
        self.verify(conn, Whose::Recipient, recipient.domain, server.account(), turn)
    }

    /// An answer that came later says yes to the session's last recipient: what it stands for takes its place.
    pub(super) fn expanded(&self, reply: Reply, server: &Server) -> Reply {
        let (Reply::Yes, Some(recipient)) = (&reply, server.envelope().recipients().last()) else { return reply };
        match names::named(&self.tables.local, recipient.address, recipient.domain) {
            Named::Members(members) => expansion(members, server),
            Named::Elsewhere | Named::Nobody | Named::Mailbox => reply,
        }
    }

    /// Who has a mailbox or an alias here.
    pub(super) fn local(&self) -> &LocalTable {
        &self.tables.local
    }

    fn route(&self, domain: &Domain) -> Option<&Route> {
        self.tables.routes.find(domain.as_str())
    }

    fn is_local(&self, domain: &[u8]) -> bool {
        !self.tables.local.is_empty() && self.tables.local.is_local(Domain::new(domain).as_str().as_bytes())
    }

    fn verify(
        &mut self,
        conn: ConnId,
        whose: Whose,
        domain: &[u8],
        account: Option<&str>,
        turn: &mut Turn<'_>,
    ) -> Option<Reply> {
        if self.verifying.len() >= self.config.smtp.max_sessions_per_shard {
            // Sessions that ask and go away leave their questions behind until DNS answers.
            let later =
                if whose == Whose::Sender { text::SENDER_DOMAIN_UNKNOWN } else { text::RECIPIENT_DOMAIN_UNKNOWN };
            return Some(Reply::Text(later.to_vec()));
        }
        let domain = Domain::new(domain);
        let account = account.map(Box::from);
        let token = self.verifying.insert(Verifying { conn, whose, account }) as u64;
        let owner = route::shard_of(route::hash(domain.as_str().as_bytes()), self.shards);
        turn.post.send(usize::from(owner), Mail::Verify { domain: domain.as_str().into(), asker: self.me, token });
        None
    }

    /// DNS has answered: whom, and what.
    pub(super) fn verified(&mut self, token: u64, verdict: DomainVerdict, now: Now) -> Option<(ConnId, Reply)> {
        if planted!(QuestionForgotten) && verdict == DomainVerdict::Unknown {
            return None;
        }
        let Verifying { conn, whose, account } = self.verifying.try_remove(usize::try_from(token).ok()?)?;
        let refusal = match (whose, verdict) {
            (_, DomainVerdict::TakesMail) => {
                let unit = if whose == Whose::Sender { Unit::Message } else { Unit::Recipient };
                return Some((conn, self.charge(conn, account.as_deref(), unit, now)?));
            }
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

    /// Before anything is checked: how long does an answer wait, for the account's sake and for the network's? Accounts that
    /// do not exist wait alike.
    fn ask_guards(
        &mut self,
        conn: ConnId,
        peer: IpAddr,
        question: sasl::Question,
        turn: &mut Turn<'_>,
    ) -> Option<Reply> {
        let network = network_key(peer);
        // One network does not take the places of all others.
        let of_network = self.guarded.iter().filter(|(_, other)| other.network == network).count();
        if self.guarded.len() >= limits::AUTHS_WAITING || of_network >= limits::AUTHS_OF_NETWORK {
            return Some(Reply::Sasl(sasl::Answer::Unavailable));
        }
        let keys = [network, question.account().map_or(0, account_key)];
        let guarded = Guarded { conn, question, network, answers_due: 2, wait: Duration::ZERO };
        let token = self.guarded.insert(guarded) as u64;
        for key in keys {
            let owner = route::shard_of(key, self.shards);
            turn.post.send(usize::from(owner), Mail::Guard(GuardMail::Ask { key, asker: self.me, token }));
        }
        None
    }

    /// What shards tell each other about guesses.
    pub(super) fn guard(&mut self, mail: GuardMail, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        match mail {
            GuardMail::Ask { key, asker, token } => {
                let wait = self.guard.wait(key, now);
                turn.post.send(usize::from(asker), Mail::Guard(GuardMail::Wait { token, wait }));
            }
            GuardMail::Failed { key } => self.guard.failed(key, now),
            GuardMail::Wait { token, wait } => {
                let Some(asked) = usize::try_from(token).ok().and_then(|at| self.guarded.get_mut(at)) else { return };
                asked.wait = asked.wait.max(wait);
                asked.answers_due -= 1;
                if asked.answers_due == 0 {
                    self.delayed.insert((now + asked.wait, token));
                }
            }
        }
    }

    /// A question that has waited long enough.
    pub(super) fn due(&mut self, now: Moment) -> Option<(ConnId, sasl::Question)> {
        let (at, token) = *self.delayed.first()?;
        if at > now {
            return None;
        }
        self.delayed.pop_first();
        let asked = self.guarded.try_remove(usize::try_from(token).ok()?)?;
        Some((asked.conn, asked.question))
    }

    /// When the next one has.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        self.delayed.first().map(|(at, _)| *at)
    }

    /// Checks a password, or finds keys; `None` if the answer comes from another thread.
    pub(super) fn check(
        &mut self,
        conn: ConnId,
        question: sasl::Question,
        tls: Option<&TlsFacts>,
        turn: &mut Turn<'_>,
    ) -> Option<Reply> {
        if !question.is_slow() {
            let certificate = tls.and_then(|tls| tls.fingerprint.as_ref());
            return Some(Reply::Sasl(check::answer(&self.tables.accounts, &question, certificate)));
        }
        if self.waiting.len() >= limits::AUTH_CHECKS_WAITING {
            return Some(Reply::Sasl(sasl::Answer::Unavailable));
        }
        self.waiting.push_back((conn, question));
        self.start_checks(turn);
        None
    }

    /// AUTH has failed for a wrong name, password or proof.
    pub(super) fn auth_failed(&self, account: Option<&str>, peer: IpAddr, turn: &mut Turn<'_>) {
        for key in [Some(network_key(peer)), account.map(account_key)].into_iter().flatten() {
            let owner = route::shard_of(key, self.shards);
            turn.post.send(usize::from(owner), Mail::Guard(GuardMail::Failed { key }));
        }
    }

    /// The last question about a sender or a recipient: has the account sent too much?
    fn charge(&mut self, conn: ConnId, account: Option<&str>, unit: Unit, now: Now) -> Option<Reply> {
        let Some(name) = account else { return Some(Reply::Yes) };
        let tables = Arc::clone(&self.tables);
        let Some(account) = tables.accounts.get(name) else {
            // It was removed since: what it may send nobody knows.
            return Some(Reply::Text(b"550 5.7.1 Your account is gone, nothing more is taken from it\r\n".to_vec()));
        };
        self.quotas.take(conn, account, unit, now.mono).map(|verdict| charged(unit, verdict, now))
    }

    /// Answers of that kind that have come.
    pub(super) fn charged(&mut self, now: Now) -> Option<(ConnId, Reply)> {
        let (conn, unit, verdict) = self.quotas.poll_answer(now.mono)?;
        Some((conn, charged(unit, verdict, now)))
    }

    /// The session is gone: its password is not worth a hash any more.
    pub(super) fn forget(&mut self, conn: ConnId) {
        self.waiting.retain(|(waiting, _)| *waiting != conn);
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
        let mut answer = result.downcast::<sasl::Answer>().ok()?;
        if planted!(PasswordUnchecked) {
            *answer = sasl::Answer::Password(true);
        }
        Some((conn, Reply::Sasl(*answer)))
    }
}

#[cfg(any(test, feature = "sim"))]
impl Gate {
    /// Passwords to check, those being checked, AUTHs that wait, questions to DNS, keys of guesses, client networks: how many there are.
    pub(super) fn sizes(&self) -> [usize; 7] {
        let passwords = [self.waiting.len(), self.checking.len(), self.guarded.len()];
        let others = [self.verifying.len(), self.guard.len(), self.rates.len(), self.quotas.waiting()];
        let ([a, b, c], [d, e, f, g]) = (passwords, others);
        [a, b, c, d, e, f, g]
    }
}

/// The answer to a RCPT of an alias or a list: as many recipients as it has members, if the transaction has room for them. A
/// list that has more than the policy allows may come alone.
fn expansion(members: Vec<local::Member>, server: &Server) -> Reply {
    let before = server.envelope().recipient_count() - 1;
    let all = before + members.len();
    if all > limits::RECIPIENTS || (before > 0 && all > server.policy().max_recipients) {
        return Reply::Text(text::TOO_MANY_RECIPIENTS.to_vec());
    }
    if members.iter().any(|member| !names::fits(member)) {
        return Reply::Text(text::BAD_MEMBER.to_vec());
    }
    Reply::Recipients(members)
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
