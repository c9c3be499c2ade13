//! The installed files: the unit, the example config, the maintainer scripts, the logrotate rule.

#![expect(clippy::unwrap_used, reason = "a test helper that fails is a failing test")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shield_agent::test_support::api::types::PartStateName;
use shield_agent::test_support::config::Config;
use shield_tests::agent::Agent;
use shield_tests::site::{ATTACKER, Site, VISITOR};
use shield_tests::{agent, command, unit, wait};

/// The limit for systemd's exposure level of the unit, from 0 (none) to 10. The remaining exposure is Shield's purpose: the
/// network configuration, BPF, the log, and root's user id (docs/kernels.md has it by item).
const MAX_EXPOSURE: f64 = 2.2;

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging")
}

fn read(file: &str) -> String {
    fs::read_to_string(packaging().join(file)).unwrap()
}

/// The unit in a folder of its own, naming the agent that was built here.
fn unit_here(folder: &Path) -> PathBuf {
    let agent = agent::binary().unwrap();
    let unit = read("shield.service").replace("/usr/bin/shield-agent", agent.to_str().unwrap());
    let path = folder.join("shield.service");
    fs::write(&path, unit).unwrap();
    path
}

#[test]
fn systemd_finds_nothing_wrong_with_the_unit() {
    let folder = tempfile::tempdir().unwrap();
    let unit = unit_here(folder.path());
    let output = command::output(&["systemd-analyze", "verify", "--man=no", unit.to_str().unwrap()]).unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !stderr.contains("shield.service"), "{stderr}");
}

/// Fails if systemd's exposure level of this unit is above.
fn is_exposed_at_most(unit: &Path, level: f64) {
    let threshold = format!("--threshold={}", level * 10.0);
    let argv =
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", &threshold, unit.to_str().unwrap()];
    command::run(&argv).unwrap();
}

#[test]
fn the_unit_may_do_little() {
    is_exposed_at_most(&packaging().join("shield.service"), MAX_EXPOSURE);
}

#[test]
fn the_documented_drop_in_takes_what_it_says() {
    let page = fs::read_to_string(packaging().join("../docs/kernels.md")).unwrap();
    let drop_in = page.split("```ini\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let unit = unit_here(folder.path());
    fs::write(&unit, format!("{}\n{drop_in}", fs::read_to_string(&unit).unwrap())).unwrap();
    is_exposed_at_most(&unit, 2.0);
}

#[test]
fn the_example_config_is_valid_as_shipped_and_with_every_example_taken_in() {
    let shipped = read("shield.toml");
    Config::parse(&shipped).unwrap();
    let is_key = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let all: Vec<&str> = shipped.lines().map(|line| if is_key(line) { &line[1..] } else { line }).collect();
    assert!(shipped.lines().filter(|line| is_key(line)).count() > 40, "the example shows every key");
    Config::parse(&all.join("\n")).unwrap();
}

#[test]
fn scripts_are_valid_and_the_undo_undoes_all_that_was_done() {
    for script in ["install.sh", "uninstall.sh", "debian/postinst", "debian/prerm", "debian/postrm"] {
        command::run(&["sh", "-n", packaging().join(script).to_str().unwrap()]).unwrap();
    }
    let install = read("install.sh");
    let uninstall = read("uninstall.sh");
    let places = install.lines().filter_map(|line| line.strip_prefix("put ")?.split_whitespace().last());
    let places: Vec<&str> = places.collect();
    assert!(places.len() >= 4);
    for place in places {
        let folder = Path::new(place).parent().unwrap().to_str().unwrap();
        assert!(uninstall.contains(place) || uninstall.contains(folder), "uninstall.sh forgets {place}");
    }
}

/// Runs a maintainer script in which every program that it calls outside of the shell is one that says its name and fails.
fn script_among_failing_programs(script: &str, arguments: &[&str]) -> std::process::Output {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    fs::create_dir(&run).unwrap();
    for program in ["systemctl", "systemd-tmpfiles", "shield-agent"] {
        let path = folder.path().join(program);
        fs::write(&path, format!("#!/bin/sh\necho called {program} \"$@\"\nexit 1\n")).unwrap();
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let sysusers = folder.path().join("systemd-sysusers");
    std::os::unix::fs::symlink("/bin/true", sysusers).unwrap();
    let text = read(script)
        .replace("/usr/bin/shield-agent", folder.path().join("shield-agent").to_str().unwrap())
        .replace("/run/systemd/system", run.to_str().unwrap());
    let path = format!("PATH={}:/usr/bin:/bin", folder.path().to_str().unwrap());
    let argv = [&["env", &path, "sh", "-c", &text, script], arguments].concat();
    command::output(&argv).unwrap()
}

/// History: an upgrade to a version that refused a key of the config left dpkg broken, and the package could not be removed
/// beside an agent that was started by hand.
#[test]
fn an_agent_that_cannot_start_or_clean_up_prevents_neither_upgrade_nor_removal() {
    let cases: [(&str, &[&str], &str, &str); 2] = [
        ("debian/postinst", &["configure", "0.1.0"], "called systemctl try-restart", "shield-agent check"),
        ("debian/prerm", &["remove"], "called shield-agent cleanup", "Stop every shield-agent"),
    ];
    for (script, arguments, tried, advice) in cases {
        let output = script_among_failing_programs(script, arguments);
        let [out, err] =
            [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned());
        assert!(output.status.success(), "{script}: {out}{err}");
        assert!(out.contains(tried), "{script} did not try: {out}");
        assert!(err.contains("could not ") && err.contains(advice), "{script} says: {err}");
    }
    let output = script_among_failing_programs("debian/prerm", &["upgrade", "0.2.0"]);
    let out = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && !out.contains("cleanup"), "an upgrade lifted bans: {out}");
}

/// Installs and uninstalls in a root of its own. The script contains the assertions, next to the steps that they check.
#[test]
fn installing_and_uninstalling_leave_what_they_should() {
    let folder = tempfile::tempdir().unwrap();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (script, workspace) = (tests.join("packaging/throw-away-root.sh"), tests.parent().unwrap());
    let agent = agent::binary().unwrap();
    let paths =
        [script.as_path(), folder.path(), workspace, agent.as_path()].map(|path| path.to_str().unwrap());
    command::run(&[&["unshare", "--mount", "--net", "bash"], &paths[..]].concat()).unwrap();
}

/// Installs, upgrades, removes and purges the package with dpkg, in a root of its own. The script contains the assertions.
#[test]
fn the_debian_package_comes_and_goes_without_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let (script, agent) =
        (Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/deb.sh"), agent::binary().unwrap());
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let dist = [&cargo, "xtask", "dist", "--quick", "--agent", agent.to_str().unwrap()];
    let built = command::run(&dist).unwrap();
    let package = built.trim();
    let depends = command::run(&["dpkg-deb", "--field", package, "Depends"]).unwrap();
    assert!(depends.contains("libc6 (>= 2."), "{depends}");
    let paths = [script.as_path(), folder.path()].map(|path| path.to_str().unwrap());
    command::run(&[&["unshare", "--mount", "--net", "bash"], &paths[..], &[package]].concat()).unwrap();
}

#[test]
fn logrotate_understands_our_rule() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.jsonl");
    fs::write(&log, "{}\n").unwrap();
    let rule = read("logrotate").replace("/var/log/shield/audit.jsonl", log.to_str().unwrap());
    let file = folder.path().join("rule");
    fs::write(&file, rule.replace("su root adm", "su root root")).unwrap();
    let state = folder.path().join("state");
    command::run(&["logrotate", "--force", "--state", state.to_str().unwrap(), file.to_str().unwrap()])
        .unwrap();
    let rotated = fs::read_dir(folder.path()).unwrap().flatten().map(|entry| entry.file_name());
    let rotated: Vec<String> = rotated.map(|name| name.to_string_lossy().into_owned()).collect();
    assert!(!log.exists() && rotated.iter().any(|name| name.starts_with("audit.jsonl-")), "{rotated:?}");
}

