//! `shield-agent run`: the agent itself.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use tracing_subscriber::EnvFilter;

use super::Exit;
use crate::agent::{self, Kernel, Options, SetLog};
use crate::config::Config;
use crate::config::file::Origin;

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
    let origin = Origin { named: args.config.config, log: args.log, from_start: args.from_start };
    let config = origin.load().map_err(|error| anyhow::Error::new(super::BadConfig(error)))?;
    let set_log = start_logging(&config.log)?;
    let kernel = if args.dry_run { Kernel::LeaveAlone } else { Kernel::Enforce };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(crate::api::priority::give_way)
        .enable_all()
        .build()
        .context("could not start the runtime")?;
    runtime.block_on(agent::run(Options { config, origin, kernel, set_log }))?;
    // Threads blocked on standard input or DNS would delay the exit without end.
    runtime.shutdown_background();
    Ok(Exit::Done)
}

/// Directives that silence noise of dependencies unless the configured filter names them: netlink-packet-route warns of
/// every kernel newer than its tables, each time an interface is read.
const QUIETED_DEPENDENCIES: &str = "netlink_packet_route=error";

/// Logs to standard error; under systemd the journal adds the time. Returns what changes the filter.
fn start_logging(text: &str) -> Result<SetLog> {
    let under_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false);
    let use_colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
    if under_journal {
        let builder = builder.without_time().with_ansi(false).with_env_filter(filter(text)?);
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        Ok(Box::new(move |text| handle.reload(filter(text)?).context(CANNOT_CHANGE)))
    } else {
        let builder = builder.with_ansi(use_colours).with_env_filter(filter(text)?).with_filter_reloading();
        let handle = builder.reload_handle();
        builder.init();
        Ok(Box::new(move |text| handle.reload(filter(text)?).context(CANNOT_CHANGE)))
    }
}

const CANNOT_CHANGE: &str = "could not change the log's filter";

fn filter(text: &str) -> Result<EnvFilter> {
    EnvFilter::try_new(format!("{QUIETED_DEPENDENCIES},{text}"))
        .with_context(|| format!("could not use [agent] log = {text:?} as a filter: write a level such as \"info\", or TARGET=LEVEL,…"))
}
