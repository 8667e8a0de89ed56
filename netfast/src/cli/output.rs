//! Where output goes: data to stdout, everything else to stderr.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal, Write},
};

use clap::ValueEnum;
use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, Width};
use serde::Serialize;

use super::failure::Outcome;
use crate::{
    api::types::{ErrorBody, ErrorCode, ErrorReply, SCHEMA_VERSION},
    config::Report,
};

/// The form of the data on stdout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns for a person, numbers in human units
    #[default]
    Table,
    /// Like table, with more columns and exact numbers
    Wide,
    /// One JSON document with schema_version
    Json,
    /// One JSON object a line
    Jsonl,
}

/// Columns whose cells are several words: they alone are broken where a terminal is too narrow. An address that is
/// broken cannot be copied.
const PROSE: &[&str] = &["ALLOW", "COMMENT", "MATCH", "MEANING", "PROBLEM", "TARGETS"];

/// So narrow they become at most.
const PROSE_WIDTH: u16 = 24;

/// A colour, where colours are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// Good.
    Green,
    /// Look at this.
    Yellow,
    /// Bad.
    Red,
    /// Headings.
    Bold,
}

/// Stdout and stderr, and how to write to them.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    /// The form that the user asked for.
    pub format: Format,
    /// Print nothing but data that was asked for, and errors.
    pub quiet: bool,
    color: bool,
}

impl Output {
    /// `color` says whether colours are allowed at all; they still go to terminals only.
    pub fn new(format: Format, quiet: bool, color: bool) -> Self {
        Self { format, quiet, color }
    }

    /// Whether stdout gets JSON of some form.
    pub fn is_json(self) -> bool {
        matches!(self.format, Format::Json | Format::Jsonl)
    }

    /// Whether tables show everything, exactly.
    pub fn is_wide(self) -> bool {
        self.format == Format::Wide
    }

    /// Whether stdout is a terminal.
    pub fn is_terminal(self) -> bool {
        io::stdout().is_terminal()
    }

