//! Events: typed facts about mail, from a shard to the control thread, and the bounded queue they cross in.
//!
//! Inputs: facts, as a shard comes by them. Outputs: batches, taken by the control thread when it likes. An [`Event`] is
//! plain data: no clock is read here, nothing is formatted on the shard. Cost there: the one allocation of its packed
//! texts, no lock, no wake-up of the other side. It refuses to wait: with the queue full (control thread stopped,
//! its disk hanging) events are dropped and counted, and mail goes on.
//!
//! Cores: [`EventSink`] lives on one shard, its [`EventSource`] on the control thread.

use crate::limits::{EVENT_BATCH, EVENT_BATCHES_PER_SHARD, EVENT_TEXT_BYTES};
use crate::message::MessageId;
use crate::queue::LastReply;
use crate::rt::tls::client;
use crate::starttls::report::Session;
use crate::starttls::{Decision, Verified};
use crate::time::Wall;
use crossbeam::queue::ArrayQueue;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A fact about mail or about a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message was made durable and answered 250.
    Accepted(Accepted),
    /// A client's command or message was refused with 4yz or 5yz.
    Rejected(Rejected),
    /// The next hop took the message for this recipient.
    Delivered(Outcome),
    /// An attempt failed for now; there will be another.
    Deferred(Outcome),
    /// The recipient was refused for good.
    Bounced(Outcome),
    /// The message grew too old for this recipient.
    Expired(Outcome),
    /// Something about the shard itself, sent at the change, not repeatedly.
    Notice(Notice),
    /// No fact: the shard wants an MTA-STS policy fetched, and waits for `Control::Sts` a limited time.
    Sts(Box<StsAsk>),
    /// A connection that TLSRPT counts (RFC 8460).
    Tls(Box<Session>),
    /// No fact: what `Control::RuaRecord` asked for.
    Rua(Box<RuaRecord>),
}

/// See [`Event::Rua`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuaRecord {
    /// The domain.
    pub domain: Box<str>,
    /// The TXT records of `_smtp._tls.` in front of it; `None`: DNS did not answer.
    pub texts: Option<Vec<Box<[u8]>>>,
}

/// See [`Event::Sts`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StsAsk {
    /// Who asks.
    pub shard: u16,
    /// In canonical form.
    pub domain: Box<str>,
    /// Of the TXT record.
    pub id: Box<str>,
    /// Of the policy host.
    pub addresses: Vec<IpAddr>,
}

/// See [`Event::Accepted`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// When the commit ended.
    pub at: Wall,
    /// The message.
    pub id: MessageId,
    /// The client.
    pub peer: IpAddr,
    /// Octets of the message as received.
    pub size_bytes: u64,
    /// Forward-paths of the envelope.
    pub recipients: u32,
    /// From the DATA command to the end of data, µs.
    pub receive_us: u64,
    /// From the end of data to stable storage, µs.
    pub commit_us: u64,
    /// Texts in the order of [`Accepted::texts`].
    pub text: Text<2>,
}

impl Accepted {
    /// Packs the reverse-path (empty: null sender) and the name the client gave in EHLO or HELO.
    pub fn texts(sender: &[u8], helo: &[u8]) -> Text<2> {
        Text::new([sender, helo])
    }
}

/// Where in a session a client was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before the first command.
    Connect,
    /// At EHLO or HELO.
    Helo,
    /// At MAIL.
    Mail,
    /// At RCPT.
    Rcpt,
    /// At DATA or during it.
    Data,
    /// After the end of data.
    Message,
    /// At any other command, or for want of one in time.
    Session,
}

impl Stage {
    /// The name in the event log.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Connect => "connect",
            Stage::Helo => "helo",
            Stage::Mail => "mail",
            Stage::Rcpt => "rcpt",
            Stage::Data => "data",
            Stage::Message => "message",
            Stage::Session => "session",
        }
    }
}

/// A reply in numbers; its text is in the event's packed texts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Code {
    /// 200 to 599; 0 if the peer gave none (a network failure).
    pub basic: u16,
    /// Enhanced status code (RFC 3463) as class, subject, detail, if there was one.
    pub enhanced: Option<(u8, u16, u16)>,
}

impl Code {
    /// Those of what a job heard last.
    pub fn of(reply: &LastReply) -> Code {
        let enhanced = reply.status.map(|s| (s.class(), s.subject(), s.detail()));
        Code { basic: reply.code, enhanced }
    }

    /// The codes of one of our own replies: `550 5.7.1 text`.
    pub fn of_reply(reply: &[u8]) -> Code {
        let digits = |bytes: &[u8]| std::str::from_utf8(bytes).ok().and_then(|t| t.parse().ok());
        let basic = reply.get(..3).and_then(digits).unwrap_or(0);
        let enhanced = reply.get(4..).and_then(crate::message::Status::parse);
        Code { basic, enhanced: enhanced.map(|s| (s.class(), s.subject(), s.detail())) }
    }
}

