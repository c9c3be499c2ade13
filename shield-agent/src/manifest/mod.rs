//! The files that `shield-agent generate` writes from the configuration, its manifest: what other programs need to know of it.
//!
//! Making the texts is pure: the same configuration gives the same bytes on every host. A file that has nothing to say now is made
//! all the same, with a comment that says so: nginx does not start without a file that it is told to include. `files` compares
//! them with what is on disk and writes, `header` marks them, `quote` keeps what a value holds from becoming a directive.

mod compose;
mod difference;
pub(crate) mod files;
mod header;
mod logrotate;
mod nginx;
mod prometheus;
mod quote;
mod systemd;

use anyhow::{Context, Result};

use crate::config::Config;

/// One file to generate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Generated {
    /// Below the folder of all.
    pub path: &'static str,
    /// With its header.
    pub text: String,
}

type Body = fn(&Config) -> Result<String>;

/// Every file, also those that have nothing to say.
const FILES: [(&str, Body); 8] = [
    ("nginx/shield-http.conf", nginx::http),
    ("nginx/shield-realip.conf", nginx::realip),
    ("nginx/shield-log.conf", nginx::log),
    ("nginx/shield-server.conf", nginx::server),
    ("systemd/shield.service.d/manifest.conf", systemd::drop_in),
    ("prometheus/prometheus.yml", prometheus::scrape),
    ("logrotate/shield", logrotate::rotation),
    ("compose.yaml", compose::compose),
];

/// The alerts, which no key changes.
const RULES: &str = "prometheus/shield.rules.yml";

