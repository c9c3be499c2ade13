//! The order of calls that brings the list to what is wanted: read it, take away, add, wait for each change to be done. Pure:
//! the time and the answers come in, requests go out.
//!
//! A change of a list is an operation that goes on after the answer, and a second one meanwhile is refused, whosever it is. So
//! there is one at a time, at most one each [`BATCH_MS`], and whenever it is not certain what a change did, the list is read
//! again: what it holds is the truth, and our items are known by their comment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::calls::Budget;
use super::plan::{Held, Items, Owner, Wish, plan};
use super::settings::Settings;
use crate::edge::format::cloudflare_item;
use crate::text::{cloudflare as words, retrying};
use shield_engine::client::Client;
use shield_engine::event::PartState;

/// Changes are collected for so long.
const BATCH_MS: u64 = 10_000;
/// The list is read again after so long, in case somebody else changed it.
const READ_EVERY_MS: u64 = 600_000;
/// Most items in one change.
const MAX_BATCH: usize = 1_000;
/// The first and the longest pause after a failure.
const FIRST_PAUSE_MS: u64 = 1_000;
const LONGEST_PAUSE_MS: u64 = 300_000;
/// The longest `Retry-After` that is obeyed.
const LONGEST_RETRY_AFTER_MS: u64 = 3_600_000;
/// Pauses between looks at an operation: they grow from the first to the last.
const FIRST_LOOK_MS: u64 = 1_000;
const LAST_LOOK_MS: u64 = 10_000;
/// An operation that is not done after so long is given up; the list is read to see what it did.
const OPERATION_MS: u64 = 600_000;
/// Failures in a row after which the part is degraded, where one alone says little.
const FAILURES_BEFORE_DEGRADED: u32 = 3;
/// What was refused, an item or any more of them, is tried again after so long.
const REFUSED_MS: u64 = 3_600_000;
/// More items than any list holds: a server that never comes to an end is not read any further.
const MAX_ITEMS: usize = 1_000_000;

/// The limits of an account: calls in five minutes, changed items in twelve hours.
const CALLS: (u64, u64) = (1_200, 300_000);
const CHANGES: (u64, u64) = (1_000_000, 43_200_000);

/// A call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    /// A page of the list, the first one without a cursor.
    Items {
        cursor: Option<String>,
    },
    Add(Vec<String>),
    /// By their ids.
    Remove(Vec<String>),
    Operation(String),
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Make this call, then [`Sync::done`].
    Call(Request),
    /// Call [`Sync::step`] again at this time, in milliseconds.
    WaitUntil(u64),
}

/// An item as the list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub id: String,
    /// `None` of what is no address or network.
    pub client: Option<Client>,
    pub comment: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Page {
        items: Vec<Listed>,
        next: Option<String>,
    },
    /// A change has begun.
    Begun {
        operation: String,
    },
    Operation(Progress),
    Failed(Failure),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    Going,
    Completed,
    Failed(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub kind: FailureKind,
    pub why: String,
    pub retry_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FailureKind {
    /// Nothing was done: too many calls, or another change is under way.
    Busy,
    /// It is not known what was done: no answer, an error of the server, an answer that makes no sense.
    Unknown,
    /// The token is wrong or may not.
    Denied,
    /// The request is wrong: the list is not there, or an item is not taken.
    Refused,
}

/// Numbers to show.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListCounts {
    /// Our items in the list.
    pub items: u64,
    /// Changes that are not made yet.
    pub pending: u64,
    /// Banned clients that have no place in it.
    pub left_out: u64,
}

#[derive(Debug)]
pub(super) struct Sync {
    settings: Settings,
    calls: Budget,
    changes: Budget,
    /// What is in the list; `None` before it is read, and whenever that is not certain.
    held: Option<Items>,
    /// Items of others that are no addresses.
    others: usize,
    read_at_ms: u64,
    reading: Option<Reading>,
    operation: Option<Operation>,
    wanted: Vec<Wish>,
    /// Wanted clients that no list of Cloudflare's can name.
    unnamed: usize,
    /// Wanted clients for which there is no room.
    no_room: usize,
    /// Clients that Cloudflare did not take, and when.
    refused: BTreeMap<Client, u64>,
    batch: usize,
    /// The number of items at which Cloudflare said that it takes no more, and when.
    learned: Option<(usize, u64)>,
    next_batch_ms: u64,
    not_before_ms: u64,
    failures: u32,
    trouble: Option<String>,
    counts: ListCounts,
    /// The last look found nothing to change.
    is_settled: bool,
}

