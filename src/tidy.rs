//! The layer rules and the habits of this tree, as tests over its source text.
//!
//! Inputs: the files of the repository. Output: a list of `path:line: what is wrong`, which must be empty. Comments and
//! string literals are no code and are skipped; `use a::{b, c}` counts as `a::b` and `a::c`. What the text cannot show (an
//! effect behind a re-export, a macro that makes a path) it does not find: this is a guard for people who mean well. Every
//! rule has a test that shows it failing.
//!
//! The rules, each a function below: [`layers`], [`purity`], [`owners`], [`unsafety`], [`contract`], [`length`], [`limits`].

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

/// A file may grow to this before somebody asks which second thing lives in it.
const LONGEST_FILE_LINES: usize = 700;

/// The world around the relay: it has errors of the kernel and answers of DNS, and takes a seed from the environment.
const WORLD: &[&str] = &["src/sim/"];

/// What a simulation runs besides the relay. The same seed must give the same run, so it is as pure as the relay's own
/// code; it only need not say so, and may name error numbers.
const SIMULATION: &[&str] = &["src/rt/sim/", "src/sim/"];

/// What may stand at the top of the repository, beside dot-files and what .gitignore names.
const TOP: &[&str] = &[
    "Cargo.toml",
    "Cargo.lock",
    "README.md",
    "CHANGELOG.md",
    "LICENSE-MIT",
    "LICENSE-APACHE",
    "src",
    "benches",
    "loadtest",
    "config",
    "docs",
];

/// No socket, file, thread, clock, runtime: a simulator runs exactly this code. The last two also make a shard: rt's
/// traits are all they know of the world.
const PURE: &[&str] = &[
    "src/limits.rs",
    "src/limits/",
    "src/time.rs",
    "src/smtp/",
    "src/message/",
    "src/local/",
    "src/route/",
    "src/queue/",
    "src/shaping/",
    "src/lease/",
    "src/dns/",
    "src/starttls/",
    "src/accounts/mod.rs",
    "src/accounts/check.rs",
    "src/accounts/edit.rs",
    "src/accounts/parse.rs",
    "src/accounts/secret.rs",
    "src/spool/format.rs",
    "src/spool/log/",
    "src/spool/merge.rs",
    "src/spool/scan.rs",
    "src/shard/",
    "src/deliver/",
];

/// Of the crate's own modules, those that each module may name. `rt` means `rt`'s traits and buffers: only `server` (which
/// starts it) names `rt::uring`, only `server` and `cli` name `rt::disk` beside the offline parts of `spool`.
const LAYERS: &[(&str, &[&str])] = &[
    ("limits", &[]),
    ("time", &[]),
    ("rt", &["limits", "time"]),
    ("message", &["limits", "time"]),
    ("smtp", &["limits", "time", "message", "rt"]),
    ("local", &["limits", "message", "smtp"]),
    ("route", &["limits", "time", "message", "smtp", "local", "starttls", "config"]),
    ("shaping", &["limits", "time", "message", "config"]),
    ("queue", &["limits", "time", "message", "shaping"]),
    ("lease", &["limits", "time", "route", "shaping"]),
    ("dns", &["limits", "time"]),
    ("starttls", &["limits", "time", "dns", "rt"]),
    ("config", &["limits", "time", "dns", "local", "starttls"]),
    ("accounts", &["limits", "smtp", "config"]),
    ("spool", &["limits", "time", "message", "rt"]),
    (
        "deliver",
        &[
            "limits", "time", "message", "smtp", "local", "route", "queue", "dns", "config", "shaping", "lease",
            "starttls", "spool", "rt", "shard",
        ],
    ),
    (
        "shard",
        &[
            "limits", "time", "message", "smtp", "accounts", "local", "route", "queue", "dns", "config", "shaping",
            "lease", "starttls", "spool", "rt", "deliver",
        ],
    ),
    ("control", &["limits", "time", "message", "starttls", "config", "shard"]),
];

