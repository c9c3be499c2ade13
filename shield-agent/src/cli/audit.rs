//! `shield-agent audit`: verifies the audit log's chain, or makes a report of it. Reads files only; no agent is asked.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::run::ConfigArg;
use super::{Exit, print};
use crate::clock;
use crate::notify::audit::chain::Verifier;
use crate::notify::audit::files;
use crate::notify::audit::report::Report;

/// Its arguments.
#[derive(Debug, Clone, Args)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

/// What to do with the log.
#[derive(Debug, Clone, Subcommand)]
enum AuditCommand {
    /// Check that no line was changed, removed or added
    Verify(VerifyArgs),
    /// Write a report in Markdown: timeline, offenders, rules, leaks, gaps in protection
    Report(ReportArgs),
}

#[derive(Debug, Clone, Args)]
struct VerifyArgs {
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Clone, Args)]
struct ReportArgs {
    /// How far back, such as 24h, 7d or 4w
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = super::args::seconds)]
    since: u64,
    #[command(flatten)]
    log: LogArgs,
}

/// Which files.
#[derive(Debug, Clone, Args)]
struct LogArgs {
    /// The log's files, in any order; default: the configured one and its rotated files
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
}

impl LogArgs {
    /// The files, oldest first.
    fn files(&self) -> Result<Vec<PathBuf>> {
        if !self.files.is_empty() {
            return files::in_order(self.files.clone());
        }
        let path = self.config.load()?.audit;
        let found = files::family(&path)?;
        if found.is_empty() {
            bail!(
                "there is no audit log at {}: name its files, or the configuration with --config",
                path.display()
            );
        }
        Ok(found)
    }
}

/// Runs the command.
pub(crate) fn run(args: &AuditArgs) -> Result<Exit> {
    match &args.command {
        AuditCommand::Verify(args) => verify(&args.log.files()?),
        AuditCommand::Report(args) => report(&args.log.files()?, args.since),
    }
}

fn verify(paths: &[PathBuf]) -> Result<Exit> {
    let mut verifier = Verifier::default();
    for path in paths {
        let name = path.display().to_string();
        files::for_each_line(path, |number, line| {
            verifier.line(&name, number, line);
            Ok(())
        })?;
    }
    verifier.finish();
    print::text(&render(&verifier, paths))?;
    Ok(if verifier.problem_count == 0 { Exit::Done } else { Exit::Failed })
}

fn render(verifier: &Verifier, paths: &[PathBuf]) -> String {
    let mut out = String::new();
    for problem in &verifier.problems {
        out.push_str(&format!("{}:{}: {}\n", problem.file, problem.line, problem.what));
    }
    let untold = verifier.problem_count - verifier.problems.len() as u64;
    if untold > 0 {
        out.push_str(&format!("and {untold} more problems\n"));
    }
    let verdict = match verifier.problem_count {
        0 => "the chain is whole".to_owned(),
        1 => "1 problem: the log is not as it was written".to_owned(),
        count => format!("{count} problems: the log is not as it was written"),
    };
    let last = paths.last().map_or(Path::new("-"), PathBuf::as_path).display();
    let lines = verifier.lines;
    out.push_str(&format!("{lines} lines in {} files up to {last}: {verdict}\n", paths.len()));
    if verifier.first_seq > 1 {
        let before = verifier.first_seq - 1;
        out.push_str(&format!("lines 1 to {before} are in files that are not here any more\n"));
    }
    if verifier.torn > 0 {
        out.push_str(&format!("{} lines were torn by a crash, as the log says itself\n", verifier.torn));
    }
    out
}

fn report(paths: &[PathBuf], since_secs: u64) -> Result<Exit> {
    let to_ms = clock::now().wall_ms;
    let span_ms = i64::try_from(since_secs.saturating_mul(1000)).unwrap_or(i64::MAX);
    let mut report = Report::new(to_ms.saturating_sub(span_ms).max(0), to_ms);
    for path in paths {
        files::for_each_line(path, |_, line| {
            report.line(line);
            Ok(())
        })?;
    }
    print::text(&report.markdown())?;
    Ok(Exit::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::audit::AuditLog;
    use shield_engine::action::Notice;
    use shield_engine::time::Now;

    /// A log of three lines, changed by `tamper`; returns what `verify` would print, and how it would end.
    fn verified(tamper: impl Fn(String) -> String) -> (String, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let mut log = AuditLog::new(&path);
        for bans in 1..=3 {
            log.append(&Notice::Stopping { bans }, Now { wall_ms: 1_800_000_000_000, boot_ms: 1 }).unwrap();
        }
        std::fs::write(&path, tamper(std::fs::read_to_string(&path).unwrap())).unwrap();
        let mut verifier = Verifier::default();
        files::for_each_line(&path, |number, line| {
            verifier.line("audit.jsonl", number, line);
            Ok(())
        })
        .unwrap();
        verifier.finish();
        (render(&verifier, &[PathBuf::from("audit.jsonl")]), verifier.problem_count)
    }

    #[test]
    fn a_verdict_reads_plainly() {
        let check = |tamper: &dyn Fn(String) -> String, expected: &str, problems: u64| {
            assert_eq!(verified(tamper), (expected.to_owned(), problems));
        };
        check(&|text| text, "3 lines in 1 files up to audit.jsonl: the chain is whole\n", 0);
        check(
            &|text| text.replace("\"bans\":2", "\"bans\":9"),
            "audit.jsonl:2: the line was changed: its hash is not that of its text\n\
             3 lines in 1 files up to audit.jsonl: 1 problem: the log is not as it was written\n",
            1,
        );
        check(
            &|text| text.split_inclusive('\n').skip(1).collect(),
            "2 lines in 1 files up to audit.jsonl: the chain is whole\n\
             lines 1 to 1 are in files that are not here any more\n",
            0,
        );
    }
}
