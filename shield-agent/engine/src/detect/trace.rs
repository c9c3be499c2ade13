//! A request as the windows keep it, in eight bytes: the key of its target, its flags and its weight. Derived from the
//! target's shape (`shape.rs`, cached by `shape_cache.rs`) and the answer.

use crate::detect::clients::Prepared;
use crate::detect::hash::Seeded;
use crate::detect::hashed_path::HashedPath;
use crate::detect::login::{self, Login};
use crate::detect::plain::Plain;
use crate::detect::served_path::{self, Spelling};
use crate::detect::shape::{self, Kind, Query, Shape};
#[cfg(any(test, feature = "test-support"))]
use crate::detect::shape_cache::CachedShape;
use crate::detect::shape_cache::{Cached, ShapeCache};
use crate::detect::stable_hash;
#[cfg(any(test, feature = "test-support"))]
use crate::vocab::client::Client;
use crate::vocab::request::Request;

/// Properties of a request, as bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags(u16);

impl Flags {
    /// Status >= 400, and not one of `not_errors`.
    pub const ERROR: Flags = Flags(1);
    /// A file that pages embed, or a request that is as harmless.
    pub const ASSET: Flags = Flags(2);
    /// Refused (4xx) for a reason that lies with the client: no asset, no time-out.
    pub const FAILED: Flags = Flags(4);
    /// The server failed to answer (5xx), or the client aborted (499), which is the server's fault first.
    pub const BROKEN: Flags = Flags(8);
    /// Certainly malformed: refused, and for no path of this server.
    pub const FOREIGN: Flags = Flags(16);
    /// Possibly malformed: health checks request `/` without a host, and office programs try WebDAV.
    pub(crate) const PERHAPS_FOREIGN: Flags = Flags(32);
    /// A failed login: a password posted and refused.
    pub const LOGIN: Flags = Flags(64);
    /// A remote call (`xmlrpc.php`) posted.
    pub const REMOTE_CALL: Flags = Flags(128);
    /// The method is POST.
    pub const POST: Flags = Flags(256);
    /// Its weight comes from its shape, not from its failure alone.
    pub(crate) const SHAPED: Flags = Flags(512);
    /// Without a target on this server.
    pub const NO_TARGET: Flags = Flags(1024);
    /// A server-side script by its extension, without a query.
    pub(crate) const SCRIPT: Flags = Flags(2048);
    /// An asset that was refused.
    pub(crate) const MISSED: Flags = Flags(4096);
    /// As harmless as an asset, but it can be anything: a part of a file (206), a delivery, a write by a program. Counted
    /// for more than an asset in a flood.
    pub(crate) const PART: Flags = Flags(8192);
    /// A page that is one of many for some page, such as a picture made by a script: counted as a request, not by target.
    pub(crate) const EMBEDDED: Flags = Flags(16384);
    /// A password posted whose answer does not say whether it was right.
    pub(crate) const UNPROVEN_LOGIN: Flags = Flags(32768);
    /// Not counted by target.
    pub(crate) const NOT_A_PAGE: Flags = Flags::ASSET.or(Flags::NO_TARGET).or(Flags::EMBEDDED);
    /// Not served, for whatever reason.
    pub(crate) const HAS_FAILED: Flags = Flags::FAILED.or(Flags::BROKEN).or(Flags::MISSED);
    /// Flags that most requests have none of. Without them a request adds to requests and assets only.
    pub(crate) const UNUSUAL: Flags = Flags::ERROR
        .or(Flags::FAILED)
        .or(Flags::BROKEN)
        .or(Flags::FOREIGN)
        .or(Flags::PERHAPS_FOREIGN)
        .or(Flags::LOGIN)
        .or(Flags::REMOTE_CALL)
        .or(Flags::SHAPED)
        .or(Flags::NO_TARGET)
        .or(Flags::SCRIPT)
        .or(Flags::MISSED)
        .or(Flags::UNPROVEN_LOGIN)
        .or(Flags::PART);

    /// Of a target: redirected, neither served nor refused. Targets have no embedded requests, whose bit it is.
    pub(crate) const REDIRECTED: Flags = Flags::EMBEDDED;
    /// Of a target: asked for before the second of its last request. Targets are no assets, whose bit it is.
    pub(crate) const EARLIER: Flags = Flags::ASSET;

    /// Returns whether any bit of `flag` is set.
    pub fn has(self, flag: Flags) -> bool {
        self.0 & flag.0 != 0
    }

