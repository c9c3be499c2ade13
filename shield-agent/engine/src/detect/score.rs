//! The score: what each request is worth as evidence, given what is normal on this site, and the bar that the sum must reach,
//! given what the client has earned. Rates have rules of their own (`rules.rs`).
//!
//! ```text
//!  a telling request ─▶ pieces of evidence ─▶ account (evidence.rs), leaks
//!                             ▲ habits of the site (habits.rs)
//!  score = the kinds' points together, less what is the server's fault
//!  bar   = threshold x (a visitor with a page and its files | standing over days)      standing.rs
//! ```

use std::collections::BTreeSet;

use crate::detect::evidence::{Account, Accounts, Charge, Kind, Piece, Points};
use crate::detect::habits::{Habits, network_of};
use crate::detect::hash::Seeded;
use crate::detect::policy::Policy;
use crate::detect::shape;
use crate::detect::stable_hash;
use crate::detect::standing::{Merit, Service, Standings};
use crate::detect::template::Template;
use crate::detect::trace::{Flags, Trace};
use crate::detect::window::Counts;
use crate::vocab::report::Lessons;
use crate::vocab::verdict::Rule;

/// Points in tenths of the trace's weights, by what failed.
const SCRIPT_FACTOR: f32 = 2.4;
const PAGE_FACTOR: f32 = 1.2;
/// Of pages named like articles, which disappear by the hundred when a site is rebuilt.
const ARTICLE_FACTOR: f32 = 0.8;

/// A further failure below a directory with one that was charged: words of a list.
const WORD_IN_GROUP: f32 = 0.1;

/// Deeper than this many directories nobody guesses names: package repositories and symbol servers are asked there for what
/// others have, thousands of times. All failures below one directory are one target.
const GUESSED_DEPTH: u32 = 4;

/// A target asked for again, as a share of its points.
const PROBE_REPEAT: f32 = 0.5;

/// A hidden file on a server that is down: the target tells as much.
const HIDDEN_BROKEN: f32 = 2.0;

/// A product that answers, in a further place.
const PRODUCT_IN_GROUP: f32 = 0.2;
const FAILURE_REPEAT: f32 = 0.02;

/// A further file of a repository that is served.
const FILE_OF_REPOSITORY: f32 = 0.5;

/// One malformed request, and one that a health check or an office program may make.
const MALFORMED: f32 = 1.6;
const PERHAPS_MALFORMED_REPEAT: f32 = 0.1;

const REFUSED_LOGIN: f32 = 1.0;

/// A 401 at whatever path, to a client that this site hardly serves: one password of many, or a program that asks again and
/// again with a session that is over. The pace tells them apart: one a second never comes to the threshold, two a second do
/// within four minutes, ten within half of one.
const UNAUTHORISED: f32 = 0.05;

/// The same for what a browser or a guesser asks for (GET), from a client that was first heard of [`KNOWN_AFTER_SECS`] after watching
/// began: it has no session that could be over, and is no program that asked long before. Two a second come to the threshold in
/// half a minute, one in 75 s, one in three seconds never.
const UNAUTHORISED_NEWCOMER: f32 = 0.2;
const KNOWN_AFTER_SECS: u32 = 900;
const REMOTE_CALL: f32 = 0.2;

/// Scripts answered alike, from so many on.
pub(crate) const ALIKE_FROM: u32 = 8;
const ALIKE: f32 = 1.2;
const ALIKE_REDIRECTED: f32 = 0.4;

/// A page and all that it embeds are one moment, and any page of another site can embed a few probes of this one: what a
/// single second adds counts at most for the first share of the threshold until it comes to the second share; probes and
/// failures together at most for the first share of probes, until [`FOLLOWS`] was added in other seconds.
const PROBES_OF_A_SECOND: [f32; 2] = [0.9, 1.6];
const FAILURES_OF_A_SECOND: [f32; 2] = [0.5, 2.5];

/// Or the same again, in so many seconds within some minutes.
const MOMENTS: f32 = 2.5;

