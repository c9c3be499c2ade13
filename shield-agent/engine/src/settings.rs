//! The engine's settings, already validated. Detection thresholds are in `policy`. Defaults stand at the end of a line.

use crate::bans::backoff::{Backoff, Term};
use crate::detect::policy::Switch;
use crate::vocab::client::Client;
use crate::vocab::event::EnforcerName;
use crate::vocab::policy::PolicyAction;
use crate::vocab::remote::OriginKind;

/// Clients of a blocklist that can no longer be read are banned for this long. A week: a list's server may be down over a
/// holiday.
pub const LISTED_SECS: u64 = 7 * 86_400;
/// The same for CrowdSec, which is read every few seconds and stated anew each hour.
pub const CROWDSEC_SECS: u64 = 86_400;
/// The widest networks of a list. Registries give no wider block to one holder.
const LEAST_LISTED_V4: u8 = 8;
const LEAST_LISTED_V6: u8 = 19;

/// Whether no list may ban so much.
pub fn is_too_wide_for_a_list(client: Client) -> bool {
    let least = if client.network().addr().is_ipv4() { LEAST_LISTED_V4 } else { LEAST_LISTED_V6 };
    client.network().prefix_len() < least
}

/// Everything but detection thresholds.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Prefix length of an IPv6 client (1..=128). 64.
    pub ipv6_prefix: u8,
    pub backoff: Backoff,
    /// A live line further from the wall clock than this is counted at the wall clock. 300 s.
    pub max_clock_skew_secs: i64,
    /// The time after a ban during which its client's requests are no leak. 10 s.
    pub leak_grace_secs: i64,
    /// Later requests per minute that are a leak. 3.
    pub leak_requests: u32,
    /// Limits on the damage of a wrong rule.
    pub blast: BlastLimits,
    pub networks: NetworkEscalation,
    pub slow: SlowSettings,
    pub remote: RemoteSettings,
    pub extension: Extension,
    /// Bans held at most; further ones are refused and announced. 1,250,000.
    pub max_bans: usize,
    /// The enforcers that a lift waits for; none in a dry run or a replay.
    pub enforcers: Vec<EnforcerName>,
    /// Malformed lines per minute from which a client is reported. 20.
    pub evasion_lines_per_min: u32,
    /// Whether a client is checked by reverse and forward DNS before a ban, so that search engines are spared. Off.
    pub verify_search_engines: Switch,
    /// The operators' own rules.
    pub rules: RulesSettings,
    /// What becomes of a client whose address comes from a proxy's header.
    pub proxied: Proxied,
    /// The status with which nginx refuses banned clients; `None` where it does not. None.
    pub refusal_status: Option<u16>,
    /// Whether totals, positions and what was learned are recorded as time goes on, and not only at the end. Off where nothing
    /// keeps the records, as in a replay: writing them takes longer than judging a quiet site's lines. On.
    pub records_progress: Switch,
}

/// The answer to an offence of a client whose address comes from a proxy's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proxied {
    /// Announced only: its packets come from the proxy, so a ban in the kernel would drop nothing.
    Observe,
    /// Banned like any other: where nginx itself refuses the banned, and in a replay, which shows whom the rules find.
    Ban,
}

/// Limits on bans of clients in good standing by rules.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlastLimits {
    /// Share of the clients in good standing for which rules may fire within 10 min, 0..=1. 0.2.
    pub max_share: f64,
    /// The number of them that is always within the limit, however few clients there are. 1.
    pub always_allowed: usize,
    /// Bans of them per minute. 200.
    pub max_bans_per_minute: usize,
}

/// The slow lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlowSettings {
    /// On.
    pub switch: Switch,
    /// How long a client is slowed after the last thing that speaks against it. 600 s.
    pub term_secs: u64,
    /// New connections of a slowed client that are let through; more where its usual rate is higher. 2.
    pub connections_per_sec: u16,
    /// Its packets with data that are let through. 20.
    pub packets_per_sec: u16,
}

/// The operators' own rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RulesSettings {
    /// Whether they are asked about bans. Off.
    pub switch: Switch,
    /// What holds when they do not answer. Ban: the verdict stands.
    pub on_error: PolicyAction,
}

/// What others' bans are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RemoteSettings {
    /// Whether there is anybody to hear. Off.
    pub switch: Switch,
    /// The longest term of a remote ban from when it was last heard. 2 h.
    pub max_term: Term,
    /// Clients that one origin may newly ban within a minute. 1,000.
    pub max_new_per_min: usize,
    /// Clients that one origin may have banned at a time. 20,000.
    pub max_live: usize,
    /// Origins that must agree about a client that was served well here within a day. 2.
    pub confirm: usize,
    /// Whether others may ban whole networks. Off.
    pub accept_networks: Switch,
}

impl RemoteSettings {
    /// The longest term of a ban that an origin of this kind wants, from when it was last heard. `None` without a limit.
    pub(crate) fn max_term_ms(&self, kind: OriginKind) -> Option<i64> {
        let secs = match kind {
            OriginKind::Fleet => self.max_term.secs()?,
            OriginKind::Blocklist => LISTED_SECS,
            OriginKind::Crowdsec => CROWDSEC_SECS,
        };
        Some(i64::try_from(secs.saturating_mul(1000)).unwrap_or(i64::MAX))
    }
}

/// When a whole network is proposed for a ban, or banned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkEscalation {
    /// Banned clients of one network that lead to an escalation. 8.
    pub clients: usize,
    /// The time within which they were banned. 3600 s.
    pub within_secs: u64,
    /// Prefix length of an IPv4 network. 24.
    pub ipv4_prefix: u8,
    /// Prefix length of an IPv6 network. 48.
    pub ipv6_prefix: u8,
    pub action: NetworkAction,
}

/// The action of an escalation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkAction {
    Off,
    /// Announce the network.
    Propose,
    /// Ban the network for the ladder's term.
    Ban,
}

/// The extension of bans whose flood goes on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extension {
    pub by: ExtendBy,
    /// Dropped packets per second, measured shortly before the end, that count as a flood. 1.0.
    pub min_packets_per_sec: f64,
}

/// The step by which an end is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtendBy {
    Off,
    /// The term of the ban.
    SameTerm,
    /// The ladder's next term, or the longest that is not permanent.
    NextTerm,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            ipv6_prefix: 64,
            backoff: Backoff::default(),
            max_clock_skew_secs: 300,
            leak_grace_secs: 10,
            leak_requests: 3,
            blast: BlastLimits { max_share: 0.2, always_allowed: 1, max_bans_per_minute: 200 },
            networks: NetworkEscalation {
                clients: 8,
                within_secs: 3600,
                ipv4_prefix: 24,
                ipv6_prefix: 48,
                action: NetworkAction::Propose,
            },
            slow: SlowSettings {
                switch: Switch::On,
                term_secs: 600,
                connections_per_sec: 2,
                packets_per_sec: 20,
            },
            remote: RemoteSettings {
                switch: Switch::Off,
                max_term: Term::Secs(7200),
                max_new_per_min: 1_000,
                max_live: 20_000,
                confirm: 2,
                accept_networks: Switch::Off,
            },
            extension: Extension { by: ExtendBy::SameTerm, min_packets_per_sec: 1.0 },
            max_bans: 1_250_000,
            enforcers: Vec::new(),
            evasion_lines_per_min: 20,
            verify_search_engines: Switch::Off,
            rules: RulesSettings { switch: Switch::Off, on_error: PolicyAction::Ban },
            proxied: Proxied::Observe,
            refusal_status: None,
            records_progress: Switch::On,
        }
    }
}
