//! Commits records, or holds them until they can be committed and reports the store as degraded.
//!
//! Invariant 4: orders go to the enforcers once [`Writer::commit`] has returned. The records are then either committed or,
//! while the database cannot be written, held in memory, so that attackers are still dropped and the records are written
//! later. Nothing here blocks on time: callers pass `now`, and [`Writer::next_work_ms`] is when to call [`Writer::work`].
//!
//! Expiries are the only records that may come by the hundred thousand at once, and nothing depends on them. They are
//! deferred and written in small transactions between the other commits. After a crash before that, the ban is still
//! there with its end in the past, and is ended again.

use anyhow::{Context, Result};

use super::audit_head::{AuditHead, AuditHeads};
use super::disk_sync::{DiskSync, Task};
use super::held::{CLIENTS_AT_ONCE, Held};
use super::unsaved::Unsaved;
use super::{Error, Fault, Store};
use crate::beat::Beat;
use shield_engine::action::Record;
use shield_engine::event::{PartReport, PartState};
use shield_engine::time::Now;

const FIRST_RETRY_MS: u64 = 500;
const LAST_RETRY_MS: u64 = 15_000;
const PRUNE_EVERY_MS: u64 = 60_000;
/// Decisions (bans, lifts, offences, allowlist) of at most this long are lost by a power failure.
const SYNC_EVERY_MS: u64 = 5_000;
/// The same for progress alone. Positions and totals are of the same moment, so a loss only makes lines be read again.
const SYNC_PROGRESS_EVERY_MS: u64 = 30_000;
/// Committed records after which the write-ahead log is checkpointed, so that a checkpoint never takes long.
const CHECKPOINT_AFTER: usize = 2_000;
/// The longest time between two checkpoints. Seldom, because the first commit after one restarts the log and waits for
/// the disk.
const CHECKPOINT_EVERY_MS: u64 = 60_000;

/// The shortest time between two heads of the audit log that nothing else is written with. Lines after the last head can be
/// cut off unseen.
const AUDIT_HEAD_EVERY_MS: u64 = 5_000;

/// The place of the records after a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// In the database; expiries may follow within moments.
    Committed,
    /// In memory only: the database cannot be written.
    Held,
}

#[derive(Debug, Clone, PartialEq)]
pub struct CommitOutcome {
    /// Orders to the enforcers go on either way.
    pub kept: Kept,
    /// A change of the store's state, for the engine.
    pub report: Option<PartReport>,
}

/// The writing half of the store.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    unsaved: Unsaved,
    /// Records were too many to hold: the database lacks them until the next start.
    has_lost: bool,
    /// The audit log's head as last written, and the source of newer ones.
    audit_head: Option<AuditHead>,
    audit_heads: AuditHeads,
    /// When the next head may be written by itself.
    audit_at_ms: u64,
    outage: Option<Outage>,
    disk_sync: DiskSync,
    unsynced: Unsynced,
    /// Records committed since the last checkpoint.
    in_log: usize,
    /// When the last sync was started.
    synced_ms: u64,
    checkpoint_at_ms: u64,
    prune_at_ms: u64,
}

/// The most important record that was committed since the write-ahead log was last synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unsynced {
    Nothing,
    /// Positions of sources, the baseline, totals, the slow lane, and what other hosts say again.
    Progress,
    /// Bans, lifts, offences, the allowlist, and a pause.
    Decisions,
}

impl Unsynced {
    fn of(record: &Record) -> Unsynced {
        match record {
            Record::Checkpoint(_)
            | Record::Totals(_)
            | Record::Baseline(_)
            | Record::Slowed(_)
            | Record::Remote { .. }
            | Record::RemoteState(_) => Unsynced::Progress,
            Record::Banned(_)
            | Record::Extended(_)
            | Record::Lifted { .. }
            | Record::Offences { .. }
            | Record::OffencesForgotten(_)
            | Record::Allowed { .. }
            | Record::Paused(_)
            | Record::Disallowed(_) => Unsynced::Decisions,
        }
    }
}

