//! The embedded store: one JSON file.
//!
//! Written to a temporary file in the same directory, synced, renamed over the old one, directory synced. There is no backup
//! that would be read in silence: an operator must hear that a file is damaged.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use super::{Document, SCHEMA, Store, StoreError};

const FILE: &str = "intent.json";
const TEMPORARY: &str = "intent.json.new";

/// A [`Store`] in a directory, which only one agent uses at a time.
#[derive(Debug)]
pub struct FileStore {
    directory: PathBuf,
}

impl FileStore {
    /// The store in this directory; it is made with the first [`save`](Store::save).
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    /// The file that holds the document.
    pub fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::Io { what, path: path.to_owned(), source }
    }
}

impl Store for FileStore {
    fn load(&self) -> Result<Option<Document>, StoreError> {
        let path = self.path();
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Self::failed("read", &path)(error)),
        };
        parse(&path, &bytes).map(Some)
    }

    fn save(&self, document: &Document) -> Result<(), StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(Self::failed("make directory", &self.directory))?;
        let mut bytes = serde_json::to_vec_pretty(document)
            .map_err(|error| Self::failed("encode", &self.path())(io::Error::other(error)))?;
        bytes.push(b'\n');
        let temporary = self.directory.join(TEMPORARY);
        let written = write(&temporary, &bytes);
        if let Err(error) = written {
            // The space it took is wanted; the failure to tell is the first one.
            let _ = fs::remove_file(&temporary);
            return Err(Self::failed("write", &temporary)(error));
        }
        let path = self.path();
        fs::rename(&temporary, &path).map_err(Self::failed("replace", &path))?;
        // Until the directory is synced too, a power cut may bring the old file back.
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(Self::failed("sync directory", &self.directory))
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn parse(path: &Path, bytes: &[u8]) -> Result<Document, StoreError> {
    let damaged = |error: serde_json::Error| StoreError::Damaged {
        path: path.to_owned(),
        why: if bytes.is_empty() { "the file is empty".to_owned() } else { error.to_string() },
    };
    // The schema first: what another one looks like is not known here.
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(damaged)?;
    match value.get("schema").and_then(serde_json::Value::as_u64) {
        Some(found) if found != u64::from(SCHEMA) => Err(StoreError::Schema { path: path.to_owned(), found }),
        // From the text and not from the value, for the sake of line and column.
        _ => serde_json::from_slice(bytes).map_err(damaged),
    }
}

#[cfg(test)]
mod tests;
