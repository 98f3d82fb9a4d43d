//! Rules about who comes in: by which listener, in TLS or in the clear, as whom, and what may be refused at the door.

use super::{Oracle, domain_of};
use crate::limits;
use crate::sim::client::{Client, Sent};
use crate::sim::guise::RELAY;
use crate::sim::scenario::Deed;
use std::time::Duration;

/// A question to DNS is answered within this: two questions, each with its wait for a free exchange, and a moment.
const ANSWER_TIME: Duration = Duration::from_secs(4 * limits::DNS_QUESTION_TIMEOUT.as_secs() + 5);

impl Oracle<'_> {
    fn reloads(&self) -> bool {
        self.scenario.deeds.iter().any(|(_, deed)| matches!(deed, Deed::Reload { .. }))
    }

    /// Nothing comes in where something is lacking; who comes by the right way is refused for a reason.
    pub(super) fn check_door(&mut self, sent: &Sent, may_relay: bool) {
        let (mark, door) = (sent.letter.mark, sent.door);
        let may_relay = may_relay && door.listener == RELAY || door.account.is_some();
        // Whoever has mail for a domain of our own may send it.
        let may_send = |to: &String| may_relay || self.scenario.is_local(&domain_of(to));
        if !sent.taken.is_empty() && (door.is_shut() || !sent.taken.iter().all(may_send)) {
            self.violate("door", format!("#{mark} may not be sent and was taken, {door:?}"));
        }
        if !door.guised {
            return;
        }
        let unknown = |to: &&String| {
            let domain = domain_of(to);
            self.scenario.way(&domain).is_none() && self.scenario.exchangers(&domain).is_empty()
        };
        let asks = self.scenario.verifies && door.listener != RELAY;
        if let (true, Some(to)) = (asks, sent.taken.iter().find(unknown)) {
            self.violate("door", format!("#{mark} to {to} was taken, and there is no such domain"));
        }
        let large = sent.letter.wire().len() as u64 - 3 > self.scenario.max_message;
        let answers = sent.denied.iter().map(|(path, reply, _)| (path.as_str(), reply));
        for (path, reply) in answers.chain(sent.verdict.iter().map(|(reply, _, _)| ("", reply))) {
            let verdict = sent.verdict.as_ref().is_some_and(|(verdict, _, _)| verdict == reply);
            let address = if path.is_empty() { &sent.letter.sender } else { path };
            let reason = match reply.get(..9).unwrap_or_default().trim_end() {
                code if code.starts_with('2') => true,
                "421 4.3.2" | "421 4.4.2" | "421 4.7.0" | "452 4.3.1" => true,
                "452 4.5.3" => sent.taken.len() == self.scenario.max_recipients,
                "530 5.7.0" => door.is_shut(),
                "550 5.7.1" if path.is_empty() => {
                    self.reloads() || door.account.is_some_and(|login| !login.may_send_as(address))
                }
                "550 5.7.1" if door.account.is_some() => self.reloads(),
                "550 5.7.1" => !may_relay && !self.scenario.is_local(&domain_of(address)),
                // Judged by check_quotas.
                "452 4.7.1" => self.scenario.limited && door.account.is_some(),
                "451 4.3.0" if self.scenario.limited && door.account.is_some() && !self.stalls.is_empty() => true,
                // Strangers have a pace.
                "451 4.7.1" => door.account.is_none(),
                "550 5.1.2" | "550 5.1.8" | "550 5.4.4" | "550 5.7.2" | "556 5.1.1" => {
                    let domain = domain_of(address);
                    let knows =
                        self.scenario.exchangers(&domain).is_empty() || !self.records.refusals(&domain).is_empty();
                    self.scenario.verifies && knows
                }
                "451 4.1.8" | "451 4.4.3" => self.scenario.verifies && self.any_troubled,
                "552 5.3.4" => large,
                // Behind the refusal of all that came before.
                "503 5.5.1" | "554 5.5.1" => sent.taken.is_empty() || verdict && large,
                reply => !self.disk_troubles.is_empty() && reply.starts_with("451"),
            };
            if !reason {
                self.violate("door", format!("#{mark} {path} was refused without a reason: {reply}, {door:?}"));
            }
        }
    }

    /// Who asks is answered in time, and let in with the right password.
    pub(super) fn check_answers(&mut self, client: &Client) {
        if client.locked_out > 0 && !self.reloads() {
            self.violate("door", "a right password was refused".to_owned());
        }
        for (asked, answered) in &client.slow {
            let stalled = self.stalls.iter().any(|(from, until)| *from <= *answered && *until >= *asked);
            let took = answered.since(*asked);
            if took > ANSWER_TIME && !stalled {
                self.violate(
                    "answer",
                    format!("a command at {:.3} s was answered after {took:?}", asked.0 as f64 / 1e9),
                );
            }
        }
    }

    /// Received says how it came (RFC 3848).
    pub(super) fn check_protocol(&mut self, sent: &Sent, received: &str) {
        let expected = format!(" with {} id ", sent.door.protocol());
        if !received.contains(&expected) {
            self.violate("trace", format!("#{} came{expected}…, and has {received:?}", sent.letter.mark));
        }
    }
}
