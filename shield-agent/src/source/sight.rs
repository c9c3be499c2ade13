//! The sight of one source: its logs' findings with those of the source as a whole, and the state that follows.
//!
//! The reason of a state is announced, so it keeps the figures of the moment in which the state began; the figures of now are
//! in [`Trouble::now`], for whoever looks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::host;
use crate::text;
use shield_engine::allowlist::AllowReason;
use shield_engine::event::PartState;
use shield_engine::request::Batch;
use shield_engine::time::Now;
use shield_logline::sight::{Finding, Kind, LogSight, SourceSight, Surroundings};

/// How often a suspicious client is compared with this host's addresses, which are read anew.
const JUDGE_MS: u64 = 60_000;

/// A log that is missing or cannot be read for longer is a fault. A rotation takes seconds, and nginx creates its log when it
/// starts.
const UNREAD_MS: u64 = 300_000;

/// The names of the states of a source that is behind its log, and of one whose log cannot be read at all.
const BEHIND: &str = "behind";
const UNREAD: &str = "unread";

/// What is wrong with a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Its name in metrics and JSON.
    pub kind: &'static str,
    /// The finding with the figures of now, and its remedy.
    pub now: String,
}

/// A finding as it was announced.
#[derive(Debug, PartialEq, Eq)]
struct Announced {
    kind: Kind,
    log: PathBuf,
    reason: String,
}

#[derive(Debug, Default)]
pub(super) struct Sights {
    logs: BTreeMap<PathBuf, LogSight>,
    whole: SourceSight,
    proxies: Vec<IpNet>,
    allowed: Vec<IpNet>,
    judged_ms: u64,
    announced: Option<Announced>,
    /// Since when nothing can be read.
    unread_since_ms: Option<u64>,
}

impl Sights {
    /// `proxies` are the trusted ones; one client out of `allowed` is no fault.
    pub(super) fn new(proxies: &[IpNet], allowed: &[IpNet]) -> Sights {
        Sights { proxies: proxies.to_vec(), allowed: allowed.to_vec(), ..Sights::default() }
    }

    /// Takes a batch that was read of this log; the path of a socket's or standard input's is empty.
    pub(super) fn read(&mut self, log: &Path, batch: &Batch, now: Now) {
        if !self.logs.contains_key(log) {
            self.logs.insert(log.to_owned(), LogSight::default());
        }
        if let Some(sight) = self.logs.get_mut(log) {
            sight.read(batch, now);
        }
        self.whole.read(batch, now);
    }

    /// Notes that everything is read; `is_readable` says whether the logs could be.
    pub(super) fn idle(&mut self, is_readable: bool, now: Now) {
        self.logs.values_mut().for_each(|sight| sight.idle(now));
        if is_readable {
            self.whole.idle(now);
        }
        if self.whole.suspect().is_some() && now.boot_ms.saturating_sub(self.judged_ms) >= JUDGE_MS {
            self.judged_ms = now.boot_ms;
            self.whole.judge_clients(&surroundings(&self.proxies, &self.allowed), now);
        }
    }

    /// Forgets logs that are not followed any more.
    pub(super) fn keep<'a>(&mut self, count: usize, logs: impl Iterator<Item = &'a Path>) {
        if self.logs.len() > count {
            let kept: BTreeSet<&Path> = logs.collect();
            self.logs.retain(|log, _| kept.contains(log.as_path()));
        }
    }

    /// Returns the state that follows from `state` and `lagged`, the state by the lag; and the trouble, if there is any.
    pub(super) fn state(
        &mut self,
        state: PartState,
        lagged: PartState,
        count: usize,
        now_ms: u64,
    ) -> (PartState, Option<Trouble>) {
        if let PartState::Waiting { reason } = &state {
            self.announced = None;
            let since_ms = *self.unread_since_ms.get_or_insert(now_ms);
            let is_fault = now_ms.saturating_sub(since_ms) >= UNREAD_MS;
            return if is_fault { unread(reason) } else { (state, None) };
        }
        self.unread_since_ms = None;
        if !matches!(state, PartState::Active { .. }) {
            self.announced = None;
            return (state, None);
        }
        let found = self.gravest();
        let behind = match &lagged {
            PartState::Degraded { reason } => Some(Trouble { kind: BEHIND, now: reason.clone() }),
            _ => None,
        };
        let is_graver = found.as_ref().is_some_and(|(_, finding)| finding.kind() <= Kind::Field);
        match (found, behind) {
            (Some((log, finding)), behind) if behind.is_none() || is_graver => {
                self.announce(log, &finding, count)
            }
            (_, Some(behind)) => {
                self.announced = None;
                (lagged, Some(behind))
            }
            _ => {
                self.announced = None;
                (state, None)
            }
        }
    }

    fn gravest(&self) -> Option<(PathBuf, Finding)> {
        let of_logs = self.logs.iter().filter_map(|(log, sight)| Some((log, sight.finding()?)));
        let gravest = of_logs.min_by_key(|(_, finding)| finding.kind());
        let gravest = gravest.map(|(log, finding)| (log.clone(), finding));
        let whole = self.whole.finding().map(|finding| (PathBuf::new(), finding));
        gravest.into_iter().chain(whole).min_by_key(|(_, finding)| finding.kind())
    }

    fn announce(&mut self, log: PathBuf, finding: &Finding, count: usize) -> (PartState, Option<Trouble>) {
        let text = text::finding(finding);
        let is_one_of_many = count > 1 && !log.as_os_str().is_empty();
        let now = if is_one_of_many { format!("{}: {text}", log.display()) } else { text };
        let kind = finding.kind();
        let known = self.announced.take().filter(|known| known.kind == kind && known.log == log);
        let announced = known.unwrap_or_else(|| Announced { kind, log, reason: now.clone() });
        let state = PartState::Degraded { reason: announced.reason.clone() };
        self.announced = Some(announced);
        (state, Some(Trouble { kind: kind.name(), now }))
    }
}

