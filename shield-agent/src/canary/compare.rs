//! What the two engines decided about each client, side by side.
//!
//! A client that the live engine bans sends no more lines. That the canary has not banned it by then may mean that it never would,
//! or that it would have a second later: what its rules had measured at that moment is noted, and is the reason that is shown.

use std::collections::BTreeMap;

use super::figures::Figures;
use crate::api::types::{CanaryDifference, CanaryHit};
use shield_engine::action::{BanRecord, Notice};
use shield_engine::client::Client;

/// Clients that are remembered at most.
const MAX_CLIENTS: usize = 50_000;
/// Differences that are shown at most.
const SHOWN: usize = 200;

#[derive(Debug, Clone, Default)]
struct Both {
    live: Option<CanaryHit>,
    canary: Option<CanaryHit>,
    /// What the canary's rules had measured when the live engine banned.
    spared_because: Option<String>,
    /// Why the canary only reports it, though a rule fired.
    not_made: Option<String>,
    is_known_good: bool,
    is_search_engine: bool,
}

/// What both engines decided.
#[derive(Debug, Default)]
pub(super) struct Compare {
    clients: BTreeMap<Client, Both>,
    /// Clients for which there was no room.
    left_out: u64,
    /// Banned by the live engine, and not yet looked at in the canary.
    take_spared: Vec<Client>,
    slowed: u64,
    canary_bans: u64,
}

/// Whom rules ban by a notice. Bans that the limits withhold are among them: a rule gone wrong hits so many visitors that none of
/// them is banned, and would look harmless.
pub(super) fn bans(notice: &Notice) -> &[BanRecord] {
    let records = match notice {
        Notice::Banned(record) => std::slice::from_ref(&**record),
        Notice::Withheld { bans, .. } => bans.as_slice(),
        _ => &[],
    };
    if records.iter().all(|record| record.ban.rule.is_detected()) { records } else { &[] }
}

impl Compare {
    pub(super) fn live(&mut self, notice: &Notice, now_ms: i64) {
        for record in bans(notice) {
            let client = record.ban.client;
            if let Some(both) = self.entry(client) {
                both.live.get_or_insert_with(|| hit(record, now_ms));
                self.take_spared.push(client);
            }
        }
    }

    pub(super) fn canary(&mut self, record: &BanRecord, is_known_good: bool, now_ms: i64) {
        if let Some(both) = self.entry(record.ban.client) {
            let is_first = both.canary.is_none();
            both.canary.get_or_insert_with(|| hit(record, now_ms));
            both.is_known_good |= is_known_good;
            self.canary_bans += u64::from(is_first);
        }
    }

    /// Clients that the canary would have banned.
    pub(super) fn canary_bans(&self) -> u64 {
        self.canary_bans
    }

    /// A rule of the canary's fired, and it would only report that.
    pub(super) fn not_made(&mut self, client: Client, because: &str) {
        if let Some(both) = self.entry(client) {
            both.not_made = Some(format!("the canary only reports it: {because}"));
        }
    }

    pub(super) fn slowed(&mut self) {
        self.slowed += 1;
    }

    pub(super) fn search_engine(&mut self, client: Client) {
        if let Some(both) = self.entry(client) {
            both.is_search_engine = true;
        }
    }

    /// The live engine knows it.
    pub(super) fn known_good(&mut self, client: Client) {
        if let Some(both) = self.clients.get_mut(&client) {
            both.is_known_good = true;
        }
    }

    pub(super) fn take_spared(&mut self) -> Vec<Client> {
        std::mem::take(&mut self.take_spared)
    }

    pub(super) fn spared(&mut self, client: Client, because: String) {
        if let Some(both) = self.clients.get_mut(&client).filter(|both| both.canary.is_none()) {
            both.spared_because = Some(because);
        }
    }

    fn entry(&mut self, client: Client) -> Option<&mut Both> {
        if self.clients.len() >= MAX_CLIENTS && !self.clients.contains_key(&client) {
            self.left_out += 1;
            return None;
        }
        Some(self.clients.entry(client).or_default())
    }

    pub(super) fn is_whole(&self) -> bool {
        self.left_out == 0
    }

    /// The counts of clients; the rest is for the caller.
    pub(super) fn figures(&self) -> Figures {
        let mut figures = Figures { canary_slowed: self.slowed, ..Figures::default() };
        for both in self.clients.values() {
            let is_new = only_canary(both);
            let add = |figure: &mut u64, is: bool| *figure += u64::from(is);
            add(&mut figures.live_bans, both.live.is_some());
            add(&mut figures.canary_bans, both.canary.is_some());
            add(&mut figures.only_canary, is_new);
            add(&mut figures.only_live, both.live.is_some() && both.canary.is_none());
            add(&mut figures.known_good, is_new && both.is_known_good);
            add(&mut figures.search_engines, is_new && both.is_search_engine);
            add(&mut figures.served_strangers, is_served_stranger(both));
        }
        figures
    }

    /// Those that only one of the two bans, the ones that matter most first.
    pub(super) fn differing(&self) -> Vec<CanaryDifference> {
        let mut found: Vec<(&Client, &Both)> =
            self.clients.iter().filter(|(_, both)| both.live.is_some() != both.canary.is_some()).collect();
        let rank = |both: &Both| {
            (both.is_known_good || both.is_search_engine, is_served_stranger(both), only_canary(both))
        };
        found.sort_by_key(|(_, both)| std::cmp::Reverse(rank(both)));
        let shown = |(client, both): (&Client, &Both)| CanaryDifference {
            client: *client,
            live: both.live.clone(),
            canary: both.canary.clone(),
            why_not: both
                .not_made
                .clone()
                .or_else(|| both.spared_because.clone())
                .filter(|_| both.canary.is_none()),
            is_known_good: both.is_known_good,
            is_search_engine: both.is_search_engine,
            is_served_stranger: is_served_stranger(both),
        };
        found.into_iter().take(SHOWN).map(shown).collect()
    }
}

fn only_canary(both: &Both) -> bool {
    both.canary.is_some() && both.live.is_none()
}

/// Nobody knows it, and less than half of what it asked for failed: a visitor may look the same.
fn is_served_stranger(both: &Both) -> bool {
    let is_served = |hit: &CanaryHit| u64::from(hit.errors) * 2 < u64::from(hit.requests);
    only_canary(both)
        && !both.is_known_good
        && !both.is_search_engine
        && both.canary.as_ref().is_some_and(is_served)
}

fn hit(record: &BanRecord, at_ms: i64) -> CanaryHit {
    let evidence = record.evidence.as_deref();
    CanaryHit {
        at_ms,
        rule: record.ban.rule,
        condition: evidence.map(|evidence| evidence.condition.clone()),
        requests: evidence.map_or(0, |evidence| evidence.requests),
        errors: evidence.map_or(0, |evidence| evidence.errors),
    }
}
