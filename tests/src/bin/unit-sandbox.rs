//! Runs a program in the sandbox of the shipped unit: see `shield_tests::unit`. Replaces itself by the program, so that signals
//! reach it.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use nix::libc;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::{Mode, umask};
use rustix::fs::OFlags;
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{
    BpfMap, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};
use shield_tests::unit::{allowed_calls, words_of};

#[derive(Parser)]
#[command(about = "Runs a program in the sandbox of packaging/shield.service")]
struct Arguments {
    /// A folder that stays writable
    #[arg(long)]
    writable: Vec<PathBuf>,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, required = true)]
    program: Vec<String>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    // Before anything is closed or hidden: systemd-analyze runs here, and the unit's file is read.
    let (filters, capabilities) = (filters()?, capabilities()?);
    let (program, rest) = arguments.program.split_first().context("could not find a program to run")?;
    restrict_files(&arguments.writable, Path::new(program))?;
    restrict_capabilities(capabilities)?;
    for filter in &filters {
        seccompiler::apply_filter(filter).context("could not apply a filter of system calls")?;
    }
    Err(Command::new(program).args(rest).exec()).with_context(|| format!("could not run {program}"))
}

/// `ProtectSystem=strict` with its `ReadWritePaths=` and `BindPaths=`, `ProtectKernelTunables=`, `ProtectProc=invisible`, `PrivateTmp=`,
/// `ProtectHome=`, `PrivateDevices=`, `PrivateMounts=`, `UMask=`. Whatever the tests need of what is hidden, which is `writable` and `program`, is bound to its place again.
fn restrict_files(writable: &[PathBuf], program: &Path) -> Result<()> {
    for (key, value) in [
        ("ProtectSystem", "strict"),
        ("ProtectProc", "invisible"),
        ("PrivateTmp", "yes"),
        ("ProtectHome", "yes"),
        ("PrivateDevices", "yes"),
        ("PrivateMounts", "yes"),
        ("ProtectKernelTunables", "yes"),
    ] {
        ensure!(words_of(key)? == [value], "another {key}= than this program makes");
    }
    let mask = words_of("UMask")?.concat();
    let mask = libc::mode_t::from_str_radix(&mask, 8).context("could not read UMask=")?;
    let bound = words_of("BindPaths")?;
    let bound = bound.iter().map(|path| path.trim_start_matches('-').to_owned());
    let named: Vec<String> = words_of("ReadWritePaths")?.into_iter().chain(bound).collect();
    unshare(CloneFlags::CLONE_NEWNS).context("could not make a mount namespace (needs root)")?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .context("could not make the mounts private")?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), Some("hidepid=invisible"))
        .context("could not mount /proc")?;
    let open: Vec<&Path> = named.iter().map(Path::new).chain(writable.iter().map(PathBuf::as_path)).collect();
    let kept = open.iter().copied().chain([program]).map(Kept::open).collect::<Result<Vec<_>>>()?;
    let kept = || kept.iter().flatten();
    hide_devices()?;
    for folder in PRIVATE {
        mount(
            Some("tmpfs"),
            folder,
            Some("tmpfs"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            Some("mode=1777"),
        )
        .with_context(|| format!("could not hide {folder}"))?;
    }
    kept().filter(|kept| kept.path == Path::new("/run")).try_for_each(Kept::put_back)?;
    for folder in HOMES.map(Path::new).iter().filter(|folder| folder.is_dir()) {
        mount(Some("tmpfs"), *folder, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some("mode=0"))
            .with_context(|| format!("could not hide {}", folder.display()))?;
    }
    kept().filter(|kept| kept.path != Path::new("/run")).try_for_each(Kept::put_back)?;
    let stays = |point: &Path| {
        // As systemd has it, these are not the file system's. Of /proc see `protect_tunables`, which /sys is one of; the devices' own
        // are read-only already.
        let kernels = ["/proc", "/dev"].map(Path::new);
        let is_open =
            kernels.iter().chain(&open).chain(&PRIVATE.map(Path::new)).any(|path| point.starts_with(path));
        is_open && !HOMES.iter().any(|home| point == Path::new(home))
    };
    for point in mount_points()?.iter().filter(|point| !stays(point)) {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        match mount(NONE, point, NONE, flags, NONE) {
            // Hidden below another mount.
            Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("could not make {} read-only", point.display()));
            }
        }
    }
    protect_tunables()?;
    umask(Mode::from_bits_truncate(mask));
    Ok(())
}

