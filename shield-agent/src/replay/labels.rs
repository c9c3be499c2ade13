//! Labelled clients, and a replay's score against them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::{Outcome, ReplayedBan};
use shield_engine::client::Client;
use shield_engine::time::EventSecs;

/// The right decision about a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Ban,
    /// Must not be banned.
    Stay,
    /// Either is right; not scored.
    Either,
}

/// One labelled client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    pub decision: Decision,
    /// The first second of the evidence against it, when labelled.
    pub first_secs: Option<EventSecs>,
    /// The labels' description.
    pub what: String,
}

/// Labels by client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels {
    by_client: BTreeMap<Client, Label>,
}

/// A replay's bans compared with the labels.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Score {
    /// Share of the clients to ban that were banned, 0..=1 (1 when there are none).
    pub recall: f64,
    /// Share of the clients to stay that were banned, 0..=1.
    pub wrong_bans_share: f64,
    /// Clients to ban that were banned.
    pub caught: u64,
    /// Clients to ban.
    pub to_ban: u64,
    /// Clients to stay that were banned.
    pub wrong: u64,
    /// Clients to stay.
    pub must_stay: u64,
    /// Median seconds from the first evidence against a client to its ban; `None` when nobody was caught.
    pub median_secs_to_ban: Option<f64>,
    /// Clients to ban that were not.
    #[serde(skip)]
    pub missed: Vec<Client>,
    /// Clients to stay that were banned.
    #[serde(skip)]
    pub wrongly_banned: Vec<Client>,
    /// Seconds to each right ban, sorted.
    #[serde(skip)]
    pub secs_to_ban: Vec<f64>,
}

impl Score {
    /// The score of both together.
    #[cfg(any(test, feature = "test-support"))]
    pub fn plus(mut self, other: Score) -> Score {
        self.missed.extend(other.missed);
        self.wrongly_banned.extend(other.wrongly_banned);
        self.secs_to_ban.extend(other.secs_to_ban);
        self.caught += other.caught;
        self.to_ban += other.to_ban;
        self.wrong += other.wrong;
        self.must_stay += other.must_stay;
        self.finished()
    }

    fn finished(mut self) -> Score {
        let share = |part: u64, of: u64, none: f64| if of == 0 { none } else { part as f64 / of as f64 };
        self.recall = share(self.caught, self.to_ban, 1.0);
        self.wrong_bans_share = share(self.wrong, self.must_stay, 0.0);
        self.secs_to_ban.sort_by(f64::total_cmp);
        self.median_secs_to_ban = self.secs_to_ban.get(self.secs_to_ban.len() / 2).copied();
        self
    }
}

impl Labels {
    /// Reads a CSV file with the columns `ip` and `decision` (`ban`, `no_ban`, anything else is not scored), and
    /// optionally `first` (RFC 3339), `label` and `why`.
    ///
    /// # Errors
    /// When it cannot be read, a column is missing, or a client cannot be read; with the line.
    pub fn read(path: &Path, ipv6_prefix: u8) -> Result<Labels> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
        Labels::parse(&text, ipv6_prefix)
            .with_context(|| format!("could not use the labels in {}", path.display()))
    }

    /// The same from text.
    pub fn parse(text: &str, ipv6_prefix: u8) -> Result<Labels> {
        let mut lines = text.lines().enumerate();
        let header: Vec<String> = lines.next().map(|(_, line)| split_csv(line)).unwrap_or_default();
        let column = |name: &str| header.iter().position(|h| h == name);
        let (Some(ip), Some(decision)) = (column("ip"), column("decision")) else {
            bail!(
                "the first line must name the columns `ip` and `decision`, but names {}",
                header.join(", ")
            );
        };
        let (first, label, why) = (column("first"), column("label"), column("why"));
        let mut labels = Labels::default();
        for (number, line) in lines.filter(|(_, line)| !line.trim().is_empty()) {
            let fields = split_csv(line);
            let field = |at: Option<usize>| at.and_then(|at| fields.get(at)).map_or("", String::as_str);
            let client: Client =
                field(Some(ip)).parse().map_err(|e| anyhow::anyhow!("line {}: {e}", number + 1))?;
            let label = Label {
                decision: Decision::of(field(Some(decision))),
                first_secs: field(first).parse::<jiff::Timestamp>().ok().map(|time| time.as_second()),
                what: format!("{} {}", field(label), field(why)).trim().to_owned(),
            };
            labels.by_client.insert(client.widened(ipv6_prefix), label);
        }
        Ok(labels)
    }

    pub fn get(&self, client: Client) -> Option<&Label> {
        self.by_client.get(&client)
    }

    /// Scores an outcome. Bans that were not made do not count.
    pub fn score(&self, outcome: &Outcome) -> Score {
        let mut score = Score::default();
        let mut banned = BTreeSet::new();
        for ban in outcome.bans.iter().filter(|ban| ban.not_made.is_none()) {
            if banned.insert(ban.client) {
                self.score_ban(ban, &mut score);
            }
        }
        for (client, label) in &self.by_client {
            match label.decision {
                Decision::Ban => {
                    score.to_ban += 1;
                    if !banned.contains(client) {
                        score.missed.push(*client);
                    }
                }
                Decision::Stay => score.must_stay += 1,
                Decision::Either => {}
            }
        }
        score.finished()
    }

    fn score_ban(&self, ban: &ReplayedBan, score: &mut Score) {
        let Some(label) = self.by_client.get(&ban.client) else { return };
        match label.decision {
            Decision::Ban => {
                score.caught += 1;
                score.secs_to_ban.extend(label.first_secs.map(|first| (ban.at_secs - first) as f64));
            }
            Decision::Stay => {
                score.wrong += 1;
                score.wrongly_banned.push(ban.client);
            }
            Decision::Either => {}
        }
    }
}

impl Decision {
    fn of(text: &str) -> Decision {
        match text {
            "ban" => Decision::Ban,
            "no_ban" => Decision::Stay,
            _ => Decision::Either,
        }
    }
}

/// Splits a line at commas; a field in double quotes may hold some, and `""` for a quote.
fn split_csv(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut quoted = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                fields.last_mut().expect("there is always one").push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => fields.push(String::new()),
            _ => fields.last_mut().expect("there is always one").push(c),
        }
    }
    fields
}
