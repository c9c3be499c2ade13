//! The slow lane: clients that are let through no faster than their limits, because what speaks against them is too much to
//! ignore and too little for a ban.
//!
//! Owns the list of them, their limits and their ends. It is no part of the ledger: being slowed is no offence, has no
//! history, and the client is judged on. The list is short and short-lived, so that it is handed over as a whole: to the
//! enforcers, and to the store.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::bans::allowlist::BannableClient;
use crate::settings::SlowSettings;
use crate::vocab::client::Client;
use crate::vocab::slow::{SlowGrounds, SlowLimits, SlowRate, Slowed};
use crate::vocab::time::{Ends, Now};
use crate::vocab::verdict::Rule;

/// Clients slowed at most: as many as the kernel's map holds. Further ones are not slowed; a ban has no such limit.
pub(crate) const MAX_SLOWED: usize = 4_096;

/// New connections at once, in a browser: six for each of two names of the site.
const CONNECTIONS_AT_ONCE: u16 = 12;
/// The burst of connections as seconds of their rate.
const CONNECTION_BURST_SECS: u16 = 6;
/// The burst of packets as seconds of their rate: about what two pages with their files take to ask for.
const PACKET_BURST_SECS: u16 = 10;

/// The limits of a client are no lower than this many times its usual rate of served requests: behind one address there may
/// be many people. A request is at most a connection, and two packets: half of them opens the connection's encryption.
const CONNECTIONS_PER_USUAL: f64 = 2.0;
const PACKETS_PER_USUAL: f64 = 4.0;

/// The clients in the slow lane.
#[derive(Debug, Default)]
pub(crate) struct Slowing {
    slowed: BTreeMap<Client, (BannableClient, Slowed)>,
    /// Grows with every change, so that an older list never replaces a newer one.
    version: u64,
    saved_version: u64,
    total: u64,
}

/// A slowed client as it is saved. The end is on the wall clock: the term is so short that what a clock set meanwhile does
/// to it is bounded by the term.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    #[serde(flatten)]
    slowed: Slowed,
    ends_ms: i64,
}

impl Slowing {
    /// Slows a client until `term_secs` from now, or moves its end. Returns what is to be announced: nothing when it was slowed
    /// before, or when there is no room.
    pub(crate) fn slow(
        &mut self,
        bannable: BannableClient,
        rule: Rule,
        grounds: SlowGrounds,
        limits: SlowLimits,
        ends: Ends,
        now: Now,
    ) -> Change {
        let client = bannable.client();
        if let Some((_, known)) = self.slowed.get_mut(&client) {
            if !is_worth_moving(known.ends, ends, now) {
                return Change::Nothing;
            }
            known.ends = ends;
            // Never lower than before: what the client does while it is slowed is not its usual rate.
            known.limits = higher(known.limits, limits);
            self.version += 1;
            return Change::Prolonged;
        }
        if self.slowed.len() >= MAX_SLOWED {
            return Change::Nothing;
        }
        let slowed = Slowed { client, since_ms: now.wall_ms, ends, rule, limits, grounds };
        self.slowed.insert(client, (bannable, slowed.clone()));
        self.version += 1;
        self.total += 1;
        Change::Slowed(slowed)
    }

    /// Takes a client out, without saying so.
    pub(crate) fn remove(&mut self, client: Client) -> Option<Slowed> {
        let (_, slowed) = self.slowed.remove(&client)?;
        self.version += 1;
        Some(slowed)
    }

    /// Takes out whoever's time is over.
    pub(crate) fn expire(&mut self, now: Now) -> Vec<Slowed> {
        self.remove_where(|slowed| slowed.ends.is_past(now))
    }

    /// Takes out those for which `is_out` holds.
    pub(crate) fn remove_where(&mut self, is_out: impl Fn(&Slowed) -> bool) -> Vec<Slowed> {
        if self.slowed.is_empty() {
            return Vec::new();
        }
        let out: Vec<Client> = self
            .slowed
            .values()
            .filter(|(_, slowed)| is_out(slowed))
            .map(|(_, slowed)| slowed.client)
            .collect();
        out.into_iter().filter_map(|client| self.remove(client)).collect()
    }