/// A file, by its path from the root of the repository.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The top module the file belongs to, of the relay's library.
    fn module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        Some(inside.split('/').next()?.trim_end_matches(".rs"))
    }

    /// How many `super` lead from the file's own module to the root of its crate.
    fn depth(&self) -> usize {
        self.path.split('/').filter(|part| !["src", "mod.rs", "lib.rs"].contains(part)).count()
    }

    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| self.path == *place || (place.ends_with('/') && self.path.starts_with(place)))
    }

    /// Unit tests that fill a file: the module they test is their contract.
    fn is_unit_tests(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.ends_with("_tests.rs") || self.path.contains("/tests/")
    }

    fn at(&self, line: usize, what: &str) -> String {
        format!("{}:{line}: {what}", self.path)
    }
}

// --- the rules ------------------------------------------------------------------------------------------------------

/// A module names only those below it, so that nothing on the right of a message's way is known on its left.
fn layers(source: &Source) -> Vec<String> {
    let Some(&(module, allowed)) = LAYERS.iter().find(|(module, _)| Some(*module) == source.module()) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for (line, path) in paths(&source.text) {
        let ups = path.iter().take_while(|s| *s == "super").count();
        let start = if path[0] == "crate" { 1 } else { ups };
        let from_root = path[0] == "crate" || (ups > 0 && ups >= source.depth());
        let Some(other) = path.get(start).map(String::as_str).filter(|_| from_root) else { continue };
        let known = LAYERS.iter().any(|(name, _)| *name == other) || ["server", "cli"].contains(&other);
        if known && other != module && !allowed.contains(&other) {
            found.push(source.at(line, &format!("`{module}` does not know `{other}`")));
        }
        if other == "rt" && module != "rt" && path.get(start + 1).is_some_and(|s| s == "uring") {
            found.push(source.at(line, "only `server` names a backend of rt"));
        }
    }
    // The two halves of a shard know each other by mail only.
    if ["src/shard/home.rs", "src/shard/session.rs"].contains(&source.path.as_str()) {
        for (line, path) in paths(&source.text) {
            if path.iter().any(|s| s == "deliver") {
                found.push(source.at(line, "the accepting half does not know the delivering half"));
            }
        }
    }
    found
}

/// What calls itself PURE, and what must be, touches nothing but its arguments.
fn purity(source: &Source) -> Vec<String> {
    let simulation = source.is_in(SIMULATION);
    if source.is_in(WORLD) && !simulation {
        return Vec::new();
    }
    let claims = source.text.starts_with("//! PURE.");
    let must = source.is_in(PURE) || simulation;
    if !claims && !must {
        return Vec::new();
    }
    const CRATES: &[&str] = &["glommio", "tokio", "io_uring", "socket2", "rustix", "axum", "mimalloc"];
    const MODULES: &[&str] = &["fs", "thread", "env", "os", "sync::mpsc", "process"];
    const NAMES: &[&str] = &[
        "Instant",
        "SystemTime",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "UnixStream",
        "UnixListener",
        "UnixDatagram",
        "ToSocketAddrs",
        "RandomState",
        "OsRng",
        "ThreadRng",
        "thread_rng",
    ];
    let mut found = Vec::new();
    for (line, path) in paths(&source.text) {
        let joined = path.join("::");
        let first = path[0].as_str();
        let within = |module: &&str| format!("{joined}::").starts_with(&format!("std::{module}::"));
        // A test may ask another program what it thinks of the bytes.
        let oracle = source.is_unit_tests() && within(&"process");
        // A world takes its seed from the environment, and nothing else.
        let seed = source.is_in(WORLD) && within(&"env");
        let is_std = !oracle && !seed && MODULES.iter().any(within);
        let handy = ["std::*", "std::net::*", "std::time::*", "rand::rng", "rand::random"].contains(&joined.as_str());
        // Made with the standard hasher, whose seed is random: the order of iteration would not be a function of the input.
        let unseeded = path.windows(2).any(|w| (w[0] == "HashMap" || w[0] == "HashSet") && w[1] == "new");
        let unseeded = unseeded && must && !source.is_unit_tests();
        if CRATES.contains(&first)
            || (first == "libc" && !is_errno(source, &path))
            || is_std
            || handy
            || unseeded
            || path.iter().any(|segment| NAMES.contains(&segment.as_str()))
        {
            found.push(source.at(line, &format!("`{joined}` in code that must be pure")));
        }
    }
    // shard and deliver are driven, not pure: they act through rt's Io.
    let driven = source.is_in(&["src/shard/", "src/deliver/"]);
    if must && !claims && !driven && !simulation && !source.is_unit_tests() && source.path != "src/spool/sim.rs" {
        found.push(source.at(1, "its contract does not begin with `PURE.`"));
    }
    found
}

