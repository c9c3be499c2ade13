//! What the enforcer inside nginx says.

use std::path::Path;

use ipnet::IpNet;
use shield_engine::client::Client;

/// What a repair found.
pub(crate) const FOLDER_DIFFERED: &str = "the files of the denied clients differed from the bans in force";

/// A detail of the state.
pub(crate) fn files_in(folder: &Path) -> String {
    format!(
        "files in {}; nginx refuses clients where its configuration includes Shield's lines",
        folder.display()
    )
}

/// No further client fits.
pub(crate) fn full(max_clients: usize) -> String {
    format!("{max_clients} clients are denied, and no more are allowed: raise max_clients in [nginx]")
}

/// A network of a size that nginx's lines do not look for.
pub(crate) fn no_name_for(client: &Client) -> String {
    format!(
        "nginx cannot deny {client}: only addresses, IPv4 networks up to /16, and IPv6 networks of /40 to /48 and /56 to /64 have files"
    )
}

/// An exempt network inside the banned one that cannot be told apart.
pub(crate) fn cannot_exempt(client: &Client, exempt: &IpNet) -> String {
    format!(
        "nginx cannot deny {client}: {exempt} inside it is exempt, and networks of that size have no file"
    )
}
