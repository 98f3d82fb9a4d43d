//! What crosses cores: one enum, in batches, through one bounded queue per receiving shard.
//!
//! A sender never waits. It collects mail for each other shard in an outbox during its turn and pushes the outbox as one
//! batch at the end; a full queue leaves the outbox where it is, to be tried again next turn. Nothing is dropped.
//!
//! What may wait for a shard that does not look, by kind:
//!
//! - `Handoff`: while an outbox is above [`limits::OUTBOX_ITEMS`] its shard takes no new mail ([`Post::is_congested`]); what
//!   one turn had begun comes on top. A lane hands a stranded letter to another one, for each site one in
//!   [`limits::LEASE_HOST_PAUSE`].
//! - `Settled` is not held up, since that would only leave a job in the owner's queue for it: each takes the place of at
//!   least one recipient of a job that has left the queue, and no recipient is settled twice. For the home, a message
//!   is live until all its outcomes have come, and it takes no more than [`limits::LIVE_MESSAGES_PER_SHARD`] of those (and
//!   while it does not look, none). So all that can ever wait for a home are the outcomes of what it held when it
//!   stopped: memory goes from the queues to the outboxes, and none is added but the words of a failure.
//! - `ToOwner` and `ToPurse`: one request and its answer for each limit in use, and what ends leases.
//! - `Lane`: one in [`limits::LANE_WINDOW`] for a domain of which much comes.
//! - `ToLedger` and `ToLane`: one of each for a change of what a lane wants or has: a connection, a batch of permits.
//! - `Verify` and `Verified`, `Guard`: two at most for each session that waits, and a session waits for one at a time.
//! - `Late`: once for each job of the owner's queue.
//! - `Fetch` and `Fetched`: one for each part asked for, which the asker bounds ([`limits::FETCH_AHEAD_BYTES`]).

use super::gate::Tables;
use super::guard::GuardMail;
use crate::lease::{Scope, ToLane, ToLedger};
use crate::limits;
use crate::message::MessageId;
use crate::message::params::Params;
use crate::queue::{LastReply, RecipientSet, Terms};
use crate::quota::{Receipt, ToOwner, ToPurse};
use crate::rt::buffer::Slice;
use crate::starttls::sts::Stored;
use crate::time::{Moment, Now, Wall};
use crossbeam::queue::ArrayQueue;
use std::sync::Arc;
use std::time::Duration;

/// One item of mail between shards.
#[derive(Debug)]
pub enum Mail {
    /// Home → owner, or a lane without a connection → one that has some: deliver these recipients.
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
    /// Owner → home: recipients that wait longer than their sender would like. Nothing is settled by it.
    Late(Late),
    /// Home → owner: the answer to `Fetch`; `None` if it cannot be read (damage, I/O error) or the message is gone.
    Fetched {
        /// Of which message.
        id: MessageId,
        /// Which part.
        part: u32,
        /// The bytes.
        record: Option<Slice>,
    },
    /// Home → owner of an account's limits.
    ToOwner(ToOwner),
    /// Owner of an account's limits → home.
    ToPurse(ToPurse),
    /// Owner of a domain → all others: it is too much for one core; keep its mail for a while.
    Lane {
        /// In lower case.
        domain: Box<str>,
    },
    /// Lane → owner of a site's limits.
    ToLedger(Box<ToLedger>),
    /// Owner of a site's limits → lane.
    ToLane(Box<ToLane>),
    /// Delivering half → accepting half of the same shard, which keeps what counts: a source that is new wants to send a
    /// message to a site, or did not after all.
    WarmUp(Box<WarmUp>),
    /// And its answer.
    Warmed(Box<Warmed>),
    /// Shard → all others: a source address rests for a site.
    SourceRest(Box<SourceRest>),
    /// Home ↔ owner of a key: passwords that were guessed.
    Guard(GuardMail),
    /// Home → owner of the domain: a session asks whether it takes mail.
    Verify {
        /// In lower case.
        domain: Box<str>,
        /// Who asks.
        asker: u16,
        /// By which the asker knows its question.
        token: u64,
    },
    /// Owner → home: the answer to `Verify`.
    Verified {
        /// Of which question.
        token: u64,
        /// The answer.
        verdict: DomainVerdict,
    },
    /// Control plane → shard.
    Control(Control),
}

