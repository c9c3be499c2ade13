//! Blast radius: a rule that would ban too many clients is stopped, keeps observing, and says so.

use std::collections::{BTreeMap, VecDeque};

use crate::settings::BlastLimits;
use crate::vocab::client::Client;
use crate::vocab::time::Now;

/// Bans by rules are remembered this long: the span that `max_share` is about.
const SHARE_SPAN_MS: u64 = 600_000;
const MINUTE_MS: u64 = 60_000;

/// Remembers when rules banned, and decides whether one more ban is within the limits.
pub(crate) struct BlastRadius {
    limits: BlastLimits,
    bans: VecDeque<(u64, Client)>,
    /// When each client among them was banned last: one that comes back is still one client.
    clients: BTreeMap<Client, u64>,
    stopped: bool,
}

/// What the limits say about one more ban.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Permit {
    /// Go on.
    Granted,
    /// Go on; banning was stopped before.
    Resumed,
    /// Not now, for this reason.
    Refused(String),
    /// Not now, and this is the first refusal.
    Stopped(String),
}

impl BlastRadius {
    /// With these limits, nothing banned yet.
    pub(crate) fn new(limits: BlastLimits) -> BlastRadius {
        BlastRadius { limits, bans: VecDeque::new(), clients: BTreeMap::new(), stopped: false }
    }

    /// Whether banning is stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Asks whether a rule may ban this client; a granted ban is remembered.
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

    fn exceeded(&self, client: Client, active_clients: usize, now: Now) -> Option<String> {
        let last_minute = self.bans.iter().rev().take_while(|(at, _)| at + MINUTE_MS > now.boot_ms).count();
        let per_minute = self.limits.max_bans_per_minute;
        if last_minute >= per_minute {
            return Some(format!("{last_minute} bans within a minute (max_bans_per_minute = {per_minute})"));
        }
        let share = self.limits.max_share;
        let allowed = self.limits.always_allowed.max((share * active_clients as f64) as usize);
        let bans = self.clients.len() - usize::from(self.clients.contains_key(&client));
        (bans >= allowed).then(|| {
            format!("{bans} of {active_clients} clients active in the last 10 min are banned (max_share = {share})")
        })
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
        let Permit::Stopped(reason) = blast.permit(client(20), 100, T0) else {
            panic!("21 of 100 is over a fifth")
        };
        assert!(reason.contains("20 of 100"), "{reason}");
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
