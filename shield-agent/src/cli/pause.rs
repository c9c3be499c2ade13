//! `shield-agent pause 30m` and `shield-agent resume`: automatic bans off for a while, and on again.

use anyhow::Result;
use clap::Args;

use super::client::AgentClient;
use super::print::{self, Colour, Style};
use super::reply::{self, Format, JsonArg};
use super::{Exit, args};
use crate::api::operation::Operation;
use crate::api::types::{PauseReport, PauseRequest, ResumeReport, ResumeRequest};
use crate::text::{self, counted};
use shield_engine::action::Reply;

#[derive(Debug, Clone, Args)]
pub struct PauseArgs {
    /// How long, at most 7 d: 90s, 30m, 2h, `1d 12h`
    #[arg(value_name = "TIME", value_parser = args::pause)]
    secs: u64,
    /// The reason, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    json: JsonArg,
}

#[derive(Debug, Clone, Args)]
pub struct ResumeArgs {
    /// The reason, for the record
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    json: JsonArg,
}

pub(crate) async fn pause(args: &PauseArgs, client: &AgentClient) -> Result<Exit> {
    let request = PauseRequest { secs: args.secs, reason: args.reason.clone() };
    let report: PauseReport = client.post(Operation::Pause, &request).await?;
    match args.json.format() {
        Format::Json => print::json(&report)?,
        Format::Text => print::text(&paused(report.until_ms))?,
    }
    Ok(Exit::Done)
}

pub(crate) async fn resume(args: &ResumeArgs, client: &AgentClient) -> Result<Exit> {
    let request = ResumeRequest { reason: args.reason.clone() };
    let report: ResumeReport = client.post(Operation::Resume, &request).await?;
    match args.json.format() {
        Format::Json => print::json(&report)?,
        Format::Text => print::text(&resumed(&report, Colour::of_stdout()))?,
    }
    Ok(Exit::Done)
}

fn paused(until_ms: i64) -> String {
    format!(
        "Automatic bans are paused until {}: rules ban and slow nobody.\n\
         Bans in force stay, and you can ban and lift by hand. End the pause with: {}\n",
        text::utc(until_ms),
        text::posture::RESUME
    )
}

fn resumed(report: &ResumeReport, colour: Colour) -> String {
    let done = match (report.was_paused, report.was_stopped) {
        (false, false) => return "Automatic bans were neither paused nor stopped.\n".to_owned(),
        (true, _) => "The pause is over, and rules ban again.",
        (false, true) => "Rules ban again; the limits in [ban] count from zero.",
    };
    let done = colour.paint(Style::Good, done);
    match report.results.len() as u64 {
        0 => format!("{done} Of the clients that were let through, none attacks now.\n"),
        clients => {
            let reply = Reply { results: report.results.clone() };
            format!(
                "{done} {} let through until now:\n{}",
                counted(clients, "client"),
                reply::render(&reply, colour)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::action::CommandResult;

    #[test]
    fn what_a_pause_and_its_end_say() {
        assert_eq!(
            paused(1_778_537_253_000),
            "Automatic bans are paused until 2026-05-11T22:07:33Z: rules ban and slow nobody.\n\
             Bans in force stay, and you can ban and lift by hand. End the pause with: shield-agent resume\n"
        );
        let report = |was_paused, was_stopped, clients: &[&str]| {
            let result = |client: &&str| CommandResult {
                client: client.parse().unwrap(),
                ok: true,
                message: "banned for 10 min".into(),
            };
            let results = clients.iter().map(result).collect();
            resumed(&ResumeReport { was_paused, was_stopped, results }, Colour::Off)
        };
        assert_eq!(report(false, false, &[]), "Automatic bans were neither paused nor stopped.\n");
        assert_eq!(
            report(true, false, &[]),
            "The pause is over, and rules ban again. Of the clients that were let through, none attacks now.\n"
        );
        assert_eq!(
            report(false, true, &["192.0.2.7"]),
            "Rules ban again; the limits in [ban] count from zero. 1 client let through until now:\n\
             192.0.2.7: banned for 10 min\n"
        );
    }
}