/// What has to follow in another second, in points: a probe or a script, but no missing icon and no single dead link.
const FOLLOWS: f32 = 2.0;

/// A visitor with a page and its files needs this many times the evidence.
const VISITOR_MULTIPLE: f32 = 2.0;
const VISITOR_ASSETS: u32 = 2;

/// A probe answered with the site's answer to everything is refused; a script or page answered so was looked for in vain.
const PROBE_REFUSED: f32 = 3.0;
const SCRIPT_IN_VAIN: f32 = 2.4;
const PAGE_IN_VAIN: f32 = 1.2;

/// Whoever has more points than this does not teach.
const TEACHES_BELOW: f32 = 6.0;

/// One request with its client's recent counts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) key: u128,
    pub(crate) second: u32,
    pub(crate) path: &'a [u8],
    /// What a target that is told by its query counts by; 0 for others.
    pub(crate) query_key: u64,
    pub(crate) trace: &'a Trace,
    /// Whether it is one try of many, see `tries.rs`.
    pub(crate) is_try: bool,
    pub(crate) shape: shape::Shape,
    pub(crate) status: u16,
    pub(crate) size: u64,
    pub(crate) method: &'a [u8],
    /// The first second that was judged.
    pub(crate) watched_from: u32,
}

/// A client's recent counts, as far as the score needs them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Lately {
    /// The window without the present second.
    pub(crate) before: Counts,
    /// Distinct pages served before the present second, and never refused; no redirects.
    pub(crate) served_pages: u32,
    /// Distinct scripts that got the same answer: the same page, and the same redirect.
    pub(crate) alike: u32,
    pub(crate) alike_redirected: u32,
}

/// The score of one client.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Score {
    /// By kind, as they count now.
    pub(crate) points: Points,
    pub(crate) total: f32,
    pub(crate) bar: f32,
    /// Points that are not charged because the site fails for others too.
    pub(crate) excused: f32,
}

impl Default for Score {
    fn default() -> Score {
        Score { points: Points::default(), total: 0.0, bar: f32::INFINITY, excused: 0.0 }
    }
}

impl Score {
    /// The rule of the kind that weighs most.
    pub(crate) fn rule(&self) -> Rule {
        let heavier = |a: &Kind, b: &Kind| {
            self.points[*a as usize]
                .total_cmp(&self.points[*b as usize])
                .then((*b as usize).cmp(&(*a as usize)))
        };
        Kind::ALL.into_iter().max_by(heavier).unwrap_or(Kind::Probe).rule()
    }

    /// Without the evidence that is attributed to these rules.
    pub(crate) fn without(mut self, rules: &[Rule]) -> Score {
        if rules.is_empty() {
            return self;
        }
        for kind in Kind::ALL.into_iter().filter(|kind| rules.contains(&kind.rule())) {
            self.points[kind as usize] = 0.0;
        }
        self.total = self.points.iter().sum();
        self
    }

    pub(crate) fn is_reached(&self) -> bool {
        self.total >= self.bar
    }
}

/// Accounts without points are taken out this often.
const SWEPT_EACH_SECS: u32 = 600;

/// Clients that others suspect at most.
const MAX_SUSPECTED: usize = 65_536;
/// Half the evidence is enough for a ban of a client that others suspect.
const SUSPECTED_MULTIPLE: f32 = 0.5;

/// Everything that evidence is weighed with.
pub(crate) struct Scores {
    accounts: Accounts,
    /// Clients that others ban, but not enough of them for a ban here.
    suspected: BTreeSet<u128>,
    habits: Habits,
    standings: Standings,
}

impl Scores {
    pub(crate) fn new(policy: &Policy, hash: Seeded) -> Scores {
        let most = |share: usize, least: usize, most: usize| (policy.max_clients / share).clamp(least, most);
        Scores {
            accounts: Accounts::new(most(16, 1024, 65_536), hash),
            suspected: BTreeSet::new(),
            habits: Habits::default(),
            standings: Standings::new(most(8, 1024, 131_072), hash),
        }
    }