/// Some crates have one owner in the relay.
fn owners(source: &Source) -> Vec<String> {
    const OWNERS: &[(&str, &[&str])] = &[
        ("glommio", &["src/rt/"]),
        ("io_uring", &["src/rt/"]),
        ("socket2", &["src/rt/"]),
        ("libc", &["src/rt/"]),
        ("tokio", &["src/control/"]),
        ("axum", &["src/control/"]),
        ("prometheus_client", &["src/control/"]),
        ("clap", &["src/cli.rs", "src/cli/"]),
        ("toml", &["src/config/", "src/accounts/", "src/shaping/"]),
        ("regex", &["src/shaping/"]),
        ("toml_edit", &["src/accounts/", "src/cli/"]),
        ("argon2", &["src/accounts/"]),
        ("rpassword", &["src/cli/"]),
        ("hickory_proto", &["src/dns/"]),
    ];
    if !source.path.starts_with("src/") || source.is_in(WORLD) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (line, path) in paths(&source.text) {
        let Some((name, places)) = OWNERS.iter().find(|(name, _)| *name == path[0] && path.len() > 1) else { continue };
        if !source.is_in(places) && !is_errno(source, &path) {
            found.push(source.at(line, &format!("`{name}` is named outside {}", places.join(" and "))));
        }
    }
    found
}

/// The one exception of libc: the spool tells a full disk from a broken one by the names of error numbers, which are
/// plain integers, and a simulated kernel gives them.
fn is_errno(source: &Source, path: &[String]) -> bool {
    let is_name = |s: &String| s.starts_with('E') && s.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
    let may = source.path.starts_with("src/spool/") || source.is_in(SIMULATION);
    may && path.len() == 2 && path[0] == "libc" && is_name(&path[1])
}

/// `unsafe` stands in rt only, each block and impl below a line that says why it is sound.
fn unsafety(source: &Source) -> Vec<String> {
    let code = mask(&source.text);
    let lines: Vec<&str> = source.text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in code.lines().enumerate() {
        let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty());
        if !words.any(|w| w == "unsafe") {
            continue;
        }
        if !source.path.starts_with("src/rt/") {
            found.push(source.at(at + 1, "`unsafe` outside src/rt"));
        } else if !line.contains("unsafe fn") {
            // Up to the beginning of the statement that holds it.
            let above = lines[..=at].iter().rev().enumerate();
            let mut statement = above.take_while(|(n, l)| *n == 0 || !l.trim_end().ends_with([';', '}', '{']));
            if !statement.any(|(_, l)| l.contains("// SAFETY: ")) {
                found.push(source.at(at + 1, "`unsafe` without its SAFETY line"));
            }
        }
    }
    found
}

/// A file opens with its contract.
fn contract(source: &Source) -> Vec<String> {
    let is_tests = source.path.starts_with("src/") && source.path.ends_with("/tests.rs");
    if is_tests || source.text.starts_with("//! ") {
        return Vec::new();
    }
    vec![source.at(1, "does not open with its contract (`//!`)")]
}

