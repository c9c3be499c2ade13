//! Log lines: counting, verdicts, and bans with their safeguards.

use std::net::IpAddr;

use super::{Effects, Engine, NewBan};
use crate::bans::allowlist::{AllowReason, Allowed, BannableClient};
use crate::bans::backoff::Term;
use crate::bans::blast::{Change, Decision, HeldBan};
use crate::bans::peers::where_enforced;
use crate::detect::detector::{LOOK_AHEAD, Prepared, Standing};
use crate::detect::policy::Switch;
use crate::places::is_on_the_way;
use crate::settings::{NetworkAction, Proxied};
use crate::tick::Awaiting;
use crate::timeline::TOLERANCE_SECS;
use crate::vocab::action::{Action, BanRecord, Notice};
use crate::vocab::ban::{Ban, Place};
use crate::vocab::client::Client;
use crate::vocab::event::EnforcerName;
use crate::vocab::request::{Batch, Line, RejectedCounts, Request, Way};
use crate::vocab::slow::SlowGrounds;
use crate::vocab::time::{Ends, EventSecs, Now};
use crate::vocab::verdict::{Evidence, Rule, Verdict};

/// The time until an anomalous client that is not banned is evaluated (and announced) again.
const SUPPRESSION_MS: u64 = 600_000;
/// The same after an offence in a backlog, whose lines come fast.
const REFUSED_SUPPRESSION_MS: u64 = 30_000;
/// The time for DNS to verify a search engine. After it the ban goes ahead.
const VERIFY_MS: u64 = 2_000;
/// The time until the clock skew of one source is announced again.
const SKEW_REPEAT_MS: u64 = 3_600_000;
/// Clients whose malformed lines are counted at most, per minute.
const MAX_EVADERS: usize = 10_000;

/// What is known of a line beside its request.
#[derive(Clone, Copy)]
struct Beside<'a> {
    server: &'a [u8],
    way: Way,
    /// The ban that its client is under.
    ban: Option<Ban>,
}

impl Engine {
    pub(super) fn on_lines(&mut self, batch: &Batch, now: Now, out: &mut Effects) {
        // Empty ones only carry a position.
        let mut is_other = !batch.lines.is_empty() && self.lead.take(batch, now);
        let is_led = !batch.live && self.lead.is_live(now);
        let was_catching_up = self.is_catching_up(now);
        if !batch.live && !is_led {
            self.backlog_at_ms = Some(now.boot_ms);
        }
        if !batch.live {
            self.detector.latest().into_iter().for_each(|latest| self.timeline.set(latest));
        }
        let mut at = 0;
        for loss in &batch.lost {
            let source = batch.source.and_then(|id| self.sources.get(&id)).cloned().unwrap_or_default();
            out.announce(Notice::Lost { source, bytes: loss.bytes, reason: loss.reason.clone() });
        }
        let mut prepared = std::mem::take(&mut self.prepared);
        let mut read = self.detector.read_paths(batch);
        for lines in batch.lines.chunks(LOOK_AHEAD) {
            self.detector.prepare_batch(batch, lines, read, &mut prepared);
            read = read.get(lines.len()..).unwrap_or_default();
            let mut left = (lines, prepared.as_slice());
            loop {
                if !is_other {
                    let counted = self.count_plain(batch, left, now);
                    at += counted;
                    left = (
                        left.0.get(counted..).unwrap_or_default(),
                        left.1.get(counted..).unwrap_or_default(),
                    );
                }
                let (Some((line, lines)), Some((prepared, others))) =
                    (left.0.split_first(), left.1.split_first())
                else {
                    break;
                };
                left = (lines, others);
                if is_led && self.is_late(line.time) {
                    at += 1;
                    self.count(line.status);
                    continue;
                }
                let second = match batch.live {
                    true => self.live_second_of(line.time, batch, now, out),
                    false => self.placed_second(batch, at, now),
                };
                at += 1;
                if std::mem::take(&mut is_other) && (was_catching_up || !batch.live) {
                    self.detector.skip_to(second);
                }
                let ban = self.ledger.ban_over(prepared.client);
                let request = batch.request(line);
                let beside = Beside { server: batch.server_of(line), way: batch.way_of(line), ban };
                self.on_request(&request, beside, prepared, second, now, out);
                if line.salvaged {
                    self.on_salvaged(line, out);
                }
            }
        }
        self.prepared = prepared;
        if batch.rejected != RejectedCounts::default() {
            for (total, refused) in self.rejected.iter_mut().zip(batch.rejected) {
                *total += refused;
                self.totals.rejected += refused;
            }
        }
        if let Some(checkpoint) = &batch.checkpoint {
            self.checkpoints.insert(checkpoint.source.clone(), checkpoint.clone());
        }
        // A decision is committed together with the position in the log at which it was made, so that a restart
        // does not decide about the same lines again.
        if !out.persist.is_empty() {
            self.save_progress(out);
        }
    }

