//! Logs that are read side by side while some of them have a backlog.

use super::safeguards::{PROBES, requests};
use super::*;
use crate::vocab::request::SourceId;

const HOUR: i64 = 3_600;

/// Pages that visitors of a quiet site were served at these seconds, one a second.
fn visits(source: u16, log: u32, seconds: std::ops::Range<i64>) -> Batch {
    let bytes = b"GET/style.css".to_vec();
    let line = |second: i64| Line {
        addr: std::net::IpAddr::from([198, 51, 100, (second % 7) as u8]),
        time: second,
        method_at: 0,
        method_len: 3,
        path_at: 3,
        path_len: 10,
        server_at: 0,
        server_len: 0,
        peer_at: 0,
        peer_len: 0,
        status: 200,
        size: 1,
        behind_proxy: false,
        salvaged: false,
    };
    Batch {
        bytes,
        lines: seconds.map(line).collect(),
        source: Some(SourceId(source)),
        log,
        ..Batch::default()
    }
}

fn has_ban(actions: &[Action]) -> bool {
    actions.iter().any(|action| matches!(action, Action::Enforce(Order::Ban { .. })))
}

/// History: every block of an old file that was read beside the live log emptied the windows, so that nobody was banned until it was read.
#[test]
fn an_old_file_hides_nobody_who_attacks_now() {
    let mut engine = engine();
    let mut is_banned = false;
    for second in 0..20 {
        let now = T0.plus_ms(second as u64 * 1_000);
        let probes = PROBES.iter().cycle().skip(second).take(2).copied().collect::<Vec<_>>();
        is_banned |= has_ban(&engine.handle(Event::Lines(&requests("203.0.113.5", &probes, now)), now));
        let begin = T0.wall_secs() - 10 * HOUR + second as i64 * 500;
        engine.handle(Event::Lines(&visits(0, 1, begin..begin + 500)), now.plus_ms(1));
        engine.handle(Event::Tick, now.plus_ms(2));
    }
    assert!(is_banned);
    let status = engine.detector().status();
    assert!((T0.wall_secs()..=T0.wall_secs() + 20).contains(&status.latest_secs), "{status:?}");
    assert_eq!(engine.totals().requests, 20 * 502, "they are counted all the same");
}

/// History: two logs whose backlogs are read in turns taught the site the time between them as silence, at every turn.
#[test]
fn the_time_between_two_logs_is_no_silence() {
    for (second_source, second_log) in [(1, 0), (0, 1)] {
        let mut engine = engine();
        let day = T0.wall_secs() - 24 * HOUR;
        for block in 0..30 {
            let early = day + block * 120;
            let late = early + 12 * HOUR;
            engine.handle(Event::Lines(&visits(0, 0, early..early + 120)), T0);
            engine.handle(Event::Lines(&visits(second_source, second_log, late..late + 120)), T0);
        }
        let now = day + 20 * HOUR;
        engine.handle(Event::Lines(&visits(0, 0, now..now + 10)), T0);
        let level = engine.detector().level();
        assert!((0.8..=1.2).contains(&level.mean), "{level:?}");
    }
}

/// The gap in one log is one in the site's traffic.
#[test]
fn a_pause_in_one_log_is_learned() {
    let mut engine = engine();
    let day = T0.wall_secs() - 24 * HOUR;
    engine.handle(Event::Lines(&visits(0, 0, day..day + HOUR)), T0);
    engine.handle(Event::Lines(&visits(0, 0, day + 12 * HOUR..day + 12 * HOUR + 60)), T0);
    let level = engine.detector().level();
    assert!(level.mean < 0.5, "{level:?}");
}

/// The first live line of another log comes while a backlog is read: that ends the backlog's time, and teaches nothing.
#[test]
fn a_live_line_after_a_backlog_of_another_log_teaches_no_silence() {
    let mut engine = engine();
    let begin = T0.wall_secs() - 12 * HOUR;
    engine.handle(Event::Lines(&visits(0, 0, begin..begin + 2 * HOUR)), T0);
    engine.handle(Event::Lines(&requests("203.0.113.5", &["/"], T0)), T0);
    assert_eq!(engine.detector().status().latest_secs, T0.wall_secs());
    let level = engine.detector().level();
    assert!((0.8..=1.2).contains(&level.mean), "{level:?}");
}