/// Makes every file from the configuration, and from the text that it was read from.
///
/// # Errors
/// When a value cannot stand in one of the files: it names the file, the value, and what may stand there.
pub(crate) fn generate(config: &Config, manifest: &str) -> Result<Vec<Generated>> {
    let file = |(path, body): &(&'static str, Body)| {
        let body = body(config).with_context(|| format!("could not generate {path}"))?;
        Ok(Generated { path, text: header::with_header(&body, manifest) })
    };
    let mut files: Vec<Generated> = FILES.iter().map(file).collect::<Result<_>>()?;
    let text = header::with_header(prometheus::RULES, manifest);
    files.push(Generated { path: RULES, text });
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(text: &str) -> Vec<Generated> {
        generate(&Config::parse(text).unwrap(), text).unwrap()
    }

    fn file(text: &str, path: &str) -> String {
        made(text).into_iter().find(|file| file.path == path).unwrap().text
    }

    #[test]
    fn every_setting_makes_the_same_files() {
        let names = |text: &str| made(text).iter().map(|file| file.path).collect::<Vec<_>>();
        let everything =
            "[nginx]\nmode = 'on'\n[page]\nenabled = false\n[allow]\ntrusted_proxies = ['192.0.2.1/32']\n";
        assert_eq!(names(""), names(everything));
        assert_eq!(made(everything), made(everything));
    }

    #[test]
    fn what_is_off_is_a_comment() {
        for path in ["nginx/shield-realip.conf", "nginx/shield-server.conf"] {
            let text = file("", path);
            assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "{text}");
        }
    }

    /// Each would end the directive, or the line, that it stands in, or be read as another path.
    #[test]
    fn a_value_never_becomes_a_directive() {
        let check = |text: &str, expected: &[&str]| {
            let error = generate(&Config::parse(text).unwrap(), text).unwrap_err();
            let message = format!("{error:#}");
            assert!(expected.iter().all(|part| message.contains(part)), "{text}: {message}");
        };
        for hostile in [r#"/l/a\"; load_module x;"#, "/l/$arg_x.log", r"/l/a\nb", r"/l/a\\b"] {
            check(
                &format!("[[source]]\npath = \"{hostile}\""),
                &["nginx/shield-log.conf", "[[source]] path"],
            );
        }
        check("[[source]]\nsyslog = '/run/a,nohostname'", &["nginx/shield-log.conf", "[[source]] syslog"]);
        for hostile in [r#"/l/a\" {"#, r"/l/*.jsonl", "/l/a\\\\b"] {
            check(&format!("[audit]\npath = \"{hostile}\""), &["logrotate/shield", "[audit] path"]);
        }
        check("[audit]\npath = \"/l/a\\nsu root\"", &["[audit] path", "control character"]);
        check("[agent]\nstate_dir = \"/a\\nExecStart=/b\"", &["shield.service.d", "[agent] state_dir"]);
        check("[agent]\nsocket = 'relative'", &["shield.service.d", "[agent] socket", "absolute"]);
    }

    #[test]
    fn what_can_be_escaped_is() {
        let text =
            file("[agent]\nstate_dir = '/srv/100% \"mine\"/$x'", "systemd/shield.service.d/manifest.conf");
        assert!(text.contains(r#"ReadWritePaths="-/srv/100%% \"mine\"/$x""#), "{text}");
        let text = file("[agent]\nstate_dir = '/srv/$x: \"y\"'", "compose.yaml");
        assert!(text.contains(r#"target: "/srv/$$x: \"y\""#), "{text}");
        let text = file("[[source]]\npath = '/srv/my logs/a;b.log'", "nginx/shield-log.conf");
        assert!(text.contains("access_log \"/srv/my logs/a;b.log\" shield;"), "{text}");
    }

    #[test]
    fn the_log_is_written_as_the_agent_reads_it() {
        let log = |text: &str| file(text, "nginx/shield-log.conf");
        assert!(log("").contains("access_log \"/var/log/nginx/access.log\" shield;"));
        let combined = log("[[source]]\npath = '/a.log'\nformat = 'combined'");
        assert!(combined.contains("access_log \"/a.log\" combined;"));
        let own =
            log("[[source]]\npath = '/a.log'\nformat = '$remote_addr [$time_local] \"$request\" $status'");
        assert!(own.contains("# /a.log: its format is your own") && !own.contains("\naccess_log"), "{own}");
        let pattern = log("[[source]]\npath = '/var/log/nginx/*.log'");
        assert!(
            pattern.contains("# /var/log/nginx/*.log: ") && !pattern.contains("\naccess_log"),
            "{pattern}"
        );
        let http = |text: &str| file(text, "nginx/shield-http.conf");
        assert!(!http("").contains("$server_name") && !http("").contains("$realip_remote_addr"));
        assert!(http("[[site]]\nhost = 'a.example.org'").contains(r#""server_name":"$server_name""#));
        let proxied = "[allow]\ntrusted_proxies = ['192.0.2.0/24']";
        assert!(http(proxied).contains(r#""peer":"$realip_remote_addr""#));
        assert!(file(proxied, "nginx/shield-realip.conf").contains("set_real_ip_from 192.0.2.0/24;"));
    }

    /// Whoever uses no containers must not be kept from the other files.
    #[test]
    fn what_containers_cannot_share_is_a_comment() {
        for text in ["[[source]]\npath = '/a.log'", "[[source]]\nsyslog = '/run/a.sock'"] {
            let compose = file(text, "compose.yaml");
            assert!(
                compose.contains("# Nothing: [[source]]") && compose.contains("services: {}"),
                "{compose}"
            );
        }
        let one = "[agent]\nstate_dir = '/srv/a'\n[[source]]\npath = '/srv/a/log'";
        assert!(file(one, "compose.yaml").contains("# Nothing: /srv/a would be"));
    }

    #[test]
    fn the_page_is_scraped_where_it_is() {
        let scrape = |text: &str| file(text, "prometheus/prometheus.yml");
        assert!(scrape("").contains(r#"targets: ["127.0.0.1:8080"]"#));
        let everywhere = scrape("[page]\nlisten = '[::]:9000'");
        assert!(everywhere.contains(r#"targets: ["[::1]:9000"]"#), "{everywhere}");
        let elsewhere = scrape("[page]\nlisten = '192.0.2.1:9000'");
        assert!(elsewhere.contains(r#"credentials_file: "/var/lib/shield/api-token""#), "{elsewhere}");
        assert!(scrape("[page]\nenabled = false").contains("scrape_configs: []"));
    }

    #[test]
    fn the_unit_gets_what_the_settings_need_and_no_more() {
        let unit = |text: &str| file(text, "systemd/shield.service.d/manifest.conf");
        let directives = |text: &str| {
            let text = unit(text);
            let keys = text.lines().filter(|line| !line.starts_with('#') && line.contains('='));
            keys.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(directives(""), [""; 0]);
        assert_eq!(
            directives("[page]\nlisten = '127.0.0.1:80'"),
            ["CapabilityBoundingSet=CAP_NET_BIND_SERVICE"]
        );
        let moved = "[agent]\nsocket = '/srv/shield/s.sock'\nstate_dir = '/var/lib/shield/x'";
        assert_eq!(
            directives(moved),
            ["ReadWritePaths=\"-/srv/shield\"", "Environment=\"SHIELD_SOCKET=/srv/shield/s.sock\""]
        );
        assert_eq!(
            directives("[xdp]\npin_dir = '/sys/fs/bpf/mine'"),
            ["ExecStartPre=+-/bin/mkdir -p \"/sys/fs/bpf/mine\"", "BindPaths=\"-/sys/fs/bpf/mine\""]
        );
        assert_eq!(directives("[xdp]\npin_dir = '/sys/fs/bpf/shield/a'"), [""; 0]);
        let home =
            directives("[[source]]\npath = '/home/anna/logs/a.log'\n[[source]]\npath = '/tmp/l/b.log'");
        let expected =
            ["ProtectHome=tmpfs", "BindReadOnlyPaths=\"-/home/anna/logs\"", "BindReadOnlyPaths=\"-/tmp/l\""];
        assert_eq!(home, expected);
        assert!(unit("[slack]\nurl_credential = 'hook'").contains("# LoadCredential=hook:PATH"));
    }
}
