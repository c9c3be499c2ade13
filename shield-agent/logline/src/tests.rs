//! Every format through the whole parser, and the fast reader compared with the strict one.

mod layouts;
mod peers;
mod servers;
mod trust;
mod wrapped;

use proptest::prelude::*;

use super::*;

const ADDR: &str = "192.0.2.7";

fn parse(settings: &Settings, text: &[u8]) -> (Vec<u8>, Output) {
    let mut block = text.to_vec();
    let mut out = Output::default();
    let upto = Parser::new(settings).parse_block(&mut block, 0, text.len(), &mut out);
    assert_eq!(upto, text.len(), "every line was complete");
    (block, out)
}

/// Reads one line and shows it as `ADDR TIME METHOD PATH STATUS SIZE` and its flags, or as the reason why it was refused.
fn read(settings: &Settings, line: &[u8]) -> String {
    let (block, out) = parse(settings, &[line, b"\n"].concat());
    let Some(line) = out.lines.first() else {
        let reason = Rejected::ALL.into_iter().find(|reason| out.rejected[reason.index()] == 1);
        return reason.unwrap().name().to_owned();
    };
    let text =
        |at: u32, len: usize| String::from_utf8_lossy(&block[at as usize..at as usize + len]).into_owned();
    let method = text(line.method_at, usize::from(line.method_len));
    let path = text(line.path_at, line.path_len as usize);
    let mut shown = format!("{} {} {method} {path} {} {}", line.addr, line.time, line.status, line.size);
    shown.push_str(if line.behind_proxy { " proxied" } else { "" });
    shown.push_str(if line.salvaged { " salvaged" } else { "" });
    shown
}

fn check(line: &str, expected: &str) {
    assert_eq!(read(&Settings::default(), line.as_bytes()), expected, "{line}");
}

