//! Text of a configuration file, or of a resolv.conf.
//!
//! Input: which of the two, then the text; what is not UTF-8 is replaced (the product refuses it before). Checked: the
//! same text gives the same result; every problem names the file and a line or a key; what is accepted is in range.

use crate::Target;
use crate::input::Input;
use ringpost::config::{self, Machine, Problem};
use ringpost::limits;
use std::path::PathBuf;
use std::time::Duration;

/// The target.
pub const TARGET: Target = Target {
    name: "config",
    run,
    max_bytes: 8192,
    words: &[
        b"[spool]\n",
        b"[[listener]]\n",
        b"[relay]\n",
        b"[smtp]\n",
        b"[dns]\n",
        b"[delivery]\n",
        b"[delivery.retry]\n",
        b"[admin]\n",
        b"[log]\n",
        b"hostname = ",
        b"address = ",
        b"kind = \"relay\"\n",
        b"from_networks = [",
        b"max_message_bytes = ",
        b"servers = [",
        b"smart_host = ",
        b"\"10 MiB\"",
        b"\"5m\"",
        b"\"127.0.0.1:25\"",
        b"99999999999999999999",
        b"-1",
        b"\"\"\"",
        b"nameserver ",
        b"fe80::1%eth0",
    ],
    test_runs: 2500,
};

fn machine(resolv_conf: &str) -> Machine {
    Machine {
        hostname: Some("mx.example.net".to_owned()),
        cores: 4,
        directory: PathBuf::from("/srv"),
        resolv_conf: resolv_conf.to_owned(),
        interfaces: vec![("lo".to_owned(), 1), ("eth0".to_owned(), 2)],
    }
}

fn check_problem(problem: &Problem, text: &str) {
    assert_eq!(problem.file, "fuzz.toml");
    assert!(!problem.message.is_empty());
    // The one error that the TOML parser does not place.
    let deep = problem.message.ends_with("nested too deeply");
    assert!(problem.place.is_some() || !problem.key.is_empty() || deep, "neither line nor key: {problem}");
    if let Some((line, column)) = problem.place {
        let lines = text.split('\n').count();
        assert!((1..=lines).contains(&line) && column >= 1 && column <= text.len() + 1, "{problem}");
    }
    let printed = problem.to_string();
    assert!(printed.starts_with("fuzz.toml"));
}

/// Runs the target.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let resolv_conf = input.u8() & 1 == 1;
    let text = String::from_utf8_lossy(input.rest()).into_owned();
    let (toml, machine) = if resolv_conf { ("", machine(&text)) } else { (&*text, machine("nameserver 192.0.2.53\n")) };
    let result = config::parse("fuzz.toml", toml, &machine);
    let again = config::parse("fuzz.toml", toml, &machine);
    match (&result, &again) {
        (Ok(one), Ok(two)) => assert_eq!((&one.config, &one.warnings), (&two.config, &two.warnings)),
        (Err(one), Err(two)) => assert_eq!(one.0, two.0),
        _ => panic!("accepted and refused"),
    }
    match result {
        Err(problems) => {
            assert!(!problems.0.is_empty());
            problems.0.iter().for_each(|p| check_problem(p, toml));
        }
        Ok(loaded) => {
            loaded.warnings.iter().for_each(|p| assert_eq!(p.file, "fuzz.toml"));
            let c = loaded.config;
            assert!((1..=limits::SHARDS).contains(&c.shards));
            assert!((1..=limits::LISTENERS).contains(&c.listeners.len()));
            assert!(c.listeners.iter().all(|l| l.address.port() != 0));
            assert!(c.relay.from_networks.len() <= limits::RELAY_NETWORKS);
            assert!(c.relay.from_networks.iter().all(|n| n.prefix_len() > 0), "an open relay");
            let (least, most) = limits::MESSAGE_BYTES_RANGE;
            assert!((least..=most).contains(&c.smtp.max_message_bytes));
            assert!((1..=limits::RECIPIENTS).contains(&c.smtp.max_recipients) && c.smtp.max_sessions_per_shard > 0);
            assert!(!c.dns.servers.is_empty() && (1..=limits::DNS_ATTEMPTS).contains(&c.dns.attempts));
            let retry = c.delivery.retry;
            assert!(retry.first <= retry.max && retry.max <= retry.give_up);
            assert!((1.0..=10.0).contains(&retry.factor) && (0.0..=0.5).contains(&retry.jitter));
            for time in [c.drain_timeout, c.smtp.command_timeout, c.smtp.data_timeout, c.dns.timeout, retry.give_up] {
                assert!(time > Duration::ZERO && time <= limits::CONFIG_DURATION_MAX);
            }
            assert!(c.spool.path.is_absolute());
            for name in [&c.hostname, &c.delivery.ehlo_name] {
                assert!(!name.is_empty() && name.bytes().all(|b| matches!(b, b'!'..=b'~')), "{name:?}");
            }
        }
    }
}