const _: () = assert!(size_of::<Mail>() <= 112, "each message crosses twice at least, and is moved by every hand");

/// What DNS says of a domain, for a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DomainVerdict {
    /// It has a host for its mail.
    TakesMail,
    /// It says that it takes none (RFC 7505).
    NullMx,
    /// It does not exist.
    NoSuchDomain,
    /// It exists, but without MX and address.
    NoMailHost,
    /// DNS could not tell, just now.
    Unknown,
}

/// What the control plane asks of a shard.
#[derive(Clone, Debug)]
pub enum Control {
    /// Accounts and certificates were read again.
    Tables(Arc<Tables>),
    /// No new mail; finish what is under way, then stop.
    Drain,
    /// Stop as soon as the log is synced.
    Stop,
    /// An MTA-STS policy was fetched, or could not be.
    Sts(Arc<StsNews>),
    /// The record by which this domain asks for reports of TLS is wanted, as an `Event::Rua`.
    RuaRecord(Box<str>),
    /// Mail of the control plane's own.
    Submit(Arc<OwnMail>),
}

/// A message that this host writes by itself, beside notifications.
#[derive(Debug, PartialEq, Eq)]
pub struct OwnMail {
    /// Reverse-path, `local-part@domain`.
    pub sender: String,
    /// Forward-path, likewise.
    pub recipient: String,
    /// It, in wire form, ASCII, with `TLS-Required: No`.
    pub wire: Vec<u8>,
}

/// What became of [`crate::shard::event::StsAsk`].
#[derive(Debug, PartialEq, Eq)]
pub struct StsNews {
    /// The domain.
    pub domain: Box<str>,
    /// It, or why not.
    pub fetched: Result<Arc<Stored>, String>,
}

/// The recipients of one message that one destination gets.
#[derive(Debug)]
pub struct Handoff {
    /// The message.
    pub id: MessageId,
    /// Its home shard, to which outcomes go.
    pub home: u16,
    /// Its age when it was handed over, which decides when it expires. Told here and not by the owner: the wall clock may be
    /// set while it is on its way.
    pub age: Duration,
    /// When that was.
    pub handed: Moment,
    /// Octets on the wire.
    pub size: u32,
    /// The destination: the recipients' domain in lower case.
    pub domain: Box<str>,
    /// Which of the message's recipients.
    pub recipients: RecipientSet,
    /// The record, while it is in memory anyway.
    pub record: Option<Slice>,
    /// What it asks for beside; `None` for plain mail.
    pub terms: Option<Box<Terms>>,
    /// Whose it is where destinations are shared, and of what; `None`: nobody's, and of nothing.
    pub flow: Option<Box<FlowNames>>,
}

/// A message that a warm-up counts is wanted, or given back.
#[derive(Debug)]
pub struct WarmUp {
    /// The scope of the source at the site.
    pub scope: Scope,
    /// Messages that it may send in a day.
    pub amount: u32,
    /// One that was taken and is not sent; `None`: one is wanted.
    pub back: Option<Receipt>,
}

/// The answer.
#[derive(Debug)]
pub struct Warmed {
    /// The scope of the source at the site.
    pub scope: Scope,
    /// The message may go; or none may before that moment, if there is one.
    pub verdict: Result<Receipt, Option<Moment>>,
}

/// A source rests for a site.
#[derive(Clone, Debug)]
pub struct SourceRest {
    /// The site.
    pub site: Scope,
    /// The source's number.
    pub source: u16,
    /// Until then.
    pub until: Moment,
    /// Why, in words.
    pub why: Arc<str>,
}

/// With which mail a message waits.
#[derive(Clone, Debug)]
pub struct FlowNames {
    /// The account's; `None`: nobody authenticated.
    pub tenant: Option<Box<str>>,
    /// The campaign's; `None`: it is of none.
    pub campaign: Option<Box<str>>,
    /// The number of the pool of sources that it goes from.
    pub pool: u16,
}

