//! Decides which clients to ban. No I/O and no clock: time comes in as an argument, effects go out as data.
//!
//! Everything that happens is an [`event::Event`], everything to be done about it an [`action::Action`];
//! [`Engine::handle`] turns one into the other. Log lines are handled in `lines`, operators' commands in `commands`,
//! reports of enforcers and other parts in `outcomes`, and the passing of time in `tick`.

#![allow(missing_docs, reason = "not published: a doc stands where a name does not say everything")]
#![cfg_attr(
    not(feature = "test-support"),
    allow(unreachable_pub, reason = "the items behind `test_support` are public for it alone")
)]

mod bans;
mod commands;
mod detect;
mod lead;
mod lines;
mod outcomes;
pub mod parts;
mod pause;
mod places;
pub mod reconfigure;
mod remote;
mod rules;
mod seeded_map;
pub mod settings;
mod slow;
#[cfg(test)]
mod tests;
mod tick;
pub mod timeline;
mod vocab;

#[cfg(feature = "test-support")]
pub mod test_support {
    //! Inner parts for fuzz targets and benchmarks.

    pub use crate::detect::{detector, hash, rules, served_path, shape, trace};
}

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU32;

use ipnet::IpNet;

pub use bans::allow_ends::MAX_ALLOW_SECS;
pub use bans::pause::MAX_PAUSE_SECS;
/// The operators' own rules: what they are asked, and what they say.
pub mod operator_rules {
    pub use crate::rules::{PolicyAnswer, PolicyQuestion};
    pub use crate::vocab::policy::{PolicyAction, PolicyTerm, PolicyWord};
}
/// What others want banned, as it is kept here.
pub use bans::remote as remotes;
pub use bans::{allowlist, backoff, slot_index};
pub use detect::detector::TopWalk;
pub use detect::path_reader::{PathReader, ReadPaths};
pub use detect::{policy, served_path};
pub use vocab::{
    action, ban, client, event, remote as origin, report, request, slow as slowed, time, verdict,
};

use crate::bans::allow_ends::AllowEnds;
use crate::bans::allowlist::{AllowReason, Allowed, Allowlist, BannableClient};
use crate::bans::blast::BlastRadius;
use crate::bans::escalation::Escalation;
use crate::bans::extension::Extensions;
use crate::bans::leaks::Leaks;
use crate::bans::ledger::{Finished, Ledger, Pending};
use crate::bans::pause::Pause;
use crate::bans::peers::Peers;
use crate::bans::remote::Remotes;
use crate::bans::slow::Slowing;
use crate::detect::detector::{BadBaseline, Detector, LOOK_AHEAD, Prepared};
use crate::detect::policy::Policy;
use crate::lead::Lead;
use crate::parts::Parts;
use crate::seeded_map::{SeededMap, SeededState};
use crate::settings::Settings;
use crate::timeline::Timeline;
use crate::vocab::action::{Action, BanRecord, LiftReason, Notice, Order, Record, Totals};
use crate::vocab::ban::{Ban, Place};
use crate::vocab::client::Client;
use crate::vocab::event::Event;
use crate::vocab::request::{Checkpoint, RejectedCounts, SourceId};
use crate::vocab::time::{Ends, Now};
use crate::vocab::verdict::{Evidence, Rule};

