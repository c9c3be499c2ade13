//! Checks for leftovers: of Shield in a kernel, and of a test on this machine.
//!
//! A failed query is an error and never counts as "nothing found": otherwise a missing tool would hide leftovers.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::command;
use crate::netns::{self, Namespace};

/// Shield's chains, rules, sets and attached programs in this network namespace, and the pins under `pins`.
///
/// # Errors
/// Fails if a query does.
pub fn of_shield(namespace: &Namespace, pins: &Path) -> Result<Vec<String>> {
    let mut found = namespace.enter(|| -> Result<Vec<String>> {
        let mut found = Vec::new();
        found.extend(firewall()?.into_iter().filter(|line| line.to_lowercase().contains("shield")));
        found.extend(attached_programs()?);
        Ok(found)
    })?;
    found.extend(files_under(pins)?);
    Ok(found)
}

/// The firewall, sets and interfaces of the calling thread's network namespace, one fact per line. Counters are left out,
/// because the states before and after a test are compared.
///
/// # Errors
/// Fails if a query does.
pub fn network_state() -> Result<Vec<String>> {
    let mut state = firewall()?;
    state.extend(command::run(&["ip", "-brief", "link"])?.lines().filter_map(first_word));
    Ok(state)
}

/// The namespaces that the process `pid` has left on this machine, and with them everything inside.
///
/// # Errors
/// Fails if the namespaces cannot be listed.
pub fn of_process(pid: u32) -> Result<Vec<String>> {
    Ok(netns::left_by(pid)?.into_iter().map(|name| format!("network namespace {name}")).collect())
}

/// The rules of both address families and both kinds of iptables, nftables' own tables, and sets.
fn firewall() -> Result<Vec<String>> {
    let commands: [&[&str]; 6] = [
        &["iptables-save"],
        &["ip6tables-save"],
        &["iptables-legacy-save"],
        &["ip6tables-legacy-save"],
        &["nft", "--stateless", "list", "ruleset"],
        &["ipset", "list", "-name"],
    ];
    let mut lines = Vec::new();
    for argv in commands {
        let text = command::run(argv)?;
        // Comments contain the time, and chain headers contain counters.
        let facts = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        lines.extend(facts.map(|line| line.split(" [").next().unwrap_or(line).trim().to_owned()));
    }
    Ok(lines)
}

/// XDP programs in any mode, and BPF programs at traffic control's ingress hook.
fn attached_programs() -> Result<Vec<String>> {
    let mut found = Vec::new();
    let links = command::run(&["ip", "-oneline", "-details", "link"])?;
    for line in links.lines().filter(|line| line.contains("prog/xdp") || line.contains("xdpgeneric")) {
        found.push(format!("XDP program on {}", line.split(" mtu").next().unwrap_or(line)));
    }
    for interface in links.lines().filter_map(|line| line.split(": ").nth(1)) {
        let interface = interface.split('@').next().unwrap_or(interface);
        let filters = command::run(&["tc", "filter", "show", "dev", interface, "ingress"])?;
        found.extend(
            filters.lines().filter(|line| line.contains("bpf")).map(|line| format!("{interface}: {line}")),
        );
    }
    Ok(found)
}

fn files_under(folder: &Path) -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("could not list {}", folder.display())),
    };
    let mut found = vec![format!("folder {}", folder.display())];
    for entry in entries {
        let path = entry.with_context(|| format!("could not list {}", folder.display()))?.path();
        found.push(format!("pin {}", path.display()));
    }
    Ok(found)
}

fn first_word(line: &str) -> Option<String> {
    line.split_whitespace().next().map(str::to_owned)
}
