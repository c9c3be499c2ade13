//! Disposable environments, made and taken down by the real binary with real nginxes and agents.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use shield_lab::command::run;
use shield_lab::state::State;
use shield_tests::rehearse::Labs;
use shield_tests::wait;

/// From `lab up` to the first answer of an environment: 1 s on a quiet machine, and 15 s are promised; others run here.
const FIRST_ANSWER: Duration = Duration::from_secs(120);
/// An environment is gone so long after its end at the latest, and not before its end. 2 s are promised for a quiet machine.
const LATE: Duration = Duration::from_secs(60);
/// Other tests run at the same time.
const PATIENCE: Duration = Duration::from_secs(180);

/// Asks the server of an environment from one of its machines, and returns the status; 0 without an answer.
fn ask(id: &str, machine: &str, path: &str) -> u16 {
    ask_at(id, machine, "192.0.2.80", path)
}

fn ask_at(id: &str, machine: &str, server: &str, path: &str) -> u16 {
    let namespace = format!("shl-{id}-{machine}");
    let url = format!("http://{server}{path}");
    let argv = [
        "ip",
        "netns",
        "exec",
        &namespace,
        "curl",
        "-s",
        "-m",
        "1",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        &url,
    ];
    let output = shield_lab::command::output(&argv).unwrap();
    String::from_utf8_lossy(&output.stdout).parse().unwrap_or(0)
}

/// The number of bans that the agent of an environment has made.
fn bans(labs: &Labs, id: &str) -> usize {
    let socket = labs.folder().join("labs").join(id).join("server/control.sock");
    let binary = shield_tests::agent::binary().unwrap();
    let argv = [&*binary.to_string_lossy(), "--socket", &socket.to_string_lossy(), "bans", "--json"];
    let answer: Value = serde_json::from_str(&run(&argv).unwrap()).unwrap();
    answer.as_array().or_else(|| answer["bans"].as_array()).unwrap().len()
}

/// What scanners ask for, one after the other: who asks for the same missing file again and again is only slowed.
const PROBES: [&str; 12] = [
    "/.env",
    "/.git/config",
    "/wp-login.php",
    "/phpmyadmin/index.php",
    "/.aws/credentials",
    "/backup.sql",
    "/cgi-bin/luci",
    "/actuator/env",
    "/.svn/entries",
    "/xmlrpc.php",
    "/admin/config.php",
    "/vendor/phpunit/phpunit/phpunit.xml",
];

/// Attacks an environment until its agent bans the attacker, who then gets no answer.
fn attack(labs: &Labs, id: &str) {
    let mut probes = PROBES.iter().cycle();
    wait::until("the attacker to be banned", PATIENCE, || {
        ask(id, "attackers", probes.next().unwrap());
        Ok((bans(labs, id) > 0).then_some(()))
    })
    .unwrap();
    wait::until("the attacker to be dropped", PATIENCE, || {
        Ok((ask(id, "attackers", "/.env") == 0).then_some(()))
    })
    .unwrap();
}

#[test]
fn an_environment_serves_is_watched_and_leaves_nothing() {
    let labs = Labs::create("one").unwrap();
    let began = Instant::now();
    labs.up().unwrap();
    let id = labs.make(0, &[]).unwrap();
    assert_eq!(labs.front(&format!("{id}.localhost")).unwrap(), 200);
    assert!(began.elapsed() <= FIRST_ANSWER, "{:?}", began.elapsed());
    assert_eq!(labs.front("nobody.localhost").unwrap(), 404);
    assert!(labs.run(&["list"]).unwrap().contains(&id));
    assert!(labs.run(&["logs", &id, "-n", "5"]).unwrap().contains("server/log/access.log"));

    // An attacker is banned by the real agent, and nobody else.
    attack(&labs, &id);
    assert_eq!(bans(&labs, &id), 1);
    for visitor in ["alice", "bob", "erin"] {
        assert_eq!(ask(&id, visitor, "/"), 200, "{visitor}");
    }

    // Three bad looks degrade it; recovering makes it good again.
    let health = || -> Value {
        serde_json::from_slice(&labs.output(&["health", &id, "--json"]).unwrap().stdout).unwrap()
    };
    let until = |condition: &str| {
        wait::until(condition, PATIENCE, || Ok((health()["condition"] == condition).then_some(())))
    };
    until("good").unwrap();
    labs.run(&["outage", &id, "--mode", "crash"]).unwrap();
    until("degraded").unwrap();
    let bad = health()["samples"].as_array().unwrap().iter().filter(|it| it.get("error").is_some()).count();
    assert!(bad >= 3, "{}", health());
    labs.run(&["outage", &id, "--mode", "recover"]).unwrap();
    until("good").unwrap();

    let said = labs.run(&["destroy", &id]).unwrap();
    let archive = labs.folder().join(format!("archive/{id}.tar.gz"));
    assert!(said.contains(&*archive.to_string_lossy()) && archive.is_file(), "{said}");
    assert_eq!(labs.front(&format!("{id}.localhost")).unwrap(), 404);
    labs.run(&["down"]).unwrap();
    labs.ensure_gone().unwrap();
}