fn json(rest: &str) -> String {
    format!(r#"{{"source_ip":"{ADDR}","timestamp":"2026-11-24T14:35:01+00:00",{rest}}}"#)
}

#[test]
fn json_lines_are_read() {
    check(
        &json(r#""method":"GET","path":"/a?b=c","status":200,"response_size":12"#),
        "192.0.2.7 1795530901 GET /a?b=c 200 12",
    );
    check(
        &json(r#""method":"GET","path":"/","status":"404","response_size":"7""#),
        "192.0.2.7 1795530901 GET / 404 7",
    );
    check(
        &json(r#""path":"/","status":200,"extra":{"a":[1,"}"]},"n":null"#),
        "192.0.2.7 1795530901  / 200 0",
    );
    check(&json(r#""method":"","path":"","status":400"#), "192.0.2.7 1795530901   400 0");
    check(&json(r#""path":"\/caf\u00e9\"\\x16","status":200"#), "192.0.2.7 1795530901  /café\"\\x16 200 0");
    check(&json(r#""path":"/é","status":999"#), "192.0.2.7 1795530901  /é 999 0");
    check(
        r#"{"source_ip":"::ffff:192.0.2.7","timestamp":1795530901.25,"status":101}"#,
        "192.0.2.7 1795530901   101 0",
    );
    check(
        r#" { "status" : 200 , "timestamp" : "1795530901" , "source_ip" : "2001:db8::7" } "#,
        "2001:db8::7 1795530901   200 0",
    );
}

#[test]
fn a_json_line_without_what_counts_is_refused_for_that() {
    check(r#"{"timestamp":1795530901,"status":200}"#, "no_address");
    check(r#"{"source_ip":"unix:","timestamp":1795530901,"status":200}"#, "no_address");
    check(r#"{"source_ip":"192.0.2.7","timestamp":"2026-11-24T14:35:01","status":200}"#, "no_time");
    check(r#"{"source_ip":"192.0.2.7","timestamp":-5,"status":200}"#, "no_time");
    check(&json(r#""status":1000"#), "no_status");
    check(&json(r#""status":"""#), "no_status");
    check(&json(r#""status":null"#), "no_status");
    check("{}", "no_address");
    check("{nonsense", "malformed");
    check("", "empty");
    check(" \t\r", "empty");
}

/// History: other log readers skip a line that is not JSON, so a client that sends a quote is never counted.
#[test]
fn a_client_cannot_hide_by_breaking_its_line() {
    let salvaged = |path: &str, status: u16| format!("192.0.2.7 1795530901 GET {path} {status} 5 salvaged");
    let line = |path: &str, status: &str| {
        json(&format!(r#""method":"GET","path":"{path}","status":{status},"response_size":5,"agent":"x""#))
    };
    check(&line(r"/\x22", "200"), &salvaged("/\"", 200));
    check(&line(r"/\q\ud800", "404"), &salvaged(r"/\q\ud800", 404));
    check(&line("/\u{1}", "404"), &salvaged("/\u{1}", 404));
    check(&line(r#"/a"b"#, "404"), &salvaged("/a", 404));
    check(&line(r#"/","status":200,"x":""#, "404"), &salvaged("/", 404));
    check(&line(r#"/","source_ip":"203.0.113.1","x":""#, "404"), &salvaged("/", 404));
    check(&line(r#"/","timestamp":"1970-01-01T00:00:00Z","x":""#, "404"), &salvaged("/", 404));
    check(&line(r#"/"},{"#, "404"), &salvaged("/", 404));
}

#[test]
fn invalid_utf8_is_data() {
    for field in ["method", "path", "agent"] {
        let start = json("").trim_end_matches('}').to_owned();
        let line = [start.as_bytes(), br#""status":404,""#, field.as_bytes(), b"\":\"\xff\"}"];
        let (block, out) = parse(&Settings::default(), &[&line.concat()[..], b"\n"].concat());
        let line = out.lines[0];
        assert!(!line.salvaged, "{field}");
        let (method, path) = texts(&line, &block);
        assert_eq!([method, path].concat(), if field == "agent" { &b""[..] } else { b"\xff" });
    }
}

#[test]
fn a_client_cannot_frame_another() {
    let behind_path = |path: &str| {
        format!(
            r#"{{"path":"{path}","source_ip":"192.0.2.7","timestamp":1795530901,"status":404,"response_size":5}}"#
        )
    };
    check(&behind_path(r#"/"x"#), "192.0.2.7 1795530901  / 404 5 salvaged");
    check(&behind_path(r#"/","source_ip":"203.0.113.1","x":""#), "no_address");
}

#[test]
fn field_names_can_be_chosen() {
    let fields =
        FieldNames { source_ip: Some("remote".into()), path: Some("uri".into()), ..FieldNames::default() };
    let settings = Settings { fields, ..Settings::default() };
    let line = br#"{"remote":"192.0.2.7","source_ip":"203.0.113.1","timestamp":1795530901,"uri":"/u","path":"/p","status":200}"#;
    assert_eq!(read(&settings, line), "192.0.2.7 1795530901  /u 200 0");
}

#[test]
fn common_and_combined_are_read() {
    let line = |request: &str, rest: &str| {
        format!(r#"192.0.2.7 - - [24/Nov/2026:15:35:01 +0100] "{request}" {rest}"#)
    };
    check(&line("GET /a?b HTTP/1.1", "200 12"), "192.0.2.7 1795530901 GET /a?b 200 12");
    check(&line("GET /a HTTP/2.0", r#"304 - "-" "agent \"quoted\"""#), "192.0.2.7 1795530901 GET /a 304 0");
    check(&line("GET /a b HTTP/1.1", "200 12"), "192.0.2.7 1795530901 GET /a b 200 12");
    check(&line(r"\x16\x03", "400 150"), "192.0.2.7 1795530901  \u{16}\u{3} 400 150");
    check(&line("-", "408 0"), "192.0.2.7 1795530901   408 0");
    check(&line("", "400 0"), "192.0.2.7 1795530901   400 0");
    check(&line("GET /old", "200 1"), "192.0.2.7 1795530901 GET /old 200 1");
    check(&line(r"GET /\x22 HTTP/1.1", "200 1"), "192.0.2.7 1795530901 GET /\" 200 1");
    check(&line(r#"GET /"a" HTTP/1.1"#, "200 1"), "192.0.2.7 1795530901 GET /\"a\" 200 1 salvaged");
    check(&line("GET / HTTP/1.1", "- 1"), "no_status");
    check(
        r#"192.0.2.7 - a [b] c [24/Nov/2026:15:35:01 +0100] "GET / HTTP/1.0" 200 1"#,
        "192.0.2.7 1795530901 GET / 200 1",
    );
    check(r#"example.org - - [24/Nov/2026:15:35:01 +0100] "GET / HTTP/1.0" 200 1"#, "no_address");
    check(r#"192.0.2.7 - - [24/Nov/2026:25:35:01 +0100] "GET / HTTP/1.0" 200 1"#, "no_time");
    check("just some text", "malformed");
}

#[test]
fn a_chain_counts_only_from_the_configured_field() {
    let line = json(r#""status":200,"xff":"192.0.2.66, 203.0.113.5""#);
    let fields = FieldNames { forwarded_for: Some("xff".into()), ..FieldNames::default() };
    let trusted_proxies = vec!["192.0.2.0/28".parse().unwrap()];
    let behind = Settings { fields, trusted_proxies: trusted_proxies.clone(), ..Settings::default() };
    let without_field = Settings { trusted_proxies, ..Settings::default() };
    let without_trust = Settings { trusted_proxies: Vec::new(), ..behind.clone() };
    let twice = format!("{line}\n{line}");
    let (_, out) = parse(&behind, format!("{twice}\n").as_bytes());
    assert_eq!(out.lines.len(), 2);
    for line in out.lines {
        assert_eq!((line.addr, line.behind_proxy), ("203.0.113.5".parse().unwrap(), true));
    }
    assert_eq!(read(&without_field, line.as_bytes()), "192.0.2.7 1795530901   200 0");
    assert_eq!(read(&without_trust, line.as_bytes()), "192.0.2.7 1795530901   200 0");
}

#[test]
fn a_line_too_long_or_broken_does_not_hide_the_next() {
    let settings = Settings { max_line_bytes: 200, ..Settings::default() };
    let long = json(&format!(r#""status":200,"path":"/{}""#, "a".repeat(300)));
    let text = format!("{long}\nrubbish\n\n{long}\n{}\n", json(r#""status":200"#));
    let (_, out) = parse(&settings, text.as_bytes());
    assert_eq!(out.lines.len(), 1);
    assert_eq!(out.rejected[Rejected::TooLong.index()], 2);
    assert_eq!(out.rejected[Rejected::Malformed.index()], 1);
    assert_eq!(out.rejected[Rejected::Empty.index()], 1);
}

#[test]
fn an_incomplete_line_waits() {
    let text = json(r#""status":200"#);
    let mut block = format!("{text}\n{text}").into_bytes();
    let end = block.len();
    let mut out = Output::default();
    let upto = Parser::new(&Settings::default()).parse_block(&mut block, 0, end, &mut out);
    assert_eq!((upto, out.lines.len()), (text.len() + 1, 1));
}

/// Reads `line` after `taught` by the strict reader alone, which is the definition.
fn strictly(settings: &Settings, taught: &[u8], line: &[u8]) -> (Option<Line>, Vec<u8>) {
    let mut parser = Parser::without_shapes(settings);
    parser.parse_single(&mut taught.to_vec(), 0, taught.len(), &mut Output::default());
    let mut block = line.to_vec();
    let mut out = Output::default();
    parser.parse_single(&mut block, 0, line.len(), &mut out);
    (out.lines.first().copied(), block)
}

fn texts(line: &Line, block: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let text = |at: u32, len: usize| block[at as usize..at as usize + len].to_vec();
    (text(line.method_at, usize::from(line.method_len)), text(line.path_at, line.path_len as usize))
}

/// Reads `line` after `taught`, whose shape is learned, and by the strict reader; both results must be the same.
fn differential(settings: &Settings, taught: &[u8], line: &[u8]) {
    let mut block = [taught, b"\n", line, b"\n"].concat();
    let mut out = Output::default();
    let mut parser = Parser::new(settings);
    let end = block.len();
    parser.parse_block(&mut block, 0, end, &mut out);
    let taught_lines = usize::from(strictly(settings, b"", taught).0.is_some());
    let (expected, expected_block) = strictly(settings, taught, line);
    let got = out.lines.get(taught_lines).copied();
    let plain = |line: Line| Line { method_at: 0, path_at: 0, server_at: 0, peer_at: 0, ..line };
    assert_eq!(got.map(plain), expected.map(plain), "{}", String::from_utf8_lossy(line));
    if let (Some(got), Some(expected)) = (got, expected) {
        assert_eq!(
            texts(&got, &block),
            texts(&expected, &expected_block),
            "{}",
            String::from_utf8_lossy(line)
        );
    }
}

/// Replays the fuzzer's findings and lines like them. The first line of each block teaches the shape.
///
/// History: the fast reader read `fe80::1%et,0` as an address with a zone, the strict one as a list without an address.
#[test]
fn fast_and_strict_agree_on_what_was_found_once() {
    let trusted_proxies = vec!["192.0.2.0/24".parse().unwrap()];
    let fields = FieldNames { forwarded_for: Some("xff".into()), ..FieldNames::default() };
    let behind = Settings { fields, trusted_proxies, ..Settings::default() };
    for settings in [Settings::default(), behind] {
        for lines in include_str!("../../../tests/fuzz/corpus/differential.txt").split("\n\n") {
            let (taught, rest) = lines.split_once('\n').unwrap();
            for line in rest.lines() {
                differential(&settings, taught.as_bytes(), line.as_bytes());
            }
        }
    }
}

/// What earlier lines teach one reader and not the other must not matter either.
///
/// History: a line with a time of 1975 taught the fast reader its shape but no reader the log's names, and the lines behind it, read
/// by the shape, could not teach them any more. So a broken line was read with the names that a log has before its first line.
#[test]
fn fast_and_strict_agree_on_the_lines_behind_what_was_found_once() {
    for lines in include_str!("../../../tests/fuzz/corpus/differential.txt").split("\n\n") {
        let settings = Settings::default();
        let (block, out) = parse(&settings, format!("{}\n", lines.trim_end()).as_bytes());
        let fast = out.lines.iter().map(|line| (line.addr, line.time, line.status, texts(line, &block)));
        let mut parser = Parser::without_shapes(&settings);
        let mut strict = Vec::new();
        for line in lines.lines() {
            let (mut block, mut out) = (format!("{line}\n").into_bytes(), Output::default());
            let end = block.len();
            parser.parse_block(&mut block, 0, end, &mut out);
            let read = out.lines.iter().map(|line| (line.addr, line.time, line.status, texts(line, &block)));
            strict.extend(read);
        }
        assert_eq!(fast.collect::<Vec<_>>(), strict, "{lines}");
    }
}

/// An address as a log may have it, or nearly: with ports, zones, brackets, and several in a list.
fn addresses() -> impl Strategy<Value = String> {
    let address = prop_oneof![
        "192\\.0\\.2\\.[0-9]{1,3}",
        "[0-9a-f]{1,4}(:[0-9a-f]{0,4}){2,8}",
        "::ffff:192\\.0\\.2\\.[0-9]",
        "[0-9a-f:.%,\\[\\] x-]{0,12}",
    ];
    let dressed = ("[\\[ ]?", address, "(%[a-z0-9,%:]{0,5})?", "[\\] ]?(:[0-9]{0,6})?");
    let one = dressed.prop_map(|(open, address, zone, port)| format!("{open}{address}{zone}{port}"));
    proptest::collection::vec(one, 1..4).prop_map(|list| format!("\"{}\"", list.join(",")))
}

fn values() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{1,3}(\\.[0-9]{1,3}){3}".prop_map(|text| format!("\"{text}\"")),
        "[0-9a-f]{1,4}(:[0-9a-f]{0,4}){2,8}".prop_map(|text| format!("\"{text}\"")),
        "[ -~é\u{1}\u{7f}]{0,20}".prop_map(|text| format!("\"{text}\"")),
        "[0-9]{1,21}(\\.[0-9]{0,20})?",
        "\"[0-9]{0,21}\"",
        "-?[0-9]{0,3}(\\.[0-9]{1,4})?(e[0-9]{1,2})?",
        Just("\"2026-11-24T14:35:01+00:00\"".to_owned()),
        Just("\"2026-11-24T14:35:02.5+01:00\"".to_owned()),
        Just("200".to_owned()),
        Just("null".to_owned()),
        Just("[1,{\"a\":\"b\"}]".to_owned()),
        Just("\"\\u00e9\\n\\\\\"".to_owned()),
        Just("\"a\\x22b\"".to_owned()),
    ]
}

fn shaped(order: &[usize], values: &[String], blank: &str) -> Vec<u8> {
    const NAMES: [&str; 8] =
        ["source_ip", "timestamp", "method", "path", "status", "response_size", "xff", "more"];
    let field = |at: &usize| format!("\"{}\":{blank}{}", NAMES[*at], values[*at]);
    let fields: Vec<String> = order.iter().map(field).collect();
    format!("{{{}}}", fields.join(&format!(",{blank}"))).into_bytes()
}

fn ordinary() -> Vec<String> {
    [
        "\"192.0.2.1\"",
        "\"2026-11-24T14:35:01+00:00\"",
        "\"GET\"",
        "\"/\"",
        "200",
        "5",
        "\"203.0.113.1\"",
        "\"0.001\"",
    ]
    .map(str::to_owned)
    .to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Both give identical results for every value after every shape.
    #[test]
    fn fast_and_strict_agree(
        order in Just((0..8).collect::<Vec<usize>>()).prop_shuffle(),
        changed in proptest::collection::vec((0_usize..8, values()), 0..3),
        quoted in any::<bool>(),
        blank in prop_oneof![Just(""), Just(" ")],
        proxied in any::<bool>(),
    ) {
        let mut taught = ordinary();
        if quoted {
            taught[4] = "\"200\"".into();
            taught[5] = "\"5\"".into();
            taught[7] = "0.25".into();
        }
        let mut line = taught.clone();
        for (at, value) in changed {
            line[at] = value;
        }
        let trusted_proxies = if proxied { vec!["192.0.2.0/24".parse().unwrap()] } else { Vec::new() };
        let fields = FieldNames { forwarded_for: Some("xff".into()), ..FieldNames::default() };
        let settings = Settings { fields, trusted_proxies, ..Settings::default() };
        differential(&settings, &shaped(&order, &taught, blank), &shaped(&order, &line, blank));
    }

    /// Ports, zones and lists mean the same to both, in the address as in the chain.
    #[test]
    fn fast_and_strict_agree_on_every_address(addr in addresses(), chain in addresses(), proxied in any::<bool>()) {
        let mut line = ordinary();
        line[0] = addr;
        line[6] = chain;
        let trusted_proxies = if proxied { vec!["192.0.2.0/24".parse().unwrap()] } else { Vec::new() };
        let fields = FieldNames { forwarded_for: Some("xff".into()), ..FieldNames::default() };
        let settings = Settings { fields, trusted_proxies, ..Settings::default() };
        let order = [0, 1, 2, 3, 4, 5, 6, 7];
        differential(&settings, &shaped(&order, &ordinary(), ""), &shaped(&order, &line, ""));
    }

    /// Any byte of a line changed: fast and strict still agree.
    #[test]
    fn fast_and_strict_agree_on_damaged_lines(at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<bool>()) {
        let taught = shaped(&[0, 1, 2, 3, 4, 5, 7], &ordinary(), "");
        let mut line = taught.clone();
        let at = at.index(line.len());
        if cut { line.truncate(at) } else { line[at] = byte }
        prop_assume!(!line.contains(&b'\n'));
        differential(&Settings::default(), &taught, &line);
    }

    #[test]
    fn no_bytes_make_it_panic_or_lose_count(text in proptest::collection::vec(any::<u8>(), 0..400)) {
        for format in [Format::Auto, Format::Json, Format::Combined] {
            let settings = Settings { format, ..Settings::default() };
            let mut block = text.clone();
            let mut out = Output::default();
            let upto = Parser::new(&settings).parse_block(&mut block, 0, text.len(), &mut out);
            let newlines = text.iter().filter(|byte| **byte == b'\n').count() as u64;
            prop_assert_eq!(out.lines.len() as u64 + out.rejected.iter().sum::<u64>(), newlines);
            prop_assert!(upto <= text.len());
        }
    }
}
