//! Takes over the bans that the kernel holds, for a start whose database is gone: the first reconcile would otherwise lift every
//! one of them, because an empty ledger wants none.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::{Kernel, build};
use crate::config::Config;
use crate::enforce::Enforcer;
use crate::text::restored;
use shield_engine::Engine;
use shield_engine::action::{Action, BanRecord, Order, Record};
use shield_engine::ban::{Ban, Place};
use shield_engine::client::Client;
use shield_engine::time::{Ends, Now};
use shield_engine::verdict::Rule;

/// What the kernel holds, by client, with the end where one of the enforcers knows it.
#[derive(Debug, Default)]
pub(super) struct Held {
    bans: BTreeMap<Client, Option<Ends>>,
    /// Enforcers whose bans could not be listed.
    problems: Vec<String>,
}

/// Lists the bans of every enforcer in use. Starting one takes over what is there, as the start proper will again.
pub(super) fn held(config: &Config, kernel: Kernel, exempt: &[IpNet], now: Now) -> Held {
    let mut held = Held::default();
    for name in build::enforcers(config, kernel) {
        held.add(&mut *build::enforcer(name, config), exempt, now);
    }
    held
}

impl Held {
    fn add(&mut self, enforcer: &mut dyn Enforcer, exempt: &[IpNet], now: Now) {
        let observed = enforcer.start(exempt, now).and_then(|()| enforcer.observe(now));
        match observed {
            Ok(bans) => bans.into_iter().for_each(|(client, ends)| self.note(client, ends)),
            Err(error) => self.problems.push(format!("{}: {error:#}", enforcer.name().name())),
        }
    }

    /// The later end counts: single rules of iptables have none, and ends are rounded up.
    fn note(&mut self, client: Client, ends: Option<Ends>) {
        let known = self.bans.entry(client).or_default();
        *known = [*known, ends].into_iter().flatten().max_by_key(|ends| match ends {
            Ends::Never => u64::MAX,
            Ends::At { boot_ms, .. } => *boot_ms,
        });
    }

    /// Makes bans of the ledger out of them, with the serial numbers from 1 on. Returns the records, the engine's actions, and
    /// what was done in words. A ban whose end nobody knows gets the term of a first offence.
    pub(super) fn adopt(self, engine: &mut Engine, max_bans: usize, now: Now) -> Adopted {
        let first_term = engine.ledger().backoff().term(std::num::NonZeroU32::MIN);
        let (mut records, mut actions) = (Vec::new(), Vec::new());
        let mut without_end = 0;
        let running = self.bans.into_iter().filter(|(_, ends)| ends.is_none_or(|ends| !ends.is_past(now)));
        for ((client, ends), serial) in running.take(max_bans).zip(1..) {
            without_end += u64::from(ends.is_none());
            let ends = ends.unwrap_or_else(|| first_term.ends(now));
            let ban = Ban {
                client,
                serial,
                since_ms: now.wall_ms,
                ends,
                offence: None,
                rule: Rule::Imported,
                place: Place::Everywhere,
            };
            let (ban, again) = restore(engine, ban, now);
            records.push(Record::Banned(Box::new(BanRecord {
                ban,
                reason: Some(restored::ADOPTED.to_owned()),
                evidence: None,
            })));
            actions.extend(again);
        }
        let words = restored::adopted(records.len() as u64, without_end, first_term, &self.problems);
        Adopted { records, actions, words }
    }

    /// The number that the next ban may have.
    pub(super) fn next_serial(&self) -> u64 {
        self.bans.len() as u64 + 1
    }
}

/// Restores a ban as one of a list, or as an operator's where only an operator may have made it: of a network of a CDN, for
/// example, which lists do not ban.
fn restore(engine: &mut Engine, ban: Ban, now: Now) -> (Ban, Vec<Action>) {
    let is_in_force =
        |actions: &[Action]| actions.iter().any(|a| matches!(a, Action::Enforce(Order::Ban { .. })));
    let actions = engine.restore_ban(ban, now);
    if is_in_force(&actions) {
        return (ban, actions);
    }
    let by_hand = Ban { rule: Rule::Operator, ..ban };
    let again = engine.restore_ban(by_hand, now);
    if is_in_force(&again) { (by_hand, again) } else { (ban, actions) }
}

pub(super) struct Adopted {
    pub records: Vec<Record>,
    pub actions: Vec<Action>,
    pub words: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::allowlist::{AllowReason, Allowed, Allowlist};
    use shield_engine::policy::Policy;
    use shield_engine::settings::Settings;

    const NOW: Now = Now { wall_ms: 1_800_000_000_000, boot_ms: 5_000_000 };

    fn client(text: &str) -> Client {
        text.parse().unwrap()
    }

    fn at(ms: u64) -> Option<Ends> {
        Some(Ends::after(NOW, ms))
    }

    #[test]
    fn what_the_kernel_holds_becomes_the_ledger_with_its_ends() {
        let mut held = Held::default();
        // XDP knows every end, single rules none, sets to the second.
        held.note(client("192.0.2.1"), at(90_000));
        held.note(client("192.0.2.1"), None);
        held.note(client("192.0.2.2"), at(90_000));
        held.note(client("192.0.2.2"), at(91_000));
        held.note(client("192.0.2.3"), None);
        held.note(client("192.0.2.4"), Some(Ends::Never));
        held.note(client("192.0.2.5"), at(0));
        held.note(client("198.51.100.0/24"), Some(Ends::Never));
        held.note(client("203.0.113.1"), at(90_000));
        held.problems.push("iptables: no permission".to_owned());
        let own = Allowed { network: "203.0.113.1/32".parse().unwrap(), reason: AllowReason::OwnAddress };
        let cdn = Allowed { network: "198.51.100.0/24".parse().unwrap(), reason: AllowReason::Cdn };
        let next = held.next_serial();
        let allowlist = Allowlist::new([own, cdn]);
        let mut engine = Engine::new(Settings::default(), Policy::default(), allowlist, next, 7);
        let adopted = held.adopt(&mut engine, 1_000, NOW);
        let ends: Vec<_> =
            engine.ledger().entries().map(|entry| (entry.ban.client, entry.ban.ends)).collect();
        let first = engine.ledger().backoff().term(std::num::NonZeroU32::MIN).ends(NOW);
        let expected = [
            (client("192.0.2.1"), at(90_000).unwrap()),
            (client("192.0.2.2"), at(91_000).unwrap()),
            (client("192.0.2.3"), first),
            (client("192.0.2.4"), Ends::Never),
            (client("198.51.100.0/24"), Ends::Never),
        ];
        assert_eq!(ends, expected, "neither the ended one nor the one on the allowlist");
        let ordered = adopted.actions.iter().filter(|a| matches!(a, Action::Enforce(Order::Ban { .. })));
        assert_eq!((ordered.count(), adopted.records.len()), (5, 6));
        assert_eq!(
            adopted.words,
            "6 bans taken over from the kernel with their ends (1 whose end the kernel does not know: 10 min from \
             now); could not list the bans of iptables: no permission"
        );
        let highest = engine.ledger().entries().map(|entry| entry.ban.serial).max();
        assert!(highest < Some(next), "no new ban has the number of an adopted one");
    }
}
