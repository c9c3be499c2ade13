//! Judges a client by the company it keeps: a campaign that it takes part in, a network whose clients only probe. Asked after
//! requests in vain, when no rule fires for the client alone.

use crate::detect::activity::{Activity, Spread};
use crate::detect::bad_networks::{BadNetwork, CLIENT_WEIGHT, NetworkKey};
use crate::detect::campaigns::{
    Campaigns, FIRST_REQUESTS, SHARED_BY, SHARED_TARGETS, SUSPECT_SHARED, SUSPECT_TARGETS,
};
use crate::detect::clients::{Clients, Prepared};
use crate::detect::detector::Detector;
use crate::detect::good_standing::Standings;
use crate::detect::rules::{Check, Facts, Fired, at_least};
use crate::detect::trace::Trace;
use crate::vocab::client::Client;
use crate::vocab::verdict::{Evidence, Rule};

/// A network is mixed when at least one in so many of its clients is served well.
const MIXED_SHARE: u32 = 4;

/// Assets within a minute that make a reader.
const READER_ASSETS: usize = 3;

impl Detector {
    /// Judges a client whose request in vain was just counted.
    #[cold]
    pub(super) fn judge_company(
        &mut self,
        prepared: &Prepared,
        trace: &Trace,
        second: u32,
    ) -> Option<Evidence> {
        let key = prepared.client.key();
        let prefix = self.ipv6_prefix();
        let Detector { clients, standings, bad_networks, campaigns, .. } = self;
        bad_networks.add(key, trace, second, |network, bad| {
            is_mixed(clients, standings, network, bad, prefix, second)
        });
        let around = bad_networks.around(key, second);
        let is_known = campaigns.may_know(trace.key);
        let light;
        let activity = match self.clients.heavy(key) {
            Some(activity) if around.is_none() && !may_be_of_campaign(&self.campaigns, activity) => {
                return None;
            }
            Some(activity) => activity,
            None if around.is_none() && !is_known => return None,
            None => {
                light = self.clients.activity(key)?.0;
                &light
            }
        };
        if is_reader(activity) {
            return None;
        }
        let checks = in_campaign(&mut self.campaigns, key, activity, second)
            .or_else(|| in_bad_network(activity, around?))?;
        let facts = Facts::of(activity, Spread::default(), self.policy(), second);
        Some(self.evidence_of(
            key,
            &facts,
            Fired { rule: Rule::Probing, checks, is_observed: false },
            activity,
            second,
        ))
    }

    /// Learns what a client that is being banned had asked for.
    pub(crate) fn learn_campaign(&mut self, client: Client) {
        let second = self.newest_second();
        let Detector { clients, campaigns, good_targets, .. } = self;
        let Some((activity, _)) = clients.activity(client.key()) else { return };
        let in_vain = activity.in_vain().filter(|target| !good_targets.is_asked(*target, second));
        campaigns.learn(client.key(), in_vain, second);
    }

    /// Forgets what a client was banned for: it was a mistake.
    pub(crate) fn forget_campaign(&mut self, client: Client) {
        self.campaigns.forget(client.key());
    }

    /// The network of the last request, when its clients only probe; not at each of their requests.
    #[inline]
    pub(crate) fn take_hopping(&mut self) -> Option<BadNetwork> {
        self.bad_networks.take_reported()
    }

    /// Begins anew with a network: an operator said that it was a mistake.
    pub(crate) fn forget_bad_network(&mut self, network: Client) {
        self.bad_networks.forget(NetworkKey::of(network.key()));
    }

    /// The networks that became bad since the last call.
    pub(crate) fn take_bad_networks(&mut self) -> Vec<BadNetwork> {
        self.bad_networks.take_new()
    }
}

/// Whoever loads pages with their assets may have met their broken links. One asset is no alibi.
fn is_reader(activity: &Activity) -> bool {
    if (activity.window.at_most().assets as usize) < READER_ASSETS {
        return false;
    }
    let assets = activity.window.sum().assets as usize;
    assets >= READER_ASSETS && 2 * assets >= activity.targets_in_vain()
}

/// Whether [`in_campaign`] can find anything. For nearly every client it cannot, and its targets are not walked.
fn may_be_of_campaign(campaigns: &Campaigns, activity: &Activity) -> bool {
    let is_new = || activity.window.sum().requests <= FIRST_REQUESTS;
    activity.targets() >= SUSPECT_TARGETS || (!campaigns.is_empty() && is_new())
}

fn in_campaign(campaigns: &mut Campaigns, key: u128, activity: &Activity, second: u32) -> Option<Vec<Check>> {
    let targets: Vec<u32> = activity.in_vain().collect();
    if activity.window.sum().requests <= FIRST_REQUESTS
        && let Some(clients) = campaigns.recognise(key, &targets, second)
    {
        return Some(vec![
            at_least("targets_of_a_campaign", SHARED_TARGETS as u32, SHARED_TARGETS as u32),
            at_least("clients_of_the_campaign", clients, SHARED_BY as u32),
        ]);
    }
    let targets: Vec<u32> = activity.pages_in_vain().collect();
    if targets.len() < SUSPECT_TARGETS || !targets.len().is_multiple_of(4) {
        return None;
    }
    let served = activity.asked().count() - targets.len();
    if served * 4 > targets.len() {
        return None;
    }
    let clients = campaigns.suspect(key, targets, second)?;
    Some(vec![
        at_least("targets_of_a_campaign", SUSPECT_SHARED as u32, SUSPECT_SHARED as u32),
        at_least("clients_of_the_campaign", clients, SHARED_BY as u32),
    ])
}

fn in_bad_network(activity: &Activity, clients: u32) -> Option<Vec<Check>> {
    let weight = activity.weight_in_vain();
    (weight >= CLIENT_WEIGHT).then(|| {
        vec![
            at_least("probes_of_its_network", f64::from(weight) / 10.0, f64::from(CLIENT_WEIGHT) / 10.0),
            at_least("clients_of_the_network", clients, clients),
        ]
    })
}

/// Whether clients of a network are served well, beside so many that probe.
fn is_mixed(
    clients: &Clients,
    standings: &Standings,
    network: NetworkKey,
    bad: u32,
    ipv6_prefix: u8,
    second: u32,
) -> bool {
    let (network, enough) = (network.client(), bad.div_ceil(MIXED_SHARE) as usize);
    clients.are_served_among(network.singles(ipv6_prefix), second, enough)
        || standings.present_in(network, second) >= enough
}
