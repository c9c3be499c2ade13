//! `shield-agent upgrade`: another version of the agent, behind gates, and back again unless it is healthy.
//!
//! In this order: `stage` copies the bytes to where root alone can change them; that copy is asked what it would do here
//! (`proofs`); `stage` renames it into place; the unit is restarted; `watch` looks. What drops packets is in the kernel and is not
//! touched by any of it. From the rename on nothing but a verdict ends this command, neither a closed terminal nor Ctrl-C.

mod child;
mod hour;
mod proofs;
mod stage;
mod unit;
mod verdicts;
mod watch;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use shield_engine::action::Step;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::client::{AgentClient, ClientError, Endpoint};
use super::health::{self, Level};
use super::{BadConfig, Exit, canary};
use crate::api::types::Status;
use crate::clock;
use crate::config::Config;
use crate::store;
use crate::text;
use proofs::Proved;
use stage::{Staged, Staging};
use unit::Unit;
use watch::Expected;

/// How long the version before gets to be healthy again.
const BACK_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Args)]
pub(crate) struct UpgradeArgs {
    /// The new shield-agent: a file of root's, or of whoever uses sudo, that nobody else may write
    #[arg(value_name = "FILE")]
    new: PathBuf,
    /// Ask the gates, install nothing
    #[arg(long)]
    dry_run: bool,
    /// Install it although it judges the last hour otherwise
    #[arg(long)]
    accept_differences: bool,
    /// Install it although a Debian package owns the installed file, or the agent is not healthy as it is
    #[arg(long)]
    force: bool,
    /// Refuse any other file than the one with this SHA-256
    #[arg(long, value_name = "HEX")]
    sha256: Option<String>,
    /// The time that it has to be healthy
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = super::args::seconds)]
    healthy_within: u64,
    /// The agent's unit
    #[arg(long, value_name = "NAME", default_value = "shield.service")]
    unit: String,
    /// The configuration; without it that of the unit
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Says a step. Nobody may be there to read it any more, which must not end an upgrade half-way.
fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

pub(crate) async fn run(args: &UpgradeArgs) -> Result<Exit> {
    if !nix::unistd::geteuid().is_root() {
        let denied = "could not upgrade: it needs root, whose file it replaces (sudo shield-agent upgrade)";
        return Err(ClientError::Denied(denied.to_owned()).into());
    }
    let unit = the_unit(args).await?;
    let installed = unit
        .program
        .canonicalize()
        .with_context(|| format!("could not find the installed agent {}", unit.program.display()))?;
    stage::only_root_writes(&installed)?;
    let _lock = stage::lock(&installed)?;
    let config = load(args, &unit)?;
    let client = AgentClient::new(Endpoint::Unix(config.socket.clone()));
    refuse_packages_file(&installed, args).await?;
    let before = state_before(&unit, &client, args).await?;

    let folder = installed.parent().context("could not find the folder of the installed agent")?;
    let staging = Staging::create(folder)?;
    let staged = stage::stage(&args.new, &staging, &owners())?;
    say(&format!("taken       {}, SHA-256 {}", args.new.display(), staged.sha256));
    if let Some(expected) = args.sha256.as_ref().filter(|hex| !hex.eq_ignore_ascii_case(&staged.sha256)) {
        bail!("could not take {}: its SHA-256 is {} and not {expected}", args.new.display(), staged.sha256);
    }
    let upgrade = Upgrade { args, unit, installed, config, client, before, staging, staged };
    upgrade.go().await
}

/// Whose file it may be: root's and, through sudo, that of whoever asks.
fn owners() -> Vec<u32> {
    let sudo = std::env::var("SUDO_UID").ok().and_then(|uid| uid.parse().ok());
    std::iter::once(0).chain(sudo).collect()
}

async fn the_unit(args: &UpgradeArgs) -> Result<Unit> {
    if unit::has_systemd() {
        return unit::look(&args.unit).await;
    }
    if !args.dry_run {
        bail!(
            "could not upgrade: systemd does not manage this host, so that nothing could restart the agent; `--dry-run` asks the \
             gates, and the file is then yours to install"
        );
    }
    let program = std::env::current_exe().context("could not find this program's file")?;
    Ok(Unit { name: args.unit.clone(), program, config: None, is_active: false })
}

