//! Tests of the whole detector: poisoning, warm-up, order of lines, clients that must never be banned. Its parts have
//! tests of their own.

use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use crate::detect::detector::{Detector, Standing, TopWalk};
use crate::detect::policy::{Policy, Reference};
use crate::vocab::client::Client;
use crate::vocab::report::GlobalChange;
use crate::vocab::request::Request;
use crate::vocab::verdict::{Evidence, Rule, Verdict};

/// A Monday's 08:00 UTC.
const START: i64 = 1_767_600_000;

fn addr(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 + n))
}

/// A request at `second`, with its method, path and status.
pub(super) fn request<'a>(addr: IpAddr, second: i64, asked: (&'a str, &'a str, u16)) -> Request<'a> {
    let (method, path, status) = asked;
    Request {
        addr,
        time: second,
        method: method.as_bytes(),
        path: path.as_bytes(),
        status,
        size: 512,
        behind_proxy: false,
    }
}

struct Site {
    detector: Detector,
    verdicts: Vec<(i64, u32, Box<Evidence>)>,
    changes: Vec<GlobalChange>,
}

impl Site {
    fn new(policy: Policy) -> Site {
        Site { detector: Detector::new(policy, 64, 1), verdicts: Vec::new(), changes: Vec::new() }
    }

    fn ask(&mut self, second: i64, client: u32, method: &str, path: &str, status: u16) {
        let request = request(addr(client), second, (method, path, status));
        let prepared = self.detector.prepare(&request);
        if let Verdict::Anomalous(evidence) =
            self.detector.observe(&request, second, &prepared, Standing::Normal)
        {
            self.verdicts.push((second, client, evidence));
        }
    }

    fn get(&mut self, second: i64, client: u32, path: &str) {
        self.ask(second, client, "GET", path, 200);
    }

    fn tick(&mut self, second: i64) {
        self.changes.extend(self.detector.tick(second));
    }

    /// Plays `secs` of ordinary traffic, `rate` requests per second from changing clients, and returns its end.
    fn ordinary(&mut self, from: i64, secs: i64, rate: u32) -> i64 {
        for second in from..from + secs {
            for n in 0..rate {
                let client = 1000 + ((second - START) as u32 / 20 * rate + n) % 5000;
                self.get(second, client, ["/", "/about", "/style.css", "/news/1"][n as usize % 4]);
            }
            self.tick(second);
        }
        from + secs
    }
}

#[test]
fn ten_minutes_of_attack_do_not_become_normal() {
    for policy in [Policy::default(), Policy::classic()] {
        let reference = policy.reference;
        let mut site = Site::new(policy);
        let mut second = site.ordinary(START, 1800, 2);
        let before = site.verdicts.len();
        let end = second + 660;
        while second < end {
            (0..100).for_each(|n| site.get(second, 7, &format!("/page/{n}?{second}")));
            second = site.ordinary(second, 1, 2);
        }
        let attacker: Vec<i64> =
            site.verdicts[before..].iter().filter(|(_, c, _)| *c == 7).map(|(at, ..)| *at).collect();
        assert!(attacker.iter().any(|at| *at >= end - 60), "still anomalous in minute 11 ({reference:?})");
        let mean = site.detector.status().global.mean;
        assert!(mean < 4.0, "the site's 2 requests/s, not the attacker's 100: {mean} ({reference:?})");
        if reference == Reference::Adaptive {
            assert!(site.verdicts.iter().all(|(_, client, _)| *client == 7), "nobody else");
        }
    }
}

/// A path of two words, another one for each number.
fn of_words(n: u32) -> String {
    let letters = |n: u32| [n / 676, n / 26, n].map(|n| char::from(b'a' + (n % 26) as u8)).into_iter();
    format!("/{}/{}", letters(n / 17_576).collect::<String>(), letters(n).collect::<String>())
}

/// A client that asks for many pages was taken for a dashboard that repeats a few, once the pages of others had taken the place of
/// its own among the texts of paths.
#[test]
fn pages_that_others_ask_for_hide_nobody() {
    let found_beside = |others: u32| {
        let mut site = Site::new(Policy::default());
        let begin = site.ordinary(START, 1800, 2);
        for second in begin..begin + 60 {
            (0..12).for_each(|n| site.get(second, 7, &of_words(second as u32 % 1000 * 12 + n)));
            for n in 0..others {
                let asked = (second - begin) as u32 * others + n;
                site.get(second, 10_000 + asked, &of_words(100_000 + asked));
            }
            site.ordinary(second, 1, 2);
        }
        site.verdicts.first().map(|(at, client, evidence)| (*at - begin, *client, evidence.rule))
    };
    assert_eq!(found_beside(0), Some((49, 7, Rule::ZScore)));
    assert_eq!(found_beside(800), found_beside(0));
}

