//! What an earlier run left: opens the database and builds the engine from it, while the database is checked.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Kernel, adopt, build};
use crate::clock;
use crate::config::Config;
use crate::enforce::Ban;
use crate::enforce::ahead::Ahead;
use crate::enforce::desired::LOOKED_UP_AT_ONCE;
use crate::enforce::interpreter::tables::Tables;
use crate::enforce::pieces::in_pieces;
use crate::host;
use crate::memory;
use crate::random;
use crate::store::audit_head::AuditHead;
use crate::store::check::Check;
use crate::store::trouble::Trouble;
use crate::store::{self, BootId, Checked, Found, Loaded, Store};
use crate::text;
use shield_engine::Engine;
use shield_engine::action::{Action, Order, Record};
use shield_engine::allowlist::Allowlist;
use shield_engine::ban::Ban as SavedBan;
use shield_engine::event::{PartReport, PartState};
use shield_engine::request::Checkpoint;
use shield_engine::time::Now;

/// The state of the last run.
pub(super) struct Restored {
    pub engine: Engine,
    /// The enforcers, whose set-up has begun.
    pub enforcers: Vec<Ahead>,
    /// The bans that the enforcers have to hold.
    pub desired: Tables,
    /// The engine's other actions for restored bans: records of those that ended or may no longer be enforced.
    pub leftovers: Vec<Action>,
    pub checkpoints: Vec<Checkpoint>,
    /// The end of the audit log as the database remembers it.
    pub audit_head: Option<AuditHead>,
    /// What was lost, or was within the last day.
    pub trouble: Option<Trouble>,
}

/// The part that stands for what was restored.
const PART: &str = "restored state";

/// The folder of a dry run's database, in the state directory.
const DRY_RUN_DIR: &str = "dry-run";

/// So many bans take a second to read, and then memory counts.
const MANY_BANS: usize = 1_000_000;

/// Adopted bans in one transaction.
const SAVED_AT_ONCE: usize = 10_000;

/// The database, and what was found wrong with it.
pub(super) struct Opened {
    pub store: Store,
    /// The state that the store starts in.
    pub state: PartReport,
    /// Set when the database was damaged and is now empty: what was in it is to be had from the kernel alone.
    damage: Option<Damage>,
}

struct Damage {
    /// The result of the integrity check.
    found: String,
    /// The damaged file.
    kept: PathBuf,
}

/// Opens the database, and begins to check it.
fn open_store(config: &Config, kernel: Kernel, boot_id: &BootId, now: Now) -> Result<(Opened, Check)> {
    // A database of its own: what a dry run would have banned must never be enforced by a later run.
    let dir = match kernel {
        Kernel::Enforce => config.state_dir.clone(),
        Kernel::LeaveAlone => config.state_dir.join(DRY_RUN_DIR),
    };
    let settings = store::Settings {
        dir,
        offences_kept: Duration::from_secs(config.engine.backoff.forget_after_secs()),
        ..store::Settings::default()
    };
    let (store, found, check) = Store::open_and_check(&settings, boot_id, now)?;
    Ok((Opened::new(store, found), check))
}

impl Opened {
    fn new(store: Store, found: Found) -> Opened {
        let damage = match found {
            Found::Nothing | Found::Sound => None,
            Found::Damaged { moved_to, damage } => Some(Damage { found: damage, kept: moved_to }),
        };
        let state = PartState::Active { detail: store.settings().file().display().to_string() };
        let state = PartReport { part: "store".to_owned(), state, repaired: None };
        Opened { store, state, damage }
    }
}

/// The state of what was restored: degraded for a day after something was lost, or until the operator has seen to it.
pub(super) fn state_of(trouble: Option<&Trouble>) -> PartReport {
    let state = match trouble {
        Some(trouble) => PartState::Degraded { reason: trouble.reason.clone() },
        None => PartState::Active { detail: "nothing was lost over the last start".to_owned() },
    };
    PartReport { part: PART.to_owned(), state, repaired: None }
}

/// Builds an engine from the configuration and the database, which is opened first.
pub(super) fn restore(config: &Config, kernel: Kernel, started: Now) -> Result<(Opened, Restored)> {
    let boot_id = BootId::current().context("could not tell this boot from others")?;
    let (mut opened, check) = open_store(config, kernel, &boot_id, started)?;
    let mut enforcing = Vec::new();
    let mut last_run = read(config, kernel, &opened, &mut enforcing);
    let Opened { store, state, damage } = opened;
    match store.await_check(check, &boot_id, started)? {
        Checked::Sound(store) => opened = Opened { store, state, damage },
        Checked::Replaced(store, found) => {
            // What was read counts for nothing, and the enforcers have to say what they hold before they are set up again.
            drop(last_run);
            enforcing.drain(..).for_each(|enforcer| drop(enforcer.finish()));
            opened = Opened::new(store, found);
            last_run = read(config, kernel, &opened, &mut enforcing);
        }
    }
    let restored = finish(&mut opened, last_run?, enforcing);
    Ok((opened, restored))
}

/// What is in the database.
struct Read {
    engine: Engine,
    loaded: Loaded,
    desired: Tables,
    leftovers: Vec<Action>,
    /// What the kernel holds, where the database was damaged.
    held: Option<adopt::Held>,
    now: Now,
}