    /// Counts lines of a replay from the first on as long as they are plain and of the second that its reader has placed last.
    /// Returns how many: of these nothing is to be said. `batch` has their bytes, and what was read of their paths, from the first
    /// of them on.
    pub fn count_plain_lines(&mut self, batch: &Batch, lines: &[Line], now: Now) -> usize {
        if batch.live || self.lead.is_live(now) || self.plain_second(batch, now).is_none() {
            return 0;
        }
        let mut prepared = std::mem::take(&mut self.prepared);
        let mut read = batch.read_paths.of(lines.len(), self.detector.hash());
        let mut counted = 0;
        for lines in lines.chunks(LOOK_AHEAD) {
            self.detector.prepare_batch(batch, lines, read, &mut prepared);
            read = read.get(lines.len()..).unwrap_or_default();
            let plain = self.count_plain(batch, (lines, &prepared), now);
            counted += plain;
            if plain < lines.len() {
                break;
            }
        }
        self.prepared = prepared;
        if counted > 0 {
            self.backlog_at_ms = Some(now.boot_ms);
        }
        counted
    }

    /// Counts requests from the first on by the short way of `detect/plain.rs`, up to one that needs the long way. Returns how
    /// many: with these there is nothing more to do.
    #[inline(never)]
    fn count_plain(&mut self, batch: &Batch, (lines, prepared): (&[Line], &[Prepared]), now: Now) -> usize {
        let Some(second) = self.plain_second(batch, now) else { return 0 };
        let Engine { detector, ledger, suppressed, blast, .. } = self;
        let nobody_is_special = ledger.is_empty() && suppressed.is_empty() && blast.holds_nobody();
        let is_special = |client| {
            !nobody_is_special
                && (ledger.ban_over(client).is_some()
                    || suppressed.get(&client).is_some_and(|until| now.boot_ms < *until)
                    || blast.is_held(client))
        };
        let counted = detector.count_plain(batch, lines, prepared, second, is_special);
        if counted > 0 && !batch.live && batch.placed.is_none() {
            self.timeline.goes_on_at(second);
        }
        self.totals.requests += counted as u64;
        counted
    }

    /// The newest second, if a line of it counts at it without a question.
    fn plain_second(&self, batch: &Batch, now: Now) -> Option<EventSecs> {
        let second = self.detector.latest()?;
        let age = now.wall_secs().saturating_sub(second);
        let is_certain = match batch.placed {
            _ if batch.live => (0..=self.settings.max_clock_skew_secs).contains(&age),
            Some(placed) => placed.second == second && !placed.is_back && age >= -TOLERANCE_SECS,
            None => self.timeline.is_at(second) && age >= -TOLERANCE_SECS,
        };
        is_certain.then_some(second)
    }

