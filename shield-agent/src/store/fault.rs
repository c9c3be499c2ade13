//! What kind of failure an error of the database is, because each asks for something else.

use std::fmt;

use rusqlite::ErrorCode;

/// A kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The disk, the quota or the allowed file size is used up: write again later.
    DiskFull,
    /// The file is not a sound database: move it aside.
    Damaged,
    /// Anything else: no permission, an I/O error, a lock that is held.
    Other,
}

impl Fault {
    /// The kind of this error.
    pub(crate) fn of(error: &anyhow::Error) -> Fault {
        error
            .chain()
            .find_map(|cause| {
                if cause.is::<DamageFound>() {
                    return Some(Fault::Damaged);
                }
                if let Some(error) = cause.downcast_ref::<std::io::Error>() {
                    return of_io(error);
                }
                cause.downcast_ref::<rusqlite::Error>().and_then(of_sqlite)
            })
            .unwrap_or(Fault::Other)
    }

    /// What an operator can do about it.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Fault::DiskFull => "free some space; it is tried again by itself",
            Fault::Damaged => "restart the agent: it moves the file aside and makes a new one",
            Fault::Other => "see the error; it is tried again by itself",
        }
    }
}

fn of_io(error: &std::io::Error) -> Option<Fault> {
    use std::io::ErrorKind as K;
    matches!(error.kind(), K::StorageFull | K::QuotaExceeded | K::FileTooLarge).then_some(Fault::DiskFull)
}

/// A write error is counted as a full disk: the kernel's EFBIG and EDQUOT reach SQLite as one (`SQLITE_IOERR_WRITE`).
fn of_sqlite(error: &rusqlite::Error) -> Option<Fault> {
    let rusqlite::Error::SqliteFailure(failure, _) = error else { return None };
    match failure.code {
        ErrorCode::DiskFull => Some(Fault::DiskFull),
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => Some(Fault::Damaged),
        ErrorCode::SystemIoFailure if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHORT_READ => {
            Some(Fault::Damaged)
        }
        ErrorCode::SystemIoFailure if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_WRITE => {
            Some(Fault::DiskFull)
        }
        _ => None,
    }
}

/// The integrity check's words.
#[derive(Debug)]
pub(super) struct DamageFound(pub String);

impl fmt::Display for DamageFound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the database is damaged: {}", self.0)
    }
}

impl std::error::Error for DamageFound {}
