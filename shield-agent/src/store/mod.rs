//! The database: bans, their history, offences, baseline, checkpoints, totals, the operator's allowlist.
//!
//! SQLite with a write-ahead log and `synchronous = NORMAL`: a transaction is whole or absent after kill -9 at any
//! moment, and a ban does not wait for the disk. A power failure may lose the last seconds, but it also loses the kernel's
//! tables (`docs/adr/store-sqlite.md`).
//!
//! [`Store`] opens, reads at the start and commits; [`writer::Writer`] adds what happens while commits fail, `disk_sync`
//! waits for the disk on its own thread, and [`reader::Reader`] answers the API from others.

pub(crate) mod audit_head;
pub(crate) mod boots;
pub(crate) mod check;
mod commit;
pub(crate) mod copy;
mod disk_sync;
mod error;
mod files;
mod held;
mod load;
pub(crate) mod reader;
mod rows;
mod schema;
#[cfg(test)]
mod tests;
pub(crate) mod trouble;
mod unreadable;
pub(crate) mod unsaved;
pub(crate) mod writer;

use std::cell::RefCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::statvfs::statvfs;
use rusqlite::{Connection, OpenFlags, Row, TransactionBehavior};

pub(crate) use boots::{BootId, Boots};
use check::Check;
use error::said_once;
pub(crate) use error::{Error, Fault};
pub(crate) use load::Loaded;

use self::audit_head::AuditHead;
use self::trouble::Trouble;
use self::unreadable::Unreadable;
use shield_engine::action::Record;
use shield_engine::time::Now;

/// The database's directory and bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The state directory; created with mode 0700 when it is missing.
    pub dir: PathBuf,
    /// Rows of ended bans; the oldest are deleted first.
    pub history_rows: u64,
    /// Age at which ended bans are deleted.
    pub history_kept: Duration,
    /// Rows of clients' offences; those of the longest idle clients are deleted first.
    pub offence_rows: u64,
    /// How long offences are kept after the last ban. Not less than `[ban] forget_after`, or they are forgotten early.
    pub offences_kept: Duration,
    /// Page cache of each connection, in KiB.
    pub cache_kib: u32,
    /// Records held in memory while the database cannot be written.
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
    pub fn file(&self) -> PathBuf {
        self.dir.join("shield.db")
    }
}

/// The state of the database before it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// A first start: there was none, and an empty one was created.
    Nothing,
    Sound,
    /// It was moved aside and an empty one created; earlier bans are lost.
    Damaged {
        moved_to: PathBuf,
        /// The result of the integrity check.
        damage: String,
    },
}

/// The store after [`Store::await_check`].
pub(crate) enum Checked {
    Sound(Store),
    /// The file was damaged: this is an empty one, and [`Found::Damaged`].
    Replaced(Store, Found),
}

/// The database, open for writing. A lock on the directory keeps a second agent out.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    boots: Boots,
    settings: Settings,
    /// Rows that reading left out.
    unreadable: RefCell<Unreadable>,
    _lock: File,
}

impl Store {
    /// Opens the database, creates it when it is missing, and brings its tables up to date. A damaged file is moved aside
    /// ([`Found::Damaged`]).
    ///
    /// # Errors
    /// When another agent holds the directory, permission is missing, the disk is full, or the file was written by a newer
    /// version or another program.
    pub fn open(settings: &Settings, boot_id: &BootId, now: Now) -> Result<(Store, Found)> {
        let (store, found, check) = Store::open_and_check(settings, boot_id, now)?;
        Ok(match store.await_check(check, boot_id, now)? {
            Checked::Sound(store) => (store, found),
            Checked::Replaced(store, found) => (store, found),
        })
    }

