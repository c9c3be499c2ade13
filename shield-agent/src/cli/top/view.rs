//! Draws `top`. Colours only repeat what the text says, so that it reads without them as well.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::Marker;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Axis, Block, Cell, Chart, Dataset, GraphType, Paragraph, Row, Table};

use super::model::{Focus, Model, Request};
use crate::api::types::{
    Ban, ClientActivity, ClientState, Part, PartStateName, PostureState, Severity, Status,
};
use crate::text::{self, bytes, count, counted};

/// Below this height the plot gives way to the tables.
const PLOT_FROM_HEIGHT: u16 = 24;

/// Below these widths a table leaves out the columns that matter least, so that no address is cut.
const CLIENTS_WIDTH: u16 = 54;
const BANS_WIDTH: u16 = 60;

/// Columns that fit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Columns {
    All,
    Few,
}

impl Columns {
    fn for_width(width: u16, all: u16) -> Columns {
        if width < all { Columns::Few } else { Columns::All }
    }
}

pub(super) fn draw(model: &mut Model, frame: &mut Frame<'_>) {
    let plot_height = if frame.area().height >= PLOT_FROM_HEIGHT { frame.area().height / 3 } else { 0 };
    let [head, plot, tables, events, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(plot_height),
        Constraint::Min(5),
        Constraint::Length(5),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let [clients, bans] =
        Layout::horizontal([Constraint::Percentage(45), Constraint::Percentage(55)]).areas(tables);
    frame.render_widget(Paragraph::new(head_lines(model)), head);
    if plot_height > 0 {
        draw_plot(model, frame, plot);
    }
    draw_clients(model, frame, clients);
    draw_bans(model, frame, bans);
    draw_events(model, frame, events);
    frame.render_widget(Paragraph::new(foot_line(model)), foot);
}

fn head_lines(model: &Model) -> Vec<Line<'static>> {
    let disconnected = model
        .disconnected
        .as_ref()
        .map(|why| Line::styled(format!("no connection, retrying: {}", text::printable(why)), bad()));
    let Some(snapshot) = &model.snapshot else {
        return vec![disconnected.unwrap_or_else(|| Line::raw("waiting for the agent…"))];
    };
    let status = &snapshot.status;
    vec![disconnected.unwrap_or_else(|| headline(status)), traffic_line(status), parts_line(status)]
}

fn headline(status: &Status) -> Line<'static> {
    let posture = &status.posture;
    let style = match posture.state {
        PostureState::Quiet => good(),
        PostureState::Learning | PostureState::AttackHandled | PostureState::Unusual => warn(),
        PostureState::Degraded | PostureState::AttackUnhandled | PostureState::Blind => bad(),
    };
    let mode = if status.dry_run { "  dry run" } else { "" };
    let uptime = text::duration(status.agent.uptime_secs);
    Line::from(vec![
        Span::styled(posture.title.clone(), style.add_modifier(Modifier::BOLD)),
        Span::raw(format!(
            ": {}{mode}  shield {}, up {uptime}, CPU {:.1} %, memory {}",
            posture.text,
            status.version,
            status.agent.cpu_percent,
            bytes(status.agent.memory_bytes)
        )),
    ])
}

fn traffic_line(status: &Status) -> Line<'static> {
    let text = format!(
        "{:.2} req/s (baseline {:.2} ± {:.2})  {:.2} errors/s  {}  {:.1} packets/s dropped",
        status.global.rate,
        status.baseline.mean,
        status.baseline.stddev,
        status.global.error_rate,
        counted(status.bans.active, "ban"),
        status.dropped.packets_per_sec
    );
    match &status.global.anomaly {
        Some(anomaly) => Line::from(vec![
            Span::raw(text),
            Span::styled(format!("  anomaly: {}", anomaly.condition), bad()),
        ]),
        None => Line::raw(text),
    }
}

/// Parts that are not active come first, because the line may be cut; `status` lists those that are off.
fn parts_line(status: &Status) -> Line<'static> {
    let mut parts: Vec<&Part> = status.parts.iter().filter(|part| part.state != PartStateName::Off).collect();
    parts.sort_by_key(|part| part.state == PartStateName::Active);
    let span = |part: &&Part| {
        let style = match part.state {
            PartStateName::Active => good(),
            PartStateName::Waiting => warn(),
            PartStateName::Degraded => bad(),
            PartStateName::Off => Style::new(),
        };
        Span::styled(format!("{} {}  ", text::part_name(&part.part), part.state.name()), style)
    };
    Line::from(parts.iter().map(span).collect::<Vec<Span<'_>>>())
}

