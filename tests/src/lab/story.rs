//! The lab's steps. Each step either succeeds and is printed with its time, or ends the story with an error that names it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use shield_agent::test_support::api::types::{Ban, BanPage, PartStateName, Status};

use crate::agent::Agent;
use crate::lab::history;
use crate::lab::kernel::{SeenAt, Wanted, iptables_rule, wait_for_both};
use crate::lab::log::LogWatch;
use crate::lab::narrator::Narrator;
use crate::lab::recording::Recording;
use crate::lab::report::{Answers, BanReport, Expiry, Report};
use crate::lab::world::{Attack, SERVER_INTERFACE, VISITOR_PAUSE, World};
use crate::traffic::{Outcome, Requester, Sample};
use crate::{relay, residue, wait};

/// The ban durations of the first and the second offence, in seconds. Beside paths these are the only settings that differ
/// from an operator's: the defaults of 10 and 30 minutes are too long to watch.
const TERMS_SECS: [u64; 2] = [8, 16];
/// Those of a recording, in which nobody waits for an end: the defaults.
const RECORDED_TERMS_SECS: [u64; 2] = [600, 1800];
/// Measured ordinary traffic before the attack.
const CALM_PERIOD: Duration = Duration::from_secs(6);
/// A busy machine may lose a request by itself, so ordinary traffic is measured anew a few times before the story fails.
const CALM_TRIES: u32 = 3;
/// Time limit for every visitor's first answer. The first packets between new machines find no neighbour entries, and a
/// lost SYN costs a second.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// Duration of the attack after the ban. It stops well before the ban ends, because a flood that goes on extends the ban,
/// which the lab does not show.
const ATTACK_DURING_BAN: Duration = Duration::from_secs(3);
const SET_UP_TIMEOUT: Duration = Duration::from_secs(20);
const DETECTION_TIMEOUT: Duration = Duration::from_secs(20);
/// Time limit for the lift after a ban's end.
const LIFT_TIMEOUT: Duration = Duration::from_secs(5);
/// A flood of 200 requests per second.
const FLOOD: Attack = Attack {
    paths: &["/search?q=a", "/search?q=b", "/search?q=c"],
    threads: 8,
    pause: Duration::from_millis(40),
    timeout: Duration::from_secs(1),
};
/// The page's address inside the server's namespace.
const PAGE: &str = "127.0.0.1:8080";

/// The ending of the story.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Cleans up and checks that nothing is left.
    CleanUp,
    /// Keeps everything running until an interruption, then cleans up.
    Keep,
}

/// Runs the story and returns the measurements, up to the failed step if there is one.
pub fn run(narrator: &mut Narrator, ending: Ending) -> Report {
    let started = Instant::now();
    let mut report = Report::default();
    let told = run_steps(narrator, ending, &mut report);
    report.failed = narrator.ended(told);
    report.ok = report.failed.is_none();
    report.took_secs = started.elapsed().as_secs_f64();
    report
}

fn run_steps(narrator: &mut Narrator, ending: Ending, report: &mut Report) -> Result<()> {
    let before = residue::network_state().context("could not list this machine's own network")?;
    let world = World::create().context("could not create the machines")?;
    let mut scene = Scene::open(narrator, report, world, TERMS_SECS)?;
    scene.calm_traffic()?;
    let attack_at = Instant::now();
    let first = scene.attack_until_banned(1)?;
    scene.check_dropped_requests(&first)?;
    scene.wait_for_expiry(&first, attack_at)?;
    let second = scene.attack_until_banned(2)?;
    drop(second.attack);
    if ending == Ending::Keep {
        scene.wait_for_interrupt();
    }
    scene.take_down()?;
    check_residue(narrator, report, &before)
}

/// Runs the beginning of the story once more, with a terminal on the server, and writes what that shows to `path`.
pub fn record(narrator: &mut Narrator, path: &Path) -> Report {
    let started = Instant::now();
    let mut report = Report::default();
    let told = record_steps(narrator, &mut report, path);
    report.failed = narrator.ended(told);
    report.ok = report.failed.is_none();
    report.took_secs = started.elapsed().as_secs_f64();
    report
}

