//! PURE. Logging in at the next hop (RFC 4954), between EHLO and the first transaction. Refuses to show a password without
//! TLS, unless told, and to send mail where it is to log in and cannot: `sasl` has the mechanisms.

use super::event::StoredReason;
use super::{Client, Phase};
use crate::smtp::reply::Reply;
use crate::smtp::sasl::{LoggingIn, Login, LoginFault};
use std::sync::Arc;

/// Who we are at this peer.
#[derive(Debug)]
pub(super) struct Auth {
    login: Arc<Login>,
    without_tls: bool,
    nonce: [u8; 24],
    /// From AUTH on.
    exchange: Option<LoggingIn>,
}

impl Client {
    /// No transaction before the peer has taken this login, under TLS unless `without_tls`. `nonce` is random and new for each
    /// connection. To be called before the greeting comes.
    pub fn log_in(&mut self, login: Arc<Login>, without_tls: bool, nonce: [u8; 24]) {
        self.auth = Some(Box::new(Auth { login, without_tls, nonce, exchange: None }));
    }

    /// The peer has told what it has.
    pub(super) fn begin_auth(&mut self) {
        let Some(auth) = &mut self.auth else { return };
        // RFC 4954 §4: whoever reads the wire would learn the password, or what helps to guess it.
        if self.tls.is_none() && !auth.without_tls {
            return self.give_up(StoredReason::NoLogin(LoginFault::NoTls));
        }
        match LoggingIn::begin(Arc::clone(&auth.login), self.capabilities.auth, auth.nonce) {
            Ok((exchange, command)) => {
                auth.exchange = Some(exchange);
                self.out.extend_from_slice(command.as_bytes());
                self.out.extend_from_slice(b"\r\n");
                self.phase = Phase::Auth;
            }
            Err(fault) => self.give_up(StoredReason::NoLogin(fault)),
        }
    }

    /// The reply to AUTH, or to an answer of ours: 235, 334, 4yz or 5yz.
    pub(super) fn auth_reply(&mut self, reply: Reply<'_>) {
        let Some(exchange) = self.auth.as_mut().and_then(|auth| auth.exchange.as_mut()) else { return };
        let went_on = match reply.code {
            // RFC 4954 §4.
            334 => exchange.handle_challenge(reply.text).map(|line| {
                self.out.extend_from_slice(line.as_bytes());
                self.out.extend_from_slice(b"\r\n");
            }),
            200..=299 => exchange.granted().map(|()| {
                self.auth = None;
                self.ready();
            }),
            400.. => {
                let stored = self.events.store(reply);
                return self.give_up(StoredReason::LoginRefused(stored));
            }
            _ => return self.unexpected(reply),
        };
        // The peer would take what comes for an answer: there is no way back to commands but "*", and no use in it.
        went_on.unwrap_or_else(|fault| self.close(StoredReason::NoLogin(fault)));
    }
}
