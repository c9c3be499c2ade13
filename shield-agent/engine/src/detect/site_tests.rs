//! Generators of clients that are rare in the labelled logs: those that must never be banned, neither on a new site nor on
//! a known one, and those that must be.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::OnceLock;

use crate::detect::detector::{Detector, Standing};
use crate::detect::policy::Policy;
use crate::vocab::request::Request;
use crate::vocab::verdict::{Rule, Verdict};

/// A Monday's 08:00 UTC.
const START: i64 = 1_767_600_000;

/// Long enough for every rule to be evaluated.
const KNOWN_AFTER_SECS: i64 = 7 * 3600;

/// Seconds that a client is active.
const SECS: i64 = 900;

/// One request: client (of its kind), method, target, status, size.
type Asked = (u32, &'static str, String, u16, u64);

fn observe(detector: &mut Detector, second: i64, asked: &Asked) -> Option<Rule> {
    let (client, method, path, status, size) = asked;
    let request = Request {
        addr: IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 + client)),
        time: second,
        method: method.as_bytes(),
        path: path.as_bytes(),
        status: *status,
        size: *size,
        behind_proxy: false,
    };
    let prepared = detector.prepare(&request);
    match detector.observe(&request, second, &prepared, Standing::Normal) {
        Verdict::Anomalous(evidence) => Some(evidence.rule),
        Verdict::Normal => None,
    }
}

/// The baseline of a site with 2 requests per second from people.
fn known_site() -> &'static [u8] {
    static SAVED: OnceLock<Vec<u8>> = OnceLock::new();
    SAVED.get_or_init(|| {
        let mut detector = Detector::new(Policy::default(), 64, 1);
        for second in START..START + KNOWN_AFTER_SECS {
            for n in 0..2 {
                let client = 1000 + ((second - START) as u32 / 20 * 2 + n) % 5000;
                let path = ["/", "/about", "/style.css", "/news/1"][second as usize % 4].to_owned();
                observe(&mut detector, second, &(client, "GET", path, 200, 512));
            }
        }
        detector.save()
    })
}

/// The first ban of a client of this kind on a new site and on a known one: seconds since it began, and the rule.
fn first_bans(kind: &dyn Fn(i64) -> Vec<Asked>) -> [Option<(i64, Rule)>; 2] {
    [false, true].map(|is_known| {
        let mut detector = Detector::new(Policy::default(), 64, 1);
        let begin = START + KNOWN_AFTER_SECS;
        if is_known {
            detector.restore(known_site()).unwrap();
        }
        (0..SECS).find_map(|t| {
            kind(t).iter().find_map(|asked| observe(&mut detector, begin + t, asked)).map(|rule| (t, rule))
        })
    })
}

fn get(path: impl Into<String>, status: u16) -> Asked {
    (1, "GET", path.into(), status, 512)
}

/// A word for each number: templates take numbers out.
fn word(n: i64) -> String {
    (0..4).map(|at| char::from(b'a' + (n / 7_i64.pow(at) % 7) as u8)).collect()
}

fn ask(method: &'static str, path: impl Into<String>, status: u16) -> Asked {
    (1, method, path.into(), status, 512)
}

/// Returns the n-th requests of a client that makes some every `secs` seconds.
fn every(secs: i64, t: i64, asked: impl FnOnce(i64) -> Vec<Asked>) -> Vec<Asked> {
    if t % secs == 0 { asked(t / secs) } else { Vec::new() }
}

