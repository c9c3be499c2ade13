//! Writes lines as nginx does, and reads them in the most obvious way, to compare the compiled reader with.

use proptest::prelude::*;

use super::conf::{self, Part};
use super::guess::rank;
use super::variable::{Class, Take, Variable, may_contain};
use super::{Escape, Recipe, Template};
use crate::{Format, Output, Parser, Settings};

/// What stands between two variables.
const SEPARATORS: [&str; 14] =
    [" ", " - ", " [", "] ", "\" ", " \"", "\" \"", "] \"", "|", "\t", ",", "\" [", "; ", " = "];

/// Variables that stand around those that count.
const OTHERS: [&str; 9] = [
    "remote_user",
    "host",
    "http_user_agent",
    "http_host",
    "upstream_addr",
    "request_time",
    "scheme",
    "body_bytes_sent",
    "request_method",
];

/// Escapes a value as nginx does.
fn escaped(value: &[u8], escape: Escape) -> Vec<u8> {
    let one = |byte: &u8| match (escape, *byte) {
        (Escape::None, byte) => vec![byte],
        (Escape::Default, byte @ (b'"' | b'\\' | 0..0x20 | 0x7f..)) => format!("\\x{byte:02X}").into_bytes(),
        (_, byte @ (b'"' | b'\\')) => vec![b'\\', byte],
        (_, b'\n') => b"\\n".to_vec(),
        (_, byte @ 0..0x20) => format!("\\u{byte:04X}").into_bytes(),
        (_, byte) => vec![byte],
    };
    value.iter().flat_map(one).collect()
}

/// A request, and the values of variables that a client chooses.
#[derive(Debug, Clone)]
struct Truth {
    status: u16,
    path: Vec<u8>,
    texts: Vec<Vec<u8>>,
}

fn value(name: &str, truth: &Truth, number: usize) -> Vec<u8> {
    let text = || truth.texts.get(number % truth.texts.len().max(1)).cloned().unwrap_or_default();
    match name {
        "remote_addr" => b"198.51.100.7".to_vec(),
        "time_local" => b"24/Nov/2026:15:35:01 +0100".to_vec(),
        "time_iso8601" => b"2026-11-24T14:35:01+00:00".to_vec(),
        "msec" => b"1795530901.250".to_vec(),
        "status" => format!("{:03}", truth.status).into_bytes(),
        "request" => [b"GET ", &truth.path[..], b" HTTP/1.1"].concat(),
        "request_uri" => truth.path.clone(),
        "request_method" => b"GET".to_vec(),
        "body_bytes_sent" => b"512".to_vec(),
        "request_time" => b"0.004".to_vec(),
        "scheme" => b"https".to_vec(),
        "upstream_addr" => b"192.0.2.1:80, 192.0.2.2:80".to_vec(),
        // nginx refuses blanks, control characters and slashes in a host.
        "host" => text().into_iter().filter(|byte| *byte > b' ' && !matches!(byte, b'/' | 0x7f)).collect(),
        _ => text(),
    }
}

fn write(text: &str, escape: Escape, truth: &Truth) -> Vec<u8> {
    let mut line = Vec::new();
    for (number, part) in conf::parts(text).unwrap().into_iter().enumerate() {
        match part {
            Part::Literal(text) => line.extend_from_slice(text.as_bytes()),
            Part::Variable(name) => match escaped(&value(&name, truth, number), escape) {
                empty if empty.is_empty() && escape == Escape::Default => line.push(b'-'),
                value => line.extend_from_slice(&value),
            },
        }
    }
    line
}

/// Every way to divide a line into the fields of a format, found by trying each end of each field.
fn divisions<'l>(template: &Template, line: &'l [u8]) -> Vec<Vec<(Take, &'l [u8])>> {
    let parts = conf::parts(&template.notation.text).unwrap();
    let mut found = Vec::new();
    divide(&parts, template.notation.escape, line, &mut Vec::new(), &mut found);
    found
}

