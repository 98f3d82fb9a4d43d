//! PURE. What rests in a destination's queue: one message for the recipients of one domain.

use super::terms::Terms;
use crate::limits::LAST_REPLY_TEXT_BYTES;
use crate::message::MessageId;
use crate::message::Status;
use crate::message::dsn::Reply;
use crate::time::{Moment, Wall};

/// One message for those of its recipients that share a destination. Millions may rest: at most 96 bytes (asserted).
#[derive(Debug)]
pub struct Job<B> {
    /// The message.
    pub id: MessageId,
    /// When its home shard accepted it; it expires [`give_up`](super::RetryPolicy::give_up) later. On the wall clock of the
    /// queue's driver, which is to be one that is never set: mail must not age by a step of the clock. Of held mail: when
    /// it is released.
    pub accepted: Wall,
    /// Since when it is ready: when it was enqueued, or when its last retry fell due. Set by the queue.
    pub enqueued: Moment,
    /// The bytes to send, while they are in memory anyway. `None` means: read them from the spool.
    pub body: Option<B>,
    /// The reply or failure of the last attempt that deferred it.
    pub last: Option<Box<LastReply>>,
    /// What its message asks for beside; `None` for plain mail.
    pub terms: Option<Box<Terms>>,
    /// Which recipients of the message are still to be served here.
    pub recipients: RecipientSet,
    /// Octets of the message in wire form.
    pub size: u32,
    /// Who shares the destination with others: see [`Queue::tenant`](super::Queue::tenant).
    pub tenant: TenantId,
    /// Which of its tenant's mailings it is of: see [`Queue::campaign`](super::Queue::campaign).
    pub campaign: CampaignId,
    /// The shard that wrote its spool record and is told the outcome.
    pub home: u16,
    /// Attempts that failed for the time being.
    pub attempts: u16,
}

impl<B> Job<B> {
    /// A job as handed over: never attempted, all `recipients` open.
    pub fn new(
        id: MessageId,
        home: u16,
        recipients: RecipientSet,
        accepted: Wall,
        size: u32,
        body: Option<B>,
    ) -> Job<B> {
        Job {
            id,
            accepted,
            enqueued: Moment(0),
            body,
            last: None,
            terms: None,
            recipients,
            size,
            tenant: TenantId::NONE,
            campaign: CampaignId::NONE,
            home,
            attempts: 0,
        }
    }

    /// With which mail it waits.
    pub fn flow(&self) -> FlowId {
        FlowId { tenant: self.tenant, campaign: self.campaign }
    }
}

/// Indices into the recipients of a message, in ascending order as given. A single one, the common case, costs no
/// allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecipientSet {
    /// One recipient.
    One(u16),
    /// None or several.
    Many(Box<[u16]>),
}

impl RecipientSet {
    /// The set of these indices.
    pub fn from_slice(indices: &[u16]) -> RecipientSet {
        match indices {
            [one] => RecipientSet::One(*one),
            many => RecipientSet::Many(many.into()),
        }
    }

    /// The indices, in order.
    pub fn as_slice(&self) -> &[u16] {
        match self {
            RecipientSet::One(index) => std::slice::from_ref(index),
            RecipientSet::Many(indices) => indices,
        }
    }
}

/// What a job last heard, or what kept it from being heard: for the report to the sender and for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastReply {
    /// When.
    pub at: Wall,
    /// The next hop's name; empty if none was reached.
    pub host: Box<str>,
    /// The reply's text, or the failure in words. At most [`LAST_REPLY_TEXT_BYTES`], not yet safe to print.
    pub text: Box<[u8]>,
    /// The reply code; 0 if it was not a reply (connection lost, DNS failure).
    pub code: u16,
    /// The enhanced status code of the reply or of the failure.
    pub status: Option<Status>,
}

impl LastReply {
    /// Keeps the first [`LAST_REPLY_TEXT_BYTES`] of `text`.
    pub fn new(at: Wall, host: &str, code: u16, status: Option<Status>, text: &[u8]) -> LastReply {
        let text = &text[..text.len().min(LAST_REPLY_TEXT_BYTES)];
        LastReply { at, host: host.into(), text: text.into(), code, status }
    }

    /// As a notification to the sender tells it.
    pub fn as_reply(&self) -> Reply<'_> {
        Reply { code: self.code, status: self.status, text: &self.text }
    }
}

/// Names a job of one [`Queue`](super::Queue) until it is finished; a key kept longer names nothing, never another job.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobKey {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// Names a destination of one [`Queue`](super::Queue) until it is forgotten; kept longer it names nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DestinationId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl DestinationId {
    /// One of no queue.
    #[cfg(test)]
    pub(crate) fn sample(index: u32) -> DestinationId {
        DestinationId { index, generation: 0 }
    }

    /// A number that no two destinations have at a time, and small: forgotten ones leave theirs to others.
    pub fn place(self) -> usize {
        self.index as usize
    }
}

/// Names a tenant of one [`Queue`](super::Queue) for as long as it has jobs there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct TenantId(pub(super) u32);

impl TenantId {
    /// All mail without a tenant is one tenant's.
    pub const NONE: TenantId = TenantId(0);
}

/// Names a campaign of one [`Queue`](super::Queue) for as long as it has jobs there.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct CampaignId(pub(super) u32);

impl CampaignId {
    /// Mail of no campaign, or of one without limits.
    pub const NONE: CampaignId = CampaignId(0);
    pub(super) const LAST: CampaignId = CampaignId(u32::MAX);
}

/// A tenant's mail of one campaign.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct FlowId {
    /// Whose.
    pub tenant: TenantId,
    /// Of what.
    pub campaign: CampaignId,
}

/// Names a domain of one [`Queue`](super::Queue) until it is forgotten; kept longer it names nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DomainId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

// 200,000 jobs within 300 MB of resident memory leave room for everything else only if each is small. A body is at
// most a fat shared pointer and a range.
const _: () = assert!(size_of::<RecipientSet>() == 16, "the index shares the box's two words");
const _: () = assert!(size_of::<Job<std::rc::Rc<()>>>() <= 80, "a job with a thin shared body");
const _: () = assert!(size_of::<Job<(std::rc::Rc<()>, u32, u32, u64)>>() <= 96, "a job with a large handle");
