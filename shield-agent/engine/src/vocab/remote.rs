//! What others say about clients: a fleet's hosts, blocklists, CrowdSec, each an origin. Statements only; `bans/remote.rs` decides what they are worth.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::vocab::client::Client;
use crate::vocab::verdict::Rule;

/// The way by which an origin's statements arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum OriginKind {
    /// Another host with Shield.
    Fleet,
    /// A list that is read by URL.
    Blocklist,
    /// CrowdSec's local API.
    Crowdsec,
}

impl OriginKind {
    const ALL: [OriginKind; 3] = [OriginKind::Fleet, OriginKind::Blocklist, OriginKind::Crowdsec];

    fn name(self) -> &'static str {
        match self {
            OriginKind::Fleet => "fleet",
            OriginKind::Blocklist => "blocklist",
            OriginKind::Crowdsec => "crowdsec",
        }
    }

    /// The rule of a ban that an origin of this kind wants.
    pub(crate) fn rule(self) -> Rule {
        match self {
            OriginKind::Fleet => Rule::Remote,
            OriginKind::Blocklist => Rule::Blocklist,
            OriginKind::Crowdsec => Rule::Crowdsec,
        }
    }
}

/// Who says something. The name is what the transport vouches for, never what a message says of itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Origin {
    kind: OriginKind,
    name: String,
}

impl Origin {
    /// The longest name.
    pub const MAX_NAME: usize = 64;

    /// `None` unless the name is 1 to 64 letters, digits, `-` and `_`.
    pub fn new(kind: OriginKind, name: &str) -> Option<Origin> {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        let is_good = (1..=Self::MAX_NAME).contains(&name.len()) && name.bytes().all(is_fit);
        is_good.then(|| Origin { kind, name: name.to_owned() })
    }

    /// The inverse of the text form.
    pub fn parse(text: &str) -> Option<Origin> {
        let (kind, name) = text.split_once(':')?;
        let kind = OriginKind::ALL.into_iter().find(|known| known.name() == kind)?;
        Origin::new(kind, name)
    }

    pub fn kind(&self) -> OriginKind {
        self.kind
    }

    pub fn name(&self) -> &str {
        &self.name
    }
}

/// `fleet:web-3`.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), self.name)
    }
}

/// Statements in the order of their arrival, which need not be that of their making.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Remote {
    pub statements: Vec<Statement>,
    /// Where the transport resumes after a restart, in its own encoding. Saved no sooner than what was said before it.
    pub position: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    pub origin: Origin,
    /// Grows with every statement of an origin, so that a late one never undoes a newer one. Milliseconds, but no clock is
    /// compared with it.
    pub stamp: u64,
    /// How far the origin's wall clock is ahead of this host's.
    pub ahead_ms: i64,
    /// How long ago it was made.
    pub age_ms: u64,
    /// It was made before this host connected: an older ban that is new here, not one of many new ones.
    pub is_replayed: bool,
    pub said: Said,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// The origin bans a client, or goes on banning it.
    Banned(RemoteBan),
    /// The origin no longer bans it, before its end.
    Withdrawn(Client),
    /// An operator lifted its ban, wherever it was made.
    Lifted {
        client: Client,
        /// The moment on the origin's wall clock, in milliseconds.
        at_ms: i64,
        /// The operator's words.
        note: Option<String>,
    },
    /// Every ban that the origin wants was stated with this stamp or a later one. The others are over, even where the
    /// statement that said so was lost.
    Complete {
        /// The number of these bans, so that whoever missed one knows.
        bans: u64,
    },
}

/// A ban as its origin states it. Times are on the origin's wall clock, in milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoteBan {
    pub client: Client,
    pub since_ms: i64,
    /// `None` for a permanent ban.
    pub ends_ms: Option<i64>,
    /// The grounds, in the origin's words.
    pub why: String,
    /// It speaks against the client, and is not enough for a ban: half the evidence is from now on.
    pub is_suspicion: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_its_text_again() {
        let origin = Origin::new(OriginKind::Fleet, "web-3_a").unwrap();
        assert_eq!(origin.to_string(), "fleet:web-3_a");
        assert_eq!(Origin::parse("fleet:web-3_a"), Some(origin));
        for kind in OriginKind::ALL {
            let origin = Origin::new(kind, "a").unwrap();
            assert_eq!(Origin::parse(&origin.to_string()), Some(origin));
        }
        for bad in ["fleet:", "fleet:a.b", "fleet:a b", "lan:web", "web", "fleet:é"] {
            assert_eq!(Origin::parse(bad), None, "{bad}");
        }
        assert_eq!(Origin::new(OriginKind::Fleet, &"a".repeat(65)), None);
    }
}