/// History: a fuzzer found a client whose paths shared a place among the texts under one seed and not under another. One path
/// fewer was known of it, too few to be of one kind.
#[test]
fn the_seed_does_not_decide_what_is_of_one_kind() {
    let mut policy = Policy { warm_up_secs: 0, ..Policy::default() };
    policy.z_score.min_requests = 25;
    for seed in 0..1000 {
        let mut site =
            Site { detector: Detector::new(policy.clone(), 64, seed), ..Site::new(policy.clone()) };
        (0..48).for_each(|n| site.get(START + n, 7, &format!("/item/{}", 1 + n % 8)));
        assert!(site.verdicts.is_empty(), "{seed}: {:?}", site.verdicts.first());
    }
}

#[test]
fn a_true_doubling_is_accepted_within_the_hour_and_bans_nobody() {
    let mut site = Site::new(Policy::default());
    let second = site.ordinary(START, 3600, 10);
    site.ordinary(second, 3600, 20);
    assert!(site.verdicts.is_empty(), "{:?}", site.verdicts.first());
    let mean = site.detector.status().global.mean;
    assert!((18.0..22.0).contains(&mean), "{mean}");
    assert!(!site.detector.status().global_anomaly, "{:?}", site.changes);
}

#[test]
fn a_lasting_tenfold_level_is_announced_and_then_accepted() {
    let mut site = Site::new(Policy::default());
    let second = site.ordinary(START, 1800, 2);
    site.ordinary(second, 3600, 20);
    let kinds: Vec<bool> = site.changes.iter().map(|c| matches!(c, GlobalChange::Started { .. })).collect();
    assert_eq!(kinds, [true, false], "{:?}", site.changes);
    assert!((18.0..22.0).contains(&site.detector.status().global.mean));
    assert!(site.verdicts.is_empty(), "a global anomaly bans nobody");
}

#[test]
fn the_first_visitor_of_a_quiet_site_is_welcome() {
    let mut site = Site::new(Policy::default());
    site.get(START, 1, "/");
    for second in START + 1..START + 4 {
        (0..40).for_each(|n| site.get(second, 1, &format!("/gallery/{n}.jpg")));
        (0..6).for_each(|n| site.get(second, 1, &format!("/gallery/page{n}{second}")));
    }
    assert!(site.verdicts.is_empty());
}

#[test]
fn legitimate_programs_are_not_banned() {
    let mut site = Site::new(Policy::default());
    let second = site.ordinary(START, 1800, 2);
    for at in second..second + 300 {
        // A file sync: ten files a second looked for, a few of them missing, all let in.
        (0..10).for_each(|n| site.ask(at, 1, "PROPFIND", &format!("/dav/d{at}/{n}"), 207));
        (0..3).for_each(|n| site.ask(at, 1, "PROPFIND", &format!("/dav/._f{at}{n}"), 404));
        // A feed reader whose feed is gone, once a second.
        site.ask(at, 2, "GET", "/feed.xml", 404);
        // A login that waits for its second factor.
        site.ask(at, 3, "POST", "/login/v2/poll", 404);
        // A media library without pictures.
        site.ask(at, 4, "GET", &format!("/Items/{at}/Images/Primary"), 404);
        // A page that polls its API while the backend is down.
        site.ask(at, 5, "GET", "/api/state", 502);
        // A health check with the wrong name.
        if at % 5 == 0 {
            site.ask(at, 6, "GET", "/", 400);
        }
    }
    let banned: Vec<_> = site.verdicts.iter().map(|(at, c, e)| (at - second, c, &e.condition)).collect();
    assert!(
        banned.iter().all(|(_, client, _)| **client != 1 && **client != 4 && **client != 6),
        "{banned:?}"
    );
    assert!(banned.iter().all(|(_, client, _)| ![2, 3, 5].contains(*client)), "{banned:?}");
}

#[test]
fn a_failing_site_bans_no_client() {
    let mut site = Site::new(Policy::default());
    let second = site.ordinary(START, 1800, 5);
    for at in second..second + 600 {
        for n in 0..5 {
            let client = 2000 + (at as u32 / 10 + n) % 40;
            for page in 0..3 {
                site.ask(at, client, "GET", &format!("/shop/{n}/{page}/{at}"), 502);
            }
        }
        site.tick(at);
    }
    assert!(site.verdicts.is_empty(), "{:?}", site.verdicts.first());
}

