//! The whole configuration as a file: what was written, and the defaults of everything else.
//!
//! What was written stays as it was, so that it means the same; a default is written as the value in force. Keys that have no
//! default (a secret's place, a list that is empty when absent) stay absent.

use anyhow::{Context, Result};
use serde_json::json;
use toml::{Table, Value};

use super::keys::{extend, networks, term, used};
use super::{Config, DEFAULT_PAGE, detect};
use crate::blocklist;
use crate::crowdsec;
use crate::edge::cloudflare;
use crate::enforce::nginx::Backend;
use shield_engine::allowlist::AllowReason;
use shield_engine::settings::Settings as EngineSettings;

/// Sections that are off without a key of theirs: their defaults alone would be a mistake.
const OFF_WITHOUT_KEYS: [&str; 2] = ["cloudflare", "crowdsec"];

/// `config` is what `text` was read as.
pub(super) fn of(text: &str, config: &Config) -> Result<String> {
    let own: Table = toml::from_str(text).context("could not read the configuration again")?;
    let mut all = defaults(config)?;
    for section in OFF_WITHOUT_KEYS {
        if own.get(section).and_then(Value::as_table).is_none_or(Table::is_empty) {
            all.remove(section);
        }
    }
    overlay(&mut all, own);
    fill_items(&mut all, "source", &[("format", "auto".into()), ("max_line_bytes", max_line_bytes())]);
    fill_items(&mut all, "site", &[("judged", true.into())]);
    let refresh = number(blocklist::Settings::REFRESH.as_secs());
    let list = [("refresh", refresh), ("format", "plain".into()), ("allow_http", false.into())];
    fill_items(&mut all, "blocklist", &list);
    toml::to_string_pretty(&all).context("could not write the configuration as TOML")
}

