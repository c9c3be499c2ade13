//! What speaks against one client: an account in points, kind by kind, that leaks over minutes or hours. It outlives the
//! client's windows. Kinds add up; a target that was charged before adds less. `score.rs` decides what a request is worth.

use crate::detect::hash::Seeded;
use crate::detect::sampled_table::{Keyed, SampledTable};
use crate::vocab::verdict::Rule;

/// A kind of evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Targets that no page links to.
    Probe,
    /// Paths that merely failed.
    Failure,
    /// Scripts that all got the same answer.
    Alike,
    /// Requests that no client of a web server sends.
    Malformed,
    /// Refused passwords.
    Login,
    /// Remote calls, at which passwords are tried too.
    RemoteCall,
    /// Posts that a form refuses, and numbers tried one after the other.
    Try,
    /// Passwords of the server's own (401).
    Unauthorised,
}

/// The number of kinds.
pub(crate) const KINDS: usize = 8;

/// Points by kind, indexed by [`Kind`].
pub(crate) type Points = [f32; KINDS];

impl Kind {
    /// In the order of their discriminants, which index arrays.
    pub(crate) const ALL: [Kind; KINDS] = [
        Kind::Probe,
        Kind::Failure,
        Kind::Alike,
        Kind::Malformed,
        Kind::Login,
        Kind::RemoteCall,
        Kind::Try,
        Kind::Unauthorised,
    ];

    /// The name in evidence.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Probe => "probes",
            Kind::Failure => "failed_paths",
            Kind::Alike => "scripts_answered_alike",
            Kind::Malformed => "malformed_requests",
            Kind::Login => "failed_logins",
            Kind::RemoteCall => "remote_calls",
            Kind::Try => "tries",
            Kind::Unauthorised => "unauthorised",
        }
    }

    /// The rule that a ban is attributed to when this kind weighs most.
    pub(crate) fn rule(self) -> Rule {
        match self {
            Kind::Probe | Kind::Failure | Kind::Alike | Kind::Try => Rule::Probing,
            Kind::Malformed => Rule::ErrorSurge,
            Kind::Login | Kind::RemoteCall | Kind::Unauthorised => Rule::Behaviour,
        }
    }

    /// The time after which half of the points are gone. Nobody asks for a stranger's configuration by mistake, not even two
    /// hours later; dead links are followed all day.
    fn half_life_secs(self) -> u32 {
        match self {
            Kind::Probe => 7200,
            Kind::Failure => 240,
            Kind::Alike | Kind::Malformed => 600,
            // A guess every half minute is as good as ten in one.
            Kind::Login => 900,
            Kind::RemoteCall | Kind::Unauthorised => 120,
            Kind::Try => 200,
        }
    }

    /// The share of points that is left after `secs`.
    pub(crate) fn kept(self, secs: u32) -> f32 {
        kept(secs, self.half_life_secs())
    }
}

fn kept(secs: u32, half_life_secs: u32) -> f32 {
    if secs == 0 { 1.0 } else { (-f64::from(secs) / f64::from(half_life_secs)).exp2() as f32 }
}

/// A piece of evidence: one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) kind: Kind,
    /// What it adds when its target was not charged before.
    pub(crate) points: f32,
    /// What it adds otherwise, as a share of the points.
    pub(crate) repeat: f32,
    /// Equal for what counts as one target.
    pub(crate) key: u64,
    /// Targets of one group count in full once, then at `within_group`.
    pub(crate) group: Option<u64>,
    /// The share of the points that a further target of a known group adds.
    pub(crate) within_group: f32,
    /// As how many failed pages it counts against the pages that were served.
    pub(crate) pages: f32,
    /// Under which the site's habits are learned; 0 for none.
    pub(crate) template: u32,
    /// The template of its directory; 0 at the root.
    pub(crate) dir: u32,
    /// The key of the path's text.
    pub(crate) target: u32,
    /// Of a target that differs from others of its key by a number alone, the key of that number.
    pub(crate) counted: Option<u64>,
}

/// A further number where another one was charged, in points: a list that counts is one idea, and many requests.
const COUNTED_ON: f32 = 0.3;

/// One entry of an account.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Charge {
    pub(crate) kind: Kind,
    pub(crate) points: f32,
    pub(crate) at: u32,
    pub(crate) template: u32,
    pub(crate) dir: u32,
    pub(crate) target: u32,
    key: u32,
}

impl Charge {
    /// What is left of it at `second`.
    pub(crate) fn left(&self, second: u32) -> f32 {
        self.points * self.kind.kept(second.saturating_sub(self.at))
    }
}

/// The charges kept for the account that evidence shows, and for taking back what turns out to be the server's fault.
const MAX_CHARGES: usize = 24;

/// Bits of the filter of targets, and how many of them may be set: beyond it the filter starts anew.
const FILTER_BITS: u32 = 256;
const MAX_FILTER_BITS: u32 = 140;

