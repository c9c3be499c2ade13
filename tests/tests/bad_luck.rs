//! What nobody did on purpose: a damaged database, a second agent, a kill between a ban and its record, a full disk.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use shield_agent::test_support::api::types::PartStateName;
use shield_tests::agent::{Agent, Home};
use shield_tests::mishap::{self, SmallDisk};
use shield_tests::netns::Namespace;
use shield_tests::site::{ATTACKER, Site, VISITOR};
use shield_tests::traffic::Outcome;
use shield_tests::wait;

const NO_ENFORCERS: &str = "[iptables]\nmode = \"off\"\n[xdp]\nmode = \"off\"\n";

/// An empty ledger wants no ban, so the first reconcile after a damaged database lifted every one.
fn a_damaged_database_lifts_no_ban(more: &str, is_end_known: bool, damage: fn(&Path) -> anyhow::Result<()>) {
    let site = Site::create(more).unwrap();
    let agent = site.start_agent(&[]).unwrap();
    let ban = site.ban_attacker("47m").unwrap();
    let others = ["203.0.113.70", "198.51.100.128/25", "2001:db8:66::/64"];
    site.home.command(&site.server, &[&["ban", "--for", "permanent"], &others[..]].concat()).unwrap();
    assert!(agent.stop().unwrap().success());
    let state = site.home.folder().join("state");
    damage(&state.join("shield.db")).unwrap();

    let attempts = site.persistent_attacker();
    let _agent = site.start_agent(&[]).unwrap();
    let bans = site.bans().unwrap();
    let clients: BTreeSet<String> = bans.iter().map(|ban| ban.client.to_string()).collect();
    let expected: BTreeSet<String> =
        others.iter().map(ToString::to_string).chain([ATTACKER.to_string()]).collect();
    assert_eq!(clients, expected, "{}", site.home.log());
    let adopted = bans.iter().find(|ban| ban.client.to_string() == ATTACKER.to_string()).unwrap();
    if is_end_known {
        let (then, now) = (ban.ends_ms.unwrap(), adopted.ends_ms.unwrap());
        assert!(then.abs_diff(now) < 2_000, "the end moved from {then} to {now}");
        assert!(bans.iter().filter(|ban| ban.ends_ms.is_none()).count() == 3, "{bans:?}");
    } else {
        assert!(bans.iter().all(|ban| ban.remaining_secs.is_some_and(|secs| secs <= 600)), "{bans:?}");
    }
    let status = site.status().unwrap();
    let part = status.parts.iter().find(|part| part.part == "restored state").unwrap();
    let kept = fs::read_dir(&state).unwrap().filter_map(Result::ok).map(|file| file.path());
    let kept: Vec<PathBuf> =
        kept.filter(|file| file.to_string_lossy().contains("shield.db.damaged-")).collect();
    let [kept] = &kept[..] else { panic!("one damaged file is kept: {kept:?}") };
    for said in ["4 bans taken over from the kernel", "audit report", "allow", kept.to_str().unwrap()] {
        assert!(part.text.contains(said), "{said}: {}", part.text);
    }
    assert_eq!(part.state, PartStateName::Degraded);
    wait::sleep(Duration::from_secs(5)).unwrap();
    let samples = attempts.stop();
    let answered = samples.iter().filter(|sample| matches!(sample.outcome, Outcome::Answered(..))).count();
    assert_eq!(answered, 0, "{}", site.home.log());
    assert_eq!(site.request(VISITOR).unwrap(), Some(200));

    // Whoever takes the damaged file away has seen to it; the bans stay.
    fs::remove_file(kept).unwrap();
    wait::until("the state to end with the damaged file", Duration::from_secs(60), || {
        let part = site.status()?.parts.into_iter().find(|part| part.part == "restored state");
        Ok(part.is_some_and(|part| part.state == PartStateName::Active).then_some(()))
    })
    .unwrap();
    assert_eq!(site.bans().unwrap().len(), 4);
}

#[test]
fn a_damaged_database_lifts_no_ban_that_xdp_holds() {
    a_damaged_database_lifts_no_ban("[iptables]\nmode = \"off\"\n", true, mishap::damage);
}

