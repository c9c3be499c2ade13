//! Every text format through the whole parser, and the compiled reader compared with an obvious one.

use super::*;
use crate::{Output, Parser, Settings};

const ADDR: &str = "198.51.100.7";
const LOCAL: &str = "24/Nov/2026:15:35:01 +0100";
const ISO: &str = "2026-11-24T15:35:01+01:00";

/// Reads lines one after the other by one parser, and shows each.
struct Log(Parser);

impl Log {
    fn auto() -> Log {
        Log(Parser::new(&Settings::default()))
    }

    fn behind(proxies: &[&str]) -> Log {
        let trusted_proxies = proxies.iter().map(|network| network.parse().unwrap()).collect();
        Log(Parser::new(&Settings { trusted_proxies, ..Settings::default() }))
    }

    fn of(format: &str) -> Log {
        let settings = match Recipe::of(format) {
            Ok(Recipe::Text(template)) => {
                Settings { format: Format::Template(template), ..Settings::default() }
            }
            Ok(Recipe::Json(fields)) => {
                Settings { format: Format::Json, fields: *fields, ..Settings::default() }
            }
            Err(why) => panic!("{format}: {why:?}"),
        };
        Log(Parser::new(&settings))
    }

    fn line(&mut self, line: impl AsRef<[u8]>) -> String {
        let mut block = [line.as_ref(), b"\n"].concat();
        let mut out = Output::default();
        let end = block.len();
        self.0.parse_block(&mut block, 0, end, &mut out);
        let Some(line) = out.lines.first() else {
            let reason = Rejected::ALL.into_iter().find(|reason| out.rejected[reason.index()] == 1);
            return reason.unwrap().name().to_owned();
        };
        let text = |at: u32, len: usize| {
            String::from_utf8_lossy(&block[at as usize..at as usize + len]).into_owned()
        };
        let method = text(line.method_at, usize::from(line.method_len));
        let path = text(line.path_at, line.path_len as usize);
        let mut shown = format!("{} {} {method} {path} {} {}", line.addr, line.time, line.status, line.size);
        shown.push_str(if line.behind_proxy { " proxied" } else { "" });
        shown.push_str(if line.salvaged { " salvaged" } else { "" });
        shown
    }
}

const READ: &str = "198.51.100.7 1795530901 GET /a?b=c 404 153";

#[test]
fn the_known_formats_are_recognised_by_themselves() {
    let check = |name: &str, line: &str| {
        let mut log = Log::auto();
        assert_eq!(log.line(line), READ, "{line}");
        assert_eq!(log.0.recognised(), Some(name), "{line}");
        assert_eq!(log.line(line), READ, "{line}");
    };
    let request = r#""GET /a?b=c HTTP/1.1" 404 153"#;
    let tail = r#""-" "Mozilla/5.0 (X11; Linux x86_64)""#;
    check("combined", &format!("{ADDR} - - [{LOCAL}] {request} {tail}"));
    check("combined", &format!("{ADDR} - - [{LOCAL}] {request}"));
    check(
        "combined",
        &format!("{ADDR} - frank [{LOCAL}] {request} {tail} 1 \"app@docker\" \"http://192.0.2.9:80\" 5ms"),
    );
    check("combined", &format!("{ADDR}:51234 - - [{LOCAL}] {request} {tail} 1234"));
    check(
        "combined",
        &format!(
            "{ADDR} - [{ADDR}] - - [{LOCAL}] {request} {tail} 512 0.004 [default-shop-80] [] 192.0.2.9:8080 153 0.004 404 req"
        ),
    );
    check("combined with identities", &format!("{ADDR} frank admin [{LOCAL}] {request} {tail}"));
    check("combined with ISO times", &format!("{ADDR} - - [{ISO}] {request} {tail}"));
    check("combined with ISO times", &format!("{ADDR} - - {ISO} {request} {tail}"));
    check("combined with Unix times", &format!("{ADDR} - - [1795530901.123] {request} {tail}"));
    check(
        "combined, host first",
        &format!("www.example.org {ADDR} - - [{LOCAL}] {request} {tail} \"192.0.2.10:80\""),
    );
    check("combined, host first", &format!("www.example.org:443 {ADDR} - - [{LOCAL}] {request} {tail}"));
    check("combined, host first", &format!("192.0.2.10 {ADDR} - - [{LOCAL}] {request} {tail}"));
    check("combined with ISO times, host first", &format!("_ {ADDR} - - [{ISO}] {request} {tail}"));
    let manager = format!("GET https www.example.org \"/a?b=c\" [Client {ADDR}] [Length 153] [Gzip 3.05]");
    for statuses in ["- 200 404", "- - 404", "HIT - 404", "- 502, 404 404", "- 502 : 404 404"] {
        let line = format!("[{LOCAL}] {statuses} - {manager} [Sent-to 192.0.2.10] \"agent\" \"-\"");
        check("Nginx Proxy Manager", &line);
    }
    check("Nginx Proxy Manager", &format!("[{LOCAL}] 404 - {manager} \"agent\" \"-\""));
    for time in [
        format!("[{LOCAL}]"),
        format!("[{ISO}]"),
        ISO.to_owned(),
        LOCAL.to_owned(),
        "1795530901.123".to_owned(),
    ] {
        check("time first", &format!("{time} {ADDR} - - {request} {tail}"));
        check("time first", &format!("{time} {ADDR} {request} {tail}"));
        check("time first", &format!("{time} www.example.org {ADDR} - - {request} {tail}"));
        check("time first", &format!("{time} www.example.org {ADDR} {request} {tail}"));
        check("time first", &format!("{time} {ADDR} www.example.org {request} {tail}"));
    }
    check(
        "combined, forwarded addresses first",
        &format!("203.0.113.1, 192.0.2.200, {ADDR} - - [{LOCAL}] {request} {tail}"),
    );
}

