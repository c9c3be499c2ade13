//! The agent in the shipped unit's sandbox, with `[nginx] backend = "map"` and a real nginx outside of it.
//!
//! There is no systemd and no Docker here. What both are for the agent's commands is played by a daemon on a socket that runs nginx for
//! whoever asks, as `systemd-run` and `docker exec` have it run: outside of the sandbox.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use shield_agent::test_support::api::types::{PartStateName, Status};
use shield_agent::test_support::enforce::nginx::{Backend, Commands, Settings};
use shield_tests::agent::{Agent, Home};
use shield_tests::netns::Namespace;
use shield_tests::proxied::ProxiedNginx;
use shield_tests::wait;

const STATUS: u16 = 403;
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    nginx: ProxiedNginx,
    server: Namespace,
    home: Home,
    settings: Settings,
    run: tempfile::TempDir,
}

impl World {
    fn create() -> World {
        let server = Namespace::create("server").unwrap();
        let home = Home::create().unwrap();
        // The sandbox leaves it writable.
        let run = tempfile::tempdir_in("/run").unwrap();
        std::fs::set_permissions(run.path(), Permissions::from_mode(0o755)).unwrap();
        let settings = Settings {
            folder: run.path().join("deny"),
            status: STATUS,
            backend: Backend::Map,
            ..Settings::default()
        };
        let folder = run.path().join("nginx");
        std::fs::create_dir(&folder).unwrap();
        let nginx = ProxiedNginx::start_for(&folder, &settings).unwrap();
        World { nginx, server, home, settings, run }
    }

    fn start_agent(&self, commands: &Commands) -> Agent {
        self.start_agent_with("on", commands)
    }

    fn start_agent_with(&self, mode: &str, commands: &Commands) -> Agent {
        let Commands { test, reload, workers, .. } = commands;
        let more = format!(
            "[iptables]\nmode = \"off\"\n[xdp]\nmode = \"off\"\n[page]\nenabled = false\n\
             [nginx]\nmode = \"{mode}\"\nbackend = \"map\"\nfolder = {:?}\nstatus = {STATUS}\n\
             test_command = {test:?}\nreload_command = {reload:?}\nworkers_command = {workers:?}\n",
            self.settings.folder
        );
        self.home.configure(self.nginx.access_log(), "", &more).unwrap();
        Agent::start_in_unit(&self.server, &self.home, &[]).unwrap()
    }

    fn status_of(&self, client: &str) -> u16 {
        self.nginx.connect().unwrap().get(client, "/").unwrap().0
    }

