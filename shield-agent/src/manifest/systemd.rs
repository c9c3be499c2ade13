//! A drop-in of the unit: what these settings need beyond the unit that is shipped, and nothing where they need no more.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::quote;
use crate::api::DEFAULT_SOCKET;
use crate::config::{Config, UrlFrom};
use crate::source::Input;

/// What the unit may write to.
const WRITABLE: [&str; 4] = ["/run", "/sys/fs/bpf/shield", "/var/lib/shield", "/var/log/shield"];
/// What the unit does not see, and the directive that empties it but for what is bound there.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
const TMPS: [&str; 2] = ["/tmp", "/var/tmp"];
/// Ports below need a capability.
const FIRST_FREE_PORT: u16 = 1024;

pub(super) fn drop_in(config: &Config) -> Result<String> {
    let mut text = String::from(
        "#\n# For /etc/systemd/system/shield.service.d: what shield.toml needs beyond the unit. Then `systemctl daemon-reload`.\n[Service]\n",
    );
    text += &hidden_logs(config)?;
    for (folder, key) in written(config)? {
        if folder.starts_with("/sys/") {
            // Read-only by ProtectKernelTunables= but for what is bound to its own place, which has to be there.
            let made = quote::systemd(&folder, key)?.replace('$', "$$");
            let bound = quote::systemd_bind(&format!("-{folder}"), key)?;
            let _ = writeln!(text, "ExecStartPre=+-/bin/mkdir -p {made}\nBindPaths={bound}");
            continue;
        }
        let _ = writeln!(text, "ReadWritePaths={}", quote::systemd(&format!("-{folder}"), key)?);
    }
    let socket = quote::path(&config.socket, "[agent] socket")?;
    if socket != DEFAULT_SOCKET {
        // `ExecReload` finds the agent by it.
        let variable = quote::systemd(&format!("SHIELD_SOCKET={socket}"), "[agent] socket")?;
        let _ = writeln!(text, "Environment={variable}");
    }
    if config.page.is_some_and(|addr| (1..FIRST_FREE_PORT).contains(&addr.port())) {
        text += "CapabilityBoundingSet=CAP_NET_BIND_SERVICE\n";
    }
    for name in credentials(config) {
        let _ = writeln!(
            text,
            "# LoadCredential={}:PATH is for you to write in another drop-in: where the secret is stands in no file here.",
            crate::text::printable(name)
        );
    }
    Ok(text)
}

/// The logs that the sandbox hides, each by its folder.
fn hidden_logs(config: &Config) -> Result<String> {
    let key = "[[source]] path";
    let (mut text, mut folders, mut all_homes) = (String::new(), BTreeSet::new(), false);
    for source in &config.sources {
        let Input::Files(place) = &source.input else { continue };
        let path = Path::new(quote::path(Path::new(place), key)?);
        let above = |roots: &[&'static str]| roots.iter().copied().find(|root| path.starts_with(root));
        let Some(root) = above(&HOMES).or_else(|| above(&TMPS)) else { continue };
        let has_wildcard = |folder: &&Path| folder.to_string_lossy().contains(['*', '?', '[']);
        let folder = path.ancestors().skip(1).find(|folder| !has_wildcard(folder));
        match folder.filter(|folder| *folder != Path::new(root) && folder.starts_with(root)) {
            Some(folder) => {
                folders.insert((HOMES.contains(&root), folder.to_path_buf()));
            }
            None if HOMES.contains(&root) => all_homes = true,
            None => {
                let _ = writeln!(
                    text,
                    "# A log in {root} itself stays hidden: the unit has a folder of its own there. Write it elsewhere."
                );
            }
        }
    }
    let binds_home = folders.iter().any(|(is_home, _)| *is_home);
    if all_homes {
        text += "ProtectHome=read-only\n";
    } else if binds_home {
        text += "ProtectHome=tmpfs\n";
    }
    // Homes first, as they are announced.
    for (is_home, folder) in folders.iter().rev() {
        if !(*is_home && all_homes) {
            let bound = quote::systemd_bind(&format!("-{}", folder.display()), key)?;
            let _ = writeln!(text, "BindReadOnlyPaths={bound}");
        }
    }
    Ok(text)
}

/// The folders that the agent writes to and the unit does not let it, each with the key that names it.
fn written(config: &Config) -> Result<BTreeSet<(String, &'static str)>> {
    let above = |path: &Path, key| -> Result<String> {
        let path = quote::path(path, key)?;
        Ok(Path::new(path).parent().map_or_else(|| path.to_owned(), |folder| folder.display().to_string()))
    };
    let mut folders = vec![
        (quote::path(&config.state_dir, "[agent] state_dir")?.to_owned(), "[agent] state_dir"),
        (above(&config.socket, "[agent] socket")?, "[agent] socket"),
        (above(&config.audit, "[audit] path")?, "[audit] path"),
        (quote::path(&config.xdp.pin_folder, "[xdp] pin_dir")?.to_owned(), "[xdp] pin_dir"),
        (quote::path(&config.nginx.folder, "[nginx] folder")?.to_owned(), "[nginx] folder"),
    ];
    for source in &config.sources {
        if let Input::Syslog(listener) = &source.input {
            folders.push((above(&listener.path, "[[source]] syslog")?, "[[source]] syslog"));
        }
    }
    let is_closed = |folder: &String| !WRITABLE.iter().any(|open| Path::new(folder).starts_with(open));
    Ok(folders.into_iter().filter(|(folder, _)| is_closed(folder)).collect())
}

/// The names of the systemd credentials that are read.
fn credentials<'c>(config: &'c Config) -> BTreeSet<&'c str> {
    let own = [
        config.slack.as_ref(),
        config.webhook.as_ref(),
        config.cloudflare.as_ref().map(|cloudflare| &cloudflare.token),
        config.fleet.as_ref().and_then(|fleet| fleet.credentials.as_ref()),
        config.crowdsec.as_ref().map(|crowdsec| &crowdsec.key),
    ];
    let lists = config.blocklists.iter().map(|list| list.credentials.as_ref());
    let name = |from: &'c UrlFrom| match from {
        UrlFrom::Credential(name) => Some(name.as_str()),
        UrlFrom::File(_) | UrlFrom::Env(_) => None,
    };
    own.into_iter().chain(lists).flatten().filter_map(name).collect()
}
