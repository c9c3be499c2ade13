//! The blast radius: how many clients in good standing rules may ban, so that a wrong rule or a broken site locks nobody
//! out.
//!
//! It counts clients in good standing for which a rule fired, banned or not, as a share of all clients in good standing.
//! Whoever is new and only attacks is banned at once and uses nothing up. A client in good standing is banned a little
//! later: by then it shows whether it is alone. When a rule fires for more of them than the limits allow, none is banned,
//! until fewer are hit. Meanwhile each is charged for what it does: once it has done as much after the verdict as it was
//! served before, its standing is used up, and it is banned whatever the limits say. So an attacker who builds up
//! standing, even with more addresses than the site has visitors, gains no more than he gave.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use crate::bans::allowlist::BannableClient;
use crate::detect::good_standing::GoodStanding;
use crate::settings::BlastLimits;
use crate::vocab::client::Client;
use crate::vocab::time::Now;
use crate::vocab::verdict::Evidence;

/// The span over which `max_share` is measured.
const SHARE_SPAN_MS: u64 = 600_000;
const MINUTE_MS: u64 = 60_000;

/// The time from a verdict against a client in good standing to its ban. When a site breaks, its visitors run into it one
/// after the other; the first must not be banned before the others are seen.
const HOLD_MS: u64 = 30_000;

/// A withheld ban is given up when no rule fired again for this long: the longest window of most rules.
const GIVEN_UP_MS: u64 = 60_000;

/// Clients held at most that were unknown before this visit; further ones are banned at once.
const MAX_NEWCOMERS: usize = 10_000;

/// Verdicts against clients in good standing, and the decision about their bans.
pub(crate) struct BlastRadius {
    limits: BlastLimits,
    /// The clients in good standing for which a rule fired within the last 10 min.
    hit: BTreeMap<Client, Hit>,
    held: BTreeMap<Client, Held>,
    newcomers_held: usize,
    /// The moments of the last minute's bans of clients in good standing.
    made: VecDeque<u64>,
    /// The limit that is exceeded now.
    stopped: Option<Limit>,
}

#[derive(Debug, Clone, Copy)]
struct Hit {
    latest_ms: u64,
    /// Requests left to its credit.
    credit: u16,
    /// Whether it is among the clients in good standing that the detector counts.
    is_counted: bool,
}

struct Held {
    ban: HeldBan,
    is_newcomer: bool,
    due_ms: u64,
    latest_ms: u64,
    is_announced: bool,
}

/// A ban that waits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct HeldBan {
    pub client: BannableClient,
    pub evidence: Box<Evidence>,
    /// Its address comes from a proxy's header.
    pub by_proxy: bool,
}

/// What to do about a verdict.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Decision {
    Ban(HeldBan),
    /// [`BlastRadius::settle`] or [`BlastRadius::charge`] will decide.
    Wait,
}

/// What a second's passing decides.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Settled {
    /// The worst first.
    pub bans: Vec<HeldBan>,
    /// Bans that the limit withholds, to be announced.
    pub withheld: Vec<HeldBan>,
    pub limit: Option<Limit>,
    pub change: Option<Change>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Stopped,
    Resumed,
}

/// A limit that a ban would exceed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    /// `max_bans_per_minute`.
    Minute { max: usize },
    /// `max_share` of the clients in good standing, or `always_allowed` where that is more.
    Share { hit: usize, standing: usize, limits: BlastLimits },
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Minute { max } => write!(
                f,
                "the limit of bans of clients in good standing within a minute is reached (max_bans_per_minute = {max})"
            ),
            Limit::Share { hit, standing, limits: BlastLimits { max_share, always_allowed, .. } } => write!(
                f,
                "rules fire for too many clients in good standing: {hit} of {standing} within 10 min (max_share = \
                 {max_share}, always_allowed = {always_allowed}); is the site broken?"
            ),
        }
    }
}

impl BlastRadius {
    pub(crate) fn new(limits: BlastLimits) -> BlastRadius {
        BlastRadius {
            limits,
            hit: BTreeMap::new(),
            held: BTreeMap::new(),
            newcomers_held: 0,
            made: VecDeque::new(),
            stopped: None,
        }
    }

    pub(crate) fn set_limits(&mut self, limits: BlastLimits) {
        self.limits = limits;
    }