fn load(args: &UpgradeArgs, unit: &Unit) -> Result<Config> {
    let file = args.config.as_deref().or(unit.config.as_deref());
    Config::load(file).map_err(|error| BadConfig::of(error).into())
}

async fn refuse_packages_file(installed: &Path, args: &UpgradeArgs) -> Result<()> {
    let Some(package) = unit::package_of(installed).await else { return Ok(()) };
    let whose = format!("{} belongs to the package {package}", installed.display());
    if args.dry_run || args.force {
        say(&format!("note        {whose}, whose next version replaces what is installed here"));
        return Ok(());
    }
    bail!(
        "could not upgrade: {whose}, which would not know of it. Install the new package instead (apt install ./shield_VERSION.deb; \
         several hosts: packaging/rolling-update.sh), or ask the gates alone with --dry-run; --force installs the file until the \
         package's next version"
    )
}

/// The state that the new version is compared with. What is not healthy now could not show whether the new version is.
async fn state_before(unit: &Unit, client: &AgentClient, args: &UpgradeArgs) -> Result<Option<Status>> {
    if !unit.is_active {
        return Ok(None);
    }
    let why = match watch::status(client).await {
        Ok(status) => {
            let (level, line) = health::judge(&status);
            if level != Level::Critical || args.force || args.dry_run {
                return Ok(Some(status));
            }
            line
        }
        Err(why) if args.force || args.dry_run => {
            say(&format!("note        the installed agent is not healthy: {why}"));
            return Ok(None);
        }
        Err(why) => why,
    };
    bail!(
        "could not begin: the agent is not healthy as it is, so that nothing could tell what the new version does: {why}. Mend it \
         first (shield-agent doctor), or go on with --force"
    )
}

/// An upgrade whose file is taken.
struct Upgrade<'a> {
    args: &'a UpgradeArgs,
    unit: Unit,
    installed: PathBuf,
    config: Config,
    client: AgentClient,
    before: Option<Status>,
    staging: Staging,
    staged: Staged,
}

