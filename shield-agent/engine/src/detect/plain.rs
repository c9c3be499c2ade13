//! The short way for a plain request: served by GET with 200, without a query, in the newest second, by a client that nothing
//! speaks against and that is far from every limit. Most requests of most sites are plain.
//!
//! It leaves out what cannot matter for such a request, and changes exactly what [`Detector::observe_at`] would. Where it
//! does not apply it changes nothing, and the request takes the long way. `tests/plain.rs` compares the two.

use crate::detect::activity::Activity;
use crate::detect::clients::{Clients, Prepared};
use crate::detect::detector::Detector;
use crate::detect::prefilter::Prefilter;
use crate::detect::ring::ServerSecond;
use crate::detect::trace::{Flags, Trace};
use crate::vocab::client::Client;
use crate::vocab::request::{Batch, Line};
use crate::vocab::time::EventSecs;

/// What is looked at of a request to find out whether it is plain.
pub(crate) struct Plain<'a> {
    pub(crate) method: &'a [u8],
    pub(crate) path: &'a [u8],
    pub(crate) status: u16,
    pub(crate) size: u64,
}

impl Detector {
    /// Counts requests from the first on as long as they are plain and their client is not special: no ban, and no verdict that
    /// waits. Returns how many: the verdict of each is normal, and there is no doubt either.
    ///
    /// A loop of its own, small enough for the processor's registers.
    pub(crate) fn count_plain(
        &mut self,
        batch: &Batch,
        lines: &[Line],
        prepared: &[Prepared],
        second: EventSecs,
        is_special: impl Fn(Client) -> bool,
    ) -> usize {
        #[cfg(test)]
        if self.takes_long_way {
            return 0;
        }
        // While a minute is learned, the long way learns the client's part of it first.
        let takes_none = self.exempt.is_some() || self.ending.is_some();
        if takes_none || second != EventSecs::from(self.latest) || self.latest == 0 {
            return 0;
        }
        let (latest, is_scoring) = (self.latest, self.is_scoring);
        let Detector { tracer, scores, clients, paths, thresholds, .. } = self;
        let prefilter = thresholds.prefilter();
        let mut counted = 0;
        for (line, prepared) in lines.iter().zip(prepared) {
            let is_ordinary =
                line.time == second && line.status == 200 && line.peer_len == 0 && !line.salvaged;
            if !is_ordinary || is_special(prepared.client) {
                break;
            }
            let (method, path) = (batch.method_of(line), batch.path_of(line));
            let asked = Plain { method, path, status: line.status, size: line.size };
            let Some(trace) = tracer.see_plain(&asked, prepared) else { break };
            let is_in_vain = is_scoring && scores.is_in_vain(&trace, asked.status, asked.size);
            if is_in_vain || !clients.record_plain(prepared, latest, &trace, prefilter) {
                break;
            }
            if !trace.flags.has(Flags::ASSET) {
                paths.put(trace.key, path);
            }
            counted += 1;
        }
        if counted > 0 {
            self.count_served(counted as u32);
        }
        counted
    }

    /// Counts so many served requests of the newest second for the whole server.
    fn count_served(&mut self, requests: u32) {
        let served = ServerSecond { requests, errors: 0 };
        self.late_run = 0;
        self.shown.add_many(self.latest, served);
        self.teaching.add_many(self.latest, served);
        #[cfg(test)]
        {
            self.plain += u64::from(requests);
        }
    }
}

impl Clients {
    /// Counts a plain request as [`Clients::record`] does, if no rule can fire because of it and its client is not suspect.
    /// Otherwise nothing is counted.
    #[inline]
    fn record_plain(
        &mut self,
        prepared: &Prepared,
        second: u32,
        trace: &Trace,
        prefilter: &Prefilter,
    ) -> bool {
        let (record, activity) = self.record_of(prepared, second);
        match activity {
            Some(activity) => {
                if record.suspect_until > second || !activity.add_spared(second, trace, prefilter) {
                    return false;
                }
                record.last = record.last.max(second);
                true
            }
            None => record.add_light(second, trace),
        }
    }
}

impl Activity {
    /// Counts a plain request if it is spared the comparison with the limits.
    #[inline]
    fn add_spared(&mut self, second: u32, trace: &Trace, prefilter: &Prefilter) -> bool {
        // The spared requests include this one.
        if !self.is_spared_another(prefilter.generation(), second) && !self.spares_more(second, prefilter) {
            return false;
        }
        if !trace.flags.has(Flags::NOT_A_PAGE) && !self.hit_plain_target(second, trace) {
            return false;
        }
        self.window.add_plain(second, trace.flags.has(Flags::ASSET));
        self.spend_spared();
        true
    }

    /// Compares with the limits ahead of a plain request, once what is too old has left the window. Returns whether that spares
    /// the request. If not, the long way finds the same sums, and compares again.
    #[cold]
    #[inline(never)]
    fn spares_more(&mut self, second: u32, prefilter: &Prefilter) -> bool {
        self.expire(second);
        prefilter.screen(self, second);
        self.is_spared_another(prefilter.generation(), second)
    }
}
