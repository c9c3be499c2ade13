//! JSON logs as servers and guides write them, read without a map, and with one.

use super::*;

/// Layouts without a map, each with the address 203.0.113.66, 1795530901 and `GET /a?b=c` answered 404.
const LAYOUTS: [&str; 14] = [
    // nginx, from guides.
    r#"{"@timestamp":"2026-11-24T14:35:01+00:00","remote_addr":"203.0.113.66","http_x_forwarded_for":"-","size":"7","http_status":"404","domain":"www.example.org","request":"GET /a?b=c HTTP/1.1","referer":"-","responsetime":"0.012","http_user_agent":"x","upstreamstatus":"-"}"#,
    r#"{"time_local":"24/Nov/2026:14:35:01 +0000","remote_addr":"203.0.113.66","remote_user":"","request":"GET /a?b=c HTTP/1.1","status": "404","body_bytes_sent":"7","request_time":"0.000","http_referrer":"","http_user_agent":"x"}"#,
    r#"{"msec": "1795530901.123", "connection": "7", "request_time": "0.004", "remote_addr": "203.0.113.66", "request_method": "GET", "request_uri": "/a?b=c", "status": "404", "bytes_sent": "7"}"#,
    r#"{"@timestamp":"2026-11-24T14:35:01+00:00","@source":"192.0.2.1","@nginx_fields":{"remote_addr":"203.0.113.66","body_bytes_sent":"7","request_time":"0.001","status":"404","host":"h","uri":"/a","request_uri":"/a?b=c","request_method":"GET","http_x_forwarded_for":""}}"#,
    // nginx-proxy with LOG_JSON: `client_ip` is the header.
    r#"{"time_local":"2026-11-24T14:35:01+00:00","client_ip":"198.51.100.1","remote_addr":"203.0.113.66","request":"GET /a?b=c HTTP/1.1","status":"404","body_bytes_sent":"7","request_time":"0.001","upstream_addr":"192.0.2.8:80"}"#,
    // ingress-nginx.
    r#"{"time_iso8601":"2026-11-24T14:35:01+00:00","proxy_protocol_addr":"203.0.113.66","proxy_add_x_forwarded_for":"203.0.113.66","remote_user":"","request":"GET /a?b=c HTTP/1.1","status":"404","body_bytes_sent":"7","upstream_addr":"192.0.2.8:80","upstream_status":"404"}"#,
    r#"{"timestamp":"2026-11-24T14:35:01+00:00","requestID":"1","upstreamStatus":"502","httpRequest":{"requestMethod":"GET","requestUrl":"/a?b=c","status":404,"requestSize":"1","responseSize":"7","remoteIp":"203.0.113.66","latency":"0.001 s"}}"#,
    // Traefik.
    r#"{"ClientAddr":"203.0.113.66:54444","ClientHost":"203.0.113.66","ClientPort":"54444","ClientUsername":"-","DownstreamContentSize":7,"DownstreamStatus":404,"Duration":1120713,"OriginStatus":404,"RequestHost":"h","RequestMethod":"GET","RequestPath":"/a?b=c","ServiceURL":{"Scheme":"http","Host":"192.0.2.8:80","User":null,"ForceQuery":false},"StartLocal":"2026-11-24T14:35:01.123456789Z","StartUTC":"2026-11-24T14:35:01.123456789Z","entryPointName":"web","level":"info","msg":"","time":"2026-11-24T14:35:01Z"}"#,
    // Caddy 2.
    r#"{"level":"info","ts":1795530901.5241024,"logger":"http.log.access","msg":"handled request","request":{"remote_ip":"203.0.113.66","remote_port":"41342","client_ip":"203.0.113.66","proto":"HTTP/2.0","method":"GET","host":"h","uri":"/a?b=c","headers":{"User-Agent":["x"],"Accept":["*/*"]},"tls":{"resumed":false,"version":772}},"bytes_read":0,"user_id":"","duration":0.0009,"size":7,"status":404,"resp_headers":{"Server":["Caddy"],"Content-Type":[]}}"#,
    // Caddy up to 2.4.
    r#"{"level":"error","ts":1795530901.1,"request":{"remote_addr":"203.0.113.66:41342","proto":"HTTP/1.1","method":"GET","uri":"/a?b=c"},"common_log":"x","duration":0.0009,"size":7,"status":404}"#,
    // Apache.
    r#"{ "time":"[24/Nov/2026:14:35:01 +0000]", "remoteIP":"203.0.113.66", "host":"h", "request":"GET /a?b=c HTTP/1.1", "query":"?b=c", "method":"GET", "status":"404", "bytesSent":"7", "userAgent":"x" }"#,
    // Elastic Common Schema, flat and nested.
    r#"{"@timestamp":"2026-11-24T14:35:01.123Z","source.ip":"203.0.113.66","http.request.method":"GET","url.original":"/a?b=c","http.response.status_code":404,"http.response.body.bytes":7,"destination":{"ip":"192.0.2.8"}}"#,
    r#"{"@timestamp":"2026-11-24T14:35:01.123Z","source":{"ip":"203.0.113.66"},"http":{"request":{"method":"GET"},"response":{"status_code":404,"body":{"bytes":7}}},"url":{"original":"/a?b=c"}}"#,
    // Nanoseconds.
    r#"{"ts":1795530901123456789,"client_ip":"203.0.113.66","method":"GET","uri":"/a?b=c","status":404,"size":7.0,"upstream":null}"#,
];

