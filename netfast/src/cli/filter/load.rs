//! `netfast filter load`.

use std::path::PathBuf;

use crate::{
    api::types::{ErrorCode, Operation, Rules},
    cli::{
        Context,
        change::{self, ChangeFlags},
        failure::{Failure, Outcome},
        files,
    },
};

/// Replaces all filter rules by those of a file
///
/// The file is a rules.toml with nothing but `[[filter]]`, `[[set]]` and `[[policy]]` tables. Forwards and echo reflectors
/// stay as they are.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast filter load blocklist.toml
  make-blocklist | netfast filter load -")]
pub struct Load {
    /// The file; - is stdin
    file: PathBuf,
    /// Put the rules behind the present ones instead
    #[arg(long)]
    append: bool,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Load {
    /// Runs the verb.
    ///
    /// # Errors
    /// What is wrong with the file, or what the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let rules = files::rules(&self.file)?;
        let Rules { forwards, echoes, sets, filters, policies } = rules;
        if !forwards.is_empty() || !echoes.is_empty() {
            return Err(Failure::new(
                ErrorCode::Rejected,
                format_args!(
                    "{} has more than filter rules; `netfast apply -f` takes whole rules files",
                    self.file.display()
                ),
            ));
        }
        let operation = Operation::FilterReplace { rules: filters, sets, policies, append: self.append };
        change::submit(context, &self.flags, vec![operation]).await
    }
}
