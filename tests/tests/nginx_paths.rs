//! The engine's reading of request targets against a real nginx: for thousands of generated targets, `resolve` gives the
//! `$uri` that nginx serves, or both refuse the target.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::path::Path;

use shield_engine::test_support::served_path::{is_as_written, resolve};
use shield_tests::nginx::SocketNginx;

/// What targets are made of: all that has a meaning in a path, and text around it.
const PIECES: [&str; 24] = [
    "/",
    "//",
    ".",
    "..",
    "/.",
    "/..",
    "a",
    "b.css",
    "%2e",
    "%2E",
    "%2f",
    "%25",
    "%3f",
    "%23",
    "%61",
    "%0a",
    "%00",
    "%c3%a9",
    "%",
    "%4",
    "%zz",
    "?",
    "#",
    "\u{e9};x+y\\",
];

const ORIGINS: [&str; 6] = [
    "http://www.example.org",
    "HTTPS://example.org:8080",
    "http://[::1]:80",
    "http://u:p@h",
    "http://",
    "example.org",
];

/// Every sequence of up to three pieces, many longer ones, and all of these behind some origin.
fn targets() -> Vec<String> {
    let mut all = vec!["/".to_owned(), "*".to_owned(), "x".to_owned()];
    for one in PIECES {
        all.push(format!("/{one}"));
        for two in PIECES {
            all.push(format!("/{one}{two}"));
            all.extend(PIECES.map(|three| format!("/{one}{two}{three}")));
        }
    }
    let mut state = 7_u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for n in 0..6_000 {
        let pieces: String = (0..4 + random(8)).map(|_| PIECES[random(PIECES.len())]).collect();
        let origin = if n % 5 == 0 { ORIGINS[random(ORIGINS.len())] } else { "" };
        all.push(format!("{origin}/{pieces}"));
    }
    all.extend(
        ORIGINS.iter().flat_map(|origin| ["", "/", "?a/b", "//x?y#z"].map(|end| format!("{origin}{end}"))),
    );
    all
}

fn start(folder: &Path) -> SocketNginx {
    let shown = folder.display();
    let http = format!(
        "log_format paths escape=json '$status $request_uri $uri';
         access_log {shown}/access.log paths;
         server {{ listen unix:{shown}/socket; location / {{ return 204; }} }}"
    );
    SocketNginx::start(folder, &http).unwrap()
}

/// Undoes nginx's `escape=json`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some((byte, behind)) = rest.split_first() {
        rest = behind;
        if *byte != b'\\' {
            out.push(*byte);
            continue;
        }
        let (kind, behind) = rest.split_first().unwrap();
        rest = behind;
        out.push(match kind {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 8,
            b'f' => 12,
            b'u' => {
                let code = std::str::from_utf8(&rest[..4]).unwrap();
                rest = &rest[4..];
                u8::from_str_radix(&code[2..], 16).unwrap()
            }
            other => *other,
        });
    }
    out
}

#[test]
fn a_target_resolves_to_what_nginx_serves() {
    let folder = tempfile::tempdir().unwrap();
    let nginx = start(folder.path());
    let targets = targets();
    for target in &targets {
        nginx.ask("socket", &format!("GET {target} HTTP/1.1\r\nHost: example.org")).unwrap();
    }
    drop(nginx);
    let log = fs::read(folder.path().join("access.log")).unwrap();
    let lines: Vec<_> = log.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).collect();
    assert_eq!(lines.len(), targets.len());

    let (mut served, mut refused, mut wrong) = (0, 0, Vec::new());
    let mut space = Vec::new();
    for (target, line) in targets.iter().zip(lines) {
        let mut fields = line.splitn(3, |byte| *byte == b' ');
        let status = fields.next().unwrap();
        let [request_uri, uri] = [(); 2].map(|()| unescape(fields.next().unwrap_or_default()));
        let ours = resolve(target.as_bytes(), &mut space);
        let is_refused = status != b"204";
        if is_refused {
            refused += 1;
        } else {
            served += 1;
        }
        let agrees =
            if is_refused { ours.spelling.is_refused } else { !ours.spelling.is_refused && ours.path == uri };
        let path = target.split('?').next().unwrap();
        let shortcut = is_refused || !is_as_written(path.as_bytes()) || path.as_bytes() == uri;
        // The log has the target as written, which is what the agent reads.
        let logged = is_refused || target.as_bytes().ends_with(&request_uri) || request_uri == b"/";
        if !(agrees && shortcut && logged) {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            wrong.push(format!("{target:?}: nginx {} {:?}, ours {ours:?}", text(status), text(&uri)));
        }
    }
    wrong.truncate(20);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        served > 5_000 && refused > 3_000,
        "{served} served, {refused} refused: too few to show anything"
    );
}
