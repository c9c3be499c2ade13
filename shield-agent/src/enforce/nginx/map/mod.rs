//! Refuses banned clients inside an nginx that shares no folder with the agent: maps that nginx reads at a reload.
//!
//! A reload costs new workers, and old ones stay as long as their connections, so there is one at most in `reload_every`, and none
//! while several generations are shutting down. Until nginx has taken them changes are pending: on disk, over a restart too. When
//! it does not take its configuration, whoever's mistake it is, that is the state in nginx's own words, and it is tried again.

mod command;
pub(super) mod files;
mod workers;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use ipnet::IpNet;

use self::command::Ended;
use self::files::{Content, Files};
use self::workers::{Generations, Workers};
use super::folder::Folder;
use super::held::{Held, names_of};
use super::names::Name;
use super::{EXEMPT_FOLDER, Settings};
use crate::clock;
use crate::enforce::ban::{Ban, Failure};
use crate::enforce::desired::Desired;
use crate::enforce::enforcer::{Enforcer, Lifts};
use crate::text::nginx;
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, PartState, Repair};
use shield_engine::time::Now;

/// Generations of workers that may be shutting down when nginx is told to reload.
const MAX_ENDING: usize = 2;
/// The time for one command. All of them together stay below the minute after which the part counts as stalled.
const LIMIT: Duration = Duration::from_secs(10);
/// The time for new workers to be there after a reload.
const NEW_WORKERS: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Clients that take some ten milliseconds to write.
const MANY: usize = 10_000;
/// The time between two writes of so many, at the least: during an attack bans come many times a second.
const WRITE_EVERY: Duration = Duration::from_secs(5);

/// Keeps the maps that nginx includes, and has nginx reload them.
#[derive(Debug)]
pub struct MapEnforcer {
    settings: Settings,
    files: Files,
    /// What the other backend may have left.
    links: Vec<Folder>,
    is_started: bool,
    /// Started, and not reconciled yet.
    is_filling: bool,
    held: Held,
    full: bool,
    /// The files do not say what is held.
    is_dirty: bool,
    /// nginx has not read the files, as far as is known.
    is_pending: bool,
    told_at: Option<Instant>,
    wrote_at: Option<Instant>,
    /// Why nginx has not read them, until it does.
    trouble: Option<String>,
    generations: Generations,
}

impl MapEnforcer {
    /// Changes nothing before its start.
    pub fn new(settings: Settings) -> MapEnforcer {
        let denied = Folder::at(settings.folder.clone());
        MapEnforcer {
            files: Files::at(settings.maps()),
            links: vec![denied.inside(EXEMPT_FOLDER), denied],
            settings,
            is_started: false,
            is_filling: false,
            held: Held::default(),
            full: false,
            is_dirty: false,
            is_pending: false,
            told_at: None,
            wrote_at: None,
            trouble: None,
            generations: Generations::default(),
        }
    }

    /// For a clean-up that leaves the other backend's files alone.
    pub(super) fn of_leftovers(settings: Settings) -> MapEnforcer {
        MapEnforcer { links: Vec::new(), ..MapEnforcer::new(settings) }
    }

    fn deny(&mut self, client: Client) -> Result<()> {
        if let Some(reason) = self.held.refusal(&client) {
            return Err(anyhow!(reason));
        }
        if self.held.contains(&client) {
            return Ok(());
        }
        if self.held.len() >= self.settings.max_clients {
            self.full = true;
            return Err(anyhow!(nginx::full(self.settings.max_clients)));
        }
        self.held.sort_in(client);
        self.held.hold(client);
        self.is_dirty = true;
        Ok(())
    }

    fn content(&self) -> Content {
        let denied: BTreeSet<Name> = self.held.iter().flat_map(names_of).collect();
        Content { exempt: self.held.exempt_names(), denied }
    }

    /// What follows each change: the files first, so that a start of nginx reads them too.
    fn settle(&mut self) -> Result<()> {
        let is_time = self.told_at.is_none_or(|at| at.elapsed() >= self.settings.reload_every);
        if self.is_dirty {
            self.is_pending = true;
            let is_soon = self.wrote_at.is_some_and(|at| at.elapsed() < WRITE_EVERY);
            // Before a reload always; else the next check writes what is left.
            if is_time || self.held.len() < MANY || !is_soon {
                self.write(&self.content(), clock::now())?;
            }
        }
        if is_time {
            self.tell();
        }
        Ok(())
    }

