//! What `shield-agent support` says.

use std::path::Path;

/// The first file in the archive.
pub(crate) fn read_me(version: &str) -> String {
    format!(
        "What shield-agent {version} wrote for whoever helps with it. Read it before you send it.\n\
         \n\
         In it: the configuration, the answers of `status`, `check`, `doctor` and `allow`, versions, Shield's own firewall rules, the\n\
         last lines of its journal and audit log.\n\
         Taken out: URLs behind the host, tokens, passwords, what stands after a ? in paths, e-mail addresses, the host's name, and\n\
         everything that looks like a key. Unless it was made with --addresses keep, each public address has a pseudonym, which is the\n\
         same throughout this file and in no other.\n\
         Left in: names of sites, paths of requests, names of files, private addresses.\n\
         Never looked at: nginx's logs but for the shape of a line that cannot be read, nginx's configuration but for what `doctor`\n\
         says of it, the database.\n"
    )
}

pub(crate) fn written(path: &Path, are_addresses_kept: bool) -> String {
    let addresses = if are_addresses_kept { "; the addresses of clients are in it" } else { "" };
    format!(
        "wrote {}, without secrets as far as they can be recognised{addresses}: look into it before you send it \
         (tar -xOzf {0})\n",
        path.display()
    )
}
