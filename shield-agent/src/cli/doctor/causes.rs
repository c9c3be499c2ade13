//! The causes of "it does not protect", as a table. Pure: each looks at [`Facts`] alone.

use std::collections::BTreeSet;
use std::path::Path;

use ipnet::IpNet;

use super::facts::{Agent, Facts, Log};
use crate::api::types::PartStateName;
use crate::cli::init::{self, Kind};
use crate::config::{Config, Use};
use crate::enforce::nginx::Backend;
use crate::enforce::xdp::Selection;
use crate::source::{Input, Place};
use crate::text::doctor::{self as text, Said};
use shield_engine::verdict::Rule;

/// How much is lost. The worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    /// Nobody is banned, or a ban stops nobody.
    Unprotected,
    /// Some attackers get through, or soon will.
    Partly,
    /// Worth knowing.
    Note,
}

use Severity::{Note, Partly, Unprotected};

/// A cause by its stable name.
pub(super) struct Cause {
    pub name: &'static str,
    find: fn(&Facts) -> Vec<(Severity, Said)>,
}

/// A cause that was found.
#[derive(Debug)]
pub(super) struct Found {
    pub cause: &'static str,
    pub severity: Severity,
    pub said: Said,
}

/// Every cause; of those that are equally bad the first is shown first.
pub(super) const CAUSES: &[Cause] = &[
    Cause { name: "config_refused", find: config_refused },
    Cause { name: "agent_not_running", find: not_running },
    Cause { name: "agent_hangs", find: hangs },
    Cause { name: "agent_not_asked", find: not_asked },
    Cause { name: "another_agent", find: another_agent },
    Cause { name: "dry_run", find: dry_run },
    Cause { name: "nothing_enforces", find: nothing_enforces },
    Cause { name: "banning_stopped", find: banning_stopped },
    Cause { name: "log_missing", find: log_missing },
    Cause { name: "log_unreadable", find: log_unreadable },
    Cause { name: "log_moved", find: log_moved },
    Cause { name: "log_not_read", find: log_not_read },
    Cause { name: "layout_unread", find: layout_unread },
    Cause { name: "one_client", find: one_client },
    Cause { name: "clients_spared", find: clients_spared },
    Cause { name: "proxied_kernel_only", find: proxied_kernel_only },
    Cause { name: "nginx_lets_in", find: nginx_lets_in },
    Cause { name: "nginx_workers_stay", find: nginx_workers_stay },
    Cause { name: "iptables_missing", find: iptables_missing },
    Cause { name: "iptables_locked", find: iptables_locked },
    Cause { name: "iptables_flushed", find: iptables_flushed },
    Cause { name: "iptables_not_first", find: iptables_not_first },
    Cause { name: "iptables_not_whole", find: iptables_not_whole },
    Cause { name: "container_ports", find: container_ports },
    Cause { name: "kernel_too_old", find: kernel_too_old },
    Cause { name: "xdp_not_attached", find: xdp_not_attached },
    Cause { name: "xdp_elsewhere", find: xdp_elsewhere },
    Cause { name: "allowlist_too_wide", find: allowlist_too_wide },
    Cause { name: "requests_twice", find: requests_twice },
    Cause { name: "log_silent", find: log_silent },
    Cause { name: "log_late", find: log_late },
    Cause { name: "log_hidden", find: log_hidden },
    Cause { name: "addresses_forgeable", find: addresses_forgeable },
    Cause { name: "clock_wrong", find: clock_wrong },
    Cause { name: "disk_full", find: disk_full },
    Cause { name: "state_unwritable", find: state_unwritable },
    Cause { name: "alerts_unsent", find: alerts_unsent },
    Cause { name: "old_version_runs", find: old_version_runs },
    Cause { name: "not_at_boot", find: not_at_boot },
    Cause { name: "part_degraded", find: part_degraded },
    Cause { name: "rules_observe", find: rules_observe },
    Cause { name: "warm_up", find: warm_up },
    Cause { name: "xdp_generic", find: xdp_generic },
];

