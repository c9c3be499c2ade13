//! Every log format, written by a real nginx: what is read is what was sent, however odd the request.
//!
//! One nginx writes each request to a log for each format. Each request comes from an address of its own in 127.0.0.0/8.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fmt::Write as _;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shield_engine::request::Batch;
use shield_logline::{Format, Output, Parser, Recipe, Settings};
use shield_tests::http::Get;
use shield_tests::wait;

/// How the agent is told about a format.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// Not at all; this is recognised.
    Nothing(&'static str),
    /// The whole `log_format` is pasted.
    Pasted,
}

/// The size that a format has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    Body,
    Total,
    None,
}

struct Case {
    name: &'static str,
    /// What stands behind the name in nginx.conf.
    text: &'static str,
    told: Told,
    size: Size,
    has_path: bool,
}

const fn case(name: &'static str, told: Told, text: &'static str) -> Case {
    Case { name, text, told, size: Size::Body, has_path: true }
}

const CASES: &[Case] = &[
    case(
        "combined_own",
        Told::Nothing("combined"),
        r#"'$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'"#,
    ),
    case(
        "stock_main",
        Told::Nothing("combined"),
        r#"'$remote_addr - $remote_user [$time_local] "$request" '
           '$status $body_bytes_sent "$http_referer" '
           '"$http_user_agent" "$http_x_forwarded_for"'"#,
    ),
    case(
        "combined_json",
        Told::Nothing("combined"),
        r#"escape=json '$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'"#,
    ),
    case(
        "combined_pasted",
        Told::Pasted,
        r#"'$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'"#,
    ),
    case(
        "vhost",
        Told::Nothing("combined, host first"),
        r#"'$host $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" "$upstream_addr"'"#,
    ),
    case(
        "vhost_port",
        Told::Nothing("combined, host first"),
        r#"'$host:$server_port $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent'"#,
    ),
    case(
        "vhost_raw",
        Told::Nothing("combined, host first"),
        r#"'$http_host $remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_user_agent"'"#,
    ),
    case(
        "proxy_manager",
        Told::Nothing("Nginx Proxy Manager"),
        r#"'[$time_local] $upstream_cache_status $upstream_status $status - $request_method $scheme $host "$request_uri" [Client $remote_addr] [Length $body_bytes_sent] [Gzip $gzip_ratio] [Sent-to $server] "$http_user_agent" "$http_referer"'"#,
    ),
    case(
        "proxy_manager_default",
        Told::Nothing("Nginx Proxy Manager"),
        r#"'[$time_local] $status - $request_method $scheme $host "$request_uri" [Client $remote_addr] [Length $body_bytes_sent] [Gzip $gzip_ratio] "$http_user_agent" "$http_referer"'"#,
    ),
    case(
        "upstreaminfo",
        Told::Nothing("combined"),
        r#"'$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent" $request_length $request_time [$server] [] $upstream_addr $upstream_response_length $upstream_response_time $upstream_status $request_id'"#,
    ),
    case(
        "old_upstreaminfo",
        Told::Nothing("combined"),
        r#"'$remote_addr - [$proxy_add_x_forwarded_for] - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"'"#,
    ),
    case(
        "iso",
        Told::Nothing("combined with ISO times"),
        r#"'$remote_addr - $remote_user [$time_iso8601] "$request" $status $body_bytes_sent "$http_user_agent"'"#,
    ),
    case(
        "time_first",
        Told::Nothing("time first"),
        r#"'[$time_local] $remote_addr - $remote_user "$request" $status $body_bytes_sent "$http_user_agent"'"#,
    ),
    case(
        "time_first_host",
        Told::Nothing("time first"),
        r#"'$time_iso8601 $host $remote_addr "$request" $status $body_bytes_sent'"#,
    ),
    case(
        "tabs",
        Told::Pasted,
        r"'$msec\t$remote_addr\t$host\t$request_method\t$request_uri\t$status\t$body_bytes_sent\t$http_user_agent\t$remote_user'",
    ),
    Case {
        size: Size::Total,
        ..case(
            "agent_first",
            Told::Pasted,
            r#"'"$http_user_agent" "$http_host" $bytes_sent $status ${remote_addr} $remote_user "$request" $msec'"#,
        )
    },
    case(
        "unquoted",
        Told::Pasted,
        "'$http_user_agent | $status $body_bytes_sent $remote_addr $time_iso8601 $request_method \"$request_uri\"'",
    ),
    case(
        "json_text",
        Told::Pasted,
        r#"escape=json '$remote_user $status $body_bytes_sent $remote_addr $time_iso8601 "$request" "$http_user_agent"'"#,
    ),
    case("none", Told::Pasted, r"escape=none '$status $body_bytes_sent $remote_addr $msec $request'"),
    Case {
        size: Size::None,
        ..case("short", Told::Pasted, r#"'$time_iso8601 "$request_uri" $status $remote_addr'"#)
    },
    Case {
        has_path: false,
        ..case(
            "decoded",
            Told::Pasted,
            r#"'$remote_addr [$time_local] "$uri$is_args$args" $status $body_bytes_sent'"#,
        )
    },
    case(
        "json_ours",
        Told::Nothing("JSON"),
        r#"escape=json '{"source_ip":"$remote_addr","timestamp":"$time_iso8601","method":"$request_method",'
        '"path":"$request_uri","status":$status,"response_size":$body_bytes_sent}'"#,
    ),
    case(
        "json_names",
        Told::Pasted,
        r#"escape=json '{"who":"$remote_addr","when":$msec,"http":{"what":"$request","how":$status},"user":"$remote_user",'
        '"octets":$body_bytes_sent,"agent":"$http_user_agent"}'"#,
    ),
];

/// A request, and what is read of it.
struct Sent {
    bytes: Vec<u8>,
    method: &'static str,
    path: Vec<u8>,
}

fn get(path: impl AsRef<[u8]>, headers: &[(&str, &[u8])]) -> Sent {
    let path = path.as_ref().to_vec();
    let mut bytes = [b"GET ", &path[..], b" HTTP/1.1\r\n"].concat();
    let host =
        (!headers.iter().any(|(name, _)| *name == "Host")).then_some(("Host", &b"www.example.org"[..]));
    for (name, value) in headers.iter().copied().chain(host).chain([("Connection", &b"close"[..])]) {
        bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
    }
    bytes.extend_from_slice(b"\r\n");
    Sent { bytes, method: "GET", path }
}

fn requests() -> Vec<Sent> {
    let agent = |agent: &'static [u8]| get("/agent", &[("User-Agent", agent)]);
    let user = |user: &str| get("/user", &[("Authorization", format!("Basic {}", base64(user)).as_bytes())]);
    let host = |host: &str| get("/host", &[("Host", host.as_bytes())]);
    let raw = |bytes: &[u8]| Sent { bytes: bytes.to_vec(), method: "", path: Vec::new() };
    let mut long = "/long".to_owned();
    write!(long, "{:04000}", 7).expect("writing to a String cannot fail");
    vec![
        get("/", &[]),
        get(
            "/a?b=c&d=%20e",
            &[("Referer", b"http://www.example.org/"), ("User-Agent", b"Mozilla/5.0 (X11)")],
        ),
        get("/missing.php", &[]),
        get("/q\"uote?x=\"y\" 200".replace(' ', "%20"), &[]),
        get("/back\\slash\\x22\\\"", &[]),
        get("/brackets]-[\"'|;,", &[]),
        get("/caf\u{e9}", &[]),
        get(b"/caf\xe9/\xff", &[]),
        get("/%22%5C%0A%00", &[]),
        get("/%22%5C%0Ax", &[]),
        get(long, &[]),
        get("/?", &[]),
        get("/-", &[]),
        get("http://other.example/absolute", &[]),
        agent(b"\" 200 0 \"-\" \"x"),
        agent(b"x\" 200 0 203.0.113.9 - - [24/Nov/2026:14:35:01 +0000] \"GET / HTTP/1.1\" 200 0"),
        agent(b" | 200 0 203.0.113.9 2026-11-24T14:35:01+00:00 GET \"/x\""),
        agent(b"tab\there \\ caf\xe9 \x01"),
        agent(b"\\"),
        user("J\u{f6}rg M\u{fc}ller:x"),
        user("a]b[c:x"),
        user("x [24/Nov/2026:14:35:01 +0000] \"GET / HTTP/1.1\" 200 0:x"),
        user("line\nbreak 203.0.113.9 - - [x] \"GET:x"),
        user("- -:x"),
        user("200 0 203.0.113.9 2026-11-24T14:35:01+00:00:x"),
        host("203.0.113.9"),
        host("203.0.113.9,"),
        host("[2001:db8::9]:443"),
        host("a\"b"),
        host("-"),
        host("203.0.113.9 - -"),
        host("203.0.113.9 - a [24/Nov/2026:14:35:01 +0000] \"GET"),
        get("/forwarded", &[("X-Forwarded-For", b"203.0.113.9, 203.0.113.10")]),
        get(
            "/forwarded",
            &[("X-Forwarded-For", b"] - - [24/Nov/2026:14:35:01 +0000] \"GET / HTTP/1.1\" 200")],
        ),
        raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
        raw(b"GET /blank in it HTTP/1.1\r\nHost: a\r\n\r\n"),
        raw(b"get / HTTP/1.1\r\nHost: a\r\n\r\n"),
        raw(b"\"\r\n\r\n"),
        raw(b"GET / HTTP/9.1\r\n\r\n"),
        Sent { bytes: b"GET /old\r\n\r\n".to_vec(), method: "GET", path: b"/old".to_vec() },
        Sent {
            bytes: b"POST /post?\" HTTP/1.0\r\nContent-Length: 2\r\n\r\nok".to_vec(),
            method: "POST",
            path: b"/post?\"".to_vec(),
        },
    ]
}

fn base64(text: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in text.as_bytes().chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or_default());
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            out.push(if at <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    out
}

/// What `init nginx` prints where nginx takes its visitors' addresses from a proxy.
const PEER_JSON: &str = r#"escape=json
    '{"source_ip":"$remote_addr","peer":"$realip_remote_addr","timestamp":"$time_iso8601",'
    '"method":"$request_method","path":"$request_uri","status":$status,"response_size":$body_bytes_sent}'"#;
const PEER_TEXT: &str = r#"'$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_user_agent" $realip_remote_addr'"#;

/// A running nginx. Dropping it ends it.
struct Nginx {
    process: Child,
    server: SocketAddr,
}

impl Nginx {
    fn start(folder: &Path) -> Nginx {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (mut formats, mut logs) = (String::new(), String::new());
        let shown = folder.display();
        for case in CASES {
            writeln!(formats, "log_format {} {};", case.name, case.text).unwrap();
            writeln!(logs, "access_log {shown}/{0}.log {0};", case.name).unwrap();
        }
        let config = format!(
            "daemon off; user root; worker_processes 1; pid {shown}/pid;
            events {{ worker_connections 64; }}
            http {{
              map $host $server {{ default 192.0.2.10; }}
              {formats}
              {logs}
              client_body_temp_path {shown}/body; proxy_temp_path {shown}/proxy; fastcgi_temp_path {shown}/fastcgi;
              uwsgi_temp_path {shown}/uwsgi; scgi_temp_path {shown}/scgi;
              server {{
                listen {free};
                location / {{ return 200 \"hello\\n\"; }}
                location ~ \\.php$ {{ return 404; }}
              }}
              log_format peer_json {PEER_JSON};
              log_format peer_text {PEER_TEXT};
              server {{
                listen {free};
                server_name proxied;
                set_real_ip_from 127.0.0.0/8;
                real_ip_header X-Real-IP;
                access_log {shown}/peer_json.log peer_json;
                access_log {shown}/peer_text.log peer_text;
                location / {{ return 200 \"hello\\n\"; }}
              }}
            }}"
        );
        fs::write(folder.join("nginx.conf"), config).unwrap();
        let mut command = Command::new("nginx");
        command.arg("-c").arg(folder.join("nginx.conf")).arg("-e").arg(folder.join("error.log"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().expect("nginx is installed (`cargo xtask setup`)");
        let nginx = Nginx { process, server: free };
        let listens = wait::until("nginx to listen", Duration::from_secs(10), || {
            Ok(fs::read_to_string(folder.join("pid")).ok().filter(|text| text.ends_with('\n')))
        });
        assert!(listens.is_ok(), "{}", fs::read_to_string(folder.join("error.log")).unwrap_or_default());
        nginx
    }

    /// Sends a request from an address of its own; returns the answer once nginx has closed the connection: its lines are in
    /// the logs by then.
    fn ask(&self, from: IpAddr, bytes: &[u8]) -> Answer {
        let get = Get { server: self.server, from: Some(from), path: "", timeout: Duration::from_secs(10) };
        let mut stream = get.open().unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|at| at + 4);
        let status = answer.strip_prefix(b"HTTP/1.1 ").and_then(|rest| rest.get(..3));
        let status = status.map(|digits| std::str::from_utf8(digits).unwrap().parse().unwrap());
        Answer { status, body: (answer.len() - head.unwrap_or(0)) as u64, total: answer.len() as u64 }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.process.id().cast_signed()), Signal::SIGTERM);
        let _ = self.process.wait();
    }
}

struct Answer {
    /// `None` for HTTP/0.9, whose answer is the body alone.
    status: Option<u16>,
    body: u64,
    total: u64,
}

impl Case {
    fn settings(&self) -> Settings {
        if let Told::Nothing(_) = self.told {
            return Settings::default();
        }
        let default = Settings::default();
        match Recipe::of(&format!("log_format {} {};", self.name, self.text)) {
            Ok(Recipe::Text(template)) => Settings { format: Format::Template(template), ..default },
            Ok(Recipe::Json(fields)) => Settings { format: Format::Json, fields: *fields, ..default },
            Err(why) => panic!("{}: {why:?}", self.name),
        }
    }

    /// Reads the log and returns what differs from what was sent.
    fn differences(&self, log: &[u8], sent: &[(Sent, IpAddr, Answer)], seconds: (i64, i64)) -> Vec<String> {
        let mut parser = Parser::new(&self.settings());
        let mut wrong = Vec::new();
        let lines: Vec<&[u8]> = log.split_inclusive(|byte| *byte == b'\n').collect();
        if lines.len() != sent.len() {
            wrong.push(format!("{}: {} lines of {} requests", self.name, lines.len(), sent.len()));
        }
        let mut name = None;
        for (line, (sent, from, answer)) in lines.iter().zip(sent) {
            let (mut block, mut out) = (line.to_vec(), Output::default());
            let end = block.len();
            parser.parse_block(&mut block, 0, end, &mut out);
            name = out.format.or(name);
            let mut fail = |what: String| {
                wrong.push(format!("{}: {what}: {}", self.name, String::from_utf8_lossy(line).trim_end()));
            };
            let Some(read) = out.lines.first() else {
                // nginx itself refused the host, which stands before the address in its line.
                let is_host = self.text.contains("$http_host $remote_addr") && answer.status == Some(400);
                if !is_host {
                    fail(format!("refused: {:?}", out.rejected));
                }
                continue;
            };
            let text = |at: u32, len: usize| &block[at as usize..][..len];
            let method = text(read.method_at, usize::from(read.method_len));
            let path = text(read.path_at, read.path_len as usize);
            if read.addr != *from {
                fail(format!("{} instead of {from}", read.addr));
            }
            if answer.status.is_some_and(|status| status != read.status) {
                fail(format!("status {} instead of {:?}", read.status, answer.status));
            }
            if read.time < seconds.0 || read.time > seconds.1 {
                fail(format!("time {}", read.time));
            }
            let expected = match self.size {
                Size::Body => answer.body,
                Size::Total => answer.total,
                Size::None => 0,
            };
            if read.size != expected {
                fail(format!("size {} instead of {expected}", read.size));
            }
            let has_method =
                ["$request\"", "$request'", "$request_method"].iter().any(|name| self.text.contains(name));
            // Of a request that nginx refused some formats have nothing.
            let is_served = read.status != 400 && !sent.method.is_empty();
            if is_served && has_method && method != sent.method.as_bytes() {
                fail(format!("method {:?}", String::from_utf8_lossy(method)));
            }
            // `$request_uri` has no origin.
            let without_origin = sent.path.strip_prefix(b"http://other.example").unwrap_or(&sent.path);
            if is_served && self.has_path && path != sent.path && path != without_origin {
                fail(format!("path {:?}", String::from_utf8_lossy(path)));
            }
            if read.salvaged && read.status != 400 {
                fail("an attempt to hide".to_owned());
            }
        }
        if let Told::Nothing(expected) = self.told
            && name != Some(expected)
        {
            wrong.push(format!("{}: recognised as {name:?}", self.name));
        }
        wrong
    }
}

#[test]
fn every_format_is_read_as_it_was_sent() {
    let folder = tempfile::tempdir().unwrap();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().cast_signed();
    let first = now();
    let nginx = Nginx::start(folder.path());
    let mut sent = Vec::new();
    for (number, request) in requests().into_iter().enumerate() {
        let from = IpAddr::V4(Ipv4Addr::new(127, 0, 1, u8::try_from(number + 1).unwrap()));
        let answer = nginx.ask(from, &request.bytes);
        sent.push((request, from, answer));
    }
    drop(nginx);
    let seconds = (first - 1, now() + 1);
    let mut wrong = Vec::new();
    for case in CASES {
        let log = fs::read(folder.path().join(format!("{}.log", case.name))).unwrap();
        wrong.extend(case.differences(&log, &sent, seconds));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let refused = sent.iter().filter(|(.., answer)| answer.status == Some(400)).count();
    assert!(refused >= 5 && sent.len() - refused >= 30, "{refused} of {} refused", sent.len());
}

#[test]
fn the_proxy_is_read_beside_the_client_and_no_request_forges_it() {
    const PROXY: &str = "127.0.0.2";
    let folder = tempfile::tempdir().unwrap();
    let nginx = Nginx::start(folder.path());
    let forged = r#"","peer":"192.0.2.99","x":""#;
    let agent = format!("User-Agent: {forged}");
    let cases = [
        ("X-Real-IP: 203.0.113.66", "203.0.113.66 by 127.0.0.2"),
        ("X-Real-IP: 2001:db8::66", "2001:db8::66 by 127.0.0.2"),
        // Nothing to take over: the connection is the client.
        ("X-Real-IP: nobody", "127.0.0.2 by -"),
        ("peer: 192.0.2.99", "127.0.0.2 by -"),
        (agent.as_str(), "127.0.0.2 by -"),
        ("User-Agent: a\" 192.0.2.99", "127.0.0.2 by -"),
    ];
    for (header, _) in cases {
        let request =
            format!("GET /a{forged} HTTP/1.1\r\nHost: proxied\r\nConnection: close\r\n{header}\r\n\r\n");
        let answer = nginx.ask(PROXY.parse().unwrap(), request.as_bytes());
        assert_eq!(answer.status, Some(200), "{header}");
    }
    drop(nginx);
    for (name, text) in [("peer_json", PEER_JSON), ("peer_text", PEER_TEXT)] {
        let case = case(name, Told::Pasted, text);
        let mut bytes = fs::read(folder.path().join(format!("{name}.log"))).unwrap();
        let (end, mut out) = (bytes.len(), Output::default());
        Parser::new(&case.settings()).parse_block(&mut bytes, 0, end, &mut out);
        let batch = Batch { bytes, lines: out.lines, ..Batch::default() };
        let shown = batch.lines.iter().map(|line| {
            let peer = batch.way_of(line).peer().map_or("-".to_owned(), |peer| peer.to_string());
            format!("{} by {peer}", line.addr)
        });
        assert_eq!(shown.collect::<Vec<_>>(), cases.map(|(_, expected)| expected), "{name}");
    }
}
