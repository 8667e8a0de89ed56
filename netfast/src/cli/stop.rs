//! `netfast stop`.

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
        if context.output.is_json() {
            return context.output.json(&reply);
        }
        let what = if reply.detach {
            "detached from every interface"
        } else {
            "traffic goes on; `netfast stop --detach` would have ended it too"
        };
        context.output.done(&format!("agent (pid {}) stops: {what}", reply.pid))
    }
}