#[derive(Debug, Default)]
struct Reading {
    cursor: Option<String>,
    items: Items,
    others: usize,
}

#[derive(Debug)]
struct Operation {
    change: Change,
    /// Known once it has begun.
    id: Option<String>,
    since_ms: u64,
    look_ms: u64,
    pause_ms: u64,
}

#[derive(Debug, Clone)]
enum Change {
    Add(Vec<Client>),
    Remove(Vec<Client>),
}

impl Sync {
    pub(super) fn new(settings: Settings) -> Sync {
        Sync {
            calls: Budget::new(CALLS.0, settings.share, CALLS.1),
            changes: Budget::new(CHANGES.0, settings.share, CHANGES.1),
            settings,
            held: None,
            others: 0,
            read_at_ms: 0,
            reading: None,
            operation: None,
            wanted: Vec::new(),
            unnamed: 0,
            no_room: 0,
            refused: BTreeMap::new(),
            batch: MAX_BATCH,
            learned: None,
            next_batch_ms: 0,
            not_before_ms: 0,
            failures: 0,
            trouble: None,
            counts: ListCounts::default(),
            is_settled: false,
        }
    }

    /// Wants exactly these from now on.
    pub(super) fn want(&mut self, mut wanted: Vec<Wish>) {
        let before = wanted.len();
        wanted.retain(|wish| cloudflare_item(wish.client).is_some());
        self.unnamed = before - wanted.len();
        if !self.refused.is_empty() {
            let still: BTreeSet<Client> = wanted.iter().map(|wish| wish.client).collect();
            self.refused.retain(|client, _| still.contains(client));
        }
        self.wanted = wanted;
        self.is_settled = false;
    }

    pub(super) fn counts(&self) -> ListCounts {
        self.counts
    }

    /// Whether the list holds what is wanted, as far as it can.
    pub(super) fn is_done(&self) -> bool {
        self.is_settled
    }

    pub(super) fn state(&self) -> PartState {
        match &self.trouble {
            Some(reason) => PartState::Degraded { reason: reason.clone() },
            None if self.held.is_none() => PartState::Waiting { reason: words::READING.to_owned() },
            None if self.no_room > 0 => PartState::Degraded { reason: words::full(self.capacity()) },
            None => PartState::Active { detail: words::items(&self.counts) },
        }
    }

    pub(super) fn step(&mut self, now_ms: u64) -> Step {
        if now_ms < self.not_before_ms {
            return Step::WaitUntil(self.not_before_ms);
        }
        let is_over = |at_ms: u64| at_ms + REFUSED_MS <= now_ms;
        if self.learned.is_some_and(|(_, at_ms)| is_over(at_ms)) {
            self.learned = None;
        }
        self.refused.retain(|_, at_ms| !is_over(*at_ms));
        let request = match self.request(now_ms) {
            Ok(request) => request,
            Err(wait_ms) => return Step::WaitUntil(wait_ms),
        };
        if self.calls.left(now_ms) == 0 {
            self.forget_unsent();
            return Step::WaitUntil(self.calls.next_ms(now_ms));
        }
        self.calls.spend(1, now_ms);
        if let Request::Add(items) | Request::Remove(items) = &request {
            self.changes.spend(items.len() as u64, now_ms);
        }
        Step::Call(request)
    }

    /// A change that is not sent after all is planned anew.
    fn forget_unsent(&mut self) {
        if self.operation.as_ref().is_some_and(|operation| operation.id.is_none()) {
            self.operation = None;
            self.next_batch_ms = 0;
        }
    }