    /// The entry of a client.
    pub(crate) fn get(&self, client: Client) -> Option<&Slowed> {
        self.slowed.get(&client).map(|(_, slowed)| slowed)
    }

    /// Every one, in the order of their addresses.
    pub(crate) fn all(&self) -> impl ExactSizeIterator<Item = (BannableClient, &Slowed)> {
        self.slowed.values().map(|(bannable, slowed)| (*bannable, slowed))
    }

    pub(crate) fn len(&self) -> usize {
        self.slowed.len()
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Clients slowed since the start.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The list to be saved; `None` when it did not change since it was asked for.
    pub(crate) fn changed(&mut self) -> Option<Vec<u8>> {
        if std::mem::replace(&mut self.saved_version, self.version) == self.version {
            return None;
        }
        let saved = |(_, slowed): &(BannableClient, Slowed)| {
            let Ends::At { wall_ms, .. } = slowed.ends else { return None };
            Some(Saved { slowed: slowed.clone(), ends_ms: wall_ms })
        };
        let all: Vec<Saved> = self.slowed.values().filter_map(saved).collect();
        serde_json::to_vec(&all).ok()
    }

    /// Takes over a list of an earlier run, of which `admit` decides about each. What is over by now is left out.
    pub(crate) fn restore(
        &mut self,
        saved: &[u8],
        longest_ms: u64,
        now: Now,
        admit: impl Fn(Client) -> Option<BannableClient>,
    ) -> Result<(), serde_json::Error> {
        let saved: Vec<Saved> = serde_json::from_slice(saved)?;
        for Saved { slowed, ends_ms } in saved.into_iter().take(MAX_SLOWED) {
            let left_ms =
                ends_ms.saturating_sub(now.wall_ms).clamp(0, i64::try_from(longest_ms).unwrap_or(i64::MAX));
            let Some(bannable) = admit(slowed.client).filter(|_| left_ms > 0) else { continue };
            let slowed = Slowed { ends: Ends::after(now, left_ms as u64), ..slowed };
            self.slowed.insert(slowed.client, (bannable, slowed));
        }
        self.version += 1;
        Ok(())
    }
}

/// What [`Slowing::slow`] did.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    Nothing,
    Prolonged,
    Slowed(Slowed),
}

/// The limits of a client that is usually served so many requests a second.
pub(crate) fn limits(settings: &SlowSettings, usual_per_sec: f64) -> SlowLimits {
    let connections = at_least(settings.connections_per_sec, CONNECTIONS_PER_USUAL * usual_per_sec);
    let packets = at_least(settings.packets_per_sec, PACKETS_PER_USUAL * usual_per_sec);
    SlowLimits {
        connections: SlowRate {
            per_sec: connections,
            burst: connections.saturating_mul(CONNECTION_BURST_SECS).max(CONNECTIONS_AT_ONCE),
        },
        packets: SlowRate { per_sec: packets, burst: packets.saturating_mul(PACKET_BURST_SECS) },
    }
}

fn at_least(floor: u16, rate: f64) -> u16 {
    floor.max(rate.ceil().clamp(0.0, f64::from(u16::MAX)) as u16)
}

fn higher(a: SlowLimits, b: SlowLimits) -> SlowLimits {
    let rate = |a: SlowRate, b: SlowRate| SlowRate {
        per_sec: a.per_sec.max(b.per_sec),
        burst: a.burst.max(b.burst),
    };
    SlowLimits { connections: rate(a.connections, b.connections), packets: rate(a.packets, b.packets) }
}

