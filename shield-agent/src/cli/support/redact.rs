//! Takes out of a text what nobody else may read. Pure, but for the salt that it is given.
//!
//! Two nets, because either has holes: the secrets that are known by value, wherever they stand, and everything that looks like
//! one. Rather too much than too little: a word that is missing in a report costs a question.

use std::net::IpAddr;

use sha2::{Digest as _, Sha256};

/// What is done with the addresses of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Addresses {
    /// Leave them
    Keep,
    /// Put a pseudonym in place of each, the same throughout the file
    Hash,
}

/// Secrets shorter than this are words that stand elsewhere too.
const MIN_SECRET_CHARS: usize = 6;
/// Random texts at least this long are taken for tokens.
const MIN_TOKEN_CHARS: usize = 24;
const REMOVED: &str = "[removed]";

/// Names of settings and parameters whose values are secrets.
const SECRET_NAMES: [&str; 12] = [
    "password",
    "passwd",
    "pwd",
    "secret",
    "token",
    "apikey",
    "api_key",
    "authorization",
    "bearer",
    "cookie",
    "session",
    "credential",
];

pub(super) struct Redactor {
    /// Known by value, the longest first.
    secrets: Vec<String>,
    addresses: Addresses,
    /// Not kept anywhere: without it nobody can try all addresses.
    salt: [u8; 32],
}

impl Redactor {
    pub(super) fn new(
        secrets: impl IntoIterator<Item = String>,
        addresses: Addresses,
        salt: [u8; 32],
    ) -> Redactor {
        let mut secrets: Vec<String> = secrets.into_iter().map(|secret| secret.trim().to_owned()).collect();
        secrets.retain(|secret| secret.len() >= MIN_SECRET_CHARS);
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Redactor { secrets, addresses, salt }
    }

    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.secrets {
            text = text.replace(secret.as_str(), REMOVED);
        }
        text.split_inclusive('\n').map(|line| self.line(line)).collect()
    }

    fn line(&self, line: &str) -> String {
        let line = without_log_lines(line);
        let line = without_urls(&line);
        let line = without_queries(&line);
        let line = without_named(&line);
        self.words(&line)
    }

    /// Addresses, e-mail addresses and tokens, word by word.
    fn words(&self, line: &str) -> String {
        let mut out = String::with_capacity(line.len());
        let mut rest = line;
        while !rest.is_empty() {
            let end = rest.find(|char: char| !is_of_a_word(char)).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            out.push_str(&self.word(word));
            let gap = after.find(is_of_a_word).unwrap_or(after.len());
            out.push_str(&after[..gap]);
            rest = &after[gap..];
        }
        out
    }

    fn word(&self, word: &str) -> String {
        if word.contains('@') && word.contains('.') {
            return "[e-mail]".to_owned();
        }
        if is_mac(word) {
            return "[mac]".to_owned();
        }
        if let Some(word) = self.address(word) {
            return word;
        }
        // The parts of a JSON Web Token are joined by points.
        let parts = word.split('.').map(|part| if is_token(part) { "[token]" } else { part });
        parts.collect::<Vec<_>>().join(".")
    }

    /// The word with its address replaced; `None` when it is none.
    fn address(&self, word: &str) -> Option<String> {
        let bare = word.trim_end_matches(['.', ':', ',']);
        let tail = &word[bare.len()..];
        let (addr, port) = match bare.parse::<IpAddr>() {
            Ok(addr) => (addr, ""),
            Err(_) => {
                let (addr, port) = bare.rsplit_once(':')?;
                (addr.parse::<std::net::Ipv4Addr>().ok()?.into(), &bare[addr.len()..][..port.len() + 1])
            }
        };
        let addr = addr.to_canonical();
        if self.addresses == Addresses::Keep || is_nobodys(addr) {
            return Some(word.to_owned());
        }
        Some(format!("{}{port}{tail}", self.pseudonym(addr)))
    }

    fn pseudonym(&self, addr: IpAddr) -> String {
        let bytes = match addr {
            IpAddr::V4(addr) => addr.octets().to_vec(),
            IpAddr::V6(addr) => addr.octets().to_vec(),
        };
        let digest = Sha256::new().chain_update(self.salt).chain_update(bytes).finalize();
        let version = if addr.is_ipv4() { 4 } else { 6 };
        let hex: String = digest.iter().take(5).map(|byte| format!("{byte:02x}")).collect();
        format!("ip{version}-{hex}")
    }
}

fn is_of_a_word(char: char) -> bool {
    char.is_ascii_alphanumeric() || ".:@_-+%=~".contains(char)
}

