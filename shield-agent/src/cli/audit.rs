//! `shield-agent audit`: verifies the audit log's hash chain, or makes a report. Reads files only; needs no agent.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};

use super::run::ConfigArg;
use super::{Exit, print};
use crate::clock;
use crate::notify::audit::chain::{Head, Verifier};
use crate::notify::audit::files;
use crate::notify::audit::report::Report;
use crate::store::audit_head::AuditHead;
use crate::store::{self, reader};
use crate::text::counted;

#[derive(Debug, Clone, Args)]
pub(crate) struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

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
    /// The period up to now, such as 24h, 7d or `1w 2d`
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = super::args::seconds)]
    since: u64,
    #[command(flatten)]
    log: LogArgs,
}

#[derive(Debug, Clone, Args)]
struct LogArgs {
    /// The log's files, in any order; default: the configured one and its rotated files
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
}

/// What the database knows of the end of the log.
enum Remembered {
    /// The files are copies, or of another machine.
    NotAsked,
    /// It cannot be asked: why.
    Unknown(String),
    Head(AuditHead),
}

impl LogArgs {
    /// Asks the database about the configured log; files that are named may be anybody's.
    fn remembered(&self) -> Result<Remembered> {
        if !self.files.is_empty() {
            return Ok(Remembered::NotAsked);
        }
        let config = self.config.load()?;
        let settings = store::Settings { dir: config.state_dir, ..store::Settings::default() };
        Ok(match reader::audit_head(&settings) {
            Ok(Some(head)) if Path::new(&head.path) == config.audit => Remembered::Head(head),
            Ok(_) => Remembered::Unknown("it remembers no line of this log".to_owned()),
            Err(error) => Remembered::Unknown(format!("{error:#}")),
        })
    }

    /// The files, oldest first.
    fn files(&self, remembered: &Remembered) -> Result<Vec<PathBuf>> {
        if !self.files.is_empty() {
            for file in &self.files {
                std::fs::File::open(file).with_context(|| format!("could not open {}", file.display()))?;
            }
            return Ok(files::in_order(self.files.clone()));
        }
        let path = self.config.load()?.audit;
        let found = files::family(&path)?;
        if found.is_empty()
            && let Remembered::Head(head) = remembered
        {
            bail!(
                "the audit log {} is gone: the database remembers {} of it",
                path.display(),
                counted(head.seq, "line")
            );
        }
        if found.is_empty() {
            bail!(
                "there is no audit log at {}: name its files, or its configuration with --config",
                path.display()
            );
        }
        Ok(found)
    }
}

pub(crate) fn run(args: &AuditArgs) -> Result<Exit> {
    match &args.command {
        AuditCommand::Verify(args) => {
            let remembered = args.log.remembered()?;
            verify(&args.log.files(&remembered)?, remembered)
        }
        AuditCommand::Report(args) => report(&args.log.files(&Remembered::NotAsked)?, args.since),
    }
}

fn verify(paths: &[PathBuf], remembered: Remembered) -> Result<Exit> {
    let (mut verifier, end) = match remembered {
        Remembered::NotAsked => (Verifier::default(), String::new()),
        Remembered::Unknown(why) => {
            (Verifier::default(), format!("its end was not compared with the database: {why}\n"))
        }
        Remembered::Head(AuditHead { seq, hash, .. }) => {
            (Verifier::expect(Head { seq, hash }), format!("compared with the database up to line {seq}\n"))
        }
    };
    for path in paths {
        let name = path.display().to_string();
        let mut last_line = 0;
        let read = files::for_each_line(path, |number, line| {
            last_line = number;
            verifier.line(&name, number, line);
            Ok(())
        });
        if let Err(error) = read {
            verifier.cut_short(&name, last_line, &error);
        }
    }
    verifier.finish();
    print::text(&(render(&verifier, paths) + &end))?;
    let is_whole = verifier.problem_count == 0 && verifier.unreadable_files.is_empty();
    Ok(if is_whole { Exit::Done } else { Exit::Failed })
}

fn render(verifier: &Verifier, paths: &[PathBuf]) -> String {
    let mut out = String::new();
    for problem in verifier.problems.iter().chain(&verifier.unreadable_files) {
        out.push_str(&format!("{}:{}: {}\n", problem.file, problem.line, problem.what));
    }
    let hidden = verifier.problem_count - verifier.problems.len() as u64;
    if hidden > 0 {
        out.push_str(&format!("and {} more\n", counted(hidden, "problem")));
    }
    let verdict = match (verifier.problem_count, verifier.unreadable_files.len()) {
        (0, 0) => "the chain is intact".to_owned(),
        (0, files) => format!(
            "{} could not be read to the end; the chain is intact as far as it can be read",
            counted(files as u64, "file")
        ),
        (problems, _) => {
            format!("{}: the log was changed after it was written", counted(problems, "problem"))
        }
    };
    let last = paths.last().map_or(Path::new("-"), PathBuf::as_path).display();
    let (lines, files) = (counted(verifier.lines, "line"), counted(paths.len() as u64, "file"));
    out.push_str(&format!("{lines} in {files} up to {last}: {verdict}\n"));
    if verifier.first_seq > 1 {
        let earlier = match verifier.first_seq - 1 {
            1 => "line 1 is".to_owned(),
            before => format!("lines 1 to {before} are"),
        };
        out.push_str(&format!("{earlier} in older files that are missing here\n"));
    }
    if verifier.torn > 0 {
        out.push_str(&format!(
            "{} torn by a crash, as recorded in the log\n",
            counted(verifier.torn, "line")
        ));
    }
    out
}

fn report(paths: &[PathBuf], since_secs: u64) -> Result<Exit> {
    let to_ms = clock::now().wall_ms;
    let span_ms = i64::try_from(since_secs.saturating_mul(1000)).unwrap_or(i64::MAX);
    let mut report = Report::new(to_ms.saturating_sub(span_ms).max(0), to_ms);
    let mut unreadable = String::new();
    for path in paths {
        let read = files::for_each_line(path, |_, line| {
            report.line(line);
            Ok(())
        });
        if let Err(error) = read {
            unreadable.push_str(&format!(
                "\n**Incomplete:** {error:#}. What was in the rest of this file is not in this report.\n"
            ));
        }
    }
    print::text(&(report.markdown() + &unreadable))?;
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
        check(&|text| text, "3 lines in 1 file up to audit.jsonl: the chain is intact\n", 0);
        check(
            &|text| text.replace("\"bans\":2", "\"bans\":9"),
            "audit.jsonl:2: the line was changed: its hash is not that of its text\n\
             3 lines in 1 file up to audit.jsonl: 1 problem: the log was changed after it was written\n",
            1,
        );
        check(
            &|text| text.split_inclusive('\n').skip(1).collect(),
            "2 lines in 1 file up to audit.jsonl: the chain is intact\n\
             line 1 is in older files that are missing here\n",
            0,
        );
    }
}
