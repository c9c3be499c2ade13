//! Reading at the start, and pruning.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use rusqlite::{Connection, OptionalExtension, params};

use super::boots::Boots;
use super::{Settings, rows};
use shield_engine::action::{BanRecord, Totals};
use shield_engine::allowlist::Allowed;
use shield_engine::client::Client;
use shield_engine::time::Now;

/// The state of the last run except bans and offences, which are streamed because there may be millions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Loaded {
    /// The number of bans that [`super::Store::for_each_ban`] streams.
    pub bans: u64,
    /// The baseline in the detector's encoding.
    pub baseline: Option<Vec<u8>>,
    /// The position of each source by its name, in the source's own encoding.
    pub checkpoints: BTreeMap<String, String>,
    pub totals: Totals,
    /// The operator's allowlist entries.
    pub allowed: Vec<Allowed>,
    /// Greater than every serial number that was ever committed.
    pub next_serial: u64,
}

/// Rows that one pruning deletes from a table, so that it never holds up a ban for long.
const PRUNED_AT_ONCE: u64 = 2_000;
/// Free pages (of 4 KiB) that one pruning returns to the file system.
const VACUUMED_AT_ONCE: u32 = 512;

pub(super) fn load(connection: &Connection) -> Result<Loaded> {
    let bans = count(connection, "bans")?;
    let totals = single::<Vec<u8>>(connection, "totals")?;
    Ok(Loaded {
        bans,
        baseline: single(connection, "baseline")?,
        checkpoints: checkpoints(connection).context("could not read the checkpoints")?,
        totals: totals.map(|json| serde_json::from_slice(&json)).transpose()?.unwrap_or_default(),
        allowed: allowed(connection).context("could not read the operator's allowlist")?,
        next_serial: single::<i64>(connection, "next_serial")?.unwrap_or(1) as u64,
    })
}

pub(super) fn for_each_ban(
    connection: &Connection,
    boots: &Boots,
    now: Now,
    mut each: impl FnMut(BanRecord),
) -> Result<()> {
    let sql = format!("SELECT {} FROM bans ORDER BY serial", rows::BAN_COLUMNS);
    let mut statement = connection.prepare(&sql)?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next().context("could not read the bans")? {
        each(rows::ban(row, boots, now).context("could not read a ban")?);
    }
    Ok(())
}

pub(super) fn for_each_offence(
    connection: &Connection,
    mut each: impl FnMut(Client, u32, i64),
) -> Result<()> {
    let mut statement = connection.prepare("SELECT client, count, last_secs FROM offences")?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next().context("could not read the offences")? {
        each(rows::client(row, 0)?, row.get(1)?, row.get(2)?);
    }
    Ok(())
}

pub(super) fn prune(connection: &Connection, settings: &Settings, now: Now) -> Result<()> {
    let history_since_ms = now.wall_ms.saturating_sub(settings.history_kept.as_millis() as i64);
    delete(
        connection,
        "DELETE FROM history WHERE id IN (
             SELECT id FROM (SELECT id, lifted_ms FROM history ORDER BY id LIMIT ?2) WHERE lifted_ms < ?1)",
        history_since_ms,
        PRUNED_AT_ONCE,
    )?;
    delete_surplus(connection, "history", "id", settings.history_rows)?;
    let offences_since = now.wall_secs().saturating_sub(settings.offences_kept.as_secs() as i64);
    delete(
        connection,
        "DELETE FROM offences WHERE client IN (
             SELECT client FROM offences WHERE last_secs < ?1 ORDER BY last_secs LIMIT ?2)",
        offences_since,
        PRUNED_AT_ONCE,
    )?;
    delete_surplus(connection, "offences", "last_secs", settings.offence_rows)?;
    vacuum(connection)
}

fn delete_surplus(connection: &Connection, table: &str, order: &str, most: u64) -> Result<()> {
    let surplus = count(connection, table)?.saturating_sub(most).min(PRUNED_AT_ONCE);
    if surplus > 0 {
        let key = if table == "history" { "id" } else { "client" };
        let sql = format!(
            "DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {table} ORDER BY {order} LIMIT {surplus})"
        );
        connection.execute(&sql, [])?;
    }
    Ok(())
}

fn delete(connection: &Connection, sql: &str, before: i64, limit: u64) -> Result<()> {
    connection.prepare_cached(sql)?.execute(params![before, limit as i64])?;
    Ok(())
}

fn vacuum(connection: &Connection) -> Result<()> {
    let mut statement = connection.prepare(&format!("PRAGMA incremental_vacuum({VACUUMED_AT_ONCE})"))?;
    let mut freed = statement.query([])?;
    while freed.next()?.is_some() {}
    Ok(())
}

fn count(connection: &Connection, table: &str) -> Result<u64> {
    let sql = format!("SELECT count(*) FROM {table}");
    let rows: i64 = connection.prepare_cached(&sql)?.query_row([], |row| row.get(0))?;
    Ok(rows as u64)
}

fn single<T: rusqlite::types::FromSql>(connection: &Connection, name: &str) -> Result<Option<T>> {
    connection
        .query_row("SELECT value FROM singles WHERE name = ?1", [name], |row| row.get(0))
        .optional()
        .with_context(|| format!("could not read the stored {name}"))
}

fn checkpoints(connection: &Connection) -> Result<BTreeMap<String, String>> {
    let mut statement = connection.prepare("SELECT source, position FROM checkpoints")?;
    let found = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(found.collect::<rusqlite::Result<_>>()?)
}

fn allowed(connection: &Connection) -> Result<Vec<Allowed>> {
    let mut statement = connection.prepare("SELECT network, reason FROM allowed ORDER BY network, reason")?;
    let mut found = statement.query([])?;
    let mut entries = Vec::new();
    while let Some(row) = found.next()? {
        let network =
            row.get_ref(0)?.as_str()?.parse().context("could not read a network of the allowlist")?;
        entries.push(Allowed { network, reason: rows::name(row, 1)? });
    }
    Ok(entries)
}
