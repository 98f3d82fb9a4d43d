//! `spool verify` and `spool list`: read a spool without a server, and change nothing in it.
//!
//! Input: a [`Disk`] and a folder; output: values that print themselves as text. Core: none; the calling thread and
//! recovery's helpers. Refuses: to verify a folder that a server writes to (what it just writes would look torn); listing
//! such a folder is possible and says that it may be out of date.

use super::format::{Outcome, RecordView};
use super::merge::{Damage, merge};
use super::recover::{Company, LOCK_NAME, RecoveryError, read_folder};
use super::scan::Identity;
use crate::limits;
use crate::message::MessageId;
use crate::rt::disk::{Disk, Lock};
use crate::time::Wall;
use std::fmt;
use std::io;
use std::path::Path;

/// What `verify` found.
#[derive(Debug)]
pub struct Report {
    /// Segment files read.
    pub files: usize,
    /// Files that are free for reuse.
    pub free: usize,
    /// Logs (shards of some run) with segments.
    pub logs: usize,
    /// Messages with recipients without outcome.
    pub live: usize,
    /// Everything that is wrong.
    pub damage: Vec<Damage>,
}

impl Report {
    /// 0: intact. 1: damage found.
    pub fn exit_status(&self) -> u8 {
        u8::from(!self.damage.is_empty())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for damage in &self.damage {
            writeln!(f, "DAMAGED {damage}")?;
        }
        let verdict = if self.damage.is_empty() { "intact" } else { "damaged" };
        let Report { files, free, logs, live, .. } = self;
        writeln!(f, "{verdict}: {files} files ({free} free), {logs} logs, {live} messages queued")
    }
}

/// One recipient of a [`Listed`] message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedRecipient {
    /// `local-part@domain`.
    pub address: Vec<u8>,
    /// Its outcome; `None` while it waits.
    pub outcome: Option<Outcome>,
}

/// One queued message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its id.
    pub id: MessageId,
    /// When it was accepted.
    pub accepted: Wall,
    /// Octets of trace header and body.
    pub size: u64,
    /// The reverse-path; empty for the null sender.
    pub sender: Vec<u8>,
    /// Forward-paths.
    pub recipients: Vec<ListedRecipient>,
    /// False if a part of its body is missing: it cannot be delivered.
    pub complete: bool,
}

/// All queued messages, oldest first.
#[derive(Debug)]
pub struct Listing {
    /// The messages.
    pub messages: Vec<Listed>,
    /// A server has the folder: the listing may be out of date.
    pub running: bool,
    /// For the column of ages.
    pub now: Wall,
}

/// A name from an envelope may hold anything but is printed to a terminal.
fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

fn age(wall: Wall, now: Wall) -> String {
    let seconds = now.since(wall).as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86400, seconds / 3600 % 24),
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.running {
            writeln!(f, "note: a server is using this spool; the list is what was on disk a moment ago")?;
        }
        writeln!(f, "{:13}  {:24}  {:>7}  {:>10}  SENDER → RECIPIENTS", "ID", "ACCEPTED", "AGE", "SIZE")?;
        for message in &self.messages {
            let millis = i64::try_from(message.accepted.0).unwrap_or(i64::MAX);
            let accepted =
                jiff::Timestamp::from_millisecond(millis).map_or_else(|_| "?".to_owned(), |t| format!("{t:.3}"));
            let age = age(message.accepted, self.now);
            let id = message.id;
            write!(f, "{id}  {accepted:24}  {age:>7}  {:>10}  <{}>", message.size, printable(&message.sender))?;
            for recipient in &message.recipients {
                let state = match recipient.outcome {
                    None => "queued",
                    Some(Outcome::Delivered) => "delivered",
                    Some(Outcome::Bounced) => "bounced",
                    Some(Outcome::Expired) => "expired",
                    Some(Outcome::Removed) => "removed",
                };
                write!(f, " → <{}> {state}", printable(&recipient.address))?;
            }
            writeln!(f, "{}", if message.complete { "" } else { " (body incomplete)" })?;
        }
        writeln!(f, "{} messages", self.messages.len())
    }
}

/// The lock if no server has the folder. A folder that was never used has no lock file, and gets none.
fn try_lock(disk: &dyn Disk, folder: &Path) -> Result<Option<Lock>, RecoveryError> {
    let path = folder.join(LOCK_NAME);
    match disk.lock(&path, false) {
        Ok(lock) => Ok(lock),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(Lock::none())),
        Err(error) => Err(RecoveryError::Io { what: "cannot lock", path, error }),
    }
}

/// Reads every record of the spool and checks it.
pub fn verify(disk: &dyn Disk, folder: &Path) -> Result<Report, RecoveryError> {
    let Some(_lock) = try_lock(disk, folder)? else { return Err(RecoveryError::Locked(folder.to_owned())) };
    let read = read_folder(disk, folder, Company::Alone, limits::SPOOL_SCAN_THREADS)?;
    let merged = merge(&read.sources);
    let mut damage = merged.damage;
    let mut free = merged.chains.values().map(|c| c.free.len()).sum();
    for file in &read.odd {
        match file.identity {
            Identity::Blank => free += 1,
            _ => damage.push(Damage {
                number: file.number,
                sequence: 0,
                what: "is no segment, or a second copy of one".to_owned(),
            }),
        }
    }
    let files = read.sources.len() + read.odd.len();
    Ok(Report { files, free, logs: merged.chains.len(), live: merged.live.len(), damage })
}

/// Lists the queued messages. Beside a server, what it moves or removes meanwhile may be missing.
pub fn list(disk: &dyn Disk, folder: &Path, now: Wall) -> Result<Listing, RecoveryError> {
    let lock = try_lock(disk, folder)?;
    let company = if lock.is_some() { Company::Alone } else { Company::Server };
    let read = read_folder(disk, folder, company, limits::SPOOL_SCAN_THREADS)?;
    let merged = merge(&read.sources);
    let mut messages = Vec::new();
    for found in &merged.live {
        let Some(copy) = found.parts.get(&0).and_then(|c| c.last()) else { continue };
        let front = read.sources[copy.source].front(copy.index);
        let Some(view) = RecordView::from_payload(found.id, front) else { continue };
        let mut recipients: Vec<ListedRecipient> =
            view.recipients().map(|r| ListedRecipient { address: r.address.to_vec(), outcome: r.done }).collect();
        for progress in &found.progress {
            if let Some(recipient) = recipients.get_mut(usize::from(progress.recipient)) {
                recipient.outcome = Some(progress.outcome);
            }
        }
        messages.push(Listed {
            id: found.id,
            accepted: view.accepted(),
            size: view.total_size(),
            sender: view.sender().to_vec(),
            recipients,
            complete: (1..=view.chunk_count()).all(|part| found.parts.contains_key(&part)),
        });
    }
    Ok(Listing { messages, running: lock.is_none(), now })
}
