//! `netfast filter load`.

use std::path::PathBuf;

use crate::{
    api::types::{ErrorCode, FilterAction, Operation, Rules, RulesFormat},
    cli::{
        Context,
        change::{self, ChangeFlags},
        failure::{Failure, Outcome},
        files,
        values::word,
    },
    rules::formats::{self, Choice},
};

/// Replaces all filter rules by those of a file
///
/// A rules.toml with nothing but `[[filter]]`, `[[set]]` and `[[policy]]` tables; a JSON object a line, as `netfast filter
/// list -o jsonl` writes them; what `nft list ruleset` or `iptables-save` writes, as far as netfast can do the same; a set of
/// ClassBench's. What is not understood is an error with its line, and nothing is loaded; so is a file without any rule, unless
/// --append is given. Forwards and echo reflectors stay as they are.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast filter load blocklist.toml
  make-blocklist | netfast filter load -
  nft list table inet filter | netfast filter load - --dry-run
  iptables-save -t filter | netfast filter load - --chain INPUT
  netfast filter load acl1_100k --format classbench --action drop")]
pub struct Load {
    /// The file; - is stdin
    file: PathBuf,
    /// Form of the file [default: what it looks like]
    #[arg(long, value_name = "FORM", value_parser = word::<RulesFormat>(RulesFormat::WORDS))]
    format: Option<RulesFormat>,
    /// The chain to load, of an nftables or iptables file with several
    #[arg(long, value_name = "NAME")]
    chain: Option<String>,
    /// What the rules of a ClassBench file do, which knows no actions [default: drop]
    #[arg(long, value_name = "ACTION", value_parser = word::<FilterAction>(PLAIN))]
    action: Option<FilterAction>,
    /// Put the rules behind the present ones instead
    #[arg(long)]
    append: bool,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Actions that need nothing else to be said.
const PLAIN: &[&str] = &["allow", "drop", "reject", "count"];

impl Load {
    /// Runs the verb.
    ///
    /// # Errors
    /// What is wrong with the file, or what the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        let (name, text) = files::read(&self.file)?;
        let choice = Choice { chain: self.chain, action: self.action.unwrap_or_default() };
        let (rules, notes) = formats::parse_with_notes(&name, &text, self.format, &choice)?;
        for note in &notes {
            context.output.warning(note);
        }
        let Rules { forwards, snats, echoes, sets, filters, policies } = rules;
        if !forwards.is_empty() || !snats.is_empty() || !echoes.is_empty() {
            return Err(Failure::new(
                ErrorCode::Rejected,
                format_args!(
                    "{} has more than filter rules; `netfast apply -f` takes whole rules files",
                    self.file.display()
                ),
            ));
        }
        if filters.is_empty() && !self.append {
            return Err(Failure::new(
                ErrorCode::Rejected,
                format_args!(
                    "{name} has no filter rule, and would replace those that there are: `netfast filter flush` deletes \
                     them all, --append leaves them"
                ),
            ));
        }
        let operation = Operation::FilterReplace { rules: filters, sets, policies, append: self.append };
        change::submit(context, &self.flags, vec![operation]).await
    }
}
