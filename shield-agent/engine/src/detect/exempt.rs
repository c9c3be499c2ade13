//! What the operator says is normal here, for what cannot be learned in time: paths that are not judged, paths at which
//! refusals are expected, and clients that watch the site.

use std::fmt;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::vocab::request::Request;

/// A path as an operator writes it: it begins with `/`, and `*` stands for any text, slashes too.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PathPattern(String);

/// A text that is no [`PathPattern`].
#[derive(Debug)]
pub struct BadPattern(String);

impl fmt::Display for BadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no path: write one that begins with \"/\", with * for any text", self.0)
    }
}

impl TryFrom<String> for PathPattern {
    type Error = BadPattern;

    fn try_from(text: String) -> Result<PathPattern, BadPattern> {
        if text.starts_with('/') { Ok(PathPattern(text)) } else { Err(BadPattern(text)) }
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

    /// Whether a request for the path that is served is not judged.
    pub(crate) fn covers(&self, request: &Request<'_>, path: &[u8]) -> bool {
        let any = |patterns: &[PathPattern]| patterns.iter().any(|pattern| pattern.matches(path));
        self.monitors.iter().any(|network| network.contains(&request.addr))
            || any(&self.ignore_paths)
            || ((400..500).contains(&request.status) && any(&self.expected_misses))
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
        check("/*", "/", true);
    }

    #[test]
    fn a_pattern_begins_with_a_slash() {
        let error = PathPattern::try_from("tiles/*".to_owned()).unwrap_err();
        assert!(error.to_string().contains("begins with"), "{error}");
    }
}
