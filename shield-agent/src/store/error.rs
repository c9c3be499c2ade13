//! The error of the store, sorted by cause: each cause asks for another reaction.

use std::error::Error as StdError;
use std::fmt;

use rusqlite::ErrorCode;
use rusqlite::ffi::{SQLITE_IOERR_SHORT_READ, SQLITE_IOERR_WRITE};

/// The cause of a failure of the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The disk, the quota or the largest file size is used up. Retrying helps once there is room.
    DiskFull,
    /// Another program holds a lock on the database. Retrying helps once it lets go.
    Locked,
    /// The file is not a sound database. Retrying does not help; the next start moves the file aside.
    Damaged,
    /// Anything else, such as a missing permission or an I/O error.
    Other,
}

impl Fault {
    /// What an operator can do.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Fault::DiskFull => "free some space",
            Fault::Locked => "close other programs that have the database open",
            Fault::Damaged => "restart the agent: it moves the file aside and makes a new one",
            Fault::Other => "the bans made meanwhile are saved as soon as it works again",
        }
    }
}

/// A failure of the database with its cause.
#[derive(Debug)]
pub struct Error {
    fault: Fault,
    error: anyhow::Error,
}

impl Error {
    pub(crate) fn fault(&self) -> Fault {
        self.fault
    }
}

/// Classifies by the first cause in the chain that is known.
impl From<anyhow::Error> for Error {
    fn from(error: anyhow::Error) -> Error {
        let fault = error.chain().find_map(fault_of).unwrap_or(Fault::Other);
        Error { fault, error: said_once(error) }
    }
}

/// The same error without causes whose words are part of what stands above them: rusqlite's errors quote their own source.
pub(super) fn said_once(error: anyhow::Error) -> anyhow::Error {
    let mut texts: Vec<String> = Vec::new();
    for cause in error.chain().map(ToString::to_string) {
        match texts.last_mut() {
            Some(above) if above.contains(&cause) => {}
            // "database or disk is full" above "database or disk is full: Error code 13: ...".
            Some(above) if cause.contains(above.as_str()) => *above = cause,
            _ => texts.push(cause),
        }
    }
    let mut texts = texts.into_iter().rev();
    let last = texts.next().unwrap_or_default();
    texts.fold(anyhow::Error::msg(last), anyhow::Error::context)
}

/// Shows the failure, and with `{:#}` its causes too, as `anyhow` does.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.error.source()
    }
}

fn fault_of(cause: &(dyn StdError + 'static)) -> Option<Fault> {
    if cause.is::<Damage>() {
        return Some(Fault::Damaged);
    }
    if let Some(error) = cause.downcast_ref::<std::io::Error>() {
        return of_io(error);
    }
    cause.downcast_ref::<rusqlite::Error>().and_then(of_sqlite)
}

fn of_io(error: &std::io::Error) -> Option<Fault> {
    use std::io::ErrorKind as K;
    matches!(error.kind(), K::StorageFull | K::QuotaExceeded | K::FileTooLarge).then_some(Fault::DiskFull)
}

fn of_sqlite(error: &rusqlite::Error) -> Option<Fault> {
    use rusqlite::Error as E;
    if let E::InvalidColumnType(..)
    | E::FromSqlConversionFailure(..)
    | E::IntegralValueOutOfRange(..)
    | E::Utf8Error(..) = error
    {
        return Some(Fault::Damaged);
    }
    let rusqlite::Error::SqliteFailure(failure, message) = error else { return None };
    // A byte of its header: SQLite has had no other format for twenty years.
    if message.as_deref() == Some("unsupported file format") {
        return Some(Fault::Damaged);
    }
    match (failure.code, failure.extended_code) {
        (ErrorCode::DiskFull, _) => Some(Fault::DiskFull),
        // The kernel's EFBIG and EDQUOT reach SQLite as a failed write.
        (ErrorCode::SystemIoFailure, SQLITE_IOERR_WRITE) => Some(Fault::DiskFull),
        (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => Some(Fault::Locked),
        (ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _) => Some(Fault::Damaged),
        (ErrorCode::SystemIoFailure, SQLITE_IOERR_SHORT_READ) => Some(Fault::Damaged),
        _ => None,
    }
}

/// The result of a failed integrity check.
#[derive(Debug)]
pub(super) struct Damage(pub String);

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database is damaged: {}", self.0)
    }
}

impl StdError for Damage {}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_cause_is_found_below_any_context() {
        let check = |cause: anyhow::Error, expected: Fault| {
            let mut texts: Vec<String> = cause.chain().map(ToString::to_string).collect();
            texts.dedup();
            let text = texts.join(": ");
            let error = Error::from(Err::<(), _>(cause).context("could not commit").unwrap_err());
            assert_eq!(error.fault(), expected, "{text}");
            assert_eq!(
                format!("{error} / {error:#}"),
                format!("could not commit / could not commit: {text}")
            );
            assert_eq!(format!("{:#}", anyhow::Error::new(error)), format!("could not commit: {text}"));
        };
        let sqlite =
            |code| anyhow::Error::new(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None));
        check(sqlite(rusqlite::ffi::SQLITE_FULL), Fault::DiskFull);
        check(sqlite(SQLITE_IOERR_WRITE), Fault::DiskFull);
        check(sqlite(rusqlite::ffi::SQLITE_BUSY), Fault::Locked);
        check(sqlite(rusqlite::ffi::SQLITE_CORRUPT), Fault::Damaged);
        check(sqlite(SQLITE_IOERR_SHORT_READ), Fault::Damaged);
        check(sqlite(rusqlite::ffi::SQLITE_PERM), Fault::Other);
        check(std::io::Error::from(std::io::ErrorKind::StorageFull).into(), Fault::DiskFull);
        check(Damage("a page is missing".to_owned()).into(), Fault::Damaged);
        check(anyhow::anyhow!("something else"), Fault::Other);
    }

    #[test]
    fn what_rusqlite_says_twice_is_said_once() {
        let full = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL);
        let failure = rusqlite::Error::SqliteFailure(full, Some("database or disk is full".to_owned()));
        let error = Error::from(anyhow::Error::new(failure).context("could not commit"));
        assert_eq!(format!("{error:#}"), "could not commit: Error code 13: database or disk is full");
        assert_eq!(format!("{:#}", said_once(anyhow::anyhow!("inner").context("outer"))), "outer: inner");
    }
}
