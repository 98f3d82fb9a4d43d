//! Every committed input again, and random variations of them: what `cargo test` tries in seconds, without
//! instrumentation. FUZZ_TEST_FACTOR multiplies the variations, FUZZ_TEST_SEED chooses others.
#![allow(clippy::unwrap_used)]

use fuzz::mutate::{Random, mutate};
use fuzz::{TARGETS, Target};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;

/// The corpus of a target, in the order of its names.
fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let mut paths: Vec<_> = std::fs::read_dir(fuzz::corpus(target)).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|p| (p.clone(), std::fs::read(p).unwrap())).collect()
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(target: &Target, what: &str, data: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| (target.run)(data))) {
        println!("{}: {what}: {} bytes: \"{}\"", target.name, data.len(), data.escape_ascii());
        resume_unwind(panic);
    }
}

fn replay(target: &Target) {
    let corpus = corpus(target);
    assert!(!corpus.is_empty());
    for (path, data) in &corpus {
        assert!(data.len() <= target.max_bytes, "{} is longer than the fuzzer tries", path.display());
        run(target, &path.display().to_string(), data);
    }
    let seed = number("FUZZ_TEST_SEED").unwrap_or(1);
    let mut random = Random(seed);
    let runs = target.test_runs * usize::try_from(number("FUZZ_TEST_FACTOR").unwrap_or(1)).unwrap();
    for n in 0..runs {
        let mut data = corpus[random.below(corpus.len())].1.clone();
        let other = &corpus[random.below(corpus.len())].1;
        mutate(&mut data, other, target.words, target.max_bytes, &mut random);
        run(target, &format!("variation {n} of seed {seed}"), &data);
    }
}

macro_rules! targets {
    ($($name:ident),*) => {
        $(#[test]
        fn $name() {
            replay(fuzz::target(stringify!($name)).unwrap());
        })*

        #[test]
        fn every_target_is_here() {
            let names: Vec<_> = TARGETS.iter().map(|t| t.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

targets!(server, client, address, data, spool, dns, config, notification, written);

/// The corpora are part of the repository and of every check-out.
#[test]
fn the_corpora_are_small() {
    let all: Vec<_> = TARGETS.iter().flat_map(corpus).collect();
    let bytes: usize = all.iter().map(|(_, data)| data.len()).sum();
    assert!(all.len() <= 500 && bytes < 1 << 20, "{} files, {bytes} bytes", all.len());
}
