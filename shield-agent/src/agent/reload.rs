//! The loading of a new configuration while the agent runs: by SIGHUP, or by `shield-agent reload` over the control socket.
//!
//! First the whole file is checked; with a mistake in it nothing changes, and that is a state until a file was good. Then
//! each part changes by itself: what cannot be put in force there (an address that is taken) stays as it was, and is said.
//! Reloads come one after another. Nothing here runs on the engine's thread but one event.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot, watch};

use super::backend::{Current, Shown};
use super::page::{Page, Wanted};
use super::{build, systemd};
use crate::api::listen::stopped;
use crate::api::types::{ConfigView, ReloadOutcome, ReloadReport};
use crate::blocklist::Lists;
use crate::clock;
use crate::config::file::Origin;
use crate::config::keys::{self, Change, Class};
use crate::config::mistakes::Mistakes;
use crate::config::{Config, UrlFrom};
use crate::crowdsec;
use crate::notify::{Events, Hooks};
use crate::pipeline::{Handle, Message};
use crate::policy::service::{Reloaded as Reread, Service};
use crate::source::{self, From, Input, Pool, Sources, Stats};
use crate::text;
use shield_engine::PathReader;
use shield_engine::action::Reloaded;
use shield_engine::allowlist::Allowed;
use shield_engine::client::Client;
use shield_engine::event::{PartReport, PartState};
use shield_engine::reconfigure::NewSettings;
use shield_engine::request::{Checkpoint, SourceId};

/// The part whose state says whether the file is in force.
const PART: &str = "config";

/// How long one part may take to change. After it the reload goes on, and says so.
const PATIENCE: Duration = Duration::from_secs(4);

/// The pause between two looks whether every ban is compared with a new allowlist.
const LIFTING_POLL: Duration = Duration::from_millis(20);

/// The pause between two looks for a webhook's file that was not there.
const HOOK_RETRY: Duration = Duration::from_secs(30);

/// Between two tries to open a page whose address was taken at the start.
const PAGE_RETRY: Duration = Duration::from_secs(5);

/// Reloads that wait at most. Each reads the file anew, so that more would find nothing more.
pub(super) const QUEUED: usize = 4;

/// Asks for a reload.
pub(crate) type Request = oneshot::Sender<ReloadReport>;

/// Changes the log's filter.
pub(crate) type SetLog = Box<dyn Fn(&str) -> anyhow::Result<()> + Send + Sync>;

/// What a reload reads and changes.
pub(super) struct Reloader {
    pub origin: Origin,
    /// In force.
    pub config: Config,
    pub owner: Handle,
    pub paths: PathReader,
    pub pool: Pool,
    pub sources: Sources,
    pub stats: Vec<Arc<Stats>>,
    /// Where sources stopped that are not read now.
    pub checkpoints: BTreeMap<String, Checkpoint>,
    pub page: Page,
    pub lists: Lists,
    pub crowdsec: crowdsec::Link,
    pub rules: Service,
    pub hooks: Hooks,
    pub set_log: SetLog,
    pub shown: Shown,
}

impl Reloader {
    /// Handles requests until `stop` is true, and returns what has to be stopped then. A reload in progress is finished.
    pub(super) async fn run(
        mut self,
        mut hangups: Signal,
        mut requests: mpsc::Receiver<Request>,
        mut stop: watch::Receiver<bool>,
    ) -> (Sources, Page) {
        let state = PartState::Active { detail: text::reload::in_force(self.file().as_deref(), &[]) };
        self.report(PART, state);
        let mut retry = tokio::time::interval(HOOK_RETRY);
        let mut retry_page = tokio::time::interval(PAGE_RETRY);
        loop {
            tokio::select! {
                biased;
                () = stopped(&mut stop) => break,
                Some(()) = hangups.recv() => drop(self.reload().await),
                Some(request) = requests.recv() => {
                    let report = self.reload().await;
                    // Fails when the client has disconnected.
                    let _ = request.send(report);
                }
                _ = retry.tick(), if self.hooks.is_waiting() => {
                    let hooks = self.hooks.clone();
                    off_runtime(move || hooks.retry()).await;
                }
                _ = retry_page.tick(), if self.page.served() != Wanted::of(&self.config) => self.retry_page().await,
            }
        }
        (self.sources, self.page)
    }

