//! Bans that others ask for: the same door, allowlist and ledger as this host's own, and limits of their own.
//!
//! Each host decides. What an origin says is kept in [`crate::bans::remote`]; this brings the ledger up to it. A ban made here
//! carries a rule that is remote ([`Rule::is_remote`]), which is how whoever publishes knows that it is not this host's to
//! publish.

use super::{Effects, Engine, NewBan};
use crate::bans::remote::{
    Distrust, Entry, LIFT_MS, MAX_LISTED, NewEntry, OriginId, OriginState, Over, RemoteLift, Remotes, Wants,
};
use crate::detect::policy::Switch;
use crate::settings::is_too_wide_for_a_list;
use crate::tick::LIFTS_PER_TICK;
use crate::vocab::action::{BanRecord, CommandResult, LiftReason, Order, Record};
use crate::vocab::ban::{Ban, Place};
use crate::vocab::client::Client;
use crate::vocab::event::PartState;
use crate::vocab::remote::{Origin, OriginKind, Remote, RemoteBan, Said, Statement};
use crate::vocab::time::{Ends, Now};
use crate::vocab::verdict::Rule;

/// A ban that ends within this time is not taken over.
const LEAST_LEFT_MS: i64 = 5_000;
/// The end of a ban is moved when it differs by more.
const SAME_END_MS: u64 = 2_000;
/// The origin's words are cut to this length.
const MAX_WHY: usize = 200;
/// Clients served well within this time are banned on more than one origin's word.
const SERVED_SECS: u32 = 86_400;
/// The widest networks that hosts may ban where networks are accepted.
const LEAST_PREFIX_V4: u8 = 16;
const LEAST_PREFIX_V6: u8 = 32;
/// Origins named in a ban's reason.
const NAMED: usize = 3;

impl Engine {
    pub(super) fn on_remote(&mut self, remote: Remote, now: Now, out: &mut Effects) {
        for statement in remote.statements {
            self.hear(statement, now, out);
        }
        if let Some(position) = remote.position {
            self.remotes.set_position(position);
        }
    }

    /// What others want banned.
    pub fn remotes(&self) -> &Remotes {
        &self.remotes
    }

    fn hear(&mut self, statement: Statement, now: Now, out: &mut Effects) {
        let Statement { origin, stamp, ahead_ms, age_ms, is_replayed, said } = statement;
        let Some(id) = self.remotes.id(&origin) else { return };
        if !self.remotes.hears(id, stamp, now) {
            return;
        }
        match said {
            Said::Banned(ban) => {
                let RemoteBan { client, since_ms, ends_ms, why, is_suspicion } = ban;
                let client = self.client_meant(client);
                if self.remotes.is_news(client, id, stamp) {
                    let since_ms = since_ms.saturating_sub(ahead_ms).min(now.wall_ms);
                    let ends_ms = ends_ms.map(|ends| ends.saturating_sub(ahead_ms));
                    let why = tidy(&why);
                    let heard = Heard { stamp, since_ms, ends_ms, age_ms, why, is_replayed, is_suspicion };
                    self.hear_ban(client, id, heard, now, out);
                }
            }
            Said::Withdrawn(client) => {
                let client = self.client_meant(client);
                if self.remotes.withdraw(client, id, stamp, now) {
                    self.forget_entry(client, id, LiftReason::Withdrawn, now, out);
                }
            }
            Said::Lifted { client, at_ms, note } => {
                let at_ms = at_ms.saturating_sub(ahead_ms).min(now.wall_ms);
                self.hear_lift(client, id, at_ms, note, now, out);
            }
            Said::Complete { bans } => self.remotes.complete(id, stamp, bans, now),
        }
    }

