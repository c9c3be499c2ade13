//! `shield-agent events [--follow]`: shows recent notices and follows new ones.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use clap::builder::PossibleValuesParser;

use super::Exit;
use super::client::{AgentClient, ClientError, EventStream, Message};
use super::print::{self, Colour, Style};
use super::reply::{Format, JsonArg};
use crate::api::operation::Operation;
use crate::api::types::{EventList, EventView, Severity};
use crate::text;

/// Pause between two attempts to reconnect.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Args)]
pub struct EventsArgs {
    /// Keep printing new events; survives a restart of the agent
    #[arg(long, short)]
    follow: bool,
    /// The number of past events shown
    #[arg(long, short = 'n', value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=1000))]
    limit: u32,
    /// Only events of this kind
    #[arg(long, value_name = "KIND", value_parser = PossibleValuesParser::new(text::KINDS))]
    kind: Option<String>,
    #[command(flatten)]
    json: JsonArg,
}

pub(crate) async fn run(args: &EventsArgs, client: &AgentClient) -> Result<Exit> {
    let mut shown = Shown {
        last_id: None,
        format: args.json.format(),
        colour: Colour::of_stdout(),
        columns: print::columns(),
    };
    let past = recent(args, client).await?;
    for event in past.events.iter().rev() {
        if !shown.show(event)? {
            return Ok(Exit::Done);
        }
    }
    if args.follow { follow(args, client, shown).await } else { Ok(Exit::Done) }
}

async fn recent(args: &EventsArgs, client: &AgentClient) -> Result<EventList, ClientError> {
    if args.limit == 0 {
        return Ok(EventList { events: Vec::new(), next: None });
    }
    let mut params = vec![("limit", args.limit.to_string())];
    params.extend(args.kind.clone().map(|kind| ("kind", kind)));
    client.get(Operation::RecentEvents, &params).await
}

/// Runs until the pipe is closed or the process is interrupted. Waits for an agent that restarts.
async fn follow(args: &EventsArgs, client: &AgentClient, mut shown: Shown) -> Result<Exit> {
    let mut stream = client.events(shown.last_id).await?;
    loop {
        match stream.next().await {
            Ok(Some(Message::Notice(event))) => {
                let is_wanted = args.kind.as_ref().is_none_or(|kind| *kind == event.kind);
                if is_wanted && !shown.show(&event)? {
                    return Ok(Exit::Done);
                }
            }
            Ok(Some(Message::Gap(_))) => tracing::warn!("some events are missing here; see the audit log"),
            Ok(Some(Message::Snapshot(_))) => {}
            Ok(None) | Err(ClientError::Broken { .. }) => stream = reconnect(client, shown.last_id).await?,
            Err(error) => return Err(error.into()),
        }
    }
}

async fn reconnect(client: &AgentClient, last_id: Option<u64>) -> Result<EventStream, ClientError> {
    loop {
        tokio::time::sleep(RETRY).await;
        match client.events(last_id).await {
            Err(ClientError::NotRunning { .. } | ClientError::Broken { .. }) => {}
            answer => return answer,
        }
    }
}

struct Shown {
    last_id: Option<u64>,
    format: Format,
    colour: Colour,
    columns: Option<usize>,
}

/// Characters of a time and the blanks behind it.
const TIME_CHARS: usize = 22;

impl Shown {
    /// Prints an event; returns false when the pipe is closed.
    fn show(&mut self, event: &EventView) -> Result<bool> {
        self.last_id = Some(event.id);
        let line = match self.format {
            Format::Json => serde_json::to_string(event)?,
            Format::Text => print::wrapped(&line(event, self.colour), TIME_CHARS, self.columns),
        };
        print::text_to_reader(&format!("{line}\n"))
    }
}

pub(crate) fn line(event: &EventView, colour: Colour) -> String {
    let time = colour.paint(Style::Dim, &text::utc(event.at_ms));
    let text = match event.severity {
        Severity::Info => event.text.clone(),
        Severity::Warning => colour.paint(Style::Warn, &event.text),
        Severity::Critical => colour.paint(Style::Bad, &event.text),
    };
    format!("{time}  {text}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::action::Notice;

    #[test]
    fn an_event_is_a_line() {
        let notice = Notice::Degraded { part: "xdp".into(), reason: "no driver".into() };
        let event = crate::api::events::event(1, 1_778_537_253_000, &notice);
        assert_eq!(line(&event, Colour::Off), "2026-05-11T22:07:33Z  xdp degraded: no driver");
        assert!(line(&event, Colour::On).contains("\u{1b}[31mxdp degraded"));
    }
}
