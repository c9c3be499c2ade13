//! The inputs that the fuzzer starts from. They are generated, so that no real log is ever needed.

use std::fs;
use std::path::PathBuf;

use crate::{differential, formats, lines, requests, wrapped};

/// The environment variable with the folder that [`write_all`] fills; `cargo xtask fuzz` sets it.
const FOLDER: &str = "SHIELD_FUZZ_SEEDS";

/// Lines in the common format: ordinary ones, and odd ones that occur in real logs.
const COMMON: [&str; 6] = [
    r#"192.0.2.7 - - [24/Nov/2026:15:35:01 +0100] "GET /a?b HTTP/1.1" 200 12"#,
    r#"2001:db8::7 - user [24/Nov/2026:15:35:02 +0000] "POST /x y HTTP/2.0" 404 -"#,
    r#"192.0.2.7 - a [b] c [24/Nov/2026:15:35:01 +0100] "GET /\x22 HTTP/1.0" 200 1"#,
    r#"192.0.2.7 - - [24/Nov/2026:15:35:01 +0100] "\x16\x03\x01" 400 150"#,
    r#"::ffff:192.0.2.7 - - [24/Nov/2026:15:35:01 +0100] "-" 408 0"#,
    r#"192.0.2.7 - - [24/Nov/2026:15:35:01 +0100] "GET /"a" HTTP/1.1" 200 1"#,
];

/// JSON lines that no fixed shape fits.
const ODD_JSON: [&str; 5] = [
    r#"{"source_ip":"192.0.2.7","timestamp":1795530901,"path":"/\x22","status":404,"response_size":5,"agent":"x"}"#,
    r#"{"source_ip":"192.0.2.7","timestamp":1795530901,"path":"/"a","status":404,"source_ip":"203.0.113.1","status":200}"#,
    r#"{"source_ip":"192.0.2.7","timestamp":"2026-11-24 14:35:01","status":,"path":"\ud83d\ude00"}"#,
    r#"{"status":99999,"timestamp":-5,"source_ip":["192.0.2.7"],"more":{"a":[{}]}}"#,
    r#" { "status" : "200" , "timestamp" : "1795530901" , "source_ip" : "fe80::1%eth0" } "#,
];

/// Lines on which the fixed-shape reader and the strict one once differed, and their like. The first line of each block
/// teaches the shape. `shield-logline`'s own tests replay the same file, so that a slip
/// that comes back fails there and not only when the fuzzer happens to find it.
const FOUND: &str = include_str!("../corpus/differential.txt");

/// Lines whose client is 198.51.100.7 or not to be known, and that were or could be charged to another.
const FORMATS: &str = include_str!("../corpus/formats.txt");

/// Writes the seeds of `target`; see [`write_all`].
pub fn write(target: &str) {
    write_all(|| of(target));
}

/// Writes these seeds to the folder that the environment names, and beside it a list of them in their order; does nothing when it
/// names none.
pub fn write_all(seeds: impl FnOnce() -> Vec<Vec<u8>>) {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    fs::create_dir_all(&folder).expect("the folder for seeds can be made");
    let mut list = Vec::new();
    for (n, seed) in seeds().iter().enumerate() {
        let path = folder.join(format!("seed-{n:02}"));
        fs::write(&path, seed).expect("a seed can be written");
        list.push(path.into_os_string().into_string().expect("the folder's name is UTF-8"));
    }
    fs::write(folder.with_extension("list"), list.join(",")).expect("the list of seeds can be written");
}

fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "json" => with_entries(json_texts()),
        "combined" => with_entries(combined_texts()),
        "common" => with_entries(COMMON.map(str::to_owned).to_vec()),
        "requests" => of_requests(),
        "paths" => of_paths(),
        "differential" => of_differential(),
        "blocks" => of_blocks(),
        "wrapped" => of_wrapped(),
        "times" => of_times(),
        "formats" => of_formats(),
        other => panic!("there is no target {other}"),
    }
}