    pub(crate) fn union(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    pub(crate) const fn or(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    fn with(self, flag: Flags, set: bool) -> Flags {
        if set { Flags(self.0 | flag.0) } else { self }
    }
}

/// A request, reduced to what the rules need.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Trace {
    /// The target's key, equal for requests that count as one target.
    pub key: u32,
    /// Derived from method, target and answer.
    pub flags: Flags,
    /// Its weight as a probe, in tenths of a failed path.
    pub weight: u8,
    /// A hash of the answer (status and size; of a redirect the status alone); 0 for answers that are not compared.
    pub answer: u8,
}

impl Trace {
    /// Counts as one try of many: as a target of its own, told by `key`.
    pub(crate) fn tried(self, weight: u8, key: u64) -> Trace {
        Trace { key: (key ^ key >> 32) as u32, weight, flags: self.flags.union(Flags::SHAPED), ..self }
    }

    /// Counts as a request that was neither served nor refused: in floods as an asset that was missed, by target not at all.
    pub(crate) fn expected(self) -> Trace {
        Trace { key: self.key, weight: 0, flags: Flags::MISSED.union(Flags::EMBEDDED), answer: 0 }
    }

    /// Whether it was redirected.
    pub(crate) fn is_redirected(&self) -> bool {
        self.answer != 0 && self.answer.is_multiple_of(2)
    }

    /// Returns whether it was served normally, and rules only count how many such requests there are.
    pub(crate) fn is_plain(&self) -> bool {
        self.weight == 0 && !self.flags.has(Flags::UNUSUAL)
    }

    /// Its weight as a malformed request, in tenths.
    pub fn foreign_tenths(&self) -> u8 {
        match (self.flags.has(Flags::FOREIGN), self.flags.has(Flags::PERHAPS_FOREIGN)) {
            (true, _) => 10,
            (false, true) => 3,
            (false, false) => 0,
        }
    }
}

/// A trace, and the path that it was derived from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub trace: Trace,
    /// The path that is served, for a person to read: without anything that can hold a password.
    pub path: &'a [u8],
    /// With its question mark.
    pub query: &'a [u8],
    /// Of the path that is served.
    pub shape: Shape,
    /// What a target that is told by its query counts by, the same in every process; 0 for others.
    pub query_key: u64,
}

/// A class of answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Served,
    Redirected,
    Refused,
    Broken,
    /// No evidence about the client: a time-out, an aborted request, one of `not_errors`.
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
    pub(super) const PAGE_REFUSED: u8 = 10;
    pub(super) const ARTICLE_REFUSED: u8 = 5;
    /// 401 begins every exchange of clients with a password (git, package managers, WebDAV); 410 is for what existed once.
    pub(super) const PAGE_CHALLENGED: u8 = 1;
    /// Programs ask every site for these by convention.
    pub(super) const CONVENTIONAL_REFUSED: u8 = 1;
    /// Pages with broken pictures are common, and lists of themes and plugins are asked for by their styles.
    pub(super) const ASSET_REFUSED: u8 = 2;
}

/// Derives traces from requests.
pub struct Tracer {
    hash: Seeded,
    not_errors: Vec<u16>,
    /// Whether 200 is not in `not_errors`: the condition of the fast path.
    is_200_served: bool,
    shapes: ShapeCache,
    /// Holds the path that is served for the last target that was not served as written.
    space: Vec<u8>,
}

impl Tracer {
    /// `hash` computes the keys of targets; `not_errors` are the statuses of this server's own answers to banned clients.
    pub fn new(hash: Seeded, not_errors: &[u16]) -> Tracer {
        Tracer {
            hash,
            not_errors: not_errors.to_vec(),
            is_200_served: !not_errors.contains(&200),
            shapes: ShapeCache::default(),
            space: Vec::new(),
        }
    }

    pub(crate) fn set_not_errors(&mut self, not_errors: &[u16]) {
        self.not_errors = not_errors.to_vec();
        self.is_200_served = !not_errors.contains(&200);
    }

    pub(crate) fn hash(&self) -> Seeded {
        self.hash
    }

    #[inline]
    /// Splits a target at its query, and hashes the path.
    pub fn hash_path(&self, target: &[u8]) -> HashedPath {
        HashedPath::of(target, self.hash)
    }

    /// Prefetches what [`Tracer::trace`] reads for this path.
    pub(crate) fn prefetch(&self, hashed: HashedPath) {
        self.shapes.prefetch(hashed.hash);
    }

