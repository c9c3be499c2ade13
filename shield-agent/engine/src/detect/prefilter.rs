//! The prefilter: for each value that a rule compares, the least at which any rule could fire. Nearly every request stays
//! below all of them, and its client is not judged. It only saves time: a client that a rule would fire for always passes,
//! which a property test and a fuzz target check.

use crate::detect::activity::{Activity, Ceiling};
use crate::detect::baseline::{Baseline, Feature};
use crate::detect::policy::{Policy, Reference, Switch};
use crate::detect::rules::{PAGES_PER_ASSET, Warmth};
use crate::detect::trace::Trace;
use crate::detect::window::{Counts, WINDOW_SECS};

/// Limits computed in another way than the rule's own threshold are lowered by this factor, far more than rounding can
/// make them differ.
const SLACK: f64 = 1.0 - 1e-9;

/// Seconds that limits stay valid: baselines change every minute, and requests may come late.
const VALID_SECS: u32 = 120;

/// The rules that could fire after a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Screening {
    /// None.
    Skip,
    /// Those that read counts alone: what the targets amount to cannot matter, and is not worked out.
    CheckCounts,
    /// Any.
    CheckAll,
}

/// For each value, the least at which any rule could fire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Prefilter {
    /// Changes whenever a limit does: what an [`Activity`] is spared is bound to the limits it was worked out for.
    generation: u32,
    asset_weight: f64,
    load: f64,
    /// In eighths of a page.
    flood: u32,
    failed: u32,
    foreign_tenths: u32,
    unserved_kinds: u32,
    logins: u32,
    remote_calls: u32,
    page_requests: u32,
    page_secs: u32,
    paths: u32,
    posts: u32,
    repeats: u32,
}

impl Prefilter {
    /// The limits of `policy` and `baseline` from `second` until the next minute is learned.
    pub(super) fn new(policy: &Policy, baseline: &Baseline, warmth: Warmth, second: u32) -> Prefilter {
        let whole = |switch: Switch, value: u32| if switch.is_on() { value } else { u32::MAX };
        let (flood, surge, behaviour) = (&policy.flood, &policy.error_surge, &policy.behaviour);
        // Clauses that a young site does not use need no limit.
        let may_be_experienced = baseline.age_secs(second + VALID_SECS) >= behaviour.experience_secs;
        let unlike_others = |feature, floor| match (warmth, behaviour.switch) {
            (Warmth::Warm, Switch::On) if may_be_experienced => {
                least_unlike(policy, baseline, feature, floor, second)
            }
            _ => u32::MAX,
        };
        // A saturated ceiling must reach its limit.
        let countable = |value: u32| value.min(Ceiling::MAX);
        Prefilter {
            generation: 0,
            asset_weight: asset_weight(policy),
            load: if warmth == Warmth::Warm { least_load(policy, baseline) } else { f64::INFINITY },
            flood: whole(
                flood.switch,
                (8.0 * flood.rate * f64::from(flood.sustained_secs) * SLACK).ceil() as u32,
            ),
            failed: match warmth {
                Warmth::Warm if may_be_experienced => whole(surge.switch, surge.min_errors),
                _ => u32::MAX,
            },
            foreign_tenths: whole(surge.switch, surge.malformed_requests.saturating_mul(10)),
            unserved_kinds: countable(whole(flood.switch, flood.unserved_kinds)),
            logins: whole(behaviour.switch, behaviour.logins.min(behaviour.login_burst)),
            remote_calls: whole(behaviour.switch, behaviour.remote_calls),
            page_requests: countable(whole(flood.switch, flood.page_requests)),
            page_secs: flood.page_secs,
            paths: countable(unlike_others(Feature::Paths, behaviour.min_paths)),
            posts: countable(unlike_others(Feature::Posts, behaviour.min_posts)),
            repeats: countable(unlike_others(Feature::Repeats, behaviour.min_repeats)),
        }
    }

