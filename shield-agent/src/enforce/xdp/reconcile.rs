//! Makes the kernel hold exactly the wanted bans, and the filters exactly their bits.

use anyhow::Result;

use crate::enforce::ban::{Ban, Failure};
use crate::enforce::desired::{Desired, LOOKED_UP_AT_ONCE};
use crate::enforce::pieces::in_pieces;
use crate::enforce::reconcile::Planner;
use shield_engine::client::Client;
use shield_engine::time::Now;

use super::bans::Bans;
use super::maps::Presence;
use super::pauses::Pauses;

/// The filters are read whole in one reconcile of this many (every 10 min): that takes 0.2 s, mostly for bits that nobody
/// needs any more. The other reconciles look up only the bits that the bans need, and only the bans themselves where the
/// kernel's account of the memory shows that there are no others ...
const FULL_EVERY: u32 = 20;
/// ... up to this many bans, beyond which reading everything is as quick.
const MAX_LOOKUPS: usize = 10_000;
/// Bans handled at once when many are missing: bounds the memory of a restore.
const BANS_AT_ONCE: usize = 16_384;

/// Decides how much a reconcile reads.
pub(super) struct Reconciler {
    since_full: u32,
}

/// The bans that a reconcile added again or removed.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Difference {
    pub restored: u64,
    pub removed: u64,
}

impl Difference {
    pub(super) fn is_none(self) -> bool {
        self.restored + self.removed == 0
    }
}

impl Reconciler {
    /// The first reconcile reads everything.
    pub(super) fn new() -> Reconciler {
        Reconciler { since_full: FULL_EVERY }
    }

    /// Makes the kernel hold `desired`, additions first. Bans that have ended are not added any more; removing them takes
    /// an order of the engine.
    ///
    /// New bans get in at `pauses`. They are not in `desired`, so they are spared by the removals, and an end that they
    /// moved is not moved back.
    pub(super) fn run(
        &mut self,
        bans: &mut Bans,
        desired: &Desired,
        now: Now,
        pauses: &mut Pauses<'_>,
    ) -> Result<Difference> {
        bans.full = None;
        bans.sync_clock()?;
        if self.holds_exactly(bans, desired, now)? {
            self.check_filters(bans, desired, Difference::default(), pauses)?;
            return Ok(Difference::default());
        }
        let planner = compare(bans, desired, now, pauses)?;
        let mut failures = Vec::new();
        let restored = add_missing(bans, desired, &planner, now, pauses, &mut failures);
        let removed = remove_surplus(bans, &planner, pauses, &mut failures);
        let difference = Difference { restored, removed };
        bans.maps.accept();
        self.check_filters(bans, desired, difference, pauses)?;
        let count = failures.len();
        match failures.into_iter().next() {
            Some(Failure { client, error }) => {
                let others = if count == 1 { String::new() } else { format!(" and {} more", count - 1) };
                Err(error.context(format!("could not repair the ban of {client}{others}")))
            }
            None => Ok(difference),
        }
    }

    fn full_is_due(&self) -> bool {
        self.since_full + 1 >= FULL_EVERY
    }

    /// Returns whether the kernel holds the few wanted bans and, by its account of the memory, no others. A listing would
    /// walk the empty places of a map made for a million.
    ///
    /// False when this way cannot show it, and when a full reading is due.
    fn holds_exactly(&self, bans: &Bans, desired: &Desired, now: Now) -> Result<bool> {
        let count = bans.maps.known_count(bans.maps.memory());
        if self.full_is_due() || count != Some(desired.len()) || desired.len() > MAX_LOOKUPS {
            return Ok(false);
        }
        let clients: Vec<Client> = desired.iter().map(|ban| ban.client.client()).collect();
        let held = bans.maps.get_all(&clients)?;
        let is_right = |(held, wanted): (Option<shield_common::Ban>, Ban)| {
            held.is_some_and(|held| Bans::ends_as_wanted(&bans.clock, &held, wanted.ends, now))
        };
        Ok(held.into_iter().zip(desired.iter()).all(is_right))
    }

    fn check_filters(
        &mut self,
        bans: &mut Bans,
        desired: &Desired,
        difference: Difference,
        pauses: &Pauses<'_>,
    ) -> Result<()> {
        let slowed = bans.maps.slow.clients().to_vec();
        let banned = || desired.iter().map(|ban| ban.client.client()).chain(pauses.clients());
        let wanted = || banned().chain(slowed.iter().copied());
        let may_look_up = difference.is_none() && desired.len() <= MAX_LOOKUPS && !self.full_is_due();
        self.since_full += 1;
        if may_look_up && bans.maps.filters.hold(wanted())? {
            return Ok(());
        }
        self.since_full = 0;
        bans.maps.filters.rebuild(wanted())
    }
}

fn compare<'a>(
    bans: &mut Bans,
    desired: &'a Desired,
    now: Now,
    pauses: &mut Pauses<'_>,
) -> Result<Planner<'a, Desired>> {
    let mut planner = Planner::new(desired);
    let clock = bans.clock;
    let listing = bans.maps.listing()?;
    let see = |held: &[(Client, shield_common::Ban)]| {
        held.iter().for_each(|(client, _)| desired.prefetch(client));
        for (client, held) in held {
            planner.see(*client, |wanted: Ban| Bans::ends_as_wanted(&clock, held, wanted.ends, now));
            pauses.compared(bans);
        }
    };
    in_pieces(LOOKED_UP_AT_ONCE, see, |each| listing.for_each(|client, held| each((client, held))))?;
    Ok(planner)
}

/// Adds bans that are not there, then moves the ends of those that are: a gap is worse than a wrong end.
fn add_missing(
    bans: &mut Bans,
    desired: &Desired,
    planner: &Planner<'_, Desired>,
    now: Now,
    pauses: &mut Pauses<'_>,
    failures: &mut Vec<Failure>,
) -> u64 {
    let mut restored = 0;
    for presence in [Presence::Absent, Presence::Unknown] {
        let mut missing = planner
            .missing()
            .filter(|slot| planner.was_seen(*slot) == (presence == Presence::Unknown))
            .map(|slot| desired.ban(slot))
            .filter(|ban| !ban.ends.is_past(now));
        loop {
            let mut piece: Vec<Ban> = missing.by_ref().take(BANS_AT_ONCE).collect();
            if piece.is_empty() {
                break;
            }
            piece.retain(|ban| !pauses.banned(ban.client.client()));
            restored += piece.len() as u64;
            failures.extend(bans.ensure(&piece, presence));
            pauses.pause(bans);
        }
    }
    restored
}

fn remove_surplus(
    bans: &mut Bans,
    planner: &Planner<'_, Desired>,
    pauses: &mut Pauses<'_>,
    failures: &mut Vec<Failure>,
) -> u64 {
    let mut removed = 0;
    for piece in planner.surplus().chunks(BANS_AT_ONCE) {
        let piece: Vec<Client> = piece.iter().copied().filter(|client| !pauses.banned(*client)).collect();
        removed += piece.len() as u64;
        failures.extend(bans.remove(&piece));
        pauses.pause(bans);
    }
    removed
}
