//! Where the intent is kept: durably, before a change is acknowledged.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    api::types::{ErrorBody, ErrorCode, Intent},
    rules::ids::Ids,
};

pub mod file;
mod journal;

/// Version of the form of [`Document`].
pub const SCHEMA: u32 = 1;

/// What is stored: one document, replaced as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The intent.
    pub intent: Intent,
    /// Identifiers that the datapath knows its objects by.
    pub ids: Ids,
}

impl Document {
    /// A document of the present schema.
    pub fn new(intent: Intent, ids: Ids) -> Self {
        Self { schema: SCHEMA, intent, ids }
    }
}

/// A store that did not do what it was asked for. What was stored before is stored still.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error("cannot {what} {}: {source}; the stored rules are as they were{}", path.display(), advice(source))]
    Io {
        /// What was tried: `read`, `write`, ...
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The document cannot be understood.
    #[error(
        "the stored rules in {} are damaged ({why}); the agent does not start without them, so as not to forward by rules that \
         nobody asked for: put a backup of the file in its place, or move it away to start with no rules and then \
         `netfast apply -f` an exported file", path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The document is of another version of netfast.
    #[error(
        "the stored rules in {} have schema {found}, this netfast reads schema {SCHEMA}: start the netfast that wrote them, \
         `netfast export` the rules, move the file away, and `netfast apply` them with this one", path.display()
    )]
    Schema {
        /// The file.
        path: PathBuf,
        /// Its schema.
        found: u64,
    },
}

fn advice(source: &std::io::Error) -> &'static str {
    match source.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
            ": free some space and try again"
        }
        std::io::ErrorKind::PermissionDenied => ": the agent must own the directory ([agent] state_dir)",
        std::io::ErrorKind::ReadOnlyFilesystem => ": the file system is mounted read-only",
        _ => "",
    }
}

impl From<StoreError> for ErrorBody {
    fn from(error: StoreError) -> Self {
        Self { code: ErrorCode::Unavailable, message: error.to_string(), field: None }
    }
}

/// Keeps one [`Document`].
pub trait Store: Send + Sync {
    /// The document; `None` if none was ever stored.
    fn load(&self) -> Result<Option<Document>, StoreError>;
    /// Replaces the document. When this returns, a power cut cannot undo it; when it fails, the old one is stored still.
    fn save(&self, document: &Document) -> Result<(), StoreError>;
}
