//! `netfast filter list` and `show`.

use crate::{
    api::types::{FilterQuery, FilterRow, FilterRule},
    cli::{Context, failure::Outcome, values},
    rules::diff,
};

/// Lists the filter rules in order; with -o wide also their counters
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast filter list
  netfast filter list -o wide --from 1001 --limit 100
  netfast filter list --unused
  netfast filter list --analysis")]
pub struct List {
    /// Begin with the rule at this position
    #[arg(long, value_name = "POSITION")]
    from: Option<usize>,
    /// Show at most N rules
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Only rules that no packet has met since they exist
    #[arg(long)]
    unused: bool,
    /// Only rules that can never decide: shadowed, redundant, contradictory ones, each with what hides it
    #[arg(long)]
    analysis: bool,
}

/// Shows a filter rule with its counters
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast filter show scanner
  netfast filter show 5")]
pub struct Show {
    /// Name or position of the rule
    rule: String,
}

impl List {
    /// Runs the verb.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let Self { from, limit, unused, analysis } = self;
        let query = FilterQuery { from, limit, rule: None, unused, analysis };
        let list = context.client.filters(&query).await?;
        let output = context.output;
        if output.is_json() {
            return output.json_list(&list, &list.filters);
        }
        if list.filters.is_empty() && (analysis || unused) {
            output.note(if analysis {
                "every rule can decide something"
            } else {
                "every rule has met a packet"
            });
            return Ok(());
        }
        if list.total == 0 && list.policies.is_empty() {
            output.note(
                "no filter rules; add one: netfast filter add drop --src 203.0.113.0/24 --proto tcp --dport 22",
            );
            return Ok(());
        }
        if list.filters.is_empty() && list.total > 0 && !analysis && !unused {
            output.note(&format!("no rule there: positions are 1 to {}", list.total));
            return Ok(());
        }
        let wide = output.is_wide() || unused;
        let mut columns = vec!["#", "ACTION"];
        if wide {
            columns.extend(["PACKETS", "BYTES"]);
        }
        columns.extend(["MATCH", "NAME", "COMMENT"]);
        if analysis {
            columns.truncate(columns.len() - 1);
            columns.push("PROBLEM");
        }
        let mut rows: Vec<Vec<String>> =
            list.filters.iter().map(|filter| row(filter, wide, analysis)).collect();
        let rest = list.filters.last().map_or(0, |last| list.total - last.position);
        if rest == 0 && !analysis && !unused {
            rows.extend(list.policies.iter().map(|policy| {
                let mut row = vec!["-".to_owned(), policy.policy.filter.to_string()];
                if wide {
                    row.extend([policy.count.packets.to_string(), policy.count.bytes.to_string()]);
                }
                let rest = format!("interface {} (policy)", policy.policy.interface);
                row.extend([rest, String::new(), String::new()]);
                row
            }));
        }
        output.table(&columns, &["#", "PACKETS", "BYTES"], rows)?;
        if limit.is_some() && rest > 0 && !analysis && !unused {
            output.note(&format!("{} of {} rules shown", list.filters.len(), list.total));
        }
        Ok(())
    }
}

fn row(filter: &FilterRow, wide: bool, analysis: bool) -> Vec<String> {
    let FilterRow { position, rule, count, hidden } = filter;
    let mut row = vec![position.to_string(), rule.action.to_string()];
    if wide {
        row.extend([count.packets.to_string(), count.bytes.to_string()]);
    }
    row.extend([describe(rule), rule.name.clone().unwrap_or_default()]);
    row.push(if analysis {
        hidden.as_ref().map(|hidden| hidden.text.clone()).unwrap_or_default()
    } else {
        rule.comment.clone().unwrap_or_default()
    });
    row
}

impl Show {
    /// Runs the verb.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let query = FilterQuery { rule: Some(self.rule), ..FilterQuery::default() };
        let list = context.client.filters(&query).await?;
        let output = context.output;
        if output.is_json() {
            return output.json_list(&list, &list.filters);
        }
        for filter in &list.filters {
            let FilterRow { position, rule, count, .. } = filter;
            let mut lines = vec![("position", position.to_string()), ("action", rule.action.to_string())];
            lines.extend(rule.name.clone().map(|name| ("name", name)));
            lines.extend(diff::fields(rule));
            lines.extend(rule.comment.clone().map(|comment| ("comment", comment)));
            lines.push(("packets", count.packets.to_string()));
            lines.push(("bytes", count.bytes.to_string()));
            for (key, value) in lines {
                output.line(&format!("{key:<12}{value}"))?;
            }
        }
        Ok(())
    }
}

/// What a rule matches and how, in the words of the command line: `src 203.0.113.0/24 proto tcp dport 22`.
fn describe(rule: &FilterRule) -> String {
    let parts: Vec<String> = diff::fields(rule)
        .into_iter()
        .map(|(key, value)| match (key, values::prefix(&value)) {
            // A single address without its length.
            ("src" | "dst", Ok(prefix)) => format!("{key} {}", values::show_prefix(prefix)),
            _ => format!("{key} {value}"),
        })
        .collect();
    if parts.is_empty() { "any packet".to_owned() } else { parts.join(" ") }
}