    /// Derives the trace of `request`; `hashed` is [`Tracer::hash_path`] of its target.
    #[cfg(any(test, feature = "test-support"))]
    #[inline]
    pub fn trace(&mut self, request: &Request<'_>, hashed: HashedPath) -> Trace {
        let unread = Prepared::new(Client::of_addr(request.addr, 64), hashed, CachedShape::default());
        self.see(request, &unread).trace
    }

    /// Derives the trace of `request`, as [`Tracer::trace`] does, together with the path that is served.
    #[inline]
    pub(crate) fn see<'a>(&'a mut self, request: &Request<'a>, prepared: &Prepared) -> Seen<'a> {
        let hashed = prepared.path;
        let (path, query) = hashed.split(request.path);
        let read = prepared.shape.shape(hashed.hash);
        let Cached::Shape(shape) = read.unwrap_or_else(|| self.shapes.of(path, hashed.hash)) else {
            return self.see_respelled(request);
        };
        let Request { method, status, size, .. } = *request;
        let plain = query
            .is_empty()
            .then(|| self.trace_plain(&Plain { method, path, status, size }, hashed, shape.kind));
        match plain.flatten() {
            Some(trace) => Seen { trace, path, query, shape, query_key: 0 },
            None => self.see_any(request, hashed.hash, (path, query), shape),
        }
    }

    /// Derives the trace of a plain request (see `plain.rs`) whose path was seen lately; `None` of any other.
    #[inline]
    pub(crate) fn see_plain(&self, asked: &Plain<'_>, prepared: &Prepared) -> Option<Trace> {
        let hashed = prepared.path;
        if hashed.len() != asked.path.len() {
            return None;
        }
        let known = prepared.shape.shape(hashed.hash).or_else(|| self.shapes.get(hashed.hash));
        let Some(Cached::Shape(shape)) = known else { return None };
        self.trace_plain(asked, hashed, shape.kind)
    }

