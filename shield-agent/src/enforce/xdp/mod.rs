//! The XDP enforcer: drops banned clients' packets at the network card, before the kernel spends anything on them.
//!
//! It acts in the network namespace of the thread that calls it. From the outside in:
//! - `links`, `attach`, `interfaces`: the program on each interface; `object` loads it, `pins` and `takeover` carry it and
//!   the maps from one agent to the next;
//! - `reconcile`, `pauses`, `bans`: the bans as the ledger knows them, with `clock` for their ends;
//! - `maps`, `keys`, `table`, `occupancy`, `filter`, `exempt`, `slow`, `control`, `totals`: the maps;
//! - `kernel`: the only file with raw bpf calls; `walk` for kernels without batches of them.
//!
//! The kernel's side is the crate `shield-ebpf`.

mod attach;
mod bans;
mod clock;
mod control;
mod exempt;
mod filter;
mod filters;
pub(crate) mod interfaces;
mod kernel;
mod keys;
mod links;
mod maps;
pub(crate) mod object;
mod occupancy;
mod pauses;
mod pin_check;
mod pins;
mod reconcile;
pub(crate) mod settings;
mod slow;
mod table;
mod takeover;
mod totals;
mod walk;

use std::path::PathBuf;

use anyhow::{Result, anyhow, ensure};
use ipnet::IpNet;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, PartState, Repair};
use shield_engine::time::Now;

use super::ban::{Ban, Drops, Failure, Slow};
use super::desired::Desired;
use super::enforcer::{Enforcer, NothingUrgent, Urgent};
use bans::Bans;
use links::Links;
use maps::Presence;
use object::{Globals, Loader};
use pauses::Pauses;
use pins::Pins;
use reconcile::Reconciler;

pub(crate) use interfaces::Selection;
pub(crate) use settings::{Mode, Settings};

/// Up to this many bans, the check counts them by listing where it has to; beyond it, it compares only the memory that the
/// kernel accounts for.
const MAX_COUNTED: usize = 20_000;

/// The [`Enforcer`] that attaches the XDP program to interfaces.
pub struct XdpEnforcer {
    settings: Settings,
    pins: Pins,
    running: Option<Running>,
}

/// What exists between `start` and `cleanup`.
struct Running {
    links: Links,
    bans: Bans,
    reconciler: Reconciler,
}

/// The counters of one interface's program since its maps were made.
#[cfg(any(test, feature = "test-support"))]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceTotals {
    /// Its name.
    pub interface: String,
    /// `native`, `generic (why)` or `TC ingress (why)`.
    pub how: String,
    /// Packets by decision.
    pub totals: shield_common::Totals,
}

impl XdpEnforcer {
    /// Makes an enforcer that has not touched the kernel yet.
    pub fn new(settings: Settings) -> XdpEnforcer {
        let pins = Pins::new(&settings.pin_folder);
        XdpEnforcer { settings, pins, running: None }
    }

    /// Reads the totals by interface and decision. Interfaces beyond the 31st share one row's counters.
    ///
    /// # Errors
    /// Before `start`, or when the map cannot be read.
    #[cfg(any(test, feature = "test-support"))]
    pub fn totals(&self) -> Result<Vec<InterfaceTotals>> {
        let running = self.running.as_ref().ok_or_else(not_started)?;
        let row = |attachment: &attach::Attachment| {
            Ok(InterfaceTotals {
                interface: attachment.interface.name.clone(),
                how: attachment.how.describe(),
                totals: running.bans.maps.totals.of_slot(attachment.slot)?,
            })
        };
        running.links.attachments().iter().map(row).collect()
    }

    fn running(&mut self) -> Result<&mut Running> {
        self.running.as_mut().ok_or_else(not_started)
    }

    fn set_up(&mut self, exempt: &[IpNet]) -> Result<Running> {
        settings::check(&self.settings)?;
        ensure!(object::is_embedded(), object::NOT_EMBEDDED);
        lift_memory_lock();
        self.pins.prepare()?;
        self.pins.recover()?;
        let globals = Globals::of(&self.settings);
        let mut loader = Loader::new(&globals);
        let mut bans = takeover::bans(&self.pins, &self.settings, &mut loader)?;
        bans.maps.ensure_exempt(exempt)?;
        let mut links = Links::none();
        links.attach_all(&self.pins, &self.settings, &self.maps_in_use(), &mut loader)?;
        if self.pins.new_maps().exists() {
            self.pins.promote()?;
        }
        links.drop_stale(&self.pins)?;
        Ok(Running { links, bans, reconciler: Reconciler::new() })
    }

    /// The folder of the maps in use. Until every link runs on new maps, these are pinned beside the old ones.
    fn maps_in_use(&self) -> PathBuf {
        let new = self.pins.new_maps();
        if new.exists() { new } else { self.pins.maps() }
    }
}

impl Running {
    fn state(&self) -> PartState {
        let guarded = self.links.guarded();
        let mut problems = self.links.problems();
        problems.extend(self.bans.full.map(|full| full.to_string()));
        if problems.is_empty() {
            return PartState::Active { detail: guarded.join("; ") };
        }
        let also =
            if guarded.is_empty() { String::new() } else { format!(" (in force: {})", guarded.join("; ")) };
        PartState::Degraded { reason: format!("{}{also}", problems.join("; ")) }
    }

    /// Brings attachments and pins back. Returns what was wrong.
    fn repair(&mut self, pins: &Pins, settings: &Settings) -> Result<Vec<String>> {
        let mut found = Vec::new();
        pins.prepare()?;
        if self.bans.maps.repin(&pins.maps())? {
            found.push("maps were not pinned any more".to_owned());
        }
        found.extend(self.links.repair(pins, settings)?);
        Ok(found)
    }
}