fn record_steps(narrator: &mut Narrator, report: &mut Report, path: &Path) -> Result<()> {
    let before = residue::network_state().context("could not list this machine's own network")?;
    let world = World::create().context("could not create the machines")?;
    let mut scene = Scene::open(narrator, report, world, RECORDED_TERMS_SECS)?;
    scene.calm_traffic()?;
    let mallory = scene.world.attacker_address();
    let mut recording = Recording::default();
    recording.comment("A server with nginx. Five visitors are on the site.");
    recording.run(&scene.world, "shield-agent status")?;
    let attacked = scene.attack_until_banned(1)?;
    recording.comment(&format!("{mallory} begins to send 200 requests per second."));
    recording.run(&scene.world, "shield-agent events -n 1 --kind banned")?;
    recording.run(&scene.world, "iptables -S SHIELD")?;
    scene.check_dropped_requests(&attacked)?;
    recording.run(&scene.world, "shield-agent bans")?;
    recording.run(&scene.world, &format!("shield-agent explain {mallory}"))?;
    recording.comment("The visitors are served as before.");
    recording.run(&scene.world, "shield-agent status | head -n 1")?;
    drop(attacked);
    recording.comment("A mistake is undone with one command.");
    recording.run(&scene.world, &format!("shield-agent unban {mallory}"))?;
    std::fs::write(path, recording.svg()).with_context(|| format!("could not write {}", path.display()))?;
    scene.narrator.step(format_args!("recorded in {}", path.display()));
    scene.take_down()?;
    check_residue(narrator, report, &before)
}

/// The machines with everything that runs on them, and the narrator.
struct Scene<'a> {
    narrator: &'a mut Narrator,
    report: &'a mut Report,
    agent: Agent,
    visits: Vec<(&'static str, Requester)>,
    page: SocketAddr,
    world: World,
    clocks: Clocks,
    /// The attacker's lines.
    log: LogWatch,
    /// Their number at the end of the attacker's last ban.
    lines_at_last_end: usize,
    terms_secs: [u64; 2],
}

/// A running attack and the ban that it triggered.
struct BannedAttack {
    attack: Requester,
    ban: Ban,
    in_kernel: SeenAt,
}

impl<'a> Scene<'a> {
    fn open(
        narrator: &'a mut Narrator,
        report: &'a mut Report,
        world: World,
        terms_secs: [u64; 2],
    ) -> Result<Self> {
        introduce(narrator, &world);
        let clients: Vec<_> = world.visitors().iter().map(|(_, address)| *address).collect();
        let per_sec = 1.0 / VISITOR_PAUSE.as_secs_f64();
        let past = history::lines(&clients, per_sec, unix_secs(SystemTime::now()));
        report.history_lines = past.lines().count();
        std::fs::write(world.access_log(), past).context("could not write the server's history")?;
        let config = format!(
            "[ban]\nterms = [\"{}s\", \"{}s\"]\n\n[xdp]\npin_dir = {:?}\n\n[page]\nlisten = \"{PAGE}\"\n",
            terms_secs[0],
            terms_secs[1],
            world.home.pins(),
        );
        world.home.configure(world.access_log(), "catch_up = \"40m\"\n", &config)?;
        let agent = Agent::start(&world.server, &world.home, &[]).context("could not start the agent")?;
        let page = relay::to_namespace(&world.server, PAGE.parse().expect("an address"))?;
        let log = LogWatch::start(world.access_log(), world.attacker_address())?;
        let clocks = Clocks::read();
        let visits = Vec::new();
        let mut scene = Self {
            narrator,
            report,
            agent,
            visits,
            page,
            world,
            clocks,
            log,
            lines_at_last_end: 0,
            terms_secs,
        };
        scene.wait_for_agent().context("could not get the agent ready")?;
        Ok(scene)
    }

    fn wait_for_agent(&mut self) -> Result<()> {
        let lines = self.report.history_lines as u64;
        let status = wait::until("the agent to read the history", DETECTION_TIMEOUT, || {
            let status = self.status()?;
            Ok((status.totals.requests >= lines).then_some(status))
        })?;
        self.narrator.step(format_args!(
            "The agent has read {lines} lines of the last {} minutes: baseline {:.1} requests/s",
            history::SECS / 60,
            status.baseline.mean
        ));
        for part in ["xdp", "iptables"] {
            let text = self.wait_for_part(part)?;
            self.narrator.step(format_args!("{part}: {text}"));
            match part {
                "xdp" => self.report.xdp = Some(text),
                _ => self.report.iptables = Some(text),
            }
        }
        self.narrator.note(format_args!("page: http://{}/", self.page));
        Ok(())
    }

