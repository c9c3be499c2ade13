//! The agent of an environment: the operator's configuration with its own files and nothing that reaches outside.

use std::fs;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use toml::{Table, Value};

use crate::environment::{Environment, Profile};
use crate::topology::{INTERFACE, PROXY};
use crate::{fleet, launch};

/// Sections that would tell others, or hear from them: an exercise must not alarm anybody or ban anybody elsewhere.
const OUTWARD: [&str; 8] =
    ["slack", "webhook", "fleet", "crowdsec", "cloudflare", "blocklist", "page", "metrics"];
/// Where the app stands for Slack.
const SLACK_URL: &str = "http://127.0.0.1:8082/services/lab";

/// Writes the configuration of each server's agent.
///
/// # Errors
/// Fails if the operator's configuration is none.
pub(crate) fn configure(environment: &Environment, config: Option<&Path>, servers: &[String]) -> Result<()> {
    let own = config.map_or_else(|| Ok(Table::new()), read)?;
    servers.iter().try_for_each(|server| write(environment, own.clone(), server))
}

/// Has the agent of a server read this format, unless the operator's configuration names one.
///
/// # Errors
/// Fails if its configuration cannot be read or written.
pub(crate) fn read_as(environment: &Environment, server: &str, format: &str) -> Result<()> {
    let path = environment.config(server);
    let mut table = read(&path)?;
    let source = table.get_mut("source").and_then(|sources| sources.get_mut(0)?.as_table_mut());
    source.context("could not find the source")?.entry("format").or_insert_with(|| Value::from(format));
    fs::write(&path, table.to_string()).with_context(|| format!("could not write {}", path.display()))
}

/// Starts each server's agent.
///
/// # Errors
/// Fails if one cannot be started.
pub(crate) fn start(environment: &mut Environment, servers: &[String]) -> Result<()> {
    servers.iter().try_for_each(|server| launch::agent(environment, server).map(drop))
}

fn read(path: &Path) -> Result<Table> {
    let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    text.parse().with_context(|| format!("could not read {}: `shield-agent check` says more", path.display()))
}

fn write(environment: &Environment, own: Table, server: &str) -> Result<()> {
    let secret = environment.machine_folder(server).join("slack-url");
    let write_file = |path: &Path, text: &str| {
        let mut options = fs::File::options();
        let opened = options.write(true).create(true).truncate(true).mode(0o600).open(path);
        opened
            .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .with_context(|| format!("could not write {}", path.display()))
    };
    write_file(&secret, SLACK_URL)?;
    let table = confined(own, environment, server)?;
    write_file(&environment.config(server), &table.to_string())
}

/// The configuration with the environment's own files.
fn confined(mut own: Table, environment: &Environment, server: &str) -> Result<Table> {
    for section in OUTWARD {
        own.remove(section);
    }
    let path = |path: std::path::PathBuf| Value::from(path.to_string_lossy().into_owned());
    set(
        &mut own,
        "agent",
        [
            ("state_dir", path(environment.state(server).join("shield"))),
            ("socket", path(environment.socket(server))),
        ],
    )?;
    set(&mut own, "audit", [("path", path(environment.audit(server)))])?;
    set(&mut own, "page", [("enabled", Value::from(false))])?;
    // The administrators of the host are nobody in the environment.
    set(&mut own, "allow", [("ssh_sessions", Value::from(false))])?;
    set(
        &mut own,
        "xdp",
        [
            ("pin_dir", path(environment.pins(server))),
            ("interfaces", Value::from(vec![Value::from(INTERFACE)])),
        ],
    )?;
    confine_nginx(&mut own, path(environment.denied(server)))?;
    if environment.profile == Profile::Cdn {
        let proxies: Vec<Value> = PROXY.iter().map(|proxy| Value::from(*proxy)).collect();
        set(&mut own, "allow", [("trusted_proxies", Value::from(proxies))])?;
        set(&mut own, "nginx", [("mode", Value::from("on"))])?;
    }
    if environment.profile == Profile::Fleet {
        set(
            &mut own,
            "fleet",
            [
                ("url", Value::from(fleet::url())),
                ("name", Value::from(server)),
                ("credentials_file", path(fleet::key(environment, server))),
            ],
        )?;
    }
    set(&mut own, "slack", [("url_file", path(environment.machine_folder(server).join("slack-url")))])?;
    let log = path(environment.access_log(server));
    own.insert("source".to_owned(), Value::from(vec![Value::from(source(&own, log))]));
    Ok(own)
}

/// The host's folder of refused clients, and what reloads the host's nginx, must not be reached: an agent repairs what is in
/// the folder to what it knows, and would lift the host's bans.
fn confine_nginx(own: &mut Table, folder: Value) -> Result<()> {
    if let Some(nginx) = own.get_mut("nginx").and_then(Value::as_table_mut) {
        for key in ["copy_command", "test_command", "reload_command", "workers_command"] {
            nginx.remove(key);
        }
    }
    set(own, "nginx", [("folder", folder), ("backend", Value::from("files"))])
}

impl Environment {
    /// Where nginx looks for clients that it is to refuse.
    pub(crate) fn denied(&self, server: &str) -> std::path::PathBuf {
        self.machine_folder(server).join("deny")
    }
}

/// The first source's format, for the environment's log.
fn source(own: &Table, log: Value) -> Table {
    let first = own.get("source").and_then(Value::as_array).and_then(|all| all.first()?.as_table().cloned());
    let mut source = first.unwrap_or_default();
    for key in ["syslog", "users", "group", "mode"] {
        source.remove(key);
    }
    source.insert("path".to_owned(), log);
    source
}

fn set<const N: usize>(own: &mut Table, section: &str, keys: [(&str, Value); N]) -> Result<()> {
    let table = own.entry(section).or_insert_with(|| Value::from(Table::new()));
    let Some(table) = table.as_table_mut() else {
        bail!("could not read the configuration: {section} is no section");
    };
    table.extend(keys.map(|(key, value)| (key.to_owned(), value)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_the_operators_configuration_reaches_the_host_or_others() {
        let own = "[agent]\nstate_dir = \"/var/lib/shield\"\n[detect]\nmin_rate = 3\n[nginx]\nmode = \"on\"\nbackend = \"map\"\n\
                   folder = \"/run/shield/deny\"\nreload_command = [\"systemctl\", \"reload\", \"nginx\"]\n[fleet]\n\
                   url = \"nats://10.0.0.1\"\n[webhook]\nurl = \"https://a.example\"\n[[source]]\npath = \"/var/log/a.log\"\n\
                   format = \"combined\"\n[audit]\npath = \"/var/log/shield/audit.jsonl\"\n";
        let environment = Environment::example("a-20261130-021504", Path::new("/lab"));
        let text = confined(own.parse().unwrap(), &environment, "server").unwrap().to_string();
        for gone in ["/var/", "/run/", "systemctl", "10.0.0.1", "a.example", "map"] {
            assert!(!text.contains(gone), "{gone} is in\n{text}");
        }
        for kept in ["min_rate = 3", "format = \"combined\"", "mode = \"on\""] {
            assert!(text.contains(kept), "{kept} is not in\n{text}");
        }
    }
}