/// The decision engine. One owner runs it, and nothing else changes the state of bans (invariant 2).
pub struct Engine {
    settings: Settings,
    detector: Detector,
    ledger: Ledger,
    allowlist: Allowlist,
    allow_ends: AllowEnds,
    pending: Pending,
    parts: Parts,
    blast: BlastRadius,
    pause: Pause,
    untold: pause::Untold,
    escalation: Escalation,
    extensions: Extensions,
    leaks: Leaks,
    peers: Peers,
    slowing: Slowing,
    /// What was last reported of the slow lane.
    lane_reported: Option<slow::Lane>,
    remotes: Remotes,
    /// Clients in doubt of which DNS is asked whether they are search engines.
    doubts_awaiting: BTreeMap<Client, slow::DoubtAwaiting>,
    /// Anomalous clients that are not banned (protected, behind a proxy, blast radius) and the moment on the boot clock
    /// until which they are not evaluated: every further request would announce them anew.
    suppressed: SeededMap<Client, u64>,
    /// Verdicts that wait for DNS to verify a search engine's address.
    awaiting_dns: BTreeMap<Client, tick::Awaiting>,
    rules: rules::Rules,
    /// Malformed lines of each client in the current minute.
    malformed_lines: BTreeMap<Client, u32>,
    /// Operators' reasons for lifts that are not over yet.
    unban_notes: BTreeMap<Client, String>,
    /// Positions not saved yet, by source.
    checkpoints: BTreeMap<String, Checkpoint>,
    sources: BTreeMap<SourceId, String>,
    /// The latest announcement of each source's clock skew, on the boot clock.
    skew_announced_ms: BTreeMap<Option<SourceId>, u64>,
    /// The latest arrival of lines of a backlog, on the boot clock.
    backlog_at_ms: Option<u64>,
    lead: Lead,
    timeline: Timeline,
    /// Kept for its memory.
    prepared: Vec<Prepared>,
    /// Bans at positions below this are still to be compared with a changed allowlist.
    recheck_below: usize,
    /// Bans at positions below this are still to be put into force everywhere, where the kernel alone was to hold them.
    widen_below: usize,
    /// Bans lifted since the allowlist was last configured anew, because it forbids them.
    recheck_lifted: u64,
    totals: Totals,
    rejected: RejectedCounts,
    bans_by_rule: BTreeMap<Rule, u64>,
    totals_saved: Totals,
    baseline_saved_ms: u64,
    last_second: u64,
}

impl Engine {
    /// An engine that has seen nothing. Serial numbers start at `next_serial` (1 in a new installation).
    ///
    /// `seed` spreads every hash table: the same events and seed give the same actions in every process (a replay
    /// uses a constant). The agent draws a random one, so that no client can aim at a table.
    pub fn new(
        settings: Settings,
        policy: Policy,
        allowlist: Allowlist,
        next_serial: u64,
        seed: u64,
    ) -> Engine {
        let hasher = SeededState::new(seed);
        let mut engine = Engine {
            detector: Detector::new(policy, settings.ipv6_prefix, seed),
            ledger: Ledger::new(settings.backoff.clone(), settings.ipv6_prefix, next_serial, hasher),
            allowlist,
            allow_ends: AllowEnds::default(),
            pending: Pending::new(&settings.enforcers),
            parts: Parts::default(),
            blast: BlastRadius::new(settings.blast),
            pause: Pause::default(),
            untold: pause::Untold::default(),
            escalation: Escalation::new(settings.networks),
            extensions: Extensions::new(settings.extension),
            leaks: Leaks::new(settings.leak_grace_secs, settings.leak_requests),
            peers: Peers::new(hasher),
            widen_below: 0,
            slowing: Slowing::default(),
            lane_reported: None,
            remotes: Remotes::default(),
            doubts_awaiting: BTreeMap::new(),
            suppressed: SeededMap::with_hasher(hasher),
            awaiting_dns: BTreeMap::new(),
            rules: rules::Rules::default(),
            malformed_lines: BTreeMap::new(),
            unban_notes: BTreeMap::new(),
            checkpoints: BTreeMap::new(),
            sources: BTreeMap::new(),
            skew_announced_ms: BTreeMap::new(),
            backlog_at_ms: None,
            lead: Lead::default(),
            timeline: Timeline::default(),
            prepared: Vec::with_capacity(LOOK_AHEAD),
            recheck_below: 0,
            recheck_lifted: 0,
            totals: Totals::default(),
            rejected: RejectedCounts::default(),
            bans_by_rule: BTreeMap::new(),
            totals_saved: Totals::default(),
            baseline_saved_ms: 0,
            last_second: 0,
            settings,
        };
        engine.learn_own_addresses();
        engine
    }

