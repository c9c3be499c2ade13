//! Writes records in one transaction.

use anyhow::{Context, Result};
use rusqlite::{Connection, OptionalExtension, params};

use super::audit_head::AuditHead;
use super::boots::Boots;
use super::load::{AUDIT_HEAD, TROUBLE};
use super::rows;
use super::trouble::Trouble;
use shield_engine::action::{BanRecord, LiftReason, Record};
use shield_engine::client::Client;
use shield_engine::time::Now;

/// Writes all of `records`, in their order, or none of them.
pub(super) fn commit<'a>(
    connection: &mut Connection,
    boots: &mut Boots,
    records: impl Iterator<Item = &'a Record>,
    audit_head: Option<&AuditHead>,
    now: Now,
) -> Result<()> {
    let tx = connection.transaction().context("could not begin a transaction")?;
    let boot = boots.sample(&tx, now).context("could not record the time")?;
    let mut last_serial = None;
    for record in records {
        write(&tx, boot, record).with_context(|| format!("could not write {}", describe(record)))?;
        if let Record::Banned(ban) | Record::Extended(ban) = record {
            last_serial = last_serial.max(Some(ban.ban.serial));
        }
    }
    if let Some(serial) = last_serial {
        raise_next_serial(&tx, serial + 1)?;
    }
    if let Some(head) = audit_head {
        single(&tx, AUDIT_HEAD, &serde_json::to_vec(head)?)
            .context("could not write the audit log's head")?;
    }
    tx.commit().context("could not commit")?;
    boots.registered(boot);
    Ok(())
}

/// Stores what is wrong with the database, or that nothing is.
pub(super) fn trouble(connection: &Connection, trouble: Option<&Trouble>) -> Result<()> {
    match trouble {
        Some(trouble) => single(connection, TROUBLE, &serde_json::to_vec(trouble)?)?,
        None => {
            connection.execute("DELETE FROM singles WHERE name = ?1", [TROUBLE])?;
        }
    }
    Ok(())
}

fn write(tx: &Connection, boot: i64, record: &Record) -> Result<()> {
    match record {
        Record::Banned(ban) => {
            take_out(tx, ban.ban.client)?;
            insert_ban(tx, boot, ban)?;
        }
        Record::Extended(ban) => extended(tx, boot, ban)?,
        Record::Lifted { client, serial, at_ms, reason } => lifted(tx, *client, *serial, *at_ms, *reason)?,
        Record::Offences { client, count, last_secs } => offences(tx, *client, count.get(), *last_secs)?,
        Record::OffencesForgotten(client) => forget_offences(tx, *client)?,
        Record::Baseline(bytes) => single(tx, "baseline", bytes)?,
        Record::Totals(totals) => single(tx, "totals", &serde_json::to_vec(totals)?)?,
        Record::Slowed(list) => single(tx, "slowed", list)?,
        Record::Paused(pause) => single(tx, "paused", pause)?,
        Record::RemoteState(state) => single(tx, "remote", state)?,
        Record::Remote { origin, client, entry } => {
            remote(tx, origin, *client, entry.as_deref())?;
        }
        Record::Checkpoint(at) => {
            tx.prepare_cached("INSERT OR REPLACE INTO checkpoints (source, position) VALUES (?1, ?2)")?
                .execute([&at.source, &at.position])?;
        }
        Record::Allowed { entry, note, until_ms } => {
            let sql =
                "INSERT OR REPLACE INTO allowed (network, reason, note, until_ms) VALUES (?1, ?2, ?3, ?4)";
            let (network, reason) = (entry.network.to_string(), rows::allow_reason(entry.reason));
            tx.prepare_cached(sql)?.execute(params![network, reason, note, until_ms])?;
        }
        Record::Disallowed(entry) => {
            tx.prepare_cached("DELETE FROM allowed WHERE network = ?1 AND reason = ?2")?
                .execute([&entry.network.to_string(), rows::allow_reason(entry.reason)])?;
        }
    }
    Ok(())
}

fn remote(tx: &Connection, origin: &str, client: Client, entry: Option<&[u8]>) -> rusqlite::Result<usize> {
    let client = client.to_string();
    match entry {
        Some(entry) => tx
            .prepare_cached("INSERT OR REPLACE INTO remote (origin, client, entry) VALUES (?1, ?2, ?3)")?
            .execute(params![origin, client, entry]),
        None => tx
            .prepare_cached("DELETE FROM remote WHERE origin = ?1 AND client = ?2")?
            .execute([origin, &client]),
    }
}

