use super::*;
use crate::config::Config;
use crate::replay::Replay;
use shield_engine::allowlist::Allowlist;
use shield_logline::{Output, Parser, Settings};

const START: i64 = 1_788_000_000;

fn line(addr: &str, second: i64, request: &str, status: u16) -> String {
    let time = jiff::Timestamp::from_second(START + second).unwrap();
    let time = time.strftime("%d/%b/%Y:%H:%M:%S +0000");
    format!("{addr} - - [{time}] \"{request} HTTP/1.1\" {status} 512 \"-\" \"-\"\n")
}

/// A batch of the lines, in the order of their times.
fn batch(mut lines: Vec<(i64, String)>) -> Batch {
    lines.sort_by_key(|(second, _)| *second);
    let mut block: Vec<u8> = lines.into_iter().flat_map(|(_, line)| line.into_bytes()).collect();
    let mut output = Output::default();
    let end = block.len();
    Parser::new(&Settings::default()).parse_block(&mut block, 0, end, &mut output);
    assert_eq!(output.rejected.iter().sum::<u64>(), 0);
    Batch { bytes: block, lines: output.lines, ..Batch::default() }
}

fn push(lines: &mut Vec<(i64, String)>, addr: &str, second: i64, request: &str, status: u16) {
    lines.push((second, line(addr, second, request, status)));
}

/// Sixty visitors who read pages, with a few assets each, and log in at times; one scanner and one guesser.
fn site() -> Batch {
    let mut lines = Vec::new();
    for visitor in 0..60_i64 {
        let addr = format!("192.0.2.{}", visitor + 1);
        for page in 0..10 {
            let second = 600 + visitor * 17 + page * 40;
            push(&mut lines, &addr, second, &format!("GET /blog/post-{page}"), 200);
            for asset in 0..6 {
                push(&mut lines, &addr, second, &format!("GET /assets/{asset}.css"), 200);
            }
        }
        push(&mut lines, &addr, 600 + visitor * 17 + 5, "POST /login", 302);
    }
    for nth in 0..400 {
        push(&mut lines, "198.51.100.7", 900 + nth / 20, &format!("GET /.env.{nth}\\x22;}}server{{"), 404);
        push(&mut lines, "198.51.100.8", 900 + nth / 4, "POST /login", 401);
    }
    // Nobody's friend, and no attacker either.
    push(&mut lines, "203.0.113.9", 950, "GET /nothing", 404);
    batch(lines)
}

fn judged(batch: &Batch, exempt: &[&str]) -> Judged {
    let config = Config::parse("").unwrap();
    let mut replay = Replay::new(config.engine.clone(), config.policy.clone(), Allowlist::default());
    replay.feed(&mut batch.clone());
    let exempt = exempt.iter().map(|net| net.parse().unwrap()).collect();
    Judged::new(&replay.finish(), exempt, config.engine.ipv6_prefix)
}

fn suggested(batch: &Batch, beyond: Beyond, exempt: &[&str]) -> Suggestion {
    suggest(judged(batch, exempt), beyond, &mut |each| {
        each(batch);
        Ok(())
    })
    .unwrap()
}

#[test]
fn limits_let_good_clients_through_and_stop_attack_requests() {
    let site = site();
    let suggestion = suggested(&site, Beyond::Delay, &[]);
    let names: Vec<String> = suggestion.limits.iter().map(|limit| limit.place.to_string()).collect();
    assert_eq!(names, ["= /login", "/assets/", "/blog/", "all else"]);
    assert_eq!((suggestion.good_clients, suggestion.attackers, suggestion.unclear_clients), (60, 2, 1));
    assert_eq!((suggestion.good_clients_delayed, suggestion.good_clients_refused), (0, 0));
    assert_eq!(suggestion.attack_requests, 800);
    let login = &suggestion.limits[0];
    assert_eq!((login.rate, login.burst, login.undelayed), (Rate::PerMinute(6), 10, 5));
    assert_eq!(login.busiest_minute, 1);
    let rest = &suggestion.limits[3];
    assert!(!rest.is_limited && rest.attack_requests == 400 && rest.attack_requests_refused == 0, "{rest:?}");
    // 400 tries in 100 s at 0.1 a second: the first, the burst, and what leaks.
    assert!((375..=390).contains(&login.attack_requests_refused), "{login:?}");
    let assets = &suggestion.limits[1];
    assert_eq!((assets.rate, assets.busiest_minute, assets.undelayed), (Rate::PerMinute(20), 12, 5));
}

