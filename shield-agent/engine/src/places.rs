//! Where a ban is in force: in the kernel for clients whose own packets come, in nginx for those whose packets are a proxy's.
//!
//! Being wrong here would lose a ban, hence: only what the log says for certain narrows one, only while an enforcer of the place
//! works, and only when it is made. Afterwards it can only be widened: by a request that came another way, by a leak, by an
//! enforcer that fails. `bans/peers.rs` remembers the ways.

use super::{BanRecord, Effects, Engine};
use crate::bans::peers::Ways;
use crate::vocab::action::{Order, Record};
use crate::vocab::ban::{Ban, Place};
use crate::vocab::client::Client;
use crate::vocab::event::{EnforcerName, PartState};
use crate::vocab::request::Way;

/// Bans looked at in one piece, so that lines do not wait.
const PIECE: usize = 10_000;
/// Bans widened in one piece: each is a row to write.
const WIDENED_AT_ONCE: usize = 500;

/// Whether a request that came so is dropped or refused there.
pub(crate) fn is_on_the_way(place: Place, way: Way) -> bool {
    match (place, way) {
        (Place::Everywhere, _) | (Place::Kernel, Way::Direct) | (Place::Nginx, Way::Proxied(_)) => true,
        (Place::Kernel | Place::Nginx, _) => false,
    }
}

impl Engine {
    /// Whether bans can be in force in one place and not in another.
    pub(super) fn has_places(&self) -> bool {
        let has = |enforcer| self.settings.enforcers.contains(&enforcer);
        has(EnforcerName::Nginx) && EnforcerName::KERNEL.into_iter().any(has)
    }

    /// The place of a ban that a rule makes now.
    pub(super) fn place_of(&self, client: Client) -> Place {
        let place = match self.peers.ways_of(client) {
            Ways { is_direct: true, is_proxied: false } => Place::Kernel,
            Ways { is_direct: false, is_proxied: true } => Place::Nginx,
            _ => Place::Everywhere,
        };
        if self.has_places() && self.works(place) { place } else { Place::Everywhere }
    }

    /// The place of a ban of an earlier run, which may have had other enforcers.
    pub(super) fn place_restored(&self, saved: Place) -> Place {
        let is_there = self.settings.enforcers.iter().any(|enforcer| saved.includes(*enforcer));
        if is_there { saved } else { Place::Everywhere }
    }

    fn works(&self, place: Place) -> bool {
        let mut here = self.settings.enforcers.iter().filter(|enforcer| place.includes(**enforcer));
        here.any(|enforcer| self.parts.is_active(enforcer.name()))
    }

    /// Whether every enforcer of the place has said that it does not work. At a start some have said nothing yet.
    fn has_failed(&self, place: Place) -> bool {
        let mut here = self.settings.enforcers.iter().filter(|enforcer| place.includes(**enforcer));
        here.all(|enforcer| {
            let state = self.parts.all().get(enforcer.name()).map(|part| &part.state);
            matches!(state, Some(PartState::Degraded { .. } | PartState::Off { .. }))
        })
    }

    /// Puts a ban into force everywhere, and returns it as it is then.
    pub(super) fn widen(&mut self, ban: Ban, out: &mut Effects) -> Ban {
        let Ok(bannable) = self.admit(ban.client, ban.rule) else { return ban };
        let Some(widened) = self.ledger.widen(ban.client) else { return ban };
        let Ban { ends, place, serial, .. } = widened;
        // What the store has of its reason and evidence stays.
        out.persist(Record::Extended(Box::new(BanRecord { ban: widened, reason: None, evidence: None })));
        out.enforce(Order::Ban { client: bannable, ends, place, serial });
        widened
    }

    /// Widens a ban that an enforcer of its place could not put in force.
    pub(super) fn on_denied(&mut self, client: Client, serial: u64, out: &mut Effects) {
        if let Some(ban) = self.ledger.get(client).map(|entry| entry.ban).filter(|ban| ban.serial == serial) {
            self.widen(ban, out);
        }
    }

    /// Has nginx take over the bans of the kernel when nothing there works any more.
    pub(super) fn on_part_changed(&mut self, part: &str) {
        let is_kernels = EnforcerName::KERNEL.iter().any(|enforcer| enforcer.name() == part);
        if is_kernels && self.has_places() && self.has_failed(Place::Kernel) {
            self.widen_below = self.ledger.len();
        }
    }

    /// Whether bans are still to be widened.
    pub(super) fn is_widening(&self) -> bool {
        self.widen_below > 0
    }

    /// Widens the next of the kernel's bans. From the last to the first: a ban that is removed meanwhile is replaced by the
    /// last one, which was looked at before.
    pub(super) fn widen_bans(&mut self, out: &mut Effects) {
        let end = self.widen_below.min(self.ledger.len());
        let from = end.saturating_sub(PIECE);
        let mut next = from;
        let mut narrow = Vec::new();
        for (at, entry) in self.ledger.entries_at(from..end).enumerate().rev() {
            if narrow.len() == WIDENED_AT_ONCE {
                next = from + at + 1;
                break;
            }
            if entry.ban.place == Place::Kernel && entry.lifting.is_none() {
                narrow.push(entry.ban);
            }
        }
        self.widen_below = next;
        for ban in narrow {
            self.widen(ban, out);
        }
    }
}
