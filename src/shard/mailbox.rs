//! What crosses cores: one enum, in batches, through one bounded queue per receiving shard.
//!
//! A sender never waits. It collects mail for each other shard in an outbox during its turn and pushes the outbox as one
//! batch at the end; a full queue leaves the outbox where it is, to be tried again next turn. Nothing is dropped. The
//! outboxes are bounded from the other end: while one is above [`limits::OUTBOX_ITEMS`] its shard takes no new mail
//! ([`Post::is_congested`]).

use crate::limits;
use crate::message::MessageId;
use crate::queue::{LastReply, RecipientSet};
use crate::rt::buffer::Slice;
use crate::time::Wall;
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;

/// One item of mail between shards.
#[derive(Debug)]
pub enum Mail {
    /// Home → owner: deliver these recipients.
    Handoff(Handoff),
    /// Owner → home: the final outcome of recipients. Never dropped.
    Settled(Settled),
    /// Owner → home: the record (part 0) or a chunk of the body (1..) is wanted; it is not in memory any more.
    Fetch {
        /// Of which message.
        id: MessageId,
        /// Which part.
        part: u32,
        /// Who asks.
        owner: u16,
    },
    /// Home → owner: the answer to `Fetch`; `None` if it cannot be read (damage, I/O error) or the message is gone.
    Fetched {
        /// Of which message.
        id: MessageId,
        /// Which part.
        part: u32,
        /// The bytes.
        record: Option<Slice>,
    },
    /// Control plane → shard.
    Control(Control),
}

/// What the control plane asks of a shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// No new mail; finish what is under way, then stop.
    Drain,
    /// Stop as soon as the log is synced.
    Stop,
}

/// The recipients of one message that one destination gets.
#[derive(Debug)]
pub struct Handoff {
    /// The message.
    pub id: MessageId,
    /// Its home shard, to which outcomes go.
    pub home: u16,
    /// When it was accepted: its age decides when it expires.
    pub accepted: Wall,
    /// Octets on the wire.
    pub size: u32,
    /// The destination: the recipients' domain in lower case.
    pub domain: Box<str>,
    /// Which of the message's recipients.
    pub recipients: RecipientSet,
    /// The record, while it is in memory anyway.
    pub record: Option<Slice>,
}

/// The final outcome of some recipients of one message.
#[derive(Debug)]
pub struct Settled {
    /// The message.
    pub id: MessageId,
    /// Which of its recipients.
    pub recipients: RecipientSet,
    /// What became of them.
    pub outcome: FinalOutcome,
}

/// How it ended for a recipient.
#[derive(Debug)]
pub enum FinalOutcome {
    /// The next hop took responsibility.
    Delivered,
    /// It will never be: the sender is told.
    Failed {
        /// Given up after too long, rather than refused.
        expired: bool,
        /// Who said so, or what was tried last.
        reply: Box<LastReply>,
    },
}

/// A batch as it lies in a mailbox.
pub type Batch = Vec<Mail>;

/// The mailboxes of all shards. Shared by all of them and by the control plane.
#[derive(Clone, Debug)]
pub struct Mailboxes(Arc<[ArrayQueue<Batch>]>);

impl Mailboxes {
    /// One for each of `shards` shards.
    pub fn new(shards: usize) -> Self {
        Mailboxes((0..shards).map(|_| ArrayQueue::new(limits::MAILBOX_BATCHES)).collect())
    }

    /// Puts a batch into `shard`'s mailbox, or hands it back if that is full. The caller wakes the shard.
    pub fn push(&self, shard: usize, batch: Batch) -> Result<(), Batch> {
        self.0[shard].push(batch)
    }

    fn pop(&self, shard: usize) -> Option<Batch> {
        self.0[shard].pop()
    }

    /// Batches that wait for `shard`.
    pub fn len(&self, shard: usize) -> usize {
        self.0[shard].len()
    }
}

/// One shard's end of the mailboxes. Lives on that shard.
#[derive(Debug)]
pub struct Post {
    me: usize,
    boxes: Mailboxes,
    outboxes: Vec<Batch>,
    /// Mail to this shard itself: the same way, without the queue.
    own: Batch,
    /// Emptied batches, whichever shard they came from, for the next outbox that is needed: mail goes both ways, so in
    /// steady state no batch is allocated or freed. At most [`limits::POST_SPARE_BATCHES`].
    spare: Vec<Batch>,
}

impl Post {
    /// The post of shard `me`.
    pub fn new(me: usize, boxes: Mailboxes) -> Self {
        let outboxes = boxes.0.iter().map(|_| Vec::new()).collect();
        Post { me, boxes, outboxes, own: Vec::new(), spare: Vec::with_capacity(limits::POST_SPARE_BATCHES) }
    }

    /// Puts an item into the outbox for `to`.
    pub fn send(&mut self, to: usize, mail: Mail) {
        let outbox = if to == self.me { &mut self.own } else { &mut self.outboxes[to] };
        if outbox.capacity() == 0
            && let Some(spare) = self.spare.pop()
        {
            *outbox = spare;
        }
        outbox.push(mail);
    }

    /// Pushes every outbox that is not empty; `wake` is called for each shard that got something.
    pub fn flush(&mut self, mut wake: impl FnMut(usize)) {
        for (to, outbox) in self.outboxes.iter_mut().enumerate() {
            if outbox.is_empty() {
                continue;
            }
            match self.boxes.push(to, std::mem::take(outbox)) {
                Ok(()) => wake(to),
                Err(batch) => *outbox = batch,
            }
        }
    }