    /// As [`Store::open`], and the whole file is checked meanwhile. What is read before [`Store::await_check`] may be a damaged file's,
    /// and nothing may be written before.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub(crate) fn open_and_check(
        settings: &Settings,
        boot_id: &BootId,
        now: Now,
    ) -> Result<(Store, Found, Check)> {
        let lock = files::prepare(&settings.dir)?;
        let path = settings.file();
        let found = if path.exists() { Found::Sound } else { Found::Nothing };
        let (store, found) = match connect(&path, boot_id, now).map_err(Error::from) {
            Ok(opened) => (Store::new(opened, settings, lock), found),
            Err(error) if error.fault() == Fault::Damaged => {
                Store::replace(&error, settings, lock, boot_id, now)?
            }
            Err(error) => return Err(could_not_open(error, settings)),
        };
        let check = Check::begin(settings)?;
        Ok((store, found, check))
    }

    /// Waits for the check. A damaged file is moved aside, and the store is an empty one then.
    ///
    /// # Errors
    /// When the file could not be checked or replaced.
    pub(crate) fn await_check(self, check: Check, boot_id: &BootId, now: Now) -> Result<Checked> {
        match check.finish() {
            Ok(()) => {
                set_cache(&self.connection, self.settings.cache_kib)?;
                Ok(Checked::Sound(self))
            }
            Err(error) if error.fault() == Fault::Damaged => {
                let Store { connection, settings, _lock: lock, .. } = self;
                drop(connection);
                let (store, found) = Store::replace(&error, &settings, lock, boot_id, now)?;
                Ok(Checked::Replaced(store, found))
            }
            Err(error) => Err(could_not_open(error, &self.settings)),
        }
    }

    /// Moves a damaged file aside, and makes an empty one.
    fn replace(
        damage: &Error,
        settings: &Settings,
        lock: File,
        boot_id: &BootId,
        now: Now,
    ) -> Result<(Store, Found)> {
        let path = settings.file();
        let moved_to = files::move_aside(&path, now)?;
        let found = Found::Damaged { moved_to, damage: format!("{damage:#}") };
        let opened = connect(&path, boot_id, now).map_err(Error::from);
        let opened = opened.map_err(|error| could_not_open(error, settings))?;
        set_cache(&opened.0, settings.cache_kib)?;
        Ok((Store::new(opened, settings, lock), found))
    }

    fn new((connection, boots): (Connection, Boots), settings: &Settings, lock: File) -> Store {
        let (settings, unreadable) = (settings.clone(), RefCell::default());
        Store { connection, boots, settings, unreadable, _lock: lock }
    }

    /// As [`Store::open`], but leaves a damaged database where it is: what is lost with it only a start of the agent can put right.
    pub(crate) fn open_sound(settings: &Settings, boot_id: &BootId, now: Now) -> Result<Store> {
        let lock = files::prepare(&settings.dir)?;
        let path = settings.file();
        let checked = |opened: (Connection, Boots)| check::check(&opened.0).map(|()| opened);
        let opened = connect(&path, boot_id, now).and_then(checked).with_context(|| {
            format!(
                "could not open the database {} (a damaged one is put right by a start of the agent)",
                path.display()
            )
        })?;
        set_cache(&opened.0, settings.cache_kib)?;
        Ok(Store::new(opened, settings, lock))
    }

    /// Writes all of `records` in one transaction or, with an error, none of them.
    pub fn commit<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a Record>,
        now: Now,
    ) -> Result<(), Error> {
        self.commit_with(records, None, now)
    }

    /// As [`Store::commit`], with the audit log's head.
    pub(crate) fn commit_with<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a Record>,
        audit_head: Option<&AuditHead>,
        now: Now,
    ) -> Result<(), Error> {
        let records = records.into_iter();
        Ok(commit::commit(&mut self.connection, &mut self.boots, records, audit_head, now)?)
    }

    /// Stores what is wrong, or that nothing is.
    pub(crate) fn remember_trouble(&mut self, trouble: Option<&Trouble>) -> Result<()> {
        commit::trouble(&self.connection, trouble).context("could not store what is wrong with the database")
    }

    /// Reads everything but bans and offences, which [`Store::for_each_ban`] and [`Store::for_each_offence`] stream.
    pub fn load(&self) -> Result<Loaded> {
        load::load(&self.connection, &mut self.unreadable.borrow_mut()).map_err(said_once)
    }

    /// As `for_each_ban`, with the reason.
    #[cfg(any(test, feature = "test-support"))]
    pub fn for_each_record(
        &self,
        now: Now,
        each: impl FnMut(shield_engine::action::BanRecord),
    ) -> Result<()> {
        let unreadable = &mut self.unreadable.borrow_mut();
        let read = |row: &Row<'_>| rows::record(row, &self.boots, now);
        load::for_each_ban(&self.connection, unreadable, read, each).map_err(said_once)
    }

    /// Streams every ban, also those whose end has passed, without reason and evidence, and in the order of the serial numbers.
    pub(crate) fn for_each_ban(&self, now: Now, each: impl FnMut(shield_engine::ban::Ban)) -> Result<()> {
        let unreadable = &mut self.unreadable.borrow_mut();
        let read = |row: &Row<'_>| rows::ban(row, &self.boots, now);
        load::for_each_ban(&self.connection, unreadable, read, each).map_err(said_once)
    }

    /// Streams every client's offences: client, number, and the last one's time in Unix seconds.
    pub fn for_each_offence(&self, each: impl FnMut(shield_engine::client::Client, u32, i64)) -> Result<()> {
        let unreadable = &mut self.unreadable.borrow_mut();
        load::for_each_offence(&self.connection, unreadable, each).map_err(said_once)
    }

    /// Streams what other hosts want banned: the host, the client, and the entry in the engine's encoding.
    pub fn for_each_remote(
        &self,
        each: impl FnMut(String, shield_engine::client::Client, Vec<u8>),
    ) -> Result<()> {
        let unreadable = &mut self.unreadable.borrow_mut();
        load::for_each_remote(&self.connection, unreadable, each).map_err(said_once)
    }

    /// Keeps the rows that could not be read aside; call it after all was read. Returns a sentence about them, if there were any.
    pub fn keep_unreadable_aside(&mut self, now: Now) -> Option<String> {
        self.unreadable.take().keep_aside(&mut self.connection, now)
    }

    /// Needed to read stored deadlines.
    pub fn boots(&self) -> &Boots {
        &self.boots
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Deletes rows beyond the settings' bounds and returns free pages to the file system: a bounded number of each, so that
    /// no call holds up a ban. Call it about once a minute.
    pub fn prune(&mut self, now: Now) -> Result<(), Error> {
        Ok(load::prune(&self.connection, &self.settings, now).context("could not prune the database")?)
    }

    /// Makes the write-ahead log so long that commits write over what is there. A commit that makes the file longer changes what
    /// the file system itself has to write down, and waits while it does so for a sync: for milliseconds, and a ban waits too.
    ///
    /// SQLite does it: a transaction that does not fit into its cache goes to the log, and is rolled back. A disk with little room
    /// is left as it is.
    pub(crate) fn lengthen_log(&mut self) -> Result<()> {
        let log = files::log_of(&self.settings.file());
        let is_long = std::fs::metadata(log).is_ok_and(|log| log.len() >= u64::from(LOG_BYTES));
        let has_room = statvfs(&self.settings.dir)
            .is_ok_and(|disk| disk.blocks_available() * disk.fragment_size() >= MIN_FREE_BYTES);
        if is_long || !has_room {
            return Ok(());
        }
        set_cache(&self.connection, LENGTHEN_CACHE_KIB)?;
        let lengthened = self.write_and_roll_back(LOG_BYTES);
        set_cache(&self.connection, self.settings.cache_kib)?;
        lengthened.context("could not make the write-ahead log longer")
    }

    fn write_and_roll_back(&mut self, bytes: u32) -> rusqlite::Result<()> {
        let tx = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        tx.execute_batch("CREATE TABLE filler (bytes BLOB)")?;
        tx.execute("INSERT INTO filler VALUES (zeroblob(?1))", [bytes])?;
        tx.rollback()
    }

    /// Moves the write-ahead log into the database file, as far as no reader still needs it. This waits for the disk; while
    /// bans are made, `disk_sync` does it on another thread.
    pub fn checkpoint(&mut self) -> Result<(), Error> {
        Ok(checkpoint(&self.connection)?)
    }
}

