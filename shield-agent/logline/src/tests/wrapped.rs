//! Lines of containers and of the journal.

use super::*;

const COMBINED: &str =
    r#"192.0.2.7 - - [24/Nov/2026:14:35:01 +0000] "GET /a?b=\"c\" HTTP/1.1" 404 7 "-" "agent""#;
const READ: &str = "192.0.2.7 1795530901 GET /a?b=\"c\" 404 7";

fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

fn docker(text: &str, stream: &str) -> String {
    format!(r#"{{"log":{},"stream":"{stream}","time":"2026-11-24T14:35:01.123456789Z"}}"#, quoted(text))
}

fn cri(text: &str, stream: &str, tag: &str) -> String {
    format!("2026-11-24T14:35:01.123456789Z {stream} {tag} {text}")
}

fn journal(message: &str, more: &str) -> String {
    format!(
        r#"{{"__CURSOR":"s=1","__REALTIME_TIMESTAMP":"1795530901000000","_TRANSPORT":"stdout"{more},"MESSAGE":{message}}}"#
    )
}

/// Everything that lines are read as, and the refused ones by reason.
fn read_all(settings: &Settings, lines: &[String]) -> (Vec<String>, Vec<(&'static str, u64)>) {
    let text = lines.iter().map(|line| format!("{line}\n")).collect::<String>();
    let (block, out) = parse(settings, text.as_bytes());
    let shown = out.lines.iter().map(|line| {
        let (method, path) = texts(line, &block);
        let (method, path) =
            (String::from_utf8_lossy(&method).into_owned(), String::from_utf8_lossy(&path).into_owned());
        format!("{} {} {method} {path} {} {}", line.addr, line.time, line.status, line.size)
    });
    let counted = Rejected::ALL.into_iter().map(|reason| (reason.name(), out.rejected[reason.index()]));
    (shown.collect(), counted.filter(|(_, count)| *count > 0).collect())
}

#[test]
fn any_format_is_read_inside_a_wrapper() {
    let own = json(r#""method":"GET","path":"/a?b=\"c\"","status":404,"response_size":7"#);
    for inside in [COMBINED, &own] {
        let bytes: Vec<String> = inside.bytes().map(|byte| byte.to_string()).collect();
        for line in [
            docker(&format!("{inside}\n"), "stdout"),
            docker(&format!("{inside}\r\n"), "stdout"),
            docker(&format!("{inside}\n"), "stdout")
                .replace(r#","time""#, r#","attrs":{"tag":"web"},"time""#),
            docker(&format!("{inside}\n"), "stdout").replace(r#","stream":"#, r#", "stream": "#),
            format!(r#"{{ "time": 1, "stream": "stdout", "log": {} }}"#, quoted(&format!("{inside}\n"))),
            cri(inside, "stdout", "F"),
            cri(inside, "stdout", "F:x"),
            cri(inside, "stdout", "F").replace("Z ", "+01:00 "),
            cri(inside, "stderr", "F"),
            docker(&format!("{inside}\n"), "stderr"),
            journal(&quoted(inside), ""),
            journal(&format!("[{}]", bytes.join(",")), ""),
        ] {
            let (read, rejected) = read_all(&Settings::default(), &vec![line.clone(); 5]);
            assert_eq!((read, rejected), (vec![READ.to_owned(); 5], vec![]), "{line}");
        }
    }
}

#[test]
fn parts_are_joined() {
    let (head, tail) = COMBINED.split_at(40);
    let (middle, tail) = tail.split_at(20);
    let error = "2026/11/24 14:35:01 [error] 7#7: open() failed";
    let lines = [
        docker(&format!("{COMBINED}\n"), "stdout"),
        docker(head, "stdout"),
        docker(&format!("{error}\n"), "stderr"),
        docker(middle, "stdout"),
        docker(error, "stderr"),
        docker(&format!("{tail}\n"), "stdout"),
        docker("rest\n", "stderr"),
        docker(&format!("{COMBINED}\n"), "stdout"),
    ];
    let expected = (vec![READ.to_owned(); 3], vec![("empty", 5)]);
    assert_eq!(read_all(&Settings::default(), &lines), expected);
    let lines = [
        cri(COMBINED, "stdout", "F"),
        cri(head, "stdout", "P"),
        cri(error, "stderr", "F"),
        cri(middle, "stdout", "P"),
        cri(error, "stderr", "P"),
        cri(tail, "stdout", "F"),
        cri("rest", "stderr", "F"),
        cri(COMBINED, "stdout", "F"),
    ];
    assert_eq!(read_all(&Settings::default(), &lines), expected);
    let lines = [
        journal(&quoted(head), r#","_LINE_BREAK":"line-max""#),
        journal(&quoted(&format!("{middle}{tail}")), ""),
    ];
    assert_eq!(read_all(&Settings::default(), &lines), (vec![READ.to_owned()], vec![("empty", 1)]));
}

/// The error stream of a container is no access log: it neither counts as refused nor is it read.
#[test]
fn the_other_stream_is_skipped() {
    let lines = [
        docker("/docker-entrypoint.sh: ready for start up\n", "stderr"),
        docker(&format!("{COMBINED}\n"), "stdout"),
        docker("2026/11/24 14:35:01 [notice] 1#1: start worker\n", "stderr"),
        docker(&format!("{COMBINED}\n"), "stderr"),
    ];
    assert_eq!(read_all(&Settings::default(), &lines), (vec![READ.to_owned()], vec![("empty", 3)]));
}

/// Cuts the lines of a log into two blocks at every byte: what was read must not depend on it, and no block may count as read
/// in the middle of a line's parts.
#[test]
fn blocks_may_end_anywhere() {
    let (head, tail) = COMBINED.split_at(50);
    for lines in [
        [
            docker(&format!("{COMBINED}\n"), "stdout"),
            docker(head, "stdout"),
            docker("x\n", "stderr"),
            docker(&format!("{tail}\n"), "stdout"),
        ],
        [
            cri(COMBINED, "stdout", "F"),
            cri(head, "stdout", "P"),
            cri("x", "stderr", "F"),
            cri(tail, "stdout", "F"),
        ],
    ] {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let parts_at = lines[0].len() + 1;
        for cut in 0..=text.len() {
            let (mut parser, mut out) = (Parser::new(&Settings::default()), Output::default());
            let mut block = text.clone().into_bytes();
            let upto = parser.parse_block(&mut block, 0, cut, &mut out);
            assert!(upto <= parts_at || upto == text.len(), "{cut}: read up to {upto}");
            // A restart: the parser is another one.
            for mut parser in [parser, Parser::new(&Settings::default())] {
                let mut out = Output {
                    lines: out.lines.clone(),
                    ..Output { rejected: out.rejected, ..Output::default() }
                };
                let mut block = text.as_bytes()[upto..].to_vec();
                let end = block.len();
                parser.parse_block(&mut block, 0, end, &mut out);
                assert_eq!((out.lines.len(), out.rejected[Rejected::Empty.index()]), (2, 2), "{cut}");
            }
        }
    }
}

/// History: none. A client chooses where its long line is cut, and what stands behind the cut.
#[test]
fn the_end_of_a_torn_line_is_no_line() {
    let settings = Settings { max_line_bytes: 400, ..Settings::default() };
    let forged = COMBINED.replace("192.0.2.7", "198.51.100.9");
    let start = docker(&format!("{COMBINED}\n"), "stdout");
    let end = docker(&format!("{forged}\n"), "stdout");
    // Too long together.
    let part = docker(&"x".repeat(250), "stdout");
    let lines = [start.clone(), part.clone(), part.clone(), end.clone(), start.clone()];
    let (read, rejected) = read_all(&settings, &lines);
    assert_eq!(
        (read, rejected),
        (vec![READ.to_owned(); 2], vec![("malformed", 1), ("too_long", 1), ("empty", 1)])
    );
    // One part too long by itself.
    let lines = [start.clone(), docker(&"x".repeat(500), "stdout"), end.clone(), start.clone()];
    let (read, rejected) = read_all(&settings, &lines);
    assert_eq!((read, rejected), (vec![READ.to_owned(); 2], vec![("malformed", 1), ("too_long", 1)]));
    // Rotated between the parts: the next file begins with the end.
    let mut parser = Parser::new(&Settings::default());
    let mut out = Output::default();
    let mut block = format!("{start}\n{part}\n").into_bytes();
    let len = block.len();
    assert_eq!(parser.parse_block(&mut block, 0, len, &mut out), start.len() + 1);
    let mut block = format!("{end}\n{start}\n").into_bytes();
    let len = block.len();
    parser.parse_block(&mut block, 0, len, &mut out);
    assert!(out.lines.iter().all(|line| line.addr.to_string() == "192.0.2.7"));
    assert_eq!((out.lines.len(), out.rejected[Rejected::Malformed.index()]), (2, 1));
    // The rest of the rotated file, once nothing more is written to it.
    let mut block = part.clone().into_bytes();
    let len = block.len();
    let before: u64 = out.rejected.iter().sum();
    parser.parse_single(&mut block, 0, len, &mut out);
    assert_eq!((out.lines.len(), out.rejected.iter().sum::<u64>()), (2, before + 1));
}

/// Parts without an end hold up what follows only for as long as a line may be.
#[test]
fn parts_without_an_end_are_given_up() {
    let mut lines = vec![docker(&format!("{COMBINED}\n"), "stdout"), docker("part", "stdout")];
    lines.extend(vec![docker("an error\n", "stderr"); 50]);
    lines.push(docker("end\n", "stdout"));
    lines.push(docker(&format!("{COMBINED}\n"), "stdout"));
    let settings = Settings { max_line_bytes: 1000, ..Settings::default() };
    let (read, rejected) = read_all(&settings, &lines);
    assert_eq!(
        (read, rejected),
        (vec![READ.to_owned(); 2], vec![("malformed", 1), ("too_long", 1), ("empty", 50)])
    );
}

/// A format may begin with what the client sends. Its wrapper is none of the log's.
#[test]
fn a_client_cannot_wrap_its_own_line() {
    let forged = COMBINED.replace("192.0.2.7", "198.51.100.9");
    let attack = cri(&forged, "stdout", "F");
    let mut lines = vec![COMBINED.to_owned(); 3];
    lines.extend(vec![attack; 40]);
    lines.push(COMBINED.to_owned());
    let (read, _) = read_all(&Settings::default(), &lines);
    let framed = read.iter().filter(|line| line.starts_with("198.51.100.9")).count();
    // Thirty-two lines in a row, of a log of three requests, could be a log that was wrapped meanwhile.
    assert!(framed <= 40 - 32, "{framed}");
    let mut lines = vec![COMBINED.to_owned(); 500];
    lines.extend(vec![cri(&forged, "stdout", "F"); 400]);
    lines.extend(vec![COMBINED.to_owned(); 10]);
    let (read, _) = read_all(&Settings::default(), &lines);
    assert_eq!(read, vec![READ.to_owned(); 510]);
}

/// A container may be given another log driver, and a first line may be anything.
#[test]
fn a_log_may_become_wrapped() {
    let mut lines = vec![COMBINED.to_owned(); 5];
    lines.extend(vec![docker(&format!("{COMBINED}\n"), "stdout"); 40]);
    let (read, _) = read_all(&Settings::default(), &lines);
    assert!(read.len() >= 5 + 40 - 32, "{}", read.len());
}

/// Puts a line into records.
type Wrap<'a> = &'a dyn Fn(&String) -> Vec<String>;

proptest! {
    /// Wrapped lines are the same requests as bare ones, whatever their texts.
    #[test]
    fn wrapping_changes_nothing(paths in proptest::collection::vec("[ -~é]{0,30}", 1..6), tag in "[FP]") {
        let bare: Vec<String> = paths.iter().map(|path| json(&format!(r#""method":"GET","path":{},"status":404"#, quoted(path)))).collect();
        let wrappers: [Wrap<'_>; 4] = [
            &|line| vec![docker(&format!("{line}\n"), "stdout")],
            &|line| vec![cri(line, "stdout", "F")],
            &|line| vec![journal(&quoted(line), "")],
            &|line| {
                let at = line.char_indices().map(|(at, _)| at).nth(line.chars().count() / 2).unwrap_or(0);
                let (head, tail) = line.split_at(at);
                match tag.as_str() {
                    "P" => vec![cri(head, "stdout", "P"), cri(tail, "stdout", "F")],
                    _ => vec![docker(head, "stdout"), docker(&format!("{tail}\n"), "stdout")],
                }
            },
        ];
        let expected = read_all(&Settings::default(), &bare).0;
        for wrap in wrappers {
            let lines: Vec<String> = bare.iter().flat_map(wrap).collect();
            prop_assert_eq!(&read_all(&Settings::default(), &lines).0, &expected);
        }
    }
}
