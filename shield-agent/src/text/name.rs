//! Names and one-line descriptions of rules, parts, baselines and reasons.

use std::borrow::Cow;

use shield_engine::action::LiftReason;
use shield_engine::event::EnforcerName;
use shield_engine::verdict::Rule;

/// A rule's name in a heading or a table; in configuration, metrics and JSON it is [`Rule::name`].
pub(crate) fn rule_title(rule: Rule) -> &'static str {
    match rule {
        Rule::ZScore => "Z-score",
        Rule::RateMultiplier => "Rate multiple",
        Rule::ErrorSurge => "Error surge",
        Rule::Probing => "Probing",
        Rule::Flood => "Flood",
        Rule::Behaviour => "Behaviour",
        Rule::Operator => "Operator",
        Rule::Imported => "Imported",
        Rule::Network => "Network",
        Rule::Remote => "Another host",
        Rule::Blocklist => "Blocklist",
        Rule::Crowdsec => "CrowdSec",
    }
}

/// The cause of a ban for which no evidence is kept.
pub(crate) fn rule_sentence(rule: Rule) -> &'static str {
    match rule {
        Rule::ZScore => "rate far above this site's usual client",
        Rule::RateMultiplier => "rate many times that of this site's usual client",
        Rule::ErrorSurge => "mostly failed or malformed requests",
        Rule::Probing => "many different paths that do not exist",
        Rule::Flood => "flood of requests",
        Rule::Behaviour => "behaviour unlike this site's clients",
        Rule::Operator => "banned by an operator",
        Rule::Imported => "taken from an imported list",
        Rule::Network => "several banned clients in one network",
        Rule::Remote => "banned by another host",
        Rule::Blocklist => "on a blocklist",
        Rule::Crowdsec => "banned by CrowdSec",
    }
}

/// The origin of a baseline, for the names of `BaselineView::source`; an unknown name is returned unchanged.
pub(crate) fn baseline_source(source: &str) -> &str {
    match source {
        "rolling" => "last 30 min",
        "hour_slot" => "this hour of the day",
        "all_hours" => "all hours of the day",
        "floor" => "minimum values, nothing learned yet",
        "warm_up" => "still learning",
        other => other,
    }
}

/// Why a ban was lifted.
pub(crate) fn lift_reason(reason: LiftReason) -> &'static str {
    match reason {
        LiftReason::Expired => "its term is over",
        LiftReason::Operator => "lifted by an operator",
        LiftReason::Allowed => "put on the allowlist",
        LiftReason::Withdrawn => "whoever wanted it no longer does",
    }
}

/// The reason's name in metrics, JSON and the agent's log.
pub(crate) fn lift_reason_name(reason: LiftReason) -> &'static str {
    match reason {
        LiftReason::Expired => "expired",
        LiftReason::Operator => "operator",
        LiftReason::Allowed => "allowed",
        LiftReason::Withdrawn => "withdrawn",
    }
}

/// A part's name in a heading or a table: `source:/var/log/nginx/access.log` becomes `Log access.log`.
pub(crate) fn part_name(part: &str) -> Cow<'_, str> {
    let name = match part {
        "xdp" => "XDP",
        "nginx" => "nginx",
        "proxy" => "Proxy in front",
        "store" => "Store",
        "store-disk" => "Disk of the store",
        "slack" => "Slack",
        "webhook" => "Webhook",
        "cloudflare" => "Cloudflare",
        "audit" => "Audit log",
        "api" => "API",
        "engine" => "Engine",
        "performer" => "Performer",
        "host" => "Own addresses",
        "page" => "Page",
        "asn_db" => "AS numbers",
        "country_db" => "Countries",
        "config" => "Configuration",
        "slow" => "Slow lane",
        "ssh" => "SSH sessions",
        "restored state" => "Restored state",
        "fleet" => "Fleet",
        "crowdsec" => "CrowdSec",
        "crowdsec alerts" => "CrowdSec alerts",
        other => {
            if let Some(source) = other.strip_prefix("source:") {
                let file = source.rsplit('/').next().filter(|file| !file.is_empty()).unwrap_or(source);
                return Cow::Owned(format!("Log {file}"));
            }
            if let Some(list) = other.strip_prefix("blocklist:") {
                return Cow::Owned(format!("Blocklist {list}"));
            }
            other
        }
    };
    Cow::Borrowed(name)
}

/// The state of a part that does not work now and keeps trying by itself.
pub(crate) fn retrying(why: impl std::fmt::Display) -> String {
    format!("inactive, retrying: {why}")
}

/// What a command did, where bans are only decided: `would be banned for 10 min (dry run, nothing is dropped)`.
pub(crate) fn in_dry_run(message: &str) -> String {
    match message.strip_prefix("banned ") {
        Some(term) => format!("would be banned {term} (dry run, nothing is dropped)"),
        None => message.to_owned(),
    }
}

/// The enforcers that hold a ban, as a list.
pub(crate) fn held_by(enforcers: Option<&[EnforcerName]>) -> String {
    match enforcers {
        None => "-".to_owned(),
        Some([]) => "nowhere yet".to_owned(),
        Some(enforcers) => enforcers.iter().map(|enforcer| enforcer.name()).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(input: &str, expected: &str) {
        assert_eq!(input, expected);
    }

    #[test]
    fn parts_are_named_as_people_know_them() {
        check(&part_name("iptables"), "iptables");
        check(&part_name("xdp"), "XDP");
        check(&part_name("ssh"), "SSH sessions");
        check(&part_name("source:/var/log/nginx/access.log"), "Log access.log");
        check(&part_name("source:stdin"), "Log stdin");
    }

    #[test]
    fn names_in_sentences() {
        check(rule_title(Rule::RateMultiplier), "Rate multiple");
        check(rule_sentence(Rule::Network), "several banned clients in one network");
        check(baseline_source("hour_slot"), "this hour of the day");
        check(baseline_source("of_a_later_version"), "of_a_later_version");
        check(lift_reason(LiftReason::Expired), "its term is over");
        check(lift_reason_name(LiftReason::Operator), "operator");
        let would = "would be banned for 10 min (dry run, nothing is dropped)";
        check(&in_dry_run("banned for 10 min"), would);
        check(&in_dry_run("not banned: a loopback address"), "not banned: a loopback address");
        check(&retrying("no route to host"), "inactive, retrying: no route to host");
    }

    /// Metrics and the API must agree: the page filters by the name that JSON has.
    #[test]
    fn the_name_of_a_reason_is_the_one_in_json() {
        for reason in [LiftReason::Expired, LiftReason::Operator, LiftReason::Allowed, LiftReason::Withdrawn]
        {
            assert_eq!(serde_json::to_value(reason).unwrap(), lift_reason_name(reason));
        }
    }
}