/// Everything that was found, the worst first.
pub(super) fn diagnose(facts: &Facts) -> Vec<Found> {
    let of = |cause: &Cause| {
        let name = cause.name;
        let found = (cause.find)(facts).into_iter();
        found.map(move |(severity, said)| Found { cause: name, severity, said }).collect::<Vec<_>>()
    };
    let mut found: Vec<Found> = CAUSES.iter().flat_map(of).collect();
    found.sort_by_key(|found| found.severity);
    found
}

type Answer = Vec<(Severity, Said)>;

/// One answer, if `is_so`.
fn only(severity: Severity, is_so: bool, said: impl FnOnce() -> Said) -> Answer {
    if is_so { vec![(severity, said())] } else { Vec::new() }
}

fn each(severity: Severity, said: impl IntoIterator<Item = Said>) -> Answer {
    said.into_iter().map(|said| (severity, said)).collect()
}

fn config(facts: &Facts) -> Option<&Config> {
    facts.config.as_ref().ok()
}

/// What is in force in the kernel concerns neither a dry run nor an agent that is not there.
fn enforces(facts: &Facts) -> bool {
    facts.status().is_some_and(|status| !status.dry_run)
}

fn not_running(facts: &Facts) -> Answer {
    let Agent::Silent(why) = &facts.agent else { return Vec::new() };
    let unit = facts.unit.as_ref().filter(|unit| unit.is_loaded);
    let unit = unit.map(|unit| (unit.active.as_str(), unit.result.as_str()));
    // Without a configuration that can be used it cannot start: that is said first.
    vec![(Unprotected, text::not_running(why, unit))]
}

fn hangs(facts: &Facts) -> Answer {
    match &facts.agent {
        Agent::Hangs(seen) => vec![(Unprotected, text::hangs(seen))],
        _ => Vec::new(),
    }
}

fn not_asked(facts: &Facts) -> Answer {
    match &facts.agent {
        Agent::Denied(why) => vec![(Partly, text::not_allowed(why))],
        _ => Vec::new(),
    }
}

fn another_agent(facts: &Facts) -> Answer {
    let Some((holder, config)) = facts.network.other_agent.as_ref().zip(config(facts)) else {
        return Vec::new();
    };
    vec![(Unprotected, text::other_agent(holder, &config.state_dir))]
}

fn config_refused(facts: &Facts) -> Answer {
    let Err(why) = &facts.config else { return Vec::new() };
    let is_running = facts.answers().is_some();
    let severity = if is_running { Partly } else { Unprotected };
    vec![(severity, text::config_refused(&facts.config_path, why, is_running))]
}

fn dry_run(facts: &Facts) -> Answer {
    only(Unprotected, facts.status().is_some_and(|status| status.dry_run), text::dry_run)
}

fn nothing_enforces(facts: &Facts) -> Answer {
    let is_off = |config: &Config| {
        [config.use_iptables, config.use_xdp, config.use_nginx].iter().all(|used| *used == Use::Off)
            && config.cloudflare.is_none()
    };
    only(Unprotected, config(facts).is_some_and(is_off), || text::nothing_enforces(&facts.config_path))
}

fn banning_stopped(facts: &Facts) -> Answer {
    if let Some(until_ms) = facts.status().and_then(|status| status.detector.paused_until_ms) {
        return only(Unprotected, true, || text::banning_paused(until_ms));
    }
    let why = facts.status().and_then(|status| status.detector.blast_radius.as_deref());
    each(Unprotected, why.map(text::banning_stopped))
}

/// What is wrong with a source by the agent, or with its logs as they were looked at here.
struct Trouble<'a> {
    log: &'a str,
    kind: &'a str,
    why: &'a str,
    is_agents: bool,
}

fn troubles(facts: &Facts) -> Vec<Trouble<'_>> {
    let mut found = Vec::new();
    let mut told = BTreeSet::new();
    if let Some(status) = facts.status() {
        for source in &status.sources {
            if matches!(source.state.as_str(), "reading" | "waiting" | "off") {
                continue;
            }
            told.insert(source.source.as_str());
            let part = facts.part(&format!("source:{}", source.source));
            let why = part.map_or("", |part| part.text.as_str());
            found.push(Trouble { log: &source.source, kind: &source.state, why, is_agents: true });
        }
    }
    for log in facts.logs.iter().filter(|log| !told.contains(log.checked.source.as_str())) {
        if let Some((kind, why)) = log.checked.state.zip(log.checked.problem.as_deref()) {
            found.push(Trouble { log: &log.checked.path, kind, why, is_agents: false });
        }
    }
    found
}

