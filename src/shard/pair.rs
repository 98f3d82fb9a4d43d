//! Two files of a shard in the spool's folder that are written in turn, so that one of them is always whole: the one that is written
//! is never the one that was written last.
//!
//! In: octets for one of them, completions. Out: writes. Lives on its shard. It refuses to know what is in them, and to write
//! two at a time.

use super::Turn;
use crate::rt::FileNo;
use crate::rt::buffer::{BLOCK, Buffer};
use crate::rt::disk::Disk;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file is made with so many octets; a longer content makes it longer.
const FILE_BYTES: u64 = 64 << 10;

/// The files of one kind, of all shards, as the start found them: shard, slot, contents.
#[derive(Debug, Default)]
pub(super) struct Found(pub(super) Vec<(u16, u8, Vec<u8>)>);

impl Found {
    /// Reads those of a folder. What cannot be read is given to `unreadable`, which may go on.
    pub(super) fn read(
        disk: &impl Disk,
        folder: &Path,
        kind: &str,
        mut unreadable: impl FnMut(&str, io::Error) -> io::Result<()>,
    ) -> io::Result<Found> {
        let mut names: Vec<_> =
            disk.list(folder)?.into_iter().filter_map(|name| Some((parse_name(kind, &name)?, name))).collect();
        names.sort();
        let mut files = Vec::new();
        for ((shard, slot), name) in names {
            let mut bytes = Vec::new();
            if let Err(error) = disk.read(&folder.join(&name), &mut bytes) {
                unreadable(&name, error)?;
                bytes.clear();
            }
            files.push((shard, slot, bytes));
        }
        Ok(Found(files))
    }

    fn has(&self, shard: u16, slot: u8) -> bool {
        self.0.iter().any(|(other, at, _)| (*other, *at) == (shard, slot))
    }
}

pub(super) fn file_name(kind: &str, shard: u16, slot: u8) -> String {
    format!("{kind}-{shard:04}-{slot}")
}

fn parse_name(kind: &str, name: &str) -> Option<(u16, u8)> {
    let (shard, slot) = name.strip_prefix(kind)?.strip_prefix('-')?.split_once('-')?;
    let found = (shard.parse().ok()?, slot.parse().ok()?);
    (file_name(kind, found.0, found.1) == name).then_some(found)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum File {
    /// There is none.
    Absent,
    /// It is there, from the run before.
    Found,
    Making,
    Open,
}

/// See the module.
pub(super) struct Pair {
    kind: &'static str,
    me: u16,
    folder: PathBuf,
    /// The first one's number; the other's is one more.
    first: FileNo,
    /// Of a write, beside the slot.
    token: u64,
    files: [File; 2],
    /// Waits for its file.
    write: Option<(u8, Vec<u8>)>,
}

impl Pair {
    pub(super) fn new(
        (kind, first, token): (&'static str, FileNo, u64),
        me: u16,
        folder: PathBuf,
        found: &Found,
    ) -> Pair {
        let file = |slot| if found.has(me, slot) { File::Found } else { File::Absent };
        Pair { kind, me, folder, first, token, files: [file(0), file(1)], write: None }
    }

    /// Whether what was put waits for its file.
    pub(super) fn is_waiting(&self) -> bool {
        self.write.is_some()
    }

    /// This is to be written: [`start`](Self::start) begins it.
    pub(super) fn put(&mut self, slot: u8, bytes: Vec<u8>) {
        self.write = Some((slot, bytes));
    }

    /// Begins the write, as soon as there is a file. An error: it was given up.
    pub(super) fn start(&mut self, turn: &mut Turn<'_>) -> io::Result<()> {
        let Some((slot, bytes)) = &self.write else { return Ok(()) };
        let (slot, name) = (*slot, file_name(self.kind, self.me, *slot));
        let (file, path) = (self.first + FileNo::from(slot), self.folder.join(name));
        let state = &mut self.files[usize::from(slot)];
        match *state {
            File::Absent => {
                *state = File::Making;
                turn.io.create_file(file, &path, FILE_BYTES);
                Ok(())
            }
            File::Making => Ok(()),
            File::Found => match turn.io.open_file(file, &path) {
                Ok(()) => {
                    *state = File::Open;
                    self.start(turn)
                }
                Err(error) => {
                    self.write = None;
                    Err(error)
                }
            },
            File::Open => {
                let mut buffer = Buffer::new(bytes.len());
                buffer.extend(bytes);
                let whole = bytes.len().next_multiple_of(BLOCK);
                buffer.extend(&vec![0; whole - bytes.len()]);
                turn.io.write_durable(self.token | u64::from(slot), file, 0, Arc::new(buffer), 0);
                self.write = None;
                Ok(())
            }
        }
    }

    /// A file was made, or not. An error: the write was given up.
    pub(super) fn made(&mut self, file: FileNo, result: io::Result<()>) -> io::Result<()> {
        let slot = usize::from(file != self.first);
        self.files[slot] = match result {
            Ok(()) => File::Open,
            // Half of one may have been left by a crash.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => File::Found,
            Err(error) => {
                self.files[slot] = File::Absent;
                self.write = None;
                return Err(error);
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_read_and_nothing_else_is() {
        for (shard, slot) in [(0, 0), (1022, 1)] {
            assert_eq!(parse_name("quota", &file_name("quota", shard, slot)), Some((shard, slot)));
        }
        for other in ["quota-1-0", "quota-0001-0.tmp", "seg-00000000.log", "quota-0001", "quota--", "rests-0001-0"] {
            assert_eq!(parse_name("quota", other), None, "{other}");
        }
    }
}
