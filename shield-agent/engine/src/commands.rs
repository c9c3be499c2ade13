//! Operators' commands: ban, import, unban, allow, disallow. Pause and resume are in `pause`.

use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{Effects, Engine, NewBan};
use crate::bans::allow_ends::MAX_ALLOW_SECS;
use crate::bans::allowlist::{AllowReason, Allowed, BannableClient};
use crate::bans::backoff::Term;
use crate::vocab::action::{Action, CommandId, CommandResult, LiftReason, Notice, Order, Record, Reply};
use crate::vocab::ban::Place;
use crate::vocab::client::Client;
use crate::vocab::event::{Command, ImportedBan, Refused};
use crate::vocab::time::{Ends, Now, duration_words};
use crate::vocab::verdict::Rule;

impl Engine {
    pub(super) fn on_command(&mut self, id: CommandId, command: Command, now: Now, out: &mut Effects) {
        let results = match command {
            Command::Ban { clients, term, reason, rule } => clients
                .into_iter()
                .map(|client| self.ban_by_hand(client, term, reason.clone(), rule, now, out))
                .collect(),
            Command::Import { bans, refused } => {
                let refusals = match refused {
                    Refused::LeftOut => None,
                    Refused::StopsAll => self.refusals(&bans),
                };
                let import = |ban: ImportedBan| {
                    self.ban_by_hand(ban.client, ban.term, ban.reason, Rule::Imported, now, out)
                };
                refusals.unwrap_or_else(|| bans.into_iter().map(import).collect())
            }
            Command::Unban { clients, forget, reason } => clients
                .into_iter()
                .map(|client| self.unban_here_and_there(client, forget, reason.as_deref(), now, out))
                .collect(),
            Command::TakeBack { clients, reason } => clients
                .into_iter()
                .map(|client| self.unban_by_hand(client, reason.as_deref(), now, out))
                .collect(),
            Command::Allow { clients, secs, reason } => {
                clients.into_iter().map(|client| self.allow(client, secs, reason.clone(), now, out)).collect()
            }
            Command::Disallow { clients, reason } => {
                clients.into_iter().map(|client| self.disallow(client, reason.clone(), out)).collect()
            }
            Command::Pause { secs, reason } => {
                self.pause(secs, reason, now, out);
                Vec::new()
            }
            Command::Resume { reason } => self.resume(reason.as_deref(), now, out),
            Command::ForgetOrigin(origin) => self.forget_origin(&origin, now, out),
            Command::TrustOrigin(origin) => {
                self.trust_origin(&origin, now, out);
                Vec::new()
            }
        };
        out.other(Action::Reply(id, Reply { results }));
    }

    /// The results of a list of which some entry is refused, so that none is banned; `None` when all can be.
    fn refusals(&self, bans: &[ImportedBan]) -> Option<Vec<CommandResult>> {
        let clients = || bans.iter().map(|ban| ban.client.widened(self.settings.ipv6_prefix));
        let fresh: BTreeSet<Client> = clients().filter(|client| self.ledger.get(*client).is_none()).collect();
        let has_room = self.ledger.len() + fresh.len() <= self.settings.max_bans;
        let refusal = |client: Client| {
            let protected = self.admit(client, Rule::Imported).err().map(|entry| protected_by(client, entry));
            protected.or_else(|| (!has_room).then(|| self.no_room(client)))
        };
        let refusals: Vec<Option<CommandResult>> = clients().map(refusal).collect();
        let others = || "not banned: other entries of the list were refused".to_owned();
        let all = |(client, refusal): (Client, Option<CommandResult>)| {
            refusal.unwrap_or_else(|| failed(client, others()))
        };
        let is_refused = refusals.iter().any(Option::is_some);
        is_refused.then(|| clients().zip(refusals).map(all).collect())
    }

    fn no_room(&self, client: Client) -> CommandResult {
        let most = self.settings.max_bans;
        failed(client, format!("not banned: the ledger is full: raise max_bans = {most} in [ban]"))
    }

