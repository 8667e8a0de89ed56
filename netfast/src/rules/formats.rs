//! Filter rules in the words of others: nftables, iptables, ClassBench, JSON lines. docs/filter.md says exactly what is understood.
//! Whatever is not is an error with its place: rules that mean almost what they say would be worse than none.

mod classbench;
mod iptables;
mod jsonl;
mod nft;
mod values;

#[cfg(test)]
mod tests;

use std::{ops::Range, sync::Arc};

pub use crate::api::types::RulesFormat as Format;
use crate::{
    api::types::{FilterAction, FilterRule, Rules},
    config::{self, Report},
    rules::{normal, validate},
};

/// What a file does not say itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The chain of an nftables or iptables file.
    pub chain: Option<String>,
    /// What the rules of a ClassBench file do; the format knows no actions.
    pub action: FilterAction,
}

/// Why a text cannot be read: where, and what to do.
type Error = (Range<usize>, String);

/// Rules with the places that they came from.
#[derive(Debug, Default)]
struct Read {
    rules: Rules,
    /// Where each filter rule stands.
    places: Vec<Range<usize>>,
    /// What the operator should know, a sentence each.
    notes: Vec<String>,
}

impl Read {
    /// Adds a rule of a format that tells the IP version of each, also where addresses do.
    fn add_foreign(&mut self, mut rule: FilterRule, place: Range<usize>) {
        if validate::filter::is_version_needless(&rule) {
            rule.version = None;
        }
        self.add(rule, place);
    }

    fn add(&mut self, rule: FilterRule, place: Range<usize>) {
        self.rules.filters.push(Arc::new(rule));
        self.places.push(place);
    }
}

/// So many problems of a file are told; the first ones help most.
const MOST_TOLD: usize = 20;

/// Reads the rules of a file; `name` is its name for messages. They come back valid and normal.
///
/// # Errors
/// What is wrong with the file, with line and column.
pub fn parse(name: &str, text: &str, format: Option<Format>, choice: &Choice) -> Result<Rules, Report> {
    parse_with_notes(name, text, format, choice).map(|(rules, _)| rules)
}

/// [`parse`], with what the operator should know of the file, a sentence each.
///
/// # Errors
/// What is wrong with the file, with line and column.
pub fn parse_with_notes(
    name: &str,
    text: &str,
    format: Option<Format>,
    choice: &Choice,
) -> Result<(Rules, Vec<String>), Report> {
    let format = format.unwrap_or_else(|| detect(text));
    let read = match format {
        Format::Toml => return Ok((config::rules::parse(name, text)?, Vec::new())),
        Format::Jsonl => jsonl::parse(text),
        Format::Nft => nft::parse(text, choice),
        Format::Iptables => iptables::parse(text, false, choice),
        Format::Ip6tables => iptables::parse(text, true, choice),
        Format::Classbench => classbench::parse(text, choice.action),
    };
    let Read { mut rules, places, notes } =
        read.map_err(|(span, message)| Report::at(name, text, Some(span), message))?;
    let problems = validate::problems(&rules);
    if problems.is_empty() {
        normal::normalize(&mut rules);
        return Ok((rules, notes));
    }
    let mut report = Report { file: name.to_owned(), problems: Vec::new() };
    for problem in problems.into_iter().take(MOST_TOLD) {
        let place = match problem.place {
            validate::Place::Filter(at) => places.get(at).cloned(),
            _ => None,
        };
        report.add(text, place, problem.message);
    }
    Err(report)
}

/// The format that a text looks like.
fn detect(text: &str) -> Format {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    match first.unwrap_or_default() {
        line if line.starts_with('{') => Format::Jsonl,
        line if line.starts_with('@') => Format::Classbench,
        line if line.starts_with("table ") || line.starts_with("flush ruleset") => Format::Nft,
        line if line.starts_with('*') && text.contains("ip6tables-save") => Format::Ip6tables,
        line if line.starts_with('*') => Format::Iptables,
        _ => Format::Toml,
    }
}
