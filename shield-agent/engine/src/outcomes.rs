//! Reports of the enforcers and the other parts.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{BanRecord, Effects, Engine};
use crate::bans::allowlist::{AllowReason, Allowed, Allowlist};
use crate::bans::leaks::{Facts, likely_cause};
use crate::bans::ledger::LedgerEntry;
use crate::vocab::action::{Notice, Order, Record};
use crate::vocab::ban::Ban;
use crate::vocab::client::Client;
use crate::vocab::event::{EnforcerName, Outcome, PartReport};
use crate::vocab::time::Now;

impl Engine {
    pub(super) fn on_outcome(&mut self, outcome: Outcome, now: Now, out: &mut Effects) {
        let enforcer = outcome.enforcer;
        for (client, serial) in outcome.banned {
            if !self.ledger.confirm_banned(enforcer, client, serial, now) {
                self.take_back(client, serial, out);
            }
        }
        for (client, serial) in outcome.lifted {
            let finished = self.ledger.confirm_lifted(enforcer, client, serial, &mut self.pending);
            finished.into_iter().for_each(|finished| self.record_lift(finished, now, out));
        }
        for failure in outcome.failed {
            if !failure.was_lift {
                self.ledger.deny_banned(enforcer, failure.client, failure.serial);
                self.on_denied(failure.client, failure.serial, out);
            }
        }
    }

    /// Lifts a ban in the kernel that is no longer in the ledger at all: it was carried out too late.
    fn take_back(&mut self, client: Client, serial: u64, out: &mut Effects) {
        if self.ledger.get(client).is_none() {
            out.enforce(Order::Lift { client, serial });
        }
    }

    pub(super) fn on_activity(
        &mut self,
        client: Client,
        serial: u64,
        packets: u64,
        now: Now,
        out: &mut Effects,
    ) {
        let entry = self.ledger.get(client).filter(|entry| entry.ban.serial == serial);
        let Some(entry) = entry else { return };
        if let Some(requests) = self.leaks.take_due(client) {
            let cause = self.cause_of_leak(&entry, packets);
            return out.announce(Notice::Leaking { client, requests, cause });
        }
        if let Some(packets_per_sec) = self.extensions.sampled(client, serial, packets, now) {
            self.extend(entry.ban, packets_per_sec, now, out);
        }
    }

    fn extend(&mut self, ban: Ban, packets_per_sec: f64, now: Now, out: &mut Effects) {
        let client = ban.client;
        let ends = self.extensions.new_end(&ban, self.ledger.backoff(), now);
        let Ok(bannable) = self.admit(client, ban.rule) else { return };
        let Some(moved) = self.ledger.extend(client, ends) else { return };
        self.extensions.watch(&moved, &mut self.ledger, now);
        let record = BanRecord {
            ban: moved,
            reason: Some(format!(
                "extended: {packets_per_sec:.1} packets/s were still dropped shortly before its end"
            )),
            evidence: None,
        };
        out.persist(Record::Extended(Box::new(record)));
        out.enforce(Order::Ban { client: bannable, ends, place: moved.place, serial: moved.serial });
        out.announce(Notice::Extended { client, ends, packets_per_sec });
    }

    fn cause_of_leak(&self, entry: &LedgerEntry, packets: u64) -> String {
        likely_cause(Facts {
            behind_proxy: self.leaks.came_by_proxy(entry.ban.client),
            peer: self.leaks.peer_of(entry.ban.client),
            held: EnforcerName::ALL.iter().any(|e| entry.is_held_by(*e)),
            xdp_active: self.parts.is_active(EnforcerName::Xdp.name()),
            iptables_active: self.parts.is_active(EnforcerName::Iptables.name()),
            nginx_active: self.parts.is_active(EnforcerName::Nginx.name()),
            packets,
        })
    }

    pub(super) fn on_part(&mut self, report: PartReport, now: Now, out: &mut Effects) {
        if let Some(repair) = report.repaired {
            let (part, found) = (report.part.clone(), repair.found);
            let (restored, removed) = (repair.restored, repair.removed);
            out.announce(Notice::Repaired { part, found, restored, removed });
        }
        out.announce.extend(self.parts.report(&report.part, report.state, now));
        self.on_part_changed(&report.part);
    }

    pub(super) fn on_host_addresses(
        &mut self,
        reasons: &[AllowReason],
        entries: Vec<Allowed>,
        now: Now,
        out: &mut Effects,
    ) {
        let before = self.allowlist.clone();
        self.allowlist.refresh(reasons, entries);
        if self.allowlist != before {
            out.enforce(Order::AllowlistChanged);
            self.learn_own_addresses();
            self.announce_ssh(&before, out);
            self.lift_protected(now, out);
            self.recheck_slowed(now, out);
        }
    }

    /// Announces whom SSH sessions allow, and whom no longer. The latter are judged again at once.
    fn announce_ssh(&mut self, before: &Allowlist, out: &mut Effects) {
        let is_ssh =
            |entry: &&Allowed| matches!(entry.reason, AllowReason::SshSession | AllowReason::SshRecent);
        let networks = |list: &Allowlist| -> BTreeMap<IpNet, AllowReason> {
            list.entries().iter().filter(is_ssh).map(|entry| (entry.network, entry.reason)).collect()
        };
        let (old, new) = (networks(before), networks(&self.allowlist));
        for (network, reason) in new.iter().filter(|(network, _)| !old.contains_key(*network)) {
            let note = Some(reason.describe().to_owned());
            out.announce(Notice::AllowlistChanged { network: *network, added: true, until_ms: None, note });
        }
        for network in old.into_keys().filter(|network| !new.contains_key(network)) {
            let note = Some("no SSH session from there for as long as ssh_keep in [allow] says".to_owned());
            out.announce(Notice::AllowlistChanged { network, added: false, until_ms: None, note });
            self.suppressed.retain(|client, _| !client.covers(network));
        }
    }

    pub(super) fn on_bot_verified(&mut self, client: Client, genuine: bool, now: Now, out: &mut Effects) {
        self.on_doubt_verified(client, genuine, now, out);
        let Some(awaiting) = self.awaiting_dns.remove(&client) else { return };
        if !genuine {
            return self.offend(awaiting.ban, now, out);
        }
        let network = client.network();
        self.detector.forget(client);
        self.suppressed.insert(client, now.boot_ms + crate::tick::VERIFIED_SUPPRESSION_MS);
        let (reason, evidence) = (AllowReason::SearchEngine, Some(awaiting.ban.evidence));
        out.announce(Notice::Protected { client, network, reason, evidence });
    }
}
