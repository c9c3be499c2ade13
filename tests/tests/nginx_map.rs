//! nginx refuses the clients in the maps that it reads at a reload: a real nginx, reloaded by the agent, behind a "proxy" that claims any
//! client's address.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use shield_agent::test_support::clock;
use shield_agent::test_support::enforce::nginx::{Backend, MapEnforcer, NginxEnforcer, Settings};
use shield_agent::test_support::enforce::{Ban, Enforcer};
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::event::PartState;
use shield_engine::time::Ends;
use shield_tests::command;
use shield_tests::proxied::{Connection, ProxiedNginx};
use shield_tests::wait;

/// A refusal with an answer, so that the connection lives on.
const STATUS: u16 = 403;
const LONG: Duration = Duration::from_secs(3600);

struct Site {
    nginx: ProxiedNginx,
    settings: Settings,
    enforcer: MapEnforcer,
    folder: tempfile::TempDir,
}

impl Site {
    fn open(reload_every: Duration) -> Site {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        // nginx's workers are another user.
        fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
        let mut settings = Settings {
            folder: folder.path().join("deny"),
            status: STATUS,
            backend: Backend::Map,
            reload_every,
            ..Settings::default()
        };
        // Started before the agent has made any file.
        let nginx = ProxiedNginx::start_for(folder.path(), &settings).unwrap();
        settings.commands = nginx.commands();
        // It listens before it has a worker, which has the master's title at first; and a reload is only seen by those that it replaces.
        let workers: Vec<&str> = settings.commands.workers.iter().map(String::as_str).collect();
        wait::until("nginx's worker", Duration::from_secs(20), || {
            Ok(command::output(&workers)?.stdout)
                .map(|said| String::from_utf8_lossy(&said).contains("worker process").then_some(()))
        })
        .unwrap();
        let mut site = Site { nginx, enforcer: MapEnforcer::new(settings.clone()), settings, folder };
        site.restart();
        site
    }

    /// A new agent on the same files.
    fn restart(&mut self) {
        self.enforcer = MapEnforcer::new(self.settings.clone());
        self.enforcer.start(&[], clock::now()).unwrap();
    }

    fn ban(&mut self, text: &str) {
        let client: Client = text.parse().unwrap();
        let client = Allowlist::default().admit(client, 64).unwrap();
        let failures = self.enforcer.ensure_banned(&[Ban { client, ends: Ends::Never }], clock::now());
        assert!(failures.is_empty(), "{failures:?}");
    }

    fn lift(&mut self, text: &str) {
        let failures = self.enforcer.ensure_lifted(&[text.parse().unwrap()]);
        assert!(failures.is_empty(), "{failures:?}");
    }

    fn check(&self, refused: &[&str], served: &[&str]) {
        for (clients, expected) in [(refused, STATUS), (served, 200)] {
            for client in clients {
                assert_eq!(self.status(client), expected, "{client}: {:?}", self.enforcer.state());
            }
        }
    }

    fn status(&self, client: &str) -> u16 {
        self.nginx.connect().unwrap().get(client, "/").unwrap().0
    }

    fn degraded(&self) -> String {
        match self.enforcer.state() {
            PartState::Degraded { reason } => reason,
            state => panic!("{state:?}"),
        }
    }

    fn detail(&self) -> String {
        match self.enforcer.state() {
            PartState::Active { detail } => detail,
            state => panic!("{state:?}"),
        }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("nginx.conf")
    }
}

