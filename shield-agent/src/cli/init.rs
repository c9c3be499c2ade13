//! `shield-agent init nginx`: prints the lines to add to nginx, reads nginx's present configuration (`nginx -T`), and lists
//! directives that would blind Shield, delay it, or let visitors forge addresses. Changes nothing.

mod fleet;
mod sections;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde::Serialize;

use super::deny;
use super::reply::{Format, JsonArg};
use super::{Exit, print};
use crate::config::DEFAULT_PATH;
use crate::source::file::access;
use crate::text;
use shield_logline::{Advice, advise};

/// The format that Shield reads fastest and without ambiguity.
const LOG_FORMAT: &str = r#"log_format shield escape=json
    '{"source_ip":"$remote_addr","timestamp":"$time_iso8601","method":"$request_method",'
    '"path":"$request_uri","status":$status,"response_size":$body_bytes_sent}';"#;

/// The same behind a proxy. Without the realip module nginx would not know the variable, so it is printed only where that is used.
const PROXIED_LOG_FORMAT: &str = r#"log_format shield escape=json
    '{"source_ip":"$remote_addr","peer":"$realip_remote_addr","timestamp":"$time_iso8601",'
    '"method":"$request_method","path":"$request_uri","status":$status,"response_size":$body_bytes_sent}';"#;

const ACCESS_LOG: &str = "access_log /var/log/nginx/access.log shield;";

const SYSLOG: &str = "access_log syslog:server=unix:/run/shield/nginx.sock,nohostname shield;";

#[derive(Debug, Clone, Args)]
pub(crate) struct InitArgs {
    #[command(subcommand)]
    server: Server,
}

#[derive(Debug, Clone, Subcommand)]
enum Server {
    /// Lines to add to nginx's configuration, and problems of the present one
    Nginx(NginxArgs),
    /// Lines with which nginx itself refuses banned clients, for servers behind a proxy
    NginxDeny(deny::DenyArgs),
    /// Keys for the hosts of a fleet, and the configuration of its servers
    Fleet(fleet::FleetArgs),
}

#[derive(Debug, Clone, Args)]
struct NginxArgs {
    /// The nginx program whose configuration is examined
    #[arg(long, default_value = "nginx", value_name = "PROGRAM")]
    nginx: String,
    #[command(flatten)]
    json: JsonArg,
}

/// Prints the advice. A missing nginx is part of it, not an error.
pub(crate) fn run(args: &InitArgs) -> Result<Exit> {
    let args = match &args.server {
        Server::Nginx(args) => args,
        Server::NginxDeny(args) => return deny::run(args),
        Server::Fleet(args) => return fleet::run(args),
    };
    let advice = match configuration(&args.nginx) {
        Ok(text) => Report::new(Ok(examine(&text))),
        Err(error) => Report::new(Err(format!("{error:#}"))),
    };
    match args.json.format() {
        Format::Json => print::json(&advice)?,
        Format::Text => print::text(&advice.render())?,
    }
    Ok(Exit::Done)
}

