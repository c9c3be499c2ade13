//! `shield-agent policy check|test|eval`: what a policy's author needs. No agent has to run.

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use serde_json::json;

use super::reply::{Format, JsonArg};
use super::run::ConfigArg;
use super::{Exit, print};
use crate::policy::asking::{Asking, NotStarted};
use crate::policy::bundle::Bundle;
use crate::policy::evaluate::{Evaluator, Mistake};
use crate::policy::{LIMIT, Point, suite};
use crate::text::counted;

const POLICY_HELP: &str = "\
The rules are those of [policy] dir, or with --dir another folder's; without either, those that come with Shield.

Examples:
  shield-agent policy check --dir ./policy
  shield-agent policy test
  shield-agent policy eval ban --input question.json";

#[derive(Debug, Clone, Args)]
#[command(after_help = POLICY_HELP)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum PolicyCommand {
    /// Find mistakes, each with file, line and column; exit code 2 when there are any
    Check(Rules),
    /// Run the rules' own tests, and list the lines that none of them reaches
    Test(Rules),
    /// Make one decision as the agent would, and show the lines that led to it
    Eval(EvalArgs),
}

#[derive(Debug, Clone, Args)]
struct Rules {
    #[command(flatten)]
    config: ConfigArg,
    /// The folder of the *.rego files
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Debug, Clone, Args)]
struct EvalArgs {
    point: Point,
    /// The question as JSON, `-` for standard input; without it an example
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    #[command(flatten)]
    rules: Rules,
}

pub(crate) fn run(args: &PolicyArgs) -> Result<Exit> {
    match &args.command {
        PolicyCommand::Check(rules) => check(rules),
        PolicyCommand::Test(rules) => test(rules),
        PolicyCommand::Eval(args) => eval(args),
    }
}

impl Rules {
    /// The files, and where they are from.
    fn read(&self) -> Result<(Bundle, String)> {
        let dir = match &self.dir {
            Some(dir) => Some(dir.clone()),
            None => self.config.load()?.rules.dir,
        };
        Ok(match dir {
            Some(dir) => (Bundle::read(&dir)?, dir.display().to_string()),
            None => (Bundle::shipped(), "the rules that come with Shield".to_owned()),
        })
    }
}

fn check(rules: &Rules) -> Result<Exit> {
    let (bundle, from) = rules.read()?;
    match Evaluator::new(&bundle, LIMIT) {
        Err(mistakes) => tell_mistakes(rules, &mistakes),
        Ok(_) => {
            let points = points(&bundle);
            match rules.json.format() {
                Format::Json => {
                    print::json(&json!({ "files": bundle.files.len(), "decides": points, "mistakes": [] }))?;
                }
                Format::Text => {
                    let decides = if points.is_empty() { "nothing".to_owned() } else { points.join(", ") };
                    let files = counted(bundle.files.len() as u64, "file");
                    print::text(&format!("{from}: {files}, no mistake; it decides about {decides}\n"))?;
                }
            }
            Ok(Exit::Done)
        }
    }
}

/// What the rules decide about.
fn points(bundle: &Bundle) -> Vec<&'static str> {
    let all = [(Point::Ban, "ban"), (Point::Start, "start"), (Point::Promote, "promote")];
    all.into_iter().filter(|(point, _)| bundle.has_package(point.package())).map(|(_, name)| name).collect()
}

fn tell_mistakes(rules: &Rules, mistakes: &[Mistake]) -> Result<Exit> {
    match rules.json.format() {
        Format::Json => print::json(&json!({ "mistakes": mistakes }))?,
        Format::Text => {
            let lines: String = mistakes.iter().map(|mistake| format!("{mistake}\n")).collect();
            print::text(&lines)?;
        }
    }
    Ok(Exit::Usage)
}

fn test(rules: &Rules) -> Result<Exit> {
    let (bundle, _) = rules.read()?;
    let report = match suite::run(&bundle) {
        Ok(report) => report,
        Err(mistakes) => return tell_mistakes(rules, &mistakes),
    };
    match rules.json.format() {
        Format::Json => print::json(&serde_json::to_value(&report)?)?,
        Format::Text => print::text(&render(&report))?,
    }
    let is_good = report.tests.iter().all(|test| test.failed.is_none());
    Ok(if is_good { Exit::Done } else { Exit::Failed })
}

fn render(report: &suite::Report) -> String {
    let mut out = String::new();
    for test in &report.tests {
        let name = test.name.strip_prefix("data.").unwrap_or(&test.name);
        let _ = match &test.failed {
            None => writeln!(out, "ok      {name}"),
            Some(why) => writeln!(out, "FAILED  {name} ({}): {why}", test.place),
        };
    }
    let failed = report.tests.iter().filter(|test| test.failed.is_some()).count() as u64;
    let tests = counted(report.tests.len() as u64, "test");
    let _ = writeln!(out, "{tests}, {failed} failed");
    for file in &report.coverage {
        let _ = write!(out, "{}: {} of {} lines reached", file.file, file.reached, file.lines);
        let missed: Vec<String> = file.missed.iter().map(u32::to_string).collect();
        let _ = match missed.is_empty() {
            true => writeln!(out),
            false => writeln!(out, "; not reached: {}", missed.join(", ")),
        };
    }
    out
}

fn eval(args: &EvalArgs) -> Result<Exit> {
    let (bundle, _) = args.rules.read()?;
    let input = match &args.input {
        None => args.point.sample(),
        Some(path) => serde_json::from_str(&read_input(path)?)
            .with_context(|| format!("could not read {} as JSON", path.display()))?,
    };
    let mut asking = match Asking::start(&bundle, args.point) {
        Ok(asking) => asking,
        Err(NotStarted::Mistakes(mistakes)) => return tell_mistakes(&args.rules, &mistakes),
        Err(NotStarted::Failed(error)) => return Err(error),
    };
    let rule = args.point.rule();
    let traced = match asking.trace(rule, input.clone()) {
        Ok(traced) => traced,
        Err(why) => anyhow::bail!("there is no decision: {why}"),
    };
    match args.rules.json.format() {
        Format::Json => print::json(&json!({
            "rule": rule,
            "input": input,
            "decision": traced.value,
            "lines": traced.trace.lines,
            "printed": traced.trace.printed,
            "micros": traced.micros,
        }))?,
        Format::Text => {
            let decision =
                traced.value.map_or("none: it has no value for this input".to_owned(), |v| v.to_string());
            let mut out = format!("{rule}: {decision}\n");
            if args.input.is_none() {
                let _ = writeln!(
                    out,
                    "input: an example; write it to a file with --json, change it, and give it with --input"
                );
            }
            let _ = writeln!(out, "took {} µs; the lines that were evaluated:", traced.micros);
            traced.trace.lines.iter().for_each(|line| {
                let _ = writeln!(out, "  {line}");
            });
            traced.trace.printed.iter().for_each(|text| {
                let _ = writeln!(out, "printed: {text}");
            });
            print::text(&out)?;
        }
    }
    Ok(Exit::Done)
}

fn read_input(path: &std::path::Path) -> Result<String> {
    if path.as_os_str() == "-" {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("could not read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))
}