    /// Rows of the terminal that stdout is.
    pub fn rows(self) -> Option<usize> {
        let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCGWINSZ writes one winsize to where it is told; `size` lives until it has.
        let asked = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };
        (asked == 0 && size.ws_row > 0).then_some(usize::from(size.ws_row))
    }

    /// Text as it is.
    ///
    /// # Errors
    /// If stdout cannot be written.
    pub fn text(self, text: &str) -> Outcome {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes())?;
        Ok(out.flush()?)
    }

    /// A line.
    ///
    /// # Errors
    /// See [`Self::text`].
    pub fn line(self, line: &str) -> Outcome {
        self.text(&format!("{line}\n"))
    }

    /// A line about what was done; `-q` hides it.
    ///
    /// # Errors
    /// See [`Self::text`].
    pub fn done(self, line: &str) -> Outcome {
        if self.quiet { Ok(()) } else { self.line(line) }
    }

    /// A JSON document: indented for `json`, on one line for `jsonl`.
    ///
    /// # Errors
    /// See [`Self::text`].
    pub fn json<T: Serialize>(self, document: &T) -> Outcome {
        let text = match self.format {
            Format::Jsonl => serde_json::to_string(document),
            _ => serde_json::to_string_pretty(document),
        };
        self.line(&text.map_err(io::Error::from)?)
    }

    /// A list: for `json` the whole document, for `jsonl` each item with its own `schema_version`.
    ///
    /// # Errors
    /// See [`Self::text`].
    pub fn json_list<D: Serialize, T: Serialize>(self, document: &D, items: &[T]) -> Outcome {
        if self.format != Format::Jsonl {
            return self.json(document);
        }
        let mut out = io::BufWriter::new(io::stdout().lock());
        for item in items {
            serde_json::to_writer(&mut out, &Item { schema_version: SCHEMA_VERSION, item })
                .map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        }
        Ok(out.flush()?)
    }

    /// A list of rules as JSON: [`Self::json_list`] of a document with `schema_version`, `revision` and the items as `name`.
    ///
    /// # Errors
    /// See [`Self::text`].
    pub fn json_rules<T: Serialize>(self, name: &str, revision: u64, items: &[T]) -> Outcome {
        self.json_list(
            &RuleList { schema_version: SCHEMA_VERSION, revision, items: [(name, items)].into() },
            items,
        )
    }

    /// A table; its columns are of text, but those of `numbers`.
    ///
    /// # Errors
    /// See [`Self::text`].
    pub fn table(self, columns: &[&str], numbers: &[&str], rows: Vec<Vec<String>>) -> Outcome {
        self.text(&self.table_text(columns, numbers, rows))
    }

    /// What [`Self::table`] prints.
    pub fn table_text(self, columns: &[&str], numbers: &[&str], rows: Vec<Vec<String>>) -> String {
        let mut table = Table::new();
        table.load_preset(comfy_table::presets::NOTHING);
        // Only a terminal has a width; in a pipe a row stays a line.
        let wraps = self.is_terminal() && columns.iter().any(|column| PROSE.contains(column));
        table.set_content_arrangement(if wraps {
            ContentArrangement::Dynamic
        } else {
            ContentArrangement::Disabled
        });
        let widths: Vec<u16> = (0..columns.len())
            .map(|index| rows.iter().filter_map(|row| row.get(index)).map(|cell| cell.chars().count()).max())
            .map(|width| u16::try_from(width.unwrap_or_default()).unwrap_or(u16::MAX))
            .collect();
        table.set_header(columns);
        table.add_rows(rows);
        for (index, name) in columns.iter().enumerate() {
            if let Some(column) = table.column_mut(index) {
                column.set_padding((0, 2));
                if numbers.contains(name) {
                    column.set_cell_alignment(CellAlignment::Right);
                }
                column.set_constraint(if PROSE.contains(name) {
                    let longest = widths.get(index).copied().unwrap_or_default();
                    ColumnConstraint::LowerBoundary(Width::Fixed(longest.min(PROSE_WIDTH) + 2))
                } else {
                    ColumnConstraint::ContentWidth
                });
            }
        }
        let text = table.trim_fmt();
        let (head, rest) = text.split_once('\n').unwrap_or((&text, ""));
        format!("{}\n{rest}\n", self.paint(Paint::Bold, head))
    }

    /// A remark on stderr; `-q` hides it.
    pub fn note(self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// A warning on stderr; `-q` hides it.
    pub fn warning(self, text: &str) {
        if !self.quiet {
            say(&format!("{} {text}", self.paint_for(io::stderr().is_terminal(), Paint::Yellow, "warning:")));
        }
    }

    /// An error on stderr, for `-o json` and `jsonl` as JSON.
    pub fn error(self, error: &ErrorBody) {
        if self.is_json() {
            match serde_json::to_string(&ErrorReply { error: error.clone() }) {
                Ok(json) => say(&json),
                Err(_) => say(&error.message),
            }
            return;
        }
        let word = self.paint_for(io::stderr().is_terminal(), Paint::Red, "error:");
        match &error.field {
            // Elsewhere the message says it in better words.
            Some(field) if error.code == ErrorCode::Rejected && !error.message.contains(field.as_str()) => {
                say(&format!("{word} {field}: {}", error.message));
            }
            _ => say(&format!("{word} {}", error.message)),
        }
    }

    /// What is wrong with a file, on stderr: each problem with its place.
    pub fn report(self, report: &Report) {
        if self.is_json() {
            self.error(&ErrorBody::from(report.clone()));
        } else {
            say(&report.to_string());
        }
    }

    /// Text in colour if stdout is a terminal and colours are wanted.
    pub fn paint(self, paint: Paint, text: &str) -> String {
        self.paint_for(self.is_terminal(), paint, text)
    }

    fn paint_for(self, terminal: bool, paint: Paint, text: &str) -> String {
        if !(self.color && terminal) {
            return text.to_owned();
        }
        let code = match paint {
            Paint::Green => 32,
            Paint::Yellow => 33,
            Paint::Red => 31,
            Paint::Bold => 1,
        };
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}

#[derive(Serialize)]
struct Item<'a, T> {
    schema_version: u32,
    #[serde(flatten)]
    item: &'a T,
}

#[derive(Serialize)]
struct RuleList<'a, T> {
    schema_version: u32,
    revision: u64,
    #[serde(flatten)]
    items: BTreeMap<&'a str, &'a [T]>,
}

/// A line to stderr. If that is closed there is nobody to tell.
fn say(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
