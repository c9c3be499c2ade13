//! The state of `top` and the meaning of keys. Pure: inputs come in, requests go out.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::widgets::TableState;

use crate::api::types::{BanPage, EventList, EventView, HistoryView, Snapshot};
use crate::cli::client::Message;
use shield_engine::client::Client;

/// Points of the rate plot, one per second: ten minutes.
const POINTS: usize = 600;

const EVENTS: usize = 50;

#[derive(Debug)]
pub(super) enum Input {
    Key(KeyEvent),
    Message(Message),
    /// The connection broke, for this reason.
    Disconnected(String),
    /// The bans in force.
    Bans(Box<BanPage>),
    /// The result of a ban or lift, one line.
    Answer(String),
    /// The terminal was resized.
    Redraw,
}

/// A request to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    ListBans,
    Ban(Client),
    Lift(Client),
}

/// The table in which the arrow keys move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Focus {
    /// The busiest clients.
    Clients,
    /// The bans.
    Bans,
}

#[derive(Debug)]
pub(super) struct Model {
    /// Global rate and baseline mean, oldest first, one a second.
    pub rates: VecDeque<(f64, f64)>,
    /// The last snapshot.
    pub snapshot: Option<Box<Snapshot>>,
    /// The bans in force, newest first.
    pub bans: Option<Box<BanPage>>,
    /// The last events, newest first.
    pub events: VecDeque<EventView>,
    /// The reason, while there is no connection.
    pub disconnected: Option<String>,
    /// The result of the last ban or lift.
    pub answer: Option<String>,
    /// A request that needs `y` to be sent.
    pub to_confirm: Option<Request>,
    pub focus: Focus,
    pub client_rows: TableState,
    pub ban_rows: TableState,
    is_done: bool,
}

impl Model {
    /// Starts with the agent's history of the rate and its recent events, newest first.
    pub(super) fn new(history: &HistoryView, recent: EventList) -> Model {
        let points = history.rate.iter().zip(&history.mean).filter_map(|(rate, mean)| (*rate).zip(*mean));
        // The history has a point every `step_secs`, the plot one a second.
        let each_second = points.flat_map(|point| std::iter::repeat_n(point, history.step_secs as usize));
        let mut rates: VecDeque<(f64, f64)> = each_second.collect();
        rates.drain(..rates.len().saturating_sub(POINTS));
        Model {
            rates,
            snapshot: None,
            bans: None,
            events: recent.events.into(),
            disconnected: None,
            answer: None,
            to_confirm: None,
            focus: Focus::Bans,
            client_rows: TableState::default(),
            ban_rows: TableState::default(),
            is_done: false,
        }
    }

    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Applies an input; returns the request that follows from it.
    pub(super) fn take(&mut self, input: Input) -> Option<Request> {
        match input {
            Input::Key(key) => self.key(key),
            Input::Message(message) => self.message(message),
            Input::Disconnected(why) => {
                self.disconnected = Some(why);
                None
            }
            Input::Bans(page) => {
                self.bans = Some(page);
                let rows = self.bans.as_ref().map_or(0, |page| page.bans.len());
                keep_inside(&mut self.ban_rows, rows);
                None
            }
            Input::Answer(line) => {
                self.answer = Some(line);
                Some(Request::ListBans)
            }
            Input::Redraw => None,
        }
    }

    fn message(&mut self, message: Message) -> Option<Request> {
        let was_lost = self.disconnected.take().is_some();
        match message {
            Message::Snapshot(snapshot) => {
                self.rates.push_back((snapshot.status.global.rate, snapshot.status.baseline.mean));
                self.rates.drain(..self.rates.len().saturating_sub(POINTS));
                keep_inside(&mut self.client_rows, snapshot.clients.clients.len());
                self.snapshot = Some(snapshot);
                was_lost.then_some(Request::ListBans)
            }
            Message::Notice(event) => {
                let changes_bans = matches!(event.kind.as_str(), "banned" | "lifted" | "extended");
                self.events.push_front(*event);
                self.events.truncate(EVENTS);
                changes_bans.then_some(Request::ListBans)
            }
            Message::Gap(_) => Some(Request::ListBans),
        }
    }

    fn key(&mut self, key: KeyEvent) -> Option<Request> {
        self.answer = None;
        let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if is_interrupt {
            self.is_done = true;
            return None;
        }
        if let Some(request) = self.to_confirm.take() {
            return matches!(key.code, KeyCode::Char('y' | 'Y')).then_some(request);
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => self.is_done = true,
            KeyCode::Tab => {
                self.focus = if self.focus == Focus::Bans { Focus::Clients } else { Focus::Bans };
            }
            KeyCode::Down | KeyCode::Char('j') => self.selection().select_next(),
            KeyCode::Up | KeyCode::Char('k') => self.selection().select_previous(),
            KeyCode::PageDown => self.selection().scroll_down_by(10),
            KeyCode::PageUp => self.selection().scroll_up_by(10),
            KeyCode::Char('l') => self.confirm_first(Request::Lift),
            KeyCode::Char('b') => self.confirm_first(Request::Ban),
            _ => {}
        }
        let rows = self.rows();
        keep_inside(self.selection(), rows);
        None
    }

    fn confirm_first(&mut self, request: impl Fn(Client) -> Request) {
        self.to_confirm = self.selected().map(request);
        if self.to_confirm.is_none() {
            self.answer =
                Some("select a client with the arrow keys first; Tab switches to the other table".to_owned());
        }
    }

