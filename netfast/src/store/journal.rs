//! Small changes of a large document: appended to a journal beside it, so that one filter rule more among 100,000 does not
//! write all of them.
//!
//! The first line says which document the journal continues, by a checksum of its bytes. Each line after it is one change:
//! a checksum and the document without its filter rules, and what is different of those. A line counts once it is synced. What
//! stands behind the last line break is a change that nobody was told of, and is left out.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    ops::Range,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{Document, SCHEMA};
use crate::{api::types::FilterRule, edit::Edit, rules::ids::FilterId};

/// A document with fewer filter rules is written as a whole with every change.
pub(super) const LARGE: usize = 1000;
/// A change that takes more bytes is written as a whole document.
const LARGEST: usize = 256 << 10;
/// So many changes are appended before the document is written as a whole again, and more to a larger document: one for so many
/// of its filter rules.
const MOST: usize = 512;
const RULES_A_CHANGE: usize = 16;

/// What the first line says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    schema: u32,
    /// [`checksum`] of the document's bytes.
    continues: String,
}

/// A change.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    /// The document without filter rules and their identifiers.
    document: Document,
    filters: Splice<Arc<FilterRule>>,
    ids: Splice<FilterId>,
}

/// What is different of a list: from `at` on, `remove` elements go, and others come there, or at `into` of what is left.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Splice<T> {
    at: usize,
    remove: usize,
    insert: Vec<T>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    into: Option<usize>,
}

impl<T: PartialEq + Clone> Splice<T> {
    fn between(old: &[T], new: &[T]) -> Option<Self> {
        let Edit { gone, new: come, .. } = Edit::between(old, new, T::eq, |_| 1);
        // Some hundred bytes each: larger ones are not even tried.
        (come.len() <= LARGEST / 64).then(|| Self {
            at: gone.start,
            remove: gone.len(),
            into: (come.start != gone.start).then_some(come.start),
            insert: new[come].to_vec(),
        })
    }

    fn apply(self, list: &mut Vec<T>) -> Result<(), String> {
        let range: Range<usize> = self.at..self.at.saturating_add(self.remove);
        if range.end > list.len() {
            return Err(format!("it changes elements up to {} of {}", range.end, list.len()));
        }
        let Some(into) = self.into else {
            list.splice(range, self.insert);
            return Ok(());
        };
        list.drain(range);
        if into > list.len() {
            return Err(format!("it puts elements at {into} of {}", list.len()));
        }
        list.splice(into..into, self.insert);
        Ok(())
    }
}

/// FNV-1a of 64 bits, and the length: it tells documents apart and finds what was cut off, and is no protection from people.
pub(super) fn checksum(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}-{}", bytes.len())
}

/// A journal that is being written.
#[derive(Debug)]
pub(super) struct Journal {
    /// Checksum of the document that it continues.
    continues: String,
    /// What is stored: document and all changes.
    last: Document,
    /// The file, once there is a change, and how much of it counts.
    file: Option<(File, u64)>,
    changes: usize,
}

impl Journal {
    /// The journal of a document that was just stored as `bytes`.
    pub(super) fn new(document: &Document, bytes: &[u8]) -> Self {
        Self { continues: checksum(bytes), last: document.clone(), file: None, changes: 0 }
    }

    /// Appends what is different in `document` and syncs it. `None`: that is too much, or too often; nothing was done.
    pub(super) fn append(&mut self, path: &Path, document: &Document) -> Option<io::Result<()>> {
        let rules = document.intent.rules.filters.len();
        if self.changes >= MOST.max(rules / RULES_A_CHANGE) || rules < LARGE {
            return None;
        }
        let rest = Document {
            schema: document.schema,
            intent: crate::api::types::Intent {
                revision: document.intent.revision,
                attachments: document.intent.attachments.clone(),
                rules: crate::api::types::Rules {
                    filters: Default::default(),
                    ..document.intent.rules.clone()
                },
            },
            ids: document.ids.without_filters(),
        };
        let change = Change {
            document: rest,
            filters: Splice::between(&self.last.intent.rules.filters, &document.intent.rules.filters)?,
            ids: Splice::between(self.last.ids.filters(), document.ids.filters())?,
        };
        let json = serde_json::to_vec(&change).ok()?;
        if json.len() > LARGEST {
            return None;
        }
        let mut line = checksum(&json).into_bytes();
        line.push(b' ');
        line.extend(json);
        line.push(b'\n');
        let written = self.write(path, &line);
        if written.is_ok() {
            self.changes += 1;
            self.last = document.clone();
        }
        Some(written)
    }

    fn write(&mut self, path: &Path, line: &[u8]) -> io::Result<()> {
        if let Some((file, length)) = &mut self.file {
            let written = file.write_all(line).and_then(|()| file.sync_data());
            if written.is_ok() {
                *length += line.len() as u64;
            } else {
                // Half a line in front of the next one would damage both.
                file.set_len(*length)?;
            }
            return written;
        }
        let header = serde_json::to_string(&Header { schema: SCHEMA, continues: self.continues.clone() })?;
        let mut bytes = header.into_bytes();
        bytes.push(b'\n');
        bytes.extend(line);
        // From the beginning: one that is there continues another document.
        let _ = std::fs::remove_file(path);
        let mut file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(path)?;
        let written = file.write_all(&bytes).and_then(|()| file.sync_all());
        let synced = written.and_then(|()| match path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        });
        match synced {
            Ok(()) => {
                self.file = Some((file, bytes.len() as u64));
                Ok(())
            }
            Err(error) => {
                let _ = std::fs::remove_file(path);
                Err(error)
            }
        }
    }
}

/// What a journal does to the document that was stored as `bytes`.
///
/// # Errors
/// If it continues this document and cannot be understood.
pub(super) fn replay(document: &mut Document, bytes: &[u8], journal: &[u8]) -> Result<(), String> {
    // Behind the last line break stands what was never acknowledged.
    let end = journal.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut lines = journal[..end].split_inclusive(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
    let Some(first) = lines.next() else { return Ok(()) };
    let header: Header = serde_json::from_slice(first).map_err(|error| format!("line 1: {error}"))?;
    if header.schema != SCHEMA {
        return Err(format!("line 1: schema {} is not known", header.schema));
    }
    if header.continues != checksum(bytes) {
        tracing::warn!(
            "the journal of the stored rules does not continue them and is left out: it is of an older document, or intent.json \
             was put back from a backup"
        );
        return Ok(());
    }
    for (number, line) in (2..).zip(lines) {
        let damaged = |why: String| format!("line {number}: {why}");
        let space =
            line.iter().position(|byte| *byte == b' ').ok_or_else(|| damaged("no checksum".into()))?;
        let (sum, json) = (&line[..space], &line[space + 1..]);
        if sum != checksum(json).as_bytes() {
            return Err(damaged("the checksum is wrong".into()));
        }
        let change: Change = serde_json::from_slice(json).map_err(|error| damaged(error.to_string()))?;
        let mut filters = std::mem::take(&mut document.intent.rules.filters);
        let mut ids = document.ids.replace_filters(Vec::new());
        change.filters.apply(&mut filters).map_err(damaged)?;
        change.ids.apply(&mut ids).map_err(damaged)?;
        *document = change.document;
        document.intent.rules.filters = filters;
        document.ids.replace_filters(ids);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