    fn hear_ban(&mut self, client: Client, id: OriginId, heard: Heard, now: Now, out: &mut Effects) {
        let Heard { stamp, since_ms, ends_ms, age_ms, why, is_replayed, is_suspicion } = heard;
        let settings = self.settings.remote;
        let kind = self.remotes.state(id).origin.kind();
        let wanted_ms = ends_ms.map(|ends| ends.saturating_sub(now.wall_ms));
        let most_ms = settings.max_term_ms(kind).map(|most| most.saturating_sub(age_ms as i64));
        let left_ms = match (wanted_ms, most_ms) {
            (Some(wanted), Some(most)) => Some(wanted.min(most)),
            (wanted, most) => wanted.or(most),
        };
        if left_ms.is_some_and(|left| left <= LEAST_LEFT_MS) {
            self.remotes.heard_without_entry(client, id, stamp);
            if self.remotes.remove(client, id) {
                self.forget_entry(client, id, LiftReason::Expired, now, out);
            }
            return;
        }
        if self.is_network(client) && !is_network_accepted(client, kind, settings.accept_networks) {
            self.remotes.state_mut(id).refused_networks += 1;
            self.remotes.heard_without_entry(client, id, stamp);
            return;
        }
        if self.admit(client, kind.rule()).is_err() {
            self.remotes.state_mut(id).vetoed += 1;
            self.remotes.heard_without_entry(client, id, stamp);
            if self.remotes.remove(client, id) {
                self.forget_entry(client, id, LiftReason::Allowed, now, out);
            }
            return;
        }
        let known = self.remotes.entry(client, id).map(|entry| entry.is_counted);
        // Lists and CrowdSec do not say since when: the first time counts, so that an unban of later sets it aside.
        let since_ms = match self.remotes.entry(client, id) {
            Some(entry) if kind != OriginKind::Fleet => entry.since_ms.min(since_ms),
            _ => since_ms,
        };
        if known.is_none() && !is_suspicion && self.is_spared(client) {
            self.count_harm(client, id, now, out);
        }
        let is_counted = known == Some(true)
            || match self.remotes.over_limit(id, &settings, is_replayed, now) {
                None => true,
                Some(over) => {
                    self.report_over(id, over, now, out);
                    false
                }
            };
        let until = left_ms.map_or(Ends::Never, |ms| Ends::after(now, ms as u64));
        let entry = NewEntry { stamp, since_ms, ends_ms, until, why, is_counted, is_suspicion };
        if self.remotes.put(client, id, entry, now) {
            self.save_entry(client, id, out);
        }
        self.settle_remote(client, LiftReason::Expired, now, out);
    }

    /// An operator of another host lifted a ban.
    fn hear_lift(
        &mut self,
        client: Client,
        id: OriginId,
        at_ms: i64,
        note: Option<String>,
        now: Now,
        out: &mut Effects,
    ) {
        let client = if self.ledger.get(client).is_some() { client } else { self.client_meant(client) };
        let is_known = self.remotes.lift_of(client).is_some_and(|known| known.at_ms >= at_ms);
        if is_known || at_ms + LIFT_MS <= now.wall_ms || self.remotes.state(id).distrust.is_some() {
            return;
        }
        if let Some(over) = self.remotes.over_lift_limit(id, now) {
            return self.report_over(id, over, now, out);
        }
        let name = self.remotes.state(id).origin.name().to_owned();
        let words = match note.as_deref().map(tidy).filter(|note| !note.is_empty()) {
            Some(note) => format!("on {name}: {note}"),
            None => format!("on {name}"),
        };
        let origin = Some(self.remotes.state(id).origin.to_string());
        self.remotes.lift(client, RemoteLift { at_ms, origin, note: note.as_deref().map(tidy) });
        let is_older = |ban: &Ban| ban.since_ms <= at_ms.saturating_add(1_000);
        if self.ledger.get(client).is_some_and(|entry| entry.lifting.is_none() && is_older(&entry.ban)) {
            self.unban(client, false, Some(&words), now, out);
        }
        self.settle_remote(client, LiftReason::Operator, now, out);
    }

    /// Notes an unban of this host's operator, which others are told and which sets aside what they say.
    pub(super) fn lift_everywhere(&mut self, client: Client, note: Option<&str>, now: Now) {
        if self.settings.remote.switch.is_on() {
            let note = note.map(tidy);
            self.remotes.lift(client, RemoteLift { at_ms: now.wall_ms, origin: None, note });
            self.detector.suspect_less(client);
        }
    }

