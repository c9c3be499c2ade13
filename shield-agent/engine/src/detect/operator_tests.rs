//! What an operator says is normal here, `ignore_paths`, `expected_misses`, `monitors` and `observe`: what each lets through,
//! and what nobody gets through by it.

use std::net::IpAddr;

use crate::detect::detector::{Detector, Standing};
use crate::detect::exempt::PathPattern;
use crate::detect::policy::{Policy, ServerName, SitePolicy};
use crate::vocab::request::Request;
use crate::vocab::verdict::{Evidence, Rule, Verdict};

const START: i64 = 1_767_600_000;

const VISITOR: &str = "203.0.113.7";

struct Site {
    detector: Detector,
    now: i64,
}

fn patterns(texts: &[&str]) -> Vec<PathPattern> {
    texts.iter().map(|text| PathPattern::try_from((*text).to_owned()).unwrap()).collect()
}

impl Site {
    fn new(change: impl FnOnce(&mut Policy)) -> Site {
        let mut policy = Policy::default();
        change(&mut policy);
        Site { detector: Detector::new(policy, 64, 1), now: START }
    }

    fn ask(&mut self, from: &str, method: &str, path: &str, status: u16) -> Option<Evidence> {
        self.ask_at("", from, method, path, status)
    }

    fn ask_at(
        &mut self,
        server: &str,
        from: &str,
        method: &str,
        path: &str,
        status: u16,
    ) -> Option<Evidence> {
        let addr: IpAddr = from.parse().unwrap();
        let (method, path) = (method.as_bytes(), path.as_bytes());
        let request = Request { addr, time: self.now, method, path, status, size: 150, behind_proxy: false };
        let prepared = self.detector.prepare(&request);
        match self.detector.observe_at(server.as_bytes(), &request, self.now, &prepared, Standing::Normal) {
            Verdict::Normal => None,
            Verdict::Anomalous(evidence) => Some(*evidence),
        }
    }

    /// Asks for these once a second each, and returns how many were asked for before the first verdict.
    fn asked_before_verdict(&mut self, paths: &[String]) -> Option<usize> {
        (0..paths.len()).find(|at| {
            self.now += 1;
            self.ask(VISITOR, "GET", &paths[*at], 404).is_some()
        })
    }
}

fn words(prefix: &str, suffix: &str) -> Vec<String> {
    let word =
        |n: usize| (0..4).map(|at| char::from(b'a' + (n / 7_usize.pow(at) % 7) as u8)).collect::<String>();
    (0..300).map(|n| format!("{prefix}{}{suffix}", word(n * 37 + 5))).collect()
}

#[test]
fn an_ignored_path_speaks_for_and_against_nobody() {
    let mut site = Site::new(|policy| policy.ignore_paths = patterns(&["/healthz", "/metrics/*"]));
    for second in 0..120 {
        site.now = START + second;
        for _ in 0..100 {
            assert_eq!(site.ask(VISITOR, "GET", "/healthz", 200), None, "a flood");
        }
        assert_eq!(site.ask(VISITOR, "GET", &format!("/metrics/{second}/.env?x=1"), 403), None, "a probe");
    }
    assert!(!site.detector.explain(VISITOR.parse().unwrap(), site.now).known, "not even looked at");
    assert_eq!(site.detector.status().global_rate, 101.0, "counted in the traffic");
}

/// Attack: an ignored path as the beginning of another one.
#[test]
fn nobody_gets_out_of_an_ignored_path_by_spelling() {
    let asked = |prefix: &str, ignored: &[&str]| -> Option<usize> {
        let mut site = Site::new(|policy| policy.ignore_paths = patterns(ignored));
        let probes =
            [".env", ".git/config", "wp-config.php.bak", ".aws/credentials", "backup.sql", ".ssh/id_rsa"];
        let paths: Vec<String> = probes.iter().map(|probe| format!("{prefix}{probe}")).collect();
        site.asked_before_verdict(&paths)
    };
    let ignored = ["/healthz", "/metrics/*"];
    for prefix in [
        "/healthz/../",
        "/healthz%2f../",
        "/healthz/%2e%2e/",
        "/healthz/..%2F",
        "//healthz/..//",
        "/metrics/../",
        "/metrics/a/../../",
        "/metrics/%2e%2e%2f",
        "/./metrics//.././",
    ] {
        assert!(asked(prefix, &[]).is_some(), "{prefix}");
        assert_eq!(asked(prefix, &ignored), asked(prefix, &[]), "{prefix}");
    }
    assert_eq!(asked("/metrics/", &ignored), None, "what is ignored");
}

