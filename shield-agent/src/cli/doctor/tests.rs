//! Every cause, seeded: from facts of a healthy machine, one thing is changed, and the doctor has to name that and nothing else.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Parser as _;
use serde_json::json;

use super::Report;
use super::causes::{CAUSES, Severity, diagnose};
use super::facts::{Agent, Answers, Chains, Disk, Facts, Firewall, Log, Network, Nginx, Unit};
use crate::api::types::{Part, PartStateName, SourceStatus, Status, WarmUp};
use crate::cli::Cli;
use crate::cli::check::logs;
use crate::cli::init;
use crate::cli::print::Colour;
use crate::config::Config;
use crate::text::doctor::Step;

/// 2026-11-24T15:00:00Z.
const NOW_MS: i64 = 1_795_532_400_000;
const LOG: &str = "/var/log/nginx/access.log";

fn part(name: &str, state: PartStateName, text: &str) -> Part {
    Part { part: name.into(), label: name.into(), state, text: text.into() }
}

/// As the API's own example, with the parts of a machine that is protected.
pub(in crate::cli) fn status() -> Status {
    let parts = [("iptables", "3 single rules, first in INPUT"), ("xdp", "eth0: native"), ("store", "open")];
    let parts: Vec<Part> =
        parts.into_iter().map(|(name, text)| part(name, PartStateName::Active, text)).collect();
    let counts = json!({ "requests": 9, "errors": 0, "rejected": 0, "salvaged": 0, "bans": 0, "lifts": 0 });
    serde_json::from_value(json!({
        "version": env!("CARGO_PKG_VERSION"), "now_ms": NOW_MS, "started_ms": NOW_MS - 60_000, "dry_run": false,
        "health": "ok", "parts": parts, "sources": [],
        "detector": { "state": "active", "text": "profile default", "profile": "default", "reference": "adaptive",
            "warm_up": null, "frozen": false, "blast_radius": null, "clients": 9, "max_clients": 100, "evicted": 0 },
        "global": { "rate": 1.0, "error_rate": 0.0, "window_secs": 60, "anomaly": null },
        "baseline": { "mean": 1.0, "stddev": 0.1, "error_mean": 0.0, "source": "hour_slot", "samples": 9,
            "client_mean": null, "client_stddev": null },
        "hour_profile": [], "totals": counts, "rejected": {}, "bans": { "active": 0, "permanent": 0 },
        "dropped": crate::api::types::Dropped::default(),
        "agent": { "cpu_percent": 0.0, "memory_bytes": 1, "uptime_secs": 60, "threads": 9 },
        "host": { "name": "web1", "cpu_percent": 0.0, "cores": 2, "load_1min": 0.0, "memory_used_bytes": 1,
            "memory_total_bytes": 2, "uptime_secs": 60 }
    }))
    .unwrap()
}

/// The log's lines, read as `check` reads them.
fn log_of(text: &str) -> Log {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    std::fs::write(&path, text).unwrap();
    let config = Config::parse(&format!("[[source]]\npath = {path:?}")).unwrap();
    let mut checked = logs::look(&config).logs.remove(0);
    (checked.path, checked.source) = (LOG.to_owned(), LOG.to_owned());
    Log { checked, exists: true, is_denied: false, modified_ms: Some(NOW_MS - 1_000) }
}

/// Lines of twenty clients of a network, the newest of this minute.
fn lines(network: &str, hour_and_minute: &str) -> String {
    let line = |n: u32| {
        let at = format!("24/Nov/2026:{hour_and_minute}:{n:02} +0000");
        format!("{network}.{n} - - [{at}] \"GET /page/{n} HTTP/1.1\" 200 5 \"-\" \"-\"\n")
    };
    (10..30).map(line).collect()
}

fn nginx(http: &str) -> Nginx {
    let text = format!("# configuration file /etc/nginx/nginx.conf:\nhttp {{\n{http}\n}}\n");
    Nginx { is_running: true, examined: Some(init::examine(&text)), moved: Vec::new() }
}

const ACCESS_LOG: &str = "access_log /var/log/nginx/access.log;";