    async fn reload(&mut self) -> ReloadReport {
        systemd::reloading();
        let (origin, in_force) = (self.origin.clone(), self.config.clone());
        let loaded = off_runtime(move || origin.load_again(&in_force)).await;
        let report = match loaded {
            Some(Ok(new)) => self.apply(new).await,
            Some(Err(error)) => self.refuse(&error),
            None => self.refuse(&anyhow::anyhow!("could not read the file within {} s", PATIENCE.as_secs())),
        };
        systemd::reloaded(match report.outcome {
            ReloadOutcome::Refused => "the configuration on disk is refused; the one before stays in force",
            ReloadOutcome::Changed | ReloadOutcome::Unchanged => "running",
        });
        report
    }

    fn refuse(&self, error: &anyhow::Error) -> ReloadReport {
        let why = format!("{error:#}");
        let mistakes = match error.downcast_ref::<Mistakes>() {
            Some(mistakes) => mistakes.each().map(str::to_owned).collect(),
            None => vec![why.clone()],
        };
        let reason = text::reload::refused(&why, clock::now().wall_ms);
        self.report(PART, PartState::Degraded { reason });
        let file = self.origin.path().display().to_string();
        ReloadReport { mistakes, file: Some(file), ..empty(ReloadOutcome::Refused) }
    }

    async fn apply(&mut self, new: Config) -> ReloadReport {
        let differing = keys::diff(&self.config, &new);
        let restart: Vec<String> =
            differing.iter().filter(|change| change.class == Class::Restart).map(line).collect();
        let mut changed: Vec<String> =
            differing.iter().filter(|change| change.class != Class::Restart).map(line).collect();
        let mut wanted = keys::in_force(&self.config, new);
        let plan = Plan::of(&self.config.sources, &wanted.sources);
        changed.extend(plan.lines());
        for name in plan.added.iter().map(|added| &added.name) {
            if self.checkpoints.contains_key(name) {
                let line = format!("[[source]] {name}: added");
                let known = changed.iter_mut().filter(|item| **item == line);
                known.for_each(|item| item.push_str(", from where it was last read"));
            }
        }
        let mut failed = Vec::new();

        self.set_rules(&mut wanted, &mut changed, &mut failed).await;
        let stopped = self.stop_sources(&plan.removed, &mut failed).await;
        let lifted = self.set_engine(&wanted, &plan).await;
        self.start_sources(&plan.added, &stopped, &mut wanted, &mut failed);
        self.change_sources(&plan.changed, &mut changed).await;
        self.set_page(&mut wanted, &mut failed).await;
        self.set_hooks(&wanted, &mut changed, &mut failed).await;
        self.lists.change(&wanted.blocklists).await;
        self.crowdsec.change(wanted.crowdsec.as_ref()).await;
        if wanted.log != self.config.log
            && let Err(error) = (self.set_log)(&wanted.log)
        {
            failed.push(format!("[agent] log: {error:#}"));
        }
        // What failed is not in force: the next reload tries it again.
        changed.retain(|line| !failed.iter().any(|failure| key_of(failure) == key_of(line)));
        self.config = wanted;
        self.show();

        let file = self.file();
        let detail = text::reload::in_force(file.as_deref(), &restart);
        self.report(PART, PartState::Active { detail });
        let outcome = if changed.is_empty() { ReloadOutcome::Unchanged } else { ReloadOutcome::Changed };
        let report = ReloadReport { file, changed, restart, failed, lifted, ..empty(outcome) };
        if outcome == ReloadOutcome::Changed || !report.failed.is_empty() {
            self.owner.send(Message::Reloaded(Reloaded {
                changed: report.changed.clone(),
                restart: report.restart.clone(),
                failed: report.failed.clone(),
                lifted,
            }));
        } else {
            tracing::info!("reloaded the configuration: nothing changed");
        }
        report
    }

