//! What the engine is told to do, already checked. The detector's own settings are in `policy`.

use crate::bans::backoff::Backoff;
use crate::detect::policy::Switch;
use crate::vocab::event::EnforcerName;

/// Everything but detection thresholds.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Prefix length that makes an IPv6 client (1..=128). 64.
    pub ipv6_prefix: u8,
    /// How long bans last.
    pub backoff: Backoff,
    /// A live line further away from the wall clock is counted at the wall clock. 300 s.
    pub max_clock_skew_secs: i64,
    /// Requests of a banned client that arrive this long after its ban are a leak. 10 s.
    pub leak_grace_secs: i64,
    /// So many of them in a minute raise the alarm. 3.
    pub leak_requests: u32,
    /// Limits on what a rule gone wrong can do.
    pub blast: BlastLimits,
    /// When many clients of one network are banned.
    pub networks: NetworkEscalation,
    /// Whether a ban whose flood still comes is extended.
    pub extension: Extension,
    /// Bans held at most; beyond it a new ban is refused and said.
    pub max_bans: usize,
    /// The enforcers that a lift waits for; none in a dry run or replay.
    pub enforcers: Vec<EnforcerName>,
    /// One client with this many lines a minute that only the tolerant reader could read is reported. 20.
    pub evasion_lines_per_min: u32,
    /// Whether the allowlist's search engines are asked for by reverse-then-forward DNS before a ban.
    pub verify_search_engines: Switch,
}

/// The blast-radius limits.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BlastLimits {
    /// Share of the clients active in the last 10 min that may be banned by rules in those 10 min, 0..=1. 0.2.
    pub max_share: f64,
    /// Bans in 10 min that are always allowed, however few clients there are. 20.
    pub always_allowed: usize,
    /// Bans by rules a minute. 200.
    pub max_bans_per_minute: usize,
}

/// When banning a whole network is proposed or done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkEscalation {
    /// So many clients of one network…
    pub clients: usize,
    /// …banned within so many seconds.
    pub within_secs: u64,
    /// Prefix length of the network for IPv4 clients. 24.
    pub ipv4_prefix: u8,
    /// Prefix length of the network for IPv6 clients. 48.
    pub ipv6_prefix: u8,
    /// What then happens.
    pub action: NetworkAction,
}

/// What an escalation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkAction {
    /// Nothing.
    Off,
    /// Say so.
    Propose,
    /// Ban the network, by the backoff ladder.
    Ban,
}

/// Activity-aware lifting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Extension {
    /// By how much.
    pub by: ExtendBy,
    /// Dropped packets per second, measured shortly before the end, from which a flood "still comes". 1.0.
    pub min_packets_per_sec: f64,
}

/// How far a ban's end is moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtendBy {
    /// Not at all.
    Off,
    /// By the term it had.
    SameTerm,
    /// By the ladder's next term (the longest that ends).
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
            blast: BlastLimits { max_share: 0.2, always_allowed: 20, max_bans_per_minute: 200 },
            networks: NetworkEscalation {
                clients: 8,
                within_secs: 3600,
                ipv4_prefix: 24,
                ipv6_prefix: 48,
                action: NetworkAction::Propose,
            },
            extension: Extension { by: ExtendBy::SameTerm, min_packets_per_sec: 1.0 },
            max_bans: 1_250_000,
            enforcers: Vec::new(),
            evasion_lines_per_min: 20,
            verify_search_engines: Switch::Off,
        }
    }
}