    /// Whether a request can be evidence.
    #[inline]
    pub(crate) fn is_telling(trace: &Trace) -> bool {
        const TELLING: Flags =
            Flags::LOGIN.or(Flags::REMOTE_CALL).or(Flags::FOREIGN).or(Flags::PERHAPS_FOREIGN);
        trace.weight > 0 || trace.flags.has(TELLING)
    }

    /// Adds what a telling request is worth to its client's account.
    pub(crate) fn charge(&mut self, asked: &Asked<'_>, lately: &Lately) {
        self.habits.settle(asked.second);
        let network = network_of(asked.key);
        let is_catch_all = self.habits.is_catch_all(asked.status, asked.size);
        if asked.trace.flags.has(Flags::SHAPED)
            && asked.shape.kind == shape::Kind::Probe
            && asked.status == 200
        {
            self.habits.answered(asked.status, asked.size, name_of(asked), asked.second);
        }
        if let Some(guess) = self.guess(asked, lately, network) {
            self.accounts.open(asked.key, asked.second).add(&guess, asked.second);
        }
        for mut piece in pieces(asked).into_iter().flatten() {
            let is_refused_run =
                piece.kind == Kind::Try && asked.status >= 400 && !asked.trace.flags.has(Flags::POST);
            if is_refused_run {
                piece.points *= in_vain_share(lately.before);
            }
            if is_catch_all && piece.kind == Kind::Probe {
                piece.points = PROBE_REFUSED;
            }
            if piece.template != 0 {
                self.teach(&piece, asked, lately, network);
                let factor = self.factor(piece.kind, piece.template, piece.dir, network, asked.second);
                if factor < 0.3 {
                    piece.points *= factor;
                    // Nor are its numbers a list: others are refused them too.
                    piece.counted = None;
                }
            }
            self.accounts.open(asked.key, asked.second).add(&piece, asked.second);
        }
    }

    /// A 401 that may be a password that was tried: not where others are refused too, and not to who was ever served well.
    fn guess(&self, asked: &Asked<'_>, lately: &Lately, network: u32) -> Option<Piece> {
        const JUDGED: Flags = Flags::LOGIN.or(Flags::REMOTE_CALL).or(Flags::FOREIGN);
        if asked.status != 401 || asked.is_try || asked.trace.flags.has(JUDGED) {
            return None;
        }
        let template = fold(Template::of(asked.path).hash);
        let is_known = 4 * lately.before.served() > lately.before.requests
            || self.standings.of(asked.key, asked.second).is_any()
            || self.habits.is_broken(template, asked.second)
            || self.habits.refused_at(template, network, asked.second) > 0;
        let first = self.accounts.get(asked.key).map_or(asked.second, Account::opened);
        // A script of a page that was open overnight asks its interface every second; it asks for no folder.
        let is_folder = asked.path.ends_with(b"/") && memchr::memmem::find(asked.path, b"/api").is_none();
        let is_newcomer = is_folder
            && matches!(asked.method, b"GET" | b"HEAD")
            && first >= asked.watched_from + KNOWN_AFTER_SECS;
        (!is_known).then(|| Piece {
            kind: Kind::Unauthorised,
            points: if is_newcomer { UNAUTHORISED_NEWCOMER } else { UNAUTHORISED },
            repeat: 1.0,
            key: stable_hash::of_text(asked.path) ^ 4,
            group: None,
            within_group: 1.0,
            pages: 0.0,
            template,
            dir: 0,
            target: asked.trace.key,
            counted: None,
        })
    }

    /// Whether a served request got the site's answer to everything: it is as good as refused.
    #[inline]
    pub(crate) fn is_in_vain(&self, trace: &Trace, status: u16, size: u64) -> bool {
        self.habits.knows_catch_alls()
            && !trace.flags.has(Flags::ASSET)
            && self.habits.is_catch_all(status, size)
    }