/// The time during which the database cannot be written.
#[derive(Debug)]
struct Outage {
    fault: Fault,
    reason: String,
    retry_at_ms: u64,
    wait_ms: u64,
}

impl Writer {
    pub fn new(store: Store, now: Now) -> Writer {
        let unsaved = Unsaved::new(Held::new(store.settings().held_records));
        let disk_sync = DiskSync::new(store.settings().file());
        Writer {
            store,
            unsaved,
            has_lost: false,
            audit_head: None,
            audit_heads: AuditHeads::default(),
            audit_at_ms: now.boot_ms,
            outage: None,
            disk_sync,
            unsynced: Unsynced::Nothing,
            in_log: 0,
            synced_ms: now.boot_ms,
            checkpoint_at_ms: now.boot_ms + CHECKPOINT_EVERY_MS,
            prune_at_ms: now.boot_ms + PRUNE_EVERY_MS,
        }
    }

    #[cfg(any(test, feature = "test-support"))]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What is not in the database, for those who answer beside this writer.
    pub fn unsaved(&self) -> Unsaved {
        self.unsaved.clone()
    }

    /// The head of the audit log goes into each transaction from now on.
    pub(crate) fn remember_audit(&mut self, heads: AuditHeads) {
        self.audit_heads = heads;
    }

    /// The waits for the disk are watched, which no commit waits for.
    pub(crate) fn watched(&mut self, disk: Beat) {
        self.disk_sync.watched(disk);
    }

    /// Makes the write-ahead log long enough that no commit waits for the file to grow. Call it once, before the first commit that
    /// somebody waits for.
    pub(crate) fn lengthen_log(&mut self, now: Now) {
        let begun =
            self.store.lengthen_log().map_err(Error::from).and_then(|()| self.disk_sync.start(Task::Sync));
        match begun {
            Ok(()) => self.synced_ms = now.boot_ms,
            // Where the disk is at fault, the next commit says so as well, and is tried again.
            Err(error) => tracing::warn!("{error:#}; a ban may wait some milliseconds for the disk"),
        }
    }

    /// Commits the records of one event in one transaction; expiries are deferred. During an outage the records are held,
    /// and only a call at the time of the next retry tries to write.
    pub fn commit(&mut self, records: Vec<Record>, now: Now) -> CommitOutcome {
        let urgent = self.unsaved.held().add_all(records);
        if self.outage.as_ref().is_some_and(|t| now.boot_ms < t.retry_at_ms) {
            return CommitOutcome { kept: Kept::Held, report: self.report_drops() };
        }
        let mut batch = self.unsaved.held().take_clients(&urgent);
        if self.unsaved.held().clients() <= CLIENTS_AT_ONCE {
            batch.extend(self.unsaved.held().take_oldest(CLIENTS_AT_ONCE));
        }
        batch.extend(self.unsaved.held().take_rest());
        match self.write(batch, now) {
            Ok(()) => CommitOutcome { kept: Kept::Committed, report: self.report_recovery() },
            Err(error) => CommitOutcome { kept: Kept::Held, report: self.begin_outage(&error, now) },
        }
    }

    /// Writes some of the deferred or held records, and does the database's maintenance when it is due. Call it at
    /// [`Writer::next_work_ms`] while no records wait to be committed.
    pub fn work(&mut self, now: Now) -> Option<PartReport> {
        if self.outage.as_ref().is_some_and(|t| now.boot_ms < t.retry_at_ms) {
            return None;
        }
        if let Some(report) = self.take_sync_result(now) {
            return Some(report);
        }
        if self.unsaved.held().is_empty() && self.outage.is_none() {
            return self.maintenance(now);
        }
        if self.in_log >= CHECKPOINT_AFTER
            && let Some(report) = self.checkpoint(now)
        {
            return Some(report);
        }
        let mut batch = self.unsaved.held().take_oldest(CLIENTS_AT_ONCE);
        batch.extend(self.unsaved.held().take_rest());
        match self.write(batch, now) {
            Ok(()) => self.report_recovery(),
            Err(error) => self.begin_outage(&error, now),
        }
    }

