//! `netfast attach` and `netfast detach`.

use super::{
    Context,
    change::{self, ChangeFlags},
    failure::Outcome,
    values::word,
};
use crate::api::types::{AttachMode, Attachment, Operation};

/// Attaches netfast to interfaces
///
/// Native mode runs in the driver, which is what makes netfast fast; where the driver cannot do it, attach refuses and
/// says so. Generic mode works on every interface and is slow. Auto takes native where it can, else generic, and says which.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast attach eth0
  netfast attach eth0 eth1
  netfast attach wlan0 --mode generic")]
pub struct Attach {
    /// Interfaces
    #[arg(required = true, value_name = "IFACE")]
    interfaces: Vec<String>,
    /// How to attach
    #[arg(long, default_value = "native", value_parser = word::<AttachMode>(AttachMode::WORDS))]
    mode: AttachMode,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Attach {
    /// Attaches, and says in which mode.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let operations = self
            .interfaces
            .iter()
            .map(|interface| Operation::Attach {
                attachment: Attachment { interface: interface.clone(), mode: self.mode },
            })
            .collect();
        let reply = change::send(context, &self.flags, operations).await?;
        change::print(context, &reply)?;
        if reply.dry_run || context.output.is_json() || context.output.quiet {
            return Ok(());
        }
        // The mode that it came to be may be another than was asked for. Attached it is, so a failure here is no failure.
        let Ok(status) = context.client.status().await else { return Ok(()) };
        for interface in status.interfaces.iter().filter(|one| self.interfaces.contains(&one.name)) {
            match (interface.attached, &interface.problem) {
                (Some(mode), _) => {
                    context
                        .output
                        .note(&format!("{}: {mode} mode, driver {}", interface.name, interface.driver));
                }
                (None, problem) => context.output.warning(&format!(
                    "{} is not attached yet: {}",
                    interface.name,
                    problem.as_deref().unwrap_or("see `netfast status`")
                )),
            }
        }
        Ok(())
    }
}

/// Detaches netfast from interfaces
///
/// Packets that come in by them go to the kernel again as if netfast were not there. Interfaces of agent.toml are attached
/// anew when the agent starts.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast detach eth0")]
pub struct Detach {
    /// Interfaces
    #[arg(required = true, value_name = "IFACE")]
    interfaces: Vec<String>,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Detach {
    /// Detaches.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let operations = self.interfaces.into_iter().map(|interface| Operation::Detach { interface });
        change::submit(context, &self.flags, operations).await
    }
}