#[test]
fn an_expected_miss_is_no_failure_and_a_flood_of_them_is_a_flood() {
    let expected = || Site::new(|policy| policy.expected_misses = patterns(&["/nix-cache/*.narinfo"]));
    let misses = words("/nix-cache/", ".narinfo");
    assert!(Site::new(|_| ()).asked_before_verdict(&misses).is_some(), "without the setting");
    assert_eq!(expected().asked_before_verdict(&misses), None);
    assert!(expected().asked_before_verdict(&words("/", ".narinfo")).is_some(), "elsewhere");
    assert!(expected().asked_before_verdict(&words("/nix-cache/../", ".php")).is_some(), "a way out of it");
    let mut site = expected();
    let flood = (0..120).find(|second| {
        site.now = START + second;
        let mut asked = |at: &usize| site.ask(VISITOR, "GET", &misses[*at % misses.len()], 404).is_some();
        (0..200).any(|at| asked(&at))
    });
    assert!(flood.is_some(), "200 a second");
}

/// Attack: misses that cost nothing, to make failures elsewhere look few.
#[test]
fn expected_misses_earn_nothing() {
    let mut plain = Site::new(|_| ());
    let lists = words("/", "");
    let before = plain.asked_before_verdict(&lists).expect("a list of words");
    let mut site = Site::new(|policy| policy.expected_misses = patterns(&["/nix-cache/*"]));
    for miss in words("/nix-cache/", "") {
        site.now += 1;
        assert_eq!(site.ask(VISITOR, "GET", &miss, 404), None);
    }
    assert!(site.asked_before_verdict(&lists).is_some_and(|asked| asked <= before + 2));
}

#[test]
fn a_monitor_is_not_judged_and_its_neighbour_is() {
    let first = |from: &str| {
        let mut site = Site::new(|policy| policy.monitors = vec!["198.51.100.0/28".parse().unwrap()]);
        (0..300).find(|second| {
            site.now = START + second;
            let probe = site.ask(from, "GET", &format!("/.env.{second}"), 404);
            probe.or(site.ask(from, "POST", "/wp-login.php", 403)).is_some()
        })
    };
    assert_eq!(first("198.51.100.3"), None);
    assert!(first("198.51.100.16").is_some());
}

const PROBES: [&str; 5] = ["/.env", "/.git/config", "/.aws/credentials", "/backup.sql", "/.ssh/id_rsa"];

#[test]
fn a_rule_that_observes_is_reported_once_in_ten_minutes_and_does_nothing() {
    let mut site = Site::new(|policy| policy.observe = vec![Rule::Flood]);
    let mut reports = Vec::new();
    for second in 0..1100 {
        site.now = START + second;
        for _ in 0..70 {
            reports.extend(site.ask(VISITOR, "GET", "/search", 200).map(|evidence| (second, evidence)));
        }
    }
    assert_eq!(reports.len(), 2, "{reports:?}");
    for (_, evidence) in &reports {
        assert_eq!(evidence.rule, Rule::Flood);
        assert!(
            evidence.observe.as_ref().is_some_and(|why| why.contains("[detect] observe")),
            "{evidence:?}"
        );
    }
    let explained = site.detector.explain(VISITOR.parse().unwrap(), site.now);
    let flood = explained.rules.iter().find(|view| view.rule == Rule::Flood).unwrap();
    assert_eq!((flood.fires, flood.not_asked.as_deref()), (true, Some("only observes")));
}

/// Attack: a flood that is only observed, to hide from the other rules behind its verdict.
#[test]
fn nobody_hides_behind_a_rule_that_observes() {
    let mut site = Site::new(|policy| policy.observe = vec![Rule::Flood]);
    let mut verdict = None;
    for second in 0..120 {
        site.now = START + second;
        for _ in 0..70 {
            verdict = verdict.or(site.ask(VISITOR, "GET", "/search", 200).filter(|e| e.observe.is_none()));
        }
        if second >= 60 {
            let probe = PROBES[(second as usize - 60) % PROBES.len()];
            let at_probe = site.ask(VISITOR, "GET", probe, 404).filter(|e| e.observe.is_none());
            if let Some(evidence) = verdict.take().or(at_probe) {
                assert_eq!(evidence.rule, Rule::Probing);
                assert!(second < 80, "{second}");
                return;
            }
        }
        assert_eq!(verdict, None);
    }
    panic!("the probes were not noticed");
}

