//! The gates: what the new version has to show before it is installed, each by running the very copy that would be.

use std::ffi::{OsStr, OsString};
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;

use super::child::{self, Ended};
use super::hour;
use super::say;
use super::stage::Staging;
use super::verdicts::{self, Verdicts};
use crate::cli::proof::{StoreProof, XdpProof};
use crate::clock;
use crate::config::Config;
use crate::store;
use crate::text::counted;

/// For an answer; for a database of some gigabytes; for the replay of an hour.
const SHORT: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(600);

/// The versions and what they are asked about.
pub(super) struct Proofs<'p> {
    pub new: &'p Path,
    pub old: &'p Path,
    pub config: &'p Config,
    pub staging: &'p Staging,
    pub accept_differences: bool,
}

/// What the new version has shown.
#[derive(Debug)]
pub(super) struct Proved {
    pub version: String,
    /// Whether it changes the tables of the database, so that the version before could not read them any more.
    pub changes_tables: bool,
}

impl Proofs<'_> {
    pub(super) async fn all(&self) -> Result<Proved> {
        let version = self.version().await?;
        say(&format!("version     {version}"));
        self.check().await?;
        let changes_tables = self.store().await?;
        self.xdp().await?;
        self.replay().await?;
        Ok(Proved { version, changes_tables })
    }

    async fn run(&self, program: &Path, arguments: &[&OsStr], at_most: Duration) -> Result<Ended> {
        child::run(program, arguments, at_most, self.staging).await
    }

    async fn version(&self) -> Result<String> {
        let ended = self.run(self.new, &[OsStr::new("--version")], SHORT).await?;
        let version = ended.stdout.trim().strip_prefix("shield-agent ").filter(|_| ended.is_good());
        match version {
            Some(version) if version.len() < 100 && !version.contains('\n') => Ok(version.to_owned()),
            _ => bail!("the file is no shield-agent that runs on this host: {}", ended.said()),
        }
    }

    fn config_arguments(&self) -> Vec<&OsStr> {
        self.config.file.iter().flat_map(|file| [OsStr::new("--config"), file.as_os_str()]).collect()
    }

    async fn check(&self) -> Result<()> {
        let arguments =
            [&[OsStr::new("check"), OsStr::new("--warn-only")], &self.config_arguments()[..]].concat();
        let ended = self
            .run(self.new, &arguments, SHORT)
            .await
            .context("could not have the configuration checked")?;
        ensure!(ended.is_good(), "it refuses the configuration: {}", ended.said());
        say("config      accepted");
        Ok(())
    }

    async fn store(&self) -> Result<bool> {
        let settings = store::Settings { dir: self.config.state_dir.clone(), ..store::Settings::default() };
        if !settings.file().exists() {
            say("database    there is none yet");
            return Ok(false);
        }
        let dir = self.staging.path("state");
        DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .context("could not make a folder for the database's copy")?;
        let copy = store::Settings { dir: dir.clone(), ..store::Settings::default() };
        let copied = store::copy::copy_to(&settings, &copy.file())?;
        let proof: StoreProof = self
            .ask(&[OsStr::new("proof"), OsStr::new("store"), dir.as_os_str()], LONG, "the database")
            .await?;
        ensure!(
            proof.bans == copied.bans,
            "it reads {} of the database's copy, which holds {}",
            counted(proof.bans, "ban"),
            copied.bans
        );
        let changes = proof.tables != copied.tables;
        let note =
            if changes { "; it changes the tables, so that the database is kept for going back" } else { "" };
        say(&format!(
            "database    {}, {} read of a copy{note}",
            counted(proof.bans, "ban"),
            counted(proof.offences, "offender")
        ));
        std::fs::remove_dir_all(&dir).context("could not remove the database's copy")?;
        Ok(changes)
    }

    async fn xdp(&self) -> Result<()> {
        let arguments = [&[OsStr::new("proof"), OsStr::new("xdp")], &self.config_arguments()[..]].concat();
        let proof: XdpProof = self.ask(&arguments, SHORT, "XDP").await?;
        say(match proof {
            XdpProof { loaded: false, .. } => "xdp         switched off: not loaded",
            XdpProof { maps_fit: Some(false), .. } => {
                "xdp         the verifier accepts the program; bans are carried over into new maps"
            }
            XdpProof { .. } => "xdp         the verifier accepts the program",
        });
        Ok(())
    }

    async fn ask<T: DeserializeOwned>(&self, arguments: &[&OsStr], at_most: Duration, of: &str) -> Result<T> {
        let ended = self.run(self.new, arguments, at_most).await.with_context(|| of.to_owned())?;
        // What clap says of a command that it does not know.
        ensure!(
            ended.code != Some(2),
            "it cannot be asked about {of}: it is older than this version, or its answer is: {}; go back by installing the old package",
            ended.said()
        );
        ensure!(ended.is_good(), "{of}: {}", ended.said());
        serde_json::from_str(&ended.stdout)
            .with_context(|| format!("could not read its answer about {of}: {}", ended.said()))
    }

    async fn replay(&self) -> Result<()> {
        let hour = hour::collect(self.config, self.staging, clock::now().wall_secs())?;
        hour.left_out.iter().for_each(|what| say(&format!("note        not replayed: {what}")));
        if hour.files.is_empty() {
            say("replay      no lines of the last hour, so that there is nothing to compare");
            return Ok(());
        }
        let mut arguments: Vec<OsString> = vec!["replay".into(), "--json".into()];
        arguments.extend(self.config_arguments().into_iter().map(OsStr::to_owned));
        arguments.extend(hour.files.iter().map(|file| file.clone().into_os_string()));
        let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
        let old = self.verdicts(self.old, &arguments, "the installed version").await?;
        let new = self.verdicts(self.new, &arguments, "the new version").await?;
        let differences = verdicts::differences(&old, &new);
        let of = format!("{} of the last hour", counted(hour.lines, "line"));
        if differences.is_empty() {
            say(&format!("replay      {of}: both make the same {}", counted(new.len() as u64, "verdict")));
            return Ok(());
        }
        differences.iter().for_each(|difference| say(&format!("differs     {difference}")));
        ensure!(
            self.accept_differences,
            "it judges {of} otherwise ({}; shown above); --accept-differences installs it nevertheless",
            differences.first().map_or("", String::as_str)
        );
        say(&format!("replay      {of}: the differences are accepted"));
        Ok(())
    }

    async fn verdicts(&self, program: &Path, arguments: &[&OsStr], who: &str) -> Result<Verdicts> {
        let ended = self
            .run(program, arguments, LONG)
            .await
            .with_context(|| format!("could not have {who} replay the last hour"))?;
        ensure!(ended.is_good(), "{who} could not replay the last hour: {}", ended.said());
        Verdicts::read(&ended.stdout).with_context(|| format!("could not read the verdicts of {who}"))
    }
}
