//! `[crowdsec]`.

use std::time::Duration;

use reqwest::Url;

use crate::config::UrlFrom;

/// A local API of CrowdSec whose decisions are Shield's too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub url: Url,
    /// The key that `cscli bouncers add` printed.
    pub key: UrlFrom,
    /// The pause between two questions.
    pub poll: Duration,
    /// The login that `cscli machines add` wrote. `None`: this host's own bans are not told.
    pub machine: Option<UrlFrom>,
}

impl Settings {
    /// The default of `poll`, as other bouncers have it.
    pub(crate) const POLL: Duration = Duration::from_secs(10);
}
