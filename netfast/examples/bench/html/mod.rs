//! One page of a run's results: charts as inline SVG, tables, nothing from elsewhere.

mod chart;
mod log;
mod plot;

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::Value;

use self::chart::{Bar, Series, bars, lines};
use crate::report;

const STYLE: &str = include_str!("page.css");

/// The page of a document as `--json` writes it.
pub fn page(document: &Value) -> Result<String> {
    let empty = Vec::new();
    let results = document["results"].as_array().unwrap_or(&empty);
    let machine = &document["machine"];
    let mut body = String::new();
    writeln!(
        body,
        "<h1>netfast benchmark</h1><p class=\"machine\">{}, {} CPUs, Linux {}. {}.</p>",
        escape(machine["cpu"].as_str().unwrap_or("unknown CPU")),
        machine["cpus"],
        escape(machine["kernel"].as_str().unwrap_or_default()),
        escape(&report::verdict(document)),
    )?;
    if document["void"] == true {
        let parts = document["void_parts"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let parts: Vec<&str> = parts.collect();
        let what = if parts.is_empty() {
            "This run is VOID".to_owned()
        } else {
            format!("VOID are the figures of {}", parts.join(", "))
        };
        writeln!(body, "<p class=\"void\">{}: the machine was too noisy.</p>", escape(&what))?;
    }
    for part in document["failed_parts"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        writeln!(body, "<p class=\"void\">There are no figures of {}: it failed.</p>", escape(part))?;
    }
    for (title, note, chart) in charts(results) {
        if let Some(chart) = chart {
            writeln!(body, "<figure><figcaption><b>{title}</b><br>{note}</figcaption>{chart}</figure>")?;
        }
    }
    marks(&mut body, document["marks"].as_array().unwrap_or(&empty))?;
    table(&mut body, results)?;
    Ok(format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>netfast benchmark</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>{body}</body></html>\n"
    ))
}

/// Title, what is seen, chart; no chart where there are no figures.
fn charts(results: &[Value]) -> Vec<(&'static str, &'static str, Option<String>)> {
    let by_flows = [
        "prog/ref_hash_dnat",
        "prog/nat_hit",
        "prog/nat_reply",
        "prog/nat6_hit",
        "prog/dsr_hit",
        "prog/echo",
    ];
    vec![
        (
            "Nanoseconds a packet against flows",
            "The program alone, net of the empty program. Lower is better.",
            lines(&series(results, &by_flows, "flows", "net_ns"), "flows", "ns"),
        ),
        (
            "Times the one-hash DNAT against flows",
            "Net time as a ratio to the reference of the same run. Lower is better.",
            lines(&series(results, &by_flows, "flows", "ratio"), "flows", "x"),
        ),
        (
            "Millions of packets a second, live",
            "Through veth pairs in native mode, one CPU receives. Higher is better.",
            bars(&live(results), "Mpps"),
        ),
        (
            "Millions of packets a second against filter rules, live",
            "Rules that match nothing. Routed packets are of no flow; uncached: the filter is asked for each. Higher is better.",
            lines(&live_rules(results), "rules", "Mpps"),
        ),
        (
            "Nanoseconds that filter rules take of a packet, live",
            "Rules that match nothing; routed packets, net of the same box without rules. Uncached: the filter is asked for each. \
             Lower is better.",
            rules(results),
        ),
        (
            "Nanoseconds of the filter against rules",
            "Packets of no flow, nothing cached, net of an empty filter. Lower is better.",
            lines(&classify(results), "rules", "ns"),
        ),
    ]
}

/// A line for each name: points of two figures.
fn series(results: &[Value], names: &[&str], x: &str, y: &str) -> Vec<Series> {
    let line = |(number, name): (usize, &&str)| {
        let points = results.iter().filter(|row| row["name"] == **name);
        let points = points.filter_map(|row| Some((row[x].as_f64()?, row[y].as_f64()?))).collect();
        Series::new(number, name.trim_start_matches("prog/"), points)
    };
    names.iter().enumerate().map(line).filter(|line| line.points.len() > 1).collect()
}

fn live(results: &[Value]) -> Vec<Bar> {
    let of = |row: &Value| {
        let name = row["name"].as_str()?.strip_prefix("live/")?;
        Some(Bar { name: name.to_owned(), value: row["mpps"].as_f64()?, ours: is_ours(name) })
    };
    results.iter().filter_map(of).collect()
}

/// The live cases with filter rules, which stand in their names.
fn live_rules(results: &[Value]) -> Vec<Series> {
    let kinds = [
        ("live/filter_", "", "netfast, flow cached"),
        ("live/filter_", "_routed", "netfast, routed"),
        ("live/filter_", "_uncached", "netfast, uncached"),
        ("live/nft_linear_", "", "nftables, routed"),
    ];
    let line = |(number, (before, behind, name)): (usize, (&str, &str, &str))| {
        let points: Vec<(f64, f64)> = results
            .iter()
            .filter_map(|row| {
                let rules = row["name"].as_str()?.strip_prefix(before)?.strip_suffix(behind)?;
                Some((rules.parse().ok()?, row["mpps"].as_f64()?))
            })
            .collect();
        Series::new(number, name, points)
    };
    kinds.into_iter().enumerate().map(line).filter(|line| line.points.len() > 1).collect()
}

