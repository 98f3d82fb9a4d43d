//! PURE. What the sessions of one listener have in common, what is known of one client, and what EHLO announces to it.
//!
//! In: the configuration's figures. Out: [`ServerPolicy`], immutable and shared by all shards, and the lines of the EHLO
//! reply. It refuses nothing: the configuration has checked it.

use super::sasl::{self, Mechanism};
use crate::limits;
use std::net::IpAddr;
use std::time::Duration;

/// A set of extensions. What is in it is announced, and only its parameters are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extensions(u16);

impl Extensions {
    /// RFC 1870.
    pub const SIZE: Extensions = Extensions(1);
    /// RFC 6152.
    pub const EIGHT_BIT_MIME: Extensions = Extensions(1 << 1);
    /// RFC 3030: BDAT, and with it BINARYMIME.
    pub const CHUNKING: Extensions = Extensions(1 << 2);
    /// RFC 6531.
    pub const SMTPUTF8: Extensions = Extensions(1 << 3);
    /// RFC 3461.
    pub const DSN: Extensions = Extensions(1 << 4);
    /// RFC 8689; announced under TLS only (§2).
    pub const REQUIRETLS: Extensions = Extensions(1 << 5);
    /// RFC 2852.
    pub const DELIVERBY: Extensions = Extensions(1 << 6);
    /// RFC 4865; for submission.
    pub const FUTURERELEASE: Extensions = Extensions(1 << 7);
    /// RFC 6710.
    pub const MT_PRIORITY: Extensions = Extensions(1 << 8);
    /// RFC 4954.
    pub const AUTH: Extensions = Extensions(1 << 9);

    /// What every relay listener announces.
    pub const RELAY: Extensions = Extensions::SIZE
        .with(Extensions::EIGHT_BIT_MIME)
        .with(Extensions::CHUNKING)
        .with(Extensions::SMTPUTF8)
        .with(Extensions::DSN)
        .with(Extensions::REQUIRETLS)
        .with(Extensions::DELIVERBY)
        .with(Extensions::MT_PRIORITY);
    /// What every submission listener announces.
    pub const SUBMISSION: Extensions = Extensions::RELAY.with(Extensions::FUTURERELEASE);

    /// Both.
    pub const fn with(self, other: Extensions) -> Extensions {
        Extensions(self.0 | other.0)
    }

    /// Whether all of `other` is in it.
    pub const fn has(self, other: Extensions) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    const fn without(self, other: Extensions) -> Extensions {
        Extensions(self.0 & !other.0)
    }
}

/// Whether a listener wants something of its clients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Demand {
    /// There is no such thing.
    #[default]
    Off,
    /// Who wants may.
    Offered,
    /// No mail without it: 530.
    Required,
}

/// What all sessions of a listener have in common. Immutable, shared by all shards.
#[derive(Clone, Debug)]
pub struct ServerPolicy {
    /// The name this server greets with.
    pub hostname: String,
    /// The largest message, octets as received without the final dot's line.
    pub max_message_bytes: u64,
    /// Recipients of one transaction, at most.
    pub max_recipients: usize,
    /// Time for the next command.
    pub command_timeout: Duration,
    /// Time for the next piece of message data.
    pub data_timeout: Duration,
    /// What EHLO announces, and which parameters are taken.
    pub extensions: Extensions,
    /// STARTTLS (RFC 3207). A session that began with TLS has it already.
    pub tls: Demand,
    /// AUTH (RFC 4954).
    pub auth: Demand,
    /// AUTH also without TLS: passwords in the clear.
    pub auth_without_tls: bool,
    /// Mechanisms, in the order announced.
    pub mechanisms: Vec<Mechanism>,
    /// `vrfy = "local"`: the driver is asked. Otherwise 252.
    pub vrfy: bool,
    /// `expn = "trusted"`: the driver is asked, for trusted clients. Otherwise 502.
    pub expn: bool,
    /// SEND, SOML and SAML count as MAIL (RFC 821 §3.4). Otherwise 502.
    pub legacy_send: bool,
    /// How much later the next command is read after each further error; none: at once.
    pub error_delay: Duration,
    /// Transactions of one session, announced by LIMITS MAILMAX (RFC 9422); 0: as many as it likes.
    pub max_mails: u32,
    // Replies that name the host or a figure, made once.
    pub(super) greeting: Vec<u8>,
    pub(super) helo: Vec<u8>,
    pub(super) bye: Vec<u8>,
    pub(super) timed_out: Vec<u8>,
    pub(super) shutting_down: Vec<u8>,
}

