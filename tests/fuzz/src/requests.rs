//! The target `requests`: the engine's reading of a request line, and the detector over a run of them.
//!
//! For every method, target and status there is no panic, weights and flags are as documented, the result is the same twice,
//! with and without a cache of earlier paths, memory stays within its bound, and the detector's prefilter (it judges only
//! clients that could be anomalous) never hides a rule that fires.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::cursor::Cursor;
use shield_engine::policy::Policy;
use shield_engine::report::RuleView;
use shield_engine::request::Request;
use shield_engine::test_support::detector::{Detector, Standing};
use shield_engine::test_support::hash::Seeded;
use shield_engine::test_support::shape::{self, Kind, Query};
use shield_engine::test_support::trace::{Flags, Trace, Tracer};
use shield_engine::verdict::{Evidence, Verdict};

/// A Monday's 08:00 UTC.
const START: i64 = 1_767_600_000;

/// Requests of one input at most.
const MAX_REQUESTS: usize = 400;

/// The bound of the memory for one busy client.
const MAX_CLIENT_BYTES: u64 = 64 * 1024;

/// The bound of the memory for an empty table.
const MAX_TABLE_BYTES: u64 = 1024 * 1024;

/// A client is not judged for this long after it was found anomalous.
const QUIET_SECS: i64 = 10;

/// No rule is evaluated before a client's fifth request.
const FIRST_JUDGED: u32 = 5;

const METHODS: [&[u8]; 8] = [b"GET", b"POST", b"HEAD", b"PROPFIND", b"CONNECT", b"", b"OPTIONS", b"REPORT"];
const STATUSES: [u16; 16] = [200, 404, 403, 400, 301, 302, 304, 206, 207, 401, 405, 429, 499, 500, 502, 0];

/// Beginnings that lead to each kind of target.
const BEGINNINGS: [&[u8]; 16] = [
    b"",
    b"/",
    b"/page",
    b"/a/b/",
    b"/.",
    b"/wp-",
    b"/x.php",
    b"/img.png",
    b"/%2e",
    b"/?password=",
    b"/s?q=",
    b"/dump.sql",
    b"/cgi-bin/",
    b"/login",
    b"/xmlrpc.php",
    b"/phpmyadmin/",
];

/// The bit of an input's first byte that includes the detector.
pub const WITH_DETECTOR: u8 = 8;

/// One request of an input.
struct Input<'a> {
    client: u8,
    second: i64,
    method: &'a [u8],
    path: Vec<u8>,
    status: u16,
    size: u64,
}

impl<'a> Input<'a> {
    fn of(cursor: &mut Cursor<'a>, second: i64) -> Input<'a> {
        let head = cursor.byte();
        let method = match cursor.byte() {
            n @ 0..128 => METHODS[usize::from(n) % METHODS.len()],
            _ => cursor.text(),
        };
        let mut path = cursor.pick(&BEGINNINGS).to_vec();
        path.extend_from_slice(cursor.text());
        let status = match cursor.byte() {
            n @ 0..250 => STATUSES[usize::from(n) % STATUSES.len()],
            _ => cursor.short() % 1000,
        };
        // A quarter of the requests come a little late or leave a gap.
        let step = match head >> 4 {
            0..12 => 0,
            n @ 12..14 => i64::from(n) - 11,
            14 => -3,
            _ => i64::from(cursor.short() % 700),
        };
        Input {
            client: head % 3,
            second: second + step,
            method,
            path,
            status,
            size: u64::from(cursor.byte() % 4),
        }
    }

    fn request(&self) -> Request<'_> {
        Request {
            addr: IpAddr::V4(Ipv4Addr::new(192, 0, 2, self.client)),
            time: self.second,
            method: self.method,
            path: &self.path,
            status: self.status,
            size: self.size,
            behind_proxy: false,
        }
    }
}

/// `requests`.
pub fn check(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let mode = cursor.byte();
    let policy = policy(mode);
    let all = requests(cursor);
    check_traces(&all, &policy);
    // Detectors are large, so half of the inputs leave them out and run fast.
    if mode & WITH_DETECTOR != 0 {
        check_detector(&all, &policy);
    }
}

