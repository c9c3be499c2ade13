//! Proof that nothing is left: of Shield in a kernel, and of a test on this machine.
//!
//! Whatever cannot be asked is an error, never "nothing there".

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::command;
use crate::netns::{self, Namespace};

/// Everything of Shield's in this namespace's kernel side: chains, rules, sets, attached programs; and pins under
/// `pins`. Empty when there is nothing.
///
/// # Errors
/// When one of the places cannot be asked.
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

/// The firewall, sets and interfaces of the network namespace of the calling thread, one fact a line, without counters:
/// for comparing before and after.
///
/// # Errors
/// When one of the places cannot be asked.
pub fn network_state() -> Result<Vec<String>> {
    let mut state = firewall()?;
    state.extend(command::run(&["ip", "-brief", "link"])?.lines().filter_map(first_word));
    Ok(state)
}

/// What the process `pid` has left on this machine: namespaces, and with them whatever is in them.
///
/// # Errors
/// When the namespaces cannot be listed.
pub fn of_process(pid: u32) -> Result<Vec<String>> {
    Ok(netns::left_by(pid)?.into_iter().map(|name| format!("network namespace {name}")).collect())
}

/// Rules of both families and both kinds of iptables, nftables' own tables, and sets.
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
        // Comments carry the time, chain headers the counters.
        let facts = text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
        lines.extend(facts.map(|line| line.split(" [").next().unwrap_or(line).trim().to_owned()));
    }
    Ok(lines)
}

/// Programs at the network card (XDP, whatever mode) and at traffic control's hooks.
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
        Err(error) => return Err(error).with_context(|| format!("listed {}", folder.display())),
    };
    let mut found = vec![format!("folder {}", folder.display())];
    for entry in entries {
        let path = entry.with_context(|| format!("listed {}", folder.display()))?.path();
        found.push(format!("pin {}", path.display()));
    }
    Ok(found)
}

fn first_word(line: &str) -> Option<String> {
    line.split_whitespace().next().map(str::to_owned)
}
