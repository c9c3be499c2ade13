//! sshd's own processes, where other users' may be looked into: not in the unit, which has no CAP_SYS_PTRACE.
//!
//! A process counts by its executable, which has to be root's, and by running as root, never by its name, which anybody can
//! choose. Somebody has logged in when sshd's process for a connection has either a child that runs as the user and
//! holds the connection too, or a child in a session of its own, the shell. Before the login there is a child as well, which talks
//! to the client: it runs as sshd's own user or under seccomp, and while it lives nobody is logged in.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::LazyLock;

use procfs::process::{FDTarget, Process};

use super::connections::Connections;
use super::{Answer, Login};
use crate::text::ssh as text;

const PROGRAMS: [&str; 5] = ["sshd", "sshd-session", "sshd-auth", "dropbear", "dropbearmulti"];

/// The users that sshd's unprivileged child runs as, by distribution.
const PRIVSEP_USERS: [&str; 2] = ["sshd", "_sshd"];

/// Scans after which the processes are looked at even if they are the same as before: once a minute with a scan every 5 s.
const FULL_LOOK_EVERY: u32 = 12;

#[derive(Debug, Default)]
pub(super) struct Processes {
    /// The numbers of all processes at the last look, if it found no connection that anybody could have logged in on. A login
    /// needs a connection, and sshd starts a process for each, so that nothing has to be looked at while these are the same.
    quiet: Option<Vec<i32>>,
    /// Scans since the last look, for what runs another program under the same number.
    since_look: u32,
    /// Processes that were new at the last scan and were no SSH server.
    new: BTreeSet<(i32, u64)>,
    /// Those that were none at two scans: their executable is not asked for again. A process forked for a session runs sshd's
    /// program long before the second scan.
    others: BTreeSet<(i32, u64)>,
    /// Sockets of sessions known to have logged in, by the process, its start and the socket.
    logged_in: BTreeMap<(i32, u64, u64), Login>,
}

/// What is looked at of one process.
#[derive(Debug, Clone, Default)]
struct Seen {
    pid: i32,
    start: u64,
    parent: i32,
    session: i32,
    has_terminal: bool,
    uid: u32,
    seccomp: bool,
    program: Option<String>,
    sockets: BTreeSet<u64>,
}

