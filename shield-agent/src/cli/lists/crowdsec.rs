//! CrowdSec's decisions: the JSON that `cscli decisions list -o json` prints (alerts with decisions) and the local API
//! gives (decisions), the CSV of `-o raw`, and both forms of `cscli decisions import`, which `write` also makes.

use serde_json::{Value, json};

use super::Parsed;
use crate::api::types::Ban;
use shield_engine::client::Client;

/// Stands for a permanent ban, which CrowdSec does not have: ten years.
pub(super) const PERMANENT_HOURS: u64 = 87_600;

/// One decision as it was found; fields that were not there are `None`.
#[derive(Default)]
struct Decision {
    value: Option<String>,
    duration: Option<String>,
    scope: Option<String>,
    kind: Option<String>,
    reason: Option<String>,
}

/// Recognises the heading of CrowdSec's CSV.
pub(super) fn is_heading(line: &str) -> bool {
    let names: Vec<&str> = line.trim_end().split(',').collect();
    (names.contains(&"value") || names.contains(&"ip")) && names.len() > 1
}

pub(super) fn parse(text: &str) -> Result<Parsed, String> {
    let begin = text.trim_start();
    let decisions = if begin.starts_with('[') || begin.trim_end() == "null" {
        let list: Value =
            serde_json::from_str(text).map_err(|error| format!("the list is not JSON: {error}"))?;
        list.as_array().into_iter().flatten().flat_map(decisions_of).collect()
    } else if is_heading(begin.lines().next().unwrap_or_default()) {
        rows(begin)
    } else {
        return Err("the list is neither JSON nor CSV with a heading as cscli writes them".to_owned());
    };
    let mut parsed = Parsed::default();
    for (at, decision) in decisions.into_iter().enumerate() {
        if let Err(why) = decision.add_to(&mut parsed) {
            parsed.wrong(format!("entry {}", at + 1), why);
        }
    }
    Ok(parsed)
}

/// An alert's decisions, or the one decision that this is.
fn decisions_of(item: &Value) -> Vec<Decision> {
    match item["decisions"].as_array() {
        Some(decisions) => decisions.iter().map(decision_of).collect(),
        None => vec![decision_of(item)],
    }
}

fn decision_of(item: &Value) -> Decision {
    let text = |names: &[&str]| names.iter().find_map(|name| item[*name].as_str()).map(str::to_owned);
    Decision {
        value: text(&["value"]),
        duration: text(&["duration"]),
        scope: text(&["scope"]),
        kind: text(&["type"]),
        reason: text(&["reason", "scenario"]),
    }
}

fn rows(text: &str) -> Vec<Decision> {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    let heading = fields(lines.next().unwrap_or_default());
    lines.map(|line| row(&heading, fields(line))).collect()
}

fn row(heading: &[String], fields: Vec<String>) -> Decision {
    let mut decision = Decision::default();
    for (name, field) in heading.iter().zip(fields) {
        let slot = match name.as_str() {
            "value" | "ip" => &mut decision.value,
            "duration" | "expiration" => &mut decision.duration,
            "scope" => &mut decision.scope,
            "type" | "action" => &mut decision.kind,
            "reason" | "scenario" => &mut decision.reason,
            _ => continue,
        };
        *slot = Some(field).filter(|field| !field.is_empty());
    }
    decision
}

/// One CSV line's fields; quotes are doubled inside quotes (RFC 4180).
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut is_quoted = false;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        let last = fields.last_mut().expect("there is always one field");
        match character {
            '"' if is_quoted && characters.peek() == Some(&'"') => last.extend(characters.next()),
            '"' => is_quoted = !is_quoted,
            ',' if !is_quoted => fields.push(String::new()),
            _ => last.push(character),
        }
    }
    fields
}

impl Decision {
    fn add_to(self, parsed: &mut Parsed) -> Result<(), String> {
        if self.kind.as_deref().is_some_and(|kind| !kind.eq_ignore_ascii_case("ban")) {
            parsed.passed_over += 1;
            return Ok(());
        }
        let value = self.value.ok_or("no value")?;
        let (scope, value) = match value.split_once(':').filter(|(scope, _)| is_scope(scope)) {
            Some((scope, value)) => (Some(scope.to_owned()), value.to_owned()),
            None => (self.scope, value),
        };
        if let Some(scope) = scope.filter(|scope| !is_scope(scope)) {
            return Err(format!("the scope {scope} is neither Ip nor Range"));
        }
        let client: Client = value.parse().map_err(|error| format!("{error}"))?;
        let left = seconds_left(&self.duration.ok_or("no duration")?)?;
        parsed.add_until(client, left, self.reason);
        Ok(())
    }
}

fn is_scope(text: &str) -> bool {
    text.eq_ignore_ascii_case("ip") || text.eq_ignore_ascii_case("range")
}

/// A duration as Go writes it: `3h59m49.5s`, negative when it is over.
fn seconds_left(text: &str) -> Result<i64, String> {
    let duration = text.trim().parse::<jiff::SignedDuration>();
    duration
        .map(|duration| duration.as_secs())
        .map_err(|_| format!("{text:?} is not a duration such as 3h59m49s"))
}

/// Writes what `cscli decisions import --format json` reads.
pub(super) fn write(bans: &[Ban]) -> String {
    let decision = |ban: &Ban| {
        let duration = match ban.remaining_secs {
            Some(secs) => format!("{secs}s"),
            None => format!("{PERMANENT_HOURS}h"),
        };
        let network = ban.client.network();
        let is_address = network.prefix_len() == network.max_prefix_len();
        json!({
            "duration": duration,
            "reason": ban.reason.as_deref().unwrap_or(ban.rule.name()),
            "scope": if is_address { "ip" } else { "range" },
            "type": "ban",
            "value": if is_address { network.addr().to_string() } else { network.to_string() },
        })
    };
    let decisions: Vec<Value> = bans.iter().map(decision).collect();
    format!("{:#}\n", Value::Array(decisions))
}