fn of_kinds(facts: &Facts, kinds: &[&str], said: fn(&str, &str) -> Said) -> impl Iterator<Item = Said> {
    let found = troubles(facts).into_iter().filter(|trouble| kinds.contains(&trouble.kind));
    found.map(|trouble| said(trouble.log, trouble.why)).collect::<Vec<_>>().into_iter()
}

fn log_missing(facts: &Facts) -> Answer {
    let missing = facts.logs.iter().filter(|log| !log.exists).map(|log| log.checked.path.as_str());
    let missing = missing.chain(facts.without_logs.iter().map(String::as_str));
    let written = written_logs(facts);
    each(Unprotected, missing.map(|log| text::log_missing(log, &written)))
}

fn log_unreadable(facts: &Facts) -> Answer {
    let exists = |source: &str| {
        let logs = facts.logs.iter().filter(|log| log.checked.source == source);
        logs.clone().next().is_none() || logs.clone().any(|log| log.exists)
    };
    let by_agent = troubles(facts)
        .into_iter()
        .filter(|trouble| trouble.is_agents && matches!(trouble.kind, "unread" | "degraded"))
        .filter(|trouble| exists(trouble.log))
        .map(|trouble| (trouble.log.to_owned(), text::log_unreadable(trouble.log, trouble.why, true)));
    let by_agent: Vec<(String, Said)> = by_agent.collect();
    let is_told = |log: &&Log| !by_agent.iter().any(|(source, _)| *source == log.checked.source);
    let own = facts.logs.iter().filter(|log| log.is_denied && facts.answers().is_none()).filter(is_told);
    let own: Vec<Said> = own
        .map(|log| {
            let why = log.checked.unread.as_deref().unwrap_or_default();
            text::log_unreadable(&log.checked.path, why, false)
        })
        .collect();
    each(Unprotected, by_agent.into_iter().map(|(_, said)| said).chain(own))
}

fn log_moved(facts: &Facts) -> Answer {
    each(Unprotected, facts.nginx.moved.iter().map(|(log, written)| text::log_moved(log, written)))
}

/// The logs that nginx writes, as absolute paths or patterns.
fn written_logs(facts: &Facts) -> Vec<String> {
    let logs = facts.nginx.examined.iter().flat_map(|examined| &examined.logs);
    let logs = logs.filter(|log| log.path.starts_with('/') && log.path != "/dev/null");
    logs.map(|log| init::pattern(&log.path)).collect()
}

fn is_read(config: &Config, log: &str) -> bool {
    config.sources.iter().any(|source| match &source.input {
        Input::Files(text) => {
            text == log || is_matched(text, log) || same_file(Path::new(text), Path::new(log))
        }
        // Its lines may come from anywhere.
        Input::Stdin => true,
        Input::Syslog(_) => false,
    })
}

fn is_matched(text: &str, log: &str) -> bool {
    let pattern = match Place::of(text) {
        Place::Pattern(pattern) => pattern,
        Place::Path(_) => return false,
    };
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
    glob::Pattern::new(&pattern).is_ok_and(|pattern| pattern.matches_with(log, options))
}

fn same_file(one: &Path, other: &Path) -> bool {
    one.canonicalize().ok().zip(other.canonicalize().ok()).is_some_and(|(one, other)| one == other)
}

fn log_not_read(facts: &Facts) -> Answer {
    let Some(config) = config(facts) else { return Vec::new() };
    let has_syslog = config.sources.iter().any(|source| matches!(source.input, Input::Syslog(_)));
    let written = written_logs(facts);
    let unread: Vec<String> = written.iter().filter(|log| !is_read(config, log)).cloned().collect();
    let are_all = unread.len() == written.len() && !has_syslog;
    let severity = if are_all { Unprotected } else { Partly };
    // With a socket as well, a file beside it holds what the socket has.
    only(severity, !unread.is_empty() && !has_syslog, || text::log_not_read(&unread, are_all))
}