#[test]
fn a_client_is_refused_from_its_ban_to_its_lift() {
    let mut site = Site::open(Duration::ZERO);
    site.check(&[], &["192.0.2.1", "2001:db8::1"]);
    site.ban("192.0.2.1");
    site.ban("2001:db8::/64");
    let outside = ["192.0.2.2", "192.0.2.10", "2001:db8:0:1::1", "2001:db8:1::"];
    site.check(&["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8:0:0:ffff::"], &outside);
    assert!(site.detail().contains("nginx has read all changes"), "{}", site.detail());
    site.lift("192.0.2.1");
    site.lift("2001:db8::/64");
    site.check(&[], &["192.0.2.1", "2001:db8::1"]);
    for network in ["198.51.100.0/24", "203.0.113.64/27", "2001:db8:5::/48", "2001:db8:6::9/128"] {
        site.ban(network);
    }
    let inside = ["198.51.100.255", "203.0.113.95", "2001:db8:5:ffff::1", "2001:db8:6::9"];
    site.check(&inside, &["198.51.101.0", "203.0.113.96", "2001:db8:6::1", "2001:db8:6::8"]);
    let exempt = ["198.51.100.7/32".parse().unwrap(), "2001:db8:5:1::/64".parse().unwrap()];
    site.enforcer.ensure_exempt(&exempt).unwrap();
    site.check(&["198.51.100.8", "2001:db8:5:2::1"], &["198.51.100.7", "2001:db8:5:1::1"]);
    site.enforcer.ensure_exempt(&[]).unwrap();
    site.check(&["198.51.100.7", "2001:db8:5:1::1"], &[]);
    site.enforcer.cleanup().unwrap();
    site.check(&[], &["198.51.100.8", "203.0.113.70", "2001:db8:5::1"]);
}

/// A reload closes what is idle, so that the next request of a client meets a new worker. What is being answered is answered by the
/// old one to its end.
#[test]
fn connections_opened_before_a_ban_are_closed_when_they_are_idle() {
    let mut site = Site::open(Duration::ZERO);
    let mut idle = site.nginx.connect().unwrap();
    let mut idle_http2 = site.nginx.connect_http2().unwrap();
    assert_eq!(idle.get("192.0.2.1", "/").unwrap().0, 200);
    assert_eq!(idle_http2.get("192.0.2.1").unwrap(), 200);
    let mut answered = begin_slow(&site.nginx, "192.0.2.1");
    site.ban("192.0.2.1");
    let closed = Duration::from_secs(10);
    wait::until("nginx to close the idle connection", closed, || {
        Ok(idle.get("192.0.2.1", "/").is_err().then_some(()))
    })
    .unwrap();
    wait::until("nginx to close the idle HTTP/2 connection", closed, || {
        Ok(idle_http2.get("192.0.2.1").is_err().then_some(()))
    })
    .unwrap();
    site.check(&["192.0.2.1"], &["192.0.2.2"]);
    assert!(answered.goes_on().unwrap(), "an answer was cut off");
}

fn begin_slow(nginx: &ProxiedNginx, client: &str) -> Connection {
    let mut connection = nginx.connect().unwrap();
    connection.begin(client, "/slow").unwrap();
    connection
}

/// Somebody else's mistake costs nothing but time: it is told in nginx's words, and what waited is in force once it is mended.
#[test]
fn anybodys_typo_is_a_state_and_loses_nothing() {
    let mut site = Site::open(Duration::ZERO);
    site.ban("192.0.2.1");
    let right = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), right.replace("real_ip_header", "real_ip_haeder")).unwrap();
    let before = site.nginx.workers().unwrap();
    site.ban("192.0.2.2");
    site.lift("192.0.2.1");
    for part in ["unknown directive \"real_ip_haeder\"", "nginx.conf:", "nginx -t", "tried again"] {
        assert!(site.degraded().contains(part), "{part}: {}", site.degraded());
    }
    site.check(&["192.0.2.1"], &["192.0.2.2"]);
    // Checks try again, and so does the next agent.
    assert!(site.enforcer.is_intact(1).unwrap());
    site.restart();
    assert!(site.enforcer.reconcile(&desired(&["192.0.2.2"]), &[], clock::now()).unwrap().is_none());
    assert!(site.enforcer.is_intact(1).unwrap());
    assert!(site.degraded().contains("real_ip_haeder"), "{}", site.degraded());
    assert_eq!(site.nginx.workers().unwrap(), before, "nginx was reloaded with a wrong configuration");
    fs::write(site.config(), right).unwrap();
    assert!(site.enforcer.is_intact(1).unwrap());
    site.check(&["192.0.2.2"], &["192.0.2.1"]);
    assert!(site.detail().contains("nginx has read all changes"), "{}", site.detail());
}

