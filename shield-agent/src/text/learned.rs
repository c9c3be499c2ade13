//! What `learn` took from past logs, in plain figures.

use std::fmt::Write as _;

use serde::Serialize;

use super::{counted, duration, utc};
use shield_engine::report::Lessons;
use shield_engine::time::EventSecs;

/// What past logs taught.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Learned {
    pub requests: u64,
    pub clients: u64,
    /// The first and the last second, in Unix time.
    pub span: Option<(EventSecs, EventSecs)>,
    /// Hours of the day whose usual traffic is known.
    pub hours_of_day: u32,
    /// What the agent still warms up after its start.
    pub warm_up_left_secs: u32,
    pub lessons: Lessons,
    /// Clients that rules would have banned.
    pub attackers: u64,
    /// Lines that are no requests.
    pub not_requests: u64,
    /// Lines dated ahead of this machine's clock.
    pub dated_ahead: u64,
    /// Files of which the end could not be read.
    pub damaged_files: u64,
    /// The database.
    pub stored_in: String,
}

/// Says what was learned, what was left out and why, and what to do next.
pub(crate) fn render(learned: &Learned) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "{name:<12}{value}");
    };
    let (from, to) = learned.span.unwrap_or_default();
    line(
        "learned",
        &format!(
            "from {} of {}, from {} to {}",
            counted(learned.requests, "request"),
            counted(learned.clients, "client"),
            utc(from.saturating_mul(1000)),
            utc(to.saturating_mul(1000))
        ),
    );
    line(
        "traffic",
        &format!("the usual rate of {} of the day", counted(learned.hours_of_day.into(), "hour")),
    );
    line(
        "habits",
        &format!(
            "{} in good standing, {} at which such clients are refused",
            counted(learned.lessons.clients_in_standing, "client"),
            counted(learned.lessons.refused_kinds, "kind") + " of paths"
        ),
    );
    let attackers = counted(learned.attackers, "client");
    line(
        "attackers",
        &format!("{attackers} that rules would have banned: of no standing, and nothing learned from"),
    );
    let skipped = [
        (learned.not_requests, "line", "no request"),
        (learned.dated_ahead, "line", "dated ahead of this machine's clock"),
        (learned.damaged_files, "file", "damaged, the rest of it"),
    ];
    for (count, noun, why) in skipped.into_iter().filter(|(count, ..)| *count > 0) {
        line("skipped", &format!("{} ({why})", counted(count, noun)));
    }
    if learned.warm_up_left_secs > 0 {
        let left = duration(learned.warm_up_left_secs.into());
        line(
            "too short",
            &format!("the agent still warms up for {left} of lines: name more logs, and say --replace"),
        );
    }
    line("stored in", &format!("{}: start the agent (systemctl start shield)", learned.stored_in));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_learned_and_what_was_left_out() {
        let learned = Learned {
            requests: 12_345,
            clients: 1,
            span: Some((1_767_600_000, 1_767_686_400)),
            hours_of_day: 24,
            lessons: Lessons { refused_kinds: 2, clients_in_standing: 7 },
            attackers: 3,
            not_requests: 1,
            stored_in: "/var/lib/shield/shield.db".to_owned(),
            ..Learned::default()
        };
        let text = render(&learned);
        for part in [
            "learned     from 12,345 requests of 1 client, from 2026-01-05",
            "traffic     the usual rate of 24 hours of the day\n",
            "habits      7 clients in good standing, 2 kinds of paths at which such clients are refused\n",
            "attackers   3 clients that rules would have banned: of no standing, and nothing learned from\n",
            "skipped     1 line (no request)\n",
            "stored in   /var/lib/shield/shield.db: start the agent (systemctl start shield)\n",
        ] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(!text.contains("too short") && !text.contains("damaged"), "{text}");
        let short = render(&Learned { warm_up_left_secs: 300, dated_ahead: 2, ..learned });
        assert!(short.contains("still warms up for 5 min"), "{short}");
        assert!(short.contains("skipped     2 lines (dated ahead"), "{short}");
    }
}