    /// The next request, or when to ask again.
    fn request(&mut self, now_ms: u64) -> Result<Request, u64> {
        if let Some(operation) = &self.operation
            && let Some(id) = &operation.id
        {
            if now_ms < operation.look_ms {
                return Err(operation.look_ms);
            }
            return Ok(Request::Operation(id.clone()));
        }
        let is_old = self.read_at_ms + READ_EVERY_MS <= now_ms;
        if self.held.is_none() || is_old || self.reading.is_some() {
            let reading = self.reading.get_or_insert_default();
            return Ok(Request::Items { cursor: reading.cursor.clone() });
        }
        if now_ms < self.next_batch_ms {
            return Err(self.next_batch_ms);
        }
        self.next_batch_ms = now_ms + BATCH_MS;
        match self.change(now_ms) {
            None => Err(self.next_batch_ms),
            Some(request) => Ok(request),
        }
    }

    /// The next change: first what must go, since a lift cannot wait and makes room.
    fn change(&mut self, now_ms: u64) -> Option<Request> {
        let capacity = self.capacity();
        let held = self.held.as_ref()?;
        let plan = plan(&self.wanted, held, self.others, capacity, &self.refused);
        self.no_room = plan.no_room;
        let ours = held.values().filter(|item| item.owner == Owner::Us).count();
        self.counts = ListCounts {
            items: ours as u64,
            pending: (plan.add.len() + plan.remove.len()) as u64,
            left_out: (plan.no_room + self.unnamed + self.refused.len()) as u64,
        };
        let most = self.batch.min(usize::try_from(self.changes.left(now_ms)).unwrap_or(usize::MAX));
        if most == 0 {
            return None;
        }
        let since_ms = now_ms;
        let begin = |change| Operation { change, id: None, since_ms, look_ms: 0, pause_ms: FIRST_LOOK_MS };
        if !plan.remove.is_empty() {
            let named: Vec<(Client, String)> = plan
                .remove
                .iter()
                .filter_map(|client| Some((*client, held.get(client)?.id.clone()?)))
                .take(most)
                .collect();
            if named.is_empty() {
                // Added since the list was read, so that their ids are not known.
                self.next_batch_ms = now_ms;
                let reading = self.reading.get_or_insert_default();
                return Some(Request::Items { cursor: reading.cursor.clone() });
            }
            let (clients, ids) = named.into_iter().unzip();
            self.operation = Some(begin(Change::Remove(clients)));
            return Some(Request::Remove(ids));
        }
        let clients: Vec<Client> = plan.add.into_iter().take(most).collect();
        if clients.is_empty() {
            self.works();
            self.is_settled = true;
            return None;
        }
        let items = clients.iter().filter_map(|client| cloudflare_item(*client)).collect();
        self.operation = Some(begin(Change::Add(clients)));
        Some(Request::Add(items))
    }

    fn capacity(&self) -> usize {
        let learned = self.learned.map_or(usize::MAX, |(items, _)| items);
        self.settings.max_items.min(learned)
    }

    /// Takes in the answer to the last request.
    pub(super) fn done(&mut self, answer: Answer, now_ms: u64) {
        match answer {
            Answer::Page { items, next } => self.page(items, next, now_ms),
            Answer::Begun { operation } => self.begun(operation, now_ms),
            Answer::Operation(Progress::Going) => self.goes_on(now_ms),
            Answer::Operation(Progress::Completed) => self.completed(),
            Answer::Operation(Progress::Failed(why)) => self.change_failed(&why, now_ms),
            Answer::Failed(failure) => self.failed(failure, now_ms),
        }
    }

    fn works(&mut self) {
        self.failures = 0;
        self.trouble = None;
    }

    fn page(&mut self, items: Vec<Listed>, next: Option<String>, now_ms: u64) {
        let Some(reading) = &mut self.reading else { return };
        for item in items {
            let owner = if item.comment == self.settings.comment { Owner::Us } else { Owner::Others };
            match item.client {
                Some(client) => {
                    reading.items.insert(client, Held { id: Some(item.id), owner });
                }
                None => reading.others += 1,
            }
        }
        let is_endless = reading.items.len() + reading.others > MAX_ITEMS;
        if is_endless || (next.is_some() && next == reading.cursor) {
            self.reading = None;
            let why = words::ENDLESS.to_owned();
            self.failed(Failure { kind: FailureKind::Unknown, why, retry_after: None }, now_ms);
            return;
        }
        match next {
            Some(cursor) => reading.cursor = Some(cursor),
            None => {
                let read = std::mem::take(reading);
                self.reading = None;
                self.held = Some(read.items);
                self.others = read.others;
                self.read_at_ms = now_ms;
            }
        }
    }

