//! `netfast agent`: the daemon.

use std::path::{Path, PathBuf};

use super::{
    failure::{Failure, Outcome},
    files,
};
use crate::{
    agent,
    api::types::ErrorCode,
    config::agent::{AgentConfig, DEFAULT_PATH},
};

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
  netfast agent --config ./trial.toml --detach
  systemctl start netfast")]
pub struct Agent {
    /// Configuration; without this flag a missing /etc/netfast/agent.toml means the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// At its end, also detach from every interface and remove programs and maps: all flows end
    #[arg(long)]
    detach: bool,
}

impl Agent {
    /// Runs it until it is stopped. A `socket` goes before that of the configuration.
    ///
    /// # Errors
    /// If it cannot start, or had to end.
    pub fn run(self, socket: Option<PathBuf>) -> Outcome {
        let mut config = match &self.config {
            None if !Path::new(DEFAULT_PATH).exists() => AgentConfig::default(),
            path => read(path.as_deref().unwrap_or(Path::new(DEFAULT_PATH)))?,
        };
        if socket.is_some() {
            config.agent.socket = socket;
        }
        agent::run(&config, agent::Options { detach: self.detach }).map_err(|error| match error.code() {
            ErrorCode::Permission => {
                let needs = "the agent runs as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON";
                Failure::new(ErrorCode::Permission, format_args!("{error} ({needs})"))
            }
            code => Failure::new(code, error),
        })
    }
}

fn read(path: &Path) -> Result<AgentConfig, Failure> {
    let (name, text) = files::read(path)?;
    Ok(AgentConfig::parse(&name, &text)?)
}
