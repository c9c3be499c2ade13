//! What is wrong with a source, and what to do about it.

use super::{counted, duration, printable};
use shield_engine::request::{RefusedLine, Rejected};
use shield_logline::sight::{FieldFault, Finding, OneClient, Origin, RefusedLines};

/// Characters of a refused line that are shown: its format can be recognised by them.
const SHOWN_CHARS: usize = 80;

/// Names of a JSON line's fields that are shown.
const SHOWN_NAMES: usize = 12;

/// One sentence with the finding and its remedy.
pub(crate) fn finding(finding: &Finding) -> String {
    match finding {
        Finding::Refused(lines) | Finding::SomeRefused(lines) => refused(lines),
        Finding::Field(fault) => field(*fault).to_owned(),
        Finding::Silent { for_secs, usual_secs } => format!(
            "no line for {}; the longest pause at this time is usually {}; check that nginx runs and still writes this log \
             (after a rotation: `nginx -s reopen`)",
            duration(*for_secs),
            duration((*usual_secs).max(1)),
        ),
        Finding::OneClient(one) => one_client(one),
        Finding::Late { by_secs } => format!(
            "lines come up to {} after their own time, so bans come late; in nginx's access_log add flush=1s, or leave \
             out buffer= and gzip",
            duration(*by_secs)
        ),
    }
}

/// A log that could not be read for this reason for so long that it is a fault.
pub(crate) fn unread(reason: &str) -> String {
    format!(
        "{reason}; nothing could be read for over 5 min, and without a log nobody is banned: check `path` in [[source]], the \
         permissions, and where nginx writes its access_log"
    )
}

fn refused(lines: &RefusedLines) -> String {
    let count = match lines {
        RefusedLines { refused, of, .. } if refused == of => {
            format!("none of the last {} is a log line", counted(*of, "line"))
        }
        RefusedLines { refused: 1, of, .. } => {
            format!("1 of the last {} is no log line", counted(*of, "line"))
        }
        RefusedLines { refused, of, .. } => {
            format!("{refused} of the last {} are not log lines", counted(*of, "line"))
        }
    };
    let first = lines.first.as_ref().map(|first| format!("; the first begins {}", refused_line(first)));
    format!("{count}{}; see `shield-agent check`", first.unwrap_or_default())
}

/// The beginning of a refused line and why it was refused: `"web1 192.0.2.7 …" (not of the format)`.
fn refused_line(line: &RefusedLine) -> String {
    let names = shield_logline::names_in(&line.text);
    let fields = match line.reason {
        Rejected::NoAddress if !names.is_empty() => Some("source_ip"),
        Rejected::NoTime if !names.is_empty() => Some("timestamp"),
        Rejected::NoStatus if !names.is_empty() => Some("status"),
        _ => None,
    };
    let remedy = fields.map(|field| {
        let shown: Vec<&str> = names.iter().take(SHOWN_NAMES).map(String::as_str).collect();
        let more = if names.len() > SHOWN_NAMES { ", …" } else { "" };
        format!(
            ": of its fields {}{more} name the one with it in fields.{field}",
            printable(&shown.join(", "))
        )
    });
    let why = rejected(line.reason);
    format!("\"{}\" ({why}{})", beginning(&line.text), remedy.unwrap_or_default())
}

/// The beginning of a line with its control characters escaped.
pub(crate) fn beginning(line: &[u8]) -> String {
    let text = printable(&String::from_utf8_lossy(line));
    let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
    if shown.len() < text.len() || line.len() >= RefusedLine::MAX_BYTES {
        shown.push('…');
    }
    shown
}

/// Why a line is refused.
pub(crate) fn rejected(reason: Rejected) -> &'static str {
    match reason {
        Rejected::Malformed => "not of the format",
        Rejected::NoAddress => "no client address found in it",
        Rejected::NoTime => "no time found in it",
        Rejected::NoStatus => "no status found in it",
        Rejected::TooLong => "longer than max_line_bytes",
        Rejected::Empty => "empty",
    }
}