    /// Derives the trace of a request that is served as it is written, whatever the method and the answer.
    #[inline(never)]
    fn see_any<'a>(
        &self,
        request: &Request<'a>,
        path_hash: u64,
        (path, query): (&'a [u8], &'a [u8]),
        shape: Shape,
    ) -> Seen<'a> {
        let (status, spelling) = (request.status, Spelling::default());
        let trace =
            self.trace_any(request, &RequestTarget { path, query, path_hash, shape, spelling, status });
        Seen { trace, path, query, shape, query_key: query_key(&trace, shape, path, query) }
    }

    /// Derives the trace of a request whose path is not served as it is written.
    #[cold]
    fn see_respelled<'a>(&'a mut self, request: &Request<'a>) -> Seen<'a> {
        let mut space = std::mem::take(&mut self.space);
        let served = served_path::resolve(request.path, &mut space);
        let path_hash = self.hash.bytes(served.path);
        let shape = shape::of_served(&served, self.shapes.of_served(served.path, path_hash));
        let (path, query, spelling) = (served.path, served.query, served.spelling);
        let target = RequestTarget { path, query, path_hash, shape, spelling, status: request.status };
        let trace = self.trace_any(request, &target);
        let query_key = query_key(&trace, shape, path, query);
        self.space = space;
        // An escaped question mark may stand before a query.
        let readable = memchr::memchr(b'?', &self.space).unwrap_or(self.space.len());
        Seen { trace, path: &self.space[..readable], query, shape, query_key }
    }

    fn trace_any(&self, request: &Request<'_>, target: &RequestTarget<'_>) -> Trace {
        // A fragment is not served.
        let query = &target.query[..memchr::memchr(b'#', target.query).unwrap_or(target.query.len())];
        let target = &RequestTarget { query, ..*target };
        let RequestTarget { path, shape, .. } = *target;
        let answer = Answer::of(request.status, &self.not_errors);
        let error = request.status >= 400 && !self.not_errors.contains(&request.status);
        let verb = Verb::of(request.method);
        let judged = self.judge(target, verb, answer);
        let refused = answer == Answer::Refused && !is_spare_connection(request);
        let part = judged.weight == 0
            && (is_harmless(verb, request.status) || is_delivery(verb, path, request.status));
        let asset = judged.weight == 0 && (part || judged.is_served_asset(answer));
        let missed = judged.embedded != Embedded::No && refused && !asset;
        let is_counted = !asset && !missed;
        let no_target = shape.kind == Kind::Foreign;
        let is_login = verb == Verb::Post && shape.login && !self.not_errors.contains(&request.status);
        let login = if is_login { login::outcome(path, request.status) } else { Login::NotFailed };
        let perhaps = (request.status == 400 && path == b"/") || (verb == Verb::Dav && is_unknown_verb(request.status))
            // Tries whether this is a proxy.
            || (refused && target.spelling.has_origin);
        let flags = Flags::default()
            .with(Flags::ERROR, error)
            .with(Flags::ASSET, asset)
            .with(Flags::PART, part)
            .with(Flags::MISSED, missed)
            .with(Flags::EMBEDDED, judged.weight == 0 && judged.embedded != Embedded::No && is_counted)
            .with(Flags::FAILED, refused && is_counted)
            .with(Flags::BROKEN, error && is_counted && (answer == Answer::Broken || request.status == 499))
            .with(Flags::FOREIGN, refused && no_target)
            .with(Flags::PERHAPS_FOREIGN, perhaps)
            .with(Flags::LOGIN, login == Login::Failed)
            .with(Flags::UNPROVEN_LOGIN, login == Login::Unproven)
            .with(Flags::REMOTE_CALL, verb == Verb::Post && shape.remote_call && answer != Answer::Redirected)
            .with(Flags::POST, verb == Verb::Post)
            .with(Flags::SHAPED, judged.shaped)
            .with(Flags::NO_TARGET, no_target)
            // With a query it is a page of a forum: when that moves, crawlers are redirected from all of them.
            .with(Flags::SCRIPT, query.is_empty() && matches!(shape.kind, Kind::Script | Kind::Dubious));
        // Posts that are accepted are another target than those that are not.
        let key = match (verb, answer) {
            (Verb::Post, Answer::Refused | Answer::Broken) => (!judged.key).rotate_left(1),
            (Verb::Post, _) => !judged.key,
            _ if missed => judged.key.rotate_left(1),
            _ => judged.key,
        };
        Trace { key, weight: judged.weight, flags, answer: answer_mark(request.status, request.size, answer) }
    }

    /// The fast path for a page or asset requested by GET without a query and served: returns what [`Tracer::trace_any`]
    /// would, which a test compares.
    #[inline]
    fn trace_plain(&self, asked: &Plain<'_>, hashed: HashedPath, kind: Kind) -> Option<Trace> {
        let is_asset = kind == Kind::Asset;
        let is_plain = asked.status == 200
            && (is_asset || kind == Kind::Page)
            && asked.method == b"GET"
            && self.is_200_served;
        let flags = if is_asset { Flags::ASSET } else { Flags::default() };
        let answer = answer_mark(asked.status, asked.size, Answer::Served);
        is_plain.then_some(Trace { key: hashed.key(), weight: 0, flags, answer })
    }

    /// Weighs a target with its answer, and chooses the key under which it counts once.
    fn judge(&self, target: &RequestTarget<'_>, verb: Verb, answer: Answer) -> Judged {
        if verb == Verb::Dav {
            return self.judge_dav(target, answer);
        }
        let failed = answer == Answer::Refused;
        let shaped = |weight, key| Judged { key, weight, shaped: true, embedded: Embedded::No };
        let by_path = target.path_hash as u32;
        let query = shape::of_query(target.query);
        if failed && query == Query::Plain && shape::is_conventional(target.path) {
            let key = self.failed_key(target);
            let embedded = if target.shape.kind == Kind::Asset { Embedded::ByPath } else { Embedded::No };
            return Judged { key, weight: weight::CONVENTIONAL_REFUSED, shaped: false, embedded };
        }
        match (target.shape.kind, answer) {
            // Its owner's phpMyAdmin is one target; each password that is tried at it is another.
            (Kind::Probe, Answer::Served | Answer::Refused)
                if let Query::Password(value) = query
                    && (answer == Answer::Served || matches!(target.status, 401 | 403)) =>
            {
                return shaped(weight::PROBE_SERVED, self.hash.bytes(value) as u32);
            }
            (Kind::Probe, Answer::Refused) => return shaped(weight::PROBE_FAILED, by_path),
            (Kind::Probe, Answer::Redirected) => return shaped(weight::PROBE_REDIRECTED, by_path),
            // The target tells as much when the server is down or limits its clients.
            (Kind::Probe, Answer::Served | Answer::Broken | Answer::Neutral) => {
                let told_by = &target.path[..target.shape.told_by];
                return shaped(weight::PROBE_SERVED, self.hash.bytes(told_by) as u32);
            }
            (Kind::Dubious, Answer::Refused) => return shaped(weight::PROBE_FAILED, by_path),
            (Kind::Dubious, Answer::Redirected) if !is_page_like(target) => {
                return shaped(weight::PROBE_REDIRECTED, by_path);
            }
            _ => {}
        }
        match query {
            Query::Password(value) => return shaped(weight::PROBE_SERVED, self.hash.bytes(value) as u32),
            Query::Probe => {
                let weight = if failed { weight::PROBE_FAILED } else { weight::PROBE_SERVED };
                return shaped(weight, by_path ^ self.hash.bytes(target.query) as u32);
            }
            Query::Dubious if failed => {
                return shaped(weight::PROBE_FAILED, by_path ^ self.hash.bytes(target.query) as u32);
            }
            _ => {}
        }
        let is_unguessable = failed
            && target.status != 401
            && target.shape.kind == Kind::Page
            && verb == Verb::Get
            && shape::is_unguessable(target.path);
        let embedded = match target.shape.kind {
            Kind::Asset => Embedded::ByPath,
            _ if is_unguessable => Embedded::ByPath,
            // A download.
            Kind::Dubious if answer == Answer::Served => Embedded::ByPath,
            Kind::Dubious => Embedded::No,
            _ if query == Query::Asset => Embedded::ByQuery,
            _ => Embedded::No,
        };
        let weight = match (target.shape.kind, answer) {
            (Kind::Foreign, _) => 0,
            _ if is_delivery(verb, target.path, target.status) => 0,
            (_, Answer::Refused) if matches!(target.status, 401 | 410) => weight::PAGE_CHALLENGED,
            (Kind::Asset, Answer::Refused) => weight::ASSET_REFUSED,
            _ if is_unguessable => weight::ASSET_REFUSED,
            (Kind::Page, Answer::Refused) if shape::is_article(target.path) => weight::ARTICLE_REFUSED,
            (_, Answer::Refused) => weight::PAGE_REFUSED,
            _ => 0,
        };
        let key = if weight > 0 { self.failed_key(target) } else { self.served_key(target) };
        Judged { key, weight, shaped: false, embedded }
    }

    /// WebDAV's clients look for hidden files by the dozen, and get answers of their own (207, 404, …). On a server that
    /// redirects them, somebody is scanning.
    fn judge_dav(&self, target: &RequestTarget<'_>, answer: Answer) -> Judged {
        let (weight, shaped) = match answer {
            Answer::Redirected => (weight::PROBE_REDIRECTED, true),
            Answer::Refused if target.status == 401 => (0, false),
            // Every program of a desktop looks for its own files in every directory.
            Answer::Refused if target.status == 404 => (weight::PAGE_CHALLENGED, false),
            Answer::Refused => (weight::PAGE_REFUSED, false),
            _ => (0, false),
        };
        let key = if shaped { target.path_hash as u32 } else { self.below_directory(target) };
        Judged { key, weight, shaped, embedded: Embedded::No }
    }

    /// A failed path is one target whatever its query, and failed pages below one directory are one: a program misses its
    /// pictures that way, and a crawler follows dead links.
    fn failed_key(&self, target: &RequestTarget<'_>) -> u32 {
        match target.shape.kind {
            Kind::Page => self.below_directory(target),
            Kind::Asset => self.directory(target),
            _ => target.path_hash as u32,
        }
    }

    /// The directory of an asset. At the root each is a target, as a site has few there.
    fn directory(&self, target: &RequestTarget<'_>) -> u32 {
        match memchr::memrchr(b'/', target.path) {
            Some(end) if end > 0 => self.hash.bytes(&target.path[..=end]) as u32,
            _ => target.path_hash as u32,
        }
    }

    fn below_directory(&self, target: &RequestTarget<'_>) -> u32 {
        let inner = target.path.get(1..).unwrap_or_default();
        match memchr::memchr(b'/', inner) {
            Some(end) if end + 1 < inner.len() => self.hash.bytes(&target.path[..end + 2]) as u32,
            _ => target.path_hash as u32,
        }
    }

    /// A served target includes its query, except for the page of a directory: a flood of `/?random` is for one page.
    fn served_key(&self, target: &RequestTarget<'_>) -> u32 {
        let whole = target.query.is_empty() || target.path.ends_with(b"/");
        let hash = if whole { target.path_hash } else { target.path_hash ^ self.hash.bytes(target.query) };
        hash as u32
    }
}

