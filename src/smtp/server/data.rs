//! PURE. Message data: from the 354, or a chunk's announcement, to its end; what is refused of it is read and dropped.

use super::{Server, State, Step};
use crate::limits;
use crate::message::params::BodyType;
use crate::smtp::data::DataScanner;
use crate::time::Moment;
use std::time::Duration;

impl Server {
    pub(super) fn begin_data(&mut self, now: Moment) {
        let raw = self.envelope.options.body == BodyType::Binary;
        self.data = if raw {
            DataScanner::raw(self.policy.max_message_bytes)
        } else {
            DataScanner::new(self.policy.max_message_bytes)
        };
        self.data_began = now;
        self.deadline = now + self.policy.data_timeout;
    }

    /// Octets of a chunk that nobody wants: dropped, and timed as any message data. How many there are.
    pub(super) fn skip(&mut self, input: &[u8], left: u64, now: Moment) -> usize {
        let taken = drop_some(input, left);
        if taken > 0 {
            self.data.skip(taken);
            self.watch_data(now);
        }
        taken
    }

    /// Message data: hands on what is valid, drops what is refused, until the end.
    pub(super) fn data<'a>(&mut self, input: &'a [u8], now: Moment) -> (usize, Option<Step<'a>>) {
        let scanned = self.data.scan(input);
        self.watch_data(now);
        let step = match (self.state, self.data.fault()) {
            (State::Data, None) => Some(Step::Body(&input[..scanned.consumed])),
            (State::Data, Some(fault)) => {
                self.state = State::Refusing(fault);
                Some(Step::Discarded(fault))
            }
            _ => None,
        };
        if scanned.ended {
            self.state = match self.state {
                State::Refusing(fault) => State::Refused(fault),
                _ => State::Ended,
            };
        }
        (scanned.consumed, step)
    }

    pub(super) fn watch_data(&mut self, now: Moment) {
        let slowest = Duration::from_secs(self.data.bytes() / limits::SERVER_DATA_BYTES_PER_SECOND);
        self.deadline = (now + self.policy.data_timeout).min(self.data_began + limits::SERVER_DATA_GRACE + slowest);
    }
}

/// How many of `left` octets are at the front of `input`.
pub(super) fn drop_some(input: &[u8], left: u64) -> usize {
    usize::try_from(left).map_or(input.len(), |left| left.min(input.len()))
}
