//! Leaks: banned clients whose requests still appear in the log.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::bans::peers::where_enforced;
use crate::vocab::client::Client;
use crate::vocab::time::{EventSecs, Now};

/// Clients watched at most.
const MAX_WATCHED: usize = 10_000;
/// The time until the same leak is announced again.
const REPEAT_MS: u64 = 600_000;
/// A leak whose last request is older than this is over.
const OVER_MS: u64 = 300_000;
/// The span over which requests are counted.
const SPAN_SECS: i64 = 60;

/// Counts the requests of banned clients after the grace period.
pub(crate) struct Leaks {
    grace_secs: i64,
    threshold: u32,
    watched: BTreeMap<Client, Watched>,
}

#[derive(Debug, Clone, Copy)]
struct Watched {
    since: EventSecs,
    requests: u32,
    announced_at: Option<u64>,
    /// The last request, on the boot clock.
    latest_ms: u64,
    /// Set until the drop counters arrive, from which the cause is worked out.
    due: bool,
    by_proxy: bool,
    peer: Option<IpAddr>,
}

impl Watched {
    fn is_now(&self, now: Now) -> bool {
        self.announced_at.is_some() && self.latest_ms + OVER_MS > now.boot_ms
    }
}

/// The facts about one leak, from which its cause is worked out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    pub behind_proxy: bool,
    /// The proxy, where the log names it.
    pub peer: Option<IpAddr>,
    /// Whether any enforcer holds the ban.
    pub held: bool,
    pub xdp_active: bool,
    pub iptables_active: bool,
    pub nginx_active: bool,
    /// Packets dropped since the ban began.
    pub packets: u64,
}

impl Leaks {
    /// Requests up to `grace_secs` after a ban is in force may have been sent before it; `threshold` later ones are a leak.
    pub(crate) fn new(grace_secs: i64, threshold: u32) -> Leaks {
        Leaks { grace_secs, threshold: threshold.max(1), watched: BTreeMap::new() }
    }

    pub(crate) fn set(&mut self, grace_secs: i64, threshold: u32) {
        (self.grace_secs, self.threshold) = (grace_secs, threshold.max(1));
    }

    /// Counts a banned client's request. Returns the number when it is a leak that is to be explained and announced.
    pub(crate) fn seen(
        &mut self,
        client: Client,
        in_force_from: EventSecs,
        second: EventSecs,
        now: Now,
    ) -> Option<u32> {
        if second < in_force_from.saturating_add(self.grace_secs) {
            return None;
        }
        if self.watched.len() >= MAX_WATCHED && !self.watched.contains_key(&client) {
            return None;
        }
        let fresh = Watched {
            since: second,
            requests: 0,
            announced_at: None,
            latest_ms: now.boot_ms,
            due: false,
            by_proxy: false,
            peer: None,
        };
        let watched = self.watched.entry(client).or_insert(fresh);
        if second - watched.since >= SPAN_SECS {
            *watched = Watched {
                announced_at: watched.announced_at,
                by_proxy: watched.by_proxy,
                peer: watched.peer,
                ..fresh
            };
        }
        watched.requests += 1;
        watched.latest_ms = now.boot_ms;
        let quiet = watched.announced_at.is_some_and(|at| now.boot_ms < at + REPEAT_MS);
        if quiet || watched.requests < self.threshold {
            return None;
        }
        watched.announced_at = Some(now.boot_ms);
        watched.due = true;
        Some(watched.requests)
    }

    /// The requests of a leak whose cause is being worked out; `None` when it was announced already.
    pub(crate) fn take_due(&mut self, client: Client) -> Option<u32> {
        let watched = self.watched.get_mut(&client)?;
        std::mem::take(&mut watched.due).then_some(watched.requests)
    }

    /// Records that a banned client's request came through a proxy.
    pub(crate) fn note_proxy(&mut self, client: Client, peer: Option<IpAddr>) {
        if let Some(watched) = self.watched.get_mut(&client) {
            watched.by_proxy = true;
            watched.peer = peer.or(watched.peer);
        }
    }

    /// Whether a banned client's requests came through a proxy.
    pub(crate) fn came_by_proxy(&self, client: Client) -> bool {
        self.watched.get(&client).is_some_and(|w| w.by_proxy)
    }

    /// The proxy that a banned client's requests came by, where the log names it.
    pub(crate) fn peer_of(&self, client: Client) -> Option<IpAddr> {
        self.watched.get(&client)?.peer
    }

    pub(crate) fn forget(&mut self, client: Client) {
        self.watched.remove(&client);
    }

    /// Clients announced as leaking of which a request came within the last minutes.
    pub(crate) fn leaking_now(&self, now: Now) -> usize {
        self.watched.values().filter(|watched| watched.is_now(now)).count()
    }

    /// The requests of a client that leaks now, in the minute of its last one.
    pub(crate) fn leak_of(&self, client: Client, now: Now) -> Option<u32> {
        self.watched.get(&client).filter(|watched| watched.is_now(now)).map(|watched| watched.requests)
    }

    /// Clients announced as leaking and still banned.
    pub(crate) fn leaking(&self) -> usize {
        self.watched.values().filter(|w| w.announced_at.is_some()).count()
    }
}

