//! `shield-agent lab`: disposable environments of this machine, in which attacks and outages are rehearsed (`shield-lab`). This
//! file has the command lines and what is shown; `rehearse` goes through a whole exercise.

mod up;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};
use shield_lab::api::Step;
use shield_lab::attack::{self, Kind};
use shield_lab::create::{self, Request};
use shield_lab::environment::{Environment, Phase, Profile};
use shield_lab::front::Front;
use shield_lab::health::{Condition, Health};
use shield_lab::state::{State, since_boot};
use shield_lab::{app, client, destroy, door};

use super::print::{self, Colour, Table};
use super::reply::{Format, JsonArg};
use super::{Exit, args};
use crate::text;

#[derive(Debug, Clone, Args)]
pub(crate) struct LabArgs {
    /// The folder of all environments
    #[arg(long, global = true, value_name = "DIR", env = "SHIELD_LAB_STATE", hide_env_values = true)]
    state: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Start what looks after environments: control service, front nginx, reaper, health; all environments end with it
    Up(UpArgs),
    /// Take all environments down and end the control service
    Down,
    /// Make an environment: a server with nginx and the agent, visitors and attackers, apart from the host and all others
    Create(CreateArgs),
    /// List the environments and how long they still live
    List(JsonArg),
    /// Take environments down; their logs are kept
    Destroy(DestroyArgs),
    /// Print the last lines of an environment's logs
    Logs(LogsArgs),
    /// Show whether an environment answers: its last ten looks; exit code 5 when it is degraded
    Health(HealthArgs),
    /// Break something in an environment, or mend what is wrong with `--mode recover`
    Outage(OutageArgs),
    /// Attack an environment's server from its own attackers, and say when they were banned
    Attack(AttackArgs),
    /// Serve what stands behind an environment's nginx
    #[command(hide = true)]
    App(AppArgs),
    /// Keep every processor busy
    #[command(hide = true)]
    Load(LoadArgs),
    /// Join a socket with an environment's server
    #[command(hide = true)]
    Door(DoorArgs),
}

#[derive(Debug, Clone, Args)]
struct CreateArgs {
    /// What its id begins with: small letters, digits and hyphens
    #[arg(value_name = "NAME", default_value = "lab")]
    name: String,
    /// For how long it lives, for example 30m; at most 24h
    #[arg(long, value_name = "TIME", default_value = "30m", value_parser = args::seconds)]
    ttl: u64,
    #[command(flatten)]
    site: SiteArgs,
    #[command(flatten)]
    json: JsonArg,
}

/// What an environment is made of.
#[derive(Debug, Clone, Args)]
pub(super) struct SiteArgs {
    /// How its clients reach the server
    #[arg(long, value_enum, default_value_t = ProfileArg::Direct)]
    profile: ProfileArg,
    /// The folder of nginx's configuration, for example /etc/nginx; without it a site of the environment's own
    #[arg(long, value_name = "DIR")]
    pub nginx: Option<PathBuf>,
    /// An access log whose visitors come by again
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Shield's configuration to try; without it the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProfileArg {
    /// Over a router
    Direct,
    /// Through a proxy that names them in a header
    Cdn,
    /// Through a host's port that leads into a container
    Container,
    /// To two servers that tell each other of bans
    Fleet,
}

#[derive(Debug, Clone, Args)]
struct DestroyArgs {
    /// The environment's id, or its name where only one has it
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

#[derive(Debug, Clone, Args)]
struct AppArgs {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    slack: Option<SocketAddr>,
}

#[derive(Debug, Clone, Args)]
struct LoadArgs {
    #[arg(long)]
    seconds: u64,
}

#[derive(Debug, Clone, Args)]
struct UpArgs {
    /// The port on 127.0.0.1 at which the front nginx shows every environment, each as ID.localhost
    #[arg(long, default_value_t = shield_lab::front::PORT)]
    port: u16,
    /// How often the health of each environment is looked at
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = args::seconds)]
    poll: u64,
    /// Stay in the foreground, as under a service manager
    #[arg(long)]
    foreground: bool,
}

#[derive(Debug, Clone, Args)]
struct LogsArgs {
    /// The environment's id, or its name where only one has it
    #[arg(value_name = "ID")]
    id: String,
    /// How many lines of each log
    #[arg(short = 'n', long, default_value_t = 100)]
    lines: usize,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Debug, Clone, Args)]
struct HealthArgs {
    /// The environment's id, or its name where only one has it
    #[arg(value_name = "ID")]
    id: String,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Debug, Clone, Args)]
