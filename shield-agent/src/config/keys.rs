//! Which keys a reload can change, and the difference between two configurations key by key.
//!
//! [`KEYS`] has every key of the file in exactly one class, held against the structs of `raw` by a test. `[[source]]`,
//! `[[blocklist]]` and `[detect]` are compared whole, so that a new key of theirs counts without a line here.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Config, UrlFrom, Use};
use crate::blocklist;
use crate::edge::cloudflare::Settings;
use crate::source::{self, Input};
use crate::text;
use shield_engine::allowlist::AllowReason;
use shield_engine::backoff::Term;
use shield_engine::policy::Switch;
use shield_engine::settings::{ExtendBy, NetworkAction};

/// When a change of a key takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    /// With the reload.
    Now,
    /// With the reload, for bans made from then on.
    NewBans,
    /// With the next start: what is in the kernel, on disk or held by other programs depends on it.
    Restart,
}

/// A key of the file.
struct Key {
    section: &'static str,
    name: &'static str,
    class: Class,
    value: fn(&Config) -> Value,
}

const fn key(section: &'static str, name: &'static str, class: Class, value: fn(&Config) -> Value) -> Key {
    Key { section, name, class, value }
}

use Class::{NewBans, Now, Restart};

/// Every key but those of `[[source]]`, `[detect]`, `[[site]]` and `[[blocklist]]`.
const KEYS: [Key; 82] = [
    key("agent", "state_dir", Restart, |c| json!(c.state_dir)),
    key("agent", "socket", Restart, |c| json!(c.socket)),
    key("agent", "log", Now, |c| json!(c.log)),
    key("agent", "web_ports", Restart, |c| json!(c.web_ports)),
    key("agent", "max_clock_skew", Now, |c| span(c.engine.max_clock_skew_secs as u64)),
    key("ban", "terms", NewBans, |c| c.engine.backoff.terms().iter().map(|t| term(*t)).collect()),
    key("ban", "forget_after", Now, |c| span(c.engine.backoff.forget_after_secs())),
    // Every ban in force, in the database and in the kernel, is for a network of this length.
    key("ban", "ipv6_prefix", Restart, |c| json!(c.engine.ipv6_prefix)),
    key("ban", "max_bans", NewBans, |c| json!(c.engine.max_bans)),
    key("ban", "max_share", NewBans, |c| json!(c.engine.blast.max_share)),
    key("ban", "always_allowed", NewBans, |c| json!(c.engine.blast.always_allowed)),
    key("ban", "max_bans_per_minute", NewBans, |c| json!(c.engine.blast.max_bans_per_minute)),
    key("ban", "extend", NewBans, |c| json!(extend(c.engine.extension.by))),
    key("ban", "extend_from_packets_per_sec", Now, |c| json!(c.engine.extension.min_packets_per_sec)),
    key("ban", "leak_grace", Now, |c| span(c.engine.leak_grace_secs as u64)),
    key("ban", "networks", NewBans, |c| json!(networks(c.engine.networks.action))),
    key("ban", "network_clients", NewBans, |c| json!(c.engine.networks.clients)),
    key("ban", "network_within", NewBans, |c| span(c.engine.networks.within_secs)),
    key("slow", "enabled", Now, |c| json!(c.engine.slow.switch.is_on())),
    key("slow", "first_offence", NewBans, |c| json!(c.engine.backoff.is_slow_first())),
    key("slow", "term", NewBans, |c| span(c.engine.slow.term_secs)),
    key("slow", "connections_per_sec", NewBans, |c| json!(c.engine.slow.connections_per_sec)),
    key("slow", "packets_per_sec", NewBans, |c| json!(c.engine.slow.packets_per_sec)),
    key("allow", "networks", Now, |c| allowed(c, AllowReason::Configured)),
    key("allow", "trusted_proxies", Now, |c| allowed(c, AllowReason::TrustedProxy)),
    key("allow", "ssh_sessions", Restart, |c| json!(c.ssh_sessions)),
    key("allow", "ssh_keep", Restart, |c| span(c.ssh_keep_secs)),
    key("allow", "search_engines", Now, |c| json!(c.engine.verify_search_engines.is_on())),
    key("allow", "cdn_ranges", Now, |c| {
        json!(c.infrastructure.iter().any(|entry| entry.reason == AllowReason::Cdn))
    }),
    // The networks themselves: the file may have changed and not its name.
    key("allow", "cdn_ranges_file", Now, |c| infrastructure(c, AllowReason::Cdn)),
    key("allow", "private_networks", Now, |c| {
        json!(c.infrastructure.iter().any(|entry| entry.reason == AllowReason::Private))
    }),
    key("iptables", "mode", Restart, |c| json!(used(c.use_iptables))),
    key("iptables", "backend", Restart, |c| word(&c.iptables.backend)),
    key("iptables", "max_rules", Restart, |c| json!(c.iptables.max_rules)),
    key("iptables", "hooks", Restart, |c| word(&c.iptables.containers)),
    key("iptables", "max_bans_ipv4", Restart, |c| json!(c.iptables.max_entries_v4)),
    key("iptables", "max_bans_ipv6", Restart, |c| json!(c.iptables.max_entries_v6)),
    key("iptables", "program_ipv4", Restart, |c| json!(c.iptables.program_v4)),
    key("iptables", "program_ipv6", Restart, |c| json!(c.iptables.program_v6)),
    key("xdp", "mode", Restart, |c| json!(used(c.use_xdp))),
    key("xdp", "interfaces", Restart, |c| word(&c.xdp.interfaces)),
    key("xdp", "attach", Restart, |c| word(&c.xdp.mode)),
    key("xdp", "max_bans_ipv4", Restart, |c| json!(c.xdp.max_bans_v4)),
    key("xdp", "max_bans_ipv6", Restart, |c| json!(c.xdp.max_bans_v6)),
    key("xdp", "max_networks", Restart, |c| json!(c.xdp.max_networks)),
    key("xdp", "pin_dir", Restart, |c| json!(c.xdp.pin_folder)),
    key("xdp", "log_drops_every", Restart, |c| json!(c.xdp.log_every.map_or(0, u32::from))),
    key("nginx", "mode", Restart, |c| json!(used(c.use_nginx))),
    key("nginx", "folder", Restart, |c| json!(c.nginx.folder)),
    key("nginx", "max_clients", Restart, |c| json!(c.nginx.max_clients)),
    key("nginx", "status", Restart, |c| json!(c.nginx.status)),
    key("nginx", "backend", Restart, |c| word(&c.nginx.backend)),
    key("nginx", "copy_command", Restart, |c| json!(c.nginx.commands.copy)),
    key("nginx", "test_command", Restart, |c| json!(c.nginx.commands.test)),
    key("nginx", "reload_command", Restart, |c| json!(c.nginx.commands.reload)),
    key("nginx", "workers_command", Restart, |c| json!(c.nginx.commands.workers)),
    key("nginx", "reload_every", Restart, |c| span(c.nginx.reload_every.as_secs())),
    // The whole section: a list that is left behind would have to be emptied by `cleanup` with the settings of before.
    key("cloudflare", "list", Restart, cloudflare),
    // The whole connection.
    key("fleet", "url", Restart, fleet),
    key("fleet", "max_remote_term", NewBans, |c| {
        c.engine.remote.max_term.secs().map_or_else(|| json!("permanent"), span)
    }),
    key("fleet", "max_new_per_min", NewBans, |c| json!(c.engine.remote.max_new_per_min)),
    key("fleet", "max_live", NewBans, |c| json!(c.engine.remote.max_live)),
    key("fleet", "confirm", NewBans, |c| json!(c.engine.remote.confirm)),
    key("fleet", "accept_networks", NewBans, |c| json!(c.engine.remote.accept_networks.is_on())),
    // The whole section.
    key("crowdsec", "url", Now, crowdsec),
    key("policy", "dir", Now, |c| json!(c.rules.dir)),
    key("policy", "on_error", NewBans, |c| json!(c.rules.on_error_name())),
    key("page", "enabled", Now, |c| json!(c.page.is_some())),
    key("page", "listen", Now, |c| json!(c.page)),
    key("page", "next_free_port", Now, |c| json!(c.page_next_free_port)),
    key("page", "hosts", Now, |c| json!(c.page_hosts)),
    key("page", "url", Now, |c| json!(c.page_url)),
    key("page", "asn_db", Restart, |c| json!(c.address_dbs.asn)),
    key("page", "country_db", Restart, |c| json!(c.address_dbs.country)),
    key("slack", "url", Now, |c| url(c.slack.as_ref())),
    key("slack", "events", Now, |c| json!(c.slack_events)),
    key("webhook", "events", Now, |c| json!(c.webhook_events)),
    key("webhook", "url", Now, |c| url(c.webhook.as_ref())),
    // The chain of its lines is one file's.
    key("audit", "path", Restart, |c| json!(c.audit)),
    key("detect", "profile", Now, |c| json!(c.profile)),
    // The size of a table that is full of clients.
    key("detect", "max_clients", Restart, |c| json!(c.policy.max_clients)),
    // A thread that waits for standard input cannot be stopped.
    key("source", "stdin", Restart, |c| json!(c.sources.iter().any(is_stdin))),
];

