//! The event log: lines into a file of bounded size, a bounded number of rotated ones beside it; or into standard output.
//!
//! Inputs: whole lines. Outputs: files `events`, `events.1` (newest rotated) to `events.N`. A write that fails loses its
//! lines, is counted, and is told to the operator once until writing works again; no line is ever half in a file when
//! the file system lets us take it back. It never makes a shard wait: it runs on a helper of the control thread.

use crate::config::{Events, Log};
use std::fs::{File, OpenOptions, rename};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Where lines go.
pub struct EventLog {
    target: Target,
    failing: bool,
    /// Writes that failed.
    pub errors: u64,
    /// Lines lost by them.
    pub lines_lost: u64,
    /// Octets written.
    pub bytes: u64,
}

enum Target {
    Off,
    Stdout,
    File(Rotated),
}

impl EventLog {
    /// Opens the file, if it is one, to append to it.
    ///
    /// # Errors
    /// The file cannot be opened; the text names it.
    pub fn open(log: &Log) -> io::Result<EventLog> {
        let target = match &log.events {
            Events::Off => Target::Off,
            Events::Stdout => Target::Stdout,
            Events::File(path) => Target::File(Rotated::open(path, log.rotate_bytes, log.keep).map_err(|error| {
                io::Error::new(error.kind(), format!("the event log {} cannot be opened: {error}", path.display()))
            })?),
        };
        Ok(EventLog { target, failing: false, errors: 0, lines_lost: 0, bytes: 0 })
    }

    /// Writes whole lines.
    pub fn write(&mut self, lines: &[u8]) {
        let (written, outcome) = match &mut self.target {
            Target::Off => return,
            Target::Stdout => {
                let outcome = io::stdout().lock().write_all(lines).and_then(|()| io::stdout().flush());
                (if outcome.is_ok() { lines.len() } else { 0 }, outcome)
            }
            Target::File(file) => file.write(lines),
        };
        self.bytes += written as u64;
        match outcome {
            Ok(()) if self.failing => {
                self.failing = false;
                tracing::info!("event log: writing works again; {} lines were lost so far", self.lines_lost);
            }
            Ok(()) => {}
            Err(error) => {
                self.errors += 1;
                self.lines_lost += lines[written..].iter().filter(|byte| **byte == b'\n').count() as u64;
                if !self.failing {
                    self.failing = true;
                    tracing::error!("event log: writing failed, events are being lost, mail is not affected: {error}");
                }
            }
        }
    }

    /// Opens the file anew, after somebody moved it away.
    pub fn reopen(&mut self) {
        if let Target::File(file) = &mut self.target {
            file.file = None;
            match file.ready() {
                Ok(_) => tracing::info!("event log: opened {} anew", file.path.display()),
                Err(error) => tracing::error!("event log: {} cannot be opened: {error}", file.path.display()),
            }
        }
    }
}

/// A file that never grows above `limit_bytes`, and `keep` older ones.
struct Rotated {
    path: PathBuf,
    limit_bytes: u64,
    keep: u32,
    /// None after an error: the next write opens it again.
    file: Option<File>,
    size: u64,
}

impl Rotated {
    fn open(path: &Path, limit_bytes: u64, keep: u32) -> io::Result<Rotated> {
        let mut rotated = Rotated { path: path.to_owned(), limit_bytes, keep, file: None, size: 0 };
        rotated.ready()?;
        Ok(rotated)
    }

    fn ready(&mut self) -> io::Result<&mut File> {
        if self.file.is_none() {
            let file = OpenOptions::new().create(true).append(true).open(&self.path)?;
            self.size = file.metadata()?.len();
            self.file = Some(file);
        }
        Ok(self.file.as_mut().expect("opened above"))
    }

    /// How many octets of `lines` are in the log for good, and what kept the rest out.
    fn write(&mut self, lines: &[u8]) -> (usize, io::Result<()>) {
        let mut done = 0;
        while done < lines.len() {
            match self.write_some(&lines[done..]) {
                Ok(n) => done += n,
                Err(error) => {
                    self.file = None;
                    return (done, Err(error));
                }
            }
        }
        (done, Ok(()))
    }

