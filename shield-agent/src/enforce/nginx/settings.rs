//! The configuration of the enforcer inside nginx.

use std::path::PathBuf;

/// The configuration of the enforcer inside nginx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The folder whose files nginx looks for; on a tmpfs, readable for nginx's workers.
    pub folder: PathBuf,
    /// Most clients at a time; each takes about 210 bytes of the kernel's memory.
    pub max_clients: usize,
    /// The status with which nginx refuses.
    pub status: u16,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { folder: PathBuf::from("/run/shield/deny"), max_clients: 100_000, status: 444 }
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