#[test]
fn a_damaged_database_lifts_no_ban_that_sets_hold() {
    a_damaged_database_lifts_no_ban(
        "[iptables]\nbackend = \"ipset\"\n[xdp]\nmode = \"off\"\n",
        true,
        mishap::damage,
    );
}

#[test]
fn a_damaged_database_lifts_no_ban_that_rules_hold() {
    a_damaged_database_lifts_no_ban(
        "[iptables]\nbackend = \"rules\"\n[xdp]\nmode = \"off\"\n",
        false,
        mishap::damage,
    );
}

/// Everything was read, and both enforcers are being set up, when the check finds it.
#[test]
fn damage_that_only_the_check_finds_lifts_no_ban() {
    a_damaged_database_lifts_no_ban("[iptables]\nbackend = \"ipset\"\n", true, mishap::damage_unread);
}

/// Two agents with folders of their own took each other's rules away every two seconds.
#[test]
fn a_second_agent_in_a_network_namespace_is_refused_and_told_of_the_first() {
    let site = Site::create("").unwrap();
    let agent = site.start_agent(&[]).unwrap();
    site.ban_attacker("10m").unwrap();
    let second = Home::create().unwrap();
    second
        .configure(
            site.nginx.access_log(),
            "",
            &format!("[page]\nenabled = false\n[xdp]\npin_dir = {:?}\n", second.pins()),
        )
        .unwrap();
    let refused = format!("{:#}", Agent::start_in_unit(&site.server, &second, &[]).unwrap_err());
    let first = format!(
        "(process {}) with the state directory {}",
        agent.pid(),
        site.home.folder().join("state").display()
    );
    assert!(
        refused.contains("another agent guards this network namespace") && refused.contains(&first),
        "{refused}"
    );
    // One that changes nothing in the kernel may run beside it.
    let dry = Agent::start_in_unit(&site.server, &second, &["--dry-run"]).unwrap();
    assert!(dry.stop().unwrap().success());

    // Its control socket is another one, and the first does not even run: the lock knows all the same.
    let pid = Pid::from_raw(i32::try_from(agent.pid()).unwrap());
    for signal in [Signal::SIGCONT, Signal::SIGSTOP] {
        kill(pid, signal).unwrap();
        let cleanup = second.command_output(&site.server, &["cleanup"]).unwrap();
        let text = String::from_utf8_lossy(&cleanup.stderr).into_owned();
        assert!(cleanup.status.code() == Some(1) && text.contains("--force"), "{text}");
        assert!(text.contains(&format!("process {}", agent.pid())), "{text}");
    }
    assert_eq!(site.request(ATTACKER).unwrap(), None, "nothing was cleaned up");
    site.home.command(&site.server, &["cleanup", "--force"]).unwrap();
    assert_eq!(site.request(ATTACKER).unwrap(), Some(200), "the operator meant it");
    kill(pid, Signal::SIGCONT).unwrap();
    agent.kill().unwrap();
    // The kernel frees the lock, once a child that the agent was just starting has become another program too.
    wait::until("the dead agent's lock to be free", Duration::from_secs(20), || {
        Ok(site.home.command_output(&site.server, &["cleanup"])?.status.success().then_some(()))
    })
    .unwrap();
    // Another network namespace has its own.
    let _other = Agent::start_in_unit(&site.street, &second, &[]).unwrap();
    let _again = site.start_agent(&[]).unwrap();
}

/// A home in a namespace of its own, with a log that nobody writes.
fn plain_home() -> (Namespace, Home) {
    let (namespace, home) = (Namespace::create("luck").unwrap(), Home::create().unwrap());
    let log = home.folder().join("access.log");
    fs::write(&log, "").unwrap();
    home.configure(&log, "", NO_ENFORCERS).unwrap();
    (namespace, home)
}

fn list(clients: u32) -> String {
    (0..clients).map(|n| format!("{}\n", std::net::Ipv4Addr::from_bits(0x2d00_0000 + n))).collect()
}

