//! Translates stored deadlines across restarts and reboots.
//!
//! `CLOCK_BOOTTIME` starts again at every boot, so a stored deadline carries its boot. Within that boot it holds, whatever
//! the wall clock does. Across a reboot only the wall clock knows how long the machine was down: each transaction samples
//! both clocks, and the time between the last sample and the first start of the next boot is what passed. A wall clock
//! that went backwards over the reboot counts as no time, so that the rest of a ban never grows.

use std::collections::HashMap;

use anyhow::{Context, Result};
use rusqlite::{Connection, OptionalExtension, params};

use shield_engine::time::{Ends, Now};

/// The kernel's identifier of one boot: a UUID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootId(String);

impl BootId {
    /// Reads the running kernel's identifier.
    pub fn current() -> Result<BootId> {
        const PATH: &str = "/proc/sys/kernel/random/boot_id";
        let text = std::fs::read_to_string(PATH).with_context(|| format!("could not read {PATH}"))?;
        Ok(BootId::from_text(&text))
    }

    pub fn from_text(text: &str) -> BootId {
        BootId(text.trim().to_owned())
    }
}

/// Translates stored deadlines to this boot's clock. Computed when the store is opened, which writes nothing because the
/// disk may be full; the first transaction adds this boot to the database.
#[derive(Debug, Clone)]
pub struct Boots {
    boot_id: BootId,
    /// This boot's row; `None` until the first transaction is committed.
    current: Option<i64>,
    /// Offset from each stored boot's clock to this boot's.
    shifts_ms: HashMap<i64, i64>,
    /// To be added to the stored offsets when this boot gets its row.
    move_ms: i64,
}

impl Boots {
    pub fn load(connection: &Connection, boot_id: &BootId, now: Now) -> Result<Boots> {
        let current = connection
            .query_row("SELECT id FROM boots WHERE boot_id = ?1", [&boot_id.0], |row| row.get(0))
            .optional()?;
        let move_ms = if current.is_some() { 0 } else { shift_since_last(connection, now)? };
        let shifts_ms = connection
            .prepare("SELECT id, shift_ms FROM boots")?
            .query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.saturating_add(move_ms))))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(Boots { boot_id: boot_id.clone(), current, shifts_ms, move_ms })
    }

    /// Samples both clocks and returns this boot's row. Part of every transaction; call [`Boots::registered`] once that is
    /// committed.
    pub fn sample(&self, tx: &Connection, now: Now) -> rusqlite::Result<i64> {
        let id = match self.current {
            Some(id) => id,
            None => self.register(tx)?,
        };
        tx.prepare_cached("UPDATE boots SET sample_wall_ms = ?2, sample_boot_ms = ?3 WHERE id = ?1")?
            .execute(params![id, now.wall_ms, now.boot_ms as i64])?;
        Ok(id)
    }

    /// Keeps this boot's row, after the transaction with it was committed.
    pub fn registered(&mut self, id: i64) {
        self.current = Some(id);
    }

    fn register(&self, tx: &Connection) -> rusqlite::Result<i64> {
        tx.execute("UPDATE boots SET shift_ms = shift_ms + ?1", [self.move_ms])?;
        tx.execute(
            "INSERT INTO boots (boot_id, sample_wall_ms, sample_boot_ms, shift_ms) VALUES (?1, 0, 0, 0)",
            [&self.boot_id.0],
        )?;
        Ok(tx.last_insert_rowid())
    }

    /// Translates a stored deadline. The wall-clock end is recomputed from `now`: the stored one may be from before a jump.
    pub fn ends(&self, boot: i64, end_boot_ms: Option<i64>, now: Now) -> Ends {
        let Some(stored) = end_boot_ms else { return Ends::Never };
        let shift = self.shifts_ms.get(&boot).copied().unwrap_or(0);
        let boot_ms = stored.saturating_add(shift).max(0);
        let wall_ms = now.wall_ms.saturating_add(boot_ms.saturating_sub(now.boot_ms as i64));
        Ends::At { boot_ms: boot_ms as u64, wall_ms }
    }
}

/// Offset from the last boot's clock to this one's: now - last sample - time passed since that sample.
fn shift_since_last(connection: &Connection, now: Now) -> rusqlite::Result<i64> {
    let last = connection
        .query_row("SELECT sample_wall_ms, sample_boot_ms FROM boots ORDER BY id DESC LIMIT 1", [], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?))
        })
        .optional()?;
    let Some((wall_ms, boot_ms)) = last else { return Ok(0) };
    let passed_ms = now.wall_ms.saturating_sub(wall_ms).max(0);
    Ok((now.boot_ms as i64).saturating_sub(boot_ms).saturating_sub(passed_ms))
}
