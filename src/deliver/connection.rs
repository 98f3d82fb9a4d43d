//! One outbound connection: the SMTP client machine, the messages it carries, and what the socket has not taken yet.
//! Lives on the shard that owns the destination.

use super::Turn;
use super::flights::Depth;
use super::lanes::Bounds;
use super::proxies::Way;
use super::scopes::Counts;
use super::tls::{self, Secure};
use crate::dns::{Attempt, Resolution};
use crate::lease::Scope;
use crate::limits;
use crate::message::MessageId;
use crate::queue::{DestinationId, JobKey, LastReply};
use crate::rt::ConnId;
use crate::rt::buffer::Slice;
use crate::shaping::ReplyRule;
use crate::smtp::client::{Client, ClientTimeouts, Transmit};
use crate::smtp::dots;
use crate::smtp::extensions::Capabilities;
use crate::spool::{RecordView, chunk_data};
use crate::time::Moment;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::{ControlFlow, Range};
use std::rc::Rc;
use std::sync::Arc;

/// See the module.
pub(super) struct Connection {
    pub(super) conn: ConnId,
    pub(super) destination: DestinationId,
    /// `None` while TCP connects, or a proxy for us.
    /// In a box, as it leaves the connection while an event of its borrows it.
    pub(super) client: Option<Box<Client>>,
    /// What a proxy is still to do.
    pub(super) way: Option<Box<Way>>,
    /// `None`: a UNIX socket.
    pub(super) remote: Option<SocketAddr>,
    /// Its host speaks LMTP.
    pub(super) lmtp: bool,
    pub(super) host: Rc<str>,
    /// Which of the route's addresses it is.
    pub(super) attempt: Attempt,
    /// Its TLS.
    pub(super) secure: Secure,
    /// Where the destination's mail goes, as it was when this was opened.
    pub(super) route: Rc<Resolution>,
    /// Addresses of `route` to try if this one fails, the next one last.
    pub(super) others: Vec<Attempt>,
    pub(super) began: Moment,
    /// While it is attempted: when another may begin beside it.
    pub(super) beside_at: Option<Moment>,
    /// The first of the attempts that it is one of, and whether there were several.
    pub(super) race: ConnId,
    pub(super) races: bool,
    /// The peer has greeted us and answered EHLO or HELO.
    pub(super) ready: bool,
    /// What it announced then.
    pub(super) peer: Capabilities,
    /// Until then, in µs, for the first message's event.
    pub(super) connect_us: u64,
    /// Transactions that were answered; a connection lost before one is not reused but broken.
    pub(super) done: u32,
    /// Transactions begun.
    pub(super) begun: u32,
    /// How many transactions make it faster, if they are under way together.
    depth: Depth,
    pub(super) transactions: Vec<Transaction>,
    /// When it fell idle.
    pub(super) idle_since: Option<Moment>,
    /// It stands in the shard's list of idle connections, perhaps since it was idle before.
    pub(super) listed: bool,
    /// It has said QUIT and waits for the end.
    pub(super) leaves: bool,
    /// It ends behind the message that it carries, or behind its first: others wait for its place.
    pub(super) retires: bool,
    /// It has had a letter since.
    pub(super) took_last: bool,
    /// The number of the source that it is from, if that was chosen.
    pub(super) source: Option<u16>,
    /// What counts it for its source.
    pub(super) source_scope: Option<Scope>,
    /// What counts it.
    pub(super) scope: Option<Scope>,
    pub(super) bounds: Bounds,
    unsent: VecDeque<Piece>,
    /// Memory that the records of `transactions` keep alive.
    pinned: usize,
    /// A large body that is sent, or will be, in chunks. Nothing begins behind it before its end: that would be chosen long before
    /// the peer is told of it, and a rule may have said meanwhile that the site rests.
    stream: Option<BodyStream>,
}