fn healthy() -> Facts {
    let chains = |program: &str| Chains {
        program: program.to_owned(),
        has_chain: true,
        rules_before: Some(0),
        is_forwarded_covered: false,
    };
    Facts {
        now_ms: NOW_MS,
        agent: Agent::Answers(Box::new(Answers { status: status(), allowed: Vec::new() })),
        config: Ok(config("")),
        config_path: "/etc/shield/shield.toml".into(),
        unit: Some(Unit {
            is_loaded: true,
            active: "active".to_owned(),
            result: "success".to_owned(),
            file: "enabled".to_owned(),
        }),
        logs: vec![log_of(&lines("203.0.113", "14:59"))],
        without_logs: Vec::new(),
        nginx: nginx(ACCESS_LOG),
        firewall: Some(Firewall {
            families: vec![chains("iptables"), chains("ip6tables")],
            ..Firewall::default()
        }),
        network: Network { default_routes: vec![("eth0".to_owned(), Vec::new())], other_agent: None },
        disk: Disk { free_bytes: 1 << 33, ..Disk::default() },
        kernel: (6, 1),
        alerts: Vec::new(),
        unseen: Vec::new(),
    }
}

fn config(text: &str) -> Config {
    Config::parse(text).unwrap()
}

/// Changes what the agent answers.
fn answer(facts: &mut Facts, change: impl FnOnce(&mut Answers)) {
    let Agent::Answers(answers) = &mut facts.agent else { panic!("it does not answer") };
    change(answers);
}

fn set_part(facts: &mut Facts, name: &str, state: PartStateName, text: &str) {
    answer(facts, |answers| {
        answers.status.parts.retain(|part| part.part != name);
        answers.status.parts.push(part(name, state, text));
    });
}

/// The agent's view of its source.
fn set_source(facts: &mut Facts, state: &str, text: &str) {
    set_part(facts, &format!("source:{LOG}"), PartStateName::Degraded, text);
    let source: SourceStatus = serde_json::from_value(json!({
        "source": LOG, "lines": 9, "bytes": 99, "rejected": 0, "salvaged": 0, "logs": 1, "lag_bytes": 0,
        "lag_secs": null, "last_line_ms": NOW_MS, "format": "combined", "lines_per_sec": 0.0,
        "rejected_percent": null, "rejected_by": {}, "state": state,
    }))
    .unwrap();
    answer(facts, |answers| answers.status.sources = vec![source]);
}

fn silence(facts: &mut Facts) {
    facts.agent = Agent::Silent("nobody answers on /run/shield/control.sock (No such file)".to_owned());
}

fn chains(facts: &mut Facts) -> &mut Vec<Chains> {
    &mut facts.firewall.as_mut().unwrap().families
}

use PartStateName::{Active, Degraded, Off};
use Severity::{Note, Partly, Unprotected};

