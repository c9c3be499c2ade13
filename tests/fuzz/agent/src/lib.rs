//! Coverage-guided fuzz targets for what the agent reads besides log lines: its settings, lists for `import`, requests to its API,
//! and its own files after somebody else had them. As in `shield-fuzz`, each is a function of bytes that panics when a property
//! does not hold, and nothing here may depend on time, addresses or a random map.

pub mod audit;
pub mod bodies;
pub mod config;
pub mod database;
pub mod lists;
mod seeds;

pub use seeds::write as write_seeds;

/// Whether a person can read this in a terminal: what came from outside is named in messages, and must not steer it.
fn is_printable(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !c.is_control())
}
