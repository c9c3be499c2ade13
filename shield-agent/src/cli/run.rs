//! `shield-agent run`: the agent itself.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use tracing_subscriber::EnvFilter;

use super::Exit;
use crate::agent::{self, Kernel, Options};
use crate::config::Config;

#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    pub(super) config: ConfigArg,
    /// Read this log instead of those configured
    #[arg(long, value_name = "PATH")]
    log: Option<PathBuf>,
    /// At the first start, read logs from their beginning instead of their end
    #[arg(long)]
    from_start: bool,
    /// Do everything except touch the kernel: report the bans that would be made, drop nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct ConfigArg {
    /// The configuration file; without it /etc/shield/shield.toml, or the defaults when there is none
    #[arg(long, value_name = "FILE", env = "SHIELD_CONFIG")]
    pub config: Option<PathBuf>,
}

impl ConfigArg {
    pub(crate) fn load(&self) -> Result<Config> {
        Config::load(self.config.as_deref()).map_err(|error| anyhow::Error::new(super::BadConfig(error)))
    }
}

/// Runs the agent until a signal stops it.
pub(crate) fn run(args: RunArgs) -> Result<Exit> {
    crate::memory::keep_large_buffers_apart();
    let mut config = args.config.load()?;
    if let Some(path) = args.log {
        config = config.with_log(path);
    }
    if args.from_start {
        config = config.reading_from_start();
    }
    start_logging(&config.log)?;
    let kernel = if args.dry_run { Kernel::LeaveAlone } else { Kernel::Enforce };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(crate::api::priority::give_way)
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    runtime.block_on(agent::run(Options { config, kernel }))?;
    // Threads blocked on standard input or DNS would delay the exit without end.
    runtime.shutdown_background();
    Ok(Exit::Done)
}

/// Directives that silence noise of dependencies unless the configured filter names them: netlink-packet-route warns of
/// every kernel newer than its tables, each time an interface is read.
const QUIETED_DEPENDENCIES: &str = "netlink_packet_route=error";

/// Logs to standard error; under systemd the journal adds the time.
fn start_logging(filter: &str) -> Result<()> {
    let filter = EnvFilter::try_new(format!("{QUIETED_DEPENDENCIES},{filter}"))
        .with_context(|| format!("could not use [agent] log = {filter:?} as a filter: write a level such as \"info\", or TARGET=LEVEL,…"))?;
    let under_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    let use_colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    if under_journal {
        builder.without_time().with_ansi(false).init();
    } else {
        builder.with_ansi(use_colours).init();
    }
    Ok(())
}
