//! `netfast stats`.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use netfast_common::reason::Reason;
use serde::Serialize;

use super::{Context, failure::Outcome, output::Output, units, values};
use crate::api::types::{self, Count, ForwardCount, InterfaceCount, NamedCount, SnatCount, TargetCount};

/// Shows what was counted: by interface and reason, forward, target, source NAT rule, echo reflector and filter rule
///
/// Numbers count since the objects exist, also over restarts of the agent. With --watch they are rates: packets and bits a
/// second over the interval.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast stats
  netfast stats interfaces -o wide
  netfast stats forwards targets --watch 1s
  netfast stats --watch 10s --count 6 -o jsonl")]
pub struct Stats {
    /// What to show; without this everything that is not empty
    #[arg(value_enum)]
    sections: Vec<Section>,
    /// Show rates, again and again; 1s if no time is given
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "1s", value_parser = values::interval)]
    watch: Option<Duration>,
    /// End after so many (with --watch)
    #[arg(short, long, value_name = "N", requires = "watch")]
    count: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Section {
    Interfaces,
    Forwards,
    Targets,
    Snats,
    Echoes,
    Filters,
    Flows,
    Cache,
    Maps,
}

impl Stats {
    /// Prints them.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let output = context.output;
        let Some(interval) = self.watch else {
            let stats = context.client.stats().await?;
            if output.is_json() {
                return output.json(&stats);
            }
            let text = page(output, &stats, None, &self.sections);
            if text.is_empty() {
                output.note("nothing counted yet; is netfast attached (`netfast status`)?");
            }
            return output.text(&text);
        };
        let mut before = context.client.stats().await?;
        let mut then = Instant::now();
        let mut next = tokio::time::interval(interval);
        next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        next.tick().await;
        let mut shown = 0;
        while self.count.is_none_or(|count| shown < count) {
            next.tick().await;
            let after = context.client.stats().await?;
            let now = Instant::now();
            let seconds = (now - then).as_secs_f64();
            let change = difference(&after, &before);
            if output.is_json() {
                output.json(&Sample { interval_seconds: seconds, during_interval: &change })?;
            } else {
                let text = page(output, &change, Some(seconds), &self.sections);
                let text = if text.is_empty() { "nothing to show\n".to_owned() } else { text };
                if output.is_terminal() {
                    let head = format!("rates over the last {seconds:.1} s; Ctrl-C ends\n\n");
                    output.text(&screen(&format!("{head}{text}"), output.rows(), shown == 0))?;
                } else {
                    output.text(&format!("{}{text}", if shown == 0 { "" } else { "\n" }))?;
                }
            }
            (before, then) = (after, now);
            shown += 1;
        }
        Ok(())
    }
}

/// A page in the place of the one before: home, the page, and what an earlier and longer one left is cleared, so that
/// nothing flickers. What does not fit would scroll, so it is cut.
fn screen(page: &str, rows: Option<usize>, first: bool) -> String {
    let mut lines: Vec<&str> = page.lines().collect();
    if let Some(fit) = rows.map(|rows| rows.saturating_sub(2)).filter(|fit| *fit > 0 && lines.len() > *fit) {
        lines.truncate(fit);
        lines.push("... the terminal ends here; name sections to see less: netfast stats forwards --watch");
    }
    let clear = if first { "\u{1b}[2J" } else { "" };
    format!("{clear}\u{1b}[H{}\u{1b}[K\n\u{1b}[J", lines.join("\u{1b}[K\n"))
}

/// What `--watch -o json` prints each time: what was counted within the interval (numbers of flows are as they are).
#[derive(Serialize)]
struct Sample<'a> {
    interval_seconds: f64,
    #[serde(flatten)]
    during_interval: &'a types::Stats,
}

