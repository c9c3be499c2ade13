//! What happens in the lab, step by step. Each step either happens, and is told with its time, or ends the story with an
//! error that names it.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use shield_agent::test_support::api::types::{Ban, BanPage, PartStateName, Status};

use crate::agent::Agent;
use crate::lab::history;
use crate::lab::kernel::{BothAt, Wanted, iptables_rule, wait_for_both};
use crate::lab::log::LogWatch;
use crate::lab::narrator::Narrator;
use crate::lab::report::{Answers, BanReport, Expiry, Report};
use crate::lab::world::{Attack, SERVER_INTERFACE, VISITOR_PAUSE, World};
use crate::traffic::{Outcome, Requester, Sample};
use crate::{relay, residue, wait};

/// The terms of the first and the second offence, in seconds. The only settings of the lab, beside paths, that an
/// operator would not have: 10 and 30 minutes are too long to watch.
const TERMS_SECS: [u64; 2] = [8, 16];
/// The very first packets between machines that have just been made find no neighbour entries yet, and a lost SYN costs a
/// second: that is not the latency that the attack's is compared with.
const FIRST_VISITS: Duration = Duration::from_millis(1_500);
/// Ordinary traffic before the attack, as measured.
const CALM: Duration = Duration::from_secs(6);
/// How long the attacker goes on into the ban. It gives up well before the end: a flood that still comes at its end
/// extends a ban, which is another story.
const ATTACK_GOES_ON: Duration = Duration::from_secs(3);
/// How long an enforcer may take to be set up.
const TIME_TO_SET_UP: Duration = Duration::from_secs(20);
/// How long the detector may take to be sure of a flood.
const TIME_TO_DETECT: Duration = Duration::from_secs(20);
/// How long after its end a ban may still be in a kernel.
const TIME_TO_FORGET: Duration = Duration::from_secs(5);
/// A flood of 200 requests a second.
const FLOOD: Attack = Attack {
    paths: &["/search?q=a", "/search?q=b", "/search?q=c"],
    threads: 8,
    pause: Duration::from_millis(40),
    timeout: Duration::from_secs(1),
};
/// Where the page listens inside the server.
const PAGE: &str = "127.0.0.1:8080";

/// How the story ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Everything is taken down, and the proof is given that nothing is left.
    CleanUp,
    /// Everything stays until somebody interrupts; then as above.
    Keep,
}

/// Tells the story. What was measured comes back whether or not every step happened.
pub fn tell(narrator: &mut Narrator, ending: Ending) -> Report {
    let started = Instant::now();
    let mut report = Report::default();
    match tell_all(narrator, ending, &mut report) {
        Ok(()) => report.ok = true,
        Err(error) => {
            narrator.failed(format_args!("{error:#}"));
            report.failed = Some(format!("{error:#}"));
        }
    }
    report.took_secs = started.elapsed().as_secs_f64();
    report
}

fn tell_all(narrator: &mut Narrator, ending: Ending, report: &mut Report) -> Result<()> {
    let before = residue::network_state().context("step \"look at this machine's own network\"")?;
    let world = World::create().context("step \"make the machines\"")?;
    let mut scene = Scene::open(narrator, report, world)?;
    scene.calm_traffic()?;
    let attack_at = Instant::now();
    let first = scene.attack_until_banned(1)?;
    scene.attack_goes_on_in_vain(&first)?;
    scene.ban_ends(&first, attack_at)?;
    let second = scene.attack_until_banned(2)?;
    drop(second.attack);
    if ending == Ending::Keep {
        scene.stay();
    }
    scene.take_down()?;
    prove_nothing_is_left(narrator, report, &before)
}

/// The machines with everything running on them, and the one who tells about it.
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
    /// How many there were when its last ban ended.
    lines_at_last_end: usize,
}

/// One ban and the attack it answers.
struct Attacked {
    attack: Requester,
    ban: Ban,
    in_kernel: BothAt,
}