#[test]
fn after_a_kill_every_ban_is_recorded_once() {
    let (namespace, home) = plain_home();
    let file = home.folder().join("list");
    fs::write(&file, list(2_000)).unwrap();
    let file = file.to_str().unwrap();
    let mut late = 0;
    for round in 0..3 {
        let agent = Agent::start_in_unit(&namespace, &home, &[]).unwrap();
        home.command(&namespace, &["import", file, "--for", "1h"]).unwrap();
        // The reply comes once the bans are committed, before they are recorded.
        agent.kill().unwrap();
        let lines = fs::read_to_string(home.audit()).unwrap();
        let before = lines.matches("\"event\":\"banned\"").count();
        assert!(before <= 2_000 * (round + 1));
    }
    let agent = Agent::start_in_unit(&namespace, &home, &[]).unwrap();
    assert!(agent.stop().unwrap().success());
    let text = fs::read_to_string(home.audit()).unwrap();
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| line.contains("\"event\":\"banned\"")) {
        let line: Value = serde_json::from_str(line).unwrap();
        late += usize::from(line["late"] == true);
        assert!(seen.insert((line["client"].to_string(), line["since_ms"].to_string())), "twice: {line}");
    }
    println!("{late} of {} bans were recorded late", seen.len());
    let verified = home.command(&namespace, &["audit", "verify"]).unwrap();
    assert!(
        verified.contains("the chain is intact") && verified.contains("compared with the database"),
        "{verified}"
    );
    let _agent = Agent::start_in_unit(&namespace, &home, &[]).unwrap();
    let bans = home.json(&namespace, &["bans", "--all"]).unwrap();
    for ban in bans["bans"].as_array().unwrap() {
        let key = (ban["client"].to_string(), ban["since_ms"].to_string());
        assert!(seen.contains(&key), "not recorded: {ban}");
    }
    assert_eq!(bans["total"], 2_000);
}

/// With a full disk `bans`, `explain` and `export` said that nobody was banned.
#[test]
fn on_a_full_disk_the_lists_tell_who_is_banned() {
    let (namespace, home) = plain_home();
    let state = home.folder().join("state");
    let disk = SmallDisk::mount(&state).unwrap();
    let _agent = Agent::start_in_unit(&namespace, &home, &[]).unwrap();
    home.command(&namespace, &["ban", "192.0.2.1", "--reason", "before"]).unwrap();
    disk.fill().unwrap();

    let file = home.folder().join("list");
    fs::write(&file, list(1_225)).unwrap();
    home.command(&namespace, &["import", file.to_str().unwrap(), "--for", "1h", "--reason", "scans"])
        .unwrap();
    home.command(&namespace, &["unban", "45.0.4.0", "192.0.2.1"]).unwrap();
    let check = || {
        let total = |arguments: &[&str]| home.json(&namespace, arguments).unwrap()["total"].clone();
        assert_eq!(total(&["bans"]), 1_224, "{}", home.log());
        assert_eq!(total(&["bans", "--rule", "imported"]), 1_224);
        assert_eq!(total(&["bans", "--rule", "operator"]), 0);
        assert_eq!(total(&["bans", "45.0.0.1"]), 1 + 10 + 100);
        let page =
            home.json(&namespace, &["bans", "--sort", "client", "--limit", "2", "--offset", "1"]).unwrap();
        assert_eq!(
            (&page["bans"][0]["client"], &page["bans"][1]["client"]),
            (&"45.0.0.1".into(), &"45.0.0.10".into())
        );
        assert_eq!(page["bans"][0]["reason"], "scans");
        let explained = home.command(&namespace, &["explain", "45.0.0.7"]).unwrap();
        assert!(explained.starts_with("45.0.0.7 is banned: scans"), "{explained}");
        let explained = home.command(&namespace, &["explain", "192.0.2.1"]).unwrap();
        assert!(explained.starts_with("192.0.2.1 is not banned"), "{explained}");
        let exported = home.command(&namespace, &["export", "--format", "plain"]).unwrap();
        assert_eq!(exported.lines().filter(|line| line.starts_with("45.0.")).count(), 1_224);
    };
    let degraded = home.json(&namespace, &["status"]).unwrap()["parts"].to_string();
    assert!(degraded.contains("free some space"), "{degraded}");
    check();
    disk.clear().unwrap();
    let saved = || Ok((home.json(&namespace, &["status"])?["health"] == "ok").then_some(()));
    let _ = wait::until("everything to be saved", Duration::from_secs(30), saved);
    check();
}
