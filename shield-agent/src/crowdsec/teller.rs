//! Tells CrowdSec's local API of this host's own bans, so that its other bouncers keep these clients out as well. `alerts` holds what
//! is to be told, `lapi` the server. On a task of its own; nothing waits for it, and what fails is told later.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use anyhow::Result;
use futures::FutureExt as _;

use super::alerts::{Alert, Alerts, Due, LeftOut};
use super::lapi::{Lapi, Refused};
use super::machine::Machine;
use super::{ALERTS_PART, FIRST_PAUSE, LONGEST_PAUSE, Settings, jittered};
use crate::beat::panic_text;
use crate::clock;
use crate::config::UrlFrom;
use crate::notify::{Report, post};
use crate::own_bans::{self, Change, Changes};
use crate::pipeline::Handle;
use crate::text;
use shield_engine::event::{PartReport, PartState};

/// Bans that are told, or taken back, at once.
const BATCH: usize = 100;
/// The pause between two batches: 6,000 bans a minute at most.
const PACE: Duration = Duration::from_secs(1);
/// How often what waits is looked at without a change.
const TURN: Duration = Duration::from_secs(30);
/// Timeout of one question.
const TIMEOUT: Duration = Duration::from_secs(20);

pub(super) struct Teller {
    settings: Settings,
    machine: UrlFrom,
    owner: Handle,
    report: Report,
    changes: Changes,
    alerts: Alerts,
    /// Whether it is known what the server has of this host.
    is_known: bool,
    /// Alerts that are sent at once: one alone while one of them is not taken.
    batch: usize,
    told: Option<PartState>,
}

impl Teller {
    /// `None` where no machine's login is configured.
    pub(super) fn new(settings: Settings, owner: Handle, report: Report, changes: Changes) -> Option<Teller> {
        let machine = settings.machine.clone()?;
        let alerts = Alerts::default();
        Some(Teller {
            settings,
            machine,
            owner,
            report,
            changes,
            alerts,
            is_known: false,
            batch: BATCH,
            told: None,
        })
    }

    /// Runs until it is aborted.
    pub(super) async fn run(mut self) {
        self.tell(PartState::Waiting { reason: text::crowdsec::LOGGING_IN.to_owned() });
        let mut pause = FIRST_PAUSE;
        loop {
            let begin = tokio::time::Instant::now();
            let work = AssertUnwindSafe(self.session()).catch_unwind().await;
            let reason = match work {
                Ok(Ok(())) => return,
                Ok(Err(error)) => {
                    if error.is::<Refused>() {
                        // Set up anew, perhaps: then it has nothing of this host.
                        self.alerts.forgotten();
                        self.is_known = false;
                    }
                    text::crowdsec::not_told(&format!("{error:#}"), self.alerts.waiting())
                }
                Err(payload) => text::health::restarted(panic_text(&*payload), pause.as_secs()),
            };
            self.tell(PartState::Degraded { reason });
            if begin.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One login. Returns when the agent stops.
    async fn session(&mut self) -> Result<()> {
        let machine = Machine::load(&self.machine)?;
        let origin = machine.origin();
        let http = post::http_client(self.settings.url.scheme(), TIMEOUT)?;
        let mut lapi = Lapi::open(http, self.settings.url.clone(), machine).await?;
        if !self.is_known {
            let now_ms = clock::now().wall_ms;
            for (client, left_ms) in lapi.active().await? {
                self.alerts.found(client, now_ms.saturating_add(left_ms));
            }
            self.alerts.set_all(own_bans::in_force(&self.owner).await?);
            self.is_known = true;
        }
        loop {
            // What came while there was no connection.
            while let Ok(change) = self.changes.try_recv() {
                self.apply(change);
            }
            if self.changes.overflowed() {
                self.alerts.set_all(own_bans::in_force(&self.owner).await?);
            }
            let is_more = self.work(&mut lapi, &origin).await?;
            self.tell(PartState::Active { detail: self.detail(lapi.has_allowlists) });
            if is_more {
                tokio::time::sleep(PACE).await;
                continue;
            }
            tokio::select! {
                change = self.changes.recv() => match change {
                    Some(change) => self.apply(change),
                    None => return Ok(()),
                },
                () = tokio::time::sleep(TURN) => {}
            }
        }
    }

    fn apply(&mut self, change: Change) {
        match change {
            Change::Banned(client, ban) => self.alerts.set(client, ban),
            Change::Extended(client, ends) => self.alerts.extend(client, ends),
            Change::Expired(client) | Change::Withdrawn(client) | Change::Unbanned(client) => {
                self.alerts.over(client);
            }
        }
    }

    /// One batch. Returns whether there was anything.
    async fn work(&mut self, lapi: &mut Lapi, origin: &str) -> Result<bool> {
        let due = self.alerts.due(self.batch, clock::now());
        let is_more = !due.is_empty();
        let mut tell = Vec::new();
        for one in due {
            if let Due::Tell(alert) = one {
                match lapi.is_allowed(alert.client).await? {
                    true => self.alerts.leave_out(alert.client, LeftOut::Allowed),
                    false => tell.push(alert),
                }
            } else {
                lapi.take_back(one.client()).await?;
                self.alerts.taken_back(one.client());
            }
        }
        if !tell.is_empty() {
            self.post(lapi, origin, &tell).await?;
        }
        Ok(is_more)
    }

    async fn post(&mut self, lapi: &mut Lapi, origin: &str, tell: &[Alert]) -> Result<()> {
        let bodies: Vec<_> = tell.iter().map(|alert| alert.body(origin)).collect();
        match lapi.tell(&bodies).await? {
            Ok(()) => {
                tell.iter().for_each(|alert| self.alerts.told_now(alert));
                self.batch = (self.batch * 2).min(BATCH);
            }
            // One of them is at fault: which, they say one by one.
            Err(_) if tell.len() > 1 => self.batch = 1,
            Err(why) => {
                tracing::warn!(client = %tell[0].client, "{}", text::crowdsec::not_taken(&why));
                self.alerts.leave_out(tell[0].client, LeftOut::Refused);
            }
        }
        Ok(())
    }

    fn detail(&self, has_allowlists: bool) -> String {
        let (allowed, refused) =
            (self.alerts.left_out(LeftOut::Allowed), self.alerts.left_out(LeftOut::Refused));
        text::crowdsec::telling(self.alerts.told(), allowed, refused, has_allowlists)
    }

    fn tell(&mut self, state: PartState) {
        if self.told.as_ref() != Some(&state) {
            (self.report)(PartReport { part: ALERTS_PART.to_owned(), state: state.clone(), repaired: None });
            self.told = Some(state);
        }
    }
}
