//! The notifications of the accepting half: senders are told what became of their mail, by mail of our own.
//!
//! Inputs: facts about recipients from owners, the records they are about, the fate of each notification in the log.
//! Outputs: notifications, accepted into the log as any mail is, and the outcomes that stand behind them: a recipient is
//! settled once its notification is on stable storage, so that no crash keeps a failure from its sender. Lives on the
//! home shard of the messages. It refuses to notify the null sender, and to hold a record longer than it is needed.

use super::Turn;
use super::budget::Budget;
use super::event::{self, Event};
use super::mailbox::Untold;
use super::names::{self, Named};
use super::stats::ShardStats;
use crate::limits;
use crate::local::LocalTable;
use crate::message::dsn::{self, Cause, DsnFacts, Form, RecipientReport, Reply};
use crate::message::params::{BodyType, Notify, Ret};
use crate::message::{Envelope, MessageId, Status};
use crate::queue::{LastReply, RecipientSet};
use crate::rt::buffer::Slice;
use crate::spool::{self, Log, NewMessage, Outcome, ReadError, RecordView};
use crate::time::{Moment, Now, Wall};
use slab::Slab;
use std::collections::VecDeque;

/// Set in what waits for a commit if it is no session but a notification of our own; the rest is its key in
/// `Notifier::written`. Sessions use 56 bits.
const NOTICE: u64 = 1 << 63;

/// Nobody waits.
pub(super) const NOBODY: u64 = u64::MAX;

/// Whether what waits for a commit is a notification.
pub(super) fn is_notice(waiter: u64) -> bool {
    waiter & NOTICE != 0
}

/// Recipients of one message that met the same fate.
pub(super) struct Notice {
    pub(super) id: MessageId,
    pub(super) recipients: RecipientSet,
    pub(super) what: What,
    pub(super) reply: Box<LastReply>,
    /// Of a failure whose event is still to be told.
    pub(super) untold: Option<Box<Untold>>,
    /// It has counted for its sender's budget.
    pub(super) paid: bool,
}

/// Their fate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// Refused for good.
    Refused,
    /// Given up.
    Expired,
    /// Passed on to a next hop that will not report.
    Relayed,
    /// In the mailbox.
    Stored,
    /// They wait, and will be tried for so long. They have no outcome yet.
    Late { retry_until: Wall },
}

impl Notice {
    /// Tells the events that the owner could not, once the record has been read: one for each recipient.
    pub(super) fn tell(&mut self, record: &Result<Slice, ReadError>, turn: &mut Turn<'_>) {
        if matches!(record, Err(ReadError::File(_))) {
            return;
        }
        let Some(untold) = self.untold.take() else { return };
        let view = record.as_ref().ok().and_then(|record| RecordView::parse(record));
        let mut tell = |sender: &[u8], recipient: &[u8], size_bytes| {
            let reply = &self.reply;
            let names = [&untold.site, &reply.host, &untold.rule].map(|name| name.as_bytes());
            let [site, mx, rule] = names;
            let outcome = event::Outcome {
                at: untold.at,
                id: self.id,
                size_bytes,
                remote: None,
                tls: None,
                code: event::Code::of(reply),
                attempts: untold.attempts,
                next_attempt: None,
                reply_lost: false,
                queue_us: 0,
                connect_us: 0,
                deliver_us: 0,
                total_us: untold.total_us,
                text: event::Outcome::texts(sender, recipient, [site, mx, rule, b""], &reply.text),
            };
            let expired = self.what == What::Expired;
            turn.report.events.push(if expired { Event::Expired(outcome) } else { Event::Bounced(outcome) });
        };
        let indices = self.recipients.as_slice();
        match &view {
            Some(view) => {
                let sender = reverse_path(indices, view);
                for recipient in view.recipients().filter(|r| indices.binary_search(&r.index).is_ok()) {
                    tell(sender, recipient.address, view.total_size());
                }
            }
            // Nobody can read them any more.
            None => indices.iter().for_each(|_| tell(b"", b"", 0)),
        }
    }
}

