//! nginx's log is renamed or emptied, as logrotate does with and without `copytruncate`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use rustix::process::Signal;

use super::process;
use crate::environment::{Environment, Part};
use crate::guard;

/// Renames the log, and lets nginx open a new one.
pub(super) fn rotate(environment: &Environment, server: &str) -> Result<String> {
    let folder = guard::folder(environment)?;
    let nginx = guard::process(environment, process::of(environment, Part::Nginx, server)?)?;
    let log = environment.access_log(server);
    let name = log.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let old = format!("{name}.{}", now_ms());
    folder.rename(&log, &old)?;
    nginx.signal(Signal::USR1)?;
    Ok(format!("the log of {server} is {old} now, and nginx writes to a new one"))
}

/// Empties the log under nginx' and the agent's hands.
pub(super) fn truncate(environment: &Environment, server: &str) -> Result<String> {
    guard::folder(environment)?.open(&environment.access_log(server))?.truncate()?;
    Ok(format!("the log of {server} was emptied"))
}

/// Lets nginx open the log again if what it writes to has another name or none.
pub(super) fn reopen(environment: &Environment, server: &str) -> Result<Vec<String>> {
    let Ok(process) = process::of(environment, Part::Nginx, server) else { return Ok(Vec::new()) };
    if is_written(environment, server)? {
        return Ok(Vec::new());
    }
    guard::process(environment, process)?.signal(Signal::USR1)?;
    Ok(vec![format!("nginx on {server} wrote to an old log and opens it again")])
}

/// Whether nginx has the log open that the agent reads.
pub(super) fn is_written(environment: &Environment, server: &str) -> Result<bool> {
    let nginx = process::of(environment, Part::Nginx, server)?;
    writes_to(nginx.pid, &environment.access_log(server))
}

/// Whether the process has this very file open.
fn writes_to(pid: u32, log: &Path) -> Result<bool> {
    let Ok(wanted) = fs::metadata(log) else { return Ok(false) };
    let fds = fs::read_dir(format!("/proc/{pid}/fd"));
    let fds = fds.with_context(|| format!("could not list the files of process {pid}"))?;
    let is_wanted = |about: fs::Metadata| (about.dev(), about.ino()) == (wanted.dev(), wanted.ino());
    Ok(fds.flatten().any(|fd| fs::metadata(fd.path()).is_ok_and(is_wanted)))
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis())
}
