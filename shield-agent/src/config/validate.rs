//! From the file as written to the configuration in force: defaults, ranges, words.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};
use ipnet::IpNet;
use tracing_subscriber::EnvFilter;

use super::place::Place;
use super::raw::{Deferred, Listen, Network, RawBan, RawConfig, RawFields, RawHook, RawSlow, RawSource};
use super::span::{Span, TermSpan};
use super::{Config, DEFAULT_LOG, DEFAULT_PAGE, UrlFrom, Use, detect, infrastructure, raw};
use crate::address_owner;
use crate::blocklist;
use crate::blocklist::parse::Format as ListFormat;
use crate::blocklist::settings::{Transport, is_on_this_host};
use crate::crowdsec;
use crate::edge::cloudflare;
use crate::enforce::iptables::{self, Backend, Containers};
use crate::enforce::{nginx, xdp};
use crate::fleet;
use crate::in_front;
use crate::policy;
use crate::source::{self, FirstStart, Input, Listener};
use crate::text;
use shield_engine::allowlist::{AllowReason, Allowed};
use shield_engine::backoff::{Backoff, Term};
use shield_engine::operator_rules::PolicyAction;
use shield_engine::origin::{Origin, OriginKind};
use shield_engine::policy::Switch;
use shield_engine::settings::{
    ExtendBy, NetworkAction, Proxied, RemoteSettings, Settings as EngineSettings, SlowSettings,
};
use shield_logline::{FieldNames, Format, Recipe, Settings as FormatSettings};

/// An operator who works on his server once a week stays allowed.
const SSH_KEEP_SECS: u64 = 7 * 86_400;

/// The least of `max_remote_term`: several times the pause in which bans are told again.
const LEAST_REMOTE_TERM_SECS: u64 = 1_800;

/// Whoever publishes a list asks for no more than that; and a list holds for a week.
const LEAST_REFRESH_SECS: u64 = 300;
const MOST_REFRESH_SECS: u64 = 2 * 86_400;

/// Validates the file and fills in the defaults.
pub(super) fn config(raw: RawConfig) -> Result<Config> {
    let (profile, mut policy) = detect::policy(raw.detect)?;
    policy.sites = detect::sites(raw.site)?;
    let mut engine = engine_settings(raw.ban)?;
    engine.slow = slow_settings(&raw.slow)?;
    let fleet = fleet_settings(&raw.fleet)?;
    let blocklists = blocklists(raw.blocklist)?;
    let crowdsec = crowdsec_settings(raw.crowdsec)?;
    let has_others = fleet.is_some() || !blocklists.is_empty() || crowdsec.is_some();
    engine.remote = remote_settings(&raw.fleet, has_others)?;
    engine.backoff.set_slow_first(raw.slow.first_offence == Some(true));
    if let Some(Span(secs)) = raw.agent.max_clock_skew {
        engine.max_clock_skew_secs = secs as i64;
    }
    let is_verified = raw.allow.search_engines.unwrap_or(true);
    engine.verify_search_engines = if is_verified { Switch::On } else { Switch::Off };
    let rules = rules_settings(raw.policy)?;
    engine.rules.switch = if rules.dir.is_some() { Switch::On } else { Switch::Off };
    engine.rules.on_error = rules.on_error;
    let ipv6_prefix = engine.ipv6_prefix;
    let use_nginx = use_of(raw.nginx.mode.as_deref().or(Some("off")), "nginx")?;
    let nginx = nginx_settings(raw.nginx)?;
    if use_nginx != Use::Off {
        engine.proxied = Proxied::Ban;
        engine.refusal_status = Some(nginx.status);
        if nginx.backend == nginx::Backend::Map {
            // Nobody leaks who is served until the next reload.
            engine.leak_grace_secs += i64::try_from(nginx.reload_every.as_secs()).unwrap_or(i64::MAX / 2);
        }
    }
    let networks = allowed_networks(raw.allow.networks, "networks")?;
    let proxies = allowed_networks(raw.allow.trusted_proxies, "trusted_proxies")?;
    let entry = |network, reason| Allowed { network, reason };
    let mut sources = sources(raw.source, &proxies)?;
    sources.iter_mut().for_each(|source| source.known.clone_from(&networks));
    let allow = networks.into_iter().map(|net| entry(net, AllowReason::Configured));
    let allow = allow.chain(proxies.iter().map(|net| entry(*net, AllowReason::TrustedProxy))).collect();
    let mut infrastructure = Vec::new();
    if raw.allow.cdn_ranges.unwrap_or(true) {
        let cdn = infrastructure::cdn(raw.allow.cdn_ranges_file.as_deref());
        infrastructure.extend(
            cdn.map_err(|error| Place::section("allow").key("cdn_ranges_file").error(format!("{error:#}")))?,
        );
    }
    if raw.allow.private_networks.unwrap_or(true) {
        infrastructure.extend(infrastructure::private());
    }
    Ok(Config {
        file: None,
        web_ports: web_ports(raw.agent.web_ports)?,
        state_dir: raw.agent.state_dir.unwrap_or_else(|| PathBuf::from("/var/lib/shield")),
        socket: raw.agent.socket.unwrap_or_else(|| PathBuf::from("/run/shield/control.sock")),
        log: log_filter(raw.agent.log)?,
        sources,
        profile,
        policy,
        engine,
        allow,
        ssh_sessions: raw.allow.ssh_sessions.unwrap_or(true),
        ssh_keep_secs: raw.allow.ssh_keep.map_or(SSH_KEEP_SECS, |Span(secs)| secs),
        infrastructure,
        use_iptables: use_of(raw.iptables.mode.as_deref(), "iptables")?,
        iptables: iptables_settings(raw.iptables)?,
        use_xdp: use_of(raw.xdp.mode.as_deref(), "xdp")?,
        xdp: xdp_settings(raw.xdp, ipv6_prefix)?,
        use_nginx,
        nginx,
        cloudflare: cloudflare_settings(raw.cloudflare)?,
        fleet,
        blocklists,
        crowdsec,
        rules,
        page: page(&raw.page),
        page_next_free_port: raw.page.next_free_port == Some(true),
        page_hosts: raw.page.hosts.unwrap_or_default(),
        page_url: raw.page.url.map(page_url).transpose()?,
        address_dbs: address_owner::Settings { asn: raw.page.asn_db, country: raw.page.country_db },
        slack_events: event_kinds(raw.slack.events.clone(), "slack")?,
        webhook_events: event_kinds(raw.webhook.events.clone(), "webhook")?,
        slack: url_from(raw.slack, "slack")?,
        webhook: url_from(raw.webhook, "webhook")?,
        audit: raw.audit.path.unwrap_or_else(|| PathBuf::from("/var/log/shield/audit.jsonl")),
    })
}