    /// The next batch that came.
    pub fn receive(&mut self) -> Option<Batch> {
        if self.own.is_empty() { self.boxes.pop(self.me) } else { Some(std::mem::take(&mut self.own)) }
    }

    /// Gives a batch back whose mail was taken, so that an outbox reuses its memory. What is left in it is dropped.
    pub fn recycle(&mut self, mut batch: Batch) {
        if self.spare.len() < limits::POST_SPARE_BATCHES && (1..=limits::POST_SPARE_ITEMS).contains(&batch.capacity()) {
            batch.clear();
            self.spare.push(batch);
        }
    }

    /// Whether something came.
    pub fn has_mail(&self) -> bool {
        !self.own.is_empty() || self.boxes.len(self.me) > 0
    }

    /// Whether mail to this shard itself waits.
    pub fn has_own(&self) -> bool {
        !self.own.is_empty()
    }

    /// Whether another shard cannot keep up, so that no new mail should be taken.
    pub fn is_congested(&self) -> bool {
        self.outboxes.iter().any(|o| o.len() > limits::OUTBOX_ITEMS)
    }

    /// Whether everything was handed over and nothing waits here.
    pub fn is_empty(&self) -> bool {
        self.outboxes.iter().all(Vec::is_empty) && !self.has_mail()
    }

    /// Batches that wait for this shard, and items that wait here because another shard's mailbox is full.
    pub fn depth(&self) -> usize {
        self.boxes.len(self.me) + self.backlog()
    }

    /// Items that wait in the outboxes.
    pub fn backlog(&self) -> usize {
        self.outboxes.iter().map(Vec::len).sum()
    }

    /// See [`crate::shard::ShardCore::audit`].
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn audit(&self, report: &mut dyn FnMut(&'static str, usize, usize)) {
        // What one turn begins: recovered mail, or one commit's, in as many parts as it has recipients.
        let turn = limits::RECOVERED_PER_TURN * limits::RECIPIENTS;
        report("post.outbox", self.outboxes.iter().map(Vec::len).max().unwrap_or(0), limits::OUTBOX_ITEMS + turn);
        report("post.own", self.own.len(), turn);
        report("post.spare batches", self.spare.len(), limits::POST_SPARE_BATCHES);
        let largest = self.spare.iter().map(Vec::capacity).max();
        report("post.spare batch", largest.unwrap_or(0), limits::POST_SPARE_ITEMS);
        report("post.mailbox", self.boxes.len(self.me), limits::MAILBOX_BATCHES);
    }

    /// Shards that write to each other.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn shards(&self) -> usize {
        self.outboxes.len()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_full_mailbox_loses_nothing_and_keeps_order() {
        let boxes = Mailboxes::new(2);
        let mut a = Post::new(0, boxes.clone());
        let mut b = Post::new(1, boxes);
        let items = limits::MAILBOX_BATCHES as u64 + 10;
        let mut wakes = 0;
        for i in 0..items {
            a.send(1, Mail::Fetch { id: MessageId(i), part: 0, owner: 0 });
            a.flush(|to| {
                assert_eq!(to, 1);
                wakes += 1;
            });
        }
        assert_eq!((wakes, a.backlog()), (limits::MAILBOX_BATCHES, 10));
        assert_eq!((a.depth(), b.depth()), (10, limits::MAILBOX_BATCHES));
        let mut seen = 0;
        loop {
            while let Some(batch) = b.receive() {
                for mail in batch {
                    let Mail::Fetch { id, .. } = mail else { unreachable!() };
                    assert_eq!(id.0, seen);
                    seen += 1;
                }
            }
            if a.is_empty() {
                break;
            }
            a.flush(|_| {});
        }
        assert_eq!(seen, items);
    }

    #[test]
    fn emptied_batches_are_sent_in_again() {
        let boxes = Mailboxes::new(2);
        let mut a = Post::new(0, boxes.clone());
        let mut b = Post::new(1, boxes);
        let mail = || Mail::Control(Control::Drain);
        a.send(1, mail());
        a.flush(|_| {});
        let mut batch = b.receive().unwrap();
        let memory = batch.as_ptr();
        // Back, to itself, and to the other again: always in the same memory.
        for (from, to) in [(1, 0), (0, 0), (0, 1)] {
            let sender = if from == 0 { &mut a } else { &mut b };
            sender.recycle(batch);
            sender.send(to, mail());
            sender.flush(|_| {});
            let receiver = if to == 0 { &mut a } else { &mut b };
            batch = receiver.receive().unwrap();
            assert_eq!((batch.as_ptr(), batch.len()), (memory, 1), "{from} to {to}");
        }
    }

    #[test]
    fn spare_batches_are_bounded() {
        let mut post = Post::new(0, Mailboxes::new(1));
        post.recycle(Vec::new());
        post.recycle(Vec::with_capacity(10 * limits::POST_SPARE_ITEMS));
        assert_eq!(post.spare.len(), 0, "nothing to reuse, and too much to keep");
        for _ in 0..2 * limits::POST_SPARE_BATCHES {
            post.recycle(Vec::with_capacity(4));
        }
        assert_eq!(post.spare.len(), limits::POST_SPARE_BATCHES);
    }

    #[test]
    fn a_slow_receiver_is_noticed() {
        let mut a = Post::new(0, Mailboxes::new(2));
        for i in 0..=limits::OUTBOX_ITEMS as u64 {
            assert!(!a.is_congested());
            a.send(1, Mail::Fetch { id: MessageId(i), part: 0, owner: 0 });
        }
        assert!(a.is_congested());
    }
}
