//! PURE. What replies have brought about, as it is kept over a restart: the file of a shard, and when it is written.
//!
//! | | |
//! |---|---|
//! | `RPRESTS 1 ` | what it is, and its version |
//! | 8 hexadecimal digits, a space | CRC-32 of the JSON |
//! | decimal digits, a line feed | octets of the JSON |
//! | | JSON: shard, sequence, wall clock, and the rests with the time that each has left |
//!
//! What follows is not looked at: the file may be longer. A shard writes two files in turn, so that one is always whole. It writes
//! what its own ledgers have in force, and rests of source addresses at those sites; and, until that is over, what it had
//! found and other shards own now, since only its own files may have it.
//!
//! In: measures, octets, both clocks. Out: octets; what is still in force of them. Nothing that rests is ever let go early, so of two
//! copies the longer one counts. What was set back of the wall clock makes nothing shorter; what it was set forward by, while no
//! process ran, looks like time that has passed. It refuses a file with anything wrong in it, and never panics.

use super::{Scope, Taken};
use crate::limits::RESTS_WHY_BYTES;
use crate::limits::{CONFIG_DURATION_MAX, RESTS_CLOCK_STEP, RESTS_FILE_BYTES, RESTS_INTERVAL, RESTS_RETRY};
use crate::shaping::{Limit, Limits, Lowering};
use crate::time::{Moment, Now, Wall};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

const MAGIC: &str = "RPRESTS 1 ";

/// Something that is in force at a site.
#[derive(Clone, Debug, PartialEq)]
pub struct Kept {
    /// The site.
    pub site: Scope,
    /// What.
    pub what: Resting,
    /// Until then.
    pub until: Moment,
    /// Why, in words.
    pub why: Arc<str>,
}

/// What is in force.
#[derive(Clone, Debug, PartialEq)]
pub enum Resting {
    /// What the site's ledger has.
    Site(Taken),
    /// This source address sends nothing there.
    Source(IpAddr),
}

/// What was found of all shards.
#[derive(Debug, Default)]
pub struct Restored {
    /// What is still in force, each once.
    pub all: Vec<Kept>,
    /// Files that are not used, by their place, and why; such as were made and never written are not among them.
    pub refused: Vec<(usize, &'static str)>,
    /// The newest file of each shard, by its number.
    of_shards: BTreeMap<u16, Written>,
}

/// What stands in a file.
#[derive(Clone, Debug, Default)]
struct Written {
    shard: u16,
    sequence: u64,
    list: Vec<Kept>,
}

#[derive(Serialize, Deserialize)]
struct File {
    shard: u16,
    sequence: u64,
    /// Milliseconds since 1970.
    at: u64,
    rests: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    site: String,
    #[serde(flatten)]
    what: What,
    /// Milliseconds.
    left: u64,
    why: String,
}

#[derive(Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
enum What {
    Site,
    Tenant {
        tenant: String,
    },
    Source {
        source: IpAddr,
    },
    /// The factor as text, to be the same number again.
    Lower {
        limit: String,
        factor: String,
    },
    Limits(Lower),
}

#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Lower {
    connections: Option<u32>,
    connection_rate: Option<String>,
    message_rate: Option<String>,
    recipients: Option<u32>,
    messages_per_connection: Option<u32>,
    bytes_in_flight: Option<u64>,
}

impl What {
    fn of(what: &Resting) -> What {
        match what {
            Resting::Site(Taken::Rest) => What::Site,
            Resting::Site(Taken::RestOf(tenant)) => What::Tenant { tenant: tenant.to_string() },
            Resting::Site(Taken::Lower(Lowering::Times(limit, factor))) => {
                What::Lower { limit: limit.key().to_owned(), factor: factor.to_string() }
            }
            Resting::Site(Taken::Lower(Lowering::To(limits))) => What::Limits(Lower {
                connections: limits.connections,
                connection_rate: limits.connection_rate.map(|rate| rate.to_string()),
                message_rate: limits.message_rate.map(|rate| rate.to_string()),
                recipients: limits.recipients,
                messages_per_connection: limits.messages_per_connection,
                bytes_in_flight: limits.bytes_in_flight,
            }),
            Resting::Source(source) => What::Source { source: *source },
        }
    }