fn web_ports(ports: Option<Vec<u16>>) -> Result<Vec<u16>> {
    let ports = ports.unwrap_or_else(|| in_front::WEB_PORTS.to_vec());
    if ports.is_empty() || ports.contains(&0) {
        bail!(Place::section("agent").key("web_ports").error(format!(
            "[agent] web_ports = {ports:?} must be one or more ports from 1 to 65535: those that nginx listens on"
        )));
    }
    Ok(ports)
}

fn log_filter(filter: Option<String>) -> Result<String> {
    let filter = filter.unwrap_or_else(|| "info".to_owned());
    match EnvFilter::try_new(&filter) {
        Ok(_) => Ok(filter),
        Err(why) => bail!(Place::section("agent").key("log").error(format!(
            "[agent] log = {filter:?} is no filter ({why}): write a level such as \"info\", or TARGET=LEVEL,…"
        ))),
    }
}

fn engine_settings(raw: RawBan) -> Result<EngineSettings> {
    let mut settings = EngineSettings::default();
    let set = |slot: &mut usize, value: Option<usize>| *slot = value.unwrap_or(*slot);
    settings.backoff = backoff(raw.terms, raw.forget_after)?;
    settings.ipv6_prefix = raw.ipv6_prefix.unwrap_or(settings.ipv6_prefix);
    let prefix = settings.ipv6_prefix;
    if !(16..=128).contains(&prefix) {
        bail!(ban("ipv6_prefix").error(format!("[ban] ipv6_prefix = {prefix} must lie between 16 and 128")));
    }
    set(&mut settings.max_bans, raw.max_bans);
    set(&mut settings.blast.always_allowed, raw.always_allowed);
    set(&mut settings.blast.max_bans_per_minute, raw.max_bans_per_minute);
    set(&mut settings.networks.clients, raw.network_clients);
    settings.blast.max_share = share(raw.max_share.unwrap_or(settings.blast.max_share))?;
    settings.networks.within_secs = raw.network_within.map_or(settings.networks.within_secs, |s| s.0);
    settings.leak_grace_secs = raw.leak_grace.map_or(settings.leak_grace_secs, |s| s.0 as i64);
    let from = raw.extend_from_packets_per_sec.unwrap_or(settings.extension.min_packets_per_sec);
    if from.is_nan() || from <= 0.0 {
        let message = format!("[ban] extend_from_packets_per_sec = {from} must be more than 0");
        bail!(ban("extend_from_packets_per_sec").error(message));
    }
    settings.extension.min_packets_per_sec = from;
    let extend = [("term", ExtendBy::SameTerm), ("off", ExtendBy::Off), ("next", ExtendBy::NextTerm)];
    settings.extension.by = one_of(raw.extend.as_deref(), "ban", "extend", &extend)?;
    let networks =
        [("propose", NetworkAction::Propose), ("off", NetworkAction::Off), ("ban", NetworkAction::Ban)];
    settings.networks.action = one_of(raw.networks.as_deref(), "ban", "networks", &networks)?;
    if settings.networks.clients < 2 {
        bail!(ban("network_clients").error("[ban] network_clients must be at least 2"));
    }
    Ok(settings)
}

