//! A random walk over every outage of an environment, several at once, while visitors and attackers come by. After each step the
//! environment is recovered, and what must always hold is checked. The walk's choices follow from its seed alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use shield_lab::agent_api::AgentApi;
use shield_lab::attack::{self, Kind, Limits, now_ms};
use shield_lab::environment::{Environment, Part, Role};
use shield_lab::guard;
use shield_lab::outage::{self, Mode};
use shield_lab::visitors::{Outcome, Replay};

use super::kernel::XdpBans;
use super::narrator::Narrator;
use crate::{agent, process, wait};

/// The one term of every ban, so that many end while the walk goes on.
const TERM: Duration = Duration::from_secs(20);
/// For the agent to mend itself: a source's and an enforcer's retries have pauses of up to half a minute.
const MENDED_WITHIN: Duration = Duration::from_secs(120);
/// For a new attacker to be banned once all is mended.
const DETECTED_WITHIN: Duration = Duration::from_secs(30);
/// A visitor waits so long: the machine is busy on purpose.
const PATIENCE: Duration = Duration::from_secs(15);
/// Its own memory, which the walk must not make grow.
const MOST_MEMORY_MIB: f64 = 256.0;
const SERVER: &str = "server";
const MOST_AT_ONCE: u64 = 3;

/// What is walked.
#[derive(Debug, Clone, Copy)]
pub struct Walk {
    /// All choices follow from it.
    pub seed: u64,
    /// No step begins after this.
    pub length: Duration,
    /// Within this every ban is in force, is recorded, and is gone after its end.
    pub soon: Duration,
}

impl Walk {
    /// What [`Walk::soon`] is on a machine that does nothing else.
    pub const SOON: Duration = Duration::from_secs(5);
}

/// What the walk met.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Of the walk.
    pub seed: u64,
    /// Steps that were made.
    pub steps: usize,
    /// Outages that were begun.
    pub faults: usize,
    /// By name.
    pub by_mode: BTreeMap<&'static str, usize>,
    /// Bans that were seen.
    pub bans: usize,
    /// Requests of the visitors.
    pub visits: usize,
    /// What did not hold, with its step.
    pub violations: Vec<String>,
}

/// One step: outages in this order, held for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// One to three different ones.
    pub outages: Vec<Mode>,
    /// From the last one to the recovery.
    pub hold: Duration,
}

/// The steps of a seed, without end.
#[derive(Debug, Clone)]
pub struct Choices(u64);

impl Choices {
    /// Those of this seed.
    pub fn of(seed: u64) -> Choices {
        Choices(seed)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): a full period from any seed.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Iterator for Choices {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let mut left = Mode::ALL.to_vec();
        let count = 1 + Choices::next(self) % MOST_AT_ONCE;
        let outages = (0..count)
            .map(|_| {
                let index = Choices::next(self) as usize % left.len();
                left.remove(index)
            })
            .collect();
        Some(Step { outages, hold: Duration::from_millis(500 + Choices::next(self) % 4_000) })
    }
}

