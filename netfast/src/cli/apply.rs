//! `netfast apply`.

use std::path::PathBuf;

use super::{
    Context,
    change::{self, ChangeFlags},
    failure::Outcome,
    files,
};
use crate::api::types::Operation;

/// Makes the agent's rules those of a file, in one transaction
///
/// Every forward, echo reflector and filter rule in the file is created or replaced; all of it is done, or nothing.
/// Applying the same file again changes nothing. Forwards and echo reflectors that are not in the file stay, unless
/// --prune is given. Filter rules are one ordered list: if the file has any, they replace the whole list.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast apply -f rules.toml --dry-run --prune
  netfast apply -f rules.toml --prune
  netfast export > rules.toml && $EDITOR rules.toml && netfast apply -f rules.toml
  make-rules | netfast apply -f - --if-revision 12")]
pub struct Apply {
    /// The rules file; - is stdin
    #[arg(short, long, value_name = "FILE")]
    file: PathBuf,
    /// Delete what is not in the file
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Apply {
    /// Applies the file.
    ///
    /// # Errors
    /// What is wrong with the file, or what the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let rules = files::rules(&self.file)?;
        change::submit(context, &self.flags, vec![Operation::Apply { rules, prune: self.prune }]).await
    }
}
