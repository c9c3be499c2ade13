//! `shield-agent unban CLIENT…`: lifts bans.

use anyhow::Result;
use clap::Args;

use super::Exit;
use super::client::AgentClient;
use super::reply::{self, JsonArg};
use crate::api::operation::Operation;
use crate::api::types::UnbanRequest;
use shield_engine::client::Client;

#[derive(Debug, Clone, Args)]
pub struct UnbanArgs {
    /// A client as listed by `bans`
    #[arg(required = true, value_name = "CLIENT")]
    clients: Vec<Client>,
    /// Keep the clients' offences, so that their next bans are as long as if these had stood
    #[arg(long)]
    keep_offences: bool,
    /// Lift only what `ban` banned on this host: what rules and other hosts want stays
    #[arg(long, conflicts_with = "keep_offences")]
    here: bool,
    /// The reason, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    json: JsonArg,
}

pub(crate) async fn run(args: &UnbanArgs, client: &AgentClient) -> Result<Exit> {
    let (clients, reason) = (args.clients.clone(), args.reason.clone());
    let request = UnbanRequest { clients, forget: !args.keep_offences, here: args.here, reason };
    reply::show(&client.post(Operation::Unban, &request).await?, args.json.format())
}
