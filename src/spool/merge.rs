//! PURE. Puts the scans of all segments together: what every log durably says, and where its words are damaged.
//!
//! The rule is a union, so the order of files does not matter: a message is there if a copy of its record is; it is
//! settled if any record says so; a recipient has its outcome if any record says so. Ids are never used twice.

use super::format::{Progress, SegmentHeader, Superseded};
use super::scan::{CommitSeen, MessageSeen, Scan};
use crate::message::MessageId;
use crate::rt::buffer::BLOCK;
use foldhash::fast::FixedState;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::ops::Range;

type Map<K, V> = HashMap<K, V, FixedState>;

/// A readable segment.
#[derive(Debug)]
pub(crate) struct Source {
    /// The number in the file's name.
    pub number: u32,
    pub header: SegmentHeader,
    /// Length of the file.
    pub bytes: u64,
    /// The header block was right.
    pub intact: bool,
    pub scan: Scan,
}

/// What is wrong with a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damage {
    /// The number in the file's name.
    pub number: u32,
    /// Of its segment; 0 if unknown.
    pub sequence: u64,
    /// What, in words for the operator.
    pub what: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", super::log::segment_name(self.number), self.what)
    }
}

/// One log's segments and what its chain of commits says about them.
#[derive(Debug)]
pub(crate) struct Chain {
    /// Indices into the sources, oldest first; those before the tail are not among them.
    pub segments: Vec<usize>,
    /// Indices of the segments before the tail: free.
    pub free: Vec<usize>,
    pub last_commit: u64,
    pub next_commit: u64,
    /// The sequence of the oldest segment that counts, in the words of its commits.
    tail: u64,
    voids: Vec<Range<u64>>,
    /// Commits up to this one are known to have been durable.
    proven: u64,
    torn: HashSet<u64, FixedState>,
}

/// How far the records of a commit are to be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    /// It was refused: a later commit says so.
    Void,
    /// It was being written when the process ended: messages in it were not acknowledged, outcomes in it are true.
    Torn,
    Durable,
}

impl Chain {
    /// Whether a later commit says that this one was synced. If none does, it may be read well and yet stand in a cache
    /// only, whose sync failed: a sync that succeeds afterwards changes nothing about that. What it says is true, but
    /// nothing that it replaces may be given up for it.
    pub fn is_proven(&self, commit: u64) -> bool {
        commit <= self.proven
    }

    fn standing(&self, commit: u64) -> Standing {
        if self.voids.iter().any(|r| r.contains(&commit)) {
            Standing::Void
        } else if commit > self.proven && self.torn.contains(&commit) && !planted!(TornTailTrusted) {
            Standing::Torn
        } else {
            Standing::Durable
        }
    }
}

/// A record that counts: indices of its source and within `Scan::messages`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Copy {
    pub source: usize,
    pub index: usize,
    /// See [`Chain::is_proven`].
    pub proven: bool,
}

/// A message with recipients without outcome, all parts there.
#[derive(Debug)]
pub(crate) struct Found {
    pub id: MessageId,
    /// Every copy of every part, in order of age; the Accepted record is part 0.
    pub parts: BTreeMap<u32, Vec<Copy>>,
    /// Outcomes told outside of the Accepted record.
    pub progress: Vec<Progress>,
    /// Some of them are told by another log than the message's, or not durably.
    pub progress_elsewhere: bool,
}

/// Everything the spool says.
#[derive(Debug)]
pub(crate) struct Merged {
    pub chains: BTreeMap<u16, Chain>,
    pub live: Vec<Found>,
    /// Dead messages whose records in a log are not followed by a durable word of the same log that they are dead.
    pub to_settle: BTreeMap<u16, Vec<MessageId>>,
    /// The same for copies that another one replaced.
    pub to_supersede: BTreeMap<u16, Vec<Superseded>>,
    pub damage: Vec<Damage>,
    pub newest: MessageId,
    /// The highest sequence of any file.
    pub newest_sequence: u64,
}