    /// `None`: it makes no sense.
    fn resting(self) -> Option<Resting> {
        Some(match self {
            What::Site => Resting::Site(Taken::Rest),
            What::Tenant { tenant } => Resting::Site(Taken::RestOf(tenant.into())),
            What::Source { source } => Resting::Source(source),
            What::Lower { limit, factor } => {
                let limit = Limit::ALL.into_iter().find(|known| known.key() == limit)?;
                let factor = factor.parse().ok().filter(|factor| (0.0..1.0).contains(factor))?;
                Resting::Site(Taken::Lower(Lowering::Times(limit, factor)))
            }
            What::Limits(lower) => {
                let rate =
                    |text: Option<String>| text.map(|text| text.parse().ok()).map_or(Some(None), |r| r.map(Some));
                Resting::Site(Taken::Lower(Lowering::To(Limits {
                    connections: lower.connections,
                    connection_rate: rate(lower.connection_rate)?,
                    message_rate: rate(lower.message_rate)?,
                    recipients: lower.recipients,
                    messages_per_connection: lower.messages_per_connection,
                    bytes_in_flight: lower.bytes_in_flight,
                })))
            }
        })
    }
}

/// The file of a shard. Above [`RESTS_FILE_BYTES`] what ends first is left out.
fn encode(shard: u16, sequence: u64, mut list: Vec<Kept>, now: Now) -> Vec<u8> {
    list.retain(|kept| kept.until > now.mono);
    list.sort_by(|a, b| (b.until, &a.site).cmp(&(a.until, &b.site)));
    let mut octets = 0;
    let mut rests = Vec::new();
    for Kept { site, what, until, why } in &list {
        // One more for what the wall clock's milliseconds leave out at either end.
        let left = u64::try_from(until.since(now.mono).as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX) + 1;
        let why = why[..why.floor_char_boundary(RESTS_WHY_BYTES)].to_owned();
        let entry = Entry { site: site.to_string(), what: What::of(what), left, why };
        octets += serde_json::to_vec(&entry).map_or(0, |text| text.len() + 1);
        if octets > RESTS_FILE_BYTES - 1024 {
            break;
        }
        rests.push(entry);
    }
    let text = serde_json::to_vec(&File { shard, sequence, at: now.wall.0, rests }).expect("plain data");
    let mut bytes = format!("{MAGIC}{:08x} {}\n", crc32fast::hash(&text), text.len()).into_bytes();
    bytes.extend_from_slice(&text);
    bytes
}

/// `Ok(None)`: the file was made and never written.
fn decode(bytes: &[u8], now: Now) -> Result<Option<Written>, &'static str> {
    if bytes.iter().take(MAGIC.len()).all(|octet| *octet == 0) {
        return Ok(None);
    }
    let rest = bytes.strip_prefix(MAGIC.as_bytes()).ok_or("it is no file of rests of this version")?;
    let text = (|| {
        let end = rest.iter().take(32).position(|octet| *octet == b'\n')?;
        let (crc, length) = std::str::from_utf8(&rest[..end]).ok()?.split_once(' ')?;
        let text = rest[end + 1..].get(..length.parse().ok().filter(|length| *length <= RESTS_FILE_BYTES)?)?;
        (u32::from_str_radix(crc, 16).ok()? == crc32fast::hash(text)).then_some(text)
    })();
    let file: File =
        serde_json::from_slice(text.ok_or("it is cut off or damaged")?).map_err(|_| "it makes no sense")?;
    // None if the clock was set back: then all lasts as long as it did.
    let since = now.wall.since(Wall(file.at));
    let mut list = Vec::new();
    for Entry { site, what, left, why } in file.rests {
        let left = Duration::from_millis(left).min(CONFIG_DURATION_MAX).saturating_sub(since);
        let what = what.resting().ok_or("it makes no sense")?;
        if left > Duration::ZERO {
            list.push(Kept { site: site.into(), what, until: now.mono + left, why: why.into() });
        }
    }
    Ok(Some(Written { shard: file.shard, sequence: file.sequence, list }))
}

