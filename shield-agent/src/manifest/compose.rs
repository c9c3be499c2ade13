//! nginx, Shield and Prometheus in containers, as in `packaging/container`, with the folders of these settings.
//!
//! What the containers share are named volumes: the logs, the folder in which nginx looks for who is denied, and those of sockets.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::path::Path;

use anyhow::{Result, bail};

use super::quote;
use crate::config::{Config, Use};
use crate::source::Input;

/// Folders that a container has for itself, so that no volume can be there.
const OWN: [&str; 7] = ["/", "/run", "/tmp", "/etc", "/usr", "/var", "/dev"];

/// A folder in two containers.
struct Shared {
    name: String,
    /// Whether it is in memory.
    is_memory: bool,
    nginx_writes: bool,
    shield_writes: bool,
}

/// Settings that are good for a host, and not for containers.
#[derive(Debug)]
struct Unshareable(String);

impl fmt::Display for Unshareable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unshareable {}

pub(super) fn compose(config: &Config) -> Result<String> {
    // Whoever uses no containers is not to be kept from the other files.
    services(config).or_else(|error| match error.downcast::<Unshareable>() {
        Ok(Unshareable(why)) => Ok(format!("#\n# Nothing: {why}.\nservices: {{}}\n")),
        Err(error) => Err(error),
    })
}

fn services(config: &Config) -> Result<String> {
    let shared = shared(config)?;
    let mount = |name: &str, folder: &str, is_written: bool| {
        let read_only = if is_written { "" } else { ", read_only: true" };
        format!("      - {{type: volume, source: {name}, target: {}{read_only}}}\n", quote::compose(folder))
    };
    let (mut nginx, mut shield, mut volumes) = (String::new(), String::new(), String::new());
    for (folder, volume) in &shared {
        let Shared { name, is_memory, nginx_writes, shield_writes } = volume;
        nginx += &mount(name, folder, *nginx_writes);
        shield += &mount(name, folder, *shield_writes);
        let _ = match is_memory {
            true => writeln!(
                volumes,
                "  {name}:\n    driver_opts: {{type: tmpfs, device: tmpfs, o: \"mode=0755,size=64m\"}}"
            ),
            false => writeln!(volumes, "  {name}:"),
        };
    }
    let state = mountable(&config.state_dir, "[agent] state_dir")?;
    let audit = parent(&config.audit, "[audit] path")?;
    // Two volumes cannot be at one place.
    for (name, folder) in [("state", &state), ("audit", &audit)] {
        let is_taken = name == "audit" && *folder == state;
        if let Some(volume) = shared.get(folder) {
            bail!(Unshareable(format!(
                "{folder} would be the volumes {} and {name}: write the two into folders of their own",
                volume.name
            )));
        }
        if !is_taken {
            shield += &mount(name, folder, true);
        }
    }
    let pins = quote::path(&config.xdp.pin_folder, "[xdp] pin_dir")?;
    let pins = if pins.starts_with("/sys/fs/bpf") { "/sys/fs/bpf" } else { pins };
    let _ = writeln!(shield, "      - {{type: bind, source: {0}, target: {0}}}", quote::compose(pins));
    Ok(TEMPLATE
        .replace("{NGINX}", &nginx)
        .replace("{SHIELD}", &shield)
        .replace("{VOLUMES}", &volumes)
        .trim_start_matches('\n')
        .to_owned())
}

/// The folders that nginx and Shield share, by path.
fn shared(config: &Config) -> Result<BTreeMap<String, Shared>> {
    let mut shared = BTreeMap::new();
    for source in &config.sources {
        let count = shared.len();
        let (folder, is_memory) = match &source.input {
            Input::Stdin => continue,
            Input::Syslog(listener) => (parent(&listener.path, "[[source]] syslog")?, true),
            Input::Files(text) => (log_folder(text)?, false),
        };
        let kind = if is_memory { "socket" } else { "logs" };
        shared.entry(folder).or_insert(Shared {
            name: format!("{kind}{count}"),
            is_memory,
            nginx_writes: !is_memory,
            shield_writes: is_memory,
        });
    }
    if config.use_nginx != Use::Off {
        let folder = quote::path(&config.nginx.folder, "[nginx] folder")?;
        let volume =
            Shared { name: "deny".into(), is_memory: true, nginx_writes: false, shield_writes: true };
        shared.insert(folder.to_owned(), volume);
    }
    Ok(shared)
}

