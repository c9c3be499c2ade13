//! Network namespaces that stand for machines: created under a unique name, connected with veth pairs, deleted on drop.
//!
//! Only the network is separate. Files, processes and the host's `/sys/fs/bpf` are shared. `/sys/class/net` shows the
//! *host's* interfaces, because sysfs belongs to the namespace that mounted it: query `ip` instead. Interfaces are created
//! in their namespaces directly and never appear in the host's own.

use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::process::Output;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};

use crate::command;

/// The prefix of every namespace's name. The creator's process id follows it, so that leftovers of dead processes can be
/// recognised.
const NAME_PREFIX: &str = "shield";
/// iproute2's folder of named namespaces.
const NAMED_NAMESPACES: &str = "/run/netns";

/// A network namespace. Dropping it kills the processes still inside and deletes it with all its interfaces, rules and
/// attached programs, unless it is a kept one.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    on_drop: OnDrop,
}

/// What dropping a namespace's handle does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnDrop {
    Delete,
    Keep,
}

/// One end of a veth pair.
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// The namespace it is in.
    pub namespace: &'a Namespace,
    /// Its name there, at most 15 bytes.
    pub interface: &'a str,
    /// Addresses with prefix lengths (`192.0.2.1/24`, `2001:db8::1/64`). IPv6 addresses are usable at once, because
    /// duplicate address detection is switched off for them.
    pub addresses: &'a [&'a str],
}

impl Namespace {
    /// Creates `shield-PID-N-LABEL` with its loopback up. The first call deletes namespaces left by killed runs.
    ///
    /// # Errors
    /// Fails without root, or if iproute2 is missing.
    pub fn create(label: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if NEXT.load(Ordering::Relaxed) == 0 {
            sweep_dead_runs()?;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{NAME_PREFIX}-{}-{number}-{label}", std::process::id());
        Self::add(name, OnDrop::Delete)
    }

    /// Creates a namespace that outlives its handle and this process: see [`delete`].
    ///
    /// # Errors
    /// Fails without root, if there is one of this name, or if iproute2 is missing.
    pub fn create_kept(name: &str) -> Result<Self> {
        Self::add(name.to_owned(), OnDrop::Keep)
    }

    /// A handle of one that is there. Dropping it changes nothing.
    ///
    /// # Errors
    /// Fails if there is none of this name.
    pub fn open(name: &str) -> Result<Self> {
        let namespace = Self { name: name.to_owned(), on_drop: OnDrop::Keep };
        std::fs::metadata(namespace.path())
            .with_context(|| format!("could not find the network namespace {name}"))?;
        Ok(namespace)
    }

    fn add(name: String, on_drop: OnDrop) -> Result<Self> {
        command::run(&["ip", "netns", "add", &name])
            .context("could not create a network namespace (needs root)")?;
        let namespace = Self { name, on_drop };
        namespace.disable_duplicate_address_detection()?;
        namespace.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Link-local addresses would stay tentative for up to two seconds, and a router without one cannot ask for its IPv6
    /// neighbours.
    fn disable_duplicate_address_detection(&self) -> Result<()> {
        let path = "/proc/sys/net/ipv6/conf/default/accept_dad";
        self.enter(|| std::fs::write(path, "0")).with_context(|| format!("could not write 0 to {path}"))
    }

    /// Its name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace's file, for `setns` and `nsenter --net=`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(NAMED_NAMESPACES).join(&self.name)
    }

    /// Runs `inside` on a new thread in this namespace. Sockets that it opens and children that it starts stay in the
    /// namespace; the calling thread never leaves its own.
    ///
    /// A child started inside must not request a parent-death signal: that follows the starting thread, which ends at once.
    ///
    /// # Panics
    /// Panics if the namespace cannot be entered, or if `inside` panics.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(self.path()).expect("this process created the namespace");
                setns(&file, CloneFlags::CLONE_NEWNET).expect("this process created the namespace");
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// As [`Namespace::enter`], but returns while the thread runs. Join it before the namespace is dropped.
    ///
    /// # Panics
    /// Panics if the namespace is gone.
    pub fn spawn(&self, inside: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        let file = File::open(self.path()).expect("this process created the namespace");
        std::thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).expect("this process created the namespace");
            drop(file);
            inside();
        })
    }

    /// Runs `argv` inside and returns its standard output.
    ///
    /// # Errors
    /// Fails if the program cannot be started or does not succeed; the error contains its command line and output.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        self.enter(|| command::run(argv)).with_context(|| format!("could not run a command in {}", self.name))
    }

    /// Runs `argv` inside and returns its output with any exit code.
    ///
    /// # Errors
    /// Fails if the program cannot be started.
    pub fn output(&self, argv: &[&str]) -> Result<Output> {
        self.enter(|| command::output(argv))
            .with_context(|| format!("could not run a command in {}", self.name))
    }

    /// Adds an address with its prefix length to an interface.
    ///
    /// # Errors
    /// Fails if `ip` refuses it.
    pub fn add_address(&self, interface: &str, address: &str) -> Result<()> {
        let mut argv = vec!["ip", "address", "add", address, "dev", interface];
        if address.contains(':') {
            argv.push("nodad");
        }
        self.run(&argv).map(drop)
    }

    /// Sets the default route of the gateway's address family.
    ///
    /// # Errors
    /// Fails if the gateway is on no link of this namespace.
    pub fn set_default_route(&self, gateway: IpAddr) -> Result<()> {
        let family = if gateway.is_ipv6() { "-6" } else { "-4" };
        self.run(&["ip", family, "route", "add", "default", "via", &gateway.to_string()]).map(drop)
    }

    /// Enables forwarding between its interfaces, for IPv4 and IPv6.
    ///
    /// # Errors
    /// Fails if the kernel refuses.
    pub fn enable_forwarding(&self) -> Result<()> {
        self.enter(|| -> Result<()> {
            for path in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"] {
                std::fs::write(path, "1").with_context(|| format!("could not write 1 to {path}"))?;
            }
            Ok(())
        })
    }

    /// The processes inside, without this one.
    ///
    /// # Errors
    /// Fails if `/proc` or the namespace itself cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let wanted =
            std::fs::metadata(self.path()).with_context(|| format!("could not inspect {}", self.name))?.ino();
        Ok(all_processes()?.into_iter().filter(|pid| namespace_of(*pid) == Some(wanted)).collect())
    }
}

