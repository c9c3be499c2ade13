//! `shield-agent health`: one line with performance data, and an exit code for Nagios and containers.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::client::{AgentClient, ClientError};
use super::{Exit, print};
use crate::api::operation::Operation;
use crate::api::types::{Health, Part, PartStateName, Status};
use crate::text::health as text;

/// The exit codes that Nagios and its relatives know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Good,
    Warning,
    Critical,
    Unknown,
}

impl Level {
    pub(crate) fn code(self) -> u8 {
        match self {
            Level::Good => 0,
            Level::Warning => 1,
            Level::Critical => 2,
            Level::Unknown => 3,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Level::Good => "OK",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
            Level::Unknown => "UNKNOWN",
        }
    }
}

/// Exit codes, for the end of the help.
const CODES: &str = "\
Exit codes: 0 good; 1 warning: a part is degraded, or a dry run; 2 critical: nobody is banned or judged, or no answer in time;
3 unknown: no permission to ask, or an answer that does not fit this version.

Examples:
  shield-agent health                                 as a check of Nagios or Icinga
  shield-agent health --only-critical || exit 1       as a container's HEALTHCHECK";

#[derive(Debug, Clone, Args)]
#[command(after_help = CODES)]
pub struct HealthArgs {
    /// Time limit for the agent's answer; later is critical
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = super::args::seconds)]
    timeout: u64,
    /// Exit with 0 for a warning: no reason to restart a container
    #[arg(long)]
    only_critical: bool,
}

pub(crate) async fn run(args: &HealthArgs, client: &AgentClient) -> Result<Exit> {
    let limit = Duration::from_secs(args.timeout);
    let asked = tokio::time::timeout(limit, client.get::<Status>(Operation::Status, &[])).await;
    let (level, line) = match asked {
        Err(_) => (Level::Critical, text::no_answer(args.timeout)),
        Ok(Err(error)) => (of_error(&error), error.to_string()),
        Ok(Ok(status)) => judge(&status),
    };
    print::text(&format!("SHIELD {} - {}\n", level.name(), one_line(&line)))?;
    Ok(match level {
        Level::Warning if args.only_critical => Exit::Health(Level::Good),
        level => Exit::Health(level),
    })
}

/// A line break would end what Nagios shows, and a bar would begin the performance data.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

fn of_error(error: &ClientError) -> Level {
    match error {
        ClientError::NotRunning { .. } => Level::Critical,
        ClientError::Denied(_) | ClientError::Refused(_) | ClientError::Broken { .. } => Level::Unknown,
    }
}

/// Parts without which nobody is judged or banned.
const VITAL: [&str; 2] = ["engine", "performer"];
const ENFORCERS: [&str; 4] = ["iptables", "xdp", "nginx", "cloudflare"];

/// The level and the line. Pure.
pub(super) fn judge(status: &Status) -> (Level, String) {
    let mut critical = Vec::new();
    let degraded: Vec<&Part> =
        status.parts.iter().filter(|part| part.state == PartStateName::Degraded).collect();
    critical
        .extend(degraded.iter().filter(|part| VITAL.contains(&part.part.as_str())).map(|part| said(part)));
    if let Some(until_ms) = status.detector.paused_until_ms {
        critical.push(crate::text::posture::paused(until_ms));
    } else if let Some(why) = &status.detector.blast_radius {
        critical.push(text::banning_stopped(why));
    }
    let enforcers = || status.parts.iter().filter(|part| ENFORCERS.contains(&part.part.as_str()));
    // One that waits is about to begin.
    let keeps_out = |part: &Part| matches!(part.state, PartStateName::Active | PartStateName::Waiting);
    if !status.dry_run && !enforcers().any(keeps_out) {
        critical.push(text::NOTHING_ENFORCES.to_owned());
    }
    let mut sources = status.parts.iter().filter(|part| part.part.starts_with("source:")).peekable();
    if sources.peek().is_some() && sources.all(|part| part.state == PartStateName::Degraded) {
        critical.push(text::BLIND.to_owned());
    }
    let data = text::performance(
        status.bans.active,
        status.dropped.packets,
        status.totals.requests,
        status.global.rate,
    );
    let (level, said) = if !critical.is_empty() {
        critical.extend(
            degraded.iter().filter(|part| !VITAL.contains(&part.part.as_str())).map(|part| said(part)),
        );
        (Level::Critical, critical.join("; "))
    } else if status.dry_run || status.health == Health::Degraded {
        let dry_run = status.dry_run.then(|| text::DRY_RUN.to_owned());
        let all: Vec<String> = dry_run.into_iter().chain(degraded.iter().map(|part| said(part))).collect();
        (Level::Warning, all.join("; "))
    } else {
        let active = enforcers().filter(|part| part.state == PartStateName::Active);
        let names: Vec<&str> = active.map(|part| part.part.as_str()).collect();
        (Level::Good, text::protecting(&names, status.bans.active, status.detector.warm_up.is_some()))
    };
    // The bar is where the performance data begins.
    (level, format!("{} | {data}", said.replace('|', "/")))
}