/// With the unit's `Before=nginx.service`, systemd lets a reload of nginx wait until the agent is ready. An agent that was ready only
/// after the reload waited ten seconds at each start, and nginx's own start at boot with it.
#[test]
fn a_start_waits_for_no_reload() {
    let mut site = Site::open(Duration::ZERO);
    let workers = site.nginx.workers().unwrap();
    let repair = site.enforcer.reconcile(&desired(&["192.0.2.1"]), &[], clock::now()).unwrap().unwrap();
    assert_eq!((repair.restored, repair.removed), (1, 0));
    assert_eq!(site.nginx.workers().unwrap(), workers, "nginx was reloaded");
    assert!(site.detail().contains("wait for its next reload"), "{}", site.detail());
    assert!(site.enforcer.is_intact(1).unwrap());
    site.check(&["192.0.2.1"], &["192.0.2.2"]);
    // A later repair does not put it off.
    assert!(site.enforcer.reconcile(&desired(&["192.0.2.2"]), &[], clock::now()).unwrap().is_some());
    site.check(&["192.0.2.2"], &["192.0.2.1"]);
}

/// Where nothing tests the configuration first, `nginx -s reload` reports success and nginx goes on with the old one.
#[test]
fn a_reload_that_nginx_does_not_follow_is_noticed() {
    let mut site = Site::open(Duration::ZERO);
    site.settings.commands.test.clear();
    let pid = fs::read_to_string(site.folder.path().join("nginx.pid")).unwrap();
    site.settings.commands.reload = ["kill", "-HUP", pid.trim()].map(str::to_owned).to_vec();
    site.restart();
    let right = fs::read_to_string(site.config()).unwrap();
    fs::write(site.config(), right.replace("real_ip_header", "real_ip_haeder")).unwrap();
    site.ban("192.0.2.1");
    assert!(site.degraded().contains("no new workers"), "{}", site.degraded());
    site.check(&[], &["192.0.2.1"]);
    fs::write(site.config(), right).unwrap();
    assert!(site.enforcer.is_intact(1).unwrap());
    site.check(&["192.0.2.1"], &[]);
}

fn desired(clients: &[&str]) -> shield_agent::test_support::enforce::Desired {
    let mut desired = shield_agent::test_support::enforce::Desired::default();
    for (serial, text) in (1..).zip(clients) {
        let client = Allowlist::default().admit(text.parse().unwrap(), 64).unwrap();
        desired.insert(Ban { client, ends: Ends::Never }, serial);
    }
    desired
}