    /// Whether bans of clients in good standing are stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.is_some()
    }

    /// The limit that stops bans, with the numbers of now.
    pub(crate) fn limit(&self) -> Option<Limit> {
        self.stopped
    }

    /// An operator says that those withheld are attackers: returns their bans, and counts from nothing again.
    pub(crate) fn resume(&mut self) -> Vec<HeldBan> {
        self.stopped = None;
        self.hit.clear();
        self.made.clear();
        let withheld: Vec<Client> = self.withheld().map(|(client, _)| client).collect();
        withheld.into_iter().filter_map(|client| self.take(client)).collect()
    }

    /// Whether no ban waits.
    pub(crate) fn holds_nobody(&self) -> bool {
        self.held.is_empty()
    }

    /// Whether a ban of this client waits.
    pub(crate) fn is_held(&self, client: Client) -> bool {
        !self.held.is_empty() && self.held.contains_key(&client)
    }

    /// Whether a rule fired within 10 min for this client while it was in good standing.
    pub(crate) fn hit_in_good_standing(&self, client: Client) -> bool {
        self.hit.contains_key(&client)
    }

    /// Decides about a verdict. A client without standing is banned at once.
    pub(crate) fn decide(&mut self, ban: HeldBan, standing: Option<GoodStanding>, now: Now) -> Decision {
        let client = ban.client.client();
        if let Some(held) = self.held.get_mut(&client) {
            held.latest_ms = now.boot_ms;
            if severity(&ban.evidence) > severity(&held.ban.evidence) {
                // The rules of the operators were asked about the first.
                let policy = held.ban.evidence.policy.take();
                held.ban = ban;
                held.ban.evidence.policy = policy;
            }
            if let Some(hit) = self.hit.get_mut(&client) {
                hit.latest_ms = now.boot_ms;
            }
            return Decision::Wait;
        }
        let Some(standing) = standing else { return Decision::Ban(ban) };
        let is_newcomer = !standing.is_known;
        let hit = self.hit.get(&client).copied();
        let credit = hit.map_or(standing.credit, |hit| hit.credit.min(standing.credit));
        if credit == 0 || (is_newcomer && self.newcomers_held >= MAX_NEWCOMERS) {
            return Decision::Ban(ban);
        }
        self.hit.insert(client, Hit { latest_ms: now.boot_ms, credit, is_counted: standing.is_known });
        self.newcomers_held += usize::from(is_newcomer);
        let due_ms = now.boot_ms + if is_newcomer { 0 } else { HOLD_MS };
        let held = Held { ban, is_newcomer, due_ms, latest_ms: now.boot_ms, is_announced: false };
        self.held.insert(client, held);
        Decision::Wait
    }

    /// Charges a request to the credit of a client whose ban waits. Returns its ban when the credit is used up.
    pub(crate) fn charge(&mut self, client: Client) -> Option<HeldBan> {
        let hit = self.hit.get_mut(&client)?;
        hit.credit = hit.credit.saturating_sub(1);
        if hit.credit > 0 {
            return None;
        }
        hit.is_counted = false;
        self.take(client)
    }

    /// The clients whose bans the limits withhold, and why they would be banned.
    pub(crate) fn withheld(&self) -> impl Iterator<Item = (Client, &Evidence)> {
        let withheld = self.held.iter().filter(|(_, held)| held.is_announced);
        withheld.map(|(client, held)| (*client, &*held.ban.evidence))
    }

    /// The grounds of a ban that waits.
    pub(crate) fn evidence(&self, client: Client) -> Option<&Evidence> {
        self.held.get(&client).map(|held| &*held.ban.evidence)
    }

    /// Forgets a ban that waits: the client was banned, unbanned or allowed by other means.
    pub(crate) fn forget(&mut self, client: Client) {
        self.take(client);
    }

    fn take(&mut self, client: Client) -> Option<HeldBan> {
        let held = self.held.remove(&client)?;
        self.newcomers_held -= usize::from(held.is_newcomer);
        Some(held.ban)
    }

    /// Whether [`BlastRadius::settle`] would do nothing, however many clients are in good standing.
    pub(crate) fn has_nothing_to_settle(&self) -> bool {
        self.held.is_empty() && self.hit.is_empty() && !self.is_stopped()
    }

    /// Decides about the bans that wait, once a second. `standing` is the number of clients in good standing.
    pub(crate) fn settle(&mut self, standing: usize, now: Now) -> Settled {
        let mut settled = Settled::default();
        if self.has_nothing_to_settle() {
            return settled;
        }
        self.drop_old(now);
        let limit = match self.exceeded_share(standing) {
            Some(limit) => {
                self.give_up(now);
                Some(limit)
            }
            None => self.release(&mut settled.bans, now),
        };
        if let Some(limit) = limit {
            settled.limit = Some(limit);
            for held in self.held.values_mut().filter(|held| held.due_ms <= now.boot_ms && !held.is_announced)
            {
                held.is_announced = true;
                settled.withheld.push(held.ban.clone());
            }
        }
        let is_stopped = limit.is_some();
        if std::mem::replace(&mut self.stopped, limit).is_some() != is_stopped {
            settled.change = Some(if is_stopped { Change::Stopped } else { Change::Resumed });
        }
        settled
    }

    fn drop_old(&mut self, now: Now) {
        self.hit.retain(|_, hit| hit.latest_ms + SHARE_SPAN_MS > now.boot_ms);
        while self.made.front().is_some_and(|at| at + MINUTE_MS <= now.boot_ms) {
            self.made.pop_front();
        }
    }

    fn exceeded_share(&self, standing: usize) -> Option<Limit> {
        let limits = self.limits;
        let hit = self.hit.len();
        let standing = standing.max(self.hit.values().filter(|hit| hit.is_counted).count())
            + self.hit.values().filter(|hit| !hit.is_counted).count();
        let allowed = limits.always_allowed.max((limits.max_share * standing as f64) as usize);
        (hit > allowed).then_some(Limit::Share { hit, standing, limits })
    }

    /// Gives up bans of clients for which no rule fires any more: the site was mended.
    fn give_up(&mut self, now: Now) {
        let is_over = |held: &Held| held.due_ms <= now.boot_ms && held.latest_ms + GIVEN_UP_MS <= now.boot_ms;
        let over: Vec<Client> = self.held.iter().filter(|(_, held)| is_over(held)).map(|(c, _)| *c).collect();
        over.into_iter().for_each(|client| self.forget(client));
    }

    /// Releases the bans that are due, the worst first, as many as a minute allows.
    fn release(&mut self, bans: &mut Vec<HeldBan>, now: Now) -> Option<Limit> {
        let mut due: Vec<(Reverse<u64>, Client)> = self
            .held
            .iter()
            .filter(|(_, held)| held.due_ms <= now.boot_ms)
            .map(|(client, held)| (Reverse(severity(&held.ban.evidence)), *client))
            .collect();
        due.sort_unstable();
        let max = self.limits.max_bans_per_minute;
        let room = max.saturating_sub(self.made.len());
        let limit = (due.len() > room).then_some(Limit::Minute { max });
        for (_, client) in due.into_iter().take(room) {
            bans.extend(self.take(client));
            self.made.push_back(now.boot_ms);
            if let Some(hit) = self.hit.get_mut(&client) {
                hit.is_counted = false;
            }
        }
        limit
    }
}

