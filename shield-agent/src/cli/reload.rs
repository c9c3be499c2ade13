//! `shield-agent reload`: has the agent load its configuration again, and prints what became of it.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;
use serde_json::json;

use super::Exit;
use super::client::AgentClient;
use super::print::{self, Colour, Style};
use super::reply::{Format, JsonArg};
use crate::api::operation::Operation;
use crate::api::types::{ReloadOutcome, ReloadReport};
use crate::text::counted;

#[derive(Debug, Clone, Args)]
#[command(after_help = EXIT_CODES)]
pub struct ReloadArgs {
    #[command(flatten)]
    json: JsonArg,
}

const EXIT_CODES: &str = "\
The whole file is checked first. With a mistake in it nothing changes: all mistakes are printed, and
the agent goes on with what it has. Settings that need a restart are named.

Exit codes: 0 what can change without a restart is as the file says; 1 the file is refused, or a
setting could not be put in force; 2 wrong usage; 3 no agent answers on the control socket;
4 permission denied.";

pub(crate) async fn run(args: &ReloadArgs, client: &AgentClient) -> Result<Exit> {
    let report: ReloadReport = client.post(Operation::Reload, &json!({})).await?;
    show(&report, args.json.format())
}

/// Prints what became of a reload.
pub(super) fn show(report: &ReloadReport, format: Format) -> Result<Exit> {
    match format {
        Format::Json => print::json(report)?,
        Format::Text => print::text(&render(report, Colour::of_stdout()))?,
    }
    let is_done = report.outcome != ReloadOutcome::Refused && report.failed.is_empty();
    Ok(if is_done { Exit::Done } else { Exit::Failed })
}

fn render(report: &ReloadReport, colour: Colour) -> String {
    let file = report.file.as_deref().unwrap_or("the defaults (no file)");
    let mut out = match report.outcome {
        ReloadOutcome::Changed => colour.paint(Style::Good, &format!("reloaded {file}")),
        ReloadOutcome::Unchanged => format!("{file}: nothing changed"),
        ReloadOutcome::Refused => {
            let refused = "refused; the configuration before stays in force";
            colour.paint(Style::Bad, &format!("{file}: {refused}"))
        }
    };
    out.push('\n');
    let mut list = |title: &str, items: &[String]| {
        if !items.is_empty() {
            let _ = writeln!(out, "{title}:");
        }
        for item in items {
            let _ = writeln!(out, "  {}", item.replace('\n', "\n  "));
        }
    };
    list("changed", &report.changed);
    list("restart needed", &report.restart);
    list("not done", &report.failed);
    list("mistakes", &report.mistakes);
    if report.lifted > 0 {
        let _ = writeln!(out, "{} lifted, allowed now", counted(report.lifted, "ban"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(outcome: ReloadOutcome) -> ReloadReport {
        ReloadReport {
            outcome,
            file: Some("/etc/shield/shield.toml".to_owned()),
            changed: Vec::new(),
            restart: Vec::new(),
            failed: Vec::new(),
            mistakes: Vec::new(),
            lifted: 0,
        }
    }

    #[test]
    fn what_became_of_it() {
        let check = |report: ReloadReport, expected: &str| assert_eq!(render(&report, Colour::Off), expected);
        check(report(ReloadOutcome::Unchanged), "/etc/shield/shield.toml: nothing changed\n");
        let changed = ReloadReport {
            changed: vec!["[ban] max_bans: 1 -> 2".to_owned()],
            restart: vec!["[xdp] mode: on -> off".to_owned()],
            failed: vec!["[page] listen: taken".to_owned()],
            lifted: 2,
            ..report(ReloadOutcome::Changed)
        };
        check(
            changed,
            "reloaded /etc/shield/shield.toml\nchanged:\n  [ban] max_bans: 1 -> 2\nrestart needed:\n  \
             [xdp] mode: on -> off\nnot done:\n  [page] listen: taken\n2 bans lifted, allowed now\n",
        );
        let mistakes = vec!["line 1, column 2: x\n  1 | x".to_owned()];
        check(
            ReloadReport { mistakes, ..report(ReloadOutcome::Refused) },
            "/etc/shield/shield.toml: refused; the configuration before stays in force\nmistakes:\n  \
             line 1, column 2: x\n    1 | x\n",
        );
    }
}