    /// Brings the ledger up to what the origins want of a client.
    pub(super) fn settle_remote(&mut self, client: Client, over: LiftReason, now: Now, out: &mut Effects) {
        let wants = self.remotes.wants(client, now);
        let current = self.ledger.get(client);
        let in_force = current.filter(|entry| entry.lifting.is_none()).map(|entry| entry.ban);
        let Some(until) = wants.until else {
            match wants.is_suspected {
                true => self.detector.suspect_more(client),
                false => self.detector.suspect_less(client),
            }
            let is_remote = in_force.is_some_and(|ban| ban.rule.is_remote());
            if is_remote && let Some(ban) = self.ledger.begin_lift(client, over) {
                self.order_lift(ban, now, out);
            }
            return;
        };
        match in_force {
            Some(ban) if ban.rule.is_remote() => self.move_end(ban, until, now, out),
            // This host's own ban. When it ends, this is asked again.
            Some(_) => {}
            None => self.ban_for_others(client, wants, until, now, out),
        }
    }

    fn ban_for_others(&mut self, client: Client, wants: Wants, ends: Ends, now: Now, out: &mut Effects) {
        let has_room = self.ledger.len() < self.settings.max_bans;
        let is_covered = self.ledger.ban_over(client).is_some();
        let is_proxy = self.peers.proxy_in(client, now.wall_secs()).is_some();
        if !has_room || is_covered || is_proxy {
            return;
        }
        let is_enough = wants.origins >= self.settings.remote.confirm || !self.is_spared(client);
        if !is_enough && !self.has_sign_of_its_own(client) {
            return self.detector.suspect_more(client);
        }
        let rule = wants.kind.map_or(Rule::Remote, OriginKind::rule);
        let Ok(bannable) = self.admit(client, rule) else { return };
        self.detector.suspect_less(client);
        let reason = Some(self.words_of(client, now));
        // Which way it would come here nobody knows.
        let place = Place::Everywhere;
        self.ban(
            NewBan { client: bannable, ends, offence: None, rule, place, reason, evidence: None },
            now,
            out,
        );
    }

    /// Moves the end of a remote ban. One that ends at the longest term is moved when half of that is over, not with every
    /// restatement.
    fn move_end(&mut self, ban: Ban, until: Ends, now: Now, out: &mut Effects) {
        let client = ban.client;
        let is_worth_it = match (ban.ends.remaining_ms(now), until.remaining_ms(now)) {
            (Some(old), Some(new)) if new > old && self.is_at_longest_term(client, now) => old < new / 2,
            (Some(old), Some(new)) => old.abs_diff(new) > SAME_END_MS,
            (old, new) => old != new,
        };
        if !is_worth_it {
            return;
        }
        let Ok(bannable) = self.admit(client, ban.rule) else { return };
        let Some(moved) = self.ledger.extend(client, until) else { return };
        let record = BanRecord { ban: moved, reason: Some(self.words_of(client, now)), evidence: None };
        out.persist(Record::Extended(Box::new(record)));
        out.enforce(Order::Ban { client: bannable, ends: until, place: moved.place, serial: moved.serial });
    }

    /// Whether an origin wants a client banned for longer than this host grants.
    fn is_at_longest_term(&self, client: Client, now: Now) -> bool {
        let wants_more = |(state, entry): (&OriginState, &Entry)| {
            let most_ms = self.settings.remote.max_term_ms(state.origin.kind());
            most_ms.is_some_and(|most| {
                entry.ends_ms.is_none_or(|ends| ends - now.wall_ms > most - LEAST_LEFT_MS)
            })
        };
        self.remotes.of(client).any(wants_more)
    }

    /// Who wants a client banned, and why.
    fn words_of(&self, client: Client, now: Now) -> String {
        let mut named = String::new();
        let counts = |state: &OriginState, entry: &Entry| {
            let counts = entry.is_counted && !entry.is_suspicion && state.distrust.is_none();
            counts && !entry.until.is_past(now)
        };
        let all: Vec<_> = self.remotes.of(client).filter(|(state, entry)| counts(state, entry)).collect();
        for (state, entry) in all.iter().take(NAMED) {
            let separator = if named.is_empty() { "" } else { "; " };
            named.push_str(separator);
            named.push_str(match state.origin.kind() {
                OriginKind::Fleet => "banned by ",
                OriginKind::Blocklist => "on the blocklist ",
                OriginKind::Crowdsec => "banned by CrowdSec",
            });
            if state.origin.kind() != OriginKind::Crowdsec {
                named.push_str(state.origin.name());
            }
            if !entry.why.is_empty() {
                named.push_str(": ");
                named.push_str(&entry.why);
            }
        }
        match all.len().saturating_sub(NAMED) {
            0 => named,
            more => format!("{named}; and by {more} more"),
        }
    }

