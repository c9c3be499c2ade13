//! The failures of one batch of orders, and the outcome they make.

use hashbrown::HashMap;

use crate::enforce::ban::{Ban, Failure};
use shield_engine::client::Client;
use shield_engine::event::{EnforcerName, FailedOrder, Outcome};

use super::stage::Panicked;

/// The failed clients of a batch.
pub(super) enum Failed {
    /// Every one of them, for the same reason.
    All(String),
    Some(HashMap<Client, String>),
}

impl Failed {
    pub(super) fn none() -> Failed {
        Failed::Some(HashMap::new())
    }

    pub(super) fn new(result: Result<Vec<Failure>, Panicked>) -> Failed {
        match result {
            Ok(failures) => {
                let texts = failures.into_iter().map(|f| (f.client, format!("{:#}", f.error)));
                Failed::Some(texts.collect())
            }
            Err(panicked) => Failed::All(format!("the enforcer broke down: {panicked}")),
        }
    }

    fn error_of(&self, client: &Client) -> Option<String> {
        match self {
            Failed::All(reason) => Some(reason.clone()),
            Failed::Some(failed) => failed.get(client).cloned(),
        }
    }
}

pub(super) fn banned_outcome(enforcer: EnforcerName, orders: &[(Ban, u64)], failed: &Failed) -> Outcome {
    let mut outcome = Outcome { enforcer, banned: Vec::new(), lifted: Vec::new(), failed: Vec::new() };
    for (ban, serial) in orders {
        let (client, serial) = (ban.client.client(), *serial);
        match failed.error_of(&client) {
            None => outcome.banned.push((client, serial)),
            Some(error) => outcome.failed.push(FailedOrder { client, serial, was_lift: false, error }),
        }
    }
    outcome
}

pub(super) fn lifted_outcome(enforcer: EnforcerName, orders: &[(Client, u64)], failed: &Failed) -> Outcome {
    let mut outcome = Outcome { enforcer, banned: Vec::new(), lifted: Vec::new(), failed: Vec::new() };
    for (client, serial) in orders.iter().copied() {
        match failed.error_of(&client) {
            None => outcome.lifted.push((client, serial)),
            Some(error) => outcome.failed.push(FailedOrder { client, serial, was_lift: true, error }),
        }
    }
    outcome
}
