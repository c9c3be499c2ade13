//! What is known of an environment: its machines, processes and end, kept in one file that every command reads.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::netns;

/// Set in the surroundings of every process of an environment, to the environment's id.
pub const MARKER: &str = "SHIELD_LAB";
/// Begins the name of every network namespace of an environment: `shl-ID-MACHINE`.
pub const NAMESPACE_PREFIX: &str = "shl-";
const FILE: &str = "environment.json";

/// An environment. Written as `environment.json` into its folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Name and time of creation, as `shop-20261130-021504`.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// It is destroyed at this time, in seconds since 1970.
    pub ends: u64,
    /// The same on the clock that counts from the boot, in milliseconds: it decides, because nobody sets it.
    #[serde(default)]
    pub ends_boot_ms: u64,
    /// Who takes it down when its time is over, and without whom it is an orphan; `None` if it was made without a control
    /// service.
    #[serde(default)]
    pub keeper: Option<Keeper>,
    /// The site that is asked for when its health is looked at.
    #[serde(default)]
    pub host: Option<String>,
    /// The port at which nginx speaks plain HTTP.
    #[serde(default = "http_port")]
    pub port: u16,
    /// The operator's own log, for visitors to be replayed from.
    #[serde(default)]
    pub log: Option<PathBuf>,
    /// How its clients reach the server.
    pub profile: Profile,
    /// Whether all of it runs.
    pub phase: Phase,
    /// Its files: configurations, logs, the agent's store and socket. Below it, each machine that runs something has a
    /// folder of its own.
    pub folder: PathBuf,
    /// Its network namespaces, in the order in which they were made.
    pub machines: Vec<Machine>,
    /// What was started in them, in the order in which it was.
    pub processes: Vec<Process>,
}

fn http_port() -> u16 {
    80
}

/// How clients reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Over a router.
    Direct,
    /// Through a proxy, which names them in a header.
    Cdn,
    /// Through a gateway that translates addresses to those of a container.
    Container,
    /// To two servers that tell each other of bans.
    Fleet,
}

impl Profile {
    /// As in the environment's file.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Direct => "direct",
            Profile::Cdn => "cdn",
            Profile::Container => "container",
            Profile::Fleet => "fleet",
        }
    }
}

impl Phase {
    /// As in the environment's file.
    pub fn name(self) -> &'static str {
        match self {
            Phase::Creating => "creating",
            Phase::Ready => "ready",
            Phase::Destroying => "destroying",
        }
    }
}

/// How far an environment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It is being made; a crash leaves it like this.
    Creating,
    /// It runs.
    Ready,
    /// It is being taken down.
    Destroying,
}

/// A network namespace of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Unique within the environment: `server`, `router`, `alice`, `mallory`.
    pub name: String,
    /// What it stands for.
    pub role: Role,
    /// The name of the namespace.
    pub namespace: String,
    /// Its own addresses, without those of its loopback.
    pub addresses: Vec<IpAddr>,
    /// Networks of which every address is its own too, as `198.18.0.0/16`.
    #[serde(default)]
    pub networks: Vec<String>,
}

/// A process that looks after environments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeper {
    /// Its id.
    pub pid: u32,
    /// Its start, in ticks since the boot.
    pub started: u64,
}

impl Keeper {
    /// This process.
    ///
    /// # Errors
    /// Fails without a /proc.
    pub fn of_this_process() -> Result<Self> {
        let pid = std::process::id();
        Ok(Self { pid, started: started(pid).context("could not read this process's start in /proc")? })
    }

    /// Whether it still runs.
    pub fn is_alive(self) -> bool {
        started(self.pid) == Some(self.started)
    }
}

/// What a machine stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Runs nginx, the app behind it, and the agent.
    Server,
    /// Forwards between the others.
    Router,
    /// Runs nginx in a container of the server.
    Container,
    /// The CDN's edge in front of the server.
    Proxy,
    /// A client that must never be dropped.
    Visitor,
    /// Sends attacks, from its own addresses alone.
    Attacker,
}

/// A process of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// What it does.
    pub part: Part,
    /// The name of the machine that it runs on.
    pub machine: String,
    /// Its id. Ids are used again: see `started`.
    pub pid: u32,
    /// Its start, in ticks since the boot (field 22 of `/proc/PID/stat`). Together with the id it names one process.
    pub started: u64,
}

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// nginx's master.
    Nginx,
    /// The app behind nginx.
    App,
    /// The agent under test.
    Agent,
    /// The edge in front of the server.
    Proxy,
    /// The visitors' requests.
    Visitors,
    /// An attack.
    Attack,
    /// What an outage runs, as the load of `stress`.
    Outage,
    /// The way in for the front nginx, from a unix socket.
    Door,
    /// The fleet's message server.
    Nats,
}

