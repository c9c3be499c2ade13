//! A whole exercise in a ready environment: visitors come by, every attack is made in turn, and a report says what was stopped, who
//! was hurt, and what to change.

mod report;

pub use report::{Attacked, Report, Verdict};

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ipnet::IpNet;

use crate::agent_api::{AgentApi, Explained};
use crate::attack::{self, Kind, Outcome};
use crate::environment::{Environment, Machine, Role};
use crate::visitors::{self, Replay};

/// What to do in the exercise.
#[derive(Debug, Clone)]
pub struct Exercise {
    /// The operator's log, whose visitors come by again.
    pub log: Option<PathBuf>,
    /// The attacks, in this order.
    pub attacks: Vec<Kind>,
    /// For how long there are visitors alone, before the first attack.
    pub calm: Duration,
}

/// The machine with the agent that is looked at: the only one, or the first of a fleet.
fn server(environment: &Environment) -> Result<&Machine> {
    environment.machine(Role::Server).context("could not find the environment's server")
}

/// Goes through the exercise. `say` is told what happens, line by line.
///
/// # Errors
/// Fails if the log cannot be read, or if the environment is not whole.
pub fn run(environment: &Environment, exercise: &Exercise, say: &mut dyn FnMut(&str)) -> Result<Report> {
    let longest: Duration = exercise.attacks.iter().map(|kind| kind.limits().at_most).sum();
    let replay = replay(exercise.log.as_deref(), exercise.calm + longest)?;
    say(&format!("{} visitors come by", replay.clients));
    let is_over = AtomicBool::new(false);
    let (attacked, visitors) = std::thread::scope(|scope| {
        let visits = scope.spawn(|| replay.run(environment, &is_over));
        let attacked = attack_in_turn(environment, exercise, say);
        is_over.store(true, Ordering::Relaxed);
        let visitors = visits.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (attacked, visitors)
    });
    let visitors = visitors.context("could not let the visitors come by")?;
    let agent = AgentApi::of(environment, &server(environment)?.name);
    let report = Report {
        environment: environment.id.clone(),
        profile: environment.profile,
        attacks: attacked?,
        banned_visitors: banned_visitors(environment, &agent)?,
        faults: agent.faults()?,
        left_out: replay.refused_clients + replay.surplus_clients,
        visitors,
    };
    Ok(report)
}

fn replay(log: Option<&Path>, length: Duration) -> Result<Replay> {
    let Some(log) = log else { return Ok(Replay::ordinary(length)) };
    let replay = Replay::read(log, length)?;
    if replay.clients == 0 {
        bail!(
            "could not find a visitor in {}: most requests of each client in it were refused",
            log.display()
        );
    }
    Ok(replay)
}

fn attack_in_turn(
    environment: &Environment,
    exercise: &Exercise,
    say: &mut dyn FnMut(&str),
) -> Result<Vec<Attacked>> {
    let agent = AgentApi::of(environment, &server(environment)?.name);
    wait_for_calm(&agent, exercise.calm)?;
    let mut all = Vec::new();
    for kind in &exercise.attacks {
        let outcome = attack::run(environment, *kind, kind.limits(), &[])
            .with_context(|| format!("could not make the attack {}", kind.name()))?;
        let attacked = Attacked::of(outcome, |outcome| words_about(environment, &agent, outcome));
        say(&attacked.line());
        all.push(attacked);
    }
    Ok(all)
}

/// Visitors come by for so long, and the agent has read of them: an attack on an agent that reads nothing shows nothing.
fn wait_for_calm(agent: &AgentApi, calm: Duration) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(60);
    const ASK_EVERY: Duration = Duration::from_millis(250);
    let began = Instant::now();
    loop {
        let requests = agent.requests();
        if requests.as_ref().is_ok_and(|requests| *requests > 0) && began.elapsed() >= calm {
            return Ok(());
        }
        if began.elapsed() >= PATIENCE.max(calm) {
            requests.context("could not ask the agent before the first attack")?;
            bail!(
                "could not begin with the attacks: visitors came by, and the agent has read no request of them. Does nginx \
                 write an access log, and is it the one of --log?"
            );
        }
        std::thread::sleep(ASK_EVERY);
    }
}

/// Why an address is not banned, as the agent explains it. All of an attack's do the same.
fn words_about(environment: &Environment, agent: &AgentApi, outcome: &Outcome) -> Option<Explained> {
    let attacker = environment.machine(Role::Attacker)?;
    let address = attack::first_address(outcome.kind, attacker)?;
    agent.explain(address).ok()
}

/// Bans that cover somebody who must never be dropped.
fn banned_visitors(environment: &Environment, agent: &AgentApi) -> Result<Vec<String>> {
    let visitors = environment.machines.iter().filter(|machine| machine.role == Role::Visitor);
    let own: Vec<IpNet> = visitors
        .flat_map(|machine| {
            let single = machine.addresses.iter().copied().map(|address: IpAddr| IpNet::from(address));
            single.chain(attack::networks(machine)).collect::<Vec<_>>()
        })
        .collect();
    let meets = |client: &IpNet| own.iter().any(|own| own.contains(client) || client.contains(own));
    let bans = agent.read()?.into_iter().filter(|ban| meets(&ban.client));
    Ok(bans.map(|ban| format!("{}: {}", ban.client, ban.reason)).collect())
}

/// The visitors' own account, for the report.
pub type Visitors = visitors::Outcome;
