//! `shield-agent check`: validates the configuration, shows its effect, and tests the last lines of the logs (`logs`).

mod credentials;
pub(super) mod logs;
mod problems;

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::Result;
use clap::Args;

use super::reply::{Format, JsonArg};
use super::run::ConfigArg;
use super::{Exit, print};
use crate::clock;
use crate::config::{Config, Use};
use crate::in_front;
use crate::policy::blocked;
use crate::policy::gate::{self, Gate};
use crate::port_holder;
use crate::source::{Input, Place};
use crate::text::{counted, utc};
use logs::{CheckedLog, CheckedLogs};

#[derive(Debug, Clone, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    json: JsonArg,
    /// Print only what is wrong, and exit with 0 although a log cannot be used: that must not keep the agent from starting
    #[arg(long)]
    warn_only: bool,
    /// Only ask the policy whether the agent may start here: exit code 1 and its words when not. Where it cannot be asked, that is
    /// said, and the exit code is 0
    #[arg(long, conflicts_with_all = ["warn_only", "json"])]
    gate: bool,
}

pub(crate) fn run(args: &CheckArgs) -> Result<Exit> {
    let config = args.config.load()?;
    if args.gate {
        let gate = gate::ask(&config, clock::now());
        note_blocked(&config, &gate);
        return through_gate(&gate);
    }
    let checked = logs::look(&config);
    match args.json.format() {
        Format::Json => {
            let mut shown = config.shown();
            shown["logs"] = serde_json::to_value(&checked.logs)?;
            shown["logs_left_out"] = checked.left_out.into();
            shown["missing"] = credentials::unreadable(&config).into();
            shown["problems"] = problems::of(&config).into();
            shown["in_front"] = who_is_in_front(&config, &checked).into();
            print::json(&shown)?;
        }
        Format::Text if args.warn_only => print::text(&render_problems(&config, &checked))?,
        Format::Text => print::text(&render_all(&config, &checked))?,
    }
    let is_wrong = checked.has_problem() || !problems::of(&config).is_empty();
    Ok(if is_wrong && !args.warn_only { Exit::Degraded } else { Exit::Done })
}

/// Keeps a blocked start for the audit log. Beside a running agent it was none.
fn note_blocked(config: &Config, gate: &Gate) {
    let Gate::Blocked(reasons) = gate else { return };
    if UnixStream::connect(&config.socket).is_err() {
        // Where it cannot be written the words are in the journal.
        let _ = blocked::note(&config.state_dir, reasons, clock::now());
    }
}

/// Tells what the policy says of a start, and exits by it.
fn through_gate(gate: &Gate) -> Result<Exit> {
    let (text, exit) = match gate {
        Gate::None => ("gate        no policy decides about the start\n".to_owned(), Exit::Done),
        Gate::Open => ("gate        open\n".to_owned(), Exit::Done),
        Gate::Broken(why) => {
            (format!("PROBLEM     the policy could not be asked, so the start goes on: {why}\n"), Exit::Done)
        }
        Gate::Blocked(reasons) => {
            (reasons.iter().map(|reason| format!("BLOCKED: {reason}\n")).collect(), Exit::Failed)
        }
    };
    print::text(&text)?;
    Ok(exit)
}

/// The configuration and its logs as text.
pub(super) fn render_all(config: &Config, checked: &CheckedLogs) -> String {
    let page = config.page.map_or("off".to_owned(), |addr| page_text(addr, &config.socket));
    let in_front = who_is_in_front(config, checked)
        .map_or(String::new(), |likely| format!("{:<LABEL_CHARS$}{likely}\n", "in front"));
    let missing = render_missing(config);
    let problems = render_settings(config);
    format!("{}{}{in_front}{missing}{problems}", render(config, &page), render_logs(checked))
}

/// What the connections to the web ports tell of a proxy.
fn who_is_in_front(config: &Config, checked: &CheckedLogs) -> Option<String> {
    let peers = in_front::Peers::read(&config.web_ports);
    in_front::at_a_glance(&peers, &checked.addrs(), config.use_nginx != Use::Off)
}

const LABEL_CHARS: usize = 12;

/// A line for the configuration, and the logs that cannot be used: it goes into the journal at every start of the unit.
fn render_problems(config: &Config, checked: &CheckedLogs) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{:<LABEL_CHARS$}{}", "config", validity(config));
    out.push_str(&render_missing(config));
    for log in checked.logs.iter().filter(|log| log.problem.is_some() || log.unread.is_some()) {
        render_log(log, &mut out).expect("writing to a String cannot fail");
    }
    out.push_str(&render_settings(config));
    out
}