/// The account of one client.
#[derive(Debug, Clone, Default)]
pub(crate) struct Account {
    key: u128,
    /// The second of its first evidence.
    opened: u32,
    /// The second up to which the points have leaked.
    at: u32,
    amounts: Points,
    /// Added by targets that were charged before.
    repeats: Points,
    /// Added in the second `at` alone.
    fresh: Points,
    /// Probes and failures of the one earlier second that added most.
    heaviest: [f32; 2],
    /// Seconds with evidence that is no name which failed before, leaking like failures.
    moments: f32,
    /// Whether the second `at` is one of them.
    is_counted: bool,
    /// Served and failed pages, leaking like failures.
    served: f32,
    failed: f32,
    /// A Bloom filter of targets.
    seen: [u64; (FILTER_BITS / 64) as usize],
    /// One of groups, in a single word: it fills up, and then further groups are taken for known ones.
    groups: u64,
    charges: Vec<Charge>,
}

impl Account {
    fn new(key: u128, second: u32) -> Account {
        Account { key, opened: second, at: second, ..Account::default() }
    }

    pub(crate) fn opened(&self) -> u32 {
        self.opened
    }

    /// Lets points leak up to `second`. Earlier seconds change nothing.
    pub(crate) fn leak(&mut self, second: u32) {
        let secs = second.saturating_sub(self.at);
        if secs == 0 {
            return;
        }
        for (kind, (amount, repeat)) in
            Kind::ALL.into_iter().zip(self.amounts.iter_mut().zip(&mut self.repeats))
        {
            if *amount > 0.0 {
                *amount *= kind.kept(secs);
                *repeat *= kind.kept(secs);
            }
        }
        self.served *= Kind::Failure.kept(secs);
        self.failed *= Kind::Failure.kept(secs);
        self.heaviest = self.heaviest(second);
        self.moments *= Kind::Failure.kept(secs);
        self.is_counted = false;
        self.fresh = Points::default();
        self.at = second;
        if self.total() < 0.1 {
            self.seen = Default::default();
            self.groups = 0;
            self.failed = 0.0;
            self.charges.clear();
        }
    }

    fn total(&self) -> f32 {
        self.amounts.iter().sum()
    }

    /// Adds a piece of evidence at `second`.
    pub(crate) fn add(&mut self, piece: &Piece, second: u32) {
        self.leak(second);
        let is_new_group = piece.group.is_none_or(|group| self.notice_group(group));
        let is_new = self.notice(piece.key);
        // A page that polls asks for what it lacks again and again; nobody guesses the same name twice.
        if !self.is_counted && (is_new || piece.kind != Kind::Failure) {
            (self.is_counted, self.moments) = (true, self.moments + 1.0);
        }
        let is_counted_on = piece.counted.is_some_and(|number| self.notice(number)) && !is_new;
        let kind = piece.kind as usize;
        if is_counted_on {
            self.raise(piece);
            self.amounts[kind] += COUNTED_ON;
            self.fresh[kind] += COUNTED_ON;
            self.charge(&Piece { key: piece.counted.unwrap_or_default(), ..*piece }, COUNTED_ON);
            return;
        }
        if !is_new && piece.repeat < 1.0 {
            self.repeats[kind] += piece.points * piece.repeat;
            self.raise(piece);
            return;
        }
        let share = if is_new_group { 1.0 } else { piece.within_group };
        let points = piece.points * share;
        self.failed += piece.pages * share;
        self.amounts[kind] += points;
        self.fresh[kind] += points;
        self.charge(piece, points);
    }

    /// A target charged before that is worth more now counts at its higher worth: so the order of two requests makes no
    /// difference.
    fn raise(&mut self, piece: &Piece) {
        let known = self.charges.iter_mut().rev().find(|c| c.key == piece.key as u32 && c.kind == piece.kind);
        if let Some(charge) = known.filter(|charge| charge.points < piece.points && piece.group.is_none()) {
            self.amounts[piece.kind as usize] += piece.points - charge.points;
            self.fresh[piece.kind as usize] += piece.points - charge.points;
            charge.points = piece.points;
        }
    }

    /// Sets an amount to at least `points`: for evidence that is measured anew with each request.
    pub(crate) fn set(&mut self, kind: Kind, points: f32, second: u32) {
        self.leak(second);
        self.amounts[kind as usize] = self.amounts[kind as usize].max(points);
    }

    /// Credits served pages, which failures are weighed against.
    pub(crate) fn credit(&mut self, served: u32, second: u32) {
        self.leak(second);
        self.served += served as f32;
    }

    fn charge(&mut self, piece: &Piece, points: f32) {
        let charge = Charge {
            kind: piece.kind,
            points,
            at: self.at,
            template: piece.template,
            dir: piece.dir,
            target: piece.target,
            key: piece.key as u32,
        };
        if self.charges.len() < MAX_CHARGES {
            self.charges.push(charge);
            return;
        }
        // The least is replaced, the oldest of the least.
        let at = self.at;
        let least = self.charges.iter_mut().min_by(|a, b| a.left(at).total_cmp(&b.left(at)));
        if let Some(least) = least.filter(|least| least.left(at) <= points) {
            *least = charge;
        }
    }

