//! What an nginx configuration means section by section: whose address it takes from a proxy, which server sections lack lines,
//! and which requests are written twice.
//!
//! `nginx -T` prints every file by itself, so that an included file's directives belong to each section that includes it.

use super::{ACCESS_LOG, Directive, Examined, Finding, Kind, Lacking};

/// The variable that Shield's include sets.
const DENIED: &str = "shield_denied";
/// What a log format needs for the connection's address.
const PEER: &str = "$realip_remote_addr";
const DENY_INCLUDE: &str = "include snippets/shield-deny.conf;";
/// Files that include each other are no valid configuration, but may be what is read.
const MAX_INCLUDES: usize = 16;

pub(super) fn examine(all: &[Directive], examined: &mut Examined) {
    let nginx = Nginx { all };
    let Some(http) = all.iter().position(|directive| directive.name == "http" && directive.is_block) else {
        return;
    };
    let at_http = nginx.inside(http);
    let servers: Vec<usize> =
        at_http.iter().copied().filter(|at| all[*at].name == "server" && all[*at].is_block).collect();
    examined.proxied.extend(nginx.proxied(&at_http));
    examined.findings.extend(nginx.twice(&at_http));
    examined.findings.extend(nginx.untrusted_header(&at_http, &at_http));
    let http_logs = nginx.logs(&at_http);
    if let [only] = http_logs[..]
        && only.arguments.get(1).map(String::as_str) != Some("shield")
    {
        let problem = format!(
            "put these lines in place of `access_log {};`: beside it every request is written twice, and where both \
             are read, each client seems to ask twice as often",
            only.arguments.join(" ")
        );
        examined.replaces = Some(only.finding(problem));
    }
    let mut is_proxied = !examined.proxied.is_empty();
    for server in &servers {
        let inside = nginx.inside(*server);
        let proxied = nginx.proxied(&inside);
        is_proxied |= proxied.is_some();
        examined.proxied.extend(proxied);
        examined.findings.extend(nginx.twice(&inside));
        examined.findings.extend(nginx.unread_proxy_protocol(&inside, &at_http));
        examined.findings.extend(nginx.untrusted_header(&inside, &at_http));
    }
    let denies = |server: &usize| {
        nginx.inside(*server).iter().any(|at| {
            let directive = &all[*at];
            let is_file = directive.name == "include"
                && directive.arguments.iter().any(|file| file.ends_with("shield-deny.conf"));
            is_file || directive.arguments.iter().any(|argument| argument.contains(DENIED))
        })
    };
    let needs_deny = is_proxied || servers.iter().any(denies);
    for server in &servers {
        let mut add = Vec::new();
        let inside = nginx.inside(*server);
        let own: Vec<&Directive> =
            inside.iter().map(|at| &all[*at]).filter(|directive| directive.name == "access_log").collect();
        let is_off = |log: &&Directive| log.arguments.first().is_some_and(|path| path == "off");
        if !own.is_empty() && own.iter().all(is_off) {
            add.push(ACCESS_LOG.to_owned());
        }
        if is_proxied {
            let unnamed = own.iter().filter(|log| !is_off(log) && !nginx.names_peer(log));
            add.extend(unnamed.filter_map(|log| nginx.in_place_of(log)));
        }
        if needs_deny && !denies(server) {
            add.push(DENY_INCLUDE.to_owned());
        }
        if !add.is_empty() {
            let (place, server) = (all[*server].place.clone(), nginx.name(&inside));
            examined.servers.push(Lacking { place, server, add });
        }
    }
}

struct Nginx<'a> {
    all: &'a [Directive],
}

impl<'a> Nginx<'a> {
    /// The directives of a block, those of included files too, and not those of blocks inside it.
    fn inside(&self, block: usize) -> Vec<usize> {
        let mut found = Vec::new();
        let own = |(_, directive): &(usize, &Directive)| directive.parent == Some(block);
        let own = self.all.iter().enumerate().filter(own).map(|(at, _)| at).collect();
        self.follow(own, &mut found, MAX_INCLUDES);
        found
    }

    fn follow(&self, directives: Vec<usize>, found: &mut Vec<usize>, left: usize) {
        for at in directives {
            found.push(at);
            let directive = &self.all[at];
            if directive.name != "include" || left == 0 {
                continue;
            }
            let Some(pattern) = directive.arguments.first() else { continue };
            let is_in = |(_, other): &(usize, &Directive)| {
                other.parent.is_none() && is_included(&self.root(), pattern, &other.file)
            };
            let included = self.all.iter().enumerate().filter(is_in).map(|(at, _)| at).collect();
            self.follow(included, found, left - 1);
        }
    }

