//! Delivery into Maildirs: the recipients of a job one after the other, the message piece by piece, on other threads.
//!
//! Inputs: jobs of Maildir destinations, pieces of their messages, the table of local names. Outputs: work for other threads,
//! outcomes. Lives on the shard that accepted the message. It refuses to block its shard, to hold more than a piece of each
//! message, and to deliver a message twice to one address that the message itself says it has been delivered to.
//!
//! A recipient is settled once its file and the file's name are on stable storage. A process that ends between that and the
//! settlement writes the message again when it is back: it may be there twice, and is never lost.

use super::outcome::{Attempt, Stages};
use super::replies::{as_reply, is_permanent};
use super::{Deliverer, Fetch, params};
use crate::limits;
use crate::local::maildir::{ToStored, Unique, preface, was_delivered};
use crate::local::{Mailbox, Target};
use crate::message::Status;
use crate::message::params::BodyType;
use crate::queue::{DestinationId, JobKey, LastReply, RecipientSet};
use crate::rt::WorkResult;
use crate::rt::buffer::Slice;
use crate::rt::maildir::{Failure, FailureKind, Writer};
use crate::shard::{Turn, micros};
use crate::smtp::extensions::Capabilities;
use crate::spool::{RecordView, chunk_data};
use crate::time::Moment;
use slab::Slab;
use std::collections::VecDeque;
use std::path::PathBuf;

/// Set in the tokens of work for this half of a shard.
pub(crate) const WORK: u64 = 1 << 63;

/// The messages that are being written. Lives on its shard.
#[derive(Default)]
pub(super) struct Writers {
    /// At most [`limits::MAILDIR_WRITERS`]. Each has one piece of work, or one question for a piece, under way.
    jobs: Slab<Writing>,
    /// Destinations with mail that wait for one of them to end.
    waiting: VecDeque<DestinationId>,
    /// Files so far, and what tells them from those of another shard or life of the process.
    sequence: u64,
    process: Option<u32>,
}

impl Writers {
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// How many there are.
    #[cfg(any(test, feature = "sim"))]
    pub(super) fn len(&self) -> usize {
        self.jobs.len()
    }
}

/// One job.
struct Writing {
    job: JobKey,
    record: Slice,
    recipients: Vec<u16>,
    /// The place of the recipient that is written to, in `recipients`.
    at: usize,
    /// The part of the message that it gets, or got last: 0 is the record.
    part: u32,
    /// Between two parts.
    copying: Option<Box<Copying>>,
    began: Moment,
    failed: Vec<(u16, Box<LastReply>)>,
}

/// A file that has had some parts of its message.
struct Copying {
    writer: Writer,
    form: ToStored,
    /// Whom the message must not have been delivered to before.
    address: Vec<u8>,
}

/// What a piece of work came to.
enum Wrote {
    /// The next part may come.
    Part(Box<Copying>),
    /// The message is in the mailbox, by this name.
    Whole(String),
    /// It says itself that it was there before.
    Loop,
    /// The message does not end, or cannot be read on.
    Unreadable,
    Failed(Failure),
}

/// The file of one recipient.
struct Place {
    folder: PathBuf,
    unique: String,
    sender: Vec<u8>,
    /// The recipient's.
    address: Vec<u8>,
}

impl Deliverer {
    /// Begins to write what waits for a Maildir, as far as there are writers.
    pub(super) fn pump_maildir(&mut self, destination: DestinationId, turn: &mut Turn<'_>) {
        while self.writers.jobs.len() < limits::MAILDIR_WRITERS {
            let Some(key) = self.next_loaded(destination, turn) else { return };
            self.begin_writing(key, turn);
        }
        let pool = self.pools.make(destination);
        let waits = !pool.loaded.is_empty() || self.queue.peek_len(destination) > 0;
        if waits && !std::mem::replace(&mut pool.awaits_writer, true) {
            self.writers.waiting.push_back(destination);
        }
    }

    fn begin_writing(&mut self, key: JobKey, turn: &mut Turn<'_>) {
        let Some(job) = self.queue.job_mut(key) else { return };
        if job.terms.as_ref().is_some_and(|t| t.is_overdue(turn.now.mono)) {
            return self.expire(key, turn);
        }
        let Some(record) = job.body.take() else { return };
        let recipients = job.recipients.as_slice().to_vec();
        let (began, copying, failed) = (turn.now.mono, None, Vec::new());
        let writing = Writing { job: key, record, recipients, at: 0, part: 0, copying, began, failed };
        let writer = self.writers.jobs.insert(writing);
        self.next_recipient(writer, turn);
    }