#[test]
fn odd_lines_of_a_known_format_are_read() {
    let mut log = Log::auto();
    let request = r#""GET / HTTP/1.1" 401 12 "-" "-""#;
    let read = "198.51.100.7 1795530901 GET / 401 12";
    assert_eq!(log.line(format!("{ADDR} - - [{LOCAL}] {request}")), read);
    for user in
        ["Jörg Müller", "a]b[c", "a [b] c", "203.0.113.1 - -", &format!("x [{LOCAL}] y"), r"\x22 200 0"]
    {
        assert_eq!(log.line(format!("{ADDR} - {user} [{LOCAL}] {request}")), read, "{user}");
    }
    let mut check = |line: String, expected: &str| assert_eq!(log.line(&line), expected, "{line}");
    check(format!("[2001:db8::9]:443 - - [{LOCAL}] {request}"), "2001:db8::9 1795530901 GET / 401 12");
    check(format!("fe80::1%eth0 - - [{LOCAL}] {request}"), "fe80::1 1795530901 GET / 401 12");
    check(format!("unix: - - [{LOCAL}] {request}"), "no_address");
    check(format!("- - - [{LOCAL}] {request}"), "no_address");
    check(format!(" - - [{LOCAL}] {request}"), "no_address");
    check(format!("{ADDR} - - [{LOCAL}] \"\" 400 0"), "198.51.100.7 1795530901   400 0");
    check(format!("{ADDR} - - [{LOCAL}] \"-\" 408 -"), "198.51.100.7 1795530901   408 0");
    check(format!("{ADDR} - - [{LOCAL}] \"GET / HTTP/1.1\" 000 0"), "198.51.100.7 1795530901 GET / 0 0");
    check(
        format!("{ADDR} - - [{LOCAL}] \"GET / HTTP/1.1\" 499 0 0.000 \"-\""),
        "198.51.100.7 1795530901 GET / 499 0",
    );
}

const REQUEST: &str = r#""GET / HTTP/1.1" 404 5 "-" "-""#;
const OURS: &str = "198.51.100.7 1795530901 GET / 404 5";

#[test]
fn a_header_of_syslog_may_stand_before_any_line() {
    for header in [
        "Nov 24 14:35:01 web nginx: ",
        "<190>1 2026-11-24T14:35:01Z web nginx - - - ",
        "2026-11-24T14:35:01Z web nginx: ",
    ] {
        let check =
            |line: &str| assert_eq!(Log::auto().line(format!("{header}{line}")), OURS, "{header}{line}");
        check(&format!("{ADDR} - - [{LOCAL}] {REQUEST}"));
        check(&format!("www.example.org {ADDR} - - [{LOCAL}] {REQUEST}"));
        check(&format!(
            "{{\"source_ip\":\"{ADDR}\",\"timestamp\":\"{ISO}\",\"method\":\"GET\",\"path\":\"/\",\"status\":404,\"response_size\":5}}"
        ));
        let mut own = Log::of("$status $body_bytes_sent $remote_addr $msec \"$request\"");
        assert_eq!(own.line(format!("{header}404 5 {ADDR} 1795530901.000 \"GET / HTTP/1.1\"")), OURS);
    }
    let mut own =
        Log::of("$time_iso8601 $hostname nginx: $remote_addr \"$request\" $status $body_bytes_sent");
    assert_eq!(own.line(format!("{ISO} web nginx: {ADDR} {REQUEST}").replace(" \"-\" \"-\"", "")), OURS);
}