    fn on_request(
        &mut self,
        request: &Request<'_>,
        Beside { server, way, ban }: Beside<'_>,
        prepared: &Prepared,
        second: EventSecs,
        now: Now,
        out: &mut Effects,
    ) {
        self.count(request.status);
        let client = prepared.client;
        let peer = way.peer();
        if let Some(peer) = peer {
            self.peers.came_by(client, peer, second);
        }
        if way != Way::Unknown && self.has_places() {
            self.peers.note(client, way);
        }
        let standing = if ban.is_some() || self.is_suppressed(client, now) {
            Standing::Banned
        } else {
            Standing::Normal
        };
        let verdict = self.detector.observe_at(server, request, second, prepared, standing);
        let doubt = self.detector.take_doubt();
        if let Some(bad) = self.detector.take_hopping()
            && peer.is_none()
        {
            self.on_hopping(bad, client, request, second, now, out);
        }
        match (ban, verdict) {
            (Some(ban), _) => self.on_banned_request(ban, request, way, second, now, out),
            (None, Verdict::Anomalous(evidence)) => {
                self.on_anomalous(client, request, way, evidence, now, out);
            }
            (None, Verdict::Normal) => {
                // The kernel cannot slow a client whose packets are a proxy's.
                if let Some(doubt) = doubt
                    && peer.is_none()
                    && self.peers.proxy_in(client, second).is_none()
                {
                    self.on_doubt(client, request, doubt, second, now, out);
                }
            }
        }
        if self.blast.is_held(client) && !self.pause.is_on() {
            self.on_held_request(client, prepared, now, out);
        }
    }

    /// Charges a request to the credit of a client whose ban waits. What clients in good standing were served is free, even
    /// where it fails now, because then the site is broken; but not for a client that asks too fast.
    fn on_held_request(&mut self, client: Client, prepared: &Prepared, now: Now, out: &mut Effects) {
        let is_by_rate = |rule| matches!(rule, Rule::Flood | Rule::ZScore | Rule::RateMultiplier);
        let may_excuse = self.blast.evidence(client).is_some_and(|evidence| !is_by_rate(evidence.rule));
        if may_excuse && self.detector.was_served(prepared) {
            return;
        }
        self.detector.charge_standing(client);
        if let Some(ban) = self.blast.charge(client) {
            self.punish(ban, now, out);
        }
    }

    fn count(&mut self, status: u16) {
        self.totals.requests += 1;
        self.totals.errors += u64::from(status >= 400);
    }

    /// Returns whether a line of this time is too late for the windows.
    fn is_late(&self, time: EventSecs) -> bool {
        self.detector.latest().is_some_and(|latest| time < latest.saturating_sub(TOLERANCE_SECS))
    }

    /// The second at which a line of a backlog or a replay is counted.
    fn placed_second(&mut self, batch: &Batch, at: usize, now: Now) -> EventSecs {
        let lines = batch.lines.get(at..).unwrap_or_default();
        // However many lines say so, no log was written in the future.
        let newest = now.wall_secs().saturating_add(TOLERANCE_SECS);
        if batch.placed.is_none()
            && let Some(line) = lines.first()
            && self.timeline.goes_on_at(line.time)
        {
            return line.time.min(newest);
        }
        let placed = batch.placed.unwrap_or_else(|| self.timeline.place(lines, false));
        let second = placed.second.min(newest);
        if placed.is_back {
            self.detector.set_back(second);
        }
        second
    }

    /// The second at which a live line is counted: its own, unless it is too far from the wall clock or ahead of it.
    ///
    /// The wall clock is certain: where it was set back, so are the windows, and no line is late by that.
    fn live_second_of(&mut self, time: EventSecs, batch: &Batch, now: Now, out: &mut Effects) -> EventSecs {
        let second = self.near_second_of(time, batch, now, out);
        if self.detector.latest().is_some_and(|latest| second < latest.saturating_sub(TOLERANCE_SECS))
            && second >= now.wall_secs().saturating_sub(TOLERANCE_SECS)
        {
            self.detector.set_back(second);
        }
        second
    }

    fn near_second_of(&mut self, time: EventSecs, batch: &Batch, now: Now, out: &mut Effects) -> EventSecs {
        let skew = time.saturating_sub(now.wall_secs());
        if skew.saturating_abs() <= self.settings.max_clock_skew_secs {
            return time.min(now.wall_secs());
        }
        if self.skew_announced_ms.get(&batch.source).is_none_or(|at| at + SKEW_REPEAT_MS <= now.boot_ms) {
            self.skew_announced_ms.insert(batch.source, now.boot_ms);
            let source = batch.source.and_then(|id| self.sources.get(&id)).cloned().unwrap_or_default();
            out.announce(Notice::ClockSkew { source, skew_secs: skew });
        }
        now.wall_secs()
    }

    pub(super) fn is_suppressed(&self, client: Client, now: Now) -> bool {
        !self.suppressed.is_empty() && self.suppressed.get(&client).is_some_and(|until| now.boot_ms < *until)
    }