#[test]
fn what_is_observed_adds_nothing_to_a_ban() {
    let run = |observe: Vec<Rule>, logins: usize| {
        let mut site = Site::new(|policy| policy.observe = observe);
        let mut verdicts = Vec::new();
        for probe in &PROBES[..3] {
            site.now += 5;
            verdicts.extend(site.ask(VISITOR, "GET", probe, 404));
        }
        for _ in 0..logins {
            site.now += 5;
            verdicts.extend(site.ask(VISITOR, "POST", "/wp-login.php", 403));
        }
        let is_ban = |evidence: &&Evidence| evidence.observe.is_none();
        let observed = verdicts.iter().filter(|evidence| !is_ban(evidence)).count();
        (verdicts.iter().find(is_ban).map(|evidence| evidence.rule), observed)
    };
    assert!(run(vec![], 6).0.is_some(), "probes and passwords together");
    assert_eq!(run(vec![Rule::Probing], 6), (None, 1));
    assert_eq!(run(vec![Rule::Behaviour], 6), (None, 1));
    assert_eq!(run(vec![Rule::Probing], 20).0, Some(Rule::Behaviour), "passwords are enough by themselves");
}

/// History: the days between two runs were learned as silence, a minute at a time, and counted as experience.
#[test]
fn what_was_learned_long_ago_is_neither_diluted_nor_aged() {
    let after = |learned_secs: i64, later_secs: i64| {
        let mut past = Site::new(|_| ());
        for second in 0..learned_secs {
            past.now = START + second;
            past.ask(&format!("198.51.100.{}", second % 20), "GET", "/", 200);
        }
        let mut site = Site::new(|_| ());
        site.detector.restore(&past.detector.save()).unwrap();
        site.now = START + learned_secs + later_secs;
        for _ in 0..300 {
            site.now += 1;
            site.ask(VISITOR, "GET", "/", 200);
        }
        let status = site.detector.status();
        (status.warming_up, status.global.mean)
    };
    for later in [10, 3 * 86_400, 40 * 86_400] {
        let (is_warming_up, mean) = after(2 * 3600, later);
        assert!(!is_warming_up && mean > 0.8, "{later}: {mean}");
        assert!(after(120, later).0, "{later} s after two minutes of lines, and five more");
    }
}

#[test]
fn what_is_normal_on_one_site_is_not_on_another() {
    let site = |host: &str, judged: bool, misses: &[&str]| SitePolicy {
        host: ServerName::try_from(host.to_owned()).unwrap(),
        judged,
        ignore_paths: Vec::new(),
        expected_misses: patterns(misses),
        monitors: Vec::new(),
    };
    let sites = [
        site("*.example.org", false, &[]),
        site("cache.example.org", true, &["/c/*"]),
        site("*.old.example.org", true, &[]),
    ];
    let is_banned = |server: &str, prefix: &str| {
        let mut all = Site::new(|policy| policy.sites = sites.to_vec());
        words(prefix, "").iter().any(|path| {
            all.now += 1;
            all.ask_at(server, VISITOR, "GET", path, 404).is_some()
        })
    };
    assert!(is_banned("", "/c/") && is_banned("example.org", "/c/") && is_banned("_", "/c/"));
    assert!(!is_banned("www.example.org", "/"), "not judged at all");
    assert!(!is_banned("cache.example.org", "/c/"));
    assert!(is_banned("cache.example.org", "/"), "the exact name, not the wildcard");
    assert!(is_banned("a.old.example.org", "/"), "the longer of two wildcards");
}

#[test]
fn what_is_observed_slows_nobody() {
    let is_doubted = |observe: Vec<Rule>| {
        let mut site = Site::new(|policy| policy.observe = observe);
        for probe in &PROBES[..3] {
            site.now += 5;
            assert_eq!(site.ask(VISITOR, "GET", probe, 404), None);
        }
        site.detector.take_doubt().is_some()
    };
    assert!(is_doubted(vec![]) && is_doubted(vec![Rule::Behaviour]));
    assert!(!is_doubted(vec![Rule::Probing]));
}
