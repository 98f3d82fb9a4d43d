//! PURE. What of a connection is under way: transactions in the order of their commands, and the bodies that stand between
//! these commands. Several transactions are a *flight* where the peer announces PIPELINING and CHUNKING: MAIL, RCPT and BDAT
//! LAST with its octets of one go behind those of the other, and the replies come in that order (RFC 2920, RFC 3030).
//!
//! RFC 3030 §2 has a client look at the replies to RCPT first, and a server accept and drop chunks that are in the pipeline
//! behind a failure. So a flight wastes the octets of a message that nobody is to get; what it may waste is bounded here, and
//! whether it is worth it with a peer the driver says, by `Client::fly`. Behind a BDAT that may fail the peer's state is
//! indeterminate (RFC 3030 §2): each further transaction of a flight begins with RSET.
//!
//! It refuses to fly with an LMTP server, and with a message whose octets are not known exactly.

use super::event::RefusedAt;
use super::{Client, MailParams};
use crate::limits;
use crate::smtp::reply::Reply;
use smallvec::SmallVec;

/// The command of a transaction whose reply comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// RSET, sent in front of a transaction behind a failed one, or one that may fail.
    Reset,
    Mail,
    Rcpt,
    Data,
    Final,
}

/// How the octets of a message go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Carriage {
    /// By DATA, behind 354.
    Data,
    /// By BDAT, once it is known that somebody is to get them: so many.
    Held(u64),
    /// By BDAT right behind RCPT: in a flight.
    Flown,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Transaction {
    pub(super) token: u64,
    pub(super) stage: Stage,
    /// Replies to RCPT so far, of `recipients`.
    pub(super) answered: u32,
    pub(super) recipients: u32,
    pub(super) accepted: u32,
    /// The peer has a transaction open: it needs RSET if it ends before the final dot.
    pub(super) mail_accepted: bool,
    /// Its `Finished` event is out; the replies still due only keep the connection in step.
    pub(super) finished: bool,
    /// Everything up to the final dot, or the last octet, was given to the transport.
    pub(super) body_sent: bool,
    pub(super) carriage: Carriage,
    /// What it has in a flight: octets of commands and body.
    octets: u64,
}

impl Transaction {
    pub(super) fn new(token: u64, recipients: u32, carriage: Carriage, begins_with_reset: bool) -> Self {
        Transaction {
            token,
            stage: if begins_with_reset { Stage::Reset } else { Stage::Mail },
            answered: 0,
            recipients,
            accepted: 0,
            mail_accepted: false,
            finished: false,
            body_sent: false,
            carriage,
            octets: 0,
        }
    }

    pub(super) fn is_flown(&self) -> bool {
        self.carriage == Carriage::Flown
    }

    pub(super) fn goes_by_bdat(&self) -> bool {
        self.carriage != Carriage::Data
    }

    /// Which reply refuses it. That of a flight may be about the flight: a peer that does not take one answers that a command
    /// is unknown or out of sequence (RFC 5321 §4.2.2: 50z; RFC 3463 §3.6: X.5.Z).
    pub(super) fn refused_at(&self, stage: RefusedAt, reply: &Reply<'_>) -> RefusedAt {
        let of_protocol = matches!(reply.code, 500..=504) || reply.enhanced.is_some_and(|e| e.0 == 5 && e.1 == 5);
        let by_command = matches!(stage, RefusedAt::Mail | RefusedAt::Message);
        if self.is_flown() && by_command && of_protocol && !planted!(FlightBlamed) { RefusedAt::Flight } else { stage }
    }
}

/// A body that is to be sent behind `out[..at]`.
#[derive(Clone, Copy, Debug)]
pub(super) struct PendingBody {
    pub(super) token: u64,
    pub(super) at: usize,
    /// It goes by BDAT: without dots of ours.
    pub(super) bare: bool,
    pub(super) polled: bool,
}

/// See the module. The first transaction is the one that replies belong to.
#[derive(Debug)]
pub(super) struct UnderWay {
    /// Two without a flight: the second behind the final dot of the first.
    queue: SmallVec<[Transaction; 2]>,
    /// Transactions of a flight from now on; 1: none.
    most: usize,
    /// And when those under way began: what may stand behind them does not change with it.
    room: usize,
    /// Octets of the flight.
    octets: u64,
}

impl Default for UnderWay {
    fn default() -> Self {
        UnderWay { queue: SmallVec::new(), most: 1, room: 1, octets: 0 }
    }
}

impl UnderWay {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn first(&self) -> Option<&Transaction> {
        self.queue.first()
    }

    pub(super) fn find(&mut self, token: u64) -> Option<&mut Transaction> {
        self.queue.iter_mut().find(|t| t.token == token)
    }

    /// Whether another one may begin behind the last: in a flight that has room, or behind a final dot.
    pub(super) fn has_room(&self) -> bool {
        match self.queue.last() {
            None => true,
            Some(t) if t.is_flown() => self.queue.len() < self.room && self.octets < limits::FLIGHT_OCTETS,
            Some(t) => t.stage == Stage::Final,
        }
    }

    /// Whether what is sent now stands behind a BDAT whose reply is not known.
    pub(super) fn is_behind_bdat(&self) -> bool {
        self.queue.last().is_some_and(Transaction::goes_by_bdat)
    }

    /// The last that was begun, with its octets in a flight.
    pub(super) fn push(&mut self, t: Transaction, octets: u64) {
        self.octets += octets;
        self.queue.push(Transaction { octets, ..t });
    }

    /// The first, to be put back or ended.
    pub(super) fn take_first(&mut self) -> Option<Transaction> {
        (!self.queue.is_empty()).then(|| self.queue.remove(0))
    }

    pub(super) fn put_back(&mut self, t: Transaction) {
        self.queue.insert(0, t);
    }

    /// One that was taken, and has ended.
    pub(super) fn ended(&mut self, t: &Transaction) {
        self.octets -= t.octets;
    }

    /// All of them, the connection being over.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Transaction> {
        self.octets = 0;
        self.queue.drain(..)
    }

    /// The peer has said that it reads nothing more: what it was sent it has not taken.
    pub(super) fn unread(&mut self) {
        self.queue.iter_mut().for_each(|t| t.body_sent = false);
    }
}

impl Client {
    /// The most transactions in a flight from now on; 1: each waits for the reply to the one before, as by DATA, which may also
    /// stand behind what is in flight already.
    pub fn fly(&mut self, most: usize) {
        let way = &mut self.under_way;
        way.most = most.clamp(1, limits::FLIGHT_TRANSACTIONS);
        way.room = if way.queue.is_empty() { way.most } else { way.room.max(way.most) };
    }

    /// How the octets of this message go.
    pub(super) fn carriage(&self, params: &MailParams<'_>) -> Carriage {
        let peer = &self.capabilities;
        let may_fly = self.under_way.most > 1 && peer.pipelining && peer.chunking && self.lmtp.is_none();
        if may_fly && params.is_exact() && params.size <= limits::FLIGHT_BODY_BYTES {
            Carriage::Flown
        } else if params.is_binary() {
            Carriage::Held(params.size)
        } else {
            Carriage::Data
        }
    }
}
