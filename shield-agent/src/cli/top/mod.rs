//! `shield-agent top`: the live terminal view. This file owns the terminal, the connection and the loop; `model` holds
//! the state and the keys, `view` draws.

mod model;
mod view;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEvent, KeyEventKind};
use tokio::sync::mpsc;

use self::model::{Input, Model, Request};
use super::Exit;
use super::args::UsageError;
use super::bans::Query;
use super::client::{AgentClient, ClientError, Message};
use crate::api::operation::Operation;
use crate::api::types::{BanPage, BanRequest, EventList, HistoryView, Term, UnbanRequest};
use shield_engine::action::Reply;

/// Pause between two attempts to connect.
const RETRY: Duration = Duration::from_secs(1);

/// Interval at which the key reader checks whether to end.
const KEY_POLL: Duration = Duration::from_millis(100);

/// Interval of listing bans again, because no event announces dropped packets.
const BANS_EVERY: Duration = Duration::from_secs(5);

const BANS_SHOWN: u32 = 200;

const EVENTS_AT_START: u32 = 20;

/// Bound of the channel of inputs.
const QUEUE: usize = 256;

#[derive(Debug, Clone, Args)]
pub struct TopArgs {}

pub(crate) async fn run(_args: &TopArgs, client: &AgentClient) -> Result<Exit> {
    if !std::io::stdout().is_terminal() {
        return Err(UsageError("top needs a terminal; use `status --json` in programs".to_owned()).into());
    }
    let history: HistoryView = client.get(Operation::History, &[]).await?;
    let recent: EventList =
        client.get(Operation::RecentEvents, &[("limit", EVENTS_AT_START.to_string())]).await?;
    let model = Model::new(&history, recent);
    let terminal = ratatui::try_init().context("could not set up the terminal")?;
    let result = watch(model, client, terminal).await;
    ratatui::restore();
    result.map(|()| Exit::Done)
}

async fn watch(mut model: Model, client: &AgentClient, mut terminal: DefaultTerminal) -> Result<()> {
    let (inputs, mut received) = mpsc::channel(QUEUE);
    let keys = KeyReader::start(inputs.clone());
    let following = tokio::spawn(follow(client.clone(), inputs.clone()));
    let mut refresh = tokio::time::interval(BANS_EVERY);
    while !model.is_done() {
        terminal.draw(|frame| view::draw(&mut model, frame)).context("could not draw to the terminal")?;
        let request = tokio::select! {
            Some(input) = received.recv() => model.take(input),
            _ = refresh.tick() => Some(Request::ListBans),
        };
        if let Some(request) = request {
            tokio::spawn(perform(request, client.clone(), inputs.clone()));
        }
    }
    following.abort();
    drop(keys);
    Ok(())
}

/// Reads keys on a thread of its own, because reading a terminal blocks. Dropping it ends the thread.
struct KeyReader(Arc<AtomicBool>);

impl KeyReader {
    fn start(inputs: mpsc::Sender<Input>) -> KeyReader {
        let is_done = Arc::new(AtomicBool::new(false));
        let seen_done = Arc::clone(&is_done);
        tokio::task::spawn_blocking(move || {
            while !seen_done.load(Ordering::Relaxed) {
                let Ok(is_ready) = event::poll(KEY_POLL) else { break };
                let input = if is_ready { event::read().ok().and_then(input_of) } else { None };
                if input.is_some_and(|input| inputs.blocking_send(input).is_err()) {
                    break;
                }
            }
        });
        KeyReader(is_done)
    }
}

impl Drop for KeyReader {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn input_of(event: Event) -> Option<Input> {
    match event {
        Event::Key(key @ KeyEvent { kind: KeyEventKind::Press, .. }) => Some(Input::Key(key)),
        Event::Resize(..) => Some(Input::Redraw),
        _ => None,
    }
}

/// Follows the events until the program ends; reconnects when the agent restarts.
async fn follow(client: AgentClient, inputs: mpsc::Sender<Input>) {
    let mut last_id = None;
    loop {
        let ended = follow_once(&client, &inputs, &mut last_id).await;
        let why = ended.err().map_or("the agent ended the connection".to_owned(), |error| error.to_string());
        if inputs.send(Input::Disconnected(why)).await.is_err() {
            return;
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow_once(
    client: &AgentClient,
    inputs: &mpsc::Sender<Input>,
    last_id: &mut Option<u64>,
) -> Result<(), ClientError> {
    let mut stream = client.events(*last_id).await?;
    while let Some(message) = stream.next().await? {
        if let Message::Notice(event) = &message {
            *last_id = Some(event.id);
        }
        if inputs.send(Input::Message(message)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}

/// Performs a request and sends its result to the loop. A closed channel means that the program is ending.
async fn perform(request: Request, client: AgentClient, inputs: mpsc::Sender<Input>) {
    let input = match request {
        Request::ListBans => match Query::default().page(&client, 0, BANS_SHOWN).await {
            Ok(page) => Input::Bans(Box::new(page) as Box<BanPage>),
            // The event stream fails as well, and shows it.
            Err(_) => return,
        },
        Request::Ban(banned) => {
            let reason = Some("by hand, in top".to_owned());
            let request = BanRequest { clients: vec![banned], term: Term::Next, reason };
            answer(client.post(Operation::Ban, &request).await)
        }
        Request::Lift(lifted) => {
            let reason = Some("by hand, in top".to_owned());
            let request = UnbanRequest { clients: vec![lifted], forget: true, here: false, reason };
            answer(client.post(Operation::Unban, &request).await)
        }
    };
    let _ = inputs.send(input).await;
}

fn answer(answer: Result<Reply, ClientError>) -> Input {
    Input::Answer(match answer {
        Ok(reply) => {
            let lines = reply.results.iter().map(|result| format!("{}: {}", result.client, result.message));
            lines.collect::<Vec<String>>().join("; ")
        }
        Err(error) => error.to_string(),
    })
}
