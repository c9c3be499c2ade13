//! `[fleet]`, without what the engine decides by.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::UrlFrom;

/// How this host takes part in a fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The servers: `nats://` or `tls://`, host and port.
    pub servers: Vec<String>,
    /// What proves who this host is: a credentials file or an nkey's seed.
    pub credentials: Option<UrlFrom>,
    /// Certificates of authorities that the servers' certificates may be signed by, beside the system's.
    pub ca_file: Option<PathBuf>,
    /// This host's name in the fleet, which the servers vouch for.
    pub name: String,
}

/// A publish or an answer that takes longer has failed: the server answers nothing to what it refuses.
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);
/// For a consumer to be there. A cluster that lost the server which was to lead it chooses another one in 4 to 9 s, and whoever
/// gives up before makes it begin anew.
pub(super) const CONSUMER_IN: Duration = Duration::from_secs(15);
/// The pauses before the connection is made anew.
pub(super) const FIRST_PAUSE: Duration = Duration::from_secs(1);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest one after a server was reached: a cluster that chooses its leaders is ready soon.
pub(super) const REACHED_PAUSE: Duration = Duration::from_secs(4);
/// Messages that are published and not acknowledged yet.
pub(super) const IN_FLIGHT: usize = 256;
/// Messages that are handed to the engine at once.
pub(super) const BATCH: usize = 500;
