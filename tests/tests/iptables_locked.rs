//! Another program holds iptables' lock for long: the state says who, nothing hangs, and what waited is in force soon after.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use shield_agent::test_support::api::types::PartStateName;
use shield_tests::agent::Agent;
use shield_tests::command;
use shield_tests::site::{ATTACKER, Site};
use shield_tests::wait;

/// XDP would drop the client meanwhile, and with sets the lock would not matter.
const LEGACY_RULES: &str = "[xdp]\nmode = \"off\"\n[iptables]\nbackend = \"rules\"\n";
const AT_MOST: Duration = Duration::from_secs(60);
/// From the end of the lock until the ban is in force: a check every 2 s finds what is missing. The rest is for a busy machine.
const RECOVERS_WITHIN: Duration = Duration::from_secs(12);

/// Programs that are found first and are iptables-legacy, whatever this host's are.
fn legacy_programs(folder: &Path) -> String {
    let programs = folder.join("bin");
    fs::create_dir(&programs).unwrap();
    for family in ["iptables", "ip6tables"] {
        for suffix in ["", "-save", "-restore"] {
            let legacy = format!("{family}-legacy{suffix}");
            let path = String::from_utf8(command::output(&["which", &legacy]).unwrap().stdout).unwrap();
            std::os::unix::fs::symlink(path.trim(), programs.join(format!("{family}{suffix}"))).unwrap();
        }
    }
    format!("PATH={}:{}", programs.display(), std::env::var("PATH").unwrap())
}

/// Holds the lock until it is killed.
struct Holder(Child);

impl Holder {
    fn new(lock: &Path) -> Holder {
        let mut flock = Command::new("flock");
        flock.arg("--no-fork").arg(lock).args(["sleep", "600"]).stdin(Stdio::null());
        let holder = Holder(flock.spawn().unwrap());
        let is_held = || {
            let other = command::output(&["flock", "--nonblock", lock.to_str().unwrap(), "true"])?;
            Ok((!other.status.success()).then_some(()))
        };
        wait::until("the lock to be held", AT_MOST, is_held).unwrap();
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// History: with the lock held for 12 s, a ban was in force after 26 s, and the state was active all the time.
#[test]
fn a_held_lock_is_named_and_what_waited_is_in_force_soon_after() {
    let site = Site::create(LEGACY_RULES).unwrap();
    let lock = site.home.folder().join("xtables.lock");
    File::create(&lock).unwrap();
    let path = legacy_programs(site.home.folder());
    let variable = format!("XTABLES_LOCKFILE={}", lock.display());
    let _agent = Agent::start_under(&["env", &path, &variable], &site.server, &site.home, &[]).unwrap();
    site.wait_until_protected().unwrap();

    let holder = Holder::new(&lock);
    site.home.command(&site.server, &["ban", &ATTACKER.to_string(), "--for", "10m"]).unwrap();
    let expected = format!("iptables is locked by PID {} (sleep)", holder.0.id());
    let state = |wanted: PartStateName| {
        let parts = site.status()?.parts;
        let found = parts.into_iter().find(|part| part.part == "iptables" && part.state == wanted);
        Ok(found.map(|part| part.text))
    };
    let said = wait::until("the state to say so", AT_MOST, || state(PartStateName::Degraded)).unwrap();
    assert!(said.contains(&expected), "{said}\n{}", site.home.log());
    let longer = || Ok(state(PartStateName::Degraded)?.filter(|said| said.contains("for over 5 s")));
    wait::until("the state to say for how long", AT_MOST, longer).unwrap();

    drop(holder);
    let freed = Instant::now();
    let dropped = || {
        let rules = site.server.run(&["iptables-legacy-save", "-t", "filter"])?;
        Ok(rules.contains(&format!("-s {ATTACKER}/32 -j DROP")).then_some(()))
    };
    wait::until("the ban to be in force", AT_MOST, dropped).unwrap();
    assert!(freed.elapsed() < RECOVERS_WITHIN, "after {:?}\n{}", freed.elapsed(), site.home.log());
    wait::until("the state to be good again", AT_MOST, || state(PartStateName::Active)).unwrap();
}

/// A lock that is held at the start: the agent runs, says why it drops nobody, and does as soon as it can.
#[test]
fn a_start_beside_a_held_lock_is_made_up_for() {
    let site = Site::create(LEGACY_RULES).unwrap();
    let lock = site.home.folder().join("xtables.lock");
    File::create(&lock).unwrap();
    let path = legacy_programs(site.home.folder());
    let variable = format!("XTABLES_LOCKFILE={}", lock.display());
    let holder = Holder::new(&lock);
    let _agent = Agent::start_under(&["env", &path, &variable], &site.server, &site.home, &[]).unwrap();
    let text = |wanted: PartStateName| {
        let parts = site.status()?.parts;
        Ok(parts
            .into_iter()
            .find(|part| part.part == "iptables" && part.state == wanted)
            .map(|part| part.text))
    };
    let said = wait::until("the state to say so", AT_MOST, || text(PartStateName::Degraded)).unwrap();
    assert!(said.contains("iptables is locked by PID"), "{said}");
    drop(holder);
    wait::until("the chains to be there", AT_MOST, || text(PartStateName::Active)).unwrap();
}
