//! The command line, one file per command. Most commands are clients of the running agent over its control socket; all
//! print through `print`. `main` parses, runs one, prints its error and sets the exit code.

pub(crate) mod allow;
pub(crate) mod args;
pub(crate) mod audit;
pub(crate) mod ban;
pub(crate) mod bans;
mod canary;
pub(crate) mod check;
pub(crate) mod cleanup;
pub(crate) mod client;
mod completions;
mod config;
mod deny;
mod doctor;
pub(crate) mod events;
pub(crate) mod explain;
pub(crate) mod export;
pub(crate) mod fleet;
mod follow;
mod generate;
pub(crate) mod health;
mod help;
pub(crate) mod import;
pub(crate) mod init;
mod lab;
mod learn;
pub(crate) mod lists;
mod notify;
pub(crate) mod page;
pub(crate) mod pause;
mod policy;
pub(crate) mod print;
mod proof;
mod rehearse;
pub(crate) mod reload;
pub(crate) mod replay;
pub(crate) mod reply;
pub(crate) mod run;
pub(crate) mod status;
mod suggest;
mod support;
pub(crate) mod top;
pub(crate) mod unban;
mod upgrade;

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use self::client::{AgentClient, ClientError, Endpoint};
use crate::api::DEFAULT_SOCKET;
use crate::text;

/// The outcome of a command: the process' exit code, listed in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// 0: done.
    Done,
    /// 1: failed, or refused for some of the clients.
    Failed,
    /// 2: the command line or the configuration is wrong (also what clap uses).
    Usage,
    /// 3: no agent answers on the control socket.
    NotRunning,
    /// 4: this user has no permission.
    Denied,
    /// 5: a part of the agent is degraded, or a log cannot be used.
    Degraded,
    /// Of `health` alone, which has the codes that Nagios knows.
    Health(health::Level),
}

/// The exit codes, for the end of `--help`.
pub const EXIT_CODES_HELP: &str = "\
Exit codes: 0 done; 1 failed, or refused for some of the clients; 2 wrong usage or configuration;
3 no agent answers on the control socket; 4 permission denied; 5 a part of the agent is degraded (status),
or a log cannot be used (check). `health` has codes of its own.";

impl Exit {
    /// Returns the process' exit code.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::NotRunning => 3,
            Exit::Denied => 4,
            Exit::Degraded => 5,
            Exit::Health(level) => level.code(),
        }
    }

    /// The outcome that an error stands for.
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

/// Learns a web server's normal traffic and drops attackers, with iptables and XDP
#[derive(Debug, Clone, Parser)]
#[command(name = "shield-agent", version, after_help = EXIT_CODES_HELP)]
pub struct Cli {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Run the agent
    Run(run::RunArgs),
    /// Print lines to add to a web server's configuration, and problems of the present one
    Init(init::InitArgs),
    /// Validate the configuration, show its effect, and test the last lines of the logs
    Check(check::CheckArgs),
    /// Write the files of nginx, systemd, Prometheus, logrotate and containers that follow from the configuration
    Generate(generate::GenerateArgs),
    /// Print the whole configuration with every default, or its JSON schema for an editor
    Config(config::ConfigArgs),
    /// Find out why Shield does not protect, and what mends it; exit code 1 when something keeps it from that
    Doctor(doctor::DoctorArgs),
    /// Write one file for whoever helps: configuration, states, rules, last events; secrets taken out
    Support(support::SupportArgs),
    /// Print the completions of a shell
    Completions(completions::CompletionsArgs),
    /// Write the manual pages into a folder
    #[command(hide = true)]
    Manual(completions::ManualArgs),
    /// Check, test and try the rules that decide about bans and starts
    Policy(policy::PolicyArgs),
    /// Evaluate a policy, for the agent alone
    #[command(name = crate::policy::asking::COMMAND, hide = true)]
    PolicyWorker,
    /// Answer what an upgrade asks of this version
    #[command(hide = true)]
    Proof(proof::ProofArgs),
    /// Install another version behind gates, restart, and go back to this one unless it is healthy
    Upgrade(upgrade::UpgradeArgs),
    /// Test whether Slack and the webhook take messages
    Notify(notify::NotifyArgs),
    /// Verify the audit log, or make a report from it
    Audit(audit::AuditArgs),
    /// Remove everything of Shield's from the kernel, and nothing else
    Cleanup(cleanup::CleanupArgs),
    /// Run past logs through the engine and list the bans that it would have made
    Replay(replay::ReplayArgs),
    /// Suggest limits for a web server from past logs, and prove them with these
    Suggest(suggest::SuggestArgs),
    /// Learn a site's habits from past logs, for the agent's next start to begin with; bans nobody
    Learn(learn::LearnArgs),
    /// Rehearse attacks and outages in disposable environments of this machine
    Lab(lab::LabArgs),
    /// Try nginx and Shield in an environment of their own: visitors of a log, every attack, one report; exit code 1 when
    /// something is to be mended
    Rehearse(rehearse::RehearseArgs),
    #[command(flatten)]
    Client(ClientCommand),
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// Those of the command; [`Exit::of`] maps them to exit codes.
    pub fn run(self) -> Result<Exit> {
        let connection = self.connection;
        // The agent's own words, in its log and in Slack, are for people.
        if !matches!(self.command, Command::Run(_)) && !std::io::stdout().is_terminal() {
            text::write_plain_counts();
        }
        match self.command {
            Command::Run(args) => run::run(args),
            Command::Init(args) => init::run(&args),
            Command::Check(args) => check::run(&args),
            Command::Generate(args) => generate::run(&args),
            Command::Config(args) => config::run(&args),
            Command::Doctor(args) => block_on(doctor::run(&args, &connection.client(), &connection.socket)),
            Command::Support(args) => block_on(support::run(&args, &connection.client(), &connection.socket)),
            Command::Completions(args) => completions::completions(&args),
            Command::Manual(args) => completions::manual(&args),
            Command::Policy(args) => policy::run(&args),
            Command::PolicyWorker => crate::policy::worker::run().map(|()| Exit::Done),
            Command::Proof(args) => proof::run(&args),
            Command::Upgrade(args) => block_on(upgrade::run(&args)),
            Command::Notify(args) => block_on(notify::run(&args)),
            Command::Audit(args) => audit::run(&args),
            Command::Replay(args) => replay::run(&args),
            Command::Suggest(args) => suggest::run(&args),
            Command::Learn(args) => learn::run(&args),
            Command::Lab(args) => lab::run(&args),
            Command::Rehearse(args) => rehearse::run(&args),
            Command::Cleanup(args) => block_on(cleanup::run(&args, &connection.client())),
            Command::Client(command) => block_on(command.run(&connection)),
        }
    }
}

