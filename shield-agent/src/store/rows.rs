//! Conversions between the engine's types and columns.

use std::num::NonZeroU32;

use anyhow::{Context, Result, anyhow};
use rusqlite::Row;
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as NameError, StrDeserializer};

use super::boots::Boots;
use shield_engine::action::{BanRecord, LiftReason};
use shield_engine::allowlist::AllowReason;
use shield_engine::ban::{Ban, Place};
use shield_engine::client::Client;
use shield_engine::time::{Ends, Now};

/// The columns that [`ban`] reads, in its order.
pub(super) const BAN_COLUMNS: &str =
    "serial, client, since_ms, boot, end_boot_ms, offence, rule, reason, place";

/// The first column behind these.
pub(super) const AFTER_BAN: usize = 9;

/// The sort key of an end; permanent bans come last.
pub(super) fn sort_key(ends: Ends) -> i64 {
    match ends {
        Ends::At { wall_ms, .. } => wall_ms,
        Ends::Never => i64::MAX,
    }
}

/// The end on the boot clock; `None` when permanent.
pub(super) fn deadline(ends: Ends) -> Option<i64> {
    match ends {
        Ends::At { boot_ms, .. } => Some(i64::try_from(boot_ms).unwrap_or(i64::MAX)),
        Ends::Never => None,
    }
}

/// Reads a ban without its evidence from a row of [`BAN_COLUMNS`].
pub(super) fn record(row: &Row<'_>, boots: &Boots, now: Now) -> Result<BanRecord> {
    Ok(BanRecord { ban: ban(row, boots, now)?, reason: row.get(7)?, evidence: None })
}

/// Reads a ban alone from a row of [`BAN_COLUMNS`]. A reason that is no text makes it unreadable here too.
pub(super) fn ban(row: &Row<'_>, boots: &Boots, now: Now) -> Result<Ban> {
    row.get_ref(7)?.as_str_or_null()?;
    Ok(Ban {
        serial: row.get::<_, i64>(0)? as u64,
        client: client(row, 1)?,
        since_ms: row.get(2)?,
        ends: boots.ends(row.get(3)?, row.get(4)?, now),
        offence: NonZeroU32::new(row.get(5)?),
        rule: name(row, 6)?,
        place: place_of(row, 8)?,
    })
}

/// Reads a ban's place; nothing stands for all places. One that this program does not know is no reason to lose the ban.
fn place_of(row: &Row<'_>, column: usize) -> Result<Place> {
    // Most have none: an error for each of these, thrown away, would be a good part of a start.
    let is_everywhere = row.get_ref(column)? == rusqlite::types::ValueRef::Null;
    Ok(if is_everywhere { Place::Everywhere } else { name(row, column).unwrap_or_default() })
}

pub(super) fn client(row: &Row<'_>, column: usize) -> Result<Client> {
    row.get_ref(column)?.as_str()?.parse().map_err(|error| anyhow!("column {column}: {error}"))
}

/// Reads a unit variant by its name in JSON.
pub(super) fn name<T: for<'de> Deserialize<'de>>(row: &Row<'_>, column: usize) -> Result<T> {
    let text = row.get_ref(column)?.as_str()?;
    let deserializer: StrDeserializer<'_, NameError> = text.into_deserializer();
    T::deserialize(deserializer).with_context(|| format!("could not read column {column}: {text:?}"))
}

/// Reads JSON from a column that may be null.
pub(super) fn json<T: for<'de> Deserialize<'de>>(row: &Row<'_>, column: usize) -> Result<Option<T>> {
    let Some(text) = row.get_ref(column)?.as_str_or_null()? else { return Ok(None) };
    serde_json::from_str(text)
        .map(Some)
        .with_context(|| format!("could not read the JSON in column {column}"))
}

/// The name of a ban's place, as in JSON; `None` of all places.
pub(super) fn place(place: Place) -> Option<&'static str> {
    match place {
        Place::Kernel => Some("kernel"),
        Place::Nginx => Some("nginx"),
        Place::Everywhere => None,
    }
}

/// The name of a lift's reason, as in JSON.
pub(super) fn lift_reason(reason: LiftReason) -> &'static str {
    match reason {
        LiftReason::Expired => "expired",
        LiftReason::Operator => "operator",
        LiftReason::Allowed => "allowed",
        LiftReason::Withdrawn => "withdrawn",
    }
}

/// The name of an allowlist entry's reason, as in JSON.
pub(super) fn allow_reason(reason: AllowReason) -> &'static str {
    match reason {
        AllowReason::Configured => "configured",
        AllowReason::Operator => "operator",
        AllowReason::OwnAddress => "own_address",
        AllowReason::Special => "special",
        AllowReason::Gateway => "gateway",
        AllowReason::Resolver => "resolver",
        AllowReason::SshSession => "ssh_session",
        AllowReason::SshRecent => "ssh_recent",
        AllowReason::TrustedProxy => "trusted_proxy",
        AllowReason::SearchEngine => "search_engine",
        AllowReason::Cdn => "cdn",
        AllowReason::Private => "private",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_are_those_of_the_json() {
        let quoted = |name: &str| format!("\"{name}\"");
        for reason in [LiftReason::Expired, LiftReason::Operator, LiftReason::Allowed, LiftReason::Withdrawn]
        {
            assert_eq!(serde_json::to_string(&reason).unwrap(), quoted(lift_reason(reason)));
        }
        use AllowReason as A;
        for reason in [
            A::Configured,
            A::Operator,
            A::OwnAddress,
            A::Special,
            A::Gateway,
            A::Resolver,
            A::SshSession,
            A::SshRecent,
            A::TrustedProxy,
            A::SearchEngine,
            A::Cdn,
            A::Private,
        ] {
            assert_eq!(serde_json::to_string(&reason).unwrap(), quoted(allow_reason(reason)));
        }
    }
}