impl Processes {
    pub(super) fn ask<'a>(&mut self, connections: impl FnOnce() -> Option<&'a Connections>) -> Answer {
        if !may_look() {
            return Answer::Absent(text::HIDDEN_PROCESSES.to_owned());
        }
        let numbers = match numbers(Path::new("/proc")) {
            Ok(numbers) => numbers,
            Err(error) => return Answer::Absent(format!("could not list /proc: {error}")),
        };
        self.since_look += 1;
        if self.since_look < FULL_LOOK_EVERY && self.quiet.as_ref() == Some(&numbers) {
            return Answer::Asked { logins: Vec::new(), problems: Vec::new() };
        }
        self.since_look = 0;
        let (answer, has_connections) = self.look(&numbers, connections);
        let is_quiet = !has_connections && self.new.is_empty();
        self.quiet = is_quiet.then_some(numbers);
        answer
    }

    /// Looks at each process. Returns too whether one may serve a connection.
    fn look<'a>(
        &mut self,
        numbers: &[i32],
        connections: impl FnOnce() -> Option<&'a Connections>,
    ) -> (Answer, bool) {
        let mut servers = Vec::new();
        let mut others = Vec::new();
        let (mut new, mut known) = (BTreeSet::new(), BTreeSet::new());
        // A process that ended meanwhile holds no session.
        for process in numbers.iter().filter_map(|number| Process::new(*number).ok()) {
            let Ok(stat) = process.stat() else { continue };
            let key = (stat.pid, stat.starttime);
            let mut seen = Seen {
                pid: stat.pid,
                start: stat.starttime,
                parent: stat.ppid,
                session: stat.session,
                has_terminal: stat.tty_nr != 0,
                ..Seen::default()
            };
            if self.others.contains(&key) {
                known.insert(key);
            } else if let Some(program) = program(&process) {
                seen.program = Some(program);
                fill(&mut seen, &process);
                servers.push(seen);
                continue;
            } else if self.new.contains(&key) {
                known.insert(key);
            } else {
                new.insert(key);
            }
            others.push(seen);
        }
        (self.new, self.others) = (new, known);
        let has_sockets = servers.iter().any(|server| server.uid == 0 && !server.sockets.is_empty());
        let Some(connections) = has_sockets.then(connections).flatten() else {
            self.logged_in.clear();
            // Where the kernel does not tell of connections, there may be some.
            return (Answer::Asked { logins: Vec::new(), problems: Vec::new() }, has_sockets);
        };
        let privsep = privsep_uids(&std::fs::read_to_string("/etc/passwd").unwrap_or_default());
        let all: Vec<Seen> = servers.iter().chain(&others).cloned().collect();
        let mut logged_in = BTreeMap::new();
        let mut has_connections = false;
        for server in servers.iter().filter(|server| is_for_one_connection(server, connections)) {
            for inode in &server.sockets {
                let Some(addr) = connections.peer(*inode) else { continue };
                has_connections = true;
                let key = (server.pid, server.start, *inode);
                // The user's shell may end before the connection does.
                let login = match self.logged_in.get(&key) {
                    Some(login) => Some(login.clone()),
                    None => user(server, *inode, &all, &privsep)
                        .map(|uid| Login { addr, user: format!("uid {uid}") }),
                };
                if let Some(login) = login {
                    logged_in.insert(key, login);
                }
            }
        }
        self.logged_in = logged_in;
        let mut logins: Vec<Login> = self.logged_in.values().cloned().collect();
        logins.sort();
        logins.dedup();
        (Answer::Asked { logins, problems: Vec::new() }, has_connections)
    }
}

