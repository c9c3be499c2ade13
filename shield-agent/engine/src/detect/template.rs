//! The template of a path: the path without what varies from item to item. Numbers, hashes, identifiers and dates are taken
//! out, so that the thousand objects of a cache are one template, and the thousand words of a list are a thousand.
//!
//! The hash is the same in every process, because habits learned by template outlive a restart.

use crate::detect::stable_hash::StableHash;

/// A token at least this long that changes so often between letters and digits identifies an item: `7a9d9691`. `word12` is a
/// word of a list, as good as any other.
const MIN_IDENTIFIER: usize = 8;
const MIN_CHANGES: usize = 3;

/// Hexadecimal digits of at least this length, with numbers among them, identify too: a telephone's `805ec0000003`.
const MIN_HEX_IDENTIFIER: usize = 12;
const MIN_HEX_NUMBERS: usize = 3;

/// A path that ends in a hash of at least this length is an object of a store, which fans out into directories named after the
/// hash's first digits: `/cache/b0/eb53…`.
const MIN_STORED_HASH: usize = 24;
const MAX_FAN_OUT: usize = 2;

/// Longer numbers are times and serial numbers.
const MAX_COUNTED_DIGITS: usize = 8;

/// Longer tokens of letters alone are no words either.
const MAX_WORD: usize = 24;

/// The template of one path, and that of its directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Template {
    /// Of the whole path.
    pub(crate) hash: u64,
    /// Of the path up to its last slash.
    pub(crate) dir: u64,
    /// The number of directories: 1 for `/a`, 2 for `/a/b`.
    pub(crate) depth: u32,
    /// Whether nothing but short numbers behind a word of the last name was taken out: `/wp-7.php`, `/.env.12`. So lists count on;
    /// what programs count are tiles and telephones, `/14/8700.png` and `/1001.cfg`.
    pub(crate) is_counted: bool,
}

impl Template {
    /// The template of a path without its query.
    pub(crate) fn of(path: &[u8]) -> Template {
        let mut hash = StableHash::default();
        let mut template = Template { dir: hash.finish(), ..Template::default() };
        let (mut at, is_stored) = (0, is_stored_by_hash(path));
        let (mut has_items, mut has_word, mut is_counted) = (false, false, false);
        while at < path.len() {
            let rest = &path[at..];
            if let Some(len) = package_name(path, at) {
                hash.add(b"#");
                has_items = true;
                at += len;
                continue;
            }
            if is_uuid(rest) {
                hash.add(b"#");
                has_items = true;
                at += UUID_BYTES;
                continue;
            }
            let len = rest.iter().take_while(|byte| is_token_byte(**byte)).count();
            if len == 0 {
                if rest[0] == b'/' {
                    template.depth += 1;
                    (has_word, is_counted) = (false, false);
                    template.dir = hash.finish();
                }
                hash.add(&rest[..1]);
                at += 1;
                continue;
            }
            let is_between_slashes = at > 0 && path[at - 1] == b'/' && rest.get(len) == Some(&b'/');
            if is_stored && is_between_slashes && len <= MAX_FAN_OUT && is_hex(&rest[..len]) {
                hash.add(b"#");
                has_items = true;
            } else {
                match add_token(&mut hash, &rest[..len]) {
                    Token::Number if len <= MAX_COUNTED_DIGITS => is_counted |= has_word,
                    Token::Number | Token::Item => has_items = true,
                    Token::Word => has_word = true,
                }
            }
            at += len;
        }
        template.hash = hash.finish();
        template.is_counted = is_counted && !has_items;
        template
    }
}

/// Letters and digits of at least this length that change so often between the two are nothing that can be guessed.
const MIN_UNGUESSABLE: usize = 16;
const MIN_UNGUESSABLE_CHANGES: usize = 4;

/// Whether a part of the path is a UUID, or so long a run of letters and digits that nobody can guess it.
pub(crate) fn names_an_item(path: &[u8]) -> bool {
    let is_uuid_at = |at: usize| at > 0 && !is_token_byte(path[at - 1]) && is_uuid(&path[at..]);
    if path.len() >= UUID_BYTES
        && memchr::memchr_iter(b'-', path).any(|dash| dash >= 8 && is_uuid_at(dash - 8))
    {
        return true;
    }
    path.split(|byte| !is_token_byte(*byte))
        .any(|token| token.len() >= MIN_UNGUESSABLE && changes(token) >= MIN_UNGUESSABLE_CHANGES)
}

/// How often a token changes between letters and digits.
fn changes(token: &[u8]) -> usize {
    token.windows(2).filter(|two| two[0].is_ascii_digit() != two[1].is_ascii_digit()).count()
}

fn is_hex(token: &[u8]) -> bool {
    token.iter().all(u8::is_ascii_hexdigit)
}

fn is_stored_by_hash(path: &[u8]) -> bool {
    let name = memchr::memrchr(b'/', path).map_or(path, |at| &path[at + 1..]);
    let len = name.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    len >= MIN_STORED_HASH && name.get(len).is_none_or(|next| !is_token_byte(*next))
}

/// The length of a package's name, if one begins at `at`: in Python's simple index (`…/simple/NAME/`), in NuGet's
/// (`…-flatcontainer/NAME/index.json`), or in a proxy of Go's modules (`/github.com/acme/tool/@v/list`). An installer asks each of its
/// indexes for everything that it needs, and a mirror lacks most of it. Nothing else is looked for there.
fn package_name(path: &[u8], at: usize) -> Option<usize> {
    if at == 1 {
        return module_name(path);
    }
    if path[..at].ends_with(b"-flatcontainer/") {
        let len = memchr::memchr(b'/', &path[at..])?;
        return (len > 0 && path[at] != b'.').then_some(len);
    }
    let rest = path[..at].ends_with(b"/simple/").then(|| &path[at..])?;
    let len = memchr::memchr(b'/', rest).unwrap_or(rest.len());
    let is_package = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_name = len > 0 && rest[0] != b'.' && rest[..len].iter().all(is_package);
    (is_name && rest.len() <= len + 1).then_some(len)
}

