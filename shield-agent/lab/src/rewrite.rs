//! The operator's own nginx configuration, made to run in an environment: a copy in which addresses, certificates, files and
//! servers behind it are the environment's, and everything else is as it is, on the same line.
//!
//! What listens somewhere listens at the same port of every address. What nginx passes on goes to the environment's app. Its
//! certificates are replaced by one that is made here, so that no private key is copied. Nothing outside of the machine's
//! folder is written, and no log goes to another host.

mod parse;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

use self::parse::{Directive, directives};
use crate::command;
use crate::launch::APP;

/// Files that are copied of the folder, at the most, and the longest of them.
const MOST_FILES: usize = 5_000;
const LONGEST_FILE: u64 = 4 * 1024 * 1024;
/// Keys are not copied.
const KEYS: [&str; 3] = ["key", "pem", "p12"];

/// Where the copy's files go.
#[derive(Debug, Clone)]
pub(crate) struct Place<'a> {
    /// The operator's folder, which has `nginx.conf`.
    pub original: &'a Path,
    /// The machine's folder.
    pub folder: &'a Path,
    /// The log that the agent reads.
    pub access_log: &'a Path,
    /// The operator's log that this one stands for; without it every log does.
    pub log: Option<&'a Path>,
    /// Proxies whose word for a client's address is taken.
    pub proxies: &'a [&'a str],
}

/// The copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rewritten {
    /// Its `nginx.conf`.
    pub config: PathBuf,
    /// The first site's name.
    pub host: Option<String>,
    /// A port at which plain HTTP is spoken.
    pub port: Option<u16>,
    /// The format of the log that the agent reads, where it has one of its own that is no JSON.
    pub format: Option<String>,
}

impl Place<'_> {
    fn copy(&self) -> PathBuf {
        self.folder.join("nginx")
    }

    /// nginx's words with the operator's own paths.
    pub(crate) fn in_original(&self, words: &str) -> String {
        words.replace(&*self.copy().to_string_lossy(), &self.original.to_string_lossy())
    }
}

/// Copies the folder and rewrites each file of it.
///
/// # Errors
/// Fails if there is no `nginx.conf`, if the folder is too large, or if no certificate can be made.
pub(crate) fn rewrite(place: &Place<'_>) -> Result<Rewritten> {
    let main = place.original.join("nginx.conf");
    ensure!(
        main.is_file(),
        "could not find {}: name the folder that has nginx.conf with --nginx",
        main.display()
    );
    let mut files = Vec::new();
    list(place.original, place.original, &mut files)?;
    let mut state = Found::default();
    let mut is_read = false;
    for file in &files {
        let relative = file.strip_prefix(place.original).unwrap_or(file);
        let target = place.copy().join(relative);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).with_context(|| format!("could not create {}", parent.display()))?;
        }
        let bytes = fs::read(file).with_context(|| format!("could not read {}", file.display()))?;
        let changed = match String::from_utf8(bytes) {
            Ok(text) => {
                let text = file_of(&text, *file == main, place, &mut state);
                is_read |= text.contains(&*place.access_log.to_string_lossy());
                text.into_bytes()
            }
            Err(binary) => binary.into_bytes(),
        };
        fs::write(&target, changed).with_context(|| format!("could not write {}", target.display()))?;
    }
    if let Some(log) = place.log.filter(|_| !is_read) {
        let logs = state.logs.into_iter().collect::<Vec<_>>().join(", ");
        bail!(
            "could not find an `access_log {}` in {}, and the agent would read nothing: name one of {logs} with --log, or \
             leave it out for all of them",
            log.display(),
            place.original.display()
        );
    }
    if state.has_certificate {
        make_certificate(place)?;
    }
    let port = if state.plain_ports.contains(&80) { Some(80) } else { state.plain_ports.first().copied() };
    let format = state.read.and_then(|name| state.formats.remove(&name));
    let format = format.filter(|text| !text.starts_with('{'));
    Ok(Rewritten { config: place.copy().join("nginx.conf"), host: state.host, port, format })
}

fn list(root: &Path, folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("could not list {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        // What a link leads to is copied; one that leads back would never end.
        let depth = path.strip_prefix(root).map_or(0, |relative| relative.components().count());
        let Ok(metadata) = fs::metadata(&path) else { continue };
        if metadata.is_dir() && depth < 8 {
            list(root, &path, files)?;
        } else if metadata.is_file() && metadata.len() <= LONGEST_FILE && !is_key(&path) {
            files.push(path);
        }
        ensure!(
            files.len() <= MOST_FILES,
            "could not copy {}: it has more than {MOST_FILES} files; name nginx's own folder",
            root.display()
        );
    }
    Ok(())
}