/// The whole configuration as nginx itself reads it.
pub(super) fn configuration(program: &str) -> Result<String> {
    let output = Command::new(program)
        .arg("-T")
        .env("LC_ALL", "C")
        .output()
        .with_context(|| format!("could not run `{program} -T` (name another with --nginx)"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last =
            errors.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no error message").trim();
        bail!("`{program} -T` failed (it needs root to read certificates): {last}");
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The output.
#[derive(Debug, Serialize)]
struct Report {
    log_format: &'static str,
    access_log: &'static str,
    syslog: &'static str,
    /// Logs that nginx writes now, with their formats.
    #[serde(skip_serializing_if = "Option::is_none")]
    logs: Option<Vec<Log>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    findings: Option<Vec<Finding>>,
    /// How nginx takes its visitors' addresses from a proxy, and what that means for dropping.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    proxied: Vec<Finding>,
    /// Server sections that lack lines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    servers: Vec<Lacking>,
    /// The access_log of the http section that the printed one replaces.
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<Finding>,
    /// Why the configuration could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    unread: Option<String>,
}

/// A log that nginx writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Log {
    pub path: String,
    format: String,
    /// Shield reads it as it is.
    readable: bool,
    /// What is recognised.
    #[serde(skip_serializing_if = "Option::is_none")]
    recognised: Option<&'static str>,
    /// The lines for Shield's configuration with which it is read.
    #[serde(skip_serializing_if = "Option::is_none")]
    setting: Option<String>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// A problem to correct.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// `FILE:LINE`.
    pub place: String,
    /// The directive, its effect, and what to do.
    pub problem: String,
    #[serde(skip)]
    pub kind: Kind,
}

/// The effect of what a finding is about.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Other,
    /// Lines come late.
    Late,
    /// Clients can write what others are taken for.
    Forgeable,
    /// The agent does not see the log.
    Hidden,
    /// The log has the balancer's address for every visitor.
    OneAddress,
    /// Every request stands in both of these logs.
    Twice([String; 2]),
}

/// A server section that lacks lines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Lacking {
    /// `FILE:LINE`.
    pub place: String,
    /// Its first name, or its address where it has none.
    pub server: String,
    /// The lines to add.
    pub add: Vec<String>,
}

/// The logs and problems of a configuration.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Examined {
    pub logs: Vec<Log>,
    pub findings: Vec<Finding>,
    pub proxied: Vec<Finding>,
    pub servers: Vec<Lacking>,
    replaces: Option<Finding>,
    /// Old workers end with their connections at the latest after a time.
    pub ends_workers: bool,
}

impl Report {
    fn new(examined: Result<Examined, String>) -> Report {
        let (examined, unread) = match examined {
            Ok(examined) => (Some(examined), None),
            Err(why) => (None, Some(why)),
        };
        let is_read = examined.is_some();
        let Examined { logs, findings, proxied, servers, replaces, .. } = examined.unwrap_or_default();
        Report {
            log_format: if proxied.is_empty() { LOG_FORMAT } else { PROXIED_LOG_FORMAT },
            access_log: ACCESS_LOG,
            syslog: SYSLOG,
            logs: is_read.then_some(logs),
            findings: is_read.then_some(findings),
            proxied,
            servers,
            replaces,
            unread,
        }
    }

    fn render(&self) -> String {
        let log_format = self.log_format;
        let replaces = self.replaces.iter().map(|line| format!("# {}: {}\n", line.place, line.problem));
        let replaces: String = replaces.collect();
        let mut out = format!(
            "# In nginx's http section:\n{replaces}{log_format}\n{ACCESS_LOG}\n\n\
             # Or without a file (the agent creates the socket: [[source]] syslog = \"/run/shield/nginx.sock\"):\n\
             # {SYSLOG}\n\n# Then: nginx -t && nginx -s reload\n\n"
        );
        self.render_found(&mut out).expect("writing to a String cannot fail");
        out
    }

    fn render_found(&self, out: &mut String) -> std::fmt::Result {
        if let Some(why) = &self.unread {
            return writeln!(out, "The present configuration was not examined: {why}");
        }
        for log in self.logs.iter().flatten() {
            writeln!(out, "log      {} ({}): {}", log.path, log.format, log.state())?;
            for line in log.setting.iter().flat_map(|setting| setting.lines()) {
                writeln!(out, "             {line}")?;
            }
        }
        for proxied in &self.proxied {
            writeln!(out, "proxied  {}: {}", proxied.place, proxied.problem)?;
        }
        for server in &self.servers {
            let lines = server.add.iter().map(|line| format!("`{line}`")).collect::<Vec<_>>().join(" and ");
            writeln!(out, "server   {} ({}): add {lines}", server.place, server.server)?;
        }
        for finding in self.findings.iter().flatten() {
            writeln!(out, "problem  {}: {}", finding.place, finding.problem)?;
        }
        if self.findings.as_ref().is_some_and(Vec::is_empty) && self.servers.is_empty() {
            writeln!(out, "The present configuration has no problem for Shield.")?;
        }
        Ok(())
    }
}

