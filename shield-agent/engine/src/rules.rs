//! The operators' own rules: asked about each verdict of the detector's before its ban is made. The question leaves as an action,
//! the answer comes as an event, and nobody waits in between: other clients are judged meanwhile.
//!
//! Asked after the allowlist, which no answer overrules, and before the limits and a pause. Not asked: about what operators, lists and
//! other hosts want, nor about whole networks.

use std::collections::BTreeMap;

use super::{Effects, Engine};
use crate::bans::backoff::Term;
use crate::bans::blast::HeldBan;
use crate::detect::policy::Switch;
use crate::vocab::action::Action;
use crate::vocab::client::Client;
use crate::vocab::policy::{PolicyAction, PolicyTerm, PolicyWord};
use crate::vocab::slow::SlowGrounds;
use crate::vocab::time::Now;
use crate::vocab::verdict::{Evidence, Rule};

/// The time for an answer. After it the configured action holds.
const ANSWER_MS: u64 = 2_000;
/// Questions without an answer at most. Of further ones the configured action holds at once: a storm of verdicts must not wait.
const MAX_ASKED: usize = 10_000;
/// A client that the rules spare is judged again after this long, so that whoever makes a spared rule fire is soon seen by the others.
const SPARED_MS: u64 = 10_000;
/// That a client is spared is told again after this long.
const TOLD_EACH_MS: u64 = 600_000;
/// Clients of which is known that they were told of, at most; further ones are told of each time.
const MAX_TOLD: usize = 10_000;

/// A question to the rules.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyQuestion {
    /// Returned with the answer, so that a late one touches no newer question.
    pub id: u64,
    pub client: Client,
    /// Its address comes from a proxy's header.
    pub by_proxy: bool,
    /// Whether it was served well lately.
    pub in_good_standing: bool,
    /// The offence that the ban would be for, and the term that it would have.
    pub offence: u32,
    pub term: Term,
    /// Bans in force.
    pub bans: usize,
    pub evidence: Box<Evidence>,
    /// The wall clock, in milliseconds.
    pub at_ms: i64,
}

/// An answer of the rules.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicyAnswer {
    pub id: u64,
    pub client: Client,
    /// What they say, or why they say nothing.
    pub word: Result<PolicyWord, String>,
}

/// The questions under way.
#[derive(Default)]
pub(super) struct Rules {
    asked: BTreeMap<Client, Asked>,
    next_id: u64,
    /// Until when on the boot clock nobody is told again that these are spared.
    told: BTreeMap<(Client, Rule), u64>,
}

struct Asked {
    id: u64,
    ban: HeldBan,
    until_ms: u64,
}

impl Rules {
    /// Forgets a question: whatever the answer, an operator has decided.
    pub(super) fn forget(&mut self, client: Client) {
        self.asked.remove(&client);
    }
}

impl Engine {
    /// Whether the rules are still to be asked about this ban.
    pub(super) fn is_for_the_rules(&self, ban: &HeldBan) -> bool {
        // Of one that waits for the limits they have been asked.
        self.settings.rules.switch == Switch::On
            && ban.evidence.policy.is_none()
            && !self.blast.is_held(ban.client.client())
    }

    pub(super) fn ask_rules(&mut self, ban: HeldBan, now: Now, out: &mut Effects) {
        let client = ban.client.client();
        if self.rules.asked.len() >= MAX_ASKED && !self.rules.asked.contains_key(&client) {
            let full = format!("{MAX_ASKED} questions wait for an answer already");
            return self.settle_rules(ban, Err(full), now, out);
        }
        let until_ms = now.boot_ms + ANSWER_MS;
        self.suppressed.insert(client, until_ms);
        if self.rules.asked.contains_key(&client) {
            return;
        }
        self.rules.next_id += 1;
        let id = self.rules.next_id;
        let offence = self.ledger.next_offence(client, now);
        let question = PolicyQuestion {
            id,
            client,
            by_proxy: ban.by_proxy,
            in_good_standing: self.detector.good_standing(client, ban.evidence.at_secs).is_some(),
            offence: offence.get(),
            term: self.ledger.backoff().term(offence),
            bans: self.ledger.len(),
            evidence: ban.evidence.clone(),
            at_ms: now.wall_ms,
        };
        self.rules.asked.insert(client, Asked { id, ban, until_ms });
        out.other(Action::AskPolicy(Box::new(question)));
    }

