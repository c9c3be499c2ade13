//! The rules: facts about one client's window, compared with the policy and the baseline. Pure arithmetic.
//!
//! A rule fires when all checks of one of its clauses hold. What speaks for a client (served pages) counts up to the
//! second before, what speaks against it up to now: so a further line of the same second can make a rule fire but never
//! keep it from firing, and the order of a second's lines makes no difference.

use crate::detect::activity::{Activity, Spread};
use crate::detect::baseline::{Baseline, Feature, Level};
use crate::detect::path_interner::PathInterner;
use crate::detect::policy::{Policy, Reference, Switch};
use crate::detect::score::Score;
use crate::detect::template::Template;
use crate::detect::window::{Counts, WINDOW_SECS};
use crate::vocab::verdict::{Measure, Rule};

/// The rules in the order of evaluation: those that need no baseline first.
pub(crate) const ORDER: [Rule; 6] =
    [Rule::Flood, Rule::Probing, Rule::ErrorSurge, Rule::ZScore, Rule::RateMultiplier, Rule::Behaviour];

/// At least this many targets or requests for each kind of path.
const ITEMS_OF_A_KIND: u32 = 8;

/// So many failures are no sign that nothing is served.
const FEW: u32 = 4;

/// What is served to a dashboard or a camera may come this many times as fast, in a minute and in a burst.
const SERVED_RATE: f64 = 2.0;
const SERVED_BURST: u32 = 3;

/// One in this many requests of a surge must have come before the present second: the requests of one page, all of one
/// second, are no surge.
const SPREAD_OVER_SECONDS: u32 = 4;

/// A client that asks for so many pages to one asset loads no pages as a browser does. One asset in fifteen requests is
/// what it costs to look a little like one.
pub(crate) const PAGES_PER_ASSET: u32 = 4;

/// A client that posts so many passwords to anything else it was served does little but log in.
const LOGINS_TO_THE_REST: u32 = 3;

/// At least one in so many of the POSTs that are judged must have been refused.
const UNWANTED_SHARE: u32 = 2;

/// The state of the warm-up, which decides whether the baseline is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Warmth {
    /// Every clause is evaluated.
    Warm,
    /// Only clauses that need no baseline are.
    WarmingUp,
}

/// The values of one client at one second that the rules compare.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Facts {
    /// The window, this second included.
    pub now: Counts,
    /// The window without this second.
    pub before: Counts,
    /// The values derived from its targets.
    pub spread: Spread,
    /// Pages within the flood rule's `sustained_secs`, and a share of what looks harmless.
    pub flood_pages: f64,
    /// Pages within the flood rule's `page_secs`.
    pub burst_pages: u32,
    /// Pages within this second.
    pub second_pages: u32,
    /// Failed logins within the behaviour rule's `login_burst_secs`.
    pub login_burst: u32,
    /// All evidence together.
    pub score: Score,
    /// The kinds of its targets; none when nobody asked.
    pub kinds: Kinds,
    /// So many clients poll at the rate of a dashboard that it is none: a botnet asks for what is served, too.
    pub is_crowded: bool,
}

/// How many kinds of paths a client asked for within the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Kinds {
    /// Distinct targets.
    targets: u32,
    /// Those whose texts are still known: on a busy server the paths of others take their place.
    known: u32,
    /// Templates among the known ones.
    templates: u32,
}

impl Kinds {
    pub(crate) fn of(activity: &Activity, texts: &PathInterner, second: u32) -> Kinds {
        let (mut targets, mut templates) = (0, Vec::new());
        for key in activity.recent_keys(second) {
            targets += 1;
            texts.with(key, |path| templates.push(Template::of(path).hash));
        }
        let known = templates.len() as u32;
        templates.sort_unstable();
        templates.dedup();
        Kinds { targets, known, templates: templates.len() as u32 }
    }
}

impl Facts {
    /// Gathers the facts of an activity with this spread.
    pub(crate) fn of(activity: &Activity, spread: Spread, policy: &Policy, second: u32) -> Facts {
        let window = &activity.window;
        let now = window.sum_of_last(WINDOW_SECS, second);
        Facts {
            now,
            before: window.before(second),
            spread,
            flood_pages: f64::from(window.sum_of_last(policy.flood.sustained_secs, second).flood_eighths())
                / 8.0,
            burst_pages: window.sum_of_last(policy.flood.page_secs, second).pages(),
            second_pages: window.at(second).pages(),
            login_burst: window.sum_of_last(policy.behaviour.login_burst_secs, second).logins,
            score: Score::default(),
            kinds: Kinds::default(),
            is_crowded: false,
        }
    }