/// Kills what is in the namespace and deletes it. One that is not there is no error.
///
/// # Errors
/// Fails if it cannot be deleted.
pub fn delete(name: &str) -> Result<()> {
    let Ok(namespace) = Namespace::open(name) else { return Ok(()) };
    namespace.kill_processes();
    command::run(&["ip", "netns", "delete", name]).map(drop)
}

impl Namespace {
    fn kill_processes(&self) {
        // The kernel keeps a namespace alive while a process is in it, so remaining processes must be killed first.
        for pid in self.processes().unwrap_or_default() {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.on_drop == OnDrop::Keep {
            return;
        }
        self.kill_processes();
        if let Err(error) = command::run(&["ip", "netns", "delete", &self.name]) {
            eprintln!("could not delete a namespace: {error:#}");
        }
    }
}

/// Connects two namespaces with a veth pair, sets addresses and brings both ends up.
///
/// # Errors
/// Fails if an interface of that name already exists, or if an address is invalid.
pub fn connect(a: End<'_>, b: End<'_>) -> Result<()> {
    command::run(&[
        "ip",
        "link",
        "add",
        a.interface,
        "netns",
        a.namespace.name(),
        "type",
        "veth",
        "peer",
        "name",
        b.interface,
        "netns",
        b.namespace.name(),
    ])?;
    for end in [a, b] {
        for address in end.addresses {
            end.namespace.add_address(end.interface, address)?;
        }
        end.namespace.run(&["ip", "link", "set", end.interface, "up"])?;
    }
    Ok(())
}

/// The names of the remaining namespaces that the process `pid` created.
///
/// # Errors
/// Fails if the folder of named namespaces cannot be read.
pub fn left_by(pid: u32) -> Result<Vec<String>> {
    let prefix = format!("{NAME_PREFIX}-{pid}-");
    Ok(all_names()?.into_iter().filter(|name| name.starts_with(&prefix)).collect())
}

/// Deletes namespaces whose creator was killed before it could clean up.
fn sweep_dead_runs() -> Result<()> {
    for name in all_names()? {
        let creator =
            name.strip_prefix(NAME_PREFIX).and_then(|rest| rest.split('-').nth(1)?.parse::<u32>().ok());
        if creator.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            // Dropping deletes it. A concurrent run may delete it first, so a failure is only printed.
            drop(Namespace { name, on_drop: OnDrop::Delete });
        }
    }
    Ok(())
}

/// The inodes of the named namespaces whose names begin with this.
///
/// # Errors
/// Fails if the folder of named namespaces cannot be read.
pub fn inodes_of(prefix: &str) -> Result<Vec<u64>> {
    let names = all_names()?.into_iter().filter(|name| name.starts_with(prefix));
    let paths = names.map(|name| PathBuf::from(NAMED_NAMESPACES).join(name));
    Ok(paths.filter_map(|path| Some(std::fs::metadata(path).ok()?.ino())).collect())
}

/// The names of the namespaces that begin with this.
///
/// # Errors
/// Fails if the folder of named namespaces cannot be read.
pub fn names_of(prefix: &str) -> Result<Vec<String>> {
    Ok(all_names()?.into_iter().filter(|name| name.starts_with(prefix)).collect())
}

fn all_names() -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(NAMED_NAMESPACES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(format!("could not list {NAMED_NAMESPACES}")),
    };
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn all_processes() -> Result<Vec<i32>> {
    let entries = std::fs::read_dir("/proc").context("could not list /proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// The inode of a process's network namespace; `None` if the process has ended or is this one.
pub(crate) fn namespace_of(pid: i32) -> Option<u64> {
    if pid.unsigned_abs() == std::process::id() {
        return None;
    }
    Some(std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino())
}
