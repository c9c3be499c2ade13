//! New bans taken from the queue in the middle of a reconcile, and reported at once.

use shield_engine::event::Outcome;

use crate::enforce::ban::{Ban, Failure};
use crate::enforce::enforcer::Urgent;

use super::failures::{Failed, banned_outcome};
use super::lane::lock;
use super::report::Report;
use super::schedule::BANS_AT_ONCE;
use super::shared::Shared;

pub(super) struct UrgentBans<'a> {
    shared: &'a Shared,
    lane: usize,
    taken: Vec<(Ban, u64)>,
    outcomes: Vec<Outcome>,
}

impl<'a> UrgentBans<'a> {
    pub(super) fn new(shared: &'a Shared, lane: usize) -> UrgentBans<'a> {
        UrgentBans { shared, lane, taken: Vec::new(), outcomes: Vec::new() }
    }

    fn report(&mut self, failed: &Failed) {
        let orders = std::mem::take(&mut self.taken);
        let outcome = banned_outcome(self.shared.lanes[self.lane].name, &orders, failed);
        (self.shared.report)(Report::Outcome(outcome.clone()));
        self.outcomes.push(outcome);
    }

    /// Returns the outcomes reported. Bans that were taken but never carried out have failed: the reconcile panicked.
    pub(super) fn finish(mut self) -> Vec<Outcome> {
        if !self.taken.is_empty() {
            self.report(&Failed::All("the enforcer broke down".to_owned()));
        }
        self.outcomes
    }
}

impl Urgent for UrgentBans<'_> {
    fn take(&mut self) -> Vec<Ban> {
        let lane = &self.shared.lanes[self.lane];
        lane.working();
        let new = lock(&lane.queue).take_bans(BANS_AT_ONCE);
        let bans = new.iter().map(|(ban, _)| *ban).collect();
        self.taken.extend(new);
        bans
    }

    fn done(&mut self, _: &[Ban], failures: Vec<Failure>) {
        if !self.taken.is_empty() {
            self.report(&Failed::new(Ok(failures)));
        }
    }
}
