//! What the store thread does with records: commits them, or keeps them until they can be committed, and says so.
//!
//! The rule for the one who calls (invariant 4): orders go to the enforcers once [`Writer::commit`] has returned. It
//! has then either committed the records, or, the database being unwritable, kept them in memory and reported the
//! store as degraded: dropping attackers goes on, the operator knows, and the records are written as soon as they
//! can be. Nothing here waits: `now` comes in, and [`Writer::next_work_ms`] says when to call [`Writer::work`].
//!
//! Ends of terms are the only records that may come by the hundred thousand in one moment, and nobody waits for
//! them. They are put off and written a few at a time between the other commits; a crash before that finds the ban
//! with its end in the past, and ends it again.

use std::collections::{BTreeMap, HashMap, VecDeque};

use anyhow::{Error, Result};

use super::keeper::{Chore, Keeper};
use super::{Fault, Store};
use shield_engine::action::{BanRecord, LiftReason, Record, Totals};
use shield_engine::allowlist::Allowed;
use shield_engine::client::Client;
use shield_engine::event::{PartReport, PartState};
use shield_engine::request::Checkpoint;
use shield_engine::time::Now;

/// Clients whose put-off records go into one transaction.
const CLIENTS_AT_ONCE: usize = 500;
/// Records of one client that are held at most; the oldest ended bans of it are left out of the history first.
const RECORDS_PER_CLIENT: usize = 8;
/// Records up to which the evidence of bans is held too; what is over it has its evidence in the audit log alone.
const EVIDENCE_HELD: usize = 10_000;
const FIRST_RETRY_MS: u64 = 500;
const LAST_RETRY_MS: u64 = 15_000;
const PRUNE_EVERY_MS: u64 = 60_000;
/// How long a power loss may take back what was decided.
const SYNC_EVERY_MS: u64 = 5_000;
/// The same of progress alone. Positions and totals are of one moment, so that no more comes of a loss than lines read again.
const SYNC_PROGRESS_EVERY_MS: u64 = 30_000;
/// Committed records after which the write-ahead log is moved into the database, so that it never takes long.
const CHECKPOINT_AFTER: usize = 2_000;
/// How long committed records stay in the write-ahead log alone. Seldom: the first commit after it begins the log anew,
/// and waits for the disk.
const CHECKPOINT_EVERY_MS: u64 = 60_000;

/// What became of the records handed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// They are in the database (ends of terms may follow within moments).
    Committed,
    /// They are in memory only, because the database cannot be written.
    Held,
}

/// The answer to a commit.
#[derive(Debug, Clone, PartialEq)]
pub struct CommitOutcome {
    /// Where the records are. Orders to the enforcers go on either way.
    pub kept: Kept,
    /// A change of the store's state to tell the engine.
    pub report: Option<PartReport>,
}

/// The store thread's logic.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    held: Held,
    trouble: Option<Trouble>,
    /// Waits for the disk.
    keeper: Keeper,
    unsynced: Unsynced,
    /// Records committed since the write-ahead log was last moved into the database.
    in_log: usize,
    /// When the log was last synced, or a sync begun.
    synced_ms: u64,
    checkpoint_at_ms: u64,
    prune_at_ms: u64,
}

/// What was committed since the write-ahead log was last synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unsynced {
    Nothing,
    /// How far sources were read, and what was learned and counted of it.
    Progress,
    /// What somebody decided.
    Decisions,
}

impl Unsynced {
    fn of(record: &Record) -> Unsynced {
        match record {
            Record::Checkpoint(_) | Record::Totals(_) | Record::Baseline(_) => Unsynced::Progress,
            Record::Banned(_)
            | Record::Extended(_)
            | Record::Lifted { .. }
            | Record::Offences { .. }
            | Record::OffencesForgotten(_)
            | Record::Allowed(_)
            | Record::Disallowed(_) => Unsynced::Decisions,
        }
    }
}