/// The numbers of all processes, in order.
fn numbers(proc: &Path) -> io::Result<Vec<i32>> {
    let names = std::fs::read_dir(proc)?.map(|entry| entry.map(|entry| entry.file_name()));
    let mut numbers = Vec::new();
    for name in names {
        numbers.extend(name?.to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Without this right the executables and sockets of other users' processes, and of root's with more rights, cannot be read.
/// The agent has it from its start on or never.
fn may_look() -> bool {
    const CAP_SYS_PTRACE: u64 = 1 << 19;
    static MAY: LazyLock<bool> = LazyLock::new(|| {
        let status = Process::myself().and_then(|process| process.status());
        status.is_ok_and(|status| status.capeff & CAP_SYS_PTRACE != 0)
    });
    *MAY
}

/// The process that accepts connections holds each of them for a moment, and its children are strangers'.
fn is_for_one_connection(server: &Seen, connections: &Connections) -> bool {
    server.uid == 0 && !server.sockets.iter().any(|inode| connections.is_listening(*inode))
}

/// Who has logged in on this socket of root's process `server`, if somebody has.
fn user(server: &Seen, inode: u64, all: &[Seen], privsep: &BTreeSet<u32>) -> Option<u32> {
    let children = || all.iter().filter(|process| process.parent == server.pid);
    let is_before_login = |child: &&Seen| {
        let program = child.program.as_deref();
        program == Some("sshd-auth") || (program.is_some() && (child.seccomp || privsep.contains(&child.uid)))
    };
    if children().any(|child| is_before_login(&child)) {
        return None;
    }
    let is_dropbear = server.program.as_deref().is_some_and(|program| program.starts_with("dropbear"));
    let is_users = |child: &&Seen| {
        child.program.is_some() && child.uid != 0 && !child.seccomp && child.sockets.contains(&inode)
    };
    // dropbear has no child before the login whose absence would tell, so its shell has to have a terminal.
    let is_shell = |child: &&Seen| child.session != server.session && (!is_dropbear || child.has_terminal);
    children().find(is_users).or_else(|| children().find(is_shell)).map(|child| child.uid)
}

/// The SSH server that this process runs: an executable that belongs to root and that only root can write.
fn program(process: &Process) -> Option<String> {
    use std::os::unix::fs::MetadataExt as _;
    let exe = process.exe().ok()?;
    let name = exe.file_name()?.to_str()?;
    // So the link ends once an upgrade has replaced the program.
    let name = name.strip_suffix(" (deleted)").unwrap_or(name);
    let file = std::fs::metadata(format!("/proc/{}/exe", process.pid())).ok()?;
    (PROGRAMS.contains(&name) && file.uid() == 0 && file.mode() & 0o022 == 0).then(|| name.to_owned())
}

fn fill(seen: &mut Seen, process: &Process) {
    // What cannot be read makes nobody logged in: a user of whom nothing is known counts as under seccomp.
    seen.seccomp = true;
    if let Ok(status) = process.status() {
        seen.uid = status.euid;
        seen.seccomp = status.seccomp.is_some_and(|mode| mode != 0);
    } else {
        seen.uid = u32::MAX;
    }
    let socket = |target| if let FDTarget::Socket(inode) = target { Some(inode) } else { None };
    let fds = process.fd().into_iter().flatten().flatten();
    seen.sockets = fds.filter_map(|fd| socket(fd.target)).collect();
}

fn privsep_uids(passwd: &str) -> BTreeSet<u32> {
    let uid = |line: &str| {
        let mut fields = line.split(':');
        let is_privsep = fields.next().is_some_and(|name| PRIVSEP_USERS.contains(&name));
        fields.nth(1).filter(|_| is_privsep)?.parse().ok()
    };
    passwd.lines().filter_map(uid).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOCKET: u64 = 77;

    fn sshd(pid: i32, parent: i32, uid: u32) -> Seen {
        let program = Some("sshd".to_owned());
        Seen { pid, parent, session: 10, uid, program, sockets: [SOCKET].into(), ..Seen::default() }
    }

    fn shell(pid: i32, parent: i32, uid: u32) -> Seen {
        Seen { pid, parent, session: pid, uid, ..Seen::default() }
    }

    #[test]
    fn who_has_logged_in_by_the_processes_below_sshd() {
        let server = sshd(10, 1, 0);
        let check = |what: &str, others: &[Seen], expected: Option<u32>| {
            assert_eq!(user(&server, SOCKET, others, &BTreeSet::from([105])), expected, "{what}");
        };
        check("nobody yet", &[], None);
        check("before the login", &[sshd(11, 10, 105)], None);
        check("before the login, another user", &[Seen { seccomp: true, ..sshd(11, 10, 65_534) }], None);
        check("a PAM module runs a program before the login", &[sshd(11, 10, 105), shell(12, 10, 0)], None);
        check("a user", &[sshd(11, 10, 1000), shell(12, 11, 1000)], Some(1000));
        check("a user without a shell (-N)", &[sshd(11, 10, 1000)], Some(1000));
        check("root", &[shell(12, 10, 0)], Some(0));
        check("a helper of sshd's before the login", &[Seen { session: 10, ..shell(12, 10, 65_534) }], None);
        check("another connection's user", &[sshd(11, 9, 1000), shell(12, 11, 1000)], None);
        let dropbear = Seen { program: Some("dropbear".to_owned()), ..server.clone() };
        let terminal = Seen { has_terminal: true, ..shell(12, 10, 0) };
        assert_eq!(user(&dropbear, SOCKET, &[shell(12, 10, 0)], &BTreeSet::new()), None);
        assert_eq!(user(&dropbear, SOCKET, &[terminal], &BTreeSet::new()), Some(0));
    }

    #[test]
    fn sshds_own_users_are_found_in_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nsshd:x:105:65534::/run/sshd:/usr/sbin/nologin\nx\n";
        assert_eq!(privsep_uids(passwd), BTreeSet::from([105]));
    }
}