fn is_key(path: &Path) -> bool {
    path.extension().is_some_and(|end| KEYS.iter().any(|key| end.eq_ignore_ascii_case(key)))
}

/// What is noticed over all files.
#[derive(Debug, Default)]
struct Found {
    host: Option<String>,
    plain_ports: BTreeSet<u16>,
    has_certificate: bool,
    /// What each address and port has already: nginx takes options of a listening address once.
    listening: BTreeMap<String, bool>,
    sockets: usize,
    /// The logs that are written to files.
    logs: BTreeSet<String>,
    /// The texts of the formats of logs.
    formats: BTreeMap<String, String>,
    /// The format of the first log that the agent reads.
    read: Option<String>,
}

/// One change of a text.
type Edit = (Range<usize>, String);

fn file_of(text: &str, is_main: bool, place: &Place<'_>, found: &mut Found) -> String {
    let all = directives(text);
    let mut edits: Vec<Edit> = Vec::new();
    let mut removed_to = 0;
    for directive in &all {
        if directive.range.start < removed_to {
            continue;
        }
        let parent = directive.parent.map(|parent| all[parent].name());
        // Other protocols than HTTP are no matter of an access log.
        if parent.is_none() && matches!(directive.name(), "stream" | "mail") {
            removed_to = directive.block_end.unwrap_or(text.len());
            edits.push((directive.range.start..removed_to, String::new()));
            continue;
        }
        edits.extend(edit(directive, parent, place, found));
    }
    if is_main {
        edits.extend(main_edits(&all, place));
    }
    // The folder of refused clients is the environment's, in whatever directive it stands.
    apply(text, edits).replace("/run/shield/deny", &format!("{}/deny", place.folder.display()))
}

/// What a directive becomes; nothing if it stays.
fn edit(directive: &Directive, parent: Option<&str>, place: &Place<'_>, found: &mut Found) -> Vec<Edit> {
    let folder = place.folder.display();
    let whole = |text: String| vec![(directive.range.clone(), text)];
    let argument = |text: String| vec![(directive.tail(), text)];
    let first = directive.argument(0).unwrap_or_default();
    match directive.name() {
        "daemon" | "master_process" | "ssl_stapling" | "lock_file" | "worker_cpu_affinity" => {
            // An empty directive in place of none keeps the `;`.
            whole(format!("{} {}", neutral(directive.name()).0, neutral(directive.name()).1))
        }
        "pid" => argument(format!("{folder}/nginx.pid")),
        "worker_processes" => argument("1".to_owned()),
        "error_log" => argument(format!("{folder}/log/error.log")),
        "access_log" => access_log(directive, place, found),
        "log_format" => {
            let texts = directive.arguments().skip(1).filter(|text| !text.starts_with("escape="));
            found.formats.insert(first.to_owned(), texts.collect());
            Vec::new()
        }
        "listen" => argument(listen(directive, place, found)),
        "server_name" => {
            note_host(directive, found);
            Vec::new()
        }
        "ssl_certificate" | "ssl_certificate_key" => {
            found.has_certificate = true;
            let end = if directive.name().ends_with("key") { "key" } else { "crt" };
            argument(format!("{folder}/lab.{end}"))
        }
        "ssl_trusted_certificate" | "ssl_client_certificate" => {
            found.has_certificate = true;
            argument(format!("{folder}/lab.crt"))
        }
        "server" if parent == Some("upstream") => argument(APP.to_owned()),
        "proxy_pass" => argument(passed_on(first)),
        "fastcgi_pass" | "uwsgi_pass" | "scgi_pass" | "grpc_pass" | "memcached_pass" => {
            whole(format!("proxy_pass http://{APP}"))
        }
        "set_real_ip_from" if !place.proxies.is_empty() => whole(real_ip(first, place)),
        name if name.ends_with("_temp_path")
            || name == "proxy_cache_path"
            || name == "fastcgi_cache_path" =>
        {
            let range = directive.words.get(1).map(|(_, range)| range.clone());
            range.map(|range| (range, format!("{folder}/temp-{name}"))).into_iter().collect()
        }
        _ => moved(directive, place),
    }
}