    fn until_status_is(&self, client: &str, expected: u16) {
        wait::until("nginx to answer otherwise", PATIENCE, || {
            Ok((self.status_of(client) == expected).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{client} never got {expected}: {error:#}\n{}", self.home.log()));
    }

    /// None until the enforcer's thread has told its first state, which may be after the agent answers.
    fn part(&self) -> Option<(PartStateName, String)> {
        let status: Status =
            serde_json::from_value(self.home.json(&self.server, &["status"]).unwrap()).unwrap();
        let part = status.parts.into_iter().find(|part| part.part == "nginx")?;
        Some((part.state, part.text))
    }

    fn until_part_says(&self, expected: PartStateName, words: &str) {
        wait::until("the part nginx to say so", PATIENCE, || {
            let is_said = |(state, detail): (_, String)| state == expected && detail.contains(words);
            Ok(self.part().is_some_and(is_said).then_some(()))
        })
        .unwrap_or_else(|error| panic!("{error:#}: {:?}\n{}", self.part(), self.home.log()));
    }
}

/// Runs these for whoever asks, until the test ends. Returns the commands that ask.
fn daemon(folder: &Path, commands: Commands) -> Commands {
    let socket = folder.join("daemon.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let Commands { test, reload, workers, .. } = commands;
    let served = [("/test", test), ("/reload", reload), ("/workers", workers)];
    std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| answer(stream, &served)));
    let ask = |what: &str| {
        let words = ["curl", "-sS", "--fail-with-body", "--unix-socket", socket.to_str().unwrap()];
        words.iter().map(|word| (*word).to_owned()).chain([format!("http://daemon/{what}")]).collect()
    };
    Commands { copy: Vec::new(), test: ask("test"), reload: ask("reload"), workers: ask("workers") }
}

fn answer(mut stream: UnixStream, served: &[(&str, Vec<String>)]) {
    let mut head = [0; 1024];
    let length = stream.read(&mut head).unwrap_or(0);
    let head = String::from_utf8_lossy(&head[..length]).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    let (_, argv) = served.iter().find(|(name, _)| *name == path).unwrap();
    let ended = Command::new(&argv[0]).args(&argv[1..]).output().unwrap();
    let said = [ended.stdout, ended.stderr].concat();
    let status = if ended.status.success() { "200 OK" } else { "500 Failed" };
    let _ =
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", said.len());
    let _ = stream.write_all(&said);
}

#[test]
fn a_ban_reaches_nginx_out_of_the_sandbox_and_ends_there() {
    let world = World::create();
    let commands = daemon(world.run.path(), world.nginx.commands());
    let agent = world.start_agent(&commands);
    let command = |arguments: &[&str]| world.home.command(&world.server, arguments).unwrap();
    command(&["ban", "203.0.113.66"]);
    world.until_status_is("203.0.113.66", STATUS);
    assert_eq!(world.status_of("203.0.113.67"), 200);
    // Less than a reload's distance later.
    command(&["unban", "203.0.113.66"]);
    command(&["ban", "2001:db8::7"]);
    world.until_status_is("2001:db8::7", STATUS);
    world.until_status_is("203.0.113.66", 200);
    world.until_part_says(PartStateName::Active, "nginx has read all changes");
    // A killed agent leaves everything as it is, and the next one has no reason to reload.
    let workers = world.nginx.workers().unwrap();
    agent.kill().unwrap();
    assert_eq!((world.status_of("2001:db8::7"), world.status_of("203.0.113.66")), (STATUS, 200));
    let agent = world.start_agent(&commands);
    world.until_part_says(PartStateName::Active, "nginx has read all changes");
    assert_eq!(world.nginx.workers().unwrap(), workers);
    agent.stop().unwrap();
    command(&["cleanup"]);
    world.until_status_is("2001:db8::7", 200);
    assert!(!world.settings.folder.exists());
}

/// Why the defaults ask systemd: nginx itself cannot work in the sandbox, and says so.
#[test]
fn nginx_inside_the_sandbox_is_refused_in_its_own_words() {
    let world = World::create();
    let config = world.run.path().join("nginx/nginx.conf");
    let own_log: PathBuf = world.run.path().join("nginx/access.log");
    let text = std::fs::read_to_string(&config).unwrap();
    // As on a host: the log in a folder that the service may not write to, and a port below 1024.
    let hosts = text.replace(own_log.to_str().unwrap(), "/var/log/shield-test-access.log");
    std::fs::write(&config, hosts.replace("set_real_ip_from", "listen 80;\n set_real_ip_from")).unwrap();
    let _agent = world.start_agent(&world.nginx.commands());
    world.home.command(&world.server, &["ban", "203.0.113.66"]).unwrap();
    world.until_part_says(PartStateName::Degraded, "[emerg]");
    let (_, said) = world.part().unwrap();
    assert!(said.contains("Read-only file system") || said.contains("Permission denied"), "{said}");
    assert_eq!(world.status_of("203.0.113.66"), 200);
}

/// Another enforcer would be missing too: somebody's typo in nginx's configuration is no reason that the agent does not start.
#[test]
fn a_typo_before_the_start_keeps_no_required_agent_away() {
    let world = World::create();
    let config = world.run.path().join("nginx/nginx.conf");
    let right = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, right.replace("real_ip_header", "real_ip_haeder")).unwrap();
    let commands = daemon(world.run.path(), world.nginx.commands());
    let agent = world.start_agent_with("required", &commands);
    world.home.command(&world.server, &["ban", "203.0.113.66"]).unwrap();
    world.until_part_says(PartStateName::Degraded, "unknown directive \"real_ip_haeder\"");
    // The next one is told nothing at first, because nginx is not asked again so soon.
    agent.kill().unwrap();
    let _agent = world.start_agent_with("required", &commands);
    world.until_part_says(PartStateName::Degraded, "unknown directive \"real_ip_haeder\"");
    assert_eq!(world.status_of("203.0.113.66"), 200);
    std::fs::write(&config, right).unwrap();
    world.until_part_says(PartStateName::Active, "nginx has read all changes");
    world.until_status_is("203.0.113.66", STATUS);
}