impl Environment {
    /// Reads the environment in `folder`.
    ///
    /// # Errors
    /// Fails if there is none, or if its file cannot be read.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(FILE);
        let text =
            fs::read(&path).with_context(|| format!("could not read the environment {}", path.display()))?;
        let environment: Self = serde_json::from_slice(&text)
            .with_context(|| format!("could not read the environment {}", path.display()))?;
        let is_here = environment.folder == folder;
        ensure!(is_here, "could not use {}: it describes {}", path.display(), environment.folder.display());
        Ok(environment)
    }

    /// Writes it, so that a reader sees the former state or this one and nothing between.
    ///
    /// # Errors
    /// Fails if the folder is gone or the disk full.
    pub fn write(&self) -> Result<()> {
        let path = self.folder.join(FILE);
        let temporary = self.folder.join(format!("{FILE}.new"));
        let write = || -> std::io::Result<()> {
            let mut file = fs::File::create(&temporary)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, &path)
        };
        write().with_context(|| format!("could not write the environment's state {}", path.display()))
    }

    /// How long it still lives, by the time since the boot.
    pub fn left(&self, since_boot: Duration) -> Duration {
        Duration::from_millis(self.ends_boot_ms).saturating_sub(since_boot)
    }

    /// The first machine of this role.
    pub fn machine(&self, role: Role) -> Option<&Machine> {
        self.machines.iter().find(|machine| machine.role == role)
    }

    /// The first process that does this.
    pub fn process(&self, part: Part) -> Option<&Process> {
        self.processes.iter().find(|process| process.part == part)
    }
}

impl Process {
    /// Whether this very process, and not a later one with its id, runs and carries the environment's marker.
    pub fn is_alive(&self, id: &str) -> bool {
        started(self.pid) == Some(self.started) && carries_marker(self.pid, id)
    }
}

/// When a process began, in ticks since the boot; `None` if there is no such process, or if it has ended and only nobody asked.
pub fn started(pid: u32) -> Option<u64> {
    Stat::of(pid).filter(|stat| !stat.is_over()).map(|stat| stat.started)
}

/// What the kernel says of a process in `/proc/PID/stat`.
pub(crate) struct Stat {
    state: char,
    /// The id of its process group.
    pub group: u32,
    started: u64,
}

impl Stat {
    /// `None` if there is no such process.
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold spaces and parentheses of its own.
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            group: fields.get(2)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    /// Whether it has ended, and only nobody asked.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Whether a signal holds it.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state == 'T'
    }
}

/// Whether the process was started with the marker of environment `id`, or is in a network namespace of it: nginx overwrites
/// the surroundings that it was started with.
pub fn carries_marker(pid: u32, id: &str) -> bool {
    let wanted = format!("{MARKER}={id}");
    let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environ.split(|byte| *byte == 0).any(|entry| entry == wanted.as_bytes()) || is_inside(pid, id)
}

fn is_inside(pid: u32, id: &str) -> bool {
    let inodes = netns::inodes_of(&namespace_name(id, "")).unwrap_or_default();
    i32::try_from(pid).ok().and_then(netns::namespace_of).is_some_and(|inode| inodes.contains(&inode))
}

/// The name of the namespace of a machine.
pub fn namespace_name(id: &str, machine: &str) -> String {
    format!("{NAMESPACE_PREFIX}{id}-{machine}")
}

#[cfg(test)]
impl Environment {
    /// One with a server that runs nothing.
    pub(crate) fn example(id: &str, folder: &Path) -> Self {
        Self {
            id: id.to_owned(),
            created: 1_796_000_000,
            ends: 1_796_001_800,
            ends_boot_ms: 0,
            keeper: None,
            host: None,
            port: 80,
            log: None,
            profile: Profile::Direct,
            phase: Phase::Ready,
            folder: folder.to_owned(),
            machines: vec![Machine {
                name: "server".to_owned(),
                role: Role::Server,
                namespace: namespace_name(id, "server"),
                addresses: vec![IpAddr::from([192, 0, 2, 80])],
                networks: vec![],
            }],
            processes: vec![],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_environment_is_read_as_it_was_written_and_only_where_it_belongs() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let environment = Environment::example("shop-20261130-021504", folder.path());
        environment.write().unwrap();
        assert_eq!(Environment::read(folder.path()).unwrap(), environment);
        fs::copy(folder.path().join(FILE), other.path().join(FILE)).unwrap();
        assert!(Environment::read(other.path()).is_err());
    }

    #[test]
    fn a_process_is_known_by_its_start_and_its_marker() {
        let mut child = std::process::Command::new("sleep").arg("60").env(MARKER, "a").spawn().unwrap();
        let pid = child.id();
        let known = |started| Process { part: Part::App, machine: String::from("server"), pid, started };
        // A new program's surroundings are to be read only a moment after it was started.
        while !carries_marker(pid, "a") && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        let since = started(pid).unwrap();
        assert!(known(since).is_alive("a"));
        assert!(!known(since + 1).is_alive("a"));
        assert!(!known(since).is_alive("b"));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(started(pid), None);
    }
}