fn divide<'l>(
    parts: &[Part],
    escape: Escape,
    rest: &'l [u8],
    taken: &mut Vec<(Take, &'l [u8])>,
    found: &mut Vec<Vec<(Take, &'l [u8])>>,
) {
    match parts {
        [] if rest.is_empty() => found.push(taken.clone()),
        [] => {}
        [Part::Literal(text), parts @ ..] => {
            if let Some(rest) = rest.strip_prefix(text.as_bytes()) {
                divide(parts, escape, rest, taken, found);
            }
        }
        [Part::Variable(name), parts @ ..] => {
            let variable = Variable::named(name);
            for end in 0..=rest.len() {
                let (text, rest) = rest.split_at(end);
                if is_value(variable.class, escape, text) {
                    taken.push((variable.role.map_or(Take::Skip, |(take, _)| take), text));
                    divide(parts, escape, rest, taken, found);
                    taken.pop();
                }
            }
        }
    }
}

/// Whether nginx can have written `text` for a value of this class.
fn is_value(class: Class, escape: Escape, text: &[u8]) -> bool {
    if class == Class::TimeLocal && text.len() != 26 {
        return false;
    }
    let mut is_escaped = false;
    for byte in text {
        let is_bare_quote = *byte == b'"' && !is_escaped && escape != Escape::None;
        if is_bare_quote || !may_contain(class, escape, *byte, false) {
            return false;
        }
        is_escaped = !is_escaped && *byte == b'\\';
    }
    !is_escaped || escape == Escape::None
}

fn texts() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        "[ -~]{0,6}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>().prop_filter("a line", |byte| *byte != b'\n'), 0..4),
        proptest::sample::select(SEPARATORS.to_vec()).prop_map(|text| text.as_bytes().to_vec()),
        Just(b"203.0.113.1".to_vec()),
        Just(b"24/Nov/2026:15:35:01 +0100".to_vec()),
        Just(b"2026-11-24T14:35:01+00:00".to_vec()),
        Just(b" 200 0 ".to_vec()),
        Just(b"200".to_vec()),
    ];
    proptest::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat())
}

fn formats() -> impl Strategy<Value = String> {
    let time = proptest::sample::select(vec!["time_local", "time_iso8601", "msec"]);
    let target = proptest::sample::select(vec!["request", "request_uri"]);
    let others = proptest::sample::subsequence(OTHERS.to_vec(), 0..4);
    let variables = (time, target, others).prop_flat_map(|(time, target, others)| {
        let all = [vec!["remote_addr", "status", time, target], others].concat();
        Just(all).prop_shuffle()
    });
    let separators = proptest::collection::vec(proptest::sample::select(SEPARATORS.to_vec()), 9);
    let lead = proptest::sample::select(vec!["", "[", "\"", "a "]);
    (variables, separators, lead).prop_map(|(variables, separators, lead)| {
        let fields = variables.iter().zip(separators).map(|(name, then)| format!("${name}{then}"));
        format!("{lead}{}", fields.collect::<String>().trim_end())
    })
}

fn truths() -> impl Strategy<Value = Truth> {
    let parts = (0_u16..1000, texts(), proptest::collection::vec(texts(), 1..4));
    parts.prop_map(|(status, path, texts)| Truth { status, path, texts })
}

/// Formats in which a client's text stands before the status or at its side, and address and time before all of them.
fn guessed_formats() -> impl Strategy<Value = String> {
    let target = proptest::sample::select(vec!["request", "request_uri"]);
    let others = proptest::sample::subsequence(OTHERS.to_vec(), 1..4);
    let behind = (target, others)
        .prop_flat_map(|(target, others)| Just([vec!["status", target], others].concat()).prop_shuffle());
    let separators = proptest::sample::select(vec!["|", " | ", "\t", "||", "^"]);
    (behind, separators).prop_map(|(behind, separator)| {
        let fields = behind.iter().map(|name| format!("{separator}${name}"));
        format!("$remote_addr{separator}$time_iso8601{}", fields.collect::<String>())
    })
}

fn truths_with_imitations() -> impl Strategy<Value = Truth> {
    let piece = prop_oneof![
        "[a-z/ ]{0,4}".prop_map(String::from),
        proptest::sample::select(vec![
            "|",
            "\t",
            " | ",
            "||",
            "^",
            "|200|",
            "^404^0^",
            " | 302 | ",
            "\t401\t5\t"
        ])
        .prop_map(str::to_owned),
    ];
    let text = proptest::collection::vec(piece, 0..4).prop_map(|pieces| pieces.concat().into_bytes());
    let texts = proptest::collection::vec(text.clone(), 1..4);
    (100_u16..600, text, texts).prop_map(|(status, path, texts)| Truth { status, path, texts })
}