#[cfg(test)]
pub(super) use tests::SAMPLES;

/// Every section and key that has a class.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    KEYS.iter().map(|key| (key.section, key.name))
}

/// A key whose value differs.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Change {
    /// As in `[ban] terms`.
    pub key: String,
    pub class: Class,
    pub from: Value,
    pub to: Value,
}

/// The keys that differ, but for those of the sources.
pub(crate) fn diff(from: &Config, to: &Config) -> Vec<Change> {
    let differing = |key: &Key| {
        let (from, to) = ((key.value)(from), (key.value)(to));
        // With a page or CDNs switched on or off, that says it all.
        let is_empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        let is_said = matches!(key.name, "listen" | "cdn_ranges_file") && (is_empty(&from) || is_empty(&to));
        let name = format!("[{}] {}", key.section, key.name);
        (from != to && !is_said).then_some(Change { key: name, class: key.class, from, to })
    };
    let mut changes: Vec<Change> = KEYS.iter().filter_map(differing).collect();
    let (from_lists, to_lists) = (&from.blocklists, &to.blocklists);
    let (from, to) = (json!(from.policy), json!(to.policy));
    policy_diff("detect", &from, &to, &mut changes);
    changes.extend(lists_diff(from_lists, to_lists));
    changes
}

/// The lists that differ, by their names.
fn lists_diff(from: &[blocklist::Settings], to: &[blocklist::Settings]) -> Vec<Change> {
    let names: BTreeSet<&str> = from.iter().chain(to).map(|list| list.name.as_str()).collect();
    let find =
        |lists: &[blocklist::Settings], name: &str| lists.iter().find(|list| list.name == name).cloned();
    let shown =
        |list: Option<blocklist::Settings>| list.map_or(Value::Null, |list| json!(format!("{list:?}")));
    let differing = |name: &str| {
        let (from, to) = (find(from, name), find(to, name));
        let key = format!("[[blocklist]] {name}");
        (from != to).then(|| Change { key, class: Class::Now, from: shown(from), to: shown(to) })
    };
    names.into_iter().filter_map(differing).collect()
}

