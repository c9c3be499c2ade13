//! The policy's commands as an author and the unit run them, with rules that misbehave.
//!
//! Alone: a decision that takes longer than 5 ms is none.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use tempfile::TempDir;

fn shield(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shield-agent"));
    command.args(arguments).env_remove("SHIELD_CONFIG").output().expect("the agent starts")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A folder with these rules of `shield.ban`.
fn folder(rules: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ban.rego"), format!("package shield.ban\n{rules}\n")).unwrap();
    folder
}

fn run(folder: &Path, command: &[&str]) -> (i32, String) {
    let arguments = [&["policy"], command, &["--dir", folder.to_str().unwrap()]].concat();
    let output = shield(&arguments);
    (output.status.code().expect("it was not killed"), said(&output))
}

#[test]
fn a_decision_is_made_in_a_process_of_its_own_and_shown_with_its_lines() {
    let rules = folder("decision := {\"action\": \"observe\"} if {\n  input.rule == \"probing\"\n}");
    let (code, text) = run(rules.path(), &["eval", "ban"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("data.shield.ban.decision: {\"action\":\"observe\"}"), "{text}");
    assert!(text.contains("ban.rego:3: input.rule == \"probing\""), "{text}");
}

#[test]
fn rules_that_run_away_end_and_nothing_else_does() {
    let check = |rules: &str, expected: &[&str]| {
        let (code, text) = run(folder(rules).path(), &["eval", "ban"]);
        assert_eq!(code, 1, "{rules}: {text}");
        let known = expected.iter().any(|expected| text.contains(expected));
        assert!(text.contains("there is no decision") && known, "{rules}: {text}");
    };
    let endless = "decision := count([1 | some i in numbers.range(1, 9000); some j in numbers.range(1, 9000); i * j > 0])";
    check(endless, &["the rules took longer than 5 ms"]);
    // Either the evaluator sees it, or the process ends by its stack.
    check("f(x) := f(x + 1)\ndecision := f(1)", &["recursi", "ended by itself", "took longer"]);
    let memory = "decision := concat(\"\", [x | some i in numbers.range(1, 100000); x := sprintf(\"%0100000d\", [i])])";
    check(memory, &["ended by itself", "took longer", "has not answered"]);
    check("decision := 1 if input.client\ndecision := 2 if input.client", &["ban.rego:"]);
}

#[test]
fn mistakes_are_shown_with_file_line_and_column() {
    let rules = folder("decision := if {");
    let (code, text) = run(rules.path(), &["check"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("ban.rego:2:13: "), "{text}");
    let (code, text) = run(rules.path(), &["test"]);
    assert!(code == 2 && text.contains("ban.rego:2:13: "), "{text}");
}

#[test]
fn the_shipped_rules_are_right_and_tested() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/policy");
    let (code, text) = run(&folder, &["check"]);
    assert!(code == 0 && text.contains("it decides about ban, start, promote"), "{text}");
    let (code, text) = run(&folder, &["test"]);
    assert!(code == 0 && text.contains(" 0 failed"), "{text}");
    assert!(!text.contains("not reached"), "{text}");
    for point in ["ban", "start", "promote"] {
        let (code, text) = run(&folder, &["eval", point]);
        assert_eq!(code, 0, "{text}");
    }
}

#[test]
fn a_failing_test_is_an_exit_code() {
    let rules = folder("decision := {\"action\": \"ban\"}\ntest_wrong if decision.action == \"slow\"");
    let (code, text) = run(rules.path(), &["test"]);
    assert!(code == 1 && text.contains("FAILED  shield.ban.test_wrong"), "{text}");
}

/// An attacker at this hour of the log's, in nginx's combined format.
fn probes(hour: u32) -> String {
    let paths =
        ["/.env", "/.git/config", "/backup.sql", "/phpmyadmin/", "/wp-config.php", "/.aws/credentials"];
    let line = |(second, path): (usize, &&str)| {
        format!(
            "192.0.2.9 - - [05/Jan/2026:{hour:02}:00:{second:02} +0000] \"GET {path} HTTP/1.1\" 404 12 \"-\" \"-\"\n"
        )
    };
    paths.iter().enumerate().map(line).collect()
}

/// One rule is vetoed by the hour of day, which is the log's own, so that each run says the same.
#[test]
fn a_replay_asks_the_rules_and_is_the_same_each_time() {
    let rules = folder(
        "default decision := {\"action\": \"ban\"}\n\
         decision := {\"action\": \"observe\", \"because\": \"the nightly import\"} if {\n\
           input.rule == \"probing\"\n  input.time.hour in {2, 3}\n}",
    );
    let path = |name: &str| rules.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("shield.toml"), format!("[policy]\ndir = {:?}\n", rules.path())).unwrap();
    let replay = |hour: u32| {
        fs::write(path("access.log"), probes(hour)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_shield-agent"));
        command.env("TZ", "UTC").args(["replay", "--json", "--config"]);
        let output = command.args([path("shield.toml"), path("access.log")]).output().unwrap();
        assert!(output.status.success(), "{}", said(&output));
        said(&output)
    };
    let (night, day) = (replay(3), replay(8));
    assert!(night.contains("the policy spares it: the nightly import"), "{night}");
    assert!(!day.contains("spares") && day.contains("\"rule\":\"probing\""), "{day}");
    assert_eq!(replay(3), night);
    // What a rule cannot decide, it cannot decide in a replay either.
    fs::write(path("ban.rego"), "package shield.ban\ndecision := 1\n").unwrap();
    let failed = replay(8);
    assert!(failed.contains("the decision is 1 and no object"), "{failed}");
    // And what depends on the machine is no result.
    let endless = "decision := count([1 | some i in numbers.range(1, 9000); some j in numbers.range(1, 9000); i * j > 0])";
    fs::write(path("ban.rego"), format!("package shield.ban\n{endless}\n")).unwrap();
    let output = shield(&["replay", "--config", &path("shield.toml"), &path("access.log")]);
    let text = said(&output);
    assert!(
        output.status.code() == Some(1) && text.contains("would be no replay: the rules took longer"),
        "{text}"
    );
}

/// The gate blocks in the policy's words, and lets through once its rule does.
#[test]
fn a_start_is_blocked_and_then_let_through() {
    let folder = tempfile::tempdir().unwrap();
    let (config, rules) = (folder.path().join("shield.toml"), folder.path().join("start.rego"));
    let settings = format!("[agent]\nstate_dir = {0:?}\n[policy]\ndir = {0:?}\n", folder.path());
    fs::write(&config, settings).unwrap();
    let gate = || {
        let output = shield(&["check", "--gate", "--config", config.to_str().unwrap()]);
        (output.status.code(), said(&output))
    };
    let allow = |bytes: &str| {
        let rule = format!(
            "package shield.start\ndeny contains \"disk below {bytes}\" if input.disk.free_bytes < {bytes}\n"
        );
        fs::write(&rules, rule).unwrap();
    };
    let more_than_there_is = "900000000000000000";
    allow(more_than_there_is);
    assert_eq!(gate(), (Some(1), format!("BLOCKED: disk below {more_than_there_is}\n")));
    allow("1");
    assert_eq!(gate(), (Some(0), "gate        open\n".to_owned()));
    for broken in ["package shield.start\ndeny contains", "package shield.start\ndeny := 1 + \"a\""] {
        fs::write(&rules, broken).unwrap();
        let (code, text) = gate();
        assert!(code == Some(0) && text.contains("so the start goes on: "), "{text}");
    }
    fs::write(&rules, "package mine\n").unwrap();
    assert_eq!(gate(), (Some(0), "gate        no policy decides about the start\n".to_owned()));
    fs::remove_file(&rules).unwrap();
    let (code, text) = gate();
    assert!(code == Some(0) && text.contains("no *.rego file"), "{text}");
}
