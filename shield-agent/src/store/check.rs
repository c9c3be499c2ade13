//! The check of the whole file at a start, on a thread and a connection of its own: it reads every page, which takes as long as reading
//! and restoring all bans does. So both go on side by side, and what was read of a damaged file is thrown away.

use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow, bail};
use rusqlite::{Connection, OpenFlags};

use super::Settings;
use super::error::{Damage, Error};

/// A check that is under way.
pub(crate) struct Check(JoinHandle<Result<(), Error>>);

impl Check {
    /// Begins to check the database, which is open for writing elsewhere.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub(super) fn begin(settings: &Settings) -> Result<Check> {
        let settings = settings.clone();
        let thread = std::thread::Builder::new().name("check-db".to_owned());
        let checking = thread.spawn(move || Ok(check_file(&settings)?));
        Ok(Check(checking.context("could not start the thread that checks the database")?))
    }

    /// Waits for the result: [`super::Fault::Damaged`], if it is that.
    pub(super) fn finish(self) -> Result<(), Error> {
        self.0
            .join()
            .unwrap_or_else(|_| Err(anyhow!("could not check the database: the check panicked").into()))
    }
}

fn check_file(settings: &Settings) -> Result<()> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection =
        Connection::open_with_flags(settings.file(), flags).context("could not open it for the check")?;
    connection.busy_timeout(super::BUSY)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    super::set_cache(&connection, super::START_CACHE_KIB)?;
    check(&connection)
}

/// Walks every page once.
pub(super) fn check(connection: &Connection) -> Result<()> {
    let result: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if result != "ok" {
        bail!(Damage(result.trim_start_matches("*** in database main ***").trim().to_owned()));
    }
    Ok(())
}
