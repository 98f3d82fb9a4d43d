#![allow(clippy::unwrap_used)]
use super::*;

fn machine() -> Machine {
    Machine {
        hostname: Some("mx.example.net".to_owned()),
        cores: 4,
        directory: PathBuf::from("/srv"),
        resolv_conf:
            "# x\nnameserver 192.0.2.53\nsearch example.net\nnameserver fe80::1%eth0\nnameserver fe80::1%eth9\n"
                .to_owned(),
        interfaces: vec![("lo".to_owned(), 1), ("eth0".to_owned(), 2)],
    }
}

fn ok(text: &str) -> Loaded {
    parse("test.toml", text, &machine()).unwrap_or_else(|problems| panic!("{problems}"))
}

fn errors(text: &str) -> String {
    parse("test.toml", text, &machine()).map(|_| ()).unwrap_err().to_string()
}

/// The sample with every documented line switched on: `#key = …` becomes `key = …`.
fn sample_switched_on() -> String {
    let key_line = |line: &str| {
        let rest = line.strip_prefix('#')?;
        rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '[').then(|| format!("{rest}\n"))
    };
    EMBEDDED.lines().map(|line| key_line(line).unwrap_or_else(|| format!("{line}\n"))).collect()
}

#[test]
fn the_sample_documents_every_key() {
    let text = sample_switched_on();
    let table: toml::Value = toml::from_str(&text).unwrap();
    for key in raw::all_keys() {
        let mut at = &table;
        for part in key.split('.') {
            at = at.get(part).unwrap_or_else(|| panic!("config/ringpost.toml does not document {key}"));
            if let Some(list) = at.as_array()
                && list.first().is_some_and(toml::Value::is_table)
            {
                at = &list[0];
            }
        }
    }
    assert!(raw::all_keys().len() > 30, "the keys are read off the types");
}

#[test]
fn every_documented_default_is_the_codes_default() {
    let mut documented = ok(&sample_switched_on()).config;
    let code = ok("").config;
    // The keys whose text says that they have no default.
    assert_eq!(documented.hostname, "relay.example.net");
    documented.hostname.clone_from(&code.hostname);
    assert_eq!(documented.delivery.ehlo_name, "relay.example.net");
    documented.delivery.ehlo_name.clone_from(&code.delivery.ehlo_name);
    assert!(documented.delivery.routes.take().is_some() && documented.delivery.fallback_relay.take().is_some());
    assert!(documented.tls_reports.take().is_some());
    assert_ne!(std::mem::take(&mut documented.delivery.smart_terms), code.delivery.smart_terms);
    assert!(documented.delivery.smart_host.take().is_some() && documented.admin.take().is_some());
    assert!(documented.accounts.take().is_some() && std::mem::take(&mut documented.tls) != Tls::default());
    assert_eq!(std::mem::take(&mut documented.local).len(), 1);
    assert_eq!(std::mem::take(&mut documented.shaping), [Path::new("/etc/ringpost/shaping.toml")]);
    assert_eq!(std::mem::take(&mut documented.sources).list.len(), 1);
    assert_eq!(documented, code);
    for key in [
        "#hostname",
        "#ehlo_name",
        "#smart_host",
        "#smart_host_auth ",
        "#routes",
        "#fallback_relay",
        "#certificates",
        "#client_ca",
        "#file ",
        "#files",
        "#domains",
        "#address = \"127.0.0.1:9925\"",
    ] {
        let (before, _) = EMBEDDED.split_once(&format!("\n{key}")).unwrap();
        let comment: String =
            before.lines().rev().take_while(|line| line.starts_with("# ")).collect::<Vec<_>>().join(" ");
        assert!(comment.contains("No default"), "{key}: {comment}");
    }
}

#[test]
fn the_embedded_configuration_is_the_codes_default() {
    let embedded = parse("built-in", EMBEDDED, &machine());
    assert_eq!(embedded.unwrap().config, ok("").config);
    let config = ok("").config;
    assert_eq!(config.listeners[0].address, "127.0.0.1:2525".parse().unwrap());
    assert!(config.relay.allows("127.0.0.1".parse().unwrap()) && config.relay.allows("::1".parse().unwrap()));
    assert!(config.relay.allows("::ffff:127.0.0.1".parse().unwrap()));
    assert!(!config.relay.allows("192.0.2.1".parse().unwrap()) && !config.relay.allows("2001:db8::1".parse().unwrap()));
    assert_eq!(config.spool.path, Path::new("/srv/ringpost-spool"));
    assert_eq!(config.shards, 4);
    assert_eq!(config.dns.servers, ["192.0.2.53:53".parse().unwrap(), "[fe80::1%2]:53".parse().unwrap()]);
    assert_eq!((config.smtp.max_message_bytes, config.smtp.max_recipients), (50 << 20, 1000));
}