#[test]
fn during_warm_up_only_absolute_rules_ban() {
    let mut site = Site::new(Policy::default());
    for second in START..START + 120 {
        (0..12).for_each(|n| site.get(second, 1, &format!("/page/{second}/{n}")));
    }
    assert!(site.verdicts.is_empty(), "12 pages/s are no absolute flood");
    for second in START + 120..START + 200 {
        (0..50).for_each(|n| site.get(second, 2, &format!("/page/{second}/{n}")));
    }
    let first = site.verdicts.first().map(|(at, client, e)| (*at - START - 120, *client, e.rule));
    assert_eq!(first, Some((47, 2, Rule::Flood)), "50 pages/s are 40 pages/s over a minute after 48 s");
}

#[test]
fn a_flood_of_one_page_is_seen_within_three_seconds() {
    let mut site = Site::new(Policy::default());
    for second in START..START + 3 {
        (0..33).for_each(|n| site.ask(second, 1, "GET", &format!("/?{n}{second}"), 499));
    }
    assert_eq!(site.verdicts.first().map(|(at, ..)| at - START), Some(1));
}

/// A word for each number: templates take numbers out.
fn word(n: u32) -> String {
    (0..4).map(|at| char::from(b'a' + (n / 7_u32.pow(at) % 7) as u8)).collect()
}

#[test]
fn probing_by_target_and_answer() {
    let check = |requests: &[(&str, &str, u16)], expected: Option<Rule>| {
        let mut site = Site::new(Policy::default());
        for (n, (method, path, status)) in requests.iter().enumerate() {
            site.ask(START + n as i64, 1, method, path, *status);
        }
        assert_eq!(site.verdicts.first().map(|(.., e)| e.rule), expected, "{requests:?}");
    };
    let probes =
        ["/.env", "/.git/config", "/backup.sql", "/phpmyadmin/", "/wp-config.php", "/.aws/credentials"];
    let with = |status| probes.map(|path| ("GET", path, status)).to_vec();
    check(&with(404), Some(Rule::Probing));
    check(&with(404)[..4], None);
    check(&with(502), None);
    check(&with(301), None);
    check(&with(200), None);
    let hidden: Vec<String> = (0..9).map(|n| format!("/{}/.env", word(n))).collect();
    check(&hidden.iter().map(|path| ("GET", path.as_str(), 502)).collect::<Vec<_>>(), Some(Rule::Probing));
    let pages: Vec<String> = (0..20).map(|n| format!("/{}", word(n))).collect();
    let dead: Vec<_> = pages.iter().map(|path| ("GET", path.as_str(), 404)).collect();
    check(&dead[..10], None);
    check(&dead[..11], Some(Rule::Probing));
    let items: Vec<String> = (0..60).map(|n| format!("/objects/7a{n:02}d9c3e5")).collect();
    check(&items.iter().map(|path| ("GET", path.as_str(), 404)).collect::<Vec<_>>(), None);
    // A crawler that follows as many good links as dead ones.
    let gone: Vec<String> = (100..120).map(|n| format!("/{}", word(n))).collect();
    let mixed: Vec<_> = pages
        .iter()
        .enumerate()
        .flat_map(|(n, path)| {
            [("GET", path.as_str(), 200), ("GET", gone[n].as_str(), 404), ("GET", "/", 200)]
        })
        .collect();
    check(&mixed, None);
    let scripts: Vec<String> = (0..30).map(|n| format!("/s{n}.php")).collect();
    let alike: Vec<_> = scripts.iter().map(|path| ("GET", path.as_str(), 200)).collect();
    check(&alike[..9], None);
    check(&alike, Some(Rule::Probing));
}

#[test]
fn repeated_logins_are_banned() {
    let mut site = Site::new(Policy::default());
    for second in START..START + 120 {
        if second % 2 == 0 {
            site.ask(second, 1, "POST", "/wp-login.php", 200);
        }
        // An office that logs in on Monday morning: right passwords are answered with a redirect, which is followed.
        site.ask(second, 2, "POST", "/login", 302);
        site.get(second, 2, "/");
        site.ask(second, 3, "POST", "/xmlrpc.php", 200);
    }
    let mut rules: Vec<_> = site.verdicts.iter().map(|(_, client, e)| (*client, e.rule)).collect();
    rules.dedup();
    assert!(rules.contains(&(1, Rule::Behaviour)) && rules.contains(&(3, Rule::Behaviour)), "{rules:?}");
    assert!(rules.iter().all(|(client, _)| *client != 2));
}

