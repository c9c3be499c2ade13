//! Slowing clients: when, and when no more.

use super::{Effects, Engine};
use crate::bans::allowlist::BannableClient;
use crate::bans::slow::{self, Change};
use crate::detect::bad_networks::{BadNetwork, NetworkKey};
use crate::detect::detector::Doubt;
use crate::detect::policy::Switch;
use crate::settings::NetworkAction;
use crate::vocab::action::{Action, LiftReason, Notice, Order, Record};
use crate::vocab::client::Client;
use crate::vocab::event::{EnforcerName, PartState};
use crate::vocab::request::Request;
use crate::vocab::slow::{NETWORK_PREFIX, SlowGrounds, Slowed};
use crate::vocab::time::{Ends, EventSecs, Now};
use crate::vocab::verdict::Rule;

/// The part under which the slow lane is listed.
const PART: &str = "slow";

/// The time for DNS to verify a search engine, as before a ban.
const VERIFY_MS: u64 = 2_000;
/// Doubts that wait for DNS at most. Further ones are left: the next request brings them up again.
const MAX_AWAITING: usize = 1_000;

/// A doubt that waits for DNS.
pub(super) struct DoubtAwaiting {
    doubt: InDoubt,
    until_ms: u64,
}

/// Who would be slowed, and for what.
struct InDoubt {
    bannable: BannableClient,
    rule: Rule,
    grounds: SlowGrounds,
}

/// The state of the slow lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    Waiting(&'static str),
    Off(&'static str),
    Active { connections_per_sec: u16, packets_per_sec: u16 },
}

impl Engine {
    /// Evidence between one half and the bar: too much to ignore, too little for a ban.
    pub(super) fn on_doubt(
        &mut self,
        client: Client,
        request: &Request<'_>,
        doubt: Doubt,
        at_secs: EventSecs,
        now: Now,
        out: &mut Effects,
    ) {
        // XDP sees only the proxy's packets, which everybody's requests come in. Nginx, which refuses the banned there, slows
        // nobody.
        if request.behind_proxy || self.is_past(at_secs, now) || self.cannot_slow().is_some() {
            return;
        }
        let Ok(bannable) = self.allowlist.admit(client, self.settings.ipv6_prefix) else { return };
        let Doubt { points, bar, rule } = doubt;
        let doubt = InDoubt { bannable, rule, grounds: SlowGrounds::Evidence { points, bar } };
        self.slow_unless_genuine(doubt, client, request, now, out);
    }

    /// Slows an IPv6 network whose clients only probe: banning them one by one stops nobody who has 65,536 of them.
    pub(super) fn on_hopping(
        &mut self,
        bad: BadNetwork,
        client: Client,
        request: &Request<'_>,
        at_secs: EventSecs,
        now: Now,
        out: &mut Effects,
    ) {
        let network = bad.network.client();
        let is_v6 = network.network().addr().is_ipv6();
        if !is_v6 || request.behind_proxy || self.is_past(at_secs, now) || self.cannot_slow().is_some() {
            return;
        }
        let may_not = self.settings.networks.action == NetworkAction::Off
            || self.detector.policy().observe.contains(&Rule::Probing)
            || self.detector.in_good_standing(network) > 0
            || self.peers.proxy_in(network, at_secs).is_some();
        let admitted = self.allowlist.admit(network, self.settings.ipv6_prefix);
        let Some(bannable) = admitted.ok().filter(|_| !may_not) else { return };
        let doubt =
            InDoubt { bannable, rule: Rule::Network, grounds: SlowGrounds::Hopping { clients: bad.clients } };
        self.slow_unless_genuine(doubt, client, request, now, out);
    }

    /// Slows a client, or the network around it, unless DNS says within a moment that a search engine asks.
    fn slow_unless_genuine(
        &mut self,
        doubt: InDoubt,
        client: Client,
        request: &Request<'_>,
        now: Now,
        out: &mut Effects,
    ) {
        let InDoubt { bannable, rule, grounds } = doubt;
        let is_known = self.slowing.get(bannable.client()).is_some();
        if self.settings.verify_search_engines == Switch::Off || is_known {
            self.slow(bannable, rule, grounds, now, out);
            return;
        }
        let has_room = self.doubts_awaiting.len() < MAX_AWAITING && !self.awaiting_dns.contains_key(&client);
        if has_room && !self.doubts_awaiting.contains_key(&client) {
            let (doubt, until_ms) = (InDoubt { bannable, rule, grounds }, now.boot_ms + VERIFY_MS);
            self.doubts_awaiting.insert(client, DoubtAwaiting { doubt, until_ms });
            out.other(Action::VerifyBot { client, addr: request.addr });
        }
    }

