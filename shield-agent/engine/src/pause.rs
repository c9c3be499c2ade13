//! Automatic bans that do not happen: a pause by an operator, a stop by the limits, how both end, and how whoever gets through
//! meanwhile is told: many in one notice.

use super::{Effects, Engine};
use crate::bans::blast::HeldBan;
use crate::bans::pause::MAX_PAUSE_SECS;
use crate::vocab::action::{BanRecord, CommandResult, Notice, Record};
use crate::vocab::ban::{Ban, Place};
use crate::vocab::client::Client;
use crate::vocab::time::{Ends, Now, duration_words};

/// During a pause a client that a rule fired for is judged again after this long: not at every request of a flood.
const REJUDGE_MS: u64 = 10_000;

/// The time from one notice about those who get through to the next.
const TOLD_EACH_MS: u64 = 10_000;
/// Clients in one notice at most, with the evidence against each.
const TOLD_AT_ONCE: usize = 50;

/// Those who get through and were not told of yet.
#[derive(Default)]
pub(super) struct Untold {
    bans: Vec<HeldBan>,
    because: String,
    told_ms: Option<u64>,
}

impl Engine {
    /// Rules ban and slow nobody for this long. Bans in force stay.
    pub(super) fn pause(&mut self, secs: u64, note: Option<String>, now: Now, out: &mut Effects) {
        let ends = Ends::after(now, secs.clamp(1, MAX_PAUSE_SECS) * 1000);
        self.pause.begin(ends);
        out.persist(Record::Paused(self.pause.saved()));
        out.announce(Notice::Paused { ends, note });
    }

    /// Ends a pause and a stop: an operator says that those who get through are attackers. The results are theirs.
    ///
    /// The limits count from nothing again, so that a mistake has an end too.
    pub(super) fn resume(&mut self, note: Option<&str>, now: Now, out: &mut Effects) -> Vec<CommandResult> {
        let mut bans = Vec::new();
        if self.blast.is_stopped() {
            bans = self.blast.resume();
            let by =
                note.map_or("an operator said so".to_owned(), |note| format!("an operator said so: {note}"));
            out.announce(Notice::BlastRadius { stopped: false, reason: by });
        }
        for ban in &bans {
            self.punish(ban.clone(), now, out);
        }
        if self.pause.is_on() {
            bans.extend(self.end_pause(true, note, now, out));
        }
        bans.iter().map(|ban| self.result_of_resume(ban, now)).collect()
    }

    fn result_of_resume(&self, ban: &HeldBan, now: Now) -> CommandResult {
        let client = ban.client.client();
        let message = match self.ledger.ban_over(client) {
            Some(ban) => match ban.ends.remaining_ms(now) {
                Some(ms) => format!("banned for {}", duration_words(ms.div_ceil(1000))),
                None => "banned permanently".to_owned(),
            },
            None if self.slowed_over(client).is_some() => "slowed".to_owned(),
            None => "judged again".to_owned(),
        };
        CommandResult { client, ok: true, message }
    }

    /// Ends a pause whose time is over.
    pub(super) fn tick_pause(&mut self, now: Now, out: &mut Effects) {
        if self.pause.is_over(now) {
            self.end_pause(false, None, now, out);
        }
        self.tell_withheld(now, out);
    }

    fn end_pause(&mut self, by_hand: bool, note: Option<&str>, now: Now, out: &mut Effects) -> Vec<HeldBan> {
        let held = self.pause.end(now);
        out.persist(Record::Paused(self.pause.saved()));
        out.announce(Notice::PauseEnded { by_hand, note: note.map(str::to_owned) });
        for ban in &held {
            self.suppressed.remove(&ban.client.client());
            self.offend(ban.clone(), now, out);
        }
        held
    }

    /// Takes note of an offence during a pause.
    pub(super) fn hold_in_pause(&mut self, ban: HeldBan, now: Now, out: &mut Effects) {
        self.suppressed.insert(ban.client.client(), now.boot_ms + REJUDGE_MS);
        if let Some(ban) = self.pause.hold(ban, now) {
            self.withhold(vec![ban], "automatic bans are paused".to_owned(), now, out);
        }
    }

    /// Has it told who gets through, soon and together.
    pub(super) fn withhold(&mut self, bans: Vec<HeldBan>, because: String, now: Now, out: &mut Effects) {
        if bans.is_empty() {
            return;
        }
        self.untold.bans.extend(bans);
        self.untold.because = because;
        if self.untold.bans.len() >= TOLD_AT_ONCE {
            self.tell_all_withheld(now, out);
        }
    }

    fn tell_withheld(&mut self, now: Now, out: &mut Effects) {
        if !self.untold.bans.is_empty()
            && self.untold.told_ms.is_none_or(|at| at + TOLD_EACH_MS <= now.boot_ms)
        {
            self.tell_all_withheld(now, out);
        }
    }

    /// Also at the end of a replay, so that nobody is left out.
    pub(super) fn tell_all_withheld(&mut self, now: Now, out: &mut Effects) {
        let bans = std::mem::take(&mut self.untold.bans);
        if bans.is_empty() {
            return;
        }
        self.untold.told_ms = Some(now.boot_ms);
        for bans in bans.chunks(TOLD_AT_ONCE) {
            let bans = bans.iter().map(|ban| self.unmade(ban, now)).collect();
            out.announce(Notice::Withheld { bans, because: self.untold.because.clone() });
        }
    }

    /// Whoever is allowed now does not get through for want of a ban.
    pub(super) fn forget_allowed(&mut self) {
        let prefix = self.settings.ipv6_prefix;
        let is_allowed = |client: &Client| self.allowlist.admit(*client, prefix).is_err();
        let allowed: Vec<Client> = self.withheld().map(|(client, _)| client).filter(is_allowed).collect();
        for client in allowed {
            self.blast.forget(client);
            self.pause.forget(client);
        }
    }

    /// The ban as it would have been.
    fn unmade(&self, ban: &HeldBan, now: Now) -> BanRecord {
        let client = ban.client.client();
        let offence = self.ledger.next_offence(client, now);
        let made = Ban {
            client,
            serial: Ban::UNMADE,
            since_ms: now.wall_ms,
            ends: self.ledger.backoff().term(offence).ends(now),
            offence: Some(offence),
            rule: ban.evidence.rule,
            place: Place::Everywhere,
        };
        BanRecord { ban: made, reason: None, evidence: Some(ban.evidence.clone()) }
    }

    /// Goes on with the pause of an earlier run.
    ///
    /// # Errors
    /// When it cannot be read; then rules ban again.
    pub fn restore_pause(&mut self, saved: &[u8], now: Now) -> Result<(), serde_json::Error> {
        self.pause.restore(saved, now)
    }

    /// The end of a pause in progress, on the wall clock in milliseconds.
    pub fn paused_until_ms(&self) -> Option<i64> {
        self.pause.until_ms()
    }

    /// Why the limits stop automatic bans, as it is now; `None` while they do not.
    pub fn banning_stopped(&self) -> Option<String> {
        self.blast.limit().map(|limit| limit.to_string())
    }
}
