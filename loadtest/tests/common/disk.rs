//! Disks for the tests to ill-treat: an ext4 in a file, on a loop device. Only root has them.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::have;

/// A small file system, mounted; gone when dropped.
pub struct SmallDisk {
    /// Where it is mounted.
    pub at: PathBuf,
    image: PathBuf,
    /// The file system that the image lies on, if it has one of its own.
    below: Option<PathBuf>,
    dir: TempDir,
}

impl SmallDisk {
    /// `None`, with a line that says why: this machine or this user cannot.
    pub fn mount(mebibytes: u64) -> Option<SmallDisk> {
        SmallDisk::new(mebibytes, None)
    }

    /// As [`SmallDisk::mount`], on a device that has room for less than it promises: what is written while its store is
    /// full fails with an error of the device. Without a journal, so that it is the relay's writes that fail.
    pub fn mount_thin(mebibytes: u64) -> Option<SmallDisk> {
        SmallDisk::new(mebibytes, Some(mebibytes + 64))
    }

    fn new(mebibytes: u64, store: Option<u64>) -> Option<SmallDisk> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root may mount a file system");
            return None;
        }
        if !have("mkfs.ext4") {
            return None;
        }
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let at = dir.path().join("disk");
        fs::create_dir(&at).unwrap();
        let mut new = SmallDisk { at, image: dir.path().join("image"), below: None, dir };
        if let Some(store) = store {
            let below = new.dir.path().join("store");
            fs::create_dir(&below).unwrap();
            let size = format!("size={store}m");
            if !run(
                "mount",
                &["-t".as_ref(), "tmpfs".as_ref(), "-o".as_ref(), size.as_ref(), "tmpfs".as_ref(), below.as_ref()],
            ) {
                return None;
            }
            new.image = below.join("image");
            new.below = Some(below);
        }
        File::create(&new.image).unwrap().set_len(mebibytes << 20).unwrap();
        let features: &OsStr = if store.is_some() { "^has_journal" } else { "has_journal" }.as_ref();
        // No reserve for root: who tests may be root, and the disk shall be full for it too.
        let mkfs = ["-q".as_ref(), "-m".as_ref(), "0".as_ref(), "-O".as_ref(), features, new.image.as_os_str()];
        (run("mkfs.ext4", &mkfs) && new.mount_again()).then_some(new)
    }

    /// Mounts the image.
    pub fn mount_again(&self) -> bool {
        run("mount", &["-o".as_ref(), "loop".as_ref(), self.image.as_os_str(), self.at.as_os_str()])
    }

    /// Takes the file system away; nothing may be open in it.
    pub fn unmount(&self) -> bool {
        run("umount", &[self.at.as_os_str()])
    }

    /// As after an error of the journal: read-only from now on, for those too that are writing.
    pub fn abort(&self) -> bool {
        run("mount", &["-o".as_ref(), "remount,abort".as_ref(), self.at.as_os_str()])
    }

    /// Takes all room but `leave` octets, until the ballast is dropped.
    pub fn fill(&self, leave: u64) -> Ballast {
        Ballast::new(&self.at, leave)
    }

    /// Takes the room of the store: blocks that hold only zeros are given back to it, and then it is full.
    pub fn starve(&self) -> Ballast {
        let below = self.below.as_ref().expect("a thin disk");
        rustix::fs::syncfs(File::open(&self.at).unwrap()).unwrap();
        assert!(run("fallocate", &["-d".as_ref(), self.image.as_os_str()]));
        Ballast::new(below, 0)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let below = self.below.iter();
        for at in std::iter::once(&self.at).chain(below) {
            let _ = Command::new("umount").arg("-l").arg(at).output();
        }
    }
}

/// A file that is in the way.
pub struct Ballast(PathBuf);

impl Ballast {
    fn new(at: &Path, leave: u64) -> Ballast {
        let path = at.join("ballast");
        let file = File::create(&path).unwrap();
        let free = || {
            let now = rustix::fs::statvfs(at).unwrap();
            (now.f_bavail * now.f_frsize).saturating_sub(leave)
        };
        // Others take room meanwhile: what does not fit is tried with less.
        let (mut step, mut end) = (free(), 0);
        while step >= 4096 {
            step = step.min(free()) & !4095;
            match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), end, step.max(4096)) {
                Ok(()) => end += step.max(4096),
                Err(_) => step /= 2,
            }
        }
        Ballast(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn run(program: &str, arguments: &[&OsStr]) -> bool {
    let output = Command::new(program).args(arguments).output().unwrap();
    if !output.status.success() {
        eprintln!("skipped: {program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    output.status.success()
}