    /// Charges a served request that got the site's answer to everything.
    pub(crate) fn charge_in_vain(&mut self, asked: &Asked<'_>, lately: &Lately) {
        let is_script = asked.shape.kind != shape::Kind::Page;
        if !is_script && is_visitor(lately) {
            self.habits.normal(asked.status, asked.size, network_of(asked.key), asked.second);
        }
        if !is_script && self.habits.is_normal(asked.status, asked.size) {
            return;
        }
        let piece = Piece {
            kind: Kind::Alike,
            points: if is_script { SCRIPT_IN_VAIN } else { PAGE_IN_VAIN },
            repeat: FAILURE_REPEAT,
            key: stable_hash::of_text(asked.path),
            group: None,
            within_group: 1.0,
            pages: 0.0,
            template: 0,
            dir: 0,
            target: asked.trace.key,
            counted: None,
        };
        self.accounts.open(asked.key, asked.second).add(&piece, asked.second);
    }

    /// Measures scripts answered alike anew.
    pub(crate) fn charge_alike(&mut self, key: u128, lately: &Lately, second: u32) {
        let is_most = |count: u32| count >= ALIKE_FROM && 2 * count >= lately.before.pages();
        let worth = |count: u32, each: f32| if is_most(count) { count as f32 * each } else { 0.0 };
        let points = worth(lately.alike, ALIKE).max(worth(lately.alike_redirected, ALIKE_REDIRECTED));
        if points > 0.0 {
            self.accounts.open(key, second).set(Kind::Alike, points, second);
        }
    }

    fn teach(&mut self, piece: &Piece, asked: &Asked<'_>, lately: &Lately, network: u32) {
        let merit = self.standings.of(asked.key, asked.second);
        let is_visitor = is_visitor(lately);
        if !is_visitor && !merit.teaches() {
            return;
        }
        let account = self.accounts.get(asked.key);
        let own = |account: &Account| -> f32 {
            let of_template = account.charges().iter().filter(|charge| charge.template == piece.template);
            of_template.map(|charge| charge.left(asked.second)).sum()
        };
        let shaped = account.map_or(0.0, |account| account.points(asked.second)[Kind::Probe as usize]);
        let elsewhere =
            account.map_or(0.0, |account| account.points(asked.second).iter().sum::<f32>() - own(account));
        if merit.teaches() && elsewhere < TEACHES_BELOW {
            self.habits.refused(piece.template, piece.dir, network, asked.second);
        }
        if piece.kind == Kind::Failure && shaped < TEACHES_BELOW {
            self.habits.failing(piece.template, network, asked.second);
        }
    }

    /// The share of its points that a failure at this template keeps, given who else is refused there.
    fn factor(&self, kind: Kind, template: u32, dir: u32, network: u32, second: u32) -> f32 {
        let refused = self.habits.refused_at(template, network, second) as usize;
        match kind {
            Kind::Probe => [1.0, 1.0, 0.6, 0.2, 0.0][refused.min(4)],
            Kind::Failure if self.habits.is_broken(template, second) => 0.0,
            Kind::Failure => {
                let below = if dir == 0 { 0 } else { self.habits.refused_in(dir, network, second) as usize };
                // A directory of misses says less about one of them than its own template does.
                [1.0_f32, 0.7, 0.3, 0.1, 0.0][refused.min(4)].min([1.0, 1.0, 0.8, 0.5, 0.2][below.min(4)])
            }
            _ => 1.0,
        }
    }

    /// Whether a client's points could reach a share of the lowest bar: for nearly all clients they do not, and are not weighed.
    pub(crate) fn may_reach(&self, key: u128, share: f32, policy: &Policy, second: u32) -> bool {
        let total = |account: &Account| account.points(second).iter().sum::<f32>();
        let least = f64::from(share * self.suspicion(key)) * policy.evidence.threshold;
        self.accounts.get(key).is_some_and(|account| f64::from(total(account)) >= least)
    }

    /// What the bar of a client is multiplied by for what others say of it.
    fn suspicion(&self, key: u128) -> f32 {
        let is_suspected = !self.suspected.is_empty() && self.suspected.contains(&key);
        if is_suspected { SUSPECTED_MULTIPLE } else { 1.0 }
    }