/// The list is read from the right past the trusted proxies; what the client wrote itself is left of that.
#[test]
fn a_list_of_forwarded_addresses_is_read() {
    let proxies = ["192.0.2.128/25", "127.0.0.1/32"];
    let proxied = format!("{OURS} proxied");
    let lists = |log: &mut Log, list: &str| log.line(format!("{list} - - [{LOCAL}] {REQUEST}"));
    for warm in [false, true] {
        let check = |list: &str, expected: &str| {
            let mut log = Log::behind(&proxies);
            if warm {
                assert_eq!(lists(&mut log, &format!("{ADDR}, 192.0.2.200, 127.0.0.1")), proxied);
                assert_eq!(log.0.recognised(), Some("combined, forwarded addresses first"));
            }
            assert_eq!(lists(&mut log, list), expected, "{list}, {warm}");
        };
        check(&format!("{ADDR}, 192.0.2.200, 127.0.0.1"), &proxied);
        check(&format!("{ADDR},192.0.2.200"), &proxied);
        // Two addresses look like a host and an address.
        check(&format!("{ADDR}, 192.0.2.200"), &proxied);
        check(&format!("203.0.113.1, {ADDR}, 127.0.0.1"), &proxied);
        check(&format!("unknown, {ADDR}, 192.0.2.200, 127.0.0.1"), &proxied);
        check(&format!("' or 1=1, {ADDR}, 192.0.2.200, 127.0.0.1"), &proxied);
        check(ADDR, OURS);
        check("-", "no_address");
    }
    // What the client wrote looks like the list's end, or its user name like a list.
    let mut log = Log::behind(&proxies);
    assert_eq!(lists(&mut log, &format!("{ADDR}, 192.0.2.200, 127.0.0.1")), proxied);
    assert_eq!(lists(&mut log, &format!("203.0.113.1 - x, {ADDR}, 192.0.2.200, 127.0.0.1")), proxied);
    assert_eq!(lists(&mut log, &format!("{ADDR}, 192.0.2.200, 127.0.0.1 - b, 203.0.113.1 -")), proxied);
    // Nobody can tell these two apart, so nobody is charged.
    assert_eq!(lists(&mut log, &format!("203.0.113.1, 127.0.0.1 - x, {ADDR}, 127.0.0.1")), "no_address");
}

