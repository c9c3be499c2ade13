//! The operators' own rules, as the engine sees them: it asks, goes on, and takes the answer as an event.

use serde::{Deserialize, Serialize};

/// What is to become of a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PolicyAction {
    /// The verdict stands.
    Ban,
    /// Nothing is done, and that is announced.
    Observe,
    /// The client is slowed; where no client can be, as `Observe`.
    Slow,
}

/// For how long the rules want a client banned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum PolicyTerm {
    Secs(u64),
    Permanent,
}

/// What the rules say about a verdict. Kept with the ban that comes of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PolicyWord {
    pub action: PolicyAction,
    /// The term that they give; `None` for the ladder's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<PolicyTerm>,
    /// Their words: one line of bounded length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// The reason why they say nothing: then the action is the configured one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}