    fn on_banned_request(
        &mut self,
        mut ban: Ban,
        request: &Request<'_>,
        way: Way,
        second: EventSecs,
        now: Now,
        out: &mut Effects,
    ) {
        if !self.pending.waits() {
            return;
        }
        if !is_on_the_way(ban.place, way) {
            ban = self.widen(ban, out);
        }
        // What nginx refused has not got through.
        if self.settings.refusal_status == Some(request.status) {
            return;
        }
        let in_force_from = self.ledger.get(ban.client).map(|entry| entry.in_force_from());
        let Some(in_force_from) = in_force_from else { return };
        let is_leak = self.leaks.seen(ban.client, in_force_from, second, now).is_some();
        if request.behind_proxy || way.peer().is_some() {
            self.leaks.note_proxy(ban.client, way.peer());
        }
        if is_leak {
            ban = self.widen(ban, out);
            // The cause is worked out when the drop counters arrive.
            out.enforce(super::Order::SampleActivity { client: ban.client, serial: ban.serial });
        }
    }

    fn on_anomalous(
        &mut self,
        client: Client,
        request: &Request<'_>,
        way: Way,
        evidence: Box<Evidence>,
        now: Now,
        out: &mut Effects,
    ) {
        let admitted = self.allowlist.admit(client, self.settings.ipv6_prefix);
        let proxy = self.peers.proxy_in(client, evidence.at_secs);
        let as_proxy = |proxy: IpAddr| Allowed { network: proxy.into(), reason: AllowReason::TrustedProxy };
        let bannable = match proxy.map_or(admitted, |proxy| Err(as_proxy(proxy))) {
            Ok(bannable) => bannable,
            Err(entry) => {
                self.suppress(client, SUPPRESSION_MS, now);
                let (network, reason) = (entry.network, entry.reason);
                return out.announce(Notice::Protected { client, network, reason, evidence: Some(evidence) });
            }
        };
        let by_proxy = request.behind_proxy || way.peer().is_some();
        if way == Way::Unknown && self.has_places() {
            self.peers.note(client, way);
        }
        if let Some(peer) = way.peer() {
            self.peers.remember(client, peer);
        }
        if request.behind_proxy && self.settings.proxied == Proxied::Observe {
            let because = "its address comes from a proxy's header, so its packets cannot be dropped here";
            return self.observe_only(bannable, evidence, because.to_owned(), SUPPRESSION_MS, now, out);
        }
        if let Some(because) = evidence.observe.clone() {
            // Not suppressed: whoever makes a rule fire that does nothing is judged by the others meanwhile.
            return self.announce_unmade(bannable.client(), evidence, because, now, out);
        }
        if self.settings.verify_search_engines == Switch::On && !self.blast.is_held(client) {
            // Its window is kept: what it shows of the client is asked when the answer is there.
            self.suppressed.insert(client, now.boot_ms + VERIFY_MS);
            let ban = HeldBan { client: bannable, evidence, by_proxy };
            let awaiting = Awaiting { ban, until_ms: now.boot_ms + VERIFY_MS };
            if self.awaiting_dns.insert(client, awaiting).is_none() {
                out.other(Action::VerifyBot { client, addr: request.addr });
            }
            return;
        }
        self.offend(HeldBan { client: bannable, evidence, by_proxy }, now, out);
    }

    /// Makes a ban for one offence, now or once the limits permit it.
    pub(super) fn offend(&mut self, ban: HeldBan, now: Now, out: &mut Effects) {
        if self.is_for_the_rules(&ban) {
            return self.ask_rules(ban, now, out);
        }
        if self.pause.is_on() {
            return self.hold_in_pause(ban, now, out);
        }
        let HeldBan { client: bannable, evidence, by_proxy } = &ban;
        let (bannable, rule, at_secs) = (*bannable, evidence.rule, evidence.at_secs);
        let cannot_slow = *by_proxy || self.is_past(at_secs, now);
        let standing = self.detector.good_standing(bannable.client(), at_secs);
        match self.blast.decide(ban, standing, now) {
            Decision::Ban(ban) => self.punish(ban, now, out),
            Decision::Wait if cannot_slow => {}
            Decision::Wait => {
                self.slow(bannable, rule, SlowGrounds::Withheld, now, out);
            }
        }
    }