/// See [`Event::Rejected`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// When.
    pub at: Wall,
    /// The client.
    pub peer: IpAddr,
    /// Where in the session.
    pub stage: Stage,
    /// What we answered.
    pub code: Code,
    /// Texts in the order of [`Rejected::texts`].
    pub text: Text<4>,
}

impl Rejected {
    /// A client that was refused before its session began.
    pub fn connection(at: Wall, peer: IpAddr, reply: &[u8]) -> Rejected {
        let text = Rejected::texts(b"", b"", b"", reply);
        Rejected { at, peer: peer.to_canonical(), stage: Stage::Connect, code: Code::of_reply(reply), text }
    }

    /// Packs reverse-path, forward-path (empty where there is none), EHLO name and the text of our reply.
    pub fn texts(sender: &[u8], recipient: &[u8], helo: &[u8], reply: &[u8]) -> Text<4> {
        Text::new([sender, recipient, helo, reply])
    }
}

/// What a connection's TLS had to be and was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TlsNote {
    /// What it had to be, and who said so.
    pub decision: Decision,
    /// The session; `None`: in the clear.
    pub session: Option<client::Session>,
    /// What the certificate was worth.
    pub verified: Option<Verified>,
    /// Why it went in the clear, if TLS was wanted.
    pub unencrypted: Option<Unencrypted>,
}

impl TlsNote {
    /// Of a connection that is about to be made.
    pub fn new(decision: Decision) -> Self {
        TlsNote { decision, session: None, verified: None, unencrypted: None }
    }
}

/// Why mail went in the clear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unencrypted {
    /// The host did not offer STARTTLS, or refused it.
    NotOffered,
}

impl Unencrypted {
    /// The name in the event log.
    pub fn name(self) -> &'static str {
        match self {
            Unencrypted::NotOffered => "not offered",
        }
    }
}

/// What one attempt, or the end of all of them, meant for one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// When.
    pub at: Wall,
    /// The message.
    pub id: MessageId,
    /// Octets of the message as received.
    pub size_bytes: u64,
    /// The address we were connected to, or tried last.
    pub remote: Option<SocketAddr>,
    /// The connection's TLS; `None` where there was no connection to a mail exchanger, or TLS is switched off.
    pub tls: Option<TlsNote>,
    /// The reply that decided it.
    pub code: Code,
    /// Attempts so far, this one included.
    pub attempts: u32,
    /// When the next attempt is due; only of a deferral.
    pub next_attempt: Option<Wall>,
    /// The message was sent to its end, and the reply never came: it may arrive twice.
    pub reply_lost: bool,
    /// Waited in the queue before this attempt, µs.
    pub queue_us: u64,
    /// Name resolution, connect, greeting and EHLO, µs; 0 over a connection that was open already.
    pub connect_us: u64,
    /// From MAIL to the reply to the final dot, µs.
    pub deliver_us: u64,
    /// From acceptance to now, µs.
    pub total_us: u64,
    /// Texts in the order of [`Outcome::texts`].
    pub text: Text<7>,
}

impl Outcome {
    /// Packs reverse-path, forward-path, site (destination domain), the mail exchanger's name, the reply's text, the reply rule
    /// that decided, which is empty where none did, and the source's address, empty where the kernel chose.
    pub fn texts(sender: &[u8], recipient: &[u8], [site, mx, rule, source]: [&[u8]; 4], reply: &[u8]) -> Text<7> {
        Text::new([sender, recipient, site, mx, reply, rule, source])
    }
}

/// See [`Event::Notice`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// When.
    pub at: Wall,
    /// The shard it is about.
    pub shard: u16,
    /// What happened.
    pub kind: NoticeKind,
    /// Details for the operator, one line.
    pub text: Text<1>,
}

impl Notice {
    /// A notice with its details.
    pub fn event(at: Wall, shard: u16, kind: NoticeKind, details: &[u8]) -> Event {
        Event::Notice(Notice { at, shard, kind, text: Text::new([details]) })
    }
}

/// What a [`Notice`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoticeKind {
    /// No room for new mail: it gets 452; queued mail is kept and delivered.
    StorageFull,
    /// The spool's disk failed (EIO, read-only): new mail gets 451.
    StorageError,
    /// The storage takes mail again.
    StorageRestored,
    /// No host of a destination can be reached; all its mail waits.
    Suspended,
    /// A destination gets more connections than before, or fewer: it took what it was given, or refused.
    Resized,
    /// Mail of a tenant, a campaign or a site waits for one of their limits, and has for a while.
    Throttled,
    /// A reply rule has a site, or a tenant at one, rest for a time.
    RuleSuspended,
    /// A reply rule has lowered limits of a site for a time.
    RuleLowered,
    /// What a reply rule has brought about is over.
    RuleOver,
    /// A sender has more failures than it is told of by mail.
    BouncesWithheld,
    /// A source address sends nothing to a site for a time.
    SourceRests,
    /// No new mail; what is in progress is being finished.
    Draining,
    /// The shard has ended its work.
    Stopped,
}