/// What `ProtectKernelTunables=` closes of /proc; `/sys` has been made read-only with the rest.
const READ_ONLY: [&str; 9] = ["acpi", "asound", "bus", "fs", "irq", "mtrr", "scsi", "sys", "sysrq-trigger"];
const INACCESSIBLE: [&str; 4] = ["iomem", "ioports", "kallsyms", "kcore"];

fn protect_tunables() -> Result<()> {
    let existing = |name: &str| Some(Path::new("/proc").join(name)).filter(|path| path.exists());
    for path in READ_ONLY.into_iter().filter_map(existing) {
        let failed = || format!("could not make {} read-only", path.display());
        mount(Some(&path), &path, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE).with_context(failed)?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(NONE, &path, NONE, flags, NONE).with_context(failed)?;
    }
    for path in INACCESSIBLE.into_iter().filter_map(existing) {
        mount(Some("/dev/null"), &path, NONE, MsFlags::MS_BIND, NONE)
            .with_context(|| format!("could not hide {}", path.display()))?;
    }
    Ok(())
}

const NONE: Option<&str> = None;

/// What `PrivateTmp=` gives the unit an own one of.
const PRIVATE: [&str; 2] = ["/tmp", "/var/tmp"];

/// What `ProtectHome=` empties.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];

/// A file or folder, held open so that it can be bound to its place once that is hidden.
struct Kept {
    path: PathBuf,
    held: OwnedFd,
    is_folder: bool,
}

impl Kept {
    /// `None` when there is none.
    fn open(path: &Path) -> Result<Option<Kept>> {
        let held = match rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty()) {
            Ok(held) => held,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("could not open {}", path.display())),
        };
        Ok(Some(Kept { path: path.to_owned(), held, is_folder: path.is_dir() }))
    }

    /// Makes the place where there is none any more.
    fn put_back(&self) -> Result<()> {
        let failed = || format!("could not bind {}", self.path.display());
        if !self.path.exists() {
            let folder = if self.is_folder { Some(self.path.as_path()) } else { self.path.parent() };
            std::fs::create_dir_all(folder.with_context(failed)?).with_context(failed)?;
            if !self.is_folder {
                std::fs::write(&self.path, "").with_context(failed)?;
            }
        }
        let source = format!("/proc/self/fd/{}", self.held.as_raw_fd());
        mount(Some(source.as_str()), &self.path, NONE, MsFlags::MS_BIND | MsFlags::MS_REC, NONE)
            .with_context(failed)
    }
}

/// An own /dev with the harmless devices.
fn hide_devices() -> Result<()> {
    let nodes = ["null", "zero", "full", "random", "urandom", "tty", "pts", "shm"];
    let kept = nodes.map(|node| Kept::open(&Path::new("/dev").join(node)));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("tmpfs"), "/dev", Some("tmpfs"), flags, Some("mode=755")).context("could not hide /dev")?;
    for node in kept {
        node?.iter().try_for_each(Kept::put_back)?;
    }
    for (link, target) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        std::os::unix::fs::symlink(format!("/proc/self/{target}"), format!("/dev/{link}"))
            .with_context(|| format!("could not make /dev/{link}"))?;
    }
    std::os::unix::fs::symlink("pts/ptmx", "/dev/ptmx").context("could not make /dev/ptmx")?;
    let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | flags;
    mount(NONE, "/dev", NONE, read_only, NONE).context("could not make /dev read-only")
}