    fn write(&mut self, content: &Content, now: Now) -> Result<()> {
        // Before the first file changes: somebody else may have nginx read half of it.
        self.is_pending = true;
        self.files.write(content, now.wall_secs())?;
        self.wrote_at = Some(Instant::now());
        self.is_dirty = false;
        Ok(())
    }

    /// Has nginx read the files where it has not yet.
    fn tell(&mut self) {
        if !self.is_pending {
            return;
        }
        self.trouble = match self.reload() {
            Ok(()) => None,
            Err(error) => Some(format!("{error:#}")),
        };
    }

    fn reload(&mut self) -> Result<()> {
        self.told_at = Some(Instant::now());
        self.files.told()?;
        let before = self.look();
        if let Some(workers) = &before {
            let ending = self.generations.ending(workers);
            if ending > MAX_ENDING {
                bail!(nginx::workers_linger(ending));
            }
        }
        let commands = &self.settings.commands;
        self.run(&commands.copy, nginx::not_copied)?;
        self.run(&commands.test, nginx::not_taken)?;
        self.run(&commands.reload, nginx::not_reloaded)?;
        if let Some(before) = before {
            self.expect_new_workers(&before)?;
        }
        self.files.taken()?;
        self.is_pending = false;
        Ok(())
    }

    /// Runs a command that is configured.
    fn run(&self, argv: &[String], failed: fn(&str, &str) -> String) -> Result<()> {
        if argv.is_empty() {
            return Ok(());
        }
        let shown = argv.join(" ");
        match command::run(argv, &self.settings.folder, LIMIT) {
            Ok(Ended { status, .. }) if status.success() => Ok(()),
            Ok(Ended { status, output }) => {
                Err(anyhow!(failed(&shown, &nginx::own_words(&output, &status.to_string()))))
            }
            Err(error) => Err(anyhow!(nginx::not_run(&format!("{error:#}")))),
        }
    }

    /// nginx's workers now, taken into account; `None` where they cannot be told.
    fn look(&mut self) -> Option<Workers> {
        let workers = self.workers()?;
        self.generations.see(&workers);
        Some(workers)
    }

    fn workers(&self) -> Option<Workers> {
        let argv = &self.settings.commands.workers;
        let ended = Some(argv).filter(|argv| !argv.is_empty());
        let ended = ended.and_then(|argv| command::run(argv, &self.settings.folder, NEW_WORKERS).ok());
        // Its exit code says nothing: that of `systemctl status` is 3 for a unit that does not run.
        ended.and_then(|ended| Workers::parse(&ended.output))
    }

