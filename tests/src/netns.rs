//! Network namespaces as machines: created under a unique name, wired with veth pairs, deleted when dropped.
//!
//! Only the network is separate. Files, processes and the host's `/sys/fs/bpf` are the same inside; `/sys/class/net`
//! shows the *host's* interfaces (sysfs remembers who mounted it), so ask `ip`, not sysfs. Interfaces are created in
//! their namespaces directly and never pass through the host's own.

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

/// What the name of every namespace made here begins with; the process id that made it comes next.
const NAME_PREFIX: &str = "shield";
/// Where iproute2 keeps named namespaces.
const NAMED_NAMESPACES: &str = "/run/netns";

/// One network namespace. Dropping it ends the processes still inside and deletes it with all its interfaces, rules
/// and attached programs.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

/// One end of a veth pair: the namespace it is in, its name there, and its addresses with prefix lengths
/// (`192.0.2.1/24`, `2001:db8::1/64`).
#[derive(Debug, Clone, Copy)]
pub struct End<'a> {
    /// Where.
    pub namespace: &'a Namespace,
    /// At most 15 bytes.
    pub interface: &'a str,
    /// IPv6 ones are usable at once: duplicate address detection is left out.
    pub addresses: &'a [&'a str],
}

impl Namespace {
    /// Creates `shield-PID-N-LABEL` with its loopback up. Namespaces left by runs that were killed are deleted first.
    ///
    /// # Errors
    /// Without root, or where iproute2 is missing.
    pub fn create(label: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if NEXT.load(Ordering::Relaxed) == 0 {
            sweep_dead_runs()?;
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{NAME_PREFIX}-{}-{number}-{label}", std::process::id());
        command::run(&["ip", "netns", "add", &name]).context("created a network namespace (needs root)")?;
        let namespace = Self { name };
        namespace.run(&["ip", "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Its name, as `ip netns list` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it, for `setns` and `nsenter --net=`.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(NAMED_NAMESPACES).join(&self.name)
    }

    /// Runs `inside` on a fresh thread that is in this namespace. Sockets it opens and children it starts are and stay
    /// there; the caller's own thread never leaves its namespace.
    ///
    /// A child started inside must not ask for a parent-death signal: the thread that starts it ends at once.
    ///
    /// # Panics
    /// When the namespace cannot be entered, and when `inside` panics.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(self.path()).expect("opened a namespace that this process made");
                setns(&file, CloneFlags::CLONE_NEWNET).expect("entered a namespace that this process made");
                inside()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// As [`Namespace::enter`], on a thread of its own that goes on after this returns. Join it before the namespace is
    /// dropped.
    ///
    /// # Panics
    /// When the namespace is gone.
    pub fn spawn(&self, inside: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
        let file = File::open(self.path()).expect("opened a namespace that this process made");
        std::thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET).expect("entered a namespace that this process made");
            drop(file);
            inside();
        })
    }

    /// Runs `argv` inside and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be started, or fails; the error has the command line and what it said.
    pub fn run(&self, argv: &[&str]) -> Result<String> {
        self.enter(|| command::run(argv)).with_context(|| format!("ran a command in {}", self.name))
    }

    /// Runs `argv` inside to its end, whatever its exit code.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn output(&self, argv: &[&str]) -> Result<Output> {
        self.enter(|| command::output(argv)).with_context(|| format!("ran a command in {}", self.name))
    }

    /// Adds an address with its prefix length to one of its interfaces.
    ///
    /// # Errors
    /// When `ip` refuses it.
    pub fn add_address(&self, interface: &str, address: &str) -> Result<()> {
        let mut argv = vec!["ip", "address", "add", address, "dev", interface];
        if address.contains(':') {
            argv.push("nodad");
        }
        self.run(&argv).map(drop)
    }

    /// Sends everything that is not on a link of its own to this gateway, for the gateway's family.
    ///
    /// # Errors
    /// When the gateway is on no link of this namespace.
    pub fn set_default_route(&self, gateway: IpAddr) -> Result<()> {
        let family = if gateway.is_ipv6() { "-6" } else { "-4" };
        self.run(&["ip", family, "route", "add", "default", "via", &gateway.to_string()]).map(drop)
    }

    /// Makes it a router: forwards between its links, IPv4 and IPv6.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn enable_forwarding(&self) -> Result<()> {
        self.enter(|| -> Result<()> {
            for path in ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"] {
                std::fs::write(path, "1").with_context(|| format!("wrote 1 to {path}"))?;
            }
            Ok(())
        })
    }

    /// The processes inside, this one never among them.
    ///
    /// # Errors
    /// When `/proc` or the namespace itself cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let wanted =
            std::fs::metadata(self.path()).with_context(|| format!("looked at {}", self.name))?.ino();
        Ok(all_processes()?.into_iter().filter(|pid| namespace_of(*pid) == Some(wanted)).collect())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // A kernel keeps a namespace alive while a process is in it: what is left inside was started here, and ends here.
        for pid in self.processes().unwrap_or_default() {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
        if let Err(error) = command::run(&["ip", "netns", "delete", &self.name]) {
            eprintln!("could not delete a namespace: {error:#}");
        }
    }
}

/// Connects two namespaces with a veth pair, both ends up and addressed.
///
/// # Errors
/// When an interface of that name is there already, or an address is not one.
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

/// Names of the namespaces that the process `pid` made and that are still there.
///
/// # Errors
/// When the folder of named namespaces cannot be read.
pub fn left_by(pid: u32) -> Result<Vec<String>> {
    let prefix = format!("{NAME_PREFIX}-{pid}-");
    Ok(all_names()?.into_iter().filter(|name| name.starts_with(&prefix)).collect())
}

/// Deletes namespaces whose maker is gone (it was killed before it could clean up).
fn sweep_dead_runs() -> Result<()> {
    for name in all_names()? {
        let maker =
            name.strip_prefix(NAME_PREFIX).and_then(|rest| rest.split('-').nth(1)?.parse::<u32>().ok());
        if maker.is_some_and(|pid| !PathBuf::from(format!("/proc/{pid}")).exists()) {
            // Dropping is what deletes. Another run may have been faster: then there is nothing left to do.
            drop(Namespace { name });
        }
    }
    Ok(())
}

fn all_names() -> Result<Vec<String>> {
    let entries = match std::fs::read_dir(NAMED_NAMESPACES) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context(format!("listed {NAMED_NAMESPACES}")),
    };
    Ok(entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
}

fn all_processes() -> Result<Vec<i32>> {
    let entries = std::fs::read_dir("/proc").context("listed /proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

/// The inode of a process's network namespace; `None` when the process is gone, or is this one.
fn namespace_of(pid: i32) -> Option<u64> {
    if pid.unsigned_abs() == std::process::id() {
        return None;
    }
    Some(std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino())
}
