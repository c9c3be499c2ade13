//! The configuration of the enforcer inside nginx.

use std::path::PathBuf;

/// The configuration of the enforcer inside nginx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The folder whose files nginx looks for; on a tmpfs, readable for nginx's workers.
    pub folder: PathBuf,
    /// Most clients at a time; each takes about 200 bytes of memory in a tmpfs.
    pub max_clients: usize,
    /// The status with which nginx refuses.
    pub status: u16,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { folder: PathBuf::from("/run/shield/deny"), max_clients: 100_000, status: 444 }
    }
}
