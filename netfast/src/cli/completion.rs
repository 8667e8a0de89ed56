//! `netfast completion`.

use clap_complete::Shell;

use super::{failure::Outcome, output::Output};

/// Prints a completion script for a shell
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast completion bash > /usr/share/bash-completion/completions/netfast
  netfast completion zsh > /usr/local/share/zsh/site-functions/_netfast
  netfast completion fish > ~/.config/fish/completions/netfast.fish")]
pub struct Completion {
    /// The shell
    shell: Shell,
}

impl Completion {
    /// Prints it.
    ///
    /// # Errors
    /// If stdout cannot be written.
    pub fn run(self, output: Output) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut super::command(), "netfast", &mut script);
        output.text(&String::from_utf8_lossy(&script))
    }
}
