//! PURE. The transitions of BDAT (RFC 3030 §2): message data in counted octets, in which nothing ends a message.

use super::data::drop_some;
use super::{Server, State, Step};
use crate::smtp::data::Fault;
use crate::smtp::policy::Extensions;
use crate::smtp::reply::text;
use crate::time::Moment;

impl Server {
    /// RFC 3030 §2. The octets follow the line whatever the reply is.
    pub(super) fn bdat(&mut self, size: u64, last: bool, now: Moment, out: &mut Vec<u8>) {
        let first = match self.state {
            State::Envelope if self.envelope.recipient_count() > 0 => true,
            State::Chunks => false,
            State::Envelope => {
                self.failed(text::NO_RECIPIENTS, out);
                return self.drop_chunk(size);
            }
            _ => {
                self.failed(text::CHUNK_OUT_OF_ORDER, out);
                return self.drop_chunk(size);
            }
        };
        if !self.policy.extensions.has(Extensions::CHUNKING) {
            self.failed(text::NOT_IMPLEMENTED, out);
            return self.drop_chunk(size);
        }
        if first {
            self.begin_data(now);
        }
        self.forgive();
        // Told by the figures alone; nothing of it is kept.
        let too_big = self.data.bytes().saturating_add(size) > self.policy.max_message_bytes;
        self.state = if too_big {
            State::RefusingChunk { left: size, fault: Fault::TooBig }
        } else {
            State::Chunk { left: size - u64::from(planted!(ChunkCountedOneOff) && size > 0), last }
        };
    }

    pub(super) fn drop_chunk(&mut self, size: u64) {
        if self.state != State::Closed {
            self.begin_data(self.now);
            self.state = match self.state {
                State::Fresh => State::Fresh,
                state => State::Dropping { left: size, in_envelope: state == State::Envelope },
            };
            if self.state == State::Fresh && size > 0 {
                // A session without EHLO has no CHUNKING: what follows is no command either.
                self.close();
            }
        }
    }

    /// Octets of a chunk: what the scanner lets through is handed on in wire form, a dot before each dot that begins a
    /// line. The dots come as pieces of their own, so that nothing is copied.
    pub(super) fn chunk<'a>(
        &mut self,
        input: &'a [u8],
        left: u64,
        last: bool,
        now: Moment,
        out: &mut Vec<u8>,
    ) -> (usize, Option<Step<'a>>) {
        if left == 0 {
            if last {
                self.state = State::ChunksEnd;
            } else {
                self.state = State::Chunks;
                self.succeeded(text::CHUNK_OK, out);
                self.deadline = now + self.policy.data_timeout;
            }
            return (0, None);
        }
        if input.is_empty() {
            return (0, Some(Step::NeedInput));
        }
        let input = &input[..drop_some(input, left)];
        let piece = self.data.stuffed_piece(input);
        let taken = if piece.is_dot { 0 } else { piece.bytes.len() };
        self.watch_data(now);
        if let Some(fault) = self.data.fault() {
            self.state = State::RefusingChunk { left: left - taken as u64, fault };
            return (taken, Some(Step::Discarded(fault)));
        }
        self.state = State::Chunk { left: left - taken as u64, last };
        (taken, Some(Step::Body(piece.bytes)))
    }

    /// The wire form ends with a line's end and the final dot; a raw body does not.
    pub(super) fn chunks_end<'a>(&mut self) -> Step<'a> {
        let ending = self.data.ending();
        if let Some(fault) = self.data.fault() {
            self.state = State::Refused(fault);
            return Step::Discarded(fault);
        }
        self.state = State::Ended;
        Step::Body(ending)
    }
}