fn slow_settings(raw: &RawSlow) -> Result<SlowSettings> {
    let default = EngineSettings::default().slow;
    let at_least_one = |value: Option<u16>, default: u16, key: &str| match value.unwrap_or(default) {
        0 => {
            let message =
                format!("[slow] {key} = 0 would let nothing through: ban instead, or set enabled = false");
            bail!(Place::section("slow").key(key).error(message))
        }
        value => Ok(value),
    };
    let term_secs = raw.term.map_or(default.term_secs, |Span(secs)| secs);
    if !(1..=86_400).contains(&term_secs) {
        let message = "[slow] term must be between 1 s and 1 day: whoever goes on is slowed again";
        bail!(Place::section("slow").key("term").error(message));
    }
    Ok(SlowSettings {
        switch: if raw.enabled == Some(false) { Switch::Off } else { Switch::On },
        term_secs,
        connections_per_sec: at_least_one(
            raw.connections_per_sec,
            default.connections_per_sec,
            "connections_per_sec",
        )?,
        packets_per_sec: at_least_one(raw.packets_per_sec, default.packets_per_sec, "packets_per_sec")?,
    })
}

fn backoff(terms: Option<Vec<Deferred<TermSpan>>>, forget_after: Option<Span>) -> Result<Backoff> {
    let default = Backoff::default();
    let terms: Vec<Term> = match terms {
        Some(terms) => items(terms, &ban("terms"))?.into_iter().map(|TermSpan(term)| term).collect(),
        None => default.terms().to_vec(),
    };
    let forget = forget_after.map_or(default.forget_after_secs(), |s| s.0);
    Backoff::new(terms, forget).map_err(|why| ban("terms").error(format!("[ban] terms: {why}")))
}

fn share(share: f64) -> Result<f64> {
    if (0.0..=1.0).contains(&share) {
        return Ok(share);
    }
    let message = format!("[ban] max_share = {share} is a share: write a number from 0.0 to 1.0");
    bail!(ban("max_share").error(message))
}

fn ban(key: &str) -> Place {
    Place::section("ban").key(key)
}

/// Returns the items unless one could not be read.
fn items<T>(items: Vec<Deferred<T>>, place: &Place) -> Result<Vec<T>> {
    let items = items.into_iter().enumerate();
    items.map(|(at, Deferred(item))| item.map_err(|message| place.clone().item(at).error(message))).collect()
}

/// Returns the networks unless one of them holds every address: an allowlist of everybody protects nobody.
fn allowed_networks(networks: Option<Vec<Deferred<Network>>>, key: &str) -> Result<Vec<IpNet>> {
    let networks = items(networks.unwrap_or_default(), &Place::section("allow").key(key))?;
    let networks: Vec<IpNet> = networks.into_iter().map(|Network(net)| net).collect();
    match networks.iter().position(|net| net.prefix_len() == 0) {
        None => Ok(networks),
        Some(at) => bail!(Place::section("allow").key(key).item(at).error(format!(
            "[allow] {key}: {} would allow everybody and switch Shield off: name smaller networks",
            networks[at]
        ))),
    }
}

/// The value that a word stands for; the first choice when the key is absent.
fn one_of<T: Copy>(word: Option<&str>, section: &str, key: &str, choices: &[(&str, T)]) -> Result<T> {
    one_of_at(word, Place::section(section).key(key), &format!("[{section}] {key}"), choices)
}