    /// Marks a client that others ban, or marks it no more.
    pub(crate) fn suspect(&mut self, key: u128, is_suspected: bool) {
        if !is_suspected {
            self.suspected.remove(&key);
        } else if self.suspected.len() < MAX_SUSPECTED {
            self.suspected.insert(key);
        }
    }

    /// Whether others ban the client, but not enough of them for a ban here.
    pub(crate) fn is_suspected(&self, key: u128) -> bool {
        self.suspected.contains(&key)
    }

    /// Whether a client was served well since `second`.
    pub(crate) fn served_since(&self, key: u128, second: u32) -> bool {
        self.standings.served_since(key, second)
    }

    /// The score of a client at `second`.
    pub(crate) fn of(&self, key: u128, lately: &Lately, policy: &Policy, second: u32) -> Score {
        let Some(account) = self.accounts.get(key) else { return Score::default() };
        let merit = self.standings.of(key, second);
        let threshold = policy.evidence.threshold as f32;
        let mut points = account.points(second);
        let excused = self.excuse(account, &mut points, network_of(key), second);
        for (kind, [least, most]) in
            [(Kind::Probe, PROBES_OF_A_SECOND), (Kind::Failure, FAILURES_OF_A_SECOND)]
        {
            let fresh = account.fresh(kind, second);
            if fresh < most * threshold {
                let over = (fresh - least * threshold).max(0.0);
                points[kind as usize] = (points[kind as usize] - over).max(0.0);
            }
        }
        let failures = &mut points[Kind::Failure as usize];
        // What was excused did not fail.
        let charged = account.amount(Kind::Failure, second);
        let failed = account.failed(second) * (*failures / charged.max(0.001)).clamp(0.0, 1.0);
        *failures = failures.max(0.0) * failing_share(failed, account.served(second), lately);
        // Last of the two, or failures that do not count would use up what one moment may add.
        cap_moment(account, &mut points, threshold, second);
        points[Kind::Malformed as usize] *= malformed_share(points[Kind::Malformed as usize], lately.before);
        for kind in Kind::ALL {
            if !policy.counts(kind.rule()) {
                points[kind as usize] = 0.0;
            }
        }
        let total = points.iter().sum();
        Score { points, total, bar: threshold * multiple(merit, lately) * self.suspicion(key), excused }
    }

    /// Takes back what was charged for templates that fail for others too, and returns how much.
    fn excuse(&self, account: &Account, points: &mut Points, network: u32, second: u32) -> f32 {
        let mut excused = 0.0;
        for charge in account.charges().iter().filter(|charge| charge.template != 0) {
            let share = 1.0 - self.factor(charge.kind, charge.template, charge.dir, network, second);
            if share > 0.0 {
                let taken = (charge.left(second) * share).min(points[charge.kind as usize]);
                points[charge.kind as usize] -= taken;
                excused += taken;
            }
        }
        excused
    }

    /// The weightiest charges of a client's account, as they stand at `second`.
    pub(crate) fn charges(&self, key: u128, second: u32, n: usize) -> Vec<Charge> {
        let mut all = self.accounts.get(key).map_or(Vec::new(), |account| account.charges().to_vec());
        all.sort_by(|a, b| {
            b.left(second).total_cmp(&a.left(second)).then(b.at.cmp(&a.at)).then(a.template.cmp(&b.template))
        });
        all.truncate(n);
        all
    }

    /// Whether a ban of this client would cut off a part of the site's visitors.
    pub(crate) fn carries_the_site(&self, key: u128) -> bool {
        self.standings.carries_the_site(key)
    }

    /// A verdict against a client: it has earned and taught nothing.
    pub(crate) fn convict(&mut self, key: u128) {
        self.standings.forfeit(key);
        self.habits.forget(network_of(key));
        if let Some(account) = self.accounts.get_mut(key) {
            account.settle();
        }
    }

    pub(crate) fn forget(&mut self, key: u128) {
        self.accounts.close(key);
    }

