//! A pause of automatic bans that an operator asked for: until when, and whom rules would ban meanwhile.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bans::blast::HeldBan;
use crate::vocab::client::Client;
use crate::vocab::time::{Ends, Now};
use crate::vocab::verdict::Evidence;

/// The longest pause: whoever wants none for longer switches to a dry run, which says so wherever one looks.
pub const MAX_PAUSE_SECS: u64 = 7 * 86_400;

/// Clients remembered at most; further ones are let through and not listed.
const MAX_HELD: usize = 10_000;

/// Who did nothing for this long when the pause ends is not banned for what is past.
const GIVEN_UP_MS: u64 = 60_000;

#[derive(Default)]
pub(crate) struct Pause {
    ends: Option<Ends>,
    held: BTreeMap<Client, (HeldBan, u64)>,
}

/// What outlives a restart.
#[derive(Serialize, Deserialize)]
struct Saved {
    until_ms: i64,
}

impl Pause {
    pub(crate) fn begin(&mut self, ends: Ends) {
        self.ends = Some(ends);
    }

    pub(crate) fn is_on(&self) -> bool {
        self.ends.is_some()
    }

    /// The end, on the wall clock in milliseconds.
    pub(crate) fn until_ms(&self) -> Option<i64> {
        match self.ends? {
            Ends::At { wall_ms, .. } => Some(wall_ms),
            Ends::Never => None,
        }
    }

    pub(crate) fn is_over(&self, now: Now) -> bool {
        self.ends.is_some_and(|ends| ends.is_past(now))
    }

    /// Remembers whom a rule would ban. Returns the ban when it is new, to be announced.
    pub(crate) fn hold(&mut self, ban: HeldBan, now: Now) -> Option<HeldBan> {
        let client = ban.client.client();
        if let Some(known) = self.held.get_mut(&client) {
            *known = (ban, now.boot_ms);
            return None;
        }
        if self.held.len() >= MAX_HELD {
            return None;
        }
        self.held.insert(client, (ban.clone(), now.boot_ms));
        Some(ban)
    }

    /// Forgets a client that was banned, unbanned or allowed by hand.
    pub(crate) fn forget(&mut self, client: Client) {
        self.held.remove(&client);
    }

    /// Ends the pause, and returns those for whom a rule fired shortly before.
    pub(crate) fn end(&mut self, now: Now) -> Vec<HeldBan> {
        self.ends = None;
        let held = std::mem::take(&mut self.held).into_values();
        held.filter(|(_, at)| at + GIVEN_UP_MS > now.boot_ms).map(|(ban, _)| ban).collect()
    }

    pub(crate) fn held(&self) -> impl Iterator<Item = (Client, &Evidence)> {
        self.held.iter().map(|(client, (ban, _))| (*client, &*ban.evidence))
    }

    /// The record of the pause, empty for none.
    pub(crate) fn saved(&self) -> Vec<u8> {
        let saved = self.until_ms().map(|until_ms| Saved { until_ms });
        saved.map_or(Vec::new(), |saved| serde_json::to_vec(&saved).expect("one number can be encoded"))
    }

    /// Goes on with the pause of an earlier run, by the wall clock and no longer than a pause may last.
    pub(crate) fn restore(&mut self, saved: &[u8], now: Now) -> Result<(), serde_json::Error> {
        if saved.is_empty() {
            return Ok(());
        }
        let Saved { until_ms } = serde_json::from_slice(saved)?;
        let left_ms = u64::try_from(until_ms.saturating_sub(now.wall_ms)).unwrap_or(0);
        // One that ended meanwhile ends with the first tick, which records and announces it.
        self.ends = Some(Ends::after(now, left_ms.min(MAX_PAUSE_SECS * 1000)));
        Ok(())
    }
}
