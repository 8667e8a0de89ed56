//! `netfast target drain`.

use std::time::Duration;

use indicatif::ProgressBar;
use tokio::time::{Instant, sleep};

use super::{
    Context,
    change::{self, ChangeFlags},
    failure::{Failure, Outcome},
    units, values,
};
use crate::api::types::{Endpoint, Operation, Stats};

/// How often the agent is asked while a target drains. It counts flows every few seconds.
const EVERY: Duration = Duration::from_millis(500);

/// Makes a target drain: it keeps the flows that it has and gets no new ones
///
/// New flows go to the other targets; a UDP forward with `on_drain = "move"` also moves the flows that there are. That the
/// target drains is part of the rules: it stays so until --undo, over restarts of the agent, too. With --wait the command
/// ends when the target has no flows left (TCP connections that were closed are not counted), with exit code 1 if it still
/// has some at the timeout.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast target drain web 10.0.0.12:8443
  netfast target drain web 10.0.0.12:8443 --wait --timeout 5m && ssh 10.0.0.12 systemctl restart nginx
  netfast target drain web 10.0.0.12:8443 --undo")]
pub struct Drain {
    /// Name of the forward
    forward: String,
    /// The target's ADDRESS:PORT
    address: Endpoint,
    /// Give it new flows again
    #[arg(long, conflicts_with = "wait")]
    undo: bool,
    /// Wait until the target has no flows left
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value = "60s", requires = "wait", value_parser = values::interval)]
    timeout: Duration,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Drain {
    /// Runs the verb.
    ///
    /// # Errors
    /// What the agent answered; that flows are left at the timeout.
    pub async fn run(self, context: &Context) -> Outcome {
        let Self { forward, address, undo, wait, timeout, flags } = self;
        let operation = Operation::TargetDrain { forward: forward.clone(), address, drain: !undo };
        let reply = change::send(context, &flags, vec![operation]).await?;
        change::print(context, &reply)?;
        if !wait {
            return Ok(());
        }
        // A target of a range may be named by its first port.
        let name = reply.changes.iter().find(|change| change.kind == "target").map(|change| &change.name);
        let target =
            name.and_then(|name| name.split_once('/')).map_or(address.to_string(), |(_, a)| a.to_owned());
        empty(context, &forward, &target, timeout).await
    }
}

/// Waits until a target has no flows.
async fn empty(context: &Context, forward: &str, target: &str, timeout: Duration) -> Outcome {
    let output = context.output;
    let generation = context.client.status().await?.generation;
    let end = Instant::now() + timeout;
    let spinner = if output.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    spinner.enable_steady_tick(Duration::from_millis(100));
    loop {
        let left = left(&context.client.stats().await?, generation, forward, target);
        if left == Some(0) {
            spinner.finish_and_clear();
            output.note(&format!("target {forward}/{target} has no flows left"));
            return Ok(());
        }
        let flows = left.map_or("flows are being counted".to_owned(), |left| format!("{} left", flows(left)));
        if Instant::now() >= end {
            spinner.finish_and_clear();
            output.note(&format!(
                "target {forward}/{target}: {flows} after {}",
                units::seconds(timeout.as_secs())
            ));
            return Err(Failure::Negative);
        }
        // Draws on a terminal only.
        spinner.set_message(format!("target {forward}/{target} drains: {flows}"));
        sleep(EVERY.min(end - Instant::now())).await;
    }
}

fn flows(count: u64) -> String {
    format!("{count} flow{}", if count == 1 { "" } else { "s" })
}

/// Flows that the target has left; nothing as long as they were last counted under rules older than `generation`.
fn left(stats: &Stats, generation: u32, forward: &str, target: &str) -> Option<u64> {
    let age = generation.wrapping_sub(stats.flows.generation);
    if age != 0 && age < u32::MAX / 2 {
        return None;
    }
    let row = stats.targets.iter().find(|row| row.forward == forward && row.target == target);
    Some(row.map_or(0, |row| row.open))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{FlowSummary, TargetCount};

    #[test]
    fn flows_counted_before_the_change_say_nothing() {
        let counted = |generation| Stats {
            flows: FlowSummary { generation, ..FlowSummary::default() },
            targets: vec![TargetCount {
                forward: "web".to_owned(),
                target: "10.0.0.11:80".to_owned(),
                flows: 9,
                open: 3,
                ..TargetCount::default()
            }],
            ..Stats::default()
        };
        let of = |counted_at, generation| left(&counted(counted_at), generation, "web", "10.0.0.11:80");
        assert_eq!(None, of(6, 7));
        assert_eq!(Some(3), of(7, 7));
        assert_eq!(Some(3), of(9, 7), "under later rules");
        assert_eq!(None, of(u32::MAX, 2), "the generation has turned over");
        assert_eq!(Some(0), left(&counted(7), 7, "web", "10.0.0.12:80"), "it is gone");
    }
}
