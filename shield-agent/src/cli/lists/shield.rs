//! Shield's own list: JSON with every ban's end as a moment, so that a list read late does not ban for longer. The
//! pages that `bans --json` prints are read as well.

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Entry, Parsed};
use crate::api::types::{Ban, Term};
use shield_engine::client::Client;
use shield_engine::verdict::Rule;

const FORMAT: &str = "shield-bans";
const VERSION: u64 = 1;

/// The fields of a ban that are read; others are ignored.
#[derive(Deserialize)]
struct Listed {
    client: String,
    ends_ms: Option<i64>,
    reason: Option<String>,
    rule: Option<Rule>,
}

pub(super) fn parse(text: &str, now_ms: i64) -> Result<Parsed, String> {
    let list: Value = serde_json::from_str(text).map_err(|error| format!("the list is not JSON: {error}"))?;
    if let Some(version) = list["version"].as_u64().filter(|&version| version != VERSION) {
        return Err(format!("the list has version {version}, but this shield-agent reads version {VERSION}"));
    }
    let bans = list["bans"].as_array().ok_or("the list has no array `bans`")?;
    let mut parsed = Parsed::default();
    for (at, ban) in bans.iter().enumerate() {
        if let Err(why) = read(ban, now_ms, &mut parsed) {
            parsed.wrong(format!("entry {}", at + 1), why);
        }
    }
    Ok(parsed)
}

fn read(ban: &Value, now_ms: i64, parsed: &mut Parsed) -> Result<(), String> {
    let listed = Listed::deserialize(ban).map_err(|error| error.to_string())?;
    let client: Client = listed.client.parse().map_err(|error| format!("{error}"))?;
    let reason = listed.reason.or_else(|| listed.rule.map(|rule| rule.name().to_owned()));
    match listed.ends_ms {
        None => parsed.entries.push(Entry { client, term: Some(Term::Permanent), reason }),
        Some(end) => {
            parsed.add_until(client, end.saturating_sub(now_ms).saturating_add(999).div_euclid(1000), reason);
        }
    }
    Ok(())
}

pub(super) fn write(bans: &[Ban], now_ms: i64) -> String {
    let ban = |ban: &Ban| {
        json!({
            "client": ban.client,
            "since_ms": ban.since_ms,
            "ends_ms": ban.ends_ms,
            "rule": ban.rule,
            "offence": ban.offence,
            "reason": ban.reason,
        })
    };
    let bans: Vec<Value> = bans.iter().map(ban).collect();
    let list = json!({"format": FORMAT, "version": VERSION, "exported_ms": now_ms, "bans": bans});
    format!("{list:#}\n")
}