fn words_of(key: &str) -> Vec<String> {
    unit::words_of(key).unwrap()
}

/// History: after a boot nginx answered a banned client for 15 s, and for 39 s where Docker was installed.
#[test]
fn the_unit_starts_before_web_servers_and_does_not_wait_for_docker() {
    let (before, after) = (words_of("Before"), words_of("After"));
    for server in ["nginx", "apache2", "httpd", "caddy", "haproxy"] {
        assert!(before.contains(&format!("{server}.service")), "{server} may start earlier: {before:?}");
    }
    assert!(!after.contains(&"docker.service".to_owned()), "{after:?}");
}

/// History: systemd warned at each start that the mode of /etc/shield is not the unit's, and took /var/log/shield from adm.
#[test]
fn the_units_folders_have_the_modes_and_owners_that_the_package_gives_them() {
    let folders = read("tmpfiles.conf");
    assert!(!read("shield.service").lines().any(|line| line.starts_with("User=")));
    assert_eq!(words_of("Group"), ["shield"]);
    for (kind, parent) in
        [("Runtime", "/run"), ("State", "/var/lib"), ("Logs", "/var/log"), ("Configuration", "/etc")]
    {
        let place = format!("{parent}/shield");
        let line = folders.lines().find(|line| line.split_whitespace().nth(1) == Some(place.as_str()));
        let mode = line.unwrap().split_whitespace().nth(2).unwrap().to_owned();
        assert_eq!(words_of(&format!("{kind}DirectoryMode")), [mode], "{place}");
        // systemd gives what the agent writes to the unit's user and group at each start, but leaves the config's folder alone.
        if kind != "Configuration" {
            let owner: Vec<&str> = line.unwrap().split_whitespace().skip(3).take(2).collect();
            assert_eq!(owner, ["root", "shield"], "{place}");
        }
    }
}

#[test]
fn the_units_sandbox_leaves_enough_for_both_enforcers_and_another_users_log() {
    let site = Site::create("").unwrap();
    // Owner and mode as on Debian, where nginx's log belongs to another user and is not readable for all.
    command::run(&["chown", "www-data:adm", site.nginx.access_log().to_str().unwrap()]).unwrap();
    command::run(&["chmod", "0640", site.nginx.access_log().to_str().unwrap()]).unwrap();
    let _agent = Agent::start_in_unit(&site.server, &site.home, &[]).unwrap();
    site.wait_until_protected().unwrap();
    for part in ["iptables", "xdp"] {
        let status = site.status().unwrap();
        let found = status.parts.iter().find(|found| found.part == part).unwrap();
        assert_eq!(found.state, PartStateName::Active, "{part}: {}", found.text);
    }
    site.ban_attacker("10m").unwrap();
    site.request(VISITOR).unwrap();
    wait::until("the visitor's line to be counted", Duration::from_secs(5), || {
        Ok((site.status()?.totals.requests > 0).then_some(()))
    })
    .unwrap();
    site.home.command(&site.server, &["unban", &ATTACKER.to_string()]).unwrap();
    site.wait_until_served(ATTACKER, Duration::from_secs(4)).unwrap();
}