    /// Handles one event. Actions come out in the order persist, enforce, announce, so that performing them in order
    /// keeps invariant 4.
    pub fn handle(&mut self, event: Event<'_>, now: Now) -> Vec<Action> {
        let mut out = Effects::default();
        match event {
            Event::Lines(batch) => self.on_lines(batch, now, &mut out),
            Event::Command(id, command) => self.on_command(id, command, now, &mut out),
            Event::Outcome(outcome) => self.on_outcome(outcome, now, &mut out),
            Event::Activity { client, serial, packets } => {
                self.on_activity(client, serial, packets, now, &mut out);
            }
            Event::Part(report) => self.on_part(report, now, &mut out),
            Event::HostAddresses { reasons, entries } => {
                self.on_host_addresses(reasons, entries, now, &mut out);
            }
            Event::BotVerified { client, genuine } => self.on_bot_verified(client, genuine, now, &mut out),
            Event::Policy(answers) => self.on_policy(answers, now, &mut out),
            Event::Remote(remote) => self.on_remote(remote, now, &mut out),
            Event::NewSettings(new) => self.on_new_settings(*new, now, &mut out),
            Event::Reloaded(reloaded) => out.announce(Notice::Reloaded(reloaded)),
            Event::Change(change) => out.announce(Notice::Change(change)),
            Event::Tick => self.on_tick(now, &mut out),
        }
        self.recheck_bans(now, &mut out);
        self.widen_bans(&mut out);
        out.into_actions()
    }

    /// Reads paths ahead for this engine, on other threads.
    pub fn path_reader(&self) -> PathReader {
        self.detector.path_reader()
    }

    /// Prepares for so many calls of [`Engine::restore_ban`].
    pub fn expect_bans(&mut self, bans: usize) {
        self.ledger.reserve(bans);
    }

    /// Says that the ban of this client will be restored soon.
    pub fn expect_ban_of(&self, client: Client) {
        self.ledger.prefetch(client);
    }

    /// Restores a ban of an earlier run, or records its lift when the allowlist protects the client by now.
    pub fn restore_ban(&mut self, saved: Ban, now: Now) -> Vec<Action> {
        self.restore_order(saved, now).map_or_else(|actions| actions, |order| vec![Action::Enforce(order)])
    }

    /// The same, for millions: returns the order alone where there is nothing else to do.
    ///
    /// # Errors
    /// All there is to do about a ban that is not restored.
    pub fn restore_order(&mut self, saved: Ban, now: Now) -> Result<Order, Vec<Action>> {
        let saved = Ban { place: self.place_restored(saved.place), ..saved };
        let Ban { client, serial, ends, place, .. } = saved;
        match self.admit(client, saved.rule) {
            Ok(bannable) => {
                self.ledger.restore(bannable, saved, now);
                self.extensions.watch(&saved, &mut self.ledger, now);
                Ok(Order::Ban { client: bannable, ends, place, serial })
            }
            Err(entry) => {
                let mut out = Effects::default();
                let reason = LiftReason::Allowed;
                out.persist(Record::Lifted { client, serial, at_ms: now.wall_ms, reason });
                out.announce(Notice::Protected {
                    client,
                    network: entry.network,
                    reason: entry.reason,
                    evidence: None,
                });
                Err(out.into_actions())
            }
        }
    }

    /// The client that an operator means: a single IPv6 address stands for the client that it is counted as.
    pub fn client_meant(&self, asked: Client) -> Client {
        match asked.network() {
            IpNet::V6(net) if net.prefix_len() == 128 => self.detector.client_of_addr(IpAddr::V6(net.addr())),
            _ => asked,
        }
    }

    /// A proxy in this client's network, as the log shows them: no rule bans it.
    pub fn proxy_in(&self, client: Client, second: time::EventSecs) -> Option<IpAddr> {
        self.peers.proxy_in(client, second)
    }