fn json_texts() -> Vec<String> {
    let shapes = differential::SHAPES.iter().map(|shape| format!("{shape}\n{shape}\n"));
    shapes.chain(ODD_JSON.iter().map(|line| format!("{line}\n"))).collect()
}

fn combined_texts() -> Vec<String> {
    COMMON.iter().map(|line| format!("{line} \"http://example.org/\" \"agent \\\"quoted\\\"\"\n")).collect()
}

/// Inputs of raw lines, and of entries to be written.
fn with_entries(texts: Vec<String>) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> =
        texts.iter().map(|text| [&[lines::RAW], text.as_bytes(), b"\n"].concat()).collect();
    for path in ["/", "/a\"b\\c\u{1}", "/\u{e9}?x=1", "/\",\"status\":200,\"x\":\"", "/ HTTP/1.1\" 200 1"] {
        for escape in [0, 3] {
            let entry = [
                &[escape, 2, 7, 1, 101, 3, path.len() as u8],
                path.as_bytes(),
                &[100, 0, 12, 0, 0, 0, 3],
                b"a\"b",
                &[0, 1, 0, 3, 1, 4, 1, 5, 9, 2],
            ];
            seeds.push([&[lines::ENTRIES][..], &entry.concat(), &entry.concat()].concat());
        }
    }
    seeds
}

fn of_requests() -> Vec<Vec<u8>> {
    // Method, beginning, rest and status, as `requests` picks them: mixtures, and each kind alone, which takes a client to
    // the threshold of that rule and of no other.
    let runs: [&[(u8, u8, &str, u8)]; 13] = [
        &[(0, 1, "", 0), (0, 2, "1", 1), (0, 7, "", 0)],
        &[(0, 4, "env", 1), (0, 4, "git/config", 2), (0, 11, "", 4), (0, 12, "luci", 1), (0, 15, "a", 1)],
        &[(3, 3, "x", 8), (3, 4, "hidden", 1), (7, 1, "cal", 4)],
        &[(5, 0, "", 3), (4, 0, "192.0.2.1:443", 10), (0, 0, "\u{16}\u{3}", 3)],
        &[(0, 9, "1234", 0), (0, 10, "<script>", 1), (0, 1, "?a=../../etc/passwd", 0), (0, 8, "e/x", 12)],
        &[(1, 13, "", 0)],
        &[(1, 14, "", 0)],
        &[(5, 0, "", 3)],
        &[(0, 2, "gone", 1)],
        &[(0, 2, "x.php", 0)],
        &[(0, 1, "", 0)],
        &[(1, 2, "", 0)],
        &[(0, 4, "git/", 0)],
    ];
    let mut seeds = Vec::new();
    for mode in [0, requests::WITH_DETECTOR | 1, requests::WITH_DETECTOR | 3] {
        for run in runs {
            let mut seed = vec![mode];
            for n in 0..12 {
                for (method, beginning, rest, status) in run {
                    let rest = if rest.is_empty() { String::new() } else { format!("{rest}{n}") };
                    seed.extend([if n % 4 == 3 { 0xc0 } else { 0 }, *method, *beginning, rest.len() as u8]);
                    seed.extend(rest.as_bytes());
                    seed.extend([*status, n]);
                }
            }
            seeds.push(seed);
        }
    }
    seeds
}

fn of_paths() -> Vec<Vec<u8>> {
    [
        "//////.en%76?1.css",
        "/x/../a//./b/..",
        "/%2e%2E/%2f..%2f%25%3f%23",
        "http://example.org:80/a//b?c#d",
        "/100%/%zz%00",
        "/../../about.php",
        "example.org:443",
    ]
    .map(|target| target.as_bytes().to_vec())
    .to_vec()
}

