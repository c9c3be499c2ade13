//! The gate before the start: what is known of this host, and whether the rules let the agent enforce on it.
//!
//! Only a rule's own words keep the agent from starting. Where it cannot be asked, the start goes on and says so: a policy that is
//! broken must not leave a server without protection.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use procfs::{Current as _, LoadAverage};
use serde_json::{Map, Value, json};

use super::asking::Asking;
use super::bundle::Bundle;
use super::{Point, Settings};
use crate::config::{Config, Use};
use shield_engine::allowlist::AllowReason;
use shield_engine::time::Now;

/// Programs that set up the firewall, each with a file that is there while it runs.
const MANAGERS: [(&str, &str); 3] =
    [("firewalld", "/run/firewalld"), ("docker", "/run/docker.sock"), ("fail2ban", "/run/fail2ban")];

/// Whether the agent may start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Gate {
    /// No rule is asked.
    None,
    Open,
    /// The rules' words, in their order.
    Blocked(Vec<String>),
    /// The start goes on. The reason why the rules could not be asked.
    Broken(String),
}

/// Asks the rules of the configured folder.
pub(crate) fn ask(config: &Config, now: Now) -> Gate {
    let Settings { dir: Some(dir), .. } = &config.rules else { return Gate::None };
    match Bundle::read(dir) {
        Ok(bundle) if !bundle.has_package(Point::Start.package()) => Gate::None,
        Ok(bundle) => judge(&bundle, document(config, now)),
        Err(error) => Gate::Broken(format!("{error:#}")),
    }
}

fn judge(bundle: &Bundle, input: Value) -> Gate {
    let mut asking = match Asking::start(bundle, Point::Start) {
        Ok(asking) => asking,
        Err(why) => return Gate::Broken(why.to_string()),
    };
    match asking.ask(Point::Start.rule(), input) {
        Ok(answer) => verdict(answer),
        Err(why) => Gate::Broken(why.to_string()),
    }
}

fn verdict(answer: Option<Value>) -> Gate {
    match super::reasons(Point::Start, answer) {
        Ok(reasons) if reasons.is_empty() => Gate::Open,
        Ok(reasons) => Gate::Blocked(reasons),
        Err(why) => Gate::Broken(why),
    }
}

/// What is known of this host. What cannot be found out is left out.
pub(crate) fn document(config: &Config, now: Now) -> Value {
    let mut input = Map::new();
    let mut add = |name: &str, value: Option<Value>| {
        value.into_iter().for_each(|value| {
            input.insert(name.to_owned(), value);
        });
    };
    let folder = &config.state_dir;
    add("host", Some(json!(super::host_name())));
    add("kernel", std::fs::read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| json!(text.trim())));
    add("disk", disk(folder));
    add("store", store(folder));
    add("load", load());
    add("clock", Some(clock(now)));
    add("firewall", Some(firewall()));
    add("proxied", Some(proxied(config)));
    let enforcers = json!({
        "iptables": use_name(config.use_iptables),
        "xdp": use_name(config.use_xdp),
        "nginx": use_name(config.use_nginx),
    });
    add("enforcers", Some(enforcers));
    Value::Object(input)
}

fn disk(folder: &Path) -> Option<Value> {
    // Before the first start the folder is not there yet.
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let found = statvfs(there).ok()?;
    let bytes = found.fragment_size();
    // What is kept for root is free for an agent that is root.
    Some(json!({
        "folder": folder,
        "free_bytes": found.blocks_free().saturating_mul(bytes),
        "total_bytes": found.blocks().saturating_mul(bytes),
    }))
}

fn store(folder: &Path) -> Option<Value> {
    let there = folder.ancestors().find(|folder| folder.exists())?;
    let writable = nix::unistd::access(there, nix::unistd::AccessFlags::W_OK).is_ok();
    Some(json!({ "folder": folder, "writable": writable }))
}

fn load() -> Option<Value> {
    let load = LoadAverage::current().ok()?;
    let cpus = std::thread::available_parallelism().map(usize::from).ok()?;
    Some(json!({ "one": load.one, "five": load.five, "fifteen": load.fifteen, "cpus": cpus }))
}

fn clock(now: Now) -> Value {
    json!({
        "unix_secs": now.wall_secs(),
        "utc": crate::text::utc(now.wall_ms),
        "synchronised": Path::new("/run/systemd/timesync/synchronized").exists(),
    })
}

/// Whether the web server's clients come through a proxy, as far as the configuration says.
fn proxied(config: &Config) -> Value {
    let configured = config.allow.iter().any(|entry| entry.reason == AllowReason::TrustedProxy);
    json!({ "configured": configured || config.use_nginx != Use::Off })
}

fn firewall() -> Value {
    let there = MANAGERS.iter().filter(|(_, file)| Path::new(file).exists()).map(|(name, _)| *name);
    let ufw = std::fs::read_to_string("/etc/ufw/ufw.conf").unwrap_or_default();
    let ufw = ufw.lines().any(|line| line.trim() == "ENABLED=yes").then_some("ufw");
    json!({ "managers": there.chain(ufw).collect::<Vec<_>>() })
}

fn use_name(used: Use) -> &'static str {
    match used {
        Use::On => "on",
        Use::Off => "off",
        Use::Required => "required",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_words_keep_the_agent_from_starting() {
        assert_eq!(verdict(None), Gate::Open);
        assert_eq!(verdict(Some(json!([]))), Gate::Open);
        let two = json!(["disk below 1 GB", {"a": 1}]);
        let words = vec!["disk below 1 GB".to_owned(), "{\"a\":1}".to_owned()];
        assert_eq!(verdict(Some(two)), Gate::Blocked(words));
        assert!(matches!(verdict(Some(json!(true))), Gate::Broken(_)));
        let long = json!([format!("a\n\u{1b}[31m{}", "x".repeat(9_000))]);
        let Gate::Blocked(words) = verdict(Some(long)) else { panic!("it is blocked") };
        assert!(words[0].len() < 400 && !words[0].contains(['\n', '\u{1b}']), "{words:?}");
    }

    #[test]
    fn the_document_is_the_sample_with_the_values_of_this_host() {
        let config = Config::parse("[agent]\nstate_dir = '/nonexistent/shield'").unwrap();
        let now = Now { wall_ms: 1_795_996_801_000, boot_ms: 1 };
        let found = document(&config, now);
        assert_eq!(found["clock"]["utc"], "2026-11-30T00:00:01Z");
        assert!(found["disk"]["free_bytes"].as_u64().unwrap() > 0);
        let names = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&found), names(&Point::Start.sample()));
    }
}