/// One message on its way over a connection.
pub(super) struct Transaction {
    pub(super) token: u64,
    pub(super) job: JobKey,
    pub(super) record: Slice,
    pub(super) began: Moment,
    /// Recipients refused by themselves: their place in the job's set.
    pub(super) refused: Vec<Refused>,
    /// LMTP: recipients the next hop has answered for by themselves, and will deliver to.
    pub(super) taken: Vec<(u32, Box<LastReply>)>,
    /// Something of the next hop's was heard about it.
    pub(super) answered: bool,
    /// It is in a flight: its body goes without waiting for replies.
    pub(super) flown: bool,
    /// Of a text that can go by BDAT: its dots that only DATA doubles.
    pub(super) doubled: Option<usize>,
    /// What it has of its scopes.
    pub(super) counts: Option<Box<Counts>>,
    /// Units of octets in flight that it has of its source.
    pub(super) source_octets: u32,
}

/// A refusal, and the rule that is for it.
pub(super) struct Refused {
    /// Of a recipient: its place in the job's set.
    pub(super) place: u32,
    pub(super) reply: Box<LastReply>,
    pub(super) rule: Option<Arc<ReplyRule>>,
}

impl Transaction {
    /// Its body as it goes, or the first part of a large one.
    fn body(&self, by_bdat: bool) -> Outgoing<'_> {
        let view = RecordView::parse(&self.record).expect("it was parsed when it was begun");
        let range = view.data_range();
        match self.doubled.filter(|_| by_bdat) {
            // By DATA, or a binary one.
            None => Outgoing::Body(&self.record, range),
            Some(0) => {
                let text = dots::undoubled(view.data());
                Outgoing::Body(&self.record, range.start + text.start..range.start + text.end)
            }
            Some(doubled) => Outgoing::Copied(dots::bare(view.data(), doubled).into_owned()),
        }
    }
}

/// Pieces of one write: commands and body of each transaction of a flight, and what goes behind.
const PIECES: usize = 2 * limits::FLIGHT_TRANSACTIONS + 2;

/// The same without a flight: one message and the envelope of the next.
const FEW_PIECES: usize = 6;

/// Bytes the socket has not taken.
enum Piece {
    Bytes(Vec<u8>, usize),
    Shared(Slice, Range<usize>),
}

/// What is to be written, in place.
enum Outgoing<'a> {
    Commands(&'a [u8]),
    /// Of a record.
    Body(&'a Slice, Range<usize>),
    /// A body whose doubled dots were taken out.
    Copied(Vec<u8>),
}

impl Outgoing<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Outgoing::Commands(bytes) => bytes,
            Outgoing::Body(record, range) => &record[range.clone()],
            Outgoing::Copied(bytes) => bytes,
        }
    }

    /// What is kept of it, of which `taken` octets were sent.
    fn keep(self, taken: usize) -> Piece {
        match self {
            Outgoing::Commands(bytes) => Piece::Bytes(bytes.to_vec(), taken),
            Outgoing::Body(record, range) => Piece::Shared(record.clone(), range.start + taken..range.end),
            Outgoing::Copied(bytes) => Piece::Bytes(bytes, taken),
        }
    }
}

/// A body of more than one record: its next chunk is asked for when little is left to send.
struct BodyStream {
    token: u64,
    id: MessageId,
    /// The part to be sent next; 0 is the message's own record.
    next: u32,
    parts: u32,
    /// A chunk was asked for and has not come.
    waiting: bool,
}

impl BodyStream {
    /// Its beginning was written, and not yet all of it.
    fn is_under_way(&self) -> bool {
        self.next > 0
    }

    /// Whether a chunk is to be asked for.
    fn lacks(&self) -> bool {
        self.is_under_way() && !self.waiting && self.next <= self.parts
    }
}

/// What the connection's owner must do after a flush.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Want {
    Nothing,
    /// This part of this message's body, of the transaction with this token.
    Chunk(MessageId, u32, u64),
}

impl Connection {
    pub(super) fn new(
        conn: ConnId,
        destination: DestinationId,
        (host, remote, attempt, secure): (Rc<str>, Option<SocketAddr>, Attempt, Secure),
        route: Rc<Resolution>,
        others: Vec<Attempt>,
        bounds: Bounds,
        now: Moment,
    ) -> Self {
        Connection {
            conn,
            destination,
            client: None,
            way: None,
            remote,
            lmtp: false,
            host,
            attempt,
            secure,
            route,
            others,
            began: now,
            beside_at: None,
            race: conn,
            races: false,
            ready: false,
            peer: Capabilities::default(),
            connect_us: 0,
            done: 0,
            begun: 0,
            depth: Depth::NEW,
            transactions: Vec::new(),
            idle_since: None,
            listed: false,
            leaves: false,
            retires: false,
            took_last: false,
            source: None,
            source_scope: None,
            scope: None,
            bounds,
            unsent: VecDeque::new(),
            pinned: 0,
            stream: None,
        }
    }