impl ServerPolicy {
    /// A relay without TLS and AUTH, with the timeouts of limits.rs. `hostname` is a domain name, which the configuration
    /// has checked.
    pub fn new(hostname: &str, max_message_bytes: u64, max_recipients: usize) -> Self {
        let line = |text: String| (text + "\r\n").into_bytes();
        ServerPolicy {
            hostname: hostname.to_string(),
            max_message_bytes,
            max_recipients,
            command_timeout: limits::SERVER_COMMAND_TIMEOUT,
            data_timeout: limits::SERVER_DATA_TIMEOUT,
            extensions: Extensions::RELAY,
            tls: Demand::Off,
            auth: Demand::Off,
            auth_without_tls: false,
            mechanisms: Vec::new(),
            vrfy: false,
            expn: false,
            legacy_send: false,
            error_delay: Duration::ZERO,
            max_mails: 0,
            greeting: line(format!("220 {hostname} ESMTP Ringpost")),
            helo: line(format!("250 {hostname}")),
            bye: line(format!("221 2.0.0 {hostname} closing connection")),
            timed_out: line(format!("421 4.4.2 {hostname} timed out waiting for you, closing connection")),
            shutting_down: line(format!("421 4.3.2 {hostname} is shutting down, try again soon")),
        }
    }

    /// What may be used in a session, with or without TLS.
    pub(super) fn usable(&self, tls: bool, authenticated: bool) -> Extensions {
        let usable = if tls { self.extensions } else { self.extensions.without(Extensions::REQUIRETLS) };
        // MAIL's AUTH= belongs to the extension, whether it can be used for authentication just now or not.
        let auth = authenticated || self.auth != Demand::Off;
        if auth { usable.with(Extensions::AUTH) } else { usable }
    }

    /// Whether AUTH may be used in such a session (RFC 4954 §4: not twice).
    pub(super) fn offers_auth(&self, tls: bool, authenticated: bool) -> bool {
        self.auth != Demand::Off && !authenticated && (tls || self.auth_without_tls)
    }

    /// The mechanisms of this session: SCRAM-SHA-256-PLUS needs a channel to bind to, EXTERNAL a certificate.
    pub(super) fn mechanisms(&self, tls: Option<&TlsFacts>) -> impl Iterator<Item = Mechanism> {
        let plus = tls.is_some_and(|tls| tls.binding.offers_plus());
        let certificate = tls.is_some_and(|tls| tls.fingerprint.is_some());
        self.mechanisms.iter().copied().filter(move |mechanism| match mechanism {
            Mechanism::ScramSha256Plus => plus,
            Mechanism::External => certificate,
            _ => true,
        })
    }

