//! Reading at the start, and pruning.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use rusqlite::{Connection, OptionalExtension, Row, params};
use serde::de::DeserializeOwned;

use super::audit_head::AuditHead;
use super::trouble::Trouble;
use super::unreadable::{Table, Unreadable, key};
use super::{Settings, rows};
use ipnet::IpNet;
use shield_engine::action::Totals;
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
    /// The slow lane in the engine's encoding.
    pub slowed: Option<Vec<u8>>,
    /// The pause of automatic bans in the engine's encoding.
    pub paused: Option<Vec<u8>>,
    /// What is known of other hosts, in the engine's encoding.
    pub remote_state: Option<Vec<u8>>,
    /// The operator's allowlist entries.
    pub allowed: Vec<Allowed>,
    /// The ends of those that were added for a while, on the wall clock in milliseconds.
    pub allowed_until_ms: Vec<(IpNet, i64)>,
    /// Greater than every serial number that was ever committed.
    pub next_serial: u64,
    /// The audit log's last line.
    pub audit_head: Option<AuditHead>,
    /// What an earlier start found wrong.
    pub trouble: Option<Trouble>,
}

/// The names of stored values.
pub(super) const AUDIT_HEAD: &str = "audit_head";
pub(super) const TROUBLE: &str = "trouble";

/// Rows that one pruning deletes from a table, so that it never holds up a ban for long.
const PRUNED_AT_ONCE: u64 = 2_000;
/// Free pages (of 4 KiB) that one pruning returns to the file system.
const VACUUMED_AT_ONCE: u32 = 512;

pub(super) fn load(connection: &Connection, unreadable: &mut Unreadable) -> Result<Loaded> {
    let allowed = allowed(connection, unreadable).context("could not read the operator's allowlist")?;
    Ok(Loaded {
        bans: count(connection, "bans")?,
        baseline: single(connection, "baseline", unreadable)?,
        totals: single_json(connection, "totals", unreadable)?.unwrap_or_default(),
        slowed: single(connection, "slowed", unreadable)?,
        paused: single(connection, "paused", unreadable)?,
        remote_state: single(connection, "remote", unreadable)?,
        checkpoints: checkpoints(connection, unreadable).context("could not read the checkpoints")?,
        allowed_until_ms: allowed
            .iter()
            .filter_map(|(entry, until_ms)| Some((entry.network, (*until_ms)?)))
            .collect(),
        allowed: allowed.into_iter().map(|(entry, _)| entry).collect(),
        next_serial: next_serial_of(connection, unreadable)?,
        audit_head: single_json(connection, AUDIT_HEAD, unreadable)?,
        trouble: single_json(connection, TROUBLE, unreadable)?,
    })
}

/// Reads the audit log's head alone.
pub(super) fn audit_head(connection: &Connection) -> Result<Option<AuditHead>> {
    single_json(connection, AUDIT_HEAD, &mut Unreadable::default())
}

/// Reads the baseline alone.
pub(super) fn baseline(connection: &Connection) -> Result<Option<Vec<u8>>> {
    single(connection, "baseline", &mut Unreadable::default())
}