/// The nearest folder above a log or a pattern that has no wildcard.
fn log_folder(text: &str) -> Result<String> {
    let key = "[[source]] path";
    let path = Path::new(quote::path(Path::new(text), key)?);
    let has_wildcard = |folder: &&Path| folder.to_string_lossy().contains(['*', '?', '[']);
    let folder = path.ancestors().skip(1).find(|folder| !has_wildcard(folder)).unwrap_or(path);
    mountable(folder, key)
}

fn parent(path: &Path, key: &str) -> Result<String> {
    let path = Path::new(quote::path(path, key)?);
    mountable(path.parent().unwrap_or(path), key)
}

fn mountable(folder: &Path, key: &str) -> Result<String> {
    let text = quote::path(folder, key)?;
    if OWN.contains(&text) {
        bail!(Unshareable(format!(
            "{key} lies in {text} itself, which no two containers can share: write it into a folder of its own below"
        )));
    }
    Ok(text.to_owned())
}

const TEMPLATE: &str = r##"
#
# nginx, Shield and Prometheus on one host. Settings by the environment, or a file `.env` beside this one:
#
#   SHIELD_IMAGE    the image, default shield:latest
#   SITE            the folder with your server sections, default ./site; they include files of /etc/nginx/shield
#   SHIELD_TOML     the manifest, default ../shield.toml
#   SHIELD_BPF=SYS_ADMIN, SHIELD_PERFMON=CAP_SYS_ADMIN
#                   for Docker before 23, which ends with `unknown capability`: two names of the older one that includes both
services:
  nginx:
    image: docker.io/library/nginx:stable
    # What answers visitors waits until those who are banned are kept out.
    depends_on:
      shield:
        condition: service_healthy
    # The visitors' own addresses, without a proxy of the container engine between.
    network_mode: host
    volumes:
      - ${SITE:-./site}:/etc/nginx/conf.d:ro
      - ./nginx:/etc/nginx/shield:ro
{NGINX}    restart: unless-stopped
    mem_limit: 512m
    pids_limit: 256

  shield:
    image: ${SHIELD_IMAGE:-shield:latest}
    # What drops packets has to be where they arrive.
    network_mode: host
    cap_drop: [ALL]
    # Those of the systemd unit.
    cap_add: [NET_ADMIN, NET_RAW, "${SHIELD_BPF:-BPF}", "${SHIELD_PERFMON:-PERFMON}", DAC_READ_SEARCH, CHOWN]
    security_opt: ["no-new-privileges:true"]
    read_only: true
    tmpfs:
      - /run:mode=0755,size=16m
      - /tmp:size=16m
    volumes:
      - ${SHIELD_TOML:-../shield.toml}:/etc/shield/shield.toml:ro
      # Who is logged in over SSH, and so never banned.
      - /run/systemd/sessions:/run/systemd/sessions:ro
{SHIELD}    ulimits:
      memlock: -1
    stop_grace_period: 20s
    restart: unless-stopped
    mem_limit: 1g
    pids_limit: 256

  prometheus:
    image: docker.io/prom/prometheus:latest
    depends_on:
      shield:
        condition: service_healthy
    network_mode: host
    command: ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus", "--web.listen-address=127.0.0.1:9090"]
    volumes:
      - ./prometheus:/etc/prometheus:ro
      - metrics:/prometheus
    cap_drop: [ALL]
    security_opt: ["no-new-privileges:true"]
    read_only: true
    restart: unless-stopped
    mem_limit: 512m
    pids_limit: 256

volumes:
{VOLUMES}  state:
  audit:
  metrics:
"##;
