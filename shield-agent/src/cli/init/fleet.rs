//! `shield-agent init fleet HOST…`: keys for the hosts of a fleet, the servers' configuration and the hosts' own.

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;

use super::super::{Exit, print};
use crate::fleet::init::Hosts;

#[derive(Debug, Clone, Args)]
pub(super) struct FleetArgs {
    /// The names of the fleet's hosts: letters, digits, - and _
    #[arg(required = true, value_name = "HOST")]
    hosts: Vec<String>,
    /// A new folder for the keys and the servers' configuration
    #[arg(long, default_value = "shield-fleet", value_name = "FOLDER")]
    folder: PathBuf,
    /// The servers' address, for the hosts' configuration
    #[arg(long, default_value = "tls://nats.example.org:4222", value_name = "URL")]
    url: String,
}

pub(super) fn run(args: &FleetArgs) -> Result<Exit> {
    let hosts = Hosts::new(&args.hosts)?;
    let folder = &args.folder;
    // A new one, so that no key in use is replaced.
    DirBuilder::new().mode(0o700).create(folder).with_context(|| {
        format!("could not make the folder {}: name one that does not exist with --folder", folder.display())
    })?;
    write(&folder.join("nats-server.conf"), &server(&hosts))?;
    for name in &args.hosts {
        write(&folder.join(format!("{name}.seed")), &format!("{}\n", hosts.seed(name)?))?;
    }
    print::text(&steps(args))?;
    Ok(Exit::Done)
}

fn write(path: &Path, text: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("could not write {}", path.display()))
}

fn server(hosts: &Hosts) -> String {
    format!(
        "# For nats-server 2.10.27 or newer: in older ones whoever may call JetStream can empty everybody's streams\n\
         # (CVE-2025-30215). Adapt the paths. Never add $JS.> or $JS.API.> to a host's permissions.\n\
         listen: \"0.0.0.0:4222\"\n\
         jetstream {{ store_dir: \"/var/lib/nats\", max_file_store: 2GB }}\n\
         tls {{\n  cert_file: \"/etc/nats/server.crt\"\n  key_file: \"/etc/nats/server.key\"\n}}\n\
         # Three servers, each with a name of its own, keep the stream when one is lost:\n\
         # server_name: nats-1\n\
         # cluster {{ name: shield, listen: \"0.0.0.0:6222\", routes: [\"nats://nats-2:6222\", \"nats://nats-3:6222\"] }}\n\
         {}",
        hosts.accounts()
    )
}

fn steps(args: &FleetArgs) -> String {
    let folder = args.folder.display();
    let (first, url) = (&args.hosts[0], &args.url);
    format!(
        "{folder} now holds the keys of {} and the servers\' configuration.\n\n\
         1. On each server: {folder}/nats-server.conf as nats-server\'s configuration. It holds no secret, only the hosts\' public\n   \
         keys. Set the paths of certificate, key and store.\n\n\
         2. On each host its own key alone, readable by root alone. For {first}:\n\n    \
         install -m 0600 {first}.seed /etc/shield/fleet.seed\n\n   \
         and in Shield\'s configuration, then `systemctl restart shield`:\n\n    \
         [fleet]\n    url = \"{url}\"\n    name = \"{first}\"\n    credentials_file = \"/etc/shield/fleet.seed\"\n\n\
         3. `shield-agent fleet` on each shows the others. Then remove {folder}: whoever has a key speaks in its host\'s name.\n",
        args.hosts.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn keys_are_written_once_and_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("fleet");
        let args = FleetArgs {
            hosts: vec!["web-1".to_owned(), "web-2".to_owned()],
            folder: folder.clone(),
            url: "tls://nats-1:4222".to_owned(),
        };
        assert_eq!(run(&args).unwrap(), Exit::Done);
        let seed = std::fs::read_to_string(folder.join("web-2.seed")).unwrap();
        let config = std::fs::read_to_string(folder.join("nats-server.conf")).unwrap();
        assert!(seed.starts_with("SU") && !config.contains(seed.trim()));
        let mode = std::fs::metadata(folder.join("web-2.seed")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = run(&args).unwrap_err();
        assert!(format!("{again:#}").contains("could not make the folder"), "{again:#}");
        assert_eq!(std::fs::read_to_string(folder.join("web-2.seed")).unwrap(), seed, "no key is replaced");
        assert!(steps(&args).contains("name = \"web-1\""));
    }
}
