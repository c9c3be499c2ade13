//! `[[site]]` against a real nginx: the name in the log is the one of the server section that answered, whatever host a client
//! asks for. `$host`, beside it, is the client's to choose.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails there")]

use std::fs;
use std::path::Path;

use shield_engine::request::Batch;
use shield_logline::{Output, Parser, Settings};
use shield_tests::nginx::SocketNginx;

/// An nginx with a strict default site and lenient ones; on the socket `alone` the strict one alone.
fn start(folder: &Path) -> SocketNginx {
    let shown = folder.display();
    let http = format!(
        "log_format sites escape=json
           '{{\"source_ip\":\"192.0.2.7\",\"timestamp\":\"$time_iso8601\",\"method\":\"$request_method\",'
           '\"path\":\"$request_uri\",\"status\":$status,\"host\":\"$host\",\"server_name\":\"$server_name\"}}';
         access_log {shown}/access.log sites;
         server {{ listen unix:{shown}/both default_server; listen unix:{shown}/alone;
                   server_name strict.example other.example; location / {{ return 200 strict; }} }}
         server {{ listen unix:{shown}/both; server_name lenient.example; location / {{ return 200 lenient; }} }}
         server {{ listen unix:{shown}/both; server_name *.wild.example; location / {{ return 200 wild; }} }}"
    );
    SocketNginx::start(folder, &http).unwrap()
}

#[test]
fn the_name_is_of_the_section_that_answered() {
    // Where, the request, who answers, the name in the log.
    let cases = [
        ("both", "GET /a HTTP/1.1\r\nHost: strict.example", "strict", "strict.example"),
        ("both", "GET /a HTTP/1.1\r\nHost: other.example", "strict", "strict.example"),
        ("both", "GET /a HTTP/1.1\r\nHost: lenient.example", "lenient", "lenient.example"),
        ("both", "GET /a HTTP/1.1\r\nHost: LENIENT.example:8080", "lenient", "lenient.example"),
        ("both", "GET /a HTTP/1.1\r\nHost: x.wild.example", "wild", "*.wild.example"),
        // A name that no section has: the default one answers.
        ("both", "GET /a HTTP/1.1\r\nHost: x.lenient.example", "strict", "strict.example"),
        ("both", "GET /a HTTP/1.0", "strict", "strict.example"),
        // The lenient name where no lenient section listens.
        ("alone", "GET /a HTTP/1.1\r\nHost: lenient.example", "strict", "strict.example"),
        (
            "alone",
            "GET http://lenient.example/a HTTP/1.1\r\nHost: strict.example",
            "strict",
            "strict.example",
        ),
        // Two names: the target's is served.
        (
            "both",
            "GET http://lenient.example/a HTTP/1.1\r\nHost: strict.example",
            "lenient",
            "lenient.example",
        ),
        ("both", "GET http://strict.example/a HTTP/1.1\r\nHost: lenient.example", "strict", "strict.example"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let nginx = start(folder.path());
    for (socket, head, answers, _) in &cases {
        let answer = nginx.ask(socket, head).unwrap();
        assert_eq!(answer.rsplit("\r\n").next(), Some(*answers), "{socket}: {head}");
    }
    drop(nginx);
    let mut bytes = fs::read(folder.path().join("access.log")).unwrap();
    let (end, mut out) = (bytes.len(), Output::default());
    Parser::new(&Settings::default()).parse_block(&mut bytes, 0, end, &mut out);
    let batch = Batch { bytes, lines: out.lines, ..Batch::default() };
    assert_eq!(batch.lines.len(), cases.len(), "{}", String::from_utf8_lossy(&batch.bytes));
    for (line, (socket, head, _, name)) in batch.lines.iter().zip(&cases) {
        assert_eq!(String::from_utf8_lossy(batch.server_of(line)), *name, "{socket}: {head}");
    }
    let log = String::from_utf8_lossy(&batch.bytes);
    let is_forged = |line: &&str| {
        line.contains("\"host\":\"lenient.example\"") && line.contains("\"server_name\":\"strict.example\"")
    };
    assert_ne!(
        log.lines().filter(is_forged).count(),
        0,
        "with $host, a client of the strict section would choose its site"
    );
}
