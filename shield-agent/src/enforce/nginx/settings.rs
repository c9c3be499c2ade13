//! The configuration of the enforcer inside nginx.

use std::path::{Path, PathBuf};
use std::time::Duration;

/// The configuration of the enforcer inside nginx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The folder whose files nginx looks for; on a tmpfs, readable for nginx's workers.
    pub folder: PathBuf,
    /// Most clients at a time; each takes about 210 bytes of the kernel's memory.
    pub max_clients: usize,
    /// The status with which nginx refuses.
    pub status: u16,
    pub backend: Backend,
    /// What `map` runs.
    pub commands: Commands,
    /// The time between two reloads, at the least.
    pub reload_every: Duration,
}

/// How nginx knows whom to refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// It looks for a file at every request.
    Files,
    /// It reads included maps when it is reloaded.
    Map,
}

/// Argument vectors, run without a shell. Empty ones are left out.
///
/// The unit's sandbox is no place for nginx itself: `nginx -t` binds ports and opens logs, which the service may not. So the
/// service manager, or the container's, is asked to run it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commands {
    /// Brings the maps to where nginx reads them, if that is elsewhere.
    pub copy: Vec<String>,
    /// Fails with nginx's own words when it would not take its configuration.
    pub test: Vec<String>,
    pub reload: Vec<String>,
    /// Prints nginx's processes, a line each with the id before `nginx:`.
    pub workers: Vec<String>,
}

impl Default for Commands {
    fn default() -> Commands {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect();
        Commands {
            copy: Vec::new(),
            test: words("systemd-run --quiet --pipe --wait --collect nginx -t"),
            reload: words("systemctl reload nginx"),
            workers: words("systemctl status --no-pager --full --lines=0 nginx"),
        }
    }
}

impl Settings {
    /// The folder of the maps: inside the other one, so that each backend finds what the other has left.
    pub(super) fn maps(&self) -> PathBuf {
        maps_in(&self.folder)
    }
}

pub(super) fn maps_in(folder: &Path) -> PathBuf {
    folder.join("map")
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            folder: PathBuf::from("/run/shield/deny"),
            max_clients: 100_000,
            status: 444,
            backend: Backend::Files,
            commands: Commands::default(),
            reload_every: Duration::from_secs(15),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stopped agent must not refuse anybody for ever: nothing ends by itself here. What `systemctl stop` removes is the unit's
    /// runtime directory with all that is in it, and `RuntimeDirectoryPreserve=restart` keeps it over a restart and a crash.
    #[test]
    fn the_folder_goes_with_the_service() {
        let unit = include_str!("../../../../packaging/shield.service");
        let value = |key: &str| {
            let mut values = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
            (values.next(), values.next())
        };
        let (Some(folder), None) = value("RuntimeDirectory") else {
            panic!("one runtime directory is needed")
        };
        assert!(Settings::default().folder.starts_with(format!("/run/{folder}")));
        assert_eq!(value("RuntimeDirectoryPreserve"), (Some("restart"), None));
        assert_eq!(value("RuntimeDirectoryMode"), (Some("0755"), None), "nginx's workers look into it");
    }
}
