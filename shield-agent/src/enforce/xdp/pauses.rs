//! The pauses of a long reconcile, in which new bans get in: a million bans take more than a second to compare.
//!
//! Owns when there is a pause and who got in. What is put in force is `Running`'s business.

use hashbrown::HashSet;

use super::Running;
use super::bans::Known;
use crate::enforce::Urgent;
use shield_engine::client::Client;

/// Bans compared between two pauses: a few milliseconds.
const COMPARED_AT_A_TIME: usize = 16_384;

/// See the module.
pub(super) struct Pauses<'a> {
    urgent: &'a mut dyn Urgent,
    clients: HashSet<Client>,
    since_last: usize,
}

impl<'a> Pauses<'a> {
    /// None yet.
    pub(super) fn new(urgent: &'a mut dyn Urgent) -> Pauses<'a> {
        Pauses { urgent, clients: HashSet::new(), since_last: 0 }
    }

    /// One more ban was compared: a pause now and then.
    pub(super) fn after_one(&mut self, running: &mut Running) {
        self.since_last += 1;
        if self.since_last == COMPARED_AT_A_TIME {
            self.now(running);
        }
    }

    /// Puts in force what has come in.
    pub(super) fn now(&mut self, running: &mut Running) {
        self.since_last = 0;
        let bans = self.urgent.take();
        if bans.is_empty() {
            return;
        }
        self.clients.extend(bans.iter().map(|ban| ban.client.client()));
        let failures = running.ensure(&bans, Known::Nothing);
        self.urgent.done(&bans, failures);
    }

    /// Whether this client got in during a pause.
    pub(super) fn let_in(&self, client: Client) -> bool {
        self.clients.contains(&client)
    }

    /// Everybody who got in.
    pub(super) fn clients(&self) -> impl Iterator<Item = Client> + '_ {
        self.clients.iter().copied()
    }
}
