//! `shield-agent upgrade` under a real systemd, with the shipped unit: each gate blocks and lets through, a healthy version takes over
//! while a banned client goes on asking, an unhealthy one is taken back.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use serde_json::Value;
use shield_tests::command;
use shield_tests::site::{ATTACKER, Site, VISITOR};
use shield_tests::systemd::{FILES, INSTALLED, Machine, stripped_agent};
use shield_tests::traffic::count_lost;

struct Setup {
    machine: Machine,
    site: Site,
}

impl Setup {
    fn start() -> Setup {
        let site = Site::create("").unwrap();
        let agent = stripped_agent(site.home.folder()).unwrap();
        let machine = Machine::boot(&site, &agent, "[page]\nenabled = false\n").unwrap();
        machine.start().unwrap();
        Setup { machine, site }
    }

    /// The file that is built here is in the site's folder, which is `FILES` in the machine.
    fn path(&self, name: &str) -> PathBuf {
        self.site.home.folder().join(name)
    }

    /// Another version, which is the agent but for `defines`.
    fn shim(&self, name: &str, defines: &[&str]) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/shim.c");
        let real = format!("-DREAL=\"{FILES}/shield-agent\"");
        let path = self.path(name);
        let mut argv = vec!["cc", "-O2", "-o", path.to_str().unwrap(), source.to_str().unwrap(), &real];
        argv.extend(defines);
        command::run(&argv).unwrap();
    }

    fn upgrade(&self, name: &str, more: &[&str]) -> Output {
        let file = format!("{FILES}/{name}");
        self.machine.output(&[&["shield-agent", "upgrade", &file], more].concat()).unwrap()
    }

    fn refused(&self, name: &str, more: &[&str], expected: &str) {
        let installed = self.installed();
        let output = self.upgrade(name, more);
        let said = text(&output);
        assert_ne!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(expected), "{name}: {expected} is not in: {said}");
        assert_eq!(self.installed(), installed, "nothing was installed");
    }

    fn let_through(&self, name: &str, more: &[&str], expected: &str) {
        let output = self.upgrade(name, &[more, &["--dry-run"]].concat());
        let said = text(&output);
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(expected), "{name}: {expected} is not in: {said}");
    }

    fn installed(&self) -> String {
        self.machine.run(&["sha256sum", INSTALLED]).unwrap()
    }

    fn main_pid(&self) -> String {
        self.machine.run(&["systemctl", "show", "shield", "--property=MainPID", "--value"]).unwrap()
    }

    /// The texts of the changes on record of this step.
    fn recorded(&self, step: &str) -> Vec<String> {
        let log = self.machine.run(&["cat", "/var/log/shield/audit.jsonl"]).unwrap();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let changes = lines.filter(|line| line["event"] == "change" && line["step"] == step);
        changes.map(|line| line["text"].as_str().unwrap().to_owned()).collect()
    }
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

#[test]
fn each_gate_blocks_and_lets_through() {
    let setup = Setup::start();
    let machine = &setup.machine;
    setup.site.request(VISITOR).unwrap();
    let pid = setup.main_pid();

    // Whose file it is, before anything of it is run.
    setup.let_through("shield-agent", &[], "it would be installed");
    fs::set_permissions(setup.path("shield-agent"), fs::Permissions::from_mode(0o777)).unwrap();
    setup.refused("shield-agent", &[], "others than its owner may write it");
    fs::set_permissions(setup.path("shield-agent"), fs::Permissions::from_mode(0o755)).unwrap();
    setup.refused("shield-agent", &["--sha256", "00"], "its SHA-256 is");
    fs::copy("/bin/true", setup.path("other")).unwrap();
    setup.refused("other", &[], "no shield-agent");

    // The configuration.
    let config = machine.run(&["cat", "/etc/shield/shield.toml"]).unwrap();
    let put = |text: &str| {
        fs::write(setup.path("config"), text).unwrap();
        machine.run(&["cp", &format!("{FILES}/config"), "/etc/shield/shield.toml"]).unwrap();
    };
    fs::write(setup.path("wrong.toml"), "[detect]\nno_such_key = 1\n").unwrap();
    let wrong = format!("-DCONFIG=\"{FILES}/wrong.toml\"");
    setup.shim("refuses-config", &["-DCOMMAND=\"check\"", &wrong]);
    setup.refused("refuses-config", &[], "no_such_key");
    put(&format!("{config}\n[detect]\nno_such_key = 1\n"));
    setup.refused("shield-agent", &[], "no_such_key");
    put(&config);
    setup.let_through("shield-agent", &[], "config      accepted");

    // The database: of a copy, which holds the ban.
    machine.run(&["shield-agent", "ban", "192.0.2.250", "--for", "1h"]).unwrap();
    setup.shim(
        "cannot-read",
        &["-DCOMMAND=\"proof\"", "-DSECOND=\"store\"", "-DSAYS=\"could not read the table bans\""],
    );
    setup.refused("cannot-read", &[], "the database: could not read the table bans");
    setup.let_through("shield-agent", &[], "database    1 ban,");

    // The verifier.
    setup.shim(
        "no-verifier",
        &["-DCOMMAND=\"proof\"", "-DSECOND=\"xdp\"", "-DSAYS=\"could not load the XDP program shield\""],
    );
    setup.refused("no-verifier", &[], "XDP: could not load the XDP program shield");
    setup.let_through("shield-agent", &[], "the verifier accepts the program");

    // The last hour: a flood that the rules of the agent do not ban, and those of the other version do.
    for path in 0..30 {
        setup.site.street.enter(|| {
            let get = shield_tests::http::Get {
                server: shield_tests::site::SERVER,
                from: Some(VISITOR),
                path: &format!("/page-{}.html", path % 3),
                timeout: Duration::from_secs(2),
            };
            get.send().unwrap();
        });
    }
    fs::write(setup.path("strict.toml"), "[detect]\nflood.page_requests = 2\nflood.page_secs = 30\n")
        .unwrap();
    let strict = format!("-DCONFIG=\"{FILES}/strict.toml\"");
    setup.shim("judges-otherwise", &["-DCOMMAND=\"replay\"", &strict]);
    setup.refused("judges-otherwise", &[], "only the new version: 198.51.100.7 ");
    setup.let_through("judges-otherwise", &["--accept-differences"], "the differences are accepted");
    setup.let_through("shield-agent", &[], "both make the same");

    assert_eq!(setup.main_pid(), pid, "the agent was never restarted");
    let refused = setup.recorded("upgrade_refused");
    assert!(refused.len() >= 5 && refused.iter().all(|text| text.contains("SHA-256")), "{refused:?}");
    assert!(setup.recorded("upgraded").is_empty(), "a dry run is no upgrade");
}

