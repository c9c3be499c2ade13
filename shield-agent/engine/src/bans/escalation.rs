//! Escalation from several banned clients of one network to the network itself.

use std::collections::{BTreeMap, VecDeque};

use crate::settings::{NetworkAction, NetworkEscalation};
use crate::vocab::client::Client;
use crate::vocab::time::Now;

/// Networks watched at most. Beyond it those without a recent ban are dropped, and if that frees none, all are: an
/// attacker with that many networks must not use up memory.
const MAX_NETWORKS: usize = 100_000;

/// Recent bans by network.
pub(crate) struct Escalation {
    settings: NetworkEscalation,
    /// The latest ban of each client by network, oldest first.
    recent: BTreeMap<Client, VecDeque<(u64, Client)>>,
}

impl Escalation {
    pub(crate) fn new(settings: NetworkEscalation) -> Escalation {
        Escalation { settings, recent: BTreeMap::new() }
    }

    pub(crate) fn set(&mut self, settings: NetworkEscalation) {
        self.settings = settings;
    }

    /// Records a ban. Returns the network and the number of its banned clients when the limit is reached; counting
    /// then starts again, so that one network is not proposed at every further ban.
    pub(crate) fn banned(&mut self, client: Client, now: Now) -> Option<(Client, u32)> {
        if self.settings.action == NetworkAction::Off {
            return None;
        }
        let network = self.network_of(client)?;
        self.make_room(now);
        let span_ms = self.settings.within_secs * 1000;
        let moments = self.recent.entry(network).or_default();
        moments.retain(|(at, banned)| at + span_ms > now.boot_ms && *banned != client);
        moments.push_back((now.boot_ms, client));
        if moments.len() < self.settings.clients {
            return None;
        }
        let count = moments.len() as u32;
        self.recent.remove(&network);
        Some((network, count))
    }

    fn network_of(&self, client: Client) -> Option<Client> {
        let net = client.network();
        let length = if net.addr().is_ipv4() { self.settings.ipv4_prefix } else { self.settings.ipv6_prefix };
        if net.prefix_len() <= length {
            return None;
        }
        ipnet::IpNet::new(net.addr(), length).ok().map(Client::of_network)
    }

    fn make_room(&mut self, now: Now) {
        if self.recent.len() < MAX_NETWORKS {
            return;
        }
        let span_ms = self.settings.within_secs * 1000;
        self.recent.retain(|_, moments| moments.back().is_some_and(|(at, _)| at + span_ms > now.boot_ms));
        if self.recent.len() >= MAX_NETWORKS {
            self.recent.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    const T0: Now = Now { wall_ms: 0, boot_ms: 1_000_000 };

    #[test]
    fn the_eighth_client_of_a_network_proposes_it() {
        let mut escalation = Escalation::new(Settings::default().networks);
        let answers: Vec<_> = (1..=9)
            .map(|n| {
                escalation
                    .banned(format!("192.0.2.{n}").parse().unwrap(), T0)
                    .map(|(net, n)| (net.to_string(), n))
            })
            .collect();
        assert_eq!(answers[7], Some(("192.0.2.0/24".to_owned(), 8)));
        assert_eq!(answers.iter().flatten().count(), 1);
    }

    #[test]
    fn bans_long_ago_do_not_count() {
        let mut escalation = Escalation::new(Settings::default().networks);
        for n in 1..=20u64 {
            let client: Client = format!("2001:db8:1:{n}::/64").parse().unwrap();
            assert_eq!(escalation.banned(client, T0.plus_ms(n * 3_600_000 / 7)), None, "{n}");
        }
    }

    #[test]
    fn one_client_banned_again_and_again_is_one_client() {
        let mut escalation = Escalation::new(Settings::default().networks);
        for n in 0..20 {
            assert_eq!(escalation.banned("192.0.2.1".parse().unwrap(), T0.plus_ms(n)), None, "{n}");
        }
    }

    #[test]
    fn the_networks_watched_are_bounded() {
        let mut escalation = Escalation::new(Settings::default().networks);
        let client = |n: u32| Client::from(std::net::Ipv4Addr::from_bits(n << 8));
        let hour = 3_600_000;
        for n in 0..MAX_NETWORKS as u32 {
            escalation.banned(client(n), T0.plus_ms(u64::from(n >= 10) * hour / 2));
        }
        assert_eq!(escalation.recent.len(), MAX_NETWORKS);
        escalation.banned(client(MAX_NETWORKS as u32), T0.plus_ms(hour));
        assert_eq!(escalation.recent.len(), MAX_NETWORKS - 9, "those without a recent ban are dropped first");
        for n in 0..10 {
            escalation.banned(client(MAX_NETWORKS as u32 + 1 + n), T0.plus_ms(hour));
        }
        assert!(escalation.recent.len() < 10, "then all of them");
    }

    #[test]
    fn a_network_ban_is_not_escalated_again() {
        let settings = NetworkEscalation { clients: 1, ..Settings::default().networks };
        let mut escalation = Escalation::new(settings);
        assert_eq!(escalation.banned("192.0.2.0/24".parse().unwrap(), T0), None);
    }
}
