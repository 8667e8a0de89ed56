//! What all verbs that change something share: sending the operations and saying what came of them.

use std::{collections::HashSet, time::Duration};

use indicatif::ProgressBar;

use super::{Context, failure::Outcome};
use crate::api::types::{ChangeAction, ChangeReply, ChangeRequest, ObjectChange, Operation};

/// So many unchanged objects are listed; more are counted.
const FEW: usize = 5;

/// A change that takes longer shows that it is not forgotten.
const PATIENCE: Duration = Duration::from_millis(500);

/// Flags of every verb that changes something.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct ChangeFlags {
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Refuse (exit code 5) unless the present revision is N
    #[arg(long, value_name = "N")]
    if_revision: Option<u64>,
}

impl ChangeFlags {
    /// Whether the user said which revision is to be changed.
    pub const fn names_revision(&self) -> bool {
        self.if_revision.is_some()
    }

    /// The same, refusing unless the present revision is `revision`, if nothing was said about that.
    pub fn at(&self, revision: u64) -> Self {
        Self { if_revision: self.if_revision.or(Some(revision)), ..self.clone() }
    }
}

/// Sends the operations as one change and prints what happened, a line an object.
///
/// # Errors
/// What the agent answered.
pub async fn submit(
    context: &Context,
    flags: &ChangeFlags,
    operations: impl IntoIterator<Item = Operation>,
) -> Outcome {
    let reply = send(context, flags, operations.into_iter().collect()).await?;
    print(context, &reply)
}

/// Sends the operations as one change.
///
/// # Errors
/// What the agent answered.
pub async fn send(
    context: &Context,
    flags: &ChangeFlags,
    operations: Vec<Operation>,
) -> Result<ChangeReply, super::Failure> {
    let request = ChangeRequest { operations, dry_run: flags.dry_run, if_revision: flags.if_revision };
    let answer = context.client.change(&request);
    tokio::pin!(answer);
    tokio::select! {
        reply = &mut answer => return Ok(reply?),
        () = tokio::time::sleep(PATIENCE) => {}
    }
    // Draws on a terminal only.
    let spinner = if context.output.quiet { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    spinner.set_message("the agent is at work");
    spinner.enable_steady_tick(Duration::from_millis(100));
    let reply = answer.await;
    spinner.finish_and_clear();
    Ok(reply?)
}

/// Prints what happened.
///
/// # Errors
/// If stdout cannot be written.
pub fn print(context: &Context, reply: &ChangeReply) -> Outcome {
    let output = context.output;
    for warning in &reply.warnings {
        output.warning(warning);
    }
    if output.is_json() {
        return output.json_list(reply, &reply.changes);
    }
    if reply.changes.is_empty() {
        return output.done(&format!("nothing to change ({})", revision(reply)));
    }
    let lines = lines(reply);
    output.done(&lines.join("\n"))
}

/// A line an object. The targets of a forward that came or went as a whole are part of it; and of a large file that was
/// applied again, what stayed as it was is no news.
fn lines(reply: &ChangeReply) -> Vec<String> {
    let whole: HashSet<&str> = reply
        .changes
        .iter()
        .filter(|change| {
            change.kind == "forward" && matches!(change.action, ChangeAction::Created | ChangeAction::Deleted)
        })
        .map(|change| change.name.as_str())
        .collect();
    let part = |change: &ObjectChange| {
        change.kind == "target"
            && change.name.split_once('/').is_some_and(|(forward, _)| whole.contains(forward))
    };
    let same = reply.changes.iter().filter(|change| change.action == ChangeAction::Unchanged).count();
    let mut lines: Vec<_> = reply
        .changes
        .iter()
        .filter(|change| !part(change) && (same <= FEW || change.action != ChangeAction::Unchanged))
        .map(|change| line(change, reply))
        .collect();
    if same > FEW {
        lines.push(format!("{same} objects unchanged ({})", revision(reply)));
    }
    lines
}

/// `forward web created (revision 12)`.
fn line(change: &ObjectChange, reply: &ChangeReply) -> String {
    let ObjectChange { kind, name, action } = change;
    let done = match (kind.as_str(), action) {
        ("interface", ChangeAction::Created) => "attached",
        ("interface", ChangeAction::Deleted) => "detached",
        _ => action.as_str(),
    };
    let would = if reply.dry_run && *action != ChangeAction::Unchanged { "would be " } else { "" };
    format!("{kind} {name} {would}{done} ({})", revision(reply))
}

fn revision(reply: &ChangeReply) -> String {
    if reply.dry_run { "dry run".to_owned() } else { format!("revision {}", reply.revision) }
}
