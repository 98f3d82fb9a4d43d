//! What is said of files that are damaged, or gone, or changed by somebody else meanwhile.
#![allow(clippy::unwrap_used)]

use super::scan::{Identity, identify, scan};
use super::sim::*;
use super::*;
use crate::rt::buffer::BLOCK;
use format::Place;
use std::io::ErrorKind;
use std::path::Path;

/// A server frees segments as it goes: between the folder's list and the opening of a file, that file may be gone.
#[test]
fn a_segment_removed_while_the_queue_is_listed_is_passed_over() {
    let mut w = World::new(1, 1, small());
    let id = w.accept(0, 1, 3000).unwrap();
    w.quiesce();
    *w.disk.served.lock().unwrap() = true;
    w.disk.vanishing.lock().unwrap().push("seg-00000042.log".to_owned());
    let listing = list(&w.disk, Path::new(FOLDER), w.now.wall).unwrap();
    assert!(listing.running);
    assert_eq!(listing.messages.iter().map(|m| m.id).collect::<Vec<_>>(), [id]);
}

/// Without a server nobody removes a file: one that cannot be found may hold mail.
#[test]
fn a_segment_missing_from_a_locked_folder_is_an_error() {
    let mut w = World::new(1, 1, small());
    w.accept(0, 1, 3000).unwrap();
    w.quiesce();
    w.disk.vanishing.lock().unwrap().push("seg-00000042.log".to_owned());
    let folder = Path::new(FOLDER);
    let options = Options { shards: 1, wall: w.now.wall, seed: 1, geometry: w.geometry, scan_threads: 1 };
    let errors = [
        list(&w.disk, folder, w.now.wall).map(|_| ()),
        verify(&w.disk, folder).map(|_| ()),
        recover(&w.disk, folder, options).map(|_| ()),
    ];
    for error in errors {
        let Err(RecoveryError::Io { error, .. }) = error else { panic!("{error:?}") };
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}

/// A world of one log, with queued mail in several segments.
fn several_segments() -> World {
    let mut w = World::new(1, 1, small());
    for _ in 0..50 {
        w.accept(0, 1, 5000).unwrap();
        w.quiesce();
    }
    assert!(w.disk.files.lock().unwrap().len() > 3);
    assert_eq!(damaged(&w), []);
    w
}

/// The numbers of the files that `verify` reports, with its words.
fn damaged(w: &World) -> Vec<(u32, String)> {
    let report = verify(&w.disk, Path::new(FOLDER)).unwrap();
    report.damage.into_iter().map(|d| (d.number, d.what)).collect()
}

/// Nothing is readable behind the header of this segment.
fn wipe(w: &World, name: &str) {
    w.disk.files.lock().unwrap().get_mut(&w.path(name)).unwrap()[BLOCK..].fill(0);
}

#[test]
fn the_loss_of_the_oldest_file_is_reported() {
    let w = several_segments();
    w.disk.files.lock().unwrap().remove(&w.path("seg-00000000.log")).unwrap();
    let [(1, what)] = &damaged(&w)[..] else { panic!("{:?}", damaged(&w)) };
    assert!(what.contains("the log's files before it are missing"), "{what}");
    let options = Options { shards: 1, wall: w.now.wall, seed: 1, geometry: w.geometry, scan_threads: 1 };
    let recovery = recover(&w.disk, Path::new(FOLDER), options).unwrap();
    assert_eq!(recovery.damage.len(), 1);
}

#[test]
fn a_segment_of_which_only_the_header_is_left_is_reported_and_kept() {
    for (number, name) in [(0, "seg-00000000.log"), (1, "seg-00000001.log")] {
        let w = several_segments();
        wipe(&w, name);
        let found = damaged(&w);
        assert!(found.iter().any(|(n, what)| *n == number && what.contains("no commit in it")), "{found:?}");
        let options = Options { shards: 1, wall: w.now.wall, seed: 1, geometry: w.geometry, scan_threads: 1 };
        recover(&w.disk, Path::new(FOLDER), options).unwrap();
        let copy = w.path(recover::QUARANTINE).join(format!("seg-{number:08x}-"));
        let files = w.disk.files.lock().unwrap();
        let mut names = files.keys().map(|path| path.to_str().unwrap());
        assert!(names.any(|name| name.starts_with(copy.to_str().unwrap())), "{name}");
    }
}

#[test]
fn segments_that_were_freed_are_no_damage() {
    let mut w = several_segments();
    let live = w.live();
    for id in &live[..30] {
        w.finish(*id);
        w.quiesce();
    }
    w.advance(100);
    w.quiesce();
    // As many as are kept, and the others removed or in use again.
    assert!(w.logs[0].free_segments() > 0);
    let freed: Vec<_> = ["seg-00000000.log", "seg-00000001.log"].map(|name| w.path(name)).into();
    assert_eq!(damaged(&w), []);
    for path in freed {
        w.disk.files.lock().unwrap().remove(&path);
    }
    assert_eq!(damaged(&w), []);
}

/// The first segment that a log began, behind those it took over, took nothing: no later commit names it.
#[test]
fn a_segment_whose_first_commit_failed_is_not_missed() {
    let mut w = World::new(1, 2, small());
    let settled = w.accept(0, 1, 1000).unwrap();
    w.accept(1, 1, 1000).unwrap();
    w.quiesce();
    w.finish(settled);
    w.quiesce();
    w.crash(1);
    w.quiesce();
    let refused = w.accept(0, 1, 1000).unwrap();
    w.turn();
    let (_, Effect::Write { token, offset: 0, .. }) = w.writes.remove(0) else { panic!("the first of a segment") };
    w.logs[0].handle_written(token, Err(FileError::Io(libc::EIO)));
    w.turn();
    assert_eq!(w.known[&refused].state, State::Refused);
    w.accept(0, 1, 1000).unwrap();
    w.quiesce();
    assert_eq!(damaged(&w), []);
}

/// What is left of the file tells of the rest. That it is gone is not to be told from a log that another shard has taken
/// over and whose oldest files it has removed: docs/durability.md says so.
#[test]
fn the_loss_of_the_oldest_file_of_another_log_than_0_is_noticed_only_in_part() {
    let mut w = World::new(1, 2, small());
    for _ in 0..50 {
        w.accept(1, 1, 5000).unwrap();
        w.quiesce();
    }
    let oldest = "seg-00000001.log";
    wipe(&w, oldest);
    assert_eq!(damaged(&w).iter().map(|(number, _)| *number).collect::<Vec<_>>(), [1]);
    w.disk.files.lock().unwrap().remove(&w.path(oldest)).unwrap();
    assert_eq!(damaged(&w), []);
}

/// Two chunks of one body, each at the other's place, with checksums that are right there: a bug would write them so.
#[test]
fn a_chunk_that_is_another_chunk_of_its_message_is_damage() {
    let mut w = World::new(1, 1, small());
    let id = w.accept_streamed(0, &[5000, 5000]).unwrap();
    w.quiesce();
    w.check_content(id);
    let path = w.path("seg-00000000.log");
    {
        let mut files = w.disk.files.lock().unwrap();
        let bytes = files.get_mut(&path).unwrap();
        let Identity::Segment { header, .. } = identify(bytes, 0) else { panic!() };
        let found = scan(bytes, &header);
        for message in found.messages.iter().filter(|m| m.part > 0) {
            let at = message.offset as usize;
            let payload = at + format::RECORD_HEADER..at + message.length as usize;
            let index = 2 - message.part;
            bytes[payload.start..payload.start + 4].copy_from_slice(&index.to_le_bytes());
            let sum = crc32fast::hash(&bytes[payload]);
            bytes[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
        }
        for commit in &found.commits {
            let place = Place { log: header.log, offset: commit.offset };
            format::seal(bytes, commit.offset as usize, place, &header, commit.number, &commit.fixed);
        }
        assert_eq!(scan(bytes, &header).spoiled, [], "all checksums are right");
    }
    for part in [1, 2] {
        w.logs[0].read(id, part, 7);
        w.turn();
        assert_eq!(w.reads.remove(&7), Some(Some(Err(ReadError::Damaged))), "part {part}");
    }
}