/// Deletes the client's ban and returns its reason and evidence.
fn take_out(tx: &Connection, client: Client) -> rusqlite::Result<(Option<String>, Option<String>)> {
    let old: Option<(i64, Option<String>)> = tx
        .prepare_cached("DELETE FROM bans WHERE client = ?1 RETURNING serial, reason")?
        .query_row([client.to_string()], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let Some((serial, reason)) = old else { return Ok((None, None)) };
    let evidence = tx
        .prepare_cached("DELETE FROM evidence WHERE serial = ?1 RETURNING json")?
        .query_row([serial], |row| row.get(0))
        .optional()?;
    forget_sites(tx, serial)?;
    Ok((reason, evidence))
}

/// Moves the end of a ban. Evidence and reason stay, because the engine does not keep them in memory.
fn extended(tx: &Connection, boot: i64, ban: &BanRecord) -> Result<()> {
    let (reason, evidence) = take_out(tx, ban.ban.client)?;
    insert_ban(tx, boot, ban)?;
    let serial = ban.ban.serial as i64;
    if let Some(json) = evidence.filter(|_| ban.evidence.is_none()) {
        insert_evidence(tx, serial, &json)?;
    }
    if let Some(reason) = reason.filter(|_| ban.reason.is_none()) {
        tx.prepare_cached("UPDATE bans SET reason = ?2 WHERE serial = ?1")?
            .execute(params![serial, reason])?;
    }
    Ok(())
}

fn insert_ban(tx: &Connection, boot: i64, record: &BanRecord) -> Result<()> {
    let ban = &record.ban;
    tx.prepare_cached(
        "INSERT INTO bans (serial, client, since_ms, boot, end_boot_ms, end_sort_ms, offence, rule, reason, place)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        ban.serial as i64,
        ban.client.to_string(),
        ban.since_ms,
        boot,
        rows::deadline(ban.ends),
        rows::sort_key(ban.ends),
        ban.offence_number(),
        ban.rule.name(),
        record.reason,
        rows::place(ban.place),
    ])?;
    match &record.evidence {
        Some(evidence) => insert_evidence(tx, ban.serial as i64, &serde_json::to_string(evidence)?),
        None => Ok(()),
    }
}

fn insert_evidence(tx: &Connection, serial: i64, json: &str) -> Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO evidence (serial, json) VALUES (?1, ?2)")?
        .execute(params![serial, json])?;
    // An extended ban's evidence comes from the database as it is, and may be damaged.
    if json.contains("\"sites\"") {
        tx.prepare_cached(
            "INSERT OR IGNORE INTO ban_sites (site, serial)
             SELECT value, ?1 FROM json_each(CASE WHEN json_valid(?2) THEN ?2 ELSE '{}' END, '$.sites')
             WHERE type = 'text'",
        )?
        .execute(params![serial, json])?;
    }
    Ok(())
}

fn forget_sites(tx: &Connection, serial: i64) -> rusqlite::Result<usize> {
    tx.prepare_cached("DELETE FROM ban_sites WHERE serial = ?1")?.execute([serial])
}

/// Moves a ban to the history. Does nothing when a newer ban has replaced it: its serial number differs.
fn lifted(
    tx: &Connection,
    client: Client,
    serial: u64,
    at_ms: i64,
    reason: LiftReason,
) -> rusqlite::Result<()> {
    let serial = serial as i64;
    tx.prepare_cached(
        "INSERT INTO history
             (client, serial, since_ms, lifted_ms, lift_reason, offence, rule, reason, evidence)
         SELECT client, serial, since_ms, ?3, ?4, offence, rule, reason,
             (SELECT json FROM evidence WHERE evidence.serial = bans.serial)
         FROM bans WHERE serial = ?1 AND client = ?2",
    )?
    .execute(params![serial, client.to_string(), at_ms, rows::lift_reason(reason)])?;
    if tx.changes() > 0 {
        tx.prepare_cached("DELETE FROM bans WHERE serial = ?1")?.execute([serial])?;
        tx.prepare_cached("DELETE FROM evidence WHERE serial = ?1")?.execute([serial])?;
        forget_sites(tx, serial)?;
    }
    Ok(())
}

/// Stores a count unless it is both lower and older than the stored one: then a newer record has overtaken it.
fn offences(tx: &Connection, client: Client, count: u32, last_secs: i64) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO offences (client, count, last_secs) VALUES (?1, ?2, ?3)
         ON CONFLICT (client) DO UPDATE SET count = excluded.count, last_secs = excluded.last_secs
         WHERE excluded.last_secs >= last_secs OR excluded.count > count",
    )?
    .execute(params![client.to_string(), count, last_secs])?;
    Ok(())
}

fn forget_offences(tx: &Connection, client: Client) -> rusqlite::Result<()> {
    tx.prepare_cached("DELETE FROM offences WHERE client = ?1")?.execute([client.to_string()])?;
    Ok(())
}

fn single(tx: &Connection, name: &str, value: &[u8]) -> rusqlite::Result<()> {
    tx.prepare_cached("INSERT OR REPLACE INTO singles (name, value) VALUES (?1, ?2)")?
        .execute(params![name, value])?;
    Ok(())
}

fn raise_next_serial(tx: &Connection, next: u64) -> rusqlite::Result<()> {
    tx.prepare_cached(
        "INSERT INTO singles (name, value) VALUES ('next_serial', ?1)
         ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
    )?
    .execute([next as i64])?;
    Ok(())
}

fn describe(record: &Record) -> String {
    match record {
        Record::Banned(ban) | Record::Extended(ban) => format!("the ban of {}", ban.ban.client),
        Record::Lifted { client, .. } => format!("the lift of {client}"),
        Record::Offences { client, .. } | Record::OffencesForgotten(client) => {
            format!("the offences of {client}")
        }
        Record::Baseline(_) => "the baseline".into(),
        Record::Checkpoint(at) => format!("the checkpoint of {}", at.source),
        Record::Slowed(_) => "the slow lane".into(),
        Record::Paused(_) => "the pause of automatic bans".into(),
        Record::Remote { origin, client, .. } => format!("what {origin} says of {client}"),
        Record::RemoteState(_) => "the state of the origins".into(),
        Record::Totals(_) => "the totals".into(),
        Record::Allowed { entry, .. } | Record::Disallowed(entry) => {
            format!("the allowlist's entry {}", entry.network)
        }
    }
}