/// The secrets that cannot be read.
fn render_missing(config: &Config) -> String {
    let line = |missing: String| format!("{:<LABEL_CHARS$}{missing}\n", "missing");
    credentials::unreadable(config).into_iter().map(line).collect()
}

/// What is valid and will not work on this host.
fn render_settings(config: &Config) -> String {
    problems::of(config).iter().map(|problem| format!("{:<LABEL_CHARS$}{problem}\n", "PROBLEM")).collect()
}

fn validity(config: &Config) -> String {
    let file =
        config.file.as_ref().map_or("the defaults (no file)".to_owned(), |path| path.display().to_string());
    format!("{file}: valid")
}

fn render(config: &Config, page: &str) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:<LABEL_CHARS$}{value}");
    };
    line("config", &validity(config));
    for source in &config.sources {
        line("source", &format!("{} ({})", source.name, kind(&source.input)));
    }
    line("detect", &format!("profile {}", config.profile));
    if !config.policy.observe.is_empty() {
        let rules: Vec<&str> = config.policy.observe.iter().map(|rule| rule.name()).collect();
        line("observing", &format!("{}: reported, never a ban", rules.join(", ")));
    }
    if !config.policy.sites.is_empty() {
        let hosts: Vec<String> = config.policy.sites.iter().map(|site| site.host.to_string()).collect();
        line("sites", &hosts.join(", "));
    }
    line("iptables", use_text(config.use_iptables));
    line("xdp", use_text(config.use_xdp));
    line("page", page);
    line("slack", if config.slack.is_some() { "on" } else { "off" });
    line("webhook", if config.webhook.is_some() { "on" } else { "off" });
    line("allowed", &format!("{} configured", counted(config.allow.len() as u64, "network")));
    let spared = counted(config.infrastructure.len() as u64, "network");
    line("reported", &format!("{spared} of CDNs and private addresses, which rules do not ban"));
    line("state", &config.state_dir.display().to_string());
    line("socket", &config.socket.display().to_string());
    line("audit", &config.audit.display().to_string());
    out
}

/// One line for a log that can be used, more for one that cannot, those last: an operator reads the end of the screen.
fn render_logs(checked: &CheckedLogs) -> String {
    let mut out = String::new();
    if checked.logs.is_empty() && checked.left_out == 0 {
        return out;
    }
    out.push('\n');
    let (wrong, right): (Vec<_>, Vec<_>) = checked.logs.iter().partition(|log| log.problem.is_some());
    for log in right.into_iter().chain(wrong) {
        render_log(log, &mut out).expect("writing to a String cannot fail");
    }
    if checked.left_out > 0 {
        let left_out = counted(checked.left_out, "more log");
        let _ = writeln!(out, "{:<LABEL_CHARS$}{left_out} not looked at", "logs");
    }
    out
}

fn render_log(log: &CheckedLog, out: &mut String) -> std::fmt::Result {
    let mut line = |name: &str, value: &str| writeln!(out, "{name:<LABEL_CHARS$}{value}");
    let found = match (&log.unread, log.lines, log.rejected) {
        (Some(why), ..) => why.clone(),
        (None, 0, _) => "no line yet".to_owned(),
        (None, lines, 0) => format!("the last {} read, none rejected", counted(lines, "line")),
        (None, lines, rejected) => format!("of the last {}, {rejected} rejected", counted(lines, "line")),
    };
    line("log", &format!("{}: {found}", log.path))?;
    if let Some((first, last)) = log.times_ms {
        let format = log.format.map(|format| format!("{format}, ")).unwrap_or_default();
        let clients = counted(log.clients, "client");
        line("", &format!("{format}{clients}, from {} to {}", utc(first), utc(last)))?;
    }
    if let Some(first) = &log.first_rejected {
        line("rejected", &format!("\"{}\" ({})", first.begins, first.because))?;
    }
    if log.problem.is_some() && !log.fields.is_empty() {
        line("fields", &log.fields.join(", "))?;
    }
    if let Some(idle) = log.idle {
        line("no site", idle)?;
    }
    match &log.problem {
        Some(problem) => line("PROBLEM", problem),
        None => Ok(()),
    }
}

