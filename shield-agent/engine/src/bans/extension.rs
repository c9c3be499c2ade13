//! Extension of bans whose flood goes on: the drop counters are sampled twice shortly before the end, and if packets
//! still arrive, the end is moved before the flood gets through.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::num::NonZeroU32;

use crate::bans::backoff::{Backoff, Term};
use crate::bans::ledger::{DueSample, Ledger};
use crate::settings::{ExtendBy, Extension};
use crate::vocab::ban::Ban;
use crate::vocab::client::Client;
use crate::vocab::time::{Ends, Now};

/// The time between the two samples, over which the rate is measured.
const MEASURED_MS: u64 = 10_000;
/// Shorter bans are over before both samples are taken.
const SHORTEST_MS: u64 = 20_000;

/// The extension in seconds when every term of the ladder is permanent.
const LADDER_OF_PERMANENT_SECS: u64 = 600;

/// The samples already taken. When the first one of a ban is due, the ledger knows.
pub(crate) struct Extensions {
    settings: Extension,
    /// The second samples of those whose first was due.
    seconds: BinaryHeap<Reverse<DueSample>>,
    samples: BTreeMap<Client, Sample>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    serial: u64,
    at_ms: u64,
    packets: u64,
}

impl Extensions {
    pub(crate) fn new(settings: Extension) -> Extensions {
        Extensions { settings, seconds: BinaryHeap::new(), samples: BTreeMap::new() }
    }

    pub(crate) fn set(&mut self, settings: Extension) {
        self.settings = settings;
    }

    /// Schedules the samples of a new or moved ban. Only the detector's bans are extended: an operator's term stands.
    pub(crate) fn watch(&self, ban: &Ban, ledger: &mut Ledger, now: Now) {
        let long_enough = ban.ends.remaining_ms(now).is_some_and(|left_ms| left_ms >= SHORTEST_MS);
        if self.settings.by != ExtendBy::Off && ban.rule.is_detected() && long_enough {
            ledger.sample(ban.client);
        }
    }

    /// Whether [`Extensions::due`] may find something.
    pub(crate) fn is_due(&self, ledger: &Ledger, now: Now) -> bool {
        let second = self.seconds.peek().map(|Reverse(second)| second.at_ms);
        second.into_iter().chain(ledger.next_sample()).any(|at_ms| at_ms <= now.boot_ms)
    }

    /// Clients (with the serial numbers of their bans) whose counters are to be sampled now, at most `limit`.
    pub(crate) fn due(&mut self, ledger: &mut Ledger, now: Now, limit: usize) -> Vec<(Client, u64)> {
        let mut due = Vec::new();
        while due.len() < limit
            && let Some(Reverse(second)) = self.seconds.peek()
            && second.at_ms <= now.boot_ms
        {
            due.push((second.client, second.serial));
            self.seconds.pop();
        }
        for first in ledger.due_samples(now, limit - due.len()) {
            due.push((first.client, first.serial));
            self.seconds.push(Reverse(DueSample { at_ms: first.at_ms + MEASURED_MS, ..first }));
        }
        due
    }

    /// Records a sample. Returns the packets per second between both samples when the flood goes on.
    pub(crate) fn sampled(&mut self, client: Client, serial: u64, packets: u64, now: Now) -> Option<f64> {
        let first = self.samples.remove(&client).filter(|s| s.serial == serial);
        let Some(first) = first else {
            self.samples.insert(client, Sample { serial, at_ms: now.boot_ms, packets });
            return None;
        };
        let secs = now.boot_ms.saturating_sub(first.at_ms) as f64 / 1000.0;
        let rate = packets.saturating_sub(first.packets) as f64 / secs.max(1.0);
        // Off when it was switched off after the ban began.
        let is_on = self.settings.by != ExtendBy::Off;
        (is_on && rate >= self.settings.min_packets_per_sec).then_some(rate)
    }

    /// Discards the sample of a ban that ended.
    pub(crate) fn forget(&mut self, client: Client) {
        self.samples.remove(&client);
    }