    /// Writes the whole lines that fit, after a rotation if none does.
    fn write_some(&mut self, lines: &[u8]) -> io::Result<usize> {
        self.ready()?;
        let mut part = fitting(lines, self.limit_bytes.saturating_sub(self.size));
        if part.is_empty() {
            if self.size > 0 {
                self.rotate()?;
            }
            part = fitting(lines, self.limit_bytes);
            if part.is_empty() {
                // One line larger than a file may be: limits.rs keeps lines far below the smallest limit.
                return Ok(memchr::memchr(b'\n', lines).map_or(lines.len(), |at| at + 1));
            }
        }
        let size = self.size;
        let file = self.ready()?;
        if let Err(error) = file.write_all(part) {
            // Takes a half-written line back; if that fails too, a torn line stays in the file.
            drop(file.set_len(size));
            return Err(error);
        }
        self.size += part.len() as u64;
        Ok(part.len())
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.file = None;
        for number in (1..self.keep).rev() {
            match rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        rename(&self.path, self.numbered(1))?;
        self.ready()?;
        Ok(())
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

/// The longest run of whole lines at the start of `lines` with at most `room` octets.
fn fitting(lines: &[u8], room: u64) -> &[u8] {
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(lines.len());
    &lines[..memchr::memrchr(b'\n', &lines[..room]).map_or(0, |at| at + 1)]
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::Level;

    fn log(path: &Path, rotate_bytes: u64, keep: u32) -> EventLog {
        EventLog::open(&Log { level: Level::Info, events: Events::File(path.to_owned()), rotate_bytes, keep }).unwrap()
    }

    fn lines(range: std::ops::Range<u32>) -> Vec<u8> {
        range.flat_map(|i| format!("{{\"n\":{i:05}}}\n").into_bytes()).collect()
    }

    #[test]
    fn rotation_bounds_size_and_number_of_files_and_cuts_no_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        let mut log = log(&path, 1000, 3);
        for i in 0..100 {
            log.write(&lines(i * 37..(i + 1) * 37));
        }
        let mut names: Vec<_> =
            std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["events", "events.1", "events.2", "events.3"]);
        let mut all = Vec::new();
        for name in names.iter().skip(1).rev().chain(&names[..1]) {
            let text = std::fs::read(dir.path().join(name)).unwrap();
            assert!(text.len() <= 1000 && text.ends_with(b"\n"), "{name}: {}", text.len());
            all.extend(text);
        }
        assert!(lines(0..3700).ends_with(&all), "the newest lines, whole and in order");
        assert_eq!((log.errors, log.lines_lost, log.bytes), (0, 0, lines(0..3700).len() as u64));
    }

    #[test]
    fn it_appends_to_what_is_there_and_follows_a_moved_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events");
        log(&path, 1000, 3).write(b"a\n");
        let mut log = log(&path, 1000, 3);
        log.write(b"b\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"a\nb\n");
        rename(&path, dir.path().join("moved")).unwrap();
        log.reopen();
        log.write(b"c\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"c\n");
        assert_eq!(std::fs::read(dir.path().join("moved")).unwrap(), b"a\nb\n");
    }

    #[test]
    fn errors_are_counted_and_writing_resumes() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let path = inner.join("events");
        let mut log = log(&path, 100, 1);
        // Eight lines of 12 octets fill it: the next has to rotate.
        log.write(&lines(0..8));
        std::fs::remove_dir_all(&inner).unwrap();
        log.write(&lines(9..20));
        assert_eq!((log.errors, log.lines_lost), (1, 11));
        std::fs::create_dir(&inner).unwrap();
        log.write(b"back\n");
        assert_eq!(std::fs::read(&path).unwrap(), b"back\n");
        assert_eq!(log.errors, 1);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = Log {
            level: Level::Info,
            events: Events::File(dir.path().join("absent/events")),
            rotate_bytes: 1,
            keep: 1,
        };
        assert!(EventLog::open(&config).err().unwrap().to_string().contains("absent/events"));
    }
}