/// Addresses that tell of no person, and that a report about proxies is about.
fn is_nobodys(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => {
            let is_shared = addr.octets()[0] == 100 && addr.octets()[1] & 0xc0 == 64;
            addr.is_private()
                || addr.is_loopback()
                || addr.is_link_local()
                || addr.is_unspecified()
                || addr.is_broadcast()
                || addr.is_multicast()
                || is_shared
        }
        IpAddr::V6(addr) => {
            addr.is_loopback()
                || addr.is_unspecified()
                || addr.is_unique_local()
                || addr.is_unicast_link_local()
                || addr.is_multicast()
        }
    }
}

/// An interface's hardware address.
fn is_mac(word: &str) -> bool {
    let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    word.split(':').count() == 6 && word.split(':').all(is_byte)
}

/// Letters and digits mixed, and longer than any word.
fn is_token(word: &str) -> bool {
    let chars = || word.chars().filter(|char| char.is_ascii_alphanumeric());
    word.len() >= MIN_TOKEN_CHARS
        && chars().count() * 10 >= word.len() * 8
        && chars().any(|char| char.is_ascii_digit())
        && chars().any(|char| char.is_ascii_alphabetic())
        // A key of a setting or a file's name is words joined by signs.
        && (!word.contains(['_', ':', '%']) || longest_run(word) >= 16)
}

fn longest_run(word: &str) -> usize {
    word.split(|char: char| !char.is_ascii_alphanumeric()).map(str::len).max().unwrap_or(0)
}

/// The first characters of a visitor's log line, as they are shown where a format is not understood: its shape is what is needed.
fn without_log_lines(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some((before, quote, after)) = ["begins \\\"", "begins \"", "\"begins\": \"", "rejected    \""]
        .iter()
        .filter_map(|mark| rest.split_once(mark).map(|(before, after)| (before, *mark, after)))
        .min_by_key(|(before, ..)| before.len())
    {
        out.push_str(before);
        out.push_str(quote);
        let is_escaped = quote.ends_with("\\\"");
        let end = end_of_quote(after, is_escaped);
        let shape = after[..end].chars().map(|char| match char {
            'a'..='z' | 'A'..='Z' => 'x',
            '0'..='9' => '0',
            other => other,
        });
        out.extend(shape);
        rest = &after[end..];
    }
    out + rest
}

/// Where a quoted text ends; one inside JSON ends at an escaped quote, and has its own quotes escaped twice.
fn end_of_quote(text: &str, is_escaped: bool) -> usize {
    let mut backslashes = 0;
    for (at, char) in text.char_indices() {
        match char {
            '\\' => backslashes += 1,
            '"' if is_escaped && backslashes == 1 => return at - 1,
            '"' if !is_escaped && backslashes % 2 == 0 => return at,
            _ => backslashes = 0,
        }
    }
    text.len()
}

/// A URL's path may be a secret, and its user is one: the scheme and the host stay.
fn without_urls(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let end = after.find(|char: char| char.is_whitespace() || "\"'`<>)],;".contains(char));
        let (url, next) = after.split_at(end.unwrap_or(after.len()));
        let host_end = url.find(['/', '?', '#']).unwrap_or(url.len());
        let (authority, path) = url.split_at(host_end);
        let host = authority.rsplit('@').next().unwrap_or(authority);
        out.push_str(host);
        if path.len() > 1 {
            out.push('/');
            out.push_str(REMOVED);
        } else {
            out.push_str(path);
        }
        rest = next;
    }
    out + rest
}

/// What a visitor sent after the path.
fn without_queries(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find('?') {
        let (before, after) = rest.split_at(at + 1);
        out.push_str(before);
        let end = after.find(|char: char| char.is_whitespace() || "\"'`<>".contains(char));
        let (query, next) = after.split_at(end.unwrap_or(after.len()));
        out.push_str(if query.is_empty() { "" } else { REMOVED });
        rest = next;
    }
    out + rest
}

/// `token = "…"`, `"password": "…"`, `Authorization: Bearer …`: what follows such a name.
fn without_named(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let mut out = String::new();
    let mut done = 0;
    let mut names: Vec<usize> = SECRET_NAMES
        .iter()
        .flat_map(|name| lower.match_indices(name).map(|(at, name)| at + name.len()))
        .collect();
    names.sort_unstable();
    for end in names {
        let Some(tail) = line.get(end..).filter(|_| end >= done) else { continue };
        let Some((skip, len)) = value(tail) else { continue };
        out.push_str(&line[done..end + skip]);
        out.push_str(REMOVED);
        done = end + skip + len;
    }
    out + &line[done..]
}