    /// Reads the operators' own rules again, whatever the file says: it names their folder alone.
    async fn set_rules(&self, wanted: &mut Config, changed: &mut Vec<String>, failed: &mut Vec<String>) {
        match self.rules.reload(wanted.rules.clone()).await {
            Ok(Reread::Same) => {}
            Ok(Reread::Changed) => {
                let line = "[policy] dir: its rules are read again";
                if !changed.iter().any(|other| key_of(other) == key_of(line)) {
                    changed.push(line.to_owned());
                }
            }
            Err(why) => {
                failed.push(format!("[policy] dir: {why}"));
                wanted.rules.dir.clone_from(&self.config.rules.dir);
                wanted.engine.rules.switch = self.config.engine.rules.switch;
            }
        }
    }

    /// Stops sources and returns where they were.
    async fn stop_sources(
        &mut self,
        removed: &[source::Settings],
        failed: &mut Vec<String>,
    ) -> Vec<Checkpoint> {
        let mut stopping = Vec::new();
        for settings in removed {
            self.stats.retain(|stats| stats.name() != settings.name);
            // The position of the start, long passed.
            self.checkpoints.remove(&settings.name);
            stopping.extend(self.sources.remove(&settings.input).map(|source| (&settings.name, source)));
        }
        let mut positions = Vec::new();
        for (name, source) in stopping {
            match off_runtime(move || source.wait()).await {
                Some(position) => positions.extend(position),
                None => failed.push(format!(
                    "[[source]] {name}: it has not stopped within {} s; it does once its read returns",
                    PATIENCE.as_secs()
                )),
            }
        }
        for position in &positions {
            self.checkpoints.insert(position.source.clone(), position.clone());
        }
        positions
    }

    /// Returns the number of bans that the new settings lift.
    async fn set_engine(&self, wanted: &Config, plan: &Plan) -> u64 {
        let first = self.sources.next_id().map_or(0, |id| u32::from(id.0));
        let numbered = plan.added.iter().zip(first..);
        let new = NewSettings {
            settings: wanted.engine.clone(),
            policy: wanted.policy.clone(),
            allow: sorted(wanted.allow.iter().chain(&wanted.infrastructure)),
            sources: numbered.map(|(added, id)| (SourceId(id as u16), added.name.clone())).collect(),
            gone: plan.removed.iter().map(|removed| part_of(&removed.name)).collect(),
        };
        self.owner.send(Message::NewSettings(Box::new(new)));
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            // Fails when the engine has stopped, and then nothing matters any more.
            let lifted = self.owner.query(|engine, _| engine.lifted_by_settings()).await.unwrap_or(Some(0));
            match lifted {
                Some(lifted) => return lifted,
                None if tokio::time::Instant::now() >= deadline => return 0,
                None => tokio::time::sleep(LIFTING_POLL).await,
            }
        }
    }

    fn start_sources(
        &mut self,
        added: &[source::Settings],
        stopped: &[Checkpoint],
        wanted: &mut Config,
        failed: &mut Vec<String>,
    ) {
        for settings in added {
            let from = match self.checkpoints.remove(&settings.name) {
                Some(checkpoint) => From::Checkpoint(checkpoint),
                None => From::Others(stopped.to_vec()),
            };
            let stats = Arc::new(Stats::new(&settings.name, &settings.input));
            let (deliver, report) =
                (build::deliver_to(&self.owner, &self.paths), build::report_to(&self.owner));
            let started =
                self.sources.add(settings.clone(), Arc::clone(&stats), from, &self.pool, deliver, report);
            match started {
                Ok(()) => self.stats.push(stats),
                Err(error) => {
                    let reason = format!("{error:#}");
                    failed.push(format!("[[source]] {}: {reason}", settings.name));
                    self.report(&part_of(&settings.name), PartState::Degraded { reason });
                    wanted.sources.retain(|source| source.input != settings.input);
                }
            }
        }
    }

    /// Lets sources read by other settings, and waits until they do.
    async fn change_sources(&self, different: &[source::Settings], changed: &mut [String]) {
        let taken: Vec<_> =
            (different.iter()).filter_map(|s| Some((&s.name, self.sources.change(s.clone())?))).collect();
        let deadline = tokio::time::Instant::now() + PATIENCE;
        for (name, taken) in taken {
            if tokio::time::timeout_at(deadline, taken).await.is_err() {
                let line = format!("[[source]] {name}: ");
                let late = "; in force once the lines before are read";
                changed
                    .iter_mut()
                    .filter(|item| item.starts_with(&line))
                    .for_each(|item| item.push_str(late));
            }
        }
    }

    async fn set_page(&mut self, wanted: &mut Config, failed: &mut Vec<String>) {
        let state = match self.page.change(Wanted::of(wanted), &wanted.page_hosts).await {
            Ok(()) => self.page.state(),
            Err(reason) => {
                failed.push(format!("[page] listen: {reason}"));
                wanted.page = self.page.served().map(|served| served.addr);
                PartState::Degraded { reason }
            }
        };
        self.report("page", state);
    }

    /// Opens the page that could not be opened at the start, if it can be by now.
    async fn retry_page(&mut self) {
        if self.page.change(Wanted::of(&self.config), &self.config.page_hosts).await.is_ok() {
            self.report("page", self.page.state());
        }
    }

    async fn set_hooks(&self, wanted: &Config, changed: &mut Vec<String>, failed: &mut Vec<String>) {
        let hooks = self.hooks.clone();
        let (slack, webhook): (Option<UrlFrom>, Option<UrlFrom>) =
            (wanted.slack.clone(), wanted.webhook.clone());
        hooks.set_events(Events {
            slack: wanted.slack_events.clone(),
            webhook: wanted.webhook_events.clone(),
            page_url: wanted.page_url.clone(),
        });
        match off_runtime(move || hooks.set(slack.as_ref(), webhook.as_ref())).await {
            Some(set) => {
                let is_new = |line: &String| !changed.iter().any(|other| key_of(other) == key_of(line));
                let fresh: Vec<String> = set.fresh.into_iter().filter(is_new).collect();
                changed.extend(fresh);
                failed.extend(set.failed);
            }
            None => failed.push(format!(
                "[slack] url, [webhook] url: could not read the files within {} s",
                PATIENCE.as_secs()
            )),
        }
    }

    fn file(&self) -> Option<String> {
        self.config.file.as_ref().map(|path| path.display().to_string())
    }

    fn show(&self) {
        self.shown.set(current(&self.config, self.stats.clone()));
    }

    fn report(&self, part: &str, state: PartState) {
        self.owner.send(Message::Part(PartReport { part: part.to_owned(), state, repaired: None }));
    }
}

