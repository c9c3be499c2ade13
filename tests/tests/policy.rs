//! The operators' own rules inside the shipped unit: its capabilities, its /proc, its file system and its system calls.
//!
//! Alone: a decision that takes longer than 5 ms is none.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::process::Command;
use std::time::Duration;

use shield_tests::agent::{self, Home};
use shield_tests::http::Get;
use shield_tests::site::{ATTACKER, SERVER, Site};
use shield_tests::{unit, wait};

/// Runs the agent's command in the sandbox, with this home's configuration.
fn in_unit(home: &Home, arguments: &[&str]) -> (Option<i32>, String) {
    let launcher = unit::launcher(home, &[]).unwrap();
    let mut command = Command::new(&launcher[0]);
    command.args(&launcher[1..]).arg(agent::binary().unwrap()).args(arguments);
    let output = command.env("SHIELD_CONFIG", home.config()).output().unwrap();
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    (output.status.code(), said.concat())
}

/// The unit's own line: what a rule says keeps the agent from starting, and nothing else does.
#[test]
fn the_units_gate_blocks_and_lets_through() {
    let pre = fs::read_to_string(unit::file()).unwrap();
    let gate = pre.lines().filter_map(|line| line.strip_prefix("ExecStartPre=/usr/bin/shield-agent "));
    let gate = gate.into_iter().find(|line| line.contains("--gate")).expect("the unit asks the policy");
    assert_eq!(gate, "check --gate --config /etc/shield/shield.toml");

    let home = Home::create().unwrap();
    let rules = home.folder().join("policy");
    fs::create_dir(&rules).unwrap();
    home.configure(&home.folder().join("access.log"), "", &format!("[policy]\ndir = {rules:?}\n")).unwrap();
    let write = |text: &str| fs::write(rules.join("start.rego"), text).unwrap();
    write("package shield.start\ndeny contains \"disk below 1 GB\" if input.disk.free_bytes >= 0\n");
    let blocked = (Some(1), "BLOCKED: disk below 1 GB\n".to_owned());
    assert_eq!(in_unit(&home, &["check", "--gate"]), blocked);
    write("package shield.start\ndeny contains \"the store\" if not input.store.writable\n");
    assert_eq!(in_unit(&home, &["check", "--gate"]), (Some(0), "gate        open\n".to_owned()));
    write("package shield.start\nf(x) := f(x + 1)\ndeny contains \"x\" if f(1)\n");
    let (code, said) = in_unit(&home, &["check", "--gate"]);
    assert!(code == Some(0) && said.contains("so the start goes on"), "{said}");
}

/// What the process that evaluates may not do any more: anything.
#[test]
fn a_decision_is_made_in_the_sandbox() {
    let home = Home::create().unwrap();
    home.configure(&home.folder().join("access.log"), "", "").unwrap();
    let (code, said) = in_unit(&home, &["policy", "eval", "ban"]);
    assert!(code == Some(0) && said.contains("{\"action\":\"ban\"}"), "{said}");
    let (code, said) = in_unit(&home, &["policy", "test"]);
    assert!(code == Some(0) && said.contains(" 0 failed"), "{said}");
}

const PROBES: [&str; 8] = [
    "/.env",
    "/.git/config",
    "/backup.sql",
    "/phpmyadmin/",
    "/wp-config.php",
    "/.aws/credentials",
    "/db.sql.gz",
    "/.ssh/id_rsa",
];

/// Asks for what only attackers ask for, until `found` finds something.
fn probe_until<T>(site: &Site, what: &str, mut found: impl FnMut() -> anyhow::Result<Option<T>>) -> T {
    let timeout = Duration::from_millis(400);
    let mut paths = PROBES.iter().cycle();
    let probed = wait::until(what, Duration::from_secs(60), || {
        let path = paths.next().expect("a cycle has no end");
        let get = Get { server: SERVER, from: Some(ATTACKER), path, timeout };
        // A banned attacker gets no answer.
        let _ = site.street.enter(|| get.send());
        found()
    });
    probed.unwrap_or_else(|error| panic!("{error:#}\n{}", site.home.log()))
}

/// The hour of this machine's clock, in its zone.
fn hour() -> u64 {
    let output = Command::new("date").arg("+%H").output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

/// The rules spare an attacker at this hour of the day, and after a reload they ban him for their own term and in their own words; rules with a mistake
/// change nothing, and a process that is killed is started again.
#[test]
fn bans_are_decided_by_the_rules() {
    let site = Site::create("").unwrap();
    let rules = site.home.folder().join("policy");
    fs::create_dir(&rules).unwrap();
    let more = format!(
        "[slow]\nenabled = false\n[page]\nenabled = false\n[xdp]\npin_dir = {:?}\n[policy]\ndir = {rules:?}\n",
        site.home.pins()
    );
    site.home.configure(site.nginx.access_log(), "", &more).unwrap();
    let write =
        |text: &str| fs::write(rules.join("ban.rego"), format!("package shield.ban\n{text}\n")).unwrap();
    // Vetoed for this hour of the day, and for the next, which may begin meanwhile.
    let hours = |hours: [u64; 2]| format!("input.time.hour in {{{}, {}}}", hours[0], hours[1]);
    let now = hour();
    let vetoed = format!(
        "decision := {{\"action\": \"observe\", \"because\": \"not today\"}} if {{\n  input.rule == \"probing\"\n  {}\n}}",
        hours([now, (now + 1) % 24])
    );
    write(&vetoed);
    let agent = site.start_agent(&[]).unwrap();

    let audit = || fs::read_to_string(site.home.audit()).unwrap_or_default();
    probe_until(&site, "the attacker to be spared", || {
        Ok(audit().contains("the policy spares it: not today").then_some(()))
    });
    assert!(site.bans().unwrap().is_empty());

    write("decision := {");
    let refused = site.home.command_output(&site.server, &["reload"]).unwrap();
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(said.contains("ban.rego:") && said.contains("[policy] dir"), "{said}");
    let state = || -> anyhow::Result<String> {
        let part = site.status()?.parts.into_iter().find(|part| part.part == "policy");
        Ok(part.map(|part| part.text).unwrap_or_default())
    };
    wait::until("the mistake to be the part's state", Duration::from_secs(20), || {
        Ok(state()?.contains("the rules of before stay in force").then_some(()))
    })
    .unwrap();

    let other = hours([(now + 12) % 24, (now + 13) % 24]);
    write(&format!(
        "default decision := {{\"action\": \"ban\", \"term\": 7777, \"because\": \"by the book\"}}\n\
         decision := {{\"action\": \"observe\"}} if {{\n  {other}\n}}"
    ));
    site.home.command(&site.server, &["reload"]).unwrap();
    let ban = probe_until(&site, "the attacker's ban", || Ok(site.bans()?.into_iter().next()));
    assert_eq!(ban.client.to_string(), ATTACKER.to_string());
    let shown = site.home.command(&site.server, &["explain", &ATTACKER.to_string()]).unwrap();
    assert!(shown.contains("The policy bans it for 2 h 9 min: by the book"), "{shown}");
    assert!(audit().contains("by the book"));
    assert!(agent.stop().unwrap().success(), "{}", site.home.log());
}