/// One directive of nginx's configuration.
#[derive(Debug, PartialEq, Eq)]
struct Directive {
    place: String,
    name: String,
    arguments: Vec<String>,
    /// The file that it stands in.
    file: String,
    /// The position of the directive whose block it stands in, in the same file.
    parent: Option<usize>,
    /// It has a block.
    is_block: bool,
}

pub(super) fn examine(text: &str) -> Examined {
    let directives = directives(text);
    let formats: Vec<&Directive> =
        directives.iter().filter(|directive| directive.name == "log_format").collect();
    let mut examined = Examined::default();
    for directive in &directives {
        match directive.name.as_str() {
            "log_format" => examined.findings.extend(unescaped_json(directive)),
            "access_log" => {
                examined.findings.extend(delayed(directive));
                examined.findings.extend(below_home(directive));
                let log = log_of(directive, &formats);
                examined.logs.extend(log.filter(|log| !examined.logs.contains(log)));
            }
            "set_real_ip_from" => examined.findings.extend(trusts_everybody(directive)),
            "worker_shutdown_timeout" => examined.ends_workers = true,
            _ => {}
        }
    }
    sections::examine(&directives, &mut examined);
    examined
}

impl Finding {
    fn with(self, kind: Kind) -> Finding {
        Finding { kind, ..self }
    }
}

impl Directive {
    fn finding(&self, problem: String) -> Finding {
        Finding { place: self.place.clone(), problem, kind: Kind::Other }
    }
}

fn unescaped_json(format: &Directive) -> Option<Finding> {
    if !text_of(format).trim_start().starts_with('{') {
        return None;
    }
    let has_escape = escape_of(format) == "json";
    let name = format.arguments.first().map_or("", String::as_str);
    let problem = format!(
        "log_format {name} is JSON without escape=json: a client can make its own lines unreadable with a quote. \
         Write `log_format {name} escape=json …`"
    );
    (!has_escape).then(|| format.finding(problem).with(Kind::Forgeable))
}

fn delayed(access_log: &Directive) -> Option<Finding> {
    let waits =
        |argument: &&String| ["buffer=", "gzip", "flush="].iter().any(|start| argument.starts_with(start));
    let argument = access_log.arguments.iter().skip(2).find(waits)?;
    let problem = format!(
        "access_log {} with {argument}: lines and therefore bans come late and in bursts. Remove buffer=, gzip and flush=",
        access_log.arguments.first()?
    );
    Some(access_log.finding(problem).with(Kind::Late))
}

/// The unit hides home directories from the service.
fn below_home(access_log: &Directive) -> Option<Finding> {
    let path = access_log.arguments.first()?;
    let drop_in = access::protect_home_drop_in(Path::new(path))?;
    Some(access_log.finding(crate::text::access::below_home(path, &drop_in)).with(Kind::Hidden))
}

fn trusts_everybody(real_ip: &Directive) -> Option<Finding> {
    let network = real_ip.arguments.first()?;
    let is_everybody = network.parse::<ipnet::IpNet>().is_ok_and(|network| network.prefix_len() == 0);
    let problem = format!(
        "set_real_ip_from {network}: any client can claim any address and get others banned. \
         List only your own proxies' networks"
    );
    is_everybody.then(|| real_ip.finding(problem).with(Kind::Forgeable))
}

fn log_of(access_log: &Directive, formats: &[&Directive]) -> Option<Log> {
    let path = access_log.arguments.first().filter(|path| *path != "off")?.clone();
    let named = access_log.arguments.get(1).filter(|argument| !argument.contains('='));
    let format = named.map_or("combined", String::as_str);
    let defined = formats.iter().find(|defined| defined.arguments.first().is_some_and(|name| name == format));
    let mut log = Log {
        path,
        format: format.to_owned(),
        readable: false,
        recognised: None,
        setting: None,
        problem: None,
    };
    let advice = match defined {
        None if format == "combined" => Advice::AsItIs { name: "combined" },
        None => {
            log.problem = Some(format!("no log_format {format} is defined"));
            return Some(log);
        }
        Some(defined) => advise(escape_of(defined), &text_of(defined)),
    };
    match advice {
        Advice::AsItIs { name } => (log.readable, log.recognised) = (true, Some(name)),
        Advice::Setting(text) => log.setting = Some(setting(&log.path, &text)),
        Advice::Unusable(why) => log.problem = Some(text::unusable(&why)),
    }
    Some(log)
}