fn overlay(base: &mut Table, own: Table) {
    for (key, value) in own {
        match (base.get_mut(&key), value) {
            (Some(Value::Table(base)), Value::Table(own)) => overlay(base, own),
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

/// Gives each section of an array the keys that it does not have.
fn fill_items(all: &mut Table, section: &str, defaults: &[(&str, Value)]) {
    let Some(Value::Array(items)) = all.get_mut(section) else { return };
    for item in items.iter_mut().filter_map(Value::as_table_mut) {
        for (key, value) in defaults {
            item.entry(*key).or_insert_with(|| value.clone());
        }
    }
}

fn max_line_bytes() -> Value {
    number(shield_logline::Settings::default().max_line_bytes)
}

fn number(number: impl TryInto<i64>) -> Value {
    Value::Integer(number.try_into().unwrap_or(i64::MAX))
}

/// Every key that has a default, with the value in force. Where the key was written, it is replaced by what was written.
fn defaults(config: &Config) -> Result<Table> {
    let engine = &config.engine;
    let has = |reason| config.infrastructure.iter().any(|entry| entry.reason == reason);
    let terms: Vec<_> = engine.backoff.terms().iter().map(|secs| term(*secs)).collect();
    let table = json!({
        "agent": {
            "state_dir": config.state_dir,
            "socket": config.socket,
            "log": config.log,
            "web_ports": config.web_ports,
            "max_clock_skew": engine.max_clock_skew_secs,
        },
        "source": [{ "path": super::DEFAULT_LOG }],
        "detect": detect::written(&config.profile, &config.policy)?,
        "ban": {
            "terms": terms,
            "forget_after": engine.backoff.forget_after_secs(),
            "ipv6_prefix": engine.ipv6_prefix,
            "max_bans": engine.max_bans,
            "max_share": engine.blast.max_share,
            "always_allowed": engine.blast.always_allowed,
            "max_bans_per_minute": engine.blast.max_bans_per_minute,
            "extend": extend(engine.extension.by),
            "extend_from_packets_per_sec": engine.extension.min_packets_per_sec,
            // Without what reloads of nginx add to it.
            "leak_grace": EngineSettings::default().leak_grace_secs,
            "networks": networks(engine.networks.action),
            "network_clients": engine.networks.clients,
            "network_within": engine.networks.within_secs,
        },
        "slow": {
            "enabled": engine.slow.switch.is_on(),
            "first_offence": engine.backoff.is_slow_first(),
            "term": engine.slow.term_secs,
            "connections_per_sec": engine.slow.connections_per_sec,
            "packets_per_sec": engine.slow.packets_per_sec,
        },
        "allow": {
            "networks": [],
            "trusted_proxies": [],
            "ssh_sessions": config.ssh_sessions,
            "ssh_keep": config.ssh_keep_secs,
            "search_engines": engine.verify_search_engines.is_on(),
            "cdn_ranges": has(AllowReason::Cdn),
            "private_networks": has(AllowReason::Private),
        },
        "iptables": {
            "mode": used(config.use_iptables),
            "backend": "auto",
            "max_rules": config.iptables.max_rules,
            "hooks": ["auto"],
            "max_bans_ipv4": config.iptables.max_entries_v4,
            "max_bans_ipv6": config.iptables.max_entries_v6,
            "program_ipv4": config.iptables.program_v4,
            "program_ipv6": config.iptables.program_v6,
        },
        "xdp": {
            "mode": used(config.use_xdp),
            "interfaces": ["default"],
            "attach": "auto",
            "max_bans_ipv4": config.xdp.max_bans_v4,
            "max_bans_ipv6": config.xdp.max_bans_v6,
            "max_networks": config.xdp.max_networks,
            "pin_dir": config.xdp.pin_folder,
            "log_drops_every": config.xdp.log_every.map_or(0, u32::from),
        },
        "nginx": {
            "mode": used(config.use_nginx),
            "backend": match config.nginx.backend {
                Backend::Files => "files",
                Backend::Map => "map",
            },
            "folder": config.nginx.folder,
            "max_clients": config.nginx.max_clients,
            "status": config.nginx.status,
            "copy_command": config.nginx.commands.copy,
            "test_command": config.nginx.commands.test,
            "reload_command": config.nginx.commands.reload,
            "workers_command": config.nginx.commands.workers,
            "reload_every": config.nginx.reload_every.as_secs(),
        },
        "cloudflare": {
            "max_items": cloudflare::Settings::MAX_ITEMS,
            "share": cloudflare::Settings::SHARE,
            "api": cloudflare::Settings::API,
        },
        "fleet": {
            "max_remote_term": term(engine.remote.max_term),
            "max_new_per_min": engine.remote.max_new_per_min,
            "max_live": engine.remote.max_live,
            "confirm": engine.remote.confirm,
            "accept_networks": engine.remote.accept_networks.is_on(),
        },
        "crowdsec": { "poll": crowdsec::Settings::POLL.as_secs() },
        "policy": { "on_error": config.rules.on_error_name() },
        "page": {
            "enabled": config.page.is_some(),
            "listen": config.page.unwrap_or(DEFAULT_PAGE),
            "next_free_port": config.page_next_free_port,
            "hosts": config.page_hosts,
        },
        "audit": { "path": config.audit },
    });
    Table::try_from(table).context("could not write the defaults as TOML")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys;

    fn check(text: &str) -> String {
        let shown = Config::effective(text).unwrap();
        let (before, after) = (Config::parse(text).unwrap(), Config::parse(&shown).unwrap());
        assert_eq!(keys::diff(&before, &after), [], "{text}\n{shown}");
        assert_eq!(before.sources, after.sources, "{text}");
        assert_eq!(format!("{:?}", before.policy), format!("{:?}", after.policy), "{text}");
        assert_eq!(Config::effective(&shown).unwrap(), shown, "shown again it is the same");
        shown
    }

    #[test]
    fn it_means_the_same_for_each_key() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "192.0.2.0/24\n").unwrap();
        for (_, text) in keys::SAMPLES {
            check(&text.replace("{file}", file.path().to_str().unwrap()));
        }
        check("[detect]\nprofile = 'classic'\nobserve = ['flood']\nz_score.threshold = 7");
        check("[[source]]\npath = '/a'\ncatch_up = '1h'\n[[source]]\nsyslog = '/b'\n[[site]]\nhost = 'a'");
        check("[[blocklist]]\nname = 'a'\nurl = 'https://a/b'\n[ban]\nterms = ['1m', 'permanent']");
        check("[nginx]\nmode = 'on'\nbackend = 'map'\n[ban]\nleak_grace = '20s'");
        check(include_str!("../../../packaging/shield.toml"));
    }

    #[test]
    fn every_key_that_has_a_default_is_there() {
        let shown: Table = toml::from_str(&check("")).unwrap();
        // No default, or those that only stand with others.
        let absent = ["cdn_ranges_file", "url", "events", "list", "stdin", "dir", "asn_db", "country_db"];
        for (section, name) in keys::names() {
            let value = shown.get(section).and_then(|section| section.get(name));
            assert_eq!(value.is_none(), absent.contains(&name), "[{section}] {name}");
        }
    }
}
