//! Rules files that are named on the command line; `-` is stdin.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use super::failure::Failure;
use crate::{api::types::Rules, config};

/// The name that messages use, and the text.
///
/// # Errors
/// If the file cannot be read.
pub fn read(path: &Path) -> Result<(String, String), Failure> {
    if path == Path::new("-") {
        let mut text = String::new();
        let read = io::stdin().lock().read_to_string(&mut text);
        read.map_err(|error| Failure::file("read", Path::new("standard input"), &error))?;
        return Ok(("<stdin>".to_owned(), text));
    }
    let text = fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))?;
    Ok((path.display().to_string(), text))
}

/// The rules in a file.
///
/// # Errors
/// If it cannot be read, or what is wrong with it (exit code 3).
pub fn rules(path: &Path) -> Result<Rules, Failure> {
    let (name, text) = read(path)?;
    Ok(config::rules::parse(&name, &text)?)
}
