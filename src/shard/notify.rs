//! The notifications of the accepting half: senders are told what became of their mail, by mail of our own.
//!
//! Inputs: facts about recipients from owners, the records they are about, the fate of each notification in the log.
//! Outputs: notifications, accepted into the log as any mail is, and the outcomes that stand behind them: a recipient is
//! settled once its notification is on stable storage, so that no crash keeps a failure from its sender. Lives on the
//! home shard of the messages. It refuses to notify the null sender, and to hold a record longer than it is needed.

use crate::limits;
use crate::message::dsn::{self, Cause, DsnFacts, RecipientReport, Reply};
use crate::message::{Envelope, MessageId};
use crate::queue::{LastReply, RecipientSet};
use crate::rt::buffer::Slice;
use crate::spool::{self, Log, NewMessage, Outcome, ReadError, RecordView};
use crate::time::{Moment, Now};
use slab::Slab;
use std::collections::VecDeque;

/// Set in what waits for a commit if it is no session but a notification of our own; the rest is its key in
/// `Notifier::written`. Sessions use 56 bits.
const NOTICE: u64 = 1 << 63;

/// Whether what waits for a commit is a notification.
pub(super) fn is_notice(waiter: u64) -> bool {
    waiter & NOTICE != 0
}

/// Recipients that failed for good, for one reason.
pub(super) struct Bounce {
    pub(super) id: MessageId,
    pub(super) recipients: RecipientSet,
    pub(super) expired: bool,
    pub(super) reply: Box<LastReply>,
}

/// See the module. Lives on its shard.
pub(super) struct Notifier {
    me: u16,
    /// Facts whose senders are still to be told.
    waiting: VecDeque<Bounce>,
    /// Of those, whose record is being read.
    reading: usize,
    /// Facts whose notification waits for its commit.
    written: Slab<Bounce>,
    /// A refused notification is tried again then.
    after: Moment,
}

impl Notifier {
    pub(super) fn new(me: u16) -> Self {
        Notifier { me, waiting: VecDeque::new(), reading: 0, written: Slab::new(), after: Moment(0) }
    }

    /// Facts that wait, those whose record is being read, and notifications that wait for their commit.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sizes(&self) -> [usize; 3] {
        [self.waiting.len(), self.reading, self.written.len()]
    }

    /// Whether nothing waits. What is being read is with the reader.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.written.is_empty()
    }

    /// The next moment at which something is due.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        (!self.waiting.is_empty() && self.reading < limits::BOUNCES_READING).then_some(self.after)
    }

    /// Has the sender told.
    pub(super) fn push(&mut self, bounce: Bounce) {
        self.waiting.push_back(bounce);
    }

    /// The next whose record is to be read, for [`write`](Self::write); a few at a time.
    pub(super) fn poll_read(&mut self, now: Now) -> Option<Bounce> {
        if self.reading >= limits::BOUNCES_READING || now.mono < self.after {
            return None;
        }
        let bounce = self.waiting.pop_front()?;
        self.reading += 1;
        Some(bounce)
    }

    /// Writes the notification; the recipients are settled once it is on stable storage.
    pub(super) fn write(
        &mut self,
        bounce: Bounce,
        record: &Result<Slice, ReadError>,
        hostname: &str,
        log: &mut Log,
        now: Now,
    ) {
        self.reading -= 1;
        let view = match record {
            Ok(record) => RecordView::parse(record),
            Err(ReadError::File(error)) => {
                tracing::warn!(shard = self.me, id = %bounce.id, %error, "a notification to the sender must wait");
                return self.put_off(bounce, now);
            }
            Err(ReadError::Gone) => return,
            Err(ReadError::Damaged) => None,
        };
        let Some(view) = view else {
            let id = bounce.id;
            tracing::error!(shard = self.me, %id, "its record is damaged: the sender cannot be told of the failure");
            return settle(&bounce, log);
        };
        if !dsn::may_notify(view.sender()) && !planted!(BounceOfBounce) {
            return settle(&bounce, log);
        }
        let key = self.written.vacant_key();
        match accept(&bounce, &view, hostname, NOTICE | key as u64, log, now) {
            Ok(()) => {
                self.written.insert(bounce);
            }
            Err(refusal) => {
                tracing::warn!(shard = self.me, id = %bounce.id, %refusal, "a notification to the sender must wait");
                self.put_off(bounce, now);
            }
        }
    }

    /// The notification that waited as `waiter` is on stable storage: only now is the sender sure to be told.
    pub(super) fn durable(&mut self, waiter: u64, log: &mut Log) {
        if let Some(bounce) = self.written.try_remove((waiter & !NOTICE) as usize) {
            settle(&bounce, log);
        }
    }

    /// The log could not keep it.
    pub(super) fn refused(&mut self, waiter: u64, why: spool::Refusal, log: &mut Log, now: Now) {
        if let Some(bounce) = self.written.try_remove((waiter & !NOTICE) as usize) {
            tracing::warn!(shard = self.me, id = %bounce.id, %why, "a notification to the sender must wait");
            if planted!(BounceLost) { settle(&bounce, log) } else { self.put_off(bounce, now) }
        }
    }

    fn put_off(&mut self, bounce: Bounce, now: Now) {
        self.waiting.push_front(bounce);
        self.after = now.mono + limits::BOUNCE_RETRY;
    }
}

fn settle(bounce: &Bounce, log: &mut Log) {
    let outcome = if bounce.expired { Outcome::Expired } else { Outcome::Bounced };
    for &index in bounce.recipients.as_slice() {
        log.settle(bounce.id, index, outcome);
    }
}

/// Gives the notification to the log.
fn accept(
    bounce: &Bounce,
    view: &RecordView<'_>,
    hostname: &str,
    waiter: u64,
    log: &mut Log,
    now: Now,
) -> Result<(), spool::Refusal> {
    let reply = Reply { code: bounce.reply.code, status: bounce.reply.status, text: &bounce.reply.text };
    let reports: Vec<_> = bounce
        .recipients
        .as_slice()
        .iter()
        .filter_map(|index| view.recipients().nth(usize::from(*index)))
        .map(|recipient| RecipientReport {
            address: recipient.address,
            remote: bounce.reply.host.as_bytes(),
            last_attempt: Some(bounce.reply.at),
            cause: if bounce.expired { Cause::Expired(Some(reply)) } else { Cause::Refused(reply) },
        })
        .collect();
    let id = log.next_id(now.wall);
    let mut body = Vec::new();
    dsn::build(
        &DsnFacts {
            host: hostname,
            id,
            original: bounce.id,
            arrived: view.accepted(),
            now: now.wall,
            retry_until: now.wall,
            sender: view.sender(),
            recipients: &reports,
            headers: view.data(),
        },
        &mut body,
    );
    let mut envelope = Envelope::default();
    envelope.set_sender(b"");
    let at = memchr::memrchr(b'@', view.sender()).map_or(view.sender().len(), |at| at + 1);
    envelope.add_recipient(view.sender(), at);
    let message = NewMessage {
        id,
        envelope: &envelope,
        accepted: now.wall,
        peer: std::net::Ipv4Addr::LOCALHOST.into(),
        params: b"",
        trace: b"",
        body: spool::Body::Whole(&body),
    };
    log.accept(&message, waiter)
}