/// Where the value after a name begins, and its length; `None` when no value follows.
fn value(tail: &str) -> Option<(usize, usize)> {
    // `url_file`, `token_file` and the like name a place, which is no secret.
    let sign = tail.find(['=', ':'])?;
    let between = &tail[..sign];
    if between.chars().any(|char| !(char.is_whitespace() || "\"'\\".contains(char))) {
        return None;
    }
    let after = &tail[sign + 1..];
    let skip = after.len() - after.trim_start_matches([' ', '\t', '"', '\'', '\\']).len();
    let begun = &after[skip..];
    let is_quoted = after[..skip].contains(['"', '\'']);
    let ends = |char: char| {
        if is_quoted { "\"'\\\n".contains(char) } else { "\n,;}".contains(char) }
    };
    let len = begun.find(ends).unwrap_or(begun.len());
    (len > 0).then_some((sign + 1 + skip, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor(addresses: Addresses) -> Redactor {
        Redactor::new(["hunter2-and-more".to_owned(), "on".to_owned()], addresses, [7; 32])
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(redactor(Addresses::Keep).text(text), expected);
    }

    #[test]
    fn secrets_are_taken_out_and_the_rest_stays() {
        check("mode = \"on\", it says hunter2-and-more.\n", "mode = \"on\", it says [removed].\n");
        check(
            "posts to https://hooks.slack.com/services/T0/B0/xyz now",
            "posts to https://hooks.slack.com/[removed] now",
        );
        check("proxy http://anna:pass@proxy.example:3128", "proxy http://proxy.example:3128");
        check("/reset?token=abc&mail=x 3 times", "/reset?[removed] 3 times");
        check("api_token = \"abc def\" # mine", "api_token = \"[removed]\" # mine");
        check("{\"password\": \"pw\", \"n\": 3}", "{\"password\": \"[removed]\", \"n\": 3}");
        check("Authorization: Bearer abc", "Authorization: [removed]");
        check("url_file = \"/etc/shield/slack\"", "url_file = \"/etc/shield/slack\"");
        check("token_file = \"/etc/shield/cf\"", "token_file = \"/etc/shield/cf\"");
        check("/verify/9f8a7b6c5d4e3f2a1b0c9d8e7f6a5b4c seen", "/verify/[token] seen");
        check("eyJhbGciOiJIUzI1NiJ9abcdef12.eyJzdWIiOiIxMjM0NTY3ODkwIn0", "[token].[token]");
        check("eth0 UP 52:54:00:12:ab:cd", "eth0 UP [mac]");
        check("anna.smith@example.org logged in", "[e-mail] logged in");
        check(
            "2026-11-29T05:10:11Z /var/lib/shield/shield.db, 0.1.0, x86_64-unknown-linux-gnu",
            "2026-11-29T05:10:11Z /var/lib/shield/shield.db, 0.1.0, x86_64-unknown-linux-gnu",
        );
        check(
            "the first begins \"192.0.2.7 GET /x?sid=Abc9\" (no time)",
            "the first begins \"000.0.0.0 xxx /x?[removed]\" (no time)",
        );
        check(
            r#"{"text":"the first begins \"ab \\\"c9\\\" d\" (no)"}"#,
            r#"{"text":"the first begins \"xx \\\"x0\\\" x\" (no)"}"#,
        );
    }

    #[test]
    fn addresses_have_pseudonyms_that_are_the_same_throughout() {
        let redactor = redactor(Addresses::Hash);
        let one = redactor.pseudonym("203.0.113.66".parse().unwrap());
        let text = "-A SHIELD -s 203.0.113.66/32 -j DROP\n::ffff:203.0.113.66 203.0.113.66:443, 10.0.0.1 127.0.0.1 12:30:45";
        let expected = format!("-A SHIELD -s {one}/32 -j DROP\n{one} {one}:443, 10.0.0.1 127.0.0.1 12:30:45");
        assert_eq!(redactor.text(text), expected);
        let v6 = redactor.text("2001:db8::1 [2001:db8::1]:80 fe80::1");
        let six = redactor.pseudonym("2001:db8::1".parse().unwrap());
        assert_eq!(v6, format!("{six} [{six}]:80 fe80::1"));
        let other = Redactor::new([], Addresses::Hash, [8; 32]);
        assert_ne!(other.pseudonym("203.0.113.66".parse().unwrap()), one, "the salt does not matter");
    }

    proptest::proptest! {
        /// Whatever surrounds it: what is known by value never comes through.
        #[test]
        fn a_known_secret_never_comes_through(before in "\\PC{0,40}", after in "\\PC{0,40}") {
            let shown = redactor(Addresses::Hash).text(&format!("{before}hunter2-and-more{after}"));
            proptest::prop_assert!(!shown.contains("hunter2-and-more"), "{}", shown);
        }
    }
}
