//! PURE. The day as one page of HTML, with its pictures in it: nothing is loaded from elsewhere, and there is no script.

use super::figures::Figures;
use super::svg::{Chart, Scale, Series, escape};
use super::text::{
    SENDER_HEAD, SITE_HEAD, WORST_HEAD, busiest, costs, delay, most_deferred, percent, sender_row, site_row, summary,
    worst_row,
};
use crate::report::thousands;
use std::fmt::Write;
use std::time::Duration;

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --rule: #d9dee5; --paper: #ffffff; --card: #f6f8fa;
  --blue: #2f6db5; --green: #2a8a57; --amber: #c07c12; --red: #c23b3b; --band: #c23b3b; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ee; --soft: #9aa6b5; --rule: #333b47; --paper: #14181e; --card: #1c222a;
  --blue: #6ba4e0; --green: #58b884; --amber: #dba24a; --red: #e57373; --band: #e57373; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; font-weight: 650; }
h2 { font-size: 17px; margin: 40px 0 8px; font-weight: 650; }
p { margin: 6px 0; max-width: 80ch; } .soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(6, 1fr); gap: 10px; margin: 20px 0; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: 6px; padding: 10px 12px; }
.tile b { display: block; font-size: 20px; font-weight: 650; font-variant-numeric: tabular-nums; white-space: nowrap; }
.tile span { color: var(--soft); font-size: 13px; }
.alarm { border-left: 4px solid var(--red); padding-left: 12px; color: var(--red); }
svg { width: 100%; height: auto; display: block; } svg text { font: 11px system-ui, sans-serif; }
.grid { stroke: var(--rule); stroke-width: 1; } .axis { fill: var(--soft); } .label { fill: var(--red); }
.band { fill: var(--band); opacity: .16; } .drain { fill: var(--amber); opacity: .13; }
.line { fill: none; stroke-width: 1.6; stroke-linejoin: round; } .area { opacity: .14; stroke: none; }
.accepted { stroke: var(--blue); } .accepted.area { fill: var(--blue); } .delivered { stroke: var(--green); }
.deferred { stroke: var(--amber); } .queued { stroke: var(--blue); } .queued.area { fill: var(--blue); }
.half { stroke: var(--green); } .most { stroke: var(--amber); }
.key { display: flex; flex-wrap: wrap; gap: 4px 18px; color: var(--soft); font-size: 13px; margin: 0 0 4px; }
.key i { display: inline-block; width: 14px; height: 3px; vertical-align: middle; margin-right: 6px; border-radius: 2px; }
.key i.box { height: 11px; opacity: .4; }
ul { padding-left: 20px; } li { margin: 5px 0; max-width: 84ch; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); border-bottom: 1px solid var(--rule); padding: 5px 10px 5px 0; vertical-align: bottom; }
td { border-bottom: 1px solid var(--rule); padding: 5px 10px 5px 0; } td.n, th.n { text-align: right; white-space: nowrap; }
.bar { display: block; height: 3px; background: var(--blue); border-radius: 2px; margin-top: 2px; margin-left: auto; }
footer { margin-top: 48px; color: var(--soft); font-size: 13px; }
@media (max-width: 700px) { .tiles { grid-template-columns: repeat(2, 1fr); } }
";

/// How many, briefly: for an axis.
fn short(value: f64) -> String {
    match value {
        1e6.. => format!("{}M", trim(value / 1e6)),
        1e3.. => format!("{}k", trim(value / 1e3)),
        _ => trim(value),
    }
}

