//! What `top` knows and what keys mean. Pure: inputs come in, wishes go out.

use std::collections::VecDeque;

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::widgets::TableState;

use crate::api::types::{BanPage, EventList, EventView, HistoryView, Snapshot};
use crate::cli::client::Message;
use shield_engine::client::Client;

/// Points of the rate plot: ten minutes at one a second.
const POINTS: usize = 600;

/// Events kept to show.
const EVENTS: usize = 50;

/// Something that happened to `top`.
#[derive(Debug)]
pub(super) enum Input {
    /// A key was pressed.
    Key(KeyEvent),
    /// The agent sent something.
    Message(Message),
    /// The agent is gone, in words.
    Lost(String),
    /// The bans in force.
    Bans(Box<BanPage>),
    /// What came of a wish.
    Told(String),
    /// The terminal changed.
    Redraw,
}

/// Something to ask the agent for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// The bans in force.
    ListBans,
    /// Ban this client.
    Ban(Client),
    /// Lift this ban.
    Lift(Client),
}

/// Which table the arrow keys move in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Focus {
    /// The busiest clients.
    Clients,
    /// The bans.
    Bans,
}

/// Everything that is shown.
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
    /// Why there is no connection, when there is none.
    pub lost: Option<String>,
    /// What came of the last wish.
    pub told: Option<String>,
    /// A wish that waits for `y`.
    pub asked: Option<Wish>,
    /// Where the arrow keys move.
    pub focus: Focus,
    /// The selected client.
    pub client_rows: TableState,
    /// The selected ban.
    pub ban_rows: TableState,
    is_done: bool,
}

impl Model {
    /// Begins with what the agent remembers: of the rate, and the last events, newest first.
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
            lost: None,
            told: None,
            asked: None,
            focus: Focus::Bans,
            client_rows: TableState::default(),
            ban_rows: TableState::default(),
            is_done: false,
        }
    }

    /// Whether the user wants to go.
    pub(super) fn is_done(&self) -> bool {
        self.is_done
    }

    /// Takes an input in; what it asks for comes out.
    pub(super) fn take(&mut self, input: Input) -> Option<Wish> {
        match input {
            Input::Key(key) => self.key(key),
            Input::Message(message) => self.message(message),
            Input::Lost(why) => {
                self.lost = Some(why);
                None
            }
            Input::Bans(page) => {
                self.bans = Some(page);
                let rows = self.bans.as_ref().map_or(0, |page| page.bans.len());
                keep_inside(&mut self.ban_rows, rows);
                None
            }
            Input::Told(words) => {
                self.told = Some(words);
                Some(Wish::ListBans)
            }
            Input::Redraw => None,
        }
    }

    fn message(&mut self, message: Message) -> Option<Wish> {
        let was_lost = self.lost.take().is_some();
        match message {
            Message::Snapshot(snapshot) => {
                self.rates.push_back((snapshot.status.global.rate, snapshot.status.baseline.mean));
                self.rates.drain(..self.rates.len().saturating_sub(POINTS));
                keep_inside(&mut self.client_rows, snapshot.clients.clients.len());
                self.snapshot = Some(snapshot);
                was_lost.then_some(Wish::ListBans)
            }
            Message::Notice(event) => {
                let changes_bans = matches!(event.kind.as_str(), "banned" | "lifted" | "extended");
                self.events.push_front(*event);
                self.events.truncate(EVENTS);
                changes_bans.then_some(Wish::ListBans)
            }
            Message::Gap(_) => Some(Wish::ListBans),
        }
    }

    fn key(&mut self, key: KeyEvent) -> Option<Wish> {
        self.told = None;
        let is_interrupt = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if is_interrupt {
            self.is_done = true;
            return None;
        }
        if let Some(wish) = self.asked.take() {
            return matches!(key.code, KeyCode::Char('y' | 'Y')).then_some(wish);
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
            KeyCode::Char('l') => self.ask(Wish::Lift),
            KeyCode::Char('b') => self.ask(Wish::Ban),
            _ => {}
        }
        let rows = self.rows();
        keep_inside(self.selection(), rows);
        None
    }

    fn ask(&mut self, wish: impl Fn(Client) -> Wish) {
        self.asked = self.selected().map(wish);
        if self.asked.is_none() {
            self.told =
                Some("choose a client with the arrow keys first; Tab goes to the other table".to_owned());
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
pub mod tests {
    use super::*;
    use crate::api::types::{Ban, Range};
    use shield_engine::verdict::Rule;

    pub fn history() -> HistoryView {
        let column = |value: f64| vec![None, Some(value), Some(value)];
        HistoryView {
            range: Range::HalfHour,
            step_secs: 2,
            at_ms: vec![0, 2_000, 4_000],
            rate: column(3.0),
            error_rate: column(0.0),
            mean: column(1.0),
            stddev: column(0.5),
            dropped_packets_per_sec: column(0.0),
            dropped_bytes_per_sec: column(0.0),
            active_bans: column(0.0),
            marks: Vec::new(),
        }
    }

    pub fn no_events() -> EventList {
        EventList { events: Vec::new(), next: None }
    }

    pub fn bans(clients: &[&str]) -> Input {
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
            enforced_by: None,
        };
        let bans: Vec<Ban> = clients.iter().map(ban).collect();
        Input::Bans(Box::new(BanPage { total: bans.len() as u64, bans, next: None, now_ms: 0 }))
    }

    fn press(model: &mut Model, code: KeyCode) -> Option<Wish> {
        model.take(Input::Key(KeyEvent::new(code, KeyModifiers::NONE)))
    }

    #[test]
    fn the_plot_begins_with_the_history() {
        assert_eq!(Model::new(&history(), no_events()).rates, [(3.0, 1.0); 4]);
    }

    #[test]
    fn lifting_asks_first() {
        let mut model = Model::new(&history(), no_events());
        assert_eq!(press(&mut model, KeyCode::Char('l')), None);
        assert!(model.told.is_some(), "nothing is chosen");
        model.take(bans(&["192.0.2.7", "192.0.2.8"]));
        press(&mut model, KeyCode::Down);
        press(&mut model, KeyCode::Down);
        assert_eq!(press(&mut model, KeyCode::Char('l')), None);
        assert_eq!(model.asked, Some(Wish::Lift("192.0.2.8".parse().unwrap())));
        assert_eq!(press(&mut model, KeyCode::Char('n')), None);
        assert_eq!(model.asked, None);
        press(&mut model, KeyCode::Char('l'));
        assert_eq!(press(&mut model, KeyCode::Char('y')), Some(Wish::Lift("192.0.2.8".parse().unwrap())));
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
        assert_eq!(model.asked, None);
    }

    #[test]
    fn a_lost_agent_is_said_and_bans_are_listed_anew_when_it_is_back() {
        let mut model = Model::new(&history(), no_events());
        model.take(Input::Lost("nobody there".into()));
        assert!(model.lost.is_some());
        let gap = Message::Gap(crate::api::types::Gap { missed: 0 });
        assert_eq!(model.take(Input::Message(gap)), Some(Wish::ListBans));
        assert!(model.lost.is_none());
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