struct OutageArgs {
    /// The environment's id, or its name where only one has it
    #[arg(value_name = "ID")]
    id: String,
    /// crash, pause, network, stress, flush-firewall, xdp-off, unpin, rotate, truncate, disk-full, clock, slack-down, or recover
    #[arg(long)]
    mode: String,
}

#[derive(Debug, Clone, Args)]
struct AttackArgs {
    /// The environment's id, or its name where only one has it
    #[arg(value_name = "ID")]
    id: String,
    /// scan, flood, login, slow-scan, botnet, ipv6-hopping, or one of the evasions; a wrong one lists all
    #[arg(long)]
    kind: String,
    /// The addresses that it comes from, of the environment's attackers alone
    #[arg(long, value_name = "ADDRESS")]
    from: Vec<IpAddr>,
    /// It ends after this
    #[arg(long, value_name = "TIME", value_parser = args::seconds)]
    at_most: Option<u64>,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Debug, Clone, Args)]
struct DoorArgs {
    #[arg(long)]
    listen: PathBuf,
    #[arg(long)]
    to: SocketAddr,
}

pub(crate) fn run(args: &LabArgs) -> Result<Exit> {
    let state = State::of(args.state.as_deref())?;
    match &args.command {
        Command::Up(args) => up::up(&state, args),
        Command::Down => up::down(&state),
        Command::Logs(args) => logs(&state, args),
        Command::Health(args) => health(&state, args),
        Command::Outage(args) => outage(&state, args),
        Command::Attack(args) => attack(&state, args),
        Command::Load(args) => shield_lab::outage::run_load(args.seconds).map(|()| Exit::Done),
        Command::Create(args) => create(&state, args),
        Command::List(json) => list(&state, json.format()),
        Command::Destroy(args) => destroy_all(&state, args),
        Command::App(args) => app::serve(args.listen, args.slack).map(|()| Exit::Done),
        Command::Door(args) => door::run(&args.listen, args.to).map(|()| Exit::Done),
    }
}

impl CreateArgs {
    fn request(&self) -> Result<Request> {
        self.site.request(&self.name, self.ttl)
    }
}

impl SiteArgs {
    /// The request for an environment of this name that lives so long.
    pub(super) fn request(&self, name: &str, ttl_secs: u64) -> Result<Request> {
        let whole = |path: &Option<PathBuf>| {
            let whole = path.as_ref().map(|path| {
                std::path::absolute(path).with_context(|| format!("could not use {}", path.display()))
            });
            whole.transpose()
        };
        let profile = match self.profile {
            ProfileArg::Direct => Profile::Direct,
            ProfileArg::Cdn => Profile::Cdn,
            ProfileArg::Container => Profile::Container,
            ProfileArg::Fleet => Profile::Fleet,
        };
        Ok(Request {
            name: name.to_owned(),
            ttl_secs,
            profile,
            nginx: whole(&self.nginx)?,
            log: whole(&self.log)?,
            config: whole(&self.config)?,
        })
    }
}

fn create(state: &State, args: &CreateArgs) -> Result<Exit> {
    let request = args.request()?;
    let environment = match client::is_up(state) {
        true => client::create(state, &request)?,
        false => create::create(state, &request, None)?,
    };
    match args.json.format() {
        Format::Json => print::json(&environment)?,
        Format::Text => print::text(&told(&environment, Front::of(state)))?,
    }
    Ok(Exit::Done)
}

fn told(environment: &Environment, front: Option<Front>) -> String {
    let id = &environment.id;
    let lives = text::duration(environment.ends.saturating_sub(environment.created));
    let door = environment.door();
    match front {
        Some(front) => format!("{id} is ready, and lives for {lives}: {}\n", front.url(id)),
        None => format!(
            "{id} is ready: curl --unix-socket {} http://localhost/\nNothing ends it by itself, because no control service \
             runs: `shield-agent lab up` starts it, `shield-agent lab destroy {id}` ends this one.\n",
            door.display()
        ),
    }
}

fn logs(state: &State, args: &LogsArgs) -> Result<Exit> {
    let logs = shield_lab::logs::read(&state.find(&args.id)?, args.lines);
    match args.json.format() {
        Format::Json => print::json(&logs)?,
        Format::Text => {
            let shown = logs.iter().filter(|log| !log.lines.is_empty());
            let shown: String =
                shown.map(|log| format!("==> {} <==\n{}\n\n", log.file, log.lines.join("\n"))).collect();
            print::text(&shown)?;
        }
    }
    Ok(Exit::Done)
}