/// An end is moved when half of the term is over, not at every request.
fn is_worth_moving(old: Ends, new: Ends, now: Now) -> bool {
    match (old.remaining_ms(now), new.remaining_ms(now)) {
        (Some(old), Some(new)) => old < new / 2,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bans::allowlist::Allowlist;
    use crate::settings::Settings;

    const T0: Now = Now { wall_ms: 1_700_000_000_000, boot_ms: 50_000 };

    fn bannable(n: u32) -> BannableClient {
        Allowlist::default().admit(std::net::Ipv4Addr::from_bits(0xc633_0000 + n).into(), 64).unwrap()
    }

    fn slow(slowing: &mut Slowing, n: u32, now: Now) -> Change {
        let limits = limits(&Settings::default().slow, 0.0);
        slowing.slow(
            bannable(n),
            Rule::Probing,
            SlowGrounds::Withheld,
            limits,
            Ends::after(now, 600_000),
            now,
        )
    }

    #[test]
    fn a_browser_fits_into_the_limits_and_a_crowd_into_its_own() {
        let settings = Settings::default().slow;
        let one = limits(&settings, 0.1);
        assert_eq!(one.connections, SlowRate { per_sec: 2, burst: 12 });
        assert_eq!(one.packets, SlowRate { per_sec: 20, burst: 200 });
        let office = limits(&settings, 30.0);
        assert_eq!(office.connections, SlowRate { per_sec: 60, burst: 360 });
        assert_eq!(office.packets, SlowRate { per_sec: 120, burst: 1_200 });
        let absurd = limits(&settings, f64::MAX);
        assert_eq!(absurd.packets, SlowRate { per_sec: u16::MAX, burst: u16::MAX });
        assert_eq!(limits(&settings, f64::NAN), limits(&settings, 0.0));
    }

    #[test]
    fn it_ends_and_moves_its_end_only_in_its_second_half() {
        let mut slowing = Slowing::default();
        assert!(matches!(slow(&mut slowing, 1, T0), Change::Slowed(_)));
        assert_eq!(slow(&mut slowing, 1, T0.plus_ms(299_000)), Change::Nothing);
        assert_eq!(slow(&mut slowing, 1, T0.plus_ms(301_000)), Change::Prolonged);
        assert!(slowing.expire(T0.plus_ms(600_000)).is_empty());
        assert_eq!(slowing.expire(T0.plus_ms(901_000)).len(), 1);
        assert_eq!((slowing.len(), slowing.total()), (0, 1));
    }

    #[test]
    fn it_is_bounded() {
        let mut slowing = Slowing::default();
        for n in 0..MAX_SLOWED as u32 {
            assert!(matches!(slow(&mut slowing, n, T0), Change::Slowed(_)));
        }
        assert_eq!(slow(&mut slowing, MAX_SLOWED as u32, T0), Change::Nothing);
        assert_eq!(slowing.len(), MAX_SLOWED);
    }

    #[test]
    fn what_is_saved_comes_back_with_the_time_that_is_left() {
        let mut slowing = Slowing::default();
        slow(&mut slowing, 1, T0);
        slow(&mut slowing, 2, T0);
        let saved = slowing.changed().expect("it changed");
        assert_eq!(slowing.changed(), None);
        let mut later = Slowing::default();
        // After a reboot: the boot clock starts anew, the wall clock went on.
        let now = Now { wall_ms: T0.wall_ms + 400_000, boot_ms: 1_000 };
        later
            .restore(&saved, 600_000, now, |client| (client == bannable(1).client()).then(|| bannable(1)))
            .unwrap();
        assert_eq!(later.len(), 1, "only who may still be slowed");
        let (_, slowed) = later.all().next().unwrap();
        assert_eq!(slowed.ends, Ends::At { boot_ms: 201_000, wall_ms: T0.wall_ms + 600_000 });
        let mut set_back = Slowing::default();
        let now = Now { wall_ms: 0, boot_ms: 1_000 };
        set_back.restore(&saved, 600_000, now, |_| Some(bannable(1))).unwrap();
        assert_eq!(
            set_back.all().next().unwrap().1.ends.remaining_ms(now),
            Some(600_000),
            "never longer than its term"
        );
        assert!(Slowing::default().restore(b"nonsense", 1, T0, |_| None).is_err());
    }
}