fn draw_plot(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let series = |pick: fn(&(f64, f64)) -> f64| -> Vec<(f64, f64)> {
        let newest = model.rates.len() as f64 - 1.0;
        model.rates.iter().enumerate().map(|(at, point)| (at as f64 - newest, pick(point))).collect()
    };
    let (rate, mean) = (series(|point| point.0), series(|point| point.1));
    let highest = rate.iter().chain(&mean).map(|point| point.1).fold(1.0, f64::max);
    let oldest = rate.first().map_or(-60.0, |point| point.0.min(-60.0));
    let datasets = vec![line("baseline", &mean, Color::DarkGray), line("requests/s", &rate, Color::Cyan)];
    let ago = Span::raw(format!("{} ago", text::duration(-oldest as u64)));
    let chart = Chart::new(datasets)
        .block(Block::bordered().title("requests per second"))
        .x_axis(Axis::default().bounds([oldest, 0.0]).labels([ago, Span::raw("now")]))
        .y_axis(
            Axis::default().bounds([0.0, highest * 1.1]).labels(["0".to_owned(), format!("{highest:.1}")]),
        );
    frame.render_widget(chart, area);
}

fn line<'a>(name: &'a str, points: &'a [(f64, f64)], colour: Color) -> Dataset<'a> {
    Dataset::default()
        .name(name)
        .marker(Marker::Braille)
        .graph_type(GraphType::Line)
        .style(Style::new().fg(colour))
        .data(points)
}

fn draw_clients(model: &mut Model, frame: &mut Frame<'_>, area: Rect) {
    let clients =
        model.snapshot.as_ref().map(|snapshot| snapshot.clients.clients.as_slice()).unwrap_or_default();
    let columns = Columns::for_width(area.width, CLIENTS_WIDTH);
    let rows: Vec<Row<'_>> = clients.iter().map(|client| client_row(client, columns)).collect();
    let mut widths = vec![Constraint::Min(16), Constraint::Length(7), Constraint::Length(9)];
    let mut names = vec!["client", "  req/s", "state"];
    if columns == Columns::All {
        widths.splice(2..2, [Constraint::Length(6), Constraint::Length(7)]);
        names.splice(2..2, ["errors", "z-score"]);
    }
    let table = Table::new(rows, widths)
        .header(heading(names))
        .block(titled("busiest clients, 60 s".to_owned(), border(model, Focus::Clients)))
        .row_highlight_style(selected(model, Focus::Clients));
    frame.render_stateful_widget(table, area, &mut model.client_rows);
}

fn client_row(client: &ClientActivity, columns: Columns) -> Row<'static> {
    let (state, style) = match client.state {
        ClientState::Normal => ("normal", Style::new()),
        ClientState::Anomalous => ("anomalous", warn()),
        ClientState::Banned => ("banned", bad()),
        ClientState::Allowed => ("allowed", good()),
    };
    let mut cells = vec![Cell::from(client.client.to_string()), Cell::from(format!("{:>7.2}", client.rate))];
    if columns == Columns::All {
        cells.push(Cell::from(format!("{:>6}", client.errors)));
        cells.push(Cell::from(format!("{:>7.1}", client.z_score)));
    }
    cells.push(Cell::from(state).style(style));
    Row::new(cells)
}

fn draw_bans(model: &mut Model, frame: &mut Frame<'_>, area: Rect) {
    let (total, bans) =
        model.bans.as_ref().map_or((0, [].as_slice()), |page| (page.total, page.bans.as_slice()));
    let now_ms = model.snapshot.as_ref().map(|snapshot| snapshot.status.now_ms);
    let columns = Columns::for_width(area.width, BANS_WIDTH);
    let rows: Vec<Row<'_>> = bans.iter().map(|ban| ban_row(ban, now_ms, columns)).collect();
    let mut widths = vec![Constraint::Min(16), Constraint::Length(11), Constraint::Length(13)];
    let mut names = vec!["banned", "left", "rule"];
    if columns == Columns::All {
        widths.splice(2..2, [Constraint::Length(3), Constraint::Length(8)]);
        names.splice(2..2, ["no.", " dropped"]);
    }
    let table = Table::new(rows, widths)
        .header(heading(names))
        .block(titled(format!("bans: {}", count(total)), border(model, Focus::Bans)))
        .row_highlight_style(selected(model, Focus::Bans));
    frame.render_stateful_widget(table, area, &mut model.ban_rows);
}

