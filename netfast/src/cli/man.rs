//! `netfast man`.

use std::{fs, path::PathBuf};

use clap_mangen::Man as Page;

use super::{
    failure::{Failure, Outcome},
    output::Output,
};

/// Prints the manual page, or writes the pages of all verbs into a directory
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  netfast man | man -l -
  netfast man /usr/local/share/man/man1")]
pub struct Man {
    /// Directory to write netfast.1, netfast-forward.1, netfast-forward-add.1 … to; it is made if it is missing
    directory: Option<PathBuf>,
}

impl Man {
    /// Prints or writes.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn run(self, output: Output) -> Outcome {
        let mut command = super::command().disable_help_subcommand(true);
        let Some(directory) = self.directory else {
            return output.text(&page(&command)?.1);
        };
        command.build();
        fs::create_dir_all(&directory).map_err(|error| Failure::file("make", &directory, &error))?;
        let number = write(&command, &directory)?;
        output.note(&format!("{number} pages written to {}", directory.display()));
        Ok(())
    }
}

/// Writes the page of a command and of all below it; says how many.
fn write(command: &clap::Command, directory: &std::path::Path) -> Result<usize, Failure> {
    let (name, text) = page(command)?;
    let path = directory.join(name);
    fs::write(&path, text).map_err(|error| Failure::file("write", &path, &error))?;
    let mut number = 1;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        number += write(below, directory)?;
    }
    Ok(number)
}

/// Name and text of a command's page.
fn page(command: &clap::Command) -> Result<(String, String), Failure> {
    let page = Page::new(command.clone())
        .source(concat!("netfast ", env!("CARGO_PKG_VERSION")))
        .manual("netfast manual");
    let mut text = Vec::new();
    page.render(&mut text)?;
    // What clap calls extra has headings of its own here; its lines stay lines.
    let text = String::from_utf8_lossy(&text)
        .replace(".SH EXTRA\n", "")
        .replace("\nExit codes:\n", "\n.SH \"EXIT STATUS\"\n.nf\n")
        .replace("\nExamples:\n", "\n.SH EXAMPLES\n.nf\n");
    Ok((page.get_filename(), text))
}