    pub(super) fn on_policy(&mut self, answers: Vec<PolicyAnswer>, now: Now, out: &mut Effects) {
        for PolicyAnswer { id, client, word } in answers {
            // One that comes too late was settled without it.
            if self.rules.asked.get(&client).is_some_and(|asked| asked.id == id)
                && let Some(asked) = self.rules.asked.remove(&client)
            {
                self.settle_rules(asked.ban, word, now, out);
            }
        }
    }

    /// Whether a question is under way.
    pub fn awaits_rules(&self) -> bool {
        !self.rules.asked.is_empty()
    }

    /// Goes on without the answers that did not come in time.
    pub(super) fn tick_rules(&mut self, now: Now, out: &mut Effects) {
        if self.rules.asked.is_empty() && self.rules.told.is_empty() {
            return;
        }
        let why = format!("no answer came within {} s", ANSWER_MS / 1000);
        self.go_on_without(now.boot_ms, &why, now, out);
        self.rules.told.retain(|_, until| *until > now.boot_ms);
    }

    /// Goes on without any of the answers: after a restart nobody would know of the verdicts.
    pub(super) fn stop_rules(&mut self, now: Now, out: &mut Effects) {
        self.go_on_without(u64::MAX, "the agent was stopped before an answer came", now, out);
    }

    fn go_on_without(&mut self, asked_until_ms: u64, why: &str, now: Now, out: &mut Effects) {
        let mut late: Vec<(u64, Client)> = (self.rules.asked.iter())
            .filter(|(_, asked)| asked.until_ms <= asked_until_ms)
            .map(|(client, asked)| (asked.id, *client))
            .collect();
        // In the order in which they were asked.
        late.sort_unstable();
        for (_, client) in late {
            if let Some(asked) = self.rules.asked.remove(&client) {
                self.settle_rules(asked.ban, Err(why.to_owned()), now, out);
            }
        }
    }

    fn settle_rules(
        &mut self,
        mut ban: HeldBan,
        word: Result<PolicyWord, String>,
        now: Now,
        out: &mut Effects,
    ) {
        let client = ban.client.client();
        self.suppressed.remove(&client);
        let on_error = self.settings.rules.on_error;
        let word = word.unwrap_or_else(|why| PolicyWord {
            action: on_error,
            term: None,
            because: None,
            failed: Some(why),
        });
        let action = word.action;
        let because = spared_because(&word);
        ban.evidence.policy = Some(Box::new(word));
        // An operator may have allowed it in between.
        if self.allowlist.admit(client, self.settings.ipv6_prefix).is_err() {
            return;
        }
        let cannot_slow = ban.by_proxy || self.is_past(ban.evidence.at_secs, now);
        match action {
            PolicyAction::Ban => self.offend(ban, now, out),
            PolicyAction::Slow
                if !cannot_slow
                    && self.slow(ban.client, ban.evidence.rule, SlowGrounds::Policy, now, out) =>
            {
                self.suppressed.insert(client, now.boot_ms + SPARED_MS);
            }
            PolicyAction::Observe | PolicyAction::Slow => {
                self.suppressed.insert(client, now.boot_ms + SPARED_MS);
                self.tell_spared(ban, because, now, out);
            }
        }
    }

    fn tell_spared(&mut self, ban: HeldBan, because: String, now: Now, out: &mut Effects) {
        let key = (ban.client.client(), ban.evidence.rule);
        if self.rules.told.contains_key(&key) {
            return;
        }
        if self.rules.told.len() < MAX_TOLD {
            self.rules.told.insert(key, now.boot_ms + TOLD_EACH_MS);
        }
        self.announce_unmade(key.0, ban.evidence, because, now, out);
    }
}

/// Why a ban is not made, in words.
fn spared_because(word: &PolicyWord) -> String {
    let wants = match word.action {
        PolicyAction::Slow => "the policy slows it, and it cannot be slowed",
        PolicyAction::Ban | PolicyAction::Observe => "the policy spares it",
    };
    match (&word.failed, &word.because) {
        (Some(why), _) => format!("the policy could not be asked ({why}), and on_error says so"),
        (None, Some(because)) => format!("{wants}: {because}"),
        (None, None) => wants.to_owned(),
    }
}

impl PolicyWord {
    /// The term that they give.
    pub(crate) fn ban_term(&self) -> Option<Term> {
        Some(match self.term? {
            PolicyTerm::Secs(secs) => Term::Secs(secs),
            PolicyTerm::Permanent => Term::Permanent,
        })
    }
}
