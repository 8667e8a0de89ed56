//! `netfast agent`: the daemon.

use std::path::PathBuf;

use super::{
    failure::{Failure, Outcome},
    output::Output,
};
use crate::api::types::ErrorCode;

/// Where agent.toml is.
pub const DEFAULT_CONFIG: &str = "/etc/netfast/agent.toml";

/// Runs the agent (the daemon)
///
/// Loads the XDP program, or adopts what an earlier agent left in the kernel, attaches it to the interfaces, and keeps
/// everything in step with the rules until it is stopped. It runs in the foreground. Stopping or killing it does not stop
/// the traffic: the kernel goes on by itself until the next agent takes over (see `netfast stop --detach` for the end of it).
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast agent
  netfast agent --config ./agent.toml
  systemctl start netfast")]
pub struct Agent {
    /// Configuration; without this flag a missing /etc/netfast/agent.toml means the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Agent {
    /// Runs it until it is stopped.
    ///
    /// # Errors
    /// If it cannot start, or had to end.
    pub fn run(self, _output: Output) -> Outcome {
        let path = self.config.unwrap_or_else(|| DEFAULT_CONFIG.into());
        Err(Failure::new(
            ErrorCode::Unavailable,
            format_args!("this build has no agent yet (configuration: {})", path.display()),
        ))
    }
}