#[test]
fn a_client_unlike_all_others_is_found_once_the_site_is_known() {
    let mut policy = Policy::default();
    policy.behaviour.experience_secs = 1800;
    let mut site = Site::new(policy);
    let second = site.ordinary(START, 1800, 3);
    for at in second..second + 60 {
        (0..4).for_each(|n| site.get(at, 9, &format!("/{}/", word(at as u32 % 1000 * 4 + n))));
    }
    let found = site.verdicts.first().map(|(_, client, e)| (*client, e.rule));
    assert_eq!(found, Some((9, Rule::Behaviour)));
}

#[test]
fn a_site_whose_clients_all_do_much_bans_none_of_them() {
    let mut site = Site::new(Policy::default());
    for second in START..START + 3600 {
        // Ten telephones that each sync 300 things in a minute, one after another.
        let phone = 50 + ((second - START) / 60 % 10) as u32;
        (0..5).for_each(|n| site.ask(second, phone, "POST", &format!("/sync/{n}"), 200));
        site.tick(second);
    }
    assert!(site.verdicts.is_empty(), "{:?}", site.verdicts.first());
}

/// The bound of the policy reaches the table of clients, also after the log's clock was set back.
#[test]
fn no_more_clients_are_tracked_than_the_policy_allows() {
    let mut site = Site::new(Policy { max_clients: 50, ..Policy::default() });
    let tracked = |site: &Site| {
        let status = site.detector.status();
        (status.clients_tracked, status.evicted)
    };
    (0..50).for_each(|client| site.get(START, client, "/"));
    assert_eq!(tracked(&site), (50, 0));
    (50..80).for_each(|client| site.get(START, client, "/"));
    assert_eq!(tracked(&site), (50, 30));
    (0..1000).for_each(|client| site.get(START - 86_400, client, "/"));
    assert_eq!(site.detector.status().latest_secs, START - 86_400);
    assert_eq!(tracked(&site).0, 50);
}

#[test]
fn forgetting_a_client_clears_its_window() {
    let mut site = Site::new(Policy::default());
    for n in 0..12 {
        site.ask(START, 1, "GET", &format!("/page{n}"), 404);
    }
    site.detector.forget(Client::of_addr(addr(1), 64));
    site.ask(START + 1, 1, "GET", "/page12", 404);
    assert!(site.verdicts.is_empty());
}

#[test]
fn requests_of_banned_clients_are_not_learned() {
    let mut site = Site::new(Policy::default());
    let second = site.ordinary(START, 1800, 2);
    for at in second..second + 300 {
        let request = Request {
            addr: addr(1),
            time: at,
            method: b"GET",
            path: b"/",
            status: 200,
            size: 0,
            behind_proxy: false,
        };
        let prepared = site.detector.prepare(&request);
        (0..50).for_each(|_| {
            assert_eq!(site.detector.observe(&request, at, &prepared, Standing::Banned), Verdict::Normal);
        });
        site.tick(at);
    }
    let status = site.detector.status();
    assert!(status.global_rate > 40.0, "it is shown");
    assert!(status.global.mean < 3.0, "but not learned: {}", status.global.mean);
}

#[test]
fn the_clock_of_a_log_may_jump() {
    let mut site = Site::new(Policy::default());
    let second = site.ordinary(START, 300, 2);
    site.get(4_000_000_000, 1, "/a line of the next century");
    site.ordinary(second, 300, 2);
    assert_eq!(site.detector.status().latest_secs, second + 299, "it went back");
    site.get(-5, 1, "/");
    site.get(i64::MAX, 1, "/");
    assert!(site.verdicts.is_empty());
}

/// No second, however far away, takes a loop over the time between, or overflows.
#[test]
fn the_ends_of_time_are_seconds_like_others() {
    let last = i64::from(u32::MAX);
    for jumps in [[START, last], [1, last], [last, START], [i64::MIN, i64::MAX], [last - 1, last], [0, 59]] {
        let mut site = Site::new(Policy::default());
        for second in jumps {
            site.get(second, 1, "/");
            site.tick(second);
            for n in 0..200 {
                site.get(second.saturating_add(n % 70), n as u32, "/");
            }
            site.detector.explain(Client::of_addr(addr(1), 64), second);
            site.detector.top(3, second);
            let status = site.detector.status();
            assert!((0..=last).contains(&status.latest_secs));
        }
    }
}

