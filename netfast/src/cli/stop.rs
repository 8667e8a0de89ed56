//! `netfast stop`.

use std::{fs, time::Duration};

use super::{Context, failure::Outcome};
use crate::api::types::StopRequest;

/// Stops the agent
///
/// The XDP program stays in the kernel and goes on forwarding; the next agent takes it over without losing a flow. With
/// --detach everything goes: programs, maps and flows; the interfaces are as if netfast had never been there.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast stop
  netfast stop --detach")]
pub struct Stop {
    /// Also detach from every interface and remove programs and maps: all flows end
    #[arg(long)]
    detach: bool,
}

impl Stop {
    /// Asks the agent to end.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let reply = context.client.stop(StopRequest { detach: self.detach }).await?;
        let ended = ended(reply.pid).await;
        if !ended {
            context.output.warning(&format!("the agent (pid {}) is still busy ending", reply.pid));
        }
        if context.output.is_json() {
            return context.output.json(&reply);
        }
        let what = if reply.detach {
            "detached from every interface"
        } else {
            "traffic goes on; `netfast stop --detach` would have ended it too"
        };
        context.output.done(&format!(
            "agent (pid {}) {}: {what}",
            reply.pid,
            if ended { "stopped" } else { "stops" }
        ))
    }
}

/// Waits until the process has ended, so that the next agent can start at once. False: it has not after a good while.
async fn ended(pid: u32) -> bool {
    for _ in 0..100 {
        // "PID (NAME) STATE ..."; a zombie has ended, whoever is to reap it.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return true };
        if stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with(['Z', 'X'])) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    false
}