impl NoticeKind {
    /// All of them.
    pub const ALL: [NoticeKind; 13] = [
        NoticeKind::StorageFull,
        NoticeKind::StorageError,
        NoticeKind::StorageRestored,
        NoticeKind::Suspended,
        NoticeKind::Resized,
        NoticeKind::Throttled,
        NoticeKind::RuleSuspended,
        NoticeKind::RuleLowered,
        NoticeKind::RuleOver,
        NoticeKind::BouncesWithheld,
        NoticeKind::SourceRests,
        NoticeKind::Draining,
        NoticeKind::Stopped,
    ];

    /// The name in the event log.
    pub fn name(self) -> &'static str {
        match self {
            NoticeKind::StorageFull => "storage_full",
            NoticeKind::StorageError => "storage_error",
            NoticeKind::StorageRestored => "storage_restored",
            NoticeKind::Suspended => "suspended",
            NoticeKind::Resized => "resized",
            NoticeKind::Throttled => "throttled",
            NoticeKind::RuleSuspended => "rule_suspended",
            NoticeKind::RuleLowered => "rule_lowered",
            NoticeKind::RuleOver => "rule_over",
            NoticeKind::BouncesWithheld => "bounces_withheld",
            NoticeKind::SourceRests => "source_rests",
            NoticeKind::Draining => "draining",
            NoticeKind::Stopped => "stopped",
        }
    }

    /// Whether somebody should look at it.
    pub fn is_trouble(self) -> bool {
        matches!(self, NoticeKind::StorageFull | NoticeKind::StorageError)
    }
}

/// `N` byte strings in one allocation, each cut at [`EVENT_TEXT_BYTES`]. Bytes are as the peer sent them: any.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<const N: usize> {
    bytes: Box<[u8]>,
    ends: [u16; N],
}

impl<const N: usize> Text<N> {
    fn new(parts: [&[u8]; N]) -> Self {
        const { assert!(N <= 8, "offsets fit 16 bits: limits.rs") };
        let parts = parts.map(|part| &part[..part.len().min(EVENT_TEXT_BYTES)]);
        let mut bytes = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
        let mut ends = [0; N];
        for (part, end) in parts.iter().zip(&mut ends) {
            bytes.extend_from_slice(part);
            *end = u16::try_from(bytes.len()).expect("limits.rs bounds eight texts below 64 KiB");
        }
        // The capacity is exact, so this does not allocate again.
        Text { bytes: bytes.into_boxed_slice(), ends }
    }

    /// Text number `index`, in the order of the `texts` function that packed it.
    ///
    /// # Panics
    /// If `index` is not below `N`.
    pub fn get(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[usize::from(start)..usize::from(self.ends[index])]
    }
}

struct Channel {
    batches: ArrayQueue<Vec<Event>>,
    /// Emptied batches on their way back, so that the shard does not allocate new ones.
    spares: ArrayQueue<Vec<Event>>,
    dropped: AtomicU64,
    mail_events: AtomicBool,
}

/// The shard's end. Lives on one shard.
pub struct EventSink {
    channel: Arc<Channel>,
    batch: Vec<Event>,
}

/// The control thread's end.
pub struct EventSource {
    channel: Arc<Channel>,
}

/// A queue from one shard to the control thread. Without `mail_events` (`[log] events = "off"`) only notices cross it.
pub fn channel(mail_events: bool) -> (EventSink, EventSource) {
    let channel = Arc::new(Channel {
        batches: ArrayQueue::new(EVENT_BATCHES_PER_SHARD),
        spares: ArrayQueue::new(EVENT_BATCHES_PER_SHARD),
        dropped: AtomicU64::new(0),
        mail_events: AtomicBool::new(mail_events),
    });
    let sink = EventSink { channel: Arc::clone(&channel), batch: Vec::with_capacity(EVENT_BATCH) };
    (sink, EventSource { channel })
}

impl EventSink {
    /// Whether events about mail are written at all; if not, building one is a waste.
    pub fn wants_mail_events(&self) -> bool {
        self.channel.mail_events.load(Ordering::Relaxed)
    }

    /// Adds an event to the batch, and hands the batch over when it is full. Never waits.
    pub fn push(&mut self, event: Event) {
        if !matches!(event, Event::Notice(_) | Event::Sts(_) | Event::Tls(_) | Event::Rua(_))
            && !self.wants_mail_events()
        {
            return;
        }
        self.batch.push(event);
        if self.batch.len() >= EVENT_BATCH {
            self.flush_now();
        }
    }

