//! `shield-agent generate`: the files that follow from the configuration (`manifest`), written, or compared with those on disk.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Args;

use super::run::ConfigArg;
use super::{BadConfig, Exit, print};
use crate::config::{Config, DEFAULT_PATH};
use crate::manifest::files::{self, Compared, State};
use crate::manifest::generate;
use crate::text::counted;

#[derive(Debug, Clone, Args)]
pub(crate) struct GenerateArgs {
    /// Write nothing; show what differs, and exit with 1 if a file is missing, stale, edited or not generated
    #[arg(long)]
    check: bool,
    /// The folder to write into; without it `generated` beside the configuration
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
}

pub(crate) fn run(args: &GenerateArgs) -> Result<Exit> {
    let named = args.config.config.as_deref();
    let (config, manifest) = Config::load_with_text(named).map_err(BadConfig::of)?;
    let made = generate(&config, &manifest).map_err(BadConfig::of)?;
    let folder = args.out.clone().unwrap_or_else(|| beside(named.unwrap_or(Path::new(DEFAULT_PATH))));
    let compared = files::compare(&folder, &made)?;
    if args.check {
        print::text(&render(&compared, &folder, Doing::Checking))?;
        let is_current = compared.iter().all(|file| file.state == State::Current);
        return Ok(if is_current { Exit::Done } else { Exit::Failed });
    }
    files::write(&compared)?;
    print::text(&render(&compared, &folder, Doing::Writing))?;
    Ok(Exit::Done)
}

fn beside(config: &Path) -> PathBuf {
    config.parent().unwrap_or(Path::new("")).join("generated")
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Checking,
    Writing,
}

fn render(files: &[Compared<'_>], folder: &Path, doing: Doing) -> String {
    let mut out = String::new();
    let differing: Vec<&Compared<'_>> = files.iter().filter(|file| file.state != State::Current).collect();
    for file in &differing {
        let said = match (doing, file.state) {
            (_, State::Current) => continue,
            (Doing::Writing, State::Missing) => "written",
            (Doing::Writing, State::Edited) => {
                "was edited by hand, and is as generated again; these were the edits:"
            }
            (Doing::Writing, _) => "renewed",
            (Doing::Checking, State::Missing) => "is missing",
            (Doing::Checking, State::Stale) => "is of another configuration or another version of Shield:",
            (Doing::Checking, State::Edited) => "was edited by hand:",
            (Doing::Checking, State::Own) => "was not generated:",
        };
        let _ = writeln!(out, "{}: {said}", file.path.display());
        let is_lost = doing == Doing::Checking || file.state == State::Edited;
        for line in file.difference.lines().filter(|_| is_lost) {
            let _ = writeln!(out, "    {}", crate::text::printable(line));
        }
    }
    let all = counted(files.len() as u64, "file");
    let _ = match (doing, differing.len()) {
        (_, 0) => writeln!(out, "{all} in {}: as the configuration wants them", folder.display()),
        (Doing::Writing, _) => writeln!(out, "{all} in {}", folder.display()),
        (Doing::Checking, count) => writeln!(
            out,
            "{count} of {all} in {} not as the configuration wants them (- is there, + should be): `shield-agent generate` \
             writes them",
            folder.display()
        ),
    };
    out
}
