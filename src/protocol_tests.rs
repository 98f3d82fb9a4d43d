//! docs/protocol.md against the code: each row has a test, each test exists, each extension announced has its rows.
#![allow(clippy::unwrap_used)]

use crate::smtp::policy::{Announced, Demand, Extensions, ServerPolicy, TlsFacts};
use crate::smtp::sasl::Mechanism;
use std::fs;
use std::path::Path;

const TABLE: &str = include_str!("../docs/protocol.md");

/// Every Rust file under the folder, with its text.
fn sources(folder: &Path, into: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, into);
        } else if entry.extension().is_some_and(|extension| extension == "rs") {
            let stem = entry.file_stem().unwrap().to_string_lossy().into_owned();
            // A folder's mod.rs is called as the folder.
            let name = if stem == "mod" {
                entry.parent().unwrap().file_name().unwrap().to_string_lossy().into_owned()
            } else {
                stem
            };
            into.push((name, fs::read_to_string(&entry).unwrap()));
        }
    }
}

fn rows() -> Vec<[&'static str; 3]> {
    let cells = |line: &'static str| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        <[&str; 3]>::try_from(cells).unwrap_or_else(|cells| panic!("three cells: {cells:?}"))
    };
    let is_row = |line: &&str| line.starts_with('|') && !line.starts_with("|---") && !line.starts_with("| section |");
    TABLE.lines().filter(is_row).map(cells).collect()
}

/// The tests that a cell names, as file and function.
fn tests(cell: &str) -> Vec<(&str, &str)> {
    cell.split('`').skip(1).step_by(2).map(|name| name.split_once("::").unwrap_or((name, ""))).collect()
}

#[test]
fn every_row_has_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("loadtest/tests"), &mut files);
    let exists = |file: &str, test: &str| {
        let attribute = |text: &str| {
            let at = text.find(&format!("fn {test}("))?;
            let before = text[..at].trim_end();
            Some(
                before.ends_with("#[test]")
                    || before.ends_with(']') && before.contains("#[test]")
                    || before.contains("proptest!"),
            )
        };
        files.iter().any(|(name, text)| name == file && attribute(text) == Some(true))
    };
    let rows = rows();
    assert!(rows.len() > 50, "the table was not read: {}", rows.len());
    let mut wrong = Vec::new();
    for [section, behaviour, cell] in rows {
        let named = tests(cell);
        if named.is_empty() {
            wrong.push(format!("{section}: {behaviour}: no test"));
        }
        for (file, test) in named {
            if !exists(file, test) {
                wrong.push(format!("{section}: there is no test {file}::{test}"));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_extension_that_is_announced_has_its_rows() {
    let mut policy = ServerPolicy::new("mx.example", 1000, 100);
    policy.extensions = Extensions::SUBMISSION;
    (policy.tls, policy.auth, policy.auth_without_tls) = (Demand::Offered, Demand::Offered, true);
    policy.mechanisms = Mechanism::ALL.to_vec();
    let facts = TlsFacts { fingerprint: Some([0; 32]), ..TlsFacts::default() };
    let mut text = String::new();
    for tls in [None, Some(&facts)] {
        let session = Announced { tls, authenticated: false, xclient: true, xforward: true, wall_seconds: 0 };
        let mut out = Vec::new();
        policy.ehlo(session, &mut out);
        text += &String::from_utf8(out).unwrap();
    }
    let behaviours: String = rows().iter().map(|[_, behaviour, _]| *behaviour).collect();
    let mut seen = 0;
    for line in text.lines().filter(|line| !line.ends_with("mx.example")) {
        let mut words = line[4..].split(' ');
        let keyword = words.next().unwrap();
        assert!(behaviours.contains(keyword), "{keyword} has no row");
        if keyword == "AUTH" {
            words.for_each(|mechanism| assert!(behaviours.contains(mechanism), "{mechanism} has no row"));
        }
        seen += 1;
    }
    assert!(seen > 20, "{text}");
}