/// Why the database cannot be written, and when it is tried again.
#[derive(Debug)]
struct Trouble {
    fault: Fault,
    said: String,
    retry_at_ms: u64,
    wait_ms: u64,
}

impl Writer {
    /// Writes to this store.
    pub fn new(store: Store, now: Now) -> Writer {
        let held = Held::new(store.settings().held_records);
        let keeper = Keeper::new(store.settings().file());
        Writer {
            store,
            held,
            trouble: None,
            keeper,
            unsynced: Unsynced::Nothing,
            in_log: 0,
            synced_ms: now.boot_ms,
            checkpoint_at_ms: now.boot_ms + CHECKPOINT_EVERY_MS,
            prune_at_ms: now.boot_ms + PRUNE_EVERY_MS,
        }
    }

    /// The database behind it, for reading at the start.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Commits one `handle` call's records as one transaction, ends of terms apart. While the database cannot be
    /// written they are kept, and it is tried again only every now and then.
    pub fn commit(&mut self, records: Vec<Record>, now: Now) -> CommitOutcome {
        let urgent = self.held.take_in(records);
        if self.trouble.as_ref().is_some_and(|t| now.boot_ms < t.retry_at_ms) {
            return CommitOutcome { kept: Kept::Held, report: self.report_growth() };
        }
        let mut batch = self.held.take_clients(&urgent);
        if self.held.clients() <= CLIENTS_AT_ONCE {
            batch.extend(self.held.take_oldest(CLIENTS_AT_ONCE));
        }
        batch.extend(self.held.take_rest());
        match self.write(batch, now) {
            Ok(()) => CommitOutcome { kept: Kept::Committed, report: self.report_recovery() },
            Err(error) => CommitOutcome { kept: Kept::Held, report: self.note(&error, now) },
        }
    }

    /// Writes some of what was put off or held, and does the database's upkeep when it is due. Call it when nothing
    /// waits to be committed, at [`Writer::next_work_ms`].
    pub fn work(&mut self, now: Now) -> Option<PartReport> {
        if self.trouble.as_ref().is_some_and(|t| now.boot_ms < t.retry_at_ms) {
            return None;
        }
        if let Some(report) = self.heed_keeper(now) {
            return Some(report);
        }
        if self.held.is_empty() && self.trouble.is_none() {
            return self.upkeep(now);
        }
        if self.in_log >= CHECKPOINT_AFTER
            && let Some(report) = self.move_log(now)
        {
            return Some(report);
        }
        let mut batch = self.held.take_oldest(CLIENTS_AT_ONCE);
        batch.extend(self.held.take_rest());
        match self.write(batch, now) {
            Ok(()) => self.report_recovery(),
            Err(error) => self.note(&error, now),
        }
    }

    /// When [`Writer::work`] has something to do next, on the boot clock; a moment in the past means at once.
    pub fn next_work_ms(&self) -> u64 {
        match &self.trouble {
            Some(trouble) => trouble.retry_at_ms,
            None if self.held.is_empty() => self.upkeep_at_ms(),
            None => 0,
        }
    }

    /// Records that are not in the database yet.
    pub fn backlog(&self) -> usize {
        self.held.len()
    }

    /// Tries to write everything that is held: for an orderly stop. An error says what stays unwritten.
    pub fn finish(&mut self, now: Now) -> Result<()> {
        while !self.held.is_empty() {
            let mut batch = self.held.take_oldest(CLIENTS_AT_ONCE);
            batch.extend(self.held.take_rest());
            let held = batch.len() + self.held.len();
            self.write(batch, now)
                .map_err(|error| error.context(format!("{held} records could not be written at the end")))?;
        }
        self.keeper.stop();
        self.store.checkpoint()
    }

