#![allow(clippy::unwrap_used)]

use super::*;
use crate::limits::{LOCAL_ALIAS_DEPTH, LOCAL_EXPANSION_ADDRESSES, LOCAL_EXPN_ADDRESSES};

fn load(domains: &[&str], mailboxes: Option<&str>, aliases: &str) -> Result<Loaded, Vec<Problem>> {
    let domains: Vec<String> = domains.iter().map(|d| (*d).to_owned()).collect();
    LocalTable::build(&[block(&domains, mailboxes, aliases)])
}

pub(super) fn block<'a>(domains: &'a [String], mailboxes: Option<&'a str>, aliases: &'a str) -> Block<'a> {
    Block {
        domains,
        deliver: Target::parse("lmtp:127.0.0.1:24").unwrap(),
        mailboxes: mailboxes.map(|text| TextFile { name: "mailboxes", text }),
        aliases: Some(TextFile { name: "aliases", text: aliases }),
        subaddress: "+",
    }
}

fn table(mailboxes: &str, aliases: &str) -> LocalTable {
    load(&["Here.example", "also.example"], Some(mailboxes), aliases).unwrap().table
}

/// `mailbox NAME ADDRESS`, the members with their reverse-paths, `unknown` or `not local`.
fn show(resolution: &Resolution) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    match resolution {
        Resolution::NotLocal => "not local".to_owned(),
        Resolution::Unknown => "unknown".to_owned(),
        Resolution::Mailbox(mailbox) => format!("mailbox {} {}", text(&mailbox.name), text(&mailbox.address)),
        Resolution::Addresses(expansion) => {
            let members = expansion.members.iter().map(|member| {
                let kind = if matches!(member.to, Destination::Mailbox(_)) { "=" } else { "" };
                let owner =
                    member.reverse_path.as_deref().map_or(String::new(), |owner| format!(" by {}", text(owner)));
                format!("{kind}{}{owner}", text(member.to.address()))
            });
            members.collect::<Vec<_>>().join(", ")
        }
    }
}

fn at_here(table: &LocalTable, local_part: &str) -> String {
    show(&table.resolve(b"here.EXAMPLE", local_part.as_bytes()))
}

#[test]
fn mailboxes_in_any_case_and_with_subaddresses() {
    let table = table("# people\nAlice\n\n  bob+own \n\"two words\"\nbob\n", "postmaster: alice\n");
    for (local_part, expected) in [
        ("alice", "mailbox alice alice@here.example"),
        ("ALICE", "mailbox alice ALICE@here.example"),
        ("\"ali\\ce\"", "mailbox alice alice@here.example"),
        ("alice+Lists+x", "mailbox alice alice+Lists+x@here.example"),
        ("bob+own", "mailbox bob+own bob+own@here.example"),
        ("bob+other", "mailbox bob bob+other@here.example"),
        ("\"Two Words\"", "mailbox two words \"Two Words\"@here.example"),
        ("+alice", "unknown"),
        ("carol", "unknown"),
        ("", "unknown"),
        ("\"a", "unknown"),
        ("PostMaster", "=alice@here.example"),
        ("postmaster+x", "=alice@here.example"),
    ] {
        assert_eq!(at_here(&table, local_part), expected, "{local_part}");
    }
    assert_eq!(show(&table.resolve(b"there.example", b"alice")), "not local");
    assert_eq!(show(&table.resolve(b"there.example", b"\"")), "not local");
    assert_eq!(show(&table.resolve(b"", b"POSTMASTER")), "=alice@here.example");
    assert_eq!(show(&table.resolve(b"", b"alice")), "not local");
    assert_eq!(show(&LocalTable::default().resolve(b"", b"postmaster")), "not local");
    assert_eq!(show(&table.resolve(b"also.example", b"postmaster")), "=alice@also.example");
    assert!(table.is_local(b"HERE.example") && !table.is_local(b"x.here.example"));
    assert!(table.target(b"here.example").is_some() && table.target(b"x").is_none());
}

#[test]
fn without_a_file_every_mailbox_is_taken() {
    let table = load(&["here.example"], None, "list: x@far.example\n").unwrap().table;
    assert_eq!(at_here(&table, "Anybody+x"), "mailbox anybody Anybody+x@here.example");
    assert_eq!(at_here(&table, "list"), "x@far.example");
}

