//! Ways past the rules that once worked, each at the rate at which it did, with the bound on what passes now. The attacker
//! goes on for ten minutes; what he sends after a ban is dropped before the server sees it.
//!
//! Where a path is served under another spelling, `tests/tests/nginx_paths.rs` shows that nginx serves it.

use super::*;
use crate::vocab::request::SourceId;

/// The first ban lasts longer.
const SECS: i64 = 600;

/// Long enough for every rule to be evaluated.
const KNOWN_AFTER_SECS: i64 = 7 * 3600;

/// One request: address, method, target, status, size.
type Asked = (String, &'static str, String, u16, u64);

/// An attacker: what he sends in a second of `t` on.
struct Strategy {
    name: &'static str,
    /// Requests that may pass.
    most: usize,
    sends: fn(i64) -> Vec<Asked>,
}

const ATTACKER: &str = "203.0.113.66";

fn send(method: &'static str, target: impl Into<String>, status: u16) -> Asked {
    (ATTACKER.to_owned(), method, target.into(), status, 512)
}

/// The numbers of the requests that a rate of `rate` a second brings in second `t`.
fn numbers(t: i64, rate: i64) -> impl Iterator<Item = i64> {
    t * rate..(t + 1) * rate
}

fn lines(asked: &[Asked], now: Now) -> Batch {
    let mut batch = Batch { live: true, source: Some(SourceId(3)), ..Batch::default() };
    for (addr, method, target, status, size) in asked {
        let method_at = batch.bytes.len() as u32;
        batch.bytes.extend(method.as_bytes());
        batch.bytes.extend(target.as_bytes());
        batch.lines.push(Line {
            addr: addr.parse().unwrap(),
            time: now.wall_secs(),
            method_at,
            method_len: method.len() as u16,
            path_at: method_at + method.len() as u32,
            path_len: target.len() as u32,
            server_at: 0,
            server_len: 0,
            peer_at: 0,
            peer_len: 0,
            status: *status,
            size: *size,
            behind_proxy: false,
            salvaged: false,
        });
    }
    batch
}

/// A site on which nothing was seen yet, and one with two requests a second from people for seven hours.
fn site(is_known: bool) -> (Engine, Now) {
    let mut engine = engine_with_defaults();
    let mut now = T0;
    for t in 0..if is_known { KNOWN_AFTER_SECS } else { 0 } {
        let visitors = [0, 1].map(|n| {
            let addr = format!("198.51.100.{}", (t / 20 * 2 + n) % 200);
            let path = ["/", "/about", "/style.css", "/news/1"][t as usize % 4];
            (addr, "GET", path.to_owned(), 200, 512)
        });
        engine.handle(Event::Lines(&lines(&visitors, now)), now);
        now = now.plus_ms(1000);
    }
    (engine, now)
}

fn engine_with_defaults() -> Engine {
    let settings = Settings { enforcers: EnforcerName::KERNEL.to_vec(), ..Settings::default() };
    Engine::new(settings, Policy::default(), Allowlist::default(), 1, 7)
}

/// The number of requests that pass, of all that are sent.
fn passes(engine: &mut Engine, mut now: Now, sends: fn(i64) -> Vec<Asked>) -> (usize, usize) {
    let (mut dropped, mut passed, mut sent): (Vec<Client>, _, _) = (Vec::new(), 0, 0);
    let note = |actions: Vec<Action>, dropped: &mut Vec<Client>| {
        for action in actions {
            match action {
                Action::Enforce(Order::Ban { client, .. }) => dropped.push(client.client()),
                Action::Enforce(Order::Lift { client, .. }) => dropped.retain(|known| *known != client),
                _ => {}
            }
        }
    };
    for t in 0..SECS {
        for asked in sends(t) {
            sent += 1;
            let addr: std::net::IpAddr = asked.0.parse().unwrap();
            if dropped.iter().any(|known| known.contains(addr)) {
                continue;
            }
            passed += 1;
            note(engine.handle(Event::Lines(&lines(&[asked], now)), now), &mut dropped);
        }
        now = now.plus_ms(1000);
        note(engine.handle(Event::Tick, now), &mut dropped);
    }
    (passed, sent)
}

/// Probes, each in another spelling.
fn spelled_probe(n: i64) -> String {
    const PROBES: [&str; 8] = [
        "//////.en%76?1.css",
        "/./.git//config?a.png",
        "/x/../.aws/credentials",
        "/%2e%73sh/id_rsa",
        "http://www.example.org//wp-config.php.bak",
        "/phpmyadmi%6e/index.php",
        "//backup//site.sq%6c",
        "/a/%2e%2e/.env.bak#.css",
    ];
    PROBES[n as usize % PROBES.len()].to_owned()
}

const SPELLINGS_OF_A_LOGIN: [&str; 8] = [
    "/wp-login.ph%70",
    "//wp-login.php",
    "/./wp-login.php",
    "/x/../wp-login.php",
    "/wp%2Dlogin.php",
    "/%77p-login.php",
    "http://example.org/wp-login.php",
    "/wp-login.php?.css",
];

#[test]
fn each_way_past_the_rules_is_stopped() {
    let strategies = [
        Strategy {
            name: "probes in other spellings, 50/s",
            most: 20,
            sends: |t| numbers(t, 50).map(|n| send("GET", spelled_probe(n), 404)).collect(),
        },
        Strategy {
            name: "a word list with two slashes, 5/s",
            most: 20,
            sends: |t| numbers(t, 5).map(|n| send("GET", format!("//word{n}"), 404)).collect(),
        },
        Strategy {
            name: "hidden files that are numbered, 2/s",
            most: 40,
            sends: |t| numbers(t, 2).map(|n| send("GET", format!("/.env.{n}"), 404)).collect(),
        },
        Strategy {
            name: "scripts that are numbered, 20/s",
            most: 3 * 20,
            sends: |t| numbers(t, 20).map(|n| send("GET", format!("/wp-{n}.php"), 404)).collect(),
        },
        Strategy {
            name: "backups by their dates, 2/s",
            most: 40,
            sends: |t| {
                let dated = |n| format!("/backup-2025-{:02}-{:02}.zip", n % 12 + 1, n % 28 + 1);
                numbers(t, 2).map(|n| send("GET", dated(n), 404)).collect()
            },
        },
        Strategy {
            name: "passwords at a folder with a password of the server's, 2/s",
            most: 210 * 2,
            sends: |t| numbers(t, 2).map(|_| send("GET", "/intern/", 401)).collect(),
        },
        Strategy {
            name: "passwords at a folder with a password of the server's, 10/s",
            most: 30 * 10,
            sends: |t| numbers(t, 10).map(|_| send("GET", "/intern/", 401)).collect(),
        },
        Strategy {
            name: "a word list below one directory, 25/s",
            most: 60 * 25,
            sends: |t| numbers(t, 25).map(|n| send("GET", format!("/shop/word{n}"), 404)).collect(),
        },
        Strategy {
            name: "a word list of styles, 20/s",
            most: 5 * 20,
            sends: |t| numbers(t, 20).map(|n| send("GET", format!("/word{n}.css"), 404)).collect(),
        },
        Strategy {
            name: "plugins looked for by their styles, 5/s",
            most: 20 * 5,
            sends: |t| {
                let style = |n| format!("/wp-content/plugins/plugin{n}/style.css");
                numbers(t, 5).map(|n| send("GET", style(n), 404)).collect()
            },
        },
        Strategy {
            name: "searches that name a picture, 95/s",
            most: 60 * 95,
            sends: |t| numbers(t, 95).map(|n| send("GET", format!("/search?q={n}&x=.jpg"), 200)).collect(),
        },
        Strategy {
            name: "deliveries to an inbox, 95/s",
            most: 60 * 95,
            sends: |t| numbers(t, 95).map(|n| send("POST", format!("/users/u{n}/inbox"), 202)).collect(),
        },
        Strategy {
            name: "deliveries where there is no inbox, 30/s",
            most: 60 * 30,
            sends: |t| numbers(t, 30).map(|n| send("POST", format!("/u{n}/inbox"), 404)).collect(),
        },
        Strategy {
            name: "parts of files, 95/s",
            most: 60 * 95,
            sends: |t| numbers(t, 95).map(|n| send("GET", format!("/download/{}", n % 900), 206)).collect(),
        },
        Strategy {
            name: "passwords to eight spellings of a login, 10/s",
            most: 60,
            sends: |t| {
                numbers(t, 10).map(|n| send("POST", SPELLINGS_OF_A_LOGIN[n as usize % 8], 200)).collect()
            },
        },
        Strategy {
            name: "passwords refused by an application, 2/s",
            most: 60,
            sends: |t| numbers(t, 2).map(|_| send("POST", "/api/auth/login", 401)).collect(),
        },
        Strategy {
            name: "passwords answered with a redirect back, 2/s",
            most: 60,
            sends: |t| numbers(t, 2).map(|_| send("POST", "/login", 302)).collect(),
        },
        Strategy {
            name: "names of authors, 1/s",
            most: 10,
            sends: |t| numbers(t, 1).map(|n| send("GET", format!("/?author={n}"), 301)).collect(),
        },
        Strategy {
            name: "accounts by number, refused, 2/s",
            most: 60,
            sends: |t| numbers(t, 2).map(|n| send("GET", format!("/user/{n}"), 403)).collect(),
        },
        Strategy {
            name: "orders by number, sent to the login, 2/s",
            most: 60,
            sends: |t| numbers(t, 2).map(|n| send("GET", format!("/order?id={n}"), 302)).collect(),
        },
        Strategy {
            name: "passwords in the query of a probed path that is served, 2/s",
            most: 20,
            sends: |t| {
                let target = |n| format!("/phpmyadmin/index.php?pma_username=root&pma_password={n}");
                numbers(t, 2).map(|n| send("GET", target(n), 200)).collect()
            },
        },
    ];
    let mut wrong = Vec::new();
    for strategy in strategies {
        let (mut engine, now) = site(false);
        let (passed, sent) = passes(&mut engine, now, strategy.sends);
        if passed > strategy.most {
            wrong.push(format!("{}: {passed} of {sent} passed, {} may", strategy.name, strategy.most));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Cards tried at a shop's payment, which accepts those of its customers: from one address, and from thirty.
#[test]
fn posts_refused_at_a_form_that_accepts_are_stopped() {
    let pay = |addr: String, status| (addr, "POST", "/checkout/pay".to_owned(), status, 300);
    let known = || {
        let (mut engine, mut now) = (engine_with_defaults(), T0);
        for n in 0..60 {
            let customer = pay(format!("198.51.100.{n}"), 200);
            engine.handle(Event::Lines(&lines(&[customer], now)), now);
            now = now.plus_ms(120_000);
        }
        (engine, now)
    };
    let (mut engine, now) = known();
    let one =
        |t| vec![(ATTACKER.to_owned(), "POST", "/checkout/pay".to_owned(), 422, 300); (t % 3 == 0).into()];
    let (passed, sent) = passes(&mut engine, now, one);
    assert!(passed <= 61, "{passed} of {sent} passed");
    // Each of thirty tries twice a minute: one of a few customers may be refused as often, but not for ten minutes.
    let (mut engine, now) = known();
    let thirty = |t| vec![(format!("203.0.113.{}", t % 30), "POST", "/checkout/pay".to_owned(), 422, 300)];
    let (passed, sent) = passes(&mut engine, now, thirty);
    assert!(passed < 540, "{passed} of {sent} passed");
}

/// What only a site that is known can tell from a visitor.
#[test]
fn an_asset_every_fifteen_requests_hides_nobody_on_a_known_site() {
    let (mut engine, now) = site(true);
    let paced = |t| {
        numbers(t, 8)
            .map(|n| match n % 15 {
                0 => send("GET", "/style.css", 200),
                _ => send("GET", format!("/products/p{n}"), 200),
            })
            .collect()
    };
    let (passed, sent) = passes(&mut engine, now, paced);
    assert!(passed <= 60 * 8, "{passed} of {sent} passed");
}
