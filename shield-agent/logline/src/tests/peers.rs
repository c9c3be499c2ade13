//! The address that a connection came from, beside the client's: nginx alone can write it.

use super::*;
use shield_engine::request::Batch;

/// The client and the proxy of the last of these lines.
fn connection(settings: &Settings, lines: &[&str]) -> String {
    let (bytes, out) = parse(settings, format!("{}\n", lines.join("\n")).as_bytes());
    let batch = Batch { bytes, lines: out.lines, ..Batch::default() };
    let line = batch.lines.last().expect("the line is read");
    let peer = batch.way_of(line).peer().map_or("-".to_owned(), |peer| peer.to_string());
    format!("{} by {peer}", line.addr)
}

fn pasted(format: &str) -> Settings {
    match Recipe::of(format) {
        Ok(Recipe::Text(template)) => Settings { format: Format::Template(template), ..Settings::default() },
        Ok(Recipe::Json(fields)) => Settings { format: Format::Json, fields: *fields, ..Settings::default() },
        Err(why) => panic!("{format}: {why:?}"),
    }
}

fn line(rest: &str) -> String {
    format!(r#"{{"source_ip":"203.0.113.66","timestamp":1795530901,"path":"/a","status":200,{rest}}}"#)
}

#[test]
fn json_has_it_under_its_name_or_a_configured_one() {
    let check = |settings: &Settings, rest: &str, expected: &str| {
        let line = line(rest);
        assert_eq!(connection(settings, &[&line]), expected, "{rest}");
        assert_eq!(connection(settings, &[&line, &line, &line]), expected, "{rest}, by its shape");
    };
    let own = Settings::default();
    check(&own, r#""peer":"192.0.2.10""#, "203.0.113.66 by 192.0.2.10");
    check(&own, r#""realip_remote_addr":"2001:db8::10""#, "203.0.113.66 by 2001:db8::10");
    check(&own, r#""peer":"203.0.113.66""#, "203.0.113.66 by -");
    check(&own, r#""peer":"::ffff:203.0.113.66""#, "203.0.113.66 by -");
    for unknown in ["unix:", "", "-", "192.0.2.10, 192.0.2.11", "proxy.example.org"] {
        check(&own, &format!(r#""peer":"{unknown}""#), "203.0.113.66 by -");
    }
    let fields = FieldNames { peer: Some("via".into()), ..FieldNames::default() };
    check(&Settings { fields, ..Settings::default() }, r#""via":"192.0.2.10""#, "203.0.113.66 by 192.0.2.10");
    let format = pasted(
        r#"log_format a escape=json '{"source_ip":"$remote_addr","timestamp":"$time_iso8601","path":"$request_uri","status":$status,"edge":"$realip_remote_addr"}';"#,
    );
    check(&format, r#""edge":"192.0.2.10""#, "203.0.113.66 by 192.0.2.10");
}

#[test]
fn a_pasted_format_has_it_beside_the_client() {
    let check = |format: &str, line: &str, expected: &str| {
        let settings = pasted(&format!("log_format a '{format}';"));
        assert_eq!(connection(&settings, &[line, line]), expected, "{format}");
    };
    let (format, line) = (
        r#"$remote_addr - - [$time_local] "$request" $status"#,
        r#"203.0.113.66 - - [24/Nov/2026:14:35:01 +0000] "GET /a HTTP/1.1" 200"#,
    );
    let behind = "203.0.113.66 by 192.0.2.10";
    check(&format!("$realip_remote_addr {format}"), &format!("192.0.2.10 {line}"), behind);
    check(&format!("{format} $realip_remote_addr"), &format!("{line} 192.0.2.10"), behind);
    check(&format!(r#"{format} "$realip_remote_addr""#), &format!(r#"{line} "192.0.2.10""#), behind);
    check(&format!("{format} $realip_remote_addr"), &format!("{line} 203.0.113.66"), "203.0.113.66 by -");
    // Alone it is the client.
    check(
        &format.replace("$remote_addr", "$realip_remote_addr"),
        &line.replace("203.0.113.66", "192.0.2.10"),
        "192.0.2.10 by -",
    );
}

/// Attack: a request that breaks out of its text to claim a proxy. It may make its line untrusted, and then no proxy is known.
#[test]
fn a_broken_line_has_none() {
    let whole = line(r#""peer":"203.0.113.66""#);
    let forged = r#""peer":"192.0.2.10""#;
    for broken in [
        line(&format!(r#"{forged},"x":"y","peer":"203.0.113.66""#)),
        line(&format!(r#""agent":"a",{forged},"x":"","peer":"203.0.113.66""#)),
        line(&format!(r#""agent":"a"b",{forged},"x":"","peer":"203.0.113.66""#)),
        line(&format!(r#""agent":"\x22,{forged},"x":"","peer":"203.0.113.66""#)),
        line(&format!(r#""agent":{{{forged}}},"peer":"203.0.113.66""#)),
    ] {
        assert_eq!(
            connection(&Settings::default(), &[&whole, &whole, &broken]),
            "203.0.113.66 by -",
            "{broken}"
        );
    }
}