    /// Makes the bans that waited for the limits, and announces those that the limits withhold.
    pub(super) fn settle_held(&mut self, now: Now, out: &mut Effects) {
        if self.pause.is_on() || self.blast.has_nothing_to_settle() {
            return;
        }
        let settled = self.blast.settle(self.detector.clients_in_good_standing(), now);
        let reason = settled.limit.map_or("bans are within the limits again".to_owned(), |l| l.to_string());
        if let Some(change) = settled.change {
            let stopped = change == Change::Stopped;
            out.announce(Notice::BlastRadius { stopped, reason: reason.clone() });
        }
        self.withhold(settled.withheld, reason, now, out);
        for ban in settled.bans {
            self.punish(ban, now, out);
        }
    }

    /// Makes a ban for one offence, with the term that the ladder gives.
    pub(super) fn punish(&mut self, ban: HeldBan, now: Now, out: &mut Effects) {
        let HeldBan { client: bannable, evidence, by_proxy } = ban;
        let client = bannable.client();
        // The allowlist or a ban of its network may have come in between.
        let is_allowed = self.allowlist.admit(client, self.settings.ipv6_prefix).is_err();
        let proxied = self.peers.take(client);
        let is_proxy = self.peers.proxy_in(client, evidence.at_secs).is_some();
        if is_allowed || is_proxy || self.ledger.ban_over(client).is_some() {
            return;
        }
        if self.ledger.len() >= self.settings.max_bans {
            let because = format!("the ledger is full: raise max_bans = {} in [ban]", self.settings.max_bans);
            return self.observe_only(bannable, evidence, because, SUPPRESSION_MS, now, out);
        }
        let (rule, first) = (evidence.rule, self.ledger.next_offence(client, now));
        let wanted = evidence.policy.as_ref().and_then(|word| word.ban_term());
        let may_slow = wanted.is_none()
            && self.ledger.backoff().is_slowed(first)
            && !by_proxy
            && !self.is_past(evidence.at_secs, now);
        if may_slow && self.slow(bannable, rule, SlowGrounds::FirstStep, now, out) {
            let (count, last_secs) = (self.ledger.add_offence(client, now), now.wall_secs());
            return out.persist(super::Record::Offences { client, count, last_secs });
        }
        self.detector.lose_standing(client);
        self.detector.learn_campaign(client);
        let offence = self.ledger.add_offence(client, now);
        let term = wanted.unwrap_or_else(|| self.ledger.backoff().term(offence));
        let Some(ends) = self.remaining_term(term, evidence.at_secs, now) else {
            let last_secs = now.wall_secs();
            out.persist(super::Record::Offences { client, count: offence, last_secs });
            let because = "found in a backlog: its term would be over by now";
            return self.observe_only(
                bannable,
                evidence,
                because.to_owned(),
                REFUSED_SUPPRESSION_MS,
                now,
                out,
            );
        };
        let rule = evidence.rule;
        let evidence = Some(evidence);
        let offence = Some(offence);
        let nginx_active = self.parts.is_active(EnforcerName::Nginx.name());
        let reason = proxied.map(|peer| where_enforced(peer, nginx_active));
        let place = self.place_of(client);
        self.ban(NewBan { client: bannable, ends, offence, rule, place, reason, evidence }, now, out);
        self.escalate(client, now, out);
    }

    /// The end of an offence's term. The term begins with the offence, which lies in the past when a backlog is
    /// read; `None` when it is over by now.
    fn remaining_term(&self, term: Term, at_secs: EventSecs, now: Now) -> Option<Ends> {
        let age_secs = now.wall_secs().saturating_sub(at_secs);
        match term {
            Term::Secs(secs) if age_secs > self.settings.max_clock_skew_secs => {
                let left_secs = secs.checked_sub(age_secs as u64).filter(|left| *left > 0)?;
                Some(Ends::after(now, left_secs * 1000))
            }
            _ => Some(term.ends(now)),
        }
    }

