//! `netfast set`.

use std::{collections::BTreeSet, path::PathBuf};

use ipnet::IpNet;
use serde::Serialize;

use super::{
    Context,
    change::{self, ChangeFlags},
    failure::{Failure, Outcome},
    files, values,
};
use crate::{
    api::types::{self, AddressSet, ErrorCode, Intent, Operation, SCHEMA_VERSION},
    config::Report,
};

/// Sets of addresses, which filter rules refer to as @NAME
#[derive(Debug, clap::Subcommand)]
pub enum Set {
    List(List),
    Show(Show),
    Put(Put),
    Add(Add),
    Remove(Remove),
    Delete(Delete),
}

/// Lists the sets with their sizes
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast set list
  netfast set list -o json")]
pub struct List {}

/// Shows the addresses of a set, one a line
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast set show bad
  netfast set show bad | netfast set put worse --file -")]
pub struct Show {
    /// Name of the set
    name: String,
}

/// Creates a set, or replaces its addresses
///
/// Rules that refer to it match the new addresses from the same moment on.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast set put bad 203.0.113.0/24 198.51.100.7 2001:db8:bad::/48
  curl -s https://example.org/blocklist.txt | netfast set put blocklist --file -
  netfast filter add drop --src @blocklist")]
pub struct Put {
    /// Name of the set
    name: String,
    /// Its prefixes and addresses
    #[arg(value_name = "PREFIX", value_parser = values::prefix)]
    addresses: Vec<IpNet>,
    /// Take prefixes from this file too, one a line; what follows a # is not read; - is stdin
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Free text
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Adds addresses to a set
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast set add bad 198.51.100.8")]
pub struct Add {
    #[command(flatten)]
    members: Members,
}

/// Removes addresses from a set
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast set remove bad 198.51.100.8")]
pub struct Remove {
    #[command(flatten)]
    members: Members,
}

#[derive(Debug, clap::Args)]
struct Members {
    /// Name of the set
    name: String,
    /// Prefixes and addresses, as they stand in the set
    #[arg(required = true, value_name = "PREFIX", value_parser = values::prefix)]
    addresses: Vec<IpNet>,
    #[command(flatten)]
    flags: ChangeFlags,
}

/// Deletes sets that no rule refers to
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast set delete bad")]
pub struct Delete {
    /// Names of the sets
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    flags: ChangeFlags,
}

impl Set {
    /// Runs the verb.
    ///
    /// # Errors
    /// What the agent answered.
    pub async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::List(_) => list(context).await,
            Self::Show(Show { name }) => {
                let intent = context.client.intent().await?;
                show(context, &intent, &name)
            }
            Self::Put(Put { name, mut addresses, file, comment, flags }) => {
                if let Some(file) = file {
                    addresses.extend(read(&file)?);
                }
                let set = AddressSet { name, addresses: sorted(addresses), comment };
                change::submit(context, &flags, vec![Operation::SetPut { set }]).await
            }
            Self::Add(Add { members }) => {
                edit(context, members, |present, given| {
                    present.extend(given.iter().copied());
                    Ok(())
                })
                .await
            }
            Self::Remove(Remove { members }) => {
                edit(context, members, |present, given| match given.iter().find(|net| !present.remove(net)) {
                    Some(net) => Err(values::show_prefix(*net)),
                    None => Ok(()),
                })
                .await
            }
            Self::Delete(Delete { names, flags }) => {
                let operations = names.into_iter().map(|name| Operation::SetDelete { name });
                change::submit(context, &flags, operations).await
            }
        }
    }
}

fn sorted(mut addresses: Vec<IpNet>) -> Vec<IpNet> {
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// The prefixes in a file.
fn read(file: &std::path::Path) -> Result<Vec<IpNet>, Failure> {
    let (name, text) = files::read(file)?;
    let mut addresses = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let words = line.split('#').next().unwrap_or_default();
        let word = words.trim();
        let begin = start + words.len() - words.trim_start().len();
        start += line.len();
        if word.is_empty() {
            continue;
        }
        let net = types::prefix(word)
            .map_err(|error| Report::at(&name, &text, Some(begin..begin + word.len()), error.0))?;
        addresses.push(net);
    }
    Ok(addresses)
}

fn find<'a>(intent: &'a Intent, name: &str) -> Result<&'a AddressSet, Failure> {
    let sets = &intent.rules.sets;
    sets.iter()
        .find(|set| set.name == name)
        .ok_or_else(|| Failure::unknown("set", name, sets.iter().map(|set| set.name.as_str())))
}

/// So often a set is looked at anew because somebody else has changed the rules meanwhile.
const ATTEMPTS: u32 = 100;

/// Changes a set as it is at present. What somebody else does meanwhile is not lost: then it begins anew.
async fn edit(
    context: &Context,
    members: Members,
    change: impl Fn(&mut BTreeSet<IpNet>, &[IpNet]) -> Result<(), String>,
) -> Outcome {
    let Members { name, addresses, flags } = members;
    let given: Vec<IpNet> = addresses.iter().map(IpNet::trunc).collect();
    let mut attempt = 1;
    loop {
        let intent = context.client.intent().await?;
        let present = find(&intent, &name)?;
        let mut next: BTreeSet<IpNet> = present.addresses.iter().copied().collect();
        change(&mut next, &given).map_err(|missing| {
            Failure::not_found(format_args!("{missing} does not stand in set {name:?}"))
        })?;
        let set = AddressSet { addresses: next.into_iter().collect(), ..present.clone() };
        match change::send(context, &flags.at(intent.revision), vec![Operation::SetPut { set }]).await {
            Err(Failure::Error(error))
                if error.code == ErrorCode::Conflict && !flags.names_revision() && attempt < ATTEMPTS =>
            {
                attempt += 1;
            }
            answer => return change::print(context, &answer?),
        }
    }
}

#[derive(Serialize)]
struct OneSet<'a> {
    schema_version: u32,
    revision: u64,
    set: &'a AddressSet,
}

async fn list(context: &Context) -> Outcome {
    let intent = context.client.intent().await?;
    let (output, sets) = (context.output, &intent.rules.sets);
    if output.is_json() {
        return output.json_rules("sets", intent.revision, sets);
    }
    if sets.is_empty() {
        output.note("no sets; make one: netfast set put bad 203.0.113.0/24 198.51.100.7");
        return Ok(());
    }
    let rows = sets.iter().map(|set| {
        let reference = types::Addresses::Set(set.name.clone());
        let names = |list: &Option<types::Many<types::Addresses>>| {
            list.iter().flat_map(types::Many::iter).any(|item| *item == reference)
        };
        let rules = intent.rules.filters.iter().filter(|rule| names(&rule.src) || names(&rule.dst)).count();
        vec![
            set.name.clone(),
            set.addresses.len().to_string(),
            rules.to_string(),
            set.comment.clone().unwrap_or_default(),
        ]
    });
    output.table(&["NAME", "ADDRESSES", "RULES", "COMMENT"], &["ADDRESSES", "RULES"], rows.collect())
}

fn show(context: &Context, intent: &Intent, name: &str) -> Outcome {
    let (output, set) = (context.output, find(intent, name)?);
    if output.is_json() {
        return output.json(&OneSet { schema_version: SCHEMA_VERSION, revision: intent.revision, set });
    }
    if set.addresses.is_empty() {
        output.note(&format!("set {name} is empty"));
    }
    let lines: Vec<String> = set.addresses.iter().copied().map(values::show_prefix).collect();
    output.text(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}
