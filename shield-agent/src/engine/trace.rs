//! One request as the windows keep it: eight bytes of what will matter later. Built from the target's shape
//! (`shape.rs`) and the answer; remembers shapes of paths seen before, because looking is dearer than remembering.

use super::hash::Seeded;
use super::request::Request;
use super::shape::{self, Kind, Query, Shape};

/// One bit a property of a request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// Status >= 400 and not one of our own answers.
    pub const ERROR: Flags = Flags(1);
    /// A file that pages pull in.
    pub const ASSET: Flags = Flags(2);
    /// A failure that says something about the client: an error on anything but an asset, not a time-out.
    pub const FAILED: Flags = Flags(4);
    /// A request that is none: status 400 on no path of this server.
    pub const FOREIGN: Flags = Flags(8);
    /// A password posted and not answered by a redirect (what a right password is answered with).
    pub const LOGIN: Flags = Flags(16);
    /// A POST.
    pub const POST: Flags = Flags(32);
    /// Its weight comes from its shape and not from its failure alone.
    pub const SHAPED: Flags = Flags(64);

    /// Whether `flag` is set.
    pub fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }

    /// What is set in either.
    pub fn union(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    fn with(self, flag: Flags, set: bool) -> Flags {
        if set { Flags(self.0 | flag.0) } else { self }
    }
}

/// What is kept of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trace {
    /// Which target: equal for requests that count as one.
    pub key: u32,
    /// How much of a probe it is, in tenths of a failed path.
    pub weight: u8,
    /// Its properties.
    pub flags: Flags,
}

/// How a request was answered, as far as probing is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Served,
    Redirected,
    Refused,
    Broken,
    /// Says nothing about the client: a time-out, a request it gave up, our own limit.
    Neutral,
}

impl Answer {
    fn of(status: u16, not_errors: &[u16]) -> Answer {
        match status {
            408 | 429 | 444 | 499 => Answer::Neutral,
            _ if not_errors.contains(&status) => Answer::Neutral,
            200..=299 | 304 => Answer::Served,
            300..=399 => Answer::Redirected,
            400..=499 => Answer::Refused,
            500..=599 => Answer::Broken,
            _ => Answer::Neutral,
        }
    }
}

/// Weights in tenths of a failed path; the reasons are in `docs/detection.md`.
mod weight {
    pub(super) const PROBE_FAILED: u8 = 30;
    pub(super) const PROBE_REDIRECTED: u8 = 20;
    pub(super) const PROBE_SERVED: u8 = 12;
    pub(super) const SCRIPT_REFUSED: u8 = 15;
    pub(super) const PAGE_REFUSED: u8 = 10;
    pub(super) const PAGE_BROKEN: u8 = 3;
}

/// Paths whose shape is remembered (a power of two): 16 bytes each.
const REMEMBERED: usize = 1 << 14;

#[derive(Debug, Clone, Copy)]
struct Remembered {
    hash: u64,
    told_by: u16,
    kind: Kind,
    login: bool,
}

/// Makes traces.
pub struct Tracer {
    hash: Seeded,
    not_errors: Vec<u16>,
    remembered: Box<[Remembered]>,
}

impl Tracer {
    /// A tracer whose keys depend on `hash`'s secret; `not_errors` are statuses that are our own answers.
    pub fn new(hash: Seeded, not_errors: &[u16]) -> Tracer {
        let nothing = Remembered { hash: 0, told_by: 0, kind: Kind::Page, login: false };
        Tracer {
            hash,
            not_errors: not_errors.to_vec(),
            remembered: vec![nothing; REMEMBERED].into_boxed_slice(),
        }
    }

    /// The hasher that the keys are made with.
    pub fn hash(&self) -> Seeded {
        self.hash
    }

    /// What is kept of `request`.
    pub fn trace(&mut self, request: &Request<'_>) -> Trace {
        let (path, query) = split_target(request.path);
        let path_hash = self.hash.bytes(path);
        let shape = self.shape(path, path_hash);
        let answer = Answer::of(request.status, &self.not_errors);
        let error = request.status >= 400 && !self.not_errors.contains(&request.status);
        let target = Target { path, query, path_hash, shape };
        let judged = self.judge(&target, answer);
        let asset = judged.asset && judged.weight == 0;
        let post = request.method == b"POST";
        // 499: the client gave up; it failed, but not at a path that tells something.
        let failed = error && !asset && request.status != 408;
        let flags = Flags::default()
            .with(Flags::ERROR, error)
            .with(Flags::ASSET, asset)
            .with(Flags::FAILED, failed)
            .with(Flags::FOREIGN, request.status == 400 && (shape.kind == Kind::Foreign || path == b"/"))
            .with(Flags::LOGIN, post && shape.login && answer != Answer::Redirected)
            .with(Flags::POST, post)
            .with(Flags::SHAPED, judged.shaped);
        let key = if post { !judged.key } else { judged.key };
        Trace { key, weight: judged.weight, flags }
    }

    fn shape(&mut self, path: &[u8], hash: u64) -> Shape {
        let slot = &mut self.remembered[hash as usize & (REMEMBERED - 1)];
        if slot.hash == hash {
            return Shape { kind: slot.kind, told_by: usize::from(slot.told_by), login: slot.login };
        }
        let shape = shape::of_path(path);
        if let Ok(told_by) = u16::try_from(shape.told_by) {
            *slot = Remembered { hash, told_by, kind: shape.kind, login: shape.login };
        }
        shape
    }