/// Reads the database into an engine and the enforcers' tables, and begins to set the enforcers up. Changes nothing in the database.
fn read(config: &Config, kernel: Kernel, opened: &Opened, enforcing: &mut Vec<Ahead>) -> Result<Read> {
    let store = &opened.store;
    let loaded = store.load().context("could not read the state of the last run")?;
    let mut settings = config.engine.clone();
    settings.enforcers = build::enforcers(config, kernel);
    let host = host::addresses(&config.ssh(), clock::now());
    host.problems.iter().for_each(|problem| tracing::warn!("{problem}"));
    let allowed = config.allow.iter().chain(&config.infrastructure).copied();
    let allowlist = Allowlist::new(allowed.chain(loaded.allowed.iter().copied()).chain(host.entries));
    let now = clock::now();
    let held =
        opened.damage.is_some().then(|| adopt::held(config, kernel, &allowlist.exempt_networks(), now));
    *enforcing = build::begin_enforcement(config, kernel, &allowlist.exempt_networks())?;
    let next_serial = held.as_ref().map_or(loaded.next_serial, adopt::Held::next_serial);
    let seed = u64::from_ne_bytes(random::bytes()?);
    let mut engine = Engine::new(settings, config.policy.clone(), allowlist, next_serial, seed);
    engine.restore_totals(loaded.totals);
    for (network, until_ms) in &loaded.allowed_until_ms {
        engine.restore_allow_end(*network, *until_ms, now);
    }
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
    let enforcers = engine.settings().enforcers.clone();
    engine.expect_bans(loaded.bans as usize);
    let mut desired = Tables::new(enforcers, loaded.bans as usize);
    let mut leftovers = Vec::new();
    let mut count = 0;
    let restore = |bans: &[SavedBan]| {
        for ban in bans {
            engine.expect_ban_of(ban.client);
            desired.prefetch(&ban.client);
        }
        for ban in bans {
            match engine.restore_order(*ban, now) {
                Ok(order) => take(Action::Enforce(order), &mut desired, &mut leftovers),
                Err(actions) => {
                    actions.into_iter().for_each(|action| take(action, &mut desired, &mut leftovers));
                }
            }
        }
        count += bans.len();
        if count >= MANY_BANS {
            count = 0;
            memory::return_early();
        }
    };
    in_pieces(LOOKED_UP_AT_ONCE, restore, |each| store.for_each_ban(now, each))?;
    if let Some(saved) = &loaded.slowed
        && let Err(error) = engine.restore_slowed(saved, now)
    {
        tracing::warn!(
            "could not restore the slow lane; clients that go on as before are slowed again: {error}"
        );
    }
    if let Some(saved) = &loaded.paused
        && let Err(error) = engine.restore_pause(saved, now)
    {
        tracing::warn!("could not restore the pause of automatic bans; rules ban again: {error}");
    }
    if let Some(saved) = &loaded.remote_state
        && let Err(error) = engine.restore_remote_state(saved)
    {
        tracing::warn!("could not restore what is known of the other hosts; they are heard anew: {error}");
    }
    store.for_each_remote(|origin, client, entry| {
        if let Err(error) = engine.restore_remote(&origin, client, &entry, now) {
            tracing::warn!(
                "could not restore what {origin} says of {client}; it is heard again within minutes: {error}"
            );
        }
    })?;
    Ok(Read { engine, loaded, desired, leftovers, held, now })
}

/// Hands an order to the enforcers' tables, and keeps everything else.
fn take(action: Action, desired: &mut Tables, leftovers: &mut Vec<Action>) {
    match action {
        Action::Enforce(Order::Ban { client, ends, place, serial }) => {
            desired.insert(Ban { client, ends }, place, serial);
        }
        other => leftovers.push(other),
    }
}

/// Adopts what only the kernel has, and writes down what was lost.
fn finish(opened: &mut Opened, read: Read, enforcers: Vec<Ahead>) -> Restored {
    let Read { mut engine, loaded, mut desired, mut leftovers, held, now } = read;
    let store = &mut opened.store;
    let mut lost = Vec::new();
    if let (Some(damage), Some(held)) = (&opened.damage, held) {
        let max_bans = engine.settings().max_bans;
        let adopted = held.adopt(&mut engine, max_bans, now);
        lost.push(text::restored::damaged(&damage.found, &damage.kept, &adopted.words));
        adopted.actions.into_iter().for_each(|action| take(action, &mut desired, &mut leftovers));
        leftovers.extend(save(store, adopted.records, now));
    }
    lost.extend(store.keep_unreadable_aside(now));
    lost.iter().for_each(|lost| tracing::error!("{lost}"));
    let kept = opened.damage.as_ref().map(|damage| damage.kept.clone());
    let trouble = Trouble::found(lost, kept, loaded.trouble.clone(), now);
    if trouble != loaded.trouble
        && let Err(error) = store.remember_trouble(trouble.as_ref())
    {
        tracing::warn!("{error:#}");
    }
    let checkpoint = |(source, position)| Checkpoint { source, position };
    let checkpoints = loaded.checkpoints.into_iter().map(checkpoint).collect();
    let audit_head = loaded.audit_head;
    Restored { engine, enforcers, desired, leftovers, checkpoints, audit_head, trouble }
}

/// Saves adopted bans in pieces. On a full disk the rest is for the performer, which holds it.
fn save(store: &mut Store, records: Vec<Record>, now: Now) -> impl Iterator<Item = Action> + use<> {
    let saved = records.chunks(SAVED_AT_ONCE).take_while(|piece| match store.commit(*piece, now) {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!("could not save adopted bans yet: {error:#}");
            false
        }
    });
    let saved: usize = saved.map(<[Record]>::len).sum();
    records.into_iter().skip(saved).map(Action::Persist)
}
