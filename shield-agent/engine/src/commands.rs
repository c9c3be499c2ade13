//! Operators' commands: ban, import, unban, allow, disallow.

use super::{Effects, Engine, NewBan};
use crate::bans::allowlist::{AllowReason, Allowed, BannableClient};
use crate::bans::backoff::Term;
use crate::vocab::action::{Action, CommandId, CommandResult, LiftReason, Notice, Order, Record, Reply};
use crate::vocab::client::Client;
use crate::vocab::event::Command;
use crate::vocab::time::{Ends, Now};
use crate::vocab::verdict::Rule;

impl Engine {
    pub(super) fn on_command(&mut self, id: CommandId, command: Command, now: Now, out: &mut Effects) {
        let results = match command {
            Command::Ban { clients, term, reason, rule } => clients
                .into_iter()
                .map(|client| self.ban_by_hand(client, term, reason.clone(), rule, now, out))
                .collect(),
            Command::Import { bans } => bans
                .into_iter()
                .map(|ban| self.ban_by_hand(ban.client, ban.term, ban.reason, Rule::Imported, now, out))
                .collect(),
            Command::Unban { clients, forget, reason } => clients
                .into_iter()
                .map(|client| self.unban(client, forget, reason.as_deref(), now, out))
                .collect(),
            Command::Allow { clients, reason } => {
                clients.into_iter().map(|client| self.allow(client, reason.clone(), now, out)).collect()
            }
            Command::Disallow { clients, reason } => {
                clients.into_iter().map(|client| self.disallow(client, reason.clone(), out)).collect()
            }
        };
        out.other(Action::Reply(id, Reply { results }));
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
            Err(entry) => {
                let why = entry.reason.describe();
                return failed(client, format!("not banned: {} is on the allowlist ({why})", entry.network));
            }
        };
        let full = self.ledger.len() >= self.settings.max_bans && self.ledger.get(client).is_none();
        if full {
            return failed(
                client,
                format!(
                    "not banned: the ledger is full: raise max_bans = {} in [ban]",
                    self.settings.max_bans
                ),
            );
        }
        let (term, offence) = match term {
            Some(term) => (term, None),
            None => {
                let offence = self.ledger.add_offence(client, now);
                (self.ledger.backoff().term(offence), Some(offence))
            }
        };
        let ends = term.ends(now);
        self.ban(NewBan { client: bannable, ends, offence, rule, reason, evidence: None }, now, out);
        done(client, format!("banned {}", describe_end(ends, now)))
    }

    fn unban(
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
        self.detector.forget_campaign(client);
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
        match self.ledger.ban_over(client) {
            Some(over) => failed(client, format!("is banned as part of {}: unban that network", over.client)),
            None if self.ledger.get(client).is_some() => done(client, "is being unbanned already".to_owned()),
            None => failed(client, "was not banned".to_owned()),
        }
    }

    fn allow(
        &mut self,
        client: Client,
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
        out.persist(Record::Allowed(entry));
        out.enforce(Order::AllowlistChanged);
        out.announce(Notice::AllowlistChanged { network, added: true, note: reason });
        let lifted = self.lift_protected(now, out);
        self.suppressed.remove(&client);
        done(
            client,
            match lifted {
                0 => "allowed".to_owned(),
                1 => "allowed; 1 ban lifted".to_owned(),
                _ => format!("allowed; {lifted} bans lifted"),
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
        out.persist(Record::Disallowed(Allowed { network, reason: AllowReason::Operator }));
        out.enforce(Order::AllowlistChanged);
        out.announce(Notice::AllowlistChanged { network, added: false, note: reason });
        done(client, "no longer allowed".to_owned())
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

fn done(client: Client, message: String) -> CommandResult {
    CommandResult { client, ok: true, message }
}

fn failed(client: Client, message: String) -> CommandResult {
    CommandResult { client, ok: false, message }
}

fn describe_end(ends: Ends, now: Now) -> String {
    match ends.remaining_ms(now) {
        None => "permanently".to_owned(),
        Some(ms) => format!("for {} s", ms.div_ceil(1000)),
    }
}
