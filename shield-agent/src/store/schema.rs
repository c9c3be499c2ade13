//! The tables and their migrations.

use anyhow::{Context, Result, bail};
use rusqlite::Connection;

use super::error::Damage;

/// Marks the file as Shield's (`PRAGMA application_id`): "SHLD" in ASCII.
pub(super) const APPLICATION_ID: i32 = 0x5348_4c44;

/// One script for each version; the first n scripts make version n. A released script must never change.
const MIGRATIONS: [&str; 6] = [VERSION_1, VERSION_2, VERSION_3, VERSION_4, VERSION_5, VERSION_6];

/// Bans are stored in the order of their serial numbers, so that new ones are appended. Evidence has a table of its own to
/// keep the rows of bans short: a start reads all bans and no evidence.
const VERSION_1: &str = "
    CREATE TABLE boots (
        id             INTEGER PRIMARY KEY,
        boot_id        TEXT NOT NULL UNIQUE,  -- the kernel's /proc/sys/kernel/random/boot_id
        sample_wall_ms INTEGER NOT NULL,      -- the wall clock at the last transaction of this boot
        sample_boot_ms INTEGER NOT NULL,      -- the boot clock at the same moment
        shift_ms       INTEGER NOT NULL       -- add to a deadline of this boot to have it on the newest boot's clock
    );
    CREATE TABLE bans (
        serial       INTEGER PRIMARY KEY,
        client       TEXT NOT NULL UNIQUE,
        since_ms     INTEGER NOT NULL,
        boot         INTEGER NOT NULL,        -- boots.id: whose clock end_boot_ms is on
        end_boot_ms  INTEGER,                 -- NULL: permanent
        end_sort_ms  INTEGER NOT NULL,        -- the end on the wall clock, 2^63-1 when permanent: for sorting only
        offence      INTEGER NOT NULL,
        rule         TEXT NOT NULL,
        reason       TEXT
    );
    CREATE INDEX bans_by_rule ON bans (rule, client);
    CREATE INDEX bans_by_end ON bans (end_sort_ms);
    CREATE TABLE evidence (
        serial INTEGER PRIMARY KEY,           -- bans.serial
        json   TEXT NOT NULL
    );
    CREATE TABLE history (
        id          INTEGER PRIMARY KEY,      -- in the order of the lifts
        client      TEXT NOT NULL,
        serial      INTEGER NOT NULL,
        since_ms    INTEGER NOT NULL,
        lifted_ms   INTEGER NOT NULL,
        lift_reason TEXT NOT NULL,
        offence     INTEGER NOT NULL,
        rule        TEXT NOT NULL,
        reason      TEXT,
        evidence    TEXT
    );
    CREATE INDEX history_by_client ON history (client);
    CREATE TABLE offences (
        client    TEXT PRIMARY KEY,
        count     INTEGER NOT NULL,
        last_secs INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX offences_by_last ON offences (last_secs);
    CREATE TABLE checkpoints (
        source   TEXT PRIMARY KEY,
        position TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE allowed (
        network TEXT NOT NULL,
        reason  TEXT NOT NULL,
        PRIMARY KEY (network, reason)
    ) WITHOUT ROWID;
    CREATE TABLE singles (
        name  TEXT PRIMARY KEY,               -- baseline, totals, next_serial
        value BLOB NOT NULL
    ) WITHOUT ROWID;
";

/// Rows that could not be read at a start, out of the way of the next one; an operator's words about an entry of the allowlist.
const VERSION_2: &str = "
    ALTER TABLE allowed ADD COLUMN note TEXT;
    CREATE TABLE unreadable (
        id        INTEGER PRIMARY KEY,
        at_ms     INTEGER NOT NULL,
        why       TEXT NOT NULL,
        statement TEXT NOT NULL               -- SQL that would put the row back
    );
";

/// Which enforcers a ban is for.
const VERSION_3: &str = "
    ALTER TABLE bans ADD COLUMN place TEXT;   -- NULL: all of them
";

/// What other hosts want banned, one row for each host and client.
const VERSION_4: &str = "
    CREATE TABLE remote (
        origin TEXT NOT NULL,
        client TEXT NOT NULL,
        entry  BLOB NOT NULL,                 -- in the engine's encoding
        PRIMARY KEY (origin, client)
    ) WITHOUT ROWID;
";

/// Until when an entry of the allowlist stays.
const VERSION_5: &str = "
    ALTER TABLE allowed ADD COLUMN until_ms INTEGER;   -- NULL: until it is removed
";

/// Which sites a ban's client asked for, as its evidence says.
const VERSION_6: &str = "
    CREATE TABLE ban_sites (
        site   TEXT NOT NULL,
        serial INTEGER NOT NULL,              -- bans.serial
        PRIMARY KEY (site, serial)
    ) WITHOUT ROWID;
    CREATE INDEX ban_sites_by_serial ON ban_sites (serial);
";

/// Every table. One that is missing was not left out by a crash: the file was damaged or changed.
const TABLES: [&str; 11] = [
    "boots",
    "bans",
    "evidence",
    "ban_sites",
    "history",
    "offences",
    "checkpoints",
    "allowed",
    "singles",
    "unreadable",
    "remote",
];

/// The version this program writes.
pub(super) fn newest() -> i64 {
    MIGRATIONS.len() as i64
}

/// Brings the tables to the newest version in one transaction.
pub(super) fn migrate(connection: &mut Connection) -> Result<()> {
    let version = version_of(connection)?;
    if version == newest() {
        return Ok(());
    }
    let tx = connection.transaction()?;
    for (at, script) in MIGRATIONS.iter().enumerate().skip(version as usize) {
        let made = tx.execute_batch(script);
        if let Some(why) = made.as_ref().err().filter(|error| is_about_tables(error)) {
            // A script fits the tables before it, unless these are not what the version says.
            bail!(Damage(format!("its tables are not those of version {version}: {why}")));
        }
        made.with_context(|| format!("could not create version {} of the tables", at + 1))?;
    }
    tx.pragma_update(None, "user_version", newest())?;
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.commit().context("could not commit the new tables")
}

/// Whether SQLite found fault with a statement, and not with the disk, the memory or another program.
fn is_about_tables(error: &rusqlite::Error) -> bool {
    use rusqlite::Error as E;
    match error {
        E::SqliteFailure(failure, _) => failure.extended_code & 0xff == rusqlite::ffi::SQLITE_ERROR,
        E::SqlInputError { .. } => true,
        _ => false,
    }
}

/// What is wrong with the tables: a damaged page can rename a column and be whole in every other way.
pub(super) fn unlike_ours(connection: &Connection) -> Result<Option<String>> {
    let mut ours = Connection::open_in_memory()?;
    migrate(&mut ours)?;
    for table in TABLES {
        let found = columns(connection, table)?;
        if found.is_empty() {
            return Ok(Some(format!("its table {table} is missing")));
        }
        if found != columns(&ours, table)? {
            return Ok(Some(format!("its table {table} has other columns")));
        }
    }
    Ok(None)
}

/// The columns of a table: name, type, and place in the primary key.
fn columns(connection: &Connection, table: &str) -> Result<Vec<(String, String, i64)>> {
    let mut columns = connection.prepare("SELECT name, type, pk FROM pragma_table_info(?1)")?;
    let columns = columns.query_map([table], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    Ok(columns.collect::<rusqlite::Result<_>>()?)
}

/// No later program is so far ahead: such a version is a damaged byte.
const VERSIONS_AHEAD: i64 = 1000;

/// Returns the version of the tables, 0 when there are none.
///
/// # Errors
/// When the version is newer than this program or damaged, or the file is another program's.
pub(super) fn version_of(connection: &Connection) -> Result<i64> {
    let number = |name: &str| connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let version = number("user_version").context("could not read the version of the tables")?;
    if version > 0 && number("application_id")? != i64::from(APPLICATION_ID) {
        bail!(
            "this is another program's database, not Shield's: move it away or set another state directory"
        );
    }
    if !(0..newest() + VERSIONS_AHEAD).contains(&version) {
        bail!(Damage(format!("its tables have the version {version}, which is none")));
    }
    if version > newest() {
        let newest = newest();
        bail!(
            "the database was written by a newer Shield (tables of version {version}, this program knows up to \
             {newest}): install that version again, or move the file away to start with an empty one"
        );
    }
    Ok(version)
}