impl Upgrade<'_> {
    async fn go(&self) -> Result<Exit> {
        let proved = match self.prove().await {
            Ok(proved) => proved,
            Err(error) => {
                let refused = error.context("could not install it, and nothing was changed");
                self.record(Step::UpgradeRefused, &format!("{}: {refused:#}", self.what(None))).await;
                return Err(refused);
            }
        };
        if self.args.dry_run {
            say("dry run     it would be installed; nothing was changed");
            return Ok(Exit::Done);
        }
        let _until_the_end = outlive_the_terminal()?;
        self.install(&proved).await
    }

    async fn prove(&self) -> Result<Proved> {
        let proofs = proofs::Proofs {
            new: &self.staged.path,
            old: &self.installed,
            config: &self.config,
            staging: &self.staging,
            accept_differences: self.args.accept_differences,
        };
        proofs.all().await
    }

    /// Installs, restarts and watches; and goes back.
    async fn install(&self, proved: &Proved) -> Result<Exit> {
        let snapshot = self.snapshot(proved)?;
        let old_pid = if self.unit.is_active { unit::main_process(&self.unit.name).await?.pid } else { 0 };
        stage::install(&self.staged, &self.installed)?;
        let kept = stage::kept(&self.installed);
        say(&format!("installed   {}; the one before is {}", self.installed.display(), kept.display()));
        if !self.unit.is_active {
            say(&format!(
                "not running {} is not started; `systemctl start` starts the new version",
                self.unit.name
            ));
            return Ok(Exit::Done);
        }
        let within = Duration::from_secs(self.args.healthy_within.max(1));
        let expected = Expected {
            unit: &self.unit.name,
            version: &proved.version,
            not_pid: old_pid,
            before: self.before.as_ref(),
        };
        let healthy = match unit::restart(&self.unit.name).await {
            Ok(()) => watch::until_healthy(&expected, &self.client, within).await,
            Err(error) => Err(format!("{error:#}")),
        };
        match healthy {
            Ok(line) => {
                say(&format!("healthy     {line}"));
                self.record(Step::Upgraded, &self.what(Some(&proved.version))).await;
                Ok(Exit::Done)
            }
            Err(why) => self.go_back(&why, proved, snapshot.as_deref()).await,
        }
    }

    /// A copy of the database for going back, where the new version changes its tables: an older one could not read them.
    fn snapshot(&self, proved: &Proved) -> Result<Option<PathBuf>> {
        if !proved.changes_tables {
            return Ok(None);
        }
        let copy = self.config.state_dir.join(".shield.db.before-upgrade");
        match std::fs::remove_file(&copy) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("could not remove {}", copy.display()));
            }
            _ => {}
        }
        store::copy::copy_to(&self.store(), &copy)?;
        Ok(Some(copy))
    }

    fn store(&self) -> store::Settings {
        store::Settings { dir: self.config.state_dir.clone(), ..store::Settings::default() }
    }

    async fn go_back(&self, why: &str, proved: &Proved, snapshot: Option<&Path>) -> Result<Exit> {
        let within = text::duration(self.args.healthy_within);
        let unhealthy = format!("version {} was not healthy within {within}: {why}", proved.version);
        say(&format!("unhealthy   {unhealthy}"));
        let failed_pid = unit::main_process(&self.unit.name).await.map_or(0, |main| main.pid);
        let put_back = self.put_back(snapshot).await;
        let after = put_back.with_context(|| {
            format!(
                "could not go back: {unhealthy}. Bans stay in the kernel. By hand: mv {} {} && systemctl restart {}",
                stage::kept(&self.installed).display(),
                self.installed.display(),
                self.unit.name
            )
        })?;
        let old_version = self.before.as_ref().map_or(env!("CARGO_PKG_VERSION"), |before| &before.version);
        let expected =
            Expected { unit: &self.unit.name, version: old_version, not_pid: failed_pid, before: None };
        let healthy = watch::until_healthy(&expected, &self.client, BACK_WITHIN).await;
        let what = self.what(Some(&proved.version));
        self.record(Step::UpgradeRolledBack, &format!("{what}: {unhealthy}{after}")).await;
        Err(match healthy {
            Ok(_) => anyhow!("{unhealthy}. Version {old_version} is back and healthy{after}"),
            Err(still) => anyhow!(
                "{unhealthy}. Version {old_version} is back and NOT healthy: {still}{after}. Bans stay in the kernel; \
                 look at: journalctl -u {}",
                self.unit.name
            ),
        })
    }

    /// The old file, the old database where its tables were changed, and a restart. Returns what else there is to say.
    async fn put_back(&self, snapshot: Option<&Path>) -> Result<String> {
        stage::put_back(&self.installed)?;
        let Some(snapshot) = snapshot else {
            unit::restart(&self.unit.name).await?;
            return Ok(String::new());
        };
        unit::stop(&self.unit.name).await?;
        let aside = store::copy::put_back(&self.store(), snapshot, clock::now());
        // Started whatever became of the database: an agent that is down bans nobody.
        unit::restart(&self.unit.name).await?;
        Ok(format!(
            "; the database is that from before the upgrade, without what came since, and the newer one is {}",
            aside?.display()
        ))
    }

    /// From what to what.
    fn what(&self, version: Option<&str>) -> String {
        let from = self.before.as_ref().map_or(env!("CARGO_PKG_VERSION"), |before| &before.version);
        let sha256 = &self.staged.sha256;
        match version {
            Some(to) => format!("from {from} to {to} (SHA-256 {sha256})"),
            None => format!("a file (SHA-256 {sha256}) in the place of {from}"),
        }
    }

    /// Puts it on record, where there is an agent to do so. A dry run changes nothing and is not recorded.
    async fn record(&self, step: Step, what: &str) {
        if !self.args.dry_run && self.unit.is_active {
            canary::record(&self.client, step, what.to_owned()).await;
        }
    }
}

/// Takes the signals that would end this command between the installation and the verdict.
fn outlive_the_terminal() -> Result<[Signal; 4]> {
    let take = |kind| signal(kind).context("could not take a signal");
    Ok([
        take(SignalKind::hangup())?,
        take(SignalKind::interrupt())?,
        take(SignalKind::terminate())?,
        take(SignalKind::pipe())?,
    ])
}
