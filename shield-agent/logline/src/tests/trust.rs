//! What a client can make of its own line, where the server does not escape it (`escape=none`): it must neither hide nor name
//! somebody else.

use super::*;

const VICTIM: &str = "198.51.100.9";

/// Reads the attacker's line behind clean ones, and returns it as [`read`] shows it.
fn after_clean(settings: &Settings, clean: &str, line: &str) -> String {
    let text = format!("{clean}\n{clean}\n{line}\n");
    let mut block = text.clone().into_bytes();
    let mut out = Output::default();
    Parser::new(settings).parse_block(&mut block, 0, text.len(), &mut out);
    match out.lines.get(2) {
        Some(line) => format!("{}{}", line.addr, if line.salvaged { " salvaged" } else { "" }),
        None => "refused".to_owned(),
    }
}

/// An nginx format without escaping, whose address stands behind what the client sends.
fn written(request: &str, agent: &str) -> String {
    format!(
        r#"{{"time":"2026-11-24T14:35:01+00:00","request":"{request}","remote_addr":"203.0.113.66","status":"404","agent":"{agent}"}}"#
    )
}

#[test]
fn no_text_that_breaks_out_names_another_client() {
    let clean = written("GET / HTTP/1.1", "x");
    let forged = format!(r#""remote_addr":"{VICTIM}""#);
    let attacks = [
        // Nested, and closed again in the last field.
        (format!(r#"x",{forged},"junk":{{"a":""#), r#""},"b":"y"#.to_owned()),
        (format!(r#"x",{forged},"junk":[{{"a":""#), r#""}],"b":"y"#.to_owned()),
        (format!(r#"x",{forged},"time":1,"status":"200","junk":{{"a":{{"c":""#), r#""}},"b":"y"#.to_owned()),
        (r#"x","junk":{"a":""#.to_owned(), format!(r#""}},{forged},"b":"y"#)),
        // Twice, before and behind.
        (format!(r#"x",{forged},"b":""#), "y".to_owned()),
        ("x".to_owned(), format!(r#"y",{forged},"b":""#)),
        // Under another name that is known.
        (
            format!(r#"x","source_ip":"{VICTIM}","timestamp":"2026-11-24T14:35:01Z","junk":{{"a":""#),
            r#""},"b":"y"#.to_owned(),
        ),
        (format!(r#"x","source_ip":"{VICTIM}","b":""#), "y".to_owned()),
        (format!(r#"x","ClientHost":"{VICTIM}","client_ip":"{VICTIM}","b":""#), "y".to_owned()),
        (format!(r#"x","request":{{"remote_ip":"{VICTIM}"}},"b":""#), "y".to_owned()),
        (format!(r#"x",{forged},"x\u0079":""#), "y".to_owned()),
        // Escapes in the name, which a strict reader unescapes.
        (format!(r#"x","remote\u005faddr":"{VICTIM}","junk":{{"a":""#), r#""},"b":"y"#.to_owned()),
        // No JSON at all.
        (format!(r#"x",{forged},"junk":{{"a":""#), "y".to_owned()),
        (format!(r#"x"}}{{{forged}"#), "y".to_owned()),
    ];
    for (request, agent) in attacks {
        let line = written(&request, &agent);
        let seen = after_clean(&Settings::default(), &clean, &line);
        assert!(!seen.starts_with(VICTIM), "{line}: {seen}");
        // As the log's first line too, unless there is only one address that it can be.
        let seen = read(&Settings::default(), line.as_bytes());
        let own_name =
            request.contains("source_ip") || request.contains("remote_ip") || request.contains("ClientHost");
        assert!(own_name || !seen.starts_with(VICTIM), "{line}: {seen}");
    }
}

#[test]
fn a_mapped_address_is_watched_at_every_place() {
    let fields = FieldNames { source_ip: Some("client.ip".into()), ..FieldNames::default() };
    let settings = Settings { fields, ..Settings::default() };
    let written = |agent: &str, referer: &str| {
        format!(
            r#"{{"server":{{"ip":"192.0.2.1"}},"time":1795530901,"status":404,"client":{{"agent":"{agent}","ip":"203.0.113.66"}},"referer":"{referer}"}}"#
        )
    };
    let clean = written("x", "y");
    assert_eq!(after_clean(&settings, &clean, &clean), "203.0.113.66");
    for group in ["junk", "server", "client"] {
        let agent = format!(r#"x","ip":"{VICTIM}"}},"{group}":{{"a":""#);
        let seen = after_clean(&settings, &clean, &written(&agent, "y"));
        assert!(!seen.starts_with(VICTIM), "{group}: {seen}");
    }
}

/// Fields that stand before anything of the client's are certain: such a client is counted however it breaks its line.
#[test]
fn a_client_behind_a_certain_address_cannot_hide() {
    let written = |request: &str| {
        format!(
            r#"{{"remote_addr":"203.0.113.66","time":"2026-11-24T14:35:01+00:00","status":"404","request":"{request}","agent":"x"}}"#
        )
    };
    let clean = written("GET / HTTP/1.1");
    for request in [
        r#"x","remote_addr":"198.51.100.9","b":""#,
        r#"x","junk":{"remote_addr":"198.51.100.9"},"b":""#,
        r#"x"y"#,
        r#"x","source_ip":"198.51.100.9","junk":{"a":""#,
        r"\",
        r#"{"{"{""#,
    ] {
        let seen = after_clean(&Settings::default(), &clean, &written(request));
        assert_eq!(seen, "203.0.113.66 salvaged", "{request}");
    }
    // An unknown field with another name is none of an address: the line is as valid as any.
    assert_eq!(
        after_clean(&Settings::default(), &clean, &written(r#"x","z":{"y":"198.51.100.9"},"b":""#)),
        "203.0.113.66"
    );
}

/// Servers that escape: what a client sends stays inside its text.
#[test]
fn escaped_text_is_trusted() {
    let clean = written("GET / HTTP/1.1", "x");
    let json = r#"x\",\"remote_addr\":\"198.51.100.9\",\"junk\":{\"a\":\""#;
    assert_eq!(after_clean(&Settings::default(), &clean, &written(json, "y")), "203.0.113.66");
    let hex = r"x\x22,\x22remote_addr\x22:\x22198.51.100.9\x22";
    assert_eq!(after_clean(&Settings::default(), &clean, &written(hex, "y")), "203.0.113.66 salvaged");
}

#[test]
fn headers_neither_hide_nor_frame() {
    let line = |forwarded: &str| {
        format!(
            r#"{{"time":1795530901,"remote_addr":"203.0.113.66","http_x_forwarded_for":"{forwarded}","status":404}}"#
        )
    };
    let mapped = FieldNames { source_ip: Some("http_x_forwarded_for".into()), ..FieldNames::default() };
    let trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
    let plain = Settings::default();
    let behind = Settings { trusted_proxies: trusted_proxies.clone(), ..Settings::default() };
    let by_header = Settings { fields: mapped, ..Settings::default() };
    let by_header_behind = Settings { trusted_proxies, ..by_header.clone() };
    for forwarded in [
        "",
        "-",
        VICTIM,
        "198.51.100.9, 198.51.100.10",
        "garbage",
        "unknown",
        "10.0.0.1",
        "fe80::1%eth0",
        "for=198.51.100.9",
    ] {
        let line = line(forwarded);
        for settings in [&plain, &behind, &by_header_behind] {
            assert_eq!(read(settings, line.as_bytes()), "203.0.113.66 1795530901   404 0", "{forwarded}");
        }
        let seen = read(&by_header, line.as_bytes());
        assert!(
            seen == "203.0.113.66 1795530901   404 0" || seen.ends_with(" proxied"),
            "{forwarded}: {seen}"
        );
    }
    // The same through a proxy: what it appended counts, also without a name configured for the chain.
    let through = line("198.51.100.9, 203.0.113.66").replacen("203.0.113.66", "192.0.2.7", 1);
    assert_eq!(read(&behind, through.as_bytes()), "203.0.113.66 1795530901   404 0 proxied");
    assert_eq!(read(&by_header_behind, through.as_bytes()), "203.0.113.66 1795530901   404 0 proxied");
}
