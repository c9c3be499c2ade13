//! Notices as the API shows them.

use shield_engine::action::{Notice, Step};
use shield_engine::client::Client;

use super::types::{EventView, Severity};
use crate::text;

pub(crate) fn event(id: u64, at_ms: i64, notice: &Notice) -> EventView {
    EventView {
        id,
        at_ms,
        kind: text::kind(notice).to_owned(),
        severity: severity(notice),
        client: client(notice),
        text: text::notice_line(notice),
        data: notice.clone(),
    }
}

pub(crate) fn severity(notice: &Notice) -> Severity {
    match notice {
        Notice::Leaking { .. }
        | Notice::Withheld { .. }
        | Notice::Degraded { .. }
        | Notice::BlastRadius { stopped: true, .. } => Severity::Critical,
        Notice::Change(change) => severity_of(change.step),
        Notice::Banned(_)
        | Notice::WouldBan { .. }
        | Notice::Paused { .. }
        | Notice::Extended { .. }
        | Notice::Slowed { .. }
        | Notice::Protected { .. }
        | Notice::GlobalAnomalyStarted { .. }
        | Notice::Repaired { .. }
        | Notice::NetworkProposed { .. }
        | Notice::Evasion { .. }
        | Notice::ClockSkew { .. }
        | Notice::Lost { .. } => Severity::Warning,
        Notice::Lifted { .. }
        | Notice::PauseEnded { .. }
        | Notice::Released { .. }
        | Notice::GlobalAnomalyEnded { .. }
        | Notice::Recovered { .. }
        | Notice::BlastRadius { stopped: false, .. }
        | Notice::AllowlistChanged { .. }
        | Notice::Reloaded(_)
        | Notice::Started { .. }
        | Notice::Stopping { .. } => Severity::Info,
    }
}

fn severity_of(step: Step) -> Severity {
    match step {
        Step::GateBlocked | Step::UpgradeRolledBack => Severity::Critical,
        Step::CanaryRefused | Step::UpgradeRefused | Step::ConfigRolledBack => Severity::Warning,
        Step::CanaryStarted | Step::CanaryEnded | Step::CanaryPromoted | Step::Upgraded => Severity::Info,
    }
}

fn client(notice: &Notice) -> Option<Client> {
    match notice {
        Notice::Banned(ban) | Notice::WouldBan { ban, .. } => Some(ban.ban.client),
        Notice::Lifted { client, .. }
        | Notice::Extended { client, .. }
        | Notice::Protected { client, .. }
        | Notice::Leaking { client, .. }
        | Notice::Evasion { client, .. } => Some(*client),
        Notice::Slowed { slowed, .. } => Some(slowed.client),
        Notice::Released { client, .. } => Some(*client),
        Notice::NetworkProposed { network, .. } => Some(*network),
        Notice::AllowlistChanged { network, .. } => Some(Client::of_network(*network)),
        _ => None,
    }
}
