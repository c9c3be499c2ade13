//! The configuration, parsed and validated once; nothing checks it again after the start. Every key has a default that
//! works without a file.
//!
//! `raw` is the file as it is written, `detect` its `[detect]` section, `validate` makes a [`Config`] of both, and `place`
//! finds the line of an error.

mod detect;
mod effective;
pub(crate) mod file;
mod infrastructure;
pub(crate) mod keys;
pub(crate) mod mistakes;
mod place;
pub(crate) mod raw;
#[cfg(feature = "test-support")]
pub(crate) mod schema;
mod shown;
pub(crate) mod span;
mod suggest;
mod validate;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::address_owner;
use crate::blocklist;
use crate::crowdsec;
use crate::edge::cloudflare;
use crate::enforce::{iptables, nginx, xdp};
use crate::fleet;
use crate::policy;
use crate::source::{self, FirstStart, Input};
use crate::ssh;
use shield_engine::allowlist::Allowed;
use shield_engine::policy::Policy;
use shield_engine::settings::Settings as EngineSettings;

/// Read when no file is named; it may be missing.
pub(crate) const DEFAULT_PATH: &str = "/etc/shield/shield.toml";

/// nginx's log where its packages put it.
const DEFAULT_LOG: &str = "/var/log/nginx/access.log";

const DEFAULT_PAGE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// The use of an enforcer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// When it cannot work, the agent runs without it and reports it.
    On,
    Off,
    /// When it cannot work at the start, the agent does not start.
    Required,
}

/// The whole configuration, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from; `None` for the defaults.
    pub file: Option<PathBuf>,
    /// Holds the database and the API token.
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    /// A filter for `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// Ports whose connections tell of a proxy in front.
    pub web_ports: Vec<u16>,
    pub sources: Vec<source::Settings>,
    /// The name of the profile that `policy` started from.
    pub profile: String,
    pub policy: Policy,
    pub engine: EngineSettings,
    pub allow: Vec<Allowed>,
    /// Whether addresses of SSH sessions are allowed by themselves.
    pub ssh_sessions: bool,
    /// For how long they stay allowed after the last session.
    pub ssh_keep_secs: u64,
    /// Networks that rules do not ban, though operators may: CDNs, private networks.
    pub infrastructure: Vec<Allowed>,
    pub use_iptables: Use,
    pub iptables: iptables::Settings,
    pub use_xdp: Use,
    pub xdp: xdp::Settings,
    pub use_nginx: Use,
    pub nginx: nginx::Settings,
    /// The list at Cloudflare, when there is one.
    pub cloudflare: Option<cloudflare::Settings>,
    /// The fleet that this host is part of, when there is one.
    pub fleet: Option<fleet::Settings>,
    /// Lists that are read by URL, in the order of their names.
    pub blocklists: Vec<blocklist::Settings>,
    /// CrowdSec's local API, when there is one.
    pub crowdsec: Option<crowdsec::Settings>,
    /// The operators' own rules.
    pub rules: policy::Settings,
    /// The page's address; `None` when the page is disabled.
    pub page: Option<SocketAddr>,
    /// Whether the page may take one of the next ports where its own is taken.
    pub page_next_free_port: bool,
    /// Host names that the page answers to besides loopback's.
    pub page_hosts: Vec<String>,
    /// The address that alerts link to.
    pub page_url: Option<String>,
    /// The databases that say whose network an address is in.
    pub address_dbs: address_owner::Settings,
    pub slack: Option<UrlFrom>,
    /// The kinds of events for Slack; `None` for the usual ones.
    pub slack_events: Option<Vec<String>>,
    pub webhook: Option<UrlFrom>,
    /// The kinds of events for the webhook; `None` for all.
    pub webhook_events: Option<Vec<String>>,
    pub audit: PathBuf,
}

/// The origin of a secret, a URL or a token. The secret itself is never in the configuration, so that showing it reveals nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UrlFrom {
    /// The first line of a file.
    File(PathBuf),
    /// An environment variable.
    Env(String),
    /// A systemd credential.
    Credential(String),
}