    /// What an [`Activity`] is spared is bound to it.
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }

    /// Takes over the limits of `new`. Where they are the same, what clients are spared stays valid.
    pub(super) fn replace(&mut self, new: Prefilter) {
        let unchanged = Prefilter { generation: self.generation, ..new };
        if *self != unchanged {
            *self = Prefilter { generation: self.generation.wrapping_add(1), ..new };
        }
    }

    /// Counts one request of a client, and returns which rules could fire because of it.
    #[inline]
    pub(crate) fn record(&self, activity: &mut Activity, second: u32, trace: &Trace) -> Screening {
        activity.add(second, trace);
        self.screen(activity, second)
    }

    /// Screens a client whose request at `second` was just counted, or whose next plain one is not counted yet. Compares with the limits only as often as the
    /// client's plain requests could have reached one since the last time.
    #[inline]
    pub(super) fn screen(&self, activity: &mut Activity, second: u32) -> Screening {
        if activity.is_spared(self.generation, second) {
            return Screening::Skip;
        }
        let at_most = activity.window.at_most();
        let is_near = at_most.failed >= self.failed || self.exceeds_counts(at_most);
        let screening = self.compare(activity, at_most, is_near, second);
        if screening == Screening::Skip {
            let spare = if is_near { 0 } else { self.spare(activity, at_most) };
            activity.spare(spare, self.generation);
        }
        screening
    }

    /// `at_most` is an upper bound of the client's counts, and `is_near` says whether that is as high as a limit.
    fn compare(&self, activity: &Activity, at_most: Counts, is_near: bool, second: u32) -> Screening {
        if self.needs_targets(activity, at_most, second) {
            return Screening::CheckAll;
        }
        if !is_near {
            return Screening::Skip;
        }
        let window = &activity.window;
        let counts = window.sum();
        let is_surge = counts.failed >= self.failed && counts.failed > window.before(second).served();
        if is_surge || self.exceeds_counts(counts) { Screening::CheckCounts } else { Screening::Skip }
    }

    fn exceeds_counts(&self, counts: Counts) -> bool {
        counts.flood_eighths() >= self.flood
            || counts.foreign_tenths >= self.foreign_tenths
            || counts.logins + counts.unproven_logins >= self.logins
            || counts.remote_calls >= self.remote_calls
            || self.load_of(counts) >= self.load
    }

    /// As [`load`](super::rules::load), without the policy.
    fn load_of(&self, counts: Counts) -> f64 {
        f64::from(counts.pages()) + f64::from(counts.assets + counts.missed) * self.asset_weight
    }

    /// Returns how many further plain requests for plain targets are certain to stay below all limits, given counts that are
    /// below them. Such a request adds
    /// one to pages or assets, at most one each to paths, posts and repeats, and nothing to any other value. So a client of whose
    /// pages fewer than half failed stays one, until old pages leave the window; by then an [`Activity`] is spared nothing.
    fn spare(&self, activity: &Activity, counts: Counts) -> u32 {
        let most = activity.latest_ceiling();
        let left = |limit: u32, value: u32| limit.saturating_sub(value).saturating_sub(1);
        let unserved = if is_unserved(counts) { self.unserved_kinds } else { u32::MAX };
        let loads_left = (self.load - self.load_of(counts)) / self.asset_weight.max(1.0) - 1.0;
        (left(self.flood, counts.flood_eighths()) / 8)
            .min(loads_left as u32)
            .min(left(self.paths.min(unserved), most.paths.into()))
            .min(left(self.posts, most.posts.into()))
            .min(left(self.repeats.min(self.page_requests), most.repeats.into()))
    }

    fn needs_targets(&self, activity: &Activity, counts: Counts, second: u32) -> bool {
        let Some(most) = activity.ceiling(second) else { return true };
        let [paths, posts, repeats] = [most.paths, most.posts, most.repeats].map(u32::from);
        let is_wide = paths >= self.paths || posts >= self.posts || repeats >= self.repeats;
        let is_unserved = paths >= self.unserved_kinds && is_unserved(counts);
        let is_burst = repeats >= self.page_requests;
        if is_unserved {
            return true;
        }
        if !(is_wide || is_burst) {
            return false;
        }
        let before = activity.window.before(second);
        // A rule's other side can outweigh a value, unless the value is saturated and so unknown.
        let outweighs = |value: u32, other: u32| value == Ceiling::MAX || value >= other;
        let without_assets = |value: u32| outweighs(value, before.assets.saturating_mul(PAGES_PER_ASSET));
        (paths >= self.paths && without_assets(paths))
            || (posts >= self.posts && without_assets(posts))
            || (repeats >= self.repeats && without_assets(repeats))
            || (is_burst && activity.window.sum_of_last(self.page_secs, second).pages() >= self.page_requests)
    }
}