/// A client chooses its host, its user name and its headers, and with `$http_host` even blanks in the host of a request that
/// nginx refuses.
#[test]
fn a_client_cannot_choose_the_address_of_a_recognised_line() {
    let host_first = |host: &str| format!("{host} {ADDR} - - [{LOCAL}] {REQUEST}");
    let refused = |host: &str| format!("{host} {ADDR} - - [{LOCAL}] \"GET / HTTP/1.1\" 400 0 \"-\" \"-\"");
    for warm in [false, true] {
        let log = || {
            let mut log = Log::auto();
            if warm {
                assert_eq!(log.line(host_first("www.example.org")), OURS);
            }
            log
        };
        for host in
            ["203.0.113.1", "203.0.113.1,", "-", "[203.0.113.1]", "<190>1", "203.0.113.1:80", "a\\x22b"]
        {
            assert_eq!(log().line(host_first(host)), OURS, "{host}, {warm}");
        }
        for host in [
            "203.0.113.1 - -",
            "203.0.113.1 -",
            "x 203.0.113.1 - a",
            "203.0.113.1 x",
            "203.0.113.1, 203.0.113.2 - -",
        ] {
            let read = log().line(refused(host));
            assert!(!read.contains("203.0.113"), "{host}, {warm}: {read}");
        }
    }
    // A user's name that looks like the end of a list, behind a host.
    for user in ["13.9, 203.0.113.10 - - 19", "x, 203.0.113.1 - -", "203.0.113.2, 203.0.113.1 - - x"] {
        let read = Log::auto().line(format!("www.example.org {ADDR} - {user} [{LOCAL}] {REQUEST}"));
        assert!(!read.contains("203.0.113"), "{user}: {read}");
    }
    let mut log = Log::auto();
    for time in [ISO, "1795530901.5"] {
        assert_eq!(
            Log::auto().line(format!("{time} 203.0.113.1 {ADDR} {REQUEST}")),
            "no_address",
            "either may be the host"
        );
    }
    assert_eq!(log.line(format!("{ISO} www.example.org {ADDR} {REQUEST}")), OURS);
    assert_eq!(log.line(format!("{ISO} 203.0.113.1 {ADDR} {REQUEST}")), OURS);
    // The host of a request that is none is empty, and its line no line of another format.
    let mut log = Log::auto();
    assert_eq!(log.line(host_first("www.example.org")), OURS);
    for _ in 0..8 {
        assert_eq!(log.line(host_first("")), OURS);
    }
    assert_eq!(log.0.recognised(), Some("combined, host first"));
    // Found by the fuzzer: where no format fitted, the host was extended over the address.
    let user = "3.0.113.1 - -x";
    let read = Log::auto().line(format!("{ADDR} - {user} [{ISO}] {REQUEST}"));
    assert!(!read.contains("3.0.113.1"), "{read}");
    // A format cannot be unlearned by odd lines.
    let mut log = Log::auto();
    assert_eq!(log.line(host_first("www.example.org")), OURS);
    for _ in 0..20 {
        let read = log.line(refused("203.0.113.1 - -"));
        assert!(!read.contains("203.0.113"), "{read}");
    }
    assert_eq!(log.line(host_first("203.0.113.1")), OURS);
}

/// Replays the fuzzer's findings and lines like them, each in a log of its own and after lines of either order.
#[test]
fn nobody_else_is_charged_with_what_was_found_once() {
    let before = [
        String::new(),
        format!("{ADDR} - - [{LOCAL}] {REQUEST}"),
        format!("www.example.org {ADDR} - - [{LOCAL}] {REQUEST}"),
    ];
    for line in include_str!("../../../../tests/fuzz/corpus/formats.txt").lines() {
        for first in &before {
            let is_of_another_log = first.starts_with(ADDR) && !line.starts_with(ADDR);
            let mut log = Log::auto();
            log.line(first);
            let read = log.line(line);
            assert!(
                read.starts_with(ADDR) || read.starts_with("no_") || is_of_another_log,
                "{first}\n{line}\n{read}"
            );
        }
    }
}