impl<'a> Scene<'a> {
    fn open(narrator: &'a mut Narrator, report: &'a mut Report, world: World) -> Result<Self> {
        introduce(narrator, &world);
        let clients: Vec<_> = world.visitors().iter().map(|(_, address)| *address).collect();
        let per_sec = 1.0 / VISITOR_PAUSE.as_secs_f64();
        let past = history::lines(&clients, per_sec, unix_secs(SystemTime::now()));
        report.history_lines = past.lines().count();
        std::fs::write(world.access_log(), past).context("wrote the server's past log")?;
        let config = format!(
            "[ban]\nterms = [\"{}s\", \"{}s\"]\n\n[xdp]\npin_dir = {:?}\n\n[page]\nlisten = \"{PAGE}\"\n",
            TERMS_SECS[0],
            TERMS_SECS[1],
            world.home.pins(),
        );
        world.home.configure(world.access_log(), "catch_up = \"40m\"\n", &config)?;
        let agent = Agent::start(&world.server, &world.home, &[]).context("step \"the agent starts\"")?;
        let page = relay::to_namespace(&world.server, PAGE.parse().expect("an address"))?;
        let log = LogWatch::start(world.access_log(), world.attacker_address())?;
        let clocks = Clocks::read();
        let visits = Vec::new();
        let mut scene =
            Self { narrator, report, agent, visits, page, world, clocks, log, lines_at_last_end: 0 };
        scene.agent_is_ready().context("step \"the agent learns and is ready\"")?;
        Ok(scene)
    }

    fn agent_is_ready(&mut self) -> Result<()> {
        let lines = self.report.history_lines as u64;
        let status = wait::until("the past log to be read", TIME_TO_DETECT, || {
            let status = self.status()?;
            Ok((status.totals.requests >= lines).then_some(status))
        })?;
        self.narrator.happened(format_args!(
            "The agent has learned from {lines} lines of the last {} minutes: {:.1} requests/s, as a rule",
            history::SECS / 60,
            status.baseline.mean
        ));
        for part in ["xdp", "iptables"] {
            let text = self.part_is_active(part)?;
            self.narrator.happened(format_args!("{part}: {text}"));
            match part {
                "xdp" => self.report.xdp = Some(text),
                _ => self.report.iptables = Some(text),
            }
        }
        self.narrator.note(format_args!("page: http://{}/", self.page));
        Ok(())
    }

    /// Waits until this part works as configured, and returns how.
    fn part_is_active(&self, part: &str) -> Result<String> {
        let found = wait::until(&format!("{part} to be set up"), TIME_TO_SET_UP, || {
            let found = self.status()?.parts.into_iter().find(|found| found.part == part);
            Ok(found.filter(|found| found.state != PartStateName::Waiting))
        })?;
        ensure!(found.state == PartStateName::Active, "{part} is {}: {}", found.state.name(), found.text);
        Ok(found.text)
    }

    fn calm_traffic(&mut self) -> Result<()> {
        self.narrator.chapter("Ordinary traffic");
        self.visits = self.world.start_visits();
        wait::pass(FIRST_VISITS)?;
        let settled = Instant::now();
        wait::pass(CALM)?;
        let before = Answers::of(&self.samples(|sample| sample.at >= settled));
        self.narrator.happened(format_args!("{} visitors: {}", self.visits.len(), before.in_words()));
        ensure!(before.lost == 0, "step \"ordinary traffic is served\": {} requests were lost", before.lost);
        let bans = self.bans()?;
        ensure!(bans.is_empty(), "step \"ordinary traffic bans nobody\": {:?} is banned", bans[0].client);
        self.report.bystanders_before = Some(before);
        Ok(())
    }

    fn attack_until_banned(&mut self, offence: u32) -> Result<Attacked> {
        let attacker = self.world.attacker_address();
        self.narrator.chapter(if offence == 1 { "The attack" } else { "The second attack" });
        let lines_before = self.log.count();
        let attack = self.world.start_attack(FLOOD);
        let rate = FLOOD.threads as f64 / FLOOD.pause.as_secs_f64();
        self.narrator.happened(format_args!("mallory ({attacker}) asks {rate:.0} times a second"));
        let (server, pins) = (&self.world.server, self.world.home.pins());
        let in_kernel = wait_for_both(server, &pins, attacker, Wanted::Dropped, TIME_TO_DETECT)
            .with_context(|| {
                format!(
                    "step \"ban {offence} is in both places\"; the agent's log:\n{}",
                    self.world.home.log()
                )
            })?;
        let ban = self.the_one_ban()?;
        ensure!(
            ban.offence == offence,
            "step \"offence {offence} is counted\": it is number {}",
            ban.offence
        );
        let ban_report = self.measure(&ban, in_kernel, lines_before)?;
        self.tell_ban(&ban, &ban_report)?;
        match offence {
            1 => self.report.first_ban = Some(ban_report),
            _ => self.report.second_ban = Some(ban_report),
        }
        Ok(Attacked { attack, ban, in_kernel })
    }