/// The likely cause, and what to do about it.
pub(crate) fn likely_cause(facts: Facts) -> String {
    if let Facts { peer: Some(peer), nginx_active: false, .. } = facts {
        return where_enforced(peer, false);
    }
    let cause = match facts {
        Facts { behind_proxy: true, nginx_active: true, .. } => {
            "it comes through a proxy, and nginx served it although it should refuse it: a server section lacks Shield's \
             include (`shield-agent init nginx-deny` prints it), or nginx was not reloaded since"
        }
        Facts { behind_proxy: true, .. } => {
            "it comes through a proxy, whose own address is what reaches this host: drop it in nginx ([nginx] mode = \
             \"on\") or at the proxy"
        }
        Facts { held: false, .. } => "no enforcer holds the ban: see `shield-agent status` for why",
        Facts { packets: 0, xdp_active: false, .. } => {
            "XDP is off and its packets never pass the SHIELD chain: a published container port (set [iptables] \
             hooks) or a rule that accepts them first"
        }
        Facts { packets: 0, .. } => {
            "neither XDP nor the SHIELD chain dropped any of its packets: it comes in by another interface (set [xdp] \
             interfaces), a container port (set [iptables] hooks), or through a proxy in front (set trusted_proxies)"
        }
        Facts { iptables_active: false, .. } => {
            "some of its packets are dropped and some get through, and iptables is not in force: fix iptables, or \
             name every interface in [xdp] interfaces"
        }
        _ => {
            "some of its packets are dropped and some get through: a second path into this host (another interface, \
             a container port, a tunnel), or lines that were written long after their request"
        }
    };
    cause.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Now = Now { wall_ms: 1_000_000_000, boot_ms: 1_000_000 };

    fn who() -> Client {
        "192.0.2.1".parse().unwrap()
    }

    /// A request `after` seconds after the ban.
    fn seen(leaks: &mut Leaks, after: i64, now: Now) -> Option<u32> {
        leaks.seen(who(), T0.wall_secs(), T0.wall_secs() + after, now)
    }

    #[test]
    fn requests_within_the_grace_are_no_leak() {
        let mut leaks = Leaks::new(10, 2);
        for second in 0..10 {
            assert_eq!(seen(&mut leaks, second, T0), None);
        }
        assert_eq!(seen(&mut leaks, 10, T0), None);
        assert_eq!(seen(&mut leaks, 11, T0), Some(2));
    }

    #[test]
    fn a_leak_is_said_once_in_ten_minutes() {
        let mut leaks = Leaks::new(0, 1);
        let said = (0..1200).filter(|s| seen(&mut leaks, *s, T0.plus_ms(*s as u64 * 1000)).is_some());
        assert_eq!(said.count(), 2);
        assert_eq!(leaks.leaking(), 1);
        let last = T0.plus_ms(1_199_000);
        assert_eq!(leaks.leaking_now(last.plus_ms(OVER_MS - 1)), 1);
        assert_eq!(leaks.leaking_now(last.plus_ms(OVER_MS)), 0);
        leaks.forget(who());
        assert_eq!(leaks.leaking(), 0);
    }

    #[test]
    fn the_clients_watched_are_bounded() {
        let mut leaks = Leaks::new(0, 1);
        let of = |n: u32| Client::from(std::net::Ipv4Addr::from_bits(n));
        let at = T0.wall_secs();
        let seen = (0..=MAX_WATCHED as u32).filter(|n| leaks.seen(of(*n), at, at, T0).is_some());
        assert_eq!(seen.count(), MAX_WATCHED);
        leaks.forget(of(0));
        assert!(leaks.seen(of(MAX_WATCHED as u32), at, at, T0).is_some(), "room again");
    }

    #[test]
    fn a_leak_is_counted_within_a_minute() {
        let mut leaks = Leaks::new(0, 2);
        let mut seen = |second| seen(&mut leaks, second, T0).is_some();
        assert_eq!([seen(0), seen(60), seen(119)], [false, false, true]);
    }

    #[test]
    fn causes() {
        let facts = Facts {
            behind_proxy: false,
            peer: None,
            held: true,
            xdp_active: true,
            iptables_active: true,
            nginx_active: false,
            packets: 0,
        };
        let check =
            |facts, part: &str| assert!(likely_cause(facts).contains(part), "{}", likely_cause(facts));
        check(Facts { behind_proxy: true, ..facts }, "at the proxy");
        check(Facts { behind_proxy: true, nginx_active: true, ..facts }, "lacks Shield's include");
        let peer = Some([192, 0, 2, 10].into());
        check(Facts { behind_proxy: true, peer, ..facts }, "proxied: its packets come from 192.0.2.10");
        check(Facts { behind_proxy: true, peer, nginx_active: true, ..facts }, "lacks Shield's include");
        check(Facts { held: false, ..facts }, "no enforcer holds");
        check(facts, "another interface");
        check(Facts { xdp_active: false, ..facts }, "XDP is off");
        check(Facts { packets: 9, iptables_active: false, ..facts }, "iptables is not in force");
        check(Facts { packets: 9, ..facts }, "second path");
    }
}
