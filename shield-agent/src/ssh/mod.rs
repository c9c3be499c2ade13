//! Who is logged in over SSH, and from which addresses somebody was lately: addresses that no rule may ban, so that nobody
//! locks himself out.
//!
//! Only a *login* counts, never a connection: anybody can open one. Three sources are asked, and what any of them says counts:
//! [`logind`], which the unit's sandbox shows; [`utmp`], for hosts without logind; and [`processes`], where the agent may look
//! at other users' processes, which it may not in the unit. A local user can write none of what is believed here.
//! [`kept`] remembers the addresses; [`connections`] is what the kernel says of TCP.

mod connections;
mod kept;
mod logind;
mod processes;
mod utmp;

use std::cell::LazyCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use shield_engine::allowlist::AllowReason;
use shield_engine::event::PartState;
use shield_engine::time::Now;

use crate::text::ssh as text;
use connections::Connections;
use kept::Kept;
use processes::Processes;

/// The name of the part in the status.
pub(crate) const PART: &str = "ssh";

/// A connection that has not logged in is closed by sshd after two minutes (`LoginGraceTime`), so one this old has.
const SURELY_LOGGED_IN_MS: u64 = 180_000;

/// Scans between two looks for connections that no source explains: every three minutes with a scan every 5 s, so that the second
/// look at a connection tells of it. The kernel walks its whole table of connections for a look, which takes milliseconds also where
/// there are none. The first scan of all does not look: a start waits for it.
const CHECK_EVERY: u32 = 36;
const FIRST_CHECK: u32 = 1;

/// The settings of `[allow]` that concern SSH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub enabled: bool,
    /// For how long an address stays allowed after its last session.
    pub keep_secs: u64,
    /// Where the addresses are remembered.
    pub state_dir: PathBuf,
}

/// One session of somebody who has logged in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Login {
    addr: IpAddr,
    user: String,
}

/// What a source says.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Asked {
        logins: Vec<Login>,
        /// What it could not tell, for people.
        problems: Vec<String>,
    },
    /// There is nothing to ask, and why.
    Absent(String),
}

/// Where the sources are.
struct Places {
    sessions: PathBuf,
    utmp: PathBuf,
    sshd_config: PathBuf,
    /// The owner without whom nothing is believed: root.
    owner: u32,
}

impl Places {
    fn system() -> Places {
        Places {
            sessions: PathBuf::from("/run/systemd/sessions"),
            utmp: PathBuf::from("/run/utmp"),
            sshd_config: PathBuf::from("/etc/ssh/sshd_config"),
            owner: 0,
        }
    }
}

/// What a scan found.
#[derive(Debug)]
pub(crate) struct Scan {
    pub entries: Vec<(AllowReason, IpAddr)>,
    pub state: PartState,
}

/// Repeated scans.
pub(crate) struct Watch {
    enabled: bool,
    places: Places,
    scans: u32,
    processes: Processes,
    kept: Kept,
    live: BTreeSet<IpAddr>,
    /// Connections that no login explains, with the time of the first look that saw them.
    unexplained: BTreeMap<(IpAddr, u16), u64>,
}

impl Watch {
    pub(crate) fn new(settings: &Settings) -> Watch {
        Watch {
            enabled: settings.enabled,
            places: Places::system(),
            scans: 0,
            processes: Processes::default(),
            kept: Kept::open(&settings.state_dir, settings.keep_secs),
            live: BTreeSet::new(),
            unexplained: BTreeMap::new(),
        }
    }

    pub(crate) fn scan(&mut self, now: Now) -> Scan {
        if !self.enabled {
            return Scan { entries: Vec::new(), state: PartState::Off { reason: text::OFF_BY.to_owned() } };
        }
        // Few scans look at connections.
        let config = self.places.sshd_config.clone();
        let ports = LazyCell::new(|| connections::ssh_ports(&config));
        let mut tcp = Tcp::default();
        let answers = [
            ("logind", logind::ask(&self.places)),
            ("utmp", utmp::ask(&self.places, |addr| tcp.read().is_some_and(|tcp| tcp.serves(addr, &ports)))),
            ("processes", self.processes.ask(|| tcp.read())),
        ];
        let (mut logins, mut problems, mut asked, mut absent) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (source, answer) in answers {
            match answer {
                Answer::Asked { logins: found, problems: unsaid } => {
                    self.announce(&found, source);
                    asked.push(source);
                    logins.extend(found);
                    problems.extend(unsaid);
                }
                Answer::Absent(why) => absent.push(why),
            }
        }
        let live: BTreeSet<IpAddr> = logins.iter().map(|login| login.addr).collect();
        problems.extend(self.kept.seen(&live, now));
        if self.scans % CHECK_EVERY == FIRST_CHECK {
            self.look_for_unexplained(tcp.read(), &ports, &live, now);
        }
        self.scans = self.scans.wrapping_add(1);
        let old = |since: &u64| now.boot_ms.saturating_sub(*since) >= SURELY_LOGGED_IN_MS;
        let unexplained = self.unexplained.iter().filter(|(_, since)| old(since)).map(|((addr, _), _)| *addr);
        let unexplained: BTreeSet<IpAddr> = unexplained.collect();
        if let Some(addr) = unexplained.first() {
            problems.push(text::unexplained(*addr, unexplained.len() as u64));
        }
        problems.extend(tcp.problem);
        let state = if asked.is_empty() {
            PartState::Degraded { reason: text::could_not_ask(&absent) }
        } else if problems.is_empty() {
            PartState::Active { detail: text::active(live.len() as u64, self.kept.past(&live), &asked) }
        } else {
            problems.dedup();
            PartState::Degraded { reason: problems.join("; ") }
        };
        let past = self.kept.addresses().filter(|addr| !live.contains(addr));
        let mut entries: Vec<_> = past.map(|addr| (AllowReason::SshRecent, addr)).collect();
        entries.extend(live.iter().map(|addr| (AllowReason::SshSession, *addr)));
        self.live = live;
        Scan { entries, state }
    }