    fn is_network(&self, client: Client) -> bool {
        let single = if client.network().addr().is_ipv4() { 32 } else { self.settings.ipv6_prefix };
        client.network().prefix_len() < single
    }

    /// Whether a client was served well here within a day, so that one origin's word is not enough.
    fn is_spared(&self, client: Client) -> bool {
        self.detector.served_well_within(client, SERVED_SECS)
    }

    /// Whether this host saw something itself that speaks against the client.
    fn has_sign_of_its_own(&self, client: Client) -> bool {
        self.blast.is_held(client) || self.slowing.get(client).is_some()
    }

    fn count_harm(&mut self, client: Client, id: OriginId, now: Now, out: &mut Effects) {
        let good = self.detector.clients_in_good_standing();
        let share = self.settings.blast.max_share;
        let most = (share * good as f64) as usize;
        let Some(hits) = self.remotes.harms(id, client, most, now) else { return };
        let reason = format!(
            "it wanted {hits} clients banned within 10 min that were served well here (of {good} that are here now; \
             max_share = {share} in [ban]): nothing that it says counts for an hour, and its bans are lifted"
        );
        self.report_origin(id, PartState::Degraded { reason }, now, out);
        self.settle_all_of(id, LiftReason::Withdrawn, now, out);
    }

    fn report_over(&mut self, id: OriginId, over: Over, now: Now, out: &mut Effects) {
        let settings = self.settings.remote;
        let reason = match over {
            Over::Minute => format!(
                "it banned more than {} clients within a minute (max_new_per_min in [fleet]): further ones are only noted until \
                 it keeps to that for 10 min",
                settings.max_new_per_min
            ),
            Over::Live => format!(
                "it bans more than {} clients at once (max_live in [fleet]): further ones are only noted",
                settings.max_live
            ),
            Over::Listed => format!(
                "it holds more than {MAX_LISTED} clients, which is the most: further ones are only noted"
            ),
            Over::Lifts => {
                "it lifted more than 60 bans within a minute: further lifts of it are left out".to_owned()
            }
        };
        self.report_origin(id, PartState::Degraded { reason }, now, out);
    }

    fn report_origin(&mut self, id: OriginId, state: PartState, now: Now, out: &mut Effects) {
        let origin = &self.remotes.state(id).origin;
        let part = match origin.kind() {
            OriginKind::Fleet => format!("origin:{}", origin.name()),
            _ => format!("origin:{origin}"),
        };
        out.announce.extend(self.parts.report(&part, state, now));
    }

    fn settle_all_of(&mut self, id: OriginId, over: LiftReason, now: Now, out: &mut Effects) {
        for client in self.remotes.clients_of(id) {
            self.settle_remote(client, over, now, out);
        }
    }

    /// Lifts everything that one origin wanted, and hears it no more.
    pub(super) fn forget_origin(
        &mut self,
        origin: &Origin,
        now: Now,
        out: &mut Effects,
    ) -> Vec<CommandResult> {
        let Some(id) = self.remotes.known_id(origin) else { return Vec::new() };
        self.remotes.state_mut(id).distrust = Some(Distrust::Operator);
        let reason =
            "an operator said that it is not to be believed: `shield-agent fleet trust` ends that".to_owned();
        self.report_origin(id, PartState::Off { reason }, now, out);
        let clients = self.remotes.clients_of(id);
        let mut results = Vec::new();
        for client in clients {
            self.remotes.remove(client, id);
            let was_banned = self.ledger.get(client).is_some_and(|entry| entry.lifting.is_none());
            self.forget_entry(client, id, LiftReason::Operator, now, out);
            let is_banned = self.ledger.get(client).is_some_and(|entry| entry.lifting.is_none());
            let message = match (was_banned, is_banned) {
                (true, false) => "unbanned",
                (true, true) => "stays banned: others want it too",
                (false, _) => "was not banned",
            };
            results.push(CommandResult { client, ok: true, message: message.to_owned() });
        }
        results
    }