    fn begun(&mut self, id: String, now_ms: u64) {
        if let Some(operation) = &mut self.operation {
            operation.id = Some(id);
            operation.look_ms = now_ms + operation.pause_ms;
        }
    }

    fn goes_on(&mut self, now_ms: u64) {
        let Some(operation) = &mut self.operation else { return };
        if operation.since_ms + OPERATION_MS <= now_ms {
            let why = words::STUCK.to_owned();
            self.uncertain();
            self.pause(None, now_ms);
            self.trouble = Some(retrying(why));
            return;
        }
        operation.pause_ms = (operation.pause_ms * 2).min(LAST_LOOK_MS);
        operation.look_ms = now_ms + operation.pause_ms;
    }

    fn completed(&mut self) {
        let (Some(operation), Some(held)) = (self.operation.take(), &mut self.held) else { return };
        let (Change::Add(changed) | Change::Remove(changed)) = &operation.change;
        let done = changed.len() as u64;
        match operation.change {
            Change::Add(clients) => {
                let item = Held { id: None, owner: Owner::Us };
                held.extend(clients.into_iter().map(|client| (client, item.clone())));
            }
            Change::Remove(clients) => clients.iter().for_each(|client| drop(held.remove(client))),
        }
        self.counts.pending = self.counts.pending.saturating_sub(done);
        self.counts.items = held.values().filter(|item| item.owner == Owner::Us).count() as u64;
        self.batch = (self.batch * 2).min(MAX_BATCH);
        self.works();
    }

    /// A change was not made, or only a part of it.
    fn change_failed(&mut self, why: &str, now_ms: u64) {
        let change = self.operation.take().map(|operation| operation.change);
        if let Some(Change::Add(clients)) = change {
            match clients[..] {
                [_] if is_full(why) => {
                    let present = self.held.as_ref().map_or(0, Items::len) + self.others;
                    self.learned = Some((present, now_ms));
                }
                [client] => drop(self.refused.insert(client, now_ms)),
                // To find the one that is not taken, or how many have room.
                _ => self.batch = (clients.len() / 2).max(1),
            }
        }
        self.uncertain();
        self.pause(None, now_ms);
        if self.failures >= FAILURES_BEFORE_DEGRADED {
            self.trouble = Some(retrying(why.to_owned()));
        }
    }

    fn failed(&mut self, failure: Failure, now_ms: u64) {
        let Failure { kind, why, retry_after } = failure;
        let is_change = self.operation.as_ref().is_some_and(|operation| operation.id.is_none());
        match kind {
            FailureKind::Busy => self.forget_unsent(),
            FailureKind::Refused if is_change => {
                self.change_failed(&why, now_ms);
                return;
            }
            FailureKind::Unknown | FailureKind::Denied | FailureKind::Refused => {
                // A look at an operation that got no answer says nothing about the operation.
                let is_look = self.operation.is_some() && !is_change;
                if !is_look || kind == FailureKind::Refused {
                    self.uncertain();
                }
            }
        }
        self.pause(retry_after, now_ms);
        let is_certain = matches!(kind, FailureKind::Denied | FailureKind::Refused);
        if is_certain || self.failures >= FAILURES_BEFORE_DEGRADED {
            self.trouble = Some(retrying(why));
        }
    }

    /// What the list holds has to be read.
    fn uncertain(&mut self) {
        self.operation = None;
        self.held = None;
        self.reading = None;
    }

    fn pause(&mut self, retry_after: Option<Duration>, now_ms: u64) {
        let pause = (FIRST_PAUSE_MS << self.failures.min(16)).min(LONGEST_PAUSE_MS);
        self.failures = self.failures.saturating_add(1);
        let asked = retry_after.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.not_before_ms = now_ms + pause.max(asked.min(LONGEST_RETRY_AFTER_MS));
    }
}

/// Whether a refusal says that the list or the account has no more room: the answer has no code for it.
fn is_full(why: &str) -> bool {
    let why = why.to_lowercase();
    ["maximum", "exceed", "quota", "too many items", "limit"].iter().any(|word| why.contains(word))
}