    /// DNS answered about a client in doubt. Returns whether there was one.
    pub(super) fn on_doubt_verified(&mut self, client: Client, genuine: bool, now: Now, out: &mut Effects) {
        let Some(DoubtAwaiting { doubt, .. }) = self.doubts_awaiting.remove(&client) else { return };
        if genuine {
            self.suppressed.insert(client, now.boot_ms + crate::tick::VERIFIED_SUPPRESSION_MS);
        } else {
            let InDoubt { bannable, rule, grounds } = doubt;
            self.slow(bannable, rule, grounds, now, out);
        }
    }

    /// Forgets what DNS is asked for before this client, or the network around another one, is slowed: an operator has decided.
    pub(super) fn forget_doubt(&mut self, meant: Client) {
        self.doubts_awaiting
            .retain(|client, awaiting| *client != meant && awaiting.doubt.bannable.client() != meant);
    }

    /// Whether a line is one of a backlog: what was to be slowed then is over by now.
    pub(super) fn is_past(&self, at_secs: EventSecs, now: Now) -> bool {
        now.wall_secs().saturating_sub(at_secs) > self.settings.max_clock_skew_secs
    }

    /// Puts a client into the slow lane, if there is one. Returns whether it is in it.
    pub(super) fn slow(
        &mut self,
        bannable: BannableClient,
        rule: Rule,
        grounds: SlowGrounds,
        now: Now,
        out: &mut Effects,
    ) -> bool {
        let client = bannable.client();
        let has_place = has_place(client, self.settings.ipv6_prefix);
        if !has_place
            || self.pause.is_on()
            || self.cannot_slow().is_some()
            || self.ledger.ban_over(client).is_some()
        {
            return false;
        }
        let term_ms = self.settings.slow.term_secs.saturating_mul(1000);
        let left_ms = self.slowing.get(client).and_then(|known| known.ends.remaining_ms(now));
        if left_ms.is_some_and(|left| left > term_ms / 2) {
            return true;
        }
        let is_single = client.is_single(self.settings.ipv6_prefix);
        let usual_per_sec = if is_single { self.detector.usual_rate(client) } else { 0.0 };
        let limits = slow::limits(&self.settings.slow, usual_per_sec);
        let ends = Ends::after(now, term_ms);
        match self.slowing.slow(bannable, rule, grounds, limits, ends, now) {
            Change::Nothing => {}
            Change::Prolonged => out.enforce(Order::SlowedChanged),
            Change::Slowed(slowed) => {
                out.enforce(Order::SlowedChanged);
                out.announce(Notice::Slowed { slowed: Box::new(slowed), unmade: None });
            }
        }
        self.slowing.get(client).is_some()
    }

