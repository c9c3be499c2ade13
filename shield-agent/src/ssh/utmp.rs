//! `/run/utmp`, where sshd records logins that have a terminal: for hosts on which no logind registers sessions.
//!
//! The group `utmp` may write it, and its set-group-ID helpers write a host's *name* for any local user. So a record counts only
//! with a numeric address, which those helpers do not write, a process that lives, and a connection from that address to root's
//! SSH port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Answer, Login, Places, is_owned};
use crate::text::ssh as text;

const USER_PROCESS: i16 = 7;

/// glibc's `struct utmp` has 384 bytes where it keeps 32-bit times for old programs, and 400 elsewhere.
const WIDE_TIMES: bool = cfg!(not(any(
    target_arch = "x86_64",
    target_arch = "x86",
    target_arch = "powerpc64",
    target_arch = "riscv64"
)));
const RECORD: usize = if WIDE_TIMES { 400 } else { 384 };
const ADDRESS: usize = if WIDE_TIMES { 360 } else { 348 };
const USER: std::ops::Range<usize> = 44..76;

/// More records than any machine has users.
const MAX_BYTES: u64 = 16 << 20;

/// `is_connected` says whether the kernel has a connection from this address to the SSH port.
pub(super) fn ask(places: &Places, mut is_connected: impl FnMut(IpAddr) -> bool) -> Answer {
    let path = &places.utmp;
    let bytes = match read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Answer::Absent(text::no_place(path));
        }
        Err(error) => return Answer::Absent(text::unreadable(path, &error)),
    };
    if !is_owned(path, places.owner, true) {
        return Answer::Absent(text::not_of_root(path));
    }
    if bytes.len() % RECORD != 0 {
        return Answer::Absent(text::not_utmp(path));
    }
    let mut logins: Vec<Login> = bytes
        .chunks_exact(RECORD)
        .filter_map(record)
        .filter(|(pid, login)| is_alive(*pid) && is_connected(login.addr))
        .map(|(_, login)| login)
        .collect();
    logins.sort();
    logins.dedup();
    Answer::Asked { logins, problems: Vec::new() }
}

fn read(path: &std::path::Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The login of a user's record that has an address.
fn record(bytes: &[u8]) -> Option<(i32, Login)> {
    let kind = i16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?);
    let pid = i32::from_ne_bytes(bytes.get(4..8)?.try_into().ok()?);
    let addr: [u8; 16] = bytes.get(ADDRESS..ADDRESS + 16)?.try_into().ok()?;
    let [a, b, c, d, rest @ ..] = addr;
    let addr = match rest.iter().all(|byte| *byte == 0) {
        true => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        false => IpAddr::V6(Ipv6Addr::from(addr)).to_canonical(),
    };
    let user = bytes.get(USER)?.split(|byte| *byte == 0).next()?;
    let user = String::from_utf8_lossy(user).into_owned();
    let is_login = kind == USER_PROCESS && pid > 0 && !user.is_empty() && !addr.is_unspecified();
    is_login.then_some((pid, Login { addr, user }))
}

/// A process that may not be signalled lives too.
fn is_alive(pid: i32) -> bool {
    use nix::errno::Errno;
    !matches!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None), Err(Errno::ESRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: i16, pid: i32, user: &str, addr: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; RECORD];
        bytes[..2].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&pid.to_ne_bytes());
        bytes[44..44 + user.len()].copy_from_slice(user.as_bytes());
        // A host's name, as the helpers of terminals write it for anybody.
        bytes[76..88].copy_from_slice(b"198.51.100.9");
        bytes[ADDRESS..ADDRESS + addr.len()].copy_from_slice(addr);
        bytes
    }

    #[test]
    fn which_records_count() {
        let own = std::process::id() as i32;
        let check = |bytes: &[u8], is_connected: bool, expected: &[&str]| {
            let folder = tempfile::tempdir().unwrap();
            let utmp = folder.path().join("utmp");
            std::fs::write(&utmp, bytes).unwrap();
            let places = Places { utmp, owner: nix::unistd::geteuid().as_raw(), ..Places::system() };
            let Answer::Asked { logins, .. } = ask(&places, |_| is_connected) else { panic!("it is there") };
            let found: Vec<String> = logins.iter().map(|login| login.addr.to_string()).collect();
            assert_eq!(found, expected);
        };
        let v6 = "2001:db8::5".parse::<Ipv6Addr>().unwrap().octets();
        check(&entry(USER_PROCESS, own, "anna", &[203, 0, 113, 5]), true, &["203.0.113.5"]);
        check(&entry(USER_PROCESS, own, "anna", &v6), true, &["2001:db8::5"]);
        check(&entry(USER_PROCESS, own, "anna", &[203, 0, 113, 5]), false, &[]);
        check(&entry(USER_PROCESS, own, "anna", &[]), true, &[]);
        check(&entry(6, own, "LOGIN", &[203, 0, 113, 5]), true, &[]);
        check(&entry(8, own, "anna", &[203, 0, 113, 5]), true, &[]);
        check(&entry(USER_PROCESS, i32::MAX, "anna", &[203, 0, 113, 5]), true, &[]);
    }

    #[test]
    fn a_file_that_is_none_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let utmp = folder.path().join("utmp");
        std::fs::write(&utmp, [0; 100]).unwrap();
        let places = Places { utmp, owner: nix::unistd::geteuid().as_raw(), ..Places::system() };
        assert!(matches!(ask(&places, |_| true), Answer::Absent(_)));
    }
}