    /// Tells the detector this host's addresses, as the allowlist has them.
    fn learn_own_addresses(&mut self) {
        let own = self.allowlist.entries().iter().filter(|entry| entry.reason == AllowReason::OwnAddress);
        self.detector.set_own_addresses(own.map(|entry| entry.network.addr()));
    }

    /// Asks the allowlist about a ban of this origin.
    fn admit(&self, client: Client, rule: Rule) -> Result<BannableClient, Allowed> {
        let prefix = self.settings.ipv6_prefix;
        match rule {
            Rule::Operator => self.allowlist.admit_by_hand(client, prefix),
            _ => self.allowlist.admit(client, prefix),
        }
    }

    /// Restores a client's offences of an earlier run.
    pub fn restore_offences(&mut self, client: Client, count: NonZeroU32, last_secs: i64) {
        self.ledger.set_offences(client, count, last_secs);
    }

    /// Restores lifetime totals of an earlier run.
    pub fn restore_totals(&mut self, totals: Totals) {
        self.totals = totals;
        self.totals_saved = totals;
    }

    /// Restores the learned baseline of an earlier run.
    pub fn restore_baseline(&mut self, saved: &[u8]) -> Result<(), BadBaseline> {
        self.detector.restore(saved)
    }

    /// Names a source for notices.
    pub fn name_source(&mut self, id: SourceId, name: &str) {
        self.sources.insert(id, name.to_owned());
    }

    /// Records everything not saved yet. Called when the agent stops.
    pub fn save(&mut self, now: Now) -> Vec<Action> {
        let mut out = Effects::default();
        self.stop_rules(now, &mut out);
        self.save_progress(&mut out);
        self.save_slowed(&mut out);
        self.save_remote(&mut out);
        self.detector.finish_minute();
        self.save_baseline(now, &mut out);
        self.tell_all_withheld(now, &mut out);
        out.announce(Notice::Stopping { bans: self.ledger.len() as u64 });
        out.into_actions()
    }

    pub fn detector(&self) -> &Detector {
        &self.detector
    }