#[test]
fn an_explanation_shows_every_rule_beside_its_threshold() {
    let mut site = Site::new(Policy::default());
    for n in 0..5 {
        site.ask(START, 1, "GET", &format!("/{}", word(n)), 404);
    }
    let explanation = site.detector.explain(Client::of_addr(addr(1), 64), START);
    assert!(explanation.known);
    assert_eq!((explanation.requests, explanation.errors), (5, 5));
    assert_eq!(explanation.rules.len(), crate::detect::rules::ORDER.len());
    let probing = explanation.rules.iter().find(|view| view.rule == Rule::Probing).unwrap();
    let score = probing.measures.iter().find(|m| m.name == "score" && m.value > 0.0).unwrap();
    assert_eq!((score.value, score.threshold, probing.fires), (6.0, 12.0, false));
    assert_eq!(explanation.top_paths.len(), 5);
    assert!(!site.detector.explain(Client::of_addr(addr(2), 64), START).known);
}

#[test]
fn evidence_carries_the_values_that_decided() {
    let mut site = Site::new(Policy::default());
    for n in 0..11 {
        site.ask(START + n, 1, "GET", &format!("/{}", word(n as u32)), 404);
    }
    let [(second, 1, evidence)] = &site.verdicts[..] else { panic!("{:?}", site.verdicts) };
    assert_eq!((*second, evidence.at_secs), (START + 10, START + 10));
    assert_eq!((evidence.rule, evidence.condition.as_str()), (Rule::Probing, "score=13.01 >= threshold=12"));
    assert_eq!((evidence.requests, evidence.errors, evidence.window_secs), (11, 11, 60));
    assert!((evidence.rate - 11.0 / 60.0).abs() < 1e-12);
    assert!((evidence.z_score - (11.0 / 60.0 - 0.1) / 0.1).abs() < 1e-12);
    assert_eq!((evidence.mean, evidence.stddev, evidence.threshold), (0.1, 0.1, 12.0));
    assert_eq!((evidence.baseline.as_str(), evidence.tightened), ("warm_up", false));
    let paths: Vec<_> = evidence.top_paths.iter().map(|top| (top.path.as_str(), top.count)).collect();
    assert_eq!(paths.len(), 5);
    assert!(paths.is_sorted() && paths.iter().all(|(_, count)| *count == 1), "{paths:?}");
}

#[test]
fn evidence_counts_a_path_once_whatever_its_queries() {
    let mut site = Site::new(Policy::default());
    for n in 0..125 {
        site.ask(START + n / 30, 1, "GET", ["/?a", "/?b"][n as usize % 2], 499);
        site.ask(START + n / 30, 1, "GET", "/other", 499);
    }
    let (.., evidence) = &site.verdicts[0];
    assert_eq!(evidence.rule, Rule::Flood);
    let paths: Vec<_> = evidence.top_paths.iter().map(|top| (top.path.as_str(), top.count)).collect();
    assert_eq!(paths, [("/", 40), ("/other", 39)]);
}

/// The thirteenth request is too many; ten seconds later the client is judged again, and by then its errors tighten the
/// thresholds.
#[test]
fn errors_tighten_the_rate_rules() {
    let mut site = Site::new(Policy::classic());
    for n in 0..24 {
        site.ask(START + n, 1, "GET", "/", 404);
    }
    let seen: Vec<_> =
        site.verdicts.iter().map(|(at, _, e)| (at - START, e.rule, e.tightened, e.threshold)).collect();
    assert_eq!(seen, [(12, Rule::RateMultiplier, false, 0.2), (23, Rule::ZScore, true, 1.2)]);
}

/// More clients than one piece has, with requests counted between the pieces.
#[test]
fn the_busiest_clients_are_found_in_pieces_too() {
    let mut site = Site::new(Policy::default());
    for client in 1..=20_000u32 {
        let count = if client.is_multiple_of(7_000) { client / 7_000 + 1 } else { 1 };
        (0..count).for_each(|_| site.ask(START, client, "GET", "/", 200));
    }
    let mut walk = TopWalk::new(3);
    let mut pieces = 1;
    let top = loop {
        if let Some(top) = walk.step(&site.detector, START) {
            break top;
        }
        pieces += 1;
        site.ask(START, 30_000 + pieces, "GET", "/", 200);
    };
    assert_eq!(pieces, 3);
    let clients: Vec<_> = top.iter().map(|summary| (summary.client, summary.requests)).collect();
    let client = |n| Client::of_addr(addr(n), 64);
    assert_eq!(clients[..2], [(client(14_000), 3), (client(7_000), 2)]);
    assert_eq!(clients.len(), 3);
}

