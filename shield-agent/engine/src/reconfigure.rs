//! A change of the settings while the engine runs. What was learned, counted and banned stays; terms and limits hold for
//! bans to come.
//!
//! Bans that the new allowlist forbids are lifted in pieces: a ledger may hold a million of them, and lines wait meanwhile.

use super::{Effects, Engine};
use crate::bans::allowlist::{AllowReason, Allowed};
use crate::detect::policy::Policy;
use crate::settings::Settings;
use crate::vocab::action::{LiftReason, Order};
use crate::vocab::client::Client;
use crate::vocab::request::SourceId;
use crate::vocab::time::Now;

/// The reasons of the entries that a configuration makes.
const CONFIGURED: [AllowReason; 4] =
    [AllowReason::Configured, AllowReason::TrustedProxy, AllowReason::Cdn, AllowReason::Private];

/// Comparisons of a ban with an entry of the allowlist in one piece: some tenths of a millisecond.
const COMPARISONS: usize = 100_000;

/// Settings that take the place of those in force.
#[derive(Debug, Clone)]
pub struct NewSettings {
    /// Of these, the IPv6 prefix and the enforcers stay as they were: every ban in force depends on them.
    pub settings: Settings,
    /// Of this, the size of the table of clients stays as it was.
    pub policy: Policy,
    /// The configuration's part of the allowlist. Sorted, it is taken over fastest.
    pub allow: Vec<Allowed>,
    /// The sources that are new, with their names.
    pub sources: Vec<(SourceId, String)>,
    /// Parts that are no longer configured.
    pub gone: Vec<String>,
}

impl Engine {
    pub(super) fn on_new_settings(&mut self, new: NewSettings, now: Now, out: &mut Effects) {
        let settings = Settings {
            ipv6_prefix: self.settings.ipv6_prefix,
            enforcers: std::mem::take(&mut self.settings.enforcers),
            ..new.settings
        };
        self.ledger.set_backoff(settings.backoff.clone());
        self.blast.set_limits(settings.blast);
        self.escalation.set(settings.networks);
        self.extensions.set(settings.extension);
        self.leaks.set(settings.leak_grace_secs, settings.leak_requests);
        self.settings = settings;
        self.detector.set_policy(new.policy);
        for (id, name) in new.sources {
            self.sources.insert(id, name);
        }
        new.gone.iter().for_each(|part| self.parts.remove(part));
        self.recheck_lifted = 0;
        let before = self.allowlist.clone();
        self.allowlist.refresh(&CONFIGURED, new.allow);
        if self.allowlist != before {
            out.enforce(Order::AllowlistChanged);
            self.recheck_below = self.ledger.len();
        }
        self.recheck_slowed(now, out);
    }

    /// Whether bans are still to be compared with a changed allowlist.
    pub fn is_rechecking(&self) -> bool {
        self.recheck_below > 0
    }

    /// The bans lifted because the settings of the last change forbid them; `None` until all bans are compared.
    pub fn lifted_by_settings(&self) -> Option<u64> {
        (!self.is_rechecking()).then_some(self.recheck_lifted)
    }

    /// Lifts those of the next bans that the allowlist forbids. From the last to the first: a ban that is removed meanwhile
    /// is replaced by the last one, which was compared before.
    pub(super) fn recheck_bans(&mut self, now: Now, out: &mut Effects) {
        let end = self.recheck_below.min(self.ledger.len());
        if end == 0 {
            self.recheck_below = 0;
            return;
        }
        let piece = (COMPARISONS / self.allowlist.len().max(1)).max(1);
        let from = end.saturating_sub(piece);
        self.recheck_below = from;
        let forbidden: Vec<Client> = (self.ledger.entries_at(from..end))
            .filter(|entry| entry.lifting.is_none())
            .filter(|entry| self.admit(entry.ban.client, entry.ban.rule).is_err())
            .map(|entry| entry.ban.client)
            .collect();
        let lifts: Vec<_> = (forbidden.into_iter())
            .filter_map(|client| self.ledger.begin_lift(client, LiftReason::Allowed))
            .collect();
        self.recheck_lifted += lifts.len() as u64;
        lifts.into_iter().for_each(|ban| self.order_lift(ban, now, out));
    }
}