    fn measure(&self, ban: &Ban, in_kernel: BothAt, lines_before: usize) -> Result<BanReport> {
        let evidence = ban.evidence.as_deref().context("the ban carries no evidence")?;
        // A ban clears the client's window: the evidence counts the attacker's lines since the last one ended.
        let offending_line = self.lines_at_last_end + evidence.requests as usize;
        let first = self.log.nth(lines_before + 1).context("the attack left no line in the log")?.at;
        let offending = self.log.nth(offending_line).context("the offending line is not in the log")?;
        let written = offending.at;
        let after = |moment: Instant| signed_secs(moment, written);
        let expected = TERMS_SECS[(ban.offence as usize - 1).min(TERMS_SECS.len() - 1)] as f64;
        let term_secs = ban.ends_ms.context("the ban has no end")?.saturating_sub(ban.since_ms) as f64 / 1e3;
        ensure!((term_secs - expected).abs() < 1.0, "step \"the term is {expected} s\": it is {term_secs} s");
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

    fn tell_ban(&mut self, ban: &Ban, measured: &BanReport) -> Result<()> {
        let attacker = self.world.attacker_address();
        let rule = iptables_rule(&self.world.server, attacker)?.context("the rule is gone again")?;
        let narrator = &mut *self.narrator;
        narrator.happened(format_args!(
            "after {:.2} s its line no. {} is in the log, one too many",
            measured.detected_after_secs, measured.offending_line
        ));
        narrator.note(&measured.line);
        let after = |secs: f64| Duration::from_secs_f64(secs.max(0.0));
        narrator.happened_after(
            after(measured.verdict_secs),
            format_args!(
                "verdict: {} ({}), offence {}, {:.0} s",
                ban.rule, measured.condition, ban.offence, measured.term_secs
            ),
        );
        narrator.happened_after(
            after(measured.xdp_secs),
            format_args!("XDP map BANS_V4 on {SERVER_INTERFACE} has {attacker}"),
        );
        narrator.happened_after(after(measured.iptables_secs), format_args!("iptables -S SHIELD has {rule}"));
        Ok(())
    }

    fn attack_goes_on_in_vain(&mut self, attacked: &Attacked) -> Result<()> {
        wait::pass(ATTACK_GOES_ON)?;
        let banned_at = attacked.in_kernel.iptables.max(attacked.in_kernel.xdp);
        let samples = attacked.attack.samples();
        let during: Vec<Sample> = samples.into_iter().filter(|sample| sample.at > banned_at).collect();
        let answered = during.iter().filter(|sample| sample.outcome != Outcome::TimedOut).count();
        ensure!(!during.is_empty(), "step \"the attacker's requests time out\": it made none");
        ensure!(
            answered == 0,
            "step \"the attacker's requests time out\": {answered} of {} did not",
            during.len()
        );
        self.narrator.happened(format_args!(
            "mallory's next {} requests all timed out{}",
            during.len(),
            self.dropped_in_words()?
        ));
        self.report.attacker_during_ban = Some(Answers::of(&during));
        Ok(())
    }

    fn dropped_in_words(&self) -> Result<String> {
        let dropped = self.the_one_ban()?.dropped;
        Ok(dropped
            .map(|dropped| format!("; {} of its packets were dropped", dropped.packets))
            .unwrap_or_default())
    }

    fn ban_ends(&mut self, attacked: &Attacked, attack_at: Instant) -> Result<()> {
        self.narrator.chapter("The ban ends");
        let attacker = self.world.attacker_address();
        let end = self.clocks.instant_of(attacked.ban.ends_ms.context("the ban has no end")?);
        let patience = end.saturating_duration_since(Instant::now()) + TIME_TO_FORGET;
        let gone =
            wait_for_both(&self.world.server, &self.world.home.pins(), attacker, Wanted::Forgotten, patience)
                .context("step \"the ban ends in both places\"")?;
        self.lines_at_last_end = self.log.count();
        let served = wait::until("an answer for the attacker", TIME_TO_FORGET, || {
            Ok(self.world.attacker_asks(Duration::from_millis(300)).ok().map(|_| Instant::now()))
        })
        .context("step \"the attacker is served again\"")?;
        let after = |moment| signed_secs(moment, end);
        let expiry = Expiry {
            iptables_secs: after(gone.iptables),
            xdp_secs: after(gone.xdp),
            served_again_secs: after(served),
        };
        self.narrator.happened(format_args!(
            "seen gone from XDP {:+.2} s and from iptables {:+.2} s after its end; mallory is served again",
            expiry.xdp_secs, expiry.iptables_secs
        ));
        self.report.expiry = Some(expiry);
        self.bystanders_were_undisturbed(attack_at)
    }

    fn bystanders_were_undisturbed(&mut self, attack_at: Instant) -> Result<()> {
        let during = Answers::of(&self.samples(|sample| sample.at >= attack_at));
        self.narrator.happened(format_args!("everybody else, meanwhile: {}", during.in_words()));
        ensure!(
            during.lost == 0,
            "step \"the others are undisturbed\": {} of their requests were lost",
            during.lost
        );
        self.report.bystanders_during = Some(during);
        Ok(())
    }

    fn stay(&mut self) {
        self.narrator.chapter("Staying, as asked (--keep)");
        self.narrator.note(format_args!("page:    http://{}/", self.page));
        self.narrator.note(format_args!("server:  ip netns exec {} bash", self.world.server.name()));
        self.narrator.note(format_args!("socket:  {}", self.world.home.socket().display()));
        self.narrator.note("Ctrl-C takes everything down");
        let forever = Duration::from_secs(u64::from(u32::MAX));
        let _ = wait::pass(forever);
        wait::resume();
    }

    fn take_down(mut self) -> Result<()> {
        self.narrator.chapter("Taking it down");
        self.visits.clear();
        self.agent.stop().with_context(|| {
            format!("step \"the agent ends on SIGTERM\"; its log:\n{}", self.world.home.log())
        })?;
        self.world.home.command(&self.world.server, &["cleanup"]).context("step \"cleanup\"")?;
        let left = residue::of_shield(&self.world.server, &self.world.home.pins())?;
        ensure!(left.is_empty(), "step \"cleanup leaves nothing in the kernel\": {}", left.join("; "));
        self.narrator
            .happened("`shield-agent cleanup`: no chain, no rule, no set, no program, no pin is left");
        Ok(())
    }

    fn samples(&self, wanted: impl Fn(&Sample) -> bool) -> Vec<Sample> {
        self.visits.iter().flat_map(|(_, visit)| visit.samples()).filter(|sample| wanted(sample)).collect()
    }

    fn the_one_ban(&self) -> Result<Ban> {
        let mut bans = self.bans()?;
        let attacker = self.world.attacker_address().to_string();
        let Some(ban) = bans.pop() else { bail!("the agent lists no ban") };
        ensure!(bans.is_empty(), "step \"only the attacker is banned\": so is {:?}", bans[0].client);
        ensure!(ban.client.to_string() == attacker, "step \"the attacker is banned\": {} is", ban.client);
        Ok(ban)
    }

    fn bans(&self) -> Result<Vec<Ban>> {
        let page = self.world.home.json(&self.world.server, &["bans"])?;
        let page: BanPage = serde_json::from_value(page).context("read the list of bans")?;
        Ok(page.bans)
    }

    fn status(&self) -> Result<Status> {
        let status = self.world.home.json(&self.world.server, &["status"])?;
        serde_json::from_value(status).context("read the agent's status")
    }
}

fn introduce(narrator: &mut Narrator, world: &World) {
    narrator.chapter("The machines (network namespaces, deleted at the end)");
    narrator.happened("server   192.0.2.80 and 2001:db8:80::80, with nginx and shield-agent");
    let visitors: Vec<String> =
        world.visitors().iter().map(|(name, address)| format!("{name} {address}")).collect();
    narrator.happened(format_args!("visitors {}", visitors.join(", ")));
    narrator.happened(format_args!("attacker mallory {}", world.attacker_address()));
}

fn prove_nothing_is_left(narrator: &mut Narrator, report: &mut Report, before: &[String]) -> Result<()> {
    report.residue = residue::of_process(std::process::id())?;
    let after = residue::network_state()?;
    report.residue.extend(after.iter().filter(|fact| !before.contains(fact)).cloned());
    report
        .residue
        .extend(before.iter().filter(|fact| !after.contains(fact)).map(|fact| format!("gone: {fact}")));
    ensure!(report.residue.is_empty(), "step \"nothing is left\": {}", report.residue.join("; "));
    narrator
        .happened("no namespace is left, and this machine's own firewall and interfaces are as they were");
    Ok(())
}

/// Both clocks at one moment, to compare what the agent writes (wall clock) with what is measured here.
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
