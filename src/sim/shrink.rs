//! PURE. The shortest failing variant of a scenario that patience finds: fewer deeds, then fewer letters in them, then
//! plainer settings, as long as the same rule is violated.
//!
//! Input: a failing scenario and a judge; output: a shorter one that fails too. Method: delta debugging (Zeller and
//! Hildebrandt, 2002): ever smaller parts are left out, and left out for good if it still fails. Refuses more runs than
//! it is allowed.

use super::scenario::{Deed, Scenario};
use std::time::Duration;

/// A shorter scenario, and the numbers that its deeds had.
pub struct Shrunk {
    /// It fails like the first.
    pub scenario: Scenario,
    /// Which deeds of the first are left.
    pub kept: Vec<usize>,
    /// Runs it took.
    pub runs: u32,
}

/// Shortens `scenario` while `fails` says so, with at most `most` runs.
pub fn shrink(scenario: &Scenario, most: u32, mut fails: impl FnMut(&Scenario) -> bool) -> Shrunk {
    let mut runs = 0;
    let mut kept: Vec<usize> = (0..scenario.deeds.len()).collect();
    let mut part = kept.len().div_ceil(2).max(1);
    loop {
        let mut shorter = false;
        let mut at = 0;
        while at < kept.len() && runs < most {
            let mut without = kept.clone();
            without.drain(at..(at + part).min(kept.len()));
            runs += 1;
            if fails(&scenario.only(&without)) {
                kept = without;
                shorter = true;
            } else {
                at += part;
            }
        }
        if runs >= most || (part == 1 && !shorter) {
            break;
        }
        part = if shorter { part.min(kept.len().div_ceil(2)).max(1) } else { part.div_ceil(2) };
    }
    let mut best = scenario.only(&kept);
    for change in plainer() {
        let mut plain = best.clone();
        change(&mut plain);
        runs += 1;
        if runs < most && fails(&plain) {
            best = plain;
        }
    }
    for number in 0..best.deeds.len() {
        fewer_letters(&mut best, number, &mut runs, most, &mut fails);
    }
    Shrunk { scenario: best, kept, runs }
}

type Change = fn(&mut Scenario);

fn plainer() -> [Change; 12] {
    [
        |s| s.shards = 1,
        |s| s.shards = 2,
        |s| s.turn_us = 1,
        |s| s.disk_us = (100, 100),
        |s| s.window = (1 << 20, 0),
        |s| s.idle = Duration::from_secs(5),
        |s| s.verifies = false,
        |s| s.limited = false,
        |s| s.proxied = false,
        |s| s.local = None,
        |s| s.enforced = None,
        |s| {
            for (_, deed) in &mut s.deeds {
                if let Deed::Submit { style, .. } = deed {
                    (style.piece, style.pause, style.noise) = (100_000, Duration::ZERO, 0);
                }
            }
        },
    ]
}

/// Leaves out letters of one submission, and recipients of those that stay.
fn fewer_letters(
    best: &mut Scenario,
    number: usize,
    runs: &mut u32,
    most: u32,
    fails: &mut impl FnMut(&Scenario) -> bool,
) {
    let Deed::Submit { letters, .. } = &best.deeds[number].1 else { return };
    for letter in (0..letters.len()).rev() {
        let mut plain = best.clone();
        if let Deed::Submit { letters, .. } = &mut plain.deeds[number].1
            && letters.len() > 1
        {
            letters.remove(letter);
        } else {
            continue;
        }
        *runs += 1;
        if *runs < most && fails(&plain) {
            *best = plain;
        }
    }
    let Deed::Submit { letters, .. } = &best.deeds[number].1 else { return };
    let counts: Vec<usize> = letters.iter().map(|letter| letter.recipients.len()).collect();
    for (letter, count) in counts.into_iter().enumerate() {
        for recipient in (0..count).rev() {
            let mut plain = best.clone();
            let Deed::Submit { letters, .. } = &mut plain.deeds[number].1 else { return };
            if letters[letter].recipients.len() < 2 {
                break;
            }
            letters[letter].recipients.remove(recipient);
            *runs += 1;
            if *runs < most && fails(&plain) {
                *best = plain;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_needed_is_left_out() {
        let scenario = Scenario::generate(3);
        let needed = [4, 9];
        let fails = |s: &Scenario| {
            let has =
                |n: usize| s.deeds.iter().any(|(_, deed)| format!("{deed:?}") == format!("{:?}", scenario.deeds[n].1));
            needed.iter().all(|n| has(*n))
        };
        assert_eq!(shrink(&scenario, 1000, fails).kept, needed);
    }
}
