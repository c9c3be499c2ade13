//! The labelled logs, changed: what is right about a client must not hang on the rest of its log, the hour, or a number in a
//! path. `cargo xtask bench detect --variants` and `tests/detect_logs.rs` replay them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::Result;
use shield_agent::test_support::replay::input::Input;
use shield_agent::test_support::replay::labels::{Decision, Labels};
use shield_agent::test_support::replay::{Outcome, Replay};
use shield_engine::allowlist::Allowlist;
use shield_engine::client::Client;
use shield_engine::policy::Policy;
use shield_engine::request::{Batch, Line};
use shield_engine::settings::Settings;

const IPV6_PREFIX: u8 = 64;

/// Nothing is learned for longer than this in [`Variant::Pieces`].
const PIECE_SECS: i64 = 1_800;

/// A change of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// As it is.
    Whole,
    /// Its lines before the middle of its time.
    FirstHalf,
    /// Those from the middle on.
    SecondHalf,
    /// Every second client alone, by its address.
    EvenClients,
    /// The others.
    OddClients,
    /// Five and a half hours later.
    OtherHours,
    /// Each digit of a path is another one.
    OtherNumbers,
    /// Each half hour on a site that has learned nothing.
    Pieces,
    /// Each refusal is another answer; a 200 has one size.
    Refused(u16),
    /// Each letter of a path is another one: no list of names helps.
    OtherLetters,
    /// Without every second request that was refused.
    HalfRefused,
}

impl Variant {
    /// Every change.
    pub const ALL: [Variant; 8] = [
        Variant::Whole,
        Variant::FirstHalf,
        Variant::SecondHalf,
        Variant::EvenClients,
        Variant::OddClients,
        Variant::OtherHours,
        Variant::OtherNumbers,
        Variant::Pieces,
    ];

    /// Those of a site that answers otherwise, or of names that nobody knows.
    pub const ANSWERS: [Variant; 9] = [
        Variant::Refused(301),
        Variant::Refused(302),
        Variant::Refused(200),
        Variant::Refused(403),
        Variant::Refused(401),
        Variant::Refused(502),
        Variant::Refused(429),
        Variant::OtherLetters,
        Variant::HalfRefused,
    ];

    fn keeps(self, line: &Line, (first, last): (i64, i64)) -> bool {
        let middle = first + (last - first) / 2;
        let is_even = Client::of_addr(line.addr, IPV6_PREFIX).key().is_multiple_of(2);
        match self {
            Variant::FirstHalf => line.time < middle,
            Variant::SecondHalf => line.time >= middle,
            Variant::EvenClients => is_even,
            Variant::OddClients => !is_even,
            _ => true,
        }
    }

    /// `refused` counts the lines that were refused.
    fn change(self, batch: &mut Batch, span: (i64, i64), refused: &mut u64) {
        batch.lines.retain(|line| {
            *refused += u64::from(is_refused(line));
            let is_left_out = self == Variant::HalfRefused && is_refused(line) && refused.is_multiple_of(2);
            self.keeps(line, span) && !is_left_out
        });
        match self {
            Variant::OtherHours => batch.lines.iter_mut().for_each(|line| line.time += 5 * 3_600 + 1_800),
            Variant::OtherNumbers => each_path(batch, |byte| {
                if byte.is_ascii_digit() {
                    *byte = b'0' + (*byte - b'0' + 3) % 10;
                }
            }),
            Variant::OtherLetters => each_path(batch, |byte| match *byte {
                b'a'..=b'z' => *byte = b'a' + (*byte - b'a' + 13) % 26,
                b'A'..=b'Z' => *byte = b'A' + (*byte - b'A' + 13) % 26,
                _ => {}
            }),
            Variant::Refused(status) => {
                for line in batch.lines.iter_mut().filter(|line| is_refused(line)) {
                    line.status = status;
                    line.size = if status == 200 { ONE_SIZE } else { line.size };
                }
            }
            _ => {}
        }
    }
}

/// The size of each answer that a catch-all gives.
const ONE_SIZE: u64 = 5_120;

/// Not a spare connection that ended (408), nor a client that went away (499): no server refuses what was not asked.
fn is_refused(line: &Line) -> bool {
    (400..500).contains(&line.status) && !matches!(line.status, 408 | 499)
}