/// What the API shows of a configuration.
pub(super) fn current(config: &Config, sources: Vec<Arc<Stats>>) -> Current {
    Current {
        profile: config.profile.clone(),
        config: ConfigView {
            path: config.file.as_ref().map(|path| path.display().to_string()),
            settings: config.shown(),
        },
        whole: Arc::new(config.clone()),
        sources,
    }
}

/// Runs what blocks, for at most [`PATIENCE`]. `None` when it takes longer; it goes on then, and nobody waits for it.
pub(super) async fn off_runtime<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(work)).await.ok()?.ok()
}

fn empty(outcome: ReloadOutcome) -> ReloadReport {
    ReloadReport {
        outcome,
        file: None,
        changed: Vec::new(),
        restart: Vec::new(),
        failed: Vec::new(),
        mistakes: Vec::new(),
        lifted: 0,
    }
}

fn line(change: &Change) -> String {
    let note = (change.class == Class::NewBans).then_some("for new bans");
    text::reload::change(&change.key, &change.from, &change.to, note)
}

/// `[ban] terms` of `[ban] terms: …`.
fn key_of(line: &str) -> &str {
    line.split_once(": ").map_or(line, |(key, _)| key)
}

fn part_of(source: &str) -> String {
    format!("source:{source}")
}

/// Sorted here, so that the engine's thread need not.
fn sorted<'a>(allow: impl Iterator<Item = &'a Allowed>) -> Vec<Allowed> {
    let canonical =
        |entry: &Allowed| Allowed { network: Client::of_network(entry.network).network(), ..*entry };
    let mut entries: Vec<Allowed> = allow.map(canonical).collect();
    entries.sort_unstable();
    entries
}

