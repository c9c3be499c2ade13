//! What is said of the lists for others.

use shield_engine::client::Client;

/// Why a banned network is not in a list.
pub(crate) fn left_out(network: &Client) -> String {
    format!("{network} is banned and not listed: an address inside is exempt")
}

/// `export --follow` in a format that has no changes.
pub(crate) const NO_CHANGES: &str =
    "could not follow in this format: --follow writes plain, haproxy-map and cloudflare";

/// A choice of bans in a format that has no rules.
pub(crate) const WHOLE_LIST: &str =
    "could not choose bans in this format: haproxy-map and cloudflare, and --follow, write the whole list";
