//! Whether a log can be used: what is read of it is judged, and what is wrong with it is found.
//!
//! A reader that refuses every line looks the same as a quiet site, so that nothing else would show it. [`LogSight`] is fed with
//! the batches of one log, [`SourceSight`] with those of all logs of a source. Both take the time as an argument, need a
//! bounded memory, and answer with a [`Finding`] as long as there is something wrong.
//!
//! Whoever sends requests writes a part of the log. So a finding about fields needs most of the *clients*, a finding about refused
//! lines goes only when nearly all lines are read again for a while, and each further change of mind takes longer
//! ([`hold::Hold`]): one client's lines make no healthy log look blind, and no blind one healthy.

mod clients;
mod fields;
mod hold;
mod late;
mod refused;
mod silence;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use shield_engine::request::{Batch, RefusedLine, Request};
use shield_engine::time::Now;

pub use clients::{OneClient, Origin, Surroundings};
pub use fields::FieldFault;

use clients::Clients;
use fields::Fields;
use late::Late;
use refused::Refusals;
use silence::Silence;

/// What is wrong with a log or a source.
#[derive(Debug, Clone, PartialEq)]
pub enum Finding {
    /// Most lines are refused.
    Refused(RefusedLines),
    /// Some lines are refused, and have been for a while.
    SomeRefused(RefusedLines),
    /// A field does not hold what it should.
    Field(FieldFault),
    /// Nothing was read for far longer than is usual.
    Silent {
        /// Seconds since the last line.
        for_secs: u64,
        /// The longest time without a line that was usual, in seconds.
        usual_secs: u64,
    },
    /// All lines have the same client.
    OneClient(OneClient),
    /// Lines are in the log only long after their own time.
    Late {
        /// The longest delay seen, in seconds.
        by_secs: u64,
    },
}

/// The kind of a [`Finding`], the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// [`Finding::Refused`].
    Refused,
    /// [`Finding::Field`].
    Field,
    /// [`Finding::SomeRefused`].
    SomeRefused,
    /// [`Finding::Silent`].
    Silent,
    /// [`Finding::OneClient`].
    OneClient,
    /// [`Finding::Late`].
    Late,
}

impl Kind {
    /// In the order of gravity.
    pub const ALL: [Kind; 6] =
        [Kind::Refused, Kind::Field, Kind::SomeRefused, Kind::Silent, Kind::OneClient, Kind::Late];

    /// The name in metrics and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Refused => "refused",
            Kind::Field => "field",
            Kind::SomeRefused => "some_refused",
            Kind::Silent => "silent",
            Kind::OneClient => "one_client",
            Kind::Late => "late",
        }
    }
}

impl Finding {
    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        match self {
            Finding::Refused(_) => Kind::Refused,
            Finding::SomeRefused(_) => Kind::SomeRefused,
            Finding::Field(_) => Kind::Field,
            Finding::Silent { .. } => Kind::Silent,
            Finding::OneClient(_) => Kind::OneClient,
            Finding::Late { .. } => Kind::Late,
        }
    }
}

/// How many of the last lines are refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedLines {
    /// The refused ones.
    pub refused: u64,
    /// All of them, empty lines not counted.
    pub of: u64,
    /// The first refused one; `None` when its text is not known.
    pub first: Option<RefusedLine>,
}

/// Lines looked at in one batch at most: findings are made of some hundred lines, and a busy log brings a thousand a batch.
const LOOKED_AT: usize = 32;

/// Returns lines from the whole length of the batch.
fn some_of(batch: &Batch) -> impl Iterator<Item = Request<'_>> {
    let step = batch.lines.len().div_ceil(LOOKED_AT).max(1);
    batch.lines.iter().step_by(step).map(|line| batch.request(line))
}

/// The sight of one log.
#[derive(Debug, Default)]
pub struct LogSight {
    refusals: Refusals,
    fields: Fields,
    late: Late,
}

impl LogSight {
    /// Takes a batch that was read at `now`.
    pub fn read(&mut self, batch: &Batch, now: Now) {
        self.refusals.read(batch, now.boot_ms);
        for request in some_of(batch) {
            self.fields.look_at(&request, batch.live, now.boot_ms);
            if batch.live {
                self.late.look_at(request.time, now.wall_secs());
            }
        }
    }

    /// Notes that everything in the log at `now` is read. To be called every few seconds.
    pub fn idle(&mut self, now: Now) {
        self.refusals.pass(now.boot_ms);
        self.fields.pass(now.boot_ms);
        self.late.idle(now);
    }

    /// Returns the gravest finding.
    pub fn finding(&self) -> Option<Finding> {
        let found = [self.refusals.finding(), self.fields.fault().map(Finding::Field), self.late.finding()];
        found.into_iter().flatten().min_by_key(Finding::kind)
    }
}

/// The sight of a source as a whole.
#[derive(Debug, Default)]
pub struct SourceSight {
    clients: Clients,
    silence: Silence,
}

impl SourceSight {
    /// Takes a batch that was read at `now`.
    pub fn read(&mut self, batch: &Batch, now: Now) {
        let any = !batch.lines.is_empty() || batch.rejected.iter().any(|count| *count > 0);
        if any {
            self.silence.read(now);
        }
        for request in some_of(batch) {
            self.clients.look_at(&request, now.boot_ms);
        }
    }

    /// Notes that everything in the source's logs at `now` is read. To be called every few seconds, and not while its logs
    /// cannot be read, which is no silence.
    pub fn idle(&mut self, now: Now) {
        self.silence.pass(now);
    }

    /// Returns the client that nearly all lines have, if it is worth a look at where this host stands
    /// ([`SourceSight::judge_clients`]).
    pub fn suspect(&self) -> Option<IpAddr> {
        self.clients.suspect()
    }

    /// Judges the one client by where this host stands. Not needed more often than every few minutes.
    pub fn judge_clients(&mut self, surroundings: &Surroundings, now: Now) {
        self.clients.judge(surroundings, now.boot_ms);
    }

    /// Returns the gravest finding.
    pub fn finding(&self) -> Option<Finding> {
        self.silence.finding().or_else(|| self.clients.finding().map(Finding::OneClient))
    }
}

/// Judges the last lines of a log at once, without waiting for more. `None` is no proof that all is well: what shows only in time
/// is not looked for.
pub fn at_a_glance(batch: &Batch, surroundings: &Surroundings) -> Option<Finding> {
    let mut fields = Fields::default();
    let mut clients = Clients::default();
    for request in batch.requests() {
        fields.look_at(&request, false, 0);
        clients.look_at(&request, 0);
    }
    let span_secs = span_secs(batch);
    let one = clients.at_a_glance(surroundings, span_secs).map(Finding::OneClient);
    let found = [refused::at_a_glance(batch), fields.at_a_glance().map(Finding::Field), one];
    found.into_iter().flatten().min_by_key(Finding::kind)
}

/// The seconds between the first and the last line, by their own times.
fn span_secs(batch: &Batch) -> u64 {
    let first = batch.lines.iter().map(|line| line.time).min();
    let last = batch.lines.iter().map(|line| line.time).max();
    first.zip(last).map_or(0, |(first, last)| last.abs_diff(first))
}