    /// Proposes or bans the IPv6 networks whose clients only probe: a client of theirs costs an attacker nothing, and the next
    /// request comes from another one. Those that are not banned are slowed: see [`Engine::on_hopping`]. The clients of an IPv4
    /// network are banned one by one.
    pub(super) fn judge_networks(&mut self, now: Now, out: &mut Effects) {
        for bad in self.detector.take_bad_networks() {
            let network = bad.network.client();
            let action = self.settings.networks.action;
            let is_known = self.ledger.ban_over(network).is_some();
            if action == NetworkAction::Off || network.network().addr().is_ipv4() || is_known {
                continue;
            }
            let (probing, clean) = (bad.clients, self.detector.clean_clients_in(network));
            out.announce(Notice::NetworkProposed { network, banned: probing, clean });
            let is_observed = self.detector.policy().observe.contains(&Rule::Probing);
            if action != NetworkAction::Ban
                || is_observed
                || self.pause.is_on()
                || self.detector.in_good_standing(network) > 0
            {
                continue;
            }
            let reason =
                format!("at least {probing} of its clients ask for what is not there, few for what is");
            self.ban_network(network, reason, now, out);
        }
    }

    fn escalate(&mut self, client: Client, now: Now, out: &mut Effects) {
        let Some((network, banned)) = self.escalation.banned(client, now) else { return };
        if self.ledger.ban_over(network).is_some() {
            return;
        }
        let clean = self.detector.clean_clients_in(network);
        out.announce(Notice::NetworkProposed { network, banned, clean });
        let has_good = self.detector.in_good_standing(network) > 0;
        if self.settings.networks.action != NetworkAction::Ban || has_good {
            return;
        }
        let reason = format!(
            "{banned} of its clients were banned; clients without anything suspect inside it: {clean}"
        );
        self.ban_network(network, reason, now, out);
    }

    fn ban_network(&mut self, network: Client, reason: String, now: Now, out: &mut Effects) {
        let Ok(client) = self.allowlist.admit(network, self.settings.ipv6_prefix) else { return };
        let has_proxy = self.peers.proxy_in(network, now.wall_secs()).is_some();
        if has_proxy || self.ledger.ban_over(network).is_some() || self.ledger.len() >= self.settings.max_bans
        {
            return;
        }
        let offence = self.ledger.add_offence(network, now);
        let ends = self.ledger.backoff().term(offence).ends(now);
        let (offence, reason, place) = (Some(offence), Some(reason), Place::Everywhere);
        let rule = Rule::Network;
        self.ban(NewBan { client, ends, offence, rule, place, reason, evidence: None }, now, out);
    }

    fn observe_only(
        &mut self,
        client: BannableClient,
        evidence: Box<Evidence>,
        because: String,
        suppression_ms: u64,
        now: Now,
        out: &mut Effects,
    ) {
        let client = client.client();
        self.suppress(client, suppression_ms, now);
        self.announce_unmade(client, evidence, because, now, out);
    }

    pub(super) fn announce_unmade(
        &mut self,
        client: Client,
        evidence: Box<Evidence>,
        because: String,
        now: Now,
        out: &mut Effects,
    ) {
        let offence = self.ledger.next_offence(client, now);
        let ban = Ban {
            client,
            serial: Ban::UNMADE,
            since_ms: now.wall_ms,
            ends: self.ledger.backoff().term(offence).ends(now),
            offence: Some(offence),
            rule: evidence.rule,
            place: Place::Everywhere,
        };
        let record = BanRecord { ban, reason: None, evidence: Some(evidence) };
        out.announce(Notice::WouldBan { ban: Box::new(record), because });
    }

    fn suppress(&mut self, client: Client, ms: u64, now: Now) {
        self.suppressed.insert(client, now.boot_ms + ms);
        self.detector.forget(client);
    }

    fn on_salvaged(&mut self, line: &Line, out: &mut Effects) {
        self.totals.salvaged += 1;
        let client = self.detector.client_of_addr(line.addr);
        if self.malformed_lines.len() >= MAX_EVADERS && !self.malformed_lines.contains_key(&client) {
            return;
        }
        let lines = self.malformed_lines.entry(client).or_default();
        *lines += 1;
        if *lines == self.settings.evasion_lines_per_min {
            out.announce(Notice::Evasion { client, lines: *lines });
        }
    }
}