    /// Nearly everything was served: the rates of dashboards and cameras, whose few addresses are asked for every second.
    fn is_served(&self) -> bool {
        let misses = if self.is_of_one_kind() { 0 } else { self.now.failed };
        !self.is_crowded && misses + self.now.broken <= (self.before.pages() / 10).max(FEW)
    }

    /// Nearly nothing was served, not even an asset or an accepted write, whosever fault that is.
    fn is_unserved(&self) -> bool {
        self.now.failed + self.now.broken >= 9 * self.before.served()
    }

    /// Asks for one page at the rate of a flood.
    pub(crate) fn is_burst(&self, policy: &Policy) -> bool {
        let limit = policy.flood.page_requests;
        self.burst_pages >= limit && self.spread.repeats >= limit
    }

    /// Many targets of few kinds: the objects of a cache or the points of a chart, no list of words.
    fn is_of_one_kind(&self) -> bool {
        self.kinds.templates > 0 && ITEMS_OF_A_KIND * self.kinds.templates <= self.kinds.known
    }

    fn is_polling(&self) -> bool {
        self.is_served()
            && (self.is_of_one_kind() || ITEMS_OF_A_KIND * self.kinds.targets <= self.now.pages())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bound {
    AtLeast,
    Above,
}

/// A value and its threshold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Check {
    name: &'static str,
    value: f64,
    bound: Bound,
    threshold: f64,
}

impl Check {
    fn holds(&self) -> bool {
        match self.bound {
            Bound::AtLeast => self.value >= self.threshold,
            Bound::Above => self.value > self.threshold,
        }
    }

    /// Formats it as `z-score=5.43 > threshold=2`.
    pub(crate) fn describe(&self) -> String {
        let sign = match self.bound {
            Bound::AtLeast => ">=",
            Bound::Above => ">",
        };
        format!("{}={} {sign} threshold={}", self.name, short(self.value), short(self.threshold))
    }

    /// Converts it for evidence.
    pub(crate) fn measure(&self) -> Measure {
        Measure { name: self.name.to_owned(), value: rounded(self.value), threshold: rounded(self.threshold) }
    }

    /// The value divided by the threshold; infinite for a threshold of 0 that holds.
    fn share(&self) -> f64 {
        let share = self.value / self.threshold;
        match self.bound {
            _ if self.threshold <= 0.0 && self.holds() => f64::INFINITY,
            // A value equal to its threshold is not above it.
            Bound::Above if !self.holds() => share.min(1.0 - f64::EPSILON),
            _ => share,
        }
    }

    /// The threshold.
    pub(crate) fn threshold(&self) -> f64 {
        self.threshold
    }
}

pub(crate) fn at_least(name: &'static str, value: impl Into<f64>, threshold: impl Into<f64>) -> Check {
    Check { name, value: value.into(), bound: Bound::AtLeast, threshold: threshold.into() }
}

fn above(name: &'static str, value: f64, threshold: f64) -> Check {
    Check { name, value, bound: Bound::Above, threshold }
}

/// Rounds to thousandths: readable, and the same on every machine.
fn rounded(value: f64) -> f64 {
    if value.is_finite() { (value * 1000.0).round() / 1000.0 } else { 0.0 }
}

fn short(value: f64) -> String {
    let hundredths = (value * 100.0).round() / 100.0;
    format!("{hundredths}")
}

/// A rule that fired, with the checks of its first clause that held.
#[derive(Debug, Clone)]
pub(crate) struct Fired {
    /// The rule.
    pub rule: Rule,
    /// All of them hold.
    pub checks: Vec<Check>,
    /// Only together with what is observed: without it no rule fires.
    pub is_observed: bool,
}

/// A client's distance from a clause.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Near {
    /// The rule.
    pub rule: Rule,
    /// The clause's index in its rule.
    pub clause: u32,
    /// The name of the clause's first check.
    pub name: &'static str,
    /// The lowest share of a threshold among its checks; the clause fires from 1 on.
    pub share: f64,
}

