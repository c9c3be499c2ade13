//! What the operator says is normal here, for what cannot be learned in time: paths that are not judged, paths at which
//! refusals are expected, and clients that watch the site.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::detect::policy::Policy;
use crate::vocab::request::Request;

/// A path as an operator writes it: it begins with `/`, and `*` stands for any text, slashes too. One that covers the whole
/// site is refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern(String);

/// A text that is no [`PathPattern`].
#[derive(Debug)]
pub enum BadPattern {
    /// It does not begin with `/`.
    NoPath(String),
    /// It is the whole site, or its front page, which everybody asks for.
    WholeSite(String),
}

impl fmt::Display for BadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BadPattern::NoPath(text) => {
                write!(f, "{text:?} is no path: write one that begins with \"/\", with * for any text")
            }
            BadPattern::WholeSite(text) => write!(
                f,
                "{text:?} would blind Shield to the site or its front page: name what is meant, such as \
                 \"/healthz\" or \"/metrics/*\""
            ),
        }
    }
}

impl std::error::Error for BadPattern {}

impl TryFrom<String> for PathPattern {
    type Error = BadPattern;

    fn try_from(text: String) -> Result<PathPattern, BadPattern> {
        match text.as_str() {
            _ if text.trim_matches(['/', '*']).is_empty() => Err(BadPattern::WholeSite(text)),
            _ if text.starts_with('/') => Ok(PathPattern(text)),
            _ => Err(BadPattern::NoPath(text)),
        }
    }
}

impl From<PathPattern> for String {
    fn from(pattern: PathPattern) -> String {
        pattern.0
    }
}

impl PathPattern {
    /// Whether it matches a path without its query.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        let mut parts = self.0.as_bytes().split(|byte| *byte == b'*');
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = path.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            let Some(at) = memchr::memmem::find(rest, part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }
}

/// How much of a request is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exemption {
    /// All of it.
    No,
    /// A refusal is normal here: it is no failure, but floods are floods.
    ExpectedMiss,
    /// Nothing: it counts in the totals only.
    NotJudged,
}

/// The name of a server section as an operator writes it: a name, or `*.` and a domain for all names below that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServerName(String);

/// A text that is no [`ServerName`].
#[derive(Debug)]
pub struct BadServerName(String);

impl fmt::Display for BadServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no name of a site: write the first name of its server section, such as shop.example.org, or \
             *.example.org for all below that",
            self.0
        )
    }
}

impl std::error::Error for BadServerName {}

impl TryFrom<String> for ServerName {
    type Error = BadServerName;

    fn try_from(text: String) -> Result<ServerName, BadServerName> {
        let name = text.strip_prefix("*.").unwrap_or(&text);
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if !name.is_empty() && name.bytes().all(is_name) {
            Ok(ServerName(text))
        } else {
            Err(BadServerName(text))
        }
    }
}