/// Every key of the detector's policy that differs, in the file's words.
fn policy_diff(section: &str, from: &Value, to: &Value, changes: &mut Vec<Change>) {
    let (Some(from), Some(to)) = (from.as_object(), to.as_object()) else { return };
    for (name, from) in from {
        let to = &to[name];
        let is_listed = KEYS.iter().any(|key| key.section == section && key.name == name);
        if from.is_object() {
            policy_diff(&format!("{section}.{name}"), from, to, changes);
        } else if from != to && !is_listed {
            let key = if name == "sites" { "[[site]]".to_owned() } else { format!("[{section}] {name}") };
            changes.push(Change { key, class: Class::Now, from: from.clone(), to: to.clone() });
        }
    }
}

/// The configuration that is in force once a reload from `old` to `new` has done all it can: what needs a restart stays.
pub(crate) fn in_force(old: &Config, new: Config) -> Config {
    let mut config = Config {
        state_dir: old.state_dir.clone(),
        socket: old.socket.clone(),
        web_ports: old.web_ports.clone(),
        ssh_sessions: old.ssh_sessions,
        ssh_keep_secs: old.ssh_keep_secs,
        audit: old.audit.clone(),
        use_iptables: old.use_iptables,
        iptables: old.iptables.clone(),
        use_xdp: old.use_xdp,
        xdp: old.xdp.clone(),
        use_nginx: old.use_nginx,
        nginx: old.nginx.clone(),
        cloudflare: old.cloudflare.clone(),
        fleet: old.fleet.clone(),
        address_dbs: old.address_dbs.clone(),
        ..new
    };
    config.engine.ipv6_prefix = old.engine.ipv6_prefix;
    let has_others = config.fleet.is_some() || config.crowdsec.is_some() || !config.blocklists.is_empty();
    config.engine.remote.switch = if has_others { Switch::On } else { Switch::Off };
    config.engine.proxied = old.engine.proxied;
    config.engine.refusal_status = old.engine.refusal_status;
    config.policy.max_clients = old.policy.max_clients;
    config.sources.retain(|source| !is_stdin(source));
    config.sources.extend(old.sources.iter().filter(|source| is_stdin(source)).cloned());
    config
}