fn one_of_at<T: Copy>(word: Option<&str>, place: Place, name: &str, choices: &[(&str, T)]) -> Result<T> {
    let Some(word) = word else { return Ok(choices[0].1) };
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == word) {
        return Ok(*value);
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    bail!(place.error(format!("{name} = {word:?} does not exist: write one of {}", names.join(", "))))
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
    if let Containers::Chains(chains) = &containers
        && let Some(at) = chains.iter().position(|chain| !is_chain_name(chain))
    {
        bail!(Place::section("iptables").key("hooks").item(at).error(format!(
            "[iptables] hooks: {:?} is no name of a chain: write up to 28 letters, digits and -_. or [\"auto\"] alone",
            chains[at]
        )));
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

/// Netfilter's limit is 28 bytes. A leading dash is refused because the name becomes an argument of iptables.
fn is_chain_name(name: &str) -> bool {
    let fits = (1..=28).contains(&name.len()) && !name.starts_with('-');
    fits && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
}

fn page(raw: &raw::RawPage) -> Option<SocketAddr> {
    (raw.enabled != Some(false)).then(|| raw.listen.map_or(DEFAULT_PAGE, |Listen(addr)| addr))
}

/// The page's address for links: with a slash at its end, behind which `#client=…` is written.
fn page_url(url: String) -> Result<String> {
    let is_web = url.starts_with("https://") || url.starts_with("http://");
    let is_plain = url.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>|\"#?".contains(&byte));
    if !is_web || !is_plain {
        let message = format!(
            "[page] url = {url:?} is no address for links: write for example https://shield.example.net/"
        );
        bail!(Place::section("page").key("url").error(message));
    }
    Ok(if url.ends_with('/') { url } else { url + "/" })
}

fn url_from(raw: RawHook, section: &str) -> Result<Option<UrlFrom>> {
    let file = raw.url_file.map(UrlFrom::File);
    let env = raw.url_env.map(UrlFrom::Env);
    let credential = raw.url_credential.map(UrlFrom::Credential);
    let mut given = [file, env, credential].into_iter().flatten();
    let first = given.next();
    if given.next().is_some() {
        let message = format!("[{section}] has several URLs: keep one of url_file, url_env, url_credential");
        bail!(Place::section(section).error(message));
    }
    Ok(first)
}

/// The kinds of events that a receiver is told.
fn event_kinds(kinds: Option<Vec<String>>, section: &str) -> Result<Option<Vec<String>>> {
    let Some(kinds) = kinds else { return Ok(None) };
    if let Some(wrong) = kinds.iter().find(|kind| !text::KINDS.contains(&kind.as_str())) {
        let known = text::KINDS.join(", ");
        let message = format!("[{section}] events: {wrong:?} is no kind of event: use some of {known}");
        bail!(Place::section(section).key("events").error(message));
    }
    Ok(Some(kinds))
}

fn sources(raw: Vec<RawSource>, proxies: &[IpNet]) -> Result<Vec<source::Settings>> {
    if raw.is_empty() {
        let path = Some(PathBuf::from(DEFAULT_LOG));
        return Ok(vec![source_settings(0, RawSource { path, ..RawSource::default() }, proxies)?]);
    }
    let settings = raw.into_iter().enumerate().map(|(at, raw)| source_settings(at, raw, proxies));
    let sources: Vec<source::Settings> = settings.collect::<Result<_>>()?;
    for (at, source) in sources.iter().enumerate() {
        let twice = sources[..at].iter().any(|other| other.name == source.name);
        if twice {
            let message =
                format!("two [[source]] sections read {}: its lines would be counted twice", source.name);
            bail!(Place::section("source").item(at).key("path").error(message));
        }
    }
    Ok(sources)
}

fn source_settings(at: usize, raw: RawSource, proxies: &[IpNet]) -> Result<source::Settings> {
    let place = || Place::section("source").item(at);
    let files = raw.path.map(|path| Input::Files(path.display().to_string()));
    let stdin = (raw.stdin == Some(true)).then_some(Input::Stdin);
    let for_socket =
        [("users", raw.users.is_some()), ("group", raw.group.is_some()), ("mode", raw.mode.is_some())];
    if let (None, Some((key, _))) = (&raw.syslog, for_socket.iter().find(|(_, is_given)| *is_given)) {
        let message = format!("[[source]] {key} is for `syslog` alone: it says who may send to that socket");
        bail!(place().key(key).error(message));
    }
    let mode = raw.mode.as_deref().map(|text| socket_mode(text, &place().key("mode"))).transpose()?;
    let listener =
        |path| Input::Syslog(Listener { path, users: raw.users.unwrap_or_default(), group: raw.group, mode });
    let mut given = [files, raw.syslog.map(listener), stdin].into_iter().flatten();
    let Some(input) = given.next() else {
        bail!(place().error("a [[source]] needs one of path, syslog, stdin = true"));
    };
    if given.next().is_some() {
        bail!(place().error("a [[source]] has several origins: write one of path, syslog, stdin for each"));
    }
    let (own, named) = format(raw.format.as_deref(), &place().key("format"))?;
    let default = FormatSettings::default();
    let max_line_bytes = raw.max_line_bytes.unwrap_or(default.max_line_bytes);
    if !(256..=16 << 20).contains(&max_line_bytes) {
        let message =
            format!("[[source]] max_line_bytes = {max_line_bytes} must lie between 256 and 16777216");
        bail!(place().key("max_line_bytes").error(message));
    }
    let format = FormatSettings {
        format: own,
        fields: fields(raw.fields.unwrap_or_default(), named),
        trusted_proxies: proxies.to_vec(),
        max_line_bytes,
    };
    let first_start = match raw.catch_up {
        Some(Span(secs)) => FirstStart::CatchUp { secs: u32::try_from(secs).unwrap_or(u32::MAX) },
        None => FirstStart::End,
    };
    let name = match &input {
        Input::Files(text) => text.clone(),
        Input::Syslog(listener) => listener.path.display().to_string(),
        Input::Stdin => "stdin".to_owned(),
    };
    Ok(source::Settings { name, input, format, first_start, known: Vec::new() })
}

/// An octal mode that lets somebody write.
fn socket_mode(text: &str, place: &Place) -> Result<u32> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && mode & 0o222 != 0 => Ok(mode),
        _ => bail!(place.clone().error(format!(
            "[[source]] mode = {text:?} is no mode in which somebody may send: write four octal digits, such as \"0660\""
        ))),
    }
}

