//! Tries: requests that are harmless one by one and no target of their own, but each is one of many of a client that tries
//! something out: posts refused at one form (`forms.rs`), and numbers one after the other (`runs.rs`).

use crate::detect::forms::Forms;
use crate::detect::runs::Runs;
use crate::detect::stable_hash;
use crate::detect::trace::{Flags, Seen, Trace};
use crate::vocab::request::Request;

/// What is known of forms and runs.
#[derive(Default)]
pub(super) struct Tries {
    forms: Forms,
    runs: Runs,
}

impl Tries {
    /// Returns the trace of a post, or of a request that was not served, with what it weighs as one try of many.
    pub(super) fn weigh(
        &mut self,
        seen: &Seen<'_>,
        request: &Request<'_>,
        client: u64,
        second: u32,
    ) -> Trace {
        // Logins are judged by themselves, and targets that no page links to weigh more.
        const JUDGED: Flags = Flags::LOGIN
            .or(Flags::UNPROVEN_LOGIN)
            .or(Flags::REMOTE_CALL)
            .or(Flags::SHAPED)
            .or(Flags::NO_TARGET);
        let (trace, status) = (seen.trace, request.status);
        let is_own_answer = status >= 400 && !trace.flags.has(Flags::ERROR);
        if trace.flags.has(JUDGED) || is_own_answer {
            return trace;
        }
        if trace.flags.has(Flags::POST) {
            let path = stable_hash::of_text(seen.path);
            return match self.forms.answered(path, client, status, second) {
                0 => trace,
                weight => trace.tried(weight, path ^ u64::from(second)),
            };
        }
        if trace.flags.has(Flags::MISSED) || !matches!(request.method, b"GET" | b"HEAD") {
            return trace;
        }
        match self.runs.tried(seen.path, seen.query, client, status, second) {
            Some(tried) => trace.tried(tried.weight, tried.key),
            None => trace,
        }
    }
}