pub(crate) fn is_stdin(source: &source::Settings) -> bool {
    source.input == Input::Stdin
}

fn cloudflare(config: &Config) -> Value {
    let Some(settings) = &config.cloudflare else { return Value::Null };
    let Settings { account, list, token, api, max_items, share, comment } = settings;
    let token = match token {
        UrlFrom::File(path) => format!("token_file {}", path.display()),
        UrlFrom::Env(name) | UrlFrom::Credential(name) => format!("token_credential {name}"),
    };
    json!(format!(
        "{list} of account {account} at {api} with {token}, {max_items} items, share {share}, as {comment}"
    ))
}

fn fleet(config: &Config) -> Value {
    let Some(fleet) = &config.fleet else { return Value::Null };
    let credentials = match &fleet.credentials {
        None => "no credentials".to_owned(),
        Some(UrlFrom::File(path)) => format!("credentials_file {}", path.display()),
        Some(UrlFrom::Env(name) | UrlFrom::Credential(name)) => format!("credentials_credential {name}"),
    };
    let ca = fleet.ca_file.as_ref().map(|path| format!(", ca_file {}", path.display())).unwrap_or_default();
    json!(format!("{} as {} with {credentials}{ca}", fleet.servers.join(","), fleet.name))
}

fn crowdsec(config: &Config) -> Value {
    let Some(crowdsec) = &config.crowdsec else { return Value::Null };
    let place = |from: &UrlFrom, what: &str| match from {
        UrlFrom::File(path) => format!("{what}_file {}", path.display()),
        UrlFrom::Env(name) | UrlFrom::Credential(name) => format!("{what}_credential {name}"),
    };
    let machine = crowdsec.machine.as_ref().map(|from| format!(" and {}", place(from, "machine")));
    let (key, machine) = (place(&crowdsec.key, "key"), machine.unwrap_or_default());
    json!(format!("{} with {key}{machine}, each {} s", crowdsec.url, crowdsec.poll.as_secs()))
}

fn span(secs: u64) -> Value {
    json!(text::duration(secs))
}

pub(super) fn term(term: Term) -> Value {
    match term {
        Term::Secs(secs) => span(secs),
        Term::Permanent => json!("permanent"),
    }
}

fn allowed(config: &Config, reason: AllowReason) -> Value {
    config.allow.iter().filter(|entry| entry.reason == reason).map(|entry| json!(entry.network)).collect()
}

fn infrastructure(config: &Config, reason: AllowReason) -> Value {
    let own = config.infrastructure.iter().filter(|entry| entry.reason == reason);
    own.map(|entry| json!(entry.network)).collect()
}

pub(super) fn used(used: Use) -> &'static str {
    match used {
        Use::On => "on",
        Use::Off => "off",
        Use::Required => "required",
    }
}

pub(super) fn extend(by: ExtendBy) -> &'static str {
    match by {
        ExtendBy::Off => "off",
        ExtendBy::SameTerm => "term",
        ExtendBy::NextTerm => "next",
    }
}

pub(super) fn networks(action: NetworkAction) -> &'static str {
    match action {
        NetworkAction::Off => "off",
        NetworkAction::Propose => "propose",
        NetworkAction::Ban => "ban",
    }
}

/// A choice by its name in the code, which is that of the file but for capitals.
fn word(choice: &impl std::fmt::Debug) -> Value {
    json!(format!("{choice:?}").to_lowercase())
}

/// Where a secret is read from. Only its place is shown.
fn url(from: Option<&UrlFrom>) -> Value {
    match from {
        None => Value::Null,
        Some(UrlFrom::File(path)) => json!(format!("url_file {}", path.display())),
        Some(UrlFrom::Env(name)) => json!(format!("url_env {name}")),
        Some(UrlFrom::Credential(name)) => json!(format!("url_credential {name}")),
    }
}

#[cfg(test)]
mod tests {
    use serde::de::{self, Deserialize, Visitor};
    use serde::forward_to_deserialize_any;

