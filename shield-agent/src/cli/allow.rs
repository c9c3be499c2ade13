//! `shield-agent allow [CLIENT…] [--for TIME] [--remove]`: shows and changes the allowlist.

use anyhow::Result;
use clap::Args;

use super::Exit;
use super::args::{self, UsageError};
use super::client::AgentClient;
use super::print::{self, Colour, Table};
use super::reply::{self, Format, JsonArg};
use crate::api::operation::Operation;
use crate::api::types::{AllowList, AllowRequest, DisallowRequest};
use crate::text;
use shield_engine::client::Client;

#[derive(Debug, Clone, Args)]
pub struct AllowArgs {
    /// An address or a network
    #[arg(value_name = "CLIENT")]
    clients: Vec<Client>,
    /// List the allowlist, with the reason of each entry
    #[arg(long, conflicts_with_all = ["clients", "remove", "reason", "secs"])]
    list: bool,
    /// Remove these from the allowlist (only entries added with `allow`)
    #[arg(long, requires = "clients")]
    remove: bool,
    /// For how long, at most 366 d: 90s, 30m, 2h, `1d 12h`. Without it, until they are removed
    #[arg(long = "for", value_name = "TIME", value_parser = args::allowance, requires = "clients", conflicts_with = "remove")]
    secs: Option<u64>,
    /// The reason, for the record
    #[arg(long, value_name = "TEXT", requires = "clients")]
    reason: Option<String>,
    #[command(flatten)]
    json: JsonArg,
}

pub(crate) async fn run(args: &AllowArgs, client: &AgentClient) -> Result<Exit> {
    if args.list || args.clients.is_empty() {
        if !args.list && args.remove {
            return Err(
                UsageError("--remove needs the clients to remove from the allowlist".to_owned()).into()
            );
        }
        return list(client, args.json.format()).await;
    }
    let (clients, reason) = (args.clients.clone(), args.reason.clone());
    let reply = if args.remove {
        client.post(Operation::Disallow, &DisallowRequest { clients, reason }).await?
    } else {
        client.post(Operation::Allow, &AllowRequest { clients, secs: args.secs, reason }).await?
    };
    reply::show(&reply, args.json.format())
}

async fn list(client: &AgentClient, format: Format) -> Result<Exit> {
    let list: AllowList = client.get(Operation::Allowlist, &[]).await?;
    match format {
        Format::Json => print::json(&list)?,
        Format::Text => print::text(&render(&list, Colour::of_stdout()))?,
    }
    Ok(Exit::Done)
}

fn render(list: &AllowList, colour: Colour) -> String {
    let mut table = Table::new(&["NETWORK", "NEVER BANNED BECAUSE"], &[]);
    for entry in &list.entries {
        let note = entry.note.as_ref().map(|note| format!(": {}", text::printable(note))).unwrap_or_default();
        let until = entry.until_ms.map(|ms| format!(", until {}", text::utc(ms))).unwrap_or_default();
        table.row(vec![entry.network.to_string(), format!("{}{note}{until}", entry.words)]);
    }
    table.render(colour)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::convert::allow_entry;
    use crate::api::types::AllowEntry;
    use shield_engine::allowlist::{AllowReason, Allowed};

    #[test]
    fn the_list_gives_the_reason_of_each() {
        let entry =
            |network: &str, reason| allow_entry(&Allowed { network: network.parse().unwrap(), reason });
        let list = AllowList {
            entries: vec![
                entry("127.0.0.0/8", AllowReason::Special),
                entry("192.0.2.1/32", AllowReason::Gateway),
                AllowEntry {
                    note: Some("the office".to_owned()),
                    ..entry("198.51.100.7/32", AllowReason::Operator)
                },
                AllowEntry {
                    until_ms: Some(1_778_537_253_000),
                    ..entry("203.0.113.9/32", AllowReason::Operator)
                },
            ],
        };
        assert_eq!(
            render(&list, Colour::Off),
            "NETWORK          NEVER BANNED BECAUSE\n\
             127.0.0.0/8      a loopback, link-local, multicast or unspecified address\n\
             192.0.2.1/32     a gateway of this host\n\
             198.51.100.7/32  allowed by an operator: the office\n\
             203.0.113.9/32   allowed by an operator, until 2026-05-11T22:07:33Z\n"
        );
    }
}