fn trim(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn table(out: &mut String, head: &[&str], rows: &[Vec<String>], bars: Option<(usize, &[f64])>) {
    let is_number = |n: usize| {
        n > 0
            && rows.iter().any(|row| !row[n].is_empty())
            && rows.iter().all(|row| row[n].is_empty() || row[n].starts_with(|c: char| c.is_ascii_digit()))
            && rows.iter().all(|row| row[n].len() < 12)
    };
    let numbers: Vec<bool> = (0..head.len()).map(is_number).collect();
    let class = |n: usize| if numbers[n] { " class=\"n\"" } else { "" };
    *out += "<div class=\"wide\"><table><thead><tr>";
    for (n, word) in head.iter().enumerate() {
        let _ = write!(out, "<th{}>{}</th>", class(n), escape(word));
    }
    *out += "</tr></thead><tbody>\n";
    for (at, row) in rows.iter().enumerate() {
        *out += "<tr>";
        for (n, cell) in row.iter().enumerate() {
            let bar = match bars {
                Some((column, parts)) if column == n => {
                    format!("<span class=\"bar\" style=\"width:{:.1}%\"></span>", parts[at] * 100.0)
                }
                _ => String::new(),
            };
            let _ = write!(out, "<td{}>{}{bar}</td>", class(n), escape(cell));
        }
        *out += "</tr>\n";
    }
    *out += "</tbody></table></div>\n";
}

/// See the module.
pub(super) fn page(f: &Figures) -> String {
    let mut out = String::new();
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>A provider's day</title><style>{STYLE}</style></head><body><main>\n<h1>A provider's day</h1>\n"
    );
    let said = summary(f);
    let (verdict, said) = said.split_last().expect("it says something");
    said.iter().for_each(|line| _ = writeln!(out, "<p class=\"soft\">{}</p>", escape(line)));
    tiles(f, &mut out);
    let _ = writeln!(out, "<p{}>{}</p>", if f.violated > 0 { " class=\"alarm\"" } else { "" }, escape(verdict));
    if f.violated > 0 {
        f.violations.iter().for_each(|line| _ = writeln!(out, "<p class=\"alarm\">{}</p>", escape(line)));
    }
    out += "<h2>What happened</h2>\n<ul>\n";
    f.bands.iter().for_each(|band| _ = writeln!(out, "<li>{}</li>", escape(&band.story)));
    out += "</ul>\n";
    charts(f, &mut out);
    out += "<h2>Destinations by volume</h2>\n";
    let sites = busiest(f);
    let most = sites.first().map_or(1, |site| site.letters.max(1)) as f64;
    let parts: Vec<f64> = sites.iter().map(|site| site.letters as f64 / most).collect();
    table(&mut out, &SITE_HEAD, &sites.into_iter().map(site_row).collect::<Vec<_>>(), Some((1, &parts)));
    out += "<h2>Destinations by deferrals</h2>\n";
    let sites = most_deferred(f);
    let most = sites.first().map_or(1, |site| site.deferrals.max(1)) as f64;
    let parts: Vec<f64> = sites.iter().map(|site| site.deferrals as f64 / most).collect();
    table(&mut out, &SITE_HEAD, &sites.into_iter().map(site_row).collect::<Vec<_>>(), Some((2, &parts)));
    out += "<h2>Tenants</h2>\n";
    let parts: Vec<f64> = f.senders.iter().map(|s| s.letters as f64 / f.accepted.max(1) as f64).collect();
    table(&mut out, &SENDER_HEAD, &f.senders.iter().map(|s| sender_row(f, s)).collect::<Vec<_>>(), Some((3, &parts)));
    let why = |(why, n): &(ringpost::sim::day::book::Why, u64)| vec![why.name().to_owned(), thousands(*n)];
    out += "<h2>Why attempts were put off</h2>\n";
    table(&mut out, &["why", "attempts"], &f.deferred.iter().map(why).collect::<Vec<_>>(), None);
    out += "<h2>Why those wait that are still in the queue</h2>\n";
    table(&mut out, &["why", "messages"], &f.kept_why.iter().map(why).collect::<Vec<_>>(), None);
    out += "<h2>Those that waited longest</h2>\n";
    table(&mut out, &WORST_HEAD, &f.worst.iter().map(worst_row).collect::<Vec<_>>(), None);
    out += "<h2>What a message cost</h2>\n";
    let rows: Vec<Vec<String>> = costs(f).into_iter().map(|(what, n)| vec![what.to_owned(), n]).collect();
    table(&mut out, &["what", "how much"], &rows, None);
    let _ = write!(
        out,
        "<footer>Simulated by <code>loadtest day</code>: the relay is the production code; clients, receivers, DNS, network, \
         disk and time are not. Seed {}, {} shards of each gateway, {} turns of shards, trace {:016x}.</footer>\n\
         </main></body></html>\n",
        f.plan.seed,
        f.plan.shards,
        thousands(f.turns),
        f.hash
    );
    out
}