/// A harmless directive of the same place.
fn neutral(name: &str) -> (&'static str, &'static str) {
    match name {
        "daemon" => ("daemon", "off"),
        "master_process" => ("master_process", "on"),
        "ssl_stapling" => ("ssl_stapling", "off"),
        _ => ("timer_resolution", "100ms"),
    }
}

/// Paths below the operator's folder lead to the copy.
fn moved(directive: &Directive, place: &Place<'_>) -> Vec<Edit> {
    let original = format!("{}/", place.original.display());
    let copy = format!("{}/", place.copy().display());
    let moved = directive.words[1..].iter().filter(|(word, _)| word.starts_with(&original));
    moved.map(|(word, range)| (range.clone(), quoted(&word.replacen(&original, &copy, 1)))).collect()
}

fn quoted(word: &str) -> String {
    let is_plain = !word.contains(|char: char| char.is_whitespace() || "\"';{}".contains(char));
    if is_plain { word.to_owned() } else { format!("\"{word}\"") }
}

fn access_log(directive: &Directive, place: &Place<'_>, found: &mut Found) -> Vec<Edit> {
    let Some((path, range)) = directive.words.get(1) else { return Vec::new() };
    if path == "off" {
        return Vec::new();
    }
    // A log that goes to another host would tell it of an exercise.
    if path.starts_with("syslog:") {
        return vec![(directive.range.clone(), "access_log off".to_owned())];
    }
    found.logs.insert(path.clone());
    let is_read = place.log.is_none_or(|log| log == Path::new(path));
    if is_read && found.read.is_none() {
        found.read = directive.argument(1).map(str::to_owned);
    }
    let name = path.rsplit('/').next().unwrap_or("log");
    let to = if is_read {
        place.access_log.to_owned()
    } else {
        place.folder.join("log").join(format!("other-{name}"))
    };
    vec![(range.clone(), quoted(&to.to_string_lossy()))]
}

/// The arguments of `listen` for every address of the machine.
fn listen(directive: &Directive, place: &Place<'_>, found: &mut Found) -> String {
    let address = directive.argument(0).unwrap_or("80");
    let (at, port) = if address.starts_with("unix:") {
        found.sockets += 1;
        (format!("unix:{}/site-{}.sock", place.folder.display(), found.sockets), None)
    } else {
        let port = port_of(address);
        let at = if address.starts_with('[') { format!("[::]:{port}") } else { port.to_string() };
        (at, Some(port))
    };
    let options: Vec<&str> = directive.arguments().skip(1).collect();
    if let Some(port) = port
        && !options.iter().any(|option| matches!(*option, "ssl" | "quic"))
    {
        found.plain_ports.insert(port);
    }
    let key = format!("{at} {}", options.contains(&"quic"));
    let had_default = found.listening.get(&key).copied();
    let is_default = options.contains(&"default_server") || options.contains(&"default");
    let kept = options.into_iter().filter(|option| match *option {
        "ssl" | "http2" | "quic" => true,
        // Clients of the environment speak plainly.
        "proxy_protocol" => false,
        "default_server" | "default" => had_default != Some(true),
        // Options of the socket, which nginx takes once.
        _ => had_default.is_none(),
    });
    let mut words = vec![at];
    words.extend(kept.map(str::to_owned));
    found.listening.insert(key, had_default.unwrap_or(false) || is_default);
    words.join(" ")
}

fn port_of(address: &str) -> u16 {
    let last = address.rsplit(':').next().unwrap_or(address);
    last.parse().or_else(|_| address.parse()).unwrap_or(80)
}

fn note_host(directive: &Directive, found: &mut Found) {
    let is_plain = |name: &&str| {
        !name.is_empty()
            && *name != "_"
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'))
            && !name.starts_with('.')
    };
    if found.host.is_none() {
        found.host = directive.arguments().find(is_plain).map(str::to_owned);
    }
}

/// The app in place of the server that requests are passed on to, with the same path.
fn passed_on(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    // A path made of variables stays one; of a host made of variables nothing is known.
    let path = match rest.strip_prefix("unix:") {
        Some(socket) => socket.split_once(':').map_or("", |(_, path)| path),
        None => rest.find('/').map_or("", |at| &rest[at..]),
    };
    format!("http://{APP}{path}")
}

fn real_ip(first: &str, place: &Place<'_>) -> String {
    let more: String = place.proxies.iter().map(|proxy| format!("; set_real_ip_from {proxy}")).collect();
    format!("set_real_ip_from {first}{more}")
}