    /// Notices a target or group; returns whether it is new.
    fn notice(&mut self, key: u64) -> bool {
        let set: u32 = self.seen.iter().map(|word| word.count_ones()).sum();
        if set > MAX_FILTER_BITS {
            self.seen = Default::default();
        }
        let mut is_new = false;
        for bit in [key as u32 % FILTER_BITS, (key >> 32) as u32 % FILTER_BITS] {
            let word = &mut self.seen[(bit / 64) as usize];
            is_new |= *word >> (bit % 64) & 1 == 0;
            *word |= 1 << (bit % 64);
        }
        is_new
    }

    /// Notices a group; returns whether it is new.
    fn notice_group(&mut self, group: u64) -> bool {
        let bit = 1 << ((group ^ group >> 32) % 64);
        let is_new = self.groups & bit == 0;
        self.groups |= bit;
        is_new
    }

    /// Points by kind at `second`: repeats add at most as much as what they repeat.
    pub(crate) fn points(&self, second: u32) -> Points {
        let secs = second.saturating_sub(self.at);
        let mut points = Points::default();
        for kind in Kind::ALL {
            let at = kind as usize;
            if self.amounts[at] > 0.0 {
                points[at] = (self.amounts[at] + self.repeats[at].min(self.amounts[at])) * kind.kept(secs);
            }
        }
        points
    }

    /// Points of a kind that were added in this very second, without repeats.
    pub(crate) fn fresh(&self, kind: Kind, second: u32) -> f32 {
        if second == self.at { self.fresh[kind as usize] } else { 0.0 }
    }

    /// The probes and failures that the heaviest single second added, without repeats, as far as they have not leaked.
    pub(crate) fn heaviest(&self, second: u32) -> [f32; 2] {
        let secs = second.saturating_sub(self.at);
        let kept =
            |points: [f32; 2]| [points[0] * Kind::Probe.kept(secs), points[1] * Kind::Failure.kept(secs)];
        let (earlier, latest) = (
            kept(self.heaviest),
            kept([self.fresh[Kind::Probe as usize], self.fresh[Kind::Failure as usize]]),
        );
        if latest[0] + latest[1] >= earlier[0] + earlier[1] { latest } else { earlier }
    }

    /// Seconds with evidence, the last ones mostly.
    pub(crate) fn moments(&self, second: u32) -> f32 {
        self.moments * Kind::Failure.kept(second.saturating_sub(self.at))
    }

    /// Points of a kind without repeats.
    pub(crate) fn amount(&self, kind: Kind, second: u32) -> f32 {
        self.amounts[kind as usize] * kind.kept(second.saturating_sub(self.at))
    }

    /// Failed pages, leaking like failures.
    pub(crate) fn failed(&self, second: u32) -> f32 {
        self.failed * Kind::Failure.kept(second.saturating_sub(self.at))
    }

    /// Served pages, leaking like failures.
    pub(crate) fn served(&self, second: u32) -> f32 {
        self.served * Kind::Failure.kept(second.saturating_sub(self.at))
    }

    /// The newest and weightiest charges, in no order.
    pub(crate) fn charges(&self) -> &[Charge] {
        &self.charges
    }

    /// Keeps a quarter of the points: after a verdict, evidence gathers anew, but less is needed.
    pub(crate) fn settle(&mut self) {
        self.amounts.iter_mut().chain(&mut self.repeats).for_each(|amount| *amount /= 4.0);
        self.heaviest.iter_mut().chain([&mut self.failed]).for_each(|amount| *amount /= 4.0);
        self.charges.iter_mut().for_each(|charge| charge.points /= 4.0);
    }

    fn total_at(&self, second: u32) -> f32 {
        self.points(second).iter().sum()
    }

    fn heap_bytes(&self) -> usize {
        self.charges.capacity() * size_of::<Charge>()
    }
}

/// An account with less than this many points is closed by the sweep.
const CLOSED_BELOW: f32 = 0.05;

impl Keyed for Account {
    fn key(&self) -> u128 {
        self.key
    }
}

/// The accounts of all clients with evidence. At the bound the lowest of a sample is evicted.
pub(crate) struct Accounts(SampledTable<Account>);

impl Accounts {
    pub(crate) fn new(max: usize, hash: Seeded) -> Accounts {
        Accounts(SampledTable::new(max, hash))
    }

    pub(crate) fn get(&self, key: u128) -> Option<&Account> {
        self.0.get(key)
    }

    pub(crate) fn get_mut(&mut self, key: u128) -> Option<&mut Account> {
        self.0.get_mut(key)
    }

    /// The account of a client, opened if there is none.
    pub(crate) fn open(&mut self, key: u128, second: u32) -> &mut Account {
        let order = |a: &Account, b: &Account| a.total_at(second).total_cmp(&b.total_at(second));
        self.0.get_or_insert(key, || Account::new(key, second), order)
    }

    pub(crate) fn close(&mut self, key: u128) {
        self.0.remove(key);
    }

    /// Closes accounts that have leaked empty.
    pub(crate) fn sweep(&mut self, second: u32) {
        self.0.retain(|account| account.total_at(second) >= CLOSED_BELOW);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.entries().is_empty()
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.0.evicted()
    }

    /// Approximate memory in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes() + self.0.entries().iter().map(Account::heap_bytes).sum::<usize>()
    }
}
