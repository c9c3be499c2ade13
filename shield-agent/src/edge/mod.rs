//! Bans for what stands in front of this host: lists that others poll or load, and Cloudflare's.
//!
//! `list` is what may be handed out, `format` its texts, `cloudflare` keeps a list there. Everything here reads a copy of the table that the enforcers work
//! from, never the engine.

pub(crate) mod cloudflare;
pub(crate) mod format;
pub(crate) mod list;
