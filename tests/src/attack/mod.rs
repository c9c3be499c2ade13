//! The attacks that were tried on Shield, to be tried again: `cargo xtask attack`. Each is one entry of [`ATTACKS`] with the
//! words of its row in `docs/attacks.md`.
//!
//! Everything happens in network namespaces and temporary folders of its own. `target` is the agent that is attacked, the
//! other files are attacks by who makes them.

mod bad_luck;
mod clients;
mod framing;
mod local;
mod safeguards;
mod supplied;
mod target;
mod web;

use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;

/// One attack.
#[derive(Debug, Clone, Copy)]
pub struct Attack {
    /// For the command line.
    pub name: &'static str,
    /// Who does what.
    pub does: &'static str,
    /// What would be a success of the attacker.
    pub failure: &'static str,
    /// Makes the attack. What was measured if Shield held, an error if it did not.
    run: fn() -> Result<String>,
}

/// All attacks, in the order in which they are made. A new one needs an entry here and nothing else.
pub const ATTACKS: &[Attack] = &[
    web::FLOOD,
    web::OTHER_SITES,
    web::HOSTS,
    web::STREAMS,
    web::SLOW_LORIS,
    web::WEBHOOK_ENDS,
    clients::TIMES,
    framing::LINES,
    clients::MUTATED_LINES,
    clients::NETWORKS,
    framing::FORWARDED,
    framing::FOREIGN_PICTURES,
    safeguards::EXEMPTION,
    safeguards::BLAST_RADIUS,
    local::FORGER,
    local::WIDE_IMPORT,
    local::LONG_IMPORT,
    local::FAULT_HOOK,
    supplied::GZ_BOMB,
    supplied::AUDIT_CUT,
    supplied::DAMAGED_DATABASE,
    bad_luck::STOPPED,
    bad_luck::KILLED,
    bad_luck::DISK_FULL,
    bad_luck::TWO_AGENTS,
];

/// What came of an attack.
#[derive(Debug, Serialize)]
pub struct Tried {
    /// The attack's name.
    pub name: &'static str,
    /// What was done.
    pub does: &'static str,
    /// What would have been a failure.
    pub failure: &'static str,
    /// Shield held.
    pub held: bool,
    /// What was measured, or why it did not hold.
    pub note: String,
    /// How long it took.
    pub secs: f64,
}

impl Attack {
    /// Makes the attack.
    pub fn attempt(&self) -> Tried {
        let began = Instant::now();
        // An attack that panics has not shown that anything holds.
        let result = std::panic::catch_unwind(self.run)
            .unwrap_or_else(|_| Err(anyhow::anyhow!("the attack itself panicked")));
        let (held, note) = match result {
            Ok(note) => (true, note),
            Err(error) => (false, format!("{error:#}")),
        };
        let Attack { name, does, failure, .. } = *self;
        Tried { name, does, failure, held, note, secs: began.elapsed().as_secs_f64() }
    }
}

/// The rows as a table in Markdown, as in `docs/attacks.md`.
pub fn table(tried: &[Tried]) -> String {
    let mut text =
        "| attack | what is done | what would be a failure | held |\n| --- | --- | --- | --- |\n".to_owned();
    for row in tried {
        let Tried { name, does, failure, held, note, .. } = row;
        let held = if *held { "held" } else { "**not held**" };
        text.push_str(&format!(
            "| `{name}` | {does} | {failure} | {held}: {} |\n",
            note.replace(['|', '\n'], " ")
        ));
    }
    text
}

/// How soon a client must be banned, whatever else happens. In a build without optimisations on a busy machine it takes some
/// hundredths of a second.
const BAN_WITHIN: Duration = Duration::from_secs(1);

/// For what must come; only a failure takes that long.
const PATIENCE: Duration = Duration::from_secs(30);