    fn ban_by_hand(
        &mut self,
        client: Client,
        term: Option<Term>,
        reason: Option<String>,
        rule: Rule,
        now: Now,
        out: &mut Effects,
    ) -> CommandResult {
        let client = self.client_meant(client);
        let bannable: BannableClient = match self.admit(client, rule) {
            Ok(bannable) => bannable,
            Err(entry) => return protected_by(client, entry),
        };
        let full = self.ledger.len() >= self.settings.max_bans && self.ledger.get(client).is_none();
        if full {
            return self.no_room(client);
        }
        let (term, offence) = match term {
            Some(term) => (term, None),
            None => {
                let offence = self.ledger.add_offence(client, now);
                (self.ledger.backoff().term(offence), Some(offence))
            }
        };
        let ends = term.ends(now);
        // Two who ban one client ask for the longer: neither knows of the other.
        let in_force = self.ledger.get(client).filter(|entry| entry.lifting.is_none()).map(|entry| entry.ban);
        if let Some(ban) = in_force.filter(|ban| offence.is_none() && is_longer(ban.ends, ends, now)) {
            let end = describe_end(ban.ends, now);
            return done(
                client,
                format!("stays banned {end}, which is longer: unban it first to shorten that"),
            );
        }
        let place = Place::Everywhere;
        self.ban(NewBan { client: bannable, ends, offence, rule, place, reason, evidence: None }, now, out);
        done(client, format!("banned {}", describe_end(ends, now)))
    }

    /// An unban of this host's operator, who means every host.
    fn unban_here_and_there(
        &mut self,
        client: Client,
        forget: bool,
        reason: Option<&str>,
        now: Now,
        out: &mut Effects,
    ) -> CommandResult {
        let meant = if self.ledger.get(client).is_some() { client } else { self.client_meant(client) };
        let is_wanted = self.remotes.wants(meant, now).until.is_some();
        if is_wanted || self.ledger.get(meant).is_some() {
            self.lift_everywhere(meant, reason, now);
        }
        let result = self.unban(client, forget, reason, now, out);
        if result.ok || !is_wanted {
            return result;
        }
        done(meant, "was not banned; what other hosts say of it is set aside for 24 h".to_owned())
    }

    fn unban_by_hand(
        &mut self,
        client: Client,
        reason: Option<&str>,
        now: Now,
        out: &mut Effects,
    ) -> CommandResult {
        let client = if self.ledger.get(client).is_some() { client } else { self.client_meant(client) };
        let in_force = self.ledger.get(client).filter(|entry| entry.lifting.is_none()).map(|entry| entry.ban);
        match in_force {
            Some(ban) if ban.rule == Rule::Operator => {
                if let Some(ban) = self.ledger.begin_lift(client, LiftReason::Operator) {
                    self.unban_notes.extend(reason.map(|reason| (client, reason.to_owned())));
                    self.order_lift(ban, now, out);
                }
                done(client, "unbanned".to_owned())
            }
            Some(ban) => failed(client, format!("stays banned: not by hand, but by {}", ban.rule)),
            None => failed(client, "was not banned".to_owned()),
        }
    }

    pub(super) fn unban(
        &mut self,
        client: Client,
        forget: bool,
        reason: Option<&str>,
        now: Now,
        out: &mut Effects,
    ) -> CommandResult {
        let client = if self.ledger.get(client).is_some() { client } else { self.client_meant(client) };
        self.detector.forget(client);
        self.blast.forget(client);
        self.pause.forget(client);
        self.rules.forget(client);
        // A late answer of DNS about it would ban or slow it after all.
        self.awaiting_dns.remove(&client);
        self.forget_doubt(client);
        self.detector.forget_campaign(client);
        if !client.is_single(self.settings.ipv6_prefix) {
            self.detector.forget_bad_network(client);
        }
        self.suppressed.remove(&client);
        if forget {
            self.ledger.forget_offences(client);
            out.persist(Record::OffencesForgotten(client));
        }
        if let Some(ban) = self.ledger.begin_lift(client, LiftReason::Operator) {
            if let Some(reason) = reason {
                self.unban_notes.insert(client, reason.to_owned());
            }
            self.order_lift(ban, now, out);
            return done(client, "unbanned".to_owned());
        }
        if self.release(client, now, out) {
            return done(client, "no longer slowed".to_owned());
        }
        match self.ledger.ban_over(client) {
            Some(over) => failed(client, format!("is banned as part of {}: unban that network", over.client)),
            None if self.ledger.get(client).is_some() => done(client, "is being unbanned already".to_owned()),
            None if let Some(over) = self.slowed_over(client) => failed(
                client,
                format!("was not banned, but is slowed as part of {}: unban that network", over.client),
            ),
            None => failed(client, "was not banned".to_owned()),
        }
    }