/// What a shaped target counts by: a password by its value, what is told by its query by that.
fn query_key(trace: &Trace, shape: Shape, path: &[u8], query: &[u8]) -> u64 {
    if !trace.flags.has(Flags::SHAPED) || query.is_empty() {
        return 0;
    }
    match shape::of_query(query) {
        Query::Password(value) => stable_hash::of_text(value),
        Query::Probe | Query::Dubious if !matches!(shape.kind, Kind::Probe | Kind::Dubious) => {
            stable_hash::of_text(path).rotate_left(1) ^ stable_hash::of_text(query)
        }
        _ => 0,
    }
}

/// A hash of the answer in one byte, to recognise a catch-all, which answers every request with the same page.
fn answer_mark(status: u16, size: u64, answer: Answer) -> u8 {
    let mark = match answer {
        Answer::Served if status != 304 => u64::from(status) << 40 ^ size,
        Answer::Redirected => u64::from(status),
        _ => return 0,
    };
    let mixed = mark.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // Odd for pages, even for redirects.
    let mark = (mixed >> 56) as u8 | 1;
    if answer == Answer::Redirected { (mark ^ 1).max(2) } else { mark }
}

/// A class of methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Get,
    Post,
    /// Writes by programs.
    Write,
    /// WebDAV, and other methods that browsers do not use.
    Dav,
}

