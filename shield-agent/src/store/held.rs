//! Records that are not in the database yet, without those that a later one makes superfluous.

use std::collections::{BTreeMap, HashMap, VecDeque};

use shield_engine::action::{BanRecord, LiftReason, Record, Totals};
use shield_engine::allowlist::Allowed;
use shield_engine::client::Client;
use shield_engine::request::Checkpoint;

/// Clients whose deferred records go into one transaction.
pub(super) const CLIENTS_AT_ONCE: usize = 500;
/// Records held for one client at most. Beyond it the client's oldest ended bans are left out of the history.
const RECORDS_PER_CLIENT: usize = 8;
/// Records up to which the evidence of bans is held too. Beyond it the evidence is in the audit log alone: it is by far
/// the largest part of a record.
const EVIDENCE_HELD: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Held {
    by_client: HashMap<Client, Vec<Record>>,
    /// Clients in the order of arrival. May name clients whose records were taken already.
    order: VecDeque<Client>,
    records: usize,
    rest: Rest,
    /// Records from which those of further clients are dropped.
    max_records: usize,
    dropped: u64,
    drop_reported: bool,
}

/// Records that are not about one client. Of each kind only the newest is kept.
#[derive(Debug, Default)]
struct Rest {
    baseline: Option<Vec<u8>>,
    totals: Option<Totals>,
    slowed: Option<Vec<u8>>,
    paused: Option<Vec<u8>>,
    remote: BTreeMap<(String, Client), Record>,
    remote_state: Option<Vec<u8>>,
    checkpoints: BTreeMap<String, Checkpoint>,
    allowlist: BTreeMap<Allowed, Record>,
}

impl Held {
    pub(super) fn new(max_records: usize) -> Held {
        Held {
            by_client: HashMap::new(),
            order: VecDeque::new(),
            records: 0,
            rest: Rest::default(),
            max_records,
            dropped: 0,
            drop_reported: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.records
    }

    pub(super) fn clients(&self) -> usize {
        self.by_client.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_client.is_empty() && self.rest.is_empty()
    }

    /// A client's newest ban, unless it has ended.
    pub(super) fn ban(&self, client: Client) -> Option<&BanRecord> {
        match self.by_client.get(&client)?.iter().rfind(|record| !is_of_offences(record))? {
            Record::Banned(ban) | Record::Extended(ban) => Some(ban),
            _ => None,
        }
    }

    /// The clients whose newest ban is of this site.
    pub(super) fn clients_of_site<'a>(&'a self, site: &'a str) -> impl Iterator<Item = Client> + 'a {
        let is_of_site = move |ban: &BanRecord| {
            ban.evidence.as_ref().is_some_and(|evidence| evidence.sites.iter().any(|name| name == site))
        };
        self.by_client.keys().copied().filter(move |client| self.ban(*client).is_some_and(is_of_site))
    }

    pub(super) fn take_dropped(&mut self) -> u64 {
        self.drop_reported = false;
        std::mem::take(&mut self.dropped)
    }

    /// Returns `true` once, when records begin to be dropped.
    pub(super) fn began_to_drop(&mut self) -> bool {
        self.dropped > 0 && !std::mem::replace(&mut self.drop_reported, true)
    }

    /// Adds records and returns the clients whose records must not be deferred.
    pub(super) fn add_all(&mut self, records: Vec<Record>) -> Vec<Client> {
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
        if is_new && self.records >= self.max_records {
            self.dropped += 1;
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

    pub(super) fn take_clients(&mut self, clients: &[Client]) -> Vec<Record> {
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

    pub(super) fn take_oldest(&mut self, clients: usize) -> Vec<Record> {
        let mut chosen = Vec::new();
        while chosen.len() < clients {
            let Some(client) = self.order.pop_front() else { break };
            if self.by_client.contains_key(&client) {
                chosen.push(client);
            }
        }
        self.take_clients(&chosen)
    }

    /// Takes the records that are not about one client. Checkpoints must not be written before the bans that go with them,
    /// so everything but the allowlist waits until no client's records are left.
    pub(super) fn take_rest(&mut self) -> Vec<Record> {
        let allowlist = std::mem::take(&mut self.rest.allowlist).into_values();
        if self.by_client.is_empty() {
            allowlist.chain(std::mem::take(&mut self.rest).into_records()).collect()
        } else {
            allowlist.collect()
        }
    }

    pub(super) fn put_back(&mut self, batch: Vec<Record>) {
        for record in batch {
            self.add(record);
        }
    }
}

impl Rest {
    fn is_empty(&self) -> bool {
        self.baseline.is_none()
            && self.totals.is_none()
            && self.slowed.is_none()
            && self.paused.is_none()
            && self.remote.is_empty()
            && self.remote_state.is_none()
            && self.checkpoints.is_empty()
            && self.allowlist.is_empty()
    }

    fn add(&mut self, record: Record) {
        match record {
            Record::Baseline(bytes) => self.baseline = Some(bytes),
            Record::Totals(totals) => self.totals = Some(totals),
            Record::Slowed(list) => self.slowed = Some(list),
            Record::Paused(pause) => self.paused = Some(pause),
            Record::Remote { ref origin, client, .. } => {
                self.remote.insert((origin.clone(), client), record);
            }
            Record::RemoteState(state) => self.remote_state = Some(state),
            Record::Checkpoint(at) => {
                self.checkpoints.insert(at.source.clone(), at);
            }
            Record::Allowed { entry, .. } | Record::Disallowed(entry) => {
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
            .chain(self.slowed.map(Record::Slowed))
            .chain(self.paused.map(Record::Paused))
            .chain(self.remote.into_values())
            .chain(self.remote_state.map(Record::RemoteState))
            .chain(self.checkpoints.into_values().map(Record::Checkpoint))
    }
}

/// Adds a record to one client's records and removes those that it makes superfluous: an older count of offences, a ban
/// that was replaced or extended before it was ever written.
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

/// Removes the last ban unless a lift follows it.
fn take_unended(list: &mut Vec<Record>) -> Option<Record> {
    let at = list.iter().rposition(|old| !is_of_offences(old))?;
    matches!(list[at], Record::Banned(_) | Record::Extended(_)).then(|| list.remove(at))
}

/// Merges a ban and its extension, which carries the evidence and reason only when they are new.
fn extended(old: Option<Record>, mut new: Box<BanRecord>) -> Record {
    let Some(Record::Banned(old) | Record::Extended(old)) = &old else { return Record::Extended(new) };
    new.evidence = new.evidence.take().or_else(|| old.evidence.clone());
    new.reason = new.reason.take().or_else(|| old.reason.clone());
    Record::Extended(new)
}

/// Removes the oldest ban that both began and ended while nothing could be written; the history will lack it.
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
