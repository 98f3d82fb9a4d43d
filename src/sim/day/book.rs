//! The account of a day: each letter by its number, what happened in each five minutes, and what must not have happened.
//!
//! Inputs: what senders and receivers see, when they see it, and what the relay says of its deferrals. Output: [`Letter`]s
//! and numbers. It knows nothing from the relay that decides whether a letter was lost or repeated.

use crate::message::MessageId;
use crate::shard::event::Code;
use crate::time::Moment;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

/// The length of a [`Slot`].
pub const SLOT: Duration = Duration::from_secs(300);
/// When every day begins, on the simulation's own clock.
pub const MIDNIGHT: Moment = Moment(1_000_000_000);
/// Violations kept in words.
const SHOWN: usize = 20;

/// What became of a letter.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// It was not acknowledged yet.
    #[default]
    New,
    /// The relay has acknowledged it, and has it.
    Queued,
    /// Its receiver took it.
    Delivered,
    /// Its sender was told that it failed.
    Returned,
}

/// Why a letter had to wait last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Why {
    /// For its turn only.
    #[default]
    Turn,
    /// No host could be reached.
    Unreachable,
    /// The host said 421: it does not take mail now.
    Closed,
    /// It was greylisted.
    Greylisted,
    /// The receiver counted too many messages.
    Rate,
    /// The receiver counted too many connections.
    Connections,
    /// The mailbox was full.
    Full,
    /// DNS gave no answer.
    Dns,
    /// Anything else.
    Other,
}

impl Why {
    /// All of them.
    pub const ALL: [Why; 9] = [
        Why::Turn,
        Why::Unreachable,
        Why::Closed,
        Why::Greylisted,
        Why::Rate,
        Why::Connections,
        Why::Full,
        Why::Dns,
        Why::Other,
    ];

    /// In words for a table.
    pub fn name(self) -> &'static str {
        match self {
            Why::Turn => "its turn",
            Why::Unreachable => "host unreachable",
            Why::Closed => "421, not now",
            Why::Greylisted => "greylisted",
            Why::Rate => "over the receiver's rate",
            Why::Connections => "over the receiver's connections",
            Why::Full => "mailbox full",
            Why::Dns => "DNS without an answer",
            Why::Other => "other",
        }
    }

    /// By the reply or failure that the relay tells of.
    pub fn of(code: Code, text: &[u8]) -> Why {
        let says = |what: &str| memchr::memmem::find(text, what.as_bytes()).is_some();
        match code.basic {
            421 if says("connections") => Why::Connections,
            421 => Why::Closed,
            450 | 451 if says("greylisted") => Why::Greylisted,
            450 | 451 if says("too many messages") => Why::Rate,
            452 => Why::Full,
            // RFC 3463 §3.5: directory server failure.
            0 if code.enhanced == Some((4, 4, 3)) => Why::Dns,
            0 => Why::Unreachable,
            _ => Why::Other,
        }
    }
}

/// One message to one recipient. Times are milliseconds since midnight.
#[derive(Clone, Copy, Debug, Default)]
pub struct Letter {
    /// As the relay said it; 0 before.
    pub id: u64,
    /// When it was acknowledged.
    pub accepted: u32,
    /// When it was delivered first, or returned.
    pub ended: u32,
    /// The number of its recipient's domain.
    pub domain: u32,
    /// The number of the site that has it.
    pub site: u16,
    /// The number of its sender.
    pub tenant: u8,
    /// What became of it.
    pub state: State,
    /// Why it waited last.
    pub why: Why,
    /// Attempts that failed for the time being.
    pub deferrals: u8,
    /// Times that its receiver took it.
    pub copies: u8,
    /// Times that it was submitted.
    pub tries: u8,
}

/// What happened in five minutes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Slot {
    /// Letters acknowledged.
    pub accepted: u32,
    /// Delivered.
    pub delivered: u32,
    /// Attempts that failed for the time being.
    pub deferred: u32,
    /// Returned.
    pub returned: u32,
    /// Letters that the relay had at the end.
    pub queued: u32,
}

/// See the module. Clones are the same book.
#[derive(Clone)]
pub struct Book(Rc<RefCell<Pages>>);

/// What stands in a [`Book`].
#[derive(Default)]
pub struct Pages {
    /// By their numbers.
    pub letters: Vec<Letter>,
    /// By time.
    pub slots: Vec<Slot>,
    /// Acknowledged.
    pub accepted: u64,
    /// Delivered.
    pub delivered: u64,
    /// Returned.
    pub returned: u64,
    /// Attempts that failed for the time being, by why.
    pub deferred: [u64; Why::ALL.len()],
    /// Commands and letters that the relay refused for the time being.
    pub put_off: u64,
    /// Deliveries that were repeated, with a reason.
    pub repeated: u64,
    /// When the relay ended without being asked.
    pub crashes: Vec<Moment>,
    /// What must not have happened, the first of it in words.
    pub violations: Vec<String>,
    /// And how often.
    pub violated: u64,
}

/// Milliseconds since midnight.
pub fn since_midnight(at: Moment) -> u32 {
    u32::try_from(at.since(MIDNIGHT).as_millis()).unwrap_or(u32::MAX)
}