    /// Appends the reply to EHLO.
    pub(crate) fn ehlo(&self, session: Announced<'_>, out: &mut Vec<u8>) {
        let extensions = self.usable(session.tls.is_some(), session.authenticated);
        let mut line = |parts: &[&[u8]]| {
            out.extend_from_slice(b"250-");
            parts.iter().for_each(|part| out.extend_from_slice(part));
            out.extend_from_slice(b"\r\n");
        };
        line(&[self.hostname.as_bytes()]);
        line(&[b"PIPELINING"]);
        line(&[b"SIZE ", decimal(self.max_message_bytes, &mut [0; 20])]);
        line(&[b"8BITMIME"]);
        if self.tls != Demand::Off && session.tls.is_none() {
            line(&[b"STARTTLS"]);
        }
        if self.offers_auth(session.tls.is_some(), session.authenticated) {
            let mut parts = [&b""[..]; 1 + 2 * Mechanism::ALL.len()];
            let mut count = 1;
            for mechanism in self.mechanisms(session.tls) {
                parts[count] = b" ";
                parts[count + 1] = mechanism.name().as_bytes();
                count += 2;
            }
            if count > 1 {
                parts[0] = b"AUTH";
                line(&parts[..count]);
            }
        }
        for (extension, keyword) in [
            (Extensions::CHUNKING, &b"CHUNKING"[..]),
            (Extensions::CHUNKING, b"BINARYMIME"),
            (Extensions::SMTPUTF8, b"SMTPUTF8"),
            (Extensions::DSN, b"DSN"),
            (Extensions::REQUIRETLS, b"REQUIRETLS"),
            (Extensions::DELIVERBY, b"DELIVERBY"),
            (Extensions::MT_PRIORITY, b"MT-PRIORITY"),
        ] {
            if extensions.has(extension) {
                line(&[keyword]);
            }
        }
        if extensions.has(Extensions::FUTURERELEASE) {
            // RFC 4865 §3: the longest interval in seconds, and the latest time.
            let seconds = limits::HOLD_MAX.as_secs();
            let latest = session.wall_seconds.saturating_add(seconds);
            let latest = jiff::Timestamp::from_second(latest.cast_signed()).unwrap_or(jiff::Timestamp::MAX);
            line(&[format!("FUTURERELEASE {seconds} {latest}").as_bytes()]);
        }
        if session.xclient {
            line(&[b"XCLIENT NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"]);
        }
        if session.xforward {
            line(&[b"XFORWARD NAME ADDR PORT PROTO HELO IDENT SOURCE"]);
        }
        // RFC 9422 §4.1, §4.2.
        let (mut first, mut second) = ([0; 20], [0; 20]);
        let recipients = decimal(self.max_recipients as u64, &mut first);
        if self.max_mails == 0 {
            line(&[b"LIMITS RCPTMAX=", recipients]);
        } else {
            let mails = decimal(self.max_mails.into(), &mut second);
            line(&[b"LIMITS RCPTMAX=", recipients, b" MAILMAX=", mails]);
        }
        out.extend_from_slice(b"250 ENHANCEDSTATUSCODES\r\n");
    }
}

/// The figure in decimal, without an allocation.
fn decimal(mut figure: u64, room: &mut [u8; 20]) -> &[u8] {
    let mut at = room.len();
    loop {
        at -= 1;
        room[at] = b'0' + (figure % 10) as u8;
        figure /= 10;
        if figure == 0 {
            return &room[at..];
        }
    }
}

/// What EHLO's reply depends on beside the policy.
pub(crate) struct Announced<'a> {
    /// TLS is on.
    pub(crate) tls: Option<&'a TlsFacts>,
    /// AUTH has succeeded.
    pub(crate) authenticated: bool,
    /// This client may use it.
    pub(crate) xclient: bool,
    /// This client may use it.
    pub(crate) xforward: bool,
    /// Seconds since 1970.
    pub(crate) wall_seconds: u64,
}

/// What the driver knows about the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerFacts {
    /// Its address, for the Received header.
    pub address: IpAddr,
    /// It may send mail to any domain.
    pub may_relay: bool,
    /// The driver wants to be asked about each reverse-path.
    pub ask_sender: bool,
    /// The driver wants to be asked about each forward-path, and then says who may send to whom.
    pub ask_recipient: bool,
    /// EXPN, where it is for trusted clients.
    pub trusted: bool,
    /// XCLIENT.
    pub xclient: bool,
    /// XFORWARD.
    pub xforward: bool,
    /// Bytes before their time (before the greeting, or behind a command that must end a group, RFC 2920 §3.1) end the
    /// session.
    pub strict: bool,
}

impl PeerFacts {
    /// A client at `address` of which nothing else is known.
    pub const fn new(address: IpAddr, may_relay: bool) -> Self {
        PeerFacts {
            address,
            may_relay,
            ask_sender: false,
            ask_recipient: false,
            trusted: false,
            xclient: false,
            xforward: false,
            strict: false,
        }
    }
}

/// What the driver knows of a TLS connection.
#[derive(Clone, Debug, Default)]
pub struct TlsFacts {
    /// SHA-256 of the client's certificate, if it has shown one that our authorities vouch for.
    pub fingerprint: Option<[u8; 32]>,
    /// What SCRAM-SHA-256-PLUS binds to.
    pub binding: sasl::Facts,
    /// `TLSv1.3 TLS13_AES_256_GCM_SHA384`, for the Received header and the log.
    pub description: String,
}