    /// The weight of a target with its answer, and the key under which it counts once.
    fn judge(&self, target: &Target<'_>, answer: Answer) -> Judged {
        let failed = matches!(answer, Answer::Refused | Answer::Broken);
        let shaped = |weight, key| Judged { key, weight, shaped: true, asset: false };
        let by_path = target.path_hash as u32;
        match (target.shape.kind, answer) {
            (Kind::Probe, Answer::Refused | Answer::Broken) => return shaped(weight::PROBE_FAILED, by_path),
            (Kind::Probe, Answer::Redirected) => return shaped(weight::PROBE_REDIRECTED, by_path),
            (Kind::Probe, Answer::Served) => {
                let told_by = &target.path[..target.shape.told_by];
                return shaped(weight::PROBE_SERVED, self.hash.bytes(told_by) as u32);
            }
            (Kind::Dubious, Answer::Refused | Answer::Broken) => {
                return shaped(weight::PROBE_FAILED, by_path);
            }
            (Kind::Dubious, Answer::Redirected) if !is_page_like(target) => {
                return shaped(weight::PROBE_REDIRECTED, by_path);
            }
            _ => {}
        }
        let query = shape::of_query(target.query);
        match query {
            Query::Password(value) => return shaped(weight::PROBE_SERVED, self.hash.bytes(value) as u32),
            Query::Probe => {
                let weight = if failed { weight::PROBE_FAILED } else { weight::PROBE_SERVED };
                return shaped(weight, self.hash.bytes(target.query) as u32);
            }
            Query::Dubious if failed => {
                return shaped(weight::PROBE_FAILED, self.hash.bytes(target.query) as u32);
            }
            _ => {}
        }
        let asset = match target.shape.kind {
            Kind::Asset => true,
            Kind::Dubious => answer == Answer::Served,
            _ => query == Query::Asset,
        };
        let weight = match (target.shape.kind, answer) {
            _ if asset => 0,
            (Kind::Foreign, _) => 0,
            (Kind::Script, Answer::Refused) => weight::SCRIPT_REFUSED,
            (_, Answer::Refused) => weight::PAGE_REFUSED,
            (_, Answer::Broken) => weight::PAGE_BROKEN,
            _ => 0,
        };
        // A failed path is one whatever its query; a directory's page is one too (a flood of `/?random`).
        let whole = weight > 0 || target.query.is_empty() || target.path.ends_with(b"/");
        let key = if whole { target.path_hash } else { target.path_hash ^ self.hash.bytes(target.query) };
        Judged { key: key as u32, weight, shaped: false, asset }
    }
}

struct Target<'a> {
    path: &'a [u8],
    query: &'a [u8],
    path_hash: u64,
    shape: Shape,
}

struct Judged {
    key: u32,
    weight: u8,
    shaped: bool,
    asset: bool,
}

/// A dubious name without an ending (`/manager`): sites redirect those to their login.
fn is_page_like(target: &Target<'_>) -> bool {
    let last = memchr::memrchr(b'/', target.path).map_or(0, |at| at + 1);
    memchr::memchr(b'.', &target.path[last..]).is_none()
}

fn split_target(target: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'?', target) {
        Some(at) => target.split_at(at),
        None => (target, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn trace(method: &str, path: &str, status: u16) -> Trace {
        let request = Request {
            addr: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            time: 0,
            method: method.as_bytes(),
            path: path.as_bytes(),
            status,
            size: 0,
            behind_proxy: false,
        };
        Tracer::new(Seeded::new(1), &[]).trace(&request)
    }

    #[test]
    fn what_a_request_weighs() {
        let check = |path: &str, status, weight: u8| {
            assert_eq!(trace("GET", path, status).weight, weight, "{path} {status}");
        };
        check("/", 200, 0);
        check("/gone", 404, 10);
        check("/gone.php", 404, 15);
        check("/gone.png", 404, 0);
        check("/report", 502, 3);
        check("/.env", 404, 30);
        check("/.env", 502, 30);
        check("/.env", 302, 20);
        check("/.env", 200, 12);
        check("/dump.sql", 301, 20);
        check("/migrations/1.sql", 200, 0);
        check("/manager", 302, 0);
        check("/search?q=<b>", 200, 0);
        check("/search?q=<b>", 404, 30);
        check("/anything", 499, 0);
        check("", 400, 0);
    }

    #[test]
    fn which_requests_count_as_one_target() {
        let key = |path: &str, status| trace("GET", path, status).key;
        assert_eq!(key("/?1", 200), key("/?2", 200), "a flood of the home page is one page");
        assert_ne!(key("/thumb?id=1", 200), key("/thumb?id=2", 200), "a gallery is many");
        assert_eq!(key("/gone?id=1", 404), key("/gone?id=2", 404), "a failed path is one");
        assert_eq!(key("/pma/a", 200), key("/pma/b", 200), "its owner's phpMyAdmin is one");
        assert_ne!(key("/x?u=a&pwd=1", 200), key("/x?u=a&pwd=2", 200), "passwords are many");
    }

    #[test]
    fn which_flags_it_carries() {
        let has = |method, path, status, flag| trace(method, path, status).flags.has(flag);
        assert!(has("POST", "/wp-login.php", 200, Flags::LOGIN));
        assert!(!has("POST", "/wp-login.php", 302, Flags::LOGIN), "the password was right");
        assert!(!has("GET", "/wp-login.php", 200, Flags::LOGIN));
        assert!(has("", "", 400, Flags::FOREIGN));
        assert!(!has("", "", 408, Flags::FAILED), "a connection kept open says nothing");
        assert!(has("GET", "/thumb?src=a.jpg", 200, Flags::ASSET));
        assert!(!has("GET", "/a.png", 404, Flags::FAILED), "a broken image is the site's");
    }
}