impl What {
    /// Whether a sender who said this wants to know (RFC 3461 §5.2.5, §5.2.6); `by` is that mail is late for DELIVERBY
    /// (RFC 2852 §4.1.3).
    fn is_told(self, notify: Notify, by: bool) -> bool {
        match self {
            What::Refused | What::Expired => notify.wants_failure() || planted!(NotifyIgnored),
            // The owner has picked those.
            What::Relayed | What::Stored => true,
            What::Late { .. } => notify.wants_delay() || (by && notify.is_default()),
        }
    }
}

/// What a notification needs of this host.
pub(super) struct Here<'a> {
    pub(super) hostname: &'a str,
    /// Senders may be local, and aliases.
    pub(super) local: &'a LocalTable,
}

/// See the module. Lives on its shard.
pub(super) struct Notifier {
    me: u16,
    /// Facts whose senders are still to be told.
    waiting: VecDeque<Notice>,
    /// Of those, whose record is being read.
    reading: usize,
    /// Facts whose notification waits for its commit.
    written: Slab<Notice>,
    /// A refused notification is tried again then.
    after: Moment,
    /// Of each sender's notifications of failure.
    budget: Budget,
    /// The name of a sender, while it is looked for: one is for each message.
    name: String,
}

impl Notifier {
    pub(super) fn new(me: u16, an_hour: u32, percent: u32) -> Self {
        let budget = Budget::new(an_hour, percent);
        let (waiting, written, name) = (VecDeque::new(), Slab::new(), String::new());
        Notifier { me, budget, waiting, reading: 0, written, after: Moment(0), name }
    }

    /// Facts that wait, those whose record is being read, notifications that wait for their commit, senders with a budget.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn sizes(&self) -> [usize; 4] {
        [self.waiting.len(), self.reading, self.written.len(), self.budget.len()]
    }

    /// Whether nothing waits. What is being read is with the reader.
    pub(super) fn is_quiet(&self) -> bool {
        self.waiting.is_empty() && self.written.is_empty()
    }

    /// The next moment at which something is due.
    pub(super) fn poll_timeout(&self) -> Option<Moment> {
        let next = (!self.waiting.is_empty() && self.reading < limits::BOUNCES_READING).then_some(self.after);
        next.into_iter().chain(self.budget.poll_timeout()).min()
    }

    /// Has the sender told.
    pub(super) fn push(&mut self, notice: Notice) {
        self.waiting.push_back(notice);
    }

    /// A message was accepted: so many more failures its sender may be told of.
    pub(super) fn accepted(&mut self, view: &RecordView<'_>) {
        if !self.budget.is_empty() {
            let mut name = std::mem::take(&mut self.name);
            whose(view.sender(), view, &mut name);
            self.budget.sent(&name, view.recipient_count());
            self.name = name;
        }
    }

    /// What the operator is to be told.
    pub(super) fn poll_news(&mut self, now: Now) -> Option<String> {
        self.budget.poll_news(now.mono)
    }

    /// The next whose record is to be read, for [`write`](Self::write); a few at a time.
    pub(super) fn poll_read(&mut self, now: Now) -> Option<Notice> {
        if self.reading >= limits::BOUNCES_READING || now.mono < self.after {
            return None;
        }
        let notice = self.waiting.pop_front()?;
        self.reading += 1;
        Some(notice)
    }

    /// Writes the notification; the recipients are settled once it is on stable storage.
    pub(super) fn write(
        &mut self,
        mut notice: Notice,
        record: &Result<Slice, ReadError>,
        here: &Here<'_>,
        log: &mut Log,
        now: Now,
        stats: &ShardStats,
    ) {
        self.reading -= 1;
        let view = match record {
            Ok(record) => RecordView::parse(record),
            Err(ReadError::File(error)) => {
                tracing::warn!(shard = self.me, id = %notice.id, %error, "a notification to the sender must wait");
                return self.put_off(notice, now);
            }
            Err(ReadError::Gone) => return,
            Err(ReadError::Damaged) => None,
        };
        let Some(view) = view else {
            let id = notice.id;
            tracing::error!(shard = self.me, %id, "its record is damaged: the sender cannot be told");
            return settle(&notice, log);
        };
        if !dsn::may_notify(sender(&notice, &view)) && !planted!(BounceOfBounce) {
            return settle(&notice, log);
        }
        let told = told(&notice, &view, log);
        if told.is_empty() {
            return settle(&notice, log);
        }
        let failed = matches!(notice.what, What::Refused | What::Expired);
        whose(sender(&notice, &view), &view, &mut self.name);
        if failed && !notice.paid && !self.budget.take(&self.name, now.mono) {
            stats.bounces_withheld.add(told.len() as u64);
            return settle(&notice, log);
        }
        notice.paid = true;
        let key = self.written.vacant_key();
        match accept(&notice, &view, &told, here, NOTICE | key as u64, log, now) {
            Ok(()) => {
                self.written.insert(notice);
            }
            Err(refusal) => {
                tracing::warn!(shard = self.me, id = %notice.id, %refusal, "a notification to the sender must wait");
                self.put_off(notice, now);
            }
        }
    }

    /// The notification that waited as `waiter` is on stable storage: only now is the sender sure to be told.
    pub(super) fn durable(&mut self, waiter: u64, log: &mut Log) {
        if let Some(notice) = self.written.try_remove((waiter & !NOTICE) as usize) {
            settle(&notice, log);
        }
    }

    /// A message has reached lists that its sender wants to hear of (RFC 3461 §5.2.7): these recipients.
    pub(super) fn lists_reached(&mut self, id: MessageId, lists: &[u16], reply: &LastReply) {
        for part in lists.chunks(limits::TRANSACTION_RECIPIENTS) {
            let recipients = RecipientSet::from_slice(part);
            let reply = Box::new(reply.clone());
            self.push(Notice { id, recipients, what: What::Stored, reply, untold: None, paid: false });
        }
    }

    /// The log could not keep it.
    pub(super) fn refused(&mut self, waiter: u64, why: spool::Refusal, log: &mut Log, now: Now) {
        if let Some(notice) = self.written.try_remove((waiter & !NOTICE) as usize) {
            tracing::warn!(shard = self.me, id = %notice.id, %why, "a notification to the sender must wait");
            if planted!(BounceLost) { settle(&notice, log) } else { self.put_off(notice, now) }
        }
    }

    fn put_off(&mut self, notice: Notice, now: Now) {
        self.waiting.push_front(notice);
        self.after = now.mono + limits::BOUNCE_RETRY;
    }
}

