//! The configuration of the list at Cloudflare.

use reqwest::Url;

use crate::config::UrlFrom;

/// Where the list is and what may be spent on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The account's id, 32 hexadecimal digits.
    pub account: String,
    /// The list's id, 32 hexadecimal digits.
    pub list: String,
    /// Where the token is read from.
    pub token: UrlFrom,
    /// The API's address, for tests and gateways.
    pub api: Url,
    /// Most items, those of others in the list included.
    pub max_items: usize,
    /// The share of the account's limits that Shield may use.
    pub share: f64,
    /// Marks the items of this host.
    pub comment: String,
}

impl Settings {
    pub(crate) const API: &str = "https://api.cloudflare.com/client/v4";
    /// What the smallest plans allow.
    pub(crate) const MAX_ITEMS: usize = 10_000;
    pub(crate) const SHARE: f64 = 0.25;

    /// The comment of a host's items.
    pub(crate) fn comment_of(host: &str) -> String {
        format!("shield@{host}")
    }
}