/// Whether half of a client's pages failed.
fn is_unserved(counts: Counts) -> bool {
    let failed = counts.failed + counts.broken;
    failed > 0 && 2 * failed >= counts.pages()
}

/// The weight of an asset in a client's load.
fn asset_weight(policy: &Policy) -> f64 {
    match policy.reference {
        Reference::Adaptive => policy.asset_weight,
        Reference::Classic => 1.0,
    }
}

/// The least load (weighted requests in the window) at which either rate rule could fire.
fn least_load(policy: &Policy, baseline: &Baseline) -> f64 {
    let level = match policy.reference {
        Reference::Adaptive => baseline.clients(),
        Reference::Classic => baseline.server(),
    };
    let tightest = if policy.tightening.switch.is_on() { policy.tightening.factor.min(1.0) } else { 1.0 };
    let in_window =
        |rate: f64, min_requests: u32| (rate * f64::from(WINDOW_SECS) * SLACK).max(f64::from(min_requests));
    let (z, times) = (&policy.z_score, &policy.rate_multiplier);
    let by_z = level.mean + z.threshold * tightest * level.stddev;
    let by_times = times.multiplier * tightest * level.mean;
    let when = |switch: Switch, value: f64| if switch.is_on() { value } else { f64::INFINITY };
    when(z.switch, in_window(by_z, z.min_requests))
        .min(when(times.switch, in_window(by_times, times.min_requests)))
}

