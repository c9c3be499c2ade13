//! The gate before the rules: what any rule would need at the least, so that nearly every request is counted and not
//! judged. Only ever saves time: a client that a rule would fire at always passes. Made anew whenever the baseline is.

use super::baseline::{Baseline, Feature};
use super::footprint::{Ceiling, Footprint};
use super::policy::{Policy, Reference, Switch};
use super::rules::{Warmth, load};
use super::window::WINDOW_SECS;

/// A bound that was worked out on another way than the rule's own is taken this much lower, far more than rounding
/// can make it differ.
const SLACK: f64 = 1.0 - 1e-9;

/// Baselines are made anew every minute; a gate must hold until the next one, and for what comes late.
const VALID_SECS: u32 = 120;

/// What must be asked about one client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Nothing: no rule can fire.
    Nothing,
    /// The rules that look at counts alone: what the targets amount to cannot matter.
    Counts,
    /// Every rule.
    Targets,
}

/// The least that any rule could fire at, by policy and baseline.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    load: f64,
    pages: u32,
    failed: u32,
    foreign_tenths: u32,
    logins: u32,
    remote_calls: u32,
    page_requests: u32,
    page_secs: u32,
    weight: u32,
    weight_600: u32,
    alike_scripts: u32,
    paths: u32,
    posts: u32,
    repeats: u32,
}

impl Gate {
    /// The gate of a policy and of what was learned by `second`.
    pub fn of(policy: &Policy, baseline: &Baseline, warmth: Warmth, second: u32) -> Gate {
        let whole = |switch: Switch, value: u32| if switch.is_on() { value } else { u32::MAX };
        let tenths = |value: f64| whole(policy.probing.switch, (10.0 * value * SLACK).ceil() as u32);
        let (flood, surge, behaviour) = (&policy.flood, &policy.error_surge, &policy.behaviour);
        // On a young site these clauses are not asked at all, and none of it needs to be worked out.
        let may_be_experienced = baseline.age_secs(second + VALID_SECS) >= behaviour.experience_secs;
        let unlike_others = |feature, floor| match (warmth, behaviour.switch) {
            (Warmth::Warm, Switch::On) if may_be_experienced => {
                least_unlike(policy, baseline, feature, floor, second)
            }
            _ => u32::MAX,
        };
        // A ceiling counts no further than this.
        let countable = |value: u32| value.min(Ceiling::MAX);
        Gate {
            load: if warmth == Warmth::Warm { least_load(policy, baseline) } else { f64::INFINITY },
            pages: whole(flood.switch, (flood.rate * f64::from(flood.sustained_secs)).ceil() as u32),
            failed: match warmth {
                Warmth::Warm if may_be_experienced => whole(surge.switch, surge.min_errors),
                _ => u32::MAX,
            },
            foreign_tenths: whole(surge.switch, surge.malformed_requests.saturating_mul(10)),
            logins: whole(behaviour.switch, behaviour.logins.min(behaviour.login_burst)),
            remote_calls: whole(behaviour.switch, behaviour.remote_calls),
            page_requests: countable(whole(flood.switch, flood.page_requests)),
            page_secs: flood.page_secs,
            weight: countable(tenths(policy.probing.threshold_60s)),
            weight_600: countable(tenths(policy.probing.threshold_600s)),
            alike_scripts: countable(whole(policy.probing.switch, policy.probing.alike_scripts)),
            paths: countable(unlike_others(Feature::Paths, behaviour.min_paths)),
            posts: countable(unlike_others(Feature::Posts, behaviour.min_posts)),
            repeats: countable(unlike_others(Feature::Repeats, behaviour.min_repeats)),
        }
    }

    /// What must be asked about a client whose request at `second` was just counted.
    pub fn need(&self, footprint: &Footprint, policy: &Policy, second: u32) -> Need {
        if self.needs_targets(footprint, second) {
            return Need::Targets;
        }
        let counts = footprint.window.sum();
        let enough = counts.pages() >= self.pages
            || counts.foreign_tenths >= self.foreign_tenths
            || counts.logins >= self.logins
            || counts.remote_calls >= self.remote_calls
            || load(counts, policy) >= self.load
            || (counts.failed >= self.failed && counts.failed > footprint.window.before(second).served());
        if enough { Need::Counts } else { Need::Nothing }
    }

    fn needs_targets(&self, footprint: &Footprint, second: u32) -> bool {
        let Some(most) = footprint.ceiling(second) else { return true };
        let [weight, weight_600] = [most.shaped_weight, most.shaped_weight_600].map(u32::from);
        if weight >= self.weight || weight_600 >= self.weight_600 {
            return true;
        }
        let is_heavy = weight + u32::from(most.plain_weight) >= self.weight
            || weight_600 + u32::from(most.plain_weight_600) >= self.weight_600;
        let [paths, posts, repeats, scripts] =
            [most.paths, most.posts, most.repeats, most.scripts].map(u32::from);
        let is_wide = paths >= self.paths || posts >= self.posts || repeats >= self.repeats;
        let is_alike = scripts >= self.alike_scripts;
        let is_burst = repeats >= self.page_requests;
        if !(is_heavy || is_wide || is_alike || is_burst) {
            return false;
        }
        let before = footprint.window.before(second);
        // Enough of something else can outweigh a value that is known; one that ran out of its room is not.
        let outweighs = |value: u32, other: u32| value == Ceiling::MAX || value >= other;
        let without_assets = |value: u32| outweighs(value, before.assets.saturating_mul(20));
        (is_heavy && outweighs(most.failed_paths.into(), before.served_pages()))
            || (is_alike && outweighs(scripts, before.pages().div_ceil(2)))
            || (paths >= self.paths && without_assets(paths))
            || (posts >= self.posts && without_assets(posts))
            || (repeats >= self.repeats && without_assets(repeats))
            || (is_burst
                && footprint.window.sum_of_last(self.page_secs, second).pages() >= self.page_requests)
    }
}

/// The least load (requests in the window, weighted) at which either rate rule could fire.
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

/// The least value of a feature at which the behaviour rule could fire, whoever the client is.
fn least_unlike(policy: &Policy, baseline: &Baseline, feature: Feature, floor: u32, second: u32) -> u32 {
    let rule = &policy.behaviour;
    let learned = baseline
        .value_at_log_z(feature, rule.z_threshold)
        .max(rule.multiplier * baseline.typical(feature))
        .max(rule.precedent_multiplier * baseline.least_precedent(feature, second + VALID_SECS));
    // Nothing can be above what is infinite; what is finite is rounded down.
    if learned.is_finite() { floor.max((learned * SLACK) as u32) } else { u32::MAX }
}