/// A file is short enough to be read.
fn length(source: &Source) -> Vec<String> {
    let lines = source.text.lines().count();
    let finding = || source.at(lines, &format!("over {LONGEST_FILE_LINES} lines: which second thing lives in it?"));
    (lines > LONGEST_FILE_LINES).then(finding).into_iter().collect()
}

/// Every bound says why it is what it is.
fn limits(source: &Source) -> Vec<String> {
    if source.module() != Some("limits") {
        return Vec::new();
    }
    let lines: Vec<&str> = source.text.lines().collect();
    let bare = |at: &usize| lines[*at].starts_with("pub const ") && (*at == 0 || !lines[*at - 1].starts_with("/// "));
    (0..lines.len()).filter(bare).map(|at| source.at(at + 1, "a bound without its reason")).collect()
}

// --- reading source text ----------------------------------------------------------------------------------------------

/// The text with comments, string and character literals blanked; lines stay where they are.
fn mask(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = skip(bytes, at);
        if end == at {
            out.push(bytes[at]);
            at += 1;
        } else {
            out.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
            at = end;
        }
    }
    String::from_utf8(out).unwrap()
}

/// Where the comment or literal that begins at `at` ends; `at` if none does.
fn skip(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let find = |from: usize, needle: &[u8]| {
        rest[from..]
            .windows(needle.len())
            .position(|w| w == needle)
            .map_or(bytes.len(), |n| at + from + n + needle.len())
    };
    if rest.starts_with(b"//") {
        return rest.iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| at + n);
    }
    if rest.starts_with(b"/*") {
        return find(2, b"*/");
    }
    let after_word = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    let raw = rest.strip_prefix(b"b").unwrap_or(rest);
    if let Some(raw) = raw.strip_prefix(b"r").filter(|_| !after_word) {
        let hashes = raw.iter().take_while(|b| **b == b'#').count();
        if raw.get(hashes) == Some(&b'"') {
            let from = rest.len() - raw.len() + hashes + 1;
            return find(from, &[b"\"", "#".repeat(hashes).as_bytes()].concat());
        }
    }
    if rest[0] == b'"' {
        let mut n = 1;
        while n < rest.len() && rest[n] != b'"' {
            n += if rest[n] == b'\\' { 2 } else { 1 };
        }
        return (at + n + 1).min(bytes.len());
    }
    if rest[0] == b'\'' {
        // A character, or a lifetime (which has no quote behind its first character).
        let width = std::str::from_utf8(&rest[1..rest.len().min(5)])
            .map_or_else(|e| std::str::from_utf8(&rest[1..1 + e.valid_up_to()]), Ok)
            .ok()
            .and_then(|s| s.chars().next())
            .map_or(1, char::len_utf8);
        if rest.get(1) == Some(&b'\\') {
            return find(3, b"'");
        }
        if rest.get(1 + width) == Some(&b'\'') {
            return at + width + 2;
        }
    }
    at
}

/// Every path in the code, with its line: `std::fs::read` is three segments, `use std::{fs, io}` two paths.
fn paths(text: &str) -> Vec<(usize, Vec<String>)> {
    let code = mask(text);
    let mut words: Vec<(usize, &str)> = Vec::new();
    for (at, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let end = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            words.push((at + 1, &rest[..end]));
            rest = rest[end..].trim_start();
        }
    }
    let mut found = Vec::new();
    let mut at = 0;
    while at < words.len() {
        at = path(&words, at, &[], &mut found).max(at + 1);
    }
    found
}

