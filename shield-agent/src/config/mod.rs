//! The configuration, typed and checked once; after start nobody checks again.
//!
//! `raw` is the file as it is written, `detect` its `[detect]` section. Every default works without a file.

mod detect;
pub(crate) mod raw;
pub(crate) mod span;
mod suggest;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::enforce::iptables::{self, Backend, Containers};
use crate::enforce::xdp;
use crate::source::{self, FirstStart, Input};
use shield_engine::allowlist::{AllowReason, Allowed};
use shield_engine::backoff::{Backoff, Term};
use shield_engine::policy::{Policy, Switch};
use shield_engine::settings::{ExtendBy, NetworkAction, Settings as EngineSettings};
use shield_logline::{FieldNames, Format, Settings as FormatSettings};

use self::raw::{RawBan, RawConfig, RawFields, RawHook, RawSource};
use self::span::{Span, TermSpan};

/// Where the configuration is looked for when none is named.
pub(crate) const DEFAULT_PATH: &str = "/etc/shield/shield.toml";
/// The log that is read when no source is named.
const DEFAULT_LOG: &str = "/var/log/nginx/access.log";

/// Whether a part is used, and whether Shield runs without it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Used; when it cannot work, the others go on and the agent says so.
    On,
    /// Not used.
    Off,
    /// Used; when it cannot work at start, the agent does not start.
    Required,
}

/// Everything that can be configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file it was read from, if any.
    pub file: Option<PathBuf>,
    /// The database and the token lie here.
    pub state_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// A tracing filter.
    pub log: String,
    /// What is read.
    pub sources: Vec<source::Settings>,
    /// The detector's profile by name.
    pub profile: String,
    /// The detector's policy.
    pub policy: Policy,
    /// Everything else the engine is told.
    pub engine: EngineSettings,
    /// Who is never banned.
    pub allow: Vec<Allowed>,
    /// Whether iptables is used.
    pub use_iptables: Use,
    /// How.
    pub iptables: iptables::Settings,
    /// Whether XDP is used.
    pub use_xdp: Use,
    /// How.
    pub xdp: xdp::Settings,
    /// Where the page listens; `None` when there is none.
    pub page: Option<SocketAddr>,
    /// Host names that the page answers to besides loopback's.
    pub page_hosts: Vec<String>,
    /// Slack's incoming webhook.
    pub slack: Option<UrlFrom>,
    /// Any webhook.
    pub webhook: Option<UrlFrom>,
    /// The audit log.
    pub audit: PathBuf,
}

/// Where a secret URL comes from. The URL itself is never in the configuration.
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
    /// Reads a file. When `named` is `None`, the default path is read if it is there, and otherwise the defaults hold.
    ///
    /// # Errors
    /// Says which file, which key, and what to do.
    pub fn load(named: Option<&Path>) -> Result<Config> {
        let path = named.unwrap_or(Path::new(DEFAULT_PATH));
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let config = Config::parse(&text).with_context(|| format!("in {}", path.display()))?;
                Ok(Config { file: Some(path.to_owned()), ..config })
            }
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                Config::parse("")
            }
            Err(error) => {
                Err(error).with_context(|| format!("cannot read the configuration {}", path.display()))
            }
        }
    }

    /// Reads a text.
    ///
    /// # Errors
    /// Says which key is wrong, why, and what to do.
    pub fn parse(text: &str) -> Result<Config> {
        let raw: RawConfig = toml::from_str(text).map_err(|error| explain(text, &error))?;
        Config::check(raw)
    }

    /// Reads this log instead of those configured.
    pub fn with_log(mut self, path: PathBuf) -> Config {
        let format = self.sources.first().map(|s| s.format.clone()).unwrap_or_default();
        let name = path.display().to_string();
        let first_start = self.sources.first().map(|s| s.first_start).unwrap_or_default();
        self.sources =
            vec![source::Settings { input: Input::Files(name.clone()), name, format, first_start }];
        self
    }

    /// Begins every file at its beginning at the first start.
    pub fn from_start(mut self) -> Config {
        self.sources.iter_mut().for_each(|source| source.first_start = FirstStart::Beginning);
        self
    }

    /// What is in force, for people: every setting, and of secrets only where they come from.
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
            "allow": self.allow,
            "iptables": { "mode": shown_use(self.use_iptables), "max_rules": self.iptables.max_rules },
            "xdp": { "mode": shown_use(self.use_xdp), "pin_dir": self.xdp.pin_folder },
            "page": { "listen": self.page, "hosts": self.page_hosts },
            "slack": secret(&self.slack),
            "webhook": secret(&self.webhook),
            "audit": self.audit,
        })
    }

    fn check(raw: RawConfig) -> Result<Config> {
        let (profile, policy) = detect::policy(raw.detect)?;
        let mut engine = engine_settings(&raw.ban)?;
        if let Some(Span(secs)) = raw.agent.max_clock_skew {
            engine.max_clock_skew_secs = secs as i64;
        }
        if raw.allow.search_engines == Some(true) {
            engine.verify_search_engines = Switch::On;
        }
        let ipv6_prefix = engine.ipv6_prefix;
        let proxies = raw.allow.trusted_proxies.unwrap_or_default();
        let networks = raw.allow.networks.unwrap_or_default();
        ensure!(
            networks.iter().chain(&proxies).all(|net| net.prefix_len() > 0),
            "[allow] 0.0.0.0/0 or ::/0 would allow everybody and switch Shield off: name smaller networks"
        );
        let entry = |network, reason| Allowed { network, reason };
        let allow = networks.into_iter().map(|net| entry(net, AllowReason::Configured));
        let allow = allow.chain(proxies.iter().map(|net| entry(*net, AllowReason::TrustedProxy))).collect();
        Ok(Config {
            file: None,
            state_dir: raw.agent.state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/shield")),
            socket: raw.agent.socket.unwrap_or_else(|| PathBuf::from("/run/shield/control.sock")),
            log: raw.agent.log.unwrap_or_else(|| "info".to_owned()),
            sources: sources(raw.source, &proxies)?,
            profile,
            policy,
            engine,
            allow,
            use_iptables: use_of(raw.iptables.mode.as_deref(), "iptables")?,
            iptables: iptables_settings(raw.iptables)?,
            use_xdp: use_of(raw.xdp.mode.as_deref(), "xdp")?,
            xdp: xdp_settings(raw.xdp, ipv6_prefix)?,
            page: page(&raw.page),
            page_hosts: raw.page.hosts.unwrap_or_default(),
            slack: url_from(raw.slack, "slack")?,
            webhook: url_from(raw.webhook, "webhook")?,
            audit: raw.audit.path.unwrap_or_else(|| PathBuf::from("/var/log/shield/audit.jsonl")),
        })
    }
}