fn chain(sources: &[Source], mut order: Vec<usize>, damage: &mut Vec<Damage>) -> Chain {
    order.sort_by_key(|i| sources[*i].header.sequence);
    let commits = |order: &[usize]| -> Vec<(usize, CommitSeen)> {
        let mut all: Vec<_> = order.iter().flat_map(|i| sources[*i].scan.commits.iter().map(|c| (*i, *c))).collect();
        all.sort_by_key(|(_, c)| c.number);
        all
    };
    let tail = commits(&order).iter().map(|(_, c)| c.fixed.tail).max().unwrap_or(0);
    let newest = order.iter().map(|i| sources[*i].scan.newest_commit).max().unwrap_or(0);
    let (segments, free): (Vec<_>, Vec<_>) = order.into_iter().partition(|i| sources[*i].header.sequence >= tail);
    let commits = commits(&segments);
    let proven = commits.iter().map(|(_, c)| c.fixed.previous).max().unwrap_or(0);
    let voids: Vec<Range<u64>> =
        commits.iter().map(|(_, c)| c.fixed.previous.saturating_add(1)..c.number).filter(|r| !r.is_empty()).collect();
    let is_void = |number: u64| voids.iter().any(|r| r.contains(&number));
    // The segment header is part of the first commit's write: without it that commit is not whole.
    let is_whole = |(i, c): &(usize, CommitSeen)| c.whole && (sources[*i].intact || c.offset as usize != BLOCK);
    let counts = commits.iter().filter(|c| is_whole(c) && !is_void(c.1.number));
    let whole = counts.map(|(_, c)| c.number).max().unwrap_or(0);
    let mut torn: HashSet<u64, FixedState> = commits.iter().filter(|c| !is_whole(c)).map(|(_, c)| c.number).collect();
    // Records without their Commit record.
    let known: HashSet<u64, FixedState> = commits.iter().map(|(_, c)| c.number).collect();
    for index in &segments {
        let scan = &sources[*index].scan;
        let loose = scan.messages.iter().map(|m| m.commit);
        let loose = loose.chain(scan.settled.iter().map(|s| s.0)).chain(scan.progress.iter().map(|p| p.0));
        torn.extend(loose.filter(|n| !known.contains(n)));
    }
    // A recovery that was cut off had begun to say which copies count no more. This one does that anew, and may choose
    // another home for a message, because what the first one wrote has proven other commits: both together would leave no copy.
    // So the first one's word is refused, unless it is proven and so has been acted upon.
    let gives_up =
        |number: u64| segments.iter().any(|i| sources[*i].scan.superseded.iter().any(|(commit, _)| *commit == number));
    let last_commit = if whole > proven && gives_up(whole) { proven } else { proven.max(whole) };
    let chain = Chain {
        segments,
        free,
        last_commit,
        // One more than the next: the number of a commit of which nothing is left to read is not used again.
        next_commit: if newest == 0 { 1 } else { newest + 2 },
        tail,
        voids,
        proven,
        torn,
    };
    find_damage(sources, &chain, &commits, damage);
    chain
}

fn find_damage(sources: &[Source], chain: &Chain, commits: &[(usize, CommitSeen)], damage: &mut Vec<Damage>) {
    let mut report = |index: usize, what: String| {
        let Source { number, header, .. } = &sources[index];
        damage.push(Damage { number: *number, sequence: header.sequence, what });
    };
    for index in &chain.segments {
        let Source { intact, scan, .. } = &sources[*index];
        let durable = |c: &CommitSeen| c.number <= chain.proven && chain.standing(c.number) != Standing::Void;
        if !intact && scan.commits.iter().any(durable) {
            report(*index, "the segment header is unreadable; its records were used".to_owned());
        }
        for gap in &scan.gaps {
            report(
                *index,
                format!("bytes {} to {} are unreadable, with readable commits behind them", gap.start, gap.end),
            );
        }
        for (commit, id) in &scan.spoiled {
            if *commit <= chain.proven && chain.standing(*commit) != Standing::Void {
                report(*index, format!("a record of message {id} is damaged"));
            }
        }
    }
    for (index, commit) in commits {
        if !commit.whole && commit.number <= chain.proven && chain.standing(commit.number) != Standing::Void {
            report(*index, format!("commit {} at byte {} is damaged", commit.number, commit.offset));
        }
    }
    // Of a segment from `from` up to `to` none of the commits up to `last` is readable: it was torn when it was new and
    // says nothing, or it is part of what is missing.
    let silent = |from: u64, to: u64, last: u64| {
        let within = move |index: &&usize| (from..to).contains(&sources[**index].header.sequence);
        let says_nothing = move |index: &&usize| {
            let scan = &sources[**index].scan;
            scan.commits.is_empty() && scan.newest_commit <= last
        };
        chain.segments.iter().filter(within).filter(says_nothing)
    };
    let sequence = |index: usize| sources[index].header.sequence;
    let standing: Vec<_> = commits.iter().filter(|(_, c)| chain.standing(c.number) != Standing::Void).collect();
    for pair in standing.windows(2) {
        let [(before, a), (after, b)] = pair else { continue };
        // A gap within one segment is reported above.
        if b.fixed.previous > a.number && before != after {
            let (first, last) = (a.number + 1, b.fixed.previous);
            report(*before, format!("commits {first} to {last} are missing at its end, or with a whole file"));
            for index in silent(sequence(*before) + 1, sequence(*after), last) {
                report(*index, format!("no commit in it is readable, and some of {first} to {last} were"));
            }
        }
    }
    // In front of the first: a tail names a segment that holds something durable, and stays until a later tail is.
    let Some((first, commit)) = standing.first() else { return };
    let (tail, last) = (chain.tail, commit.fixed.previous);
    if last == 0 || sequence(*first) <= tail {
        return;
    }
    let tail_is_there = chain.segments.first().is_some_and(|index| sequence(*index) == tail);
    // A log that another shard has taken over loses its files, oldest first, without a word. Log 0 never is.
    if !tail_is_there && sources[*first].header.log != 0 {
        return;
    }
    if !tail_is_there {
        report(*first, format!("the log's files before it are missing, from sequence {tail} on: commits up to {last}"));
    }
    for index in silent(tail, sequence(*first), last) {
        report(*index, format!("no commit in it is readable, and some up to {last} were"));
    }
}