    /// Whether a client was served well, before a rule fired for it or within a day, as far as that is remembered.
    pub fn was_served_well(&self, client: Client) -> bool {
        self.blast.hit_in_good_standing(client) || self.detector.served_well_within(client, 86_400)
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn allowlist(&self) -> &Allowlist {
        &self.allowlist
    }

    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Refused lines since the start.
    pub fn rejected(&self) -> RejectedCounts {
        self.rejected
    }

    /// Bans since the start.
    pub fn bans_by_rule(&self) -> &BTreeMap<Rule, u64> {
        &self.bans_by_rule
    }

    pub fn is_stopped_by_blast_radius(&self) -> bool {
        self.blast.is_stopped()
    }

    /// Whether the log names a proxy beside its client.
    pub fn has_named_proxy(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Banned clients announced as leaking.
    pub fn leaking(&self) -> usize {
        self.leaks.leaking()
    }

    /// The requests of a banned client that still arrive, in the minute of its last one; `None` where none do.
    pub fn leak_of(&self, client: Client, now: Now) -> Option<u32> {
        self.leaks.leak_of(client, now)
    }

    /// Of these, those of which a request came within the last minutes.
    pub fn leaking_now(&self, now: Now) -> usize {
        self.leaks.leaking_now(now)
    }

    /// The clients whose bans the blast-radius limit or a pause withholds, with the evidence against them.
    pub fn withheld(&self) -> impl Iterator<Item = (Client, &Evidence)> {
        self.blast.withheld().chain(self.pause.held())
    }

    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Makes a ban: in the ledger, the store, the kernel and the announcements. Nothing else makes one.
    fn ban(&mut self, new: NewBan, now: Now, out: &mut Effects) {
        let client = new.client.client();
        let ban = self.ledger.ban(new.client, new.ends, new.rule, new.offence, new.place, now);
        self.extensions.watch(&ban, &mut self.ledger, now);
        self.leaks.forget(client);
        self.detector.note_ban(client);
        self.detector.forget(client);
        self.blast.forget(client);
        self.pause.forget(client);
        self.totals.bans += 1;
        *self.bans_by_rule.entry(ban.rule).or_default() += 1;
        let record = BanRecord { ban, reason: new.reason, evidence: new.evidence };
        out.persist(Record::Banned(Box::new(record.clone())));
        if let Some(count) = ban.offence {
            out.persist(Record::Offences { client, count, last_secs: now.wall_secs() });
        }
        out.enforce(Order::Ban { client: new.client, ends: ban.ends, place: ban.place, serial: ban.serial });
        // After the ban, which drops what is let through until then.
        if self.slowing.remove(client).is_some() {
            out.enforce(Order::SlowedChanged);
        }
        out.announce(Notice::Banned(Box::new(record)));
    }

    /// Orders the enforcers to lift a ban. Without enforcers it ends at once.
    fn order_lift(&mut self, ban: Ban, now: Now, out: &mut Effects) {
        out.enforce(Order::Lift { client: ban.client, serial: ban.serial });
        if !self.pending.waits() {
            let finished = self.ledger.finish_lift(ban.client);
            finished.into_iter().for_each(|finished| self.record_lift(finished, now, out));
        }
    }

    /// Records and announces a ban that ended in every enforcer.
    fn record_lift(&mut self, finished: Finished, now: Now, out: &mut Effects) {
        let Finished { ban, reason } = finished;
        let client = ban.client;
        self.totals.lifts += 1;
        self.leaks.forget(client);
        self.extensions.forget(client);
        self.detector.forget(client);
        out.persist(Record::Lifted { client, serial: ban.serial, at_ms: now.wall_ms, reason });
        let offences = self.ledger.offences(client, now.wall_secs());
        if let Some(count) = offences {
            // Counted from the end of the ban: otherwise a ban longer than `forget_after` would forget its own offence.
            let last_secs = now.wall_secs();
            self.ledger.set_offences(client, count, last_secs);
            out.persist(Record::Offences { client, count, last_secs });
        }
        let lasted_secs = (now.wall_ms - ban.since_ms).max(0) as u64 / 1000;
        let note = self.unban_notes.remove(&client);
        let offence = offences.map_or(0, NonZeroU32::get);
        out.announce(Notice::Lifted { client, reason, lasted_secs, offence, note });
    }
}

/// A ban about to be made.
struct NewBan {
    client: BannableClient,
    ends: Ends,
    offence: Option<NonZeroU32>,
    rule: Rule,
    place: Place,
    reason: Option<String>,
    evidence: Option<Box<Evidence>>,
}

/// Effects by kind, so that they leave in the order persist, enforce, announce.
#[derive(Default)]
struct Effects {
    persist: Vec<Record>,
    enforce: Vec<Order>,
    announce: Vec<Notice>,
    other: Vec<Action>,
}

impl Effects {
    fn persist(&mut self, record: Record) {
        self.persist.push(record);
    }

    fn enforce(&mut self, order: Order) {
        self.enforce.push(order);
    }

    fn announce(&mut self, notice: Notice) {
        self.announce.push(notice);
    }

    fn other(&mut self, action: Action) {
        self.other.push(action);
    }

    fn into_actions(self) -> Vec<Action> {
        // Nearly always there is nothing to do.
        if self.persist.is_empty() && self.enforce.is_empty() && self.announce.is_empty() {
            return self.other;
        }
        let persist = self.persist.into_iter().map(Action::Persist);
        let enforce = self.enforce.into_iter().map(Action::Enforce);
        let announce = self.announce.into_iter().map(Action::Announce);
        persist.chain(enforce).chain(announce).chain(self.other).collect()
    }
}
