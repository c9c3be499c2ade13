//! `shield-agent ban CLIENT…`: bans clients or networks by hand.

use anyhow::{Result, bail};
use clap::Args;

use super::client::AgentClient;
use super::lists::bounds::width_to_confirm;
use super::reply::{self, JsonArg};
use super::{Exit, args, print};
use crate::api::operation::Operation;
use crate::api::types::{BanRequest, Term};
use shield_engine::client::Client;

#[derive(Debug, Clone, Args)]
pub struct BanArgs {
    /// An address, or a network such as 192.0.2.0/24. A single IPv6 address stands for its /64
    #[arg(required = true, value_name = "CLIENT")]
    clients: Vec<Client>,
    /// The term: 90s, 10m, 2h, `1d 12h`, permanent; or next, the next step of the backoff ladder
    #[arg(long = "for", value_name = "TIME", value_parser = args::term, default_value = "next")]
    term: Term,
    /// The reason, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Ban networks wider than /8 (IPv4) or /19 (IPv6) too
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    json: JsonArg,
}

pub(crate) async fn run(args: &BanArgs, client: &AgentClient) -> Result<Exit> {
    for banned in &args.clients {
        let Some(width) = width_to_confirm(*banned) else { continue };
        if !args.force {
            bail!(
                "{banned} covers {width}; nothing was banned: to ban so many, repeat the command with --force"
            );
        }
        print::warning(&format!("{banned} covers {width}"));
    }
    let request = BanRequest { clients: args.clients.clone(), term: args.term, reason: args.reason.clone() };
    reply::show(&client.post(Operation::Ban, &request).await?, args.json.format())
}