/// The page's address, and whether another program has it. A running agent has it itself, and answers at its socket.
fn page_text(addr: SocketAddr, socket: &Path) -> String {
    let page = format!("http://{addr}/");
    match TcpListener::bind(addr) {
        Err(error) if UnixStream::connect(socket).is_err() => {
            let holder =
                port_holder::holder(addr).map(|holder| format!(": {holder} does")).unwrap_or_default();
            format!("{page}: could not listen there ({error}{holder}); set another `listen` in [page]")
        }
        _ => page,
    }
}

fn use_text(used: Use) -> &'static str {
    match used {
        Use::On => "on; the agent runs without it where it does not work",
        Use::Off => "off",
        Use::Required => "required; the agent does not start where it does not work",
    }
}

fn kind(input: &Input) -> &'static str {
    match input {
        Input::Stdin => "standard input",
        Input::Syslog(_) => "a socket that the agent creates",
        Input::Files(text) => match Place::of(text) {
            Place::Path(_) => "a log",
            Place::Pattern(_) => "a pattern",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_another_program_has_is_said() {
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = other.local_addr().unwrap();
        let text = page_text(addr, Path::new("/nonexistent/control.sock"));
        assert!(text.starts_with(&format!("http://{addr}/: could not listen there (")), "{text}");
        assert!(text.contains(&format!("(pid {}) does); ", std::process::id())), "{text}");
        assert!(text.ends_with("set another `listen` in [page]"), "{text}");
    }

    #[test]
    fn a_valid_configuration_is_shown_on_one_screen() {
        let config = Config::parse("[[source]]\npath = '/nowhere/*.log'\n[xdp]\nmode = 'off'").unwrap();
        let reported = config.infrastructure.len();
        assert!(reported > 50);
        let expected = format!(
            "\
config      the defaults (no file): valid
source      /nowhere/*.log (a pattern)
detect      profile default
iptables    on; the agent runs without it where it does not work
xdp         off
page        http://127.0.0.1:8080/
slack       off
webhook     off
allowed     0 networks configured
reported    {reported} networks of CDNs and private addresses, which rules do not ban
state       /var/lib/shield
socket      /run/shield/control.sock
audit       /var/log/shield/audit.jsonl
"
        );
        assert_eq!(render(&config, "http://127.0.0.1:8080/"), expected);
    }

    fn log() -> CheckedLog {
        CheckedLog {
            source: "/a.log".into(),
            path: "/a.log".into(),
            unread: None,
            format: Some("combined"),
            lines: 1_000,
            rejected: 0,
            rejected_by: [].into(),
            first_rejected: None,
            fields: vec!["ip".into(), "code".into()],
            clients: 37,
            addrs: [].into(),
            clients_spared: 0,
            times_ms: Some((1_795_530_901_000, 1_795_534_501_000)),
            idle: None,
            state: None,
            problem: None,
        }
    }

    #[test]
    fn logs_that_cannot_be_used_come_last_with_what_is_known_of_them() {
        let first_rejected = Some(logs::FirstRejected {
            begins: "x".into(),
            reason: "no_time",
            because: "no time found in it",
        });
        let problem = Some("none of the last 3 lines is a log line".into());
        let wrong = CheckedLog {
            lines: 3,
            rejected: 3,
            first_rejected,
            problem,
            times_ms: None,
            path: "/b.log".into(),
            ..log()
        };
        let idle = CheckedLog { idle: Some(crate::text::NO_SERVER_NAME), ..log() };
        let checked = CheckedLogs { logs: vec![idle], left_out: 0 };
        let shown = render_logs(&checked);
        assert!(shown.ends_with("no site     no line names its server section, so [[site]] holds for none: add \"server_name\":\"$server_name\" to the log's format\n"), "{shown}");
        let missing = CheckedLog { unread: Some("does not exist yet".into()), times_ms: None, ..log() };
        let expected = "
log         /a.log: the last 1,000 lines read, none rejected
            combined, 37 clients, from 2026-11-24T14:35:01Z to 2026-11-24T15:35:01Z
log         /a.log: does not exist yet
log         /b.log: of the last 3 lines, 3 rejected
rejected    \"x\" (no time found in it)
fields      ip, code
PROBLEM     none of the last 3 lines is a log line
logs        1 more log not looked at
";
        let checked = CheckedLogs { logs: vec![wrong, log(), missing], left_out: 1 };
        assert!(checked.has_problem());
        assert_eq!(render_logs(&checked), expected);
    }
}
