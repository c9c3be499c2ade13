//! Who listens on a port that the agent wants, as far as the agent may see it.
//!
//! The name of another program is behind `/proc/PID/fd`, which the unit, without CAP_SYS_PTRACE, may not read of others. Whose
//! process it is, the kernel tells everybody.

use std::net::SocketAddr;

use procfs::net::{TcpNetEntry, TcpState};
use procfs::process::FDTarget;

/// The holder for people: `nginx (pid 812)`, or `a process of user www-data`. `None` when nobody is found.
pub(crate) fn holder(wanted: SocketAddr) -> Option<String> {
    let mut entries = procfs::net::tcp().unwrap_or_default();
    entries.extend(procfs::net::tcp6().unwrap_or_default());
    let held = entries.iter().find(|entry| is_in_the_way(entry, wanted))?;
    let users = || std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    program(held.inode).or_else(|| Some(format!("a process of user {}", user(held.uid, &users()))))
}

/// Listens on this port, on this address or on all.
fn is_in_the_way(entry: &TcpNetEntry, wanted: SocketAddr) -> bool {
    let (held, ip) = (entry.local_address.ip().to_canonical(), wanted.ip().to_canonical());
    entry.state == TcpState::Listen
        && entry.local_address.port() == wanted.port()
        && (held == ip || held.is_unspecified() || ip.is_unspecified())
}

fn program(inode: u64) -> Option<String> {
    let holds = |process: &procfs::process::Process| {
        let mut open = process.fd().ok()?.flatten();
        open.any(|fd| matches!(fd.target, FDTarget::Socket(found) if found == inode)).then_some(())
    };
    let process =
        procfs::process::all_processes().ok()?.flatten().find(|process| holds(process).is_some())?;
    Some(format!("{} (pid {})", process.stat().ok()?.comm, process.pid))
}

fn user(uid: u32, passwd: &str) -> String {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let (name, number) = (fields.next()?, fields.nth(1)?);
        (number.parse() == Ok(uid)).then(|| name.to_owned())
    };
    passwd.lines().find_map(entry).unwrap_or_else(|| format!("number {uid}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_holder_of_a_port_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut addr = listener.local_addr().unwrap();
        let found = holder(addr).unwrap();
        assert!(found.ends_with(&format!("(pid {})", std::process::id())), "{found}");
        addr.set_ip("0.0.0.0".parse().unwrap());
        assert!(holder(addr).is_some(), "all addresses of a port cannot be had beside one of them");
        drop(listener);
        assert_eq!(holder(addr), None);
    }

    #[test]
    fn a_user_is_named_as_the_host_names_it() {
        let passwd = "root:x:0:0::/root:/bin/sh\nbroken\nwww-data:x:33:33::/var/www:/bin/false\n";
        assert_eq!(user(33, passwd), "www-data");
        assert_eq!(user(4_711, passwd), "number 4711");
    }
}