/// Merges all sources.
pub(crate) fn merge(sources: &[Source]) -> Merged {
    let mut damage = Vec::new();
    let mut by_log: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
    for (index, source) in sources.iter().enumerate() {
        by_log.entry(source.header.log).or_default().push(index);
    }
    let chains: BTreeMap<u16, Chain> =
        by_log.into_iter().map(|(log, order)| (log, chain(sources, order, &mut damage))).collect();
    let counted = |log: u16| chains[&log].segments.iter().map(|i| (*i, &sources[*i].scan));

    // Who says that a message is settled: a log that says it durably, or NOBODY.
    const NOBODY: u16 = u16::MAX;
    let mut settled: Map<MessageId, u16> = Map::default();
    // The same for copies: the log that durably says so.
    let mut superseded: Map<Superseded, u16> = Map::default();
    for (log, chain) in &chains {
        for (_, scan) in counted(*log) {
            for (commit, id) in &scan.settled {
                match chain.standing(*commit) {
                    Standing::Void => {}
                    Standing::Torn => _ = settled.entry(*id).or_insert(NOBODY),
                    Standing::Durable => _ = settled.insert(*id, *log),
                }
            }
            for (commit, copy) in &scan.superseded {
                if chain.standing(*commit) == Standing::Durable && chain.is_proven(*commit) {
                    let by = superseded.entry(*copy).or_insert(*log);
                    if copy.log == *log {
                        *by = *log;
                    }
                }
            }
        }
    }

    let mut found: Map<MessageId, Found> = Map::default();
    let mut to_settle: BTreeMap<u16, Vec<MessageId>> = BTreeMap::new();
    let mut to_supersede: BTreeMap<u16, Vec<Superseded>> = BTreeMap::new();
    let mut newest = MessageId(0);
    for (log, chain) in &chains {
        for (source, scan) in counted(*log) {
            let sequence = sources[source].header.sequence;
            for (index, message) in scan.messages.iter().enumerate() {
                newest = newest.max(message.id);
                if chain.standing(message.commit) != Standing::Durable {
                    continue;
                }
                let place = Superseded { sequence, log: *log, offset: message.offset };
                if let Some(by) = superseded.get(&place) {
                    if by != log {
                        to_supersede.entry(*log).or_default().push(place);
                    }
                    continue;
                }
                if let Some(by) = settled.get(&message.id) {
                    if by != log && message.part == 0 && !planted!(DeathNotTold) {
                        to_settle.entry(*log).or_default().push(message.id);
                    }
                    continue;
                }
                let entry = found.entry(message.id).or_insert_with(|| Found {
                    id: message.id,
                    parts: BTreeMap::new(),
                    progress: Vec::new(),
                    progress_elsewhere: false,
                });
                entry.parts.entry(message.part).or_default().push(Copy {
                    source,
                    index,
                    proven: chain.is_proven(message.commit),
                });
            }
        }
    }
    for (log, chain) in &chains {
        for (_, scan) in counted(*log) {
            for (commit, progress) in &scan.progress {
                let standing = chain.standing(*commit);
                if standing == Standing::Void || planted!(ProgressIgnored) {
                    continue;
                }
                if let Some(message) = found.get_mut(&progress.id) {
                    let home = message.parts.get(&0).and_then(|c| c.last()).map(|c| sources[c.source].header.log);
                    message.progress_elsewhere |= standing != Standing::Durable || home != Some(*log);
                    message.progress.push(*progress);
                }
            }
        }
    }
    let mut live: Vec<Found> = found.into_values().filter(|f| f.parts.contains_key(&0)).collect();
    live.sort_by_key(|f| f.id);
    let newest_sequence = sources.iter().map(|s| s.header.sequence).max().unwrap_or(0);
    Merged { chains, live, to_settle, to_supersede, damage, newest, newest_sequence }
}

impl Source {
    pub(crate) fn message(&self, index: usize) -> &MessageSeen {
        &self.scan.messages[index]
    }

    pub(crate) fn front(&self, index: usize) -> &[u8] {
        &self.scan.fronts[self.scan.messages[index].front.clone()]
    }
}
