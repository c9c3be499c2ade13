//! The unit under systemd, and whose the installed file is.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use super::child::PATH;
use crate::text;

/// Longer than any answer of a service manager that works.
const AT_MOST: Duration = Duration::from_secs(20);

/// What systemd says of the unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub name: String,
    /// The program that it starts.
    pub program: PathBuf,
    /// The configuration on its command line.
    pub config: Option<PathBuf>,
    /// Whether an agent runs in it, or is about to.
    pub is_active: bool,
}

/// Whether systemd manages this host.
pub(super) fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

async fn systemctl(arguments: &[&str]) -> Result<String> {
    let said = || format!("could not run systemctl {}", arguments.join(" "));
    let output = command("systemctl").args(arguments).output();
    let output = tokio::time::timeout(AT_MOST, output).await.with_context(said)?.with_context(said)?;
    if !output.status.success() {
        bail!("{}: {}", said(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", PATH).env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Asks systemd about a unit.
pub(super) async fn look(name: &str) -> Result<Unit> {
    let shown = systemctl(&["show", name, "--property=ExecStart,ActiveState,LoadState"]).await?;
    read(name, &shown)
}

/// The main process of the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Main {
    /// 0 for none.
    pub pid: u32,
    pub is_active: bool,
}

pub(super) async fn main_process(name: &str) -> Result<Main> {
    let shown = systemctl(&["show", name, "--property=MainPID,ActiveState"]).await?;
    let pid = value(&shown, "MainPID").and_then(|pid| pid.parse().ok()).unwrap_or(0);
    Ok(Main { pid, is_active: value(&shown, "ActiveState") == Some("active") })
}

/// Restarts it without waiting: a start that hangs must not hold up going back.
pub(super) async fn restart(name: &str) -> Result<()> {
    systemctl(&["restart", "--no-block", name]).await.map(drop)
}

/// Stops it and waits for that.
pub(super) async fn stop(name: &str) -> Result<()> {
    systemctl(&["stop", name]).await.map(drop)
}

fn value<'s>(shown: &'s str, key: &str) -> Option<&'s str> {
    shown.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

/// Reads what `systemctl show` printed. Pure.
fn read(name: &str, shown: &str) -> Result<Unit> {
    if value(shown, "LoadState") != Some("loaded") {
        bail!("there is no unit {name}: name the agent's with --unit");
    }
    let start = value(shown, "ExecStart").unwrap_or_default();
    let part =
        |key: &str| start.split(" ; ").find_map(|part| part.trim_start_matches("{ ").strip_prefix(key));
    let program = part("path=")
        .map(PathBuf::from)
        .with_context(|| format!("could not find what the unit {name} starts"))?;
    let words: Vec<&str> = part("argv[]=").unwrap_or_default().split(' ').collect();
    if !words.contains(&"run") {
        bail!("the unit {name} does not run the agent (`{}`): name its unit with --unit", words.join(" "));
    }
    let named = words.iter().position(|word| *word == "--config").and_then(|at| words.get(at + 1));
    let joined = words.iter().find_map(|word| word.strip_prefix("--config="));
    let config = named.copied().or(joined).map(PathBuf::from);
    let is_active = matches!(value(shown, "ActiveState"), Some("active" | "activating" | "reloading"));
    Ok(Unit { name: name.to_owned(), program, config, is_active })
}

/// The Debian package that this file belongs to. Where there is no dpkg, it belongs to none.
pub(super) async fn package_of(file: &Path) -> Option<String> {
    let mut names = vec![file.to_owned()];
    // What dpkg knows as /bin/x is /usr/bin/x since these folders are one.
    names.extend(file.strip_prefix("/usr").ok().map(|rest| Path::new("/").join(rest)));
    for name in names {
        let output = command("dpkg").arg("--search").arg(&name).output().await.ok()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let is_owned = |line: &&str| !line.starts_with("diversion ");
        if output.status.success()
            && let Some((package, _)) = said.lines().find(is_owned).and_then(|line| line.split_once(": "))
        {
            return Some(text::printable(package));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: &str = "ExecStart={ path=/usr/bin/shield-agent ; argv[]=/usr/bin/shield-agent run --config /etc/shield/shield.toml ; \
                         ignore_errors=no ; start_time=[n/a] ; stop_time=[n/a] ; pid=0 ; code=(null) ; status=0/0 }\n";

    #[test]
    fn the_unit_says_what_it_runs_with_which_configuration() {
        let shown = format!("{START}LoadState=loaded\nActiveState=activating\n");
        let unit = read("shield.service", &shown).unwrap();
        assert_eq!(unit.program, Path::new("/usr/bin/shield-agent"));
        assert_eq!(unit.config.as_deref(), Some(Path::new("/etc/shield/shield.toml")));
        assert!(unit.is_active);
        let stopped = shown.replace("activating", "inactive").replace("--config /etc", "--config=/etc");
        let unit = read("shield.service", &stopped).unwrap();
        assert_eq!(unit.config.as_deref(), Some(Path::new("/etc/shield/shield.toml")));
        assert!(!unit.is_active);
    }

    #[test]
    fn another_unit_and_none_are_refused() {
        let other = format!("{}LoadState=loaded\n", START.replace(" run ", " top "));
        assert!(read("a", &other).unwrap_err().to_string().contains("does not run the agent"));
        assert!(read("a", "LoadState=not-found\n").unwrap_err().to_string().contains("--unit"));
        assert!(read("a", "LoadState=loaded\nExecStart=\n").is_err());
    }
}
