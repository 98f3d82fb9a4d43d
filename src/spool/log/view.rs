//! PURE. The messages that recovery found, for the shard to queue again.

use super::{Recovered, Spot};
use crate::message::MessageId;
use crate::message::params::Params;
use crate::spool::format::{RecipientView, RecordView};
use crate::time::Wall;
use std::ops::Range;

/// A live message as recovery found it. `Spot::segment` counts within `Recovered::segments`.
#[derive(Debug)]
pub(crate) struct RecoveredMessage {
    pub id: MessageId,
    pub spot: Spot,
    pub chunks: Vec<Spot>,
    /// Where in `Recovered::fronts` the envelope stands.
    pub front: Range<usize>,
}

/// One message that waits for delivery, after a restart.
#[derive(Clone, Copy, Debug)]
pub struct QueuedMessage<'a> {
    view: RecordView<'a>,
}

impl<'a> QueuedMessage<'a> {
    /// The message.
    pub fn id(&self) -> MessageId {
        self.view.id()
    }

    /// When it was accepted.
    pub fn accepted(&self) -> Wall {
        self.view.accepted()
    }

    /// Octets of trace header and body.
    pub fn total_size(&self) -> u64 {
        self.view.total_size()
    }

    /// Chunks of a streamed body.
    pub fn chunk_count(&self) -> u32 {
        self.view.chunk_count()
    }

    /// `BODY=8BITMIME` was declared.
    pub fn eight_bit(&self) -> bool {
        self.view.eight_bit()
    }

    /// Parameters of MAIL and RCPT.
    pub fn params(&self) -> Params<'a> {
        self.view.params()
    }

    /// The reverse-path; empty for the null sender.
    pub fn sender(&self) -> &'a [u8] {
        self.view.sender()
    }

    /// Forward-paths, with and without outcome.
    pub fn recipient_count(&self) -> usize {
        self.view.recipient_count()
    }

    /// The recipients that have no outcome yet.
    pub fn pending(&self) -> impl Iterator<Item = RecipientView<'a>> + use<'a> {
        self.view.recipients().filter(|r| r.done.is_none())
    }
}

impl Recovered {
    /// Messages with recipients that have no outcome yet, in the order of the log. Read it at leisure, beside the running
    /// log: it keeps the envelopes in memory until dropped.
    pub fn messages(&self) -> impl Iterator<Item = QueuedMessage<'_>> {
        self.views().map(|view| QueuedMessage { view })
    }

    /// The message number `index` of them, for a reader that takes a few at a time.
    pub fn message(&self, index: usize) -> Option<QueuedMessage<'_>> {
        self.live.get(index).map(|m| QueuedMessage { view: self.view(m) })
    }

    pub(super) fn views(&self) -> impl Iterator<Item = RecordView<'_>> {
        self.live.iter().map(|m| self.view(m))
    }

    fn view(&self, m: &RecoveredMessage) -> RecordView<'_> {
        RecordView::from_payload(m.id, &self.fronts[m.front.clone()]).expect("recovery parsed it before it kept it")
    }
}
