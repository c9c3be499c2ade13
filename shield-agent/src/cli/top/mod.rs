//! `shield-agent top`: the live terminal view. Here: the terminal, the connection, the loop. What is known and what
//! keys mean is `model`, how it is drawn `view`.

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

use self::model::{Input, Model, Wish};
use super::Exit;
use super::args::UsageError;
use super::bans::Query;
use super::client::{AgentClient, ClientError, Message};
use crate::api::types::{BanPage, BanRequest, EventList, HistoryView, Term, UnbanRequest};
use shield_engine::action::Reply;

/// Between two attempts to reach the agent.
const RETRY: Duration = Duration::from_secs(1);

/// How long the key reader waits before it looks whether it should end.
const KEY_POLL: Duration = Duration::from_millis(100);

/// How often bans are listed anew, to follow the counters of dropped packets.
const BANS_EVERY: Duration = Duration::from_secs(5);

/// Bans listed.
const BANS_SHOWN: u32 = 200;

/// Past events shown at the start.
const EVENTS_AT_START: u32 = 20;

/// Inputs that may wait to be shown.
const QUEUE: usize = 256;

/// Its arguments.
#[derive(Debug, Clone, Args)]
pub struct TopArgs {}

/// Runs it until `q`.
pub(crate) async fn run(_args: &TopArgs, client: &AgentClient) -> Result<Exit> {
    if !std::io::stdout().is_terminal() {
        return Err(
            UsageError("top needs a terminal; for programs there is `status --json`".to_owned()).into()
        );
    }
    let history: HistoryView = client.get("/history", &[]).await?;
    let recent: EventList = client.get("/events/recent", &[("limit", EVENTS_AT_START.to_string())]).await?;
    let model = Model::new(&history, recent);
    let terminal = ratatui::try_init().context("preparing the terminal")?;
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
        terminal.draw(|frame| view::draw(&mut model, frame)).context("drawing")?;
        let wish = tokio::select! {
            Some(input) = received.recv() => model.take(input),
            _ = refresh.tick() => Some(Wish::ListBans),
        };
        if let Some(wish) = wish {
            tokio::spawn(fulfil(wish, client.clone(), inputs.clone()));
        }
    }
    following.abort();
    drop(keys);
    Ok(())
}

/// Reads keys on a thread of its own, for the terminal can only be read by blocking. Dropping it ends the thread.
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

/// Follows the events for ever, over restarts of the agent.
async fn follow(client: AgentClient, inputs: mpsc::Sender<Input>) {
    let mut last_id = None;
    loop {
        let lost = follow_once(&client, &inputs, &mut last_id).await;
        let words = lost.err().map_or("the agent stopped".to_owned(), |error| error.to_string());
        if inputs.send(Input::Lost(words)).await.is_err() {
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

/// Does what a key or an event asked for and brings back what came of it. When nobody waits for it any more, the
/// program is ending.
async fn fulfil(wish: Wish, client: AgentClient, inputs: mpsc::Sender<Input>) {
    let input = match wish {
        Wish::ListBans => match Query::default().page(&client, 0, BANS_SHOWN).await {
            Ok(page) => Input::Bans(Box::new(page) as Box<BanPage>),
            // The event stream says so as well.
            Err(_) => return,
        },
        Wish::Ban(banned) => {
            let reason = Some("by hand, in top".to_owned());
            let request = BanRequest { clients: vec![banned], term: Term::Next, reason };
            told(client.post("/ban", &request).await)
        }
        Wish::Lift(lifted) => {
            let reason = Some("by hand, in top".to_owned());
            let request = UnbanRequest { clients: vec![lifted], forget: false, reason };
            told(client.post("/unban", &request).await)
        }
    };
    let _ = inputs.send(input).await;
}

fn told(answer: Result<Reply, ClientError>) -> Input {
    Input::Told(match answer {
        Ok(reply) => {
            let words = reply.results.iter().map(|result| format!("{}: {}", result.client, result.message));
            words.collect::<Vec<String>>().join("; ")
        }
        Err(error) => error.to_string(),
    })
}
