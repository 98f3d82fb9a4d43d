//! The accounts file on disk: read at start-up and on SIGHUP, replaced by the command line.
//!
//! In: a path. Out: its text, or the table made of it. Any thread that may block, never a shard's. It refuses a file that
//! others can read, one above [`crate::limits::ACCOUNTS_FILE_BYTES`], and two writers at a time. A reader finds the old file
//! or the new one, whole, also after a crash.

use super::Accounts;
use crate::config::Problem;
use crate::limits::ACCOUNTS_FILE_BYTES;
use crate::smtp::sasl::KEY_BYTES;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// Why there are no accounts.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It could not be read.
    #[error("{}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Users outside of owner and group can read or write it.
    #[error("{}: holds secrets, and everybody can read or write it (mode {mode:03o}): chmod o= it", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// What is wrong in it, a line each.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<Problem>),
}

/// Reads the table. `decoy_key` is secret and random, for files without one of their own.
pub fn load(path: &Path, decoy_key: [u8; KEY_BYTES]) -> Result<Accounts, LoadError> {
    let text = read(path)?;
    Accounts::parse(&path.display().to_string(), &text, decoy_key).map_err(LoadError::Wrong)
}

/// Reads the text.
pub fn read(path: &Path) -> Result<String, LoadError> {
    let failed = |error| LoadError::Read { path: path.to_owned(), error };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if mode & 0o006 != 0 {
        return Err(LoadError::Open { path: path.to_owned(), mode });
    }
    let mut text = String::new();
    file.take(ACCOUNTS_FILE_BYTES + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > ACCOUNTS_FILE_BYTES {
        return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, "too long for an accounts file")));
    }
    Ok(text)
}

/// The right to change a file, until it is dropped.
#[derive(Debug)]
pub struct Writer {
    /// The file itself, not a link to it.
    path: PathBuf,
    /// Locked. A lock on the file would be one on the file that is replaced.
    folder: File,
}

impl Writer {
    /// Takes the lock. The file need not exist, its folder must.
    pub fn new(path: &Path) -> io::Result<Writer> {
        // A link to the file stays one.
        let path = if path.exists() { path.canonicalize()? } else { path.to_owned() };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = File::open(folder)?;
        folder.try_lock().map_err(|error| match error {
            std::fs::TryLockError::WouldBlock => io::Error::other("another process changes it now"),
            std::fs::TryLockError::Error(error) => error,
        })?;
        Ok(Writer { path, folder })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Puts `text` in the file's place: written and synced beside it, with its owner and permissions (0600 for a new one),
    /// then renamed.
    pub fn replace(&self, text: &str) -> io::Result<()> {
        let old = match std::fs::metadata(&self.path) {
            Ok(old) => Some(old),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let name = self.path.file_name().ok_or_else(|| io::Error::other("no file name"))?;
        let mut partial = std::ffi::OsString::from(".");
        partial.push(name);
        partial.push(".new");
        let partial = self.path.with_file_name(partial);
        // What a crash left behind: the lock says that nobody writes it now.
        match std::fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = write(&partial, text, old.as_ref()).and_then(|()| std::fs::rename(&partial, &self.path));
        if written.is_err() {
            // The first error is the one to report.
            let _ = std::fs::remove_file(&partial);
        }
        written?;
        self.folder.sync_all()
    }
}

fn write(path: &Path, text: &str, like: Option<&Metadata>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if let Some(like) = like {
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (like.uid(), like.gid()) {
            fchown(&file, Some(like.uid()), Some(like.gid()))?;
        }
        file.set_permissions(Permissions::from_mode(like.mode() & 0o777))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.toml");
        std::fs::write(folder.path().join(".accounts.toml.new"), "left by a crash").unwrap();
        Writer::new(&path).unwrap().replace("# one\n").unwrap();
        assert_eq!((read(&path).unwrap().as_str(), mode(&path)), ("# one\n", 0o600));

        std::fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        Writer::new(&link).unwrap().replace("# two\n").unwrap();
        assert_eq!((read(&path).unwrap().as_str(), mode(&path)), ("# two\n", 0o640));
        assert!(link.is_symlink());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left behind");
    }

    #[test]
    fn two_writers_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.toml");
        let first = Writer::new(&path).unwrap();
        assert!(Writer::new(&path).unwrap_err().to_string().contains("another process"));
        drop(first);
        Writer::new(&path).unwrap();
    }

    #[test]
    fn what_everybody_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("accounts.toml");
        std::fs::write(&path, "").unwrap();
        for (bits, good) in [(0o600, true), (0o640, true), (0o644, false), (0o602, false)] {
            std::fs::set_permissions(&path, Permissions::from_mode(bits)).unwrap();
            assert_eq!(load(&path, [0; 32]).is_ok(), good, "{bits:o}");
        }
        assert!(matches!(read(&folder.path().join("none")), Err(LoadError::Read { .. })));
    }
}
