//! `shield-agent unban CLIENT…`: lifts bans; with `--all` every ban.

use std::io::{self, BufRead as _, IsTerminal as _};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::args::UsageError;
use super::bans::{self, Query};
use super::client::AgentClient;
use super::print;
use super::reply::{self, Format, JsonArg};
use super::{Exit, args};
use crate::api::operation::Operation;
use crate::api::types::{MAX_CLIENTS_PER_REQUEST, UnbanRequest};
use crate::text::counted;
use shield_engine::action::Reply;
use shield_engine::client::Client;
use shield_engine::verdict::Rule;

#[derive(Debug, Clone, Args)]
pub struct UnbanArgs {
    /// A client as listed by `bans`
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "CLIENT")]
    clients: Vec<Client>,
    /// Lift every ban in force
    #[arg(long)]
    all: bool,
    /// With --all: only bans for this rule, such as imported
    #[arg(long, value_name = "RULE", value_parser = args::rule, requires = "all")]
    rule: Option<Rule>,
    /// With --all: do not ask
    #[arg(long, short, requires = "all")]
    yes: bool,
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
    if !args.all {
        // clap does not ask for --all here, because it conflicts with the clients.
        if args.yes || args.rule.is_some() {
            return Err(UsageError("--yes and --rule are for --all".to_owned()).into());
        }
        return reply::show(&lift(args, args.clients.clone(), client).await?, args.json.format());
    }
    let query = Query { rule: args.rule, ..Query::default() };
    let clients: Vec<Client> = bans::all(client, &query).await?.bans.iter().map(|ban| ban.client).collect();
    if !clients.is_empty()
        && !args.yes
        && !confirmed(clients.len() as u64, args.rule, io::stdin().is_terminal())?
    {
        print::text("nothing was lifted\n")?;
        return Ok(Exit::Failed);
    }
    let mut results = Vec::with_capacity(clients.len());
    for clients in clients.chunks(MAX_CLIENTS_PER_REQUEST) {
        results.extend(lift(args, clients.to_vec(), client).await?.results);
    }
    let reply = Reply { results };
    match args.json.format() {
        Format::Json => print::json(&reply)?,
        Format::Text => print::text(&summary(&reply))?,
    }
    Ok(reply::exit(&reply))
}

async fn lift(args: &UnbanArgs, clients: Vec<Client>, client: &AgentClient) -> Result<Reply> {
    let request =
        UnbanRequest { clients, forget: !args.keep_offences, here: args.here, reason: args.reason.clone() };
    Ok(client.post(Operation::Unban, &request).await?)
}

fn question(bans: u64, rule: Option<Rule>) -> String {
    let of_rule = rule.map(|rule| format!(" for {}", rule.name())).unwrap_or_default();
    format!("Lift {}{of_rule}? [y/N] ", counted(bans, "ban"))
}

/// Asks on a terminal. Without one nobody can answer.
fn confirmed(bans: u64, rule: Option<Rule>, is_terminal: bool) -> Result<bool> {
    if !is_terminal {
        bail!("{} would be lifted; nothing was: repeat the command with --yes", counted(bans, "ban"));
    }
    print::text(&question(bans, rule))?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("could not read the answer from the terminal")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// One line, and one for each that failed.
fn summary(reply: &Reply) -> String {
    let failed: Vec<_> = reply.results.iter().filter(|result| !result.ok).collect();
    let lifted = (reply.results.len() - failed.len()) as u64;
    let mut out = if reply.results.is_empty() {
        "No client is banned.\n".to_owned()
    } else {
        format!("{} lifted\n", counted(lifted, "ban"))
    };
    for result in failed {
        out.push_str(&format!("{}: {}\n", result.client, result.message));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::action::CommandResult;

    #[test]
    fn all_bans_are_counted_before_and_after() {
        assert_eq!(question(2980, Some(Rule::Imported)), "Lift 2,980 bans for imported? [y/N] ");
        assert_eq!(question(1, None), "Lift 1 ban? [y/N] ");
        let error = confirmed(12, None, false).unwrap_err().to_string();
        assert_eq!(error, "12 bans would be lifted; nothing was: repeat the command with --yes");
        let result = |client: &str, ok, message: &str| CommandResult {
            client: client.parse().unwrap(),
            ok,
            message: message.into(),
        };
        let results =
            vec![result("192.0.2.7", true, "unbanned"), result("192.0.2.8", false, "was not banned")];
        assert_eq!(summary(&Reply { results }), "1 ban lifted\n192.0.2.8: was not banned\n");
        assert_eq!(summary(&Reply { results: Vec::new() }), "No client is banned.\n");
    }
}
