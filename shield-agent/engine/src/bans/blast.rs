//! The blast radius: limits on how many clients rules may ban, so that a wrong rule cannot lock a site's users out.

use std::collections::{BTreeMap, VecDeque};

use std::fmt;

use crate::settings::BlastLimits;
use crate::vocab::client::Client;
use crate::vocab::time::Now;

/// The span over which `max_share` is measured.
const SHARE_SPAN_MS: u64 = 600_000;
const MINUTE_MS: u64 = 60_000;

/// Recent bans by rules, and the decision whether one more is within the limits.
pub(crate) struct BlastRadius {
    limits: BlastLimits,
    bans: VecDeque<(u64, Client)>,
    /// The latest ban of each client in `bans`: a client banned twice counts once.
    clients: BTreeMap<Client, u64>,
    stopped: bool,
}

/// The answer to one more ban.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Permit {
    Granted,
    /// Granted after bans had been stopped.
    Resumed,
    /// Refused while bans are stopped, with the limit.
    Refused(Limit),
    /// The first refusal, which stops bans, with the limit.
    Stopped(Limit),
}

/// A limit that a ban would exceed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Limit {
    /// `max_bans_per_minute`.
    Minute { max: usize },
    /// `max_share` of the active clients, or `always_allowed` where that is more.
    Share { banned: usize, active: usize, limits: BlastLimits },
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Limit::Minute { max } => {
                write!(f, "the limit of bans within a minute is reached (max_bans_per_minute = {max})")
            }
            Limit::Share { banned, active, limits: BlastLimits { max_share, always_allowed, .. } } => write!(
                f,
                "the limit of bans within 10 min is reached: clients banned by rules: {banned}, active clients: \
                 {active} (max_share = {max_share}, always_allowed = {always_allowed})"
            ),
        }
    }
}

impl BlastRadius {
    pub(crate) fn new(limits: BlastLimits) -> BlastRadius {
        BlastRadius { limits, bans: VecDeque::new(), clients: BTreeMap::new(), stopped: false }
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Decides about a ban by a rule, and remembers it when granted.
    pub(crate) fn permit(&mut self, client: Client, active_clients: usize, now: Now) -> Permit {
        self.drop_old(now);
        match self.exceeded(client, active_clients, now) {
            Some(reason) if self.stopped => Permit::Refused(reason),
            Some(reason) => {
                self.stopped = true;
                Permit::Stopped(reason)
            }
            None => {
                self.bans.push_back((now.boot_ms, client));
                self.clients.insert(client, now.boot_ms);
                if std::mem::take(&mut self.stopped) { Permit::Resumed } else { Permit::Granted }
            }
        }
    }

    fn drop_old(&mut self, now: Now) {
        while let Some((at, client)) = self.bans.front().copied()
            && at + SHARE_SPAN_MS <= now.boot_ms
        {
            self.bans.pop_front();
            if self.clients.get(&client) == Some(&at) {
                self.clients.remove(&client);
            }
        }
    }

    fn exceeded(&self, client: Client, active: usize, now: Now) -> Option<Limit> {
        let last_minute = self.bans.iter().rev().take_while(|(at, _)| at + MINUTE_MS > now.boot_ms).count();
        let limits = self.limits;
        if last_minute >= limits.max_bans_per_minute {
            return Some(Limit::Minute { max: limits.max_bans_per_minute });
        }
        let allowed = limits.always_allowed.max((limits.max_share * active as f64) as usize);
        let banned = self.clients.len() - usize::from(self.clients.contains_key(&client));
        (banned >= allowed).then_some(Limit::Share { banned, active, limits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Now = Now { wall_ms: 0, boot_ms: 1_000_000 };

    fn client(n: u32) -> Client {
        std::net::Ipv4Addr::from_bits(0xc612_0000 + n).into()
    }

    fn blast() -> BlastRadius {
        BlastRadius::new(BlastLimits { max_share: 0.2, always_allowed: 3, max_bans_per_minute: 30 })
    }

    #[test]
    fn few_bans_are_always_allowed() {
        let mut blast = blast();
        for n in 0..3 {
            assert_eq!(blast.permit(client(n), 4, T0), Permit::Granted);
        }
        assert!(matches!(blast.permit(client(3), 4, T0), Permit::Stopped(_)));
        assert!(matches!(blast.permit(client(4), 4, T0), Permit::Refused(_)));
    }

    #[test]
    fn a_client_that_comes_back_is_one_client() {
        let mut blast = blast();
        for n in 0..20 {
            assert_eq!(blast.permit(client(n % 3), 4, T0), Permit::Granted, "{n}");
        }
        assert!(matches!(blast.permit(client(3), 4, T0), Permit::Stopped(_)));
    }

    #[test]
    fn the_share_is_of_the_active_clients() {
        let mut blast = blast();
        for n in 0..20 {
            assert_eq!(blast.permit(client(n), 100, T0), Permit::Granted);
        }
        let Permit::Stopped(limit) = blast.permit(client(20), 100, T0) else {
            panic!("21 of 100 is over a fifth")
        };
        assert_eq!(
            limit.to_string(),
            "the limit of bans within 10 min is reached: clients banned by rules: 20, active clients: 100 \
             (max_share = 0.2, always_allowed = 3)"
        );
    }

    #[test]
    fn the_minute_limit_holds_whatever_the_share() {
        let mut blast = blast();
        let granted = (0..40).filter(|n| blast.permit(client(*n), 1_000_000, T0) == Permit::Granted).count();
        assert_eq!(granted, 30);
        assert_eq!(blast.permit(client(99), 1_000_000, T0.plus_ms(60_000)), Permit::Resumed);
        assert!(!blast.is_stopped());
    }

    #[test]
    fn old_bans_no_longer_count() {
        let mut blast = blast();
        for n in 0..3 {
            blast.permit(client(n), 4, T0);
        }
        assert!(matches!(blast.permit(client(3), 4, T0.plus_ms(599_999)), Permit::Stopped(_)));
        assert_eq!(blast.permit(client(3), 4, T0.plus_ms(600_000)), Permit::Resumed);
    }
}