    /// Believes an origin again. Returns whether it was known.
    pub(super) fn trust_origin(&mut self, origin: &Origin, now: Now, out: &mut Effects) -> bool {
        let Some(id) = self.remotes.known_id(origin) else { return false };
        self.remotes.state_mut(id).distrust = None;
        self.report_trusted(id, now, out);
        self.settle_all_of(id, LiftReason::Withdrawn, now, out);
        true
    }

    fn report_trusted(&mut self, id: OriginId, now: Now, out: &mut Effects) {
        let state = self.remotes.state(id);
        if state.distrust.is_none() && !state.is_limited() {
            let detail = "what it says counts".to_owned();
            self.report_origin(id, PartState::Active { detail }, now, out);
        }
    }

    pub(super) fn tick_remote(&mut self, now: Now, out: &mut Effects) {
        if self.remotes.has_nothing_to_settle() {
            return;
        }
        for (client, id) in self.remotes.expire(now, LIFTS_PER_TICK) {
            self.forget_entry(client, id, LiftReason::Expired, now, out);
        }
        for (client, id) in self.remotes.sweep(now, LIFTS_PER_TICK) {
            self.forget_entry(client, id, LiftReason::Withdrawn, now, out);
        }
        if (now.boot_ms / 1000).is_multiple_of(60) {
            for id in self.remotes.each_minute(now) {
                self.report_trusted(id, now, out);
                self.settle_all_of(id, LiftReason::Withdrawn, now, out);
            }
        }
        self.save_remote(out);
    }

    /// Saves an entry's end and settles its client.
    fn forget_entry(&mut self, client: Client, id: OriginId, over: LiftReason, now: Now, out: &mut Effects) {
        self.save_entry(client, id, out);
        self.settle_remote(client, over, now, out);
    }

    fn save_entry(&self, client: Client, id: OriginId, out: &mut Effects) {
        let origin = self.remotes.state(id).origin.to_string();
        let entry = self.remotes.saved_entry(client, id);
        out.persist(Record::Remote { origin, client, entry });
    }

    pub(super) fn save_remote(&mut self, out: &mut Effects) {
        if let Some(state) = self.remotes.changed() {
            out.persist(Record::RemoteState(state));
        }
    }

    /// Restores what is known of the origins. To be called before [`Engine::restore_remote`].
    ///
    /// # Errors
    /// When it cannot be read. Everything is then heard anew.
    pub fn restore_remote_state(&mut self, saved: &[u8]) -> Result<(), serde_json::Error> {
        self.remotes.restore_state(saved)
    }

    /// Restores what an origin wanted of a client.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn restore_remote(
        &mut self,
        origin: &str,
        client: Client,
        saved: &[u8],
        now: Now,
    ) -> Result<(), serde_json::Error> {
        let Some(origin) = Origin::parse(origin) else { return Ok(()) };
        self.remotes.restore_entry(&origin, client, saved, &self.settings.remote, now).map(drop)
    }
}

/// Whether a network may be banned by the word of an origin of this kind.
fn is_network_accepted(client: Client, kind: OriginKind, accept_networks: Switch) -> bool {
    if kind != OriginKind::Fleet {
        return !is_too_wide_for_a_list(client);
    }
    let least = if client.network().addr().is_ipv4() { LEAST_PREFIX_V4 } else { LEAST_PREFIX_V6 };
    accept_networks.is_on() && client.network().prefix_len() >= least
}

/// A statement about a client, on this host's clock.
struct Heard {
    stamp: u64,
    since_ms: i64,
    ends_ms: Option<i64>,
    age_ms: u64,
    why: String,
    is_replayed: bool,
    is_suspicion: bool,
}

/// Others' words: short, and without anything that does not print.
fn tidy(words: &str) -> String {
    let printable = |char: char| if char.is_control() { ' ' } else { char };
    words.trim().chars().map(printable).take(MAX_WHY).collect()
}
