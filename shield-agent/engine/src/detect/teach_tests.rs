//! Products and protocols whose ordinary traffic looks like an attack, each on a new site and on one that has seen visitors for
//! a while: none of their clients is banned. And what a site must not be taught.

use std::net::{IpAddr, Ipv4Addr};

use crate::detect::detector::{Detector, Standing};
use crate::detect::policy::Policy;
use crate::vocab::request::Request;
use crate::vocab::verdict::Verdict;

/// A Monday's 08:00 UTC.
const START: i64 = 1_767_600_000;

/// One request: method, target, status, size.
type Asked = (&'static str, String, u16, u64);

struct Site {
    detector: Detector,
    now: i64,
}

impl Site {
    fn new() -> Site {
        Site { detector: Detector::new(Policy::default(), 64, 1), now: START }
    }

    /// A site that has had visitors for seven hours.
    fn known() -> Site {
        let mut site = Site::new();
        while site.now < START + 7 * 3600 {
            let n = (site.now - START) as u32 / 30;
            for path in ["/", "/a.css", "/b.js", "/news"] {
                site.ask(addr(100 + n % 40, 9), &get(path, 200));
            }
            site.now += 30;
        }
        site
    }

    fn ask(&mut self, from: IpAddr, asked: &Asked) -> bool {
        let (method, path, status, size) = asked;
        let request = Request {
            addr: from,
            time: self.now,
            method: method.as_bytes(),
            path: path.as_bytes(),
            status: *status,
            size: *size,
            behind_proxy: false,
        };
        let prepared = self.detector.prepare(&request);
        self.detector.observe(&request, self.now, &prepared, Standing::Normal) != Verdict::Normal
    }

    /// Lets one client ask for `secs`, and returns the second of its first verdict.
    fn run(&mut self, from: IpAddr, secs: i64, asks: &dyn Fn(i64) -> Vec<Asked>) -> Option<i64> {
        let mut first = None;
        for t in 0..secs {
            for asked in asks(t) {
                if self.ask(from, &asked) {
                    first = first.or(Some(t));
                }
            }
            self.now += 1;
        }
        first
    }
}

/// The client `host` of the `net`th network.
fn addr(net: u32, host: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0xc612_0000 + (net << 8) + host))
}

fn get(path: impl Into<String>, status: u16) -> Asked {
    ("GET", path.into(), status, 512)
}

fn ask(method: &'static str, path: impl Into<String>, status: u16) -> Asked {
    (method, path.into(), status, 512)
}

fn word(n: i64) -> String {
    (0..4).map(|at| char::from(b'a' + (n / 7_i64.pow(at) % 7) as u8)).collect()
}