    fn allow(
        &mut self,
        client: Client,
        secs: Option<u64>,
        reason: Option<String>,
        now: Now,
        out: &mut Effects,
    ) -> CommandResult {
        let network = client.network();
        if network.prefix_len() == 0 {
            return failed(
                client,
                "not allowed: it covers every address, which would switch Shield off".to_owned(),
            );
        }
        let entry = Allowed { network, reason: AllowReason::Operator };
        self.allowlist.add(entry);
        self.allow_ends.set(network, secs.map(|secs| Ends::after(now, secs.clamp(1, MAX_ALLOW_SECS) * 1000)));
        let until_ms = self.allow_ends.until_ms(network);
        out.persist(Record::Allowed { entry, note: reason.clone(), until_ms });
        out.enforce(Order::AllowlistChanged);
        out.announce(Notice::AllowlistChanged { network, added: true, until_ms, note: reason });
        let lifted = self.lift_protected(now, out);
        self.recheck_slowed(now, out);
        self.forget_allowed();
        self.suppressed.remove(&client);
        let allowed =
            secs.map_or("allowed".to_owned(), |secs| format!("allowed for {}", duration_words(secs)));
        done(
            client,
            match lifted {
                0 => allowed,
                1 => format!("{allowed}; 1 ban lifted"),
                _ => format!("{allowed}; {lifted} bans lifted"),
            },
        )
    }

    fn disallow(&mut self, client: Client, reason: Option<String>, out: &mut Effects) -> CommandResult {
        let network = client.network();
        if !self.allowlist.remove(network, AllowReason::Operator) {
            let others = self.allowlist.entries().iter().find(|entry| entry.network == network);
            return failed(
                client,
                match others {
                    Some(entry) => format!("stays allowed: {}", entry.reason.describe()),
                    None => "was not on the allowlist".to_owned(),
                },
            );
        }
        self.allow_ends.set(network, None);
        self.no_longer_allowed(network, reason, out);
        done(client, "no longer allowed".to_owned())
    }

    /// Removes the entries that were added for a while and whose time is over. Their clients are judged again at once.
    pub(super) fn tick_allowlist(&mut self, now: Now, out: &mut Effects) {
        for network in self.allow_ends.take_over(now) {
            if self.allowlist.remove(network, AllowReason::Operator) {
                self.no_longer_allowed(network, Some("its time is over".to_owned()), out);
                self.suppressed.retain(|client, _| !client.covers(network));
            }
        }
    }

    fn no_longer_allowed(&mut self, network: IpNet, note: Option<String>, out: &mut Effects) {
        out.persist(Record::Disallowed(Allowed { network, reason: AllowReason::Operator }));
        out.enforce(Order::AllowlistChanged);
        out.announce(Notice::AllowlistChanged { network, added: false, until_ms: None, note });
    }

    /// Goes on with an entry that an earlier run allowed for a while, by the wall clock. One that ended meanwhile ends with the
    /// first tick, which records and announces it.
    pub fn restore_allow_end(&mut self, network: IpNet, until_ms: i64, now: Now) {
        let left_ms = u64::try_from(until_ms.saturating_sub(now.wall_ms)).unwrap_or(0);
        self.allow_ends.set(network, Some(Ends::after(now, left_ms.min(MAX_ALLOW_SECS * 1000))));
    }

    /// The end of an operator's entry on the wall clock in milliseconds; `None` of one without an end.
    pub fn allowed_until_ms(&self, network: IpNet) -> Option<i64> {
        self.allow_ends.until_ms(network)
    }

    /// Lifts every ban that the allowlist now forbids, and returns their number.
    pub(super) fn lift_protected(&mut self, now: Now, out: &mut Effects) -> usize {
        let protected: Vec<Client> = self
            .ledger
            .entries()
            .filter(|entry| entry.lifting.is_none())
            .filter(|entry| self.admit(entry.ban.client, entry.ban.rule).is_err())
            .map(|entry| entry.ban.client)
            .collect();
        let lifts: Vec<_> = protected
            .iter()
            .filter_map(|client| self.ledger.begin_lift(*client, LiftReason::Allowed))
            .collect();
        let count = lifts.len();
        lifts.into_iter().for_each(|ban| self.order_lift(ban, now, out));
        count
    }
}

fn protected_by(client: Client, entry: Allowed) -> CommandResult {
    let why = entry.reason.describe();
    failed(client, format!("not banned: {} is on the allowlist ({why})", entry.network))
}

fn done(client: Client, message: String) -> CommandResult {
    CommandResult { client, ok: true, message }
}

fn failed(client: Client, message: String) -> CommandResult {
    CommandResult { client, ok: false, message }
}

fn is_longer(ends: Ends, than: Ends, now: Now) -> bool {
    match (ends.remaining_ms(now), than.remaining_ms(now)) {
        (Some(a), Some(b)) => a > b,
        (a, b) => a.is_none() && b.is_some(),
    }
}

fn describe_end(ends: Ends, now: Now) -> String {
    match ends.remaining_ms(now) {
        None => "permanently".to_owned(),
        Some(ms) => format!("for {}", duration_words(ms.div_ceil(1000))),
    }
}