#[test]
fn the_busiest_clients_come_first_with_their_rates() {
    let mut site = Site::new(Policy::default());
    for n in 0..7 {
        (1..=3).for_each(|client| {
            if n < [3, 7, 7][client as usize - 1] {
                site.ask(START + n, client, "GET", "/", if n == 0 { 404 } else { 200 });
            }
        });
    }
    let top = site.detector.top(2, START + 7);
    let clients: Vec<_> =
        top.iter().map(|summary| (summary.client, summary.requests, summary.errors)).collect();
    let client = |n| Client::of_addr(addr(n), 64);
    assert_eq!(clients, [(client(2), 7, 1), (client(3), 7, 1)]);
    assert!((top[0].rate - 7.0 / 60.0).abs() < 1e-12);
    assert!((top[0].z_score - (7.0 / 60.0 - 0.1) / 0.1).abs() < 1e-9);
    let later: Vec<_> = site.detector.top(9, START + 62).iter().map(|summary| summary.client).collect();
    assert_eq!(later, [client(2), client(3)], "client 1 has no request in the last 60 s");
}

#[test]
fn the_status_adds_up() {
    let mut site = Site::new(Policy::default());
    for second in START..START + 60 {
        (0..4).for_each(|client| site.ask(second, client, "GET", "/", if client == 0 { 404 } else { 200 }));
    }
    site.get(START - 301, 9, "/too late for any window");
    let status = site.detector.status();
    assert_eq!((status.global_rate, status.global_error_rate), (4.0, 1.0));
    assert_eq!((status.warming_up, status.warm_up_left_secs), (true, 600 - 59));
    assert_eq!((status.clients_tracked, status.evicted, status.late), (4, 0, 1));
    assert_eq!((status.latest_secs, status.hour_slots, status.hours.len()), (START + 59, 0, 24));
    assert_eq!((status.frozen, status.global_anomaly), (false, false));
    assert!((4 * 64..64 * 1024 * 1024).contains(&status.clients_bytes), "{}", status.clients_bytes);
    site.tick(START + 660);
    let status = site.detector.status();
    assert_eq!((status.warming_up, status.warm_up_left_secs, status.global_rate), (false, 0, 0.0));
    assert_eq!(site.detector.status().clients_tracked, 0, "swept after 10 min");
}

#[test]
fn nearness_is_the_weakest_check_of_a_clause() {
    let mut site = Site::new(Policy::default());
    for n in 0..5 {
        site.ask(START, 1, "GET", &format!("/{}", word(n)), 404);
    }
    let near = site.detector.nearness(Client::of_addr(addr(1), 64), START);
    let share = |rule, clause| near.iter().find(|n| n.rule == rule && n.clause == clause).map(|n| n.share);
    assert_eq!(share(Rule::Probing, 0), Some(6.0 / 12.0));
    assert_eq!(share(Rule::Flood, 0), Some(5.0 / 1200.0));
    assert_eq!(share(Rule::ZScore, 0), None, "not evaluated during the warm-up");
}

/// The requests of random logs.
const TARGETS: [(&str, &str, u16); 12] = [
    ("GET", "/", 200),
    ("GET", "/style.css", 200),
    ("GET", "/missing1", 404),
    ("GET", "/missing2", 404),
    ("GET", "/.env", 404),
    ("GET", "/.git/config", 403),
    ("POST", "/login", 200),
    ("GET", "/a.php", 404),
    ("", "", 400),
    ("GET", "/report", 500),
    ("GET", "/dump.sql", 301),
    ("POST", "/xmlrpc.php", 200),
];

/// The first verdict of each client.
fn verdicts_of(log: &[(i64, u32, usize)], policy: &Policy, seed: u64) -> Vec<(i64, u32)> {
    let mut site = Site { detector: Detector::new(policy.clone(), 64, seed), ..Site::new(policy.clone()) };
    for (second, client, target) in log {
        let (method, path, status) = TARGETS[*target];
        site.ask(START + second, *client, method, path, status);
    }
    let mut seen = std::collections::BTreeMap::new();
    for (second, client, _) in site.verdicts {
        seen.entry(client).or_insert(second);
    }
    seen.into_iter().map(|(client, second)| (second, client)).collect()
}

fn log() -> impl Strategy<Value = Vec<(i64, u32, usize)>> {
    prop::collection::vec((0i64..40, 0u32..3, 0usize..TARGETS.len()), 0..300).prop_map(|mut log| {
        log.sort_by_key(|(second, ..)| *second);
        log
    })
}

