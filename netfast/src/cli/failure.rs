//! How a verb ends when it does not end well, and the one table of exit codes.

use std::{fmt::Display, io, path::Path};

use crate::{
    api::types::{ErrorBody, ErrorCode},
    config::Report,
    rules::suggest,
};

/// Exit code of a negative answer: a difference was found, the agent is not ready.
pub const EXIT_NEGATIVE: u8 = 1;

/// The exit code of every kind of error. There is no other table.
pub const fn exit_code(code: ErrorCode) -> u8 {
    match code {
        ErrorCode::Usage => 2,
        ErrorCode::Rejected => 3,
        ErrorCode::NotFound => 4,
        ErrorCode::Conflict => 5,
        ErrorCode::Unavailable | ErrorCode::Internal => 6,
        ErrorCode::Permission => 7,
    }
}

/// Why a verb did not end with exit code 0.
#[derive(Debug)]
pub enum Failure {
    /// An error; it is yet to be printed.
    Error(ErrorBody),
    /// A file that is wrong; what is wrong is yet to be printed.
    File(Report),
    /// The answer is no; it has been printed.
    Negative,
    /// Whoever read our output has gone (`netfast … | head`); nothing is left to be said.
    ReaderGone,
}

impl Failure {
    /// An error of this kind.
    pub fn new(code: ErrorCode, message: impl Display) -> Self {
        Self::Error(ErrorBody { code, message: message.to_string(), field: None })
    }

    /// Something that does not exist.
    pub fn not_found(message: impl Display) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }

    /// A `kind` of that name that does not exist; `names` are those of the ones that do.
    pub fn unknown<'a>(kind: &str, name: &str, names: impl Iterator<Item = &'a str>) -> Self {
        Self::not_found(format_args!("there is no {kind} {name:?}{}", suggest::hint(name, names)))
    }

    /// A command line that clap accepts and that makes no sense all the same.
    pub fn usage(field: &str, message: impl Display) -> Self {
        Self::Error(ErrorBody {
            code: ErrorCode::Usage,
            message: message.to_string(),
            field: Some(field.to_owned()),
        })
    }

    /// A file that cannot be read or written (`verb` says which).
    pub fn file(verb: &str, path: &Path, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound => ErrorCode::NotFound,
            io::ErrorKind::PermissionDenied => ErrorCode::Permission,
            _ => ErrorCode::Usage,
        };
        let why = error.to_string();
        let why = why.split(" (os error").next().unwrap_or_default();
        Self::new(code, format_args!("cannot {verb} {}: {why}", path.display()))
    }
}

impl From<ErrorBody> for Failure {
    fn from(error: ErrorBody) -> Self {
        Self::Error(error)
    }
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Self::File(report)
    }
}

/// Of standard output: the only input and output that verbs do with `?`.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::ReaderGone
        } else {
            Self::new(ErrorCode::Internal, format_args!("cannot write to standard output: {error}"))
        }
    }
}

/// What every verb returns.
pub type Outcome = Result<(), Failure>;