/// What the main file needs beside its own: nothing may be written where the host's nginx writes.
fn main_edits(all: &[Directive], place: &Place<'_>) -> Vec<Edit> {
    let folder = place.folder.display();
    let has =
        |name: &str, parent: Option<usize>| all.iter().any(|it| it.name() == name && it.parent == parent);
    let mut edits = Vec::new();
    let mut top = String::new();
    if !has("daemon", None) {
        top.push_str("daemon off; ");
    }
    if !has("pid", None) {
        top.push_str(&format!("pid {folder}/nginx.pid; "));
    }
    if !has("error_log", None) {
        top.push_str(&format!("error_log {folder}/log/error.log; "));
    }
    edits.push((0..0, top));
    let http = all.iter().position(|it| it.name() == "http" && it.parent.is_none());
    if let Some(http) = http {
        let mut lines = String::new();
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            let name = format!("{kind}_temp_path");
            if !has(&name, Some(http)) {
                lines.push_str(&format!(" {name} {folder}/temp-{name};"));
            }
        }
        if !has("access_log", Some(http)) {
            lines.push_str(&format!(" access_log {};", place.access_log.display()));
        }
        if !place.proxies.is_empty() && !all.iter().any(|it| it.name() == "real_ip_header") {
            let proxies = place.proxies.iter().map(|proxy| format!(" set_real_ip_from {proxy};"));
            lines.extend(proxies);
            lines.push_str(" real_ip_header X-Forwarded-For;");
        }
        let at = all[http].range.end + 1;
        edits.push((at..at, lines));
    }
    edits
}

/// The text with its changes; what is taken out leaves its ends of lines.
fn apply(text: &str, mut edits: Vec<Edit>) -> String {
    edits.sort_by_key(|(range, _)| (range.start, range.end));
    let mut out = String::new();
    let mut at = 0;
    for (range, replacement) in edits {
        if range.start < at {
            continue;
        }
        out.push_str(&text[at..range.start]);
        out.push_str(&replacement);
        out.extend(text[range.clone()].chars().filter(|char| *char == '\n'));
        at = range.end;
    }
    out.push_str(&text[at..]);
    out
}