impl Config {
    pub(crate) fn ssh(&self) -> ssh::Settings {
        ssh::Settings {
            enabled: self.ssh_sessions,
            keep_secs: self.ssh_keep_secs,
            state_dir: self.state_dir.clone(),
        }
    }

    /// Reads the named file, or without one the default path if it exists.
    ///
    /// # Errors
    /// When the file cannot be read or is invalid; the message names, for every mistake, the line, the column, the key and what
    /// is accepted.
    pub fn load(named: Option<&Path>) -> Result<Config> {
        Ok(Config::load_with_text(named)?.0)
    }

    /// The same with the text that was read, which is empty without a file.
    ///
    /// # Errors
    /// As of [`Config::load`].
    pub(crate) fn load_with_text(named: Option<&Path>) -> Result<(Config, String)> {
        let path = named.unwrap_or(Path::new(DEFAULT_PATH));
        match file::read(path, file::Reading::First) {
            Ok(text) => {
                let config =
                    Config::parse(&text).with_context(|| format!("could not use {}", path.display()))?;
                Ok((Config { file: Some(path.to_owned()), ..config }, text))
            }
            Err(error) if named.is_none() && file::is_missing(&error) => {
                Ok((Config::parse("")?, String::new()))
            }
            Err(error) => Err(error),
        }
    }

    /// The whole configuration that a text stands for, with every default, as a text that stands for the same.
    ///
    /// # Errors
    /// As of [`Config::parse`].
    pub(crate) fn effective(text: &str) -> Result<String> {
        effective::of(text, &Config::parse(text)?)
    }

    /// Parses and validates a text.
    ///
    /// # Errors
    /// As of [`Config::load`].
    pub fn parse(text: &str) -> Result<Config> {
        Ok(mistakes::config(text)?)
    }

    /// Replaces the sources by one log, of the first source's format.
    pub fn with_log(mut self, path: PathBuf) -> Config {
        let format = self.sources.first().map(|s| s.format.clone()).unwrap_or_default();
        let name = path.display().to_string();
        let first_start = self.sources.first().map(|s| s.first_start).unwrap_or_default();
        let known = self.sources.first().map(|s| s.known.clone()).unwrap_or_default();
        self.sources =
            vec![source::Settings { input: Input::Files(name.clone()), name, format, first_start, known }];
        self
    }