/// A rule's evaluation, whether it fires or not.
pub(crate) struct Evaluation {
    /// Whether one of its clauses holds and the rule is on.
    pub fires: bool,
    /// The checks of all its clauses.
    pub checks: Vec<Check>,
}

/// Evaluates the rules for one client at one second.
pub(crate) struct Judge<'a> {
    pub policy: &'a Policy,
    pub baseline: &'a Baseline,
    pub warmth: Warmth,
    /// The client's id among the precedents.
    pub client: u64,
    pub second: u32,
}

impl Judge<'_> {
    /// Returns the first rule that fires. Those that only observe come last, and their evidence adds nothing to the others':
    /// nobody hides behind a rule that fires and does nothing.
    pub(crate) fn judge(&self, facts: &Facts) -> Option<Fired> {
        let observed = &self.policy.observe;
        if observed.is_empty() {
            return self.first(facts, |_| true);
        }
        let binding = Facts { score: facts.score.without(observed), ..*facts };
        self.first(&binding, |rule| !observed.contains(&rule))
            .or_else(|| self.first(facts, |_| true).map(|fired| Fired { is_observed: true, ..fired }))
    }

    fn first(&self, facts: &Facts, is_asked: impl Fn(Rule) -> bool) -> Option<Fired> {
        ORDER.into_iter().filter(|rule| self.is_on(*rule) && is_asked(*rule)).find_map(|rule| {
            let mut fired = None;
            self.clauses(rule, facts, &mut |checks| {
                if fired.is_none() && checks.iter().all(Check::holds) {
                    fired = Some(Fired { rule, checks: checks.to_vec(), is_observed: false });
                }
            });
            fired
        })
    }

    /// Evaluates one rule completely.
    pub(crate) fn evaluate(&self, rule: Rule, facts: &Facts) -> Evaluation {
        let mut evaluation = Evaluation { fires: false, checks: Vec::new() };
        self.clauses(rule, facts, &mut |checks| {
            evaluation.fires |= checks.iter().all(Check::holds);
            evaluation.checks.extend_from_slice(checks);
        });
        evaluation.fires &= self.is_on(rule);
        evaluation
    }

    /// Returns how close each clause of each rule that is on comes to firing.
    pub(crate) fn nearness(&self, facts: &Facts) -> Vec<Near> {
        let mut all = Vec::new();
        for rule in ORDER.into_iter().filter(|rule| self.is_on(*rule)) {
            let mut clause = 0;
            self.clauses(rule, facts, &mut |checks| {
                let weakest = checks.iter().min_by(|a, b| a.share().total_cmp(&b.share()));
                all.extend(weakest.map(|check| Near {
                    rule,
                    clause,
                    name: checks[0].name,
                    share: check.share(),
                }));
                clause += 1;
            });
        }
        all
    }

    pub(crate) fn is_on(&self, rule: Rule) -> bool {
        let switch = match rule {
            Rule::Flood => self.policy.flood.switch,
            Rule::Probing => self.policy.probing.switch,
            Rule::ErrorSurge => self.policy.error_surge.switch,
            Rule::ZScore => self.policy.z_score.switch,
            Rule::RateMultiplier => self.policy.rate_multiplier.switch,
            Rule::Behaviour => self.policy.behaviour.switch,
            Rule::Operator
            | Rule::Imported
            | Rule::Network
            | Rule::Remote
            | Rule::Blocklist
            | Rule::Crowdsec => Switch::Off,
        };
        switch.is_on()
    }

    /// The level that the rate rules compare with.
    pub(crate) fn level(&self) -> &Level {
        match self.policy.reference {
            Reference::Adaptive => self.baseline.clients(),
            Reference::Classic => self.baseline.server(),
        }
    }

    /// The client's rate for the rate rules: weighted requests per second.
    pub(crate) fn rate(&self, counts: Counts) -> f64 {
        load(counts, self.policy) / f64::from(WINDOW_SECS)
    }

    /// Returns whether the client's errors tighten the thresholds of the rate rules.
    pub(crate) fn is_tightened(&self, counts: Counts) -> bool {
        let tightening = &self.policy.tightening;
        let error_rate = f64::from(counts.errors) / f64::from(WINDOW_SECS);
        tightening.switch.is_on() && error_rate > tightening.error_rate_multiplier * self.level().error_mean
    }

    fn tightening(&self, counts: Counts) -> f64 {
        if self.is_tightened(counts) { self.policy.tightening.factor } else { 1.0 }
    }

    fn is_warm(&self) -> bool {
        self.warmth == Warmth::Warm
    }

    fn clauses(&self, rule: Rule, facts: &Facts, clause: &mut dyn FnMut(&[Check])) {
        match rule {
            Rule::Flood => self.flood(facts, clause),
            Rule::Probing => self.score(rule, facts, clause),
            Rule::ErrorSurge => self.error_surge(facts, clause),
            Rule::ZScore if self.is_warm() => self.z_score(facts, clause),
            Rule::RateMultiplier if self.is_warm() => self.rate_multiplier(facts, clause),
            Rule::Behaviour => self.behaviour(facts, clause),
            _ => {}
        }
    }

    fn flood(&self, facts: &Facts, clause: &mut dyn FnMut(&[Check])) {
        let rule = &self.policy.flood;
        // Parts and deliveries can be anything, and are let off lightly already.
        let is_lenient = facts.is_served() && facts.now.parts < facts.now.pages() + facts.now.missed;
        let times = if is_lenient { SERVED_RATE } else { 1.0 };
        let sustained = times * rule.rate * f64::from(rule.sustained_secs);
        clause(&[at_least("pages_sustained", facts.flood_pages, sustained)]);
        // A list of words at a rate that no person reaches, on a server that is down.
        if facts.is_unserved() {
            clause(&[
                at_least("kinds_of_paths", facts.kinds.templates, rule.unserved_kinds),
                at_least("pages", facts.now.pages(), rule.unserved_kinds),
            ]);
        }
        let burst = if facts.is_served() { SERVED_BURST * rule.page_requests } else { rule.page_requests };
        clause(&[
            at_least("pages_burst", facts.burst_pages, burst),
            at_least("requests_for_one_page", facts.spread.repeats, burst),
        ]);
        // No camera takes so many pictures in one second, served or not.
        clause(&[
            at_least("pages_in_one_second", facts.second_pages, rule.page_requests),
            at_least("requests_for_one_page", facts.spread.repeats, rule.page_requests),
        ]);
    }

    /// The score, under the rule of the kind of evidence that weighs most.
    fn score(&self, rule: Rule, facts: &Facts, clause: &mut dyn FnMut(&[Check])) {
        if facts.score.total > 0.0 && facts.score.rule() == rule {
            clause(&[at_least("score", facts.score.total, facts.score.bar)]);
        }
    }

    fn error_surge(&self, facts: &Facts, clause: &mut dyn FnMut(&[Check])) {
        let rule = &self.policy.error_surge;
        self.score(Rule::ErrorSurge, facts, clause);
        let (foreign, before) = (facts.now.foreign_tenths, facts.before.foreign_tenths);
        clause(&[
            at_least("malformed_requests", tenths(foreign), rule.malformed_requests),
            above("malformed_requests", tenths(foreign), facts.before.served().into()),
            at_least("malformed_before", tenths(before), rule.malformed_requests / SPREAD_OVER_SECONDS),
        ]);
        let failed = facts.now.failed;
        if self.is_experienced() && !facts.is_of_one_kind() {
            let error_rate = f64::from(failed) / f64::from(WINDOW_SECS);
            clause(&[
                at_least("failures", failed, rule.min_errors),
                above("failures", failed.into(), facts.before.served().into()),
                at_least("failures_before", facts.before.failed, rule.min_errors / SPREAD_OVER_SECONDS),
                above("error_rate", error_rate, rule.error_rate_multiplier * self.level().error_mean),
                self.unprecedented(Feature::Failed, failed.into()),
            ]);
        }
    }

    fn z_score(&self, facts: &Facts, clause: &mut dyn FnMut(&[Check])) {
        let (rule, counts) = (&self.policy.z_score, facts.now);
        if self.is_tolerable(facts) {
            return;
        }
        clause(&[
            above(
                "z-score",
                self.level().z_score(self.rate(counts)),
                rule.threshold * self.tightening(counts),
            ),
            at_least("requests", load(counts, self.policy), rule.min_requests),
        ]);
    }

    fn rate_multiplier(&self, facts: &Facts, clause: &mut dyn FnMut(&[Check])) {
        let (rule, counts) = (&self.policy.rate_multiplier, facts.now);
        if self.is_tolerable(facts) {
            return;
        }
        let threshold = rule.multiplier * self.tightening(counts) * self.level().mean;
        clause(&[
            above("rate", self.rate(counts), threshold),
            at_least("requests", load(counts, self.policy), rule.min_requests),
        ]);
    }

    /// A steady rate of what a dashboard or a camera is served, below the flood of such a client.
    fn is_tolerable(&self, facts: &Facts) -> bool {
        self.policy.reference == Reference::Adaptive && facts.is_polling()
    }

    fn behaviour(&self, facts: &Facts, clause: &mut dyn FnMut(&[Check])) {
        let rule = &self.policy.behaviour;
        self.score(Rule::Behaviour, facts, clause);
        clause(&[at_least("logins_60s", facts.now.logins, rule.logins)]);
        clause(&[at_least("logins_burst", facts.login_burst, rule.login_burst)]);
        // Whoever logs in goes on to what he logged in to.
        let logins = facts.now.logins + facts.now.unproven_logins;
        clause(&[
            at_least("logins_60s", logins, rule.logins),
            at_least("logins_60s", logins, LOGINS_TO_THE_REST * facts.before.served_beside_logins()),
        ]);
        clause(&[at_least("remote_calls_60s", facts.now.remote_calls, rule.remote_calls)]);
        if !self.is_experienced() {
            return;
        }
        if facts.is_of_one_kind() {
            return;
        }
        // A legitimate program has its POSTs accepted.
        let served = facts.before.served_pages();
        let unwanted = at_least(
            "unwanted_posts",
            facts.spread.unwanted_posts,
            served.max(rule.min_posts / UNWANTED_SHARE),
        );
        // Browsers load a page's assets; a program that walks a list of paths, or repeats one, does not.
        let assets = PAGES_PER_ASSET * facts.before.assets;
        // A dashboard or a camera may repeat one page as fast as the flood rule allows it.
        let flood = SERVED_RATE * self.policy.flood.rate * f64::from(WINDOW_SECS);
        let least_repeats =
            if facts.is_polling() { rule.min_repeats.max(flood as u32) } else { rule.min_repeats };
        let judged = [
            (Feature::Paths, facts.spread.paths, rule.min_paths),
            (Feature::Posts, facts.spread.posts, rule.min_posts),
            (Feature::Repeats, facts.spread.repeats, least_repeats),
        ];
        for (feature, value, floor) in judged {
            let without_assets = at_least("four_times_assets", value, assets);
            let mut and = vec![without_assets];
            and.extend((feature == Feature::Posts).then_some(unwanted));
            self.unlike_others(feature, value, floor, &and, clause);
        }
    }

    /// Far above this site's clients, by z-score, multiplier and precedent.
    fn unlike_others(
        &self,
        feature: Feature,
        value: u32,
        floor: u32,
        and: &[Check],
        clause: &mut dyn FnMut(&[Check]),
    ) {
        let (rule, value) = (&self.policy.behaviour, f64::from(value));
        let mut checks = vec![at_least(feature.name(), value, floor)];
        checks.extend_from_slice(and);
        checks.extend([
            above("log_z-score", self.baseline.log_z_score(feature, value), rule.z_threshold),
            above(feature.name(), value, rule.multiplier * self.baseline.typical(feature)),
            self.unprecedented(feature, value),
        ]);
        clause(&checks);
    }

    /// Returns whether the site was observed long enough for a lack of precedents to mean something.
    fn is_experienced(&self) -> bool {
        self.is_warm() && self.baseline.age_secs(self.second) >= self.policy.behaviour.experience_secs
    }

    fn unprecedented(&self, feature: Feature, value: f64) -> Check {
        let seen = self.baseline.precedent(feature, self.client, self.second);
        above("times_precedent", value, self.policy.behaviour.precedent_multiplier * seen)
    }
}

/// Requests in the window, with assets at their weight.
pub(crate) fn load(counts: Counts, policy: &Policy) -> f64 {
    match policy.reference {
        Reference::Classic => f64::from(counts.requests),
        Reference::Adaptive => {
            f64::from(counts.pages()) + f64::from(counts.assets + counts.missed) * policy.asset_weight
        }
    }
}

fn tenths(tenths: u32) -> f64 {
    f64::from(tenths) / 10.0
}
