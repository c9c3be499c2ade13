//! The name of the server section that answered: taken from `$server_name`, which the administrator wrote, and never from the host
//! that a client asked for.

use super::*;
use shield_engine::request::Batch;

/// The server's name in the last of these lines.
fn server(settings: &Settings, lines: &[&str]) -> String {
    let (bytes, out) = parse(settings, format!("{}\n", lines.join("\n")).as_bytes());
    let batch = Batch { bytes, lines: out.lines, ..Batch::default() };
    let line = batch.lines.last().expect("the line is read");
    String::from_utf8_lossy(batch.server_of(line)).into_owned()
}

fn pasted(format: &str) -> Settings {
    match Recipe::of(format) {
        Ok(Recipe::Text(template)) => Settings { format: Format::Template(template), ..Settings::default() },
        Ok(Recipe::Json(fields)) => Settings { format: Format::Json, fields: *fields, ..Settings::default() },
        Err(why) => panic!("{format}: {why:?}"),
    }
}

#[test]
fn json_has_it_under_its_name_or_a_configured_one() {
    let line = |name: &str| json(&format!(r#""path":"/a","status":200,"{name}":"shop.example.org""#));
    let check = |settings: &Settings, name: &str, expected: &str| {
        let line = line(name);
        assert_eq!(server(settings, &[&line]), expected, "{name}");
        assert_eq!(server(settings, &[&line, &line, &line]), expected, "{name}, by its shape");
    };
    let own = Settings::default();
    check(&own, "server_name", "shop.example.org");
    check(&own, "serverName", "shop.example.org");
    check(&own, "host", "");
    check(&own, "http_host", "");
    let fields = FieldNames { server_name: Some("vhost".into()), ..FieldNames::default() };
    check(&Settings { fields, ..Settings::default() }, "vhost", "shop.example.org");
    let format = pasted(
        r#"log_format a escape=json '{"source_ip":"$remote_addr","timestamp":"$time_iso8601","path":"$request_uri","status":$status,"site":"$server_name","host":"$host"}';"#,
    );
    check(&format, "site", "shop.example.org");
    check(&format, "host", "");
}

#[test]
fn a_pasted_format_has_it_where_nginx_wrote_it() {
    let check = |format: &str, line: &str, expected: &str| {
        let settings = pasted(&format!("log_format a '{format}';"));
        assert_eq!(server(&settings, &[line, line]), expected, "{format}");
    };
    let (format, line) = (
        r#"$remote_addr - - [$time_local] "$request" $status"#,
        r#"192.0.2.7 - - [24/Nov/2026:14:35:01 +0000] "GET /a HTTP/1.1" 200"#,
    );
    check(&format!("$server_name {format}"), &format!("shop.example.org {line}"), "shop.example.org");
    check(&format!("{format} $server_name"), &format!("{line} shop.example.org"), "shop.example.org");
    check(&format!(r#"{format} "$server_name""#), &format!(r#"{line} "*.example.org""#), "*.example.org");
    check(&format!("{format} $host"), &format!("{line} shop.example.org"), "");
    check(&format!("$host {format}"), &format!("shop.example.org {line}"), "");
}

/// Attack: a request that breaks out of its text to write the name of another site.
#[test]
fn a_broken_line_has_none() {
    let whole = json(r#""path":"/a","status":200,"server_name":"strict.example.org""#);
    for broken in [
        json(
            r#""path":"/a","server_name":"lenient.example.org","x":"y","status":404,"server_name":"strict.example.org""#,
        ),
        json(
            r#""path":"/a\x22","server_name":"lenient.example.org","x":"y","status":404,"server_name":"strict.example.org""#,
        ),
        json(
            r#""path":"/a"x","server_name":"lenient.example.org","x":"y","status":404,"server_name":"strict.example.org""#,
        ),
    ] {
        let name = server(&Settings::default(), &[&whole, &whole, &broken]);
        assert_ne!(name, "lenient.example.org", "{broken}");
    }
}