/// The time left follows the agent's clock, because the list may be seconds old.
fn ban_row(ban: &Ban, now_ms: Option<i64>, columns: Columns) -> Row<'static> {
    let left_secs = match (ban.ends_ms, now_ms) {
        (Some(ends), Some(now)) => Some(u64::try_from((ends - now) / 1000).unwrap_or(0)),
        _ => ban.remaining_secs,
    };
    let mut cells = vec![
        Cell::from(ban.client.to_string()),
        Cell::from(left_secs.map_or("permanent".to_owned(), text::duration)),
    ];
    if columns == Columns::All {
        let dropped = ban.dropped.map_or("-".to_owned(), |dropped| count(dropped.packets));
        cells.extend([Cell::from(format!("{:>3}", ban.offence)), Cell::from(format!("{dropped:>8}"))]);
    }
    cells.push(Cell::from(ban.rule.name()));
    Row::new(cells)
}

fn draw_events(model: &Model, frame: &mut Frame<'_>, area: Rect) {
    let line = |event: &crate::api::types::EventView| {
        let style = match event.severity {
            Severity::Info => Style::new(),
            Severity::Warning => warn(),
            Severity::Critical => bad(),
        };
        Line::styled(format!("{}  {}", text::utc(event.at_ms), event.text), style)
    };
    let lines: Vec<Line<'_>> = model.events.iter().map(line).collect();
    frame.render_widget(Paragraph::new(lines).block(Block::bordered().title("events")), area);
}

fn foot_line(model: &Model) -> Line<'static> {
    match (&model.to_confirm, &model.answer) {
        (Some(Request::Lift(client)), _) => Line::styled(format!("lift the ban of {client}? y/n"), warn()),
        (Some(Request::Ban(client)), _) => Line::styled(format!("ban {client}? y/n"), warn()),
        (Some(Request::ListBans) | None, Some(answer)) => Line::raw(text::printable(answer)),
        (Some(Request::ListBans) | None, None) => {
            Line::raw("q quit   Tab other table   ↑↓ select   l lift   b ban")
        }
    }
}

fn heading(names: Vec<&'static str>) -> Row<'static> {
    Row::new(names).style(Style::new().add_modifier(Modifier::BOLD))
}

fn titled(title: String, border: Style) -> Block<'static> {
    Block::bordered().title(title).border_style(border)
}

fn border(model: &Model, table: Focus) -> Style {
    if model.focus == table { Style::new().fg(Color::Cyan) } else { Style::new() }
}

fn selected(model: &Model, table: Focus) -> Style {
    if model.focus == table { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() }
}

fn good() -> Style {
    Style::new().fg(Color::Green)
}

fn warn() -> Style {
    Style::new().fg(Color::Yellow)
}

fn bad() -> Style {
    Style::new().fg(Color::Red)
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::super::model::Input;
    use super::super::model::tests::{bans, history, no_events};
    use super::*;

    fn screen(model: &mut Model, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| draw(model, frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn the_screen_shows_bans_and_keys_at_any_size() {
        let mut model = Model::new(&history(), no_events());
        model.take(bans(&["192.0.2.7", "2001:db8:1:2::/64"]));
        for (width, height) in [(120, 40), (80, 24), (60, 15)] {
            let screen = screen(&mut model, width, height);
            for expected in ["192.0.2.7", "2001:db8:1:2::", "q quit", "bans: 2"] {
                assert!(screen.contains(expected), "{width}x{height} lacks {expected}:\n{screen}");
            }
        }
        for (width, height) in [(120, 40), (80, 24)] {
            let screen = screen(&mut model, width, height);
            assert!(screen.contains("req/s") && screen.contains("rule"), "{width}x{height}:\n{screen}");
        }
        for (width, height) in [(1, 1), (10, 3)] {
            screen(&mut model, width, height);
        }
    }

    #[test]
    fn a_lost_agent_and_a_question_are_seen() {
        let mut model = Model::new(&history(), no_events());
        model.take(Input::Disconnected("nobody there".into()));
        model.to_confirm = Some(Request::Lift("192.0.2.7".parse().unwrap()));
        let screen = screen(&mut model, 100, 30);
        assert!(screen.contains("no connection, retrying: nobody there"), "{screen}");
        assert!(screen.contains("lift the ban of 192.0.2.7? y/n"), "{screen}");
    }
}
