//! What is said of files that are damaged, or gone, or changed by somebody else meanwhile.
#![allow(clippy::unwrap_used)]

use super::scan::{Identity, identify, scan};
use super::sim::*;
use super::*;
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
