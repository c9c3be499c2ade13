//! What a process costs, from the kernel's accounting.

use std::fs;

use anyhow::{Context as _, Result};

/// User and system time of all threads, from the scheduler's accounting in nanoseconds: the ticks of `/proc/PID/stat` are
/// too coarse.
///
/// # Errors
/// Fails when the process is gone.
pub fn cpu_secs(pid: u32) -> Result<f64> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("could not list a process' threads")? {
        let path = thread.context("could not list a process' threads")?.path().join("schedstat");
        // A thread may have ended since it was listed.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let first = text.split_whitespace().next().unwrap_or_default();
        nanos += first.parse::<u64>().with_context(|| format!("could not parse {}", path.display()))?;
    }
    Ok(nanos as f64 / 1e9 + children_secs(pid)?)
}

/// User and system time of its ended child processes (iptables, ipset), in whole ticks.
fn children_secs(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    // The name in parentheses may contain spaces; `cutime` and `cstime` are the 14th and 15th fields after it.
    let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: f64 = fields.skip(13).take(2).filter_map(|field| field.parse::<f64>().ok()).sum();
    let per_sec = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)
        .context("could not get the length of a tick")?;
    Ok(ticks / per_sec.context("could not get the length of a tick")? as f64)
}

/// A figure of `/proc/PID/status`: `VmRSS` is what is resident, mapped files included, `RssAnon` what is its own.
///
/// # Errors
/// Fails when the process is gone.
pub fn memory_mib(pid: u32, name: &str) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("could not read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    let kib = kib.with_context(|| format!("could not find {name} in {path}"))?;
    Ok((kib / 102.4).round() / 10.0)
}
