//! Writes one message into a Maildir: tmp, fsync, new. Blocking: for a helper thread, never for a shard's own.
//!
//! **Inputs**: the Maildir's folder, a name that is unique (`local::maildir::Unique`), the file's octets in pieces.
//! **Outputs**: the name in `new`, once the file and its name are on stable storage; or a [`Failure`] that says whether
//! to try again. **Core**: any thread, several at once on the same Maildir. **Refuses** to replace a file, and to make
//! more than the Maildir itself: a missing folder above it is a disk that is not mounted, or a mistake.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why a message could not be written. Nothing of it is in `new`, and but for a crash nothing in `tmp`.
#[derive(Debug)]
pub struct Failure {
    /// What to do.
    pub kind: FailureKind,
    /// Which step it was, and of which file or folder.
    pub step: String,
    /// What the kernel said.
    pub error: io::Error,
}

/// What a failure means for the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// Try again (4.3.0): somebody can mend it (rights, a disk that is not mounted), and mail must not be lost by a slip.
    Transient,
    /// No use in trying again (5.2.0): the name or the file is beyond what the file system takes.
    Permanent,
    /// No room, of the disk or of the owner's quota (4.2.2).
    Full,
}

impl Failure {
    fn new(step: &str, path: &Path, error: io::Error) -> Failure {
        let kind = match error.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => FailureKind::Full,
            ErrorKind::InvalidFilename | ErrorKind::InvalidInput | ErrorKind::FileTooLarge => FailureKind::Permanent,
            _ => FailureKind::Transient,
        };
        Failure { kind, step: format!("{step} {}", path.display()), error }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.step, self.error)
    }
}

impl std::error::Error for Failure {}

/// Writes `pieces` as one file of `maildir`, and returns its name in `new`: `unique` and `,S=<octets>`.
///
/// On return the file, its name and the folders made for it are on stable storage. A piece that is an error (the message
/// could not be read) ends it, as transient.
pub fn deliver<P: AsRef<[u8]>>(
    maildir: &Path,
    unique: &str,
    pieces: impl IntoIterator<Item = io::Result<P>>,
) -> Result<String, Failure> {
    let mut writer = Writer::begin(maildir, unique)?;
    for piece in pieces {
        let piece = piece.map_err(|error| Failure {
            kind: FailureKind::Transient,
            step: "read the message".to_owned(),
            error,
        })?;
        writer.write(piece.as_ref())?;
    }
    writer.finish()
}

/// A message on its way into a Maildir, whose pieces come one after the other. Nothing is in `new` before
/// [`finish`](Writer::finish); dropped before, nothing stays in `tmp`. Each method blocks, dropping too.
#[derive(Debug)]
pub struct Writer {
    file: File,
    written: Temporary,
    maildir: PathBuf,
    unique: String,
    octets: u64,
}

impl Writer {
    /// Makes the file, and the Maildir if it is missing.
    pub fn begin(maildir: &Path, unique: &str) -> Result<Writer, Failure> {
        let path = maildir.join("tmp").join(unique);
        let created = match create(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make_folders(maildir)?;
                create(&path)
            }
            created => created,
        };
        let file = created.map_err(|error| Failure::new("create", &path, error))?;
        let (maildir, unique) = (maildir.to_owned(), unique.to_owned());
        Ok(Writer { file, written: Temporary(path), maildir, unique, octets: 0 })
    }

    /// The next octets of the file.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), Failure> {
        self.file.write_all(piece).map_err(|error| Failure::new("write", &self.written.0, error))?;
        self.octets += piece.len() as u64;
        Ok(())
    }

    /// There are no more: gives the file its name, which is returned once both are on stable storage.
    pub fn finish(self) -> Result<String, Failure> {
        let Writer { file, written, maildir, unique, octets } = self;
        file.sync_all().map_err(|error| Failure::new("sync", &written.0, error))?;
        let new = maildir.join("new");
        let name = format!("{unique},S={octets}");
        let published = new.join(&name);
        publish(&written.0, &published).map_err(|error| Failure::new("link", &published, error))?;
        if let Err(error) = sync_folder(&new) {
            // The name may be lost with the next power failure. It will be tried again, and should not be there twice.
            let _ = fs::remove_file(&published);
            return Err(Failure::new("sync", &new, error));
        }
        drop(written);
        // The message is delivered. A name that stays in tmp is removed by its readers, after 36 hours.
        let _ = sync_folder(&maildir.join("tmp"));
        Ok(name)
    }
}

