//! The places of a site that deserve a limit of their own: single pages at the root, pages that forms are sent to, and
//! directories at the root, if enough good clients use them. All else is one place, the rest.
//!
//! Names come from the log, which attackers write too. Only those of a few plain characters are taken, so nothing in a name
//! means anything to nginx; a place needs [`MIN_CLIENTS`] good clients that were served there, and the table is bounded.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use serde::Serialize;
use shield_engine::served_path;

/// Fewer good clients do not tell what is normal in a place.
pub(crate) const MIN_CLIENTS: usize = 30;

/// Places with a limit of their own; a person reads them all.
const MAX_PLACES: usize = 12;

/// Candidates counted; the first that come are kept.
const MAX_CANDIDATES: usize = 4096;

const MAX_NAME_BYTES: usize = 64;

/// A part of the site.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "kind", content = "path", rename_all = "snake_case")]
pub(crate) enum Place {
    /// One path.
    Page(String),
    /// All that begins with this, which ends in a slash.
    Directory(String),
    /// What is in no other place.
    Rest,
}

impl Place {
    /// The pattern for `map $uri`. Names consist of characters that only need the dot escaped.
    pub(crate) fn pattern(&self) -> Option<String> {
        match self {
            Place::Page(path) => Some(format!("~^{}\\z", path.replace('.', "[.]"))),
            Place::Directory(path) => Some(format!("~^{}", path.replace('.', "[.]"))),
            Place::Rest => None,
        }
    }
}

/// In the words of nginx's `location`.
impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Place::Page(path) => write!(f, "= {path}"),
            Place::Directory(path) => f.write_str(path),
            Place::Rest => f.write_str("all else"),
        }
    }
}

/// Counts the places where good clients were served.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    by_place: BTreeMap<Place, Count>,
    space: Vec<u8>,
}

#[derive(Debug, Default)]
struct Count {
    requests: u64,
    /// The first [`MIN_CLIENTS`] of them.
    clients: HashSet<IpAddr>,
}

impl Candidates {
    pub(crate) fn add(&mut self, addr: IpAddr, method: &[u8], target: &[u8]) {
        let path = served_path::resolve(target, &mut self.space).path;
        let page = page(path, method).map(|path| Place::Page(path.to_owned()));
        let directory = directory(path).map(|path| Place::Directory(path.to_owned()));
        for place in page.into_iter().chain(directory) {
            if self.by_place.len() >= MAX_CANDIDATES && !self.by_place.contains_key(&place) {
                continue;
            }
            let count = self.by_place.entry(place).or_default();
            count.requests += 1;
            if count.clients.len() < MIN_CLIENTS {
                count.clients.insert(addr);
            }
        }
    }

    /// The busiest of those that enough clients use.
    pub(crate) fn chosen(self) -> Places {
        let mut known: Vec<(u64, Place)> = self
            .by_place
            .into_iter()
            .filter(|(_, count)| count.clients.len() >= MIN_CLIENTS)
            .map(|(place, count)| (count.requests, place))
            .collect();
        known.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        known.truncate(MAX_PLACES);
        let mut all: Vec<Place> = known.into_iter().map(|(_, place)| place).chain([Place::Rest]).collect();
        all.sort();
        Places { all, space: Vec::new() }
    }
}

/// The chosen places: pages first, the rest last.
#[derive(Debug)]
pub(crate) struct Places {
    all: Vec<Place>,
    space: Vec<u8>,
}

impl Places {
    pub(crate) fn all(&self) -> &[Place] {
        &self.all
    }

    /// The position of the place of a request's target, as nginx's `map` finds it.
    pub(crate) fn of(&mut self, target: &[u8]) -> usize {
        let path = served_path::resolve(target, &mut self.space).path;
        let is_in = |place: &Place| match place {
            Place::Page(page) => page.as_bytes() == path,
            Place::Directory(directory) => path.starts_with(directory.as_bytes()),
            Place::Rest => true,
        };
        self.all.iter().position(is_in).expect("the rest takes every path")
    }
}

/// A page at the root, or one that a form was sent to.
fn page<'p>(path: &'p [u8], method: &[u8]) -> Option<&'p str> {
    let name = path.strip_prefix(b"/")?;
    let is_at_root = !name.is_empty() && memchr::memchr(b'/', name).is_none();
    let is_sent_to = method == b"POST" && !path.ends_with(b"/");
    if is_at_root || is_sent_to { plain(path) } else { None }
}

/// The directory at the root, with both slashes.
fn directory(path: &[u8]) -> Option<&str> {
    let name = path.strip_prefix(b"/")?;
    let len = memchr::memchr(b'/', name).filter(|len| *len > 0)?;
    plain(path.get(..len + 2)?)
}

fn plain(path: &[u8]) -> Option<&str> {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'-' | b'_' | b'.');
    let path = path.iter().all(is_plain).then_some(path)?;
    std::str::from_utf8(path).ok().filter(|path| path.len() <= MAX_NAME_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(nth: usize) -> IpAddr {
        IpAddr::from([192, 0, (nth / 250) as u8, (nth % 250) as u8])
    }

    fn chosen(used: &[(&str, &str, usize)]) -> Places {
        let mut candidates = Candidates::default();
        for (method, target, clients) in used {
            (0..*clients).for_each(|nth| candidates.add(addr(nth), method.as_bytes(), target.as_bytes()));
        }
        candidates.chosen()
    }

    #[test]
    fn places_need_clients_and_are_matched_as_nginx_matches_them() {
        let mut places = chosen(&[
            ("GET", "/api/v1/items?page=2", MIN_CLIENTS),
            ("POST", "/api/v1/login", MIN_CLIENTS),
            ("GET", "/rare/x", MIN_CLIENTS - 1),
            ("GET", "/robots.txt", MIN_CLIENTS),
        ]);
        let names: Vec<String> = places.all().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["= /api/v1/login", "= /robots.txt", "/api/", "all else"]);
        let mut check = |target: &str, expected: usize| {
            assert_eq!(places.of(target.as_bytes()), expected, "{target}");
        };
        check("/api/v1/login?next=/", 0);
        check("//api/x/../v1/%6cogin", 0);
        check("/api/v1/login/", 2);
        check("/robotsXtxt", 3);
        check("/api", 3);
        check("", 3);
    }

    #[test]
    fn names_with_a_meaning_to_nginx_are_in_the_rest() {
        let hostile = [
            "/a\";}server{listen 81;}#/x",
            "/a b/x",
            "/$uri/x",
            "/a\\/x",
            "/x'y/x",
            "/%0a;include%20etc/x",
            "/{1}/x",
            "/(a+)+/x",
            "/\u{fc}/x",
            "/~/x",
            "/*/x",
            "/a;/x",
        ];
        let used: Vec<(&str, &str, usize)> =
            hostile.iter().flat_map(|path| [("GET", *path, 40), ("POST", *path, 40)]).collect();
        assert_eq!(chosen(&used).all(), [Place::Rest]);
        let long = format!("/{}/x", "a".repeat(MAX_NAME_BYTES));
        assert_eq!(chosen(&[("GET", &long, 40)]).all(), [Place::Rest]);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut candidates = Candidates::default();
        (0..3 * MAX_CANDIDATES)
            .for_each(|nth| candidates.add(addr(0), b"GET", format!("/d{nth}/").as_bytes()));
        assert_eq!(candidates.by_place.len(), MAX_CANDIDATES);
    }
}