fn layout_unread(facts: &Facts) -> Answer {
    let all = ["refused", "field"];
    let whole = each(Unprotected, of_kinds(facts, &all, text::layout_unread));
    let some = each(Partly, of_kinds(facts, &["some_refused"], text::layout_unread));
    whole.into_iter().chain(some).collect()
}

fn one_client(facts: &Facts) -> Answer {
    let findings = facts.nginx.examined.iter().flat_map(|examined| &examined.findings);
    let protocol = findings.filter(|finding| finding.kind == Kind::OneAddress);
    let protocol: Vec<Said> =
        protocol.map(|finding| text::proxy_protocol(&finding.place, &finding.problem)).collect();
    each(Unprotected, of_kinds(facts, &["one_client"], text::one_client).chain(protocol))
}

/// Of so few clients nothing follows.
const MIN_CLIENTS: u64 = 5;

fn clients_spared(facts: &Facts) -> Answer {
    let checked = facts.logs.iter().map(|log| &log.checked);
    let spared =
        checked.filter(|log| log.clients >= MIN_CLIENTS && log.clients_spared * 10 >= log.clients * 9);
    each(Unprotected, spared.map(|log| text::clients_are_spared(&log.path, log.clients_spared, log.clients)))
}

fn proxied_kernel_only(facts: &Facts) -> Answer {
    let kernel_only =
        config(facts).is_some_and(|config| config.use_nginx == Use::Off && config.cloudflare.is_none());
    let proxied = facts.nginx.examined.iter().flat_map(|examined| &examined.proxied).next();
    let said = proxied.filter(|_| kernel_only);
    let said = said.map(|it| text::proxied_kernel_only(&it.place, &it.problem, &facts.config_path));
    each(Unprotected, said)
}

fn nginx_lets_in(facts: &Facts) -> Answer {
    let refuses = config(facts).is_some_and(|config| config.use_nginx != Use::Off);
    let servers = facts.nginx.examined.iter().flat_map(|examined| &examined.servers);
    let open = servers.filter(|server| server.add.iter().any(|line| line.contains("shield-deny")));
    let open: Vec<String> = open.map(|server| format!("{} ({})", server.place, server.server)).collect();
    only(Partly, refuses && !open.is_empty(), || text::nginx_lets_in(&open))
}

/// Reloads add generations of workers until no more reload is made, and no ban is in force any more.
fn nginx_workers_stay(facts: &Facts) -> Answer {
    let reloads = config(facts)
        .is_some_and(|config| config.use_nginx != Use::Off && config.nginx.backend == Backend::Map);
    let stay = facts.nginx.examined.as_ref().is_some_and(|examined| !examined.ends_workers);
    only(Partly, reloads && stay, text::nginx_workers_stay)
}

fn iptables_missing(facts: &Facts) -> Answer {
    let is_used = config(facts).is_some_and(|config| config.use_iptables != Use::Off);
    let Some(firewall) = facts.firewall.as_ref().filter(|_| is_used) else { return Vec::new() };
    let is_xdp_active = facts.is_active("xdp");
    let severity = if is_xdp_active { Partly } else { Unprotected };
    only(severity, !firewall.missing.is_empty(), || text::programs_missing(&firewall.missing, is_xdp_active))
}

fn iptables_locked(facts: &Facts) -> Answer {
    let holder = facts.firewall.as_ref().and_then(|firewall| firewall.lock_holder.as_deref());
    each(Partly, holder.map(text::locked))
}

/// The chains while an agent should keep them.
fn kept_chains(facts: &Facts) -> impl Iterator<Item = &super::facts::Chains> {
    let is_used = config(facts).is_some_and(|config| config.use_iptables != Use::Off);
    let should_be = is_used && enforces(facts) && facts.is_active("iptables");
    facts.firewall.iter().filter(move |_| should_be).flat_map(|firewall| &firewall.families)
}