fn mount_points() -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").context("could not list the mounts")?;
    Ok(text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from).collect())
}

/// `CapabilityBoundingSet=` and `NoNewPrivileges=`.
fn capabilities() -> Result<CapabilitySet> {
    ensure!(words_of("NoNewPrivileges")? == ["yes"], "another NoNewPrivileges= than this program makes");
    let mut kept = CapabilitySet::empty();
    for name in words_of("CapabilityBoundingSet")? {
        let known = name.strip_prefix("CAP_").and_then(CapabilitySet::from_name);
        kept |= known.with_context(|| format!("could not find the capability {name}"))?;
    }
    Ok(kept)
}

/// Root gets what is in the bounding set when it runs a program.
fn restrict_capabilities(kept: CapabilitySet) -> Result<()> {
    for capability in CapabilitySet::all().difference(kept).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // Newer than this kernel.
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error).context("could not drop a capability"),
        }
    }
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).context("could not set the capabilities")?;
    rustix::thread::set_no_new_privs(true).context("could not set no_new_privs")
}

/// The filters of the unit's keys, each a program of its own; of their answers the strictest holds.
fn filters() -> Result<Vec<BpfProgram>> {
    for (key, value) in [
        ("SystemCallErrorNumber", "EPERM"),
        ("SystemCallArchitectures", "native"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "yes"),
        ("RestrictRealtime", "yes"),
        ("RestrictSUIDSGID", "yes"),
    ] {
        ensure!(words_of(key)? == [value], "another {key}= than this program makes");
    }
    Ok(vec![
        refuse(addresses()?, libc::EAFNOSUPPORT)?,
        refuse(memory()?, libc::EPERM)?,
        refuse(namespaces()?, libc::EPERM)?,
        // A filter cannot look into the structure that they take; glibc then falls back to the older call.
        refuse(vec![(libc::SYS_clone3, vec![]), (libc::SYS_openat2, vec![])], libc::ENOSYS)?,
        refuse(realtime()?, libc::EPERM)?,
        refuse(set_id_bits()?, libc::EPERM)?,
        // The last one, because it forbids to apply another.
        only(&allowed_calls()?)?,
    ])
}

fn architecture() -> Result<TargetArch> {
    std::env::consts::ARCH.try_into().context("could not filter system calls on this architecture")
}

/// `SystemCallFilter=`.
fn only(names: &[String]) -> Result<BpfProgram> {
    let compiled = |names: &[&String]| -> Result<BpfMap> {
        let rules: Vec<_> = names.iter().map(|name| serde_json::json!({ "syscall": name })).collect();
        let filter = serde_json::json!({ "unit": {
            "mismatch_action": { "errno": libc::EPERM }, "match_action": "allow", "filter": rules,
        }});
        Ok(seccompiler::compile_from_json(filter.to_string().as_bytes(), architecture()?)?)
    };
    // Names of other architectures and of newer kernels are unknown; systemd leaves them out as well.
    let known: Vec<&String> = names.iter().filter(|name| compiled(&[name]).is_ok()).collect();
    if known.len() < 200 {
        bail!("could not find more than {} of {} system calls", known.len(), names.len());
    }
    compiled(&known)?.remove("unit").context("could not compile the filter of system calls")
}

type Rules = Vec<(libc::c_long, Vec<SeccompRule>)>;

/// Answers calls that a rule meets with this error; a call without a rule always.
fn refuse(rules: Rules, error: i32) -> Result<BpfProgram> {
    let mut by_call: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (call, rules) in rules {
        by_call.entry(call).or_default().extend(rules);
    }
    let errno = u32::try_from(error).context("could not use a negative errno")?;
    let filter =
        SeccompFilter::new(by_call, SeccompAction::Allow, SeccompAction::Errno(errno), architecture()?)?;
    Ok(filter.try_into()?)
}