/// What `bench rules` has measured.
fn rules(results: &[Value]) -> Option<String> {
    let kinds = [
        ("rules/nft_linear_", "", "nftables, one by one", 2),
        ("rules/nft_set_", "", "nftables, one set", 3),
        ("rules/netfast_", "_uncached", "netfast, uncached", 1),
        ("rules/netfast_", "_cached", "netfast, cached", 6),
    ];
    let line = |(before, behind, name, colour): (&str, &str, &str, usize)| {
        let points: Vec<(f64, f64)> = results
            .iter()
            .filter(|row| {
                row["name"].as_str().is_some_and(|name| name.starts_with(before) && name.ends_with(behind))
            })
            .filter_map(|row| Some((row["rules"].as_f64()?, row["net_ns"].as_f64()?)))
            .collect();
        Series::new(colour, name, points)
    };
    let series: Vec<Series> = kinds.into_iter().map(line).filter(|line| line.points.len() > 1).collect();
    let resolution = results.iter().find_map(|row| row["resolution_ns"].as_f64())?;
    log::lines(
        &series,
        ("rules", "ns a packet, net of no rules"),
        resolution.max(1.0),
        &format!("not told from no rules: two turns of one case differ by {resolution:.0} ns"),
    )
}

/// The chart of `bench rules` as a file of its own.
pub fn rules_picture(results: &[Value]) -> Option<String> {
    let svg = rules(results)?;
    let head = svg.find('>')? + 1;
    let style = format!("<style>{STYLE}</style><rect width=\"100%\" height=\"100%\" fill=\"var(--back)\"/>");
    Some(format!("{}{style}{}\n", &svg[..head], &svg[head..]))
}

fn is_ours(name: &str) -> bool {
    ["echo", "nat", "filter", "dsr", "ipip"]
        .iter()
        .any(|ours| name.strip_prefix(ours).is_some_and(|rest| rest.is_empty() || rest.starts_with('_')))
}

fn classify(results: &[Value]) -> Vec<Series> {
    let rows = || results.iter().filter(|row| row["rules"].is_number());
    let mut names: Vec<&str> = Vec::new();
    for name in rows().filter_map(|row| row["name"].as_str()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let mut all = Vec::new();
    for name in names {
        for (figure, what) in [("ns_uncached", "uniform"), ("ns_uncached_zipf", "Zipf 1.1")] {
            let points: Vec<_> = rows()
                .filter(|row| row["name"] == name)
                .filter_map(|row| Some((row["rules"].as_f64()?, row[figure].as_f64()?)))
                .collect();
            if points.len() > 1 {
                all.push(Series::new(
                    all.len(),
                    &format!("{}, {what}", name.trim_start_matches("classify/")),
                    points,
                ));
            }
        }
    }
    all
}

fn marks(body: &mut String, marks: &[Value]) -> Result<()> {
    if marks.is_empty() {
        return Ok(());
    }
    *body += "<h2>Marks</h2><table><tr><th>figure<th>flows<th>is<th>mark<th></tr>";
    for mark in marks {
        let what = [&mark["of"], &mark["to"], &mark["figure"]];
        let what: Vec<&str> = what.iter().filter_map(|value| value.as_str()).collect();
        let value = mark["value"].as_f64().or_else(|| mark["ratio"].as_f64());
        let bound = match (mark["at_most"].as_f64(), mark["at_least"].as_f64()) {
            (Some(most), _) => format!("at most {most}"),
            (_, Some(least)) => format!("at least {least}"),
            _ => String::new(),
        };
        // The class is the word.
        let met = match mark["met"] == true {
            _ if mark["void"] == true => "void",
            true => "met",
            false => "missed",
        };
        writeln!(
            body,
            "<tr><td>{}<td>{}<td>{}<td>{bound}<td class=\"{met}\">{met}</tr>",
            escape(&what.join(" / ")),
            text(&mark["flows"]),
            value.map_or_else(String::new, |value| format!("{value:.3}")),
        )?;
    }
    *body += "</table>";
    Ok(())
}

fn table(body: &mut String, results: &[Value]) -> Result<()> {
    *body += "<h2>All figures</h2><table><tr><th>name<th>flows<th>ns<th>net ns<th>Mpps<th>ratio<th>to<th>more</tr>";
    let columns = ["name", "flows", "ns", "net_ns", "mpps", "ratio", "ratio_to"];
    for row in results {
        *body += "<tr>";
        for column in columns {
            write!(body, "<td>{}", escape(&text(&row[column])))?;
        }
        let rest: Vec<String> = row
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, value)| !columns.contains(&key.as_str()) && !value.is_null() && **value != false)
            .map(|(key, value)| format!("{key} {}", text(value)))
            .collect();
        writeln!(body, "<td class=\"more\">{}</tr>", escape(&rest.join(", ")))?;
    }
    *body += "</table>";
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| format!("{key} {}", text(value)));
            fields.collect::<Vec<_>>().join(" / ")
        }
        Value::Array(values) => values.iter().map(text).collect::<Vec<_>>().join(" / "),
        other => other.to_string(),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
