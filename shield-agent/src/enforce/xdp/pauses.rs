//! The pauses of a long reconcile, in which new bans get in: comparing a million bans takes more than a second.

use hashbrown::HashSet;

use crate::enforce::enforcer::Urgent;
use shield_engine::client::Client;

use super::bans::Bans;
use super::maps::Presence;

/// Bans compared between two pauses: a few milliseconds.
const COMPARED_AT_ONCE: usize = 16_384;

pub(super) struct Pauses<'a> {
    urgent: &'a mut dyn Urgent,
    clients: HashSet<Client>,
    since_last: usize,
}

impl<'a> Pauses<'a> {
    pub(super) fn new(urgent: &'a mut dyn Urgent) -> Pauses<'a> {
        Pauses { urgent, clients: HashSet::new(), since_last: 0 }
    }

    /// Counts one compared ban; pauses now and then.
    pub(super) fn compared(&mut self, bans: &mut Bans) {
        self.since_last += 1;
        if self.since_last == COMPARED_AT_ONCE {
            self.pause(bans);
        }
    }

    /// Puts the waiting bans in force.
    pub(super) fn pause(&mut self, bans: &mut Bans) {
        self.since_last = 0;
        let waiting = self.urgent.take();
        if waiting.is_empty() {
            return;
        }
        self.clients.extend(waiting.iter().map(|ban| ban.client.client()));
        let failures = bans.ensure(&waiting, Presence::Unknown);
        self.urgent.done(&waiting, failures);
    }

    /// Returns whether this client was banned in a pause.
    pub(super) fn banned(&self, client: Client) -> bool {
        self.clients.contains(&client)
    }

    /// Iterates over the clients that were banned in pauses.
    pub(super) fn clients(&self) -> impl Iterator<Item = Client> + '_ {
        self.clients.iter().copied()
    }
}