/// What was counted between two answers. A counter that is not in the older one began at 0 (as after a restart from nothing).
fn difference(after: &types::Stats, before: &types::Stats) -> types::Stats {
    let less = |new: Count, old: Option<Count>| match old {
        Some(old) if old.packets <= new.packets && old.bytes <= new.bytes => {
            Count { packets: new.packets - old.packets, bytes: new.bytes - old.bytes }
        }
        _ => new,
    };
    let named = |new: &[NamedCount], old: &[NamedCount]| {
        let old: std::collections::HashMap<&str, Count> =
            old.iter().map(|row| (row.name.as_str(), row.count)).collect();
        new.iter()
            .map(|row| NamedCount {
                name: row.name.clone(),
                count: less(row.count, old.get(row.name.as_str()).copied()),
            })
            .collect()
    };
    let mut change = after.clone();
    for row in &mut change.interfaces {
        let InterfaceCount { interface, verdict, reason, count } = row;
        let old = before
            .interfaces
            .iter()
            .find(|old| old.interface == *interface && old.verdict == *verdict && old.reason == *reason);
        *count = less(*count, old.map(|old| old.count));
    }
    for row in &mut change.cache.misses {
        let old = before.cache.misses.iter().find(|old| old.interface == row.interface);
        // Less than before: the interface has come anew.
        row.packets = row.packets.checked_sub(old.map_or(0, |old| old.packets)).unwrap_or(row.packets);
    }
    for row in &mut change.forwards {
        let old = before.forwards.iter().find(|old| old.forward == row.forward);
        row.to_target = less(row.to_target, old.map(|old| old.to_target));
        row.to_client = less(row.to_client, old.map(|old| old.to_client));
        row.flows_total = row.flows_total.saturating_sub(old.map_or(0, |old| old.flows_total));
    }
    for row in &mut change.targets {
        let old = before.targets.iter().find(|old| old.forward == row.forward && old.target == row.target);
        row.to_target = less(row.to_target, old.map(|old| old.to_target));
        row.to_client = less(row.to_client, old.map(|old| old.to_client));
    }
    for row in &mut change.snats {
        let old = before.snats.iter().find(|old| old.snat == row.snat);
        row.outward = less(row.outward, old.map(|old| old.outward));
        row.inward = less(row.inward, old.map(|old| old.inward));
        row.flows_total = row.flows_total.saturating_sub(old.map_or(0, |old| old.flows_total));
    }
    change.echoes = named(&after.echoes, &before.echoes);
    change.filters = named(&after.filters, &before.filters);
    change
}

/// How counts are shown: as they are, or as rates.
#[derive(Clone, Copy)]
struct Style {
    exact: bool,
    seconds: Option<f64>,
}

impl Style {
    fn number(self, number: u64) -> String {
        match (self.seconds, self.exact) {
            (Some(seconds), true) => format!("{:.1}", number as f64 / seconds),
            (Some(seconds), false) => units::rate(number as f64 / seconds),
            (None, true) => number.to_string(),
            (None, false) => units::count(number),
        }
    }

    fn bytes(self, bytes: u64) -> String {
        match (self.seconds, self.exact) {
            (Some(seconds), true) => format!("{:.0}", bytes as f64 * 8.0 / seconds),
            (Some(seconds), false) => units::bit_rate(bytes as f64 * 8.0 / seconds),
            (None, true) => bytes.to_string(),
            (None, false) => units::bytes(bytes),
        }
    }

    fn pair(self, count: Count) -> [String; 2] {
        [self.number(count.packets), self.bytes(count.bytes)]
    }

    /// Headings of [`Self::pair`].
    fn headings(self) -> [&'static str; 2] {
        if self.seconds.is_some() { ["PKT/S", "BIT/S"] } else { ["PACKETS", "BYTES"] }
    }

    /// Headings of both directions.
    fn directions(self) -> [&'static str; 4] {
        if self.seconds.is_some() {
            ["PKT/S>TARGET", "BIT/S>TARGET", "PKT/S>CLIENT", "BIT/S>CLIENT"]
        } else {
            ["PKTS>TARGET", "BYTES>TARGET", "PKTS>CLIENT", "BYTES>CLIENT"]
        }
    }
}