    /// Begins the file of the next recipient that can have one, or ends the job.
    fn next_recipient(&mut self, writer: usize, turn: &mut Turn<'_>) {
        while let Some(writing) = self.writers.jobs.get(writer) {
            let Some(&index) = writing.recipients.get(writing.at) else { return self.end_writing(writer, turn) };
            let record = writing.record.clone();
            match self.place(&record, index, turn) {
                Ok(place) => {
                    let work = move || -> WorkResult { Box::new(begin_file(&place, &record)) };
                    return turn.io.work(WORK | writer as u64, Box::new(work));
                }
                Err((status, why)) => self.recipient_failed(writer, status, why, turn),
            }
        }
    }

    /// Where a recipient's file comes to be; or why it cannot.
    fn place(&mut self, record: &Slice, index: u16, turn: &mut Turn<'_>) -> Result<Place, (Status, &'static str)> {
        let no_mailbox = (Status::new(5, 1, 1), "there is no such mailbox here any more");
        let view = RecordView::parse(record).ok_or((Status::new(4, 3, 0), "the message cannot be read"))?;
        let recipient = view.recipients().find(|r| r.index == index).ok_or(no_mailbox)?;
        if view.params().options().body == BodyType::Binary {
            return Err((Status::new(5, 6, 1), "binary messages cannot be kept in this mailbox"));
        }
        let local_part = &recipient.address[..recipient.address.len() - recipient.domain.len()];
        let domain = crate::route::Domain::new(recipient.domain);
        let table = &self.tables.local;
        let Mailbox { domain, name, address } = table
            .mailbox(domain.as_str().as_bytes(), local_part.strip_suffix(b"@").unwrap_or(local_part))
            .ok_or(no_mailbox)?;
        let Some(Target::Maildir(layout)) = table.target(&domain) else { return Err(no_mailbox) };
        let folder = layout.folder(&domain, &name);
        let folder = folder.map_err(|_| (Status::new(5, 1, 3), "this mailbox cannot have a folder"))?;
        let sender = params::sender(&view, &[index]);
        self.writers.sequence += 1;
        let unique = Unique {
            seconds: turn.now.wall.0 / 1000,
            micros: u32::try_from(turn.now.wall.0 % 1000 * 1000).expect("below a million"),
            process: *self.writers.process.get_or_insert_with(|| turn.io.random() as u32),
            sequence: self.writers.sequence,
            host: &self.config.hostname,
        };
        let unique = unique.file_name();
        Ok(Place { folder: folder.into(), unique, sender: sender.to_vec(), address })
    }

    /// Work on another thread has ended.
    pub fn worked(&mut self, token: u64, result: WorkResult, turn: &mut Turn<'_>) {
        let writer = usize::try_from(token & !WORK).unwrap_or(usize::MAX);
        let Ok(wrote) = result.downcast::<Wrote>() else { return };
        let Some(writing) = self.writers.jobs.get_mut(writer) else { return };
        match *wrote {
            Wrote::Part(copying) => {
                writing.copying = Some(copying);
                writing.part += 1;
                let (job, part) = (writing.job, writing.part);
                let Some((id, home)) = self.queue.job(job).map(|job| (job.id, job.home)) else { return };
                self.fetch(id, part, home, Fetch::Writer(writer), turn);
            }
            Wrote::Whole(name) => self.recipient_has_it(writer, &name, turn),
            Wrote::Loop => {
                let why = "it has been delivered to this address before: a mail loop";
                self.recipient_failed(writer, Status::new(5, 4, 6), why, turn);
                self.next_recipient(writer, turn);
            }
            Wrote::Unreadable => {
                let why = "the message cannot be read from the spool just now";
                self.recipient_failed(writer, Status::new(4, 3, 0), why, turn);
                self.next_recipient(writer, turn);
            }
            Wrote::Failed(failure) => {
                // The path is for the operator alone.
                tracing::warn!(shard = self.me, %failure, "a message cannot be written into a Maildir");
                let (status, why) = match failure.kind {
                    FailureKind::Transient => (Status::new(4, 3, 0), "the mailbox cannot be written to just now"),
                    FailureKind::Full => (Status::new(4, 2, 2), "the mailbox is full"),
                    FailureKind::Permanent => (Status::new(5, 2, 0), "the mailbox cannot take the message"),
                };
                self.recipient_failed(writer, status, why, turn);
                self.next_recipient(writer, turn);
            }
        }
    }

    /// The part that a file goes on with.
    pub(super) fn chunk_for_writer(&mut self, writer: usize, record: Option<&Slice>, turn: &mut Turn<'_>) {
        let Some(writing) = self.writers.jobs.get_mut(writer) else { return };
        let Some(copying) = writing.copying.take() else { return };
        let parts = RecordView::parse(&writing.record).map_or(0, |view| view.chunk_count());
        let (part, record) = (writing.part, record.cloned());
        // Also if there is none: to let go of a file takes a system call.
        let work = move || -> WorkResult { Box::new(go_on(copying, record.as_ref(), part, parts)) };
        turn.io.work(WORK | writer as u64, Box::new(work));
    }