/// What the parameters of a message that was accepted at `accepted` ask of the queue. Points in time are told by how far
/// they are from now: the wall clock may be set later.
pub fn terms(params: Params<'_>, accepted: Wall, now: Now) -> Option<Box<Terms>> {
    if params.is_empty() {
        return None;
    }
    let options = params.options();
    let moment = |at: Wall| now.mono + at.since(now.wall) - now.wall.since(at);
    let begins = options.hold_until.unwrap_or_default().max(accepted);
    let tell_late = match options.deliver_by {
        // RFC 2852 §4.1.3: where it was late when it came, the sender knows. After a restart it may be told once more.
        Some(by) if !by.return_late => (by.until > accepted).then(|| moment(by.until)),
        // Where it has passed it was told in an earlier life; RFC 3461 §5.2.5 does not insist.
        _ if params.recipients().any(|(_, notify, _)| notify.wants_delay()) => {
            let wait = u64::try_from(limits::DELAY_NOTICE.as_millis()).expect("hours");
            Some(moment(Wall(begins.0.saturating_add(wait)))).filter(|at| *at > now.mono)
        }
        _ => None,
    };
    let terms = Terms {
        hold_until: options.hold_until.filter(|at| *at > now.wall && !planted!(HoldIgnored)).map(moment),
        by: options.deliver_by.map(|by| moment(by.until)).filter(|_| !planted!(DeadlineForgotten)),
        return_late: options.deliver_by.is_some_and(|by| by.return_late),
        tell_late,
        priority: options.priority,
        // RFC 8689 §4.1: REQUIRETLS goes before it.
        tls_optional: options.tls_optional && !options.require_tls,
    };
    (terms != Terms::default()).then(|| Box::new(terms))
}

/// Recipients of one message that are not delivered yet.
#[derive(Debug)]
pub struct Late {
    /// The message.
    pub id: MessageId,
    /// Which of its recipients.
    pub recipients: RecipientSet,
    /// What was heard last, or why it was not tried.
    pub reply: Box<LastReply>,
    /// Until when they will be tried.
    pub retry_until: Wall,
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
    /// It did, and will not report what becomes of it: the sender is told that.
    Relayed {
        /// How it said so.
        reply: Box<LastReply>,
    },
    /// It is in the recipient's mailbox, and the sender is told that.
    Stored {
        /// Where.
        reply: Box<LastReply>,
    },
    /// It will never be: the sender is told.
    Failed {
        /// Given up after too long, rather than refused.
        expired: bool,
        /// Who said so, or what was tried last.
        reply: Box<LastReply>,
        /// The event of it, where the home must tell it.
        untold: Option<Box<Untold>>,
    },
}

/// What an owner knows for the event of a failure. It knows no addresses, since the record is not in its memory; its home
/// reads that in any case, and has the rest from the reply.
#[derive(Debug)]
pub struct Untold {
    /// When.
    pub at: Wall,
    /// See [`event::Outcome`](super::event::Outcome).
    pub attempts: u32,
    /// The same.
    pub total_us: u64,
    /// The destination.
    pub site: Box<str>,
    /// The reply rule that decided; empty: none.
    pub rule: Box<str>,
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
                Err(batch) => *outbox = if planted!(FullMailboxDrops) { Vec::new() } else { batch },
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
        let most = limits::OUTBOX_ITEMS + turn;
        // Of the kinds only Handoff is bounded by that; they are counted apart when it matters, as it costs a look at each.
        let longest = self.outboxes.iter().max_by_key(|outbox| outbox.len()).map_or(&[][..], Vec::as_slice);
        let handoffs = || longest.iter().filter(|mail| matches!(mail, Mail::Handoff(_))).count();
        report("post.outbox", if longest.len() > most { handoffs() } else { longest.len() }, most);
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
    use crate::properties::cases;
    use proptest::prelude::*;
    use std::collections::{BTreeSet, VecDeque};

