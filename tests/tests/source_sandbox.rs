//! What `check` says of logs that the unit's sandbox hides, and that the drop-in it names shows them.
//!
//! There is no systemd as process 1 here, so its mounts are made by hand in a mount namespace, as `systemd.exec(5)` and its
//! `namespace.c` have them: `ProtectHome=yes` binds an empty folder of mode 000, `/run/systemd/inaccessible/dir`, over /home;
//! `ProtectHome=tmpfs` mounts an empty read-only tmpfs there, and `BindReadOnlyPaths=` a folder into it; `PrivateTmp=yes` binds
//! `/tmp/systemd-private-…/tmp` over /tmp.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shield_tests::agent::{self, Agent, Home};
use shield_tests::netns::Namespace;
use shield_tests::{unit, wait};

/// `check` takes a fraction of a second; the unit waits for it before every start.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `mounts` and then `check` in a mount namespace of its own; returns what it says of the log.
fn check_under(mounts: &str, log: &str) -> String {
    let folder = tempfile::tempdir_in("/var/tmp").unwrap();
    let config = folder.path().join("shield.toml");
    std::fs::write(&config, format!("[[source]]\npath = '{log}'\n")).unwrap();
    // The agent is opened first: it may be below one of the folders that something is mounted over.
    let script = format!(
        "set -e\nexec 9<\"$0\"\nmount --make-rprivate /\n\
         mount -t tmpfs tmpfs /home\nmkdir -p /home/anna/logs /home/anna/mail\n\
         echo '{LINE}' > /home/anna/logs/access.log\n{mounts}\n\
         exec /proc/self/fd/9 check --config \"$1\""
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    command.arg(agent::binary().unwrap()).arg(&config);
    let started = Instant::now();
    let output = command.output().unwrap();
    assert!(started.elapsed() < PATIENCE, "it waited");
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}{stderr}");
    let logs: Vec<&str> = stdout.lines().filter(|line| line.starts_with("log ")).collect();
    logs.join("\n")
}

const LINE: &str = r#"192.0.2.7 - - [05/Jan/2026:08:00:00 +0000] "GET / HTTP/1.1" 200 1 "-" "-""#;

const HOME_HIDDEN: &str = "\
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/inaccessible/dir
chmod 000 /run/systemd/inaccessible/dir
mount --bind /run/systemd/inaccessible/dir /home
mount -o remount,bind,ro,nosuid,nodev,noexec /home";

/// What the drop-in makes of it.
const HOME_SHOWN: &str = "\
mkdir /run/keep-logs
mount --bind /home/anna/logs /run/keep-logs
mount -t tmpfs -o mode=755 tmpfs /home
mkdir -p /home/anna/logs
mount --bind /run/keep-logs /home/anna/logs
mount -o remount,bind,ro /home/anna/logs
mount -o remount,ro /home";

#[test]
fn a_log_that_protect_home_hides_is_named_with_the_drop_in_that_shows_it() {
    let said = check_under(HOME_HIDDEN, "/home/anna/logs/access.log");
    assert!(
        said.contains("ProtectHome=yes") && said.contains("BindReadOnlyPaths=-/home/anna/logs,"),
        "{said}"
    );
}

#[test]
fn the_drop_in_shows_the_log_and_nothing_else() {
    let shown = HOME_SHOWN.replace("mkdir /run/keep-logs", "mount -t tmpfs tmpfs /run\nmkdir /run/keep-logs");
    let said = check_under(&shown, "/home/anna/logs/access.log");
    assert!(said.contains("the last 1 line read"), "{said}");
    let said = check_under(&shown, "/home/anna/mail/access.log");
    assert!(
        said.contains("ProtectHome=tmpfs") && said.contains("BindReadOnlyPaths=-/home/anna/mail "),
        "{said}"
    );
}

#[test]
fn a_log_in_the_private_tmp_is_named() {
    let mounts = "mount -t tmpfs tmpfs /tmp\nmkdir -p /tmp/systemd-private-4f2b-shield.service-Ab/tmp\n\
                  mount --bind /tmp/systemd-private-4f2b-shield.service-Ab/tmp /tmp";
    let said = check_under(mounts, "/tmp/access.log");
    assert!(said.contains("PrivateTmp=yes"), "{said}");
}

/// History: `check` waited for ever for a program to write to the pipe, and it is the unit's `ExecStartPre`.
#[test]
fn check_waits_for_nothing() {
    let said = check_under("mkfifo /home/anna/pipe", "/home/anna/pipe");
    assert!(said.contains("a named pipe"), "{said}");
    assert!(check_under("", "/dev/null").contains("a device"));
    assert!(check_under("", "/home/berta/logs/a.log").contains("there is no folder /home/berta"));
}

/// `ExecReload=` as shipped, in the unit's sandbox, and SIGHUP as other programs send it.
#[test]
fn the_units_reload_works_and_a_wrong_file_changes_nothing() {
    let (namespace, home) = (Namespace::create("reload").unwrap(), Home::create().unwrap());
    let log = home.folder().join("access.log");
    fs::write(&log, "").unwrap();
    let configure =
        |more: &str| home.configure(&log, "", &format!("[page]\nenabled = false\n{more}")).unwrap();
    configure("");
    let agent = Agent::start_in_unit(&namespace, &home, &["--dry-run"]).unwrap();
    let words = unit::words_of("ExecReload").unwrap();
    assert_eq!(words[0], "/usr/bin/shield-agent");
    let launcher = unit::launcher(&home, &[]).unwrap();
    let reload = || {
        let mut command = Command::new(&launcher[0]);
        command.args(&launcher[1..]).arg(agent::binary().unwrap()).args(&words[1..]);
        let output = command.env("SHIELD_SOCKET", home.socket()).output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        (output.status.success(), said)
    };
    configure("[ban]\nmax_bans = 9\n");
    let (is_done, said) = reload();
    assert!(is_done && said.contains("max_bans"), "{said}");

    configure("[ban]\nmax_share = 20\n[xdpp]\n");
    let mistakes = ["[ban] max_share = 20", "unknown key `xdpp`"];
    let (is_done, said) = reload();
    assert!(!is_done && mistakes.iter().all(|mistake| said.contains(mistake)), "{said}");
    let so_far = home.log().len();
    // The text has the second of the refusal, so that the next one is another.
    wait::sleep(Duration::from_millis(1_100)).unwrap();
    kill(Pid::from_raw(agent.pid() as i32), Signal::SIGHUP).unwrap();
    wait::until("all mistakes to be in the journal", PATIENCE, || {
        let journal = home.log().split_off(so_far);
        Ok(mistakes.iter().all(|mistake| journal.contains(mistake)).then_some(()))
    })
    .unwrap();
    let said = home.command_output(&namespace, &["status"]).unwrap();
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.contains("stays in force"), "{said}");
    assert!(agent.stop().unwrap().success(), "{}", home.log());
}
