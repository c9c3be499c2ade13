//! Gathers the facts: asks the agent, reads the configuration and the ends of the logs. What the host itself tells is in
//! `host`. Changes nothing, and gives up on whoever does not answer.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::LookArgs;
use super::facts::{Agent, Answers, Disk, Facts, Log, Nginx};
use super::host;
use crate::api::operation::Operation;
use crate::api::types::{AllowList, Status};
use crate::cli::check::logs::{self, CheckedLog};
use crate::cli::client::{AgentClient, ClientError};
use crate::cli::init;
use crate::clock;
use crate::config::{Config, DEFAULT_PATH, UrlFrom};
use crate::netns_lock;
use crate::notify::secret::Secret;
use crate::source::{Input, Place};
use crate::text::doctor as text;
use shield_engine::allowlist::AllowReason;

/// An agent that needs longer for its status is of no use either.
const ANSWER: Duration = Duration::from_secs(5);

pub(super) async fn facts(args: &LookArgs, client: &AgentClient, socket: &Path) -> Facts {
    let mut unseen = Vec::new();
    let config = args.config.load().map_err(|error| format!("{error:#}"));
    let agent = ask(client, socket).await;
    let nginx = nginx(&args.nginx, config.as_ref().ok(), &mut unseen);
    let (mut logs, mut without_logs, mut firewall, mut alerts) = (Vec::new(), Vec::new(), None, Vec::new());
    let mut disk = Disk { free_bytes: u64::MAX, ..Disk::default() };
    let mut other_agent = None;
    match &config {
        Ok(config) => {
            (logs, without_logs) = logs_of(config);
            firewall = host::firewall(config, &mut unseen);
            disk = host::disk(&config.state_dir);
            alerts = alerts_of(config);
            let holder = netns_lock::holder();
            let is_other = |dir: &Path| dir != config.state_dir;
            other_agent =
                holder.filter(|it| it.state_dir().is_some_and(is_other)).map(|holder| holder.to_string());
        }
        Err(_) => unseen.push(text::config_unread()),
    }
    Facts {
        now_ms: clock::now().wall_ms,
        agent,
        config,
        config_path: args.config.config.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_PATH)),
        unit: host::unit(),
        logs,
        without_logs,
        nginx,
        firewall,
        network: host::network(other_agent, &mut unseen),
        disk,
        kernel: host::kernel(),
        alerts,
        unseen,
    }
}

async fn ask(client: &AgentClient, socket: &Path) -> Agent {
    let late = || Agent::Hangs(text::no_answer(socket, ANSWER.as_secs()));
    let status = match tokio::time::timeout(ANSWER, client.get::<Status>(Operation::Status, &[])).await {
        Err(_) => return late(),
        Ok(Err(ClientError::NotRunning { cause, .. })) => {
            return match netns_lock::holder() {
                Some(holder) => Agent::Hangs(text::holds(socket, &cause.to_string(), &holder.to_string())),
                None => Agent::Silent(text::nobody(socket, &cause.to_string())),
            };
        }
        Ok(Err(ClientError::Denied(why))) => return Agent::Denied(why),
        Ok(Err(error)) => return Agent::Hangs(error.to_string()),
        Ok(Ok(status)) => status,
    };
    let list = tokio::time::timeout(ANSWER, client.get::<AllowList>(Operation::Allowlist, &[])).await;
    let entries = list.ok().and_then(Result::ok).map(|list| list.entries).unwrap_or_default();
    let by_operators = entries.iter().filter(|entry| entry.reason == AllowReason::Operator);
    let allowed = by_operators.map(|entry| entry.network).collect();
    Agent::Answers(Box::new(Answers { status, allowed }))
}

fn nginx(program: &str, config: Option<&Config>, unseen: &mut Vec<String>) -> Nginx {
    let examined = match init::configuration(program) {
        Ok(text) => Some(init::examine(&text)),
        Err(error) => {
            unseen.push(text::nginx_unread(&format!("{error:#}")));
            None
        }
    };
    let logs: Vec<PathBuf> = config.iter().flat_map(|config| paths(config)).collect();
    let (is_running, moved) = host::nginx(&logs);
    Nginx { is_running, examined, moved }
}

fn paths(config: &Config) -> Vec<PathBuf> {
    let files = config.sources.iter().filter_map(|source| match &source.input {
        Input::Files(text) => Some(Place::of(text).paths()),
        _ => None,
    });
    files.flatten().collect()
}

fn logs_of(config: &Config) -> (Vec<Log>, Vec<String>) {
    let checked = logs::look(config).logs.into_iter().map(log).collect();
    let without = config.sources.iter().filter_map(|source| match &source.input {
        Input::Files(text) if Place::of(text).paths().is_empty() => Some(text.clone()),
        _ => None,
    });
    (checked, without.collect())
}

fn log(checked: CheckedLog) -> Log {
    let path = Path::new(&checked.path);
    let meta = path.metadata();
    let is_denied = match &meta {
        // Opening a pipe would wait for its writer.
        Ok(meta) if meta.is_file() => {
            std::fs::File::open(path).is_err_and(|it| it.kind() == std::io::ErrorKind::PermissionDenied)
        }
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    };
    Log {
        // What lies in a folder that this user may not enter may well exist.
        exists: meta.is_ok() || is_denied,
        is_denied,
        modified_ms: meta.ok().map(|meta| meta.mtime() * 1000),
        checked,
    }
}

/// Only files can be looked at: an environment variable or a credential is the service's alone.
fn alerts_of(config: &Config) -> Vec<(&'static str, String)> {
    let both = [("slack", &config.slack), ("webhook", &config.webhook)];
    let files = both.into_iter().filter_map(|(name, from)| match from {
        Some(from @ UrlFrom::File(_)) => Some((name, Secret::load(from).err()?)),
        _ => None,
    });
    files.map(|(name, error)| (name, format!("{error:#}"))).collect()
}