impl Enforcer for XdpEnforcer {
    fn name(&self) -> EnforcerName {
        EnforcerName::Xdp
    }

    fn start(&mut self, exempt: &[IpNet], _now: Now) -> Result<()> {
        match self.set_up(exempt) {
            Ok(running) => self.running = Some(running),
            Err(error) => {
                // Nothing is in force: what was made on the way there must not stay.
                self.running = None;
                if let Err(error) = self.pins.remove() {
                    tracing::warn!(%error, "could not remove what a failed start left");
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn state(&self) -> PartState {
        match &self.running {
            Some(running) => running.state(),
            None => PartState::Off { reason: "not started".to_owned() },
        }
    }

    fn ensure_banned(&mut self, bans: &[Ban], _now: Now) -> Vec<Failure> {
        match self.running() {
            Ok(running) => running.bans.ensure(bans, Presence::Unknown),
            Err(_) => {
                bans.iter().map(|ban| Failure { client: ban.client.client(), error: not_started() }).collect()
            }
        }
    }

    fn ensure_lifted(&mut self, clients: &[Client]) -> Vec<Failure> {
        // Where nothing was started, nothing is dropped.
        let Ok(running) = self.running() else { return Vec::new() };
        running.bans.full = None;
        running.bans.remove(clients)
    }

    fn ensure_exempt(&mut self, networks: &[IpNet]) -> Result<()> {
        self.running()?.bans.maps.ensure_exempt(networks)
    }

    fn ensure_slowed(&mut self, slowed: &[Slow], _now: Now) -> Result<()> {
        self.running()?.bans.ensure_slowed(slowed)
    }

    #[cfg(any(test, feature = "test-support"))]
    fn observe_slowed(&mut self) -> Result<Vec<Client>> {
        Ok(self.running()?.bans.maps.slow.list()?.into_iter().map(|(client, _)| client).collect())
    }

    fn observe(&mut self, now: Now) -> Result<Vec<(Client, Option<shield_engine::time::Ends>)>> {
        self.running()?.bans.list(now)
    }

    fn is_intact(&mut self, desired: usize) -> Result<bool> {
        let XdpEnforcer { settings, pins, running } = self;
        let Running { links, bans, .. } = running.as_mut().ok_or_else(not_started)?;
        links.flush_logs();
        if !links.are_intact(pins, &settings.interfaces)? || !bans.maps.is_pinned(&pins.maps()) {
            return Ok(false);
        }
        let memory = bans.maps.memory();
        if bans.maps.is_as_left(memory) == Some(false) {
            return Ok(false);
        }
        Ok(desired > MAX_COUNTED || bans.maps.count(memory)? == desired)
    }

    fn reconcile(&mut self, desired: &Desired, exempt: &[IpNet], now: Now) -> Result<Option<Repair>> {
        self.reconcile_yielding(desired, exempt, now, &mut NothingUrgent)
    }

    fn reconcile_yielding(
        &mut self,
        desired: &Desired,
        exempt: &[IpNet],
        now: Now,
        urgent: &mut dyn Urgent,
    ) -> Result<Option<Repair>> {
        let XdpEnforcer { settings, pins, running } = self;
        let running = running.as_mut().ok_or_else(not_started)?;
        let mut found = running.repair(pins, settings)?;
        let Running { bans, reconciler, .. } = running;
        bans.maps.write_control()?;
        bans.maps.ensure_exempt(exempt)?;
        let difference = reconciler.run(bans, desired, now, &mut Pauses::new(urgent))?;
        if !difference.is_none() {
            found.push("the kernel's bans differed from the ledger's".to_owned());
        }
        Ok((!found.is_empty()).then(|| Repair {
            found: found.join("; "),
            restored: difference.restored,
            removed: difference.removed,
        }))
    }

    fn drops(&mut self, clients: &[Client]) -> Result<Vec<Option<Drops>>> {
        let bans = self.running()?.bans.maps.get_all(clients)?;
        Ok(bans
            .into_iter()
            .map(|ban| ban.map(|ban| Drops { packets: ban.packets, bytes: ban.bytes }))
            .collect())
    }

    fn total_drops(&mut self) -> Result<Drops> {
        let running = self.running()?;
        running.bans.maps.totals.drops(running.links.slots())
    }

    fn cleanup(&mut self) -> Result<Vec<String>> {
        self.running = None;
        self.pins.remove()
    }
}

fn not_started() -> anyhow::Error {
    anyhow!("the XDP enforcer is not started")
}

/// Loads every program that an attachment may need through the kernel's verifier, with maps of their own, and attaches and pins
/// nothing. Returns whether the maps that are pinned fit this version; `None` where there are none.
///
/// # Errors
/// When the object is missing, or the kernel refuses a map or a program.
pub(crate) fn verify(settings: &Settings) -> Result<Option<bool>> {
    settings::check(settings)?;
    ensure!(object::is_embedded(), object::NOT_EMBEDDED);
    lift_memory_lock();
    let mut apart = Loader::load_apart(&Globals::of(settings))?;
    object::xdp(&mut apart)?;
    object::classifier(&mut apart)?;
    object::clock(&mut apart)?;
    let pinned = Pins::new(&settings.pin_folder).maps();
    Ok(pinned.exists().then(|| takeover::fits(&pinned, settings)))
}

/// Before Linux 5.11 maps count against the process's locked memory. Where the limit cannot be raised, making the maps
/// fails with the kernel's own error.
fn lift_memory_lock() {
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}