#[test]
fn aliases_lead_to_addresses() {
    let table = table(
        "alice\nbob\ncarol\n",
        "# comment\n\
         team: alice, Bob,\n  # a comment between\n\n\tdave@Far.example, \"od d\"@far.example\n\
         \"front desk\" : carol\n\
         all: team, carol, alice+all, ALICE@here.EXAMPLE, dave@far.EXAMPLE, Dave@far.example,\n\
         bob: bob, bob@far.example\n\
         carol: \\carol\n\
         across: alice@also.example, <erin@far.example>,,\n\
         @: team\n",
    );
    for (local_part, expected) in [
        ("team", "=alice@here.example, =bob@here.example, bob@far.example, dave@Far.example, \"od d\"@far.example"),
        ("\"Front Desk\"", "=carol@here.example"),
        (
            "all",
            "=alice@here.example, =bob@here.example, bob@far.example, dave@Far.example, \"od d\"@far.example, \
             =carol@here.example, Dave@far.example",
        ),
        ("bob", "=bob@here.example, bob@far.example"),
        ("carol+x", "=carol@here.example"),
        ("across", "=alice@also.example, erin@far.example"),
        ("alice", "mailbox alice alice@here.example"),
        ("nobody", "=alice@here.example, =bob@here.example, bob@far.example, dave@Far.example, \"od d\"@far.example"),
    ] {
        assert_eq!(at_here(&table, local_part), expected, "{local_part}");
    }
}

#[test]
fn loops_end_and_keep_the_mailboxes_they_pass() {
    let table = table("a\nc\n", "a: b\nb: a, c\nc: c\nd: e\ne: d\nf: g\ng: f, x@far.example\nh: a, b, c\n@: zzz\n");
    assert_eq!(at_here(&table, "a"), "=a@here.example, =c@here.example");
    assert_eq!(at_here(&table, "b"), "=c@here.example");
    assert_eq!(at_here(&table, "c"), "=c@here.example");
    assert_eq!(at_here(&table, "d"), "unknown");
    assert_eq!(at_here(&table, "f"), "x@far.example");
    assert_eq!(at_here(&table, "h"), "=a@here.example, =c@here.example");
    assert_eq!(at_here(&table, "whoever"), "unknown", "a catch-all that leads to itself");
}

#[test]
fn an_alias_met_twice_is_no_loop() {
    // bob's mail is forwarded: his mailbox must not get it because two lists have him.
    let table = table("bob\n", "x: bob, y\ny: bob\nbob: bob@far.example\n");
    assert_eq!(at_here(&table, "x"), "bob@far.example");
}

#[test]
fn who_keeps_a_list_gets_its_errors() {
    let table = table(
        "alice\nbob\nowner-people\n",
        "list: alice, inner, x@far.example\nowner-list: bob\ninner: y@far.example\nowner-inner: bob\n\
         people: alice\nplain: alice, list\n@: alice\n",
    );
    let by = "by owner-list@here.example";
    assert_eq!(
        at_here(&table, "list"),
        format!("=alice@here.example {by}, y@far.example by owner-inner@here.example, x@far.example {by}")
    );
    assert_eq!(at_here(&table, "people"), "=alice@here.example by owner-people@here.example");
    assert_eq!(
        at_here(&table, "plain"),
        format!("=alice@here.example, y@far.example by owner-inner@here.example, x@far.example {by}")
    );
    assert_eq!(at_here(&table, "owner-list"), "=bob@here.example");
}

fn errors(mailboxes: &str, aliases: &str) -> Vec<String> {
    let problems = load(&["here.example"], Some(mailboxes), aliases).unwrap_err();
    problems.iter().map(ToString::to_string).collect()
}

