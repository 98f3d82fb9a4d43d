//! What disks, operators and forgers do to the files of a spool that nobody uses.

use super::world::{FOLDER, World};
use crate::input::Input;
use crate::memory_disk::Files;
use ringpost::rt::buffer::BLOCK;
use ringpost::spool::format::{self, Place, RECORD_HEADER, SegmentHeader};
use ringpost::spool::log::segment_name;
use ringpost::time::Wall;
use std::path::{Path, PathBuf};

/// A drive's smallest unit.
const SECTOR: usize = 512;

fn segment(number: u32) -> PathBuf {
    Path::new(FOLDER).join(segment_name(number))
}

/// One of the segment files.
fn pick(files: &Files, which: u8) -> Option<PathBuf> {
    let segments: Vec<_> = files.keys().filter(|p| p.parent() == Some(Path::new(FOLDER))).collect();
    segments.get(usize::from(which) % segments.len().max(1)).map(|p| (*p).clone())
}

/// Stops the logs and does the damage number `kind`.
pub fn damage(world: &mut World, kind: usize, input: &mut Input<'_>) {
    if !world.stopped {
        world.crash(input.u8());
    }
    world.damaged = true;
    let mut forged = false;
    {
        let mut files = world.disk.files();
        let Some(path) = pick(&files, input.u8()) else { return };
        let place = usize::from(input.u16());
        let length = files[&path].len();
        match kind {
            // Bit rot.
            0 => {
                let bits = input.u8().max(1);
                if let Some(byte) = files.get_mut(&path).and_then(|f| f.get_mut(place)) {
                    *byte ^= bits;
                }
            }
            // A sector lost, or written where another belongs.
            1 | 2 => {
                let to = place * SECTOR % length.max(SECTOR);
                let other = pick(&files, input.u8()).map(|p| files[&p].clone()).unwrap_or_default();
                let from = usize::from(input.u8()) * SECTOR % other.len().max(SECTOR);
                let sectors = SECTOR * [1, 8, 16, 128][input.below(4)];
                let sector = if kind == 1 { Vec::new() } else { other[from.min(other.len())..].to_vec() };
                if let Some(file) = files.get_mut(&path) {
                    for (i, byte) in file.iter_mut().skip(to).take(sectors).enumerate() {
                        *byte = sector.get(i).copied().unwrap_or(0);
                    }
                }
            }
            // Cut off, or grown.
            3 => {
                let grow = input.u8() & 1 == 1;
                if let Some(file) = files.get_mut(&path) {
                    if grow { file.resize(length + place % 9000, 0) } else { file.truncate(place) }
                }
            }
            // Gone, renamed, copied, exchanged: an operator at work.
            4 => {
                let Some(bytes) = files.remove(&path) else { return };
                let how = input.u8();
                let number = [u32::from(how), 0, 0x7fff_ffff, u32::MAX][input.below(4)];
                match how % 4 {
                    0 => {}
                    1 => _ = files.insert(segment(number), bytes),
                    2 => {
                        files.insert(segment(number), bytes.clone());
                        files.insert(path, bytes);
                    }
                    _ => {
                        let other =
                            pick(&files, input.u8()).and_then(|o| Some((o.clone(), files.insert(o, bytes.clone())?)));
                        let (_, bytes) = other.unwrap_or((path.clone(), bytes));
                        files.insert(path, bytes);
                    }
                }
            }
            // A file of anything.
            5 => {
                let bytes = input.text().to_vec();
                files.insert(segment(u32::from(input.u8())), bytes);
            }
            // Bytes of anything behind a header that is right.
            6 => {
                let header = SegmentHeader {
                    log: input.u16(),
                    number: u32::from(input.u8()),
                    sequence: extreme(input),
                    stamp: 7,
                    created: Wall(extreme(input)),
                    bytes: u32::try_from(extreme(input)).unwrap_or(u32::MAX),
                };
                let mut bytes = vec![0; BLOCK];
                header.write(&mut bytes);
                bytes.extend_from_slice(input.text());
                files.insert(segment(header.number), bytes);
                forged = true;
            }
            // A record changed, and its checksums with it.
            _ => {
                if let Some(file) = files.get_mut(&path) {
                    forge(file, place, input);
                }
                forged = true;
            }
        }
    }
    world.forged |= forged;
}

/// Numbers at which arithmetic ends, more often than others.
fn extreme(input: &mut Input<'_>) -> u64 {
    let byte = input.u8();
    match byte {
        0..8 => u64::from(byte),
        8 => u64::MAX,
        9 => u64::MAX - 1,
        10 => u64::from(u32::MAX),
        11 => 1 << 63,
        12 => 4096,
        13 => 64 << 10,
        14 => 1 << 32,
        _ => u64::from(input.u32()),
    }
}

fn forge(file: &mut [u8], place: usize, input: &mut Input<'_>) {
    let Some(header) = SegmentHeader::parse(file) else { return };
    let mut records = Vec::new();
    for at in (BLOCK..file.len()).step_by(8) {
        let place = Place { log: header.log, offset: at as u32 };
        if let Some(record) = format::parse_header(&file[at..], place, Some(header.stamp)) {
            records.push((at, record.record_bytes()));
        }
    }
    let (field, value) = (input.u8(), extreme(input));
    let Some((at, bytes)) = records.get(place % (records.len() + 1)).copied() else {
        // The segment's own header.
        let fields = [(8, 2), (10, 2), (12, 4), (16, 8), (24, 8), (32, 8), (40, 4)];
        let (at, width) = fields[usize::from(field) % fields.len()];
        file[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
        let sum = crc32fast::hash(&file[..60]);
        file[60..64].copy_from_slice(&sum.to_le_bytes());
        return;
    };
    let fields = [(8, 1), (10, 2), (12, 4), (24, 8), (32, 8)];
    let (field, width) = match fields.get(usize::from(field)) {
        Some(field) => *field,
        None => (RECORD_HEADER + usize::from(field) - fields.len(), [1, 2, 4, 8][input.below(4)]),
    };
    if at + field + width > file.len() {
        return;
    }
    file[at + field..at + field + width].copy_from_slice(&value.to_le_bytes()[..width]);
    let bytes = (at + bytes).min(file.len());
    let length = u32::from_le_bytes([file[at + 12], file[at + 13], file[at + 14], file[at + 15]]) as usize;
    let end = (at + RECORD_HEADER).saturating_add(length).min(file.len()).max(bytes.min(at + RECORD_HEADER));
    let sum = crc32fast::hash(&file[at + RECORD_HEADER..end]);
    file[at + 4..at + 8].copy_from_slice(&sum.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new_with_initial(u32::from(header.log) << 22 | at as u32 >> 3);
    hasher.update(&file[at + 4..at + RECORD_HEADER]);
    file[at..at + 4].copy_from_slice(&hasher.finalize().to_le_bytes());
}