/// Reads one path (or the tree of a `use`) at `at`; returns where it ends.
fn path(words: &[(usize, &str)], mut at: usize, prefix: &[String], found: &mut Vec<(usize, Vec<String>)>) -> usize {
    let mut segments = prefix.to_vec();
    let Some(&(line, _)) = words.get(at) else { return at };
    while let Some(&(_, word)) = words.get(at) {
        let is_name =
            word.starts_with(|c: char| c.is_alphabetic() || c == '_') || (word == "*" && !segments.is_empty());
        if !is_name {
            break;
        }
        segments.push(word.to_owned());
        at += 1;
        if words.get(at).is_none_or(|(_, w)| *w != "::") {
            break;
        }
        at += 1;
        if words.get(at).is_some_and(|(_, w)| *w == "{") {
            at += 1;
            while words.get(at).is_some_and(|(_, w)| *w != "}") {
                at = path(words, at, &segments, found).max(at + 1);
            }
            return at + 1;
        }
    }
    if segments.len() > prefix.len() {
        found.push((line, segments));
    }
    at
}

// --- the tree -----------------------------------------------------------------------------------------------------------

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, into: &mut Vec<Source>) {
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            collect(&entry, into);
        } else if entry.extension().is_some_and(|e| e == "rs") {
            let path = entry.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            into.push(Source { path, text: fs::read_to_string(&entry).unwrap() });
        }
    }
}