/// How far a rule's first value lies above its threshold, in thousandths of the threshold.
fn severity(evidence: &Evidence) -> u64 {
    let (value, threshold) = evidence
        .measures
        .first()
        .map_or((evidence.rate, evidence.threshold), |measure| (measure.value, measure.threshold));
    if threshold > 0.0 { (1000.0 * value / threshold) as u64 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bans::allowlist::Allowlist;
    use crate::vocab::verdict::Rule;

    const T0: Now = Now { wall_ms: 0, boot_ms: 1_000_000 };
    const KNOWN: GoodStanding = GoodStanding { credit: 100, is_known: true };
    const NEWCOMER: GoodStanding = GoodStanding { credit: 30, is_known: false };

    fn client(n: u32) -> Client {
        std::net::Ipv4Addr::from_bits(0xc612_0000 + n).into()
    }

    fn ban(n: u32, rate: f64) -> HeldBan {
        let evidence = Evidence {
            rule: Rule::Flood,
            condition: String::new(),
            rate,
            mean: 0.0,
            stddev: 0.0,
            z_score: 0.0,
            threshold: 1.0,
            tightened: false,
            baseline: String::new(),
            window_secs: 60,
            requests: 0,
            errors: 0,
            measures: Vec::new(),
            top_paths: Vec::new(),
            account: Vec::new(),
            lines: Vec::new(),
            sites: Vec::new(),
            policy: None,
            observe: None,
            at_secs: 0,
        };
        let client = Allowlist::default().admit(client(n), 64).unwrap();
        HeldBan { client, evidence: Box::new(evidence), by_proxy: false }
    }

    fn blast() -> BlastRadius {
        BlastRadius::new(BlastLimits { max_share: 0.2, always_allowed: 3, max_bans_per_minute: 30 })
    }

    fn hit(
        blast: &mut BlastRadius,
        clients: impl IntoIterator<Item = u32>,
        standing: GoodStanding,
        now: Now,
    ) {
        for n in clients {
            assert_eq!(blast.decide(ban(n, 1.0), Some(standing), now), Decision::Wait, "{n}");
        }
    }

    fn clients(bans: &[HeldBan]) -> Vec<Client> {
        bans.iter().map(|ban| ban.client.client()).collect()
    }

    #[test]
    fn who_has_no_standing_is_banned_and_uses_nothing_up() {
        let mut blast = blast();
        for n in 0..100_000 {
            assert!(matches!(blast.decide(ban(n, 1.0), None, T0), Decision::Ban(_)), "{n}");
        }
        assert_eq!(blast.settle(0, T0), Settled::default());
    }

    #[test]
    fn few_are_banned_when_their_time_has_come_the_worst_first() {
        let mut blast = blast();
        for (n, rate) in [(1, 2.0), (2, 9.0), (3, 5.0)] {
            assert_eq!(blast.decide(ban(n, rate), Some(KNOWN), T0), Decision::Wait);
        }
        assert_eq!(blast.settle(4, T0.plus_ms(HOLD_MS - 1)), Settled::default());
        let settled = blast.settle(4, T0.plus_ms(HOLD_MS));
        assert_eq!(clients(&settled.bans), [client(2), client(3), client(1)]);
        assert!(!blast.is_stopped());
    }

    #[test]
    fn a_newcomer_does_not_wait() {
        let mut blast = blast();
        hit(&mut blast, [1], NEWCOMER, T0);
        assert_eq!(clients(&blast.settle(4, T0).bans), [client(1)]);
    }

    #[test]
    fn too_many_are_all_withheld_and_announced_once() {
        let mut blast = blast();
        hit(&mut blast, 0..21, KNOWN, T0);
        let at_once = blast.settle(100, T0);
        assert_eq!((at_once.change, at_once.withheld.len()), (Some(Change::Stopped), 0));
        let settled = blast.settle(100, T0.plus_ms(HOLD_MS));
        assert_eq!((settled.bans.len(), settled.withheld.len(), settled.change), (0, 21, None));
        assert_eq!(
            settled.limit.unwrap().to_string(),
            "rules fire for too many clients in good standing: 21 of 100 within 10 min (max_share = 0.2, always_allowed \
             = 3); is the site broken?"
        );
        assert_eq!(blast.settle(100, T0.plus_ms(HOLD_MS + 1000)).withheld.len(), 0);
        assert_eq!(blast.withheld().count(), 21);
    }

    #[test]
    fn a_client_that_is_hit_twice_counts_once() {
        let mut blast = blast();
        for _ in 0..50 {
            hit(&mut blast, 0..20, KNOWN, T0);
        }
        assert_eq!(blast.settle(100, T0.plus_ms(HOLD_MS)).bans.len(), 20);
    }

    #[test]
    fn the_minute_limit_holds_whatever_the_share_and_forgets_nobody() {
        let mut blast = blast();
        hit(&mut blast, 0..40, KNOWN, T0);
        let due = T0.plus_ms(HOLD_MS);
        let first = blast.settle(1_000_000, due);
        assert_eq!((first.bans.len(), first.withheld.len(), first.change), (30, 10, Some(Change::Stopped)));
        assert_eq!(blast.settle(1_000_000, due.plus_ms(59_999)).bans.len(), 0);
        let rest = blast.settle(1_000_000, due.plus_ms(60_000));
        assert_eq!((rest.bans.len(), rest.change), (10, Some(Change::Resumed)));
    }

    #[test]
    fn a_stop_ends_with_time_alone() {
        let mut blast = blast();
        hit(&mut blast, 0..21, KNOWN, T0);
        assert_eq!(blast.settle(100, T0).change, Some(Change::Stopped));
        assert_eq!(blast.settle(100, T0.plus_ms(SHARE_SPAN_MS - 1)).change, None);
        assert_eq!(blast.settle(100, T0.plus_ms(SHARE_SPAN_MS)).change, Some(Change::Resumed));
    }

    #[test]
    fn who_is_withheld_is_banned_when_its_credit_is_used_up() {
        let mut blast = blast();
        hit(&mut blast, 0..21, KNOWN, T0);
        blast.settle(100, T0.plus_ms(HOLD_MS));
        let charged: Vec<_> = (0..KNOWN.credit).map(|_| blast.charge(client(7)).is_some()).collect();
        assert_eq!(charged.iter().position(|banned| *banned), Some(usize::from(KNOWN.credit) - 1));
        assert!(!blast.is_held(client(7)) && blast.is_held(client(8)));
        assert!(matches!(blast.decide(ban(7, 1.0), Some(KNOWN), T0), Decision::Ban(_)), "its credit is gone");
    }

    #[test]
    fn a_withheld_ban_is_given_up_when_the_site_is_mended_and_made_when_the_rule_fires_on() {
        let mut blast = blast();
        hit(&mut blast, 0..21, KNOWN, T0);
        let ms = |ms| T0.plus_ms(ms);
        blast.settle(100, ms(HOLD_MS));
        hit(&mut blast, [7], KNOWN, ms(300_000));
        blast.settle(100, ms(300_000));
        assert!(blast.is_held(client(7)) && !blast.is_held(client(8)));
        hit(&mut blast, [7], KNOWN, ms(SHARE_SPAN_MS));
        let settled = blast.settle(100, ms(SHARE_SPAN_MS));
        assert_eq!((clients(&settled.bans), settled.change), (vec![client(7)], Some(Change::Resumed)));
        assert_eq!(blast.withheld().count(), 0);
    }
}
