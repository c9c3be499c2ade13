//! What the host tells: its service manager, firewall, processes, disk, kernel. Reads only.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use procfs::process::{FDTarget, Process};

use super::facts::{Chains, Disk, Firewall, Network, Unit};
use crate::config::{Config, Use};
use crate::enforce::iptables::chain::CHAIN;
use crate::enforce::iptables::programs::{Host, NotInstalled, Programs as _};
use crate::enforce::iptables::{Version, redirects};
use crate::enforce::xdp::interfaces;
use crate::text::doctor as text;

/// `None` where systemd does not run, or is not asked for.
pub(super) fn unit() -> Option<Unit> {
    if !Path::new("/run/systemd/system").exists() {
        return None;
    }
    let properties = "--property=LoadState,ActiveState,Result,UnitFileState";
    let output =
        Command::new("systemctl").args(["show", "shield.service", properties]).env("LC_ALL", "C").output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(read_unit(&String::from_utf8_lossy(&output.stdout)))
}

fn read_unit(text: &str) -> Unit {
    let of = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().to_owned()
    };
    Unit {
        is_loaded: of("LoadState") == "loaded",
        active: of("ActiveState"),
        result: of("Result"),
        file: of("UnitFileState"),
    }
}

/// Whether an nginx runs, and which of these logs it does not write to because it has their former file open.
pub(super) fn nginx(logs: &[PathBuf]) -> (bool, Vec<(PathBuf, PathBuf)>) {
    let all = procfs::process::all_processes().into_iter().flatten().flatten();
    let nginx: Vec<Process> =
        all.filter(|process| process.stat().is_ok_and(|stat| stat.comm == "nginx")).collect();
    let mut open: BTreeSet<PathBuf> = BTreeSet::new();
    for process in &nginx {
        let files = process.fd().into_iter().flatten().flatten();
        open.extend(files.filter_map(|file| match file.target {
            FDTarget::Path(path) => Some(path),
            _ => None,
        }));
    }
    let moved = logs.iter().filter_map(|log| Some((log.clone(), former_file(log, &open)?)));
    (!nginx.is_empty(), moved.collect())
}

/// The file that a log was before it was rotated, when that is open and the log itself is not.
fn former_file(log: &Path, open: &BTreeSet<PathBuf>) -> Option<PathBuf> {
    let log = log.canonicalize().ok()?;
    if open.contains(&log) {
        return None;
    }
    let begins = log.to_str()?;
    let is_former = |path: &&PathBuf| {
        let rest = path.to_str().and_then(|path| path.strip_prefix(begins));
        rest.is_some_and(|rest| rest.starts_with(['.', '-', ' ']))
    };
    open.iter().find(is_former).cloned()
}

/// How long a lock has to be held by one process to be a hindrance: a program that changes rules needs milliseconds.
const HELD: Duration = Duration::from_secs(1);
const XTABLES_LOCK: &str = "/run/xtables.lock";

/// `None` when iptables is not used, or could not be asked.
pub(super) fn firewall(config: &Config, unseen: &mut Vec<String>) -> Option<Firewall> {
    if config.use_iptables == Use::Off {
        return None;
    }
    let mut firewall = Firewall::default();
    let mut is_legacy = false;
    let programs = [(Version::V4, &config.iptables.program_v4), (Version::V6, &config.iptables.program_v6)];
    for (version, program) in programs {
        // Without IPv6 in the kernel its tables are not needed.
        if version == Version::V6 && !Path::new("/proc/net/if_inet6").exists() {
            continue;
        }
        let is_its_legacy =
            lines(&[program, "-V"]).unwrap_or_default().iter().any(|line| line.contains("(legacy)"));
        is_legacy |= is_its_legacy;
        // Without a table's name: naming one makes it where there is none.
        match lines(&[&format!("{program}-save")]) {
            Ok(rules) => {
                firewall.families.push(chains(program, table(&rules, "filter")));
                firewall.redirects_ports |= redirects_ports(table(&rules, "nat"));
            }
            Err(error) if error.is::<NotInstalled>() => firewall.missing.push(program.clone()),
            Err(error) => unseen.push(text::firewall_unread(program, &format!("{error:#}"))),
        }
        match redirects::are_elsewhere(&mut Host, version, is_its_legacy) {
            Ok(found) => firewall.redirects_ports |= found,
            Err(error) => unseen.push(format!("{error:#}")),
        }
    }
    if is_legacy {
        firewall.lock_holder = lasting_holder(Path::new(XTABLES_LOCK), HELD);
    }
    Some(firewall)
}

