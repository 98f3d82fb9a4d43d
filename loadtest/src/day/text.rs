//! PURE. The day as a page of text.

use super::figures::{Figures, Sender, Site};
use crate::report::thousands;
use std::fmt::Write;
use std::time::Duration;

/// A delay as people say it.
pub(super) fn delay(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        0.0..0.9995 => format!("{:.0} ms", seconds * 1e3),
        ..9.95 => format!("{seconds:.1} s"),
        ..120.0 => format!("{seconds:.0} s"),
        ..7200.0 => format!("{:.0} min", seconds / 60.0),
        _ => format!("{:.1} h", seconds / 3600.0),
    }
}

pub(super) fn percent(part: Option<f64>) -> String {
    part.map_or(String::new(), |part| format!("{:.0} %", part * 100.0))
}

/// The sentences at the head of a page.
pub(super) fn summary(f: &Figures) -> Vec<String> {
    let mut said = Vec::new();
    let gateways = match f.plan.gateways {
        1 => "one gateway".to_owned(),
        n => format!(
            "{n} gateways of {} messages each, every one a relay in a world of its own",
            thousands(f.plan.own_messages())
        ),
    };
    said.push(format!(
        "{} messages accepted from {} tenants for {} domains in {} hours, by {gateways}.",
        thousands(f.accepted),
        f.senders.len(),
        thousands(u64::from(f.plan.domains)),
        f.plan.hours
    ));
    said.push(format!(
        "{} delivered, {} returned to their senders, {} still in the queue at the end.",
        thousands(f.delivered),
        thousands(f.returned),
        thousands(f.kept)
    ));
    said.push(format!(
        "Half of them were delivered within {}, 99 % within {}; each had its text whole, at a host of its domain.",
        delay(f.delays.at(0.5)),
        delay(f.delays.at(0.99))
    ));
    said.push(match f.violated {
        0 => format!(
            "Nothing acknowledged was lost. {} deliveries were repeated, each with its reason. No receiver whose limits are \
             known had to refuse for them.",
            thousands(f.repeated)
        ),
        n => format!("{} THINGS HAPPENED THAT MUST NOT:", thousands(n)),
    });
    said
}

/// What the relay cost, in a line each: what, and how much.
pub(super) fn costs(f: &Figures) -> Vec<(&'static str, String)> {
    let per = |name: &str| f.relay.get(name).copied().unwrap_or(0) as f64 / f.accepted.max(1) as f64;
    let size = per("accepted_bytes");
    vec![
        ("octets of a message", format!("{size:.0}")),
        (
            "octets written to the log for it",
            format!("{:.0} ({:.2} times)", per("commit_bytes"), per("commit_bytes") / size.max(1.0)),
        ),
        ("commits (a write and a sync) for it", format!("{:.3}", per("commits"))),
        ("connections opened for it", format!("{:.3}", per("outbound_connections"))),
        ("messages in a flight by BDAT", percent(Some(per("flown")))),
        ("questions to DNS for it", format!("{:.3}", per("dns_queries"))),
        ("attempts put off for it", format!("{:.3}", per("deferred"))),
        ("submissions that the relay put off", thousands(f.put_off)),
        (
            "processor time for it, relay and world together",
            format!("{:.1} us", f.cpu / f.accepted.max(1) as f64 * 1e6),
        ),
        (
            "wall clock of the simulation",
            format!("{:.0} s, {:.0} messages a second", f.wall, f.accepted as f64 / f.wall),
        ),
    ]
}

/// The sites with the most letters.
pub(super) fn busiest(f: &Figures) -> Vec<&Site> {
    let mut sites: Vec<&Site> = f.sites.iter().collect();
    sites.sort_by_key(|site| std::cmp::Reverse(site.letters));
    sites.truncate(10);
    sites
}

/// Those with the most deferrals.
pub(super) fn most_deferred(f: &Figures) -> Vec<&Site> {
    let mut sites: Vec<&Site> = f.sites.iter().filter(|site| site.deferrals > 0).collect();
    sites.sort_by_key(|site| std::cmp::Reverse(site.deferrals));
    sites.truncate(10);
    sites
}

/// How a limit of a site was used.
pub(super) fn used(site: &Site) -> String {
    match (site.used_most, site.used_full) {
        (None, _) => String::new(),
        (most, None) => format!("{} at most", percent(most)),
        (most, full) => format!("{} at most, {} while more waited", percent(most), percent(full)),
    }
}

