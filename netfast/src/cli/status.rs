//! `netfast status`.

use std::fmt::Write;

use super::{
    Context,
    failure::{Failure, Outcome},
    filter,
    output::{Output, Paint},
    snat,
    units::{self, plural},
};
use crate::api::types;

/// Shows whether everything that was asked for is in place
///
/// Says what is wrong and what to do. Exit code 0: ready; 1: not ready.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast status
  netfast status --brief
  netfast status -q && echo ready")]
pub struct Status {
    /// One line
    #[arg(long)]
    brief: bool,
}

impl Status {
    /// Prints it.
    ///
    /// # Errors
    /// [`Failure::Negative`] if the agent is not ready; what it answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let status = context.client.status().await?;
        let output = context.output;
        if output.is_json() {
            output.json(&status)?;
        } else if !output.quiet {
            output.text(&if self.brief { brief(output, &status) } else { page(output, &status) })?;
        }
        if status.ready { Ok(()) } else { Err(Failure::Negative) }
    }
}

fn brief(output: Output, status: &types::Status) -> String {
    format!(
        "{}: revision {}, {}, {}, {} flows{}\n",
        ready(output, status),
        status.applied_revision,
        plural(
            status.interfaces.iter().filter(|interface| interface.attached.is_some()).count() as u64,
            "interface"
        ),
        plural(status.forwards as u64, "forward"),
        units::count(status.flows),
        match status.problems.first() {
            Some(problem) => format!("; {problem}"),
            None => String::new(),
        }
    )
}

fn ready(output: Output, status: &types::Status) -> String {
    if status.ready { output.paint(Paint::Green, "ready") } else { output.paint(Paint::Red, "NOT READY") }
}

fn page(output: Output, status: &types::Status) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{}   netfast {}, up {} (pid {})",
        ready(output, status),
        status.version,
        units::seconds(status.uptime_seconds),
        status.pid
    );
    let paint = if status.ready { Paint::Yellow } else { Paint::Red };
    for problem in &status.problems {
        let _ = writeln!(text, "  {} {problem}", output.paint(paint, "!"));
    }
    text.push('\n');
    let _ = if status.revision == status.applied_revision {
        writeln!(text, "revision   {} (generation {})", status.revision, status.generation)
    } else {
        writeln!(
            text,
            "revision   {}, but the datapath runs {} (generation {})",
            status.revision, status.applied_revision, status.generation
        )
    };
    let _ = writeln!(
        text,
        "rules      {} with {}, {}{}, {}",
        plural(status.forwards as u64, "forward"),
        plural(status.targets as u64, "target"),
        snat::count(status.snats),
        plural(status.echoes as u64, "echo reflector"),
        filter::rules(status.filters)
    );
    let _ = if output.is_wide() {
        writeln!(text, "flows      {} of {}", status.flows, status.flows_max)
    } else {
        writeln!(
            text,
            "flows      {} of {} ({})",
            units::count(status.flows),
            units::count(status.flows_max),
            units::percent(status.flows, status.flows_max)
        )
    };
    text.push('\n');
    if status.interfaces.is_empty() {
        text.push_str("no interfaces; attach one: netfast attach eth0\n");
        return text;
    }
    let mut columns = vec!["INTERFACE", "MODE", "DRIVER", "LINK", "MTU"];
    if output.is_wide() {
        columns.extend(["IFINDEX", "ASKED", "PROBLEM"]);
    }
    let rows = status
        .interfaces
        .iter()
        .map(|interface| {
            // Of one that does not exist there is nothing to tell.
            let known = |text: String| if interface.ifindex == 0 { "-".to_owned() } else { text };
            let mut row = vec![
                interface.name.clone(),
                interface.attached.map_or_else(|| "not attached".to_owned(), |mode| mode.to_string()),
                known(interface.driver.clone()),
                known(if interface.up { "up" } else { "down" }.to_owned()),
                known(interface.mtu.to_string()),
            ];
            if output.is_wide() {
                row.push(known(interface.ifindex.to_string()));
                row.push(interface.mode.to_string());
                row.push(interface.problem.clone().unwrap_or_default());
            }
            row
        })
        .collect();
    text.push_str(&output.table_text(&columns, &["MTU", "IFINDEX"], rows));
    text
}