fn each_path(batch: &mut Batch, change: impl Fn(&mut u8)) {
    for line in &batch.lines {
        let path = line.path_at as usize..line.path_at as usize + line.path_len as usize;
        batch.bytes[path].iter_mut().for_each(&change);
    }
}

/// The outcome of a changed log, and how many clients of each decision it has.
#[derive(Debug, Default)]
pub struct Answer {
    /// Clients to ban that were banned.
    pub caught: usize,
    /// Clients to ban.
    pub to_ban: usize,
    /// Clients banned that must stay.
    pub wrong: Vec<Client>,
    /// Requests of each client caught, from the first that counted as evidence to its ban. Of one that was banned for its
    /// rate alone, from its first request.
    pub requests_to_ban: Vec<u32>,
}

/// Replays a changed log.
///
/// # Errors
/// When the log or its labels cannot be read.
pub fn replay(log: &Path, labels: &Path, variant: Variant) -> Result<Answer> {
    let labels = Labels::read(labels, IPV6_PREFIX)?;
    let span = span_of(log)?;
    let mut run = Run::new();
    let (mut piece, mut refused) = (None, 0);
    each_batch(log, &mut |batch| {
        variant.change(batch, span, &mut refused);
        for line in std::mem::take(&mut batch.lines) {
            if variant == Variant::Pieces && piece != Some(line.time / PIECE_SECS) {
                piece = Some(line.time / PIECE_SECS);
                run.begin_anew();
            }
            run.line(line, batch);
        }
    })?;
    Ok(run.finish(&labels))
}

fn each_batch(log: &Path, visit: &mut dyn FnMut(&mut Batch)) -> Result<()> {
    let read = Arc::new(AtomicU64::new(0));
    Input::of(log).batches(&shield_logline::Settings::default(), &read, &mut |batch| {
        visit(batch);
        Ok(())
    })?;
    Ok(())
}

fn span_of(log: &Path) -> Result<(i64, i64)> {
    let mut span = (i64::MAX, i64::MIN);
    each_batch(log, &mut |batch| {
        for line in &batch.lines {
            span = (span.0.min(line.time), span.1.max(line.time));
        }
    })?;
    Ok(span)
}

fn new_replay() -> Replay {
    Replay::new(Settings::default(), Policy::default(), Allowlist::default())
}

#[derive(Default, Clone, Copy)]
struct Requests {
    all: u32,
    /// From the first that counted as evidence.
    since: u32,
    at_ban: Option<u32>,
}

struct Run {
    replay: Replay,
    requests: BTreeMap<Client, Requests>,
    /// Of the pieces that are over.
    outcome: Outcome,
}

impl Run {
    fn new() -> Run {
        Run { replay: new_replay(), requests: BTreeMap::new(), outcome: Outcome::default() }
    }

    fn begin_anew(&mut self) {
        let bans = std::mem::replace(&mut self.replay, new_replay()).finish().bans;
        self.outcome.bans.extend(bans);
    }

    fn line(&mut self, line: Line, batch: &mut Batch) {
        let client = Client::of_addr(line.addr, IPV6_PREFIX);
        let of = self.requests.entry(client).or_default();
        of.all += 1;
        let time = line.time;
        batch.lines.push(line);
        self.replay.feed(batch);
        if of.at_ban.is_some() {
            return;
        }
        let engine = self.replay.engine();
        // What a ban is made of leaves at least a quarter behind.
        let is_evidence = || !engine.detector().explain(client, time).account.is_empty();
        of.since += u32::from(of.since > 0 || is_evidence());
        if engine.ledger().ban_over(client).is_some() {
            of.at_ban = Some(if of.since > 0 { of.since } else { of.all });
        }
    }

    fn finish(mut self, labels: &Labels) -> Answer {
        self.begin_anew();
        let score = labels.score(&self.outcome);
        let is_there = |client: &&Client| self.requests.contains_key(client);
        let missed = score.missed.iter().filter(is_there).count();
        let caught = score.caught as usize;
        let is_attacker =
            |client: &Client| labels.get(*client).is_some_and(|label| label.decision == Decision::Ban);
        let attackers = self.requests.iter().filter(|(client, _)| is_attacker(client));
        let to_ban: Vec<u32> = attackers.filter_map(|(_, requests)| requests.at_ban).collect();
        Answer { caught, to_ban: caught + missed, wrong: score.wrongly_banned, requests_to_ban: to_ban }
    }
}
