//! `shield-agent doctor`: why Shield does not protect, the worst first, each cause with what was seen and the steps that mend it.
//!
//! `look` and `host` gather the facts, `causes` is the table that diagnoses them, `text::doctor` has the words.

mod causes;
mod facts;
mod host;
mod look;
#[cfg(test)]
pub(super) mod tests;

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use clap::Args;
use serde_json::{Value, json};

use super::Exit;
use super::client::AgentClient;
use super::print::{self, Colour, Style};
use super::reply::{Format, JsonArg};
use super::run::ConfigArg;
use crate::text::doctor::{self as text, Step};
use causes::{Found, Severity};

#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    look: LookArgs,
    #[command(flatten)]
    json: JsonArg,
}

/// Where to look.
#[derive(Debug, Clone, Args)]
pub(crate) struct LookArgs {
    #[command(flatten)]
    pub(super) config: ConfigArg,
    /// The nginx program whose configuration is examined
    #[arg(long, default_value = "nginx", value_name = "PROGRAM")]
    nginx: String,
}

pub(crate) async fn run(args: &DoctorArgs, client: &AgentClient, socket: &Path) -> Result<Exit> {
    let report = Report::of(&args.look, client, socket).await;
    match args.json.format() {
        Format::Json => print::json(&report.json())?,
        Format::Text => print::text(&report.render(Colour::of_stdout()))?,
    }
    Ok(if report.problems() == 0 { Exit::Done } else { Exit::Failed })
}

/// The diagnosis.
pub(super) struct Report {
    found: Vec<Found>,
    unseen: Vec<String>,
}

impl Report {
    pub(super) async fn of(args: &LookArgs, client: &AgentClient, socket: &Path) -> Report {
        let facts = look::facts(args, client, socket).await;
        Report { found: causes::diagnose(&facts), unseen: facts.unseen }
    }

    fn problems(&self) -> usize {
        self.found.iter().filter(|found| found.severity != Severity::Note).count()
    }

    pub(super) fn render(&self, colour: Colour) -> String {
        let mut out = String::new();
        let notes = self.found.len() - self.problems();
        writeln!(out, "{}", text::headline(self.problems(), notes)).expect(INFALLIBLE);
        for (at, found) in self.found.iter().enumerate() {
            let style = match found.severity {
                Severity::Unprotected => Style::Bad,
                Severity::Partly => Style::Warn,
                Severity::Note => Style::Dim,
            };
            let said = &found.said;
            let what = colour.paint(style, &said.what);
            write!(out, "\n{:>2}. {what}\n    seen  {}\n", at + 1, said.seen).expect(INFALLIBLE);
            for step in &said.mend {
                match step {
                    Step::Run(command) => writeln!(out, "    run   {command}"),
                    Step::Do(what) => writeln!(out, "    do    {what}"),
                }
                .expect(INFALLIBLE);
            }
        }
        for (at, unseen) in self.unseen.iter().enumerate() {
            let gap = if at == 0 { "\n" } else { "" };
            writeln!(out, "{gap}{}", text::unseen(unseen)).expect(INFALLIBLE);
        }
        out
    }

    pub(super) fn json(&self) -> Value {
        let found = self.found.iter().map(|found| {
            let said = &found.said;
            json!({
                "cause": found.cause,
                "severity": found.severity,
                "what": said.what,
                "seen": said.seen,
                "mend": said.mend,
            })
        });
        json!({
            "problems": self.problems(),
            "found": found.collect::<Vec<_>>(),
            "not_looked_at": self.unseen,
        })
    }
}

const INFALLIBLE: &str = "writing to a String cannot fail";