#[test]
fn every_part_of_a_log_format_is_understood() {
    let check = |format: &str, line: &str, expected: &str| {
        assert_eq!(Log::of(format).line(line), expected, "{format}\n{line}");
    };
    check(
        "log_format main '$remote_addr - $remote_user [$time_local] \"$request\" '\n   '$status $body_bytes_sent \"$http_referer\" '\n  '\"$http_user_agent\" \"$http_x_forwarded_for\"';",
        &format!(
            "{ADDR} - a b] [c [{LOCAL}] \"GET /a?b=c HTTP/1.1\" 404 153 \"-\" \"\\x22 200 0 \\x22\" \"-\""
        ),
        READ,
    );
    check(
        "${remote_addr}\t${msec}\t$request_method\t$request_uri\t$status\t$bytes_sent",
        &format!("{ADDR}\t1795530901.123\tGET\t/a?b=c\t404\t153"),
        READ,
    );
    check(
        "$remote_addr|$time_iso8601|$request_method|$uri$is_args$args|$status",
        &format!("{ADDR}|{ISO}|GET|/a?b=c|404"),
        &READ.replace("153", "0"),
    );
    check(
        "$status $time_local $remote_addr \"$request_method $uri?$args\"",
        &format!("404 {LOCAL} {ADDR} \"GET /a?-\""),
        "198.51.100.7 1795530901 GET /a 404 0",
    );
    check(
        "$status $time_local $remote_addr \"$request_method $uri$is_args$args\"",
        &format!("404 {LOCAL} {ADDR} \"GET /a-\""),
        "198.51.100.7 1795530901 GET /a 404 0",
    );
    check(
        "$remote_addr $time_iso8601 $status $args \"$uri\"",
        &format!("{ADDR} {ISO} 404 b=c d \"/a\""),
        "198.51.100.7 1795530901  /a?b=c d 404 0",
    );
    check(
        "$remote_addr $time_iso8601 $status \"$request_method $scheme://$host$request_uri $server_protocol\"",
        &format!("{ADDR} {ISO} 404 \"GET https://www.example.org/a?b=c HTTP/2.0\""),
        &READ.replace("153", "0"),
    );
    check(
        "$remote_addr $time_iso8601 \"$request\" $status",
        &format!("{ADDR} {ISO} \"-\" 400"),
        "198.51.100.7 1795530901   400 0",
    );
    check(
        "escape=json '$remote_addr - $remote_user [$time_iso8601] \"$request\" $status'",
        &format!("{ADDR} -  [{ISO}] \"GET /a\\\"\\u00e9é HTTP/1.1\" 404"),
        "198.51.100.7 1795530901 GET /a\"éé 404 0",
    );
    check(
        "escape=none '$status $body_bytes_sent $remote_addr $time_iso8601 $request'",
        &format!("404 153 {ADDR} {ISO} GET /a\\x41\" 200 0 \" HTTP/1.1"),
        "198.51.100.7 1795530901 GET /a\\x41\" 200 0 \" 404 153",
    );
    check(
        "$remote_addr $time_iso8601 $request_uri $status $body_bytes_sent",
        &format!("{ADDR} {ISO} /a 200 0 b 404 153"),
        "198.51.100.7 1795530901  /a 200 0 b 404 153",
    );
    check(
        "$http_user_agent $status $remote_addr $time_iso8601",
        &format!("x 200 203.0.113.1 {ISO} 404 {ADDR} {ISO}"),
        "198.51.100.7 1795530901   404 0",
    );
    check(
        "\"$http_x_forwarded_for\" [$time_local] \"$request\" $status",
        &format!("\"203.0.113.1, {ADDR}\" [{LOCAL}] \"GET / HTTP/1.1\" 404"),
        "198.51.100.7 1795530901 GET / 404 0",
    );
    check(
        "$realip_remote_addr $remote_addr [$time_local] $status",
        &format!("192.0.2.1 {ADDR} [{LOCAL}] 404"),
        "198.51.100.7 1795530901   404 0",
    );
    check(
        "start $remote_addr [$time_local] $status end",
        &format!("start {ADDR} [{LOCAL}] 404 end"),
        "198.51.100.7 1795530901   404 0",
    );
    check("$remote_addr [$time_local] $status", &format!("unix: [{LOCAL}] 404"), "no_address");
    check("$remote_addr [$time_local] $status", &format!("{ADDR} [{LOCAL}] 1404"), "no_status");
    check("$remote_addr [$time_local] $status", "something else", "malformed");
}

#[test]
fn a_chain_is_read_where_a_proxy_is_trusted() {
    let Ok(Recipe::Text(template)) =
        Recipe::of("$remote_addr [$time_local] $status \"$http_x_forwarded_for\"")
    else {
        panic!("it is text");
    };
    let trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
    let settings = Settings { format: Format::Template(template), trusted_proxies, ..Settings::default() };
    let mut log = Log(Parser::new(&settings));
    assert_eq!(
        log.line(format!("192.0.2.1 [{LOCAL}] 404 \"203.0.113.1, {ADDR}\"")),
        "198.51.100.7 1795530901   404 0 proxied"
    );
    assert_eq!(log.line(format!("{ADDR} [{LOCAL}] 404 \"203.0.113.1\"")), "198.51.100.7 1795530901   404 0");
}