fn health(state: &State, args: &HealthArgs) -> Result<Exit> {
    let environment = state.find(&args.id)?;
    let mut health = Health::read(&environment);
    if health.samples.is_empty() {
        // Nobody looks after it.
        health.add(shield_lab::health::look(&environment));
    }
    match args.json.format() {
        Format::Json => print::json(&health)?,
        Format::Text => print::text(&render_health(&health, Colour::of_stdout()))?,
    }
    Ok(if health.condition == Condition::Degraded { Exit::Degraded } else { Exit::Done })
}

fn render_health(health: &Health, colour: Colour) -> String {
    let mut table = Table::new(&["AT", "TOOK", "FOUND"], &[]);
    for sample in &health.samples {
        let at = i64::try_from(sample.at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        table.row(vec![
            at.map_or_else(String::new, |at| at.strftime("%H:%M:%S").to_string()),
            format!("{} ms", sample.latency_ms),
            sample.error.clone().unwrap_or_else(|| "good".to_owned()),
        ]);
    }
    format!("{}\n\n{}", condition_name(health.condition), table.render(colour))
}

fn outage(state: &State, args: &OutageArgs) -> Result<Exit> {
    let step = Step::of(&args.mode).map_err(|error| args::UsageError(format!("{error:#}")))?;
    let done = match client::is_up(state) {
        true => client::outage(state, &args.id, &args.mode)?.done,
        false => step.take(&mut state.find(&args.id)?)?,
    };
    let done = if done.is_empty() { vec!["nothing is wrong".to_owned()] } else { done };
    print::text(&format!("{}\n", done.join("\n")))?;
    Ok(Exit::Done)
}

fn attack(state: &State, args: &AttackArgs) -> Result<Exit> {
    let kind: Kind = args.kind.parse().map_err(|error| args::UsageError(format!("{error:#}")))?;
    let mut limits = kind.limits();
    if let Some(secs) = args.at_most {
        limits.at_most = Duration::from_secs(secs);
    }
    let outcome = attack::run(&state.find(&args.id)?, kind, limits, &args.from)?;
    match args.json.format() {
        Format::Json => print::json(&outcome)?,
        Format::Text => print::text(&told_of(&outcome))?,
    }
    Ok(Exit::Done)
}

fn told_of(outcome: &attack::Outcome) -> String {
    let addresses = text::plural(outcome.addresses as u64, "address", "addresses");
    let sent = text::plural(u64::from(outcome.sent), "request", "requests");
    let end = match outcome.banned_after_ms {
        Some(ms) => format!("all banned after {ms} ms and {} answers", outcome.passed),
        None => format!("{} of them banned; {} answers", outcome.banned, outcome.passed),
    };
    let reason = outcome.reason.as_ref().map(|reason| format!("; {reason}")).unwrap_or_default();
    format!("{}: {sent} from {addresses}, {end}{reason}\n", outcome.kind.name())
}

fn list(state: &State, format: Format) -> Result<Exit> {
    let environments = state.list()?;
    match format {
        Format::Json => print::json(&environments)?,
        Format::Text => print::text(&render(&environments, Colour::of_stdout())?)?,
    }
    Ok(Exit::Done)
}

fn render(environments: &[Environment], colour: Colour) -> Result<String> {
    if environments.is_empty() {
        return Ok("there is no environment: `shield-agent lab create` makes one\n".to_owned());
    }
    let now = since_boot()?;
    let mut table = Table::new(&["ID", "PROFILE", "STATE", "HEALTH", "ENDS IN"], &[]);
    for environment in environments {
        let left = environment.left(now).as_secs();
        table.row(vec![
            environment.id.clone(),
            environment.profile.name().to_owned(),
            phase_name(environment.phase).to_owned(),
            condition_name(Health::read(environment).condition).to_owned(),
            if left == 0 { "now".to_owned() } else { text::duration(left) },
        ]);
    }
    Ok(table.render(colour))
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Creating => "being made",
        Phase::Ready => "ready",
        Phase::Destroying => "being taken down",
    }
}

fn condition_name(condition: Condition) -> &'static str {
    match condition {
        Condition::Unknown => "not looked at",
        Condition::Good => "good",
        Condition::Degraded => "degraded",
    }
}

fn destroy_all(state: &State, args: &DestroyArgs) -> Result<Exit> {
    for id in &args.ids {
        let id = state.find(id).map_or_else(|_| id.clone(), |environment| environment.id);
        let kept = match client::is_up(state) {
            true => Some(client::destroy(state, &id)?.archive),
            false => destroy::destroy(state, &id)?,
        };
        let kept =
            kept.with_context(|| format!("could not find an environment {id}: see `shield-agent lab list`"))?;
        print::text(&format!("{id} is gone; its logs are in {}\n", kept.display()))?;
    }
    Ok(Exit::Done)
}