impl Verb {
    fn of(method: &[u8]) -> Verb {
        match method {
            b"POST" => Verb::Post,
            b"PUT" | b"PATCH" | b"DELETE" => Verb::Write,
            b"PROPFIND" | b"PROPPATCH" | b"MKCOL" | b"COPY" | b"MOVE" | b"LOCK" | b"UNLOCK" | b"REPORT"
            | b"SEARCH" => Verb::Dav,
            _ => Verb::Get,
        }
    }
}

/// Answers of a server to a method that it does not know.
fn is_unknown_verb(status: u16) -> bool {
    matches!(status, 400 | 405 | 501)
}

/// Answers that only legitimate clients get by the dozen: to WebDAV, to writes, and parts of a media file.
fn is_harmless(verb: Verb, status: u16) -> bool {
    let is_at_home = matches!(verb, Verb::Dav | Verb::Write) && (200..300).contains(&status);
    is_at_home || matches!(status, 201 | 206 | 207)
}

/// Deliveries between ActivityPub servers: hundreds a minute, refused when an author is gone or blocked. Where nothing
/// takes deliveries (404, 405), it is a page like any other.
fn is_delivery(verb: Verb, path: &[u8], status: u16) -> bool {
    let is_taken = (200..300).contains(&status) || matches!(status, 401 | 403 | 410);
    verb == Verb::Post && is_taken && path.ends_with(b"/inbox")
}

/// A connection that a browser opened in advance and closed unused: nginx logs no request, 400 and no bytes.
fn is_spare_connection(request: &Request<'_>) -> bool {
    request.path.is_empty() && request.method.is_empty() && request.status == 400 && request.size == 0
}

#[derive(Clone, Copy)]
struct RequestTarget<'a> {
    path: &'a [u8],
    query: &'a [u8],
    path_hash: u64,
    shape: Shape,
    spelling: Spelling,
    status: u16,
}

struct Judged {
    key: u32,
    weight: u8,
    shaped: bool,
    embedded: Embedded,
}

impl Judged {
    /// An asset counts as one where it was served; a redirect or a failure could be of anything.
    fn is_served_asset(&self, answer: Answer) -> bool {
        self.embedded == Embedded::ByPath && answer == Answer::Served
    }
}

/// Whether pages embed a target, by the look of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Embedded {
    No,
    /// Its path ends like an asset's.
    ByPath,
    /// Its query names an asset, which anybody can append.
    ByQuery,
}