    /// The file of a recipient is there.
    fn recipient_has_it(&mut self, writer: usize, name: &str, turn: &mut Turn<'_>) {
        let Some(writing) = self.writers.jobs.get_mut(writer) else { return };
        let (key, record, began) = (writing.job, writing.record.clone(), writing.began);
        let one = RecipientSet::One(writing.recipients[writing.at]);
        (writing.at, writing.part) = (writing.at + 1, 0);
        let stages = self.stages(key, began, turn);
        let text = format!("written as {name}");
        let reply = LastReply::new(turn.now.wall, "", 250, Some(Status::new(2, 1, 5)), text.as_bytes());
        let peer = Capabilities::default();
        let attempt = Attempt { stages, record: Some(&record), ..Attempt::default() };
        self.delivered(key, &one, &as_reply(&reply), "", &peer, attempt, turn);
        self.next_recipient(writer, turn);
    }

    /// It will not be, now or ever.
    fn recipient_failed(&mut self, writer: usize, status: Status, why: &str, turn: &Turn<'_>) {
        let Some(writing) = self.writers.jobs.get_mut(writer) else { return };
        let reply = LastReply::new(turn.now.wall, "", 0, Some(status), why.as_bytes());
        writing.failed.push((writing.recipients[writing.at], Box::new(reply)));
        (writing.at, writing.part) = (writing.at + 1, 0);
    }

    /// All recipients of the job have had their turn.
    fn end_writing(&mut self, writer: usize, turn: &mut Turn<'_>) {
        let Writing { job, record, began, failed, .. } = self.writers.jobs.remove(writer);
        let stages = self.stages(job, began, turn);
        let attempt = Attempt { stages, record: Some(&record), ..Attempt::default() };
        let destination = self.queue.destination_of(job);
        let mut again = Vec::new();
        let mut reason = None;
        for (index, reply) in failed {
            if is_permanent(&reply) {
                self.fail(job, RecipientSet::One(index), reply, attempt, turn);
            } else {
                again.push(index);
                reason = Some(reply);
            }
        }
        match reason {
            None => {
                self.queue.finished(job);
            }
            Some(reply) => {
                self.defer(job, RecipientSet::from_slice(&again), *reply, attempt, turn);
            }
        }
        for destination in std::mem::take(&mut self.writers.waiting) {
            if let Some(pool) = self.pools.get_mut(&destination) {
                pool.awaits_writer = false;
                self.wake(destination);
            }
        }
        if let Some(destination) = destination {
            self.wake(destination);
        }
    }

    fn stages(&self, key: JobKey, began: Moment, turn: &Turn<'_>) -> Stages {
        let enqueued = self.queue.job(key).map_or(began, |job| job.enqueued);
        Stages { queue: micros(began, enqueued), connect: 0, deliver: micros(turn.now.mono, began) }
    }
}

// --- on another thread --------------------------------------------------------------------------------------------------

/// The first part of the file, or all of it.
fn begin_file(place: &Place, record: &Slice) -> Wrote {
    let Some(view) = RecordView::parse(record) else { return Wrote::Unreadable };
    let last = view.chunk_count() == 0;
    // A body in chunks brings its own header section with the first of them.
    if last && was_delivered(view.data(), &place.address) {
        return Wrote::Loop;
    }
    let mut writer = match Writer::begin(&place.folder, &place.unique) {
        Ok(writer) => writer,
        Err(failure) => return Wrote::Failed(failure),
    };
    if let Err(failure) = writer.write(&preface(&place.sender, &place.address)) {
        return Wrote::Failed(failure);
    }
    let copying = Copying { writer, form: ToStored::default(), address: place.address.clone() };
    write_part(Box::new(copying), view.data(), last)
}

/// Another part.
fn go_on(copying: Box<Copying>, record: Option<&Slice>, part: u32, parts: u32) -> Wrote {
    let Some(data) = record.and_then(|record| chunk_data(record)) else { return Wrote::Unreadable };
    if part == 1 && was_delivered(data, &copying.address) {
        return Wrote::Loop;
    }
    write_part(copying, data, part >= parts)
}

fn write_part(mut copying: Box<Copying>, data: &[u8], last: bool) -> Wrote {
    let mut stored = Vec::new();
    copying.form.feed(data, &mut stored);
    if last && !std::mem::take(&mut copying.form).finish(&mut stored) {
        return Wrote::Unreadable;
    }
    if let Err(failure) = copying.writer.write(&stored) {
        return Wrote::Failed(failure);
    }
    if !last {
        return Wrote::Part(copying);
    }
    match copying.writer.finish() {
        Ok(name) => Wrote::Whole(name),
        Err(failure) => Wrote::Failed(failure),
    }
}
