//! `shield-agent export`: the bans in force as a list.

use anyhow::Result;
use clap::Args;

use super::bans::{self, Query};
use super::client::AgentClient;
use super::lists::{self, ListFormat, Reading};
use super::{Exit, args, print};
use crate::api::types::BanSort;
use shield_engine::verdict::Rule;

#[derive(Debug, Clone, Args)]
pub struct ExportArgs {
    /// The list's format
    #[arg(long, value_enum, default_value_t = ListFormat::Shield)]
    format: ListFormat,
    /// Only clients that begin with this text
    #[arg(value_name = "BEGINNING")]
    search: Option<String>,
    /// Only bans for this rule
    #[arg(long, value_name = "RULE", value_parser = args::rule)]
    rule: Option<Rule>,
}

pub(crate) async fn run(args: &ExportArgs, client: &AgentClient) -> Result<Exit> {
    let query = Query { search: args.search.clone(), rule: args.rule, sort: BanSort::Client };
    let page = bans::all(client, &query).await?;
    let reading = Reading { now_ms: page.now_ms, zone: jiff::tz::TimeZone::system() };
    print::text(&lists::write(&page.bans, args.format, &reading))?;
    Ok(Exit::Done)
}
