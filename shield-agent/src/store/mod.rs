//! The embedded database: bans, their history, offences, baseline, checkpoints, totals, the operator's allowlist.
//!
//! SQLite with a write-ahead log and `synchronous = NORMAL`: a transaction is whole or absent after kill -9 at any
//! moment, and a ban costs no wait for the disk; after a power loss the last moments may be missing, which the
//! kernel's own tables lose then as well (`docs/adr/` has the reasoning).
//!
//! [`Store`] opens and writes, [`writer::Writer`] is what the store thread runs (it keeps what could not be written),
//! `keeper` waits for the disk beside it, [`reader::Reader`] answers the API from another thread. What a record means is
//! the engine's business.

pub(crate) mod boots;
mod commit;
mod fault;
mod files;
mod keeper;
mod load;
pub(crate) mod reader;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
pub(crate) mod writer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rusqlite::{Connection, OpenFlags};

pub(crate) use boots::{BootId, Boots};
pub(crate) use fault::Fault;
pub(crate) use load::Loaded;

use shield_engine::action::Record;
use shield_engine::time::Now;

/// Where the database lies and how much it keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The state directory; made with mode 0700 when it is missing.
    pub dir: PathBuf,
    /// Ended bans that are kept at most; the oldest go first.
    pub history_rows: u64,
    /// How long ended bans are kept at most.
    pub history_kept: Duration,
    /// Clients whose offences are kept at most; those idle longest go first.
    pub offence_rows: u64,
    /// How long offences are kept after the last ban; at least `backoff.forget_after`, or they are forgotten early.
    pub offences_kept: Duration,
    /// Memory for database pages, per connection, in KiB.
    pub cache_kib: u32,
    /// Records that are held in memory at most while the database cannot be written.
    pub held_records: usize,
}

impl Default for Settings {
    fn default() -> Settings {
        const DAY: Duration = Duration::from_secs(86_400);
        Settings {
            dir: PathBuf::from("/var/lib/shield"),
            history_rows: 200_000,
            history_kept: 90 * DAY,
            offence_rows: 2_000_000,
            offences_kept: 30 * DAY,
            cache_kib: 8 * 1024,
            held_records: 200_000,
        }
    }
}

impl Settings {
    /// The database file.
    pub fn file(&self) -> PathBuf {
        self.dir.join("shield.db")
    }
}

/// What was found when the store was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// No database: a first start. An empty one was made.
    Nothing,
    /// A sound database.
    Sound,
    /// A damaged database. It was moved aside and an empty one made: all bans of before are unknown.
    Damaged {
        /// Where the damaged file lies now.
        moved_to: PathBuf,
        /// What is wrong with it.
        damage: String,
    },
}

/// The database, open for writing. One at a time a directory, held by a lock.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    boots: Boots,
    settings: Settings,
    _lock: File,
}

impl Store {
    /// Opens the database of `settings.dir`, makes it when it is missing, and brings its tables up to date.
    ///
    /// A damaged file is moved aside and said in [`Found::Damaged`]. Everything else that stands in the way is an
    /// error: another agent that holds the directory, no permission, a full disk, a file of a newer version.
    pub fn open(settings: &Settings, boot_id: &BootId, now: Now) -> Result<(Store, Found)> {
        let lock = files::prepare(&settings.dir)?;
        let path = settings.file();
        let mut found = if path.exists() { Found::Sound } else { Found::Nothing };
        let opened = match connect(&path, settings) {
            Err(error) if Fault::of(&error) == Fault::Damaged => {
                let moved_to = files::move_aside(&path, now)?;
                found = Found::Damaged { moved_to, damage: format!("{error:#}") };
                connect(&path, settings)
            }
            other => other,
        };
        let connection = opened.with_context(|| format!("opening the database {}", path.display()))?;
        let boots = Boots::load(&connection, boot_id, now).context("reading when the machine was booted")?;
        Ok((Store { connection, boots, settings: settings.clone(), _lock: lock }, found))
    }

    /// Writes all of `records` in one transaction, or, with an error, none of them.
    pub fn commit<'a>(&mut self, records: impl IntoIterator<Item = &'a Record>, now: Now) -> Result<()> {
        commit::commit(&mut self.connection, &mut self.boots, records.into_iter(), now)
    }

    /// Everything but bans and offences, which [`Store::for_each_ban`] and [`Store::for_each_offence`] stream.
    pub fn load(&self) -> Result<Loaded> {
        load::load(&self.connection)
    }

    /// Every ban, without its evidence, in the order of the serial numbers; those whose end has passed as well.
    pub fn for_each_ban(&self, now: Now, each: impl FnMut(shield_engine::action::BanRecord)) -> Result<()> {
        load::for_each_ban(&self.connection, &self.boots, now, each)
    }

    /// Every client's offences: client, how many, and when the last was in Unix seconds.
    pub fn for_each_offence(&self, each: impl FnMut(shield_engine::client::Client, u32, i64)) -> Result<()> {
        load::for_each_offence(&self.connection, each)
    }

    /// How stored deadlines are read; the reader needs it too.
    pub fn boots(&self) -> &Boots {
        &self.boots
    }

    /// What it was opened with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Forgets what is kept for longer or in greater number than the settings say, and gives free pages back to the
    /// disk: a bounded amount of each, so that no call takes long. Call it every minute or so.
    pub fn prune(&mut self, now: Now) -> Result<()> {
        load::prune(&self.connection, &self.settings, now).context("pruning the database")
    }

    /// Moves the write-ahead log into the database file where no reader is in the way. This waits for the disk; while
    /// bans are made, `keeper` does it beside them.
    pub fn checkpoint(&mut self) -> Result<()> {
        checkpoint(&self.connection)
    }
}

fn checkpoint(connection: &Connection) -> Result<()> {
    connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        .context("moving the write-ahead log into the database")
}

/// Opens, checks and migrates the file. A damaged file is an error of [`Fault::Damaged`]; so is one without tables,
/// because [`files::create`] never leaves such a one.
fn connect(path: &Path, settings: &Settings) -> Result<Connection> {
    if !path.exists() {
        files::create(path)?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    if schema::version_of(&connection)? == 0 {
        bail!(fault::DamageFound("it has no tables".into()));
    }
    configure(&connection, settings)?;
    schema::migrate(&mut connection)?;
    check(&connection)?;
    Ok(connection)
}

fn configure(connection: &Connection, settings: &Settings) -> Result<()> {
    connection.busy_timeout(Duration::from_secs(2))?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "cell_size_check", true)?;
    connection.pragma_update(None, "cache_size", -i64::from(settings.cache_kib))?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    Ok(())
}

/// Walks every page once. Reads the whole file, so it costs what the first load would cost anyway.
fn check(connection: &Connection) -> Result<()> {
    let said: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if said != "ok" {
        bail!(fault::DamageFound(said.trim_start_matches("*** in database main ***").trim().to_owned()));
    }
    Ok(())
}
