//! What Prometheus reads: where the agent's metrics are, and the alerts that are shipped.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use super::quote;
use crate::config::Config;

/// The alerts. They need the job name `shield`.
pub(super) const RULES: &str = include_str!("../../../packaging/prometheus/shield.rules.yml");

pub(super) fn scrape(config: &Config) -> Result<String> {
    let Some(listen) = config.page else {
        return Ok(
            "#\n# Nothing to read: [page] enabled is false, and the metrics are served beside the page.\n\
                   scrape_configs: []\n"
                .to_owned(),
        );
    };
    // Beyond loopback the agent wants its token.
    let token = match listen.ip().is_loopback() {
        true => String::new(),
        false => {
            let token = config.state_dir.join("api-token");
            let token = quote::yaml(quote::path(&token, "[agent] state_dir")?);
            format!("    authorization:\n      credentials_file: {token}\n")
        }
    };
    let target = quote::yaml(&reached_at(listen).to_string());
    Ok(format!(
        "#\nglobal:\n  scrape_interval: 15s\nrule_files:\n  - shield.rules.yml\nscrape_configs:\n  - job_name: shield\n{token}    \
         static_configs:\n      - targets: [{target}]\n"
    ))
}

/// From this host: an address that stands for all is reached at loopback.
fn reached_at(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
