//! The page in Chromium: runs the tests of `tests/browser` under node. Missing tools are found here, so that the error
//! names them instead of a stack trace.
//!
//! Alone: Chromium keeps every core busy, and has 3 s to show a ban.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use shield_tests::agent::Agent;
use shield_tests::site::{ATTACKER, SERVER, Site};
use shield_tests::traffic::{Behaviour, Requester};

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the workspace")
}

/// Finds a program on `PATH`; fails with its name.
fn tool(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: `cargo xtask setup` installs it"))
}

/// Fails with the command that creates the file.
fn require(file: &str, by: &str) {
    assert!(workspace().join(file).exists(), "{file} is missing: `{by}` creates it");
}

/// Two Chromiums at once take as long as one after the other, and each has the other one to wait for.
static CHROMIUM: Mutex<()> = Mutex::new(());

/// Runs test files of `tests/browser`; fails with their output.
fn node_tests(files: &[&str], environment: &[(&str, &str)]) {
    let _one = CHROMIUM.lock().unwrap_or_else(PoisonError::into_inner);
    let node = tool("node");
    let chromium = tool("chromium");
    require("tests/browser/node_modules/playwright-core", "cargo xtask setup");
    require("tests/browser/node_modules/axe-core", "cargo xtask setup");
    require("dashboard/web/node_modules/esbuild", "cargo xtask setup");
    require("dashboard/web/dist/app.js", "cargo xtask build");
    let output = Command::new(node)
        .args(["--test", "--test-reporter=spec"])
        .args(files)
        .current_dir(workspace().join("tests/browser"))
        .env("SHIELD_CHROMIUM", chromium)
        .env("SHIELD_SCREENSHOTS", workspace().join("target/page-screenshots"))
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("node is there, so it starts");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_pages_logic_needs_no_browser() {
    node_tests(&["logic.test.mjs"], &[]);
}

#[test]
fn the_page_shows_and_does_what_it_should_in_chromium() {
    node_tests(&["page.test.mjs"], &[]);
}

#[test]
fn the_page_looks_as_it_should_in_chromium() {
    node_tests(&["looks.test.mjs"], &[]);
}

/// The attacker's paths. The page must show the first one as text.
const ATTACK: &[&str] = &["/<script>window.hacked=1</script>", "/", "/search", "/login"];
/// The address of the page inside the server's namespace.
const PAGE: &str = "127.0.0.1:8080";
/// Time limit for both enforcers to lift the ban.
const TIME_TO_FORGET: Duration = Duration::from_secs(10);

#[test]
fn the_page_of_the_real_agent_shows_and_lifts_a_ban_and_outlives_a_restart() {
    let _one = CHROMIUM.lock().unwrap_or_else(PoisonError::into_inner);
    let node = tool("node");
    let chromium = tool("chromium");
    require("tests/browser/node_modules/playwright-core", "cargo xtask setup");
    assert!(dashboard::was_built(), "the agent has no page embedded: run `cargo xtask build` first");
    let site = Site::create(&format!("[page]\nlisten = \"{PAGE}\"\n")).unwrap();
    let mut world = World { agent: Some(site.start_agent(&[]).unwrap()), attack: None, site };

    let token = std::fs::read_to_string(world.site.home.folder().join("state/api-token")).unwrap();
    let mut command = Command::new(node);
    command
        .args(["--test-reporter=spec", "agent.test.mjs"])
        .current_dir(workspace().join("tests/browser"))
        .env("SHIELD_CHROMIUM", chromium)
        .env("SHIELD_SCREENSHOTS", workspace().join("target/page-screenshots"))
        .env("SHIELD_PAGE", format!("http://{PAGE}/"))
        .env("SHIELD_TOKEN", token.trim())
        .env("SHIELD_ATTACKER", ATTACKER.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut browser = world.site.server.enter(|| command.spawn()).unwrap();
    let printed = world.attend(&mut browser);
    assert!(browser.wait().unwrap().success(), "{printed}\nthe agent's log:\n{}", world.site.home.log());
}

/// Everything outside the browser.
struct World {
    // Dropped first, while the site is still there.
    attack: Option<Requester>,
    agent: Option<Agent>,
    site: Site,
}

impl World {
    /// Performs the steps that the browser requests until it ends; returns its other output.
    fn attend(&mut self, browser: &mut Child) -> String {
        let mut answers = browser.stdin.take().expect("it was asked for as a pipe");
        let output = browser.stdout.take().expect("it was asked for as a pipe");
        let mut printed = String::new();
        for line in BufReader::new(output).lines() {
            let line = line.unwrap();
            let Some(step) = line.strip_prefix("world: ") else {
                printed.push_str(&line);
                printed.push('\n');
                continue;
            };
            let answer = match self.perform(step) {
                Ok(()) => "done".to_owned(),
                Err(error) => format!("{error:#}").replace('\n', " "),
            };
            // Fails only if the browser has ended; its exit code is checked.
            let _ = writeln!(answers, "{answer}");
        }
        printed
    }

    fn perform(&mut self, step: &str) -> Result<()> {
        match step {
            "attack" => self.attack = Some(Requester::start(&self.site.street, attack())),
            "end the attack" => drop(self.attack.take()),
            "stop the agent" => drop(self.agent.take().context("the agent is not running")?.stop()?),
            "start the agent" => self.agent = Some(self.site.start_agent(&[])?),
            "serve the attacker" => drop(self.site.wait_until_served(ATTACKER, TIME_TO_FORGET)?),
            unknown => bail!("there is no step `{unknown}`"),
        }
        Ok(())
    }
}

/// About 300 requests a second: a flood, which is banned even during the warm-up.
fn attack() -> Behaviour {
    Behaviour {
        server: SERVER,
        from: Some(ATTACKER),
        paths: ATTACK,
        pause: Duration::from_millis(10),
        timeout: Duration::from_millis(400),
        threads: 3,
    }
}
