//! What an earlier run left: opens the database and builds the engine from it.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Kernel, build};
use crate::clock;
use crate::config::Config;
use crate::enforce::{Ban, Desired};
use crate::host;
use crate::random;
use crate::store::{self, BootId, Found, Store};
use shield_engine::Engine;
use shield_engine::action::{Action, Order};
use shield_engine::allowlist::Allowlist;
use shield_engine::event::{PartReport, PartState};
use shield_engine::request::Checkpoint;
use shield_engine::time::Now;

/// The state of the last run.
pub(super) struct Restored {
    pub engine: Engine,
    /// The bans that the enforcers have to hold.
    pub desired: Desired,
    /// The engine's other actions for restored bans: records of those that ended or may no longer be enforced.
    pub leftovers: Vec<Action>,
    pub checkpoints: Vec<Checkpoint>,
}

/// Opens the database and returns it with the state that the store starts in.
pub(super) fn open_store(config: &Config, kernel: Kernel, now: Now) -> Result<(Store, PartReport)> {
    // A database of its own: what a dry run would have banned must never be enforced by a later run.
    let dir = match kernel {
        Kernel::Enforce => config.state_dir.clone(),
        Kernel::LeaveAlone => config.state_dir.join("dry-run"),
    };
    let settings = store::Settings {
        dir,
        offences_kept: Duration::from_secs(config.engine.backoff.forget_after_secs()),
        ..store::Settings::default()
    };
    let boot_id = BootId::current().context("could not tell this boot from others")?;
    let (store, found) = Store::open(&settings, &boot_id, now)?;
    let state = match found {
        Found::Nothing | Found::Sound => PartState::Active { detail: settings.file().display().to_string() },
        Found::Damaged { moved_to, damage } => {
            tracing::error!(moved_to = %moved_to.display(), "the database was damaged ({damage}); started with an empty one");
            let reason = format!(
                "the database was damaged and is kept as {}; earlier bans and the learned baseline are lost ({damage})",
                moved_to.display()
            );
            PartState::Degraded { reason }
        }
    };
    Ok((store, PartReport { part: "store".to_owned(), state, repaired: None }))
}

/// Builds an engine from the configuration and the database.
pub(super) fn restore(config: &Config, kernel: Kernel, store: &Store) -> Result<Restored> {
    let loaded = store.load().context("could not read the state of the last run")?;
    let mut settings = config.engine.clone();
    settings.enforcers = build::enforcers(config, kernel);
    let host = host::addresses(&config.ssh(), clock::now());
    host.problems.iter().for_each(|problem| tracing::warn!("{problem}"));
    let allowed = config.allow.iter().chain(&config.infrastructure).copied();
    let allowlist = Allowlist::new(allowed.chain(loaded.allowed).chain(host.entries));
    let mut engine = Engine::new(
        settings,
        config.policy.clone(),
        allowlist,
        loaded.next_serial,
        u64::from_ne_bytes(random::bytes()?),
    );
    engine.restore_totals(loaded.totals);
    if let Some(saved) = &loaded.baseline
        && let Err(error) = engine.restore_baseline(saved)
    {
        tracing::warn!("{error}");
    }
    store.for_each_offence(|client, count, last_secs| {
        if let Some(count) = NonZeroU32::new(count) {
            engine.restore_offences(client, count, last_secs);
        }
    })?;
    let mut desired = Desired::with_capacity(loaded.bans as usize);
    let mut leftovers = Vec::new();
    let now = clock::now();
    store.for_each_ban(now, |ban| {
        for action in engine.restore_ban(ban.ban, now) {
            match action {
                Action::Enforce(Order::Ban { client, ends, serial }) => {
                    desired.insert(Ban { client, ends }, serial);
                }
                other => leftovers.push(other),
            }
        }
    })?;
    let checkpoint = |(source, position)| Checkpoint { source, position };
    let checkpoints = loaded.checkpoints.into_iter().map(checkpoint).collect();
    Ok(Restored { engine, desired, leftovers, checkpoints })
}
