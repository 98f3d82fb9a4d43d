//! `loadtest simulate`: the whole relay in the seeded simulator, for a range of seeds, on all cores.
//!
//! Inputs: seeds. Outputs: progress, a summary of what was covered, and for a failing seed what was violated, the shortest
//! failing variant if asked for, and the command that repeats it. Refuses to hide a failure: one failing seed is a failing
//! command, and a panic names its seed.

use crate::report::thousands;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use ringpost::sim::run::{Outcome, run};
use ringpost::sim::saturated::{Setting, Verdict, run as run_saturated};
use ringpost::sim::scenario::Scenario;
use ringpost::sim::shrink::shrink;
use std::cell::Cell;
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

/// Failing seeds after which there is no use in going on.
const FAILURES: usize = 20;

/// What to simulate.
#[derive(Args)]
pub struct SimulateArgs {
    /// Seeds to run, A..B without B, or one seed
    #[arg(long, value_parser = seeds, default_value = "0..200")]
    seeds: Range<u64>,
    /// And so many seeds that nobody has seen before; each is printed if it fails
    #[arg(long, default_value_t = 0)]
    random: u64,
    /// Find the shortest failing variant of the first seed that fails
    #[arg(long)]
    shrink: bool,
    /// Print what happens in the (first) seed: every event of every shard and host
    #[arg(long)]
    trace: bool,
    /// Print the deeds of the (first) seed
    #[arg(long)]
    show: bool,
    /// Do only these deeds of the seed (numbers as printed by --show and --shrink)
    #[arg(long, value_delimiter = ',')]
    only: Vec<usize>,
    /// Begin with so many shards, whatever the seed says
    #[arg(long)]
    shards: Option<u16>,
    /// Run each seed twice and compare the hashes of the traces
    #[arg(long)]
    twice: bool,
    /// Print the hash of each seed's trace
    #[arg(long)]
    hashes: bool,
    /// Instead, calm worlds with more mail than a receiver takes, of these seeds: how far a limit is used that binds, how
    /// tenants share it, how long one message of another waits
    #[arg(long, value_parser = seeds)]
    saturated: Option<Range<u64>>,
    /// Print how often what happened: replies of the relay, faults, moods of its peers
    #[arg(long)]
    tally: bool,
    /// Worlds at a time [default: one for each core]
    #[arg(long)]
    threads: Option<usize>,
}

fn seeds(text: &str) -> Result<Range<u64>, String> {
    let number =
        |text: &str| text.trim().parse::<u64>().map_err(|_| format!("`{text}` is no seed (A..B, or one number)"));
    match text.split_once("..") {
        Some((from, to)) => {
            let range = number(from)?..number(to)?;
            if range.is_empty() { Err("no seed is in that range".to_owned()) } else { Ok(range) }
        }
        None => number(text).map(|seed| seed..seed + 1),
    }
}

thread_local! {
    /// For the panic hook: a panic of the relay ends the process.
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Sums over all runs.
#[derive(Default)]
struct Sums {
    total: Outcome,
    worlds: u64,
    failed: Vec<(u64, Outcome)>,
}

impl SimulateArgs {
    fn scenario(&self, seed: u64) -> Scenario {
        let mut scenario = Scenario::generate(seed);
        if let Some(shards) = self.shards {
            scenario.shards = shards;
        }
        if self.only.is_empty() { scenario } else { scenario.only(&self.only) }
    }
}

/// Runs the command; whether all was well.
pub fn simulate(args: &SimulateArgs) -> bool {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if let Some(seed) = SEED.get() {
            eprintln!("\nseed {seed} panics; to repeat: loadtest simulate --seeds {seed}");
        }
        usual(info);
    }));
    if let Some(seeds) = &args.saturated {
        let first = Setting::generate(seeds.start);
        return match args.trace {
            true => run_saturated(&first, Some(Box::new(|line| println!("{line}")))).violations.is_empty(),
            false => saturated(seeds.clone()),
        };
    }
    let first = args.seeds.start;
    if args.show {
        print!("{}", args.scenario(first));
    }
    if args.trace {
        SEED.set(Some(first));
        let outcome = run(&args.scenario(first), Some(Box::new(|line| println!("{line}"))));
        print_violations(first, &outcome);
        println!("hash {:016x}, {} events", outcome.hash, thousands(outcome.events));
        return outcome.violations.is_empty();
    }
    let mut all: Vec<u64> = args.seeds.clone().collect();
    if args.random > 0 {
        let from = ringpost::rt::random_u64() >> 16;
        println!("new seeds: {from}..{}", from + args.random);
        all.extend(from..from + args.random);
    }
    let began = Instant::now();
    let sums = run_all(args, &all);
    summary(args, &all, &sums, began.elapsed().as_secs_f64());
    for (seed, outcome) in &sums.failed {
        print_violations(*seed, outcome);
    }
    if let (true, Some((seed, outcome))) = (args.shrink, sums.failed.first()) {
        print_shortest(args, *seed, outcome);
    }
    sums.failed.is_empty()
}