/// Returns the format, and the names of its fields if it is a `log_format` of JSON lines.
fn format(text: Option<&str>, place: &Place) -> Result<(Format, FieldNames)> {
    let named = match text {
        None | Some("auto") => Format::Auto,
        Some("json") => Format::Json,
        Some("combined") => Format::Combined,
        Some("common") => Format::Common,
        Some(word) if !word.contains('$') => {
            let message = format!(
                "[[source]] format = {word:?} does not exist: write one of auto, json, combined, common, or the text \
                 of nginx's log_format"
            );
            bail!(place.clone().error(message))
        }
        Some(pasted) => match Recipe::of(pasted) {
            Ok(Recipe::Text(template)) => Format::Template(template),
            Ok(Recipe::Json(names)) => return Ok((Format::Json, *names)),
            Err(why) => {
                bail!(
                    place
                        .clone()
                        .error(format!("[[source]] format cannot be used: {}", text::unusable(&why)))
                )
            }
        },
    };
    Ok((named, FieldNames::default()))
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
        let place = Place::section("xdp").key("interfaces");
        if names.is_empty() {
            bail!(place.error("[xdp] interfaces is empty: name some, or write mode = \"off\""));
        }
        let is_wrong = |name: &String| name.is_empty() || name.len() > 15 || name.contains(['/', ' ']);
        if let Some(at) = names.iter().position(is_wrong) {
            bail!(place.item(at).error(format!(
                "[xdp] interfaces: {:?} is no name of an interface: write names as `ip link` shows them, or \
                 [\"default\"] or [\"all\"] alone",
                names[at]
            )));
        }
    }
    let at_least_one = |value: u32, key: &str| {
        if value == 0 {
            bail!(Place::section("xdp").key(key).error(format!("[xdp] {key} must be at least 1")));
        }
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
        count_passed: default.count_passed,
    })
}

fn nginx_settings(raw: raw::RawNginx) -> Result<nginx::Settings> {
    let default = nginx::Settings::default();
    let folder = raw.folder.unwrap_or(default.folder);
    let place = |key: &str| Place::section("nginx").key(key);
    // It stands in nginx's configuration, where other characters would have to be quoted.
    let is_plain = |char: char| char.is_ascii_alphanumeric() || "/._-".contains(char);
    if !folder.is_absolute() || !folder.to_str().is_some_and(|path| path.chars().all(is_plain)) {
        bail!(place("folder").error(format!(
            "[nginx] folder = {folder:?} must be an absolute path of letters, digits and . _ - alone"
        )));
    }
    let status = raw.status.unwrap_or(default.status);
    if !(400..=599).contains(&status) {
        bail!(place("status").error(format!(
            "[nginx] status = {status} must lie between 400 and 599: 444 closes the connection without an answer, 403 \
             and 429 are the usual others"
        )));
    }
    let max_clients = raw.max_clients.unwrap_or(default.max_clients);
    if max_clients == 0 {
        bail!(place("max_clients").error("[nginx] max_clients must be at least 1".to_owned()));
    }
    let reload_every = raw.reload_every.map_or(default.reload_every, |Span(secs)| Duration::from_secs(secs));
    if reload_every < default.reload_every {
        bail!(place("reload_every").error(
            "[nginx] reload_every must be at least 15s: each reload starts new workers, and the old ones stay as long as \
             their connections"
                .to_owned()
        ));
    }
    let command = |key: &str, raw: Option<Vec<String>>, default: Vec<String>| -> Result<Vec<String>> {
        let argv = raw.unwrap_or(default);
        if argv.first().is_some_and(String::is_empty) || argv.iter().any(|word| word.contains('\0')) {
            bail!(place(key).error(format!(
                "[nginx] {key} = {argv:?} must begin with a program's name: it is run as it is, without a shell"
            )));
        }
        Ok(argv)
    };
    let commands = nginx::Commands {
        copy: command("copy_command", raw.copy_command, default.commands.copy)?,
        test: command("test_command", raw.test_command, default.commands.test)?,
        reload: command("reload_command", raw.reload_command, default.commands.reload)?,
        workers: command("workers_command", raw.workers_command, default.commands.workers)?,
    };
    if commands.reload.is_empty() {
        bail!(place("reload_command").error(
            "[nginx] reload_command must not be empty: nginx reads its maps at a reload alone".to_owned()
        ));
    }
    let backends = [("files", nginx::Backend::Files), ("map", nginx::Backend::Map)];
    let backend = one_of(raw.backend.as_deref(), "nginx", "backend", &backends)?;
    Ok(nginx::Settings { folder, max_clients, status, backend, commands, reload_every })
}