/// The length of a Go module's path, which begins with the name of a host.
fn module_name(path: &[u8]) -> Option<usize> {
    memchr::memchr(b'@', path)?;
    let end =
        memchr::memmem::find(path, b"/@v/").or_else(|| path.strip_suffix(b"/@latest").map(<[u8]>::len))?;
    let host = path.get(1..end)?.split(|byte| *byte == b'/').next()?;
    let is_host = host.len() > 3 && host[0] != b'.' && memchr::memchr(b'.', host).is_some();
    is_host.then_some(end - 1)
}

/// 8-4-4-4-12 hexadecimal digits.
const UUID_BYTES: usize = 36;

fn is_uuid(text: &[u8]) -> bool {
    let Some(text) = text.get(..UUID_BYTES) else { return false };
    text.iter().enumerate().all(|(at, byte)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    })
}

fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

enum Token {
    Word,
    Number,
    Item,
}

/// Adds a token: as it is, or a mark for a number or an identifier.
fn add_token(hash: &mut StableHash, token: &[u8]) -> Token {
    let digits = token.iter().filter(|byte| byte.is_ascii_digit()).count();
    let is_number_in_hex = token.len() >= MIN_HEX_IDENTIFIER && digits >= MIN_HEX_NUMBERS && is_hex(token);
    let is_identifier = is_number_in_hex || (token.len() >= MIN_IDENTIFIER && changes(token) >= MIN_CHANGES);
    if is_identifier || token.len() - digits > MAX_WORD {
        hash.add(b"#");
        Token::Item
    } else if digits == token.len() {
        hash.add(b"0");
        Token::Number
    } else {
        token.iter().for_each(|byte| hash.add(&[byte.to_ascii_lowercase()]));
        Token::Word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_of_one_kind_are_one_template() {
        let same = [
            ("/8rf8rr48a0k34fmy37a9z8mrpf39p3j6.narinfo", "/0f69d4dw0nga8xxy1ygkshy6i6497sh0.narinfo"),
            ("/cache/ac/7a9d969146fc8893d73c43fad", "/cache/ac/3ce99f8b3a355f2ccb29b5260"),
            ("/tms/1.0.0/a:b@EPSG:900913@png/14/8700/5601.png", "/tms/1.0.0/a:b@EPSG:900913@png/9/1/2.png"),
            ("/2024/05/01/report", "/2025/11/30/report"),
            ("/v2/team/app/blobs/sha256:aa00aa11", "/v2/team/app/blobs/sha256:bb17cc22"),
            (
                "/ccache/b0/eb53f16947ccf25ec84d8dbc74254770f58904",
                "/ccache/0e/aaaabbbb47ccf25ec84d8dbc742547ccccdddd",
            ),
            (
                "/sccache/a/4/c/a4c123b1612dd272d1371c17149d4395",
                "/sccache/0/b/d/0bd923b1612dd272d1371c17149d4395",
            ),
            ("/prov/805ec0000003.cfg", "/prov/805ec000000a.cfg"),
            ("/pypi/simple/requests/", "/pypi/simple/ruamel.yaml-2/"),
            ("/v3-flatcontainer/dapper/index.json", "/v3-flatcontainer/castle.core/index.json"),
            ("/github.com/acme/tool/@v/list", "/golang.org/x/text/@v/list"),
            ("/gopkg.in/@latest", "/k8s.io/api/@latest"),
            ("/x/3f2504e0-4f89-11d3-9a0c-0305e82c3301", "/x/7a9d9691-46fc-8893-d73c-0f69d4d0abba"),
        ];
        for (one, other) in same {
            assert_eq!(Template::of(one.as_bytes()).hash, Template::of(other.as_bytes()).hash, "{one}");
        }
    }

    #[test]
    fn a_number_behind_a_word_counts_on() {
        for path in ["/wp-7.php", "/.env.12", "/a/b/backup-2024-05-03.zip", "/v1.2/dump_3.sql"] {
            assert!(Template::of(path.as_bytes()).is_counted, "{path}");
        }
        let other = [
            "/tms/1.0.0/png/14/8700/5601.png",
            "/prov/1001.cfg",
            "/prov/spa-805ec0000003.cfg",
            "/.env",
            "/wp-7/x.php",
            "/backup-1795530901000.zip",
            "/word12",
        ];
        for path in other {
            assert!(!Template::of(path.as_bytes()).is_counted, "{path}");
        }
    }

    #[test]
    fn words_are_templates_of_their_own() {
        let words = [
            "/de/admin",
            "/be/admin",
            "/defaced",
            "/admin",
            "/backup",
            "/test",
            "/a/admin",
            "/admin/",
            "/admin.php",
            "/word12",
            "/word13",
            "/simple/.env",
            "/simple/a/admin",
            "/simple/b/admin",
        ];
        for (n, one) in words.iter().enumerate() {
            for other in &words[n + 1..] {
                assert_ne!(Template::of(one.as_bytes()).hash, Template::of(other.as_bytes()).hash);
            }
        }
    }

    #[test]
    fn a_directory_is_the_path_up_to_its_last_slash() {
        let of = |path: &str| Template::of(path.as_bytes());
        assert_eq!(of("/a/b/c").dir, of("/a/b/d").dir);
        assert_ne!(of("/a/b/c").dir, of("/a/x/c").dir);
        assert_eq!((of("/a").depth, of("/a/b").depth, of("").depth), (1, 2, 0));
    }
}
