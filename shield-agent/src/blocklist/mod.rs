//! Blocklists by URL: each is read on a task of its own and handed to the engine, which decides as about every other's word:
//! the allowlist vetoes, and whoever was served well here is not banned on a list's word alone.
//!
//! `fetch` reads, `parse` judges the text whole, `cache` keeps it over restarts, `list` is one list with its state. Nothing waits
//! for any of it.

mod cache;
mod fetch;
mod list;
pub(crate) mod parse;
pub(crate) mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::task::JoinHandle;

use self::list::List;
pub(crate) use self::settings::Settings;
use crate::clock;
use crate::enforce::interpreter::Interpreter;
use crate::notify::Report;
use crate::pipeline::{Handle, Message};
use crate::text;
use shield_engine::event::{PartReport, PartState};
use shield_engine::origin::{Origin, OriginKind, Remote, Said, Statement};

/// The parts' names begin with this.
pub(crate) const PART: &str = "blocklist:";

/// The numbers of one list, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Clients on it, as far as it was ever read.
    pub clients: u64,
    /// When it was last read, in milliseconds since the Unix epoch; 0 for never.
    pub read_ms: i64,
    /// Readings in a row that failed.
    pub failures: u64,
    /// Clients on it that sent packets since they are banned.
    pub hit_clients: u64,
    /// Packets of theirs that were dropped.
    pub dropped_packets: u64,
}

/// The numbers by the lists' names.
pub(crate) type Shown = Arc<Mutex<BTreeMap<String, Numbers>>>;

/// What every list needs of the agent.
#[derive(Clone)]
pub(crate) struct Env {
    pub owner: Handle,
    pub report: Report,
    pub state_dir: PathBuf,
    pub ipv6_prefix: u8,
    /// Weak: the enforcers' threads end with their last user.
    pub interpreter: Weak<Interpreter>,
}

impl Env {
    fn tell(&self, name: &str, state: PartState) {
        (self.report)(PartReport { part: format!("{PART}{name}"), state, repaired: None });
    }
}

/// The running lists.
pub(crate) struct Lists {
    /// `None` in a dry run.
    env: Option<Env>,
    tasks: BTreeMap<String, (Settings, JoinHandle<()>)>,
    shown: Shown,
}

impl Lists {
    /// Starts a task for each list, and lets go of what lists of an earlier run wanted that are gone.
    pub(crate) fn start(env: Env, settings: &[Settings]) -> Lists {
        let names: Vec<String> = settings.iter().map(|list| list.name.clone()).collect();
        tokio::spawn(forget_others(env.clone(), names));
        let mut lists = Lists { env: Some(env), tasks: BTreeMap::new(), shown: Shown::default() };
        lists.begin(settings);
        lists
    }

    /// Lists that nobody reads.
    pub(crate) fn dry(settings: &[Settings], report: &Report) -> Lists {
        for list in settings {
            let state = PartState::Off { reason: text::blocklist::DRY_RUN.to_owned() };
            report(PartReport { part: format!("{PART}{}", list.name), state, repaired: None });
        }
        Lists { env: None, tasks: BTreeMap::new(), shown: Shown::default() }
    }

    pub(crate) fn shown(&self) -> Shown {
        Arc::clone(&self.shown)
    }

    /// Reads these lists from now on. One whose settings are the same goes on; what a removed one wanted is let go.
    ///
    /// The task of a list that is read no more has ended before anything is said of the list: its last word would otherwise come after.
    pub(crate) async fn change(&mut self, settings: &[Settings]) {
        let Some(env) = self.env.clone() else { return };
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut self.tasks)
            .into_iter()
            .partition(|(name, (old, _))| settings.iter().any(|new| new.name == *name && new == old));
        self.tasks = kept;
        for (name, (_, task)) in gone {
            task.abort();
            // An error says that it was aborted.
            let _ = task.await;
            if !settings.iter().any(|new| new.name == name) {
                env.tell(&name, PartState::Off { reason: text::blocklist::REMOVED.to_owned() });
                lock(&self.shown).remove(&name);
                tokio::spawn(forget(env.clone(), name));
            }
        }
        self.begin(settings);
    }

    /// Starts a task for each list that has none.
    fn begin(&mut self, settings: &[Settings]) {
        let Some(env) = &self.env else { return };
        for new in
            settings.iter().filter(|new| !self.tasks.contains_key(&new.name)).cloned().collect::<Vec<_>>()
        {
            let list = List::new(new.clone(), env.clone(), Arc::clone(&self.shown));
            self.tasks.insert(new.name.clone(), (new, tokio::spawn(list.run())));
        }
    }
}

impl Drop for Lists {
    fn drop(&mut self) {
        self.tasks.values().for_each(|(_, task)| task.abort());
    }
}

fn lock(shown: &Shown) -> std::sync::MutexGuard<'_, BTreeMap<String, Numbers>> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets go of what a list wanted.
async fn forget(env: Env, name: String) {
    cache::Cache::new(&env.state_dir, &name).remove();
    let Some(origin) = Origin::new(OriginKind::Blocklist, &name) else { return };
    // Fails when the agent stops.
    let Ok(stamp) = list::next_stamp(&env.owner, &origin).await else { return };
    let statement = Statement {
        origin,
        stamp,
        ahead_ms: 0,
        age_ms: 0,
        is_replayed: false,
        said: Said::Complete { bans: 0 },
    };
    env.owner.send(Message::Remote(Remote { statements: vec![statement], position: None }));
}

async fn forget_others(env: Env, names: Vec<String>) {
    let others = env
        .owner
        .query(move |engine, _| {
            let lists =
                engine.remotes().origins().filter(|state| state.origin.kind() == OriginKind::Blocklist);
            let gone = lists
                .filter(|state| state.entries > 0 && !names.iter().any(|name| name == state.origin.name()));
            gone.map(|state| state.origin.name().to_owned()).collect::<Vec<_>>()
        })
        .await;
    for name in others.unwrap_or_default() {
        forget(env.clone(), name).await;
    }
}

/// The time, for a list's state.
fn now_ms() -> i64 {
    clock::now().wall_ms
}