    /// The folder that relative names begin at: that of the first file.
    fn root(&self) -> String {
        let first = self.all.first().map_or("", |directive| directive.file.as_str());
        first.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned())
    }

    fn named(&self, inside: &[usize], name: &str) -> Vec<&'a Directive> {
        inside.iter().map(|at| &self.all[*at]).filter(|directive| directive.name == name).collect()
    }

    /// The logs of a section that every request is written to.
    fn logs(&self, inside: &[usize]) -> Vec<&'a Directive> {
        let is_plain = |log: &&Directive| {
            let is_off = log.arguments.first().is_some_and(|path| path == "off");
            !is_off && !log.arguments.iter().any(|argument| argument.starts_with("if="))
        };
        self.named(inside, "access_log").into_iter().filter(is_plain).collect()
    }

    /// Whether a log has the connection's address beside the visitor's.
    fn names_peer(&self, log: &Directive) -> bool {
        let format = log.arguments.get(1).map_or("combined", String::as_str);
        let is_it = |defined: &&Directive| {
            defined.name == "log_format" && defined.arguments.first().is_some_and(|name| name == format)
        };
        // Shield's own may not be there yet.
        format == "shield" && !self.all.iter().any(|directive| is_it(&directive))
            || self
                .all
                .iter()
                .filter(is_it)
                .any(|format| format.arguments.iter().any(|text| text.contains(PEER)))
    }

    /// The line that takes the place of a log without it. Of what is no file nothing is known.
    fn in_place_of(&self, log: &Directive) -> Option<String> {
        let (path, format) =
            (log.arguments.first()?, log.arguments.get(1).map_or("combined", String::as_str));
        let is_file = !path.contains(':') && !path.contains('$');
        // Of Shield's own without the address the printed log_format is the remedy.
        (is_file && format != "shield").then(|| format!("access_log {path} shield;"))
    }

    /// Says once a section how it takes addresses from a proxy.
    fn proxied(&self, inside: &[usize]) -> Option<Finding> {
        let trusted = self.named(inside, "set_real_ip_from");
        let first = trusted.first()?;
        let header = self.named(inside, "real_ip_header");
        let header = header.first().and_then(|header| header.arguments.first());
        let from = match header.map(String::as_str) {
            Some("proxy_protocol") => "the PROXY protocol".to_owned(),
            Some(header) => format!("the header {header}"),
            None => "the header X-Real-IP (no real_ip_header is set)".to_owned(),
        };
        let networks: Vec<&str> =
            trusted.iter().filter_map(|directive| directive.arguments.first()).map(String::as_str).collect();
        let shown = match &networks[..] {
            [one, two, three, rest @ ..] if !rest.is_empty() => {
                format!("{one}, {two}, {three} and {} more", rest.len())
            }
            few => few.join(", "),
        };
        Some(first.finding(format!(
            "nginx takes the visitors' addresses from {from} on connections from {shown}: their packets have the \
             proxy's address, so XDP and iptables cannot drop them, and nginx itself has to refuse them \
             (`shield-agent init nginx-deny`)"
        )))
    }

    fn unread_proxy_protocol(&self, inside: &[usize], at_http: &[usize]) -> Option<Finding> {
        let says =
            |directive: &&&Directive| directive.arguments.iter().any(|argument| argument == "proxy_protocol");
        let listen = self.named(inside, "listen");
        let listen = listen.iter().find(says)?;
        let both = [inside, at_http].concat();
        let has_header = self.named(&both, "real_ip_header").iter().any(|header| says(&header));
        let trusts = !self.named(&both, "set_real_ip_from").is_empty();
        let lacking = match (has_header, trusts) {
            (true, true) => return None,
            (true, false) => {
                "`set_real_ip_from` with the balancer's network, without which the header is not read"
            }
            (false, true) => "`real_ip_header proxy_protocol;`",
            (false, false) => {
                "`real_ip_header proxy_protocol;` and `set_real_ip_from` with the balancer's network"
            }
        };
        Some(listen.finding(format!(
            "listen with proxy_protocol alone: the log has the balancer's address for every visitor. Add {lacking}"
        )))
        .map(|finding| finding.with(Kind::OneAddress))
    }

    /// A header that nobody is trusted to send.
    fn untrusted_header(&self, inside: &[usize], at_http: &[usize]) -> Option<Finding> {
        let header = *self.named(inside, "real_ip_header").first()?;
        let name = header.arguments.first().filter(|name| *name != "proxy_protocol")?;
        let both = [inside, at_http].concat();
        // Below http a server section may trust somebody.
        let trusts = self.all.iter().any(|directive| directive.name == "set_real_ip_from")
            && (inside == at_http || !self.named(&both, "set_real_ip_from").is_empty());
        (!trusts).then(|| {
            header
                .finding(format!(
                    "real_ip_header {name} without `set_real_ip_from`: nginx reads it from nobody, and the log has the \
                     proxy's address for every visitor. Add `set_real_ip_from` with the proxy's network"
                ))
                .with(Kind::OneAddress)
        })
    }

    /// A section that writes every request to more than one log.
    fn twice(&self, inside: &[usize]) -> Option<Finding> {
        let logs = self.logs(inside);
        let [first, .., last] = logs[..] else { return None };
        let path = |log: &Directive| log.arguments.first().cloned().unwrap_or_default();
        let what = if path(first) == path(last) {
            format!("both write to {}", path(first))
        } else {
            format!("one goes to {}, one to {}", path(first), path(last))
        };
        Some(last.finding(format!(
            "every request is written twice, here and by the access_log at {}: {what}. Where Shield reads both, each \
             client seems to ask twice as often, and every limit is half of what is configured. Remove one, or name \
             only one of two files in [[source]]",
            first.place
        )))
        .map(|finding| finding.with(Kind::Twice([path(first), path(last)])))
    }

    /// The first name of a server section, or where it listens.
    fn name(&self, inside: &[usize]) -> String {
        let of = |name| self.named(inside, name).first().and_then(|directive| directive.arguments.first());
        of("server_name").or_else(|| of("listen")).cloned().unwrap_or_else(|| "without a name".to_owned())
    }
}