/// Calls `each` with every row of a query. One that cannot be read is left out and added to `unreadable` by its key, the
/// columns from 0.
fn for_each_row<T>(
    connection: &Connection,
    (table, keys): (Table, usize),
    sql: &str,
    unreadable: &mut Unreadable,
    read: impl Fn(&Row<'_>) -> Result<T>,
    mut each: impl FnMut(T),
) -> Result<()> {
    let mut statement = connection.prepare(sql)?;
    let mut found = statement.query([])?;
    while let Some(row) = found.next()? {
        match read(row) {
            Ok(read) => each(read),
            Err(error) => {
                let key = (0..keys).map(|column| key(row, column)).collect::<rusqlite::Result<_>>()?;
                unreadable.add(table, key, &error);
            }
        }
    }
    Ok(())
}

/// Calls `each` with what `read` makes of the row of every ban.
pub(super) fn for_each_ban<T>(
    connection: &Connection,
    unreadable: &mut Unreadable,
    read: impl Fn(&Row<'_>) -> Result<T>,
    each: impl FnMut(T),
) -> Result<()> {
    let sql = format!("SELECT {} FROM bans ORDER BY serial", rows::BAN_COLUMNS);
    for_each_row(connection, (Table::Bans, 1), &sql, unreadable, read, each)
        .context("could not read the bans")
}

pub(super) fn for_each_offence(
    connection: &Connection,
    unreadable: &mut Unreadable,
    mut each: impl FnMut(Client, u32, i64),
) -> Result<()> {
    let sql = "SELECT client, count, last_secs FROM offences";
    let read = |row: &Row<'_>| Ok((rows::client(row, 0)?, row.get(1)?, row.get(2)?));
    for_each_row(connection, (Table::Offences, 1), sql, unreadable, read, |(client, count, last_secs)| {
        each(client, count, last_secs);
    })
    .context("could not read the offences")
}

pub(super) fn for_each_remote(
    connection: &Connection,
    unreadable: &mut Unreadable,
    mut each: impl FnMut(String, Client, Vec<u8>),
) -> Result<()> {
    let sql = "SELECT origin, client, entry FROM remote";
    let read = |row: &Row<'_>| Ok((row.get(0)?, rows::client(row, 1)?, row.get(2)?));
    for_each_row(connection, (Table::Remote, 2), sql, unreadable, read, |(origin, client, entry)| {
        each(origin, client, entry);
    })
    .context("could not read what other hosts want banned")
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

/// Reads a stored value, which is bytes or a number.
fn single(connection: &Connection, name: &str, unreadable: &mut Unreadable) -> Result<Option<Vec<u8>>> {
    let sql = "SELECT value FROM singles WHERE name = ?1";
    let read = |row: &Row<'_>| row.get_ref(0).map(|value| value.as_bytes().map(<[u8]>::to_vec));
    let found = connection.query_row(sql, [name], read).optional();
    let found = found.with_context(|| format!("could not read the stored {name}"))?;
    Ok(match found {
        Some(Err(error)) => {
            unreadable.add(Table::Singles, vec![name.to_owned().into()], &error.into());
            None
        }
        other => other.and_then(std::result::Result::ok),
    })
}

fn single_json<T: DeserializeOwned>(
    connection: &Connection,
    name: &str,
    unreadable: &mut Unreadable,
) -> Result<Option<T>> {
    let Some(json) = single(connection, name, unreadable)? else { return Ok(None) };
    Ok(serde_json::from_slice(&json)
        .map_err(|error| {
            let error = anyhow::Error::new(error).context("could not read the JSON");
            unreadable.add(Table::Singles, vec![name.to_owned().into()], &error);
        })
        .ok())
}

/// The next serial number: greater than every one that was given out, also where it can only be told from the bans.
fn next_serial_of(connection: &Connection, unreadable: &mut Unreadable) -> Result<u64> {
    let sql = "SELECT value FROM singles WHERE name = 'next_serial'";
    let stored = connection.query_row(sql, [], |row| Ok(row.get::<_, i64>(0))).optional();
    match stored.context("could not read the stored next_serial")? {
        Some(Ok(next)) if next > 0 => return Ok(next as u64),
        Some(Ok(next)) => {
            let error = anyhow::anyhow!("the next serial number is {next}");
            unreadable.add(Table::Singles, vec!["next_serial".to_owned().into()], &error);
        }
        Some(Err(error)) => {
            unreadable.add(Table::Singles, vec!["next_serial".to_owned().into()], &error.into());
        }
        None => {}
    }
    let sql =
        "SELECT max((SELECT ifnull(max(serial), 0) FROM bans), (SELECT ifnull(max(serial), 0) FROM history))";
    let newest: i64 =
        connection.query_row(sql, [], |row| row.get(0)).context("could not find the newest ban")?;
    Ok(newest.max(0) as u64 + 1)
}

fn checkpoints(connection: &Connection, unreadable: &mut Unreadable) -> Result<BTreeMap<String, String>> {
    let mut positions = BTreeMap::new();
    let sql = "SELECT source, position FROM checkpoints";
    let read = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    for_each_row(connection, (Table::Checkpoints, 1), sql, unreadable, read, |(source, position)| {
        positions.insert(source, position);
    })?;
    Ok(positions)
}

fn allowed(connection: &Connection, unreadable: &mut Unreadable) -> Result<Vec<(Allowed, Option<i64>)>> {
    let mut entries = Vec::new();
    let sql = "SELECT network, reason, until_ms FROM allowed ORDER BY network, reason";
    let read = |row: &Row<'_>| {
        let network = row.get_ref(0)?.as_str()?.parse().context("could not read its network")?;
        Ok((Allowed { network, reason: rows::name(row, 1)? }, row.get(2)?))
    };
    for_each_row(connection, (Table::Allowed, 2), sql, unreadable, read, |entry| entries.push(entry))?;
    Ok(entries)
}