fn lines(argv: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    Host.run(argv, b"", &mut |line| found.push(line.to_owned()))?;
    Ok(found)
}

/// The lines of one table in the output of `iptables-save`.
fn table<'a>(rules: &'a [String], name: &str) -> &'a [String] {
    let begin = rules.iter().position(|line| line.strip_prefix('*') == Some(name));
    let rest = begin.and_then(|begin| rules.get(begin + 1..)).unwrap_or_default();
    let end = rest.iter().position(|line| line == "COMMIT").unwrap_or(rest.len());
    &rest[..end]
}

/// Reads the table `filter`.
fn chains(program: &str, rules: &[String]) -> Chains {
    let jump = format!("-j {CHAIN}");
    let of_input = rules.iter().filter(|rule| rule.starts_with("-A INPUT "));
    Chains {
        program: program.to_owned(),
        has_chain: rules.iter().any(|rule| rule.starts_with(&format!(":{CHAIN} "))),
        rules_before: of_input.clone().position(|rule| rule.ends_with(&jump)),
        is_forwarded_covered: rules
            .iter()
            .any(|rule| rule.ends_with(&jump) && rule.starts_with("-A ") && !rule.starts_with("-A INPUT ")),
    }
}

fn redirects_ports(rules: &[String]) -> bool {
    rules.iter().any(|rule| rule.contains("-j DNAT") && rule.contains("--to-destination"))
}

/// The process that holds a file's lock for all of this time.
fn lasting_holder(path: &Path, time: Duration) -> Option<String> {
    let inode = fs::metadata(path).ok()?.ino();
    let holder = || {
        let locks = procfs::locks().ok()?;
        locks.into_iter().find(|lock| lock.inode == inode)?.pid
    };
    let first = holder()?;
    let end = Instant::now() + time;
    while Instant::now() < end {
        if holder() != Some(first) {
            return None;
        }
        std::thread::sleep(time / 20);
    }
    let name = Process::new(first).and_then(|process| process.stat()).map(|stat| stat.comm);
    Some(text::process(first, name.ok().as_deref()))
}

pub(super) fn network(other_agent: Option<String>, unseen: &mut Vec<String>) -> Network {
    let names = interfaces::default_route_names().unwrap_or_else(|error| {
        unseen.push(format!("{error:#}"));
        Vec::new()
    });
    let default_routes =
        names.into_iter().map(|name| (below(&name), name)).map(|(below, name)| (name, below));
    Network { default_routes: default_routes.collect(), other_agent }
}

/// The interfaces that a bridge, a bond or a VLAN consists of.
fn below(name: &str) -> Vec<String> {
    let entries = fs::read_dir(Path::new("/sys/class/net").join(name)).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| name.strip_prefix("lower_").map(str::to_owned)).collect()
}

/// The file system of a directory, or of the nearest one above it that exists.
pub(super) fn disk(dir: &Path) -> Disk {
    let there = dir.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    let Ok(found) = nix::sys::statvfs::statvfs(there) else {
        return Disk { free_bytes: u64::MAX, ..Disk::default() };
    };
    // What is kept for root is free for an agent that is root.
    let free = if nix::unistd::geteuid().is_root() { found.blocks_free() } else { found.blocks_available() };
    Disk {
        free_bytes: free.saturating_mul(found.fragment_size()),
        has_no_inodes: found.files() > 0 && found.files_free() == 0,
        is_read_only: found.flags().contains(nix::sys::statvfs::FsFlags::ST_RDONLY),
    }
}