#[test]
fn a_healthy_version_takes_over_without_an_answer_for_a_banned_client_and_an_unhealthy_one_is_taken_back() {
    let setup = Setup::start();
    let machine = &setup.machine;
    machine.run(&["shield-agent", "ban", &ATTACKER.to_string(), "--for", "1h"]).unwrap();
    shield_tests::wait::until("the ban to be in force", Duration::from_secs(10), || {
        Ok(setup.site.request(ATTACKER)?.is_none().then_some(()))
    })
    .unwrap();
    let attacker = setup.site.persistent_attacker();
    let (pid, before) = (setup.main_pid(), setup.installed());

    // Other bytes, the same agent.
    setup.shim("next", &["-DCOMMAND=\"none\""]);
    let output = setup.upgrade("next", &[]);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}{}", machine.journal());
    assert!(said.contains("healthy     "), "{said}");
    assert_ne!(setup.main_pid(), pid);
    let next = setup.installed();
    assert_ne!(next, before);
    assert_eq!(setup.recorded("upgraded").len(), 1);

    // Back by hand, as the documentation has it, and the same once more.
    let kept = format!("{INSTALLED}.before-upgrade");
    machine.run(&["mv", &kept, INSTALLED]).unwrap();
    machine.run(&["systemctl", "restart", "shield"]).unwrap();
    machine.start().unwrap();
    assert_eq!(setup.installed(), before, "the old one was kept");
    assert!(setup.upgrade("next", &[]).status.success(), "{}", machine.journal());

    // One that ends at once, and one that never is ready: taken back, in words, and with an exit code.
    setup.shim("dies", &["-DCOMMAND=\"run\"", "-DSAYS=\"broken\""]);
    setup.shim("hangs", &["-DCOMMAND=\"run\"", "-DHANGS"]);
    for unhealthy in ["dies", "hangs"] {
        let output = setup.upgrade(unhealthy, &["--healthy-within", "8s"]);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}{}", machine.journal());
        assert!(said.contains("was not healthy within 8 s"), "{said}");
        assert!(said.contains("is back and healthy"), "{said}{}", machine.journal());
        assert_eq!(setup.installed(), next, "{unhealthy} is gone");
        let status = machine.json(&["status"]).unwrap();
        assert_eq!(status["bans"]["active"], 1, "no ban is lost: {status}");
    }
    assert_eq!(setup.recorded("upgrade_rolled_back").len(), 2);

    let samples = attacker.stop();
    assert!(samples.len() > 20, "{}", samples.len());
    assert_eq!(count_lost(&samples), samples.len(), "the banned client was answered");
    assert!(setup.site.request(VISITOR).unwrap().is_some());
}

/// A file of a Debian package is left to the package manager.
#[test]
fn a_packages_file_is_left_to_the_package_manager() {
    let setup = Setup::start();
    let owner = "shield: /usr/local/sbin/shield-agent";
    let script = format!("#!/bin/sh\n[ \"$2\" = {INSTALLED} ] && echo '{owner}'\n");
    fs::write(setup.path("dpkg"), script).unwrap();
    setup.machine.run(&["install", "-m", "0755", &format!("{FILES}/dpkg"), "/usr/bin/dpkg"]).unwrap();
    setup.refused("shield-agent", &[], "belongs to the package shield");
    setup.let_through("shield-agent", &[], "whose next version replaces");
}