fn said(part: &Part) -> String {
    format!("{}: {}", part.part, part.text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: &[(&str, PartStateName)], change: impl FnOnce(&mut Status), expected: (Level, &str)) {
        let part = |(name, state): &(&str, PartStateName)| Part {
            part: (*name).into(),
            label: (*name).into(),
            state: *state,
            text: "why | and\nwhere".into(),
        };
        let mut status = crate::cli::doctor::tests::status();
        status.parts = parts.iter().map(part).collect();
        status.bans.active = 3;
        if status.parts.iter().any(|part| part.state == PartStateName::Degraded) {
            status.health = Health::Degraded;
        }
        change(&mut status);
        let (level, line) = judge(&status);
        assert_eq!(level, expected.0, "{line}");
        assert!(line.contains(expected.1), "{line}");
        assert_eq!(line.matches('|').count(), 1, "{line}");
        assert!(line.ends_with("| bans=3 dropped=0c requests=9c rate=1.00"), "{line}");
    }

    #[test]
    fn levels() {
        use PartStateName::{Active, Degraded, Off, Waiting};
        let none = |_: &mut Status| {};
        let both = [("iptables", Active), ("xdp", Active), ("source:/a", Active)];
        check(&both, none, (Level::Good, "iptables, xdp active; 3 bans"));
        check(
            &[("iptables", Waiting), ("xdp", Off), ("source:/a", Waiting)],
            none,
            (Level::Good, "starting"),
        );
        check(&[("iptables", Active), ("xdp", Degraded)], none, (Level::Warning, "xdp: why"));
        check(&[("iptables", Active), ("slack", Degraded)], none, (Level::Warning, "slack"));
        check(
            &[("iptables", Active), ("source:/a", Degraded), ("source:/b", Active)],
            none,
            (Level::Warning, "/a"),
        );
        check(&[("iptables", Active), ("source:/a", Degraded)], none, (Level::Critical, "no log"));
        check(&[("iptables", Degraded), ("xdp", Off)], none, (Level::Critical, "no ban is in force"));
        check(&[("iptables", Off), ("xdp", Off), ("nginx", Active)], none, (Level::Good, "nginx active"));
        check(&[("iptables", Active), ("engine", Degraded)], none, (Level::Critical, "engine"));
        let stopped = |status: &mut Status| status.detector.blast_radius = Some("51 bans in 60 s".into());
        check(&both, stopped, (Level::Critical, "51 bans in 60 s"));
        let dry = |status: &mut Status| status.dry_run = true;
        check(&[("iptables", Off), ("xdp", Off)], dry, (Level::Warning, "dry run"));
    }

    /// An agent that takes the connection and says nothing must not hold up whoever watches it.
    #[tokio::test]
    async fn no_answer_in_time_is_critical_and_so_is_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("control.sock");
        let client = AgentClient::new(crate::cli::client::Endpoint::Unix(socket.clone()));
        let args = HealthArgs { timeout: 1, only_critical: true };
        assert_eq!(run(&args, &client).await.unwrap(), Exit::Health(Level::Critical));
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let begin = std::time::Instant::now();
        assert_eq!(run(&args, &client).await.unwrap(), Exit::Health(Level::Critical));
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
    }
}