fn check_tree(rule: impl Fn(&Source) -> Vec<String>) {
    let mut sources = Vec::new();
    for folder in ["src", "benches", "loadtest"] {
        collect(&root().join(folder), &mut sources);
    }
    for path in
        ["src/smtp/server.rs", "benches/queue.rs", "loadtest/tests/crash.rs", "loadtest/fuzz/src/targets/server.rs"]
    {
        assert!(sources.iter().any(|s| s.path == path), "{path} is not where it should be");
    }
    let found: Vec<String> = sources.iter().flat_map(rule).collect();
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn modules_know_only_those_below_them() {
    check_tree(layers);
}

#[test]
fn pure_code_touches_nothing() {
    check_tree(purity);
}

#[test]
fn a_crate_with_an_owner_is_named_by_it_alone() {
    check_tree(owners);
}

#[test]
fn unsafe_stands_in_rt_with_its_reason() {
    check_tree(unsafety);
}

#[test]
fn files_open_with_their_contract() {
    check_tree(contract);
}

#[test]
fn files_are_short() {
    check_tree(length);
}

#[test]
fn bounds_have_reasons() {
    check_tree(limits);
}

#[test]
fn the_top_holds_nothing_else() {
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap();
    let is_ignored = |name: &str| {
        ignored.lines().filter_map(|line| line.strip_prefix('/')).any(|line| match line.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == line,
        })
    };
    let names = fs::read_dir(root()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let other: Vec<_> = names.filter(|n| !n.starts_with('.') && !TOP.contains(&n.as_str()) && !is_ignored(n)).collect();
    assert!(other.is_empty(), "at the top of the repository, and not meant to be: {other:?}");
}

#[test]
fn ci_runs_the_commands_of_the_readme() {
    let read = |name: &str| fs::read_to_string(root().join(name)).unwrap();
    let (readme, ci) = (read("README.md"), read(".ci/run"));
    for command in ["cargo run --release -p loadtest -- run", "cargo test --workspace"] {
        assert!(readme.contains(command), "README.md lacks `{command}`");
        let runs = |line: &str| !line.trim_start().starts_with('#') && line.contains(command);
        assert!(ci.lines().any(runs), ".ci/run lacks `{command}`");
    }
}

// --- the rules can fail -------------------------------------------------------------------------------------------------

fn findings(rule: impl Fn(&Source) -> Vec<String>, path: &str, text: &str) -> usize {
    rule(&Source { path: path.into(), text: text.into() }).len()
}

#[test]
fn paths_are_found_in_every_form() {
    let text = "use std::{fs::{self, File}, io};\nlet a = x.then(|| crate::rt::uring::start);\nuse std::net::*;";
    let found: Vec<_> = paths(text).into_iter().map(|(line, path)| format!("{line} {}", path.join("::"))).collect();
    for path in ["1 std::fs::self", "1 std::fs::File", "1 std::io", "2 crate::rt::uring::start", "3 std::net::*"] {
        assert!(found.iter().any(|f| f == path), "{path} in {found:?}");
    }
}

#[test]
fn comments_and_literals_are_no_code() {
    for text in [
        "// std::fs",
        "/* std::fs */",
        "\"std::fs \\\" std::fs\"",
        "r#\"std::fs \" std::fs\"#",
        "b\"std::fs\"",
        "br##\"std::fs\"# std::fs\"##",
        "'\"' // std::fs \"",
    ] {
        assert_eq!(mask(text).trim().trim_matches('b'), "", "{text}");
        assert_eq!(mask(text).len(), text.len());
    }
    for text in [
        "fn a<'a>(x: &'a u8) { std::fs }",
        "let c = 'x'; std::fs",
        "'\\'' + std::fs",
        "bar\"\" + std::fs",
        "'ß'; std::fs",
    ] {
        assert!(paths(text).iter().any(|(_, p)| p.join("::") == "std::fs"), "{text}");
    }
}

#[test]
fn impurity_is_found() {
    for text in [
        "use std::fs::File;",
        "use std::{fs, io};",
        "fn f() { std::thread::sleep(d) }",
        "use std::time::{Duration, Instant};",
        "use std::time::*;",
        "let t = SystemTime::now();",
        "use std::net::TcpStream;",
        "use std::net::{IpAddr, UdpSocket};",
        "use tokio::net;",
        "use glommio as g;",
        "let e = libc::ENOSPC;",
        "use std::process::Command;",
        "let r = rand::rng();",
    ] {
        let text = format!("//! PURE. x\n{text}");
        assert_eq!(findings(purity, "src/smtp/server.rs", &text), 1, "{text}");
        assert_eq!(findings(purity, "loadtest/src/sink/data.rs", &text), 1, "a claim binds everywhere: {text}");
        assert_eq!(findings(purity, "src/server.rs", &text[11..]), 0, "{text}");
    }
    let unseeded = "//! PURE.\nlet m: HashMap<u8, u8> = HashMap::new();";
    assert_eq!(findings(purity, "src/queue/mod.rs", unseeded), 1);
    assert_eq!(findings(purity, "src/queue/new.rs", "//! Queues.\n"), 1, "says nothing of PURE");
    assert_eq!(findings(purity, "src/deliver/mod.rs", "//! Driver.\nuse std::time::Instant;"), 1);
    let good = "//! PURE. std::fs\nuse std::net::{IpAddr, SocketAddr};\nuse std::time::Duration;\nlet s = \"Instant\";";
    assert_eq!(findings(purity, "src/dns/wire.rs", good), 0);
    let errno = "//! PURE.\nlet e = libc::ENOSPC;";
    assert_eq!(findings(purity, "src/spool/log/mod.rs", errno), 0);
    assert_eq!(findings(purity, "src/spool/log/mod.rs", "//! PURE.\nlibc::fsync(1);"), 1);
    for path in ["src/sim/zone.rs", "src/rt/sim/mod.rs"] {
        for text in ["use std::time::Instant;", "std::thread::spawn(x);", "HashMap::new();", "libc::getpid();"] {
            assert_eq!(findings(purity, path, &format!("//! A world.\n{text}")), 1, "{path}: {text}");
        }
        assert_eq!(findings(purity, path, "//! A world.\nlet e = libc::ENOSPC;"), 0, "{path}");
    }
    let seed = "//! A world.\nlet seed = std::env::var(x);";
    assert_eq!(findings(purity, "src/sim/world.rs", seed), 0);
    assert_eq!(findings(purity, "src/rt/sim/mod.rs", seed), 1);
}

#[test]
fn a_wrong_layer_is_found() {
    assert_eq!(findings(layers, "src/smtp/server.rs", "use crate::control::Command;"), 1);
    assert_eq!(findings(layers, "src/smtp/server.rs", "use crate::{limits, spool::Log};"), 1);
    assert_eq!(findings(layers, "src/limits.rs", "use super::config;"), 1);
    assert_eq!(findings(layers, "src/dns/wire.rs", "use super::super::spool;"), 1);
    assert_eq!(findings(layers, "src/smtp/client.rs", "use super::server::Server;"), 0, "a sibling");
    assert_eq!(findings(layers, "src/spool/log/mod.rs", "let x = crate::shard::mailbox::Mail::Control;"), 1);
    assert_eq!(findings(layers, "src/shard/mod.rs", "use crate::rt::uring::Wakers;"), 1);
    assert_eq!(findings(layers, "src/shard/home.rs", "use crate::deliver::Deliverer;"), 1);
    assert_eq!(findings(layers, "src/shard/home.rs", "use crate::{limits, spool};\nuse super::session;"), 0);
    assert_eq!(findings(layers, "src/server.rs", "use crate::{control, rt::uring};"), 0);
}

#[test]
fn a_crate_outside_its_place_is_found() {
    assert_eq!(findings(owners, "src/shard/mod.rs", "use glommio::Task;"), 1);
    assert_eq!(findings(owners, "src/deliver/mod.rs", "tokio::spawn(x);"), 1);
    assert_eq!(findings(owners, "src/server.rs", "libc::getpid();"), 1);
    assert_eq!(findings(owners, "src/spool/recover.rs", "libc::fsync(1);"), 1);
    assert_eq!(findings(owners, "src/spool/recover.rs", "libc::EIO"), 0);
    assert_eq!(findings(owners, "src/control/mod.rs", "tokio::spawn(x);"), 0);
    assert_eq!(findings(owners, "loadtest/src/run.rs", "tokio::spawn(x);"), 0);
    let dns = "use hickory_proto::op::Message;";
    assert_eq!(findings(owners, "src/deliver/mod.rs", dns), 1);
    assert_eq!(findings(owners, "src/sim/zone.rs", dns), 0);
}

#[test]
fn unsafe_without_place_or_reason_is_found() {
    assert_eq!(findings(unsafety, "src/smtp/data.rs", "// SAFETY: x\nunsafe { y() }"), 1);
    assert_eq!(findings(unsafety, "loadtest/src/cpu.rs", "unsafe impl Send for X {}"), 1);
    assert_eq!(findings(unsafety, "src/rt/ring.rs", "let a = 1;\nunsafe { y() }"), 1);
    assert_eq!(findings(unsafety, "src/rt/ring.rs", "// SAFETY: of a.\nlet a = 1;\nunsafe { y() }"), 1);
    assert_eq!(findings(unsafety, "src/rt/ring.rs", "// SAFETY: x.\nlet a =\n    unsafe { y() };"), 0);
    assert_eq!(findings(unsafety, "src/rt/ring.rs", "#![allow(unsafe_code)] // unsafe\nlet s = \"unsafe\";"), 0);
}

#[test]
fn missing_words_and_excess_lines_are_found() {
    assert_eq!(findings(contract, "src/a.rs", "use std::io;\n"), 1);
    assert_eq!(findings(contract, "loadtest/tests/tests.rs", "use std::io;\n"), 1);
    assert_eq!(findings(contract, "src/a.rs", "//! A.\n"), 0);
    assert_eq!(findings(length, "src/a.rs", &"\n".repeat(LONGEST_FILE_LINES + 1)), 1);
    assert_eq!(findings(length, "src/a.rs", &"\n".repeat(LONGEST_FILE_LINES)), 0);
    assert_eq!(findings(limits, "src/limits.rs", "/// Why.\npub const A: u8 = 1;\npub const B: u8 = 1;"), 1);
}
