//! The passing of time: expiry, retries, samples, global anomalies, saving.

use super::{Effects, Engine};
use crate::bans::blast::HeldBan;
use crate::vocab::action::{LiftReason, Notice, Order, Record};
use crate::vocab::client::Client;
use crate::vocab::report::GlobalChange;
use crate::vocab::time::Now;

/// Lifts started at most per tick, so that 100,000 ends in one second never delay a new ban.
pub(crate) const LIFTS_PER_TICK: usize = 2_000;
/// The slow lane is saved as a whole: each second while it is short, else every few.
const SLOWED_SAVED_EACH_SECOND: usize = 256;
const SLOWED_SAVE_SECS: u64 = 5;
/// The time between two saves of the baseline.
const BASELINE_SAVE_MS: u64 = 60_000;
/// The time until a lift that an enforcer did not confirm is ordered again.
const LIFT_RETRY_MS: u64 = 5_000;
/// A backlog without new lines for this long is taken as read to its end.
const BACKLOG_OVER_MS: u64 = 2_000;
/// The time for which a verified search engine is not evaluated.
pub(super) const VERIFIED_SUPPRESSION_MS: u64 = 86_400_000;

/// A verdict that waits for DNS.
pub(super) struct Awaiting {
    pub(super) ban: HeldBan,
    pub(super) until_ms: u64,
}

impl Engine {
    pub(super) fn on_tick(&mut self, now: Now, out: &mut Effects) {
        if !self.is_catching_up(now) {
            for change in self.detector.tick(now.wall_secs()) {
                out.announce(global_notice(change));
            }
        }
        // Retries first, so that a lift begun by this tick is not ordered twice.
        if self.second_passed(now) {
            self.each_second(now, out);
        }
        self.expire(now, out);
        self.sample(now, out);
        self.settle_awaiting(now, out);
        self.tick_rules(now, out);
    }

    /// While a backlog is read, its lines carry the time: by the wall clock every one of them would be late.
    pub(super) fn is_catching_up(&self, now: Now) -> bool {
        self.backlog_at_ms.is_some_and(|at| now.boot_ms < at + BACKLOG_OVER_MS)
    }

    /// The next moment on the boot clock at which a tick has something to do, besides the tick of every second.
    pub fn next_deadline(&self) -> Option<u64> {
        if self.is_rechecking() || self.is_widening() { Some(0) } else { self.ledger.next_deadline() }
    }

    fn expire(&mut self, now: Now, out: &mut Effects) {
        if self.ledger.next_deadline().is_none_or(|at_ms| at_ms > now.boot_ms) {
            return;
        }
        for ban in self.ledger.expire(now, LIFTS_PER_TICK) {
            if !self.remotes.is_empty() {
                self.settle_remote(ban.client, LiftReason::Expired, now, out);
                // Others still want it banned: it goes over to them without a gap.
                if self.ledger.get(ban.client).is_some_and(|entry| entry.lifting.is_none()) {
                    continue;
                }
            }
            self.order_lift(ban, now, out);
        }
    }

    fn sample(&mut self, now: Now, out: &mut Effects) {
        if !self.extensions.is_due(&self.ledger, now) {
            return;
        }
        for (client, serial) in self.extensions.due(&mut self.ledger, now, LIFTS_PER_TICK) {
            if self.ledger.get(client).is_some_and(|entry| entry.ban.serial == serial) {
                out.enforce(Order::SampleActivity { client, serial });
            }
        }
    }

    /// Goes ahead with bans that DNS did not answer in time, so that a slow resolver protects nobody.
    fn settle_awaiting(&mut self, now: Now, out: &mut Effects) {
        if self.awaiting_dns.is_empty() {
            return;
        }
        let mut late: Vec<(u64, Client)> = self
            .awaiting_dns
            .iter()
            .map(|(client, awaiting)| (awaiting.until_ms, *client))
            .filter(|(until_ms, _)| *until_ms <= now.boot_ms)
            .collect();
        // Oldest first, as they would have come.
        late.sort_unstable();
        for (_, client) in late {
            if let Some(awaiting) = self.awaiting_dns.remove(&client) {
                self.offend(awaiting.ban, now, out);
            }
        }
    }

    fn second_passed(&mut self, now: Now) -> bool {
        let second = now.boot_ms / 1000;
        std::mem::replace(&mut self.last_second, second) != second
    }

    fn each_second(&mut self, now: Now, out: &mut Effects) {
        if self.keeps_records() {
            self.save_progress(out);
        }
        self.tick_slow_lane(now, out);
        self.tick_remote(now, out);
        self.settle_held(now, out);
        self.tick_pause(now, out);
        self.tick_allowlist(now, out);
        self.judge_networks(now, out);
        if !self.suppressed.is_empty() {
            self.suppressed.retain(|_, until| *until > now.boot_ms);
        }
        let second = now.boot_ms / 1000;
        if second.is_multiple_of(LIFT_RETRY_MS / 1000) {
            self.retry_lifts(out);
        }
        if self.slowed_count() <= SLOWED_SAVED_EACH_SECOND || second.is_multiple_of(SLOWED_SAVE_SECS) {
            self.save_slowed(out);
        }
        if second.is_multiple_of(60) {
            self.malformed_lines.clear();
        }
        if second.is_multiple_of(3600) {
            for client in self.ledger.forget_old_offences(now.wall_secs()) {
                out.persist(Record::OffencesForgotten(client));
            }
        }
        if self.keeps_records() && now.boot_ms >= self.baseline_saved_ms + BASELINE_SAVE_MS {
            self.save_baseline(now, out);
        }
    }

    fn keeps_records(&self) -> bool {
        self.settings.records_progress.is_on()
    }

    /// Orders unconfirmed lifts again, a bounded number at a time.
    fn retry_lifts(&mut self, out: &mut Effects) {
        // Without this every retry would walk a ledger of possibly a million bans.
        if self.ledger.lifting_count() == 0 {
            return;
        }
        let stuck = self.ledger.entries().filter(|entry| entry.lifting.is_some()).take(LIFTS_PER_TICK);
        out.enforce
            .extend(stuck.map(|entry| Order::Lift { client: entry.ban.client, serial: entry.ban.serial }));
    }

    /// Saves positions and totals that have changed.
    pub(super) fn save_progress(&mut self, out: &mut Effects) {
        for (_, checkpoint) in std::mem::take(&mut self.checkpoints) {
            out.persist(Record::Checkpoint(checkpoint));
        }
        if self.totals != self.totals_saved {
            self.totals_saved = self.totals;
            out.persist(Record::Totals(self.totals));
        }
    }

    pub(super) fn save_baseline(&mut self, now: Now, out: &mut Effects) {
        self.baseline_saved_ms = now.boot_ms;
        out.persist(Record::Baseline(self.detector.save()));
    }
}

fn global_notice(change: GlobalChange) -> Notice {
    match change {
        GlobalChange::Started { condition, rate, mean, stddev, .. } => {
            Notice::GlobalAnomalyStarted { condition, rate, mean, stddev }
        }
        GlobalChange::Ended { rate, mean, lasted_secs, .. } => {
            Notice::GlobalAnomalyEnded { rate, mean, lasted_secs }
        }
    }
}