/// An identifier as content-addressed stores use them.
fn digest(n: i64) -> String {
    format!(
        "{:016x}{:016x}",
        (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        (n as u64 + 7).wrapping_mul(0x1319_8a2e_0370_7345)
    )
}

#[test]
fn products_and_protocols_are_normal_on_any_site() {
    type Product = (&'static str, fn(i64) -> Vec<Asked>);
    let products: [Product; 13] = [
        ("a Nix cache", |t| {
            (0..8)
                .map(|i| get(format!("/{}.narinfo", digest(t * 8 + i)), if i < 2 { 200 } else { 404 }))
                .collect()
        }),
        ("a Nix cache that has nothing yet", |t| {
            (0..8).map(|i| get(format!("/{}.narinfo", digest(t * 8 + i)), 404)).collect()
        }),
        ("a build cache", |t| {
            let path = |i: i64| format!("/cache/ac/{}", digest(t * 15 + i));
            let missed = (0..15).flat_map(|i| [get(path(i), 404), ask("PUT", path(i), 201)]);
            missed.chain((100..115).map(|i| get(path(i), 200))).collect()
        }),
        ("a Maven repository behind another", |t| {
            let group = ["org", "com", "io", "net"][t as usize % 4];
            let path = format!("/maven2/{group}/{}/{}/1.{t}/a-1.{t}.pom", word(t), word(t + 9));
            vec![get(path.clone(), 404), get(format!("{path}.sha1"), if t % 2 == 0 { 200 } else { 404 })]
        }),
        ("a container registry", |t| {
            let layer = format!("/v2/team/app/blobs/sha256:{}", digest(t));
            vec![ask("HEAD", layer, 404), ask("POST", "/v2/team/app/blobs/uploads/", 202)]
        }),
        ("map tiles beyond the edge", |t| {
            let tile = |i: i64| format!("/geoserver/gwc/service/tms/1.0.0/a@b@png/14/{}/{}.png", 8700 + t, i);
            (0..6).map(|i| get(tile(i), if i < 4 { 400 } else { 200 })).collect()
        }),
        ("a manager of containers", |t| {
            let path = format!("/api/endpoints/2/docker/containers/{}", digest(t));
            vec![ask("DELETE", path.clone(), 204), get(format!("{path}/stats"), 404)]
        }),
        ("a monitor of twenty services in an outage", |t| {
            let service = format!("/{}/actuator/health", word(t % 20));
            vec![get(service, if t < 120 { 200 } else { 503 })]
        }),
        ("a dashboard", |t| {
            (0..30).map(|chart| get(format!("/api/v1/data?chart=c{chart}&_={t}000"), 200)).collect()
        }),
        ("a camera", |t| (0..20).map(|n| get(format!("/webcam/?action=snapshot&_={t}{n}"), 200)).collect()),
        ("a page of sixty queries", |t| {
            if t % 30 == 0 { vec![ask("POST", "/graphql", 200); 60] } else { vec![] }
        }),
        ("a search for credit unions", |t| {
            let search = format!("/branches?q=credit+union+{}", word(t));
            if t % 4 == 0 { vec![get("/map.js", 304), get(search, 200)] } else { vec![] }
        }),
        ("a search engine redirected to https", |t| {
            let page = ["product", "branch", "news", "faq"][t as usize % 4];
            if t % 2 == 0 { vec![get(format!("/{page}{t}.aspx"), 301)] } else { vec![] }
        }),
    ];
    let mut wrong = Vec::new();
    for (name, asks) in products {
        for (kind, mut site) in [("new", Site::new()), ("known", Site::known())] {
            if let Some(second) = site.run(addr(1, 1), 300, &asks) {
                wrong.push(format!("{name} on a {kind} site: after {second} s"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Clients in standing of three networks are refused the same names of an own product, over an hour. A fourth is refused them too.
fn taught(networks: u32, refused: &str) -> Site {
    let mut site = Site::new();
    for round in 0..6 {
        for net in 0..networks {
            for n in 0..8 {
                site.ask(addr(10 + net, 1), &get(["/", "/a.css", "/b.js", "/news"][n % 4], 200));
            }
            site.now += 3;
            if round >= 3 {
                site.ask(addr(10 + net, 1), &get(refused, 404));
            }
        }
        site.now += 700;
    }
    site
}

#[test]
fn what_good_clients_of_several_networks_are_refused_is_normal() {
    let refused = |site: &Site| site.detector.explain_score(addr(99, 1), site.now);
    let mut alone = taught(1, "/phones/console.cfg");
    alone.ask(addr(99, 1), &get("/phones/console.cfg", 404));
    assert!(refused(&alone) > 2.9, "{}", refused(&alone));
    let mut several = taught(4, "/phones/console.cfg");
    several.ask(addr(99, 1), &get("/phones/console.cfg", 404));
    assert_eq!(refused(&several), 0.0);
    several.ask(addr(99, 1), &get("/phones/other.cfg", 404));
    assert!(refused(&several) > 2.9, "what nobody was refused says as much as before");
}

/// Three hundred of them: more than the account lists one by one.
#[test]
fn numbers_that_good_clients_are_refused_too_add_nothing() {
    let ask_all = |site: &mut Site| {
        (0..300).any(|n| {
            site.now += 1;
            site.ask(addr(99, 1), &get(format!("/phones/console-{n}.cfg"), 404))
        })
    };
    assert!(ask_all(&mut Site::new()), "a list that counts, where nobody is known");
    let mut several = taught(4, "/phones/console-1.cfg");
    // With something of its own in the account, which is not empty then.
    several.ask(addr(99, 1), &get("/.git/config", 404));
    let banned = ask_all(&mut several);
    assert!(!banned, "{}", several.detector.explain_score(addr(99, 1), several.now));
}

#[test]
fn attackers_do_not_teach() {
    let mut site = Site::new();
    for net in 0..20 {
        for n in 0..4 {
            site.ask(addr(10 + net, 1), &get(format!("/{}/.env", word(n)), 404));
        }
        site.now += 60;
    }
    site.ask(addr(99, 1), &get("/aaaa/.env", 404));
    assert!(site.detector.explain_score(addr(99, 1), site.now) > 2.9);
}

#[test]
fn pictures_in_a_foreign_page_ban_no_visitor() {
    const EMBEDDED: [&str; 5] =
        ["/.env", "/.git/config", "/wp-config.php.bak", "/phpmyadmin/", "/.aws/credentials"];
    for first in [&["/", "/a.css", "/b.js"][..], &[]] {
        let mut site = Site::new();
        first.iter().for_each(|path| assert!(!site.ask(addr(1, 1), &get(*path, 200))));
        site.now += 5;
        let mut banned = false;
        EMBEDDED.iter().for_each(|path| banned |= site.ask(addr(1, 1), &get(*path, 404)));
        assert!(!banned, "{first:?}");
    }
}

#[test]
fn evidence_adds_up_over_kinds_and_hours() {
    let mut site = Site::new();
    for n in 0..3 {
        assert!(!site.ask(addr(1, 1), &get(format!("/{}/.env", word(n)), 404)));
        site.now += 10;
    }
    let at_once = site.detector.explain_score(addr(1, 1), site.now);
    site.now += 7200;
    let later = site.detector.explain_score(addr(1, 1), site.now);
    assert!((later - at_once / 2.0).abs() < 0.1, "{at_once} {later}");
    for n in 3..5 {
        site.ask(addr(1, 1), &get(format!("/{}/.env", word(n)), 404));
        site.now += 10;
    }
    assert!(site.detector.explain_score(addr(1, 1), site.now) > at_once, "points now and points hours ago");
    let mut mixed = Site::new();
    let malformed = ("", "\u{16}\u{3}x".to_owned(), 400, 150);
    let by_both = (0..6).any(|n| {
        mixed.now += 1;
        let one = mixed.ask(addr(1, 1), &malformed);
        mixed.ask(addr(1, 1), &get(format!("/{}", word(n)), 404)) || one
    });
    assert!(by_both, "six malformed requests and six failed paths");
}