    /// Credits a client's minute before `second`.
    /// `distinct` pages of it weigh against failures.
    pub(crate) fn credit(
        &mut self,
        key: u128,
        service: Service,
        distinct: impl FnOnce() -> u32,
        second: u32,
    ) {
        self.standings.credit(key, service, second);
        if !self.accounts.is_empty()
            && service.pages > 0
            && let Some(account) = self.accounts.get_mut(key)
        {
            account.credit(distinct(), second);
        }
    }

    /// Learns that so many visitors were served a page and its files in a minute.
    pub(crate) fn learn_visitors(&mut self, visitors: u32) {
        self.habits.end_of_minute(visitors);
    }

    /// Ends a minute.
    pub(crate) fn end_of_minute(&mut self, second: u32) {
        self.habits.settle(second);
        if second % SWEPT_EACH_SECS < 60 {
            self.accounts.sweep(second);
        }
    }

    /// Leaves out the minutes without a request that end from `first` to `last`, both full ones: as if each had ended, so that a
    /// log that is read later is judged as it would have been live.
    pub(crate) fn skip_minutes(&mut self, first: u32, last: u32) {
        let swept = last - last % SWEPT_EACH_SECS;
        if swept >= first {
            self.accounts.sweep(swept);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.accounts.bytes() + self.standings.bytes()
    }

    pub(crate) fn evicted(&self) -> u64 {
        self.accounts.evicted()
    }

    pub(crate) fn save(&self) -> SavedSite {
        SavedSite { habits: self.habits.save(), standings: self.standings.save() }
    }

    pub(crate) fn lessons(&self) -> Lessons {
        let clients = self.standings.save().len() as u64;
        Lessons { refused_kinds: self.habits.save().len() as u64, clients_in_standing: clients }
    }

    pub(crate) fn restore(&mut self, saved: &SavedSite) {
        self.habits.restore(&saved.habits);
        self.standings.restore(&saved.standings);
    }
}

/// What the site taught, for a later run.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub(crate) struct SavedSite {
    habits: crate::detect::habits::SavedHabits,
    standings: crate::detect::standing::SavedStandings,
}

/// A page with its files was served lately: a person with a browser, most likely.
fn is_visitor(lately: &Lately) -> bool {
    let before = lately.before;
    before.served_pages() > 0 && before.assets >= VISITOR_ASSETS && 3 * before.assets >= before.pages()
}

fn multiple(merit: Merit, lately: &Lately) -> f32 {
    let visitor = if is_visitor(lately) { VISITOR_MULTIPLE } else { 1.0 };
    let before = lately.before;
    // Standing does not cover a client that does little but fail.
    let is_mostly_bad =
        before.requests >= 20 && 2 * (before.failed + before.foreign_tenths / 10) > before.requests;
    let earned = if is_mostly_bad { merit.multiple().min(VISITOR_MULTIPLE) } else { merit.multiple() };
    earned.max(visitor)
}

/// Caps what one moment added, while hardly anything else is known: what a foreign page embeds comes again whenever that page
/// is looked at, but nothing else does.
fn cap_moment(account: &Account, points: &mut Points, threshold: f32, second: u32) {
    let (probe, failure) = (Kind::Probe as usize, Kind::Failure as usize);
    let [probes, failures] = account.heaviest(second);
    if probes >= PROBES_OF_A_SECOND[1] * threshold || failures >= FAILURES_OF_A_SECOND[1] * threshold {
        return;
    }
    let sum = account.amount(Kind::Probe, second) + account.amount(Kind::Failure, second);
    let others = (sum - probes - failures).max(0.0);
    if others >= FOLLOWS || account.moments(second) >= MOMENTS {
        return;
    }
    let over = (points[probe] + points[failure] - PROBES_OF_A_SECOND[0] * threshold - others).max(0.0);
    let from_probes = over.min(points[probe]);
    points[probe] -= from_probes;
    points[failure] = (points[failure] - (over - from_probes)).max(0.0);
}

/// Failures count only for clients that mostly fail: a crawler follows dead links too.
fn failing_share(failed: f32, credited: f32, lately: &Lately) -> f32 {
    // Accepted writes and WebDAV are no pages, but only whoever belongs here gets them.
    let accepted = lately.before.parts as f32 / 2.0;
    let served = credited.max(lately.served_pages as f32) + accepted;
    let share = failed / (failed + served).max(1.0);
    ((share - 0.5) / 0.25).clamp(0.0, 1.0)
}