    const SHARDS: usize = 3;

    #[derive(Clone, Debug)]
    enum Step {
        Send {
            from: usize,
            to: usize,
            count: u8,
        },
        Flush(usize),
        /// So many batches of mail are taken, and given back or not.
        Receive {
            at: usize,
            most: u8,
            recycles: bool,
        },
        /// Somebody else fills the mailbox to its brim.
        Stuff(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        let shard = || 0..SHARDS;
        prop_oneof![
            6 => (shard(), shard(), 1..6u8).prop_map(|(from, to, count)| Step::Send { from, to, count }),
            4 => shard().prop_map(Step::Flush),
            4 => (shard(), 1..5u8, any::<bool>()).prop_map(|(at, most, recycles)| Step::Receive { at, most, recycles }),
            1 => shard().prop_map(Step::Stuff),
        ]
    }

    proptest! {
        #![proptest_config(cases(40))]

        #[test]
        fn property_mail_arrives_once_in_the_order_of_its_sender(steps in prop::collection::vec(step(), 1..80)) {
            let boxes = Mailboxes::new(SHARDS);
            let mut posts: Vec<Post> = (0..SHARDS).map(|me| Post::new(me, boxes.clone())).collect();
            // What is under way, from and to each; the number of a letter is its part.
            let mut under_way = vec![vec![VecDeque::new(); SHARDS]; SHARDS];
            let mut next = 0;
            let receive = |posts: &mut Vec<Post>, under_way: &mut Vec<Vec<VecDeque<u32>>>, at: usize, recycles: bool| {
                let Some(mut batch) = posts[at].receive() else { return false };
                for mail in batch.drain(..) {
                    // Of the one who stuffed it there is only this.
                    let Mail::Fetch { part, owner, .. } = mail else { continue };
                    assert_eq!(under_way[usize::from(owner)][at].pop_front(), Some(part));
                }
                if recycles {
                    posts[at].recycle(batch);
                }
                true
            };
            for step in steps {
                match step {
                    Step::Send { from, to, count } => for _ in 0..count {
                        next += 1;
                        under_way[from][to].push_back(next);
                        posts[from].send(to, Mail::Fetch { id: MessageId(0), part: next, owner: from as u16 });
                    },
                    Step::Flush(from) => {
                        let before: Vec<usize> = (0..SHARDS).map(|to| boxes.len(to)).collect();
                        let mut woken = BTreeSet::new();
                        posts[from].flush(|to| assert!(woken.insert(to), "once"));
                        for (to, before) in before.into_iter().enumerate() {
                            let woke = woken.contains(&to);
                            assert_eq!(boxes.len(to) > before, woke, "who got something is woken");
                            let full = before == limits::MAILBOX_BATCHES;
                            assert!(woke || full || posts[from].outboxes[to].is_empty(), "only that keeps mail back");
                        }
                    }
                    Step::Receive { at, most, recycles } => {
                        for _ in 0..most {
                            let has_mail = posts[at].has_mail();
                            assert_eq!(receive(&mut posts, &mut under_way, at, recycles), has_mail);
                        }
                    }
                    Step::Stuff(to) => while boxes.push(to, vec![Mail::Control(Control::Drain)]).is_ok() {},
                }
                for (me, post) in posts.iter().enumerate() {
                    let kept: usize = post.outboxes.iter().map(Vec::len).sum();
                    assert_eq!((post.backlog(), post.depth()), (kept, kept + boxes.len(me)));
                    assert_eq!(post.is_empty(), kept == 0 && !post.has_mail());
                    assert!(post.has_mail() || !post.has_own());
                    assert!(post.spare.len() <= limits::POST_SPARE_BATCHES && post.spare.iter().all(Vec::is_empty));
                }
            }
            while posts.iter().any(|post| !post.is_empty()) {
                for at in 0..SHARDS {
                    while receive(&mut posts, &mut under_way, at, true) {}
                    posts[at].flush(|_| {});
                }
            }
            assert!(under_way.iter().flatten().all(VecDeque::is_empty), "none lost");
        }
    }

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
