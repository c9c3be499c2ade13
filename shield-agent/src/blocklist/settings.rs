//! `[[blocklist]]`.

use std::time::Duration;

use reqwest::Url;

use super::parse::Format;
use crate::config::UrlFrom;

/// A list that is read by URL.
#[derive(Clone, PartialEq, Eq)]
pub struct Settings {
    /// Its name in Shield.
    pub name: String,
    pub url: Url,
    /// The pause between two readings.
    pub refresh: Duration,
    pub format: Format,
    /// `USER:PASSWORD`, for HTTP's basic authentication.
    pub credentials: Option<UrlFrom>,
    /// Whether it may be read without TLS from another host.
    pub transport: Transport,
}

/// How a list may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// With TLS, but for this host's own servers.
    Secure,
    /// Without TLS too: whoever is in between can put anybody on the list.
    Any,
}

impl Settings {
    /// The default of `refresh`.
    pub(crate) const REFRESH: Duration = Duration::from_secs(3_600);

    /// The URL without what may be secret in it.
    pub(crate) fn shown_url(&self) -> String {
        shown(&self.url)
    }
}

/// A URL without its query and its user.
pub(super) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let query = if url.query().is_some() { "?…" } else { "" };
    format!("{}://{}{port}{}{query}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

/// Whether a URL is one of this host.
pub(crate) fn is_on_this_host(url: &Url) -> bool {
    url.host_str().is_some_and(|host| {
        host == "localhost"
            || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Settings { name, refresh, format, credentials, transport, .. } = self;
        let url = self.shown_url();
        write!(f, "{name}: {url} each {refresh:?}, {format:?}, {credentials:?}, {transport:?}")
    }
}