    /// Waits until this enforcer is active, and returns its description.
    fn wait_for_part(&self, part: &str) -> Result<String> {
        let found = wait::until(&format!("{part} to be set up"), SET_UP_TIMEOUT, || {
            let found = self.status()?.parts.into_iter().find(|found| found.part == part);
            Ok(found.filter(|found| found.state != PartStateName::Waiting))
        })?;
        ensure!(found.state == PartStateName::Active, "{part} is {}: {}", found.state.name(), found.text);
        Ok(found.text)
    }

    fn calm_traffic(&mut self) -> Result<()> {
        self.narrator.heading("Ordinary traffic");
        self.visits = self.world.start_visits();
        wait::until("every visitor's first answer", FIRST_ANSWER_TIMEOUT, || {
            Ok(self.visits.iter().all(|(_, visit)| is_served(&visit.samples())).then_some(()))
        })?;
        let mut tries = 1;
        let before = loop {
            let settled = Instant::now();
            wait::sleep(CALM_PERIOD)?;
            let before = Answers::of(&self.samples(|sample| sample.at >= settled));
            self.narrator.step(format_args!("{} visitors: {}", self.visits.len(), before.summary()));
            if before.lost == 0 {
                break before;
            }
            self.note_losses(settled);
            ensure!(tries < CALM_TRIES, "{} requests were lost in ordinary traffic", before.lost);
            tries += 1;
        };
        let bans = self.bans()?;
        ensure!(bans.is_empty(), "{:?} was banned in ordinary traffic", bans[0].client);
        self.report.bystanders_before = Some(before);
        Ok(())
    }

    /// Says who lost which request when.
    fn note_losses(&mut self, since: Instant) {
        for (name, visit) in &self.visits {
            for sample in visit.samples().iter().filter(|sample| sample.at >= since) {
                if !matches!(sample.outcome, Outcome::Answered(..)) {
                    let after = (sample.at - since).as_secs_f64();
                    self.narrator.note(format_args!("{name}: {:?} after {after:.2} s", sample.outcome));
                }
            }
        }
    }

    fn attack_until_banned(&mut self, offence: u32) -> Result<BannedAttack> {
        let attacker = self.world.attacker_address();
        self.narrator.heading(if offence == 1 { "The attack" } else { "The second attack" });
        let lines_before = self.log.count();
        let attack = self.world.start_attack(FLOOD);
        let rate = FLOOD.threads as f64 / FLOOD.pause.as_secs_f64();
        self.narrator.step(format_args!("mallory ({attacker}) sends {rate:.0} requests/s"));
        let (server, pins) = (&self.world.server, self.world.home.pins());
        let in_kernel = wait_for_both(server, &pins, attacker, Wanted::Dropped, DETECTION_TIMEOUT)
            .with_context(|| {
                format!(
                    "could not find ban {offence} in both enforcers; the agent's log:\n{}",
                    self.world.home.log()
                )
            })?;
        let ban = self.only_ban()?;
        ensure!(ban.offence == offence, "the agent counted offence {}, not {offence}", ban.offence);
        let ban_report = self.measure(&ban, in_kernel, lines_before)?;
        self.narrate_ban(&ban, &ban_report)?;
        match offence {
            1 => self.report.first_ban = Some(ban_report),
            _ => self.report.second_ban = Some(ban_report),
        }
        Ok(BannedAttack { attack, ban, in_kernel })
    }

    fn measure(&self, ban: &Ban, in_kernel: SeenAt, lines_before: usize) -> Result<BanReport> {
        let evidence = ban.evidence.as_deref().context("could not find the ban's evidence")?;
        // A ban clears the client's window, so the evidence counts the attacker's lines since the last ban ended.
        let offending_line = self.lines_at_last_end + evidence.requests as usize;
        let first =
            self.log.nth(lines_before + 1).context("could not find the attack's first line in the log")?.at;
        let offending =
            self.log.nth(offending_line).context("could not find the offending line in the log")?;
        let written = offending.at;
        let after = |moment: Instant| signed_secs(moment, written);
        let expected = self.terms_secs[(ban.offence as usize - 1).min(self.terms_secs.len() - 1)] as f64;
        let ends_ms = ban.ends_ms.context("could not find the ban's end")?;
        let term_secs = ends_ms.saturating_sub(ban.since_ms) as f64 / 1e3;
        ensure!((term_secs - expected).abs() < 1.0, "the ban lasts {term_secs} s, not {expected} s");
        Ok(BanReport {
            offending_line: offending_line - lines_before,
            line: offending.text,
            detected_after_secs: signed_secs(written, first),
            verdict_secs: after(self.clocks.instant_of(ban.since_ms)),
            iptables_secs: after(in_kernel.iptables),
            xdp_secs: after(in_kernel.xdp),
            ban_secs: after(in_kernel.iptables.max(in_kernel.xdp)),
            rule: evidence.rule.name().to_owned(),
            condition: evidence.condition.clone(),
            offence: ban.offence,
            term_secs,
        })
    }