    fn write(&mut self, batch: Vec<Record>, now: Now) -> Result<()> {
        if batch.is_empty() && self.trouble.is_none() {
            return Ok(());
        }
        let written = self.store.commit(&batch, now);
        match written {
            Ok(()) => {
                self.in_log += batch.len();
                let all = batch.iter().map(Unsynced::of).chain([self.unsynced]);
                self.unsynced = all.max().unwrap_or(Unsynced::Nothing);
            }
            Err(_) => self.held.put_back(batch),
        }
        written
    }

    fn upkeep_at_ms(&self) -> u64 {
        // While the keeper is busy nothing new is begun; how that went is seen at the next commit or the next pruning.
        let sync_every_ms = match self.unsynced {
            _ if self.keeper.is_busy() => return self.prune_at_ms,
            Unsynced::Nothing => return self.prune_at_ms,
            _ if self.in_log >= CHECKPOINT_AFTER => return 0,
            Unsynced::Progress => SYNC_PROGRESS_EVERY_MS,
            Unsynced::Decisions => SYNC_EVERY_MS,
        };
        self.prune_at_ms.min(self.synced_ms + sync_every_ms)
    }

    fn upkeep(&mut self, now: Now) -> Option<PartReport> {
        if now.boot_ms < self.upkeep_at_ms() {
            return None;
        }
        if now.boot_ms >= self.prune_at_ms {
            self.prune_at_ms = now.boot_ms + PRUNE_EVERY_MS;
            let pruned = self.store.prune(now);
            return pruned.err().and_then(|error| self.note(&error, now));
        }
        if self.in_log >= CHECKPOINT_AFTER || now.boot_ms >= self.checkpoint_at_ms {
            return self.move_log(now);
        }
        self.unsynced = Unsynced::Nothing;
        self.synced_ms = now.boot_ms;
        self.begin(Chore::Sync, now)
    }

    fn move_log(&mut self, now: Now) -> Option<PartReport> {
        if self.keeper.is_busy() {
            return None;
        }
        self.unsynced = Unsynced::Nothing;
        self.in_log = 0;
        self.synced_ms = now.boot_ms;
        self.checkpoint_at_ms = now.boot_ms + CHECKPOINT_EVERY_MS;
        self.begin(Chore::Checkpoint, now)
    }

    fn begin(&mut self, chore: Chore, now: Now) -> Option<PartReport> {
        let begun = self.keeper.begin(chore);
        begun.err().and_then(|error| self.note(&error, now))
    }

    /// Hears how the keeper's chore went. After a checkpoint the log is begun anew at once, while nobody waits.
    fn heed_keeper(&mut self, now: Now) -> Option<PartReport> {
        let (chore, done) = self.keeper.done()?;
        let done = done.and_then(|()| match chore {
            Chore::Sync => Ok(()),
            Chore::Checkpoint => self.store.commit(&[], now),
        });
        done.err().and_then(|error| self.note(&error, now))
    }

    /// Notes a failure and says it when it is not of the kind that was said before.
    fn note(&mut self, error: &Error, now: Now) -> Option<PartReport> {
        let fault = Fault::of(error);
        let said = format!("cannot write the database: {error:#}; bans go on, {}", fault.advice());
        let before = self.trouble.take();
        let wait_ms = before.as_ref().map_or(FIRST_RETRY_MS, |t| (t.wait_ms * 2).min(LAST_RETRY_MS));
        let is_new = before.is_none_or(|t| t.fault != fault);
        self.trouble =
            Some(Trouble { fault, said: said.clone(), retry_at_ms: now.boot_ms + wait_ms, wait_ms });
        is_new.then(|| report(PartState::Degraded { reason: said }))
    }

    fn report_recovery(&mut self) -> Option<PartReport> {
        self.trouble.take()?;
        let lost = self.held.take_lost();
        let detail = match lost {
            0 => "written again; nothing was lost".to_owned(),
            lost => format!("written again; {lost} records were too many to hold and are missing"),
        };
        Some(report(PartState::Active { detail }))
    }