#[test]
fn who_must_stay() {
    type Kind = (&'static str, fn(i64) -> Vec<Asked>);
    let kinds: [Kind; 21] = [
        ("a search engine that follows dead links among good ones", |t| {
            every(4, t, |n| {
                vec![
                    get(format!("/news/{n}"), 200),
                    get(format!("/{}", word(n)), if n % 2 == 0 { 404 } else { 200 }),
                ]
            })
        }),
        ("a search engine whose articles were all moved", |t| {
            every(15, t, |n| vec![get(format!("/how-we-built-{}/", word(n)), 404)])
        }),
        ("a search engine on a site whose articles are gone", |t| {
            every(5, t, |n| vec![get(format!("/p{n}"), 410)])
        }),
        ("a search engine on a forum that moved", |t| vec![get(format!("/viewtopic.php?t={t}"), 301)]),
        ("a feed reader whose feed is gone", |t| every(2, t, |_| vec![get("/feed.xml", 404)])),
        ("an application that polls one URL", |_| vec![get("/api/state", 200), get("/api/state", 304)]),
        ("an application whose token has run out", |t| {
            every(2, t, |_| vec![ask("POST", "/api/messages", 401)])
        }),
        ("an API client that syncs in batches", |t| {
            every(120, t, |n| {
                (0..100)
                    .flat_map(|i| {
                        [
                            get(format!("/api/items/{n}x{i}"), 200),
                            ask("POST", "/api/batch", 201),
                            ask("PUT", format!("/api/items/{i}"), 204),
                        ]
                    })
                    .collect()
            })
        }),
        ("a visitor of a photo gallery", |t| {
            every(10, t, |n| {
                let pictures = (0..140).map(|i| get(format!("/photos/{n}/{i}.jpg"), 200));
                pictures.chain([get(format!("/gallery/{n}"), 200)]).collect()
            })
        }),
        ("a gallery whose thumbnails are made by a script", |t| {
            every(20, t, |n| {
                (0..60).map(|i| get(format!("/thumb.php?src=/photos/{n}/{i}.jpg"), 200)).collect()
            })
        }),
        ("a monitor that asks for the site's health", |_| vec![get("/health", 503), ask("HEAD", "/", 200)]),
        ("a monitor with the wrong path", |_| vec![get("/healthz", 404)]),
        ("a link checker", |t| vec![ask("HEAD", format!("/page{t}"), if t % 3 == 0 { 404 } else { 200 })]),
        ("an office behind one address on a site with broken pictures", |t| {
            let pictures = (0..8).map(|i| get(format!("/img/{t}-{i}.png"), 404));
            pictures.chain([get(format!("/page{}", t % 50), 200)]).collect()
        }),
        ("an administrator of WordPress who writes", |t| {
            let mut all = every(2, t, |_| vec![ask("POST", "/wp-admin/admin-ajax.php", 200)]);
            all.extend(every(3, t, |n| {
                vec![ask("POST", format!("/wp-json/wp/v2/posts/7/autosaves?_locale=user&n={n}"), 200)]
            }));
            all.extend(every(20, t, |n| vec![get(format!("/wp-admin/post.php?post={n}&action=edit"), 200)]));
            all.extend(every(60, t, |_| (0..12).map(|_| ask("POST", "/xmlrpc.php", 200)).collect()));
            all
        }),
        ("a calendar and its files, asked for a password first", |t| {
            every(1, t, |n| {
                let path = format!("/d{n}/event.ics");
                vec![
                    ask("PROPFIND", path.clone(), 401),
                    ask("PROPFIND", path.clone(), 207),
                    ask("REPORT", path, 207),
                ]
            })
        }),
        ("git and a package manager, asked for a password first", |t| {
            every(6, t, |n| {
                let repository = format!("/team{n}/tool.git/info/refs?service=git-upload-pack");
                let package = format!("/pkg{n}");
                vec![
                    get(repository.clone(), 401),
                    get(repository, 200),
                    get(package.clone(), 401),
                    get(package, 200),
                ]
            })
        }),
        ("a school that logs in to an application together", |t| {
            let mut all = vec![ask("POST", "/api/auth/login", 200); usize::from(t % 60 < 25)];
            all.extend(["/api/me", "/api/courses", "/app.js"].map(|path| get(path, 200)));
            all
        }),
        ("a form that is sent to https by 301, again and again", |t| {
            every(1, t, |_| vec![ask("POST", "/wp-login.php", 301), ask("POST", "/login", 308)])
        }),
        ("servers of the Fediverse that deliver", |t| {
            (0..8).map(|n| ask("POST", "/inbox", if (t + n) % 2 == 0 { 202 } else { 401 })).collect()
        }),
        ("a listener who jumps about in an episode, and webmail", |t| {
            let mut all = vec![get("/episodes/12", 206); 4];
            all.extend(every(1, t, |_| vec![ask("POST", "/mail/?_task=mail&_action=refresh", 200)]));
            all
        }),
    ];
    let banned: Vec<_> = kinds
        .iter()
        .map(|(name, kind)| (*name, first_bans(kind)))
        .filter(|(_, bans)| bans.iter().any(Option::is_some))
        .collect();
    assert!(banned.is_empty(), "{banned:#?}");
}

#[test]
fn who_must_be_banned() {
    type Kind = (&'static str, i64, fn(i64) -> Vec<Asked>);
    const PROBES: [&str; 30] = [
        "/.env",
        "/.git/config",
        "/wp-config.php.bak",
        "/backup.sql",
        "/phpmyadmin/",
        "/.aws/credentials",
        "/site.zip",
        "/vendor/phpunit/phpunit/src/Util/PHP/eval-stdin.php",
        "/actuator/env",
        "/cgi-bin/luci",
        "/server-status",
        "/.svn/entries",
        "/config.php~",
        "/adminer.php",
        "/pma/",
        "/.DS_Store",
        "/dump.tar.gz",
        "/.htpasswd",
        "/info.php",
        "/setup-config.php",
        "/boaform/admin",
        "/HNAP1",
        "/geoserver/web",
        "/.vscode/sftp.json",
        "/jmx-console",
        "/_ignition/execute-solution",
        "/console/",
        "/.ssh/id_rsa",
        "/etc/passwd",
        "/wp-includes/wlwmanifest.xml",
    ];
    let kinds: [Kind; 13] = [
        ("a scanner redirected from everything", 60, |t| vec![get(PROBES[t as usize % 30], 302)]),
        ("a scanner served everything", 60, |t| vec![get(PROBES[t as usize % 30], 200)]),
        ("a scanner of scripts served one page", 30, |t| vec![get(format!("/{}.php", word(t)), 200)]),
        ("a scanner of plugins", 30, |t| {
            vec![get(format!("/wp-content/plugins/{}/readme.txt", word(t)), 404)]
        }),
        ("a sweep by PROPFIND", 60, |t| vec![ask("PROPFIND", format!("/{}/", word(t)), 405)]),
        ("40 remote calls a minute", 60, |t| vec![ask("POST", "/xmlrpc.php", 200); usize::from(t % 3 != 0)]),
        ("40 passwords a minute", 60, |t| vec![ask("POST", "/wp-login.php", 200); usize::from(t % 3 != 0)]),
        ("40 passwords a minute, refused by an application", 60, |t| {
            vec![ask("POST", "/api/login", 401); usize::from(t % 3 != 0)]
        }),
        ("40 passwords a minute, answered with the form again", 60, |t| {
            vec![ask("POST", "/account/signin", 200); usize::from(t % 3 != 0)]
        }),
        ("40 passwords a minute, sent back to the form", 60, |t| {
            vec![ask("POST", "/login", 302); usize::from(t % 3 != 0)]
        }),
        ("a flood of 3 s", 3, |t| if t < 3 { vec![get("/", 499); 60] } else { Vec::new() }),
        ("a slow scanner: one path in 10 s for 10 min", 600, |t| {
            every(10, t, |n| vec![get(PROBES[n as usize % 30], 404)])
        }),
        ("a wordlist", 30, |t| vec![get(format!("/{}", word(t)), 404)]),
    ];
    for (name, within, kind) in kinds {
        for ban in first_bans(&kind) {
            assert!(ban.is_some_and(|(t, _)| t < within), "{name}: {ban:?}");
        }
    }
}

/// A campaign that moves on: each of 38 addresses does too much for itself.
#[test]
fn each_address_of_a_campaign_is_found() {
    let mut detector = Detector::new(Policy::default(), 64, 1);
    let mut found = std::collections::BTreeSet::new();
    for t in 0..38 * 20 {
        let client = 1 + t as u32 / 20;
        let asked = (client, "GET", format!("/wp-content/plugins/{}/up.php", word(t)), 404, 0);
        if observe(&mut detector, START + t, &asked).is_some() {
            found.insert(client);
        }
    }
    assert_eq!(found.len(), 38);
}