#[test]
fn a_format_in_which_a_client_could_forge_a_line_is_refused() {
    let ambiguous =
        |client: &str, hidden: &str| Unusable::Ambiguous { client: client.into(), hidden: hidden.into() };
    let breaks = |variable: &str| Unusable::BreaksLines { variable: variable.into() };
    let check = |format: &str, why: Unusable| assert_eq!(Recipe::of(format), Err(why), "{format}");
    check(
        "$http_host $remote_addr - $remote_user [$time_local] $status",
        ambiguous("http_host", "remote_addr"),
    );
    check(
        "$http_x_forwarded_for - $remote_user [$time_local] $status",
        ambiguous("http_x_forwarded_for", "http_x_forwarded_for"),
    );
    check("$remote_addr [$time_local] $request $status $http_user_agent", ambiguous("request", "request"));
    check(
        "escape=none '$remote_addr [$time_local] \"$request\" $status \"$http_user_agent\"'",
        ambiguous("request", "request"),
    );
    check(
        "escape=none '$remote_addr [$time_local] $http_cookie $status \"$http_user_agent\"'",
        ambiguous("http_cookie", "status"),
    );
    check("escape=none '$remote_addr - $remote_user [$time_local] $status'", breaks("remote_user"));
    check("escape=none '$remote_addr [$time_local] $status $uri'", breaks("uri"));
    // Neither the address nor the time may be among what a client could imitate, nor where its target begins.
    check(
        "$request_uri|$status|$http_user_agent|$remote_addr|$msec",
        ambiguous("request_uri", "request_uri"),
    );
    check(
        "$remote_addr|$request_uri|$msec|$status|$http_user_agent",
        ambiguous("request_uri", "request_uri"),
    );
    check(
        "$remote_addr|$msec|$http_user_agent|$request_uri|$status",
        ambiguous("http_user_agent", "request_uri"),
    );
    check(
        "$remote_addr$remote_port [$time_local] $status",
        Unusable::Touching { first: "remote_addr".into(), second: "remote_port".into() },
    );
}

/// Nothing marks the end of the target. What a client writes into it or into its agent can only make its line worse.
#[test]
fn a_status_between_texts_of_the_client_is_found() {
    let format =
        "$remote_addr|$time_iso8601|$request_method|$request_uri|$status|$body_bytes_sent|$http_user_agent";
    let mut log = Log::of(format);
    let mut check = |tail: &str, expected: &str| {
        let line = format!("{ADDR}|{ISO}|{tail}");
        assert_eq!(log.line(&line), format!("198.51.100.7 1795530901 {expected}"), "{line}");
    };
    check("GET|/a?b=c|404|153|Mozilla/5.0 (X11; Linux x86_64)", "GET /a?b=c 404 153");
    check("GET|/a?b=c|404|153|-", "GET /a?b=c 404 153");
    check("GET|/css?family=Open+Sans|Roboto|200|7|a | b", "GET /css?family=Open+Sans|Roboto 200 7");
    check("GET|/a|200|b|404|153|x", "GET /a|200|b 404 153");
    check("GET|/.env|404|153|x|200|0|y", "GET /.env 404 153 salvaged");
    check("GET|/a|200|0|/../.env|404|153|x", "GET /a|200|0|/../.env 404 153 salvaged");
    check("GET|/a|404|0|b|200|153|x", "GET /a 404 0 salvaged");
    check("POST|/login?|302|0||200|153|x", "POST /login?|302|0| 200 153 salvaged");
    check("GET|/a|499|0|b|403|153|x", "GET /a|499|0|b 403 153 salvaged");
    check(
        &format!("GET|/{}|404|153|x", "|302|0|".repeat(500)),
        &format!("GET /{} 404 153 salvaged", "|302|0|".repeat(500)),
    );
    assert_eq!(log.line(format!("{ADDR}|{ISO}|GET|/a|x|153|y")), "malformed");
    // Behind a target that stands alone only its end is in doubt.
    let mut log = Log::of("$remote_addr|$time_iso8601|$status|$request_uri|$http_user_agent");
    assert_eq!(log.line(format!("{ADDR}|{ISO}|404|/a|x")), "198.51.100.7 1795530901  /a 404 0");
    assert_eq!(log.line(format!("{ADDR}|{ISO}|404|/a|b|x")), "198.51.100.7 1795530901  /a 404 0 salvaged");
    let mut log = Log::of(
        "escape=none '$remote_addr\t$msec\t$request\t$http_referer\t$status\t$body_bytes_sent\t$http_user_agent'",
    );
    let start = format!("{ADDR}\t1795530901.123\t");
    assert_eq!(
        log.line(format!("{start}GET / HTTP/1.1\t-\t404\t153\tx")),
        "198.51.100.7 1795530901 GET / 404 153"
    );
    assert_eq!(
        log.line(format!("{start}GET /\t-\t404\tb HTTP/1.1\t-\t404\t153\tx")),
        "198.51.100.7 1795530901 GET / 404 153 salvaged"
    );
}