/// A TOML error with its line, and the nearest key when one is unknown.
fn explain(text: &str, error: &toml::de::Error) -> anyhow::Error {
    let message = suggest::with_suggestion(error.message());
    let Some(span) = error.span() else { return anyhow::anyhow!(message) };
    let before = &text[..span.start.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let shown = text.lines().nth(line - 1).unwrap_or_default().trim();
    anyhow::anyhow!("line {line}: {message}\n  {line} | {shown}")
}

fn engine_settings(raw: &RawBan) -> Result<EngineSettings> {
    let mut settings = EngineSettings::default();
    let set = |slot: &mut usize, value: Option<usize>| *slot = value.unwrap_or(*slot);
    settings.backoff = backoff(raw)?;
    settings.ipv6_prefix = raw.ipv6_prefix.unwrap_or(settings.ipv6_prefix);
    ensure!(
        (16..=128).contains(&settings.ipv6_prefix),
        "[ban] ipv6_prefix = {} must lie between 16 and 128",
        settings.ipv6_prefix
    );
    set(&mut settings.max_bans, raw.max_bans);
    set(&mut settings.blast.always_allowed, raw.always_allowed);
    set(&mut settings.blast.max_bans_per_minute, raw.max_bans_per_minute);
    set(&mut settings.networks.clients, raw.network_clients);
    settings.blast.max_share = share(raw.max_share.unwrap_or(settings.blast.max_share))?;
    settings.networks.within_secs = raw.network_within.map_or(settings.networks.within_secs, |s| s.0);
    settings.leak_grace_secs = raw.leak_grace.map_or(settings.leak_grace_secs, |s| s.0 as i64);
    let from = raw.extend_from_packets_per_sec.unwrap_or(settings.extension.min_packets_per_sec);
    ensure!(from > 0.0, "[ban] extend_from_packets_per_sec = {from} must be more than 0");
    settings.extension.min_packets_per_sec = from;
    let extend = [("term", ExtendBy::SameTerm), ("off", ExtendBy::Off), ("next", ExtendBy::NextTerm)];
    settings.extension.by = one_of(raw.extend.as_deref(), "ban", "extend", &extend)?;
    let networks =
        [("propose", NetworkAction::Propose), ("off", NetworkAction::Off), ("ban", NetworkAction::Ban)];
    settings.networks.action = one_of(raw.networks.as_deref(), "ban", "networks", &networks)?;
    ensure!(settings.networks.clients >= 2, "[ban] network_clients must be at least 2");
    Ok(settings)
}

fn backoff(raw: &RawBan) -> Result<Backoff> {
    let default = Backoff::default();
    let terms: Vec<Term> = match &raw.terms {
        Some(terms) => terms.iter().map(|TermSpan(term)| *term).collect(),
        None => default.terms().to_vec(),
    };
    let forget = raw.forget_after.map_or(default.forget_after_secs(), |s| s.0);
    Backoff::new(terms, forget).map_err(|why| anyhow::anyhow!("[ban] terms: {why}"))
}

fn share(share: f64) -> Result<f64> {
    ensure!(
        (0.0..=1.0).contains(&share),
        "[ban] max_share = {share} is a share: write a number from 0.0 to 1.0"
    );
    Ok(share)
}

/// The value that a word stands for; the first choice when nothing is written.
fn one_of<T: Copy>(word: Option<&str>, section: &str, key: &str, choices: &[(&str, T)]) -> Result<T> {
    let Some(word) = word else { return Ok(choices[0].1) };
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == word) {
        return Ok(*value);
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    bail!("[{section}] {key} = {word:?} does not exist: write one of {}", names.join(", "))
}

fn use_of(word: Option<&str>, section: &str) -> Result<Use> {
    one_of(word, section, "mode", &[("on", Use::On), ("off", Use::Off), ("required", Use::Required)])
}

fn iptables_settings(raw: raw::RawIptables) -> Result<iptables::Settings> {
    let default = iptables::Settings::default();
    let backends = [("auto", Backend::Auto), ("rules", Backend::Rules), ("ipset", Backend::Ipset)];
    let containers = match raw.hooks {
        None => Containers::Auto,
        Some(chains) if chains.is_empty() => Containers::Never,
        Some(chains) if chains == ["auto"] => Containers::Auto,
        Some(chains) => Containers::Chains(chains),
    };
    if let Containers::Chains(chains) = &containers {
        let odd = chains.iter().find(|chain| !is_chain_name(chain));
        ensure!(
            odd.is_none(),
            "[iptables] hooks: {:?} is no name of a chain",
            odd.cloned().unwrap_or_default()
        );
    }
    Ok(iptables::Settings {
        backend: one_of(raw.backend.as_deref(), "iptables", "backend", &backends)?,
        max_rules: raw.max_rules.unwrap_or(default.max_rules),
        max_entries_v4: raw.max_bans_ipv4.unwrap_or(default.max_entries_v4),
        max_entries_v6: raw.max_bans_ipv6.unwrap_or(default.max_entries_v6),
        containers,
        program_v4: raw.program_ipv4.unwrap_or(default.program_v4),
        program_v6: raw.program_ipv6.unwrap_or(default.program_v6),
        ..iptables::Settings::default()
    })
}

/// What netfilter takes as the name of a chain (28 bytes at most, nothing that could be an option).
fn is_chain_name(name: &str) -> bool {
    let fits = (1..=28).contains(&name.len()) && !name.starts_with('-');
    fits && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn page(raw: &raw::RawPage) -> Option<SocketAddr> {
    let default = SocketAddr::from(([127, 0, 0, 1], 8080));
    (raw.enabled != Some(false)).then(|| raw.listen.unwrap_or(default))
}

fn url_from(raw: RawHook, section: &str) -> Result<Option<UrlFrom>> {
    let file = raw.url_file.map(UrlFrom::File);
    let env = raw.url_env.map(UrlFrom::Env);
    let credential = raw.url_credential.map(UrlFrom::Credential);
    let mut given = [file, env, credential].into_iter().flatten();
    let first = given.next();
    ensure!(
        given.next().is_none(),
        "[{section}] has several URLs: keep one of url_file, url_env, url_credential"
    );
    Ok(first)
}

fn sources(raw: Vec<RawSource>, proxies: &[ipnet::IpNet]) -> Result<Vec<source::Settings>> {
    if raw.is_empty() {
        let path = Some(PathBuf::from(DEFAULT_LOG));
        return Ok(vec![source_settings(RawSource { path, ..RawSource::default() }, proxies)?]);
    }
    let sources: Vec<source::Settings> =
        raw.into_iter().map(|raw| source_settings(raw, proxies)).collect::<Result<_>>()?;
    for (at, source) in sources.iter().enumerate() {
        let twice = sources[..at].iter().any(|other| other.name == source.name);
        ensure!(!twice, "two [[source]] sections read {}: its lines would be counted twice", source.name);
    }
    Ok(sources)
}

fn source_settings(raw: RawSource, proxies: &[ipnet::IpNet]) -> Result<source::Settings> {
    let files = raw.path.map(|path| Input::Files(path.display().to_string()));
    let stdin = (raw.stdin == Some(true)).then_some(Input::Stdin);
    let mut given = [files, raw.syslog.map(Input::Syslog), stdin].into_iter().flatten();
    let input = given.next().context("a [[source]] needs one of path, syslog, stdin = true")?;
    ensure!(
        given.next().is_none(),
        "a [[source]] has several origins: write one of path, syslog, stdin for each"
    );
    let formats = [
        ("auto", Format::Auto),
        ("json", Format::Json),
        ("combined", Format::Combined),
        ("common", Format::Common),
    ];
    let default = FormatSettings::default();
    let max_line_bytes = raw.max_line_bytes.unwrap_or(default.max_line_bytes);
    ensure!(
        (256..=16 << 20).contains(&max_line_bytes),
        "[[source]] max_line_bytes = {max_line_bytes} must lie between 256 and 16777216"
    );
    let format = FormatSettings {
        format: one_of(raw.format.as_deref(), "[source]", "format", &formats)?,
        fields: fields(raw.fields.unwrap_or_default()),
        trusted_proxies: proxies.to_vec(),
        max_line_bytes,
    };
    let first_start = match raw.catch_up {
        Some(Span(secs)) => FirstStart::CatchUp { secs: u32::try_from(secs).unwrap_or(u32::MAX) },
        None => FirstStart::End,
    };
    let name = match &input {
        Input::Files(text) => text.clone(),
        Input::Syslog(path) => path.display().to_string(),
        Input::Stdin => "stdin".to_owned(),
    };
    Ok(source::Settings { name, input, format, first_start })
}

fn xdp_settings(raw: raw::RawXdp, ipv6_prefix: u8) -> Result<xdp::Settings> {
    let default = xdp::Settings::default();
    let modes = [("auto", xdp::Mode::Auto), ("native", xdp::Mode::Native), ("generic", xdp::Mode::Generic)];
    let interfaces = match raw.interfaces {
        None => xdp::Selection::DefaultRoute,
        Some(names) if names == ["default"] => xdp::Selection::DefaultRoute,
        Some(names) if names == ["all"] => xdp::Selection::AllPhysical,
        Some(names) => xdp::Selection::Named(names),
    };
    if let xdp::Selection::Named(names) = &interfaces {
        ensure!(!names.is_empty(), "[xdp] interfaces is empty: name some, or write mode = \"off\"");
        let odd = names.iter().find(|name| name.is_empty() || name.len() > 15 || name.contains(['/', ' ']));
        ensure!(
            odd.is_none(),
            "[xdp] interfaces: {:?} is no name of an interface",
            odd.cloned().unwrap_or_default()
        );
    }
    let at_least_one = |value: u32, key: &str| {
        ensure!(value >= 1, "[xdp] {key} must be at least 1");
        Ok(value)
    };
    Ok(xdp::Settings {
        interfaces,
        mode: one_of(raw.attach.as_deref(), "xdp", "attach", &modes)?,
        max_bans_v4: at_least_one(raw.max_bans_ipv4.unwrap_or(default.max_bans_v4), "max_bans_ipv4")?,
        max_bans_v6: at_least_one(raw.max_bans_ipv6.unwrap_or(default.max_bans_v6), "max_bans_ipv6")?,
        max_networks: at_least_one(raw.max_networks.unwrap_or(default.max_networks), "max_networks")?,
        ipv6_prefix,
        pin_folder: raw.pin_dir.unwrap_or(default.pin_folder),
        log_every: raw.log_drops_every.and_then(std::num::NonZeroU32::new),
    })
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

fn fields(raw: RawFields) -> FieldNames {
    let default = FieldNames::default();
    FieldNames {
        source_ip: raw.source_ip.unwrap_or(default.source_ip),
        timestamp: raw.timestamp.unwrap_or(default.timestamp),
        method: raw.method.unwrap_or(default.method),
        path: raw.path.unwrap_or(default.path),
        status: raw.status.unwrap_or(default.status),
        response_size: raw.response_size.unwrap_or(default.response_size),
        forwarded_for: raw.forwarded_for,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_works_without_a_file() {
        let config = Config::parse("").unwrap();
        assert_eq!(config.sources[0].input, Input::Files(DEFAULT_LOG.to_owned()));
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
        assert_eq!(config.sources[1].format.fields.source_ip, "remote_addr");
        assert_eq!(config.sources[1].format.trusted_proxies.len(), 1);
        assert_eq!(config.engine.backoff.terms()[1], Term::Secs(120));
        assert_eq!(config.allow.len(), 2);
        assert_eq!(config.use_xdp, Use::Required);
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
        check("[detect]\nmax_cleints = 3", &["did you mean `max_clients`"]);
        check("[slack]\nurl_file = 'a'\nurl_env = 'B'", &["[slack] has several URLs"]);
        check("[page\n", &["line 1"]);
    }
}