/// Thresholds that random logs reach.
fn touchy() -> Policy {
    let mut policy = Policy::default();
    policy.evidence.threshold = 7.0;
    policy.behaviour.logins = 9;
    policy.error_surge.malformed_requests = 6;
    policy.flood.page_requests = 8;
    policy.warm_up_secs = 0;
    policy.z_score.min_requests = 60;
    policy
}

proptest! {
    #[test]
    fn the_order_of_a_seconds_lines_makes_no_difference(log in log(), shuffle in any::<u64>()) {
        let mut shuffled = log.clone();
        let mut state = shuffle | 1;
        shuffled.sort_by_cached_key(|(second, ..)| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*second, state >> 33)
        });
        prop_assert_eq!(verdicts_of(&log, &touchy(), 1), verdicts_of(&shuffled, &touchy(), 1));
    }

    #[test]
    fn verdicts_do_not_depend_on_the_seed(log in log(), seed in any::<u64>()) {
        prop_assert_eq!(verdicts_of(&log, &touchy(), 1), verdicts_of(&log, &touchy(), seed));
    }

    #[test]
    fn few_requests_without_errors_are_never_anomalous(
        seconds in prop::collection::vec(0i64..60, 0..=100),
        paths in prop::collection::vec("/[a-z]{1,6}(\\.css)?", 100),
    ) {
        let mut policy = Policy::default();
        policy.z_score.min_requests = 100;
        policy.rate_multiplier.min_requests = 100;
        policy.warm_up_secs = 0;
        let mut seconds = seconds;
        seconds.sort_unstable();
        let mut site = Site::new(policy);
        for (second, path) in seconds.iter().zip(&paths) {
            site.get(START + second, 1, path);
        }
        prop_assert!(site.verdicts.is_empty());
    }
}

/// Thresholds so low that a few requests reach any of them.
fn everything_low() -> Policy {
    let mut policy = touchy();
    policy.warm_up_secs = 60;
    policy.flood.page_requests = 8;
    policy.evidence.threshold = 5.0;
    policy.error_surge.min_errors = 6;
    policy.behaviour.min_paths = 8;
    policy.behaviour.min_posts = 6;
    policy.behaviour.min_repeats = 7;
    policy.behaviour.experience_secs = 0;
    policy.behaviour.z_threshold = 0.1;
    policy.behaviour.multiplier = 1.01;
    policy.behaviour.precedent_multiplier = 1.0;
    policy
}

#[test]
fn the_prefilter_opens_for_every_learned_feature() {
    let mut site = Site::new(everything_low());
    for second in START..START + 600 {
        site.get(second, second as u32 % 60 + 100, "/");
    }
    for n in 0..9 {
        site.get(START + 600 + n, 1, &format!("/page/{}", word(n as u32)));
        site.ask(START + 600 + n, 2, "POST", "/form", 502);
        site.ask(START + 600 + n, 3, "GET", "/one", 502);
    }
    let names: Vec<_> = [1, 2, 3]
        .map(|client| site.verdicts.iter().find(|(_, who, _)| *who == client))
        .into_iter()
        .flatten()
        .map(|(_, _, evidence)| evidence.measures[0].name.clone())
        .collect();
    assert_eq!(names, ["distinct_paths", "posts_to_one_path", "requests_for_one_page"]);
}

/// A request of one of a few clients, up to two minutes after the one before or up to 90 s late.
type Step = (i64, u32, usize, u32, usize);

proptest! {
    #[test]
    fn the_prefilter_hides_nothing_from_the_rules(
        steps in prop::collection::vec((-90i64..120, 1u32..4, 0usize..5, 0u32..40, 0usize..5), 1..500),
        haste in 1i64..40,
        experience_secs in prop::sample::select(vec![0, 100, 900]),
    ) {
        let mut policy = everything_low();
        policy.behaviour.experience_secs = experience_secs;
        let mut site = Site::new(policy);
        let (mut newest, mut quiet_until) = (START, std::collections::BTreeMap::new());
        let steps: Vec<Step> = steps;
        for (ahead, client, shape, name, kind) in steps {
            let second = if ahead < 0 { newest + ahead } else { newest + ahead / haste };
            newest = newest.max(second);
            let path = match shape {
                0 => format!("/page/{name}"),
                1 => format!("/{name}.php"),
                2 => format!("/.hidden/{name}"),
                3 => format!("/pic{name}.png"),
                _ => "/one".to_owned(),
            };
            let (method, status) = [("GET", 200), ("GET", 404), ("POST", 200), ("GET", 302), ("GET", 500)][kind];
            let before = site.verdicts.len();
            site.ask(second, client, method, &path, status);
            if site.verdicts.len() > before {
                quiet_until.insert(client, second + 100);
                continue;
            }
            let client_id = Client::of_addr(addr(client), 64);
            let requests = site.detector.explain(client_id, second).requests;
            let may_fire = requests > 4 && quiet_until.get(&client).is_none_or(|until| second > *until);
            // The score is judged when evidence comes, whatever the prefilter says.
            let near = site.detector.nearness(client_id, second);
            let fires: Vec<_> = near.iter().filter(|n| n.share >= 1.0 && n.name != "score").collect();
            prop_assert!(!may_fire || fires.is_empty(), "{:?} at {} hidden by the prefilter", fires, second);
        }
    }
}

