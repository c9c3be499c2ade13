//! Firewall reloads and changes by other programs, with 10,000 bans in force: each is found by the cheap check, repaired by
//! the reconcile and described in words, and no rule of others is touched.
//!
//! The cheap check runs every 2 s; check and repair together may take 3 s, so that everything is repaired within 5 s. Those
//! 3 s are processor time of this process and the programs it runs: on an idle machine that is the time that passes, and on
//! a busy one it is all that can be promised. That time is counted for the whole process, so one test runs at a time.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use shield_agent::test_support::clock;
use shield_agent::test_support::enforce::iptables::{Backend, IptablesEnforcer, Settings};
use shield_agent::test_support::enforce::{Ban, Desired, Enforcer};
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::time::Ends;
use shield_tests::command;
use shield_tests::netns::Namespace;

const BANS: usize = 10_000;
/// 5 s less the 2 s between two cheap checks.
const REPAIRED_WITHIN: Duration = Duration::from_secs(3);
const THEIRS: &str = "-A INPUT -s 203.0.113.5/32 -p tcp -m tcp --dport 22 -j ACCEPT";

/// A change of the firewall by another program.
struct Damage {
    /// Command lines; `iptables` stands for the flavour under test.
    commands: &'static [&'static str],
    /// Part of the repair's description.
    found: &'static str,
}

const TO_CHAINS: &[Damage] = &[
    Damage { commands: &["iptables -F"], found: "chain SHIELD had been flushed" },
    Damage { commands: &["iptables -F", "iptables -X"], found: "chain SHIELD was gone" },
    Damage { commands: &["iptables -D INPUT -j SHIELD"], found: "the jump from INPUT was gone" },
    Damage {
        commands: &["iptables -I INPUT 1 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"],
        found: "another rule stood before ours in INPUT: `-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT`",
    },
    Damage { commands: &["iptables -A INPUT -j SHIELD"], found: "the jump from INPUT was there 2 times" },
    Damage {
        commands: &["iptables -I SHIELD 1 -s 10.0.0.0/8 -j ACCEPT"],
        found: "a foreign rule in chain SHIELD: `-s 10.0.0.0/8 -j ACCEPT`",
    },
];

const TO_RULES: &[Damage] = &[
    Damage { commands: &["iptables -D SHIELD -s 10.0.0.1 -j DROP"], found: "1 ban was missing" },
    Damage {
        commands: &["iptables -A SHIELD -s 10.0.0.1 -j DROP"],
        found: "1 entry was unwanted or a duplicate",
    },
    Damage {
        commands: &["iptables -A SHIELD -s 198.51.100.7 -j DROP"],
        found: "1 entry was unwanted or a duplicate",
    },
];

const TO_SETS: &[Damage] = &[
    Damage { commands: &["ipset flush"], found: "10000 bans were missing" },
    Damage { commands: &["ipset del shield4 10.0.0.1"], found: "1 ban was missing" },
    Damage { commands: &["ipset add shield4 198.51.100.7"], found: "1 entry was unwanted or a duplicate" },
    Damage {
        commands: &["iptables -F", "ipset destroy shield4"],
        found: "the set of banned clients was gone",
    },
];

const RULESET: &[Damage] = &[Damage { commands: &["nft flush ruleset"], found: "chain SHIELD was gone" }];

fn bans() -> Vec<Ban> {
    let now = clock::now();
    (0..BANS)
        .map(|n| {
            let client: Client = format!("10.0.{}.{}", n / 250, n % 250).parse().expect("an address");
            let client = Allowlist::default().admit(client, 64).expect("no special address");
            Ban { client, ends: Ends::after(now, 3_600_000) }
        })
        .collect()
}

struct Guarded {
    enforcer: IptablesEnforcer,
    desired: Desired,
    program: String,
}

impl Guarded {
    fn start(backend: Backend, flavour: &str) -> Result<Guarded> {
        let (program_v4, program_v6) = (format!("iptables{flavour}"), format!("ip6tables{flavour}"));
        let program = program_v4.clone();
        command::run(&["ipset", "create", "theirs", "hash:ip"])?;
        let mut enforcer =
            IptablesEnforcer::new(Settings { backend, program_v4, program_v6, ..Settings::default() });
        let bans = bans();
        let mut desired = Desired::default();
        bans.iter().zip(1..).for_each(|(ban, serial)| desired.insert(*ban, serial));
        enforcer.start(&[], clock::now())?;
        let failures = enforcer.ensure_banned(&bans, clock::now());
        ensure!(failures.is_empty(), "{:?}", failures.first());
        ensure!(enforcer.is_intact(BANS)?, "not intact to begin with");
        let guarded = Guarded { enforcer, desired, program };
        guarded.add_theirs()?;
        Ok(guarded)
    }

