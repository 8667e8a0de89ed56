//! The files that an operator writes: `agent.toml` ([`agent`]) and `rules.toml` ([`rules`]).
//!
//! Both are read strictly: an unknown key is an error. An error names file, line and column, what was found there and what
//! was expected.

use std::{fmt, ops::Range};

use serde::de::DeserializeOwned;
use toml::de::{DeArray, DeTable, DeValue};

use crate::{
    api::types::{ErrorBody, ErrorCode},
    rules::suggest,
};

pub mod agent;
mod duration;
pub mod rules;

/// Everything that is wrong with a file.
///
/// `Display` shows each problem as `FILE:LINE:COLUMN: what`, with the line and a mark under the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Report {
    /// Name of the file, as the operator gave it.
    pub file: String,
    /// The problems, in the order of the file.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Line, from 1; 0: the problem has no place in the file.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// How many characters it is about.
    pub width: usize,
    /// The text of the line.
    pub text: String,
    /// What is wrong and what was expected.
    pub message: String,
}

impl Report {
    /// A report without a place, such as of a file that cannot be read.
    pub fn whole(file: &str, message: impl Into<String>) -> Self {
        let problem = Problem { line: 0, column: 0, width: 0, text: String::new(), message: message.into() };
        Self { file: file.to_owned(), problems: vec![problem] }
    }

    pub(crate) fn at(
        file: &str,
        source: &str,
        span: Option<Range<usize>>,
        message: impl Into<String>,
    ) -> Self {
        let mut report = Self { file: file.to_owned(), problems: Vec::new() };
        report.add(source, span, message);
        report
    }

    pub(crate) fn add(&mut self, source: &str, span: Option<Range<usize>>, message: impl Into<String>) {
        self.problems.push(Problem::at(source, span, message.into()));
        self.problems.sort_by_key(|p| (p.line, p.column));
    }

    /// One line per problem, without the text of the file.
    pub fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.problems.iter().map(|problem| match problem.line {
            0 => format!("{}: {}", self.file, problem.message),
            line => format!("{}:{line}:{}: {}", self.file, problem.column, problem.message),
        })
    }
}

impl Problem {
    fn at(source: &str, span: Option<Range<usize>>, message: String) -> Self {
        let Some(span) = span else {
            return Self { line: 0, column: 0, width: 0, text: String::new(), message };
        };
        let mut start = span.start.min(source.len());
        while !source.is_char_boundary(start) {
            start -= 1;
        }
        let line_start = source[..start].rfind('\n').map_or(0, |at| at + 1);
        let text = source[line_start..].lines().next().unwrap_or_default();
        let in_line = start - line_start;
        let end = span.end.saturating_sub(line_start).clamp(in_line, text.len().max(in_line));
        let width = text.get(in_line..end).map_or(1, |marked| marked.chars().count().max(1));
        Self {
            line: source[..line_start].matches('\n').count() + 1,
            column: source[line_start..start].chars().count() + 1,
            width,
            text: text.to_owned(),
            message,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (line, problem)) in self.lines().zip(&self.problems).enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            f.write_str(&line)?;
            if problem.line > 0 && !problem.text.is_empty() {
                // Tabs stay tabs in front of the mark, so that it stands below its place.
                let before: String = problem
                    .text
                    .chars()
                    .take(problem.column - 1)
                    .map(|c| if c == '\t' { '\t' } else { ' ' })
                    .collect();
                let mark = "^".repeat(problem.width);
                write!(f, "\n{:5} | {}\n      | {before}{mark}", problem.line, problem.text)?;
            }
        }
        Ok(())
    }
}

impl From<Report> for ErrorBody {
    fn from(report: Report) -> Self {
        let message = report.lines().collect::<Vec<_>>().join("\n");
        Self { code: ErrorCode::Rejected, message, field: None }
    }
}

/// Parses TOML into `T`.
fn parse<T: DeserializeOwned>(file: &str, source: &str) -> Result<T, Report> {
    toml::from_str(source).map_err(|error| Report::at(file, source, error.span(), plain(error.message())))
}

/// A step from a table or list to what is in it.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// To the value of a key.
    Key(&'static str),
    /// To an element, from 0.
    Item(usize),
}

/// The place of what `path` leads to, or of the last thing on the way that there is.
fn locate(source: &str, path: &[Step]) -> Option<Range<usize>> {
    let document = DeTable::parse(source).ok()?;
    let mut found = None;
    let mut table = Some(document.get_ref());
    let mut list = None;
    for step in path {
        let value = match step {
            Step::Key(key) => {
                table.and_then(|t| t.iter().find(|(name, _)| name.get_ref() == key)).map(|(_, value)| value)
            }
            Step::Item(at) => list.and_then(|l: &DeArray<'_>| l.get(*at)),
        };
        let Some(value) = value else { break };
        found = Some(value.span());
        (table, list) = match value.get_ref() {
            DeValue::Table(table) => (Some(table), None),
            DeValue::Array(list) => (None, Some(list)),
            _ => (None, None),
        };
    }
    found
}

/// serde's and toml's words, in ours where an operator is likely to meet them.
fn plain(message: &str) -> String {
    if let Some((got, expected)) = unknown(message, "unknown field ") {
        return match suggest::nearest(got, expected.iter().copied()) {
            Some(near) => format!("unknown key {got:?} (did you mean {near:?}?)"),
            None if expected.is_empty() => format!("unknown key {got:?}"),
            None => format!("unknown key {got:?}, expected one of: {}", expected.join(", ")),
        };
    }
    if let Some(key) = message.strip_prefix("missing field ") {
        return format!("key {} is missing", key.replace('`', "\""));
    }
    if message.starts_with("invalid IP address syntax") {
        return "not a prefix; examples: 192.0.2.0/24, 2001:db8::/32, a single address: 192.0.2.1/32"
            .to_owned();
    }
    if message.starts_with("invalid socket address syntax") {
        return "not an address with a port; examples: 127.0.0.1:9460, [::1]:9460".to_owned();
    }
    message.replace('`', "\"")
}

/// Takes ``unknown field `a`, expected one of `b`, `c` `` apart.
fn unknown<'a>(message: &'a str, prefix: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let mut quoted = message.strip_prefix(prefix)?.split('`').skip(1).step_by(2);
    let got = quoted.next()?;
    Some((got, quoted.collect()))
}
