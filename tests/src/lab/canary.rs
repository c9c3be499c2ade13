//! The profile `canary`: under load, a configuration that would ban the visitors is refused by the shipped rules about promotions, which
//! name them; a good one goes live without losing a ban or what was learned.

use std::fs;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use serde_json::Value;
use shield_agent::test_support::api::types::{Ban, BanPage, PartStateName, Status};

use super::cdn::Check;
use super::history;
use super::kernel::{Wanted, wait_for_both};
use super::narrator::Narrator;
use super::report::Answers;
use super::world::{Attack, VISITOR_PAUSE, World};
use crate::agent::Agent;
use crate::traffic::{Outcome, Requester};
use crate::wait;

/// A client in good standing would be banned a little later, and many of them are told of together.
const PATIENCE: Duration = Duration::from_secs(60);
/// The candidate sees the load for this long before it goes live.
const OBSERVED_SECS: u64 = 5;
/// The traffic after the promotion that has to be as undisturbed.
const AFTERWARDS: Duration = Duration::from_secs(3);
const FLOOD: Attack = Attack {
    paths: &["/search?q=a", "/search?q=b", "/search?q=c"],
    threads: 4,
    pause: Duration::from_millis(40),
    timeout: Duration::from_millis(500),
};
/// Every visitor reads more pages than that.
const BAD: &str = "\n[detect]\nflood.page_requests = 2\nflood.page_secs = 30\n";
const GOOD: &str = "\n[detect]\nevidence.threshold = 9.0\n";

/// All measurements. `None` stands for steps that were not reached.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// All steps succeeded.
    pub ok: bool,
    /// The step that failed, and its error.
    pub failed: Option<String>,
    /// From the first machine to the last check, in seconds.
    pub took_secs: f64,
    /// Why the bad configuration was refused.
    pub refusals: Vec<String>,
    /// The visitors that these reasons name.
    pub named: Vec<String>,
    /// What the good one saw: lines, and the processor's time for each.
    pub lines: Option<u64>,
    /// Nanoseconds.
    pub ns_per_line: Option<u64>,
    /// The requests of the visitors, from the first canary to the end.
    pub visitors: Option<Answers>,
    /// What was to be shown.
    pub checks: Vec<Check>,
}

impl Report {
    fn check(&mut self, narrator: &mut Narrator, what: &'static str, found: String, ok: bool) {
        match ok {
            true => narrator.step(format_args!("holds: {what}: {found}")),
            false => narrator.failed(format_args!("FAILS: {what}: {found}")),
        }
        self.checks.push(Check { what, found, ok });
    }
}

/// Runs the whole story on machines of its own, which are gone afterwards.
pub fn run(narrator: &mut Narrator) -> Report {
    let started = Instant::now();
    let mut report = Report::default();
    let told = run_steps(narrator, &mut report);
    report.failed = narrator.ended(told);
    report.ok = report.failed.is_none() && report.checks.iter().all(|check| check.ok);
    report.took_secs = started.elapsed().as_secs_f64();
    report
}

