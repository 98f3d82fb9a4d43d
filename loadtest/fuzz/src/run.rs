//! Starts libFuzzer on one target after the other and reads its words.

use crate::build::{build, folder};
use crate::seeds;
use fuzz::{TARGETS, Target};
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Fallible<T> = Result<T, Box<dyn Error>>;

/// Memory of one run: machines and corpora take a fraction of it.
const RSS_MIB: usize = 1024;
/// One input may take so long, at its slowest on a busy machine, before it counts as endless.
const INPUT_SECONDS: usize = 25;

/// What a run of one target came to.
struct Report {
    executions: u64,
    coverage: u64,
    features: u64,
    corpus: u64,
    finding: Option<Finding>,
}

struct Finding {
    input: PathBuf,
    words: String,
}

fn named(names: &[String]) -> Fallible<Vec<&'static Target>> {
    if names.is_empty() {
        return Ok(TARGETS.iter().collect());
    }
    let find = |name: &String| fuzz::target(name).ok_or_else(|| format!("no target is called {name}").into());
    names.iter().map(find).collect()
}

/// The corpus that runs of `target` have built up on this machine.
fn discovered(target: &Target) -> PathBuf {
    folder().join("corpus").join(target.name)
}

fn libfuzzer(binary: &Path, target: &Target) -> Command {
    let mut command = Command::new(binary);
    command.env("FUZZ_TARGET", target.name).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.arg(format!("-max_len={}", target.max_bytes)).arg(format!("-rss_limit_mb={RSS_MIB}"));
    command.arg(format!("-timeout={INPUT_SECONDS}"));
    command
}

/// A number behind a word in libFuzzer's words, the last one.
fn number(words: &str, key: &str) -> u64 {
    let last = words.rfind(key).map(|at| words[at + key.len()..].trim_start());
    let digits = last.map(|l| l.chars().take_while(char::is_ascii_digit).collect::<String>());
    digits.and_then(|d| d.parse().ok()).unwrap_or(0)
}

fn dictionary(target: &Target) -> Fallible<Option<PathBuf>> {
    if target.words.is_empty() {
        return Ok(None);
    }
    let line = |word: &&[u8]| -> String {
        let quoted: String = word
            .iter()
            .map(|b| match b {
                b' ' | b'!' | b'#'..=b'[' | b']'..=b'~' => char::from(*b).to_string(),
                b => format!("\\x{b:02x}"),
            })
            .collect();
        format!("\"{quoted}\"\n")
    };
    let path = folder().join(format!("{}.dict", target.name));
    fs::write(&path, target.words.iter().map(line).collect::<String>())?;
    Ok(Some(path))
}

fn fuzz_one(binary: &Path, target: &Target, seconds: u64) -> Fallible<Report> {
    let (discovered, findings) = (discovered(target), folder().join("findings").join(target.name));
    fs::create_dir_all(&discovered)?;
    fs::create_dir_all(&findings)?;
    let mut command = libfuzzer(binary, target);
    if let Some(dictionary) = dictionary(target)? {
        command.arg(format!("-dict={}", dictionary.display()));
    }
    command.arg(format!("-max_total_time={seconds}")).arg("-print_final_stats=1").arg("-reload=0");
    command.arg(format!("-artifact_prefix={}/", findings.display()));
    let output = command.arg(&discovered).arg(fuzz::corpus(target)).output()?;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    let finding = if output.status.success() {
        None
    } else {
        let line = words.lines().rev().find_map(|l| l.split_once("Test unit written to "));
        let input = line.map(|(_, path)| PathBuf::from(path.trim())).unwrap_or_default();
        Some(Finding { input, words: words.clone() })
    };
    Ok(Report {
        executions: number(&words, "stat::number_of_executed_units:"),
        coverage: number(&words, " cov: "),
        features: number(&words, " ft: "),
        corpus: number(&words, " corp: "),
        finding,
    })
}