fn settle(notice: &Notice, log: &mut Log) {
    let outcome = match notice.what {
        What::Refused => Outcome::Bounced,
        What::Expired => Outcome::Expired,
        What::Relayed | What::Stored => Outcome::Delivered,
        What::Late { .. } => return,
    };
    for &index in notice.recipients.as_slice() {
        log.settle(notice.id, index, outcome);
    }
}

/// Whose budget a notification counts for: the account's that submitted the message, else the domain's of who is told.
fn whose(sender: &[u8], view: &RecordView<'_>, name: &mut String) {
    name.clear();
    let account = view.params().account();
    if !account.is_empty() {
        name.push_str("tenant ");
        return name.push_str(&String::from_utf8_lossy(account));
    }
    let at = memchr::memrchr(b'@', sender).map_or(0, |at| at + 1);
    name.push_str(&String::from_utf8_lossy(&sender[at..]));
    name.make_ascii_lowercase();
}

/// Who is told: the sender, or who keeps the list that the recipients have the message by. They are of one job, and so of one
/// reverse-path.
fn sender<'a>(notice: &Notice, view: &RecordView<'a>) -> &'a [u8] {
    reverse_path(notice.recipients.as_slice(), view)
}

fn reverse_path<'a>(recipients: &[u16], view: &RecordView<'a>) -> &'a [u8] {
    recipients.first().and_then(|index| view.params().reverse_path(*index)).unwrap_or(view.sender())
}

