//! Who is exempt because of an SSH session: with a real sshd, in the unit's sandbox and as plain root.

use std::fs;

use shield_agent::test_support::api::types::PartStateName;
use shield_tests::site::{ATTACKER, VISITOR};
use shield_tests::ssh::{Machine, PATIENCE, Pam};
use shield_tests::{command, wait};

/// With `UsePAM no` logind hears of no session, and without a terminal utmp has none either: its processes are what is left.
#[test]
fn as_plain_root_who_logged_in_is_exempt_and_nobody_else() {
    let machine = Machine::create("", Pam::Unused).unwrap();
    let agent = machine.agent(&[]).unwrap();
    machine.nobody_is_exempt_without_a_login().unwrap();
    let session = machine.log_in("anna", VISITOR, "-T").unwrap();
    machine.wait_until_exempt(VISITOR, "live SSH session").unwrap();
    drop(session);
    machine.wait_until_exempt(VISITOR, "earlier SSH session").unwrap();
    let _root = machine.log_in("root", ATTACKER, "-T").unwrap();
    machine.wait_until_exempt(ATTACKER, "live SSH session").unwrap();
    let (state, text) = machine.ssh().unwrap();
    assert!(state == PartStateName::Active && text.contains("processes"), "{text}");
    agent.stop().unwrap();
}

#[test]
fn in_the_unit_utmp_as_sshd_writes_it_makes_the_exemption_and_it_outlives_session_and_agent() {
    let machine = Machine::create("", Pam::Unused).unwrap();
    // Being in root's group the agent sees that the process is there; what it runs is hidden.
    let exe = format!("/proc/{}/exe", machine.sshd.pid());
    let unit = machine.unit("").unwrap();
    assert!(command::output(&["readlink", &exe]).unwrap().status.success());
    let look: Vec<&str> = unit.iter().map(String::as_str).chain(["readlink", &exe]).collect();
    assert!(!command::output(&look).unwrap().status.success(), "the sandbox hides what sshd runs");
    let agent = machine.agent(&unit).unwrap();
    machine.nobody_is_exempt_without_a_login().unwrap();
    let session = machine.log_in("anna", VISITOR, "-tt").unwrap();
    machine.wait_until_exempt(VISITOR, "live SSH session").unwrap();
    let (state, text) = machine.ssh().unwrap();
    assert_eq!(state, PartStateName::Active, "{text}");
    assert!(text.contains("asked: logind, utmp") && !text.contains("processes"), "{text}");
    drop(session);
    machine.wait_until_exempt(VISITOR, "earlier SSH session").unwrap();
    agent.stop().unwrap();
    let agent = machine.agent(&unit).unwrap();
    assert!(machine.exemption(VISITOR).unwrap().is_some_and(|said| said.contains("earlier SSH session")));
    agent.stop().unwrap();
    let audit = fs::read_to_string(machine.site.home.audit()).unwrap();
    assert!(audit.contains("allowlist_changed") && audit.contains("live SSH session"), "{audit}");
}

/// The file is input in the format that logind writes, because there is no logind here.
#[test]
fn in_the_unit_logind_is_asked_and_the_exemption_ends_with_a_reason() {
    let machine = Machine::create("[allow]\nssh_keep = '10s'\n", Pam::Used).unwrap();
    let agent = machine.agent(&machine.unit("").unwrap()).unwrap();
    let session = "UID=4242\nUSER=anna\nACTIVE=1\nSTATE=active\nREMOTE=1\nTYPE=tty\nCLASS=user\n\
                   REMOTE_HOST=198.51.100.7\nSERVICE=sshd\nLEADER=1\n";
    let file = machine.sessions().join("3");
    fs::write(&file, session).unwrap();
    machine.wait_until_exempt(VISITOR, "live SSH session").unwrap();
    fs::remove_file(&file).unwrap();
    wait::until("the exemption to end", PATIENCE, || Ok(machine.exemption(VISITOR)?.is_none().then_some(())))
        .unwrap();
    let audit = fs::read_to_string(machine.site.home.audit()).unwrap();
    assert!(audit.contains("no SSH session from there"), "{audit}");
    agent.stop().unwrap();
}

#[test]
fn in_the_unit_with_nothing_to_ask_the_part_is_degraded_with_what_to_do() {
    let machine = Machine::create("", Pam::Unused).unwrap();
    let gone = "umount -l /run 2>/dev/null || true\nmount -t tmpfs tmpfs /run";
    let agent = machine.agent(&machine.unit(gone).unwrap()).unwrap();
    let mut ssh = machine.ssh().unwrap();
    wait::until("the part to be degraded", PATIENCE, || {
        ssh = machine.ssh()?;
        Ok((ssh.0 == PartStateName::Degraded).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}: {ssh:?}"));
    assert!(ssh.1.contains("libpam-systemd") && ssh.1.contains("[allow] networks"), "{}", ssh.1);
    agent.stop().unwrap();
}
