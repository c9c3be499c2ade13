//! The performer's two queues: urgent jobs go before bulk jobs (expiries of 100,000 bans, positions).
//!
//! Serial numbers make that safe for bans. History is the exception: a lift moves the ban's row there, and the client's
//! next ban replaces that row. So a ban that overtakes brings the queued lifts of its client with it.

use std::collections::{HashMap, VecDeque};

use crate::pipeline::Job;
use shield_engine::action::{Action, Order, Record};
use shield_engine::client::Client;

/// Actions after which a bulk transaction is closed, so that a ban never waits long for the transaction before it.
const BULK_ACTIONS: usize = 2_000;

#[derive(Default)]
pub(super) struct Queue {
    urgent: VecDeque<Job>,
    bulk: VecDeque<Job>,
    /// Number of lifts in `bulk`, by client. Spares most bans a search through the whole queue.
    lifts: HashMap<Client, usize>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.bulk.is_empty()
    }

    pub(super) fn push(&mut self, job: Job) {
        if is_urgent(&job) {
            self.bring_lifts_forward(&job);
            self.urgent.push_back(job);
        } else {
            lifted(&job).for_each(|client| *self.lifts.entry(client).or_default() += 1);
            self.bulk.push_back(job);
        }
    }

    /// All urgent jobs; when there are none, a bounded number of bulk jobs.
    pub(super) fn next(&mut self) -> Vec<Job> {
        if !self.urgent.is_empty() {
            return self.urgent.drain(..).collect();
        }
        let mut piece = Vec::new();
        let mut size = 0;
        while size < BULK_ACTIONS
            && let Some(job) = self.bulk.pop_front()
        {
            self.forget_lifts(&job);
            size += job.actions.len();
            piece.push(job);
        }
        piece
    }

    fn bring_lifts_forward(&mut self, job: &Job) {
        if !banned(job).any(|client| self.lifts.contains_key(&client)) {
            return;
        }
        let ends_first = |waiting: &Job| lifted(waiting).any(|client| banned(job).any(|c| c == client));
        let (first, rest) = std::mem::take(&mut self.bulk).into_iter().partition(ends_first);
        self.bulk = rest;
        let first: VecDeque<Job> = first;
        first.iter().for_each(|job| self.forget_lifts(job));
        self.urgent.extend(first);
    }

    fn forget_lifts(&mut self, job: &Job) {
        for client in lifted(job) {
            if let Some(count) = self.lifts.get_mut(&client) {
                *count -= 1;
                if *count == 0 {
                    self.lifts.remove(&client);
                }
            }
        }
    }
}

/// Jobs that ban somebody, and those whose reply is awaited.
fn is_urgent(job: &Job) -> bool {
    job.answer.is_some() || job.actions.iter().any(|a| matches!(a, Action::Enforce(Order::Ban { .. })))
}

fn lifted(job: &Job) -> impl Iterator<Item = Client> {
    job.actions.iter().filter_map(|action| match action {
        Action::Persist(Record::Lifted { client, .. }) => Some(*client),
        _ => None,
    })
}

fn banned(job: &Job) -> impl Iterator<Item = Client> {
    job.actions.iter().filter_map(|action| match action {
        Action::Persist(Record::Banned(ban)) => Some(ban.ban.client),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use shield_engine::action::{BanRecord, LiftReason, Totals};
    use shield_engine::allowlist::Allowlist;
    use shield_engine::ban::Ban;
    use shield_engine::time::Ends;
    use shield_engine::verdict::Rule;

    fn job(actions: Vec<Action>) -> Job {
        Job { actions, exempt: None, slowed: None, answer: None }
    }

    fn bulk_job(size: usize) -> Job {
        job((0..size).map(|_| Action::Persist(Record::Totals(Totals::default()))).collect())
    }

    fn lift(client: Client, serial: u64) -> Job {
        let record = Record::Lifted { client, serial, at_ms: 0, reason: LiftReason::Expired };
        job(vec![Action::Persist(record)])
    }

    fn ban(client: Client, serial: u64) -> Job {
        let record = BanRecord {
            ban: Ban {
                client,
                serial,
                since_ms: 0,
                ends: Ends::Never,
                offence: std::num::NonZeroU32::new(1),
                rule: Rule::Flood,
                place: shield_engine::ban::Place::Everywhere,
            },
            reason: None,
            evidence: None,
        };
        let bannable = Allowlist::default().admit(client, 64).unwrap();
        let order = Order::Ban {
            client: bannable,
            ends: Ends::Never,
            place: shield_engine::ban::Place::Everywhere,
            serial,
        };
        job(vec![Action::Persist(Record::Banned(Box::new(record))), Action::Enforce(order)])
    }

    fn serials(jobs: &[Job]) -> Vec<u64> {
        let serial = |action: &Action| match action {
            Action::Persist(Record::Lifted { serial, .. }) => Some(*serial),
            Action::Persist(Record::Banned(ban)) => Some(ban.ban.serial),
            _ => None,
        };
        jobs.iter().flat_map(|job| &job.actions).filter_map(serial).collect()
    }

    #[test]
    fn what_somebody_waits_for_overtakes_the_bulk() {
        let mut queue = Queue::default();
        (0..100).for_each(|_| queue.push(bulk_job(1_000)));
        let (answer, _answered) = oneshot::channel();
        queue.push(Job { answer: Some(answer), ..bulk_job(1) });
        assert_eq!(queue.next().len(), 1);
        assert_eq!(queue.next().len(), 2, "the bulk goes on in pieces");
    }

    /// Once the older ban's history row was lost: its lift came to the database after the newer ban had taken its row.
    #[test]
    fn a_ban_does_not_overtake_the_end_of_its_clients_last_one() {
        let (one, two) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut queue = Queue::default();
        queue.push(bulk_job(1));
        queue.push(lift(one, 1));
        queue.push(lift(two, 2));
        queue.push(lift(one, 3));
        queue.push(ban(one, 4));
        assert_eq!(serials(&queue.next()), [1, 3, 4]);
        queue.push(ban(one, 5));
        assert_eq!(serials(&queue.next()), [5], "no lift of it waits any more");
        assert_eq!(serials(&queue.next()), [2]);
        assert!(queue.is_empty() && queue.lifts.is_empty());
    }
}
