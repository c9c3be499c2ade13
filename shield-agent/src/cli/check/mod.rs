//! `shield-agent check`: validates the configuration and shows its effect.

use std::fmt::Write as _;

use anyhow::Result;
use clap::Args;

use super::reply::{Format, JsonArg};
use super::run::ConfigArg;
use super::{Exit, print};
use crate::config::{Config, Use};
use crate::source::Input;
use crate::text::counted;

#[derive(Debug, Clone, Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArg,
    #[command(flatten)]
    json: JsonArg,
}

pub(crate) fn run(args: &CheckArgs) -> Result<Exit> {
    let config = args.config.load()?;
    match args.json.format() {
        Format::Json => print::json(&config.shown())?,
        Format::Text => print::text(&render(&config))?,
    }
    Ok(Exit::Done)
}

fn render(config: &Config) -> String {
    let mut out = String::new();
    let file =
        config.file.as_ref().map_or("the defaults (no file)".to_owned(), |path| path.display().to_string());
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:<12}{value}");
    };
    line("config", &format!("{file}: valid"));
    for source in &config.sources {
        line("source", &format!("{} ({})", source.name, presence(&source.input)));
    }
    line("detect", &format!("profile {}", config.profile));
    line("iptables", use_text(config.use_iptables));
    line("xdp", use_text(config.use_xdp));
    line("page", &config.page.map_or("off".to_owned(), |addr| format!("http://{addr}/")));
    line("slack", if config.slack.is_some() { "on" } else { "off" });
    line("webhook", if config.webhook.is_some() { "on" } else { "off" });
    line("allowed", &format!("{} configured", counted(config.allow.len() as u64, "network")));
    line("state", &config.state_dir.display().to_string());
    line("socket", &config.socket.display().to_string());
    line("audit", &config.audit.display().to_string());
    out
}

fn use_text(used: Use) -> &'static str {
    match used {
        Use::On => "on; the agent runs without it where it does not work",
        Use::Off => "off",
        Use::Required => "required; the agent does not start where it does not work",
    }
}

/// The state of a source's input as this user sees it.
fn presence(input: &Input) -> &'static str {
    match input {
        Input::Stdin => "standard input",
        Input::Syslog(_) => "a socket that the agent creates",
        Input::Files(text) if text.contains(['*', '?', '[']) => "a pattern",
        Input::Files(path) => match std::fs::File::open(path) {
            Ok(_) => "readable",
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                "does not exist yet: the agent waits for it"
            }
            Err(_) => "not readable by this user: the agent waits until it is",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_configuration_is_shown_on_one_screen() {
        let config = Config::parse("[[source]]\npath = '/nowhere/*.log'\n[xdp]\nmode = 'off'").unwrap();
        let expected = "\
config      the defaults (no file): valid
source      /nowhere/*.log (a pattern)
detect      profile default
iptables    on; the agent runs without it where it does not work
xdp         off
page        http://127.0.0.1:8080/
slack       off
webhook     off
allowed     0 networks configured
state       /var/lib/shield
socket      /run/shield/control.sock
audit       /var/log/shield/audit.jsonl
";
        assert_eq!(render(&config), expected);
    }
}
