//! A suggestion as nginx's configuration: what belongs inside `http { }`, and what belongs inside a `server { }`.
//!
//! The limits are chosen by `map`, so no `location` of the operator's has to be touched; a request whose key is empty counts in
//! no zone. They stand in a server and not above it, because there `limit_req_dry_run` would switch off other limits.
//! Of the log nothing is written but numbers and the names of places, which consist of plain characters.

use std::fmt::Write as _;

use super::{PlaceLimit, Suggestion};
use crate::replay::rfc3339;
use crate::text;

const OWN: &str = "by `shield-agent suggest nginx`";

/// The names of the files for the two parts.
pub(crate) const HTTP_FILE: &str = "shield-limits-http.conf";
pub(crate) const SERVER_FILE: &str = "shield-limits-server.conf";

/// What belongs inside `http { }`: zones count, and limit nothing by themselves.
pub(crate) fn http(suggestion: &Suggestion) -> String {
    let mut out = format!("# Places and zones for limit_req, {OWN}\n");
    out.push_str("# Belongs inside http { }, once.\n");
    if !suggestion.exempt.is_empty() {
        out.push_str("\n# [allow] networks of Shield: limited nowhere.\n");
    }
    out.push_str("geo $shield_limits {\n    default 1;\n");
    for network in &suggestion.exempt {
        let _ = writeln!(out, "    {network} 0;");
    }
    out.push_str("}\n\nmap $uri $shield_place {\n");
    for (nth, limit) in numbered(suggestion) {
        match limit.place.pattern() {
            Some(pattern) => {
                let _ = writeln!(out, "    \"{pattern}\" {nth};");
            }
            None if limit.is_limited => {
                let _ = writeln!(out, "    default {nth};");
            }
            None => out.push_str("    default 0;\n"),
        }
    }
    out.push_str("}\n");
    for (nth, limit) in numbered(suggestion).filter(|(_, limit)| limit.is_limited) {
        let _ = write!(
            out,
            "\n# {}\nmap \"$shield_limits $shield_place\" $shield_key_{nth} {{\n    default \"\";\n    \"1 {nth}\" \
             $binary_remote_addr;\n}}\nlimit_req_zone $shield_key_{nth} zone=shield_{nth}:{}m rate={};\n",
            limit.place, limit.zone_mib, limit.rate
        );
    }
    out
}

/// What belongs inside a `server { }`: the limits, which only count until the dry run is switched off.
pub(crate) fn server(suggestion: &Suggestion) -> String {
    let mut out = format!("# Limits {OWN}\n");
    for line in proof(suggestion) {
        let _ = writeln!(out, "# {line}");
    }
    out.push_str(SWITCH);
    out.push_str("limit_req_dry_run on;\nlimit_req_status 429;\nlimit_req_log_level warn;\n");
    for (nth, limit) in numbered(suggestion) {
        let beyond = if limit.delays { format!("delay={}", limit.undelayed) } else { "nodelay".to_owned() };
        let _ = write!(out, "\n# {}\n", about(limit));
        if !limit.is_limited {
            continue;
        }
        let _ = writeln!(out, "limit_req zone=shield_{nth} burst={} {beyond};", limit.burst);
    }
    out
}

const SWITCH: &str = "\
#
# Belongs inside each server { } to be limited. A location with limit_req lines of its own does not take these over,
# but limit_req_dry_run holds for its lines too: leave such a server out, or say `limit_req_dry_run off;` in that location.
#
# A dry run: nothing is delayed or refused. nginx writes `delaying request, dry run` and `limiting requests, dry run` into
# its error log, and $limit_req_status in a log_format names DELAYED_DRY_RUN and REJECTED_DRY_RUN.
# To switch it on: watch it for some days, change the next line to `limit_req_dry_run off;`, test with `nginx -t`, and
# reload nginx. To switch it off again: change it back. Needs nginx 1.17.1 or later.
";

fn numbered(suggestion: &Suggestion) -> impl Iterator<Item = (usize, &PlaceLimit)> {
    suggestion.limits.iter().enumerate().map(|(at, limit)| (at + 1, limit))
}

/// A place's limit and what it would have done, in one line.
fn about(limit: &PlaceLimit) -> String {
    if !limit.is_limited {
        return format!(
            "{}: not limited, because {} good clients do not tell what is normal there; {} attack requests",
            limit.place, limit.good_clients, limit.attack_requests
        );
    }
    format!(
        "{}: {} good clients, 99.9 % of them with at most {} in a minute; would have delayed {} and refused {} of them, and \
         of {} attack requests {}",
        limit.place,
        limit.good_clients,
        text::counted(u64::from(limit.busiest_minute), "request"),
        limit.good_clients_delayed,
        limit.good_clients_refused,
        limit.attack_requests,
        text::percent(limit.attack_requests_delayed + limit.attack_requests_refused, limit.attack_requests),
    )
}

/// What the limits would have done, and by which rules that was worked out.
fn proof(suggestion: &Suggestion) -> Vec<String> {
    let span = suggestion
        .span
        .map_or_else(String::new, |(first, last)| format!(", {} to {}", rfc3339(first), rfc3339(last)));
    let hit = suggestion.attack_requests_delayed + suggestion.attack_requests_refused;
    let mut lines = vec![
        format!(
            "Would have delayed {} of {} good clients and {} of attack requests{span};",
            suggestion.good_clients_delayed,
            suggestion.good_clients,
            text::percent(hit, suggestion.attack_requests),
        ),
        format!(
            "refused: something of {} good clients, {} of attack requests.",
            suggestion.good_clients_refused,
            text::percent(suggestion.attack_requests_refused, suggestion.attack_requests),
        ),
        format!(
            "Good are clients that were served and that no rule of Shield's bans; attackers are the {} that one does",
            text::counted(suggestion.attackers, "client"),
        ),
        format!("({} are neither, and left out).", suggestion.unclear_clients),
        "The log tells whole seconds. At worst for the limits, good clients' requests of a second come together and".to_owned(),
        "attackers' evenly spread; requests that nginx answers before its limits (redirects by `return`) are counted too.".to_owned(),
    ];
    if suggestion.limits.iter().any(|limit| limit.good_clients < 1000) {
        lines.push(
            "Where fewer than 1,000 good clients are known, their 99.9 % is the busiest of them.".to_owned(),
        );
    }
    if suggestion.requests_by_proxy > 0 {
        lines.push(format!(
            "WARNING: {} requests came by a proxy. nginx must know the clients' addresses (set_real_ip_from), or all of",
            suggestion.requests_by_proxy
        ));
        lines.push("them count as one client.".to_owned());
    }
    if suggestion.lines_side_by_side > 0 {
        lines.push(format!(
            "WARNING: {} lines are of logs that were written side by side. Name the logs of one site at a time.",
            suggestion.lines_side_by_side
        ));
    }
    lines
}