fn page(output: Output, stats: &types::Stats, seconds: Option<f64>, sections: &[Section]) -> String {
    let style = Style { exact: output.is_wide(), seconds };
    let all = [
        (Section::Interfaces, interfaces(output, style, &stats.interfaces)),
        (Section::Forwards, forwards(output, style, &stats.forwards)),
        (Section::Targets, targets(output, style, &stats.targets)),
        (Section::Snats, snats(output, style, &stats.snats)),
        (Section::Echoes, named(output, style, "ECHO", &stats.echoes)),
        (Section::Filters, named(output, style, "FILTER", &stats.filters)),
        (Section::Flows, Some(flows(output, stats))),
        (Section::Cache, cache(output, style, stats)),
        (Section::Maps, maps(output, stats)),
    ];
    // The tables' sizes alone are nothing that was counted; the maps below the flows are for those who ask.
    let static_only = |section| matches!(section, Section::Flows | Section::Maps);
    let nothing_yet =
        all.iter().filter(|(section, _)| !static_only(*section)).all(|(_, text)| text.is_none());
    let texts: Vec<_> = all
        .into_iter()
        .filter(|(section, _)| {
            if sections.is_empty() {
                !nothing_yet && *section != Section::Maps
            } else {
                sections.contains(section)
            }
        })
        .filter_map(|(_, text)| text)
        .collect();
    texts.join("\n")
}

fn interfaces(output: Output, style: Style, rows: &[InterfaceCount]) -> Option<String> {
    let mut columns = vec!["INTERFACE", "VERDICT", "REASON"];
    columns.extend(style.headings());
    if output.is_wide() {
        columns.push("MEANING");
    }
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            let mut cells = vec![row.interface.clone(), row.verdict.clone(), row.reason.clone()];
            cells.extend(style.pair(row.count));
            if output.is_wide() {
                let known = Reason::ALL.iter().find(|reason| reason.label() == row.reason);
                cells.push(known.map_or("", |reason| reason.help()).to_owned());
            }
            cells
        })
        .collect();
    section(output, &columns, &style.headings(), cells)
}

fn forwards(output: Output, style: Style, rows: &[ForwardCount]) -> Option<String> {
    let new = if style.seconds.is_some() { "NEW/S" } else { "TOTAL" };
    let mut numbers = vec!["FLOWS", new];
    numbers.extend(style.directions());
    let cells = rows
        .iter()
        .map(|row| {
            let mut cells = vec![row.forward.clone(), row.flows.to_string(), style.number(row.flows_total)];
            cells.extend(style.pair(row.to_target));
            cells.extend(style.pair(row.to_client));
            cells
        })
        .collect();
    section(output, &[&["FORWARD"], &numbers[..]].concat(), &numbers, cells)
}

fn targets(output: Output, style: Style, rows: &[TargetCount]) -> Option<String> {
    let mut numbers = vec!["FLOWS"];
    numbers.extend(style.directions());
    let cells = rows
        .iter()
        .map(|row| {
            let mut cells = vec![row.forward.clone(), row.target.clone(), row.flows.to_string()];
            cells.extend(style.pair(row.to_target));
            cells.extend(style.pair(row.to_client));
            cells
        })
        .collect();
    section(output, &[&["FORWARD", "TARGET"], &numbers[..]].concat(), &numbers, cells)
}

fn snats(output: Output, style: Style, rows: &[SnatCount]) -> Option<String> {
    let new = if style.seconds.is_some() { "NEW/S" } else { "TOTAL" };
    let directions = if style.seconds.is_some() {
        ["PKT/S>OUT", "BIT/S>OUT", "PKT/S>IN", "BIT/S>IN"]
    } else {
        ["PKTS>OUT", "BYTES>OUT", "PKTS>IN", "BYTES>IN"]
    };
    let mut numbers = vec!["PORTS", "FLOWS", new];
    numbers.extend(directions);
    let cells = rows
        .iter()
        .map(|row| {
            let mut cells = vec![
                row.snat.clone(),
                row.ports.to_string(),
                row.flows.to_string(),
                style.number(row.flows_total),
            ];
            cells.extend(style.pair(row.outward));
            cells.extend(style.pair(row.inward));
            cells
        })
        .collect();
    section(output, &[&["SNAT"], &numbers[..]].concat(), &numbers, cells)
}

