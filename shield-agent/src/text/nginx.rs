//! What the enforcer inside nginx says.

use std::path::Path;
use std::time::Duration;

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

/// What a repair of the maps found.
pub(crate) const MAPS_DIFFERED: &str = "the maps of the denied clients differed from the bans in force";

/// A detail of the state.
pub(crate) fn maps_in(folder: &Path, is_pending: bool) -> String {
    let waits =
        if is_pending { "the newest changes wait for its next reload" } else { "nginx has read all changes" };
    format!("maps in {}; {waits}", folder.display())
}

/// The longest words of a program that are shown, in characters.
const MAX_WORDS: usize = 300;

/// What a program said of its failure: nginx's error where there is one, else its last line, else how it ended.
pub(crate) fn own_words(output: &str, status: &str) -> String {
    let lines = || output.lines().map(str::trim).filter(|line| !line.is_empty());
    let error = lines().find(|line| line.contains("[emerg]") || line.contains("[alert]"));
    let words = error.or_else(|| lines().next_back()).unwrap_or(status);
    words.chars().filter(|char| !char.is_control()).take(MAX_WORDS).collect()
}

/// A configured command does not end.
pub(crate) fn took_too_long(command: &str, limit: Duration) -> String {
    format!("could not wait longer than {} s for `{command}`", limit.as_secs())
}

const LATER: &str = "the newest bans and lifts wait, and it is tried again";

/// A configured command could not be run, or did not end.
pub(crate) fn not_run(error: &str) -> String {
    format!("{error}; the commands are those of [nginx]; {LATER}")
}

/// The command that copies the maps failed.
pub(crate) fn not_copied(command: &str, words: &str) -> String {
    format!("could not copy the maps to nginx (`{command}`): {words}; {LATER}")
}

/// The configuration is wrong, by whomever.
pub(crate) fn not_taken(command: &str, words: &str) -> String {
    format!("nginx does not take its configuration (`{command}`): {words}; correct it: {LATER}")
}

/// The command that reloads failed.
pub(crate) fn not_reloaded(command: &str, words: &str) -> String {
    format!("could not reload nginx (`{command}`): {words}; {LATER}")
}

/// The reload succeeded and changed nothing.
pub(crate) fn no_new_workers() -> String {
    format!("nginx was told to reload, and no new workers came: its error log says why; {LATER}")
}

/// A reload would add to them.
pub(crate) fn workers_linger(generations: usize) -> String {
    format!(
        "{generations} generations of nginx's workers are still shutting down, so it is not reloaded: set \
         `worker_shutdown_timeout 30s;` at the top of nginx.conf; {LATER}"
    )
}

/// What is open to everybody cannot be told from nginx's own syntax.
pub(crate) const NO_OPEN_PATH: &str = "write the beginning of a path, of letters, digits and / . _ ~ -, as /.well-known/acme-challenge/; \"/\" would refuse nobody";

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