/// Runs an asynchronous command on this thread.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("could not start the runtime")?.block_on(work)
}

/// The running agent's address.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// The agent's control socket
    #[arg(long, global = true, value_name = "PATH", env = "SHIELD_SOCKET", hide_env_values = true, default_value = DEFAULT_SOCKET)]
    pub socket: PathBuf,
}

impl Connection {
    pub fn client(&self) -> AgentClient {
        AgentClient::new(Endpoint::Unix(self.socket.clone()))
    }
}

/// The commands that talk to the running agent.
#[derive(Debug, Clone, Subcommand)]
pub enum ClientCommand {
    /// Show the state of the agent, its parts and the traffic; exit code 5 when a part is degraded
    Status(status::StatusArgs),
    /// Say in one line whether it protects, with the exit codes of Nagios: 0 good, 1 warning, 2 critical, 3 unknown
    Health(health::HealthArgs),
    /// Print the page's address, the way to it through SSH, and the token
    Page(page::PageArgs),
    /// List the bans in force and the slowed clients
    Bans(bans::BansArgs),
    /// Ban clients or networks
    Ban(ban::BanArgs),
    /// Lift bans and clear the clients' windows, so that they are not banned again at once
    Unban(unban::UnbanArgs),
    /// Pause automatic bans for a while: rules ban and slow nobody, bans in force stay
    Pause(pause::PauseArgs),
    /// End a pause, or a stop by the limits: ban those who were let through
    Resume(pause::ResumeArgs),
    /// Never ban these, and lift bans inside them. Without CLIENT: list the allowlist
    Allow(allow::AllowArgs),
    /// Show recent events, or follow them
    Events(events::EventsArgs),
    /// Load the configuration again, without dropping a line, a packet or a ban
    Reload(reload::ReloadArgs),
    /// Try another configuration on the live lines beside the one in force, without effects, and put it in force
    Canary(canary::CanaryArgs),
    /// Put the configuration back that the last promotion of a canary replaced
    Rollback(canary::RollbackArgs),
    /// Ban the clients in a list
    Import(import::ImportArgs),
    /// Write the bans in force as a list
    Export(export::ExportArgs),
    /// Show the fleet's other hosts, and believe one no more or again
    Fleet(fleet::FleetArgs),
    /// Explain why a client is banned, or why not
    Explain(explain::ExplainArgs),
    /// Watch the rate, clients and bans live; ban and lift with keys
    Top(top::TopArgs),
}

impl ClientCommand {
    /// Runs the command.
    pub async fn run(self, connection: &Connection) -> Result<Exit> {
        let client = connection.client();
        match self {
            ClientCommand::Status(args) => status::run(&args, &client).await,
            ClientCommand::Health(args) => health::run(&args, &client).await,
            ClientCommand::Page(args) => page::run(&args, &client).await,
            ClientCommand::Bans(args) => bans::run(&args, &client).await,
            ClientCommand::Ban(args) => ban::run(&args, &client).await,
            ClientCommand::Unban(args) => unban::run(&args, &client).await,
            ClientCommand::Pause(args) => pause::pause(&args, &client).await,
            ClientCommand::Resume(args) => pause::resume(&args, &client).await,
            ClientCommand::Allow(args) => allow::run(&args, &client).await,
            ClientCommand::Events(args) => events::run(&args, &client).await,
            ClientCommand::Reload(args) => reload::run(&args, &client).await,
            ClientCommand::Canary(args) => canary::run(&args, &client).await,
            ClientCommand::Rollback(args) => canary::rollback(&args, &client).await,
            ClientCommand::Import(args) => import::run(&args, &client).await,
            ClientCommand::Export(args) => export::run(&args, &client).await,
            ClientCommand::Fleet(args) => fleet::run(&args, &client).await,
            ClientCommand::Explain(args) => explain::run(&args, &client).await,
            ClientCommand::Top(args) => top::run(&args, &client).await,
        }
    }
}
