//! The part of the agent's `source` that reads lines: no files, no sockets.

#[path = "../../../shield-agent/src/source/format/mod.rs"]
#[allow(missing_docs, reason = "documented where it belongs")]
pub mod format;
#[path = "../../../shield-agent/src/source/stream.rs"]
#[expect(dead_code, reason = "its socket is not opened here")]
pub mod stream;
