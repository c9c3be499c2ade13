//! nginx of an environment, with the app behind it: a site of its own, or the operator's configuration (`rewrite`), and before
//! it, in the profile `cdn`, the proxy's edge.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::create::Request;
use crate::environment::{Environment, Part, Profile, Role};
use crate::launch::{self, APP, Start};
use crate::netns::Namespace;
use crate::rewrite::{self, Place};
use crate::topology::{CONTAINER, INTERFACE, PROXY, SERVER};
use crate::{agent, command};

/// The log of an environment's own site, in the format that the README recommends.
const LOG_FORMAT: &str = r#"log_format shield escape=json
    '{"source_ip":"$remote_addr","peer":"$realip_remote_addr","timestamp":"$time_iso8601","method":"$request_method",'
    '"path":"$request_uri","status":$status,"response_size":$body_bytes_sent,"server_name":"$server_name"}';"#;

/// Starts the app and nginx of each server, and what is before them.
///
/// # Errors
/// Fails if nginx is not installed, refuses its configuration, or does not start.
pub(crate) fn start(environment: &mut Environment, request: &Request, servers: &[String]) -> Result<()> {
    for server in servers {
        let machine = match environment.profile {
            Profile::Container => "container",
            _ => server.as_str(),
        };
        launch::app(environment, machine)?;
        match &request.nginx {
            None => {
                let config = own_site(environment, machine, server)?;
                start_nginx(environment, Part::Nginx, machine, &config, str::to_owned)?;
            }
            Some(original) => start_operators(environment, original, machine, server)?,
        }
    }
    if environment.profile == Profile::Container {
        publish(environment)?;
    }
    if environment.profile == Profile::Cdn {
        let config = edge(environment)?;
        start_nginx(environment, Part::Proxy, "edge", &config, str::to_owned)?;
    }
    Ok(())
}

/// The operator's configuration, with errors that name his own files.
fn start_operators(
    environment: &mut Environment,
    original: &Path,
    machine: &str,
    server: &str,
) -> Result<()> {
    let (folder, access_log) = (environment.machine_folder(machine), environment.access_log(server));
    let log = environment.log.clone();
    let proxies: &[&str] = if environment.profile == Profile::Cdn { &PROXY } else { &[] };
    let place = Place { original, folder: &folder, access_log: &access_log, log: log.as_deref(), proxies };
    let rewritten = rewrite::rewrite(&place)?;
    if let Some(format) = &rewritten.format {
        agent::read_as(environment, server, format)?;
    }
    environment.host = rewritten.host;
    environment.port = rewritten.port.with_context(|| {
        format!("could not use {}: no server section listens for plain HTTP", original.display())
    })?;
    start_nginx(environment, Part::Nginx, machine, &rewritten.config, |words| place.in_original(words))
}

/// The proxy: it names the client in every header that is usual for it.
fn edge(environment: &Environment) -> Result<PathBuf> {
    let port = environment.port;
    let listen = "    listen 80;\n    listen [::]:80 ipv6only=on;\n";
    let http = format!(
        "  access_log off;\n  upstream origin {{ server {}:{port}; keepalive 16; }}\n  server {{\n{listen}    \
         location / {{\n      proxy_pass http://origin;\n      proxy_http_version 1.1;\n      \
         proxy_set_header Connection \"\";\n      proxy_set_header Host $host;\n      \
         proxy_set_header X-Forwarded-For $remote_addr;\n      proxy_set_header X-Real-IP $remote_addr;\n      \
         proxy_set_header CF-Connecting-IP $remote_addr;\n    }}\n  }}\n",
        SERVER[0]
    );
    write(environment, "edge", "nginx", &http)
}