fn iptables_flushed(facts: &Facts) -> Answer {
    let flushed = kept_chains(facts).filter(|chains| chains.rules_before.is_none());
    let severity = if facts.is_active("xdp") { Partly } else { Unprotected };
    each(severity, flushed.map(|chains| text::no_jump(&chains.program, chains.has_chain)))
}

fn iptables_not_first(facts: &Facts) -> Answer {
    let late = kept_chains(facts)
        .filter_map(|chains| Some((chains, chains.rules_before.filter(|before| *before > 0)?)));
    each(Partly, late.map(|(chains, before)| text::not_first(&chains.program, before)))
}

/// The reason of a degraded part.
fn degraded<'a>(facts: &'a Facts, part: &str) -> Option<&'a str> {
    let part = facts.part(part).filter(|part| part.state == PartStateName::Degraded)?;
    Some(part.text.as_str())
}

fn iptables_not_whole(facts: &Facts) -> Answer {
    let is_missing = !iptables_missing(facts).is_empty();
    let why = degraded(facts, "iptables").filter(|_| !is_missing);
    let severity = if facts.is_active("xdp") { Partly } else { Unprotected };
    each(severity, why.map(text::iptables_not_whole))
}

fn container_ports(facts: &Facts) -> Answer {
    let Some(firewall) = &facts.firewall else { return Vec::new() };
    let is_covered = kept_chains(facts).any(|chains| chains.is_forwarded_covered);
    let is_open = firewall.redirects_ports
        && kept_chains(facts).next().is_some()
        && !is_covered
        && !facts.is_active("xdp");
    only(Partly, is_open, || text::containers(&facts.config_path))
}

/// The oldest kernel whose XDP has what Shield needs.
const OLDEST_KERNEL: (u32, u32) = (5, 10);

fn kernel_too_old(facts: &Facts) -> Answer {
    let is_used = config(facts).is_some_and(|config| config.use_xdp != Use::Off);
    only(Partly, is_used && facts.kernel < OLDEST_KERNEL, || text::old_kernel(facts.kernel))
}

fn xdp_not_attached(facts: &Facts) -> Answer {
    let severity = if facts.is_active("iptables") { Partly } else { Unprotected };
    let why = degraded(facts, "xdp").filter(|_| facts.kernel >= OLDEST_KERNEL);
    each(severity, why.map(text::no_xdp))
}

fn xdp_elsewhere(facts: &Facts) -> Answer {
    let Some(config) = config(facts).filter(|config| config.use_xdp != Use::Off) else {
        return Vec::new();
    };
    let Selection::Named(named) = &config.xdp.interfaces else { return Vec::new() };
    let routes = &facts.network.default_routes;
    let is_guarded = |(name, below): &(String, Vec<String>)| {
        named.contains(name) || below.iter().any(|below| named.contains(below))
    };
    let names: Vec<String> = routes.iter().map(|(name, _)| name.clone()).collect();
    let is_elsewhere = !routes.is_empty() && !routes.iter().any(is_guarded);
    only(Partly, is_elsewhere, || text::xdp_elsewhere(named, &names, &facts.config_path))
}

fn xdp_generic(facts: &Facts) -> Answer {
    let generic = facts.part("xdp").filter(|part| part.state == PartStateName::Active);
    let generic =
        generic.filter(|part| part.text.contains("generic (") || part.text.contains("TC ingress ("));
    each(Note, generic.map(|part| text::xdp_generic(&part.text)))
}

/// An allowlist is too wide when it covers more than one of this many addresses.
const ONE_OF: u128 = 256;

fn allowlist_too_wide(facts: &Facts) -> Answer {
    let mut networks: Vec<IpNet> = Vec::new();
    networks.extend(config(facts).iter().flat_map(|config| &config.allow).map(|allowed| allowed.network));
    networks.extend(facts.answers().iter().flat_map(|answers| &answers.allowed));
    networks.retain(|network| is_public(*network));
    let networks = IpNet::aggregate(&networks);
    let is_wide = |bits: u32, is_v4: bool| {
        let own = networks.iter().filter(|network| network.addr().is_ipv4() == is_v4);
        let covered = own.map(|network| 1_u128 << (bits - u32::from(network.prefix_len()).min(bits)));
        covered.fold(0, u128::saturating_add) > (1_u128 << bits) / ONE_OF
    };
    // IPv6 by its first 64 bits, of which an eighth is in use on the internet.
    let wide = [(true, is_wide(32, true)), (false, is_wide(61, false))];
    let wide = wide.into_iter().filter(|(_, is_wide)| *is_wide).map(|(is_v4, _)| {
        let mut widest: Vec<&IpNet> =
            networks.iter().filter(|network| network.addr().is_ipv4() == is_v4).collect();
        widest.sort_by_key(|network| network.prefix_len());
        let shown: Vec<String> = widest.iter().take(4).map(|network| network.to_string()).collect();
        text::allows_much(&shown)
    });
    each(Partly, wide)
}