impl From<ServerName> for String {
    fn from(name: ServerName) -> String {
        name.0
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ServerName {
    fn matches(&self, server: &[u8]) -> bool {
        match self.0.strip_prefix('*') {
            Some(below) => server
                .split_at_checked(server.len().wrapping_sub(below.len()))
                .is_some_and(|(name, end)| !name.is_empty() && end.eq_ignore_ascii_case(below.as_bytes())),
            None => server.eq_ignore_ascii_case(self.0.as_bytes()),
        }
    }
}

/// What is normal on one site, besides what is on all. A client does not choose its site: the name is the server section's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SitePolicy {
    pub host: ServerName,
    /// Whether anything on it is judged.
    pub judged: bool,
    /// As of the whole policy.
    pub ignore_paths: Vec<PathPattern>,
    pub expected_misses: Vec<PathPattern>,
    pub monitors: Vec<IpNet>,
}

/// The operator's exemptions.
#[derive(Debug, Clone)]
pub(crate) struct Exempt {
    everywhere: Normal,
    /// Those with an exact name first, then the longest names.
    sites: Vec<(ServerName, Normal)>,
}

/// What is normal in one place.
#[derive(Debug, Clone, Default)]
struct Normal {
    is_judged: bool,
    ignore_paths: Vec<PathPattern>,
    expected_misses: Vec<PathPattern>,
    monitors: Vec<IpNet>,
}

impl Normal {
    fn exemption(&self, request: &Request<'_>, path: &[u8]) -> Exemption {
        let any = |patterns: &[PathPattern]| patterns.iter().any(|pattern| pattern.matches(path));
        let is_monitor = || self.monitors.iter().any(|network| network.contains(&request.addr));
        if !self.is_judged || is_monitor() || any(&self.ignore_paths) {
            Exemption::NotJudged
        } else if (400..500).contains(&request.status) && any(&self.expected_misses) {
            Exemption::ExpectedMiss
        } else {
            Exemption::No
        }
    }
}

impl Exempt {
    /// `None` when nothing is exempt.
    pub(crate) fn new(policy: &Policy) -> Option<Exempt> {
        let Policy { ignore_paths, expected_misses, monitors, sites, .. } = policy;
        if ignore_paths.is_empty() && expected_misses.is_empty() && monitors.is_empty() && sites.is_empty() {
            return None;
        }
        let everywhere = Normal {
            is_judged: true,
            ignore_paths: ignore_paths.clone(),
            expected_misses: expected_misses.clone(),
            monitors: monitors.clone(),
        };
        let site = |site: &SitePolicy| {
            let normal = Normal {
                is_judged: site.judged,
                ignore_paths: site.ignore_paths.clone(),
                expected_misses: site.expected_misses.clone(),
                monitors: site.monitors.clone(),
            };
            (site.host.clone(), normal)
        };
        let mut sites: Vec<_> = sites.iter().map(site).collect();
        sites.sort_by_key(|(host, _)| (host.0.starts_with('*'), std::cmp::Reverse(host.0.len())));
        Some(Exempt { everywhere, sites })
    }

    /// How much of a request is judged; `path` is the one that is served, `server` the section that answered.
    pub(crate) fn of(&self, request: &Request<'_>, path: &[u8], server: &[u8]) -> Exemption {
        let everywhere = self.everywhere.exemption(request, path);
        if server.is_empty() || everywhere == Exemption::NotJudged {
            return everywhere;
        }
        let site = self.sites.iter().find(|(host, _)| host.matches(server));
        match site.map_or(Exemption::No, |(_, normal)| normal.exemption(request, path)) {
            Exemption::No => everywhere,
            of_site => of_site,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_text() {
        let check = |pattern: &str, path: &str, expected: bool| {
            let pattern = PathPattern::try_from(pattern.to_owned()).unwrap();
            assert_eq!(pattern.matches(path.as_bytes()), expected, "{pattern:?} {path}");
        };
        check("/health", "/health", true);
        check("/health", "/healthz", false);
        check("/tiles/*", "/tiles/1/2/3.png", true);
        check("/tiles/*", "/tile", false);
        check("/*.narinfo", "/abc.narinfo", true);
        check("/*.narinfo", "/abc.narinfo.bak", false);
        check("/a/*/b/*/c", "/a/1/b/2/c", true);
        check("/a/*/b/*/c", "/a/1/c", false);
        check("/a*a", "/a", false);
    }

    #[test]
    fn a_pattern_begins_with_a_slash() {
        let error = PathPattern::try_from("tiles/*".to_owned()).unwrap_err();
        assert!(error.to_string().contains("begins with"), "{error}");
    }

    #[test]
    fn what_covers_the_whole_site_is_refused() {
        for text in ["", "/", "*", "/*", "/**", "//*", "*/*"] {
            let error = PathPattern::try_from(text.to_owned()).unwrap_err();
            assert!(error.to_string().contains("blind"), "{text:?}: {error}");
        }
        assert!(PathPattern::try_from("/*.narinfo".to_owned()).is_ok());
    }

    #[test]
    fn a_name_is_the_sections_own_or_one_below_it() {
        let check = |host: &str, server: &str, expected: bool| {
            let host = ServerName::try_from(host.to_owned()).unwrap();
            assert_eq!(host.matches(server.as_bytes()), expected, "{host} {server}");
        };
        check("shop.example.org", "shop.example.org", true);
        check("shop.example.org", "SHOP.example.org", true);
        check("shop.example.org", "a.shop.example.org", false);
        check("*.example.org", "shop.example.org", true);
        check("*.example.org", "*.example.org", true);
        check("*.example.org", "example.org", false);
        check("*.example.org", ".example.org", false);
        check("*.example.org", "notexample.org", false);
        check("*.example.org", "org", false);
        for text in ["", "*", "*.", "a b", "https://a", "a:443", "a.*.org", "a/b"] {
            assert!(ServerName::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
