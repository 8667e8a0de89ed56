//! docs/cli.md, out of what clap knows.

use std::fmt::Write;

use clap::Command;

/// The reference of the command line as Markdown. A test keeps docs/cli.md equal to it.
pub fn markdown() -> String {
    let mut command = super::command().disable_help_subcommand(true).term_width(100);
    command.build();
    let mut text = String::from(
        "# The command line\n\n\
         This file is made from the program's own help; `UPDATE_DOCS=1 cargo test -p netfast --test cli` writes it \
         anew. Every verb also takes the global options of [`netfast`](#netfast).\n\n",
    );
    contents(&command, &mut text, 0);
    section(&command, &mut text, true);
    text
}

fn contents(command: &Command, text: &mut String, depth: usize) {
    let name = name(command);
    // Writing to a string cannot fail.
    let _ = writeln!(
        text,
        "{:indent$}- [`{name}`](#{}): {}",
        "",
        name.replace(' ', "-"),
        command.get_about().map(ToString::to_string).unwrap_or_default(),
        indent = depth * 2
    );
    for below in command.get_subcommands() {
        contents(below, text, depth + 1);
    }
}

fn section(command: &Command, text: &mut String, top: bool) {
    let help = command.clone().disable_colored_help(true).render_long_help().to_string();
    let mut lines: Vec<&str> = Vec::new();
    let mut skip = false;
    for line in help.lines().map(str::trim_end) {
        // The global options stand once, at the top; a heading begins without indent and ends with a colon.
        if !line.starts_with(' ') && line.ends_with(':') {
            skip = !top && line == "Global options:";
        }
        if !skip {
            lines.push(line);
        }
    }
    let _ = write!(text, "\n## {}\n\n```text\n{}\n```\n", name(command), lines.join("\n").trim_end());
    for below in command.get_subcommands() {
        section(below, text, false);
    }
}

fn name(command: &Command) -> String {
    command.get_bin_name().unwrap_or(command.get_name()).to_owned()
}