impl Log {
    fn state(&self) -> String {
        match (&self.setting, &self.problem, self.recognised) {
            (Some(_), ..) => format!("readable with these lines in {DEFAULT_PATH}:"),
            (None, Some(problem), _) => {
                format!("not readable: {problem}; or use the format `shield`")
            }
            (None, None, Some(name)) => format!("Shield reads it as it is ({name})"),
            (None, None, None) => "Shield reads it as it is".to_owned(),
        }
    }
}

fn escape_of(format: &Directive) -> &str {
    format.arguments.get(1).and_then(|argument| argument.strip_prefix("escape=")).unwrap_or("default")
}

/// The text of a format, its pieces joined.
fn text_of(format: &Directive) -> String {
    let pieces = format.arguments.iter().skip(1);
    let is_escape = |(at, argument): &(usize, &String)| *at == 0 && argument.starts_with("escape=");
    pieces.enumerate().filter(|piece| !is_escape(piece)).map(|(_, piece)| piece.as_str()).collect()
}

/// The section of Shield's configuration for a log.
fn setting(path: &str, format: &str) -> String {
    let quoted = |text: &str| toml::Value::from(text).to_string();
    let source = match path.strip_prefix("syslog:server=unix:") {
        Some(server) => {
            let socket = server.split(',').next().unwrap_or(server);
            format!("syslog = {}", quoted(socket))
        }
        None => format!("path = {}", quoted(&pattern(path))),
    };
    format!("[[source]]\n{source}\nformat = {}", quoted(format))
}

/// nginx makes a file for each value of the variables in a path.
pub(super) fn pattern(path: &str) -> String {
    let mut pattern = String::new();
    let mut pieces = path.split('$');
    pattern.push_str(pieces.next().unwrap_or_default());
    for piece in pieces {
        let rest =
            piece.trim_start_matches(|char: char| char.is_ascii_alphanumeric() || "_{}".contains(char));
        pattern.push('*');
        pattern.push_str(rest);
    }
    pattern
}

/// Every directive of the output of `nginx -T`, wherever it stands.
fn directives(text: &str) -> Vec<Directive> {
    let mut reader = Reader {
        place: "nginx.conf".to_owned(),
        line: 0,
        found: Vec::new(),
        words: Vec::new(),
        line_of_name: 0,
        blocks: Vec::new(),
    };
    let mut open: Option<(char, String)> = None;
    for line in text.lines() {
        if open.is_none()
            && let Some(file) = line.strip_prefix("# configuration file ")
        {
            reader.place = file.trim_end_matches(':').to_owned();
            reader.line = 0;
            reader.blocks.clear();
            continue;
        }
        reader.line += 1;
        open = reader.read_line(line, open);
    }
    reader.found
}

struct Reader {
    place: String,
    line: u32,
    found: Vec<Directive>,
    words: Vec<String>,
    /// The line of the directive's name.
    line_of_name: u32,
    /// The blocks that are open, by the position of their directives.
    blocks: Vec<Option<usize>>,
}

impl Reader {
    /// Reads one line; takes and returns a quoted text that goes on over the line's end.
    fn read_line(&mut self, line: &str, mut open: Option<(char, String)>) -> Option<(char, String)> {
        let mut word: Option<String> = None;
        let mut chars = line.chars();
        while let Some(char) = chars.next() {
            if let Some((quote, text)) = &mut open {
                match char {
                    '\\' => text.extend(chars.next().map(unescaped)),
                    _ if char == *quote => self.end_word(open.take().map(|(_, text)| text)),
                    _ => text.push(char),
                }
                continue;
            }
            match char {
                '#' if word.is_none() => break,
                '"' | '\'' if word.is_none() => open = Some((char, String::new())),
                // The name of a variable.
                '{' if word.as_ref().is_some_and(|word| word.ends_with('$')) => {
                    let name = chars.by_ref().take_while(|char| *char != '}');
                    let name: String = name.collect();
                    word.get_or_insert_default().extend(["{", &name, "}"]);
                }
                ';' | '{' | '}' => {
                    self.end_word(word.take());
                    let at = self.end_directive(char == '{');
                    match char {
                        '{' => self.blocks.push(at),
                        '}' => drop(self.blocks.pop()),
                        _ => {}
                    }
                }
                _ if char.is_whitespace() => self.end_word(word.take()),
                _ => word.get_or_insert_default().push(char),
            }
        }
        self.end_word(word);
        if let Some((_, text)) = &mut open {
            text.push('\n');
        }
        open
    }

