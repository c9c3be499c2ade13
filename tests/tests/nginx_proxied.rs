//! The agent beside an nginx behind a proxy: an attacker is refused by nginx itself, everybody else behind the same proxy is
//! served, with the agent there or not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use shield_agent::test_support::api::types::{PartStateName, Status};
use shield_tests::agent::{Agent, Home};
use shield_tests::netns::Namespace;
use shield_tests::proxied::{Connection, ProxiedNginx};
use shield_tests::wait;

const ATTACKER: &str = "203.0.113.66";
const VISITORS: [&str; 4] = ["198.51.100.7", "203.0.113.67", "2001:db8:1::1", "2001:db8:2::1"];
/// nginx keeps the connection open after this one.
const STATUS: u16 = 403;
const PATIENCE: Duration = Duration::from_secs(20);

struct World {
    _agent: Agent,
    proxy: Connection,
    nginx: ProxiedNginx,
    server: Namespace,
    home: Home,
    denied: PathBuf,
    _run: tempfile::TempDir,
}

/// nginx's folder is in /dev/shm, which the unit's sandbox leaves writable, as it leaves /run where it is by default.
fn start_agent(server: &Namespace, home: &Home) -> Agent {
    Agent::start_in_unit(server, home, &[]).unwrap()
}

impl World {
    fn create() -> World {
        let server = Namespace::create("server").unwrap();
        let home = Home::create().unwrap();
        let run = tempfile::tempdir_in("/dev/shm").unwrap();
        std::fs::set_permissions(run.path(), Permissions::from_mode(0o755)).unwrap();
        let (folder, denied) = (home.folder().join("nginx"), run.path().join("deny"));
        std::fs::create_dir(&folder).unwrap();
        let nginx = ProxiedNginx::start(&folder, &denied, STATUS).unwrap();
        let more = format!(
            "[iptables]\nmode = \"off\"\n[xdp]\nmode = \"off\"\n[page]\nenabled = false\n\
             [nginx]\nmode = \"required\"\nfolder = {denied:?}\nstatus = {STATUS}\n"
        );
        home.configure(nginx.access_log(), "", &more).unwrap();
        let agent = start_agent(&server, &home);
        let proxy = nginx.connect().unwrap();
        World { _agent: agent, proxy, nginx, server, home, denied, _run: run }
    }

    fn status_of(&mut self, client: &str, path: &str) -> u16 {
        self.proxy.get(client, path).unwrap().0
    }

    /// Asks until the answer has this status: the operator's command has returned before nginx's folder is changed.
    fn until_status_is(&mut self, client: &str, expected: u16) {
        let deadline = Instant::now() + PATIENCE;
        while self.status_of(client, "/") != expected {
            assert!(Instant::now() < deadline, "{client} never got {expected}: {}", self.home.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn check_visitors(&mut self) {
        for visitor in VISITORS {
            assert_eq!(self.status_of(visitor, "/"), 200, "{visitor}");
        }
    }

    fn status(&self) -> Status {
        serde_json::from_value(self.home.json(&self.server, &["status"]).unwrap()).unwrap()
    }

    /// Probes until nginx refuses; returns the number of probes that were answered.
    fn attack(&mut self) -> u32 {
        let deadline = Instant::now() + PATIENCE;
        for number in 0.. {
            if self.status_of(ATTACKER, &format!("/.git/config{number}")) == STATUS {
                return number;
            }
            assert!(Instant::now() < deadline, "not refused: {}", self.home.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        unreachable!()
    }
}

#[test]
fn an_attacker_behind_a_proxy_is_refused_and_nobody_else() {
    let mut world = World::create();
    world.check_visitors();
    let answered = world.attack();
    assert!(answered < 200, "{answered} probes were answered");
    world.check_visitors();
    let part = world.status().parts.into_iter().find(|part| part.part == "nginx").unwrap();
    assert_eq!(part.state, PartStateName::Active, "{}", part.text);
    let bans = world.home.command(&world.server, &["bans", "--json"]).unwrap();
    assert!(bans.contains(ATTACKER) && bans.contains("\"nginx\""), "{bans}");

    // It goes on and gets nothing: what nginx refuses is no leak.
    for _ in 0..50 {
        assert_eq!(world.status_of(ATTACKER, "/"), STATUS);
    }
    let lines = 50 + answered;
    wait::until("the agent to read the refusals", PATIENCE, || {
        Ok((world.status().totals.requests >= u64::from(lines)).then_some(()))
    })
    .unwrap();
    let events = world.home.command(&world.server, &["events", "--json"]).unwrap();
    assert!(!events.contains("leaking"), "{events}");

    world.home.command(&world.server, &["unban", ATTACKER]).unwrap();
    world.until_status_is(ATTACKER, 200);
    world.home.command(&world.server, &["ban", "2001:db8:2::/48", "--for", "1h"]).unwrap();
    world.until_status_is("2001:db8:2:5::1", STATUS);
    assert_eq!(world.status_of("2001:db8:3::1", "/"), 200);
}

#[test]
fn without_the_agent_the_site_goes_on_and_cleanup_leaves_nothing() {
    let mut world = World::create();
    world.home.command(&world.server, &["ban", ATTACKER, "--for", "1h"]).unwrap();
    world.until_status_is(ATTACKER, STATUS);
    let World { _agent: agent, mut proxy, nginx, server, home, denied, _run } = world;
    drop(agent);
    assert_eq!(proxy.get(ATTACKER, "/").unwrap().0, STATUS, "a restart opens no gap");
    assert_eq!(proxy.get(VISITORS[0], "/").unwrap().0, 200);
    let agent = start_agent(&server, &home);
    assert_eq!(proxy.get(ATTACKER, "/").unwrap().0, STATUS, "the ban survives the restart");
    agent.stop().unwrap();
    home.command(&server, &["cleanup"]).unwrap();
    assert!(!denied.exists(), "{denied:?} is left");
    assert_eq!(proxy.get(ATTACKER, "/").unwrap().0, 200);
    drop(nginx);
}