fn rows(out: &mut String, head: &[&str], rows: &[Vec<String>]) {
    let width =
        |n: usize| rows.iter().map(|row| row[n].chars().count()).chain([head[n].chars().count()]).max().unwrap_or(0);
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut line = |cells: &[String]| {
        let mut text = String::new();
        for (n, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            // The first column is a name, and words stand left.
            let number = n > 0 && cell.starts_with(|c: char| c.is_ascii_digit() || c == '-');
            let _ = if number { write!(text, "  {cell:>width$}") } else { write!(text, "  {cell:<width$}") };
        }
        let _ = writeln!(out, "{}", text.trim_end());
    };
    line(&head.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    rows.iter().for_each(|row| line(row));
}

/// The cells of a sender's row.
pub(super) fn sender_row(f: &Figures, sender: &Sender) -> Vec<String> {
    vec![
        sender.name.to_owned(),
        sender.what.to_owned(),
        thousands(sender.letters),
        percent(Some(sender.letters as f64 / f.accepted.max(1) as f64)),
        thousands(sender.returned),
        thousands(sender.kept),
        delay(sender.delays.at(0.5)),
        delay(sender.delays.at(0.99)),
        delay(sender.rush.at(0.5)),
        delay(sender.rush.at(0.99)),
    ]
}

pub(super) const SENDER_HEAD: [&str; 10] =
    ["tenant", "sends", "messages", "share", "returned", "queued", "median", "99 %", "median 9-11:30", "99 % 9-11:30"];

pub(super) fn site_row(site: &Site) -> Vec<String> {
    vec![
        site.name.clone(),
        thousands(site.letters),
        thousands(site.deferrals),
        thousands(site.kept),
        delay(site.delays.at(0.5)),
        delay(site.delays.at(0.99)),
        site.limit.clone(),
        used(site),
        if site.limit.is_empty() { String::new() } else { thousands(site.refused) },
    ]
}

pub(super) const SITE_HEAD: [&str; 9] =
    ["destination", "messages", "deferred", "queued", "median", "99 %", "limits", "used", "refused for them"];

pub(super) fn worst_row(worst: &super::figures::Worst) -> Vec<String> {
    let letter = &worst.letter;
    let time = |ms: u32| super::hour(Duration::from_millis(u64::from(ms)));
    vec![
        letter_id(letter.id),
        worst.site.clone(),
        time(letter.accepted),
        time(letter.ended),
        delay(Duration::from_millis(u64::from(letter.ended - letter.accepted))),
        letter.deferrals.to_string(),
        letter.why.name().to_owned(),
    ]
}

pub(super) const WORST_HEAD: [&str; 7] =
    ["message", "for", "accepted", "delivered", "waited", "attempts put off", "for"];

fn letter_id(id: u64) -> String {
    String::from_utf8_lossy(&ringpost::message::MessageId(id).text()).into_owned()
}

/// See the module.
pub(super) fn page(f: &Figures) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "A provider's day\n");
    summary(f).iter().chain(&f.violations).for_each(|line| _ = writeln!(out, "{line}"));
    let _ = writeln!(out, "\nWhat happened\n");
    f.bands.iter().for_each(|band| _ = writeln!(out, "  {}", band.story));
    let _ = writeln!(out, "\nBy the hour\n");
    let hours: Vec<Vec<String>> = (0..)
        .zip(&f.hours)
        .map(|(n, hour)| {
            let slot = &hour.slot;
            vec![
                format!("{n:02}:00"),
                thousands(slot.accepted.into()),
                thousands(slot.delivered.into()),
                thousands(slot.deferred.into()),
                thousands(slot.returned.into()),
                thousands(slot.queued.into()),
                delay(hour.delays.at(0.5)),
                delay(hour.delays.at(0.99)),
            ]
        })
        .collect();
    rows(&mut out, &["hour", "accepted", "delivered", "deferred", "returned", "queued then", "median", "99 %"], &hours);
    let _ = writeln!(out, "\nDestinations by volume\n");
    rows(&mut out, &SITE_HEAD, &busiest(f).into_iter().map(site_row).collect::<Vec<_>>());
    let _ = writeln!(out, "\nDestinations by deferrals\n");
    rows(&mut out, &SITE_HEAD, &most_deferred(f).into_iter().map(site_row).collect::<Vec<_>>());
    let _ = writeln!(out, "\nTenants\n");
    rows(&mut out, &SENDER_HEAD, &f.senders.iter().map(|s| sender_row(f, s)).collect::<Vec<_>>());
    let _ = writeln!(out, "\nWhy attempts were put off\n");
    let why = |(why, n): &(ringpost::sim::day::book::Why, u64)| vec![why.name().to_owned(), thousands(*n)];
    rows(&mut out, &["why", "attempts"], &f.deferred.iter().map(why).collect::<Vec<_>>());
    let _ = writeln!(out, "\nWhy those wait that are still in the queue\n");
    rows(&mut out, &["why", "messages"], &f.kept_why.iter().map(why).collect::<Vec<_>>());
    let _ = writeln!(out, "\nThose that waited longest\n");
    rows(&mut out, &WORST_HEAD, &f.worst.iter().map(worst_row).collect::<Vec<_>>());
    let _ = writeln!(out, "\nWhat a message cost\n");
    rows(
        &mut out,
        &["what", "how much"],
        &costs(f).into_iter().map(|(what, n)| vec![what.to_owned(), n]).collect::<Vec<_>>(),
    );
    let _ = writeln!(out, "\n{} turns of shards; seed {}, trace {:016x}", thousands(f.turns), f.plan.seed, f.hash);
    out
}
