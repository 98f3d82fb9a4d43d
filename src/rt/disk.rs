//! Blocking file access for what runs outside the shards: recovery at start-up, the offline commands. One trait, so that
//! tests bring a disk in memory that crashes when told.
//!
//! Core: any thread, several at once. Refuses: to be used by a running shard, which has its ring.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A held lock; given back when dropped, or when the process ends in whatever way.
#[derive(Debug)]
pub struct Lock {
    _file: Option<File>,
}

impl Lock {
    /// A lock of a disk that needs none.
    pub fn none() -> Lock {
        Lock { _file: None }
    }
}

/// Files of one spool folder.
pub trait Disk: Sync {
    /// Creates `path` and its parents with mode 0700, unless it is there.
    fn create_folder(&self, path: &Path) -> io::Result<()>;
    /// Names of the regular files in `folder`, in any order.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// All bytes of a file, into `into` (cleared first).
    fn read(&self, path: &Path, into: &mut Vec<u8>) -> io::Result<()>;
    /// Writes all of `bytes` at `offset`, then `fdatasync`.
    fn write_sync(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// What was ever written to the file is on stable storage on return.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Creates `path` with `bytes` zeros written and synced, and syncs its folder. Leaves nothing behind if it fails.
    fn create(&self, path: &Path, bytes: u64) -> io::Result<()>;
    /// Copies a file, synced; the copy's folder is synced. An existing `to` stays as it is.
    fn copy(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Unlinks a file and syncs its folder.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Takes the lock file `path`, creating it if `create`; `None` if another process holds it.
    fn lock(&self, path: &Path, create: bool) -> io::Result<Option<Lock>>;
}

/// The file systems of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdDisk;

/// Zeros are written in pieces of this size.
const ZEROS: usize = 1 << 20;

fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

impl Disk for StdDisk {
    fn create_folder(&self, path: &Path) -> io::Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        sync_folder_of(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let kind = match entry.file_type() {
                // Some file systems are asked for it by name, and another process may have removed the file by then.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                kind => kind?,
            };
            if kind.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn read(&self, path: &Path, into: &mut Vec<u8>) -> io::Result<()> {
        let file = File::open(path)?;
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        // Memory of the last file is used again: clearing it would only be needed if this one were not read whole.
        into.resize(length, 0);
        file.read_exact_at(into, 0)
    }

    fn write_sync(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.write_all_at(bytes, offset)?;
        file.sync_data()
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_data()
    }

    fn create(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let made = (|| {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            let zeros = vec![0; ZEROS];
            let mut left = bytes;
            while left > 0 {
                let now = usize::try_from(left).map_or(ZEROS, |l| l.min(ZEROS));
                file.write_all(&zeros[..now])?;
                left -= now as u64;
            }
            file.sync_all()?;
            sync_folder_of(path)
        })();
        if let Err(error) = &made
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            // The first error is the one to report.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    fn copy(&self, from: &Path, to: &Path) -> io::Result<()> {
        if to.exists() {
            return Ok(());
        }
        let mut partial = PathBuf::from(to);
        partial.add_extension("part");
        std::fs::copy(from, &partial)?;
        File::open(&partial)?.sync_all()?;
        std::fs::rename(&partial, to)?;
        sync_folder_of(to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)?;
        sync_folder_of(path)
    }

    fn lock(&self, path: &Path, create: bool) -> io::Result<Option<Lock>> {
        let file = OpenOptions::new().read(true).write(true).create(create).truncate(false).mode(0o600).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock { _file: Some(file) })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}
