//! The short way for a plain request: served by GET with 200, without a query, in the newest second, by a client that nothing
//! speaks against and that is far from every limit. Most requests of most sites are plain.
//!
//! It leaves out what cannot matter for such a request, and changes exactly what [`Detector::observe_at`] would. Where it
//! does not apply it changes nothing, and the request takes the long way. `tests/plain.rs` compares the two.

use crate::detect::activity::Activity;
use crate::detect::clients::{Clients, Prepared};
use crate::detect::detector::Detector;
use crate::detect::trace::{Flags, Trace};
use crate::vocab::time::EventSecs;

/// What is looked at of a request to find out whether it is plain.
pub(crate) struct Plain<'a> {
    pub(crate) method: &'a [u8],
    pub(crate) path: &'a [u8],
    pub(crate) status: u16,
    pub(crate) size: u64,
}

impl Detector {
    /// Counts a request of a client that is not banned, if it is plain. Returns whether it was: then the verdict is normal, and
    /// there is no doubt either.
    #[inline]
    pub(crate) fn count_plain(&mut self, asked: &Plain<'_>, second: EventSecs, prepared: &Prepared) -> bool {
        #[cfg(test)]
        if self.takes_long_way {
            return false;
        }
        if second != EventSecs::from(self.latest) || self.latest == 0 || self.exempt.is_some() {
            return false;
        }
        // The long way learns the client's last minute first.
        if self.ending.is_some() {
            return false;
        }
        let Some(trace) = self.tracer.see_plain(asked, prepared) else { return false };
        if self.is_scoring && self.scores.is_in_vain(&trace, asked.status, asked.size) {
            return false;
        }
        let generation = self.thresholds.prefilter().generation();
        if !self.clients.record_plain(prepared, self.latest, &trace, generation) {
            return false;
        }
        #[cfg(test)]
        {
            self.plain += 1;
        }
        self.late_run = 0;
        self.shown.add(self.latest, 0);
        self.teaching.add(self.latest, 0);
        if !trace.flags.has(Flags::ASSET) {
            self.paths.put(trace.key, asked.path);
        }
        true
    }
}

impl Clients {
    /// Counts a plain request as [`Clients::record`] does, if no rule can fire because of it and its client is not suspect.
    /// Otherwise nothing is changed.
    #[inline]
    fn record_plain(&mut self, prepared: &Prepared, second: u32, trace: &Trace, generation: u32) -> bool {
        let Some((record, activity)) = self.found(prepared) else { return false };
        match activity {
            Some(activity) => {
                if record.suspect_until > second || !activity.add_spared(second, trace, generation) {
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
    /// Counts a plain request if it is spared the comparison with the limits of `generation`.
    #[inline]
    fn add_spared(&mut self, second: u32, trace: &Trace, generation: u32) -> bool {
        // The spared requests include this one.
        if !self.is_spared_another(generation, second) {
            return false;
        }
        if !trace.flags.has(Flags::NOT_A_PAGE) && !self.hit_plain_target(second, trace) {
            return false;
        }
        self.window.add_plain(second, trace.flags.has(Flags::ASSET));
        self.spend_spared();
        true
    }
}