fn template(text: &str, escape: Escape) -> Option<std::sync::Arc<Template>> {
    let word = match escape {
        Escape::Default | Escape::Any => "default",
        Escape::Json => "json",
        Escape::None => "none",
    };
    match Recipe::of(&format!("log_format a escape={word} '{text}';")) {
        Ok(Recipe::Text(template)) => Some(template),
        Ok(Recipe::Json(_)) => panic!("{text} is no JSON"),
        Err(_) => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, max_global_rejects: 200_000, ..ProptestConfig::default() })]

    /// A line of a format that is not refused is read as what nginx wrote, whatever a client puts into its texts.
    #[test]
    fn what_nginx_writes_is_read(
        text in formats(),
        escape in prop_oneof![Just(Escape::Default), Just(Escape::Json), Just(Escape::None)],
        truth in truths(),
    ) {
        let Some(template) = template(&text, escape) else { return Err(TestCaseError::reject("ambiguous")) };
        prop_assume!(!template.plan.has_guess);
        let line = write(&text, escape, &truth);
        prop_assume!(!line.contains(&b'\n') && line.last() != Some(&b'\r'));
        let shown = String::from_utf8_lossy(&line).into_owned();
        let mut block = [&line[..], b"\n"].concat();
        let mut out = Output::default();
        let end = block.len();
        let settings = Settings { format: Format::Template(template), ..Settings::default() };
        Parser::new(&settings).parse_block(&mut block, 0, end, &mut out);
        prop_assert_eq!(out.lines.len(), 1, "{}\n{}", text, shown);
        let read = out.lines[0];
        prop_assert_eq!(read.addr.to_string(), "198.51.100.7", "{}\n{}", text, shown);
        let found = (read.status, read.time, read.salvaged);
        prop_assert_eq!(found, (truth.status, 1_795_530_901, false), "{}\n{}", text, shown);
        let path = &block[read.path_at as usize..][..read.path_len as usize];
        let is_bare = truth.path.is_empty() || truth.path == b"-";
        prop_assert!(is_bare || path == &truth.path[..], "{}\n{}\n{:?}", text, shown, truth.path);
    }

    /// However else a line can be divided into the format's fields, the address, the time and the status are the same.
    #[test]
    fn every_division_of_a_line_gives_the_same_request(
        text in formats(),
        escape in prop_oneof![Just(Escape::Default), Just(Escape::Json)],
        mut truth in truths(),
    ) {
        let Some(template) = template(&text, escape) else { return Err(TestCaseError::reject("ambiguous")) };
        prop_assume!(!template.plan.has_guess);
        for text in truth.texts.iter_mut().chain([&mut truth.path]) {
            text.truncate(24);
        }
        let line = write(&text, escape, &truth);
        prop_assume!(line.len() < 200);
        let mut spans = super::read::Spans::none();
        let fits = template.plan.fit(&line, &mut spans);
        let divisions = divisions(&template, &line);
        let shown = String::from_utf8_lossy(&line);
        prop_assert!(!divisions.is_empty(), "{}\n{}", text, shown);
        prop_assert!(fits.is_some(), "{}\n{}", text, shown);
        for division in divisions {
            for take in [Take::Addr, Take::Time, Take::Status] {
                let (_, expected) = division.iter().find(|(other, _)| *other == take).unwrap();
                prop_assert_eq!(spans.of(take, &line), *expected, "{}\n{}\n{:?}", text, shown, take);
            }
        }
    }

    /// Where a client can make its line look like another one, the address and the time are those that nginx wrote, the line is
    /// either certain or marked, and no reading of it speaks more against the client.
    #[test]
    fn of_several_readings_the_worst_counts(
        text in guessed_formats(),
        escape in prop_oneof![Just(Escape::Default), Just(Escape::Json), Just(Escape::None)],
        mut truth in truths_with_imitations(),
    ) {
        let Some(template) = template(&text, escape) else { return Err(TestCaseError::reject("ambiguous")) };
        prop_assume!(template.plan.has_guess);
        for text in truth.texts.iter_mut().chain([&mut truth.path]) {
            text.truncate(24);
        }
        let line = write(&text, escape, &truth);
        prop_assume!(!line.contains(&b'\n') && line.last() != Some(&b'\r') && line.len() < 200);
        let divisions = divisions(&template, &line);
        let shown = String::from_utf8_lossy(&line).into_owned();
        let mut block = [&line[..], b"\n"].concat();
        let mut out = Output::default();
        let end = block.len();
        let settings = Settings { format: Format::Template(template), ..Settings::default() };
        Parser::new(&settings).parse_block(&mut block, 0, end, &mut out);
        prop_assert_eq!(out.lines.len(), 1, "{}\n{}", text, shown);
        let read = out.lines[0];
        prop_assert_eq!((read.addr.to_string(), read.time), ("198.51.100.7".to_owned(), 1_795_530_901), "{}\n{}", text, shown);
        let path = &block[read.path_at as usize..][..read.path_len as usize];
        let is_bare = truth.path.is_empty() || truth.path == b"-";
        if !read.salvaged {
            prop_assert_eq!(read.status, truth.status, "{}\n{}", text, shown);
            prop_assert!(is_bare || path == &truth.path[..], "{}\n{}\n{:?}", text, shown, truth.path);
        }
        for division in divisions {
            let (_, status) = division.iter().find(|(take, _)| *take == Take::Status).unwrap();
            let Some(status) = super::read::status(status) else { continue };
            let has_size = division.iter().all(|(take, text)| *take != Take::Size || super::read::size(text).is_some());
            if !has_size {
                continue;
            }
            prop_assert!(rank(read.status) >= rank(status), "{}\n{}\n{}", text, shown, status);
            prop_assert!(read.salvaged || read.status == status, "{}\n{}\n{}", text, shown, status);
        }
    }
}
