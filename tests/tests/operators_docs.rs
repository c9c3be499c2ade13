//! Every command that the README and the operators' documentation tell a reader to type is run by a test: Shield's own here, as they
//! stand there, beside a real agent; each of another program by the test that is named for it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use shield_tests::agent::{self, Agent};
use shield_tests::site::{Site, VISITOR};

const FILES: [&str; 3] = ["README.md", "docs/operating.md", "docs/troubleshooting.md"];

/// How a command begins, the file that runs it, and how it stands there.
const ELSEWHERE: [(&str, &str, &str); 20] = [
    ("cargo xtask dist", ".ci/build", "cargo xtask dist"),
    ("cargo xtask lab", ".ci/integration", "cargo xtask lab"),
    ("cargo xtask test", ".ci/run", "cargo xtask test"),
    ("apt install ./", "tests/vm/run.sh", "apt install --yes ./shield.deb"),
    ("apt remove shield", "tests/vm/run.sh", "apt remove --yes shield"),
    ("apt purge shield", "tests/vm/run.sh", "apt purge --yes shield"),
    ("systemctl enable --now shield", "tests/vm/run.sh", "systemctl enable --now shield"),
    ("systemctl restart shield", "tests/vm/run.sh", "systemctl restart shield"),
    ("systemctl stop shield", "tests/vm/run.sh", "systemctl stop shield"),
    ("journalctl -u shield -n", "tests/vm/run.sh", "journalctl -u shield -n"),
    ("ufw reload", "tests/vm/run.sh", "ufw reload"),
    ("nginx -s reopen", "tests/vm/run.sh", "nginx -s reopen"),
    ("ssh -L 8080:127.0.0.1:8080", "tests/vm/run.sh", "-L 8080:127.0.0.1:8080"),
    ("packaging/rolling-update.sh", ".ci/rehearse", "packaging/rolling-update.sh"),
    (
        "docker build --file packaging/container/Containerfile",
        ".ci/image",
        "--file packaging/container/Containerfile",
    ),
    (
        "docker compose --file packaging/container/compose.yaml",
        "tests/vm/run.sh",
        "container/compose.yaml --project-name shield",
    ),
    ("shield-agent upgrade ./shield-agent", "tests/tests/upgrade.rs", r#""shield-agent", "upgrade""#),
    ("mv /usr/bin/shield-agent.before-upgrade", "tests/tests/upgrade.rs", r#""mv", &kept"#),
    ("cargo xtask attack", "xtask/src/attack.rs", "attack"),
    (
        "curl --unix-socket /run/shield/control.sock http://localhost/api/v1/sites",
        "tests/tests/nginx_sites.rs",
        "/api/v1/sites",
    ),
];

/// Those that are for a machine on which no agent runs.
const BEFORE_A_START: [&str; 7] = ["init", "replay", "suggest", "learn", "run", "completions", "cleanup"];

/// What others' tools print, in place of an installed one.
const STAND_INS: [(&str, &str); 2] = [
    ("fail2ban-client", "[{'sshd': ['198.51.100.200']}, {'nginx-http-auth': []}]"),
    (
        "cscli",
        r#"[{"decisions":[{"duration":"3h59m","origin":"crowdsec","scenario":"http-probing","scope":"Ip","type":"ban","value":"198.51.100.201"}]}]"#,
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What a reader would type: each line after `$` or `#` in a block of the kind `console`.
fn commands() -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    for file in FILES {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let mut is_inside = false;
        for line in text.lines() {
            if line.starts_with("```") {
                is_inside = line == "```console";
                continue;
            }
            let typed = line.strip_prefix("# ").or_else(|| line.strip_prefix("$ ")).filter(|_| is_inside);
            found.extend(
                typed.map(|typed| (file, typed.split("  #").next().unwrap_or(typed).trim().to_owned())),
            );
        }
    }
    found
}

/// A folder with a `shield-agent` and the stand-ins, for the shell to find them in.
fn programs(site: &Site) -> PathBuf {
    let folder = site.home.folder().join("programs");
    fs::create_dir(&folder).unwrap();
    symlink(agent::binary().unwrap(), folder.join("shield-agent")).unwrap();
    for (name, output) in STAND_INS {
        let path = folder.join(name);
        fs::write(&path, format!("#!/bin/sh\ncat <<'END'\n{output}\nEND\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    folder
}

/// Types it, with this site's files in place of a server's.
fn type_in(site: &Site, programs: &Path, command: &str) -> Output {
    let folder = site.home.folder();
    let there = |name: &str| folder.join(name).display().to_string();
    let command = command
        .replace("/var/log/nginx/access.log", site.nginx.access_log().to_str().unwrap())
        .replace("/tmp/bans", &there("bans"))
        .replace("/etc/bash_completion.d/shield-agent", &there("completion"));
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(&command).current_dir(folder).stdin(Stdio::null());
    shell.env("PATH", path).env("SHIELD_CONFIG", site.home.config()).env("SHIELD_SOCKET", site.home.socket());
    site.server.enter(|| shell.output()).unwrap()
}

/// The exit codes that are answers.
fn answers(verb: &str) -> &'static [i32] {
    match verb {
        // The doctor finds something on a machine that has just been made; nothing was rejected or repaired.
        "doctor" | "health" => &[0, 1],
        // Too few visitors to tell what is normal.
        "suggest" => &[0, 1],
        "status" | "check" => &[0, 5],
        _ => &[0],
    }
}

#[test]
fn every_documented_command_is_run() {
    let site = Site::create("[page]\nlisten = \"127.0.0.1:8080\"\n").unwrap();
    let programs = programs(&site);
    for _ in 0..50 {
        site.request(VISITOR).unwrap();
    }
    let all = commands();
    let is_elsewhere = |command: &str| ELSEWHERE.iter().any(|(begins, _, _)| command.starts_with(begins));
    let (ours, others): (Vec<_>, Vec<_>) = all.iter().partition(|(_, command)| {
        (command.starts_with("shield-agent ") && !is_elsewhere(command))
            || STAND_INS.iter().any(|(name, _)| command.starts_with(name))
    });
    assert!(
        ours.len() >= 40,
        "only {} commands were found: does this test still read the documents?",
        ours.len()
    );
    for (file, command) in others {
        let found = ELSEWHERE.iter().find(|(begins, _, _)| command.starts_with(begins));
        let (_, test, needle) = found.unwrap_or_else(|| panic!("{file}: no test runs `{command}`"));
        let text = fs::read_to_string(root().join(test)).unwrap();
        assert!(text.contains(needle), "{file}: {test} does not run `{command}`");
    }
    let verb = |command: &str| command.split_whitespace().nth(1).unwrap().to_owned();
    let (before, beside): (Vec<_>, Vec<_>) =
        ours.into_iter().partition(|(_, command)| BEFORE_A_START.contains(&verb(command).as_str()));
    let run = |file: &str, command: &str| {
        let output = type_in(&site, &programs, command);
        let code = output.status.code().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(answers(&verb(command)).contains(&code), "{file}: `{command}` ended with {code}: {stderr}");
    };
    for (file, command) in before {
        match verb(command).as_str() {
            // Goes on until it is ended.
            "run" => {
                let command =
                    command.replace("/var/log/nginx/access.log", site.nginx.access_log().to_str().unwrap());
                let more: Vec<&str> = command.split_whitespace().skip(2).collect();
                assert!(more.contains(&"--dry-run"), "{file}: `{command}`");
                let agent = Agent::start(&site.server, &site.home, &more).unwrap();
                assert!(agent.stop().unwrap().success(), "{file}: `{command}`\n{}", site.home.log());
            }
            // For a machine on which nothing was learned yet.
            "learn" => {
                let _ = fs::remove_dir_all(site.home.folder().join("state"));
                run(file, command);
            }
            _ => run(file, command),
        }
    }
    let _agent = site.start_agent(&[]).unwrap();
    for (file, command) in beside {
        // Whoever reads how to lift his ban has one; the documents have lifted all by then, and allowed him for a while.
        if command.contains("unban 198.51.100.7") {
            site.home.command(&site.server, &["allow", "--remove", "198.51.100.7"]).unwrap();
            site.home.command(&site.server, &["ban", "198.51.100.7", "--for", "1h"]).unwrap();
        }
        run(file, command);
    }
}