fn field(fault: FieldFault) -> &'static str {
    match fault {
        FieldFault::PathIsRequest => {
            "the path holds whole request lines (`GET /x HTTP/1.1`); let it hold $request_uri, or name the field that \
             does in fields.path"
        }
        FieldFault::PathEmpty => {
            "the path is empty in the lines of served requests; name the field with $request_uri in fields.path"
        }
        FieldFault::MethodIsNumber => {
            "the method is a number; name the field with $request_method in fields.method"
        }
        FieldFault::StatusZero => "the status is always 0; name the field with $status in fields.status",
        FieldFault::TimeStands => {
            "the time has been the same in every line for over ten minutes; name the field with $time_iso8601 in \
             fields.timestamp"
        }
    }
}

fn one_client(one: &OneClient) -> String {
    let addr = one.addr;
    let (who, remedy) = match one.origin {
        Origin::TrustedProxy => {
            let remedy = "log its header, \"forwarded_for\":\"$http_x_forwarded_for\", and name it in fields.forwarded_for";
            return format!("all requests have the client {addr}, a proxy of trusted_proxies; {remedy}");
        }
        Origin::Own => ("an address of this host", ""),
        Origin::Gateway => ("a gateway of this host", ""),
        Origin::Container => ("a container network's gateway", ""),
        Origin::Private => ("a private address", "; if it is one visitor, add it to networks in [allow]"),
        Origin::Public => ("a single address", "; if it is one visitor, add it to networks in [allow]"),
    };
    format!(
        "nearly all requests have the client {addr}, {who}: with a proxy in front, no visitor can be told from another; \
         in nginx set `set_real_ip_from {addr};` and `real_ip_header X-Forwarded-For;`, or log the header, name it in \
         fields.forwarded_for, and add {addr} to trusted_proxies in [allow]{remedy}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(found: &Finding, expected: &str) {
        assert_eq!(finding(found), expected);
    }

    #[test]
    fn refused_lines_are_counted_and_the_first_is_shown() {
        let first = |text: &[u8]| Some(RefusedLine::new(Rejected::Malformed, text));
        let lines = |refused, of, first| Finding::Refused(RefusedLines { refused, of, first });
        check(
            &lines(200, 200, first(b"web1 192.0.2.7 \x1b[2J\xff GET /")),
            "none of the last 200 lines is a log line; the first begins \"web1 192.0.2.7 \\u{1b}[2J\u{fffd} GET /\" (not of \
             the format); see `shield-agent check`",
        );
        check(&lines(37, 200, None), "37 of the last 200 lines are not log lines; see `shield-agent check`");
        check(&lines(1, 20, None), "1 of the last 20 lines is no log line; see `shield-agent check`");
        let json = RefusedLine::new(Rejected::NoAddress, br#"{"at":"x","who":{"ip":"-"},"st"#);
        check(
            &lines(9, 9, Some(json)),
            "none of the last 9 lines is a log line; the first begins \"{\"at\":\"x\",\"who\":{\"ip\":\"-\"},\"st\" (no client \
             address found in it: of its fields at, who.ip name the one with it in fields.source_ip); see `shield-agent check`",
        );
        let cut = finding(&lines(5, 5, first(&[b'x'; 500])));
        assert!(cut.contains(&format!("\"{}…\"", "x".repeat(SHOWN_CHARS))), "{cut}");
    }

    #[test]
    fn every_other_finding_says_what_to_do() {
        check(
            &Finding::Silent { for_secs: 1_500, usual_secs: 0 },
            "no line for 25 min; the longest pause at this time is usually 1 s; check that nginx runs and still writes this \
             log (after a rotation: `nginx -s reopen`)",
        );
        check(
            &Finding::Late { by_secs: 299 },
            "lines come up to 4 min 59 s after their own time, so bans come late; in nginx's access_log add flush=1s, or \
             leave out buffer= and gzip",
        );
        let one = |origin| Finding::OneClient(OneClient { addr: "172.17.0.1".parse().unwrap(), origin });
        for origin in [Origin::Own, Origin::Gateway, Origin::Container, Origin::Private, Origin::Public] {
            assert!(finding(&one(origin)).contains("set_real_ip_from 172.17.0.1;"));
        }
        assert!(finding(&one(Origin::TrustedProxy)).contains("$http_x_forwarded_for"));
        assert!(finding(&one(Origin::Private)).contains("networks in [allow]"));
    }
}