    /// Says once when records begin to be lost.
    fn report_growth(&mut self) -> Option<PartReport> {
        let trouble = self.trouble.as_mut().filter(|_| self.held.began_to_lose())?;
        let held = self.held.len();
        trouble.said = format!("{}; {held} records are held, further ones are lost", trouble.said);
        Some(report(PartState::Degraded { reason: trouble.said.clone() }))
    }
}

fn report(state: PartState) -> PartReport {
    PartReport { part: "store".into(), state, repaired: None }
}

/// Records that are not in the database yet, with what a later one makes superfluous left out.
#[derive(Debug)]
struct Held {
    by_client: HashMap<Client, Vec<Record>>,
    /// Clients in the order they came; those already taken are passed over.
    order: VecDeque<Client>,
    records: usize,
    rest: Rest,
    most: usize,
    lost: u64,
    loss_said: bool,
}

/// What is not about one client: only the last word counts.
#[derive(Debug, Default)]
struct Rest {
    baseline: Option<Vec<u8>>,
    totals: Option<Totals>,
    checkpoints: BTreeMap<String, Checkpoint>,
    allowlist: BTreeMap<Allowed, Record>,
}

impl Held {
    fn new(most: usize) -> Held {
        Held {
            by_client: HashMap::new(),
            order: VecDeque::new(),
            records: 0,
            rest: Rest::default(),
            most,
            lost: 0,
            loss_said: false,
        }
    }

    fn len(&self) -> usize {
        self.records
    }

    fn clients(&self) -> usize {
        self.by_client.len()
    }

    fn is_empty(&self) -> bool {
        self.by_client.is_empty() && self.rest.is_empty()
    }

    fn take_lost(&mut self) -> u64 {
        self.loss_said = false;
        std::mem::take(&mut self.lost)
    }

    fn began_to_lose(&mut self) -> bool {
        self.lost > 0 && !std::mem::replace(&mut self.loss_said, true)
    }

    /// Takes records in; returns the clients whose records somebody waits for.
    fn take_in(&mut self, records: Vec<Record>) -> Vec<Client> {
        let mut urgent = Vec::new();
        for record in records {
            match &record {
                Record::Banned(ban) | Record::Extended(ban) => urgent.push(ban.ban.client),
                Record::Lifted { client, reason, .. } if *reason != LiftReason::Expired => {
                    urgent.push(*client);
                }
                _ => {}
            }
            self.add(record);
        }
        urgent
    }

    fn add(&mut self, record: Record) {
        match record {
            Record::Banned(ref ban) | Record::Extended(ref ban) => self.add_of(ban.ban.client, record),
            Record::Lifted { client, .. }
            | Record::Offences { client, .. }
            | Record::OffencesForgotten(client) => self.add_of(client, record),
            other => self.rest.add(other),
        }
    }

    fn add_of(&mut self, client: Client, mut record: Record) {
        let is_new = !self.by_client.contains_key(&client);
        if is_new && self.records >= self.most {
            self.lost += 1;
            return;
        }
        if is_new {
            self.order.push_back(client);
        }
        if let Record::Banned(ban) = &mut record
            && self.records >= EVIDENCE_HELD
        {
            ban.evidence = None;
        }
        let list = self.by_client.entry(client).or_default();
        let before = list.len();
        coalesce(list, record);
        self.records = self.records + list.len() - before;
    }

    fn take_clients(&mut self, clients: &[Client]) -> Vec<Record> {
        let mut taken = Vec::new();
        for client in clients {
            taken.extend(self.by_client.remove(client).unwrap_or_default());
        }
        self.records -= taken.len();
        if self.order.len() > 2 * self.by_client.len() + CLIENTS_AT_ONCE {
            self.order.retain(|client| self.by_client.contains_key(client));
        }
        taken
    }

