//! The command line: one file a command. Those here are clients of the running agent over its control socket; what
//! they print goes through `print`. `main` parses, runs one, prints the error and sets the exit code.

pub(crate) mod allow;
pub(crate) mod args;
pub(crate) mod audit;
pub(crate) mod ban;
pub(crate) mod bans;
pub(crate) mod check;
pub(crate) mod cleanup;
pub(crate) mod client;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod lists;
pub(crate) mod print;
pub(crate) mod replay;
pub(crate) mod reply;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod top;
pub(crate) mod unban;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use self::client::{AgentClient, ClientError, Endpoint};
use crate::api::DEFAULT_SOCKET;

/// How a command ended, as the process' exit code. Listed in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: failed, in whole or for some of the clients named.
    Failed,
    /// 2: the command line or the configuration is wrong (also what clap uses).
    Usage,
    /// 3: no agent answers on the control socket.
    NotRunning,
    /// 4: this user may not.
    Denied,
}

/// The exit codes, for the end of `--help`.
pub const EXIT_CODES_HELP: &str = "\
Exit codes: 0 done; 1 failed, or refused for some of the clients named; 2 wrong usage or configuration;
3 no agent answers on the control socket; 4 permission denied.";

impl Exit {
    /// The process' exit code.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotRunning => 3,
            Exit::Denied => 4,
        }
    }

    /// What an error of a command means.
    pub fn of(error: &anyhow::Error) -> Exit {
        match error.downcast_ref::<ClientError>() {
            Some(ClientError::NotRunning { .. }) => Exit::NotRunning,
            Some(ClientError::Denied(_)) => Exit::Denied,
            _ if error.is::<args::UsageError>() || error.is::<BadConfig>() => Exit::Usage,
            _ => Exit::Failed,
        }
    }
}

/// The configuration is wrong; what, where and what to do is in the error it holds.
#[derive(Debug)]
pub(crate) struct BadConfig(anyhow::Error);

impl BadConfig {
    /// What is wrong with it.
    pub(crate) fn of(error: anyhow::Error) -> BadConfig {
        BadConfig(error)
    }
}

impl std::fmt::Display for BadConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the configuration is wrong: {:#}", self.0)
    }
}

impl std::error::Error for BadConfig {}

/// Learns what a web server's traffic looks like and drops what does not, in iptables and XDP
#[derive(Debug, Clone, Parser)]
#[command(name = "shield-agent", version, after_help = EXIT_CODES_HELP)]
pub struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

/// Every command.
#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Run the agent
    Run(run::RunArgs),
    /// Print what to add to a web server's configuration, and what is wrong with the one it has
    Init(init::InitArgs),
    /// Check the configuration and show what it means
    Check(check::CheckArgs),
    /// Verify the audit log, or make a report of it
    Audit(audit::AuditArgs),
    /// Remove everything of Shield's from the kernel, and nothing else
    Cleanup(cleanup::CleanupArgs),
    /// Run past logs through the engine: who would have been banned, when and why
    Replay(replay::ReplayArgs),
    #[command(flatten)]
    Client(ClientCommand),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// As the command says; [`Exit::of`] gives the exit code.
    pub fn run(self) -> Result<Exit> {
        let connection = self.connection;
        match self.command {
            Command::Run(args) => run::run(args),
            Command::Init(args) => init::run(&args),
            Command::Check(args) => check::run(&args),
            Command::Audit(args) => audit::run(&args),
            Command::Replay(args) => replay::run(&args),
            Command::Cleanup(args) => block_on(cleanup::run(&args, &connection.client())),
            Command::Client(command) => block_on(command.run(&connection)),
        }
    }
}

/// Runs one short command.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(work)
}

/// Where the agent is; for every command that asks it.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// The agent's control socket
    #[arg(long, global = true, value_name = "PATH", env = "SHIELD_SOCKET", hide_env_values = true, default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

impl Connection {
    /// A client of that agent.
    pub fn client(&self) -> AgentClient {
        AgentClient::new(Endpoint::Unix(self.socket.clone()))
    }
}

/// The commands that ask the running agent.
#[derive(Debug, Clone, Subcommand)]
pub enum ClientCommand {
    /// Show on one screen how the agent, its parts and the traffic stand
    Status(status::StatusArgs),
    /// List the bans in force
    Bans(bans::BansArgs),
    /// Ban clients or networks
    Ban(ban::BanArgs),
    /// Lift bans and clear the clients' windows, so that they are not banned again at once
    Unban(unban::UnbanArgs),
    /// Never ban these; lifts what is banned inside them. Without CLIENT: list the allowlist
    Allow(allow::AllowArgs),
    /// Show recent events, or follow them
    Events(events::EventsArgs),
    /// Ban the clients of a list
    Import(import::ImportArgs),
    /// Write the bans in force as a list
    Export(export::ExportArgs),
    /// Say why a client is banned, or why not
    Explain(explain::ExplainArgs),
    /// Watch live: rate, clients, bans; lift and ban by key
    Top(top::TopArgs),
}

impl ClientCommand {
    /// Runs the command.
    pub async fn run(self, connection: &Connection) -> Result<Exit> {
        let client = connection.client();
        match self {
            ClientCommand::Status(args) => status::run(&args, &client).await,
            ClientCommand::Bans(args) => bans::run(&args, &client).await,
            ClientCommand::Ban(args) => ban::run(&args, &client).await,
            ClientCommand::Unban(args) => unban::run(&args, &client).await,
            ClientCommand::Allow(args) => allow::run(&args, &client).await,
            ClientCommand::Events(args) => events::run(&args, &client).await,
            ClientCommand::Import(args) => import::run(&args, &client).await,
            ClientCommand::Export(args) => export::run(&args, &client).await,
            ClientCommand::Explain(args) => explain::run(&args, &client).await,
            ClientCommand::Top(args) => top::run(&args, &client).await,
        }
    }
}
