//! A verb's steps: a line when one begins and ends, and a summary at the end.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

/// What a verb has done so far.
#[derive(Debug)]
pub struct Steps {
    verb: &'static str,
    began: Instant,
    done: Vec<Done>,
}

#[derive(Debug)]
struct Done {
    name: String,
    took: Duration,
    error: Option<String>,
}

impl Steps {
    /// The steps of the verb of this name.
    pub fn new(verb: &'static str) -> Self {
        Self { verb, began: Instant::now(), done: Vec::new() }
    }

    /// Runs a step; true if it succeeded. Its failure is printed, kept for [`Steps::finish`], and no reason to stop.
    ///
    /// # Errors
    /// When the process was interrupted.
    pub fn run(&mut self, name: &str, step: impl FnOnce() -> Result<()>) -> Result<bool> {
        interrupt::check()?;
        eprintln!("{}: {name} ...", self.verb);
        let began = Instant::now();
        let error = step().err().map(|error| format!("{error:#}"));
        interrupt::check()?;
        let done = Done { name: name.to_owned(), took: began.elapsed(), error };
        let succeeded = done.error.is_none();
        eprintln!("{}", done.line(self.verb));
        self.done.push(done);
        Ok(succeeded)
    }

    /// Prints the summary; an error if a step failed.
    pub fn finish(self) -> Result<()> {
        eprintln!("\n{}: summary", self.verb);
        for done in &self.done {
            eprintln!("  {:>8}  {:6}  {}", seconds(done.took), done.result(), done.name);
        }
        eprintln!("  {:>8}  in all", seconds(self.began.elapsed()));
        let failed: Vec<_> =
            self.done.iter().filter(|done| done.error.is_some()).map(|done| done.name.as_str()).collect();
        if !failed.is_empty() {
            bail!("{} failed: {}", self.verb, failed.join(", "));
        }
        Ok(())
    }
}

impl Done {
    fn result(&self) -> &'static str {
        if self.error.is_some() { "FAILED" } else { "ok" }
    }

    fn line(&self, verb: &str) -> String {
        let line = format!("{verb}: {}: {} ({})", self.name, self.result(), seconds(self.took));
        match &self.error {
            Some(error) => format!("{line}: {error}"),
            None => line,
        }
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