/// Also over a restart of the agent: one that crashes in a loop must not have nginx start workers each time.
#[test]
fn there_is_one_reload_in_the_configured_time() {
    let mut site = Site::open(LONG);
    site.ban("192.0.2.1");
    site.check(&["192.0.2.1"], &["192.0.2.2"]);
    let workers = site.nginx.workers().unwrap();
    for n in 2..50 {
        site.ban(&format!("192.0.2.{n}"));
    }
    assert!(site.detail().contains("wait for its next reload"), "{}", site.detail());
    let all: Vec<String> = (1..50).map(|n| format!("192.0.2.{n}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    for _ in 0..3 {
        site.restart();
        assert!(site.enforcer.reconcile(&desired(&all), &[], clock::now()).unwrap().is_none());
        assert!(site.enforcer.is_intact(49).unwrap());
    }
    assert_eq!(site.nginx.workers().unwrap(), workers);
    assert!(site.detail().contains("wait for its next reload"), "{}", site.detail());
    site.settings.reload_every = Duration::ZERO;
    site.restart();
    assert!(site.enforcer.reconcile(&desired(&all), &[], clock::now()).unwrap().is_none());
    assert!(site.enforcer.is_intact(49).unwrap());
    site.check(&["192.0.2.1", "192.0.2.49"], &["192.0.2.50"]);
}

/// Each generation of workers has the memory of a whole nginx, and a long answer keeps it.
#[test]
fn nginx_is_not_reloaded_while_three_generations_are_shutting_down() {
    let mut site = Site::open(Duration::ZERO);
    let mut held = Vec::new();
    for n in 1..=3 {
        held.push(begin_slow(&site.nginx, "198.51.100.1"));
        site.ban(&format!("192.0.2.{n}"));
        site.check(&[&format!("192.0.2.{n}")], &[]);
    }
    let before = site.nginx.workers().unwrap();
    site.ban("192.0.2.4");
    for part in ["3 generations", "worker_shutdown_timeout", "tried again"] {
        assert!(site.degraded().contains(part), "{part}: {}", site.degraded());
    }
    site.check(&["192.0.2.1", "192.0.2.3"], &["192.0.2.4"]);
    assert_eq!(site.nginx.workers().unwrap(), before);
    held.remove(0);
    wait::until("a generation to end and nginx to be reloaded", Duration::from_secs(20), || {
        site.enforcer.is_intact(4)?;
        Ok((site.status("192.0.2.4") == STATUS).then_some(()))
    })
    .unwrap();
}

/// A dead agent lifts nothing. nginx compares the time itself, and starts without any file of Shield's.
#[test]
fn what_a_dead_agent_has_left_ends_by_itself() {
    let mut site = Site::open(LONG);
    site.ban("192.0.2.1");
    site.check(&["192.0.2.1"], &[]);
    let map = site.settings.folder.join("map");
    let valid = fs::read_to_string(map.join("valid.map")).unwrap();
    let now = clock::now().wall_secs() / 10_000;
    assert!(valid.contains(&format!("({now}|")), "{valid} at {now}");
    let reload = || {
        let workers = site.nginx.workers().unwrap();
        let [program, arguments @ ..] = &site.settings.commands.reload[..] else { panic!() };
        assert!(std::process::Command::new(program).args(arguments).status().unwrap().success());
        wait::until("new workers alone", Duration::from_secs(10), || {
            let is = site.nginx.workers()?;
            Ok(is.split(' ').all(|id| id.is_empty() || !workers.contains(id)).then_some(()))
        })
        .unwrap();
    };
    // Twelve hours later the present time is in none of the blocks.
    let blocks: Vec<String> = (now - 5..now).map(|block| block.to_string()).collect();
    fs::write(map.join("valid.map"), format!("\"~^({})[0-9]{{4}}\\.\" 1;\n", blocks.join("|"))).unwrap();
    reload();
    site.check(&[], &["192.0.2.1"]);
    fs::remove_dir_all(&site.settings.folder).unwrap();
    reload();
    site.check(&[], &["192.0.2.1"]);
}

#[test]
fn a_change_of_the_backend_leaves_nothing_of_the_other() {
    let mut site = Site::open(Duration::ZERO);
    site.ban("192.0.2.1");
    let mut files = NginxEnforcer::new(site.settings.clone());
    files.start(&[], clock::now()).unwrap();
    assert!(!site.settings.folder.join("map").exists());
    site.check(&[], &["192.0.2.1"]);
    let client = Allowlist::default().admit("192.0.2.2".parse().unwrap(), 64).unwrap();
    assert!(files.ensure_banned(&[Ban { client, ends: Ends::Never }], clock::now()).is_empty());
    assert!(site.settings.folder.join("192.0.2.2").exists());
    site.restart();
    assert!(!site.settings.folder.join("192.0.2.2").exists());
    site.enforcer.cleanup().unwrap();
    assert!(!site.settings.folder.exists());
}