impl Restored {
    /// Of the files of all shards of the runs before.
    pub fn read<'a>(files: impl IntoIterator<Item = &'a [u8]>, now: Now) -> Restored {
        let mut restored = Restored::default();
        for (at, bytes) in files.into_iter().enumerate() {
            match decode(bytes, now) {
                Ok(None) => {}
                Err(why) => restored.refused.push((at, why)),
                Ok(Some(found)) => {
                    if restored.of_shards.get(&found.shard).is_none_or(|other| other.sequence < found.sequence) {
                        restored.of_shards.insert(found.shard, found);
                    }
                }
            }
        }
        let mut all: BTreeMap<(Scope, String), Kept> = BTreeMap::new();
        for kept in restored.of_shards.values().flat_map(|found| &found.list) {
            let same = all.entry((kept.site.clone(), format!("{:?}", kept.what))).or_insert_with(|| kept.clone());
            if same.until < kept.until {
                *same = kept.clone();
            }
        }
        restored.all = if planted!(RestsLostAtStart) { Vec::new() } else { all.into_values().collect() };
        restored
    }
}

/// A file to be written, durably.
#[derive(Debug)]
pub struct Write {
    /// 0 or 1: the one that does not hold the last good file.
    pub slot: u8,
    /// All of it; padding may follow.
    pub bytes: Vec<u8>,
}

/// When a shard writes, and what beside its own. Lives on its shard.
#[derive(Debug)]
pub struct Keeper {
    me: u16,
    /// Of the last file that was written.
    sequence: u64,
    /// See the module.
    of_others: Vec<Kept>,
    changed: bool,
    /// The clocks when the write began that is under way.
    writing: Option<Now>,
    /// Nothing is written before.
    not_before: Moment,
    /// The clocks of the last file that was written, if it has anything.
    clocks: Option<Now>,
}

impl Keeper {
    /// Of shard `me`; `owns`: whether a site's ledger is there.
    pub fn new(me: u16, restored: &Restored, owns: impl Fn(&Scope) -> bool) -> Keeper {
        let Written { sequence, list, .. } = restored.of_shards.get(&me).cloned().unwrap_or_default();
        let of_others = list.into_iter().filter(|kept| !owns(&kept.site)).collect();
        // What others had kept of ours, and how the clocks stand, are written at once.
        let changed = restored.all.iter().any(|kept| owns(&kept.site));
        Keeper { me, sequence, of_others, changed, writing: None, not_before: Moment(0), clocks: None }
    }

    /// Something is in force that was not, or for longer.
    pub fn change(&mut self) {
        self.changed = true;
    }

    /// Whether nothing is to be written, and nothing is being written.
    pub fn is_quiet(&self) -> bool {
        self.writing.is_none() && !self.changed
    }

    /// Whether [`poll_write`](Self::poll_write) may have something; `at_once`: the process is about to end.
    pub fn is_due(&mut self, now: Now, at_once: bool) -> bool {
        if let Some(clocks) = self.clocks {
            let wall = i128::from(now.wall.0) - i128::from(clocks.wall.0);
            let mono = i128::try_from(now.mono.since(clocks.mono).as_millis()).unwrap_or(i128::MAX);
            // The wall clock was set: what a restart takes off is reckoned by the new one.
            self.changed |= wall.abs_diff(mono) > RESTS_CLOCK_STEP.as_millis();
        }
        self.changed && self.writing.is_none() && (at_once || self.not_before <= now.mono)
    }