fn unread(reason: &str) -> (PartState, Option<Trouble>) {
    let now = text::unread(reason);
    (PartState::Degraded { reason: now.clone() }, Some(Trouble { kind: UNREAD, now }))
}

/// Where this host stands.
pub(crate) fn surroundings(proxies: &[IpNet], allowed: &[IpNet]) -> Surroundings {
    let network = host::network();
    let of = |wanted: AllowReason| {
        network.iter().filter(|(reason, _)| *reason == wanted).map(|(_, addr)| addr.to_canonical()).collect()
    };
    Surroundings {
        own: of(AllowReason::OwnAddress),
        gateways: of(AllowReason::Gateway),
        proxies: proxies.to_vec(),
        allowed: allowed.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shield_engine::request::{RefusedLine, Rejected};

    fn at(secs: u64) -> Now {
        Now { wall_ms: 1_795_500_000_000, boot_ms: 0 }.plus_ms(secs * 1_000)
    }

    fn refused(count: u64) -> Batch {
        let first_refused = Some(RefusedLine::new(Rejected::Malformed, b"web1 GET /"));
        Batch { rejected: [count, 0, 0, 0, 0, 0], first_refused, ..Batch::default() }
    }

    fn reading() -> PartState {
        PartState::Active { detail: "reading".to_owned() }
    }

    #[test]
    fn a_blind_log_among_others_is_named_and_its_reason_does_not_change_with_the_figures() {
        let mut sights = Sights::default();
        let mut reasons = BTreeSet::new();
        for secs in 1..50 {
            sights.read(Path::new("/a.log"), &refused(5), at(secs));
            let (state, trouble) = sights.state(reading(), reading(), 2, 0);
            match state {
                PartState::Degraded { reason } => {
                    reasons.insert(reason);
                    assert_eq!(trouble.map(|trouble| trouble.kind), Some("refused"));
                }
                other => assert_eq!((other, trouble), (reading(), None)),
            }
        }
        let expected = "/a.log: none of the last 20 lines is a log line; the first begins \"web1 GET /\" (not of the format); see \
             `shield-agent check`";
        assert_eq!(reasons.into_iter().collect::<Vec<_>>(), [expected]);
        let (_, trouble) = sights.state(reading(), reading(), 1, 0);
        assert!(trouble.unwrap().now.starts_with("none of the last 200 lines is"));
        sights.keep(0, std::iter::empty());
        assert_eq!(sights.state(reading(), reading(), 1, 0), (reading(), None), "a log that is gone");
    }

    #[test]
    fn a_blind_source_is_graver_than_one_that_is_behind_and_a_missing_log_graver_than_both() {
        let late = || PartState::Degraded { reason: "late".to_owned() };
        let missing = || PartState::Waiting { reason: "/a.log does not exist (yet)".to_owned() };
        let mut sights = Sights::default();
        let (state, trouble) = sights.state(reading(), late(), 1, 0);
        assert_eq!((state, trouble.map(|trouble| trouble.kind)), (late(), Some("behind")));
        sights.read(Path::new("/a.log"), &refused(50), at(1));
        let (_, trouble) = sights.state(reading(), late(), 1, 0);
        assert_eq!(trouble.map(|trouble| trouble.kind), Some("refused"));
        assert_eq!(sights.state(missing(), missing(), 1, 0), (missing(), None));
    }

    /// History: a log with a mistyped path, or without permission to read it, was waited for as if nothing were wrong.
    #[test]
    fn a_log_that_is_missing_for_long_is_a_fault_and_one_that_is_rotated_is_none() {
        let missing = || PartState::Waiting { reason: "/a.log does not exist (yet)".to_owned() };
        let mut sights = Sights::default();
        assert_eq!(sights.state(missing(), missing(), 0, 1_000), (missing(), None));
        assert_eq!(sights.state(missing(), missing(), 0, UNREAD_MS), (missing(), None));
        assert_eq!(sights.state(reading(), reading(), 1, UNREAD_MS + 500), (reading(), None));
        assert_eq!(sights.state(missing(), missing(), 1, UNREAD_MS + 600), (missing(), None));
        let (state, trouble) = sights.state(missing(), missing(), 1, 2 * UNREAD_MS + 600);
        assert_eq!(trouble.map(|trouble| trouble.kind), Some("unread"));
        assert!(
            matches!(&state, PartState::Degraded { reason } if reason.starts_with("/a.log does not exist (yet)")),
            "{state:?}"
        );
        assert_eq!(sights.state(reading(), reading(), 1, 3 * UNREAD_MS), (reading(), None));
    }
}
