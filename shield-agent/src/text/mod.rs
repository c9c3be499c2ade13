//! Every sentence that Shield shows: the one module that turns numbers, rules, evidence, bans and notices into English.
//!
//! The API, the terminal commands, `replay`, the audit report, Slack and the agent's log all call it, so that one fact
//! reads the same wherever it appears. It depends on the engine's vocabulary, and on the reasons of the readers of logs, alone. Layout (tables, colours, JSON,
//! Markdown, Block Kit) is the callers' business, and so is escaping for their medium; what comes from the network
//! leaves here with its control characters made visible.
//!
//! `format` says why a log format cannot be used, `access` why a log cannot be read, `reload` describes a changed
//! configuration. `quantity` formats numbers, `name` names things, `network` groups clients by network, `evidence` explains
//! verdicts and bans, `notice` describes events, `learned` what past logs taught, `sight` says what is wrong with a source, `fleet` what the fleet's state is, `blocklist` that of a list by
//! URL, `crowdsec` that of CrowdSec's API, `slow` why
//! a client is slowed, `health` what is wrong with a thread, `doctor` why Shield does not protect, `posture` what is going on.

pub(crate) mod access;
pub(crate) mod blocklist;
pub(crate) mod cloudflare;
pub(crate) mod crowdsec;
pub(crate) mod doctor;
pub(crate) mod edge;
mod evidence;
pub(crate) mod fleet;
mod format;
pub(crate) mod health;
pub(crate) mod in_front;
pub(crate) mod learned;
mod name;
mod network;
pub(crate) mod nginx;
mod notice;
pub(crate) mod posture;
mod quantity;
pub(crate) mod reload;
pub(crate) mod restored;
mod sight;
mod slow;
pub(crate) mod ssh;
pub(crate) mod support;

/// A log whose lines no `[[site]]` can hold for.
pub(crate) const NO_SERVER_NAME: &str = "no line names its server section, so [[site]] holds for none: add \
    \"server_name\":\"$server_name\" to the log's format";

pub(crate) use evidence::{attack_kind, both_rates, cause, fired, global_anomaly, rule_answer};
pub(crate) use format::unusable;
pub(crate) use name::{
    baseline_source, held_by, in_dry_run, lift_reason, lift_reason_name, part_name, retrying, rule_sentence,
    rule_title,
};
pub(crate) use network::{by_network, networks};
pub(crate) use notice::{KINDS, POLICY_OUTCOMES, kind, notice_line, policy_outcome, test_message};
pub(crate) use quantity::{
    bytes, count, counted, duration, per_sec, percent, plural, printable, term, until, utc, with_commas,
    write_plain_counts,
};
pub(crate) use sight::{beginning, finding, rejected, unread};
pub(crate) use slow::{slow_cause, slow_limits, slow_term};