/// Tests the configuration inside the machine, and starts nginx with it.
fn start_nginx(
    environment: &mut Environment,
    part: Part,
    machine: &str,
    config: &Path,
    shown: impl Fn(&str) -> String,
) -> Result<()> {
    let namespace = environment.machines.iter().find(|it| it.name == machine);
    let namespace = Namespace::open(&namespace.context("could not find nginx's machine")?.namespace)?;
    let errors = environment.machine_folder(machine).join("log/nginx-start.log");
    let (config, errors) = (config.to_string_lossy(), errors.to_string_lossy());
    let tested = namespace.output(&["nginx", "-t", "-q", "-c", &config, "-e", &errors])?;
    if !tested.status.success() {
        bail!(
            "could not use nginx's configuration:\n{}",
            shown(String::from_utf8_lossy(&tested.stderr).trim())
        );
    }
    let arguments = ["-c", &config, "-e", &errors].iter().map(ToString::to_string).collect();
    launch::part(environment, part, machine, Start { program: "nginx".into(), arguments, variables: vec![] })
        .map(drop)
}

/// A site that passes everything on to the app.
fn own_site(environment: &Environment, machine: &str, server: &str) -> Result<PathBuf> {
    let log = environment.access_log(server);
    let (outer, inner) = match environment.profile {
        Profile::Cdn => (refusal(environment, server, "http")?, refusal(environment, server, "server")?),
        _ => (String::new(), String::new()),
    };
    let http = format!(
        "{LOG_FORMAT}\n  access_log {} shield;\n{}{outer}  server {{\n    listen 80 reuseport;\n    \
         listen [::]:80 reuseport ipv6only=on;\n    server_name shop.example;\n{inner}    location / {{\n      \
         proxy_pass http://{APP};\n      proxy_set_header Host $host;\n    }}\n  }}\n",
        log.display(),
        real_ip(environment.profile),
    );
    write(environment, machine, "nginx", &http)
}

/// The lines with which nginx itself refuses the banned, as an operator gets them.
fn refusal(environment: &Environment, server: &str, part: &str) -> Result<String> {
    let (program, config) = (launch::binary()?, environment.config(server));
    let (program, config) = (program.to_string_lossy(), config.to_string_lossy());
    command::run(&[&program, "init", "nginx-deny", "--part", part, "--config", &config])
        .context("could not get nginx's lines that refuse the banned")
}

/// A published port leads into the container, as Docker's does: clients keep their addresses.
fn publish(environment: &Environment) -> Result<()> {
    let server = environment.machine(Role::Server).context("could not find the server")?;
    let namespace = Namespace::open(&server.namespace)?;
    let port = environment.port.to_string();
    for (program, container) in [("iptables", CONTAINER[0]), ("ip6tables", CONTAINER[1])] {
        let to = if container.contains(':') {
            format!("[{container}]:{port}")
        } else {
            format!("{container}:{port}")
        };
        let rules: [&[&str]; 4] = [
            &["-N", "DOCKER-USER"],
            &["-A", "DOCKER-USER", "-j", "RETURN"],
            &["-I", "FORWARD", "-j", "DOCKER-USER"],
            &[
                "-t",
                "nat",
                "-A",
                "PREROUTING",
                "-i",
                INTERFACE,
                "-p",
                "tcp",
                "--dport",
                &port,
                "-j",
                "DNAT",
                "--to-destination",
                &to,
            ],
        ];
        for rule in rules {
            namespace.run(&[&[program, "--wait"][..], rule].concat())?;
        }
    }
    Ok(())
}

/// Whose word is taken for the client's address.
fn real_ip(profile: Profile) -> String {
    let mut lines = String::new();
    if profile == Profile::Cdn {
        for proxy in PROXY {
            let _ = writeln!(lines, "  set_real_ip_from {proxy};");
        }
        lines.push_str("  real_ip_header X-Forwarded-For;\n");
    }
    lines
}

/// Writes a whole configuration around this `http` section, and returns its path.
fn write(environment: &Environment, machine: &str, name: &str, http: &str) -> Result<PathBuf> {
    let folder = environment.machine_folder(machine);
    let shown = folder.display();
    let mut text = format!(
        "daemon off;\nuser root;\nworker_processes 1;\npid {shown}/{name}.pid;\nerror_log {shown}/log/error.log;\n\
         events {{ worker_connections 1024; }}\nhttp {{\n"
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "  {kind}_temp_path {shown}/temp-{kind};");
    }
    text.push_str(http);
    text.push_str("}\n");
    let path = folder.join(format!("{name}.conf"));
    fs::write(&path, text).with_context(|| format!("could not write {}", path.display()))?;
    Ok(path)
}