    /// TCP stands: the machine waits for the greeting.
    pub(super) fn established(&mut self, ehlo_name: Arc<str>, timeouts: Arc<ClientTimeouts>, now: Moment) {
        self.client = Some(Box::new(Client::new(ehlo_name, timeouts, now)));
    }

    /// Pieces that the socket has not taken, and how many bytes of them are copies.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn unsent_size(&self) -> (usize, usize) {
        let copied = |piece: &Piece| match piece {
            Piece::Bytes(bytes, _) => bytes.len(),
            Piece::Shared(..) => 0,
        };
        (self.unsent.len(), self.unsent.iter().map(copied).sum())
    }

    /// Whether it takes a message now. Not behind bytes that the socket has not taken: what an envelope says of time would
    /// be old when it comes (RFC 2852 §4).
    pub(super) fn can_start(&self) -> bool {
        !self.is_spent() && !self.is_full() && self.has_space()
    }

    /// Likewise for a letter of somebody who has had nothing, where others have to wait.
    pub(super) fn can_start_new(&self) -> bool {
        let has_memory = self.pinned < limits::FLIGHT_PINNED_BYTES + limits::SPOOL_COMMIT_BYTES as usize;
        (!self.is_spent() || self.takes_last()) && has_memory && self.has_space()
    }

    /// Whether it carries as much as makes it faster, or what keeps so much memory alive that others wait.
    pub(super) fn is_full(&self) -> bool {
        self.transactions.len() >= self.depth.most() || self.pinned >= limits::FLIGHT_PINNED_BYTES
    }

    fn has_space(&self) -> bool {
        let flows = self.unsent.is_empty() && self.stream.is_none();
        flows && self.client.as_ref().is_some_and(|client| client.can_start() && !self.hesitates(client))
    }

    /// Whether it has had its last message.
    fn is_retired(&self) -> bool {
        self.retires && self.begun > 0
    }

    /// Whether it ends behind what it carries, at the latest. One that is to carry its first message before may be long in coming to it.
    pub(super) fn ends_soon(&self) -> bool {
        self.leaves || self.is_retired()
    }

    /// Whether it may wait for its first message to be allowed: it would only be opened again.
    pub(super) fn awaits_room(&self) -> bool {
        self.bounds.throttled && self.begun == 0
    }

    /// A message with a rate counts when it is begun, and here RSET and its reply would come first.
    fn hesitates(&self, client: &Client) -> bool {
        self.bounds.paced && !self.peer.pipelining && client.needs_reset()
    }

    /// Whether it has idled for so long that the peer may have closed it.
    pub(super) fn has_rested(&self, now: Moment) -> bool {
        self.idle_since.is_some_and(|since| now.since(since) >= limits::FLIGHT_REST)
    }

    /// A transaction has begun, of a message with so many chunks.
    pub(super) fn began(&mut self, transaction: Transaction, id: MessageId, chunks: u32) {
        if chunks > 0 {
            self.stream = Some(BodyStream { token: transaction.token, id, next: 0, parts: chunks, waiting: false });
        }
        self.took_last |= self.is_spent();
        self.begun += 1;
        self.idle_since = None;
        self.transactions.push(transaction);
        self.count_pinned();
    }

    /// Messages that came together lie in one buffer, and follow one another here.
    fn count_pinned(&mut self) {
        let mut before = None;
        self.pinned = 0;
        for Transaction { record, .. } in &self.transactions {
            if !before.is_some_and(|before: &Slice| before.shares_buffer(record)) {
                self.pinned += record.buffer_bytes();
            }
            before = Some(record);
        }
    }

    /// Whether it takes no further message, by a limit of ours or the peer's; but for [one](Self::takes_last).
    pub(super) fn is_spent(&self) -> bool {
        // Kept while others are under way: it ends behind them, and a connection that idles is as good as a new one to anybody.
        let kept = u32::from(self.bounds.messages >= limits::LAST_KEPT_FROM && !self.transactions.is_empty());
        self.is_retired() || self.begun + kept >= self.bounds.messages || self.is_spent_for_peer()
    }

    fn is_spent_for_peer(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.is_spent() || self.hesitates(client))
    }

    /// Whether it is to end, and takes a letter of somebody who has had nothing before that, one: what it carries may be a flight.
    pub(super) fn takes_last(&self) -> bool {
        self.is_spent()
            && !self.leaves
            && !(self.is_retired() && self.took_last)
            && self.begun < self.bounds.messages
            && !self.is_spent_for_peer()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.client.as_ref().is_some_and(|client| client.is_idle()) && self.transactions.is_empty()
    }

    pub(super) fn transaction(&mut self, token: u64) -> Option<&mut Transaction> {
        self.transactions.iter_mut().find(|t| t.token == token)
    }

    pub(super) fn take_transaction(&mut self, token: u64) -> Option<Transaction> {
        let at = self.transactions.iter().position(|t| t.token == token)?;
        self.done += 1;
        if self.stream.as_ref().is_some_and(|s| s.token == token) {
            self.stream = None;
        }
        let transaction = self.transactions.remove(at);
        self.count_pinned();
        Some(transaction)
    }

    /// The peer has accepted the message of a transaction that [was taken](Self::take_transaction).
    pub(super) fn landed(&mut self, transaction: &Transaction, now: Moment) {
        if transaction.flown {
            self.depth.landed(now.since(transaction.began));
        }
    }

    /// Sends what the machine wants sent, as far as the socket takes it: commands, body and the next envelope in one
    /// write.
    pub(super) fn flush(&mut self, turn: &mut Turn<'_>) -> Want {
        loop {
            let written = if self.transactions.len() > 2 {
                self.write_pieces::<PIECES>(turn)
            } else {
                self.write_pieces::<FEW_PIECES>(turn)
            };
            if let ControlFlow::Break(want) = written {
                return want;
            }
        }
    }

    /// One write of at most so many pieces. Their number is a parameter because room for a flight's is 3 KiB to clear and to
    /// look through, for each write.
    fn write_pieces<const MOST: usize>(&mut self, turn: &mut Turn<'_>) -> ControlFlow<Want> {
        let streams = self.is_streaming();
        let Some(client) = &mut self.client else { return ControlFlow::Break(Want::Nothing) };
        if !self.unsent.is_empty() || streams || self.secure.is_waiting() {
            // In order: what the machine says now goes behind what waits. It says nothing behind a body before
            // `body_sent`.
            return ControlFlow::Break(self.want_chunk());
        }
        // At most: the rest of one envelope, a body, the next envelope; or those of a flight.
        let mut pieces: [Option<Transmit>; MOST] = [const { None }; MOST];
        let mut count = 0;
        while count < pieces.len() {
            let Some(transmit) = client.poll_transmit() else { break };
            if let Transmit::Body { token } | Transmit::Chunk { token } = transmit {
                match self.stream.as_mut().filter(|stream| stream.token == token) {
                    Some(stream) => stream.next = 1,
                    None => client.body_sent(token, turn.now.mono),
                }
            }
            pieces[count] = Some(transmit);
            count += 1;
            if self.stream.as_ref().is_some_and(BodyStream::is_under_way) {
                break;
            }
        }
        if count == 0 {
            return ControlFlow::Break(Want::Nothing);
        }
        let mut outgoing: [Option<Outgoing<'_>>; MOST] = [const { None }; MOST];
        let mut total = 0;
        for (piece, out) in pieces[..count].iter().flatten().zip(&mut outgoing) {
            let body = |token: u64, by_bdat| {
                let transaction = self.transactions.iter().find(|t| t.token == token);
                transaction.expect("a transaction stays until it is finished").body(by_bdat)
            };
            let piece = match piece {
                Transmit::Commands(range) => Outgoing::Commands(client.commands(range.clone())),
                Transmit::Body { token } => body(*token, false),
                Transmit::Chunk { token } => body(*token, true),
            };
            total += piece.bytes().len();
            *out = Some(piece);
        }
        let empty: &[u8] = &[];
        let mut slices = [IoSlice::new(empty); MOST];
        for (slice, out) in slices.iter_mut().zip(outgoing[..count].iter().flatten()) {
            *slice = IoSlice::new(out.bytes());
        }
        let taken = tls::write(&mut self.secure, self.conn, turn.io, &slices[..count]);
        if taken < total {
            let mut skip = taken;
            for out in outgoing.into_iter().flatten() {
                let length = out.bytes().len();
                if skip >= length {
                    skip -= length;
                    continue;
                }
                self.unsent.push_back(out.keep(skip));
                skip = if planted!(PartialWriteCountedTwice) { skip } else { 0 };
            }
        }
        client.transmitted();
        ControlFlow::Continue(())
    }

    fn is_streaming(&self) -> bool {
        self.stream.as_ref().is_some_and(BodyStream::is_under_way)
    }

    fn want_chunk(&mut self) -> Want {
        // One chunk is being sent while the next is read: two in memory.
        match &mut self.stream {
            Some(stream) if stream.lacks() && self.unsent.len() < 2 => {
                stream.waiting = true;
                Want::Chunk(stream.id, stream.next, stream.token)
            }
            _ => Want::Nothing,
        }
    }

    /// The chunk that was wanted.
    pub(super) fn chunk(&mut self, id: MessageId, part: u32, record: &Slice, turn: &mut Turn<'_>) -> Want {
        let Some(stream) = &mut self.stream else { return Want::Nothing };
        let Some(data) = chunk_data(record) else { return Want::Nothing };
        if stream.id != id || stream.next != part {
            return Want::Nothing;
        }
        let start = data.as_ptr() as usize - record.as_ptr() as usize;
        stream.waiting = false;
        stream.next += 1;
        self.unsent.push_back(Piece::Shared(record.clone(), start..start + data.len()));
        self.writable(turn)
    }

    /// The socket has room: goes on with what it did not take.
    pub(super) fn writable(&mut self, turn: &mut Turn<'_>) -> Want {
        if let Some(sealed) = &mut self.secure.sealed
            && !sealed.push(self.conn, turn.io)
        {
            return self.want_chunk();
        }
        while let Some(piece) = self.unsent.front_mut() {
            let rest = match piece {
                Piece::Bytes(bytes, at) => &bytes[*at..],
                Piece::Shared(slice, range) => &slice[range.clone()],
            };
            let (len, parts) = (rest.len(), [IoSlice::new(rest)]);
            let taken = tls::write(&mut self.secure, self.conn, turn.io, &parts);
            if let (Some(client), true) = (&mut self.client, self.stream.is_some()) {
                client.body_progress(turn.now.mono);
            }
            if taken < len {
                match piece {
                    Piece::Bytes(_, at) => *at += taken,
                    Piece::Shared(_, range) => range.start += taken,
                }
                return self.want_chunk();
            }
            self.unsent.pop_front();
        }
        if let Some(stream) = &self.stream
            && stream.next > stream.parts
            && let Some(client) = &mut self.client
        {
            client.body_sent(stream.token, turn.now.mono);
            self.stream = None;
        }
        if self.is_streaming() { self.want_chunk() } else { self.flush(turn) }
    }

    /// When the connection must be looked at: the machine's timer, or the end of the connect or of idleness.
    pub(super) fn deadline(
        &self,
        connect_timeout: std::time::Duration,
        idle_timeout: std::time::Duration,
    ) -> Option<Moment> {
        match (&self.client, self.idle_since) {
            (None, _) => {
                let end = self.began + connect_timeout;
                Some(self.beside_at.map_or(end, |at| at.min(end)))
            }
            (Some(_), Some(since)) => {
                let idle = if self.awaits_room() { idle_timeout.max(limits::PACED_IDLE) } else { idle_timeout };
                Some(since + idle * if planted!(IdleTooLong) { 20 } else { 1 })
            }
            (Some(client), None) => client.poll_timeout(),
        }
    }
}