/// A dubious name without an extension (`/manager`), which sites redirect to their login.
fn is_page_like(target: &RequestTarget<'_>) -> bool {
    let last = memchr::memrchr(b'/', target.path).map_or(0, |at| at + 1);
    memchr::memchr(b'.', &target.path[last..]).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    fn request<'a>(method: &'a str, path: &'a str, status: u16) -> Request<'a> {
        Request {
            addr: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            time: 0,
            method: method.as_bytes(),
            path: path.as_bytes(),
            status,
            size: 0,
            behind_proxy: false,
        }
    }

    fn trace(method: &str, path: &str, status: u16) -> Trace {
        let mut tracer = Tracer::new(Seeded::new(1), &[]);
        let hashed = tracer.hash_path(path.as_bytes());
        tracer.trace(&request(method, path, status), hashed)
    }

    #[test]
    fn the_fast_path_returns_what_the_slow_path_does() {
        let mut seen = 0;
        for path in [
            "/",
            "/a/page.html",
            "/a/b.jpg",
            "/x.php",
            "/.env",
            "/inbox",
            "/page?q=1",
            "/a.css?v=2",
            "xyz",
            "",
        ] {
            for (method, status) in
                [("GET", 200), ("GET", 304), ("GET", 404), ("POST", 200), ("PROPFIND", 200)]
            {
                for not_errors in [&[][..], &[200, 404]] {
                    let request = Request { size: 1234, ..request(method, path, status) };
                    let tracer = Tracer::new(Seeded::new(1), not_errors);
                    let hashed = tracer.hash_path(request.path);
                    let ((path, query), path_hash) = (hashed.split(request.path), hashed.hash);
                    let (shape, spelling) = (shape::of_path(path), Spelling::default());
                    let target = RequestTarget { path, query, path_hash, shape, spelling, status };
                    let plain = Plain { method: request.method, path, status, size: request.size };
                    if query.is_empty()
                        && let Some(trace) = tracer.trace_plain(&plain, hashed, shape.kind)
                    {
                        assert_eq!(
                            trace,
                            tracer.trace_any(&request, &target),
                            "{method} {:?} {status}",
                            request.path
                        );
                        seen += 1;
                    }
                }
            }
        }
        assert!(seen >= 3, "{seen}");
    }

    #[test]
    fn weights_by_target_and_status() {
        let check = |path: &str, status, weight: u8| {
            assert_eq!(trace("GET", path, status).weight, weight, "{path} {status}");
        };
        check("/", 200, 0);
        check("/gone", 404, 10);
        check("/gone.php", 404, 10);
        check("/gone.png", 404, 2);
        check("/gone.png", 502, 0);
        check("/thumb?src=a.jpg", 404, 10);
        check("/thumb?src=a.jpg", 502, 0);
        check("/how-we-built-a-house/", 404, 5);
        check("/gone", 410, 1);
        check("/team/tool.git/info", 401, 1);
        check("/wp-content/plugins/x/readme.txt", 404, 30);
        check("/report", 502, 0);
        check("/.env", 404, 30);
        check("/.env", 502, 12);
        check("/.env", 429, 12);
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
    fn spellings_of_one_target_are_one_target() {
        let spelled = |path: &str| trace("GET", path, 404);
        for (written, path) in [
            ("//////.en%76?1.css", "/.env"),
            ("//word", "/word"),
            ("/x/../word", "/word"),
            ("/./word", "/word"),
            ("http://www.example.org/word", "/word"),
            ("/word#x", "/word"),
            ("/a%20b.php", "/a b.php"),
        ] {
            let (one, other) = (spelled(written), spelled(path));
            assert_eq!((one.key, one.weight), (other.key, other.weight), "{written}");
        }
        assert_eq!(spelled("/w%6frd").weight, 30, "no client escapes letters");
        let login = trace("POST", "/wp-login.ph%70", 200);
        assert!(login.flags.has(Flags::LOGIN));
    }

    #[test]
    fn a_crawler_that_leaves_the_root_is_clumsy_and_no_traversal() {
        for (path, weight) in [("/../about.php", 10), ("/../../a.html", 10), ("/../../../a.html", 30)] {
            assert_eq!(trace("GET", path, 400).weight, weight, "{path}");
        }
        assert_eq!(trace("GET", "/static/../../etc/passwd", 400).weight, 30);
        assert_eq!(trace("GET", "/..%2f..%2fetc/passwd", 400).weight, 30);
        assert_eq!(trace("GET", "/blog/../about", 200).weight, 0);
    }

    #[test]
    fn paths_that_people_read_hold_no_password() {
        let mut tracer = Tracer::new(Seeded::new(1), &[]);
        for target in [
            "/phpmyadmin/?pma_password=secret",
            "/login%3fpassword=secret",
            "http://user:secret@example.org/login",
            "http://example.org/login?password=secret",
            "//login?password=secret",
        ] {
            let hashed = tracer.hash_path(target.as_bytes());
            let request = request("GET", target, 404);
            let unread = Prepared::new(Client::of_addr(request.addr, 64), hashed, CachedShape::default());
            let path = tracer.see(&request, &unread).path;
            assert!(memchr::memmem::find(path, b"secret").is_none(), "{target}");
        }
    }

    #[test]
    fn webdav_clients_may_look_for_hidden_files() {
        assert!(!trace("PROPFIND", "/dav/.DS_Store", 404).flags.has(Flags::SHAPED));
        assert_eq!(trace("PROPFIND", "/.hidden", 207).weight, 0);
        assert_eq!(trace("PROPFIND", "/admin", 302).weight, 20, "no WebDAV here: a sweep");
    }

    #[test]
    fn keys_of_requests_for_one_target_are_equal() {
        let key = |path: &str, status| trace("GET", path, status).key;
        assert_eq!(key("/?1", 200), key("/?2", 200), "a flood of the home page is one page");
        assert_ne!(key("/thumb?id=1", 200), key("/thumb?id=2", 200), "a gallery is many");
        assert_eq!(key("/Items/1/Images", 404), key("/Items/2/Images", 404), "a program misses its pictures");
        assert_ne!(key("/a", 404), key("/b", 404));
        assert_ne!(key("/x/a.php", 404), key("/x/b.php", 404), "scripts are tried one by one");
        assert_eq!(key("/gone?id=1", 404), key("/gone?id=2", 404), "a failed path is one");
        assert_eq!(key("/pma/a", 200), key("/pma/b", 200), "its owner's phpMyAdmin is one");
        assert_ne!(key("/x?u=a&pwd=1", 200), key("/x?u=a&pwd=2", 200), "passwords are many");
        let passwords = |status| {
            let login = |n| key(&format!("/phpmyadmin/index.php?pma_username=root&pma_password={n}"), status);
            login(1) != login(2)
        };
        assert!(passwords(200) && passwords(401) && passwords(403) && !passwords(404));
    }

    #[test]
    fn flags_by_method_target_and_status() {
        let has = |method, path, status, flag| trace(method, path, status).flags.has(flag);
        assert!(has("POST", "/wp-login.php", 200, Flags::LOGIN));
        assert!(!has("POST", "/wp-login.php", 302, Flags::LOGIN), "the password was right");
        assert!(!has("GET", "/wp-login.php", 200, Flags::LOGIN));
        assert!(!has("POST", "/wp-login.php", 301, Flags::LOGIN), "sent to https: nothing was tried");
        assert!(!has("POST", "/wp-login.php", 502, Flags::LOGIN));
        assert!(has("POST", "/api/login", 401, Flags::LOGIN) && has("POST", "/api/login", 429, Flags::LOGIN));
        assert!(has("POST", "/api/login", 200, Flags::UNPROVEN_LOGIN));
        assert!(!has("POST", "/api/login", 204, Flags::LOGIN.or(Flags::UNPROVEN_LOGIN)));
        assert!(has("POST", "/xmlrpc.php", 200, Flags::REMOTE_CALL));
        assert!(has("", "\u{16}\u{3}", 400, Flags::FOREIGN));
        assert!(!has("", "", 400, Flags::FOREIGN), "a spare connection: no bytes were sent back");
        assert!(has("CONNECT", "192.0.2.1:443", 405, Flags::FOREIGN));
        assert!(has("GET", "/", 400, Flags::PERHAPS_FOREIGN));
        assert!(has("PROPFIND", "/", 405, Flags::PERHAPS_FOREIGN));
        assert!(has("PROPFIND", "/dav/", 207, Flags::ASSET));
        assert!(has("GET", "/stream", 206, Flags::ASSET));
        assert!(
            has("PUT", "/api/items/1", 204, Flags::ASSET) && !has("PUT", "/api/items/1", 403, Flags::ASSET)
        );
        assert!(has("POST", "/users/a/inbox", 401, Flags::ASSET), "an author is gone");
        assert!(has("POST", "/inbox", 202, Flags::PART) && has("GET", "/stream", 206, Flags::PART));
        assert!(has("POST", "/inbox", 404, Flags::FAILED), "nobody takes deliveries here");
        assert!(has("GET", "/a.php", 200, Flags::SCRIPT) && !has("GET", "/a.php?id=1", 200, Flags::SCRIPT));
        assert!(has("GET", "/api", 502, Flags::BROKEN) && !has("GET", "/api", 502, Flags::FAILED));
        assert!(!has("", "", 408, Flags::FAILED), "an idle connection is no evidence");
        assert!(!has("GET", "/search?q=1&x=.jpg", 200, Flags::ASSET), "anybody can append that");
        assert!(has("GET", "/thumb?src=a.jpg", 200, Flags::EMBEDDED));
        assert!(!has("GET", "/a.png", 404, Flags::FAILED), "a broken image is the site's");
        assert!(has("GET", "/a.png", 404, Flags::MISSED) && !has("GET", "/a.png", 404, Flags::ASSET));
        assert!(has("GET", "/a.png", 304, Flags::ASSET) && !has("GET", "/a.png", 302, Flags::ASSET));
    }
}