    fn selection(&mut self) -> &mut TableState {
        match self.focus {
            Focus::Clients => &mut self.client_rows,
            Focus::Bans => &mut self.ban_rows,
        }
    }

    fn rows(&self) -> usize {
        match self.focus {
            Focus::Clients => self.snapshot.as_ref().map_or(0, |snapshot| snapshot.clients.clients.len()),
            Focus::Bans => self.bans.as_ref().map_or(0, |page| page.bans.len()),
        }
    }

    /// The client that the keys act on.
    fn selected(&self) -> Option<Client> {
        match self.focus {
            Focus::Clients => {
                let at = self.client_rows.selected()?;
                self.snapshot.as_ref()?.clients.clients.get(at).map(|client| client.client)
            }
            Focus::Bans => self.bans.as_ref()?.bans.get(self.ban_rows.selected()?).map(|ban| ban.client),
        }
    }
}

fn keep_inside(state: &mut TableState, rows: usize) {
    if let Some(at) = state.selected() {
        state.select(rows.checked_sub(1).map(|last| at.min(last)));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::api::types::{Ban, Range};
    use shield_engine::verdict::Rule;

    pub(in crate::cli::top) fn history() -> HistoryView {
        let column = |value: f64| vec![None, Some(value), Some(value)];
        HistoryView {
            range: Range::HalfHour,
            step_secs: 2,
            at_ms: vec![0, 2_000, 4_000],
            rate: column(3.0),
            error_rate: column(0.0),
            banned_rate: column(0.0),
            mean: column(1.0),
            stddev: column(0.5),
            dropped_packets_per_sec: column(0.0),
            dropped_bytes_per_sec: column(0.0),
            active_bans: column(0.0),
            marks: Vec::new(),
        }
    }

    pub(in crate::cli::top) fn no_events() -> EventList {
        EventList { events: Vec::new(), next: None }
    }

    pub(in crate::cli::top) fn bans(clients: &[&str]) -> Input {
        let ban = |client: &&str| Ban {
            client: client.parse().unwrap(),
            serial: 1,
            since_ms: 0,
            ends_ms: Some(600_000),
            remaining_secs: Some(599),
            offence: 1,
            rule: Rule::Probing,
            reason: None,
            words: "many different paths that do not exist".into(),
            evidence: None,
            dropped: None,
            leaking: None,
            owner: None,
            enforced_by: None,
        };
        let bans: Vec<Ban> = clients.iter().map(ban).collect();
        Input::Bans(Box::new(BanPage {
            total: bans.len() as u64,
            bans,
            next: None,
            slowed: Vec::new(),
            dry_run: false,
            now_ms: 0,
        }))
    }

    fn press(model: &mut Model, code: KeyCode) -> Option<Request> {
        model.take(Input::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    #[test]
    fn the_plot_begins_with_the_history() {
        assert_eq!(Model::new(&history(), no_events()).rates, [(3.0, 1.0); 4]);
    }

    #[test]
    fn lifting_needs_confirmation() {
        let mut model = Model::new(&history(), no_events());
        assert_eq!(press(&mut model, KeyCode::Char('l')), None);
        assert!(model.answer.is_some(), "nothing is selected");
        model.take(bans(&["192.0.2.7", "192.0.2.8"]));
        press(&mut model, KeyCode::Down);
        press(&mut model, KeyCode::Down);
        assert_eq!(press(&mut model, KeyCode::Char('l')), None);
        assert_eq!(model.to_confirm, Some(Request::Lift("192.0.2.8".parse().unwrap())));
        assert_eq!(press(&mut model, KeyCode::Char('n')), None);
        assert_eq!(model.to_confirm, None);
        press(&mut model, KeyCode::Char('l'));
        assert_eq!(press(&mut model, KeyCode::Char('y')), Some(Request::Lift("192.0.2.8".parse().unwrap())));
    }

    #[test]
    fn the_selection_stays_inside_when_bans_end() {
        let mut model = Model::new(&history(), no_events());
        model.take(bans(&["192.0.2.7", "192.0.2.8"]));
        press(&mut model, KeyCode::PageDown);
        assert_eq!(model.ban_rows.selected(), Some(1));
        model.take(bans(&["192.0.2.7"]));
        assert_eq!(model.ban_rows.selected(), Some(0));
        model.take(bans(&[]));
        assert_eq!(press(&mut model, KeyCode::Char('l')), None);
        assert_eq!(model.to_confirm, None);
    }

    #[test]
    fn a_lost_connection_is_shown_and_bans_are_listed_again_when_it_is_back() {
        let mut model = Model::new(&history(), no_events());
        model.take(Input::Disconnected("nobody there".into()));
        assert!(model.disconnected.is_some());
        let gap = Message::Gap(crate::api::types::Gap { missed: 0 });
        assert_eq!(model.take(Input::Message(gap)), Some(Request::ListBans));
        assert!(model.disconnected.is_none());
    }

    #[test]
    fn q_escape_and_interrupt_end_it() {
        for (code, modifiers) in [
            (KeyCode::Char('q'), KeyModifiers::NONE),
            (KeyCode::Esc, KeyModifiers::NONE),
            (KeyCode::Char('c'), KeyModifiers::CONTROL),
        ] {
            let mut model = Model::new(&history(), no_events());
            model.take(Input::Key(KeyEvent::new(code, modifiers)));
            assert!(model.is_done());
        }
    }
}