    /// The reason why no client can be slowed.
    pub(super) fn cannot_slow(&self) -> Option<&'static str> {
        if self.settings.slow.switch == Switch::Off {
            return Some("off in the configuration: [slow] enabled");
        }
        // A replay and a dry run have no enforcers: they show what would be done.
        let enforcers = &self.settings.enforcers;
        if enforcers.is_empty() || self.parts.is_active(EnforcerName::Xdp.name()) {
            return None;
        }
        Some(if enforcers.contains(&EnforcerName::Xdp) {
            "clients cannot be slowed: XDP is not in force"
        } else {
            "clients cannot be slowed: XDP is off"
        })
    }

    /// Brings the slow lane's state up to date.
    pub(super) fn report_slow_lane(&mut self, now: Now, out: &mut Effects) {
        let lane = self.lane();
        if self.lane_reported.replace(lane) == Some(lane) {
            return;
        }
        let state = match lane {
            Lane::Waiting(reason) => PartState::Waiting { reason: reason.to_owned() },
            Lane::Off(reason) => PartState::Off { reason: reason.to_owned() },
            Lane::Active { connections_per_sec, packets_per_sec } => {
                let detail = format!(
                    "at least {connections_per_sec} connections/s and {packets_per_sec} packets/s for a slowed client"
                );
                PartState::Active { detail }
            }
        };
        out.announce.extend(self.parts.report(PART, state, now));
    }

    fn lane(&self) -> Lane {
        let slow = self.settings.slow;
        match self.cannot_slow() {
            Some(reason) if slow.switch.is_on() && self.settings.enforcers.contains(&EnforcerName::Xdp) => {
                Lane::Waiting(reason)
            }
            Some(reason) => Lane::Off(reason),
            None if self.settings.enforcers.is_empty() => Lane::Off("no client is slowed: no enforcer runs"),
            None => Lane::Active {
                connections_per_sec: slow.connections_per_sec,
                packets_per_sec: slow.packets_per_sec,
            },
        }
    }

    /// What a second's passing brings to the slow lane.
    pub(super) fn tick_slow_lane(&mut self, now: Now, out: &mut Effects) {
        self.report_slow_lane(now, out);
        if self.doubts_awaiting.is_empty() && self.slowing.len() == 0 {
            return;
        }
        let over: Vec<Client> = (self.doubts_awaiting.iter())
            .filter(|(_, awaiting)| awaiting.until_ms <= now.boot_ms)
            .map(|(client, _)| *client)
            .collect();
        over.into_iter().for_each(|client| self.on_doubt_verified(client, false, now, out));
        let ended = self.slowing.expire(now);
        self.released(ended, LiftReason::Expired, now, out);
    }

    /// Takes those out of the slow lane that may not be in it any more.
    pub(super) fn recheck_slowed(&mut self, now: Now, out: &mut Effects) {
        let is_off = self.settings.slow.switch == Switch::Off;
        let (allowlist, prefix) = (&self.allowlist, self.settings.ipv6_prefix);
        let out_now =
            self.slowing.remove_where(|slowed| is_off || allowlist.admit(slowed.client, prefix).is_err());
        let reason = if is_off { LiftReason::Operator } else { LiftReason::Allowed };
        self.released(out_now, reason, now, out);
    }

    /// Takes a client out of the slow lane because an operator said so. Returns whether it was in it.
    pub(super) fn release(&mut self, client: Client, now: Now, out: &mut Effects) -> bool {
        let slowed = self.slowing.remove(client);
        let was_slowed = slowed.is_some();
        self.released(slowed.into_iter().collect(), LiftReason::Operator, now, out);
        was_slowed
    }

    fn released(&mut self, ended: Vec<Slowed>, reason: LiftReason, now: Now, out: &mut Effects) {
        if ended.is_empty() {
            return;
        }
        out.enforce(Order::SlowedChanged);
        for Slowed { client, since_ms, .. } in ended {
            let lasted_secs = (now.wall_ms - since_ms).max(0) as u64 / 1000;
            out.announce(Notice::Released { client, reason, lasted_secs });
        }
    }

    /// Saves the slow lane if it changed.
    pub(super) fn save_slowed(&mut self, out: &mut Effects) {
        if let Some(saved) = self.slowing.changed() {
            out.persist(Record::Slowed(saved));
        }
    }

    /// Restores the slow lane of an earlier run.
    ///
    /// # Errors
    /// When it cannot be read. Nothing depends on it: who goes on as before is slowed again.
    pub fn restore_slowed(&mut self, saved: &[u8], now: Now) -> Result<(), serde_json::Error> {
        if self.settings.slow.switch == Switch::Off {
            return Ok(());
        }
        let (allowlist, ledger, prefix) = (&self.allowlist, &self.ledger, self.settings.ipv6_prefix);
        let longest_ms = self.settings.slow.term_secs.saturating_mul(1000);
        self.slowing.restore(saved, longest_ms, now, |client| {
            let bannable = allowlist.admit(client, prefix).ok()?;
            (has_place(client, prefix) && ledger.ban_over(client).is_none()).then_some(bannable)
        })
    }

    /// The slowed clients in the order of their addresses, each with the proof that it may be slowed.
    pub fn slowed(&self) -> impl ExactSizeIterator<Item = (BannableClient, &Slowed)> {
        self.slowing.all()
    }

    /// The version of [`Engine::slowed`], which grows with every change.
    pub fn slowed_version(&self) -> u64 {
        self.slowing.version()
    }

    /// The entry of a slowed client, or of the network that it is slowed with.
    pub fn slowed_over(&self, client: Client) -> Option<&Slowed> {
        self.slowing.get(client).or_else(|| self.slowing.get(NetworkKey::of(client.key()).client()))
    }

    /// Clients and networks slowed now.
    pub fn slowed_count(&self) -> usize {
        self.slowing.len()
    }

    /// Clients and networks slowed since the start.
    pub fn slowed_total(&self) -> u64 {
        self.slowing.total()
    }
}

/// Whether the kernel has a map for it: a single client, or an IPv6 network of the length that is slowed.
fn has_place(client: Client, ipv6_prefix: u8) -> bool {
    let network = client.network();
    client.is_single(ipv6_prefix)
        || (network.addr().is_ipv6()
            && network.prefix_len() == NETWORK_PREFIX
            && ipv6_prefix > NETWORK_PREFIX)
}