/// Whether `include pattern` includes `file`.
fn is_included(root: &str, pattern: &str, file: &str) -> bool {
    let absolute = if pattern.starts_with('/') { pattern.to_owned() } else { format!("{root}/{pattern}") };
    let options = glob::MatchOptions { require_literal_separator: true, ..glob::MatchOptions::new() };
    glob::Pattern::new(&absolute).is_ok_and(|pattern| pattern.matches_with(file, options))
}

#[cfg(test)]
mod tests {
    use super::super::{PROXIED_LOG_FORMAT, Report, examine};

    fn shown(text: &str) -> String {
        Report::new(Ok(examine(text))).render()
    }

    /// Debian's own configuration, with the lines of the README beside the log that it has.
    #[test]
    fn a_log_beside_the_stock_one_is_a_request_written_twice() {
        let stock = "# configuration file /etc/nginx/nginx.conf:\nhttp {\n  access_log /var/log/nginx/access.log;\n  \
                     include /etc/nginx/conf.d/*.conf;\n  include /etc/nginx/sites-enabled/*;\n}\n";
        let site = "# configuration file /etc/nginx/sites-enabled/default:\nserver { listen 80 default_server; server_name _; }\n";
        let before = shown(&format!("{stock}{site}"));
        assert!(
            before.contains(
                "# /etc/nginx/nginx.conf:2: put these lines in place of `access_log /var/log/nginx/access.log;`"
            ),
            "{before}"
        );
        assert!(before.ends_with("The present configuration has no problem for Shield.\n"), "{before}");

        let added = "# configuration file /etc/nginx/conf.d/shield.conf:\nlog_format shield escape=json '{\"source_ip\":\"$remote_addr\",\
                     \"timestamp\":\"$time_iso8601\",\"status\":$status}';\naccess_log /var/log/nginx/access.log shield;\n";
        let after = shown(&format!("{stock}{added}{site}"));
        assert!(
            after.contains(
                "problem  /etc/nginx/conf.d/shield.conf:2: every request is written twice, here and by the access_log at \
                 /etc/nginx/nginx.conf:2: both write to /var/log/nginx/access.log"
            ),
            "{after}"
        );
        // A log of a server section replaces those of http, and one under a condition does not get every request.
        let replaced = stock.replace("access.log;", "access.log combined if=$loggable;");
        let own = site.replace("_;", "_; access_log /var/log/nginx/own.log;");
        let fine = shown(&format!("{replaced}{added}{own}"));
        assert!(!fine.contains("twice"), "{fine}");
    }