    /// Once a turn, and at least once a second: hands over what there is if the control thread has taken all before
    /// it, and else lets the batch grow, so that short turns do not fill the queue with batches of one event.
    pub fn flush(&mut self) {
        if !self.batch.is_empty() && self.channel.batches.is_empty() {
            self.flush_now();
        }
    }

    /// Hands over what there is, or drops and counts it if the queue is full.
    pub fn flush_now(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let next = self.channel.spares.pop().unwrap_or_else(|| Vec::with_capacity(EVENT_BATCH));
        let full = std::mem::replace(&mut self.batch, next);
        if let Err(mut refused) = self.channel.batches.push(full) {
            let dropped = self.channel.dropped.load(Ordering::Relaxed) + refused.len() as u64;
            self.channel.dropped.store(dropped, Ordering::Relaxed);
            refused.clear();
            self.batch = refused;
        }
    }

    /// Events of the batch that fills.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn waiting(&self) -> usize {
        self.batch.len()
    }

    /// Events dropped since the start because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.channel.dropped.load(Ordering::Relaxed)
    }
}

impl Drop for EventSink {
    fn drop(&mut self) {
        self.flush_now();
    }
}

impl EventSource {
    /// Takes the oldest batch and lets `take` read its events; false if there is none.
    pub fn take_batch(&mut self, mut take: impl FnMut(&Event)) -> bool {
        let Some(mut batch) = self.channel.batches.pop() else { return false };
        batch.iter().for_each(&mut take);
        batch.clear();
        // Full only if the shard keeps allocating its own, which it does only while this is empty.
        drop(self.channel.spares.push(batch));
        true
    }

    /// Events dropped since the start because the queue was full.
    pub fn dropped(&self) -> u64 {
        self.channel.dropped.load(Ordering::Relaxed)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.channel.batches.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(i: u64) -> Event {
        Notice::event(Wall(i), 0, NoticeKind::Suspended, b"x")
    }

    #[test]
    fn texts_are_cut_and_kept_apart() {
        let long = vec![b'x'; 10 * EVENT_TEXT_BYTES];
        let text = Outcome::texts(b"", b"a@b.example", [b"b.example", &long, b"", b""], b"ok");
        assert_eq!(text.get(0), b"");
        assert_eq!(text.get(1), b"a@b.example");
        assert_eq!(text.get(2), b"b.example");
        assert_eq!(text.get(3).len(), EVENT_TEXT_BYTES);
        assert_eq!(text.get(4), b"ok");
    }

    #[test]
    fn an_event_stays_small() {
        assert!(size_of::<Event>() <= 192, "{}", size_of::<Event>());
    }

    #[test]
    fn a_control_thread_that_takes_nothing_never_blocks_the_shard_and_drops_are_counted() {
        let (mut sink, mut source) = channel(true);
        let bound = EVENT_BATCH * EVENT_BATCHES_PER_SHARD;
        for i in 0..(bound + 1000) as u64 {
            sink.push(notice(i));
        }
        sink.flush_now();
        assert_eq!(source.dropped(), 1000);
        let mut seen = Vec::new();
        while source.take_batch(|e| match e {
            Event::Notice(n) => seen.push(n.at.0),
            other => panic!("{other:?}"),
        }) {}
        assert_eq!(seen, (0..bound as u64).collect::<Vec<_>>(), "what was taken is whole and in order");
        sink.push(notice(7));
        drop(sink);
        assert!(source.take_batch(|_| ()), "the last batch is handed over at the end");
    }

    #[test]
    fn short_turns_share_a_batch_while_the_control_thread_is_away() {
        let (mut sink, mut source) = channel(true);
        for i in 0..10 {
            sink.push(notice(i));
            sink.flush();
        }
        let mut sizes = Vec::new();
        loop {
            let mut n = 0;
            if !source.take_batch(|_| n += 1) {
                break;
            }
            sizes.push(n);
            sink.flush();
        }
        assert_eq!(sizes, [1, 9]);
    }

    #[test]
    fn with_mail_events_off_only_notices_cross() {
        let (mut sink, mut source) = channel(false);
        assert!(!sink.wants_mail_events());
        sink.push(Event::Rejected(Rejected {
            at: Wall(1),
            peer: IpAddr::from([127, 0, 0, 1]),
            stage: Stage::Rcpt,
            code: Code { basic: 550, enhanced: Some((5, 7, 1)) },
            text: Rejected::texts(b"", b"", b"", b""),
        }));
        sink.push(notice(1));
        sink.flush();
        let mut n = 0;
        source.take_batch(|_| n += 1);
        assert_eq!(n, 1);
    }
}
