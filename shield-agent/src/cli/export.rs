//! `shield-agent export`: the bans in force as a list, or their changes as they happen.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use super::bans::{self, Query};
use super::client::{AgentClient, ClientError};
use super::lists::{self, ListFormat, Reading};
use super::{Exit, args, print};
use crate::api::types::BanSort;
use crate::edge::format::{Changes, EdgeFormat, read_plain};
use crate::text;
use shield_engine::verdict::Rule;

/// Pause between two looks for changes. A look without one costs the agent a comparison of two numbers.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Pause between two attempts to reconnect.
const RETRY: Duration = Duration::from_secs(1);

/// The format of an exported list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// Shield's own JSON, as `bans --json` writes it
    #[value(alias = "auto")]
    Shield,
    /// One address or network a line, with the reason as a comment
    Plain,
    /// CrowdSec: the JSON of `cscli decisions import`
    Crowdsec,
    /// fail2ban: as `fail2ban-client get JAIL banip --with-time`
    #[value(name = "fail2ban")]
    Fail2ban,
    /// HAProxy: a map file; with --follow commands for its runtime socket
    HaproxyMap,
    /// Cloudflare: items of a list, as JSON
    Cloudflare,
}

impl ExportFormat {
    /// Either a list with reasons and ends, or one that is made for other programs.
    fn kind(self) -> Result<ListFormat, EdgeFormat> {
        match self {
            ExportFormat::Shield => Ok(ListFormat::Shield),
            ExportFormat::Plain => Ok(ListFormat::Plain),
            ExportFormat::Crowdsec => Ok(ListFormat::Crowdsec),
            ExportFormat::Fail2ban => Ok(ListFormat::Fail2ban),
            ExportFormat::HaproxyMap => Err(EdgeFormat::HaproxyMap),
            ExportFormat::Cloudflare => Err(EdgeFormat::Cloudflare),
        }
    }

    fn of_changes(self) -> Option<EdgeFormat> {
        match self {
            ExportFormat::Plain => Some(EdgeFormat::Plain),
            other => other.kind().err(),
        }
    }
}

#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// The list's format
    #[arg(long, value_enum, default_value_t = ExportFormat::Shield)]
    format: ExportFormat,
    /// Write the list, then its changes as they happen, in plain, haproxy-map or cloudflare; survives a restart of the agent
    #[arg(long, short)]
    follow: bool,
    /// The map that commands to HAProxy name
    #[arg(long, value_name = "NAME", default_value = "/etc/haproxy/shield.map")]
    map: String,
    /// Only clients that begin with this text
    #[arg(value_name = "BEGINNING")]
    search: Option<String>,
    /// Only bans for this rule
    #[arg(long, value_name = "RULE", value_parser = args::rule)]
    rule: Option<Rule>,
}

pub(crate) async fn run(args: &ExportArgs, client: &AgentClient) -> Result<Exit> {
    let is_choice = args.search.is_some() || args.rule.is_some();
    if is_choice && (args.follow || args.format.kind().is_err()) {
        bail!(text::edge::WHOLE_LIST);
    }
    if args.follow {
        let Some(format) = args.format.of_changes() else { bail!(text::edge::NO_CHANGES) };
        return follow(Changes::new(format, &args.map), client).await;
    }
    let format = match args.format.kind() {
        Ok(format) => format,
        Err(format) => {
            let list = client.list(format, None).await?;
            print::text(&list.map(|(_, text)| text).unwrap_or_default())?;
            return Ok(Exit::Done);
        }
    };
    let query = Query { search: args.search.clone(), rule: args.rule, site: None, sort: BanSort::Client };
    let page = bans::all(client, &query).await?;
    let reading = Reading { now_ms: page.now_ms, zone: jiff::tz::TimeZone::system() };
    print::text(&lists::write(&page.bans, format, &reading))?;
    Ok(Exit::Done)
}

/// Runs until the pipe is closed or the process is interrupted. Compares whole lists, so that nothing is lost or doubled by an
/// agent that restarts, whatever happened meanwhile.
async fn follow(mut changes: Changes, client: &AgentClient) -> Result<Exit> {
    let mut known = None;
    let mut is_connected = false;
    loop {
        let pause =
            match client.list(EdgeFormat::Plain, known.as_deref()).await {
                Ok(None) => LOOK_EVERY,
                Ok(Some((tag, list))) => {
                    let list = read_plain(&list).map_err(|line| client.misunderstood(&line))?;
                    known = tag;
                    is_connected = true;
                    if !print::text_to_reader(&changes.to(list))? {
                        return Ok(Exit::Done);
                    }
                    LOOK_EVERY
                }
                Err(
                    ClientError::NotRunning { .. } | ClientError::Broken { .. } | ClientError::Refused(_),
                ) if is_connected => RETRY,
                Err(error) => return Err(error.into()),
            };
        tokio::time::sleep(pause).await;
    }
}