    #[test]
    fn a_proxy_in_front_is_said_with_the_sections_that_lack_lines() {
        let text = "# configuration file /etc/nginx/nginx.conf:\nhttp {\n  include cdn.conf;\n  include sites/*.conf;\n}\n\
                    # configuration file /etc/nginx/cdn.conf:\nset_real_ip_from 198.51.100.0/24;\nset_real_ip_from 203.0.113.0/24;\n\
                    real_ip_header CF-Connecting-IP;\n\
                    # configuration file /etc/nginx/sites/a.conf:\nserver { listen 80; server_name a.example.org www.a.example.org;\n\
                    include snippets/shield-deny.conf; location / { access_log off; } }\n\
                    # configuration file /etc/nginx/snippets/shield-deny.conf:\nset $shield_denied \"\";\n\
                    # configuration file /etc/nginx/sites/b.conf:\nserver { listen 8080; access_log off;\n}\n\
                    server { server_name c.example.org; set $shield_denied 0; }\n";
        let shown = shown(text);
        assert!(shown.contains(PROXIED_LOG_FORMAT), "{shown}");
        let found = shown.lines().skip_while(|line| !line.starts_with("proxied")).collect::<Vec<_>>();
        assert_eq!(
            found,
            [
                "proxied  /etc/nginx/cdn.conf:1: nginx takes the visitors' addresses from the header CF-Connecting-IP on \
                 connections from 198.51.100.0/24, 203.0.113.0/24: their packets have the proxy's address, so XDP and \
                 iptables cannot drop them, and nginx itself has to refuse them (`shield-agent init nginx-deny`)",
                "server   /etc/nginx/sites/b.conf:1 (8080): add `access_log /var/log/nginx/access.log shield;` and \
                 `include snippets/shield-deny.conf;`",
            ]
        );
    }

    /// A log of a server section replaces that of http, and with it the connection's address.
    #[test]
    fn a_log_without_the_peer_is_named_where_it_stands() {
        let shown_of = |http: &str, server: &str| {
            let http = format!("set_real_ip_from 192.0.2.0/24; real_ip_header X-Forwarded-For; {http}");
            let server = format!("server {{ server_name a; include snippets/shield-deny.conf; {server} }}");
            shown(&format!("http {{ {http} {server} }}"))
        };
        let named =
            "log_format named '$remote_addr $realip_remote_addr [$time_iso8601] \"$request\" $status';";
        let bare = "log_format bare '$remote_addr [$time_iso8601] \"$request\" $status';";
        for (http, server, expected) in [
            (bare, "access_log /a.log bare;", Some("access_log /a.log shield;")),
            (bare, "access_log /a.log;", Some("access_log /a.log shield;")),
            (named, "access_log /a.log named;", None),
            (bare, "access_log /a.log shield;", None),
            (bare, "access_log off;", Some("access_log /var/log/nginx/access.log shield;")),
            (bare, "access_log syslog:server=unix:/run/a.sock;", None),
            (bare, "access_log /$host.log;", None),
        ] {
            let shown = shown_of(http, server);
            let line = shown.lines().find(|line| line.starts_with("server ")).map(str::to_owned);
            let is_named = |line: &String| expected.is_some_and(|expected| line.contains(expected));
            assert_eq!(line.as_ref().is_some_and(is_named), expected.is_some(), "{http} {server}: {shown}");
            assert_eq!(line.is_some(), expected.is_some(), "{http} {server}: {shown}");
        }
    }

    #[test]
    fn a_header_that_nobody_may_send_is_a_problem() {
        let check = |http: &str, server: &str, expected: bool| {
            let shown = shown(&format!("http {{ {http} server {{ server_name a; {server} }} }}"));
            assert_eq!(shown.contains("nginx reads it from nobody"), expected, "{http} {server}: {shown}");
        };
        check("real_ip_header X-Forwarded-For;", "", true);
        check("", "real_ip_header X-Forwarded-For;", true);
        check("real_ip_header X-Forwarded-For;", "set_real_ip_from 192.0.2.1;", false);
        check("set_real_ip_from 192.0.2.1;", "real_ip_header X-Forwarded-For;", false);
        check("", "", false);
    }

    #[test]
    fn a_proxy_protocol_that_is_not_read_is_a_problem() {
        let check = |more: &str, expected: bool| {
            let text = format!("http {{ {more} server {{ listen 80 proxy_protocol; server_name a; }} }}");
            let shown = shown(&text);
            assert_eq!(shown.contains("the log has the balancer's address"), expected, "{shown}");
        };
        check("", true);
        check("set_real_ip_from 192.0.2.10; real_ip_header X-Forwarded-For;", true);
        check("real_ip_header proxy_protocol;", true);
        check("set_real_ip_from 192.0.2.10; real_ip_header proxy_protocol;", false);
    }

    #[test]
    fn the_lines_for_a_proxy_are_read_with_the_peer() {
        let text = format!("http {{ {PROXIED_LOG_FORMAT} access_log /a.log shield; }}");
        let examined = examine(&text);
        assert!(examined.logs.iter().all(|log| log.readable), "{:?}", examined.logs);
        assert_eq!(examined.findings, []);
    }
}