/// Major and minor version of the kernel.
pub(super) fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // What cannot be read is not too old.
    version(&release).unwrap_or((u32::MAX, 0))
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn the_jump_is_found_where_it_stands() {
        let check = |text: &str, has_chain, before, is_covered| {
            let found = chains("iptables", &rules(text));
            let seen = (found.has_chain, found.rules_before, found.is_forwarded_covered);
            assert_eq!(seen, (has_chain, before, is_covered), "{text}");
        };
        check(
            ":INPUT ACCEPT [0:0]\n:SHIELD - [0:0]\n-A INPUT -j SHIELD\n-A SHIELD -s 192.0.2.7/32 -j DROP",
            true,
            Some(0),
            false,
        );
        check(
            ":INPUT ACCEPT [0:0]\n:SHIELD - [0:0]\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j SHIELD",
            true,
            Some(1),
            false,
        );
        check(
            ":INPUT ACCEPT [0:0]\n:SHIELD - [0:0]\n-A INPUT -j SHIELD2\n-A FORWARD -j SHIELD",
            true,
            None,
            true,
        );
        check(":INPUT ACCEPT [0:0]", false, None, false);
    }

    #[test]
    fn tables_are_told_apart() {
        let saved = rules(
            "# by iptables-save\n*nat\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j X\nCOMMIT\n*filter\n-A INPUT -j SHIELD\nCOMMIT",
        );
        assert_eq!(table(&saved, "filter"), rules("-A INPUT -j SHIELD"));
        assert_eq!(table(&saved, "nat").len(), 2);
        assert!(table(&saved, "raw").is_empty());
    }

    #[test]
    fn a_published_port_is_a_redirection_to_another_address() {
        let docker =
            "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80";
        assert!(redirects_ports(&rules(docker)));
        assert!(!redirects_ports(&rules("-A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE")));
    }

    #[test]
    fn versions_of_kernels() {
        assert_eq!(version("5.10.0-28-amd64\n"), Some((5, 10)));
        assert_eq!(version("6.1-rc3"), Some((6, 1)));
        assert_eq!(version(""), None);
        assert!(kernel() > (3, 0));
    }

    #[test]
    fn a_log_that_nginx_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().canonicalize().unwrap().join("access.log");
        fs::write(&log, "").unwrap();
        let check = |open: &[&str], expected: Option<&str>| {
            let open = open.iter().map(|end| PathBuf::from(format!("{}{end}", log.display()))).collect();
            let found = former_file(&log, &open);
            assert_eq!(found, expected.map(|end| PathBuf::from(format!("{}{end}", log.display()))));
        };
        check(&[""], None);
        check(&["", ".1"], None);
        check(&[".1"], Some(".1"));
        check(&["-20261129"], Some("-20261129"));
        check(&[" (deleted)"], Some(" (deleted)"));
        check(&["_of_another_site"], None);
        check(&[], None);
    }

    #[test]
    fn a_lock_that_is_held_on_has_its_holder_and_one_that_is_let_go_has_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let file = fs::File::create(&path).unwrap();
        let short = Duration::from_millis(40);
        assert_eq!(lasting_holder(&path, short), None);
        file.lock().unwrap();
        let holder = lasting_holder(&path, short).unwrap();
        assert!(holder.contains(&format!("process {}", std::process::id())), "{holder}");
        file.unlock().unwrap();
        assert_eq!(lasting_holder(&path, short), None);
    }

    #[test]
    fn what_systemctl_says() {
        let unit =
            read_unit("LoadState=loaded\nActiveState=failed\nResult=exit-code\nUnitFileState=enabled\n");
        assert!(unit.is_loaded);
        assert_eq!((&*unit.active, &*unit.result, &*unit.file), ("failed", "exit-code", "enabled"));
        assert!(!read_unit("LoadState=not-found\n").is_loaded);
    }

    #[test]
    fn a_directory_that_is_not_there_yet_is_on_the_disk_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let disk = disk(&folder.path().join("a/b"));
        assert!(disk.free_bytes > 0 && !disk.is_read_only, "{disk:?}");
    }
}