fn tiles(f: &Figures, out: &mut String) {
    let part = |n: u64| percent(Some(n as f64 / f.accepted.max(1) as f64));
    let tiles = [
        (thousands(f.accepted), "accepted".to_owned()),
        (thousands(f.delivered), format!("delivered, {}", part(f.delivered))),
        (thousands(f.returned), format!("returned, {}", part(f.returned))),
        (thousands(f.kept), "in the queue at the end".to_owned()),
        (delay(f.delays.at(0.5)), "median until delivered".to_owned()),
        (delay(f.delays.at(0.99)), "99 % until delivered".to_owned()),
    ];
    *out += "<div class=\"tiles\">";
    for (number, what) in tiles {
        let _ = write!(out, "<div class=\"tile\"><b>{}</b><span>{}</span></div>", escape(&number), escape(&what));
    }
    *out += "</div>\n";
}

fn key(out: &mut String, entries: &[(&str, &str)]) {
    *out += "<div class=\"key\">";
    for (colour, what) in entries.iter().chain(&[("red", "something is wrong"), ("amber", "what had waited drains")]) {
        let shape = if entries.contains(&(*colour, *what)) { "" } else { " class=\"box\"" };
        let _ = write!(out, "<span><i{shape} style=\"background:var(--{colour})\"></i>{what}</span>");
    }
    *out += "</div>\n";
}

fn charts(f: &Figures, out: &mut String) {
    let chart = |title, height, scale, name, series| Chart {
        title,
        height,
        hours: f.slots.len() as f64 / 12.0,
        hour_seconds: 3600.0,
        bands: &f.bands,
        scale,
        name,
        series,
    };
    let of = |class, filled, value: fn(&ringpost::sim::day::book::Slot) -> u32| Series {
        class,
        filled,
        values: f.slots.iter().map(|slot| f64::from(value(slot))).collect(),
    };
    *out += "<h2>Messages in five minutes</h2>\n";
    key(out, &[("blue", "accepted"), ("green", "delivered"), ("amber", "attempts put off")]);
    let traffic = vec![
        of("accepted", true, |slot| slot.accepted),
        of("delivered", false, |slot| slot.delivered),
        of("deferred", false, |slot| slot.deferred),
    ];
    *out += &chart("Messages in five minutes", 300.0, Scale::Linear, short, traffic).svg();
    *out += "<h2>Messages in the queue</h2>\n";
    key(out, &[("blue", "accepted, and neither delivered nor returned")]);
    let queue = vec![of("queued", true, |slot| slot.queued)];
    *out += &chart("Messages in the queue", 240.0, Scale::Linear, short, queue).svg();
    *out += "<h2>From acceptance to delivery, by the hour of acceptance</h2>\n";
    key(out, &[("green", "half of the messages were faster"), ("amber", "99 % were faster")]);
    let seconds = |time: Duration| time.as_secs_f64();
    let of = |class, quantile: f64| Series {
        class,
        filled: false,
        values: f.hours.iter().map(|hour| seconds(hour.delays.at(quantile))).collect(),
    };
    let name = |value: f64| delay(Duration::from_secs_f64(value));
    let delays = vec![of("half", 0.5), of("most", 0.99)];
    *out += &chart("From acceptance to delivery", 240.0, Scale::Logarithmic(0.001, 100_000.0), name, delays).svg();
}