    /// When to call [`Writer::work`] next, on the boot clock; at once when that is in the past.
    pub fn next_work_ms(&self) -> u64 {
        match &self.outage {
            Some(outage) => outage.retry_at_ms,
            None if self.unsaved.held().is_empty() => self.maintenance_at_ms().min(self.audit_due_ms()),
            None => 0,
        }
    }

    /// The number of records that are not in the database yet.
    pub fn backlog(&self) -> usize {
        self.unsaved.held().len()
    }

    /// Writes everything that is held, for an orderly stop.
    ///
    /// # Errors
    /// When records stay unwritten; the message gives their number.
    pub fn finish(&mut self, now: Now) -> Result<()> {
        while !self.unsaved.held().is_empty() {
            let mut batch = self.unsaved.held().take_oldest(CLIENTS_AT_ONCE);
            batch.extend(self.unsaved.held().take_rest());
            let held = batch.len() + self.unsaved.held().len();
            self.write(batch, now).with_context(|| format!("could not save {}", records(held)))?;
        }
        if let Some(head) = self.new_audit_head() {
            self.store.commit_with(&[], Some(&head), now)?;
        }
        self.disk_sync.stop();
        Ok(self.store.checkpoint()?)
    }

    fn write(&mut self, batch: Vec<Record>, now: Now) -> Result<(), Error> {
        // During an outage an empty transaction is the retry.
        if batch.is_empty() && self.outage.is_none() {
            return Ok(());
        }
        let audit_head = self.new_audit_head();
        let written = self.store.commit_with(&batch, audit_head.as_ref(), now);
        match written {
            Ok(()) => {
                self.audit_head = audit_head.or(self.audit_head.take());
                self.audit_at_ms = now.boot_ms + AUDIT_HEAD_EVERY_MS;
                self.in_log += batch.len();
                let all = batch.iter().map(Unsynced::of).chain([self.unsynced]);
                self.unsynced = all.max().unwrap_or(Unsynced::Nothing);
            }
            Err(_) => self.unsaved.held().put_back(batch),
        }
        written
    }

    /// The audit log's head, unless it is the one that the database has.
    fn new_audit_head(&self) -> Option<AuditHead> {
        self.audit_heads.newest().filter(|head| self.audit_head.as_ref() != Some(head))
    }

    /// Whether the database lacks bans, once this outage is over and all that was held is written.
    fn settle(&self) {
        let lacks = self.unsaved.is_behind() && !self.unsaved.held().is_empty();
        self.unsaved.set_behind(self.outage.is_some() || self.has_lost || lacks);
    }

    fn maintenance_at_ms(&self) -> u64 {
        // While a task runs no other is started; its result is read at the next commit or the next pruning.
        let sync_every_ms = match self.unsynced {
            _ if self.disk_sync.is_busy() => return self.prune_at_ms,
            Unsynced::Nothing => return self.prune_at_ms,
            _ if self.in_log >= CHECKPOINT_AFTER => return 0,
            Unsynced::Progress => SYNC_PROGRESS_EVERY_MS,
            Unsynced::Decisions => SYNC_EVERY_MS,
        };
        self.prune_at_ms.min(self.synced_ms + sync_every_ms)
    }

    fn audit_due_ms(&self) -> u64 {
        if self.new_audit_head().is_some() { self.audit_at_ms } else { u64::MAX }
    }