/// Not in a network of private, shared or local addresses, which are none of the internet.
fn is_public(network: IpNet) -> bool {
    const LOCAL: [&str; 9] = [
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
        "ff00::/8",
    ];
    let local = LOCAL.iter().map(|text| text.parse::<IpNet>().expect("the constants are networks"));
    !local.into_iter().any(|local| local.contains(&network))
}

fn requests_twice(facts: &Facts) -> Answer {
    let Some(config) = config(facts) else { return Vec::new() };
    let findings = facts.nginx.examined.iter().flat_map(|examined| &examined.findings);
    let twice = findings.filter_map(|finding| match &finding.kind {
        Kind::Twice(logs) if logs.iter().all(|log| is_read(config, &init::pattern(log))) => {
            Some(text::twice(&finding.place, logs))
        }
        _ => None,
    });
    each(Partly, twice)
}

/// A log that nothing was written to for so long while nginx runs.
const SILENT_MS: i64 = 3_600_000;

fn log_silent(facts: &Facts) -> Answer {
    let by_agent = of_kinds(facts, &["silent"], text::log_silent_by_agent);
    let is_told = by_agent.size_hint().0 > 0;
    let old =
        facts.logs.iter().filter(|_| facts.nginx.is_running && !is_told && facts.nginx.moved.is_empty());
    let old = old.filter(|log| log.checked.problem.is_none()).filter_map(|log| {
        let last_ms = log.checked.times_ms?.1;
        // A line that nginx holds back in its buffer counts when it is written.
        let last_ms = last_ms.max(log.modified_ms.unwrap_or(last_ms));
        let age_ms = facts.now_ms.saturating_sub(last_ms);
        let secs = u64::try_from(age_ms / 1000).ok().filter(|_| age_ms > SILENT_MS)?;
        Some(text::log_silent(&log.checked.path, secs))
    });
    // Of many logs some are always quiet.
    let all_are_old = old.clone().count() == facts.logs.len();
    let old: Vec<Said> = old.filter(|_| all_are_old).collect();
    each(Partly, by_agent.chain(old))
}

fn log_late(facts: &Facts) -> Answer {
    let findings = facts.nginx.examined.iter().flat_map(|examined| &examined.findings);
    let buffered = findings.filter(|finding| finding.kind == Kind::Late);
    let buffered: Vec<Said> = buffered.map(|finding| text::late(&finding.place, &finding.problem)).collect();
    each(Partly, of_kinds(facts, &["behind", "late"], text::late).chain(buffered))
}

fn log_hidden(facts: &Facts) -> Answer {
    // An agent that runs says by itself what it cannot read.
    let findings = facts.nginx.examined.iter().filter(|_| facts.answers().is_none());
    let hidden = findings.flat_map(|examined| &examined.findings).filter(|it| it.kind == Kind::Hidden);
    each(Partly, hidden.map(|finding| text::hidden(&finding.place, &finding.problem)))
}

fn addresses_forgeable(facts: &Facts) -> Answer {
    let findings = facts.nginx.examined.iter().flat_map(|examined| &examined.findings);
    let forgeable = findings.filter(|finding| finding.kind == Kind::Forgeable);
    each(Partly, forgeable.map(|finding| text::forgeable(&finding.place, &finding.problem)))
}

/// Lines further ahead of the clock than this do not count where they stand.
const AHEAD_MS: i64 = 300_000;