/// A file in `tmp`, removed when dropped.
#[derive(Debug)]
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Already renamed, or left for the readers, who remove what is older than 36 hours.
        let _ = fs::remove_file(&self.0);
    }
}

/// For nobody but its owner; never a file that is there, nor what a symbolic link of that name points to.
fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Gives the file its name in `new`. A link fails where a rename would replace a file of that name; where the file system
/// has no links, the name's uniqueness must do.
fn publish(tmp: &Path, new: &Path) -> io::Result<()> {
    match fs::hard_link(tmp, new) {
        Err(error) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied) => {
            fs::rename(tmp, new)
        }
        linked => linked,
    }
}

/// Makes the Maildir and its three folders, those that are missing, if the folder above it is there.
fn make_folders(maildir: &Path) -> Result<(), Failure> {
    make_folder(maildir)?;
    for name in ["tmp", "new", "cur"] {
        make_folder(&maildir.join(name))?;
    }
    let above = maildir.parent().unwrap_or(Path::new("/"));
    for folder in [maildir, above] {
        sync_folder(folder).map_err(|error| Failure::new("sync", folder, error))?;
    }
    Ok(())
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    match DirBuilder::new().mode(0o700).create(path) {
        // Another delivery was first, or it was there all the time.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|error| Failure::new("create", path, error)),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Tests only: what a shard's tests look at, who name no file themselves.
#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod look {
    use std::fs;
    use std::path::Path;

    /// The files of a folder, in the order of their names; none if it is not there.
    pub(crate) fn files(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        names.iter().map(|path| String::from_utf8(fs::read(path).unwrap()).unwrap()).collect()
    }

    /// Makes a folder.
    pub(crate) fn make(folder: &Path) {
        fs::create_dir(folder).unwrap();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn pieces<'a>(all: &'a [&'a [u8]]) -> impl Iterator<Item = io::Result<&'a [u8]>> {
        all.iter().map(|piece| Ok(*piece))
    }

    #[test]
    fn a_message_is_in_new_whole_and_tmp_is_empty() {
        let root = tempfile::tempdir().unwrap();
        let maildir = root.path().join("user");
        let name = deliver(&maildir, "1.M2P3Q4.host", pieces(&[b"Return-Path: <>\n", b"", b"\nBody\n"])).unwrap();
        assert_eq!(name, "1.M2P3Q4.host,S=22");
        assert_eq!(names(&maildir), ["cur", "new", "tmp"]);
        assert_eq!(names(&maildir.join("new")), [&*name]);
        assert_eq!(names(&maildir.join("tmp")), [""; 0]);
        let file = maildir.join("new").join(&name);
        assert_eq!(fs::read(&file).unwrap(), b"Return-Path: <>\n\nBody\n");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        for folder in [&maildir, &maildir.join("new"), &maildir.join("tmp"), &maildir.join("cur")] {
            assert_eq!(fs::metadata(folder).unwrap().permissions().mode() & 0o777, 0o700);
        }
        // A missing folder comes back.
        fs::remove_dir(maildir.join("tmp")).unwrap();
        deliver(&maildir, "1.M2P3Q5.host", pieces(&[b"x"])).unwrap();
        assert_eq!(names(&maildir.join("new")).len(), 2);
    }

    #[test]
    fn failures_say_whether_to_try_again_and_leave_nothing() {
        let root = tempfile::tempdir().unwrap();
        let maildir = root.path().join("user");
        let kind = |path: &Path, name: &str| deliver(path, name, pieces(&[b"x"])).unwrap_err().kind;
        assert_eq!(kind(&root.path().join("not/mounted"), "a"), FailureKind::Transient);
        assert!(!root.path().join("not").exists());
        assert_eq!(kind(&maildir, &"n".repeat(256)), FailureKind::Permanent);
        assert_eq!(kind(&maildir, "a\0b"), FailureKind::Permanent);
        fs::write(root.path().join("file"), "").unwrap();
        assert_eq!(kind(&root.path().join("file"), "a"), FailureKind::Transient);

        // A message that cannot be read to its end.
        let broken = [Ok(&b"half"[..]), Err(io::Error::other("spool"))];
        assert_eq!(deliver(&maildir, "b", broken).unwrap_err().kind, FailureKind::Transient);
        assert_eq!(names(&maildir.join("tmp")), [""; 0]);
        assert_eq!(names(&maildir.join("new")), [""; 0]);

        // Neither a file in tmp nor one in new is replaced.
        fs::write(maildir.join("tmp/c"), "other's").unwrap();
        assert_eq!(kind(&maildir, "c"), FailureKind::Transient);
        assert_eq!(fs::read(maildir.join("tmp/c")).unwrap(), b"other's");
        fs::write(maildir.join("new/d,S=1"), "other's").unwrap();
        assert_eq!(kind(&maildir, "d"), FailureKind::Transient);
        assert_eq!(fs::read(maildir.join("new/d,S=1")).unwrap(), b"other's");
        assert_eq!(names(&maildir.join("tmp")), ["c"]);
    }

    #[test]
    fn a_full_disk_is_told_from_a_broken_one() {
        // A device that is always full: the kernel's own ENOSPC, through the same calls.
        let full =
            OpenOptions::new().write(true).open("/dev/full").and_then(|mut file| file.write_all(b"x")).unwrap_err();
        assert_eq!(Failure::new("write", Path::new("x"), full).kind, FailureKind::Full);
        for (errno, kind) in [
            (libc::ENOSPC, FailureKind::Full),
            (libc::EDQUOT, FailureKind::Full),
            (libc::EFBIG, FailureKind::Permanent),
            (libc::ENAMETOOLONG, FailureKind::Permanent),
            (libc::EIO, FailureKind::Transient),
            (libc::EACCES, FailureKind::Transient),
            (libc::EROFS, FailureKind::Transient),
            (libc::EMFILE, FailureKind::Transient),
            (libc::ENOENT, FailureKind::Transient),
        ] {
            assert_eq!(Failure::new("x", Path::new("x"), io::Error::from_raw_os_error(errno)).kind, kind, "{errno}");
        }
    }

    #[test]
    fn writers_of_one_maildir_do_not_meet() {
        const EACH: usize = 25;
        let root = tempfile::tempdir().unwrap();
        let maildir = root.path().join("user");
        std::thread::scope(|scope| {
            for writer in 0..2 {
                let maildir = &maildir;
                scope.spawn(move || {
                    for n in 0..EACH {
                        let body = format!("{writer} {n}\n").repeat(100);
                        let halves = body.as_bytes().split_at(body.len() / 2);
                        deliver(maildir, &format!("1.M0P{writer}Q{n}.host"), pieces(&[halves.0, halves.1])).unwrap();
                    }
                });
            }
            // A reader, as IMAP servers are: what it sees in new is whole.
            for _ in 0..50 {
                for name in fs::read_dir(maildir.join("new")).into_iter().flatten() {
                    let path = name.unwrap().path();
                    let size: u64 = path.to_str().unwrap().rsplit_once(",S=").unwrap().1.parse().unwrap();
                    assert_eq!(fs::metadata(path).unwrap().len(), size);
                }
            }
        });
        assert_eq!(names(&maildir.join("new")).len(), 2 * EACH);
        assert_eq!(names(&maildir.join("tmp")), [""; 0]);
        for writer in 0..2 {
            for n in 0..EACH {
                let body = format!("{writer} {n}\n").repeat(100);
                let name = format!("1.M0P{writer}Q{n}.host,S={}", body.len());
                assert_eq!(fs::read_to_string(maildir.join("new").join(name)).unwrap(), body);
            }
        }
        // The same name by two writers: one has it, and the other is told.
        let same = ["x", "y"].map(|text| deliver(&maildir, "same", pieces(&[text.as_bytes()])).is_ok());
        assert_eq!(same.iter().filter(|ok| **ok).count(), 1);
    }
}