#[test]
fn what_names_the_process_may_stand_before_a_line() {
    for prefix in ["\u{1b}[36mnginx.1    | \u{1b}[0m", "nginx.1     | ", "web-1  | "] {
        let mut log = Log::auto();
        for line in [
            format!("www.example.org {ADDR} - - [{LOCAL}] {REQUEST}"),
            format!("203.0.113.1 {ADDR} - - [{LOCAL}] {REQUEST}"),
        ] {
            assert_eq!(log.line(format!("{prefix}{line}")), OURS, "{prefix}");
            let record = format!(
                "{{\"log\":{},\"stream\":\"stdout\",\"time\":\"x\"}}",
                serde_json::json!(format!("{prefix}{line}\n"))
            );
            assert_eq!(Log::auto().line(record), OURS, "{prefix}");
        }
    }
    // A host with blanks stands in the line of the request that nginx refused for it.
    let mut log = Log::auto();
    assert_eq!(log.line(format!("www.example.org {ADDR} - - [{LOCAL}] {REQUEST}")), OURS);
    for host in ["web-1 | 203.0.113.1 - -", "web-1 | x 203.0.113.1 - -", "web-1 | 203.0.113.1"] {
        let read = log.line(format!("{host} {ADDR} - - [{LOCAL}] \"GET / HTTP/1.1\" 400 0 \"-\" \"-\""));
        assert!(!read.contains("203.0.113"), "{host}: {read}");
    }
}

/// Programs that do not escape quotes as nginx does.
#[test]
fn a_quote_that_is_not_escaped_hides_nobody() {
    let mut log =
        Log::of("$remote_addr [$time_local] \"$request\" $status $body_bytes_sent \"$http_user_agent\"");
    let mut check = |request: &str, expected: &str| {
        let line = format!("{ADDR} [{LOCAL}] \"{request}\" 404 5 \"a \"quoted\" agent\"");
        assert_eq!(log.line(&line), expected, "{line}");
    };
    check("GET / HTTP/1.1", "198.51.100.7 1795530901 GET / 404 5");
    check("GET /\"a\" HTTP/1.1", "198.51.100.7 1795530901 GET /\"a\" 404 5 salvaged");
    check("GET /a\\ HTTP/1.1", "198.51.100.7 1795530901 GET /a\\ 404 5");
    check("GET /\" \" \" \" HTTP/1.1", "198.51.100.7 1795530901 GET /\" \" \" \" 404 5 salvaged");
    // Behind the client's text there may be two addresses, of which one is forged.
    let mut log = Log::of("[$time_local] \"$request\" $status $remote_addr");
    assert_eq!(
        log.line(format!("[{LOCAL}] \"GET /\"a\" HTTP/1.1\" 404 {ADDR}")),
        "198.51.100.7 1795530901 GET /\"a\" 404 0 salvaged"
    );
}

#[test]
fn names_of_json_formats_are_found() {
    let check = |format: &str, expected: [&str; 6], chain: Option<&str>| {
        let Ok(Recipe::Json(names)) = Recipe::of(format) else {
            panic!("{format}: {:?}", Recipe::of(format))
        };
        let found =
            [names.source_ip, names.timestamp, names.method, names.path, names.status, names.response_size]
                .map(Option::unwrap_or_default);
        assert_eq!((found, names.forwarded_for.as_deref()), (expected.map(str::to_owned), chain), "{format}");
    };
    check(
        "log_format j escape=json '{\"ip\":\"$remote_addr\", \"t\":$msec, '\n '\"m\":\"$request_method\",\"u\":\"$request_uri\",\"s\":$status,\"b\":$body_bytes_sent,\"x\":\"$http_x_forwarded_for\"}';",
        ["ip", "t", "m", "u", "s", "b"],
        Some("x"),
    );
    check(
        r#"{"client":{"addr":"$remote_addr"},"http":{"line":"$request","code":"$status"},"time":"$time_iso8601"}"#,
        ["client.addr", "time", "", "http.line", "http.code", ""],
        None,
    );
    check(
        r#"{ "a": "$http_x_forwarded_for", "b": "$time_local", "c": "$uri$is_args$args", "d": $status, "e": "${bytes_sent}" }"#,
        ["a", "b", "", "c", "d", "e"],
        None,
    );
    assert_eq!(Recipe::of(r#"{"a":"$remote_addr","s":$status}"#), Err(Unusable::Lacks(Missing::Time)));
    assert_eq!(Recipe::of(r#"{"a":"$remote_addr""#), Err(Unusable::Json));
}