fn make_certificate(place: &Place<'_>) -> Result<()> {
    let path = |end: &str| place.folder.join(format!("lab.{end}")).to_string_lossy().into_owned();
    let (key, certificate) = (path("key"), path("crt"));
    let argv =
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let more = ["-days", "2", "-subj", "/CN=shield-lab", "-keyout", &key, "-out", &certificate];
    command::run(&[&argv[..], &more[..]].concat())
        .map(drop)
        .context("could not make a certificate in place of the operator's")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place<'a>(proxies: &'a [&'a str]) -> Place<'a> {
        Place {
            original: Path::new("/etc/nginx"),
            folder: Path::new("/lab/server"),
            access_log: Path::new("/lab/server/log/access.log"),
            log: None,
            proxies,
        }
    }

    fn rewritten(text: &str) -> (String, Found) {
        let mut found = Found::default();
        (file_of(text, false, &place(&[]), &mut found), found)
    }

    #[test]
    fn each_directive_becomes_the_environments_own_on_its_line() {
        let check = |given: &str, expected: &str| {
            let (text, _) = rewritten(given);
            assert_eq!(text, expected);
            assert_eq!(text.lines().count(), given.lines().count(), "{given}");
        };
        check("listen 203.0.113.5:443 ssl http2;", "listen 443 ssl http2;");
        check("listen [2001:db8::5]:80 ipv6only=on;", "listen [::]:80 ipv6only=on;");
        check("listen localhost:8080;", "listen 8080;");
        check("listen 80 proxy_protocol;", "listen 80;");
        check("listen unix:/run/site.sock;", "listen unix:/lab/server/site-1.sock;");
        check(
            "listen 192.0.2.1:80 default_server backlog=9;\nlisten 192.0.2.2:80 default_server;",
            "listen 80 default_server backlog=9;\nlisten 80;",
        );
        check("include /etc/nginx/conf.d/*.conf;", "include /lab/server/nginx/conf.d/*.conf;");
        check("include mime.types;", "include mime.types;");
        check(
            "access_log /var/log/a.log main buffer=4k;",
            "access_log /lab/server/log/access.log main buffer=4k;",
        );
        check("access_log off;", "access_log off;");
        check("access_log syslog:server=192.0.2.9;", "access_log off;");
        check("error_log /var/log/e.log warn;", "error_log /lab/server/log/error.log;");
        check("ssl_certificate /etc/letsencrypt/x.pem;", "ssl_certificate /lab/server/lab.crt;");
        check(
            "upstream app {\n server 10.0.0.5:3000 weight=2;\n}",
            "upstream app {\n server 127.0.0.1:8081;\n}",
        );
        check("server { root /srv; }", "server { root /srv; }");
        check("proxy_pass https://backend.internal/api/;", "proxy_pass http://127.0.0.1:8081/api/;");
        check("proxy_pass http://unix:/run/a.sock;", "proxy_pass http://127.0.0.1:8081;");
        check("proxy_pass http://unix:/run/a.sock:/b/;", "proxy_pass http://127.0.0.1:8081/b/;");
        check("fastcgi_pass unix:/run/php.sock;", "proxy_pass http://127.0.0.1:8081;");
        check("stream {\n server { listen 53; }\n}\nuser www;", "\n\n\nuser www;");
        check(
            "# listen 1.2.3.4:80;\nlog_format a 'listen 1.2.3.4:80;';",
            "# listen 1.2.3.4:80;\nlog_format a 'listen 1.2.3.4:80;';",
        );
    }

    #[test]
    fn the_site_and_its_plain_port_are_found() {
        let (_, found) =
            rewritten("server { listen 443 ssl; listen 8080; server_name _ *.a.example www.a.example; }");
        assert_eq!(found.host.as_deref(), Some("www.a.example"));
        assert_eq!(found.plain_ports.into_iter().collect::<Vec<_>>(), [8080]);
    }

    #[test]
    fn the_main_file_writes_nowhere_else_and_believes_the_proxy() {
        let mut found = Found::default();
        let text = file_of("events {}\nhttp {\n}\n", true, &place(&["203.0.113.10"]), &mut found);
        for expected in [
            "daemon off;",
            "pid /lab/server/nginx.pid;",
            "client_body_temp_path /lab/server/",
            "access_log /lab/server/log/access.log;",
            "set_real_ip_from 203.0.113.10; real_ip_header X-Forwarded-For;",
        ] {
            assert!(text.contains(expected), "{expected} is not in {text}");
        }
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn of_several_logs_the_agent_reads_the_named_one() {
        let place = Place { log: Some(Path::new("/var/log/a.log")), ..place(&[]) };
        let mut found = Found::default();
        let text =
            file_of("access_log /var/log/a.log x;\naccess_log /var/log/b.log;", false, &place, &mut found);
        assert_eq!(text, "access_log /lab/server/log/access.log x;\naccess_log /lab/server/log/other-b.log;");
    }

    #[test]
    fn a_log_that_nginx_does_not_write_is_refused_with_those_that_it_does() {
        let (folder, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let http = "events {}\nhttp { access_log /var/log/a.log; server { access_log /var/log/b.log; } }\n";
        fs::write(folder.path().join("nginx.conf"), http).unwrap();
        let of = |log| Place {
            original: folder.path(),
            folder: target.path(),
            log: Some(Path::new(log)),
            ..place(&[])
        };
        rewrite(&of("/var/log/b.log")).unwrap();
        let error = rewrite(&of("/var/log/c.log")).unwrap_err().to_string();
        assert!(error.contains("`access_log /var/log/c.log`"), "{error}");
        assert!(error.contains("name one of /var/log/a.log, /var/log/b.log"), "{error}");
    }

    #[test]
    fn the_format_of_the_log_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let target = tempfile::tempdir().unwrap();
        let check = |http: &str, expected: Option<&str>| {
            fs::write(folder.path().join("nginx.conf"), format!("events {{}}\nhttp {{ {http} }}\n")).unwrap();
            let place = Place { original: folder.path(), folder: target.path(), ..place(&[]) };
            assert_eq!(rewrite(&place).unwrap().format.as_deref(), expected, "{http}");
        };
        check("log_format a '$host ' '$remote_addr'; access_log /a a;", Some("$host $remote_addr"));
        check("log_format a escape=json '{\"a\":1}'; access_log /a a;", None);
        check("access_log /a combined;", None);
    }

    #[test]
    fn keys_are_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("nginx.conf"), "events {}\nhttp {\n}\n").unwrap();
        fs::write(folder.path().join("secret.key"), "x").unwrap();
        let target = tempfile::tempdir().unwrap();
        let place = Place { original: folder.path(), folder: target.path(), ..place(&[]) };
        rewrite(&place).unwrap();
        assert!(target.path().join("nginx/nginx.conf").is_file());
        assert!(!target.path().join("nginx/secret.key").exists());
    }
}
