//! The sandbox of the shipped unit, without a systemd as process 1: what `packaging/shield.service` says is read from it, and
//! the launcher `unit-sandbox` (`src/bin/`) applies it and then runs a program.
//!
//! Applied: the capabilities, the system-call filter and the restrictions that are filters too, /proc and the kernel's tunables,
//! the read-only file system, the umask, and an own /tmp, /home and /dev. Of the tests' own files in these, those that the
//! launcher is told of are bound to their places again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::agent::Home;
use crate::command;

/// The words behind `key=` in the unit; of several such lines those of the first.
///
/// # Errors
/// Fails if the unit has no such key.
pub fn words_of(key: &str) -> Result<Vec<String>> {
    Ok(lines_of(key)?.swap_remove(0))
}

/// The words of each line `key=` in the unit; at least one line.
fn lines_of(key: &str) -> Result<Vec<Vec<String>>> {
    let unit = file();
    let text = fs::read_to_string(&unit).with_context(|| format!("could not read {}", unit.display()))?;
    let values = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let lines: Vec<Vec<String>> =
        values.map(|value| value.split_whitespace().map(str::to_owned).collect()).collect();
    ensure!(!lines.is_empty(), "could not find {key}= in {}", unit.display());
    Ok(lines)
}

/// The unit's file.
pub fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/shield.service")
}

/// The argument vector that runs what is put behind it in the unit's sandbox. The folder and the pins of `home` stay
/// writable, as the unit's own folders are, and so do `more`.
///
/// # Errors
/// Fails if the launcher was not built.
pub fn launcher(home: &Home, more: &[&Path]) -> Result<Vec<String>> {
    let program = crate::agent::built("unit-sandbox")?;
    let mut argv = vec![program.display().to_string()];
    let pins = home.pins();
    let pins = pins.parent().context("could not find the folder of the pins")?;
    for path in [home.folder(), pins].iter().chain(more) {
        argv.extend(["--writable".to_owned(), path.display().to_string()]);
    }
    argv.push("--".to_owned());
    Ok(argv)
}

/// The system calls that `SystemCallFilter=` allows, by name, its groups taken apart as systemd does. Some of them exist on
/// other architectures alone.
///
/// # Errors
/// Fails if systemd-analyze is missing or does not know a group.
pub fn allowed_calls() -> Result<Vec<String>> {
    let sets = command::run(&["systemd-analyze", "--no-pager", "syscall-filter"])?;
    // systemd adds this group to every list of what is allowed.
    let mut allowed = calls_of(&sets, vec!["@default".to_owned()])?;
    for mut line in lines_of("SystemCallFilter")? {
        let forbidden = line.first().and_then(|word| word.strip_prefix('~')).map(str::to_owned);
        if let Some(first) = forbidden {
            line[0] = first;
            let calls = calls_of(&sets, line)?;
            allowed.retain(|call| !calls.contains(call));
        } else {
            allowed.extend(calls_of(&sets, line)?);
        }
    }
    Ok(allowed.into_iter().collect())
}

/// The names behind these words, of which some name groups in `sets`.
fn calls_of(sets: &str, mut open: Vec<String>) -> Result<BTreeSet<String>> {
    let mut calls = BTreeSet::new();
    while let Some(word) = open.pop() {
        if !word.starts_with('@') {
            calls.insert(word);
            continue;
        }
        let mut lines = sets.lines().skip_while(|line| *line != word);
        lines
            .next()
            .with_context(|| format!("could not find {word} among systemd's groups of system calls"))?;
        // A group's own lines are indented.
        let names = lines.take_while(|line| line.starts_with(' ')).map(str::trim);
        open.extend(names.filter(|name| !name.starts_with('#')).map(str::to_owned));
    }
    Ok(calls)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_units_groups_are_taken_apart() {
        let calls = allowed_calls().unwrap();
        let has = |name: &str| calls.iter().any(|call| call == name);
        assert!(has("read") && has("execve") && has("bpf"), "{calls:?}");
        assert!(
            !has("perf_event_open")
                && !has("ptrace")
                && !has("mount")
                && !has("kexec_load")
                && !has("init_module")
                && !has("sched_setscheduler"),
            "{calls:?}"
        );
        assert!(calls.iter().all(|call| !call.starts_with('@')));
    }
}