fn named(output: Output, style: Style, title: &str, rows: &[NamedCount]) -> Option<String> {
    let [packets, bytes] = style.headings();
    let cells =
        rows.iter().map(|row| [vec![row.name.clone()], style.pair(row.count).into()].concat()).collect();
    section(output, &[title, packets, bytes], &[packets, bytes], cells)
}

fn flows(output: Output, stats: &types::Stats) -> String {
    let flows = stats.flows;
    let rows = [
        ("confirmed", flows.confirmed, flows.confirmed_max),
        ("half-open", flows.half_open, flows.half_open_max),
    ]
    .map(|(name, used, max)| {
        vec![name.to_owned(), used.to_string(), max.to_string(), units::percent(used, max)]
    });
    output.table_text(&["FLOWS", "USED", "MAX", "FULL"], &["USED", "MAX", "FULL"], rows.into())
}

/// How many packets the flow cache decided, for interfaces that packets came in by.
fn cache(output: Output, style: Style, stats: &types::Stats) -> Option<String> {
    let cells = stats.cache.misses.iter().filter_map(|row| {
        let rows = stats.interfaces.iter().filter(|count| count.interface == row.interface);
        let packets: u64 = rows.map(|count| count.count.packets).sum();
        // The two are not read in one moment.
        let hits = packets.saturating_sub(row.packets);
        let numbers = [hits, row.packets].map(|number| style.number(number));
        (packets > 0).then(|| {
            [vec![row.interface.clone()], numbers.into(), vec![units::percent(row.packets, packets)]].concat()
        })
    });
    let numbers =
        if style.seconds.is_some() { ["HITS/S", "MISSES/S", "MISSED"] } else { ["HITS", "MISSES", "MISSED"] };
    section(output, &[&["CACHE"], &numbers[..]].concat(), &numbers, cells.collect())
}

fn maps(output: Output, stats: &types::Stats) -> Option<String> {
    let cells = stats
        .maps
        .iter()
        .map(|map| {
            vec![
                map.map.clone(),
                map.entries.to_string(),
                map.max_entries.to_string(),
                units::percent(map.entries, map.max_entries),
            ]
        })
        .collect();
    section(output, &["MAP", "USED", "MAX", "FULL"], &["USED", "MAX", "FULL"], cells)
}

/// A table, if it has rows.
fn section(output: Output, columns: &[&str], numbers: &[&str], rows: Vec<Vec<String>>) -> Option<String> {
    if rows.is_empty() {
        return None;
    }
    Some(output.table_text(columns, numbers, rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_screen_is_cut_at_the_terminals_end() {
        let lines = |rows| screen("a\nb\nc\nd\n", rows, true).lines().count();
        // The page, and a last line without end that only clears.
        assert_eq!((lines(None), lines(Some(6)), lines(Some(5)), lines(Some(0))), (5, 5, 5, 5));
        assert!(screen("a\nb\nc\nd\n", Some(5), false).contains("name sections"));
        assert!(!screen("a\nb\nc\nd\n", Some(6), false).contains("name sections"));
    }

    #[test]
    fn rates_are_differences_and_counters_may_begin_anew() {
        let stats = |packets| types::Stats {
            echoes: vec![NamedCount { name: "e".to_owned(), count: Count { packets, bytes: packets * 100 } }],
            ..types::Stats::default()
        };
        let packets = |new, old| difference(&stats(new), &stats(old)).echoes[0].count.packets;
        assert_eq!(packets(15, 10), 5);
        assert_eq!(packets(3, 10), 3);
        assert_eq!(difference(&stats(7), &types::Stats::default()).echoes[0].count.packets, 7);
    }
}
