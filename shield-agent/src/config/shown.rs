//! The configuration as the API and `check --json` show it.

use super::{Config, UrlFrom, Use};
use crate::enforce::nginx::Backend;
use shield_engine::backoff::{Backoff, Term};

impl Config {
    /// The settings in force as JSON for the API and `check`. Of secrets it shows only that they are set.
    pub fn shown(&self) -> serde_json::Value {
        let sources: Vec<serde_json::Value> = self
            .sources
            .iter()
            .map(|s| serde_json::json!({ "name": s.name, "format": s.format.format, "fields": s.format.fields }))
            .collect();
        let secret = |from: &Option<UrlFrom>| from.as_ref().map(|_| "(set)");
        let engine = &self.engine;
        serde_json::json!({
            "agent": { "state_dir": self.state_dir, "socket": self.socket, "log": self.log },
            "source": sources,
            "detect": { "profile": self.profile, "policy": self.policy },
            "ban": {
                "terms": shown_terms(&engine.backoff),
                "forget_after_secs": engine.backoff.forget_after_secs(),
                "ipv6_prefix": engine.ipv6_prefix,
                "max_bans": engine.max_bans,
                "max_share": engine.blast.max_share,
                "always_allowed": engine.blast.always_allowed,
                "max_bans_per_minute": engine.blast.max_bans_per_minute,
                "leak_grace_secs": engine.leak_grace_secs,
            },
            "slow": {
                "enabled": engine.slow.switch.is_on(),
                "first_offence": engine.backoff.is_slow_first(),
                "term_secs": engine.slow.term_secs,
                "connections_per_sec": engine.slow.connections_per_sec,
                "packets_per_sec": engine.slow.packets_per_sec,
            },
            "allow": self.allow,
            "infrastructure_networks": self.infrastructure.len(),
            "iptables": { "mode": shown_use(self.use_iptables), "max_rules": self.iptables.max_rules },
            "xdp": { "mode": shown_use(self.use_xdp), "pin_dir": self.xdp.pin_folder },
            "nginx": {
                "mode": shown_use(self.use_nginx),
                "backend": match self.nginx.backend {
                    Backend::Files => "files",
                    Backend::Map => "map",
                },
                "folder": self.nginx.folder,
                "status": self.nginx.status,
            },
            "cloudflare": self.cloudflare.as_ref().map(|cloudflare| serde_json::json!({
                "account": cloudflare.account,
                "list": cloudflare.list,
                "max_items": cloudflare.max_items,
                "share": cloudflare.share,
                "comment": cloudflare.comment,
            })),
            "fleet": self.fleet.as_ref().map(|fleet| serde_json::json!({
                "name": fleet.name,
                "url": fleet.servers,
                "max_new_per_min": engine.remote.max_new_per_min,
                "max_live": engine.remote.max_live,
                "confirm": engine.remote.confirm,
                "accept_networks": engine.remote.accept_networks.is_on(),
            })),
            "blocklist": self.blocklists.iter().map(|list| serde_json::json!({
                "name": list.name,
                "url": list.shown_url(),
                "refresh_secs": list.refresh.as_secs(),
                "format": list.format.name(),
                "credentials": list.credentials.as_ref().map(|_| "(set)"),
            })).collect::<Vec<_>>(),
            "crowdsec": self.crowdsec.as_ref().map(|crowdsec| serde_json::json!({
                "url": crowdsec.url.as_str(),
                "poll_secs": crowdsec.poll.as_secs(),
                "machine": crowdsec.machine.as_ref().map(|_| "(set)"),
            })),
            "policy": { "dir": self.rules.dir, "on_error": self.rules.on_error_name() },
            "page": { "listen": self.page, "next_free_port": self.page_next_free_port, "hosts": self.page_hosts,
                "url": self.page_url,
                "asn_db": self.address_dbs.asn, "country_db": self.address_dbs.country },
            "slack": secret(&self.slack),
            "webhook": secret(&self.webhook),
            "audit": self.audit,
        })
    }
}

fn shown_terms(backoff: &Backoff) -> Vec<String> {
    let term = |term| match term {
        Term::Secs(secs) => format!("{secs}s"),
        Term::Permanent => "permanent".to_owned(),
    };
    backoff.terms().iter().copied().map(term).collect()
}

fn shown_use(used: Use) -> &'static str {
    match used {
        Use::On => "on",
        Use::Off => "off",
        Use::Required => "required",
    }
}
