#![allow(clippy::unwrap_used)]

use super::*;
use crate::limits::{QUOTA_CLOCK_STEP, QUOTA_IDLE, QUOTA_LEASE_TIME, QUOTA_WRITE_TIMEOUT};
use crate::time::{Now, Wall};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

fn key(name: &str) -> Key {
    Key::new("messages", name).unwrap()
}

fn per_minute(amount: u32) -> Limits {
    Limits::new(&[Limit { amount, window: MINUTE }]).unwrap()
}

fn at(millis: u64) -> Now {
    Now { mono: Moment(millis * 1_000_000), wall: Wall(1_000_000_000_000 + millis) }
}

/// One owner and the purses of some shards; mail and writes take no time. Each purse is asked for by its shard.
struct Site {
    owner: Owner,
    purses: Vec<Purse>,
    files: [Vec<u8>; 2],
    writes: u32,
    next: u64,
}

impl Site {
    fn new(shards: u16, files: [Vec<u8>; 2], now: Now) -> Site {
        // Every key's owner is shard 0 of 1, whatever the number of purses.
        let (owner, refused) = Owner::restore(0, 1, files.iter().map(Vec::as_slice), now);
        assert!(refused.iter().all(|(_, why)| *why == Refused::Blank), "{refused:?}");
        let purses = (0..shards).map(|me| Purse::new(me, 1)).collect();
        Site { owner, purses, files, writes: 0, next: 0 }
    }