#[test]
fn a_smaller_limit_would_hit_good_clients_and_the_proof_says_so() {
    let site = site();
    let judged = {
        let mut judged = judged(&site, &[]);
        served(&mut judged, &mut |each| {
            each(&site);
            Ok(())
        })
        .unwrap();
        judged
    };
    let mut places = Candidates::default().chosen();
    let busiest = Busiest { clients: 60, p999: 1 };
    let tight = limit(&Place::Rest, &busiest, Rate::PerMinute(6), 1, Beyond::Refuse);
    let proved = prove(&judged, &mut places, vec![tight], &mut |each| {
        each(&site);
        Ok(())
    })
    .unwrap();
    assert_eq!(proved.good_clients_refused, 60, "seven requests at once, and a burst of five");
    assert_eq!(proved.good_clients_delayed, 0, "nothing is delayed with nodelay");
}

#[test]
fn nothing_of_the_log_but_plain_names_reaches_the_configuration() {
    let suggestion = suggested(&site(), Beyond::Delay, &["198.51.100.0/28"]);
    let (http, server) = (nginx::http(&suggestion), nginx::server(&suggestion));
    assert!(!http.contains(".env") && !server.contains(".env"), "{http}{server}");
    assert!(http.contains("    198.51.100.0/28 0;\n"), "{http}");
    assert!(http.contains("    \"~^/login\\z\" 1;\n"), "{http}");
    assert!(server.contains("\nlimit_req_dry_run on;\n"), "{server}");
    assert!(server.contains("\nlimit_req zone=shield_1 burst=10 delay=5;\n"), "{server}");
    assert!(
        http.contains("    default 0;\n") && !server.contains("zone=shield_4"),
        "too few use the rest: {http}{server}"
    );
    assert_eq!(
        (suggestion.attackers, suggestion.attack_requests),
        (2, 0),
        "whoever is allowed is not limited"
    );
}

#[test]
fn the_proof_reads_as_a_sentence() {
    let server = nginx::server(&suggested(&site(), Beyond::Refuse, &[]));
    let first: String = server.lines().skip(1).take(2).collect::<Vec<_>>().join("\n");
    assert!(first.starts_with("# Would have delayed 0 of 60 good clients and "), "{first}");
    assert!(first.contains("# refused: something of 0 good clients, 4"), "{first}");
    assert!(server.contains("burst=5 nodelay;"), "{server}");
}

#[test]
fn too_few_good_clients_are_an_error() {
    let mut lines = Vec::new();
    (0..29).for_each(|nth| push(&mut lines, &format!("192.0.2.{nth}"), nth, "GET /", 200));
    let batch = batch(lines);
    let error = suggest(judged(&batch, &[]), Beyond::Delay, &mut |each| {
        each(&batch);
        Ok(())
    })
    .unwrap_err();
    assert!(error.to_string().contains("29 good clients"), "{error}");
}

#[test]
fn the_quantile_leaves_out_one_in_a_thousand() {
    assert_eq!(p999((1..=1000).collect()), 999);
    assert_eq!(p999((1..=999).collect()), 999);
    assert_eq!(p999(vec![7]), 7);
    assert_eq!(p999(Vec::new()), 0);
}

#[test]
fn rates_rise() {
    assert!(RATES.windows(2).all(|two| two[0].per_minute() < two[1].per_minute()));
}