fn clock_wrong(facts: &Facts) -> Answer {
    let said = facts.logs.iter().filter_map(|log| {
        let path = &log.checked.path;
        let newest_ms = log.checked.times_ms?.1;
        if newest_ms > facts.now_ms + AHEAD_MS {
            return Some(text::clock_ahead(path, newest_ms, facts.now_ms));
        }
        let written_ms = log.modified_ms?;
        let is_behind = facts.now_ms - written_ms < AHEAD_MS && written_ms - newest_ms > SILENT_MS;
        is_behind.then(|| text::clock_behind(path, newest_ms, written_ms))
    });
    each(Partly, said)
}

/// Below this the database cannot grow by much more than one transaction.
const MIN_FREE_BYTES: u64 = 16 << 20;

fn disk_full(facts: &Facts) -> Answer {
    let disk = &facts.disk;
    let is_full = !disk.is_read_only && (disk.free_bytes < MIN_FREE_BYTES || disk.has_no_inodes);
    let said = config(facts).filter(|_| is_full);
    each(Partly, said.map(|it| text::disk_full(&it.state_dir, disk.free_bytes, disk.has_no_inodes)))
}

fn state_unwritable(facts: &Facts) -> Answer {
    let Some(config) = config(facts) else { return Vec::new() };
    if facts.disk.is_read_only {
        return vec![(Partly, text::disk_read_only(&config.state_dir))];
    }
    let is_full = !disk_full(facts).is_empty();
    let store = ["store", "store-disk"].iter().filter_map(|part| degraded(facts, part));
    each(Partly, store.filter(|_| !is_full).map(|why| text::store(why, &config.state_dir)))
}

fn alerts_unsent(facts: &Facts) -> Answer {
    let mut said: Vec<Said> = Vec::new();
    for section in ["slack", "webhook"] {
        let seen = facts.alerts.iter().find(|(of, _)| *of == section).map(|(_, why)| why.as_str());
        said.extend(degraded(facts, section).or(seen).map(|why| text::alerts(section, why)));
    }
    each(Partly, said)
}

fn old_version_runs(facts: &Facts) -> Answer {
    let installed = env!("CARGO_PKG_VERSION");
    let other = facts.status().map(|status| status.version.as_str()).filter(|runs| *runs != installed);
    each(Partly, other.map(|runs| text::old_version(runs, installed)))
}

fn not_at_boot(facts: &Facts) -> Answer {
    let unit = facts.unit.as_ref().filter(|unit| unit.is_loaded && unit.active == "active");
    each(Partly, unit.filter(|unit| unit.file == "disabled").map(|unit| text::not_at_boot(&unit.file)))
}

/// Parts that have causes of their own.
const EXPLAINED: [&str; 6] = ["iptables", "xdp", "store", "store-disk", "slack", "webhook"];

fn part_degraded(facts: &Facts) -> Answer {
    let parts = facts.status().into_iter().flat_map(|status| &status.parts).filter(|part| {
        part.state == PartStateName::Degraded
            && !EXPLAINED.contains(&part.part.as_str())
            && !part.part.starts_with("source:")
    });
    let is_refused = facts.config.is_err();
    let parts = parts.filter(|part| !(is_refused && part.part == "config"));
    each(Partly, parts.map(|part| text::part(&part.label, &part.text)))
}

/// The rules that can be told to observe.
const DETECTED: [Rule; 6] =
    [Rule::ZScore, Rule::RateMultiplier, Rule::ErrorSurge, Rule::Probing, Rule::Flood, Rule::Behaviour];

fn rules_observe(facts: &Facts) -> Answer {
    let Some(config) = config(facts) else { return Vec::new() };
    let observed = &config.policy.observe;
    let names: Vec<&str> = observed.iter().map(|rule| rule.name()).collect();
    let are_all = DETECTED.iter().all(|rule| observed.contains(rule));
    let severity = if are_all { Unprotected } else { Note };
    only(severity, !names.is_empty(), || text::observing(&names, are_all, &facts.config_path))
}

fn warm_up(facts: &Facts) -> Answer {
    let warming = facts.status().filter(|status| status.detector.warm_up.is_some());
    each(Note, warming.map(|status| text::warm_up(&status.detector.text)))
}
