//! What is said of files that are damaged, or gone, or changed by somebody else meanwhile.
#![allow(clippy::unwrap_used)]

use super::sim::*;
use super::*;
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