/// The difference between two lists of sources.
#[derive(Debug, Default)]
struct Plan {
    added: Vec<source::Settings>,
    removed: Vec<source::Settings>,
    /// Whose lines are read by other settings.
    changed: Vec<source::Settings>,
    /// Of `changed` and of those that differ in their first start alone: what differs, for people.
    different: Vec<(String, Vec<&'static str>)>,
}

impl Plan {
    /// Standard input is left out: it cannot be reopened.
    fn of(old: &[source::Settings], new: &[source::Settings]) -> Plan {
        let among = |sources: &[source::Settings], input: &Input| sources.iter().any(|s| s.input == *input);
        let missing = |from: &[source::Settings], others: &[source::Settings]| {
            let own = from.iter().filter(|s| !keys::is_stdin(s) && !among(others, &s.input));
            own.cloned().collect()
        };
        let mut plan = Plan { added: missing(new, old), removed: missing(old, new), ..Plan::default() };
        for new in new.iter().filter(|new| !keys::is_stdin(new)) {
            let Some(old) = old.iter().find(|old| old.input == new.input) else { continue };
            if old.format != new.format || old.known != new.known {
                plan.changed.push(new.clone());
            }
            let what = differences(old, new);
            if !what.is_empty() {
                plan.different.push((new.name.clone(), what));
            }
        }
        plan
    }

    fn lines(&self) -> impl Iterator<Item = String> {
        let line = |(name, what): (&str, &str)| format!("[[source]] {name}: {what}");
        let removed = self.removed.iter().map(move |s| line((&s.name, "removed")));
        let added = self.added.iter().map(move |s| line((&s.name, "added")));
        let different = self
            .different
            .iter()
            .map(move |(name, what)| line((name, &format!("{} changed", what.join(", ")))));
        removed.chain(added).chain(different)
    }
}

/// What `[allow]` says for all sources is not named.
fn differences(old: &source::Settings, new: &source::Settings) -> Vec<&'static str> {
    let proxies = || Vec::new();
    let strip =
        |s: &source::Settings| shield_logline::Settings { trusted_proxies: proxies(), ..s.format.clone() };
    let (from, to) = (strip(old), strip(new));
    let differing = [
        ("format", from.format != to.format),
        ("fields", from.fields != to.fields),
        ("max_line_bytes", from.max_line_bytes != to.max_line_bytes),
        ("catch_up", old.first_start != new.first_start),
    ];
    let mut names: Vec<&str> = differing.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
    if names.is_empty() && from != to {
        names.push("settings");
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(text: &str) -> Vec<source::Settings> {
        Config::parse(text).unwrap().sources
    }

    fn check(old: &str, new: &str, expected: &[&str]) -> Plan {
        let plan = Plan::of(&sources(old), &sources(new));
        assert_eq!(plan.lines().collect::<Vec<_>>(), expected);
        plan
    }

    #[test]
    fn sources_that_differ_are_told_apart_and_others_are_left_alone() {
        let two = "[[source]]\npath = '/a'\n[[source]]\nsyslog = '/b'\n";
        check(two, two, &[]);
        check(two, "[[source]]\nsyslog = '/b'\n[[source]]\npath = '/a'\n", &[]);
        check(two, "[[source]]\npath = '/a'\n", &["[[source]] /b: removed"]);
        check(two, &format!("{two}[[source]]\npath = '/c'\n"), &["[[source]] /c: added"]);
        let other = two.replace("'/a'", "'/a'\nformat = 'combined'\ncatch_up = '1m'\nmax_line_bytes = 999");
        let plan = check(two, &other, &["[[source]] /a: format, max_line_bytes, catch_up changed"]);
        assert_eq!(plan.changed.len(), 1);
        check(two, &two.replace("path", "syslog"), &["[[source]] /a: removed", "[[source]] /a: added"]);
        check(two, "[[source]]\nstdin = true\n", &["[[source]] /a: removed", "[[source]] /b: removed"]);
    }

    #[test]
    fn other_proxies_are_news_to_every_reader_and_said_once() {
        let plan = check(
            "[[source]]\npath = '/a'\n",
            "[[source]]\npath = '/a'\n[allow]\ntrusted_proxies = ['192.0.2.0/24']\n",
            &[],
        );
        assert_eq!(plan.changed.len(), 1);
    }
}