/// The least value of a feature at which the behaviour rule could fire for any client.
fn least_unlike(policy: &Policy, baseline: &Baseline, feature: Feature, floor: u32, second: u32) -> u32 {
    let rule = &policy.behaviour;
    let learned = baseline
        .value_at_log_z(feature, rule.z_threshold)
        .max(rule.multiplier * baseline.typical(feature))
        .max(rule.precedent_multiplier * baseline.least_precedent(feature, second + VALID_SECS));
    // No value is above infinity. A finite limit is rounded down.
    if learned.is_finite() { floor.max((learned * SLACK) as u32) } else { u32::MAX }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detect::baseline::ClientMinute;
    use crate::detect::trace::{Flags, Trace};
    use proptest::prelude::*;

    /// A request of each kind for the target `key`.
    fn trace(kind: usize, key: u32) -> Trace {
        let plain = Flags::default();
        let failed = Flags::ERROR.union(Flags::FAILED);
        let (flags, weight) = [
            (plain, 0),
            (Flags::POST, 0),
            (Flags::ASSET, 0),
            (Flags::POST, 0),
            (failed, 10),
            (failed.union(Flags::SHAPED), 30),
            (Flags::SCRIPT, 0),
            (Flags::POST.union(Flags::LOGIN), 0),
            (failed.union(Flags::FOREIGN).union(Flags::NO_TARGET), 0),
            (Flags::ERROR.union(Flags::BROKEN), 3),
        ][kind];
        let key = if flags.has(Flags::POST) { !key } else { key };
        Trace { key, flags, weight, answer: 1 }
    }

    const START: u32 = 1_767_600_000;

    fn prefilter(policy: &Policy, baseline: &Baseline, warmth: Warmth, second: u32) -> Prefilter {
        Prefilter::new(policy, baseline, warmth, second)
    }

    /// A prefilter that lets every client pass is as sound as this one, and of no use.
    #[test]
    fn the_limits_are_those_of_the_rules() {
        let (policy, mut baseline) = (Policy::default(), Baseline::new(600));
        baseline.begin(START);
        let young = prefilter(&policy, &baseline, Warmth::WarmingUp, START);
        let expected = Prefilter {
            generation: 0,
            asset_weight: 0.1,
            load: f64::INFINITY,
            flood: 9600,
            failed: u32::MAX,
            foreign_tenths: 100,
            unserved_kinds: 60,
            logins: 7,
            remote_calls: 35,
            page_requests: 40,
            page_secs: 3,
            paths: Ceiling::MAX,
            posts: Ceiling::MAX,
            repeats: Ceiling::MAX,
        };
        assert_eq!(young, expected);
        let experience_secs = policy.behaviour.experience_secs;
        let warm = prefilter(&policy, &baseline, Warmth::Warm, START + experience_secs - VALID_SECS - 1);
        assert_eq!(
            warm,
            Prefilter { load: 600.0, ..expected },
            "the least number of requests of both rate rules"
        );
        let experienced = prefilter(&policy, &baseline, Warmth::Warm, START + experience_secs - VALID_SECS);
        assert_eq!(
            experienced,
            Prefilter { load: 600.0, failed: 120, ..expected },
            "no client minutes learned"
        );
    }

    #[test]
    fn the_limits_of_features_follow_what_was_learned() {
        let (policy, mut baseline) = (Policy::default(), Baseline::new(600));
        let second = START + policy.behaviour.experience_secs;
        let limits = |baseline: &Baseline| {
            let limits = prefilter(&policy, baseline, Warmth::Warm, second);
            (limits.paths, limits.posts, limits.repeats)
        };
        baseline.begin(START);
        let minute = |paths: f64, repeats: f64| ClientMinute {
            features: [paths, 0.0, repeats, 0.0],
            ..ClientMinute::default()
        };
        baseline.learn_clients(second - 120, (0..40).map(|client| (client, minute(100.0, 1.0))));
        baseline.recompute(second);
        // 8 times what is typical, at least the configured floor, rounded down.
        assert_eq!(limits(&baseline), (799, 90, 150));
        let wide = [(91, minute(1000.0, 1.0)), (92, minute(900.0, 1.0)), (93, minute(800.0, 1.0))];
        baseline.learn_clients(second - 60, wide.into_iter());
        baseline.recompute(second);
        let by_z_score = baseline.value_at_log_z(Feature::Paths, 4.0);
        assert!(by_z_score > 8.0 * baseline.typical(Feature::Paths));
        assert_eq!(limits(&baseline).0, by_z_score as u32, "the fourth highest precedent is still 100");
        baseline.learn_clients(second - 60, [(94, minute(790.0, 1.0))].into_iter());
        baseline.recompute(second);
        assert_eq!(limits(&baseline).0, 1579, "twice the fourth highest precedent");
    }

    #[test]
    fn switched_off_rules_have_no_limits() {
        let mut policy = Policy::classic();
        policy.z_score.switch = Switch::Off;
        policy.rate_multiplier.switch = Switch::Off;
        let off = prefilter(&policy, &Baseline::new(600), Warmth::Warm, START);
        assert_eq!((off.load, off.flood, off.failed), (f64::INFINITY, u32::MAX, u32::MAX));
        assert_eq!((off.foreign_tenths, off.logins, off.remote_calls), (u32::MAX, u32::MAX, u32::MAX));
        let limits = [off.page_requests, off.unserved_kinds, off.paths];
        assert_eq!(limits, [Ceiling::MAX; 3]);
        // 0.1 requests a second: 2 deviations above the mean, or twice the mean, tightened by errors to 0.6 of that.
        policy.z_score.switch = Switch::On;
        let load = |policy: &Policy| prefilter(policy, &Baseline::new(600), Warmth::Warm, START).load / SLACK;
        assert!((load(&policy) - 60.0 * (0.1 + 2.0 * 0.6 * 0.1)).abs() < 1e-9);
        policy.rate_multiplier.switch = Switch::On;
        assert!((load(&policy) - 60.0 * 2.0 * 0.6 * 0.1).abs() < 1e-9);
        policy.tightening.switch = Switch::Off;
        assert!((load(&policy) - 60.0 * 2.0 * 0.1).abs() < 1e-9);
    }

    #[test]
    fn a_client_is_spared_as_long_as_its_plain_requests_stay_below() {
        let prefilter = prefilter(&Policy::default(), &Baseline::new(600), Warmth::WarmingUp, START);
        let mut activity = Activity::default();
        for n in 1..40 {
            assert_eq!(prefilter.record(&mut activity, START, &trace(0, 1)), Screening::Skip);
            assert!(activity.is_spared(prefilter.generation, START), "request {n}");
        }
        // 40 requests for one page are a flood's.
        assert_eq!(prefilter.record(&mut activity, START, &trace(0, 1)), Screening::CheckAll);
        assert!(!activity.is_spared(prefilter.generation, START));
    }

    #[test]
    fn unchanged_limits_keep_what_clients_are_spared() {
        let mut prefilter = prefilter(&Policy::default(), &Baseline::new(600), Warmth::WarmingUp, START);
        let generation = prefilter.generation;
        prefilter.replace(prefilter);
        assert_eq!(prefilter.generation, generation);
        prefilter.replace(Prefilter { flood: 7, ..prefilter });
        assert_eq!((prefilter.generation, prefilter.flood), (generation + 1, 7));
    }

    proptest! {
        #[test]
        fn what_is_spared_can_be_skipped(
            limits in prop::collection::vec(prop_oneof![3 => 3u32..60, 1 => Just(60_000)], 10),
            page_secs in 1u32..60,
            asset_weight in prop::sample::select(vec![0.0, 0.1, 1.0, 2.5]),
            mix in prop::sample::select(vec![3, 4, 7, 10]),
            steps in prop::collection::vec(
                (prop_oneof![6 => 0u32..3, 1 => 40u32..90], 0u32..200, 0u32..12, 0usize..10), 1..400),
        ) {
            let prefilter = Prefilter {
                generation: 7,
                asset_weight,
                load: f64::from(limits[0]) / 1.5,
                flood: 8 * limits[1],
                failed: limits[2],
                foreign_tenths: 10 * limits[3],
                logins: limits[4],
                remote_calls: 60_000,
                page_requests: limits[5],
                page_secs,
                unserved_kinds: limits[6],
                paths: limits[7],
                posts: limits[8],
                repeats: limits[9],
            };
            let (mut activity, mut newest) = (Activity::default(), 6000);
            for (ahead, late, key, kind) in steps {
                newest += ahead;
                let second = if late < 90 && late > 50 { newest - late } else { newest };
                activity.add(second, &trace(kind % mix, key));
                let is_spared = activity.is_spared(prefilter.generation, second);
                let at_most = activity.window.at_most();
                let is_near = at_most.failed >= prefilter.failed || prefilter.exceeds_counts(at_most);
                let compared = prefilter.compare(&activity, at_most, is_near, second);
                prop_assert!(!is_spared || compared == Screening::Skip, "{compared:?} at {second} was spared");
                prop_assert!(!activity.is_spared(prefilter.generation + 1, second), "bound to its limits");
                prop_assert_eq!(prefilter.screen(&mut activity, second), compared);
                if compared == Screening::CheckAll {
                    activity.settle(second);
                }
            }
        }
    }
}
