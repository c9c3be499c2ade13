//! The target `times`: whatever seconds lines have, the clock of a backlog stays among them, a single one moves it for no other,
//! and the detector neither overflows nor loops over the time between.

use std::net::Ipv4Addr;

use shield_engine::policy::Policy;
use shield_engine::request::{Line, Request};
use shield_engine::test_support::detector::{Detector, Standing};
use shield_engine::timeline::Timeline;

use crate::cursor::Cursor;

/// Lines of an input at most.
const MAX_LINES: usize = 64;

/// 24 November 2026.
const PRESENT: i64 = 1_795_530_901;

/// `times`.
pub fn check(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let is_whole = cursor.byte().is_multiple_of(2);
    let mut lines = Vec::new();
    let mut second = PRESENT;
    while !cursor.is_empty() && lines.len() < MAX_LINES {
        let step = i64::from(cursor.byte() % 64);
        let odd = match cursor.byte() {
            0 => Some(i64::MIN),
            1 => Some(i64::MAX),
            2 => Some(i64::from(u32::MAX) - step),
            3 => Some(i64::from(cursor.word())),
            4 => Some(127_990_000_000 + step),
            5 => Some(step),
            6 => {
                second += i64::from(cursor.short()) * 3600;
                None
            }
            7 => {
                second -= i64::from(cursor.short()) * 60;
                None
            }
            _ => {
                second += step;
                None
            }
        };
        lines.push(line(odd.unwrap_or(second)));
    }
    let mut detector = Detector::new(Policy::default(), 64, 1);
    let mut timeline = Timeline::default();
    for at in 0..lines.len() {
        let placed = timeline.place(&lines[at..], is_whole).second;
        assert!(lines.iter().any(|line| line.time == placed), "{placed} is no line's second");
        // Raw too, as a live line's would be with a wrong wall clock.
        for second in [placed, lines[at].time] {
            let request = request(second);
            let prepared = detector.prepare(&request);
            detector.observe(&request, second, &prepared, Standing::Normal);
            detector.explain(detector.client_of(&request), second);
        }
    }
    assert!(detector.status().latest_secs <= i64::from(u32::MAX));
    alone_moves_nothing(&lines);
}

/// Puts each second alone into the middle of an ordinary log: all other lines keep theirs.
fn alone_moves_nothing(lines: &[Line]) {
    for odd in lines {
        let mut ordinary: Vec<Line> = (0..20).map(|n| line(PRESENT + n)).collect();
        ordinary[9] = *odd;
        let mut timeline = Timeline::default();
        for at in 0..ordinary.len() {
            let placed = timeline.place(&ordinary[at..], false);
            assert!(!placed.is_back, "{} sets the clock back", odd.time);
            assert!(at == 9 || placed.second == ordinary[at].time, "{} moves line {at}", odd.time);
        }
    }
}

fn line(time: i64) -> Line {
    Line {
        addr: Ipv4Addr::LOCALHOST.into(),
        time,
        method_at: 0,
        method_len: 0,
        path_at: 0,
        path_len: 0,
        server_at: 0,
        server_len: 0,
        peer_at: 0,
        peer_len: 0,
        status: 404,
        size: 0,
        behind_proxy: false,
        salvaged: false,
    }
}

fn request(time: i64) -> Request<'static> {
    Request {
        addr: Ipv4Addr::LOCALHOST.into(),
        time,
        method: b"GET",
        path: b"/",
        status: 404,
        size: 0,
        behind_proxy: false,
    }
}