/// What broke, without libFuzzer's own lines.
fn print_finding(target: &Target, finding: &Finding) -> Fallible<()> {
    println!("\nFINDING in {}:", target.name);
    const NOISE: &[&str] = &["#", "INFO:", "WARNING:", "stat::", "\tNEW_FUNC", "Dictionary:"];
    let own = |l: &&str| !l.is_empty() && !NOISE.iter().any(|noise| l.starts_with(noise));
    for line in finding.words.lines().filter(own).take(30) {
        println!("  {}", line.chars().take(2000).collect::<String>());
    }
    if finding.input.as_os_str().is_empty() {
        return Ok(());
    }
    let bytes = fs::read(&finding.input)?;
    println!("  input, {} bytes: \"{}\"", bytes.len(), bytes.escape_ascii());
    println!("  kept in {}", finding.input.display());
    println!("  again: cargo run -p fuzz -- reproduce {} {}\n", target.name, finding.input.display());
    Ok(())
}

/// Fuzzes. Whether nothing was found.
pub fn run(seconds: u64, total: Option<u64>, names: &[String]) -> Fallible<bool> {
    let targets = named(names)?;
    let began = Instant::now();
    fs::create_dir_all(folder())?;
    let binary = build()?;
    println!("built in {} s; {} targets, {seconds} s each", began.elapsed().as_secs(), targets.len());
    println!(
        "{:<14} {:>12} {:>9} {:>9} {:>9} {:>8}",
        "target", "executions", "per s", "coverage", "features", "corpus"
    );
    let began = Instant::now();
    let mut executions = vec![0; targets.len()];
    let mut findings = 0;
    let over = |began: Instant| total.is_none_or(|total| began.elapsed() >= Duration::from_secs(total));
    loop {
        for (target, executions) in targets.iter().zip(&mut executions) {
            let report = fuzz_one(&binary, target, seconds)?;
            *executions += report.executions;
            let rate = report.executions / seconds.max(1);
            let Report { coverage, features, corpus, .. } = report;
            println!("{:<14} {executions:>12} {rate:>9} {coverage:>9} {features:>9} {corpus:>8}", target.name);
            if let Some(finding) = report.finding {
                findings += 1;
                print_finding(target, &finding)?;
            }
            if total.is_some() && over(began) {
                break;
            }
        }
        if over(began) {
            break;
        }
    }
    let all: u64 = executions.iter().sum();
    println!("{all} executions in {} s, {findings} findings", began.elapsed().as_secs());
    Ok(findings == 0)
}

/// Runs one input; panics as the target does.
pub fn reproduce(name: &str, input: &Path) -> Fallible<bool> {
    let [target] = named(&[name.to_owned()])?[..] else { return Err("one target".into()) };
    let bytes = fs::read(input)?;
    println!("{}: {} bytes: \"{}\"", target.name, bytes.len(), bytes.escape_ascii());
    (target.run)(&bytes);
    println!("nothing found");
    Ok(true)
}

/// Replaces the discovered part of the committed corpora: seeds made by hand and regressions stay, then those
/// discovered inputs that add most, smallest first.
pub fn minimise(keep: usize) -> Fallible<bool> {
    fs::create_dir_all(folder())?;
    let binary = build()?;
    seeds::write()?;
    for target in TARGETS {
        let committed = fuzz::corpus(target);
        for entry in fs::read_dir(&committed)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("reaches-")) {
                fs::remove_file(path)?;
            }
        }
        let merged = tempfile::tempdir_in(folder())?;
        // What the first folder has counts as there.
        for entry in fs::read_dir(&committed)? {
            let entry = entry?;
            fs::copy(entry.path(), merged.path().join(entry.file_name()))?;
        }
        fs::create_dir_all(discovered(target))?;
        // By coverage alone, not by how often: that is a corpus to begin with, not to keep.
        let mut command = libfuzzer(&binary, target);
        command.args(["-merge=1", "-use_counters=0", "-use_value_profile=0"]);
        let status = command.arg(merged.path()).arg(discovered(target)).stderr(Stdio::null()).status()?;
        let mut found = Vec::new();
        for entry in fs::read_dir(merged.path())? {
            let entry = entry?;
            if !committed.join(entry.file_name()).exists() {
                found.push((entry.metadata()?.len(), entry.path()));
            }
        }
        found.sort();
        let added = found.len();
        for (number, (_, path)) in found.into_iter().take(keep).enumerate() {
            fs::copy(path, committed.join(format!("reaches-{number:03}")))?;
        }
        println!(
            "{:<14} {added} add coverage, {} kept{}",
            target.name,
            added.min(keep),
            if status.success() { "" } else { " (merge failed)" }
        );
    }
    Ok(true)
}
