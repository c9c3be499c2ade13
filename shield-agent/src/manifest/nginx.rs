//! What nginx includes: the format of the log, whose address is believed, the log itself, and the refusal of the banned.
//!
//! The log is a part of its own, for the place of the `access_log` that it replaces: beside another one of the same file every
//! request would be counted twice.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::quote;
use crate::config::{Config, Use};
use crate::enforce::nginx::include;
use crate::source::{self, Input, Place};
use shield_logline::{FieldNames, Format};

/// For the `http` section, once.
pub(super) fn http(config: &Config) -> Result<String> {
    let mut text = format!(
        "#\n# For the http section, once: the format of the log, and who is denied.\n{}\n",
        log_format(config)
    );
    if config.use_nginx != Use::Off {
        text += &include::http(&config.nginx);
    }
    Ok(text)
}

/// With the fields that the settings have a use for. nginx knows the peer's variable by its realip module alone.
fn log_format(config: &Config) -> String {
    let peer = if proxies(config).is_empty() { "" } else { r#""peer":"$realip_remote_addr","# };
    let site = if config.policy.sites.is_empty() { "" } else { r#""server_name":"$server_name","# };
    format!(
        "log_format shield escape=json\n    '{{\"source_ip\":\"$remote_addr\",{peer}\"timestamp\":\"$time_iso8601\",{site}\"method\":\"$request_method\",'\n    \
         '\"path\":\"$request_uri\",\"status\":$status,\"response_size\":$body_bytes_sent}}';"
    )
}

/// The proxies that the operator trusts.
fn proxies(config: &Config) -> Vec<ipnet::IpNet> {
    use shield_engine::allowlist::AllowReason::TrustedProxy;
    config.allow.iter().filter(|entry| entry.reason == TrustedProxy).map(|entry| entry.network).collect()
}

/// For the `http` section, where a proxy is in front.
pub(super) fn realip(config: &Config) -> Result<String> {
    let proxies = proxies(config);
    if proxies.is_empty() {
        return Ok("#\n# Nothing: [allow] trusted_proxies names no proxy.\n".to_owned());
    }
    let mut text = String::from(
        "#\n# For the http section: the visitors' addresses, from the header that [allow] trusted_proxies set. Anybody else's is not\n\
         # believed.\n",
    );
    for network in proxies {
        let _ = writeln!(text, "set_real_ip_from {network};");
    }
    Ok(text + "real_ip_header X-Forwarded-For;\nreal_ip_recursive on;\n")
}

/// For the place of the `access_log` that was there.
pub(super) fn log(config: &Config) -> Result<String> {
    let mut text = String::from(
        "#\n# In place of the access_log lines that are there: two of one file would count every request twice.\n",
    );
    for source in &config.sources {
        text += &access_log(source)?;
    }
    Ok(text)
}

fn access_log(source: &source::Settings) -> Result<String> {
    let name = shown(&source.name);
    let target = match &source.input {
        Input::Stdin => return Ok("# stdin: whatever feeds it decides.\n".to_owned()),
        Input::Syslog(listener) => {
            let key = "[[source]] syslog";
            let path = quote::path(&listener.path, key)?;
            anyhow::ensure!(
                !path.contains(','),
                "{key} = {path:?} holds ',', which ends a path in nginx's syslog: choose another path"
            );
            quote::nginx(&format!("syslog:server=unix:{path},nohostname"), key)?
        }
        Input::Files(text) => match Place::of(text) {
            Place::Pattern(_) => {
                return Ok(format!("# {name}: several logs; write the access_log of each yourself.\n"));
            }
            Place::Path(_) if text.ends_with('/') => {
                return Ok(format!("# {name}: a folder; write the access_log of each log in it yourself.\n"));
            }
            Place::Path(_) => {
                quote::nginx(quote::path(Path::new(text), "[[source]] path")?, "[[source]] path")?
            }
        },
    };
    let has_own_names = source.format.fields != FieldNames::default();
    Ok(match source.format.format {
        Format::Combined => format!("access_log {target} combined;\n"),
        Format::Auto | Format::Json if !has_own_names => format!("access_log {target} shield;\n"),
        _ => format!("# {name}: its format is your own, and so is its access_log.\n"),
    })
}

/// In a comment, where nothing but the end of the line counts.
fn shown(name: &str) -> String {
    crate::text::printable(name).to_string()
}

/// For every `server` section.
pub(super) fn server(config: &Config) -> Result<String> {
    Ok(match config.use_nginx {
        Use::Off => "#\n# Nothing: [nginx] mode is off, so that nginx refuses nobody.\n".to_owned(),
        Use::On | Use::Required => format!("#\n{}", include::server(&config.nginx, &[])),
    })
}