/// `None` where the section is not there.
fn cloudflare_settings(raw: raw::RawCloudflare) -> Result<Option<cloudflare::Settings>> {
    let section = || Place::section("cloudflare");
    let raw::RawCloudflare { account, list, token_file, token_credential, max_items, share, name, api } = raw;
    let is_there = account.is_some() || list.is_some() || token_file.is_some() || token_credential.is_some();
    if !is_there {
        if max_items.is_some() || share.is_some() || name.is_some() || api.is_some() {
            bail!(section().error("[cloudflare] needs account, list and token_file or token_credential"));
        }
        return Ok(None);
    }
    let id = |value: Option<String>, key: &str| {
        let is_id = |id: &String| id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        let place = if value.is_some() { section().key(key) } else { section() };
        value.filter(is_id).ok_or_else(|| {
            place.error(format!(
                "[cloudflare] {key} must be the id of the {key}, 32 hexadecimal digits, as the dashboard and its address show it"
            ))
        })
    };
    let (account, list) = (id(account, "account")?, id(list, "list")?);
    let token = match (token_file, token_credential) {
        (Some(path), None) => UrlFrom::File(path),
        (None, Some(name)) => UrlFrom::Credential(name),
        (None, None) => bail!(section().error("[cloudflare] needs token_file or token_credential")),
        (Some(_), Some(_)) => {
            bail!(section().error("[cloudflare] has two tokens: keep one of token_file, token_credential"))
        }
    };
    let share = share.unwrap_or(cloudflare::Settings::SHARE);
    if !(0.01..=1.0).contains(&share) {
        bail!(
            section()
                .key("share")
                .error(format!("[cloudflare] share = {share} must lie between 0.01 and 1.0"))
        );
    }
    let max_items = max_items.unwrap_or(cloudflare::Settings::MAX_ITEMS);
    if max_items == 0 {
        bail!(section().key("max_items").error("[cloudflare] max_items must be at least 1"));
    }
    let name = name.unwrap_or_else(|| {
        let read = std::fs::read_to_string("/proc/sys/kernel/hostname");
        read.map(|name| name.trim().to_owned()).unwrap_or_default()
    });
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if name.is_empty() || name.len() > 100 || !name.bytes().all(is_plain) {
        bail!(section().key("name").error(format!(
            "[cloudflare] name = {name:?} must be 1 to 100 letters, digits and . _ - (without the key it is the host's name)"
        )));
    }
    let text = api.as_deref().unwrap_or(cloudflare::Settings::API);
    let url = reqwest::Url::parse(text).ok().filter(|url| url.has_host() && url.query().is_none());
    // The token is in each request.
    let is_safe = |url: &reqwest::Url| match url.scheme() {
        "https" => true,
        "http" => url.host_str().is_some_and(|host| {
            host == "localhost"
                || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
        }),
        _ => false,
    };
    let Some(api) = url.filter(is_safe) else {
        bail!(section().key("api").error(format!(
            "[cloudflare] api = {text:?} must be an https:// address, or http:// on this host, without a query"
        )));
    };
    let comment = cloudflare::Settings::comment_of(&name);
    Ok(Some(cloudflare::Settings { account, list, token, api, max_items, share, comment }))
}