#[test]
fn errors_have_file_line_and_advice() {
    let found = errors(
        "alice\nalice@here.example\ntwo words\n",
        "a: |/bin/sh\nb: \"|/bin/sh -c x\"\nc: /var/mail/x\nd: \"/var/mail/x y\"\ne: alice,\n  :include:/etc/list\n\
         f: :fail: gone\n g: h\nnothing\nh:\ni: Bob <bob@x>\nj: bob@-x\nk@here.example: alice\n@here.example: alice\n\
         l: two words\nL: alice\nm m: alice\nn:\n # only a comment\n , ,\n",
    );
    for (line, says) in [
        ("mailboxes:2: ", "local part alone"),
        ("mailboxes:3: ", "in quotes"),
        ("aliases:1: ", "run a program"),
        ("aliases:2: ", "run a program"),
        ("aliases:3: ", "write to a file"),
        ("aliases:4: ", "write to a file"),
        ("aliases:6: ", "read another file"),
        ("aliases:7: ", "none of the forms"),
        ("aliases:9: ", "no alias"),
        ("aliases:10: ", "leads nowhere"),
        ("aliases:11: ", "no address"),
        ("aliases:12: ", "no address"),
        ("aliases:13: ", "block of its own"),
        ("aliases:14: ", "block of its own"),
        ("aliases:15: ", "in quotes"),
        ("aliases:17: ", "in quotes"),
        ("aliases:18: ", "leads nowhere"),
    ] {
        assert!(found.iter().any(|f| f.starts_with(line) && f.contains(says)), "{line}{says} in {found:#?}");
    }
    assert_eq!(found.len(), 17, "{found:#?}");
    let twice = errors("alice\n", "l: alice\nL: alice\n");
    assert!(twice[0].starts_with("aliases:2: `L` stands in line 1 already"), "{twice:?}");
    assert!(errors("alice\n", &"x: |y\n".repeat(1000)).len() <= crate::limits::LOCAL_PROBLEMS);
}

#[test]
fn errors_of_the_block_itself() {
    let domains = ["a.example".to_owned(), "A.example".to_owned(), "b\u{fc}.example".to_owned()];
    let mut bad = block(&domains, Some(""), "");
    bad.subaddress = "ab";
    let found = LocalTable::build(&[bad]).unwrap_err();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|p| p.line == 0 && !p.to_string().starts_with(':')));
}

#[test]
fn bounds_are_met_at_load() {
    let many = |count: usize| {
        let targets: Vec<_> = (0..count).map(|n| format!("u{n}@far.example")).collect();
        format!("list: {}\n", targets.join(",\n "))
    };
    load(&["here.example"], Some(""), &many(LOCAL_EXPANSION_ADDRESSES)).unwrap();
    let found = errors("", &many(LOCAL_EXPANSION_ADDRESSES + 1));
    assert!(found[0].starts_with("aliases:1: `list` leads to more than"), "{found:?}");

    let chain = |count: usize| (0..count).map(|n| format!("a{n}: a{}\n", n + 1)).collect::<String>();
    let last = format!("a{LOCAL_ALIAS_DEPTH}");
    load(&["here.example"], Some(&last), &chain(LOCAL_ALIAS_DEPTH)).unwrap();
    let found = errors(&format!("a{}", LOCAL_ALIAS_DEPTH + 1), &chain(LOCAL_ALIAS_DEPTH + 1));
    assert!(found[0].starts_with("aliases:1: `a0` leads through more than"), "{found:?}");
}

#[test]
fn warnings_of_what_would_be_missed() {
    let warnings = |mailboxes: Option<&str>, aliases: &str| -> Vec<String> {
        load(&["here.example"], mailboxes, aliases).unwrap().warnings.iter().map(ToString::to_string).collect()
    };
    let none: [&str; 0] = [];
    assert_eq!(warnings(Some("alice\n"), "postmaster: alice\nabuse: postmaster\n"), none);
    assert_eq!(warnings(None, ""), none, "every local part is taken");
    assert_eq!(warnings(Some("x\n"), "@: x\n"), none);
    let found = warnings(Some("alice\n"), "x: alice, gone\nloop: loop\n");
    for (start, says) in [
        ("aliases:1: `x`", "leads to `gone`"),
        ("aliases:2: `loop`", "no mailbox at all"),
        ("postmaster@here.example", "4.5.1"),
        ("abuse@here.example", "RFC 2142"),
    ] {
        assert!(found.iter().any(|f| f.starts_with(start) && f.contains(says)), "{start} in {found:#?}");
    }
    assert_eq!(found.len(), 4, "{found:#?}");
    assert!(warnings(None, "@: x\n")[0].contains("never used"));
}

