//! A copy of the database beside a running agent: consistent, and made without holding up the writer.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use rusqlite::{Connection, OpenFlags};

use super::{Settings, files, schema};
use shield_engine::time::Now;

/// What a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copied {
    pub bans: u64,
    /// The version of the tables.
    pub tables: i64,
}

/// Copies the database of `settings` to this file, which must not be there. One read transaction: commits go on beside it.
///
/// # Errors
/// When it cannot be read, or the disk is full.
pub(crate) fn copy_to(settings: &Settings, to: &Path) -> Result<Copied> {
    let from = settings.file();
    let could_not = || format!("could not copy the database {} to {}", from.display(), to.display());
    let connection = read_only(settings)?;
    let name = to.to_str().with_context(could_not)?;
    connection.execute("VACUUM INTO ?1", [name]).with_context(could_not)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o600)).with_context(could_not)?;
    let copy = Connection::open_with_flags(to, OpenFlags::SQLITE_OPEN_READ_ONLY).with_context(could_not)?;
    let bans: i64 =
        copy.query_row("SELECT count(*) FROM bans", [], |row| row.get(0)).with_context(could_not)?;
    Ok(Copied { bans: bans.unsigned_abs(), tables: schema::version_of(&copy)? })
}

/// The version of the tables of the database.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn tables(settings: &Settings) -> Result<i64> {
    schema::version_of(&read_only(settings)?)
}

/// Puts a copy in the database's place, which no agent may have open; that one is moved aside. Returns where to.
///
/// # Errors
/// When another agent holds the folder, or a file cannot be renamed.
pub(crate) fn put_back(settings: &Settings, copy: &Path, now: Now) -> Result<std::path::PathBuf> {
    let _lock = files::prepare(&settings.dir)?;
    let file = settings.file();
    let aside = files::move_aside(&file, now)?;
    fs::rename(copy, &file)
        .with_context(|| format!("could not put {} in the place of {}", copy.display(), file.display()))?;
    Ok(aside)
}

fn read_only(settings: &Settings) -> Result<Connection> {
    let path = settings.file();
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags)
        .with_context(|| format!("could not open {} for reading", path.display()))?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

#[cfg(test)]
mod tests {
    use super::super::{BootId, Store};
    use super::*;

    /// A copy beside an open store is whole, opens as a store of its own, and can take the place of the database.
    #[test]
    fn a_copy_is_a_store_and_can_be_put_back() {
        let dir = tempfile::tempdir().unwrap();
        let now = Now { wall_ms: 1_778_537_253_000, boot_ms: 1_000 };
        let boot = BootId::from_text("a");
        let settings = Settings { dir: dir.path().join("state"), ..Settings::default() };
        let (store, _) = Store::open(&settings, &boot, now).unwrap();
        let other = Settings { dir: dir.path().join("other"), ..Settings::default() };
        fs::create_dir(&other.dir).unwrap();
        let copied = copy_to(&settings, &other.file()).unwrap();
        assert_eq!(copied, Copied { bans: 0, tables: tables(&settings).unwrap() });
        assert!(copy_to(&settings, &other.file()).is_err(), "nothing is overwritten");
        Store::open_sound(&other, &boot, now).unwrap();
        let copy = dir.path().join("copy.db");
        copy_to(&settings, &copy).unwrap();
        assert!(put_back(&settings, &copy, now).is_err(), "a store that is in use is left alone");
        drop(store);
        let aside = put_back(&settings, &copy, now).unwrap();
        assert!(aside.exists() && !copy.exists());
        Store::open_sound(&settings, &boot, now).unwrap();
    }
}
