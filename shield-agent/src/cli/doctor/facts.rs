//! What the doctor knows when it diagnoses: plain data, so that a test can seed any trouble.

use std::path::PathBuf;

use ipnet::IpNet;

use crate::api::types::{Part, PartStateName, Status};
use crate::cli::check::logs::CheckedLog;
use crate::cli::init::Examined;
use crate::config::Config;

#[derive(Debug)]
pub(super) struct Facts {
    /// Wall clock, in milliseconds.
    pub now_ms: i64,
    pub agent: Agent,
    /// Why it cannot be used, otherwise.
    pub config: Result<Config, String>,
    /// Named on the command line; the default path otherwise.
    pub config_path: PathBuf,
    /// `None` where there is no systemd.
    pub unit: Option<Unit>,
    pub logs: Vec<Log>,
    /// Sources whose pattern or path matches nothing.
    pub without_logs: Vec<String>,
    pub nginx: Nginx,
    /// `None` when the firewall could not be read.
    pub firewall: Option<Firewall>,
    pub network: Network,
    pub disk: Disk,
    /// Major and minor version.
    pub kernel: (u32, u32),
    /// Why the URL of Slack or a webhook cannot be used, by the configuration's section.
    pub alerts: Vec<(&'static str, String)>,
    /// What could not be looked at, and why.
    pub unseen: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Agent {
    Answers(Box<Answers>),
    /// It runs, and this user may not ask.
    Denied(String),
    /// It accepts, or holds the lock of the network namespace, and does not answer.
    Hangs(String),
    /// Nobody listens on the socket: why.
    Silent(String),
}

#[derive(Debug)]
pub(super) struct Answers {
    pub status: Status,
    /// Networks that operators allowed at run time.
    pub allowed: Vec<IpNet>,
}

impl Facts {
    /// The agent's answer, if it gave one.
    pub(super) fn answers(&self) -> Option<&Answers> {
        match &self.agent {
            Agent::Answers(answers) => Some(answers),
            _ => None,
        }
    }

    pub(super) fn status(&self) -> Option<&Status> {
        self.answers().map(|answers| &answers.status)
    }

    pub(super) fn part(&self, name: &str) -> Option<&Part> {
        self.status()?.parts.iter().find(|part| part.part == name)
    }

    pub(super) fn is_active(&self, part: &str) -> bool {
        self.part(part).is_some_and(|part| part.state == PartStateName::Active)
    }
}

/// The systemd unit, as `systemctl show` describes it.
#[derive(Debug, Clone, Default)]
pub(super) struct Unit {
    pub is_loaded: bool,
    /// `active`, `failed`, `inactive`, …
    pub active: String,
    /// `success`, `exit-code`, …
    pub result: String,
    /// `enabled`, `disabled`, …
    pub file: String,
}

#[derive(Debug)]
pub(super) struct Log {
    pub checked: CheckedLog,
    pub exists: bool,
    /// This user may not open it.
    pub is_denied: bool,
    pub modified_ms: Option<i64>,
}

#[derive(Debug, Default)]
pub(super) struct Nginx {
    pub is_running: bool,
    /// `None` when its configuration could not be read.
    pub examined: Option<Examined>,
    /// Configured logs that nginx does not write to: the log, and the file that nginx has open instead.
    pub moved: Vec<(PathBuf, PathBuf)>,
}

#[derive(Debug, Default)]
pub(super) struct Firewall {
    /// Programs that are not there.
    pub missing: Vec<String>,
    /// The process that held the lock of iptables-legacy while it was looked at.
    pub lock_holder: Option<String>,
    /// IP versions that could be listed.
    pub families: Vec<Chains>,
    /// A published port is redirected to another address, and so never passes INPUT.
    pub redirects_ports: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Chains {
    /// `iptables`, `ip6tables`.
    pub program: String,
    pub has_chain: bool,
    /// The number of rules before the jump in INPUT; `None` without a jump.
    pub rules_before: Option<usize>,
    /// Another chain than INPUT jumps too.
    pub is_forwarded_covered: bool,
}

#[derive(Debug, Default)]
pub(super) struct Network {
    /// Interfaces of the default routes, each with those below it (of a bridge, a bond or a VLAN).
    pub default_routes: Vec<(String, Vec<String>)>,
    /// Another agent in this network namespace, when its state directory is not the configured one.
    pub other_agent: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Disk {
    pub free_bytes: u64,
    pub has_no_inodes: bool,
    pub is_read_only: bool,
}