    fn announce(&self, found: &[Login], source: &str) {
        for login in found.iter().filter(|login| !self.live.contains(&login.addr)) {
            tracing::info!(client = %login.addr, user = login.user, source, "SSH session found");
        }
    }

    fn look_for_unexplained(
        &mut self,
        tcp: Option<&Connections>,
        ports: &BTreeSet<u16>,
        live: &BTreeSet<IpAddr>,
        now: Now,
    ) {
        let Some(tcp) = tcp else { return };
        let kept: BTreeSet<IpAddr> = self.kept.addresses().collect();
        let known = |addr: &IpAddr| addr.is_loopback() || live.contains(addr) || kept.contains(addr);
        let open = tcp.peers(ports).filter(|(addr, _)| !known(addr));
        self.unexplained =
            open.map(|peer| (peer, self.unexplained.get(&peer).copied().unwrap_or(now.boot_ms))).collect();
    }
}

/// The kernel's connections, read at most once in a scan, and only when somebody asks: a busy server has many.
#[derive(Default)]
struct Tcp {
    read: bool,
    connections: Option<Connections>,
    problem: Option<String>,
}

impl Tcp {
    fn read(&mut self) -> Option<&Connections> {
        if !self.read {
            self.read = true;
            match Connections::read() {
                Ok(found) => self.connections = Some(found),
                Err(error) => self.problem = Some(format!("{error:#}")),
            }
        }
        self.connections.as_ref()
    }
}

/// Whether this file or folder can be written by nobody but `owner` and, with `group_may`, its group.
fn is_owned(path: &Path, owner: u32, group_may: bool) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let others = if group_may { 0o002 } else { 0o022 };
    std::fs::symlink_metadata(path)
        .is_ok_and(|found| !found.is_symlink() && found.uid() == owner && found.mode() & others == 0)
}

/// The address in `text`, without the zone of a link-local one. Names are not looked up: who owns an address owns its name.
fn address(text: &str) -> Option<IpAddr> {
    let addr: IpAddr = text.split('%').next()?.parse().ok()?;
    Some(addr.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(folder: &Path) -> Watch {
        let settings = Settings { enabled: true, keep_secs: 3_600, state_dir: folder.join("state") };
        std::fs::create_dir_all(&settings.state_dir).unwrap();
        let own = nix::unistd::geteuid().as_raw();
        let places = Places {
            sessions: folder.join("sessions"),
            utmp: folder.join("utmp"),
            sshd_config: folder.join("sshd_config"),
            owner: own,
        };
        Watch { places, ..Watch::new(&settings) }
    }

    fn at(secs: i64) -> Now {
        Now { wall_ms: secs * 1_000, boot_ms: secs as u64 * 1_000 }
    }

    const SESSION: &str = "UID=1000\nUSER=anna\nSTATE=active\nREMOTE=1\nTYPE=tty\nCLASS=user\n\
                           REMOTE_HOST=203.0.113.5\nSERVICE=sshd\nLEADER=77\n";

    #[test]
    fn an_address_stays_allowed_after_its_session_across_restarts_and_then_ends() {
        let folder = tempfile::tempdir().unwrap();
        let (sessions, addr) = (folder.path().join("sessions"), "203.0.113.5".parse().unwrap());
        std::fs::create_dir(&sessions).unwrap();
        std::fs::write(sessions.join("3"), SESSION).unwrap();
        let mut first = watch(folder.path());
        assert!(first.scan(at(1_000)).entries.contains(&(AllowReason::SshSession, addr)));
        std::fs::remove_file(sessions.join("3")).unwrap();
        assert!(first.scan(at(1_005)).entries.contains(&(AllowReason::SshRecent, addr)));
        let mut second = watch(folder.path());
        assert!(second.scan(at(4_500)).entries.contains(&(AllowReason::SshRecent, addr)), "after a restart");
        assert!(second.scan(at(4_700)).entries.iter().all(|(_, found)| *found != addr), "its time is over");
    }

    #[test]
    fn a_connection_that_no_login_explains_is_named_once_it_must_have_logged_in() {
        let folder = tempfile::tempdir().unwrap();
        let mut watch = watch(folder.path());
        let tcp = Connections::of_peer("203.0.113.9".parse().unwrap(), 22);
        let ports = BTreeSet::from([22]);
        watch.look_for_unexplained(Some(&tcp), &ports, &BTreeSet::new(), at(0));
        watch.look_for_unexplained(Some(&tcp), &ports, &BTreeSet::new(), at(60));
        assert_eq!(
            watch.unexplained.values().copied().collect::<Vec<_>>(),
            [0],
            "its age counts from the first look"
        );
        watch.look_for_unexplained(
            Some(&tcp),
            &ports,
            &BTreeSet::from(["203.0.113.9".parse().unwrap()]),
            at(120),
        );
        assert!(watch.unexplained.is_empty(), "a login explains it");
    }
}
