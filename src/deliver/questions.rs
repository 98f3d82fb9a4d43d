//! The driver of the resolver: its exchanges over this shard's sockets.

use super::{Deliverer, Question};
use crate::dns::Transmit;
use crate::rt::{ConnId, Event as RtEvent};
use crate::shard::Turn;
use std::io::IoSlice;

impl Deliverer {
    /// Carries out what the resolver wants sent, and takes its answers to the domains that wait for them.
    pub(super) fn dns(&mut self, turn: &mut Turn<'_>) {
        loop {
            while let Some(transmit) = self.resolver.poll_transmit() {
                self.transmit(transmit, turn);
            }
            while let Some(name) = self.resolver.poll_fact() {
                self.fact_answered(&name, turn);
            }
            let Some(resolved) = self.resolver.poll_event() else { break };
            self.verified(&resolved.domain, &resolved.resolution, turn);
            let domains = self.resolving.remove(&resolved.domain).unwrap_or_default();
            self.answered(&domains, &resolved.resolution, turn);
        }
    }

    fn transmit(&mut self, transmit: Transmit, turn: &mut Turn<'_>) {
        let (exchange, opened, stream, payload) = match transmit {
            Transmit::Udp { exchange, server, payload } => {
                let opened = turn.io.datagram(server);
                if let Ok(conn) = opened {
                    turn.io.write(conn, &[IoSlice::new(&payload)]);
                }
                (exchange, opened, false, Vec::new())
            }
            Transmit::Tcp { exchange, server, payload } => (exchange, turn.io.connect(server, None), true, payload),
            Transmit::Close { exchange } => {
                if let Some(conn) = self.exchanges.remove(&exchange) {
                    self.questions.remove(conn);
                    turn.io.close(conn);
                }
                return;
            }
        };
        match opened {
            Ok(conn) => {
                self.questions.insert(conn, Question { exchange, stream, payload });
                self.exchanges.insert(exchange, conn);
            }
            Err(error) => {
                tracing::warn!(shard = self.me, %error, "no socket for a DNS question");
                self.resolver.handle_failed(exchange, turn.now.mono);
            }
        }
    }

    /// An event of a DNS socket.
    pub(super) fn handle_question(&mut self, conn: ConnId, event: RtEvent<'_>, turn: &mut Turn<'_>) {
        let Some(question) = self.questions.get_mut(conn) else { return };
        let now = turn.now.mono;
        match event {
            RtEvent::Received { bytes, .. } if question.stream => {
                self.resolver.handle_stream(question.exchange, bytes, now);
            }
            RtEvent::Received { bytes, .. } => self.resolver.handle_datagram(question.exchange, bytes, now),
            RtEvent::Connected { .. } | RtEvent::Writable { .. } => {
                let taken = turn.io.write(conn, &[IoSlice::new(&question.payload)]);
                question.payload.drain(..taken);
            }
            RtEvent::Ended { .. } | RtEvent::Failed { .. } => {
                self.resolver.handle_failed(question.exchange, now);
            }
            _ => {}
        }
        self.dns(turn);
    }
}
