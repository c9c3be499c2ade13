//! `shield-agent init nginx-deny`: prints the lines with which nginx refuses banned clients. Changes nothing.

use anyhow::Result;
use clap::{Args, ValueEnum};

use super::run::ConfigArg;
use super::{Exit, print};
use crate::config::{Config, Use};
use crate::enforce::nginx::Backend;
use crate::enforce::nginx::include::{self, OpenPath};

#[derive(Debug, Clone, Args)]
pub(super) struct DenyArgs {
    /// Print one part alone, as the file that nginx includes
    #[arg(long, value_enum, value_name = "PART")]
    part: Option<Part>,
    /// Refuse nobody where the path begins so, such as /.well-known/acme-challenge/; may be given several times
    #[arg(long, value_name = "PATH")]
    open: Vec<OpenPath>,
    #[command(flatten)]
    config: ConfigArg,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Part {
    /// For the http section, once
    Http,
    /// For every server section
    Server,
}

/// Prints one part, or what to do.
pub(super) fn run(args: &DenyArgs) -> Result<Exit> {
    let config = args.config.load()?;
    let server = include::server(&config.nginx, &args.open);
    match args.part {
        Some(Part::Http) => print::text(&include::http(&config.nginx))?,
        Some(Part::Server) => print::text(&server)?,
        None => print::text(&steps(&config, &server))?,
    }
    Ok(Exit::Done)
}

fn steps(config: &Config, server: &str) -> String {
    let mode = match config.use_nginx {
        Use::Off => {
            "1. In Shield's configuration, and then `systemctl restart shield`:\n\n    [nginx]\n    mode = \"on\"\n"
        }
        Use::On | Use::Required => "1. Shield's configuration has [nginx] switched on already.\n",
    };
    let last = match config.nginx.backend {
        Backend::Files => "4. nginx -t && nginx -s reload. No ban needs a reload after that.",
        Backend::Map => {
            "4. At the top of nginx.conf, outside of http: `worker_shutdown_timeout 30s;`, then nginx -t && nginx -s reload.\n   \
             From then on the agent reloads nginx when bans change (test_command and reload_command in [nginx])."
        }
    };
    format!(
        "Where the visitors come through a proxy (a CDN, a load balancer, a container's gateway), a firewall sees the\n\
         proxy's address alone. nginx itself then refuses whoever is banned, by $remote_addr, which its realip module sets.\n\n\
         {mode}\n\
         2. Once in the http section. Debian's nginx includes this folder there:\n\n    \
         shield-agent init nginx-deny --part http > /etc/nginx/conf.d/shield.conf\n\n\
         3. In every server section (`include snippets/shield-deny.conf;`):\n\n    \
         shield-agent init nginx-deny --part server > /etc/nginx/snippets/shield-deny.conf\n\n\
         {last}\n\n\
         The server part now is:\n\n{}",
        server.lines().map(|line| format!("    {line}\n")).collect::<String>()
    )
}