fn checkpoint(connection: &Connection) -> Result<()> {
    connection
        .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
        .context("could not checkpoint the write-ahead log")
}

fn could_not_open(error: Error, settings: &Settings) -> anyhow::Error {
    anyhow::Error::new(error).context(format!("could not open the database {}", settings.file().display()))
}

/// Opens and migrates the file, and compares its tables with ours. One without tables counts as damaged: [`files::create`] never leaves
/// such a file.
fn connect(path: &Path, boot_id: &BootId, now: Now) -> Result<(Connection, Boots)> {
    if !path.exists() {
        files::create(path)?;
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    if schema::version_of(&connection)? == 0 {
        bail!(error::Damage("it has no tables".into()));
    }
    configure(&connection)?;
    schema::migrate(&mut connection)?;
    if let Some(wrong) = schema::unlike_ours(&connection)? {
        bail!(error::Damage(wrong));
    }
    // Without them no stored deadline means anything.
    let boots =
        Boots::load(&connection, boot_id, now).context("could not read the boots from the database")?;
    Ok((connection, boots))
}

/// How long a lock of another program is waited for.
const BUSY: Duration = Duration::from_secs(2);

/// The length that the log is given at a start: the commits of a few hundred bans, and after a checkpoint it is used again.
const LOG_BYTES: u32 = 4 << 20;
/// Room on the disk below which it is left for what has to be written.
const MIN_FREE_BYTES: u64 = 16 * LOG_BYTES as u64;
/// The page cache meanwhile: what does not fit is written.
const LENGTHEN_CACHE_KIB: u32 = 64;

/// The page cache while a start reads everything once.
const START_CACHE_KIB: u32 = 1024;

fn set_cache(connection: &Connection, kib: u32) -> rusqlite::Result<()> {
    connection.pragma_update(None, "cache_size", -i64::from(kib))
}

fn configure(connection: &Connection) -> Result<()> {
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "cell_size_check", true)?;
    set_cache(connection, START_CACHE_KIB)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "normal")?;
    connection.pragma_update(None, "journal_size_limit", 16 << 20)?;
    connection.pragma_update_and_check(None, "wal_autocheckpoint", 0, |_| Ok(()))?;
    Ok(())
}
