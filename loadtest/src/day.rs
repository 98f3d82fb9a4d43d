//! `loadtest day`: a provider's day in the simulated world, and its report.
//!
//! Inputs: how many messages, hours, domains, gateways. Outputs: progress on standard error, a page of text, and one of HTML if
//! asked for. Refuses to hide a failure: what must not have happened stands first, and the command fails.

mod figures;
mod html;
mod svg;
mod text;

use crate::cpu::ThreadClock;
use crate::report::thousands;
use clap::Args;
use figures::Figures;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use ringpost::sim::day::town::Plan;
use ringpost::sim::day::{Day, run};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What to simulate.
#[derive(Args)]
#[command(after_help = "\
The relay is the production code; clients, receivers, DNS, network, disk and time are simulated. A gateway is one relay \
in a world of its own, on a thread of its own, with its part of the messages: with two of them two cores are at work.

What happens in the day, by the virtual clock:
   1:30  the bank's statements, until 4:00
   6:30  DNS answers SERVFAIL for half an hour
   9:00  the campaign of `news`: a third of all mail in two hours and a half
  10:00  provider 2 is unreachable for an hour
  12:00  provider 5 takes four seconds for each reply, until 13:30
  14:00  provider 4 says 421 for an hour
  16:18  the relay is killed, and starts again a minute later
  19:00  provider 7 is unreachable for half an hour
Some receivers greylist, some count messages or connections, some mailboxes are full or do not exist.

  loadtest day --messages 200k                   half a minute
  loadtest day --messages 10M --html day.html    the whole, as a page for a browser")]
pub struct DayArgs {
    /// Messages, of all gateways together; 100k, 10M
    #[arg(long, value_parser = count, default_value = "1M")]
    messages: u64,
    /// Virtual hours; with fewer than 24 the same day goes by faster
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..=240))]
    hours: u32,
    /// Recipients' domains
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    domains: u32,
    /// Zipf's exponent over them
    #[arg(long, default_value_t = 1.0)]
    zipf: f64,
    /// Shards of each gateway
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: u16,
    /// Relays, each in a world and on a thread of its own
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=64))]
    gateways: u16,
    /// Of every choice: the same seed is the same day
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Also write the report as one HTML file, with pictures
    #[arg(long)]
    html: Option<PathBuf>,
}

fn count(text: &str) -> Result<u64, String> {
    let (digits, times) = match text.strip_suffix(['k', 'M']) {
        Some(digits) => (digits, if text.ends_with('k') { 1000 } else { 1_000_000 }),
        None => (text, 1),
    };
    let wrong = || format!("`{text}` is no number of messages (like 100000, 100k, 10M)");
    digits.parse::<u64>().map_err(|_| wrong())?.checked_mul(times).filter(|n| *n > 0).ok_or_else(wrong)
}

/// Runs the command; whether all was well.
///
/// # Errors
/// The page cannot be written, in words.
pub fn day(args: &DayArgs) -> Result<bool, String> {
    let began = Instant::now();
    let bars = MultiProgress::new();
    let style = ProgressStyle::with_template("{prefix} {bar:30} {msg}").map_err(|e| e.to_string())?;
    let plan = Plan {
        seed: args.seed,
        messages: args.messages,
        hours: args.hours,
        domains: args.domains,
        zipf: args.zipf,
        shards: args.shards,
        gateways: args.gateways,
        gateway: 0,
    };
    let days: Vec<(Day, f64)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.gateways)
            .map(|gateway| {
                let bar = bars.add(ProgressBar::new(plan.length().as_secs()));
                bar.set_style(style.clone());
                bar.set_prefix(format!("gateway {}", gateway + 1));
                scope.spawn(move || {
                    let clock = ThreadClock::current();
                    let day = run(Plan { gateway, ..plan }, &mut |time, pages| {
                        bar.set_position(time.as_secs());
                        let (accepted, queued) = (thousands(pages.accepted), thousands(pages.queued()));
                        bar.set_message(format!("{}: {accepted} accepted, {queued} in the queue", hour(time)));
                    });
                    bar.finish_and_clear();
                    (day, clock.read().as_secs_f64())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a panic ends the process")).collect()
    });
    let cpu = days.iter().map(|(_, cpu)| cpu).sum();
    let days: Vec<Day> = days.into_iter().map(|(day, _)| day).collect();
    let figures = Figures::new(&days, began.elapsed().as_secs_f64(), cpu);
    print!("{}", text::page(&figures));
    if let Some(path) = &args.html {
        std::fs::write(path, html::page(&figures)).map_err(|e| format!("{}: {e}", path.display()))?;
        println!("\nWritten: {}", path.display());
    }
    Ok(figures.violated == 0)
}

/// A time of day.
fn hour(time: Duration) -> String {
    let minutes = time.as_secs() / 60;
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}