/// A rule that is met when all of these hold: argument, comparison, value.
fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> Result<SeccompRule> {
    let condition = |(argument, operator, value): &(u8, SeccompCmpOp, u64)| {
        SeccompCondition::new(*argument, SeccompCmpArgLen::Dword, operator.clone(), *value)
    };
    Ok(SeccompRule::new(conditions.iter().map(condition).collect::<Result<_, _>>()?)?)
}

fn has_bits(argument: u8, bits: libc::c_int) -> (u8, SeccompCmpOp, u64) {
    let bits = u64::from(bits.cast_unsigned());
    (argument, SeccompCmpOp::MaskedEq(bits), bits)
}

/// `RestrictAddressFamilies=`.
fn addresses() -> Result<Rules> {
    let others = words_of("RestrictAddressFamilies")?.into_iter().map(|name| {
        let family = match name.as_str() {
            "AF_UNIX" => libc::AF_UNIX,
            "AF_INET" => libc::AF_INET,
            "AF_INET6" => libc::AF_INET6,
            "AF_NETLINK" => libc::AF_NETLINK,
            other => bail!("could not find the number of {other}"),
        };
        Ok((0, SeccompCmpOp::Ne, u64::from(family.cast_unsigned())))
    });
    let others = others.collect::<Result<Vec<_>>>()?;
    Ok(vec![(libc::SYS_socket, vec![rule(&others)?])])
}

/// `MemoryDenyWriteExecute=`.
fn memory() -> Result<Rules> {
    let executable = || rule(&[has_bits(2, libc::PROT_EXEC)]);
    Ok(vec![
        (libc::SYS_mmap, vec![rule(&[has_bits(2, libc::PROT_EXEC | libc::PROT_WRITE)])?]),
        (libc::SYS_mprotect, vec![executable()?]),
        (libc::SYS_pkey_mprotect, vec![executable()?]),
        (libc::SYS_shmat, vec![rule(&[has_bits(2, libc::SHM_EXEC)])?]),
    ])
}

/// `RestrictNamespaces=`.
fn namespaces() -> Result<Rules> {
    let kinds = [
        libc::CLONE_NEWCGROUP,
        libc::CLONE_NEWIPC,
        libc::CLONE_NEWNET,
        libc::CLONE_NEWNS,
        libc::CLONE_NEWPID,
        libc::CLONE_NEWUSER,
        libc::CLONE_NEWUTS,
    ];
    let any = || kinds.iter().map(|kind| rule(&[has_bits(0, *kind)])).collect::<Result<Vec<_>>>();
    Ok(vec![(libc::SYS_unshare, any()?), (libc::SYS_clone, any()?), (libc::SYS_setns, vec![])])
}

/// `RestrictRealtime=`.
fn realtime() -> Result<Rules> {
    let ordinary = [libc::SCHED_OTHER, libc::SCHED_BATCH, libc::SCHED_IDLE];
    let others: Vec<_> =
        ordinary.iter().map(|policy| (1, SeccompCmpOp::Ne, u64::from(policy.cast_unsigned()))).collect();
    Ok(vec![(libc::SYS_sched_setscheduler, vec![rule(&others)?])])
}

/// `RestrictSUIDSGID=`, for the calls that set a mode.
fn set_id_bits() -> Result<Rules> {
    let mode = |argument| -> Result<Vec<SeccompRule>> {
        [libc::S_ISUID, libc::S_ISGID]
            .iter()
            .map(|bit| rule(&[(argument, SeccompCmpOp::MaskedEq(u64::from(*bit)), u64::from(*bit))]))
            .collect()
    };
    Ok(vec![
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_chmod, mode(1)?),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_mkdir, mode(1)?),
        (libc::SYS_fchmod, mode(1)?),
        (libc::SYS_fchmodat, mode(2)?),
        (libc::SYS_mkdirat, mode(2)?),
    ])
}
