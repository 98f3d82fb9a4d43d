//! The driver of what is kept of replies: rests, and limits that are lower, in two files of each shard (`rests-*`).
//!
//! In: what the delivering half has in force, completions of files. Out: writes. Lives on its shard. It refuses to hold up
//! anything: a file that cannot be read or written is told, and the relay goes on with what it knows.

use super::Turn;
use super::pair::{Found, Pair, file_name};
use crate::deliver::Deliverer;
use crate::lease::{self, Keeper, Restored, Write};
use crate::rt::FileNo;
use crate::rt::disk::Disk;
use crate::time::Now;
use std::io;
use std::path::{Path, PathBuf};

/// Set in the token of a write that is ours.
const WRITE: u64 = 1 << 62;
/// Our files' numbers: below those of the sending limits.
const FILES: FileNo = FileNo::MAX - 3;
/// Their names begin with it.
const KIND: &str = "rests";

/// The files of all shards as the start found them, and what is still in force of what they say.
#[derive(Debug, Default)]
pub struct RestFiles {
    found: Found,
    restored: Restored,
    /// What is wrong with them, in words.
    pub problems: Vec<String>,
}

impl RestFiles {
    /// Reads those of a spool's folder. What is wrong with them stops nothing.
    pub fn read(disk: &impl Disk, folder: &Path, now: Now) -> RestFiles {
        let mut problems = Vec::new();
        let found = Found::read(disk, folder, KIND, |name, error| {
            problems.push(format!("{name}: {error}"));
            Ok(())
        });
        let found = found.unwrap_or_else(|error| {
            problems.push(format!("{}: {error}", folder.display()));
            Found::default()
        });
        let restored = Restored::read(found.0.iter().map(|(_, _, bytes)| &bytes[..]), now);
        for (at, why) in &restored.refused {
            let (shard, slot, _) = &found.0[*at];
            problems.push(format!("{}: {why}", file_name(KIND, *shard, *slot)));
        }
        RestFiles { found, restored, problems }
    }

    /// What is still in force.
    pub fn all(&self) -> &[lease::Kept] {
        &self.restored.all
    }
}

/// See the module. Lives on its shard.
pub(super) struct KeptRests {
    keeper: Keeper,
    files: Pair,
    ends: bool,
}

impl KeptRests {
    pub(super) fn new(me: u16, shards: u16, folder: PathBuf, found: &RestFiles) -> KeptRests {
        let keeper = Keeper::new(me, &found.restored, |site| lease::owner(site, shards) == me);
        KeptRests { keeper, files: Pair::new((KIND, FILES, WRITE), me, folder, &found.found), ends: false }
    }

    /// Whether a completion is of these files.
    pub(super) fn owns_write(token: u64) -> bool {
        // Those of the sending limits have the bit above.
        token >> 62 == 1
    }

    /// Likewise.
    pub(super) fn owns_file(file: FileNo) -> bool {
        (FILES..FILES + 2).contains(&file)
    }

    /// At the end of a turn.
    pub(super) fn turn(&mut self, deliverer: &mut Deliverer, turn: &mut Turn<'_>) {
        if deliverer.rests_have_changed() {
            self.keeper.change();
        }
        if self.keeper.is_due(turn.now, self.ends) {
            let Write { slot, bytes } = self.keeper.poll_write(deliverer.in_force(turn.now.mono), turn.now);
            self.files.put(slot, bytes);
        }
        if self.files.is_waiting() {
            let started = self.files.start(turn);
            self.told(started, turn);
        }
    }

    fn told(&mut self, result: io::Result<()>, turn: &mut Turn<'_>) {
        if let Err(error) = result {
            tracing::error!(%error, "rests cannot be kept: a restart would forget those of late");
            self.keeper.handle_written(false, turn.now.mono, self.ends);
        }
    }

    /// A file was made.
    pub(super) fn made(&mut self, file: FileNo, result: io::Result<()>, turn: &mut Turn<'_>) {
        let made = self.files.made(file, result);
        self.told(made, turn);
    }

    /// A write has ended.
    pub(super) fn written(&mut self, result: io::Result<()>, turn: &mut Turn<'_>) {
        match result {
            Ok(()) => self.keeper.handle_written(true, turn.now.mono, self.ends),
            Err(_) => self.told(result, turn),
        }
    }

    /// The process is about to end: what has changed is written now, and tried once.
    pub(super) fn finish(&mut self) {
        self.ends = true;
    }

    /// Whether nothing is to be written.
    pub(super) fn is_quiet(&self) -> bool {
        self.keeper.is_quiet() && !self.files.is_waiting()
    }
}