/// Runs calm worlds, and prints how the worst of them was.
fn saturated(seeds: Range<u64>) -> bool {
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let verdicts = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let setting = Setting::generate(seed);
                    let verdict = run_saturated(&setting, None);
                    if !verdict.violations.is_empty() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        let said: Vec<String> = verdict.violations.iter().map(ToString::to_string).collect();
                        println!("{setting}: {}", said.join("; "));
                    }
                    verdicts.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(verdict);
                }
            });
        }
    });
    let verdicts = verdicts.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let least = |of: fn(&Verdict) -> f64| verdicts.iter().map(of).fold(f64::INFINITY, f64::min);
    let mean = |of: fn(&Verdict) -> f64| verdicts.iter().map(of).sum::<f64>() / verdicts.len().max(1) as f64;
    let services: Vec<u64> = verdicts.iter().flat_map(|verdict| verdict.services.clone()).collect();
    println!(
        "{} saturated worlds: a limit that binds was used to {:.1} % (mean {:.1} %) at least, tenants' index {:.4} (mean \
         {:.4}) at least; {} lone letters waited for {} services of others at most, {:.2} on average",
        verdicts.len(),
        least(|v| v.utilisation) * 100.0,
        mean(|v| v.utilisation) * 100.0,
        least(|v| v.fairness),
        mean(|v| v.fairness),
        services.len(),
        services.iter().max().unwrap_or(&0),
        services.iter().sum::<u64>() as f64 / services.len().max(1) as f64
    );
    let failed = failed.into_inner();
    if failed > 0 {
        println!("{failed} seeds FAILED");
    }
    failed == 0
}

fn run_all(args: &SimulateArgs, all: &[u64]) -> Sums {
    let bar = ProgressBar::new(all.len() as u64);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} worlds, {eta} left {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    let (next, stop, sums) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(Sums::default()));
    let threads = args.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, all.len().max(1)) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let index = usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX);
                    let Some(&seed) = all.get(index) else { break };
                    SEED.set(Some(seed));
                    let scenario = args.scenario(seed);
                    let mut outcome = run(&scenario, None);
                    if args.twice {
                        let again = run(&scenario, None);
                        if again.hash != outcome.hash {
                            let text = format!("{:016x} and {:016x}", outcome.hash, again.hash);
                            outcome.violations.push(ringpost::sim::oracle::Violation { rule: "repetition", text });
                        }
                    }
                    if args.hashes {
                        bar.suspend(|| println!("{seed} {:016x}", outcome.hash));
                    }
                    bar.inc(1);
                    let mut sums = sums.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sums.add(seed, outcome);
                    if !sums.failed.is_empty() {
                        bar.set_message(format!("({} failed)", sums.failed.len()));
                    }
                    if sums.failed.len() >= FAILURES {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let mut sums = sums.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    sums.failed.sort_by_key(|(seed, _)| *seed);
    sums
}

impl Sums {
    fn add(&mut self, seed: u64, outcome: Outcome) {
        let total = &mut self.total;
        self.worlds += 1;
        total.time += outcome.time;
        total.crashes += outcome.crashes;
        total.drains += outcome.drains;
        total.disk_faults += outcome.disk_faults;
        total.accepted += outcome.accepted;
        total.delivered += outcome.delivered;
        total.bounced += outcome.bounced;
        total.duplicates += outcome.duplicates;
        total.excused += outcome.excused;
        total.events += outcome.events;
        total.hash ^= outcome.hash;
        total.marks.merge(&outcome.marks);
        if !outcome.violations.is_empty() {
            self.failed.push((seed, outcome));
        }
    }
}

fn summary(args: &SimulateArgs, all: &[u64], sums: &Sums, seconds: f64) {
    let t = &sums.total;
    println!(
        "{} worlds in {seconds:.1} s: {:.1} virtual hours, {} events, {} crashes, {} drains, {} disk faults",
        thousands(sums.worlds),
        t.time.as_secs_f64() / 3600.0,
        thousands(t.events),
        thousands(t.crashes),
        thousands(t.drains),
        thousands(t.disk_faults)
    );
    println!(
        "{} messages acknowledged, {} delivered to a recipient, {} recipients returned; {} deliveries repeated, each \
         with its reason; {} recipients excused by a scar of the disk",
        thousands(t.accepted),
        thousands(t.delivered),
        thousands(t.bounced),
        thousands(t.duplicates),
        thousands(t.excused)
    );
    if args.tally {
        for (what, times) in t.marks.iter() {
            println!("{:>14}  {what}", thousands(times));
        }
    }
    let twice = if args.twice { ", each run twice" } else { "" };
    println!("hash of all traces {:016x}{twice}", t.hash);
    if sums.failed.is_empty() {
        println!("no invariant was violated");
    } else {
        let left = all.len() as u64 - sums.worlds;
        let cut = if left > 0 { format!("; {} seeds were not run", thousands(left)) } else { String::new() };
        println!("{} seeds FAILED{cut}", sums.failed.len());
    }
}

fn print_violations(seed: u64, outcome: &Outcome) {
    for violation in &outcome.violations {
        println!("seed {seed}: {violation}");
    }
}

fn print_shortest(args: &SimulateArgs, seed: u64, outcome: &Outcome) {
    let Some(first) = outcome.violations.first() else { return };
    println!("shortening seed {seed} ({})", first.rule);
    let scenario = args.scenario(seed);
    let shrunk = shrink(&scenario, 600, |shorter| {
        run(shorter, None).violations.first().is_some_and(|violation| violation.rule == first.rule)
    });
    print!("{}", shrunk.scenario);
    print_violations(seed, &run(&shrunk.scenario, None));
    let kept: Vec<String> = shrunk.kept.iter().map(usize::to_string).collect();
    println!(
        "{} of {} deeds are left after {} runs; without the plainer settings:\n  loadtest simulate --seeds {seed} --only {} --trace",
        shrunk.scenario.deeds.len(),
        scenario.deeds.len(),
        shrunk.runs,
        kept.join(",")
    );
}
