//! The files for containers agree with the unit, with each other and with the command line.

use std::collections::BTreeSet;
use std::path::Path;

use clap::Parser as _;
use shield_agent::Cli;
use shield_agent::test_support::config::Config;

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What stands between two texts.
fn between<'a>(text: &'a str, start: &str, end: &str) -> &'a str {
    let (_, rest) = text.split_once(start).unwrap_or_else(|| panic!("{start:?} is missing"));
    rest.split(end).next().unwrap_or(rest)
}

#[test]
fn the_container_has_the_capabilities_of_the_unit() {
    let unit = read("shield.service");
    let mut wanted: BTreeSet<&str> = between(&unit, "CapabilityBoundingSet=", "\n")
        .split_whitespace()
        .filter_map(|name| name.strip_prefix("CAP_"))
        .collect();
    let compose = read("container/compose.yaml");
    // Two by the environment, because Docker before 23 does not know them.
    let given: BTreeSet<&str> = between(&compose, "cap_add: [", "]")
        .split(", ")
        .map(|name| name.split_once(":-").map_or(name, |(_, default)| default.trim_end_matches("}\"")))
        .collect();
    // The unit runs in the group of the control socket; in a container the socket is given to it.
    wanted.insert("CHOWN");
    assert_eq!(given, wanted);
    // Shield and Prometheus; nginx binds port 80 and changes its user.
    assert_eq!(compose.matches("cap_drop: [ALL]").count(), 2);
    assert_eq!(compose.matches("mem_limit: ").count(), compose.matches("pids_limit: ").count());
    assert!(!compose.contains("ports:") && !compose.contains("privileged"), "something is opened");
}

#[test]
fn the_agent_reads_the_log_that_nginx_writes() {
    let config = read("container/shield.toml");
    let config = Config::parse(&config).unwrap_or_else(|error| panic!("{error:#}"));
    let nginx = read("container/nginx/shield.conf");
    let log = between(&nginx, "access_log ", " ");
    assert_eq!(config.sources.len(), 1);
    assert_eq!(config.sources[0].name, log);
    let compose = read("container/compose.yaml");
    let folder = Path::new(log).parent().and_then(Path::to_str).unwrap_or_default();
    assert_eq!(compose.matches(&format!("logs:{folder}")).count(), 2);
}

#[test]
fn the_health_check_and_the_start_are_commands_of_ours() {
    let file = read("container/Containerfile");
    let check = between(&file, "CMD [\"sh\", \"-c\", \"", " ||");
    assert!(Cli::try_parse_from(check.split_whitespace()).is_ok(), "{check}");
    let start = between(&file, "\nCMD [\"", "\"]");
    assert!(Cli::try_parse_from(["shield-agent", start]).is_ok(), "{start}");
}