#[test]
fn shape_errors_name_file_line_and_key() {
    for (text, expected) in [
        (
            "shards = 1\nspool_path = \"x\"\n",
            "test.toml:2:1: spool_path: unknown field `spool_path`, expected one of `hostname`",
        ),
        ("[delivery]\n\n  prot = 25\n", "test.toml:3:3: delivery.prot: unknown field `prot`, expected one of `port`"),
        (
            "[delivery]\nretry = { first = \"5m\", mox = \"4h\" }\n",
            "test.toml:2:25: delivery.retry.mox: unknown field `mox`",
        ),
        (
            "[[listener]]\naddress = \"0.0.0.0:25\"\n[[listener]]\nadress = 1\n",
            "test.toml:4:1: listener[1].adress: unknown field",
        ),
        ("shards = \"two\"\n", "test.toml:1:10: shards: invalid type: string \"two\", expected a whole number"),
        (
            "\n[delivery.retry]\nfirst = \"5 minutes\"\n",
            "test.toml:3:9: delivery.retry.first: \"5 minutes\" is not a duration; write",
        ),
        (
            "[delivery.retry]\nfirst = 300\n",
            "test.toml:2:9: delivery.retry.first: invalid type: integer `300`, expected a duration in quotes",
        ),
        ("[smtp]\nmax_message_bytes = \"50MB\"\n", "test.toml:2:21: smtp.max_message_bytes: \"50MB\" is not a size"),
        ("[smtp]\nmax_message_bytes = -1\n", "test.toml:2:21: smtp.max_message_bytes: a size cannot be negative"),
        ("shards = \n", "test.toml:1:"),
        ("a = 1\na = 2\n", "test.toml:2:1"),
    ] {
        let message = errors(text);
        assert!(message.starts_with(expected), "{text}\n  gave     {message}\n  expected {expected}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

/// Found by fuzzing: "recursion limit", the library's words, and no place.
#[test]
fn nesting_too_deep_is_said_in_words() {
    assert!(errors(&format!("{}x = 1", "a.".repeat(300))).ends_with("nested too deeply"));
}

#[test]
fn values_are_checked_and_every_problem_is_told_with_its_line() {
    for (text, expected) in [
        ("shards = 1024", "test.toml:1:1: shards: 1024 is out of range; allowed are 0 to 1023"),
        ("shards = -1", "allowed are 0 to 1023"),
        ("hostname = \"a_b.example\"", "test.toml:1:1: hostname: \"a_b.example\" is not a host name"),
        ("hostname = \"192.0.2.1\"", "an address is not a name"),
        ("drain_timeout = \"2h\"", "allowed are \"1s\" to \"1h\""),
        ("[spool]\npath = \"\"", "test.toml:2:1: spool.path: an empty path"),
        ("[[listener]]\naddress = \"0.0.0.0:0\"", "test.toml:2:1: listener[0].address: \"0.0.0.0:0\": port 0"),
        ("[[listener]]\nkind = \"relay\"", "test.toml:1:1: listener[0].address: a listener needs an address"),
        ("[[listener]]\naddress = \"localhost:25\"", "is not an address and port"),
        (
            "[[listener]]\naddress = \"1.2.3.4:25\"\n[[listener]]\naddress = \"1.2.3.4:25\"",
            "test.toml:4:1: listener[1].address: 1.2.3.4:25 is listed twice",
        ),
        (
            "[[listener]]\naddress = \"1.2.3.4:25\"\nkind = \"x\"",
            "allowed are \"relay\", \"submission\" and \"submissions\"",
        ),
        (
            "[[listener]]\naddress = \"1.2.3.4:25\"\nkind = \"submission\"",
            "listener[0].auth: AUTH needs accounts: set accounts.file",
        ),
        (
            "[[listener]]\naddress = \"1.2.3.4:25\"\ntls = \"offered\"",
            "test.toml:3:1: listener[0].tls: TLS needs a certificate",
        ),
        ("[[listener]]\naddress = \"1.2.3.4:25\"\nproxy_networks = [\"0.0.0.0/0\"]", "open to the whole Internet"),
        ("[[listener]]\naddress = \"1.2.3.4:25\"\ngreeting_delay = \"1h\"", "allowed are \"0s\" to \"30s\""),
        ("[tls]\nclient_ca = \"x\"", "without tls.certificates"),
        ("[smtp]\nvrfy = \"on\"", "allowed are \"off\" and \"local\""),
        ("[[listener]]\naddress = \"1.2.3.4:25\"\n[admin]\naddress = \"1.2.3.4:25\"", "a listener's address too"),
        ("[relay]\nfrom_networks = [\"0.0.0.0/0\"]", "test.toml:2:1: relay.from_networks: open to the whole Internet"),
        ("[relay]\nfrom_networks = [\"128.0.0.0/1\", \"10.0.0.0/8\", \"0.0.0.0/1\"]", "open to the whole Internet"),
        ("[relay]\nfrom_networks = [\"::/0\"]", "open to the whole Internet"),
        ("[relay]\nfrom_networks = [\"::ffff:0:0/96\"]", "IPv6 clothes"),
        (
            "[relay]\nfrom_networks = [\n  \"10.0.0.0/8\",\n  \"10.0.0.5/8\"]",
            "test.toml:4:3: relay.from_networks[1]: \"10.0.0.5/8\" is an address inside a network; write \"10.0.0.0/8\"",
        ),
        ("[relay]\nfrom_networks = [\"10.0.0.0/33\"]", "is not a network"),
        ("[[local]]\ndeliver = \"lmtp:/run/x\"", "test.toml:1:1: local[0].domains: a [[local]] block needs domains"),
        ("[[local]]\ndomains = [\"a.example\"]", "test.toml:1:1: local[0].deliver: where to?"),
        (
            "[[local]]\ndomains = [\"a.example\"]\ndeliver = \"lmtp:localhost:24\"",
            "test.toml:3:1: local[0].deliver: an LMTP server is ADDRESS:PORT",
        ),
        ("[shaping]\nfiles = [\"a\",\n\"./a\"]", "test.toml:3:1: shaping.files[1]: \"./a\" is listed twice"),
        ("[shaping]\ncampaign_header = \"X: y\"", "shaping.campaign_header: \"X: y\" is no name of a header field"),
        ("[shaping]\nfiles = [\"\"]", "shaping.files[0]: an empty path"),
        ("[smtp]\nmax_recipients = 0", "allowed are 1 to 1000"),
        ("[smtp]\nmax_message_bytes = 1", "allowed are 64KiB to 1GiB"),
        ("[dns]\nservers = [\"dns.example\"]", "test.toml:2:12: dns.servers[0]: \"dns.example\" is not a server"),
        ("[dns]\nservers = [\"::1\", \"[::1]:53\"]", "[::1]:53 is listed twice"),
        ("[delivery]\nport = 65536", "test.toml:2:1: delivery.port: 65536 is out of range; allowed are 1 to 65535"),
        (
            "[delivery]\nsmart_host = \"smtp.example.net\"",
            "test.toml:2:1: delivery.smart_host: \"smtp.example.net\": the port is missing",
        ),
        ("[delivery]\nsmart_host = \"::1:25\"", "brackets"),
        ("[delivery]\nfallback_relay = \"x\"", "test.toml:2:1: delivery.fallback_relay: \"x\": the port is missing"),
        ("[delivery]\nfallback_relay = \"x:25\"\nsmart_host = \"y:25\"", "would never be used"),
        ("[delivery]\nsmart_host = \"a.example:0\"", "1 to 65535"),
        ("[delivery]\nsource_addresses = [\"192.0.2.1\", \"192.0.2.2\"]", "one IPv4 and one IPv6"),
        (
            "[delivery.retry]\nfirst = \"5h\"",
            "test.toml:2:1: delivery.retry.first: first = \"5h\" is longer than max = \"4h\"",
        ),
        ("[delivery.retry]\nmax = \"6d\"", "first <= max <= give_up"),
        ("[delivery.retry]\nfactor = 0.5", "0.5 is out of range; allowed are 1.0 to 10.0"),
        ("[delivery.retry]\njitter = nan", "out of range"),
        ("[delivery.retry]\ngive_up = \"31d\"", "allowed are \"1s\" to \"30d\""),
        ("[log]\nlevel = \"loud\"", "allowed are \"error\", \"warn\", \"info\", \"debug\""),
        ("[log]\nkeep = 0", "allowed are 1 to 1000"),
    ] {
        let message = errors(text);
        assert!(message.contains(expected), "{text}\n  gave     {message}\n  expected {expected}");
    }
    let all = errors("shards = -1\n[delivery]\nport = 0\n[log]\nkeep = 0\n");
    assert_eq!(all.lines().count(), 3, "{all}");
}

#[test]
fn what_is_allowed_but_suspicious_is_warned_about() {
    let warnings = |text: &str| ok(text).warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(!warnings("").contains("hostname"));
    assert!(warnings("").contains("dns.servers: line 5 of /etc/resolv.conf names a server that is not used"));
    assert!(!warnings("").contains("line 4 of"));
    assert!(warnings("hostname = \"relay\"").starts_with("test.toml:1:1: hostname: \"relay\" is not fully qualified"));
    assert!(warnings("shards = 8").contains("8 shards on 4 usable cores"));
    assert!(warnings("[relay]\nfrom_networks = [\"64.0.0.0/2\"]").contains("very large part"));
    assert!(warnings("[relay]\nfrom_networks = []").contains("nobody may relay"));
    assert!(
        warnings("[spool]\npath = \"x/spool\"").contains("test.toml:2:1: spool.path: relative: it means /srv/x/spool")
    );
    assert!(!warnings("[spool]\npath = \"/x/spool\"").contains("spool.path"));
    assert!(warnings("[admin]\naddress = \"0.0.0.0:9925\"").contains("not loopback"));
    let parsed = |hostname: Option<&str>| {
        let machine = Machine { hostname: hostname.map(str::to_owned), ..Machine::default() };
        parse("x", "", &machine).unwrap()
    };
    assert_eq!(parsed(Some("my_box")).config.hostname, "localhost");
    assert_eq!(parsed(Some("box")).config.hostname, "box");
    assert_eq!(parsed(None).config.hostname, "localhost");
    assert!(parsed(None).warnings.iter().any(|w| w.key == "hostname"));
    assert_eq!(parsed(None).config.dns.servers, ["127.0.0.1:53".parse().unwrap()]);
    assert_eq!(parsed(None).config.shards, 1);
}

#[test]
fn smart_hosts_have_a_name_or_an_address() {
    let of = |text: &str| ok(&format!("[delivery]\nsmart_host = \"{text}\"")).config.delivery.smart_host.unwrap();
    assert_eq!(of("SMTP.example.net:587"), SmartHost { host: Host::Name("smtp.example.net".into()), port: 587 });
    assert_eq!(of("[2001:db8::25]:25").to_string(), "[2001:db8::25]:25");
    assert_eq!(of("192.0.2.25:26").host, Host::Address("192.0.2.25".parse().unwrap()));
    assert_eq!(of("localhost:2525").to_string(), "localhost:2525");
}

#[test]
fn a_file_that_cannot_be_read_or_is_not_text_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.toml");
    assert!(load(Some(&path), &machine()).unwrap_err().to_string().contains("cannot read it"));
    std::fs::write(&path, b"a = 1\n\xff\xfe\n").unwrap();
    assert!(load(Some(&path), &machine()).unwrap_err().to_string().contains("line 2 is not UTF-8"));
    std::fs::write(&path, vec![b'\n'; 2 << 20]).unwrap();
    assert!(load(Some(&path), &machine()).unwrap_err().to_string().contains("larger than 1MiB"));
}

#[test]
fn tables_of_the_wrong_kind_never_panic() {
    for text in [
        "listener = 1",
        "[listener]\naddress = \"x\"",
        "[[relay]]",
        "dns = []",
        "delivery = \"x\"",
        "[delivery]\nretry = 5",
        "\u{feff}shards = 1",
        "a.b.c = 1",
        "[smtp]\nmax_recipients = 1e3",
        "[smtp]\nmax_message_bytes = 9223372036854775807",
    ] {
        let _ = parse("test.toml", text, &machine()).map_err(|problems| assert!(!problems.to_string().is_empty()));
    }
}