    /// Makes the first start read every file from its beginning.
    pub fn reading_from_start(mut self) -> Config {
        self.sources.iter_mut().for_each(|source| source.first_start = FirstStart::Beginning);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::backoff::Term;

    #[test]
    fn every_default_works_without_a_file() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.sources[0].input, Input::Files("/var/log/nginx/access.log".to_owned()));
        assert_eq!((config.use_iptables, config.use_xdp), (Use::On, Use::On));
        assert_eq!(config.page.unwrap().to_string(), "127.0.0.1:8080");
    }

    #[test]
    fn a_whole_file() {
        let text = r#"
            [[source]]
            path = "/var/log/nginx/*.log"
            format = "combined"
            [[source]]
            syslog = "/run/shield/nginx.sock"
            fields = { source_ip = "remote_addr", forwarded_for = "xff" }
            [ban]
            terms = ["1m", 120, "permanent"]
            extend = "next"
            [allow]
            networks = ["192.0.2.0/24"]
            trusted_proxies = ["198.51.100.1/32"]
            [xdp]
            mode = "required"
        "#;
        let config = Config::parse(text).unwrap();
        assert_eq!(config.sources[1].input, Input::Syslog("/run/shield/nginx.sock".into()));
        assert_eq!(config.sources[1].format.fields.source_ip.as_deref(), Some("remote_addr"));
        assert_eq!(config.sources[1].format.trusted_proxies.len(), 1);
        assert_eq!(config.engine.backoff.terms()[1], Term::Secs(120));
        assert_eq!(config.allow.len(), 2);
        assert_eq!(config.use_xdp, Use::Required);
    }

    #[test]
    fn a_log_format_is_pasted_as_it_stands() {
        let format = |text: &str| {
            Config::parse(&format!("[[source]]\npath = '/a'\n{text}")).unwrap().sources[0].format.clone()
        };
        let statement = "format = '''\nlog_format main escape=json\n  '$remote_addr [$time_local] '\n  '\"$request\" $status';\n'''";
        let shown = serde_json::to_value(&format(statement).format).unwrap();
        assert_eq!(shown, "$remote_addr [$time_local] \"$request\" $status");
        let json = "format = '{\"a\":\"$remote_addr\",\"t\":\"$time_iso8601\",\"r\":\"$request\",\"s\":$status}'\nfields = { path = \"own\" }";
        let json = format(json);
        assert_eq!((json.fields.source_ip.as_deref(), json.fields.path.as_deref()), (Some("a"), Some("own")));
        assert_eq!(serde_json::to_value(&json.format).unwrap(), "json");
    }

    #[test]
    fn what_is_wrong_is_named_with_the_remedy() {
        let check = |text: &str, parts: &[&str]| {
            let message = format!("{:#}", Config::parse(text).unwrap_err());
            assert!(parts.iter().all(|part| message.contains(part)), "{message}");
        };
        check("[ban]\nmax_shere = 0.5", &["line 2", "max_shere", "did you mean `max_share`"]);
        check("[bann]\n", &["unknown key `bann`", "did you mean `ban`"]);
        check("[ban]\nmax_share = 20", &["max_share = 20", "0.0 to 1.0"]);
        check("[ban]\nterms = ['2h', '10m']", &["[ban] terms", "at least as long"]);
        check("[ban]\nterms = ['soon']", &["\"soon\" is not a span of time"]);
        check("[xdp]\nmode = 'maybe'", &["[xdp] mode = \"maybe\"", "on, off, required"]);
        check("[allow]\nnetworks = ['0.0.0.0/0']", &["switch Shield off"]);
        check("[[source]]\npath = '/a'\n[[source]]\npath = '/a'", &["/a", "counted twice"]);
        check("[xdp]\nmax_networks = 0", &["[xdp] max_networks must be at least 1"]);
        check("[xdp]\ninterfaces = []", &["[xdp] interfaces is empty"]);
        check("[iptables]\nhooks = ['a b']", &["[iptables] hooks", "no name of a chain"]);
        check("[[source]]\nformat = 'json'", &["needs one of path, syslog, stdin"]);
        check(
            "[[source]]\npath = '/a'\nformat = 'main'",
            &["line 3", "auto, json, combined, common", "log_format"],
        );
        let format = "[[source]]\npath = '/a'\nformat = '[$time_local] $status'";
        check(format, &["line 3, column 10", "format cannot be used", "add $remote_addr"]);
        check("[detect]\nmax_cleints = 3", &["did you mean `max_clients`"]);
        check("[slack]\nurl_file = 'a'\nurl_env = 'B'", &["[slack] has several URLs"]);
        check("[page\n", &["line 1"]);
        check(
            "\n[allow]\nnetworks = ['192.0.2.0/24', '192.0.2.0/33']",
            &["line 3, column 29", "\"192.0.2.0/33\" is not a network", "192.0.2.0/24"],
        );
        check(
            "[allow]\nnetworks = ['192.0.2.5', 'office.example']",
            &["line 2, column 26", "\"office.example\" is a name", "getent hosts office.example"],
        );
        check("[allow]\ntrusted_proxies = ['::/0']", &["line 2, column 20", "switch Shield off"]);
        check("[ban]\nmax_share = 20", &["line 2, column 13", "2 | max_share = 20"]);
        check("[ban]\nterms = ['2h', '10m']", &["line 2, column 9"]);
        check("[ban]\nterms = ['10m', 'soon']", &["line 2, column 17", "\"1d 12h\""]);
        check("[ban]\nleak_grace = true", &["line 2, column 14", "or a number of seconds"]);
        check("[ban]\nforget_after = -1", &["line 2, column 16", "such as 90s"]);
        check("[xdp]\n\nmode = 'maybe'", &["line 3, column 8"]);
        check("[iptables]\nhooks = ['FORWARD', 'a b']", &["line 2, column 21"]);
        check("[xdp]\ninterfaces = ['eth0', 'a/b']", &["line 2, column 23", "\"a/b\""]);
        check("[[source]]\npath = '/a'\n[[source]]\npath = '/a'", &["line 4, column 8"]);
        check("[[source]]\n[[source]]\nformat = 'json'", &["line 1, column 1"]);
        check("[page]\nlisten = '8080'", &["line 2, column 10", "127.0.0.1:8080"]);
        check("[detect]\nmax_cleints = 3", &["line 2, column 15"]);
        check("[[site]]\nignore_paths = ['/a']", &["line 1", "[[site]] needs host"]);
        check("[[site]]\nhost = 'https://a'", &["line 2, column 8", "no name of a site", "*.example.org"]);
        check("[[site]]\nhost = 'a'\n[[site]]\nhost = 'a'", &["line 4, column 8", "is there twice"]);
        check("[[site]]\nhost = 'a'\nignore_paths = ['/a', '/*']", &["line 3, column 23", "would blind"]);
        check("[[site]]\nhost = 'a'\nmonitor = []", &["line 3", "did you mean `monitors`"]);
        let list = "[[blocklist]]\nname = 'a'\nurl = ";
        check(&format!("{list}'http://example.org/a'"), &["line 3, column 7", "without TLS", "allow_http"]);
        check(&format!("{list}'https://u:p@example.org/a'"), &["line 3", "credentials_file"]);
        check(&format!("{list}'ftp://a/b'"), &["line 3, column 7", "https://"]);
        check(&format!("{list}'https://a/b'\nrefresh = '10s'"), &["line 4, column 11", "at least 5m"]);
        check(
            &format!("{list}'https://a/b'\nformat = 'csv'"),
            &["line 4, column 10", "plain, columns, json_lines"],
        );
        check(&format!("{list}'https://a/b'\n{list}'https://a/c'"), &["line 5, column 8", "is there twice"]);
        check("[[blocklist]]\nname = 'a b'\nurl = 'https://a/b'", &["line 2, column 8", "letters"]);
        check("[[blocklist]]\nname = 'a'", &["line 1", "needs url"]);
        check("[[blocklist]]\nurl = 'https://a/b'", &["line 1", "needs name"]);
        check("[crowdsec]\nkey_file = '/a'", &["line 1", "[crowdsec] needs url"]);
        check("[crowdsec]\nurl = 'http://127.0.0.1:8080'", &["line 1", "key_file"]);
        check("[crowdsec]\nmachine_file = '/a'", &["line 1", "[crowdsec] needs url"]);
        check(
            "[crowdsec]\nurl = 'https://a'\nkey_file = '/a'\nmachine_file = '/a'\nmachine_credential = 'a'",
            &["line 1", "two logins"],
        );
        check(
            "[crowdsec]\nkey_file = '/a'\nurl = 'http://192.0.2.1:8080'",
            &["line 3, column 7", "without TLS"],
        );
        check("[crowdsec]\nkey_file = '/a'\nurl = '127.0.0.1:8080'", &["line 3", "http://127.0.0.1:8080/"]);
        check("[crowdsec]\nkey_file = '/a'\nurl = 'https://a'\npoll = '2h'", &["line 4", "at most 10m"]);
        check("[policy]\non_error = 'ban'", &["line 2, column 12", "keep", "observe or slow"]);
        check("[policy]\ndir = 'policy'", &["line 2, column 7", "absolute path"]);
        check("[detect]\nsites = []", &["has no key `sites`"]);
        check("[detect]\nobserve = ['flood', 'flod']", &["line 2, column 21", "did you mean \"flood\""]);
        check(
            "[detect.z_score]\nmin_requests = 1\nthreshold = 'x'",
            &["line 3, column 13", "[detect.z_score] threshold"],
        );
        check("[detect]\nprofile = 'clasic'", &["line 2, column 11", "default, classic"]);
        check(
            "[webhook]\nurl_file = 'a'\nurl_env = 'B'",
            &["line 1, column 2", "[webhook] has several URLs"],
        );
    }
}