    /// What is to be written, of what is in force at the sites of this shard.
    pub fn poll_write(&mut self, mut list: Vec<Kept>, now: Now) -> Write {
        (self.changed, self.writing, self.not_before) = (false, Some(now), now.mono + RESTS_INTERVAL);
        self.of_others.retain(|kept| kept.until > now.mono);
        list.extend(self.of_others.iter().cloned());
        self.clocks = (!list.is_empty()).then_some(now);
        let sequence = self.sequence + 1;
        Write { slot: u8::from(sequence & 1 == 1), bytes: encode(self.me, sequence, list, now) }
    }

    /// The write has ended. One that failed is tried again, but not by a process that is about to end.
    pub fn handle_written(&mut self, written: bool, now: Moment, ends: bool) {
        if self.writing.take().is_none() {
            return;
        }
        if written {
            self.sequence += 1;
        } else {
            (self.changed, self.not_before) = (!ends, now + RESTS_RETRY);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);
    const START: Now = Now { mono: Moment(5_000_000_000), wall: Wall(1_795_000_000_000) };

    fn later(time: Duration) -> Now {
        Now { mono: START.mono + time, wall: Wall(START.wall.0 + u64::try_from(time.as_millis()).unwrap()) }
    }

    fn kept(site: &str, what: Resting, minutes: u32) -> Kept {
        Kept { site: site.into(), what, until: START.mono + MINUTE * minutes, why: "rule r: mx said 421 no".into() }
    }

    fn all() -> Vec<Kept> {
        let limits = Limits {
            connections: Some(3),
            message_rate: Some("20/s burst 5".parse().unwrap()),
            bytes_in_flight: Some(4096),
            ..Limits::default()
        };
        vec![
            kept("a", Resting::Site(Taken::Rest), 10),
            kept("a", Resting::Site(Taken::RestOf("acme".into())), 20),
            kept("b \"quoted\"", Resting::Source("192.0.2.1".parse().unwrap()), 30),
            kept("c", Resting::Site(Taken::Lower(Lowering::Times(Limit::MessageRate, 0.1))), 40),
            kept("c", Resting::Site(Taken::Lower(Lowering::To(limits))), 50),
        ]
    }

    fn whats(restored: &Restored) -> Vec<(Scope, Resting)> {
        let mut whats: Vec<_> = restored.all.iter().map(|kept| (kept.site.clone(), kept.what.clone())).collect();
        whats.sort_by_key(|what| format!("{what:?}"));
        whats
    }

    #[test]
    fn what_is_kept_is_in_force_again_for_the_time_that_is_left() {
        let bytes = encode(0, 1, all(), START);
        let restored = Restored::read([&bytes[..]], START);
        assert_eq!(restored.all.len(), 5);
        for kept in all() {
            let same =
                restored.all.iter().find(|other| (&other.site, &other.what) == (&kept.site, &kept.what)).unwrap();
            assert!(same.until >= kept.until && same.until.since(kept.until) <= Duration::from_millis(2), "{same:?}");
            assert_eq!(same.why, kept.why);
        }
        // A restart whose clock begins at nothing.
        let now = Now { mono: Moment(0), ..later(MINUTE * 25) };
        let restored = Restored::read([&bytes[..]], now);
        assert_eq!(restored.all.len(), 3);
        assert!(restored.all.iter().any(|kept| kept.until.since(Moment(0)).as_secs() == 300));
        // The clock was set back: nothing is shorter, and nothing longer than it was.
        let back = Now { mono: Moment(0), wall: Wall(START.wall.0 - 86_400_000) };
        let restored = Restored::read([&bytes[..]], back);
        assert!(restored.all.iter().all(|kept| kept.until.since(Moment(0)) <= MINUTE * 50 + Duration::from_millis(2)));
        assert_eq!(restored.all.len(), 5);
    }

    #[test]
    fn a_damaged_file_is_told_and_the_other_one_used() {
        let (old, new) = (encode(0, 1, all()[..1].to_vec(), START), encode(0, 2, all(), START));
        for at in 0..new.len() {
            let mut torn = new.clone();
            torn[at] ^= 0x01;
            let restored = Restored::read([&old[..], &torn[..]], START);
            assert_eq!((restored.refused.len(), restored.all.len()), (1, 1), "octet {at}");
            let cut = Restored::read([&old[..], &new[..at]], START);
            assert!(cut.all.len() == 1 && cut.refused.len() == usize::from(at > 0), "{at} octets");
        }
        let blank = vec![0; 4096];
        let restored = Restored::read([&blank[..], &new[..]], START);
        assert_eq!((restored.refused.len(), restored.all.len()), (0, 5));
    }

    #[test]
    fn no_start_with_another_number_of_shards_loses_anything() {
        let (zero, one) = (encode(0, 7, all()[..2].to_vec(), START), encode(1, 3, all()[2..].to_vec(), START));
        let restored = Restored::read([&zero[..], &one[..]], START);
        // Shard 1 owns nothing any more, and writes before shard 0 has.
        let mut keeper = Keeper::new(1, &restored, |_| false);
        assert!(!keeper.is_due(START, false), "it has nothing of its own to say");
        keeper.change();
        assert!(keeper.is_due(START, false));
        let write = keeper.poll_write(Vec::new(), START);
        assert_eq!(write.slot, 0, "the newest file is not written over");
        keeper.handle_written(true, START.mono, false);
        let again = Restored::read([&zero[..], &one[..], &write.bytes[..]], START);
        assert_eq!(whats(&again), whats(&restored));
        let mut owner = Keeper::new(0, &restored, |_| true);
        assert!(owner.is_due(START, false), "what others had is written at once");
    }

    #[test]
    fn it_is_written_once_a_second_and_when_the_clock_was_set() {
        let mut keeper = Keeper::new(0, &Restored::default(), |_| true);
        assert!(!keeper.is_due(START, false) && keeper.is_quiet());
        keeper.change();
        assert!(keeper.is_due(START, false));
        keeper.poll_write(all(), START);
        keeper.change();
        assert!(!keeper.is_due(later(MINUTE), true), "one at a time");
        keeper.handle_written(true, START.mono, false);
        let soon = later(Duration::from_millis(10));
        assert!(
            !keeper.is_due(soon, false) && keeper.is_due(soon, true) && keeper.is_due(later(RESTS_INTERVAL), false)
        );
        let second = keeper.poll_write(all(), later(RESTS_INTERVAL));
        assert_eq!(second.slot, 0);
        keeper.handle_written(false, later(RESTS_INTERVAL).mono, false);
        assert!(!keeper.is_due(later(RESTS_INTERVAL * 2), false), "a disk that fails has a pause");
        assert!(keeper.is_due(later(RESTS_INTERVAL + RESTS_RETRY), false));
        assert_eq!(keeper.poll_write(all(), later(MINUTE)).slot, 0, "the good one stays");
        keeper.handle_written(true, later(MINUTE).mono, false);
        assert!(!keeper.is_due(later(MINUTE * 2), false));
        let set = Now { wall: Wall(START.wall.0 + 3_600_000), ..later(MINUTE * 2) };
        assert!(keeper.is_due(set, false));
    }

    #[test]
    fn more_than_fits_leaves_out_what_ends_first() {
        let list: Vec<Kept> = (1..20_000).map(|n| kept(&format!("{n:0200}"), Resting::Site(Taken::Rest), n)).collect();
        let bytes = encode(0, 1, list, START);
        assert!(bytes.len() <= RESTS_FILE_BYTES);
        let all = Restored::read([&bytes[..]], START).all;
        assert!(all.len() > 1000 && all.iter().any(|kept| kept.site.ends_with("19999")));
        assert!(!all.iter().any(|kept| kept.site.ends_with("0001")));
    }
}