    use super::super::raw::{
        RawAgent, RawAllow, RawAudit, RawBan, RawCloudflare, RawConfig, RawCrowdsec, RawFleet, RawHook,
        RawIptables, RawNginx, RawPage, RawPolicy, RawSlow, RawSource, RawXdp,
    };
    use super::*;

    /// Takes down the names of a struct's fields, and fails.
    struct Names<'n>(&'n mut Vec<&'static str>);

    impl<'de> de::Deserializer<'de> for Names<'_> {
        type Error = de::value::Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Self::Error> {
            Err(de::Error::custom("no struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Self::Error> {
            self.0.extend(fields);
            Err(de::Error::custom("taken down"))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    fn names<T: for<'de> Deserialize<'de>>() -> Vec<&'static str> {
        let mut names = Vec::new();
        let _ = T::deserialize(Names(&mut names));
        assert!(!names.is_empty());
        names
    }

    /// The sections of the file with their keys.
    fn sections() -> Vec<(&'static str, Vec<&'static str>)> {
        // Three keys that give one URL are one setting.
        let hook = || {
            assert_eq!(names::<RawHook>(), ["url_file", "url_env", "url_credential", "events"]);
            vec!["url", "events"]
        };
        let cloudflare = names::<RawCloudflare>();
        let all = ["account", "list", "token_file", "token_credential", "max_items", "share", "name", "api"];
        assert_eq!(cloudflare, all, "all are in the one key");
        let cloudflare = vec!["list"];
        let crowdsec = names::<RawCrowdsec>();
        let all = ["url", "key_file", "key_credential", "poll", "machine_file", "machine_credential"];
        assert_eq!(crowdsec, all, "all are in the one key");
        let crowdsec = vec!["url"];
        let connection = ["url", "credentials_file", "credentials_credential", "ca_file", "name"];
        let fleet = names::<RawFleet>();
        assert_eq!(fleet[..connection.len()], connection, "all are in the one key");
        let fleet = [&["url"], &fleet[connection.len()..]].concat();
        vec![
            ("agent", names::<RawAgent>()),
            ("source", vec!["stdin"]),
            ("detect", vec!["profile", "max_clients"]),
            ("site", vec![]),
            ("blocklist", vec![]),
            ("ban", names::<RawBan>()),
            ("allow", names::<RawAllow>()),
            ("iptables", names::<RawIptables>()),
            ("xdp", names::<RawXdp>()),
            ("nginx", names::<RawNginx>()),
            ("slow", names::<RawSlow>()),
            ("cloudflare", cloudflare),
            ("fleet", fleet),
            ("crowdsec", crowdsec),
            ("policy", names::<RawPolicy>()),
            ("page", names::<RawPage>()),
            ("slack", hook()),
            ("webhook", hook()),
            ("audit", names::<RawAudit>()),
        ]
    }

    #[test]
    fn every_key_is_in_exactly_one_class() {
        let all = sections();
        let of_file: BTreeSet<&str> = names::<RawConfig>().into_iter().collect();
        assert_eq!(of_file, all.iter().map(|(section, _)| *section).collect(), "a section without a class");
        let mut expected: Vec<_> =
            all.iter().flat_map(|(section, keys)| keys.iter().map(|key| (*section, *key))).collect();
        let mut listed: Vec<_> = KEYS.iter().map(|key| (key.section, key.name)).collect();
        expected.sort_unstable();
        listed.sort_unstable();
        assert_eq!(listed, expected, "give every key of the file a class in KEYS");
        assert!(names::<RawSource>().contains(&"stdin"));
    }

    /// A text that changes one key, for each of them.
    pub(crate) const SAMPLES: [(&str, &str); 82] = [
        ("[agent] state_dir", "[agent]\nstate_dir = '/a'"),
        ("[agent] socket", "[agent]\nsocket = '/a'"),
        ("[agent] log", "[agent]\nlog = 'debug'"),
        ("[agent] web_ports", "[agent]\nweb_ports = [81]"),
        ("[agent] max_clock_skew", "[agent]\nmax_clock_skew = '1m'"),
        ("[ban] terms", "[ban]\nterms = ['1m']"),
        ("[ban] forget_after", "[ban]\nforget_after = '1d'"),
        ("[ban] ipv6_prefix", "[ban]\nipv6_prefix = 56"),
        ("[ban] max_bans", "[ban]\nmax_bans = 5"),
        ("[ban] max_share", "[ban]\nmax_share = 0.5"),
        ("[ban] always_allowed", "[ban]\nalways_allowed = 5"),
        ("[ban] max_bans_per_minute", "[ban]\nmax_bans_per_minute = 5"),
        ("[ban] extend", "[ban]\nextend = 'next'"),
        ("[ban] extend_from_packets_per_sec", "[ban]\nextend_from_packets_per_sec = 5.0"),
        ("[ban] leak_grace", "[ban]\nleak_grace = '1m'"),
        ("[ban] networks", "[ban]\nnetworks = 'ban'"),
        ("[ban] network_clients", "[ban]\nnetwork_clients = 5"),
        ("[ban] network_within", "[ban]\nnetwork_within = '1m'"),
        ("[slow] enabled", "[slow]\nenabled = false"),
        ("[slow] first_offence", "[slow]\nfirst_offence = true"),
        ("[slow] term", "[slow]\nterm = '1m'"),
        ("[slow] connections_per_sec", "[slow]\nconnections_per_sec = 5"),
        ("[slow] packets_per_sec", "[slow]\npackets_per_sec = 5"),
        ("[allow] networks", "[allow]\nnetworks = ['192.0.2.0/24']"),
        ("[allow] trusted_proxies", "[allow]\ntrusted_proxies = ['192.0.2.0/24']"),
        ("[allow] ssh_sessions", "[allow]\nssh_sessions = false"),
        ("[allow] ssh_keep", "[allow]\nssh_keep = '1d'"),
        ("[allow] search_engines", "[allow]\nsearch_engines = false"),
        ("[allow] cdn_ranges", "[allow]\ncdn_ranges = false"),
        ("[allow] cdn_ranges_file", "[allow]\ncdn_ranges_file = '{file}'"),
        ("[allow] private_networks", "[allow]\nprivate_networks = false"),
        ("[iptables] mode", "[iptables]\nmode = 'off'"),
        ("[iptables] backend", "[iptables]\nbackend = 'ipset'"),
        ("[iptables] max_rules", "[iptables]\nmax_rules = 5"),
        ("[iptables] hooks", "[iptables]\nhooks = ['DOCKER-USER']"),
        ("[iptables] max_bans_ipv4", "[iptables]\nmax_bans_ipv4 = 5"),
        ("[iptables] max_bans_ipv6", "[iptables]\nmax_bans_ipv6 = 5"),
        ("[iptables] program_ipv4", "[iptables]\nprogram_ipv4 = 'x'"),
        ("[iptables] program_ipv6", "[iptables]\nprogram_ipv6 = 'x'"),
        ("[xdp] mode", "[xdp]\nmode = 'off'"),
        ("[xdp] interfaces", "[xdp]\ninterfaces = ['all']"),
        ("[xdp] attach", "[xdp]\nattach = 'generic'"),
        ("[xdp] max_bans_ipv4", "[xdp]\nmax_bans_ipv4 = 5"),
        ("[xdp] max_bans_ipv6", "[xdp]\nmax_bans_ipv6 = 5"),
        ("[xdp] max_networks", "[xdp]\nmax_networks = 5"),
        ("[xdp] pin_dir", "[xdp]\npin_dir = '/a'"),
        ("[xdp] log_drops_every", "[xdp]\nlog_drops_every = 5"),
        ("[nginx] mode", "[nginx]\nmode = 'on'"),
        ("[nginx] folder", "[nginx]\nfolder = '/a'"),
        ("[nginx] max_clients", "[nginx]\nmax_clients = 5"),
        ("[nginx] status", "[nginx]\nstatus = 403"),
        ("[nginx] backend", "[nginx]\nbackend = 'map'"),
        ("[nginx] copy_command", "[nginx]\ncopy_command = ['x']"),
        ("[nginx] test_command", "[nginx]\ntest_command = ['x']"),
        ("[nginx] reload_command", "[nginx]\nreload_command = ['x']"),
        ("[nginx] workers_command", "[nginx]\nworkers_command = ['x']"),
        ("[nginx] reload_every", "[nginx]\nreload_every = '1m'"),
        ("[page] enabled", "[page]\nenabled = false"),
        ("[page] listen", "[page]\nlisten = '127.0.0.1:1'"),
        ("[page] next_free_port", "[page]\nnext_free_port = true"),
        ("[page] hosts", "[page]\nhosts = ['a']"),
        ("[page] url", "[page]\nurl = 'https://a/'"),
        ("[page] asn_db", "[page]\nasn_db = '/a'"),
        ("[page] country_db", "[page]\ncountry_db = '/a'"),
        (
            "[cloudflare] list",
            "[cloudflare]\naccount = '00000000000000000000000000000000'\nlist = '00000000000000000000000000000000'\ntoken_file = '/a'",
        ),
        ("[fleet] url", "[fleet]\nurl = 'nats://a:4222'"),
        ("[fleet] max_remote_term", "[fleet]\nmax_remote_term = '1h'"),
        ("[fleet] max_new_per_min", "[fleet]\nmax_new_per_min = 5"),
        ("[fleet] max_live", "[fleet]\nmax_live = 5"),
        ("[fleet] confirm", "[fleet]\nconfirm = 5"),
        ("[fleet] accept_networks", "[fleet]\naccept_networks = true"),
        ("[crowdsec] url", "[crowdsec]\nurl = 'http://localhost:8080'\nkey_file = '/a'"),
        ("[policy] dir", "[policy]\ndir = '/a'"),
        ("[policy] on_error", "[policy]\non_error = 'observe'"),
        ("[slack] url", "[slack]\nurl_file = '/a'"),
        ("[slack] events", "[slack]\nevents = ['banned']"),
        ("[webhook] events", "[webhook]\nevents = ['lifted']"),
        ("[webhook] url", "[webhook]\nurl_env = 'A'"),
        ("[audit] path", "[audit]\npath = '/a'"),
        ("[detect] profile", "[detect]\nprofile = 'classic'"),
        ("[detect] max_clients", "[detect]\nmax_clients = 5"),
        ("[source] stdin", "[[source]]\nstdin = true"),
    ];

    #[test]
    fn each_key_is_found_alone_and_only_what_can_change_does() {
        let old = Config::parse("").unwrap();
        let listed: BTreeSet<String> =
            KEYS.iter().map(|key| format!("[{}] {}", key.section, key.name)).collect();
        assert_eq!(listed, SAMPLES.iter().map(|(key, _)| (*key).to_owned()).collect());
        let ranges = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(ranges.path(), "192.0.2.0/24\n").unwrap();
        for (name, text) in SAMPLES {
            let text = &text.replace("{file}", ranges.path().to_str().unwrap());
            let new = Config::parse(text).unwrap_or_else(|error| panic!("{text}: {error:#}"));
            let changes = diff(&old, &new);
            if name == "[detect] profile" {
                assert!(changes.iter().any(|change| change.key == name), "{changes:?}");
                continue;
            }
            assert_eq!(changes.len(), 1, "{text}: {changes:?}");
            assert_eq!(changes[0].key, name);
            let in_force = in_force(&old, new);
            let left = diff(&old, &in_force);
            assert_eq!(left.is_empty(), changes[0].class == Class::Restart, "{text}: {left:?}");
        }
        assert!(diff(&old, &old.clone()).is_empty());
    }

    #[test]
    fn a_threshold_is_named_as_in_the_file() {
        let old = Config::parse("").unwrap();
        let new = Config::parse("[detect.z_score]\nthreshold = 7").unwrap();
        let changes = diff(&old, &new);
        assert_eq!(changes.len(), 1);
        assert_eq!((changes[0].key.as_str(), changes[0].class), ("[detect.z_score] threshold", Class::Now));
        assert_eq!((&changes[0].from, &changes[0].to), (&json!(6.0), &json!(7.0)));
        let list = "[[blocklist]]\nname = 'a'\nurl = 'https://a.example.org/list?key=secret'";
        let new = Config::parse(list).unwrap();
        let changes = diff(&old, &new);
        assert_eq!(
            (changes.len(), changes[0].key.as_str(), changes[0].class),
            (1, "[[blocklist]] a", Class::Now)
        );
        assert!(!changes[0].to.to_string().contains("secret"), "{changes:?}");
        let new = Config::parse("[[site]]\nhost = 'a.example.org'").unwrap();
        let changes = diff(&old, &new);
        assert_eq!((changes.len(), changes[0].key.as_str(), changes[0].class), (1, "[[site]]", Class::Now));
    }

    #[test]
    fn a_new_place_of_a_secret_is_shown_and_the_secret_is_not() {
        let old = Config::parse("").unwrap();
        let new = Config::parse("[slack]\nurl_env = 'HOOK'").unwrap();
        assert_eq!(diff(&old, &new)[0].to, json!("url_env HOOK"));
    }
}
