//! The files of the state directory: modes, the lock, creating a database atomically, moving a damaged one aside.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rusqlite::Connection;

use super::schema;
use shield_engine::time::Now;

const DIR_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Suffixes of the files that belong to a database.
const COMPANIONS: [&str; 3] = ["", "-wal", "-shm"];

/// Creates the directory when it is missing, and takes its lock, which lasts until the returned file is dropped.
pub(super) fn prepare(dir: &Path) -> Result<File> {
    DirBuilder::new()
        .recursive(true)
        .mode(DIR_MODE)
        .create(dir)
        .with_context(|| format!("could not create the state directory {}", dir.display()))?;
    let path = dir.join("shield.lock");
    let lock = private().open(&path).with_context(|| format!("could not open {}", path.display()))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!(
            "another shield-agent is running on {}: stop it first, or give this one a state directory of its own",
            dir.display()
        ),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("could not lock {}", path.display()))
        }
    }
}

/// Creates an empty database under another name and renames it, so that a crash leaves none or a whole one, and an empty
/// file can only be a damaged one.
pub(super) fn create(path: &Path) -> Result<()> {
    let new = with_suffix(path, ".new");
    for companion in ["", "-journal"] {
        remove_if_there(&with_suffix(&new, companion))?;
    }
    private().open(&new).with_context(|| format!("could not create {}", new.display()))?;
    let mut connection = Connection::open(&new)?;
    connection.pragma_update(None, "auto_vacuum", "incremental")?;
    schema::migrate(&mut connection)?;
    connection.close().map_err(|(_, error)| error)?;
    fs::rename(&new, path).with_context(|| format!("could not rename the new database to {}", path.display()))
}

/// SQLite's name for the write-ahead log of the database `path`.
pub(super) fn log_of(path: &Path) -> PathBuf {
    with_suffix(path, "-wal")
}

/// Renames a damaged database and its write-ahead log; returns the new name.
pub(super) fn move_aside(path: &Path, now: Now) -> Result<PathBuf> {
    let stamp = jiff::Timestamp::from_millisecond(now.wall_ms).unwrap_or_default().strftime("%Y%m%dT%H%M%SZ");
    let base = with_suffix(path, &format!(".damaged-{stamp}"));
    let aside = (1..)
        .map(|n: u32| if n == 1 { base.clone() } else { with_suffix(&base, &format!(".{n}")) })
        .find(|name| !name.exists())
        .expect("there are fewer than 2^32 files");
    for companion in COMPANIONS {
        let from = with_suffix(path, companion);
        if from.exists() {
            fs::rename(&from, with_suffix(&aside, companion))
                .with_context(|| format!("could not move the damaged {} aside", from.display()))?;
        }
    }
    Ok(aside)
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(FILE_MODE);
    options
}

fn remove_if_there(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove the unfinished {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
