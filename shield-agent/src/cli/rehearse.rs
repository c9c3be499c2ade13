//! `shield-agent rehearse`: one exercise in an environment of its own: visitors of the operator's log, every attack, one report.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use shield_lab::attack::Kind;
use shield_lab::create::{self, Request};
use shield_lab::destroy;
use shield_lab::environment::{Environment, Keeper};
use shield_lab::rehearse::{self, Exercise, Report};
use shield_lab::state::State;

use super::lab::SiteArgs;
use super::{Exit, args, print};

/// Longer than any exercise: the environment is taken down at its end.
const LIFE_SECS: u64 = 2 * 3_600;

#[derive(Debug, Clone, Args)]
pub(crate) struct RehearseArgs {
    #[command(flatten)]
    site: SiteArgs,
    /// One attack; may be given several times. Without it all
    #[arg(long = "attack", value_name = "KIND")]
    attacks: Vec<Kind>,
    /// How long there are visitors alone before the first attack
    #[arg(long, value_name = "TIME", default_value = "15s", value_parser = args::seconds)]
    calm: u64,
    /// The folder for rehearsal.md, rehearsal.html and rehearsal.json; made if it is not there
    #[arg(long, value_name = "DIR", default_value = ".")]
    out: PathBuf,
    /// The folder of all environments
    #[arg(long, value_name = "DIR", env = "SHIELD_LAB_STATE", hide_env_values = true)]
    state: Option<PathBuf>,
}

pub(crate) fn run(args: &RehearseArgs) -> Result<Exit> {
    let state = State::of(args.state.as_deref())?;
    let request = args.request()?;
    prepare(&args.out)?;
    // Should this process be killed, the control service takes the environment down, now or when it is next started.
    let environment = create::create(&state, &request, Some(Keeper::of_this_process()?))?;
    let result = exercise(&environment, args);
    // Also after a failure: nothing of it may be left.
    let kept = destroy::destroy(&state, &environment.id);
    let report = result?;
    if let Some(kept) = kept? {
        print::text(&format!("the environment's logs are in {}\n", kept.display()))?;
    }
    write(&report, &args.out)?;
    print::text(&report.markdown())?;
    Ok(if report.is_well() { Exit::Done } else { Exit::Failed })
}

/// Makes the folder of the report, before minutes are spent on what could not be written down.
fn prepare(folder: &Path) -> Result<()> {
    let asked = || format!("could not use {} for the report", folder.display());
    std::fs::create_dir_all(folder).with_context(asked)?;
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).with_context(asked)
}

fn exercise(environment: &Environment, args: &RehearseArgs) -> Result<Report> {
    let attacks = if args.attacks.is_empty() { Kind::ALL.to_vec() } else { args.attacks.clone() };
    let exercise = Exercise { log: args.site.log.clone(), attacks, calm: Duration::from_secs(args.calm) };
    rehearse::run(environment, &exercise, &mut |line| {
        // A closed standard output is noticed when the report is printed.
        let _ = print::text(&format!("{line}\n"));
    })
}

fn write(report: &Report, folder: &Path) -> Result<()> {
    let json = serde_json::to_string_pretty(report).context("could not write the report as JSON")?;
    let forms = [("md", report.markdown()), ("html", report.html()), ("json", json)];
    for (ending, text) in forms {
        let path = folder.join(format!("rehearsal.{ending}"));
        std::fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    }
    Ok(())
}

impl RehearseArgs {
    fn request(&self) -> Result<Request> {
        let request = self.site.request("rehearse", LIFE_SECS)?;
        let log = request.log.filter(|log| nginx_names(self.site.nginx.as_deref(), log));
        Ok(Request { log, ..request })
    }
}

/// Whether nginx' configuration names this log: then the agent reads that one, and otherwise all of nginx' logs. A copy of a log from
/// elsewhere still has the visitors.
fn nginx_names(folder: Option<&Path>, log: &Path) -> bool {
    let Some(folder) = folder else { return true };
    let Ok(entries) = std::fs::read_dir(folder) else { return false };
    let name = log.to_string_lossy();
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => nginx_names(Some(&entry.path()), log),
        _ => std::fs::read_to_string(entry.path()).is_ok_and(|text| text.contains(&*name)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reports_folder_is_made_or_refused_before_the_exercise() {
        let folder = tempfile::tempdir().unwrap();
        prepare(&folder.path().join("new/report")).unwrap();
        assert!(folder.path().join("new/report").is_dir());
        std::fs::write(folder.path().join("file"), "").unwrap();
        let error = format!("{:#}", prepare(&folder.path().join("file/report")).unwrap_err());
        assert!(error.starts_with("could not use ") && error.contains("for the report"), "{error}");
    }
}