#[test]
fn common_layouts_need_no_map() {
    for line in LAYOUTS {
        check(line, "203.0.113.66 1795530901 GET /a?b=c 404 7");
    }
}

/// Not only the first line, and not only by the slow reader.
#[test]
fn every_layout_is_read_alike_fast_and_strictly() {
    for line in LAYOUTS {
        let other = line.replace("203.0.113.66", "203.0.113.7").replace("/a?b=c", "/ordinary");
        for line in [
            line,
            &other,
            &line.replace("404", "200"),
            &line.replace("GET ", "- "),
            &line.replace(":7", ":\"-\""),
        ] {
            differential(&Settings::default(), LAYOUTS[0].as_bytes(), line.as_bytes());
            differential(&Settings::default(), other.as_bytes(), line.as_bytes());
        }
    }
}

#[test]
fn a_header_is_no_substitute_for_an_empty_address() {
    let line = |addr: &str| {
        format!(
            r#"{{"time":"2026-11-24T14:35:01+00:00","remote_addr":"{addr}","client_ip":"198.51.100.1","x_forwarded_for":"198.51.100.1","status":200}}"#
        )
    };
    check(&line(""), "no_address");
    check(&line("unix:"), "no_address");
    check(&line("203.0.113.66"), "203.0.113.66 1795530901   200 0");
}

#[test]
fn dotted_names_reach_into_objects() {
    let fields = FieldNames {
        source_ip: Some("nginx.access.ip".into()),
        timestamp: Some("nginx.access.at".into()),
        method: Some("nginx.access.verb".into()),
        path: Some("nginx.access.what".into()),
        status: Some("nginx.access.code".into()),
        response_size: Some("nginx.access.sent".into()),
        ..FieldNames::default()
    };
    let settings = Settings { fields, ..Settings::default() };
    let line = r#"{"host":{"ip":"192.0.2.9"},"nginx":{"access":{"ip":"203.0.113.66","at":1795530901,"verb":"GET","what":"/a","code":"404","sent":"7"}}}"#;
    assert_eq!(read(&settings, line.as_bytes()), "203.0.113.66 1795530901 GET /a 404 7");
    let flat = line.replace(r#""nginx":{"access":{"ip""#, r#""x":{"y":{"nginx.access.ip""#);
    assert_eq!(read(&settings, flat.as_bytes()), "no_address");
}

#[test]
fn a_mapped_path_may_hold_the_request_line() {
    let fields = FieldNames {
        source_ip: Some("remote_addr".into()),
        timestamp: Some("@timestamp".into()),
        path: Some("request".into()),
        status: Some("http_status".into()),
        response_size: Some("size".into()),
        ..FieldNames::default()
    };
    let settings = Settings { fields, ..Settings::default() };
    assert_eq!(read(&settings, LAYOUTS[0].as_bytes()), "203.0.113.66 1795530901 GET /a?b=c 404 7");
    let empty = LAYOUTS[0].replace("GET /a?b=c HTTP/1.1", "-");
    assert_eq!(read(&settings, empty.as_bytes()), "203.0.113.66 1795530901   404 7");
}

#[test]
fn a_log_of_several_layouts_is_read_line_by_line() {
    let text = [LAYOUTS[1], LAYOUTS[2], LAYOUTS[1], LAYOUTS[7], LAYOUTS[7], LAYOUTS[1]].join("\n") + "\n";
    let (_, out) = parse(&Settings::default(), text.as_bytes());
    assert_eq!(out.lines.len(), 6, "{:?}", out.rejected);
}

#[test]
fn hundreds_of_fields_have_a_shape() {
    let many: String = (0..400).map(|n| format!(r#""h{n}":"v{n}","#)).collect();
    let taught = format!("{{{many}{}", LAYOUTS[1].trim_start_matches('{'));
    let mut parser = Parser::new(&Settings::default());
    let mut block = format!("{taught}\n{taught}\n").into_bytes();
    let end = block.len();
    let mut out = Output::default();
    parser.parse_block(&mut block, 0, end, &mut out);
    assert_eq!(out.lines.len(), 2);
    let at = taught.len() + 1;
    assert!(parser.read_fast(&block, at).is_some());
    differential(&Settings::default(), taught.as_bytes(), taught.replace("v300", "v\\u0041").as_bytes());
}

#[test]
fn the_names_of_a_line_are_known() {
    assert_eq!(names_in(br#"{"a":1,"b":{"c":"x","d":[1,2]}}"#), ["a", "b.c", "b.d.[]"]);
    assert_eq!(names_in(br#"{"log":"{\"a\":1}\n","stream":"stdout","time":"x"}"#), ["a"]);
    assert_eq!(names_in(br#"{"a":1,"b":{"c":"x","d"#), ["a", "b.c"]);
    assert!(names_in(b"text").is_empty());
}