    fn narrate_ban(&mut self, ban: &Ban, measured: &BanReport) -> Result<()> {
        let attacker = self.world.attacker_address();
        let rule = iptables_rule(&self.world.server, attacker)?.context("could not find the rule again")?;
        let narrator = &mut *self.narrator;
        narrator.step(format_args!(
            "after {:.2} s the log has line {} of the attack, which triggers the ban",
            measured.detected_after_secs, measured.offending_line
        ));
        narrator.note(&measured.line);
        let after = |secs: f64| Duration::from_secs_f64(secs.max(0.0));
        narrator.step_after(
            after(measured.verdict_secs),
            format_args!(
                "verdict: {} ({}), offence {}, {:.0} s",
                ban.rule, measured.condition, ban.offence, measured.term_secs
            ),
        );
        narrator.step_after(
            after(measured.xdp_secs),
            format_args!("XDP map BANS_V4 on {SERVER_INTERFACE} has {attacker}"),
        );
        narrator.step_after(after(measured.iptables_secs), format_args!("iptables -S SHIELD has {rule}"));
        Ok(())
    }

    fn check_dropped_requests(&mut self, attacked: &BannedAttack) -> Result<()> {
        wait::sleep(ATTACK_DURING_BAN)?;
        let banned_at = attacked.in_kernel.iptables.max(attacked.in_kernel.xdp);
        let samples = attacked.attack.samples();
        let during: Vec<Sample> = samples.into_iter().filter(|sample| sample.at > banned_at).collect();
        let answered = during.iter().filter(|sample| sample.outcome != Outcome::TimedOut).count();
        ensure!(!during.is_empty(), "the attacker sent no request during its ban");
        ensure!(answered == 0, "{answered} of {} requests during the ban did not time out", during.len());
        self.narrator.step(format_args!(
            "mallory's next {} requests all timed out{}",
            during.len(),
            self.dropped_summary()?
        ));
        self.report.attacker_during_ban = Some(Answers::of(&during));
        Ok(())
    }

    fn dropped_summary(&self) -> Result<String> {
        let dropped = self.only_ban()?.dropped;
        Ok(dropped
            .map(|dropped| format!("; {} of its packets were dropped", dropped.packets))
            .unwrap_or_default())
    }

    fn wait_for_expiry(&mut self, attacked: &BannedAttack, attack_at: Instant) -> Result<()> {
        self.narrator.heading("The ban ends");
        let attacker = self.world.attacker_address();
        let end = self.clocks.instant_of(attacked.ban.ends_ms.context("could not find the ban's end")?);
        let patience = end.saturating_duration_since(Instant::now()) + LIFT_TIMEOUT;
        let gone =
            wait_for_both(&self.world.server, &self.world.home.pins(), attacker, Wanted::Lifted, patience)
                .context("could not see the ban end in both enforcers")?;
        self.lines_at_last_end = self.log.count();
        let served = wait::until("an answer for the attacker", LIFT_TIMEOUT, || {
            Ok(self.world.attacker_request(Duration::from_millis(300)).ok().map(|_| Instant::now()))
        })
        .context("could not reach the server as the attacker after the ban")?;
        let after = |moment| signed_secs(moment, end);
        let expiry = Expiry {
            iptables_secs: after(gone.iptables),
            xdp_secs: after(gone.xdp),
            served_again_secs: after(served),
        };
        self.narrator.step(format_args!(
            "gone from XDP {:+.2} s and from iptables {:+.2} s after its announced end; mallory is served again",
            expiry.xdp_secs, expiry.iptables_secs
        ));
        self.report.expiry = Some(expiry);
        self.check_bystanders(attack_at)
    }

    fn check_bystanders(&mut self, attack_at: Instant) -> Result<()> {
        let during = Answers::of(&self.samples(|sample| sample.at >= attack_at));
        self.narrator.step(format_args!("all visitors since the attack began: {}", during.summary()));
        self.note_losses(attack_at);
        ensure!(during.lost == 0, "{} requests of the visitors were lost during attack and ban", during.lost);
        self.report.bystanders_during = Some(during);
        Ok(())
    }