/// Each format with ordinary texts, and with texts that imitate what stands behind them.
fn of_formats() -> Vec<Vec<u8>> {
    let texts = [
        "/",
        "a b",
        "203.0.113.1 - -",
        "x\" 200 0 \"-",
        " 200 0 203.0.113.1 ",
        "203.0.113.1,",
        "] [24/Nov/2026:15:35:01 +0100] \"",
        "|200|0|",
    ];
    let mut seeds = Vec::new();
    for (mode, count) in [
        (formats::CONFIGURED, formats::CONFIGURABLE.len()),
        (formats::RECOGNISED, formats::KNOWN.len()),
        (formats::GUESSED, formats::GUESSABLE.len()),
    ] {
        for format in 0..count as u8 {
            let mut seed = vec![mode, format];
            if mode == formats::RECOGNISED {
                seed.push(format % 2);
            }
            for text in texts {
                seed.extend([100, 0, 12, 0, 0, 0]);
                for _ in 0..4 {
                    seed.push(text.len() as u8);
                    seed.extend(text.as_bytes());
                }
            }
            seeds.push(seed);
        }
    }
    let texts = COMMON.iter().copied().chain(FORMATS.lines());
    seeds.extend(texts.map(|line| [&[formats::RAW], line.as_bytes(), b"\n"].concat()));
    seeds
}

fn of_differential() -> Vec<Vec<u8>> {
    // Twice each: a shape is learned from the first line that has it.
    let repeated = json_texts().into_iter().map(|text| text.repeat(2));
    let found = FOUND.split("\n\n").map(|lines| format!("{}\n", lines.trim_end()));
    let raw = repeated
        .chain(found)
        .flat_map(|text| [0, 1].map(|settings| [&[differential::RAW, settings], text.as_bytes()].concat()));
    let damaged = (0..differential::SHAPES.len() as u8).flat_map(|shape| {
        [0, 7].map(|settings| vec![differential::DAMAGED, settings, shape, 3, 40, 1, 0, 5, 90, 0, b'x'])
    });
    raw.chain(damaged).collect()
}

fn of_wrapped() -> Vec<Vec<u8>> {
    const RECORDS: [&str; 5] = [
        r#"{"log":"192.0.2.7 - - [24/Nov/2026:15:35:01 +0100] \"GET /a HTTP/1.1\" 200 12\n","stream":"stdout","time":"x"}"#,
        r#"{"log":"192.0.2.7 - - [24/Nov/2026:15:35:01 +0100] \"GET ","stream":"stdout","time":"x"}"#,
        r#"{"log":"x\n","stream":"stderr","time":"x"}"#,
        r#"2026-11-24T14:35:01.5Z stdout P 192.0.2.7 - - [24/Nov/2026:15:35:01 +0100] "GET /a HTTP"#,
        r#"{"__CURSOR":"s","MESSAGE":[49,57,50],"_LINE_BREAK":"line-max"}"#,
    ];
    let texts = RECORDS.iter().map(|record| format!("{}\n{record}\n{}\n", RECORDS[0], RECORDS[0]));
    let raw = texts.map(|text| [&[wrapped::RAW], text.as_bytes()].concat());
    let entry = [
        &[2, 7, 1, 101, 3, 5][..],
        b"/a\"b\\",
        &[100, 0, 12, 0, 0, 0, 3],
        b"a\"b",
        &[0; 12],
        &[2, 9, 0, 20, 1],
    ]
    .concat();
    let written = (0..6).map(|n| [&[1, n % 3, n / 3][..], &entry, &entry, &entry].concat());
    raw.chain(written).collect()
}

fn of_times() -> Vec<Vec<u8>> {
    (0..9).map(|odd| (0..40).flat_map(|n| [n, if n == 20 { odd } else { 9 }]).collect()).collect()
}

fn of_blocks() -> Vec<Vec<u8>> {
    let long = "x".repeat(300);
    let texts = [
        json_texts().concat(),
        combined_texts().concat(),
        COMMON.join("\n"),
        format!("{long}\n{}{long}", json_texts()[0]),
        format!("{}{}\n\n{}", json_texts()[0], json_texts()[1], ODD_JSON[0]),
    ];
    let heads: [&[u8]; 4] = [&[0, 0], &[1, 3, 10, 1, 200], &[2, 5, 0, 0, 0, 0, 0], &[0, 2, 130, 120]];
    let seeds = texts.iter().flat_map(|text| heads.map(|head| [head, text.as_bytes()].concat()));
    seeds.collect()
}