/// The recipients whose fate the sender wants to know.
fn told(notice: &Notice, view: &RecordView<'_>, log: &Log) -> Vec<u16> {
    let params = view.params();
    let by = params.options().deliver_by.is_some_and(|by| !by.return_late);
    let late = matches!(notice.what, What::Late { .. });
    let wanted =
        |index: &u16| notice.what.is_told(params.recipient(*index).0, by) && !(late && log.is_done(notice.id, *index));
    notice.recipients.as_slice().iter().copied().filter(wanted).collect()
}

/// Gives the notification to the log.
fn accept(
    notice: &Notice,
    view: &RecordView<'_>,
    told: &[u16],
    here: &Here<'_>,
    waiter: u64,
    log: &mut Log,
    now: Now,
) -> Result<(), spool::Refusal> {
    let (params, mut options) = (view.params(), view.params().options());
    let sender = sender(notice, view);
    let mut envid = params.envid();
    if sender != view.sender() {
        // RFC 3461 §5.2.7: what the sender asked for ends at the list.
        (options.ret, envid) = (None, b"");
    }
    let reply = Reply { code: notice.reply.code, status: notice.reply.status, text: &notice.reply.text };
    let reports: Vec<_> = view
        .recipients()
        .filter(|r| told.binary_search(&r.index).is_ok())
        .map(|recipient| RecipientReport {
            address: recipient.address,
            original: params.recipient(recipient.index).1,
            remote: notice.reply.host.as_bytes(),
            last_attempt: Some(notice.reply.at),
            cause: match notice.what {
                What::Refused => Cause::Refused(reply),
                What::Expired => Cause::Expired(Some(reply)),
                What::Relayed => Cause::Relayed(reply),
                What::Stored => Cause::Delivered,
                // RFC 2852 §4.1.3.
                What::Late { .. } if options.deliver_by.is_some_and(|by| !by.return_late && by.until <= now.wall) => {
                    Cause::Delayed(Some(Reply { status: Some(Status::new(4, 4, 7)), ..reply }))
                }
                What::Late { .. } => Cause::Delayed(Some(reply)),
            },
        })
        .collect();
    let failed = matches!(notice.what, What::Refused | What::Expired);
    // RFC 8689 §5: REQUIRETLS goes before RET=FULL. A body that has no lines cannot be returned in lines.
    let whole = failed
        && options.ret == Some(Ret::Full)
        && !options.require_tls
        && options.body != BodyType::Binary
        && view.chunk_count() == 0
        && view.data().len() <= limits::DSN_FULL_BYTES;
    let id = log.next_id(now.wall);
    let mut body = Vec::new();
    let form = dsn::build(
        &DsnFacts {
            host: here.hostname,
            id,
            original: notice.id,
            arrived: view.accepted(),
            now: now.wall,
            retry_until: if let What::Late { retry_until } = notice.what { retry_until } else { now.wall },
            sender,
            recipients: &reports,
            message: view.data(),
            whole,
            utf8: options.smtputf8,
            envid,
            deliver_by: options.deliver_by.map(|by| by.until),
            hold_until: options.hold_until,
        },
        &mut body,
    );
    let mut envelope = Envelope::default();
    envelope.set_sender(b"");
    envelope.options.smtputf8 = form == Form::Utf8;
    if form == Form::EightBit || form == Form::Utf8 {
        envelope.options.body = BodyType::EightBit;
    }
    // RFC 8689 §5.
    envelope.options.require_tls = options.require_tls;
    let at = memchr::memrchr(b'@', sender).map_or(sender.len(), |at| at + 1);
    envelope.add_recipient(sender, at);
    // Mail to a local alias goes to what it stands for, as at RCPT.
    if let Named::Members(members) = names::named(here.local, sender, &sender[at..]) {
        let fit: Vec<_> = members.iter().filter(|m| names::fits(m)).map(names::member).collect();
        if !fit.is_empty() {
            envelope.expand_last_recipient(&fit);
        }
    }
    let mut params = Vec::new();
    envelope.write_params(&mut params);
    let message = NewMessage {
        id,
        envelope: &envelope,
        accepted: now.wall,
        peer: std::net::Ipv4Addr::LOCALHOST.into(),
        params: &params,
        trace: b"",
        body: spool::Body::Whole(&body),
    };
    log.accept(&message, waiter)
}