    /// The new end of a ban whose flood goes on.
    pub(crate) fn new_end(&self, ban: &Ban, backoff: &Backoff, now: Now) -> Ends {
        let offence = ban.offence.unwrap_or(NonZeroU32::MIN);
        let step = match self.settings.by {
            ExtendBy::NextTerm => backoff.term(offence.saturating_add(1)),
            ExtendBy::SameTerm | ExtendBy::Off => backoff.term(offence),
        };
        // A flood alone makes no ban permanent: the longest other term is used instead.
        let secs = match step {
            Term::Secs(secs) => secs,
            Term::Permanent => longest_ending(backoff, offence),
        };
        let left_ms = ban.ends.remaining_ms(now).unwrap_or(0);
        Ends::after(now, left_ms + secs * 1000)
    }
}

/// The longest term up to this offence that is not permanent, in seconds.
fn longest_ending(backoff: &Backoff, offence: NonZeroU32) -> u64 {
    let terms = backoff.terms().iter().take(offence.get() as usize).rev();
    terms.copied().find_map(Term::secs).unwrap_or(LADDER_OF_PERMANENT_SECS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bans::allowlist::Allowlist;
    use crate::seeded_map::SeededState;
    use crate::settings::Settings;
    use crate::vocab::ban::Place;
    use crate::vocab::verdict::Rule;

    const T0: Now = Now { wall_ms: 0, boot_ms: 1_000_000 };

    fn ban(rule: Rule, ms: u64, offence: u32) -> Ban {
        Ban {
            client: "192.0.2.1".parse().unwrap(),
            serial: 7,
            since_ms: T0.wall_ms,
            ends: Ends::after(T0, ms),
            offence: NonZeroU32::new(offence),
            rule,
            place: Place::Everywhere,
        }
    }

    fn extensions() -> Extensions {
        Extensions::new(Settings::default().extension)
    }

    /// A ledger with this ban, which is watched.
    fn watched(ext: &Extensions, ban: Ban) -> Ledger {
        let mut ledger = Ledger::new(Backoff::default(), 64, 1, SeededState::new(7));
        ledger.restore(Allowlist::default().admit(ban.client, 64).unwrap(), ban, T0);
        ext.watch(&ban, &mut ledger, T0);
        ledger
    }

    #[test]
    fn a_flood_that_still_comes_is_measured_between_two_samples() {
        let mut ext = extensions();
        let ban = ban(Rule::ZScore, 600_000, 1);
        let mut ledger = watched(&ext, ban);
        assert!(ext.due(&mut ledger, T0.plus_ms(587_999), 9).is_empty());
        assert_eq!(ext.due(&mut ledger, T0.plus_ms(588_000), 9), [(ban.client, 7)]);
        assert_eq!(ext.sampled(ban.client, 7, 100, T0.plus_ms(588_000)), None);
        assert!(ext.due(&mut ledger, T0.plus_ms(597_999), 9).is_empty());
        assert_eq!(ext.due(&mut ledger, T0.plus_ms(598_000), 9), [(ban.client, 7)]);
        assert_eq!(ext.sampled(ban.client, 7, 150, T0.plus_ms(598_000)), Some(5.0));
        let end = ext.new_end(&ban, &Backoff::default(), T0.plus_ms(598_000));
        assert_eq!(end.remaining_ms(T0.plus_ms(598_000)), Some(602_000));
    }

    #[test]
    fn a_client_that_went_quiet_is_not_extended() {
        let mut ext = extensions();
        assert_eq!(ext.sampled(ban(Rule::ZScore, 1, 1).client, 7, 100, T0), None);
        assert_eq!(ext.sampled(ban(Rule::ZScore, 1, 1).client, 7, 105, T0.plus_ms(10_000)), None);
    }

    #[test]
    fn an_operators_ban_and_a_short_one_are_left_alone() {
        let mut ext = extensions();
        for ban in [ban(Rule::Operator, 600_000, 0), ban(Rule::ZScore, 19_999, 1)] {
            let mut ledger = watched(&ext, ban);
            assert!(ext.due(&mut ledger, T0.plus_ms(10_000_000), 9).is_empty());
        }
    }

    #[test]
    fn a_flood_alone_makes_no_ban_permanent() {
        let mut settings = Settings::default().extension;
        settings.by = ExtendBy::NextTerm;
        let end = Extensions::new(settings).new_end(&ban(Rule::ZScore, 0, 3), &Backoff::default(), T0);
        assert_eq!(end.remaining_ms(T0), Some(7_200_000));
    }
}