    fn wait_for_interrupt(&mut self) {
        self.narrator.heading("Kept running (--keep)");
        self.narrator.note(format_args!("page:    http://{}/", self.page));
        self.narrator.note(format_args!("server:  ip netns exec {} bash", self.world.server.name()));
        self.narrator.note(format_args!("socket:  {}", self.world.home.socket().display()));
        self.narrator.note("Ctrl-C ends and deletes everything");
        let forever = Duration::from_secs(u64::from(u32::MAX));
        let _ = wait::sleep(forever);
        wait::resume();
    }

    fn take_down(mut self) -> Result<()> {
        self.narrator.heading("Clean-up");
        self.visits.clear();
        self.agent.stop().with_context(|| {
            format!("could not stop the agent with SIGTERM; its log:\n{}", self.world.home.log())
        })?;
        self.world.home.command(&self.world.server, &["cleanup"]).context("could not clean up")?;
        let left = residue::of_shield(&self.world.server, &self.world.home.pins())?;
        ensure!(left.is_empty(), "`shield-agent cleanup` left something behind: {}", left.join("; "));
        self.narrator.step("`shield-agent cleanup`: no chain, no rule, no set, no program, no pin is left");
        Ok(())
    }

    fn samples(&self, wanted: impl Fn(&Sample) -> bool) -> Vec<Sample> {
        self.visits.iter().flat_map(|(_, visit)| visit.samples()).filter(|sample| wanted(sample)).collect()
    }

    fn only_ban(&self) -> Result<Ban> {
        let mut bans = self.bans()?;
        let attacker = self.world.attacker_address().to_string();
        let Some(ban) = bans.pop() else { bail!("the agent lists no ban") };
        ensure!(bans.is_empty(), "a second client is banned: {:?}", bans[0].client);
        ensure!(ban.client.to_string() == attacker, "{} is banned instead of the attacker", ban.client);
        Ok(ban)
    }

    fn bans(&self) -> Result<Vec<Ban>> {
        let page = self.world.home.json(&self.world.server, &["bans"])?;
        let page: BanPage = serde_json::from_value(page).context("could not parse the list of bans")?;
        Ok(page.bans)
    }

    fn status(&self) -> Result<Status> {
        let status = self.world.home.json(&self.world.server, &["status"])?;
        serde_json::from_value(status).context("could not parse the agent's status")
    }
}

fn is_served(samples: &[Sample]) -> bool {
    samples.iter().any(|sample| matches!(sample.outcome, Outcome::Answered(..)))
}

fn introduce(narrator: &mut Narrator, world: &World) {
    narrator.heading("The machines (network namespaces, deleted at the end)");
    narrator.step("server   192.0.2.80 and 2001:db8:80::80, with nginx and shield-agent");
    let visitors: Vec<String> =
        world.visitors().iter().map(|(name, address)| format!("{name} {address}")).collect();
    narrator.step(format_args!("visitors {}", visitors.join(", ")));
    narrator.step(format_args!("attacker mallory {}", world.attacker_address()));
}

fn check_residue(narrator: &mut Narrator, report: &mut Report, before: &[String]) -> Result<()> {
    report.residue = residue::of_process(std::process::id())?;
    let after = residue::network_state()?;
    report.residue.extend(after.iter().filter(|fact| !before.contains(fact)).cloned());
    report
        .residue
        .extend(before.iter().filter(|fact| !after.contains(fact)).map(|fact| format!("gone: {fact}")));
    ensure!(report.residue.is_empty(), "this machine is not as it was: {}", report.residue.join("; "));
    narrator.step("no namespace is left, and this machine's own firewall and interfaces are as they were");
    Ok(())
}

/// A simultaneous reading of both clocks: the agent reports wall-clock times, while the lab measures with the monotonic
/// clock.
#[derive(Debug, Clone, Copy)]
struct Clocks {
    wall: SystemTime,
    monotonic: Instant,
}

impl Clocks {
    fn read() -> Self {
        Self { wall: SystemTime::now(), monotonic: Instant::now() }
    }

    fn instant_of(self, wall_ms: i64) -> Instant {
        let moment = UNIX_EPOCH + Duration::from_millis(wall_ms.try_into().unwrap_or(0));
        match moment.duration_since(self.wall) {
            Ok(later) => self.monotonic + later,
            Err(earlier) => self.monotonic - earlier.duration(),
        }
    }
}

fn signed_secs(moment: Instant, reference: Instant) -> f64 {
    let later = moment.saturating_duration_since(reference).as_secs_f64();
    let earlier = reference.saturating_duration_since(moment).as_secs_f64();
    later - earlier
}

fn unix_secs(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}