    fn take_oldest(&mut self, clients: usize) -> Vec<Record> {
        let mut chosen = Vec::new();
        while chosen.len() < clients {
            let Some(client) = self.order.pop_front() else { break };
            if self.by_client.contains_key(&client) {
                chosen.push(client);
            }
        }
        self.take_clients(&chosen)
    }

    /// What is about no client. Checkpoints must not be written before the bans they go with, so that everything but
    /// the allowlist waits until no client's records are left.
    fn take_rest(&mut self) -> Vec<Record> {
        let allowlist = std::mem::take(&mut self.rest.allowlist).into_values();
        if self.by_client.is_empty() {
            allowlist.chain(std::mem::take(&mut self.rest).into_records()).collect()
        } else {
            allowlist.collect()
        }
    }

    fn put_back(&mut self, batch: Vec<Record>) {
        for record in batch {
            self.add(record);
        }
    }
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.baseline.is_none()
            && self.totals.is_none()
            && self.checkpoints.is_empty()
            && self.allowlist.is_empty()
    }

    fn add(&mut self, record: Record) {
        match record {
            Record::Baseline(bytes) => self.baseline = Some(bytes),
            Record::Totals(totals) => self.totals = Some(totals),
            Record::Checkpoint(at) => {
                self.checkpoints.insert(at.source.clone(), at);
            }
            Record::Allowed(entry) | Record::Disallowed(entry) => {
                self.allowlist.insert(entry, record);
            }
            Record::Banned(_)
            | Record::Extended(_)
            | Record::Lifted { .. }
            | Record::Offences { .. }
            | Record::OffencesForgotten(_) => {
                unreachable!("Held::add keeps records of one client with that client")
            }
        }
    }

    fn into_records(self) -> impl Iterator<Item = Record> {
        let baseline = self.baseline.map(Record::Baseline).into_iter();
        baseline
            .chain(self.totals.map(Record::Totals))
            .chain(self.checkpoints.into_values().map(Record::Checkpoint))
    }
}

/// Adds a record to one client's, leaving out what it makes superfluous: an older count of offences, a ban that was
/// replaced or extended before it was ever written.
fn coalesce(list: &mut Vec<Record>, record: Record) {
    match record {
        Record::Offences { .. } | Record::OffencesForgotten(_) => {
            list.retain(|old| !is_of_offences(old));
            list.push(record);
        }
        Record::Banned(_) => {
            take_unended(list);
            list.push(record);
        }
        Record::Extended(new) => {
            let old = take_unended(list);
            list.push(extended(old, new));
        }
        other => list.push(other),
    }
    if list.len() > RECORDS_PER_CLIENT {
        forget_oldest_ended(list);
    }
}

fn is_of_offences(record: &Record) -> bool {
    matches!(record, Record::Offences { .. } | Record::OffencesForgotten(_))
}

/// Takes the last ban out that has no lift after it.
fn take_unended(list: &mut Vec<Record>) -> Option<Record> {
    let at = list.iter().rposition(|old| !is_of_offences(old))?;
    matches!(list[at], Record::Banned(_) | Record::Extended(_)).then(|| list.remove(at))
}

/// One record for a ban and its extension.
fn extended(old: Option<Record>, mut new: Box<BanRecord>) -> Record {
    let Some(Record::Banned(old) | Record::Extended(old)) = &old else { return Record::Extended(new) };
    new.evidence = new.evidence.take().or_else(|| old.evidence.clone());
    new.reason = new.reason.take().or_else(|| old.reason.clone());
    Record::Extended(new)
}

/// Leaves the oldest ban that was made and ended while nothing could be written out of the history.
fn forget_oldest_ended(list: &mut Vec<Record>) {
    let ended = list.iter().position(|record| matches!(record, Record::Banned(_))).and_then(|ban| {
        let lift = list[ban..].iter().position(|record| matches!(record, Record::Lifted { .. }))?;
        Some((ban, ban + lift))
    });
    if let Some((ban, lift)) = ended {
        list.remove(lift);
        list.remove(ban);
    }
}