/// `None` where the section is not there.
fn fleet_settings(raw: &raw::RawFleet) -> Result<Option<fleet::Settings>> {
    let section = || Place::section("fleet");
    let Some(url) = &raw.url else {
        let is_there = raw.credentials_file.is_some() || raw.credentials_credential.is_some();
        if is_there || raw.ca_file.is_some() || raw.name.is_some() {
            bail!(
                section().error("[fleet] needs url: nats:// or tls://, the host and the port of nats-server")
            );
        }
        return Ok(None);
    };
    let servers: Vec<String> = url.split(',').map(|one| one.trim().to_owned()).collect();
    for server in &servers {
        let url = reqwest::Url::parse(server).ok();
        let is_known = |url: &reqwest::Url| matches!(url.scheme(), "nats" | "tls") && url.has_host();
        let Some(url) = url.filter(is_known) else {
            bail!(section().key("url").error(format!(
                "[fleet] url = {server:?} must be nats://HOST:PORT or tls://HOST:PORT, several with commas between them"
            )));
        };
        if !url.username().is_empty() || url.password().is_some() {
            bail!(section().key("url").error(
                "[fleet] url holds a name or a password: write what proves who this host is into credentials_file"
            ));
        }
    }
    let credentials = match (raw.credentials_file.clone(), raw.credentials_credential.clone()) {
        (Some(path), None) => Some(UrlFrom::File(path)),
        (None, Some(name)) => Some(UrlFrom::Credential(name)),
        (None, None) => None,
        (Some(_), Some(_)) => bail!(
            section()
                .error("[fleet] has two credentials: keep one of credentials_file, credentials_credential")
        ),
    };
    let name = raw.name.clone().unwrap_or_else(|| {
        let read = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        read.trim().split('.').next().unwrap_or_default().to_owned()
    });
    if Origin::new(OriginKind::Fleet, &name).is_none() {
        bail!(section().key("name").error(format!(
            "[fleet] name = {name:?} must be 1 to 64 letters, digits, - and _ (without the key it is the host's name up to its \
             first dot)"
        )));
    }
    Ok(Some(fleet::Settings { servers, credentials, ca_file: raw.ca_file.clone(), name }))
}

fn blocklists(raw: Vec<raw::RawBlocklist>) -> Result<Vec<blocklist::Settings>> {
    let mut lists: Vec<blocklist::Settings> = Vec::new();
    for (at, raw) in raw.into_iter().enumerate() {
        let list = blocklist(raw, &Place::section("blocklist").item(at))?;
        if lists.iter().any(|known| known.name == list.name) {
            bail!(
                Place::section("blocklist")
                    .item(at)
                    .key("name")
                    .error(format!("[[blocklist]] name = {:?} is there twice", list.name))
            );
        }
        lists.push(list);
    }
    lists.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(lists)
}

fn blocklist(raw: raw::RawBlocklist, section: &Place) -> Result<blocklist::Settings> {
    let place = |key: &str| section.clone().key(key);
    let raw::RawBlocklist {
        name,
        url,
        refresh,
        format,
        credentials_file,
        credentials_credential,
        allow_http,
    } = raw;
    let Some(name) = name else {
        bail!(section.clone().error("[[blocklist]] needs name, by which Shield calls the list"));
    };
    if Origin::new(OriginKind::Blocklist, &name).is_none() {
        bail!(
            place("name")
                .error(format!("[[blocklist]] name = {name:?} must be 1 to 64 letters, digits, - and _"))
        );
    }
    let Some(text) = url else { bail!(section.clone().error("[[blocklist]] needs url: https://…")) };
    let parsed = reqwest::Url::parse(&text).ok();
    let Some(url) = parsed.filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host()) else {
        bail!(place("url").error("[[blocklist]] url must be an address that begins with https://"));
    };
    if !url.username().is_empty() || url.password().is_some() {
        bail!(place("url").error(
            "[[blocklist]] url holds a name or a password: write USER:PASSWORD into a file and name it with credentials_file"
        ));
    }
    let transport = if allow_http == Some(true) { Transport::Any } else { Transport::Secure };
    if url.scheme() == "http" && transport == Transport::Secure && !is_on_this_host(&url) {
        bail!(place("url").error(
            "[[blocklist]] url is without TLS: whoever is in between could ban anybody here. Use https://, or write allow_http = \
             true if nobody can be in between"
        ));
    }
    let refresh =
        refresh.map_or(blocklist::Settings::REFRESH, |Span(secs)| std::time::Duration::from_secs(secs));
    if !(LEAST_REFRESH_SECS..=MOST_REFRESH_SECS).contains(&refresh.as_secs()) {
        bail!(place("refresh").error("[[blocklist]] refresh must be at least 5m and at most 2d"));
    }
    let format = format.unwrap_or_else(|| ListFormat::Plain.name().to_owned());
    let Some((_, format)) = ListFormat::ALL.into_iter().find(|(name, _)| *name == format) else {
        bail!(
            place("format").error(format!(
                "[[blocklist]] format = {format:?} must be one of plain, columns, json_lines"
            ))
        );
    };
    let credentials = match (credentials_file, credentials_credential) {
        (Some(path), None) => Some(UrlFrom::File(path)),
        (None, Some(name)) => Some(UrlFrom::Credential(name)),
        (None, None) => None,
        (Some(_), Some(_)) => bail!(section.clone().error(
            "[[blocklist]] has two credentials: keep one of credentials_file, credentials_credential"
        )),
    };
    Ok(blocklist::Settings { name, url, refresh, format, credentials, transport })
}