/// Numbers count as a run only for a client that is mostly not served: a page of items, some of which lack their picture, is none.
fn in_vain_share(before: Counts) -> f32 {
    let (pages, served) = (before.pages() as f32, before.served_pages() as f32);
    let share = (pages - served) / pages.max(1.0);
    if pages < 8.0 { 1.0 } else { ((share - 0.5) / 0.25).clamp(0.0, 1.0) }
}

fn malformed_share(points: f32, before: Counts) -> f32 {
    let malformed = points / MALFORMED;
    let served = before.served() as f32;
    let share = malformed / (malformed + served).max(1.0);
    ((share - 0.4) / 0.2).clamp(0.0, 1.0)
}

/// The pieces of evidence in one request.
fn pieces(asked: &Asked<'_>) -> [Option<Piece>; 2] {
    let trace = asked.trace;
    let flags = trace.flags;
    let piece = |kind, points, repeat, key| Piece {
        kind,
        points,
        repeat,
        key,
        group: None,
        within_group: 1.0,
        pages: if kind == Kind::Failure { points / PAGE_FACTOR } else { 0.0 },
        template: 0,
        dir: 0,
        target: trace.key,
        counted: None,
    };
    let by_path = || stable_hash::of_text(asked.path);
    if flags.has(Flags::FOREIGN) {
        return [Some(piece(Kind::Malformed, MALFORMED, 1.0, by_path())), None];
    }
    if asked.is_try {
        // Its key changes with each try that counts.
        let key = u64::from(trace.key) << 32 | u64::from(trace.key.rotate_left(16));
        return [Some(piece(Kind::Try, f32::from(trace.weight) / 10.0, FAILURE_REPEAT, key)), None];
    }
    let login = flags.has(Flags::LOGIN).then(|| piece(Kind::Login, REFUSED_LOGIN, 1.0, 1));
    let call = flags.has(Flags::REMOTE_CALL).then(|| piece(Kind::RemoteCall, REMOTE_CALL, 1.0, 2));
    let perhaps = flags
        .has(Flags::PERHAPS_FOREIGN)
        .then(|| piece(Kind::Malformed, 0.3 * MALFORMED, PERHAPS_MALFORMED_REPEAT, by_path()));
    let by_target =
        (trace.weight > 0 && login.is_none() && call.is_none()).then(|| target_piece(asked, piece));
    [login.or(call).or(perhaps), by_target]
}