/// A flood whose sender was banned within a second was announced as traffic in which no client stands out.
#[test]
fn what_banned_clients_asked_is_no_global_anomaly() {
    for is_banned in [false, true] {
        let mut site = Site::new(Policy::default());
        let begin = site.ordinary(START, 1800, 2);
        for second in begin..begin + 30 {
            (0..40).for_each(|n| site.get(second, n, "/"));
            if is_banned {
                (0..40).for_each(|n| {
                    let client = Client::of_addr(addr(n), 64);
                    site.detector.note_ban(client);
                    site.detector.forget(client);
                });
            }
            site.ordinary(second, 1, 2);
        }
        assert_eq!(site.detector.status().global_anomaly, !is_banned, "{:?}", site.changes);
    }
}

#[test]
fn what_a_banned_client_asked_before_counts_as_asked_by_a_banned_one() {
    let mut site = Site::new(Policy::default());
    for second in START..START + 10 {
        site.get(second, 7, "/");
        site.get(second, 8, "/");
        site.get(second, 8, "/about");
    }
    let status = site.detector.status();
    assert_eq!(status.seconds[50..], [(3, 0); 10]);
    assert_eq!(status.banned_rate, 0.0);

    site.detector.note_ban(Client::of_addr(addr(8), 64));
    let status = site.detector.status();
    assert_eq!((status.seconds.len(), &status.seconds[50..]), (60, &[(3, 2); 10][..]));
    assert_eq!(status.banned_rate, 20.0 / 60.0);

    site.tick(START + 30);
    assert_eq!(site.detector.status().seconds[29..39], [(3, 2); 10], "they move on");
    site.tick(START + 90);
    assert_eq!(site.detector.status().banned_rate, 0.0, "and leave the window");
}

/// A pause of a random length, and a few requests after it: pages, pictures, failures and probes of some clients.
fn visits() -> impl Strategy<Value = Vec<(i64, Vec<(u32, usize)>)>> {
    let pause =
        prop_oneof![4 => 1..90_i64, 3 => 60..1_200_i64, 1 => 1_200..90_000_i64, 1 => 86_400..400_000_i64];
    prop::collection::vec((pause, prop::collection::vec((0..12_u32, 0..8_usize), 1..30)), 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A log without a line for hours is judged the same whether time jumps ahead to its next line or passes minute by minute.
    #[test]
    fn jumping_ahead_is_as_good_as_going_minute_by_minute(visits in visits()) {
        const ASKED: [(&str, &str, u16); 8] = [
            ("GET", "/", 200),
            ("GET", "/style.css", 200),
            ("GET", "/photo.jpg", 200),
            ("GET", "/news/1", 200),
            ("GET", "/gone", 404),
            ("GET", "/.env", 404),
            ("GET", "/.git/config", 404),
            ("POST", "/wp-login.php", 200),
        ];
        let mut jumping = Site::new(Policy::default());
        let mut stepping = Site::new(Policy::default());
        let mut second = START;
        for (pause, requests) in visits {
            for minute in 1..pause / 60 {
                stepping.tick(second + 60 * minute);
            }
            second += pause;
            for (client, what) in requests {
                let (method, path, status) = ASKED[what];
                let path = if status == 404 { format!("{path}/{second}") } else { path.to_owned() };
                jumping.ask(second, client, method, &path, status);
                stepping.ask(second, client, method, &path, status);
            }
        }
        prop_assert_eq!(&jumping.verdicts, &stepping.verdicts);
        prop_assert_eq!(jumping.detector.clients_in_good_standing(), stepping.detector.clients_in_good_standing());
        prop_assert_eq!(
            String::from_utf8(jumping.detector.save()).expect("JSON"),
            String::from_utf8(stepping.detector.save()).expect("JSON")
        );
    }
}