    fn maintenance(&mut self, now: Now) -> Option<PartReport> {
        if now.boot_ms >= self.audit_due_ms() {
            let head = self.new_audit_head();
            return match self.store.commit_with(&[], head.as_ref(), now) {
                Ok(()) => {
                    self.audit_head = head;
                    self.audit_at_ms = now.boot_ms + AUDIT_HEAD_EVERY_MS;
                    self.unsynced = self.unsynced.max(Unsynced::Progress);
                    None
                }
                Err(error) => self.begin_outage(&error, now),
            };
        }
        if now.boot_ms < self.maintenance_at_ms() {
            return None;
        }
        if now.boot_ms >= self.prune_at_ms {
            self.prune_at_ms = now.boot_ms + PRUNE_EVERY_MS;
            let pruned = self.store.prune(now);
            return pruned.err().and_then(|error| self.begin_outage(&error, now));
        }
        if self.in_log >= CHECKPOINT_AFTER || now.boot_ms >= self.checkpoint_at_ms {
            return self.checkpoint(now);
        }
        self.unsynced = Unsynced::Nothing;
        self.synced_ms = now.boot_ms;
        self.start_task(Task::Sync, now)
    }

    fn checkpoint(&mut self, now: Now) -> Option<PartReport> {
        if self.disk_sync.is_busy() {
            return None;
        }
        self.unsynced = Unsynced::Nothing;
        self.in_log = 0;
        self.synced_ms = now.boot_ms;
        self.checkpoint_at_ms = now.boot_ms + CHECKPOINT_EVERY_MS;
        self.start_task(Task::Checkpoint, now)
    }

    fn start_task(&mut self, task: Task, now: Now) -> Option<PartReport> {
        let started = self.disk_sync.start(task);
        started.err().and_then(|error| self.begin_outage(&error, now))
    }

    /// Reads the result of the last task. After a checkpoint an empty commit restarts the log at once, while no ban waits
    /// for it.
    fn take_sync_result(&mut self, now: Now) -> Option<PartReport> {
        let (task, result) = self.disk_sync.try_result()?;
        let result = result.and_then(|()| match task {
            Task::Sync => Ok(()),
            Task::Checkpoint => self.store.commit(&[], now),
        });
        result.err().and_then(|error| self.begin_outage(&error, now))
    }

    /// Begins or prolongs the outage; reports it unless the last report was of the same fault.
    fn begin_outage(&mut self, error: &Error, now: Now) -> Option<PartReport> {
        let fault = error.fault();
        let reason = format!("could not save, retrying: {error:#}; bans go on; {}", fault.advice());
        let before = self.outage.take();
        let wait_ms = before.as_ref().map_or(FIRST_RETRY_MS, |t| (t.wait_ms * 2).min(LAST_RETRY_MS));
        let is_new = before.is_none_or(|t| t.fault != fault);
        self.outage =
            Some(Outage { fault, reason: reason.clone(), retry_at_ms: now.boot_ms + wait_ms, wait_ms });
        self.settle();
        is_new.then(|| report(PartState::Degraded { reason }))
    }

    fn report_recovery(&mut self) -> Option<PartReport> {
        let outage = self.outage.take();
        let dropped = if outage.is_some() { self.unsaved.held().take_dropped() } else { 0 };
        self.has_lost |= dropped > 0;
        self.settle();
        outage?;
        let detail = match dropped {
            0 => "written again; nothing was lost".to_owned(),
            1 => "written again; 1 record was too many to hold and is missing".to_owned(),
            lost => format!("written again; {lost} records were too many to hold and are missing"),
        };
        Some(report(PartState::Active { detail }))
    }

    /// Reports once when records begin to be dropped.
    fn report_drops(&mut self) -> Option<PartReport> {
        let outage = self.outage.as_mut().filter(|_| self.unsaved.held().began_to_drop())?;
        let verb = if self.unsaved.held().len() == 1 { "is" } else { "are" };
        let held = records(self.unsaved.held().len());
        outage.reason = format!("{}; {held} {verb} held, further ones are lost", outage.reason);
        Some(report(PartState::Degraded { reason: outage.reason.clone() }))
    }
}

fn report(state: PartState) -> PartReport {
    PartReport { part: "store".into(), state, repaired: None }
}

fn records(count: usize) -> String {
    if count == 1 { "1 record".to_owned() } else { format!("{count} records") }
}