/// Walks; fails in the report, not here, when something did not hold.
///
/// # Errors
/// Fails if no environment can be made.
pub fn run(narrator: &mut Narrator, walk: Walk) -> Result<Report> {
    let place = Place::create()?;
    let environment = place.environment()?;
    narrator.heading(&format!("Chaos with seed {} in {}", walk.seed, environment.id));
    let mut replay = Replay::ordinary(walk.length + Duration::from_secs(3_600));
    replay.patience = PATIENCE;
    let is_over = AtomicBool::new(false);
    let visited = environment.clone();
    let mut walker = Walker::new(environment, walk);
    let visits = std::thread::scope(|scope| {
        let visits = scope.spawn(|| replay.run(&visited, &is_over));
        let attacks = scope.spawn(|| attack_until(&visited, &is_over));
        let result = walker.walk(narrator);
        is_over.store(true, Ordering::Relaxed);
        let _ = attacks.join();
        result.and(visits.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    walker.check_visits(&visits);
    let mut report = walker.report;
    report.visits = visits.sent;
    for violation in &report.violations {
        narrator.step(format_args!("VIOLATION: {violation}"));
    }
    narrator.step(format_args!(
        "{} faults in {} steps, {} bans, {} visits: {} violations (seed {})",
        report.faults,
        report.steps,
        report.bans,
        report.visits,
        report.violations.len(),
        report.seed
    ));
    Ok(report)
}

/// Someone attacks all the time, also while something is broken.
fn attack_until(environment: &Environment, is_over: &AtomicBool) {
    let limits = Limits { at_most: Duration::from_secs(8), requests: 200, per_sec: 25.0 };
    let pool = attackers(environment);
    // The other half is for attacks that must be stopped.
    for address in pool.iter().rev().take(pool.len() / 2).cycle() {
        if is_over.load(Ordering::Relaxed) {
            return;
        }
        // An agent that is down cannot be asked for its bans.
        let _ = attack::run(environment, Kind::Scan, limits, &[*address]);
    }
}

/// The attackers' IPv4 addresses.
fn attackers(environment: &Environment) -> Vec<IpAddr> {
    let machines = environment.machines.iter().filter(|machine| machine.role == Role::Attacker);
    machines.flat_map(|machine| machine.addresses.clone()).filter(IpAddr::is_ipv4).collect()
}

/// The folder of the environment, which is taken down on drop.
struct Place {
    state: tempfile::TempDir,
    id: String,
}

impl Place {
    fn create() -> Result<Place> {
        let state =
            tempfile::Builder::new().prefix("chaos").tempdir().context("could not create a folder")?;
        // nginx' workers read below it.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(state.path(), mode).context("could not open the folder to nginx")?;
        let config = state.path().join("chaos.toml");
        let secs = TERM.as_secs();
        let text = format!(
            "[ban]\nterms = [\"{secs}s\"]\nextend = \"off\"\nnetworks = \"off\"\n[iptables]\nmax_rules = 1000\n"
        );
        fs::write(&config, text).context("could not write the configuration")?;
        let mut place = Place { state, id: String::new() };
        let config = config.to_string_lossy().into_owned();
        let made = place.lab(&["create", "chaos", "--ttl", "3h", "--config", &config, "--json"])?;
        let made: Value = serde_json::from_str(&made).context("could not read what was created")?;
        place.id = made["id"].as_str().context("could not read the id of what was created")?.to_owned();
        Ok(place)
    }

    fn lab(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(agent::binary()?)
            .arg("lab")
            .args(["--state".as_ref(), self.state.path().as_os_str()])
            .args(arguments)
            .output()
            .context("could not start shield-agent")?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "`shield-agent lab {}` failed: {error}", arguments.join(" "));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn environment(&self) -> Result<Environment> {
        shield_lab::state::State::of(Some(self.state.path()))?.find(&self.id)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.lab(&["destroy", &self.id]) {
            eprintln!("could not take down {}: {error:#}", self.id);
        }
    }
}

struct Walker {
    environment: Environment,
    walk: Walk,
    api: AgentApi,
    attackers: Vec<IpAddr>,
    report: Report,
    /// Bans by client and begin, with when they were first seen.
    seen: BTreeMap<(String, i64), Instant>,
    /// From and to, when no packet reached the server.
    cuts: Vec<(i64, i64)>,
}

impl Walker {
    fn new(environment: Environment, walk: Walk) -> Walker {
        Walker {
            api: AgentApi::of(&environment, SERVER),
            attackers: attackers(&environment),
            environment,
            walk,
            report: Report { seed: walk.seed, ..Report::default() },
            seen: BTreeMap::new(),
            cuts: Vec::new(),
        }
    }

    fn walk(&mut self, narrator: &mut Narrator) -> Result<()> {
        // What is not there yet cannot break.
        let unready = self.until_none("start", MENDED_WITHIN, |walker| {
            let faults = walker.api.faults()?;
            Ok([faults, walker.differences()?].concat())
        });
        ensure!(unready.is_empty(), "could not begin: {}", unready.join("; "));
        let began = Instant::now();
        for step in Choices::of(self.walk.seed) {
            if began.elapsed() >= self.walk.length {
                break;
            }
            self.report.steps += 1;
            self.step(narrator, &step)?;
        }
        self.report.bans = self.seen.len();
        Ok(())
    }

    fn step(&mut self, narrator: &mut Narrator, step: &Step) -> Result<()> {
        let number = self.report.steps;
        let names: Vec<&str> = step.outages.iter().map(|mode| mode.name()).collect();
        narrator.step(format_args!("{number}. {}", names.join(", ")));
        let cut_from = now_ms();
        for mode in &step.outages {
            match outage::start(&mut self.environment, *mode) {
                Ok(_) => {
                    self.report.faults += 1;
                    *self.report.by_mode.entry(mode.name()).or_default() += 1;
                }
                // What a former outage of this step has taken away cannot break once more.
                Err(error) => narrator.note(format_args!("{}: {error:#}", mode.name())),
            }
        }
        wait::sleep(step.hold)?;
        let recovered = outage::recover(&mut self.environment);
        if step.outages.contains(&Mode::Network) {
            self.cuts.push((cut_from, now_ms()));
        }
        let mut violations = Vec::new();
        if let Err(error) = recovered {
            violations.push(format!("recovering: {error:#}"));
        }
        violations.extend(self.violations());
        for violation in violations {
            self.report.violations.push(format!("step {number} ({}): {violation}", names.join(", ")));
            narrator.note(format_args!("{}", self.report.violations.last().map_or("", String::as_str)));
        }
        Ok(())
    }

    /// What does not hold now that everything is mended.
    fn violations(&mut self) -> Vec<String> {
        let mut found = self.until_none("faults", MENDED_WITHIN, |walker| walker.api.faults());
        let fresh = self.attackers[self.report.steps % (self.attackers.len() / 2)];
        found.extend(self.detection_goes_on(fresh));
        found.extend(self.until_none("kernel", self.walk.soon, Walker::differences));
        found.extend(self.until_none("audit", self.walk.soon, Walker::missing_in_audit));
        found.extend(self.memory());
        found
    }

    /// Asks again until there is nothing wrong, or this time is over.
    fn until_none(
        &mut self,
        what: &str,
        within: Duration,
        ask: impl Fn(&mut Walker) -> Result<Vec<String>>,
    ) -> Vec<String> {
        let deadline = Instant::now() + within;
        loop {
            let found = ask(self).unwrap_or_else(|error| vec![format!("{what}: {error:#}")]);
            if found.is_empty() || Instant::now() >= deadline {
                return found;
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// A new attack leads to a ban.
    fn detection_goes_on(&mut self, from: IpAddr) -> Vec<String> {
        let deadline = Instant::now() + DETECTED_WITHIN;
        let limits = Limits { at_most: DETECTED_WITHIN, requests: 3_000, per_sec: 60.0 };
        loop {
            match attack::run(&self.environment, Kind::Flood, limits, &[from]) {
                Ok(outcome) if outcome.banned_after_ms.is_some() && outcome.leaked == 0 => return Vec::new(),
                result if Instant::now() >= deadline => {
                    return vec![format!("an attack from {from} was not stopped: {result:?}")];
                }
                _ => {}
            }
        }
    }

    /// Where ledger and kernel differ, and who is dropped that must not be.
    fn differences(&mut self) -> Result<Vec<String>> {
        let now = Instant::now();
        let mut found = Vec::new();
        let mut listed = BTreeSet::new();
        for ban in self.api.read()? {
            let key = (ban.client.to_string(), ban.since_ms);
            let since = *self.seen.entry(key).or_insert(now);
            if now.duration_since(since) > TERM + self.walk.soon {
                found.push(format!("{} is banned for longer than its term", ban.client));
            }
            listed.extend(self.attackers.iter().filter(|address| ban.covers(**address)).copied());
            found.extend(self.hurt_by(&ban));
        }
        let xdp = XdpBans::open(&self.environment.pins(SERVER))?;
        let mut in_xdp = BTreeSet::new();
        for address in &self.attackers {
            let IpAddr::V4(v4) = address else { continue };
            if xdp.holds(*v4)? {
                in_xdp.insert(*address);
            }
        }
        found.extend(compare(&listed, &self.rules()?, &in_xdp, &self.attackers));
        Ok(found)
    }

    fn hurt_by(&self, ban: &shield_lab::agent_api::Ban) -> Option<String> {
        let is_attackers = self.attackers.iter().any(|address| ban.covers(*address));
        (!is_attackers).then(|| format!("{} is banned, which is no attacker: {}", ban.client, ban.reason))
    }

    /// The addresses that iptables drops.
    fn rules(&self) -> Result<BTreeSet<IpAddr>> {
        let server = guard::namespace(&self.environment, SERVER)?;
        let rules = server.run(&["iptables", "--wait", "-S", "SHIELD"])?;
        let dropped = rules.lines().filter(|rule| rule.ends_with("-j DROP"));
        let source = |rule: &str| rule.split_once("-s ")?.1.split('/').next()?.parse().ok();
        Ok(dropped.filter_map(source).collect())
    }

    /// Bans that were seen and are not recorded, or twice.
    fn missing_in_audit(&mut self) -> Result<Vec<String>> {
        let path = self.environment.audit(SERVER);
        let text = fs::read_to_string(&path).with_context(|| format!("could not read {}", path.display()))?;
        missing(&text, self.seen.keys())
    }

    fn memory(&self) -> Option<String> {
        let agent = self.environment.processes.iter().rev().find(|process| process.part == Part::Agent)?;
        match process::memory_mib(agent.pid, "RssAnon") {
            Ok(mib) if mib <= MOST_MEMORY_MIB => None,
            Ok(mib) => Some(format!("the agent has {mib} MiB of memory")),
            Err(error) => Some(format!("the agent's memory: {error:#}")),
        }
    }

    /// Visitors may lose requests only while no packet reaches the server.
    fn check_visits(&mut self, visits: &Outcome) {
        let patience = PATIENCE.as_millis() as i64;
        let is_cut = |at: i64| self.cuts.iter().any(|(from, to)| at >= from - patience && at <= to + 1_000);
        let lost: Vec<_> = visits.losses.iter().filter(|(_, at)| !is_cut(*at)).collect();
        if let Some((address, at)) = lost.first() {
            let count = lost.len();
            self.report
                .violations
                .push(format!("visitors lost {count} requests, the first {address} at {at}"));
        }
        if visits.sent == 0 {
            self.report.violations.push("no visitor came by".to_owned());
        }
    }
}

/// Where the ledger and the two enforcers differ. What is listed at the moment at which it ends is gone when this is asked again.
fn compare(
    listed: &BTreeSet<IpAddr>,
    rules: &BTreeSet<IpAddr>,
    xdp: &BTreeSet<IpAddr>,
    attackers: &[IpAddr],
) -> Vec<String> {
    let mut found = Vec::new();
    for address in attackers {
        let held = [listed, rules, xdp].map(|set| set.contains(address));
        let [in_ledger, in_rules, in_xdp] = held;
        if in_ledger != in_rules || in_ledger != in_xdp {
            found.push(format!("{address}: ledger {in_ledger}, iptables {in_rules}, XDP {in_xdp}"));
        }
    }
    let foreign = rules.iter().filter(|address| !attackers.contains(address));
    found.extend(foreign.map(|address| format!("iptables drops {address}, which is no attacker")));
    found
}

/// The bans of these that an audit log does not have, and those that it has twice.
fn missing<'a>(log: &str, seen: impl Iterator<Item = &'a (String, i64)>) -> Result<Vec<String>> {
    let (mut recorded, mut found) = (BTreeSet::new(), Vec::new());
    for line in log.lines().filter(|line| line.contains("\"event\":\"banned\"")) {
        let line: Value = serde_json::from_str(line).context("could not read a line of the audit log")?;
        let client = line["client"].as_str().unwrap_or_default().to_owned();
        if !recorded.insert((network(&client), line["since_ms"].as_i64().unwrap_or(0))) {
            found.push(format!("the ban of {client} is recorded twice"));
        }
    }
    let missing = seen.filter(|key| !recorded.contains(key));
    found.extend(missing.map(|(client, since)| format!("the ban of {client} since {since} is not recorded")));
    Ok(found)
}

/// A client as the list of bans has it, in the form of a network.
fn network(client: &str) -> String {
    let single = client.parse::<IpAddr>().map(|address| ipnet::IpNet::from(address).to_string());
    single.unwrap_or_else(|_| client.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(addresses: &[IpAddr]) -> BTreeSet<IpAddr> {
        addresses.iter().copied().collect()
    }

    #[test]
    fn a_ban_that_one_enforcer_lost_and_a_visitor_who_is_dropped_are_noticed() {
        let (a, b, visitor) =
            (IpAddr::from([203, 0, 113, 1]), IpAddr::from([203, 0, 113, 2]), IpAddr::from([198, 51, 100, 2]));
        let attackers = [a, b];
        let check = |ledger: &[IpAddr], rules: &[IpAddr], xdp: &[IpAddr], expected: usize| {
            let found = compare(&set(ledger), &set(rules), &set(xdp), &attackers);
            assert_eq!(found.len(), expected, "{found:?}");
        };
        check(&[a], &[a], &[a], 0);
        check(&[a, b], &[a], &[a, b], 1);
        check(&[a, b], &[a, b], &[a], 1);
        check(&[], &[a], &[a], 1);
        check(&[a], &[a, visitor], &[a], 1);
    }

    #[test]
    fn a_ban_that_is_not_recorded_or_recorded_twice_is_noticed() {
        let line = |client: &str, since: i64| {
            format!("{{\"event\":\"banned\",\"client\":\"{client}\",\"since_ms\":{since}}}\n")
        };
        let key = ("203.0.113.1/32".to_owned(), 7);
        let check = |log: &str, expected: usize| {
            assert_eq!(missing(log, [&key].into_iter()).unwrap().len(), expected, "{log}");
        };
        check(&line("203.0.113.1", 7), 0);
        check("", 1);
        check(&line("203.0.113.1", 8), 1);
        check(&line("203.0.113.1", 7).repeat(2), 1);
    }

    #[test]
    fn a_seed_always_chooses_the_same_and_every_outage_comes_up() {
        let steps = |seed| Choices::of(seed).take(60).collect::<Vec<Step>>();
        assert_eq!(steps(7), steps(7));
        assert_ne!(steps(7), steps(8));
        let all: BTreeSet<Mode> = steps(7).into_iter().flat_map(|step| step.outages).collect();
        assert_eq!(all.len(), Mode::ALL.len());
        assert!(steps(7).iter().any(|step| step.outages.len() == 3));
    }
}
