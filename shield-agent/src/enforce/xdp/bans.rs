//! The bans in the kernel, with ends as the ledger knows them: the maps and the clock together.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya::programs::Xdp;
use shield_common::program_name;

use crate::enforce::ban::{Ban, Failure, Slow};
use shield_engine::client::Client;
use shield_engine::time::{Ends, Now};

use super::clock::KernelClock;
use super::maps::{BanMaps, Presence};
use super::slow::Ticks;
use super::table;

pub(super) struct Bans {
    pub maps: BanMaps,
    pub clock: KernelClock,
    /// Holds the program that reads the kernel's clock.
    clock_object: Ebpf,
    /// The last map that had no room for a ban, until a lift or a reconcile.
    pub full: Option<table::Full>,
}

impl Bans {
    pub(super) fn new(maps: BanMaps, clock: KernelClock, clock_object: Ebpf) -> Bans {
        Bans { maps, clock, clock_object, full: None }
    }

    pub(super) fn sync_clock(&mut self) -> Result<()> {
        let program = self.clock_object.program(program_name::CLOCK);
        let program: &Xdp = program.context("could not find the clock program in the object")?.try_into()?;
        self.clock.sync(program)
    }

    /// Adds bans, or moves their ends.
    pub(super) fn ensure(&mut self, bans: &[Ban], presence: Presence) -> Vec<Failure> {
        if let Err(error) = self.sync_clock() {
            // A ban with an end that is some ticks off is better than none.
            tracing::warn!(%error, "could not read the kernel's clock, the last reading is used");
        }
        let ends: Vec<_> =
            bans.iter().map(|ban| (ban.client.client(), self.clock.ticks_at(ban.ends))).collect();
        let failed = self.maps.ensure(&ends, presence);
        if let Some(full) = failed.iter().find_map(|(_, error)| error.downcast_ref::<table::Full>()) {
            self.full = Some(*full);
        }
        failed.into_iter().map(|(at, error)| Failure { client: ends[at].0, error }).collect()
    }

    pub(super) fn remove(&mut self, clients: &[Client]) -> Vec<Failure> {
        let failed = self.maps.remove(clients);
        failed.into_iter().map(|(at, error)| Failure { client: clients[at], error }).collect()
    }

    /// Makes the kernel police exactly these clients. The filters' bits come first, without which the program lets them pass.
    pub(super) fn ensure_slowed(&mut self, slowed: &[Slow]) -> Result<()> {
        self.sync_clock()?;
        let clock = self.clock;
        self.maps.expect_slowed(slowed)?;
        let ticks = Ticks { per_sec: clock.ticks_per_sec(), now: clock.ticks() };
        self.maps.slow.replace(slowed, |slow| clock.ticks_at(slow.ends), ticks).map(drop)
    }

    pub(super) fn list(&mut self, now: Now) -> Result<Vec<(Client, Option<Ends>)>> {
        self.sync_clock()?;
        let mut bans = Vec::new();
        let clock = self.clock;
        self.maps
            .listing()?
            .for_each(|client, ban| bans.push((client, Some(clock.ends_at(ban.ends, now)))))?;
        Ok(bans)
    }

    /// Returns whether a ban in the kernel ends when the ledger wants it to.
    pub(super) fn ends_as_wanted(
        clock: &KernelClock,
        held: &shield_common::Ban,
        wanted: Ends,
        now: Now,
    ) -> bool {
        match (wanted, clock.ends_at(held.ends, now)) {
            (Ends::Never, Ends::Never) => true,
            (Ends::At { boot_ms: wanted, .. }, Ends::At { boot_ms: held, .. }) => {
                wanted.abs_diff(held) <= END_TOLERANCE_MS
            }
            _ => false,
        }
    }
}

/// The difference between an end in the kernel and the ledger's that is not corrected. Ticks are coarser than milliseconds,
/// and an end is rounded up to a tick.
const END_TOLERANCE_MS: u64 = 1_000;
