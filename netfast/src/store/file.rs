//! The embedded store: one JSON file, and beside a large one a journal of small changes.
//!
//! The document is written to a temporary file in the same directory, synced, renamed over the old one, directory synced. There
//! is no backup that would be read in silence: an operator must hear that a file is damaged. The first save of a process
//! writes the whole document; see [`super::journal`] for what comes after it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use serde::Deserialize;

use super::{
    Document, SCHEMA, Store, StoreError,
    journal::{self, Journal},
};

const FILE: &str = "intent.json";
const TEMPORARY: &str = "intent.json.new";
const JOURNAL: &str = "intent.journal";

/// A [`Store`] in a directory, which only one agent uses at a time.
#[derive(Debug)]
pub struct FileStore {
    directory: PathBuf,
    /// Of the document that was saved last, if it is large.
    journal: Mutex<Option<Journal>>,
}

impl FileStore {
    /// The store in this directory; it is made with the first [`save`](Store::save).
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), journal: Mutex::default() }
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
        let mut document = parse(&path, &bytes)?;
        let path = self.directory.join(JOURNAL);
        match fs::read(&path) {
            Ok(journal) => journal::replay(&mut document, &bytes, &journal)
                .map_err(|why| StoreError::Damaged { path, why })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Self::failed("read", &path)(error)),
        }
        Ok(Some(document))
    }

    fn save(&self, document: &Document) -> Result<(), StoreError> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.directory.join(JOURNAL);
        match journal.as_mut().and_then(|journal| journal.append(&path, document)) {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => {
                // Nobody knows what of it is on the disk: the next save is a whole one.
                *journal = None;
                return Err(Self::failed("write", &path)(error));
            }
            None => *journal = None,
        }
        let bytes = self.save_whole(document)?;
        if document.intent.rules.filters.len() >= journal::LARGE {
            *journal = Some(Journal::new(document, &bytes));
        }
        Ok(())
    }
}

impl FileStore {
    /// Writes the whole document; gives its bytes.
    fn save_whole(&self, document: &Document) -> Result<Vec<u8>, StoreError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)
            .map_err(Self::failed("make directory", &self.directory))?;
        // A small document is for people, too.
        let large = document.intent.rules.filters.len() >= journal::LARGE;
        let encode = if large { serde_json::to_vec } else { serde_json::to_vec_pretty };
        let mut bytes = encode(document)
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
        // It continues the old document, and would not be read with this one.
        let _ = fs::remove_file(self.directory.join(JOURNAL));
        // Until the directory is synced too, a power cut may bring the old file back.
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(Self::failed("sync directory", &self.directory))?;
        Ok(bytes)
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
    #[derive(Deserialize)]
    struct Head {
        schema: Option<u64>,
    }
    // The schema first: what another one looks like is not known here.
    let head: Head = serde_json::from_slice(bytes).map_err(damaged)?;
    match head.schema {
        Some(found) if found != u64::from(SCHEMA) => Err(StoreError::Schema { path: path.to_owned(), found }),
        _ => serde_json::from_slice(bytes).map_err(damaged),
    }
}

#[cfg(test)]
mod tests;
