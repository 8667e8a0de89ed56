//! `rules.toml`: the intent as a file.

use crate::{
    api::types::Rules,
    rules::{
        normal,
        validate::{self, Place},
    },
};

use super::{Report, Step};

/// Reads rules that make sense; `name` is the file's name for messages. The rules come back normal
/// ([`normal::normalize`]).
///
/// # Errors
/// All that is wrong with the rules, each with its place; of syntax only the first error.
pub fn parse(name: &str, text: &str) -> Result<Rules, Report> {
    let mut rules: Rules = super::parse(name, text)?;
    let problems = validate::problems(&rules);
    if !problems.is_empty() {
        let mut report = Report { file: name.to_owned(), problems: Vec::new() };
        for problem in problems {
            let span = super::locate(text, &path(&problem.place, problem.key));
            report.add(text, span, problem.message);
        }
        return Err(report);
    }
    normal::normalize(&mut rules);
    Ok(rules)
}

/// Reads rules from a file.
///
/// # Errors
/// As [`parse`]; also if the file cannot be read.
pub fn load(path: &std::path::Path) -> Result<Rules, Report> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| Report::whole(&name, format!("cannot be read: {error}")))?;
    parse(&name, &text)
}

/// Writes rules as [`parse`] reads them.
pub fn render(rules: &Rules) -> String {
    // The types of the rules have no form that TOML cannot hold (no maps, no nulls): tested for any rules.
    toml::to_string(rules)
        .unwrap_or_else(|error| format!("# these rules cannot be written as TOML: {error}\n"))
}

/// Where a problem stands in the file.
fn path(place: &Place, key: &'static str) -> Vec<Step> {
    let mut path = match place {
        Place::Whole => Vec::new(),
        Place::Forward(at) => vec![Step::Key("forward"), Step::Item(*at)],
        Place::Health(at) => vec![Step::Key("forward"), Step::Item(*at), Step::Key("health")],
        Place::Target(at, target) => {
            vec![Step::Key("forward"), Step::Item(*at), Step::Key("target"), Step::Item(*target)]
        }
        Place::Snat(at) => vec![Step::Key("snat"), Step::Item(*at)],
        Place::Echo(at) => vec![Step::Key("echo"), Step::Item(*at)],
        Place::Filter(at) => vec![Step::Key("filter"), Step::Item(*at)],
        Place::Set(at) => vec![Step::Key("set"), Step::Item(*at)],
        Place::Policy(at) => vec![Step::Key("policy"), Step::Item(*at)],
    };
    if !key.is_empty() {
        path.push(Step::Key(key));
    }
    path
}

#[cfg(test)]
mod tests;