#[test]
fn a_name_that_leads_out_of_the_maildirs_is_no_mailbox() {
    let domains = ["here.example".to_owned()];
    let deliver = Target::parse("maildir:/var/mail/{domain}/{mailbox}").unwrap();
    let any = Block { deliver: deliver.clone(), ..block(&domains, None, "x: ../y\n") };
    let loaded = LocalTable::build(&[any]).unwrap();
    assert!(loaded.warnings.iter().any(|w| w.message.contains("gets a folder")), "{:?}", loaded.warnings);
    for local_part in ["\"..\"", "\"../../etc\"", "a/b", "\".x\"", "x"] {
        assert_eq!(at_here(&loaded.table, local_part), "unknown", "{local_part}");
    }
    assert_eq!(at_here(&loaded.table, "a.b"), "mailbox a.b a.b@here.example");
    let listed = Block { deliver, ..block(&domains, Some("a/b\nabuse\npostmaster\n"), "") };
    let loaded = LocalTable::build(&[listed]).unwrap();
    assert_eq!(loaded.warnings.len(), 1);
    assert!(loaded.warnings[0].to_string().starts_with("mailboxes: `a/b` cannot be"), "{:?}", loaded.warnings);
    assert_eq!(at_here(&loaded.table, "a/b"), "unknown");
}

#[test]
fn a_table_goes_to_every_core() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<LocalTable>();
}

#[test]
fn vrfy_and_expn_tell_what_they_know() {
    let here = ["here.example".to_owned(), "also.example".to_owned()];
    let open = ["open.example".to_owned()];
    let big: String = (0..150).map(|n| format!(", m{n}@far.example")).collect();
    let aliases = format!("list: alice, x@far.example\nbig: alice{big}\n");
    let only = ["only.example".to_owned()];
    let blocks = [
        block(&here, Some("alice\n"), &aliases),
        block(&open, None, "l: x@far.example\n"),
        block(&only, Some("bob"), "o: bob"),
    ];
    let table = LocalTable::build(&blocks[..1]).unwrap().table;
    let known = |text: &str| Verified::Known(text.to_owned());
    assert_eq!(table.verify(b"<Alice@here.example>"), known("<Alice@here.example>"));
    assert_eq!(table.verify(b"list@HERE.example"), known("<list@here.example>"));
    assert_eq!(table.verify(b"alice"), Verified::Ambiguous);
    assert_eq!(table.verify(b"nobody"), Verified::Unknown);
    assert_eq!(table.verify(b"nobody@here.example"), Verified::Unknown);
    assert_eq!(table.verify(b"alice@far.example"), Verified::CannotTell);
    assert_eq!(table.verify(b"two words\r\n"), Verified::Unknown);
    assert_eq!(table.expand(b"alice@here.example"), Expanded::Mailbox);
    assert_eq!(table.expand(b"list"), Expanded::Ambiguous);
    assert_eq!(table.expand(b"x@far.example"), Expanded::NotLocal);
    assert_eq!(table.expand(b""), Expanded::Unknown);
    let addresses = vec!["<alice@here.example>".to_owned(), "<x@far.example>".to_owned()];
    assert_eq!(table.expand(b"list@here.example"), Expanded::List { addresses, more: 0 });
    let Expanded::List { addresses, more } = table.expand(b"big@here.example") else { panic!("a list") };
    assert_eq!((addresses.len(), more), (LOCAL_EXPN_ADDRESSES, 51));

    let table = LocalTable::build(&[blocks[2].clone()]).unwrap().table;
    assert_eq!(table.verify(b"BOB"), known("<BOB@only.example>"));
    assert_eq!(table.verify(b"o"), known("<o@only.example>"));
    let table = LocalTable::build(&blocks[1..2]).unwrap().table;
    assert_eq!(table.verify(b"anybody"), Verified::CannotTell);
    assert_eq!(table.verify(b"l"), known("<l@open.example>"));
}