/// `None` where the section is not there.
fn crowdsec_settings(raw: raw::RawCrowdsec) -> Result<Option<crowdsec::Settings>> {
    let section = || Place::section("crowdsec");
    let raw::RawCrowdsec { url, key_file, key_credential, poll, machine_file, machine_credential } = raw;
    let Some(text) = url else {
        let has_machine = machine_file.is_some() || machine_credential.is_some();
        if key_file.is_some() || key_credential.is_some() || poll.is_some() || has_machine {
            bail!(
                section()
                    .error("[crowdsec] needs url: that of the local API, usually http://127.0.0.1:8080/")
            );
        }
        return Ok(None);
    };
    let parsed = reqwest::Url::parse(&text).ok();
    let Some(url) = parsed.filter(|url| matches!(url.scheme(), "https" | "http") && url.has_host()) else {
        bail!(section().key("url").error(format!(
            "[crowdsec] url = {text:?} must be the local API's address, usually http://127.0.0.1:8080/"
        )));
    };
    if url.scheme() == "http" && !is_on_this_host(&url) {
        bail!(section().key("url").error(
            "[crowdsec] url is another host's and without TLS: whoever is in between could ban anybody here. Use https://"
        ));
    }
    let key = match (key_file, key_credential) {
        (Some(path), None) => UrlFrom::File(path),
        (None, Some(name)) => UrlFrom::Credential(name),
        (None, None) => bail!(section().error(
            "[crowdsec] needs key_file or key_credential: the key that `cscli bouncers add shield` prints"
        )),
        (Some(_), Some(_)) => {
            bail!(section().error("[crowdsec] has two keys: keep one of key_file, key_credential"))
        }
    };
    let poll = poll.map_or(crowdsec::Settings::POLL, |Span(secs)| std::time::Duration::from_secs(secs));
    if !(1..=600).contains(&poll.as_secs()) {
        bail!(section().key("poll").error("[crowdsec] poll must be at least 1s and at most 10m"));
    }
    let machine = match (machine_file, machine_credential) {
        (Some(path), None) => Some(UrlFrom::File(path)),
        (None, Some(name)) => Some(UrlFrom::Credential(name)),
        (None, None) => None,
        (Some(_), Some(_)) => {
            bail!(section().error("[crowdsec] has two logins: keep one of machine_file, machine_credential"))
        }
    };
    Ok(Some(crowdsec::Settings { url, key, poll, machine }))
}

fn rules_settings(raw: raw::RawPolicy) -> Result<policy::Settings> {
    let section = || Place::section("policy");
    let on_error = match raw.on_error.as_deref() {
        None | Some("keep") => PolicyAction::Ban,
        Some("observe") => PolicyAction::Observe,
        Some("slow") => PolicyAction::Slow,
        Some(other) => bail!(section().key("on_error").error(format!(
            "[policy] on_error = {other:?} is not known: use keep (the verdict stands), observe or slow"
        ))),
    };
    if let Some(dir) = raw.dir.as_ref().filter(|dir| !dir.is_absolute()) {
        bail!(section().key("dir").error(format!(
            "[policy] dir = {:?} must be an absolute path, such as /etc/shield/policy",
            dir.display().to_string()
        )));
    }
    Ok(policy::Settings { dir: raw.dir, on_error })
}

fn remote_settings(raw: &raw::RawFleet, is_on: bool) -> Result<RemoteSettings> {
    let place = |key: &str| Place::section("fleet").key(key);
    let mut settings = EngineSettings::default().remote;
    let switch = |is_on| if is_on { Switch::On } else { Switch::Off };
    settings.switch = switch(is_on);
    settings.accept_networks = switch(raw.accept_networks.unwrap_or(false));
    if let Some(TermSpan(term)) = raw.max_remote_term {
        // Each ban is told again within ten minutes, and one that was not is not to end for that.
        if term.secs().is_some_and(|secs| secs < LEAST_REMOTE_TERM_SECS) {
            bail!(place("max_remote_term").error("[fleet] max_remote_term must be at least 30m"));
        }
        settings.max_term = term;
    }
    for (key, value, slot) in [
        ("max_new_per_min", raw.max_new_per_min, &mut settings.max_new_per_min),
        ("max_live", raw.max_live, &mut settings.max_live),
        ("confirm", raw.confirm, &mut settings.confirm),
    ] {
        if value == Some(0) {
            bail!(place(key).error(format!("[fleet] {key} must be at least 1")));
        }
        *slot = value.unwrap_or(*slot);
    }
    Ok(settings)
}

fn fields(raw: RawFields, default: FieldNames) -> FieldNames {
    FieldNames {
        source_ip: raw.source_ip.or(default.source_ip),
        timestamp: raw.timestamp.or(default.timestamp),
        method: raw.method.or(default.method),
        path: raw.path.or(default.path),
        status: raw.status.or(default.status),
        response_size: raw.response_size.or(default.response_size),
        forwarded_for: raw.forwarded_for.or(default.forwarded_for),
        server_name: raw.server_name.or(default.server_name),
        peer: raw.peer.or(default.peer),
    }
}
