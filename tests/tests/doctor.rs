//! `doctor`, `health` and `support` beside a real agent, nginx and firewall: troubles are brought about one after the other, and each
//! is named, and gone when it is mended.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use shield_tests::agent::Agent;
use shield_tests::site::{ATTACKER, Site};
use shield_tests::wait;

const NO_PAGE: &str = "[page]\nenabled = false\n";
const PATIENCE: Duration = Duration::from_secs(30);

/// A program that behaves as `nginx` does on a machine whose configuration is the site's.
fn nginx_of(site: &Site) -> PathBuf {
    let folder = site.home.folder().join("nginx");
    let path = site.home.folder().join("nginx-of-the-site");
    let text = format!("#!/bin/sh\nexec nginx -c {0}/nginx.conf -e {0}/error.log \"$@\"\n", folder.display());
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The causes that the doctor names, without notes.
fn causes(site: &Site) -> BTreeSet<String> {
    let nginx = nginx_of(site);
    let arguments = ["doctor", "--json", "--nginx", nginx.to_str().unwrap()];
    let output = site.home.command_output(&site.server, &arguments).unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = answer["found"].as_array().unwrap();
    let problems = all.iter().filter(|found| found["severity"] != "note");
    let causes: BTreeSet<String> =
        problems.map(|found| found["cause"].as_str().unwrap().to_owned()).collect();
    let code = if causes.is_empty() { 0 } else { 1 };
    assert_eq!(output.status.code(), Some(code), "{answer}");
    causes
}

/// Waits until the doctor names exactly this: the agent notices by itself what was mended.
fn until_causes_are(site: &Site, expected: &[&str]) {
    let expected: BTreeSet<String> = expected.iter().map(|&cause| cause.to_owned()).collect();
    let mut last = BTreeSet::new();
    wait::until("the doctor's diagnosis", PATIENCE, || {
        last = causes(site);
        Ok((last == expected).then_some(()))
    })
    .unwrap_or_else(|error| panic!("{expected:?} became {last:?}: {error:#}\n{}", site.home.log()));
}

/// The exit code and the line.
fn health(site: &Site, more: &[&str]) -> (i32, String) {
    let output = site.home.command_output(&site.server, &[&["health"], more].concat()).unwrap();
    (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn signal(agent: &Agent, signal: Signal) {
    kill(Pid::from_raw(agent.pid().try_into().unwrap()), signal).unwrap();
}

#[test]
fn what_is_wrong_is_named_and_what_is_mended_is_not() {
    let site = Site::create(NO_PAGE).unwrap();
    until_causes_are(&site, &["agent_not_running"]);
    let (code, line) = health(&site, &[]);
    assert!(code == 2 && line.starts_with("SHIELD CRITICAL - could not connect"), "{code} {line}");

    let agent = site.start_agent(&[]).unwrap();
    until_causes_are(&site, &[]);
    let (code, line) = health(&site, &[]);
    assert!(code == 0 && line.starts_with("SHIELD OK - iptables, xdp active; 0 bans"), "{code} {line}");

    // nginx goes on with the file that was renamed.
    let log = site.nginx.access_log().to_owned();
    fs::rename(&log, log.with_extension("log.1")).unwrap();
    fs::write(&log, "").unwrap();
    until_causes_are(&site, &["log_moved"]);
    site.nginx.reopen_log().unwrap();
    until_causes_are(&site, &[]);

    let config = site.home.config();
    let right = fs::read_to_string(&config).unwrap();
    fs::write(&config, "[bann]\n").unwrap();
    until_causes_are(&site, &["config_refused"]);
    fs::write(&config, &right).unwrap();

    let nginx = site.home.folder().join("nginx/nginx.conf");
    let alone = fs::read_to_string(&nginx).unwrap();
    let second = format!("access_log {};\n  client_body_temp_path", log.display());
    fs::write(&nginx, alone.replace("client_body_temp_path", &second)).unwrap();
    until_causes_are(&site, &["requests_twice"]);
    let proxied = "set_real_ip_from 198.51.100.0/24;\n  client_body_temp_path";
    fs::write(&nginx, alone.replace("client_body_temp_path", proxied)).unwrap();
    until_causes_are(&site, &["proxied_kernel_only"]);
    fs::write(&nginx, &alone).unwrap();

    signal(&agent, Signal::SIGSTOP);
    let causes = causes(&site);
    let (code, line) = health(&site, &["--timeout", "1s"]);
    signal(&agent, Signal::SIGCONT);
    assert_eq!(causes, BTreeSet::from(["agent_hangs".to_owned()]));
    assert!(code == 2 && line.contains("no answer within 1 s"), "{code} {line}");
    until_causes_are(&site, &[]);

    agent.stop().unwrap();
    let agent = Agent::start(&site.server, &site.home, &["--dry-run"]).unwrap();
    until_causes_are(&site, &["dry_run"]);
    assert_eq!((health(&site, &[]).0, health(&site, &["--only-critical"]).0), (1, 0));
    agent.stop().unwrap();
}

/// iptables alone, and kept out of the chains that forwarded packets pass: a container engine that publishes ports by nftables'
/// own tables leaves no rule that iptables lists.
#[test]
fn a_port_that_nftables_publishes_is_named_where_nothing_guards_it() {
    let site = Site::create(&format!("{NO_PAGE}[xdp]\nmode = \"off\"\n[iptables]\nhooks = []\n")).unwrap();
    let agent = site.start_agent(&[]).unwrap();
    until_causes_are(&site, &[]);
    // As netavark writes it.
    let table = "table inet netavark { chain NETAVARK-HOSTPORT-DNAT { type nat hook prerouting priority dstnat; \
                 tcp dport 8080 dnat ip to 10.88.0.5:80; }; }";
    site.server.run(&["nft", table]).unwrap();
    until_causes_are(&site, &["container_ports"]);
    site.server.run(&["nft", "delete table inet netavark"]).unwrap();
    until_causes_are(&site, &[]);
    agent.stop().unwrap();
}

#[test]
fn the_file_for_whoever_helps_has_the_rule_and_not_the_address() {
    let site = Site::create(&format!("{NO_PAGE}[ban]\nterms = [\"1h\"]\n")).unwrap();
    let agent = site.start_agent(&[]).unwrap();
    site.ban_attacker("1h").unwrap();
    let path = site.home.folder().join("support.tar.gz");
    let nginx = nginx_of(&site);
    let arguments = ["support", "--output", path.to_str().unwrap(), "--nginx", nginx.to_str().unwrap()];
    let said = site.home.command(&site.server, &arguments).unwrap();
    assert!(said.contains("look into it before you send it"), "{said}");
    let mut text = String::new();
    flate2::read::GzDecoder::new(fs::File::open(&path).unwrap()).read_to_string(&mut text).unwrap();
    assert!(text.contains("-A SHIELD -s ip4-"), "the rule is not in it");
    assert!(text.contains("\"health\": "), "the status is not in it");
    assert!(!text.contains(&ATTACKER.to_string()), "the attacker's address is in it");
    agent.stop().unwrap();
}