    /// A reload that nginx does not follow, because its configuration is wrong, succeeds all the same: the signal was sent.
    fn expect_new_workers(&mut self, before: &Workers) -> Result<()> {
        let began = Instant::now();
        loop {
            // While old and new ones serve side by side they would be taken for one generation.
            if let Some(workers) = self.workers().filter(|workers| workers.have_replaced(before)) {
                self.generations.see(&workers);
                return Ok(());
            }
            if began.elapsed() >= NEW_WORKERS {
                bail!(nginx::no_new_workers());
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Fails all of these where the files cannot be written.
    fn settled(&mut self, clients: impl Iterator<Item = Client>, mut failures: Vec<Failure>) -> Vec<Failure> {
        if let Err(error) = self.settle() {
            let reason = format!("{error:#}");
            failures.extend(clients.map(|client| Failure { client, error: anyhow!(reason.clone()) }));
        }
        failures
    }
}

impl Enforcer for MapEnforcer {
    fn name(&self) -> EnforcerName {
        EnforcerName::Nginx
    }

    fn start(&mut self, exempt: &[IpNet], now: Now) -> Result<()> {
        for links in &mut self.links {
            if links.path().exists() {
                links.clear()?;
            }
        }
        if self.files.prepare()? {
            // Whatever nginx has read is not what it would read now.
            self.files.write(&Content::default(), now.wall_secs())?;
        }
        self.held.set_exempt(exempt);
        self.is_pending = self.files.are_pending();
        let ago = self.files.since_told();
        self.told_at = ago.and_then(|ago| Instant::now().checked_sub(ago));
        self.is_started = true;
        self.is_filling = true;
        Ok(())
    }

    fn state(&self) -> PartState {
        if !self.is_started {
            return PartState::Off { reason: "not started".to_owned() };
        }
        if let Some(trouble) = &self.trouble {
            return PartState::Degraded { reason: trouble.clone() };
        }
        if self.full {
            return PartState::Degraded { reason: nginx::full(self.settings.max_clients) };
        }
        PartState::Active { detail: nginx::maps_in(self.files.path(), self.is_pending) }
    }

    fn ensure_banned(&mut self, bans: &[Ban], _now: Now) -> Vec<Failure> {
        let failures = bans
            .iter()
            .filter_map(|ban| {
                let client = ban.client.client();
                self.deny(client).err().map(|error| Failure { client, error })
            })
            .collect();
        self.settled(bans.iter().map(|ban| ban.client.client()), failures)
    }

    fn refusal(&self, client: &Client) -> Option<String> {
        self.held.refusal(client)
    }

    fn ensure_lifted(&mut self, clients: &[Client]) -> Vec<Failure> {
        for client in clients {
            self.is_dirty |= self.held.remove(*client);
        }
        self.full = false;
        self.settled(clients.iter().copied(), Vec::new())
    }

    fn lifts(&self) -> Lifts {
        Lifts::Together
    }

    fn ensure_exempt(&mut self, networks: &[IpNet]) -> Result<()> {
        let before = self.held.exempt_names();
        self.held.set_exempt(networks);
        self.is_dirty |= self.held.exempt_names() != before;
        self.settle()
    }

    fn observe(&mut self, _now: Now) -> Result<Vec<(Client, Option<shield_engine::time::Ends>)>> {
        Ok(self.files.denied()?.into_iter().map(|name| (name.client(), None)).collect())
    }

    fn is_intact(&mut self, desired: usize) -> Result<bool> {
        if !self.is_dirty && self.held.len() > 0 && self.files.are_old(clock::now().wall_secs()) {
            self.is_dirty = self.files.are_as_left();
        }
        let is_intact = self.held.len() == desired && self.files.are_as_left();
        if is_intact {
            self.settle()?;
        }
        Ok(is_intact)
    }

    fn reconcile(&mut self, desired: &Desired, exempt: &[IpNet], now: Now) -> Result<Option<Repair>> {
        let was_emptied = self.files.prepare()?;
        self.held.set_exempt(exempt);
        self.held.clear();
        self.full = false;
        let in_force = |ban: &Ban| ban.ends.remaining_ms(now).is_none_or(|ms| ms > 0);
        for ban in desired.iter().filter(in_force) {
            let client = ban.client.client();
            if self.held.refusal(&client).is_some() {
                continue;
            }
            if self.held.len() >= self.settings.max_clients {
                self.full = true;
                break;
            }
            self.held.sort_in(client);
            self.held.hold(client);
        }
        let (content, present) = (self.content(), self.files.denied()?);
        let is_right = content.denied == present && self.files.have(&content);
        if is_right {
            self.files.take_over();
        }
        let is_old = self.held.len() > 0 && self.files.are_old(now.wall_secs());
        self.is_dirty = !is_right || is_old;
        let restored = content.denied.difference(&present).count() as u64;
        let removed = present.difference(&content.denied).count() as u64;
        if self.is_dirty {
            self.write(&content, now)?;
        }
        // The service manager holds nginx's start and its reloads back until the agent is ready, which it is with the files: a reload
        // would wait for itself. The next check has nginx read them.
        if !std::mem::take(&mut self.is_filling) {
            self.settle()?;
        }
        let is_repaired = was_emptied || !is_right;
        Ok(is_repaired.then(|| Repair { found: nginx::MAPS_DIFFERED.to_owned(), restored, removed }))
    }

    fn cleanup(&mut self) -> Result<Vec<String>> {
        self.is_started = false;
        self.held.clear();
        let mut removed = Vec::new();
        for links in &mut self.links {
            if links.path().exists() {
                removed.extend(links.clear()?);
            }
        }
        let nobody = Content::default();
        if self.files.path().exists() {
            let is_known = !self.files.denied()?.is_empty() || self.files.are_pending();
            if is_known {
                // nginx would refuse whom it knows until somebody else reloads it. On failure the empty maps stay, for the next time.
                self.files.write(&nobody, clock::now().wall_secs())?;
                self.is_pending = true;
                self.reload()?;
            }
            removed.extend(self.files.clear()?);
        }
        Ok(removed)
    }
}