/// The cause, how bad it is, how to bring it about, and what has to be said.
type Seed = (&'static str, Severity, fn(&mut Facts), &'static [&'static str]);

const SEEDS: &[Seed] = &[
    (
        "agent_not_running",
        Unprotected,
        |facts| {
            silence(facts);
            facts.unit.as_mut().unwrap().active = "inactive".to_owned();
        },
        &["nobody is banned", "control.sock", "systemctl enable --now shield"],
    ),
    (
        "agent_not_running",
        Unprotected,
        |facts| {
            silence(facts);
            let unit = facts.unit.as_mut().unwrap();
            (unit.active, unit.result) = ("failed".to_owned(), "exit-code".to_owned());
        },
        &["failed (exit-code)", "journalctl -u shield"],
    ),
    (
        "agent_not_running",
        Unprotected,
        |facts| {
            silence(facts);
            facts.unit = None;
        },
        &["shield-agent run"],
    ),
    (
        "agent_hangs",
        Unprotected,
        |facts| {
            facts.agent = Agent::Hangs("no answer within 5 s".to_owned());
        },
        &["no answer within 5 s", "systemctl restart shield"],
    ),
    (
        "agent_not_asked",
        Partly,
        |facts| {
            facts.agent = Agent::Denied("no permission to use /run/shield/control.sock".to_owned());
        },
        &["no permission", "sudo shield-agent doctor"],
    ),
    (
        "another_agent",
        Unprotected,
        |facts| {
            facts.network.other_agent =
                Some("shield-agent (process 7) with the state directory /tmp/other".to_owned());
        },
        &["process 7", "/tmp/other", "/var/lib/shield"],
    ),
    (
        "config_refused",
        Partly,
        |facts| {
            facts.config = Err("line 3: unknown key `bann`".to_owned());
        },
        &[
            "line 3: unknown key `bann`",
            "shield-agent check --config /etc/shield/shield.toml",
            "shield-agent reload",
        ],
    ),
    (
        "dry_run",
        Unprotected,
        |facts| {
            answer(facts, |answers| answers.status.dry_run = true);
            facts.firewall = Some(Firewall { families: vec![Chains::default()], ..Firewall::default() });
        },
        &["drops nothing", "--dry-run"],
    ),
    (
        "nothing_enforces",
        Unprotected,
        |facts| {
            facts.config = Ok(config("[iptables]\nmode = 'off'\n[xdp]\nmode = 'off'"));
            set_part(facts, "iptables", Off, "mode = \"off\"");
            set_part(facts, "xdp", Off, "mode = \"off\"");
        },
        &["mode = \"off\""],
    ),
    (
        "banning_stopped",
        Unprotected,
        |facts| {
            answer(facts, |answers| {
                answers.status.detector.blast_radius = Some("51 bans in 60 s > 50".to_owned());
            });
        },
        &["51 bans in 60 s", "shield-agent ban CLIENT"],
    ),
    (
        "log_missing",
        Unprotected,
        |facts| {
            facts.logs[0] = Log { exists: false, ..log_of("") };
        },
        &["/var/log/nginx/access.log does not exist", "nginx writes /var/log/nginx/access.log"],
    ),
    (
        "log_missing",
        Unprotected,
        |facts| {
            facts.logs.clear();
            facts.without_logs = vec!["/var/log/nginx/*.access.log".to_owned()];
        },
        &["nothing matches /var/log/nginx/*.access.log"],
    ),
    (
        "log_unreadable",
        Unprotected,
        |facts| {
            set_source(facts, "unread", "permission denied: /var/log/nginx belongs to root:adm, mode 0750");
        },
        &["belongs to root:adm", "namei -l /var/log/nginx/access.log"],
    ),
    (
        "log_moved",
        Unprotected,
        |facts| {
            facts.nginx.moved = vec![(LOG.into(), "/var/log/nginx/access.log.1".into())];
        },
        &["/var/log/nginx/access.log.1 open instead", "nginx -s reopen"],
    ),
    (
        "log_not_read",
        Unprotected,
        |facts| {
            facts.nginx = nginx("access_log /srv/logs/shop.log;");
        },
        &["reads none of the logs", "[[source]] path = \"/srv/logs/shop.log\""],
    ),
    (
        "log_not_read",
        Partly,
        |facts| {
            facts.nginx = nginx(&format!("{ACCESS_LOG} server {{ access_log /srv/$host.log; }}"));
        },
        &["not read every log", "/srv/*.log"],
    ),
    (
        "layout_unread",
        Unprotected,
        |facts| {
            set_source(facts, "refused", "none of the last 20 lines is a log line");
        },
        &["none of the last 20 lines", "shield-agent check"],
    ),
    (
        "layout_unread",
        Partly,
        |facts| {
            set_source(facts, "some_refused", "12 of the last 20 lines are not log lines");
        },
        &["12 of the last 20 lines"],
    ),
    (
        "layout_unread",
        Unprotected,
        |facts| {
            facts.logs[0] = log_of(&"rubbish\n".repeat(30));
        },
        &["none of the last 30 lines is a log line"],
    ),
    (
        "one_client",
        Unprotected,
        |facts| {
            set_source(facts, "one_client", "all requests come from 172.18.0.1, the gateway");
        },
        &["172.18.0.1", "shield-agent init nginx"],
    ),
    (
        "one_client",
        Unprotected,
        |facts| {
            facts.nginx = nginx(&format!("{ACCESS_LOG} server {{ listen 80 proxy_protocol; }}"));
        },
        &["balancer's address", "real_ip_header"],
    ),
    (
        "clients_spared",
        Unprotected,
        |facts| {
            // Addresses of Cloudflare, which the log has where nginx does not ask who is behind them.
            let text = lines("172.68.1", "14:59");
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("a.log");
            std::fs::write(&path, text).unwrap();
            let config = Config::parse(&format!("[[source]]\npath = {path:?}")).unwrap();
            let mut checked = logs::look(&config).logs.remove(0);
            checked.path = LOG.to_owned();
            facts.logs[0].checked = checked;
        },
        &["20 of 20 clients", "set_real_ip_from"],
    ),
    (
        "proxied_kernel_only",
        Unprotected,
        |facts| {
            facts.nginx = nginx(&format!(
                "{ACCESS_LOG} set_real_ip_from 192.0.2.0/24; real_ip_header X-Forwarded-For;"
            ));
        },
        &["a ban does not stop them", "shield-agent init nginx-deny", "[nginx] mode = \"on\""],
    ),
    (
        "nginx_lets_in",
        Partly,
        |facts| {
            facts.config = Ok(config("[nginx]\nmode = 'on'"));
            facts.nginx = nginx(&format!(
                "{ACCESS_LOG} set_real_ip_from 192.0.2.0/24; server {{ server_name a; include snippets/shield-deny.conf; }} \
             server {{ server_name open.example; }}"
            ));
        },
        &["open.example", "shield-agent init nginx-deny"],
    ),
    (
        "nginx_workers_stay",
        Partly,
        |facts| {
            facts.config = Ok(config("[nginx]\nmode = 'on'\nbackend = 'map'"));
            facts.nginx = nginx(ACCESS_LOG);
        },
        &["worker_shutdown_timeout 30s;"],
    ),
    (
        "iptables_missing",
        Partly,
        |facts| {
            facts.firewall = Some(Firewall { missing: vec!["iptables".to_owned()], ..Firewall::default() });
            set_part(facts, "iptables", Degraded, "no IPv4: iptables is not installed");
        },
        &["in XDP alone", "not installed: iptables", "apt install iptables ipset"],
    ),
    (
        "iptables_locked",
        Partly,
        |facts| {
            facts.firewall.as_mut().unwrap().lock_holder = Some("iptables-restore (process 9)".to_owned());
        },
        &["iptables-restore (process 9)"],
    ),
    (
        "iptables_flushed",
        Partly,
        |facts| {
            chains(facts)[0] = Chains { program: "iptables".to_owned(), ..Chains::default() };
        },
        &["has no chain SHIELD", "shield-agent events --kind repaired"],
    ),
    (
        "iptables_flushed",
        Partly,
        |facts| {
            chains(facts)[1].rules_before = None;
        },
        &["`ip6tables -S INPUT` has no jump to SHIELD"],
    ),
    (
        "iptables_not_first",
        Partly,
        |facts| {
            chains(facts)[0].rules_before = Some(2);
        },
        &["has 2 rules before the jump"],
    ),
    (
        "iptables_not_whole",
        Partly,
        |facts| {
            set_part(facts, "iptables", Degraded, "no IPv6: ip6tables ended with exit status 4");
        },
        &["exit status 4"],
    ),
    (
        "container_ports",
        Partly,
        |facts| {
            facts.firewall.as_mut().unwrap().redirects_ports = true;
            set_part(facts, "xdp", Off, "mode = \"off\"");
        },
        &["container ports", "DOCKER-USER"],
    ),
    (
        "kernel_too_old",
        Partly,
        |facts| {
            facts.kernel = (4, 19);
            set_part(facts, "xdp", Degraded, "inactive, retrying: no such map");
        },
        &["Linux 4.19", "5.10 or newer"],
    ),
    (
        "xdp_not_attached",
        Partly,
        |facts| {
            set_part(facts, "xdp", Degraded, "there is no interface to guard (no default route?)");
        },
        &["no interface to guard"],
    ),
    (
        "xdp_elsewhere",
        Partly,
        |facts| {
            facts.config = Ok(config("[xdp]\ninterfaces = ['eth9']"));
        },
        &["names eth9", "uses eth0"],
    ),
    (
        "allowlist_too_wide",
        Partly,
        |facts| {
            facts.config = Ok(config("[allow]\nnetworks = ['0.0.0.0/1', '128.0.0.0/1']"));
        },
        &["0.0.0.0/0", "shield-agent allow --list"],
    ),
    (
        "allowlist_too_wide",
        Partly,
        |facts| {
            answer(facts, |answers| answers.allowed = vec!["203.0.0.0/7".parse().unwrap()]);
        },
        &["202.0.0.0/7"],
    ),
    (
        "allowlist_too_wide",
        Partly,
        |facts| {
            answer(facts, |answers| answers.allowed = vec!["2000::/3".parse().unwrap()]);
        },
        &["2000::/3"],
    ),
    (
        "requests_twice",
        Partly,
        |facts| {
            facts.config = Ok(config("[[source]]\npath = '/var/log/nginx/*.log'"));
            facts.nginx = nginx(&format!("{ACCESS_LOG} access_log /var/log/nginx/shield.log;"));
        },
        &["every limit is half", "in /var/log/nginx/access.log and in /var/log/nginx/shield.log"],
    ),
    (
        "log_silent",
        Partly,
        |facts| {
            facts.logs[0] =
                Log { modified_ms: Some(NOW_MS - 7_200_000), ..log_of(&lines("203.0.113", "12:59")) };
        },
        &["for 2 h", "curl"],
    ),
    (
        "log_silent",
        Partly,
        |facts| {
            set_source(facts, "silent", "no line for 20 min; the longest pause at this time is usually 5 s");
        },
        &["no line for 20 min"],
    ),
    (
        "log_late",
        Partly,
        |facts| {
            facts.nginx = nginx("access_log /var/log/nginx/access.log combined buffer=32k;");
        },
        &["buffer=32k"],
    ),
    (
        "log_late",
        Partly,
        |facts| {
            set_source(facts, "behind", "behind its log for over a minute");
        },
        &["behind its log"],
    ),
    (
        "log_hidden",
        Partly,
        |facts| {
            facts.config = Ok(config("[[source]]\npath = '/home/anna/logs/a.log'"));
            facts.nginx = nginx("access_log /home/anna/logs/a.log;");
            facts.agent = Agent::Denied("no permission".to_owned());
        },
        &["/home/anna/logs", "systemctl edit shield"],
    ),
    (
        "addresses_forgeable",
        Partly,
        |facts| {
            facts.config = Ok(config("[nginx]\nmode = 'on'"));
            facts.nginx = nginx(&format!("{ACCESS_LOG} set_real_ip_from 0.0.0.0/0;"));
        },
        &["set_real_ip_from 0.0.0.0/0", "any client can claim any address"],
    ),
    (
        "clock_wrong",
        Partly,
        |facts| {
            facts.logs[0] = log_of(&lines("203.0.113", "16:59"));
        },
        &["in the future", "2026-11-24T16:59:29Z", "timedatectl"],
    ),
    (
        "clock_wrong",
        Partly,
        |facts| {
            facts.logs[0] = log_of(&lines("203.0.113", "12:59"));
        },
        &["far behind", "2026-11-24T12:59:29Z"],
    ),
    (
        "disk_full",
        Partly,
        |facts| facts.disk.free_bytes = 4_096,
        &["4.0 KiB are free", "df -h /var/lib/shield"],
    ),
    ("disk_full", Partly, |facts| facts.disk.has_no_inodes = true, &["no inode is free"]),
    ("state_unwritable", Partly, |facts| facts.disk.is_read_only = true, &["mounted read-only"]),
    (
        "state_unwritable",
        Partly,
        |facts| {
            set_part(facts, "store", Degraded, "could not commit: permission denied");
        },
        &["could not commit"],
    ),
    (
        "alerts_unsent",
        Partly,
        |facts| {
            facts.alerts = vec![("slack", "could not read the webhook URL in /etc/shield/slack".to_owned())];
        },
        &["[slack]", "/etc/shield/slack"],
    ),
    (
        "alerts_unsent",
        Partly,
        |facts| set_part(facts, "webhook", Degraded, "no route to host"),
        &["[webhook]", "no route"],
    ),
    (
        "old_version_runs",
        Partly,
        |facts| {
            answer(facts, |answers| answers.status.version = "0.0.9".to_owned());
        },
        &["version 0.0.9 runs", "systemctl restart shield"],
    ),
    (
        "not_at_boot",
        Partly,
        |facts| facts.unit.as_mut().unwrap().file = "disabled".to_owned(),
        &["systemctl enable shield"],
    ),
    (
        "part_degraded",
        Partly,
        |facts| set_part(facts, "audit", Degraded, "could not write"),
        &["audit", "could not write"],
    ),
    (
        "rules_observe",
        Note,
        |facts| {
            facts.config = Ok(config("[detect]\nobserve = ['flood']"));
        },
        &["flood", "Some rules only observe"],
    ),
    (
        "rules_observe",
        Unprotected,
        |facts| {
            let all = "['z_score', 'rate_multiplier', 'error_surge', 'probing', 'flood', 'behaviour']";
            facts.config = Ok(config(&format!("[detect]\nobserve = {all}")));
        },
        &["No rule bans"],
    ),
    (
        "warm_up",
        Note,
        |facts| {
            answer(facts, |answers| {
                answers.status.detector.warm_up = Some(WarmUp { remaining_secs: 90 });
                answers.status.detector.text = "1 min 30 s left".to_owned();
            });
        },
        &["1 min 30 s left", "shield-agent learn"],
    ),
    (
        "xdp_generic",
        Note,
        |facts| set_part(facts, "xdp", Active, "eth0: generic (no driver support)"),
        &["no driver support"],
    ),
];

/// Causes that a seed cannot help having beside its own.
const BESIDE: &[(&str, &str)] = &[
    // What cannot be asked is a cause of its own.
    ("log_hidden", "agent_not_asked"),
    // Trusting everybody's header is also trusting a header.
    ("addresses_forgeable", "nginx_lets_in"),
];

#[test]
fn a_healthy_machine_has_no_cause() {
    let found = diagnose(&healthy());
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn each_cause_is_found_and_nothing_else() {
    for (cause, severity, seed, words) in SEEDS {
        let mut facts = healthy();
        seed(&mut facts);
        let found = diagnose(&facts);
        let own = found.iter().find(|found| found.cause == *cause);
        let own = own.unwrap_or_else(|| panic!("{cause} was not found: {found:?}"));
        assert_eq!(own.severity, *severity, "{cause}");
        let said = format!("{} {} {:?}", own.said.what, own.said.seen, own.said.mend).replace("\\\"", "\"");
        for word in *words {
            assert!(said.contains(word), "{cause} does not say {word:?}: {said}");
        }
        let others: Vec<&str> = found.iter().map(|found| found.cause).filter(|name| name != cause).collect();
        let is_known = |other: &&str| BESIDE.contains(&(*cause, *other));
        assert!(others.iter().all(is_known), "{cause} came with {others:?}");
        assert!(!own.said.mend.is_empty(), "{cause} says nothing to do");
    }
}

#[test]
fn every_cause_has_a_seed() {
    let seeded: BTreeSet<&str> = SEEDS.iter().map(|(cause, ..)| *cause).collect();
    let causes: BTreeSet<&str> = CAUSES.iter().map(|cause| cause.name).collect();
    assert_eq!(seeded, causes);
    assert!(causes.len() >= 20);
    assert_eq!(causes.len(), CAUSES.len(), "two causes have one name");
}

/// A remedy that does not exist would be the last thing that somebody tries.
#[test]
fn every_command_of_ours_that_a_remedy_names_is_understood() {
    let mut commands = BTreeSet::new();
    for (_, _, seed, _) in SEEDS {
        let mut facts = healthy();
        seed(&mut facts);
        for step in diagnose(&facts).into_iter().flat_map(|found| found.said.mend) {
            commands.extend(match step {
                Step::Run(command) => Some(command),
                Step::Do(what) => what.split_once(": shield-agent ").map(|(_, end)| {
                    let end = end.split(',').next().unwrap_or(end);
                    format!("shield-agent {end}")
                }),
            });
        }
    }
    let ours = commands.iter().filter_map(|command| {
        let command = command.strip_prefix("sudo ").unwrap_or(command);
        command.starts_with("shield-agent ").then_some(command)
    });
    let mut checked = 0;
    for command in ours {
        let command = command.replace("CLIENT", "192.0.2.7").replace("NETWORK", "192.0.2.0/24");
        let parsed = Cli::try_parse_from(command.split_whitespace());
        assert!(parsed.is_ok(), "`{command}`: {}", parsed.unwrap_err());
        checked += 1;
    }
    assert!(checked >= 8, "only {checked} commands were found");
}

#[test]
fn private_networks_and_a_bridge_over_the_guarded_card_are_fine() {
    let mut facts = healthy();
    facts.config = Ok(config(
        "[allow]\nnetworks = ['10.0.0.0/8', '172.16.0.0/12', '192.168.0.0/16', '198.51.0.0/16', '2001:db8::/32']\n\
         [xdp]\ninterfaces = ['eth0']",
    ));
    facts.network.default_routes = vec![("br0".to_owned(), vec!["eth0".to_owned()])];
    let found = diagnose(&facts);
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn the_worst_comes_first() {
    let mut facts = healthy();
    facts.kernel = (4, 19);
    answer(&mut facts, |answers| {
        answers.status.detector.warm_up = Some(WarmUp { remaining_secs: 90 });
        answers.status.dry_run = true;
    });
    let report =
        Report { found: diagnose(&facts), unseen: vec!["nginx's configuration: no nginx".to_owned()] };
    let expected = "\
2 problems, the worst first, 1 note.

 1. The agent is in dry run: it decides who would be banned, and drops nothing.
    seen  the agent was started with --dry-run
    do    end it, or remove --dry-run from its command line (`systemctl cat shield`)
    run   systemctl restart shield

 2. The kernel is too old for XDP as Shield uses it: bans are in force in iptables alone.
    seen  Linux 4.19; XDP needs 5.10 or newer
    do    take a newer kernel, or write [xdp] mode = \"off\"

 3. The agent still learns, so rules that compare with what is usual do not ban yet.
    seen  profile default
    do    wait, or teach it from past logs before a start: shield-agent learn /var/log/nginx/access.log*

Not looked at: nginx's configuration: no nginx
";
    assert_eq!(report.render(Colour::Off), expected);
    let json = report.json();
    assert_eq!((&json["problems"], &json["found"][0]["cause"]), (&json!(2), &json!("dry_run")));
    assert_eq!(json["found"][0]["mend"][1], json!({ "run": "systemctl restart shield" }));
    let good = Report { found: Vec::new(), unseen: Vec::new() };
    assert_eq!(good.render(Colour::Off), "Nothing was found that keeps Shield from protecting.\n");
}

/// On the machine that the test runs on: whatever it is, the doctor comes to an end and says that no agent runs.
#[tokio::test]
async fn a_real_machine_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let (log, config, socket) =
        (folder.path().join("a.log"), folder.path().join("shield.toml"), folder.path().join("none.sock"));
    let text = format!(
        "[agent]\nstate_dir = {:?}\n[[source]]\npath = {log:?}\n[slack]\nurl_file = {:?}\n[iptables]\nmode = \"off\"\n",
        folder.path(),
        folder.path().join("missing")
    );
    std::fs::write(&config, text).unwrap();
    let names = async || {
        let nginx = folder.path().join("no-nginx");
        let args = ["shield-agent", "--config", config.to_str().unwrap(), "--nginx", nginx.to_str().unwrap()];
        let args = Line::parse_from(args).args;
        let client = crate::cli::client::AgentClient::new(crate::cli::client::Endpoint::Unix(socket.clone()));
        let report = Report::of(&args, &client, Path::new(&socket)).await;
        assert!(report.unseen.iter().any(|what| what.contains("no-nginx -T")), "{:?}", report.unseen);
        report.found.iter().map(|found| found.cause).collect::<Vec<_>>()
    };
    let found = names().await;
    for cause in ["log_missing", "alerts_unsent"] {
        assert!(found.contains(&cause), "{found:?}");
    }
    assert!(found.iter().any(|cause| ["agent_not_running", "agent_hangs"].contains(cause)), "{found:?}");
    std::fs::write(&log, "").unwrap();
    assert!(!names().await.contains(&"log_missing"));
    std::fs::write(&config, "[bann]\n").unwrap();
    assert!(names().await.contains(&"config_refused"));
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    args: super::LookArgs,
}
