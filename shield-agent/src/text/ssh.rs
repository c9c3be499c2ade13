//! Sentences about SSH sessions.

use std::net::IpAddr;
use std::path::Path;

use super::plural;

/// The setting that switches the exemption off.
pub(crate) const OFF_BY: &str = "ssh_sessions = false in [allow]";

pub(crate) const HIDDEN_PROCESSES: &str =
    "other users' processes may not be looked into (that needs CAP_SYS_PTRACE)";

pub(crate) fn active(live: u64, past: u64, asked: &[&str]) -> String {
    let addresses = |number| plural(number, "address", "addresses");
    let (live, past) = (addresses(live), addresses(past));
    format!("{live} with a session, {past} with an earlier one; asked: {}", asked.join(", "))
}

pub(crate) fn could_not_ask(why: &[String]) -> String {
    format!(
        "could not ask who is logged in over SSH, so only [allow] networks keeps operators from being banned: {}. \
         Install libpam-systemd, or add the addresses that you administer this machine from to [allow] networks",
        why.join("; ")
    )
}

pub(crate) fn unexplained(addr: IpAddr, connections: u64) -> String {
    let others = if connections > 1 { format!(" and {} more", connections - 1) } else { String::new() };
    format!(
        "an SSH connection from {addr}{others} is old enough to be a session, but no login is recorded for it, so it is not \
         protected: set `UsePAM yes` in sshd_config and install libpam-systemd, or add the address to [allow] networks"
    )
}

pub(crate) fn named_host(session: &str, host: &str) -> String {
    format!(
        "logind has the name {host} instead of an address for session {session}, so that session is not protected: set \
         `UseDNS no` in sshd_config, or add its address to [allow] networks"
    )
}

pub(crate) fn no_place(path: &Path) -> String {
    format!("there is no {}", path.display())
}

pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> String {
    format!("could not read {}: {error}", path.display())
}

pub(crate) fn not_of_root(path: &Path) -> String {
    format!("{} can be written by others than root, so it is not believed", path.display())
}

pub(crate) fn not_utmp(path: &Path) -> String {
    format!("{} is not in the format of this machine's utmp", path.display())
}