#[test]
fn ten_at_once_do_not_hear_of_each_other() {
    let labs = Labs::create("ten").unwrap();
    labs.up().unwrap();
    let ids: Vec<String> = std::thread::scope(|scope| {
        let labs = &labs;
        let made: Vec<_> = (0..10).map(|n| scope.spawn(move || labs.make(n, &[]).unwrap())).collect();
        made.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    attack(&labs, &ids[0]);
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(bans(&labs, id), usize::from(n == 0), "{id}");
        assert_eq!(ask(id, "alice", &format!("/only-{n}")), 404);
        // The same addresses, and each has its own log. nginx writes a line after it has answered.
        let log = labs.folder().join("labs").join(id).join("server/log/access.log");
        let asked = |other: usize, log: &str| log.contains(&format!("/only-{other}\""));
        let log = wait::until("the request to be logged", PATIENCE, || {
            let log = fs::read_to_string(&log)?;
            Ok(asked(n, &log).then_some(log))
        })
        .unwrap();
        assert_eq!((0..10).filter(|other| asked(*other, &log)).collect::<Vec<_>>(), [n]);
    }
    labs.run(&["down"]).unwrap();
    labs.ensure_gone().unwrap();
}

#[test]
fn an_environment_ends_at_its_time() {
    let labs = Labs::create("ttl").unwrap();
    labs.up().unwrap();
    let id = labs.make(0, &["--ttl", "8s"]).unwrap();
    let state = State::of(Some(labs.folder())).unwrap();
    let ends = Duration::from_millis(state.find(&id).unwrap().ends_boot_ms);
    wait::until("the environment to end", PATIENCE, || {
        Ok((!labs.folder().join("labs").join(&id).exists()).then_some(()))
    })
    .unwrap();
    let now = shield_lab::state::since_boot().unwrap();
    assert!(now >= ends, "it ended {:?} before its time", ends - now);
    assert!(now - ends <= LATE, "it ended {:?} after its time", now - ends);
}

#[test]
fn after_kill_dash_nine_the_next_service_leaves_nothing_of_five() {
    let labs = Labs::create("kill").unwrap();
    labs.up().unwrap();
    for n in 0..5 {
        labs.make(n, &[]).unwrap();
    }
    kill(Pid::from_raw(labs.service().unwrap()), Signal::SIGKILL).unwrap();
    assert!(!labs.leftovers().unwrap().is_empty());
    labs.up().unwrap();
    assert_eq!(labs.run(&["list", "--json"]).unwrap().trim(), "[]");

    // Without a next one, `down` does the same.
    labs.make(5, &[]).unwrap();
    kill(Pid::from_raw(labs.service().unwrap()), Signal::SIGKILL).unwrap();
    labs.run(&["down"]).unwrap();
    labs.ensure_gone().unwrap();
}

#[test]
fn the_operators_own_nginx_runs_and_its_mistakes_are_told_by_file_and_line() {
    let labs = Labs::create("own").unwrap();
    let own = tempfile::tempdir().unwrap();
    let folder = own.path().to_string_lossy().into_owned();
    fs::create_dir(own.path().join("sites")).unwrap();
    let main = format!(
        "user root;\npid /run/nginx.pid;\nevents {{}}\nhttp {{\n  access_log /var/log/nginx/shop.log;\n  \
         include {folder}/sites/*;\n}}\n"
    );
    fs::write(own.path().join("nginx.conf"), main).unwrap();
    let site = "upstream app { server 10.9.9.9:3000; }\nserver {\n  listen 203.0.113.5:80;\n  server_name shop.test;\n  \
                location / { proxy_pass http://app; }\n}\nserver {\n  listen 203.0.113.5:443 ssl;\n  server_name shop.test;\n  \
                ssl_certificate /nowhere/a.pem;\n  ssl_certificate_key /nowhere/a.key;\n  location / { proxy_pass http://app; }\n}\n";
    fs::write(own.path().join("sites/shop"), site).unwrap();
    let id = labs.make(0, &["--nginx", &folder]).unwrap();
    assert_eq!(ask(&id, "alice", "/"), 200);
    let state = State::of(Some(labs.folder())).unwrap();
    assert_eq!(state.find(&id).unwrap().host.as_deref(), Some("shop.test"));
    attack(&labs, &id);
    labs.run(&["destroy", &id]).unwrap();

    fs::write(own.path().join("sites/shop"), site.replace("server_name", "server_nam")).unwrap();
    let error = format!("{:#}", labs.make(1, &["--nginx", &folder]).unwrap_err());
    assert!(error.contains(&format!("\"server_nam\" in {folder}/sites/shop:4")), "{error}");
    labs.ensure_gone().unwrap();
}

#[test]
fn behind_a_proxy_in_a_container_and_in_a_fleet_the_attacker_is_banned() {
    let labs = Labs::create("pro").unwrap();
    for (n, profile) in ["cdn", "container", "fleet"].into_iter().enumerate() {
        let id = labs.make(n, &["--profile", profile]).unwrap();
        let entry = if profile == "cdn" { "203.0.113.10" } else { "192.0.2.80" };
        let mut probes = PROBES.iter().cycle();
        wait::until(&format!("the attacker to be kept out ({profile})"), PATIENCE, || {
            // The proxy answers 502 where nginx closes the connection.
            let is_out = matches!(ask_at(&id, "attackers", entry, probes.next().unwrap()), 0 | 502);
            Ok((bans(&labs, &id) == 1 && is_out).then_some(()))
        })
        .unwrap();
        labs.run(&["destroy", &id]).unwrap();
    }
    labs.ensure_gone().unwrap();
}
