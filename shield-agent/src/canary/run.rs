//! The canary's thread.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

use super::compare::bans;
use super::{Fed, Run, bytes_of};
use crate::host;
use crate::pipeline::{Handle, Inbox, Message, Verified};
use crate::search_engines::SearchEngines;
use crate::source::Pool;
use shield_engine::Engine;
use shield_engine::action::{Action, BanRecord, CommandId, Notice};
use shield_engine::client::Client;
use shield_engine::event::Event;
use shield_engine::time::Now;

/// Clients that are looked up in DNS at most, so that a configuration that bans everybody asks nobody's resolver for everybody.
const MAX_LOOKUPS: u32 = 1_000;
/// Clients of which the live engine is asked whether it knows them, at most: each costs it about a microsecond.
const MAX_LOOKS: u32 = 10_000;

pub(super) struct Runner {
    engine: Engine,
    run: Arc<Run>,
    pool: Pool,
    engines: SearchEngines,
    /// For the answers of DNS alone.
    answers: (Handle, Inbox),
    lookups: u32,
    /// The live engine, which knows clients of the days before, and its answers.
    live: Handle,
    known: (Sender<Client>, Receiver<Client>),
    looks: u32,
}

impl Runner {
    pub(super) fn new(engine: Engine, run: Arc<Run>, pool: Pool, live: Handle) -> Runner {
        Runner {
            engine,
            run,
            pool,
            engines: SearchEngines::start(),
            answers: Handle::new(),
            lookups: 0,
            live,
            known: channel(),
            looks: 0,
        }
    }

    /// Runs until it is stopped, or the agent is. A panic ends the canary and nothing else.
    pub(super) fn run(mut self, fed: &Receiver<Fed>) {
        let run = Arc::clone(&self.run);
        let ended = catch_unwind(AssertUnwindSafe(|| {
            while let Ok(fed) = fed.recv() {
                if self.run.stop.load(Ordering::Relaxed) {
                    break;
                }
                self.take(fed);
            }
        }));
        match ended {
            Ok(()) => run.stop.store(true, Ordering::Relaxed),
            Err(_) => {
                run.failed.store(true, Ordering::Relaxed);
                tracing::error!("the canary broke down; the live engine goes on");
            }
        }
    }

    fn take(&mut self, fed: Fed) {
        let begin = Instant::now();
        let (now, actions) = match fed {
            Fed::Lines(batch, now, delivered) => {
                let actions = self.engine.handle(Event::Lines(&batch), now);
                let lines = batch.lines.len() as u64;
                self.run.verdicts.note(delivered.elapsed(), lines);
                let busy = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
                self.run.busy_ns.fetch_add(busy, Ordering::Relaxed);
                self.run.site.note(&batch);
                self.run.queued_bytes.fetch_sub(bytes_of(&batch), Ordering::Relaxed);
                self.pool.give(*batch);
                self.run.lines.fetch_add(lines, Ordering::Relaxed);
                (now, actions)
            }
            Fed::Tick(now) => (now, self.tick(now)),
            Fed::HostAddresses(entries, now) => {
                (now, self.engine.handle(Event::HostAddresses { reasons: &host::REASONS, entries }, now))
            }
            Fed::Command(command, now) => {
                (now, self.engine.handle(Event::Command(CommandId(0), command), now))
            }
        };
        self.note(actions, now);
    }

    fn tick(&mut self, now: Now) -> Vec<Action> {
        let mut actions = self.engine.handle(Event::Tick, now);
        while let Ok(message) = self.answers.1.control.try_recv() {
            let Message::BotVerified(client, verified) = message else { continue };
            let genuine = verified == Verified::Genuine;
            if genuine {
                self.run.compare().search_engine(client);
            }
            actions.extend(self.engine.handle(Event::BotVerified { client, genuine }, now));
        }
        while let Ok(client) = self.known.1.try_recv() {
            self.run.compare().known_good(client);
        }
        let spared = self.run.compare().take_spared();
        for client in spared {
            let because = self.why_not(client, now);
            self.run.compare().spared(client, because);
        }
        let status = self.engine.detector().status();
        // Whom it would ban, it tracks no more.
        let clients = status.clients_tracked + self.run.compare().canary_bans();
        self.run.clients.fetch_max(clients, Ordering::Relaxed);
        self.run.client_bytes.store(status.clients_bytes, Ordering::Relaxed);
        self.run.seen_ms.fetch_max(now.wall_ms.unsigned_abs(), Ordering::Relaxed);
        actions
    }

    fn note(&mut self, actions: Vec<Action>, now: Now) {
        for action in actions {
            match action {
                Action::VerifyBot { client, addr } => self.engines.verify(client, addr, &self.answers.0),
                Action::Announce(Notice::Slowed { .. }) => self.run.compare().slowed(),
                Action::Announce(Notice::WouldBan { ban, because }) => {
                    self.run.compare().not_made(ban.ban.client, &because);
                }
                Action::Announce(notice) => {
                    bans(&notice).iter().for_each(|record| self.note_ban(record, now));
                }
                // It has no effects.
                Action::Persist(_) | Action::Enforce(_) | Action::Reply(..) | Action::AskPolicy(_) => {}
            }
        }
    }

    fn note_ban(&mut self, record: &BanRecord, now: Now) {
        let client = record.ban.client;
        let is_known_good = self.engine.was_served_well(client);
        self.run.compare().canary(record, is_known_good, now.wall_ms);
        if !is_known_good && self.looks < MAX_LOOKS {
            self.looks += 1;
            let known = self.known.0.clone();
            self.live.look_soon(Box::new(move |engine, _| {
                if engine.was_served_well(client) {
                    // Fails when the canary has ended.
                    let _ = known.send(client);
                }
            }));
        }
        // Under a configuration that does not ask whether it is a search engine, it is asked all the same.
        if !self.engine.settings().verify_search_engines.is_on() && self.lookups < MAX_LOOKUPS {
            self.lookups += 1;
            self.engines.verify(client, client.network().addr(), &self.answers.0);
        }
    }

    /// What the rules have measured of a client that the live engine has banned.
    fn why_not(&self, client: Client, now: Now) -> String {
        let explanation = self.engine.detector().explain(client, now.wall_secs());
        let nearest = |measures: &[shield_engine::verdict::Measure]| {
            let share = |measure: &shield_engine::verdict::Measure| measure.value / measure.threshold;
            let by_share = |a: &&shield_engine::verdict::Measure, b: &&shield_engine::verdict::Measure| {
                share(a).total_cmp(&share(b))
            };
            measures
                .iter()
                .filter(|measure| measure.value > 0.0 && measure.value < measure.threshold)
                .max_by(by_share)
                .cloned()
        };
        let rules = explanation.rules.iter().filter(|rule| rule.not_asked.is_none());
        let closest = rules.filter_map(|rule| Some((rule.rule, nearest(&rule.measures)?)));
        let most =
            closest.max_by(|(_, a), (_, b)| (a.value / a.threshold).total_cmp(&(b.value / b.threshold)));
        match most {
            Some((rule, measure)) => format!(
                "when the live ban cut it off, {} was nearest: {} = {:.1} of {:.1}",
                rule.name(),
                measure.name,
                measure.value,
                measure.threshold
            ),
            None => "no rule had measured anything of it when the live ban cut it off".to_owned(),
        }
    }
}