    fn end_word(&mut self, word: Option<String>) {
        if self.words.is_empty() && word.is_some() {
            self.line_of_name = self.line;
        }
        self.words.extend(word);
    }

    /// Returns the position of the directive that ended.
    fn end_directive(&mut self, is_block: bool) -> Option<usize> {
        let mut words = std::mem::take(&mut self.words).into_iter();
        let name = words.next()?;
        self.found.push(Directive {
            place: format!("{}:{}", self.place, self.line_of_name),
            name,
            arguments: words.collect(),
            file: self.place.clone(),
            parent: self.blocks.last().copied().flatten(),
            is_block,
        });
        Some(self.found.len() - 1)
    }
}

/// nginx's escapes inside quotes; before anything else a backslash is literal.
fn unescaped(next: char) -> String {
    match next {
        '"' | '\'' | '\\' => next.to_string(),
        't' => "\t".to_owned(),
        'r' => "\r".to_owned(),
        'n' => "\n".to_owned(),
        _ => format!("\\{next}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_below_a_home_directory_comes_with_the_drop_in_that_shows_it() {
        let config = "# configuration file /etc/nginx/nginx.conf:\naccess_log /home/anna/logs/a.log;\naccess_log /home/$host/a.log;";
        let findings = examine(config).findings;
        let [one, all] = findings.as_slice() else { panic!("{} findings", findings.len()) };
        assert!(one.problem.contains("BindReadOnlyPaths=-/home/anna/logs\n"), "{}", one.problem);
        assert!(all.problem.contains("ProtectHome=read-only\n"), "{}", all.problem);
    }

    #[test]
    fn directives_are_read_through_quotes_blocks_and_comments() {
        let text = "# configuration file /etc/nginx/nginx.conf:\nhttp { # a comment; here\n  log_format a 'x \\'y\\' {'\n    \"z;\";\n}\n\
                    # configuration file /etc/nginx/b.conf:\nlocation ~ \\.php$ { access_log off; }\n";
        let shown: Vec<String> =
            directives(text).iter().map(|d| format!("{} {} {:?}", d.place, d.name, d.arguments)).collect();
        assert_eq!(
            shown,
            [
                "/etc/nginx/nginx.conf:1 http []",
                "/etc/nginx/nginx.conf:2 log_format [\"a\", \"x 'y' {\", \"z;\"]",
                "/etc/nginx/b.conf:1 location [\"~\", \"\\\\.php$\"]",
                "/etc/nginx/b.conf:1 access_log [\"off\"]",
            ]
        );
    }

    #[test]
    fn problems_have_their_place() {
        let text = r#"# configuration file /etc/nginx/nginx.conf:
http {
    log_format bad '{"source_ip":"$remote_addr"}';
    log_format own escape=json '$msec $remote_addr "$request" $status';
    log_format forged '$http_user_agent $remote_addr - $remote_user [$time_local] $status';
    log_format main '$remote_addr - $remote_user [$time_local] "$request" '
                    '$status $body_bytes_sent "$http_referer" "$http_x_forwarded_for"';
    access_log /var/log/nginx/a.log bad buffer=32k flush=5s;
    access_log /var/log/nginx/b.log;
    access_log /var/log/nginx/c.log main;
    access_log /var/log/nginx/${host}.d.log own;
    access_log syslog:server=unix:/run/shield/nginx.sock,nohostname own;
    access_log /var/log/nginx/e.log forged;
    access_log /var/log/nginx/f.log undefined;
    set_real_ip_from 0.0.0.0/0;
    set_real_ip_from ::/0;
    set_real_ip_from 192.0.2.0/24;
}
"#;
        let expected = r#"log      /var/log/nginx/a.log (bad): not readable: it has no time: add $time_iso8601 (or $time_local or $msec) to the log_format; or use the format `shield`
log      /var/log/nginx/b.log (combined): Shield reads it as it is (combined)
log      /var/log/nginx/c.log (main): Shield reads it as it is (combined)
log      /var/log/nginx/${host}.d.log (own): readable with these lines in /etc/shield/shield.toml:
             [[source]]
             path = "/var/log/nginx/*.d.log"
             format = """escape=json '$msec $remote_addr "$request" $status'"""
log      syslog:server=unix:/run/shield/nginx.sock,nohostname (own): readable with these lines in /etc/shield/shield.toml:
             [[source]]
             syslog = "/run/shield/nginx.sock"
             format = """escape=json '$msec $remote_addr "$request" $status'"""
log      /var/log/nginx/e.log (forged): not readable: clients choose the text of $http_user_agent and could forge $remote_addr with it: put $http_user_agent in double quotes in the log_format (without escape=none), or put $remote_addr before it; or use the format `shield`
log      /var/log/nginx/f.log (undefined): not readable: no log_format undefined is defined; or use the format `shield`
proxied  /etc/nginx/nginx.conf:14: nginx takes the visitors' addresses from the header X-Real-IP (no real_ip_header is set) on connections from 0.0.0.0/0, ::/0, 192.0.2.0/24: their packets have the proxy's address, so XDP and iptables cannot drop them, and nginx itself has to refuse them (`shield-agent init nginx-deny`)
problem  /etc/nginx/nginx.conf:2: log_format bad is JSON without escape=json: a client can make its own lines unreadable with a quote. Write `log_format bad escape=json …`
problem  /etc/nginx/nginx.conf:7: access_log /var/log/nginx/a.log with buffer=32k: lines and therefore bans come late and in bursts. Remove buffer=, gzip and flush=
problem  /etc/nginx/nginx.conf:14: set_real_ip_from 0.0.0.0/0: any client can claim any address and get others banned. List only your own proxies' networks
problem  /etc/nginx/nginx.conf:15: set_real_ip_from ::/0: any client can claim any address and get others banned. List only your own proxies' networks
problem  /etc/nginx/nginx.conf:13: every request is written twice, here and by the access_log at /etc/nginx/nginx.conf:7: one goes to /var/log/nginx/a.log, one to /var/log/nginx/f.log. Where Shield reads both, each client seems to ask twice as often, and every limit is half of what is configured. Remove one, or name only one of two files in [[source]]
"#;
        let mut shown = String::new();
        Report::new(Ok(examine(text))).render_found(&mut shown).unwrap();
        assert_eq!(shown, expected);
    }

    #[test]
    fn the_lines_to_add_have_no_problems() {
        let examined = examine(&format!("http {{ {LOG_FORMAT} {SYSLOG} }}"));
        assert_eq!((examined.findings, examined.logs[0].readable), (vec![], true));
        let examined = examine(&format!("http {{ {LOG_FORMAT} {ACCESS_LOG} }}"));
        assert_eq!(examined.findings, []);
        assert!(examined.logs.iter().all(|log| log.readable), "{:?}", examined.logs);
        assert_eq!(examined.logs.len(), 1);
        let advice = Report::new(Ok(examined)).render();
        assert!(
            advice.contains(LOG_FORMAT)
                && advice.ends_with("The present configuration has no problem for Shield.\n")
        );
    }

    #[test]
    fn without_nginx_the_lines_are_printed_all_the_same() {
        let error = configuration("/nonexistent/nginx").unwrap_err();
        let advice = Report::new(Err(format!("{error:#}"))).render();
        assert!(
            advice.contains(LOG_FORMAT) && advice.contains("could not run `/nonexistent/nginx -T`"),
            "{advice}"
        );
    }
}