fn requests(mut cursor: Cursor<'_>) -> Vec<Input<'_>> {
    let mut all: Vec<Input<'_>> = Vec::new();
    while !cursor.is_empty() && all.len() < MAX_REQUESTS {
        let second = all.last().map_or(START, |last| last.second);
        all.push(Input::of(&mut cursor, second));
    }
    all
}

/// The default policy, or one with thresholds that a short input reaches.
fn policy(byte: u8) -> Policy {
    let mut policy = Policy::default();
    if byte % 2 == 1 {
        policy.evidence.threshold = 7.0;
        policy.behaviour.logins = 8;
        policy.behaviour.login_burst = 6;
        policy.behaviour.remote_calls = 5;
        policy.error_surge.malformed_requests = 6;
        policy.error_surge.min_errors = 8;
        policy.flood.rate = 0.5;
        policy.flood.page_requests = 14;
        policy.z_score.min_requests = 25;
        policy.rate_multiplier.min_requests = 25;
    }
    if byte & 2 != 0 {
        policy.warm_up_secs = 0;
    }
    if byte & 4 != 0 {
        policy.not_errors = vec![403, 429];
    }
    policy
}

fn check_traces(all: &[Input<'_>], policy: &Policy) {
    let tracer = || Tracer::new(Seeded::new(1), &policy.not_errors);
    let mut warm = tracer();
    for input in all {
        let request = input.request();
        let trace = trace_by(&mut warm, &request);
        assert_eq!(trace_by(&mut warm, &request), trace, "a second time");
        check_trace(&request, &trace, policy);
        check_shape(&input.path);
    }
    // A tracer's caches change no result.
    if let Some(last) = all.last() {
        assert_eq!(
            trace_by(&mut tracer(), &last.request()),
            trace_by(&mut warm, &last.request()),
            "by a tracer that knows nothing"
        );
    }
}

fn trace_by(tracer: &mut Tracer, request: &Request<'_>) -> Trace {
    let hashed = tracer.hash_path(request.path);
    tracer.trace(request, hashed)
}

fn check_trace(request: &Request<'_>, trace: &Trace, policy: &Policy) {
    let has = |flag| trace.flags.has(flag);
    let implies = |flag, other| assert!(!has(flag) || has(other), "{request:?} is {trace:?}");
    assert!(
        matches!(trace.weight, 0 | 1 | 2 | 3 | 5 | 10 | 12 | 20 | 30),
        "{request:?} weighs {}",
        trace.weight
    );
    assert!(!has(Flags::ASSET) || trace.weight == 0, "{request:?} is harmless and weighs {}", trace.weight);
    let is_error = request.status >= 400 && !policy.not_errors.contains(&request.status);
    assert_eq!(has(Flags::ERROR), is_error, "{request:?}");
    assert_eq!(has(Flags::POST), request.method == b"POST", "{request:?}");
    implies(Flags::FAILED, Flags::ERROR);
    implies(Flags::BROKEN, Flags::ERROR);
    implies(Flags::FOREIGN, Flags::NO_TARGET);
    implies(Flags::LOGIN, Flags::POST);
    implies(Flags::REMOTE_CALL, Flags::POST);
    assert!(!(has(Flags::FAILED) && has(Flags::BROKEN)), "{request:?} is {trace:?}");
    assert!(!has(Flags::FAILED) || (400..500).contains(&request.status), "{request:?} is {trace:?}");
    assert!(matches!(trace.foreign_tenths(), 0 | 3 | 10), "{request:?}");
}

fn check_shape(target: &[u8]) {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let shape = shape::of_path(path);
    assert!(shape.told_by <= path.len(), "{shape:?} of {path:?}");
    let is_path = path == b"*" || (path.first() == Some(&b'/') && path.iter().all(|byte| *byte >= 0x20));
    assert_eq!(shape.kind == Kind::Foreign, !is_path, "{shape:?} of {path:?}");
    let query = &target[path.len()..];
    if let Query::Password(value) = shape::of_query(query) {
        assert!(value.len() < query.len(), "{value:?} of {query:?}");
    }
}

/// Checks that two detectors with different seeds give the same verdicts.
fn check_detector(all: &[Input<'_>], policy: &Policy) {
    let mut detectors = [1, 2].map(|seed| Detector::new(policy.clone(), 64, seed));
    let mut found_at = BTreeMap::new();
    for input in all {
        let request = input.request();
        let client = detectors[0].client_of(&request);
        let [one, other] = detectors.each_mut().map(|detector| {
            let prepared = detector.prepare(&request);
            detector.observe(&request, input.second, &prepared, Standing::Normal)
        });
        assert_eq!(essence(&one), essence(&other), "with another seed");
        let explained = detectors[0].explain(client, input.second);
        // The score is judged when evidence comes: its bar may sink later.
        let by_score = |view: &RuleView| {
            view.measures.iter().any(|measure| measure.name == "score" && measure.value >= measure.threshold)
        };
        let firing: Vec<_> = explained.rules.iter().filter(|view| view.fires).map(|view| view.rule).collect();
        let unjudged: Vec<_> = explained.rules.iter().filter(|view| view.fires && !by_score(view)).collect();
        let quiet_until = found_at.get(&input.client).map_or(i64::MIN, |at| at + QUIET_SECS);
        match &one {
            Verdict::Anomalous(evidence) => {
                // A verdict on the score halves it.
                let is_by_score = evidence.condition.starts_with("score=");
                assert!(
                    is_by_score || firing.contains(&evidence.rule),
                    "{:?} is not explained: {firing:?}",
                    evidence.rule
                );
                found_at.insert(input.client, input.second);
            }
            Verdict::Normal if input.second > quiet_until && explained.requests >= FIRST_JUDGED => {
                assert!(unjudged.is_empty(), "fires, and was not judged: {unjudged:?}");
            }
            Verdict::Normal => {}
        }
    }
    let bytes = detectors[0].status().clients_bytes;
    assert!(bytes <= MAX_TABLE_BYTES + 3 * MAX_CLIENT_BYTES, "{bytes} bytes for three clients");
}

/// Returns the part of a verdict that the seed must not change: all but the paths, of which a table keyed by hashes keeps
/// some.
fn essence(verdict: &Verdict) -> Option<Evidence> {
    match verdict {
        Verdict::Anomalous(evidence) => {
            Some(Evidence { top_paths: Vec::new(), account: Vec::new(), ..(**evidence).clone() })
        }
        Verdict::Normal => None,
    }
}
