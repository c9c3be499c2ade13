//! Detection: counts the requests of each client, learns the site's usual traffic, and judges clients against it.
//!
//! Every request takes one way through the detector:
//!
//! ```text
//!  Request
//!     │ prepare_batch: client, hash of the path, prefetch       hashed_path, path_reader, prefetch, clients
//!     │ plain: GET, 200, nothing against the client ────────▶ Normal      plain
//!     ▼
//!  Detector::observe
//!     │ event time; older than 5 min ───────────────────────▶ Normal (not counted)
//!     │ a minute ends: what each client did is learned, at once or in pieces    minute, walk
//!     │                ─▶ Thresholds::update(learn) ─▶ levels, prefilter      baseline, thresholds
//!     ▼
//!  Tracer::trace: target's key, flags, weight                  served_path, shape, login, trace
//!     │ the client is banned ───────────────────────────────▶ Normal (in the totals only)
//!     │ exempt by the configuration ────────────────────────▶ Normal      exempt
//!     │ a miss that the configuration expects: no failure                 exempt
//!     │ posts, and what was not served: one try of many?            tries, forms, runs
//!     ▼
//!  Clients::record                                             clients
//!     │ one of the first 4 (light record), nothing telling ─▶ Normal
//!     ▼
//!  Activity::record: window and targets                        activity, window, targets
//!     │ a verdict less than 10 s ago ───────────────────────▶ Normal
//!     │ evidence is charged to the client's account                 score, evidence, habits, template
//!     │ no evidence, Screening::Skip: below all limits ─────▶ Normal      prefilter
//!     ▼
//!  Facts ─▶ Judge::judge: score, policy, baseline, precedents  standing, rules, policy
//!     │ no clause holds: judge_company, after requests in vain ▶ Normal      company, campaigns, bad_networks
//!     │ only rules that observe, reported lately ─────────────▶ Normal      observed
//!     ▼
//!  Verdict::Anomalous(evidence), and the client's requests are not learned      path_interner
//! ```
//!
//! Beside it, [`global`] compares the whole server's rate with its level once a second.

pub(crate) mod activity;
pub(crate) mod bad_networks;
pub(crate) mod baseline;
pub(crate) mod campaigns;
#[cfg(test)]
mod classic_tests;
pub(crate) mod clients;
pub(crate) mod company;
pub mod detector;
#[cfg(test)]
mod detector_tests;
pub(crate) mod evidence;
pub(crate) mod exempt;
mod forms;
pub(crate) mod global;
pub(crate) mod good_standing;
pub(crate) mod good_targets;
pub(crate) mod habits;
pub mod hash;
pub(crate) mod hashed_path;
#[cfg(test)]
mod held_out_tests;
mod injection;
mod login;
mod minute;
#[cfg(test)]
mod minute_tests;
pub(crate) mod moments;
pub(crate) mod observed;
#[cfg(test)]
mod operator_tests;
pub(crate) mod path_interner;
pub(crate) mod path_reader;
pub(crate) mod plain;
pub mod policy;
pub(crate) mod prefetch;
mod prefilter;
pub(crate) mod ring;
pub mod rules;
mod runs;
mod sampled_table;
pub(crate) mod score;
pub mod served_path;
pub mod shape;
mod shape_cache;
#[cfg(test)]
mod site_tests;
mod stable_hash;
pub(crate) mod standing;
pub(crate) mod targets;
#[cfg(test)]
mod teach_tests;
pub(crate) mod template;
pub(crate) mod thresholds;
pub mod trace;
mod tries;
mod walk;
pub(crate) mod window;