    fn settle(&mut self, now: Now) {
        loop {
            let mut moved = false;
            for purse in &mut self.purses {
                while let Some((to, message)) = purse.poll_send() {
                    assert_eq!(to, 0);
                    self.owner.handle(message, now.mono);
                    moved = true;
                }
            }
            if let Some(write) = self.owner.poll_write(now) {
                self.files[usize::from(write.slot)] = write.bytes;
                self.writes += 1;
                self.owner.handle_written(true, now.mono);
                moved = true;
            }
            while let Some((to, message)) = self.owner.poll_send() {
                self.purses[usize::from(to)].handle(message, now.mono);
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    fn take(&mut self, shard: usize, key: &Key, limits: &Limits, units: u32, now: Now) -> Answer {
        self.next += 1;
        match self.purses[shard].take(key, limits, units, self.next, now.mono) {
            Take::Taken(receipt) => return Answer::Taken(receipt),
            Take::Unavailable => return Answer::Unavailable,
            Take::Waiting => {}
        }
        self.settle(now);
        let (token, answer) = self.purses[shard].poll_answer().expect("an answer");
        assert_eq!((token, self.purses[shard].poll_answer()), (self.next, None));
        answer
    }
}

fn taken(answer: Answer) -> Receipt {
    match answer {
        Answer::Taken(receipt) => receipt,
        other => panic!("{other:?}"),
    }
}

fn over(millis: u64) -> Answer {
    Answer::Over { retry_at: Some(at(millis).mono) }
}

#[test]
fn all_of_a_limit_can_be_taken_and_no_more_and_when_to_come_back_is_exact() {
    let (ann, five) = (key("ann"), per_minute(5));
    let mut site = Site::new(3, Default::default(), at(0));
    for n in 0..5 {
        let _ = taken(site.take(n % 3, &ann, &five, 1, at(1000 + n as u64 * 7000)));
    }
    for shard in 0..3 {
        assert_eq!(site.take(shard, &ann, &five, 1, at(40_000)), over(61_000));
        assert_eq!(site.take(shard, &ann, &five, 3, at(60_999)), over(75_000), "the third is free again");
    }
    let _ = taken(site.take(0, &ann, &five, 1, at(61_000)));
    assert_eq!(site.take(1, &ann, &five, 1, at(61_000)), over(68_000));
    assert_eq!(site.take(1, &ann, &five, 6, at(61_000)), Answer::Over { retry_at: None });
    let _ = taken(site.take(1, &key("bob"), &five, 5, at(61_000)));
}

#[test]
fn every_limit_of_a_key_holds() {
    let ann = key("ann");
    let both = Limits::new(&[Limit { amount: 2, window: MINUTE }, Limit { amount: 3, window: DAY }]).unwrap();
    let mut site = Site::new(1, Default::default(), at(0));
    for millis in [1000, 1001] {
        let _ = taken(site.take(0, &ann, &both, 1, at(millis)));
    }
    assert_eq!(site.take(0, &ann, &both, 1, at(1002)), over(61_000));
    let _ = taken(site.take(0, &ann, &both, 1, at(61_000)));
    assert_eq!(site.take(0, &ann, &both, 1, at(61_001)), over(86_401_000), "the day, not the minute");
}

#[test]
fn what_lies_unused_elsewhere_is_recalled_before_anybody_is_refused() {
    let (ann, hundred) = (key("ann"), per_minute(100));
    let mut site = Site::new(2, Default::default(), at(0));
    // A busy shard is given more at a time.
    for n in 0..30 {
        let _ = taken(site.take(0, &ann, &hundred, 1, at(1000 + n)));
    }
    assert!(site.writes < 12, "{}", site.writes);
    // Now another takes the rest, to the last unit.
    for n in 0..70 {
        let _ = taken(site.take(1, &ann, &hundred, 1, at(1100 + n)));
    }
    assert!(matches!(site.take(1, &ann, &hundred, 1, at(1300)), Answer::Over { .. }));
    assert!(matches!(site.take(0, &ann, &hundred, 1, at(1300)), Answer::Over { .. }));
}

#[test]
fn what_is_put_back_can_be_taken_again() {
    let (ann, two) = (key("ann"), per_minute(2));
    let mut site = Site::new(2, Default::default(), at(0));
    let first = taken(site.take(0, &ann, &two, 1, at(1000)));
    let second = taken(site.take(1, &ann, &two, 1, at(2000)));
    assert_eq!(site.take(0, &ann, &two, 1, at(3000)), over(61_000));
    site.purses[0].untake(&ann, first);
    site.settle(at(3000));
    let _ = taken(site.take(1, &ann, &two, 1, at(4000)));
    assert_eq!(site.take(0, &ann, &two, 1, at(5000)), over(62_000), "the unit of 1000 is gone, not that of 2000");
    site.purses[1].untake(&ann, second);
    site.settle(at(5000));
    assert_eq!(site.take(0, &ann, &two, 2, at(5000)), over(64_000));
}

#[test]
fn a_transaction_prefetches_with_one_write() {
    let (messages, recipients) = (key("ann"), Key::new("recipients", "ann").unwrap());
    let limits = per_minute(100);
    let mut site = Site::new(1, Default::default(), at(0));
    site.purses[0].prefetch(&recipients, &limits, 2, at(1).mono);
    let _ = taken(site.take(0, &messages, &limits, 1, at(1)));
    for _ in 0..2 {
        assert!(matches!(site.purses[0].take(&recipients, &limits, 1, 9, at(2).mono), Take::Taken(_)));
    }
    assert_eq!(site.writes, 1);
}

#[test]
fn what_nobody_uses_is_given_back_and_what_is_not_settled_counts_to_its_end() {
    let (ann, four) = (key("ann"), per_minute(4));
    let mut site = Site::new(2, Default::default(), at(0));
    site.purses[0].prefetch(&ann, &four, 4, at(0).mono);
    site.settle(at(0));
    site.purses[0].sweep(at(999).mono);
    assert!(site.purses[0].poll_send().is_none());
    site.purses[0].sweep((at(0).mono) + QUOTA_IDLE);
    site.settle(at(1000));
    assert_eq!(site.owner.books_with_units(at(1000).mono), 0);
    // A shard that takes three and is never heard of again.
    site.purses[0].prefetch(&ann, &four, 4, at(5000).mono);
    site.settle(at(5000));
    site.purses[0] = Purse::new(0, 1);
    assert!(matches!(site.purses[1].take(&ann, &four, 1, 7, at(6000).mono), Take::Waiting));
    site.settle(at(6000));
    assert_eq!(site.purses[1].poll_answer(), None, "it waits for the lease to end");
    let end = 5000 + QUOTA_LEASE_TIME.as_millis() as u64;
    site.owner.sweep(at(end));
    site.settle(at(end));
    assert_eq!(site.purses[1].poll_answer(), Some((7, over(end + 60_000))));
}

#[test]
fn nothing_is_handed_out_unwritten() {
    let (ann, bob, five) = (key("ann"), key("bob"), per_minute(5));
    let now = at(1000);
    let mut site = Site::new(1, Default::default(), at(0));
    let ask = |site: &mut Site, key: &Key, token| {
        assert_eq!(site.purses[0].take(key, &five, 1, token, now.mono), Take::Waiting);
        while let Some((_, message)) = site.purses[0].poll_send() {
            site.owner.handle(message, now.mono);
        }
    };
    ask(&mut site, &ann, 1);
    let first = site.owner.poll_write(now).unwrap();
    ask(&mut site, &bob, 2);
    assert_eq!((site.owner.poll_write(now), site.owner.poll_send().is_none()), (None, true), "one write at a time");
    // It fails: ann is refused; bob is in the next, which goes to the same slot.
    site.owner.handle_written(false, now.mono);
    let (_, message) = site.owner.poll_send().unwrap();
    site.purses[0].handle(message, now.mono);
    assert_eq!(site.purses[0].poll_answer(), Some((1, Answer::Unavailable)));
    assert!(site.owner.poll_send().is_none());
    let second = site.owner.poll_write(now).unwrap();
    assert_eq!(second.slot, first.slot);
    site.owner.handle_written(true, now.mono);
    site.settle(now);
    assert!(matches!(site.purses[0].poll_answer(), Some((2, Answer::Taken(_)))));
    // What was refused does not count.
    assert!(matches!(site.take(0, &ann, &five, 5, now), Answer::Taken(_)));
    // A write that takes too long has failed.
    ask(&mut site, &bob, 3);
    let third = site.owner.poll_write(now).unwrap();
    assert_eq!(third.slot, first.slot, "0, then 1, then 0");
    site.owner.handle_written(true, now.mono + QUOTA_WRITE_TIMEOUT);
    site.settle(now);
    assert_eq!(site.purses[0].poll_answer(), Some((3, Answer::Unavailable)));
}

#[test]
fn a_restart_forgets_nothing_whatever_the_wall_clock_says() {
    let (ann, three) = (key("ann"), per_minute(3));
    for (wall, comes_back) in [(0i64, 52_000), (-3_600_000, 62_000), (30_000, 22_000)] {
        let mut site = Site::new(2, Default::default(), at(0));
        for n in 0..3 {
            let _ = taken(site.take(n % 2, &ann, &three, 1, at(1000)));
        }
        site.owner.save();
        site.settle(at(1000));
        // Ten seconds later by the true clock; the monotonic clock begins anew.
        let now = Now { mono: Moment(5), wall: Wall(at(11_000).wall.0.checked_add_signed(wall).unwrap()) };
        let mut site = Site::new(2, site.files, now);
        let Answer::Over { retry_at: Some(retry_at) } = site.take(0, &ann, &three, 1, now) else { panic!() };
        let left = retry_at.since(now.mono).as_millis();
        // Two seconds for a small step of the clock, and rounded up by a millisecond or two.
        assert!((comes_back..comes_back + 3).contains(&u64::try_from(left).unwrap()), "{wall}: {left}");
        let later = Now { mono: retry_at, wall: now.wall };
        let _ = taken(site.take(0, &ann, &three, 3, later));
    }
}

#[test]
fn a_clock_that_is_set_while_we_run_is_written_down() {
    let (ann, one) = (key("ann"), per_minute(1));
    let mut site = Site::new(1, Default::default(), at(0));
    let _ = taken(site.take(0, &ann, &one, 1, at(1000)));
    let hour = |now: Now| Now { wall: Wall(now.wall.0 + 3_600_000), ..now };
    site.owner.sweep(at(2000));
    assert_eq!(site.owner.poll_write(at(2000)), None);
    site.owner.sweep(hour(at(2000)));
    site.settle(hour(at(2000)));
    let now = hour(at(3000));
    let mut site = Site::new(1, site.files, now);
    assert!(matches!(site.take(0, &ann, &one, 1, now), Answer::Over { .. }), "an hour has not passed");
}

#[test]
fn units_after_a_crash_count_to_the_end_of_their_lease() {
    let (ann, four) = (key("ann"), per_minute(4));
    let mut site = Site::new(1, Default::default(), at(0));
    let _ = taken(site.take(0, &ann, &four, 4, at(1000)));
    let mut site = Site::new(1, site.files, at(2000));
    let Answer::Over { retry_at: Some(retry_at) } = site.take(0, &ann, &four, 1, at(2000)) else { panic!() };
    let longest = QUOTA_WRITE_TIMEOUT + QUOTA_LEASE_TIME + QUOTA_CLOCK_STEP + MINUTE + Duration::from_millis(1);
    assert!(retry_at.since(at(1000).mono) <= longest, "{retry_at:?}");
    let _ = taken(site.take(0, &ann, &four, 4, Now { mono: retry_at, wall: at(2000).wall }));
}

#[test]
fn a_window_that_is_new_knows_what_the_longest_other_knew() {
    let ann = key("ann");
    let limits = |list: &[(u32, u64)]| {
        let limit = |&(amount, secs)| Limit { amount, window: Duration::from_secs(secs) };
        Limits::new(&list.iter().map(limit).collect::<Vec<_>>()).unwrap()
    };
    let mut site = Site::new(1, Default::default(), at(0));
    let _ = taken(site.take(0, &ann, &limits(&[(9, 60), (9, 86_400)]), 3, at(1000)));
    assert_eq!(site.take(0, &ann, &limits(&[(3, 3600)]), 1, at(120_000)), over(3_601_000), "from the day");
    let _ = taken(site.take(0, &ann, &limits(&[(9, 60)]), 1, at(120_000)));
    assert_eq!(site.take(0, &ann, &limits(&[(4, 86_400)]), 1, at(130_000)), over(86_401_000), "the day went on");
}

#[test]
fn a_session_that_is_gone_gets_nothing() {
    let (ann, one) = (key("ann"), per_minute(1));
    let mut site = Site::new(1, Default::default(), at(0));
    let purse = &mut site.purses[0];
    assert_eq!(purse.take(&ann, &one, 1, 1, at(1).mono), Take::Waiting);
    assert_eq!(purse.take(&ann, &one, 1, 2, at(1).mono), Take::Waiting);
    purse.cancel(&ann, 1);
    site.settle(at(1));
    site.purses[0].cancel(&ann, 2);
    assert_eq!(site.purses[0].poll_answer(), None);
    site.settle(at(1));
    let _ = taken(site.take(0, &ann, &one, 1, at(2)));
}

#[test]
fn a_step_of_the_clock_too_small_to_be_noticed_frees_nothing() {
    let (ann, one) = (key("ann"), per_minute(1));
    let mut site = Site::new(1, Default::default(), at(0));
    let _ = taken(site.take(0, &ann, &one, 1, at(1000)));
    site.owner.save();
    site.settle(at(1000));
    // The clock is set forward by nearly two seconds in each of two runs that are given nothing to do and crash.
    let mut set = 0;
    for millis in [30_000, 45_000, 60_000] {
        let start = Now { mono: Moment(0), wall: at(millis + set).wall };
        site = Site::new(1, site.files, start);
        site.settle(start);
        set += 1900;
        site.owner.sweep(Now { mono: Moment(1_000_000), wall: at(millis + set).wall });
    }
    let now = Now { mono: Moment(1_000_000), wall: at(60_000 + set).wall };
    assert!(matches!(site.take(0, &ann, &one, 1, now), Answer::Over { .. }), "59 s have passed");
}

#[test]
fn one_lease_takes_a_quarter_of_what_is_left() {
    let (mut owner, _) = Owner::restore(0, 1, [], at(0));
    let mut granted = Vec::new();
    for holder in 0..4 {
        let request = ToOwner::Request { key: key("ann"), limits: per_minute(100), holder, need: 1, want: 1000 };
        owner.handle(request, at(1).mono);
        owner.poll_write(at(1)).unwrap();
        owner.handle_written(true, at(1).mono);
        let Some((to, ToPurse::Granted { units, .. })) = owner.poll_send() else { panic!() };
        assert_eq!(to, holder);
        granted.push(units);
    }
    assert_eq!(granted, [25, 18, 14, 10]);
}

#[test]
fn a_key_that_another_shard_owns_now_stays_in_the_files_until_it_has_written_it() {
    let moved = (0..).map(|n| key(&format!("account{n}"))).find(|key| key.owner(2) == 1).unwrap();
    let one = per_minute(1);
    let ask = |owner: &mut Owner| {
        let request = ToOwner::Request { key: moved.clone(), limits: one.clone(), holder: 0, need: 1, want: 1 };
        owner.handle(request, at(1000).mono);
    };
    let write = |owner: &mut Owner, files: &mut [Vec<u8>; 2]| {
        owner.save();
        let write = owner.poll_write(at(1000)).unwrap();
        files[usize::from(write.slot)] = write.bytes;
        owner.handle_written(true, at(1000).mono);
    };
    let mut files: [Vec<u8>; 2] = Default::default();
    let (mut alone, _) = Owner::restore(0, 1, [], at(1000));
    ask(&mut alone);
    write(&mut alone, &mut files);
    // With two shards the key is the other's, which writes nothing, while this one fills both slots.
    let (mut first, _) = Owner::restore(0, 2, files.iter().map(Vec::as_slice), at(1000));
    write(&mut first, &mut files);
    write(&mut first, &mut files);
    let (mut second, _) = Owner::restore(1, 2, files.iter().map(Vec::as_slice), at(1000));
    ask(&mut second);
    assert!(matches!(second.poll_send(), Some((0, ToPurse::Denied { retry_at: Some(_), .. }))));
}

#[test]
fn no_use_is_earlier_than_its_lease() {
    let (ann, one) = (key("ann"), per_minute(1));
    let mut site = Site::new(1, Default::default(), at(0));
    site.purses[0].prefetch(&ann, &one, 1, at(1000).mono);
    site.settle(at(1000));
    // This shard has read its clock before the owner has.
    assert!(matches!(site.purses[0].take(&ann, &one, 1, 1, at(990).mono), Take::Taken(_)));
    site.settle(at(1001));
    assert_eq!(site.take(0, &ann, &one, 1, at(1002)), over(61_000));
}

#[test]
fn keys_and_limits_have_their_ranges() {
    assert_eq!(key("ann").name(), "messages ann");
    assert_ne!(key("ann"), Key::new("recipients", "ann").unwrap());
    assert!(Key::new("messages", &"x".repeat(limits::QUOTA_KEY_BYTES - 9)).is_some());
    assert!(Key::new("messages", &"x".repeat(limits::QUOTA_KEY_BYTES - 8)).is_none());
    let limit = |window| Limit { amount: 1, window };
    assert!(Limits::new(&[]).is_none());
    assert!(Limits::new(&[limit(MINUTE); limits::QUOTA_LIMITS + 1]).is_none());
    for bad in [Duration::ZERO, Duration::from_millis(999), limits::QUOTA_WINDOW_MAX + MINUTE] {
        assert!(Limits::new(&[limit(bad)]).is_none());
    }
    let none = Limits::new(&[Limit { amount: 0, window: MINUTE }]).unwrap();
    assert_eq!(
        Site::new(1, Default::default(), at(0)).take(0, &key("x"), &none, 1, at(0)),
        Answer::Over { retry_at: None }
    );
}