fn target_piece(asked: &Asked<'_>, piece: impl Fn(Kind, f32, f32, u64) -> Piece) -> Piece {
    let trace = asked.trace;
    let tenths = f32::from(trace.weight) / 10.0;
    let template = Template::of(asked.path);
    let dir = if template.depth >= 2 { fold(template.dir) } else { 0 };
    if trace.flags.has(Flags::SHAPED) {
        let told_by = asked.path.get(..asked.shape.told_by).unwrap_or(asked.path);
        let is_told_by_query = asked.query_key != 0;
        let is_answered =
            asked.shape.kind == shape::Kind::Probe && !is_refused(asked.status) && !is_told_by_query;
        let key = match () {
            () if is_told_by_query => asked.query_key,
            () if is_answered => Template::of(told_by).hash,
            () => template.hash,
        };
        let counted =
            (template.is_counted && key == template.hash).then(|| stable_hash::of_text(asked.path) ^ 3);
        let probe = piece(Kind::Probe, tenths, PROBE_REPEAT, key);
        let probe = Piece { template: fold(template.hash), dir, counted, ..probe };
        if !is_answered {
            return probe;
        }
        if is_of_repository(asked) && asked.status < 500 {
            // Each file that is served is a part of the source that is stolen.
            let key = stable_hash::of_text(asked.path);
            return Piece {
                key,
                group: Some(name_of(asked).into()),
                within_group: FILE_OF_REPOSITORY,
                ..probe
            };
        }
        if is_hidden(asked) {
            return Piece { points: if asked.status >= 500 { HIDDEN_BROKEN } else { tenths }, ..probe };
        }
        if !is_directory(asked) {
            return probe;
        }
        // The owner's own product, perhaps, which a monitor or a person asks for in several places.
        return Piece { group: Some(name_of(asked).into()), within_group: PRODUCT_IN_GROUP, ..probe };
    }
    if matches!(asked.shape.kind, shape::Kind::Script | shape::Kind::Dubious) {
        let script =
            piece(Kind::Failure, tenths * SCRIPT_FACTOR, FAILURE_REPEAT, stable_hash::of_text(asked.path));
        // It tells twice as much, and is one page.
        return Piece { template: fold(template.hash), dir, pages: tenths, ..script };
    }
    if asked.shape.kind == shape::Kind::Asset || trace.flags.has(Flags::MISSED) {
        // Pages with broken pictures are common: once a directory.
        let key = if template.depth >= 2 { template.dir } else { template.hash };
        let asset = piece(Kind::Failure, tenths * PAGE_FACTOR, FAILURE_REPEAT, key);
        return Piece { template: fold(template.hash), dir, ..asset };
    }
    let group = first_directory(asked.path).map(|directory| stable_hash::of_text(directory) ^ 1);
    if template.depth > GUESSED_DEPTH {
        let first =
            asked.path.get(1..).unwrap_or_default().split(|byte| *byte == b'/').next().unwrap_or_default();
        let deep =
            piece(Kind::Failure, tenths * PAGE_FACTOR, FAILURE_REPEAT, stable_hash::of_text(first) ^ 2);
        return Piece { template: fold(template.hash), dir, ..deep };
    }
    // A cache misses thousands of its items: they add no more than the first one did.
    let factor = if shape::is_article(asked.path) { ARTICLE_FACTOR } else { PAGE_FACTOR };
    let page = piece(Kind::Failure, tenths * factor, FAILURE_REPEAT, template.hash);
    Piece { group, within_group: WORD_IN_GROUP, template: fold(template.hash), dir, ..page }
}

/// The first directory of a path with one byte more: `/a/b` of `/a/bcd`; `None` at the root.
fn first_directory(path: &[u8]) -> Option<&[u8]> {
    let inner = path.get(1..)?;
    match memchr::memchr(b'/', inner) {
        Some(end) if end + 1 < inner.len() => path.get(..end + 3),
        _ => None,
    }
}

fn fold(hash: u64) -> u32 {
    ((hash ^ hash >> 32) as u32).max(1)
}

fn is_refused(status: u16) -> bool {
    (300..500).contains(&status) && status != 304
}

/// A hidden file or a traversal, which no product has for its clients.
fn is_hidden(asked: &Asked<'_>) -> bool {
    let told_by = asked.path.get(..asked.shape.told_by).unwrap_or(asked.path);
    let name = memchr::memrchr(b'/', told_by).map_or(told_by, |at| &told_by[at + 1..]);
    name.first() == Some(&b'.') || memchr::memchr(b'%', name).is_some()
}

/// Whether the target lies in the repository that the site itself was checked out from.
fn is_of_repository(asked: &Asked<'_>) -> bool {
    [&b"/.git/"[..], b"/.svn/", b"/.hg/", b"/.bzr/"].iter().any(|start| asked.path.starts_with(start))
}

/// Whether the target lies below what tells it: below a product's directory.
fn is_directory(asked: &Asked<'_>) -> bool {
    asked.shape.told_by < asked.path.len()
}

/// The name that tells a probe: a product's, whatever directory it is looked for in; a file's with its directories.
fn name_of(asked: &Asked<'_>) -> u32 {
    let told_by = asked.path.get(..asked.shape.told_by).unwrap_or(asked.path);
    if !is_directory(asked) {
        return fold(Template::of(told_by).hash);
    }
    let name = memchr::memrchr(b'/', told_by).map_or(told_by, |at| &told_by[at..]);
    fold(Template::of(name).hash)
}
