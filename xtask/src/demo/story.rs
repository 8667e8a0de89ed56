//! What the demo prints: chapters, the commands as one would type them, what came back, and what was checked.

use std::{
    fmt::Display,
    io::{IsTerminal as _, Write as _},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};

/// The story so far.
#[derive(Debug)]
pub struct Story {
    color: bool,
    chapters: u32,
    held: u32,
    failed: Vec<String>,
    began: Instant,
}

impl Story {
    /// Begins one.
    pub fn new() -> Self {
        let color = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { color, chapters: 0, held: 0, failed: Vec::new(), began: Instant::now() }
    }

    /// A chapter; whatever goes wrong in it is told, counted, and no reason not to go on.
    pub fn chapter(&mut self, title: &str, work: impl FnOnce(&mut Self) -> Result<()>) {
        self.chapters += 1;
        let title = format!("{}. {title}", self.chapters);
        self.line(&format!("\n{}", self.paint("1", &title)));
        if let Err(error) = work(self) {
            self.fail(&format!("{error:#}"));
        }
    }

    /// A remark.
    pub fn say(&self, text: &str) {
        for line in text.lines() {
            self.line(format!("   {line}").trim_end());
        }
    }

    /// A command as one would type it.
    pub fn typed(&self, place: &str, line: &str) {
        self.line(&format!("   {} {}", self.paint("2", &format!("{place}$")), self.paint("36", line)));
    }

    /// What a command wrote.
    pub fn answer(&self, text: &str) {
        for line in text.trim_end().lines() {
            self.line(format!("     {line}").trim_end());
        }
    }

    /// Something that held; or an error that says what did not.
    pub fn check(&mut self, held: bool, what: impl Display) -> Result<()> {
        ensure!(held, "{what}");
        self.held += 1;
        self.line(&format!("   {} {what}", self.paint("32", "✓")));
        Ok(())
    }

    fn fail(&mut self, what: &str) {
        self.line(&format!("   {} {}", self.paint("31", "✗"), what.trim_end().replace('\n', "\n     ")));
        self.failed.push(what.lines().next().unwrap_or_default().to_owned());
    }

    /// Shows and runs a command; its output. An error if it does not end with success.
    pub fn run(&self, place: &str, shown: &str, command: &mut Command) -> Result<String> {
        self.typed(place, shown);
        let output = command.output().map_err(|error| anyhow!("cannot run {shown}: {error}"))?;
        let text = [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat();
        self.answer(&text);
        if !output.status.success() {
            bail!("`{shown}` ended with {}", output.status);
        }
        Ok(text)
    }

    /// Runs something long with a spinner on a terminal.
    pub fn during<T>(&self, what: &str, work: impl FnOnce() -> T) -> T {
        let spinner = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("   {spinner} {msg} ({elapsed})") {
            spinner.set_style(style);
        }
        spinner.set_message(what.to_owned());
        spinner.enable_steady_tick(Duration::from_millis(120));
        let result = work();
        spinner.finish_and_clear();
        result
    }

    /// A table: the first row is its head, columns but the first are right-aligned.
    pub fn table(&self, rows: &[Vec<String>]) {
        let width = |column: usize| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        for (number, row) in rows.iter().enumerate() {
            let cells: Vec<String> = row
                .iter()
                .enumerate()
                .map(|(column, cell)| match column {
                    0 => format!("{cell:<width$}", width = width(column)),
                    _ => format!("{cell:>width$}", width = width(column)),
                })
                .collect();
            let line = cells.join("   ");
            self.say(line.trim_end());
            if number == 0 {
                self.say(&"─".repeat(line.chars().count()));
            }
        }
    }

    /// The last words. An error if anything did not hold.
    pub fn end(self) -> Result<()> {
        let seconds = self.began.elapsed().as_secs_f64();
        if self.failed.is_empty() {
            let line = format!("All {} checks held ({seconds:.0} s).", self.held);
            self.line(&format!("\n{}", self.paint("1;32", &line)));
            return Ok(());
        }
        let count = self.failed.len();
        self.line(&format!("\n{}", self.paint("1;31", &format!("{count} of the chapters did not hold:"))));
        for what in &self.failed {
            self.line(&format!("  ✗ {what}"));
        }
        bail!("the demo failed: {count} of {} chapters", self.chapters)
    }

    /// True if nothing has failed so far.
    pub fn holds(&self) -> bool {
        self.failed.is_empty()
    }

    fn line(&self, line: &str) {
        // Where nobody listens any more, the checks still count.
        let _ = writeln!(std::io::stdout(), "{line}");
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.color { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}