fn run_steps(narrator: &mut Narrator, report: &mut Report) -> Result<()> {
    narrator.heading("The machines (network namespaces, deleted at the end)");
    let world = World::create().context("could not create the machines")?;
    let visitors: Vec<IpAddr> = world.visitors().iter().map(|(_, address)| *address).collect();
    let past = history::lines(&visitors, 1.0 / VISITOR_PAUSE.as_secs_f64(), unix_secs());
    let lines = past.lines().count() as u64;
    fs::write(world.access_log(), past).context("could not write the server's history")?;
    let more = format!("[xdp]\npin_dir = {:?}\n\n[page]\nenabled = false\n", world.home.pins());
    world.home.configure(world.access_log(), "catch_up = \"40m\"\n", &more)?;
    let agent = Agent::start(&world.server, &world.home, &[]).context("could not start the agent")?;
    let before: Status =
        wait::until("the agent to read the history and to set both enforcers up", PATIENCE, || {
            let status = status(&world)?;
            let works = |name| {
                status.parts.iter().any(|part| part.part == name && part.state == PartStateName::Active)
            };
            let is_ready = status.totals.requests >= lines && works("xdp") && works("iptables");
            Ok(is_ready.then_some(status))
        })?;
    narrator.step(format_args!(
        "server, {} visitors and an attacker; {lines} lines of history read",
        visitors.len()
    ));

    narrator.heading("Load");
    let visits = world.start_visits();
    let attack = world.start_attack(FLOOD);
    let attacker = world.attacker_address();
    wait_for_both(&world.server, &world.home.pins(), attacker, Wanted::Dropped, PATIENCE).with_context(
        || format!("could not see the attacker banned; the agent's log:\n{}", world.home.log()),
    )?;
    let banned_at = Instant::now();
    let held = bans(&world)?;
    ensure!(held.len() == 1, "{} clients are banned and not the attacker alone", held.len());
    narrator.step("the attacker is banned, and goes on; the visitors are served");
    let since = Instant::now();

    narrator.heading("A configuration that would ban the visitors");
    let bad = candidate(&world, "bad.toml", BAD)?;
    world.home.command(&world.server, &["canary", "start", "--config", &bad])?;
    canary_until(&world, "the canary to find every visitor", |found| {
        found["figures"]["only_canary"].as_u64() >= Some(visitors.len() as u64)
    })?;
    let refused = promote(&world)?;
    report.refusals = texts(&refused["refusals"]);
    let names = |visitor: &&IpAddr| {
        let name = visitor.to_string();
        // An IPv6 visitor is a network of /64.
        let begin = name.split("::").next().unwrap_or(&name).to_owned();
        report.refusals.iter().any(|reason| reason.contains(&begin))
    };
    report.named = visitors.iter().filter(names).map(ToString::to_string).collect();
    let (named, all) = (report.named.len(), visitors.len());
    report.check(
        narrator,
        "the shipped rules refuse it and name the visitors",
        format!("{named} of {all} named"),
        named == all,
    );
    for reason in &report.refusals {
        narrator.note(reason);
    }
    let unchanged = same(&held, &bans(&world)?);
    report.check(narrator, "a canary bans nobody", format!("{} ban as before", held.len()), unchanged);
    world.home.command(&world.server, &["canary", "abort"])?;

    narrator.heading("A good one");
    let good = candidate(&world, "good.toml", GOOD)?;
    world.home.command(&world.server, &["canary", "start", "--config", &good])?;
    let seen = canary_until(&world, "the canary to see the load", |found| {
        found["figures"]["observed_secs"].as_u64() >= Some(OBSERVED_SECS)
    })?;
    report.lines = seen["figures"]["lines"].as_u64();
    report.ns_per_line = seen["ns_per_line"].as_u64();
    let promoted = promote(&world)?;
    let in_force = fs::read_to_string(world.home.config())?.ends_with(GOOD);
    report.check(
        narrator,
        "it goes live",
        format!("{}", promoted["outcome"]),
        in_force && promoted["outcome"] == "changed",
    );
    wait::sleep(AFTERWARDS)?;

    let unchanged = same(&held, &bans(&world)?);
    let kernel = wait_for_both(&world.server, &world.home.pins(), attacker, Wanted::Dropped, PATIENCE);
    let answered = answered_since(&attack, banned_at);
    report.check(
        narrator,
        "no ban is lost",
        format!("{} ban as before, {answered} answers to the attacker since", held.len()),
        unchanged && kernel.is_ok() && answered == 0,
    );
    let after = status(&world)?;
    let kept = after.baseline.samples >= before.baseline.samples
        && (after.detector.warm_up.is_none() || before.detector.warm_up.is_some());
    let learned = format!("{} samples, {} before", after.baseline.samples, before.baseline.samples);
    report.check(narrator, "what was learned is kept", learned, kept);
    let served = Answers::of(
        &visits
            .iter()
            .flat_map(|(_, visit)| visit.samples())
            .filter(|sample| sample.at >= since)
            .collect::<Vec<_>>(),
    );
    report.check(narrator, "the visitors are served all the time", served.summary(), served.lost == 0);
    report.visitors = Some(served);

    drop((attack, visits));
    agent.stop()?;
    world.home.command(&world.server, &["cleanup"]).context("could not clean up")?;
    Ok(())
}

/// The configuration in force with another end.
fn candidate(world: &World, name: &str, more: &str) -> Result<String> {
    let path = world.home.folder().join(name);
    fs::write(&path, fs::read_to_string(world.home.config())? + more)?;
    Ok(path.display().to_string())
}

fn canary_until(world: &World, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let found = wait::until(what, PATIENCE, || {
        last = world.home.json(&world.server, &["canary", "status"])?;
        Ok(is(&last).then(|| last.clone()))
    });
    found.with_context(|| format!("could not see it in the last report {last}"))
}

/// What the command says, whatever its exit code.
fn promote(world: &World) -> Result<Value> {
    let output =
        world.home.command_output(&world.server, &["canary", "promote", "--after", "1s", "--json"])?;
    let said = [&output.stdout[..], &output.stderr].concat();
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("could not read the answer {:?}", String::from_utf8_lossy(&said)))
}

fn texts(list: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    list.as_array().map(|list| list.iter().filter_map(text).collect()).unwrap_or_default()
}

fn same(before: &[Ban], after: &[Ban]) -> bool {
    let facts =
        |bans: &[Ban]| bans.iter().map(|ban| (ban.client, ban.since_ms, ban.offence)).collect::<Vec<_>>();
    facts(before) == facts(after)
}

fn answered_since(attack: &Requester, at: Instant) -> usize {
    let samples = attack.samples();
    samples.iter().filter(|s| s.at > at && matches!(s.outcome, Outcome::Answered(..))).count()
}

fn bans(world: &World) -> Result<Vec<Ban>> {
    let page: BanPage = serde_json::from_value(world.home.json(&world.server, &["bans"])?)?;
    Ok(page.bans)
}

fn status(world: &World) -> Result<Status> {
    serde_json::from_value(world.home.json(&world.server, &["status"])?).context("could not read the status")
}

fn unix_secs() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
