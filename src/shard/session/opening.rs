//! What lies between the socket and the session's plain text: a PROXY header, silence before the greeting, TLS.

use super::{Context, Fate, Opening, Session};
use crate::config::{Listener, ListenerKind};
use crate::limits;
use crate::rt::tls::{Acceptor, Progress};
use crate::shard::Turn;
use crate::shard::event::{Event, Rejected, Stage};
use crate::shard::gate;
use crate::shard::handshakes::Party;
use crate::smtp::proxy::{self, Proxied};
use crate::smtp::reply::text;
use crate::smtp::server::{PeerFacts, Server};
use crate::time::Moment;
use std::sync::Arc;

impl Opening {
    /// What a client waits for whose address is known. Where it speaks first, with TLS, there is nothing to wait for.
    pub(super) fn of(rules: &Listener, peer: PeerFacts, now: Moment) -> Opening {
        let waits = !rules.greeting_delay.is_zero() && !peer.trusted && rules.kind != ListenerKind::Submissions;
        if waits { Opening::Silence(now + rules.greeting_delay) } else { Opening::Done }
    }
}

impl Session {
    /// Begins TLS where it comes before everything. The greeting in `out` goes out encrypted, behind the handshake.
    pub(super) fn begin_implicit_tls(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>, out: &mut Vec<u8>) {
        if context.gate.listener(self.listener).kind == ListenerKind::Submissions {
            if self.is_tls_busy(context) {
                out.clear();
                self.close(turn.now.mono);
            } else {
                self.begin_tls(turn, context, out);
            }
        }
    }

    pub(super) fn begin_tls(&mut self, turn: &mut Turn<'_>, context: &mut Context<'_>, out: &mut Vec<u8>) {
        match context.gate.acceptor().map(Acceptor::accept) {
            Some(Ok(tls)) => {
                self.tls = Some(Box::new(tls));
                let peer = self.server.peer();
                let party = Party::of(peer.address, peer.trusted);
                self.handshake = Some((turn.now.mono + limits::TLS_HANDSHAKE_TIMEOUT, party));
            }
            // A reload has taken the certificates away, or memory is short: nothing goes on in the clear.
            _ => {
                out.clear();
                self.close(turn.now.mono);
            }
        }
    }

    /// Whose handshake is under way, if one is. It stays who it was when it began, whatever XCLIENT says behind it.
    pub(in crate::shard) fn handshaking(&self) -> Option<Party> {
        self.handshake.map(|(_, party)| party)
    }

    /// Whether the client must wait before it begins one.
    pub(super) fn is_tls_busy(&self, context: &Context<'_>) -> bool {
        let peer = self.server.peer();
        self.tls.is_none() && context.handshakes.is_busy(peer.address, peer.trusted)
    }

    /// What came before the greeting is over.
    pub(super) fn open(&mut self, peer: PeerFacts, turn: &mut Turn<'_>, context: &mut Context<'_>, out: &mut Vec<u8>) {
        self.opening = Opening::Done;
        self.server = Server::new(Arc::clone(context.gate.policy(self.listener)), peer, turn.now.mono, out);
        self.begin_implicit_tls(turn, context, out);
    }

    /// Takes bytes from the client. `out` is the shard's scratch for replies, empty.
    pub(in crate::shard) fn received(
        &mut self,
        bytes: &[u8],
        turn: &mut Turn<'_>,
        context: &mut Context<'_>,
        out: &mut Vec<u8>,
    ) -> Fate {
        if self.closing.is_some() {
            // The last reply is on its way; whatever the client still says is not wanted.
            return Fate::Open;
        }
        let header;
        let mut bytes = bytes;
        if let Opening::Proxy(come, _) = &mut self.opening {
            come.extend_from_slice(bytes);
            match proxy::parse(come) {
                Proxied::Partial => return Fate::Open,
                Proxied::Wrong => {
                    // Whoever it is, it is no proxy of ours that is set up right.
                    tracing::warn!(peer = %self.server.peer().address, "no PROXY header where proxy_networks asks for one");
                    return self.hang_up(turn, out);
                }
                Proxied::Header { length, client } => {
                    header = std::mem::take(come);
                    bytes = &header[length..];
                    let client = client.unwrap_or(self.server.peer().address);
                    match context.gate.admit(client, turn.now.mono) {
                        Ok(counted) => self.admitted = counted.then_some(client),
                        Err(reply) => {
                            turn.report.stats.rejected.add(1);
                            if turn.report.events.wants_mail_events() {
                                let event = Rejected::connection(turn.now.wall, client, &reply);
                                turn.report.events.push(Event::Rejected(event));
                            }
                            out.extend_from_slice(&reply);
                            return self.hang_up(turn, out);
                        }
                    }
                    let peer = context.gate.facts(self.listener, client);
                    self.open(peer, turn, context, out);
                    self.opening = Opening::of(context.gate.listener(self.listener), peer, turn.now.mono);
                    if self.opening != Opening::Done {
                        out.clear();
                    }
                    if bytes.is_empty() || self.closing.is_some() {
                        return self.flush(turn, out);
                    }
                }
            }
        }
        if let Opening::Silence(_) = self.opening {
            turn.report.stats.rejected.add(1);
            out.extend_from_slice(text::EARLY_TALKER);
            self.tell_refused(turn, Stage::Connect, b"", out);
            return self.hang_up(turn, out);
        }
        if self.tls.is_some() {
            return self.decrypt(bytes, turn, context, out);
        }
        self.plain(bytes, turn, context, out)
    }

    /// Takes bytes that are encrypted, or of a handshake.
    fn decrypt(&mut self, bytes: &[u8], turn: &mut Turn<'_>, context: &mut Context<'_>, out: &mut Vec<u8>) -> Fate {
        let Some(tls) = &mut self.tls else { return Fate::Open };
        let mut plain = std::mem::take(context.plain);
        let mut answer = Vec::new();
        let progress = tls.receive(bytes, &mut plain, &mut answer);
        if progress == Ok(Progress::Established) {
            self.handshake = None;
            self.server.tls_established(gate::tls_facts(tls.facts()), turn.now.mono);
            turn.report.stats.tls_handshakes.add(1);
        }
        self.send(turn, &answer);
        let fate = match progress {
            Err(why) => {
                turn.report.stats.tls_failures.add(1);
                tracing::debug!(peer = %self.server.peer().address, why, "TLS");
                // The alert is out; nothing can be said any more that the client would understand.
                self.tls = None;
                out.clear();
                self.handshake = None;
                self.hang_up(turn, out)
            }
            Ok(progress) => {
                let fate =
                    if plain.is_empty() { self.flush(turn, out) } else { self.plain(&plain, turn, context, out) };
                if progress == Progress::Ended && fate == Fate::Open { self.ended(turn) } else { fate }
            }
        };
        plain.clear();
        plain.shrink_to(2 * limits::SESSION_TAIL_BYTES);
        *context.plain = plain;
        fate
    }
}
