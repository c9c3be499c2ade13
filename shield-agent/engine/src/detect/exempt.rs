//! What the operator says is normal here, for what cannot be learned in time: paths that are not judged, paths at which
//! refusals are expected, and clients that watch the site.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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

/// The operator's exemptions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Exempt {
    ignore_paths: Vec<PathPattern>,
    expected_misses: Vec<PathPattern>,
    monitors: Vec<IpNet>,
}

impl Exempt {
    pub(crate) fn new(
        ignore_paths: &[PathPattern],
        expected_misses: &[PathPattern],
        monitors: &[IpNet],
    ) -> Option<Exempt> {
        let is_empty = ignore_paths.is_empty() && expected_misses.is_empty() && monitors.is_empty();
        (!is_empty).then(|| Exempt {
            ignore_paths: ignore_paths.to_vec(),
            expected_misses: expected_misses.to_vec(),
            monitors: monitors.to_vec(),
        })
    }

    /// How much of a request is judged; `path` is the one that is served.
    pub(crate) fn of(&self, request: &Request<'_>, path: &[u8]) -> Exemption {
        let any = |patterns: &[PathPattern]| patterns.iter().any(|pattern| pattern.matches(path));
        if self.monitors.iter().any(|network| network.contains(&request.addr)) || any(&self.ignore_paths) {
            Exemption::NotJudged
        } else if (400..500).contains(&request.status) && any(&self.expected_misses) {
            Exemption::ExpectedMiss
        } else {
            Exemption::No
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
}
