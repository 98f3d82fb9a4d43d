//! A disk in memory, for recovery: does what it is told, at once and durably. What is wrong with files, the target does.

use ringpost::rt::disk::{Disk, Lock};
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// All files, by path.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The disk.
#[derive(Debug, Default)]
pub struct MemoryDisk(Mutex<Files>);

impl MemoryDisk {
    /// A disk with these files.
    pub fn with(files: Files) -> Self {
        MemoryDisk(Mutex::new(files))
    }

    /// The files, to be looked at or damaged.
    pub fn files(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk for MemoryDisk {
    fn create_folder(&self, _: &Path) -> Result<()> {
        Ok(())
    }

    fn list(&self, folder: &Path) -> Result<Vec<String>> {
        let files = self.files();
        let here = files.keys().filter(|p| p.parent() == Some(folder));
        Ok(here.filter_map(|p| Some(p.file_name()?.to_str()?.to_owned())).collect())
    }

    fn read(&self, path: &Path, into: &mut Vec<u8>) -> Result<()> {
        into.clear();
        into.extend_from_slice(self.files().get(path).ok_or(ErrorKind::NotFound)?);
        Ok(())
    }

    fn write_sync(&self, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut files = self.files();
        let file = files.get_mut(path).ok_or(ErrorKind::NotFound)?;
        let at = usize::try_from(offset).map_err(Error::other)?;
        file.resize(file.len().max(at + bytes.len()), 0);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync(&self, path: &Path) -> Result<()> {
        self.files().get(path).map(|_| ()).ok_or(ErrorKind::NotFound.into())
    }

    fn create(&self, path: &Path, bytes: u64) -> Result<()> {
        let mut files = self.files();
        if files.contains_key(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        files.insert(path.to_owned(), vec![0; usize::try_from(bytes).map_err(Error::other)?]);
        Ok(())
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<()> {
        let mut files = self.files();
        let bytes = files.get(from).ok_or(ErrorKind::NotFound)?.clone();
        files.entry(to.to_owned()).or_insert(bytes);
        Ok(())
    }

    fn remove(&self, path: &Path) -> Result<()> {
        self.files().remove(path).map(|_| ()).ok_or(ErrorKind::NotFound.into())
    }

    fn lock(&self, _: &Path, _: bool) -> Result<Option<Lock>> {
        Ok(Some(Lock::none()))
    }
}