    fn run(&self, line: &str) -> Result<String> {
        // The lock of iptables-legacy is one for all network namespaces.
        let line = line.replace("iptables", &format!("{} --wait", self.program));
        command::run(&line.split(' ').collect::<Vec<_>>())
    }

    fn add_theirs(&self) -> Result<()> {
        self.run(&format!("iptables {THEIRS}")).map(drop)
    }

    /// Does the damage, and requires that check and reconcile repair it in time.
    fn recovers_from(&mut self, damage: &Damage) -> Result<()> {
        for line in damage.commands {
            self.run(line)?;
        }
        let theirs = self.theirs()?;
        let began = processor_time()?;
        ensure!(!self.enforcer.is_intact(BANS)?, "the check found nothing");
        let repair = self
            .enforcer
            .reconcile(&self.desired, &[], clock::now())?
            .context("the reconcile found nothing")?;
        let took = processor_time()?.saturating_sub(began);
        ensure!(took < REPAIRED_WITHIN, "repaired with {took:?} of processor time");
        ensure!(repair.found.contains(damage.found), "found: {}", repair.found);
        ensure!(self.enforcer.is_intact(BANS)?, "not intact after the repair");
        ensure!(self.enforcer.observe(clock::now())?.len() == BANS, "not every ban once");
        ensure!(self.run("iptables -S INPUT 1")?.trim() == "-A INPUT -j SHIELD", "not first in INPUT");
        ensure!(self.theirs()? == theirs, "their rules were {theirs:?}, now {:?}", self.theirs()?);
        Ok(())
    }

    fn theirs(&self) -> Result<Vec<String>> {
        let rules = self.run("iptables -S INPUT")?;
        let mut theirs: Vec<String> =
            rules.lines().filter(|line| !line.ends_with("SHIELD")).map(str::to_owned).collect();
        theirs.extend(
            command::run(&["ipset", "list", "-n"])?.lines().filter(|l| *l == "theirs").map(str::to_owned),
        );
        Ok(theirs)
    }

    /// Another program loads its whole firewall, as `iptables-restore` without `--noflush` does.
    fn reload(&mut self) -> Result<()> {
        let program = format!("{}-restore", self.program);
        let mut child = Command::new(&program).arg("--wait").stdin(Stdio::piped()).spawn()?;
        let ruleset = format!(
            "*filter\n:INPUT DROP [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n\
             -A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n{THEIRS}\nCOMMIT\n"
        );
        child.stdin.take().context("piped")?.write_all(ruleset.as_bytes())?;
        ensure!(child.wait()?.success(), "{program} failed");
        self.recovers_from(&Damage { commands: &[], found: "chain SHIELD was gone" })
    }
}

/// The processor time used by this process and its ended children.
fn processor_time() -> Result<Duration> {
    let mut total = Duration::ZERO;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who).context("could not read the processor time used")?;
        for time in [usage.user_time(), usage.system_time()] {
            total += Duration::from_secs(time.tv_sec().unsigned_abs());
            total += Duration::from_micros(time.tv_usec().unsigned_abs());
        }
    }
    Ok(total)
}

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn check_repairs(label: &str, backend: Backend, flavour: &str, damages: &[&[Damage]]) {
    let _one = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let namespace = Namespace::create(label).unwrap();
    namespace.enter(|| {
        let mut guarded = Guarded::start(backend, flavour).unwrap();
        for damage in damages.iter().copied().flatten() {
            guarded.recovers_from(damage).with_context(|| damage.commands.join("; ")).unwrap();
        }
        guarded.reload().context("while a whole firewall was loaded").unwrap();
        guarded.enforcer.cleanup().unwrap();
        let saved = command::run(&[&format!("{}-save", guarded.program)]).unwrap();
        assert!(!saved.contains("SHIELD") && saved.contains(THEIRS), "{saved}");
        assert_eq!(command::run(&["ipset", "list", "-n"]).unwrap().trim(), "theirs");
    });
}

#[test]
fn single_rules_of_iptables_nft_heal() {
    check_repairs("repnft", Backend::Rules, "-nft", &[TO_CHAINS, TO_RULES, RULESET]);
}

#[test]
fn single_rules_of_iptables_legacy_heal() {
    check_repairs("repleg", Backend::Rules, "-legacy", &[TO_CHAINS, TO_RULES]);
}

#[test]
fn ipset_with_iptables_nft_heals() {
    check_repairs("repset", Backend::Auto, "-nft", &[TO_CHAINS, TO_SETS, RULESET]);
}

#[test]
fn ipset_with_iptables_legacy_heals() {
    check_repairs("repsetl", Backend::Auto, "-legacy", &[TO_CHAINS, TO_SETS]);
}