/// An outcome is on stable storage so long after it was known: before a crash it may be known to nobody.
const SETTLE_TIME: Duration = Duration::from_secs(3);
/// No way is longer.
const UNDER_WAY: Duration = Duration::from_secs(1);

impl Book {
    /// An empty one.
    pub fn new() -> Book {
        Book(Rc::new(RefCell::new(Pages::default())))
    }

    /// Looks into it.
    pub fn read<R>(&self, look: impl FnOnce(&Pages) -> R) -> R {
        look(&self.0.borrow())
    }

    /// Writes into it.
    pub fn write<R>(&self, change: impl FnOnce(&mut Pages) -> R) -> R {
        change(&mut self.0.borrow_mut())
    }

    /// All of it, at the end.
    pub fn take(&self) -> Pages {
        std::mem::take(&mut *self.0.borrow_mut())
    }
}

impl Default for Book {
    fn default() -> Self {
        Book::new()
    }
}

impl Pages {
    fn slot(&mut self, at: Moment) -> &mut Slot {
        let index = usize::try_from(at.since(MIDNIGHT).as_secs() / SLOT.as_secs()).unwrap_or(usize::MAX);
        if self.slots.len() <= index {
            self.slots.resize(index + 1, Slot::default());
        }
        &mut self.slots[index]
    }

    /// Something that must not be.
    pub fn violate(&mut self, text: String) {
        self.violated += 1;
        if self.violations.len() < SHOWN {
            self.violations.push(text);
        }
    }

    /// Letters that the relay has.
    pub fn queued(&self) -> u64 {
        self.accepted - self.delivered - self.returned
    }

    /// Notes how many those are, at the end of a slot.
    pub fn close_slot(&mut self, at: Moment) {
        let queued = u32::try_from(self.queued()).unwrap_or(u32::MAX);
        self.slot(at).queued = queued;
    }

    /// A new letter; its number.
    pub fn begin(&mut self, tenant: u8, domain: u32, site: u16) -> u32 {
        self.letters.push(Letter { tenant, domain, site, ..Letter::default() });
        u32::try_from(self.letters.len() - 1).expect("fewer than 4 billion letters")
    }

    /// The relay has acknowledged one.
    pub fn acknowledge(&mut self, mark: u32, id: MessageId, at: Moment) {
        let letter = &mut self.letters[mark as usize];
        if letter.state != State::New {
            // It was submitted twice, because nobody heard of the first time.
            return;
        }
        (letter.state, letter.id, letter.accepted) = (State::Queued, id.0, since_midnight(at));
        if letter.copies > 0 {
            // Who is fast delivers before the acknowledgement has come.
            (letter.state, letter.ended) = (State::Delivered, letter.accepted);
            self.delivered += 1;
            self.slot(at).delivered += 1;
        }
        self.accepted += 1;
        self.slot(at).accepted += 1;
    }

    /// A receiver took it.
    pub fn deliver(&mut self, mark: u32, at: Moment) {
        let Some(letter) = self.letters.get_mut(mark as usize) else {
            return self.violate(format!("letter {mark} was delivered and never written"));
        };
        letter.copies = letter.copies.saturating_add(1);
        let (before, copies, tries) = (*letter, letter.copies, letter.tries);
        match before.state {
            State::New if copies == 1 => {}
            State::Queued => {
                (letter.state, letter.ended) = (State::Delivered, since_midnight(at));
                self.delivered += 1;
                self.slot(at).delivered += 1;
            }
            _ => {
                let ended = MIDNIGHT + Duration::from_millis(u64::from(before.ended));
                // What was under way when it came arrives behind it, and nobody hears that it did.
                let crash = |crash: &&Moment| ended <= **crash + UNDER_WAY && crash.since(ended) <= SETTLE_TIME;
                if before.state != State::Returned && (tries > 1 || self.crashes.iter().any(|c| crash(&c))) {
                    self.repeated += 1;
                } else {
                    self.violate(format!("letter {mark} was delivered again, {before:?}"));
                }
            }
        }
    }

    /// Its sender hears that it failed.
    pub fn give_back(&mut self, mark: u32, at: Moment) {
        let Some(letter) = self.letters.get_mut(mark as usize) else {
            return self.violate(format!("letter {mark} was returned and never written"));
        };
        match letter.state {
            State::Queued => {
                (letter.state, letter.ended) = (State::Returned, since_midnight(at));
                self.returned += 1;
                self.slot(at).returned += 1;
            }
            // A crash came before the relay had noted that it told.
            State::Returned if !self.crashes.is_empty() => self.repeated += 1,
            State::New if letter.tries > 1 => self.repeated += 1,
            _ => {
                let text = format!("letter {mark} was returned, {letter:?}");
                self.violate(text);
            }
        }
    }

    /// The relay says that it has to wait.
    pub fn defer(&mut self, mark: Option<u32>, why: Why, at: Moment) {
        self.deferred[why as usize] += 1;
        self.slot(at).deferred += 1;
        if let Some(letter) = mark.and_then(|mark| self.letters.get_mut(mark as usize)) {
            letter.deferrals = letter.deferrals.saturating_add(1);
            letter.why = why;
        }
    }
}
